"""The examples in the docstrings of the chain rule run, and print what they say."""

import doctest
import importlib
import pkgutil

import numpy as np
import pytest

import trainer.arrays
import trainer.chain
from trainer.chain.activations import ACTIVATIONS
from trainer.chain.losses import LOSSES

MODULES = ["trainer.arrays", *(m.name for m in pkgutil.walk_packages(trainer.chain.__path__, "trainer.chain."))]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_run(name):
    assert doctest.testmod(importlib.import_module(name), extraglobs={"np": np}).failed == 0


@pytest.mark.parametrize("cls", [*ACTIVATIONS.values(), *LOSSES.values()])
def test_every_part_shows_itself(cls):
    assert f">>> {cls.__name__}(" in cls.__doc__
