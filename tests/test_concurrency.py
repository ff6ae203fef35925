"""Fits beside one another, in threads and in processes: each has the bits that it has alone, and BLAS its threads."""

import multiprocessing
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
from joblib import Parallel, delayed
from joblib.externals.loky import get_reusable_executor
from threadpoolctl import threadpool_info, threadpool_limits

from trainer import SoftmaxRegression
from trainer.chain.activations import Softmax
from trainer.chain.losses import CrossEntropy
from trainer.chain.strategies import auto
from trainer.data.rows import Data
from trainer.errors import Diverged
from trainer.objective.objective import Objective
from trainer.objective.penalties import L2, NoPenalty
from trainer.objective.threads import blas_on_one_thread
from trainer.optimizers.first_order import Adam, Sgd
from trainer.optimizers.fit import TrainState, fit

LIMIT = 120  # seconds that a process has before it counts as hanging


def rows(n, features, classes):
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(n, features)), rng.normal(size=(features, classes))
    return x, (x @ w + rng.gumbel(size=(n, classes))).argmax(axis=1)


def bits(x, y, optimizer="lbfgs"):
    """The coefficients of a fit on two threads."""
    model = SoftmaxRegression(optimizer=optimizer, batch_size=None, max_iter=20, tol=1e-3, random_state=0, threads=2)
    return model.fit(x, y).coef_.tobytes()


def blas():
    """The threads of each BLAS of the process."""
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


@pytest.fixture(autouse=True)
def two_threads_of_blas():
    """Also on a machine with one core, where there would be nothing to restore."""
    with threadpool_limits(2, user_api="blas"):
        before = threadpool_info()
        yield
        assert threadpool_info() == before


def test_fits_in_threads_have_the_bits_that_they_have_alone():
    data, optimizers = rows(20_000, 40, 5), ["newton", "lbfgs", "adam"]
    alone = [bits(*data, optimizer) for optimizer in optimizers]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda optimizer: bits(*data, optimizer), optimizers * 4)) == alone * 4


def sent_bits(pipe):
    pipe.send_bytes(bits(*rows(40_000, 30, 4)))


def sent_blas(pipe):
    with blas_on_one_thread():
        inside = blas()
    pipe.send_bytes(bytes([*inside, *blas()]))


def sent_by(method, function):
    """What the function sends from a process of its own."""
    context = multiprocessing.get_context(method)
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=function, args=(theirs,))
    process.start()
    try:
        assert ours.poll(LIMIT), f"the child by {method} hangs"
        return ours.recv_bytes()
    finally:
        process.kill()
        process.join()


forks = pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="there is no fork")
warned = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")  # from Python 3.12 on


@pytest.mark.processes
@warned
@pytest.mark.parametrize("method", [pytest.param("fork", marks=forks), "spawn"])
def test_a_child_of_a_process_that_has_fitted_has_the_bits_of_its_parent(method):
    assert bits(*rows(40_000, 30, 4)) == sent_by(method, sent_bits)


@pytest.mark.processes
@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_fits_under_joblib_have_the_bits_that_they_have_alone(backend):
    data = rows(40_000, 30, 4)
    alone = bits(*data)
    try:
        assert Parallel(n_jobs=2, backend=backend)(delayed(bits)(*data) for _ in range(2)) == [alone, alone]
    finally:
        get_reusable_executor().shutdown(wait=True)


@contextmanager
def another_thread_inside():
    entered, leave = threading.Event(), threading.Event()

    def stay():
        with blas_on_one_thread():
            entered.set()
            leave.wait()

    thread = threading.Thread(target=stay)
    thread.start()
    entered.wait()
    try:
        yield
    finally:
        leave.set()
        thread.join()


def test_blas_has_one_thread_until_the_last_one_is_out():
    with another_thread_inside():
        with blas_on_one_thread():
            assert set(blas()) == {1}
        assert set(blas()) == {1}
    with blas_on_one_thread():
        with another_thread_inside():
            pass
        assert set(blas()) == {1}
    assert set(blas()) == {2}


@pytest.mark.processes
@forks
@warned
def test_a_child_that_is_forked_while_another_thread_fits_has_the_threads_of_blas_that_there_were_before():
    with another_thread_inside():
        assert set(sent_by("fork", sent_blas)) == {1, 2}


def reports(optimizer, penalty=NoPenalty(), **changes):  # noqa: B008 - frozen and without state
    """A fit as a generator."""
    x, y = rows(200, 3, 3)
    data = Data(x, y, (0, 1, 2), ("a", "b", "c"))
    objective = Objective(Softmax(), CrossEntropy(), auto, penalty, **changes)
    return fit(objective, optimizer, data, None, TrainState.start(optimizer, data), epochs=5)


def test_blas_is_restored_after_a_fit_that_fails():
    with pytest.raises(Diverged):
        list(reports(Sgd(lr=1e300), L2(1.0)))

    def fails(rows):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        next(reports(Adam(), progress=fails))


def test_blas_is_restored_while_a_fit_waits_and_after_it_is_left():
    running, other = reports(Adam()), reports(Adam())
    next(running)
    assert set(blas()) == {2}
    next(other)
    running.close()
    assert set(blas()) == {2}
    assert len(list(other)) == 4
