"""A stack of models that share the pair: their gradients and what is measured of them, to the bits of each alone.

The models have rows in common, which are then read once for all, or each its own, of equal shape. Every product is a
model's own, of the shape that it has alone, and every sum has the order that it has alone; what is shared is the
elementwise work and the Python around it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np

from trainer.arrays import Array, one_hot
from trainer.chain.strategies import auto, numbers_per_row, takes_labels
from trainer.data.rows import Data
from trainer.objective.blocks import Block, blocks, map_sum
from trainer.objective.metrics import Metric
from trainer.objective.objective import (
    Counting,
    Evaluation,
    Objective,
    OfRows,
    divisor,
    evaluated,
    gradient_sums,
    metric_sums,
    of_rows,
    part_of,
)

AT_ONCE = 1 << 15  # scores of all models that are worked on together: 256 KiB, which the cache holds several times


@dataclass(frozen=True)
class OwnRows:
    """Rows of M models, each its own, as Data has those of one.

    x (M,N,D), y labels (M,N) or target rows (M,N,K), weight (M,N) or None, smoothing one number a model, or none
    """

    x: Array
    y: Array
    classes: Sequence[Any]
    labels: bool
    weight: Array | None
    smoothing: Sequence[float]

    @classmethod
    def of(cls, parts: Sequence[Data]) -> "OwnRows":
        """The rows of each model, of one shape and kind; smooth are all or none."""
        first = parts[0]
        weight = None if first.weight is None else np.stack([part.weight for part in parts])  # type: ignore[misc]
        smoothing = [part.smoothing for part in parts] if first.smoothing else []
        x, y = np.stack([part.x for part in parts]), np.stack([part.y for part in parts])
        return cls(x, y, first.classes, first.y.ndim == 1, weight, smoothing)

    def __len__(self) -> int:
        return int(self.x.shape[-2])

    @property
    def one_hot(self) -> bool:
        """Whether every target row is the one-hot row of a label."""
        return self.labels and not self.smoothing

    def rows(self, index: slice) -> "OwnRows":
        """These rows of each model, as views."""
        weight = None if self.weight is None else self.weight[:, index]
        return replace(self, x=self.x[:, index], y=self.y[:, index], weight=weight)

    def models(self, index: slice) -> "OwnRows":
        """The rows of these models."""
        weight = None if self.weight is None else self.weight[index]
        return replace(self, x=self.x[index], y=self.y[index], weight=weight, smoothing=self.smoothing[index])

    def weights_of(self, model: int) -> "OwnRows":
        """What a mean over the rows of one model has to know of them."""
        return replace(self, weight=None if self.weight is None else self.weight[model])

    def targets(self, dtype: Any) -> Array:
        """Target rows (M,N,K), as Data has them."""
        return self.smooth(self.plain_targets(dtype))

    def plain_targets(self, dtype: Any) -> Array:
        """Target rows (M,N,K), those of each model F-ordered."""
        if self.labels:
            return one_hot(self.y, len(self.classes), dtype)
        return np.ascontiguousarray(self.y.mT, dtype=dtype).mT

    def smooth(self, y: Array) -> Array:
        """Target rows (M,N,K) with each model's share of their sums spread evenly over the classes."""
        if not self.smoothing:
            return y
        smoothing, rest = (per_model(numbers, y.dtype) for numbers in (self.smoothing, [1 - s for s in self.smoothing]))
        result: Array = rest * y + smoothing * y.sum(axis=-1, keepdims=True) / y.shape[-1]
        return result


def per_model(numbers: Sequence[float], dtype: Any) -> Any:
    """One number a model as (M,1,1), or the one that all have; rounded to dtype as a number of Python's would be."""
    if all(number == numbers[0] for number in numbers):
        return float(numbers[0])
    return np.array(numbers, dtype=np.float64).astype(dtype)[:, None, None]


Rows = Data | OwnRows


def gradients(objective: Objective, rows: Rows, w: Array, penalty: Callable[[Array], Array]) -> tuple[Array, Array]:
    """The losses (M,), without the penalty, and dE_dw (M,D+1,K) at w (M,D+1,K); penalty gives that share of dE_dw."""
    labels = rows.one_hot and takes_labels(objective.gradient, *objective.pair)
    width = numbers_per_row(objective.gradient, len(rows.classes))

    def sums(block: Block) -> tuple[Any, ...]:
        parts = _in_parts(part_of(rows, block), len(w), width)
        found = [gradient_sums(objective, part, w[some], labels) for some, part in parts]
        return found[0] if len(found) == 1 else _joined(found)

    loss, dl_dw, total = map_sum(sums, blocks(rows, width), objective.threads, objective.progress)  # type: ignore[arg-type]
    total = divisor(total)
    by = total.astype(dl_dw.dtype)[:, None, None] if isinstance(total, np.ndarray) else total
    return loss / total, dl_dw / by + penalty(w)


def evaluations(
    objectives: Sequence[Objective], rows: Rows, w: Array, metrics: Mapping[str, Metric], slopes: bool
) -> list[Evaluation]:
    """What is measured of each model at w (M,D+1,K), as BlockSum.evaluate does for one; penalties are each its own."""
    first = objectives[0]
    labels = rows.one_hot and takes_labels(auto, *first.pair)

    def sums(block: Block) -> tuple[Any, ...]:
        found = []
        with np.errstate(all="ignore"):  # of each thread
            for some, part in _in_parts(part_of(rows, block), len(w), w.shape[-1]):
                measured = of_rows(first, part, w[some], metrics, labels, slopes)
                counting = _countings(first, part, measured.there, len(w[some]))
                found += [metric_sums(counting[number], _of_model(measured, number)) for number in range(len(w[some]))]
        return tuple(chain.from_iterable(found))

    flat = map_sum(sums, blocks(rows, w.shape[-1]), first.threads, first.progress)  # type: ignore[arg-type]
    each = len(flat) // len(w)
    with np.errstate(invalid="ignore"):
        return [
            evaluated(objective, w[m], metrics, flat[m * each : (m + 1) * each], slopes)
            for m, objective in enumerate(objectives)
        ]


def _in_parts(part: Any, models: int, width: int) -> list[tuple[slice, Any]]:
    """As many models at a time as the cache has room for, with their rows, of so many numbers each."""
    most = max(1, AT_ONCE // max(1, len(part) * width))
    if most >= models:
        return [(slice(0, models), part)]
    some = [slice(start, min(start + most, models)) for start in range(0, models, most)]
    return [(these, part.models(these) if isinstance(part, OwnRows) else part) for these in some]


def _joined(found: Sequence[tuple[Any, ...]]) -> tuple[Any, ...]:
    """The sums of all models from those of some at a time."""
    loss, dl_dw, totals = zip(*found, strict=True)
    total = np.concatenate(totals) if isinstance(totals[0], np.ndarray) else totals[0]
    return np.concatenate(loss), np.concatenate(dl_dw), total


def _countings(objective: Objective, part: Any, there: Array, models: int) -> Sequence[Counting]:
    """How the rows count in each model: the same in all where they are those of all, or all of them count."""
    if isinstance(part, OwnRows) and (part.weight is not None or not there.all()):
        return [Counting.of(objective, part.weights_of(number), there[number]) for number in range(models)]
    same = Counting.of(objective, part, there[0] if isinstance(part, OwnRows) else there)
    return [same] * models


def _of_model(found: OfRows, number: int) -> OfRows:
    """What is measured of the rows in one model of the stack."""
    dl_dw = found.dl_dw[number] if isinstance(found.dl_dw, np.ndarray) else found.dl_dw
    return OfRows(found.loss[number], found.there, dl_dw, [rows[number] for rows in found.statistics])
