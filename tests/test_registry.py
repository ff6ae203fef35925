"""Every claim of the registry, measured: what pairs.py concludes of a pair is what tests/registry.py finds out."""

import subprocess
import sys
from inspect import get_annotations
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import PAIRS as SETTINGS
from tests.conftest import pair_id
from tests.registry import MEASURES, jumps
from trainer.chain.activations import ACTIVATIONS
from trainer.chain.known import ASSUMED, ENTROPIES, known
from trainer.chain.losses import LOSSES, TARGETS
from trainer.chain.pairs import (
    PROPERTIES,
    allowed,
    canonical,
    entropic,
    kinked,
    properties,
    reason,
    registry,
    target_share,
)
from trainer.chain.strategies import GRADIENTS, auto, has_strategy
from trainer.commands.pairs import markdown, table

PAIRS = registry()
PAGE = (Path(__file__).parents[1] / "docs" / "pairs.md").read_text(encoding="utf-8")
CANONICAL = [pair for pair in SETTINGS if canonical(*pair)]


@pytest.mark.parametrize("pair", PAIRS, ids=pair_id)
def test_a_claim_is_made_just_where_it_holds(pair):
    with np.errstate(all="ignore"):
        holds = [name for name in PROPERTIES if MEASURES[name](*pair)]
    assert [name for name in PROPERTIES if name in properties(*pair)] == holds


@pytest.mark.parametrize("pair", [pair for pair in PAIRS if pair[1].targets != "one_hot"], ids=pair_id)
def test_the_gradient_jumps_on_soft_targets_just_where_that_is_claimed(pair):
    with np.errstate(all="ignore"):
        assert kinked(*pair, soft=True) == jumps(*pair, soft=True)


@pytest.mark.parametrize("pair", PAIRS, ids=pair_id)
def test_the_strategies_of_a_pair_run_and_the_others_do_not(pair):
    z, y = np.array([[0.3, -1.0, 0.5]]), np.array([[0.0, 1.0, 0.0]])
    for name, strategy in GRADIENTS.items():
        if has_strategy(name, *pair):
            assert np.isfinite(strategy(*pair, z, y).dl_dz).all()
        else:
            with pytest.raises((KeyError, AttributeError)):
                strategy(*pair, z, y)


def test_every_activation_on_the_open_simplex_has_log_with_every_loss_that_passes_through_it():
    for activation, loss in PAIRS:
        if activation.range == "simplex" and loss.name != "fenchel_young":
            assert has_strategy("log", activation, loss)


def test_every_pair_of_the_square_is_allowed_or_has_a_reason_that_names_both():
    for name, activation in ACTIVATIONS.items():
        for other, loss in LOSSES.items():
            why = reason(activation, loss)
            assert bool(why) != allowed(activation, loss)
            assert not why or (name in why and other in why)


@pytest.mark.parametrize(("activation", "loss"), CANONICAL, ids=str)
def test_the_slope_of_a_canonical_pair_is_its_share_times_the_sum_of_the_row_times_a_minus_y(activation, loss):
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=(20, 4)), rng.dirichlet(np.ones(4), size=20)
    if known(activation, "entropy") == known(loss, "entropy") == "shannon":
        y *= rng.uniform(0.5, 2, size=(20, 1))
    a, s = entropic(activation)(z), y.sum(axis=1, keepdims=True)
    expected = target_share(activation, loss) * (s * a - y)
    np.testing.assert_allclose(auto(activation, loss, z, y).dl_dz, expected, rtol=1e-12, atol=1e-14)


def test_what_the_parts_claim_is_all_that_can_be_known():
    for cls in (*ACTIVATIONS.values(), *LOSSES.values()):
        claims = {name: kind for name, kind in get_annotations(cls).items() if "ClassVar[bool]" in str(kind)}
        assert set(claims) <= set(ASSUMED)
        assert getattr(cls, "entropy", "") in {*ENTROPIES, ASSUMED["entropy"]}


def test_every_loss_says_what_targets_it_is_stated_on():
    assert all(loss.targets in TARGETS for loss in LOSSES.values())


def test_the_table_has_a_line_for_every_pair_and_names_every_refused_one():
    lines = table().splitlines()
    assert [line.split()[:2] for line in lines[1 : len(PAIRS) + 1]] == [[part.name for part in pair] for pair in PAIRS]
    refusals = {line.split(" with ")[0].strip(): line for line in lines if " with " in line}
    for name, activation in ACTIVATIONS.items():
        for other, loss in LOSSES.items():
            if not allowed(activation, loss):
                assert name in refusals[other].split(" with ")[1].split(":")[0].split(", ")


def test_the_page_has_the_table_of_the_program():
    assert f"\n\n{markdown()}\n\n" in PAGE


@pytest.mark.processes
@pytest.mark.parametrize(("arguments", "code"), [([], 0), (["--markdown"], 0), (["--help"], 0), (["--latex"], 2)])
def test_the_command_prints_the_table(arguments, code):
    command = [sys.executable, "-m", "trainer.pairs", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    assert done.returncode == code
    assert done.stdout.strip() == {"": table(), "--markdown": markdown()}.get("".join(arguments), done.stdout.strip())
