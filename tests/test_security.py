"""Hostile words, files and environments: nothing they name is run, and each is refused in a sentence, in a second.

What would run makes a file named canary, in the working folder of the test.
"""

import contextlib
import csv
import io
import json
import logging
import os
import pickle
import re
import shutil
import struct
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.test_command_line import assert_refused, call, command, write_csv  # noqa: F401 - call is a fixture
from tests.test_model import model
from tests.test_run import SETTINGS, perform
from trainer.errors import DataError, FileError
from trainer.runs.coefficients import Coefficients
from trainer.runs.coefficients import write as write_coefficients
from trainer.runs.model import Model
from trainer.runs.outputs import Table
from trainer.runs.predictions import write as write_predictions
from trainer.sweeps.record import read
from trainer.sweeps.report.reading import Run
from trainer.sweeps.report.summary import table as summary_table
from trainer.sweeps.worker import LOG, Job

SECONDS = 1.0  # of this process
SHORT = ["epochs=1", "plots=false"]
TOUCH = "'touch canary'"


@contextlib.contextmanager
def quick_and_inert():
    began = time.process_time()
    yield
    assert time.process_time() - began < SECONDS
    assert not Path("canary").exists()


WORDS = {
    "target": "+_target_=os.system",
    "target of a choice": "loss._target_=os.system",
    "forced target of a choice": f"++loss._target_=os.system +loss.command={TOUCH}",
    "nested target": "+loss={_target_:os.system}",
    "target in a list": "metrics=[{_target_:os.system}]",
    "target in a callback": "+callbacks.x._target_=os.system",
    "target in a dict of callbacks": "callbacks={x:{_target_:os.system}}",
    "callback of Hydra": "+hydra.callbacks.x._target_=os.system",
    "dict as callback of Hydra": "+hydra.callbacks.x={_target_:pathlib.Path.touch,self:canary}",
    "dict of callbacks of Hydra": "+hydra.callbacks={x:{_target_:pathlib.Path.touch,self:canary}}",
    "option as callback of Hydra": "+callbacks@hydra.callbacks=early_stopping",
    "sweeper": "hydra.sweeper._target_=os.system",
    "launcher": "hydra.launcher._target_=os.system",
    "forced sweeper": "++hydra.sweeper={_target_:os.system}",
    "choices in a target": "hydra.launcher._target_=os.system,os.abort",
    "class of a handler": "hydra.job_logging.handlers.console.class=os.system",
    "factory of a handler": f"+hydra.job_logging.handlers.x={{'()':os.system,command:{TOUCH}}}",
    "factory of a formatter": f"+hydra.job_logging.formatters.x={{'()':os.system,command:{TOUCH}}}",
    "stream of a handler": "hydra.job_logging.handlers.console.stream=ext://os.system",
    "file of the log": "hydra.job_logging.handlers.file.filename=../canary",
    "whole logging": "hydra.job_logging=null",
    "logging of Hydra": "+hydra.hydra_logging.handlers.x.class=os.system",
    "search path": "hydra.searchpath=[pkg://os]",
    "search path of files": "hydra.searchpath=[file:///tmp]",
    "environment of the job": "+hydra.job.env_set.LD_PRELOAD=x",
    "environment that is copied": "hydra.job.env_copy=[HOME]",
    "working folder": "hydra.job.chdir=true",
    "output subfolder": "hydra.output_subdir=../../x",
    "name of the job": "hydra.job.name=../../x",
    "runtime": "hydra.runtime.output_dir=/",
    "whole of Hydra": "+hydra={callbacks:{}}",
    "mode": "hydra.mode=MULTIRUN",
    "unknown logging": "hydra/job_logging=../../x",
    "unknown launcher": "hydra/launcher=os.system",
    "option that leaves conf": "loss=../../../etc/passwd",
    "absolute option": "loss=/etc/passwd",
    "option of another group": "loss=../activation/softmax",
    "list of options": "loss=[ce,brier]",
    "dict of options": "loss={name:ce}",
    "unknown resolver": "epochs=${os.system:x}",
    "resolver of code": "epochs=${oc.decode:'__import__(1)'}",
    "resolver of itself": "epochs=${epochs}",
    "circle": "epochs=${seed} seed=${epochs}",
    "missing": "epochs=${nope}",
    "object": "epochs=!!python/object/apply:os.system",
    "deep list": "metrics=" + "[" * 2000 + "]" * 2000,
    "deep dict": "+x=" + "{a:" * 2000 + "1" + "}" * 2000,
    "huge number": "epochs=" + "9" * 5000,
    "huge exponent": "epochs=1e999999999",
    "long key": "a" * 100_000 + "=1",
    "many dots": "a." * 3000 + "b=1",
    "escape codes": "loss='\x1b[31mce\x1b]0;x\x07'",
    "line breaks": "loss='ce\nEvil'",
    "markup": "loss='<script>x</script>'",
    "format": "loss='%s%s{0}{{7*7}}'",
    "dunder": "loss.__class__=x",
    "store of mlflow": "callbacks=mlflow callbacks.mlflow.store=/etc/canary.db",
    "other store of mlflow": "callbacks=mlflow callbacks.mlflow.store=../../../canary.db",
    "two metrics that are code": "metrics=[__import__]",
    "rerun": "--experimental-rerun canary.pickle",
    "folder of configurations": "--config-dir=evil",
    "path of configurations": "--config-path=../evil",
    "another configuration": "--config-name=../../evil",
    "folder of 300 letters": f"hydra.run.dir=outputs/{'n' * 300}",
    "folder of 81 bytes": f"hydra.run.dir=outputs/{'n' * 81}/x",
    "folder of two lines": "hydra.run.dir='outputs/a\nb'",
    "folder with NUL": "hydra.run.dir='outputs/a\0b'",
    "folder from right to left": "hydra.run.dir='outputs/\u202eabc'",
    "folder of a device": "hydra.run.dir=outputs/CON",
    "folder of a device with a suffix": "hydra.run.dir=outputs/nul.txt",
    "folder that ends in a dot": "hydra.run.dir=outputs/x.",
    "folder without a name": "hydra.run.dir=",
    "sweep in a folder of two lines": "hydra.sweep.dir='outputs/a\nb'",
    "sweep over targets": "-m loss._target_=os.system,os.abort",
    "sweep with a callback of Hydra": "-m seed=1,2 +hydra.callbacks.x._target_=os.system",
    "sweep with a launcher": "-m seed=1,2 hydra.launcher._target_=os.system",
    "sweep over folders": "-m seed=1,2 hydra.sweep.subdir=../../../x",
}


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("words", WORDS.values(), ids=WORDS)
def test_a_hostile_word_is_refused(call, tmp_path, words):  # noqa: F811
    Path("evil").mkdir()
    Path("evil/config.yaml").write_text("hydra: {callbacks: {x: {_target_: os.system, command: touch canary}}}")
    Path("canary.pickle").write_bytes(pickle.dumps(Explosive()))
    arguments = [words] if "'" in words and not words.startswith("+") else words.split(" ")
    with quick_and_inert():
        outcome = call(*SHORT, *arguments)
    assert_refused(outcome, 2, [], tmp_path)
    assert outcome.err.strip()
    assert "\x1b" not in outcome.err
    assert len(outcome.err) < 2000


HALF = "\udcff"  # as Python reads the byte 0xff of a command line, and half of a surrogate pair


@pytest.mark.parametrize(
    "words",
    [
        f"data.path='{HALF}.csv' data=file data.target=b",
        f"class_weight={{'{HALF}':2}}",
        f"metrics=['{HALF}']",
        f"-m epochs=1,'{HALF}'",
    ],
    ids=ascii,
)
def test_a_word_that_is_no_text_is_refused_before_there_is_a_folder(call, tmp_path, words):  # noqa: F811
    Path(f"{HALF}.csv").write_text("a,b\n" + "1,2\n3,4\n" * 30)
    assert_refused(call(*SHORT, *words.split(" ")), 2, ["\\udcff"], tmp_path)


class Explosive:
    """What makes the canary when it is unpickled."""

    def __reduce__(self):
        return Path.touch, (Path("canary"),)


def npy(descr="'<f8'", shape="(2, 2)", body=b"\0" * 32, order="False", version=(1, 0)):
    """A .npy file with any header."""
    header = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}".encode()
    size = struct.pack("<H" if version == (1, 0) else "<I", len(header) + 1)
    return b"\x93NUMPY" + bytes(version) + size + header + b"\n" + body


def archive(**members):
    """An .npz of these bytes, as a zip."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as out:
        for name, content in members.items():
            out.writestr(f"{name}.npy", content)
    return file.getvalue()


def saved(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def lying_bomb(name):
    """An .npz whose directory promises 1 TiB."""
    content = archive(**{name: b"\0" * 1000, "y": npy()})
    place = content.rindex(b"PK\x01\x02")
    return content[: place + 24] + struct.pack("<I", 0xFFFFFFF0) + content[place + 28 :]


OBJECTS = np.array([[Explosive()]], dtype=object)
STRUCTURED = np.zeros(3, dtype=[("a", "<f8"), ("b", "O")])
ARRAYS = {
    "pickle": pickle.dumps(Explosive()),
    "pickle of protocol 0": pickle.dumps(Explosive(), 0),
    "text": b"import os; os.system('touch canary')",
    "yaml": b"!!python/object/apply:os.system ['touch canary']",
    "empty": b"",
    "half a zip": b"PK\x03\x04 torn",
    "zip of nothing": archive(),
    "objects": saved(x=OBJECTS, y=OBJECTS[0]),
    "structured": saved(x=STRUCTURED, y=STRUCTURED),
    "duplicate": saved(x=np.eye(2), y=np.arange(2), X=np.eye(2)),
    "name that leads out": archive(**{"../../x": npy(), "y": npy()}),
    "huge shape": archive(x=npy(shape="(1000000000000, 1000000000000)"), y=npy()),
    "shape beyond any integer": archive(x=npy(shape=f"({10**30}, 2)"), y=npy()),
    "negative shape": archive(x=npy(shape="(-1, 2)"), y=npy()),
    "shape of words": archive(x=npy(shape="('a', 2)"), y=npy()),
    "deep shape": archive(x=npy(shape="(" * 500 + ")" * 500), y=npy()),
    "call as shape": archive(x=npy(shape="__import__('os').system('touch canary')"), y=npy()),
    "call as dtype": archive(x=npy(descr="__import__('os').system('touch canary')"), y=npy()),
    "dtype of objects": archive(x=npy(descr="'|O'", body=pickle.dumps(Explosive())), y=npy()),
    "dtype with objects inside": archive(x=npy(descr="[('a','|O'),('b','<f8')]"), y=npy()),
    "dtype of no size": archive(x=npy(descr="'|V0'"), y=npy()),
    "dtype of times": archive(x=npy(descr="'<M8[ns]'"), y=npy()),
    "long header": archive(x=npy(shape="(" + "1," * 30_000 + ")", version=(2, 0)), y=npy()),
    "too many bytes": archive(x=npy(body=b"\0" * 1000), y=npy()),
    "too few bytes": archive(x=npy(body=b""), y=npy()),
    "promise of a terabyte": lying_bomb("x"),
    "unknown version": archive(x=npy(version=(9, 9)), y=npy()),
}


@pytest.mark.parametrize("content", ARRAYS.values(), ids=ARRAYS)
def test_a_hostile_npz_is_refused_as_data(call, tmp_path, content):  # noqa: F811
    Path("data.npz").write_bytes(content)
    with quick_and_inert():
        outcome = call("data=file", "data.path=data.npz", *SHORT)
    assert_refused(outcome, 2, ["data.npz"], tmp_path)


@pytest.mark.parametrize("content", ARRAYS.values(), ids=ARRAYS)
def test_a_hostile_npz_is_refused_as_a_model(call, tmp_path, content):  # noqa: F811
    Path("model.npz").write_bytes(content)
    write_csv("new.csv", "abcd", [[1, 2, 3, 4]])
    with quick_and_inert():
        outcome = call("model=model.npz", "data.path=new.csv", "output=out.csv", name="predict")
    assert_refused(outcome, 2, ["model.npz is not a model of ours"], tmp_path)
    assert not Path("out.csv").exists()


HEADER = {
    "format": "softmax-trainer model 1",
    "activation": {"name": "softmax", "temperature": 1.0},
    "classes": [0, 1, 2],
    "features": list("abcd"),
    "target": None,
    "split": {},
}
HEADERS = {
    "deep list": b"[" * 100_000 + b"]" * 100_000,
    "deep dict": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "huge integer": json.dumps(HEADER | {"classes": [0, 1, 2]}).replace("[0, 1, 2]", f"[0, 1, {'9' * 5000}]").encode(),
    "not UTF-8": b"\xff\xfe" + json.dumps(HEADER).encode(),
    "no dict": b"3",
    "temperature nan": json.dumps(HEADER | {"activation": {"name": "softmax", "temperature": float("nan")}}).encode(),
    "temperature inf": json.dumps(HEADER | {"activation": {"name": "softmax", "temperature": float("inf")}}).encode(),
    "temperature text": json.dumps(HEADER | {"activation": {"name": "softmax", "temperature": "1"}}).encode(),
    "target in the activation": json.dumps(
        HEADER | {"activation": {"name": "softmax", "_target_": "os.system", "command": "touch canary"}}
    ).encode(),
    "activation is code": json.dumps(HEADER | {"activation": {"name": "__import__('os')"}}).encode(),
    "activation is a list": json.dumps(HEADER | {"activation": [["name", "softmax"]]}).encode(),
    "activation of a list": json.dumps(HEADER | {"activation": {"name": ["softmax"]}}).encode(),
    "format of a list": json.dumps(HEADER | {"format": ["softmax-trainer model 1"]}).encode(),
    "classes are a text": json.dumps(HEADER | {"classes": "abc"}).encode(),
    "classes are dicts": json.dumps(HEADER | {"classes": [{}, {}, {}]}).encode(),
    "classes are nan": json.dumps(HEADER | {"classes": [float("nan"), 1, 2]}).encode(),
    "classes are one": json.dumps(HEADER | {"classes": [1, 1, 1]}).encode(),
    "features are numbers": json.dumps(HEADER | {"features": [1, 2, 3, 4]}).encode(),
    "features are a text": json.dumps(HEADER | {"features": "abcd"}).encode(),
    "features are one": json.dumps(HEADER | {"features": ["a"] * 4}).encode(),
    "target is a list": json.dumps(HEADER | {"target": ["/etc/passwd"]}).encode(),
    "split is a text": json.dumps(HEADER | {"split": "x"}).encode(),
    "nothing else": json.dumps({"format": "softmax-trainer model 1"}).encode(),
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_a_hostile_header_of_a_model_is_refused(call, tmp_path, header):  # noqa: F811
    arrays = {"w": np.zeros((5, 3)), "mean": np.zeros(4), "scale": np.ones(4)}
    np.savez("model.npz", header=np.frombuffer(header, dtype=np.uint8), **arrays)
    write_csv("new.csv", "abcd", [[1, 2, 3, 4]])
    with quick_and_inert():
        outcome = call("model=model.npz", "data.path=new.csv", "output=out.csv", name="predict")
    assert_refused(outcome, 2, ["model.npz"], tmp_path)
    assert len(outcome.err) < 600
    assert not Path("out.csv").exists()


TABLES = {
    "formula": b"a,b,y\n=cmd(),2,0\n3,4,1\n",
    "formula as a label among numbers": b"a,b,y\n1,2,0\n3,4,=1+1\n",
    "escape code": b"a,b,y\n\x1b[31m1,2,0\n3,4,1\n",
    "escape code in a name": b"a\x1b]0;x\x07,a\x1b]0;x\x07,y\n1,2,0\n3,4,1\n",
    "NUL": b"a,b,y\n1,2\x00,0\n3,4,1\n",
    "NUL in a name": b"a\x00,b,y\n1,2,0\n3,4,1\n",
    "huge field": b"a,b,y\n" + b"1" * 1_000_000 + b",2,0\n3,4,1\n",
    "huge label": b"a,b,y\n1,2,0\n3,4," + b"9" * 100_000 + b"x\n",
    "open quote": b'a,b,y\n1,"' + b"2\n" * 10_000,
    "code": b"a,b,y\n__import__('os').system('touch canary'),2,0\n3,4,1\n",
    "pickle": pickle.dumps(Explosive()),
    "markup": b"a,b,y\n<script>,2,0\n3,4,1\n",
}


@pytest.mark.parametrize("content", TABLES.values(), ids=TABLES)
def test_a_hostile_csv_is_refused(call, tmp_path, content):  # noqa: F811
    Path("data.csv").write_bytes(content)
    with quick_and_inert():
        outcome = call("data=file", "data.path=data.csv", "data.target=y", *SHORT)
    assert_refused(outcome, 2, ["data.csv"], tmp_path)
    assert "\x1b" not in outcome.err
    assert len(outcome.err) < 600


PATHS = ["/dev/zero", "/dev/full", "/dev/stdin", "/proc/self/mem", "pipe.csv", "loop.csv", "folder.csv", "a\0.csv"]


@pytest.mark.parametrize("path", PATHS, ids=ascii)
@pytest.mark.parametrize("key", ["data.path", "model"])
def test_what_is_no_regular_file_is_not_read(call, tmp_path, key, path):  # noqa: F811
    os.mkfifo("pipe.csv")
    Path("loop.csv").symlink_to("loop.csv")
    Path("folder.csv").mkdir()
    write_csv("new.csv", "abcd", [[1, 2, 3, 4]])
    given = [f"{key}='{path}'"] if key == "model" else ["data=file", f"data.path='{path}'", "data.target=y"]
    with quick_and_inert():
        outcome = call(*given, "data.path=new.csv", name="predict") if key == "model" else call(*given, *SHORT)
    assert outcome.code in (2, 3)  # 2 where a /proc file counts as one of an unknown kind
    assert_refused(outcome, outcome.code, [], tmp_path)


def link(path):
    Path("precious").write_text("precious")
    path.symlink_to(Path("precious").absolute())


def dangling_link(path):
    path.symlink_to(Path("precious").absolute())


def second_name(path):
    Path("precious").write_text("precious")
    path.hardlink_to("precious")


def nothing_outside_was_touched():
    return not Path("precious").exists() or Path("precious").read_text() == "precious"


LAID = [link, dangling_link, second_name, os.mkfifo, os.mkdir]
OPENED = ["run.lock", "trainer.log"]  # by a run, to be written in their place


@pytest.mark.parametrize("lay", LAID)
@pytest.mark.parametrize("name", OPENED)
def test_a_new_run_writes_to_no_link_and_waits_for_no_pipe(call, name, lay):  # noqa: F811
    Path("run").mkdir()
    lay(Path("run", name))
    done = call(*SHORT, "hydra.run.dir=run")
    assert done.code == 3
    assert f"run/{name} cannot be read or written: it is " in done.err
    assert [path.name for path in Path("run").iterdir()] == [name]
    assert nothing_outside_was_touched()


@pytest.fixture
def ended(call, tmp_path_factory):  # noqa: F811
    """A run of the command in the folder run, which is the same for all tests that ask for it."""
    kept = tmp_path_factory.getbasetemp() / "ended"
    if not kept.exists():
        assert call(*SHORT, "hydra.run.dir=run").code == 0
        Path("run").rename(kept)
    shutil.copytree(kept, "run")


@pytest.mark.usefixtures("ended")
@pytest.mark.parametrize("lay", LAID)
@pytest.mark.parametrize("name", [*OPENED, "run.json", "checkpoint.npz"])
def test_nor_does_a_run_that_goes_on(call, name, lay):  # noqa: F811
    path = Path("run", name)
    path.unlink(missing_ok=True)
    lay(path)
    left = {other: other.read_bytes() for other in Path("run").iterdir() if other != path}
    done = call("resume=run", "epochs=9")
    assert (done.code, "Traceback" in done.err) == (3 if lay is not second_name or name in OPENED else 2, False)
    assert f"run/{name} " in done.err
    assert {other: other.read_bytes() for other in Path("run").iterdir() if other != path} == left
    assert nothing_outside_was_touched()


@pytest.mark.parametrize("lay", [dangling_link, os.mkfifo])
@pytest.mark.parametrize("name", ["run.json", "metrics.csv", "path.csv", "model.npz", "checkpoint.npz"])
def test_a_folder_with_a_link_in_the_place_of_a_result_is_used(call, name, lay):  # noqa: F811
    Path("run").mkdir()
    lay(Path("run", name))
    assert call(*SHORT, "hydra.run.dir=run").code == 0
    assert [path.name for path in Path("run").iterdir()] == [name]
    assert Path("run-2", "run.json").exists()
    assert nothing_outside_was_touched()


@pytest.mark.parametrize("lay", LAID)
def test_the_log_of_a_job_is_no_link(call, lay, tmp_path):  # noqa: F811
    logging.getLogger().setLevel(logging.INFO)  # as serve does; the fixture takes it back
    Path("job").mkdir()
    lay(Path("job", LOG))
    ended = perform(Job(0, tmp_path / "job", SETTINGS, {}))
    assert (ended.status, "trainer.log cannot be read or written" in ended.reason) == ("failed", True)
    assert [path.name for path in Path("job").iterdir()] == [LOG]
    assert nothing_outside_was_touched()


@pytest.mark.parametrize("lay", [link, dangling_link, os.mkfifo])
def test_nor_is_the_page_of_a_sweep(call, lay):  # noqa: F811
    lay(Path("sweep.json"))
    with pytest.raises(FileError, match=r"sweep\.json cannot be read or written: it is "):
        read(Path())


@pytest.mark.parametrize("lay", [link, dangling_link, os.mkfifo])
def test_nor_is_the_log_of_a_search(call, lay):  # noqa: F811
    pytest.importorskip("optuna")
    Path("search").mkdir()
    lay(Path("search", "study.log"))
    done = call("-m", "sweep=optuna", "hydra.sweep.dir=search", *SHORT, "optimizer.lr=interval(0.01,1)")
    assert (done.code, "study.log cannot be read or written: it is " in done.err) == (3, True)
    assert nothing_outside_was_touched()


def test_a_folder_that_cannot_be_written_is_named(call, tmp_path):  # noqa: F811
    Path("loop").symlink_to("loop")
    for folder in ("/dev/full/x", "/dev/null/x", "loop/x"):
        assert_refused(call(f"hydra.run.dir={folder}", *SHORT), 3, [folder], tmp_path)


FORMULAS = ['=cmd|"/c calc"!A0', "+1+1", "-1+1", "@sum(a)", "\t=1", "\r=1", "\n=1", " =1"]
FORMULAS += ["\uff1d1", "\uff0b1", "\uff0d1", "\uff20x"]  # = + - @ in full width
PLAIN = ["a=b", "ja", "日本", "'x", "1-2", "_", " x"]


def predictions(names, folder):
    few = model(classes=tuple(names))
    write_predictions(folder / "out.csv", few, np.eye(len(names)))


def coefficients(names, folder):
    w = np.zeros((len(names) + 1, len(names)))
    (path,) = write_coefficients(folder, [(0.5, Coefficients(names, names, w, w))], along_path=True)
    path.rename(folder / "out.csv")


def metrics(names, folder):
    with Table(folder / "out.csv", names) as rows:
        rows.add(dict.fromkeys(names, 0.5))


def summary(names, folder):
    runs = [Run(name, "failed", name, {"x": 1}, {"seed": 1, name: name}, seed=name) for name in names]
    text = summary_table(runs, [run.folder for run in runs])
    (folder / "out.csv").write_text(text, newline="")


@pytest.mark.parametrize("write", [predictions, coefficients, metrics, summary])
def test_no_name_is_a_formula_in_any_csv(write, tmp_path):
    write([*FORMULAS, *PLAIN], tmp_path)
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        cells = {cell for row in csv.reader(file) for cell in row}
    assert not [cell for cell in cells if re.match(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]", cell)]
    assert any("=cmd" in cell for cell in cells)
    words = {" ".join(cell.removeprefix("'").split()) for cell in cells}
    assert words >= {" ".join(name.removeprefix("'").split()) for name in PLAIN}


def test_numbers_among_the_names_stay_what_they_are(tmp_path):
    few = model(classes=(-3, 0, 10**20))
    a = np.array([[-0.1, 1 / 3, 5e-324], [0.1 + 0.2, 1e300, -0.0]])
    write_predictions(tmp_path / "a.csv", few, a)
    head, *rows = csv.reader((tmp_path / "a.csv").read_text().splitlines())
    assert head == ["prediction", "probability_-3", "probability_0", f"probability_{10**20}"]
    assert [row[0] for row in rows] == ["0", "0"]
    assert np.array([[float(cell) for cell in row[1:]] for row in rows]).tobytes() == a.tobytes()
    write_predictions(tmp_path / "b.csv", few, -a)
    assert (tmp_path / "b.csv").read_text().splitlines()[1].startswith("-3,0.1,")


@pytest.mark.processes
@pytest.mark.parametrize("name", ["HYDRA_FULL_ERROR", "HYDRA_INSTANTIATE_ALLOWLIST_OVERRIDE"])
def test_no_variable_makes_a_rule_weaker(tmp_path, name):
    outcome = command(
        "+hydra.callbacks.x._target_=os.system", f"+hydra.callbacks.x.command={TOUCH}", cwd=tmp_path, **{name: "1"}
    )
    assert_refused(outcome, 2, ["names code to run"], tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.processes
def test_the_real_command_refuses_as_the_one_in_this_process_does(tmp_path):
    for word in ("-m hydra.sweeper._target_=os.system seed=1,2", "loss=[ce,brier]", "--experimental-rerun x.pickle"):
        outcome = command(*word.split(), cwd=tmp_path)
        assert_refused(outcome, 2, [], tmp_path)


def test_a_secret_of_the_environment_stays_unread_in_what_is_kept(call, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("SECRET", "data.csv")
    Path("data.csv").write_text("a,b,y\n" + "".join(f"{n},{n * n % 7},{n % 2}\n" for n in range(20)))
    assert call("data=file", "data.path=${oc.env:SECRET}", "data.target=y", "batch_size=4", *SHORT).code == 0
    (record,) = Path("outputs").rglob("run.json")
    assert json.loads(record.read_text())["config"]["data"]["path"] == "${oc.env:SECRET}"


def test_a_sound_model_passes_the_same_door(call, tmp_path):  # noqa: F811
    model().save(Path("model.npz"))
    write_csv("new.csv", "abcd", [[1, 2, 3, 4]])
    assert call("model=model.npz", "data.path=new.csv", "output=out.csv", name="predict").code == 0


def test_a_model_that_unpacks_to_much_is_refused_unread(tmp_path, monkeypatch):
    path = tmp_path / "model.npz"
    path.write_bytes(lying_bomb("w"))
    with pytest.raises(DataError, match="is not a model of ours"):
        Model.load(path)
