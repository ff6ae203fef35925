import array_api_strict
import numpy as np
import pytest
import sklearn.metrics as peer
from numpy.testing import assert_allclose, assert_array_equal

from trainer.chain.activations import ACTIVATIONS, Identity, LogSoftmax, Sigmoid, Softmax
from trainer.chain.losses import CrossEntropy
from trainer.chain.strategies import auto
from trainer.data.rows import Data
from trainer.errors import ConfigError
from trainer.objective.metrics import (
    METRICS,
    CalibrationError,
    TopK,
    accuracy,
    brier,
    choose_metrics,
    log_loss,
    sparsity,
)
from trainer.objective.objective import Objective
from trainer.objective.penalties import NoPenalty
from trainer.objective.problem import Problem

N, K = 500, 6


def predictions(seed=0, concentration=0.5):
    """Probabilities (N,K) and labels (N,) that they are right about now and then."""
    rng = np.random.default_rng(seed)
    a = rng.dirichlet(np.full(K, concentration), size=N)
    guesses = np.array([rng.choice(K, p=row) for row in a])
    return a, np.where(rng.random(N) < 0.5, guesses, rng.integers(K, size=N))


def measured(name, a, y):
    """A metric as the objective makes it: finish(means of the statistics)."""
    metric = METRICS[name]
    return metric.finish(np.atleast_1d(metric.statistics(a, y).mean(axis=0)))


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_needs_nothing_beyond_the_standard_of_arrays_and_stays_on_its_device(name):
    a, labels = predictions()
    y = np.eye(K)[labels]
    device = array_api_strict.Device("device1")  # what is made on another device cannot be combined with it
    strict = METRICS[name].statistics(*(array_api_strict.asarray(part, device=device) for part in (a, y)))
    back = np.asarray(strict.to_device(array_api_strict.Device("CPU_DEVICE")))
    assert_allclose(back, METRICS[name].statistics(a, y), rtol=1e-13)


def test_accuracy_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    a, labels = rng.dirichlet(np.ones(4), size=50), rng.integers(4, size=50)
    assert accuracy(a, np.eye(4)[labels]).mean() == peer.accuracy_score(labels, a.argmax(axis=1))


def test_a_prediction_among_several_targets_is_right():
    a = np.array([[0.5, 0.3, 0.2], [0.2, 0.3, 0.5]])
    assert_array_equal(accuracy(a, np.array([[1.0, 1, 0], [1, 1, 0]])), [1, 0])


def test_a_prediction_of_the_largest_soft_target_is_right():
    assert_array_equal(
        accuracy(np.array([[0.5, 0.3, 0.2]] * 2), np.array([[0.4, 0.35, 0.25], [0.3, 0.4, 0.3]])), [1, 0]
    )


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_top_k_is_that_of_scikit_learn(k):
    a, labels = predictions()
    expected = peer.top_k_accuracy_score(labels, a, k=k, labels=range(K))
    assert TopK(k)(a, np.eye(K)[labels]).mean() == pytest.approx(expected, rel=1e-14)


def test_top_one_is_the_accuracy_also_where_predictions_are_equal():
    y = np.eye(K)[predictions()[1]]
    a = np.round(predictions()[0], 1)
    assert_array_equal(TopK(1)(a, y), accuracy(a, y))
    assert TopK(1)(np.zeros((N, K)), y).mean() == y[:, 0].mean()


def test_top_k_of_no_more_than_k_classes_is_always_right():
    assert_array_equal(TopK(3)(np.zeros((3, 3)), np.eye(3)), 1)


def test_log_loss_is_that_of_scikit_learn():
    a, labels = predictions(concentration=2)
    assert_allclose(measured("log_loss", a, np.eye(K)[labels]), peer.log_loss(labels, a, labels=range(K)), rtol=1e-13)


def test_log_loss_of_a_row_is_the_mean_over_its_targets():
    a = np.array([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25], [0.5, 0.5, 0]])
    y = np.array([[1.0, 1, 0], [0, 0, 3], [0, 0, 0]])
    assert_allclose(log_loss(a, y), [np.log(8) / 2, np.log(4), 0], rtol=1e-15)


def test_log_loss_is_infinite_where_a_target_has_no_probability_and_nowhere_else():
    a = np.array([[1.0, 0.0], [1.0, 0.0]])
    with np.errstate(divide="ignore"):
        assert_array_equal(log_loss(a, np.eye(2)), [0, np.inf])


def test_brier_is_that_of_scikit_learn():
    a, labels = predictions()
    expected = peer.brier_score_loss(labels, a, labels=range(K), scale_by_half=False)
    assert_allclose(measured("brier", a, np.eye(K)[labels]), expected, rtol=1e-13)
    assert_allclose(brier(np.eye(2), 1 - np.eye(2)), 2)


def calibration_error(confidence, hits, bins):
    """Guo et al. 2017, eq. 3, bin by bin."""
    total = 0.0
    for m in range(bins):
        inside = [n for n, c in enumerate(confidence) if m / bins < c <= (m + 1) / bins or (m == 0 and c == 0)]
        if inside:
            gap = np.mean([hits[n] for n in inside]) - np.mean([confidence[n] for n in inside])
            total += len(inside) / len(confidence) * abs(gap)
    return total


@pytest.mark.parametrize("concentration", [0.1, 1, 5])
def test_ece_is_that_of_a_loop_over_the_bins(concentration):
    a, labels = predictions(concentration=concentration)
    expected = calibration_error(a.max(axis=1), a.argmax(axis=1) == labels, 15)
    assert_allclose(measured("ece", a, np.eye(K)[labels]), expected, rtol=1e-12)
    assert expected > 0.01


def test_ece_is_zero_for_what_is_always_sure_and_right_and_one_for_always_wrong():
    assert measured("ece", np.eye(K), np.eye(K)) == 0
    assert measured("ece", np.eye(K), np.roll(np.eye(K), 1, axis=0)) == 1


def test_ece_lets_gaps_cancel_within_a_bin_only():
    a = np.array([[0.8, 0.2]] * 5 + [[0.55, 0.45]] * 2)
    y = np.eye(2)[[0, 0, 0, 0, 1, 0, 0]]
    assert_allclose(measured("ece", a, y), 2 / 7 * 0.45, rtol=1e-13)


def test_every_confidence_has_a_bin_and_its_upper_end_belongs_to_it():
    a = np.array([[0.0], [0.5], [0.50001], [1.0], [np.nan]])
    used = CalibrationError(bins=2)(a, np.zeros_like(a)) != 0
    assert_array_equal(used, [[True, False], [True, False], [False, True], [False, False], [True, True]])


def test_sparsity_is_the_share_of_exact_zeros():
    assert_array_equal(sparsity(np.array([[0.5, 0.5, 0, 0], [1e-300, 1, 0, 0]]), np.zeros((2, 4))), [0.5, 0.5])


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_keeps_the_dtype_and_does_not_depend_on_the_memory_order(name):
    a, labels = predictions()
    y = np.eye(K)[labels]
    statistics = METRICS[name].statistics
    assert statistics(a.astype(np.float32), y.astype(np.float32)).dtype == np.float32
    assert_allclose(statistics(np.asfortranarray(a), np.asfortranarray(y)), statistics(a, y), rtol=1e-14)


@pytest.mark.parametrize("name", METRICS)
def test_the_objective_weighs_every_metric_and_leaves_out_rows_without_a_target(name):
    rng = np.random.default_rng(1)
    x, labels, w = rng.normal(size=(N, 3)), rng.integers(K, size=N), rng.normal(size=(4, K))
    weight, chosen = rng.integers(3, size=N), {name: METRICS[name]}
    y = np.eye(K)[labels]
    y[weight == 1] = 0
    objective = Objective(Softmax(), CrossEntropy(), auto, NoPenalty())
    data = Data(x, y, tuple(range(K)), tuple("abc"), weight=weight.astype(float))
    a = Softmax()(x @ w[:-1] + w[-1])
    assert_allclose(
        Problem(objective, data).evaluate(w, chosen).metrics[name],
        measured(name, a[weight == 2], y[weight == 2]),
        rtol=1e-12,
    )
    assert np.isnan(Problem(objective, data.rows(weight == 1)).evaluate(w, chosen).metrics[name])


def test_a_row_that_weighs_nothing_does_not_count_also_where_its_number_is_infinite():
    w = np.array([[2000.0, 0.0], [0.0, 0.0]])
    data = Data(np.ones((2, 1)), np.array([0, 1]), (0, 1), ("p",), weight=np.array([1.0, 0.0]))
    objective, chosen = Objective(Softmax(), CrossEntropy(), auto, NoPenalty()), {"log_loss": METRICS["log_loss"]}
    assert Problem(objective, data).evaluate(w, chosen).metrics == {"log_loss": 0.0}
    assert Problem(objective, data.rows(slice(1, 2))).evaluate(w, {}).metrics == {}
    both = Data(data.x, data.y, data.classes, data.features)
    assert Problem(objective, both).evaluate(w, chosen).metrics == {"log_loss": np.inf}


def test_metrics_are_chosen_by_name_and_in_order():
    assert list(choose_metrics(["ece", "accuracy"], Softmax())) == ["ece", "accuracy"]
    assert choose_metrics([], Softmax()) == {}


@pytest.mark.parametrize(
    ("names", "activation", "words"),
    [
        (
            ["acuracy"],
            Softmax(),
            r"metrics=acuracy is not known; did you mean accuracy\? Choices: accuracy, brier, ece",
        ),
        ([3], Softmax(), "metrics=3 is not known"),
        (["ece", "ece"], Softmax(), "metrics=ece is listed twice"),
        (["ece"], Identity(), "needs probabilities, and identity gives any real numbers.*activations softmax, sigmoid"),
        (["brier"], LogSoftmax(), "needs probabilities, and log_softmax gives logarithms of probabilities"),
        (["log_loss"], Sigmoid(), "needs probabilities that sum to one, and sigmoid gives K independent numbers"),
    ],
)
def test_a_metric_that_cannot_be_measured_is_a_sentence(names, activation, words):
    with pytest.raises(ConfigError, match=words):
        choose_metrics(names, activation)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_what_is_read_as_a_probability_is_between_zero_and_one(name):
    a = ACTIVATIONS[name]()(np.random.default_rng(0).normal(scale=3, size=(N, K)))
    inside = bool((a >= 0).all() and (a <= 1 + 1e-12).all())
    fits = {metric: ACTIVATIONS[name].range in METRICS[metric].accepts for metric in METRICS}
    assert fits["ece"] == fits["brier"] == inside
    assert fits["log_loss"] == (inside and np.allclose(a.sum(axis=1), 1))
    assert [fits[metric] for metric in ("accuracy", "top_k", "sparsity")] == [True] * 3
