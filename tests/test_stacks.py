"""Jobs of a sweep side by side in a worker: each folder is that of the job alone, whatever becomes of the others."""

import json
import logging
import os
import re
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.test_command_line import assert_refused, call, command, report  # noqa: F401
from tests.test_resume import SMALL
from tests.test_run import json_of, perform, rows_of
from trainer.data import files, sources
from trainer.optimizers import together
from trainer.runs import checkpoint, company
from trainer.runs.checkpoint import NAMES
from trainer.runs.model import Model
from trainer.runs.outputs import Table
from trainer.runs.run import resume
from trainer.sweeps.pool import LARGEST, stacked
from trainer.sweeps.record import read
from trainer.sweeps.worker import Job, perform_together

SLOW = os.environ.get("TRAINER_SLOW") == "1"
TIMES = ("seconds", "table_sha256", "sha256")
TINY = replace(SMALL, threads=1, epochs=3)


def jobs_of(settings, folder):
    return [Job(number, folder / str(number), one, {}) for number, one in enumerate(settings)]


@pytest.fixture(autouse=True)
def _spoken():
    """Logs and warnings as in a worker."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.INFO)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.showwarning = lambda message, *_: logging.getLogger("trainer").warning(f"Warning: {message}")
        yield
    root.setLevel(level)


def timeless(value):
    """Without the clock, and what depends on it."""
    if isinstance(value, dict):
        return {key: timeless(item) for key, item in value.items() if key not in TIMES}
    return value


def content(folder):
    """All that a job has left but for times; a previous checkpoint comes and goes with them."""
    found = {}
    for path in folder.iterdir():
        if path.name == "run.json":
            found[path.name] = timeless(json_of(folder))
        elif path.name == "metrics.csv":
            found[path.name] = list(map(timeless, rows_of(folder)))
        elif path.name == NAMES[0]:
            kept = checkpoint.load(path)
            found[path.name] = repr(replace(kept, rows=list(map(timeless, kept.rows)), seconds=0.0))
        elif path.name == "model.npz":
            found[path.name] = Model.load(path).w.tobytes()
        elif path.name == "trainer.log":
            text = re.sub(r"in \d+\.\d+ s|  in .*/\d+: ", "", path.read_text())
            found[path.name] = text
        elif path.name != NAMES[1]:
            found[path.name] = path.read_bytes()
    return found


def assert_the_same(settings, tmp_path):
    """Runs jobs together and each alone; how they ended."""
    ends = []
    assert perform_together(jobs_of(settings, tmp_path / "together"), ends.append)
    for job in jobs_of(settings, tmp_path / "alone"):
        alone = perform(job)
        (end,) = [end for end in ends if end.number == job.number]
        assert (end.status, end.reason.replace("together", "alone")) == (alone.status, alone.reason)
        assert timeless(dict(end.metrics)) == timeless(dict(alone.metrics))
        one, other = content(tmp_path / "together" / str(job.number)), content(job.folder)
        assert one.keys() == other.keys()
        for name in one:
            assert one[name] == other[name], name
    return [end.status for end in sorted(ends, key=lambda end: end.number)]


@pytest.fixture
def sizes(monkeypatch):
    """How many trainings each epoch was made of."""
    found, whole = [], together._together
    monkeypatch.setattr(together, "_together", lambda members: found.append(len(members)) or whole(members))
    return found


RATES = st.floats(1e-4, 2.0)


@st.composite
def grids(draw):
    """Jobs that differ in numbers."""
    name = draw(st.sampled_from(["sgd", "adam", "adamw"]))
    penalty, smooth = draw(st.sampled_from(["none", "l2", "elastic_net"])), draw(st.booleans())
    alike = {
        "data": {"name": draw(st.sampled_from(["blobs", "moons"])), "samples": draw(st.sampled_from([60, 71]))},
        "batch_size": draw(st.sampled_from(["auto", None, 7])),
        "dtype": draw(st.sampled_from(["float64", "float32"])),
        "test_fraction": draw(st.sampled_from([0.0, 0.2])),
        "class_weight": draw(st.sampled_from([None, "balanced"])),
        "callbacks": draw(st.sampled_from([{}, {"early_stopping": {"patience": 1, "min_delta": 0.05}}])),
        "metrics": draw(st.sampled_from([["accuracy"], ["ece", "log_loss", "top_k"]])),
    }
    found = []
    for _ in range(draw(st.integers(2, 4))):
        own = {
            "seed": draw(st.integers(0, 3)),
            "epochs": draw(st.integers(1, 5)),
            "optimizer": {"name": name, "lr": draw(RATES)},
            "label_smoothing": draw(st.floats(0.01, 0.5)) if smooth else 0.0,
            "schedule": {"name": draw(st.sampled_from(["constant", "cosine"]))},
        }
        own["penalty"] = {"name": penalty} if penalty == "none" else {"name": penalty, "strength": draw(RATES)}
        if penalty == "elastic_net":
            own["penalty"]["l1_ratio"] = 0.0
        found.append(replace(TINY, **alike, **own))
    return found


@settings(max_examples=100 if SLOW else 6, deadline=None, derandomize=True)
@given(grid=grids())
def test_a_stack_leaves_the_files_of_each_job_alone(grid, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stack")
    assert {"finished", "stopped"} >= set(assert_the_same(grid, folder))


def test_jobs_that_diverge_or_stop_early_leave_and_cost_no_other(tmp_path, sizes):
    stop = {"early_stopping": {"patience": 2, "min_delta": 0.05}}
    rates = [0.1, 1e308, 1e-6, 0.2]
    grid = [
        replace(TINY, epochs=9, seed=n, optimizer={"name": "sgd", "lr": lr}, callbacks=stop if lr == 1e-6 else {})
        for n, lr in enumerate(rates)
    ]
    assert assert_the_same(grid, tmp_path) == ["finished", "diverged", "stopped", "finished"]
    assert sizes[0] == 4
    assert sizes[-1] == 2
    assert len(rows_of(tmp_path / "together" / "2")) == 3


def test_a_job_with_a_bug_costs_no_other(tmp_path, monkeypatch):
    add = Table.add

    def failing(self, row):
        if self._path.parent.name == "1" and row["epoch"] == 2:
            raise RuntimeError("a bug")
        add(self, row)

    monkeypatch.setattr(Table, "add", failing)
    grid = [replace(TINY, seed=n) for n in range(3)]
    ends = []
    assert perform_together(jobs_of(grid, tmp_path), ends.append)
    assert {end.number: end.status for end in ends} == {0: "finished", 1: "failed", 2: "finished"}
    assert json_of(tmp_path / "1")["status"] == "failed"
    assert "Traceback" in (tmp_path / "1" / "trainer.log").read_text()


def test_what_goes_wrong_in_an_epoch_of_all_is_told_to_each(tmp_path, monkeypatch):
    def wrong(_):
        raise ValueError("a bug of ours")

    monkeypatch.setattr(together, "_together", wrong)
    ends = []
    assert perform_together(jobs_of([replace(TINY, seed=n) for n in range(2)], tmp_path), ends.append)
    assert [end.reason for end in ends] == ["ValueError: a bug of ours"] * 2


def test_without_memory_for_all_each_trains_alone(tmp_path, monkeypatch):
    def short(_):
        raise MemoryError

    monkeypatch.setattr(together, "_together", short)
    assert assert_the_same([replace(TINY, seed=n) for n in range(2)], tmp_path) == ["finished"] * 2


@pytest.mark.parametrize("after", [1, 5, 6, 8])
def test_an_interrupted_stack_keeps_every_job_and_goes_on_to_the_same_bits(after, tmp_path, monkeypatch):
    """After 5 rows of three jobs the first two have done two epochs and the third one; a job of another kind waits."""
    grid = [replace(TINY, epochs=4, seed=n, optimizer={"name": "adam", "lr": 0.1}) for n in range(3)]
    add, left = Table.add, [after]

    def interrupt(self, row):
        add(self, row)
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt

    ends = []
    with monkeypatch.context() as patch:
        patch.setattr(Table, "add", interrupt)
        assert not perform_together(jobs_of(grid, tmp_path / "together"), ends.append)
    assert {end.status for end in ends} == {"interrupted"}
    assert len(ends) == 3
    for job in jobs_of(grid, tmp_path / "together"):
        assert json_of(job.folder)["status"] == "interrupted"
        assert checkpoint.load(job.folder / NAMES[0]).state.epoch == len(rows_of(job.folder))
        assert not (job.folder / "run.lock").exists()
    ends.clear()
    again = [replace(job, goes_on=True) for job in jobs_of(grid, tmp_path / "together")]
    assert perform_together(again, ends.append)
    for job in jobs_of(grid, tmp_path / "alone"):
        perform(job)
        one, other = content(tmp_path / "together" / str(job.number)), content(job.folder)
        for name in one.keys() - {"trainer.log"}:
            assert one[name] == other[name], name


def test_a_pool_that_is_no_more_leaves_every_job_interrupted(tmp_path):
    def gone(_):
        raise BrokenPipeError

    grid = [replace(TINY, epochs=2 + n, seed=n) for n in range(3)]
    assert not perform_together(jobs_of(grid, tmp_path), gone)
    assert [json_of(tmp_path / str(n))["status"] for n in range(3)] == ["finished", "interrupted", "interrupted"]
    assert resume(grid[2], tmp_path / "2", {}).status == "finished"


def test_checkpoints_of_a_stack_come_less_often(tmp_path, monkeypatch):
    taken = Counter()
    monkeypatch.setattr(checkpoint, "EVERY", 0.0)
    keep = checkpoint.keep

    def counting(folder, now, *rest):
        taken[folder.name] += now.status == "running"
        return keep(folder, now, *rest)

    monkeypatch.setattr(checkpoint, "keep", counting)
    monkeypatch.setattr(checkpoint, "ANOTHER", 1e9)
    perform_together(jobs_of([replace(TINY, seed=n) for n in range(3)], tmp_path), lambda _: None)
    assert set(taken.values()) == {0}
    perform(jobs_of([TINY], tmp_path / "alone")[0])
    assert taken["0"] > 0


def test_data_that_jobs_share_are_made_once_and_warned_of_each(tmp_path, monkeypatch):
    made, make = [], sources.Blobs.__call__
    monkeypatch.setattr(sources.Blobs, "__call__", lambda self, seed: made.append(seed) or make(self, seed))
    monkeypatch.setattr(together, "LARGEST", 0)  # large data: nothing is copied, and seeds take turns
    grid = [replace(TINY, seed=n % 2, optimizer={"name": "sgd", "lr": 0.1 * (n + 1)}) for n in range(6)]
    (ordered,) = stacked(jobs_of(grid, tmp_path), 1)
    ends = []
    assert perform_together(ordered, ends.append)
    assert [end.status for end in ends] == ["finished"] * 6
    assert made == [0, 1]


def test_little_room_lets_rows_of_one_seed_in_at_a_time(tmp_path, monkeypatch, sizes):
    grid = [replace(TINY, seed=n // 2, optimizer={"name": "sgd", "lr": 0.1 * (n + 1)}) for n in range(6)]
    monkeypatch.setattr(company, "ROOM", 1)
    assert assert_the_same(grid, tmp_path) == ["finished"] * 6
    assert set(sizes) == {2}


def test_the_log_of_each_job_is_its_own(tmp_path):
    grid = [replace(TINY, seed=n, optimizer={"name": "sgd", "lr": 0.1 + n}) for n in range(3)]
    perform_together(jobs_of(grid, tmp_path), lambda _: None)
    for n in range(3):
        text = (tmp_path / str(n) / "trainer.log").read_text()
        assert f"Sgd(lr={0.1 + n}" in text
        assert text.count("finished after 3 epochs") == 1


def test_stacks_are_of_jobs_that_differ_in_numbers_alone():
    path = Path()

    def kinds(*grid):
        return [[job.number for job in some] for some in stacked(jobs_of(grid, path), 1)]

    def changed(**changes):
        return replace(TINY, **changes)

    sgd = {"name": "sgd", "lr": 0.1}
    alike = [
        changed(seed=1),
        changed(optimizer=sgd),
        changed(optimizer={"name": "sgd", "lr": 1, "momentum": 0.5}),
        changed(epochs=9),
        changed(schedule={"name": "constant"}),
    ]
    assert [sorted(some) for some in kinds(TINY, *alike)] == [[0, 1, 2, 3, 4, 5]]
    for other in [
        changed(optimizer={"name": "adam"}),
        changed(optimizer={"name": "sgd", "nesterov": True}),
        changed(loss={"name": "brier"}),
        changed(activation={"name": "softmax", "temperature": 2.0}),
        changed(batch_size=9),
        changed(label_smoothing=0.1),
        changed(dtype="float32"),
        changed(data={"name": "blobs", "samples": 61}),
        changed(metrics=["brier"]),
        changed(callbacks={"early_stopping": {}}),
    ]:
        assert len(kinds(TINY, other)) == 2
    newton = changed(optimizer={"name": "newton"}, batch_size="auto")
    assert kinds(newton, newton) == [[0], [1]]
    folds = changed(folds=2, penalty={"name": "l2", "strength": "auto"})
    assert kinds(folds, folds) == [[0], [1]]
    several = changed(penalty={"name": "l2", "strength": [1.0, 0.1]})
    assert kinds(several, several) == [[0], [1]]
    elsewhere = changed(device="torch")
    assert kinds(elsewhere, elsewhere) == [[0], [1]]
    assert kinds(changed(experiment={"name": "question"}), changed(experiment={"name": "question"})) == [[0], [1]]


@pytest.mark.parametrize(("jobs", "workers"), [(1, 2), (2, 2), (3, 2), (200, 2), (129, 1), (65, 4), (5, 8)])
def test_stacks_keep_every_worker_busy(jobs, workers):
    found = stacked(jobs_of([replace(TINY, seed=n % 7) for n in range(jobs)], Path()), workers)
    lengths = [len(some) for some in found]
    assert sorted(job.number for some in found for job in some) == list(range(jobs))
    assert max(lengths) <= LARGEST
    assert max(lengths) - min(lengths) <= 1
    assert len(lengths) % workers == 0 or len(lengths) == jobs
    seeds = [job.settings.seed for some in found for job in some]
    assert seeds == sorted(seeds)


@pytest.mark.processes
def test_a_sweep_in_stacks_is_that_without(tmp_path):
    grid = ["loss=ce,brier", "optimizer.lr=0.1,0.2,1e308", "seed=1,2", "epochs=3", "data.samples=40"]
    for stack in ("auto", "off"):
        outcome = command("-m", *grid, f"sweep.stack={stack}", f"hydra.sweep.dir={stack}", cwd=tmp_path)
        assert outcome.code == 1, outcome.err
        assert read(tmp_path / stack).counts() == {"finished": 10, "diverged": 2}
    for line in read(tmp_path / "auto").jobs:
        one, other = (content(tmp_path / stack / line.folder) for stack in ("auto", "off"))
        for name in one.keys() - {"run.json", "model.md", NAMES[0]}:  # which have the word auto or off
            assert one[name] == other[name], name
    assert json.loads((tmp_path / "auto" / "0" / "run.json").read_text())["config"]["sweep"]["stack"] == "auto"


def test_a_stack_is_auto_or_off(call, tmp_path):  # noqa: F811
    assert_refused(call("-m", "seed=1,2", "sweep.stack=on"), 2, ["sweep.stack=on", "auto", "off"], tmp_path)


def mib_read(folder):
    """What the log of a job says of the disk."""
    return float(re.search(r"(\S+) MiB read of rows that stay in their file", (folder / "trainer.log").read_text())[1])


@pytest.mark.parametrize("batch_size", [None, 64])
def test_a_file_on_the_disk_is_read_once_for_the_whole_stack(batch_size, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", rng.normal(size=(40_000, 8)))
    np.save(tmp_path / "y.npy", rng.integers(3, size=40_000))
    place = {"path": str(tmp_path / "x.npy"), "target": str(tmp_path / "y.npy"), "in_memory": False}
    tried = replace(TINY, data={"name": "file", **place}, batch_size=batch_size, epochs=2, class_weight="balanced")
    grid = [replace(tried, optimizer={"name": "adam", "lr": 0.01 * (n + 1)}) for n in range(4)]
    assert perform_together(jobs_of(grid, tmp_path / "together"), lambda _: None)
    alone = perform(jobs_of(grid, tmp_path / "alone")[3])
    one, other = content(tmp_path / "together" / "3"), content(alone.folder)
    for name in one.keys() - {"trainer.log"}:
        assert one[name] == other[name], name
    once = mib_read(tmp_path / "alone" / "3")
    assert once >= 3 * 40_000 * 8 * 8 / 2**20
    most = max(mib_read(tmp_path / "together" / str(n)) for n in range(4))
    # What a run reads at its end, for its certificate and its evaluation, each of them reads by itself.
    assert once <= most < 2 * once
    assert "by all runs of the stack" in (tmp_path / "together" / "3" / "trainer.log").read_text()
    assert "by all runs" not in (tmp_path / "alone" / "3" / "trainer.log").read_text()


def test_a_file_is_read_once_for_all_seeds_and_warned_of_in_each_log(tmp_path, monkeypatch):
    rows = "\n".join(f"{n},{n % 5},{'ab'[n % 2]}" for n in range(80))
    (tmp_path / "rows.csv").write_text(f"id,x,label\n{rows}\n")
    read, reading = [], files.read
    monkeypatch.setattr(files, "read", lambda *given: read.append(given[0]) or reading(*given))
    data = {"name": "file", "path": str(tmp_path / "rows.csv"), "target": "label"}
    grid = [replace(TINY, data=data, seed=n) for n in range(3)]
    assert perform_together(jobs_of(grid, tmp_path / "together"), lambda _: None)
    assert len(read) == 1
    for n in range(3):
        first, *rest = (tmp_path / "together" / str(n) / "trainer.log").read_text().splitlines()
        assert first.startswith("Warning: ")
        assert "looks like an id" in first
        assert "Warning" not in "".join(rest)


def test_what_a_job_warns_of_before_it_has_a_folder_is_in_its_log_too_where_it_fails(tmp_path):
    rows = "\n".join(f"{n},{n % 5},{'ab'[n % 2]}" for n in range(80))
    (tmp_path / "rows.csv").write_text(f"id,x,label\n{rows}\n")
    data = {"name": "file", "path": str(tmp_path / "rows.csv"), "target": "label"}
    ended = perform(Job(0, tmp_path / "job", replace(TINY, data=data, class_weight={"c": 1.0}), {}))
    assert (ended.status, "class_weight has a weight for c" in ended.reason) == ("failed", True)
    first, second = (tmp_path / "job" / "trainer.log").read_text().splitlines()
    assert "looks like an id" in first
    assert second == ended.reason
