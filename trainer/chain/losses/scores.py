"""Scoring rules and distances: losses made of powers of predictions."""

import math
from dataclasses import dataclass
from typing import ClassVar

from trainer.arrays import Array, namespace
from trainer.chain.losses.base import residual_log, row_sum
from trainer.errors import require


@dataclass(frozen=True)
class Brier:
    """sum_k (a_k - y_k)^2 for each row, the factor one as in Brier's score.  a (N,K) probabilities, y (N,K) >= 0."""

    name: ClassVar[str] = "brier"
    accepts: ClassVar[frozenset[str]] = frozenset({"simplex", "sparse_simplex", "unit"})
    targets: ClassVar[str] = "any"
    proper: ClassVar[bool] = True
    bounded: ClassVar[bool] = True

    def value(self, a: Array, y: Array) -> Array:
        return row_sum((a - y) ** 2)

    def grad(self, a: Array, y: Array) -> Array:
        return 2 * (a - y)

    def value_log(self, log_a: Array, y: Array) -> Array:
        return row_sum(residual_log(log_a, y) ** 2)

    def grad_log(self, log_a: Array, y: Array) -> Array:
        return 2 * namespace(log_a).exp(log_a) * residual_log(log_a, y)


@dataclass(frozen=True)
class SquaredError:
    """1/2 sum_k (a_k - y_k)^2 for each row: least squares.  a (N,K) real, y (N,K)."""

    name: ClassVar[str] = "squared_error"
    accepts: ClassVar[frozenset[str]] = frozenset({"simplex", "sparse_simplex", "unit", "signed_unit", "real"})
    targets: ClassVar[str] = "any"
    entropy: ClassVar[str] = "squares"
    proper: ClassVar[bool] = True
    bounded: ClassVar[bool] = True

    def value(self, a: Array, y: Array) -> Array:
        return row_sum((a - y) ** 2) / 2

    def grad(self, a: Array, y: Array) -> Array:
        return a - y

    def value_log(self, log_a: Array, y: Array) -> Array:
        return row_sum(residual_log(log_a, y) ** 2) / 2

    def grad_log(self, log_a: Array, y: Array) -> Array:
        return namespace(log_a).exp(log_a) * residual_log(log_a, y)


@dataclass(frozen=True)
class MeanAbsoluteError:
    """sum_k |a_k - y_k| for each row; at the kink a_k = y_k the subgradient is zero.  a (N,K) real, y (N,K)."""

    name: ClassVar[str] = "mae"
    accepts: ClassVar[frozenset[str]] = frozenset({"simplex", "sparse_simplex", "unit", "signed_unit", "real"})
    targets: ClassVar[str] = "any"
    bounded: ClassVar[bool] = True
    convex_with: ClassVar[frozenset[str]] = frozenset({"squares"})
    kinks: ClassVar[str] = "targets"

    def value(self, a: Array, y: Array) -> Array:
        return row_sum(namespace(a).abs(a - y))

    def grad(self, a: Array, y: Array) -> Array:
        return namespace(a).sign(a - y)

    def value_log(self, log_a: Array, y: Array) -> Array:
        return row_sum(namespace(log_a).abs(residual_log(log_a, y)))

    def grad_log(self, log_a: Array, y: Array) -> Array:
        xp = namespace(log_a)
        # less a itself, a multiple of a as it may be: what is left of one-hot rows is exactly zero but at the target
        return xp.exp(log_a) * (xp.sign(residual_log(log_a, y)) - 1)


@dataclass(frozen=True)
class Tsallis:
    """sum_k y_k^alpha/(alpha(alpha-1)) - y_k a_k^(alpha-1)/(alpha-1) + a_k^alpha/alpha for each row.

    The Bregman divergence of Tsallis' entropy, zero at a = y: alpha = 2 is half of brier, alpha -> 1 is kl on rows that
    sum to one.  a (N,K) in the open simplex, y (N,K) >= 0, alpha > 1.
    """

    name: ClassVar[str] = "tsallis"
    accepts: ClassVar[frozenset[str]] = frozenset({"simplex"})
    targets: ClassVar[str] = "any"
    proper: ClassVar[bool] = True
    bounded: ClassVar[bool] = True
    alpha: float = 1.5

    def __post_init__(self) -> None:
        require(1 < self.alpha < math.inf, f"loss.alpha must be finite and greater than 1, got {self.alpha}.")

    def value(self, a: Array, y: Array) -> Array:
        n = self.alpha
        return row_sum(y**n / (n * (n - 1)) - y * a ** (n - 1) / (n - 1) + a**n / n)

    def grad(self, a: Array, y: Array) -> Array:
        return a ** (self.alpha - 2) * (a - y)

    def value_log(self, log_a: Array, y: Array) -> Array:
        return self.value(namespace(log_a).exp(log_a), y)

    def grad_log(self, log_a: Array, y: Array) -> Array:
        return namespace(log_a).exp((self.alpha - 1) * log_a) * residual_log(log_a, y)


@dataclass(frozen=True)
class SphericalScore:
    """1 - <y, a> / |a|_2 for each row, the spherical scoring rule.  a (N,K) in the simplex, y (N,K) >= 0."""

    name: ClassVar[str] = "spherical_score"
    accepts: ClassVar[frozenset[str]] = frozenset({"simplex", "sparse_simplex"})
    targets: ClassVar[str] = "any"
    proper: ClassVar[bool] = True
    bounded: ClassVar[bool] = True

    def value(self, a: Array, y: Array) -> Array:
        return 1 - row_sum(y * a) / namespace(a).sqrt(row_sum(a * a))

    def grad(self, a: Array, y: Array) -> Array:
        size = namespace(a).sqrt(row_sum(a * a))[:, None]
        return (row_sum(y * a)[:, None] * a / size**2 - y) / size

    def value_log(self, log_a: Array, y: Array) -> Array:
        return self.value(namespace(log_a).exp(log_a), y)

    def grad_log(self, log_a: Array, y: Array) -> Array:
        a = namespace(log_a).exp(log_a)
        return a * self.grad(a, y)
