"""The letters and shapes that every file uses, and the few array helpers that belong to no one else.

============  ==============  =============================================================================
letter        shape           meaning
============  ==============  =============================================================================
``x``         (N, D)          features
``y``         (..., N, K)     target rows, non-negative: one-hot, soft, multi-hot or all-zero; ``s = y.sum(-1)``;
                              one-hot rows may be labels (..., N), integers, where a strategy takes them
``w``         (D+1, K)        parameters; the last row is the bias, which no penalty touches
``z``         (..., N, K)     scores ``x @ w[:-1] + w[-1]``
``a``         (..., N, K)     activation of the scores: the prediction
``loss``      (..., N)        per sample; weights and the mean are the objective's business
``dl_da``     (..., N, K)     derivative of each sample's loss, and ``dl_dz`` likewise
``da_dz``     (..., N, K, K)  ``da_dz[..., n, j, k]`` is d a_j / d z_k; a contraction with ``dl_da`` sums over j
============  ==============  =============================================================================

The leading axes ``...`` are a stack of models over the same rows, and one model is the case without them. Activations,
losses and strategies reduce over the last axis and broadcast over the rest, so ``y`` may lack the stack that ``z`` has.
Other docstrings leave the stack away.

Blocks of scores are F-ordered: a reduction over the K classes then runs along the long axis N.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def namespace(array: Array) -> Any:
    """The module whose functions fit the array, so that the mathematics is not tied to numpy."""
    if type(array) is np.ndarray:
        return np
    if hasattr(array, "__array_namespace__"):
        return array.__array_namespace__()
    from array_api_compat import array_namespace  # torch's tensors do not know their own

    return array_namespace(array)


def as_type(array: Array, dtype: Any) -> Array:
    """The array in a dtype of its namespace, or in what numpy's dtype is there; itself where it has that."""
    if isinstance(array, np.ndarray):
        return array.astype(dtype, copy=False)
    xp = namespace(array)
    own = getattr(xp, np.dtype(dtype).name) if isinstance(dtype, type | np.dtype) else dtype
    return xp.astype(array, own, copy=False)


def in_double(array: Array, axis: int | None = None) -> Any:
    """The sum, in double precision."""
    if isinstance(array, np.ndarray):
        return array.sum(axis=axis, dtype=np.float64)  # the method takes half of the time where there are few numbers
    xp = namespace(array)
    return xp.sum(array, axis=axis, dtype=xp.float64)


def over_rows(array: Array) -> Array:
    """The sum over the rows (...,1,K), which stays in its dtype."""
    if isinstance(array, np.ndarray):
        return array.sum(axis=-2, keepdims=True)
    return namespace(array).sum(array, axis=-2, keepdims=True)


def dot(rows: Array, weight: Array) -> Array:
    """rows (...,N) times weight (N,); of two dtypes in the second, where numpy does not choose."""
    return (rows if isinstance(rows, np.ndarray) else as_type(rows, weight.dtype)) @ weight


def are_ones(factor: Any) -> bool:
    """Whether a factor is known to change nothing; of other arrays than numpy's nobody asks, who would have to wait."""
    return isinstance(factor, float | int | np.ndarray) and bool(np.all(factor == 1))


def one_hot(labels: Array, classes: int, dtype: Any) -> Array:
    """Target rows (N,K) with a one in the column of each label (N,); F-ordered as all that is numpy's."""
    columns = namespace(labels).arange(classes, device=labels.device)
    if isinstance(labels, np.ndarray):
        return as_type(columns[:, None] == labels[..., None, :], dtype).mT
    return as_type(labels[..., None] == columns, dtype)


def are_labels(y: Array, z: Array) -> bool:
    """Whether targets of scores z (...,N,K) are labels: (N,) of all models, or (...,N) of each its own."""
    return y.ndim == 1 or (y.shape == z.shape[:-1] and not namespace(y).isdtype(y.dtype, "real floating"))


def contraction(dl_da: Array, da_dz: Array) -> Array:
    """sum_j dl_da[..., j] da_dz[..., j, k]  (N,K), by einsum where there is one: the standard has none."""
    xp = namespace(dl_da)
    if hasattr(xp, "einsum"):
        return xp.einsum("...j,...jk->...k", dl_da, da_dz)
    return xp.sum(dl_da[..., None] * da_dz, axis=-2)


def others(h: Array) -> Array:
    """Row sums without the entry itself, ``sum_{i != j} h_i`` (N,K), by prefix and suffix sums.

    ``h.sum(-1) - h`` would lose the small entries beside a large one; here nothing is ever subtracted.
    """
    xp = namespace(h)
    zero = xp.zeros_like(h[..., :1])
    before = xp.concat([zero, xp.cumulative_sum(h[..., :-1], axis=-1)], axis=-1)
    after = xp.flip(xp.cumulative_sum(xp.flip(h[..., 1:], axis=-1), axis=-1), axis=-1)
    return before + xp.concat([after, zero], axis=-1)


def row_sum(terms: Array) -> Array:
    """The sum over the classes: (N,K) to (N,).

    >>> row_sum(np.array([[2.0, 1.0, -1.0]]))
    array([2.])
    """
    return namespace(terms).sum(terms, axis=-1)


def where(condition: Array, then: Array) -> Array:
    """``then`` where the condition holds, else an exact zero.

    >>> where(np.array([True, False]), np.array([2.0, np.nan]))
    array([2., 0.])
    """
    return namespace(then).where(condition, then, 0.0)


def x_log_x(a: Array) -> Array:
    """a log a, zero at zero.

    >>> x_log_x(np.array([0.0, 1.0, np.e]))
    array([0.        , 0.        , 2.71828183])
    """
    xp = namespace(a)
    return xp.where(a > 0, a * xp.log(xp.where(a > 0, a, 1.0)), 0.0)


def diagonal(d: Array) -> Array:
    """diag(d_n) for every row: (N,K) to (N,K,K).

    >>> diagonal(np.array([[2.0, 3.0]]))
    array([[[2., 0.],
            [0., 3.]]])
    """
    xp = namespace(d)
    return d[..., :, None] * xp.eye(d.shape[-1], dtype=d.dtype, device=d.device)
