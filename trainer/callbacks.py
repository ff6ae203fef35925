"""Callbacks: called with every report, they may add columns to metrics.csv and stop the training."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trainer.check import deviations, witnesses
from trainer.config import choose
from trainer.data import batches
from trainer.errors import require
from trainer.fit import Report
from trainer.hooks import Answer, Callback, CallbackConfig, Context
from trainer.loggers import MLflow, TensorBoard
from trainer.objective import Objective, scores


@dataclass(frozen=True)
class EarlyStopping:
    """Stops after ``patience`` epochs in which ``monitor`` did not fall by more than ``min_delta`` below its best."""

    name: ClassVar[str] = "early_stopping"
    monitor: str = "val_loss"
    patience: int = 10
    min_delta: float = 0.0

    def __post_init__(self) -> None:
        require(self.patience >= 1, f"callbacks.early_stopping.patience must be at least 1, got {self.patience}.")
        ok = 0 <= self.min_delta < math.inf
        require(ok, f"callbacks.early_stopping.min_delta must be finite and at least 0, got {self.min_delta}.")

    def columns(self, objective: Objective) -> list[str]:
        return []

    def start(self, context: Context) -> Callback:
        choose("callbacks.early_stopping.monitor", context.columns, self.monitor)
        best, waited = math.inf, 0
        fall = f"fallen by more than {self.min_delta}" if self.min_delta else "fallen"
        sentence = f"early_stopping: {self.monitor} has not {fall} for {self.patience} epochs."

        def count(value: float) -> None:
            nonlocal best, waited
            best, waited = (value, 0) if value < best - self.min_delta else (best, waited + 1)

        for row in context.past:
            count(row[self.monitor])

        def early_stopping(report: Report) -> Answer:
            count(report.metrics[self.monitor])
            return Answer(stop=sentence if waited >= self.patience else "")

        return early_stopping


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


CALLBACKS: dict[str, type[CallbackConfig]] = {
    cls.name: cls for cls in (EarlyStopping, GradientCheck, MLflow, TensorBoard)
}
