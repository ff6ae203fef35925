"""Cross-validation: one penalty at many strengths on many folds, each cell fitted, proved, and measured on other rows.

A cell is a strength on a fold. Along a fold the strengths run from the strongest to the weakest, and each begins at the
parameters of the one before.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from trainer.arrays import Array
from trainer.data.rows import Data
from trainer.objective.certificate import Certificate
from trainer.objective.metrics import Metric
from trainer.objective.objective import Objective, count
from trainer.objective.penalties import Penalty
from trainer.objective.problem import Problem
from trainer.objective.threads import blas_on_one_thread
from trainer.optimizers.fit import Report, TrainState, fit, proved
from trainer.optimizers.protocols import Optimizer


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
    [(0, 0, 0.79, True), (0, 1, 2.95, True), (1, 0, 0.79, True), (1, 1, 2.95, True)]
    """
    for number, fold in enumerate(folds):
        train, test = training_rows(data, fold), data.only(fold.test)
        w = TrainState.start(optimizer, train, intercept=objective.intercept).w
        for place, penalty in enumerate(penalties(count(objective, train))):
            problem = replace(objective, penalty=penalty)
            last = Report(TrainState(0, w, optimizer.init(w)), {})
            for report in fit(problem, optimizer, train, None, last.state, epochs=epochs, metrics=None):
                last = report
            w = last.state.w
            proof = last.proof or proved(problem, optimizer, train, w, last.converged, last.after)
            with blas_on_one_thread():
                held_out = Problem(problem, test).evaluate(w, metrics)
            measured = {"loss": held_out.loss, **held_out.metrics}
            gap: float = optimizer.gap  # type: ignore[attr-defined]
            yield Cell(number, place, penalty, w, last.state.epoch, proof, gap, last.converged, measured)


def training_rows(data: Data, fold: Fold) -> Data:
    """The rows that a fold trains on, with their weights.

    >>> training_rows(data, Fold(np.array([1, 2]), np.array([0]), np.array([1.0, 3.0]))).weight
    array([1., 3.])
    """
    train = data.only(fold.train)
    return train if fold.weight is None else replace(train, weight=fold.weight)
