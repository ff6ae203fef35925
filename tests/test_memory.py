"""Memory is estimated before it is taken, and what is not there is not asked for."""

import resource
import time
import tracemalloc
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from tests.test_run import SETTINGS
from trainer import SoftmaxRegression
from trainer.chain.activations import Softmax
from trainer.chain.losses import CrossEntropy
from trainer.chain.strategies import auto
from trainer.commands.predict import predict
from trainer.data.rows import Data, Numbered
from trainer.data.sources import Blobs
from trainer.errors import DataError, FileError
from trainer.objective.objective import Objective
from trainer.objective.penalties import L1, L2
from trainer.objective.problem import Problem
from trainer.optimizers import OPTIMIZERS, Adam, Fista, Lbfgs, Newton, Sgd
from trainer.optimizers.cross_validation import Fold, cross_validate
from trainer.optimizers.fit import TrainState, fit
from trainer.runs import memory
from trainer.runs.model import Model
from trainer.runs.parts import assemble
from trainer.runs.run import run
from trainer.runs.training import prepared

GIB = 1 << 30
N, K = 60, 3


def wide(columns, rows=N):
    """A sparse matrix of one number a row."""
    return sparse.csr_array((np.ones(rows), np.arange(rows) % min(columns, 1000), np.arange(rows + 1)), (rows, columns))


@pytest.fixture
def small(monkeypatch):
    """A system with 2 GiB, whatever the machine has."""
    monkeypatch.setattr(memory, "available", lambda: 2 * GIB)


@pytest.fixture
def saved(tmp_path):
    """The settings of a run on a sparse file of so many columns."""

    def write(columns, **settings):
        sparse.save_npz(tmp_path / "x.npz", wide(min(columns, 1 << 62)))
        np.save(tmp_path / "y.npy", np.arange(N) % K)
        data = {"name": "file", "path": str(tmp_path / "x.npz"), "target": str(tmp_path / "y.npy")}
        return replace(SETTINGS, data=data, **settings)

    return write


# what is refused


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
@pytest.mark.parametrize("columns", [1 << 24, 1 << 25, 1 << 31, 1 << 40])
def test_a_few_numbers_in_very_many_columns_are_refused_at_once(saved, small, tmp_path, columns, optimizer):
    settings = saved(columns, optimizer={"name": optimizer})
    tracemalloc.start()
    began = time.process_time()
    with pytest.raises(
        (FileError, DataError), match=r"takes about [\d.]+ GiB of memory, and 2\.00 GiB|columns; from 1"
    ):
        run(settings, tmp_path / "run")
    assert time.process_time() - began < 1
    assert tracemalloc.get_traced_memory()[1] < 100e6
    tracemalloc.stop()
    assert not (tmp_path / "run").exists()


def test_what_fits_is_trained_on(saved, small, tmp_path):
    result = run(saved(1 << 16, epochs=1), tmp_path / "run")
    assert result.status == "finished"
    assert Model.load(tmp_path / "run" / "model.npz").features == Numbered(1 << 16)


def test_the_sentence_names_the_shape_and_a_way_out(saved, small, tmp_path):
    with pytest.raises(
        FileError, match=r"60 rows of 16,777,216 features in 3 classes by optimizer=lbfgs .* such as sgd"
    ):
        run(saved(1 << 24, optimizer={"name": "lbfgs"}), tmp_path / "run")
    assert FileError.exit_code == 3


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_the_estimator_refuses_what_does_not_fit(small, method):
    y = np.arange(N) % K
    more = {} if method == "fit" else {"classes": [0, 1, 2]}
    with pytest.raises(FileError, match=r"16,777,216 features .* 2\.00 GiB are available"):
        getattr(SoftmaxRegression(optimizer="adam", max_iter=1), method)(wide(1 << 24), y, **more)


def test_predictions_that_do_not_fit_are_refused(tmp_path, monkeypatch):
    settings = replace(SETTINGS, data={"name": "iris"})
    run(settings, tmp_path)
    sparse.save_npz(tmp_path / "x.npz", sparse.csr_array((3_000_000, 4)))
    monkeypatch.setattr(memory, "available", lambda: GIB)
    config = {"model": str(tmp_path / "model.npz"), "data": {"name": "file", "path": str(tmp_path / "x.npz")}}
    from omegaconf import OmegaConf

    with pytest.raises(FileError, match=r"Predicting 3 classes of 3,000,000 rows takes about .* GiB"):
        predict(OmegaConf.create(config))


# the estimate

OPTIMA = [Sgd(), Adam(), Newton(tol=1e-14), Lbfgs(tol=1e-14), Lbfgs(tol=1e-14, memory=5), Fista(tol=1e-14, gap=1e-300)]
SHAPES = [(60, 6_000, 3, "sparse"), (2000, 200, 3, "dense"), (50_000, 20, 4, "dense"), (300, 500, 20, "dense")]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("optimizer", OPTIMA, ids=repr)
def test_a_fit_takes_less_than_the_estimate_and_more_than_a_quarter_of_it(optimizer, shape, dtype):
    n, d, k, kind = shape
    random = np.random.default_rng(0)
    x = (
        random.normal(size=(n, d))
        if kind == "dense"
        else sparse.random_array((n, d), density=1e-3, format="csr", rng=0)
    )
    data = Data(x.astype(dtype), random.integers(k, size=n), tuple(range(k)), Numbered(d))
    penalty = L1(1e-4) if isinstance(optimizer, Fista) else L2(1e-4)
    objective = Objective(Softmax(), CrossEntropy(), auto, penalty, threads=1)
    budget = {"epochs": 24, "batch_size": None} if optimizer.full_batch else {"epochs": 2, "batch_size": n // 4}
    tracemalloc.start()
    for _ in fit(objective, optimizer, data, None, TrainState.start(optimizer, data), metrics={}, **budget):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    estimate = memory.of_fit(Problem(objective, data), optimizer, dtype, budget["batch_size"])
    assert estimate / 4 < peak < estimate


# what there is


@pytest.fixture
def system(tmp_path):
    """A root folder with these files of a Linux system."""

    def write(**files):
        for name, text in {"proc/meminfo": "MemTotal: 9 kB\nMemAvailable:    4194304 kB\n", **files}.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return tmp_path

    return write


def test_the_system_says_what_is_available(system):
    assert memory.available(system()) == 4 * GIB
    assert memory.available() > 0


@pytest.mark.parametrize("above", ["", "job/"])
@pytest.mark.parametrize(
    ("line", "mount", "limit", "key"),
    [
        ("0::/job/step", "", "memory.max", "anon"),
        ("4:memory:/job/step", "memory/", "memory.limit_in_bytes", "total_rss"),
    ],
)
def test_a_control_group_caps_it_and_so_do_those_above(system, line, mount, limit, key, above):
    folder = f"sys/fs/cgroup/{mount}{above}"
    files = {f"{folder}{limit}": f"{2 * GIB}\n", f"{folder}memory.stat": f"file 5\n{key} {GIB}\n"}
    files[f"sys/fs/cgroup/{mount}job/step/{limit}"] = "max\n"
    assert memory.available(system(**{"proc/self/cgroup": f"{line}\n"}, **files)) == GIB


def test_the_limit_of_addresses_caps_it(system, monkeypatch):
    page = resource.getpagesize()
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (3 * GIB, -1))
    assert memory.available(system(**{"proc/self/statm": f"{GIB // page} 1 1"})) == 2 * GIB


def test_without_proc_it_is_what_is_built_in(tmp_path, monkeypatch):
    monkeypatch.setattr(memory.os, "sysconf", lambda name: {"SC_PHYS_PAGES": 8, "SC_PAGE_SIZE": 4096}[name])
    assert memory.available(tmp_path) == 8 * 4096


@pytest.mark.parametrize(("source", "kept"), [(Blobs(features=3), False), (Blobs(), True)], ids=["space", "plane"])
def test_features_as_they_came_are_let_go_where_no_picture_needs_them(source, kept):
    seen = []

    def watched(seed):
        data = source(seed)
        seen.append(weakref.ref(data.x))
        return data

    settings = replace(SETTINGS, plots=True)
    training = prepared(settings, 3, assemble(settings)._replace(source=watched), Path(), None)
    assert (seen[0]() is not None) == kept == (training.plane is not None)


@pytest.mark.parametrize(
    ("n", "d", "k", "folds"), [(20_000, 10, 3, 5), (3_000, 200, 4, 3), (2_000, 20, 40, 10), (4_000, 5, 2, 50)]
)
def test_cross_validation_takes_no_more_than_is_estimated(n, d, k, folds):
    random = np.random.default_rng(0)
    data = Data(random.normal(size=(n, d)), random.integers(0, k, size=n), tuple(range(k)), Numbered(d))
    parts = np.array_split(random.permutation(n), folds)
    splits = [Fold(np.setdiff1d(np.arange(n), test), np.sort(test)) for test in parts]
    objective = Objective(Softmax(), CrossEntropy(), auto, L2(1.0), threads=1)
    path = [L2(1.0), L2(0.1)]
    estimate = memory.of_fit(Problem(objective, data), Newton(), np.float64, None) + memory.of_folds(data, folds, 1)
    tracemalloc.start()
    for cell in cross_validate(objective, Newton(), data, splits, lambda total: path, epochs=50, metrics={}):
        assert cell.certified
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 0.1 * estimate < peak < estimate
