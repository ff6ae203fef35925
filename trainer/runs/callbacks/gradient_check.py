"""callbacks=gradient_check: a run whose strategy is compared with the others on its own rows."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trainer.chain.check import deviations, witnesses
from trainer.data.rows import batches
from trainer.errors import require
from trainer.objective.blocks import scores
from trainer.objective.objective import Objective
from trainer.optimizers.fit import Report
from trainer.runs.callbacks.protocol import Answer, Callback, Context


@dataclass(frozen=True)
class GradientCheck:
    """Compares the run's strategy with all others of the pair on real rows, and stops above ``tolerance``.

    After the first epoch and each ``every`` more, on ``samples`` training rows that follow from seed and epoch.
    Computed in float64 whatever dtype the run has: what is asked is whether the formulas are right, not how they round.
    Deviations are those of trainer.check; one that cannot be measured stays empty.
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
