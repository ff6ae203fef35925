"""The scikit-learn face: a classifier over the same objective, ``fit`` and model file as the command line.

Labels of any kind become the places 0..K-1 of the sorted classes here, and scikit-learn's C the strength of a penalty.
It is one class, so that all that scikit-learn asks of an estimator can be read in one place.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import issparse  # type: ignore[import-untyped]
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from trainer.arrays import Array
from trainer.chain.activations import ACTIVATIONS, RANGES, Activation, NormalizedSigmoid
from trainer.chain.known import has, known
from trainer.chain.losses import LOSSES, Loss
from trainer.chain.pairs import check_exact, check_smooth, check_targets, shift_invariant, strategy_of
from trainer.chain.strategies import GradientChoice
from trainer.data.features import is_sparse
from trainer.data.rows import Data, Numbered, Standardizer, for_training, split
from trainer.data.sparse_files import check_sparse
from trainer.errors import ConfigError, DataError, require, require_text
from trainer.estimator.parameters import (
    check_ranges,
    component,
    data_of,
    name_of,
    named_weights,
    places_of,
    shown,
    total_weight,
    with_mean_one,
)
from trainer.objective.blocks import scores
from trainer.objective.metrics import DISTRIBUTIONS, PROBABILITIES
from trainer.objective.objective import Objective
from trainer.objective.penalties import PENALTIES
from trainer.objective.problem import Problem
from trainer.objective.threads import available_cores, blas_on_one_thread
from trainer.optimizers import OPTIMIZERS, Optimizer
from trainer.optimizers.fit import Report, TrainState, fit, proved, samples_a_step
from trainer.optimizers.schedules import Constant
from trainer.runs.callbacks.early_stopping import EarlyStopping
from trainer.runs.callbacks.protocol import Context
from trainer.runs.memory import check_fit
from trainer.runs.model import Model

DTYPES = [np.float64, np.float32]  # float32 features are trained on as they are, all others as float64


class _Progress(NamedTuple):
    """What partial_fit keeps between two calls."""

    state: TrainState
    optimizer: Optimizer
    seed: int
    rows: int  # that it has seen


def _mean_loss(objective: Objective, train: Data, w: Array) -> float:
    with blas_on_one_thread():
        return Problem(objective, train).evaluate(w, {}).loss


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
    C                   positive; a large one is a weak penalty
    max_iter            iterations of a solver, passes over the data of another optimiser
    tol                 when a solver looks whether it is at the optimum, of the norm of its gradient, and no less than
                        2e-6 for float32
    batch_size          rows a step; "auto" is all for a solver and else 32
    class_weight        None, "balanced" or {label: weight}, see data.for_training
    label_smoothing     epsilon in [0, 1), see data.Data
    early_stopping      holds out validation_fraction of the rows, stops after n_iter_no_change iterations in which
                        the loss on them did not fall, and keeps the parameters with which it was least
    warm_start          whether fit begins at the parameters of the fit before, with a fresh state of the optimiser
    random_state        of the split, the shuffling and a random start
    threads             None takes every core; the result does not depend on it

    coef_ (K,D), intercept_ (K,)   w, of the features as they are given, and biases that sum to zero where their sum
                        means nothing; K rows for two classes too, whose decision function is their difference. What is
                        set here is what predicts, is saved and is gone on from
    classes_ (K,), n_features_in_, feature_names_in_
    model_              the Model that save writes
    n_iter_, converged_ iterations done, and whether the solver ended at the optimum: certified to a millionth of E
                        where that can be proved (see gap_), or else by its own rule
    gap_                a proved bound on (E - min E) / E, or None where there is no proof: without a penalty, or for a
                        pair that is not convex or whose gradient jumps; see trainer.objective.certificate
    loss_curve_, val_loss_curve_   the mean loss after each iteration without the penalty; val_loss_curve_ is empty
                        without early_stopping

    >>> SoftmaxRegression(C=10.0).fit(X, y).predict([[-3.0], [3.0]]).tolist()
    ['no', 'yes']
    """

    coef_: Array
    intercept_: Array
    loss_curve_: list[float]
    val_loss_curve_: list[float]

    def __init__(
        self,
        *,
        activation: str | Activation = "softmax",
        loss: str | Loss = "ce",
        gradient: str | GradientChoice = "auto",
        optimizer: str | Optimizer = "auto",
        penalty: Any = "l2",
        C: float = 1.0,
        max_iter: int = 200,
        tol: float = 1e-8,
        batch_size: int | str | None = "auto",
        class_weight: Mapping[Any, float] | str | None = None,
        label_smoothing: float = 0.0,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        warm_start: bool = False,
        random_state: Any = None,
        threads: int | None = None,
    ) -> None:
        self.activation = activation
        self.loss = loss
        self.gradient = gradient
        self.optimizer = optimizer
        self.penalty = penalty
        self.C = C
        self.max_iter = max_iter
        self.tol = tol
        self.batch_size = batch_size
        self.class_weight = class_weight
        self.label_smoothing = label_smoothing
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.warm_start = warm_start
        self.random_state = random_state
        self.threads = threads

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "SoftmaxRegression":
        """Minimises E on X (N,D) and labels y (N,); a ConvergenceWarning where max_iter ends a solver too early."""
        check_ranges(self)
        again = self.warm_start and hasattr(self, "_model")
        X, y = self._validated(X, y)
        check_classification_targets(y)
        classes, labels = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise DataError(
                f"All labels are {classes[0]}, which is one class; a classifier needs samples of at least 2."
            )
        tol = max(self.tol, 16 * float(np.finfo(X.dtype).eps))  # no gradient is known more precisely than that
        optimizer = component("optimizer", OPTIMIZERS, self.optimizer, tol=tol)
        if optimizer.full_batch:
            check_smooth(
                optimizer.name,
                component("activation", ACTIVATIONS, self.activation),
                component("loss", LOSSES, self.loss),
                self.label_smoothing > 0,
            )
            check_exact(optimizer.name, self.gradient if isinstance(self.gradient, str) else self.gradient.name)
        size = samples_a_step(self.batch_size, optimizer, Constant())
        all_at_once = size is None
        data, seed = data_of(X, labels, classes, self._features(X), sample_weight), self._seed()
        data, valid = split(data, self.validation_fraction, seed) if self.early_stopping else (data, None)
        train = for_training(data, self.label_smoothing, named_weights(self.class_weight))
        objective = self._objective(train, total_weight(train), "weights" if all_at_once else "rows")
        check_fit(Problem(objective, train), optimizer, train.x.dtype, size)
        if not all_at_once:
            train, valid = with_mean_one(train), None if valid is None else with_mean_one(valid)
        state = self._start(objective.activation, optimizer, train, classes, seed, again)
        self.loss_curve_, self.val_loss_curve_ = [], []
        last, w, stopped = self._train(objective, optimizer, train, valid, state, seed, self.max_iter)
        fitted, w = w, self._without_shift(w, objective)
        # In double precision the shift rounds nothing away that the proof could see.
        same = last.state.w is fitted and w.dtype == np.float64
        after = last.after if last.state.w is w else None
        proof = (same and last.proof) or proved(objective, optimizer, train, w, last.converged, after)
        certain = optimizer.full_batch and proof.proves(optimizer.gap)
        self.n_iter_, self.gap_ = last.state.epoch, proof.gap
        self.converged_ = certain or (proof.gap is None and bool(last.converged))
        self._progress: _Progress | None = None
        if optimizer.full_batch and not stopped:
            exact = proof.value - objective.penalty.value(w)  # the others are what a solver knew on its way
            self.loss_curve_[-1] = exact if proof.gap is not None else _mean_loss(objective, train, w)
        if optimizer.full_batch and not (self.converged_ or stopped):
            end = last.stalled or f"max_iter={self.max_iter} is too little; {proof.why.rstrip('.')}. Raise it."
            warnings.warn(f"optimizer={optimizer.name} has not converged: {end}", ConvergenceWarning, stacklevel=2)
        rows = {"train_rows": len(train), "valid_rows": 0 if valid is None else len(valid)}
        return self._keep(w, objective, classes, data.features, rows)

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

    @available_if(_stepwise)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> "SoftmaxRegression":
        """One pass over X (N,D) by a first-order optimiser, whose state is kept; optimizer="auto" is adam here.

        The first call names the classes, since a batch need not hold all. The sums are divided by numbers of rows, so
        weights should have a mean of one, and the penalty's strength is 1 / (C rows), of the rows seen up to now.
        """
        check_ranges(self)
        for name, refused in (("early_stopping", True), ("class_weight", "balanced")):
            if getattr(self, name) == refused:
                raise ConfigError(
                    f"{name}={refused} needs all rows, and partial_fit sees a part. Leave it out, or use fit."
                )
        optimizer = self._stepwise()
        again = hasattr(self, "_model")
        X, y = self._validated(X, y, reset=not again)
        check_classification_targets(y)
        known = self._named_classes(classes)
        before: _Progress | None = getattr(self, "_progress", None)
        train = for_training(
            data_of(X, places_of(y, known), known, self._features(X), sample_weight),
            self.label_smoothing,
            named_weights(self.class_weight),
        )
        rows = len(train) + (before.rows if before else 0)
        objective = self._objective(train, rows, "rows")
        check_fit(
            Problem(objective, train), optimizer, train.x.dtype, samples_a_step(self.batch_size, optimizer, Constant())
        )
        seed = before.seed if before else self._seed()
        state = self._start(objective.activation, optimizer, train, known, seed, again)
        if before and type(before.optimizer) is type(optimizer) and self.model_ is self._model:
            state = before.state
        if before is None:
            self.loss_curve_, self.val_loss_curve_ = [], []
        last, w, _ = self._train(objective, optimizer, train, None, state, seed, state.epoch + 1)
        w = self._without_shift(w, objective)
        self._progress = _Progress(last.state, optimizer, seed, rows)
        self.n_iter_, self.converged_, self.gap_ = len(self.loss_curve_), False, None
        return self._keep(w, objective, known, train.features, {"train_rows": rows, "valid_rows": 0})

    def decision_function(self, X: Any) -> Array:
        """The scores z (N,K), or z_1 - z_0 (N,) with two classes, as scikit-learn's metrics want it.

        Of a = f(z) / sum f(z), where f may fall, they are log f(z): the largest one is always that of the largest a.
        """
        z = self._evidence(self._scores(X))
        return z[:, 1] - z[:, 0] if z.shape[1] == 2 else z

    def predict(self, X: Any) -> Array:
        """The class of the largest a (N,), and among equal ones that of the largest score."""
        z = self._scores(X)
        a = self._model.activation(z)
        best = np.where(a == a.max(axis=1, keepdims=True), self._evidence(z), -np.inf).argmax(axis=1)
        chosen: Array = self.classes_[best]
        return chosen

    def _distribution(self) -> Activation:
        """The activation whose rows are the probabilities; where there are none a ConfigError, and no such methods."""
        activation: Activation = (
            self._model.activation if hasattr(self, "_model") else component("activation", ACTIVATIONS, self.activation)
        )
        if activation.range == "unit":
            return NormalizedSigmoid()
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

        Those of sigmoid answer K questions and are divided by their sum. Where the activation gives none, neither this
        method nor predict_log_proba exists.
        """
        z = self._scores(X)
        return self._distribution()(z)

    @available_if(_distribution)  # type: ignore[untyped-decorator]
    def predict_log_proba(self, X: Any) -> Array:
        """Logarithms of predict_proba (N,K), exact where a probability underflows; -inf where it is zero."""
        z = self._scores(X)
        activation: Any = self._distribution()
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
        """Makes it the fitted model."""
        self._model = model
        w = _of_raw_features(model)
        self.coef_, self.intercept_ = w[:-1].T, w[-1]

    def _w(self) -> Array:
        """w (D+1,K), of coef_ and intercept_ as they are now."""
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

    def _train(
        self,
        objective: Objective,
        optimizer: Optimizer,
        train: Data,
        valid: Data | None,
        state: TrainState,
        seed: int,
        epochs: int,
    ) -> tuple[Report, Array, bool]:
        """The last report, the parameters to keep, and whether early stopping ended it; the curves grow with it."""
        stop = None
        if valid is not None:
            context = Context(["loss", "val_loss"], objective, train, seed)
            stop = EarlyStopping(patience=self.n_iter_no_change).start(context)
        size = samples_a_step(self.batch_size, optimizer, Constant())
        budget: dict[str, Any] = {"epochs": epochs, "batch_size": size, "seed": seed}
        budget["metrics"] = None if optimizer.full_batch else {}
        w, stopped = state.w, False
        for report in fit(objective, optimizer, train, valid, state, **budget):
            self.loss_curve_.append(report.metrics["loss"])
            if stop is None:
                w = report.state.w
                continue
            if report.metrics["val_loss"] < min(self.val_loss_curve_, default=math.inf):
                w = report.state.w
            self.val_loss_curve_.append(report.metrics["val_loss"])
            if stopped := bool(stop(report).stop):
                break
        return report, w, stopped

    def _keep(
        self, w: Array, objective: Objective, classes: Array, features: Sequence[str], rows: dict[str, int]
    ) -> "SoftmaxRegression":
        """Makes w (D+1,K) the fitted model."""
        activation = objective.activation
        self.classes_ = classes
        plain = Standardizer.none(len(w) - 1)
        self._set(Model(w, plain, activation, tuple(map(name_of, classes)), features, None, rows))
        return self

    def _without_shift(self, w: Array, objective: Objective) -> Array:
        """w with biases of the sum zero where their sum means nothing."""
        mean, rounding = w[-1].mean(), 4 * np.finfo(w.dtype).eps * np.abs(w[-1]).max()
        if not shift_invariant(objective.activation, objective.loss) or abs(mean) <= rounding:
            return w
        return np.vstack([w[:-1], w[-1] - mean])

    def _features(self, X: Any) -> Sequence[str]:
        """The names (D,) of the columns of X, their numbers where they have none."""
        names = getattr(self, "feature_names_in_", None)
        if names is None:
            return Numbered(X.shape[1])
        require_text(names, "The feature")
        return tuple(map(str, names))

    def _validated(self, X: Any, *y: Any, reset: bool = True) -> Any:
        """X (N,D), and y if given, as scikit-learn checks and converts them, which trusts the indices of a sparse X."""
        if not reset and _encodes(self._model):
            if y:
                raise ConfigError(
                    "partial_fit cannot go on with a model that makes its features of columns by their names. Use fit."
                )
            X = self._model.columns.of_table(X)  # type: ignore[union-attr]
        if issparse(X):
            check_sparse(X, "X")
        checked = validate_data(self, X, *y, accept_sparse="csr", dtype=DTYPES, order="C" if y else None, reset=reset)
        x = checked[0] if y else checked
        if is_sparse(x) and x is not X:
            check_sparse(x, "X")  # what was no CSR was not looked at in every form
        return checked

    def _scores(self, X: Any) -> Array:
        """z (N,K) of features as they are given."""
        check_is_fitted(self, "_model")
        return scores(self._w(), self._validated(X, reset=False))

    def _evidence(self, z: Array) -> Array:
        """What says which class it is, the largest one (N,K): the scores z, or what they are to a softmax."""
        activation: Any = self._model.activation
        return activation.log_f(z) if has(activation, "log_f") else z

    def _objective(self, train: Data, total: float, reduction: str) -> Objective:
        """What is minimised on the rows, with the penalty's strength from C where the penalty is given by its name."""
        activation = component("activation", ACTIVATIONS, self.activation)
        loss = component("loss", LOSSES, self.loss)
        choice = GradientChoice(self.gradient) if isinstance(self.gradient, str) else self.gradient
        strategy = strategy_of(activation, loss, choice)[1]
        check_targets(loss, train.y, train.smoothing)
        named = "none" if self.penalty is None else self.penalty
        penalty = component("penalty", PENALTIES, named, strength=1 / (self.C * total))
        return Objective(activation, loss, strategy, penalty, self.threads or available_cores(), reduction)

    def _start(
        self, activation: Activation, optimizer: Optimizer, data: Data, classes: Array, seed: int, again: bool
    ) -> TrainState:
        """The state before the first step: at the parameters of the fit before where it is to go on with them."""
        if not again:
            return TrainState.start(optimizer, data, known(activation, "start_scale"), seed)
        shape = (data.x.shape[1] + 1, len(classes))
        if self._model.w.shape != shape or not np.array_equal(self.classes_, classes):
            raise DataError(
                f"The fit before had {self._model.w.shape[0] - 1} features and the classes {shown(self.classes_)}; "
                f"these data have {shape[0] - 1} and {shown(classes)}. Set warm_start=False to begin anew."
            )
        w = self._w().astype(data.x.dtype)
        return TrainState(0, w, optimizer.init(w))

    def _named_classes(self, classes: Any) -> Array:
        """The classes (K,) of this call of partial_fit, which are those of the call before."""
        before: Array | None = self.classes_ if hasattr(self, "_model") else None
        if classes is None:
            if before is None:
                raise ConfigError("The first call of partial_fit needs classes=, all labels that will ever occur.")
            return before
        named = np.unique(np.asarray(classes))
        if before is not None and not np.array_equal(before, named):
            raise ConfigError(
                f"classes={shown(named)} are not those of the fit before, {shown(before)}. Leave them out."
            )
        require(len(named) >= 2, f"classes={shown(named)} is one class; a classifier needs at least 2 classes.")
        return named

    def _seed(self) -> int:
        return int(check_random_state(self.random_state).randint(2**31))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


def _encodes(model: Model) -> bool:
    """Whether its features are not the columns that they are made of."""
    return model.columns is not None and not model.columns.plain


def _of_raw_features(model: Model) -> Array:
    """w (D+1,K) of the features as they are given; a model of a run has it of standardised ones."""
    w, (mean, scale) = model.w, model.standardizer
    raw: Array = np.vstack([w[:-1] / scale[:, None], w[-1] - (mean / scale) @ w[:-1]])
    return raw.astype(w.dtype)
