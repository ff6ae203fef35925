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
    """The new parameters w (D+1,K), the new state, and the value of E before the step."""

    w: Array
    state: Any
    value: float


class Optimizer(Protocol):
    """What every optimiser brings; hyper-parameters are fields, and a schedule scales the field lr."""

    name: ClassVar[str]

    @property
    def lr(self) -> float:
        """The learning rate."""

    def init(self, w: Array) -> Any:
        """The state before the first step."""

    def step(self, problem: Problem, w: Array, state: Any) -> Step:
        """One step from w."""
