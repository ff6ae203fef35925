"""Blocks of rows: how data are cut into them, the two products with their features, and sums over them.

A block fits the cache, bounds the memory of the (B,K,K) tensor and is the unit of work of a thread. Sums are added in
the order of the blocks, so the number of threads never changes a bit.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from trainer.arrays import Array
from trainer.chain.activations import Activation
from trainer.data.features import is_sparse, numbers_a_row
from trainer.data.rows import Data
from trainer.objective.threads import in_order

# A block's temporaries are freed and allocated again many times a second. glibc hands each back to the system, at
# the price of a page fault every 4 KiB, until a larger allocation has been freed once; so free one (31 MiB, untouched).
np.empty(31 << 20, dtype=np.uint8)

SHARDS = 64  # at most; up to so many blocks each is one of its own


class Block(NamedTuple):
    """Rows that follow each other, and which of the blocks it is."""

    number: int
    rows: slice


def blocks(data: Data, width: int, columns: int = 0, larger: int = 1) -> list[Block]:
    """An even number of equal slices of rows, each of at most 2^17 scores and 2^21 numbers of anything else.

    Data of at most half of a block's scores and a quarter of its other numbers are one block: a millisecond of work.

    Each numpy call on a block must take long beside the handing over of the interpreter's lock, and the block must stay
    in the cache; measured on two cores over K = 4 ... 100. The rule knows nothing of the machine or of the threads, so
    the sums are the same everywhere.  Columns are the scores of a row where several models share it; a device of its
    own works on so many times larger blocks.
    """
    count, classes = len(data), max(1, columns or len(data.classes))
    others = max(width, numbers_a_row(data.x))
    if count * classes <= larger << 16 and count * others <= larger << 19:  # not worth a second thread
        return [Block(0, slice(0, count))]
    most = max(1, min((larger << 17) // classes, (larger << 21) // max(1, others)))
    rows = -(-count // (2 * -(-count // (2 * most))))
    return [Block(n, slice(start, min(start + rows, count))) for n, start in enumerate(range(0, count, rows))]


@dataclass(frozen=True, eq=False)
class Kept:
    """What was made of blocks and may be needed again, where the blocks are, if there is room for it.

    What is missing there is made again, to the same bits.
    """

    room: bool
    made: dict[int, Any] = field(default_factory=dict)  # by the numbers of the blocks

    def keep(self, block: Block, value: Any) -> Any:
        """The value, which is kept if there is room."""
        if self.room:
            self.made[block.number] = value
        return value

    def of(self, block: Block, make: Callable[[], Any]) -> Any:
        """What was kept, or else is made and kept now."""
        value = self.made.get(block.number)
        return self.keep(block, make()) if value is None else value


def map_sum(
    function: Callable[[Block], tuple[Any, ...]], parts: list[Block], threads: int, done: Callable[[int], object]
) -> list[Any]:
    """The sum of a function over blocks, position by position: of each shard in the order of its blocks, then of these.

    It returns numbers, arrays of its own and tuples, which are joined; done is told of the rows that are done.
    """

    def finished() -> Iterator[Sequence[Any]]:
        for block, result in zip(parts, in_order(function, parts, threads), strict=True):
            done(block.rows.stop - block.rows.start)
            yield result

    results = finished()
    return added(added(islice(results, len(shard))) for shard in shards(parts))


def shards(parts: list[Block]) -> list[list[Block]]:
    """Runs of blocks that are summed alone, as a worker of a cluster has one or several of them."""
    size = -(-len(parts) // SHARDS)
    return [parts[start : start + size] for start in range(0, len(parts), size)]


def added(results: Iterable[Sequence[Any]]) -> list[Any]:
    """The sum, position by position, in their order."""
    total: list[Any] = []
    for result in results:
        if not total:
            total = list(result)
            continue
        for place, part in enumerate(result):
            total[place] += part
    return total


def scores(w: Array, x: Array) -> Array:
    """z (...,N,K) of w (...,D+1,K), each F-ordered."""
    z: Array = times(x, w[..., :-1, :])
    z += w[..., -1:, :]
    return z


def times(x: Array, v: Array) -> Array:
    """x v (...,N,K), F-ordered: the transposed product runs every reduction over K along the long axis.

    In a stack each model has its own product, of all rows x (N,D) or of its own rows (...,N,D).
    """
    if isinstance(x, np.ndarray):
        return np.ascontiguousarray(v.mT @ x.mT).mT
    if not is_sparse(x):
        return x @ v
    if v.ndim > 2:
        return np.stack([times(x, one).mT for one in v]).mT
    return np.ascontiguousarray(v.mT @ x.T).mT  # a sparse product lies the other way round


def against(x: Array, q: Array) -> Array:
    """x^T q (...,D,K).  Unlike dot, matmul keeps the interpreter's lock while its result has few numbers."""
    if not isinstance(x, np.ndarray) and not is_sparse(x):
        return x.mT @ q
    if q.ndim > 2 and isinstance(x, np.ndarray):
        return (q.mT @ x).mT  # of a stack there is no other that makes each model's product by one call
    if q.ndim > 2:
        return np.stack([against(x, one) for one in q])
    result: Array = (np.dot(q.T, x) if isinstance(x, np.ndarray) else q.T @ x).T
    return result


def side_by_side(v: Array) -> Array:
    """A stack (M,D,K) as the columns of one matrix (D,M K)."""
    return v.swapaxes(0, 1).reshape(v.shape[1], -1)


def apart(v: Array, number: int) -> Array:
    """Columns (D,M K) as a stack (M,D,K)."""
    return v.reshape(len(v), number, -1).swapaxes(0, 1)


def predict(activation: Activation, w: Array, x: Array, threads: int = 1) -> Array:
    """The prediction a (N,K) of features x (N,D), block by block."""
    data = Data(x, np.zeros(x.shape[0], dtype=np.intp), (), ())
    parts = in_order(lambda block: activation(scores(w, x[block.rows])), blocks(data, w.shape[1]), threads)
    return np.concatenate([np.empty((0, w.shape[1])), *parts])
