"""Losses of the distance r = a - y alone: each states its value and its derivative by r, the rest follows."""

from dataclasses import dataclass
from typing import ClassVar, Protocol

from trainer.arrays import Array, namespace, row_sum


def residual(a: Array, one_minus_a: Array, y: Array) -> Array:
    """a - y (N,K) as a (1 - y) - y (1 - a): on 0/1 targets nothing cancels.

    >>> residual(np.array([1.0, 1e-20]), np.array([1e-20, 1.0]), np.array([1.0, 0.0]))
    array([-1.e-20,  1.e-20])
    """
    return a * (1 - y) - y * one_minus_a


def residual_log(log_a: Array, y: Array) -> Array:
    """a - y (N,K) from log a, as exact as log a is.

    >>> residual_log(np.array([-1e-20, -46.0]), np.array([1.0, 0.0]))
    array([-1.00000000e-20,  1.05306174e-20])
    """
    xp = namespace(log_a)
    return residual(xp.exp(log_a), -xp.expm1(log_a), y)


class _Distance(Protocol):
    """A loss of the residual r = a - y alone."""

    def of_residual(self, r: Array) -> tuple[Array, Array]:
        """The loss (N,) of r (N,K), and its derivative by r (N,K)."""

    def value(self, a: Array, y: Array) -> Array:
        return self.of_residual(a - y)[0]

    def grad(self, a: Array, y: Array) -> Array:
        return self.of_residual(a - y)[1]

    def value_log(self, log_a: Array, y: Array) -> Array:
        return self.of_residual(residual_log(log_a, y))[0]

    def grad_log(self, log_a: Array, y: Array) -> Array:
        return namespace(log_a).exp(log_a) * self.of_residual(residual_log(log_a, y))[1]


@dataclass(frozen=True)
class Brier(_Distance):
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


@dataclass(frozen=True)
class SquaredError(_Distance):
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


@dataclass(frozen=True)
class MeanAbsoluteError(_Distance):
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

    def grad_log(self, log_a: Array, y: Array) -> Array:
        xp = namespace(log_a)
        # less a itself, a multiple of a as it may be: what is left of one-hot rows is exactly zero but at the target
        return xp.exp(log_a) * (xp.sign(residual_log(log_a, y)) - 1)
