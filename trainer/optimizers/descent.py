"""The iteration that newton and lbfgs share: precondition, ask whether it is over, choose a direction, search along it.

single precision   until the estimated gap to the minimum, half of |g|_P^2, is a millionth of E
double precision   until the solver's own rule is met, and then until the certificate holds
careful            once that has failed, or a direction was none of descent: products in double precision, too
"""

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

from trainer.arrays import Array
from trainer.objective.certificate import Certificate
from trainer.objective.conjugate_gradients import conjugate_gradients
from trainer.objective.preconditioner import Preconditioner, preconditioner
from trainer.objective.problem import Problem
from trainer.objective.view import Evaluated, View
from trainer.optimizers.line_search import Line, Trial, along
from trainer.optimizers.protocols import After, Step
from trainer.optimizers.stopping import believes, enough, noise, told, unproved

NEAR = 1e-6  # of E: the gap at which single precision has nothing more to say
PATIENCE = 4  # looks at the certificate that may bring nothing
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

    >>> state = iterate(Newton(), problem, w, State()).state
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


class Solver(Protocol):
    """What the two differ in.

    >>> solver: Solver = Newton()
    >>> solver.patience, solver.tol
    (40, 1e-06)
    """

    @property
    def patience(self) -> float:
        """Iterations before it is careful."""

    @property
    def tol(self) -> float: ...

    @property
    def gap(self) -> float: ...

    def stale(self, view: View, here: Evaluated, metric: Preconditioner, age: int) -> bool:
        """Whether the preconditioner, so many iterations old, is to be made anew."""

    def directions(
        self, view: View, here: Evaluated, metric: Preconditioner, y: Array, eta: float, state: State
    ) -> "list[Callable[[], Array]]":
        """Directions d (D+1,K) to try, the best one first; y = P g, and eta is how much of the gradient may be left."""

    def search(self, line: Line, start: Trial, rounding: float) -> Evaluated | None:
        """How far to go."""

    def learn(self, state: State, before: Evaluated, after: Evaluated) -> State:
        """The state after a step."""


def iterate(solver: Solver, problem: Problem, w: Array, state: State) -> Step:
    """One iteration from w; see Step.

    >>> step = iterate(Newton(), problem, w, State())
    >>> print(f"{step.value:.3f}, then {problem.value_and_grad(step.w)[0]:.3f}")
    0.693, then 0.646
    """
    if state.first == 0:
        w = problem.start(w)
    if state.stage == SINGLE and not problem.rough:
        state = state._replace(stage=DOUBLE)
    if state.steps >= solver.patience:
        state = state._replace(stage=CAREFUL)
    while True:
        at, state = _look(solver, problem, w, state)
        value = at.here.value
        if not np.isfinite(value):
            return Step(w, state, value)
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
            return Step(found.w, solver.learn(state, at.here, found), value, after=After(at.view, found))
        if state.stage == CAREFUL:
            proof = problem.certify(w, solver.gap, at.here)
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


def _look(solver: Solver, problem: Problem, w: Array, state: State) -> tuple[_Look, State]:
    """E and its gradient at w, by what the last step has left where that will do."""
    view = problem.view(np.float32 if state.stage == SINGLE else np.float64)
    here = state.here if state.here is not None and state.here.dtype == view.dtype else view.at(w)
    metric = state.metric
    if not np.isfinite(here.value):
        return _Look(view, here, metric, here.g, np.inf), state  # type: ignore[arg-type]
    if metric is None and state.made is not None:  # of a run that goes on
        metric = preconditioner(view, view.enter(state.made))
    if metric is None or solver.stale(view, here, metric, state.age):
        metric, state = preconditioner(view, here.v), state._replace(made=w, age=0)
    y = metric(here.g)
    size = max(float(np.vdot(here.g, y)), 0.0)  # |g|_P^2
    state = state._replace(first=max(state.first, size), here=here, metric=metric)
    return _Look(view, here, metric, y, math.sqrt(size)), state


def _over(solver: Solver, problem: Problem, at: _Look, near: float, state: State) -> tuple[Step | None, State]:
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


def _end(solver: Solver, at: _Look, state: State, proof: Certificate, why: str = "") -> Step:
    """The step that goes nowhere: converged, and why, or at a point that the solver cannot improve."""
    converged, stalled = (told(why, proof), "") if why else ("", unproved(proof, solver.gap))
    return Step(at.here.w, state, at.here.value, converged, stalled, proof, After(at.view, at.here))


def _search(solver: Solver, problem: Problem, at: _Look, near: float, state: State) -> Evaluated | None:
    """The point of the first direction that leads down; None if none does. near is the length that would be enough."""
    view, here, metric, y, length = at
    careful = state.stage == CAREFUL
    products = view if careful else problem.view(np.float32)
    # Superlinear, but no further than to half of what is enough.
    double = max((length / math.sqrt(state.first or 1.0)) ** 0.5, near / (2 * length) if length else 0.0)
    eta = {SINGLE: 0.25, DOUBLE: min(0.25, double), CAREFUL: 1e-3}[state.stage]

    def newton() -> Array:
        return conjugate_gradients(products.hessian(here), metric, here.g, y, eta)

    directions = [newton] if careful else solver.directions(products, here, metric, y, eta, state)
    rounding = noise(here.value, view.dtype)
    for direction in [*directions, None]:
        d = -y if direction is None else direction()
        start = Trial(0.0, here.value, float(np.vdot(here.g, d)), here)
        if start.slope < 0:
            found = solver.search(along(view, here, d), start, rounding)
            if found is not None:
                return found
    return None
