"""Loggers: callbacks that copy each row of metrics.csv to TensorBoard or MLflow, which are extras to install.

metrics.csv stays the source of truth. Both write into the folder of the run and nowhere else, unless told to.
"""

import json
import logging
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from trainer.errors import ConfigError, FileError, TrainerError, require
from trainer.objective.objective import Objective
from trainer.optimizers.fit import Report
from trainer.runs.callbacks.protocol import Answer, Callback, Context
from trainer.runs.text import flat

LONGEST = 6000  # characters of a parameter in MLflow
AT_ONCE = 100  # parameters that MLflow takes in one call


@dataclass(frozen=True)
class TensorBoard:
    """Scalars and the configuration as TensorBoard's event files in <run>/tensorboard: tensorboard --logdir outputs."""

    name: ClassVar[str] = "tensorboard"

    def columns(self, objective: Objective) -> list[str]:
        return []

    def start(self, context: Context) -> Callback:
        (module,) = _imported(self.name, "tensorboardX")
        return _TensorBoardWriter(module.SummaryWriter, context.folder / "tensorboard", context.config)


class _TensorBoardWriter:
    """Opens its file with the first report, when the folder of the run is there."""

    def __init__(self, writer: Any, folder: Path, config: Mapping[str, Any]) -> None:
        self._new, self._folder, self._config = writer, folder, config
        self._writer: Any = None

    def __call__(self, report: Report) -> Answer:
        with _writing(self._folder):
            if self._writer is None:
                self._writer = self._new(logdir=str(self._folder))
                lines = json.dumps(self._config, indent=2, default=str).splitlines()
                self._writer.add_text("config", "\n".join(f"    {line}" for line in lines))  # indented is code: inert
            for name, value in finite(report.metrics).items():
                self._writer.add_scalar(name, value, report.state.epoch)
        return Answer()

    def close(self, status: str) -> None:
        if self._writer is not None:
            with _writing(self._folder):
                self._writer.close()


@dataclass(frozen=True)
class MLflow:
    """A run in an MLflow database: parameters, metrics, status; mlflow ui --backend-store-uri sqlite:///<store>.

    store       the SQLite file, a path from the run's folder; ../mlflow.db is one file for all jobs of a sweep
    experiment  the name under which MLflow lists the runs
    """

    name: ClassVar[str] = "mlflow"
    store: str = "mlflow.db"
    experiment: str = "trainer"

    def __post_init__(self) -> None:
        name = self.store.removeprefix("../")
        ok = (
            name == Path(name).name
            and name not in ("", ".", "..")
            and name.isprintable()
            and not set(name) & set("?#%")
        )
        require(ok, f"callbacks.mlflow.store must be a file name, or ../ and a file name, got {self.store!a}.")
        require(self.experiment.strip() != "", "callbacks.mlflow.experiment must not be empty.")

    def columns(self, objective: Objective) -> list[str]:
        return []

    def start(self, context: Context) -> Callback:
        return _MLflowWriter(self._modules(), self, context)

    def file(self, folder: Path) -> Path:
        """The store of a run in this folder."""
        return Path(os.path.normpath(folder.absolute() / self.store))

    def make(self, folder: Path) -> None:
        """Makes the tables of the store, and the experiment, if it lacks them.

        Several runs that share a store must find both: two processes that make them at once spoil each other's.
        """
        tracking, *_ = self._modules()
        store = self.file(folder)
        with _writing(store):
            store.parent.mkdir(parents=True, exist_ok=True)
            self.experiment_of(self.client(tracking, folder), store.parent)

    def client(self, tracking: Any, folder: Path) -> Any:
        """MLflow's client of the store; it makes the tables that are missing."""
        return tracking.MlflowClient(tracking_uri=f"sqlite:///{self.file(folder)}")

    def experiment_of(self, client: Any, folder: Path) -> str:
        """The experiment's id; of several runs that begin at once one makes it."""
        for _ in range(2):
            found = client.get_experiment_by_name(self.experiment)
            if found is not None:
                return str(found.experiment_id)
            try:
                place = (folder / "artifacts").as_uri()
                return str(client.create_experiment(self.experiment, artifact_location=place))
            except Exception as error:
                failure = error
        raise failure

    def _modules(self) -> list[Any]:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # it would report its use to its makers
        modules = _imported(self.name, "mlflow.tracking", "mlflow.entities", "sqlalchemy", "alembic")
        logging.getLogger("mlflow").setLevel(logging.WARNING)  # a line for each table that it makes
        logging.getLogger("alembic").setLevel(logging.WARNING)
        return modules


class _MLflowWriter:
    """Makes its run with the first report, when the folder of the run is there."""

    def __init__(self, modules: list[Any], settings: MLflow, context: Context) -> None:
        self._tracking, self._entities, *_ = modules
        self._settings, self._context, self._folder = settings, context, context.folder.absolute()
        self._client: Any = None
        self._run = ""

    def __call__(self, report: Report) -> Answer:
        with _writing(self._settings.file(self._folder)):
            if self._client is None:
                self._begin()
            self._add(report.metrics)
        return Answer()

    def _add(self, row: Mapping[str, float]) -> None:
        now, epoch = round(1000 * time.time()), int(row["epoch"])
        metrics = [self._entities.Metric(name, float(value), now, epoch) for name, value in finite(row).items()]
        self._client.log_batch(self._run, metrics=metrics)

    def _begin(self) -> None:
        self._client = self._settings.client(self._tracking, self._folder)
        experiment = self._settings.experiment_of(self._client, self._folder)
        self._run = self._client.create_run(experiment, run_name=self._folder.name).info.run_id
        self._client.set_tag(self._run, "folder", str(self._folder))
        values = [(name, value) for name, value in flat(self._context.config) if value != {}]
        texts = [self._entities.Param(name, str(value)[:LONGEST]) for name, value in values]
        for first in range(0, len(texts), AT_ONCE):
            self._client.log_batch(self._run, params=texts[first : first + AT_ONCE])
        for row in self._context.past:
            self._add(row)

    def close(self, status: str) -> None:
        if self._run:
            ends = {"diverged": "FAILED", "failed": "FAILED", "interrupted": "KILLED"}
            with _writing(self._settings.file(self._folder)):
                self._client.set_terminated(self._run, ends.get(status, "FINISHED"))


def finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """The numbers that can be drawn."""
    return {name: value for name, value in metrics.items() if name != "epoch" and math.isfinite(value)}


def _imported(extra: str, *names: str) -> list[Any]:
    """The modules of an extra, or a sentence that says how to install it."""
    try:
        return [import_module(name) for name in names]
    except ImportError as error:
        way = f"pip install 'softmax-trainer[{extra}]'"
        raise ConfigError(f"callbacks={extra} needs {error.name or names[0]}; install it by {way}.") from error


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """One FileError for whatever a logger's package raises while it writes: each has errors of its own."""
    try:
        yield
    except TrainerError:
        raise
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise FileError(f"{path} cannot be written: {type(error).__name__}: {reason}.") from error
