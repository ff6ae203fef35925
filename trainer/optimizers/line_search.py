"""Line searches: how far to go along a direction of descent."""

import math

import numpy as np

from trainer.arrays import Array
from trainer.optimizers.protocols import Problem
from trainer.optimizers.stopping import noise

SUFFICIENT = 1e-4  # of the decrease that the slope promises (Armijo)
LEFT = 0.9  # of the slope may be left (Wolfe)
MUCH = 0.3  # of the slope
TRIALS = 40


def armijo(problem: Problem, w: Array, value: float, g: Array, d: Array, single: bool) -> Array | None:
    """w + t d for the first t = 1, 1/2, 1/4 ... with E(w + t d) <= E(w) + 1e-4 t <g, d>; None if no t has that.

    From t = 1 it quadruples as long as E falls and more than 3/10 of the slope are left: where the loss is nearly
    exponential, as on data that a plane separates, Newton's steps are far too short.
    """
    slope, t = float(np.vdot(g, d)), 1.0
    rounding = noise(value, np.float32 if single else w.dtype)
    for _ in range(TRIALS):
        there = (w + t * d).astype(w.dtype)
        e, after = _along(problem, there, d, single)
        if _falls(e, after, value, slope, t, rounding):
            break
        if -t * slope < rounding:
            return None  # what a shorter step could gain cannot be seen
        t /= 2
    else:
        return None
    while t >= 1 and after < MUCH * slope:
        t *= 4
        further = (w + t * d).astype(w.dtype)
        before, (e, after) = e, _along(problem, further, d, single)
        if not e < before:
            break
        there = further
    return there


def wolfe(problem: Problem, w: Array, value: float, g: Array, d: Array, single: bool) -> Array | None:
    """w + t d that falls as for backtrack and leaves at most 9/10 of the slope, so that a secant along d is positive.

    From t = 1 the step doubles until the minimum along d is bracketed; the bracket then shrinks by the minimiser of
    the cubic through both ends, kept inside its middle four fifths  (Nocedal & Wright 2006, alg. 3.5).
    """
    slope, t = float(np.vdot(g, d)), 1.0
    rounding = noise(value, np.float32 if single else w.dtype)
    low, high = (0.0, value, slope), None  # t, E and slope there
    for _ in range(TRIALS):
        there = (w + t * d).astype(w.dtype)
        e, after = _along(problem, there, d, single)
        if not _falls(e, after, value, slope, t, rounding):
            if -t * slope < rounding:
                return None
            high = (t, e, after)
        elif abs(after) <= -LEFT * slope:
            return there
        elif after > 0:
            high = (t, e, after)
        else:
            low = (t, e, after)
        t = 2 * t if high is None else _between(low, high)
    return (w + low[0] * d).astype(w.dtype) if low[0] else None


def _along(problem: Problem, there: Array, d: Array, single: bool) -> tuple[float, float]:
    """E there, and its slope along d."""
    e, g = problem.value_and_grad(there, single)
    return e, float(np.vdot(g.astype(np.float64), d))


def _falls(e: float, after: float, value: float, slope: float, t: float, rounding: float) -> bool:
    """Whether E has fallen enough; where it has no digits left to tell, whether its slope has."""
    if not math.isfinite(e):
        return False
    if -t * slope > 2 * rounding:
        return e <= value + SUFFICIENT * t * slope
    return e <= value + rounding and abs(after) <= -LEFT * slope


def _between(low: tuple[float, float, float], high: tuple[float, float, float]) -> float:
    """The minimiser of the cubic with these values and slopes, inside the middle of the bracket; else its middle."""
    (a, f, p), (b, h, q) = low, high
    inside = b - a
    if math.isfinite(h) and math.isfinite(q):
        one = p + q - 3 * (f - h) / (a - b)
        root = one * one - p * q
        if root >= 0:
            two = math.copysign(math.sqrt(root), inside)
            bottom = q - p + 2 * two
            if bottom != 0:
                t = b - inside * (q + two - one) / bottom
                return float(min(max(t, a + 0.1 * inside), a + 0.9 * inside))
    return a + inside / 2
