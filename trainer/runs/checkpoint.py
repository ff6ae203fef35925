"""Checkpoints: all that a run needs to go on to the same bits, in a file that can run no code.

A checkpoint is an archive (trainer.runs.archive) of w and the arrays of the optimiser's state. The rows of metrics.csv
stand in its header, and so do the nested tuples of the state, with the numbers of the arrays in it. Along a path of
strengths it has the rows of path.csv, and what runs.path.after makes the state. The last two are kept: what cannot be
read, or belongs to another run, is named by a warning, and the one before it is taken.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainer.arrays import Array
from trainer.data import remote
from trainer.data.reading import stamp
from trainer.errors import DataError, FileError, TrainerError, shown
from trainer.objective.preconditioner import Preconditioner
from trainer.objective.view import Evaluated
from trainer.optimizers import OPTIMIZERS, Optimizer
from trainer.optimizers.fit import TrainState
from trainer.runs import archive
from trainer.runs.outputs import CHECKPOINT, OLDER, check_plain, writing
from trainer.runs.text import flat, kept

FORMAT, VERSION = "softmax-trainer checkpoint", 2
NAMES = (CHECKPOINT, OLDER)
EVERY = 1.0  # seconds between two checkpoints, at least
FREE = ("epochs", "sweep", "skip_illegal", "engine")  # keys of a configuration that may change when a run goes on
SHARE = 0.05  # of the time that checkpoints may take: one that takes long to write comes less often
ANOTHER = 0.01  # seconds that the checkpoint of a run beside it takes, at least
LARGEST = 1 << 33  # bytes of a checkpoint
WHOLE = 1 << 26  # bytes of a data file up to which all of it is hashed
END = 1 << 20  # bytes of both ends of a larger one that are
ALL = 1 << 30  # bytes of many files that are hashed so, of each further one FEW of both ends
FEW = 1 << 12


@dataclass(frozen=True)
class Checkpoint:
    """A run after an epoch, or after a strength of a path.

    state      what fit, or a path, goes on from
    rows       of the table so far; callbacks that count see them again
    seconds    the run has taken so far
    status     running, interrupted or diverged; finished or stopped (by a callback, or a solver) with its reason
    converged  whether a solver has said so
    seed, config, data   of the run: config as run.json keeps it, data the fingerprint of the data file, if there is one
    """

    state: TrainState
    rows: Sequence[Mapping[str, float]]
    seconds: float
    status: str
    reason: str
    converged: bool
    seed: int
    config: Mapping[str, Any]
    data: str | None

    @property
    def ended(self) -> bool:
        """Whether no number of further epochs would go on."""
        return self.status == "stopped" or self.converged

    @property
    def place(self) -> str:
        return f"{'strength' if self.rows and 'strength' in self.rows[0] else 'epoch'} {self.state.epoch}"


def save(path: Path, checkpoint: Checkpoint, durable: bool = True, previous: Path | None = None) -> Path:
    """Writes one file; the old one is kept as previous, if that is given."""
    arrays = [checkpoint.state.w]
    names = list(dict.fromkeys(name for row in checkpoint.rows for name in row))
    header = {
        "format": FORMAT,
        "version": VERSION,
        "epoch": checkpoint.state.epoch,
        "optimizer": encode(checkpoint.state.optimizer, arrays),
        **{name: getattr(checkpoint, name) for name in READ},
        "rows": [names, *([row.get(name) for name in names] for row in checkpoint.rows)],
    }
    numbered = {f"array{number}": array for number, array in enumerate(arrays)}
    return archive.save(path, header, numbered, durable, previous)


def load(path: Path) -> Checkpoint:
    """Reads and checks one file; a FileError if it cannot be read, a DataError if it is no checkpoint to go on from."""
    check_plain(path)
    header, arrays = archive.load(path, "checkpoint", LARGEST)
    if header.get("format") != FORMAT:
        raise DataError(f"{path} is not a checkpoint of ours: its format is {str(header.get('format'))[:40]!r}.")
    if header.get("version") != VERSION:
        raise DataError(
            f"{path} is a checkpoint of version {str(header.get('version'))[:20]}, and this program reads version "
            f"{VERSION}; go on with the version of trainer that wrote it."
        )
    try:
        numbered = [arrays[f"array{number}"] for number in range(len(arrays))]
        if "optimizer" not in header:
            raise ValueError("the state of the optimizer is missing")
        state = TrainState(int(header["epoch"]), numbered[0], decode(header["optimizer"], numbered))
        checkpoint = Checkpoint(state, **{name: read(header[name]) for name, read in READ.items()})
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise DataError(f"{path} is not a checkpoint of ours: {str(error)[:120]}.") from None
    if not np.isfinite(state.w).all():
        raise DataError(f"{path} holds parameters that are not finite, so nothing can go on from it.")
    if state.epoch < 0 or len(checkpoint.rows) != state.epoch:
        raise DataError(f"{path} is of epoch {state.epoch}, but holds {len(checkpoint.rows)} rows.")
    return checkpoint


def keep(folder: Path, checkpoint: Checkpoint, durable: bool = True) -> None:
    """Writes the latest checkpoint of a run; the one before it stays as the previous one."""
    latest, previous = (folder / name for name in NAMES)
    save(latest, checkpoint, durable, previous)


def after(took: float, runs: int) -> float:
    """Seconds from a checkpoint that took so long to the next one, where so many runs side by side write one.

    >>> after(0.01, runs=1), round(after(0.01, runs=50))
    (1.0, 10)
    """
    return max(EVERY, (took + (runs - 1) * max(took, ANOTHER)) / SHARE)


def latest(folder: Path, check: Callable[[Checkpoint], object]) -> Checkpoint | None:
    """The latest good checkpoint that check does not refuse; None if there is none at all.

    A DataError or FileError if none is good, with the reason of each.

    A bad one that is passed over is removed, since the next checkpoint would put it in the place of the good one.
    """
    paths = [path for path in (folder / name for name in NAMES) if os.path.lexists(path)]
    refusals: list[TrainerError] = []
    for path in paths:
        try:
            found = load(path)
            check(found)
        except (DataError, FileError) as error:
            refusals.append(error)
            continue
        for refusal in refusals:
            warnings.warn(f"{refusal} The one before it is taken, of {found.place}.", stacklevel=2)
        for bad in paths[: len(refusals)]:
            with writing(bad):
                bad.unlink(missing_ok=True)
        return found
    if refusals:
        why = " ".join(map(str, refusals))
        raise type(refusals[0])(f"{why} There is no other; remove {paths[0].name} and start the run anew.")
    return None


def check(found: Checkpoint, optimizer: Optimizer, start: TrainState, data: str | None) -> None:
    """Refuses, by DataError, a checkpoint that a run with this start cannot go on from."""
    w, wanted = found.state.w, start.w
    if (w.shape, w.dtype) != (wanted.shape, wanted.dtype):
        raise DataError(
            f"The checkpoint has w of shape {w.shape} of {w.dtype}, the run {wanted.shape} of {wanted.dtype}; "
            "it is of other data or another configuration."
        )
    state, like = found.state.optimizer, start.optimizer
    fits = type(state) is type(like) and (
        not isinstance(like, np.ndarray) or (state.shape, state.dtype) == (like.shape, like.dtype)
    )
    if like is not None and not fits:  # optimizer=auto has no state of its own before it has chosen
        raise DataError(f"The checkpoint has no state of optimizer={optimizer.name}, but {type(state).__name__}.")
    if found.data != data:
        raise DataError("The checkpoint is of another data file, or the file has changed since.")


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Where two configurations differ, a line a key; those in FREE are left out."""
    plain = (json.loads(json.dumps(kept(config))) for config in (old, new))  # keys as texts, no tuples
    before, now = (dict(flat(config)) for config in plain)
    keys = [key for key in {**before, **now} if before.get(key, "absent") != now.get(key, "absent")]
    return [
        f"{key} was {before.get(key, 'absent')} and is {now.get(key, 'absent')}"
        for key in keys
        if key.partition(".")[0] not in FREE
    ]


def fingerprint(paths: Sequence[str]) -> str:
    """SHA-256 of files; of one above 64 MiB, and of those beyond 1 GiB of many, of size, time of change and both ends.

    Of a file that is not on this machine the tag that its server gives it stands for the time.
    """
    digest, left = hashlib.sha256(), ALL
    for path in paths:
        try:
            away = remote.is_remote(path)
            size, *times = stamp(path)
            with remote.opened(path, size) if away else open(path, "rb") as file:
                digest.update(f"{size} ".encode())
                if size <= WHOLE and left > 0:
                    left -= size
                    digest.update(file.read())
                    continue
                end = min(END if left > 0 else FEW, size)
                left -= 2 * end
                changed = remote.tag(path) if away else times[0]
                digest.update(f"{changed} ".encode() + file.read(end))
                file.seek(size - end)
                digest.update(file.read(end))
        except OSError as error:
            if isinstance(error, FileError):
                raise
            raise FileError(f"{shown(path)} cannot be read: {error.strerror or error}.") from error
    return digest.hexdigest()


def encode(value: Any, arrays: list[Array]) -> Any:
    """A state as JSON; its arrays go to the list, and their numbers into the JSON."""
    if isinstance(value, Evaluated | Preconditioner):  # which are made again, to the same bits
        return None
    if value is None or type(value) in (bool, int, float, str):  # JSON keeps every bit of a float
        return value
    if isinstance(value, np.ndarray | np.generic):  # a scalar of numpy is not a float: it sets the dtype of a result
        arrays.append(np.asarray(value))
        return {"array" if isinstance(value, np.ndarray) else "scalar": len(arrays) - 1}
    name = type(value).__name__
    if isinstance(value, tuple) and (name == "tuple" or _states().get(name) is type(value)):
        return {name: [encode(item, arrays) for item in value]}
    raise TypeError(f"A checkpoint cannot hold a {name}; an optimizer names the class of its states in state.")


def decode(node: Any, arrays: Sequence[Array]) -> Any:
    """The state that encode was given."""
    if isinstance(node, list):
        raise ValueError("the state of the optimizer is none of ours")
    if not isinstance(node, dict):
        return node
    ((name, content),) = node.items()
    if name in ("array", "scalar"):
        return arrays[content] if name == "array" else arrays[content][()]
    items = [decode(item, arrays) for item in content]
    return tuple(items) if name == "tuple" else _states()[name](*items)


def _states() -> dict[str, type]:
    """The classes that the states of the optimisers are of, where those are tuples; no others are ever made."""
    return {cls.state.__name__: cls.state for cls in OPTIMIZERS.values() if issubclass(cls.state, tuple)}


def _rows(table: Any) -> list[dict[str, float]]:
    """The rows of a table below its names; null is a cell that a row lacks."""
    names, *cells = table
    rows = [{str(name): cell for name, cell in zip(names, row, strict=True) if cell is not None} for row in cells]
    if not all(isinstance(cell, int | float) for row in rows for cell in row.values()):
        raise ValueError("its rows hold what is no number")
    return rows


READ: dict[str, Callable[[Any], Any]] = {  # fields of a checkpoint that stand in the header, and what they must be
    "rows": _rows,
    "seconds": float,
    "status": str,
    "reason": str,
    "converged": bool,
    "seed": int,
    "config": dict,
    "data": lambda data: data,
}
