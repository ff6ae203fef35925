"""A user's file, read strictly: what is doubtful is refused in a sentence that says where and what to do.

    .csv   a line of column names, then numbers; the column named `target` holds the labels
    .npz   the arrays `x` (N,D) and `y`: (N,) labels or (N,K) target rows
    .npy   the array `x`; `target` is the path of a second .npy file, which holds `y`

Nothing is ever unpickled, and no array is allocated before its size has been compared with the file's.
"""

import csv
import difflib
import io
import math
import os
import re
import stat
import warnings
import zipfile
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from trainer.arrays import Array
from trainer.data import Data
from trainer.errors import ConfigError, DataError, FileError, TrainerError

Raw = list[str] | NDArray[Any]  # labels as they stand in the file: texts of a .csv, an array of other kinds
Row = tuple[int, list[str]]  # the line on which a row of a .csv begins, and its fields
Choice = tuple[list[int], int | None]  # which columns of a .csv are the features, and which one the labels
Classes = tuple[int | str, ...]

MAX_BYTES = 4 * 2**30  # of a file, of all that a .npz unpacks to, and of one array as float64
BLOCK = 4096  # rows of a .csv held as text at a time

NUMBER = re.compile(r"[ \t]*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?[ \t]*")
INTEGER = re.compile(r"[ \t]*[+-]?[0-9]{1,600}[ \t]*")  # int() may refuse more than 640 digits
NOT_FINITE = re.compile(r"[ \t]*[+-]?(nan|inf|infinity)[ \t]*", re.IGNORECASE)
NUMBER_BYTES = b"0123456789+-.eE \t,"  # of these, between commas, float() takes just what NUMBER takes
WITH_COMMA = re.compile(r"[ \t]*[+-]?[0-9.]*,[0-9][0-9,.]*([eE][+-]?[0-9]+)?[ \t]*")
FINITE = "not finite; fill them in, or remove their rows"
NO_REGRESSION = "no integers; labels must be integers or names (for regression, cut the numbers into classes)"


def read(path: str, target: str | None) -> Data:
    """Features x (N,D) and targets y, (N,) or (N,K), of one file; N, D >= 1 and K >= 2."""
    shown = _shown(path)
    with _opened(path) as (file, kind):
        if kind == ".csv":
            x, features, raw, place = _read_csv(file, shown, partial(_split_columns, shown, target))
        else:
            x, raw = _read_arrays(file, shown, kind, target, label_needed=True)
            features = tuple(f"x{column}" for column in range(x.shape[1]))
    if len(x) == 0:
        raise DataError(f"{shown} has no rows of data; at least one is needed.")
    if kind == ".csv":
        y, classes = _text_labels(raw, place)
    else:
        y, classes = _targets(raw, f"{shown}: y" if kind == ".npz" else _shown(str(target)))
    if len(classes) < 2:
        raise DataError(f"{shown}: all labels are {_quoted(str(classes[0]))}; at least 2 classes are needed.")
    return Data(x, y, classes, features, target if kind == ".csv" else None)


def read_features(path: str, features: tuple[str, ...], target: str | None) -> tuple[Array, Raw | None]:
    """x (N,D), N >= 0, for a model trained on these D features, and the N raw labels if the file has them.

    The columns of a .csv are found by their names, in any order; an array only has to have D columns.
    """
    shown = _shown(path)
    with _opened(path) as (file, kind):
        if kind == ".csv":
            x, _, labels, _ = _read_csv(file, shown, partial(_match_columns, shown, features, target))
            return x, labels
        x, labels = _read_arrays(file, shown, kind, target, label_needed=False)
    if x.shape[1] != len(features):
        count = f"{x.shape[1]} columns, but the model was trained on {len(features)}"
        raise DataError(f"{shown} has {count}; give it the same ones in the same order.")
    return x, labels


@contextmanager
def _opened(path: str) -> Iterator[tuple[IO[bytes], str]]:
    """A regular file and its kind."""
    kind = Path(path).suffix.lower()
    try:
        status = os.stat(path.replace("\0", "\\0"))  # a NUL is a ValueError; the text \0 is just not there
        if not stat.S_ISREG(status.st_mode):  # asked before, because opening a FIFO waits for ever
            raise OSError("it is a directory, a device or a pipe, not a regular file")
        if status.st_size > MAX_BYTES:
            raise OSError(f"it has {status.st_size:,} bytes, and at most {MAX_BYTES:,} are read")
        if kind not in (".csv", ".npz", ".npy"):
            raise ConfigError(f"{_shown(path)} is of an unknown kind; convert it to .csv, .npz or .npy.")
        with open(path, "rb") as file:
            yield file, kind
    except OSError as error:
        if isinstance(error, FileError):  # of a second file, opened inside
            raise
        raise FileError(f"{_shown(path)} cannot be read: {error.strerror or error}.") from error


def _shown(path: str) -> str:
    return path if path and path.isprintable() else ascii(path)  # no escape code reaches the terminal


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(_quoted, names[:8])) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _read_csv(
    file: IO[bytes], path: str, choose: Callable[[list[str]], Choice]
) -> tuple[Array, tuple[str, ...], Any, Callable[[int], str]]:
    """x (N,D), the D names, the N labels if they are chosen, and where the label of a row stands."""
    blocks: list[Array] = []
    labels, lines = [], array("q")
    with io.TextIOWrapper(file, "utf-8-sig", newline="") as text:
        rows = _rows(text, path)
        names = _header(next(rows, (1, []))[1], path)
        columns, label = choose(names)
        while block := list(islice(rows, BLOCK)):
            blocks.append(_numbers(block, columns, names, path))
            lines.extend(line for line, _ in block)
            labels += [] if label is None else [row[label] for _, row in block]
    x = np.concatenate([np.empty((0, len(columns))), *blocks])
    _refuse(~np.isfinite(x), x, lambda row, column: f"{path}:{lines[row]}:{columns[column] + 1}", FINITE)
    chosen = tuple(names[column] for column in columns)
    if label is None:
        return x, chosen, None, str
    return x, chosen, labels, lambda row: f"{path}:{lines[row]}:{label + 1}"


def _rows(text: Iterable[str], path: str) -> Iterator[Row]:
    """Rows of as many fields as the first has; empty lines may only follow the last one."""
    reader = csv.reader(text, strict=True)
    line, count, empty = 1, 0, 0
    try:
        for row in reader:
            count = count or len(row)
            if row and empty:
                raise DataError(f"{path}:{empty}: expected {count} fields, got an empty line; remove it.")
            if len(row) not in (0, count):
                why = "quote a comma inside a field" if len(row) > count else "an empty field needs its comma"
                raise DataError(f"{path}:{line}: expected {count} fields, got {len(row)}; {why}.")
            empty = 0 if row else empty or line
            if row:
                yield line, row
            line = reader.line_num + 1  # a quoted line break makes a row longer than a line
    except csv.Error as error:
        raise DataError(f"{path}:{line}: {error}; is a quote missing or left open?") from error
    except UnicodeDecodeError as error:
        guess = "utf-16" if error.object[:2] in (b"\xff\xfe", b"\xfe\xff") else "latin1"
        place = f"not UTF-8 (byte 0x{error.object[error.start]:02x} in line {line} or later), perhaps {guess}"
        way = f"convert it with: iconv -f {guess} -t utf-8 FILE > NEW"
        raise DataError(f"{path}: {place}; {way}") from error


def _header(fields: list[str], path: str) -> list[str]:
    """The names of the columns, without the blanks around them."""
    names = [field.strip() for field in fields]
    if not names:
        raise DataError(f"{path}: the first line must name the columns, but the file is empty.")
    if any("\0" in name for name in names):
        raise DataError(f"{path}:1: not UTF-8, perhaps utf-16 (it has a NUL); convert it with: iconv")
    for mark, escape in ((";", ";"), ("\t", "\\t")):
        if len(names) == 1 and mark in names[0]:
            way = f"convert it, decimal commas too: tr ',{escape}' '.,' < FILE > NEW"
            raise DataError(f"{path}:1: the fields are separated by {mark!r}, not by ','; {way}")
    if "" in names:
        raise DataError(f"{path}:1:{names.index('') + 1}: name the column or remove it (pandas: index=False).")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise DataError(f"{path}:1: more than one column is named {_quoted(twice[0])}; rename one.")
    return names


def _split_columns(path: str, target: str | None, names: list[str]) -> Choice:
    """All columns but the target are features."""
    if target is None:
        raise ConfigError(f"data.target must name the column of labels in {path}; it has {_listed(names)}.")
    if target not in names:
        close = difflib.get_close_matches(target, names, 1)
        hint = f" Did you mean {_quoted(close[0])}?" if close else ""
        raise ConfigError(f"data.target={_quoted(target)} is not in {path}; it has {_listed(names)}.{hint}")
    if len(names) == 1:
        raise DataError(f"{path} has no column but {_quoted(target)}; at least one feature is needed.")
    label = names.index(target)
    return [column for column in range(len(names)) if column != label], label


def _match_columns(path: str, features: tuple[str, ...], target: str | None, names: list[str]) -> Choice:
    """The features by their names; beside them there may be the target, and nothing else."""
    place = {name: column for column, name in enumerate(names)}
    known = set(features)
    label = None if target is None or target in known else place.get(target)
    counts = f"the model has {len(features)} features, the file {len(names) - (label is not None)}"
    if missing := [name for name in features if name not in place]:
        raise DataError(f"{path}: {counts}; missing: {_listed(missing)}.")
    if extra := [name for name in names if name not in known and place[name] != label]:
        raise DataError(f"{path}: {counts}; remove {_listed(extra)}.")
    return [place[name] for name in features], label


def _numbers(block: list[Row], columns: list[int], names: list[str], path: str) -> Array:
    """The cells of these columns as numbers (B,D); only if that fails is the cell looked for."""
    cells = [row[column] for _, row in block for column in columns]
    if ",".join(cells).encode().translate(None, NUMBER_BYTES):  # float() also takes 1_000, nan, any script
        _check_cells(block, columns, names, path)
    try:
        values = np.fromiter(map(float, cells), np.float64, len(cells))
    except ValueError:
        _check_cells(block, columns, names, path)
        raise
    return values.reshape(len(block), len(columns))


def _check_cells(block: list[Row], columns: list[int], names: list[str], path: str) -> None:
    for line, row in block:
        for column in columns:
            cell = row[column]
            if NUMBER.fullmatch(cell) or NOT_FINITE.fullmatch(cell):
                continue
            why = "is not a number such as 12, -0.5 or 1e-3; encode words as numbers"
            if not cell.strip():
                why = "is empty; fill it in, or remove the row"
            elif WITH_COMMA.fullmatch(cell):
                why = "has a comma; write a decimal point and no thousands separator"
            column_name = _quoted(names[column])
            raise DataError(f"{path}:{line}:{column + 1}: {_quoted(cell)} in column {column_name} {why}.")


def _read_arrays(file: IO[bytes], path: str, kind: str, target: str | None, label_needed: bool) -> tuple[Array, Any]:
    """x (N,D) and the raw labels, an array of N rows or None."""
    if kind == ".npz":
        if target is not None:
            raise ConfigError(f"data.target has no use, as {path} holds the labels in y; leave it out.")
        raw, y = _read_npz(file, path, label_needed)
        x = _features(raw, f"{path}: x")
    else:
        if target is None and label_needed:
            raise ConfigError(f"data.target must be the path of a .npy file with the labels of {path}.")
        x, y = _features(_read_array(file, None, path, "biuf"), path), None
        if target is not None:
            with _opened(target) as (labels, label_kind):
                if label_kind != ".npy":
                    raise ConfigError(f"data.target={_shown(target)} must be a .npy file, as {path} is one.")
                y = _read_array(labels, None, _shown(target), "biufU")
    if y is not None and y.shape[:1] != x.shape[:1]:
        raise DataError(f"{path}: x has the shape {x.shape}, but y has {y.shape}; give each row its label.")
    return x, y


def _read_npz(file: IO[bytes], path: str, label_needed: bool) -> tuple[NDArray[Any], NDArray[Any] | None]:
    arrays = {}
    try:
        with zipfile.ZipFile(file) as archive:
            _check_members(archive.infolist(), label_needed, path)
            for info in archive.infolist():
                key = info.filename.removesuffix(".npy")
                with archive.open(info) as stream:
                    kinds = "biuf" if key == "x" else "biufU"
                    arrays[key] = _read_array(stream, info.file_size, f"{path}: {key}", kinds)
    except TrainerError:
        raise
    except Exception as error:  # whatever zipfile and its decoders raise for damaged bytes
        why = f"damaged or no .npz file ({type(error).__name__})"
        raise DataError(f"{path} is {why}; write it with numpy.savez.") from error
    return arrays["x"], arrays.get("y")


def _check_members(members: list[zipfile.ZipInfo], label_needed: bool, path: str) -> None:
    """The keys are x and y, each once, and what they unpack to is small enough."""
    total = sum(member.file_size for member in members)
    if total > MAX_BYTES:
        raise DataError(f"{path} unpacks to {total:,} bytes; at most {MAX_BYTES:,} are read.")
    keys = sorted(member.filename.removesuffix(".npy") for member in members)
    if keys != ["x", "y"] and (label_needed or keys != ["x"]):
        hint = "make a sparse matrix dense by .toarray()" if "indptr" in keys else "write it with numpy.savez"
        raise DataError(f"{path} must hold the arrays x and y, each once, not {_listed(keys)}; {hint}.")


def _read_array(stream: IO[bytes], size: int | None, name: str, kinds: str) -> NDArray[Any]:
    """An array in the .npy format, of one of these dtype kinds; `size` bytes long, None for a whole file."""
    headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        shape, _, dtype = headers[np.lib.format.read_magic(stream)](stream)
        left = (os.fstat(stream.fileno()).st_size if size is None else size) - stream.tell()
        _check_array(shape, dtype, left, name, kinds)
        stream.seek(0)
        return np.lib.format.read_array(stream, allow_pickle=False)
    except TrainerError:
        raise
    except Exception as error:  # whatever numpy's parser raises for damaged bytes
        why = f"damaged, pickled or no .npy array ({type(error).__name__})"
        raise DataError(f"{name} is {why}; write it with numpy.save.") from error


def _check_array(shape: tuple[int, ...], dtype: np.dtype[Any], left: int, name: str, kinds: str) -> None:
    """What the header promises is of a kind that we take, and just what the bytes left can hold."""
    if dtype.kind not in kinds:
        wanted = "integers, floats or booleans" + (", or names as text" if "U" in kinds else "")
        raise DataError(f"{name} holds values of dtype {_quoted(str(dtype))}; convert them to {wanted}.")
    count, promise = math.prod(shape), f"the shape {str(shape)[:60]} of {dtype}"
    if min(shape, default=0) < 0 or not dtype.itemsize or count * dtype.itemsize != left:
        raise DataError(f"{name} is damaged: it has {left:,} bytes for {promise}; write it again.")
    if count * max(dtype.itemsize, 8) > MAX_BYTES:
        raise DataError(f"{name} has {promise}, as float64 more than {MAX_BYTES:,} bytes; use fewer rows.")


def _features(raw: NDArray[Any], name: str) -> Array:
    """Any real numbers (N,D) -> float64 in C order, all finite."""
    if raw.ndim != 2 or raw.shape[1] == 0:
        hint = "reshape(-1, 1) makes one column" if raw.ndim == 1 else "a row is a sample, a column a feature"
        raise DataError(f"{name} has the shape {raw.shape}, not (N,D) with D >= 1; {hint}.")
    return _finite64(raw, name)


def _finite64(raw: NDArray[Any], name: str) -> Array:
    with np.errstate(over="ignore"):  # what is too large for float64 becomes inf, and is refused as such
        values = np.asarray(raw, np.float64, order="C")
    _refuse(~np.isfinite(values), values, lambda row, column: f"{name}[{row}, {column}]", FINITE)
    return values


def _refuse(bad: NDArray[np.bool_], values: Array, place: Callable[[int, int], str], why: str) -> None:
    """Names the first bad one of the values (N,D) and how many there are."""
    if bad.any():
        row, column = map(int, np.unravel_index(bad.argmax(), bad.shape))
        what = f"{values[row, column]}, the first of {np.count_nonzero(bad)} values that are {why}"
        raise DataError(f"{place(row, column)} is {what}.")


def _targets(y: NDArray[Any], name: str) -> tuple[NDArray[Any], Classes]:
    """Labels (N,) or (N,1) -> places (N,) in the sorted classes; target rows (N,K) -> float64, 0..K-1."""
    if y.shape[1:] in ((), (1,)):
        return _array_labels(y.reshape(-1), name)
    if y.ndim != 2 or y.shape[1] == 0 or y.dtype.kind == "U":
        raise DataError(f"{name} has the shape {y.shape} of {y.dtype}, not labels (N,) or numbers (N,K).")
    rows = _finite64(y, name)
    _refuse(rows < 0, rows, lambda row, column: f"{name}[{row}, {column}]", "negative; a weight is 0 or more")
    return rows, tuple(range(rows.shape[1]))


def _array_labels(y: NDArray[Any], name: str) -> tuple[NDArray[np.intp], Classes]:
    """Booleans, integers, integral floats or texts (N,) -> places (N,) in the sorted classes."""
    if y.dtype.kind == "U":
        return _text_labels(y.tolist(), lambda row: f"{name}[{row}]")
    if y.dtype.kind == "f":
        column = _finite64(y[:, None], name)
        _refuse(column != np.floor(column), column, lambda row, _: f"{name}[{row}]", NO_REGRESSION)
    classes, places = np.unique(y, return_inverse=True)
    return places.astype(np.intp), tuple(int(value) for value in classes)


def _text_labels(texts: list[str], place: Callable[[int], str]) -> tuple[NDArray[np.intp], Classes]:
    """N texts -> places (N,) in the sorted classes: integers if all are, 1.0 too, else the texts."""
    values = {text: _label(text) for text in texts}
    missing = [text for text, value in values.items() if value is None]
    words = [text for text, value in values.items() if isinstance(value, str)]
    fractions = [text for text, value in values.items() if isinstance(value, float)]
    numbers = [text for text, value in values.items() if isinstance(value, int | float)]
    wrong, why = fractions, f"is the first of those that are {NO_REGRESSION}"
    if words and numbers:
        wrong, why = words, f"is a name, but {_quoted(numbers[0])} is a number; use one kind for all"
    if missing:
        count = sum(map(texts.count, missing))
        wrong, why = missing, f"is the first of {count} that are empty or not finite; remove their rows"
    if wrong:
        raise DataError(f"{place(texts.index(wrong[0]))}: the label {_quoted(wrong[0])} {why}.")
    bare = {word.strip(): word for word in words}
    for word in words:
        if word != bare[word.strip()]:
            pair = f"{_quoted(word)} and {_quoted(bare[word.strip()])}"
            warnings.warn(f"The labels {pair} differ only by blanks; they are two classes.", stacklevel=3)
    classes: list[Any] = sorted(set(values.values()))
    index = {value: number for number, value in enumerate(classes)}
    return np.array([index[values[text]] for text in texts], np.intp), tuple(classes)


def _label(text: str) -> int | float | str | None:
    """The integer, the other number or the name that this text is; None if it is empty, nan or infinite."""
    if INTEGER.fullmatch(text):
        return int(text)
    if NUMBER.fullmatch(text) or NOT_FINITE.fullmatch(text):
        value = float(text)
        return int(value) if value.is_integer() else value if math.isfinite(value) else None
    return text if text.strip() else None
