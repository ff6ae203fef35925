"""A .csv or .tsv, or several as one, read line by line: a cell is a number, or what data.columns says of its column."""

import csv
import gzip
import io
import zlib
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import IO, NamedTuple

import numpy as np

from trainer.arrays import Array
from trainer.data import reading
from trainer.data.columns import DELIMITERS, Chosen, Columns
from trainer.data.doubts import WITH_COMMA, Doubt, Seen, look
from trainer.data.encoding import DATES, Coder, is_missing, is_number, numbers, warn_of_new
from trainer.data.places import Place, Places, all_columns, same_columns
from trainer.data.reading import (
    NOT_FINITE,
    NUMBER,
    Content,
    check_finite,
    check_names,
    listed,
    no_labels,
    opened,
    quoted,
    text_labels,
    text_weights,
)
from trainer.data.rows import Numbered
from trainer.errors import DataError, shown

Row = tuple[int, list[str]]  # the line on which a row begins, and its fields
Choose = Callable[[list[str]], Chosen]
Header = Callable[[str, list[str], str], tuple[list[str], bool]]  # names of the columns, and whether they are a line

BLOCK = 512  # rows held as text at a time, as many as a cache holds of a table that is not wide


class _Doubtful(Exception):
    """A cell (line, column, text) that is no number, where one has to be."""


class _Part(NamedTuple):
    """A file of several: its name, the lines of those before it, and where it has the columns of the first."""

    name: str
    before: int
    order: list[int]


class TextFile:
    """The rows of a .csv or .tsv, or of several one after the other, which may be gone through several times.

    Lines are numbered through all files, and rows have the columns of the first one, then those of its folders.
    """

    def __init__(self, places: Places, header: Header, asked: Columns, fitted: bool) -> None:
        self.places, self.name = places, places.name
        self.header, self.asked, self.fitted = header, asked, fitted
        mark = asked.delimiter or ("," if places.kind.startswith(".csv") else "tab")
        self.mark = DELIMITERS.get(mark, mark)
        self.names: list[str] = []
        self._parts: list[_Part] = []

    def rows(self) -> Iterator[Row]:
        """The rows that are data, from the beginning; the names of their columns are then known."""
        self._parts, self._line, self._unpacked = [], 0, 0
        first, *others = map(self._rows_of, self.places.files)
        _, self.names = next(first)
        return chain(first, *(islice(rows, 1, None) for rows in others))

    def _rows_of(self, place: Place) -> Iterator[Row]:
        """The names of a file's columns, then its rows; it is opened by the first and closed by the last."""
        name = shown(place.path)
        with opened(place.path, (self.places.kind,)) as (file, kind):
            packed = _Unpacked(file, self._unpacked) if kind.endswith(".gz") else None
            with io.TextIOWrapper(packed or file, "utf-8-sig", newline="") as text:
                rows = _rows(text, name, self.mark)
                first = next(rows, (1, []))
                names, named = self.header(self.mark, first[1], name)
                names, before, line = all_columns(place, names), self._line, 0
                order = same_columns(self.places.paths[0], self.names, place.path, names) if self._parts else []
                self._parts.append(_Part(name, before, order or [*range(len(names))]))
                yield 1, names
                values = [value or "" for value in place.keys.values()]
                for line, row in rows if named else chain([first], rows):
                    if values or order:
                        row = [*row, *values]
                    yield before + line, [row[column] for column in order] if order else row
                self._line, self._unpacked = before + line, self._unpacked + (packed.tell() if packed else 0)

    def at(self, line: int, column: int) -> str:
        """What a message calls a cell."""
        part = self._parts[bisect_left(self._parts, line, key=lambda part: part.before) - 1]
        return f"{part.name}:{line - part.before}:{part.order[column] + 1}"

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
            name = quoted(self.names[column])
            raise DataError(f"{self.at(line, column)}: {quoted(cell)} in column {name} {_wrong(cell)}.") from None

    def _content(self, chosen: Chosen, rows: Iterator[Row]) -> Content:
        names, columns, encoding = self.names, chosen.features, chosen.encoding
        coders = {} if encoding is None else encoding.coders(self.fitted)
        strict = encoding is None or encoding.missing == "error"
        blocks, lines = [np.empty((0, len(columns)))], array("q")
        beside: dict[int, list[str]] = {
            place: [] for place in (chosen.label, chosen.id, chosen.weight) if place is not None
        }
        for places, cells in _columns(rows, [*columns, *beside]):
            blocks.append(self._codes(places, cells, columns, coders, strict))
            lines.extend(places)
            for texts, more in zip(beside.values(), cells[len(columns) :], strict=True):
                texts += more
        x = np.concatenate(blocks)
        check_finite(x, lambda row, column: self.at(lines[row], columns[column]), not self.fitted, not strict)
        if encoding is not None and not self.fitted:
            encoding = encoding.learnt(coders, x)
        warn_of_new(self.name, coders)

        def at(column: int) -> Callable[[int], str]:
            return lambda row: self.at(lines[row], column)

        label, weight = chosen.label, chosen.weight
        return Content(
            x,
            tuple(names[column] for column in columns),
            no_labels if label is None else lambda: text_labels(beside[label], at(label)),
            None if label is None else names[label],
            None if chosen.id is None else beside[chosen.id],
            lambda: None if weight is None else text_weights(beside[weight], at(weight)),
            encoding,
        )

    def _codes(
        self,
        lines: list[int],
        cells: list[tuple[str, ...]],
        columns: list[int],
        coders: Mapping[int, Coder],
        strict: bool,
    ) -> Array:
        """The cells of the columns as codes (B,R)."""
        x = np.empty((len(lines), len(columns)))
        for place in range(len(columns)):
            x[:, place] = coders.get(place, numbers)(cells[place])
        for row, place in np.argwhere(~np.isfinite(x) if strict else np.isinf(x)):
            line, column, cell = lines[row], columns[place], cells[place][row]
            if place in coders and np.isinf(x[row, place]):
                name = f"{quoted(cell)} in column {quoted(self.names[column])}"
                raise DataError(f"{self.at(line, column)}: {name} is no date {DATES}; correct it.")
            if place in coders or not is_number(cell):
                raise _Doubtful(line, column, cell)
        return x

    def _look(self, chosen: Chosen) -> list[Seen]:
        """What the columns hold, or a DataError for those that are doubtful."""
        names, places = [self.names[column] for column in chosen.features], chosen.features
        blocks = _columns(self.rows(), places)

        def sentence(one: Doubt) -> str:
            (line, cell), name = one.at, one.seen.name
            return f"{self.at(line, places[names.index(name)])}: {quoted(cell)} in column {quoted(name)} {one.why}"

        return look(self.name, names, blocks, chosen.encoding, self.asked, sentence)


class _Unpacked(gzip.GzipFile):
    """A .gz that does not unpack, with those before it, to more than is read of any file."""

    def __init__(self, file: IO[bytes], before: int) -> None:
        super().__init__(fileobj=file)
        self._before = before

    def read1(self, size: int = -1) -> bytes:
        data = super().read1(size)
        if self._before + self.tell() > reading.MAX_BYTES:
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


def _columns(rows: Iterator[Row], wanted: Sequence[int]) -> Iterator[tuple[list[int], list[tuple[str, ...]]]]:
    """The lines of some rows, and the cells of these columns in them."""
    while block := list(islice(rows, BLOCK)):
        columns = list(zip(*(row for _, row in block), strict=True))
        yield [line for line, _ in block], [columns[column] for column in wanted]


def header_of(
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


def _wrong(cell: str) -> str:
    """What is wrong with a cell where a model has learnt numbers."""
    if is_missing(cell):
        empty = "is a missing value" if cell.strip() else "is empty"
        return f"{empty}; fill it in, or remove the row"
    if WITH_COMMA.fullmatch(cell):
        return "has a comma; write a decimal point and no thousands separator"
    return "is not a number such as 12, -0.5 or 1e-3, which the model has learnt from; correct it"
