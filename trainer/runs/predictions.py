"""Predictions as a file, in the format that its suffix names; what is there already is not written over.

.csv       a line a row: its class, then a number for each class
.parquet   the same columns (needs pyarrow)
.npz       the arrays `prediction` (N,), `classes` (K,) and the numbers (N,K), by the name that .csv gives them
.npy       the numbers (N,K)

Where the rows have ids these come first, under the name of their column; an .npz has them as the array `id`.
"""

import os
import zipfile
from collections.abc import Callable, Iterable
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from trainer.arrays import Array
from trainer.errors import ConfigError, FileError, require
from trainer.runs.model import Model
from trainer.runs.outputs import write_whole
from trainer.runs.text import csv_text


def check_suffix(output: str) -> None:
    """ConfigError unless the suffix names a format that can be written here."""
    suffix = Path(output).suffix.lower()
    if suffix not in FORMATS:
        *most, last = FORMATS
        raise ConfigError(f"output={output} names no format; let it end in {', '.join(most)} or {last}.")
    if suffix == ".parquet":
        try:
            import_module("pyarrow.parquet")
        except ImportError as error:
            way = "install it by pip install 'softmax-trainer[parquet]', or let the name end in .csv"
            raise ConfigError(f"output={output} needs pyarrow; {way}.") from error


def check_free(output: Path, inputs: Iterable[Path], overwrite: bool) -> None:
    """ConfigError for a file in the place of the output, unless it may be written over: inputs and models never may.

    FileError where there is no folder for it, so that nobody predicts for an hour to hear of that.
    """
    if not output.parent.is_dir():
        raise FileError(
            f"output={output} cannot be written: there is no folder {output.parent}; make it, or name another."
        )
    if not os.path.lexists(output):
        return
    if any(_same(output, path) for path in inputs):
        raise ConfigError(f"output={output} is a file that is read here; give the predictions another name.")
    if _is_archive(output):
        raise ConfigError(f"output={output} is a model or a checkpoint; give the predictions another name.")
    if not overwrite:
        raise ConfigError(f"output={output} exists; give the predictions another name, or set overwrite=true.")


Ids = tuple[str, list[str]] | None  # the name of their column, and N texts


def write(output: Path, model: Model, a: Array, ids: Ids = None) -> None:
    """Writes the predictions a (N,K), whole or not at all."""
    encode = FORMATS[output.suffix.lower()]
    if ids is not None and output.suffix.lower() in (".csv", ".parquet"):
        require(
            ids[0] not in _header(model),
            f"data.id={ids[0]} is what a column of the predictions is called; rename the column of ids.",
        )
    write_whole(output, lambda file: encode(file, model, a, ids))


def _csv(file: BinaryIO, model: Model, a: Array, ids: Ids) -> None:
    rows = ([model.classes[best], *values] for values, best in zip(a.tolist(), a.argmax(axis=1), strict=True))
    lines: Iterable[Any] = chain([_header(model)], rows)
    if ids is not None:
        lines = ([text, *line] for text, line in zip(chain([ids[0]], ids[1]), lines, strict=True))
    file.write(csv_text(lines).encode())


def _parquet(file: BinaryIO, model: Model, a: Array, ids: Ids) -> None:
    columns, names = [_classes(model)[a.argmax(axis=1)], *a.T], _header(model)
    if ids is not None:
        columns, names = [np.array(ids[1]), *columns], [ids[0], *names]
    arrow = import_module("pyarrow")
    arrays = [arrow.array(column.tolist() if column.dtype.kind == "U" else column) for column in columns]
    import_module("pyarrow.parquet").write_table(arrow.Table.from_arrays(arrays, names=names), file)


def _npz(file: BinaryIO, model: Model, a: Array, ids: Ids) -> None:
    classes = _classes(model)
    arrays: dict[str, Any] = {"prediction": classes[a.argmax(axis=1)], "classes": classes, _kind(model): a}
    if ids is not None:
        arrays["id"] = np.array(ids[1])
    np.savez(file, allow_pickle=False, **arrays)


FORMATS: dict[str, Callable[[BinaryIO, Model, Array, Ids], None]] = {
    ".csv": _csv,
    ".parquet": _parquet,
    ".npz": _npz,
    ".npy": lambda file, model, a, ids: np.save(file, a, allow_pickle=False),
}


def _kind(model: Model) -> str:
    """What the numbers of a class are."""
    shares = model.activation.range in ("simplex", "sparse_simplex", "unit")
    return "probability" if shares else model.activation.name


def _header(model: Model) -> list[str]:
    return ["prediction", *(f"{_kind(model)}_{name}" for name in model.classes)]


def _classes(model: Model) -> Array:
    """The names (K,) as an array without objects: integers where all of them are some of 64 bits, else texts."""
    whole = all(isinstance(name, int) and -(1 << 63) <= name < 1 << 63 for name in model.classes)
    return np.array(model.classes, np.int64) if whole else np.array([*map(str, model.classes)])


def _same(one: Path, other: Path) -> bool:
    """Whether both lead to one file, by links or another spelling too."""
    try:
        return one.samefile(other)
    except OSError:  # one of them leads nowhere
        return False


def _is_archive(path: Path) -> bool:
    """Whether this is a file of trainer.runs.archive, damaged or of another version as it may be."""
    if not path.is_file():  # opening a pipe waits for ever
        return False
    try:
        with zipfile.ZipFile(path) as file:
            return "header.npy" in file.namelist()
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):
        return False
