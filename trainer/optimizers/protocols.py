"""What an optimiser is: the seat of every solver.

State goes in and comes out; nothing is kept between two steps, so a run can be stopped and resumed at any of them.
"""

from typing import Any, ClassVar, NamedTuple, Protocol

from trainer.arrays import Array
from trainer.objective.certificate import Certificate
from trainer.objective.problem import Problem
from trainer.objective.view import Evaluated, View


class Step(NamedTuple):
    """What came of a step.

    w (D+1,K), state   the new ones
    value              E before the step
    converged, stalled why no more steps are needed, or can be made; at most one is not empty
    proof              how far w is from the minimum, where a solver has looked
    after              the view that it took, and E and its derivative at the new w there

    >>> step = Newton().step(problem, w, Newton().init(w))
    >>> f"{step.after[1].value:.3f}, and it was {step.value:.3f}"
    '0.646, and it was 0.693'
    """

    w: Array
    state: Any
    value: float
    converged: str = ""
    stalled: str = ""
    proof: Certificate | None = None
    after: tuple[View, Evaluated] | None = None


class Optimizer(Protocol):
    """What every optimiser brings; hyper-parameters are fields.

    One with full_batch is a solver: it takes the problem of all rows, finds its own step length and says when it has
    converged. The others have a learning rate, the field lr, which a schedule scales.

    >>> optimizer: Optimizer = Sgd(lr=1.0)
    >>> optimizer.step(problem, w, state=optimizer.init(w)).w[0].round(3)
    array([-0.25,  0.25])
    """

    name: ClassVar[str]
    state: ClassVar[type]  # a NamedTuple, or numpy's array: the one class of states that a checkpoint holds for it
    full_batch: ClassVar[bool]

    def copies(self, problem: Problem, classes: int) -> int:
        """Arrays (D+1,K) that a training holds at most: state, temporaries, and the last points and gradients.

        A solver's are in double precision, those of the others in that of w. Tests compare it with what is allocated.
        """

    def init(self, w: Array) -> Any:
        """The state before the first step."""

    def step(self, problem: Problem, w: Array, state: Any) -> Step:
        """One step from w."""
