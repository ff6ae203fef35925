"""Is a gradient right?  What its witnesses say; ``callbacks=gradient_check`` asks them on the rows of a run.

Two witnesses: central differences, which share nothing with the formulas but the loss's value, and the other strategies
of the pair, which share little with each other. What neither can testify to is left out and never counted as right:

kinks      coordinates where the differences to the left and to the right disagree (mae, hinge losses, the edge of a
           sparse activation's support): a central difference there is the mean of two slopes.
rounding   a is rounded by eps, so the loss by eps * (|loss| + sum_k |a_k dl_da_k|). Rows where this, over the step, is
           more than 1e-7 are beyond central differences, and so are entries whose step is coarse beside the curvature;
           rows where the sum is above 1e6 (bce on a confident mistake: 1 / (1 - a)) are beyond the strategies that
           start from a and dl_da: vjp, jacobian and loop.
not finite these three start from numbers like y / a, which is infinite where a underflows. Such rows are counted
           ("nf 3") at extreme scores; at ordinary ones, and for fused and log at any, they fail (but log not
           where a rounds to one, of a loss that says so in ``log_exact``).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from trainer.arrays import Array
from trainer.chain.activations import Activation
from trainer.chain.fused import GradientStrategy
from trainer.chain.losses import Loss
from trainer.chain.strategies import GRADIENTS, around, has_strategy, value
from trainer.data.rows import batches
from trainer.errors import require
from trainer.objective.blocks import scores
from trainer.objective.objective import Objective
from trainer.optimizers.fit import Report
from trainer.runs.callbacks.protocol import Answer, Callback, Context

STRATEGIES = [name for name in GRADIENTS if name not in ("auto", "numeric")]
FROM_A = ("vjp", "jacobian", "loop")  # they start from a and dl_da
TOLERANCE = 1e-6  # from central differences
EPS = np.finfo(np.float64).eps


def deviations(activation: Activation, loss: Loss, z: Array, y: Array, strategy: GradientStrategy) -> dict[str, float]:
    """The largest deviation of a strategy's dl_dz from each other way that the pair has, numeric included, by name.

    In each row relative to max(1, largest |dl_dz|): a row's small entries are differences of numbers of the size of its
    largest, and below one what counts is what a step of the optimiser would notice.  nan where nothing can be compared
    (see the module), inf where the strategy is not finite and has no excuse.  z (N,K) and y (N,K) in float64.

    >>> found = deviations(Softmax(), CrossEntropy(), z, y, GRADIENTS["fused"])
    >>> {name: round(deviation, 6) for name, deviation in found.items()}
    {'log': 0.0, 'vjp': 0.0, 'jacobian': 0.0, 'loop': 0.0, 'numeric': 0.0}
    """
    own = next((name for name, known in GRADIENTS.items() if known is strategy), "")
    names = witnesses(activation, loss, strategy)
    found = compare(activation, loss, z, y, {name: GRADIENTS[name] for name in names} | {own: strategy})
    if own not in (*FROM_A, "numeric") and not np.isfinite(found.dl_dz[own]).all():
        return dict.fromkeys(names, math.inf)
    return {name: found.deviation(own, name) for name in names}


def witnesses(activation: Activation, loss: Loss, strategy: GradientStrategy) -> list[str]:
    """The names of the strategies that the pair has beside this one.

    >>> witnesses(Sparsemax(), Brier(), GRADIENTS["vjp"])
    ['jacobian', 'loop', 'numeric']
    """
    return [
        name
        for name in (*STRATEGIES, "numeric")
        if GRADIENTS[name] is not strategy and has_strategy(name, activation, loss)
    ]


class Compared(NamedTuple):
    """What each strategy says, and where each can be trusted.

    >>> one, other = np.array([[0.5, -0.5]]), np.array([[0.5, -0.4]])
    >>> found = Compared({"vjp": one, "log": other}, from_a=np.array([[True]]), numeric=np.array([[True, True]]))
    >>> round(found.deviation("vjp", "log"), 3)
    0.1
    """

    dl_dz: dict[str, Array]  # (N,K) each, by name
    from_a: Array  # rows (N,1) that the strategies which start from a can compute
    numeric: Array  # entries (N,K) that central differences can

    def deviation(self, one: str, other: str) -> float:
        """The largest among the rows where both are finite and the entries that both can be trusted with, else nan."""
        first, second = self.dl_dz[one], self.dl_dz[other]
        compared = np.isfinite(first + second).all(axis=1, keepdims=True) | np.zeros_like(self.numeric)
        if one in FROM_A or other in FROM_A:
            compared &= self.from_a
        if "numeric" in (one, other):
            compared &= self.numeric
        with np.errstate(invalid="ignore"):  # of rows that are not compared
            scale = np.maximum(np.abs(first).max(axis=1, keepdims=True), 1)
            difference = (np.abs(first - second) / scale)[compared]
        return float(difference.max()) if difference.size else math.nan


@np.errstate(all="ignore")
def compare(
    activation: Activation, loss: Loss, z: Array, y: Array, strategies: Mapping[str, GradientStrategy]
) -> Compared:
    """What these strategies say of a batch.  Comparisons with nan are false, as is wanted here.

    >>> compare(Sigmoid(), BinaryCrossEntropy(), np.array([[30.0]]), np.zeros((1, 1)), {}).from_a  # 1 - a is 1e-13
    array([[False]])
    >>> compare(Identity(), MeanAbsoluteError(), np.array([[0.0, 2.0]]), np.array([[0.0, 1.0]]), {}).numeric  # a kink
    array([[False,  True]])
    """
    a = activation(z)
    here = value(activation, loss, z, y)[:, None]  # (N,1)
    size = np.abs(a * loss.grad(a, y)).sum(axis=1, keepdims=True)  # the sum of |dl / dlog a|
    up, down, step = around(activation, loss, z, y)  # (N,K) each
    right, left = (up - here) / step, (here - down) / step  # slopes
    scale = np.maximum(np.abs(right).max(axis=1, keepdims=True), 1)
    bend = np.abs(right - left)  # step times the curvature, or the jump of a kink
    smooth = (bend <= 1e-4 * scale) & (step * bend <= 1e-8 * scale)
    exact = EPS * (np.abs(here) + size) <= 1e-7 * step * scale
    dl_dz = {name: strategy(activation, loss, z, y).dl_dz for name, strategy in strategies.items()}
    return Compared(dl_dz, size <= 1e6 * scale, smooth & exact)


@dataclass(frozen=True)
class GradientCheck:
    """Compares the run's strategy with all others of the pair on real rows, and stops above ``tolerance``.

    After the first epoch and each ``every`` more, on ``samples`` training rows that follow from seed and epoch.
    Computed in float64 whatever dtype the run has: what is asked is whether the formulas are right, not how they round.
    Deviations are those of trainer.check; one that cannot be measured stays empty.

    >>> GradientCheck(every=5)
    GradientCheck(every=5, tolerance=1e-06, samples=64)
    """

    name: ClassVar[str] = "gradient_check"
    every: int = 1
    tolerance: float = 1e-6
    samples: int = 64

    def __post_init__(self) -> None:
        for name in ("every", "samples"):
            value = getattr(self, name)
            require(value >= 1, f"callbacks.gradient_check.{name} must be at least 1, got {value}.")
        ok = 0 < self.tolerance < math.inf
        require(ok, f"callbacks.gradient_check.tolerance must be finite and greater than 0, got {self.tolerance}.")

    def columns(self, objective: Objective) -> list[str]:
        return [f"check_{name}" for name in witnesses(objective.activation, objective.loss, objective.gradient)]

    def start(self, context: Context) -> Callback:
        objective, train = context.objective, context.train

        def gradient_check(report: Report) -> Answer:
            epoch = report.state.epoch
            if (epoch - 1) % self.every != 0:
                return Answer()
            rows = next(batches(train, self.samples, context.seed, epoch))
            z = scores(report.state.w, rows.x).astype(np.float64)  # (N,K)
            found = deviations(objective.activation, objective.loss, z, rows.targets(z.dtype), objective.gradient)
            found = {name: value for name, value in found.items() if not math.isnan(value)}
            wrong = [f"{value:.1e} from {name}" for name, value in found.items() if value > self.tolerance]
            sentence = (
                f"gradient_check: after epoch {epoch} the run's dl_dz is {', '.join(wrong)}, "
                f"more than callbacks.gradient_check.tolerance={self.tolerance}."
            )
            return Answer({f"check_{name}": value for name, value in found.items()}, sentence if wrong else "")

        return gradient_check
