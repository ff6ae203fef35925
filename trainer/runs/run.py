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

from trainer.errors import ConfigError, Diverged, require
from trainer.objective.certificate import Certificate
from trainer.objective.objective import Objective
from trainer.optimizers.fit import Report, TrainState, fit, just_enough
from trainer.runs import checkpoint, path
from trainer.runs.callbacks.protocol import Callback, close
from trainer.runs.checkpoint import Checkpoint
from trainer.runs.config import Settings
from trainer.runs.outputs import Lock, claim, move_log, read_record, remove_parts, shorter
from trainer.runs.parts import assemble, headline
from trainer.runs.progress import RowBar
from trainer.runs.schema import build
from trainer.runs.training import Point, Result, Training, prepared, summary

log = logging.getLogger("trainer")


def run(settings: Settings, folder: Path, recorded: Mapping[str, Any] | None = None) -> Result | None:
    """Trains as the settings say and leaves metrics.csv, model.npz, run.json and the pictures in the folder.

    Along several strengths of a penalty there are path.csv and coefficients.csv instead; see trainer.runs.path.

    A folder that has a run already stays as it is: the new one is put beside it, with a number; see Result.folder.
    recorded is the configuration as run.json is to keep it, by default the settings.  With settings.experiment the
    experiment takes the place of the training and there is no result.  Raises Diverged, after writing, if it did.
    """
    seed = secrets.randbits(32) if settings.seed is None else settings.seed
    parts = assemble(settings)
    if settings.experiment is not None:
        from trainer.runs.experiments import EXPERIMENTS

        experiment = build("experiment", EXPERIMENTS, settings.experiment)
        own = f"experiment={experiment.name} makes its own data and would not read data=file; leave that out."
        require(settings.data["name"] != "file", own)
        taken, lock = claim(folder)
        with lock:
            move_log(folder, taken)
            experiment(parts.objective, seed, log.info)
        return None
    training = prepared(settings, seed, parts, folder, recorded)
    training.callbacks()  # refused, if need be, before there is a folder
    taken, lock = claim(folder)
    with lock:
        move_log(folder, taken)
        log.info(headline(parts, settings))
        return _go(replace(training, folder=taken, lock=lock), None)


def resume(settings: Settings, folder: Path, recorded: Mapping[str, Any] | None = None) -> Result | None:
    """Goes on with the run in the folder, from its checkpoint to the bits of a run that was never interrupted.

    The settings are those that the run began with, but for epochs.  None if it is already finished; without a
    checkpoint it starts anew.  ConfigError if the settings differ, or another process is at work in the folder.
    """
    record = read_record(folder)
    config = asdict(settings) if recorded is None else recorded
    checkpoint.require_same(record["config"], config, folder)
    parts = assemble(settings)
    if parts.path and config.get("epochs") != (began := record["config"].get("epochs")):
        raise ConfigError(
            f"{folder} is a path of strengths, each of at most epochs={began}, and cannot go on with another number. "
            "Leave that out, or start a new run."
        )
    with Lock(folder) as lock:
        record = read_record(folder)  # another process may have finished it just now
        done = int(record.get("epochs", 0))
        over = record.get("converged") or parts.path
        ended = record["status"] == "stopped" or (record["status"] == "finished" and over)
        if ended or (record["status"] == "finished" and done >= settings.epochs):
            why = f": {record['reason']}" if record.get("reason") else ""
            way = "" if ended else " Raise epochs to go on."
            length = f"{len(parts.path)} strengths" if parts.path else f"{done} epochs"
            log.info(f"{shorter(folder)} is already finished, after {length}{why or '.'}{way}")
            return None
        remove_parts(folder)
        training = replace(prepared(settings, int(record["seed"]), parts, folder, recorded), lock=lock)
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
            log.info(f"{shorter(folder)} goes on after {found.place}.")
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
    settings, parts = training.settings, training.parts
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
    steps = _strengths(training, point, done) if parts.path else _epochs(training, point, callbacks, done, began)
    try:
        with training.table(rows) as table:
            bar = tqdm(
                steps,
                total=len(parts.path) or settings.epochs,
                initial=point.state.epoch,
                unit="strength" if parts.path else "epoch",
                leave=False,
                disable=None,  # no bar where there is no terminal
            )
            for row, reached in bar:
                rows.append(row)
                table.add(row)
                point = reached
                if settings.checkpoint and not point.reason and time.perf_counter() >= due:
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


Steps = Iterator[tuple[Mapping[str, float], Point]]  # a row of the table, and where the run is after it


def _epochs(training: Training, point: Point, callbacks: list[Callback], done: RowBar, began: float) -> Steps:
    """The epochs from this point on, until the last one or until a callback stops."""
    over = point.status == "stopped" or point.converged
    epochs = point.state.epoch if over else training.settings.epochs
    for report in _fit(training, replace(training.parts.objective, progress=done), point.state, epochs):
        done.finish()
        answers = [callback(report) for callback in callbacks]  # every one sees every report
        numbers = {name: value for answer in answers for name, value in answer.numbers.items()}
        stop = " ".join(answer.stop for answer in answers if answer.stop)
        row = {**report.metrics, **numbers, "seconds": round(time.perf_counter() - began, 6)}
        status = "stopped" if stop or report.stalled else "running"
        yield row, Point(report.state, status, stop or report.stalled or report.converged, bool(report.converged))
        if stop:
            return


def _strengths(training: Training, point: Point, done: RowBar) -> Steps:
    """The strengths of a path from this point on; see trainer.runs.path."""
    parts, state = training.parts, point.state

    def train(objective: Objective, start: TrainState) -> Iterator[Report]:
        for report in _fit(training, objective, start, training.settings.epochs):
            done.finish()
            yield report

    objective = replace(parts.objective, progress=done)
    for fitted in path.fit_path(
        objective, parts.path[state.epoch :], state.w, parts.optimizer, training.data.train, train
    ):
        state = path.after(state, fitted)
        yield fitted.row, Point(state)


def _fit(training: Training, objective: Objective, state: TrainState, epochs: int) -> Iterator[Report]:
    """trainer.optimizers.fit with the parts and the data of a run."""
    parts, (train, valid, _) = training.parts, training.data
    return fit(
        objective,
        parts.optimizer,
        train,
        valid,
        state,
        epochs=epochs,
        batch_size=parts.batch_size,
        seed=training.seed,
        schedule=parts.schedule,
        metrics=parts.metrics,
    )


def _finish(
    training: Training,
    rows: list[Mapping[str, float]],
    point: Point,
    status: str,
    began: float,
    failure: BaseException | None,
) -> Result:
    """Writes what a run leaves once no more epochs come, and raises the failure, if it had one."""
    settings, parts, folder = training.settings, training.parts, training.folder
    training.check_folder()
    if status == "stopped":
        log.info(f"Stopped by {point.reason}")
    if status == "interrupted":  # perhaps between a row and its state
        del rows[point.state.epoch :]
        with training.table(rows):
            pass
    points = path.points_of(point.state, rows, parts.path) if parts.path else []
    state, reason, converged, last = point.state, point.reason, point.converged, rows[-1] if rows else {}
    solver, more = parts.optimizer.full_batch, dict[str, Any]()
    proof = Certificate(None, f"{status} before the end")
    if points:
        kept, why = path.best(points)
        state, last, proof = kept.state, kept.metrics, kept.proof
        late = [fitted for fitted in points if not fitted.converged]
        converged = not late
        if status == "finished":
            reason = kept.converged if converged else path.unfinished(late, settings.epochs) if solver else reason
        strengths = [fitted.strength for fitted in points]
        more = {"path": {"strength": kept.strength, "chosen_by": why, "strengths": strengths}}
    elif status in ("finished", "stopped"):
        proof = training.proof(state, converged)
        if solver and proof.proves(parts.optimizer.gap):  # type: ignore[attr-defined]
            reason, converged = reason or just_enough(proof, settings.epochs), True
    more |= {"gap": proof.gap, "gap_reason": proof.why}
    if solver and status == "finished":
        reason = reason or f"No convergence within epochs={settings.epochs}; raise it."
        log.info(f"Converged: {reason}" if converged else reason)
    seconds = time.perf_counter() - began
    result = Result(status, folder, last)
    model = training.model(state)
    files = [model.save(folder / "model.npz")]
    if settings.checkpoint:
        training.keep(rows, point._replace(reason=reason, converged=converged and not points), status, began)
    pictures = settings.plots and rows and status != "interrupted"
    if points:
        names = (model.classes, model.features)
        files.insert(0, path.write_coefficients(folder / "coefficients.csv", points, *names))
        if pictures:
            missed = {fitted.strength for fitted in late} if solver else ()
            files.append(path.draw(folder / "path.png", points, *names, training.title(), missed))
        doubt = f", but not converged ({kept.bound})" if solver and not kept.converged else ""
        log.info(f"{len(points)} strengths in {seconds:.2f} s; kept {kept.strength:g}, {why}{doubt}")
    elif pictures:
        files += training.draw(rows, state)
    training.record(result, state, seconds, reason, converged, more)
    for line in summary(result, parts.metrics, seconds, files):
        log.info(line)
    if proof.gap is not None:
        log.info(f"  distance to the minimum of the training objective E: {proof.why}")
    if failure is not None:
        raise failure
    return result
