"""A run that was interrupted goes on to the same bits; whatever does not belong together is refused."""

import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import trainer.runs.run
from tests.test_command_line import LIMIT, call, command  # noqa: F401
from tests.test_run import SETTINGS, json_of, perform, rows_of
from trainer.errors import ConfigError, DataError, Diverged, FileError
from trainer.runs import checkpoint
from trainer.runs.checkpoint import NAMES
from trainer.runs.lock import Lock, process
from trainer.runs.model import Model
from trainer.runs.outputs import Table, write_record
from trainer.runs.run import resume, run
from trainer.sweeps.worker import Job

EPOCHS = 6
SMALL = replace(SETTINGS, data={"name": "blobs", "samples": 60, "spread": 3.0}, batch_size=7, epochs=EPOCHS)
FILES = {"metrics.csv", "model.npz", "model.md", "coefficients.csv", "evaluation.json", "run.json", "checkpoint.npz"}
SOLVER = {"batch_size": "auto", "penalty": {"name": "l2", "strength": 1e-4}}
CASES = {
    "sgd": {},
    "sgd without momentum": {"optimizer": {"name": "sgd", "momentum": 0.0}},
    "nesterov": {"optimizer": {"name": "sgd", "nesterov": True}},
    "adam": {"optimizer": {"name": "adam"}},
    "adamw": {"optimizer": {"name": "adamw", "weight_decay": 0.1}},
    "newton": {"optimizer": {"name": "newton"}, **SOLVER},
    "lbfgs": {"optimizer": {"name": "lbfgs", "memory": 2}, **SOLVER},
    "auto": {"optimizer": {"name": "auto"}, **SOLVER},
    "auto for a loss that is not canonical": {"optimizer": {"name": "auto"}, "loss": {"name": "brier"}, **SOLVER},
    "fista": {"optimizer": {"name": "fista"}, **SOLVER, "penalty": {"name": "l1", "strength": 1e-3}},
    "auto with l1": {"optimizer": {"name": "auto"}, **SOLVER, "penalty": {"name": "elastic_net", "strength": 1e-3}},
    "cosine": {"schedule": {"name": "cosine", "warmup": 2}},
    "adam with step": {"optimizer": {"name": "adam"}, "schedule": {"name": "step", "every": 2}},
    "adam in float32": {"optimizer": {"name": "adam"}, "dtype": "float32"},
    "lbfgs in float32": {"optimizer": {"name": "lbfgs"}, **SOLVER, "dtype": "float32"},
    "spherical, whose start is drawn": {"activation": {"name": "spherical"}},
    "without validation": {"valid_fraction": 0.0, "metrics": ["brier", "top_k"]},
    "early stopping": {"callbacks": {"early_stopping": {"patience": 3, "min_delta": 0.02}}, "epochs": 30},
    "gradient check": {"callbacks": {"gradient_check": {"every": 2}}},
}


@pytest.fixture
def interrupt_after(monkeypatch):
    """Ctrl-C as soon as so many rows more are in the table; None is never."""
    add = Table.add

    def after(rows):
        left = [rows]

        def counting(self, row):
            add(self, row)
            if left[0] is not None:
                left[0] -= 1
                if left[0] == 0:
                    raise KeyboardInterrupt

        monkeypatch.setattr(Table, "add", counting)

    return after


def outcome(folder):
    """What must not differ by a bit: weights, rows without the clock, and how the run ended."""
    rows = [{key: value for key, value in row.items() if key != "seconds"} for row in rows_of(folder)]
    record = json_of(folder)
    ended = [record[key] for key in ("status", "reason", "converged", "epochs", "seed")]
    return Model.load(folder / "model.npz").w.tobytes(), rows, ended


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_a_run_interrupted_in_every_epoch_ends_as_one_that_never_was(changes, tmp_path, interrupt_after):
    settings = replace(SMALL, **changes)
    run(settings, tmp_path / "whole")
    epochs = json_of(tmp_path / "whole")["epochs"]
    assert epochs >= 3
    folder = tmp_path / "parts"
    go = run
    # The first row after a start is written twice: Ctrl-C comes between a row and its state, which then does not count.
    for done in range(1, epochs):
        interrupt_after(2)
        with pytest.raises(KeyboardInterrupt):
            go(settings, folder)
        assert json_of(folder)["status"] == "interrupted"
        assert json_of(folder)["epochs"] == len(rows_of(folder)) == done
        assert checkpoint.load(folder / NAMES[0]).state.epoch == done
        go = resume
    interrupt_after(None)
    resume(settings, folder)
    assert outcome(folder) == outcome(tmp_path / "whole")
    assert {path.name for path in folder.iterdir()} == FILES | ({NAMES[1]} if epochs > 1 else set())


@pytest.mark.parametrize("epoch", range(1, EPOCHS))
def test_every_checkpoint_within_a_run_leads_to_the_same_end(epoch, tmp_path, monkeypatch):
    settings = replace(SMALL, optimizer={"name": "adam"}, schedule={"name": "cosine"})
    monkeypatch.setattr(checkpoint, "EVERY", 0.0)
    monkeypatch.setattr(checkpoint, "SHARE", 1e9)
    keep = checkpoint.keep

    def copying(folder, now, durable):
        keep(folder, now, durable)
        if now.state.epoch == epoch and now.status == "running":
            shutil.copytree(folder, tmp_path / "killed")

    monkeypatch.setattr(checkpoint, "keep", copying)
    run(settings, tmp_path / "whole")
    (tmp_path / "killed" / "run.lock").unlink()
    (tmp_path / "killed" / "metrics.csv").write_text("torn")
    assert json_of(tmp_path / "killed")["status"] == "running"
    assert json_of(tmp_path / "killed").items() >= process().items()
    resume(settings, tmp_path / "killed")
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")


def test_a_checkpoint_comes_once_a_second_at_most_and_less_often_if_it_takes_long(tmp_path, monkeypatch):
    epochs = []
    monkeypatch.setattr(checkpoint, "keep", lambda _, now, durable: epochs.append(now.state.epoch))
    run(SMALL, tmp_path / "short")
    assert epochs == [EPOCHS]
    monkeypatch.setattr(checkpoint, "EVERY", 0.0)
    monkeypatch.setattr(checkpoint, "keep", lambda _, now, durable: (epochs.append(now.state.epoch), time.sleep(0.05)))
    run(SMALL, tmp_path / "slow")
    assert epochs[1:] == [1, EPOCHS]  # 0.05 s of writing earn a second without


def test_epochs_may_grow(tmp_path, interrupt_after):
    run(replace(SMALL, epochs=9), tmp_path / "whole")
    for epochs in (4, 7, 9):
        (run if epochs == 4 else resume)(replace(SMALL, epochs=epochs), tmp_path / "parts")
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")
    assert json_of(tmp_path / "parts")["config"]["epochs"] == 9


def test_a_schedule_that_depends_on_epochs_warns_when_they_grow(tmp_path):
    settings = replace(SMALL, schedule={"name": "cosine"})
    run(settings, tmp_path)
    with pytest.warns(UserWarning, match="schedule=cosine depends on epochs, which was 6 so far"):
        resume(replace(settings, epochs=8), tmp_path)
    assert len(rows_of(tmp_path)) == 8


def test_a_finished_run_says_so_and_is_left_alone(tmp_path, caplog):
    run(SMALL, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with caplog.at_level("INFO", "trainer"):
        assert resume(SMALL, tmp_path) is None
    assert "is already finished, after 6 epochs" in caplog.text
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("status", ["finished", "interrupted", "killed"])
def test_fewer_epochs_than_were_done_are_refused_and_nothing_is_written(status, tmp_path, interrupt_after):
    if status == "finished":
        run(replace(SMALL, epochs=4), tmp_path)
    else:
        interrupt_after(5)  # between the fifth row and its state
        with pytest.raises(KeyboardInterrupt):
            run(SMALL, tmp_path)
        interrupt_after(None)
    if status == "killed":
        record = json_of(tmp_path)
        write_record(tmp_path, {key: record[key] for key in ("config", "seed", "data_sha256")} | {"status": "running"})
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ConfigError, match=r"has done 4 epochs already, more than epochs=2\. Take 4 or more, or"):
        resume(replace(SMALL, epochs=2), tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    "changes", [CASES["early stopping"], {**CASES["newton"], "epochs": 50}], ids=["stop", "newton"]
)
def test_a_run_that_ended_by_itself_is_finished_for_any_epochs(changes, tmp_path, caplog):
    run(replace(SMALL, **changes), tmp_path)
    with caplog.at_level("INFO", "trainer"):
        assert resume(replace(SMALL, **changes | {"epochs": 1000}), tmp_path) is None
    assert "is already finished" in caplog.text


def test_a_run_that_was_stopped_and_then_killed_does_not_go_on(tmp_path, monkeypatch):
    settings = replace(SMALL, **CASES["early stopping"])
    run(settings, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    record = json_of(tmp_path / "killed")
    write_record(tmp_path / "killed", {**record, "status": "running"})
    resume(settings, tmp_path / "killed")
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")


@pytest.mark.parametrize("killed", [False, True], ids=["whole", "killed before its record"])
def test_a_run_whose_last_epoch_was_enough_has_converged_also_where_it_goes_on(killed, tmp_path, caplog):
    near = {"optimizer": {"name": "lbfgs", "gap": 0.1}, "penalty": {"name": "l2", "strength": 0.1}}
    settings = replace(SMALL, batch_size="auto", **near, epochs=4)
    run(settings, tmp_path)
    record, before = json_of(tmp_path), outcome(tmp_path)
    assert record["reason"].startswith("the last of epochs=4 is enough")
    if killed:
        write_record(tmp_path, {**record, "status": "running"})
    with caplog.at_level("INFO", "trainer"):
        resume(replace(settings, epochs=9), tmp_path)
    assert f"{'Converged' if killed else 'after 4 epochs'}: {record['reason']}\n" in caplog.text
    assert outcome(tmp_path) == before
    assert [json_of(tmp_path)[key] for key in ("gap", "gap_reason")] == [record["gap"], record["gap_reason"]]


def test_before_the_first_checkpoint_a_run_starts_anew_with_its_drawn_seed(tmp_path, monkeypatch):
    settings = replace(SMALL, seed=None)

    def end(*_, **__):
        raise KeyError

    monkeypatch.setattr("trainer.runs.run.fit", end)
    monkeypatch.setattr("trainer.runs.training.Training.give_up", lambda *_: None)  # as if it had been killed
    with pytest.raises(KeyError):
        run(settings, tmp_path / "run")
    monkeypatch.undo()
    assert json_of(tmp_path / "run")["status"] == "running"
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"run.json", "metrics.csv"}
    seed = json_of(tmp_path / "run")["seed"]
    assert resume(settings, tmp_path / "run").status == "finished"
    run(replace(SMALL, seed=seed), tmp_path / "whole")
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


def test_a_diverged_run_keeps_its_last_finite_checkpoint_and_diverges_again(tmp_path):
    settings = replace(
        SMALL, activation={"name": "identity"}, loss={"name": "squared_error"}, optimizer={"name": "sgd", "lr": 30.0}
    )
    settings = replace(settings, epochs=300)
    for go in (run, resume):
        with pytest.raises(Diverged):
            go(settings, tmp_path)
        found = checkpoint.load(tmp_path / NAMES[0])
        assert (found.status, json_of(tmp_path)["status"]) == ("diverged", "diverged")
        assert found.state.epoch == len(rows_of(tmp_path)) == json_of(tmp_path)["epochs"]


def test_a_damaged_checkpoint_is_passed_over_with_a_warning(tmp_path, interrupt_after):
    run(SMALL, tmp_path / "whole")
    folder = tmp_path / "parts"
    for go, rows in ((run, 3), (resume, 3)):
        interrupt_after(rows)
        with pytest.raises(KeyboardInterrupt):
            go(SMALL, folder)
    interrupt_after(None)
    os.truncate(folder / NAMES[0], 100)
    with pytest.warns(UserWarning, match="The one before it is taken, of epoch 2"):
        resume(SMALL, folder)
    assert outcome(folder) == outcome(tmp_path / "whole")


@pytest.fixture
def interrupted(tmp_path, interrupt_after):
    """The folder of an interrupted run."""
    interrupt_after(4)
    with pytest.raises(KeyboardInterrupt):
        run(SMALL, tmp_path / "run")
    interrupt_after(None)
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": 4}, "seed was 3 and is 4"),
        ({"optimizer": {"name": "sgd", "lr": 0.5}}, r"optimizer\.lr was absent and is 0\.5"),
        ({"loss": {"name": "brier"}}, r"loss\.name was ce and is brier"),
        ({"epochs": 9, "plots": True}, "plots was False and is True"),
    ],
)
def test_another_configuration_is_refused_with_the_difference(changes, words, interrupted):
    before = (interrupted / "run.json").read_bytes()
    with pytest.raises(ConfigError, match=rf"may only change epochs, but {words}"):
        resume(replace(SMALL, **changes), interrupted)
    assert (interrupted / "run.json").read_bytes() == before


def test_a_record_that_was_altered_is_refused_and_stays(interrupted):
    file = interrupted / "run.json"
    for changes in ({"seed": 4}, {"epochs": 5}, {"status": "finished"}, {"note": "mine"}, {"sha256": 3}):
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
        before = file.read_bytes()
        with pytest.raises(DataError, match=r"run\.json is not what the run wrote: its SHA-256 differs"):
            resume(SMALL, interrupted)
        assert file.read_bytes() == before


def test_a_record_of_an_earlier_version_has_no_checksum_and_goes_on(interrupted):
    record = {key: value for key, value in json_of(interrupted).items() if key not in ("sha256", "table_sha256")}
    (interrupted / "run.json").write_text(json.dumps(record))
    assert resume(SMALL, interrupted).status == "finished"


def test_a_checkpoint_of_another_run_is_refused(interrupted, tmp_path):
    run(replace(SMALL, seed=4), tmp_path / "other")
    for name in NAMES:
        shutil.copy(tmp_path / "other" / NAMES[0], interrupted / name)
    with pytest.raises(DataError, match=r"of another run: seed was 4 and is 3.*There is no other"):
        resume(SMALL, interrupted)


STRENGTHS = [0.01, 1.0, 0.1]
WALKS = {
    "fista with l1": {"optimizer": {"name": "fista"}, "penalty": {"name": "l1"}},
    "auto with elastic_net": {"optimizer": {"name": "auto"}, "penalty": {"name": "elastic_net", "l1_ratio": 0.3}},
    "auto with l2": {"optimizer": {"name": "auto"}},
    "auto for a loss that is not canonical": {"optimizer": {"name": "auto"}, "loss": {"name": "brier"}},
    "newton": {"optimizer": {"name": "newton"}},
    "newton, which can do no more": {"optimizer": {"name": "newton", "gap": 1e-300}},
    "lbfgs in float32": {"optimizer": {"name": "lbfgs"}, "dtype": "float32"},
    "lbfgs without validation": {"optimizer": {"name": "lbfgs"}, "valid_fraction": 0.0, "epochs": 2},
    "sgd": {"optimizer": {"name": "sgd"}, "batch_size": 7, "epochs": 3},
    "adam with cosine": {"optimizer": {"name": "adam"}, "schedule": {"name": "cosine"}, "batch_size": 7, "epochs": 3},
    "spherical, whose start is drawn": {"activation": {"name": "spherical"}, "optimizer": {"name": "lbfgs"}},
}
WALK = replace(SMALL, batch_size="auto", epochs=40)


def walk(changes):
    """The settings of a path of three strengths."""
    settings = replace(WALK, **changes)
    penalty = settings.penalty if "penalty" in changes else {"name": "l2"}
    return replace(settings, penalty={**penalty, "strength": STRENGTHS})


def outcome_of_path(folder):
    """What must not differ by a bit: the files, and how the run ended."""
    record = json_of(folder)
    ended = [
        record.get(key)
        for key in ("status", "reason", "converged", "epochs", "seed", "metrics", "path", "gap", "gap_reason")
    ]
    return [(folder / name).read_bytes() for name in ("path.csv", "coefficients.csv", "model.npz")], ended


@pytest.mark.parametrize("changes", WALKS.values(), ids=WALKS)
def test_a_path_interrupted_after_each_strength_ends_as_one_that_never_was(changes, tmp_path, interrupt_after):
    settings, folder = walk(changes), tmp_path / "parts"
    run(settings, tmp_path / "whole")
    go = run
    for done in range(1, len(STRENGTHS)):  # and the row between which and its state Ctrl-C comes does not count
        interrupt_after(2)
        with pytest.raises(KeyboardInterrupt):
            go(settings, folder)
        assert json_of(folder)["status"] == "interrupted"
        assert len((folder / "path.csv").read_text().splitlines()) == 1 + done
        assert checkpoint.load(folder / NAMES[0]).place == f"strength {done}"
        go = resume
    interrupt_after(None)
    resume(settings, folder)
    assert outcome_of_path(folder) == outcome_of_path(tmp_path / "whole")
    names = {"path.csv", "coefficients.csv", "model.npz", "model.md", "evaluation.json", "run.json", *NAMES}
    assert {path.name for path in folder.iterdir()} == names


@pytest.mark.parametrize("strength", range(1, 1 + len(STRENGTHS)))
def test_every_checkpoint_of_a_path_leads_to_the_same_end(strength, tmp_path, monkeypatch):
    settings = walk(WALKS["fista with l1"])
    monkeypatch.setattr(checkpoint, "EVERY", 0.0)
    monkeypatch.setattr(checkpoint, "SHARE", 1e9)
    keep = checkpoint.keep

    def copying(folder, now, durable):
        keep(folder, now, durable)
        if now.state.epoch == strength and now.status == "running":
            shutil.copytree(folder, tmp_path / "killed")

    monkeypatch.setattr(checkpoint, "keep", copying)
    run(settings, tmp_path / "whole")
    (tmp_path / "killed" / "path.csv").write_text("torn")
    assert json_of(tmp_path / "killed")["status"] == "running"
    resume(settings, tmp_path / "killed")
    assert outcome_of_path(tmp_path / "killed") == outcome_of_path(tmp_path / "whole")


@pytest.mark.parametrize("reports", range(1, 13, 2))
def test_a_path_interrupted_within_a_strength_makes_that_one_again(reports, tmp_path, monkeypatch):
    settings = walk(WALKS["adam with cosine"] | {"epochs": 4})
    run(settings, tmp_path / "whole")
    left, fit = [reports], trainer.runs.run.fit

    def ending(*arguments, **keys):
        for report in fit(*arguments, **keys):
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt
            yield report

    monkeypatch.setattr("trainer.runs.run.fit", ending)
    with pytest.raises(KeyboardInterrupt):
        run(settings, tmp_path / "parts")
    Model.load(tmp_path / "parts" / "model.npz")
    resume(settings, tmp_path / "parts")
    assert outcome_of_path(tmp_path / "parts") == outcome_of_path(tmp_path / "whole")


@pytest.fixture
def interrupted_path(tmp_path, interrupt_after):
    """The folder of a path that was interrupted after two strengths, in two goes; and of one that was not."""
    settings = walk(WALKS["newton"])
    run(settings, tmp_path / "whole")
    for go in (run, resume):
        interrupt_after(2)
        with pytest.raises(KeyboardInterrupt):
            go(settings, tmp_path / "run")
    interrupt_after(None)
    return tmp_path / "run"


def test_a_damaged_checkpoint_of_a_path_is_passed_over_with_a_warning(interrupted_path, tmp_path):
    os.truncate(interrupted_path / NAMES[0], 100)
    with pytest.warns(UserWarning, match="The one before it is taken, of strength 1"):
        resume(walk(WALKS["newton"]), interrupted_path)
    assert outcome_of_path(interrupted_path) == outcome_of_path(tmp_path / "whole")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epochs": 41}, "each of at most epochs=40, and cannot go on with another number"),
        ({"penalty": {"name": "l2", "strength": [1.0, 0.1]}}, r"penalty\.strength was .* and is \[1\.0, 0\.1\]"),
        ({"seed": 4}, "seed was 3 and is 4"),
    ],
)
def test_a_path_goes_on_as_it_began(changes, words, interrupted_path):
    before = {path: path.read_bytes() for path in interrupted_path.iterdir()}
    with pytest.raises(ConfigError, match=words):
        resume(replace(walk(WALKS["newton"]), **changes), interrupted_path)
    assert {path: path.read_bytes() for path in interrupted_path.iterdir()} == before


def test_a_checkpoint_that_is_of_no_path_is_refused(interrupted_path, tmp_path):
    single = replace(walk(WALKS["newton"]), penalty={"name": "l2", "strength": 0.1}, epochs=2)
    run(single, tmp_path / "single")
    found = checkpoint.load(tmp_path / "single" / NAMES[0])
    config = checkpoint.load(interrupted_path / NAMES[0]).config
    for name in NAMES:
        checkpoint.save(interrupted_path / name, replace(found, config=config))
    with pytest.raises(DataError, match="has no state of optimizer=newton, but State"):
        resume(walk(WALKS["newton"]), interrupted_path)
    state = replace(found.state, optimizer=((found.state.w, "yes", "", ""),) * 2)
    for name in NAMES:
        checkpoint.save(interrupted_path / name, replace(found, state=state, config=config))
    with pytest.raises(DataError, match="holds no beginning of this path of 3 strengths"):
        resume(walk(WALKS["newton"]), interrupted_path)


def test_a_finished_path_says_so_and_is_left_alone(tmp_path, caplog):
    settings = walk(WALKS["lbfgs without validation"])  # which has not converged
    run(settings, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with caplog.at_level("INFO", "trainer"):
        assert resume(settings, tmp_path) is None
    reason = json_of(tmp_path)["reason"]
    assert "No convergence within epochs=2 at strength 0.1 (gap" in reason
    assert f"is already finished, after 3 strengths: {reason}" in caplog.text
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_command_goes_on_with_a_path(call, tmp_path, interrupt_after):  # noqa: F811
    words = ["optimizer=fista", "penalty=l1", "penalty.strength=[1,0.1,0.01]", "data.samples=60"]
    assert call(*words, "hydra.run.dir=whole").code == 0
    interrupt_after(2)
    assert call(*words, "hydra.run.dir=run").code == 130
    interrupt_after(None)
    went_on = call("resume=run")
    assert (went_on.code, went_on.err) == (0, "")
    assert "run goes on after strength 1." in went_on.out
    assert outcome_of_path(tmp_path / "run") == outcome_of_path(tmp_path / "whole")
    assert (tmp_path / "run" / "path.png").exists()
    assert "run is already finished, after 3 strengths" in call("resume=run").out
    assert call("resume=run", "epochs=99").code == 2


def test_without_checkpoints_a_path_starts_anew(tmp_path, interrupt_after):
    settings = replace(walk(WALKS["newton"]), checkpoint=False)
    run(settings, tmp_path / "whole")
    interrupt_after(3)
    with pytest.raises(KeyboardInterrupt):
        run(settings, tmp_path / "run")
    interrupt_after(None)
    assert not list(tmp_path.rglob("checkpoint*"))
    resume(settings, tmp_path / "run")
    assert outcome_of_path(tmp_path / "run") == outcome_of_path(tmp_path / "whole")


def test_a_diverged_path_keeps_its_strengths_and_diverges_again(tmp_path, monkeypatch):
    fit, tried = trainer.runs.run.fit, []

    def diverging(objective, *arguments, **keys):
        tried.append(objective.penalty.strength)
        if objective.penalty.strength < 0.1:
            raise Diverged("Diverged in epoch 1.")
        return fit(objective, *arguments, **keys)

    monkeypatch.setattr("trainer.runs.run.fit", diverging)
    for go in (run, resume):
        with pytest.raises(Diverged):
            go(walk(WALKS["newton"]), tmp_path)
        found = checkpoint.load(tmp_path / NAMES[0])
        assert (found.place, found.status, json_of(tmp_path)["status"]) == ("strength 2", "diverged", "diverged")
        assert len((tmp_path / "path.csv").read_text().splitlines()) == 3
        assert json_of(tmp_path)["path"]["strengths"] == [1.0, 0.1]
    assert tried == [1.0, 0.1, 0.01, 0.01]


def test_without_checkpoints_a_run_starts_anew_or_is_refused(tmp_path, interrupt_after):
    settings = replace(SMALL, checkpoint=False)
    interrupt_after(3)
    with pytest.raises(KeyboardInterrupt):
        run(settings, tmp_path)
    interrupt_after(None)
    assert not list(tmp_path.glob("checkpoint*"))
    assert resume(settings, tmp_path).status == "finished"
    with pytest.raises(ConfigError, match="has finished without a checkpoint"):
        resume(replace(settings, epochs=50), tmp_path)


@pytest.mark.parametrize("changes", [{}, walk(WALKS["newton"]).__dict__], ids=["training", "path"])
@pytest.mark.parametrize("kind", ["csv", "npy"])
def test_a_data_file_that_has_changed_is_refused(kind, changes, tmp_path, interrupt_after):
    x, y = np.random.default_rng(0).normal(size=(60, 2)), np.arange(60) % 3
    if kind == "csv":
        path = changed = tmp_path / "data.csv"
        path.write_text("a,b,y\n" + "".join(f"{a},{b},{k}\n" for (a, b), k in zip(x, y, strict=True)))
        data = {"name": "file", "path": str(path), "target": "y"}
    else:
        path, changed = tmp_path / "x.npy", tmp_path / "y.npy"
        np.save(path, x)
        np.save(changed, y)
        data = {"name": "file", "path": str(path), "target": str(changed)}
    settings = replace(SMALL, **{**changes, "data": data})
    ended = outcome_of_path if changes else outcome
    run(settings, tmp_path / "whole")
    interrupt_after(3)
    with pytest.raises(KeyboardInterrupt):
        run(settings, tmp_path / "run")
    interrupt_after(None)
    good = changed.read_bytes()
    changed.write_bytes(good.replace(b"2\n", b"1\n", 1) if kind == "csv" else good[:-8] + b"\1" + good[-7:])
    with pytest.raises(ConfigError, match=r"has changed since .* began"):
        resume(settings, tmp_path / "run")
    changed.write_bytes(good)
    resume(settings, tmp_path / "run")
    assert ended(tmp_path / "run") == ended(tmp_path / "whole")


HOLD = "import sys, time, pathlib; from trainer.runs.lock import Lock; lock = Lock(pathlib.Path(sys.argv[1])); print(1)"


@pytest.mark.processes
def test_the_second_resume_is_refused_and_the_lock_of_a_dead_run_is_taken_over(interrupted):
    script = [sys.executable, "-c", HOLD + "; sys.stdout.flush(); time.sleep(60)", str(interrupted)]
    with subprocess.Popen(script, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1]) as holder:
        try:
            holder.stdout.readline()
            words = f"is being written by process {holder.pid} on {socket.gethostname()}"
            with pytest.raises(ConfigError, match=words):
                resume(SMALL, interrupted)
            refused = command(f"resume={interrupted}", cwd=interrupted)
            assert (refused.code, words in refused.err) == (2, True)
        finally:
            holder.kill()
    assert (interrupted / "run.lock").exists()
    assert resume(SMALL, interrupted).status == "finished"
    assert not (interrupted / "run.lock").exists()


def test_a_lock_of_another_host_is_respected(interrupted):
    (interrupted / "run.lock").write_text(json.dumps({"pid": 1, "host": "elsewhere"}))
    with pytest.raises(ConfigError, match=r"process 1 on elsewhere.*remove .*run\.lock"):
        resume(SMALL, interrupted)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": "x"}'])
def test_a_lock_that_was_torn_is_taken_over(content, tmp_path):
    (tmp_path / "run.lock").write_text(content)
    with Lock(tmp_path), pytest.raises(ConfigError, match="is being written by process"):
        Lock(tmp_path)


def test_a_second_run_goes_beside_the_first(tmp_path):
    assert [run(SMALL, tmp_path / "run").folder.name for _ in range(3)] == ["run", "run-2", "run-3"]


FIFTY = """
import os, sys
from pathlib import Path
from dataclasses import replace
from tests.test_resume import SMALL
from trainer.runs.run import run
settings = replace(SMALL, threads=1, epochs=1)
run(settings, Path(sys.argv[1]).with_name("alone"))  # what takes time is loaded once
children = []
ready, go = os.pipe()
for _ in range(50):
    child = os.fork()
    if child == 0:
        os.close(go)
        os.read(ready, 1)  # until the parent closes its end
        os._exit(0 if run(settings, Path(sys.argv[1])).status == "finished" else 1)
    children.append(child)
os.close(go)
assert not any(os.waitpid(child, 0)[1] for child in children)
"""


@pytest.mark.processes
def test_fifty_runs_started_at_once_get_fifty_folders(tmp_path):
    alone = os.environ | {"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    subprocess.run([sys.executable, "-c", FIFTY, tmp_path / "run"], env=alone, check=True, timeout=LIMIT)
    found = [folder for folder in tmp_path.iterdir() if folder.name != "alone"]
    assert len(found) == 50
    for folder in found:
        assert {path.name for path in folder.iterdir()} - {NAMES[1]} == FILES  # fifty at once may take over a second
        assert outcome(folder) == outcome(tmp_path / "alone")


def test_the_command_goes_on_and_refuses_in_sentences(call, tmp_path):  # noqa: F811
    short = ["plots=false", "optimizer=adam", "callbacks=early_stopping", "callbacks.early_stopping.patience=50"]
    assert call(*short, "epochs=9", "hydra.run.dir=whole").code == 0
    assert call(*short, "epochs=4", "hydra.run.dir=run").code == 0
    done = call("resume=run")
    assert (done.code, done.err) == (0, "")
    assert "run is already finished, after 4 epochs" in done.out
    refused = call("resume=run", "optimizer.beta1=0.5", "epochs=9")
    assert refused.code == 2
    assert "but optimizer.beta1 was 0.9 and is 0.5." in refused.err
    assert (call("resume=run", "nonsense=1").code, call("resume=").code) == (2, 2)
    nowhere = call("resume=nowhere")
    assert (nowhere.code, "Traceback" in nowhere.err) == (3, False)
    assert "nowhere/run.json cannot be read" in nowhere.err
    grown = call("resume=run", "epochs=9")
    assert (grown.code, grown.err) == (0, "")
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")
    assert json_of(tmp_path / "run")["config"] == json_of(tmp_path / "whole")["config"]
    assert {path.name for path in tmp_path.iterdir()} == {"run", "whole"}
    assert "goes on after epoch 4" in (tmp_path / "run" / "trainer.log").read_text()


NO_RECORDS = [
    b"",
    b"{",
    b"[" * 100_000,
    b"[]",
    b'{"status": "x", "config": 3}',
    b'{"status": "x", "config": {}}',
    b'{"status": "x", "config": {}, "seed": "three"}',
    b'{"status": "x", "config": {}, "seed": 3, "epochs": [3]}',
    b'{"status": "x", "config": {}, "seed": 3, "metrics": [3]}',
    b'{"status": "x", "config": {"\\ud800": 3}}',
    b'{"status": "x", "config": {}, "reason": "\\udfff"}',
    b'{"status": "x", "config": {}, "reason": "\xed\xa0\x80"}',
]


@pytest.mark.parametrize("content", NO_RECORDS, ids=lambda content: content[:60].decode(errors="replace"))
def test_a_record_that_is_none_is_refused(content, tmp_path):
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(DataError, match=r"run\.json is (damaged|no record of a run)"):
        resume(SMALL, tmp_path)


@pytest.mark.processes
def test_sigterm_keeps_what_was_learnt(tmp_path):
    endless = [sys.executable, "-m", "trainer", "epochs=1000000", "plots=false", "hydra.run.dir=run"]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(endless, cwd=tmp_path, text=True, **pipes) as process:
        try:
            table = tmp_path / "run" / "metrics.csv"
            deadline = time.monotonic() + LIMIT
            while not (table.exists() and len(table.read_text().splitlines()) > 3):
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=LIMIT)
        finally:
            process.kill()
    assert (process.returncode, err) == (143, "Terminated.\n")
    record = json_of(tmp_path / "run")
    assert (record["status"], record["reason"]) == ("interrupted", "Ended by SIGTERM.")
    found = checkpoint.load(tmp_path / "run" / NAMES[0])
    assert found.status == "interrupted"
    assert found.state.epoch == record["epochs"] == len(rows_of(tmp_path / "run")) >= 3
    assert {path.name for path in (tmp_path / "run").iterdir()} <= FILES | {NAMES[1], "trainer.log"}


@pytest.mark.processes
@pytest.mark.parametrize("arguments", ["epochs=3 plots=false hydra.run.dir=run", "--help", "--cfg job"])
def test_a_reader_who_leaves_stops_nothing_and_is_not_shouted_at(arguments, tmp_path):
    line = f"'{sys.executable}' -m trainer {arguments} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT)
    assert (done.returncode, done.stderr) == (0, "")
    if "epochs" in arguments:
        assert json_of(tmp_path / "run")["status"] == "finished"


@pytest.mark.processes
def test_a_full_disk_ends_a_run_with_a_sentence_and_a_good_checkpoint(tmp_path):
    """By a limit of the size of a file, which the table meets after some hundred rows."""

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))

    line = [sys.executable, "-m", "trainer", "epochs=100000", "data.samples=60", "plots=false", "hydra.run.dir=run"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT, preexec_fn=limited)
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    assert "cannot be written: File too large" in done.stderr.splitlines()[-1]
    folder = tmp_path / "run"
    assert json_of(folder)["status"] == "failed"
    assert not list(folder.glob(".*"))
    assert all(None not in row.values() for row in rows_of(folder))  # the last one is whole


def removed(folder):
    shutil.rmtree(folder)


def made_anew(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def moved_away(folder):
    folder.rename(folder.with_name("moved"))


def taken_by_another(folder):
    moved_away(folder)
    folder.mkdir()
    for name in ("run.json", "run.lock", "metrics.csv", "path.csv"):
        (folder / name).write_text("another's")


@pytest.mark.parametrize("row", [1, 3])  # within the run, and before its last files
@pytest.mark.parametrize("settings", [replace(SMALL, epochs=3), walk(WALKS["newton"])], ids=["training", "path"])
@pytest.mark.parametrize("change", [removed, made_anew, moved_away, taken_by_another])
def test_a_folder_that_goes_away_in_the_middle_ends_a_run_in_a_sentence(change, settings, row, tmp_path, monkeypatch):
    add, left, folder = Table.add, [row], tmp_path / "run"

    def changing(self, values):
        add(self, values)
        left[0] -= 1
        if left[0] == 0:
            change(folder)

    monkeypatch.setattr(Table, "add", changing)
    with pytest.raises(FileError, match="cannot be written any more: it, or its folder, was removed, moved or rep"):
        run(settings, folder)
    if change is taken_by_another:
        assert {path.read_text() for path in folder.iterdir()} == {"another's"}
    else:
        assert not folder.exists() or not list(folder.iterdir())
    if moved := [tmp_path / "moved"][: (tmp_path / "moved").exists()]:
        assert json_of(*moved)["status"] == "running"
        assert resume(settings, *moved).status == "finished"
        monkeypatch.undo()
        ended = outcome_of_path if settings.epochs > 3 else outcome
        run(settings, tmp_path / "whole")
        assert ended(*moved) == ended(tmp_path / "whole")


def test_a_job_whose_folder_goes_away_has_failed_and_the_next_one_is_run(tmp_path, monkeypatch):
    def changing(self, values):
        add(self, values)
        if self._path.parent.name == "0":
            made_anew(tmp_path / "0")

    add = Table.add
    monkeypatch.setattr(Table, "add", changing)
    ended = [perform(Job(number, tmp_path / str(number), SMALL, {})) for number in (0, 1)]
    assert [end.status for end in ended] == ["failed", "finished"]
    assert "metrics.csv cannot be written any more" in ended[0].reason
    assert [path.name for path in (tmp_path / "0").iterdir()] == ["trainer.log"]
