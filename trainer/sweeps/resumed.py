"""What an earlier try of a sweep has left: which of its jobs are done, which go on, and which begin again."""

import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from trainer.errors import ConfigError, TrainerError
from trainer.runs.outputs import RECORD, emptied, read_record, shorter
from trainer.sweeps.grid import Axis, Composer, Plan, special
from trainer.sweeps.record import BAD, DONE, NAME, Record, read

log = logging.getLogger("sweep")


def resumed(
    folder: Path, axes: Sequence[Axis], plans: Sequence[Plan], composer: Composer, by_workers: bool
) -> tuple[Record, list[Plan]]:
    """The record of the sweep in a folder and its plans in that order; ConfigError if the grid is another one.

    A job that has not ended goes on from its checkpoint; without a good one of its settings its folder is emptied.
    """
    record = read(folder)
    found = {tuple(special(axes, plan)): plan for plan in plans}
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
        if emptied(path):
            line.status, line.reason = "pending", ""
            again.append(path)
            continue
        if (path / RECORD).exists():
            read_record(path)  # refused where it was altered: what it says of a job that has ended is not thrown away
        status, reason, _ = left(path)
        if status in DONE:  # it may have ended after sweep.json was written for the last time
            if changed := _changed(path, composer(job.choices, line.number, str(path))[1]):
                raise ConfigError(
                    f"{path} was run with another configuration, so the sweep cannot go on: {'; '.join(changed)}. "
                    "Give the old values, or start a new sweep."
                )
            line.status, line.reason = status, reason
        elif line.status in DONE and not (path / RECORD).exists() and path.exists():
            continue  # an experiment, which leaves no run.json
        else:
            line.status, line.reason = "pending", ""
            if by_workers and _cango_on(path, composer(job.choices, line.number, str(path))[1]):
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
    from trainer.runs.checkpoint import differences

    old = read_record(path)["config"]
    was, now = old.get("epochs"), recorded.get("epochs")  # which may grow in a run, but not in one of many
    return differences(old, recorded) + ([f"epochs was {was} and is {now}"] if was != now else [])


def _cango_on(path: Path, recorded: Mapping[str, Any]) -> bool:
    """Whether the run in a folder has a good checkpoint of this configuration."""
    from trainer.runs.checkpoint import NAMES, latest

    if not any((path / name).exists() for name in NAMES):
        return False
    try:
        return not _changed(path, recorded) and latest(path, lambda _: None) is not None
    except TrainerError:
        log.info(f"{shorter(path)} has no checkpoint that can be read, so it starts anew.")
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


def left(path: Path) -> tuple[str, str, dict[str, float]]:
    """Status, reason and last metrics of a job by its run.json; pending without one."""
    try:
        record = read_record(path)
    except (OSError, TrainerError):
        return "pending", "", {}
    metrics = {key: value for key, value in record.get("metrics", {}).items() if isinstance(value, int | float)}
    status = str(record["status"])
    known = status in (*DONE, *BAD, "interrupted")
    return status if known else "interrupted", str(record.get("reason") or ""), metrics
