"""Files that are read in blocks: the same as in memory, refused as strictly, and within a bound of memory."""

import importlib
import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from omegaconf import OmegaConf

from tests import big
from tests.test_run import SETTINGS
from trainer.commands.predict import predict
from trainer.data import reading
from trainer.data.features import Features
from trainer.data.files import read, read_features
from trainer.errors import ConfigError, DataError, FileError
from trainer.runs.model import Model
from trainer.runs.run import run

pyarrow = pytest.importorskip("pyarrow")
parquet = importlib.import_module("pyarrow.parquet")

N, D = 3000, 4
BLOCKWISE = ["npy", "parquet", "arrow", "feather"]


def sample(n=N):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, D)) * [1, 100, 0.01, 1] + [0, 5, 0, 3]
    return x, ((x - x.mean(axis=0)) / x.std(axis=0))[:, :3].argmax(axis=1)


def table(x, y, **columns):
    return pyarrow.table({**{f"f{j}": x[:, j] for j in range(x.shape[1])}, "label": y, **columns})


@pytest.fixture
def write(tmp_path):
    """Writes x and y, or a table of pyarrow's, as a file of this kind and gives its path and its target."""

    def write(kind, x, y=None, rows=500):
        path = str(tmp_path / f"data.{kind}")
        if kind == "npy":
            np.save(path, x)
            np.save(tmp_path / "y.npy", y)
            return path, str(tmp_path / "y.npy")
        content = x if isinstance(x, pyarrow.Table) else table(x, y)
        if kind == "parquet":
            parquet.write_table(content, path, row_group_size=rows)
        else:
            with pyarrow.ipc.new_file(path, content.schema) as writer:
                writer.write_table(content, max_chunksize=rows)
        return path, "label"

    return write


# the same as in memory


@pytest.mark.parametrize("kind", BLOCKWISE)
@pytest.mark.parametrize("dtype", ["float64", "float32", "int16", "bool"])
def test_rows_are_those_in_memory(write, kind, dtype):
    x, y = sample()
    x = x.astype(dtype)
    whole, lazy = (read(*write(kind, x, y), in_memory=in_memory) for in_memory in (True, False))
    assert isinstance(lazy.x, Features)
    assert_array_equal(whole.x, x)
    for index in (slice(None), slice(490, 1700), np.array([2999, 3, 3, 500]), slice(7, 7)):
        assert_array_equal(lazy.x[index], whole.x[index])
    assert_array_equal(lazy.y, whole.y)
    assert (lazy.classes, lazy.features, lazy.target) == (whole.classes, whole.features, whole.target)
    assert lazy.y.dtype == np.uint8


@pytest.mark.parametrize("kind", ["npy", "parquet", "arrow"])
def test_training_on_a_file_is_training_in_memory_bit_for_bit(write, kind, tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.data.features.AT_ONCE", 700 * D)  # several parts, so that their merging is seen
    path, target = write(kind, *sample())
    results = []
    for in_memory in (True, False):
        folder = tmp_path / str(in_memory)
        data = {"name": "file", "path": path, "target": target, "in_memory": in_memory}
        results.append(run(replace(SETTINGS, data=data, batch_size=None), folder).metrics)
    one, other = (Model.load(tmp_path / name / "model.npz") for name in ("True", "False"))
    assert_array_equal(one.w, other.w)
    assert_array_equal(one.standardizer.scale, other.standardizer.scale)
    assert {k: v for k, v in results[0].items() if k != "seconds"} == {
        k: v for k, v in results[1].items() if k != "seconds"
    }


@pytest.mark.parametrize("kind", ["npy", "parquet"])
def test_mini_batches_of_a_file_train_as_well_and_repeatably(write, kind, tmp_path):
    path, target = write(kind, *sample())
    data = {"name": "file", "path": path, "target": target, "in_memory": False}
    first, second = (run(replace(SETTINGS, data=data), tmp_path / name) for name in "ab")
    assert first.metrics["val_accuracy"] > 0.9
    assert first.metrics["loss"] == second.metrics["loss"]


def test_an_array_that_is_stored_by_columns_is_read_by_rows(write):
    x, y = sample()
    assert_array_equal(read(*write("npy", np.asfortranarray(x), y), in_memory=False).x[100:200], x[100:200])


def test_numbers_of_the_other_byte_order_are_turned(write):
    x, y = sample()
    lazy = read(*write("npy", x.astype(">f4"), y), in_memory=False).x
    assert_array_equal(lazy[:], x.astype(np.float32))
    assert lazy[:2].dtype.isnative


def test_what_is_small_is_read_whole_and_what_is_large_is_not(write, monkeypatch):
    paths = write("npy", *sample())
    assert isinstance(read(*paths).x, np.ndarray)
    monkeypatch.setattr(reading, "WHOLE", 8 * N * D - 1)
    assert isinstance(read(*paths).x, Features)
    monkeypatch.setattr(reading, "MAX_BYTES", 8 * N * D - 1)
    assert isinstance(read(*paths).x, Features)
    with pytest.raises(DataError, match=r"as float64 more than 95,999 bytes; leave data\.in_memory out"):
        read(*paths, in_memory=True)


def test_texts_that_are_not_utf8_are_refused(tmp_path):
    offsets = pyarrow.array([b"\xff", b"b", b"\xff", b"b"]).buffers()[1:3]
    labels = pyarrow.StringArray.from_buffers(4, *offsets)
    parquet.write_table(pyarrow.table({"x": [1.0, 2.0, 3.0, 4.0], "label": labels}), tmp_path / "labels.parquet")
    table = pyarrow.table({"NAME": [1.0, 2.0, 3.0, 4.0], "label": list("abab")})
    parquet.write_table(table, tmp_path / "names.parquet")
    with pyarrow.ipc.new_file(tmp_path / "names.arrow", table.schema) as file:
        file.write_table(table)
    for path in tmp_path.glob("names.*"):
        path.write_bytes(path.read_bytes().replace(b"NAME", b"NA\xed\xa0"))
    for path in tmp_path.iterdir():
        with pytest.raises(DataError, match=r"is damaged or no .* file"):
            read(str(path), "label")


@pytest.mark.parametrize("kind", ["npy", "arrow"])
def test_predictions_of_a_file_are_those_in_memory(write, kind, tmp_path):
    x, y = sample()
    path, target = write(kind, x, y)
    data = {"name": "file", "path": path, "target": target}
    run(replace(SETTINGS, data=data), tmp_path / "run")
    model = Model.load(tmp_path / "run" / "model.npz")
    lazy, _ = read_features(path, model.features, model.target, in_memory=False)
    assert_array_equal(model.predict(lazy), model.predict(x))
    predict(OmegaConf.create({"model": str(tmp_path / "run" / "model.npz"), "data": {"name": "file", "path": path}}))
    assert len((tmp_path / "run" / "data-predictions.csv").read_text().splitlines()) == N + 1


def test_columns_of_a_table_are_found_by_name(write):
    x, y = sample()
    path, _ = write("parquet", table(x, y).select(["f3", "label", "f0", "f2", "f1"]))
    assert_array_equal(read_features(path, ("f0", "f1", "f2", "f3"), "label")[0], x)
    with pytest.raises(DataError, match="the model has 3 features, the file 4; remove 'f3'"):
        read_features(path, ("f0", "f1", "f2"), "label")
    with pytest.raises(ConfigError, match=r"data\.target='lable' is not in .*Did you mean 'label'"):
        read(path, "lable")


@pytest.mark.parametrize(
    ("labels", "classes", "places"),
    [
        (["b", "a", "b"], ("a", "b"), [1, 0, 1]),
        ([3, -1, 3], (-1, 3), [1, 0, 1]),
        ([1.0, 2.0, 1.0], (1, 2), [0, 1, 0]),
        ([True, False, True], (0, 1), [1, 0, 1]),
        (["10", "9", "10"], (9, 10), [1, 0, 1]),
    ],
)
@pytest.mark.parametrize("kind", ["parquet", "arrow"])
@pytest.mark.parametrize("category", [False, True])
def test_labels_of_a_table_become_sorted_classes(write, kind, labels, classes, places, category):
    y = pyarrow.array(labels * 100)
    data = read(*write(kind, table(np.ones((300, 1)), y.dictionary_encode() if category else y), rows=70))
    assert data.classes == classes
    assert list(map(type, data.classes)) == list(map(type, classes))
    assert_array_equal(data.y, places * 100)


# refusals


@pytest.mark.parametrize("kind", BLOCKWISE)
@pytest.mark.parametrize("in_memory", [True, False])
def test_numbers_that_are_not_finite_are_named_and_counted(write, kind, in_memory):
    x, y = sample()
    x[1234, 2], x[2500] = np.nan, np.inf
    with pytest.raises(
        DataError, match=r"(1234, 2\]|row 1234 of column 'f2') is nan, the first of 5 values that are not"
    ):
        read(*write(kind, x, y), in_memory=in_memory)


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
@pytest.mark.parametrize("in_memory", [True, False])
def test_a_column_of_ids_is_named_wherever_it_is_read(write, kind, in_memory):
    x, y = sample()
    customers = np.arange(N)[::-1] * 7919 + 10**9
    with pytest.warns(UserWarning, match=rf"data\.{kind}: 'customer' looks like an id: .* remove what"):
        read(*write(kind, table(x, y, customer=customers)), in_memory=in_memory)


def test_empty_cells_are_refused(write):
    x, y = sample(4)
    empty = table(x, y).set_column(1, "f1", pyarrow.array([1, None, 3, 4]))
    with pytest.raises(DataError, match="row 1 of column 'f1' is nan"):
        read(*write("parquet", empty))
    with pytest.raises(DataError, match="row 2 of column 'label' is empty"):
        read(*write("parquet", table(x, pyarrow.array(["a", "b", None, "a"])), rows=1))


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_setting_for_gaps_is_named_where_it_helps(write, in_memory):
    x, y = sample(4)
    for value, words in ((np.nan, r"nan, .*or set data\.missing=mean\.$"), (np.inf, r"nan, .*or remove their rows\.$")):
        odd = table(x, y).set_column(1, "f1", pyarrow.array([1, np.nan, value, 4]))
        with pytest.raises(DataError, match=rf"row 1 of column 'f1' is {words}"):
            read(*write("parquet", odd), in_memory=in_memory)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"f9": ["a", "b", "c", "d"]}, "column 'f9' is of type string, which is no number; encode it"),
        ({"f9": [[1], [2], [3], [4]]}, r"column 'f9' is of type list<.*>, which is no number"),
        ({"label": [1.5, 2.0, 1.0, 1.0]}, r"row 0 of column 'label': the label '1\.5' is the first of those"),
        ({"label": [0.0, np.nan, 1.0, 1.0]}, r"row 1 of column 'label': the label 'nan' .*not finite"),
        ({"label": [b"a", b"b", b"a", b"b"]}, "the labels 'label' are of type binary; make them integers or names"),
        ({"label": [1, 1, 1, 1]}, "all labels are '1'"),
    ],
)
def test_columns_that_cannot_be_trained_on_are_refused(write, columns, message):
    x, y = sample(4)
    content = pyarrow.table({**{name: table(x, y).column(name) for name in ("f0", "label")}, **columns})
    with pytest.raises(DataError, match=message):
        read(*write("parquet", content))


def test_columns_of_one_name_are_refused(write):
    twice = pyarrow.Table.from_arrays([pyarrow.array([1.0])] * 3, names=["a", "a", "label"])
    with pytest.raises(DataError, match="more than one column is named 'a'"):
        read(*write("arrow", twice))


@pytest.mark.parametrize("kind", ["parquet", "arrow", "feather"])
@pytest.mark.parametrize("content", [b"", b"a,b\n1,2\n", pickle.dumps(np.ones(3)), b"PAR1" * 10, b"ARROW1" * 10])
def test_what_is_no_table_is_refused(tmp_path, kind, content):
    path = tmp_path / f"x.{kind}"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"is damaged or no (Parquet|Arrow) file"):
        read(str(path), "label")


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_a_table_with_any_byte_changed_is_read_or_refused(write, kind):
    path, target = write(kind, *sample(30), rows=20)
    good = Path(path).read_bytes()
    random = np.random.RandomState(0)
    for place in random.choice(len(good), 60, replace=False):
        bad = bytearray(good)
        bad[place] ^= random.randint(1, 256)
        Path(path).write_bytes(bad)
        for in_memory in (True, False):
            try:
                read(path, target, in_memory)
            except (DataError, ConfigError):
                continue


def test_row_groups_that_fill_the_memory_are_refused_unless_asked_for(write, monkeypatch):
    paths = write("parquet", *sample(), rows=1000)
    monkeypatch.setattr(reading, "GROUP", 500 * D)
    with pytest.raises(DataError, match=r"has 1,000 rows in one group, too many .*; write at most 500 together"):
        read(*paths, in_memory=False)
    assert len(read(*paths, in_memory=True)) == N


def test_without_pyarrow_the_extra_is_named(write, monkeypatch):
    path, target = write("parquet", *sample())
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"needs pyarrow; install it by pip install 'softmax-trainer\[parquet\]'"):
        read(path, target)


def test_a_file_that_changes_while_it_is_read_is_named(write):
    path, target = write("npy", *sample())
    data = read(path, target, in_memory=False)
    with open(path, "r+b") as file:
        file.truncate(1000)
    with pytest.raises(DataError, match="has become shorter while it was read"):
        data.x[:]
    os.remove(path)
    with pytest.raises(FileError, match="cannot be read any more: No such file"):
        data.x[:]


# memory


def measured(path, target, batch_size, epochs):
    """What tests.big prints."""
    command = [sys.executable, "-m", "tests.big", path, target, batch_size, epochs]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.processes
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="memory is measured as Linux shows it")
@pytest.mark.parametrize("batch_size", ["all"])
def test_memory_does_not_grow_with_the_file(tmp_path, batch_size):
    path, target = str(tmp_path / "x.npy"), str(tmp_path / "y.npy")
    rows = 20 * big.ROWS
    x = np.lib.format.open_memmap(path, "w+", np.float64, (rows, big.COLUMNS))  # 320 MiB, most of them not on the disk
    x[:: rows // 64], y = big.block(0)[0][:64], np.arange(rows) % 4
    x.flush()
    np.save(target, y.astype(np.uint8))
    assert measured(path, target, batch_size, "1")["mib"] < 256  # in memory it would be 320 and twice more


@pytest.mark.skipif("TRAINER_SLOW" not in os.environ, reason="writes files of 4 GiB: make test-slow")
@pytest.mark.parametrize("batch_size", ["all", "4096"])
@pytest.mark.parametrize("kind", ["npy", "parquet"])
def test_four_gibibytes_take_less_than_half_of_one(tmp_path, kind, batch_size):
    path, target = big.write_npy(tmp_path, 256) if kind == "npy" else big.write_table(tmp_path, 256, kind)
    result = measured(path, target, batch_size, "1")
    assert os.path.getsize(path) >= 4 << 30
    assert result["mib"] < 512
    print(kind, batch_size, result)


@pytest.mark.parametrize("name", ["newton", "lbfgs", "fista", "auto"])
@pytest.mark.parametrize("rows", [500, 40_000], ids=["one block", "many blocks"])
def test_a_solver_has_the_same_bits_from_a_file_as_in_memory(name, rows, tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 6)) * 10 ** np.linspace(-3, 3, 6) + 5
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", (x[:, 3] > x[:, 2] / 10 + 5).astype(int) + (x[:, 4] > 9))
    ends = []
    for in_memory in (True, False):
        source = {"name": "file", "path": str(tmp_path / "x.npy"), "target": str(tmp_path / "y.npy")}
        settings = replace(SETTINGS, data={**source, "in_memory": in_memory}, optimizer={"name": name}, epochs=30)
        settings = replace(settings, penalty={"name": "l2", "strength": 1e-4})
        ends.append(run(settings, tmp_path / str(in_memory)).folder / "model.npz")
    first, second = (Model.load(path).w for path in ends)
    assert_array_equal(first, second)
