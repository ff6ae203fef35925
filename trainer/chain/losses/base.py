"""What a loss is, and the few sums that several of them share."""

from typing import ClassVar, Protocol

from trainer.arrays import Array, namespace


class Loss(Protocol):
    """What every loss brings.

    One that can be stated on log a brings ``value_log``, its loss (N,) for log a and y, and ``grad_log``, its
    h = dl/dlog a (N,K), up to a multiple of a in each row, which rows that sum to one do not notice.

    One with a part that is stated on the scores themselves and does not pass through a brings ``direct``: for an
    activation, z and y the part's values (N,) and its derivative by z (N,K), which every strategy adds to its own.

    >>> loss: Loss = SquaredError()
    >>> loss.value(np.array([[0.5, 0.5, 0.0]]), y), loss.grad(np.array([[0.5, 0.5, 0.0]]), y)
    (array([0.25]), array([[-0.5,  0.5,  0. ]]))
    """

    name: ClassVar[str]
    accepts: ClassVar[frozenset[str]]  # ranges of activations
    targets: ClassVar[str]  # a key of TARGETS: the rows y that the formula is meant for

    def value(self, a: Array, y: Array) -> Array:
        """loss (N,)."""

    def grad(self, a: Array, y: Array) -> Array:
        """dl_da (N,K)."""


TARGETS = {
    "any": "any non-negative rows",
    "simplex": "rows that sum to one",
    "unit": "numbers between zero and one",
    "one_hot": "one-hot rows",
}


def row_sum(terms: Array) -> Array:
    """The sum over the classes: (N,K) to (N,).

    >>> row_sum(z)
    array([2.])
    """
    return namespace(terms).sum(terms, axis=-1)


def where(condition: Array, then: Array) -> Array:
    """``then`` where the condition holds, else an exact zero.

    >>> where(y > 0, y * z)
    array([[2., 0., 0.]])
    """
    return namespace(then).where(condition, then, 0.0)


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
