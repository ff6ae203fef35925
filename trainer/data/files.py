"""A user's file, read strictly: what is doubtful is refused in a sentence that says where and what to do.

    .csv .tsv                  a line of column names, then numbers; the column named `target` holds the labels. With
                               `header` false the columns are called x0, x1, ..., and the last one holds the labels;
                               both may be packed, as .csv.gz
    .npz                       the arrays `x` (N,D) and `y`: (N,) labels or (N,K) target rows, perhaps `weight` (N,); or
                               a sparse matrix as scipy.sparse.save_npz writes it, with `target` as for .npy
    .npy                       the array `x`; `target` is the path of a second .npy file, which holds `y`
    .svm .svmlight .libsvm     lines of label column:value ..., which become a sparse matrix
    .parquet .arrow .feather   columns of numbers; the column named `target` holds the labels (needs pyarrow)

Several .csv, .npy or .parquet files are read as one whose rows follow each other; see trainer.data.places.

Nothing is ever unpickled, and no array is allocated before its size has been compared with the file's. Features of a
.npy, .parquet, .arrow or .feather file that would fill the memory stay in the file, and are read in blocks.

Where columns have names, trainer.data.columns says what else than numbers they may hold, and which are no features.
"""

import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from trainer.data import reading
from trainer.data.array_files import read_npy, read_npz
from trainer.data.columns import Chosen, Columns, match_columns, split_columns
from trainer.data.doubts import setting
from trainer.data.encoding import Encoding
from trainer.data.features import Features, ids
from trainer.data.places import Paths, Places, find
from trainer.data.reading import IN_PLACE, TEXTS, Content, check, listed, opened, quoted
from trainer.data.rows import Data, Numbered
from trainer.data.sparse_files import read_svmlight
from trainer.data.table_files import TableFile
from trainer.data.text_files import TextFile, header_of
from trainer.errors import ConfigError, DataError, FileError

NAMED = (*TEXTS, ".parquet", ".arrow", ".feather")  # `target` is the name of a column


class _Wanted(NamedTuple):
    """What is to be read, and how; for a model its D features, and the encoding that makes them, if it has one."""

    places: Places
    target: Paths | None
    in_memory: bool | None
    header: bool | None
    asked: Columns
    encoding: Encoding | None = None
    features: Sequence[str] | None = None


class Rows(NamedTuple):
    """Rows for a model: x (N,D), N >= 0, and the name and texts of their ids."""

    x: Any
    ids: tuple[str, list[str]] | None


def read(
    path: Paths,
    target: Paths | None,
    in_memory: bool | None = None,
    header: bool | None = None,
    asked: Columns | None = None,
) -> Data:
    """Features x (N,D) and targets y, (N,) or (N,K), of a file, or of several as one; N, D >= 1 and K >= 2.

    in_memory says whether the features are to be in memory; None means those that take up to 512 MiB as float64.
    header says whether a .csv begins with the names of its columns; None means that it does, and none is a number.
    Where `asked` says what its columns are, x (N,R) holds their codes, and is for the encoding to make features of.
    """
    places, asked = find(path), asked or Columns()
    name, content = places.name, _content(_Wanted(places, target, in_memory, header, asked))
    x, encoding = content.x, content.encoding
    if x.shape[0] == 0:
        raise DataError(f"{name} has no rows of data; at least one is needed.")
    y, classes = content.targets()
    if len(classes) < 2:
        raise DataError(f"{name}: all labels are {quoted(str(classes[0]))}; at least 2 classes are needed.")
    if isinstance(x, Features) and y.ndim == 1:
        y = y.astype(np.min_scalar_type(len(classes) - 1))  # labels stay in memory, so they are to be small
    names = content.names or Numbered(x.shape[1])
    if places.kind in NAMED:
        _warn_of_ids(name, names, x, encoding, asked)
    return Data(x, y, classes, names, content.target, content.weights(), encoding=encoding)


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
    path: Paths,
    features: Sequence[str],
    target: Paths | None,
    in_memory: bool | None = None,
    header: bool | None = None,
    asked: Columns | None = None,
    encoding: Encoding | None = None,
) -> Rows:
    """Rows for a model trained on these D features, which are those of the encoding, if it has one.

    Where columns have names they are found by them, in any order; an array, and a .csv without a header, only has to
    have D columns.
    """
    asked = asked or Columns()
    content = _known(_Wanted(find(path), target, in_memory, header, asked, encoding, features))
    own = asked.id or (None if encoding is None else encoding.id)
    return Rows(content.x, None if content.ids is None else (str(own), content.ids))


def read_known(
    path: Paths,
    features: Sequence[str],
    classes: tuple[int | str, ...],
    target: Paths | None,
    in_memory: bool | None = None,
    header: bool | None = None,
    asked: Columns | None = None,
    encoding: Encoding | None = None,
) -> Data:
    """Features x (N,D) and targets of a file, N >= 1, for a model of these D features and K classes."""
    wanted = _Wanted(find(path), target, in_memory, header, asked or Columns(), encoding, features)
    name, content = wanted.places.name, _known(wanted)
    if content.x.shape[0] == 0:
        raise DataError(f"{name} has no rows of data; at least one is needed.")
    y, found = content.targets()
    if y.shape[0] != content.x.shape[0]:
        raise ConfigError(f"{name} has no labels to compare with; name them by data.target=...")
    if y.ndim == 2 and len(found) != len(classes):
        raise DataError(f"{name} has target rows of {len(found)} classes, and the model has {len(classes)} classes.")
    place = {str(one): k for k, one in enumerate(classes)}
    if y.ndim == 1 and (strange := [str(one) for one in found if str(one) not in place]):
        raise DataError(f"{name}: the model knows no class {listed(strange)}; it has {listed(list(place))}.")
    if y.ndim == 1:
        y = np.array([place[str(one)] for one in found], np.intp)[y]
    return Data(content.x, y, classes, features, content.target, content.weights(), encoding=encoding)


def _known(wanted: _Wanted) -> Content:
    """What files hold for a model, with x (N,D) made of the columns of its names, or of as many."""
    content, count = _content(wanted), len(wanted.features or ())
    if content.encoding is not None:
        return content._replace(x=content.encoding.features(content.x))
    if content.names is None and content.x.shape[1] != count:
        counts = f"{content.x.shape[1]} columns, but the model was trained on {count}"
        raise DataError(f"{wanted.places.name} has {counts}; give it the same ones in the same order.")
    return content


def _content(wanted: _Wanted) -> Content:
    """What the files hold: x (N,R), of their columns where these have names."""
    places, target, in_memory, header, asked, encoding, features = wanted
    label_needed, name, kind, path = features is None, places.name, places.kind, places.paths[0]
    size = sum(map(check, places.paths))
    if size > reading.MAX_BYTES and kind not in IN_PLACE:
        raise FileError(
            f"{name} cannot be read: its files have {size:,} bytes, and at most {reading.MAX_BYTES:,} are read."
        )
    if in_memory is False and kind not in IN_PLACE:
        raise ConfigError(
            f"data.in_memory=false cannot leave {name} on the disk; convert it to .npy or .parquet, or leave "
            "the setting out."
        )
    if kind in NAMED and not (target is None or isinstance(target, str)):
        raise ConfigError(f"data.target must name one column of {name}, and is a list of {len(target)}.")
    if kind in TEXTS:
        raw = features if encoding is None else encoding.raw
        return TextFile(places, partial(header_of, header, raw), asked, not label_needed).read(partial(_chosen, wanted))
    for key, value in (("header", header), ("delimiter", asked.delimiter)):
        if value is not None:
            raise ConfigError(f"data.{key} has no use, as {name} is no .csv; leave it out.")
    if kind in NAMED:
        return TableFile(places).read(partial(_chosen, wanted), in_memory, asked, not label_needed)
    if keys := [key for place in places.files for key in place.keys]:
        raise ConfigError(
            f"{name} has a folder that stands for the column {quoted(keys[0])}, and columns of a {kind} have no names; "
            "rename it, or convert the files to .parquet."
        )
    if asked.said:
        raise ConfigError(
            f"{', '.join(asked.said)} cannot be used, as the columns of {name} have no names; write a .csv or "
            ".parquet, or change the arrays."
        )
    if encoding is not None and not encoding.plain:
        raise DataError(
            f"{name} has no names of columns, and the model makes features of columns by their names; write a "
            ".csv or .parquet."
        )
    if kind == ".npy":
        return read_npy(places, target, label_needed, in_memory)
    with opened(path) as (file, _):
        if kind == ".npz":
            return read_npz(file, path, target, label_needed)
        if target is not None:
            raise ConfigError(f"data.target has no use, as {name} begins each line with its label; leave it out.")
        return read_svmlight(file, path, None if features is None else len(features))


def _chosen(wanted: _Wanted, names: list[str]) -> Chosen:
    """The columns that are wanted; without a header the labels are the last of a file, if nothing else is said."""
    places, _, _, header, asked, encoding, features = wanted
    target = wanted.target if isinstance(wanted.target, str) else None
    if features is not None:
        return match_columns(places.name, features, encoding, target, asked, names)
    last = names[-1 - len(places.files[0].keys)] if header is False else None
    return split_columns(places.name, last if target is None else target, asked, names)
