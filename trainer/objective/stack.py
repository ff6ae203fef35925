"""Models that share their rows: an objective on several sets of weights of the same rows, such as folds.

M models are so many columns of one product: parameters v (M,D+1,K) are (D+1,M K), and scores (M,B,K) are (B,M K). A
view sees one wide model, so copies of the rows and their coordinates are made once for all. Pairs whose dl_dz is
softmax(z/T) - y up to factors, with a ridge.
"""

import math
from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import numpy as np

from trainer.arrays import Array
from trainer.chain.fused import LossGrad
from trainer.chain.known import known
from trainer.data.rows import Data
from trainer.objective.blocks import Block, apart, blocks, side_by_side
from trainer.objective.certificate import ROOM
from trainer.objective.conjugate_gradients import dots
from trainer.objective.objective import BlockSum, Objective
from trainer.objective.row_hessian import prediction_of_slope, row_hessian_of_slope
from trainer.objective.view import Sample, View

ALONE = 1 << 18  # scores of a step that are not worth a second thread: half of it is numpy's own
STEPS = 5  # to the best biases


class Models(NamedTuple):
    """Of each model which set of weights it has (M,), and the strength of its ridge (M,)."""

    rows: Array
    strength: Array

    def some(self, index: Array) -> "Models":
        return Models(self.rows[index], self.strength[index])


class Stacked(NamedTuple):
    """E (M,) and its derivative g (M,D+1,K) by v (M,D+1,K), in float64, and dl_dz (M,B,K) of each block."""

    v: Array
    value: Array
    g: Array
    rows: tuple[Array, ...]

    def some(self, index: Array) -> "Stacked":
        return Stacked(self.v[index], self.value[index], self.g[index], tuple(part[index] for part in self.rows))


class _Wide(BlockSum):
    """Sums over blocks that are as short as so many columns of scores ask for."""

    def __init__(self, objective: Objective, data: Data, columns: int) -> None:
        super().__init__(objective, data)
        self.columns = columns

    @cached_property
    def blocks(self) -> list[Block]:
        if len(self.data) * self.columns <= ALONE:
            return [Block(0, slice(0, len(self.data)))]
        return blocks(self.data, 1, self.columns)


class Stack:
    """An objective on sets of weights (F,N) of the rows of data, with their shares (F,) of the denominator of E.

    The data's own weights say where coordinates and preconditioners are made, and the objective's penalty is
    |W|^2 / 2, which strengths multiply. So many models are looked at together at most.
    """

    def __init__(self, objective: Objective, data: Data, weights: Array, totals: Array, most: int) -> None:
        self.sums = _Wide(objective, data, most * len(data.classes))
        self.weights, self.totals, self.most = weights, totals, most
        self.exact = View(self.sums, Sample.of(data, objective.intercept), np.float64)
        self.rough = View(self.sums, self.exact.sample, np.float32, self.exact)

    @property
    def worth(self) -> float:
        """How many of all models' products with the features preconditioner.whole costs, if it knows such features."""
        rows, width = self.exact.sample.u.shape
        if not isinstance(self.exact.sample.u, np.ndarray):
            return math.inf
        return float(rows * width * len(self.sums.data.classes) / (4 * len(self.sums.data)))

    def at(self, models: Models, v: Array) -> Stacked:
        """E and g of each model at v, in single precision."""
        sums, view, number = self.sums, self.rough, len(v)
        ready = view.ready(side_by_side(v))

        def of_block(block: Block) -> tuple[Array, Array, tuple[Array, ...]]:
            loss, dl_dz = self._rows(block, _models(view.times(block, ready), number))
            weight = self._weight(models, block, np.float32)
            g = view.against(block, _columns(weight[..., None] * dl_dz))
            return np.asarray(np.sum(weight * loss, axis=1, dtype=np.float64)), g, (dl_dz,)

        with np.errstate(all="ignore"):  # what is not finite is no lower
            loss, g, rows = sums.map_sum(of_block)
        return self._stacked(view, models, v, loss, g, rows)

    def settled(self, models: Models, near: Stacked, enough: float) -> Stacked:
        """E and g of each model in double precision, at the best biases for the weights that were evaluated.

        They are the best up to enough of E, or after so many steps.
        """
        sums, view, number, v = self.sums, self.exact, len(near.v), near.v.copy()
        total, curvature = self.totals[models.rows], self._curvature(models, near)
        v[:, -1] += _shift(curvature, near.g[:, -1])
        ready = view.ready(side_by_side(v))
        (scores,) = sums.map_sum(lambda block: ((_models(view.times(block, ready), number),),))

        def of_block(block: Block) -> tuple[Array, Array, tuple[LossGrad, ...]]:
            loss, dl_dz = found = self._rows(block, scores[block.number])
            weight = self._weight(models, block, np.float64)
            return np.einsum("mb,mb->m", weight, loss), (dl_dz.mT @ weight[..., None])[..., 0], (found,)

        def pulled_back(block: Block) -> tuple[Array]:
            weight = self._weight(models, block, np.float64)
            return (view.against(block, _columns(weight[..., None] * rows[block.number].dl_dz)),)

        with np.errstate(all="ignore"):
            for step in range(1 + STEPS):
                loss, slope, rows = sums.map_sum(of_block)
                slope *= view.intercept / total[:, None]
                far = np.abs(slope).sum(axis=1) * _way(v[:, -1]) > enough * loss / total
                if step == STEPS or not far.any():  # the biases are those that were evaluated last
                    break
                shift = _shift(curvature, slope)
                v[:, -1] += shift
                for z in scores:
                    z += shift[:, None, :]
            (g,) = sums.map_sum(pulled_back)
        return self._stacked(view, models, v, loss, g, tuple(row.dl_dz for row in rows))

    def hessian(self, models: Models, here: Stacked) -> Callable[[Array], Array]:
        """d (M,D+1,K) -> H d (M,D+1,K) in single precision, H of each model at what was evaluated."""
        sums, view, number, pair = self.sums, self.rough, len(here.v), self.sums.objective.pair
        made = [
            row_hessian_of_slope(*pair, here.rows[n].astype(np.float32, copy=False), sums.targets.rows(block.rows))
            for n, block in enumerate(sums.blocks)
        ]

        def product(d: Array) -> Array:
            ready = view.ready(side_by_side(d))

            def of_block(block: Block) -> tuple[Array]:
                q = made[block.number](_models(view.times(block, ready), number))
                q *= self._weight(models, block, np.float32)[..., None]
                return (view.against(block, _columns(q)),)

            (product,) = sums.map_sum(of_block)
            result: Array = self._mean(view, models, product) + self._ridge(models) * d
            return result

        return product

    def bounds(self, models: Models, here: Stacked, centre: Array) -> tuple[Array, Array]:
        """How far each E is from its minimum at most, by (4) of trainer.objective.certificate: two terms (M,).

        The first is that of the weights, for biases of features about a centre (D,), which may be any; the second that
        of the biases. Their sum is a proof where E was evaluated in double precision.
        """
        slope, bias = here.g[:, -1], here.v[:, -1] + centre @ here.v[:, :-1]
        g = self.exact.scale[:, None] * (here.g[:, :-1] - centre[:, None] * slope[:, None])  # by the problem's weights
        return dots(g, g) / (2 * models.strength), np.abs(slope).sum(axis=1) * _way(bias)

    def _rows(self, block: Block, z: Array) -> LossGrad:
        """The loss (M,B) and dl_dz (M,B,K) of a block's scores."""
        part, objective = self.sums.targets.rows(block.rows), self.sums.objective
        return objective.gradient(*objective.pair, z, part.y if self.sums.short else part.targets(z.dtype))

    def _weight(self, models: Models, block: Block, dtype: object) -> Array:
        """The weights (M,B) of a block's rows."""
        weight: Array = self.weights[models.rows, block.rows].astype(dtype, copy=False)  # type: ignore[call-overload]
        return weight

    def _curvature(self, models: Models, near: Stacked) -> Array:
        """The mean Hessian (M,K,K) of the rows by their scores, and a curvature where a shift means nothing."""
        temperature = known(self.sums.objective.activation, "temperature")

        def of_block(block: Block) -> tuple[Array]:
            part, weight = self.sums.targets.rows(block.rows), self._weight(models, block, np.float32)
            a, factor = prediction_of_slope(*self.sums.objective.pair, near.rows[block.number].astype(np.float32), part)
            weighted = weight[..., None] * (factor / temperature) * a
            return (weighted.mT @ a,)

        (found,) = self.sums.map_sum(of_block)
        moment: Array = found.astype(np.float64) / self.totals[models.rows][:, None, None]
        k, diagonal = np.arange(moment.shape[-1]), moment.sum(axis=2)
        moment = -moment
        moment[:, k, k] += diagonal
        moment += np.trace(moment, axis1=1, axis2=2)[:, None, None] / len(k) ** 2
        return moment

    def _stacked(self, view: View, models: Models, v: Array, loss: Array, g: Array, rows: tuple[Array, ...]) -> Stacked:
        ridge = self._ridge(models) * v
        value = loss / self.totals[models.rows] + dots(ridge, v) / 2
        return Stacked(v, value, self._mean(view, models, g) + ridge, rows)

    def _ridge(self, models: Models) -> Array:
        """(M,D+1,1)."""
        ridge: Array = models.strength[:, None, None] * self.exact.ridge
        return ridge

    def _mean(self, view: View, models: Models, sums: Array) -> Array:
        """u^T q (M,D+1,K) over the denominator of E, from the sum over the blocks of a view."""
        result: Array = apart(view.outer(sums), len(models.rows)) / self.totals[models.rows][:, None, None]
        return result


def _models(z: Array, number: int) -> Array:
    """F-ordered (B,M K) as (M,B,K), each of which is F-ordered."""
    return z.T.reshape(number, -1, len(z)).mT


def _columns(z: Array) -> Array:
    """The inverse of it."""
    return z.mT.reshape(-1, z.shape[1]).T


def _way(bias: Array) -> Array:
    """How far (M,) biases (M,K) may be from the best ones."""
    way: Array = ROOM + np.abs(bias).max(axis=1)
    return way


def _shift(curvature: Array, slope: Array) -> Array:
    """Newton's step (M,K) of biases, of ten at most, from the curvature (M,K,K) and the derivative (M,K)."""
    damped = curvature + (1e-300 + np.abs(slope).max(axis=1)[:, None, None] / 10) * np.eye(slope.shape[1])
    shift: Array = -np.linalg.solve(damped, slope[..., None])[..., 0]
    return shift
