"""The question that the project answers, on a batch of its shapes."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from trainer.arrays import one_hot
from trainer.chain.strategies import GRADIENTS, has_strategy, loop
from trainer.errors import require
from trainer.objective.objective import Objective
from trainer.runs.config import Settings
from trainer.runs.experiments.costs import measure
from trainer.runs.experiments.protocols import Show


@dataclass(frozen=True)
class Question:
    """Every strategy on one random batch of the question's shapes, against the loop over samples."""

    name: ClassVar[str] = "question"
    samples: int = 100
    features: int = 2
    classes: int = 4
    repeats: int = 20

    def __post_init__(self) -> None:
        for name in ("samples", "features", "classes", "repeats"):
            value = getattr(self, name)
            require(value >= 1, f"experiment.{name} must be at least 1, got {value}.")

    def __call__(self, settings: Settings, objective: Objective, folder: Path, show: Show) -> None:
        rng = np.random.default_rng(settings.seed)
        z = rng.random((self.samples, self.features)) @ rng.random((self.features, self.classes))  # (N,K)
        y = one_hot(rng.integers(self.classes, size=self.samples), self.classes, z.dtype)  # (N,K)
        pair = f"{objective.activation!r} with {objective.loss!r}"
        show(f"{pair}: N={self.samples}, D={self.features}, K={self.classes}")
        show(f"{'gradient':<10}{'deviation from loop':>20}{'time':>13}{'memory':>13}")
        reference = loop(objective.activation, objective.loss, z, y).dl_dz
        costs = {}
        for name, strategy in GRADIENTS.items():
            if not has_strategy(name, objective.activation, objective.loss):
                show(f"{name:<10}{'no formula for this pair':>20}")
                continue
            costs[name] = cost = measure(strategy, objective, z, y, self.repeats)
            deviation = float(np.abs(cost.result.dl_dz - reference).max())
            show(f"{name:<10}{deviation:>20.1e}{cost.seconds * 1e6:>10.0f} us{cost.bytes / 1024:>9.1f} KiB")
        faster = costs["loop"].seconds / costs["jacobian"].seconds
        show(
            "dE/dz = einsum('nj,njk->nk', dE/da, da/dz): one vectorised contraction over the activation's index j, "
            f"{faster:.0f} times as fast as the loop."
        )
        softmax = "softmax gives a * (g - sum(a * g))"
        product = softmax if objective.activation.name == "softmax" else "the activation gives its product with g"
        saved = costs["jacobian"].bytes / costs["vjp"].bytes
        show(
            f"da/dz need not be built: {product} from g = dE/da (gradient=vjp), "
            f"in {1 / saved:.0%} of the memory, and activation and loss stay apart."
        )
