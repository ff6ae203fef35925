"""Seconds to a certified 1e-6 on rows that stay on the disk: one process, and Dask with one and two workers.

    python benchmarks/cluster.py [--rows 10000000] [--features 64] [--classes 10] [--folder outputs/cluster]

The rows are float32 in ten Parquet files with row groups of 65,536 rows, and the command is the same but for engine=.
"fit" is the solver's share, without the start of the command, the preparation of the data (two passes) and the
evaluation at the end. "round" is the time of one call to all workers and back that computes nothing, the median of a
hundred. Peak memory is that of each process, the largest first. dask-ml's LogisticRegression is timed in the Python
that --peer names, in two classes, the only number that it knows, on rows that are standardised for it and persisted in
its two workers; its tol is the default.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

FILES, GROUP = 10, 1 << 16
WORDS = ["optimizer=auto", "penalty=l2", "penalty.strength=1e-4", "valid_fraction=0.01"]
WORDS += ["plots=false", "checkpoint=false"]


def write(folder: Path, rows: int, features: int, classes: int) -> None:
    """The files, if they are not there: a mixture of what scales and offsets real features have, and noisy labels."""
    import pyarrow
    from pyarrow import parquet

    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    weights = random.normal(size=(features, classes)) / np.sqrt(features)
    scale, offset = np.exp(random.normal(size=features)), random.normal(size=features)
    for number in range(FILES):
        path = folder / f"part{number}.parquet"
        count = rows * (number + 1) // FILES - rows * number // FILES
        if path.exists() and parquet.read_metadata(path).num_rows == count:
            continue
        writer = None
        for start in range(0, count, GROUP):
            z = random.standard_normal((min(GROUP, count - start), features), dtype=np.float32)
            label = (2 * z @ weights + random.gumbel(size=(len(z), classes))).argmax(axis=1)
            x = (z * scale + offset).astype(np.float32)
            columns = {**{f"f{d}": x[:, d] for d in range(features)}, "label": label.astype(np.int8)}
            table = pyarrow.table(columns)
            writer = writer or parquet.ParquetWriter(path, table.schema, compression="none", use_dictionary=False)
            writer.write_table(table)
        if writer is not None:
            writer.close()


def processes(pid: int) -> list[int]:
    """A process and all that it has started."""
    found, new = [pid], [pid]
    while new:
        children = []
        for one in new:
            for task in Path(f"/proc/{one}/task").glob("*/children"):
                try:
                    children += map(int, task.read_text().split())
                except OSError:
                    continue
        new = children
        found += new
    return found


def peaks(process: "subprocess.Popen[str]") -> dict[int, float]:
    """GiB of each process at its largest, until the first one ends."""
    found: dict[int, float] = {}
    while process.poll() is None:
        for pid in processes(process.pid):
            try:
                high = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
            except OSError:
                continue
            found[pid] = max(found.get(pid, 0.0), int(high[1]) / 2**20 if high else 0.0)
        time.sleep(0.2)
    return found


def train(folder: Path, *words: str) -> tuple[float, list[float], dict[str, object]]:
    """Wall-clock seconds of the command, the peaks of its processes, and run.json."""
    out = folder / "run"
    for file in sorted(out.rglob("*"), reverse=True) if out.exists() else []:
        file.unlink() if file.is_file() else file.rmdir()
    what = [f"data.path={folder / 'rows'}", "data=file", "data.target=label", f"hydra.run.dir={out}"]
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "trainer", *what, *WORDS, *words], text=True)
    memory = peaks(process)
    wall = time.perf_counter() - began
    if process.returncode:
        sys.exit(process.returncode)
    return wall, sorted(memory.values(), reverse=True), json.loads((out / "run.json").read_text())


ROUND = """
import sys, time, statistics
import numpy as np
from trainer.chain.activations import Softmax
from trainer.chain.losses import CrossEntropy
from trainer.chain.strategies import auto
from trainer.data.features import living_on
from trainer.data.files import read
from trainer.objective.cluster import Dask
from trainer.objective.objective import BlockSum, Objective
from trainer.objective.penalties import L2
if __name__ == "__main__":
    with living_on(Dask(workers=int(sys.argv[2])).connect()):
        data = read(sys.argv[1], "label")
    sums = BlockSum(Objective(Softmax(), CrossEntropy(), auto, L2(1.0)), data)
    g = np.zeros((data.x.shape[1] + 1, len(data.classes)))
    seconds = []
    for _ in range(110):
        began = time.perf_counter()
        sums.map_sum(lambda block: (g + block.number,))
        seconds.append(time.perf_counter() - began)
    print(statistics.median(seconds[10:]))
"""

PEER = """
import sys, time
import dask.dataframe as dd
from dask.distributed import Client, LocalCluster
from dask_ml.linear_model import LogisticRegression
if __name__ == "__main__":
    client = Client(LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None))
    began = time.perf_counter()
    rows = dd.read_parquet(sys.argv[1]).astype("float32").to_dask_array(lengths=True)
    x, y = rows[:, :-1], rows[:, -1] == 0
    x, y = client.persist([(x - x.mean(axis=0)) / x.std(axis=0), y])
    LogisticRegression(solver="lbfgs", C=1e4 / len(y), max_iter=100).fit(x, y)
    print(f"{time.perf_counter() - began:9.1f}")
"""


def main() -> None:
    """Prints a line a way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("rows", 10_000_000), ("features", 64), ("classes", 10)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--folder", type=Path, default=Path("outputs/cluster"))
    parser.add_argument("--peer", default=sys.executable, help="a Python with dask-ml")
    given = parser.parse_args()
    folder = given.folder.resolve()
    write(folder / "rows", given.rows, given.features, given.classes)
    size = sum(path.stat().st_size for path in (folder / "rows").glob("*.parquet"))
    print(
        f"{given.rows:,} x {given.features} x {given.classes}, {size / 2**30:.2f} GiB; {os.cpu_count()} cores, load ",
        end="",
    )
    print(f"{os.getloadavg()[0]:.1f}")
    print(f"{'way':<36}{'seconds':>9}{'fit':>9}{'epochs':>8}{'gap':>10}{'round ms':>10}   peak GiB of each process")
    ways = {
        "one process, two threads": ["data.in_memory=false", "threads=2"],
        "Dask, one worker": ["engine=dask", "engine.workers=1"],
        "Dask, two workers": ["engine=dask", "engine.workers=2"],
    }
    for way, words in ways.items():
        wall, memory, record = train(folder, *words)
        table = (folder / "run" / "metrics.csv").read_text().splitlines()
        fit = float(table[-1].rpartition(",")[2])
        latency = ""
        if "Dask" in way:
            command = [sys.executable, "-c", ROUND, str(folder / "rows"), words[-1].rpartition("=")[2]]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            latency = f"{1000 * float(done.stdout):.1f}"
        large = ", ".join(f"{one:.2f}" for one in memory if one > 0.05)
        print(
            f"{way:<36}{wall:>9.1f}{fit:>9.1f}{record['epochs']:>8}{record['gap']:>10.1e}{latency:>10}   {large}",
            flush=True,
        )
    done = subprocess.run([given.peer, "-c", PEER, str(folder / "rows")], capture_output=True, text=True, check=False)
    said = done.stdout if done.returncode == 0 else done.stderr.strip().splitlines()[-1]
    print(f"{'dask-ml, two classes, two workers':<36}{said}")


if __name__ == "__main__":
    main()
