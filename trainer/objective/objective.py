"""The objective E(w) as a sum over blocks of rows, and its gradient dE_dw.

One idea serves many needs: a block fits the cache, bounds the memory of the (B,K,K) tensor and is the unit of work of
a thread. The partial sums are added in the order of the blocks, so the number of threads never changes a bit.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from trainer.arrays import Array
from trainer.chain.activations import Activation, LogSoftmax, Softmax
from trainer.chain.losses import FenchelYoung, Loss
from trainer.chain.pairs import canonical, shift_invariant
from trainer.chain.strategies import (
    GRADIENTS,
    GradientStrategy,
    LossGrad,
    auto,
    fused,
    has_strategy,
    log,
    numbers_per_row,
    precise,
    takes_labels,
)
from trainer.data.features import numbers_a_row
from trainer.data.rows import Data
from trainer.errors import NonFiniteError
from trainer.objective.metrics import Metric
from trainer.objective.penalties import Penalty
from trainer.objective.threads import in_order

if TYPE_CHECKING:
    from trainer.objective.certificate import Certificate
    from trainer.objective.view import Evaluated, Sample, View

# A block's temporaries are freed and allocated again many times a second. glibc hands each back to the system, at
# the price of a page fault every 4 KiB, until a larger allocation has been freed once; so free one (31 MiB, untouched).
np.empty(31 << 20, dtype=np.uint8)

KEPT = 1 << 25  # numbers (N,K) that are kept from a gradient for the Hessian products at the same w
RUN_AWAY = 1e30  # scores above it are those of a diverging training, whatever the strategy

R = TypeVar("R")


@dataclass(frozen=True)
class Objective:
    """E(w) = sum_n weight_n loss_n / total + penalty(w), with loss_n = loss(activation(z_n), y_n).

    reduction="weights"  total = sum_n weight_n: only the proportions of the weights matter
    reduction="rows"     total = N: weights that are twice as large make a loss that is twice as large

    The weights are one each where the data have none, and then both are the mean over the rows. In mini-batches N and
    the sum are those of the batch. Rows that weigh nothing at all have the loss zero.
    """

    activation: Activation
    loss: Loss
    gradient: GradientStrategy
    penalty: Penalty
    threads: int = 1
    reduction: str = "weights"
    progress: Callable[[int], object] = field(default=lambda rows: None, repr=False, compare=False)  # rows just done

    def on(self, data: Data) -> "BlockSum":
        """The problem of minimising E on these data."""
        return BlockSum(self, data)


class Evaluation(NamedTuple):
    """The mean loss without the penalty, by the objective's reduction, and each metric."""

    loss: float
    metrics: dict[str, float]


class BlockSum:
    """An objective on data: a Problem (see trainer.optimizers) whose value and gradient are sums over blocks."""

    def __init__(self, objective: Objective, data: Data) -> None:
        self.objective = objective
        self.data = data
        self._views: dict[Any, View] = {}

    @property
    def penalty(self) -> Penalty:
        """What is added to the mean loss; a proximal optimiser takes its share in |w|_1 by itself."""
        return self.objective.penalty

    @cached_property
    def canonical(self) -> bool:
        """Whether the rows' Hessians are known in closed form."""
        return canonical(self.objective.activation, self.objective.loss)

    @cached_property
    def softmax_like(self) -> bool:
        """Whether dl_dz is softmax(z/T) - y up to factors, so that what is known of one row serves several ends."""
        return self.canonical and isinstance(self.objective.activation, Softmax | LogSoftmax)

    @cached_property
    def shift_invariant(self) -> bool:
        """Whether a number added to all scores of a row changes nothing."""
        return shift_invariant(self.objective.activation, self.objective.loss)

    @property
    def entropic(self) -> tuple[Activation, Loss]:
        """The activation of a canonical pair with its Fenchel-Young loss."""
        activation = self.objective.activation
        return Softmax() if isinstance(activation, LogSoftmax) else activation, FenchelYoung()

    @property
    def rough(self) -> bool:
        """Whether the slopes may be taken in single precision: by strategies that keep their digits there."""
        return self.canonical and self.objective.gradient in (auto, fused, log, precise)

    @cached_property
    def short(self) -> bool:
        """Whether the strategy takes labels in the place of one-hot rows."""
        return self.data.one_hot and takes_labels(
            self.objective.gradient, self.objective.activation, self.objective.loss
        )

    @cached_property
    def short_exactly(self) -> bool:
        """The same of the fastest exact strategy."""
        return self.data.one_hot and takes_labels(auto, self.objective.activation, self.objective.loss)

    @cached_property
    def blocks(self) -> list[slice]:
        """The rows of each block of a sum over all of the data."""
        return blocks(self.data, numbers_per_row(self.objective.gradient, len(self.data.classes)))

    def value_and_grad(self, w: Array) -> tuple[float, Array]:
        """E and dE_dw (D+1,K)."""
        objective = self.objective
        pair = (objective.activation, objective.loss)

        def partial(rows: slice) -> tuple[float, Array, float]:
            part = self._part(rows)
            y = part.y if self.short else part.targets(w.dtype)
            with np.errstate(all="ignore"):  # what is not finite is seen in the sums
                loss, dl_dz = objective.gradient(*pair, scores(w, part.x), y)
                if part.weight is not None:
                    weight = part.weight.astype(w.dtype, copy=False)
                    loss, dl_dz = weight * loss, weight[:, None] * dl_dz
                dl_dw = np.concatenate([against(part.x, dl_dz), dl_dz.sum(axis=0, keepdims=True)])  # (D+1,K)
                return float(loss.sum(dtype=np.float64)), dl_dw, self._total(part)

        loss_sum, dl_dw, total = 0.0, np.zeros(w.shape, dtype=w.dtype), 0.0
        for loss_part, grad_part, total_part in self.each_block(partial):
            loss_sum += loss_part
            dl_dw += grad_part
            total += total_part
        if not math.isfinite(loss_sum + float(dl_dw.sum())):
            self.name_the_row(w)
        penalty = objective.penalty
        total = total or 1.0  # of a batch whose rows all weigh nothing
        return loss_sum / total + penalty.value(w), dl_dw / total + penalty.grad(w)

    def view(self, dtype: Any) -> "View":
        """The same problem as solvers see it, in this precision; see trainer.objective.view."""
        from trainer.objective.view import View  # which is made of what stands here

        dtype = np.dtype(dtype)
        if dtype not in self._views:
            self._views[dtype] = View(self, dtype)
        return self._views[dtype]

    @cached_property
    def provable(self) -> bool:
        """Whether there can be a certificate of a minimum."""
        from trainer.objective.certificate import Unproved, check_provable

        with suppress(Unproved):
            check_provable(self)
            return True
        return False

    def certify(self, w: Array, wanted: float = math.inf, here: "Evaluated | None" = None) -> "Certificate":
        """How far E(w) is from its minimum at most, as far as that can be proved; see trainer.objective.certificate.

        here is what was evaluated at w, where that is known.
        """
        from trainer.objective.certificate import certify

        return certify(self, w, wanted, here.rows if here is not None and here.dtype == np.float64 else {})

    def start(self, w: Array) -> Array:
        """w, or where it is all zero the best prediction without features, if that is known in closed form.

        For a loss whose dl_dz is softmax(z/T) - y it is z = T log of the mean of y.  Weights of all classes together
        that mean nothing are made zero, which lowers an l2 penalty.
        """
        activation, data = self.objective.activation, self.data
        if w.any() or not self.softmax_like:
            return w - w.mean(axis=1, keepdims=True) if self.shift_invariant and self.penalty.lasso == 0 else w
        weight = np.ones(len(data)) if data.weight is None else data.weight
        sums: Array = np.bincount(data.y, weight, w.shape[1]) if data.y.ndim == 1 else weight @ data.y
        sums = data.smooth(sums[None, :])[0].astype(np.float64)
        b = getattr(activation, "temperature", 1.0) * np.log(np.maximum(sums, sums.sum() / (2 * len(data)) or 1.0))
        started = w.copy()
        started[-1] = b - b.mean()
        return started

    @cached_property
    def sample(self) -> "Sample":
        """Some of the rows, of which coordinates and preconditioners are made."""
        from trainer.objective.view import Sample

        return Sample.of(self.data)

    @cached_property
    def targets(self) -> Data:
        """The data without their features, of which to take rows costs nothing."""
        return replace(self.data, x=np.empty((len(self.data), 0)))

    @cached_property
    def total(self) -> float:
        """The denominator of E."""
        return self._total(self.data) or 1.0

    def each_block(self, function: Callable[[slice], R]) -> Iterator[R]:
        """function(rows) of each block, in order."""
        return self._each(function, self.blocks)

    def name_the_row(self, w: Array) -> None:
        """NonFiniteError for the first row that the strategy fails at, unless the scores themselves have run away."""
        objective, data = self.objective, self.data
        pair = (objective.activation, objective.loss)
        for rows in blocks(data, numbers_per_row(objective.gradient, w.shape[1])):
            part = data.rows(rows)
            z, y = scores(w, part.x), part.targets(w.dtype)
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

    def evaluate(self, w: Array, metrics: Mapping[str, Metric]) -> Evaluation:
        """The mean loss, and the metrics over the samples that have a target at all.

        The loss is the objective's, on smooth targets where the data have them. Metrics are stated on the targets as
        they are, and their means are over the weights whatever the reduction.
        """
        objective = self.objective
        pair = (objective.activation, objective.loss)
        short = self.data.one_hot and takes_labels(auto, *pair)

        def partial(rows: slice) -> list[Array]:
            part = self._part(rows)
            y = part.plain_targets(w.dtype)
            z = scores(w, part.x)
            with np.errstate(all="ignore"):
                # The exact strategy, whichever one trains: a reported loss must not suffer from its rounding.
                loss = auto(*pair, z, part.y if short else part.smooth(y)).loss
                a = objective.activation(z)
                weight = np.ones(len(part)) if part.weight is None else part.weight
                labelled = weight * (y.sum(axis=1) > 0)
                statistics = [metric.statistics(a, y) for metric in metrics.values()]  # (N,) or (N,M) each
                # A row that does not count must not, also where its number is infinite.
                sums = [np.atleast_1d(np.where(labelled > 0, rows.T, 0.0) @ labelled) for rows in statistics]
            return [np.array([weight @ loss, self._total(part), labelled.sum()], dtype=np.float64), *sums]

        parts = list(self._each(partial, blocks(self.data, w.shape[1])))
        (loss, total, labelled), *sums = (np.sum(column, axis=0) for column in zip(*parts, strict=True))
        with np.errstate(invalid="ignore"):  # without any target a metric is nan
            values = [metric.finish(rows / labelled) for metric, rows in zip(metrics.values(), sums, strict=True)]
        return Evaluation(float(loss / (total or 1.0)), dict(zip(metrics, values, strict=True)))

    def _part(self, rows: slice) -> Data:
        """The rows of a block; of a block that is all of the data, as in a small batch, no views are made."""
        whole = rows.stop - rows.start == len(self.data) and isinstance(self.data.x, np.ndarray)
        return self.data if whole else self.data.rows(rows)

    def _each(self, partial: Callable[[slice], R], rows: list[slice]) -> Iterator[R]:
        """What partial makes of each block, in order; the rows that are done are reported."""
        if len(rows) == 1:  # the common case of small batches, by the shortest way
            result = partial(rows[0])
            self.objective.progress(rows[0].stop)
            yield result
            return
        for block, result in zip(rows, in_order(partial, rows, self.objective.threads), strict=True):
            self.objective.progress(min(block.stop, len(self.data)) - block.start)
            yield result

    def _total(self, data: Data) -> float:
        """What a block adds to the denominator of E."""
        if self.objective.reduction == "rows" or data.weight is None:
            return float(len(data))
        return float(data.weight.sum(dtype=np.float64))


def _finite_rows(result: LossGrad) -> Array:
    """Which rows (N,) have a finite loss and derivative."""
    finite: Array = np.isfinite(result.loss) & np.isfinite(result.dl_dz).all(axis=1)
    return finite


def scores(w: Array, x: Array) -> Array:
    """z (N,K), F-ordered."""
    z: Array = times(x, w[:-1])
    z += w[-1]
    return z


def times(x: Array, v: Array) -> Array:
    """x v (N,K), F-ordered: the transposed product runs every reduction over K along the long axis."""
    return np.ascontiguousarray(v.T @ x.T).T  # a sparse product lies the other way round


def against(x: Array, q: Array) -> Array:
    """x^T q (D,K).  Unlike dot, matmul keeps the interpreter's lock while its result has few numbers."""
    product: Array = np.dot(q.T, x) if isinstance(x, np.ndarray) else q.T @ x
    return product.T


def predict(activation: Activation, w: Array, x: Array, threads: int = 1) -> Array:
    """The prediction a (N,K) of features x (N,D), block by block."""
    data = Data(x, np.zeros(x.shape[0], dtype=np.intp), (), ())
    parts = in_order(lambda rows: activation(scores(w, x[rows])), blocks(data, w.shape[1]), threads)
    return np.concatenate([np.empty((0, w.shape[1])), *parts])


def blocks(data: Data, width: int) -> list[slice]:
    """An even number of equal slices of rows, each of at most 2^17 scores and 2^21 numbers of anything else.

    Data of at most half of a block's scores and a quarter of its other numbers are one block: a millisecond of work.

    Each numpy call on a block must take long beside the handing over of the interpreter's lock, and the block must stay
    in the cache; measured on two cores over K = 4 ... 100. The rule knows nothing of the machine or of the threads, so
    the sums are the same everywhere.
    """
    count, classes = len(data), max(1, len(data.classes))
    others = max(width, numbers_a_row(data.x))
    if count * classes <= 1 << 16 and count * others <= 1 << 19:  # not worth a second thread
        return [slice(0, count)]
    most = max(1, min((1 << 17) // classes, (1 << 21) // max(1, others)))
    rows = -(-count // (2 * -(-count // (2 * most))))
    return [slice(start, start + rows) for start in range(0, count, rows)]
