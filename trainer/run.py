"""One experiment from settings to files: data, objective, fit, callbacks, results.  It knows nothing of Hydra.

Everything that can be refused is refused before the first file is written.
"""

import logging
import os
import secrets
import time
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from trainer import __version__, path
from trainer.activations import ACTIVATIONS
from trainer.callbacks import CALLBACKS, Callback, CallbackConfig, Context
from trainer.config import Settings, build, choose, structured
from trainer.data import Data, Prepared, Source, for_training, prepare
from trainer.errors import Diverged
from trainer.fit import Report, TrainState, columns, fit, samples_a_step
from trainer.gradients import GradientChoice
from trainer.losses import LOSSES
from trainer.metrics import Metric, choose_metrics
from trainer.model import Model
from trainer.objective import Objective
from trainer.optimizers import OPTIMIZERS, SCHEDULES, Optimizer, Schedule
from trainer.optimizers.proximal import check_penalty
from trainer.outputs import Table, git_commit, versions, write_json, writing
from trainer.pairs import check_smooth, check_targets, strategy_of
from trainer.penalties import PENALTIES, Penalty, expand, strengths
from trainer.progress import RowBar
from trainer.sources import SOURCES

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

    recorded is the configuration as run.json is to keep it, by default the settings.  With settings.experiment the
    experiment takes the place of the training and there is no result.  Raises Diverged, after writing, if it did.
    """
    seed = secrets.randbits(32) if settings.seed is None else settings.seed
    parts = assemble(settings)
    if settings.experiment is not None:
        from trainer.experiments import EXPERIMENTS

        experiment = build("experiment", EXPERIMENTS, settings.experiment)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        experiment(replace(settings, seed=seed), parts.objective, folder, log.info)
        return None
    names = [name for name in columns(parts.metrics) if settings.valid_fraction > 0 or not name.startswith("val_")]
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
    context = Context(names, parts.objective, data.train, seed)
    callbacks = [callback.start(context) for callback in parts.callbacks]
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    log.info(headline(parts, settings))
    training = _Run(settings, seed, parts, raw, data, folder, recorded)
    return training.along_the_path() if parts.path else training.go(callbacks)


def headline(parts: Parts, settings: Settings) -> str:
    """The pair, the strategy and the optimiser in one line."""
    objective = parts.objective
    chosen = settings.gradient["name"]
    strategy = parts.strategy if chosen == parts.strategy else f"{parts.strategy} (chosen by {chosen})"
    return f"{objective.activation!r} with {objective.loss!r}, gradient {strategy}, {parts.optimizer!r}"


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

    def go(self, callbacks: Sequence[Callback]) -> Result:
        settings, parts, (train, valid, _) = self.settings, self.parts, self.data
        scale = getattr(parts.objective.activation, "start_scale", 0.0)
        state = TrainState.start(parts.optimizer, train, scale, self.seed)
        rows: list[dict[str, float]] = []
        status, reason, failure, converged = "finished", "", None, False
        checked = [name for callback in parts.callbacks for name in callback.columns(parts.objective)]
        began = time.perf_counter()
        done = RowBar()
        reports = fit(
            replace(parts.objective, progress=done),
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
        with Table(self.folder / "metrics.csv", [*columns(parts.metrics), *checked, "seconds"]) as table:
            try:
                # disable=None: no bar where there is no terminal
                for report in tqdm(reports, total=settings.epochs, unit="epoch", leave=False, disable=None):
                    done.finish()
                    answers = [callback(report) for callback in callbacks]  # every one sees every report
                    numbers = {name: value for answer in answers for name, value in answer.numbers.items()}
                    state, converged = report.state, bool(report.converged)
                    rows.append({**report.metrics, **numbers, "seconds": round(time.perf_counter() - began, 6)})
                    table.add(rows[-1])
                    if reason := " ".join(answer.stop for answer in answers if answer.stop):
                        status = "stopped"
                        break
                    if reason := report.stalled:
                        status = "stopped"
                    else:
                        reason = report.converged
            except (Diverged, KeyboardInterrupt) as error:
                status = "diverged" if isinstance(error, Diverged) else "interrupted"
                reason, failure = str(error), error
            finally:
                done.finish()
        if status == "stopped":
            log.info(f"Stopped by {reason}")
        if parts.optimizer.full_batch and status == "finished":
            reason = reason or f"No convergence within epochs={settings.epochs}; raise it."
            log.info(f"Converged: {reason}" if converged else reason)
        seconds = time.perf_counter() - began
        result = Result(status, self.folder, rows[-1] if rows else {})
        self.write(result, state, seconds, reason, converged)
        files = self.draw(rows, state) if settings.plots and rows and status != "interrupted" else []
        for line in summary(result, parts.metrics, seconds, [self.folder / "model.npz", *files]):
            log.info(line)
        if failure is not None:
            raise failure
        return result

    def along_the_path(self) -> Result:
        """One training for each strength of the penalty, as go is one; see trainer.path."""
        settings, parts, (train, valid, _) = self.settings, self.parts, self.data
        scale = getattr(parts.objective.activation, "start_scale", 0.0)
        start = TrainState.start(parts.optimizer, train, scale, self.seed)
        points: list[path.Point] = []
        status, reason, failure = "finished", "", None
        began = time.perf_counter()

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
        model = self.model(state)
        model.save(self.folder / "model.npz")
        content = {
            "status": result.status,
            "reason": reason,
            "converged": converged,
            "metrics": result.metrics,
            **(more or {}),
            "epochs": state.epoch,
            "strategy": self.parts.strategy,
            "seed": self.seed,
            "threads": self.parts.objective.threads,
            "split": model.split,
            "standardization": {"mean": model.standardizer.mean.tolist(), "scale": model.standardizer.scale.tolist()},
            "seconds": round(seconds, 6),
            "versions": {"trainer": __version__, **versions()},
            "git_commit": git_commit(),
            "config": self.recorded if self.recorded is not None else asdict(self.settings),
        }
        write_json(self.folder / "run.json", content)

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
