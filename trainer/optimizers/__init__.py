"""Optimisers and the schedules of their learning rate."""

from trainer.optimizers.auto import Auto
from trainer.optimizers.first_order import Adam, AdamW, Sgd
from trainer.optimizers.lbfgs import Lbfgs
from trainer.optimizers.newton import Newton
from trainer.optimizers.protocols import Optimizer, Step
from trainer.optimizers.proximal import Fista
from trainer.optimizers.schedules import SCHEDULES, Schedule

OPTIMIZERS: dict[str, type[Optimizer]] = {cls.name: cls for cls in (Auto, Newton, Lbfgs, Fista, Sgd, Adam, AdamW)}

__all__ = ["OPTIMIZERS", "SCHEDULES", "Optimizer", "Schedule", "Step"]
