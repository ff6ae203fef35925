"""What an optimiser is, and what it may ask: the seat of every solver.

State goes in and comes out; nothing is kept between two steps, so a run can be stopped and resumed at any of them.
"""

from typing import Any, ClassVar, NamedTuple, Protocol

from trainer.arrays import Array


class Problem(Protocol):
    """An objective on data, as far as an optimiser knows it."""

    def value_and_grad(self, w: Array) -> tuple[float, Array]:
        """E and dE_dw (D+1,K) at w (D+1,K)."""


class Step(NamedTuple):
    """The new parameters w (D+1,K), the new state, the value of E before the step, and why no more steps are needed."""

    w: Array
    state: Any
    value: float
    converged: str = ""


class Optimizer(Protocol):
    """What every optimiser brings; hyper-parameters are fields.

    One with full_batch is a solver: it takes the problem of all rows, finds its own step length and says when it has
    converged. The others have a learning rate, the field lr, which a schedule scales.
    """

    name: ClassVar[str]
    full_batch: ClassVar[bool]

    def init(self, w: Array) -> Any:
        """The state before the first step."""

    def step(self, problem: Problem, w: Array, state: Any) -> Step:
        """One step from w."""
