"""Data in many files are as in one: in memory, from the disk, behind ://; what is refused is so in a sentence.

It is long, as each kind of file goes through the same questions, which stand together so.
"""

import gzip
import http.server
import io
import json
import os
import pickle
import sys
import threading
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from numpy.testing import assert_array_equal
from omegaconf import OmegaConf
from pyarrow import parquet

from tests.test_command_line import call  # noqa: F401 - a fixture
from tests.test_run import SETTINGS
from trainer.commands.evaluate import evaluate
from trainer.commands.predict import predict
from trainer.commands.words import as_meant
from trainer.data import places, reading, remote, table_groups
from trainer.data.columns import Columns
from trainer.data.features import Features
from trainer.data.files import read, read_features, read_known
from trainer.data.places import find, natural, title_of
from trainer.data.sources import File
from trainer.errors import ConfigError, DataError, FileError, TrainerError, without_secrets
from trainer.runs.model import Model
from trainer.runs.run import resume, run
from trainer.sweeps.record import check_words

TABLES = ["parquet", "arrow", "feather"]
NAMED = ["csv", "tsv", "csv.gz", *TABLES]
COLOURS = ["red", "green", "blue", "", "grey"]
ASKED = Columns(id="who", weight="w", categorical=["colour"], dates=["day"], missing="indicator")


def people(n=60, seed=0):
    """A table with something of all that a column may hold."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=n), rng.integers(-5, 50, n)
    colours = [COLOURS[k] for k in rng.integers(0, len(COLOURS), n)]
    days = [f"2024-{1 + k % 12:02}-{1 + k % 28:02}" for k in range(n)]
    columns = {"who": [f"p{k}" for k in range(n)], "a": a, "b": b, "colour": colours, "day": days}
    y = np.where(a + b / 30 + rng.normal(size=n) > 0.5, "yes", "no")
    return pyarrow.table({**columns, "gap": [None if k % 7 == 3 else k % 5 for k in range(n)], "w": 1 + b % 3, "y": y})


def plain(n=60, seed=0):
    """Numbers alone, and labels."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3)) * [1, 100, 0.01]
    return pyarrow.table({"a": x[:, 0], "b": x[:, 1], "c": x[:, 2], "y": (x[:, 0] > 0) + (x[:, 1] > 0).astype(int)})


def content(kind, table, rows=7):
    """The bytes of a file of this kind."""
    file = io.BytesIO()
    if kind == "parquet":
        parquet.write_table(table, file, row_group_size=rows)
    elif kind in TABLES:
        with pyarrow.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=rows)
    elif kind == "npy":
        np.save(file, np.stack([table[name].to_numpy() for name in "abc"], axis=1))
    elif kind == "labels":
        np.save(file, table["y"].to_numpy())
    else:
        text = table.to_pandas().to_csv(index=False, sep="\t" if kind == "tsv" else ",").encode()
        file.write(gzip.compress(text) if kind.endswith(".gz") else text)
    return file.getvalue()


def cut(table, seed, count=4):
    """A table as several, some of which may be empty."""
    edges = np.sort(np.random.default_rng(seed).integers(0, len(table) + 1, count - 1)).tolist()
    return [table[start:stop] for start, stop in pairwise([0, *edges, len(table)])]


def turned(table):
    """The columns in another order."""
    return table.select(table.column_names[::-1])


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes tables as files of a kind into a folder below the working one; the first one alone as `one`."""
    monkeypatch.chdir(tmp_path)

    def write(kind, tables, folder="many"):
        """Gives the path of the folder, and the target."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        for number, table in enumerate(tables):
            Path(f"{folder}/part{number}.{kind}").write_bytes(content(kind, table))
            if kind == "npy":
                Path(f"{folder}-labels").mkdir(exist_ok=True)
                Path(f"{folder}-labels/y{number}.npy").write_bytes(content("labels", table))
        return folder, f"{folder}-labels" if kind == "npy" else "y"

    return write


def assert_same(many, one):
    assert_array_equal(many.x[:], one.x[:])
    assert_array_equal(many.y, one.y)
    assert (many.y.dtype, many.classes, many.target) == (one.y.dtype, one.classes, one.target)
    assert list(many.features) == list(one.features)
    assert (many.weight is None) == (one.weight is None)
    assert many.weight is None or (many.weight == one.weight).all()
    assert many.encoding == one.encoding


# as if they were one


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", [*NAMED, "npy"])
def test_a_file_cut_anywhere_is_the_same_data(write, kind, seed):
    table = plain()
    parts = cut(table, seed)
    one, many = write(kind, [table], "one"), write(kind, parts)
    for in_memory in (True, None, *([False] if kind in (*TABLES, "npy") else [])):
        data = read(*many, in_memory)
        assert isinstance(data.x, Features) == (in_memory is False)
        assert_same(data, read(*one, in_memory))
        for index in (slice(5, 47), np.array([59, 3, 3, 30]), slice(9, 9)):
            assert_array_equal(data.x[index], np.stack([table[name].to_numpy() for name in "abc"], 1)[index])


@pytest.mark.parametrize("in_memory", [None, False])
@pytest.mark.parametrize("kind", NAMED)
def test_so_are_levels_dates_gaps_ids_and_weights(write, kind, in_memory):
    if in_memory is False and kind not in TABLES:
        pytest.skip("it is read whole")
    table = people()
    first, *others = cut(table, 1)
    one, many = write(kind, [table], "one"), write(kind, [first, *map(turned, others)])
    for asked in (ASKED, replace(ASKED, categorical="auto"), replace(ASKED, missing="mean", features=["b", "colour"])):
        if asked.features:
            asked = replace(asked, dates=())
        assert_same(read(*many, in_memory, asked=asked), whole := read(*one, in_memory, asked=asked))
        encoding = whole.encoding.fit(whole.x)
        rest = (in_memory, None, Columns(), encoding)
        rows, alone = (read_features(path, encoding.names, "y", *rest) for path, _ in (many, one))
        assert_array_equal(rows.x[:], alone.x[:])
        assert rows.ids == alone.ids
        known = [read_known(path, encoding.names, whole.classes, "y", *rest) for path, _ in (many, one)]
        assert_same(*known)


def test_a_folder_a_pattern_and_a_list_name_the_same_files(write):
    write("csv", cut(plain(), 0, 12))
    data = read("many", "y")
    names = [f"many/part{number}.csv" for number in range(12)]
    assert find("many").paths == names  # 10 after 9
    for named in ("many/", "./many", "many/*.csv", "**/*.csv", "m*", names, ["many/part?.csv", "many/part1[01].csv"]):
        assert_same(read(named, "y"), data)
    assert_array_equal(read(names[::-1], "y").x[:5], read(names[-1], "y").x[:5])  # a list has its own order


def test_a_name_that_is_a_file_is_no_pattern(write):
    write("csv", [plain()], ".")
    os.rename("part0.csv", "part[0].csv")
    assert find("part[0].csv").paths == ["part[0].csv"]


@pytest.mark.parametrize("kind", ["parquet", "csv", "arrow"])
def test_folders_with_an_equals_sign_are_columns(write, kind):
    table = people()
    parts = cut(table, 2, 3)
    years, towns = ["2023", "2024", "2024"], ["Bad Ems", "7", "Aue"]
    for year, town, part in zip(years, towns, parts, strict=True):
        write(kind, [part], f"many/year={year}/town={town.replace(' ', '%20')}")
    sizes = list(map(len, parts))
    table = table.append_column("year", [np.repeat(np.array(years, int), sizes)])
    table = table.append_column("town", [np.repeat(towns, sizes).tolist()])
    write(kind, [table], "one")
    asked = replace(ASKED, categorical=["colour", "town"])
    one = read("one", "y", asked=asked)
    for named in ("many", "many/*", "many/*/*/*", ["many/year=2023", "many/year=2024"]):
        assert_same(read(named, "y", asked=asked), one)
    assert "year" not in read("many/year=2024", "y", asked=replace(asked, drop=["who"], id=None)).features
    assert read("many", "year", asked=replace(asked, drop=["y"])).classes == (2023, 2024)


def test_hive_writes_a_missing_value_by_a_name(write):
    for number, value in enumerate(["1", places.NOTHING, "3"]):
        write("parquet", [plain(seed=number)], f"many/k={value}")
    data = read("many", "y", asked=Columns(missing="mean"))
    assert_array_equal(np.isnan(data.x[:, 3]), np.repeat([False, False, True], 60))  # an underscore comes after digits


def test_a_column_may_be_empty_in_one_file_and_of_another_width(write):
    table = plain()
    gone = pyarrow.nulls(20)
    short = table[20:40].set_column(1, "b", table["b"][20:40].cast("float32"))
    write("parquet", [table[:20].set_column(1, "b", [gone]), short, table[40:].set_column(0, "a", [gone])])
    data = read("many", "y", asked=Columns(missing="mean"))
    assert_array_equal(np.isnan(data.x).sum(axis=0), [20, 20, 0])
    assert_array_equal(data.x[20:40, 1], table["b"].to_numpy()[20:40].astype(np.float32))


def test_texts_may_be_categories_in_one_file_and_short_in_another(write):
    table = people().set_column(7, "y", people()["y"].cast("string"))
    write("parquet", [table], "one")
    parts = [table[:20], table[20:40], table[40:]]
    for name, kinds in (
        ("colour", ("dictionary", "large_string", "string")),
        ("y", ("string", "dictionary", "string")),
    ):
        column = table.column_names.index(name)
        for number, kind in enumerate(kinds):
            cells = parts[number][name]
            cells = cells.dictionary_encode() if kind == "dictionary" else cells.cast(kind)
            parts[number] = parts[number].set_column(column, name, cells)
    for kind, in_memory in (("parquet", True), ("feather", False)):
        assert_same(read(*write(kind, parts, kind), in_memory, asked=ASKED), read("one", "y", in_memory, asked=ASKED))


def test_what_together_exceeds_the_limit_stays_on_the_disk(write, monkeypatch):
    monkeypatch.setattr(reading, "WHOLE", 60 * 3 * 8 - 1)
    for kind in ("parquet", "npy"):
        assert isinstance(read(*write(kind, cut(plain(), 0), kind)).x, Features)
        assert not isinstance(read(*write(kind, [plain(59)], f"{kind}1")).x, Features)


@pytest.mark.parametrize("kind", ["parquet", "npy"])
def test_a_reader_in_another_process_opens_only_the_files_that_its_rows_are_in(write, kind):
    data = read(*write(kind, cut(plain(), 3)), in_memory=False)
    copy = pickle.loads(pickle.dumps(data.x.reader))
    edges = np.cumsum([0, *map(len, cut(plain(), 3))])
    for number in (0, 1, 3):
        os.remove(f"many/part{number}.{kind}")
    assert_array_equal(copy(edges[2], edges[3]), data.x[edges[2] : edges[3]])
    with pytest.raises(FileError, match=rf"part1\.{kind} cannot be read"):
        copy(edges[1], edges[3])


def test_few_files_are_open_at_once(write, monkeypatch):
    monkeypatch.setattr(table_groups, "OPEN", 2)
    path, target = write("parquet", cut(plain(), 0, 9))
    data = read(path, target, in_memory=False)
    assert_array_equal(
        data.x[np.random.default_rng(0).permutation(60)].sum(axis=0).round(9), data.x[:].sum(axis=0).round(9)
    )
    assert len(data.x.reader.groups.open.kept) == 2


# training, predicting, going on


def settings_of(path, target, **data):
    return replace(SETTINGS, data={"name": "file", "path": path, "target": target, **data}, batch_size=None, epochs=4)


@pytest.mark.parametrize("kind", ["csv", "parquet", "npy"])
def test_training_gives_the_same_bits_as_one_file(write, kind, tmp_path):
    ways = [("one", write(kind, [plain()], "one"), None), ("many", write(kind, cut(plain(), 5)), None)]
    ways += [("blocks", ways[1][1], False)] if kind != "csv" else []
    weights = []
    for name, (path, target), in_memory in ways:
        result = run(settings_of(path, target, in_memory=in_memory), tmp_path / "runs" / name)
        weights.append(Model.load(result.folder / "model.npz").w)
    assert all((w == weights[0]).all() for w in weights)


@pytest.mark.processes
def test_the_workers_of_a_cluster_read_the_files_to_the_same_bits(write, tmp_path):
    pytest.importorskip("distributed")
    for number, part in enumerate(cut(people(400), 0)):
        write("parquet", [part], f"many/k={number % 2}")
    columns = {"id": "who", "categorical": ["colour"], "dates": ["day"], "missing": "mean", "weight": "w"}
    settings = replace(settings_of("many", "y", in_memory=False, **columns), optimizer={"name": "lbfgs"})
    engines = [{"name": "local"}, {"name": "dask", "workers": 2}]
    folders = [run(replace(settings, engine=one), tmp_path / one["name"]).folder for one in engines]
    one, other = (Model.load(folder / "model.npz") for folder in folders)
    assert_array_equal(one.w, other.w)
    assert one.columns == other.columns


def test_test_rows_predictions_and_evaluations_come_of_folders_too(write, tmp_path):
    write("parquet", cut(people(), 0), "train")
    write("parquet", cut(people(40, seed=1), 1), "test")
    write("parquet", [people(40, seed=1)], "test1")
    columns = {"id": "who", "categorical": ["colour"], "dates": ["day"], "missing": "mean", "weight": "w"}
    found = []
    for test in ("test", "test1/part0.parquet", ["test1"]):
        folder = run(settings_of("train/*", "y", test_path=test, **columns), tmp_path / "run").folder
        found.append(json.loads((folder / "evaluation.json").read_text())["test"])
    assert found[0] == found[1] == found[2]
    model = str(folder / "model.npz")
    for name in ("test", "test1/*.parquet"):
        config = {"model": model, "data": {"name": "file", "path": name}}
        predict(OmegaConf.create(config))
        evaluate(OmegaConf.create({**config, "plots": False}))
    texts = [(folder / f"{name}-predictions.csv").read_text() for name in ("test", "test1")]
    assert texts[0] == texts[1]
    assert texts[0].startswith("who,prediction,")
    assert json.loads((folder / "test-evaluation/evaluation.json").read_text())["test"] == found[0]
    config = {"model": model, "data": {"name": "file", "path": "test"}, "output": "test/part0.parquet"}
    with pytest.raises(ConfigError, match=r"is a file that is read here"):
        predict(OmegaConf.create(config | {"overwrite": True}))


def test_a_run_goes_on_only_with_all_its_files_as_they_were(write, tmp_path):
    path, target = write("parquet", cut(plain(), 0))
    settings = settings_of(path, target)
    folder = run(settings, tmp_path / "run").folder
    Path("many/_SUCCESS").touch()
    assert resume(replace(settings, epochs=5), folder).metrics["epoch"] == 5
    Path("many/part2.parquet").write_bytes(content("parquet", plain(seed=9)[: len(cut(plain(), 0)[2])]))
    with pytest.raises(ConfigError, match=r"data\.path=many has changed since"):
        resume(replace(settings, epochs=6), folder)


def test_the_fingerprint_of_many_large_files_takes_their_ends(write, monkeypatch):
    from trainer.runs import checkpoint

    path, _ = write("csv", cut(plain(), 0, 5))
    whole = checkpoint.fingerprint(find(path).paths)
    monkeypatch.setattr(checkpoint, "ALL", 300)
    monkeypatch.setattr(checkpoint, "FEW", 16)
    seen = checkpoint.fingerprint(find(path).paths)
    assert seen != whole
    os.utime("many/part4.csv", (1, 1))
    assert checkpoint.fingerprint(find(path).paths) != seen


# the command line


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("data.path=[a.csv,b.csv]", "data.path=[a.csv,b.csv]"),
        ("data.path=[a.csv]", "data.path=[a.csv]"),
        ("data.path=[d/year=1/a b.csv, 7]", "data.path=['d/year=1/a b.csv','7']"),
        ("data.path=data/*.parquet", "data.path='data/*.parquet'"),
        ("data.path=[~/a.csv,~/b.csv]", f"data.path=[{os.path.expanduser('~')}/a.csv,{os.path.expanduser('~')}/b.csv]"),
        ("data.path=['a,b.csv']", "data.path=['a,b.csv']"),
        ("data.path=a.csv,b.csv", "data.path=a.csv,b.csv"),  # a sweep
        ("data.path=s3://b/y=1/*.csv", "data.path='s3://b/y=1/*.csv'"),
    ],
)
def test_words_that_name_many_files_are_what_they_look_like(word, meant):
    assert as_meant("train", ["data=file", word]) == ["data=file", meant]


def test_the_command_trains_on_a_list(write, call):  # noqa: F811
    write("csv", cut(plain(200), 0), "k=1")
    done = call("data.path=[k=1/part0.csv,k=1/part1.csv]", "data.target=y", "plots=false", "hydra.run.dir=run")
    assert (done.code, done.err) == (0, "")
    assert json.loads(Path("run/run.json").read_text())["config"]["data"]["path"] == ["k=1/part0.csv", "k=1/part1.csv"]
    done = call("data=file", "data.path=[]", "data.target=y")
    assert (done.code, done.err) == (2, "data.path=[] names no file; name one at least.\n")


def test_the_name_of_what_is_made_of_many_files(write):
    write("csv", [plain()])
    names = {"many": "many", "many/": "many", "many/*.csv": "many", "*/x": title_of(os.getcwd()), "a/b.csv.gz": "b"}
    assert {named: title_of(named) for named in names} == names
    assert title_of(["a/b.csv", "c.csv"]) == title_of("https://h/a/b.csv?x=c.d") == "b"


# what is refused


def test_files_with_other_columns_are_named_with_the_first_that_differs(write):
    table = plain()
    for kind in NAMED:
        write(kind, [table, table.drop_columns(["b", "c"])], kind)
        words = (
            rf"{kind}/part0\.{kind} and {kind}/part1\.{kind} have other columns: 'b' is only in {kind}/part0\.{kind}; "
        )
        with pytest.raises(DataError, match=rf"^{words}give all files the same ones, in any order.$"):
            read(kind, "y")
        write(kind, [table, turned(table.append_column("d", [np.arange(60)]))], kind)
        with pytest.raises(DataError, match=rf"'d' is only in {kind}/part1\.{kind}"):
            read(kind, "y")
    write("parquet", [table, table.set_column(1, "b", table["b"].cast("string"))])
    words = r"part0.parquet and many/part1.parquet: column 'b' is of type double in the one and string in the other; "
    with pytest.raises(DataError, match=words):
        read("many", "y")
    write("npy", [table, table])
    np.save("many/part1.npy", np.zeros((60, 4)))
    Path("many/part0.parquet").unlink()
    Path("many/part1.parquet").unlink()
    with pytest.raises(DataError, match=r"part0.npy has the shape \(60, 3\), and many/part1.npy has \(60, 4\); give"):
        read("many", "many-labels")


def test_bare_rows_need_as_many_columns(write):
    write("csv", [plain()])
    Path("many/part0.csv").write_text("1,2,0\n3,4,1\n")
    Path("many/part1.csv").write_text("5,6,0\n")
    assert_array_equal(read("many", None, header=False).x, [[1, 2], [3, 4], [5, 6]])
    Path("many/part1.csv").write_text("5,6,7,0\n")
    Path("bare/k=1").mkdir(parents=True)
    Path("bare/k=1/a.csv").write_text("1,2,0\n3,4,1\n")
    assert read("bare", None, header=False).features == ("x0", "x1", "k")
    with pytest.raises(DataError, match=r"'x3' is only in many/part1.csv"):
        read("many", None, header=False)


def test_kinds_are_not_mixed_and_some_are_read_alone(write):
    write("csv", [plain(), plain(seed=1)])
    Path("many/notes.txt").touch()
    with pytest.raises(
        ConfigError, match=r"^many has files of several kinds, such as many/notes.txt and many/part0.csv; name"
    ):
        read("many", "y")
    assert len(read("many/*.csv", "y").x) == 120
    np.savez("many/a.npz", x=[[1.0]], y=[1])
    with pytest.raises(
        ConfigError, match=r"names 2 files, and several of the kind of many/a.npz are not read as one; convert"
    ):
        read(["many/a.npz", "many/../many/a.npz"], None)


def test_hidden_files_are_left_out_unless_a_pattern_asks_for_them(write):
    path, target = write("csv", cut(plain(), 0))
    data = read(path, target)
    for name in ("_SUCCESS", ".part0.csv.crc", "_part9.csv", "_temporary/part.csv", ".git/x.csv"):
        Path("many", name).parent.mkdir(exist_ok=True)
        Path("many", name).write_text("z,y\n1,2\n")
    os.symlink("/nowhere", "many/_link")
    for named in ("many", "many/**/*.csv", "many/*.csv"):
        assert_same(read(named, target), data)
    assert find("many/_*.csv").paths == ["many/_part9.csv"]


def test_nothing_outside_of_what_is_named_is_read(write):
    write("csv", [plain()], "elsewhere/deep")
    write("csv", [plain()])
    for link, to in (("many/link.csv", "elsewhere/deep/part0.csv"), ("many/sub", "elsewhere"), ("many/self", "many")):
        os.symlink(os.path.abspath(to), link)
        for named in ("many", "many/**"):
            with pytest.raises(FileError, match=rf"{link} cannot be read: it is a link to elsewhere; name in a list"):
                read(named, "y")
        os.remove(link)
    os.symlink("part0.csv", "many/twice.csv")
    with pytest.raises(
        ConfigError, match=r"^many names many/twice.csv twice, as many/part0.csv too; name each file once"
    ):
        read("many", "y")


def test_nothing_found_is_said(write):
    write("csv", [plain()])
    Path("empty/_logs").mkdir(parents=True)
    Path("empty/_logs/a.csv").touch()
    for named, words in (
        (
            "empty",
            "empty cannot be read: it is a folder without a file; what is hidden or begins with _ does not count.",
        ),
        (
            "many/*.parquet",
            r"many/\*.parquet cannot be read: the pattern finds no file; the folder many has 'part0.csv'",
        ),
        (["many", "none.csv"], "none.csv cannot be read: No such file or directory"),
    ):
        with pytest.raises(FileError, match=rf"^{words}"):
            read(named, "y")
    for named, words in (
        ([], r"data.path=\[\] names no file"),
        ([7], "names 7, which is no path"),
        (["many/part0.csv", "many/part0.csv"], r"^\[many/part0.csv, many/part0.csv\] names many/part0.csv twice; name"),
    ):
        with pytest.raises(ConfigError, match=words):
            read(named, "y")


def test_sizes_are_checked_before_anything_is_read(write, monkeypatch):
    for kind in ("csv", "parquet", "npy"):
        write(kind, [plain(), plain(seed=1)], kind)
    size = sum(os.path.getsize(path) for path in find("csv").paths)
    monkeypatch.setattr(reading, "MAX_BYTES", size - 1)
    with pytest.raises(
        FileError, match=rf"^csv cannot be read: its files have {size:,} bytes, and at most {size - 1:,} are"
    ):
        read("csv", "y")
    monkeypatch.setattr(reading, "MAX_BYTES", 120 * 3 * 8 - 1)
    for kind in ("parquet", "npy"):
        with pytest.raises(DataError, match=rf"^{kind} has the shape \(120, 3\), as float64 more than 2,879 bytes"):
            read(kind, "npy-labels" if kind == "npy" else "y", in_memory=True)


def test_what_many_files_unpack_to_is_counted_together(write, monkeypatch):
    write("csv.gz", [plain(400), plain(400, seed=1)])
    unpacked = len(content("csv", plain(400)))
    monkeypatch.setattr(reading, "MAX_BYTES", unpacked + 1000)
    with pytest.raises(FileError, match=r"part1.csv.gz cannot be read: it unpacks to more than"):
        read("many", "y")


def test_a_mistake_is_named_by_its_file_and_its_row_there(write):
    table = plain()
    bad = table.to_pandas()
    for column, value, text, asked in (
        ("b", np.nan, "'' in column 'b' is empty", None),
        ("b", np.inf, "is inf, the first of 1", None),
        ("w", -1.0, "the weight -1", Columns(weight="w")),
        ("y", None, "empty", None),
    ):
        frame = bad.assign(w=1.0, y=bad["y"].astype("Int64"))
        frame.loc[47, column] = value
        wrong = pyarrow.Table.from_pandas(frame, preserve_index=False)
        parts = [wrong[:20], wrong[20:40], turned(wrong[40:])]
        for kind in ("csv", "parquet"):
            write(kind, parts, kind)
            place = wrong.column_names[::-1].index(column) + 1
            where = (
                rf"csv/part2.csv:9:{place}" if kind == "csv" else f"parquet/part2.parquet: row 7 of column '{column}'"
            )
            with pytest.raises(DataError, match=rf"^{where}") as error:
                read(kind, "y", asked=asked)
            assert kind != "csv" or text in str(error.value)
    write("npy", [table, table])
    x = np.zeros((60, 3))
    x[5, 1] = np.nan
    np.save("many/part1.npy", x)
    for in_memory in (True, False):
        with pytest.raises(DataError, match=r"many/part1.npy\[5, 1\] is nan, the first of 1 values"):
            read("many", "many-labels", in_memory)


def test_doubtful_columns_are_those_of_all_files(write):
    frame = plain().to_pandas()
    frame["b"] = [str(n % 5) for n in range(60)]
    frame.loc[50, "b"] = "much"
    table = pyarrow.Table.from_pandas(frame.assign(who=[f"c{n}" for n in range(60)]), preserve_index=False)
    sentences = []
    for kind in ("csv", "parquet"):
        write(kind, [table], f"{kind}1")
        write(kind, [table[:45], table[45:]], kind)
        for named in (f"{kind}1", kind):
            with pytest.raises(DataError) as error:
                read(named, "y")
            sentences.append(str(error.value).replace(f"{kind}1", kind))
    assert sentences[0] == sentences[1]
    assert sentences[2] == sentences[3]
    assert "numbers, but 1 texts such as 'much'" in sentences[0]


def test_numbers_of_customers_are_told_in_many_files(write):
    table = plain().append_column("customer", [np.arange(1000, 1060)])
    write("parquet", cut(table, 0))
    with pytest.warns(UserWarning, match=r"^many: 'customer' looks like an id"):
        read("many", "y")


def test_each_file_of_rows_has_its_file_of_labels(write):
    table = plain()
    path, labels = write("npy", [table[:20], table[20:]])
    os.rename("many-labels/y1.npy", "y1.npy")
    words = rf"data.target={labels} has 1 file of labels, and many has 2 files; give each its own, in the same order."
    with pytest.raises(ConfigError, match=words):
        read(path, labels)
    with pytest.raises(ConfigError, match=r"data.target must be the paths of 2 .npy files with the labels of many."):
        read(path, None)
    assert_array_equal(read(path, ["many-labels/y0.npy", "y1.npy"]).y, table["y"].to_numpy())
    with pytest.raises(DataError, match=r"many/part0.npy: x has the shape \(20, 3\), but y has \(40,\)"):
        read(path, ["y1.npy", "many-labels/y0.npy"])
    np.save("y1.npy", np.repeat(["a", "b"], 20))
    with pytest.raises(
        DataError, match=r"y0.npy has int64 of shape \(20,\), and y1.npy has <U1 of shape \(40,\); give"
    ):
        read(path, ["many-labels/y0.npy", "y1.npy"])
    write("csv", [table, table], "csv")
    with pytest.raises(ConfigError, match=r"data.target must name one column of csv, and is a list of 2"):
        read("csv", ["y", "a"])


def test_arrays_have_no_columns_by_folders(write):
    write("npy", [plain()], "many/year=2024")
    with pytest.raises(
        ConfigError, match=r"^many has a folder that stands for the column 'year', and columns of a .npy"
    ):
        read("many", "many/year=2024-labels")
    write("csv", [plain()], "csv/a=1")
    with pytest.raises(DataError, match=r"csv/a=1/part0.csv has a column 'a', as its folder says too; rename one of"):
        read("csv", "y")


@pytest.mark.parametrize("kind", ["parquet", "arrow", "npy"])
def test_a_file_that_vanishes_or_changes_after_it_was_found_is_named(write, kind):
    data = read(*write(kind, [plain(), plain(seed=1)]), in_memory=False)
    reader = pickle.loads(pickle.dumps(data.x.reader))  # which keeps no rows of them
    again = content(kind, plain(50, seed=2))
    Path(f"many/part0.{kind}").write_bytes(again)
    with pytest.raises(DataError, match=rf"part0\.{kind} has (changed|become shorter) while it was read; train again"):
        reader(0, 120)
    Path(f"many/part0.{kind}").unlink()
    with pytest.raises(FileError, match=rf"part0\.{kind} cannot be read"):
        reader(0, 120)


def test_test_files_need_labels_in_their_columns(write):
    write("npy", [plain(), plain()])
    with pytest.raises(
        ConfigError, match=r"^data.test_path=other would have the labels of data.target=many-labels. Put"
    ):
        File("many", "many-labels", test_path="other")


# behind ://


@pytest.fixture
def memory():
    """Writes tables as files of a kind behind memory://, and gives their folder and the target."""
    fsspec = pytest.importorskip("fsspec")
    files = fsspec.filesystem("memory")

    def write(kind, tables, folder="memory://many"):
        for number, table in enumerate(tables):
            files.pipe(f"{folder}/part{number}.{kind}", content(kind, table))
            if kind == "npy":
                files.pipe(f"{folder}-labels/y{number}.npy", content("labels", table))
        return folder, f"{folder}-labels" if kind == "npy" else "y"

    write.files = files
    yield write
    files.store.clear()
    files.pseudo_dirs[:] = [""]


class Server(http.server.SimpleHTTPRequestHandler):
    """Files of a folder with parts of them, to whoever knows the password or the key, if there is one."""

    ranges = True
    packs = False  # says that it does, which makes its lengths worth nothing
    password, key = None, None

    def do_HEAD(self):
        self._answer(False)

    def do_GET(self):
        self._answer(True)

    def _answer(self, body):
        path, _, query = self.path.partition("?")
        where = Path(self.directory, path.lstrip("/"))
        given = self.headers.get("Authorization")
        if (self.key and query != self.key) or (self.password and given != self.password):
            return self.send_error(403)
        if not where.is_file():
            return self.send_error(404)
        data, asked = where.read_bytes(), self.headers.get("Range")
        part = self.ranges and asked
        start, stop = 0, len(data)
        if part:
            first, last = asked.removeprefix("bytes=").split("-")
            start, stop = int(first), min(int(last) + 1, len(data))
        self.send_response(206 if part else 200)
        if self.ranges:
            self.send_header("Accept-Ranges", "bytes")
        if self.packs:
            self.send_header("Content-Encoding", "gzip")
        if part:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}")
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        self.read.append((self.command, path, stop - start))
        if body:
            self.wfile.write(data[start:stop])
        return None

    def log_message(self, *_):
        pass


@pytest.fixture
def web(tmp_path):
    """A server of the working folder: its address, and the class that answers."""
    pytest.importorskip("fsspec")
    pytest.importorskip("aiohttp")
    answers = type("Answers", (Server,), {"read": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), lambda *given: answers(*given, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", answers
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("kind", [*NAMED, "npy"])
def test_files_behind_an_address_are_those_here(write, memory, kind):
    parts = cut(plain(), 4)
    here, there = write(kind, parts), memory(kind, parts)
    memory.files.pipe("memory://many/_SUCCESS", b"")
    for in_memory in (None, *([False] if kind in (*TABLES, "npy") else [])):
        data = read(*here, in_memory)
        for named in (there[0], f"memory://many/*.{kind}", [f"memory://many/part{k}.{kind}" for k in range(4)]):
            assert_same(read(named, there[1], in_memory), data)
    assert_array_equal(
        read(f"memory://many/part1.{kind}", f"{there[1]}/y1.npy" if kind == "npy" else "y").x,
        parts[1].to_pandas()[list("abc")],
    )


def test_hive_folders_and_a_run_behind_an_address(memory, write, tmp_path):
    for place in (write, memory):
        for year in (2023, 2024):
            place("parquet", [plain(seed=year)], f"{'memory://' if place is memory else ''}hive/year={year}")
    assert_same(read("memory://hive", "y"), read("hive", "y"))
    folder = run(settings_of("memory://hive", "y", in_memory=False), tmp_path / "run").folder
    here = run(settings_of("hive", "y"), tmp_path / "here").folder
    assert_array_equal(Model.load(folder / "model.npz").w, Model.load(here / "model.npz").w)
    memory("parquet", [plain(seed=7)], "memory://hive/year=2024")
    with pytest.raises(ConfigError, match=r"data.path=memory://hive has changed since"):
        resume(replace(settings_of("memory://hive", "y", in_memory=False), epochs=9), folder)


@pytest.mark.parametrize("ranges", [True, False])
def test_files_of_a_server_are_read(write, web, ranges):
    address, answers = web
    answers.ranges = ranges
    for kind in ("csv", "csv.gz", "parquet", "feather", "npy"):
        path, target = write(kind, cut(plain(), 6, 2), f"d-{kind}")
        named = [f"{address}/{path}/part{k}.{kind}" for k in range(2)]
        labels = [f"{address}/{target}/y{k}.npy" for k in range(2)] if kind == "npy" else target
        for in_memory in (None, *([False] if kind in ("parquet", "feather", "npy") else [])):
            assert_same(read(named, labels, in_memory), read(path, target, in_memory))
    np.savez("a.npz", x=[[1.0], [2.0]], y=[0, 1])
    assert_array_equal(read(f"{address}/a.npz", None).x, [[1.0], [2.0]])
    Path("a.svm").write_text("0 1:2\n1 2:3\n")
    assert read(f"{address}/a.svm", None).x.shape == (2, 2)


def test_only_the_rows_that_are_asked_for_are_fetched(write, web):
    address, answers = web
    rng = np.random.default_rng(0)
    np.save("x.npy", rng.normal(size=(10_000, 4)))
    np.save("y.npy", np.arange(10_000) % 2)
    data = read(f"{address}/x.npy", "y.npy", in_memory=False)
    answers.read.clear()
    data.x[5000:5010]
    assert [(path, size) for command, path, size in answers.read if command == "GET"] == [("/x.npy", 8 * 40)]
    for kind in ("parquet", "arrow"):
        file = content(
            kind, pyarrow.table({**{name: rng.normal(size=40_000) for name in "abc"}, "y": np.arange(40_000) % 2}), 1000
        )
        Path(f"x.{kind}").write_bytes(file)
        reader = pickle.loads(pickle.dumps(read(f"{address}/x.{kind}", "y", in_memory=False).x.reader))
        answers.read.clear()
        reader(7000, 7010)
        assert sum(size for command, _, size in answers.read if command == "GET") < len(file) / 10


@pytest.mark.parametrize("key", ["key", "password"])
def test_passwords_are_in_no_message_and_in_no_file(write, web, tmp_path, key):
    address, answers = web
    write("csv", [plain()])
    answers.key, answers.password = ("token=SECRET", None) if key == "key" else (None, "Basic bWU6U0VDUkVU")
    bare = f"{address}/many/part0.csv"
    path = f"{bare}?token=SECRET" if key == "key" else bare.replace("//", "//me:SECRET@")
    settings = replace(settings_of(path, "y"), checkpoint=True)
    folder = run(settings, tmp_path / "run").folder
    kept = b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())
    assert b"SECRET" not in kept
    assert json.loads((folder / "run.json").read_text())["config"]["data"]["path"] == bare
    assert resume(replace(settings, epochs=6), folder).metrics["epoch"] == 6
    with pytest.raises(FileError, match=rf"^{bare} cannot be read: access is denied; run.json keeps an address"):
        resume(replace(settings, data={**settings.data, "path": bare}, epochs=7), folder)
    for wrong, words in (("part0.csv", "part1.csv"), ("y", "z")):
        data = (
            {**settings.data, "path": path.replace(wrong, words)} if wrong != "y" else {**settings.data, "target": "z"}
        )
        with pytest.raises(TrainerError) as error:
            run(replace(settings, data=data), tmp_path / "other")
        assert "SECRET" not in str(error.value)


@pytest.mark.parametrize("path", ["https://me:pw@h/a.csv", "'https://h/a.csv?k=1,2'", "[b.csv,http://h/a.csv?k=1]"])
def test_a_sweep_which_keeps_its_words_takes_no_passwords(path):
    with pytest.raises(ConfigError, match=r"^data\.path has a password, or .*\$\{oc\.env:NAME\}'\.$"):
        check_words(["seed=1,2", f"data.path={path}"])
    check_words(
        ["data.path='https://h/a.csv?${oc.env:KEY}','s3://b/part-?.csv'", "callbacks.mlflow.store=sqlite:///a.db"]
    )


def test_a_secret_of_the_environment_stays_where_it_is():
    for text in ("https://h/x.csv?${oc.env:QUERY}", "https://${oc.env:USER}@h/x.csv"):
        assert without_secrets(text) == text
    assert without_secrets("https://h/x.csv?a=${oc.env:A}&b=c") == "https://h/x.csv"
    assert without_secrets("https://a:b@c@h/x@y.csv#z") == "https://h/x@y.csv"


def test_a_server_that_is_not_there_or_refuses_is_a_sentence(write, web):
    address, answers = web
    write("csv", [plain()])
    for path, words in (
        (f"{address}/many/none.csv", r"none.csv cannot be read: there is no such file\."),
        (
            f"{address}/many/",
            "many/ cannot be read: there is no such file; a server has no folders and patterns, so name files",
        ),
        ("http://127.0.0.1:9/x.csv", r"x.csv cannot be read: ClientConnectorError; is the server there, and the acc"),
    ):
        with pytest.raises(TrainerError, match=words):
            read(path, "y")
    answers.packs = True
    with pytest.raises(FileError, match=r"part0.csv cannot be read: its server does not say how large it is; copy it"):
        read(f"{address}/many/part0.csv", "y")
    answers.packs = answers.ranges = False
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remote, "WHOLE", 100)
        with pytest.raises(
            FileError, match=r"part0.csv cannot be read: it has [0-9,]+ bytes, and its server gives no parts"
        ):
            read(f"{address}/many/part0.csv", "y")


@pytest.mark.parametrize(
    "path",
    ["file:///etc/passwd", "simplecache::memory://a.csv", "zip://a.csv::memory://b", "ftp://h/a.csv", "://a.csv"],
)
def test_other_protocols_are_refused(path):
    for named in (path, [path, "memory://b.csv"], f"{path}/*.csv"):
        with pytest.raises(
            ConfigError, match=r"begins with .*://, and of addresses s3://, gs://, https://, http://, memo"
        ):
            find(named) and read(named, "y")


def test_without_the_extra_addresses_are_refused_and_paths_are_read(write, monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    assert len(read(*write("csv", [plain(), plain(seed=1)])).x) == 120
    for protocol, package in (("s3", " and s3fs"), ("gs", " and gcsfs"), ("https", " and aiohttp"), ("memory", "")):
        more = package.removeprefix(" and ") if protocol in ("s3", "gs") else ""
        words = rf"^{protocol}://a/b.csv needs fsspec{package}; install .* 'softmax-trainer\[remote\]' ?{more}, or copy"
        with pytest.raises(ConfigError, match=words):
            read(f"{protocol}://a/b.csv", "y")


def test_natural_order_has_no_ties():
    names = ["b2", "b10", "b02", "a", "b1"]
    assert sorted(names, key=natural) == ["a", "b1", "b02", "b2", "b10"]
