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
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

from trainer.errors import Diverged, TrainerError
from trainer.runs.config import Settings
from trainer.runs.outputs import LogFile, open_log

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
    """Takes jobs from the pipe until it is closed, and answers each with how it ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the pool decides; where signals cannot be masked this says so
    signal.signal(signal.SIGTERM, _interrupt)
    threading.Thread(target=_end_with_the_pool, daemon=True).start()
    sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - no bars of many at once
    warnings.showwarning = lambda message, *_: logging.getLogger("trainer").warning(f"Warning: {message}")
    logging.getLogger().setLevel(logging.INFO)
    try:
        import_module(IMPORTED)  # as the server has done, where there is one
        from tqdm import tqdm

        tqdm.set_lock(threading.RLock())  # its own is a semaphore of the system, which a worker that is killed leaves
        connection.send("ready")
        while True:
            job = connection.recv()
            ended = perform(job)
            connection.send(ended)
            if ended.status == "interrupted":
                return
    except (EOFError, OSError, KeyboardInterrupt):  # the pool has no more jobs, or is no more
        return


def perform(job: Job) -> Ended:
    """Runs one job; whatever it raises ends in its log and in the answer, and nowhere else."""
    from trainer.runs.run import resume, run

    handler = LogFile(job.folder / LOG, delay=True)  # run makes the folder
    handler.setFormatter(logging.Formatter("%(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    trace = ""
    try:
        if job.goes_on:
            result = resume(job.settings, job.folder, job.recorded)
        else:
            result = run(job.settings, job.folder, job.recorded, durable=False)
        if result is None:  # an experiment
            return Ended(job.number, "finished")
        return Ended(job.number, result.status, "", dict(result.metrics), result.folder)
    except Diverged as error:
        status, reason = "diverged", str(error)
    except KeyboardInterrupt:
        status, reason = "interrupted", "The sweep was interrupted."
    except TrainerError as error:
        status, reason = "failed", str(error)
    except MemoryError as error:
        status, reason = "failed", f"Out of memory: {error or 'the system gave no more'}."
        trace = traceback.format_exc()
    except SystemExit as stop:
        status, reason = "failed", f"The run called sys.exit({'' if stop.code is None else repr(stop.code)})."
        trace = traceback.format_exc()
    except BaseException as error:
        status, reason = "failed", f"{type(error).__name__}: {error}"
        trace = traceback.format_exc()
    finally:
        root.removeHandler(handler)
        handler.close()
    note(job.folder, trace + reason)
    return Ended(job.number, status, reason)


def note(folder: Path, text: str) -> None:
    """Adds text to the log of a job, also of one that died before it made its folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open_log(folder / LOG) as file:
            file.write(text.rstrip("\n") + "\n")
    except OSError:
        return  # a full disk, or a link; the reason stands in sweep.json as well


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _end_with_the_pool() -> None:
    """A worker whose parent was killed has nobody to answer to."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
