"""What an optimiser is, and what it may ask: the seat of every solver.

State goes in and comes out; nothing is kept between two steps, so a run can be stopped and resumed at any of them.
"""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Protocol

from trainer.arrays import Array
from trainer.penalties import Penalty


class Curvature(Protocol):
    """The Hessian of E at a point; trainer.curvature has the only one, and its documentation."""

    def hvp(self, v: Array) -> Array:
        """H v (D+1,K) for v (D+1,K)."""

    def level(self) -> float:
        """The mean curvature of the rows, which says how much it has changed."""

    def metric(self) -> Any:
        """The features' share of the preconditioner, which changes slowly and may serve at later points."""

    def inverse(self, metric: Any) -> Callable[[Array], Array]:
        """g (D+1,K) -> P g (D+1,K), with P close to the inverse of the Hessian."""


class Problem(Protocol):
    """An objective on data, as far as an optimiser knows it."""

    @property
    def penalty(self) -> Penalty:
        """What E adds to the mean loss; its share lasso |w[:-1]|_1 is in the value and not in the gradient."""

    @property
    def canonical(self) -> bool:
        """Whether dl_dz is a - y, up to a factor, and the rows' Hessians therefore known in closed form."""

    @property
    def copied(self) -> bool:
        """Whether single precision is to be had."""

    def start(self, w: Array) -> Array:
        """w, or where it is all zero a better place to start from."""

    def value_and_grad(self, w: Array, single: bool = False) -> tuple[float, Array]:
        """E and dE_dw (D+1,K) at w (D+1,K); single takes about 1e-7 of E for half the time."""

    def curvature(self, w: Array) -> Curvature:
        """Hessian products at w, and what preconditions them."""

    def second_moment(self) -> Array:
        """The weighted mean of [x 1]^T [x 1] over the rows (D+1,D+1), or its diagonal (D+1,) where D is large."""


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
