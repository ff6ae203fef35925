"""Sparse output activations: entmax, and sparsemax, which is entmax of alpha = 2; rows may hold exact zeros."""

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol

from trainer.arrays import Array, namespace
from trainer.chain.activations.elementwise import diagonal
from trainer.chain.activations.softmax import Softmax
from trainer.errors import require

HALVINGS = 60  # of a bracket of width one at most: the threshold is then exact to rounding


def _descending(u: Array) -> tuple[Array, Array]:
    """u sorted from the largest (N,K), and the ranks 1..K (K,)."""
    xp = namespace(u)
    ranks = xp.arange(1, u.shape[-1] + 1, dtype=u.dtype, device=u.device)
    return xp.flip(xp.sort(u, axis=-1), axis=-1), ranks


def _at_last(values: Array, holds: Array) -> Array:
    """The value (N,1) at the last rank for which the condition holds; it holds from the first rank to that one."""
    xp = namespace(values)
    last = xp.sum(xp.astype(holds, xp.int64), axis=-1, keepdims=True) - 1
    return xp.take_along_axis(values, last, axis=-1)


def _sparsemax_threshold(u: Array) -> Array:
    """tau (N,1) with sum (u - tau)_+ = 1  (Martins & Astudillo 2016, alg. 1)."""
    xp = namespace(u)
    top, rank = _descending(u)
    total = xp.cumulative_sum(top, axis=-1)
    return _at_last((total - 1) / rank, rank * top > total - 1)


def _entmax15_threshold(u: Array) -> Array:
    """tau (N,1) with sum (u - tau)_+^2 = 1: a quadratic equation for each size of the support  (Peters et al. 2019)."""
    xp = namespace(u)
    top, rank = _descending(u)
    mean = xp.cumulative_sum(top, axis=-1) / rank
    spread = xp.cumulative_sum(top * top, axis=-1) - rank * mean * mean
    inside = (1 - spread) / rank
    tau = mean - xp.sqrt(xp.where(inside > 0, inside, 0.0))
    return _at_last(tau, (inside > 0) & (tau <= top))


def _bisected_threshold(u: Array, power: float) -> Array:
    """tau (N,1) with sum (u - tau)_+^power = 1: between -1 (one term) and -K^(-1/power) (K equal terms)."""
    xp = namespace(u)
    low = -xp.ones_like(u[..., :1])
    width = 1 - float(u.shape[-1]) ** (-1 / power)
    for _ in range(HALVINGS):
        width /= 2
        middle = low + width
        total = xp.sum(xp.where(u > middle, u - middle, 0.0) ** power, axis=-1, keepdims=True)
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
        if self.alpha == 2:
            tau = _sparsemax_threshold(u)
        elif self.alpha == 1.5:
            tau = _entmax15_threshold(u)
        else:
            tau = _bisected_threshold(u, power)
        a = xp.where(u > tau, u - tau, 0.0) ** power
        return a / xp.sum(a, axis=-1, keepdims=True)  # takes away what rounding left in the sum

    def _q(self, a: Array) -> tuple[Array, Array]:
        """q (N,K) and its sum (N,1)."""
        xp = namespace(a)
        q = xp.where(a > 0, xp.where(a > 0, a, 1.0) ** (2 - self.alpha), 0.0)
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
        return (namespace(a).sum(a**self.alpha, axis=-1) - 1) / (self.alpha * (self.alpha - 1))


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
