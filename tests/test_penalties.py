import math

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from trainer.errors import ConfigError
from trainer.objective.penalties import L1, L2, PENALTIES, ElasticNet, NoPenalty, expand, strengths, subgradient
from trainer.runs.schema import build

W = np.array([[1.0, -2.0], [0.0, 0.5], [7.0, -9.0]])  # (D+1,K), the last row the bias
SINGLE = [NoPenalty(), L1(0.3), L2(0.3), ElasticNet(0.3, l1_ratio=0.2)]


@pytest.mark.parametrize("penalty", SINGLE, ids=repr)
def test_the_value_is_half_the_ridge_and_the_lasso_of_the_weights(penalty):
    weights = W[:-1]
    expected = penalty.ridge / 2 * (weights**2).sum() + penalty.lasso * np.abs(weights).sum()
    assert_allclose(penalty.value(W), expected, rtol=1e-15)


@pytest.mark.parametrize("penalty", SINGLE, ids=repr)
def test_the_gradient_is_the_smooth_share_s_and_leaves_the_bias_alone(penalty):
    step, differences = 1e-6, np.zeros_like(W)
    for place in np.ndindex(*W.shape):
        up, down = W.copy(), W.copy()
        up[place] += step
        down[place] -= step
        differences[place] = sum(
            side * (penalty.value(v) - penalty.lasso * np.abs(v[:-1]).sum()) for side, v in ((1, up), (-1, down))
        ) / (2 * step)
    assert_allclose(penalty.grad(W), differences, atol=1e-9)
    assert_array_equal(penalty.grad(W)[-1], 0)


def test_the_ends_of_the_elastic_net_are_l1_and_l2():
    for ratio, other in ((0.0, L2(0.3)), (1.0, L1(0.3))):
        net = ElasticNet(0.3, l1_ratio=ratio)
        assert (net.ridge, net.lasso, net.value(W)) == (other.ridge, other.lasso, other.value(W))
        assert_array_equal(net.grad(W), other.grad(W))


@pytest.mark.parametrize("penalty", SINGLE, ids=repr)
def test_the_sums_are_in_float64_and_the_gradient_in_the_parameters_own_type(penalty):
    single = W.astype(np.float32)
    assert penalty.value(single) == penalty.value(W)
    assert penalty.grad(single).dtype == np.float32


def test_the_subgradient_is_the_smallest_of_all():
    g = np.array([[0.5, -0.1], [0.2, 0.4], [1.0, 2.0]])
    expected = [[0.8, -0.4], [0.0, 0.7], [1.0, 2.0]]
    assert_allclose(subgradient(W, g, 0.3), expected)
    assert subgradient(W, g, 0.0) is g


def test_a_list_of_strengths_is_a_path_from_the_strongest():
    net = ElasticNet([0.1, 2, 0.5], l1_ratio=0.7)
    assert strengths(net) == [0.1, 2.0, 0.5]
    assert expand(net) == [ElasticNet(strength, l1_ratio=0.7) for strength in (2, 0.5, 0.1)]
    for single in SINGLE:
        assert strengths(single) is None
        assert expand(single) == [single]
    with pytest.raises(TypeError, match="no part of an objective"):
        net.value(W)


@pytest.mark.parametrize("cls", [L1, L2, ElasticNet])
@pytest.mark.parametrize(
    ("strength", "words"),
    [
        (-1.0, r"penalty\.strength must be finite and at least 0, got -1\.0"),
        (math.inf, "finite"),
        (math.nan, "finite"),
        ([], r"penalty\.strength=\[\] is a path without any strength"),
        ([1.0, -0.5], r"at least 0 all along the path, got -0\.5"),
        ([1.0, "a"], "all along the path, got 'a'"),
        ([1.0, True], "all along the path, got True"),
        ([1.0, math.nan], "all along the path, got nan"),
        ([1.0, 0.5, 1], "has 1.0 2 times; leave the repetitions out"),
    ],
)
def test_strengths_are_checked(cls, strength, words):
    with pytest.raises(ConfigError, match=words):
        cls(strength)


@pytest.mark.parametrize("ratio", [-0.1, 1.1, math.nan])
def test_the_share_of_l1_is_checked(ratio):
    with pytest.raises(ConfigError, match=r"penalty\.l1_ratio must be at least 0"):
        ElasticNet(l1_ratio=ratio)


def test_an_integer_stands_for_a_float_and_a_word_for_neither():
    assert repr(build("penalty", PENALTIES, {"name": "l1", "strength": 1})) == "L1(strength=1.0)"
    assert build("penalty", PENALTIES, {"name": "l1", "strength": [1, 0.5]}) == L1([1, 0.5])
    for wrong in ("0.1", True, None):
        with pytest.raises(ConfigError, match=r"penalty\.strength must be of type float \| list\[float\], got"):
            build("penalty", PENALTIES, {"name": "l1", "strength": wrong})
