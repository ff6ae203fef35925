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
COMPLETE = [name for name, room in MODULES.items() if room != "chain" or name == "trainer.chain.check"]


def run(name, known):
    """What the examples of a module's own docstring leave, after those of the whole module have run."""
    module, left = importlib.import_module(name), dict(known)
    runner = doctest.DocTestRunner()
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


def runs(thing):
    """Whether there is anything to show: not of a Protocol, nor of a class without a method of its own, a record."""
    if not isinstance(thing, type):
        return callable(thing)
    methods = [name for name in vars(thing) if name == "__call__" or not name.startswith("_")]
    return not getattr(thing, "_is_protocol", False) and any(callable(getattr(thing, name)) for name in methods)


@pytest.mark.parametrize("name", COMPLETE)
def test_every_public_class_and_function_has_an_example(name):
    own = {k: v for k, v in vars(importlib.import_module(name)).items() if getattr(v, "__module__", "") == name}
    assert [k for k, v in own.items() if not k.startswith("_") and runs(v) and ">>>" not in v.__doc__] == []
