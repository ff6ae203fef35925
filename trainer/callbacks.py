"""Callbacks: called with every report, and a true answer stops the training."""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import ClassVar, Protocol

from trainer.config import choose
from trainer.errors import require
from trainer.fit import Report

Callback = Callable[[Report], bool | None]


class CallbackConfig(Protocol):
    """A callback's settings; ``start`` makes the one that counts along with a run."""

    name: ClassVar[str]

    def start(self, columns: Collection[str]) -> Callback:
        """A fresh callback for reports with these columns; ConfigError if one that it needs is missing."""


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

    def start(self, columns: Collection[str]) -> Callback:
        choose("callbacks.early_stopping.monitor", columns, self.monitor)
        best, waited = math.inf, 0

        def early_stopping(report: Report) -> bool:
            nonlocal best, waited
            value = report.metrics[self.monitor]
            best, waited = (value, 0) if value < best - self.min_delta else (best, waited + 1)
            return waited >= self.patience

        return early_stopping


CALLBACKS: dict[str, type[CallbackConfig]] = {cls.name: cls for cls in (EarlyStopping,)}
