"""What does each gradient strategy cost as the classes grow?  python examples/strategy_costs.py

Time and peak memory of one call on 256 rows by each strategy of a pair, on one core, and the power of K that both grow
with between the last two sizes: jacobian makes K^2 numbers a row, numeric K numbers 2 K times, fused and vjp K.
"""

import math

import numpy as np

from trainer.chain.activations import Softmax
from trainer.chain.losses import CrossEntropy
from trainer.chain.strategies import GRADIENTS, has_strategy
from trainer.objective.threads import blas_on_one_thread
from trainer.runs.experiments import measure


def costs(pair: tuple, rows: int, sizes: list[int], repeats: int = 3) -> dict[str, list[tuple[float, float]]]:
    """Milliseconds and MiB of each strategy of the pair, a couple for each number of classes."""
    rng = np.random.default_rng(0)
    found = {name: [] for name in GRADIENTS if name != "auto" and has_strategy(name, *pair)}
    for classes in sizes:
        z = rng.standard_normal((rows, classes))
        y = np.eye(classes)[rng.integers(classes, size=rows)]
        for name, couples in found.items():
            with blas_on_one_thread():
                cost = measure(name, *pair, z, y, repeats)
            couples.append((cost.seconds * 1e3, cost.bytes / 2**20))
    return found


def table(title: str, sizes: list[int], columns: dict[str, list[float]]) -> list[str]:
    """A line for each K, a column for each strategy, and at the bottom the power of K."""
    lines = [f"{title:<16}" + "".join(f"{name:>12}" for name in columns)]
    for place, classes in enumerate(sizes):
        lines.append(f"K={classes:<14}" + "".join(f"{values[place]:>12.3f}" for values in columns.values()))
    step = math.log(sizes[-1] / sizes[-2])
    powers = (math.log(values[-1] / values[-2]) / step for values in columns.values())
    return [*lines, f"{'grows as':<16}" + "".join(f"{f'K^{power:.2f}':>12}" for power in powers)]


def main(rows: int = 256, sizes: tuple[int, ...] = (4, 16, 64, 256)) -> None:
    """Prints both tables."""
    found = costs((Softmax(), CrossEntropy()), rows, list(sizes))
    for place, title in enumerate(("time in ms", "memory in MiB")):
        columns = {name: [couple[place] for couple in couples] for name, couples in found.items()}
        print("\n".join(table(title, list(sizes), columns)))


if __name__ == "__main__":
    main()
