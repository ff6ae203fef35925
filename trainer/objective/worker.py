"""What a worker of a cluster does: it holds pieces of the data, and answers calls from trainer.objective.cluster.

A call is a function, pickled. What it closes over comes with it, but for what the worker has its own of: an objective
on its rows, views of that, and what is kept of their blocks. All of it can be made again.
"""

import io
import logging
import pickle
import platform
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from functools import partial
from hashlib import sha256
from importlib import import_module
from importlib.metadata import version
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import numpy as np

from trainer import __version__
from trainer.arrays import Array
from trainer.data.features import Features, Reader
from trainer.data.rows import Data
from trainer.errors import TrainerError
from trainer.objective.blocks import Block, Kept, map_sum
from trainer.objective.objective import BlockSum, Objective
from trainer.objective.threads import blas_on_one_thread
from trainer.objective.view import Sample, View

STORES = 8  # of what evaluations have kept, of which those before are forgotten
SHARE = 0.4  # of the worker's memory for all that is kept of blocks
UNLIMITED = 1 << 30  # bytes of it where no limit of the memory is known


@dataclass(frozen=True)
class Piece:
    """Features that stay in their files, of which some slices are to be looked at."""

    x: Features
    slices: Sequence[slice]


@dataclass(frozen=True)
class Shard:
    """Rows with their targets, and the blocks of an objective on them; and what is kept of each view's features."""

    data: Data
    blocks: Sequence[Block]
    copies: dict[bytes, Kept] = field(default_factory=dict)

    @property
    def x(self) -> Features:
        result: Features = self.data.x
        return result


class Answer(NamedTuple):
    """What a function made of each piece that the worker has, the bytes it read, and why it stopped."""

    results: dict[str, Any]
    read: int
    error: TrainerError | None


def versions() -> dict[str, str]:
    """What decides on the numbers that come out, and on whether a call can be read."""
    return {
        "softmax-trainer": __version__,
        "numpy": np.__version__,
        "cloudpickle": version("cloudpickle"),
        "Python": platform.python_version().rpartition(".")[0],
    }


async def answer(call: bytes, asked: Mapping[str, Sequence[str]], gone: Sequence[str], dask_worker: Any) -> Answer:
    """The function of a call on the pieces that this worker is asked for; those of owners that are gone are dropped."""
    _here.threads = dask_worker.state.nthreads
    limit = dask_worker.memory_manager.memory_limit
    _here.room = int(SHARE * limit) if limit else UNLIMITED
    result: Answer = await _on_its_thread(_here.answer, call, asked.get(dask_worker.address, ()), gone)
    return result


async def install(pieces: Mapping[str, bytes]) -> None:
    """Takes pieces, by their names."""
    await _on_its_thread(_here.install, pieces)


async def _on_its_thread(function: Callable[..., Any], *args: Any) -> Any:
    return await import_module("asyncio").get_running_loop().run_in_executor(_here.thread, function, *args)


# Of the lines of a worker that of each call is left out, of which there are thousands.
EACH_CALL = "Run out-of-band function"
logging.getLogger("distributed.worker").addFilter(lambda record: not str(record.msg).startswith(EACH_CALL))


class _Worker:
    """All that this process has, as a worker."""

    def __init__(self) -> None:
        self.thread = ThreadPoolExecutor(1)
        self.threads, self.room, self.used = 1, UNLIMITED, 0
        self.pieces: dict[str, Piece | Shard] = {}
        # They keep open files and what they have decoded, for as long as there are pieces of them.
        self.readers: WeakValueDictionary[str, Reader] = WeakValueDictionary()
        self.stores: OrderedDict[str, _Bounded] = OrderedDict()

    def install(self, pieces: Mapping[str, bytes]) -> None:
        for name, packed in pieces.items():
            piece = unpacked(packed, self.reader)
            x = Remembered(**{f.name: getattr(piece.x, f.name) for f in fields(Features)})
            of_x = {"x": x} if isinstance(piece, Piece) else {"data": replace(piece.data, x=x)}
            self.pieces[name] = replace(piece, **of_x)

    def answer(self, call: bytes, names: Sequence[str], gone: Sequence[str]) -> Answer:
        self.drop(gone)
        found, read = {}, 0
        error: TrainerError | None = None
        try:
            with blas_on_one_thread(), np.errstate(all="ignore"):
                for name in names:
                    if (piece := self.pieces.get(name)) is not None:
                        before = piece.x.tally.bytes
                        found[name] = self.result(call, piece)
                        read += piece.x.tally.bytes - before
        except TrainerError as reason:
            error = reason
        except Exception as reason:  # whatever it is, and however it pickles
            error = TrainerError(f"A worker has failed with {type(reason).__name__}: {reason}.")
        return Answer(found, read, error)

    def reader(self, packed: bytes) -> Reader:
        """That of a piece; those of the same files share one."""
        digest = sha256(packed).hexdigest()
        reader = self.readers.get(digest)
        if reader is None:
            reader = self.readers[digest] = pickle.loads(packed)
        return reader

    def result(self, call: bytes, piece: Piece | Shard) -> list[Any]:
        function = unpacked(call, partial(self.stand_in, piece))
        if isinstance(piece, Piece):
            return [function(piece.x[rows]) for rows in piece.slices]
        return map_sum(function, list(piece.blocks), self.threads, lambda rows: None)

    def drop(self, gone: Sequence[str]) -> None:
        """Forgets the pieces of these owners, and these stores."""
        if gone:
            self.pieces = {name: piece for name, piece in self.pieces.items() if name.partition(" ")[0] not in gone}
            for name in gone:
                self.stores.pop(name, None)
            self.count()

    def store(self, name: str, room: bool) -> Kept:
        """What is kept under a name; the ones that were not asked for longest make way."""
        if name not in self.stores:
            self.stores[name] = _Bounded(room)
            if len(self.stores) > STORES:
                self.stores.popitem(last=False)
                self.count()
        self.stores.move_to_end(name)
        return self.stores[name]

    def stand_in(self, piece: Piece | Shard, named: tuple[Any, ...]) -> Any:
        """What this worker has in the place of what did not travel with a call on a piece."""
        kind, *rest = named
        if kind == "kept":
            return self.store(*rest)
        if kind == "objective":
            activation, loss, gradient, penalty, reduction, own = rest
            return Objective(activation, loss, gradient, penalty, self.threads, reduction, intercept=own)
        assert isinstance(piece, Shard)
        if kind == "sums":
            objective, total = rest
            sums = BlockSum(objective, piece.data)
            sums.total = total  # of all shards
            return sums
        dtype, mean, scale, sums = rest
        sample: Any = Sample(None, None, mean, scale)  # type: ignore[arg-type]  # its rows are not needed
        exact = View(sums, sample, np.float64)
        if np.dtype(dtype) == np.float64:
            return exact
        view = View(sums, sample, dtype, exact)
        view.copies = piece.copies.setdefault(mean.tobytes() + scale.tobytes(), _Bounded(True))
        return view

    def count(self) -> None:
        """Counts the bytes of what is kept, after some has gone."""
        pieces = list(self.pieces.values())
        kept = [*self.stores.values(), *(piece.x.memory for piece in pieces if isinstance(piece.x, Remembered))]
        kept += [copies for piece in pieces if isinstance(piece, Shard) for copies in piece.copies.values()]
        self.used = sum(_bytes(part) for one in kept for part in one.made.values())


_here = _Worker()


class _Bounded(Kept):
    """What is kept as far as the worker's memory goes."""

    def keep(self, block: Block, value: Any) -> Any:
        size = _bytes(value)
        if self.room and size and _here.used + size <= _here.room:
            _here.used += size
            self.made[block.number] = value
        return value


def _bytes(value: Any) -> int:
    """Those of an array, or of all arrays that a function closes over."""
    there = [cell.cell_contents for cell in getattr(value, "__closure__", None) or ()] or [value]
    return sum(getattr(part, "nbytes", 0) for part in there)


@dataclass(frozen=True, eq=False)
class Remembered(Features):
    """Features whose rows are read once, as far as the memory goes: in single precision where that loses nothing."""

    memory: Kept = field(default_factory=lambda: _Bounded(True))

    def read(self, start: int, stop: int) -> Array:
        kept: Array = self.memory.of(
            Block(start, slice(start, stop)), lambda: _shortest(super(Remembered, self).read(start, stop))
        )
        return kept.astype(np.float64)


def _shortest(x: Array) -> Array:
    """The same numbers in float32, if that can hold them."""
    with np.errstate(over="ignore"):
        short = x.astype(np.float32)
    return short if np.array_equal(short, x, equal_nan=True) else x


def packed(what: Any, name: Callable[[Any], Any], pickler: Any = pickle.Pickler) -> bytes:
    """A pickle that has names in the place of some things, and not of those that name makes None of."""
    with io.BytesIO() as file:
        packing = pickler(file)
        packing.persistent_id = name
        packing.dump(what)
        return file.getvalue()


def unpacked(pickled: bytes, named: Callable[[Any], Any]) -> Any:
    """What was packed, with what the names stand for here."""
    unpacking: Any = pickle.Unpickler(io.BytesIO(pickled))
    unpacking.persistent_load = named
    return unpacking.load()
