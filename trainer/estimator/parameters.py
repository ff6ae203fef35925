"""The estimator's parameters, checked and turned into components."""

import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from trainer.errors import ConfigError, choose, listed, require


def _count(value: Any) -> bool:
    return isinstance(value, int | np.integer) and bool(value >= 1)


def _number(value: Any) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and bool(np.isfinite(value))


LIMITS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "C": (lambda c: (_number(c) and c > 0) or c == math.inf, "a number greater than 0"),
    "tol": (lambda tol: _number(tol) and tol > 0, "a finite number greater than 0"),
    "max_iter": (_count, "an integer of at least 1"),
    "n_iter_no_change": (_count, "an integer of at least 1"),
    "threads": (lambda n: n is None or _count(n), "None or an integer of at least 1"),
    "batch_size": (lambda n: n in (None, "auto") or _count(n), "None, 'auto' or an integer of at least 1"),
    "fit_intercept": (lambda flag: isinstance(flag, bool | np.bool_), "True or False"),
    "validation_fraction": (lambda share: _number(share) and 0 < share < 1, "greater than 0 and less than 1"),
    "label_smoothing": (lambda epsilon: _number(epsilon) and 0 <= epsilon < 1, "at least 0 and less than 1"),
    "class_weight": (
        lambda c: all(_number(v) and v >= 0 for v in c.values()) if isinstance(c, Mapping) else c in (None, "balanced"),
        "None, 'balanced' or {label: weight} with finite weights of at least 0",
    ),
}


def check_ranges(estimator: object) -> None:
    """Refuses a parameter by a sentence; scikit-learn wants this done in fit and not before.

    >>> check_ranges(SoftmaxRegression(C=-1.0))
    Traceback (most recent call last):
    trainer.errors.ConfigError: C must be a number greater than 0, got -1.0.
    """
    for name, (inside, words) in LIMITS.items():
        value = getattr(estimator, name)
        require(inside(value), f"{name} must be {words}, got {value!r}.")


def component(group: str, registry: Mapping[str, Any], choice: Any, **settings: Any) -> Any:
    """The instance, or the one that the registry has under a name, with those settings that it has fields for.

    >>> from trainer.optimizers import OPTIMIZERS
    >>> component("optimizer", OPTIMIZERS, "newton", tol=1e-3, lr=0.1)
    Newton(tol=0.001, gap=1e-06)
    """
    if isinstance(choice, str):
        cls = registry[choose(group, registry, choice)]
        return cls(**{f.name: settings[f.name] for f in fields(cls) if f.name in settings})
    if isinstance(choice, type) or not hasattr(choice, "name"):
        raise ConfigError(f"{group} must be a name or an instance, got {choice!r}. Names: {listed(registry)}.")
    return choice
