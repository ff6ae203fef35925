"""A sweep on its way: its jobs go out, and their ends come back into its record."""

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf

from trainer.errors import ConfigError, TrainerError, counted
from trainer.runs.config import Settings
from trainer.runs.outputs import shorter, to_disk
from trainer.runs.overrides import tamed
from trainer.runs.schema import structured
from trainer.runs.text import aligned, printable, quoted
from trainer.sweeps.grid import Composer, Grid, Plan, word
from trainer.sweeps.record import BAD, DONE, NAME, Line, Record, go_on
from trainer.sweeps.resumed import left

if TYPE_CHECKING:
    from trainer.sweeps.report.summary import Ranking
    from trainer.sweeps.worker import Ended, Job

log = logging.getLogger("sweep")
SYNCS = 8  # at a time; a disk does many together nearly as quickly as one


class SweepFailed(TrainerError):
    """Some jobs did not end well; the others did."""

    exit_code = 1


class Sweep:
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
        self.plain_folders = raw["subdir"] == "${hydra.job.num}"
        self.began = time.monotonic()
        self.stores = set[Path]()  # that several jobs write to, and are there

    def run(self, launcher: Launcher | None) -> list[JobReturn]:
        """Runs what is to be done, by our workers or by one of Hydra's other launchers, and sums up."""
        record = self.record
        todo = [line.number for line in record.jobs if line.status not in DONE]
        counts = record.counts()
        log.info(
            f"{len(todo)} of {len(record.jobs)} jobs into {shorter(self.folder)}"
            + (f"; {counts['skipped']} make no sense and are skipped" if "skipped" in counts else "")
        )
        for number in todo:
            record.jobs[number].status = "pending"
        try:
            with self.recorded():
                if launcher is None:
                    self.by_workers(todo)
                else:
                    self.by_launcher(launcher, todo)
        except (KeyboardInterrupt, TrainerError) as error:
            log.info("Summing up what there is; Ctrl-C leaves that out.")
            with suppress(TrainerError, KeyboardInterrupt):  # a full disk, or Ctrl-C again: sweep.json is there
                self.summarise()
            if isinstance(error, TrainerError):
                raise
            done = record.counts().get("finished", 0)
            interrupted = TrainerError(
                f"Interrupted: {done} of {len(record.jobs)} jobs have finished. Go on by {go_on(self.folder)}"
            )
            interrupted.exit_code = getattr(error, "code", 130)
            raise interrupted from None
        self.conclude()
        if wrong := [line for line in record.jobs if line.status in BAD]:
            raise SweepFailed(self.sentence(wrong))
        return []

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """The first sweep.json, and the last once the files of all jobs are on the disk: no job has waited for it."""
        self.record.status = "running"
        self.record.write(self.folder)
        interrupted = True
        try:
            yield
            interrupted = False
        finally:
            with ThreadPoolExecutor(SYNCS) as threads:
                done = [self.folder / self.record.jobs[number].folder for number in self.metrics]
                list(threads.map(to_disk, filter(Path.is_dir, done)))
            bad = any(line.status in BAD for line in self.record.jobs)
            self.record.status = "interrupted" if interrupted else "failed" if bad else "finished"
            self.record.write(self.folder)

    def by_workers(self, todo: Sequence[int]) -> None:
        """Runs these jobs in processes of ours; each end goes into the record and to the terminal."""
        from trainer.objective.threads import available_cores
        from trainer.sweeps.pool import Pool

        cores = available_cores()
        workers = min(self.options.workers or cores, max(1, len(todo)))
        pool = Pool(workers, self.options.timeout, self.options.stack == "auto")
        ended, written = 0, 0.0
        try:
            with closing(pool.run(self.jobs(todo, threads=max(1, cores // workers)))) as ends:
                for end in ends:
                    if end is not None:
                        if ended == 0:  # what makes the report is prepared while all wait for the workers anyway
                            from trainer.sweeps.report.page import template

                            template("page.html.jinja")
                        ended += 1
                        log.info(f"[{ended}/{len(todo)}] {self.said(self.take(end))}")
                    if time.monotonic() - written > 0.8:
                        self.record.write(self.folder)
                        written = time.monotonic()
                    if end is not None and end.status in BAD and self.options.fail_fast:
                        return
        finally:
            for number in pool.running:
                line = self.record.jobs[number]
                line.status, line.reason = "interrupted", "The sweep ended before it did."

    def jobs(self, todo: Sequence[int], threads: int) -> "Iterator[Job]":
        """The jobs as workers take them, each of so many threads unless it says otherwise."""
        from trainer.sweeps.worker import Job

        for place in todo:
            line, plan = self.record.jobs[place], self.plans[place]
            folder = self.folder / line.folder if plan.goes_on else self.folder_of(plan, line)
            settings, recorded = self.composer(plan.choices, line.number, str(folder))
            if settings.threads is None:  # its configuration stays as it is
                settings = replace(settings, threads=threads)
            self.share(settings, folder)
            yield Job(line.number, folder, settings, recorded, plan.goes_on)
        if not self.plain_folders:  # killed before the next writing, the sweep would not find them again
            self.record.write(self.folder)

    def take(self, end: "Ended") -> Line:
        """The line of a job, with how it ended."""
        line = self.record.jobs[end.number]
        line.status, line.reason = end.status, end.reason
        if end.folder is not None:  # another than was meant, if that had a run in it already
            line.folder = Path(os.path.relpath(end.folder, self.folder)).as_posix()
        self.metrics[end.number] = end.metrics
        return line

    def share(self, settings: Settings, folder: Path) -> None:
        """Makes what jobs of several processes write to, before the first of them runs."""
        if "mlflow" in settings.callbacks:
            from trainer.runs.callbacks.loggers import MLflow

            logger = structured("callbacks.mlflow", MLflow, settings.callbacks["mlflow"] or {})
            store = logger.file(folder)
            if store.parent != folder and store not in self.stores:
                self.stores.add(store)
                logger.make(folder)

    def by_launcher(self, launcher: Launcher, todo: Sequence[int]) -> None:
        """One of Hydra's other launchers; how its jobs ended is read from what they left."""
        if self.options.timeout is not None or self.options.fail_fast or self.options.workers is not None:
            log.info("sweep.timeout, fail_fast and workers belong to hydra/launcher=workers, not to this one.")
        lines = [self.record.jobs[number] for number in todo]
        jobs = []
        for line in lines:
            choices = self.plans[line.number].choices
            overrides = [word(choice) for choice in choices]
            folder = self.folder_of(self.plans[line.number], line)
            self.share(self.composer(choices, line.number, str(folder))[0], folder)
            if not self.plain_folders or len(todo) < len(self.record.jobs):  # names are tamed, and numbers have gaps
                overrides.append(f"hydra.sweep.subdir={quoted(line.folder)}")
            jobs.append(overrides)
        self.record.write(self.folder)  # killed before the next writing, the sweep would not find its folders again
        answers = launcher.launch(jobs, initial_job_idx=0)
        for line, answer in zip(lines, answers, strict=True):
            status, reason, metrics = left(self.folder / line.folder)
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
        """The job's folder, below that of the sweep, by the name that hydra.sweep.subdir gives it."""
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

    def summarise(self) -> "Ranking":
        """summary.csv and report.html, of all jobs, finished or not; returns what they call the best."""
        from trainer.sweeps.report.page import write
        from trainer.sweeps.report.reading import read
        from trainer.sweeps.report.summary import ranking

        found = read([self.folder])
        ranked = ranking(found.runs)
        write(found, ranked, self.folder, alone=True)
        return ranked

    def conclude(self) -> None:
        """The report of the sweep, and what the terminal shows at its end."""
        ranked = self.summarise()
        counts = self.record.counts()
        seconds = time.monotonic() - self.began
        log.info("")
        log.info(f"{', '.join(f'{count} {status}' for status, count in counts.items())} in {seconds:.1f} s")
        skipped = {line.reason for line in self.record.jobs if line.status == "skipped"}
        for reason in sorted(skipped)[:5]:
            log.info(f"  skipped: {printable(reason)}")
        for row in best(ranked, 3):
            log.info(f"  {row}")
        for name in (NAME, "summary.csv", "report.html"):
            log.info(f"  {shorter(self.folder / name)}")

    def sentence(self, wrong: Sequence[Line]) -> str:
        """Which jobs did not end well, in a few lines."""
        jobs = self.record.jobs
        left = sum(line.status in ("pending", "interrupted") for line in jobs)
        lines = [f"{len(wrong)} of {len(jobs)} jobs did not end well{f'; {left} were not run' if left else ''}:"]
        for line in wrong[:3]:
            first = line.reason.strip().split("\n")[0]
            lines.append(printable(f"  {line.folder}  {line.status}  {' '.join(line.overrides)}  {first}"))
        more = f"  and {len(wrong) - 3} more, in {shorter(self.folder / NAME)}. " if len(wrong) > 3 else "  "
        return "\n".join([*lines, f"{more}Try them again by {go_on(self.folder)}"])


def best(ranked: "Ranking", most: int) -> list[str]:
    """What ranks, in words, and the best configurations by their means over seeds."""
    aim = ranked.aim
    if aim is None:
        return []
    rows = []
    for item in ranked.first(most):
        values = " ".join(f"{key}={text}" for key, text in item.values.items())
        numbers = [f"{name} {item.mean(name):.4g}" for name in (aim.metric, aim.tie) if name]
        rows.append([*numbers, counted(len(item.done), "run"), values, item.doubt])
    return [f"best by {aim.rule}:", *map(printable, aligned(rows))] if rows else []
