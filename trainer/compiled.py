"""softmax with ce and labels as one compiled loop, for ``gradient.compiled=true``: fused in fewer passes.

numpy takes each step of the formula over the whole block; here a strip of rows stays in the cache for all of them.
Needs numba (the extra ``fast``). The reference is numpy's form, and both agree to 1e-12.
"""

import math

import numba
import numpy as np

from trainer.arrays import Array

STRIP = 256  # rows at a time: their exponentials (K,256) stay in the cache
ROUND = 1.5 * 2.0**52  # x + ROUND - ROUND is x rounded, and the sum's last bits are that integer
LN2_HIGH, LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10  # ln 2 in two parts
C3, C4, C5, C6, C7, C8, C9, C10, C11, C12, C13 = (1 / math.factorial(n) for n in range(3, 14))  # Taylor's, of exp


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "nsz"})
def _strips(z: Array, labels: Array, temperature: float, loss: Array, dl_dz: Array) -> None:
    """z and dl_dz are (K,N), labels and loss (N,)."""
    classes, rows = z.shape
    e = np.empty((classes, STRIP))
    top, o, scale = np.empty((3, STRIP))
    power = np.empty(STRIP, dtype=np.int64)
    as_float = power.view(np.float64)
    for start in range(0, rows, STRIP):
        n = min(STRIP, rows - start)
        for i in range(n):
            top[i] = z[0, start + i]
            o[i] = 0.0
        for k in range(1, classes):
            for i in range(n):
                top[i] = z[k, start + i] if z[k, start + i] > top[i] else top[i]
        for k in range(classes):
            row = e[k]
            for i in range(n):  # exp(d) = 2^m exp(r) with r = d - m ln 2
                d = z[k, start + i] - top[i]
                d = d if d > -708.0 else -708.0  # below, exp is not a normal number
                turned = d * 1.4426950408889634 + ROUND
                as_float[i] = turned
                m = turned - ROUND
                r = (d - m * LN2_HIGH) - m * LN2_LOW
                p = C13
                p = p * r + C12
                p = p * r + C11
                p = p * r + C10
                p = p * r + C9
                p = p * r + C8
                p = p * r + C7
                p = p * r + C6
                p = p * r + C5
                p = p * r + C4
                p = p * r + C3
                p = p * r + 0.5
                row[i] = 1.0 + (r + r * r * p)
            for i in range(n):
                power[i] = (power[i] + 1023) << 52
            for i in range(n):
                row[i] *= as_float[i]
        for i in range(n):
            scale[i] = e[labels[start + i], i]
            e[labels[start + i], i] = 0.0
        for k in range(classes):
            for i in range(n):
                o[i] += e[k, i]
        for i in range(n):
            label = labels[start + i]
            loss[start + i] = math.log1p(o[i] + (scale[i] - 1)) - (z[label, start + i] - top[i])
            e[label, i] = -o[i]
            scale[i] = 1 / ((o[i] + scale[i]) * temperature)
        for k in range(classes):
            for i in range(n):
                dl_dz[k, start + i] = e[k, i] * scale[i]


def softmax_ce(z: Array, labels: Array, temperature: float) -> tuple[Array, Array]:
    """loss (N,) and dl_dz (N,K) for scores z (N,K), already divided by the temperature, and labels (N,)."""
    rows = np.ascontiguousarray(z.T)
    values, dl_dz = np.empty(len(labels), dtype=z.dtype), np.empty_like(rows)
    _strips(rows, labels, float(temperature), values, dl_dz)
    return values, dl_dz.T
