import numpy as np
import pytest
from numpy.testing import assert_allclose

from tests.conftest import ACTIVATIONS
from trainer.chain.activations import (
    Entmax,
    LogSoftmax,
    Sigmoid,
    Softmax,
    Sparsemax,
)
from trainer.chain.activations.softmax import softmax_three_ways
from trainer.chain.known import has
from trainer.errors import ConfigError

SIMPLEX = [a for a in ACTIVATIONS if "simplex" in a.range and a.range != "log_simplex"]
INVARIANT = [a for a in SIMPLEX if isinstance(a, Softmax | Sparsemax | Entmax)]
WITH_LOG = [a for a in ACTIVATIONS if has(a, "log", "log_vjp")]


def test_jacobian_is_the_derivative_of_the_activation(activation, z):
    step = 1e-6
    for k in range(z.shape[1]):
        shift = step * np.eye(z.shape[1])[k]
        difference = (activation(z + shift) - activation(z - shift)) / (2 * step)
        assert_allclose(activation.jacobian(z, activation(z))[:, :, k], difference, atol=1e-9)


def test_vjp_sums_the_jacobian_over_its_first_class_index(activation, z):
    g = np.random.default_rng(2).normal(size=z.shape)
    a = activation(z)
    expected = np.einsum("nj,njk->nk", g, activation.jacobian(z, a))
    assert_allclose(activation.vjp(z, a, g), expected, rtol=1e-12, atol=1e-14)


def test_log_softmax_tells_the_two_class_indices_apart(z):
    g = np.random.default_rng(2).normal(size=z.shape)
    jacobian = LogSoftmax().jacobian(z, LogSoftmax()(z))
    wrong_index = np.einsum("nk,njk->nj", g, jacobian)
    assert np.abs(LogSoftmax().vjp(z, LogSoftmax()(z), g) - wrong_index).max() > 0.1


@pytest.mark.parametrize("activation", SIMPLEX, ids=repr)
def test_simplex_activations_give_rows_that_sum_to_one_and_derivatives_that_sum_to_zero(activation, z):
    a = activation(z)
    assert (a >= 0).all() if activation.range == "sparse_simplex" else (a > 0).all()
    assert_allclose(a.sum(axis=1), 1, rtol=1e-15)
    assert_allclose(activation.jacobian(z, a).sum(axis=1), 0, atol=1e-14)


@pytest.mark.parametrize("activation", INVARIANT, ids=repr)
def test_softmax_sparsemax_and_entmax_do_not_change_when_a_row_is_shifted(activation, z):
    assert_allclose(activation(z + np.arange(7)[:, None]), activation(z), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("activation", WITH_LOG, ids=repr)
def test_log_is_the_logarithm_of_the_activation(activation, z):
    assert_allclose(activation.log(z), np.log(activation(z)), rtol=1e-13)


@pytest.mark.parametrize("activation", WITH_LOG, ids=repr)
def test_log_vjp_pulls_h_back_as_vjp_pulls_back_h_over_a(activation, z):
    h = np.random.default_rng(2).normal(size=z.shape)
    a = activation(z)
    assert_allclose(activation.log_vjp(z, h), activation.vjp(z, a, h / a), rtol=1e-11, atol=1e-14)


def test_each_row_of_softmax_is_shifted_by_its_own_maximum():
    a = Softmax()(np.array([[0.0, 1, 2], [1000, 1001, 1002]]))
    assert_allclose(a[0], a[1], rtol=1e-15)


def test_sigmoid_keeps_its_small_side_and_its_slope():
    z = np.array([[-745.0, 40.0, 800.0]])
    assert_allclose(Sigmoid()(z), [[5e-324, 1.0, 1.0]])
    slope = Sigmoid().vjp(z, Sigmoid()(z), np.ones_like(z))
    assert_allclose(slope[0, :2], [5e-324, 4.248354255291589e-18], rtol=1e-15)


def test_complement_of_softmax_keeps_what_rounding_to_one_would_lose():
    _, a, rest = softmax_three_ways(np.array([[37.0, 0, 0], [1, 1, 1]]))
    assert_allclose(rest[0], [1.706609525148813e-16, 1, 1], rtol=1e-15)
    assert_allclose(a + rest, 1, rtol=1e-15)


@pytest.mark.parametrize("temperature", [0.0, -1.0, np.nan, np.inf])
def test_temperature_must_be_finite_and_positive(temperature):
    with pytest.raises(ConfigError, match=r"activation\.temperature must be finite and greater than 0"):
        Softmax(temperature)


@pytest.mark.parametrize("activation", [Softmax(), Softmax(0.5), Softmax(4.0)], ids=repr)
@pytest.mark.parametrize("factor", [1.0, 3.0, np.arange(7.0)[:, None]], ids=["one", "number", "rows"])
def test_the_row_hessian_of_softmax_is_its_jacobian_from_the_prediction_alone(activation, factor, z):
    u, a = np.random.default_rng(4).normal(size=z.shape), activation(z)
    expected = factor * np.einsum("njk,nk->nj", activation.jacobian(z, a), u)
    assert_allclose(activation.row_hessian(a, factor)(u), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("activation", [Softmax(), Softmax(0.5)], ids=repr)
def test_softmax_starts_at_the_scores_that_predict_the_mean(activation):
    mean = np.array([0.5, 0.3, 0.2])
    for total in (1.0, 60.0):
        start = activation.start(total * mean)
        assert_allclose(activation(start[None, :])[0], mean, rtol=1e-14)
        assert_allclose(start.sum(), 0, atol=1e-15)


def test_log_softmax_is_the_logarithm_of_what_it_says(z):
    assert_allclose(LogSoftmax.logarithm_of(z), np.exp(LogSoftmax()(z)), rtol=1e-14)
