"""What the readers of every kind of file share: opening them, finite numbers, labels, and names in messages."""

import difflib
import math
import os
import re
import stat
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from trainer.arrays import Array
from trainer.data import remote
from trainer.data.features import Features, Reader, elsewhere, over
from trainer.errors import NO_TEXT, ConfigError, DataError, FileError, TrainerError, is_text, require_text, shown

Classes = tuple[int | str, ...]

TEXTS = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
KINDS = (*TEXTS, ".npz", ".npy", ".svm", ".svmlight", ".libsvm", ".parquet", ".arrow", ".feather")
IN_PLACE = (".npy", ".parquet", ".arrow", ".feather")  # may be larger, as they can be read in blocks
MAX_BYTES = 4 * 2**30  # of a file that is read whole, of all that a .npz unpacks to, and of one array as float64
WHOLE = 512 * 2**20  # bytes of features as float64 up to which a file is read whole unless the user says otherwise
GROUP = 1 << 22  # numbers of a row group that stays in the file: 32 MiB, and the memory holds a few of them
MOST_FEATURES = 1 << 24  # of a sparse matrix: the parameters are dense

# each written so that there is one way to match: 100 000 digits and a letter must not take minutes
NUMBER = re.compile(r"[ \t]*[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?[ \t]*")
NUMBER_BYTES = b"0123456789+-.eE \t,"  # of these, between commas, float() takes just what NUMBER takes
INTEGER = re.compile(r"[ \t]*[+-]?[0-9]{1,600}[ \t]*")  # int() may refuse more than 640 digits
NOT_FINITE = re.compile(r"[ \t]*[+-]?(nan|inf|infinity)[ \t]*", re.IGNORECASE)
FINITE = "not finite; fill them in, or remove their rows"
FILLED = "not finite; fill them in, remove their rows, or set data.missing=mean"
WEIGHTS = "give each row a number of 0 or more"
NO_REGRESSION = "no integers; labels must be integers or names (for regression, cut the numbers into classes)"


def no_labels() -> tuple[NDArray[Any], Classes]:
    """The targets of a file that has none."""
    return np.empty(0), ()


class Content(NamedTuple):
    """What a file holds: x (N,D), the D names if it has them, and its labels as targets.

    target is the name of their column, where columns have names; encoding the Encoding (trainer.data.encoding) for
    which x holds codes, None where it holds the features. Labels and weights are checked when they are asked for.
    """

    x: Any
    names: tuple[str, ...] | None
    targets: Callable[[], tuple[NDArray[Any], Classes]] = no_labels
    target: str | None = None
    ids: list[str] | None = None
    weights: Callable[[], Array | None] = lambda: None
    encoding: Any = None


def kind_of(path: str) -> str:
    """The end of a file's name that says what it is."""
    name = _name_of(path).lower()
    packed = next((kind for kind in TEXTS if kind.endswith(".gz") and name.endswith(kind)), None)
    return packed or Path(name).suffix


def stem_of(path: str) -> str:
    """A file's name without the end that says what it is."""
    name = _name_of(path)
    return name.removesuffix(".gz").rpartition(".")[0] if kind_of(path) in TEXTS else Path(name).stem


def _name_of(path: str) -> str:
    """The last part of a path, of an address without what stands behind ? and #."""
    return Path(re.split("[?#]", path)[0] if remote.is_web(path) else path).name


def stamp(path: str) -> tuple[int, ...]:
    """The size of a file, and the time of its last change where it is here."""
    if remote.is_remote(path):
        return (int(remote.info(path)["size"]),)
    status = os.stat(path.replace("\0", "\\0"))  # a NUL is a ValueError; the text \0 is just not there
    if not stat.S_ISREG(status.st_mode):  # asked before, because opening a FIFO waits for ever
        raise OSError("it is a directory, a device or a pipe, not a regular file")
    return status.st_size, status.st_mtime_ns


def check(path: str, kinds: Sequence[str] = KINDS) -> int:
    """The size of a regular file, which is of one of these kinds and no larger than is read of it."""
    with readable(path, kinds):
        size = stamp(path)[0]
        if size > MAX_BYTES and kind_of(path) not in IN_PLACE:
            raise OSError(f"it has {size:,} bytes, and at most {MAX_BYTES:,} are read")
    if kind_of(path) not in kinds:
        ways = f"{', '.join(kinds[:-1])} or {kinds[-1]}"
        raise ConfigError(f"{shown(path)} is of an unknown kind; convert it to {ways}.")
    return size


@contextmanager
def opened(path: str, kinds: Sequence[str] = KINDS) -> Iterator[tuple[IO[bytes], str]]:
    """A regular file and its kind, which is one of these."""
    check(path, kinds)
    with readable(path, kinds), remote.opened(path) as file:
        yield file, kind_of(path)


@contextmanager
def readable(path: str, kinds: Sequence[str] = KINDS) -> Iterator[None]:
    """Makes one FileError of whatever the system says against reading a file."""
    try:
        yield
    except OSError as error:
        if isinstance(error, FileError):  # of a second file, opened inside
            raise
        hint = near(path.replace("\0", "\\0"), kinds) if isinstance(error, FileNotFoundError) else ""
        raise FileError(f"{shown(path)} cannot be read: {error.strerror or error}{hint}.") from error


def near(path: str, kinds: Sequence[str]) -> str:
    """What lies where a file was looked for: those of its folder that are called alike, or else all of these kinds."""
    folder, name = os.path.split(path)
    try:
        with os.scandir(folder or ".") as entries:
            there = sorted(entry.name for entry in islice(entries, 10_000) if kind_of(entry.name) in kinds)
    except OSError:
        return f"; there is no folder {shown(folder)}"
    plain = {other.lower(): other for other in there}
    alike = [plain[other] for other in difflib.get_close_matches(name.lower(), plain, 3)]
    if alike:
        return f"; it may be {' or '.join(map(quoted, alike))}"
    where = f"the folder {shown(folder)}" if folder else "the working folder"
    return f"; {where} has {listed(there)}" if there else f"; {where} has no {', '.join(kinds[:-1])} or {kinds[-1]}"


@contextmanager
def damage(name: str, what: str, way: str) -> Iterator[None]:
    """Makes one DataError of whatever a parser raises for damaged bytes."""
    try:
        yield
    except TrainerError:
        raise
    except Exception as error:
        raise DataError(f"{name} is damaged{what} ({type(error).__name__}); {way}.") from error


class File(Reader, Protocol):
    """Rows of one or several files as they are."""

    def place(self, row: int, column: int) -> str:
        """What an error calls this number."""

    @property
    def dtype(self) -> Any:
        """A type that holds all their numbers."""

    def whole(self, dtype: Any = np.float64) -> Array:
        """All of them (N,D), where nothing more is to be read of the file."""


def taken(file: File, in_memory: bool | None, name: str, fillable: bool = False, filled: bool = False) -> Any:
    """x (N,D), all finite: in memory if the user says so, or else up to WHOLE bytes as float64; or left in the file."""
    size = math.prod(file.shape) * 8
    whole = size <= WHOLE and not elsewhere() if in_memory is None else in_memory
    if whole and size > MAX_BYTES:
        way = "use fewer rows" if in_memory is None else "leave data.in_memory out, and it is read in blocks"
        shape = str(file.shape)[:60]
        raise DataError(f"{name} has the shape {shape}, as float64 more than {MAX_BYTES:,} bytes; {way}.")
    whole = whole or size == 0
    if not whole:
        check_groups(file, name, ", or set data.in_memory=true if the memory can hold them all")
    x = file.whole() if whole else Features(file)
    check_finite(x, file.place, fillable, filled)
    return x


def check_groups(file: File, name: str, way: str = "") -> None:
    """DataError where rows (N,D) that stay in their file can only be read too many at a time."""
    if file.grain > (rows := max(1, GROUP // file.shape[1])):
        why = f"has {file.grain:,} rows in one group, too many to be read in blocks; write at most {rows:,} together"
        raise DataError(f"{name} {why}{way}.")


def check_finite(x: Any, place: Callable[[int, int], str], fillable: bool = False, filled: bool = False) -> None:
    """One pass over x (N,D); DataError for its first number that is not finite, with the count of all of them.

    fillable says that a setting would help against nan, filled that it has, so that nan is none of these.
    """
    first, count, infinite, start = None, 0, False, 0
    for rows, bad in over(x, partial(_not_finite, filled)):
        if bad is not None:
            row, column, value, many, some_infinite = bad
            first = first or (start + row, column, value)
            count, infinite = count + many, infinite or some_infinite
        start += rows
    if first is not None:
        row, column, value = first
        why = FILLED if fillable and not infinite else FINITE
        raise DataError(f"{place(row, column)} is {value}, the first of {count} values that are {why}.")


def _not_finite(filled: bool, x: Array) -> tuple[int, tuple[int, int, float, int, bool] | None]:
    """How many rows there are; of the numbers that are not finite the first, their count, and if one is infinite."""
    bad = np.isinf(x) if filled else ~np.isfinite(x)
    if not bad.any():
        return len(x), None
    row, column = map(int, np.unravel_index(bad.argmax(), bad.shape))
    return len(x), (row, column, float(x[row, column]), int(np.count_nonzero(bad)), bool(np.isinf(x).any()))


def quoted(text: str) -> str:
    """A text from a file, in quotes and not too long."""
    return repr(text if len(text) <= 40 else text[:37] + "...")


def listed(names: Sequence[str]) -> str:
    """The first names of many."""
    return ", ".join(map(quoted, names[:8])) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def check_names(names: Sequence[str], place: str) -> None:
    """DataError for a name that is no text, or occurs twice."""
    require_text(names, f"{place}: the name")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise DataError(f"{place}: more than one column is named {quoted(twice[0])}; rename one.")


def check_table(shape: tuple[int, ...], name: str) -> None:
    """DataError if this is no shape (N,D)."""
    if len(shape) != 2 or shape[1] == 0:
        hint = "reshape(-1, 1) makes one column" if len(shape) == 1 else "a row is a sample, a column a feature"
        raise DataError(f"{name} has the shape {shape}, not (N,D) with D >= 1; {hint}.")


def finite64(raw: NDArray[Any], name: str) -> Array:
    """Any real numbers (N,D) as float64, or a DataError for the first that is not finite."""
    with np.errstate(over="ignore"):  # what is too large for float64 becomes inf, and is refused as such
        values = np.asarray(raw, np.float64, order="C")
    refuse(~np.isfinite(values), values, lambda row, column: f"{name}[{row}, {column}]", FINITE)
    return values


def refuse(bad: NDArray[np.bool_], values: Array, place: Callable[[int, int], str], why: str) -> None:
    """Names the first bad one of the values (N,D) and how many there are."""
    if bad.any():
        row, column = map(int, np.unravel_index(bad.argmax(), bad.shape))
        what = f"{values[row, column]}, the first of {np.count_nonzero(bad)} values that are {why}"
        raise DataError(f"{place(row, column)} is {what}.")


def targets(y: NDArray[Any], name: str) -> tuple[NDArray[Any], Classes]:
    """Labels (N,) or (N,1) -> places (N,) in the sorted classes; target rows (N,K) -> float64, 0..K-1."""
    if y.shape[1:] in ((), (1,)):
        return array_labels(y.reshape(-1), name)
    if y.ndim != 2 or y.shape[1] == 0 or y.dtype.kind == "U":
        raise DataError(f"{name} has the shape {y.shape} of {y.dtype}, not labels (N,) or numbers (N,K).")
    rows = finite64(y, name)
    refuse(rows < 0, rows, lambda row, column: f"{name}[{row}, {column}]", "negative; a weight is 0 or more")
    return rows, tuple(range(rows.shape[1]))


def array_labels(y: NDArray[Any], name: str) -> tuple[NDArray[np.intp], Classes]:
    """Booleans, integers, integral floats or texts (N,) -> places (N,) in the sorted classes."""
    if y.dtype.kind == "U":
        with damage(name, ", as it holds numbers that are no letters", "write it with numpy.save"):
            texts = y.tolist()
        return text_labels(texts, lambda row: f"{name}[{row}]")
    if y.dtype.kind == "f":
        column = finite64(y[:, None], name)
        refuse(column != np.floor(column), column, lambda row, _: f"{name}[{row}]", NO_REGRESSION)
    parts = [y[start : start + (1 << 20)] for start in range(0, len(y), 1 << 20)]  # a sort needs four times the memory
    classes = np.unique(np.concatenate([y[:0], *map(np.unique, parts)]))
    places = np.concatenate([np.zeros(0, np.intp), *(np.searchsorted(classes, part) for part in parts)])
    return places.astype(np.intp, copy=False), tuple(int(value) for value in classes)


def text_labels(texts: list[str], place: Callable[[int], str]) -> tuple[NDArray[np.intp], Classes]:
    """N texts -> places (N,) in the sorted classes: integers if all are, 1.0 too, else the texts."""
    values = {text: _label(text) for text in texts}
    missing = [text for text, value in values.items() if value is None]
    words = [text for text, value in values.items() if isinstance(value, str)]
    fractions = [text for text, value in values.items() if isinstance(value, float)]
    numbers = [text for text, value in values.items() if isinstance(value, int | float)]
    wrong, why = fractions, f"is the first of those that are {NO_REGRESSION}"
    if words and numbers:
        wrong, why = words, f"is a name, but {quoted(numbers[0])} is a number; use one kind for all"
    if missing:
        count = sum(map(texts.count, missing))
        wrong, why = missing, f"is the first of {count} that are empty or not finite; remove their rows"
    if broken := [text for text in values if not is_text(text)]:
        wrong, why = broken, NO_TEXT
    if wrong:
        raise DataError(f"{place(texts.index(wrong[0]))}: the label {quoted(wrong[0])} {why}.")
    bare = {word.strip(): word for word in words}
    for word in words:
        if word != bare[word.strip()]:
            pair = f"{quoted(word)} and {quoted(bare[word.strip()])}"
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


def text_weights(texts: list[str], place: Callable[[int], str]) -> Array:
    """Sample weights (N,) as they stand in a .csv."""
    for row, text in enumerate(texts):
        if not NUMBER.fullmatch(text):
            raise DataError(f"{place(row)}: the weight {quoted(text)} is no number; {WEIGHTS}.")
    return checked_weights(np.array([float(text) for text in texts]), place)


def checked_weights(weight: Array, place: Callable[[int], str]) -> Array:
    """Sample weights (N,), finite, none negative, and not all zero."""
    bad = ~(np.isfinite(weight) & (weight >= 0))
    if bad.any():
        row = int(bad.argmax())
        raise DataError(f"{place(row)}: the weight {weight[row]:g} is negative or not finite; {WEIGHTS}.")
    if len(weight) and not weight.any():
        raise DataError(f"{place(0)}: all weights are 0, so no row counts; {WEIGHTS}.")
    return weight
