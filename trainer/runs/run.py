"""One experiment from settings to files: data, objective, fit, callbacks, results.  It knows nothing of Hydra.

Everything that can be refused is refused before the first file is written. The way from the start to the last file is
read from top to bottom, so it is one file, though a long one. It stops before each epoch, so that many runs can go it
side by side; see runs.company.
"""

import logging
import secrets
import time
import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from trainer.data.features import Features
from trainer.data.places import name_of
from trainer.data.rows import split
from trainer.errors import ConfigError, Diverged, counted, require
from trainer.objective.certificate import Certificate
from trainer.objective.objective import Objective
from trainer.optimizers.fit import Report, TrainState, fit, just_enough, proved
from trainer.runs import card, checkpoint, coefficients, cross_validation, evaluation, path
from trainer.runs.callbacks.protocol import Callback, close
from trainer.runs.checkpoint import Checkpoint
from trainer.runs.coefficients import Coefficients
from trainer.runs.company import Seat, may_join
from trainer.runs.config import Settings
from trainer.runs.evaluation import Evaluation
from trainer.runs.lock import Lock, claim, move_log, process
from trainer.runs.model import Model
from trainer.runs.outputs import read_record, shorter, write_record
from trainer.runs.parts import Parts, assemble, headline
from trainer.runs.schema import build
from trainer.runs.training import Ending, Point, Result, Training, drawn, prepared, summary

log = logging.getLogger("trainer")
AFTER = 2.0  # seconds of an epoch without a bar of its rows
Steps = Generator[None, None, Result | None]  # a run that stops before each epoch


def run(settings: Settings, folder: Path, recorded: Mapping[str, Any] | None = None) -> Result | None:
    """Trains as the settings say and leaves metrics.csv, model.npz, run.json and the pictures in the folder.

    Along several strengths of a penalty there are path.csv and coefficients.csv instead; see trainer.runs.path.
    With folds there are cv.csv and cv.png beside them; see trainer.runs.cross_validation.

    A folder that has a run already stays as it is: the new one is put beside it, with a number; see Result.folder.
    recorded is the configuration as run.json is to keep it, by default the settings.  With settings.experiment the
    experiment takes the place of the training and there is no result.  Raises Diverged, after writing, if it did.
    """
    return _to_the_end(running(settings, folder, recorded))


def resume(settings: Settings, folder: Path, recorded: Mapping[str, Any] | None = None) -> Result | None:
    """Goes on with the run in the folder, from its checkpoint to the bits of a run that was never interrupted.

    The settings are those that the run began with, but for epochs.  None if it is already finished; without a
    checkpoint it starts anew.  ConfigError if the settings differ, or another process is at work in the folder.
    """
    return _to_the_end(resuming(settings, folder, recorded))


def _to_the_end(steps: Steps) -> Result | None:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


def running(
    settings: Settings, folder: Path, recorded: Mapping[str, Any] | None = None, seat: Seat | None = None
) -> Steps:
    """What run does, step by step; with a seat among others that train beside it.

    There the files of a run of less than a second, as its share of the time, do not wait for the disk: who wants that
    calls to_disk.
    """
    seed = secrets.randbits(32) if settings.seed is None else settings.seed
    settings, share = cross_validation.settled(settings), None if seat is None else seat.share
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
    training = prepared(settings, seed, parts, folder, recorded, share)
    training.callbacks()  # refused, if need be, before there is a folder
    taken, lock = claim(folder)
    with lock:
        move_log(folder, taken)
        log.info(headline(parts, settings))
        short = 0.0 if seat is None else seat.company.runs * checkpoint.EVERY
        return (yield from _go(replace(training, folder=taken, lock=lock, short=short), None, seat))


def resuming(
    settings: Settings, folder: Path, recorded: Mapping[str, Any] | None = None, seat: Seat | None = None
) -> Steps:
    """What resume does, step by step; with a seat among others that train beside it."""
    record = read_record(folder)
    settings, share = cross_validation.settled(settings), None if seat is None else seat.share
    config = asdict(settings) if recorded is None else recorded
    if changed := checkpoint.differences(record["config"], config):
        raise ConfigError(
            f"{folder} goes on as it began, and may only change epochs, but {'; '.join(changed)}. "
            "Leave that out, or start a new run."
        )
    parts = assemble(settings)
    if parts.path and config.get("epochs") != (began := record["config"].get("epochs")):
        raise ConfigError(
            f"{folder} is a path of strengths, each of at most epochs={began}, and cannot go on with another number. "
            "Leave that out, or start a new run."
        )
    with Lock(folder) as lock:
        record = read_record(folder)  # another process may have finished it just now
        done = int(record.get("epochs", 0))
        _check_epochs(folder, settings, parts, done)
        over = record.get("converged") or parts.path
        ended = record["status"] == "stopped" or (record["status"] == "finished" and over)
        if ended or (record["status"] == "finished" and done >= settings.epochs):
            why = f": {record['reason']}" if record.get("reason") else ""
            way = "" if ended else " Raise epochs to go on."
            length = counted(len(parts.path), "strength") if parts.path else counted(done, "epoch")
            log.info(f"{shorter(folder)} is already finished, after {length}{why or '.'}{way}")
            return None
        training = prepared(settings, int(record["seed"]), parts, folder, recorded, share)
        training = replace(training, lock=lock)
        if training.fingerprint != record.get("data_sha256"):
            name = name_of(settings.data.get("path", ""))
            raise ConfigError(
                f"data.path={name} has changed since {folder} began, so the run cannot go on. "
                "Bring the old file back, or start a new run."
            )
        found = checkpoint.latest(folder, training.check)
        if found is None and record["status"] == "finished":
            raise ConfigError(f"{folder} has finished without a checkpoint, so it cannot go on; start a new run.")
        if found is not None:  # a run that was killed has done more than its record says
            _check_epochs(folder, settings, parts, found.state.epoch)
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
        return (yield from _go(training, found, seat))


def _check_epochs(folder: Path, settings: Settings, parts: Parts, done: int) -> None:
    """Refuses fewer epochs than a run has done; along a path they are the most of each strength."""
    if not parts.path and settings.epochs < done:
        raise ConfigError(
            f"{folder} has done {counted(done, 'epoch')} already, more than epochs={settings.epochs}. "
            f"Take {done} or more, or start a new run."
        )


class RowBar:
    """Counts rows, those of every pass over the data; tqdm shows them after a while, and on a terminal only."""

    def __init__(self) -> None:
        self._bar: Any = None

    def __call__(self, rows: int) -> None:
        if self._bar is None:
            self._bar = tqdm(unit="row", unit_scale=True, leave=False, delay=AFTER, disable=None)
        self._bar.update(rows)

    def finish(self) -> None:
        """The epoch is over; the next row begins another bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


@dataclass
class Course:
    """A run on its way: the rows of its table, where it is, when it began, earlier parts counted, and beside whom."""

    training: Training
    rows: list[Mapping[str, float]]
    point: Point
    began: float
    seat: Seat | None
    bar: RowBar = field(default_factory=RowBar)  # of the epoch at work

    @classmethod
    def of(cls, training: Training, found: Checkpoint | None, seat: Seat | None) -> "Course":
        now = time.perf_counter()
        if found is None:
            return cls(training, [], Point(training.start()), now, seat)
        reason = found.reason if found.ended else ""  # that of an interruption is over
        point = Point(found.state, "stopped" if found.status == "stopped" else "running", reason, found.converged)
        return cls(training, list(found.rows), point, now - found.seconds, seat)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.began

    def keep(self, status: str, point: Point) -> float:
        training, start = self.training, time.perf_counter()
        training.check_folder()
        status = "stopped" if point.status == "stopped" else status
        what = (training.seed, training.config, training.fingerprint)
        now = Checkpoint(point.state, self.rows, start - self.began, status, point.reason, point.converged, *what)
        checkpoint.keep(training.folder, now, training.waits(now.seconds))
        return time.perf_counter() - start

    def fit(self, objective: Objective, state: TrainState) -> Iterator[Report]:
        """The reports of a training with the parts and the data of the run."""
        training, parts, (train, valid, _) = self.training, self.training.parts, self.training.data
        for report in fit(
            objective,
            parts.optimizer,
            train,
            valid,
            state,
            epochs=training.settings.epochs,
            batch_size=parts.batch_size,
            seed=training.seed,
            schedule=parts.schedule,
            metrics=parts.metrics,
        ):
            self.bar.finish()
            yield report


def _go(training: Training, found: Checkpoint | None, seat: Seat | None) -> Generator[None, None, Result]:
    """Trains from a checkpoint, or from the start, to the end."""
    course = Course.of(training, found, seat)
    callbacks = training.callbacks(course.rows)
    status, failure = "finished", None
    # so that it can be told from a finished one; nothing is lost yet, and a disk takes its time
    write_record(training.folder, {"status": "running", **process(), **training.what()}, durable=False)
    try:
        _choose(course)
        yield from _train(course, callbacks)
    except (Diverged, KeyboardInterrupt) as error:
        status = "diverged" if isinstance(error, Diverged) else "interrupted"
        course.point, failure = course.point._replace(reason=course.point.reason or str(error)), error
    except BaseException as error:
        status = "failed"
        training.give_up(error)
        raise
    finally:
        course.bar.finish()
        close(callbacks, status)
    if course.point.status == "stopped":
        status = "stopped"
    elif course.point.converged:
        status = "finished"
    try:
        return _finish(course, status, failure)
    except KeyboardInterrupt as error:
        if error is not failure:  # it came while the files were written
            _finish(course, "interrupted", error)
        raise
    except Exception as error:
        if error is not failure:
            training.give_up(error)
        raise


def _choose(course: Course) -> None:
    """Chooses the strength of the penalty, where it is to be chosen; the run begins with what the folds have learnt."""
    training, parts = course.training, course.training.parts
    if parts.choice is None or training.folded is None:
        return
    rest = (parts.objective, parts.optimizer, parts.metrics, training.settings.epochs)
    chosen = cross_validation.choose(parts.choice, training.folded, training.data.train, *rest)
    objective = replace(parts.objective, penalty=chosen.penalties[chosen.place])
    course.training = replace(training, parts=parts._replace(objective=objective), chosen=chosen)
    course.point = Point(course.training.start())
    log.info(chosen.line)
    for doubt in chosen.doubts(training.settings.epochs):
        log.warning(doubt)


def _train(course: Course, callbacks: list[Callback]) -> Generator[None, None, None]:
    """Goes through the epochs, or the strengths, that are left: a row in the table and now and then a checkpoint.

    Stops before each, once what comes before the first has been done.
    """
    training, parts = course.training, course.training.parts
    steps = _strengths(course) if parts.path else _epochs(course, callbacks, _reports(course))
    last, took, beside = time.perf_counter(), 0.0, course.seat
    with training.table(course.rows) as table:
        bar = tqdm(
            steps,
            total=len(parts.path) or training.settings.epochs,
            initial=course.point.state.epoch,
            unit="strength" if parts.path else "epoch",
            leave=False,
            disable=None,  # no bar where there is no terminal
        )
        yield
        for row, reached in bar:
            course.rows.append(row)
            table.add(row)
            course.point = reached
            due = last + checkpoint.after(took, beside.company.size if beside else 1)
            if training.settings.checkpoint and not reached.reason and time.perf_counter() >= due:
                took, last = course.keep("running", reached), time.perf_counter()
            if not reached.reason:
                yield


Rows = Iterator[tuple[Mapping[str, float], Point]]  # a row of the table, and where the run is after it


def _reports(course: Course) -> Iterator[Report]:
    """The epochs that are left, of this run alone or of all beside whom it trains."""
    training, point = course.training, course.point
    if point.status == "stopped" or point.converged:
        return iter(())
    if course.seat is not None and may_join(training.parts):
        return course.seat.fit(training, point.state)
    return course.fit(replace(training.parts.objective, progress=course.bar), point.state)


def _epochs(course: Course, callbacks: list[Callback], reports: Iterator[Report]) -> Rows:
    """A row of each epoch that is left, until the last one or until a callback stops."""
    for report in reports:
        answers = [callback(report) for callback in callbacks]  # every one sees every report
        numbers = {name: value for answer in answers for name, value in answer.numbers.items()}
        stop = " ".join(answer.stop for answer in answers if answer.stop)
        row = {**report.metrics, **numbers, "seconds": round(course.seconds, 6)}
        status = "stopped" if stop or report.stalled else "running"
        yield row, Point(report.state, status, stop or report.stalled or report.converged, bool(report.converged))
        if stop:
            return


def _strengths(course: Course) -> Rows:
    """The strengths of a path that are left; see trainer.runs.path."""
    parts, state = course.training.parts, course.point.state
    objective, left = replace(parts.objective, progress=course.bar), parts.path[state.epoch :]
    for fitted in path.fit_path(objective, left, state.w, parts.optimizer, course.training.data.train, course.fit):
        state = path.after(state, fitted)
        yield fitted.row, Point(state)


def _finish(course: Course, status: str, failure: BaseException | None) -> Result:
    """Writes what a run leaves once no more epochs come, and raises the failure, if it had one."""
    training, rows = course.training, course.rows
    settings, parts, folder = training.settings, training.parts, training.folder
    training.check_folder()
    if status == "stopped":
        log.info(f"Stopped by {course.point.reason}")
    if status == "interrupted":  # perhaps between a row and its state
        del rows[course.point.state.epoch :]
        with training.table(rows):
            pass
    points = path.points_of(course.point.state, rows, parts.path) if parts.path else []
    end = _end_of_path(course, points, status) if points else _end_of_training(course, status)
    if parts.optimizer.full_batch and status == "finished":
        end = end._replace(reason=end.reason or f"No convergence within epochs={settings.epochs}; raise it.")
        log.info(f"Converged: {end.reason}" if end.converged else end.reason)
    seconds = course.seconds
    model = training.model(end.state)
    files = [model.save(folder / "model.npz", training.waits(seconds))]
    if settings.checkpoint:
        course.keep(status, course.point._replace(reason=end.reason, converged=end.converged and not points))
    result = Result(status, folder, end.metrics)
    described, evaluations = _describe(course, points, result, end, model, seconds)
    if points:
        log.info(f"{counted(len(points), 'strength')} in {seconds:.2f} s; {end.said}")
    for line in summary(result, parts.metrics, seconds, [*files, *described]):
        log.info(line)
    if isinstance(training.data.train.x, Features):
        shared = ", by all runs of the stack" if course.seat is not None and course.seat.company.runs > 1 else ""
        log.info(f"  {training.data.train.x.tally.bytes / 2**20:,.1f} MiB read of rows that stay in their file{shared}")
    for name, found in evaluations.items():
        log.info(f"  {name}, beside always {found.most}: {found.line()}")
        if found.verdict:
            log.warning(found.verdict)
    if end.proof.gap is not None:
        log.info(f"  distance to the minimum of the training objective E: {end.proof.why}")
    if failure is not None:
        raise failure
    return result


def _describe(
    course: Course, points: list[path.Point], result: Result, end: Ending, model: Model, seconds: float
) -> tuple[list[Path], dict[str, Evaluation]]:
    """Writes what a person reads of a run, and run.json as the last; the files, and what the model is worth."""
    training, folder, title = course.training, course.training.folder, course.training.title()
    train, pictured = training.data.train, bool(training.settings.plots and course.rows)
    unbroken = result.status != "interrupted"
    if pictured and (unbroken or training.chosen):
        from trainer.runs import plots  # matplotlib is slow to import
    learnt = Coefficients.of(model, end.state.w, train)
    along = [(point.strength, Coefficients.of(model, point.state.w, train)) for point in points]
    files = list[Path]()
    if training.chosen:
        files.append(training.chosen.write(folder))
        if pictured:
            files.append(plots.folds(folder / "cv.png", training.chosen, title))
    files += coefficients.write(folder, along or [(0.0, learnt)], bool(points))
    if pictured and unbroken and points:
        files.append(plots.along_path(folder / "path.png", points, model.classes, model.features, title, end.missed))
    elif pictured and unbroken:
        files.append(plots.curves(folder / "curves.png", course.rows, title, drawn(training.parts.metrics)))
        if training.plane is not None:
            sides = split(training.plane, training.settings.valid_fraction, training.seed)
            files.append(plots.boundary(folder / "boundary.png", model, *sides, title))
    evaluations = training.evaluate(end.state) if result.status in ("finished", "stopped") else {}
    record = training.what_came(result, end, seconds)
    if evaluations:
        files.append(evaluation.keep(folder, evaluations))
        if pictured:
            files += plots.evaluations(folder, title, evaluations)
            if strongest := plots.coefficients(folder / "coefficients.png", learnt, title):
                files.append(strongest)
        files.append(card.write(folder, title, record, train, evaluations, learnt))
    training.record(record)
    return files, evaluations


def _end_of_training(course: Course, status: str) -> Ending:
    """The last state; a solver may be proved to be at the minimum though it has not said so."""
    (state, _, reason, converged), training = course.point, course.training
    proof = Certificate(None, f"{status} before the end")
    if status in ("finished", "stopped"):
        optimizer, train = training.parts.optimizer, training.data.train
        proof = proved(training.parts.objective, optimizer, train, state.w, converged)
        if optimizer.full_batch and proof.proves(optimizer.gap):  # type: ignore[attr-defined]
            reason, converged = reason or just_enough(proof, training.settings.epochs), True
    metrics = {**(course.rows[-1] if course.rows else {}), **(training.chosen.metrics if training.chosen else {})}
    return Ending(state, metrics, reason, converged, proof)


def _end_of_path(course: Course, points: Sequence[path.Point], status: str) -> Ending:
    """The best of the strengths; a path has converged where a solver has at each of them."""
    solver = course.training.parts.optimizer.full_batch
    kept, why = path.best(points)
    late = [fitted for fitted in points if not fitted.converged]
    reason = course.point.reason
    if status == "finished" and (solver or not late):
        reason = path.unfinished(late, course.training.settings.epochs) if late else kept.converged
    return Ending(
        kept.state,
        kept.metrics,
        reason,
        not late,
        kept.proof,
        {"strength": kept.strength, "chosen_by": why, "strengths": [fitted.strength for fitted in points]},
        f"kept {kept.strength:g}, {why}"
        + (f", but not converged ({kept.bound})" if solver and not kept.converged else ""),
        {fitted.strength for fitted in late} if solver else (),
    )
