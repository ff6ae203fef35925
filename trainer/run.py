"""One experiment from settings to files: data, objective, fit, callbacks, results.  It knows nothing of Hydra.

Everything that can be refused is refused before the first file is written.
"""

import logging
import os
import secrets
import time
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from trainer import __version__, checkpoint, path
from trainer.activations import ACTIVATIONS
from trainer.callbacks import CALLBACKS
from trainer.checkpoint import Checkpoint
from trainer.config import Settings, build, choose, structured
from trainer.data import Data, Prepared, Source, for_training, prepare
from trainer.errors import ConfigError, DataError, Diverged
from trainer.fit import Report, TrainState, columns, fit, samples_a_step
from trainer.gradients import GradientChoice
from trainer.hooks import Callback, CallbackConfig, Context, close
from trainer.losses import LOSSES
from trainer.metrics import Metric, choose_metrics
from trainer.model import Model
from trainer.objective import Objective
from trainer.optimizers import OPTIMIZERS, SCHEDULES, Optimizer, Schedule
from trainer.optimizers.proximal import check_penalty
from trainer.outputs import (
    RECORD,
    TABLE,
    Lock,
    Table,
    claim,
    git_commit,
    move_log,
    process,
    read_record,
    remove_parts,
    versions,
    write_json,
)
from trainer.pairs import check_smooth, check_targets, strategy_of
from trainer.penalties import PENALTIES, Penalty, expand, strengths
from trainer.progress import RowBar
from trainer.sources import SOURCES, File

log = logging.getLogger("trainer")


class Parts(NamedTuple):
    """The components that the settings name, checked alone and together."""

    objective: Objective
    strategy: str  # the gradient strategy that runs; auto is resolved
    optimizer: Optimizer
    batch_size: int | None
    schedule: Schedule
    source: Source
    metrics: dict[str, Metric]
    callbacks: list[CallbackConfig]
    path: list[Penalty]  # the penalties of a regularisation path, the strongest first; empty for one training


@dataclass(frozen=True)
class Result:
    """How a run ended, where its files are, and the last row of its table."""

    status: str  # finished, stopped (by a callback), diverged or interrupted
    folder: Path
    metrics: Mapping[str, float]


def assemble(settings: Settings) -> Parts:
    """Builds every component; ConfigError for whatever does not exist or does not fit together."""
    activation = build("activation", ACTIVATIONS, settings.activation)
    loss = build("loss", LOSSES, settings.loss)
    choice = structured("gradient", GradientChoice, settings.gradient)
    strategy, function = strategy_of(activation, loss, choice)
    chosen = build("penalty", PENALTIES, settings.penalty)
    penalty, *_ = penalties = expand(chosen)
    experiment = None if settings.experiment is None else settings.experiment["name"]
    path.check_path(chosen, list(settings.callbacks), experiment)
    callbacks = [
        structured(f"callbacks.{name}", CALLBACKS[choose("callbacks", CALLBACKS, name)], node or {})
        for name, node in settings.callbacks.items()
    ]
    threads = settings.threads or available_cores()
    optimizer, schedule = (
        build("optimizer", OPTIMIZERS, settings.optimizer),
        build("schedule", SCHEDULES, settings.schedule),
    )
    check_penalty(optimizer.name, penalty)
    if optimizer.full_batch:
        check_smooth(optimizer.name, activation, loss)
    return Parts(
        Objective(activation, loss, function, penalty, threads, settings.reduction),
        strategy,
        optimizer,
        samples_a_step(settings.batch_size, optimizer, schedule),
        schedule,
        build("data", SOURCES, settings.data),
        choose_metrics(settings.metrics, activation),
        callbacks,
        [] if strengths(chosen) is None else penalties,
    )


def available_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(settings: Settings, folder: Path, recorded: Mapping[str, Any] | None = None) -> Result | None:
    """Trains as the settings say and leaves metrics.csv, model.npz, run.json and the pictures in the folder.

    A folder that has a run already stays as it is: the new one is put beside it, with a number; see Result.folder.
    recorded is the configuration as run.json is to keep it, by default the settings.  With settings.experiment the
    experiment takes the place of the training and there is no result.  Raises Diverged, after writing, if it did.
    """
    seed = secrets.randbits(32) if settings.seed is None else settings.seed
    parts = assemble(settings)
    if settings.experiment is not None:
        from trainer.experiments import EXPERIMENTS

        experiment = build("experiment", EXPERIMENTS, settings.experiment)
        taken, lock = claim(folder)
        with lock:
            move_log(folder, taken)
            experiment(replace(settings, seed=seed), parts.objective, taken, log.info)
        return None
    training = _prepared(settings, seed, parts, folder, recorded)
    training.callbacks()  # refused, if need be, before there is a folder
    taken, lock = claim(folder)
    with lock:
        move_log(folder, taken)
        log.info(headline(parts, settings))
        training = replace(training, folder=taken)
        return training.along_the_path() if parts.path else training.go(None)


def resume(settings: Settings, folder: Path, recorded: Mapping[str, Any] | None = None) -> Result | None:
    """Goes on with the run in the folder, from its checkpoint to the bits of a run that was never interrupted.

    The settings are those that the run began with, but for epochs.  None if it is already finished; without a
    checkpoint it starts anew.  ConfigError if the settings differ, or another process is at work in the folder.
    """
    record = read_record(folder)
    config = asdict(settings) if recorded is None else recorded
    checkpoint.require_same(record["config"], config, folder)
    parts = assemble(settings)
    if parts.path:
        raise ConfigError(f"{folder} is a run along the strengths of a penalty, which has no checkpoint; run it again.")
    with Lock(folder):
        record = read_record(folder)  # another process may have finished it just now
        done = int(record.get("epochs", 0))
        ended = record["status"] == "stopped" or (record["status"] == "finished" and record.get("converged"))
        if ended or (record["status"] == "finished" and done >= settings.epochs):
            why = f": {record['reason']}" if record.get("reason") else ""
            way = "" if ended else " Raise epochs to go on."
            log.info(f"{shorter(folder)} is already finished, after {done} epochs{why or '.'}{way}")
            return None
        remove_parts(folder)
        training = _prepared(settings, int(record["seed"]), parts, folder, recorded)
        if training.fingerprint != record.get("data_sha256"):
            raise ConfigError(
                f"data.path={settings.data.get('path')} has changed since {folder} began, so the run cannot go on. "
                "Bring the old file back, or start a new run."
            )
        found = checkpoint.latest(folder, training.check)
        if found is None and record["status"] == "finished":
            raise ConfigError(f"{folder} has finished without a checkpoint, so it cannot go on; start a new run.")
        log.info(headline(parts, settings))
        if found is None:
            log.info(f"{shorter(folder)} has no checkpoint yet, so it starts anew.")
        else:
            log.info(f"{shorter(folder)} goes on after epoch {found.state.epoch}.")
            if settings.epochs != record["config"].get("epochs") and settings.schedule["name"] != "constant":
                warnings.warn(
                    f"schedule={settings.schedule['name']} depends on epochs, which was "
                    f"{record['config'].get('epochs')} so far: a run with epochs={settings.epochs} from the start "
                    "would have had other learning rates.",
                    stacklevel=1,
                )
        return training.go(found)


def _prepared(settings: Settings, seed: int, parts: Parts, folder: Path, recorded: Mapping[str, Any] | None) -> "_Run":
    """The run with its data, all checked."""
    fingerprint = _fingerprint(parts.source)
    raw = parts.source(seed)
    data = prepare(
        raw,
        valid_fraction=settings.valid_fraction,
        standardize=settings.standardize,
        seed=seed,
        dtype=settings.dtype,
    )
    data = data._replace(train=for_training(data.train, settings.label_smoothing, settings.class_weight))
    for part in (data.train, data.valid):
        if part is not None:
            check_targets(parts.objective.loss, part.y, part.smoothing)
    if parts.batch_size is not None and parts.batch_size > len(data.train):
        warnings.warn(
            f"batch_size={parts.batch_size} is more than the {len(data.train)} training samples; all are used.",
            stacklevel=1,
        )
    return _Run(settings, seed, parts, raw, data, folder, recorded, fingerprint)


def _fingerprint(source: Source) -> str | None:
    """That of the data file, and of the file of its labels if they have their own; None where no file is read."""
    if not isinstance(source, File):
        return None
    paths = [Path(source.path)]
    if source.target is not None and source.target.lower().endswith(".npy"):
        paths.append(Path(source.target))
    try:
        return checkpoint.fingerprint([path for path in paths if path.is_file()])
    except ValueError:  # a path with a NUL, for the reader to refuse
        return None


def headline(parts: Parts, settings: Settings) -> str:
    """The pair, the strategy and the optimiser in one line."""
    objective = parts.objective
    chosen = settings.gradient["name"]
    strategy = parts.strategy if chosen == parts.strategy else f"{parts.strategy} (chosen by {chosen})"
    return f"{objective.activation!r} with {objective.loss!r}, gradient {strategy}, {parts.optimizer!r}"


class _Point(NamedTuple):
    """Where a run is: the state with all that belongs to it, so that an interruption finds them together."""

    state: TrainState
    status: str = "running"  # stopped once a callback or a solver has said so
    reason: str = ""
    converged: bool = False


@dataclass
class _Run:
    """What the steps of one run share."""

    settings: Settings
    seed: int
    parts: Parts
    raw: Data
    data: Prepared
    folder: Path
    recorded: Mapping[str, Any] | None
    fingerprint: str | None

    @property
    def config(self) -> Mapping[str, Any]:
        """The configuration as it is kept."""
        return asdict(self.settings) if self.recorded is None else self.recorded

    def callbacks(self, past: Sequence[Mapping[str, float]] = ()) -> list[Callback]:
        """Fresh callbacks that know the rows of an earlier part of the run."""
        with_valid = self.settings.valid_fraction > 0
        names = [name for name in columns(self.parts.metrics) if with_valid or not name.startswith("val_")]
        context = Context(names, self.parts.objective, self.data.train, self.seed, past, self.folder, self.config)
        return [callback.start(context) for callback in self.parts.callbacks]

    def header(self) -> list[str]:
        """The columns of metrics.csv."""
        parts = self.parts
        checked = [name for callback in parts.callbacks for name in callback.columns(parts.objective)]
        return [*columns(parts.metrics), *checked, "seconds"]

    def start(self) -> TrainState:
        """The state before the first epoch."""
        scale = getattr(self.parts.objective.activation, "start_scale", 0.0)
        return TrainState.start(self.parts.optimizer, self.data.train, scale, self.seed)

    def check(self, found: Checkpoint) -> None:
        """DataError for a checkpoint that this run cannot go on from."""
        checkpoint.checks(self.parts.optimizer, self.start(), self.fingerprint)(found)
        changed = checkpoint.differences(found.config, self.config)
        if changed or found.seed != self.seed:
            seeds = f"seed was {found.seed} and is {self.seed}"
            raise DataError(f"The checkpoint in {self.folder} is of another run: {'; '.join(changed) or seeds}.")

    def go(self, found: Checkpoint | None) -> Result:
        """Trains from a checkpoint, or from the start, to the end."""
        settings, parts, (train, valid, _) = self.settings, self.parts, self.data
        rows: list[Mapping[str, float]] = [] if found is None else list(found.rows)
        point = _Point(self.start())
        earlier = 0.0
        if found is not None:
            reason = found.reason if found.ended else ""  # that of an interruption is over
            point = _Point(found.state, "stopped" if found.status == "stopped" else "running", reason, found.converged)
            earlier = found.seconds
        callbacks = self.callbacks(rows)
        status, failure = "finished", None
        began = time.perf_counter() - earlier
        due = time.perf_counter() + checkpoint.EVERY
        self.announce()
        done = RowBar()
        reports = fit(
            replace(parts.objective, progress=done),
            parts.optimizer,
            train,
            valid,
            point.state,
            epochs=point.state.epoch if found is not None and found.ended else settings.epochs,
            batch_size=parts.batch_size,
            seed=self.seed,
            schedule=parts.schedule,
            metrics=parts.metrics,
        )
        try:
            with Table(self.folder / TABLE, self.header(), rows) as table:
                # disable=None: no bar where there is no terminal
                bar = tqdm(
                    reports,
                    total=settings.epochs,
                    initial=point.state.epoch,
                    unit="epoch",
                    leave=False,
                    disable=None,
                )
                for report in bar:
                    done.finish()
                    answers = [callback(report) for callback in callbacks]  # every one sees every report
                    numbers = {name: value for answer in answers for name, value in answer.numbers.items()}
                    stop = " ".join(answer.stop for answer in answers if answer.stop)
                    rows.append({**report.metrics, **numbers, "seconds": round(time.perf_counter() - began, 6)})
                    table.add(rows[-1])
                    ended = "stopped" if stop or report.stalled else "running"
                    reason = stop or report.stalled or report.converged
                    point = _Point(report.state, ended, reason, bool(report.converged))
                    if stop:
                        break
                    if settings.checkpoint and not reason and time.perf_counter() >= due:
                        due = self.keep(rows, point, "running", began)
        except (Diverged, KeyboardInterrupt) as error:
            status = "diverged" if isinstance(error, Diverged) else "interrupted"
            point, failure = point._replace(reason=point.reason or str(error)), error
        except BaseException as error:
            status = "failed"
            self.give_up(error)
            raise
        finally:
            done.finish()
            close(callbacks, status)
        if point.status == "stopped":
            status = "stopped"
        elif point.converged:
            status = "finished"
        try:
            return self.finish(rows, point, status, began, failure)
        except KeyboardInterrupt as error:
            if error is not failure:  # it came while the files were written
                self.finish(rows, point, "interrupted", began, error)
            raise
        except Exception as error:
            if error is not failure:
                self.give_up(error)
            raise

    def finish(
        self,
        rows: list[Mapping[str, float]],
        point: _Point,
        status: str,
        began: float,
        failure: BaseException | None,
    ) -> Result:
        """Writes what a run leaves once no more epochs come, and raises the failure, if it had one."""
        settings, parts, state = self.settings, self.parts, point.state
        if status == "stopped":
            log.info(f"Stopped by {point.reason}")
        reason = point.reason
        if parts.optimizer.full_batch and status == "finished":
            reason = reason or f"No convergence within epochs={settings.epochs}; raise it."
            log.info(f"Converged: {reason}" if point.converged else reason)
        seconds = time.perf_counter() - began
        if status == "interrupted":  # perhaps between a row and its state
            del rows[state.epoch :]
            with Table(self.folder / TABLE, self.header(), rows):
                pass
        result = Result(status, self.folder, rows[-1] if rows else {})
        model = self.model(state)
        model.save(self.folder / "model.npz")
        if settings.checkpoint:
            self.keep(rows, point._replace(reason=reason), status, began)
        files = self.draw(rows, state) if settings.plots and rows and status != "interrupted" else []
        self.record(result, state, seconds, reason, point.converged)
        for line in summary(result, parts.metrics, seconds, [self.folder / "model.npz", *files]):
            log.info(line)
        if failure is not None:
            raise failure
        return result

    def keep(self, rows: Sequence[Mapping[str, float]], point: _Point, status: str, began: float) -> float:
        """Writes a checkpoint; returns when the next one may come."""
        start = time.perf_counter()
        now = Checkpoint(
            point.state,
            rows,
            start - began,
            "stopped" if point.status == "stopped" else status,
            point.reason,
            point.converged,
            self.seed,
            self.config,
            self.fingerprint,
        )
        checkpoint.keep(self.folder, now)
        end = time.perf_counter()
        return end + max(checkpoint.EVERY, (end - start) / checkpoint.SHARE)

    def announce(self) -> None:
        """Says in run.json that the run is under way, and what it is, so that it can be told from a finished one."""
        content = {"status": "running", **process(), **self.what()}
        write_json(self.folder / RECORD, content, durable=False)  # nothing is lost yet, and a disk takes its time

    def give_up(self, error: BaseException) -> None:
        """Says in run.json, if it can, that the run has failed."""
        reason = f"{type(error).__name__}: {error}"
        with suppress(OSError):
            write_json(self.folder / RECORD, {"status": "failed", "reason": reason, **self.what()})

    def what(self) -> dict[str, Any]:
        """What a run is, from its beginning to its end."""
        return {
            "strategy": self.parts.strategy,
            "seed": self.seed,
            "data_sha256": self.fingerprint,
            "config": self.config,
        }

    def along_the_path(self) -> Result:
        """One training for each strength of the penalty, as go is one; see trainer.path."""
        settings, parts, (train, valid, _) = self.settings, self.parts, self.data
        start = self.start()
        points: list[path.Point] = []
        status, reason, failure = "finished", "", None
        began = time.perf_counter()
        self.announce()

        def reports(objective: Objective, state: TrainState) -> Iterator[Report]:
            return fit(
                objective,
                parts.optimizer,
                train,
                valid,
                state,
                epochs=settings.epochs,
                batch_size=parts.batch_size,
                seed=self.seed,
                schedule=parts.schedule,
                metrics=parts.metrics,
            )

        fitted = path.fit_path(parts.objective, parts.path, start, parts.optimizer.init, reports)
        with Table(self.folder / "path.csv", path.columns(list(parts.metrics))) as table:
            try:
                for point in tqdm(fitted, total=len(parts.path), unit="strength", leave=False, disable=None):
                    points.append(point)
                    table.add(point.row)
            except (Diverged, KeyboardInterrupt) as error:
                status = "diverged" if isinstance(error, Diverged) else "interrupted"
                reason, failure = str(error), error
        seconds = time.perf_counter() - began
        if not points:
            result = Result(status, self.folder, {})
            self.write(result, start, seconds, reason, False)
        else:
            kept, why = path.best(points)
            late = [f"{point.strength:g}" for point in points if not point.converged]
            if parts.optimizer.full_batch and status == "finished" and late:
                reason = f"No convergence within epochs={settings.epochs} at strength {', '.join(late)}; raise it."
                log.info(reason)
            result = Result(status, self.folder, kept.metrics)
            record = {"path": {"strength": kept.strength, "chosen_by": why, "strengths": [p.strength for p in points]}}
            self.write(result, kept.state, seconds, reason or kept.converged, not late, record)
            names = (self.raw.classes, self.raw.features)
            files = [
                path.write_coefficients(self.folder / "coefficients.csv", points, *names),
                self.folder / "model.npz",
            ]
            if settings.plots and status != "interrupted":
                files.append(path.draw(self.folder / "path.png", points, *names, self.title()))
            log.info(f"{len(points)} strengths in {seconds:.2f} s; kept {kept.strength:g}, {why}")
            for line in summary(result, parts.metrics, seconds, files):
                log.info(line)
        if failure is not None:
            raise failure
        return result

    def model(self, state: TrainState) -> Model:
        train, valid, standardizer = self.data
        chosen = {"seed": self.seed, "valid_fraction": self.settings.valid_fraction, "stratified": True}
        rows = {"train_rows": len(train), "valid_rows": 0 if valid is None else len(valid)}
        names = (self.raw.classes, self.raw.features, self.raw.target)
        return Model(state.w, standardizer, self.parts.objective.activation, *names, split=chosen | rows)

    def write(
        self,
        result: Result,
        state: TrainState,
        seconds: float,
        reason: str,
        converged: bool,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        """The model, and the record of how the run has ended."""
        self.model(state).save(self.folder / "model.npz")
        self.record(result, state, seconds, reason, converged, more)

    def record(
        self,
        result: Result,
        state: TrainState,
        seconds: float,
        reason: str,
        converged: bool,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        """run.json; the last file of a run, so that one that calls itself finished has all of them."""
        model = self.model(state)
        content = {
            "status": result.status,
            "reason": reason,
            "converged": converged,
            "metrics": result.metrics,
            **(more or {}),
            "epochs": state.epoch,
            "threads": self.parts.objective.threads,
            "split": model.split,
            "standardization": {"mean": model.standardizer.mean.tolist(), "scale": model.standardizer.scale.tolist()},
            "seconds": round(seconds, 6),
            "versions": {"trainer": __version__, **versions()},
            "git_commit": git_commit(),
            **self.what(),
        }
        write_json(self.folder / RECORD, content)

    def title(self) -> str:
        """The pair and the strategy, over the pictures."""
        objective = self.parts.objective
        return f"{title_of(objective.activation)} + {title_of(objective.loss)}, gradient {self.parts.strategy}"

    def draw(self, rows: Sequence[Mapping[str, float]], state: TrainState) -> list[Path]:
        from trainer import plots  # matplotlib is slow to import

        title = self.title()
        files = [plots.curves(self.folder / "curves.png", rows, title, drawn(self.parts.metrics))]
        if len(self.raw.features) == 2 and isinstance(self.raw.x, np.ndarray):
            files.append(plots.boundary(self.folder / "boundary.png", self.model(state), self.raw, title))
        return files


def title_of(component: Any) -> str:
    """A component as a person writes it: its name, and its settings where they are not the defaults."""
    changed = [
        f"{f.name}={getattr(component, f.name)}" for f in fields(component) if getattr(component, f.name) != f.default
    ]
    return str(component.name) + (f"({', '.join(changed)})" if changed else "")


def drawn(metrics: Collection[str]) -> str | None:
    """The metric beside the loss in curves.png: accuracy, or the first one listed."""
    return "accuracy" if "accuracy" in metrics else next(iter(metrics), None)


def summary(result: Result, metrics: Collection[str], seconds: float, files: Sequence[Path]) -> list[str]:
    """What the terminal shows at the end: status, last metrics, and where the files are."""
    names = [side + name for name in ("loss", *metrics) for side in ("", "val_")]
    shown = [name for name in names if name in result.metrics]
    numbers = "  ".join(f"{name} {result.metrics[name]:.4g}" for name in shown)
    epochs = int(result.metrics.get("epoch", 0))
    lines = [f"{result.status} after {epochs} epochs in {seconds:.2f} s  {numbers}".rstrip()]
    return lines + [f"  {file.stem:<9} {shorter(file)}" for file in files]


def shorter(path: Path) -> Path:
    """A path relative to the working folder where it lies inside."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
