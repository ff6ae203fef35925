"""Schedules: the factor on the learning rate as a pure function of the time t in epochs, 0 < t < epochs.

A step's time is its midpoint, so that neither the first step of a warm-up nor the last of a cosine is wasted on zero.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol

from trainer.errors import require


class Schedule(Protocol):
    """What every schedule brings.

    >>> schedule: Schedule = Cosine()
    >>> round(schedule(t=5.0, epochs=10), 3)  # half of the way
    0.5
    """

    name: ClassVar[str]

    def __call__(self, t: float, epochs: int) -> float:
        """The factor in [0, 1] at time t of a training of so many epochs."""


@dataclass(frozen=True)
class Constant:
    """1.

    >>> Constant()(25.0, epochs=30)
    1.0
    """

    name: ClassVar[str] = "constant"

    def __call__(self, t: float, epochs: int) -> float:
        return 1.0


@dataclass(frozen=True)
class StepDecay:
    """factor ** floor(t / every): a drop every so many epochs.

    >>> round(StepDecay(every=10)(25.0, epochs=30), 3)
    0.01
    """

    name: ClassVar[str] = "step"
    every: int = 30
    factor: float = 0.1

    def __post_init__(self) -> None:
        require(self.every >= 1, f"schedule.every must be at least 1 epoch, got {self.every}.")
        require(0 < self.factor <= 1, f"schedule.factor must be greater than 0 and at most 1, got {self.factor}.")

    def __call__(self, t: float, epochs: int) -> float:
        return float(self.factor ** math.floor(t / self.every))


@dataclass(frozen=True)
class Cosine:
    """t / warmup up to warmup, then (1 + cos(pi (t - warmup) / (epochs - warmup))) / 2  (Loshchilov & Hutter 2017).

    >>> [round(Cosine(warmup=2.0)(t, epochs=10), 3) for t in (1.0, 2.0, 6.0)]
    [0.5, 1.0, 0.5]
    """

    name: ClassVar[str] = "cosine"
    warmup: float = 0.0

    def __post_init__(self) -> None:
        ok = 0 <= self.warmup < math.inf
        require(ok, f"schedule.warmup must be a finite number of epochs, at least 0, got {self.warmup}.")

    def __call__(self, t: float, epochs: int) -> float:
        if t < self.warmup:
            return t / self.warmup
        return (1 + math.cos(math.pi * (t - self.warmup) / (epochs - self.warmup))) / 2


SCHEDULES: dict[str, type[Schedule]] = {cls.name: cls for cls in (Constant, StepDecay, Cosine)}
