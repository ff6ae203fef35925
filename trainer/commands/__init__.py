"""The command lines: ``trainer`` trains, ``trainer predict`` predicts, and so on; Hydra is imported in composing.py.

Exit codes: 0 done, 1 the training diverged, 2 a wrong input, 3 a file or memory that the system does not give,
129 SIGHUP, 130 Ctrl-C, 143 SIGTERM.
"""

import atexit
import gc
import io
import logging
import os
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import NoReturn

from trainer import __version__
from trainer.commands.words import as_meant
from trainer.errors import FileError, TrainerError, first_line
from trainer.runs.interrupts import Terminated, importing, signals
from trainer.runs.text import printable

COMMANDS = ("train", "predict", "evaluate", "explain", "probe", "report", "sweep", "check", "pairs")
LEAST_MEMORY = 768 << 20  # bytes of address space


def main(name: str = "train") -> NoReturn:
    """Runs a command with the words of the command line, the first of which may name another one."""
    if name == "train" and sys.argv[1:2] and sys.argv[1] in COMMANDS:
        name = sys.argv.pop(1)
    _prepare()
    code = _run(name)
    _flush()
    sys.exit(code)


def _prepare() -> None:
    gc.set_threshold(10_000)  # imports make many objects and hardly a cycle: looking for one takes a tenth of the start
    atexit.register(gc.freeze)  # and all that there is lives to the end, where Python would look through it once more
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal's encoding lacks is no reason to fail
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    warnings.showwarning = lambda message, *_: print(f"Warning: {message}", file=sys.stderr)
    logging.raiseExceptions = False  # a reader who has left, as head does, must not stop the training or be shouted at


def _run(name: str) -> int:
    """The exit code of a command; whatever goes wrong is a sentence on stderr."""
    try:
        if "--version" in sys.argv[1:]:
            print(f"softmax-trainer {__version__}")
            return 0
        _check_system()
        with importing():
            command: Callable[[list[str]], int | None] = import_module(f"trainer.commands.{name}").main
        with signals():
            return command(as_meant(name, sys.argv[1:])) or 0
    except (Exception, KeyboardInterrupt) as error:
        ending = _ending(error)
        if ending is None:
            raise
        code, sentence = ending
        if sentence:
            with suppress(BrokenPipeError):
                print(printable(sentence, kept="\n"), file=sys.stderr)
        return code


def _ending(error: BaseException) -> tuple[int, str] | None:
    """The exit code of an error, and what is said of it; None for one that nobody has thought of."""
    match error:
        case TrainerError():
            return error.exit_code, str(error)
        case BrokenPipeError():  # whoever read this has read enough
            return 0, ""
        case OSError():
            return 3, f"{error.filename or 'A file'} cannot be read or written: {error.strerror or error}."
        case MemoryError():
            short = first_line(error) or "The memory does not suffice"
            return 3, f"{short}. Free some, raise its limit (ulimit -v), or take less at once by batch_size."
        case RuntimeError() if type(error).__name__ == "OutOfMemoryError":  # torch's, which only some have
            return 3, f"{first_line(error)}. Take dtype=float32, fewer rows, a batch_size, or device=cpu."
        case ImportError():
            reason = first_line(error.__cause__ or error)
            return 3, f"{reason}. Install anew; if a limit of memory is the cause, raise it (ulimit -v)."
        case Terminated():
            return error.code, error.sentence
        case KeyboardInterrupt():  # in a thread of another program, which hears no signals
            return 130, "Interrupted."
    return None


def _check_system() -> None:
    """Refuses to begin where OpenBLAS would wait for memory for ever, from an import and deaf to signals."""
    with suppress(ImportError):  # Windows
        from resource import RLIMIT_AS, getrlimit

        limit = getrlimit(RLIMIT_AS)[0]
        if 0 <= limit < LEAST_MEMORY:
            raise FileError(
                f"The limit of memory is {limit >> 10} KiB, too little to begin. Raise it: ulimit -v {1 << 21}."
            )
    try:
        os.getcwd()
    except FileNotFoundError:
        raise FileError("The working folder no longer exists. Change to one that does.") from None


def _flush() -> None:
    """Writes out what was printed; what nobody reads any more is dropped, or Python would complain at its end."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        except (AttributeError, ValueError):  # closed before the program began
            continue
