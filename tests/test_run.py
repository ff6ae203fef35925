import contextlib
import csv
import hashlib
import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from trainer.data.rows import split
from trainer.data.sources import SOURCES
from trainer.errors import ConfigError, FileError, Incompatible
from trainer.objective.metrics import ACCURACY
from trainer.optimizers import OPTIMIZERS
from trainer.optimizers.fit import Diverged, columns
from trainer.runs import checkpoint
from trainer.runs.config import Settings
from trainer.runs.model import Model
from trainer.runs.outputs import Table, read_record, versions
from trainer.runs.parts import assemble
from trainer.runs.run import resume, run
from trainer.runs.training import drawn
from trainer.sweeps.worker import Job, perform_together

SETTINGS = Settings(
    activation={"name": "softmax"},
    loss={"name": "ce"},
    gradient={"name": "auto"},
    optimizer={"name": "sgd"},
    schedule={"name": "constant"},
    penalty={"name": "none"},
    data={"name": "blobs", "samples": 200},
    epochs=3,
    plots=False,
)


def rows_of(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def json_of(folder):
    return json.loads((folder / "run.json").read_text())


def perform(job):
    """How a job ends that runs by itself."""
    perform_together([job], (ends := []).append)
    return ends[0]


def test_a_run_leaves_its_table_its_model_and_its_record(tmp_path):
    result = run(SETTINGS, tmp_path)
    names = {
        "metrics.csv",
        "model.npz",
        "run.json",
        "checkpoint.npz",
        "evaluation.json",
        "coefficients.csv",
        "model.md",
    }
    assert {path.name for path in tmp_path.iterdir()} == names
    rows = rows_of(tmp_path)
    assert list(rows[0]) == [*columns(ACCURACY), "seconds"]
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    record = json_of(tmp_path)
    assert record["status"] == result.status == "finished"
    assert record["metrics"] == result.metrics
    assert record["strategy"] == "fused"
    assert record["config"]["loss"] == {"name": "ce"}
    assert record["split"] == {
        "seed": 3,
        "valid_fraction": 0.2,
        "stratified": True,
        "class_rows": [40, 40, 40, 40],
        "train_rows": 160,
        "valid_rows": 40,
    }
    assert record["versions"].items() >= versions().items()
    assert record["threads"] >= 1


@pytest.mark.parametrize("how", ["finished", "diverged", "interrupted", "failed", "path"])
def test_the_record_holds_the_checksum_of_the_table_as_the_run_leaves_it(how, tmp_path, monkeypatch):
    add, rows = Table.add, []
    seen = []  # records of the run under way

    def watched(self, row):
        seen.append(json_of(tmp_path))
        rows.append(row)
        if len(rows) == 3 and how in ("interrupted", "failed"):
            raise KeyboardInterrupt if how == "interrupted" else FileError("The disk is full.")
        add(self, row)

    monkeypatch.setattr(Table, "add", watched)
    path = {"optimizer": {"name": "fista"}, "penalty": {"name": "l1", "strength": [1.0, 0.1]}}
    huge = {"activation": {"name": "identity"}, "loss": {"name": "squared_error"}, "epochs": 300}
    changes = {"path": path, "diverged": {**huge, "optimizer": {"name": "sgd", "lr": 30.0}}}
    with contextlib.suppress(Diverged, KeyboardInterrupt, FileError):
        run(replace(SETTINGS, **changes.get(how, {})), tmp_path)
    name = "path.csv" if how == "path" else "metrics.csv"
    content = (tmp_path / name).read_bytes()
    record = read_record(tmp_path)
    assert record["status"] == ("finished" if how == "path" else how)
    assert record["table_sha256"] == {name: hashlib.sha256(content).hexdigest()}
    assert len(content.splitlines()) > 1
    assert all(r["status"] == "running" and "table_sha256" not in r and "sha256" in r for r in seen)


def test_a_run_in_a_folder_whose_name_is_no_text_can_fail_in_a_sentence(tmp_path, monkeypatch):
    folder = tmp_path / "a\udcff"  # as Python reads a byte of another encoding

    def full(*_):
        raise FileError(f"{folder}/metrics.csv cannot be written: The disk is full.")

    monkeypatch.setattr(Table, "add", full)
    with pytest.raises(FileError, match="The disk is full"):
        run(SETTINGS, folder)
    assert "a\\udcff/metrics.csv cannot be written" in read_record(folder)["reason"]
    monkeypatch.undo()
    assert resume(SETTINGS, folder).status == "finished"


def test_the_model_repeats_the_metrics_of_the_last_row(tmp_path):
    result = run(SETTINGS, tmp_path)
    model, data = Model.load(tmp_path / "model.npz"), SOURCES["blobs"](samples=200)(3)
    right = (model.predict(data.x).argmax(axis=1) == data.y).mean()
    expected = 0.8 * result.metrics["accuracy"] + 0.2 * result.metrics["val_accuracy"]
    assert_allclose(right, expected, rtol=1e-12)


def test_the_same_settings_give_the_same_files_but_for_the_clock(tmp_path):
    for name in ("one", "two"):
        run(replace(SETTINGS, threads=1 if name == "one" else 2), tmp_path / name)
    one, two = (rows_of(tmp_path / name) for name in ("one", "two"))
    for row in one + two:
        del row["seconds"]
    assert one == two
    assert_array_equal(*[Model.load(tmp_path / name / "model.npz").w for name in ("one", "two")])


def test_a_short_run_waits_for_the_disk_but_as_a_job_of_a_sweep(tmp_path, monkeypatch):
    def job(settings, name):
        return perform(Job(0, tmp_path / name, settings, asdict(settings))).status

    calls = []
    monkeypatch.setattr(os, "fsync", calls.append)
    run(SETTINGS, tmp_path / "whole")
    number = len(calls)
    assert number == 6  # model, checkpoint and record, and their folder each time
    assert job(SETTINGS, "short") == "finished"
    assert len(calls) == number
    monkeypatch.setattr(checkpoint, "EVERY", 0.0)  # now no run is short
    assert job(replace(SETTINGS, epochs=0), "long") == "finished"
    assert len(calls) == 2 * number


def test_no_epochs_save_the_initial_model(tmp_path):
    assert run(replace(SETTINGS, epochs=0), tmp_path).status == "finished"
    assert rows_of(tmp_path) == []
    assert_array_equal(Model.load(tmp_path / "model.npz").w, np.zeros((3, 4)))


def test_a_drawn_seed_is_recorded_and_repeats_the_run(tmp_path):
    run(replace(SETTINGS, seed=None), tmp_path / "drawn")
    seed = json_of(tmp_path / "drawn")["seed"]
    run(replace(SETTINGS, seed=seed), tmp_path / "again")
    assert_array_equal(*[Model.load(tmp_path / name / "model.npz").w for name in ("drawn", "again")])


def test_a_batch_size_above_the_number_of_samples_is_a_full_batch_with_one_warning(tmp_path):
    with pytest.warns(UserWarning, match="batch_size=5000 is more than the 160 training samples") as caught:
        run(replace(SETTINGS, batch_size=5000), tmp_path / "clamped")
    assert len(caught) == 1
    run(replace(SETTINGS, batch_size=None), tmp_path / "full")
    assert_array_equal(*[Model.load(tmp_path / name / "model.npz").w for name in ("clamped", "full")])


@pytest.mark.parametrize("kind", ["labels", "rows"])
def test_a_class_that_no_training_row_has_is_named_in_a_warning(tmp_path, kind):
    y = np.repeat([0, 1, 2], [20, 18, 2])
    np.savez(
        tmp_path / "data.npz", x=np.random.default_rng(0).normal(size=(40, 2)), y=np.eye(3)[y] if kind == "rows" else y
    )
    data = {"name": "file", "path": str(tmp_path / "data.npz")}
    with pytest.warns(
        UserWarning, match=r"Class 2 has no training row, .* Lower valid_fraction=0\.9, or remove"
    ) as caught:
        run(replace(SETTINGS, data=data, valid_fraction=0.9, batch_size=None), tmp_path / "run")
    assert len(caught) == 1
    run(replace(SETTINGS, data=data, valid_fraction=0.5, batch_size=None), tmp_path / "half")


def test_a_warm_up_that_fills_the_run_is_warned_of(tmp_path):
    def going(warmup):
        return replace(SETTINGS, epochs=2, schedule={"name": "cosine", "warmup": warmup})

    run(going(1.5), tmp_path / "shorter")
    with pytest.warns(UserWarning, match=r"schedule\.warmup=3 is not shorter than the run of epochs=2, .* epochs"):
        run(going(3.0), tmp_path / "longer")


def test_without_validation_the_columns_stay_empty(tmp_path):
    run(replace(SETTINGS, valid_fraction=0.0), tmp_path)
    assert all(row["val_loss"] == row["val_accuracy"] == "" for row in rows_of(tmp_path))


def test_a_callback_stops_the_run(tmp_path):
    patient = {"early_stopping": {"patience": 1, "min_delta": 100.0}}
    assert run(replace(SETTINGS, epochs=50, callbacks=patient), tmp_path).status == "stopped"
    assert json_of(tmp_path)["epochs"] == len(rows_of(tmp_path)) == 2


def test_a_diverged_run_says_so_and_keeps_the_last_finite_model(tmp_path):
    settings = replace(
        SETTINGS,
        activation={"name": "identity"},
        loss={"name": "squared_error"},
        optimizer={"name": "sgd", "lr": 1e6},
        epochs=200,
        batch_size=None,
        plots=True,
    )
    with pytest.raises(Diverged):
        run(settings, tmp_path)
    record = json_of(tmp_path)
    assert record["status"] == "diverged"
    assert "Lower optimizer.lr" in record["reason"]
    assert (record["gap"], record["gap_reason"]) == (None, "diverged before the end")
    assert np.isfinite(Model.load(tmp_path / "model.npz").w).all()
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_an_interrupted_run_keeps_what_it_has(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("trainer.runs.outputs.Table.add", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(SETTINGS, tmp_path)
    record = json_of(tmp_path)
    assert record["status"] == "interrupted"
    assert (record["gap"], record["gap_reason"]) == (None, "interrupted before the end")
    Model.load(tmp_path / "model.npz")


@pytest.mark.parametrize(
    "change",
    [
        {"loss": {"name": "nll"}},
        {"gradient": {"name": "log"}, "activation": {"name": "sigmoid"}, "loss": {"name": "bce"}},
        {"gradient": {"name": "fused", "speed": 9}},
        {"callbacks": {"early_stoping": {}}},
        {"callbacks": {"early_stopping": {}}, "valid_fraction": 0.0},
        {"data": {"name": "file", "path": "nowhere.csv", "target": "y"}},
        {"valid_fraction": 0.001},
        {"metrics": ["acuracy"]},
        {"metrics": ["ece"], "activation": {"name": "identity"}, "loss": {"name": "squared_error"}},
        {"class_weight": {"4": 2}},
        {"class_weight": dict.fromkeys(range(4), 0)},
    ],
)
def test_what_is_refused_leaves_no_folder(change, tmp_path):
    with pytest.raises((ConfigError, FileError)):
        run(replace(SETTINGS, **change), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


MAE = replace(SETTINGS, loss={"name": "mae"}, epochs=1)


@pytest.mark.parametrize("optimizer", [name for name in OPTIMIZERS if OPTIMIZERS[name].full_batch])
def test_a_solver_refuses_mae_on_soft_targets_where_they_become_known(optimizer, tmp_path):
    x, y = np.random.default_rng(0).normal(size=(60, 3)), np.random.default_rng(1).dirichlet(np.ones(3), size=60)
    np.savez(tmp_path / "soft.npz", x=x, y=y)
    soft = replace(MAE, data={"name": "file", "path": str(tmp_path / "soft.npz")})
    solver, jumps = {"name": optimizer}, rf"optimizer={optimizer} .* loss=mae jumps on targets between zero and one"
    with pytest.raises(Incompatible, match=jumps):
        assemble(replace(MAE, optimizer=solver, label_smoothing=0.1))
    with pytest.raises(Incompatible, match=jumps):
        run(replace(soft, optimizer=solver), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert run(replace(MAE, optimizer=solver), tmp_path / "one-hot").status == "finished"
    assert run(replace(soft, label_smoothing=0.1), tmp_path / "by-steps").status == "finished"


def test_metrics_are_columns_in_the_order_of_the_list(tmp_path):
    result = run(replace(SETTINGS, metrics=["ece", "top_k", "sparsity"], plots=True), tmp_path)
    names = ["loss", "val_loss", "ece", "val_ece", "top_k", "val_top_k", "sparsity", "val_sparsity"]
    assert list(rows_of(tmp_path)[0]) == ["epoch", *names, "lr", "grad_norm", "seconds"]
    assert json_of(tmp_path)["metrics"] == result.metrics
    assert 0 < result.metrics["ece"] < 1
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_without_metrics_draws_its_loss(tmp_path):
    assert "accuracy" not in run(replace(SETTINGS, metrics=[], plots=True), tmp_path).metrics
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_loss_of_a_run_is_the_same_number_whatever_else_is_measured(optimizer, tmp_path):
    settings = replace(SETTINGS, optimizer={"name": optimizer}, class_weight="balanced", label_smoothing=0.1)
    names = ["epoch", "loss", "val_loss"]
    with_metrics, without = (
        [[row[name] for name in names] for row in rows_of(run(replace(settings, metrics=m), tmp_path / str(n)).folder)]
        for n, m in enumerate((["accuracy", "ece", "log_loss"], []))
    )
    assert with_metrics == without


def test_the_metric_beside_the_loss_is_accuracy_or_the_first_one():
    assert [drawn(names) for names in (["ece", "accuracy"], ["ece", "brier"], [])] == ["accuracy", "ece", None]


def test_a_callback_may_watch_any_metric(tmp_path):
    watched = {"early_stopping": {"monitor": "val_ece", "patience": 1, "min_delta": 100.0}}
    assert run(replace(SETTINGS, metrics=["ece"], callbacks=watched), tmp_path).status == "stopped"


def test_an_infinite_metric_is_null_in_the_record_and_inf_in_the_table(tmp_path):
    sparse = {"activation": {"name": "sparsemax"}, "loss": {"name": "fenchel_young"}}
    noisy = {"name": "blobs", "samples": 200, "spread": 6.0}
    steep = {"name": "sgd", "lr": 1.0}
    run(replace(SETTINGS, **sparse, data=noisy, optimizer=steep, metrics=["log_loss", "sparsity"]), tmp_path)
    assert json_of(tmp_path)["metrics"]["val_log_loss"] is None
    assert rows_of(tmp_path)[-1]["val_log_loss"] == "inf"


def test_weights_and_smoothing_are_for_the_training_rows_only(tmp_path):
    changes = {"class_weight": {"0": 0.5, 2: 3}, "label_smoothing": 0.2, "reduction": "rows", "epochs": 1}
    result = run(replace(SETTINGS, **changes), tmp_path)
    model, raw = Model.load(tmp_path / "model.npz"), SOURCES["blobs"](samples=200)(3)
    train, valid = split(raw, 0.2, 3)
    log_a = np.log(model.predict(valid.x))
    assert_allclose(result.metrics["val_loss"], -log_a[np.arange(40), valid.y].mean(), rtol=1e-12)
    assert result.metrics["val_accuracy"] == (log_a.argmax(axis=1) == valid.y).mean()
    log_a, weight = np.log(model.predict(train.x)), np.array([0.5, 1, 3, 1])[train.y]
    losses = -np.sum((0.8 * np.eye(4)[train.y] + 0.05) * log_a, axis=1)
    assert_allclose(result.metrics["loss"], (weight * losses).sum() / 160, rtol=1e-12)
    hits = log_a.argmax(axis=1) == train.y
    assert_allclose(result.metrics["accuracy"], weight @ hits / weight.sum(), rtol=1e-12)
    assert json_of(tmp_path)["config"]["class_weight"] == {"0": 0.5, "2": 3}


def test_a_folder_that_cannot_be_made_is_a_file_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="cannot be written"):
        run(SETTINGS, tmp_path / "file" / "run")


def test_digits_with_adam_reach_95_percent_on_the_validation_data_with_the_defaults(tmp_path):
    digits = replace(SETTINGS, data={"name": "digits"}, optimizer={"name": "adam"}, epochs=Settings.epochs)
    assert run(digits, tmp_path).metrics["val_accuracy"] >= 0.95


@pytest.mark.processes
@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import trainer.runs.run", ["hydra", "sklearn", "matplotlib"]),
        (
            "import sys; sys.argv = ['trainer', '--help']; import trainer.commands as m; m.main()",
            ["sklearn", "matplotlib"],
        ),
    ],
    ids=["run", "help"],
)
def test_nothing_is_imported_before_it_is_used(code, absent):
    check = f"{code}\nimport sys\nassert not set({absent!r}) & set(sys.modules), sorted(sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True, capture_output=True, cwd=Path(__file__).parents[1])


def test_spherical_starts_where_it_can_learn(tmp_path):
    settings = replace(SETTINGS, activation={"name": "spherical"}, loss={"name": "ce"}, epochs=20)
    assert run(settings, tmp_path).metrics["accuracy"] > 0.6


@pytest.mark.parametrize("precise", [False, True])
def test_a_precise_gradient_trains_to_the_same_model(precise, tmp_path):
    result = run(replace(SETTINGS, gradient={"name": "auto", "precise": precise}), tmp_path)
    assert_allclose(result.metrics["loss"], run(SETTINGS, tmp_path / "plain").metrics["loss"], rtol=1e-12)


def test_a_precise_gradient_of_another_pair_is_refused(tmp_path):
    with pytest.raises(
        ConfigError, match=r"gradient\.precise=true is a form of fused for activation=softmax with loss=ce"
    ):
        run(replace(SETTINGS, loss={"name": "brier"}, gradient={"name": "auto", "precise": True}), tmp_path)
