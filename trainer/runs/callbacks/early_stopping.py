"""callbacks=early_stopping: ends a training whose measure no longer falls."""

import math
from dataclasses import dataclass
from typing import ClassVar

from trainer.errors import choose, counted, require
from trainer.objective.objective import Objective
from trainer.optimizers.fit import Report
from trainer.runs.callbacks.protocol import Answer, Callback, Context


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
        sentence = f"early_stopping: {self.monitor} has not {fall} for {counted(self.patience, 'epoch')}."

        def count(value: float) -> None:
            nonlocal best, waited
            best, waited = (value, 0) if value < best - self.min_delta else (best, waited + 1)

        for row in context.past:
            count(row[self.monitor])

        def early_stopping(report: Report) -> Answer:
            count(report.metrics[self.monitor])
            return Answer(stop=sentence if waited >= self.patience else "")

        return early_stopping
