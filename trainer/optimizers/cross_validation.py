"""Cross-validation: one penalty at many strengths on many folds, each cell fitted, proved, and measured on other rows.

A cell is a strength on a fold, and the strengths run from the strongest to the weakest. The folds of a strength share
the rows, so they are solved together where trainer.optimizers.stacked can, and else each alone, from the parameters of
the strength before.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from trainer.arrays import Array
from trainer.data.features import Features
from trainer.data.rows import Data
from trainer.objective.certificate import Certificate
from trainer.objective.device import HOST
from trainer.objective.metrics import Metric
from trainer.objective.objective import Objective, count
from trainer.objective.penalties import L2, Penalty
from trainer.objective.problem import Problem
from trainer.objective.stack import Stack
from trainer.objective.threads import blas_on_one_thread
from trainer.optimizers.fit import Report, TrainState, fit, proved
from trainer.optimizers.protocols import Optimizer
from trainer.optimizers.stacked import Aim, along


class Fold(NamedTuple):
    """Rows to train on and rows to measure on, as numbers (n,) of rows in rising order.

    weight (n,) is that of the training rows, as for_training makes it of theirs; None is that of the data.

    >>> Fold(train=np.array([0, 1]), test=np.array([2, 3])).weight is None
    True
    """

    train: Array
    test: Array
    weight: Array | None = None


class Cell(NamedTuple):
    """What came of a strength on a fold.

    fold, place  which fold, and which of the penalties from the strongest
    penalty      the penalty of this strength
    w            parameters (D+1,K), after so many iterations
    proof        how far they are from the minimum over the fold's training rows
    gap          the proof that was asked for
    believed     why the solver takes this for the minimum by its own rule, or nothing; for where no proof can be
    metrics      of the rows held out: their mean loss, by the name loss, and what else was asked for

    >>> proof = Certificate(1e-7, "certified to 1.0e-07 of E")
    >>> Cell(0, 0, L2(0.1), np.zeros((2, 2)), 3, proof, 1e-6, "", {"loss": 0.5}).certified
    True
    """

    fold: int
    place: int
    penalty: Penalty
    w: Array
    iterations: int
    proof: Certificate
    gap: float
    believed: str
    metrics: Mapping[str, float]

    @property
    def certified(self) -> bool:
        """Whether it is proved to be at the minimum, to the gap that was asked for."""
        return self.proof.proves(self.gap)


Penalties = Callable[[float], Sequence[Penalty]]  # from the strongest, for so large a denominator of E
COLUMNS = 256  # of a product; more gain nothing
KEPT = 1 << 24  # numbers of each kind that a stack may keep of its rows


def cross_validate(
    objective: Objective,
    optimizer: Optimizer,
    data: Data,
    folds: Sequence[Fold],
    penalties: Penalties,
    *,
    epochs: int,
    metrics: Mapping[str, Metric],
) -> Iterator[Cell]:
    """Each cell once, in any order. The optimiser is a solver, and takes so many iterations a cell at most.

    penalties(total) are those of a fold whose training rows have this sum of weights: a strength of ours is the same
    for all folds, and scikit-learn's C stands for strength = 1 / (C total).

    >>> folds = [Fold(np.array([0, 1]), np.array([2, 3])), Fold(np.array([2, 3]), np.array([0, 1]))]
    >>> path = [L2(1.0), L2(0.1)]
    >>> cells = cross_validate(objective, Newton(), data, folds, lambda total: path, epochs=20, metrics={})
    >>> [(cell.fold, cell.place, round(cell.metrics["loss"], 2), cell.certified) for cell in cells]
    [(0, 0, 0.79, True), (1, 0, 0.79, True), (0, 1, 2.94, True), (1, 1, 2.94, True)]
    """
    search = _Search(objective, optimizer, data, folds, penalties, epochs, metrics)
    cells = search.stacked() if search.stackable() else search.alone()
    while True:
        with blas_on_one_thread(), np.errstate(all="ignore"):  # and not while somebody else is at work
            cell = next(cells, None)
        if cell is None:
            return
        yield cell


@dataclass(frozen=True, eq=False)
class _Search:
    """The cells of a cross-validation, fold by fold, or all folds of a strength together where their pair allows it."""

    objective: Objective
    optimizer: Optimizer
    data: Data
    folds: Sequence[Fold]
    penalties: Penalties
    epochs: int
    metrics: Mapping[str, Metric]

    @cached_property
    def gap(self) -> float:
        gap: float = self.optimizer.gap  # type: ignore[attr-defined]
        return gap

    @cached_property
    def totals(self) -> list[float]:
        """The denominator of E of each fold."""
        return [count(self.objective, training_rows(self.data, fold)) for fold in self.folds]

    @cached_property
    def paths(self) -> list[list[Penalty]]:
        """The penalties of each fold."""
        return [list(self.penalties(total)) for total in self.totals]

    def alone(self) -> Iterator[Cell]:
        """Each cell by the solver, from the parameters of the one before."""
        for number, fold in enumerate(self.folds):
            train, test = training_rows(self.data, fold), held_out(self.data, fold)
            w = TrainState.start(self.optimizer, train, intercept=self.objective.intercept).w
            for place in range(len(self.paths[number])):
                cell = self.fitted(number, place, train, test, w, self.epochs)
                w = cell.w
                yield cell

    def fitted(self, number: int, place: int, train: Data, test: Data, w: Array, epochs: int) -> Cell:
        """A cell by the solver, from w."""
        problem, optimizer = replace(self.objective, penalty=self.paths[number][place]), self.optimizer
        last = Report(TrainState(0, w, optimizer.init(w)), {})
        for report in fit(problem, optimizer, train, None, last.state, epochs=epochs, metrics=None):
            last = report
        w = last.state.w
        proof = last.proof or proved(problem, optimizer, train, w, last.converged, last.after)
        return self.cell(number, place, w, last.state.epoch, proof, last.converged, test)

    def cell(
        self, number: int, place: int, w: Array, iterations: int, proof: Certificate, believed: str, test: Data
    ) -> Cell:
        """A cell, measured."""
        penalty = self.paths[number][place]
        found = Problem(replace(self.objective, penalty=penalty), test).evaluate(w, self.metrics)
        measured = {"loss": found.loss, **found.metrics}
        return Cell(number, place, penalty, w, iterations, proof, self.gap, believed, measured)

    def stackable(self) -> bool:
        """Whether trainer.optimizers.stacked knows such problems and has room, and folds have most rows in common."""
        problem, numbers = Problem(self.objective, self.data), len(self.data) * len(self.data.classes)
        smooth = all(penalty.lasso == 0 < penalty.ridge for path in self.paths for penalty in path)
        here = not isinstance(self.data.x, Features) or self.data.x.engine is None
        room = here and numbers <= KEPT and len(self.data) * len(self.folds) <= KEPT
        trained = sum(len(fold.train) for fold in self.folds)
        shared = 2 * trained >= len(self.folds) * len(np.unique(np.concatenate([fold.train for fold in self.folds])))
        room = room and self.objective.device is HOST
        return problem.rough and problem.sums.softmax_like and smooth and room and shared

    def stacked(self) -> Iterator[Cell]:
        """All folds of a strength together; a cell that is not proved there goes on alone."""
        data, folds, classes = self.data, self.folds, len(self.data.classes)
        weights, totals, strengths = self.sets()
        if not (used := weights[-1] > 0).all():
            data, weights = data.only(np.flatnonzero(used)), weights[:, used]
        objective = replace(self.objective, penalty=L2(1.0))
        middle = replace(data, weight=weights[-1])
        most = min(max(1, min(COLUMNS // classes, KEPT // (len(data) * classes))), len(folds))
        stack = Stack(objective, middle, weights, totals, most)
        v = stack.exact.enter(Problem(objective, middle).start(np.zeros((data.x.shape[1] + 1, classes))))
        few = sum(len(fold.test) for fold in folds) <= len(self.data)
        tests = [held_out(self.data, fold) for fold in folds] if few else [None] * len(folds)
        for solved in along(stack, v, strengths, Aim(self.gap, self.epochs)):
            for number, fold in enumerate(folds):
                w, iterations = stack.exact.leave(solved.v[number]), int(solved.iterations[number])
                gap = float(solved.bound[number] / solved.value[number])
                test = tests[number] or held_out(self.data, fold)
                proof = Certificate(gap, f"certified to {gap:.1e} of E", float(solved.value[number]))
                if proof.proves(self.gap):
                    yield self.cell(number, solved.place, w, iterations, proof, proof.why, test)
                else:
                    w = w if np.isfinite(gap) else np.zeros_like(w)  # nothing is known of it, so it is no beginning
                    train, left = training_rows(self.data, fold), self.epochs - iterations
                    cell = self.fitted(number, solved.place, train, test, w, left)
                    yield cell._replace(iterations=cell.iterations + iterations)

    def sets(self) -> tuple[Array, Array, Array]:
        """The weights (F,N) of the folds' training rows, with what they add up to, and their strengths (F,S).

        Of more than one the last is their mean.
        """
        own = np.ones(len(self.data)) if self.data.weight is None else self.data.weight
        weights = np.stack(
            [
                np.bincount(fold.train, own[fold.train] if fold.weight is None else fold.weight, len(own))
                for fold in self.folds
            ]
        )
        totals, strengths = np.array(self.totals), np.array([[part.ridge for part in path] for path in self.paths])
        if len(self.folds) == 1:
            return weights, totals, strengths
        means = weights.mean(axis=0), totals.mean(), np.exp(np.log(strengths).mean(axis=0))
        return np.vstack([weights, means[0]]), np.append(totals, means[1]), np.vstack([strengths, means[2]])


def training_rows(data: Data, fold: Fold) -> Data:
    """The rows that a fold trains on, with their weights.

    >>> training_rows(data, Fold(np.array([1, 2]), np.array([0]), np.array([1.0, 3.0]))).weight
    array([1., 3.])
    """
    train = data.only(fold.train)
    return train if fold.weight is None else replace(train, weight=fold.weight)


def held_out(data: Data, fold: Fold) -> Data:
    """The rows that a fold is measured on, with targets as they are.

    >>> held_out(data, Fold(np.array([1, 2]), np.array([0]))).y
    array([0])
    """
    return replace(data.only(fold.test), smoothing=0.0)
