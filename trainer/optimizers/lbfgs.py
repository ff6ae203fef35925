"""optimizer=lbfgs: the quasi-Newton method of limited memory, whose first metric is the curvature's preconditioner."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from trainer.arrays import Array
from trainer.errors import require
from trainer.optimizers.line_search import wolfe
from trainer.optimizers.precision import too_near, with_start_and_precision
from trainer.optimizers.protocols import Problem, Step
from trainer.optimizers.stopping import check_tol, converged, exhausted

RENEWED = 10  # iterations between two preconditioners


class LbfgsState(NamedTuple):
    """|g|_P^2 at the start, pairs (w' - w, g' - g) from the oldest, where P was made, with the features' share.

    exact tells that single precision has had its day.
    """

    first: float
    pairs: tuple[tuple[Array, Array], ...]
    made: int
    at: Array | None
    metric: Any
    exact: bool


@dataclass(frozen=True)
class Lbfgs:
    """w <- w - t H g with the inverse Hessian H that the last pairs of steps and gradients make of the metric P.

    Two-loop recursion  (Nocedal & Wright 2006, alg. 7.4) from P of trainer.curvature, renewed every ten iterations and
    scaled by <s, y> / <y, P y> of the last pair; a line search for the strong Wolfe conditions from t = 1. Start, end
    and the use of single precision are those of optimizer=newton.
    """

    name: ClassVar[str] = "lbfgs"
    full_batch: ClassVar[bool] = True
    tol: float = 1e-6
    memory: int = 20

    def __post_init__(self) -> None:
        check_tol(self.tol)
        require(self.memory >= 1, f"optimizer.memory must be at least 1, got {self.memory}.")

    def init(self, w: Array) -> LbfgsState:
        return LbfgsState(0.0, (), 0, None, None, False)

    def step(self, problem: Problem, w: Array, state: LbfgsState) -> Step:
        return with_start_and_precision(self._step, problem, w, state)

    def _step(self, problem: Problem, w: Array, state: LbfgsState, single: bool) -> Step | None:
        value, g = problem.value_and_grad(w, single)
        g = g.astype(np.float64)
        at, metric = state.at, state.metric
        if at is None or state.made % RENEWED == 0:
            at, metric = w, problem.curvature(w).metric()
        precondition = problem.curvature(at).inverse(metric)
        size = float(np.vdot(g, precondition(g)))  # |g|_P^2
        if single and too_near(size, value):
            return None
        first = max(state.first, size)
        state = state._replace(first=first, made=state.made + 1, at=at, metric=metric)
        if reason := converged(size, first, value, self.tol):
            return Step(w, state, value, reason)
        for pairs in (state.pairs, ()) if state.pairs else ((),):  # where the pairs mislead, from the metric alone
            d = -_two_loops(g, pairs, precondition)
            found = wolfe(problem, w, value, g, d, single)
            if found is not None:
                break
        else:
            return None if single else Step(w, state, value, exhausted(g, d, value, w))
        s, y = found - w, problem.value_and_grad(found, single)[1] - g
        if np.vdot(s, y) > 1e-10 * np.linalg.norm(s) * np.linalg.norm(y):
            pairs = (*pairs, (s.astype(np.float64), y.astype(np.float64)))[-self.memory :]
        return Step(found, state._replace(pairs=pairs), value, exhausted(g, d, value, w))


def _two_loops(g: Array, pairs: tuple[tuple[Array, Array], ...], precondition: Any) -> Array:
    """H g (D+1,K)."""
    q, shares = g, []
    for s, y in reversed(pairs):
        shares.append(float(np.vdot(s, q) / np.vdot(s, y)))
        q = q - shares[-1] * y
    r: Array = precondition(q)
    if pairs:
        s, y = pairs[-1]
        r = r * float(np.vdot(s, y) / np.vdot(y, precondition(y)))
    for (s, y), share in zip(pairs, reversed(shares), strict=True):
        r = r + (share - float(np.vdot(y, r) / np.vdot(s, y))) * s
    return r
