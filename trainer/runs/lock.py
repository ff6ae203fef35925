"""Who may write in the folder of a run or a sweep: the lock, and folders that are still free."""

import fcntl
import json
import logging
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

from trainer.errors import ConfigError
from trainer.runs.outputs import (
    CHECKPOINT,
    MODEL,
    OLDER,
    RECORD,
    TABLES,
    in_place,
    open_plain,
    require_in_place,
    writing,
)

LOCK = "run.lock"
USED = (RECORD, *TABLES, MODEL, CHECKPOINT, OLDER)  # a folder with one has a run


class Lock:
    """The right to write in a folder, held by one process at a time; its file names the process and the host.

    The system frees it when the process ends in whatever way, so the file of a dead run is simply taken over.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK
        with writing(self._path):
            while not self._taken():
                pass

    def _taken(self) -> bool:
        """Whether the lock is ours; False if the file went away meanwhile and must be made anew."""
        descriptor = open_plain(self._path, os.O_RDWR | os.O_CREAT)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise self._refusal(os.read(descriptor, 1000)) from None
            if not in_place(self._path, descriptor):
                os.close(descriptor)
                return False
            if left := os.read(descriptor, 1000):
                if _holder(left).get("host") not in (None, socket.gethostname()):  # a lock may not reach other hosts
                    raise self._refusal(left)
                os.ftruncate(descriptor, 0)  # after which ext4 takes a millisecond to close a file
            os.pwrite(descriptor, json.dumps(process()).encode(), 0)
        except BaseException:
            with suppress(OSError):
                os.close(descriptor)
            raise  # the file stays, as another process may have it by now; empty or ours, it hinders nobody
        self._descriptor = descriptor
        return True

    def check(self) -> None:
        """FileError if the folder is no longer the one that was locked."""
        require_in_place(self._path, self._descriptor)

    def _refusal(self, left: bytes) -> ConfigError:
        holder = _holder(left)
        who = f"process {holder['pid']} on {holder['host']}" if holder else "another process"
        return ConfigError(
            f"{self._path.parent} is being written by {who}. Wait for it, or stop it; if it no longer runs, "
            f"remove {self._path}."
        )

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *_: object) -> None:
        if in_place(self._path, self._descriptor):  # in a folder made anew it is another's
            self._path.unlink(missing_ok=True)  # first, or another process could take it in between and lose it
        os.close(self._descriptor)


def _holder(content: bytes) -> dict[str, Any]:
    """The process that a lock's file names; empty while it is still being written."""
    try:
        holder = json.loads(content)
        return {"pid": int(holder["pid"]), "host": str(holder["host"])[:100]}
    except (ValueError, KeyError, TypeError):
        return {}


def process() -> dict[str, Any]:
    """This process, by its number and its host."""
    return {"pid": os.getpid(), "host": socket.gethostname()}


def hold(folder: Path) -> Lock:
    """The lock of a folder, which is made if need be; ConfigError if another process has it."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return Lock(folder)


def claim(folder: Path) -> tuple[Path, Lock]:
    """A folder that no other run has used or uses, made if need be: this one, or with -2, -3, ... behind its name."""
    folder = folder.absolute()
    for number in range(1, 100_000):
        candidate = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        with writing(candidate):
            candidate.mkdir(parents=True, exist_ok=True)
        if is_used(candidate):
            continue
        try:
            lock = Lock(candidate)
        except ConfigError:
            continue
        if not is_used(candidate):  # by a run that has ended meanwhile
            return candidate, lock
        lock.__exit__()
    raise ConfigError(f"{folder} and its neighbours are all taken; choose another hydra.run.dir.")


def is_used(folder: Path) -> bool:
    """Whether a run has left something in this folder."""
    return any(os.path.lexists(os.path.join(folder, name)) for name in USED)


def move_log(old: Path, new: Path) -> None:
    """Lets log files that were to appear in one folder appear in another."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler) and handler.stream is None:
            path = Path(handler.baseFilename)
            if path.parent == old.absolute():
                handler.baseFilename = str(new.absolute() / path.name)
