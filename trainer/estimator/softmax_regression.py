"""The scikit-learn face: a classifier over the same objective, ``fit`` and model file as the command line.

Labels of any kind become the places 0..K-1 of the sorted classes here, and scikit-learn's C the strength of a penalty.
It is one class, so that all that scikit-learn asks of an estimator can be read in one place.
"""

import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import issparse  # type: ignore[import-untyped]
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, validate_data

from trainer.arrays import Array
from trainer.chain.activations import ACTIVATIONS, RANGES, Activation, NormalizedSigmoid
from trainer.chain.known import has, known
from trainer.chain.losses import LOSSES, Loss
from trainer.chain.pairs import shift_invariant
from trainer.chain.strategies import GradientChoice
from trainer.data.features import is_sparse
from trainer.data.rows import Data, Numbered, Standardizer, for_training, split
from trainer.data.sparse_files import check_sparse
from trainer.errors import ConfigError, DataError, require_text
from trainer.estimator.parameters import check_ranges, component, penalty_of, threads_of
from trainer.estimator.targets import (
    at_home,
    columns_of,
    data_of,
    name_of,
    named_classes,
    named_weights,
    places_of,
    right,
    rows_of,
    shown,
    targets_of,
    total_weight,
    with_mean_one,
)
from trainer.estimator.training import trained
from trainer.objective.blocks import scores
from trainer.objective.device import device_of
from trainer.objective.metrics import DISTRIBUTIONS, PROBABILITIES
from trainer.objective.objective import Objective
from trainer.objective.problem import Problem
from trainer.objective.refusals import check_solver, check_targets, is_soft, strategy_of
from trainer.objective.threads import blas_on_one_thread
from trainer.optimizers import OPTIMIZERS, Optimizer
from trainer.optimizers.fit import TrainState, proved, samples_a_step
from trainer.optimizers.proximal import check_penalty
from trainer.optimizers.schedules import Constant
from trainer.runs.memory import check_fit
from trainer.runs.model import Model

DTYPES = [np.float64, np.float32]  # float32 features are trained on as they are, all others as float64


class _Progress(NamedTuple):
    """What partial_fit keeps between two calls."""

    state: TrainState
    optimizer: Optimizer
    intercept: bool
    seed: int
    rows: int  # that it has seen


class _Given(NamedTuple):
    """What fit is given, once it is checked."""

    data: Data
    classes: Array
    alone: bool  # whether each class is a question of its own
    optimizer: Optimizer
    least: int  # classes that there must be


@dataclass(kw_only=True, eq=False, repr=False)  # repr and equality are those of scikit-learn
class SoftmaxRegression(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A linear classifier, the minimum over w (D+1,K) of a mean loss and a penalty.

        E(w) = sum_n weight_n loss(activation(z_n), y_n) / W + |w[:-1]|^2 / (2 C W),    z = x @ w[:-1] + w[-1],

    with W = sum_n weight_n, after class_weight. So C, which is scikit-learn's, is penalty.strength = 1 / (C W); a name
    of another penalty takes the same strength. With three classes and more the defaults are those of
    LogisticRegression(C). With two it penalises b = w_1 - w_0 alone, where |b|^2 = 2 |w|^2 at the optimum: it finds at
    2 C what is found here at C.

    activation, loss, optimizer, penalty   a name, or an instance such as Softmax(temperature=2.0), Adam(lr=0.01)
                        or L2(strength=0.1), which then stands in the place of C; penalty=None is none
    gradient            a name or a GradientChoice
    C                   positive; a large one is a weak penalty, and infinity is none
    l1_ratio            the share of |w|_1 in the penalty, as in scikit-learn: 0 is l2, 1 is l1, and what is between
                        elastic_net; None leaves it to penalty
    max_iter            iterations of a solver, passes over the data of another optimiser
    tol                 when a solver looks whether it is at the optimum, of the norm of its gradient, and no less than
                        2e-6 for float32
    batch_size          rows a step; "auto" is all for a solver and else 32
    fit_intercept       whether there are biases; without they are zero, and z = x @ w[:-1]
    class_weight        None, "balanced" or {label: weight}, see data.for_training
    label_smoothing     epsilon in [0, 1), see data.Data
    early_stopping      holds out validation_fraction of the rows, stops after n_iter_no_change iterations in which
                        the loss on them did not fall, and keeps the parameters with which it was least
    warm_start          whether fit begins at the parameters of the fit before, with a fresh state of the optimiser
    random_state        of the split, the shuffling and a random start
    threads             None takes every core; the result does not depend on it
    device              "cpu"; "torch", whose tensors take the place of numpy's arrays; or "torch:cuda:0", a GPU
    n_jobs              scikit-learn's name for threads: -1 is every core, -2 all but one; only one of the two is set
    verbose             more than 0 shows a bar of the iterations of fit, with the loss

    coef_ (K,D), intercept_ (K,)   w, of the features as they are given, and biases that sum to zero where their sum
                        means nothing; K rows for two classes too, whose decision function is their difference. What is
                        set here is what predicts, is saved and is gone on from
    classes_ (K,)       the labels that there are, sorted; of target rows the names of the columns of a DataFrame, or
                        0..K-1
    multi_label_        whether y were target rows and each class is a question of its own, as with activation=sigmoid
    n_features_in_, feature_names_in_
    model_              the Model that save writes
    n_iter_, converged_ iterations done, and whether the solver ended at the optimum: certified to a millionth of E
                        where that can be proved (see gap_), or else by its own rule
    gap_                a proved bound on (E - min E) / E, or None where there is no proof: without a penalty, or for a
                        pair that is not convex or whose gradient jumps; see trainer.objective.certificate
    loss_curve_, val_loss_curve_   the mean loss after each iteration without the penalty; val_loss_curve_ is empty
                        without early_stopping

    Target rows y (N,K) are shares, or zeros and ones, that are not negative; which ones a loss takes is in the table of
    trainer.pairs. Rows of the sum one are the probabilities of the classes.

    >>> SoftmaxRegression(C=10.0).fit(X, y).predict([[-3.0], [3.0]]).tolist()
    ['no', 'yes']
    """

    activation: str | Activation = "softmax"
    loss: str | Loss = "ce"
    gradient: str | GradientChoice = "auto"
    optimizer: str | Optimizer = "auto"
    penalty: Any = "l2"
    C: float = 1.0
    l1_ratio: float | None = None
    max_iter: int = 200
    tol: float = 1e-8
    batch_size: int | str | None = "auto"
    fit_intercept: bool = True
    class_weight: Mapping[Any, float] | str | None = None
    label_smoothing: float = 0.0
    early_stopping: bool = False
    validation_fraction: float = 0.1
    n_iter_no_change: int = 10
    warm_start: bool = False
    random_state: Any = None
    threads: int | None = None
    device: str = "cpu"
    n_jobs: int | None = None
    verbose: int = 0

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "SoftmaxRegression":
        """Minimises E on X (N,D) and labels y (N,), or target rows (N,K), of at least two columns.

        A ConvergenceWarning where max_iter ends a solver too early.
        """
        again = self.warm_start and hasattr(self, "_model")
        given = self._given(X, y, sample_weight)
        return self._fit(given, self.C, self._before(given.data, given.classes) if again else None)

    def _given(self, X: Any, y: Any, sample_weight: Any) -> _Given:
        """What fit is given, checked, with all parameters."""
        check_ranges(self)
        columns = columns_of(y)
        X, y = self._validated(X, y)
        targets, classes = targets_of(y, columns)
        tol = max(self.tol, 16 * float(np.finfo(X.dtype).eps))  # no gradient is known more precisely than that
        optimizer = component("optimizer", OPTIMIZERS, self.optimizer, tol=tol)
        if optimizer.full_batch:
            check_solver(
                optimizer.name,
                component("activation", ACTIVATIONS, self.activation),
                component("loss", LOSSES, self.loss),
                self.gradient if isinstance(self.gradient, str) else self.gradient.name,
                self.label_smoothing > 0 or is_soft(targets),
            )
        data = data_of(X, targets, classes, self._names(X), sample_weight)
        alone = columns is not None and self._answers_alone()
        return _Given(data, classes, alone, optimizer, 1 if alone else 2)

    def _fit(self, given: _Given, C: float, w: Array | None) -> "SoftmaxRegression":
        """Minimises E at this C, from parameters w (D+1,K) or those that the activation begins with."""
        data, classes, alone, optimizer, least = given
        size = samples_a_step(self.batch_size, optimizer, Constant())
        all_at_once = size is None
        seed = self._seed()
        data, valid = split(data, self.validation_fraction, seed) if self.early_stopping else (data, None)
        train = for_training(data, self.label_smoothing, named_weights(self.class_weight))
        total = total_weight(train, least)
        objective = self._objective(train, 1 / (C * total), "weights" if all_at_once else "rows")
        check_penalty(optimizer.name, objective.penalty)
        check_fit(Problem(objective, train), optimizer, train.x.dtype, size)
        if not all_at_once:
            train, valid = with_mean_one(train), None if valid is None else with_mean_one(valid)
        state = self._start(objective.activation, optimizer, train, seed, w)
        self.loss_curve_, self.val_loss_curve_ = list[float](), list[float]()
        last, w, stopped = trained(
            objective,
            optimizer,
            train,
            valid,
            state,
            (self.loss_curve_, self.val_loss_curve_),
            epochs=self.max_iter,
            batch_size=size,
            seed=seed,
            patience=self.n_iter_no_change if self.early_stopping else 1,
            verbose=bool(self.verbose),
        )
        fitted, w = w, _without_shift(w, objective)
        # In double precision the shift rounds nothing away that the proof could see.
        same = last.state.w is fitted and w.dtype == np.float64
        after = last.after if last.state.w is w else None
        proof = (same and last.proof) or proved(objective, optimizer, train, w, last.converged, after)
        certain = optimizer.full_batch and proof.proves(optimizer.gap)  # type: ignore[attr-defined]
        self.n_iter_, self.gap_ = last.state.epoch, proof.gap
        self.converged_ = certain or (proof.gap is None and bool(last.converged))
        self._progress: _Progress | None = None
        if optimizer.full_batch and not stopped:  # the others are what a solver knew on its way
            if proof.gap is None:
                with blas_on_one_thread():
                    self.loss_curve_[-1] = Problem(objective, train).evaluate(w, {}).loss
            else:
                self.loss_curve_[-1] = proof.value - objective.penalty.value(w)
        if optimizer.full_batch and not (self.converged_ or stopped):
            end = last.stalled or f"max_iter={self.max_iter} is too little; {proof.why.rstrip('.')}. Raise it."
            warnings.warn(f"optimizer={optimizer.name} has not converged: {end}", ConvergenceWarning, stacklevel=3)
        rows = {"train_rows": len(train), "valid_rows": 0 if valid is None else len(valid)}
        return self._keep(w, objective, classes, data.features, rows, alone)

    def _stepwise(self) -> Optimizer:
        """The optimiser of partial_fit; where it is a solver a ConfigError, and there is no such method."""
        chosen = "adam" if isinstance(self.optimizer, str) and self.optimizer == "auto" else self.optimizer
        optimizer: Optimizer = component("optimizer", OPTIMIZERS, chosen, tol=self.tol)
        if optimizer.full_batch:
            raise ConfigError(
                f"optimizer={optimizer.name} needs the gradient of all rows, and partial_fit sees a part of them. "
                "Take optimizer=sgd, adam or adamw, or auto, which is adam here; or use fit."
            )
        return optimizer

    @available_if(lambda self: self._stepwise())  # type: ignore[untyped-decorator]
    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> "SoftmaxRegression":
        """One pass over X (N,D) by a first-order optimiser, whose state is kept; optimizer="auto" is adam here.

        The first call names the classes, since a batch need not hold all; target rows name them themselves. The sums
        are divided by numbers of rows, so weights should have a mean of one, and the penalty's strength is
        1 / (C rows), of the rows seen up to now.
        """
        check_ranges(self)
        for name, refused in (("early_stopping", True), ("class_weight", "balanced")):
            if getattr(self, name) == refused:
                raise ConfigError(
                    f"{name}={refused} needs all rows, and partial_fit sees a part. Leave it out, or use fit."
                )
        optimizer = self._stepwise()
        again = hasattr(self, "_model")
        columns = columns_of(y)
        X, y = self._validated(X, y, reset=not again)
        known = named_classes(classes, columns, self.classes_ if again else None)
        targets = places_of(y, known) if columns is None else rows_of(y)
        before: _Progress | None = getattr(self, "_progress", None)
        train = for_training(
            data_of(X, targets, known, self._names(X), sample_weight),
            self.label_smoothing,
            named_weights(self.class_weight),
        )
        rows = len(train) + (before.rows if before else 0)
        objective = self._objective(train, 1 / (self.C * rows), "rows")
        size = samples_a_step(self.batch_size, optimizer, Constant())
        check_penalty(optimizer.name, objective.penalty)
        check_fit(Problem(objective, train), optimizer, train.x.dtype, size)
        seed = before.seed if before else self._seed()
        state = self._start(objective.activation, optimizer, train, seed, self._before(train, known) if again else None)
        same = before and type(before.optimizer) is type(optimizer) and before.intercept == self.fit_intercept
        if before and same and self.model_ is self._model:
            state = before.state
        if before is None:
            self.loss_curve_, self.val_loss_curve_ = [], []
        curves = self.loss_curve_, self.val_loss_curve_
        last, w, _ = trained(
            objective, optimizer, train, None, state, curves, epochs=state.epoch + 1, batch_size=size, seed=seed
        )
        w = _without_shift(w, objective)
        self._progress = _Progress(last.state, optimizer, self.fit_intercept, seed, rows)
        self.n_iter_, self.converged_, self.gap_ = len(self.loss_curve_), False, None
        alone = columns is not None and self._answers_alone()
        return self._keep(w, objective, known, train.features, {"train_rows": rows, "valid_rows": 0}, alone)

    def decision_function(self, X: Any) -> Array:
        """The scores z (N,K), or z_1 - z_0 (N,) with two classes, as scikit-learn's metrics want it.

        Of a = f(z) / sum f(z), where f may fall, they are log f(z): the largest one is always that of the largest a.
        Multi-label models have K scores for two classes too.
        """
        z = self._evidence(self._scores(X))
        return z[:, 1] - z[:, 0] if z.shape[1] == 2 and not self.multi_label_ else z

    def predict(self, X: Any) -> Array:
        """The class of the largest a (N,), and among equal ones that of the largest score.

        Of a multi-label model, see multi_label_, rows (N,K) of ones where a >= 1/2 and zeros elsewhere: a row may have
        several classes or none.
        """
        z = self._scores(X)
        a = self._model.activation(z)
        if self.multi_label_:
            answers: Array = (a >= 0.5).astype(np.intp)
            return answers
        best = np.where(a == a.max(axis=1, keepdims=True), self._evidence(z), -np.inf).argmax(axis=1)
        chosen: Array = self.classes_[best]
        return chosen

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The share of the rows that predict is right about, by their weights.

        Of target rows y (N,K) one of the largest has to be met, as in metrics=accuracy, and by a multi-label model all
        K answers, where y >= 1/2 is a yes.
        """
        if columns_of(y) is None:
            return float(super().score(X, y, sample_weight))
        return float(np.average(right(self.predict(X), y, self.classes_), weights=sample_weight))

    def _answers_alone(self) -> bool:
        """Whether each class is a question of its own, whose answer is a probability."""
        return bool(component("activation", ACTIVATIONS, self.activation).range == "unit")

    def _distribution(self) -> Activation:
        """The activation whose rows are the probabilities; where there are none a ConfigError, and no such methods."""
        activation: Activation = (
            self._model.activation if hasattr(self, "_model") else component("activation", ACTIVATIONS, self.activation)
        )
        if activation.range == "unit":
            return activation if getattr(self, "multi_label_", False) else NormalizedSigmoid()
        if activation.range not in DISTRIBUTIONS:
            able = [name for name, cls in ACTIVATIONS.items() if cls.range in PROBABILITIES]
            raise ConfigError(
                f"activation={activation.name} gives {RANGES[activation.range]}, not probabilities. Use predict or "
                f"decision_function, or take activation={' or '.join(able)}."
            )
        return activation

    @available_if(_distribution)  # type: ignore[untyped-decorator]
    def predict_proba(self, X: Any) -> Array:
        """Probabilities (N,K), the activation's own.

        Those of sigmoid answer K questions: they are divided by their sum, but not in a multi-label model. Where the
        activation gives none, neither this method nor predict_log_proba exists.
        """
        z = self._scores(X)
        return self._distribution()(z)

    @available_if(_distribution)  # type: ignore[untyped-decorator]
    def predict_log_proba(self, X: Any) -> Array:
        """Logarithms of predict_proba (N,K), exact where a probability underflows; -inf where it is zero."""
        z = self._scores(X)
        activation: Any = self._distribution()
        if self.multi_label_:
            return NormalizedSigmoid().log_f(z)
        with np.errstate(divide="ignore"):
            log_a: Array = activation.log(z) if has(activation, "log") else np.log(activation(z))
        return log_a

    def save(self, path: str | Path) -> Path:
        """Writes the file that ``python -m trainer.predict model=...`` reads; labels become integers or texts.

        A DataError where load could not read it: of two features of one name, or an activation from outside.
        """
        check_is_fitted(self, "_model")
        return self.model_.save(Path(path))

    @classmethod
    def load(cls, path: str | Path, **parameters: Any) -> "SoftmaxRegression":
        """A fitted estimator from the model file of a run, or of save.

        The file holds the activation; the other parameters are those given, or the defaults. A model that makes its
        features of texts, dates or columns with gaps predicts on a table with their names, such as a DataFrame.
        """
        model = Model.load(Path(path))
        estimator = cls(activation=model.activation, **parameters)
        estimator._set(model)
        estimator.classes_ = np.asarray(model.classes)
        estimator.multi_label_ = model.split.get("multi_label") is True
        estimator.n_features_in_ = len(model.features)
        if not _encodes(model) and model.features != Numbered(len(model.features)):
            estimator.feature_names_in_ = np.asarray(model.features, dtype=object)
        return estimator

    @property
    def model_(self) -> Model:
        """The Model that save writes: that of the fit or of the file, or of coefficients set since."""
        if "_model" not in vars(self):  # an AttributeError, so that hasattr tells of it what it tells of attributes
            raise AttributeError("SoftmaxRegression has no model before fit, partial_fit or load.")
        w = self._w()
        if np.array_equal(w, _of_raw_features(self._model)):
            return self._model
        return replace(self._model, w=w, standardizer=Standardizer.none(len(w) - 1))

    def _set(self, model: Model) -> None:
        self._model = model
        w = _of_raw_features(model)
        self.coef_, self.intercept_ = w[:-1].T, w[-1]

    def _w(self) -> Array:
        """w (D+1,K), of coef_ and intercept_ as they are now; DataError where a user has set what cannot be."""
        coef, intercept = np.asarray(self.coef_), np.asarray(self.intercept_)
        features, classes = self._model.w.shape[0] - 1, self._model.w.shape[1]
        if coef.shape != (classes, features) or intercept.shape != (classes,):
            raise DataError(
                f"coef_ and intercept_ have the shapes {coef.shape} and {intercept.shape}; {classes} classes and "
                f"{features} features need {(classes, features)} and {(classes,)}."
            )
        w = np.vstack([coef.T, intercept])
        w = w if w.dtype in DTYPES else w.astype(np.float64)
        if not np.isfinite(w).all():
            raise DataError("coef_ or intercept_ holds numbers that are not finite. Set finite ones, or fit again.")
        return w

    def _keep(
        self,
        w: Array,
        objective: Objective,
        classes: Array,
        features: Sequence[str],
        rows: dict[str, int],
        multi_label: bool,
    ) -> "SoftmaxRegression":
        activation = objective.activation
        self.classes_, self.multi_label_ = classes, multi_label
        rows |= {"multi_label": True} if multi_label else {}
        plain = Standardizer.none(len(w) - 1)
        self._set(Model(w, plain, activation, tuple(map(name_of, classes)), features, None, rows))
        return self

    def _validated(self, X: Any, *y: Any, reset: bool = True) -> Any:
        """X (N,D), and y if given, as scikit-learn checks and converts them, which trusts the indices of a sparse X."""
        X, *y = map(at_home, (X, *y))  # type: ignore[assignment]
        if not reset and _encodes(self._model):
            if y:
                raise ConfigError(
                    "partial_fit cannot go on with a model that makes its features of columns by their names. Use fit."
                )
            X = self._model.columns.of_table(X)  # type: ignore[union-attr]
        if issparse(X):
            check_sparse(X, "X")
        rows = {"multi_output": columns_of(y[0]) is not None, "order": "C"} if y else {}
        checked = validate_data(self, X, *y, accept_sparse="csr", dtype=DTYPES, reset=reset, **rows)
        x = checked[0] if y else checked
        if is_sparse(x) and x is not X:
            check_sparse(x, "X")  # what was no CSR was not looked at in every form
        return checked

    def _names(self, X: Any) -> Sequence[str]:
        """The names (D,) of the columns of X, their numbers where they have none."""
        names = getattr(self, "feature_names_in_", None)
        if names is None:
            return Numbered(X.shape[1])
        require_text(names, "The feature")
        return tuple(map(str, names))

    def _scores(self, X: Any) -> Array:
        check_is_fitted(self, "_model")
        return scores(self._w(), self._validated(X, reset=False))

    def _evidence(self, z: Array) -> Array:
        """What says which class it is, the largest one (N,K): the scores z, or what they are to a softmax."""
        activation: Any = self._model.activation
        return activation.log_f(z) if has(activation, "log_f") else z

    def _objective(self, train: Data, strength: float, reduction: str) -> Objective:
        """What is minimised on the rows, with this strength where the penalty is given by its name."""
        activation = component("activation", ACTIVATIONS, self.activation)
        loss = component("loss", LOSSES, self.loss)
        choice = GradientChoice(self.gradient) if isinstance(self.gradient, str) else self.gradient
        strategy = strategy_of(activation, loss, choice)[1]
        check_targets(loss, train.y, train.smoothing)
        penalty = penalty_of(self.penalty, self.l1_ratio, strength)
        threads = threads_of(self.threads, self.n_jobs)
        device = device_of(self.device)
        intercept = bool(self.fit_intercept)
        return Objective(activation, loss, strategy, penalty, threads, reduction, intercept=intercept, device=device)

    def _before(self, data: Data, classes: Array) -> Array:
        """The parameters of the fit before, for data of the same shape and classes."""
        shape = (data.x.shape[1] + 1, len(classes))
        if self._model.w.shape != shape or not np.array_equal(self.classes_, classes):
            raise DataError(
                f"The fit before had {self._model.w.shape[0] - 1} features and the classes {shown(self.classes_)}; "
                f"these data have {shape[0] - 1} and {shown(classes)}. Set warm_start=False to begin anew."
            )
        return self._w().astype(data.x.dtype)

    def _start(
        self, activation: Activation, optimizer: Optimizer, data: Data, seed: int, w: Array | None
    ) -> TrainState:
        if w is None:
            scale = known(activation, "start_scale")
            return TrainState.start(optimizer, data, scale, seed, bool(self.fit_intercept))
        w[-1] = w[-1] if self.fit_intercept else 0.0
        return TrainState(0, w, optimizer.init(w))

    def _seed(self) -> int:
        return int(check_random_state(self.random_state).randint(2**31))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        with suppress(ConfigError):  # of an activation that does not exist, which fit says
            tags.classifier_tags.multi_label = self._answers_alone()
        return tags


def _encodes(model: Model) -> bool:
    """Whether its features are not the columns that they are made of."""
    return model.columns is not None and not model.columns.plain


def _of_raw_features(model: Model) -> Array:
    """w (D+1,K) of the features as they are given; a model of a run has it of standardised ones."""
    w, (mean, scale) = model.w, model.standardizer
    raw: Array = np.vstack([w[:-1] / scale[:, None], w[-1] - (mean / scale) @ w[:-1]])
    return raw.astype(w.dtype)


def _without_shift(w: Array, objective: Objective) -> Array:
    """w with biases of the sum zero where their sum means nothing."""
    mean, rounding = w[-1].mean(), 4 * np.finfo(w.dtype).eps * np.abs(w[-1]).max()
    if not shift_invariant(objective.activation, objective.loss) or abs(mean) <= rounding:
        return w
    return np.vstack([w[:-1], w[-1] - mean])


del SoftmaxRegression.n_iter_no_change  # of the class; scikit-learn sets it wherever it finds one
