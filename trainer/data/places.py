"""Which files a path names: one, all of a folder, those of a pattern, or those of a list.

    flowers.csv              this file, whose name is taken letter by letter if it exists
    folder/                  all files below it, but those that are hidden or begin with _
    data/*.parquet           what the pattern finds, ** in folders of any depth; folders as above
    [a.parquet,b.parquet]    these, each of which may be one of the above, in this order

Else the order is that of the names, 10 after 9. Below what is named, a folder such as year=2024 is a column: year, with
2024 in all rows of its files. No link leads out of what is named.
"""

import glob
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from urllib.parse import unquote

from trainer.data import remote
from trainer.data.reading import IN_PLACE, TEXTS, kind_of, near, quoted, readable, stem_of
from trainer.errors import ConfigError, DataError, FileError, shown

Paths = str | Sequence[str]  # as settings give it

MOST = 100_000  # files that are read as one
TOGETHER = (*TEXTS, *IN_PLACE)  # kinds of which several files are read as one
NOTHING = "__HIVE_DEFAULT_PARTITION__"  # what Hive writes for a missing value


@dataclass(frozen=True)
class Place:
    """A file, and the columns that the folders above it stand for, with their values; None where one is missing."""

    path: str
    keys: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Places:
    """The files that are read as one, their kind, and what a message calls all of them."""

    name: str
    kind: str
    files: tuple[Place, ...]

    @property
    def paths(self) -> list[str]:
        return [place.path for place in self.files]


def find(named: Paths, key: str = "data.path") -> Places:
    """The files that are named by the setting of this key; that one file is there, its reader finds out."""
    given = [named] if isinstance(named, str) else list(named)
    if not given:
        raise ConfigError(f"{key}=[] names no file; name one at least.")
    for text in given:
        if not isinstance(text, str):
            raise ConfigError(f"{key} names {text!r}, which is no path; put quotes around a name of digits.")
    bases = [_parts(_base(text)) for text in given]
    depth = next((n for n, names in enumerate(zip(*bases, strict=False)) if len(set(names)) > 1), min(map(len, bases)))
    files = tuple(Place(path, _keys(_parts(path)[depth:-1])) for text in given for path in _below(text))
    name = name_of(named)
    if len(files) > 1:
        _check(files, name, key)
    return Places(name, kind_of(files[0].path), files)


def name_of(named: Paths) -> str:
    """What a message calls all the files that are named."""
    if isinstance(named, str):
        return shown(named)
    return f"[{', '.join(shown(str(text)) for text in named[:3])}{', ...' if len(named) > 3 else ''}]"


def title_of(named: Paths) -> str:
    """A name for what is made of these files: that of the first that is named, or of the folder of a pattern."""
    first = named if isinstance(named, str) else str(named[0])
    if is_pattern(first):
        first = _base(first)
    return stem_of(first) or stem_of(os.path.abspath(first)) or "data"


def all_columns(place: Place, names: Sequence[str]) -> list[str]:
    """The columns of a file, then those that its folders stand for."""
    if both := [name for name in place.keys if name in names]:
        raise DataError(
            f"{shown(place.path)} has a column {quoted(both[0])}, as its folder says too; rename one of them."
        )
    return [*names, *place.keys]


def same_columns(first: str, names: Sequence[str], other: str, theirs: Sequence[str]) -> list[int]:
    """Where another file has the columns of the first; none if in the same places. DataError if it has others."""
    if list(names) == list(theirs):
        return []
    for one, lacks, has in ((names, theirs, first), (theirs, names, other)):
        known = set(lacks)
        if lost := [name for name in one if name not in known]:
            raise DataError(
                f"{shown(first)} and {shown(other)} have other columns: {quoted(lost[0])} is only in {shown(has)}; "
                "give all files the same ones, in any order."
            )
    place = {name: column for column, name in enumerate(theirs)}
    return [place[name] for name in names]


def natural(path: str) -> tuple[list[int | str], str]:
    """A sort key by which 10 comes after 9: every second part is a number."""
    parts: list[int | str] = list(re.split(r"([0-9]{1,18})", path))
    parts[1::2] = map(int, parts[1::2])
    return parts, path


def is_pattern(text: str) -> bool:
    """Whether a path is one that several files may fit, and not the name of one."""
    if remote.is_remote(text):
        return glob.has_magic(text) and not remote.is_web(text)
    return glob.has_magic(text) and not os.path.lexists(text) and "\0" not in text


def _base(text: str) -> str:
    """What is named, of a pattern the folder that it begins in."""
    parts = text.split("/")
    magic = [place for place, part in enumerate(parts) if glob.has_magic(part)] if is_pattern(text) else []
    return "/".join([*parts[: magic[0]], ""]) or "." if magic else text


def _parts(path: str) -> list[str]:
    return [part for part in os.path.normpath(path).split("/") if part != "."]


def _keys(folders: Iterable[str]) -> dict[str, str | None]:
    """The columns that folders such as year=2024 stand for."""
    pairs = [folder.split("=", 1) for folder in folders if not folder.startswith("=") and "=" in folder]
    return {unquote(key): None if value == NOTHING else unquote(value) for key, value in pairs}


def _below(text: str) -> list[str]:
    """The files of one path that is named."""
    away, pattern, base = remote.is_remote(text), is_pattern(text), _parts(_base(text))
    if pattern:
        found = remote.matching(text) if away else _unfolded(glob.iglob(text, recursive=True))
    elif remote.is_folder(text) if away else os.path.isdir(text):
        found = remote.below(text) if away else _unfolded([text])
    else:
        return [text]
    if _counts(_parts(text)[len(base) :]):  # a pattern may ask for what is hidden
        found = [path for path in found if _counts(_parts(path)[len(base) :])]
    if not found:
        hint = near(text, TOGETHER) if pattern and not away and not glob.has_magic(os.path.dirname(text)) else ""
        what = f"the pattern finds no file{hint}" if pattern else "it is a folder without a file"
        raise FileError(f"{shown(text)} cannot be read: {what}; what is hidden or begins with _ does not count.")
    if len(found) > MOST:
        raise FileError(f"{shown(text)} cannot be read: it has more than {MOST:,} files; join some, or name fewer.")
    if not away:
        _refuse_links(found, os.path.realpath(_base(text)))
    return sorted(set(found), key=natural)


def _refuse_links(paths: Iterable[str], root: str) -> None:
    """FileError for a file that lies elsewhere than in the folder, and for a link to another folder."""
    for path in paths:
        if os.path.isdir(path) or os.path.commonpath([root, os.path.realpath(path)]) != root:
            way = "name in a list what it leads to"
            raise FileError(f"{shown(path)} cannot be read: it is a link to elsewhere; {way}.")


def _counts(parts: Iterable[str]) -> bool:
    """Whether a file below a folder is one of its data."""
    return not any(part.startswith((".", "_")) for part in parts)


def _unfolded(paths: Iterable[str]) -> list[str]:
    """The files, and those in the folders, of what was found."""
    files = chain.from_iterable(_inside(path) if os.path.isdir(path) else [path] for path in paths)
    return list(islice(files, MOST + 1))


def _inside(folder: str) -> Iterator[str]:
    """The files in a folder at any depth, and the links to other folders, which are not gone into."""
    with readable(folder):
        for top, folders, names in os.walk(folder, onerror=_fail):
            folders[:] = [name for name in folders if _counts([name])]
            links = [name for name in folders if os.path.islink(os.path.join(top, name))]
            yield from (os.path.join(top, name) for name in (*names, *links))


def _fail(error: OSError) -> None:
    raise error


def _check(files: Sequence[Place], name: str, key: str) -> None:
    """ConfigError unless all files are of one kind of which several are read, each once."""
    first = files[0].path
    kind = kind_of(first)
    for path in (place.path for place in files):
        if kind_of(path) != kind:
            raise ConfigError(
                f"{name} has files of several kinds, such as {shown(first)} and {shown(path)}; name those of one, as "
                f"in {key}='folder/*.parquet'. Only what is hidden or begins with _ is left out."
            )
    if kind not in TOGETHER:
        raise ConfigError(
            f"{name} names {len(files)} files, and several of the kind of {shown(first)} are not read as one; convert "
            f"them to {', '.join(TOGETHER[:-1])} or {TOGETHER[-1]}."
        )
    seen: dict[str, str] = {}
    for path in (place.path for place in files):
        real = path if remote.is_remote(path) else os.path.realpath(path)
        if real in seen:
            twice = "twice" if seen[real] == path else f"twice, as {shown(seen[real])} too"
            raise ConfigError(f"{name} names {shown(path)} {twice}; name each file once.")
        seen[real] = path
