"""SoftmaxRegressionCV: scikit-learn's choice, a plain loop's choice, and what it says where a choice is doubtful."""

import pickle
import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array
from sklearn import config_context
from sklearn.base import clone
from sklearn.datasets import load_iris, make_classification
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegressionCV
from sklearn.metrics import log_loss
from sklearn.model_selection import GroupKFold, KFold, ShuffleSplit, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from trainer import SoftmaxRegression, SoftmaxRegressionCV
from trainer.errors import ConfigError, DataError, Incompatible
from trainer.objective.penalties import L2
from trainer.optimizers import Auto

X, Y = make_classification(120, 6, n_informative=4, n_redundant=0, n_classes=3, random_state=0)
CS = [1e-3, 0.03, 1.0, 30.0]
WEIGHT = np.random.default_rng(0).integers(0, 4, size=len(Y)).astype(float)
TIGHT = {"optimizer": Auto(tol=1e-11, gap=1e-11), "max_iter": 1000}
GROUPS = np.random.default_rng(1).integers(12, size=len(Y))


def quiet(**parameters):
    """A fit whose chosen C may lie at an end of the grid."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The (chosen|best) C=")
        arguments = {name: parameters.pop(name) for name in ("sample_weight", "groups") if name in parameters}
        y = parameters.pop("y", Y)
        return SoftmaxRegressionCV(**{"Cs": CS, **parameters}).fit(X, y, **arguments)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning", "ignore:The (chosen|best) C=")
@parametrize_with_checks([SoftmaxRegressionCV(Cs=3, cv=3, tol=1e-12)])
def test_scikit_learn_finds_nothing_to_object_to(estimator, check, monkeypatch):
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")  # else a check is skipped
    check(estimator)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize(("scoring", "theirs"), [(None, "neg_log_loss"), ("accuracy", "accuracy")])
def test_scores_and_choice_are_those_of_logistic_regression_cv(classes, scoring, theirs):
    y = Y % classes
    ours = quiet(y=y, scoring=scoring, sample_weight=WEIGHT + 1, **TIGHT)
    factor = 2 if classes == 2 else 1  # it penalises one column
    settings = {
        "solver": "newton-cg",
        "tol": 1e-11,
        "max_iter": 2000,
        "l1_ratios": (0,),
        "use_legacy_attributes": False,
    }
    peer = LogisticRegressionCV(Cs=[factor * C for C in CS], cv=5, scoring=theirs, **settings)
    peer.fit(X, y, sample_weight=WEIGHT + 1)
    sign = -1 if scoring is None else 1
    assert_allclose(ours.scores_, sign * peer.scores_[:, 0], atol=1e-4)
    assert_allclose(ours.C_, peer.C_ / factor)
    assert_allclose(ours.predict_proba(X), peer.predict_proba(X), atol=1e-4)


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"class_weight": "balanced"},
        {"class_weight": {0: 3.0}, "fit_intercept": False},
        {"penalty": "l1"},
        {"penalty": "elastic_net", "l1_ratio": 0.3},
        {"label_smoothing": 0.2},
        {"loss": "fenchel_young", "activation": "sparsemax"},
        {"loss": "bce", "activation": "sigmoid"},
    ],
    ids=str,
)
def test_a_cell_is_a_fit_of_softmax_regression_on_its_fold(parameters):
    """By a loop: C W is of the training rows and their weights, and the score is by sample_weight on plain targets."""
    folds = 3 if "penalty" in parameters else 5  # which are the default, and take fista long
    scoring = "brier" if "bce" in parameters.values() else None
    model = quiet(sample_weight=WEIGHT, scoring=scoring, **parameters, **({"cv": 3} if folds == 3 else {}))
    expected = np.empty_like(model.scores_)
    for f, (train, test) in enumerate(StratifiedKFold(folds).split(X, Y)):
        for s, C in enumerate(CS):
            alone = SoftmaxRegression(C=C, **TIGHT, **parameters).fit(X[train], Y[train], WEIGHT[train])
            expected[f, s] = score_of(alone, X[test], Y[test], WEIGHT[test])
    assert_allclose(model.scores_, expected, rtol=2e-3)
    assert (model.gap_ <= 1e-6).all()
    assert_array_equal(model.C_, CS[expected.mean(axis=0).argmin()])
    assert_allclose(model.scores_std_, expected.std(axis=0, ddof=1), rtol=0.02)
    whole = SoftmaxRegression(C=model.C_, **TIGHT, **parameters).fit(X, Y, WEIGHT)
    assert_allclose(model.coef_, whole.coef_, atol=2e-3)
    assert model.converged_
    assert model.refit_gap_ <= 1e-6


def score_of(model, x, y, weight):
    """The mean loss of the pair by its formula, and for bce the Brier score of the K answers."""
    z, hot = x @ model.coef_.T + model.intercept_, np.eye(3)[y]
    a = model.model_.activation(z)
    if model.loss == "ce":
        rows = -np.log(a[np.arange(len(y)), y])
    elif model.loss == "bce":
        rows = ((a - hot) ** 2).sum(axis=1)
    else:  # Martins & Astudillo 2016, eq. 15
        rows = -z[np.arange(len(y)), y] + sparsemax_part(z, a) + 0.5
    return np.average(rows, weights=weight)


def sparsemax_part(z, a):
    """Half the sum over the support of z^2 - tau^2, whose tau is z - a there."""
    tau = np.where(a > 0, z - a, 0.0)
    return 0.5 * (np.where(a > 0, z**2, 0.0) - tau**2).sum(axis=1)


def test_an_integer_is_a_grid_from_small_to_large():
    model = quiet(Cs=5, cv=3)
    assert_allclose(model.Cs_, [1e-4, 1e-2, 1, 1e2, 1e4])
    assert model.scores_.shape == model.gap_.shape == (3, 5)
    assert_array_equal(quiet(Cs=[1.0, 0.03, 1.0, 30.0, 1e-3]).scores_, quiet().scores_)


def test_groups_stay_together():
    model = quiet(cv=GroupKFold(4), groups=GROUPS)
    splits = list(GroupKFold(4).split(X, Y, GROUPS))
    assert_array_equal(model.scores_, quiet(cv=splits).scores_)
    assert not np.array_equal(model.scores_, quiet(cv=4).scores_)
    pipeline = make_pipeline(StandardScaler(), SoftmaxRegressionCV(Cs=CS, cv=GroupKFold(4)))
    pipeline.fit(X, Y, softmaxregressioncv__groups=GROUPS)
    with config_context(enable_metadata_routing=True):
        routed = SoftmaxRegressionCV(Cs=CS, cv=GroupKFold(4)).set_fit_request(groups=True)
        routed = make_pipeline(StandardScaler(), routed).fit(X, Y, groups=GROUPS)
    assert_array_equal(routed[-1].scores_, pipeline[-1].scores_)


def test_splits_may_be_masks_and_in_any_order():
    splits = list(KFold(3, shuffle=True, random_state=0).split(X))
    masks = [tuple(np.isin(np.arange(len(X)), part) for part in split) for split in splits]
    turned = [(train[::-1], test[::-1]) for train, test in splits]
    for cv in (masks, turned):
        assert_array_equal(quiet(cv=cv).scores_, quiet(cv=splits).scores_)


def test_1se_takes_the_strongest_within_one_standard_error_of_the_best():
    best, simple = (quiet(Cs=12, rule=rule, scoring="accuracy") for rule in ("best", "1se"))
    assert_array_equal(best.scores_, simple.scores_)
    mean = best.scores_.mean(axis=0)
    error = best.scores_[:, mean.argmax()].std(ddof=1) / np.sqrt(5)
    assert_array_equal(best.C_, best.Cs_[mean.argmax()])
    assert_array_equal(
        simple.C_, min(C for C, score in zip(best.Cs_, mean, strict=True) if score >= mean.max() - error)
    )
    assert simple.C_ < best.C_


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"Cs": [1e-5, 1e-4]}, r"The chosen C=0\.0001 is the largest of Cs, and one beyond it may do better"),
        ({"Cs": [1e4, 1e5]}, r"The chosen C=10000 is the smallest of Cs"),
        (
            {"Cs": [1e-5, 1e-4], "rule": "1se", "cv": [(np.arange(0, 90), np.arange(90, 120))] * 2},
            "The chosen C=0.0001",
        ),
    ],
    ids=str,
)
def test_the_end_of_the_grid_is_said(parameters, sentence):
    with pytest.warns(UserWarning, match=sentence):
        SoftmaxRegressionCV(**parameters).fit(X, Y)


@pytest.mark.parametrize(
    "parameters",
    [
        {"Cs": [1e-3, 1.0, 1e3]},
        {"Cs": [1.0]},  # nobody asked for a choice
        {"Cs": [1e-7, 1e-6, 1e-5], "penalty": "l1", "scoring": "accuracy"},  # no weights: nothing is stronger
    ],
    ids=str,
)
def test_no_end_is_said_where_nothing_beyond_it_could_be_better(parameters):
    SoftmaxRegressionCV(**parameters).fit(X, Y)  # a warning is an error


def test_no_grid_is_longer_than_to_no_penalty_and_there_is_no_proof_at_its_end():
    x, y = np.r_[X, -X], np.r_[Y % 2, Y % 2]  # as many on one side as on the other
    x = np.c_[x, np.r_[Y % 2, Y % 2] + np.random.default_rng(0).normal(size=2 * len(Y))]
    with pytest.warns(ConvergenceWarning, match=r"The cells of the chosen C=inf have no proof: .* by its own rule"):
        model = SoftmaxRegressionCV(Cs=[1e-7, np.inf]).fit(x, y)
    assert_array_equal(model.C_, np.inf)
    assert np.isnan(model.gap_[:, 1]).all()
    assert model.refit_gap_ is None


def test_cells_that_did_not_come_to_the_minimum_are_named_and_so_is_the_choice():
    with pytest.warns(ConvergenceWarning) as caught:
        model = quiet(max_iter=1)
    said = str(caught[0].message)
    late = [f"{C:g}" for C, gaps in zip(model.Cs_, model.gap_.T, strict=True) if (gaps > 1e-6).any()]
    assert said.startswith(f"At C={', '.join(late)} some cells are not certified")
    assert f"one of these is the chosen C={model.C_:g}. Raise max_iter=1." in said


def test_without_refit_there_are_scores_and_no_model():
    model = quiet()
    whole = model.scores_
    assert model.predict(X).shape == Y.shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.set_params(refit=False).fit(X, Y)
    assert_array_equal(model.scores_, whole)
    assert model.C_ in CS
    assert not hasattr(model, "coef_")
    with pytest.raises(NotFittedError):
        model.predict(X)


def test_the_refit_is_the_fit_of_the_chosen_strength():
    model = quiet()
    alone = SoftmaxRegression(C=model.C_).fit(X, Y)
    assert (model.coef_ == alone.coef_).all()
    assert (model.n_iter_, model.refit_gap_) == (alone.n_iter_, alone.gap_)


def test_target_rows_are_taken():
    soft = 0.8 * np.eye(3)[Y] + 0.2 / 3
    model = quiet(y=soft)
    assert_array_equal(model.classes_, [0, 1, 2])
    assert_array_equal(quiet(y=np.eye(3)[Y]).scores_, quiet().scores_)
    train, test = next(StratifiedKFold(5).split(X, Y))
    alone = SoftmaxRegression(C=CS[2], **TIGHT).fit(X[train], soft[train])
    expected = -np.mean(np.sum(soft[test] * alone.predict_log_proba(X[test]), axis=1))
    assert model.scores_[0, 2] == pytest.approx(expected, rel=1e-3)
    several = quiet(
        y=(soft > 0.5) | (np.eye(3)[(Y + 1) % 3] * (WEIGHT[:, None] > 2) > 0), activation="sigmoid", loss="bce"
    )
    assert several.multi_label_


def test_sparse_and_single_precision_features_are_taken():
    plain = quiet()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        sparse = SoftmaxRegressionCV(Cs=CS).fit(csr_array(X), Y)
        single = SoftmaxRegressionCV(Cs=CS).fit(X.astype(np.float32), Y)
    assert_allclose(sparse.scores_, plain.scores_, rtol=2e-3)
    assert_allclose(single.scores_, plain.scores_, rtol=2e-3)
    assert single.coef_.dtype == np.float32


def test_it_is_cloned_pickled_saved_and_without_steps(tmp_path):
    model = quiet(cv=ShuffleSplit(3, random_state=0), rule="1se", scoring="top_k")
    assert {k: v for k, v in clone(model).get_params().items() if k != "cv"} == {
        k: v for k, v in model.get_params().items() if k != "cv"
    }
    assert not {"C", "batch_size", "early_stopping", "warm_start", "random_state"} & set(model.get_params())
    again = pickle.loads(pickle.dumps(model))
    assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    assert_array_equal(SoftmaxRegression.load(model.save(tmp_path / "m.npz")).predict_proba(X), model.predict_proba(X))
    assert not hasattr(model, "partial_fit")


def test_a_bar_counts_the_cells(capsys):
    quiet(verbose=1)
    assert f"{5 * len(CS)}/{5 * len(CS)}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"Cs": 0}, "Cs must be an integer of at least 1 or a list of numbers greater than 0, got 0"),
        ({"Cs": []}, r"Cs must be .*, got \[\]"),
        ({"Cs": [1, -1]}, r"Cs must be .*, got \[1, -1\]"),
        ({"rule": "lambda.1se"}, "rule must be 'best' or '1se', got 'lambda.1se'"),
        ({"refit": "yes"}, "refit must be True or False"),
        ({"scoring": "acuracy"}, "scoring=acuracy is not known; did you mean accuracy"),
        ({"scoring": "sparsity"}, "scoring=sparsity does not say how good a prediction is"),
        ({"scoring": "log_loss", "activation": "sigmoid", "loss": "bce"}, "scoring=log_loss makes no sense with"),
        ({"penalty": L2(0.1)}, r"penalty=L2\(strength=0\.1\) has no strength that Cs could stand for"),
        ({"penalty": None}, "penalty=None has no strength"),
        ({"penalty": "l1", "optimizer": "newton"}, "penalty=l1 is not smooth"),
        ({"groups": GROUPS}, r"groups need a splitter that keeps them together, and cv=5 is none\. Take GroupKFold"),
        ({"cv": []}, r"cv=\[\] has no folds"),
        ({"cv": [([0, 200], [1, 2])]}, "Split 1 of cv is none of 120 rows"),
        ({"cv": [([0, 1, 2, 2], [4, 5])]}, "Split 1 of cv has row 2 twice"),
        ({"cv": [(np.flatnonzero(Y == 0), [4, 5])]}, "Fold 1 of 1 trains on too few classes, 1, and 2 are needed"),
        ({"cv": [(np.arange(100), [])]}, "Split 1 of cv is none|holds out no rows that weigh anything"),
        ({"cv": [(np.arange(60), np.arange(60, 120))], "rule": "1se"}, "rule=1se needs the spread over folds"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_in_a_sentence(parameters, sentence):
    with pytest.raises((ConfigError, DataError), match=sentence):
        quiet(**parameters)


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"optimizer": "adam"}, "optimizer=adam does not say when it is at the minimum.*Take a solver"),
        ({"loss": "brier"}, "activation=softmax with loss=brier is not convex"),
    ],
)
def test_what_has_no_minimum_to_compare_is_refused(parameters, sentence):
    with pytest.raises(Incompatible, match=sentence):
        quiet(**parameters)


def test_iris_is_chosen_as_by_hand():
    x, y = load_iris(return_X_y=True)
    model = SoftmaxRegressionCV(cv=3).fit(x, y)
    means = []
    for C in model.Cs_:
        folds = StratifiedKFold(3).split(x, y)
        fits = [(SoftmaxRegression(C=C, **TIGHT).fit(x[train], y[train]), test) for train, test in folds]
        means.append(np.mean([log_loss(y[test], fit.predict_proba(x[test])) for fit, test in fits]))
    assert_array_equal(model.C_, model.Cs_[np.argmin(means)])
