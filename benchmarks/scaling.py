"""Time and memory of softmax with ce against the rows N, the features D, the classes K and the threads.

    python benchmarks/scaling.py [PICTURE]

Two kinds of work: one value and gradient, and one iteration of newton, its second, so that the features are prepared.
Seconds are the least of several rounds. Memory is what the first iteration of a fresh problem allocates at its peak
above the features themselves, as tracemalloc sees it. The slopes are of straight lines through the logarithms of the
larger sizes; that of the time in N should be 1 +- 0.1. The picture is docs/scaling.png unless another name is given.
"""

import sys
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from trainer.chain.activations import Softmax
from trainer.chain.losses import CrossEntropy
from trainer.chain.strategies import fused
from trainer.data.rows import Data
from trainer.objective.objective import Objective
from trainer.objective.penalties import L2
from trainer.objective.problem import Problem
from trainer.objective.threads import available_cores, blas_on_one_thread
from trainer.optimizers.newton import Newton
from trainer.runs.plots import COLORS, save, tidy

CORES = available_cores()
BASE = {"N": 100_000, "D": 64, "K": 10, "threads": CORES}
SIZES = {
    "N": [6_250, 12_500, 25_000, 50_000, 100_000, 200_000, 400_000, 800_000],
    "D": [8, 16, 32, 64, 128, 256, 512],
    "K": [2, 4, 8, 16, 32, 64, 128],
    "threads": sorted({*(2**i for i in range(CORES.bit_length())), CORES}),
}
FITTED = {"N": 50_000, "D": 64, "K": 16, "threads": 1}  # from here on the slope is fitted; below, overhead counts
LEAST, SECONDS = 3, 1.0  # rounds, and the time after which there are no more
WORK = {"value_and_grad": "value and gradient", "newton": "iteration of newton"}
UNITS = {"seconds": 1.0, "MiB": 2.0**20}


class Cost(NamedTuple):
    """Seconds and bytes of one kind of work."""

    seconds: float
    peak: int


def problem(n: int, d: int, k: int, threads: int) -> Problem:
    """Normal features, and labels drawn from a softmax."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, d))
    z = x @ (2 * rng.normal(size=(d, k)) / np.sqrt(d))
    y = (z + rng.gumbel(size=z.shape)).argmax(axis=1)
    data = Data(x, y, tuple(range(k)), tuple(map(str, range(d))))
    return Problem(Objective(Softmax(), CrossEntropy(), fused, L2(strength=1 / n), threads), data)


def seconds(call: Callable[[], object]) -> float:
    """The least of several rounds, after a warm one."""
    call()
    rounds: list[float] = []
    while len(rounds) < LEAST or sum(rounds) < SECONDS:
        start = time.perf_counter()
        call()
        rounds.append(time.perf_counter() - start)
    return min(rounds)


def peak(call: Callable[[], object]) -> int:
    """The largest number of bytes that are allocated at once."""
    tracemalloc.start()
    call()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


def measure(n: int, d: int, k: int, threads: int) -> dict[str, Cost]:
    """The cost of both kinds of work."""
    whole, solver = problem(n, d, k, threads), Newton()
    zero = np.zeros((d + 1, k))
    with blas_on_one_thread(), np.errstate(all="ignore"):
        gradient_peak = peak(lambda: whole.value_and_grad(zero))
        newton_peak = peak(lambda: solver.step(Problem(whole.objective, whole.data), zero, solver.init(zero)))
        w, state, *_ = solver.step(whole, zero, solver.init(zero))
        gradient = seconds(lambda: whole.value_and_grad(w))
        iteration = seconds(lambda: solver.step(whole, w, state))
    return {"value_and_grad": Cost(gradient, gradient_peak), "newton": Cost(iteration, newton_peak)}


def slope(sizes: Sequence[int], values: Sequence[float], start: int) -> float:
    """d log(value) / d log(size), by least squares over the sizes from start on; nan for a single one."""
    used = [(size, value) for size, value in zip(sizes, values, strict=True) if size >= start]
    if len(used) < 2:
        return float("nan")
    logs = np.log(np.array(used, dtype=np.float64))
    return float(np.polyfit(logs[:, 0], logs[:, 1], 1)[0])


def draw(axes: Axes, axis: str, unit: str, lines: dict[str, list[float]]) -> None:
    """One panel: a line for each kind of work, with its slope, on two logarithmic scales."""
    for (work, values), color in zip(lines.items(), (COLORS[0], COLORS[5]), strict=True):
        fitted = slope(SIZES[axis], values, FITTED[axis])
        axes.loglog(SIZES[axis], values, color=color, marker="o", markersize=4, label=f"{WORK[work]}, {fitted:.2f}")
    shown = SIZES[axis] if axis == "threads" else SIZES[axis][::2]
    axes.set_xticks(shown, [f"{size:,}" for size in shown])
    axes.set_xticks([], minor=True)
    axes.set(xlabel=axis, ylabel=unit)
    axes.legend(frameon=False, fontsize="small", title="slope", title_fontsize="small")
    tidy(axes)


def main() -> None:
    """Prints the costs and the slopes, and draws the picture."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "docs" / "scaling.png"
    figure = Figure(figsize=(16, 7))
    figure.subplots_adjust(left=0.05, right=0.98, bottom=0.08, top=0.92, wspace=0.2, hspace=0.25)
    figure.suptitle(", ".join(f"{axis}={size:,}" for axis, size in BASE.items()) + ", except for what is on the axis")
    panels = figure.subplots(2, len(SIZES), squeeze=False, sharey="row")
    print(f"{CORES} cores, numpy {np.__version__}; {', '.join(f'{axis}={size:,}' for axis, size in BASE.items())}")
    print(f"{'':<18}" + "".join(f"{title + ', ' + unit:>28}" for title in WORK.values() for unit in ("ms", "MiB")))
    for column, (axis, sizes) in enumerate(SIZES.items()):
        costs = []
        for size in sizes:
            costs.append(measure(*(BASE | {axis: size}).values()))
            print(f"{axis}={size:,}".ljust(18), end="")
            print("".join(f"{1e3 * c.seconds:>28.2f}{c.peak / 2**20:>28.1f}" for c in costs[-1].values()), flush=True)
        for row, (unit, divisor) in enumerate(UNITS.items()):
            lines = {work: [cost[work][row] / divisor for cost in costs] for work in WORK}
            draw(panels[row, column], axis, unit, lines)
            if len(sizes) > 1:
                slopes = [f"{slope(sizes, values, FITTED[axis]):.2f} ({WORK[work]})" for work, values in lines.items()]
                print(f"  slope of {unit} in {axis} from {FITTED[axis]:,} on: {', '.join(slopes)}", flush=True)
    print(f"The picture is {save(figure, path)}.")


if __name__ == "__main__":
    main()
