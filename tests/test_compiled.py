"""gradient.compiled=true: the same numbers as numpy's form, to 1e-12, in one compiled loop."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from tests.conftest import KINDS, targets
from trainer.activations import Softmax
from trainer.errors import ConfigError
from trainer.gradients import GradientChoice, fused
from trainer.losses import Brier, CrossEntropy
from trainer.pairs import strategy_of

pytest.importorskip("numba", reason="the extra fast is not installed")
COMPILED = GradientChoice("auto", compiled=True)
PAIR = (Softmax(), CrossEntropy())


@pytest.mark.parametrize("kind", KINDS["any"])
@pytest.mark.parametrize("scale", [1.0, 50.0, 1000.0])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_every_number_is_that_of_numpys_form(kind, scale, temperature):
    pair = (Softmax(temperature), CrossEntropy())
    z = np.random.default_rng(0).normal(scale=scale, size=(1000, 7))  # more rows than a strip, and no multiple of it
    y = targets(kind, 1000, 7)
    ours, reference = strategy_of(*pair, COMPILED)[1](*pair, z, y), fused(*pair, z, y)
    assert_allclose(ours.loss, reference.loss, rtol=1e-12, atol=1e-300)
    # The entries of soft rows are differences, which may vanish.
    assert_allclose(ours.dl_dz, reference.dl_dz, rtol=1e-12, atol=1e-300 if kind in ("one-hot", "weighted") else 1e-15)


@pytest.mark.parametrize("rows", [1, 255, 256, 257])
def test_any_number_of_rows_and_either_layout_will_do(rows):
    z, y = np.random.default_rng(1).normal(size=(rows, 3)), targets("one-hot", rows, 3)
    expected = fused(*PAIR, z, y)
    for layout in "CF":
        result = strategy_of(*PAIR, COMPILED)[1](*PAIR, np.asarray(z, order=layout), np.asarray(y, order=layout))
        assert_allclose(result.loss, expected.loss, rtol=1e-13)
        assert_allclose(result.dl_dz, expected.dl_dz, rtol=1e-12)


def test_a_masked_class_without_target_changes_nothing():
    z, y = np.array([[1.0, -np.inf, 0.5]]), np.array([[1.0, 0.0, 0.0]])
    result, without = (strategy_of(*PAIR, COMPILED)[1](*PAIR, a, b) for a, b in ((z, y), (z[:, [0, 2]], y[:, [0, 2]])))
    assert_allclose(result.loss, without.loss, rtol=1e-15)
    assert_allclose(result.dl_dz[:, [0, 2]], without.dl_dz, rtol=1e-13)
    assert abs(result.dl_dz[0, 1]) < 1e-300


def test_float32_keeps_six_digits_at_scores_of_a_thousand():
    z = np.random.default_rng(0).uniform(-1000, 1000, size=(200, 6)).astype(np.float32)
    y = targets("one-hot", 200, 6).astype(np.float32)
    single, double = (strategy_of(*PAIR, COMPILED)[1](*PAIR, a, b) for a, b in ((z, y), (z.astype(float), y)))
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
