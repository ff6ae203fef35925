"""What a solver asks: an objective on data in either precision, where to start from, and how far the minimum is."""

import math
from functools import cached_property
from typing import Any

import numpy as np

from trainer.arrays import Array
from trainer.chain.fused import precise
from trainer.chain.pairs import entropic
from trainer.chain.strategies import auto, fused, log
from trainer.data.rows import Data
from trainer.objective.certificate import Certificate, certify, no_proof
from trainer.objective.device import Streamed
from trainer.objective.objective import BlockSum, Objective
from trainer.objective.view import Evaluated, Sample, View


class Problem:
    """An objective on data, as an optimiser knows it; first-order ones ask ``value_and_grad`` alone."""

    def __init__(self, objective: Objective, data: Data) -> None:
        self.objective, self.data = objective, data
        self.sums = BlockSum(objective, data)
        self.value_and_grad = self.sums.value_and_grad
        self.evaluate = self.sums.evaluate

    @property
    def rows(self) -> Data:
        """The data of which mini-batches are made: where E is computed, if they are there as a whole."""
        return self.data if isinstance(self.sums.data.x, Streamed) else self.sums.data

    @property
    def rough(self) -> bool:
        """Whether single precision will do for the way to the minimum: with strategies that keep their digits there."""
        return self.sums.canonical and self.objective.gradient in (auto, fused, log, precise)

    @cached_property
    def provable(self) -> bool:
        """Whether there can be a certificate."""
        return no_proof(self.sums) is None

    def start(self, w: Array) -> Array:
        """w, or where it is all zero the best prediction without features, if that is known in closed form.

        For a loss whose dl_dz is softmax(z/T) - y it is z = T log of the mean of y.  Weights of all classes together
        that mean nothing are made zero, which lowers an l2 penalty.
        """
        data, free = self.data, self.sums.shift_invariant and self.objective.penalty.lasso == 0
        if w.any() or not (self.sums.softmax_like and self.objective.intercept):
            return w - w.mean(axis=1, keepdims=True) if free else w
        weight = np.ones(len(data)) if data.weight is None else data.weight
        sums: Array = np.bincount(data.y, weight, w.shape[1]) if data.y.ndim == 1 else weight @ data.y
        sums = data.smooth(sums[None, :])[0].astype(np.float64)
        softmax: Any = entropic(self.objective.activation)
        started = w.copy()
        started[-1] = softmax.start(np.maximum(sums, sums.sum() / (2 * len(data)) or 1.0))
        return started

    def view(self, dtype: Any) -> View:
        """The problem in standardised coordinates, in single or in double precision."""
        return self._single if np.dtype(dtype) == np.float32 else self._double

    @cached_property
    def _double(self) -> View:
        return View(self.sums, Sample.of(self.data, self.objective.intercept), np.float64)

    @cached_property
    def _single(self) -> View:
        return View(self.sums, self._double.sample, np.float32, self._double)

    def certify(self, w: Array, wanted: float = math.inf, here: Evaluated | None = None) -> Certificate:
        """How far E(w) is from its minimum at most, as far as that can be proved; see trainer.objective.certificate.

        A bound above what is wanted is worth some work; here is what was evaluated at w, where that is known.
        """
        # Rows are not brought to the coordinates of a proof that cannot be.
        return no_proof(self.sums) or certify(self._double, w, wanted, here)
