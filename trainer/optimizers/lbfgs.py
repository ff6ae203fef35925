"""optimizer=lbfgs: the quasi-Newton method of limited memory, whose first metric is the preconditioner."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trainer.arrays import Array
from trainer.errors import require
from trainer.objective.preconditioner import Preconditioner
from trainer.objective.problem import Problem
from trainer.objective.view import Evaluated, View
from trainer.optimizers.descent import Pair, State, iterate
from trainer.optimizers.line_search import Line, Trial, wolfe
from trainer.optimizers.protocols import Step
from trainer.optimizers.stopping import check_tol

RENEWED = 16  # iterations between two preconditioners


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
        return iterate(self, problem, w, state)

    def stale(self, view: View, here: Evaluated, metric: Preconditioner, age: int) -> bool:
        return age >= RENEWED

    def directions(
        self, view: View, here: Evaluated, metric: Preconditioner, y: Array, eta: float, state: State
    ) -> list[Callable[[], Array]]:
        return [lambda: -two_loops(here.g, state.pairs, metric)] if state.pairs else []  # or from the metric alone

    def search(self, line: Line, start: Trial, rounding: float) -> Evaluated | None:
        return wolfe(line, start, rounding)

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
