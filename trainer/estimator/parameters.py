"""The estimator's parameters, checked and turned into components."""

import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from trainer.errors import ConfigError, choose, listed, require
from trainer.objective.penalties import L1, L2, PENALTIES, ElasticNet, Penalty
from trainer.objective.threads import available_cores
from trainer.optimizers.choosing import RULES


def _whole(value: Any) -> bool:
    return isinstance(value, int | np.integer)


def _count(value: Any) -> bool:
    return _whole(value) and bool(value >= 1)


def _number(value: Any) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and bool(np.isfinite(value))


def _strength(c: Any) -> bool:
    return c == math.inf or (_number(c) and bool(c > 0))


def _strengths(values: Any) -> bool:
    if _whole(values):
        return _count(values)
    return isinstance(values, list | tuple | np.ndarray) and len(values) > 0 and all(map(_strength, np.ravel(values)))


LIMITS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "Cs": (_strengths, "an integer of at least 1 or a list of numbers greater than 0"),
    "rule": (lambda rule: rule in RULES, " or ".join(map(repr, RULES))),
    "refit": (lambda flag: isinstance(flag, bool | np.bool_), "True or False"),
    "C": (_strength, "a number greater than 0"),
    "l1_ratio": (lambda r: r is None or (_number(r) and 0 <= r <= 1), "None or a number from 0 to 1"),
    "tol": (lambda tol: _number(tol) and tol > 0, "a finite number greater than 0"),
    "max_iter": (_count, "an integer of at least 1"),
    "n_iter_no_change": (_count, "an integer of at least 1"),
    "threads": (lambda n: n is None or _count(n), "None or an integer of at least 1"),
    "device": (lambda name: isinstance(name, str), "a name such as 'cpu' or 'torch:cuda:0'"),
    "n_jobs": (lambda n: n is None or (_whole(n) and n != 0), "None or an integer other than 0"),
    "verbose": (lambda n: _whole(n) and n >= 0, "an integer of at least 0"),
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
        if hasattr(estimator, name):  # not every estimator has all of them
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


def penalty_of(penalty: Any, l1_ratio: float | None, strength: float) -> Penalty:
    """The penalty by its name, ours or scikit-learn's, or by its share of |w|_1; an instance has a strength of its own.

    >>> penalty_of("l2", 1.0, 0.1), penalty_of("elasticnet", 0.2, 0.1), penalty_of(None, None, 0.1)
    (L1(strength=0.1), ElasticNet(strength=0.1, l1_ratio=0.2), NoPenalty())
    """
    name = "none" if penalty is None else penalty
    name = "elastic_net" if isinstance(name, str) and name == "elasticnet" else name
    if l1_ratio is None:
        chosen: Penalty = component("penalty", PENALTIES, name, strength=strength)
        return chosen
    if not isinstance(name, str) or (name not in ("l2", "elastic_net") and (name, l1_ratio) != ("l1", 1)):
        raise ConfigError(
            f"l1_ratio={l1_ratio} says which penalty it is, and so does penalty={penalty!r}. Leave one of them out."
        )
    kinds: dict[float, Penalty] = {0.0: L2(strength), 1.0: L1(strength)}
    return kinds.get(float(l1_ratio)) or ElasticNet(strength, float(l1_ratio))


def threads_of(threads: int | None, n_jobs: int | None) -> int:
    """The number of threads by either of its names; a negative n_jobs counts down from all cores, as in joblib.

    >>> threads_of(None, 3), threads_of(2, None), threads_of(None, -1) == available_cores()
    (3, 2, True)
    """
    if n_jobs is None:
        return threads or available_cores()
    if threads is not None:
        raise ConfigError(f"threads={threads} and n_jobs={n_jobs} are the same setting. Leave one of them out.")
    return n_jobs if n_jobs > 0 else max(1, available_cores() + 1 + n_jobs)
