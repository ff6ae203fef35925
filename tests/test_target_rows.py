"""Target rows (N,K) given to the estimator: shares, multi-hot rows, and what is then predicted, scored and saved."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.datasets import make_multilabel_classification
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.utils.estimator_checks import parametrize_with_checks

from tests.test_estimator import IRIS, PASSES, checked, excused, trained
from trainer import SoftmaxRegression
from trainer.chain.activations import NormalizedSigmoid
from trainer.errors import DataError

HOT = np.eye(3)[IRIS[1]]
SOFT = 0.7 * HOT + 0.3 * np.random.default_rng(0).dirichlet(np.ones(3), size=150)
X, MULTI = make_multilabel_classification(200, 6, n_classes=4, random_state=0)
MULTI_LABEL = {"activation": "sigmoid", "loss": "bce"}


@pytest.mark.parametrize(
    "parameters", [{}, PASSES, {**MULTI_LABEL, **PASSES}, {"early_stopping": True, **PASSES}], ids=str
)
def test_one_hot_rows_are_labels(parameters):
    rows, labels = (SoftmaxRegression(**parameters).fit(IRIS[0], y) for y in (HOT, IRIS[1]))
    assert_array_equal(rows.coef_, labels.coef_)
    assert_array_equal(rows.classes_, [0, 1, 2])


@pytest.mark.parametrize("optimizer", ["newton", "lbfgs", "fista"])
def test_shares_are_weighted_copies_of_their_row(optimizer):
    parameters = {"optimizer": optimizer, "tol": 1e-11, "max_iter": 2000, "C": 0.5}
    soft = SoftmaxRegression(**parameters).fit(IRIS[0], SOFT)
    copies = SoftmaxRegression(**parameters).fit(np.repeat(IRIS[0], 3, axis=0), np.tile([0, 1, 2], 150), SOFT.ravel())
    assert soft.converged_
    assert_allclose(soft.coef_, copies.coef_, atol=1e-5)
    assert_allclose(soft.intercept_, copies.intercept_, atol=1e-4)
    theirs = LogisticRegression(C=0.5, tol=1e-12, solver="newton-cg", max_iter=1000)
    theirs.fit(np.repeat(IRIS[0], 3, axis=0), np.tile([0, 1, 2], 150), SOFT.ravel())
    assert_allclose(soft.predict_proba(IRIS[0]), theirs.predict_proba(IRIS[0]), atol=1e-6)


def test_the_certificate_is_of_the_rows_as_they_are():
    model = SoftmaxRegression(optimizer="adam", max_iter=3, batch_size=None).fit(IRIS[0], SOFT)
    best = SoftmaxRegression(tol=1e-11).fit(IRIS[0], SOFT)

    def value(m):
        loss = -np.sum(SOFT * m.predict_log_proba(IRIS[0])) / 150
        return loss + np.sum(m.coef_**2) / (2 * 150)

    assert model.gap_ >= (value(model) - value(best)) / value(model) > 0.01
    assert best.gap_ < 1e-9


def test_of_shares_predict_gives_one_class_and_score_takes_both():
    model = SoftmaxRegression().fit(IRIS[0], SOFT)
    predicted = model.predict(IRIS[0])
    assert not model.multi_label_
    assert predicted.shape == (150,)
    assert_array_equal(predicted, model.predict_proba(IRIS[0]).argmax(axis=1))
    assert model.score(IRIS[0], SOFT) == accuracy_score(SOFT.argmax(axis=1), predicted)
    assert model.score(IRIS[0], IRIS[1]) == accuracy_score(IRIS[1], predicted)
    weight = np.arange(150.0)
    assert_allclose(
        model.score(IRIS[0], SOFT, weight), accuracy_score(SOFT.argmax(axis=1), predicted, sample_weight=weight), 1e-12
    )


def test_one_of_several_largest_targets_will_do():
    both = HOT + np.roll(HOT, 1, axis=1)
    model = SoftmaxRegression(**PASSES).fit(IRIS[0], both)
    assert model.score(IRIS[0], both) == np.mean(both[np.arange(150), model.predict(IRIS[0])] == 1)


def test_a_multi_label_model_is_as_many_models_of_two_classes():
    model = SoftmaxRegression(**MULTI_LABEL, C=0.3, tol=1e-11).fit(X, MULTI)
    assert model.converged_
    assert model.multi_label_
    for k in range(4):
        alone = LogisticRegression(C=0.3, tol=1e-12, solver="newton-cg").fit(X, MULTI[:, k])
        assert_allclose(model.coef_[k], alone.coef_[0], atol=1e-5)
        assert_allclose(model.predict_proba(X)[:, k], alone.predict_proba(X)[:, 1], atol=1e-6)
        assert_array_equal(model.predict(X)[:, k], alone.predict(X))
    assert_allclose(model.predict_log_proba(X), -np.logaddexp(0, -model.decision_function(X)), rtol=1e-13)
    assert model.score(X, MULTI) == accuracy_score(MULTI, model.predict(X))
    assert roc_auc_score(MULTI, model.decision_function(X)) > 0.8


def test_two_labels_have_two_scores():
    model = SoftmaxRegression(**MULTI_LABEL).fit(X, MULTI[:, :2])
    assert model.decision_function(X).shape == model.predict_proba(X).shape == model.predict(X).shape == (200, 2)


def test_labels_of_one_class_a_row_stay_a_choice_among_classes():
    model = trained(x=IRIS[0], y=IRIS[1], **MULTI_LABEL)
    assert not model.multi_label_
    assert model.predict(IRIS[0]).shape == (150,)
    assert_array_equal(model.predict_proba(IRIS[0]), NormalizedSigmoid()(model.decision_function(IRIS[0])))


def test_columns_of_a_frame_name_the_classes():
    frame = pd.DataFrame(SOFT, columns=["setosa", "versicolor", "a virginica"])  # in their order, not the alphabet's
    model = SoftmaxRegression(tol=1e-10).fit(IRIS[0], frame)
    assert_array_equal(model.classes_, frame.columns)
    assert model.model_.classes == tuple(frame.columns)
    assert_array_equal(model.predict(IRIS[0]), model.classes_[model.predict_proba(IRIS[0]).argmax(axis=1)])
    assert model.score(IRIS[0], frame) == model.score(IRIS[0], SOFT)
    numbered = SoftmaxRegression(tol=1e-10).fit(IRIS[0], SOFT)
    assert_array_equal(numbered.coef_, model.coef_)
    weighted = clone(model).set_params(class_weight={"a virginica": 3.0}).fit(IRIS[0], frame)
    assert_array_equal(weighted.coef_, clone(numbered).set_params(class_weight={2: 3.0}).fit(IRIS[0], SOFT).coef_)


@pytest.mark.parametrize("container", [csr_array, np.asarray, lambda y: y.tolist(), lambda y: y.astype(bool)])
def test_rows_may_be_sparse_lists_or_booleans(container):
    model = SoftmaxRegression(**MULTI_LABEL).fit(X, container(MULTI))
    assert_array_equal(model.coef_, SoftmaxRegression(**MULTI_LABEL).fit(X, MULTI).coef_)
    assert model.score(X, container(MULTI)) == model.score(X, MULTI)


def test_partial_fit_takes_rows_and_then_labels():
    names = ["c", "a", "b"]
    frame = pd.DataFrame(SOFT, columns=names)
    shared = {"batch_size": 16, "random_state": 5, "optimizer": "adam"}
    passes = SoftmaxRegression(**shared).partial_fit(IRIS[0], frame).partial_fit(IRIS[0], SOFT)
    assert_array_equal(passes.classes_, names)
    other = clone(passes).partial_fit(IRIS[0], SOFT, classes=[0, 1, 2]).partial_fit(IRIS[0], SOFT)
    assert_array_equal(passes.coef_, other.coef_)
    by_label = passes.partial_fit(IRIS[0], np.array(names)[IRIS[1]])
    assert_array_equal(by_label.coef_, other.partial_fit(IRIS[0], IRIS[1]).coef_)


def test_a_file_knows_whether_the_model_is_multi_label(tmp_path):
    for model, x in (
        (SoftmaxRegression(**MULTI_LABEL).fit(X, MULTI), X),
        (SoftmaxRegression(**MULTI_LABEL).fit(*IRIS), IRIS[0]),
    ):
        loaded = SoftmaxRegression.load(model.save(tmp_path / "model.npz"))
        assert loaded.multi_label_ == model.multi_label_
        assert_array_equal(loaded.predict(x), model.predict(x))
        assert_array_equal(loaded.predict_proba(x), model.predict_proba(x))


def test_it_is_searched_over_by_its_score():
    search = GridSearchCV(SoftmaxRegression(**MULTI_LABEL), {"C": [1e-6, 1.0]}, cv=3).fit(X, MULTI)
    assert search.best_params_ == {"C": 1.0}
    soft = GridSearchCV(SoftmaxRegression(), {"C": [1e-6, 1.0]}, cv=KFold(3, shuffle=True, random_state=0)).fit(
        IRIS[0], SOFT
    )
    assert soft.best_score_ > 0.8


@pytest.mark.parametrize(
    ("y", "parameters", "sentence"),
    [
        (HOT - 0.5, {}, r"y holds -0\.5; the targets of a row are .* none is negative"),
        (np.full((150, 2), "a"), {}, "y has 2 columns of texts; give labels in one column"),
        (np.where(HOT == 1, np.nan, HOT), {}, "y contains NaN"),
        (SOFT, {"loss": "crammer_singer", "activation": "identity"}, "crammer_singer is stated on one-hot rows"),
        (2 * HOT, MULTI_LABEL, "bce is stated on"),
        (SOFT, {"loss": "mae", "activation": "softmax", "optimizer": "auto"}, "mae jumps on targets between"),
        (HOT * [1, 0, 0] * 0.5, {}, "there are 1 classes; a classifier needs samples of at least 2"),
        (pd.DataFrame(SOFT, columns=["a", "b", "a"]), {}, "Two columns of y are called 'a'"),
        (SOFT[:149], {}, "inconsistent numbers of samples"),
    ],
)
def test_rows_are_refused_in_a_sentence(y, parameters, sentence):
    with pytest.raises(ValueError, match=sentence):
        SoftmaxRegression(**{"optimizer": "adam", **parameters}).fit(IRIS[0], y)


def test_partial_fit_refuses_other_columns():
    frame = pd.DataFrame(SOFT, columns=["a", "b", "c"])
    model = SoftmaxRegression(**PASSES).partial_fit(IRIS[0], frame)
    with pytest.raises(ValueError, match="classes=c, b, a are not those of the fit before, a, b, c"):
        model.partial_fit(IRIS[0], frame[["c", "b", "a"]])
    with pytest.raises(ValueError, match="classes=0, 1 are not the columns of y, a, b, c"):
        clone(model).partial_fit(IRIS[0], frame, classes=[0, 1])
    with pytest.raises(DataError, match=r"y has the shape \(150, 2\); 150 rows need \(150, 3\)"):
        model.score(IRIS[0], SOFT[:, :2])


@parametrize_with_checks([checked("sigmoid", "bce"), checked("sigmoid", "bce", "adam")], expected_failed_checks=excused)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # of the few iterations of a check
def test_scikit_learn_finds_nothing_to_object_to_in_a_multi_label_classifier(estimator, check, monkeypatch):
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")  # else a check is skipped
    check(estimator)


def test_the_checks_know_that_it_takes_several_labels():
    tags = SoftmaxRegression(**MULTI_LABEL).__sklearn_tags__()
    assert tags.classifier_tags.multi_label
    assert not SoftmaxRegression().__sklearn_tags__().classifier_tags.multi_label
    assert not SoftmaxRegression(activation="sofmax").__sklearn_tags__().classifier_tags.multi_label
