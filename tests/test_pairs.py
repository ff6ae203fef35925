import re

import numpy as np
import pytest

from tests.conftest import ACTIVATIONS, LOSSES
from trainer.chain.activations import ACTIVATIONS as ACTIVATION_NAMES
from trainer.chain.activations import RANGES, Identity, LogSoftmax, Sigmoid, Softmax
from trainer.chain.losses import LOSSES as LOSS_NAMES
from trainer.chain.losses import CrossEntropy, NegativeLogLikelihood
from trainer.chain.pairs import allowed, check_pair, check_targets, pairs_with
from trainer.chain.strategies import FUSED, GRADIENTS, has_strategy
from trainer.errors import ConfigError, DataError


def test_every_registered_part_is_in_the_lists_of_the_tests():
    assert {type(a) for a in ACTIVATIONS} == set(ACTIVATION_NAMES.values())
    assert {type(loss) for loss in LOSSES} == set(LOSS_NAMES.values())


def test_every_fused_formula_belongs_to_an_allowed_pair():
    assert all(allowed(*pair) for pair in FUSED)


@pytest.mark.parametrize("activation", ACTIVATION_NAMES.values())
def test_every_activation_has_a_known_range_and_at_least_one_loss(activation):
    assert activation.range in RANGES
    assert any(allowed(activation, loss) for loss in LOSS_NAMES.values())


@pytest.mark.parametrize("loss", LOSS_NAMES.values())
def test_every_loss_accepts_known_ranges_and_has_an_activation(loss):
    assert loss.accepts <= set(RANGES)
    assert any(allowed(activation, loss) for activation in ACTIVATION_NAMES.values())


REFUSED = [(a, loss) for a in ACTIVATION_NAMES.values() for loss in LOSS_NAMES.values() if not allowed(a, loss)]


@pytest.mark.parametrize(("activation", "loss"), REFUSED)
def test_a_refusal_names_the_pair_and_ways_out_that_are_allowed(activation, loss):
    with pytest.raises(ConfigError) as error:
        check_pair(activation(), loss(), "auto")
    sentence = str(error.value)
    assert f"activation={activation.name}" in sentence
    assert f"loss={loss.name}" in sentence
    way_out = re.search(r"Take loss=(.*), or activation=(.*)\.", sentence)
    assert all(allowed(activation, LOSS_NAMES[name]) for name in way_out[1].split(" or "))
    assert all(allowed(ACTIVATION_NAMES[name], loss) for name in way_out[2].split(" or "))


def test_sigmoid_with_ce_is_refused_because_its_rows_do_not_sum_to_one():
    with pytest.raises(ConfigError, match="stated on rows of positive numbers that sum to one"):
        check_pair(Sigmoid(), CrossEntropy(), "auto")


def test_a_strategy_without_a_formula_names_the_pairs_that_have_one():
    with pytest.raises(ConfigError, match=r"gradient=log has no formula .* softmax\+ce.*Use gradient=fused"):
        check_pair(LogSoftmax(), NegativeLogLikelihood(), "log")


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_the_pairs_named_for_a_strategy_have_it(gradient):
    for text in pairs_with(gradient):
        activation, loss = text.split("+")
        assert has_strategy(gradient, ACTIVATION_NAMES[activation](), LOSS_NAMES[loss]())


def test_auto_is_resolved_to_the_strategy_that_runs():
    assert check_pair(Softmax(), CrossEntropy(), "auto") == "fused"
    assert check_pair(Softmax(), CrossEntropy(), "loop") == "loop"
    assert check_pair(Identity(), LOSS_NAMES["squared_error"](), "auto") == "fused"


@pytest.mark.parametrize(
    ("loss", "y", "smoothing"),
    [
        ("crammer_singer", np.array([[0.5, 0.5]]), 0.0),
        ("crammer_singer", np.array([0, 1]), 0.1),
        ("weston_watkins", np.array([[1.0, 1.0]]), 0.0),
        ("fenchel_young", np.array([[0.5, 0.4]]), 0.0),
        ("bce", np.array([[2.0, 0.0]]), 0.0),
    ],
)
def test_targets_that_a_loss_is_not_stated_on_are_refused(loss, y, smoothing):
    with pytest.raises(DataError, match=f"loss={loss} is stated on"):
        check_targets(LOSS_NAMES[loss](), y, smoothing)


@pytest.mark.parametrize(
    ("loss", "y", "smoothing"),
    [
        ("crammer_singer", np.array([0, 1]), 0.0),
        ("crammer_singer", np.eye(3), 0.0),
        ("fenchel_young", np.array([[0.25, 0.75]]), 0.0),
        ("fenchel_young", np.array([0, 1]), 0.1),
        ("bce", np.array([[1.0, 1.0], [0.0, 0.3]]), 0.0),
        ("ce", np.array([[3.0, 1.0], [0.0, 0.0]]), 0.0),
    ],
)
def test_targets_that_a_loss_is_stated_on_are_accepted(loss, y, smoothing):
    check_targets(LOSS_NAMES[loss](), y, smoothing)
