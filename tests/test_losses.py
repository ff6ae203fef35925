from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from numpy.testing import assert_allclose

from tests.conftest import ACTIVATIONS, LOSSES, stated, targets
from trainer.chain.activations import Entmax, Spherical
from trainer.chain.known import has
from trainer.chain.losses import (
    BinaryCrossEntropy,
    Brier,
    CrammerSinger,
    CrossEntropy,
    Focal,
    GeneralizedCrossEntropy,
    KullbackLeibler,
    MeanAbsoluteError,
    ModifiedHuber,
    Poly1,
    SphericalScore,
    SquaredError,
    SquaredHinge,
    Tsallis,
    WestonWatkins,
    ZLoss,
)
from trainer.errors import ConfigError


def predictions():
    """Rows in the open simplex, where every loss is defined."""
    return np.random.default_rng(3).dirichlet(np.ones(4), size=7)


@pytest.mark.filterwarnings("ignore:invalid value")
def test_grad_is_the_derivative_of_the_value(loss):
    a, step = predictions(), 1e-7
    for kind, y in stated(loss):
        for k in range(4):
            shift = step * np.eye(4)[k]
            difference = (loss.value(a + shift, y) - loss.value(a - shift, y)) / (2 * step)
            assert_allclose(loss.grad(a, y)[:, k], difference, rtol=1e-5, atol=1e-6, err_msg=kind)


def test_value_and_grad_are_per_sample(loss):
    a = predictions()
    for kind, y in stated(loss):
        value, grad = loss.value(a, y), loss.grad(a, y)
        for n in range(7):
            row = slice(n, n + 1)
            assert_allclose(loss.value(a[row], y[row]), value[row], rtol=1e-15, err_msg=kind)
            assert_allclose(loss.grad(a[row], y[row]), grad[row], rtol=1e-15, err_msg=kind)


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if has(loss, "value_log", "grad_log")], ids=repr)
def test_the_log_form_is_the_same_loss_with_h_equal_to_a_times_grad_up_to_a_multiple_of_a(loss):
    a = predictions()
    for kind, y in stated(loss):
        assert_allclose(loss.value_log(np.log(a), y), loss.value(a, y), rtol=1e-12, atol=1e-15, err_msg=kind)
        h, chained = loss.grad_log(np.log(a), y), a * loss.grad(a, y)
        multiple = (h - chained).sum(axis=1, keepdims=True)  # as the rows of a sum to one
        assert_allclose(h, chained + multiple * a, rtol=1e-11, atol=1e-14, err_msg=kind)


@pytest.mark.parametrize("loss", [CrossEntropy(), BinaryCrossEntropy()], ids=repr)
def test_a_zero_target_costs_nothing_where_the_prediction_is_zero(loss):
    with np.errstate(divide="ignore", invalid="ignore"):
        assert loss.value(np.array([[1.0, 0.0]]), np.array([[1.0, 0.0]])) == 0
        assert loss.grad(np.array([[1.0, 0.0]]), np.array([[1.0, 0.0]]))[0, 1] in (0.0, 1.0)


def test_brier_has_the_factor_one_and_squared_error_one_half():
    a, y = predictions(), targets("soft", 7, 4)
    assert_allclose(Brier().value(a, y), ((a - y) ** 2).sum(axis=1))
    assert_allclose(2 * SquaredError().value(a, y), Brier().value(a, y))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Focal(gamma=-0.1), r"loss\.gamma must be finite and at least 0, got -0\.1"),
        (lambda: Focal(gamma=np.inf), r"loss\.gamma"),
        (lambda: Poly1(epsilon=-1.01), r"loss\.epsilon must be finite and at least -1, got -1\.01"),
        (lambda: Poly1(epsilon=np.nan), r"loss\.epsilon"),
        (lambda: GeneralizedCrossEntropy(q=0.0), r"loss\.q must be greater than 0 and at most 1, got 0"),
        (lambda: GeneralizedCrossEntropy(q=1.01), r"loss\.q"),
        (lambda: Tsallis(alpha=1.0), r"loss\.alpha must be finite and greater than 1, got 1"),
        (lambda: Tsallis(alpha=np.inf), r"loss\.alpha"),
        (lambda: ZLoss(weight=-1.0), r"loss\.weight must be finite and at least 0, got -1"),
        (lambda: Entmax(alpha=0.99), r"activation\.alpha must be finite and at least 1, got 0\.99"),
        (lambda: Spherical(epsilon=0.0), r"activation\.epsilon must be finite and greater than 0, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(make, words):
    with pytest.raises(ConfigError, match=words):
        make()


@pytest.mark.parametrize(
    "part", [Focal(gamma=0.0), Poly1(epsilon=-1.0), GeneralizedCrossEntropy(q=1.0), ZLoss(weight=0.0)]
)
def test_the_ends_of_a_closed_range_belong_to_it(part):
    assert np.isfinite(part.value(predictions(), targets("one-hot", 7, 4))).all()


@pytest.mark.parametrize("part", ACTIVATIONS + LOSSES, ids=repr)
def test_parts_cannot_be_changed_after_their_checks(part):
    with pytest.raises(FrozenInstanceError):
        part.name = "other"


def test_the_documented_values_of_the_losses_on_one_row():
    a, y = np.array([[0.7, 0.2, 0.1]]), np.array([[0.0, 1.0, 0.0]])
    expected = {
        CrossEntropy(): -np.log(0.2),
        KullbackLeibler(): -np.log(0.2),
        BinaryCrossEntropy(): -np.log(0.2) - np.log(0.3) - np.log(0.9),
        Brier(): 0.49 + 0.64 + 0.01,
        SquaredError(): 0.57,
        MeanAbsoluteError(): 1.6,
        Focal(gamma=2.0): -0.64 * np.log(0.2),
        Poly1(epsilon=1.0): -np.log(0.2) + 0.8,
        GeneralizedCrossEntropy(q=0.5): 2 * (1 - np.sqrt(0.2)),
        Tsallis(alpha=2.0): 0.57,
        SphericalScore(): 1 - 0.2 / np.sqrt(0.54),
        CrammerSinger(): 1.5,
        WestonWatkins(): 1.5 + 0.9,
        SquaredHinge(): 1.7**2 + 0.8**2 + 1.1**2,
        ModifiedHuber(): 1.7**2 + 0.8**2 + 1.1**2,
    }
    for loss, value in expected.items():
        assert_allclose(loss.value(a, y), [value], rtol=1e-14, err_msg=repr(loss))
    assert_allclose(ModifiedHuber().value(np.array([[3.0]]), np.array([[0.0]])), [12])
