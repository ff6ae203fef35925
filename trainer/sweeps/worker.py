"""What a process of the pool does: it imports once, and then runs one job after the other.

It is started by trainer.sweeps.pool and never imports Hydra: a job is settings that were composed before.
"""

import logging
import os
import re
import signal
import sys
import threading
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.errors import Diverged, TrainerError
from trainer.runs.config import Settings
from trainer.runs.outputs import LogFile, open_log

if TYPE_CHECKING:
    from trainer.runs.company import Seat
    from trainer.runs.training import Result

LOG = "trainer.log"
IMPORTED = "trainer.runs.run"
FROM_SCIKIT_LEARN = {"classification", "digits", "iris", "wine", "breast_cancer"}  # data, and a second to import it


@dataclass(frozen=True)
class Job:
    """One run: its number in the sweep, its folder, its settings, and the configuration as run.json is to keep it.

    goes_on says that its folder holds a checkpoint of an earlier try.
    """

    number: int
    folder: Path
    settings: Settings
    recorded: Mapping[str, Any]
    goes_on: bool = False


@dataclass(frozen=True)
class Ended:
    """How a job ended, why if not well, and the last row of its table."""

    number: int
    status: str
    reason: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    folder: Path | None = None  # of its files, where it says so


def imported(words: Iterable[str]) -> list[str]:
    """What the jobs of a sweep with these words will import, for the server to do so once for all."""
    data = {name for word in words if word.startswith("data=") for name in re.findall(r"\w+", word)}
    return [IMPORTED, *(["sklearn.datasets"] if data & FROM_SCIKIT_LEARN else [])]


def serve(connection: Connection) -> None:
    """Takes jobs, several at a time, from the pipe until it is closed, and answers each with how it ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the pool decides; where signals cannot be masked this says so
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    threading.Thread(target=_end_with_the_pool, daemon=True).start()
    sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - no bars of many at once
    warnings.showwarning = lambda message, *_: logging.getLogger("trainer").warning(f"Warning: {message}")
    logging.getLogger().setLevel(logging.INFO)
    with suppress(EOFError, OSError, KeyboardInterrupt):  # the pool has no more jobs, or is no more
        import_module(IMPORTED)  # as the server has done, where there is one
        from tqdm import tqdm

        tqdm.set_lock(threading.RLock())  # its own is a semaphore of the system, which a worker that is killed leaves
        connection.send("ready")
        while perform_together(connection.recv(), connection.send):
            continue


class Turn:
    """A job on its way, which stops before each epoch; what it raises ends in its log and in the answer alone."""

    def __init__(self, job: Job, seat: "Seat") -> None:
        from trainer.runs.run import resuming, running

        self.job, self.seat = job, seat
        self._steps = (resuming if job.goes_on else running)(job.settings, job.folder, job.recorded, seat)
        self._handler = LogFile(job.folder / LOG, delay=True)  # the run makes the folder
        self._handler.setFormatter(logging.Formatter("%(message)s"))

    def step(self, interrupt: bool = False) -> Ended | None:
        """Lets it go on to the next epoch, or be interrupted; how it ended, once it has."""
        root = logging.getLogger()
        root.addHandler(self._handler)
        try:
            if interrupt:
                self._steps.throw(KeyboardInterrupt())
            else:
                next(self._steps)
            return None
        except StopIteration as end:
            ended = Ended(self.job.number, "finished")
            result: Result | None = end.value
            if result is not None:  # or it was an experiment
                ended = Ended(self.job.number, result.status, "", dict(result.metrics), result.folder)
        except BaseException as error:
            ended = self._badly(error)
        finally:
            root.removeHandler(self._handler)
        self._handler.close()
        return ended

    def _badly(self, error: BaseException) -> Ended:
        status, reason, trace = "failed", str(error), "".join(traceback.format_exception(error))
        if isinstance(error, Diverged):
            status, trace = "diverged", ""
        elif isinstance(error, KeyboardInterrupt):
            status, reason, trace = "interrupted", "The sweep was interrupted.", ""
        elif isinstance(error, TrainerError):
            trace = ""
        elif isinstance(error, MemoryError):
            reason = f"Out of memory: {error or 'the system gave no more'}."
        elif isinstance(error, SystemExit):
            reason = f"The run called sys.exit({'' if error.code is None else repr(error.code)})."
        else:
            reason = f"{type(error).__name__}: {error}"
        with suppress(OSError):
            self.job.folder.mkdir(parents=True, exist_ok=True)
            self._handler.write_early()
        note(self.job.folder, trace + reason)
        return Ended(self.job.number, status, reason)


def perform_together(jobs: Sequence[Job], answer: Callable[[Ended], object]) -> bool:
    """Runs jobs side by side and answers each as it ends; whether all came to an end before an interruption.

    As many train at a time as have epochs of one kind, see optimizers.together, and room for their data.
    """
    from trainer.runs.company import Company, Seat, advance_all

    company = Company([job.settings for job in jobs])
    waiting, turns = deque(jobs), list[Turn]()

    def go_on(some: Sequence[Turn]) -> None:
        for turn in some:
            if (ended := turn.step()) is not None:
                turns.remove(turn)
                company.ended(turn.job.settings)
                try:
                    answer(ended)
                except OSError:
                    raise KeyboardInterrupt from None  # the pool is no more
                if ended.status == "interrupted":
                    raise KeyboardInterrupt

    try:
        while waiting or turns:
            one_kind = len({turn.seat.kind for turn in turns}) < 2
            while waiting and one_kind and company.has_room(waiting[0].settings):
                job = waiting.popleft()
                company.begun()
                turns.append(Turn(job, Seat(company, job.settings)))
                go_on(turns[-1:])
                one_kind = not turns or turns[-1].seat.kind == turns[0].seat.kind
            together = [turn for turn in turns if turn.seat.kind == turns[0].seat.kind]
            advance_all([turn.seat for turn in together])
            go_on(together)
    except KeyboardInterrupt:
        ends = [turn.step(interrupt=True) for turn in turns]
        with suppress(OSError):
            for ended in filter(None, ends):
                answer(ended)
        return False
    return True


def note(folder: Path, text: str) -> None:
    """Adds text to the log of a job, also of one that died before it made its folder."""
    with suppress(OSError):  # of a full disk, or a link; the reason stands in sweep.json as well
        folder.mkdir(parents=True, exist_ok=True)
        with open_log(folder / LOG) as file:
            file.write(text.rstrip("\n") + "\n")


def _end_with_the_pool() -> None:
    """A worker whose parent was killed has nobody to answer to."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
