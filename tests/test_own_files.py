"""Thirty-six files as people have them: each trains with at most one setting, which the message named, or is refused.

A user does nothing else than read: what a test gives a command is what the last message said.
"""

import gzip
import importlib
import json
import re
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from numpy.testing import assert_allclose

from tests.test_command_line import call, table  # noqa: F401 - a fixture
from trainer.runs.model import Model

N = 120
RNG = np.random.default_rng(0)
A, B = RNG.normal(size=N).round(3), RNG.normal(size=N).round(3)
Y = np.where(A + B > 0, "yes", "no")
COLOUR = np.where(Y == "yes", RNG.choice(["red", "blue"], N), RNG.choice(["green", "blue"], N))


def lines(columns, mark=",", end="\n", header=True):
    """Columns as the lines of a file; None and nan are empty cells."""
    rows = zip(*columns.values(), strict=True)
    cells = [["" if value is None else str(value) for value in row] for row in rows]
    return "".join(mark.join(row) + end for row in ([[*columns]] if header else []) + cells)


def gaps(values, every=10, gap=""):
    return [gap if row % every == 3 else value for row, value in enumerate(values)]


def save(name, content):
    """Writes text, bytes or columns, the last as Parquet or by numpy, as the name says."""
    path = Path(name)
    if isinstance(content, str):
        path.write_bytes(content.encode())
    elif isinstance(content, bytes):
        path.write_bytes(content)
    elif name.endswith(".npz"):
        np.savez(path, **content)
    else:
        pyarrow = pytest.importorskip("pyarrow")
        importlib.import_module("pyarrow.parquet").write_table(pyarrow.table(content), path)


class Own(NamedTuple):
    """A file, and what a user meets with it.

    setting   the one that the message names, "" where the file trains as it is, None where it is refused
    said      what the message says, or the warning of a file that trains
    """

    name: str
    content: object
    setting: str | None = ""
    said: str = ""


PLAIN = {"a": A, "b": B, "y": Y}
DATES = [f"20{10 + row % 14}-{1 + row % 12:02}-{1 + row % 28:02}" for row in range(N)]
BIG = RNG.normal(size=(2000, 100))
THOUSAND = np.arange(3000) % 1000

OWN = {
    "names as labels": Own("own.csv", lines(PLAIN)),
    "labels of 0.0 and 1.0": Own("own.csv", lines(PLAIN | {"y": (Y == "yes").astype(float)})),
    "labels of True and False": Own("own.csv", lines(PLAIN | {"y": Y == "yes"})),
    "unbalanced classes": Own("own.csv", lines(PLAIN | {"y": np.where(np.arange(N) < 14, "leave", "stay")})),
    "a thousand classes": Own(
        "own.csv",
        lines({"a": THOUSAND * 0.5, "b": THOUSAND % 7 + 0.5, "y": THOUSAND}),
        "valid_fraction=0",
        "1000 classes",
    ),
    "a hundred columns": Own("own.csv", lines({f"f{d}": BIG[:, d] for d in range(100)} | {"y": BIG[:, 0] > 0})),
    "lines of Windows": Own("own.csv", lines(PLAIN, end="\r\n")),
    "a byte order mark": Own("own.csv", b"\xef\xbb\xbf" + lines(PLAIN).encode()),
    "a quoted column with a comma": Own("own.csv", lines({"a": A, '"b, in cm"': B, "y": Y})),
    "tabs": Own("own.tsv", lines(PLAIN, mark="\t")),
    "packed": Own("own.csv.gz", gzip.compress(lines(PLAIN).encode())),
    "packed tabs": Own("own.tsv.gz", gzip.compress(lines(PLAIN, mark="\t").encode())),
    "Parquet": Own("own.parquet", PLAIN),
    "arrays with weights": Own("own.npz", {"x": np.c_[A, B], "y": (Y == "yes").astype(int), "weight": np.ones(N)}),
    "one column constant": Own("own.csv", lines({"c": [3] * N} | PLAIN)),
    "all columns constant": Own("own.csv", lines({"c": [3] * N, "d": [0.5] * N, "y": Y}), "", "no better than always"),
    "numbers of customers": Own(
        "own.csv", lines({"customer": np.arange(N) + 1000} | PLAIN), "", "data.drop=[customer]"
    ),
    "semicolons": Own("own.csv", lines(PLAIN, mark=";"), "data.delimiter=semicolon", "separated by ';'"),
    "tabs in a .csv": Own("own.csv", lines(PLAIN, mark="\t"), "data.delimiter=tab", "separated by '\\t'"),
    "no header": Own("own.csv", lines(PLAIN, header=False), "data.header=false", "names of columns are needed"),
    "empty cells": Own("own.csv", lines(PLAIN | {"a": gaps(A)}), "data.missing=mean", "own.csv:5:1: '' in column 'a'"),
    "NA": Own("own.csv", lines(PLAIN | {"a": gaps(A, gap="NA")}), "data.missing=mean", "own.csv:5:1: 'NA' in column"),
    "question marks": Own("own.csv", lines(PLAIN | {"b": gaps(B, gap="?")}), "data.missing=mean", "own.csv:5:2: '?'"),
    "gaps in several columns": Own(
        "own.csv", lines(PLAIN | {"a": gaps(A), "b": gaps(B, 7)}), "data.missing=mean", "b  empty in 17 of 120 rows"
    ),
    "gaps of Parquet": Own("own.parquet", PLAIN | {"a": gaps(A, gap=None)}, "data.missing=mean", "row 3 of column 'a'"),
    "texts": Own(
        "own.csv", lines({"colour": COLOUR} | PLAIN), "data.categorical=[colour]", "own.csv:2:1: 'red' in column"
    ),
    "categories of Parquet": Own(
        "own.parquet", {"colour": COLOUR} | PLAIN, "data.categorical=[colour]", "is of type string, which is no number"
    ),
    "dates": Own("own.csv", lines({"joined": DATES} | PLAIN), "data.dates=[joined]", "'2010-01-01' in column 'joined'"),
    "ids that are texts": Own(
        "own.csv", lines({"id": [f"C{row}" for row in range(N)]} | PLAIN), "data.drop=[id]", "differs from row to row"
    ),
    "a column without anything": Own("own.csv", lines(PLAIN | {"a": [""] * N}), "data.drop=[a]", "is empty; remove"),
    "UTF-16": Own("own.csv", lines(PLAIN).encode("utf-16"), None, "own.csv: not UTF-8 .*: iconv -f utf-16 -t utf-8 "),
    "duplicate names": Own(
        "own.csv", lines(PLAIN).replace("a,b", "a,a"), None, "own.csv:1: more than one column is named 'a'; rename one"
    ),
    "one row": Own("own.csv", "a,b,y\n1,2,yes\n", None, "all labels are 'yes'; at least 2 classes are needed"),
    "a name without a column": Own("own.csv", "a,b,y\n", None, "own.csv has no rows of data; at least one is needed"),
    "decimal commas": Own(
        "own.csv",
        lines({"a": [f'"{value}"'.replace(".", ",") for value in A], "y": Y}),
        None,
        "own.csv:2:1: '0,126' in column 'a' has a comma; write a decimal point",
    ),
    "a number to be learnt": Own(
        "own.csv", lines({"a": A, "y": B}), None, "no integers; labels must be integers or names .for regression, cut"
    ),
}


def test_there_are_thirty_six():
    assert len(OWN) == 36


@pytest.mark.parametrize("own", OWN.values(), ids=OWN)
def test_a_file_trains_with_at_most_the_setting_that_the_message_names(own, call):  # noqa: F811
    save(own.name, own.content)
    words = [f"data.path={own.name}", "epochs=3", "plots=false", "hydra.run.dir=run"]
    words += [] if own.name.endswith(".npz") or own.setting == "data.header=false" else ["data.target=y"]
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # an error in these tests
        outcome = call(*words)
        if own.setting == "":
            assert outcome.code == 0, outcome.err
            assert own.said in outcome.err + outcome.out
        else:
            assert (outcome.code, outcome.out) == (2, "")
            assert re.search(own.said if own.setting is None else re.escape(own.said), outcome.err)
            assert "Traceback" not in outcome.err
            assert not Path("run").exists()
    if own.setting is None:
        assert outcome.err.count("\n") == 1  # one sentence
    elif own.setting:
        named = [word.rstrip(".;,") for word in re.findall(r"[\w.]+=\S+", outcome.err)]
        assert own.setting in named
        assert call(*words, own.setting).code == 0
    if own.setting is not None:
        assert Model.load(Path("run")).w.shape[1] >= 2


def test_a_large_file_trains(call):  # noqa: F811
    """200,000 x 100: by numpy here, as the writing of so many numbers as text takes longer than all the rest."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200_000, 100), dtype=np.float32)
    np.savez("big.npz", x=x, y=(x[:, 0] > 0).astype(np.int8))
    assert call("data.path=big.npz", "epochs=1", "plots=false", "optimizer=lbfgs", "hydra.run.dir=run").code == 0
    assert json.loads(Path("run/evaluation.json").read_text())["validation"]["metrics"]["accuracy"] > 0.9


SHOP = {
    "id": [f"C{row:04}" for row in range(N)],
    "joined": DATES,
    "colour": COLOUR,
    "age": gaps(RNG.integers(18, 90, N), 8),
    "w": RNG.integers(1, 3, N),
    "y": Y,
}


def test_a_table_with_everything_is_trained_on_as_the_message_says(call):  # noqa: F811
    save("shop.csv", lines(SHOP))
    words = ["data.path=shop.csv", "data.target=y", "data.weight=w", "epochs=30", "plots=false", "hydra.run.dir=shop"]
    outcome = call(*words)
    assert outcome.code == 2
    names = [line.split()[0] for line in outcome.err.splitlines() if line.startswith("  ")]
    assert names == ["id", "joined", "colour", "age"]
    together = outcome.err.splitlines()[-1].removeprefix("All together: ").split()
    assert together == ["data.drop=[id]", "data.categorical=[colour]", "data.dates=[joined]", "data.missing=mean"]
    together[0] = "data.id=id"  # which the line of this column offers too
    assert call(*words, *together).code == 0
    model = Model.load(Path("shop"))
    assert model.features == ("joined", "colour=blue", "colour=green", "colour=red", "age")

    new = {name: SHOP[name][:6] for name in ("age", "colour", "id", "joined")}  # in another order, without the rest
    new["colour"] = np.array(["blue", "green", "red", "mauve", "blue", "red"])
    save("new.csv", lines(new))
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        outcome = call("model=shop", "data=file", "data.path=new.csv", "output=out.csv", name="predict")
    assert outcome.code == 0
    assert (
        "new.csv: column 'colour' has levels that are new or were too rare to be learnt, such as 'mauve'" in outcome.err
    )
    rows = table("out.csv")
    assert [row["id"] for row in rows] == SHOP["id"][:6]

    mean, scale = model.standardizer
    age = model.columns.columns[2].fill
    for row, said in enumerate(rows):  # by hand
        number = float(new["age"][row]) if new["age"][row] != "" else age
        date = (np.datetime64(new["joined"][row]) - np.datetime64("1970-01-01")).astype(int)
        x = np.array([date, *(new["colour"][row] == name for name in ("blue", "green", "red")), number])
        z = ((x - mean) / scale) @ model.w[:-1] + model.w[-1]
        p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
        assert_allclose([float(said["probability_no"]), float(said["probability_yes"])], p, rtol=1e-9)
