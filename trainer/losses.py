"""Losses: per sample, on predictions a (N,K) and target rows y (N,K), with the derivative dl_da.

Where ``value_log`` and ``grad_log`` exist, the same loss is stated on log a, with h = dl/dlog a: exact where a
underflows. ``accepts`` names the ranges of activations (see activations.RANGES) that the loss is defined on.
Nothing is clipped: a term with a zero target is zero by its limit, and the rest is computed as it stands.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from trainer.arrays import Array, namespace


class Loss(Protocol):
    """What every loss brings."""

    name: ClassVar[str]
    accepts: ClassVar[frozenset[str]]

    def value(self, a: Array, y: Array) -> Array:
        """loss (N,)."""

    def grad(self, a: Array, y: Array) -> Array:
        """dl_da (N,K)."""


@runtime_checkable
class LogLoss(Protocol):
    """A loss that can also be stated on log a."""

    def value_log(self, log_a: Array, y: Array) -> Array:
        """loss (N,)."""

    def grad_log(self, log_a: Array, y: Array) -> Array:
        """h = dl/dlog a (N,K)."""


def _row_sum(terms: Array) -> Array:
    return namespace(terms).sum(terms, axis=1)


def _where(condition: Array, then: Array) -> Array:
    """``then`` where the condition holds, else an exact zero."""
    return namespace(then).where(condition, then, 0.0)


def residual(a: Array, one_minus_a: Array, y: Array) -> Array:
    """a - y (N,K) as a (1 - y) - y (1 - a): on 0/1 targets nothing cancels."""
    return a * (1 - y) - y * one_minus_a


def _residual_log(log_a: Array, y: Array) -> Array:
    xp = namespace(log_a)
    return residual(xp.exp(log_a), -xp.expm1(log_a), y)


@dataclass(frozen=True)
class CrossEntropy:
    """-sum_k y_k log a_k for each row.  a (N,K) in the open simplex, y (N,K) >= 0 of any row sum."""

    name: ClassVar[str] = "ce"
    accepts: ClassVar[frozenset[str]] = frozenset({"simplex"})

    def value(self, a: Array, y: Array) -> Array:
        return self.value_log(namespace(a).log(a), y)

    def grad(self, a: Array, y: Array) -> Array:
        return _where(y > 0, -y / a)

    def value_log(self, log_a: Array, y: Array) -> Array:
        return -_row_sum(_where(y > 0, y * log_a))

    def grad_log(self, log_a: Array, y: Array) -> Array:
        return -y


@dataclass(frozen=True)
class NegativeLogLikelihood:
    """-sum_k y_k a_k for each row, where a (N,K) are log-probabilities already; y (N,K) >= 0."""

    name: ClassVar[str] = "nll"
    accepts: ClassVar[frozenset[str]] = frozenset({"log_simplex"})

    def value(self, a: Array, y: Array) -> Array:
        return -_row_sum(_where(y > 0, y * a))

    def grad(self, a: Array, y: Array) -> Array:
        return -y


@dataclass(frozen=True)
class BinaryCrossEntropy:
    """-sum_k y_k log a_k + (1 - y_k) log(1 - a_k) for each row: K yes-or-no questions.  a (N,K), y (N,K) in [0, 1]."""

    name: ClassVar[str] = "bce"
    accepts: ClassVar[frozenset[str]] = frozenset({"unit", "simplex"})

    def value(self, a: Array, y: Array) -> Array:
        xp = namespace(a)
        return -_row_sum(_where(y > 0, y * xp.log(a)) + _where(y != 1, (1 - y) * xp.log1p(-a)))

    def grad(self, a: Array, y: Array) -> Array:
        return _where(y != 1, (1 - y) / (1 - a)) - _where(y > 0, y / a)

    def value_log(self, log_a: Array, y: Array) -> Array:
        xp = namespace(log_a)
        yes = _where(y > 0, y * log_a)
        return -_row_sum(yes + _where(y != 1, (1 - y) * xp.log(-xp.expm1(log_a))))

    def grad_log(self, log_a: Array, y: Array) -> Array:
        xp = namespace(log_a)
        return _where(y != 1, (1 - y) * xp.exp(log_a) / -xp.expm1(log_a)) - y


@dataclass(frozen=True)
class Brier:
    """sum_k (a_k - y_k)^2 for each row, the factor one as in Brier's score.  a (N,K) probabilities, y (N,K) >= 0."""

    name: ClassVar[str] = "brier"
    accepts: ClassVar[frozenset[str]] = frozenset({"simplex", "unit"})

    def value(self, a: Array, y: Array) -> Array:
        return _row_sum((a - y) ** 2)

    def grad(self, a: Array, y: Array) -> Array:
        return 2 * (a - y)

    def value_log(self, log_a: Array, y: Array) -> Array:
        return _row_sum(_residual_log(log_a, y) ** 2)

    def grad_log(self, log_a: Array, y: Array) -> Array:
        return 2 * namespace(log_a).exp(log_a) * _residual_log(log_a, y)


@dataclass(frozen=True)
class SquaredError:
    """1/2 sum_k (a_k - y_k)^2 for each row: least squares.  a (N,K) real, y (N,K)."""

    name: ClassVar[str] = "squared_error"
    accepts: ClassVar[frozenset[str]] = frozenset({"simplex", "unit", "real"})

    def value(self, a: Array, y: Array) -> Array:
        return _row_sum((a - y) ** 2) / 2

    def grad(self, a: Array, y: Array) -> Array:
        return a - y

    def value_log(self, log_a: Array, y: Array) -> Array:
        return _row_sum(_residual_log(log_a, y) ** 2) / 2

    def grad_log(self, log_a: Array, y: Array) -> Array:
        return namespace(log_a).exp(log_a) * _residual_log(log_a, y)


LOSSES: dict[str, type[Loss]] = {
    cls.name: cls for cls in (CrossEntropy, NegativeLogLikelihood, BinaryCrossEntropy, Brier, SquaredError)
}
