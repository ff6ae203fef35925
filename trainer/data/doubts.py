"""What is doubtful in the columns of a table: found by a look at all of it, and said at once, with what helps.

A look is taken only once a reading has failed, or where ``data.categorical=auto`` asks what the columns are.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from trainer.arrays import Array
from trainer.data.columns import Columns
from trainer.data.encoding import SMALL, Encoding, days, is_missing, numbers
from trainer.data.features import IDS, ROWS_OF_IDS
from trainer.data.reading import NOT_FINITE, NUMBER, quoted
from trainer.errors import DataError, shown

COUNTED = 10_000  # different texts that are told apart
SLIPS = 0.1  # share of the cells up to which texts among numbers are slips
WITH_COMMA = re.compile(r"[ \t]*[+-]?[0-9.]*,[0-9][0-9,.]*([eE][+-]?[0-9]+)?[ \t]*")
DATE = re.compile(r"\s*([0-9]{4}[-/][0-9]{1,2}[-/][0-9]{1,2}|[0-9]{1,2}[./][0-9]{1,2}[./][0-9]{4})(?![0-9]).*")
SAFE = re.compile(r"[\w.@%-]+")


@dataclass
class Seen:
    """What a look at a column has found; places are lines of a text file, else rows."""

    name: str
    rows: int = 0
    missing: int = 0
    texts: int = 0  # cells that are neither numbers nor missing
    dates: int = 0  # of these, by their looks
    commas: int = 0
    whole: bool = True  # all numbers are integers
    first: tuple[int, str] | None = None  # the first text, and where it is
    gap: tuple[int, str] | None = None  # the first missing value
    words: set[str] = field(default_factory=set)
    numbers: set[float] = field(default_factory=set)  # SMALL of them and one, which is enough to know

    def add(self, cells: Sequence[str] | Array, places: Sequence[int]) -> None:
        """A block of cells, at these lines or rows: texts, or numbers with nan for what is missing."""
        if isinstance(cells, np.ndarray):
            return self._add_numbers(cells, places)
        values = numbers(cells)
        if np.isfinite(values).all():  # quicker, and mostly so
            return self._add_numbers(values, places)
        self.rows += len(cells)
        if len(self.words) < COUNTED:
            self.words.update(cell for cell in cells if not is_missing(cell))
        for cell, place in zip(cells, places, strict=True):
            if NUMBER.fullmatch(cell):
                self._add_values([float(cell)])
            elif is_missing(cell):
                self.missing += 1
                self.gap = self.gap or (place, cell)
            elif not NOT_FINITE.fullmatch(cell):
                self.texts += 1
                self.first = self.first or (place, cell)
                self.dates += DATE.fullmatch(cell) is not None
                self.commas += WITH_COMMA.fullmatch(cell) is not None
        return None

    def _add_numbers(self, values: Array, places: Sequence[int]) -> None:
        gone = np.isnan(values)
        self.rows += len(values)
        self.missing += int(gone.sum())
        if gone.any():
            self.gap = self.gap or (places[int(gone.argmax())], "")
        if self.whole and len(self.numbers) <= SMALL:
            there = values[~gone]
            self.whole = bool((there == np.rint(there)).all())
            self._add_values(np.unique(there)[: SMALL + 1].tolist())

    def _add_values(self, values: Sequence[float]) -> None:
        if self.whole and len(self.numbers) <= SMALL:
            self.numbers.update(values)
            self.whole = all(value.is_integer() for value in values)

    @property
    def kind(self) -> str:
        """What ``auto`` makes of it: texts and a few integers are levels; of two numbers nothing better comes."""
        few = self.whole and 2 < len(self.numbers) <= SMALL
        return "level" if self.texts or few else "number"

    @property
    def id(self) -> bool:
        """Whether its texts differ in nearly all rows."""
        return self.rows >= ROWS_OF_IDS and len(self.words) >= IDS * min(self.rows, COUNTED)


class Doubt(NamedTuple):
    """What a column is instead of numbers, the settings that help, by their keys, and what else does."""

    seen: Seen
    what: str
    settings: Mapping[str, str]
    why: str  # of the first such cell
    at: tuple[int, str]


def doubt(seen: Seen, kind: str, missing: str) -> Doubt | None:
    """What is to be said of a column that is to be of this kind; missing is the setting data.missing."""
    what, settings, why, at = _of_texts(seen, kind) if seen.texts else ("", {}, "", None)
    if seen.missing and (missing == "error" or seen.missing == seen.rows):
        count = f"empty in {seen.missing:,} of {seen.rows:,} rows"
        throughout = seen.missing == seen.rows
        settings = settings | ({"drop": seen.name} if throughout else {"missing": "mean"})
        what = f"{what}, {count}" if what else count
        if not why:
            way = "remove the column, by" if throughout else "fill it in, remove the row, or set"
            empty = "is empty" if not (seen.gap and seen.gap[1].strip()) else "is a missing value"
            why, at = f"{empty}; {way} {_settings(settings)}", seen.gap
    return Doubt(seen, what, settings, why, at) if at else None


def _of_texts(seen: Seen, kind: str) -> tuple[str, dict[str, str], str, tuple[int, str] | None]:
    """The same of a column with texts."""
    name, first = seen.name, seen.first
    cell = first[1] if first else ""
    number = "is not a number such as 12, -0.5 or 1e-3"
    words = f"text, {len(seen.words):,}{'' if len(seen.words) < COUNTED else ' and more'} different values"
    if kind in ("level", "date"):
        return "", {}, "", None
    if seen.dates == seen.texts:
        if days(cell) is None:
            why = "may be a date; write it as 2024-12-31"
            return f"dates such as {quoted(cell)}", {}, f"{why}, and set {setting('dates', [name])}", first
        why = f"is a date; {setting('dates', [name])} makes it a number of days"
        return f"dates such as {quoted(cell)}", {"dates": name}, why, first
    if seen.commas == seen.texts:
        why = "has a comma; write a decimal point and no thousands separator"
        return f"numbers with a comma such as {quoted(cell)}", {}, why, first
    if seen.id:
        way = f"remove the column by {setting('drop', [name])}, or have it beside predictions by {setting('id', name)}"
        why = f"is no number, and differs from row to row, as an id does; {way}"
        return words, {"drop": name, "id": name}, why, first
    if len(seen.words) == 1:
        why = f"{number}, and is the same in all rows; remove the column by {setting('drop', [name])}"
        return f"the text {quoted(cell)} throughout", {"drop": name}, why, first
    if seen.texts < SLIPS * seen.rows:
        why = f"{number}; correct it, or remove the column by {setting('drop', [name])}"
        return f"numbers, but {seen.texts:,} texts such as {quoted(cell)}", {"drop": name}, why, first
    if kind == "auto":
        return "", {}, "", None
    way = f"encode words as numbers by {setting('categorical', [name])}"
    return words, {"categorical": name}, f"{number}; {way}", first


def look(
    path: str,
    names: Sequence[str],
    blocks: Iterable[tuple[Sequence[int], Sequence[Any]]],
    encoding: Encoding | None,
    asked: Columns,
    sentence: Callable[[Doubt], str],
) -> list[Seen]:
    """What columns hold of which each block has the places and the cells, texts or numbers.

    DataError that names all doubtful ones and what helps each, or by a sentence the only one.
    """
    seen = [Seen(name) for name in names]
    for places, columns in blocks:
        for one, cells in zip(seen, columns, strict=True):
            one.add(cells, places)
    kinds = ["number"] * len(seen) if encoding is None else [column.kind for column in encoding.columns]
    found = (doubt(one, kind, asked.missing) for one, kind in zip(seen, kinds, strict=True))
    doubts = [one for one in found if one is not None]
    if not doubts:
        return seen
    if len(doubts) == 1:
        raise DataError(f"{sentence(doubts[0])}.")
    rows = [(_plain(one.seen.name), one.what, _settings(one.settings) or one.why) for one in doubts]
    widths = [max(len(row[place]) for row in rows) for place in (0, 1)]
    lines = [f"  {name:<{widths[0]}}  {what:<{widths[1]}}  {way}" for name, what, way in rows]
    head = f"{path}: {len(doubts)} columns are not numbers throughout. What each holds, and the setting that helps:"
    together = _together(doubts, asked)
    raise DataError("\n".join([head, *lines, *([f"All together: {together}"] if together else [])]))


def _together(doubts: Sequence[Doubt], asked: Columns) -> str:
    """The settings for all columns at once, beside those that were given."""
    categorical = [] if isinstance(asked.categorical, str) else asked.categorical
    given = {"drop": asked.drop, "categorical": categorical, "dates": asked.dates}
    said = []
    for key, before in given.items():
        if more := [one.settings[key] for one in doubts if key in one.settings]:
            said.append(setting(key, [*before, *more]))
    if any("missing" in one.settings and "drop" not in one.settings for one in doubts):
        said.append("data.missing=mean")
    return " ".join(said)


def _settings(settings: Mapping[str, str]) -> str:
    """Settings of one column as they are written: one that removes it stands for all the others."""
    if "drop" in settings:
        settings = {key: value for key, value in settings.items() if key in ("drop", "id")}
    said = [setting(key, value if key in ("missing", "id") else [value]) for key, value in settings.items()]
    return (" or " if "drop" in settings else " ").join(said)


def setting(key: str, value: str | Sequence[str]) -> str:
    """A setting as it is written on a command line."""
    names = [value] if isinstance(value, str) else value
    safe = all(map(SAFE.fullmatch, names))
    text = ",".join(name if SAFE.fullmatch(name) else _quoted(shown(name)) for name in names)
    text = f"data.{key}={text if isinstance(value, str) else f'[{text}]'}"
    return text if safe else f'"{text}"'


def _quoted(name: str) -> str:
    escaped = name.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _plain(name: str) -> str:
    return shown(name) if len(name) <= 40 else quoted(name)
