"""Columns that are no numbers: what becomes of texts, dates, gaps, ids and weights, in files of every kind."""

import gzip
import importlib
import json
import warnings
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import OneHotEncoder

from tests.test_command_line import SHORT, call, table  # noqa: F401 - a fixture
from tests.test_model import forged
from tests.test_run import SETTINGS
from trainer import SoftmaxRegression
from trainer.data.columns import Columns
from trainer.data.encoding import MOST_LEVELS, RARE, UNKNOWN, Column, Encoding, days
from trainer.data.features import Features
from trainer.data.files import read, read_features, read_known
from trainer.data.rows import split
from trainer.data.sources import File
from trainer.errors import ConfigError, DataError, FileError
from trainer.runs import archive
from trainer.runs.model import LARGEST, Model
from trainer.runs.run import run

N = 200
ASKED = {"drop": ["note"], "id": "customer", "weight": "w", "categorical": ["colour", "size"], "dates": ["joined"]}
COLUMNS = Columns(**ASKED, missing="indicator")


def people(n=N, seed=0, rare="mauve"):
    """A table as people have it: ids, texts with a rare level, dates, gaps, weights, and a note that says nothing."""
    rng = np.random.default_rng(seed)
    colours = np.where(np.arange(n) == 7, rare, rng.choice(["red", "green", "blue"], n)).tolist()
    ages = [None if row % 9 == 4 else age for row, age in enumerate(rng.integers(18, 90, n).tolist())]
    return {
        "customer": [f"C{row:04}" for row in range(n)],
        "age": ages,
        "colour": [None if row % 31 == 5 else colour for row, colour in enumerate(colours)],
        "size": rng.integers(1, 4, n).tolist(),
        "joined": [datetime(2020, 1 + row % 12, 1 + row % 28) for row in range(n)],
        "spent": rng.normal(size=n).round(6).tolist(),
        "note": ["hello"] * n,
        "w": rng.integers(1, 4, n).tolist(),
        "y": ["yes" if colour == "red" or (age or 0) > 60 else "no" for colour, age in zip(colours, ages, strict=True)],
    }


def text(columns, mark=","):
    """The same as lines, with nothing for what is missing."""

    def cell(value):
        return "" if value is None else value.strftime("%Y-%m-%d") if isinstance(value, datetime) else str(value)

    rows = [[*columns], *zip(*columns.values(), strict=True)]
    return "".join(mark.join(map(cell, row)) + "\n" for row in rows)


def write(path, columns):
    """A file of the kind that its suffix says."""
    kind = path.suffix.removeprefix(".")
    if kind == "gz":
        path.write_bytes(gzip.compress(text(columns, "," if ".csv" in path.name else "\t").encode()))
    elif kind in ("csv", "tsv"):
        path.write_text(text(columns, "," if kind == "csv" else "\t"))
    else:
        pyarrow = pytest.importorskip("pyarrow")
        content = pyarrow.table(columns)
        if "colour" in columns:
            place = content.schema.get_field_index("colour")
            content = content.set_column(place, "colour", content["colour"].dictionary_encode())
        if kind == "parquet":
            importlib.import_module("pyarrow.parquet").write_table(content, path, row_group_size=64)
        else:
            with pyarrow.ipc.new_file(path, content.schema) as writer:
                writer.write_table(content, max_chunksize=64)
    return str(path)


@pytest.fixture
def people_csv(tmp_path):
    return write(tmp_path / "people.csv", people())


def source(path, **changes):
    return {"name": "file", "path": path, "target": "y", **ASKED, "missing": "indicator"} | changes


# what is learnt


@pytest.mark.parametrize("levels", [3, 40, 400])
def test_levels_are_those_of_scikit_learn(levels):
    rng = np.random.default_rng(levels)
    codes = np.minimum(rng.geometric(3 / levels, 2000) - 1, levels - 1).astype(float)[:, None]
    names = tuple(f"level {code:04}" for code in range(levels))
    encoding = Encoding((Column("c", "level", names),)).fit(codes)
    peer = OneHotEncoder(
        sparse_output=False, min_frequency=RARE, max_categories=MOST_LEVELS, handle_unknown="infrequent_if_exist"
    ).fit(codes)
    new = np.arange(-1.0, levels)[:, None]
    assert new[0, 0] == UNKNOWN
    assert_array_equal(encoding(codes), peer.transform(codes))
    assert_array_equal(encoding(new), peer.transform(new))
    assert len(encoding.names) == encoding(codes).shape[1]


@pytest.mark.parametrize("missing", ["mean", "median", "indicator"])
def test_gaps_are_filled_as_scikit_learn_fills_them(missing):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(301, 4)) * [1, 1e150, 1e-150, 1] + [0, 0, 0, 1e6]
    x[rng.random(x.shape) < 0.2] = np.nan
    x[:, 3] = np.nan_to_num(x[:, 3], nan=5.0)
    encoding = Encoding(tuple(map(Column, "abcd")), missing).fit(x)
    strategy = "median" if missing == "median" else "mean"
    peer = SimpleImputer(strategy=strategy, add_indicator=missing == "indicator").fit(x)
    filled = np.c_[[column.fill for column in encoding.columns]]
    assert_allclose(filled[:, 0], peer.statistics_, rtol=1e-13)
    found = encoding(x)
    if missing == "indicator":
        assert encoding.names == ("a", "a missing", "b", "b missing", "c", "c missing", "d")
        found = found[:, [0, 2, 4, 6, 1, 3, 5]]
    assert_allclose(found, peer.transform(x), rtol=1e-13)


def test_a_gap_among_texts_that_the_training_did_not_have_counts_as_a_new_level():
    gap = np.array([[np.nan]])
    for codes, features in (([0, 0, 0, 1, 1, 1], [[0, 0]]), ([0, 0, 0, 1, 1, 1, 2], [[0, 0, 1]])):
        encoding = Encoding((Column("c", "level", ("p", "q", "r")),), "mean").fit(np.array(codes, float)[:, None])
        assert_array_equal(encoding(gap), features)
        assert_array_equal(encoding(np.array([[UNKNOWN]])), features)


def test_numbers_without_gaps_are_the_very_same_array():
    x = np.random.default_rng(0).normal(size=(20, 2))
    encoding = Encoding((Column("a"), Column("b"))).fit(x)
    assert encoding(x) is x
    assert encoding.names == ("a", "b")


def test_means_and_levels_are_those_of_the_training_rows_alone(people_csv, tmp_path):
    raw = read(people_csv, "y", asked=COLUMNS)
    train, _ = split(raw, SETTINGS.valid_fraction, SETTINGS.seed)
    assert 0 < len(train) < len(raw)
    folder = run(replace(SETTINGS, data=source(people_csv)), tmp_path / "run").folder
    age, colour, *_ = Model.load(folder).columns.columns
    assert age.fill == pytest.approx(np.nanmean(train.x[:, 0]), rel=1e-14)
    assert age.fill != pytest.approx(np.nanmean(raw.x[:, 0]), rel=1e-6)
    assert (colour.levels, colour.rare, colour.missing) == (("blue", "green", "red"), True, True)


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("1970-01-01", 0),
        (" 1970-01-02 ", 1),
        ("1969-12-31", -1),
        ("2024-12-31", 20088),
        ("2024/12/31", 20088),
        ("31.12.2024", 20088),
        ("1.2.1970", 31),
        ("1970-01-01 12:00", 0.5),
        ("1970-01-01T06:00:00Z", 0.25),
        ("1970-01-01T01:00:00+01:00", 0),
        ("31.12.2024 18:00", 20088.75),
        ("12/31/2024", None),
        ("2024-02-30", None),
        ("soon", None),
    ],
)
def test_dates_are_days(cell, value):
    assert days(cell) == value


# the same from files of every kind


@pytest.mark.parametrize("name", ["p.tsv", "p.csv.gz", "p.tsv.gz", "p.parquet", "p.arrow", "p.feather"])
@pytest.mark.parametrize("categorical", [["colour", "size"], "auto"])
def test_every_kind_of_file_gives_the_same_features(name, categorical, tmp_path, people_csv):
    asked = replace(COLUMNS, categorical=categorical)
    one, other = (read(path, "y", asked=asked) for path in (people_csv, write(tmp_path / name, people())))
    assert_array_equal(one.x, other.x)
    assert one.encoding == other.encoding
    assert_array_equal(one.weight, other.weight)
    assert [column.kind for column in one.encoding.columns] == ["number", "level", "level", "date", "number"]
    fitted = one.encoding.fit(one.x)
    assert fitted.names == (
        *("age", "age missing", "colour=blue", "colour=green", "colour=red", "colour=(rare)", "colour missing"),
        *("size=1", "size=2", "size=3", "joined", "spent"),
    )
    for path in (people_csv, str(tmp_path / name)):
        x, ids = read_features(path, fitted.names, "y", encoding=fitted)
        assert_array_equal(x, fitted(one.x))
        assert ids == ("customer", people()["customer"])


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_training_on_columns_in_the_file_is_training_in_memory_bit_for_bit(kind, tmp_path):
    path, models = write(tmp_path / f"p.{kind}", people(rare="red")), []
    for in_memory in (True, False):
        settings = replace(SETTINGS, data=source(path, in_memory=in_memory), batch_size=None)
        models.append(Model.load(run(settings, tmp_path / str(in_memory)).folder))
    assert isinstance(read(path, "y", False, asked=COLUMNS).x, Features)
    assert_array_equal(models[0].w, models[1].w)
    assert models[0].columns == models[1].columns
    lazy = read_features(path, models[0].features, "y", False, encoding=models[0].columns).x
    whole = read_features(path, models[0].features, "y", True, encoding=models[0].columns).x
    assert_array_equal(lazy[:], whole)


def test_a_median_of_a_file_is_refused_with_a_way_out(tmp_path):
    path = write(tmp_path / "p.parquet", people())
    with pytest.raises(ConfigError, match=r"data\.missing=median needs whole columns, .* Take data\.missing=mean, or"):
        run(replace(SETTINGS, data=source(path, in_memory=False, missing="median")), tmp_path / "run")
    assert run(replace(SETTINGS, data=source(path, missing="median")), tmp_path / "run").status == "finished"


def test_words_for_what_is_missing(tmp_path):
    path = tmp_path / "gaps.csv"
    path.write_text(
        "a,c,y\n" + "".join(f"{gap},{gap},0\n1,x,1\n" for gap in ("", " ", "NA", "?", "nan", "N/A", "null"))
    )
    raw = read(str(path), "y", asked=Columns(categorical=["c"], missing="mean"))
    assert_array_equal(np.isnan(raw.x), np.tile([[True], [False]], (7, 2)))
    path.write_text("a,y\ninf,0\n1,1\n")
    with pytest.raises(
        DataError, match=r"gaps\.csv:2:1 is inf, the first of 1 values that are not finite; fill them in"
    ):
        read(str(path), "y", asked=Columns(missing="mean"))


# the model


def test_a_model_without_such_columns_says_nothing_of_them(tmp_path):
    (tmp_path / "plain.csv").write_text("a,b,y\n" + "".join(f"{n % 5},{n * n % 7},{n % 2}\n" for n in range(60)))
    data = {"name": "file", "path": str(tmp_path / "plain.csv"), "target": "y"}
    path = run(replace(SETTINGS, data=data), tmp_path / "run").folder / "model.npz"
    assert "columns" not in archive.load(path, "model", LARGEST)[0]
    assert Model.load(path).columns is None


def test_a_model_is_read_as_it_was_saved(people_csv, tmp_path):
    folder = run(replace(SETTINGS, data=source(people_csv)), tmp_path / "run").folder
    model = Model.load(folder)
    assert Model.load(model.save(tmp_path / "again.npz")).columns == model.columns
    assert (model.columns.id, model.columns.weight, model.columns.unused) == ("customer", "w", ("note",))
    assert model.features == model.columns.names


GOOD = {
    "columns": [
        {"name": "a", "kind": "number", "levels": [], "rare": False, "fill": 1.5, "missing": True},
        {"name": "b", "kind": "level", "levels": ["p"], "rare": True, "fill": None, "missing": False},
    ],
    "missing": "mean",
    "id": None,
    "weight": "w",
    "unused": ["z"],
}
NAMES = ["a", "a missing", "b=p", "b=(rare)"]


def changed(place, **changes):
    columns = [dict(column) for column in GOOD["columns"]]
    columns[place] |= changes
    return GOOD | {"columns": columns}


FORGED = {
    "no node": [1],
    "a key too many": GOOD | {"code": "os.system"},
    "a key too few": {key: value for key, value in GOOD.items() if key != "unused"},
    "another way with gaps": GOOD | {"missing": "guess"},
    "an id that is no text": GOOD | {"id": 3},
    "unused that is no list": GOOD | {"unused": "z"},
    "half a letter": GOOD | {"unused": ["\ud800"]},
    "columns that are no list": GOOD | {"columns": {}},
    "a column that is no node": GOOD | {"columns": [1]},
    "a column of another kind": changed(0, kind="auto"),
    "a name that is no text": changed(0, name=7),
    "a fill that is not finite": changed(0, fill=float("inf")),
    "a fill that is nan": changed(0, fill=float("nan")),
    "a fill that is a text": changed(0, fill="1.5"),
    "a fill of levels": changed(1, fill=1.0),
    "levels of numbers": changed(0, levels=["p"]),
    "a gap without a fill": changed(0, fill=None),
    "a level twice": changed(1, levels=["p", "p"]),
    "a level that is no text": changed(1, levels=[1]),
    "neither yes nor no": changed(1, rare=1),
    "one column twice": changed(1, name="a", kind="number", levels=[], rare=False),
    "other features": changed(1, levels=["q"]),
}


@pytest.mark.parametrize("columns", FORGED.values(), ids=FORGED)
def test_forged_columns_are_refused_though_the_sha256_fits(columns, tmp_path):
    path = tmp_path / "model.npz"
    assert Model.load(forged(path, header={"columns": GOOD, "features": NAMES})).columns.to_header() == GOOD
    with pytest.raises(DataError, match=r"model\.npz is not a model of ours: its header cannot be read"):
        Model.load(forged(path, header={"columns": columns, "features": NAMES}))


# predictions and evaluations


@pytest.fixture
def shop(call):  # noqa: F811
    """A run on people.csv, in the folder shop."""
    write(Path("people.csv"), people())
    lists = {key: value if isinstance(value, str) else f"[{','.join(value)}]" for key, value in ASKED.items()}
    words = [f"data.{key}={value}" for key, value in lists.items()]
    words += ["data.path=people.csv", "data.target=y", "data.missing=indicator", "hydra.run.dir=shop", *SHORT]
    assert call(*words).code == 0
    return call


def test_predict_brings_the_ids_along_in_any_order_of_the_columns(shop):
    new = people(50, seed=1, rare="red")
    write(Path("new.csv"), {name: new[name] for name in reversed(new) if name not in ("y", "w", "note")})
    write(Path("again.parquet"), new)
    for data in ("new.csv", "again.parquet"):
        assert shop("model=shop", "data=file", f"data.path={data}", f"output={data}.out.csv", name="predict").code == 0
    rows = table("new.csv.out.csv")
    assert [row["customer"] for row in rows] == new["customer"]
    assert Path("new.csv.out.csv").read_bytes() == Path("again.parquet.out.csv").read_bytes()
    model = Model.load(Path("shop"))
    raw = read_features("new.csv", model.features, None, encoding=model.columns).x
    assert_array_equal([float(row["probability_yes"]) for row in rows], model.predict(raw)[:, 1])
    for kind in ("parquet", "npz"):
        output = f"output=out.{kind}"
        assert shop("model=shop", "data=file", "data.path=new.csv", output, name="predict").code == 0
    assert np.load("out.npz")["id"].tolist() == new["customer"]
    assert (
        importlib.import_module("pyarrow.parquet").read_table("out.parquet")["customer"].to_pylist() == new["customer"]
    )


def test_the_card_of_a_model_says_what_the_columns_are(shop):
    card = Path("shop/model.md").read_text()
    said = "2 numbers; 1 date; 2 with levels; id customer; weight w; not used: note; gaps: indicator"
    assert f"| columns | {said} |" in card
    assert "colour=red" in card
    outcome = shop("data.path=people.csv", "data.sep=semicolon")
    assert (outcome.code, "did you mean data.delimiter?" in outcome.err) == (2, True)


def test_any_column_may_be_the_id_of_predictions(shop):
    new = people(20, rare="red")
    write(Path("new.csv"), {"row": list(range(20)), **new})
    words = ["model=shop", "data=file", "data.path=new.csv"]
    outcome = shop(*words, name="predict")
    assert outcome.code == 2
    assert "remove 'row', or name what is no feature by data.drop=[...]" in outcome.err
    assert shop(*words, "data.id=row", "output=out.csv", name="predict").code == 0
    assert [row["row"] for row in table("out.csv")] == [str(row) for row in range(20)]
    assert shop(*words, "data.drop=[row]", "output=other.csv", name="predict").code == 0
    outcome = shop(*words, "data.id=prediction", name="predict")
    assert (outcome.code, "data.id='prediction' is not in new.csv" in outcome.err) == (2, True)
    outcome = shop(*words, "data.drop=[row]", "data.categorical=[colour]", name="predict")
    assert (outcome.code, "data.categorical has no use here, as the model brings its columns" in outcome.err) == (
        2,
        True,
    )


def test_a_level_that_is_new_counts_as_a_rare_one_and_is_said(shop):
    new = people(3)
    write(Path("new.csv"), new | {"colour": ["mauve", "turquoise", "red"]})
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # an error in these tests
        outcome = shop("model=shop", "data=file", "data.path=new.csv", "output=out.csv", name="predict")
    assert outcome.code == 0
    said = "column 'colour' has levels that are new or were too rare to be learnt, such as 'mauve'; they count as rare."
    assert f"Warning: new.csv: {said}" in outcome.err
    model = Model.load(Path("shop"))
    with pytest.warns(UserWarning, match="levels that are new"):
        x = read_features("new.csv", model.features, "y", encoding=model.columns).x
    rare = model.features.index("colour=(rare)")
    assert_array_equal(x[:, rare], [1, 1, 0])


def test_a_gap_that_the_model_does_not_know_is_refused(call):  # noqa: F811
    whole = people()
    whole = {name: whole[name] for name in ("spent", "size", "colour", "y")}
    whole["colour"] = [colour or "blue" for colour in whole["colour"]]
    write(Path("whole.csv"), whole)
    words = ["data.path=whole.csv", "data.target=y", "data.categorical=[colour]", "hydra.run.dir=run", *SHORT]
    assert call(*words).code == 0
    for name, column in (("spent", 1), ("colour", 3)):
        write(Path("new.csv"), {**whole, name: [None, *whole[name][1:]]})
        outcome = call("model=run", "data=file", "data.path=new.csv", name="predict")
        said = f"new.csv:2:{column}: '' in column '{name}' is empty; fill it in, or remove the row."
        assert (outcome.code, outcome.err) == (2, said + "\n")
    write(Path("new.csv"), {**whole, "spent": ["much", *whole["spent"][1:]]})
    outcome = call("model=run", "data=file", "data.path=new.csv", name="predict")
    assert "new.csv:2:1: 'much' in column 'spent' is not a number" in outcome.err
    assert "data.categorical" not in outcome.err


def test_evaluate_encodes_and_weighs_as_the_run_did(shop, tmp_path):
    write(Path("new.csv"), people(seed=1, rare="red"))
    assert shop("model=shop", "data=file", "data.path=new.csv", "plots=false", name="evaluate").code == 0
    model = Model.load(Path("shop"))
    data = read_known("new.csv", model.features, model.classes, "y", encoding=model.columns)
    assert_array_equal(data.weight, people(seed=1)["w"])
    hit = model.predict(data.x).argmax(axis=1) == data.y
    found = json.loads(Path("shop/new-evaluation/evaluation.json").read_text())["new"]["metrics"]["accuracy"]
    assert found == pytest.approx(np.average(hit, weights=data.weight), rel=1e-12)
    held_out = run(
        replace(SETTINGS, data=source("people.csv", test_path="new.csv"), valid_fraction=0.5), tmp_path / "test"
    )
    assert json.loads((held_out.folder / "evaluation.json").read_text())["test"]["rows"] == N


def test_the_estimator_reads_the_columns_of_a_table_by_their_names(shop):
    pandas = pytest.importorskip("pandas")
    estimator = SoftmaxRegression.load("shop")
    frame = pandas.read_csv("people.csv")
    with pytest.warns(UserWarning, match="The table: column 'colour' has levels that are new"):
        found = estimator.predict_proba(frame)
    model = Model.load(Path("shop"))
    with pytest.warns(UserWarning, match="levels"):
        x = read_features("people.csv", model.features, "y", encoding=model.columns).x
    assert_allclose(found, model.predict(x), rtol=1e-12)
    assert SoftmaxRegression.load(estimator.save("again.npz")).model_.columns == model.columns
    for wrong, said in (
        (np.ones((3, 5)), "makes its features of columns by their names, and there is no 'age', 'colour'"),
        (np.ones((3, len(model.features))), "makes its features of columns by their names"),
        (frame.assign(spent="much"), "Row 0 of column 'spent' has 'much', which is no number; correct it, or leave it"),
        (frame.assign(joined="soon"), "Row 0 of column 'joined' has 'soon', which is no date such as"),
    ):
        with pytest.raises(DataError, match=said):
            estimator.predict(wrong)
    with pytest.raises(ConfigError, match="partial_fit cannot go on with a model that makes its features of columns"):
        SoftmaxRegression.load("shop", optimizer="adam").partial_fit(frame, ["yes"] * N)


# weights


@pytest.mark.parametrize("kind", ["csv", "parquet", "npz"])
def test_a_weight_of_three_is_three_rows(kind, tmp_path):
    rng = np.random.default_rng(0)
    x, y, w = rng.normal(size=(60, 2)), rng.integers(0, 2, 60), rng.integers(0, 4, 60)
    again = np.repeat(np.arange(60), w)
    data = []
    for name, rows, weight in (("weighted", slice(None), w), ("repeated", again, None)):
        path = tmp_path / f"{name}.{kind}"
        if kind == "npz":
            np.savez(path, x=x[rows], y=y[rows], **({} if weight is None else {"weight": weight}))
            data.append({"name": "file", "path": str(path)})
            continue
        columns = {"a": x[rows, 0].tolist(), "b": x[rows, 1].tolist(), "y": y[rows].tolist()}
        write(path, columns if weight is None else columns | {"w": weight.tolist()})
        data.append({"name": "file", "path": str(path), "target": "y", "weight": None if weight is None else "w"})
    newton = {"optimizer": {"name": "newton"}, "valid_fraction": 0.0, "standardize": False, "penalty": {"name": "l2"}}
    folders = [run(replace(SETTINGS, data=one, **newton), tmp_path / str(n)).folder for n, one in enumerate(data)]
    models = [Model.load(folder) for folder in folders]
    assert_allclose(models[0].w, models[1].w, atol=1e-6)
    assert np.abs(models[0].w).max() > 1e-3


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        (["-1", "1"], r"w\.csv:2:2: the weight -1 is negative or not finite; give each row a number of 0 or more"),
        (["1", "x"], r"w\.csv:3:2: the weight 'x' is no number"),
        (["1", ""], r"w\.csv:3:2: the weight '' is no number"),
        (["1", "1e999"], r"w\.csv:3:2: the weight inf is negative or not finite"),
        (["0", "0"], r"w\.csv:2:2: all weights are 0"),
    ],
)
def test_weights_that_are_none_are_refused(cells, said, tmp_path):
    (tmp_path / "w.csv").write_text("a,w,y\n" + "".join(f"1,{cell},{row}\n" for row, cell in enumerate(cells)))
    with pytest.raises(DataError, match=said):
        read(str(tmp_path / "w.csv"), "y", asked=Columns(weight="w"))


@pytest.mark.parametrize(("part", "held_out"), [("training", True), ("validation", False)])
def test_a_part_without_any_weight_is_refused(part, held_out, tmp_path):
    path = write(tmp_path / "w.csv", {"a": list(range(10)), "w": [0] * 9 + [1], "y": ["p", "q"] * 5})
    data = read(path, "y")
    seed = next(seed for seed in range(30) if (split(data, 0.2, seed)[1].x[:, 0].max() == 9) == held_out)
    node = {"name": "file", "path": path, "target": "y", "weight": "w"}
    with pytest.raises(DataError, match=f"All {part} rows weigh 0, so none counts"):
        run(replace(SETTINGS, data=node, valid_fraction=0.2, batch_size=None, seed=seed), tmp_path / "run")


def test_weights_of_arrays_are_as_many_as_the_rows(tmp_path):
    for weight, said in (([1.0], r"weight is float64 of shape \(1,\)"), ([1, -1], "the weight -1 is negative")):
        np.savez(tmp_path / "w.npz", x=np.ones((2, 1)), y=[0, 1], weight=weight)
        with pytest.raises(DataError, match=said):
            read(str(tmp_path / "w.npz"), None)
    np.savez(tmp_path / "w.npz", x=np.ones((2, 1)), y=[0, 1], weight=[1, 2])
    assert_array_equal(read(str(tmp_path / "w.npz"), None).weight, [1, 2])
    assert_array_equal(read_features(str(tmp_path / "w.npz"), ("x0",), None).x, np.ones((2, 1)))


# what is said of doubtful columns, and of settings


def test_all_doubtful_columns_are_named_at_once_with_what_helps(tmp_path):
    path = write(tmp_path / "people.csv", people(60))
    with pytest.raises(DataError) as refused:
        read(path, "y", asked=Columns(drop=["w"]))
    assert str(refused.value).replace(f"{tmp_path}/", "").splitlines() == [
        "people.csv: 5 columns are not numbers throughout. What each holds, and the setting that helps:",
        "  customer  text, 60 different values                        data.drop=[customer] or data.id=customer",
        "  age       empty in 7 of 60 rows                            data.missing=mean",
        "  colour    text, 4 different values, empty in 2 of 60 rows  data.categorical=[colour] data.missing=mean",
        "  joined    dates such as '2020-01-01'                       data.dates=[joined]",
        "  note      the text 'hello' throughout                      data.drop=[note]",
        "All together: data.drop=[w,customer,note] data.categorical=[colour] data.dates=[joined] data.missing=mean",
    ]
    together = {"drop": ["w", "customer", "note"], "categorical": ["colour"], "dates": ["joined"], "missing": "mean"}
    assert len(read(path, "y", asked=Columns(**together))) == 60


def test_the_same_is_said_of_parquet(tmp_path):
    path = write(tmp_path / "people.parquet", people(60))
    with pytest.raises(DataError) as refused:
        read(path, "y", asked=Columns(drop=["w"]))
    lines = str(refused.value).splitlines()
    assert [line.split()[0] for line in lines[1:-1]] == ["customer", "age", "colour", "joined", "note"]
    assert lines[-1].endswith(
        "data.drop=[w,customer,note] data.categorical=[colour] data.dates=[joined] data.missing=mean"
    )


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"drop": ["colr"]}, r"data\.drop='colr' is not in .*people\.csv; it has .* Did you mean 'colour'\?"),
        ({"features": ["age", "nope"]}, r"data\.features='nope' is not in"),
        ({"features": []}, r"data\.features=\[\] names no column"),
        ({"id": "nope"}, r"data\.id='nope' is not in"),
        ({"weight": "nope"}, r"data\.weight='nope' is not in"),
        ({"categorical": ["nope"]}, r"data\.categorical='nope' is not in"),
        ({"dates": ["nope"]}, r"data\.dates='nope' is not in"),
        ({"id": "y"}, r"data\.target and data\.id both name 'y'; leave one out"),
        ({"id": "w", "weight": "w"}, r"data\.id and data\.weight both name 'w'"),
        ({"features": ["age"], "drop": ["age"]}, r"data\.drop and data\.features both name 'age'"),
        ({"drop": ["colour"], "categorical": ["colour"]}, r"data\.categorical names 'colour', which is no feature"),
        ({"dates": ["joined"], "categorical": ["joined"]}, r"data\.categorical and data\.dates both name 'joined'"),
        ({"categorical": "colour"}, r"data\.categorical=colour is neither a list nor auto\. Write .*=\[colour\]"),
        ({"missing": "zero"}, r"data\.missing=zero is not known\. Choices: error, mean, median, indicator"),
        ({"delimiter": "::"}, r"data\.delimiter='::' is no single letter\. Give one, or comma, semicolon, tab, pipe"),
    ],
)
def test_settings_that_do_not_fit_are_refused(asked, said, people_csv):
    with pytest.raises(ConfigError, match=said):
        read(people_csv, "y", asked=Columns(**asked))


def test_a_name_alone_is_told_how_a_list_is_written(call):  # noqa: F811
    outcome = call("data.path=people.csv", "data.target=y", "data.drop=customer")
    assert outcome.code == 2
    assert "data.drop must be of type list[str] | None, got 'customer' of type str. Write data.drop=[customer]." in (
        outcome.err
    )


@pytest.mark.parametrize("name", ["x.npz", "x.npy", "x.svm"])
def test_columns_without_names_have_no_settings(name, tmp_path):
    path = tmp_path / name
    if name.endswith("npz"):
        np.savez(path, x=np.ones((2, 1)), y=[0, 1])
    elif name.endswith("npy"):
        np.save(path, np.ones((2, 1)))
    else:
        path.write_text("0 1:1\n1 1:2\n")
    with pytest.raises(
        ConfigError, match=r"data\.drop, data\.missing cannot be used, as the columns of .* have no names"
    ):
        read(str(path), None, asked=Columns(drop=["x0"], missing="mean"))
    with pytest.raises(ConfigError, match=r"data\.delimiter has no use, as .* is no \.csv"):
        read(str(path), None, asked=Columns(delimiter=";"))
    with pytest.raises(DataError, match="makes features of columns by their names; write a"):
        read_features(str(path), ("a=p",), None, encoding=Encoding((Column("a", "level", ("p",), (True,)),)))


def test_features_of_a_name_that_is_another_column_are_refused(tmp_path):
    path = tmp_path / "twice.csv"
    path.write_text("c,c=p,y\n" + "p,1,0\nq,2,1\n" * 4)
    raw = read(str(path), "y", asked=Columns(categorical=["c"]))
    with pytest.raises(DataError, match="more than one column is named 'c=p'; rename one"):
        raw.encoding.fit(raw.x, "twice.csv")


def test_a_column_that_is_empty_in_all_training_rows_is_refused():
    with pytest.raises(DataError, match=r"no training row has a value in column 'a'; remove it by data\.drop=\[a\]"):
        Encoding((Column("a"),), "mean").fit(np.full((3, 1), np.nan))


CUT = gzip.compress(b"a,y\n1,0\n2,1\n" * 99)[:-20]


@pytest.mark.parametrize("content", [b"a,y\n1,0\n", CUT, b"\x1f\x8b"], ids=["text", "cut off", "two bytes"])
def test_a_damaged_gz_is_refused(content, tmp_path):
    (tmp_path / "d.csv.gz").write_bytes(content)
    with pytest.raises(DataError, match=r"d\.csv\.gz is damaged or no \.gz file .*; write it again with gzip"):
        read(str(tmp_path / "d.csv.gz"), "y")


def test_a_gz_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.data.reading.MAX_BYTES", 100_000)
    (tmp_path / "bomb.csv.gz").write_bytes(gzip.compress(b"a,y\n" + b"1,0\n2,1\n" * 100_000))
    assert (tmp_path / "bomb.csv.gz").stat().st_size < 10_000
    with pytest.raises(FileError, match=r"bomb\.csv\.gz cannot be read: it unpacks to more than 100,000 bytes"):
        read(str(tmp_path / "bomb.csv.gz"), "y")


def test_a_cell_that_is_no_date_is_named(tmp_path):
    (tmp_path / "d.csv").write_text("d,y\n2024-01-01,0\nsoon,1\n")
    with pytest.raises(
        DataError, match=r"d\.csv:3:1: 'soon' in column 'd' is no date such as 2024-12-31, .*; correct it"
    ):
        read(str(tmp_path / "d.csv"), "y", asked=Columns(dates=["d"]))
    write(tmp_path / "d.parquet", {"d": ["2024-01-01", "soon"], "y": [0, 1]})
    with pytest.raises(DataError, match=r"d\.parquet: 'soon' in column 'd' is no date"):
        read(str(tmp_path / "d.parquet"), "y", asked=Columns(dates=["d"]))


@pytest.mark.parametrize("asked", [Columns(), Columns(categorical=["d"]), Columns(categorical="auto")])
def test_columns_of_other_types_are_refused(asked, tmp_path):
    path = write(tmp_path / "d.parquet", {"a": [1, 2], "d": [[1], [2]], "e": [{"f": 1}, {"f": 2}], "y": [0, 1]})
    said = (
        r"d\.parquet: column 'd' is of type list<.*, which is no number; encode it, or remove it by data\.drop=\[d,e\]"
    )
    with pytest.raises(DataError, match=said):
        read(path, "y", asked=asked)


def test_numbers_that_a_table_has_as_categories_or_texts_are_levels_where_that_is_said(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    for name, cells in (("c", pyarrow.array([3, 1, None, 1]).dictionary_encode()), ("c", ["3", "1", "NA", "1"])):
        path = write(tmp_path / "c.arrow", {name: cells, "a": [1.5, 2, 3, 4], "y": [0, 1, 0, 1]})
        with pytest.raises(
            DataError, match=r"row 2 of column 'c' is (empty|a missing value); .* set data\.missing=mean"
        ):
            read(path, "y")
        with pytest.raises(
            DataError, match=r"column 'c' is of type .*, which is no number; encode it by data\.cat.*=\[c\]"
        ):
            read(path, "y", asked=Columns(missing="mean"))
        for categorical in (["c"], "auto"):
            data = read(path, "y", asked=Columns(missing="mean", categorical=categorical))
            assert data.encoding.columns[0].levels == ("1", "3")
            assert_array_equal(data.x, [[1, 1.5], [0, 2], [np.nan, 3], [0, 4]])


def test_times_of_parquet_are_days_of_utc(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    noon = [datetime(1970, 1, 1 + day, 12) for day in range(3)]
    columns = {
        "ns": pyarrow.array(noon, "timestamp[ns]"),
        "tz": pyarrow.array(noon, pyarrow.timestamp("s", tz="Europe/Berlin")),
        "date": pyarrow.array([moment.date() for moment in noon]),
        "text": [str(moment) for moment in noon],
        "gap": pyarrow.array([noon[0], None, noon[2]]),
        "y": [0, 1, 0],
    }
    path = write(tmp_path / "d.parquet", columns)
    data = read(path, "y", asked=Columns(missing="mean", dates=["ns", "tz", "date", "text", "gap"]))
    assert_array_equal(data.x, [[0.5, 0.5, 0, 0.5, 0.5], [1.5, 1.5, 1, 1.5, np.nan], [2.5, 2.5, 2, 2.5, 2.5]])


def test_texts_where_a_model_has_learnt_numbers_are_refused(tmp_path):
    path = write(tmp_path / "a.parquet", {"a": ["1", "2"]})
    with pytest.raises(DataError, match=r"column 'a' is of type string, and the model has learnt numbers; convert it"):
        read_features(path, ("a",), None)


@pytest.mark.parametrize("in_memory", [True, False])
def test_gaps_of_parquet_that_a_model_does_not_know_are_refused(in_memory, tmp_path):
    path = write(tmp_path / "a.parquet", {"a": [1.0, None], "c": ["p", None]})
    for columns in ((Column("a"),), (Column("c", "level", ("p",), (True,)),)):
        encoding = Encoding(columns, unused=("a", "c"))
        name = columns[0].name
        with pytest.raises(DataError, match=f"row 1 of column '{name}' is nan, .* not finite; fill them in, or remove"):
            read_features(path, encoding.names, None, in_memory, encoding=encoding)


def test_mini_batches_of_columns_in_the_file_train(tmp_path):
    path = write(tmp_path / "p.parquet", people(2000))
    done = run(replace(SETTINGS, data=source(path, in_memory=False), epochs=20), tmp_path / "run")
    assert done.metrics["val_accuracy"] > 0.8


def test_names_of_the_command_line_may_look_like_numbers():
    assert File("x.csv", drop=[1, 2], categorical=[3]).columns == Columns(drop=("1", "2"), categorical=("3",))
