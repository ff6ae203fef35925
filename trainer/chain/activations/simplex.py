"""Other ways than softmax to rows that sum to one: sparsemax and entmax, which may hold exact zeros, and f / sum f."""

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol

from trainer.arrays import Array, diagonal, namespace, row_sum, where
from trainer.chain.activations.elementwise import Sigmoid
from trainer.chain.activations.softmax import Softmax
from trainer.errors import require

HALVINGS = 60  # of a bracket of width one at most: the threshold is then exact to rounding


def _sorted_threshold(u: Array, alpha: float) -> Array:
    """tau (N,1) with sum (u - tau)_+^(1/(alpha-1)) = 1, from a threshold for each size that the support may have.

    alpha = 2: a linear equation  (Martins & Astudillo 2016, alg. 1); 1.5: a quadratic one  (Peters et al. 2019).
    """
    xp = namespace(u)
    top = xp.flip(xp.sort(u, axis=-1), axis=-1)  # (N,K), from the largest
    size = xp.arange(1, u.shape[-1] + 1, dtype=u.dtype, device=u.device)  # (K,)
    total = xp.cumulative_sum(top, axis=-1)
    if alpha == 2:
        tau, fits = (total - 1) / size, size * top > total - 1
    else:
        mean = total / size
        inside = (1 - (xp.cumulative_sum(top * top, axis=-1) - size * mean * mean)) / size
        tau = mean - xp.sqrt(where(inside > 0, inside))
        fits = (inside > 0) & (tau <= top)
    last = xp.sum(xp.astype(fits, xp.int64), axis=-1, keepdims=True) - 1  # all sizes up to that one fit
    return xp.take_along_axis(tau, last, axis=-1)


def _bisected_threshold(u: Array, power: float) -> Array:
    """tau (N,1) with sum (u - tau)_+^power = 1: between -1 (one term) and -K^(-1/power) (K equal terms)."""
    xp = namespace(u)
    low = -xp.ones_like(u[..., :1])
    width = 1 - float(u.shape[-1]) ** (-1 / power)
    for _ in range(HALVINGS):
        width /= 2
        middle = low + width
        total = xp.sum(where(u > middle, u - middle) ** power, axis=-1, keepdims=True)
        low = xp.where(total >= 1, middle, low)
    return low


class _Entmax(Protocol):
    """a = argmax over the simplex of <a, z> - Omega(a), Omega(a) = (sum a^alpha - 1) / (alpha (alpha-1)).

    Omega is Tsallis' entropy with its sign turned. With q = a^(2-alpha) on the support, da_dz = diag q - q q^T / sum q,
    which is symmetric.
    """

    range: ClassVar[str] = "sparse_simplex"
    shift_invariant: ClassVar[bool] = True
    saturates: ClassVar[bool] = True

    @property
    def alpha(self) -> float:
        """At least one, where a is softmax(z)."""

    @property
    def kinked(self) -> bool:
        """Whether da_dz jumps: from alpha = 2 on, which is sparsemax."""
        return self.alpha >= 2

    def __call__(self, z: Array) -> Array:
        if self.alpha == 1:
            return Softmax()(z)
        xp, power = namespace(z), 1 / (self.alpha - 1)
        u = (self.alpha - 1) * (z - xp.max(z, axis=-1, keepdims=True))  # <= 0; nothing changes, and tau lies in [-1, 0)
        tau = _sorted_threshold(u, self.alpha) if self.alpha in (1.5, 2) else _bisected_threshold(u, power)
        a = where(u > tau, u - tau) ** power
        return a / xp.sum(a, axis=-1, keepdims=True)  # takes away what rounding left in the sum

    def _q(self, a: Array) -> tuple[Array, Array]:
        """q (N,K) and its sum (N,1)."""
        xp = namespace(a)
        q = where(a > 0, xp.where(a > 0, a, 1.0) ** (2 - self.alpha))
        return q, xp.sum(q, axis=-1, keepdims=True)

    def jacobian(self, z: Array, a: Array) -> Array:
        q, total = self._q(a)
        return diagonal(q) - q[..., :, None] * (q / total)[..., None, :]

    def vjp(self, z: Array, a: Array, dl_da: Array) -> Array:
        q, total = self._q(a)
        return q * (dl_da - namespace(a).sum(q * dl_da, axis=-1, keepdims=True) / total)

    def omega(self, a: Array) -> Array:
        if self.alpha == 1:
            return Softmax().omega(a)
        return (row_sum(a**self.alpha) - 1) / (self.alpha * (self.alpha - 1))


@dataclass(frozen=True)
class Sparsemax(_Entmax):
    """The Euclidean projection of z onto the simplex, a = (z - tau)_+  (Martins & Astudillo 2016).

    da_dz = diag b - b b^T / |S| with b = [a > 0]; at a kink, where a score meets tau, that is the derivative towards
    the smaller support.

    >>> Sparsemax()(np.array([2.0, 1.0, -1.0])).round(3)
    array([1., 0., 0.])
    """

    name: ClassVar[str] = "sparsemax"
    alpha: ClassVar[float] = 2.0


@dataclass(frozen=True)
class Entmax(_Entmax):
    """a = [(alpha-1) z - tau]_+ ^ (1/(alpha-1)); alpha = 1 is softmax, 2 sparsemax  (Peters et al. 2019).

    tau makes the sum of a row one.  alpha >= 1.

    >>> Entmax()(np.array([2.0, 1.0, -1.0])).round(3)
    array([0.831, 0.169, 0.   ])
    """

    name: ClassVar[str] = "entmax"
    alpha: float = 1.5

    def __post_init__(self) -> None:
        ok = 1 <= self.alpha < math.inf
        require(ok, f"activation.alpha must be finite and at least 1, got {self.alpha}.")


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
        return where(z < 0, z) - xp.log1p(xp.exp(-xp.abs(z)))

    def slope(self, z: Array) -> Array:
        return Sigmoid()(-z)
