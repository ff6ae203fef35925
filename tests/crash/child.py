"""A run in a process of its own whose writes take their time, so that many a kill falls inside one.

The production code knows nothing of it: os.write, os.fsync and os.replace are replaced here, in the child. A byte in a
file of the parent's says whether one of them, or the writing of a file between them, is under way.
"""

import os
import time
from contextlib import suppress
from pathlib import Path
from threading import RLock

from tqdm import tqdm

from trainer.errors import FileError
from trainer.runs import checkpoint, outputs
from trainer.runs.config import Settings
from trainer.runs.run import resume, run

PIECE = 400  # bytes of one write
PAUSE = 0.0005  # seconds before and after each call


def slowly(marker: int) -> None:
    """Lets every call that writes come in pieces and late, and marks the time of it."""

    def slow(call):
        def calling(*arguments):
            os.pwrite(marker, b"1", 0)
            time.sleep(PAUSE)
            try:
                return call(*arguments)
            finally:
                time.sleep(PAUSE)
                os.pwrite(marker, b"0", 0)

        return calling

    write = os.write
    os.write = slow(lambda descriptor, data: write(descriptor, bytes(data[:PIECE])))
    os.fsync, os.replace = slow(os.fsync), slow(os.replace)
    outputs.git_commit()  # a process of its own, which has nothing to do with it


def make_killable(marker: Path) -> None:
    """Lets this process write slowly, and keep a checkpoint after every epoch."""
    checkpoint.EVERY, checkpoint.SHARE = 0.0, 1e9
    tqdm.set_lock(RLock())  # its own would be left behind in the system when the process is killed
    slowly(os.open(marker, os.O_WRONLY | os.O_CREAT))


def train(settings: Settings, folder: Path, marker: Path) -> None:
    """The run, or what is left of it."""
    make_killable(marker)
    go_on(settings, folder)


def go_on(settings: Settings, folder: Path) -> None:
    """What a person does with a folder: goes on, or starts the run if it has not even said what it is."""
    with suppress(FileError):
        resume(settings, folder)
        return
    run(settings, folder)
