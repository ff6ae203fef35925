"""A user's file, read strictly: what is doubtful is refused in a sentence that says where and what to do.

    .csv                       a line of column names, then numbers; the column named `target` holds the labels. With
                               `header` false the columns are called x0, x1, ..., and the last one holds the labels
    .npz                       the arrays `x` (N,D) and `y`: (N,) labels or (N,K) target rows; or a sparse matrix as
                               scipy.sparse.save_npz writes it, with `target` as for .npy
    .npy                       the array `x`; `target` is the path of a second .npy file, which holds `y`
    .svm .svmlight .libsvm     lines of label column:value ..., which become a sparse matrix
    .parquet .arrow .feather   columns of numbers; the column named `target` holds the labels (needs pyarrow)

Nothing is ever unpickled, and no array is allocated before its size has been compared with the file's. Features of a
.npy, .parquet, .arrow or .feather file that would fill the memory stay in the file, and are read in blocks.
"""

import csv
import difflib
import io
import re
import warnings
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, islice
from typing import IO, Any

import numpy as np

from trainer.arrays import Array
from trainer.data.array_files import read_npy, read_npz
from trainer.data.features import IDS, ROWS_OF_IDS, Features, ids
from trainer.data.reading import (
    FINITE,
    IN_PLACE,
    NOT_FINITE,
    NUMBER,
    Content,
    Raw,
    check_names,
    listed,
    opened,
    quoted,
    refuse,
    shown,
    text_labels,
)
from trainer.data.rows import Data, Numbered
from trainer.data.sparse_files import read_svmlight
from trainer.data.table_files import read_table
from trainer.errors import ConfigError, DataError

Row = tuple[int, list[str]]  # the line on which a row of a .csv begins, and its fields
Choice = tuple[list[int], int | None]  # which columns of a file are the features, and which one the labels
Choose = Callable[[list[str]], Choice]
Header = Callable[[list[str], str], tuple[list[str], bool]]  # the names of the columns, and whether they are a line

NAMED = (".csv", ".parquet", ".arrow", ".feather")  # `target` is the name of a column
BLOCK = 4096  # rows of a .csv held as text at a time
NUMBER_BYTES = b"0123456789+-.eE \t,"  # of these, between commas, float() takes just what NUMBER takes
WITH_COMMA = re.compile(r"[ \t]*[+-]?[0-9.]*,[0-9][0-9,.]*([eE][+-]?[0-9]+)?[ \t]*")


def read(path: str, target: str | None, in_memory: bool | None = None, header: bool | None = None) -> Data:
    """Features x (N,D) and targets y, (N,) or (N,K), of one file; N, D >= 1 and K >= 2.

    in_memory says whether the features are to be in memory; None means those that take up to 512 MiB as float64.
    header says whether a .csv begins with the names of its columns; None means that it does, and none is a number.
    """
    name = shown(path)
    with opened(path) as (file, kind):
        choose = partial(_split_columns, name, target, header)
        content = _content(file, path, kind, target, choose, None, in_memory, header)
    x = content.x
    if x.shape[0] == 0:
        raise DataError(f"{name} has no rows of data; at least one is needed.")
    y, classes = content.targets()
    if len(classes) < 2:
        raise DataError(f"{name}: all labels are {quoted(str(classes[0]))}; at least 2 classes are needed.")
    if isinstance(x, Features) and y.ndim == 1:
        y = y.astype(np.min_scalar_type(len(classes) - 1))  # labels stay in memory, so they are to be small
    names = content.names or Numbered(x.shape[1])
    if kind in NAMED and (found := ids(x)):
        looks = "looks like an id" if len(found) == 1 else "look like ids"
        why = "integers that differ in nearly all rows; remove what measures nothing"
        warnings.warn(f"{name}: {listed([names[column] for column in found])} {looks}: {why}.", stacklevel=2)
    return Data(x, y, classes, names, content.target)


def read_features(
    path: str, features: Sequence[str], target: str | None, in_memory: bool | None = None, header: bool | None = None
) -> tuple[Any, Raw | None]:
    """x (N,D), N >= 0, for a model trained on these D features, and the N raw labels if the file has them.

    Where columns have names they are found by them, in any order; an array, and a .csv without a header, only has to
    have D columns.
    """
    name = shown(path)
    with opened(path) as (file, kind):
        choose = partial(_match_columns, name, features, target)
        content = _content(file, path, kind, target, choose, features, in_memory, header)
    return _columns_for(content, features, name), content.raw


def read_known(
    path: str,
    features: Sequence[str],
    classes: tuple[int | str, ...],
    target: str | None,
    in_memory: bool | None = None,
    header: bool | None = None,
) -> Data:
    """Features x (N,D) and targets of a file, N >= 1, for a model of these D features and K classes."""
    name = shown(path)
    with opened(path) as (file, kind):
        choose = partial(_match_columns, name, features, target)
        content = _content(file, path, kind, target, choose, features, in_memory, header)
    x = _columns_for(content, features, name)
    if x.shape[0] == 0:
        raise DataError(f"{name} has no rows of data; at least one is needed.")
    y, found = content.targets()
    if y.shape[0] != x.shape[0]:
        raise ConfigError(f"{name} has no labels to compare with; name them by data.target=...")
    if y.ndim == 2 and len(found) != len(classes):
        raise DataError(f"{name} has target rows of {len(found)} classes, and the model has {len(classes)} classes.")
    place = {str(one): k for k, one in enumerate(classes)}
    if y.ndim == 1 and (strange := [str(one) for one in found if str(one) not in place]):
        raise DataError(f"{name}: the model knows no class {listed(strange)}; it has {listed(list(place))}.")
    if y.ndim == 1:
        y = np.array([place[str(one)] for one in found], np.intp)[y]
    return Data(x, y, classes, features, content.target)


def _columns_for(content: Content, features: Sequence[str], name: str) -> Any:
    """x (N,D) of a file whose columns have names, or that has as many of them as the model has features."""
    x = content.x
    if content.names is None and x.shape[1] != len(features):
        count = f"{x.shape[1]} columns, but the model was trained on {len(features)}"
        raise DataError(f"{name} has {count}; give it the same ones in the same order.")
    return x


def _content(
    file: IO[bytes],
    path: str,
    kind: str,
    target: str | None,
    choose: Choose,
    features: Sequence[str] | None,
    in_memory: bool | None,
    header: bool | None,
) -> Content:
    """What the file holds; `features` are those that a model was trained on, None if one is to be trained."""
    label_needed = features is None
    if in_memory is False and kind not in IN_PLACE:
        raise ConfigError(
            f"data.in_memory=false cannot leave {shown(path)} on the disk; convert it to .npy or .parquet, or leave "
            "the setting out."
        )
    if kind == ".csv":
        return _read_csv(file, shown(path), choose, partial(_header, header, features))
    if header is not None:
        raise ConfigError(f"data.header has no use, as {shown(path)} is no .csv; leave it out.")
    if kind == ".npz":
        return read_npz(file, path, target, label_needed)
    if kind == ".npy":
        return read_npy(file, path, target, label_needed, in_memory)
    if kind in NAMED:
        return read_table(path, kind, choose, in_memory)
    if target is not None:
        raise ConfigError(f"data.target has no use, as {shown(path)} begins each line with its label; leave it out.")
    return read_svmlight(file, path, None if features is None else len(features))


def _read_csv(file: IO[bytes], path: str, choose: Choose, header: Header) -> Content:
    """x (N,D), the D names, and the N labels if they are chosen."""
    blocks: list[Array] = []
    labels, lines = [], array("q")
    with io.TextIOWrapper(file, "utf-8-sig", newline="") as text:
        rows = _rows(text, path)
        first = next(rows, (1, []))
        names, named = header(first[1], path)
        rows = rows if named else chain([first], rows)
        columns, label = choose(names)
        while block := list(islice(rows, BLOCK)):
            blocks.append(_numbers(block, columns, names, path))
            lines.extend(line for line, _ in block)
            labels += [] if label is None else [row[label] for _, row in block]
    x = np.concatenate([np.empty((0, len(columns))), *blocks])
    refuse(~np.isfinite(x), x, lambda row, column: f"{path}:{lines[row]}:{columns[column] + 1}", FINITE)
    chosen = tuple(names[column] for column in columns)
    raw, target = (None, None) if label is None else (labels, names[label])
    return Content(
        x, chosen, raw, lambda: text_labels(labels, lambda row: f"{path}:{lines[row]}:{(label or 0) + 1}"), target
    )


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


def _header(
    header: bool | None, features: Sequence[str] | None, fields: list[str], path: str
) -> tuple[list[str], bool]:
    """The names of the columns, without the blanks around them, and whether the first line has them.

    Without a header the columns are the features of the model, if it has so many, or else x0, x1, ...
    """
    names = [field.strip() for field in fields]
    if not names:
        raise DataError(f"{path}: the first line must name the columns, but the file is empty.")
    if any("\0" in name for name in names):
        raise DataError(f"{path}:1: not UTF-8, perhaps utf-16 (it has a NUL); convert it with: iconv")
    for mark, escape in ((";", ";"), ("\t", "\\t")):
        if len(names) == 1 and mark in names[0]:
            way = f"convert it, decimal commas too: tr ',{escape}' '.,' < FILE > NEW"
            raise DataError(f"{path}:1: the fields are separated by {mark!r}, not by ','; {way}")
    if header is False:
        if not any(kind.fullmatch(name) for kind in (NUMBER, NOT_FINITE, WITH_COMMA) for name in names):
            why = "is no row of data, as it has no number"
            raise DataError(f"{path}:1: the first line, {listed(names)}, {why}; leave data.header=false out.")
        return list(features if features and len(features) == len(names) else Numbered(len(names))), False
    numbers = [name for name in names if NUMBER.fullmatch(name)]
    known = features is not None and set(features) <= set(names)
    if numbers and header is None and not known:
        raise DataError(
            f"{path}:1: names of columns are needed in the first line, and it has the numbers {listed(numbers)}; set "
            "data.header=false if it is a row of data, or data.header=true if they are names."
        )
    if "" in names:
        raise DataError(f"{path}:1:{names.index('') + 1}: name the column or remove it (pandas: index=False).")
    check_names(names, f"{path}:1")
    return names, True


def _split_columns(path: str, target: str | None, header: bool | None, names: list[str]) -> Choice:
    """All columns but the target are features; without a header it is the last one, if nothing else is said."""
    if target is None and header is False:
        target = names[-1]
    if target is None:
        raise ConfigError(f"data.target must name the column of labels in {path}; it has {listed(names)}.")
    if target not in names:
        close = difflib.get_close_matches(target, names, 1)
        hint = f" Did you mean {quoted(close[0])}?" if close else ""
        raise ConfigError(f"data.target={quoted(target)} is not in {path}; it has {listed(names)}.{hint}")
    if len(names) == 1:
        raise DataError(f"{path} has no column but {quoted(target)}; at least one feature is needed.")
    label = names.index(target)
    return [column for column in range(len(names)) if column != label], label


def _match_columns(path: str, features: Sequence[str], target: str | None, names: list[str]) -> Choice:
    """The features by their names; beside them there may be the target, and nothing else."""
    place = {name: column for column, name in enumerate(names)}
    known = set(features)
    label = None if target is None or target in known else place.get(target)
    counts = f"the model has {len(features)} features, the file {len(names) - (label is not None)}"
    if missing := [name for name in features if name not in place]:
        raise DataError(f"{path}: {counts}; missing: {listed(missing)}.")
    if extra := [name for name in names if name not in known and place[name] != label]:
        raise DataError(f"{path}: {counts}; remove {listed(extra)}.")
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
            elif len(block) >= ROWS_OF_IDS and len({other[column] for _, other in block}) >= IDS * len(block):
                why = "is no number, and differs from row to row, as an id does; remove the column"
            column_name = quoted(names[column])
            raise DataError(f"{path}:{line}:{column + 1}: {quoted(cell)} in column {column_name} {why}.")
