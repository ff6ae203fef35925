"""A sweep as a command, whose processes all write slowly, each with a marker of its own as that of child.py."""

import os
import sys
from multiprocessing.connection import Connection
from pathlib import Path

from tests.crash.child import make_killable
from trainer import commands
from trainer.sweeps import pool
from trainer.sweeps.worker import serve


def mark() -> None:
    make_killable(Path(os.environ["MARKERS"]) / str(os.getpid()))


def serve_slowly(connection: Connection) -> None:
    """In the place of serve in each worker."""
    mark()
    serve(connection)


def main() -> None:
    """Begins a sweep, or goes on with it."""
    pool.serve = serve_slowly
    mark()
    commands.main("sweep" if sys.argv[1].startswith("resume=") else "train")
