"""Line searches: how far to go along a direction of descent, from t = 1.

Where E has no digits left to tell whether it fell, its slope tells.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from trainer.arrays import Array
from trainer.errors import NonFiniteError
from trainer.objective.view import Evaluated, View

SUFFICIENT = 1e-4  # of the decrease that the slope promises (Armijo)
LEFT = 0.9  # of the slope may be left (Wolfe)
MUCH = 0.3  # of the slope
TRIALS = 40


class Trial(NamedTuple):
    """A point of the line: the step t, E and its slope along the line there; point is None where E is not finite.

    >>> Trial(t=0.5, value=0.7, slope=-0.1, point=None).slope
    -0.1
    """

    t: float
    value: float
    slope: float
    point: Evaluated | None


Line = Callable[[float], Trial]


def along(view: View, here: Evaluated, d: Array) -> Line:
    """t -> the trial at v + t d (D+1,K), rounded to what the problem's own w can say.

    >>> view = problem.view(np.float64)
    >>> here = view.at(w)
    >>> print(f"{along(view, here, -here.g)(1.0).value:.3f}")
    0.657
    """

    def trial(t: float) -> Trial:
        w = view.leave(here.v + t * d).astype(here.w.dtype)
        try:
            point = view.at(w)
        except NonFiniteError:  # a trial may go too far, where the strategy fails
            return Trial(t, math.inf, math.inf, None)
        return Trial(t, point.value, float(np.vdot(point.g, d)), point)

    return trial


def armijo(line: Line, start: Trial, rounding: float) -> Evaluated | None:
    """The first of t = 1, 1/2, 1/4 ... with E(t) <= E(0) + 1e-4 t E'(0); None if no t has that.

    From t = 1 it quadruples as long as E falls and more than 3/10 of the slope are left: where the loss is nearly
    exponential, as on data that a plane separates, Newton's steps are far too short.

    >>> line = lambda t: Trial(t, (t - 3) ** 2, 2 * (t - 3), t)  # the point is t itself
    >>> armijo(line, line(0.0), rounding=0.0)
    4.0
    """
    t = 1.0
    for _ in range(TRIALS):
        found = line(t)
        if _falls(found, start, rounding):
            break
        if _hopeless(found, start, rounding):
            return None
        t /= 2
    else:
        return None
    while found.t >= 1 and found.slope < MUCH * start.slope:
        further = line(4 * found.t)
        if not further.value < found.value:
            break
        found = further
    return found.point


def wolfe(line: Line, start: Trial, rounding: float) -> Evaluated | None:
    """A t that falls as for armijo and leaves at most 9/10 of the slope, so that a secant along the line is positive.

    The strong Wolfe conditions  (Nocedal & Wright 2006, alg. 3.5 and 3.6). From t = 1 the step doubles until the
    minimum along the line is bracketed: low is where E falls on, and high where it has not fallen enough, or rises.
    Then trials are minimisers of cubics in between; low itself will do when they run out.

    >>> line = lambda t: Trial(t, (t - 30) ** 2, 2 * (t - 30), t)  # the point is t itself
    >>> wolfe(line, line(0.0), rounding=0.0)
    4.0
    """
    low, high, t = start, None, 1.0
    for _ in range(TRIALS):
        found = line(t)
        falls = _falls(found, start, rounding)
        if falls and abs(found.slope) <= -LEFT * start.slope:
            return found.point
        if falls and found.slope <= 0:
            low = found
        else:
            high = found
        if high is not None and _hopeless(high, start, rounding):
            return None
        t = 2 * t if high is None else _between(low, high)
    return low.point if high is None or low.t else None


def _hopeless(trial: Trial, start: Trial, rounding: float) -> bool:
    """Whether E has not fallen enough, and what a shorter step could gain cannot be seen."""
    return not _falls(trial, start, rounding) and -trial.t * start.slope < rounding


def _falls(trial: Trial, start: Trial, rounding: float) -> bool:
    """Whether E has fallen enough; where it has no digits left to tell, whether its slope has."""
    if not math.isfinite(trial.value):
        return False
    if -trial.t * start.slope > 2 * rounding:
        return trial.value <= start.value + SUFFICIENT * trial.t * start.slope
    return trial.value <= start.value + rounding and abs(trial.slope) <= -LEFT * start.slope


def _between(low: Trial, high: Trial) -> float:
    """The minimiser of the cubic with the values and slopes of both  (Nocedal & Wright 2006, eq. 3.59).

    It is kept inside the middle four fifths; the middle where there is none.
    """
    length = high.t - low.t
    d1 = low.slope + high.slope - 3 * (low.value - high.value) / (low.t - high.t)
    square = d1 * d1 - low.slope * high.slope
    if not (math.isfinite(high.value) and math.isfinite(high.slope) and square >= 0):
        return low.t + length / 2
    d2 = math.sqrt(square)
    bottom = high.slope - low.slope + 2 * d2
    if bottom == 0:
        return low.t + length / 2
    t = high.t - length * (high.slope + d2 - d1) / bottom
    return float(min(max(t, low.t + 0.1 * length), low.t + 0.9 * length))
