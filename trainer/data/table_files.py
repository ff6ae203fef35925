"""Columns of Parquet and Arrow files (.arrow and .feather are Arrow's IPC format), read by row groups."""

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable
from importlib import import_module
from itertools import accumulate
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.arrays import Array
from trainer.data import reading
from trainer.data.columns import Chosen, Columns
from trainer.data.doubts import Doubt, Seen, refuse_doubts, setting
from trainer.data.encoding import DATES, Coder, Encoding, warn_of_new
from trainer.data.features import READING, cut
from trainer.data.places import Places
from trainer.data.reading import (
    GROUP,
    WEIGHTS,
    Classes,
    Content,
    check_names,
    checked_weights,
    no_labels,
    quoted,
    taken,
    text_labels,
)
from trainer.data.table_groups import Groups, sort_of
from trainer.errors import DataError

MICROSECONDS_A_DAY = 86_400e6
KEPT = 3 * GROUP  # numbers that stay decoded: blocks come in order, but two threads read from several groups at once


class TableFile:
    """The rows of a table in a file, or in several, from row groups that are decoded one at a time.

    The latest ones are kept. Rows are numbered through all files; a copy in another process opens the files anew.
    """

    def __init__(self, places: Places) -> None:
        self.name, self._groups = places.name, Groups(places)
        self.names, self.schema = self._groups.names, self._groups.schema
        self.edges = [0, *accumulate(self._groups.counts)]  # group i has the rows from edge i to edge i + 1
        self.grain = max(self._groups.counts, default=1)
        self.columns: list[str] = []
        self.coders: dict[int, Coder] = {}  # of columns that are no numbers
        self._begin()
        if self.edges[-1] * 8 > reading.MAX_BYTES:
            raise DataError(f"{self.name} promises {self.edges[-1]:,} rows; use fewer, their labels must be in memory.")

    def _begin(self) -> None:
        self._lock = Lock()
        self._kept: OrderedDict[int, list[Array]] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key not in ("_lock", "_kept")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._begin()

    @property
    def shape(self) -> tuple[int, int]:
        return self.edges[-1], len(self.columns)

    @property
    def dtype(self) -> Any:
        """float32 where every column has no more digits, else float64."""
        short = all(str(self.schema.field(name).type) in ("float", "halffloat") for name in self.columns)
        return np.dtype(np.float32 if short else np.float64)

    def take_all(self) -> None:
        """Takes all columns as features; DataError where one is no number."""
        check_names(self.names, self.name)
        if other := [name for name in self.names if self._is(name) != "number"]:
            what = f"is of type {str(self.schema.field(other[0]).type)[:40]}, which is no number"
            raise DataError(f"{self.name}: column {quoted(other[0])} {what}; leave numbers alone in the file.")
        self.columns = self.names

    def choose(self, chosen: Chosen, asked: Columns, fitted: bool) -> Encoding | None:
        """Takes these as the features, and learns their levels where no model has; DataError for doubtful ones."""
        self.columns = [self.names[place] for place in chosen.features]
        encoding = chosen.encoding
        if other := [name for name in self.columns if self._is(name) == "other"]:
            what = f"is of type {str(self.schema.field(other[0]).type)[:40]}, which is no number"
            way = "" if fitted else f" by {setting('drop', [*asked.drop, *other])}"
            raise DataError(f"{self.name}: column {quoted(other[0])} {what}; encode it, or remove it{way}.")
        if encoding is not None and any(column.kind == "auto" for column in encoding.columns):
            seen = self.look(encoding, asked)
            encoding = encoding.resolved([one.kind if self._is(one.name) == "number" else "level" for one in seen])
        kinds = ["number"] * len(self.columns) if encoding is None else [column.kind for column in encoding.columns]
        for name, kind in zip(self.columns, kinds, strict=True):
            if kind == "number" and self._is(name) != "number":
                if not fitted:
                    self.look(encoding, asked)
                what = f"is of type {str(self.schema.field(name).type)[:40]}"
                why = ", and the model has learnt numbers; convert it"
                if not fitted:  # of numbers that are written as texts, or are names of categories
                    given = [] if isinstance(asked.categorical, str) else asked.categorical
                    why = f", which is no number; encode it by {setting('categorical', [*given, name])}, or convert it"
                raise DataError(f"{self.name}: column {quoted(name)} {what}{why}.")
        if encoding is None:
            return None
        self.coders = encoding.coders(fitted)
        if self.coders and not fitted:
            names = [self.columns[place] for place in self.coders]
            for group in range(len(self._groups.counts)):  # all levels are met before the first code is given
                read = self._groups.read(group, names)
                for coder, column, name in zip(self.coders.values(), read, names, strict=True):
                    self._coded(coder, column, name, group)
            encoding = encoding.learnt(self.coders, np.empty((0, len(self.columns))))
            self.coders = {place: Coder(encoding.columns[place], True) for place in self.coders}
        return encoding

    def _is(self, name: str) -> str:
        """Whether a column holds numbers, texts, times or anything else."""
        return sort_of(self.schema.field(name).type)

    def look(self, encoding: Encoding | None, asked: Columns) -> list[Seen]:
        """What the columns hold, or a DataError for those that are doubtful."""
        seen = [Seen(name) for name in self.columns]
        for group, edge in enumerate(self.edges[:-1]):
            columns = self._groups.read(group, self.columns)
            for one, values in zip(seen, columns, strict=True):
                if self._is(one.name) == "number":
                    one.add_numbers(_float64(values), edge)
                else:
                    cells = _texts(values)
                    one.add(cells, range(edge, edge + len(cells)))

        def sentence(one: Doubt) -> str:
            name = one.seen.name
            if self._is(name) == "number" or not one.seen.texts:
                return f"{self.at(one.at[0])} of column {quoted(name)} {one.why}"
            kind = f"is of type {str(self.schema.field(name).type)[:40]}, which is no number"
            way = " or ".join(setting(key, value if key == "id" else [value]) for key, value in one.settings.items())
            return f"{self.name}: column {quoted(name)} {kind}; encode it, or remove it, by {way or one.why}"

        refuse_doubts(self.name, seen, encoding, asked, sentence)
        return seen

    def texts(self, name: str) -> list[str]:
        """A column (N,) as texts."""
        found: list[str] = []
        for group in range(len(self._groups.counts)):
            column = self._groups.read(group, [name])[0]
            with self._groups.damage(group):
                found += _texts(column)
        return found

    def weights(self, name: str) -> Array:
        """A column (N,) as sample weights."""
        if self._is(name) != "number":
            raise DataError(f"{self.name}: the weights {quoted(name)} are no numbers; {WEIGHTS}.")
        groups = range(len(self._groups.counts))
        columns = [_float64(self._groups.read(group, [name])[0]) for group in groups]
        found = np.concatenate([np.empty(0), *columns])
        return checked_weights(found, lambda row: f"{self.at(row)} of column {quoted(name)}")

    def __call__(self, start: int, stop: int) -> Array:
        x = np.empty((stop - start, len(self.columns)))
        for place, begin, end in cut(self.edges, start, stop):
            _transpose(self._group(place), begin - self.edges[place], x[begin - start : end - start])
        return x

    def place(self, row: int, column: int) -> str:
        return f"{self.at(row)} of column {quoted(self.columns[column])}"

    def at(self, row: int) -> str:
        """What a message calls a row: its file, and its number in that."""
        group = max(0, bisect_right(self.edges, row) - 1)
        return f"{self._groups.name(group)}: row {row - self.edges[self._groups.first(group)]}"

    def whole(self, dtype: Any = np.float64) -> Array:
        """All features (N,D), of a file of which nothing more is to be read."""
        x = np.empty(self.shape, dtype)
        for group, (start, stop) in enumerate(zip(self.edges[:-1], self.edges[1:], strict=True)):
            _transpose(self._decode(group), 0, x[start:stop])
        return x

    def labels(self, name: str) -> Callable[[], tuple[NDArray[Any], Classes]]:
        """The places (N,) of the labels in the sorted classes, and these; called later, but read now."""
        types, kind = import_module("pyarrow").types, self.schema.field(name).type
        if types.is_dictionary(kind):
            kind = kind.value_type
        text = types.is_string(kind) or types.is_large_string(kind)
        if not (text or types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)):
            raise DataError(
                f"{self.name}: the labels {quoted(name)} are of type {str(kind)[:40]}; make them integers or names."
            )
        number: dict[Any, int] = {}  # of each value that occurs, in the order in which they come
        first: list[int] = []  # the row in which it does
        codes = [np.zeros(0, np.uint32)]
        row = 0
        for group in range(len(self._groups.counts)):
            chunks = self._groups.read(group, [name])[0].chunks
            for chunk in chunks:
                if chunk.null_count:
                    empty = row + int(np.argmax(chunk.is_null().to_numpy(zero_copy_only=False)))
                    raise DataError(f"{self.at(empty)} of column {quoted(name)} is empty; remove such rows.")
                known = chunk if types.is_dictionary(chunk.type) else chunk.dictionary_encode()
                with self._groups.damage(group):
                    values = known.dictionary.to_pylist()
                places = known.indices.to_numpy(zero_copy_only=False)
                table = np.zeros(len(values), np.uint32)
                for code, at in zip(*(found.tolist() for found in np.unique(places, return_index=True)), strict=True):
                    if values[code] not in number:
                        number[values[code]] = len(number)
                        first.append(row + at)
                    table[code] = number[values[code]]
                codes.append(table[places])
                row += len(chunk)
        texts = [value if text else repr(int(value) if isinstance(value, bool) else value) for value in number]

        def encoded() -> tuple[NDArray[Any], Classes]:
            y, classes = text_labels(texts, lambda value: f"{self.at(first[value])} of column {quoted(name)}")
            return y[np.concatenate(codes)], classes

        return encoded

    def _group(self, group: int) -> list[Array]:
        with self._lock:
            if group not in self._kept:
                most = max(1, KEPT // (self.grain * len(self.columns)))
                while len(self._kept) >= most:
                    self._kept.popitem(last=False)
                self._kept[group] = self._decode(group)
            self._kept.move_to_end(group)
            return self._kept[group]

    def _decode(self, group: int) -> list[Array]:
        """The features of a group as D columns (B,) of float64; an empty cell becomes nan."""
        read = self._groups.read(group, self.columns)
        with self._groups.damage(group):
            return [
                self._coded(self.coders[place], column, self.columns[place], group)
                if place in self.coders
                else _float64(column)
                for place, column in enumerate(read)
            ]

    def _coded(self, coder: Coder, column: Any, name: str, group: int) -> Array:
        """The codes of a chunked array of dates or levels."""
        arrow = import_module("pyarrow")
        if coder.column.kind == "date" and self._is(name) == "time":
            moments = column.cast(arrow.timestamp("us", tz=getattr(column.type, "tz", None)), safe=False)
            return _float64(moments.cast("int64")) / MICROSECONDS_A_DAY
        codes = [np.empty(0)]
        for chunk in column.chunks:
            known = chunk if arrow.types.is_dictionary(chunk.type) else chunk.dictionary_encode()
            there = _texts(known.dictionary)
            table = np.append(coder(there), np.nan)
            places = known.indices.cast("int64").fill_null(len(there)).to_numpy(zero_copy_only=False)
            if (bad := np.isinf(table[places])).any():
                cell = quoted(there[places[int(bad.argmax())]])
                raise DataError(
                    f"{self._groups.name(group)}: {cell} in column {quoted(name)} is no date {DATES}; correct it."
                )
            codes.append(table[places])
        return np.concatenate(codes)


def _texts(values: Any) -> list[str]:
    """An array's values as a .csv would have them."""
    return ["" if value is None else str(value) for value in values.to_pylist()]


def _float64(column: Any) -> Array:
    """The numbers of a chunked array, without a copy where there is one chunk of float64."""
    if str(column.type) != "double":
        column = column.cast("float64", safe=False)
    values = column.chunk(0).to_numpy(zero_copy_only=False) if column.num_chunks == 1 else column.to_numpy()
    return np.asarray(values)


def _transpose(columns: list[Array], start: int, x: Array) -> None:
    """Writes the rows of the columns from start on into x (B,D), a piece at a time that stays in the cache."""
    count = max(64, READING // len(columns))
    for first in range(0, len(x), count):
        piece = x[first : first + count]
        for column, values in enumerate(columns):
            piece[:, column] = values[start + first : start + first + len(piece)]


def read_table(
    places: Places, choose: Callable[[list[str]], Chosen], in_memory: bool | None, asked: Columns, fitted: bool
) -> Content:
    """The columns that are chosen by name, in memory or left in their files."""
    file = TableFile(places)
    check_names(file.names, file.name)
    chosen = choose(file.names)
    encoding, label, weight = file.choose(chosen, asked, fitted), chosen.label, chosen.weight
    targets = no_labels if label is None else file.labels(file.names[label])
    x = taken(file, in_memory, file.name, not fitted, encoding is not None and encoding.missing != "error")
    if fitted:
        warn_of_new(file.name, file.coders)
    return Content(
        x,
        tuple(file.columns),
        targets,
        None if label is None else file.names[label],
        None if chosen.id is None else file.texts(file.names[chosen.id]),
        lambda: None if weight is None else file.weights(file.names[weight]),
        encoding,
    )
