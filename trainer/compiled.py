"""softmax with ce as one compiled loop, for ``gradient.compiled=true``: the formula of gradients.fused in fewer passes.

numpy takes each step of the formula over the whole block; here a strip of rows stays in the cache for all of them.
Needs numba (the extra ``fast``). The reference is numpy's form, and both agree to 1e-12.
"""

import math
from typing import Any

import numba
import numpy as np

from trainer.arrays import Array

STRIP = 256  # rows at a time: their exponentials (K,256) stay in the cache
ROUND = 1.5 * 2.0**52  # x + ROUND - ROUND is x rounded, and the sum's last bits are that integer
LN2_HIGH, LN2_LOW = (
    6.93147180369123816490e-01,
    1.90821492927058770002e-10,
)  # ln 2 in two parts
C3, C4, C5, C6, C7, C8, C9, C10, C11, C12, C13 = (1 / math.factorial(n) for n in range(3, 14))  # Taylor's, of exp


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "nsz"})
def _strips(z: Array, y: Array, temperature: float, loss: Array, dl_dz: Array) -> None:
    """All arrays (K,N) but loss (N,)."""
    classes, rows = z.shape
    e = np.empty((classes, STRIP))
    top, s, share, t, o, hit = np.empty((6, STRIP))
    scale = 1 / temperature
    power = np.empty(STRIP, dtype=np.int64)
    as_float = power.view(np.float64)
    for start in range(0, rows, STRIP):
        n = min(STRIP, rows - start)
        part = slice(start, start + n)
        top[:n] = z[0, part]
        s[:n] = y[0, part]
        for k in range(1, classes):
            for i in range(n):
                top[i] = z[k, start + i] if z[k, start + i] > top[i] else top[i]
                s[i] += y[k, start + i]
        for i in range(n):
            share[i] = 1 / s[i] if s[i] > 0 else 0.0
        t[:n], o[:n], hit[:n] = 0.0, 0.0, 0.0
        for k in range(classes):
            row = e[k]
            for i in range(n):  # exp(d) = 2^m exp(r) with r = d - m ln 2
                d = (z[k, start + i] - top[i]) * scale
                hit[i] += y[k, start + i] * d if y[k, start + i] > 0 else 0.0
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
                q = 1.0 if y[k, start + i] == s[i] else y[k, start + i] * share[i]
                t[i] += q * row[i]
                o[i] += row[i] - q * row[i]
        for i in range(n):
            loss[start + i] = s[i] * math.log1p(o[i] + (t[i] - 1)) - hit[i]
            hit[i] = s[i] / ((o[i] + t[i]) * temperature)
        for k in range(classes):
            for i in range(n):
                q = 1.0 if y[k, start + i] == s[i] else y[k, start + i] * share[i]
                dl_dz[k, start + i] = (e[k, i] - q * t[i] - q * o[i]) * hit[i]


def softmax_ce(activation: Any, z: Array, y: Array) -> tuple[Array, Array]:
    """loss (N,) and dl_dz (N,K) for scores z and target rows y (N,K), best F-ordered."""
    z, y = (np.ascontiguousarray(part.T) for part in (z, y))
    values, dl_dz = np.empty(z.shape[1], dtype=z.dtype), np.empty_like(z)
    _strips(z, y, float(activation.temperature), values, dl_dz)
    return values, dl_dz.T
