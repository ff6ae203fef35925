"""Losses that are the logarithm of what a label was predicted with: cross-entropy and its kin."""

from dataclasses import dataclass
from typing import ClassVar, Protocol

from trainer.arrays import Array, namespace, row_sum, where


class _OfLogA(Protocol):
    """-sum_k y_k log a_k, and beside it what depends on y alone and has no share in any derivative."""

    accepts: ClassVar[frozenset[str]] = frozenset({"simplex"})
    targets: ClassVar[str] = "any"
    entropy: ClassVar[str] = "shannon"
    proper: ClassVar[bool] = True

    def value_log(self, log_a: Array, y: Array) -> Array:
        """loss (N,)."""

    def value(self, a: Array, y: Array) -> Array:
        return self.value_log(namespace(a).log(a), y)

    def grad(self, a: Array, y: Array) -> Array:
        return where(y > 0, -y / a)

    def grad_log(self, log_a: Array, y: Array) -> Array:
        return -y


@dataclass(frozen=True)
class CrossEntropy(_OfLogA):
    """-sum_k y_k log a_k for each row.  a (N,K) in the open simplex, y (N,K) >= 0 of any row sum.

    >>> CrossEntropy().value(np.array([0.8, 0.2]), np.array([0.0, 1.0])).round(3)
    np.float64(1.609)
    """

    name: ClassVar[str] = "ce"

    def value_log(self, log_a: Array, y: Array) -> Array:
        return -row_sum(where(y > 0, y * log_a))


@dataclass(frozen=True)
class KullbackLeibler(_OfLogA):
    """sum_k y_k log(y_k / a_k) for each row: ce less the entropy of y.  a (N,K) in the open simplex, y (N,K) >= 0.

    >>> KullbackLeibler().value(np.array([0.8, 0.2]), np.array([0.0, 1.0])).round(3)
    np.float64(1.609)
    """

    name: ClassVar[str] = "kl"

    def value_log(self, log_a: Array, y: Array) -> Array:
        xp = namespace(log_a)
        return row_sum(where(y > 0, y * (xp.log(xp.where(y > 0, y, 1.0)) - log_a)))


@dataclass(frozen=True)
class NegativeLogLikelihood:
    """-sum_k y_k a_k for each row, where a (N,K) are log-probabilities already; y (N,K) >= 0.

    >>> NegativeLogLikelihood().value(np.array([-0.2, -1.6]), np.array([0.0, 1.0])).round(3)
    np.float64(1.6)
    """

    name: ClassVar[str] = "nll"
    accepts: ClassVar[frozenset[str]] = frozenset({"log_simplex"})
    targets: ClassVar[str] = "any"
    entropy: ClassVar[str] = "shannon"
    proper: ClassVar[bool] = True

    def value(self, a: Array, y: Array) -> Array:
        return -row_sum(where(y > 0, y * a))

    def grad(self, a: Array, y: Array) -> Array:
        return -y


@dataclass(frozen=True)
class BinaryCrossEntropy:
    """-sum_k y_k log a_k + (1 - y_k) log(1 - a_k) for each row: K yes-or-no questions.  a (N,K), y (N,K) in [0, 1].

    >>> BinaryCrossEntropy().value(np.array([0.8, 0.2]), np.array([0.0, 1.0])).round(3)
    np.float64(3.219)
    """

    name: ClassVar[str] = "bce"
    accepts: ClassVar[frozenset[str]] = frozenset({"unit", "simplex"})
    targets: ClassVar[str] = "unit"
    entropy: ClassVar[str] = "binary"
    proper: ClassVar[bool] = True
    log_exact: ClassVar[bool] = False  # 1 - a, the sum of the others, is not in log a where a rounds to one

    def value(self, a: Array, y: Array) -> Array:
        xp = namespace(a)
        return -row_sum(where(y > 0, y * xp.log(a)) + where(y != 1, (1 - y) * xp.log1p(-a)))

    def grad(self, a: Array, y: Array) -> Array:
        return where(y != 1, (1 - y) / (1 - a)) - where(y > 0, y / a)

    def value_log(self, log_a: Array, y: Array) -> Array:
        xp = namespace(log_a)
        # log(1 - a) of a small a, and of one near 1  (Maechler 2012)
        rest = xp.where(log_a < -0.7, xp.log1p(-xp.exp(log_a)), xp.log(-xp.expm1(log_a)))
        return -row_sum(where(y > 0, y * log_a) + where(y != 1, (1 - y) * rest))

    def grad_log(self, log_a: Array, y: Array) -> Array:
        xp = namespace(log_a)
        return where(y != 1, (1 - y) * xp.exp(log_a) / -xp.expm1(log_a)) - y
