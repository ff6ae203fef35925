import re
from dataclasses import dataclass

import numpy as np
import pytest

from tests.conftest import ACTIVATIONS, LOSSES
from trainer.chain.activations import ACTIVATIONS as ACTIVATION_NAMES
from trainer.chain.activations import RANGES, Identity, LogSoftmax, Sigmoid, Softmax
from trainer.chain.fused import FUSED
from trainer.chain.losses import LOSSES as LOSS_NAMES
from trainer.chain.losses import CrossEntropy, FenchelYoung, NegativeLogLikelihood
from trainer.chain.pairs import allowed, canonical, convex, properties
from trainer.chain.strategies import GradientChoice, auto, has_strategy, numeric
from trainer.errors import ConfigError, DataError
from trainer.objective.refusals import check_pair, check_targets, strategy_of


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


@dataclass(frozen=True)
class Half(Softmax):
    """Softmax of half the scores, which takes the derivatives of softmax as they are."""

    def __call__(self, z):
        return Softmax(2.0)(z)


@dataclass(frozen=True)
class WholeHalf(Half):
    """The same with its own derivatives, but without a logarithm of its own."""

    def __call__(self, z):
        return Softmax(2.0)(z)

    def jacobian(self, z, a):
        return Softmax(2.0).jacobian(z, a)

    def vjp(self, z, a, dl_da):
        return Softmax(2.0).vjp(z, a, dl_da)


@dataclass(frozen=True)
class Doubled(CrossEntropy):
    """Twice ce, which takes the derivative of ce as it is."""

    def value(self, a, y):
        return 2 * CrossEntropy().value(a, y)


@dataclass(frozen=True)
class WholeDoubled(CrossEntropy):
    """The same with its own derivative."""

    def value(self, a, y):
        return 2 * CrossEntropy().value(a, y)

    def grad(self, a, y):
        return 2 * CrossEntropy().grad(a, y)


@dataclass(frozen=True)
class Renamed(Softmax):
    """Softmax itself by another name."""

    name = "renamed"


@pytest.mark.parametrize(
    ("pair", "sentence"),
    [
        ((Half(), CrossEntropy()), "Half computes another function than Softmax and takes jacobian and vjp from it"),
        ((Softmax(), Doubled()), "Doubled computes another function than CrossEntropy and takes grad from it"),
    ],
)
def test_a_subclass_that_computes_something_else_must_bring_its_own_derivative(pair, sentence):
    for gradient in ("auto", "vjp", "fused", "log"):
        with pytest.raises(ConfigError, match=sentence):
            check_pair(*pair, gradient)


@pytest.mark.parametrize("pair", [(WholeHalf(), CrossEntropy()), (Softmax(), WholeDoubled())], ids=repr)
def test_a_subclass_that_computes_something_else_gets_no_formula_and_no_claim_of_its_parent(pair, z):
    y = np.eye(4)[[0, 1, 2, 3, 0, 1, 2]]
    assert check_pair(*pair, "auto") == "vjp"
    np.testing.assert_allclose(auto(*pair, z, y).dl_dz, numeric(*pair, z, y).dl_dz, rtol=1e-6, atol=2e-9)
    assert not canonical(*pair)
    assert not convex(*pair)
    for gradient in ("fused", "log"):
        assert not has_strategy(gradient, *pair)
        with pytest.raises(ConfigError, match=rf"gradient={gradient} has no formula .*\(of the class Whole"):
            check_pair(*pair, gradient)


def test_a_formula_belongs_to_two_classes_and_to_no_subclass():
    pair = Renamed(), CrossEntropy()
    assert check_pair(*pair, "auto") == "log"
    assert canonical(*pair)
    with pytest.raises(ConfigError, match="gradient=fused has no formula for activation=renamed with loss=ce"):
        check_pair(*pair, "fused")
    with pytest.raises(ConfigError, match="precise=true is a form of fused"):
        strategy_of(*pair, GradientChoice(precise=True))


def test_of_a_part_that_claims_nothing_nothing_is_known():
    class Plain:
        name, range = "plain", "simplex"

    assert properties(Plain(), CrossEntropy()) == ["proper"]  # which ce is behind whatever activation
    assert properties(Plain(), FenchelYoung()) == ["proper", "convex", "canonical"]
