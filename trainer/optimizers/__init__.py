"""Optimisers and the schedules of their learning rate.

A class with a ``name`` in one of these modules is in OPTIMIZERS.

The examples of this room know its optimisers and a problem, two classes of points on a line:

>>> from trainer.chain.activations import Softmax
>>> from trainer.chain.losses import CrossEntropy
>>> from trainer.chain.strategies import auto
>>> from trainer.data.rows import Data
>>> from trainer.objective.objective import Objective
>>> from trainer.objective.penalties import L1, L2
>>> from trainer.objective.problem import Problem
>>> data = Data(np.array([[-2.0], [-1.0], [1.0], [2.0]]), np.array([0, 1, 0, 1]), ("left", "right"), ("x",))
>>> objective = Objective(Softmax(), CrossEntropy(), auto, L2(0.1))
>>> problem, w = Problem(objective, data), np.zeros((2, 2))
"""

from trainer.chain.known import parts
from trainer.optimizers import auto, first_order, newton, proximal
from trainer.optimizers.auto import Auto
from trainer.optimizers.first_order import Adam, AdamW, Sgd
from trainer.optimizers.newton import Lbfgs, Newton
from trainer.optimizers.protocols import Optimizer, Step
from trainer.optimizers.proximal import Fista
from trainer.optimizers.schedules import SCHEDULES, Schedule

__all__ = ["OPTIMIZERS", "SCHEDULES", "Optimizer", "Schedule", "Step"]
__all__ += ["Adam", "AdamW", "Auto", "Fista", "Lbfgs", "Newton", "Sgd"]

OPTIMIZERS: dict[str, type[Optimizer]] = parts(auto, newton, proximal, first_order)
