"""What an optimiser is, and what it may ask: the seat of every solver.

State goes in and comes out; nothing is kept between two steps, so a run can be stopped and resumed at any of them.
"""

from typing import Any, ClassVar, NamedTuple, Protocol

from trainer.arrays import Array
from trainer.objective.certificate import Certificate
from trainer.objective.penalties import Penalty
from trainer.objective.view import Evaluated, View


class Problem(Protocol):
    """An objective on data, as far as an optimiser knows it."""

    @property
    def penalty(self) -> Penalty:
        """What E adds to the mean loss; its share lasso |w[:-1]|_1 is in the value and not in the gradient."""

    @property
    def canonical(self) -> bool:
        """Whether dl_dz is a - y, up to a factor, and the rows' Hessians therefore known in closed form."""

    @property
    def rough(self) -> bool:
        """Whether single precision will do for the way to the minimum."""

    @property
    def provable(self) -> bool:
        """Whether there can be a certificate."""

    def start(self, w: Array) -> Array:
        """w, or where it is all zero a better place to start from."""

    def value_and_grad(self, w: Array) -> tuple[float, Array]:
        """E and dE_dw (D+1,K) at w (D+1,K)."""

    def view(self, dtype: Any) -> View:
        """The problem in standardised coordinates and a precision."""

    def certify(self, w: Array, wanted: float, here: Evaluated | None) -> Certificate:
        """How far E(w) is from its minimum at most; wanted is worth some work, and here may be known of w."""


class Step(NamedTuple):
    """What came of a step.

    w (D+1,K), state   the new ones
    value              E before the step
    converged, stalled why no more steps are needed, or can be made; at most one is not empty
    proof              how far w is from the minimum, where a solver has looked
    after              E and its derivative at the new w, where the step knows them, in the view that it took
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
    """

    name: ClassVar[str]
    full_batch: ClassVar[bool]

    def copies(self, problem: Problem, classes: int) -> int:
        """Arrays (D+1,K) that a training holds at most: state, temporaries, and the last points and gradients.

        A solver's are in double precision, those of the others in that of w. Tests compare it with what is allocated.
        """

    def init(self, w: Array) -> Any:
        """The state before the first step."""

    def step(self, problem: Problem, w: Array, state: Any) -> Step:
        """One step from w."""
