"""The Hessian of each row's loss by its scores, as a product: what a solver's Hessian consists of."""

from collections.abc import Callable
from typing import Any

import numpy as np

from trainer.arrays import Array, are_ones, as_type, namespace
from trainer.chain.activations import Activation
from trainer.chain.fused import places
from trainer.chain.known import known
from trainer.chain.losses import Loss
from trainer.chain.pairs import canonical, entropic, softmax_like, target_share
from trainer.chain.strategies import auto
from trainer.data.rows import Data

RowHessian = Callable[[Array], Array]


def row_hessian(activation: Activation, loss: Loss, z: Array, y: Array, dtype: Any) -> RowHessian:
    """The map u (N,K) -> R u (N,K), R = d^2 loss / dz^2 of each row, in dtype.

    Canonical pairs have dl_dz = s a - y up to a factor, so R is the activation's Jacobian up to one. It is symmetric
    for all of them, so its vjp is exact.  Other pairs: central differences of dl_dz along u, to about 1e-9 of |R u|.
    """
    if not canonical(activation, loss):
        return _by_differences(activation, loss, z, y, dtype)
    inner = entropic(activation)
    a, s, z = (as_type(part, dtype) for part in (inner(z), row_factor(activation, loss, y), z))
    if are_ones(s):
        return lambda u: inner.vjp(z, a, u)
    return lambda u: s * inner.vjp(z, a, u)


def row_hessian_of_slope(activation: Activation, loss: Loss, dl_dz: Array, data: Data) -> RowHessian:
    """The same for softmax and log_softmax, from dl_dz (...,N,K), where that is known already."""
    softmax: Any = entropic(activation)
    result: RowHessian = softmax.row_hessian(*prediction_of_slope(activation, loss, dl_dz, data))
    return result


def prediction_of_slope(activation: Activation, loss: Loss, dl_dz: Array, data: Data) -> tuple[Array, Any]:
    """a (...,N,K) and its factor, a number or (N,1), of softmax and log_softmax, from dl_dz = factor a - share y."""
    share = target_share(activation, loss)
    factor: Any = share
    if data.one_hot and isinstance(dl_dz, np.ndarray):
        a = np.array(dl_dz, order="K")
        a.mT.ravel()[places(data.y, a.mT.shape)] += share
    else:
        y = data.targets(dl_dz.dtype)
        factor = factor if data.one_hot else row_factor(activation, loss, y)
        a = dl_dz + share * y
    if not are_ones(factor):
        number = isinstance(factor, float) and not isinstance(a, np.ndarray)  # whose where makes an array of one
        a /= factor if number else namespace(a).where(factor > 0, factor, 1.0)
    return a, factor


def row_factor(activation: Activation, loss: Loss, y: Array) -> Array:
    """The factor (N,1) of a in dl_dz: s/T for softmax with ce, one for fenchel_young and where classes stand alone."""
    if known(loss, "entropy") == "own" or not softmax_like(activation, loss):
        ones: Array = namespace(y).ones((y.shape[0], 1), dtype=y.dtype, device=y.device)
        return ones
    result: Array = namespace(y).sum(y, axis=1, keepdims=True) / known(activation, "temperature")
    return result


def _by_differences(activation: Activation, loss: Loss, z: Array, y: Array, dtype: Any) -> RowHessian:
    xp = namespace(z)
    size = xp.clip(xp.max(xp.abs(z), axis=1, keepdims=True), 1, None) * float(np.cbrt(xp.finfo(z.dtype).eps))  # (N,1)

    def product(u: Array) -> Array:
        length = xp.max(xp.abs(u), axis=1, keepdims=True)
        step = size / as_type(xp.where(length > 0, length, 1.0), z.dtype)
        up, down = (auto(activation, loss, z + sign * step * u, y).dl_dz for sign in (1, -1))
        return as_type((up - down) / (2 * step), dtype)

    return product
