"""Worker processes and their supervisor: jobs go out by pipes, and a job that dies or hangs costs no other job.

concurrent.futures gives up the whole pool when one process is killed. Here each process has its own pipe; one that
ends without an answer is replaced, and its job is reported with the signal that ended it. Jobs that differ in numbers
alone go to a worker together, to train side by side; if it dies, nobody knows whose fault it was: each goes on alone.
"""

import multiprocessing
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import ModuleType
from typing import Any

from trainer.errors import FileError
from trainer.runs.config import Settings
from trainer.runs.interrupts import held
from trainer.runs.outputs import RECORD
from trainer.sweeps.worker import Ended, Job, imported, note, serve

# Processes from a server that imports once for all; it has no threads, so its forks are safe.
METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
TICK = 0.1  # seconds between two looks at the clock
GRACE = 1.0  # seconds that an interrupted run has to keep what it has learnt
MORE = 0.1  # and for each run beside it
LARGEST = 64  # jobs of a stack: each has three files open, and more of them would save next to nothing
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    ready: bool = False
    jobs: dict[int, Job] = field(default_factory=dict)  # that have not been answered
    began: float = 0.0


@contextmanager
def warm(words: Iterable[str]) -> Iterator[None]:
    """Lets the server import what jobs of these words need, while the program does something else.

    If that fails, the server is ended at once: it would keep the terminal's pipe open for as long as it imports.
    """
    if METHOD != "forkserver":
        yield
        return
    from multiprocessing import forkserver

    multiprocessing.get_context(METHOD).set_forkserver_preload(imported(words))
    with _lean():
        forkserver.ensure_running()
    try:
        yield
    except BaseException:
        server = getattr(forkserver.ensure_running, "__self__", None)
        number = getattr(server, "_forkserver_pid", None)  # there is no public way
        if number is not None:
            os.kill(number, signal.SIGKILL)
        raise


class Pool:
    """Runs jobs in so many processes, in stacks or each alone; running names those that have no answer yet."""

    def __init__(self, workers: int, timeout: float | None = None, stacks: bool = False) -> None:
        self._context: Any = multiprocessing.get_context(METHOD)
        self._count = workers
        self._timeout = timeout
        self._stacks = stacks
        self._waiting = deque[list[Job]]()
        self._workers: list[_Worker] = []
        self._stillborn = 0
        self.running: set[int] = set()

    def run(self, jobs: Iterable[Job]) -> Generator[Ended | None, None, None]:
        """How the jobs end, in that order; None now and then while nothing happens. Left early, it ends the workers."""
        jobs = iter(jobs)
        first = next(jobs, None)
        if first is None:  # as of a sweep that has ended: no worker is to be started
            return
        try:
            self._start(self._count)
            whole = [first, *jobs]  # which are made while the workers import
            self._waiting.extend(stacked(whole, self._count) if self._stacks else [[job] for job in whole])
            while self._waiting or self.running:
                for worker in self._workers:
                    if self._waiting and worker.ready and not worker.jobs:
                        self._send(worker, self._waiting.popleft())
                by_pipe: dict[Any, _Worker] = {worker.pipe: worker for worker in self._workers}
                heard = wait(list(by_pipe), TICK)
                if not heard:
                    yield None
                for pipe in heard:
                    yield from self._hear(by_pipe[pipe])
                yield from self._overdue()
                busy = sum(bool(worker.jobs) for worker in self._workers)
                missing = min(self._count, len(self._waiting) + busy) - len(self._workers)
                if missing > 0:
                    self._start(missing)
        finally:
            self._end()

    def _start(self, number: int) -> None:
        with _lean():
            for _ in range(number):
                ours, theirs = self._context.Pipe()
                process = self._context.Process(target=serve, args=(theirs,), daemon=True)
                try:
                    process.start()
                except (OSError, EOFError) as error:
                    way = "Set sweep.workers=1."
                    raise FileError(f"No process can be started for the sweep: {error}. {way}") from error
                theirs.close()
                self._workers.append(_Worker(process, ours))

    def _send(self, worker: _Worker, jobs: list[Job]) -> None:
        worker.jobs, worker.began = {job.number: job for job in jobs}, time.monotonic()
        self.running |= worker.jobs.keys()
        with suppress(OSError):  # it died while idle: _hear finds out
            worker.pipe.send(jobs)

    def _hear(self, worker: _Worker) -> Iterator[Ended]:
        try:
            answer = worker.pipe.recv()
        except (EOFError, OSError):
            yield from self._dead(worker)
            return
        if isinstance(answer, Ended):
            worker.jobs.pop(answer.number, None)
            self.running.discard(answer.number)
            yield answer
        else:
            worker.ready, self._stillborn = True, 0

    def _dead(self, worker: _Worker) -> Iterator[Ended]:
        """A worker that closed its pipe: its job, if it had one, was killed with it; of several each goes on alone."""
        worker.process.join(GRACE)
        code = worker.process.exitcode
        self._drop(worker)
        if worker.jobs:
            yield from self._lost(worker, "killed", f"Its process {_ending(code)}.")
            return
        self._stillborn += not worker.ready
        if self._stillborn > 2 * self._count:
            raise FileError(
                f"The processes of the sweep {_ending(code)} before their first job. Set sweep.workers=1, and see "
                "that there is memory for each."
            )

    def _overdue(self) -> Iterator[Ended]:
        if self._timeout is None:
            return
        now = time.monotonic()
        for worker in list(self._workers):
            if worker.jobs and now - worker.began > self._timeout:
                worker.process.kill()
                worker.process.join(GRACE)
                self._drop(worker)
                yield from self._lost(
                    worker, "timeout", f"It took longer than sweep.timeout={self._timeout:g} seconds."
                )

    def _lost(self, worker: _Worker, status: str, reason: str) -> Iterator[Ended]:
        """How the job of a process that is gone has ended; if it had several, nothing yet: each is tried alone."""
        self.running -= worker.jobs.keys()
        first, *others = worker.jobs.values()
        if others:
            again = [replace(job, goes_on=(job.folder / RECORD).exists()) for job in (first, *others)]
            self._waiting.extendleft([job] for job in reversed(again))
        else:
            note(first.folder, reason)
            yield Ended(first.number, status, reason)

    def _drop(self, worker: _Worker) -> None:
        worker.pipe.close()
        self._workers.remove(worker)

    def _end(self) -> None:
        """Idle workers leave when their pipe closes; a running job is asked to keep what it has, and then killed."""
        with held():  # a second Ctrl-C must leave no process behind
            processes = [worker.process for worker in self._workers]
            for worker in self._workers:
                if worker.jobs or not worker.ready:
                    worker.process.terminate()
                worker.pipe.close()
            most = max((len(worker.jobs) for worker in self._workers), default=0)
            deadline = time.monotonic() + GRACE + MORE * most
            for process in processes:
                process.join(max(0.0, deadline - time.monotonic()))
            for process in processes:
                if process.is_alive():
                    process.kill()
                    process.join(GRACE)
            self._workers.clear()


def _ending(code: int | None) -> str:
    """The end of a process in words, from its exit code."""
    if code is None or code >= 0:
        return f"ended with exit code {code}"
    name = next((known.name for known in signal.Signals if known == -code), "unknown")
    short = "; the system does that when memory is short" if name == "SIGKILL" else ""
    return f"was killed by signal {-code} ({name}){short}"


@contextmanager
def _lean() -> Iterator[None]:
    """Processes started here have libraries of one thread, hear no Ctrl-C, and do not import the program.

    As many threads as there are cores in each process would get in each other's way; Ctrl-C reaches every process of
    the terminal, and the pool decides; the program imports Hydra, or starts a sweep whenever it is imported.
    """
    mask = None
    if hasattr(signal, "pthread_sigmask"):  # not on Windows
        from multiprocessing import resource_tracker

        resource_tracker.ensure_running()  # which would undo the mask at its own start
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    program = sys.modules["__main__"]
    os.environ.update(dict.fromkeys(ONE_THREAD, "1"))
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        sys.modules["__main__"] = program
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def stacked(jobs: Iterable[Job], workers: int) -> list[list[Job]]:
    """The jobs in stacks, each for a worker: of a kind about as many for each worker, and at most LARGEST in a stack.

    Those on the same rows stand beside each other, so that the rows are prepared once.
    """
    kinds: dict[str, list[Job]] = {}
    for job in jobs:
        kinds.setdefault(kind(job.settings) or f"alone {job.number}", []).append(job)
    found = []
    for some in kinds.values():
        some.sort(key=lambda job: (job.settings.seed is None, job.settings.seed, repr(job.settings.data), job.number))
        count = -(-len(some) // LARGEST)  # stacks
        count = min(len(some), -(-count // workers) * workers)
        edges = [len(some) * number // count for number in range(count + 1)]
        found += [some[start:stop] for start, stop in pairwise(edges)]
    return found


def kind(settings: Settings) -> str | None:
    """What jobs of a stack have in common; None for one that trains alone.

    They differ in seed, epochs and label_smoothing, and in the numbers of optimizer, schedule, penalty and data.
    Whether their shapes agree is seen once their data are there; see optimizers.together.
    """
    from trainer.optimizers import OPTIMIZERS  # numpy comes with it

    joins = hasattr(OPTIMIZERS[settings.optimizer["name"]], "moved")
    several = settings.folds or isinstance(settings.penalty.get("strength"), list)  # trainings in one job
    if not joins or settings.experiment is not None or several or settings.device != "cpu":
        return None
    alike = dict(vars(settings), seed=None, epochs=None, label_smoothing=settings.label_smoothing > 0)
    for group in ("optimizer", "schedule", "penalty"):
        alike[group] = {key: value for key, value in alike[group].items() if type(value) not in (int, float)}
    alike["data"] = {key: value for key, value in settings.data.items() if type(value) is not float}  # integers: shapes
    return repr(alike)
