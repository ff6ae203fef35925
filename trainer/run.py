"""One experiment from settings to files: data, objective, fit, callbacks, results.  It knows nothing of Hydra.

Everything that can be refused is refused before the first file is written.
"""

import logging
import secrets
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from trainer import checkpoint, path
from trainer.checkpoint import Checkpoint
from trainer.config import Settings, build
from trainer.errors import ConfigError, Diverged, require
from trainer.fit import Report, TrainState, fit
from trainer.hooks import close
from trainer.objective import Objective
from trainer.outputs import TABLE, Lock, Table, claim, move_log, read_record, remove_parts, shorter
from trainer.parts import assemble, headline
from trainer.progress import RowBar
from trainer.training import Point, Result, Training, prepared, summary

log = logging.getLogger("trainer")


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
        own = f"experiment={experiment.name} makes its own data and would not read data=file; leave that out."
        require(settings.data["name"] != "file", own)
        taken, lock = claim(folder)
        with lock:
            move_log(folder, taken)
            experiment(replace(settings, seed=seed), parts.objective, taken, log.info)
        return None
    training = prepared(settings, seed, parts, folder, recorded)
    training.callbacks()  # refused, if need be, before there is a folder
    taken, lock = claim(folder)
    with lock:
        move_log(folder, taken)
        log.info(headline(parts, settings))
        training = replace(training, folder=taken)
        return _along_the_path(training) if parts.path else _go(training, None)


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
        training = prepared(settings, int(record["seed"]), parts, folder, recorded)
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
        return _go(training, found)


def _go(training: Training, found: Checkpoint | None) -> Result:
    """Trains from a checkpoint, or from the start, to the end."""
    settings, parts, (train, valid, _) = training.settings, training.parts, training.data
    rows: list[Mapping[str, float]] = [] if found is None else list(found.rows)
    point = Point(training.start())
    earlier = 0.0
    if found is not None:
        reason = found.reason if found.ended else ""  # that of an interruption is over
        point = Point(found.state, "stopped" if found.status == "stopped" else "running", reason, found.converged)
        earlier = found.seconds
    callbacks = training.callbacks(rows)
    status, failure = "finished", None
    began = time.perf_counter() - earlier
    due = time.perf_counter() + checkpoint.EVERY
    training.announce()
    done = RowBar()
    reports = fit(
        replace(parts.objective, progress=done),
        parts.optimizer,
        train,
        valid,
        point.state,
        epochs=point.state.epoch if found is not None and found.ended else settings.epochs,
        batch_size=parts.batch_size,
        seed=training.seed,
        schedule=parts.schedule,
        metrics=parts.metrics,
    )
    try:
        with Table(training.folder / TABLE, training.header(), rows) as table:
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
                point = Point(report.state, ended, reason, bool(report.converged))
                if stop:
                    break
                if settings.checkpoint and not reason and time.perf_counter() >= due:
                    due = training.keep(rows, point, "running", began)
    except (Diverged, KeyboardInterrupt) as error:
        status = "diverged" if isinstance(error, Diverged) else "interrupted"
        point, failure = point._replace(reason=point.reason or str(error)), error
    except BaseException as error:
        status = "failed"
        training.give_up(error)
        raise
    finally:
        done.finish()
        close(callbacks, status)
    if point.status == "stopped":
        status = "stopped"
    elif point.converged:
        status = "finished"
    try:
        return _finish(training, rows, point, status, began, failure)
    except KeyboardInterrupt as error:
        if error is not failure:  # it came while the files were written
            _finish(training, rows, point, "interrupted", began, error)
        raise
    except Exception as error:
        if error is not failure:
            training.give_up(error)
        raise


def _finish(
    training: Training,
    rows: list[Mapping[str, float]],
    point: Point,
    status: str,
    began: float,
    failure: BaseException | None,
) -> Result:
    """Writes what a run leaves once no more epochs come, and raises the failure, if it had one."""
    settings, parts, state = training.settings, training.parts, point.state
    if status == "stopped":
        log.info(f"Stopped by {point.reason}")
    reason = point.reason
    if parts.optimizer.full_batch and status == "finished":
        reason = reason or f"No convergence within epochs={settings.epochs}; raise it."
        log.info(f"Converged: {reason}" if point.converged else reason)
    seconds = time.perf_counter() - began
    if status == "interrupted":  # perhaps between a row and its state
        del rows[state.epoch :]
        with Table(training.folder / TABLE, training.header(), rows):
            pass
    result = Result(status, training.folder, rows[-1] if rows else {})
    model = training.model(state)
    model.save(training.folder / "model.npz")
    if settings.checkpoint:
        training.keep(rows, point._replace(reason=reason), status, began)
    files = training.draw(rows, state) if settings.plots and rows and status != "interrupted" else []
    training.record(result, state, seconds, reason, point.converged)
    for line in summary(result, parts.metrics, seconds, [training.folder / "model.npz", *files]):
        log.info(line)
    if failure is not None:
        raise failure
    return result


def _along_the_path(training: Training) -> Result:
    """One training for each strength of the penalty, as _go is one; see trainer.path."""
    settings, parts, (train, valid, _) = training.settings, training.parts, training.data
    start = training.start()
    points: list[path.Point] = []
    status, reason, failure = "finished", "", None
    began = time.perf_counter()
    training.announce()

    def reports(objective: Objective, state: TrainState) -> Iterator[Report]:
        return fit(
            objective,
            parts.optimizer,
            train,
            valid,
            state,
            epochs=settings.epochs,
            batch_size=parts.batch_size,
            seed=training.seed,
            schedule=parts.schedule,
            metrics=parts.metrics,
        )

    fitted = path.fit_path(parts.objective, parts.path, start, parts.optimizer.init, reports)
    with Table(training.folder / "path.csv", path.columns(list(parts.metrics))) as table:
        try:
            for point in tqdm(fitted, total=len(parts.path), unit="strength", leave=False, disable=None):
                points.append(point)
                table.add(point.row)
        except (Diverged, KeyboardInterrupt) as error:
            status = "diverged" if isinstance(error, Diverged) else "interrupted"
            reason, failure = str(error), error
    seconds = time.perf_counter() - began
    if not points:
        result = Result(status, training.folder, {})
        training.write(result, start, seconds, reason, False)
    else:
        kept, why = path.best(points)
        late = [f"{point.strength:g}" for point in points if not point.converged]
        if parts.optimizer.full_batch and status == "finished" and late:
            reason = f"No convergence within epochs={settings.epochs} at strength {', '.join(late)}; raise it."
            log.info(reason)
        result = Result(status, training.folder, kept.metrics)
        record = {"path": {"strength": kept.strength, "chosen_by": why, "strengths": [p.strength for p in points]}}
        training.write(result, kept.state, seconds, reason or kept.converged, not late, record)
        names = (training.raw.classes, training.raw.features)
        files = [
            path.write_coefficients(training.folder / "coefficients.csv", points, *names),
            training.folder / "model.npz",
        ]
        if settings.plots and status != "interrupted":
            files.append(path.draw(training.folder / "path.png", points, *names, training.title()))
        log.info(f"{len(points)} strengths in {seconds:.2f} s; kept {kept.strength:g}, {why}")
        for line in summary(result, parts.metrics, seconds, files):
            log.info(line)
    if failure is not None:
        raise failure
    return result
