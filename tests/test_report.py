"""The report of runs: its numbers against the files, hostile and torn folders, its size, and the page in a browser."""

import csv
import io
import json
import math
import os
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest

from tests.test_run import SETTINGS
from trainer.commands import main
from trainer.errors import ConfigError, FileError
from trainer.runs.outputs import content_sha256, tables_sha256, write_record
from trainer.runs.run import run
from trainer.runs.text import grammar, quoted, written
from trainer.sweeps.report import charts
from trainer.sweeps.report.page import duration, write
from trainer.sweeps.report.reading import Run, read
from trainer.sweeps.report.summary import ranking, table, varied
from trainer.sweeps.report.values import DASH, flatten, natural, plain

VOID = {"meta", "link", "br", "img", "input", "hr"}
HOSTILE = [
    "=cmd()",
    "</script><img src=x onerror=alert(1)>",
    "{{7*7}}",
    "%s%n",
    "\x1b[31mred\x1b[0m",
    '"><svg onload=a>',
]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)


def summarise(folders, output, metric=None):
    """Writes the two files of all runs in and below the folders."""
    found = read(folders)
    return write(found, ranking(found.runs, metric), output)


def command(words: list[str]) -> int:
    """The exit code of trainer.report."""
    before = sys.argv
    sys.argv = ["trainer.report", *words]
    try:
        main("report")
    except SystemExit as end:
        return end.code
    finally:
        sys.argv = before


def make(folder: Path, loss=None, *, seed=0, status="finished", epochs=12, reason="", start=1.0, **changes) -> Path:
    """A run as trainer.runs.run leaves it; loss is a node of the configuration, changes are others."""
    folder.mkdir(parents=True)
    noise = np.random.default_rng([seed if isinstance(seed, int) else 0, epochs]).normal(0, 0.01, epochs)
    epoch = np.arange(1, epochs + 1)
    values = start * np.exp(-epoch / 5) + 0.2 + noise
    rows = [
        {"epoch": int(e), "loss": v * 0.9, "val_loss": v, "accuracy": 1 - v / 4, "val_accuracy": 0.98 - v / 4}
        for e, v in zip(epoch, values.tolist(), strict=True)
    ]
    config = {
        "activation": {"name": "softmax", "temperature": 1.0},
        "loss": loss or {"name": "ce"},
        "gradient": {"name": "auto", "precise": False},
        "optimizer": {"name": "sgd", "lr": 0.02, "momentum": 0.9, "nesterov": False},
        "callbacks": {},
        "epochs": epochs,
        "seed": seed,
        "metrics": ["accuracy"],
        **changes,
    }
    record = {"status": status, "reason": reason, "metrics": rows[-1], "epochs": epochs, "seed": seed, "seconds": 0.5}
    (folder / "run.json").write_text(json.dumps({**record, "config": config}))
    with (folder / "metrics.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0], lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    sign(folder)
    return folder


def sign(folder: Path) -> None:
    """Writes the checksums into run.json, as the run does at its end."""
    record = json.loads((folder / "run.json").read_text())
    record["table_sha256"] = tables_sha256(folder)
    (folder / "run.json").write_text(json.dumps({**record, "sha256": content_sha256(record)}))


def sgd(lr):
    return {"name": "sgd", "lr": lr, "momentum": 0.9, "nesterov": False}


@pytest.fixture
def sweep(tmp_path):
    """Twelve runs: two losses, two steps, three seeds; one of them diverged."""
    root, n = tmp_path / "sweep", 0
    for loss in ("ce", "brier"):
        for lr in (0.01, 0.1):
            for seed in range(3):
                gone = {"status": "diverged", "reason": "The loss is not finite."} if n == 5 else {}
                make(root / str(n), {"name": loss}, seed=seed, optimizer=sgd(lr), start=1 + lr, **gone)
                n += 1
    return root


class Page(HTMLParser):
    """Checks the page while it is read."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.words, self.attributes, self.rows = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data.strip()


def page(folder: Path) -> Page:
    """The page, after the checks that hold for every page."""
    text = (folder / "report.html").read_text(encoding="utf-8")
    found = Page(text)
    assert not {"script", "iframe", "object", "embed", "form", "base", "img"} & set(found.tags)
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in text
    assert not re.search(r"url\(|@import|https?://|\x1b", text)
    for tag, name, value in found.attributes:
        assert not name.startswith("on")
        if (tag, name) == ("a", "href"):
            assert re.fullmatch(r"[A-Za-z0-9_.~%/-]+/", value)  # a folder beside the page, by no scheme and no host
            assert not value.startswith("//")
        elif name in ("href", "src", "xlink:href", "action", "srcset"):
            assert (tag, value) == ("link", "data:,")
        if name == "d":
            assert re.fullmatch(r"[MLHhvZ0-9. -]*", value)
        if name in ("x", "y", "width", "height", "viewBox"):
            assert all(math.isfinite(float(number)) for number in value.split())
    return found


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "summary.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_table_against_the_files(sweep, tmp_path):
    files = summarise([sweep], tmp_path / "out")
    assert [file.name for file in files] == ["summary.csv", "report.html"]
    rows = rows_of(tmp_path / "out")
    assert [Path(row["folder"]).name for row in rows] == [str(n) for n in range(12)]
    for row in rows:
        with (sweep / Path(row["folder"]).name / "metrics.csv").open(newline="") as file:
            epochs = list(csv.DictReader(file))
        for name in ("loss", "val_loss", "accuracy", "val_accuracy"):
            values = [float(epoch[name]) for epoch in epochs]
            assert float(row[f"final_{name}"]) == values[-1]
            assert float(row[f"best_{name}"]) == (min if "loss" in name else max)(values)
        assert (row["seconds"], row["epochs_done"]) == ("0.5", "12")
    assert [row["status"] for row in rows].count("diverged") == 1
    assert rows[5]["reason"] == "The loss is not finite."
    assert (rows[0]["loss"], rows[0]["optimizer.lr"], rows[11]["loss"]) == ("ce", "0.01", "brier")

    table = page(tmp_path / "out").rows
    shown = {(row[3], row[4]): row for row in table if len(row) == 10 and row[3] in ("ce", "brier")}
    assert len(shown) == 4
    for (loss, lr), cells in shown.items():
        runs = [r for r in rows if (r["loss"], r["optimizer.lr"]) == (loss, lr) and r["status"] == "finished"]
        values = [float(r["final_val_accuracy"]) for r in runs]
        mean, deviation = re.fullmatch(r"([0-9.]+) ± ([0-9.]+)", cells[1]).groups()
        assert float(mean) == pytest.approx(np.mean(values), abs=10.0 ** -len(mean.split(".")[1]))
        assert float(deviation) == pytest.approx(statistics.stdev(values), rel=0.06)
        assert cells[-1] == ("2 of 3" if (loss, lr) == ("ce", "0.1") else "3")
    best = next(cells for cells in shown.values() if "best" in cells[2].replace("≈ best", ""))
    whole = {k: v for k, v in shown.items() if v[-1] == "3"}  # one with a diverged seed is no candidate
    assert best[1] == max(cells[1] for cells in whole.values())


def measure(folder: Path, **metrics: float) -> Path:
    """Gives a run other numbers at its end."""
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**record, "metrics": record["metrics"] | metrics}))
    sign(folder)
    return folder


RULE = "val_accuracy, the higher the better, and of equal ones the lower val_loss"


def test_the_metric_ranks_and_equal_ones_the_loss_where_it_is_the_same(tmp_path):
    for n, (lr, accuracy, loss) in enumerate([(1.0, 0.9, 0.1), (2.0, 0.95, 0.5), (3.0, 0.95, 0.4), (4.0, 0.95, 0.6)]):
        measure(make(tmp_path / "one" / str(n), optimizer=sgd(lr)), val_accuracy=accuracy, val_loss=loss)
        measure(make(tmp_path / "two" / str(n), {"name": ("ce", "brier")[n % 2]}), val_accuracy=accuracy)
    summarise([tmp_path / "one"], tmp_path / "one")
    summarise([tmp_path / "two"], tmp_path / "two")
    first, second = (page(tmp_path / name) for name in ("one", "two"))
    assert [row[3] for row in first.rows if row and row[0].isdigit()][:4] == ["3", "2", "4", "1"]
    assert f"What ranks is {RULE}: it is the first metric that all runs have." in " ".join(first.words)
    assert f"Sorted by {RULE}." in " ".join(first.words)
    assert "What ranks is val_accuracy, the higher the better: it" in " ".join(second.words)


def test_another_metric_ranks_where_it_is_the_first_or_asked_for(tmp_path):
    for n, lr in enumerate((0.1, 0.2)):
        make(tmp_path / "none" / str(n), optimizer=sgd(lr), metrics=[])
        make(tmp_path / "both" / str(n), {"name": ("ce", "brier")[n]}, metrics=[])
        measure(make(tmp_path / "ece" / str(n), optimizer=sgd(lr), metrics=["ece", "accuracy"]), val_ece=0.1 + lr)
        for name in ("none", "both"):
            record = json.loads((tmp_path / name / str(n) / "run.json").read_text())
            record["metrics"] = {key: value for key, value in record["metrics"].items() if "accuracy" not in key}
            (tmp_path / name / str(n) / "run.json").write_text(json.dumps(record))
            sign(tmp_path / name / str(n))

    def words(name, metric=None):
        summarise([tmp_path / name], tmp_path / name, metric)
        return " ".join(page(tmp_path / name).words)

    assert "by val_loss" in words("none")
    assert "there is no best one" in words("both")  # two losses and nothing else: neither is better than the other
    assert "by val_ece" in words("ece")
    assert "by loss" in words("both", "loss")
    with pytest.raises(ConfigError, match="val_ece"):
        summarise([tmp_path / "both"], tmp_path / "both", "val_ece")


def titles(folder: Path) -> list[str]:
    """The captions of the charts."""
    return re.findall(r"<figcaption>([^<]*)</figcaption>", (folder / "report.html").read_text(encoding="utf-8"))


def test_losses_that_cannot_be_compared_have_a_panel_each(tmp_path):
    nodes = [{"name": "ce"}, {"name": "focal", "gamma": 1.0}, {"name": "focal", "gamma": 2.0}, {"name": "ce"}]
    for n, node in enumerate(nodes):
        penalty = {"name": "l2", "strength": float(n)}  # which is in none of the two columns
        make(tmp_path / "in" / str(n), node, penalty=penalty, label_smoothing=0.1 * (n == 3))
    summarise([tmp_path / "in"], tmp_path / "out")
    page(tmp_path / "out")
    shown = titles(tmp_path / "out")
    assert [title for title in shown if title.startswith("val_loss")] == [
        "val_loss: ce",
        "val_loss: focal, gamma 1",
        "val_loss: focal, gamma 2",
    ]
    assert len([title for title in shown if title.startswith("loss:")]) == 4
    assert "val_accuracy" in shown
    make(tmp_path / "same" / "0", penalty={"name": "none"})
    make(tmp_path / "same" / "1", penalty={"name": "l2", "strength": 0.1})
    summarise([tmp_path / "same"], tmp_path / "same")
    assert titles(tmp_path / "same")[:3] == ["loss", "val_loss", "val_accuracy"]


@pytest.mark.parametrize(
    ("gap", "reason", "marked"),
    [
        (1e-9, "certified to 1.0e-09 of E", False),
        (1e-3, "certified to 1.0e-03 of E", True),
        (None, "no proof: without a penalty no gradient tells how far the minimum is.", False),
        (None, "", True),
    ],
)
def test_a_solver_whose_gap_is_too_large_is_not_certified_also_where_it_is_the_best(gap, reason, marked, tmp_path):
    for seed in (1, 2):
        folder = make(tmp_path / str(seed), optimizer={"name": "newton", "tol": 1e-6, "gap": 1e-6}, seed=seed)
        record = json.loads((folder / "run.json").read_text())
        certain = {"gap": 1e-8, "gap_reason": "certified to 1.0e-08 of E"}
        record |= certain if seed == 1 else {"gap": gap, "gap_reason": reason}
        (folder / "run.json").write_text(json.dumps(record))
        sign(folder)
    summarise([tmp_path], tmp_path)
    words = "".join(page(tmp_path).words)
    assert ("best, 1 of 2 not certified" in words) == ("Not certified: a solver" in words) == marked
    assert [row["gap"] for row in rows_of(tmp_path)] == ["1e-08", "" if gap is None else written(gap)]


def test_each_data_set_has_a_best_of_its_own(tmp_path):
    for n, (data, loss) in enumerate([("iris", 1), ("iris", 2), ("wine", 3), ("wine", 4)]):
        make(tmp_path / "in" / str(n), start=loss, optimizer=sgd(float(loss)), data={"name": data})
    summarise([tmp_path / "in"], tmp_path / "out")
    text = "".join(page(tmp_path / "out").words)
    assert "on iris, by val_accuracy" in text
    assert "on wine, by val_accuracy" in text


def test_a_regularisation_path_has_no_curve_and_no_problem(tmp_path):
    folder = make(tmp_path / "in")
    (folder / "metrics.csv").rename(folder / "path.csv")
    sign(folder)
    found = read([folder])
    assert found.problems == []
    assert found.runs[0].metrics["val_loss"] > 0
    summarise([folder], tmp_path / "out")
    page(tmp_path / "out")


def test_the_legend_names_what_differs(tmp_path):
    for n in range(4):
        make(
            tmp_path / "in" / str(n),
            optimizer=sgd(0.1 * (1 + n % 2)),
            penalty={"name": ("none", "l2")[n // 2]},
            start=1 + n,
        )
    summarise([tmp_path / "in"], tmp_path / "out")
    assert "optimizer.lr=0.1, penalty=none" in page(tmp_path / "out").words


def test_what_varies():
    def keys(*configs):
        from trainer.sweeps.report.reading import Run

        return varied([Run(str(n), "finished", config=c, flat=flatten(c)) for n, c in enumerate(configs)])

    def optimizer(name, **more):
        return {"optimizer": {"name": name, **more}, "seed": len(more)}

    assert keys(optimizer("sgd", lr=1), optimizer("adam", lr=2)) == ["optimizer"]  # another default is no choice
    assert keys(optimizer("sgd", lr=1), optimizer("sgd", lr=2), optimizer("adam", lr=2)) == [
        "optimizer",
        "optimizer.lr",
    ]
    assert keys(optimizer("sgd", lr=1), optimizer("sgd", lr=1.0)) == []
    assert keys({"callbacks": {}}, {"callbacks": {"early_stopping": {"patience": 3}}}) == ["callbacks"]
    assert keys({"class_weight": {"a": 1}}, {"class_weight": "balanced"}) == ["class_weight"]
    assert keys({"a": 1}, {"a": 1, "b": {"x": 1}}) == ["b"]  # nothing else tells them apart
    assert keys({"path": "${oc.env:SECRET}"}, {"path": "x"}) == ["path"]
    assert keys({"x": {"name": "ce"}}, {"x": {"name": "ce", "gamma": [1, {"a": 2}]}}) == ["x.gamma"]
    assert keys() == keys({}) == []


def test_an_interpolation_stays_text(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "hunter2")
    make(tmp_path / "a" / "0", data={"name": "file", "path": "${oc.env:SECRET}"})
    make(tmp_path / "a" / "1", data={"name": "file", "path": "other"})
    summarise([tmp_path / "a"], tmp_path / "out")
    page(tmp_path / "out")
    text = (tmp_path / "out" / "report.html").read_text() + (tmp_path / "out" / "summary.csv").read_text()
    assert "${oc.env:SECRET}" in text
    assert "hunter2" not in text


def test_names_are_inert_everywhere(tmp_path, capsys):
    root = tmp_path / "<b>=1+1"
    for n, name in enumerate([*HOSTILE, "+1", "-1", "@x", "\t=1", "\r=1", "\u202egnp.exe", "\ud800", "x" * 5000]):
        make(root / f"{n} <i>", {"name": name}, seed=name, reason=name, status="failed" if n % 3 == 1 else "finished")
        make(root / f"{n} ok", {"name": name}, seed=1, **{name: name})
    (root / "torn\x1b[31m").mkdir()
    (root / "torn\x1b[31m" / "run.json").write_text('{"status"')
    assert command([str(root), f"output={tmp_path / 'out'}"]) == 0
    found = page(tmp_path / "out")
    assert "i" not in found.tags
    assert any("{{7*7}}" in word for word in found.words)
    told = capsys.readouterr()
    assert "\x1b" not in told.out + told.err
    table = (tmp_path / "out" / "summary.csv").read_text(encoding="utf-8")
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202e]", table)
    for row in csv.reader(io.StringIO(table)):
        for text in row:
            assert text[:1] not in tuple("=+-@\t\r") or re.fullmatch(r"-?[0-9.e+-]+", text)


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("=cmd()", "'=cmd()"),
        ("-1", "'-1"),
        ("\t=1", "'=1"),
        ("\x1b[1m+1", "'+1"),
        (-1, "-1"),
        (-0.5, "-0.5"),
        (1e-300, "1e-300"),
        (math.nan, ""),
        (None, ""),
        (True, "true"),
        ([1, "a"], "[1,a]"),
        ("a\nb", "a b"),
    ],
)
def test_cells(value, wanted):
    _, row = csv.reader(io.StringIO(table([Run("a", "finished", flat={"key": value})], ["key"])))
    assert row[2] == wanted


def test_plain_text_is_short_and_has_no_controls():
    assert plain("a\x1b]0;title\x07b\x9bc\x00") == "abc"
    assert plain("x" * 300) == "x" * 199 + "…"
    assert plain("\ud800") == "?"
    assert plain(10**5000) == "a huge number"


def test_no_run_and_one_run(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "foreign" / "photos").mkdir(parents=True)
    (tmp_path / "foreign" / "photos" / "x.jpg").write_bytes(b"x")
    assert command([str(tmp_path / "empty"), str(tmp_path / "foreign")]) == 0
    assert "holds no run" in capsys.readouterr().out
    text = "".join(page(tmp_path / "empty").words)
    assert "0 runs" in text
    assert "foreign/photos holds no run" in text
    make(tmp_path / "one")
    summarise([tmp_path / "one"], tmp_path / "one")
    found = page(tmp_path / "one")
    assert "1 run in 1 configuration" in "".join(found.words)
    assert "svg" in found.tags
    assert len(rows_of(tmp_path / "one")) == 1


@pytest.mark.parametrize("status", ["running", "interrupted", "diverged", "failed"])
def test_nothing_has_finished(tmp_path, status):
    for n in range(3):
        make(tmp_path / "in" / str(n), seed=n, epochs=3 + n, status=status)
    summarise([tmp_path / "in"], tmp_path / "out")
    found = page(tmp_path / "out")
    assert "there is no best one" in "".join(found.words)
    assert f"3 {status}" in "".join(found.words)


def test_torn_runs_are_listed_and_the_others_counted(sweep, tmp_path):
    content = (sweep / "0" / "run.json").read_text()
    (sweep / "0" / "run.json").write_text(content[: len(content) // 2])
    lines = (sweep / "1" / "metrics.csv").read_text()
    (sweep / "1" / "metrics.csv").write_text(lines[:-9])
    (sweep / "2" / "metrics.csv").unlink()
    (sweep / "3" / "run.json").write_text("[" * 100_000)
    (sweep / "4" / "run.json").write_text('["a list"]')
    (sweep / "6" / "metrics.csv").write_bytes(b"\x00\xff\n1,2\n")
    (sweep / "7" / "metrics.csv").write_text("epoch,loss\n1,2,3\n,,\nx,y\n2,0.5\n")
    (sweep / "8" / "run.json").write_text(
        '{"status": 7, "metrics": [], "config": "x", "seed": {"a": []}, "seconds": "="}'
    )
    (sweep / "99").mkdir()
    found = read([sweep])
    for place, what in [
        ("0: run.json", "torn"),
        ("1: metrics.csv", "1 line that"),
        ("2: metrics.csv", "missing"),
        ("3: run.json", "torn"),
        ("4: run.json", "not a record of ours"),
        ("6: metrics.csv", "no header of ours"),
        ("7: metrics.csv", "3 lines"),
        ("99", "holds no run"),
    ]:
        assert any(f"/{place} {what}" in p or (f"/{place}" in p and what in p) for p in found.problems), (place, found)
    assert len(found.runs) == 12
    summarise([sweep], tmp_path / "out")
    assert "Problems" in page(tmp_path / "out").words


def test_every_length_of_a_torn_run_makes_a_page(tmp_path):
    whole = make(tmp_path / "whole", epochs=3)
    for name in ("run.json", "metrics.csv"):
        content = (whole / name).read_bytes()
        for length in range(0, len(content), 61):
            shutil.rmtree(tmp_path / "torn", ignore_errors=True)
            shutil.copytree(whole, tmp_path / "torn")
            (tmp_path / "torn" / name).write_bytes(content[:length])
            summarise([tmp_path / "torn"], tmp_path / "out")
            page(tmp_path / "out")


def test_an_empty_field_is_no_number_wherever_it_stands(tmp_path):
    folder = make(tmp_path / "in")
    lines = ["1,0.5,,,", "2,,,0.25,1", "3,,0.5,,-inf", ",1,1,1,1", "4,1,1,1,word"]
    for text in ("\n".join(lines[:4]) + "\n", "\n".join(lines) + "\n", "\r\n".join(lines) + "\r\n"):
        (folder / "metrics.csv").write_text("epoch,loss,val_loss,accuracy,val_accuracy\n" + text, newline="")
        sign(folder)
        found = read([folder])
        curves = {name: values[:3].tolist() for name, values in found.runs[0].curves.items()}
        expected = {
            "epoch": [1, 2, 3],
            "loss": [0.5, math.nan, math.nan],
            "val_loss": [math.nan, math.nan, 0.5],
            "accuracy": [math.nan, 0.25, math.nan],
            "val_accuracy": [math.nan, 1, math.nan],
        }
        np.testing.assert_equal(curves, expected)
        assert [problem.partition("metrics.csv ")[2] for problem in found.problems] == [
            "has 1 line that cannot be read."
        ]


def test_links_are_not_followed(tmp_path):
    secret = make(tmp_path / "secret" / "0", {"name": "outside"})
    root = tmp_path / "root"
    make(root / "0")
    (root / "1").mkdir()
    (root / "1" / "run.json").symlink_to(secret / "run.json")
    (root / "1" / "metrics.csv").symlink_to(secret / "metrics.csv")
    (root / "2").symlink_to(secret)
    (root / "loop").symlink_to(root)
    (root / "sweep.json").symlink_to(secret / "run.json")
    before = sorted(secret.iterdir())
    found = read([root])
    assert len(found.runs) == 2
    assert all("outside" not in str(run.flat) for run in found.runs)
    assert sum("links are not followed" in problem for problem in found.problems) >= 4
    summarise([root], root)
    assert sorted(secret.iterdir()) == before


def test_pipes_and_huge_files_are_not_read(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("trainer.sweeps.report.reading", fromlist=["LARGEST"]).LARGEST, "metrics.csv", 100)
    make(tmp_path / "in" / "0")
    os.mkfifo(tmp_path / "in" / "run.json")
    os.mkfifo(tmp_path / "in" / "metrics.csv")
    assert "is not a regular file" in read([tmp_path / "in"]).problems[0]
    (tmp_path / "in" / "run.json").unlink()
    (tmp_path / "in" / "metrics.csv").unlink()
    with (tmp_path / "in" / "0" / "run.json").open("ab") as file:
        file.truncate(1 << 32)
    problems = read([tmp_path / "in"]).problems
    assert "at most 4 MiB are read" in problems[0]
    assert "at most" in problems[1]


@pytest.mark.parametrize("bad", ["nan", "inf", "-inf", "1e308", "-1e308", "1e-320", "0", "-5", ""])
@pytest.mark.parametrize("every", [1, 3])
def test_no_value_breaks_a_chart(tmp_path, bad, every):
    for n, lr in enumerate((0.0, 1e-8, 0.1, 1e300)):
        folder = make(tmp_path / "in" / str(n), optimizer=sgd(lr), seed=n % 2)
        rows = [f"{e},{bad if e % every == 0 else 0.5},{bad if n else 0.3},0.5,{bad}\n" for e in range(1, 9)]
        (folder / "metrics.csv").write_text("epoch,loss,val_loss,accuracy,val_accuracy\n" + "".join(rows))
        record = json.loads((folder / "run.json").read_text())
        record["metrics"]["val_loss"] = float(bad or "nan") if n else 0.3
        (folder / "run.json").write_text(json.dumps(record))  # NaN and Infinity, as a careless writer would
    summarise([tmp_path / "in"], tmp_path / "out")
    page(tmp_path / "out")


def change_a_byte(content, rng):
    place = int(rng.integers(len(content)))
    other = bytes([int(rng.integers(256))])
    return content[:place] + other + content[place + 1 :]


def change_a_digit(content, rng):
    places = [place for place, byte in enumerate(content) if chr(byte).isdigit()]
    place = int(rng.choice(places))
    return content[:place] + str(rng.integers(10)).encode() + content[place + 1 :]


def leave_bytes_out(content, rng):
    place = int(rng.integers(len(content)))
    return content[:place] + content[place + int(rng.integers(1, 30)) :]


def leave_a_line_out(content, rng):
    lines = content.splitlines(keepends=True)
    del lines[int(rng.integers(len(lines)))]
    return b"".join(lines)


def exchange_lines(content, rng):
    lines = content.splitlines(keepends=True)
    one, other = rng.integers(len(lines), size=2)
    lines[one], lines[other] = lines[other], lines[one]
    return b"".join(lines)


def exchange_fields(content, rng):
    fields = re.split(rb"([,:\n])", content)
    one, other = 2 * rng.integers((len(fields) + 1) // 2, size=2)
    fields[one], fields[other] = fields[other], fields[one]
    return b"".join(fields)


def cut_off(content, rng):
    return content[: int(rng.integers(len(content)))]


CHANGES = (
    change_a_byte,
    change_a_digit,
    leave_bytes_out,
    leave_a_line_out,
    exchange_lines,
    exchange_fields,
    cut_off,
)
SLOW = os.environ.get("TRAINER_SLOW") == "1"
TRIES = 100 if SLOW else 30  # of each change
slow = pytest.mark.skipif(not SLOW, reason="TRAINER_SLOW=1 runs it")
PATH = {"optimizer": {"name": "fista"}, "penalty": {"name": "l1", "strength": [1.0, 0.1]}}


@pytest.fixture(scope="module")
def left(tmp_path_factory):
    """Folders of real runs: a finished one, one under way, and one along the strengths of a penalty."""
    root = tmp_path_factory.mktemp("left")
    run(replace(SETTINGS, epochs=12), root / "finished")
    run(replace(SETTINGS, epochs=12, **PATH), root / "path")
    shutil.copytree(root / "finished", root / "running")
    record = json.loads((root / "running" / "run.json").read_text())
    kept = ("strategy", "seed", "data_sha256", "config")
    write_record(root / "running", {"status": "running", **{key: record[key] for key in kept}})
    return root


def told(folder):
    """What the report knows of a run, and what it finds wrong."""
    found = read([folder])
    return [{**vars(run), "written": 0.0} for run in found.runs], found.problems  # the tests write it again


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(
    ("kind", "file"),
    [
        ("finished", "metrics.csv"),
        ("finished", "run.json"),
        ("running", "run.json"),
        ("path", "path.csv"),
        ("path", "run.json"),
    ],
)
def test_a_file_that_was_altered_is_named_or_says_the_same(left, kind, file, change, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(left / kind, folder)
    before, problems = told(folder)
    assert problems == []
    content, rng = (folder / file).read_bytes(), np.random.default_rng(0)
    named = 0
    for _ in range(TRIES):
        other = change(content, rng)
        (folder / file).write_bytes(other)
        now, problems = told(folder)
        assert all(file in problem for problem in problems)
        named += bool(problems)
        if not problems:
            np.testing.assert_equal(now, before)
            assert file == "run.json" or other == content
    assert named > TRIES / 2


@pytest.mark.parametrize(
    ("take_out", "words"),
    [
        ("sha256", "run.json has no SHA-256, so a change of what the run wrote cannot be seen."),
        ("table_sha256", "metrics.csv has no SHA-256 in run.json, so a change of it cannot be seen."),
    ],
)
def test_a_finished_run_without_a_checksum_is_named(left, take_out, words, tmp_path):
    shutil.copytree(left / "finished", tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    del record[take_out]
    if take_out == "sha256":
        (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    else:
        write_record(tmp_path / "run", record)
    assert told(tmp_path / "run")[1] == [f"{(tmp_path / 'run').as_posix()}: {words}"]


def test_another_layout_of_a_record_is_no_change(left, tmp_path):
    shutil.copytree(left / "finished", tmp_path / "run")
    before = told(tmp_path / "run")
    content = json.loads((tmp_path / "run" / "run.json").read_text())
    (tmp_path / "run" / "run.json").write_text(json.dumps(content, separators=(",", ":")))
    np.testing.assert_equal(told(tmp_path / "run"), before)


def test_a_table_that_a_run_has_lost_is_missing(left, tmp_path):
    for kind, file in (("finished", "metrics.csv"), ("path", "path.csv")):
        shutil.copytree(left / kind, tmp_path / kind)
        (tmp_path / kind / file).unlink()
        assert told(tmp_path / kind)[1] == [f"{(tmp_path / kind).as_posix()}: {file} is missing."]


HALF = "\ud800"  # of a surrogate pair
HALVES = {
    "a key": {HALF: 1},
    "a status": {"status": HALF},
    "a reason": {"reason": f"a{HALF}"},
    "a seed": {"seed": HALF},
    "a metric": {"metrics": {HALF: 0.5, "loss": 0.25}},
    "a setting": {"config": {"loss": {"name": HALF}, HALF: {HALF: [HALF, {HALF: HALF}]}}},
    "a version": {"versions": {HALF: HALF}, "git_commit": HALF},
    "deep": {"seed": [[[HALF]]], "config": {"a": {"b": {"c": {"d": {"e": {"f": {"g": {"h": HALF}}}}}}}}},
}


@pytest.mark.parametrize("changes", HALVES.values(), ids=HALVES)
@pytest.mark.parametrize("status", ["finished", "failed"])
def test_half_of_a_surrogate_pair_costs_a_sentence_and_no_report(changes, status, tmp_path, capsys):
    for n in range(3):
        make(tmp_path / "in" / str(n), seed=n, status=status)
    file = tmp_path / "in" / "1" / "run.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    assert command([str(tmp_path / "in"), f"output={tmp_path / 'out'}"]) == 0
    assert "1: run.json holds halves of surrogate pairs" in "".join(page(tmp_path / "out").words)
    assert len(rows_of(tmp_path / "out")) == 3
    assert "Problem" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("page_changes", "job_changes"),
    [
        ({"command": HALF}, {}),
        ({HALF: HALF}, {HALF: HALF}),
        ({}, {"folder": HALF}),
        ({}, {"status": HALF, "reason": HALF}),
        ({}, {"overrides": [f"loss={HALF}", f"{HALF}=1", HALF]}),
        ({}, {"overrides": ['loss="\\ud800"', 'x={"\\ud800":"\\udfff"}', 'seed="\\ud800"']}),  # spelt out, for a parser
    ],
)
def test_half_of_a_surrogate_pair_in_a_sweep_costs_no_report(page_changes, job_changes, tmp_path):
    make(tmp_path / "in" / "0")
    job = {"number": 1, "folder": "1", "overrides": ["loss=ce"], "status": "failed", "reason": "", **job_changes}
    content = {"format": "softmax-trainer sweep 1", "status": "failed", "command": "x", "jobs": [job], **page_changes}
    (tmp_path / "in" / "sweep.json").write_text(json.dumps(content))
    assert command([str(tmp_path / "in"), f"output={tmp_path / 'out'}"]) == 0
    page(tmp_path / "out")
    assert len(rows_of(tmp_path / "out")) == 2


@pytest.mark.parametrize("depth", [50, 150, 400, 900, 5000])
def test_a_deep_record_costs_no_report(depth, tmp_path):
    folder = make(tmp_path / "in")
    deep = "[" * depth + "]" * depth
    for key in ("seed", "reason", "status", "config", "metrics", "x"):
        (folder / "run.json").write_text(f'{{"{key}": {deep}, "versions": {{"a": {deep}}}}}')
        summarise([folder], tmp_path / "out")
        page(tmp_path / "out")


def test_the_sweep_tells_what_the_runs_cannot(tmp_path):
    root = tmp_path / "sweep"
    make(root / "0", status="running")
    make(root / "1", {"name": "brier"}, reason="")
    (root / "2").mkdir()
    jobs = [
        {"number": 0, "folder": "0", "overrides": ["loss=ce"], "status": "killed", "reason": "Signal 9."},
        {"number": 1, "folder": "1", "overrides": ["loss=brier"], "status": "finished", "reason": ""},
        {"number": 2, "folder": "2", "overrides": ["loss=nll", "seed=0"], "status": "skipped", "reason": "No pair."},
        {"number": 3, "folder": "../../etc", "overrides": "x", "status": "=1", "reason": None},
        "no job",
    ]
    content = {
        "format": "softmax-trainer sweep 1",
        "status": "finished",
        "command": "python -m trainer -m",
        "jobs": jobs,
    }
    (root / "sweep.json").write_text(json.dumps(content))
    found = read([root])
    assert [(run.status, run.reason) for run in found.runs] == [
        ("killed", "Signal 9."),
        ("finished", ""),
        ("skipped", "No pair."),
        ("unknown", ""),
    ]
    assert found.problems == []
    assert varied(found.runs) == ["loss"]
    summarise([root], tmp_path / "out")
    text = "".join(page(tmp_path / "out").words)
    assert "No pair." in text
    assert "python -m trainer -m" in text
    assert [row["loss"] for row in rows_of(tmp_path / "out")] == ["ce", "brier", "nll", ""]


def test_a_job_may_have_its_folder_in_a_folder(tmp_path):
    """As by hydra.sweep.subdir='${loss.name}/${seed}'."""
    make(tmp_path / "in" / "ce" / "1", status="running")
    swept(tmp_path / "in", [{"folder": "ce/1", "status": "killed"}, {"folder": "ce/2", "status": "pending"}])
    runs = read([tmp_path / "in"]).runs
    assert [(run.folder[-4:], run.status) for run in runs] == [("ce/1", "killed"), ("ce/2", "pending")]


def hrefs(folder: Path) -> list[str]:
    return [value for tag, name, value in page(folder).attributes if (tag, name) == ("a", "href")]


def test_every_run_has_a_link_to_its_folder_a_date_and_a_duration(tmp_path):
    names = ["0", "a b", "ü&<i>", "x#y?z%20", "javascript:alert(1)", "c"]
    for seed, name in enumerate(names):
        folder = make(tmp_path / "in" / name, seed=seed)
        os.utime(folder / "run.json", (1e9, 1e9 + 60 * seed))
    summarise([tmp_path / "in"], tmp_path / "here" / "out")
    links = hrefs(tmp_path / "here" / "out")
    places = {(tmp_path / "here" / "out" / unquote(link)).resolve() for link in links}
    assert places == {(tmp_path / "in" / name).resolve() for name in names}
    rows = [row for row in page(tmp_path / "here" / "out").rows if len(row) == 7 and row[2] == "finished"]
    ends = [datetime.fromtimestamp(1e9 + 60 * seed).strftime("%Y-%m-%d %H:%M") for seed in range(6)]
    assert sorted(row[-2:] for row in rows) == [["0.5 s", end] for end in ends]
    assert f"Ended from {ends[0]} to {ends[-1]}, after 3 s of training in all." in page(tmp_path / "here" / "out").words


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0.034, "0.034 s"),
        (59.4, "59.4 s"),
        (250, "4 min 10 s"),
        (7500, "2 h 5 min"),
        (math.nan, DASH),
        (1e7, "2,777 h 46 min"),
    ],
)
def test_durations(seconds, told):
    assert duration(seconds) == told


def swept(folder: Path, jobs: list[dict[str, object]], **changes: object) -> None:
    """Writes the page of a sweep."""
    lines = [{"number": n, "folder": str(n), "overrides": [], "reason": "", **job} for n, job in enumerate(jobs)]
    content = {"format": "softmax-trainer sweep 1", "status": "finished", "command": "", "jobs": lines, **changes}
    (folder / "sweep.json").write_text(json.dumps(content))


def test_skipped_jobs_are_folded_by_their_reason(tmp_path):
    make(tmp_path / "in" / "0")
    reasons = ["", *["tanh with ce makes no sense."] * 12, "penalty=none has no key penalty.strength."]
    jobs = [
        {"status": "skipped" if why else "finished", "reason": why, "overrides": [f"loss=l{n}"]}
        for n, why in enumerate(reasons)
    ]
    jobs.append({"status": "failed", "reason": "A bug."})
    swept(tmp_path / "in", jobs)
    summarise([tmp_path / "in"], tmp_path / "out")
    page(tmp_path / "out")
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    folded = re.findall(
        r'<details class="fail"><summary><span class="tag no">([^<]*)</span> ([^<]*)</summary>(.*?)</details>',
        text,
        re.DOTALL,
    )
    assert [(count, reason) for count, reason, _ in folded] == [("12 skipped", reasons[1]), ("1 skipped", reasons[-1])]
    assert folded[0][2].count("<li") == 12
    assert "A bug." in re.sub(r"<details.*?</details>", "", text, flags=re.DOTALL)


def test_the_trials_of_a_search_are_points_and_the_best_so_far(tmp_path):
    losses = [0.5, 0.9, 0.3, 0.4, 0.2]
    for n, loss in enumerate(losses):
        measure(make(tmp_path / "in" / str(n), optimizer=sgd(0.01 * 1.7**n)), val_loss=loss)
    jobs = [{"status": "finished"} for _ in losses]
    swept(tmp_path / "in", jobs, command="python -m trainer -m sweep=optuna", arguments=["sweep=optuna"])
    summarise([tmp_path / "in"], tmp_path / "out", "val_loss")
    found = page(tmp_path / "out")
    assert "python -m trainer -m sweep=optuna" in found.words
    assert "Trials" in found.words
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    trials, parameter = (
        re.search(rf'<svg [^>]*aria-label="{name}".*?</figure>', text, re.DOTALL)[0]
        for name in ("val_loss of the trials, and the best so far", "optimizer.lr: val_loss against optimizer.lr")
    )
    steps = re.search(r'class="l c1" d="M([^"]*)"', trials)[1].split("L")
    heights = [float(step.split()[1]) for step in steps]
    assert heights == sorted(heights)  # downwards on the screen
    assert len(set(heights)) == 3
    assert len(re.findall("h0", re.search(r'class="d" d="([^"]*)"', trials)[1])) == 5
    assert 'class="l c1"' not in parameter  # of drawn values it would be a zigzag
    assert "optimizer.lr (log)" in parameter
    swept(tmp_path / "in", jobs)
    summarise([tmp_path / "in"], tmp_path / "out", "val_loss")
    assert (
        'class="l c1"'
        in re.search(
            r'aria-label="optimizer.lr: .*?</figure>', (tmp_path / "out" / "report.html").read_text(), re.DOTALL
        )[0]
    )


def test_the_grid_has_a_cell_a_pair(tmp_path):
    for n, (activation, loss) in enumerate([("softmax", "ce"), ("softmax", "brier"), ("sigmoid", "brier")]):
        make(tmp_path / "in" / str(n), {"name": loss}, activation={"name": activation})
    summarise([tmp_path / "in"], tmp_path / "out")
    found = page(tmp_path / "out")
    assert "Activation \u00d7 loss" in found.words
    assert ["sigmoid", "no run"] in [[row[0], row[1]] for row in found.rows if row and row[0] == "sigmoid"]


def test_the_same_seed_twice_is_one_sample(tmp_path):
    for n in range(3):
        make(tmp_path / "in" / str(n), seed=1)
    summarise([tmp_path / "in"], tmp_path / "out")
    text = "".join(page(tmp_path / "out").words)
    assert "2 runs repeat a configuration with the same seed" in text
    assert "±" not in next(row for row in page(tmp_path / "out").rows if row and row[0] == "1")[1]


@pytest.mark.processes
def test_same_bytes_whatever_the_hash_seed(sweep, tmp_path):
    pages = []
    for seed in ("1", "2"):
        out = tmp_path / seed
        words = [sys.executable, "-m", "trainer.report", str(sweep), f"output={out}"]
        subprocess.run(words, check=True, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True)
        pages.append([(out / name).read_bytes() for name in ("summary.csv", "report.html")])
    assert pages[0] == pages[1]
    summarise([sweep], sweep)
    once = [(sweep / name).read_bytes() for name in ("summary.csv", "report.html")]
    summarise([sweep], sweep)  # its own files are no runs
    assert [(sweep / name).read_bytes() for name in ("summary.csv", "report.html")] == once
    assert [once[0], once[1].replace(b'href="', b'href="../sweep/').replace(b"../sweep/data:,", b"data:,")] == pages[0]
    assert not list(sweep.glob(".*"))


def test_two_reports_at_once_into_one_folder_are_whole_and_the_last_one_stays(sweep, tmp_path, monkeypatch):
    barrier, sync = threading.Barrier(2), os.fsync

    def together(descriptor):
        barrier.wait(30)  # both have written their part, and neither has renamed it
        sync(descriptor)
        barrier.wait(30)

    summarise([sweep], tmp_path / "alone")
    monkeypatch.setattr(os, "fsync", together)
    with ThreadPoolExecutor(2) as threads:
        for done in [threads.submit(summarise, [sweep], tmp_path / "out") for _ in range(2)]:
            assert done.result() == [tmp_path / "out" / name for name in ("summary.csv", "report.html")]
    for name in ("summary.csv", "report.html"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
    assert not list((tmp_path / "out").glob(".*"))


@pytest.mark.parametrize(("runs", "most"), [(100, 500_000), pytest.param(1000, 3_000_000, marks=slow)])
def test_thousand_runs_stay_under_three_megabytes(tmp_path, runs, most):
    for n in range(runs):
        make(tmp_path / "in" / str(n), seed=n % 2, epochs=100, optimizer=sgd(0.001 * (1 + n // 2)), start=1 + n / 1000)
    summarise([tmp_path / "in"], tmp_path / "out")
    page(tmp_path / "out")
    assert (tmp_path / "out" / "report.html").stat().st_size < most
    assert len(rows_of(tmp_path / "out")) == runs


@pytest.mark.processes
def test_nothing_that_trains_is_imported():
    heavy = "{'sklearn', 'matplotlib', 'hydra', 'scipy'}"
    modules = "trainer.commands.report, trainer.sweeps.report.page"
    code = f"import sys, {modules}; sys.exit(str({heavy} & set(sys.modules) or ''))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == ""


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        ([], 2, "Name one or more folders"),
        (["--fast"], 2, "no flag --fast"),
        (["outptu=x"], 2, "no key outptu"),
        (["output="], 2, "output= is empty"),
        (["."], 2, "metric='nope'"),
        (["/nowhere\x1b[31m"], 3, "/nowhere does not exist"),
        ([__file__], 3, "is not a folder"),
    ],
)
def test_errors_are_sentences_with_codes(words, code, told, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command([*words, *(["metric=nope"] if words == ["."] else [])]) == code
    found = capsys.readouterr()
    assert told in found.err
    assert "\x1b" not in found.err
    assert found.out == ""
    assert list(tmp_path.iterdir()) == []


def test_output_that_cannot_be_written(sweep, tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    assert command([str(sweep), f"output={tmp_path / 'file' / 'x'}"]) == 3
    assert "cannot be written" in capsys.readouterr().err
    with pytest.raises(FileError):
        summarise([tmp_path / "none"], tmp_path)


def test_help(capsys):
    assert command(["--help"]) == 0
    assert "python -m trainer.report FOLDER" in capsys.readouterr().out


def test_natural_order():
    assert sorted(["10", "9", "a2", "a10", "1" * 30, "²"], key=natural)[:2] == ["9", "10"]


def test_axes_have_round_ticks_inside():
    for low, high in [(0, 1), (0.123, 0.456), (-3, 1e5), (1e-9, 2e-9), (5, 5), (1e90, 2e90), (1e-5, 10), (1, 40)]:
        y = charts.axis(np.array([low, high], dtype=float), 200, 0)
        ticks = y.ticks()
        assert 1 <= len(ticks) <= 7
        assert all(-0.01 <= place <= 200.01 for place in y(np.array(ticks)))


@pytest.mark.parametrize(
    ("low", "high", "told"),
    [(0.28, 3.8, [0.5, 1, 2]), (1e-3, 0.1, [1e-3, 3e-3, 0.01, 0.03, 0.1]), (1e-6, 0.2, [1e-6, 1e-4, 1e-2])],
)
def test_a_logarithmic_axis_has_more_than_one_tick(low, high, told):
    ticks = charts.axis(np.array([low, high]), 0, 100, log=True).ticks()
    assert set(told) <= {float(f"{tick:.6g}") for tick in ticks}


def test_many_numbers_are_told_as_a_range(tmp_path):
    for n in range(25):
        make(tmp_path / "in" / str(n), optimizer=sgd(0.001 * 1.3**n))
    summarise([tmp_path / "in"], tmp_path / "out")
    assert "0.001 to 0.5428, 25 values" in page(tmp_path / "out").words


def test_labels_at_the_ends_keep_apart():
    x = np.array([1.0, 2.0])
    lines = [charts.Line(x, x * 0 + 0.5, x, x, colour=n, label=str(n)) for n in range(1, 7)]
    found = re.findall(r'y="([0-9.]+)" class="k', charts.panel("loss", lines, "loss"))
    places = sorted(float(y) for y in found)
    assert len(places) == 6
    assert min(np.diff(places)) >= 13


@pytest.mark.parametrize(
    ("wished", "placed"),
    [
        ([], []),
        ([10, 50], [10, 50]),
        ([50, 50, 50], [36, 50, 64]),  # around the place that they share
        ([0, 0, 90], [0, 14, 90]),
        ([20, 99, 100], [20, 86, 100]),
        ([-50, float("nan"), 200], [0, 14, 100]),
    ],
)
def test_labels_at_the_ends_stay_near_their_lines(wished, placed):
    flat = charts.Line(*[np.array([0.5])] * 4)
    assert [place for place, _ in charts._apart([(place, flat) for place in wished], 14, 100)] == placed


@pytest.mark.parametrize(
    "text", ["plain", "it's", 'a"b', "a\\", "a\\'b", "C:\\a\\b", "a b,c", "true", "1.0", "", "$x", "é", "{a}", "[1]"]
)
def test_values_survive_the_grammar_of_overrides(text):
    from hydra.core.override_parser.overrides_parser import OverridesParser

    (override,) = OverridesParser.create().parse_overrides([f"key={grammar(text)}"])
    value = override.value()
    assert str(getattr(value, "text", value)) == text
    assert isinstance(value, str) or hasattr(value, "text")
    (override,) = OverridesParser.create().parse_overrides([f"key={quoted(text)}"])
    assert override.value() == text


@pytest.mark.processes
def test_the_command_repeats_the_best_run(tmp_path):
    words = ["loss=focal", "loss.gamma=1.5", "optimizer=adam", "optimizer.lr=1e-3", "schedule=cosine", "epochs=2"]
    words += ["data.samples=60", "plots=false", "class_weight=balanced", "metrics=[accuracy,ece]", "seed=null"]
    words += ["callbacks=[early_stopping]", "callbacks.early_stopping.patience=4"]
    trained = [sys.executable, "-m", "trainer", *words, f"hydra.run.dir={tmp_path / 'run'}"]
    subprocess.run(trained, check=True, capture_output=True)
    summarise([tmp_path / "run"], tmp_path / "out")
    line = next(word for word in page(tmp_path / "out").words if word.startswith("python -m trainer loss=focal"))
    again = shlex.split(line)
    assert again[:3] == ["python", "-m", "trainer"]
    assert "optimizer.momentum" not in line
    second = [sys.executable, *again[1:], f"hydra.run.dir={tmp_path / 'again'}"]
    subprocess.run(second, check=True, capture_output=True)
    first, other = (json.loads((tmp_path / name / "run.json").read_text()) for name in ("run", "again"))
    assert {**first["config"], "seed": first["seed"]} == other["config"]
    without = [{**found["metrics"], "seconds": 0} for found in (first, other)]
    assert without[0] == without[1]


def browse(tmp_path: Path, html: Path, width: int, scheme: str) -> tuple[Path, str, set[str], list[str]]:
    """Opens a page in headless Chromium: a picture, the console, the hosts asked for, and what a script measures.

    A window has at least 500 pixels, a frame has any width; what the browser asks its maker for is not the page's.
    """
    flags = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --hide-scrollbars "
    flags += "--disable-component-update --disable-sync --disable-quic --disable-extensions --virtual-time-budget=2000 "
    flags += "--enable-logging=stderr --v=0 --allow-file-access-from-files "
    flags += f"--blink-settings=preferredColorScheme={int(scheme == 'light')}"
    base = [str(CHROMIUM), *flags.split(), f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},1600"]
    frame, picture, log = (tmp_path / name for name in ("frame.html", "picture.png", "net.json"))
    inside = f'src="{html.as_uri()}" width={width} height=1600 frameborder=0></iframe>'
    frame.write_text(f'<body style="margin:0"><iframe {inside}')
    shot = [*base, f"--log-net-log={log}", f"--screenshot={picture}", frame.as_uri()]
    done = subprocess.run(shot, capture_output=True, text=True, timeout=120)
    hosts = set(re.findall(r'"url":"(?:https?|wss?)://([^/"]+)', log.read_text()))
    hosts = {host for host in hosts if not host.endswith((".google.com", ".googleapis.com"))}
    frame.write_text(
        f"<iframe id=f {inside}<pre id=o></pre><script>"
        "f.onload=()=>{const d=f.contentDocument;o.textContent=[d.documentElement.scrollWidth,"
        "getComputedStyle(d.body).backgroundColor,d.styleSheets.length].join(';')}</script>"
    )
    dump = subprocess.run([*base, "--dump-dom", frame.as_uri()], capture_output=True, text=True, timeout=120)
    measured = re.search(r'<pre id="o">([^<]*)</pre>', dump.stdout)
    return picture, done.stderr, hosts, measured[1].split(";") if measured else []


@pytest.mark.chromium
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser(sweep, tmp_path, width, scheme):
    """No word on the console, no request, nothing wider than the window, and paper of the scheme."""
    summarise([sweep], tmp_path / "out")
    picture, console, hosts, measured = browse(tmp_path, tmp_path / "out" / "report.html", width, scheme)
    assert picture.stat().st_size > 10_000, console
    assert "CONSOLE" not in console
    assert hosts == set()
    wide, paper, sheets = measured
    assert int(wide) <= width
    assert paper == {"light": "rgb(253, 253, 251)", "dark": "rgb(20, 22, 26)"}[scheme]
    assert sheets == "1"


@pytest.mark.chromium
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
@pytest.mark.parametrize("policy", [True, False])
def test_the_browser_would_tell(sweep, tmp_path, policy):
    """What gets in all the same is stopped by the page's policy; without the policy this test sees it leave."""
    summarise([sweep], tmp_path / "out")
    html = tmp_path / "out" / "report.html"
    text = html.read_text().replace("</main>", '<img src="http://example.org/x.png"><script>0</script></main>')
    html.write_text(text if policy else re.sub("<meta http-equiv[^>]*>", "", text))
    _, console, hosts, _ = browse(tmp_path, html, 390, "light")
    assert ("CONSOLE" in console, hosts) == ((True, set()) if policy else (False, {"example.org"}))
