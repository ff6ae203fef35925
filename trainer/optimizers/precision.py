"""What newton and lbfgs share: where they start, and single precision for as long as it will do."""

from collections.abc import Callable
from typing import Any

from trainer.arrays import Array
from trainer.optimizers.protocols import Problem, Step

NEAR = 1e-6  # of E


def too_near(size: float, value: float) -> bool:
    """Whether the estimated gap to the minimum, half of |g|_P^2, is hidden by E's rounding in single precision."""
    return not size / 2 > NEAR * value


def with_start_and_precision(
    step: Callable[[Problem, Array, Any, bool], Step | None], problem: Problem, w: Array, state: Any
) -> Step:
    """step(problem, w, state, single), in single precision until that returns None and for canonical pairs only.

    The first step goes from the best prediction without features, where that is known. state has the fields first,
    which is zero before the first step, and exact, which stays true from the first step in full precision.
    """
    if state.first == 0:
        w = problem.start(w)
    if not state.exact and problem.canonical and problem.copied:
        rough = step(problem, w, state, True)
        if rough is not None:
            return rough
    exact = step(problem, w, state._replace(exact=True), False)
    assert exact is not None
    return exact
