from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.linear_model import LogisticRegression

from trainer.chain.activations import Identity, Softmax
from trainer.chain.losses import CrossEntropy, SquaredError
from trainer.chain.strategies import GRADIENTS, fused
from trainer.data.rows import Data
from trainer.data.sources import Classification, Iris
from trainer.objective.metrics import ACCURACY
from trainer.objective.objective import Objective
from trainer.objective.penalties import L2, NoPenalty
from trainer.objective.problem import Problem
from trainer.optimizers.first_order import Adam, AdamW, Sgd
from trainer.optimizers.fit import Diverged, TrainState, columns, fit
from trainer.optimizers.schedules import Cosine

CE = Objective(Softmax(), CrossEntropy(), fused, NoPenalty())


@pytest.fixture(scope="module")
def data():
    raw = Classification(samples=300, features=6, classes=3)(0)
    return replace(raw, x=(raw.x - raw.x.mean(axis=0)) / raw.x.std(axis=0))


def train(objective, optimizer, data, valid=None, **settings):
    return list(fit(objective, optimizer, data, valid, TrainState.start(optimizer, data), **settings))


@pytest.mark.parametrize("make", [Iris(), Classification(samples=300, features=6, classes=3)], ids=repr)
def test_a_full_batch_run_to_convergence_gives_the_coefficients_of_logistic_regression(make):
    raw = make(0)
    data = replace(raw, x=(raw.x - raw.x.mean(axis=0)) / raw.x.std(axis=0))
    strength = 0.01
    reports = train(replace(CE, penalty=L2(strength)), Sgd(lr=1.0, momentum=0.95), data, epochs=1500)
    peer = LogisticRegression(C=1 / (strength * len(data)), solver="newton-cg", tol=1e-12, max_iter=500)
    peer.fit(data.x, data.y)
    w = reports[-1].state.w
    assert reports[-1].metrics["grad_norm"] < 1e-12
    assert_allclose(w[:-1].T, peer.coef_, atol=1e-7)
    bias = w[-1] - w[-1].mean()  # a shift of every bias changes nothing, and scikit-learn's sum to zero
    assert_allclose(bias, peer.intercept_ - peer.intercept_.mean(), atol=1e-6)


def test_sample_weights_give_what_logistic_regression_gives_for_them(data):
    weight = np.random.default_rng(0).uniform(0.1, 3, size=len(data))
    strength = 0.01
    reports = train(
        replace(CE, penalty=L2(strength)), Sgd(lr=1.0, momentum=0.95), replace(data, weight=weight), epochs=1500
    )
    peer = LogisticRegression(C=1 / (strength * weight.sum()), solver="newton-cg", tol=1e-12, max_iter=500)
    peer.fit(data.x, data.y, sample_weight=weight)
    assert_allclose(reports[-1].state.w[:-1].T, peer.coef_, atol=1e-7)


def test_a_report_measures_the_parameters_that_its_epoch_ends_with(data):
    train_rows, valid = data.rows(slice(0, 200)), data.rows(slice(200, 300))
    report = train(replace(CE, penalty=L2(0.1)), Adam(lr=0.01), train_rows, valid, epochs=3, batch_size=32)[-1]
    w = report.state.w
    for side, part in (("", train_rows), ("val_", valid)):
        z = part.x @ w[:-1] + w[-1]
        a = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
        assert_allclose(report.metrics[f"{side}loss"], -np.log(a[np.arange(len(part)), part.y]).mean(), rtol=1e-12)
        assert report.metrics[f"{side}accuracy"] == (z.argmax(axis=1) == part.y).mean()
    gradient = Problem(replace(CE, penalty=L2(0.1)), train_rows).value_and_grad(w.copy())[1]
    assert report.metrics["grad_norm"] == np.linalg.norm(gradient)
    assert set(report.metrics) == set(columns(ACCURACY))


@pytest.mark.parametrize("optimizer", [Sgd(nesterov=True), Adam(), AdamW()], ids=repr)
@pytest.mark.parametrize("batch_size", [None, 32])
def test_a_training_that_goes_on_from_any_epoch_gives_the_same_bits(optimizer, batch_size, data):
    settings = {"epochs": 6, "batch_size": batch_size, "seed": 3, "schedule": Cosine(warmup=2.0)}
    whole = train(CE, optimizer, data, **settings)
    half = next(islice(fit(CE, optimizer, data, None, TrainState.start(optimizer, data), **settings), 2, None))
    rest = list(fit(CE, optimizer, data, None, half.state, **settings))
    assert [report.metrics for report in rest] == [report.metrics for report in whole[3:]]
    assert_array_equal(rest[-1].state.w, whole[-1].state.w)


@pytest.mark.parametrize("batch_size", [None, 50_000])
def test_threads_never_change_a_bit(batch_size):
    rng = np.random.default_rng(0)
    big = Data(rng.normal(size=(70_001, 5)), rng.integers(4, size=70_001), tuple(range(4)), tuple("abcde"))
    runs = [train(replace(CE, threads=t), Adam(), big, big, epochs=2, batch_size=batch_size) for t in (1, 2, 4)]
    for other in runs[1:]:
        assert [report.metrics for report in other] == [report.metrics for report in runs[0]]
        assert_array_equal(other[-1].state.w, runs[0][-1].state.w)


@pytest.mark.parametrize("name", [name for name in GRADIENTS if name != "numeric"])
def test_every_exact_strategy_trains_to_the_same_parameters(name, data):
    expected = train(CE, Sgd(), data, epochs=3, batch_size=64)[-1].state.w
    actual = train(replace(CE, gradient=GRADIENTS[name]), Sgd(), data, epochs=3, batch_size=64)[-1].state.w
    assert_allclose(actual, expected, rtol=1e-10, atol=1e-13)


def test_seeds_shuffle_differently_and_full_batches_do_not_depend_on_them(data):
    def end(**settings):
        return train(CE, Sgd(), data, epochs=2, **settings)[-1].state.w

    assert not np.array_equal(end(batch_size=32, seed=0), end(batch_size=32, seed=1))
    assert_array_equal(end(batch_size=32, seed=0), end(batch_size=32, seed=0))
    assert_array_equal(end(seed=0), end(seed=1))


def test_the_learning_rate_of_a_report_is_that_of_the_last_step(data):
    reports = train(CE, Sgd(lr=0.2), data, epochs=4, schedule=Cosine())
    assert_allclose([r.metrics["lr"] for r in reports], [0.2 * Cosine()(t + 0.5, 4) for t in range(4)])


def test_float32_parameters_stay_float32(data):
    single = replace(data, x=data.x.astype(np.float32))
    state = train(replace(CE, penalty=L2(0.1)), AdamW(), single, epochs=2, batch_size=32)[-1].state
    assert state.w.dtype == state.optimizer.mean.dtype == np.float32


def test_a_diverging_training_stops_within_a_step_and_says_where(data):
    objective = Objective(Identity(), SquaredError(), fused, NoPenalty())
    reports = []
    training = fit(objective, Sgd(lr=1e6), data, None, TrainState.start(Sgd(), data), epochs=99, batch_size=64)
    with pytest.raises(Diverged, match=r"Diverged in epoch \d+, step \d+ of 5.*Lower optimizer.lr=1000000"):
        reports.extend(training)
    assert all(np.isfinite(report.state.w).all() for report in reports)


def test_no_epochs_give_no_reports(data):
    assert train(CE, Sgd(), data, epochs=0) == []
