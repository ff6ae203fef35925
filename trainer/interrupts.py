"""Signals that end a command: on the spot while it imports, from then on as an exception to tidy up after."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn


@contextmanager
def importing(program: bool = True) -> Iterator[None]:
    """Ctrl-C ends a program on the spot, as nothing has begun; a module that is imported by one leaves that alone.

    An exception would be a traceback before main has begun, and another error inside the set-up of a C module.
    """

    def leave(*_: object) -> NoReturn:
        with suppress(OSError):
            os.write(2, b"Interrupted.\n")
        os._exit(130)

    ours = program and signal.getsignal(signal.SIGINT) is signal.default_int_handler
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
    """SIGTERM or SIGHUP, which end a run as Ctrl-C does; number is the signal's."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.args = (f"Ended by {signal.Signals(number).name}.",)


@contextmanager
def signals() -> Iterator[None]:
    """Makes Terminated of the signals that ask a process to end, but for those that it was started to ignore."""

    def terminate(number: int, _: object) -> NoReturn:
        raise Terminated(number)

    before = {}
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            with suppress(ValueError):  # in a thread of another program
                before[number] = signal.signal(number, terminate)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
