"""optimizer=auto: the solver that fits the problem, by a rule in one line, or the other one if it does not get on."""

from dataclasses import dataclass
from typing import Any, ClassVar

from trainer.arrays import Array
from trainer.objective.problem import Problem
from trainer.optimizers.newton import Lbfgs, Newton, State
from trainer.optimizers.protocols import Optimizer, Step
from trainer.optimizers.proximal import Fista
from trainer.optimizers.stopping import check_tol


@dataclass(frozen=True)
class Auto:
    """fista where the penalty has a share in |w|_1; else newton for canonical pairs of three or more classes, or lbfgs.

    A Hessian product of a canonical pair costs less than a gradient, that of another pair as much as two. Two classes
    have one curvature a row, so that lbfgs begins with the Hessian itself and has little left to learn. Where it has
    not converged within newton's patience, careful newton goes on.

    >>> Auto().choose(problem, classes=2), Auto().choose(problem, classes=3)
    (Lbfgs(tol=1e-06, memory=20, gap=1e-06), Newton(tol=1e-06, gap=1e-06))
    """

    name: ClassVar[str] = "auto"
    state: ClassVar[type] = State  # or that of fista
    full_batch: ClassVar[bool] = True
    tol: float = 1e-6
    gap: float = 1e-6

    def __post_init__(self) -> None:
        check_tol(self.tol, self.gap)

    def choose(self, problem: Problem, classes: int, steps: int = 0) -> Optimizer:
        """The solver that runs after so many iterations."""
        if problem.objective.penalty.lasso > 0:
            return Fista(tol=self.tol, gap=self.gap)
        newton = (problem.sums.canonical and classes > 2) or steps >= Newton.patience
        return Newton(tol=self.tol, gap=self.gap) if newton else Lbfgs(tol=self.tol, gap=self.gap)

    def copies(self, problem: Problem, classes: int) -> int:
        return self.choose(problem, classes).copies(problem, classes)

    def init(self, w: Array) -> Any:
        return None

    def step(self, problem: Problem, w: Array, state: Any) -> Step:
        solver = self.choose(problem, w.shape[1], state.steps if isinstance(state, State) else 0)
        return solver.step(problem, w, solver.init(w) if state is None else state)
