"""Reads what runs left in their folders, and trusts none of it: sizes are capped, links are not followed.

A file that is torn, missing, altered or foreign costs a sentence in the list of problems and never the report.
"""

import contextlib
import csv
import hashlib
import json
import math
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.errors import FileError, counted
from trainer.runs.outputs import TABLES, content_sha256
from trainer.runs.text import written
from trainer.sweeps.record import GOOD, STATUSES
from trainer.sweeps.report.values import evenly, flatten, name_of, natural, number, overridden, plain, sound

Curve = NDArray[np.float64]

RUN = {"run.json", "metrics.csv"}  # either makes a folder that of a run
MOST_RUNS = 10_000
MOST_FOLDERS = 50_000
DEEPEST = 6  # levels below a given folder
DEEPEST_VALUE = 100  # lists and dictionaries inside one another
LARGEST = {"run.json": 4 << 20, "sweep.json": 32 << 20, **dict.fromkeys(TABLES, 32 << 20)}  # bytes
KEPT_POINTS = 240  # of a curve; pages draw at most 60 of them
ALTERED = "is not what the run wrote: its SHA-256 differs"


@dataclass(frozen=True)
class Run:
    """One run as its folder shows it; what could not be read is empty."""

    folder: str
    status: str
    reason: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)  # nested, as run.json has it
    flat: Mapping[str, Any] = field(default_factory=dict)  # a value for each key in dots, see flatten
    seed: Any = None
    metrics: Mapping[str, float] = field(default_factory=dict)  # at the end
    curves: Mapping[str, Curve] = field(default_factory=dict)  # thinned; "epoch" is one of them
    lowest: Mapping[str, float] = field(default_factory=dict)  # over all epochs
    highest: Mapping[str, float] = field(default_factory=dict)
    epochs: float = math.nan
    seconds: float = math.nan
    place: Path | None = None  # of a run that has a folder
    written: float = math.nan  # when run.json was, by the clock of the file system
    record: Mapping[str, Any] = field(default_factory=dict)  # the rest of run.json

    def metric(self, name: str) -> float:
        """One of the metrics at the end; nan where it has none."""
        return self.metrics.get(name, math.nan)


@dataclass
class Found:
    """All runs of some folders, and what was wrong with them, in sentences."""

    runs: list[Run] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)  # of the sweeps
    searches: list[list[str]] = field(default_factory=list)  # the folders of the trials of each, in their order
    told: dict[str, tuple[str, str]] = field(default_factory=dict)  # status and reason of each job of a sweep.json


def read(folders: Sequence[Path]) -> Found:
    """Every run in the folders and below them, each once, in the order of their names."""
    found, seen = Found(), set[str]()
    for root in folders:
        if not root.is_dir():
            what = "is not a folder" if root.exists() else "does not exist"
            raise FileError(f"{plain(str(root))} {what}. Name folders of runs or of sweeps, such as outputs/multirun.")
        before = len(found.runs) + len(found.problems)
        for place, names in _places(root, found):
            real = os.path.realpath(place)
            if real in seen:
                continue
            seen.add(real)
            if len(found.runs) >= MOST_RUNS:
                found.problems.append(f"Only the first {MOST_RUNS} runs are shown.")
                return found
            if RUN & names:
                found.runs.append(_run(place, found.problems))
            if "sweep.json" in names:
                _sweep(place, found)
        if len(found.runs) + len(found.problems) == before:
            found.problems.append(f"{shown(root)} holds no run.")
    found.runs = [_corrected(run, *found.told.get(run.folder, ("", ""))) for run in found.runs]
    found.runs.sort(key=lambda run: natural(run.folder))
    return found


def _corrected(run: Run, status: str, reason: str) -> Run:
    """The sweep knows of a job's end what a run that was killed could not write."""
    if run.status in ("running", "unknown") and status in STATUSES:
        return replace(run, status=status, reason=reason or run.reason)
    return replace(run, reason=run.reason or reason) if reason and run.status not in GOOD else run


def shown(place: Path) -> str:
    """A folder as people name it: relative to the working folder where it lies inside."""
    here = Path(os.path.abspath(place))
    with contextlib.suppress(ValueError, OSError):  # outside, or the working folder is gone
        here = here.relative_to(Path.cwd())
    return plain(here.as_posix(), 1000)


def _places(root: Path, found: Found) -> Iterator[tuple[Path, set[str]]]:
    """The folders that hold a run or a sweep, with the names in them."""
    problems, links, empty = found.problems, 0, 0

    def unread(error: OSError) -> None:
        problems.append(f"{shown(Path(error.filename))} cannot be read: {error.strerror}.")

    for count, (folder, below, files) in enumerate(os.walk(root, onerror=unread), 1):
        place, names = Path(folder), {*below, *files}
        if count > MOST_FOLDERS:
            problems.append(f"{shown(root)} holds more than {MOST_FOLDERS} folders; the rest is not read.")
            break
        if RUN & names:
            below.clear()
            yield place, names
            continue
        linked = sorted((name for name in names if (place / name).is_symlink()), key=natural)
        for name in linked[: max(5 - links, 0)]:
            problems.append(f"{shown(place / name)} is a link, and links are not followed.")
        links += len(linked)
        below[:] = sorted((name for name in {*below}.difference(linked) if name[0] != "."), key=natural)
        if "sweep.json" in names:
            yield place, names
        elif not below and place != root and shown(place) not in found.told:
            empty += 1
            if empty <= 5:
                problems.append(f"{shown(place)} holds no run.")
        if len(place.relative_to(root).parts) >= DEEPEST:
            below.clear()
    for total, what in ((links, "links are not followed"), (empty, "folders hold no run")):
        if total > 5:
            problems.append(f"{shown(root)}: {total - 5} more {what}.")


def _teller(place: Path, problems: list[str]) -> Callable[[str, object], None]:
    """What adds a problem with a file of a folder."""
    return lambda file, what: problems.append(f"{shown(place)}: {file} {plain(str(what))}.")


def _node(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _bytes(path: Path) -> bytes:
    """A regular file of bounded size; ValueError with the reason for all else."""
    most = LARGEST[path.name]
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # a pipe must not hang us
    if path.is_symlink():
        raise ValueError("is a link, and links are not followed")
    try:
        with open(os.open(path, flags), "rb") as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise ValueError("is not a regular file")
            if about.st_size > most:
                raise ValueError(f"has {about.st_size / 2**20:.0f} MiB, and at most {most >> 20} MiB are read")
            return file.read(about.st_size)
    except FileNotFoundError:
        raise ValueError("is missing") from None
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None


def _json(path: Path, say: Callable[[str, object], None]) -> dict[str, Any]:
    """A record of ours, its texts without surrogates, of which no file could be written; ValueError if it is none."""
    try:
        source = _bytes(path).decode("utf-8", "replace")
        content = json.loads(source)
        if not isinstance(content, dict):
            raise ValueError("is not a record of ours")
        if source.count("{") + source.count("[") > DEEPEST_VALUE and _depth(content) > DEEPEST_VALUE:
            raise RecursionError
        if path.name == "run.json":
            if "sha256" not in content:
                say(path.name, "has no SHA-256, so a change of what the run wrote cannot be seen")
            elif content["sha256"] != content_sha256(content):
                say(path.name, ALTERED)
                content = {**content, "sha256": None, "table_sha256": None}  # which no longer tell of the table
        text = sound(content) if "\\u" in source else content  # half a surrogate pair can only be escaped
    except (json.JSONDecodeError, RecursionError):
        raise ValueError("is torn, or is no JSON") from None
    if text is not content:
        say(path.name, "holds halves of surrogate pairs, which are no characters; they are shown as ?")
    return text


def _depth(value: Any) -> int:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, inside), default=0)


def _run(place: Path, problems: list[str]) -> Run:
    name, say, record = shown(place), _teller(place, problems), dict[str, Any]()
    try:
        record = _json(place / "run.json", say)
    except ValueError as error:
        say("run.json", error)
    signed = record.pop("sha256", None) is not None
    sums, config, metrics = (_node(record.pop(key, None)) for key in ("table_sha256", "config", "metrics"))

    def table(file: str) -> str:
        """Its text, after a look at whether it is what the run left; one that is still written has no SHA-256."""
        content = _bytes(place / file)
        if file in sums and sums[file] != hashlib.sha256(content).hexdigest():
            say(file, ALTERED)
        elif file not in sums and signed and record.get("status") in GOOD:
            say(file, "has no SHA-256 in run.json, so a change of it cannot be seen")
        return content.decode("utf-8", "replace")

    columns, rows = list[str](), np.empty((0, 0))
    left = [file for file in TABLES if file in sums or (place / file).exists()]
    for file in left or ["metrics.csv"]:
        try:
            text = table(file)
            if file == "metrics.csv":
                columns, rows, torn = _table(text)
                if torn:
                    say(file, f"has {counted(torn, 'line')} that cannot be read")
        except ValueError as error:
            if record.get("status") not in ("running", "diverged", "failed"):  # they may have ended before a row
                say(file, error)
    last = {key: number(value) for key, value in metrics.items()}
    last = last or (dict(zip(columns, rows[-1].tolist(), strict=True)) if len(rows) else {})
    status = plain(record.pop("status", "unknown"), 20)
    return Run(
        folder=name,
        status=status if status in STATUSES else "unknown",
        reason=plain(record.pop("reason", None) or "", 500),
        config=config,
        flat=flatten(config),
        seed=record.get("seed", config.get("seed")),
        metrics={name_of(key): value for key, value in last.items()},
        curves=dict(zip(columns, np.ascontiguousarray(rows[evenly(len(rows), KEPT_POINTS)].T), strict=True))
        if len(rows)
        else {},
        lowest=_extremes(columns, rows, np.fmin),
        highest=_extremes(columns, rows, np.fmax),
        epochs=number(record.get("epochs", last.get("epoch"))),
        seconds=number(record.get("seconds", last.get("seconds"))),
        place=Path(os.path.abspath(place)),
        written=_written(place / "run.json"),
        record=record,
    )


def _written(path: Path) -> float:
    """When a file was written; nan where there is none."""
    with contextlib.suppress(OSError):
        return os.stat(path, follow_symlinks=False).st_mtime
    return math.nan


def _table(text: str) -> tuple[list[str], Curve, int]:
    """The columns of metrics.csv, its rows, and how many lines are none of them; ValueError without a header."""
    first, _, body = text.partition("\n")
    head = [name_of(name) for name in next(csv.reader([first]), [])]
    if "epoch" not in head or len(head) > 200:
        raise ValueError("is empty" if not text.strip() else "has no header of ours")
    lines = [line for line in body.split("\n") if line.strip()]
    whole = lines if text.endswith("\n") else lines[:-1]  # the last number of the others may lack digits
    cells = [line.rstrip("\r").split(",") for line in whole]
    rows = [_floats(row) for row in cells if len(row) == len(head)]
    values = np.array(rows).reshape(-1, len(head))
    values = np.where(np.abs(values) < 1e100, values, np.nan)
    values = values[np.isfinite(values[:, head.index("epoch")])]
    return head, values, len(lines) - len(values)


def _floats(cells: Sequence[str]) -> list[float]:
    try:
        return list(map(float, cells))
    except ValueError:  # seldom, and found cell by cell
        return [math.nan] if len(cells) == 1 else [value for cell in cells for value in _floats([cell])]


def _extremes(columns: Sequence[str], rows: Curve, of: np.ufunc) -> dict[str, float]:
    """The least or largest number of each column that has one."""
    found = zip(columns, of.reduce(rows).tolist(), strict=True) if len(rows) else ()
    return {name: value for name, value in found if not math.isnan(value)}


def _sweep(place: Path, found: Found) -> None:
    """Adds the jobs of sweep.json that left no run, and tells why a run did not come to its end."""
    say = _teller(place, found.problems)
    try:
        content = _json(place / "sweep.json", say)
        jobs = content.get("jobs")
        if not isinstance(jobs, list) or not str(content.get("format", "")).startswith("softmax-trainer sweep"):
            raise ValueError("is not a record of ours")
    except ValueError as error:
        say("sweep.json", error)
        return
    command = content.get("command")
    if command:
        found.commands.append(plain(command, 2000))
    arguments = content.get("arguments")
    if isinstance(arguments, list) and "sweep=optuna" in arguments:
        found.searches.append([shown(place / str(number)) for number in range(len(jobs[:MOST_RUNS]))])
    for job in (job for job in jobs[:MOST_RUNS] if isinstance(job, Mapping)):
        folder = Path(written(job.get("folder") or job.get("number", "")))
        status, reason = plain(job.get("status", "unknown"), 20), plain(job.get("reason") or "", 500)
        target = place / (folder.name if folder.is_absolute() or ".." in folder.parts else folder)
        found.told[shown(target)] = status, reason
        if not folder.name or not any((target / name).exists() for name in RUN):
            overrides = job.get("overrides")
            flat = overridden(overrides if isinstance(overrides, list) else [])
            status = status if status in STATUSES else "unknown"
            found.runs.append(Run(shown(target), status, reason, flat=flat, seed=flat.get("seed")))
