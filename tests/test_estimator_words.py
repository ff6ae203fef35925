"""The estimator's parameters as scikit-learn's users write them: l1_ratio, C=inf, n_jobs, verbose, names of columns."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests.test_estimator import IRIS, PASSES
from trainer import SoftmaxRegression
from trainer.errors import ConfigError
from trainer.estimator.parameters import threads_of
from trainer.objective import threads
from trainer.objective.penalties import L1, L2, ElasticNet

SCALED = StandardScaler().fit_transform(IRIS[0]), IRIS[1]


@pytest.mark.parametrize(
    ("words", "ours"),
    [
        ({"l1_ratio": 0}, {"penalty": "l2"}),
        ({"l1_ratio": 1}, {"penalty": "l1"}),
        ({"l1_ratio": 1.0, "penalty": "l1"}, {"penalty": "l1"}),
        ({"l1_ratio": 0.2}, {"penalty": ElasticNet(1 / (0.3 * 150), 0.2)}),
        ({"l1_ratio": 0.2, "penalty": "elasticnet"}, {"penalty": ElasticNet(1 / (0.3 * 150), 0.2)}),
        ({"penalty": "elasticnet"}, {"penalty": "elastic_net"}),
        ({"C": np.inf}, {"penalty": None}),
        ({"C": np.inf, "l1_ratio": 0.5}, {"penalty": None}),
        ({"C": np.inf, "penalty": "l1"}, {"penalty": None}),
    ],
    ids=str,
)
def test_the_penalty_is_named_in_scikit_learns_words(words, ours):
    one, other = (SoftmaxRegression(**{"C": 0.3, **parameters}).fit(*SCALED) for parameters in (words, ours))
    assert_array_equal(one.coef_, other.coef_)
    assert one.gap_ == other.gap_


@pytest.mark.parametrize("l1_ratio", [0.0, 0.3, 1.0])
def test_l1_ratio_is_that_of_logistic_regression(l1_ratio):
    ours = SoftmaxRegression(l1_ratio=l1_ratio, C=0.3, tol=1e-12, max_iter=5000).fit(*SCALED)
    theirs = LogisticRegression(l1_ratio=l1_ratio, C=0.3, solver="saga", tol=1e-12, max_iter=20_000, random_state=0)
    assert_allclose(ours.coef_, theirs.fit(*SCALED).coef_, atol=1e-6)
    assert ours.converged_


def test_l1_ratio_can_be_searched_over():
    search = GridSearchCV(SoftmaxRegression(C=0.1), {"l1_ratio": [0, 0.5, 1]}, cv=3).fit(*SCALED)
    assert {0, 0.5, 1} == set(search.cv_results_["param_l1_ratio"])


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"l1_ratio": 1.5}, r"l1_ratio must be None or a number from 0 to 1, got 1\.5"),
        ({"l1_ratio": "0.5"}, "l1_ratio must be None or a number from 0 to 1, got '0.5'"),
        (
            {"l1_ratio": 0.5, "penalty": "l1"},
            r"l1_ratio=0\.5 says which penalty it is, and so does penalty='l1'\. Leave",
        ),
        ({"l1_ratio": 0.5, "penalty": None}, r"and so does penalty=None\. Leave one of them out"),
        ({"l1_ratio": 0.5, "penalty": L2(0.1)}, r"and so does penalty=L2\(strength=0\.1\)"),
        ({"n_jobs": 0}, "n_jobs must be None or an integer other than 0, got 0"),
        ({"n_jobs": 2, "threads": 2}, r"threads=2 and n_jobs=2 are the same setting\. Leave one of them out"),
        ({"verbose": -1}, "verbose must be an integer of at least 0, got -1"),
    ],
    ids=str,
)
def test_they_are_refused_in_a_sentence(parameters, sentence):
    with pytest.raises(ConfigError, match=sentence):
        SoftmaxRegression(**parameters).fit(*IRIS)


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "newton", "lbfgs"])
@pytest.mark.parametrize("penalty", [{"penalty": "l1"}, {"l1_ratio": 0.5}, {"penalty": L1(0.1)}], ids=str)
def test_no_optimiser_leaves_out_the_share_that_it_cannot_take(optimizer, penalty):
    model = SoftmaxRegression(optimizer=optimizer, **penalty)
    sentence = rf"is not smooth, which optimizer={optimizer} cannot take\. Use optimizer=fista or auto"
    with pytest.raises(ConfigError, match=sentence):
        model.fit(*IRIS)
    if hasattr(model, "partial_fit"):
        with pytest.raises(ConfigError, match=sentence):
            model.partial_fit(*IRIS, classes=[0, 1, 2])


def test_n_jobs_counts_cores_as_joblib_does(monkeypatch):
    monkeypatch.setattr("trainer.estimator.parameters.available_cores", lambda: 4)
    assert [threads_of(None, n) for n in (None, 1, 3, 9, -1, -2, -9)] == [4, 1, 3, 9, 4, 3, 1]


def test_n_jobs_is_the_number_of_threads(monkeypatch):
    asked = []
    in_order = threads.in_order

    def counting(function, parts, number):
        asked.append(number)
        return in_order(function, parts, number)

    monkeypatch.setattr("trainer.objective.blocks.in_order", counting)
    model = SoftmaxRegression(n_jobs=3).fit(*IRIS)
    assert set(asked) == {3}
    assert_array_equal(model.coef_, SoftmaxRegression(n_jobs=1).fit(*IRIS).coef_)


def test_a_bar_counts_the_iterations(capsys):
    silent = SoftmaxRegression(**PASSES).fit(*IRIS)
    assert capsys.readouterr() == ("", "")
    told = SoftmaxRegression(**PASSES, verbose=1).fit(*IRIS)
    out, bar = capsys.readouterr()
    assert out == ""
    assert "adam" in bar
    assert "5/5" in bar
    assert f"loss={told.loss_curve_[-1]:.4g}" in bar
    assert_array_equal(told.coef_, silent.coef_)


def test_the_bar_of_a_solver_ends_full(capsys):
    model = SoftmaxRegression(verbose=True).fit(*IRIS)
    assert f"{model.n_iter_}/{model.n_iter_}" in capsys.readouterr().err.splitlines()[-1]


def test_names_come_through_a_pipeline_that_gives_frames():
    frame = pd.DataFrame(IRIS[0], columns=["a", "b", "c", "d"])
    pipeline = make_pipeline(StandardScaler(), SoftmaxRegression()).set_output(transform="pandas").fit(frame, IRIS[1])
    assert_array_equal(pipeline[-1].feature_names_in_, ["a", "b", "c", "d"])
    assert pipeline[-1].model_.features == ("a", "b", "c", "d")
    assert not hasattr(pipeline[-1], "set_output")  # which is for what has a transform
    assert pipeline.score(frame, IRIS[1]) > 0.9
