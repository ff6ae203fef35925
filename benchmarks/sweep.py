"""Runs a second of 200 tiny ones: our launcher, in stacks or not, beside Hydra's basic and joblib and GridSearchCV.

    python benchmarks/sweep.py [--jobs 200] [--slow-jobs 20]

Each run is data=blobs with 500 samples of 2 features in 3 classes, sgd with mini-batches of 32, 20 epochs, over two
learning rates and the seeds; the time is that of the whole command with its start. Hydra's launchers are slow, so they
get fewer jobs (--slow-jobs); joblib's is left out where hydra-joblib-launcher is not installed. GridSearchCV fits
trainer.SoftmaxRegression with the same optimisers on as many splits, without any files, which is less work.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec

GRID_SEARCH = """
import sys, warnings
import numpy as np
from sklearn.datasets import make_blobs
from sklearn.model_selection import GridSearchCV, ShuffleSplit
from trainer import SoftmaxRegression
from trainer.optimizers.first_order import Sgd
warnings.simplefilter("ignore")
jobs = int(sys.argv[1])
x, y = make_blobs(500, 2, centers=3, cluster_std=2.0, random_state=0)
model = SoftmaxRegression(max_iter=20, penalty="none", threads=1)
grid = {"optimizer": [Sgd(lr=0.01), Sgd(lr=0.1)]}
folds = ShuffleSplit(jobs // 2, test_size=0.2, random_state=0)
GridSearchCV(model, grid, cv=folds, n_jobs=-1, refit=False).fit(x, y)
"""


def timed(command: list[str], cwd: str) -> float:
    """Wall-clock seconds of a command."""
    began = time.perf_counter()
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    wall = time.perf_counter() - began
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")
    return wall


def main() -> None:
    """Prints a line a launcher."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--slow-jobs", type=int, default=20)
    given = parser.parse_args()
    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} cores, load {load:.1f} before (above 0.5 the numbers are too low)")
    print(f"{'launcher':<34}{'jobs':>6}{'seconds':>9}{'runs/s':>8}")

    def sweep(name: str, jobs: int, *flags: str) -> None:
        tiny = ["data.samples=500", "data.classes=3", "epochs=20", "optimizer.lr=0.01,0.1", f"seed=range({jobs // 2})"]
        command = [sys.executable, "-m", "trainer", "-m", *tiny, "plots=false", *flags]
        show(name, jobs, timed(command, tempfile.mkdtemp(dir=folder)))

    def show(name: str, jobs: int, wall: float) -> None:
        print(f"{name:<34}{jobs:>6}{wall:>9.2f}{jobs / wall:>8.1f}", flush=True)

    # All is removed at the end: after many were removed, ext4 without a journal makes files several times as slowly.
    with tempfile.TemporaryDirectory() as folder:
        sweep("ours, hydra/launcher=workers", given.jobs)
        sweep("ours, sweep.stack=off", given.jobs, "sweep.stack=off")
        sweep("Hydra's basic", given.slow_jobs, "hydra/launcher=basic", "hydra/sweeper=basic")
        if find_spec("hydra_plugins") and find_spec("hydra_plugins.hydra_joblib_launcher"):
            sweep("Hydra's joblib", given.slow_jobs, "hydra/launcher=joblib", "hydra/sweeper=basic")
        command = [sys.executable, "-c", GRID_SEARCH, str(given.jobs)]
        show("GridSearchCV, fits without files", given.jobs, timed(command, folder))


if __name__ == "__main__":
    main()
