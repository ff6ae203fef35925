"""Gradient strategies: seven ways to the same dl_dz (N,K), the seam between an activation and a loss.

Each is a plain function (activation, loss, z, y) -> LossGrad. Value and gradient come together because the stable
value shares the gradient's log-sum-exp. Switching the strategy never changes the objective, only cost and rounding.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer.arrays import Array, contraction, namespace
from trainer.chain.activations import Activation
from trainer.chain.fused import FUSED, LABELLED, GradientStrategy, LossGrad, with_direct
from trainer.chain.known import has
from trainer.chain.losses import Loss

STEP = float(np.cbrt(np.finfo(np.float64).eps))  # of a central difference, relative to the score


@dataclass(frozen=True)
class GradientChoice:
    """What a configuration says of the strategy: its name, and whether fused takes its precise form.

    >>> GradientChoice("fused", precise=True)
    GradientChoice(name='fused', precise=True)
    """

    name: str = "auto"
    precise: bool = False


def value(activation: Activation, loss: Loss, z: Array, y: Array) -> Array:
    """loss (N,) of the pair by its definition.

    >>> value(Softmax(), CrossEntropy(), z, y).round(3)
    array([0.349])
    """
    passing = loss.value(activation(z), y)
    return passing + loss.direct(activation, z, y)[0] if hasattr(loss, "direct") else passing


def loop(activation: Activation, loss: Loss, z: Array, y: Array) -> LossGrad:
    """One sample and one Jacobian at a time: the readable reference.  O(K^2) a row, in Python.

    >>> loop(Softmax(), CrossEntropy(), np.array([[0.0, 0.0]]), np.array([[0.0, 1.0]])).dl_dz.round(6)
    array([[ 0.5, -0.5]])
    """
    xp = namespace(z)
    samples = xp.reshape(z, (-1, z.shape[-1])), xp.reshape(xp.broadcast_to(y, z.shape), (-1, z.shape[-1]))
    values, rows = [], []
    for n in range(samples[0].shape[0]):
        z_n, y_n = (part[n : n + 1, :] for part in samples)  # (1,K)
        a_n = activation(z_n)  # (1,K)
        da_dz = activation.jacobian(z_n, a_n)[0, :, :]  # (K,K)
        dl_da = loss.grad(a_n, y_n)[0, :]  # (K,)
        values.append(loss.value(a_n, y_n))
        rows.append(da_dz.T @ dl_da)  # sum over j of dl_da[j] da_dz[j, k]
    chained = LossGrad(xp.reshape(xp.concat(values), z.shape[:-1]), xp.reshape(xp.stack(rows), z.shape))
    return with_direct(activation, loss, z, y, chained)


def jacobian(activation: Activation, loss: Loss, z: Array, y: Array) -> LossGrad:
    """The generic contraction of dl_da (N,K) with the whole tensor da_dz (N,K,K).  O(N K^2) time and memory.

    >>> jacobian(Softmax(), CrossEntropy(), np.array([[0.0, 0.0]]), np.array([[0.0, 1.0]])).dl_dz.round(6)
    array([[ 0.5, -0.5]])
    """
    a = activation(z)
    da_dz = activation.jacobian(z, a)
    dl_dz = contraction(loss.grad(a, y), da_dz)
    return with_direct(activation, loss, z, y, LossGrad(loss.value(a, y), dl_dz))


def vjp(activation: Activation, loss: Loss, z: Array, y: Array) -> LossGrad:
    """The same product from the Jacobian's structure, without the tensor.  O(N K).

    >>> vjp(Softmax(), CrossEntropy(), np.array([[0.0, 0.0]]), np.array([[0.0, 1.0]])).dl_dz.round(6)
    array([[ 0.5, -0.5]])
    """
    a = activation(z)
    chained = LossGrad(loss.value(a, y), activation.vjp(z, a, loss.grad(a, y)))
    return with_direct(activation, loss, z, y, chained)


def log(activation: Any, loss: Any, z: Array, y: Array) -> LossGrad:
    """The chain rule through log a instead of a: separable, and exact where a underflows.  O(N K).

    >>> log(Softmax(), CrossEntropy(), np.array([[0.0, 0.0]]), np.array([[0.0, 1.0]])).dl_dz.round(6)
    array([[ 0.5, -0.5]])
    """
    log_a = activation.log(z)  # has_strategy says whether there is one
    chained = LossGrad(loss.value_log(log_a, y), activation.log_vjp(z, loss.grad_log(log_a, y)))
    return with_direct(activation, loss, z, y, chained)


def numeric(activation: Activation, loss: Loss, z: Array, y: Array) -> LossGrad:
    """Central differences, in float64: the oracle.  O(N K^2), errors near 1e-10 where the loss is smooth.

    >>> numeric(Softmax(), CrossEntropy(), np.array([[0.0, 0.0]]), np.array([[0.0, 1.0]])).dl_dz.round(6)
    array([[ 0.5, -0.5]])
    """
    xp = namespace(z)
    up, down, step = around(activation, loss, xp.astype(z, xp.float64), xp.astype(y, xp.float64))
    return LossGrad(value(activation, loss, z, y), xp.astype((up - down) / (2 * step), z.dtype))


def around(activation: Activation, loss: Loss, z: Array, y: Array) -> tuple[Array, Array, Array]:
    """The loss of each row after a step up and a step down along each score, and the step, (N,K) each.

    >>> up, down, step = around(Identity(), SquaredError(), z, y)
    >>> ((up - down) / (2 * step)).round(6)
    array([[ 1.,  1., -1.]])
    """
    xp = namespace(z)
    size = xp.abs(z)
    step = STEP * xp.where(size > 1, size, 1.0)
    ends = []
    for k in range(z.shape[-1]):  # one at a time, as all at once are N K^2 numbers
        shift = xp.where(xp.arange(z.shape[-1], device=z.device) == k, step, 0.0)
        ends.append([value(activation, loss, z + sign * shift, y) for sign in (1, -1)])
    up, down = (xp.stack(side, axis=-1) for side in zip(*ends, strict=True))
    return up, down, step


def fused(activation: Activation, loss: Loss, z: Array, y: Array) -> LossGrad:
    """One formula for the pair, from the table FUSED.  O(N K), the fastest.

    >>> fused(Softmax(), CrossEntropy(), np.array([[0.0, 0.0]]), np.array([[0.0, 1.0]])).dl_dz.round(6)
    array([[ 0.5, -0.5]])
    """
    return FUSED[type(activation), type(loss)](activation, loss, z, y)


def auto(activation: Activation, loss: Loss, z: Array, y: Array) -> LossGrad:
    """The fastest exact strategy that the pair has: fused, else log, else vjp.

    >>> auto(Softmax(), CrossEntropy(), np.array([[0.0, 0.0]]), np.array([[0.0, 1.0]])).dl_dz.round(6)
    array([[ 0.5, -0.5]])
    """
    return GRADIENTS[fastest(activation, loss)](activation, loss, z, y)


def has_strategy(name: str, activation: Activation, loss: Loss) -> bool:
    """Whether the pair has what the strategy needs: a formula for fused, logarithms on both sides for log.

    A formula is that of two classes and of no subclass, which may compute something else.
    log needs rows of a that sum to one, too: h is known up to a multiple of a, which only they do not notice.

    >>> has_strategy('fused', Softmax(), CrossEntropy()), has_strategy('log', Sparsemax(), Brier())
    (True, False)
    """
    if name == "fused":
        return (type(activation), type(loss)) in FUSED
    if name == "log":
        both = has(activation, "log", "log_vjp") and has(loss, "value_log", "grad_log")
        return activation.range == "simplex" and both
    return True


def numbers_per_row(gradient: GradientStrategy, classes: int) -> int:
    """The width of the widest temporary, K or K^2: what a block has to hold for each of its rows.

    >>> numbers_per_row(vjp, classes=10), numbers_per_row(jacobian, classes=10)
    (10, 100)
    """
    return classes**2 if gradient is jacobian else classes


def fastest(activation: Activation, loss: Loss) -> str:
    """The name of the strategy that auto takes for the pair.

    >>> fastest(Softmax(), CrossEntropy()), fastest(Sparsemax(), Brier())
    ('fused', 'vjp')
    """
    return next(name for name in ("fused", "log", "vjp") if has_strategy(name, activation, loss))


def takes_labels(gradient: GradientStrategy, activation: Activation, loss: Loss) -> bool:
    """Whether one-hot rows may be given as labels (N,), which are as good and cost fewer passes over the block.

    >>> takes_labels(fused, Softmax(), CrossEntropy()), takes_labels(fused, Softmax(), Brier())
    (True, False)
    """
    return gradient in (auto, fused) and FUSED.get((type(activation), type(loss))) in LABELLED


GRADIENTS: dict[str, GradientStrategy] = {
    strategy.__name__: strategy for strategy in (auto, fused, log, vjp, jacobian, loop, numeric)
}
