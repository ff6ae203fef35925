"""When a solver may believe that it is done, and what it has to show before it says so.

Its own rule, the size of the gradient in the metric of its preconditioner, only asks the question. The answer is the
certificate, which knows nothing of the solver; where there can be none, the rule must do, in double precision.
"""

import math
from typing import Any

import numpy as np

from trainer.errors import require
from trainer.objective.certificate import Certificate


def check_tol(tol: float, gap: float) -> None:
    """ConfigError for tolerances that cannot be.

    >>> check_tol(0.0, 1e-6)
    Traceback (most recent call last):
    trainer.errors.ConfigError: optimizer.tol must be finite and greater than 0, got 0.0.
    """
    require(0 < tol < math.inf, f"optimizer.tol must be finite and greater than 0, got {tol}.")
    require(0 < gap < math.inf, f"optimizer.gap must be finite and greater than 0, got {gap}.")


def enough(tol: float, value: float, first: float, provable: bool) -> float:
    """The length |g|_P at which a solver asks whether it is done: half of its square is about the gap to the minimum.

    It is tol (2 E)^(1/2), or tol times the largest length so far, the root of first, where that is more and a
    certificate can say that it was too soon.

    >>> enough(1e-6, value=0.5, first=4.0, provable=True), enough(1e-6, value=0.5, first=4.0, provable=False)
    (2e-06, 1e-06)
    """
    return tol * math.sqrt(max(2 * max(value, 0.0), first if provable else 0.0))


def believes(length: float, value: float, fell: float, enough: float) -> str:
    """Why a solver may be done, if there is a reason; length = |g|_P, and value = E(w) fell by so much in a step.

    >>> believes(length=1e-9, value=0.5, fell=0.0, enough=1e-6)
    'the preconditioned gradient norm is 1.0e-09, at most 1.0e-06 as tol asks'
    """
    if length <= enough:
        return f"the preconditioned gradient norm is {length:.1e}, at most {enough:.1e} as tol asks"
    gain = min(length**2 / 2, fell)
    if gain <= noise(value, np.float64):
        return f"a step lowers the objective by {gain:.0e}, within its rounding"
    return ""


def noise(value: float, dtype: Any) -> float:
    """The rounding of E, which is a sum over many rows.

    >>> noise(1.0, np.float32) > 1e-7 > noise(1.0, np.float64)
    True
    """
    return 4 * float(np.finfo(dtype).eps) * abs(value)


def told(why: str, proof: Certificate) -> str:
    """The reason of an end, with what was proved.

    >>> told("no step lowers the objective", Certificate(3e-7, "certified to 3.0e-07 of E"))
    'no step lowers the objective; certified to 3.0e-07 of E.'
    """
    return f"{why}; {proof.why}" + ("" if proof.why.endswith(".") else ".")


def unproved(proof: Certificate, gap: float) -> str:
    """What a solver says that can do no more.

    >>> unproved(Certificate(None, "no proof: the pair is not convex."), 1e-6)
    'no lower point can be found; no proof: the pair is not convex.'
    """
    if proof.gap is None:
        return f"no lower point can be found; {proof.why}"
    return (
        f"{proof.why}, where optimizer.gap={gap:g} is asked for; rounding allows no more. Standardise the features, or "
        "take a stronger penalty."
    )
