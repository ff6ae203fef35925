"""Smooth targets, classes' weights and samples' weights, each against a second way to the same number."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.linear_model import LogisticRegression
from sklearn.utils.class_weight import compute_class_weight

from tests.conftest import targets
from trainer.chain.activations import Sigmoid, Softmax
from trainer.chain.losses import BinaryCrossEntropy, CrossEntropy
from trainer.chain.strategies import auto
from trainer.data.rows import Data, for_training
from trainer.errors import ConfigError
from trainer.objective.metrics import METRICS
from trainer.objective.objective import Objective
from trainer.objective.penalties import L2, NoPenalty
from trainer.objective.problem import Problem
from trainer.objective.threads import blas_on_one_thread
from trainer.optimizers.first_order import Sgd
from trainer.optimizers.fit import TrainState, fit

N, D, K = 120, 3, 4
CLASSES = ("ash", "birch", "cedar", "oak")
CE = Objective(Softmax(), CrossEntropy(), auto, NoPenalty())
STRENGTH = 0.02


def sample(y=None):
    rng = np.random.default_rng(0)
    labels = rng.choice(K, size=N, p=[0.5, 0.25, 0.15, 0.1])
    x = rng.normal(size=(N, D)) + 0.7 * np.eye(K, D)[labels]
    return Data(x, labels if y is None else y, CLASSES, tuple("pqr"))


def parameters():
    return np.random.default_rng(1).normal(size=(D + 1, K))


def same(one, other, rtol=1e-11):
    """Two problems have one value and one gradient."""
    w = parameters()
    assert_allclose(one.value_and_grad(w)[0], other.value_and_grad(w)[0], rtol=1e-12)
    assert_allclose(one.value_and_grad(w)[1], other.value_and_grad(w)[1], rtol=rtol, atol=1e-14)


def repeated(data, counts):
    return data.rows(np.repeat(np.arange(len(data)), counts))


def one_row_a_target(data, y):
    """Each row K times, with each label once and its target as the weight: the same problem for a loss linear in y."""
    return replace(repeated(data, K), y=np.tile(np.arange(K), len(data)), weight=y.ravel(), smoothing=0.0)


def test_a_weight_of_two_is_the_row_twice_for_every_pair(pair):
    data, w = sample(), parameters()
    counts = np.random.default_rng(2).integers(3, size=N)
    for reduction, scale in (("weights", 1.0), ("rows", counts.sum() / N)):
        objective = Objective(*pair, auto, NoPenalty(), reduction=reduction)
        weighted = Problem(objective, replace(data, weight=counts.astype(float)))
        value, grad = Problem(objective, repeated(data, counts)).value_and_grad(w)
        found = weighted.value_and_grad(w)
        assert_allclose(found[0], scale * value, rtol=1e-12, err_msg=reduction)
        assert_allclose(found[1], scale * grad, rtol=1e-10, atol=1e-13, err_msg=reduction)
        assert_allclose(weighted.evaluate(w, {}).loss, scale * value, rtol=1e-12, err_msg=reduction)


def test_a_class_weight_of_two_is_its_rows_twice_for_every_pair(pair):
    data = sample()
    objective = Objective(*pair, auto, NoPenalty())
    weighted = for_training(data, 0.0, {"oak": 3, "ash": 2, "cedar": 0})
    same(Problem(objective, weighted), Problem(objective, repeated(data, np.array([2, 1, 0, 3])[data.y])), rtol=1e-10)


def test_labels_and_one_hot_rows_get_the_same_weights():
    for weight in ("balanced", {"birch": 5}):
        labels, rows = sample(), sample(np.eye(K)[sample().y])
        assert_allclose(for_training(labels, 0, weight).weight, for_training(rows, 0, weight).weight, rtol=1e-14)


def test_a_soft_row_weighs_the_mean_of_the_weights_over_its_targets():
    y = np.array([[0.5, 0.5, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0], [0, 6, 0, 2]])
    data = Data(np.zeros((4, D)), y, CLASSES, tuple("pqr"), weight=np.array([1.0, 1, 7, 2]))
    weighted = for_training(data, 0.0, {"ash": 3, "oak": 5, "cedar": 0})
    assert_array_equal(weighted.weight, [2, 2.5, 7, 4])


def test_weights_of_samples_and_of_classes_multiply():
    weight = np.random.default_rng(3).uniform(0.1, 2, size=N)
    data = replace(sample(), weight=weight)
    assert_array_equal(for_training(data, 0, {"ash": 2}).weight, weight * np.where(data.y == 0, 2, 1))


@pytest.mark.parametrize("weighted", [False, True])
def test_balanced_is_that_of_scikit_learn(weighted):
    data = sample()
    weight = np.random.default_rng(3).integers(1, 4, size=N).astype(float) if weighted else None
    # Sample weights count as repeated rows, and for scikit-learn they are repeated.
    labels = np.repeat(data.y, weight.astype(int)) if weighted else data.y
    c = compute_class_weight("balanced", classes=np.arange(K), y=labels)
    ours = for_training(replace(data, weight=weight), 0.0, "balanced").weight
    assert_allclose(ours, c[data.y] * (weight if weighted else 1), rtol=1e-14)


def test_balanced_gives_the_classes_that_occur_equal_shares():
    data = sample().rows(sample().y != 2)
    weight = for_training(data, 0.0, "balanced").weight
    shares = np.bincount(data.y, weights=weight, minlength=K)
    assert_allclose(shares, len(data) / 3 * np.array([1, 1, 0, 1]), rtol=1e-13)


def test_classes_that_are_numbers_are_named_by_numbers_or_by_text():
    data = replace(sample(), classes=(1, 2, 3, 4))
    assert_array_equal(for_training(data, 0, {2: 5}).weight, for_training(data, 0, {"2": 5}).weight)
    assert for_training(data, 0, {2: 5}).weight.sum() == N + 4 * (data.y == 1).sum()


def test_a_weight_for_no_class_is_refused_with_the_names():
    with pytest.raises(ConfigError, match=r"for ceder, which .* did you mean cedar\? Classes: ash, birch, cedar, oak"):
        for_training(sample(), 0, {"ceder": 2})


def test_weights_that_leave_nothing_are_refused():
    with pytest.raises(ConfigError, match="leaves every training sample a weight of 0"):
        for_training(sample(), 0, dict.fromkeys(CLASSES, 0))


def test_a_batch_that_weighs_nothing_has_a_zero_loss_and_moves_nothing():
    problem = Problem(CE, replace(sample(), weight=np.zeros(N)))
    value, grad = problem.value_and_grad(parameters())
    assert value == 0
    assert_array_equal(grad, 0)


@pytest.mark.parametrize("class_weight", [None, "balanced", {"ash": 0.3, "oak": 4}], ids=str)
@pytest.mark.parametrize("weighted", [False, True])
def test_the_optimum_of_logistic_regression_is_ours(class_weight, weighted):
    weight = np.random.default_rng(4).uniform(0.1, 3, size=N) if weighted else None
    data = for_training(replace(sample(), weight=weight), 0.0, class_weight)
    total = N if data.weight is None else data.weight.sum()
    named = {CLASSES.index(k): v for k, v in class_weight.items()} if isinstance(class_weight, dict) else class_weight
    peer = LogisticRegression(
        C=1 / (STRENGTH * total), class_weight=named, solver="newton-cg", tol=1e-12, max_iter=1000
    ).fit(data.x, data.y, sample_weight=weight)
    w = np.vstack([peer.coef_.T, peer.intercept_])
    assert np.abs(Problem(replace(CE, penalty=L2(STRENGTH)), data).value_and_grad(w)[1]).max() < 1e-6


def test_the_reduction_over_rows_has_the_optimum_of_its_formula():
    weight = np.random.default_rng(4).uniform(0.1, 3, size=N)
    data = replace(sample(), weight=weight)
    peer = LogisticRegression(C=1 / (STRENGTH * N), solver="newton-cg", tol=1e-12, max_iter=1000)
    peer.fit(data.x, data.y, sample_weight=weight)
    w = np.vstack([peer.coef_.T, peer.intercept_])
    objective = replace(CE, penalty=L2(STRENGTH), reduction="rows")
    assert np.abs(Problem(objective, data).value_and_grad(w)[1]).max() < 1e-6


def test_multi_hot_rows_are_as_many_binary_logistic_regressions():
    rng = np.random.default_rng(5)
    weight, y = rng.uniform(0.1, 3, size=N), targets("multi-hot", N, K)
    data = replace(sample(y), weight=weight)
    peers = [
        LogisticRegression(C=1 / (STRENGTH * weight.sum()), solver="newton-cg", tol=1e-12, max_iter=1000).fit(
            data.x, y[:, k], sample_weight=weight
        )
        for k in range(K)
    ]
    w = np.vstack([np.vstack([peer.coef_ for peer in peers]).T, np.hstack([peer.intercept_ for peer in peers])])
    objective = Objective(Sigmoid(), BinaryCrossEntropy(), auto, L2(STRENGTH))
    assert np.abs(Problem(objective, data).value_and_grad(w)[1]).max() < 1e-6


def test_smooth_labels_train_as_rows_that_were_smoothed_by_hand(pair):
    labels, w = sample(), parameters()
    objective = Objective(*pair, auto, NoPenalty())
    for epsilon in (0.1, 0.75):
        y = (1 - epsilon) * np.eye(K)[labels.y] + epsilon / K
        smooth = for_training(labels, epsilon, None)
        assert smooth.y is labels.y  # labels stay labels in memory
        one, other = (Problem(objective, data).value_and_grad(w) for data in (smooth, sample(y)))
        assert one[0] == other[0], epsilon
        assert_array_equal(one[1], other[1], err_msg=str(epsilon))


def test_smoothing_goes_with_the_batches():
    y = 0.9 * np.eye(K)[sample().y] + 0.1 / K
    runs = [
        list(fit(CE, Sgd(), data, sample(), TrainState.start(Sgd(), data), epochs=3, batch_size=32))
        for data in (for_training(sample(), 0.1, None), sample(y))
    ]
    assert [report.metrics["loss"] for report in runs[0]] == [report.metrics["loss"] for report in runs[1]]
    assert_array_equal(runs[0][-1].state.w, runs[1][-1].state.w)


def test_the_loss_is_on_smooth_targets_and_the_metrics_are_on_plain_ones():
    smooth, w = for_training(sample(), 0.2, None), parameters()
    one, other = Problem(CE, smooth).evaluate(w, METRICS), Problem(CE, sample()).evaluate(w, METRICS)
    assert one.metrics == other.metrics
    assert_allclose(one.loss, Problem(CE, smooth).value_and_grad(w)[0], rtol=1e-14)
    assert one.loss != other.loss


@pytest.mark.parametrize("kind", ["one-hot", "soft", "multi-hot", "unlabelled", "weighted"])
def test_smoothing_keeps_the_sum_of_a_row_and_spreads_its_share(kind):
    y = targets(kind, N, K)
    smooth = for_training(sample(y), 0.3, None).targets(np.float64)
    assert_allclose(smooth.sum(axis=1), y.sum(axis=1), rtol=1e-14)
    assert_allclose(smooth, 0.7 * y + 0.3 * y.mean(axis=1, keepdims=True), rtol=1e-14)
    assert smooth.max() <= max(1, y.max())  # a target of bce stays one
    assert smooth.flags.f_contiguous


def test_a_class_that_is_not_the_label_gets_epsilon_over_k():
    smooth = for_training(sample(), 0.2, None)
    rows = smooth.targets(np.float32)
    assert rows.dtype == np.float32
    assert_allclose(rows[np.eye(K)[smooth.y] == 0], 0.2 / K, rtol=1e-6)


@pytest.mark.parametrize("class_weight", [None, {"ash": 3, "cedar": 0.5}], ids=["plain", "weighted"])
def test_smoothing_has_the_optimum_of_logistic_regression_on_repeated_rows(class_weight):
    smooth = for_training(sample(), 0.2, class_weight)
    weight = np.ones(N) if smooth.weight is None else smooth.weight
    rows = one_row_a_target(smooth, weight[:, None] * smooth.targets(np.float64))
    peer = LogisticRegression(C=1 / (STRENGTH * weight.sum()), solver="newton-cg", tol=1e-12, max_iter=1000)
    peer.fit(rows.x, rows.y, sample_weight=rows.weight)
    w = np.vstack([peer.coef_.T, peer.intercept_])
    assert np.abs(Problem(replace(CE, penalty=L2(STRENGTH)), smooth).value_and_grad(w)[1]).max() < 1e-6


@pytest.mark.parametrize("class_weight", [None, "balanced", {"ash": 3}], ids=str)
def test_unlabelled_rows_give_no_gradient_with_ce(class_weight):
    y = np.eye(K)[sample().y]
    y[::3] = 0
    kept = np.arange(N) % 3 > 0
    objective, w = replace(CE, reduction="rows"), parameters()
    every = for_training(sample(y), 0.1, class_weight)
    labelled = for_training(sample(y).rows(kept), 0.1, class_weight)
    assert_array_equal(Problem(objective, every.rows(~kept)).value_and_grad(w)[1], 0)
    grads = [len(data) * Problem(objective, data).value_and_grad(w)[1] for data in (every, labelled)]
    assert_allclose(*grads, rtol=1e-11, atol=1e-13)


def test_float32_stays_float32_and_near_float64():
    data, w = for_training(sample(), 0.1, "balanced"), parameters()
    single = replace(data, x=data.x.astype(np.float32))
    value, grad = Problem(CE, single).value_and_grad(w.astype(np.float32))
    assert grad.dtype == np.float32
    assert_allclose(value, Problem(CE, data).value_and_grad(w)[0], rtol=1e-6)
    assert_allclose(grad, Problem(CE, data).value_and_grad(w)[1], atol=1e-6)


@pytest.mark.parametrize("reduction", ["weights", "rows"])
def test_weights_and_smoothing_in_blocks_give_the_same_bits_on_any_threads(reduction):
    rng = np.random.default_rng(0)
    big = Data(rng.normal(size=(140_001, D)), rng.integers(K, size=140_001), CLASSES, tuple("pqr"))
    data, w = for_training(big, 0.1, {"ash": 3, "oak": 0}), parameters()
    objectives = [Problem(replace(CE, threads=threads, reduction=reduction), data) for threads in (1, 2, 4)]
    with blas_on_one_thread():
        one, *others = ((*problem.value_and_grad(w), problem.evaluate(w, METRICS)) for problem in objectives)
    for other in others:
        assert (other[0], other[2]) == (one[0], one[2])
        assert_array_equal(other[1], one[1])
    assert_allclose(one[2].loss, one[0], rtol=1e-13)


def test_nothing_asked_for_changes_nothing():
    data = sample()
    assert for_training(data, 0.0, None) == data
    assert_array_equal(for_training(data, 0.0, {}).weight, 1)
