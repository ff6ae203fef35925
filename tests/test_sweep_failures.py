"""One bad job never costs the others: what dies, hangs or raises in a sweep, Ctrl-C, and going on afterwards."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.test_command_line import LIMIT, command, report
from tests.test_run import SETTINGS
from tests.test_sweep import call  # noqa: F401
from trainer.runs import checkpoint
from trainer.sweeps import pool
from trainer.sweeps.record import read
from trainer.sweeps.worker import Job

SLOW = bool(os.environ.get("TRAINER_SLOW"))
slow = pytest.mark.skipif(not SLOW, reason="TRAINER_SLOW=1 runs it")
pytestmark = pytest.mark.processes
TINY = ["data.samples=40", "data.classes=2", "epochs=2", "hydra.sweep.dir=outputs/here"]

# Read by every Python process with this folder on its path: data of some seeds do harm instead of being made.
HARM = """
import json, os, signal, sys, time
from importlib.machinery import PathFinder

HARM = json.loads(os.environ["HARM"])


def harm(kind):
    if kind == "exception":
        raise RuntimeError("a bug <b>of</b> \\x1b[31mours")
    if kind == "exit":
        sys.exit(7)
    if kind == "_exit":
        os._exit(9)
    if kind == "memory":
        raise MemoryError("Unable to allocate 8.00 EiB")
    if kind == "limit":
        import resource
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, resource.RLIM_INFINITY))
        bytearray(1 << 31)
    if kind == "interrupt":
        raise KeyboardInterrupt
    if kind == "hang":
        time.sleep(600)
    if kind == "deaf":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
        time.sleep(600)
    os.kill(os.getpid(), getattr(signal, kind))
    time.sleep(600)


class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name != "trainer.data.rows":
            return None
        spec = PathFinder.find_spec(name, path)
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            prepare = module.prepare

            def harmful(*arguments, seed, **keys):
                if str(seed) in HARM:
                    harm(HARM[str(seed)])
                return prepare(*arguments, seed=seed, **keys)

            module.prepare = harmful

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Finder)
"""


@pytest.fixture
def harmful(tmp_path):
    """The environment in which the data of some seeds do harm."""
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "sitecustomize.py").write_text(HARM)
    return lambda **harms: {
        "PYTHONPATH": os.pathsep.join([str(tmp_path / "path"), os.environ.get("PYTHONPATH", "")]),
        "HARM": json.dumps({name.removeprefix("seed"): kind for name, kind in harms.items()}),
    }


WAYS = {
    "exception": ("failed", "RuntimeError: a bug"),
    "exit": ("failed", "sys.exit(7)"),
    "_exit": ("killed", "exit code 9"),
    "memory": ("failed", "Out of memory: Unable to allocate"),
    "limit": ("failed", "Out of memory"),
    "SIGKILL": ("killed", "signal 9 (SIGKILL)"),
    "SIGSEGV": ("killed", "signal 11 (SIGSEGV)"),
    "SIGABRT": ("killed", "signal 6 (SIGABRT)"),
    "hang": ("timeout", "sweep.timeout=4 seconds"),
    "deaf": ("timeout", "sweep.timeout=4 seconds"),
}


def check(outcome, here, harms):
    """Those did harm, and all others finished."""
    assert outcome.code == 1, outcome.err
    assert "Traceback" not in outcome.err
    assert "\x1b" not in outcome.out + outcome.err
    record = read(here)
    assert record.status == "failed"
    assert f"{len(harms)} of 20 jobs did not end well" in outcome.err
    assert "python -m trainer.sweep resume=outputs/here" in outcome.err
    for line in record.jobs:
        folder = here / line.folder
        if line.number in harms:
            status, reason = WAYS[harms[line.number]]
            assert (line.status, reason in line.reason) == (status, True), line
            assert reason in (folder / "trainer.log").read_text()
        else:
            assert line.status == "finished", line
            assert report(folder)["status"] == "finished"
    assert "bug" not in outcome.out or "\\x1b" in outcome.out
    assert all(
        name in (here / "summary.csv").read_text() for name in ("finished", *{WAYS[k][0] for k in harms.values()})
    )


def test_bad_jobs_cost_no_other(harmful, tmp_path):
    harms = dict(zip(range(1, 20, 2), WAYS, strict=True))
    environment = harmful(**{f"seed{seed}": kind for seed, kind in harms.items()})
    outcome = command("-m", "seed=range(20)", "sweep.timeout=4", *TINY, cwd=tmp_path, **environment)
    check(outcome, tmp_path / "outputs" / "here", harms)
    outcome = command("resume=outputs/here", cwd=tmp_path, module="trainer.sweep")
    assert (outcome.code, outcome.err) == (0, "")
    assert "10 of 20 jobs" in outcome.out
    assert read(tmp_path / "outputs" / "here").counts() == {"finished": 20}
    for number in range(20):
        assert (tmp_path / "outputs" / "here" / str(number) / "model.npz").exists()


def test_a_job_that_is_ended_by_its_timeout_leaves_nothing_that_python_warns_of(tmp_path):
    """It is ended while it trains, when what draws its bar has been loaded."""
    outcome = command("-m", "epochs=2,100000000", "sweep.timeout=3", *TINY[:2], TINY[-1], cwd=tmp_path)
    assert read(tmp_path / "outputs" / "here").counts() == {"finished": 1, "timeout": 1}
    assert "1 of 2 jobs did not end well" in outcome.err
    assert "resource_tracker" not in outcome.err


@slow
@pytest.mark.parametrize("kind", WAYS)
def test_one_bad_job_costs_no_other(harmful, tmp_path, kind):
    environment = harmful(seed7=kind)
    outcome = command("-m", "seed=range(20)", "sweep.timeout=4", *TINY, cwd=tmp_path, **environment)
    check(outcome, tmp_path / "outputs" / "here", {7: kind})


def test_fail_fast_stops_at_the_first(harmful, tmp_path):
    environment = harmful(seed0="SIGKILL")
    arguments = ["-m", "seed=range(40)", "sweep.fail_fast=true", "sweep.workers=2", *TINY]
    outcome = command(*arguments, cwd=tmp_path, **environment)
    assert outcome.code == 1
    assert "were not run" in outcome.err
    counts = read(tmp_path / "outputs" / "here").counts()
    assert counts["killed"] == 1
    assert counts.get("pending", 0) + counts.get("interrupted", 0) > 20  # of those in a stack some were on their way


def test_a_diverging_job_is_one_of_many(tmp_path):
    outcome = command("-m", "optimizer.lr=0.1,1e300", "loss=squared_error", "activation=identity", *TINY, cwd=tmp_path)
    assert outcome.code == 1
    assert read(tmp_path / "outputs" / "here").counts() == {"finished": 1, "diverged": 1}


def children(pid):
    """The processes below this one, of all generations."""
    table = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] != "Z":
                table[int(entry.name)] = int(fields[1])
    found, more = set(), {pid}
    while more:
        more = {child for child, parent in table.items() if parent in more} - found
        found |= more
    return found


def alive(pids):
    return [pid for pid in pids if Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.fixture
def listening():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.usefixtures("listening")
def test_a_ctrl_c_that_reaches_the_server_of_the_workers_while_it_imports_is_not_heard_there(tmp_path):
    started = [sys.executable, "-m", "trainer", "-m", "seed=1,2", *TINY]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(started, cwd=tmp_path, start_new_session=True, **pipes) as process:
        deadline = time.monotonic() + LIMIT
        while not (server := servers(process.pid)) and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(server[0], signal.SIGINT)
        _, err = process.communicate(timeout=LIMIT)
    assert (process.returncode, err) == (0, "")


def servers(parent):
    """The children of a process that start others."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words, status = (place / "cmdline").read_bytes(), (place / "stat").read_text()
        except OSError:  # ended meanwhile
            continue
        if b"forkserver" in words and int(status.rpartition(")")[2].split()[1]) == parent:
            found.append(int(place.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.usefixtures("listening")
@pytest.mark.parametrize(
    ("number", "code", "whole"),
    [
        (signal.SIGINT, 130, True),
        pytest.param(signal.SIGTERM, 143, False, marks=slow),
        pytest.param(signal.SIGKILL, -9, False, marks=slow),
    ],
)
def test_what_ends_a_sweep_leaves_no_process_and_can_go_on(harmful, tmp_path, number, code, whole):
    """As a terminal does, Ctrl-C goes to every process of the group."""
    environment = harmful(seed5="hang", seed6="deaf")
    arguments = ["-m", "seed=range(12)", "sweep.workers=2", "sweep.stack=off", *TINY]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started = [sys.executable, "-m", "trainer", *arguments]
    here = tmp_path / "outputs" / "here"
    with subprocess.Popen(
        started, cwd=tmp_path, env=os.environ | environment, start_new_session=True, **pipes
    ) as process:
        try:
            deadline = time.monotonic() + LIMIT
            while len(list(here.glob("[01234]/model.npz"))) < 5:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
            time.sleep(1.5)  # both workers hang by now, and sweep.json knows the others
            below = children(process.pid)
            assert len(below) >= 3
            began = time.monotonic()
            os.killpg(process.pid, number) if whole else process.send_signal(number)
            process.wait(timeout=LIMIT)
            took = time.monotonic() - began
            _, err = process.communicate(timeout=LIMIT)
        finally:
            process.kill()
    assert process.returncode == code, err
    assert took < 4  # two seconds, on a busy machine
    deadline = time.monotonic() + 2
    while alive(below) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(below)
    if code > 0:
        assert "Traceback" not in err
        assert "5 of 12 jobs have finished. Go on by python -m trainer.sweep resume=outputs/here" in err
        assert read(here).status == "interrupted"
        assert read(here).counts() == {"finished": 5, "interrupted": 2, "pending": 5}
        with (here / "summary.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [row["seed"] for row in rows] == [str(seed) for seed in range(12)]
        assert [row["status"] for row in rows] == ["finished"] * 5 + ["interrupted"] * 2 + ["pending"] * 5
    assert not list(here.rglob(".*.part"))
    outcome = command("resume=outputs/here", cwd=tmp_path, module="trainer.sweep")
    assert (outcome.code, outcome.err) == (0, "")
    assert "7 of 12 jobs" in outcome.out
    assert read(here).counts() == {"finished": 12}


def test_ctrl_c_ends_stacks_and_keeps_each_job(tmp_path):
    arguments = ["-m", "seed=range(3)", "optimizer.lr=0.1,0.2", "sweep.workers=2", *TINY, "epochs=100000000"]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    here = tmp_path / "outputs" / "here"
    started = [sys.executable, "-m", "trainer", *arguments]
    with subprocess.Popen(started, cwd=tmp_path, start_new_session=True, **pipes) as process:
        try:
            deadline = time.monotonic() + LIMIT
            while sum(path.stat().st_size > 500 for path in here.glob("[0-5]/metrics.csv")) < 6:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
            os.killpg(process.pid, signal.SIGINT)
            _, err = process.communicate(timeout=LIMIT)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "0 of 6 jobs have finished. Go on by python -m trainer.sweep resume=outputs/here" in err
    assert read(here).counts() == {"interrupted": 6}
    for number in range(6):
        assert report(here / str(number))["status"] == "interrupted"
        assert checkpoint.load(here / str(number) / "checkpoint.npz").state.epoch > 0
        assert not (here / str(number) / "run.lock").exists()


def test_jobs_of_a_stack_that_dies_go_on_alone(tmp_path):
    jobs = {number: Job(number, tmp_path / str(number), SETTINGS, {}) for number in range(3)}
    for number in (0, 2):
        (tmp_path / str(number)).mkdir()
    (tmp_path / "2" / "run.json").write_text("{}")
    made = pool.Pool(1, stacks=True)
    made.running = {0, 1, 2}
    assert [*made._lost(pool._Worker(None, None, True, jobs), "killed", "It was killed.")] == []
    assert [[(job.number, job.goes_on) for job in some] for some in made._waiting] == [
        [(0, False)],
        [(1, False)],
        [(2, True)],
    ]
    assert made.running == set()
    (ended,) = made._lost(pool._Worker(None, None, True, {1: jobs[1]}), "killed", "It was killed.")
    assert (ended.number, ended.status, ended.reason) == (1, "killed", "It was killed.")


def end_at_once(_):
    os._exit(9)


def test_processes_that_cannot_start_end_the_sweep(call, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(pool, "serve", end_at_once)
    outcome = call("-m", "seed=1,2", *TINY)
    assert outcome.code == 3
    assert "The processes of the sweep ended with exit code 9 before their first job." in outcome.err
    record = read(tmp_path / "outputs" / "here")
    assert (record.status, record.counts()) == ("interrupted", {"pending": 2})
    assert (tmp_path / "outputs" / "here" / "summary.csv").read_text().count("pending") == 2


@slow
@pytest.mark.parametrize("value", ["0", "abc"])
def test_odd_numbers_of_threads_in_the_environment(tmp_path, value):
    outcome = command("-m", "seed=1", *TINY, cwd=tmp_path, OMP_NUM_THREADS=value)
    assert outcome.code == 0
