"""What a loss is, and the few sums that several of them share."""

from typing import Any, ClassVar, Protocol, runtime_checkable

from trainer.arrays import Array, namespace


class Loss(Protocol):
    """What every loss brings."""

    name: ClassVar[str]
    accepts: ClassVar[frozenset[str]]  # ranges of activations
    targets: ClassVar[str]  # a key of TARGETS: the rows y that the formula is meant for

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
        """h = dl/dlog a (N,K), up to a multiple of a in each row, which rows that sum to one do not notice."""


@runtime_checkable
class DirectLoss(Protocol):
    """A loss with a part that is stated on the scores themselves and does not pass through a."""

    def direct(self, activation: Any, z: Array, y: Array) -> tuple[Array, Array]:
        """The part's values (N,) and its derivative by z (N,K); every strategy adds both to its own."""


TARGETS = {
    "any": "any non-negative rows",
    "simplex": "rows that sum to one",
    "unit": "numbers between zero and one",
    "one_hot": "one-hot rows",
}


def row_sum(terms: Array) -> Array:
    """The sum over the classes: (N,K) to (N,)."""
    return namespace(terms).sum(terms, axis=-1)


def where(condition: Array, then: Array) -> Array:
    """``then`` where the condition holds, else an exact zero."""
    return namespace(then).where(condition, then, 0.0)


def residual(a: Array, one_minus_a: Array, y: Array) -> Array:
    """a - y (N,K) as a (1 - y) - y (1 - a): on 0/1 targets nothing cancels."""
    return a * (1 - y) - y * one_minus_a


def residual_log(log_a: Array, y: Array) -> Array:
    """a - y (N,K) from log a, as exact as log a is."""
    xp = namespace(log_a)
    return residual(xp.exp(log_a), -xp.expm1(log_a), y)
