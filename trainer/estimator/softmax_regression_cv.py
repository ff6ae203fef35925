"""SoftmaxRegression whose C is chosen by cross-validation, all fits of which are one program."""

import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import check_cv

from trainer.arrays import Array
from trainer.data.rows import for_training
from trainer.errors import ConfigError, DataError
from trainer.estimator.parameters import penalty_of
from trainer.estimator.softmax_regression import SoftmaxRegression, _Given
from trainer.estimator.targets import named_weights, total_weight
from trainer.estimator.training import bar_of
from trainer.objective.metrics import Metric, choose_metrics
from trainer.objective.penalties import Penalty
from trainer.objective.problem import Problem
from trainer.optimizers import Optimizer
from trainer.optimizers.choosing import Scores, check_cells, check_folds
from trainer.optimizers.cross_validation import Fold, cross_validate
from trainer.optimizers.proximal import check_penalty
from trainer.runs.memory import check_fit, of_folds


@dataclass(kw_only=True, eq=False, repr=False)
class SoftmaxRegressionCV(SoftmaxRegression):
    """SoftmaxRegression with the C of the best score on rows that were held out, each fit of it proved.

    A cell is a C on a fold: the minimum of SoftmaxRegression's E over the fold's training rows, whose weights have the
    sum W of its own, and "balanced" weights of its own; its score is measured on the rows that the fold holds out, by
    their sample_weight and without label_smoothing. The parameters that are not listed are those of SoftmaxRegression.

    Cs        an integer: so many from 1e-4 to 1e4, evenly on a logarithmic scale; or a list
    cv        an integer: so many stratified folds of the rows in their order, by the largest target of a row; or a
              splitter of scikit-learn; or an iterable of pairs of row numbers, to train on and to measure on
    scoring   a name of metrics: accuracy, top_k, log_loss, brier, ece; None is the mean loss, of ce the log loss
    rule      "best" mean score over the folds, or "1se": the smallest C whose mean is within one standard error of it
    refit     whether the chosen C is fitted to all rows; if not, there is no model, only scores
    optimizer, penalty   a solver, and a penalty by its name, which has a strength to choose

    C_                   the chosen one
    Cs_ (S,)             all of them, rising
    scores_ (F,S)        of each fold at each C. Of accuracy and top_k the higher is the better, of the others the lower
    scores_std_ (S,)     their sample standard deviation over the folds
    gap_ (F,S)           a proved bound on (E - min E) / E of each cell; nan where there is no proof
    refit_gap_           that of the model, or None
    coef_, intercept_, classes_, model_, n_iter_, converged_ and the rest   of the model: see SoftmaxRegression

    A warning says so where C_ lies at an end of Cs beyond which a better one may be, and a ConvergenceWarning where a
    cell is not at its minimum, or where the chosen C has cells without a proof.

    >>> from sklearn.datasets import load_iris
    >>> model = SoftmaxRegressionCV(Cs=[1, 10, 100, 1000]).fit(*load_iris(return_X_y=True))
    >>> model.C_, model.scores_.shape, bool((model.gap_ <= 1e-6).all())
    (100.0, (5, 4), True)
    """

    # No parameters here: C is chosen, a solver sees all rows, and no chance is involved.
    C: float = field(init=False)
    batch_size: int | str | None = field(init=False)
    early_stopping: bool = field(init=False)
    validation_fraction: float = field(init=False)
    n_iter_no_change: int = field(init=False)
    warm_start: bool = field(init=False)
    random_state: Any = field(init=False, default=0)

    Cs: int | Sequence[float] = 10
    cv: Any = 5
    scoring: str | None = None
    rule: str = "best"
    refit: bool = True

    def fit(self, X: Any, y: Any, sample_weight: Any = None, groups: Any = None) -> "SoftmaxRegressionCV":
        """Chooses C by X (N,D) and labels y (N,), or target rows (N,K), and fits it to all of them.

        groups (N,) are for a splitter that keeps those of one group together, such as GroupKFold. scikit-learn's
        metadata routing hands them on after set_fit_request(groups=True).
        """
        given = self._given(X, y, sample_weight)
        self.Cs_: Array = np.logspace(-4, 4, self.Cs) if isinstance(self.Cs, int | np.integer) else np.unique(self.Cs)
        folds = self._folds(given, groups)
        scores = self._scored(given, folds)
        chosen = scores.chosen(self.rule)
        self.C_ = float(self.Cs_[chosen])
        self.scores_, self.scores_std_ = scores.values, scores.deviation
        self._warn(scores, chosen)
        for fitted in ("_model", "coef_", "intercept_", "n_iter_", "converged_", "refit_gap_", "multi_label_"):
            self.__dict__.pop(fitted, None)  # of an earlier fit
        self.classes_ = given.classes
        if self.refit:
            self._fit(given, self.C_, None)
            self.refit_gap_: float | None = self.gap_
        self.gap_: Any = scores.gaps
        return self

    def _stepwise(self) -> Optimizer:
        raise ConfigError(
            "SoftmaxRegressionCV compares fits to all rows of a fold, and partial_fit sees a part. Use fit."
        )

    def _scored(self, given: _Given, folds: Sequence[Fold]) -> Scores:
        data = replace(given.data, smoothing=self.label_smoothing)
        objective = self._objective(data, 1.0, "weights")
        check_cells(given.optimizer, *objective.pair)
        metrics: dict[str, Metric] = {}
        if self.scoring is not None:
            metrics = choose_metrics([self.scoring], objective.activation, "scoring")
            if metrics[self.scoring].higher is None:
                raise ConfigError(f"scoring={self.scoring} does not say how good a prediction is. Take another metric.")
        if self.penalty not in ("l2", "l1", "elastic_net", "elasticnet"):
            raise ConfigError(
                f"penalty={self.penalty!r} has no strength that Cs could stand for. Take l2, l1 or elastic_net by name."
            )
        check_penalty(given.optimizer.name, objective.penalty)
        kept = 8 * len(self.Cs_) * (data.x.shape[1] + 1) * len(data.classes)
        kept += of_folds(data, len(folds), objective.threads)
        check_fit(Problem(objective, data), given.optimizer, data.x.dtype, None, kept)

        def penalties(total: float) -> list[Penalty]:
            return [penalty_of(self.penalty, self.l1_ratio, 1 / (C * total)) for C in self.Cs_.tolist()]

        higher = any(metric.higher for metric in metrics.values())
        scores = Scores(len(folds), len(self.Cs_), self.scoring or "loss", higher)
        cells = cross_validate(
            objective, given.optimizer, data, folds, penalties, epochs=self.max_iter, metrics=metrics
        )
        with bar_of(scores.values.size, "cross-validation", "cell") if self.verbose else nullcontext() as bar:
            for cell in cells:
                scores.add(cell)
                if bar is not None:
                    bar.update()
        return scores

    def _folds(self, given: _Given, groups: Any) -> list[Fold]:
        """The folds of cv, with the classes' weights of each."""
        data, own = given.data, named_weights(self.class_weight)
        total_weight(data, least=given.least)
        if groups is not None and not hasattr(self.cv, "split"):
            raise ConfigError(
                f"groups need a splitter that keeps them together, and cv={self.cv!r} is none. Take GroupKFold."
            )
        labels = given.classes[data.labels]
        bare = replace(data, x=np.empty((len(data), 0)))
        folds = []
        for number, split in enumerate(check_cv(self.cv, labels, classifier=True).split(data.x, labels, groups)):
            train, test = (_rows(number, part, len(data)) for part in split)
            weight = None if own is None else for_training(bare.rows(train), 0.0, own).weight
            folds.append(Fold(train, test, weight))
        if not folds:
            raise ConfigError(f"cv={self.cv!r} has no folds. Give at least one.")
        check_folds(data, folds, given.least)
        return folds

    def _warn(self, scores: Scores, chosen: int) -> None:
        """Says what a reader of C_ has to know of it."""
        ends = np.all(scores.reached, axis=0)
        late = [f"{C:g}" for C, there in zip(self.Cs_, ends.tolist(), strict=True) if not there]
        if late:
            warnings.warn(
                f"At C={', '.join(late)} some cells are not certified, so their scores are not those of the minimum"
                + ("" if ends[chosen] else f"; one of these is the chosen C={self.C_:g}")
                + f". {scores.late(self.max_iter, 'max_iter')}",
                ConvergenceWarning,
                stacklevel=3,
            )
        if ends[chosen] and np.isnan(scores.gaps[:, chosen]).any():
            warnings.warn(
                f"The cells of the chosen C={self.C_:g} have no proof: the solver took them for the minimum by its own "
                "rule. See refit_gap_ and docs/solvers.md.",
                ConvergenceWarning,
                stacklevel=3,
            )
        stronger, weaker = scores.ends(self.rule)
        for there, C, way in ((stronger, self.Cs_[0], "smallest"), (weaker, self.Cs_[-1], "largest")):
            if there and np.isfinite(C):
                what = "chosen" if self.C_ == C else "best"
                warnings.warn(
                    f"The {what} C={C:g} is the {way} of Cs, and one beyond it may do better. Give more of them there.",
                    UserWarning,
                    stacklevel=3,
                )


def _rows(number: int, rows: Any, count: int) -> Array:
    """Row numbers (n,) in rising order, of numbers or of a mask."""
    try:
        found: Array = np.sort(np.arange(count)[np.asarray(rows)])
    except IndexError as error:
        raise DataError(f"Split {number + 1} of cv is none of {count} rows: {error}. Give their numbers.") from None
    if (np.diff(found) == 0).any():
        twice = found[:-1][np.diff(found) == 0][0]
        raise DataError(f"Split {number + 1} of cv has row {twice} twice. Give it once, with a sample_weight of 2.")
    return found
