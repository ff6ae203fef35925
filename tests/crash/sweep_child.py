"""A sweep as a command, whose processes all write slowly, each with a marker of its own as that of child.py."""

import os
import sys
from multiprocessing.connection import Connection
from pathlib import Path

import trainer.__main__
import trainer.sweep.__main__
from tests.crash.child import make_killable
from trainer.sweep import pool
from trainer.sweep.worker import serve


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
    (trainer.sweep.__main__ if sys.argv[1].startswith("resume=") else trainer.__main__).main()
