"""Numbers as text: aligned columns for the terminal, a CSV for whoever wants to go on with them."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trainer.runs.outputs import csv_text, write_whole


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """A line a row: the first column to the left, the others to the right, each as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.rjust(width) if number else cell.ljust(width) for number, (cell, width) in enumerate(cells))
        for cells in (list(zip(row, widths, strict=True)) for row in rows)
    ]


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """The rows under the names of the first one's keys, every number to its last digit."""
    names = list(rows[0])
    text = csv_text([names, *([row.get(name, "") for name in names] for row in rows)])
    return write_whole(path, lambda file: file.write(text.encode()))


def mean(values: Iterable[float]) -> float:
    """The mean of some numbers."""
    return float(np.mean(list(values)))


def spread(values: Sequence[float]) -> float:
    """The standard deviation of what several seeds gave, with N - 1; nan for a single one."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def with_spread(values: Sequence[float], spec: str = ".3f") -> str:
    """The mean, and the spread where there is one: 0.913 +- 0.004."""
    middle = format(mean(values), spec)
    return middle if len(values) == 1 else f"{middle} +- {format(spread(values), spec)}"


def named(seeds: Sequence[int]) -> str:
    """seed 3, or seeds 3 to 5."""
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]} to {seeds[-1]}"


def against_spread(gains: Sequence[float]) -> str:
    """Whether the mean of differences, one a seed, is more than chance would give: twice their standard deviation."""
    if len(gains) == 1:
        return "one seed says nothing of the spread, so take experiment.seeds=3 or more"
    wide = spread(gains)
    verdict = "more" if mean(gains) > 2 * wide else "no more"
    return f"{verdict} than twice the spread of that difference over {len(gains)} seeds, {wide:.4f}"
