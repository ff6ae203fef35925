"""The chain rule: activations, losses, and the strategies that join dE/da with da/dz, or shortcut them.

The examples of this room know every activation and every loss, and the scores and the target of one row:

>>> from trainer.chain.activations import *
>>> from trainer.chain.losses import *
>>> z, y = np.array([[2.0, 1.0, -1.0]]), np.array([[1.0, 0.0, 0.0]])
"""
