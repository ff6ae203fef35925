"""Is a gradient right?  What its witnesses say; ``python -m trainer.check [seed=0]`` asks them of every pair.

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
from typing import NamedTuple

import numpy as np

from trainer.arrays import Array
from trainer.chain.activations import Activation
from trainer.chain.fused import GradientStrategy
from trainer.chain.losses import Loss
from trainer.chain.strategies import GRADIENTS, has_strategy, value

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
    with np.errstate(all="ignore"):
        grads = {name: GRADIENTS[name](activation, loss, z, y).dl_dz for name in names}
        grads[own] = strategy(activation, loss, z, y).dl_dz
        reach = reach_of(activation, loss, z, y)
    if own not in (*FROM_A, "numeric") and not np.isfinite(grads[own]).all():
        return dict.fromkeys(names, math.inf)
    return {name: deviation(grads, own, name, reach) for name in names}


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


class Reach(NamedTuple):
    """Where each witness can be trusted.

    >>> reach_of(Sigmoid(), BinaryCrossEntropy(), np.array([[30.0]]), np.zeros((1, 1))).from_a  # 1 - a is 1e-13
    array([[False]])
    """

    from_a: Array  # rows (N,1) that the strategies which start from a can compute
    numeric: Array  # entries (N,K) that central differences can


def reach_of(activation: Activation, loss: Loss, z: Array, y: Array) -> Reach:
    """Where each witness can be trusted; the module says why.  Comparisons with nan are false, as is wanted here.

    >>> reach_of(Identity(), MeanAbsoluteError(), np.array([[0.0, 2.0]]), np.array([[0.0, 1.0]])).numeric  # a kink
    array([[False,  True]])
    """
    a = activation(z)
    here = value(activation, loss, z, y)  # (N,)
    size = np.abs(a * loss.grad(a, y)).sum(axis=1)  # (N,), the sum of |dl / dlog a|
    step = np.cbrt(EPS) * np.maximum(np.abs(z), 1)  # (N,K), as in strategies.numeric
    columns = []
    for k in range(z.shape[1]):
        shift = step[:, k, None] * (np.arange(z.shape[1]) == k)
        up, down = (value(activation, loss, z + sign * shift, y) for sign in (1, -1))
        columns.append(((up - here) / step[:, k], (here - down) / step[:, k]))
    right, left = np.stack(columns, axis=2)  # (N,K) each
    scale = np.maximum(np.abs(right).max(axis=1, keepdims=True), 1)  # (N,1)
    bend = np.abs(right - left)  # step times the curvature, or the jump of a kink
    smooth = (bend <= 1e-4 * scale) & (step * bend <= 1e-8 * scale)
    exact = EPS * (np.abs(here) + size)[:, None] <= 1e-7 * step * scale
    return Reach(size[:, None] <= 1e6 * scale, smooth & exact)


def deviation(grads: Mapping[str, Array], one: str, other: str, reach: Reach) -> float:
    """The largest among the rows where both are finite and the entries that both can be trusted with, else nan.

    >>> grads = {"vjp": np.array([[0.5, -0.5]]), "log": np.array([[0.5, -0.4]])}
    >>> round(deviation(grads, "vjp", "log", Reach(np.array([[True]]), np.array([[True, True]]))), 3)
    0.1
    """
    compared = np.isfinite(grads[one] + grads[other]).all(axis=1, keepdims=True) | np.zeros_like(reach.numeric)
    if one in FROM_A or other in FROM_A:
        compared &= reach.from_a
    if "numeric" in (one, other):
        compared &= reach.numeric
    with np.errstate(invalid="ignore"):  # of rows that are not compared
        scale = np.maximum(np.abs(grads[one]).max(axis=1, keepdims=True), 1)
        difference = (np.abs(grads[one] - grads[other]) / scale)[compared]
    return float(difference.max()) if difference.size else math.nan
