"""Penalties on the weights w[:-1]; the bias row is never penalised.

Every one of them is a sum of two shares,

    penalty(w) = ridge/2 |w[:-1]|_2^2 + lasso |w[:-1]|_1,

a smooth one, which every optimiser takes as a part of the gradient, and one with a corner at zero, which sets weights
exactly to zero and which only a proximal optimiser takes (trainer.optimizers.proximal). So ``value`` has both shares
and ``grad`` the first alone.

A strength may be a list: the regularisation path of runs.path, one fit for each number. ``expand`` makes one penalty
of each, and only such a single penalty is a part of an objective.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import numpy as np

from trainer.arrays import Array, as_type, namespace
from trainer.errors import require


class Penalty(Protocol):
    """What is added to the mean loss, as a function of the parameters w (D+1,K)."""

    name: ClassVar[str]

    @property
    def ridge(self) -> float: ...

    @property
    def lasso(self) -> float: ...

    def value(self, w: Array) -> Any:
        """The penalty's share of the objective, ridge/2 |w[:-1]|_2^2 + lasso |w[:-1]|_1, for each model of a stack."""

    def grad(self, w: Array) -> Array:
        """The derivative (D+1,K) of the smooth share alone: ridge * w[:-1], and a last row of zeros."""


@dataclass(frozen=True)
class NoPenalty:
    """Zero."""

    name: ClassVar[str] = "none"
    ridge: ClassVar[float] = 0.0
    lasso: ClassVar[float] = 0.0

    def value(self, w: Array) -> Any:
        return 0.0

    def grad(self, w: Array) -> Array:
        result: Array = namespace(w).zeros_like(w)
        return result


@dataclass(frozen=True)
class _WithStrength:
    """strength * (l1_ratio |w|_1 + (1 - l1_ratio)/2 |w|_2^2); C is 1 / (strength * sum of the sample weights)."""

    strength: float | list[float] = 1e-3
    l1_ratio: ClassVar[float]

    def __post_init__(self) -> None:
        _check_strength(self.strength)

    @property
    def ridge(self) -> float:
        return _single(self.strength) * (1 - self.l1_ratio)

    @property
    def lasso(self) -> float:
        return _single(self.strength) * self.l1_ratio

    def value(self, w: Array) -> Any:
        xp, weights = namespace(w), as_type(w[..., :-1, :], np.float64)
        value = self.ridge / 2 * xp.sum(weights**2, axis=(-2, -1)) if self.ridge else 0.0
        return value + self.lasso * xp.sum(xp.abs(weights), axis=(-2, -1)) if self.lasso else value

    def grad(self, w: Array) -> Array:
        return ridge_slope(self.ridge, w)


@dataclass(frozen=True)
class L2(_WithStrength):
    """strength/2 * sum of the squared weights; scikit-learn's C is 1 / (strength * sum of the sample weights)."""

    name: ClassVar[str] = "l2"
    l1_ratio: ClassVar[float] = 0.0


@dataclass(frozen=True)
class L1(_WithStrength):
    """strength * sum of the absolute weights; scikit-learn's C is 1 / (strength * sum of the sample weights)."""

    name: ClassVar[str] = "l1"
    l1_ratio: ClassVar[float] = 1.0


@dataclass(frozen=True)
class ElasticNet(_WithStrength):
    """strength * (l1_ratio |w|_1 + (1 - l1_ratio)/2 |w|_2^2): l1_ratio 0 is l2 and 1 is l1, as in scikit-learn.

    Zou & Hastie 2005; scikit-learn's C is 1 / (strength * sum of the sample weights).
    """

    name: ClassVar[str] = "elastic_net"
    l1_ratio: float = 0.5  # type: ignore[misc]

    def __post_init__(self) -> None:
        super().__post_init__()
        ok = 0 <= self.l1_ratio <= 1
        require(ok, f"penalty.l1_ratio must be at least 0 (all l2) and at most 1 (all l1), got {self.l1_ratio}.")


PENALTIES: dict[str, type[Penalty]] = {cls.name: cls for cls in (NoPenalty, L1, L2, ElasticNet)}


def strengths(penalty: Penalty) -> list[float] | None:
    """The strengths of a regularisation path as they were given, or None where the penalty is a single one."""
    strength: Any = getattr(penalty, "strength", None)
    return [float(value) for value in strength] if isinstance(strength, list) else None


def expand(penalty: Penalty) -> list[Penalty]:
    """One penalty for each strength, from the strongest to the weakest; a single penalty stands alone."""
    path = strengths(penalty)
    if path is None:
        return [penalty]
    return [replace(penalty, strength=strength) for strength in sorted(path, reverse=True)]  # type: ignore[type-var]


def subgradient(w: Array, gradient: Array, lasso: Any) -> Array:
    """The subgradient of f + lasso |w[:-1]|_1 of smallest norm (D+1,K), from f's gradient; zero at the minimum of both.

    It is the gradient where lasso, one number or one a weight (D,1), is zero. Where a weight is zero, |w| offers any
    slope of [-1, 1].
    """
    if not np.any(lasso):
        return gradient
    weights, slopes = w[:-1], gradient[:-1]
    inside = slopes - np.clip(slopes, -lasso, lasso)
    return np.concatenate([np.where(weights == 0, inside, slopes + lasso * np.sign(weights)), gradient[-1:]])


def _check_strength(strength: float | list[float]) -> None:
    """ConfigError for what is neither a finite number of at least 0 nor a list of different ones."""
    if not isinstance(strength, list):
        ok = 0 <= strength < math.inf
        require(ok, f"penalty.strength must be finite and at least 0, got {strength}.")
        return
    require(
        bool(strength),
        "penalty.strength=[] is a path without any strength. Give it numbers, such as penalty.strength=[1,0.1,0.01].",
    )
    for value in strength:
        ok = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf
        require(ok, f"penalty.strength must be finite and at least 0 all along the path, got {value!r}.")
    for value in strength:
        count = strength.count(value)
        require(count == 1, f"penalty.strength={strength} has {value} {count} times; leave the repetitions out.")


def _single(strength: float | list[float]) -> float:
    if isinstance(strength, list):  # a mistake of the program, never of its user
        raise TypeError(f"A penalty of the path {strength} is no part of an objective; take one of expand(penalty).")
    return strength


def ridge_slope(ridge: Any, w: Array) -> Array:
    """The derivative of ridge/2 |w[:-1]|_2^2, for one number or for one a model of a stack (M,1,1)."""
    xp = namespace(w)
    result: Array = xp.concat([ridge * w[..., :-1, :], xp.zeros_like(w[..., -1:, :])], axis=-2)
    return result
