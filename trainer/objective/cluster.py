"""Rows on the workers of a Dask cluster: functions of blocks travel to them, and the sums of their shards come back.

A worker gets a piece of the data once: the names of the files, which of their rows, and how they are prepared; it
reads the rows itself. Pieces depend on the data alone and are added in their order, so the number of workers changes no
bit, and one that is lost costs what it had not answered. Dask carries the calls, past its graphs; see
https://distributed.dask.org.
"""

import atexit
import logging
import pickle
import time
import uuid
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib import import_module
from itertools import pairwise
from multiprocessing import current_process
from typing import Any

import numpy as np

from trainer.data.features import Features
from trainer.errors import ConfigError, TrainerError, counted, require
from trainer.objective import worker
from trainer.objective.blocks import SHARDS, Block, Kept, added, shards
from trainer.objective.objective import BlockSum, Objective
from trainer.objective.view import View
from trainer.objective.worker import Answer, Piece, Shard, packed, versions

SECONDS = 10  # until a scheduler must have answered, or a worker come back
ANSWER = 3  # until a worker of this machine must have taken a call
LOSSES = 5  # of workers within one pass, which is then given up
TOGETHER = 8  # pieces that are sent to a worker at once


@dataclass(frozen=True)
class Local:
    """Rows in the memory of this machine, or in its files."""

    name = "local"

    def connect(self) -> None:
        """Nothing to connect to."""


@dataclass(frozen=True)
class Dask:
    """Rows on the workers of the cluster at an address, such as tcp://10.0.0.1:8786, or on so many of this machine."""

    name = "dask"
    address: str | None = None
    workers: int = 2

    def __post_init__(self) -> None:
        require(self.workers >= 1, f"engine.workers must be at least 1, got {self.workers}.")

    def connect(self) -> "Cluster":
        """The cluster, to which this process stays connected; ConfigError if there is none."""
        return _connected(self)


ENGINES: dict[str, type[Local] | type[Dask]] = {"local": Local, "dask": Dask}


@cache
def _connected(settings: Dask) -> "Cluster":
    try:
        dask = import_module("distributed")
    except ImportError as error:
        raise ConfigError(
            "engine=dask needs distributed; install it by pip install 'softmax-trainer[dask]'."
        ) from error
    log = logging.getLogger("distributed")  # what goes wrong is said in sentences of ours
    log.propagate = False
    log.setLevel(logging.CRITICAL)
    at: Any = settings.address
    if at is None:
        # Or the scheduler, which is in this process, calls a worker that was killed for half a minute; and one that is
        # being started again just when that is asked, 15 s after it was killed before, is given up for good.
        timeouts = {"distributed.comm.timeouts.connect": ANSWER, "distributed.deploy.lost-worker-timeout": "1000 days"}
        import_module("dask").config.set(timeouts)
        alone = not current_process().daemon
        require(alone, "A job of a sweep starts no workers. Start some by dask worker, and give engine.address.")
        quiet = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}  # the port of its health check, then
        at = dask.LocalCluster(
            n_workers=settings.workers, threads_per_worker=1, silence_logs=logging.CRITICAL, scheduler_kwargs=quiet
        )
        atexit.register(at.close)
    try:
        client = dask.Client(at, timeout=SECONDS, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(
            f"engine.address={settings.address} has no scheduler that answers within {SECONDS} s "
            f"({type(error).__name__}). Start one by dask scheduler, or leave the address out for workers on this "
            "machine."
        ) from None
    atexit.register(client.close)
    return Cluster(client)


class Cluster:
    """The workers of a cluster as the engine of features; see trainer.data.features.Engine."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._names: dict[int, str] = {}  # of what lives here, by its id
        self._gone: list[str] = []  # names of owners whose pieces nobody will ask for again
        self._homes: dict[str, str] = {}  # the worker of each piece
        self._check_versions()

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        return type(None), ()  # a worker reads its rows itself

    def over(self, x: Features, slices: Sequence[slice], function: Callable[[Any], Any]) -> Iterator[Any]:
        """The function of x[rows] for each slice, in order."""
        edges = np.unique(np.linspace(0, len(slices), SHARDS + 1).astype(np.intp)).tolist()
        makes = [partial(_piece, x, slices[first:last]) for first, last in pairwise(edges)]
        name = f"{self._name(x)} {len(slices)} parts"
        return (result for results in self._map(function, name, x, makes) for result in results)

    def map_sum(self, sums: BlockSum, function: Callable[[Block], tuple[Any, ...]], parts: list[Block]) -> list[Any]:
        """The sums of a function over blocks; see trainer.objective.blocks.map_sum."""
        makes = [partial(_shard, sums, run) for run in shards(parts)]
        name = f"{self._name(sums.data)} {len(parts)} blocks"
        found = added(self._map(function, name, sums.data.x, makes))
        sums.objective.progress(len(sums.data))
        return found

    def _map(
        self, function: Callable[..., Any], name: str, x: Features, makes: Sequence[Callable[[], Piece | Shard]]
    ) -> list[Any]:
        """What the function makes of each of the pieces of this name, which are made where a worker has them not."""
        make = {f"{name} {n}": one for n, one in enumerate(makes)}
        call, gone = self._packed(function), self._gone
        found: dict[str, Any] = {}
        losses, self._gone = 0, []
        while left := [name for name in make if name not in found]:
            asked = self._settled(left)
            answers = self._run(worker.answer, None, call, asked, gone)
            for home, pieces in asked.items():
                answer = answers.get(home)
                if answer is None:
                    losses += 1
                    self._lose(home, losses)
                    continue
                x.tally.count(answer.read)
                found |= answer.results
                self._send(home, {name: make[name] for name in pieces if name not in found})
        return [found[name] for name in make]

    def _send(self, home: str, makes: dict[str, Callable[[], Piece | Shard]]) -> None:
        """Gives a worker its pieces, some at a time, for as long as it is there."""
        names = list(makes)
        for start in range(0, len(names), TOGETHER):
            if home in self._workers():  # to call one that is not takes Dask half a minute
                some = {name: _packed_piece(makes[name]()) for name in names[start : start + TOGETHER]}
                self._run(worker.install, [home], some)

    def _name(self, owner: Any) -> str:
        """One that nothing else has ever had."""
        if id(owner) not in self._names:
            self._names[id(owner)] = uuid.uuid4().hex
            weakref.finalize(owner, self._forget, id(owner))
        return self._names[id(owner)]

    def _forget(self, number: int) -> None:
        self._gone.append(self._names.pop(number))

    def _packed(self, function: Callable[..., Any]) -> bytes:
        """A function with what it closes over, but for what a worker has its own of."""

        def name(obj: Any) -> Any:
            if isinstance(obj, Objective):
                return "objective", *obj.pair, obj.gradient, obj.penalty, obj.reduction, obj.intercept
            if isinstance(obj, BlockSum):
                return "sums", obj.objective, obj.total
            if isinstance(obj, View):
                return "view", obj.dtype.str, obj.mean, obj.scale, obj.sums
            return ("kept", self._name(obj), obj.room) if isinstance(obj, Kept) else None

        return packed(function, name, import_module("cloudpickle").Pickler)

    def _settled(self, names: Sequence[str]) -> dict[str, list[str]]:
        """The pieces of each worker; neighbours go to the same."""
        new = [name for name in names if name not in self._homes]
        workers = self._workers() if new else []
        for place, name in enumerate(new):
            self._homes[name] = workers[place * len(workers) // len(new)]
        asked: dict[str, list[str]] = {}
        for name in names:
            asked.setdefault(self._homes[name], []).append(name)
        return asked

    def _workers(self) -> list[str]:
        """The addresses of all workers, of which there may be none for some seconds."""
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            try:
                found = sorted(self._client.nthreads())
            except Exception as error:
                raise self._silent(error) from None
            if found:
                return found
            time.sleep(0.1)
        raise TrainerError(
            f"The cluster at {self._client.scheduler.address} has had no worker for {SECONDS} s. Start some by dask "
            "worker, and go on by resume= and the folder of the run."
        )

    def _run(self, function: Callable[..., Any], workers: list[str] | None, *args: Any) -> dict[str, Any]:
        """What each of the workers, or of all, answers; one that is lost does not.  TrainerError of one that fails."""
        try:
            found: dict[str, Any] = self._client.run(function, *args, workers=workers, on_error="return")
        except Exception as error:
            raise self._silent(error) from None
        for home, answer in found.items():
            failure = answer.error if isinstance(answer, Answer) else answer
            if isinstance(failure, TrainerError):
                raise failure
            if isinstance(failure, Exception) and not isinstance(failure, OSError):
                raise TrainerError(f"The worker at {home} has failed: {type(failure).__name__}: {failure}.")
        return {home: answer for home, answer in found.items() if not isinstance(answer, OSError)}

    def _silent(self, error: Exception) -> TrainerError:
        return TrainerError(
            f"The scheduler at {self._client.scheduler.address} answers no more ({type(error).__name__}). Start the "
            "cluster again, and go on by resume= and the folder of the run."
        )

    def _lose(self, home: str, losses: int) -> None:
        """Forgets a worker, so that its pieces find another."""
        self._homes = {name: other for name, other in self._homes.items() if other != home}
        if losses > LOSSES:
            raise TrainerError(
                f"{counted(losses, 'worker')} were lost within one pass over the rows, the last one at {home}. Give "
                "each more memory, or the files smaller row groups, and go on by resume= and the folder of the run."
            )

    def _check_versions(self) -> None:
        """ConfigError where a worker would not compute what this process would."""
        here = versions()
        for home, there in self._run(versions, self._workers()).items():
            for package, version in here.items():
                require(
                    there.get(package) == version,
                    f"The worker at {home} has {package} {there.get(package)}, and this process has {version}, which "
                    "need not give the same numbers. Install one version on both.",
                )


def _piece(x: Features, slices: Sequence[slice]) -> Piece:
    """Some slices of features."""
    first, last = slices[0].start, slices[-1].stop
    if x.rows is None:
        return Piece(x, slices)
    return Piece(replace(x, rows=x.rows[first:last]), [slice(s.start - first, s.stop - first) for s in slices])


def _shard(sums: BlockSum, run: Sequence[Block]) -> Shard:
    """The rows of some blocks."""
    first, last = run[0].rows.start, run[-1].rows.stop
    own = [Block(number, slice(rows.start - first, rows.stop - first)) for number, rows in run]
    return Shard(sums.data.only(np.arange(first, last)), own)


def _packed_piece(piece: Piece | Shard) -> bytes:
    """A piece, whose reader a worker may have already."""
    reader = piece.x.reader
    pickled = pickle.dumps(reader)
    return packed(piece, lambda obj: pickled if obj is reader else None)
