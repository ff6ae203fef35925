"""The command line end to end: what a run leaves, what is refused and how, sweeps, Ctrl-C, predictions."""

import csv
import json
import logging
import os
import pickle
import re
import shlex
import signal
import subprocess
import sys
import time
from copy import deepcopy
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from numpy.testing import assert_allclose, assert_array_equal
from omegaconf import read_write

import trainer.commands.train
from tests.test_run import SETTINGS
from trainer import __version__
from trainer.chain.strategies import GRADIENTS
from trainer.commands import COMMANDS, composing, main
from trainer.commands.words import as_meant
from trainer.runs.config import Settings, config_folder
from trainer.runs.model import Model
from trainer.runs.run import run

CONF = config_folder()
LIMIT = 60  # seconds; only a command that hangs ever meets it
COLUMNS = ["epoch", "loss", "val_loss", "accuracy", "val_accuracy", "lr", "grad_norm", "seconds"]
SHORT = ["epochs=2", "plots=false"]
EPOCHS = Settings.epochs


class Outcome(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


def command(*arguments, cwd, module="trainer", **environment):
    """Runs ``python -m module arguments`` as a user does, without a terminal."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=cwd,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


compose = composing.composed


@cache
def composed_once(folder, config_name, overrides):
    """What Hydra makes of these words, which takes it longer than a command takes for the rest."""
    return compose(config_name, list(overrides))


def composed(config_name, overrides):
    """A composition that is as good as new."""
    config = deepcopy(composed_once(composing.config_folder(), config_name, tuple(overrides)))
    with read_write(config.hydra.runtime):
        config.hydra.runtime.cwd = os.getcwd()
    return config


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """The command in this process, in an empty folder: quicker, where nothing depends on a process of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(composing, "composed", composed)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # the command sets it; this takes it back afterwards
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def outcome(*arguments, name="train"):
        monkeypatch.setattr(sys, "argv", ["trainer", *arguments])
        with pytest.raises(SystemExit) as stop:
            main(name)
        return Outcome(stop.value.code, *capsys.readouterr())

    yield outcome
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    GlobalHydra.instance().clear()
    HydraConfig.instance().cfg = None


def folders(cwd):
    """The folders of the runs, by their run.json."""
    return sorted(path.parent for path in Path(cwd, "outputs").rglob("run.json"))


def only_run(cwd):
    (folder,) = folders(cwd)
    return folder


def report(folder):
    return json.loads((folder / "run.json").read_text(encoding="utf-8"))


def table(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def without_seconds(folder):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in table(folder / "metrics.csv")]


def assert_refused(outcome, code, words, cwd):
    """A short sentence on stderr that holds these words, and nothing left behind."""
    assert outcome.code == code
    for word in words:
        assert word in outcome.err
    assert "Traceback" not in outcome.err
    assert len(outcome.err.splitlines()) <= 5
    assert not Path(cwd, "outputs").exists()


@pytest.fixture(scope="module")
def default_run(tmp_path_factory):
    """The command without arguments, and the folder that it ran in."""
    cwd = tmp_path_factory.mktemp("default")
    return command(cwd=cwd), cwd


@pytest.mark.processes
def test_a_run_leaves_just_its_files(default_run):
    outcome, cwd = default_run
    assert outcome.code == 0
    folder = only_run(cwd)
    names = {"metrics.csv", "curves.png", "boundary.png", "run.json", "model.npz", "checkpoint.npz", "trainer.log"}
    names |= {"evaluation.json", "confusion.png", "reliability.png", "coefficients.csv", "coefficients.png", "model.md"}
    assert {path.name for path in folder.iterdir()} == names
    assert [path.name for path in cwd.iterdir()] == ["outputs"]
    assert re.fullmatch(r"outputs/\d{4}-\d\d-\d\d/\d\d-\d\d-\d\d-\d{6}", folder.relative_to(cwd).as_posix())


@pytest.mark.processes
def test_the_table_has_one_row_an_epoch(default_run):
    rows = table(only_run(default_run[1]) / "metrics.csv")
    assert list(rows[0]) == COLUMNS
    assert [int(row["epoch"]) for row in rows] == list(range(1, EPOCHS + 1))
    assert np.isfinite([[float(value) for value in row.values()] for row in rows]).all()
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])


@pytest.mark.processes
@pytest.mark.parametrize("name", ["curves.png", "boundary.png"])
def test_the_pictures_are_png(default_run, name):
    assert (only_run(default_run[1]) / name).read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


@pytest.mark.processes
def test_the_report_says_what_was_run(default_run):
    folder = only_run(default_run[1])
    content = report(folder)
    assert content.keys() >= {"status", "config", "seed", "metrics", "versions", "threads", "git_commit", "seconds"}
    assert (content["status"], content["strategy"], content["epochs"]) == ("finished", "fused", EPOCHS)
    assert content["seed"] == content["config"]["seed"]
    assert content["config"]["activation"] == {"name": "softmax", "temperature": 1.0}
    assert content["versions"].keys() >= {"python", "trainer", "numpy"}
    assert content["threads"] >= 1
    last = {key: float(value) for key, value in table(folder / "metrics.csv")[-1].items()}
    assert content["metrics"] == last


@pytest.mark.processes
def test_the_model_keeps_classes_split_and_standardisation(default_run):
    folder = only_run(default_run[1])
    model, content = Model.load(folder / "model.npz"), report(folder)
    data = content["config"]["data"]
    assert (model.classes, model.features) == (tuple(range(data["classes"])), ("x0", "x1"))
    assert model.split == content["split"]
    assert model.split["train_rows"] + model.split["valid_rows"] == data["samples"]
    assert model.standardizer.mean.tolist() == content["standardization"]["mean"]
    assert model.standardizer.scale.tolist() == content["standardization"]["scale"]


@pytest.mark.processes
def test_the_terminal_shows_the_strategy_and_the_pictures(default_run):
    outcome, cwd = default_run
    assert "gradient fused (chosen by auto)" in outcome.out
    folder, names = re.search(r"^  in (outputs/.*): (.*)$", outcome.out, re.MULTILINE).groups()
    assert {"model.npz", "curves.png", "boundary.png", "model.md"} <= set(names.split(", "))
    assert all((cwd / folder / name).is_file() for name in names.split(", "))
    assert (only_run(cwd) / "trainer.log").read_text(encoding="utf-8") == outcome.out


@pytest.mark.processes
def test_no_progress_bar_without_a_terminal(default_run):
    outcome, _ = default_run
    assert outcome.err == ""
    assert "\r" not in outcome.out
    assert "epoch/s" not in outcome.out


@pytest.mark.parametrize(
    "overrides",
    [
        "loss=brier gradient=jacobian optimizer=adam",
        "loss=squared_error gradient=loop data.samples=60",
        "loss=bce gradient=vjp optimizer=adamw optimizer.weight_decay=0.1",
        "gradient=log activation.temperature=0.5",
        "gradient=numeric data.samples=60",
        "activation=log_softmax loss=nll",
        "activation=sigmoid loss=bce optimizer.nesterov=true",
        "activation=identity loss=squared_error",
        "batch_size=null",
        "batch_size=7",
        "dtype=float32",
        "threads=2",
        "seed=7",
        "valid_fraction=0",
        "standardize=false",
        "schedule=step schedule.every=1",
        "schedule=cosine schedule.warmup=1",
        "penalty=l2 penalty.strength=0.1",
        "callbacks=early_stopping",
        "data=classification",
        "data=moons",
        "data=circles",
        "data=spirals",
        "data=digits",
        "data=iris",
        "data=wine",
        "data=breast_cancer",
    ],
)
def test_every_group_and_key_can_be_overridden(call, tmp_path, overrides):
    outcome = call(*overrides.split(), *SHORT)
    assert (outcome.code, outcome.err) == (0, "")
    folder = only_run(tmp_path)
    assert report(folder)["status"] == "finished"
    assert len(table(folder / "metrics.csv")) == 2
    assert not list(folder.glob("*.png"))


def test_a_callback_stops_the_training(call, tmp_path):
    never = ["callbacks.early_stopping.patience=1", "callbacks.early_stopping.min_delta=1e9"]
    assert call("callbacks=early_stopping", *never, "plots=false").code == 0
    assert (report(only_run(tmp_path))["status"], len(table(only_run(tmp_path) / "metrics.csv"))) == ("stopped", 2)


def test_the_experiment_shows_every_strategy_and_trains_nothing(call, tmp_path):
    outcome = call("experiment=question", "experiment.repeats=1")
    assert (outcome.code, outcome.err) == (0, "")
    first_words = [line.split()[0] for line in outcome.out.splitlines()]
    assert set(first_words) >= set(GRADIENTS)
    assert not folders(tmp_path)


NAMES = [
    (
        "activation=sofmax",
        ["sofmax", "did you mean softmax?", "identity, log_softmax, normalized_sigmoid, sigmoid, softmax"],
    ),
    ("loss=mse2", ["loss=mse2", "bce, brier, ce, crammer_singer"]),
    ("gradient=fuse", ["did you mean fused?", "auto, fused, jacobian, log, loop, numeric, vjp"]),
    ("data=flie", ["did you mean file?", "blobs"]),
    ("callbacks=early_stoping", ["did you mean early_stopping?"]),
    ("experiment=questoin", ["did you mean question?"]),
    ("loss=", ["loss=", "ce"]),
    ("loss=3", ["loss=3", "ce"]),
    ("loss=null", ["loss=null", "ce"]),
    ("loss.name=[ce]", ["loss", "ce"]),
    ("activation=sofmäx", ["sofmäx", "quote"]),
    (
        "lerning_rate=1",
        ["no key lerning_rate; did you mean optimizer.lr?", "activation, batch_size, callbacks, checkpoint"],
    ),
    ("epoch=3", ["did you mean epochs?"]),
    ("optimizer.lrr=1", ["did you mean optimizer.lr?", "optimizer.lr, optimizer.momentum, optimizer.nesterov"]),
    ("+optimizer.lrr=1", ["optimizer.lrr", "did you mean lr?", "lr, momentum, nesterov"]),
    ("optimizer=adam optimizer.momentum=0.5", ["optimizer=adam has no key momentum, which belongs to optimizer=sgd."]),
    (
        "optimizer=newton optimizer.lr=0.1",
        [
            "optimizer=newton has no key lr, which belongs to optimizer=adam, optimizer=adamw, optimizer=sgd.",
            "Keys of optimizer=newton: optimizer.gap, optimizer.tol.",
        ],
    ),
    ("optimizer=newton lr=0.1", ["did you mean optimizer.lr, of optimizer=adam or optimizer=adamw or optimizer=sgd?"]),
    ("lr=0.1", ["There is no key lr; did you mean optimizer.lr?"]),
    ("max_iter=9", ["did you mean epochs?"]),
    ("penalty.strength=0.1", ["penalty=none has no key strength, which belongs to", "penalty=l2"]),
    (
        "experiment.repeats=2",
        ["experiment=null has no key repeats, which belongs to experiment=question. Choose that."],
    ),
    ("callbacks=[early_stopping] callbacks.early_stopping.patince=2", ["callbacks.early_stopping.patience?"]),
    ("data=iris data.sample=9", ["data=iris has no key sample; did you mean data.samples, of data=blobs or"]),
    ("data.target=y", ["data=blobs has no key target, which belongs to data=file. Choose that."]),
    ("-m optimizer=sgd,newton optimizer.lrr=0.1,1", ["optimizer=sgd has no key lrr", "did you mean optimizer.lr?"]),
    ("loss=cross_entropy", ["did you mean ce?"]),
    ("loss=Cross-Entropy", ["did you mean ce?"]),
    ("loss=mse", ["did you mean squared_error or brier?"]),
    ("loss=logistic", ["did you mean ce or bce?"]),
    ("activation=logistic", ["did you mean sigmoid?"]),
    ("optimizer=SGD", ["did you mean sgd?"]),
    ("optimizer=Adam", ["did you mean adam?"]),
    ("penalty=ridge", ["did you mean l2?"]),
    ("loss=ce,brier", ["loss=ce,brier has several values. Add -m"]),
    ("seed=range(3)", ["seed=range(3) has several values. Add -m"]),
    ("loss=ce -m loss=brier,sofmax", ["loss=sofmax is not known"]),
    ("loss", ["'loss'"]),
    ("--epoch=3", ["--epoch=3"]),
]
PAIRS = [
    ("activation=sigmoid loss=ce", ["activation=sigmoid with loss=ce", "loss=bce", "activation=softmax"]),
    ("activation=softmax loss=nll", ["activation=softmax with loss=nll", "loss=ce", "activation=log_softmax"]),
    ("activation=identity loss=bce", ["activation=identity with loss=bce", "loss=squared_error"]),
    ("activation=sigmoid loss=bce gradient=log", ["gradient=log", "softmax+ce", "Use gradient=fused"]),
]
VALUES = [
    ("optimizer.lr=0", ["optimizer.lr must be finite and greater than 0, got 0"]),
    ("optimizer.lr=-1", ["optimizer.lr must be finite and greater than 0, got -1"]),
    ("optimizer.lr=nan", ["optimizer.lr must be finite and greater than 0, got nan"]),
    ("optimizer.lr=1e400", ["optimizer.lr must be finite and greater than 0, got inf"]),
    ("optimizer.lr='0.1'", ["optimizer.lr must be of type float, got '0.1' of type str"]),
    ("optimizer.lr=true", ["optimizer.lr must be of type float, got True"]),
    ("optimizer.lr=null", ["optimizer.lr must be of type float, got None"]),
    ("epochs=2.5", ["epochs must be of type int, got 2.5"]),
    ("epochs=true", ["epochs must be of type int, got True"]),
    ("epochs=-1", ["epochs must be at least 0, got -1"]),
    ("batch_size=true", ["batch_size must be of type int", "got True"]),
    ("batch_size=0", ["batch_size must be at least 1", "got 0"]),
    ("seed=-1", ["seed must be at least 0", "got -1"]),
    ("threads=0", ["threads must be at least 1", "got 0"]),
    ("dtype=float16", ["dtype=float16", "float32, float64"]),
    ("valid_fraction=1", ["valid_fraction must be", "got 1"]),
    ("valid_fraction=nan", ["valid_fraction must be", "got nan"]),
    ("seed=010", ["seed must be of type int", "got '010' of type str"]),
    ("epochs=12:30:00", ["epochs must be of type int, got '12:30:00' of type str"]),
    ("plots=yes", ["plots must be of type bool, got 'yes'"]),
    ("optimizer.momentum=1", ["optimizer.momentum must be", "got 1"]),
    ("penalty=l2 penalty.strength=-1", ["penalty.strength must be", "got -1"]),
    ("schedule=step schedule.every=0", ["schedule.every must be", "got 0"]),
    ("callbacks=early_stopping callbacks.early_stopping.monitor=los", ["did you mean loss?"]),
    ("data.samples=1", ["data.samples must be at least", "got 1"]),
    ("experiment=question experiment.samples=0", ["experiment.samples must be at least 1, got 0"]),
    ("data=file", ["data.path"]),
    ("data=file data.path=${nope}", ["data.path", "nope"]),
]


WRONG = NAMES + PAIRS + VALUES


@pytest.mark.parametrize(("overrides", "words"), WRONG, ids=[overrides for overrides, _ in WRONG])
def test_a_wrong_word_on_the_command_line_is_refused(call, tmp_path, overrides, words):
    assert_refused(call(*overrides.split()), 2, words, tmp_path)


FLAGS = {
    "-m --cfg=all": ["--multirun and --cfg"],
    "-m --info=all": ["--multirun and --info"],
    "-m --run": ["--run and --multirun"],
    "--cfg job --info all -m": ["--multirun and --cfg and --info"],
    "--resolve": ["--resolve belongs to --cfg"],
    "-p optimizer": ["--package belongs to --cfg"],
    "--shell-completion": ["install=bash"],
    "-sc install=tcsh": ["install=bash"],
    "-sc install=bash query=bash": ["install=bash"],
    "-sc loss=ce": ["install=bash"],
    "-m loss=2": ["loss=2", "ce"],
    "-m data=1,2 epochs=1": ["data=1", "blobs"],
    "-m optimizer=null": ["optimizer=null", "sgd"],
    "++experiment.seeds=1": ["experiment has no key name"],
    "~data.name": ["data has no key name"],
    "hydra/job_logging=default": ["hydra/job_logging"],
}


@pytest.mark.parametrize(("words", "told"), FLAGS.items(), ids=FLAGS)
def test_flags_that_do_not_go_together_and_options_that_are_none_are_refused(call, tmp_path, words, told):
    assert_refused(call(*words.split()), 2, told, tmp_path)


@pytest.mark.processes
def test_a_refusal_is_one_sentence_from_the_real_command_too(tmp_path):
    outcome = command("activation=sofmax", cwd=tmp_path)
    assert_refused(outcome, 2, ["did you mean softmax?"], tmp_path)
    assert (outcome.out, len(outcome.err.splitlines())) == ("", 1)


TWO_ROWS = "1,2,0\n3,4,1\n"
FILES = {
    "empty": (b"", ["empty"]),
    "header only": (b"a,b,y\n", ["no rows"]),
    "one row": (b"a,b,y\n1,2,0\n", ["at least 2 classes"]),
    "one class": (b"a,b,y\n1,2,0\n3,4,0\n", ["at least 2 classes"]),
    "one column": (b"y\n0\n1\n", ["at least one feature"]),
    "too many fields": (b"a,b,y\n1,2,0\n3,4,1,5\n", ["data.csv:3", "expected 3 fields, got 4"]),
    "missing field": (b"a,b,y\n1,2,0\n3,1\n", ["data.csv:3", "expected 3 fields, got 2"]),
    "empty field": (b"a,b,y\n1,,0\n3,4,1\n", ["data.csv:2:2", "empty"]),
    "open quote": (b'a,b,y\n1,"2,0\n3,4,1\n', ["data.csv:2", "quote"]),
    "huge field": (b"a,b,y\n1," + b"2" * 200_000 + b",0\n", ["data.csv:2"]),
    "latin-1": ("a,b,y\n1,2,\xe4\n3,4,\xf6\n".encode("latin-1"), ["not UTF-8", "latin1"]),
    "utf-16": (("a,b,y\n" + TWO_ROWS).encode("utf-16"), ["not UTF-8", "utf-16"]),
    "semicolons": (b"a;b;y\n1,5;2;0\n", ["separated by ';'"]),
    "decimal comma": (b'a,b,y\n"1,5",2,0\n3,4,1\n', ["data.csv:2:1", "decimal point"]),
    "1_000": (b"a,b,y\n1_000,2,0\n3,4,1\n", ["data.csv:2:1", "'1_000'"]),
    "Arabic digits": ("a,b,y\n١,2,0\n3,4,1\n".encode(), ["data.csv:2:1", "'١'"]),  # noqa: RUF001
    "hexadecimal": (b"a,b,y\n0x1p3,2,0\n3,4,1\n", ["data.csv:2:1", "'0x1p3'"]),
    "True": (b"a,b,y\nTrue,2,0\n3,4,1\n", ["data.csv:2:1", "'True'"]),
    "1j": (b"a,b,y\n1j,2,0\n3,4,1\n", ["data.csv:2:1", "'1j'"]),
    "nan": (b"a,b,y\n1,nan,0\nnan,4,1\n", ["data.csv:2:2", "first of 2", "not finite"]),
    "inf": (b"a,b,y\n1,2,0\n3,-inf,1\n", ["data.csv:3:2", "not finite"]),
    "1e400": (b"a,b,y\n1,2,0\n1e400,4,1\n", ["data.csv:3:1", "not finite"]),
    "label 1.5": (b"a,b,y\n1,2,1.5\n3,4,1\n", ["data.csv:2:3", "'1.5'", "integers or names"]),
    "label nan": (b"a,b,y\n1,2,nan\n3,4,1\n", ["data.csv:2:3", "'nan'"]),
    "mixed labels": (b"a,b,y\n1,2,0\n3,4,red\n", ["data.csv:3:3", "'red'"]),
    "no such target": (b"a,b,Y\n1,2,0\n3,4,1\n", ["data.target='y'", "'a', 'b', 'Y'"]),
    "a sample of each class": (b"a,b,y\n" + TWO_ROWS.encode(), ["one sample only", "valid_fraction=0"]),
}


@pytest.mark.parametrize(("content", "words"), FILES.values(), ids=FILES)
def test_a_doubtful_csv_is_refused(call, tmp_path, content, words):
    Path("data.csv").write_bytes(content)
    assert_refused(call("data=file", "data.path=data.csv", "data.target=y"), 2, words, tmp_path)


def test_a_csv_needs_a_target(call, tmp_path):
    Path("data.csv").write_text("a,b,y\n" + TWO_ROWS)
    assert_refused(call("data=file", "data.path=data.csv"), 2, ["data.target", "'a', 'b', 'y'"], tmp_path)


def test_negative_target_rows_are_refused(call, tmp_path):
    np.savez("data.npz", x=np.eye(4), y=-np.eye(4))
    assert_refused(call("data=file", "data.path=data.npz"), 2, ["y[0, 0]", "negative"], tmp_path)


@pytest.mark.parametrize("path", ["missing.csv", "folder", "folder/missing.csv", "''"])
def test_what_is_no_file_is_refused_with_its_path(call, tmp_path, path):
    Path("folder").mkdir()
    assert_refused(call("data=file", f"data.path={path}", "data.target=y"), 3, [path, "cannot be read"], tmp_path)


@pytest.mark.processes
def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    outcome = command("data=file", "data.path=pipe.csv", "data.target=y", cwd=tmp_path)
    assert_refused(outcome, 3, ["pipe.csv", "not a regular file"], tmp_path)


@pytest.mark.processes
def test_an_endless_device_is_refused_and_not_read(tmp_path):
    outcome = command("data=file", "data.path=/dev/zero", cwd=tmp_path)
    assert_refused(outcome, 3, ["/dev/zero", "not a regular file"], tmp_path)


def test_a_folder_that_cannot_be_made_is_an_error_of_files(call, tmp_path):
    Path("taken").write_text("")
    assert_refused(call("hydra.run.dir=taken/run", *SHORT), 3, ["taken/run", "cannot be written"], tmp_path)


ROWS = [f"{a},{a * a % 7}" for a in range(20)]
GOOD_FILES = {
    "integers": ([0, 1], (0, 1), "utf-8", "\n"),
    "integral floats": (["1.0", "2.0"], (1, 2), "utf-8", "\n"),
    "gaps, negative, huge": ([10**30, -7], (-7, 10**30), "utf-8", "\n"),
    "strings": (["b", "ä"], ("b", "ä"), "utf-8", "\n"),
    "booleans": (["True", "False"], ("False", "True"), "utf-8", "\n"),
    "quoted line break": (['"a\nb"', "c"], ("a\nb", "c"), "utf-8", "\n"),
    "byte order mark": ([0, 1], (0, 1), "utf-8-sig", "\n"),
    "CRLF": ([0, 1], (0, 1), "utf-8", "\r\n"),
    "CR": ([0, 1], (0, 1), "utf-8", "\r"),
}


@pytest.mark.parametrize(("labels", "classes", "encoding", "end"), GOOD_FILES.values(), ids=GOOD_FILES)
def test_good_files_are_trained_on(call, tmp_path, labels, classes, encoding, end):
    lines = ["a,b,y", *(f"{row},{labels[number % 2]}" for number, row in enumerate(ROWS))]
    Path("data.csv").write_bytes(end.join(lines).encode(encoding))  # without a line break at the end
    outcome = call("data=file", "data.path=data.csv", "data.target=y", "batch_size=4", *SHORT)
    assert (outcome.code, outcome.err) == (0, "")
    model = Model.load(only_run(tmp_path) / "model.npz")
    assert (model.classes, model.features, model.target) == (classes, ("a", "b"), "y")


def test_one_feature_and_one_row_of_probabilities_are_enough(call, tmp_path):
    np.savez("data.npz", x=[[2.0]], y=[[0.3, 0.7]])
    outcome = call("data=file", "data.path=data.npz", "valid_fraction=0", "batch_size=null", *SHORT)
    assert (outcome.code, outcome.err) == (0, "")
    rows = table(only_run(tmp_path) / "metrics.csv")
    assert [row["val_loss"] for row in rows] == ["", ""]


NAMES_OF_FILES = ["größe.csv", "two words.csv", "a=b.csv", "copy (1) [2] {3}.csv", "it's.csv", "50%: a+b.csv"]


def write_rows(path, target="y"):
    lines = [f"a,b,{target}", *(f"{row},{number % 2}" for number, row in enumerate(ROWS))]
    Path(path).write_text("\n".join(lines), encoding="utf-8")


@pytest.mark.parametrize("quote", ["", '"'], ids=["plain", "quoted"])
@pytest.mark.parametrize("path", NAMES_OF_FILES)
def test_a_path_and_a_column_may_have_any_letters(call, path, quote):
    write_rows(path, "width (cm)")
    names = [f"data.path={quote}{path}{quote}", f"data.target={quote}width (cm){quote}"]
    assert call("data=file", *names, "batch_size=4", *SHORT).code == 0


def test_a_path_alone_means_a_file(call, tmp_path):
    write_rows("data.csv")
    assert call("data.path=data.csv", "data.target=y", "batch_size=4", *SHORT).code == 0
    assert report(only_run(tmp_path))["config"]["data"]["name"] == "file"
    refused = call("data=iris", "data.path=data.csv")
    assert (refused.code, refused.err) == (
        2,
        "data=iris has no key path, which belongs to data=file. Choose that.\n",
    )


def test_the_home_folder_may_be_written_as_a_tilde(call, tmp_path, monkeypatch):
    home = tmp_path / "my home (1)"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    write_rows(home / "data.csv")
    data = ["data=file", "data.path=~/data.csv"]
    assert call(*data, "data.target=y", "hydra.run.dir=~/run", "batch_size=4", *SHORT).code == 0
    assert call("resume=~/run", "epochs=3").code == 0
    assert report(home / "run")["epochs"] == 3
    assert call("model=~/run/model.npz", *data, "output=~/out.csv", name="predict").code == 0
    assert call("model=~/run", *data, "output=~/worth", "plots=false", name="evaluate").code == 0
    assert call("output=~/explained.png", name="explain").code == 0
    assert call(str(home / "run"), "output=~/report", name="report").code == 0
    assert {"run", "out.csv", "worth", "explained.png", "report"} <= {path.name for path in home.iterdir()}
    assert str(home / "none") in call("resume=~/none", name="sweep").err
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize(
    "word", ["data.path=a.csv,b.csv", "data.path=choice(a.csv,b.csv)", "data.target=null", "output=", "loss=ce"]
)
def test_what_is_no_plain_path_is_left_to_the_grammar(word):
    assert as_meant("train", ["data=file", word]) == ["data=file", word]


@pytest.mark.parametrize("name", ["$a_$", "\\alpha", "_a"])
def test_names_from_a_file_are_text_in_the_pictures(call, tmp_path, name):
    lines = [f"{name},b,y", *(f"{row},{name if number % 2 else 'other'}" for number, row in enumerate(ROWS))]
    Path("data.csv").write_text("\n".join(lines))
    outcome = call("data=file", "data.path=data.csv", "data.target=y", "batch_size=4", "epochs=1")
    assert (outcome.code, outcome.err) == (0, "")
    names = {"curves.png", "boundary.png", "confusion.png", "reliability.png", "coefficients.png"}
    assert {path.name for path in only_run(tmp_path).glob("*.png")} == names


def test_no_epochs_save_the_initial_model(call, tmp_path):
    outcome = call("epochs=0")
    assert (outcome.code, outcome.err) == (0, "")
    folder = only_run(tmp_path)
    names = {
        "metrics.csv",
        "run.json",
        "model.npz",
        "checkpoint.npz",
        "evaluation.json",
        "coefficients.csv",
        "model.md",
        "trainer.log",
    }
    assert {path.name for path in folder.iterdir()} == names
    assert not Model.load(folder / "model.npz").w.any()
    assert (folder / "metrics.csv").read_text() == ",".join(COLUMNS) + "\n"
    assert report(folder)["status"] == "finished"


@pytest.mark.filterwarnings("default")
def test_a_batch_of_more_than_all_is_all_with_one_warning(call):
    outcome = call("batch_size=1000000", "data.samples=500", "valid_fraction=0.2", *SHORT)
    assert outcome.code == 0
    assert len(outcome.err.splitlines()) == 1
    assert "batch_size=1000000 is more than the 400 training samples" in outcome.err


def test_a_seed_may_be_huge(call, tmp_path):
    assert call(f"seed={2**70}", *SHORT).code == 0
    assert report(only_run(tmp_path))["seed"] == 2**70


def test_a_drawn_seed_is_recorded_and_repeats_the_run(call, tmp_path):
    assert call("seed=null", *SHORT).code == 0
    drawn = only_run(tmp_path)
    assert call(f"seed={report(drawn)['seed']}", *SHORT).code == 0
    (again,) = set(folders(tmp_path)) - {drawn}
    assert without_seconds(drawn) == without_seconds(again)
    assert report(drawn)["config"]["seed"] is None


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("lr", "rows"), [("1e6", True), ("1e3", True), ("1e200", False)])
def test_a_divergence_ends_with_a_sentence_and_its_curves(call, tmp_path, lr, rows):
    outcome = call(f"optimizer.lr={lr}", "activation=identity", "loss=squared_error")
    folder = only_run(tmp_path)
    assert outcome.code == 1
    assert "Traceback" not in outcome.err
    assert len(outcome.err.splitlines()) <= 5
    assert report(folder)["status"] == "diverged"
    assert "Lower optimizer.lr" in outcome.err.splitlines()[-1]
    assert report(folder)["reason"] == outcome.err.splitlines()[-1]
    assert np.isfinite(Model.load(folder / "model.npz").w).all()
    assert bool(table(folder / "metrics.csv")) == rows
    assert (folder / "curves.png").is_file() == rows


@pytest.mark.processes
def test_a_poor_terminal_is_enough(tmp_path):
    lines = ["größe,b,art", *(f"{row},{'äö'[number % 2]}" for number, row in enumerate(ROWS))]
    (tmp_path / "data.csv").write_text("\n".join(lines), encoding="utf-8")
    poor = {"TERM": "dumb", "PYTHONIOENCODING": "ascii", "COLUMNS": "1"}
    outcome = command(
        *("data=file", "data.path=data.csv", "data.target=art", "batch_size=4", *SHORT),
        *('hydra.run.dir="outputs/ä"',),
        cwd=tmp_path,
        **poor,
    )
    assert (outcome.code, outcome.err) == (0, "")
    assert Model.load(only_run(tmp_path) / "model.npz").classes == ("ä", "ö")
    assert report(only_run(tmp_path))["config"]["data"]["target"] == "art"
    refused = command("data=file", "data.path=data.csv", "data.target=nope", cwd=tmp_path, **poor)
    assert refused.code == 2
    assert "gr\\xf6\\xdfe" in refused.err


@pytest.mark.processes
def test_a_sweep_leaves_a_folder_a_job(tmp_path):
    outcome = command("-m", "loss=ce,brier", "optimizer.lr=0.01,0.1", *SHORT, cwd=tmp_path)
    assert (outcome.code, outcome.err) == (0, "")
    found = folders(tmp_path)
    assert len(found) == 4
    assert len({folder.parent for folder in found}) == 1
    assert all(folder.is_relative_to(tmp_path / "outputs" / "multirun") for folder in found)
    configs = [report(folder)["config"] for folder in found]
    jobs = {(config["loss"]["name"], config["optimizer"]["lr"]) for config in configs}
    assert jobs == {("ce", 0.01), ("ce", 0.1), ("brier", 0.01), ("brier", 0.1)}


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ("loss=ce,nope", ["loss=nope", "bce, brier, ce, crammer_singer"]),
        ("optimizer.lr=0.1,0", ["optimizer.lr", "got 0"]),
        ("loss=ce activation=softmax,sigmoid skip_illegal=false", ["activation=sigmoid with loss=ce"]),
    ],
    ids=["name", "value", "pair"],
)
def test_a_sweep_with_one_wrong_job_runs_none(call, tmp_path, overrides, words):
    assert_refused(call("-m", *overrides.split(), *SHORT), 2, words, tmp_path)


@pytest.fixture
def listening():
    """A background job of a shell is started deaf to Ctrl-C, and would pass that on to its children."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.processes
@pytest.mark.usefixtures("listening")
def test_ctrl_c_keeps_what_was_learnt(tmp_path):
    endless = [sys.executable, "-m", "trainer", "epochs=1000000", "plots=false"]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(endless, cwd=tmp_path, text=True, **pipes) as process:
        try:
            deadline = time.monotonic() + LIMIT
            while not any(len(path.read_text().splitlines()) > 3 for path in tmp_path.rglob("metrics.csv")):
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=LIMIT)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "Traceback" not in err
    assert err.splitlines()[-1] == "Interrupted."
    folder = only_run(tmp_path)
    assert report(folder)["status"] == "interrupted"
    assert report(folder)["epochs"] >= 3
    assert Model.load(folder / "model.npz").w.any()
    assert all(None not in row.values() for row in table(folder / "metrics.csv"))
    assert not list(folder.glob(".*"))


def test_help_names_every_group_option_and_key(call):
    outcome = call("--help")
    assert (outcome.code, outcome.err) == (0, "")
    shown = {line.split()[0]: line for line in outcome.out.splitlines() if line.startswith("  ")}
    groups = {folder for folder in CONF.iterdir() if folder.is_dir() and folder.name not in ("hydra", "protocol")}
    assert "protocol" not in shown  # a group of trainer probe
    for group in groups:
        assert all(option.stem in shown[group.name] for option in group.glob("*.yaml"))
    groups = {folder.name for folder in CONF.iterdir() if folder.is_dir()}
    for key in {field.name for field in fields(Settings)} - groups:
        assert f"\n  {key}=" in outcome.out
    assert len(re.findall(r"^  python -m trainer ", outcome.out, re.MULTILINE)) == 4


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_says_the_version_of_the_project_and_has_a_help(call, name):
    assert call("--version", name=name)[:2] == (0, f"softmax-trainer {__version__}\n")
    assert call(name, "--version")[:2] == (0, f"softmax-trainer {__version__}\n")
    outcome = call("--help", name=name)
    assert (outcome.code, outcome.err) == (0, "")
    assert f"python -m trainer{'' if name == 'train' else f'.{name}'}" in outcome.out


@pytest.mark.parametrize(
    "words",
    [["pairs"], ["check"], ["--help"], ["--version"], ["explain"], ["epochs=1", "plots=false"], ["--cfg", "job"]],
    ids=" ".join,
)
def test_a_reader_who_leaves_as_head_does_is_no_error(call, words, monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", buffering=1) as left:
        monkeypatch.setattr(sys, "stdout", left)
        outcome = call(*words)
    assert (outcome.code, outcome.err) == (0, "")


@pytest.mark.processes
@pytest.mark.parametrize("words", ["loss=ce,brier -m", "activation=softmax loss=ce -m loss=ce,brier"])
def test_the_flag_of_a_sweep_may_stand_anywhere(tmp_path, words):
    outcome = command(*words.split(), "epochs=1", cwd=tmp_path)
    assert (outcome.code, outcome.err) == (0, "")
    assert [report(folder)["config"]["loss"]["name"] for folder in folders(tmp_path)] == ["ce", "brier"]


EXAMPLES = re.findall(r"python -m trainer ((?!-m).*)", trainer.commands.train.HELP)


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_examples_of_the_help_run(call, example):
    lines = ["length,width,species", *(f"{row},{'ab'[number % 2]}" for number, row in enumerate(ROWS))]
    Path("flowers.csv").write_text("\n".join(lines))
    assert call(*shlex.split(example), "batch_size=4", *SHORT).code == 0


@pytest.mark.processes
def test_the_configuration_is_printed_and_not_run(tmp_path):
    outcome = command("--cfg", "job", "optimizer=adam", "seed=3", cwd=tmp_path)
    assert (outcome.code, outcome.err) == (0, "")
    assert "name: adam" in outcome.out
    assert "seed: 3" in outcome.out
    assert not list(tmp_path.iterdir())


@pytest.mark.processes
@pytest.mark.parametrize(
    ("line", "words"),
    [("trainer loss=", {"loss=ce", "loss=brier"}), ("trainer optimizer.", {"optimizer.lr=", "optimizer.momentum="})],
)
def test_the_console_script_completes_words(tmp_path, line, words):
    script = Path(sys.executable).parent / "trainer"
    environment = os.environ | {"COMP_LINE": line, "COMP_POINT": str(len(line))}
    query = [script, "-sc", "query=bash"]
    done = subprocess.run(query, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0
    assert set(done.stdout.split()) >= words
    assert not list(tmp_path.iterdir())


class Trained(NamedTuple):
    """A model, and rows like those that it was trained on: a CSV of three features and words as labels."""

    model: Path
    x: np.ndarray


def write_csv(path, names, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([names, *rows])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    cwd = tmp_path_factory.mktemp("trained")
    x = np.random.default_rng(0).normal(size=(90, 3)) * [1, 10, 0.1] + [5, 0, 0]
    kinds = np.array(["red", "green", "blue"])[((x - [5, 0, 0]) / [1, 10, 0.1]).argmax(axis=1)]
    rows = [[*values, kind] for values, kind in zip(x.tolist(), kinds, strict=True)]
    write_csv(cwd / "train.csv", ["a", "b", "c", "kind"], rows)
    file = {"name": "file", "path": str(cwd / "train.csv"), "target": "kind"}
    return Trained(run(replace(SETTINGS, data=file, epochs=20), cwd / "run").folder / "model.npz", x)


@pytest.fixture
def predict(call, trained):
    """python -m trainer.predict for the trained model, on the file new.csv."""

    def outcome(*arguments, model=trained.model):
        settings = [f"model={model}", "data=file", "data.path=new.csv", *arguments]
        return call(*settings, name="predict")

    return outcome


def numbers(path):
    """The probabilities of a file of predictions, by class."""
    rows = table(path)
    columns = {key.removeprefix("probability_"): key for key in rows[0] if key != "prediction"}
    return {name: np.array([float(row[key]) for row in rows]) for name, key in columns.items()}


@pytest.mark.processes
def test_predictions_are_those_of_the_model(trained, tmp_path):
    write_csv(tmp_path / "new.csv", "abc", trained.x[:7].tolist())
    settings = [f"model={trained.model}", "data=file", "data.path=new.csv", "output=out.csv"]
    outcome = command(*settings, cwd=tmp_path, module="trainer.predict")
    assert (outcome.code, outcome.err) == (0, "")
    assert "out.csv" in outcome.out
    assert {path.name for path in tmp_path.iterdir()} == {"new.csv", "out.csv"}
    model = Model.load(trained.model)
    a = model.predict(trained.x[:7])
    assert model.classes == ("blue", "green", "red")
    probabilities = numbers(tmp_path / "out.csv")
    assert tuple(probabilities) == model.classes
    assert_array_equal(np.column_stack(list(probabilities.values())), a)
    assert_allclose(sum(probabilities.values()), 1, rtol=1e-12)
    predicted = [row["prediction"] for row in table(tmp_path / "out.csv")]
    assert predicted == [model.classes[k] for k in a.argmax(axis=1)]


def test_predictions_lie_beside_the_model_by_default(predict, trained):
    write_csv("new.csv", "abc", trained.x.tolist())
    assert predict().code == 0
    assert len(table(trained.model.with_name("new-predictions.csv"))) == len(trained.x)


def test_columns_are_found_by_their_names(predict, trained):
    write_csv("new.csv", "abc", trained.x.tolist())
    assert predict("output=as-trained.csv").code == 0
    write_csv("new.csv", "cab", trained.x[:, [2, 0, 1]].tolist())
    assert predict("output=reordered.csv").code == 0
    assert Path("as-trained.csv").read_bytes() == Path("reordered.csv").read_bytes()


def test_the_target_may_stand_in_the_new_file(predict, trained):
    write_csv("new.csv", "abc", trained.x.tolist())
    assert predict("output=without.csv").code == 0
    write_csv("new.csv", ["kind", "a", "b", "c"], [["red", *row] for row in trained.x.tolist()])
    assert predict("output=with.csv").code == 0
    assert Path("without.csv").read_bytes() == Path("with.csv").read_bytes()


def test_no_rows_give_the_header(predict):
    write_csv("new.csv", "abc", [])
    assert predict("output=out.csv").code == 0
    assert Path("out.csv").read_text() == "prediction,probability_blue,probability_green,probability_red\n"


@pytest.mark.parametrize(
    ("names", "row", "words"),
    [
        ("ac", [1, 2], ["missing: 'b'", "model has 3 features, the file 2"]),
        ("abcd", [1, 2, 3, 4], ["remove 'd'", "model has 3 features, the file 4"]),
        ("abc", [1, "nan", 3], ["new.csv:2:2", "not finite"]),
        ("abc", [1, "red", 3], ["new.csv:2:2", "'red'"]),
    ],
    ids=["missing column", "extra column", "nan", "word"],
)
def test_features_that_do_not_fit_are_refused(predict, tmp_path, names, row, words):
    write_csv("new.csv", names, [row])
    assert_refused(predict("output=out.csv"), 2, words, tmp_path)
    assert not Path("out.csv").exists()


class Explosive:
    """What runs code when it is unpickled."""

    def __reduce__(self):
        return Path.touch, (Path("executed"),)


def text_model(path):
    path.write_text("no model at all")


def pickle_model(path):
    path.write_bytes(pickle.dumps(Explosive()))


def foreign_model(path):
    np.savez(path, weights=np.eye(3))


def pickle_inside_model(path):
    np.savez(path, header=np.array([Explosive()]), w=np.eye(3), mean=np.ones(3), scale=np.ones(3))


@pytest.mark.parametrize("write", [text_model, pickle_model, foreign_model, pickle_inside_model])
def test_what_is_no_model_is_refused_and_not_run(predict, tmp_path, write):
    write(tmp_path / "model.npz")
    write_csv("new.csv", "abc", [])
    assert_refused(predict(model="model.npz"), 2, ["model.npz is not a model of ours"], tmp_path)
    assert not Path("executed").exists()


def test_a_missing_model_is_an_error_of_files(predict, tmp_path):
    write_csv("new.csv", "abc", [])
    assert_refused(predict(model="none.npz"), 3, ["none.npz"], tmp_path)


def test_a_missing_file_of_features_is_an_error_of_files(predict, tmp_path):
    assert_refused(predict("output=out.csv"), 3, ["new.csv", "cannot be read"], tmp_path)


def test_settings_of_a_prediction_are_checked(predict, tmp_path):
    write_csv("new.csv", "abc", [])
    assert_refused(predict("threads=0"), 2, ["threads must be at least 1", "got 0"], tmp_path)
    assert_refused(predict("treads=1"), 2, ["did you mean threads?"], tmp_path)


@pytest.mark.processes
def test_predictions_can_be_announced_in_ascii(trained, tmp_path):
    write_csv(tmp_path / "new.csv", "abc", trained.x.tolist())
    settings = [f"model={trained.model}", "data.path=new.csv", 'output="größe.csv"']
    outcome = command(*settings, cwd=tmp_path, module="trainer.predict", PYTHONIOENCODING="ascii")
    assert (outcome.code, outcome.err) == (0, "")
    assert len(table(tmp_path / "größe.csv")) == len(trained.x)
