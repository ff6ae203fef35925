"""The row groups of Parquet and Arrow files, numbered through all that are read as one; needs pyarrow, an extra."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from importlib import import_module
from threading import Lock
from typing import Any

from trainer.data import reading, remote
from trainer.data.places import Places, all_columns, same_columns
from trainer.data.reading import check_names, damage, quoted, readable, stamp
from trainer.errors import ConfigError, DataError, shown

OPEN = 8  # files that stay open: each holds a descriptor, and what its end says of its row groups


class Latest:
    """What a function makes of a number, kept of those asked for last; a copy in another process makes it anew."""

    def __init__(self, make: Callable[[int], Any], most: int) -> None:
        self.make, self.most = make, most
        self._lock = Lock()
        self.kept: OrderedDict[int, Any] = OrderedDict()

    def __call__(self, number: int) -> Any:
        with self._lock:
            if number not in self.kept:
                while len(self.kept) >= self.most:
                    self.kept.popitem(last=False)
                self.kept[number] = self.make(number)
            self.kept.move_to_end(number)
            return self.kept[number]

    def __reduce__(self) -> tuple[type["Latest"], tuple[Any, ...]]:
        return Latest, (self.make, self.most)


class Groups:
    """Schema, rows of each row group, and columns of one, of the tables in one file or in several.

    The files that were read last stay open. A copy in another process opens those that it is asked for.

    names, schema   of the columns: those of the first file, then those that folders stand for
    counts          of the rows of each group
    """

    def __init__(self, places: Places) -> None:
        self.files = places.files
        self._parquet = places.kind == ".parquet"
        self._paths = [*map(remote.lasting, places.paths)]
        self._stamps: list[tuple[int, ...]] = []
        self.open = Latest(self._opened, OPEN)
        self.counts: list[int] = []
        self._where: list[tuple[int, int]] = []  # of each group its file, and its place there
        try:
            for number in range(len(self.files)):
                with self._damage(number):
                    self._add(number)
            arrow = import_module("pyarrow")
        except ImportError as error:
            way = "install it by pip install 'softmax-trainer[parquet]', or convert the file to .npy"
            raise ConfigError(f"{places.name} needs pyarrow; {way}.") from error
        for key in self.files[0].keys:
            values = [place.keys[key] for place in self.files]
            whole = all(value is None or _is_whole(value) for value in values)
            self._types[self.names.index(key)] = arrow.int64() if whole else arrow.string()
        self.schema = arrow.schema(list(zip(self.names, self._types, strict=True)))

    def _add(self, number: int) -> None:
        """The groups of one more file, whose columns are to be those of the first."""
        place, file = self.files[number], self.open(number)
        names, types = all_columns(place, file.schema.names), [*file.schema.types, *[None] * len(place.keys)]
        counts = file.counts()
        self.counts += counts
        self._where += [(number, group) for group in range(len(counts))]
        if number == 0:
            self.names, self._types = names, types
            return
        first = self.files[0].path
        check_names(names, shown(place.path))
        order = same_columns(first, self.names, place.path, names) or range(len(names))
        for column, kind in enumerate(types[there] for there in order):
            known = self._types[column]
            if known is None or str(known) == "null":
                self._types[column] = kind
            elif str(kind) != "null" and not alike(known, kind):
                raise DataError(
                    f"{shown(first)} and {shown(place.path)}: column {quoted(self.names[column])} is of type "
                    f"{str(known)[:40]} in the one and {str(kind)[:40]} in the other; write it alike in all files."
                )

    def read(self, group: int, wanted: Mapping[str, Callable[[Any], Any]]) -> list[Any]:
        """What these functions make of columns of a group, which are chunked arrays."""
        number, there = self._where[group]
        keys = self.files[number].keys
        with self._damage(number):
            own = [name for name in wanted if name not in keys]
            columns = dict(zip(own, self.open(number).read(there, own), strict=True))
            rows = self.counts[group]
            return [make(self._typed(name, columns.get(name), keys, rows)) for name, make in wanted.items()]

    def _typed(self, name: str, column: Any, keys: Any, rows: int) -> Any:
        """A column of which a file may have no value, or that its folder stands for."""
        if column is not None and str(column.type) != "null":
            return column
        arrow, kind = import_module("pyarrow"), self.schema.field(name).type
        value = keys.get(name)
        if value is None:
            return arrow.chunked_array([arrow.nulls(rows, kind)])
        return arrow.chunked_array([arrow.repeat(arrow.scalar(int(value) if str(kind) == "int64" else value), rows)])

    def name(self, group: int) -> str:
        """What a message calls the file that a group is in."""
        return shown(self.files[self._where[group][0]].path)

    def first(self, group: int) -> int:
        """The first group of that file."""
        return group - self._where[group][1]

    def _damage(self, number: int) -> AbstractContextManager[None]:
        what = f" or no {'Parquet' if self._parquet else 'Arrow'} file"
        return damage(shown(self.files[number].path), what, "write it again with pyarrow")

    def _opened(self, number: int) -> "_Parquet | _Ipc":
        """A file; DataError where it is no longer what it was when it was opened first."""
        name, path = self.files[number].path, self._paths[number]
        with readable(name):
            now = stamp(path)
        if number == len(self._stamps):
            self._stamps.append(now)
        elif now != self._stamps[number]:
            raise DataError(f"{shown(name)} has changed while it was read; train again.")
        return (_Parquet if self._parquet else _Ipc)(path)


class _Parquet:
    """Schema, rows of each row group, and columns of one of a Parquet file."""

    def __init__(self, path: str) -> None:
        away = remote.is_remote(path)  # where a request for each piece would take its time
        source = remote.Ranges(path) if away else path
        self._file = import_module("pyarrow.parquet").ParquetFile(source, pre_buffer=away)
        self.name, self.schema = shown(path), self._file.schema_arrow

    def counts(self) -> list[int]:
        metadata = self._file.metadata
        groups = [metadata.row_group(group) for group in range(metadata.num_row_groups)]
        if max((group.total_byte_size for group in groups), default=0) > reading.MAX_BYTES:
            raise DataError(f"{self.name} has a row group of more than {reading.MAX_BYTES:,} bytes; make them smaller.")
        return [group.num_rows for group in groups]

    def read(self, group: int, columns: list[str]) -> list[Any]:
        table = self._file.read_row_group(group, columns=columns, use_threads=False)
        return [table.column(name) for name in columns]


class _Ipc:
    """The same of a file in Arrow's IPC format, whose record batches are the groups."""

    def __init__(self, path: str) -> None:
        self._arrow, self._path, self._away = import_module("pyarrow"), path, remote.is_remote(path)
        with self._source() as source:
            self.schema = self._arrow.ipc.open_file(source).schema

    def counts(self) -> list[int]:
        """Of what is mapped only the batches' headers are looked at; a server gives one column of each with them."""
        options = self._arrow.ipc.IpcReadOptions(included_fields=[0][: len(self.schema)])
        with self._source() if self._away else self._arrow.memory_map(self._path) as source:
            file = self._arrow.ipc.open_file(source, options=options)
            return [file.get_batch(group).num_rows for group in range(file.num_record_batches)]

    def _source(self) -> Any:
        if self._away:
            return self._arrow.PythonFile(remote.Ranges(self._path), mode="r")
        with readable(self._path):
            return self._arrow.OSFile(self._path)

    def read(self, group: int, columns: list[str]) -> list[Any]:
        fields = [self.schema.get_field_index(name) for name in columns]
        options = self._arrow.ipc.IpcReadOptions(included_fields=fields, use_threads=False)
        with self._source() as source:
            batch = self._arrow.ipc.open_file(source, options=options).get_batch(group)
        batch.validate(full=True)  # its offsets come from the file
        return [self._arrow.chunked_array([batch.column(name)]) for name in columns]


def sort_of(kind: Any) -> str:
    """Whether a type of Arrow's is one of numbers, texts, times or anything else."""
    types = import_module("pyarrow").types
    category = types.is_dictionary(kind)
    kind = kind.value_type if category else kind
    if types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind):
        return "text" if category else "number"
    if types.is_string(kind) or types.is_large_string(kind) or types.is_null(kind):
        return "text"
    return "time" if types.is_date(kind) or types.is_timestamp(kind) else "other"


def alike(one: Any, other: Any) -> bool:
    """Whether columns of these types can be one column."""
    first, second = (getattr(kind, "value_type", kind) for kind in (one, other))  # of categories
    same = sort_of(one) == sort_of(other) and sort_of(first) == sort_of(second)
    return same and (sort_of(one) != "other" or bool(one == other))


def _is_whole(text: str) -> bool:
    """Whether a text is an integer of 64 bits, and loses nothing by becoming one."""
    return len(text) < 20 and text.lstrip("-").isdecimal() and str(int(text)) == text and abs(int(text)) < 1 << 63
