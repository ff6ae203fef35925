"""The Hessian of each row's loss by its scores, as a product: what a solver's Hessian consists of."""

from collections.abc import Callable
from typing import Any

import numpy as np

from trainer.arrays import Array
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
    a = inner(z).astype(dtype)
    s = row_factor(activation, loss, y).astype(dtype)
    z = z.astype(dtype)
    if (s == 1).all():
        return lambda u: inner.vjp(z, a, u)
    return lambda u: s * inner.vjp(z, a, u)


def row_hessian_of_slope(activation: Activation, loss: Loss, dl_dz: Array, data: Data) -> RowHessian:
    """The same for softmax and log_softmax, from dl_dz (...,N,K), where that is known already."""
    softmax: Any = entropic(activation)
    product: RowHessian = softmax.row_hessian(*prediction_of_slope(activation, loss, dl_dz, data))
    return product


def prediction_of_slope(activation: Activation, loss: Loss, dl_dz: Array, data: Data) -> tuple[Array, Any]:
    """a (...,N,K) and its factor, a number or (N,1), of softmax and log_softmax, from dl_dz = factor a - share y."""
    share = target_share(activation, loss)
    factor: Any = share
    if data.one_hot:
        a = np.array(dl_dz, order="K")
        a.mT.ravel()[places(data.y, a.mT.shape)] += share
    else:
        y = data.targets(dl_dz.dtype)
        factor = row_factor(activation, loss, y)
        a = dl_dz + share * y
    if np.any(factor != 1):
        a /= np.where(factor > 0, factor, 1.0)
    return a, factor


def row_factor(activation: Activation, loss: Loss, y: Array) -> Array:
    """The factor (N,1) of a in dl_dz: s/T for softmax with ce, one for fenchel_young and where classes stand alone."""
    if known(loss, "entropy") == "own" or not softmax_like(activation, loss):
        return np.ones((len(y), 1), dtype=y.dtype)
    factor: Array = y.sum(axis=1, keepdims=True) / known(activation, "temperature")
    return factor


def _by_differences(activation: Activation, loss: Loss, z: Array, y: Array, dtype: Any) -> RowHessian:
    size = np.maximum(np.abs(z).max(axis=1, keepdims=True), 1) * np.cbrt(np.finfo(z.dtype).eps)  # (N,1)

    def product(u: Array) -> Array:
        length = np.abs(u).max(axis=1, keepdims=True)
        step = size / np.where(length > 0, length, 1.0).astype(z.dtype)
        up, down = (auto(activation, loss, z + sign * step * u, y).dl_dz for sign in (1, -1))
        return np.asarray((up - down) / (2 * step), dtype=dtype)

    return product
