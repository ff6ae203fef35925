"""The sweeper and the launcher that Hydra finds under the names grid and workers, once they are registered.

The sweeper decides what is run: it checks every job before the first, skips those whose components do not go together,
and keeps sweep.json. The launcher runs jobs in trainer.sweep.pool. Either goes with others of Hydra's.
"""

import logging
import os
import shlex
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, nullcontext, suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from trainer.config import build, structured
from trainer.errors import ConfigError, TrainerError
from trainer.overrides import check_folder, tamed
from trainer.sweep.config import SWEEPS, Grid
from trainer.sweep.grid import Axis, Composer, Plan, plan, read_axes, word
from trainer.sweep.pool import warm
from trainer.sweep.record import BAD, DONE, NAME, Line, Record, printable, read, table

log = logging.getLogger("sweep")
PACKAGE = "hydra_plugins.trainer_sweep"  # Hydra takes plugins from no other package; it need not be a file
PLAIN_SUBDIR = "${hydra.job.num}"
OWN = ("sweep.", "skip_illegal")  # keys of the sweep itself, which may change when it is resumed


class SweepFailed(TrainerError):
    """Some jobs did not end well; the others did."""

    exit_code = 1


class SweepInterrupted(TrainerError):
    """Ctrl-C or SIGTERM, after everything that is worth keeping was kept."""

    def __init__(self, sentence: str, cause: KeyboardInterrupt) -> None:
        super().__init__(sentence)
        self.exit_code = 128 + getattr(cause, "number", 2)


def register() -> None:
    """Lets Hydra find both, by the name of a package that it takes plugins from.

    As files there, every program that uses Hydra in the same environment would import them at its start.
    """
    try:
        package = import_module("hydra_plugins")
    except ModuleNotFoundError:  # no other plugin is installed
        package = sys.modules["hydra_plugins"] = ModuleType("hydra_plugins")
        package.__path__ = []
    module = sys.modules[PACKAGE] = ModuleType(PACKAGE)
    setattr(package, PACKAGE.rpartition(".")[2], module)
    for plugin in (GridSweeper, WorkersLauncher):
        setattr(module, plugin.__name__, plugin)
        Plugins.instance().register(plugin)


class GridSweeper(Sweeper):
    """Every combination of the values on the command line, in Hydra's order."""

    __module__ = PACKAGE

    def __init__(self, resume: bool = False) -> None:
        self.resume = resume

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config = config
        self.loader: Any = hydra_context.config_loader
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Checks, runs and sums up; SweepFailed if a job did not end well, after all others."""
        config, launcher = self.config, self.launcher
        assert config is not None  # set up by Hydra
        assert launcher is not None
        _speak()
        options = _options(config)
        folder = _folder(config)
        if not self.resume and (folder / NAME).exists():
            raise ConfigError(f"{folder} holds a sweep. Choose another hydra.sweep.dir, or go on: {_go_on(folder)}")
        axes = read_axes(arguments, self.loader, options.max_jobs)
        for axis in axes:
            if axis.key.lstrip("+~").startswith(OWN) and len(axis.choices) > 1:
                raise ConfigError(f"{axis.key} is one for all jobs of a sweep. Give it a single value.")
        silent = (
            [] if any(axis.key.lstrip("+~") == "plots" for axis in axes) else read_axes(["plots=false"], self.loader, 1)
        )
        composer = Composer(self.loader, config)
        composer.check_names(choice for axis in axes for choice in axis.choices)
        with warm() if isinstance(launcher, WorkersLauncher) else nullcontext():
            plans = plan([*axes, *silent], composer, config.skip_illegal is True)
            if self.resume:
                by_workers = isinstance(launcher, WorkersLauncher)  # others know no job that goes on
                record, plans = _resumed(folder, axes, plans, composer, by_workers)
            else:
                record = _recorded(config, arguments, axes, plans)
        return _Sweep(folder, record, plans, options, composer, config).run(launcher)


class WorkersLauncher(Launcher):
    """Jobs in processes that import once; what Hydra's other sweepers hand over is composed by Composer here."""

    __module__ = PACKAGE

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config = config
        self.loader: Any = hydra_context.config_loader
        self.sweep: _Sweep | None = None  # of all batches so far

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Runs a batch; a job's return value is its last val_loss, and one that did not end well raises when asked."""
        setup_globals()
        _speak()
        config = self.config
        if self.sweep is None:
            folder = _folder(config)
            record = _recorded(config, config.hydra.overrides.task, [], [])
            self.sweep = _Sweep(folder, record, [], _options(config), Composer(self.loader, config), config)
        sweep = self.sweep
        known = {str(text) for text in config.hydra.overrides.task}
        for job in job_overrides:
            axes = read_axes(job, self.loader, 1)
            sweep.plans.append(Plan(tuple(axis.choices[0] for axis in axes)))
            special = [text for text in job if text not in known]
            sweep.record.varied = list(dict.fromkeys([*sweep.record.varied, *(t.partition("=")[0] for t in special)]))
            sweep.record.jobs.append(Line(len(sweep.record.jobs), str(len(sweep.record.jobs)), special))
        numbers = range(initial_job_idx, initial_job_idx + len(job_overrides))
        sweep.begin()
        interrupted = True
        try:
            sweep.by_workers(numbers)
            interrupted = False
        finally:
            sweep.end(interrupted)
        returns = []
        for number, job in zip(numbers, job_overrides, strict=True):
            line = sweep.record.jobs[number]
            good = line.status in DONE
            answer = JobReturn(overrides=list(job), status=JobStatus.COMPLETED if good else JobStatus.FAILED)
            answer.return_value = sweep.score(number) if good else SweepFailed(line.reason)
            returns.append(answer)
        return returns


class _Sweep:
    """One sweep on its way: its jobs go out, and their ends come back into the record."""

    def __init__(
        self,
        folder: Path,
        record: Record,
        plans: list[Plan],
        options: Grid,
        composer: Composer,
        config: DictConfig,
    ) -> None:
        self.folder, self.record, self.plans, self.options = folder, record, plans, options
        self.composer = composer
        self.metrics: dict[int, Mapping[str, float]] = {}
        raw: Any = OmegaConf.to_container(config.hydra.sweep, resolve=False)
        self.plain_folders = raw["subdir"] == PLAIN_SUBDIR
        self.began = time.monotonic()
        self.written = 0.0
        self.ended = 0

    def run(self, launcher: Launcher) -> list[JobReturn]:
        record = self.record
        todo = [line.number for line in record.jobs if line.status not in DONE]
        counts = record.counts()
        log.info(
            f"{len(todo)} of {len(record.jobs)} jobs into {_shorter(self.folder)}"
            + (f"; {counts['skipped']} make no sense and are skipped" if "skipped" in counts else "")
        )
        for number in todo:
            record.jobs[number].status = "pending"
        self.begin()
        try:
            if isinstance(launcher, WorkersLauncher):
                self.by_workers(todo)
            else:
                if self.options.timeout is not None or self.options.fail_fast or self.options.workers is not None:
                    log.info("sweep.timeout, fail_fast and workers belong to hydra/launcher=workers, not to this one.")
                self.by_launcher(launcher, todo)
        except (KeyboardInterrupt, TrainerError) as error:
            self.end(interrupted=True)
            log.info("Summing up what there is; Ctrl-C leaves that out.")
            with suppress(TrainerError, KeyboardInterrupt):  # a full disk, or Ctrl-C again: sweep.json is there
                self.summarise()
            if isinstance(error, TrainerError):
                raise
            counts = record.counts()
            raise SweepInterrupted(
                f"Interrupted: {counts.get('finished', 0)} of {len(record.jobs)} jobs have finished. "
                f"Go on by {_go_on(self.folder)}",
                error,
            ) from None
        self.end()
        bad = sum(line.status in BAD for line in record.jobs)
        self.conclude()
        if bad:
            raise SweepFailed(self.sentence(bad))
        return []

    def begin(self) -> None:
        """Makes the folder and the first sweep.json."""
        from trainer.outputs import writing

        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        self.record.status = "running"
        self.record.write(self.folder)

    def end(self, interrupted: bool = False) -> None:
        """The last sweep.json."""
        bad = any(line.status in BAD for line in self.record.jobs)
        self.record.status = "interrupted" if interrupted else "failed" if bad else "finished"
        self.record.write(self.folder)

    def by_workers(self, todo: Sequence[int]) -> None:
        record = self.record
        with closing(self.in_workers(todo)) as events:
            for line in events:
                now = time.monotonic()
                if line is not None:
                    self.ended += 1
                    log.info(f"[{self.ended}/{len(todo)}] {self.said(line)}")
                if now - self.written > 0.8:
                    record.write(self.folder)
                    self.written = time.monotonic()
                if line is not None and line.status in BAD and self.options.fail_fast:
                    return

    def in_workers(self, todo: Sequence[int]) -> Any:
        """Runs these jobs and gives the line of each as it ends, and None now and then."""
        from trainer.parts import available_cores
        from trainer.sweep.pool import Pool
        from trainer.sweep.worker import Job

        cores = available_cores()
        workers = min(self.options.workers or cores, max(1, len(todo)))
        threads = max(1, cores // workers)

        def jobs() -> Any:
            for place in todo:
                line, plan = self.record.jobs[place], self.plans[place]
                folder = self.folder / line.folder if plan.goes_on else self.folder_of(plan, line)
                settings, recorded = self.composer(plan.choices, line.number, str(folder))
                if settings.threads is None:
                    settings = replace(settings, threads=threads)
                yield Job(line.number, folder, settings, recorded, plan.goes_on)
            if not self.plain_folders:  # killed before the next writing, the sweep would not find them again
                self.record.write(self.folder)

        pool = Pool(workers, self.options.timeout)
        try:
            with closing(pool.run(jobs())) as ends:
                for end in ends:
                    if end is None:
                        yield None
                        continue
                    line = self.record.jobs[end.number]
                    line.status, line.reason = end.status, end.reason
                    if end.folder is not None:  # another than was meant, if that had a run in it already
                        line.folder = Path(os.path.relpath(end.folder, self.folder)).as_posix()
                    self.metrics[end.number] = end.metrics
                    yield line
        finally:
            for number in pool.running:
                line = self.record.jobs[number]
                line.status, line.reason = "interrupted", "The sweep ended before it did."

    def by_launcher(self, launcher: Launcher, todo: Sequence[int]) -> None:
        """One of Hydra's other launchers; how its jobs ended is read from what they left."""
        lines = [self.record.jobs[number] for number in todo]
        jobs = []
        for line in lines:
            overrides = [word(choice) for choice in self.plans[line.number].choices]
            if self.plain_folders and len(todo) < len(self.record.jobs):  # numbers keep their gaps
                overrides.append(f"hydra.sweep.subdir='{line.number}'")
            self.folder_of(self.plans[line.number], line)
            jobs.append(overrides)
        self.record.write(self.folder)  # killed before the next writing, the sweep would not find its folders again
        answers = launcher.launch(jobs, initial_job_idx=0)
        for line, answer in zip(lines, answers, strict=True):
            status, reason, metrics = _left(self.folder / line.folder)
            if answer.status == JobStatus.FAILED and status not in BAD:
                try:
                    _ = answer.return_value
                except BaseException as error:
                    status, reason = "failed", f"{type(error).__name__}: {error}"
            elif answer.status == JobStatus.COMPLETED and status == "pending":
                status = "finished"  # an experiment, which leaves no run.json
            line.status, line.reason = status, reason
            self.metrics[line.number] = metrics

    def folder_of(self, plan: Plan, line: Line) -> Path:
        """The job's folder, below that of the sweep; what an earlier try left there is removed."""
        name = str(line.number)
        if not self.plain_folders:
            whole = self.composer.whole(plan.choices, line.number)
            name = tamed(str(OmegaConf.select(whole, "hydra.sweep.subdir")))
        folder = Path(os.path.abspath(self.folder / name))
        if not folder.is_relative_to(self.folder) or folder == self.folder:
            raise ConfigError(f"hydra.sweep.subdir={name} leaves the folder of the sweep. Take a name inside it.")
        line.folder = folder.relative_to(self.folder).as_posix()
        return folder

    def said(self, line: Line) -> str:
        """A job in a line of the terminal."""
        numbers = self.metrics.get(line.number, {})
        keys = [key for key in ("loss", "val_loss", "accuracy", "val_accuracy") if key in numbers]
        text = "  ".join([line.status, *line.overrides, *(f"{key} {numbers[key]:.4g}" for key in keys)])
        return printable(text + (f"  {line.reason}" if line.reason else ""))

    def score(self, number: int) -> float | None:
        """The number by which Hydra's other sweepers choose: the validation loss, or the loss."""
        found = self.metrics.get(number, {})
        return found.get("val_loss", found.get("loss"))

    def summarise(self) -> None:
        """summary.csv and report.html, of all jobs, finished or not."""
        from trainer.report.files import summarise

        summarise([self.folder], self.folder)

    def conclude(self) -> None:
        """The report of the sweep, and what the terminal shows at its end."""
        self.summarise()
        counts = self.record.counts()
        seconds = time.monotonic() - self.began
        log.info("")
        log.info(f"{', '.join(f'{count} {status}' for status, count in counts.items())} in {seconds:.1f} s")
        skipped = {line.reason for line in self.record.jobs if line.status == "skipped"}
        for reason in sorted(skipped)[:5]:
            log.info(f"  skipped: {printable(reason)}")
        for row in self.best(3):
            log.info(f"  {row}")
        for name in (NAME, "summary.csv", "report.html"):
            log.info(f"  {_shorter(self.folder / name)}")

    def best(self, most: int) -> list[str]:
        """The best configurations by their mean over seeds: of the first metric, or the loss."""
        groups: dict[tuple[str, ...], list[Mapping[str, float]]] = {}
        for line in self.record.jobs:
            if line.status in ("finished", "stopped"):
                numbers = self.metrics.get(line.number) or _left(self.folder / line.folder)[2]
                if numbers:
                    key = tuple(text for text in line.overrides if not text.startswith("seed="))
                    groups.setdefault(key, []).append(numbers)
        common = set.intersection(*(set(rows[0]) for rows in groups.values())) if groups else set()
        ranked = [
            ("val_accuracy", -1),
            ("accuracy", -1),
            ("val_loss", 1),
            ("loss", 1),
        ]
        found = [(name, sign) for name, sign in ranked if name in common]
        if not found:
            return []
        name, sign = found[0]
        means = {key: sum(row.get(name, float("nan")) for row in rows) / len(rows) for key, rows in groups.items()}
        order = sorted(means, key=lambda key: sign * means[key])[:most]
        rows = [[f"{name} {means[key]:.4g}", f"{len(groups[key])} runs", " ".join(key)] for key in order]
        return [printable(text) for text in table(rows)] if rows else []

    def sentence(self, bad: int) -> str:
        """Which jobs did not end well, in a few lines."""
        record = self.record
        wrong = [line for line in record.jobs if line.status in BAD]
        left = sum(line.status in ("pending", "interrupted") for line in record.jobs)
        lines = [f"{bad} of {len(record.jobs)} jobs did not end well{f'; {left} were not run' if left else ''}:"]
        for line in wrong[:3]:
            first = line.reason.strip().split("\n")[0]
            lines.append(printable(f"  {line.folder}  {line.status}  {' '.join(line.overrides)}  {first}"))
        more = f"  and {len(wrong) - 3} more, in {_shorter(self.folder / NAME)}. " if len(wrong) > 3 else "  "
        return "\n".join([*lines, f"{more}Try them again by {_go_on(self.folder)}"])


def _speak() -> None:
    """Sentences on the terminal; logging drops what a reader who has left, as head does, would have read."""
    log.handlers[:] = [logging.StreamHandler(sys.stdout)]
    log.propagate = False
    log.setLevel(logging.INFO)


def _folder(config: DictConfig) -> Path:
    name = str(config.hydra.sweep.dir)
    check_folder("hydra.sweep.dir", name)
    return Path(os.path.abspath(name))


def _options(config: DictConfig) -> Grid:
    node: Any = OmegaConf.to_container(config.sweep, resolve=True)
    if node.get("name") in SWEEPS:
        options: Grid = build("sweep", SWEEPS, node)
        return options
    # Another kind of search has fields of its own; of those of the grid it has as many as it likes.
    return structured("sweep", Grid, {key: node[key] for key in Grid.__dataclass_fields__ if key in node})


def _recorded(config: DictConfig, arguments: Sequence[str], axes: Sequence[Axis], plans: Sequence[Plan]) -> Record:
    varied = [axis.key for axis in axes if len(axis.choices) > 1]
    hydra = [str(text) for text in config.hydra.overrides.hydra if not str(text).startswith("hydra.mode=")]
    command = shlex.join(["python", "-m", "trainer", "-m", *hydra, *arguments])
    kept = [*[text for text in hydra if text.startswith(("hydra/launcher=", "hydra/sweeper="))], *arguments]
    lines = [
        Line(number, str(number), _special(axes, plan), "skipped" if plan.reason else "pending", plan.reason)
        for number, plan in enumerate(plans)
    ]
    return Record("running", command, kept, varied, lines)


def _special(axes: Sequence[Axis], plan: Plan) -> list[str]:
    """What distinguishes a job from the others: its choices on the axes with more than one."""
    pairs = zip(axes, plan.choices, strict=False)  # plots=false, which the sweeper adds, stands behind
    return [word(choice) for axis, choice in pairs if len(axis.choices) > 1]


def _resumed(
    folder: Path, axes: Sequence[Axis], plans: Sequence[Plan], composer: Composer, by_workers: bool
) -> tuple[Record, list[Plan]]:
    """The record of the sweep in a folder and its plans in that order; ConfigError if the grid is another one.

    A job that has not ended goes on from its checkpoint; without a good one of its settings its folder is emptied.
    """
    record = read(folder)
    found = {tuple(_special(axes, plan)): plan for plan in plans}
    known = {tuple(line.overrides) for line in record.jobs}
    if found.keys() != known:
        raise ConfigError(
            f"{folder} is a sweep of another grid, so it cannot go on. "
            f"Only now: {_some(found.keys() - known)}. Only then: {_some(known - found.keys())}. "
            "Give the old values, or start a new sweep."
        )
    ordered = [found[tuple(line.overrides)] for line in record.jobs]
    again = []
    for line, job in zip(record.jobs, ordered, strict=True):
        if job.reason or line.status == "skipped":
            line.status, line.reason = ("skipped", job.reason) if job.reason else ("pending", "")
            continue
        path = _inside(folder, line.folder)
        status, reason, _ = _left(path)
        if status in DONE:  # it may have ended after sweep.json was written for the last time
            if changed := _changed(path, composer(job.choices, line.number, str(path))[1]):
                raise ConfigError(
                    f"{path} was run with another configuration, so the sweep cannot go on: {'; '.join(changed)}. "
                    "Give the old values, or start a new sweep."
                )
            line.status, line.reason = status, reason
        elif line.status in DONE and not (path / "run.json").exists() and path.exists():
            continue  # an experiment, which leaves no run.json
        else:
            line.status, line.reason = "pending", ""
            if by_workers and _can_go_on(path, composer(job.choices, line.number, str(path))[1]):
                ordered[line.number] = replace(job, goes_on=True)
            else:
                again.append(path)
    for path in again:  # now that nothing can be refused any more
        _remove(path)
    return record, ordered


def _some(jobs: Any) -> str:
    names = sorted(" ".join(job) or "(nothing varied)" for job in jobs)
    more = f", and {len(names) - 3} more" if len(names) > 3 else ""
    return (", ".join(names[:3]) or "nothing") + more


def _changed(path: Path, recorded: Mapping[str, Any]) -> list[str]:
    """Where the run in a folder had another configuration than it would have now."""
    from trainer.checkpoint import differences
    from trainer.outputs import read_record

    old = read_record(path)["config"]
    was, now = old.get("epochs"), recorded.get("epochs")  # which may grow in a run, but not in one of many
    return differences(old, recorded) + ([f"epochs was {was} and is {now}"] if was != now else [])


def _can_go_on(path: Path, recorded: Mapping[str, Any]) -> bool:
    """Whether the run in a folder has a good checkpoint of this configuration."""
    from trainer.checkpoint import NAMES, latest

    if not any((path / name).exists() for name in NAMES):
        return False
    try:
        return not _changed(path, recorded) and latest(path, lambda _: None) is not None
    except TrainerError:
        log.info(f"{_shorter(path)} has no checkpoint that can be read, so it starts anew.")
        return False


def _inside(folder: Path, name: str) -> Path:
    """A folder below another by a name from a file, which must not lead out of it."""
    path = Path(os.path.abspath(folder / name))
    if path == folder or not path.is_relative_to(folder) or not path.resolve().is_relative_to(folder.resolve()):
        raise ConfigError(f"{folder / NAME} names the folder {name!r}, which is not inside. Run the sweep anew.")
    return path


def _remove(path: Path) -> None:
    """Removes what a job that is to be run again has left: nothing but a folder of a run of ours."""
    if path.is_symlink() or not path.is_dir():
        return
    names = {child.name for child in path.iterdir()}
    if names & {"run.json", "metrics.csv", "trainer.log", "run.lock"}:
        shutil.rmtree(path)


def _left(path: Path) -> tuple[str, str, dict[str, float]]:
    """Status, reason and last metrics of a job by its run.json; pending without one."""
    from trainer.outputs import read_record

    try:
        record = read_record(path)
    except (OSError, TrainerError):
        return "pending", "", {}
    numbers = record.get("metrics")
    metrics = {key: value for key, value in numbers.items() if isinstance(value, int | float)} if numbers else {}
    status = str(record["status"])
    known = status in (*DONE, *BAD, "interrupted")
    return status if known else "interrupted", str(record.get("reason") or ""), metrics


def _shorter(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _go_on(folder: Path) -> str:
    return shlex.join(["python", "-m", "trainer.sweep", f"resume={_shorter(folder)}"])
