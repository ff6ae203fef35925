"""The functions of the project on numbers of 300 digits: the loss of a pair and its differences, free of rounding."""

import mpmath
import numpy as np

from trainer.chain.strategies import value

DIGITS = 300
STEP = mpmath.mpf(10) ** -140  # central differences are then good to 160 digits beside the largest derivative


class Exact(np.ndarray):
    """An array of mpmath's numbers whose namespace is mpmath's functions, entry by entry."""

    def __array_namespace__(self):
        return Namespace

    @classmethod
    def of(cls, array):
        return np.frompyfunc(lambda x: mpmath.mpf(float(x)), 1, 1)(array).view(cls)


class Namespace:
    """What an activation or a loss asks of numpy, on Exact arrays."""

    exp, log, log1p, expm1, sqrt, tanh = (
        staticmethod(np.frompyfunc(getattr(mpmath, name), 1, 1))
        for name in ("exp", "log", "log1p", "expm1", "sqrt", "tanh")
    )
    abs, sign, arange, argmax, take_along_axis = map(
        staticmethod, (np.abs, np.sign, np.arange, np.argmax, np.take_along_axis)
    )
    sum, max, cumulative_sum, flip, sort = map(staticmethod, (np.sum, np.max, np.cumulative_sum, np.flip, np.sort))
    int64, inf = np.int64, np.inf

    @staticmethod
    def where(condition, then, other):
        return np.where(condition, then, other if isinstance(other, np.ndarray) else mpmath.mpf(other)).view(Exact)

    @staticmethod
    def astype(array, dtype):
        return np.asarray(array).astype(dtype).view(Exact)

    @staticmethod
    def ones_like(array):
        return Exact.of(np.ones(array.shape))

    @staticmethod
    def zeros_like(array):
        return Exact.of(np.zeros(array.shape))


def loss_and_dl_dz(activation, loss, z, y):
    """loss (N,) by its definition, and dl_dz (N,K) by central differences of it."""
    with mpmath.workdps(DIGITS):
        z, y = Exact.of(z), Exact.of(y)
        columns = []
        for k in range(z.shape[1]):
            shift = Exact.of(np.arange(z.shape[1]) == k) * STEP
            columns.append((value(activation, loss, z + shift, y) - value(activation, loss, z - shift, y)) / (2 * STEP))
        return np.asarray(value(activation, loss, z, y)), np.stack([np.asarray(column) for column in columns], axis=1)
