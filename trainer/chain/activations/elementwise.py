"""Activations that take each score by itself: sigmoid, tanh and identity."""

from dataclasses import dataclass
from typing import ClassVar

from trainer.arrays import Array, diagonal, namespace, row_sum, x_log_x


@dataclass(frozen=True)
class Sigmoid:
    """a_k = 1 / (1 + exp(-z_k)), one yes-or-no question per class; da_dz = diag(a (1 - a)).

    >>> Sigmoid()(np.array([2.0, 1.0, -1.0])).round(3)
    array([0.881, 0.731, 0.269])
    """

    name: ClassVar[str] = "sigmoid"
    range: ClassVar[str] = "unit"
    entropy: ClassVar[str] = "binary"

    def __call__(self, z: Array) -> Array:
        xp = namespace(z)
        e = xp.exp(-xp.abs(z))  # of the negative side only, so that it cannot overflow
        return xp.where(z >= 0, 1.0, e) / (1 + e)

    def _slope(self, z: Array) -> Array:
        return self(z) * self(-z)  # not a (1 - a), which is zero from z = 37 on

    def jacobian(self, z: Array, a: Array) -> Array:
        return diagonal(self._slope(z))

    def vjp(self, z: Array, a: Array, dl_da: Array) -> Array:
        return self._slope(z) * dl_da

    def omega(self, a: Array) -> Array:
        return row_sum(x_log_x(a) + x_log_x(1 - a))


@dataclass(frozen=True)
class Tanh:
    """a_k = tanh z_k, between -1 and 1; da_dz = diag(1 - a^2).

    >>> Tanh()(np.array([2.0, 1.0, -1.0])).round(3)
    array([ 0.964,  0.762, -0.762])
    """

    name: ClassVar[str] = "tanh"
    range: ClassVar[str] = "signed_unit"

    def __call__(self, z: Array) -> Array:
        return namespace(z).tanh(z)

    def _slope(self, z: Array) -> Array:
        xp = namespace(z)
        e = xp.exp(-2 * xp.abs(z))
        return 4 * e / (1 + e) ** 2  # not 1 - a^2, which is zero from z = 19 on

    def jacobian(self, z: Array, a: Array) -> Array:
        return diagonal(self._slope(z))

    def vjp(self, z: Array, a: Array, dl_da: Array) -> Array:
        return self._slope(z) * dl_da


@dataclass(frozen=True)
class Identity:
    """a = z: the scores themselves, for losses that are stated on scores.

    >>> Identity()(np.array([2.0, 1.0, -1.0])).round(3)
    array([ 2.,  1., -1.])
    """

    name: ClassVar[str] = "identity"
    range: ClassVar[str] = "real"
    entropy: ClassVar[str] = "squares"

    def __call__(self, z: Array) -> Array:
        return z

    def jacobian(self, z: Array, a: Array) -> Array:
        return diagonal(namespace(z).ones_like(z))

    def vjp(self, z: Array, a: Array, dl_da: Array) -> Array:
        return dl_da

    def omega(self, a: Array) -> Array:
        return row_sum(a * a) / 2
