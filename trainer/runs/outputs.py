"""What a run leaves in its folder: files that are written whole or not at all, and a table that grows.

A file is written beside its target, brought to the disk by fsync and renamed, and then the folder is brought to the
disk: whatever ends the process or the machine, a reader finds the old file or the new one. Every byte goes through
os.open, os.write, os.fsync and os.replace in this one file, long as it is, so a test can let each of them fail.

What stays open (the table, the lock, the log) is a plain file of that folder under its one name, by open_plain, and
for as long as the run lasts: table and lock notice that they, or the folder, are no longer in their place.
"""

import errno
import hashlib
import io
import json
import logging
import os
import platform
import stat
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from secrets import token_hex
from typing import Any, BinaryIO, TextIO, cast

from trainer.errors import NO_TEXT, DataError, FileError, is_text
from trainer.runs.text import csv_text

PACKAGES = ("numpy", "scikit-learn", "hydra-core", "omegaconf", "matplotlib")
RECORD, TABLE, PATH, CELLS, MODEL = "run.json", "metrics.csv", "path.csv", "cv.csv", "model.npz"
CHECKPOINT, OLDER = "checkpoint.npz", "checkpoint.previous.npz"
TABLES = (TABLE, PATH, CELLS)  # a run has one of the first two
# O_EXCL opens no link, not even one that is laid there at this very moment.
NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL
LARGEST_RECORD = 1 << 26  # bytes; a run.json of ours has a few thousand


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what the system says of a path into a FileError, exit code 3."""
    try:
        yield
    except OSError as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"{path} cannot be written: {error.strerror or error}. Choose another folder.") from error


def check_plain(path: str | Path) -> None:
    """FileError for what is neither free nor a plain file: a link leads elsewhere, and a pipe may hang for ever."""
    with writing(Path(path)), suppress(FileNotFoundError):
        _refuse_other(path, os.lstat(path).st_mode)


def open_plain(path: str | Path, flags: int) -> int:
    """os.open for what is then written in its place: FileError if the file is no plain one, or has a second name."""
    check_plain(path)
    # and again for what is laid there at this very moment
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    try:
        status = os.fstat(descriptor)
        _refuse_other(path, status.st_mode if status.st_nlink <= 1 else stat.S_IFLNK)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _refuse_other(path: str | Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = "a link" if stat.S_ISLNK(mode) else "no plain file"
        raise FileError(
            f"{path} cannot be read or written: it is {kind}, and a run keeps to plain files of its own folder. "
            "Remove it, or choose another folder."
        )


class LogFile(logging.FileHandler):
    """A log that appends to a plain file of its folder, and to nothing else; what comes before the folder waits."""

    def __init__(self, filename: str | Path, mode: str = "a", encoding: str | None = None, delay: bool = False) -> None:
        logging.FileHandler.__init__(self, filename, mode, encoding, delay)
        self._early: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self._early.append(record)
        if self.stream is not None or Path(self.baseFilename).parent.is_dir():
            self.write_early()

    def write_early(self) -> None:
        early, self._early = self._early, []
        for record in early:
            logging.FileHandler.emit(self, record)

    def _open(self) -> Any:
        with writing(Path(self.baseFilename)):
            return open_log(self.baseFilename)


def open_log(path: str | Path) -> TextIO:
    """A text file to append to; what no UTF-8 can hold is spelt out."""
    return cast(TextIO, open(path, "a", encoding="utf-8", errors="backslashreplace", opener=open_plain))


def in_place(path: Path, descriptor: int) -> bool:
    """Whether the file under this name is still the one that was opened."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except OSError:
        return False


def require_in_place(path: Path, descriptor: int) -> None:
    """FileError if the file under this name is another one by now."""
    if not in_place(path, descriptor):
        raise FileError(
            f"{path} cannot be written any more: it, or its folder, was removed, moved or replaced while the run was "
            "on its way. Start the run again; one whose folder was moved goes on by resume= and its new place."
        )


class _Raw(io.FileIO):
    """A file that is written by os.write."""

    def write(self, data: Any) -> int:
        return os.write(self.fileno(), data)


def write_whole(
    path: Path,
    write: Callable[[BinaryIO], object],
    durable: bool = True,
    previous: Path | None = None,
    alone: bool = True,
) -> Path:
    """Writes beside the target and renames, so that a reader sees the old file or the new one, never a part.

    Without durable nothing waits for the disk, and only a crash of the machine can tear the file. The old file is kept
    under the name previous, if that is given. Where no lock says that this is the only writer, alone=False keeps the
    parts of several apart, and the last one wins.
    """
    beside = path.with_name(f".{path.name}.part" if alone else f".{path.name}.{token_hex(4)}.part")
    with writing(path):
        try:
            _write_out(beside, write, durable)
            if previous is not None:
                with suppress(FileNotFoundError):
                    os.replace(path, previous)
            os.replace(beside, path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
        if durable:
            sync_folder(path.parent)
    return path


def _write_out(path: Path, write: Callable[[BinaryIO], object], durable: bool) -> None:
    path.unlink(missing_ok=True)  # what a dead run left, or a link; of a link only the name goes
    descriptor = os.open(path, NEW, 0o666)
    try:
        file = io.BufferedWriter(_Raw(descriptor, "wb", closefd=False), 1 << 16)
        try:
            write(cast(BinaryIO, file))
            file.flush()
        finally:
            file.detach()  # or what is left in it would be written when it is collected
        if durable:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Brings the names in a folder to the disk, where the system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems know no such thing
            raise
    finally:
        os.close(descriptor)


def to_disk(folder: Path) -> None:
    """Brings to the disk what was written in a folder without waiting for it; quick where all is there already."""
    with writing(folder):
        for name in (MODEL, CHECKPOINT, RECORD):
            with suppress(FileNotFoundError):
                descriptor = os.open(folder / name, os.O_RDWR | os.O_NOFOLLOW)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
        sync_folder(folder)


def emptied(folder: Path) -> bool:
    """Whether the power failed before a run's files were on the disk: then they have a name and no content."""
    files = [folder / name for name in (MODEL, CHECKPOINT, RECORD)]
    return any(file.is_file() and file.stat().st_size == 0 for file in files)


def write_text(path: Path, text: str, durable: bool = True, alone: bool = True) -> Path:
    """A text as UTF-8, whole or not at all."""
    content = text.encode()
    return write_whole(path, lambda file: file.write(content), durable, alone=alone)


def write_json(path: Path, content: Mapping[str, Any], durable: bool = True) -> Path:
    """Strict JSON: what is not finite becomes null, since JSON has no word for it.  DataError for what is no text."""
    return _write_strict(path, _strict(content), durable)


def _write_strict(path: Path, content: Mapping[str, Any], durable: bool) -> Path:
    try:
        return write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n", durable)
    except UnicodeEncodeError:
        key = next(key for key, value in content.items() if not is_text({key: value}))
        raise DataError(f"{path} cannot be written: {key!a}: {ascii(content[key])[:200]} {NO_TEXT}.") from None


def _strict(content: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps(content), parse_constant=lambda _: None)


def write_record(folder: Path, content: Mapping[str, Any], durable: bool = True) -> Path:
    """run.json, with the SHA-256 of its own content, by which a reader sees whether it is what the run wrote."""
    content = _strict(content)
    return _write_strict(folder / RECORD, {**content, "sha256": content_sha256(content)}, durable)


def content_sha256(content: Mapping[str, Any]) -> str:
    """SHA-256 of what a record says, itself left out: of keys and values in their order, however laid out."""
    rest = {key: value for key, value in content.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest).encode()).hexdigest()


def tables_sha256(folder: Path) -> dict[str, str]:
    """SHA-256 of the table that a run has left, by its name; without one that cannot be read."""
    found = {}
    for name in TABLES:
        with suppress(OSError), (folder / name).open("rb") as file:
            found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def read_record(folder: Path) -> dict[str, Any]:
    """The run.json of a run; a FileError if there is none, a DataError if it is not one of ours, or has been altered.

    One without a SHA-256 is taken: earlier versions wrote none, and a checkpoint is held against what it says.
    """
    path = folder / RECORD
    check_plain(path)
    try:
        if path.stat().st_size > LARGEST_RECORD:
            raise DataError(f"{path} has more than {LARGEST_RECORD:,} bytes; that is no record of ours.")
        content = json.loads(path.read_bytes())
        if not is_text(content):
            raise DataError(f"{path} is damaged (it has half of a surrogate pair); start the run again.")
        sha256 = content_sha256(content) if isinstance(content, dict) else None
    except OSError as error:
        raise FileError(
            f"{path} cannot be read: {error.strerror or error}. Give the folder of a run, as in resume=outputs/..."
        ) from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is damaged ({type(error).__name__}); start the run again.") from None
    if not isinstance(content, dict) or not isinstance(content.get("config"), dict) or "status" not in content:
        raise DataError(f"{path} is no record of a run: it lacks status or config. Give the folder of a run.")
    if content.get("sha256", sha256) != sha256:
        raise DataError(
            f"{path} is not what the run wrote: its SHA-256 differs. Bring the old file back, or start the run again; "
            "if the change is yours, take sha256 out of it."
        )
    whole = {"epochs": 0, "metrics": {}, **content}
    for key, kind in (("seed", int), ("epochs", int), ("metrics", dict)):
        if not isinstance(whole.get(key), kind):
            raise DataError(
                f"{path} is no record of a run: {key} is {ascii(whole.get(key))[:40]}. Start the run again."
            )
    return content


class Table:
    """A CSV file that is written row by row, so that a run can be watched and an interrupted one keeps its rows.

    It begins with the rows of an earlier part of the run, in the place of whatever the file held.
    """

    def __init__(self, path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, float]] = ()) -> None:
        self._path, self._columns = path, columns
        write_text(path, csv_text([columns, *map(self._values, rows)]), durable=False)  # a resumed run makes rows again
        with writing(path):
            self._descriptor = open_plain(path, os.O_WRONLY | os.O_APPEND)

    def add(self, row: Mapping[str, float]) -> None:
        """One row; a column that the row lacks stays empty. FileError if the file is no longer in its place."""
        require_in_place(self._path, self._descriptor)
        rest = f"{','.join(map(str, self._values(row)))}\n".encode()  # numbers, which nothing need quote
        with writing(self._path):
            size = os.fstat(self._descriptor).st_size
            try:
                while rest:
                    rest = rest[os.write(self._descriptor, rest) :]
            except BaseException:
                os.ftruncate(self._descriptor, size)  # no half row stays
                raise

    def _values(self, row: Mapping[str, float]) -> list[Any]:
        return [row.get(name, "") for name in self._columns]

    def __enter__(self) -> "Table":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


def shorter(path: Path) -> Path:
    """A path relative to the working folder where it lies inside."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


@cache
def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result can depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


@cache
def git_commit() -> str | None:
    """The commit of the checkout that this code runs from; None for an installed package."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
