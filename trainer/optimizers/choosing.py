"""Which strength a cross-validation chooses: that of the best mean score over the folds, or a stronger one.

The rule 1se takes the strongest penalty whose mean is within one standard error of the best: of models that the folds
cannot tell apart the simplest (Breiman, Friedman, Olshen & Stone 1984; glmnet's lambda.1se).
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from trainer.arrays import Array
from trainer.chain.activations import Activation
from trainer.chain.losses import Loss
from trainer.chain.pairs import convex
from trainer.data.rows import Data
from trainer.errors import DataError, Incompatible
from trainer.objective.objective import Objective
from trainer.objective.problem import Problem
from trainer.objective.threads import blas_on_one_thread
from trainer.optimizers.cross_validation import Cell, Fold, training_rows
from trainer.optimizers.protocols import Optimizer

RULES = ("best", "1se")


class Scores:
    """The scores of strengths (S,), the strongest first, on folds (F,), as the cells come in.

    values (F,S)   the metric of this name on the rows held out, nan where there is no cell yet
    gaps (F,S)     what is proved of each cell, nan where nothing is
    reached (F,S)  whether its solver came to the minimum: certified, or by its own rule where there can be no proof
    w              the mean parameters over the folds (D+1,K) of each strength

    >>> from trainer.objective.certificate import Certificate
    >>> proof = Certificate(1e-7, "certified to 1.0e-07 of E")
    >>> scores = Scores(2, 3)
    >>> for fold, losses in enumerate([[0.7, 0.45, 0.4], [0.7, 0.5, 0.5]]):
    ...     for place, loss in enumerate(losses):
    ...         scores.add(Cell(fold, place, L2(0.1), w, 3, proof, 1e-6, "", {"loss": loss}))
    >>> scores.mean.round(3).tolist(), scores.error.round(3).tolist()
    ([0.7, 0.475, 0.45], [0.0, 0.025, 0.05])
    >>> scores.chosen("best"), scores.chosen("1se"), bool(scores.reached.all())
    (2, 1, True)
    """

    def __init__(self, folds: int, strengths: int, metric: str = "loss", higher: bool = False) -> None:
        self.metric, self.higher = metric, higher
        self.values, self.gaps = np.full((2, folds, strengths), np.nan)
        self.reached = np.zeros((folds, strengths), dtype=bool)
        self.w: list[Array | float] = [0.0] * strengths

    def add(self, cell: Cell) -> None:
        """One more cell, which is not kept."""
        place = cell.fold, cell.place
        self.values[place] = cell.metrics[self.metric]
        self.gaps[place] = math.nan if cell.proof.gap is None else cell.proof.gap
        self.reached[place] = reached(cell)
        self.w[cell.place] = self.w[cell.place] + cell.w / len(self.values)

    @property
    def mean(self) -> Array:
        """The mean over the folds (S,), each of which counts the same."""
        mean: Array = self.values.mean(axis=0)
        return mean

    @property
    def deviation(self) -> Array:
        """The sample standard deviation over the folds (S,); nan of a single one."""
        if len(self.values) == 1:
            return np.full(self.values.shape[1], np.nan)
        with np.errstate(invalid="ignore"):  # of a score that is infinite
            deviation: Array = self.values.std(axis=0, ddof=1)
        return deviation

    @property
    def error(self) -> Array:
        """The standard error of the mean (S,)."""
        return self.deviation / math.sqrt(len(self.values))

    def chosen(self, rule: str) -> int:
        """The place of the strength that one of RULES chooses, of equal ones the strongest."""
        worse = np.nan_to_num(-self.mean if self.higher else self.mean, nan=np.inf, posinf=np.inf, neginf=-np.inf)
        best = int(worse.argmin())
        if not np.isfinite(worse[best]):
            raise DataError(
                f"No strength has a finite mean {self.metric} over the folds, so none is the best. Are there rows with "
                "targets and weights in every fold?"
            )
        if rule == "best":
            return best
        if len(self.values) == 1:
            raise DataError("rule=1se needs the spread over folds, and there is one. Take more, or rule=best.")
        return int((worse <= worse[best] + self.error[best]).argmax())

    def ends(self, rule: str) -> tuple[bool, bool]:
        """Whether a stronger, and whether a weaker penalty than all of these may be better.

        The grid ends at the strongest that was chosen, or at the weakest that did best. Nothing is stronger than where
        all weights vanish.

        >>> Scores(2, 1).ends("best")
        (False, False)
        """
        last = self.values.shape[1] - 1
        if last == 0:
            return False, False
        chosen = self.chosen(rule)
        return chosen == 0 and bool(np.any(np.asarray(self.w[0])[:-1])), self.chosen("best") == last


def reached(cell: Cell) -> bool:
    """Whether a cell is at its minimum: certified, or by the solver's own rule where there can be no proof.

    >>> from trainer.objective.certificate import Certificate
    >>> unproved = Certificate(None, "no proof: there is no penalty.")
    >>> [reached(Cell(0, 0, L2(0.0), w, 9, unproved, 1e-6, why, {"loss": 0.5})) for why in ("a small gradient", "")]
    [True, False]
    """
    return cell.certified or (cell.proof.gap is None and bool(cell.believed))


def on_plain_targets(cells: Iterable[Cell], objective: Objective, data: Data, folds: Sequence[Fold]) -> Iterator[Cell]:
    """The cells with the loss on rows held out as they are: smooth targets are for training.

    >>> from trainer.objective.certificate import Certificate
    >>> proof, soft = Certificate(1e-7, "certified to 1.0e-07 of E"), replace(data, smoothing=0.5)
    >>> cell, fold = Cell(0, 0, L2(0.1), np.eye(2), 3, proof, 1e-6, "", {"loss": 9.0}), Fold(np.arange(4), np.arange(4))
    >>> [round(plain.metrics["loss"], 3) for plain in on_plain_targets([cell], objective, soft, [fold])]
    [1.295]
    """
    for cell in cells:
        if data.smoothing > 0:
            test = replace(data.only(folds[cell.fold].test), smoothing=0.0)
            with blas_on_one_thread():
                loss = Problem(objective, test).evaluate(cell.w, {}).loss
            cell = cell._replace(metrics={**cell.metrics, "loss": loss})
        yield cell


def check_cells(optimizer: Optimizer, activation: Activation, loss: Loss) -> None:
    """Incompatible where a cell could not be fitted to a minimum of which there is one.

    >>> check_cells(Sgd(), objective.activation, objective.loss)
    Traceback (most recent call last):
    trainer.errors.Incompatible: optimizer=sgd does not say when it is at the minimum, and a strength is chosen ...
    """
    if not optimizer.full_batch:
        raise Incompatible(
            f"optimizer={optimizer.name} does not say when it is at the minimum, and a strength is chosen among "
            "minima. Take a solver: optimizer=auto, newton, lbfgs or fista."
        )
    if not convex(activation, loss):
        raise Incompatible(
            f"activation={activation.name} with loss={loss.name} is not convex, so a strength on a fold may have more "
            "than one minimum, and its score depends on which is found. Fit each strength by itself, or take another "
            "pair: python -m trainer.pairs lists them."
        )


def check_folds(data: Data, folds: Sequence[Fold], classes: int = 2) -> None:
    """DataError unless each fold trains on rows of so many classes, and measures on some, that weigh something.

    >>> check_folds(data, [Fold(np.array([0, 2]), np.array([1, 3]))])
    Traceback (most recent call last):
    trainer.errors.DataError: Fold 1 of 1 trains on too few classes, 1, and 2 are needed. Take other folds, or fewer.
    """
    bare = Data(np.empty((len(data), 0)), data.y, data.classes, (), weight=data.weight)
    for number, fold in enumerate(folds, 1):
        train, test = training_rows(bare, fold), bare.rows(fold.test)
        y = train.y if train.weight is None else train.y[train.weight > 0]
        there = len(np.unique(y)) if y.ndim == 1 else int(np.count_nonzero(y.any(axis=0)))
        if there < classes:
            raise DataError(
                f"Fold {number} of {len(folds)} trains on too few classes, {there}, and {classes} are needed. Take "
                "other folds, or fewer."
            )
        if len(test) == 0 or (test.weight is not None and not test.weight.any()):
            raise DataError(
                f"Fold {number} of {len(folds)} holds out no rows that weigh anything. Take other folds, or fewer."
            )
