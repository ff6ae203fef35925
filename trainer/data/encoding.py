"""What the columns of a table become: numbers, dates and levels are made into features.

A reader gives the columns of a file as a table of codes (N,R) of float64, with nan for what is missing:

    number   itself
    date     days since 1970-01-01
    level    the place of its text among the column's levels, UNKNOWN where it has none

and an Encoding makes features (N,D) of it. What it has to know for that, means and levels, it learns from the training
rows alone, and a model keeps it as plain numbers and texts. What it learns, how it is applied and how it is read back
must agree in every case, so they stand together, though the file is long.
"""

import math
import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import numpy as np

from trainer.arrays import Array
from trainer.data.features import Features, Reader, over
from trainer.data.reading import INTEGER, NOT_FINITE, NUMBER, NUMBER_BYTES, check_names, listed, quoted
from trainer.errors import ConfigError, DataError, counted, is_text

MISSING = ("error", "mean", "median", "indicator")
NO_VALUE = frozenset(("", "?", "na", "n/a", "nan", "nat", "null"))  # what stands for a missing value, in small letters
UNKNOWN = -1.0
RARE = 3  # training rows with fewer of a level do not tell it from chance
MOST_LEVELS = 100  # features of a column, that of the rare levels included
SMALL = 10  # different integers up to which `auto` takes a column of them for levels
OTHER_DATE = re.compile(r"([0-9]{1,2})\.([0-9]{1,2})\.([0-9]{4})(?![0-9])")
DATES = "such as 2024-12-31, 2024-12-31 18:30 or 31.12.2024"
START = datetime(1970, 1, 1)


@dataclass(frozen=True)
class Column:
    """A column of a file, and the features that it becomes.

    kind      number, date or level; auto is a level or a number, which a look at the file decides
    levels    the texts of its levels in the order of their codes
    own       which of the levels have a feature of their own; the others are rare, or new
    rare      whether the rare and the new levels have a feature together
    fill      what stands for a missing number; None where there is to be none
    missing   whether a feature says that it was missing
    """

    name: str
    kind: str = "number"
    levels: tuple[str, ...] = ()
    own: tuple[bool, ...] = ()
    rare: bool = False
    fill: float | None = None
    missing: bool = False

    @property
    def names(self) -> list[str]:
        """What its features are called."""
        names = [self.name]
        if self.kind == "level":
            names = [f"{self.name}={level}" for level, own in zip(self.levels, self.own, strict=True) if own]
            names += [f"{self.name}=(rare)"] * self.rare
        return names + [f"{self.name} missing"] * self.missing

    def encode(self, codes: Array, out: Array) -> None:
        """Writes the features of codes (N,) into zeros (N,D of this column)."""
        gone = np.isnan(codes)
        if self.missing:
            out[:, -1] = gone
        if self.kind != "level":
            out[:, 0] = codes if self.fill is None else np.where(gone, self.fill, codes)
            return
        count = sum(self.own)
        own = np.array(self.own, dtype=bool)
        places = np.full(len(self.levels) + 1, count if self.rare else -1)  # the last one is that of UNKNOWN
        places[:-1][own] = np.arange(count)
        place = places[np.where(gone, UNKNOWN, codes).astype(np.intp)]
        shown = (place >= 0) & ~(gone & self.missing)
        out[np.flatnonzero(shown), place[shown]] = 1.0


@dataclass(frozen=True)
class Encoding:
    """From a table of codes (N,R) to features (N,D); a pure function of each row.

    columns      R of them
    missing      what becomes of missing values, a name of MISSING
    id, weight   columns of the training file that are no features
    unused       all others that are none, so that a file for predictions may have them too
    """

    columns: tuple[Column, ...]
    missing: str = "error"
    id: str | None = None
    weight: str | None = None
    unused: tuple[str, ...] = ()

    @property
    def raw(self) -> tuple[str, ...]:
        """The names (R,) of the columns in the file."""
        return tuple(column.name for column in self.columns)

    @property
    def names(self) -> tuple[str, ...]:
        """The names (D,) of the features."""
        return tuple(name for column in self.columns for name in column.names)

    @property
    def summary(self) -> str:
        """What the columns are, in a line."""
        counts = Counter(column.kind for column in self.columns)
        said = [counted(counts[kind], kind) for kind in ("number", "date") if counts[kind]]
        said += [f"{counts['level']} with levels"] * bool(counts["level"])
        said += [f"{key} {name}" for key, name in (("id", self.id), ("weight", self.weight)) if name is not None]
        said += [f"not used: {', '.join(self.unused)}"] * bool(self.unused)
        return "; ".join([*said, "gaps refused" if self.missing == "error" else f"gaps: {self.missing}"])

    @property
    def plain(self) -> bool:
        """Whether the features are the columns as they are."""
        return all(column == Column(column.name) for column in self.columns)

    def resolved(self, kinds: Sequence[str]) -> "Encoding":
        """With these kinds of the columns (R,) that were to be found out."""
        found = zip(self.columns, kinds, strict=True)
        columns = (replace(column, kind=kind) if column.kind == "auto" else column for column, kind in found)
        return replace(self, columns=tuple(columns))

    def coders(self, fitted: bool) -> dict[int, "Coder"]:
        """What makes codes of the columns that are no numbers, by their places."""
        return {
            place: Coder(column, fitted)
            for place, column in enumerate(self.columns)
            if column.kind in ("date", "level")
        }

    def learnt(self, coders: Mapping[int, "Coder"], codes: Array) -> "Encoding":
        """With the levels that the coders have met, in their order; the codes (N,R) are changed to that."""
        columns = list(self.columns)
        for place, coder in coders.items():
            if columns[place].kind == "level":
                levels = coder.sorted()
                place_of = {level: float(code) for code, level in enumerate(levels)}
                where = np.array([place_of[level] for level in coder.levels])
                there = ~np.isnan(codes[:, place])
                codes[there, place] = where[codes[there, place].astype(np.intp)]
                columns[place] = replace(columns[place], levels=levels)
        return replace(self, columns=tuple(columns))

    def __call__(self, codes: Array) -> Array:
        if self.plain:
            return codes
        widths = [len(column.names) for column in self.columns]
        out = np.zeros((len(codes), sum(widths)))
        end = 0
        for place, (column, width) in enumerate(zip(self.columns, widths, strict=True)):
            column.encode(codes[:, place], out[:, end : end + width])
            end += width
        return out

    def features(self, codes: Any) -> Any:
        """Features (N,D) of codes in memory or, block by block, of those in a file."""
        if isinstance(codes, Features):
            return codes if self.plain else replace(codes, reader=Encoded(codes.reader, self))
        return self(codes)

    def of_table(self, table: Any) -> Array:
        """Features (N,D) of a table in memory whose columns have names, such as a DataFrame of pandas; fitted."""
        names = [str(name) for name in getattr(table, "columns", ())]
        if lost := [name for name in self.raw if name not in names]:
            raise DataError(
                f"The model makes its features of columns by their names, and there is no {listed(lost)}; give it a "
                f"table with all of {listed(self.raw)}, such as a DataFrame of pandas."
            )
        coders = self.coders(fitted=True)
        codes = np.empty((len(table), len(self.columns)))
        for place, column in enumerate(self.columns):
            cells = ["" if value is None else str(value) for value in table[column.name]]
            coder = coders.get(place)
            codes[:, place] = numbers(cells) if coder is None else coder(cells)
            wrong = np.isinf(codes[:, place]) | (np.isnan(codes[:, place]) & (self.missing == "error"))
            if wrong.any():
                row = int(wrong.argmax())
                what = "number" if coder is None else f"date {DATES}"
                why = f"{quoted(cells[row])}, which is no {what}" if np.isinf(codes[row, place]) else "no value"
                raise DataError(f"Row {row} of column {quoted(column.name)} has {why}; correct it, or leave it out.")
        warn_of_new("The table", coders)
        return self(codes)

    def fit(self, codes: Any, name: str = "The data") -> "Encoding":
        """The encoding with the means or medians, and the levels, of these training rows (N,R)."""
        if self.missing == "median" and isinstance(codes, Features):
            raise ConfigError(
                "data.missing=median needs whole columns, and these stay on the disk. Take data.missing=mean, or "
                "data.in_memory=true if the memory can hold them."
            )
        filled = self.missing != "error"
        parts = over(codes, partial(_summed, self.columns, filled))
        sums = next(parts)
        for found in parts:
            for one, other in zip(sums, found, strict=True):
                one.add(other)
        fitted = []
        for place, one in enumerate(sums):
            column = one.fitted(self.missing == "indicator")
            if filled and column.kind != "level":
                if column.fill is None:
                    raise DataError(
                        f"{name}: no training row has a value in column {quoted(column.name)}; remove it by data.drop="
                        f"[{column.name}]."
                    )
                if self.missing == "median":
                    column = replace(column, fill=float(np.nanmedian(codes[:, place])))
            fitted.append(column)
        encoding = replace(self, columns=tuple(fitted))
        check_names(encoding.names, name)
        return encoding

    def to_header(self) -> dict[str, Any]:
        """As JSON has it; of the levels only those that have a feature of their own."""
        columns = [
            {
                "name": column.name,
                "kind": column.kind,
                "levels": [level for level, own in zip(column.levels, column.own, strict=True) if own],
                "rare": column.rare,
                "fill": column.fill,
                "missing": column.missing,
            }
            for column in self.columns
        ]
        return {f.name: getattr(self, f.name) for f in fields(self)} | {"columns": columns, "unused": [*self.unused]}

    @classmethod
    def from_header(cls, header: Any) -> "Encoding":
        """ValueError, with its reason, for what to_header does not write."""
        content = _exactly(header, {f.name for f in fields(cls)}, "columns")
        if content["missing"] not in MISSING:
            raise ValueError(f"columns has missing={ascii(content['missing'])[:40]}")
        if not isinstance(content["unused"], list) or not isinstance(content["columns"], list):
            raise ValueError("columns has no list of columns or of unused ones")
        texts = [*content["unused"], *(content[key] for key in ("id", "weight") if content[key] is not None)]
        if not all(isinstance(name, str) for name in texts) or not is_text(texts):
            raise ValueError("columns has a name that is no text")
        read = tuple(map(_column, content["columns"]))
        if twice := [name for name, count in Counter(column.name for column in read).items() if count > 1]:
            raise ValueError(f"columns holds {ascii(twice[0])[:40]} more than once")
        return cls(read, content["missing"], content["id"], content["weight"], tuple(content["unused"]))


class Coder:
    """The codes of texts of a date or a level; its levels grow, unless a model has learnt them."""

    def __init__(self, column: Column, fitted: bool) -> None:
        self.column, self.fitted = column, fitted
        self.levels = {level: float(code) for code, level in enumerate(column.levels)}
        self.codes: dict[str, float] = {}  # of the texts met so far
        self.new = ""  # the first level that is not among those of the model

    def __call__(self, cells: Sequence[str]) -> Array:
        """Codes (N,): nan for a missing cell, infinity for what is no date."""
        for cell in set(cells) - self.codes.keys():
            self.codes[cell] = self._code(cell)
        codes = np.fromiter(map(self.codes.__getitem__, cells), np.float64, len(cells))
        if self.fitted and self.column.kind == "level" and not self.new and (codes == UNKNOWN).any():
            self.new = cells[int((codes == UNKNOWN).argmax())]
        return codes

    def _code(self, cell: str) -> float:
        if is_missing(cell):
            return math.nan
        if self.column.kind == "date":
            value = days(cell)
            return math.inf if value is None else value
        level = level_of(cell)
        return (
            self.levels.get(level, UNKNOWN) if self.fitted else self.levels.setdefault(level, float(len(self.levels)))
        )

    def sorted(self) -> tuple[str, ...]:
        """The levels in their order: numbers by size, where all are integers."""
        whole = all(INTEGER.fullmatch(level) for level in self.levels)
        return tuple(sorted(self.levels, key=lambda level: (int(level) if whole else 0, level)))


def warn_of_new(path: str, coders: Mapping[int, Coder]) -> None:
    """Says of which columns a model has met levels that it has not learnt."""
    for coder in coders.values():
        if coder.new:
            column = coder.column
            as_what = "they count as rare" if column.rare else "their rows have none of the levels"
            warnings.warn(
                f"{path}: column {quoted(column.name)} has levels that are new or were too rare to be learnt, such as "
                f"{quoted(coder.new)}; {as_what}.",
                stacklevel=4,
            )


def _summed(columns: Sequence[Column], filled: bool, codes: Array) -> "list[_Sum]":
    """What some rows (B,R) add up to, column by column."""
    return [_Sum(column, filled, codes[:, place]) for place, column in enumerate(columns)]


class _Sum:
    """What the codes (B,) of some of a column's training rows add up to."""

    def __init__(self, column: Column, filled: bool, codes: Array) -> None:
        there = codes[~np.isnan(codes)]
        self.column, self.gone, self.count, self.mean = column, len(codes) - len(there), 0, 0.0
        self.levels = np.zeros(len(column.levels), np.int64)
        if column.kind == "level":
            self.levels = np.bincount(there.astype(np.intp), minlength=len(self.levels))
        elif filled and len(there):
            self.count, self.mean = len(there), float((there / len(there)).sum())

    def add(self, other: "_Sum") -> None:
        """Takes the sums of a further part."""
        self.gone += other.gone
        self.levels += other.levels
        if other.count:
            self.count += other.count
            self.mean += (other.mean - self.mean) * (other.count / self.count)

    def fitted(self, indicator: bool) -> Column:
        """The column with what it has learnt: as OneHotEncoder(min_frequency=RARE, max_categories=MOST_LEVELS)."""
        if self.column.kind != "level":
            fill = self.mean if self.count else None
            return replace(self.column, fill=fill, missing=indicator and self.gone > 0)
        rare = self.levels < RARE
        if len(rare) - rare.sum() + rare.any() > MOST_LEVELS:
            rare[np.argsort(self.levels, kind="stable")[: 1 - MOST_LEVELS]] = True
        own = tuple(bool(one) for one in ~rare)
        return replace(self.column, own=own, rare=bool(self.levels[rare].any()), missing=self.gone > 0)


@dataclass(frozen=True)
class Encoded:
    """The rows of a file as the features that its columns become: a Reader over a Reader."""

    reader: Reader
    encoding: Encoding

    @property
    def shape(self) -> tuple[int, int]:
        return self.reader.shape[0], len(self.encoding.names)

    @property
    def grain(self) -> int:
        return self.reader.grain

    def __call__(self, start: int, stop: int) -> Array:
        return self.encoding(self.reader(start, stop))


def numbers(cells: Sequence[str]) -> Array:
    """Numbers (N,): nan for a missing cell, infinity for what is no number."""
    values = _floats(cells)
    if values is None:
        there = [*cells]
        gone = [place for place, cell in enumerate(cells) if not cell[-1:].isdigit() and is_missing(cell)]
        for place in gone:
            there[place] = "0"
        values = _floats(there)
        if values is None:
            values = np.array([float(cell) if is_number(cell) else math.inf for cell in there])
        values[gone] = np.nan
    return values


def _floats(cells: Sequence[str]) -> Array | None:
    """Numbers (N,) if all are plain and finite ones; float() also takes 1_000, nan, any script."""
    if ",".join(cells).encode().translate(None, NUMBER_BYTES):
        return None
    with suppress(ValueError):
        return np.fromiter(map(float, cells), np.float64, len(cells))
    return None


def is_number(cell: str) -> bool:
    """Whether float() and we take a cell for a number, be it nan or infinite."""
    return (NUMBER.fullmatch(cell) or NOT_FINITE.fullmatch(cell)) is not None


def days(text: str) -> float | None:
    """Days since 1970-01-01 of a date as 2024-12-31, 2024/12/31, 31.12.2024, perhaps with a time; None for no date."""
    text = text.strip()
    if found := OTHER_DATE.match(text):
        text = f"{found[3]}-{found[2]:0>2}-{found[1]:0>2}{text[found.end() :]}"
    try:
        moment = datetime.fromisoformat(text.replace("/", "-"))
    except ValueError:
        return None
    if moment.tzinfo is not None:
        moment = moment.astimezone(UTC).replace(tzinfo=None)
    return (moment - START) / timedelta(days=1)


def level_of(text: str) -> str:
    """The name of a level: without the blanks around it, and 3.0, as a table with gaps writes integers, as 3."""
    text = text.strip()
    head, dot, tail = text.partition(".")
    return head if dot and tail.strip("0") == "" and head.lstrip("+-").isdecimal() else text


def is_missing(text: str) -> bool:
    """Whether a cell stands for a value that is not there."""
    return len(text) < 9 and text.strip().lower() in NO_VALUE


def _exactly(node: Any, keys: set[str], what: str) -> Mapping[str, Any]:
    if not isinstance(node, dict) or set(node) != keys:
        raise ValueError(f"{what} has not just the keys {', '.join(sorted(keys))}")
    return node


def _column(node: Any) -> Column:
    """ValueError for a node that is no fitted column."""
    content = _exactly(node, {"name", "kind", "levels", "rare", "fill", "missing"}, "a column")
    name, kind, levels, fill = content["name"], content["kind"], content["levels"], content["fill"]
    if not isinstance(name, str) or kind not in ("number", "date", "level"):
        raise ValueError(f"a column has the name {ascii(name)[:40]} and the kind {ascii(kind)[:40]}")
    if not isinstance(levels, list) or not all(isinstance(one, str) for one in levels) or not is_text([name, *levels]):
        raise ValueError(f"the levels of {ascii(name)[:40]} are no texts")
    if len(set(levels)) != len(levels) or type(content["rare"]) is not bool or type(content["missing"]) is not bool:
        raise ValueError(f"{ascii(name)[:40]} has a level twice, or says neither yes nor no")
    if fill is not None and (type(fill) is not float or not math.isfinite(fill)):
        raise ValueError(f"{ascii(name)[:40]} has the fill {ascii(fill)[:40]}, which is no finite number")
    if (kind == "level" and fill is not None) or (kind != "level" and (levels or content["rare"])):
        raise ValueError(f"{ascii(name)[:40]} has levels and a fill, of which a column has one")
    if kind != "level" and content["missing"] and fill is None:
        raise ValueError(f"{ascii(name)[:40]} has no fill for what is missing")
    return Column(name, kind, tuple(levels), (True,) * len(levels), content["rare"], fill, content["missing"])
