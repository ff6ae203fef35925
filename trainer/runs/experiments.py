"""Experiments: what ``experiment=...`` runs in the place of a training; each prints what its own numbers say."""

import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from trainer.arrays import Array, one_hot
from trainer.chain.activations import Activation
from trainer.chain.fused import LossGrad
from trainer.chain.losses import Loss
from trainer.chain.strategies import GRADIENTS, has_strategy, loop
from trainer.errors import require
from trainer.objective.objective import Objective


class Cost(NamedTuple):
    """What one call of a strategy gave, its best time in seconds, and its peak memory in bytes."""

    result: LossGrad
    seconds: float
    bytes: int


def measure(gradient: str, activation: Activation, loss: Loss, z: Array, y: Array, repeats: int) -> Cost:
    """Times a strategy on scores z (N,K) and targets y (N,K), and counts what it allocates."""
    tracemalloc.start()
    result = GRADIENTS[gradient](activation, loss, z, y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()  # tracing is slow, so the time is taken without it
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        GRADIENTS[gradient](activation, loss, z, y)
        times.append(time.perf_counter() - start)
    return Cost(result, min(times), peak)


@dataclass(frozen=True)
class Question:
    """The question that the project answers: every strategy on one batch of its shapes, against the loop over rows."""

    name: ClassVar[str] = "question"
    samples: int = 100
    features: int = 2
    classes: int = 4
    repeats: int = 20

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            require(value >= 1, f"experiment.{name} must be at least 1, got {value}.")

    def __call__(self, objective: Objective, seed: int, show: Callable[[str], None]) -> None:
        rng = np.random.default_rng(seed)
        z = rng.random((self.samples, self.features)) @ rng.random((self.features, self.classes))  # (N,K)
        y = one_hot(rng.integers(self.classes, size=self.samples), self.classes, z.dtype)  # (N,K)
        pair = (objective.activation, objective.loss)
        show(f"{pair[0]!r} with {pair[1]!r}: N={self.samples}, D={self.features}, K={self.classes}")
        show(f"{'gradient':<10}{'deviation from loop':>20}{'time':>13}{'memory':>13}")
        reference = loop(*pair, z, y).dl_dz
        costs = {}
        for name in GRADIENTS:
            if not has_strategy(name, *pair):
                show(f"{name:<10}{'no formula for this pair':>20}")
                continue
            costs[name] = cost = measure(name, *pair, z, y, self.repeats)
            deviation = float(np.abs(cost.result.dl_dz - reference).max())
            show(f"{name:<10}{deviation:>20.1e}{cost.seconds * 1e6:>10.0f} us{cost.bytes / 1024:>9.1f} KiB")
        show(
            "dE/dz = einsum('nj,njk->nk', dE/da, da/dz): one vectorised contraction over the activation's index j, "
            f"{costs['loop'].seconds / costs['jacobian'].seconds:.0f} times as fast as the loop."
        )
        softmax = "softmax gives a * (g - sum(a * g))"
        product = softmax if pair[0].name == "softmax" else "the activation gives its product with g"
        show(
            f"da/dz need not be built: {product} from g = dE/da (gradient=vjp), in "
            f"{costs['vjp'].bytes / costs['jacobian'].bytes:.0%} of the memory, and activation and loss stay apart."
        )


EXPERIMENTS: dict[str, type[Question]] = {Question.name: Question}
