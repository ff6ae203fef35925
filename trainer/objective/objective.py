"""The objective E(w), and the sums over blocks of rows that it and its gradient dE_dw consist of."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from trainer.arrays import Array, as_type, dot, in_double, namespace, over_rows
from trainer.chain.activations import Activation
from trainer.chain.fused import GradientStrategy, LossGrad
from trainer.chain.losses import Loss
from trainer.chain.pairs import canonical, shift_invariant, softmax_like
from trainer.chain.strategies import GRADIENTS, auto, has_strategy, numbers_per_row, takes_labels
from trainer.data.features import Engine, Features
from trainer.data.rows import Data
from trainer.errors import NonFiniteError
from trainer.objective.blocks import Block, against, blocks, map_sum, scores
from trainer.objective.device import HOST, LARGER, Device
from trainer.objective.metrics import Metric
from trainer.objective.penalties import Penalty

RUN_AWAY = 1e30  # scores above it are those of a diverging training, whatever the strategy


@dataclass(frozen=True)
class Objective:
    """E(w) = sum_n weight_n loss_n / total + penalty(w), with loss_n = loss(activation(z_n), y_n).

    reduction="weights"  total = sum_n weight_n: only the proportions of the weights matter
    reduction="rows"     total = N: weights that are twice as large make a loss that is twice as large

    The weights are one each where the data have none, and then both are the mean over the rows. In mini-batches N and
    the sum are those of the batch. Rows that weigh nothing at all have the loss zero.

    Without an intercept the last row of w is zero, and its derivative too, so that no optimiser ever moves it.
    """

    activation: Activation
    loss: Loss
    gradient: GradientStrategy
    penalty: Penalty
    threads: int = 1
    reduction: str = "weights"
    progress: Callable[[int], object] = field(default=lambda rows: None, repr=False, compare=False)  # rows just done
    intercept: bool = True
    device: Device = field(default=HOST, repr=False, compare=False)  # where the rows are

    @property
    def pair(self) -> tuple[Activation, Loss]:
        """The activation and the loss."""
        return self.activation, self.loss


class Evaluation(NamedTuple):
    """The mean loss without the penalty, by the objective's reduction, each metric, and dE_dw (D+1,K) where asked."""

    loss: float
    metrics: dict[str, float]
    dE_dw: Any = None


def weighted(part: Any, loss: Array, dl_dz: Array) -> LossGrad:
    """loss (B,) and dl_dz (B,K) times the weights of the rows, where they have some."""
    if part.weight is None:
        return LossGrad(loss, dl_dz)
    weight = as_type(part.weight, dl_dz.dtype)
    return LossGrad(weight * loss, weight[..., None] * dl_dz)


def count(objective: Objective, data: Any) -> Any:
    """What rows add to the denominator of E; an array (M,) where each model of a stack has rows of its own."""
    if objective.reduction == "rows" or data.weight is None:
        return float(len(data))
    total = in_double(data.weight, axis=-1)
    return float(total) if isinstance(total, float) else total


def gradient_sums(objective: Objective, part: Any, w: Array, labels: bool) -> tuple[Any, ...]:
    """What rows add to the loss (...), to its derivative dl_dw (...,D+1,K), and to the denominator of both.

    At w (...,D+1,K), one model or a stack over them or over rows of their own. The strategy gets labels in the place of
    one-hot rows where it takes them.
    """
    y = part.y if labels else part.targets(w.dtype)
    with np.errstate(all="ignore"):  # what is not finite is seen in the sums
        loss, dl_dz = weighted(part, *objective.gradient(*objective.pair, scores(w, part.x), y))
        return in_double(loss, axis=-1), pulled_back(objective, part.x, dl_dz), count(objective, part)


def pulled_back(objective: Objective, x: Array, dl_dz: Array) -> Array:
    """dl_dw (...,D+1,K), summed over the rows."""
    bias = float(objective.intercept) * over_rows(dl_dz)
    result: Array = namespace(bias).concat([against(x, dl_dz), bias], axis=-2)
    return result


class OfRows(NamedTuple):
    """What is measured of rows, in each model of a stack.

    loss (...,N), whether a row has a target at all ([...,]N), dl_dw (...,D+1,K) or zero, statistics (...,N[,S])
    """

    loss: Array
    there: Array
    dl_dw: Any
    statistics: list[Array]


def of_rows(
    objective: Objective, part: Any, w: Array, metrics: Mapping[str, Metric], labels: bool, slopes: bool
) -> OfRows:
    """What is measured of rows at w (...,D+1,K), one model or a stack over them or over rows of their own."""
    y, z = part.plain_targets(w.dtype), scores(w, part.x)
    # The exact strategy, whichever one trains: a reported loss must not suffer from its rounding.
    loss, dl_dz = auto(*objective.pair, z, part.y if labels else part.smooth(y))
    dl_dw = pulled_back(objective, part.x, weighted(part, loss, dl_dz).dl_dz) if slopes else 0.0
    a = objective.activation(z)
    return OfRows(
        loss, namespace(y).sum(y, axis=-1) > 0, dl_dw, [metric.statistics(a, y) for metric in metrics.values()]
    )


class Counting(NamedTuple):
    """How rows count: their weight (N,), that of those with a target (N,), the sums of both, and if it is all of them.

    The sum of the first is the denominator of E, by the objective's reduction.
    """

    weight: Array
    labelled: Array
    total: Any
    labelled_total: Any
    all: bool

    @classmethod
    def of(cls, objective: Objective, part: Any, there: Array) -> "Counting":
        """Of rows of which some have a target."""
        xp, weight = namespace(there), part.weight
        if weight is None:
            weight = xp.ones(len(part), dtype=xp.float64, device=there.device)
        labelled = weight * as_type(there, weight.dtype)
        everyone = isinstance(labelled, np.ndarray) and bool((labelled > 0).all())  # a device would have to be asked
        return cls(weight, labelled, count(objective, part), in_double(labelled), everyone)


def metric_sums(counting: Counting, found: OfRows) -> tuple[Any, ...]:
    """Of one model: loss, denominator, weight of the rows that have a target at all, dl_dw or zero, and each metric."""
    labelled, xp = counting.labelled, namespace(found.loss)
    rows = [part.mT if part.ndim > 1 else part for part in found.statistics]
    # A row that does not count must not, also where its number is infinite.
    rows = rows if counting.all else [xp.where(labelled > 0, part, 0.0) for part in rows]
    sums = [xp.reshape(dot(part, labelled), (-1,)) for part in rows]
    return (dot(found.loss, counting.weight), counting.total, counting.labelled_total, found.dl_dw, *sums)


def evaluated(
    objective: Objective, w: Array, metrics: Mapping[str, Metric], sums: Sequence[Any], slopes: bool
) -> Evaluation:
    """What the sums over all blocks say of a model w (D+1,K)."""
    loss, total, labelled, dl_dw, *rest = sums
    total = total or 1.0
    each = zip(metrics.values(), rest, strict=True)
    values = [metric.finish(means / np.float64(labelled)) for metric, means in each]  # without any target nan
    dE_dw = dl_dw / total + objective.penalty.grad(w) if slopes else None
    return Evaluation(float(loss / total), dict(zip(metrics, values, strict=True)), dE_dw)


class BlockSum:
    """An objective on data, as sums over blocks of their rows."""

    def __init__(self, objective: Objective, data: Data) -> None:
        self.objective, self.device = objective, objective.device
        self.device.check(data)
        self._given = data

    @cached_property
    def data(self) -> Data:
        """The rows, where they are summed."""
        return self.device.rows(self._given)

    @cached_property
    def canonical(self) -> bool:
        """Whether dl_dz is a - y, up to a factor, and the rows' Hessians therefore known in closed form."""
        return canonical(*self.objective.pair)

    @cached_property
    def softmax_like(self) -> bool:
        """Whether dl_dz is softmax(z/T) - y up to factors, so that what is known of one row serves several ends."""
        return softmax_like(*self.objective.pair)

    @cached_property
    def shift_invariant(self) -> bool:
        """Whether a number added to all scores of a row changes nothing."""
        return shift_invariant(*self.objective.pair)

    @cached_property
    def short(self) -> bool:
        """Whether the strategy takes labels in the place of one-hot rows."""
        return self._given.one_hot and takes_labels(self.objective.gradient, *self.objective.pair)

    @cached_property
    def short_exactly(self) -> bool:
        """The same of the fastest exact strategy."""
        return self._given.one_hot and takes_labels(auto, *self.objective.pair)

    @cached_property
    def targets(self) -> Data:
        """The data without their features, of which to take rows costs nothing."""
        return replace(self.data, x=np.empty((len(self.data), 0)))

    @cached_property
    def total(self) -> float:
        """The denominator of E."""
        return float(count(self.objective, self._given)) or 1.0

    @cached_property
    def blocks(self) -> list[Block]:
        """The blocks of a sum over all of the data."""
        return self._blocks_of(numbers_per_row(self.objective.gradient, len(self._given.classes)))

    def _blocks_of(self, width: int) -> list[Block]:
        """Those where the widest temporary has so many numbers a row."""
        return blocks(self._given, width, larger=LARGER if self.device.memory else 1)

    def map_sum(self, function: Callable[[Block], tuple[Any, ...]], parts: list[Block] | None = None) -> list[Any]:
        """The sums of a function over blocks, brought home; see trainer.objective.blocks.map_sum."""
        return self.device.fetch(self._map_sum(function, parts or self.blocks))

    def _map_sum(self, function: Callable[[Block], tuple[Any, ...]], parts: list[Block]) -> list[Any]:
        """The same, where the blocks are; threads are for numpy, and a device has its own."""
        if self.engine is not None:
            return self.engine.map_sum(self, function, parts)
        threads = self.objective.threads if self.device is HOST else 1
        return map_sum(function, parts, threads, self.objective.progress)

    @property
    def engine(self) -> Engine | None:
        """Who has the rows, if they are elsewhere."""
        return self.data.x.engine if isinstance(self.data.x, Features) else None

    def value_and_grad(self, w: Array) -> tuple[Any, Array]:
        """E (...) and dE_dw (...,D+1,K) at w (...,D+1,K): of one model, or of each of a stack over the same rows.

        Of a w that is on the device they stay there, and whether they are finite is not asked.
        """
        objective, here = self.objective, self.device.put(w)
        loss, dl_dw, total = self._map_sum(
            lambda block: gradient_sums(objective, part_of(self.data, block), here, self.short), self.blocks
        )
        if isinstance(w, np.ndarray):
            loss, dl_dw, total = self.device.fetch((loss, dl_dw, total))
            if not math.isfinite(float(loss.sum()) + float(dl_dw.sum())):
                for model in w.reshape(-1, *w.shape[-2:]):
                    self.name_the_row(model)
        total, penalty = divisor(total), objective.penalty
        return loss / total + penalty.value(w), dl_dw / total + penalty.grad(w)

    def evaluate(self, w: Array, metrics: Mapping[str, Metric], slopes: bool = False) -> Evaluation:
        """The mean loss, and the metrics over the samples that have a target at all; slopes asks for dE_dw, too.

        The loss is the objective's, on smooth targets where the data have them. Metrics are stated on the targets as
        they are, and their means are over the weights whatever the reduction.
        """
        objective, here = self.objective, self.device.put(w)

        def sums(block: Block) -> tuple[Any, ...]:
            part = part_of(self.data, block)
            with np.errstate(all="ignore"):  # of each thread
                found = of_rows(objective, part, here, metrics, self.short_exactly, slopes)
                return metric_sums(Counting.of(objective, part, found.there), found)

        found = self.map_sum(sums, self._blocks_of(w.shape[1]))
        with np.errstate(invalid="ignore"):
            return evaluated(objective, w, metrics, found, slopes)

    def name_the_row(self, w: Array) -> None:
        """NonFiniteError for the first row that the strategy fails at, unless the scores themselves have run away."""
        objective, pair, here = self.objective, self.objective.pair, self.device.put(w)
        for _, rows in self.blocks:
            part = self.data.rows(rows)
            z, y = self.device.fetch([scores(here, part.x), part.targets(here.dtype)])
            with np.errstate(all="ignore"):
                fails = ~_finite_rows(objective.gradient(*pair, z, y)) & (np.abs(z) < RUN_AWAY).all(axis=1)
                if not fails.any():
                    continue
                n = int(fails.argmax())
                able = [
                    name
                    for name in ("fused", "log")
                    if has_strategy(name, *pair) and _finite_rows(GRADIENTS[name](*pair, z[[n]], y[[n]])).all()
                ]
            way = f"Use gradient={able[0]}, which is" if able else "No strategy of the pair is; take another loss"
            raise NonFiniteError(
                f"Row {rows.start + n} has scores up to {np.abs(z[n]).max():.4g}, where "
                f"gradient={objective.gradient.__name__} of activation={pair[0].name} with loss={pair[1].name} is not "
                f"finite. {way}, or lower optimizer.lr."
            )


def part_of(rows: Any, block: Block) -> Any:
    """The rows of a block; of a block that is all of them, as in a small batch, no views are made."""
    whole = len(rows) == block.rows.stop - block.rows.start and isinstance(rows.x, np.ndarray)
    return rows if whole else rows.rows(block.rows)


def divisor(total: Any) -> Any:
    """The denominator of E, which is one where the rows of a batch all weigh nothing."""
    return float(total) or 1.0 if isinstance(total, float) else namespace(total).where(total == 0, 1.0, total)


def _finite_rows(result: LossGrad) -> Array:
    """Which rows (N,) have a finite loss and derivative."""
    return np.isfinite(result.loss) & np.isfinite(result.dl_dz).all(axis=1)
