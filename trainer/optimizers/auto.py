"""optimizer=auto: the solver that fits the problem, by a rule in one line."""

from dataclasses import dataclass
from typing import Any, ClassVar

from trainer.arrays import Array
from trainer.optimizers.lbfgs import Lbfgs
from trainer.optimizers.newton import Newton
from trainer.optimizers.protocols import Optimizer, Problem, Step
from trainer.optimizers.proximal import Fista
from trainer.optimizers.stopping import check_tol


@dataclass(frozen=True)
class Auto:
    """fista where the penalty has a share in |w|_1; else newton for canonical pairs of three or more classes, or lbfgs.

    A Hessian product of a canonical pair costs less than a gradient, that of another pair as much as two. Two classes
    have one curvature a row, so that lbfgs begins with the Hessian itself and has little left to learn.
    """

    name: ClassVar[str] = "auto"
    full_batch: ClassVar[bool] = True
    tol: float = 1e-6

    def __post_init__(self) -> None:
        check_tol(self.tol)

    def choose(self, problem: Problem, classes: int) -> Optimizer:
        """The solver that runs."""
        if problem.penalty.lasso > 0:
            return Fista(tol=self.tol)
        return Newton(tol=self.tol) if problem.canonical and classes > 2 else Lbfgs(tol=self.tol)

    def init(self, w: Array) -> Any:
        return None

    def step(self, problem: Problem, w: Array, state: Any) -> Step:
        solver = self.choose(problem, w.shape[1])
        return solver.step(problem, w, solver.init(w) if state is None else state)
