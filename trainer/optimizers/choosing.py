"""Which strength a cross-validation chooses: that of the best mean score over the folds, or a stronger one.

Where nobody names strengths, automatic makes them, from one that leaves next to nothing of the weights.

The rule 1se takes the strongest penalty whose mean is within one standard error of the best: of models that the folds
cannot tell apart the simplest (Breiman, Friedman, Olshen & Stone 1984; glmnet's lambda.1se).
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from trainer.arrays import Array
from trainer.chain.activations import Activation
from trainer.chain.losses import Loss
from trainer.chain.pairs import convex
from trainer.data.rows import Data
from trainer.errors import DataError, Incompatible
from trainer.objective.objective import Objective
from trainer.objective.penalties import L2, NoPenalty, Penalty
from trainer.objective.problem import Problem
from trainer.objective.threads import blas_on_one_thread
from trainer.optimizers.auto import Auto
from trainer.optimizers.cross_validation import Cell, Fold, training_rows
from trainer.optimizers.fit import TrainState, fit
from trainer.optimizers.protocols import Optimizer

RULES = ("best", "1se")
STEPS = 20  # of an automatic grid
DECADES, SMOOTH_DECADES = 4, 6  # that it spans, from where all weights vanish, and from where they have no effect
EFFECT = 0.01  # of the loss without features, that may be gained there


class Scores:
    """The scores of strengths (S,), the strongest first, on folds (F,), as the cells come in.

    values (F,S)   the metric of this name on the rows held out, nan where there is no cell yet
    gaps (F,S)     what is proved of each cell, nan where nothing is
    reached (F,S)  whether its solver came to the minimum: certified, or by its own rule where there can be no proof
    spent (F,S)    the iterations of each cell
    bare           whether all weights vanish at the strongest

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
        self.spent = np.zeros((folds, strengths), dtype=int)
        self.bare = True

    def add(self, cell: Cell) -> None:
        """One more cell, which is not kept."""
        place = cell.fold, cell.place
        self.values[place] = cell.metrics[self.metric]
        self.gaps[place] = math.nan if cell.proof.gap is None else cell.proof.gap
        self.reached[place], self.spent[place] = reached(cell), cell.iterations
        self.bare &= not (cell.place == 0 and cell.w[:-1].any())

    @property
    def mean(self) -> Array:
        """The mean over the folds (S,), each of which counts the same."""
        result: Array = self.values.mean(axis=0)
        return result

    @property
    def deviation(self) -> Array:
        """The sample standard deviation over the folds (S,); nan of a single one."""
        if len(self.values) == 1:
            return np.full(self.values.shape[1], np.nan)
        with np.errstate(invalid="ignore"):  # of a score that is infinite
            result: Array = self.values.std(axis=0, ddof=1)
            return result

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

    def late(self, limit: int, key: str) -> str:
        """What is to be done about cells that are not at their minimum, whose iterations the setting key limits.

        >>> scores = Scores(1, 2)
        >>> scores.late(0, "epochs"), scores.late(9, "epochs")
        ('Raise epochs=0.', 'The solver can do no more for them.')
        """
        more = int(self.spent[~self.reached].max()) >= limit
        return f"Raise {key}={limit}." if more else "The solver can do no more for them."

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
        return chosen == 0 and not self.bare, self.chosen("best") == last


def automatic(objective: Objective, data: Data) -> list[Penalty]:
    """Penalties of the objective's kind at STEPS strengths, from the strongest that is of interest downwards.

    With G the derivative of the mean loss L by the weights where they are zero and the biases at their best, and r the
    share of l1:

    (1) Zero weights are the minimum where no |G| exceeds strength r  (Friedman, Hastie & Tibshirani 2010, 2.5).
    (2) E is convex in the biases and (1 - r) strength convex in the weights, so the minimum has |W| <= |G| / ((1 - r)
        strength), and as L is convex it gains at most <G, -W> <= |G|^2 / ((1 - r) strength). That is the share EFFECT
        of L where strength is |G|^2 / ((1 - r) EFFECT L).

    >>> [round(penalty.strength, 6) for penalty in automatic(replace(objective, penalty=L1()), data)][::19]
    [0.250003, 2.5e-05]
    """
    unit: Penalty = replace(objective.penalty, strength=1.0)  # type: ignore[type-var]
    loss, g = _without_features(objective, data)
    by_size = float(np.abs(g).max(initial=0.0)) / unit.lasso if unit.lasso else math.inf
    by_effect = float(np.sum(g * g)) / (unit.ridge * EFFECT * loss) if unit.ridge and loss > 0 else math.inf
    top = min(by_size, by_effect)
    if not 0 < top < math.inf:
        raise DataError(
            "penalty.strength=auto finds no strength to begin with: no feature changes the loss. Give strengths, as in "
            "penalty.strength=[1,0.1,0.01], or other features."
        )
    decades = DECADES if by_size <= by_effect else SMOOTH_DECADES
    top *= 1 + 1e-5  # the best biases are known to some digits only
    grid = np.geomspace(top, top / 10**decades, STEPS).tolist()
    return [replace(unit, strength=strength) for strength in grid]  # type: ignore[type-var]


def _without_features(objective: Objective, data: Data) -> tuple[float, Array]:
    """The mean loss at zero weights and the best biases, and its derivative by the weights (D,K)."""
    constant = replace(data, x=np.zeros((len(data), 1), data.x.dtype), features=("none",))
    solver = Auto(tol=1e-10, gap=1e-12)
    start = TrainState.start(solver, constant, intercept=objective.intercept)
    alone = replace(objective, penalty=L2(1.0))
    *_, last = fit(alone, solver, constant, None, start, epochs=100, metrics=None)
    w = last.state.w
    zero = np.vstack([np.zeros((data.x.shape[1], w.shape[1]), w.dtype), w[-1:]])
    with blas_on_one_thread():
        loss, dl_dw = Problem(replace(objective, penalty=NoPenalty()), data).value_and_grad(zero)
    return float(loss), dl_dw[:-1]


def reached(cell: Cell) -> bool:
    """Whether a cell is at its minimum: certified, or by the solver's own rule where there can be no proof.

    >>> from trainer.objective.certificate import Certificate
    >>> unproved = Certificate(None, "no proof: there is no penalty.")
    >>> [reached(Cell(0, 0, L2(0.0), w, 9, unproved, 1e-6, why, {"loss": 0.5})) for why in ("a small gradient", "")]
    [True, False]
    """
    return cell.certified or (cell.proof.gap is None and bool(cell.believed))


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
