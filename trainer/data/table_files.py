"""Columns of Parquet and Arrow files (.arrow and .feather are Arrow's IPC format), read by row groups."""

from bisect import bisect_right
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from itertools import accumulate, chain, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.arrays import Array
from trainer.data import reading
from trainer.data.columns import Chosen, Columns
from trainer.data.doubts import Doubt, Seen, look, setting
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
from trainer.data.table_groups import Groups, Latest, sort_of
from trainer.errors import DataError

MICROSECONDS_A_DAY = 86_400e6
KEPT = 3 * GROUP  # numbers that stay decoded: blocks come in order, but two threads read from several groups at once


class TableFile:
    """The rows of a table in a file, or in several, from row groups that are decoded one at a time.

    The latest ones are kept. Rows are numbered through all files; a copy in another process opens the files anew.
    """

    def __init__(self, places: Places) -> None:
        self.name, self.groups = places.name, Groups(places)
        self.names, self.schema = self.groups.names, self.groups.schema
        self.edges = [0, *accumulate(self.groups.counts)]  # group i has the rows from edge i to edge i + 1
        self.grain = max(self.groups.counts, default=1)
        self.coders: dict[int, Coder] = {}  # of columns that are no numbers
        self._take([])
        if self.edges[-1] * 8 > reading.MAX_BYTES:
            raise DataError(f"{self.name} promises {self.edges[-1]:,} rows; use fewer, their labels must be in memory.")

    def _take(self, columns: list[str]) -> None:
        self.columns = columns
        self._group = Latest(self._decode, max(1, KEPT // max(1, self.grain * len(columns))))

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
            raise DataError(f"{self._typed(other[0])}, which is no number; leave numbers alone in the file.")
        self._take(self.names)

    def read(
        self, choose: Callable[[list[str]], Chosen], in_memory: bool | None, asked: Columns, fitted: bool
    ) -> Content:
        """The columns that are chosen by name, in memory or left in their files."""
        check_names(self.names, self.name)
        chosen = choose(self.names)
        encoding = self._choose(chosen, asked, fitted)
        label, own, weight = (
            None if place is None else self.names[place] for place in (chosen.label, chosen.id, chosen.weight)
        )
        targets = no_labels if label is None else self._labels(label)
        x = taken(self, in_memory, self.name, not fitted, encoding is not None and encoding.missing != "error")
        if fitted:
            warn_of_new(self.name, self.coders)
        return Content(
            x,
            tuple(self.columns),
            targets,
            label,
            None if own is None else list(chain.from_iterable(self._all(own, _texts))),
            lambda: None if weight is None else self._weights(weight),
            encoding,
        )

    def _choose(self, chosen: Chosen, asked: Columns, fitted: bool) -> Encoding | None:
        """Takes these as the features, and learns their levels where no model has; DataError for doubtful ones."""
        self._take([self.names[place] for place in chosen.features])
        encoding = chosen.encoding
        if other := [name for name in self.columns if self._is(name) == "other"]:
            way = "" if fitted else f" by {setting('drop', [*asked.drop, *other])}"
            raise DataError(f"{self._typed(other[0])}, which is no number; encode it, or remove it{way}.")
        if encoding is not None and any(column.kind == "auto" for column in encoding.columns):
            seen = self._look(encoding, asked)
            encoding = encoding.resolved([one.kind if self._is(one.name) == "number" else "level" for one in seen])
        for place, name in enumerate(self.columns):
            if self._is(name) != "number" and (encoding is None or encoding.columns[place].kind == "number"):
                if fitted:
                    raise DataError(f"{self._typed(name)}, and the model has learnt numbers; convert it.")
                self._look(encoding, asked)  # else they are numbers that are written as texts, or names of categories
                given = [] if isinstance(asked.categorical, str) else asked.categorical
                way = f"encode it by {setting('categorical', [*given, name])}, or convert it"
                raise DataError(f"{self._typed(name)}, which is no number; {way}.")
        if encoding is None:
            return None
        self.coders = encoding.coders(fitted)
        if self.coders and not fitted:
            names = [self.columns[place] for place in self.coders]
            for group in range(len(self.groups.counts)):  # all levels are met before the first code is given
                makes = self._makes(group)
                self.groups.read(group, {name: makes[name] for name in names})
            encoding = encoding.learnt(self.coders, np.empty((0, len(self.columns))))
            self.coders = encoding.coders(True)
        return encoding

    def _is(self, name: str) -> str:
        """Whether a column holds numbers, texts, times or anything else."""
        return sort_of(self.schema.field(name).type)

    def _typed(self, name: str) -> str:
        """The beginning of a sentence on a column."""
        return f"{self.name}: column {quoted(name)} is of type {str(self.schema.field(name).type)[:40]}"

    def _look(self, encoding: Encoding | None, asked: Columns) -> list[Seen]:
        """What the columns hold, or a DataError for those that are doubtful."""
        makes = {name: _float64 if self._is(name) == "number" else _texts for name in self.columns}
        edges = enumerate(pairwise(self.edges))
        blocks = ((range(*rows), self.groups.read(group, makes)) for group, rows in edges)

        def sentence(one: Doubt) -> str:
            name = one.seen.name
            if self._is(name) == "number" or not one.seen.texts:
                return f"{self._at(one.at[0], name)} {one.why}"
            way = " or ".join(setting(key, value if key == "id" else [value]) for key, value in one.settings.items())
            return f"{self._typed(name)}, which is no number; encode it, or remove it, by {way or one.why}"

        return look(self.name, self.columns, blocks, encoding, asked, sentence)

    def _all(self, name: str, make: Callable[[Any], Any]) -> Iterator[Any]:
        """What a function makes of a column, group by group."""
        return (self.groups.read(group, {name: make})[0] for group in range(len(self.groups.counts)))

    def _weights(self, name: str) -> Array:
        """A column (N,) as sample weights."""
        if self._is(name) != "number":
            raise DataError(f"{self.name}: the weights {quoted(name)} are no numbers; {WEIGHTS}.")
        found = np.concatenate([np.empty(0), *self._all(name, _float64)])
        return checked_weights(found, lambda row: self._at(row, name))

    def __call__(self, start: int, stop: int) -> Array:
        x = np.empty((stop - start, len(self.columns)))
        for place, begin, end in cut(self.edges, start, stop):
            _transpose(self._group(place), begin - self.edges[place], x[begin - start : end - start])
        return x

    def place(self, row: int, column: int) -> str:
        return self._at(row, self.columns[column])

    def _at(self, row: int, name: str) -> str:
        """What a message calls a number: its file, its row in that, and its column."""
        group = max(0, bisect_right(self.edges, row) - 1)
        row -= self.edges[self.groups.first(group)]
        return f"{self.groups.name(group)}: row {row} of column {quoted(name)}"

    def whole(self, dtype: Any = np.float64) -> Array:
        x = np.empty(self.shape, dtype)
        for group, (start, stop) in enumerate(pairwise(self.edges)):
            _transpose(self._decode(group), 0, x[start:stop])
        return x

    def _labels(self, name: str) -> Callable[[], tuple[NDArray[Any], Classes]]:
        """The places (N,) of the labels in the sorted classes, and these; called later, but read now."""
        kind = self.schema.field(name).type
        if sort_of(kind) not in ("number", "text") or str(kind) == "null":
            raise DataError(
                f"{self.name}: the labels {quoted(name)} are of type {str(kind)[:40]}; make them integers or names."
            )
        number: dict[Any, int] = {}  # of each value that occurs, in the order in which they come
        codes = [np.zeros(0, np.uint32)]
        for values, places in chain.from_iterable(self._all(name, _distinct)):
            if (gone := places < 0).any():
                empty = sum(map(len, codes)) + int(gone.argmax())
                raise DataError(f"{self._at(empty, name)} is empty; remove such rows.")
            table = np.zeros(len(values), np.uint32)
            for place in np.unique(places).tolist():
                table[place] = number.setdefault(values[place], len(number))
            codes.append(table[places])
        y = np.concatenate(codes)
        texts = [str(int(value)) if isinstance(value, bool) else str(value) for value in number]

        def encoded() -> tuple[NDArray[Any], Classes]:
            found, classes = text_labels(texts, lambda value: self._at(int((y == value).argmax()), name))
            return found[y], classes

        return encoded

    def _decode(self, group: int) -> list[Array]:
        """The features of a group as D columns (B,) of float64; an empty cell becomes nan."""
        return self.groups.read(group, self._makes(group))

    def _makes(self, group: int) -> dict[str, Callable[[Any], Array]]:
        """What makes numbers of each feature of a group."""
        coders = {self.columns[place]: coder for place, coder in self.coders.items()}
        where = self.groups.name(group)
        return {name: partial(_coded, coders[name], where) if name in coders else _float64 for name in self.columns}


def _coded(coder: Coder, where: str, column: Any) -> Array:
    """The codes of a chunked array of dates or levels."""
    if coder.column.kind == "date" and sort_of(column.type) == "time":
        moments = column.cast(import_module("pyarrow").timestamp("us", tz=getattr(column.type, "tz", None)), safe=False)
        return _float64(moments.cast("int64")) / MICROSECONDS_A_DAY
    codes = [np.empty(0)]
    for values, places in _distinct(column):
        texts = _as_texts(values)
        found = np.append(coder(texts), np.nan)[places]  # the last one, -1, is missing
        if (bad := np.isinf(found)).any():
            cell = quoted(texts[places[int(bad.argmax())]])
            raise DataError(f"{where}: {cell} in column {quoted(coder.column.name)} is no date {DATES}; correct it.")
        codes.append(found)
    return np.concatenate(codes)


def _distinct(column: Any) -> list[tuple[list[Any], NDArray[Any]]]:
    """Of each chunk its different values, and which of them each row has; -1 where it has none."""
    parts = [chunk if hasattr(chunk, "dictionary") else chunk.dictionary_encode() for chunk in column.chunks]
    places = (part.indices.cast("int64").fill_null(-1).to_numpy(zero_copy_only=False) for part in parts)
    return [(part.dictionary.to_pylist(), place) for part, place in zip(parts, places, strict=True)]


def _texts(column: Any) -> list[str]:
    """A column's values as a .csv would have them."""
    return _as_texts(column.to_pylist())


def _as_texts(values: list[Any]) -> list[str]:
    return ["" if value is None else str(value) for value in values]


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
