"""optimizer=newton: Newton's method by preconditioned conjugate gradients, with a line search."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from trainer.arrays import Array
from trainer.optimizers.line_search import armijo
from trainer.optimizers.precision import too_near, with_start_and_precision
from trainer.optimizers.protocols import Curvature, Problem, Step
from trainer.optimizers.stopping import check_tol, converged, exhausted

STALE = 2.0  # the metric is renewed once the mean curvature has changed by this factor
ETA = 0.25  # of |g|_P that the inner solver leaves
LARGEST_CG = 250  # products of one step
RADIUS = 1000.0  # of the preconditioned gradient, whose length is that of the step where P is the inverse of H


class NewtonState(NamedTuple):
    """|g|_P^2 at the start, the features' share of the preconditioner as it was made last, and whether all is exact."""

    first: float
    metric: Any
    exact: bool


@dataclass(frozen=True)
class Newton:
    """w <- w + t d with H d = -g, solved to |residual|_P <= eta |g|_P  (Dembo, Eisenstat & Steihaug 1982).

    |g|_P^2 = <g, P g> with the preconditioner P of trainer.curvature, so half of it estimates E(w) less its minimum.
    A direction of negative curvature ends the inner solver with what it has. The first step goes from the best
    prediction without features, where that is known. Converged once |g|_P is at most tol times its first value, or tol
    times (2 E)^(1/2) where that is more, or once no step lowers E by more than its rounding.

    Until the estimated fall of E is a millionth of it, E and g of a canonical pair are taken in single precision and
    eta = 1/4, which leaves a sixteenth of the gap and spends the fewest products in all. Then a gradient costs more
    than a product, and eta = min(1/4, (|g|_P / |g_0|_P)^(1/2)) makes the convergence superlinear.
    """

    name: ClassVar[str] = "newton"
    full_batch: ClassVar[bool] = True
    tol: float = 1e-6

    def __post_init__(self) -> None:
        check_tol(self.tol)

    def init(self, w: Array) -> NewtonState:
        return NewtonState(0.0, None, False)

    def step(self, problem: Problem, w: Array, state: NewtonState) -> Step:
        return with_start_and_precision(self._step, problem, w, state)

    def _step(self, problem: Problem, w: Array, state: NewtonState, single: bool) -> Step | None:
        """None in single precision where that is too little."""
        value, g = problem.value_and_grad(w, single)
        g = g.astype(np.float64)
        curvature = problem.curvature(w)
        metric = state.metric
        if metric is None or not 1 / STALE < curvature.level() / (metric.level or 1.0) < STALE:
            metric = curvature.metric()
        precondition = curvature.inverse(metric)
        y = precondition(g)
        size = float(np.vdot(g, y))  # |g|_P^2
        if single and too_near(size, value):
            return None
        first = max(state.first, size)
        state = state._replace(first=first, metric=metric)
        if reason := converged(size, first, value, self.tol):
            return Step(w, state, value, reason)
        eta = ETA if single else min(ETA, (size / first) ** 0.25)
        d = conjugate_gradients(curvature, precondition, g, y, eta)
        found = armijo(problem, w, value, g, d, single)
        if single and found is None:
            return None
        return Step(w if found is None else found, state, value, exhausted(g, d, value, w))


def conjugate_gradients(curvature: Curvature, precondition: Any, g: Array, y: Array, eta: float) -> Array:
    """d (D+1,K) with H d = -g, up to |H d + g|_P <= eta |g|_P; y = P g.  Always a direction of descent.

    It ends where the curvature is not positive, or d longer than RADIUS |y| in the norm of the inverse of P, which a
    direction almost without curvature makes of it  (Steihaug 1983).
    """
    d = np.zeros_like(g)
    residual, q = -g, -y
    size = first = qq = float(np.vdot(g, y))
    dd = dq = 0.0  # <d, d> and <d, q> with the inverse of P between them, and qq = <q, q>
    for number in range(LARGEST_CG):
        hq = curvature.hvp(q)
        bend = float(np.vdot(q, hq))
        step = size / bend if bend > 0 else np.inf
        dd += 2 * step * dq + step**2 * qq
        if not dd <= RADIUS**2 * first:
            return d if number else -y
        d += step * q
        residual = residual - step * hq
        y = precondition(residual)
        before, size = size, float(np.vdot(residual, y))
        if size <= eta**2 * first:
            break
        turn = size / before
        q = y + turn * q
        dq, qq = turn * (dq + step * qq), size + turn**2 * qq
    return d
