"""Signals that ask a process to end: none is lost, none comes where it must not, and the handlers are put back."""

import os
import signal
from contextlib import suppress

import pytest

from trainer.runs.interrupts import Terminated, held, signals

NUMBERS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture(autouse=True)
def usual():
    """The handlers of a program that a terminal has started, whatever those of the test run are."""
    before = {number: signal.getsignal(number) for number in NUMBERS}
    for number in NUMBERS:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_is_an_exception_with_its_exit_code(number):
    with pytest.raises(Terminated) as caught, signals():
        os.kill(os.getpid(), number)
    assert caught.value.code == 128 + number


def swallowed(number):
    """A command in which something that is not ours, as a destructor, loses an exception."""
    with signals(), suppress(BaseException):
        os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_that_something_swallows_is_raised_at_the_end(number):
    with pytest.raises(Terminated):
        swallowed(number)


def tidied(number, done):
    """A command that must not be left half done."""
    with signals(), held(), held():
        os.kill(os.getpid(), number)
        done.append(number)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_held_signal_waits_for_the_end_of_what_holds_it(number):
    done = []
    with pytest.raises(Terminated):
        tidied(number, done)
    assert done == [number]


def test_the_handlers_are_put_back_and_a_new_use_knows_nothing_of_the_last():
    with pytest.raises(Terminated), signals():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    with signals():
        pass


def test_what_was_to_be_ignored_stays_so():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with signals():
        os.kill(os.getpid(), signal.SIGHUP)
