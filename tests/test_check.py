import math

import numpy as np
import pytest

from tests.conftest import PAIRS, targets
from trainer.chain.activations import ACTIVATIONS, Identity, LogSoftmax, Softmax
from trainer.chain.fused import LossGrad
from trainer.chain.losses import LOSSES, CrossEntropy, NegativeLogLikelihood
from trainer.chain.pairs import allowed
from trainer.chain.strategies import GRADIENTS, has_strategy, jacobian, log, numeric, vjp
from trainer.commands.check import batch, cells, check, main, table
from trainer.errors import ConfigError
from trainer.runs.callbacks.gradient_check import STRATEGIES, TOLERANCE, deviations, witnesses

ALLOWED = [
    f"{activation.name}+{loss.name}"
    for activation in ACTIVATIONS.values()
    for loss in LOSSES.values()
    if allowed(activation, loss)
]


def wrong_index(activation, loss, z, y):
    """The contraction over the wrong index of da_dz: right wherever the Jacobian is symmetric."""
    a = activation(z)
    return LossGrad(loss.value(a, y), np.einsum("nk,njk->nj", loss.grad(a, y), activation.jacobian(z, a)))


def missing_factor(activation, loss, z, y):
    """s a - y without the s."""
    return LossGrad(vjp(activation, loss, z, y).loss, activation(z) - y)


def never_finite(activation, loss, z, y):
    return LossGrad(np.full(len(z), np.nan), np.full_like(z, np.nan))


def rows(loss):
    kind = {"one_hot": "one-hot", "simplex": "soft", "unit": "multi-hot", "any": "weighted"}
    z = np.random.default_rng(0).normal(scale=2, size=(7, 4))
    return z, targets(kind[getattr(loss, "targets", "any")], 7, 4)


def test_every_strategy_of_every_pair_agrees_with_its_witnesses(pair):
    for name, strategy in GRADIENTS.items():
        if has_strategy(name, *pair):
            found = deviations(*pair, *rows(pair[1]), strategy)
            assert list(found) == witnesses(*pair, strategy)
            assert name not in found
            assert max(found.values()) <= TOLERANCE


def test_a_contraction_over_the_wrong_index_is_far_from_every_witness():
    pair = LogSoftmax(), NegativeLogLikelihood()
    found = deviations(*pair, *rows(pair[1]), wrong_index)
    assert list(found) == ["fused", "vjp", "jacobian", "loop", "numeric"]
    assert min(found.values()) > 0.1


def test_a_missing_factor_is_seen_where_the_targets_do_not_sum_to_one():
    pair, z = (Softmax(), CrossEntropy()), np.random.default_rng(0).normal(size=(7, 4))
    assert max(deviations(*pair, z, targets("soft", 7, 4), missing_factor).values()) < TOLERANCE
    for kind in ("multi-hot", "weighted"):
        assert min(deviations(*pair, z, targets(kind, 7, 4), missing_factor).values()) > 0.1


def test_deviations_are_relative_to_the_row_or_absolute_below_one():
    def off(activation, loss, z, y):
        value, dl_dz = vjp(activation, loss, z, y)
        return LossGrad(value, dl_dz + np.array([[1e-3], [1.0]]))

    z, y = np.array([[0.0, 0.0], [0.0, 0.0]]), np.array([[1e-3, 0.0], [2000.0, 0.0]])
    found = deviations(Softmax(), CrossEntropy(), z, y, off)
    np.testing.assert_allclose(found["fused"], 1e-3, rtol=1e-2)


def test_rows_that_are_not_finite_are_excused_where_they_start_from_y_over_a_only():
    pair = Softmax(), CrossEntropy()
    z, y = np.array([[1000.0, 0.0], [0.5, 0.0]]), np.array([[0.0, 1.0], [1.0, 0.0]])
    assert max(deviations(*pair, z, y, jacobian).values()) < TOLERANCE
    assert math.isnan(deviations(*pair, z[:1], y[:1], jacobian)["fused"])
    assert set(deviations(*pair, z, y, never_finite).values()) == {math.inf}


@pytest.mark.parametrize("name", [name for name in LOSSES if allowed(Identity, LOSSES[name])])
def test_central_differences_are_not_believed_at_a_kink(name):
    loss = LOSSES[name]()
    z, y = np.array([[1.0, 0.0, -1.0], [0.0, 1.0, 1.0], [0.0, 0.0, 1.0]]), np.eye(3)[[1, 0, 2]]
    found = deviations(Identity(), loss, z, y, vjp)["numeric"]
    assert math.isnan(found) or found < 1e-5  # where only the curvature jumps, the mean slope is a step off
    if name == "weston_watkins":
        slopes = (strategy(Identity(), loss, z, y).dl_dz for strategy in (numeric, vjp))
        assert np.abs(np.subtract(*slopes)).max() > 0.4


@pytest.mark.parametrize("kind", ["one_hot", "simplex", "unit", "any"])
def test_a_batch_has_only_targets_that_the_loss_admits(kind):
    z, y, extreme = batch(kind, np.random.default_rng(0))
    assert z.shape == y.shape
    assert np.abs(z[extreme]).max() > 900 > 30 > np.abs(z[~extreme]).max()
    assert (y >= 0).all()
    assert (y.max() <= 1) == (kind != "any")
    assert np.allclose(y.sum(axis=1), 1) == (kind in ("one_hot", "simplex"))
    assert np.isin(y, (0, 1)).all() == (kind == "one_hot")


def test_the_table_has_a_row_for_every_allowed_pair_and_a_column_for_every_strategy(capsys):
    code = main([])
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split()[: len(STRATEGIES) + 1] == ["pair", *STRATEGIES]
    assert [line.split()[0] for line in lines[:-1]] == ALLOWED
    assert all(line.endswith("ok") for line in lines[:-1])
    assert lines[-1].startswith(f"{len(ALLOWED)} pairs, ")
    assert lines[-1].endswith("no pairs failed.")
    assert code == 0


def test_every_pair_is_checked_with_other_settings_too():
    groups = list(cells())
    assert [f"{group[0][0].name}+{group[0][1].name}" for group in groups] == ALLOWED
    found = {(repr(activation), repr(loss)) for group in groups for activation, loss in group}
    for temperature in (1.0, 0.5, 1.5):
        assert (repr(Softmax(temperature)), repr(CrossEntropy())) in found


@pytest.mark.parametrize(
    ("name", "wrong", "pair", "sentence"),
    [
        ("jacobian", wrong_index, (LogSoftmax(), NegativeLogLikelihood()), "from central differences"),
        ("fused", missing_factor, (Softmax(), CrossEntropy()), "from central differences"),
        ("fused", never_finite, (Softmax(), CrossEntropy()), "is not finite, as at z="),
        ("vjp", never_finite, (Softmax(), CrossEntropy()), "is not finite, as at z="),
    ],
)
def test_a_wrong_strategy_fails_and_is_the_one_that_is_named(name, wrong, pair, sentence, monkeypatch, capsys):
    monkeypatch.setitem(GRADIENTS, name, wrong)
    row = check([pair], 0)
    assert row.failures
    assert all(f"{pair[0]!r} with {pair[1]!r}: {name} " in failure for failure in row.failures)
    assert sentence in " ".join(row.failures)
    assert " FAIL\n" in table([row])
    assert table([row]).endswith("1 pairs failed.")
    monkeypatch.setattr("trainer.commands.check.cells", lambda: [[pair]])
    assert main(["seed=1"]) == 1
    assert sentence in capsys.readouterr().out


def test_a_small_error_is_seen_between_the_strategies(monkeypatch):
    def almost(activation, loss, z, y):
        value, dl_dz = log(activation, loss, z, y)
        return LossGrad(value, dl_dz * (1 + 1e-7))

    monkeypatch.setitem(GRADIENTS, "fused", almost)
    failures = check([(Softmax(), CrossEntropy())], 0).failures
    assert failures
    assert all("fused is 1e-07 from " in failure for failure in failures)


def test_lost_rows_and_missing_strategies_are_shown():
    ce, identity = (check([pair], 0).texts() for pair in [(Softmax(), CrossEntropy()), identity_pair()])
    assert "nf" in ce[1 + STRATEGIES.index("jacobian")]
    assert "nf" not in ce[1 + STRATEGIES.index("fused")] + ce[1 + STRATEGIES.index("log")]
    assert identity[1 + STRATEGIES.index("log")] == "-"


def identity_pair():
    return next(pair for pair in PAIRS if isinstance(pair[0], Identity))


@pytest.mark.parametrize("arguments", [["sed=1"], ["seed=x"], ["seed=-1"], ["seed=1", "seed=2"], ["--hlp"]])
def test_arguments_other_than_a_seed_are_refused(arguments):
    with pytest.raises(ConfigError, match="is not seed=<number>"):
        main(arguments)


def test_help_checks_nothing(monkeypatch, capsys):
    monkeypatch.setattr("trainer.commands.check.cells", lambda: pytest.fail("It began."))
    assert main(["--help"]) == 0
    assert "[seed=0]" in capsys.readouterr().out
