"""When a solver has converged: an honest rule, the same for all of them, and its reason in a sentence."""

import math
from typing import Any

import numpy as np

from trainer.arrays import Array
from trainer.errors import require


def check_tol(tol: float) -> None:
    """ConfigError for a tolerance that cannot be."""
    require(0 < tol < math.inf, f"optimizer.tol must be finite and greater than 0, got {tol}.")


def converged(size: float, first: float, value: float, tol: float) -> str:
    """Why to stop, if there is a reason: size = |g|_P^2, first its largest value so far, value = E(w).

    The second bound is for a start near the optimum, whose first value says nothing: half of |g|_P^2 is about the gap
    to the minimum, and E itself is a scale for that.
    """
    length = math.sqrt(max(size, 0.0))
    for scale, of in ((math.sqrt(first), "its first value"), (math.sqrt(2 * max(value, 0.0)), "(2 E)^(1/2)")):
        if length <= tol * scale:
            return f"the preconditioned gradient norm is {length:.1e}, at most tol={tol:g} of {of}, {scale:.1e}."
    return ""


def exhausted(g: Array, d: Array, value: float, w: Array) -> str:
    """The reason where the fall of E that a step d promises, half of its slope, is within the rounding of E.

    Such a step is still worth taking, as the gradient has more digits than E, and is the last.
    """
    promised = -float(np.vdot(g, d)) / 2
    if promised > noise(value, w.dtype):
        return ""
    return f"the next step promises to lower the objective by {promised:.0e}, within its rounding in {w.dtype}."


def noise(value: float, dtype: Any) -> float:
    """The rounding of E, which is a sum over many rows."""
    return 4 * float(np.finfo(dtype).eps) * abs(value)
