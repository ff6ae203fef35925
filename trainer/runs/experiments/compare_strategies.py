"""What each gradient strategy costs as the classes grow: K^1 or K^2, in time and in memory."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from trainer.arrays import one_hot
from trainer.chain.strategies import GRADIENTS, has_strategy
from trainer.errors import require
from trainer.objective.objective import Objective
from trainer.objective.threads import blas_on_one_thread
from trainer.runs.config import Settings
from trainer.runs.experiments.costs import measure
from trainer.runs.experiments.protocols import Show
from trainer.runs.experiments.tables import aligned, write_csv

MEBI = 1 << 20
STEEP = 1.5  # a slope from here on is nearer to K^2 than to K^1
PATIENCE = 0.15  # seconds after which a strategy at one K is not timed once more
MARKERS = "os^Dv*"  # beside the colours, for where two lines lie on each other


class Point(NamedTuple):
    """What one call cost at K classes: seconds, and bytes at the peak."""

    classes: int
    seconds: float
    bytes: float


Costs = Mapping[str, Sequence[Point]]  # by strategy, in the order of K


@dataclass(frozen=True)
class CompareStrategies:
    """Every strategy of the configured pair over K = 4, 8, 16, ..., most_classes, on one core.

    A strategy is left out from the first K on at which a call would, growing with K^2 from the K before, take more
    than time_limit seconds or memory_limit MiB.
    """

    name: ClassVar[str] = "compare_strategies"
    samples: int = 256
    most_classes: int = 1000
    repeats: int = 20
    time_limit: float = 1.0
    memory_limit: float = 1024.0

    def __post_init__(self) -> None:
        for name, least in (("samples", 1), ("most_classes", 8), ("repeats", 1)):
            value = getattr(self, name)
            require(value >= least, f"experiment.{name} must be at least {least}, got {value}.")
        for name in ("time_limit", "memory_limit"):
            value = getattr(self, name)
            require(0 < value < math.inf, f"experiment.{name} must be finite and greater than 0, got {value}.")

    def __call__(self, settings: Settings, objective: Objective, folder: Path, show: Show) -> None:
        title = f"{objective.activation!r} with {objective.loss!r}"
        show(f"{title}: one call on N={self.samples} samples of K classes, as K grows")
        costs, left_out = self.measured(settings, objective)
        for corner, measure_of, unit in (("time in ms", seconds_of, 1e-3), ("memory in MiB", bytes_of, MEBI)):
            for line in table(corner, costs, measure_of, unit):
                show(line)
        for line in left_out:
            show(line)
        rows = [{"strategy": name, **point._asdict()} for name, points in costs.items() for point in points]
        write_csv(folder / f"{self.name}.csv", rows)
        if settings.plots:
            draw(folder / f"{self.name}.png", costs, f"{title}, N={self.samples}")
        for line in conclusion(costs):
            show(line)

    def measured(self, settings: Settings, objective: Objective) -> tuple[Costs, list[str]]:
        """The points of every strategy that the pair has, and a sentence for each that did not get to the last K."""
        pair = (objective.activation, objective.loss)
        costs: dict[str, list[Point]] = {
            name: []
            for name in GRADIENTS
            if name != "auto" and has_strategy(name, *pair)  # auto is one of the others
        }
        left_out: dict[str, str] = {}
        rng = np.random.default_rng(settings.seed)
        for classes in sizes_up_to(self.most_classes):
            z = np.asfortranarray(rng.normal(size=(self.samples, classes)), dtype=settings.dtype)
            y = one_hot(rng.integers(classes, size=self.samples), classes, z.dtype)  # (N,K)
            for name, points in costs.items():
                if name in left_out:
                    continue
                if reason := self.too_much(points, classes):
                    left_out[name] = f"{name} is left out from K={classes} on: {reason}."
                    continue
                with blas_on_one_thread():
                    cost = measure(GRADIENTS[name], objective, z, y, self.repeats, PATIENCE)
                points.append(Point(classes, cost.seconds, cost.bytes))
        return costs, list(left_out.values())

    def too_much(self, points: Sequence[Point], classes: int) -> str:
        """Why a call at the next K is not made, or nothing."""
        if not points:
            return ""
        growth = (classes / points[-1].classes) ** 2
        seconds, mebibytes = growth * points[-1].seconds, growth * points[-1].bytes / MEBI
        if seconds > self.time_limit:
            return f"a call could take {seconds:.1f} s, more than experiment.time_limit={self.time_limit:g}"
        if mebibytes > self.memory_limit:
            return f"a call could take {mebibytes:.0f} MiB, more than experiment.memory_limit={self.memory_limit:g}"
        return ""


def sizes_up_to(most: int) -> list[int]:
    """4, 8, 16, ... and the last one, whether it is a power of two or not."""
    powers = [2**exponent for exponent in range(2, most.bit_length()) if 2**exponent < most]
    return [*powers, most]


def seconds_of(point: Point) -> float:
    """What the first panel shows."""
    return point.seconds


def bytes_of(point: Point) -> float:
    """What the second panel shows."""
    return point.bytes


def slope(points: Sequence[Point], measure_of: Callable[[Point], float]) -> float:
    """p of the power law K^p, fitted in logarithms to the upper half of the range, where K outweighs the overhead.

    nan for a single point.
    """
    if len(points) < 2:
        return math.nan
    middle = math.sqrt(points[0].classes * points[-1].classes)
    upper = [point for point in points if point.classes >= middle]
    if len(upper) < 2:
        upper = list(points[-2:])
    x, y = np.log([point.classes for point in upper]), np.log([max(measure_of(point), 1e-12) for point in upper])
    return float(np.polyfit(x, y, 1)[0])


def table(corner: str, costs: Costs, measure_of: Callable[[Point], float], unit: float) -> list[str]:
    """A line for each K and a column for each strategy; the last line has the slopes."""
    sizes = sorted({point.classes for points in costs.values() for point in points})
    at = {name: {point.classes: measure_of(point) / unit for point in points} for name, points in costs.items()}
    lines = [[corner, *costs]]
    lines += [[f"K={k}", *(f"{at[name][k]:.3f}" if k in at[name] else "-" for name in costs)] for k in sizes]
    return aligned([*lines, ["grows as", *(power(slope(points, measure_of)) for points in costs.values())]])


def power(p: float) -> str:
    """K^1.03, or a dash where there was nothing to fit."""
    return "-" if math.isnan(p) else f"K^{p:.2f}"


def conclusion(costs: Costs) -> list[str]:
    """Who grows how, and who was the best and the worst where all were measured."""
    lines = [growth("Time", costs, seconds_of), growth("Memory", costs, bytes_of)]
    shared = max(set.intersection(*({point.classes for point in points} for points in costs.values())))
    there = {name: next(point for point in points if point.classes == shared) for name, points in costs.items()}
    by_time = sorted(there, key=lambda name: there[name].seconds)
    by_size = sorted(there, key=lambda name: there[name].bytes)
    fast, slow = there[by_time[0]].seconds, there[by_time[-1]].seconds
    small, large = there[by_size[0]].bytes, there[by_size[-1]].bytes
    return [
        *lines,
        f"At K={shared}, the largest that all were measured at, {by_time[0]} is the fastest with {fast * 1e3:.3g} ms, "
        f"and {by_time[-1]} takes {slow / fast:.0f} times as long; {by_size[0]} takes the least memory, "
        f"{small / MEBI:.3g} MiB, and {by_size[-1]} {large / small:.0f} times as much.",
    ]


def growth(what: str, costs: Costs, measure_of: Callable[[Point], float]) -> str:
    """The strategies in two camps by their slopes; a camp that is empty isn't mentioned."""
    slopes = {name: slope(points, measure_of) for name, points in costs.items()}
    camps = {
        "1": [f"{name} {power(p)}" for name, p in slopes.items() if p < STEEP],
        "2": [f"{name} {power(p)}" for name, p in slopes.items() if p >= STEEP],
    }
    said = [f"nearer to {camp} in {', '.join(names)}" for camp, names in camps.items() if names]
    short = [name for name, p in slopes.items() if math.isnan(p)]
    rest = f"; {', '.join(short)} was measured at one K only" if short else ""
    return f"{what} grows with a power of K that is {', but '.join(said) or 'not known'}{rest}."


def draw(path: Path, costs: Costs, title: str) -> Path:
    """Time and memory over K, both on logarithmic axes, with the slopes in the legend."""
    from matplotlib.figure import Figure  # slow to import

    from trainer.runs.plots import COLORS, save, tidy

    figure = Figure(figsize=(11, 5.4))
    figure.subplots_adjust(left=0.075, right=0.98, bottom=0.1, top=0.78, wspace=0.2)
    figure.suptitle(title)
    panels = (("time of one call in ms", seconds_of, 1e-3), ("peak memory of one call in MiB", bytes_of, MEBI))
    for axes, (label, measure_of, unit) in zip(figure.subplots(1, 2), panels, strict=True):
        for (name, points), color, marker in zip(costs.items(), COLORS, MARKERS, strict=False):
            x, y = [point.classes for point in points], [measure_of(point) / unit for point in points]
            text = f"{name}  ${power(slope(points, measure_of)).replace('^', '^{')}}}$" if len(points) > 1 else name
            axes.plot(x, y, color=color, marker=marker, markersize=4.5, label=text)
        sizes = sorted({point.classes for points in costs.values() for point in points})
        axes.set(xscale="log", yscale="log", xlabel="classes K", ylabel=label)
        axes.set_xticks(sizes, [str(k) for k in sizes])
        axes.minorticks_off()
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
        tidy(axes)
    return save(figure, path)
