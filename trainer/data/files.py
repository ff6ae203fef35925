"""A user's file, read strictly: what is doubtful is refused in a sentence that says where and what to do.

    .csv .tsv                  a line of column names, then numbers; the column named `target` holds the labels. With
                               `header` false the columns are called x0, x1, ..., and the last one holds the labels;
                               both may be packed, as .csv.gz
    .npz                       the arrays `x` (N,D) and `y`: (N,) labels or (N,K) target rows, perhaps `weight` (N,); or
                               a sparse matrix as scipy.sparse.save_npz writes it, with `target` as for .npy
    .npy                       the array `x`; `target` is the path of a second .npy file, which holds `y`
    .svm .svmlight .libsvm     lines of label column:value ..., which become a sparse matrix
    .parquet .arrow .feather   columns of numbers; the column named `target` holds the labels (needs pyarrow)

Nothing is ever unpickled, and no array is allocated before its size has been compared with the file's. Features of a
.npy, .parquet, .arrow or .feather file that would fill the memory stay in the file, and are read in blocks.

Where columns have names, trainer.data.columns says what else than numbers they may hold, and which are no features.
"""

import csv
import gzip
import io
import warnings
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from itertools import chain, islice
from typing import IO, Any, NamedTuple

import numpy as np

from trainer.arrays import Array
from trainer.data import reading
from trainer.data.array_files import read_npy, read_npz
from trainer.data.columns import (
    DATES,
    DELIMITERS,
    Chosen,
    Coder,
    Columns,
    Encoding,
    is_missing,
    match_columns,
    split_columns,
    warn_of_new,
)
from trainer.data.doubts import WITH_COMMA, Doubt, Seen, refuse_doubts, setting
from trainer.data.features import Features, ids
from trainer.data.reading import (
    FILLED,
    FINITE,
    IN_PLACE,
    NOT_FINITE,
    NUMBER,
    NUMBER_BYTES,
    TEXTS,
    Content,
    Raw,
    check_names,
    listed,
    opened,
    quoted,
    refuse,
    shown,
    text_labels,
    text_weights,
)
from trainer.data.rows import Data, Numbered
from trainer.data.sparse_files import read_svmlight
from trainer.data.table_files import read_table
from trainer.errors import ConfigError, DataError

Row = tuple[int, list[str]]  # the line on which a row of a .csv begins, and its fields
Choose = Callable[[list[str]], Chosen]
Header = Callable[[str, list[str], str], tuple[list[str], bool]]  # names of the columns, and whether they are a line

NAMED = (*TEXTS, ".parquet", ".arrow", ".feather")  # `target` is the name of a column
BLOCK = 4096  # rows of a .csv held as text at a time


class Rows(NamedTuple):
    """Rows for a model: x (N,D), N >= 0, the N raw labels if the file has them, and the name and texts of their ids."""

    x: Any
    raw: Raw | None
    ids: tuple[str, list[str]] | None


def read(
    path: str,
    target: str | None,
    in_memory: bool | None = None,
    header: bool | None = None,
    asked: Columns | None = None,
) -> Data:
    """Features x (N,D) and targets y, (N,) or (N,K), of one file; N, D >= 1 and K >= 2.

    in_memory says whether the features are to be in memory; None means those that take up to 512 MiB as float64.
    header says whether a .csv begins with the names of its columns; None means that it does, and none is a number.
    Where `asked` says what its columns are, x (N,R) holds their codes, and is for the encoding to make features of.
    """
    name, asked = shown(path), asked or Columns()
    with opened(path) as (file, kind):
        choose = partial(_split_columns, name, target, header, asked)
        content = _content(file, path, kind, target, choose, None, in_memory, header, asked)
    x, encoding = content.x, content.encoding
    if x.shape[0] == 0:
        raise DataError(f"{name} has no rows of data; at least one is needed.")
    y, classes = content.targets()
    if len(classes) < 2:
        raise DataError(f"{name}: all labels are {quoted(str(classes[0]))}; at least 2 classes are needed.")
    if isinstance(x, Features) and y.ndim == 1:
        y = y.astype(np.min_scalar_type(len(classes) - 1))  # labels stay in memory, so they are to be small
    names = content.names or Numbered(x.shape[1])
    if kind in NAMED:
        _warn_of_ids(name, names, x, encoding, asked)
    return Data(x, y, classes, names, content.target, content.weight, encoding=encoding)


def _warn_of_ids(name: str, names: Sequence[str], x: Any, encoding: Encoding | None, asked: Columns) -> None:
    found = ids(x)
    if encoding is not None:
        found = [place for place in found if encoding.columns[place].kind == "number"]
    if found:
        looks = "looks like an id" if len(found) == 1 else "look like ids"
        way = (
            f"remove what measures nothing, by {setting('drop', [*asked.drop, *(names[place] for place in found[:8])])}"
        )
        way += "" if asked.id else f" or {setting('id', names[found[0]])}"
        said = f"{listed([names[column] for column in found])} {looks}: integers that differ in nearly all rows; {way}."
        warnings.warn(f"{name}: {said}", stacklevel=3)


def read_features(
    path: str,
    features: Sequence[str],
    target: str | None,
    in_memory: bool | None = None,
    header: bool | None = None,
    asked: Columns | None = None,
    encoding: Encoding | None = None,
) -> Rows:
    """Rows for a model trained on these D features, which are those of the encoding, if it has one.

    Where columns have names they are found by them, in any order; an array, and a .csv without a header, only has to
    have D columns.
    """
    name, asked = shown(path), asked or Columns()

    def choose(names: list[str]) -> Chosen:
        return match_columns(name, features, encoding, target, asked, names)._replace(weight=None)

    with opened(path) as (file, kind):
        content = _content(file, path, kind, target, choose, features, in_memory, header, asked, encoding)
    x = _columns_for(content, features, name)
    own = asked.id or (None if encoding is None else encoding.id)
    return Rows(x, content.raw, None if content.ids is None else (str(own), content.ids))


def read_known(
    path: str,
    features: Sequence[str],
    classes: tuple[int | str, ...],
    target: str | None,
    in_memory: bool | None = None,
    header: bool | None = None,
    asked: Columns | None = None,
    encoding: Encoding | None = None,
) -> Data:
    """Features x (N,D) and targets of a file, N >= 1, for a model of these D features and K classes."""
    name, asked = shown(path), asked or Columns()
    with opened(path) as (file, kind):
        choose = partial(match_columns, name, features, encoding, target, asked)
        content = _content(file, path, kind, target, choose, features, in_memory, header, asked, encoding)
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
    return Data(x, y, classes, features, content.target, content.weight, encoding=encoding)


def _columns_for(content: Content, features: Sequence[str], name: str) -> Any:
    """x (N,D) of a file whose columns have names, or that has as many of them as the model has features."""
    x = content.x
    if content.encoding is not None:
        return content.encoding.features(x)
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
    asked: Columns,
    encoding: Encoding | None = None,
) -> Content:
    """What the file holds; `features` are those that a model was trained on, None if one is to be trained."""
    label_needed = features is None
    if in_memory is False and kind not in IN_PLACE:
        raise ConfigError(
            f"data.in_memory=false cannot leave {shown(path)} on the disk; convert it to .npy or .parquet, or leave "
            "the setting out."
        )
    if kind in TEXTS:
        raw = features if encoding is None else encoding.raw
        table = _TextFile(file, shown(path), kind, partial(_header, header, raw), asked, not label_needed)
        with closing(table):
            return table.read(choose)
    for key, value in (("header", header), ("delimiter", asked.delimiter)):
        if value is not None:
            raise ConfigError(f"data.{key} has no use, as {shown(path)} is no .csv; leave it out.")
    if kind in NAMED:
        return read_table(path, kind, choose, in_memory, asked, not label_needed)
    if asked.said:
        raise ConfigError(
            f"{', '.join(asked.said)} cannot be used, as the columns of {shown(path)} have no names; write a .csv or "
            ".parquet, or change the arrays."
        )
    if encoding is not None and not encoding.plain:
        raise DataError(
            f"{shown(path)} has no names of columns, and the model makes features of columns by their names; write a "
            ".csv or .parquet."
        )
    if kind == ".npz":
        return read_npz(file, path, target, label_needed)
    if kind == ".npy":
        return read_npy(file, path, target, label_needed, in_memory)
    if target is not None:
        raise ConfigError(f"data.target has no use, as {shown(path)} begins each line with its label; leave it out.")
    return read_svmlight(file, path, None if features is None else len(features))


class _Doubtful(Exception):
    """A cell (line, column, text) that is no number, where one has to be."""


class _TextFile:
    """A .csv or .tsv, which may be gone through several times."""

    def __init__(self, file: IO[bytes], path: str, kind: str, header: Header, asked: Columns, fitted: bool) -> None:
        self.file: Any = _Unpacked(fileobj=file) if kind.endswith(".gz") else file
        self.path, self.header, self.asked, self.fitted = path, header, asked, fitted
        mark = asked.delimiter or ("," if kind.startswith(".csv") else "tab")
        self.mark = DELIMITERS.get(mark, mark)
        self.text: io.TextIOWrapper | None = None
        self.names: list[str] = []

    def rows(self) -> Iterator[Row]:
        """The rows that are data, from the beginning; the names of their columns are then known."""
        self.close()
        self.file.seek(0)
        self.text = io.TextIOWrapper(self.file, "utf-8-sig", newline="")
        rows = _rows(self.text, self.path, self.mark)
        first = next(rows, (1, []))
        self.names, named = self.header(self.mark, first[1], self.path)
        return rows if named else chain([first], rows)

    def close(self) -> None:
        """Lets go of the file, which a wrapper that is left would close."""
        if self.text is not None:
            self.text.detach()
            self.text = None

    def read(self, choose: Choose) -> Content:
        """x (N,R), the R names, and the N labels, ids and weights if they are chosen."""
        rows = self.rows()
        chosen = choose(self.names)
        encoding = chosen.encoding
        if encoding is not None and any(column.kind == "auto" for column in encoding.columns):
            chosen = chosen._replace(encoding=encoding.resolved([seen.kind for seen in self._look(chosen)]))
            rows = self.rows()
        try:
            return self._content(chosen, rows)
        except _Doubtful as found:
            line, column, cell = found.args
            if not self.fitted:
                self._look(chosen)
            place, name = f"{self.path}:{line}:{column + 1}", quoted(self.names[column])
            raise DataError(f"{place}: {quoted(cell)} in column {name} {_wrong(cell)}.") from None

    def _content(self, chosen: Chosen, rows: Iterator[Row]) -> Content:
        path, names, columns, encoding = self.path, self.names, chosen.features, chosen.encoding
        coders = {} if encoding is None else encoding.coders(self.fitted)
        strict = encoding is None or encoding.missing == "error"
        blocks, lines = [np.empty((0, len(columns)))], array("q")
        beside: dict[int, list[str]] = {
            place: [] for place in (chosen.label, chosen.id, chosen.weight) if place is not None
        }
        while block := list(islice(rows, BLOCK)):
            blocks.append(self._codes(block, columns, coders, strict))
            lines.extend(line for line, _ in block)
            for column, texts in beside.items():
                texts += [row[column] for _, row in block]
        x = np.concatenate(blocks)
        bad = ~np.isfinite(x) if strict else np.isinf(x)
        way = FINITE if self.fitted or np.isinf(x).any() else FILLED
        refuse(bad, x, lambda row, column: f"{path}:{lines[row]}:{columns[column] + 1}", way)
        if encoding is not None and not self.fitted:
            encoding = encoding.learnt(coders, x)
        warn_of_new(path, coders)

        def at(column: int | None) -> Callable[[int], str]:
            return lambda row: f"{path}:{lines[row]}:{(column or 0) + 1}"

        def texts_of(column: int | None) -> list[str] | None:
            return None if column is None else beside[column]

        labels, shares = texts_of(chosen.label), texts_of(chosen.weight)
        return Content(
            x,
            tuple(names[column] for column in columns),
            labels,
            lambda: text_labels(labels or [], at(chosen.label)),
            None if chosen.label is None else names[chosen.label],
            texts_of(chosen.id),
            None if shares is None else text_weights(shares, at(chosen.weight)),
            encoding,
        )

    def _codes(self, block: list[Row], columns: list[int], coders: Mapping[int, Coder], strict: bool) -> Array:
        """The cells of the columns as codes (B,R)."""
        if not coders and strict:
            return _numbers(block, columns)
        x = np.empty((len(block), len(columns)))
        plain = [place for place in range(len(columns)) if place not in coders]
        x[:, plain] = _numbers(block, [columns[place] for place in plain], strict)
        for place, coder in coders.items():
            cells = [row[columns[place]] for _, row in block]
            codes = coder(cells)
            for row in np.flatnonzero(~np.isfinite(codes)).tolist():
                line, column = block[row][0], columns[place]
                if np.isinf(codes[row]):
                    name = f"{quoted(cells[row])} in column {quoted(self.names[column])}"
                    raise DataError(f"{self.path}:{line}:{column + 1}: {name} is no date {DATES}; correct it.")
                if strict:
                    raise _Doubtful(line, column, cells[row])
            x[:, place] = codes
        return x

    def _look(self, chosen: Chosen) -> list[Seen]:
        """What the columns hold, or a DataError for those that are doubtful."""
        seen = [Seen(self.names[column]) for column in chosen.features]
        rows = self.rows()
        while block := list(islice(rows, BLOCK)):
            lines = [line for line, _ in block]
            for one, column in zip(seen, chosen.features, strict=True):
                one.add([row[column] for _, row in block], lines)
        places = dict(zip(self.names, range(len(self.names)), strict=True))

        def sentence(one: Doubt) -> str:
            (line, cell), name = one.at, one.seen.name
            return f"{self.path}:{line}:{places[name] + 1}: {quoted(cell)} in column {quoted(name)} {one.why}"

        refuse_doubts(self.path, seen, chosen.encoding, self.asked, sentence)
        return seen


class _Unpacked(gzip.GzipFile):
    """A .gz that does not unpack to more than is read of any file."""

    def read1(self, size: int = -1) -> bytes:
        data = super().read1(size)
        if self.tell() > reading.MAX_BYTES:
            raise OSError(f"it unpacks to more than {reading.MAX_BYTES:,} bytes, which are the most")
        return data


def _rows(text: Iterable[str], path: str, mark: str) -> Iterator[Row]:
    """Rows of as many fields as the first has; empty lines may only follow the last one."""
    reader = csv.reader(text, delimiter=mark, strict=True)
    line, count, empty = 1, 0, 0
    try:
        for row in reader:
            count = count or len(row)
            if row and empty:
                raise DataError(f"{path}:{empty}: expected {count} fields, got an empty line; remove it.")
            if len(row) not in (0, count):
                name = {",": "comma", "\t": "tab"}.get(mark, repr(mark))
                why = f"quote a {name} inside a field" if len(row) > count else f"an empty field needs its {name}"
                raise DataError(f"{path}:{line}: expected {count} fields, got {len(row)}; {why}.")
            empty = 0 if row else empty or line
            if row:
                yield line, row
            line = reader.line_num + 1  # a quoted line break makes a row longer than a line
    except csv.Error as error:
        raise DataError(f"{path}:{line}: {error}; is a quote missing or left open?") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is damaged or no .gz file ({error}); write it again with gzip.") from error
    except UnicodeDecodeError as error:
        guess = "utf-16" if error.object[:2] in (b"\xff\xfe", b"\xfe\xff") else "latin1"
        place = f"not UTF-8 (byte 0x{error.object[error.start]:02x} in line {line} or later), perhaps {guess}"
        way = f"convert it with: iconv -f {guess} -t utf-8 FILE > NEW"
        raise DataError(f"{path}: {place}; {way}") from error


def _header(
    header: bool | None, features: Sequence[str] | None, mark: str, fields: list[str], path: str
) -> tuple[list[str], bool]:
    """The names of the columns, without the blanks around them, and whether the first line has them.

    Without a header the columns are the features of the model, if it has so many, or else x0, x1, ...
    """
    names = [field.strip() for field in fields]
    if not names:
        raise DataError(f"{path}: the first line must name the columns, but the file is empty.")
    if any("\0" in name for name in names):
        raise DataError(f"{path}:1: not UTF-8, perhaps utf-16 (it has a NUL); convert it with: iconv")
    for name, other in DELIMITERS.items():
        if len(names) == 1 and other != mark and other in names[0] and name != "space":
            way = f"set data.delimiter={name}"
            if mark == ",":
                escape = {"\t": "\\t"}.get(other, other)
                way += f", or, where numbers have decimal commas, convert it: tr ',{escape}' '.,' < FILE > NEW"
            raise DataError(f"{path}:1: the fields are separated by {other!r}, not by {mark!r}; {way}.")
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


def _split_columns(path: str, target: str | None, header: bool | None, asked: Columns, names: list[str]) -> Chosen:
    """Of a file to train on; without a header the labels are the last column, if nothing else is said."""
    return split_columns(path, names[-1] if target is None and header is False else target, asked, names)


def _numbers(block: list[Row], columns: list[int], strict: bool = True) -> Array:
    """The cells of these columns as numbers (B,D), nan for what is missing; only if that fails are they looked at."""
    cells = [row[column] for _, row in block for column in columns]
    gone = [] if strict else [place for place, cell in enumerate(cells) if not cell[-1:].isdigit() and is_missing(cell)]
    for place in gone:
        cells[place] = "0"
    if ",".join(cells).encode().translate(None, NUMBER_BYTES):  # float() also takes 1_000, nan, any script
        _check_cells(block, columns, cells)
    try:
        values = np.fromiter(map(float, cells), np.float64, len(cells))
    except ValueError:
        _check_cells(block, columns, cells)
        raise
    values[gone] = np.nan
    return values.reshape(len(block), len(columns))


def _check_cells(block: list[Row], columns: list[int], cells: list[str]) -> None:
    for place, cell in enumerate(cells):
        if not (NUMBER.fullmatch(cell) or NOT_FINITE.fullmatch(cell)):
            row, column = divmod(place, len(columns))
            raise _Doubtful(block[row][0], columns[column], cell)


def _wrong(cell: str) -> str:
    """What is wrong with a cell where a model has learnt numbers."""
    if is_missing(cell):
        empty = "is a missing value" if cell.strip() else "is empty"
        return f"{empty}; fill it in, or remove the row"
    if WITH_COMMA.fullmatch(cell):
        return "has a comma; write a decimal point and no thousands separator"
    return "is not a number such as 12, -0.5 or 1e-3, which the model has learnt from; correct it"
