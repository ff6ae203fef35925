"""Blocks on threads: a function of each in turn, its results in their order, with BLAS held to a thread of each.

NumPy lets go of the interpreter's lock, so threads share the work without copying; a second one pays from a millisecond
of work on.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from threading import RLock, get_ident
from typing import Any, TypeVar

from threadpoolctl import OpenBLASController, ThreadpoolController

T = TypeVar("T")
R = TypeVar("R")


def available_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_lock = RLock()
_inside: list[int] = []  # the threads that are inside blas_on_one_thread
_limits: list[Any] = []  # what the first of them has set, which knows what was before


@contextmanager
def blas_on_one_thread() -> Iterator[None]:
    """Holds BLAS to one thread, so that blocks can have a core each and sums do not depend on the machine.

    That is a setting of the process, in which several threads may fit: the first one in makes it, the last one out
    takes it back.
    """
    with _lock:
        if not _inside:
            _disown()
            _limits.append(_blas().limit(limits=1))
        _inside.append(get_ident())
    try:
        yield
    finally:
        with _lock:
            _inside.remove(get_ident())
            _take_back()


def _take_back() -> None:
    """Restores the threads of BLAS once nobody is inside."""
    if not _inside and _limits:
        _disown()
        _limits.pop().restore_original_limits()
        _disown()


def _disown() -> None:
    """Since 3.8 threadpoolctl heeds only the thread that was first to set a limit; here any may be first or last."""
    if hasattr(OpenBLASController, "clear_controlling_thread"):
        OpenBLASController.clear_controlling_thread(force=True)


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="blas")


@cache
def _workers(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)


def _alone() -> None:
    """In a forked child there is only the thread that forked: no workers, and no other that is inside."""
    _workers.cache_clear()
    _inside[:] = [thread for thread in _inside if thread == get_ident()]
    _take_back()
    _lock.release()


if hasattr(os, "register_at_fork"):  # with the lock held no other thread leaves a child half of a change
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_alone)


def in_order(function: Callable[[T], R], items: Sequence[T], threads: int) -> Iterator[R]:
    """The results in the order of the items, whichever thread is done first."""
    return map(function, items) if threads == 1 or len(items) == 1 else _workers(threads).map(function, items)
