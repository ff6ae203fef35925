"""Activations whose rows are f(z) / sum f(z): softmax and its kin, and log_softmax."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

from trainer.arrays import Array, namespace, others
from trainer.chain.activations.base import diagonal, x_log_x
from trainer.chain.activations.elementwise import Sigmoid
from trainer.errors import require


def log_softmax(z: Array) -> Array:
    """z_k - log sum_j exp z_j (N,K), exact also where the largest score stands far above the others.

    With m = max z and R the sum of exp(z_j - m) over all j but one maximum, it is (z_k - m) - log1p(R): two numbers
    of one sign, so nothing cancels, and R keeps what ``1 + R`` would round away.
    """
    xp = namespace(z)
    d, _, rest = _shifted(z)
    return d - xp.log1p(rest)


def softmax_and_complement(z: Array) -> tuple[Array, Array]:
    """softmax(z) and 1 - softmax(z), both (N,K) and both to full relative accuracy."""
    return softmax_three_ways(z)[1:]


def softmax_three_ways(z: Array) -> tuple[Array, Array, Array]:
    """log softmax(z), softmax(z) and 1 - softmax(z), each (N,K), from one exponential."""
    xp = namespace(z)
    d, e, rest = _shifted(z)
    a = e / (1 + rest)
    return d - xp.log1p(rest), a, xp.where(d == 0, rest / (1 + rest), 1 - a)


def _shifted(z: Array) -> tuple[Array, Array, Array]:
    """d = z - max z and exp d, both (N,K), and the sum (N,1) of exp d over all classes but one maximum."""
    xp = namespace(z)
    top = xp.max(z, axis=1, keepdims=True)  # the row's own maximum: exp never overflows, softmax is unchanged
    d, e = shifted_exp(z, top)
    at_top = d == 0
    ties = xp.sum(xp.astype(at_top, z.dtype), axis=1, keepdims=True) - 1
    return d, e, xp.sum(xp.where(at_top, 0.0, e), axis=1, keepdims=True) + ties


def shifted_exp(z: Array, top: Array) -> tuple[Array, Array]:
    """d = z - top rounded, and exp(z - top) as if it were not: e^d (1 + what the rounding of d lost)  (N,K).

    Near -700 the rounding of d alone would cost e^d two to three digits. The lost part is Knuth's two-sum.
    """
    xp = namespace(z)
    d = z - top
    back = z - d
    lost = (z - (d + back)) + (back - top)
    e = xp.exp(d)
    return d, xp.where(e > 0, e * (1 + lost), 0.0)  # where a score is -inf, nothing of it is left to correct


def _log_pull_back(z: Array, h: Array) -> Array:
    """h - a * sum h (N,K) for a = softmax(z), as h_k (1 - a_k) - a_k sum_{j != k} h_j: confident rows do not cancel."""
    a, rest = softmax_and_complement(z)
    return h * rest - a * others(h)


# a = f(z) / sum f(z) is softmax(log f(z)), whatever f > 0. With slope = (log f)'(z), (N,K) or a number, the chain rule
# through log f gives da_j/dz_k = (a_j [j = k] - a_j a_k) slope_k.


def _normalized_jacobian(a: Array, slope: Array | float) -> Array:
    columns = slope if isinstance(slope, float) else slope[:, None, :]
    return (diagonal(a) - a[:, :, None] * a[:, None, :]) * columns


def _normalized_vjp(a: Array, slope: Array | float, dl_da: Array) -> Array:
    xp = namespace(a)
    return a * (dl_da - xp.sum(a * dl_da, axis=1, keepdims=True)) * slope


def _softmax(z: Array) -> Array:
    xp = namespace(z)
    _, e = shifted_exp(z, xp.max(z, axis=1, keepdims=True))
    return e / xp.sum(e, axis=1, keepdims=True)


@dataclass(frozen=True)
class Softmax:
    """a_k = exp(z_k / T) / sum_j exp(z_j / T), temperature T > 0; da_dz = (diag a - a a^T) / T, symmetric."""

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
        return _softmax(z / self.temperature)

    def jacobian(self, z: Array, a: Array) -> Array:
        return _normalized_jacobian(a, 1 / self.temperature)

    def vjp(self, z: Array, a: Array, dl_da: Array) -> Array:
        return _normalized_vjp(a, 1 / self.temperature, dl_da)

    def log(self, z: Array) -> Array:
        return log_softmax(z / self.temperature)

    def log_vjp(self, z: Array, h: Array) -> Array:
        return _log_pull_back(z / self.temperature, h) / self.temperature

    def log_normalizer(self, z: Array) -> Array:
        """log sum_j exp(z_j / T)  (N,)."""
        xp = namespace(z)
        top = xp.max(z, axis=1) / self.temperature
        return top + xp.log1p(_shifted(z / self.temperature)[2][:, 0])

    def omega(self, a: Array) -> Array:
        return self.temperature * namespace(a).sum(x_log_x(a), axis=1)

    def start(self, mean: Array) -> Array:
        """The scores (...,K), of the sum zero, whose prediction is the mean of the targets (...,K), up to its sum."""
        xp = namespace(mean)
        z = self.temperature * xp.log(mean)
        return z - xp.mean(z, axis=-1, keepdims=True)

    def row_hessian(self, a: Array, factor: Array | float = 1.0) -> Callable[[Array], Array]:
        """u -> factor da_dz u (...,N,K) from the prediction alone, for a factor (...,N,1) or a number.

        With factor = s / T that is the Hessian of ce by the scores, whose dl_dz is (s a - y) / T.
        """
        xp = namespace(a)
        scale = factor / self.temperature
        plain = bool(xp.all(xp.asarray(scale) == 1))

        def product(u: Array) -> Array:
            q = a * u
            q -= a * xp.sum(q, axis=-1, keepdims=True)
            return q if plain else scale * q

        return product


@dataclass(frozen=True)
class LogSoftmax:
    """a_k = z_k - log sum_j exp z_j; da_dz[j,k] = [j = k] - softmax(z)_k, not symmetric."""

    name: ClassVar[str] = "log_softmax"
    range: ClassVar[str] = "log_simplex"
    entropy: ClassVar[str] = "shannon"
    shift_invariant: ClassVar[bool] = True
    logarithm_of: ClassVar[Softmax] = Softmax()

    def __call__(self, z: Array) -> Array:
        return log_softmax(z)

    def jacobian(self, z: Array, a: Array) -> Array:
        xp = namespace(z)
        return xp.eye(z.shape[1], dtype=z.dtype) - xp.exp(a)[:, None, :]

    def vjp(self, z: Array, a: Array, dl_da: Array) -> Array:
        return _log_pull_back(z, dl_da)  # it is softmax in logarithms


# Taylor, Spherical and NormalizedSigmoid differ in log f and its slope only; these are the methods of all three.


class _LogF(Protocol):
    def log_f(self, z: Array) -> Array: ...

    def slope(self, z: Array) -> Array: ...


def _call_by_log_f(self: _LogF, z: Array) -> Array:
    return _softmax(self.log_f(z))


def _jacobian_by_log_f(self: _LogF, z: Array, a: Array) -> Array:
    return _normalized_jacobian(a, self.slope(z))


def _vjp_by_log_f(self: _LogF, z: Array, a: Array, dl_da: Array) -> Array:
    return _normalized_vjp(a, self.slope(z), dl_da)


def _log_by_log_f(self: _LogF, z: Array) -> Array:
    return log_softmax(self.log_f(z))


def _log_vjp_by_log_f(self: _LogF, z: Array, h: Array) -> Array:
    return _log_pull_back(self.log_f(z), h) * self.slope(z)


@dataclass(frozen=True)
class Taylor:
    """a = f / sum f with f(z) = 1 + z + z^2/2 >= 1/2, the second-order softmax  (de Brebisson & Vincent 2016).

    Not invariant to a shift, not monotone: f falls up to z = -1, where its gradient is zero.
    """

    name: ClassVar[str] = "taylor"
    range: ClassVar[str] = "simplex"

    def log_f(self, z: Array) -> Array:
        """log f(z) (N,K)."""
        return namespace(z).log1p(z * (1 + z / 2))

    def slope(self, z: Array) -> Array:
        """(log f)'(z) (N,K)."""
        return (1 + z) / (1 + z * (1 + z / 2))

    __call__ = _call_by_log_f
    jacobian = _jacobian_by_log_f
    vjp = _vjp_by_log_f
    log = _log_by_log_f
    log_vjp = _log_vjp_by_log_f


@dataclass(frozen=True)
class Spherical:
    """a = f / sum f with f(z) = z^2 + epsilon, the spherical softmax  (de Brebisson & Vincent 2016).

    Blind to signs, and flat at z = 0, so that a training has to start elsewhere; epsilon > 0 keeps a positive.
    """

    name: ClassVar[str] = "spherical"
    range: ClassVar[str] = "simplex"
    saturates: ClassVar[bool] = True
    start_scale: ClassVar[float] = 0.1  # at zero its derivative is zero, and no training would leave it
    epsilon: float = 0.01

    def __post_init__(self) -> None:
        ok = 0 < self.epsilon < math.inf
        require(ok, f"activation.epsilon must be finite and greater than 0, got {self.epsilon}.")

    def log_f(self, z: Array) -> Array:
        """log f(z) (N,K)."""
        return namespace(z).log(z * z + self.epsilon)

    def slope(self, z: Array) -> Array:
        """(log f)'(z) (N,K)."""
        return 2 * z / (z * z + self.epsilon)

    __call__ = _call_by_log_f
    jacobian = _jacobian_by_log_f
    vjp = _vjp_by_log_f
    log = _log_by_log_f
    log_vjp = _log_vjp_by_log_f


@dataclass(frozen=True)
class NormalizedSigmoid:
    """a = f / sum f with f(z) = 1 / (1 + exp(-z)): what one-versus-rest classifiers call their probabilities."""

    name: ClassVar[str] = "normalized_sigmoid"
    range: ClassVar[str] = "simplex"

    def log_f(self, z: Array) -> Array:
        """log f(z) (N,K)."""
        xp = namespace(z)
        return xp.where(z < 0, z, 0.0) - xp.log1p(xp.exp(-xp.abs(z)))

    def slope(self, z: Array) -> Array:
        """(log f)'(z) (N,K)."""
        return Sigmoid()(-z)

    __call__ = _call_by_log_f
    jacobian = _jacobian_by_log_f
    vjp = _vjp_by_log_f
    log = _log_by_log_f
    log_vjp = _log_vjp_by_log_f
