"""Features that need not be a dense array in memory: a sparse matrix, or rows that stay in their file.

    numpy array     (N,D) in memory
    scipy's CSR     (N,D) in memory, without its zeros; its standardisation has the mean zero
    Features        (N,D) in a file; rows are read, standardised and converted when they are asked for

A block of rows is the unit of all three: ``x[rows]`` of a slice gives what takes part in the products.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from itertools import pairwise
from threading import Lock
from typing import Any, Protocol

import numpy as np

from trainer.arrays import Array

AT_ONCE = 1 << 20  # numbers of a part whose moments are taken together: 8 MiB
READING = 1 << 17  # numbers read together where not all are wanted: 1 MiB stays in the cache until it is picked over
ROWS_OF_IDS = 30  # fewer rows differ by chance
IDS = 0.99  # share of the rows that an id tells apart
FETCHES = 64  # parts in which an engine reads rows that are asked for by their numbers
POOL = 1 << 22  # numbers among which an epoch's rows are shuffled: 32 MiB


class Reader(Protocol):
    """Rows of a file as float64."""

    @property
    def shape(self) -> tuple[int, int]: ...

    @property
    def grain(self) -> int:
        """How many rows the file can only give together; one where each can be read alone."""

    def __call__(self, start: int, stop: int) -> Array:
        """Rows start..stop (B,D), a new array; called from many threads."""


class Engine(Protocol):
    """Where rows of files are read and looked at, if it is not here."""

    def over(self, x: "Features", slices: Sequence[slice], function: Callable[[Array], Any]) -> Iterator[Any]:
        """The function of x[rows] for each slice, in order."""

    def map_sum(self, sums: Any, function: Callable[[Any], tuple[Any, ...]], parts: list[Any]) -> list[Any]:
        """The sums of a function over blocks of an objective; see trainer.objective.blocks.map_sum."""


_ENGINE: ContextVar[Engine | None] = ContextVar("engine", default=None)


@contextmanager
def living_on(engine: Engine | None) -> Iterator[None]:
    """Files that are opened inside leave their features where they are, to be read by this engine."""
    before = _ENGINE.set(engine)
    try:
        yield
    finally:
        _ENGINE.reset(before)


def elsewhere() -> bool:
    """Whether features are not to be read here."""
    return _ENGINE.get() is not None


class Tally:
    """How many bytes of numbers were read, by whichever threads; each process counts its own."""

    def __init__(self, read: int = 0) -> None:
        self.bytes = read
        self._lock = Lock()

    def __reduce__(self) -> tuple[type["Tally"], tuple[()]]:
        return Tally, ()

    def add(self, rows: Array) -> Array:
        """Counts what a reader has given."""
        self.count(rows.nbytes)
        return rows

    def count(self, read: int) -> None:
        """Counts bytes that were read elsewhere."""
        with self._lock:
            self.bytes += read


@dataclass(frozen=True, eq=False)
class Features:
    """x (N,D) of a file, ``(rows of the reader - mean) / scale`` as dtype, computed anew at each reading.

    rows         which of the file's rows these are, in rising order (N,); None means all
    mean, scale  (D,) of the standardisation; None means none
    tally        of these and all other rows of the file that were made of them, or they of
    engine       where passes over all of them run; None means here
    """

    reader: Reader
    rows: Array | None = None
    mean: Array | None = None
    scale: Array | None = None
    dtype: Any = np.float64
    tally: Tally = field(default_factory=Tally)
    engine: Engine | None = field(default_factory=_ENGINE.get)

    @property
    def shape(self) -> tuple[int, int]:
        return (self.reader.shape[0] if self.rows is None else len(self.rows), self.reader.shape[1])

    def __len__(self) -> int:
        return self.shape[0]

    def only(self, rows: Array) -> "Features":
        """These of the rows, in rising order (M,), still in the file."""
        numbers = rows if self.rows is None else self.rows[rows]
        small = np.uint32 if self.reader.shape[0] < 1 << 32 else np.int64  # half of the memory
        return replace(self, rows=numbers.astype(small))

    def __getitem__(self, index: Any) -> Array:
        """The rows that a slice or an array of row numbers selects, an array (B,D) in memory in the index's order."""
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step == 1:
                return self._ready(self.read(start, max(start, stop)))
            index = np.arange(start, stop, step)
        numbers = np.arange(len(self))[index] if np.asarray(index).dtype == bool else np.asarray(index)
        numbers = numbers if self.rows is None else self.rows[numbers]
        return self._ready(self._gather(numbers)) if self.engine is None else self._fetched(numbers, self.engine)

    def read(self, start: int, stop: int) -> Array:
        """Rows that follow each other as the file has them (B,D), a new array."""
        if self.rows is None:
            return self.tally.add(self.reader(start, stop))
        return self._gather(self.rows[start:stop])

    def _fetched(self, numbers: Array, engine: Engine) -> Array:
        """The same rows in any order (B,D), read by the engine."""
        order = np.argsort(numbers, kind="stable")
        edges = np.linspace(0, len(numbers), 1 + min(FETCHES, len(numbers)), dtype=np.intp).tolist()
        x = np.empty((len(numbers), self.shape[1]), self.dtype)
        slices = [slice(*edge) for edge in pairwise(edges)]
        found = engine.over(replace(self, rows=numbers[order]), slices, np.asarray)
        for part, rows in zip(slices, found, strict=True):
            x[order[part]] = rows
        return x

    def _gather(self, numbers: Array) -> Array:
        """Rows of the file in any order (B,D), from readings of limited size."""
        x = np.empty((len(numbers), self.shape[1]))
        rising = bool((numbers[1:] >= numbers[:-1]).all())
        order = None if rising else np.argsort(numbers, kind="stable")
        numbers = (numbers if order is None else numbers[order]).astype(np.int64)
        edges = np.flatnonzero(np.diff(numbers // max(1, READING // self.shape[1]))) + 1  # where a reading begins
        for start, stop in pairwise([0, *edges.tolist(), len(numbers)]):
            if start == stop:
                continue
            first, last = int(numbers[start]), int(numbers[stop - 1])
            rows, wanted = self.tally.add(self.reader(first, last + 1)), numbers[start:stop] - first
            if order is None:
                np.take(rows, wanted, axis=0, out=x[start:stop], mode="clip")  # the other modes make a copy
            else:
                x[order[start:stop]] = rows[wanted]
        return x

    def _ready(self, x: Array) -> Array:
        """Standardised in place, operation by operation as in memory, so that the bits are the same."""
        with np.errstate(over="ignore"):
            if self.mean is not None:
                x -= self.mean
            if self.scale is not None:
                x /= self.scale
            return np.ascontiguousarray(x, dtype=self.dtype)


def over(x: Any, function: Callable[[Array], Any]) -> Iterator[Any]:
    """What a function makes of the rows of x (N,D), part by part in order; the parts depend on its shape alone."""
    rows, count = x.shape[0], max(1, AT_ONCE // x.shape[1])
    slices = [slice(start, min(start + count, rows)) for start in range(0, rows, count)]
    if isinstance(x, Features) and x.engine is not None:
        return x.engine.over(x, slices, function)
    return (function(x[part]) for part in slices)


def cut(edges: Sequence[int], start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """The rows start..stop, cut where a piece ends; piece i has the rows from edge i to edge i + 1.

    >>> list(cut([0, 3, 5, 9], 2, 6))
    [(0, 2, 3), (1, 3, 5), (2, 5, 6)]
    """
    inner = edges[bisect_right(edges, start) : bisect_left(edges, stop)]
    for begin, end in pairwise([start, *inner, stop] if start < stop else []):
        yield bisect_right(edges, begin) - 1, begin, end


def is_sparse(x: Any) -> bool:
    """Whether x is a matrix of scipy's in the CSR format; scipy itself is slow to import."""
    return getattr(x, "format", None) == "csr"


def numbers_a_row(x: Any) -> int:
    """How many numbers a row of x holds: D, or of a sparse matrix the mean count of those it stores."""
    return int(-(-x.nnz // max(1, x.shape[0]))) if is_sparse(x) else int(x.shape[-1])


def ids(x: Any) -> list[int]:
    """Columns of a dense x (N,D) that look like numbers of its rows: integers of which hardly one occurs twice.

    So do incomes in cents. But numbers that were given out rise from row to row, or fill a range, or are drawn evenly
    from a wide one, by the distance of Kolmogorov and Smirnov. The first rows tell, as many as are read at once, and
    where most columns look so they are measurements.
    """
    if x.shape[0] < ROWS_OF_IDS:
        return []
    head = x[: max(ROWS_OF_IDS, AT_ONCE // x.shape[1])]
    n = len(head)
    columns = np.flatnonzero(((head == np.rint(head)) & (np.abs(head) < 2.0**63)).all(axis=0))
    ordered = np.sort(head[:, columns], axis=0)
    different = 1 + np.count_nonzero(ordered[1:] != ordered[:-1], axis=0) >= IDS * n
    columns, ordered = columns[different], ordered[:, different]
    step, reach = np.diff(head[:, columns], axis=0), ordered[-1] - ordered[0]
    in_order = (step > 0).all(axis=0) | (step < 0).all(axis=0)
    place = (np.arange(n) + 0.5)[:, None] / n
    distance = np.abs((ordered - ordered[0]) / reach - place).max(axis=0, initial=0)
    even = (reach < 4 * n) | ((n >= 100) & (np.sqrt(n) * distance < 1.36))  # one in twenty even draws lies further
    found: list[int] = columns[in_order | even].tolist()
    return found if len(found) <= max(3, x.shape[1] // 2) else []


def shuffled_pools(x: Features, size: int, random: np.random.Generator) -> Iterator[Array]:
    """The row numbers 0..N-1 of one epoch in random order, in arrays that each fit into memory.

    A pool is a random choice of blocks of neighbouring rows, shuffled; so a file is read in long pieces. The blocks
    begin at a random row, differently in each epoch; the two that this cuts short come last. Every pool but the last
    holds a multiple of size rows.
    """
    count, columns = x.shape
    wanted = max(1, POOL // (8 * columns), x.reader.grain)
    block = -(-wanted // size) * size  # a multiple of size, so that no mini-batch spans two pools
    together = max(2 if x.reader.grain > 1 else 1, POOL // (block * columns))
    cut = int(random.integers(block))
    edges = np.unique(np.clip([0, *range(cut, count, block), count], 0, count)).tolist()
    blocks = list(pairwise(edges))
    short = [rows for rows in blocks if rows[1] - rows[0] < block]
    whole = [rows for rows in blocks if rows[1] - rows[0] == block]
    whole = [whole[place] for place in random.permutation(len(whole))]
    pools = [whole[start : start + together] for start in range(0, len(whole), together)]
    for pool in [*pools, short]:
        if pool:
            yield random.permutation(np.concatenate([np.arange(*rows) for rows in pool]))
