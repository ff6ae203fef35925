import csv
import json
import logging
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from omegaconf import open_dict

from tests.test_check import missing_factor, rows, wrong_index
from tests.test_run import SETTINGS
from trainer.chain.activations import LogSoftmax, Softmax
from trainer.chain.losses import CrossEntropy, NegativeLogLikelihood
from trainer.chain.strategies import GRADIENTS, fused, has_strategy
from trainer.commands.composing import composed
from trainer.data.rows import Data
from trainer.errors import ConfigError
from trainer.objective.objective import Objective
from trainer.objective.penalties import NoPenalty
from trainer.optimizers.fit import Report, TrainState
from trainer.runs.callbacks.early_stopping import EarlyStopping
from trainer.runs.callbacks.gradient_check import GradientCheck
from trainer.runs.callbacks.protocol import Answer, Context
from trainer.runs.config import Settings, read_settings
from trainer.runs.run import run

COLUMNS = ["epoch", "loss", "val_loss"]
PAIR = Softmax(), CrossEntropy()


def context(pair=PAIR, gradient=fused, columns=COLUMNS, dtype=np.float64):
    rng = np.random.default_rng(0)
    _, y = rows(pair[1])
    train = Data(rng.normal(size=(len(y), 3)).astype(dtype), y, tuple(range(y.shape[1])), ("a", "b", "c"))
    return Context(columns, Objective(*pair, gradient, NoPenalty()), train, 3)


def report(epoch, loss=0.0, dtype=np.float64):
    w = np.random.default_rng(1).normal(size=(4, 4)).astype(dtype)
    return Report(TrainState(epoch, w, None), {"val_loss": loss})


def stops_at(callback, losses):
    """The first epoch, from one, at which the callback has a reason to stop."""
    call = callback.start(context())
    return next((n for n, loss in enumerate(losses, 1) if call(report(n, loss)).stop), None)


def test_early_stopping_waits_for_its_patience_after_the_best():
    assert stops_at(EarlyStopping(patience=2), [3, 2, 2.5, 2.1, 1]) == 4


def test_early_stopping_goes_on_while_the_loss_falls():
    assert stops_at(EarlyStopping(patience=1), [5, 4, 3, 2, 1]) is None


def test_a_fall_by_less_than_min_delta_is_no_fall():
    assert stops_at(EarlyStopping(patience=2, min_delta=0.5), [3, 2.8, 2.6, 2.4]) == 3


def test_every_start_counts_afresh():
    callback = EarlyStopping(patience=2)
    assert stops_at(callback, [1, 2]) is None
    assert stops_at(callback, [1, 2]) is None


@pytest.mark.parametrize("done", range(4))
def test_early_stopping_goes_on_counting_after_the_rows_of_before(done):
    losses = [3, 2, 2.5, 2.1, 1]
    past = [{"epoch": n, "val_loss": loss} for n, loss in enumerate(losses[:done], 1)]
    call = EarlyStopping(patience=2).start(context()._replace(past=past))
    stops = [bool(call(report(n, loss)).stop) for n, loss in enumerate(losses[done:4], done + 1)]
    assert stops == [False] * (3 - done) + [True]


def test_early_stopping_says_why():
    call = EarlyStopping(patience=1).start(context())
    assert call(report(1, 1.0)) == Answer()
    assert call(report(2, 1.0)).stop == "early_stopping: val_loss has not fallen for 1 epoch."
    call = EarlyStopping(patience=1, min_delta=0.5).start(context())
    assert [call(report(n, 1.0)).stop for n in (1, 2)][1].startswith("early_stopping: val_loss has not fallen by more")


def test_a_column_that_will_not_be_there_is_refused_before_the_training():
    with pytest.raises(ConfigError, match=r"early_stopping\.monitor=val_loss is not known; did you mean loss"):
        EarlyStopping().start(context(columns=["epoch", "loss"]))


@pytest.mark.parametrize("settings", [{"patience": 0}, {"min_delta": -1.0}, {"min_delta": float("nan")}])
def test_ranges_are_checked(settings):
    with pytest.raises(ConfigError, match=r"callbacks\.early_stopping"):
        EarlyStopping(**settings)


@pytest.mark.parametrize("settings", [{"every": 0}, {"samples": 0}, {"tolerance": 0.0}, {"tolerance": float("inf")}])
def test_ranges_of_the_gradient_check_are_checked(settings):
    with pytest.raises(ConfigError, match=r"callbacks\.gradient_check"):
        GradientCheck(**settings)


def test_a_right_strategy_passes_whatever_the_pair(pair):
    for name, dtype in product(("auto", "vjp", "numeric"), (np.float64, np.float32)):
        here = context(pair, GRADIENTS[name], dtype=dtype)
        answer = GradientCheck().start(here)(report(1, dtype=dtype))
        assert not answer.stop
        assert list(answer.numbers) == GradientCheck().columns(here.objective)
        others = [f"check_{other}" for other in GRADIENTS if other not in ("auto", name) and has_strategy(other, *pair)]
        assert list(answer.numbers) == others


@pytest.mark.parametrize(
    ("wrong", "pair"),
    [(wrong_index, (LogSoftmax(), NegativeLogLikelihood())), (missing_factor, PAIR)],
    ids=["index", "factor"],
)
def test_a_wrong_strategy_stops_with_a_sentence(wrong, pair):
    here = context(pair, wrong)
    answer = GradientCheck().start(here)(report(4))
    assert min(answer.numbers.values()) > 0.01
    assert answer.stop.startswith("gradient_check: after epoch 4 the run's dl_dz is ")
    assert " from numeric, more than callbacks.gradient_check.tolerance=1e-06." in answer.stop


def test_the_rows_follow_from_the_seed_and_the_epoch(monkeypatch):
    seen = []
    monkeypatch.setattr("trainer.runs.callbacks.gradient_check.deviations", lambda *args: seen.append(args[2]) or {})
    for epoch in (1, 2, 1):
        assert GradientCheck(samples=3).start(context())(report(epoch)) == Answer()
    assert all(z.shape == (3, 4) and z.dtype == np.float64 for z in seen)
    assert (seen[0] == seen[2]).all()
    assert (seen[0] != seen[1]).any()


def test_what_cannot_be_measured_stays_empty_and_stops_nothing(monkeypatch):
    monkeypatch.setattr(
        "trainer.runs.callbacks.gradient_check.deviations", lambda *_: {"vjp": float("nan"), "numeric": 1e-9}
    )
    assert GradientCheck().start(context())(report(1)) == Answer({"check_numeric": 1e-9})


def table_of(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_deviations_are_columns_of_the_table_in_the_epochs_that_are_checked(tmp_path):
    checked = replace(SETTINGS, epochs=5, callbacks={"gradient_check": {"every": 2}})
    assert run(checked, tmp_path).status == "finished"
    table = table_of(tmp_path)
    names = ["check_log", "check_vjp", "check_jacobian", "check_loop", "check_numeric"]
    assert list(table[0])[-6:] == [*names, "seconds"]
    for row in table:
        for name in names:
            assert (row[name] != "") == (row["epoch"] in ("1", "3", "5"))
            assert row[name] == "" or float(row[name]) < 1e-8


def test_a_run_with_a_wrong_strategy_is_stopped_and_says_why(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(GRADIENTS, "jacobian", wrong_index)
    wrong = replace(SETTINGS, activation={"name": "log_softmax"}, loss={"name": "nll"}, gradient={"name": "jacobian"})
    both = {"early_stopping": {}, "gradient_check": {}}
    with caplog.at_level(logging.INFO, "trainer"):
        assert run(replace(wrong, callbacks=both), tmp_path).status == "stopped"
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["status"] == "stopped"
    assert record["reason"].startswith("gradient_check: after epoch 1 the run's dl_dz is ")
    assert f"Stopped by {record['reason']}" in caplog.messages
    assert [float(row["check_numeric"]) > 1e-3 for row in table_of(tmp_path)] == [True]


def test_the_check_changes_nothing_of_the_training(tmp_path):
    for name, callbacks in (("with", {"gradient_check": {}}), ("without", {})):
        run(replace(SETTINGS, callbacks=callbacks), tmp_path / name)
    one, two = (table_of(tmp_path / name) for name in ("with", "without"))
    assert [row["loss"] for row in one] == [row["loss"] for row in two]


def test_two_callbacks_are_a_list_on_the_command_line():
    config = composed("config", ["callbacks=[early_stopping,gradient_check]", "callbacks.gradient_check.every=5"])
    with open_dict(config):
        del config.hydra
    callbacks = read_settings(config, Settings).callbacks
    assert list(callbacks) == ["early_stopping", "gradient_check"]
    assert callbacks["gradient_check"]["every"] == 5
