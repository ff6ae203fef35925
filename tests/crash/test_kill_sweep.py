"""kill -9 at random moments of a sweep; then it goes on, to the bits of a sweep that nobody killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.crash.test_kill import check_nothing_is_torn
from tests.test_command_line import LIMIT
from tests.test_resume import FILES, outcome
from trainer.runs.checkpoint import NAMES
from trainer.sweeps.record import read

pytestmark = pytest.mark.processes
SLOW = os.environ.get("TRAINER_SLOW") == "1"
KILLS = {"off": 100, "auto": 20} if SLOW else {"off": 1, "auto": 1}  # of jobs that each train alone, and in stacks
EACH = 8 if SLOW else 1  # kills of one sweep, at most
AIMED = 0.6 if SLOW else 1  # share of the kills that wait for a write: most of the time goes by before the first one
JOBS = {
    "off": ["loss=ce,brier", "seed=range(4)", "epochs=8"] if SLOW else ["loss=ce,brier", "epochs=4"],
    "auto": ["optimizer.lr=0.01,0.1", *(["seed=range(4)", "epochs=8"] if SLOW else ["seed=1,2", "epochs=4"])],
}
ARGUMENTS = ["-m", "optimizer=adam", "schedule=cosine", "data.samples=60", "sweep.workers=2"]
PROGRAM = "from tests.crash.sweep_child import main; main()"


def start(folder, markers, stack):
    """Begins the sweep in the folder, or goes on with it, in a group of processes of its own."""
    markers.mkdir()
    fresh = [*ARGUMENTS, *JOBS[stack], f"sweep.stack={stack}", f"hydra.sweep.dir={folder}"]
    begun = [f"resume={folder}"] if (folder / "sweep.json").exists() else fresh
    root = Path(__file__).parents[2]
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *begun],
        cwd=folder.parent,
        env=os.environ | {"MARKERS": str(markers), "PYTHONPATH": str(root), "PYTHONWARNINGS": "error"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def finish(process):
    """Waits for the end of a sweep that nobody kills."""
    _, err = process.communicate(timeout=LIMIT)
    assert (process.returncode, err) == (0, b"")


def kill(process, whole):
    """Kills all processes of the sweep, or the first one only, which must take the others with it."""
    os.killpg(process.pid, signal.SIGKILL) if whole else process.kill()
    process.wait()
    process.stderr.close()
    deadline = time.monotonic() + LIMIT
    while group(process.pid):
        assert time.monotonic() < deadline, "a worker outlives its sweep"
        time.sleep(0.005)


def writes(markers):
    """Whether a process of the sweep is inside a write."""
    return any(path.read_bytes() == b"1" for path in markers.iterdir())


def works(markers):
    """Whether a worker has begun."""
    return len(list(markers.iterdir())) > 1


def wait_for(sign, markers, process):
    """Waits until there is a sign, or the sweep has ended."""
    while process.poll() is None and not sign(markers):
        time.sleep(0.0005)


def group(number):
    """The living processes of a group."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            state, _, owner, *_ = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        found += [entry.name] if int(owner) == number and state != "Z" else []
    return found


def jobs_of(folder):
    return {path.name: outcome(path) for path in folder.iterdir() if path.is_dir()}


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize("stack", JOBS)
def test_killed_sweeps_go_on_to_the_same_bits(stack, tmp_path):
    began = time.monotonic()
    process = start(tmp_path / "whole", tmp_path / "markers", stack)
    wait_for(works, tmp_path / "markers", process)
    idle = time.monotonic() - began
    finish(process)
    length = time.monotonic() - began
    whole = jobs_of(tmp_path / "whole")
    assert len(whole) == (8 if SLOW else 2 if stack == "off" else 4)
    rng = np.random.default_rng(None if SLOW else 0)
    kills = inside = sweeps = 0
    while kills < KILLS[stack]:
        sweeps += 1
        folder = tmp_path / f"sweep{sweeps}"
        for attempt in range(rng.integers(1, EACH, endpoint=True)):
            markers = tmp_path / f"markers{sweeps}-{attempt}"
            process = start(folder, markers, stack)
            if rng.random() < AIMED:
                wait_for(works, markers, process)
                time.sleep(rng.uniform(0, (length - idle) / 2))
                wait_for(writes, markers, process)
            else:
                time.sleep(rng.uniform(0, length))
            if process.poll() is not None:
                finish(process)
                break
            kill(process, whole=rng.random() < 0.5)
            kills += process.returncode == -signal.SIGKILL
            inside += writes(markers)
            for job in folder.glob("[0-9]"):
                check_nothing_is_torn(job)
            if (folder / "sweep.json").exists():
                read(folder)
        finish(start(folder, tmp_path / f"markers{sweeps}", stack))
        assert jobs_of(folder) == whole
        assert set(read(folder).counts()) == {"finished"}
        assert not list(folder.rglob(".*"))
        for job in folder.glob("[0-9]"):
            assert {path.name for path in job.iterdir()} - {NAMES[1], "run.lock"} == FILES | {"trainer.log"}
    seconds = time.monotonic() - began
    told = f"stack={stack}: {kills} kills of {sweeps} sweeps, {inside} inside a write, in {seconds:.0f} s"
    print(f"{told}; all went on to the same bits")
    assert inside >= (KILLS[stack] * 2 // 5 if SLOW else 0)
