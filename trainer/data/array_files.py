"""Arrays in numpy's formats: .npz with x and y or a sparse matrix, one or more .npy read whole or block by block."""

import math
import os
import zipfile
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import IO, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from trainer.arrays import Array
from trainer.data import reading, remote
from trainer.data.features import cut
from trainer.data.places import Paths, Place, Places, find, name_of
from trainer.data.reading import (
    WEIGHTS,
    Content,
    check_table,
    checked_weights,
    damage,
    finite64,
    listed,
    no_labels,
    opened,
    quoted,
    taken,
)
from trainer.data.sparse_files import PARTS, csr
from trainer.errors import ConfigError, DataError, FileError, counted, shown

Header = tuple[tuple[int, ...], bool, "np.dtype[Any]"]  # shape, whether it is stored by columns, dtype

NPZ = " or no .npz file", "write it with numpy.savez"
NPY = ", pickled or no .npy array", "write it with numpy.save"


@dataclass(frozen=True)
class NpyFile:
    """The rows of a .npy file, which begin at offset; each reading opens it anew, so that threads share nothing.

    Explicit readings and no memory map: mapped pages would count as memory of this process.
    """

    path: str
    shape: tuple[int, int]
    by_columns: bool
    dtype: Any
    offset: int
    name: str = ""  # in messages, if not the path
    grain: ClassVar[int] = 1

    @property
    def shapes(self) -> list[tuple[int, int]]:
        return [self.shape]

    def __call__(self, start: int, stop: int, dtype: Any = np.float64) -> Array:
        rows, columns = self.shape
        if self.by_columns and stop - start < rows:
            x = np.empty((stop - start, columns), dtype)
            for column in range(columns):
                x[:, column] = self._numbers(column * rows + start, stop - start)
            return x
        raw = self._numbers(start * columns, (stop - start) * columns)
        with np.errstate(over="ignore"):  # what is too large for float64 becomes inf, and is refused as such
            return np.ascontiguousarray(
                raw.reshape(columns, rows).T if self.by_columns else raw.reshape(-1, columns), dtype
            )

    def whole(self, dtype: Any = np.float64) -> Array:
        return self(0, self.shape[0], dtype)

    def place(self, row: int, column: int) -> str:
        return f"{self.name or shown(self.path)}[{row}, {column}]"

    def _numbers(self, first: int, count: int) -> NDArray[Any]:
        item, raw = self.dtype.itemsize, np.empty(count, self.dtype)
        try:
            with remote.opened(self.path, self.offset + math.prod(self.shape) * item, ahead=1) as file:
                file.seek(self.offset + first * item)
                read = file.readinto(raw.view(np.uint8).data)
        except FileError:
            raise
        except OSError as error:
            raise FileError(f"{shown(self.path)} cannot be read any more: {error.strerror or error}.") from error
        if read != raw.nbytes:
            raise DataError(
                f"{shown(self.path)} has become shorter while it was read; train again with the whole file."
            )
        return raw


@dataclass(frozen=True)
class Joined:
    """The rows of several files, one after the other; only those are opened that the rows are in."""

    files: Sequence[NpyFile]
    edges: Sequence[int]  # file i has the rows from edge i to edge i + 1
    grain: ClassVar[int] = 1

    @property
    def shape(self) -> tuple[int, int]:
        return self.edges[-1], self.files[0].shape[1]

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """Of each file."""
        return [file.shape for file in self.files]

    @property
    def dtype(self) -> Any:
        return np.result_type(*(file.dtype for file in self.files))

    def __call__(self, start: int, stop: int, dtype: Any = np.float64) -> Array:
        x = np.empty((stop - start, self.shape[1]), dtype)
        for place, begin, end in cut(self.edges, start, stop):
            edge = self.edges[place]
            x[begin - start : end - start] = self.files[place](begin - edge, end - edge, dtype)
        return x

    def place(self, row: int, column: int) -> str:
        place = bisect_right(self.edges, row) - 1
        return self.files[place].place(row - self.edges[place], column)

    def whole(self, dtype: Any = np.float64) -> Array:
        return self(0, self.edges[-1], dtype)


def read_npy(places: Places, target: Paths | None, label_needed: bool, in_memory: bool | None) -> Content:
    """x of the .npy files, the labels of as many others that target names."""
    name = places.name
    if target is None and label_needed:
        kinds = "the path of a .npy file" if len(places.files) == 1 else f"the paths of {len(places.files)} .npy files"
        raise ConfigError(f"data.target must be {kinds} with the labels of {name}.")
    reader = npy_rows(places)
    with damage(name, *NPY):  # (0, 10**30) is a shape that no array has
        x = taken(reader, in_memory, name)
    return _with_labels(x, target, places, reader.shapes)


def npy_rows(places: Places) -> Joined | NpyFile:
    """The rows of one or several .npy files."""
    files = [_npy_file(path) for path in places.paths]
    for file in files:
        if file.shape[1] != files[0].shape[1]:
            both = f"{files[0].name} has the shape {files[0].shape}, and {file.name} has {file.shape}"
            raise DataError(f"{both}; give all files as many columns.")
    return files[0] if len(files) == 1 else Joined(files, [0, *accumulate(file.shape[0] for file in files)])


def _npy_file(path: str) -> NpyFile:
    name = shown(path)
    with opened(path) as (file, _):
        with damage(name, *NPY):
            shape, by_columns, dtype = header(file, None, name, "biuf")
        check_table(shape, name)
        return NpyFile(remote.lasting(path), (shape[0], shape[1]), by_columns, dtype, file.tell(), name)


def _with_labels(x: Any, target: Paths | None, places: Places, shapes: Sequence[tuple[int, int]]) -> Content:
    """With the labels of the features (N,D) in one or several files, in as many others."""
    if target is None:
        return Content(x, None)
    found = find(target, "data.target").paths
    if len(found) != len(shapes):
        counts = f"{counted(len(found), 'file')} of labels, and {places.name} has {counted(len(shapes), 'file')}"
        raise ConfigError(f"data.target={name_of(target)} has {counts}; give each its own, in the same order.")
    parts = [_labels(*one) for one in zip(found, places.paths, shapes, strict=True)]
    for path, y in zip(found, parts, strict=True):
        if (y.dtype.kind, y.shape[1:]) != (parts[0].dtype.kind, parts[0].shape[1:]):
            both = f"{shown(found[0])} has {parts[0].dtype} of shape {parts[0].shape}, and {shown(path)} has {y.dtype}"
            raise DataError(f"{both} of shape {y.shape}; give all files labels of one kind.")
    y = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return Content(x, None, partial(reading.targets, y, name_of(target)))


def read_npz(file: IO[bytes], path: str, target: Paths | None, label_needed: bool) -> Content:
    """Dense x with its y, or a sparse x as scipy writes it, with labels in the .npy file that target names."""
    name = shown(path)
    with damage(name, *NPZ), zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        keys = sorted(member.filename.removesuffix(".npy") for member in members)
        sparse = "format" in keys or "indptr" in keys
        _check_members(members, keys, sparse, label_needed, name)
        arrays = {}
        for info in members:
            key = info.filename.removesuffix(".npy")
            kinds = PARTS[key] if sparse else "biuf" if key == "x" else "biufU"
            with archive.open(info) as stream:
                arrays[key] = array(stream, info.file_size, f"{name}: {key}", kinds)
    if sparse:
        if target is None and label_needed:
            raise ConfigError(f"data.target must be the path of a .npy file with the labels of {name}.")
        x = csr(arrays, name)
        return _with_labels(x, target, Places(name, ".npz", (Place(path),)), [x.shape])
    if target is not None:
        raise ConfigError(f"data.target has no use, as {name} holds the labels in y; leave it out.")
    check_table(arrays["x"].shape, f"{name}: x")
    x, y = finite64(arrays["x"], f"{name}: x"), arrays.get("y")
    _check_lengths(x.shape, y, name)
    weight = arrays.get("weight")
    if weight is not None:
        if weight.shape != x.shape[:1] or weight.dtype.kind == "U":
            raise DataError(f"{name}: weight is {weight.dtype} of shape {weight.shape}; {WEIGHTS}.")
        weight = checked_weights(weight.astype(np.float64), lambda row: f"{name}: weight[{row}]")
    targets = no_labels if y is None else partial(reading.targets, y, f"{name}: y")
    return Content(x, None, targets, weights=lambda: weight)


def _labels(target: str, path: str, shape: tuple[int, int]) -> NDArray[Any]:
    """The labels of the features (N,D) in another file, a .npy."""
    with opened(target) as (file, kind):
        if kind != ".npy":
            raise ConfigError(f"data.target={shown(target)} must be a .npy file with the labels of {shown(path)}.")
        y = array(file, None, shown(target), "biufU")
    _check_lengths(shape, y, shown(path))
    return y


def _check_lengths(shape: tuple[int, ...], y: NDArray[Any] | None, path: str) -> None:
    if y is not None and y.shape[:1] != shape[:1]:
        raise DataError(f"{path}: x has the shape {shape}, but y has {y.shape}; give each row its label.")


def _check_members(
    members: list[zipfile.ZipInfo], keys: list[str], sparse: bool, label_needed: bool, name: str
) -> None:
    """The keys are those of one of the two forms, each once, and what they unpack to is small enough."""
    total = sum(member.file_size for member in members)
    if total > reading.MAX_BYTES:
        raise DataError(f"{name} unpacks to {total:,} bytes; at most {reading.MAX_BYTES:,} are read.")
    if sparse:
        if [key for key in keys if key != "_is_array"] != sorted(set(PARTS) - {"_is_array"}):
            raise DataError(f"{name} must hold what scipy.sparse.save_npz writes of a CSR matrix, not {listed(keys)}.")
    elif keys not in (["x", "y"], ["weight", "x", "y"], *([] if label_needed else (["x"], ["weight", "x"]))):
        raise DataError(f"{name} must hold the arrays x and y, each once, not {listed(keys)}; {NPZ[1]}.")


def array(stream: IO[bytes], size: int | None, name: str, kinds: str) -> NDArray[Any]:
    """An array in the .npy format, of one of these dtype kinds; `size` bytes long, None for a whole file."""
    with damage(name, *NPY):
        shape, _, dtype = header(stream, size, name, kinds)
        if math.prod(shape) * max(dtype.itemsize, 8) > reading.MAX_BYTES:
            promise = f"the shape {str(shape)[:60]} of {dtype}"
            raise DataError(f"{name} has {promise}, as float64 more than {reading.MAX_BYTES:,} bytes; use fewer rows.")
        stream.seek(0)
        return np.lib.format.read_array(stream, allow_pickle=False)


def header(stream: IO[bytes], size: int | None, name: str, kinds: str) -> Header:
    """The header of an array of one of these dtype kinds, which promises just what the bytes behind it can hold."""
    headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    shape, by_columns, dtype = headers[np.lib.format.read_magic(stream)](stream)
    start = stream.tell()
    left = (stream.seek(0, os.SEEK_END) if size is None else size) - start
    if size is None:
        stream.seek(start)
    if dtype.kind not in kinds:
        wanted = "integers, floats or booleans" + (", or names as text" if "U" in kinds else "")
        raise DataError(f"{name} holds values of dtype {quoted(str(dtype))}; convert them to {wanted}.")
    if min(shape, default=0) < 0 or not dtype.itemsize or math.prod(shape) * dtype.itemsize != left:
        promise = f"the shape {str(shape)[:60]} of {dtype}"
        raise DataError(f"{name} is damaged: it has {left:,} bytes for {promise}; write it again.")
    return shape, by_columns, dtype
