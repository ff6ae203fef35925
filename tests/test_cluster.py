"""Rows on the workers of a cluster: the bits of one machine, whatever becomes of the workers, and sentences."""

import csv
import logging
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import fields, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from pyarrow import parquet

from tests.test_command_line import call  # noqa: F401 - a fixture
from tests.test_run import SETTINGS
from trainer.chain.activations import Identity, Softmax
from trainer.chain.losses import CrossEntropy, SquaredHinge
from trainer.chain.strategies import auto
from trainer.data import files
from trainer.data.features import living_on, over
from trainer.data.rows import for_training, prepare, stratified
from trainer.errors import ConfigError, DataError, FileError, TrainerError
from trainer.objective import cluster as module
from trainer.objective import worker
from trainer.objective.blocks import Block
from trainer.objective.cluster import Dask
from trainer.objective.metrics import ACCURACY, METRICS
from trainer.objective.objective import Objective
from trainer.objective.penalties import L1, L2
from trainer.objective.problem import Problem
from trainer.objective.threads import blas_on_one_thread
from trainer.optimizers.cross_validation import Fold, cross_validate
from trainer.optimizers.first_order import Sgd
from trainer.optimizers.fit import TrainState, fit
from trainer.optimizers.newton import Lbfgs, Newton
from trainer.optimizers.proximal import Fista
from trainer.runs.model import Model
from trainer.runs.run import run

pytest.importorskip("distributed")
ROOT = Path(__file__).parents[1]
N, D, K = 60_000, 3, 10  # six blocks
CE = Objective(Softmax(), CrossEntropy(), auto, L2(1e-3), threads=2)
FITS = {
    "newton": (CE, Newton(), None),
    "lbfgs": (CE, Lbfgs(), None),
    "fista": (replace(CE, penalty=L1(1e-3)), Fista(), None),
    "hinge": (replace(CE, activation=Identity(), loss=SquaredHinge()), Newton(), None),
    "sgd": (CE, Sgd(lr=0.1), 8192),
}


@pytest.fixture(autouse=True, scope="module")
def what_is_logged_is_heard_again():
    """LocalCluster silences the handlers of pytest, too, and for good."""
    yield
    for handler in logging.getLogger().handlers:
        handler.setLevel(logging.NOTSET)


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Features far from zero and of different sizes, and labels that they tell something about."""
    folder, random = tmp_path_factory.mktemp("rows"), np.random.default_rng(0)
    x = random.normal(size=(N, D))
    y = (x @ random.normal(size=(D, K)) + random.gumbel(size=(N, K))).argmax(axis=1)
    np.save(folder / "x.npy", x * [0.01, 1, 100] + 5)
    np.save(folder / "y.npy", y)
    return str(folder / "x.npy"), str(folder / "y.npy")


def prepared(paths, engine=None):
    """Training and validation rows that stay in their file."""
    with living_on(engine):
        data = files.read(*paths, in_memory=False)
    ready = prepare(data, valid_fraction=0.2, standardize=True, seed=1, dtype="float64")
    return ready._replace(train=for_training(ready.train, 0.0, "balanced"))


def reports(data, name, epochs=30):
    objective, optimizer, size = FITS[name]
    start = TrainState.start(optimizer, data.train)
    return fit(objective, optimizer, data.train, data.valid, start, epochs=epochs, batch_size=size, metrics=ACCURACY)


def digest(data, name):
    """All numbers of a fit."""
    return [(tuple(report.metrics.values()), report.state.w.tobytes()) for report in reports(data, name, 8)]


@pytest.mark.processes
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_any_number_of_workers_gives_the_bits_of_one_machine(paths, workers):
    here, there = prepared(paths), prepared(paths, Dask(workers=workers).connect())
    assert_array_equal(here.standardizer.mean, there.standardizer.mean)
    assert_array_equal(here.standardizer.scale, there.standardizer.scale)
    for name in FITS if workers == 2 else ["newton"]:
        assert digest(there, name) == digest(here, name), name


@pytest.mark.processes
def test_all_that_is_asked_of_an_objective_runs_on_a_cluster(paths):
    here, there = prepared(paths).train, prepared(paths, Dask().connect()).train
    rows = np.random.default_rng(0).permutation(len(here))[:1000]
    assert_array_equal(there.x[rows], here.x[rows])
    w = np.random.default_rng(1).normal(size=(D + 1, K))
    for objective in (CE, replace(CE, reduction="rows", intercept=False)):
        one, other = Problem(objective, here), Problem(objective, there)
        with blas_on_one_thread():
            assert_array_equal(one.value_and_grad(w)[1], other.value_and_grad(w)[1])
            assert one.evaluate(w, METRICS) == other.evaluate(w, METRICS)
            assert one.certify(w, 1e-6) == other.certify(w, 1e-6)
    assert there.x.tally.bytes > 0


@pytest.mark.processes
def test_a_cross_validation_on_a_cluster_is_that_of_the_folds_alone(paths):
    there, here = prepared(paths, Dask().connect()).train, prepared(paths).train
    held = stratified(here.labels, 3, 0)
    folds = [Fold(np.flatnonzero(held != fold), np.flatnonzero(held == fold)) for fold in range(3)]
    path = [L2(1e-1), L2(1e-3)]
    cells = [
        list(cross_validate(CE, Newton(tol=1e-9, gap=1e-10), data, folds, lambda total: path, epochs=50, metrics={}))
        for data in (here, there)
    ]
    assert all(cell.certified for cell in cells[1])
    found, wanted = ({(cell.fold, cell.place): cell.metrics["loss"] for cell in some} for some in cells)
    assert_allclose([found[key] for key in sorted(found)], [wanted[key] for key in sorted(wanted)], rtol=1e-6)


@pytest.mark.processes
def test_a_probe_of_layers_in_many_files_on_a_cluster_is_that_of_one_machine(call, tmp_path):  # noqa: F811
    random, labels = np.random.default_rng(0), np.arange(6000) % 3
    np.save(tmp_path / "labels.npy", labels)
    for number, scale in enumerate((0.5, 1.0)):
        (folder := tmp_path / f"layers/layer{number}").mkdir(parents=True)
        x = random.normal(size=(6000, 5)) + scale * np.eye(3, 5)[labels]
        for part, some in enumerate(np.array_split(x.astype(np.float32), 4)):
            parquet.write_table(pyarrow.table(dict(zip("abcde", some.T, strict=True))), folder / f"{part}.parquet")
    words = [f"features={tmp_path}/layers/*", f"labels={tmp_path}/labels.npy", "metrics=[log_loss]", "plots=false"]
    words += ["protocol.low=-2", "protocol.high=0", "protocol.strengths=3", "models=best"]
    tables, models = [], []
    for engine in ("local", "dask"):
        assert call(*words, f"engine={engine}", f"output={tmp_path / engine}", name="probe").code == 0
        with open(tmp_path / engine / "probe.csv", newline="") as file:
            tables.append(list(csv.DictReader(file)))
        models.append(Model.load(tmp_path / engine / "models/layer1").w)
    here, there = tables
    for one, other in zip(here, there, strict=True):
        assert [one[key] for key in ("layer", "C", "certified", "chosen")] == [
            other[key] for key in ("layer", "C", "certified", "chosen")
        ]
        assert float(one["log_loss"]) == pytest.approx(float(other["log_loss"]), rel=1e-5)
    assert_allclose(models[1], models[0], atol=1e-4)


@pytest.mark.processes
def test_rows_may_be_cut_into_blocks_in_several_ways(paths):
    data = prepared(paths, Dask().connect()).train
    sums, edges = Problem(CE, data).sums, {}
    for count in (128, 192):  # of blocks, and 64 shards
        cuts = np.linspace(0, len(data), count + 1).astype(int)
        parts = [Block(n, slice(*rows)) for n, rows in enumerate(pairwise(cuts.tolist()))]
        edges[count] = sums.map_sum(lambda block: ((block.rows.stop - block.rows.start,),), parts)[0]
        assert edges[count] == tuple(np.diff(cuts)), count


def test_what_a_worker_remembers_of_a_file_is_what_it_reads(paths):
    x = prepared(paths).train.x
    once = worker.Remembered(**{field.name: getattr(x, field.name) for field in fields(x)})
    for rows in (slice(3, 900), slice(900, 1000)):
        assert_array_equal(once[rows], x[rows])
    read = x.tally.bytes
    assert_allclose(once[3:900], (x.reader(0, N)[x.rows][3:900] - x.mean) / x.scale)
    assert x.tally.bytes == read
    short = np.array([[0.1, 2.0]], np.float32).astype(np.float64)
    assert worker._shortest(short).dtype == np.float32
    for numbers in ([0.1], [1e300], [2.0**24 + 1]):
        assert worker._shortest(np.array(numbers)).dtype == np.float64


def pids(engine):
    """Those of the workers that answer."""
    return sorted(pid for pid in engine._client.run(os.getpid, on_error="return").values() if isinstance(pid, int))


def kill(pid):
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.processes
@pytest.mark.parametrize("name", ["newton", "sgd"])
def test_a_fit_whose_workers_are_killed_has_the_bits_of_one_that_nobody_disturbs(paths, name):
    engine = Dask(workers=2).connect()
    wanted = digest(prepared(paths), name)
    data, found, random = prepared(paths, engine), [], np.random.default_rng(0)
    for report in reports(data, name, 8):
        found.append((tuple(report.metrics.values()), report.state.w.tobytes()))
        if len(found) < 4:
            victim = int(random.choice(pids(engine)))
            threading.Timer(random.uniform(0, 0.2), kill, (victim,)).start()
    assert found == wanted


def stubborn(x):
    raise ValueError("so many")


def refusing(x):
    raise DataError("Row 7 of a.csv is wrong; correct it.")


@pytest.mark.processes
def test_what_goes_wrong_on_a_worker_is_a_sentence_here(paths):
    x = prepared(paths, Dask().connect()).train.x
    with pytest.raises(TrainerError, match=r"^A worker has failed with ValueError: so many\.$"):
        list(over(x, stubborn))
    with pytest.raises(DataError, match=r"^Row 7 of a.csv is wrong; correct it\.$"):
        list(over(x, refusing))
    assert sum(over(x, len)) == len(x), "and the worker goes on"


@pytest.mark.processes
def test_a_file_that_vanishes_is_named(paths, tmp_path):
    for path in paths:
        os.link(path, tmp_path / os.path.basename(path))
    moved = str(tmp_path / "x.npy"), str(tmp_path / "y.npy")
    data = prepared(moved, Dask().connect())
    os.unlink(moved[0])
    with pytest.raises(FileError, match=r"x\.npy cannot be read any more: No such file"):
        digest(data, "newton")


@pytest.mark.processes
def test_workers_that_are_lost_again_and_again_end_a_run(paths):
    x = prepared(paths, Dask().connect()).train.x
    with pytest.raises(TrainerError, match=r"6 workers were lost within one pass .* more memory"):
        list(over(x, partial(_die, os.getpid())))


def _die(here, x):
    if os.getpid() != here:
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.processes
def test_another_version_on_a_worker_is_refused_with_both(monkeypatch):
    engine = Dask().connect()
    monkeypatch.setattr(module, "versions", lambda: worker.versions() | {"numpy": "1.0"})
    monkeypatch.setattr(engine, "_run", lambda function, workers: {"tcp://a:1": worker.versions()})
    with pytest.raises(ConfigError, match=rf"worker at tcp://a:1 has numpy {np.__version__}, and this process has 1.0"):
        engine._check_versions()


def test_a_scheduler_that_does_not_answer_is_a_sentence_soon(monkeypatch):
    monkeypatch.setattr(module, "SECONDS", 0.5)
    began = time.monotonic()
    with pytest.raises(ConfigError, match=r"^engine.address=tcp://127.0.0.1:9 has no scheduler that answers within"):
        Dask(address="tcp://127.0.0.1:9").connect()
    assert time.monotonic() - began < 10
    with pytest.raises(ConfigError, match=r"engine\.address=nowhere has no scheduler"):
        Dask(address="nowhere").connect()


def test_what_cannot_be_on_a_cluster_is_refused(tmp_path, monkeypatch):
    dask = {"name": "dask"}
    with monkeypatch.context() as job:
        job.setattr(module, "current_process", lambda: SimpleNamespace(daemon=True))
        with pytest.raises(ConfigError, match=r"A job of a sweep starts no workers\. Start some by dask worker"):
            Dask(workers=7).connect()
    with pytest.raises(ConfigError, match="engine=dask reads files, and data=blobs is made in memory; take data=file"):
        run(replace(SETTINGS, engine=dask), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"engine.workers must be at least 1, got 0"):
        run(replace(SETTINGS, engine=dask | {"workers": 0}, data={"name": "file", "path": "a.npy"}), tmp_path / "run")


@pytest.mark.processes
def test_a_file_that_can_only_be_read_whole_is_refused(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("a,b,label\n" + "1,2,0\n3,4,1\n" * 9)
    settings = replace(SETTINGS, engine={"name": "dask"}, data={"name": "file", "path": str(path), "target": "label"})
    with pytest.raises(ConfigError, match=r"a.csv can only be read whole; convert it to .parquet or .npy"):
        run(settings, tmp_path / "run")


def test_a_worker_keeps_as_much_as_its_memory_has_room_for(monkeypatch):
    here = worker._Worker()
    monkeypatch.setattr(worker, "_here", here)
    here.room = 2400
    store = here.store("a", True)
    for number in range(5):
        store.keep(Block(number, slice(0, 1)), np.zeros(100))
    assert (sorted(store.made), here.used) == ([0, 1, 2], 2400)
    assert here.store("a", True) is store
    z = np.zeros(100)
    store.keep(Block(7, slice(0, 1)), lambda: z)
    assert 7 not in store.made, "nor what closes over too much"
    here.drop(["a"])
    assert here.used == 0
    for number in range(2 * worker.STORES):
        here.store(str(number), True)
    assert len(here.stores) == worker.STORES
    assert here.store("b", False).keep(Block(0, slice(0, 1)), 3) == 3


@pytest.mark.processes
def test_the_command_says_and_writes_what_it_does_on_one_machine(paths, tmp_path, started):
    data = f"data=file data.path={paths[0]} data.target={paths[1]} optimizer=auto penalty=l2 plots=false"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    for name, where in (("here", "data.in_memory=false"), ("there", "engine=dask")):
        process = started(f"python -m trainer {data} {where} hydra.run.dir={tmp_path / name}", **pipes)
        said, error = process.communicate(timeout=100)
        assert (process.returncode, error) == (0, ""), error
        assert not re.search("distributed|tcp://", said), said
    assert weights(tmp_path / "here") == weights(tmp_path / "there")
    tables = [(tmp_path / name / "coefficients.csv").read_bytes() for name in ("here", "there")]
    assert tables[0] == tables[1]


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture
def started():
    """Starts commands of the environment, each in a group of processes, and ends them after the test."""
    there = []

    def start(line, **options):
        name, *rest = shlex.split(line)
        command = [sys.executable, *rest] if name == "python" else [str(Path(sys.executable).parent / name), *rest]
        options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL} | options
        env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": ""}
        there.append(subprocess.Popen(command, env=env, start_new_session=True, text=True, **options))
        return there[-1]

    yield start
    for process in there:
        end(process)


def end(process):
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def weights(folder):
    with np.load(folder / "model.npz") as model:
        return {name: model[name].tobytes() for name in model.files if model[name].dtype.kind == "f"}


@pytest.mark.processes
def test_a_cluster_by_hand_goes_on_after_all_of_its_workers_were_killed(paths, tmp_path, started):
    text = (ROOT / "docs" / "cluster.md").read_text()
    scheduler, some, train = re.search("```console\n(.*?)```", text, re.DOTALL)[1].splitlines()
    port = str(free_port())
    started(f"{scheduler} --no-dashboard".replace("8786", port))
    some = f"{some} --no-dashboard".replace("8786", port)
    one = some.replace("--nworkers 2", "--no-nanny")  # a nanny would start a worker that is killed again
    log = tmp_path / "worker.log"
    with log.open("w") as lines:
        workers = started(one), started(one, stderr=lines)
    data = f"data=file data.path={paths[0]} data.target={paths[1]} optimizer=sgd batch_size=8192 plots=false epochs=40"
    train = re.sub("data=file.*penalty=l2", data, train).replace("8786", port)
    folder = tmp_path / "run"
    first = started(f"{train} hydra.run.dir={folder}", stderr=subprocess.PIPE)
    while not (folder / "checkpoint.npz").exists():
        assert first.poll() is None, first.stderr.read()
        time.sleep(0.05)
    for worker_process in workers:
        end(worker_process)
    _, said = first.communicate(timeout=100)
    assert "has had no worker for 10 s. Start some by dask worker, and go on by resume=" in said
    assert (first.returncode, said.count("\n")) == (2, 1), said
    assert log.read_text().count("out-of-band") <= 1, "nor does a worker say each call"
    started(some)  # as the page has it, two workers with a nanny each
    again = started(f"python -m trainer resume={folder} engine.address=tcp://localhost:{port}", stderr=subprocess.PIPE)
    _, said = again.communicate(timeout=100)
    assert again.returncode == 0, said
    alone = started(f"python -m trainer {data} data.in_memory=false hydra.run.dir={tmp_path / 'alone'}")
    assert alone.wait(100) == 0
    assert weights(folder) == weights(tmp_path / "alone")
    sweep = f"{train} hydra.sweep.dir={tmp_path / 'sweep'} seed=3,4".replace("trainer", "trainer -m", 1)
    assert started(sweep.replace("epochs=40", "epochs=2"), cwd=tmp_path).wait(100) == 0
    alone = f"python -m trainer {data} data.in_memory=false seed=4 hydra.run.dir={tmp_path / 'four'}"
    assert started(alone.replace("epochs=40", "epochs=2")).wait(100) == 0
    assert weights(tmp_path / "sweep" / "1") == weights(tmp_path / "four")


@pytest.mark.processes
def test_a_worker_without_the_memory_for_its_rows_ends_in_a_sentence(tmp_path, started):
    random = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", random.random((2_000_000, 16), np.float32))
    np.save(tmp_path / "y.npy", np.arange(2_000_000) % 4)
    port = free_port()
    started(f"dask scheduler --host localhost --port {port} --no-dashboard")
    # Hardly what Python, numpy and Dask take before there is a row: its nanny ends it and starts it again.
    worker = f"dask worker tcp://localhost:{port} --nworkers 1 --nthreads 1 --memory-limit 110MiB --no-dashboard"
    started(worker)
    data = f"data=file data.path={tmp_path / 'x.npy'} data.target={tmp_path / 'y.npy'} data.in_memory=false"
    engine = f"engine=dask engine.address=tcp://localhost:{port}"
    train = f"python -m trainer {data} {engine} optimizer=newton penalty=l2 hydra.run.dir={tmp_path / 'run'}"
    first = started(train, stderr=subprocess.PIPE)
    _, said = first.communicate(timeout=100)
    assert (first.returncode, said.count("\n")) == (2, 1), said
    assert re.search("6 workers were lost within one pass .* Give each more memory|has had no worker for 10 s", said)
