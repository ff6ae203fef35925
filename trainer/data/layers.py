"""Features of the same N rows from several layers of a network, and the labels of the rows.

    .npy                         x (N,D), or a stack (L,N,D) of L layers
    .parquet .arrow .feather     columns of numbers, all of them features
    a folder of such files       x (N,D), the rows of all of them

All layers are found first, with their shapes, and each is read when its turn comes, so that the memory holds one, or
none where it stays in its files. Of a stack only the layer's own bytes are read: explicit readings do what a memory map
would, and a file that becomes shorter meanwhile is a sentence, where a map would end the process.
"""

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from trainer.arrays import Array
from trainer.data import remote
from trainer.data.array_files import NPY, NpyFile, array, header, npy_rows
from trainer.data.columns import Columns
from trainer.data.features import Features
from trainer.data.places import Place, Places, find, is_pattern, natural
from trainer.data.reading import (
    IN_PLACE,
    TEXTS,
    Classes,
    File,
    array_labels,
    check,
    check_finite,
    check_groups,
    check_table,
    damage,
    opened,
    quoted,
    text_labels,
)
from trainer.data.table_files import TableFile
from trainer.data.text_files import TextFile
from trainer.errors import ConfigError, DataError, counted, shown

LABELS = (".npy", *TEXTS, ".txt")


@dataclass(frozen=True)
class Layer:
    """The features of one layer, still in their files; its name tells it from the others."""

    name: str
    path: str
    file: File

    def dtype(self, asked: str | None) -> "np.dtype[Any]":
        """What is asked for; or float32 for what has no more digits, and float64 for all else."""
        short = self.file.dtype.kind == "f" and self.file.dtype.itemsize <= 4
        return np.dtype(asked or (np.float32 if short else np.float64))

    def read(self, dtype: Any) -> Array:
        """x (N,D) as dtype; DataError for a number that is not finite."""
        x = self.file.whole(dtype)
        check_finite(x, self.file.place)
        return x

    def left(self, dtype: Any) -> Features:
        """The same in their files, after a pass in search of such numbers."""
        check_groups(self.file, shown(self.path))
        check_finite(Features(self.file), self.file.place)
        return Features(self.file, dtype=dtype)


def find_layers(given: Sequence[str]) -> list[Layer]:
    """The layers of these files, folders and patterns, in their order; what a pattern finds is sorted, 10 after 9.

    DataError unless all of them have the same number of rows.
    """
    paths = [path for pattern in given for path in _matching(pattern)]
    if twice := [path for place, path in enumerate(paths) if path in paths[:place]]:
        raise ConfigError(f"features= names {shown(twice[0])} twice; name each file once.")
    layers = [
        Layer(name if place is None else f"{name}/{place}", path, file)
        for name, path in zip(_names(paths), paths, strict=True)
        for place, file in _files(path)
    ]
    first, rows = layers[0], layers[0].file.shape[0]
    for layer in layers:
        if layer.file.shape[0] != rows:
            raise DataError(
                f"{shown(layer.path)} has {counted(layer.file.shape[0], 'row')}, and {shown(first.path)} has {rows}; "
                "all layers must be of the same rows in the same order."
            )
    if rows == 0:
        raise DataError(f"{shown(first.path)} has no rows; at least one is needed.")
    return layers


def _matching(pattern: str) -> list[str]:
    """The file or folder of this name, or those that a pattern finds."""
    if not is_pattern(pattern):
        return [pattern]
    away = remote.is_remote(pattern)
    found = sorted(remote.matching(pattern) if away else glob.glob(pattern, recursive=True), key=natural)
    if not found:
        raise ConfigError(f"features={shown(pattern)} finds no file. Name files, or a pattern such as layers/*.npy.")
    return found


def _names(paths: Sequence[str]) -> list[str]:
    """Names of layers: without the kind of a file, and without the folders that all of them are in."""
    full = [Path(os.path.abspath(path.replace("\0", ""))) for path in paths]
    stems = [path.with_suffix("") if path.suffix.lower() in IN_PLACE else path for path in full]
    names = [stem.name for stem in stems]
    if len(set(names)) < len(names):
        top = os.path.commonpath([stem.parent for stem in stems])
        names = [stem.relative_to(top).as_posix() for stem in stems]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"Two files of features= are called {shown(twice[0])}; rename one of them.")
    return names


def _files(path: str) -> list[tuple[int | None, File]]:
    """The layers that a file holds, with their places in a stack, or the one of a folder."""
    places = find(path, "features")
    if places.paths == [path]:
        with opened(path, IN_PLACE) as (file, kind):
            if kind == ".npy":
                return _arrays(file, path)
    for one in places.paths:
        check(one, IN_PLACE)
    if places.kind == ".npy":
        return [(None, npy_rows(places))]
    table = TableFile(places)
    table.take_all()
    check_table(table.shape, places.name)
    return [(None, table)]


def _arrays(file: IO[bytes], path: str) -> list[tuple[int | None, File]]:
    name = shown(path)
    with damage(name, *NPY):
        shape, by_columns, dtype = header(file, None, name, "biuf")
    if len(shape) != 3:
        check_table(shape, name)
        return [(None, NpyFile(path, (shape[0], shape[1]), by_columns, dtype, file.tell()))]
    if by_columns or 0 in shape:
        why = "is stored by columns, which scatters each layer over the file" if by_columns else "is empty"
        raise DataError(
            f"{name} has the shape {shape} and {why}; write it with numpy.save of numpy.ascontiguousarray(x), x "
            "(layers, N, D)."
        )
    count, rows, columns = shape
    size = rows * columns * dtype.itemsize
    return [(place, NpyFile(path, (rows, columns), False, dtype, file.tell() + place * size)) for place in range(count)]


def read_labels(path: str, rows: int) -> tuple[NDArray[np.intp], Classes]:
    """The places (N,) of the labels in the sorted classes, integers or texts, and the classes, two or more.

    A .txt has a label a line; a .csv may name its column in a line above them.
    """
    name = shown(path)
    with opened(path, LABELS) as (file, kind):
        y, classes = _of_array(file, name, rows) if kind == ".npy" else _of_text(path, name, kind, rows)
    if len(classes) < 2:
        raise DataError(f"{name}: all labels are {quoted(str(classes[0]))}; at least 2 classes are needed.")
    return y, classes


def _of_array(file: IO[bytes], name: str, rows: int) -> tuple[NDArray[np.intp], Classes]:
    y = array(file, None, name, "biufU")
    if y.shape not in ((rows,), (rows, 1)):
        raise DataError(f"{name} has the shape {y.shape}, and features= has {counted(rows, 'row')}; give each a label.")
    return array_labels(y.reshape(-1), name)


def _of_text(path: str, name: str, kind: str, rows: int) -> tuple[NDArray[np.intp], Classes]:
    places = Places(name, kind, (Place(path),))
    table = TextFile(places, lambda mark, fields, path: (fields, False), Columns(), False)
    found = [(line, cells) for line, cells in table.rows() if cells]
    if found and len(found[0][1]) != 1:
        raise DataError(f"{name} has {len(found[0][1])} columns; leave the labels alone in the file, one a line.")
    texts = [cells[0] for _, cells in found]
    # A line too many is the column's name, unless it is a label: then the rows would be shifted by one.
    named = kind != ".txt" and len(texts) == rows + 1 and texts[0] not in texts[1:]
    texts = texts[named:]
    if len(texts) != rows:
        raise DataError(
            f"{name} has {counted(len(texts), 'label')}, and features= has {counted(rows, 'row')}; give each row its "
            "label, in the same order."
        )
    return text_labels(texts, lambda row: f"{name}:{found[row + named][0]}")
