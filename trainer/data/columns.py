"""What the settings say of the columns of a table: which are features and of what kind, which target, id or weight."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import NamedTuple

from trainer.data.encoding import MISSING, Column, Encoding
from trainer.data.reading import listed, quoted
from trainer.errors import ConfigError, DataError, require

DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|", "space": " "}


@dataclass(frozen=True)
class Columns:
    """What the settings say of the columns of a file; see trainer.data.sources.File."""

    features: Sequence[str] | None = None
    drop: Sequence[str] = ()
    id: str | None = None
    weight: str | None = None
    categorical: Sequence[str] | str = ()
    missing: str = "error"
    dates: Sequence[str] = ()
    delimiter: str | None = None

    def __post_init__(self) -> None:
        require(
            self.missing in MISSING,
            f"data.missing={self.missing} is not known. Choices: {', '.join(MISSING)}.",
        )
        if isinstance(self.categorical, str) and self.categorical != "auto":
            raise ConfigError(
                f"data.categorical={self.categorical} is neither a list nor auto. Write data.categorical="
                f"[{self.categorical}]."
            )
        mark = self.delimiter
        if mark is not None and mark not in DELIMITERS and (len(mark) != 1 or mark in '"\r\n\0'):
            raise ConfigError(f"data.delimiter={mark!r} is no single letter. Give one, or {', '.join(DELIMITERS)}.")

    @property
    def said(self) -> list[str]:
        """The settings that need columns with names, as far as they are not the defaults."""
        return [f"data.{f.name}" for f in fields(self) if f.name != "delimiter" and getattr(self, f.name) != f.default]

    def require_nothing_fitted(self) -> None:
        """ConfigError for what a model has learnt in its training, and brings with it."""
        for key in ("features", "categorical", "dates", "missing"):
            if getattr(self, key) != getattr(Columns(), key):
                raise ConfigError(f"data.{key} has no use here, as the model brings its columns with it; leave it out.")


class Chosen(NamedTuple):
    """Which columns of a file are the features, and which hold something else, by their places.

    encoding   what the features are, None where all are numbers and nothing is said; of a training it is not fitted
    """

    features: list[int]
    label: int | None
    id: int | None = None
    weight: int | None = None
    encoding: "Encoding | None" = None


def split_columns(path: str, target: str | None, asked: Columns, names: list[str]) -> Chosen:
    """Of a file to train on: all columns are features but the target and what the settings take out."""
    if target is None:
        raise ConfigError(f"data.target must name the column of labels in {path}; it has {listed(names)}.")
    categorical = [] if isinstance(asked.categorical, str) else list(asked.categorical)
    single = {"target": target, "id": asked.id, "weight": asked.weight}
    roles = {key: [name] for key, name in single.items() if name is not None}
    roles |= {"drop": list(asked.drop), "features": list(asked.features or [])}
    for key, wanted in (roles | {"categorical": categorical, "dates": list(asked.dates)}).items():
        for name in wanted:
            if name not in names:
                close = get_close_matches(name, names, 1)
                hint = f" Did you mean {quoted(close[0])}?" if close else ""
                raise ConfigError(f"data.{key}={quoted(name)} is not in {path}; it has {listed(names)}.{hint}")
    if asked.features is not None and not asked.features:
        raise ConfigError("data.features=[] names no column; name one at least, or leave it out.")
    role: dict[str, str] = {}
    for key, wanted in roles.items():
        for name in wanted:
            if role.setdefault(name, key) != key:
                raise ConfigError(f"data.{role[name]} and data.{key} both name {quoted(name)}; leave one out.")
    features = [
        place
        for place, name in enumerate(names)
        if role.get(name) == "features" or (asked.features is None and name not in role)
    ]
    for key, kind in (("categorical", categorical), ("dates", asked.dates)):
        if lost := [name for name in kind if names.index(name) not in features]:
            raise ConfigError(f"data.{key} names {quoted(lost[0])}, which is no feature; leave it out there.")
    if both := set(categorical) & set(asked.dates):
        raise ConfigError(f"data.categorical and data.dates both name {quoted(min(both))}; leave one out.")
    if not features:
        rest = f"no column but {listed(names)}" if len(names) == 1 else f"{listed(names)}, none of which is a feature"
        raise DataError(f"{path} has {rest}; at least one feature is needed.")
    encoding = None
    if asked.said:
        rest = "auto" if asked.categorical == "auto" else "number"
        kinds = dict.fromkeys(categorical, "level") | dict.fromkeys(asked.dates, "date")
        columns = tuple(Column(names[place], kinds.get(names[place], rest)) for place in features)
        beside = {target, asked.id, asked.weight, *(names[place] for place in features)}
        unused = tuple(name for name in names if name not in beside)
        encoding = Encoding(columns, asked.missing, asked.id, asked.weight, unused)
    return Chosen(features, names.index(target), _place(names, asked.id), _place(names, asked.weight), encoding)


def match_columns(
    path: str, features: Sequence[str], encoding: Encoding | None, target: str | None, asked: Columns, names: list[str]
) -> Chosen:
    """Of a file for a model: its columns by their names; beside them there may be those that its training had."""
    asked.require_nothing_fitted()
    own = encoding or Encoding(())
    wanted = features if encoding is None else encoding.raw
    place = {name: column for column, name in enumerate(names)}
    known = set(wanted)
    for key, given in (("id", asked.id), ("weight", asked.weight)):
        if given is not None and given not in place:
            raise ConfigError(f"data.{key}={quoted(given)} is not in {path}; it has {listed(names)}.")
    label = None if target is None or target in known else place.get(target)
    beside = {asked.id, asked.weight, *asked.drop, own.id, own.weight, *own.unused} - known
    others = [name for name in names if name not in known and place[name] != label and name not in beside]
    count = len(names) - (label is not None) - sum(name in beside for name in names)
    counts = f"the model has {len(wanted)} features, the file {count}"
    if missing := [name for name in wanted if name not in place]:
        raise DataError(f"{path}: {counts}; missing: {listed(missing)}.")
    if others:
        raise DataError(f"{path}: {counts}; remove {listed(others)}, or name what is no feature by data.drop=[...].")
    return Chosen(
        [place[name] for name in wanted],
        label,
        _place(names, asked.id or own.id),
        _place(names, asked.weight or own.weight),
        encoding,
    )


def _place(names: list[str], wanted: str | None) -> int | None:
    return names.index(wanted) if wanted in names else None
