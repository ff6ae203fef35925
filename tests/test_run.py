import csv
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from trainer.config import Settings
from trainer.errors import ConfigError, FileError
from trainer.fit import Diverged, columns
from trainer.metrics import METRICS
from trainer.model import Model
from trainer.outputs import versions
from trainer.run import run
from trainer.sources import SOURCES

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


def test_a_run_leaves_its_table_its_model_and_its_record(tmp_path):
    result = run(SETTINGS, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.csv", "model.npz", "run.json"}
    rows = rows_of(tmp_path)
    assert list(rows[0]) == [*columns(METRICS), "seconds"]
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
        "train_rows": 160,
        "valid_rows": 40,
    }
    assert record["versions"].items() >= versions().items()
    assert record["threads"] >= 1


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
    assert np.isfinite(Model.load(tmp_path / "model.npz").w).all()
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_an_interrupted_run_keeps_what_it_has(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("trainer.run.Table.add", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(SETTINGS, tmp_path)
    assert json_of(tmp_path)["status"] == "interrupted"
    Model.load(tmp_path / "model.npz")


@pytest.mark.parametrize(
    "change",
    [
        {"loss": {"name": "nll"}},
        {"gradient": {"name": "log"}, "activation": {"name": "sigmoid"}, "loss": {"name": "bce"}},
        {"gradient": {"name": "fused", "precise": True}},
        {"callbacks": {"early_stoping": {}}},
        {"callbacks": {"early_stopping": {}}, "valid_fraction": 0.0},
        {"data": {"name": "file", "path": "nowhere.csv", "target": "y"}},
        {"valid_fraction": 0.001},
    ],
)
def test_what_is_refused_leaves_no_folder(change, tmp_path):
    with pytest.raises((ConfigError, FileError)):
        run(replace(SETTINGS, **change), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_a_file_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="cannot be written"):
        run(SETTINGS, tmp_path / "file" / "run")


def test_digits_with_adam_reach_95_percent_on_the_validation_data_with_the_defaults(tmp_path):
    digits = replace(SETTINGS, data={"name": "digits"}, optimizer={"name": "adam"}, epochs=Settings.epochs)
    assert run(digits, tmp_path).metrics["val_accuracy"] >= 0.95


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import trainer.run", ["hydra", "sklearn", "matplotlib"]),
        (
            "import sys; sys.argv = ['trainer', '--help']; import trainer.__main__ as m; m.main()",
            ["sklearn", "matplotlib"],
        ),
    ],
    ids=["run", "help"],
)
def test_nothing_is_imported_before_it_is_used(code, absent):
    check = f"{code}\nimport sys\nassert not set({absent!r}) & set(sys.modules), sorted(sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True, capture_output=True, cwd=Path(__file__).parents[1])
