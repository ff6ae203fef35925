"""The examples in the docstrings run, and print what they say; what that of a room makes, the whole room knows."""

import doctest
import importlib
import pkgutil

import numpy as np
import pytest

from trainer.chain.activations import ACTIVATIONS
from trainer.chain.losses import LOSSES


def modules_of(room):
    return [room, *(m.name for m in pkgutil.walk_packages(importlib.import_module(room).__path__, f"{room}."))]


MODULES = {name: room for room in ("chain", "optimizers", "estimator") for name in modules_of(f"trainer.{room}")}
MODULES |= dict.fromkeys(("trainer.objective.refusals", "trainer.runs.callbacks.gradient_check"), "chain")  # its parts


def run(name, known):
    """What the examples of a module's own docstring leave, after those of the whole module have run."""
    module, left = importlib.import_module(name), dict(known)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)  # for sentences that are longer than a line
    for test in doctest.DocTestFinder().find(module, globs={**known, **vars(module)}):
        runner.run(test, clear_globs=False)
        left |= test.globs if test.name == name else {}
    assert runner.failures == 0
    return left


@pytest.mark.parametrize("name", ["trainer.arrays", *MODULES])
def test_the_examples_of_a_module_run(name):
    room = MODULES.get(name)
    run(name, run(f"trainer.{room}", {"np": np}) if room else {"np": np})


@pytest.mark.parametrize("cls", [*ACTIVATIONS.values(), *LOSSES.values()])
def test_every_part_shows_itself(cls):
    assert f">>> {cls.__name__}(" in cls.__doc__


@pytest.mark.parametrize("name", MODULES)
def test_every_public_class_and_function_has_an_example(name):
    """Protocols and records, too; a name that needs none is private."""
    own = {k: v for k, v in vars(importlib.import_module(name)).items() if getattr(v, "__module__", "") == name}
    assert [k for k, v in own.items() if not k.startswith("_") and callable(v) and ">>>" not in (v.__doc__ or "")] == []
