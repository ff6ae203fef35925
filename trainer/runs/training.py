"""One training: its parts and its data, all checked, and every file that it leaves in its folder.

What a run asks of its training stands in one class, so that run.py reads as the way of a run; hence the length.
"""

import os
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trainer import __version__
from trainer.arrays import Array
from trainer.chain.known import known
from trainer.data.features import Features, living_on
from trainer.data.places import name_of
from trainer.data.remote import is_remote
from trainer.data.rows import Data, Prepared, Source, for_training, prepare, split
from trainer.data.sources import File
from trainer.errors import ConfigError, DataError, counted, require, subject
from trainer.objective.blocks import predict
from trainer.objective.certificate import Certificate
from trainer.objective.cluster import Dask
from trainer.objective.problem import Problem
from trainer.objective.refusals import check_solver, check_targets, is_soft
from trainer.objective.threads import blas_on_one_thread
from trainer.optimizers.choosing import STEPS
from trainer.optimizers.fit import TrainState, columns
from trainer.runs import checkpoint, cross_validation, memory, path
from trainer.runs.callbacks.protocol import Callback, Context
from trainer.runs.checkpoint import Checkpoint
from trainer.runs.config import Settings
from trainer.runs.cross_validation import Chosen, Folded
from trainer.runs.evaluation import Evaluation, evaluated, shares_of
from trainer.runs.lock import Lock
from trainer.runs.model import Model
from trainer.runs.outputs import (
    PATH,
    RECORD,
    TABLE,
    Table,
    git_commit,
    shorter,
    tables_sha256,
    versions,
    write_record,
)
from trainer.runs.parts import Parts, title_of
from trainer.runs.text import kept


@dataclass(frozen=True)
class Result:
    """How a run ended, where its files are, and the last row of its table."""

    status: str  # finished, stopped (by a callback), diverged or interrupted
    folder: Path
    metrics: Mapping[str, float]


class Point(NamedTuple):
    """Where a run is: the state with all that belongs to it, so that an interruption finds them together."""

    state: TrainState
    status: str = "running"  # stopped once a callback or a solver has said so
    reason: str = ""
    converged: bool = False


class Ending(NamedTuple):
    """What a run has come to: the state that is kept and its metrics, why it ended, and what is proved of it."""

    state: TrainState
    metrics: Mapping[str, float]
    reason: str
    converged: bool
    proof: Certificate
    path: Mapping[str, Any] | None = None  # what run.json says of a path
    said: str = ""  # and the terminal
    missed: Collection[float] = ()  # strengths at which a solver has not converged


@dataclass
class Training:
    """What the steps of one run share, and what they write."""

    settings: Settings
    seed: int
    parts: Parts
    data: Prepared
    test: Data | None  # rows as they came, held out of everything
    plane: Data | None  # all rows as they came, where two features can be drawn
    folder: Path
    config: Mapping[str, Any]  # as it is kept
    fingerprint: str | None
    folded: Folded | None = None  # of which the strength of the penalty is to be chosen
    lock: Lock | None = None  # of the folder, once it is the run's
    chosen: Chosen | None = None
    short: float = 0.0  # seconds below which it does not wait for the disk

    def callbacks(self, past: Sequence[Mapping[str, float]] = ()) -> list[Callback]:
        """Fresh callbacks that know the rows of an earlier part of the run."""
        with_valid = self.settings.valid_fraction > 0
        names = [name for name in columns(self.parts.metrics) if with_valid or not name.startswith("val_")]
        context = Context(names, self.parts.objective, self.data.train, self.seed, past, self.folder, self.config)
        return [callback.start(context) for callback in self.parts.callbacks]

    def table(self, rows: Sequence[Mapping[str, float]]) -> Table:
        """metrics.csv, or path.csv of a path, with these rows so far."""
        parts = self.parts
        if parts.path:
            return Table(self.folder / PATH, path.columns(list(parts.metrics)), rows)
        checked = [name for callback in parts.callbacks for name in callback.columns(parts.objective)]
        return Table(self.folder / TABLE, [*columns(parts.metrics), *checked, "seconds"], rows)

    def start(self) -> TrainState:
        """The state before the first epoch, or before the first strength of a path."""
        scale = known(self.parts.objective.activation, "start_scale")
        start = TrainState.start(self.parts.optimizer, self.data.train, scale, self.seed)
        return replace(start, optimizer=()) if self.parts.path else start

    def check(self, found: Checkpoint) -> None:
        """DataError for a checkpoint that this run cannot go on from."""
        checkpoint.check(found, self.parts.optimizer, self.start(), self.fingerprint)
        changed = checkpoint.differences(found.config, self.config)
        if changed or found.seed != self.seed:
            seeds = f"seed was {found.seed} and is {self.seed}"
            raise DataError(f"The checkpoint in {self.folder} is of another run: {'; '.join(changed) or seeds}.")
        if self.parts.path:
            path.points_of(found.state, found.rows, self.parts.path)

    def check_folder(self) -> None:
        """FileError if the folder is no longer the one that the run began in."""
        if self.lock is not None:
            self.lock.check()

    def waits(self, seconds: float) -> bool:
        """Whether the files of a run that has taken so long wait for the disk: a short one is soon made again."""
        return seconds >= self.short

    def give_up(self, error: BaseException) -> None:
        """Says in run.json, if it can, that the run has failed."""
        reason = f"{type(error).__name__}: {error}".encode(errors="backslashreplace").decode()  # it may name a path
        content = {"status": "failed", "reason": reason, "table_sha256": tables_sha256(self.folder), **self.what()}
        with suppress(OSError):
            self.check_folder()  # another run may have begun there
            write_record(self.folder, content)

    def what(self) -> dict[str, Any]:
        return {
            "strategy": self.parts.strategy,
            "seed": self.seed,
            "data_sha256": self.fingerprint,
            "config": self.config,
        }

    def model(self, state: TrainState) -> Model:
        train, valid, standardizer = self.data
        chosen = {"seed": self.seed, "valid_fraction": self.settings.valid_fraction, "stratified": True}
        rows = {
            "train_rows": len(train),
            "valid_rows": 0 if valid is None else len(valid),
            "class_rows": np.bincount(train.labels, minlength=len(train.classes)).tolist(),
        }
        names = (train.classes, train.features, train.target)
        activation = self.parts.objective.activation
        return Model(state.w, standardizer, activation, *names, split=chosen | rows, columns=train.encoding)

    def evaluate(self, state: TrainState) -> dict[str, Evaluation]:
        """What the state is worth on the validation rows, else on the training rows, and on the test rows if any."""
        model, (train, valid, _), parts = self.model(state), self.data, self.parts
        activation, threads = parts.objective.activation, parts.objective.threads
        shares = shares_of(model.split, train)
        name, rows = ("training", train) if valid is None else ("validation", valid)
        found = {}
        if _has_targets(rows):
            with blas_on_one_thread():
                found[name] = evaluated(lambda x: predict(activation, state.w, x, threads), rows, activation, shares)
        if self.test is not None and _has_targets(self.test):
            found["test"] = evaluated(lambda x: model.predict(x, threads), self.test, activation, shares)
        return found

    def record(self, content: Mapping[str, Any]) -> None:
        """run.json; the last file of a run, so that one that calls itself finished has all of them."""
        self.check_folder()
        waits = self.waits(content["seconds"])
        if not waits:  # to exchange a file that was only just written takes ext4 a millisecond or two
            (self.folder / RECORD).unlink(missing_ok=True)
        write_record(self.folder, content, waits)

    def what_came(self, result: Result, end: Ending, seconds: float) -> dict[str, Any]:
        """What run.json says in the end, with the SHA-256 of the table as the run leaves it."""
        model = self.model(end.state)
        return {
            "status": result.status,
            "reason": end.reason,
            "converged": end.converged,
            "metrics": result.metrics,
            **({"path": end.path} if end.path else {}),
            **({"cross_validation": self.chosen.record} if self.chosen else {}),
            "gap": end.proof.gap,
            "gap_reason": end.proof.why,
            "epochs": end.state.epoch,
            "threads": self.parts.objective.threads,
            "split": model.split,
            "standardization": {"mean": model.standardizer.mean.tolist(), "scale": model.standardizer.scale.tolist()},
            "seconds": round(seconds, 6),
            "versions": {"trainer": __version__, **versions()},
            "git_commit": git_commit(),
            "table_sha256": tables_sha256(self.folder),
            **self.what(),
        }

    def title(self) -> str:
        """The pair and the strategy, over the pictures."""
        objective = self.parts.objective
        return f"{title_of(objective.activation)} + {title_of(objective.loss)}, gradient {self.parts.strategy}"


def prepared(
    settings: Settings,
    seed: int,
    parts: Parts,
    folder: Path,
    recorded: Mapping[str, Any] | None,
    share: Callable[..., Any] | None = None,
) -> Training:
    """The run with its data, all checked; share keeps what runs on the same rows have in common, by its name."""
    source, choice, share = parts.source, parts.choice, share or (lambda name, make, any_seed=False: make())
    with living_on(parts.engine.connect()):
        fingerprint, rows = share(
            "file", lambda: (_fingerprint(source), source(seed)), any_seed=isinstance(source, File)
        )
        raw, test = share("held out", lambda: _held_out(settings, seed, source, rows))
    if isinstance(parts.engine, Dask) and not isinstance(raw.x, Features):
        raise ConfigError(
            f"engine=dask reads rows where they are, and data.path={name_of(settings.data['path'])} can only be read "
            "whole; convert it to .parquet or .npy, and leave data.in_memory out."
        )
    beside = memory.of_run(raw, len(parts.path) if choice is None else len(choice.penalties) or STEPS)
    beside += 0 if choice is None else memory.of_folds(raw, choice.folds, parts.objective.threads)
    memory.check_fit(Problem(parts.objective, raw), parts.optimizer, settings.dtype, parts.batch_size, beside)
    data = share("prepared", lambda: _ready(settings, seed, raw, test))
    folded = None if choice is None else cross_validation.folded(data.train, choice, settings, seed)
    smoothing, weights = settings.label_smoothing, settings.class_weight
    data = data._replace(train=share("to train on", lambda: for_training(data.train, smoothing, weights)))
    for part in (data.train, data.valid):
        if part is not None:
            check_targets(parts.objective.loss, part.y, part.smoothing)
    if parts.optimizer.full_batch:
        check_solver(parts.optimizer.name, *parts.objective.pair, parts.strategy, is_soft(data.train.y))
    if parts.batch_size is not None and parts.batch_size > len(data.train):
        warnings.warn(
            f"batch_size={parts.batch_size} is more than the {len(data.train)} training samples; all are used.",
            stacklevel=1,
        )
    warmup = getattr(parts.schedule, "warmup", 0.0)
    if warmup >= settings.epochs > 0:
        warnings.warn(
            f"schedule.warmup={warmup:g} is not shorter than the run of epochs={settings.epochs}, so the learning rate "
            "rises to the end and never falls. Lower schedule.warmup, or raise epochs.",
            stacklevel=1,
        )
    plane = raw if settings.plots and len(raw.features) == 2 and isinstance(raw.x, np.ndarray) else None
    config = kept(asdict(settings) if recorded is None else recorded)
    return Training(settings, seed, parts, data, test, plane, folder, config, fingerprint, folded)


def _held_out(settings: Settings, seed: int, source: Source, rows: Data) -> tuple[Data, Data | None]:
    """The rows to learn from, and those held out of everything, their columns encoded."""
    raw, test = split(rows, settings.test_fraction, seed, "test_fraction")
    if isinstance(source, File):
        require(not (test and source.test_path), "test_fraction and data.test_path are two test sets; leave one out.")
    if raw.encoding is not None:
        known, _ = split(raw, settings.valid_fraction, seed)  # means and levels are those of the training rows alone
        encoding = raw.encoding.fit(known.x, name_of(settings.data["path"]))
        memory.check(8 * len(raw) * len(encoding.names), "Encoding the columns", "Drop some, or convert to .parquet.")
        raw, test = raw.encoded(encoding), None if test is None else test.encoded(encoding)
    if isinstance(source, File):
        test = test or source.test(raw)
    return raw, test


def _ready(settings: Settings, seed: int, raw: Data, test: Data | None) -> Prepared:
    """The rows to train and to validate on, some of which count."""
    data = prepare(
        raw,
        valid_fraction=settings.valid_fraction,
        standardize=settings.standardize,
        seed=seed,
        dtype=settings.dtype,
    )
    if data.valid is not None:
        seen, asked = (_classes_in(part) for part in (data.train, data.valid))
        if lost := [str(name) for name, there in zip(raw.classes, asked & ~seen, strict=True) if there]:
            warnings.warn(
                f"{subject('Class', 'Classes', lost)} no training row, only validation rows, and cannot be learnt. "
                f"Lower valid_fraction={settings.valid_fraction}, or remove what has too few rows.",
                stacklevel=1,
            )
    for name, part in (("training", data.train), ("validation", data.valid), ("test", test)):
        if part is not None and part.weight is not None and not part.weight.any():
            raise DataError(f"All {name} rows weigh 0, so none counts. Give some a weight, or split by another seed.")
    return data


def _has_targets(data: Data) -> bool:
    return data.y.ndim == 1 or bool(data.y.any())


def _classes_in(data: Data) -> Array:
    """Which classes (K,) have a target in some row."""
    counts: Array = np.bincount(data.y, minlength=len(data.classes)) if data.y.ndim == 1 else data.y.sum(axis=0)
    return counts > 0


def _fingerprint(source: Source) -> str | None:
    """That of the data files, and of those of labels if they have their own; None where no file is read."""
    if not isinstance(source, File):
        return None
    return checkpoint.fingerprint([path for path in source.paths if is_remote(path) or os.path.isfile(path)])


def drawn(metrics: Collection[str]) -> str | None:
    """The metric beside the loss in curves.png: accuracy, or the first one listed."""
    return "accuracy" if "accuracy" in metrics else next(iter(metrics), None)


def summary(result: Result, metrics: Collection[str], seconds: float, files: Sequence[Path]) -> list[str]:
    """What the terminal shows at the end: status, last metrics, and where the files are."""
    names = [side + name for name in ("loss", *metrics) for side in ("", "val_")]
    shown = [name for name in names if name in result.metrics]
    numbers = "  ".join(f"{name} {result.metrics[name]:.4g}" for name in shown)
    epochs = int(result.metrics.get("epoch", 0))
    lines = [f"{result.status} after {counted(epochs, 'epoch')} in {seconds:.2f} s  {numbers}".rstrip()]
    return [*lines, f"  in {shorter(result.folder)}: {', '.join(file.name for file in files)}"]
