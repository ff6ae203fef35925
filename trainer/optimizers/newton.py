"""optimizer=newton: Newton's method by preconditioned conjugate gradients, with a line search."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from trainer.arrays import Array
from trainer.objective.conjugate_gradients import conjugate_gradients
from trainer.objective.preconditioner import Preconditioner, measured
from trainer.objective.problem import Problem
from trainer.objective.view import Evaluated, View
from trainer.optimizers.descent import State, iterate
from trainer.optimizers.line_search import Line, Trial, armijo
from trainer.optimizers.protocols import Step
from trainer.optimizers.stopping import check_tol

STALE = 2.0  # the preconditioner is renewed once the mean curvature has changed by this factor
PATIENCE = 40  # iterations, after which every product is taken in double precision and every step to a thousandth


@dataclass(frozen=True)
class Newton:
    """w <- w + t d with H d = -g, solved to |residual|_P <= eta |g|_P  (Dembo, Eisenstat & Steihaug 1982).

    |g|_P^2 = <g, P g> with the preconditioner P of objective.preconditioner, so half of it estimates the gap to the
    minimum. A direction of negative curvature ends the inner solver with what it has. The first step goes from the best
    prediction without features, where that is known. Once |g|_P is at most tol (2 E)^(1/2), or tol times its first
    value where there can be a certificate, or a step gains no more than the rounding of E, it asks for the certificate,
    and has converged where that is at most gap; see trainer.optimizers.descent.

    In single precision eta = 1/4, which leaves a sixteenth of the gap and spends the fewest products in all. Then a
    gradient costs more than a product, and eta = min(1/4, (|g|_P / |g_0|_P)^(1/2)) makes the convergence superlinear.

    >>> Newton().step(problem, w, Newton().init(w)).w[0].round(3)
    array([-0.185,  0.185])
    """

    name: ClassVar[str] = "newton"
    state: ClassVar[type] = State
    full_batch: ClassVar[bool] = True
    patience: ClassVar[float] = PATIENCE
    tol: float = 1e-6
    gap: float = 1e-6

    def __post_init__(self) -> None:
        check_tol(self.tol, self.gap)

    def copies(self, problem: Problem, classes: int) -> int:
        return 26

    def init(self, w: Array) -> State:
        return State()

    def step(self, problem: Problem, w: Array, state: State) -> Step:
        return iterate(self, problem, w, state)

    def stale(self, view: View, here: Evaluated, metric: Preconditioner, age: int) -> bool:
        level = float(measured(view, here.v)[1].mean())
        return not 1 / STALE < level / (metric.level or 1.0) < STALE

    def directions(
        self, view: View, here: Evaluated, metric: Preconditioner, y: Array, eta: float, state: State
    ) -> list[Callable[[], Array]]:
        return [lambda: conjugate_gradients(view.hessian(here), metric, here.g, y, eta)]

    def search(self, line: Line, start: Trial, rounding: float) -> Evaluated | None:
        return armijo(line, start, rounding)

    def learn(self, state: State, before: Evaluated, after: Evaluated) -> State:
        return state
