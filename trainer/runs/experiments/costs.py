"""What one call of a gradient strategy costs."""

import math
import time
import tracemalloc
from typing import NamedTuple

from trainer.arrays import Array
from trainer.chain.strategies import GradientStrategy, LossGrad
from trainer.objective.objective import Objective


class Cost(NamedTuple):
    """What one call of a strategy gave, its best time in seconds, and its peak memory in bytes."""

    result: LossGrad
    seconds: float
    bytes: int


def measure(
    strategy: GradientStrategy, objective: Objective, z: Array, y: Array, repeats: int, patience: float = math.inf
) -> Cost:
    """Times a strategy on scores z (N,K) and targets y (N,K), and counts what it allocates.

    After so many repeats, or the first that ends when the seconds of patience are over, the best time stands.
    """
    pair = (objective.activation, objective.loss)
    tracemalloc.start()
    result = strategy(*pair, z, y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()  # tracing is slow, so the time is taken without it
    times: list[float] = []
    while len(times) < repeats and sum(times) < patience:
        start = time.perf_counter()
        strategy(*pair, z, y)
        times.append(time.perf_counter() - start)
    return Cost(result, min(times), peak)
