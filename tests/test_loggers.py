"""The loggers are read back by the packages' own readers and compared with metrics.csv."""

import csv
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.test_command_line import call, command  # noqa: F401 - call is a fixture
from tests.test_run import SETTINGS
from trainer.errors import ConfigError, Diverged, FileError
from trainer.runs.callbacks.loggers import MLflow, finite
from trainer.runs.run import run
from trainer.runs.text import flat
from trainer.sweeps.pool import Pool
from trainer.sweeps.record import read

ROOT = Path(__file__).parents[1]


def rows_of(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def logged(name, **settings):
    return replace(SETTINGS, callbacks={name: settings})


def outside(folder):
    return sorted(path.name for path in folder.parent.iterdir() if path != folder)


@pytest.mark.parametrize(("name", "package"), [("tensorboard", "tensorboardX"), ("mlflow", "mlflow.tracking")])
def test_a_missing_package_is_a_sentence_that_names_the_extra(name, package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"callbacks={name} needs .* pip install 'softmax-trainer\[{name}\]'"):
        run(logged(name), tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.csv").exists()


@pytest.mark.parametrize("store", ["", ".", "..", "/tmp/x.db", "a/b.db", "../../x.db", "~/x\n.db", "x.db?mode=memory"])
def test_a_store_outside_of_the_runs_folder_is_refused(store):
    with pytest.raises(ConfigError, match=r"callbacks\.mlflow\.store must be a file name, or \.\./ and a file name"):
        MLflow(store=store)


def test_only_numbers_that_can_be_drawn_are_logged():
    assert finite({"epoch": 1, "loss": 0.5, "val_loss": math.inf, "grad_norm": math.nan}) == {"loss": 0.5}
    assert dict(flat({"loss": {"name": "ce"}, "seed": 3})) == {"loss.name": "ce", "seed": 3}


def scalars(folder):
    """(tag, step, value) of all event files, by tensorboardX's own messages."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    found = []
    for path in sorted((folder / "tensorboard").iterdir()):
        content = path.read_bytes()
        while content:  # a record: its length in 8 bytes, a checksum in 4, the message, a checksum in 4
            length = int.from_bytes(content[:8], "little")
            event = event_pb2.Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]
            found += [
                (value.tag, event.step, value.simple_value)
                for value in event.summary.value
                if value.HasField("simple_value")
            ]
    return found


def test_tensorboard_gets_every_number_of_the_table(tmp_path):
    pytest.importorskip("tensorboardX")
    folder = tmp_path / "run"
    assert run(logged("tensorboard"), folder).status == "finished"
    found = {(tag, step): value for tag, step, value in scalars(folder)}
    rows = rows_of(folder)
    names = set(rows[0]) - {"epoch", "seconds"}
    assert set(found) == {(name, epoch) for name in names for epoch in (1, 2, 3)}
    for (name, epoch), value in found.items():
        assert value == pytest.approx(float(rows[epoch - 1][name]), rel=1e-6)  # it keeps float32
    assert outside(folder) == []


DIVERGING = {
    "activation": {"name": "identity"},
    "loss": {"name": "squared_error"},
    "optimizer": {"name": "sgd", "lr": 1e6},
}


def test_tensorboard_is_closed_when_a_run_diverges(tmp_path):
    pytest.importorskip("tensorboardX")
    with pytest.raises(Diverged):
        run(replace(logged("tensorboard"), epochs=50, **DIVERGING), tmp_path)
    assert {step for _, step, _ in scalars(tmp_path)} == {int(row["epoch"]) for row in rows_of(tmp_path)}


@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_a_logger_changes_nothing_of_the_training_and_needs_no_epoch(name, tmp_path):
    pytest.importorskip({"tensorboard": "tensorboardX", "mlflow": "mlflow"}[name])
    assert run(replace(logged(name), epochs=0), tmp_path / "none").status == "finished"
    assert not (tmp_path / "none" / "tensorboard").exists()
    assert not (tmp_path / "none" / "mlflow.db").exists()


def test_a_folder_that_cannot_be_written_is_a_file_error(tmp_path):
    pytest.importorskip("tensorboardX")
    (tmp_path / "tensorboard").write_text("taken")
    with pytest.raises(FileError, match="tensorboard cannot be written"):
        run(logged("tensorboard"), tmp_path)


@pytest.fixture
def client():
    """MLflow's client for a file; what its own packages warn of is not ours."""
    for package in ("mlflow", "sqlalchemy", "alembic"):
        pytest.importorskip(package)
    from mlflow.tracking import MlflowClient

    return lambda path: MlflowClient(tracking_uri=f"sqlite:///{path}")


@pytest.mark.filterwarnings("ignore")
def test_mlflow_gets_parameters_metrics_and_the_status(tmp_path, client):
    store = {"store": "../mlflow.db"}
    folder = tmp_path / "one"
    run(logged("mlflow", **store), folder)
    with pytest.raises(Diverged):
        run(replace(logged("mlflow", **store), epochs=50, **DIVERGING), tmp_path / "two")
    assert outside(folder) == ["mlflow.db", "two"]
    reader = client(tmp_path / "mlflow.db")
    experiment = reader.get_experiment_by_name("trainer")
    runs = {found.info.run_name: found for found in reader.search_runs([experiment.experiment_id])}
    assert {name: found.info.status for name, found in runs.items()} == {"one": "FINISHED", "two": "FAILED"}
    found = runs["one"]
    assert found.data.params["loss.name"] == "ce"
    assert found.data.params["epochs"] == "3"
    assert found.data.tags["folder"] == str(folder)
    rows = rows_of(folder)
    for name in set(rows[0]) - {"epoch", "seconds"}:
        history = reader.get_metric_history(found.info.run_id, name)
        assert [(entry.step, entry.value) for entry in history] == [
            (number, float(row[name])) for number, row in enumerate(rows, 1)
        ]


@pytest.mark.filterwarnings("ignore")
def test_mlflow_writes_into_the_runs_folder_by_default_and_says_nothing(tmp_path, client, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "run"
    run(logged("mlflow"), folder)
    assert (folder / "mlflow.db").is_file()
    assert outside(folder) == []
    assert capsys.readouterr() == ("", "")


@pytest.mark.processes
@pytest.mark.filterwarnings("ignore")
def test_the_sweep_of_the_docs_keeps_all_its_jobs_in_one_new_database(tmp_path, client):
    words = ["callbacks=mlflow", "callbacks.mlflow.store=../mlflow.db"]
    assert f"`{' '.join(words)}` keeps all jobs of a sweep" in (ROOT / "docs" / "sweeps.md").read_text("utf-8")
    grid = ["loss=ce,brier", "seed=1,2", "data.samples=40", "epochs=2", "hydra.sweep.dir=outputs/here"]
    outcome = command("-m", *words, *grid, "sweep.workers=4", cwd=tmp_path)
    assert (outcome.code, outcome.err) == (0, "")
    here = tmp_path / "outputs" / "here"
    assert read(here).counts() == {"finished": 4}
    reader = client(here / "mlflow.db")
    runs = reader.search_runs([reader.get_experiment_by_name("trainer").experiment_id])
    assert sorted((run.info.run_name, run.info.status) for run in runs) == [(name, "FINISHED") for name in "0123"]


def test_a_store_that_jobs_share_is_made_once_before_the_first_of_them(tmp_path, monkeypatch, call):  # noqa: F811
    """Without MLflow itself: who makes the store, and when."""
    seen = []

    def ran(pool, jobs):
        seen.append(f"{len(list(jobs))} jobs")
        yield from ()

    monkeypatch.setattr(MLflow, "make", lambda self, folder: seen.append((self.file(folder), folder.name)))
    monkeypatch.setattr(Pool, "run", ran)
    grid = ["-m", "seed=1,2,3", "data.samples=40", "callbacks=mlflow"]
    assert call(*grid, "callbacks.mlflow.store=../all.db", "hydra.sweep.dir=outputs").code == 0
    assert seen == [(tmp_path / "outputs" / "all.db", "0"), "3 jobs"]
    assert call(*grid, "hydra.sweep.dir=own").code == 0  # a store in the folder of each run
    assert seen[2:] == ["3 jobs"]
