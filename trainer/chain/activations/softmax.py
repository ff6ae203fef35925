"""Softmax and log_softmax, and the exact logarithms and complements that their formulas need."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from trainer.arrays import Array, are_ones, diagonal, namespace, others, row_sum, x_log_x
from trainer.errors import require


def softmax_three_ways(z: Array) -> tuple[Array, Array, Array]:
    """log softmax(z), softmax(z) and 1 - softmax(z), each (N,K) to full relative accuracy, from one exponential.

    >>> softmax_three_ways(np.array([40.0, 0.0]))[2]  # where 1 - a would be zero
    array([4.24835426e-18, 1.00000000e+00])
    """
    xp = namespace(z)
    d, e, rest = _shifted(z)
    a = e / (1 + rest)
    return d - xp.log1p(rest), a, xp.where(d == 0, rest / (1 + rest), 1 - a)


def _shifted(z: Array) -> tuple[Array, Array, Array]:
    """d = z - max z and exp d, both (N,K), and R (N,1), the sum of exp d over all classes but one maximum.

    log softmax(z) is then d - log1p(R): two numbers of one sign, so nothing cancels, also where the largest score
    stands far above the others, and R keeps what ``1 + R`` would round away.
    """
    xp = namespace(z)
    top = xp.max(z, axis=-1, keepdims=True)  # the row's own maximum: exp never overflows, softmax is unchanged
    d, e = shifted_exp(z, top)
    at_top = d == 0
    ties = xp.sum(xp.astype(at_top, z.dtype), axis=-1, keepdims=True) - 1
    return d, e, xp.sum(xp.where(at_top, 0.0, e), axis=-1, keepdims=True) + ties


def shifted_exp(z: Array, top: Array) -> tuple[Array, Array]:
    """d = z - top rounded, and exp(z - top) as if it were not: e^d (1 + what the rounding of d lost)  (N,K).

    Near -700 the rounding of d alone would cost e^d two to three digits. The lost part is Knuth's two-sum.

    >>> shifted_exp(np.array([2.0, 1.0]), np.array(2.0))
    (array([ 0., -1.]), array([1.        , 0.36787944]))
    """
    xp = namespace(z)
    d = z - top
    back = z - d
    lost = (z - (d + back)) + (back - top)
    e = xp.exp(d)
    return d, xp.where(e > 0, e * (1 + lost), 0.0)  # where a score is -inf, nothing of it is left to correct


@dataclass(frozen=True)
class Softmax:
    """a_k = exp(z_k / T) / sum_j exp(z_j / T), temperature T > 0; da_dz = (diag a - a a^T) / T, symmetric.

    >>> Softmax()(np.array([2.0, 1.0, -1.0])).round(3)
    array([0.705, 0.259, 0.035])
    """

    name: ClassVar[str] = "softmax"
    range: ClassVar[str] = "simplex"
    entropy: ClassVar[str] = "shannon"
    shift_invariant: ClassVar[bool] = True
    saturates: ClassVar[bool] = True
    temperature: float = 1.0

    def __post_init__(self) -> None:
        ok = 0 < self.temperature < math.inf
        require(ok, f"activation.temperature must be finite and greater than 0, got {self.temperature}.")

    def __call__(self, z: Array) -> Array:
        xp, scores = namespace(z), z / self.temperature
        _, e = shifted_exp(scores, xp.max(scores, axis=-1, keepdims=True))
        return e / xp.sum(e, axis=-1, keepdims=True)

    def jacobian(self, z: Array, a: Array) -> Array:
        return (diagonal(a) - a[..., :, None] * a[..., None, :]) * (1 / self.temperature)

    def vjp(self, z: Array, a: Array, dl_da: Array) -> Array:
        inside = dl_da - namespace(a).sum(a * dl_da, axis=-1, keepdims=True)
        return a * inside * (1 / self.temperature)

    def log(self, z: Array) -> Array:
        d, _, rest = _shifted(z / self.temperature)
        return d - namespace(z).log1p(rest)

    def log_vjp(self, z: Array, h: Array) -> Array:
        """(h - a sum h) / T, as h_k (1 - a_k) - a_k sum_{j != k} h_j: confident rows do not cancel."""
        _, a, rest = softmax_three_ways(z / self.temperature)
        return (h * rest - a * others(h)) / self.temperature

    def log_normalizer(self, z: Array) -> Array:
        """log sum_j exp(z_j / T)  (N,)."""
        xp = namespace(z)
        top = xp.max(z, axis=-1) / self.temperature
        return top + xp.log1p(_shifted(z / self.temperature)[2][..., 0])

    def omega(self, a: Array) -> Array:
        return self.temperature * row_sum(x_log_x(a))

    def start(self, mean: Array) -> Array:
        """The scores (...,K), of the sum zero, whose prediction is the mean of the targets (...,K), up to its sum."""
        xp = namespace(mean)
        z = self.temperature * xp.log(mean)
        return z - xp.mean(z, axis=-1, keepdims=True)

    def row_hessian(self, a: Array, factor: Array | float) -> Callable[[Array], Array]:
        """u -> factor da_dz u (...,N,K) from the prediction alone, for a factor (...,N,1) or a number.

        With factor = s / T that is the Hessian of ce by the scores, whose dl_dz is (s a - y) / T.
        """
        xp = namespace(a)
        scale = factor / self.temperature
        plain = are_ones(scale)

        def product(u: Array) -> Array:
            q = a * u
            q -= a * xp.sum(q, axis=-1, keepdims=True)
            return q if plain else scale * q

        return product


@dataclass(frozen=True)
class LogSoftmax:
    """a_k = z_k - log sum_j exp z_j; da_dz[j,k] = [j = k] - softmax(z)_k, not symmetric.

    >>> LogSoftmax()(np.array([2.0, 1.0, -1.0])).round(3)
    array([-0.349, -1.349, -3.349])
    """

    name: ClassVar[str] = "log_softmax"
    range: ClassVar[str] = "log_simplex"
    entropy: ClassVar[str] = "shannon"
    shift_invariant: ClassVar[bool] = True
    logarithm_of: ClassVar[Softmax] = Softmax()

    def __call__(self, z: Array) -> Array:
        return Softmax().log(z)

    def jacobian(self, z: Array, a: Array) -> Array:
        xp = namespace(z)
        return xp.eye(z.shape[-1], dtype=z.dtype, device=z.device) - xp.exp(a)[..., None, :]

    def vjp(self, z: Array, a: Array, dl_da: Array) -> Array:
        return Softmax().log_vjp(z, dl_da)  # it is softmax in logarithms
