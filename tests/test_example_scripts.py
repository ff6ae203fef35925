"""The examples run, and what they print is what they say."""

import runpy
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def example(name):
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))


def test_every_example_is_run_here():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {"wrong_labels", "strategy_costs"}


def test_wrong_labels_prints_a_row_a_loss_and_the_noise_is_seen_through(capsys):
    names = example("wrong_labels")
    names["main"](range(1), epochs=10)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows[1:]] == list(names["LOSSES"])
    seen = {loss: float(numbers[6]) for loss, *numbers in rows[1:]}
    assert min(seen.values()) > 0.25 + 0.05  # chance is a quarter
    assert seen["gce"] > seen["brier"]


def test_wrong_labels_are_as_many_as_asked_for_and_uniform_over_the_other_classes():
    labels = np.arange(40_000) % 4
    noisy = example("wrong_labels")["with_wrong_labels"](labels, 0.3, np.random.default_rng(1))
    counts = np.bincount((noisy - labels) % 4, minlength=4)
    assert counts[0] == 28_000
    assert counts[1:] == pytest.approx(4000, abs=5 * np.sqrt(12_000 * 2 / 9))  # five standard deviations


def test_strategy_costs_prints_both_tables_and_memory_grows_as_it_must(capsys):
    example("strategy_costs")["main"](rows=64, sizes=(64, 128))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    time, memory = lines[:4], lines[4:]
    for head, *_, end in (time, memory):
        names, powers = head[-len(end) + 2 :], [float(power.removeprefix("K^")) for power in end[2:]]
        assert {"fused", "vjp", "jacobian", "loop", "numeric"} <= set(names)
    power = dict(zip(names, powers, strict=True))
    assert power["jacobian"] == pytest.approx(2, abs=0.2)
    assert power["fused"] == pytest.approx(1, abs=0.2)
