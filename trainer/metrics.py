"""Metrics: one number a sample, from predictions a (N,K) and target rows y (N,K); the objective averages them."""

from collections.abc import Callable

from trainer.arrays import Array, namespace

Metric = Callable[[Array, Array], Array]  # (a, y) -> (N,)


def accuracy(a: Array, y: Array) -> Array:
    """1 where the largest prediction falls on a largest target of the row, else 0  (N,)."""
    xp = namespace(a)
    predicted = xp.argmax(a, axis=1)  # of a and not of z: some activations are not monotone
    target = xp.take_along_axis(y, predicted[:, None], axis=1)[:, 0]
    return xp.astype(target == xp.max(y, axis=1), a.dtype)


METRICS: dict[str, Metric] = {"accuracy": accuracy}
