"""Optimisers and the schedules of their learning rate."""

from trainer.optimizers.first_order import Adam, AdamW, Sgd
from trainer.optimizers.protocols import Optimizer, Problem, Step
from trainer.optimizers.schedules import SCHEDULES, Schedule

OPTIMIZERS: dict[str, type[Optimizer]] = {cls.name: cls for cls in (Sgd, Adam, AdamW)}

__all__ = ["OPTIMIZERS", "SCHEDULES", "Optimizer", "Problem", "Schedule", "Step"]
