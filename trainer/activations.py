"""Output activations: from scores z (N,K) to predictions a (N,K), with the derivative in two forms.

``jacobian`` is the whole tensor da_dz (N,K,K); ``vjp`` is its product with dl_da, summed over the first class
index, from the tensor's structure alone. Where ``log`` exists, ``log_vjp`` pulls back h = dl/dlog a, which stays
exact where a underflows. Each class says in ``range`` what its rows are, so that losses can state what they accept.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from trainer.arrays import Array, namespace, others
from trainer.errors import require


class Activation(Protocol):
    """What every activation brings; hyper-parameters are fields, so the repr is the call."""

    name: ClassVar[str]
    range: ClassVar[str]  # a key of RANGES

    def __call__(self, z: Array) -> Array:
        """The prediction a (N,K) for scores z (N,K)."""

    def jacobian(self, z: Array, a: Array) -> Array:
        """da_dz (N,K,K) with da_dz[n,j,k] = d a_j / d z_k."""

    def vjp(self, z: Array, a: Array, dl_da: Array) -> Array:
        """dl_dz (N,K) with dl_dz[n,k] = sum_j dl_da[n,j] da_dz[n,j,k]."""


@runtime_checkable
class LogActivation(Protocol):
    """An activation whose logarithm is known without taking it, and so is exact however small a is."""

    def log(self, z: Array) -> Array:
        """log a (N,K)."""

    def log_vjp(self, z: Array, log_a: Array, h: Array) -> Array:
        """dl_dz (N,K) from h = dl/dlog a (N,K)."""


RANGES = {
    "simplex": "rows of positive numbers that sum to one",
    "unit": "K independent numbers between zero and one",
    "log_simplex": "logarithms of probabilities",
    "real": "any real numbers",
}


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
    xp = namespace(z)
    d, e, rest = _shifted(z)
    a = e / (1 + rest)
    return a, xp.where(d == 0, rest / (1 + rest), 1 - a)


def _shifted(z: Array) -> tuple[Array, Array, Array]:
    """d = z - max z and exp d, both (N,K), and the sum (N,1) of exp d over all classes but one maximum."""
    xp = namespace(z)
    d = z - xp.max(z, axis=1, keepdims=True)  # the row's own maximum: exp never overflows, softmax is unchanged
    e = xp.exp(d)
    top = d == 0
    ties = xp.sum(xp.astype(top, z.dtype), axis=1, keepdims=True) - 1
    return d, e, xp.sum(xp.where(top, 0.0, e), axis=1, keepdims=True) + ties


def _log_pull_back(log_a: Array, h: Array) -> Array:
    """h - a * sum h (N,K), written as h_k (1 - a_k) - a_k sum_{j != k} h_j so that confident rows do not cancel."""
    xp = namespace(log_a)
    return -h * xp.expm1(log_a) - xp.exp(log_a) * others(h)


def _diagonal(d: Array) -> Array:
    """diag(d_n) for every row: (N,K) to (N,K,K)."""
    xp = namespace(d)
    return d[:, :, None] * xp.eye(d.shape[1], dtype=d.dtype)


@dataclass(frozen=True)
class Softmax:
    """a_k = exp(z_k / T) / sum_j exp(z_j / T), temperature T > 0; da_dz = (diag a - a a^T) / T, symmetric."""

    name: ClassVar[str] = "softmax"
    range: ClassVar[str] = "simplex"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        ok = 0 < self.temperature < math.inf
        require(ok, f"activation.temperature must be finite and greater than 0, got {self.temperature}.")

    def __call__(self, z: Array) -> Array:
        xp = namespace(z)
        e = xp.exp((z - xp.max(z, axis=1, keepdims=True)) / self.temperature)
        return e / xp.sum(e, axis=1, keepdims=True)

    def jacobian(self, z: Array, a: Array) -> Array:
        return (_diagonal(a) - a[:, :, None] * a[:, None, :]) / self.temperature

    def vjp(self, z: Array, a: Array, dl_da: Array) -> Array:
        xp = namespace(z)
        return a * (dl_da - xp.sum(a * dl_da, axis=1, keepdims=True)) / self.temperature

    def log(self, z: Array) -> Array:
        return log_softmax(z / self.temperature)

    def log_vjp(self, z: Array, log_a: Array, h: Array) -> Array:
        return _log_pull_back(log_a, h) / self.temperature


@dataclass(frozen=True)
class LogSoftmax:
    """a_k = z_k - log sum_j exp z_j; da_dz[j,k] = [j = k] - softmax(z)_k, not symmetric."""

    name: ClassVar[str] = "log_softmax"
    range: ClassVar[str] = "log_simplex"

    def __call__(self, z: Array) -> Array:
        return log_softmax(z)

    def jacobian(self, z: Array, a: Array) -> Array:
        xp = namespace(z)
        return xp.eye(z.shape[1], dtype=z.dtype) - xp.exp(a)[:, None, :]

    def vjp(self, z: Array, a: Array, dl_da: Array) -> Array:
        return _log_pull_back(a, dl_da)  # its own output is log a of softmax


@dataclass(frozen=True)
class Sigmoid:
    """a_k = 1 / (1 + exp(-z_k)), one yes-or-no question per class; da_dz = diag(a (1 - a))."""

    name: ClassVar[str] = "sigmoid"
    range: ClassVar[str] = "unit"

    def __call__(self, z: Array) -> Array:
        xp = namespace(z)
        e = xp.exp(-xp.abs(z))  # of the negative side only, so that it cannot overflow
        return xp.where(z >= 0, 1.0, e) / (1 + e)

    def _slope(self, z: Array) -> Array:
        return self(z) * self(-z)  # not a (1 - a), which is zero from z = 37 on

    def jacobian(self, z: Array, a: Array) -> Array:
        return _diagonal(self._slope(z))

    def vjp(self, z: Array, a: Array, dl_da: Array) -> Array:
        return self._slope(z) * dl_da


@dataclass(frozen=True)
class Identity:
    """a = z: the scores themselves, for losses that are stated on scores."""

    name: ClassVar[str] = "identity"
    range: ClassVar[str] = "real"

    def __call__(self, z: Array) -> Array:
        return z

    def jacobian(self, z: Array, a: Array) -> Array:
        return _diagonal(namespace(z).ones_like(z))

    def vjp(self, z: Array, a: Array, dl_da: Array) -> Array:
        return dl_da


ACTIVATIONS: dict[str, type[Activation]] = {cls.name: cls for cls in (Softmax, LogSoftmax, Sigmoid, Identity)}
