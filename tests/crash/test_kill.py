"""kill -9 at random moments of a run; then it goes on, to the bits of a run that nobody killed."""

import multiprocessing
import os
import time
from dataclasses import replace

import numpy as np
import pytest

from tests.crash.child import go_on, train
from tests.test_resume import FILES, SMALL, outcome
from trainer.runs import checkpoint
from trainer.runs.checkpoint import NAMES
from trainer.runs.model import Model
from trainer.runs.outputs import RECORD, read_record
from trainer.runs.run import run

pytestmark = pytest.mark.processes
SLOW = os.environ.get("TRAINER_SLOW") == "1"
MOMENTS = 100 if SLOW else 6
KILLS = 3  # of one run, at most: what was resumed is killed too
SETTINGS = replace(SMALL, optimizer={"name": "adam"}, schedule={"name": "cosine"}, threads=1, epochs=8)
ALLOWED = FILES | {NAMES[1], "run.lock", "trainer.log"} | {f".{name}.part" for name in FILES}
SERVER = multiprocessing.get_context("forkserver")  # children that have imported everything, without our threads


def start(folder, marker):
    SERVER.set_forkserver_preload(["tests.crash.child", "sklearn.datasets"])
    process = SERVER.Process(target=train, args=(SETTINGS, folder, marker), daemon=True)
    process.start()
    return process


def check_nothing_is_torn(folder):
    """Every file under its own name is whole, whenever the run was killed."""
    names = {path.name for path in folder.iterdir()}
    assert names <= ALLOWED
    if RECORD in names:
        read_record(folder)
    if "model.npz" in names:
        Model.load(folder / "model.npz")
    for name in names & set(NAMES):
        checkpoint.load(folder / name)


@pytest.mark.filterwarnings("error")
def test_killed_runs_go_on_to_the_same_bits(tmp_path):
    run(SETTINGS, tmp_path / "whole")
    marker = tmp_path / "marker"
    for name in ("first", "timed"):  # the second time the server is warm
        began = time.monotonic()
        start(tmp_path / name, marker).join()
        length = time.monotonic() - began
        assert outcome(tmp_path / name) == outcome(tmp_path / "whole")
    rng = np.random.default_rng(0 if not SLOW else None)
    kills = inside = 0
    for moment in range(MOMENTS):
        folder = tmp_path / f"run{moment}"
        for _ in range(rng.integers(1, KILLS + 1)):
            process = start(folder, marker)
            process.join(rng.uniform(0, length))
            process.kill()
            process.join()
            if process.exitcode == 0:
                break
            kills += 1
            inside += marker.read_bytes() == b"1"
            if folder.exists():
                check_nothing_is_torn(folder)
        go_on(SETTINGS, folder)
        assert outcome(folder) == outcome(tmp_path / "whole")
        assert {path.name for path in folder.iterdir()} - {NAMES[1]} == FILES
    print(f"{kills} kills of {MOMENTS} runs, {inside} of them inside a write; all went on to the same bits")
    assert kills >= (MOMENTS if SLOW else 1)
    assert inside >= (MOMENTS * 2 // 5 if SLOW else 0)
