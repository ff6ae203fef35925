"""``python -m tests.big PATH TARGET BATCH_SIZE EPOCHS``: trains on a file and prints what memory it took."""

import json
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

COLUMNS = 64
ROWS = 1 << 15  # 16 MiB as float64


def block(number):
    """Features (ROWS,COLUMNS) and labels (ROWS,) of 4 classes that a few columns tell apart."""
    rng = np.random.default_rng(number)
    x = np.tile(rng.normal(size=(ROWS // 64, COLUMNS)), (64, 1))
    y = np.tile(x[: ROWS // 64, :4].argmax(axis=1), 64)
    return x, y


def write_npy(folder, blocks):
    """The paths of features and labels."""
    shape = (blocks * ROWS, COLUMNS)
    with (folder / "x.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": shape})
        for number in range(blocks):
            file.write(block(number)[0].tobytes())
    np.save(folder / "y.npy", np.concatenate([block(number)[1] for number in range(blocks)]))
    return str(folder / "x.npy"), str(folder / "y.npy")


def write_table(folder, blocks, kind):
    """The path of a table and the name of its labels."""
    import pyarrow
    from pyarrow import parquet

    names = [f"c{column}" for column in range(COLUMNS)]
    schema = pyarrow.schema([*((name, pyarrow.float64()) for name in names), ("label", pyarrow.string())])
    path = str(folder / f"x.{kind}")
    if kind == "parquet":
        writer = parquet.ParquetWriter(path, schema, compression="none", use_dictionary=["label"])
    else:
        writer = pyarrow.ipc.new_file(path, schema)
    with writer:
        for number in range(blocks):
            x, y = block(number)
            columns = [*map(pyarrow.array, np.ascontiguousarray(x.T)), pyarrow.array([f"class {k}" for k in y])]
            writer.write_batch(pyarrow.record_batch(columns, schema=schema))
    return path, "label"


def memory(key):
    """MiB that this process has (VmRSS) or has had at most (VmHWM); ru_maxrss would begin with those of its parent."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[key].split()[0]) / 1024


def main(path, target, batch_size, epochs):
    """Trains and prints what it took."""
    from tests.test_run import SETTINGS, replace, run

    if not path.endswith("npy"):
        import pyarrow.parquet  # noqa: F401 - part of the interpreter's memory, not of the data's

    before, began = memory("VmRSS"), time.perf_counter()
    settings = replace(
        SETTINGS,
        data={"name": "file", "path": path, "target": target, "in_memory": False},
        optimizer={"name": "sgd", "lr": 0.5},
        batch_size=None if batch_size == "all" else int(batch_size),
        epochs=int(epochs),
    )
    with TemporaryDirectory() as folder:
        result = run(settings, Path(folder) / "run")
    numbers = {"mib": memory("VmHWM") - before, "seconds": time.perf_counter() - began}
    print(json.dumps({**numbers, **{k: result.metrics[k] for k in ("loss", "accuracy", "val_accuracy")}}))


if __name__ == "__main__":
    main(*sys.argv[1:])
