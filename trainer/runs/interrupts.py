"""Signals that end a command: on the spot while it imports, from then on as an exception to tidy up after."""

import atexit
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import NoReturn


@contextmanager
def importing() -> Iterator[None]:
    """Ctrl-C ends a program on the spot, as nothing has begun.

    An exception would be a traceback before main has begun, and another error inside the set-up of a C module.
    """

    def leave(*_: object) -> NoReturn:
        with suppress(OSError):
            os.write(2, b"Interrupted.\n")
        os._exit(130)

    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with suppress(ValueError):  # in a thread of another program
        if ours:
            signal.signal(signal.SIGINT, leave)
    try:
        yield
    finally:
        with suppress(ValueError):
            if ours:
                signal.signal(signal.SIGINT, signal.default_int_handler)


class Terminated(KeyboardInterrupt):
    """Ctrl-C, SIGTERM or SIGHUP, as an exception to tidy up after, with the exit code."""

    def __init__(self, number: int) -> None:
        self.code = 128 + number
        self.sentence = "Interrupted." if number == signal.SIGINT else "Terminated."
        self.args = (f"Ended by {signal.Signals(number).name}.",)


_arrived: list[int] = []  # signals that nobody has seen yet
_held = 0  # how many places want to be left in peace


@contextmanager
def signals() -> Iterator[None]:
    """Makes Terminated of the signals that ask a process to end, but for those that it was started to ignore.

    An exception may be lost on its way, as in a destructor or in C that clears it; it is then raised at the end.
    """
    before = {}
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            with suppress(ValueError):  # in a thread of another program
                before[number] = signal.signal(number, _arrive)
    try:
        yield
        _raise_the_first()
    finally:
        _arrived.clear()
        for number, handler in before.items():
            signal.signal(number, handler)
        if before:
            _leave_quietly()


@cache
def _leave_quietly() -> None:
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_DFL)  # or Ctrl-C at the very end would be a traceback


@contextmanager
def held() -> Iterator[None]:
    """Keeps the signals that come inside until the end of it, where what is half done would stay so."""
    global _held
    _held += 1
    try:
        yield
    finally:
        _held -= 1
    _raise_the_first()


def _arrive(number: int, _: object) -> None:
    _arrived.append(number)
    if not _held:
        raise Terminated(number)


def _raise_the_first() -> None:
    if _arrived and not _held:
        raise Terminated(_arrived[0])
