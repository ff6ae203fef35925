"""optimizer=newton and optimizer=lbfgs: precondition, ask whether it is over, choose a direction, search along it.

single precision   until the estimated gap to the minimum, half of |g|_P^2, is a millionth of E
double precision   until the solver's own rule is met, and then until the certificate holds
careful            once that has failed, or a direction was none of descent: products in double precision, too
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import ClassVar, NamedTuple

import numpy as np

from trainer.arrays import Array
from trainer.errors import require
from trainer.objective.certificate import Certificate
from trainer.objective.conjugate_gradients import conjugate_gradients
from trainer.objective.preconditioner import Preconditioner, measured, preconditioner
from trainer.objective.problem import Problem
from trainer.objective.view import Evaluated, View
from trainer.optimizers.line_search import Trial, along, armijo, wolfe
from trainer.optimizers.protocols import Step
from trainer.optimizers.stopping import believes, check_tol, enough, noise, told, unproved

NEAR = 1e-6  # of E: the gap at which single precision has nothing more to say
PATIENCE = 4  # looks at the certificate that may bring nothing
STALE = 2.0  # newton's preconditioner is renewed once the mean curvature has changed by this factor
RENEWED = 16  # iterations between two preconditioners of lbfgs
SINGLE, DOUBLE, CAREFUL = range(3)
Pair = tuple[Array, Array, float]


class State(NamedTuple):
    """What an iteration leaves for the next.

    first    the largest |g|_P^2 so far
    stage    SINGLE, DOUBLE or CAREFUL
    steps    iterations so far
    value    E before the last one
    made     w where the preconditioner was made, and number of iterations since
    age
    pairs    s = v' - v, y = g' - g and 1 / <s, y> from the oldest, of lbfgs
    gap      the best certificate so far, and how many since brought none that is half of it
    looks
    here     what was evaluated at w, and the preconditioner; both can be computed again
    metric

    >>> state = Newton().step(problem, w, State()).state
    >>> state.steps, state.age, len(state.pairs)
    (1, 1, 0)
    """

    first: float = 0.0
    stage: int = SINGLE
    steps: int = 0
    value: float = np.inf
    made: Array | None = None
    age: int = 0
    pairs: tuple[Pair, ...] = ()
    gap: float = np.inf
    looks: int = 0
    here: Evaluated | None = None
    metric: Preconditioner | None = None


@dataclass(frozen=True)
class Newton:
    """w <- w + t d with H d = -g, solved to |residual|_P <= eta |g|_P  (Dembo, Eisenstat & Steihaug 1982).

    |g|_P^2 = <g, P g> with the preconditioner P of objective.preconditioner, so half of it estimates the gap to the
    minimum. A direction of negative curvature ends the inner solver with what it has. The first step goes from the best
    prediction without features, where that is known. Once |g|_P is at most tol (2 E)^(1/2), or tol times its first
    value where there can be a certificate, or a step gains no more than the rounding of E, it asks for the certificate,
    and has converged where that is at most gap.

    In single precision eta = 1/4, which leaves a sixteenth of the gap and spends the fewest products in all. Then a
    gradient costs more than a product, and eta = min(1/4, (|g|_P / |g_0|_P)^(1/2)) makes the convergence superlinear.

    >>> Newton().step(problem, w, Newton().init(w)).w[0].round(3)
    array([-0.185,  0.185])
    """

    name: ClassVar[str] = "newton"
    state: ClassVar[type] = State
    full_batch: ClassVar[bool] = True
    patience: ClassVar[float] = 40  # iterations, after which it is careful
    tol: float = 1e-6
    gap: float = 1e-6

    def __post_init__(self) -> None:
        check_tol(self.tol, self.gap)

    def copies(self, problem: Problem, classes: int) -> int:
        return 26

    def init(self, w: Array) -> State:
        return State()

    def step(self, problem: Problem, w: Array, state: State) -> Step:
        return _iterate(self, problem, w, state)

    def stale(self, view: View, here: Evaluated, metric: Preconditioner, age: int) -> bool:
        """Whether the preconditioner, so many iterations old, is to be made anew."""
        level = float(measured(view, here.v)[1].mean())
        return not 1 / STALE < level / (metric.level or 1.0) < STALE

    def directions(
        self, view: View, here: Evaluated, metric: Preconditioner, y: Array, eta: float, state: State
    ) -> Iterator[Array]:
        """Directions d (D+1,K) to try; y = P g, and eta is how much of the gradient may be left."""
        yield conjugate_gradients(view.hessian(here), metric, here.g, y, eta)

    search = staticmethod(armijo)

    def learn(self, state: State, before: Evaluated, after: Evaluated) -> State:
        """The state after a step."""
        return state


@dataclass(frozen=True)
class Lbfgs:
    """w <- w - t H g with the inverse Hessian H that the last pairs of steps and gradients make of the metric P.

    Two-loop recursion  (Nocedal & Wright 2006, alg. 7.4) from P of objective.preconditioner, renewed every sixteen
    iterations and scaled by <s, y> / <y, P y> of the last pair; a line search for the strong Wolfe conditions from
    t = 1. Start, end and the use of single precision are those of optimizer=newton.

    >>> Lbfgs().step(problem, w, Lbfgs().init(w)).w[0].round(3)
    array([-0.185,  0.185])
    """

    name: ClassVar[str] = "lbfgs"
    state: ClassVar[type] = State
    full_batch: ClassVar[bool] = True
    patience: ClassVar[float] = math.inf
    tol: float = 1e-6
    memory: int = 20
    gap: float = 1e-6

    def __post_init__(self) -> None:
        check_tol(self.tol, self.gap)
        require(self.memory >= 1, f"optimizer.memory must be at least 1, got {self.memory}.")

    def copies(self, problem: Problem, classes: int) -> int:
        return 2 * self.memory + 24  # the pairs

    def init(self, w: Array) -> State:
        return State()

    def step(self, problem: Problem, w: Array, state: State) -> Step:
        return _iterate(self, problem, w, state)

    def stale(self, view: View, here: Evaluated, metric: Preconditioner, age: int) -> bool:
        return age >= RENEWED

    def directions(
        self, view: View, here: Evaluated, metric: Preconditioner, y: Array, eta: float, state: State
    ) -> Iterator[Array]:
        if state.pairs:
            yield -two_loops(here.g, state.pairs, metric)

    search = staticmethod(wolfe)

    def learn(self, state: State, before: Evaluated, after: Evaluated) -> State:
        s, y = after.v - before.v, after.g - before.g
        if np.vdot(s, y) > 1e-10 * np.linalg.norm(s) * np.linalg.norm(y):
            return state._replace(pairs=(*state.pairs, (s, y, 1 / float(np.vdot(s, y))))[-self.memory :])
        return state


def two_loops(g: Array, pairs: tuple[Pair, ...], precondition: Callable[[Array], Array]) -> Array:
    """H g (D+1,K).

    >>> s, y = np.array([[2.0, 0.0]]), np.array([[4.0, 1.0]])
    >>> two_loops(y, ((s, y, 1 / 8),), lambda q: q)  # the secant equation, H y = s
    array([[2., 0.]])
    """
    q, shares = g.copy(), []
    for s, y, rho in reversed(pairs):
        shares.append(rho * float(np.vdot(s, q)))
        q -= shares[-1] * y
    r: Array = precondition(q)
    if pairs:
        _, y, rho = pairs[-1]
        r *= 1 / (rho * float(np.vdot(y, precondition(y))))
    for (s, y, rho), share in zip(pairs, reversed(shares), strict=True):
        r += (share - rho * float(np.vdot(y, r))) * s
    return r


def _iterate(solver: Newton | Lbfgs, problem: Problem, w: Array, state: State) -> Step:
    """One iteration from w."""
    if state.first == 0:
        w = problem.start(w)
    if state.stage == SINGLE and not problem.rough:
        state = state._replace(stage=DOUBLE)
    if state.steps >= solver.patience:
        state = state._replace(stage=CAREFUL)
    while True:
        view = problem.view(np.float32 if state.stage == SINGLE else np.float64)
        here = state.here if state.here is not None and state.here.dtype == view.dtype else view.at(w)
        value = here.value
        if not np.isfinite(value):
            return Step(w, state, value)
        at, state = _look(solver, view, here, state)
        if state.stage == SINGLE and not at.length**2 / 2 > NEAR * value:
            state = state._replace(stage=DOUBLE)
            continue
        near = enough(solver.tol, value, state.first, problem.provable)
        over, state = _over(solver, problem, at, near, state)
        if over is not None:
            return over
        found = _search(solver, problem, at, near, state)
        if found is not None:
            last = value if state.stage != SINGLE else np.inf  # in single precision it says nothing
            state = state._replace(here=found, age=state.age + 1, steps=state.steps + 1, value=last)
            return Step(found.w, solver.learn(state, here, found), value, after=(view, found))
        if state.stage == CAREFUL:
            proof = problem.certify(w, solver.gap, here)
            why = "no step lowers the objective by more than its rounding"
            return _end(solver, at, state, proof, why if proof.proves(solver.gap) else "")
        state = state._replace(stage=state.stage + 1)


class _Look(NamedTuple):
    """What is known at w before a step: y = P g with the preconditioner P, and length = |g|_P."""

    view: View
    here: Evaluated
    metric: Preconditioner
    y: Array
    length: float


def _look(solver: Newton | Lbfgs, view: View, here: Evaluated, state: State) -> tuple[_Look, State]:
    """The preconditioner and its length of the gradient, by what the last step has left where that will do."""
    metric = state.metric
    if metric is None and state.made is not None:  # of a run that goes on
        metric = preconditioner(view, view.enter(state.made))
    if metric is None or solver.stale(view, here, metric, state.age):
        metric, state = preconditioner(view, here.v), state._replace(made=here.w, age=0)
    y = metric(here.g)
    size = max(float(np.vdot(here.g, y)), 0.0)  # |g|_P^2
    state = state._replace(first=max(state.first, size), here=here, metric=metric)
    return _Look(view, here, metric, y, math.sqrt(size)), state


def _over(solver: Newton | Lbfgs, problem: Problem, at: _Look, near: float, state: State) -> tuple[Step | None, State]:
    """The last step, if the solver believes that it is done and the certificate agrees, or has been asked too often."""
    value = at.here.value
    fell = state.value - value if problem.provable else math.inf  # a short step alone proves nothing
    why = "" if state.stage == SINGLE else believes(at.length, value, fell, near)
    if not why:
        return None, state
    proof = problem.certify(at.here.w, solver.gap, at.here)
    if proof.gap is None or proof.proves(solver.gap):
        return _end(solver, at, state, proof, why), state
    better = proof.gap < state.gap / 2
    state = state._replace(gap=min(state.gap, proof.gap), looks=0 if better else state.looks + 1, stage=CAREFUL)
    return (_end(solver, at, state, proof) if state.looks > PATIENCE else None), state


def _end(solver: Newton | Lbfgs, at: _Look, state: State, proof: Certificate, why: str = "") -> Step:
    """The step that goes nowhere: converged, and why, or at a point that the solver cannot improve."""
    converged, stalled = (told(why, proof), "") if why else ("", unproved(proof, solver.gap))
    return Step(at.here.w, state, at.here.value, converged, stalled, proof, (at.view, at.here))


def _search(solver: Newton | Lbfgs, problem: Problem, at: _Look, near: float, state: State) -> Evaluated | None:
    """The point of the first direction that leads down; None if none does. near is the length that would be enough."""
    view, here, metric, y, length = at
    careful = state.stage == CAREFUL
    # Superlinear, but no further than to half of what is enough.
    double = max((length / math.sqrt(state.first or 1.0)) ** 0.5, near / (2 * length) if length else 0.0)
    eta = {SINGLE: 0.25, DOUBLE: min(0.25, double), CAREFUL: 1e-3}[state.stage]
    by, products = (Newton(), view) if careful else (solver, problem.view(np.float32))
    for d in chain(by.directions(products, here, metric, y, eta, state), [-y]):
        start = Trial(0.0, here.value, float(np.vdot(here.g, d)), here)
        if start.slope < 0:
            found = solver.search(along(view, here, d), start, noise(here.value, view.dtype))
            if found is not None:
                return found
    return None
