"""gradient.compiled=true: the same numbers as numpy's form, to 1e-12, in one compiled loop."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from tests.conftest import KINDS, targets
from trainer.activations import Softmax
from trainer.arrays import one_hot
from trainer.errors import ConfigError
from trainer.gradients import GradientChoice, fused
from trainer.losses import Brier, CrossEntropy
from trainer.pairs import strategy_of

pytest.importorskip("numba", reason="the extra fast is not installed")
COMPILED = GradientChoice("auto", compiled=True)
PAIR = (Softmax(), CrossEntropy())


@pytest.mark.parametrize("scale", [1.0, 50.0, 1000.0])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_every_number_is_that_of_numpys_form(scale, temperature):
    pair = (Softmax(temperature), CrossEntropy())
    rng = np.random.default_rng(0)
    z, labels = rng.normal(scale=scale, size=(1000, 7)), rng.integers(7, size=1000)  # no multiple of a strip
    ours = strategy_of(*pair, COMPILED)[1](*pair, z, labels)
    for y in (labels, one_hot(labels, 7, float)):
        assert_allclose(ours.loss, fused(*pair, z, y).loss, rtol=1e-12, atol=1e-300)
        assert_allclose(ours.dl_dz, fused(*pair, z, y).dl_dz, rtol=1e-12, atol=1e-300)


@pytest.mark.parametrize("kind", KINDS["any"])
def test_rows_are_left_to_numpys_form(kind):
    z, y = np.random.default_rng(0).normal(size=(100, 4)), targets(kind, 100, 4)
    for ours, reference in zip(strategy_of(*PAIR, COMPILED)[1](*PAIR, z, y), fused(*PAIR, z, y), strict=True):
        assert_array_equal(ours, reference)


@pytest.mark.parametrize("rows", [1, 255, 256, 257])
def test_any_number_of_rows_and_either_layout_will_do(rows):
    rng = np.random.default_rng(1)
    z, labels = rng.normal(size=(rows, 3)), rng.integers(3, size=rows).astype(np.uint8)
    expected = fused(*PAIR, z, labels)
    for layout in "CF":
        result = strategy_of(*PAIR, COMPILED)[1](*PAIR, np.asarray(z, order=layout), labels)
        assert_allclose(result.loss, expected.loss, rtol=1e-13)
        assert_allclose(result.dl_dz, expected.dl_dz, rtol=1e-12)


def test_a_masked_class_without_target_changes_nothing():
    z = np.array([[1.0, -np.inf, 0.5]])
    gradient = strategy_of(*PAIR, COMPILED)[1]
    result, without = (gradient(*PAIR, rows, np.array([0])) for rows in (z, z[:, [0, 2]]))
    assert_allclose(result.loss, without.loss, rtol=1e-15)
    assert_allclose(result.dl_dz[:, [0, 2]], without.dl_dz, rtol=1e-13)
    assert abs(result.dl_dz[0, 1]) < 1e-300


def test_float32_keeps_six_digits_at_scores_of_a_thousand():
    rng = np.random.default_rng(0)
    z, labels = rng.uniform(-1000, 1000, size=(200, 6)).astype(np.float32), rng.integers(6, size=200)
    single, double = (strategy_of(*PAIR, COMPILED)[1](*PAIR, scores, labels) for scores in (z, z.astype(float)))
    assert single.dl_dz.dtype == np.float32
    assert_allclose(single.loss, double.loss, rtol=1e-6, atol=1e-6)
    assert_allclose(single.dl_dz, double.dl_dz, rtol=1e-6, atol=1e-6)


def test_other_pairs_strategies_and_two_forms_at_once_are_refused():
    with pytest.raises(ConfigError, match=r"gradient\.compiled=true is a form of fused"):
        strategy_of(Softmax(), Brier(), COMPILED)
    with pytest.raises(ConfigError, match=r"gradient\.compiled=true is a form of fused"):
        strategy_of(*PAIR, replace(COMPILED, name="log"))
    with pytest.raises(ConfigError, match="two forms of fused"):
        strategy_of(*PAIR, replace(COMPILED, precise=True))


def test_without_numba_the_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setattr("trainer.pairs.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs numba.*pip install softmax-trainer\[fast\]"):
        strategy_of(*PAIR, COMPILED)
