"""Losses of the distance r = a - y alone: each states its value and its derivative by r, the rest follows."""

from dataclasses import dataclass
from typing import ClassVar, Protocol

from trainer.arrays import Array, namespace
from trainer.chain.losses.base import residual_log, row_sum


class Distance(Protocol):
    """A loss of the residual alone."""

    def of_residual(self, r: Array) -> tuple[Array, Array]:
        """The loss (N,) of r = a - y (N,K), and its derivative by r (N,K)."""


def _value(self: Distance, a: Array, y: Array) -> Array:
    return self.of_residual(a - y)[0]


def _grad(self: Distance, a: Array, y: Array) -> Array:
    return self.of_residual(a - y)[1]


def _value_log(self: Distance, log_a: Array, y: Array) -> Array:
    return self.of_residual(residual_log(log_a, y))[0]


def _grad_log(self: Distance, log_a: Array, y: Array) -> Array:
    return namespace(log_a).exp(log_a) * self.of_residual(residual_log(log_a, y))[1]


@dataclass(frozen=True)
class Brier:
    """sum_k (a_k - y_k)^2 for each row, the factor one as in Brier's score.  a (N,K) probabilities, y (N,K) >= 0.

    >>> Brier().value(np.array([0.8, 0.2]), np.array([0.0, 1.0])).round(3)
    np.float64(1.28)
    """

    name: ClassVar[str] = "brier"
    accepts: ClassVar[frozenset[str]] = frozenset({"simplex", "sparse_simplex", "unit"})
    targets: ClassVar[str] = "any"
    proper: ClassVar[bool] = True
    bounded: ClassVar[bool] = True

    def of_residual(self, r: Array) -> tuple[Array, Array]:
        return row_sum(r * r), 2 * r

    value = _value
    grad = _grad
    value_log = _value_log
    grad_log = _grad_log


@dataclass(frozen=True)
class SquaredError:
    """1/2 sum_k (a_k - y_k)^2 for each row: least squares.  a (N,K) real, y (N,K).

    >>> SquaredError().value(np.array([0.8, 0.2]), np.array([0.0, 1.0])).round(3)
    np.float64(0.64)
    """

    name: ClassVar[str] = "squared_error"
    accepts: ClassVar[frozenset[str]] = frozenset({"simplex", "sparse_simplex", "unit", "signed_unit", "real"})
    targets: ClassVar[str] = "any"
    entropy: ClassVar[str] = "squares"
    proper: ClassVar[bool] = True
    bounded: ClassVar[bool] = True

    def of_residual(self, r: Array) -> tuple[Array, Array]:
        return row_sum(r * r) / 2, r

    value = _value
    grad = _grad
    value_log = _value_log
    grad_log = _grad_log


@dataclass(frozen=True)
class MeanAbsoluteError:
    """sum_k |a_k - y_k| for each row; at the kink a_k = y_k the subgradient is zero.  a (N,K) real, y (N,K).

    >>> MeanAbsoluteError().value(np.array([0.8, 0.2]), np.array([0.0, 1.0])).round(3)
    np.float64(1.6)
    """

    name: ClassVar[str] = "mae"
    accepts: ClassVar[frozenset[str]] = frozenset({"simplex", "sparse_simplex", "unit", "signed_unit", "real"})
    targets: ClassVar[str] = "any"
    bounded: ClassVar[bool] = True
    convex_with: ClassVar[frozenset[str]] = frozenset({"squares"})
    kinks: ClassVar[str] = "targets"

    def of_residual(self, r: Array) -> tuple[Array, Array]:
        xp = namespace(r)
        return row_sum(xp.abs(r)), xp.sign(r)

    value = _value
    grad = _grad
    value_log = _value_log

    def grad_log(self, log_a: Array, y: Array) -> Array:
        xp = namespace(log_a)
        # less a itself, a multiple of a as it may be: what is left of one-hot rows is exactly zero but at the target
        return xp.exp(log_a) * (xp.sign(residual_log(log_a, y)) - 1)
