"""Activations whose rows are f(z) / sum f(z) for another f than exp: taylor, spherical and normalized_sigmoid."""

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol

from trainer.arrays import Array, namespace
from trainer.chain.activations.elementwise import Sigmoid
from trainer.chain.activations.softmax import Softmax
from trainer.errors import require


class _Normalized(Protocol):
    """softmax(u) at u = log f(z), for whatever f > 0: so the methods are those of softmax at u, times (log f)'(z)."""

    range: ClassVar[str] = "simplex"

    def log_f(self, z: Array) -> Array:
        """log f(z) (N,K)."""

    def slope(self, z: Array) -> Array:
        """(log f)'(z) (N,K)."""

    def __call__(self, z: Array) -> Array:
        return Softmax()(self.log_f(z))

    def jacobian(self, z: Array, a: Array) -> Array:
        return Softmax().jacobian(z, a) * self.slope(z)[..., None, :]

    def vjp(self, z: Array, a: Array, dl_da: Array) -> Array:
        return Softmax().vjp(z, a, dl_da) * self.slope(z)

    def log(self, z: Array) -> Array:
        return Softmax().log(self.log_f(z))

    def log_vjp(self, z: Array, h: Array) -> Array:
        return Softmax().log_vjp(self.log_f(z), h) * self.slope(z)


@dataclass(frozen=True)
class Taylor(_Normalized):
    """a = f / sum f with f(z) = 1 + z + z^2/2 >= 1/2, the second-order softmax  (de Brebisson & Vincent 2016).

    Not invariant to a shift, not monotone: f falls up to z = -1, where its gradient is zero.

    >>> Taylor()(np.array([2.0, 1.0, -1.0])).round(3)
    array([0.625, 0.313, 0.062])
    """

    name: ClassVar[str] = "taylor"

    def log_f(self, z: Array) -> Array:
        return namespace(z).log1p(z * (1 + z / 2))

    def slope(self, z: Array) -> Array:
        return (1 + z) / (1 + z * (1 + z / 2))


@dataclass(frozen=True)
class Spherical(_Normalized):
    """a = f / sum f with f(z) = z^2 + epsilon, the spherical softmax  (de Brebisson & Vincent 2016).

    Blind to signs, and flat at z = 0, so that a training has to start elsewhere; epsilon > 0 keeps a positive.

    >>> Spherical()(np.array([2.0, 1.0, -1.0])).round(3)
    array([0.665, 0.167, 0.167])
    """

    name: ClassVar[str] = "spherical"
    saturates: ClassVar[bool] = True
    start_scale: ClassVar[float] = 0.1  # at zero its derivative is zero, and no training would leave it
    epsilon: float = 0.01

    def __post_init__(self) -> None:
        ok = 0 < self.epsilon < math.inf
        require(ok, f"activation.epsilon must be finite and greater than 0, got {self.epsilon}.")

    def log_f(self, z: Array) -> Array:
        return namespace(z).log(z * z + self.epsilon)

    def slope(self, z: Array) -> Array:
        return 2 * z / (z * z + self.epsilon)


@dataclass(frozen=True)
class NormalizedSigmoid(_Normalized):
    """a = f / sum f with f(z) = 1 / (1 + exp(-z)): what one-versus-rest classifiers call their probabilities.

    >>> NormalizedSigmoid()(np.array([2.0, 1.0, -1.0])).round(3)
    array([0.468, 0.389, 0.143])
    """

    name: ClassVar[str] = "normalized_sigmoid"

    def log_f(self, z: Array) -> Array:
        xp = namespace(z)
        return xp.where(z < 0, z, 0.0) - xp.log1p(xp.exp(-xp.abs(z)))

    def slope(self, z: Array) -> Array:
        return Sigmoid()(-z)
