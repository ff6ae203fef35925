import numpy as np
import pytest
from numpy.testing import assert_allclose

from tests.conftest import targets
from trainer.losses import BinaryCrossEntropy, Brier, CrossEntropy, LogLoss, SquaredError


def predictions():
    """Rows in the open simplex, where every loss is defined."""
    return np.random.default_rng(3).dirichlet(np.ones(4), size=7)


@pytest.mark.filterwarnings("ignore:invalid value")
def test_grad_is_the_derivative_of_the_value(loss, y):
    a, step = predictions(), 1e-7
    for k in range(4):
        shift = step * np.eye(4)[k]
        difference = (loss.value(a + shift, y) - loss.value(a - shift, y)) / (2 * step)
        assert_allclose(loss.grad(a, y)[:, k], difference, rtol=1e-5, atol=1e-6)


def test_value_and_grad_are_per_sample(loss, y):
    a = predictions()
    for n in range(7):
        assert_allclose(loss.value(a[n : n + 1], y[n : n + 1]), loss.value(a, y)[n : n + 1], rtol=1e-15)
        assert_allclose(loss.grad(a[n : n + 1], y[n : n + 1]), loss.grad(a, y)[n : n + 1], rtol=1e-15)


def test_the_log_form_is_the_same_loss_with_h_equal_to_a_times_grad(loss, y):
    if not isinstance(loss, LogLoss):
        pytest.skip("stated on a only")
    a = predictions()
    assert_allclose(loss.value_log(np.log(a), y), loss.value(a, y), rtol=1e-12, atol=1e-15)
    assert_allclose(loss.grad_log(np.log(a), y), a * loss.grad(a, y), rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("loss", [CrossEntropy(), BinaryCrossEntropy()], ids=repr)
def test_a_zero_target_costs_nothing_where_the_prediction_is_zero(loss):
    with np.errstate(divide="ignore", invalid="ignore"):
        assert loss.value(np.array([[1.0, 0.0]]), np.array([[1.0, 0.0]])) == 0
        assert loss.grad(np.array([[1.0, 0.0]]), np.array([[1.0, 0.0]]))[0, 1] in (0.0, 1.0)


def test_brier_has_the_factor_one_and_squared_error_one_half():
    a, y = predictions(), targets("soft", 7, 4)
    assert_allclose(Brier().value(a, y), ((a - y) ** 2).sum(axis=1))
    assert_allclose(2 * SquaredError().value(a, y), Brier().value(a, y))
