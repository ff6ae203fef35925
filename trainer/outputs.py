"""What a run leaves in its folder: files that are written whole or not at all, and a table that grows row by row."""

import csv
import json
import math
import os
import platform
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, BinaryIO

from trainer.errors import FileError

PACKAGES = ("numpy", "scikit-learn", "hydra-core", "omegaconf", "matplotlib")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what the system says of a path into a FileError, exit code 3."""
    try:
        yield
    except OSError as error:
        raise FileError(f"{path} cannot be written: {error.strerror or error}. Choose another folder.") from error


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> Path:
    """Writes beside the target and renames, so that a reader sees the old file or the new one, never a part."""
    beside = path.with_name(f".{path.name}.part")
    with writing(path):
        try:
            with beside.open("wb") as file:
                write(file)
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)
    return path


def write_json(path: Path, content: Mapping[str, Any]) -> Path:
    """Strict JSON: what is not finite becomes null, since JSON has no word for it."""

    def strict(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(key): strict(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [strict(item) for item in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    text = json.dumps(strict(content), indent=2, ensure_ascii=False, allow_nan=False)
    return write_whole(path, lambda file: file.write((text + "\n").encode()))


class Table:
    """A CSV file that is flushed row by row, so that a run can be watched and an interrupted one keeps its rows."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        with writing(path):
            self._file = path.open("w", newline="", encoding="utf-8")
        self._path = path
        self._columns = columns
        self._rows = csv.writer(self._file, lineterminator="\n")
        self._put(columns)

    def add(self, row: Mapping[str, float]) -> None:
        """One row; a column that the row lacks stays empty."""
        self._put([row.get(name, "") for name in self._columns])

    def _put(self, values: Sequence[Any]) -> None:
        with writing(self._path):
            self._rows.writerow(values)
            self._file.flush()

    def __enter__(self) -> "Table":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result can depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


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
