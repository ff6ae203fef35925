"""The estimator: scikit-learn's own checks, scikit-learn's own optimum, and one model file with the command line."""

import csv
import os
import pickle
import re
import subprocess
import sys
import tempfile
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csc_array, csr_array, csr_matrix
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_digits, load_iris, make_classification
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from tests.conftest import ACTIVATIONS
from tests.test_run import SETTINGS
from trainer import SoftmaxRegression
from trainer.chain.activations import ACTIVATIONS as ACTIVATION_NAMES
from trainer.chain.activations import NormalizedSigmoid, Softmax
from trainer.chain.losses import LOSSES
from trainer.chain.pairs import canonical, convex, kinked, registry
from trainer.chain.strategies import GradientChoice
from trainer.data.rows import Standardizer
from trainer.errors import ConfigError, DataError
from trainer.objective.blocks import scores
from trainer.objective.penalties import L2
from trainer.optimizers import OPTIMIZERS
from trainer.optimizers.first_order import Adam, Sgd
from trainer.runs.model import Model
from trainer.runs.run import run

IRIS = load_iris(return_X_y=True)
WEIGHT = np.random.default_rng(0).integers(0, 4, size=150).astype(float)
SLOW = bool(os.environ.get("TRAINER_SLOW"))
ROOT = Path(__file__).parents[1]
SIMPLEX = [activation for activation in ACTIVATIONS if activation.range in ("simplex", "sparse_simplex")]
PASSES = {"optimizer": "adam", "max_iter": 5, "random_state": 0}  # a short training, where any parameters will do


def pairs_loss(activation):
    """A loss that the activation can be trained with."""
    by_range = {"simplex": "ce", "sparse_simplex": "fenchel_young", "unit": "bce", "log_simplex": "nll"}
    return by_range.get(activation.range, "squared_error")


def trained(activation="softmax", x=IRIS[0], y=IRIS[1], **parameters):
    loss = "ce" if isinstance(activation, str) else pairs_loss(activation)
    return SoftmaxRegression(**{"activation": activation, "loss": loss, **PASSES, **parameters}).fit(x, y)


def checked(activation="softmax", loss="ce", optimizer="auto", batch_size=None, max_iter=200):
    """An estimator for scikit-learn's checks: a solver goes to the end, and a first-order optimiser is repeatable."""
    chosen = {"activation": activation, "loss": loss, "optimizer": optimizer}
    if OPTIMIZERS[optimizer].full_batch:
        return SoftmaxRegression(**chosen, tol=1e-12)
    if (activation, optimizer) == ("identity", "sgd"):  # whose gradient grows with the features, and some are 100
        chosen["optimizer"] = Sgd(lr=1e-5)
    return SoftmaxRegression(**chosen, batch_size=batch_size, max_iter=50, random_state=0)


EVERY_PAIR = [
    checked(*(part.name for part in pair), optimizer)
    for pair in registry()
    for optimizer, cls in OPTIMIZERS.items()
    if not (kinked(*pair) and cls.full_batch)
]
ONE_OF_A_KIND = [
    SoftmaxRegression(),
    checked(optimizer="adam", max_iter=50),  # which has partial_fit
    checked("identity", "squared_error", "newton"),  # neither that nor probabilities
    checked("spherical", "ce", "adam", max_iter=50),  # not monotone
]


def excused(estimator):
    """What scikit-learn's checks ask for that a minimisation cannot promise, and why."""
    repeated = [f"check_sample_weight_equivalence_on_{kind}_data" for kind in ("dense", "sparse")]
    reached = ["check_classifiers_train", "check_class_weight_classifiers"]
    if estimator.batch_size == "auto" and not OPTIMIZERS[estimator.optimizer].full_batch:
        return dict.fromkeys(repeated, "repeated rows make other mini-batches")
    pair = ACTIVATION_NAMES[estimator.activation](), LOSSES[estimator.loss]()
    if not convex(*pair):
        excuses = dict.fromkeys(repeated + reached, "there is more than one minimum, and some are poor")
        saturated = {"check_classifiers_multilabel_output_format_predict_proba": "scores run away, to sigmoids of one"}
        return excuses | (saturated if estimator.loss == "mae" else {})
    if isinstance(estimator.optimizer, Sgd):
        return dict.fromkeys(reached, "a step that is small enough for features of 100 does not get there")
    if estimator.optimizer in ("lbfgs", "fista") or (estimator.optimizer == "auto" and not canonical(*pair)):
        return dict.fromkeys(repeated, "it ends where E is that of the minimum to rounding: half of the digits of w")
    return {}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # of the few iterations of a check
@parametrize_with_checks(
    [*ONE_OF_A_KIND, checked(optimizer="sgd", batch_size="auto"), *EVERY_PAIR] if SLOW else ONE_OF_A_KIND,
    expected_failed_checks=excused,
)
def test_scikit_learn_finds_nothing_to_object_to(estimator, check, monkeypatch):
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")  # else a check is skipped
    check(estimator)


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("class_weight", [None, "balanced", {0: 0.3, 2: 5.0}], ids=str)
@pytest.mark.parametrize("C", [0.01, 1.0, 100.0])
def test_the_optimum_is_that_of_logistic_regression(C, class_weight, weight):
    ours = SoftmaxRegression(C=C, class_weight=class_weight, tol=1e-10).fit(*IRIS, weight)
    theirs = LogisticRegression(C=C, class_weight=class_weight, tol=1e-12, solver="newton-cg", max_iter=1000)
    theirs.fit(*IRIS, weight)
    assert ours.converged_
    assert_allclose(ours.coef_, theirs.coef_, atol=1e-5)
    # A number added to all biases changes nothing; ours sum to zero.
    assert_allclose(ours.intercept_, theirs.intercept_ - theirs.intercept_.mean(), atol=1e-5)
    assert_allclose(ours.predict_proba(IRIS[0]), theirs.predict_proba(IRIS[0]), atol=1e-6)


def test_with_two_classes_it_is_that_of_logistic_regression_at_twice_the_C():
    x, y = make_classification(200, 6, random_state=0)
    ours = SoftmaxRegression(C=0.7, tol=1e-10).fit(x, y)
    theirs = LogisticRegression(C=1.4, tol=1e-12, solver="newton-cg", max_iter=1000).fit(x, y)
    assert_allclose(np.diff(ours.coef_, axis=0), theirs.coef_, atol=1e-5)
    assert_allclose(ours.coef_.sum(axis=0), 0, atol=1e-6)
    assert_allclose(ours.decision_function(x), theirs.decision_function(x), atol=1e-4)


def test_a_weight_is_a_number_of_repeated_rows():
    x, y = IRIS
    times = WEIGHT.astype(int)
    weighted = SoftmaxRegression(tol=1e-10).fit(x, y, WEIGHT)
    repeated = SoftmaxRegression(tol=1e-10).fit(np.repeat(x, times, axis=0), np.repeat(y, times))
    assert_allclose(weighted.coef_, repeated.coef_, atol=1e-7)


def test_C_is_a_strength_divided_by_the_sum_of_the_weights():
    by_name = SoftmaxRegression(C=0.5, tol=1e-10).fit(*IRIS, WEIGHT)
    by_instance = SoftmaxRegression(C=1e9, penalty=L2(strength=1 / (0.5 * WEIGHT.sum())), tol=1e-10)
    assert_array_equal(by_name.coef_, by_instance.fit(*IRIS, WEIGHT).coef_)


@pytest.mark.parametrize(("penalty", "l1_ratio"), [("l1", 1.0), ("elastic_net", 0.5)])
def test_C_is_that_of_logistic_regression_for_other_penalties_too(penalty, l1_ratio):
    x, y = StandardScaler().fit_transform(IRIS[0]), IRIS[1]
    ours = SoftmaxRegression(penalty=penalty, C=0.3, optimizer="fista", max_iter=5000).fit(x, y, WEIGHT)
    theirs = LogisticRegression(l1_ratio=l1_ratio, C=0.3, solver="saga", tol=1e-9, max_iter=20_000, random_state=0)
    theirs.fit(x, y, WEIGHT)
    assert_allclose(ours.coef_, theirs.coef_, atol=1e-4)
    assert_array_equal(ours.coef_ == 0, theirs.coef_ == 0)


def test_a_scale_of_the_weights_changes_no_step_of_mini_batches():
    one, other = (
        SoftmaxRegression(**PASSES, penalty=L2(0.1)).fit(*IRIS, scale * (WEIGHT + 1)) for scale in (1.0, 1024.0)
    )
    assert_array_equal(one.coef_, other.coef_)


def test_the_curve_is_the_mean_loss_after_each_iteration():
    model = trained(max_iter=4)
    assert model.n_iter_ == len(model.loss_curve_) == 4
    assert model.val_loss_curve_ == []
    assert_allclose(model.loss_curve_[-1], log_loss(IRIS[1], model.predict_proba(IRIS[0])), rtol=1e-12)


def test_a_warm_start_goes_on_where_the_last_fit_ended():
    plain = {"optimizer": Sgd(lr=0.05, momentum=0.0), "batch_size": None}
    twice = SoftmaxRegression(max_iter=5, warm_start=True, **plain).fit(*IRIS).fit(*IRIS)
    assert_allclose(twice.coef_, SoftmaxRegression(max_iter=10, **plain).fit(*IRIS).coef_, rtol=1e-12)


def test_a_warm_start_at_the_optimum_stays_there():
    model = SoftmaxRegression(warm_start=True, tol=1e-10).fit(*IRIS)
    before, iterations = model.coef_, model.n_iter_
    assert_allclose(model.fit(*IRIS).coef_, before, atol=1e-7)
    assert model.n_iter_ <= iterations


def test_without_a_warm_start_a_fit_begins_anew():
    model = trained()
    assert_array_equal(model.coef_, model.fit(*IRIS).coef_)


def test_a_warm_start_with_other_classes_is_refused():
    model = trained(warm_start=True)
    with pytest.raises(DataError, match=r"classes 0, 1, 2; these data have 4 and 1, 2\. Set warm_start=False"):
        model.fit(IRIS[0][50:], IRIS[1][50:])


@pytest.mark.parametrize("optimizer", ["auto", "sgd", Adam(lr=0.01)], ids=str)
def test_passes_of_partial_fit_are_the_epochs_of_a_fit(optimizer):
    shared = {"batch_size": 16, "penalty": L2(0.1), "random_state": 5}
    passes = SoftmaxRegression(optimizer=optimizer, **shared)
    for _ in range(3):
        passes.partial_fit(*IRIS, classes=[0, 1, 2])
    at_once = SoftmaxRegression(optimizer="adam" if optimizer == "auto" else optimizer, max_iter=3, **shared).fit(*IRIS)
    assert_array_equal(passes.coef_, at_once.coef_)
    assert passes.loss_curve_ == at_once.loss_curve_
    assert passes.n_iter_ == 3


def test_batches_of_one_class_each_are_learned_from():
    x, y = StandardScaler().fit_transform(IRIS[0]), IRIS[1]
    model = SoftmaxRegression(optimizer=Adam(lr=0.05), random_state=0)
    for _ in range(30):
        for k in range(3):
            model.partial_fit(x[y == k], y[y == k], classes=[0, 1, 2])
    assert model.score(x, y) > 0.9


def test_partial_fit_goes_on_from_a_fit():
    model = trained(max_iter=50)
    end = model.loss_curve_[-1]
    assert model.partial_fit(*IRIS).loss_curve_[0] < 1.1 * end


@pytest.mark.parametrize(
    ("parameters", "arguments", "sentence"),
    [
        ({}, {}, "The first call of partial_fit needs classes="),
        ({}, {"classes": [0, 1]}, r"The label 2 is none of the classes 0, 1\. Name all"),
        ({}, {"classes": [1]}, r"classes=1 is one class"),
        ({"early_stopping": True}, {"classes": [0, 1, 2]}, "early_stopping=True needs all rows"),
        ({"class_weight": "balanced"}, {"classes": [0, 1, 2]}, "class_weight=balanced needs all rows"),
    ],
)
def test_partial_fit_refuses_in_a_sentence(parameters, arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        SoftmaxRegression(**parameters).partial_fit(*IRIS, **arguments)


def test_the_classes_of_partial_fit_cannot_change():
    with pytest.raises(ConfigError, match=r"classes=0, 1, 2, 3 are not those of the fit before, 0, 1, 2\. Leave"):
        trained().partial_fit(*IRIS, classes=range(4))


@pytest.mark.parametrize("optimizer", [name for name in OPTIMIZERS if name != "auto"])
def test_a_solver_has_no_partial_fit(optimizer):
    model = SoftmaxRegression(optimizer=optimizer)
    assert hasattr(model, "partial_fit") != OPTIMIZERS[optimizer].full_batch
    if not hasattr(model, "partial_fit"):
        with pytest.raises(AttributeError, match="has no attribute 'partial_fit'") as error:
            _ = model.partial_fit
        sentence = rf"optimizer={optimizer} needs the gradient of all rows.*Take optimizer=sgd"
        assert re.match(sentence, str(error.value.__cause__))


def test_a_solver_takes_no_mini_batches():
    with pytest.raises(ConfigError, match=r"optimizer=auto needs the gradient of all samples, so batch_size=32"):
        SoftmaxRegression(batch_size=32).fit(*IRIS)


INSTANCES = {
    "activation": Softmax(temperature=2.0),
    "gradient": GradientChoice("fused"),
    "optimizer": Adam(lr=0.02),
    "penalty": L2(strength=0.3),
}


def test_instances_stand_where_names_do():
    model = SoftmaxRegression(**INSTANCES, max_iter=7, random_state=0)
    assert clone(model).get_params() == model.get_params()
    assert SoftmaxRegression().set_params(**model.get_params()).get_params() == model.get_params()
    fitted = clone(model).fit(*IRIS)
    again = pickle.loads(pickle.dumps(fitted))
    assert_array_equal(again.predict_proba(IRIS[0]), fitted.predict_proba(IRIS[0]))
    assert again.get_params() == model.get_params()
    z = fitted.decision_function(IRIS[0])
    assert_allclose(fitted.predict_proba(IRIS[0]), Softmax(temperature=2.0)(z), rtol=1e-12)


@pytest.mark.parametrize("activation", SIMPLEX, ids=repr)
def test_probabilities_are_those_of_the_activation(activation):
    model = trained(activation)
    z = scores(np.vstack([model.coef_.T, model.intercept_]), IRIS[0])
    assert_array_equal(model.predict_proba(IRIS[0]), activation(z))
    assert_array_equal(model.predict(IRIS[0]), activation(z).argmax(axis=1))
    with np.errstate(divide="ignore"):
        assert_allclose(model.predict_log_proba(IRIS[0]), np.log(activation(z)), rtol=1e-9, atol=1e-12)


def test_sigmoids_are_divided_by_their_sum():
    model = trained("sigmoid", loss="bce")
    z = model.decision_function(IRIS[0])
    independent = 1 / (1 + np.exp(-z))
    assert_allclose(model.predict_proba(IRIS[0]), independent / independent.sum(axis=1, keepdims=True), rtol=1e-12)
    assert_array_equal(model.predict_log_proba(IRIS[0]), NormalizedSigmoid().log(z))


@pytest.mark.parametrize(("activation", "loss"), [("identity", "squared_error"), ("log_softmax", "nll")])
@pytest.mark.parametrize("method", ["predict_proba", "predict_log_proba"])
def test_what_is_no_probability_is_not_given_as_one(activation, loss, method):
    model = SoftmaxRegression(activation=activation, loss=loss, **PASSES)
    assert not hasattr(model, method)
    assert model.fit(*IRIS).predict(IRIS[0]).shape == (150,)
    with pytest.raises(AttributeError, match=f"has no attribute '{method}'") as error:
        getattr(model, method)
    sentence = rf"activation={activation} gives .*, not probabilities\. Use predict or"
    assert re.match(sentence, str(error.value.__cause__))
    model.set_params(activation="softmax", loss="ce")
    assert not hasattr(model, method)  # the model is still the one that was fitted
    assert hasattr(model.fit(*IRIS), method)


@pytest.mark.parametrize("activation", SIMPLEX, ids=repr)
def test_the_largest_score_is_that_of_the_largest_probability(activation):
    model = trained(activation)
    model.coef_, model.intercept_ = np.random.default_rng(0).normal(size=(3, 4)), np.array([1.0, -3.0, 0.5])
    best = model.predict_proba(IRIS[0]).argmax(axis=1)
    assert_array_equal(model.predict(IRIS[0]), best)
    if activation.range == "simplex":  # of a sparse one probabilities may be equal
        assert_array_equal(model.decision_function(IRIS[0]).argmax(axis=1), best)


def test_the_logarithm_of_a_probability_that_underflows_is_finite():
    model = trained(activation="softmax")
    far = 1e6 * IRIS[0]
    assert (model.predict_proba(far) == 0).any()
    assert np.isfinite(model.predict_log_proba(far)).all()


def test_where_the_activation_saturates_the_scores_decide():
    model = trained("sigmoid", loss="bce")
    far = 1e3 * IRIS[0]
    z = model.decision_function(far)
    assert_array_equal(model.predict(far), z.argmax(axis=1))


@pytest.mark.parametrize(
    ("names", "kept"),
    [
        (np.array(["setosa", "versicolor", "virginica"]), ("setosa", "versicolor", "virginica")),
        (np.array(["a", "b", "c"], dtype=object), ("a", "b", "c")),
        (np.array([-1.0, 2.0, 7.0]), (-1, 2, 7)),
        (np.array([10, 20, 30], dtype=np.uint8), (10, 20, 30)),
    ],
    ids=["texts", "objects", "floats", "bytes"],
)
def test_labels_come_back_as_they_were_given(names, kept, tmp_path):
    weights = {names[0]: 2.0, names[2]: 0.5}
    model = trained(y=names[IRIS[1]], class_weight=weights)
    assert_array_equal(model.classes_, names)
    assert model.predict(IRIS[0]).dtype == names.dtype
    assert_array_equal(model.coef_, trained(class_weight={0: 2.0, 2: 0.5}).coef_)
    assert SoftmaxRegression.load(model.save(tmp_path / "model.npz")).model_.classes == kept


def test_booleans_are_labels():
    model = trained(y=IRIS[1] == 1)
    assert model.predict(IRIS[0]).dtype == bool
    assert model.coef_.shape == (2, 4)
    assert_array_equal(model.predict(IRIS[0]), model.decision_function(IRIS[0]) > 0)


def test_float32_stays_float32():
    model = trained(x=IRIS[0].astype(np.float32))
    assert model.coef_.dtype == model.intercept_.dtype == np.float32
    assert_allclose(model.coef_, trained().coef_, atol=1e-4)


def test_a_solver_converges_in_float32_too():
    x, y = load_digits(return_X_y=True)
    single, double = (SoftmaxRegression().fit(x.astype(dtype), y) for dtype in (np.float32, np.float64))
    assert single.converged_
    assert single.n_iter_ < 2 * double.n_iter_
    assert_allclose(single.coef_, double.coef_, atol=1e-3)


@pytest.mark.parametrize("container", [csr_array, csr_matrix, csc_array])
def test_sparse_features_train_to_the_model_of_dense_ones(container):
    x = np.where(IRIS[0] > 2, IRIS[0], 0)
    sparse, dense = trained(x=container(x)), trained(x=x)
    assert_allclose(sparse.coef_, dense.coef_, rtol=1e-9)
    assert_allclose(sparse.predict_proba(container(x)), dense.predict_proba(x), rtol=1e-9)
    assert sparse.partial_fit(container(x), IRIS[1]).score(x, IRIS[1]) > 0.3


def test_threads_change_no_bit():
    x, y = make_classification(30_000, 5, n_informative=4, n_redundant=0, n_classes=3, random_state=0)
    one, two = (trained(x=x, y=y, batch_size=None, threads=threads) for threads in (1, 2))
    assert_array_equal(one.coef_, two.coef_)


def test_early_stopping_keeps_the_parameters_with_the_least_loss_on_the_rows_held_out():
    x, y = make_classification(80, 30, n_informative=3, flip_y=0.3, random_state=0)
    model = SoftmaxRegression(
        optimizer=Adam(lr=0.1), penalty=None, early_stopping=True, validation_fraction=0.4, n_iter_no_change=3
    )
    model.set_params(random_state=1, max_iter=500).fit(x, y)
    curve = model.val_loss_curve_
    assert model.n_iter_ == len(curve) == int(np.argmin(curve)) + 1 + 3
    shorter = clone(model).set_params(max_iter=int(np.argmin(curve)) + 1).fit(x, y)
    assert_array_equal(model.coef_, shorter.coef_)
    assert model.model_.split == {"train_rows": 48, "valid_rows": 32}


def test_a_solver_that_is_cut_short_warns():
    with pytest.warns(ConvergenceWarning, match=r"has not converged: max_iter=1 is too little; certified to .* of E"):
        model = SoftmaxRegression(max_iter=1, tol=1e-10).fit(*load_digits(return_X_y=True))
    assert not model.converged_


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"activation": "softmx"}, "activation=softmx is not known; did you mean softmax"),
        ({"activation": Softmax}, "activation must be a name or an instance, got <class"),
        ({"activation": "sparsemax"}, "activation=sparsemax with loss=ce makes no sense"),
        ({"loss": "brier", "gradient": "log", "activation": "sigmoid"}, "gradient=log has no formula"),
        ({"gradient": GradientChoice("vjp", precise=True)}, r"gradient\.precise=true is a form of fused"),
        ({"optimizer": "adan"}, "optimizer=adan is not known"),
        ({"penalty": 3}, "penalty must be a name or an instance, got 3"),
        ({"C": 0}, "C must be a number greater than 0, got 0"),
        ({"C": "1"}, "C must be a number greater than 0, got '1'"),
        ({"tol": -1.0}, r"tol must be a finite number greater than 0, got -1\.0"),
        ({"max_iter": 0}, "max_iter must be an integer of at least 1, got 0"),
        ({"threads": 0}, "threads must be None or an integer of at least 1, got 0"),
        ({"batch_size": 0.5}, r"batch_size must be None, 'auto' or an integer of at least 1, got 0\.5"),
        ({"validation_fraction": 1}, "validation_fraction must be greater than 0 and less than 1, got 1"),
        ({"label_smoothing": 1.0}, r"label_smoothing must be at least 0 and less than 1, got 1\.0"),
        ({"class_weight": [1, 2]}, r"class_weight must be None, 'balanced' or \{label: weight\} with .*, got \[1, 2\]"),
        ({"class_weight": {0: -1}}, r"with finite weights of at least 0, got \{0: -1\}"),
        ({"class_weight": {5: 1}}, "class_weight has a weight for 5, which is no class"),
        ({"label_smoothing": 0.1, "loss": "mae", "optimizer": "auto"}, "mae jumps on targets between zero and one"),
        ({"label_smoothing": 0.1, "loss": "crammer_singer", "activation": "identity"}, r"label_smoothing=0\.1"),
    ],
    ids=str,
)
def test_a_parameter_is_refused_in_a_sentence_and_only_in_fit(parameters, sentence):
    model = SoftmaxRegression(**{"optimizer": "adam", **parameters})
    with pytest.raises(ValueError, match=sentence):
        model.fit(*IRIS)


@pytest.mark.parametrize(
    ("weight", "sentence"),
    [
        (np.zeros(150), "training rows whose weight is zero there are 0 classes"),
        ((IRIS[1] == 1).astype(float), "training rows whose weight is zero there are 1 classes"),
        (-np.ones(150), r"sample_weight holds -1\.0; give weights of at least 0"),
        (np.ones(149), r"sample_weight has the shape \(149,\); 150 rows need \(150,\)"),
        (np.full(150, np.nan), "sample_weight contains NaN"),
    ],
    ids=["zero", "one-class", "negative", "short", "nan"],
)
def test_weights_are_refused_in_a_sentence(weight, sentence):
    with pytest.raises(ValueError, match=sentence):
        SoftmaxRegression(**PASSES).fit(*IRIS, weight)


@pytest.mark.parametrize("standardize", [False, True])
def test_coefficients_can_be_set_and_are_what_predicts_and_is_saved(standardize, tmp_path):
    model, x = trained(), IRIS[0]
    if standardize:  # as the model of a run has it
        shifted = replace(model.model_, standardizer=Standardizer(np.ones(4), np.full(4, 2.0)))
        model = SoftmaxRegression.load(shifted.save(tmp_path / "model.npz"), **PASSES)
    coef, intercept = np.random.default_rng(0).normal(size=(3, 4)), np.array([1.0, 2.0, -3.0])
    before = model.predict_proba(x)
    model.coef_ = coef
    model.coef_[1, 2] = 7.0  # in the place of another number
    model.intercept_ = intercept
    z = x @ model.coef_.T + intercept
    assert_allclose(model.decision_function(x), z, rtol=1e-12)
    assert_array_equal(model.predict(x), z.argmax(axis=1))
    assert_allclose(model.predict_proba(x), Softmax()(z), rtol=1e-12)
    assert_allclose(model.predict_log_proba(x), Softmax().log(z), rtol=1e-12)
    saved = SoftmaxRegression.load(model.save(tmp_path / "set.npz"))
    assert_array_equal(saved.coef_, model.coef_)
    assert_array_equal(saved.predict_proba(x), model.predict_proba(x))
    assert_array_equal(pickle.loads(pickle.dumps(model)).predict_proba(x), model.predict_proba(x))
    assert np.abs(model.predict_proba(x) - before).max() > 0.1


@pytest.mark.parametrize("goes_on", [lambda model: model.fit(*IRIS), lambda model: model.partial_fit(*IRIS)])
def test_a_fit_goes_on_from_coefficients_that_were_set(goes_on):
    model = trained(optimizer=Sgd(lr=1e-9), warm_start=True).partial_fit(*IRIS)
    model.coef_ = np.full((3, 4), 2.0)
    assert_allclose(goes_on(model).coef_, 2.0, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        (
            "coef_",
            np.zeros((4, 3)),
            r"the shapes \(4, 3\) and \(3,\); 3 classes and 4 features need \(3, 4\) and \(3,\)",
        ),
        ("intercept_", 0.0, r"the shapes \(3, 4\) and \(\)"),
        ("intercept_", [0.0, np.nan, 0.0], "numbers that are not finite"),
    ],
)
def test_coefficients_that_do_not_fit_are_refused_in_a_sentence(name, value, sentence):
    model = trained()
    setattr(model, name, value)
    with pytest.raises(DataError, match=sentence):
        model.predict(IRIS[0])


def test_before_a_fit_there_is_nothing_to_see():
    model = SoftmaxRegression()
    assert not hasattr(model, "coef_")
    assert not hasattr(model, "model_")
    assert not hasattr(model, "intercept_")
    for method in (lambda: model.predict(IRIS[0]), lambda: model.save("model.npz")):
        with pytest.raises(NotFittedError):
            method()


def test_it_works_in_a_pipeline_under_a_grid_search():
    pipeline = make_pipeline(StandardScaler(), SoftmaxRegression(tol=1e-4))
    grid = {"softmaxregression__C": [0.01, 1.0], "softmaxregression__activation": ["softmax", Softmax(0.5)]}
    search = GridSearchCV(pipeline, grid, cv=3, scoring="neg_log_loss").fit(*IRIS)
    assert search.best_params_["softmaxregression__C"] == 1.0
    assert search.best_estimator_.score(*IRIS) > 0.95


def test_it_can_be_calibrated():
    calibrated = CalibratedClassifierCV(SoftmaxRegression(tol=1e-4), cv=3).fit(*IRIS, sample_weight=WEIGHT + 1)
    assert calibrated.score(*IRIS) > 0.9


def test_columns_have_names():
    frame = pd.DataFrame(IRIS[0], columns=["a", "b", "c", "d"])
    model = trained(x=frame)
    assert_array_equal(model.feature_names_in_, ["a", "b", "c", "d"])
    assert model.model_.features == ("a", "b", "c", "d")
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frame[["b", "a", "c", "d"]])


def with_names(names):
    frame = pd.DataFrame(IRIS[0])
    frame.columns = pd.Index(names, dtype=object)
    return frame


HALVES = np.array(["a", "\ud800", "b"], dtype=object)  # of surrogate pairs, which no file could hold


@pytest.mark.parametrize("kind", [str, object])
@pytest.mark.parametrize("fit", ["fit", "partial_fit"])
def test_names_that_are_no_characters_are_refused(fit, kind):
    more = {"classes": HALVES} if fit == "partial_fit" else {}
    with pytest.raises(DataError, match=r"The label '\\ud800' holds half of a surrogate pair"):
        getattr(SoftmaxRegression(), fit)(IRIS[0], HALVES.astype(kind)[IRIS[1]], **more)
    more = {"classes": [0, 1, 2]} if fit == "partial_fit" else {}
    with pytest.raises(DataError, match=r"The feature '\\udfff' holds half of a surrogate pair"):
        getattr(SoftmaxRegression(), fit)(with_names(["a", "\udfff", "c", "d"]), IRIS[1], **more)


@pytest.mark.processes
def test_the_command_line_predicts_with_a_model_of_the_estimator(tmp_path):
    frame = pd.DataFrame(IRIS[0], columns=["a", "b", "c", "d"])
    names = np.array(["setosa", "versicolor", "virginica"])
    model = trained(x=frame, y=names[IRIS[1]])
    model.save(tmp_path / "model.npz")
    frame[["d", "c", "b", "a"]].to_csv(tmp_path / "new.csv", index=False)
    settings = ["model=model.npz", "data=file", "data.path=new.csv", "output=out.csv"]
    subprocess.run([sys.executable, "-m", "trainer.predict", *settings], check=True, capture_output=True, cwd=tmp_path)
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["prediction"] for row in rows] == list(model.predict(frame))
    numbers = [[float(row[f"probability_{name}"]) for name in names] for row in rows]
    assert_allclose(numbers, model.predict_proba(frame), rtol=1e-12)


def test_the_estimator_loads_the_model_of_a_run(tmp_path):
    run(SETTINGS, tmp_path)  # which standardises
    file = Model.load(tmp_path / "model.npz")
    model = SoftmaxRegression.load(tmp_path / "model.npz", C=3.0)
    x = np.random.default_rng(0).normal(size=(20, len(file.features)))
    assert model.C == 3.0
    assert_allclose(model.predict_proba(x), file.predict(x), rtol=1e-10)
    assert_allclose(x @ model.coef_.T + model.intercept_, model.decision_function(x), rtol=1e-12)
    again = Model.load(model.save(tmp_path / "again.npz"))
    assert (tmp_path / "again.npz").read_bytes() == (tmp_path / "model.npz").read_bytes()
    assert_array_equal(again.w, file.w)


def test_a_saved_estimator_is_loaded_as_it_was(tmp_path):
    frame = pd.DataFrame(IRIS[0], columns=["a", "b", "c", "d"])
    model = trained(Softmax(2.0), x=frame)
    loaded = SoftmaxRegression.load(str(model.save(tmp_path / "model.npz")), random_state=0)
    assert loaded.activation == Softmax(2.0)
    assert_array_equal(loaded.predict_proba(frame), model.predict_proba(frame))
    assert_array_equal(loaded.coef_, model.coef_)
    assert_array_equal(loaded.feature_names_in_, model.feature_names_in_)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # fit is given no names
        assert loaded.partial_fit(*IRIS).score(frame, IRIS[1]) > 0.3


@dataclass(frozen=True)
class Twice(Softmax):
    """Another function under the name of ours."""

    def __call__(self, z):
        return super().__call__(2 * z)

    def jacobian(self, z, a):
        return 2 * super().jacobian(z, a)

    def vjp(self, z, a, dl_da):
        return 2 * super().vjp(z, a, dl_da)


class Plain:
    """A function that is no dataclass."""

    name, range = "plain", "simplex"

    def __call__(self, z):
        return Softmax()(z)

    def jacobian(self, z, a):
        return Softmax().jacobian(z, a)

    def vjp(self, z, a, dl_da):
        return Softmax().vjp(z, a, dl_da)


@pytest.mark.parametrize("activation", [Twice(), Plain()])
def test_a_model_is_saved_only_if_its_activation_can_be_read_again(activation, tmp_path):
    model = SoftmaxRegression(activation=activation, **PASSES).fit(*IRIS)
    with pytest.raises(DataError, match=rf"m\.npz is not written: it would name activation={activation.name}, .*pick"):
        model.save(tmp_path / "m.npz")
    assert list(tmp_path.iterdir()) == []


ANY_LABELS = st.one_of(
    st.lists(st.text(max_size=4), min_size=2, max_size=3, unique=True),
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=2, max_size=3, unique=True),
    st.lists(st.floats(-9, 9).map(round).map(float), min_size=2, max_size=3, unique=True),
    st.just([False, True]),
)
TEMPERATURES = st.floats(0.125, 8, width=32)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    names=st.lists(st.text(max_size=2), min_size=2, max_size=3, unique=True),  # scikit-learn refuses others
    labels=ANY_LABELS,
    temperature=TEMPERATURES | TEMPERATURES.map(np.float32) | TEMPERATURES.map(np.float64) | st.integers(1, 3),
    dtype=st.sampled_from(["float16", "float32", "float64", "longdouble", "int64", ">f8"]),
)
def test_what_save_takes_is_what_load_gives(names, labels, temperature, dtype):
    frame = pd.DataFrame(np.arange(6.0 * len(names)).reshape(6, -1) % 5)
    frame.columns = pd.Index(names, dtype=object)
    y = np.array([labels[n % len(labels)] for n in range(6)], object if isinstance(labels[0], str) else None)
    model = SoftmaxRegression(activation=Softmax(temperature), optimizer="adam", max_iter=1).fit(frame, y)
    model.coef_, model.intercept_ = model.coef_.astype(dtype), model.intercept_.astype(dtype)
    with tempfile.TemporaryDirectory() as folder:
        loaded = SoftmaxRegression.load(model.save(Path(folder, "m.npz")))
    assert loaded.activation == model.activation
    assert loaded.classes_.tolist() == [label if isinstance(label, str) else int(label) for label in model.classes_]
    assert list(loaded.feature_names_in_) == names
    assert_array_equal(loaded.predict_proba(frame), model.predict_proba(frame))


@pytest.mark.processes
@pytest.mark.parametrize("code", ["import trainer", "import trainer.runs.run", "import trainer.commands.train"])
def test_scikit_learn_is_imported_with_the_estimator_only(code):
    check = f"{code}\nimport sys\nassert 'sklearn' not in sys.modules\nfrom trainer import SoftmaxRegression"
    subprocess.run([sys.executable, "-c", check], check=True, capture_output=True, cwd=ROOT)


def test_the_package_has_no_other_names():
    import trainer

    with pytest.raises(AttributeError, match="has no attribute 'SoftmaxRegresion'"):
        trainer.SoftmaxRegresion  # noqa: B018 - a typo


@pytest.mark.parametrize("optimizer", ["newton", "lbfgs"])
def test_the_weights_of_a_solver_depend_on_no_seed_to_the_last_bit(optimizer):
    x, y = load_digits(return_X_y=True)  # some of whose features are always zero
    one, other = (SoftmaxRegression(optimizer=optimizer, random_state=seed).fit(x[:300], y[:300]) for seed in (0, 1))
    assert one.coef_.tobytes() == other.coef_.tobytes()
