"""Variables, limits, the clock, names of folders, broken files: the same result as ever, or a sentence."""

import json
import os
import resource
import shlex
import shutil
import subprocess
import sys
import time

import pytest
from numpy.testing import assert_array_equal

import trainer.commands.composing
import trainer.runs.run
from tests.test_command_line import (  # noqa: F401 - call and listening are fixtures
    LIMIT,
    assert_refused,
    call,
    command,
    listening,
    only_run,
    without_seconds,
)
from trainer.errors import ConfigError
from trainer.runs.config import config_folder
from trainer.runs.model import Model
from trainer.runs.overrides import check_folder, tamed

SLOW = bool(os.environ.get("TRAINER_SLOW"))
SHORT = ["epochs=2", "data.samples=60", "plots=false"]


def assert_same(folder, plain):
    """The same rows and the same model, to the bit."""
    assert without_seconds(folder) == without_seconds(plain)
    assert_array_equal(*[Model.load(path / "model.npz").w for path in (folder, plain)])


def limited(arguments, cwd, limits=(), **options):
    """A process with these limits of resources, and its environment given whole."""

    def limit():
        for kind, value in limits:
            resource.setrlimit(kind, (value, value))

    pipes = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "timeout": LIMIT}
    return subprocess.run([sys.executable, *arguments], cwd=cwd, preexec_fn=limit, **pipes, **options)


STRICT = "import numpy, trainer.commands as m; numpy.seterr(all='raise'); m.main()"
BLAS = {key: value for key, value in os.environ.items() if key.startswith("OPENBLAS_")}  # its kernels change bits
ODD = BLAS | {"LANG": "C", "LC_ALL": "C", "OMP_NUM_THREADS": "0", "OPENBLAS_NUM_THREADS": "abc"}  # no HOME, TZ, PATH


@pytest.mark.processes
def test_neither_the_environment_nor_strict_warnings_nor_a_clock_that_jumps_back_change_a_result(
    call,  # noqa: F811
    tmp_path,
    monkeypatch,
):
    clock = iter(range(2_000_000_000, 0, -1000))
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: float(next(clock)))
        assert call(*SHORT, "hydra.run.dir=outputs/backwards").code == 0
    few = [(resource.RLIMIT_NOFILE, 32)]
    optimised = ["-O"] if SLOW else []  # for which all of site-packages is compiled anew
    strict = [*optimised, "-W", "error", "-c", STRICT, "hydra.run.dir=outputs/strict"]
    assert call(*SHORT, "hydra.run.dir=outputs/plain").code == 0
    done = limited([*strict, *SHORT], tmp_path, few, env=ODD)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    for name in ("backwards", "strict"):
        assert_same(tmp_path / "outputs" / name, tmp_path / "outputs" / "plain")


@pytest.mark.processes
def test_too_little_memory_is_a_sentence_and_no_hang(tmp_path):
    done = limited(["-m", "trainer", *SHORT], tmp_path, [(resource.RLIMIT_AS, 250 << 20)])  # OpenBLAS would hang
    sentence = "The limit of memory is 256000 KiB, too little to begin. Raise it: ulimit -v 2097152.\n"
    assert (done.returncode, done.stderr) == (3, sentence)


def test_an_array_beyond_all_memory_is_a_sentence(call):  # noqa: F811
    outcome = call("experiment=question", "experiment.samples=1000000000000000")
    assert outcome.code == 3
    assert outcome.err.startswith("Unable to allocate 14.2 PiB")
    assert outcome.err.endswith("raise its limit (ulimit -v), or take less at once by batch_size.\n")


def test_a_device_without_room_is_a_sentence(call, monkeypatch):  # noqa: F811
    def no_room(*given, **named):
        raise type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory. Tried to allocate 5.00 GiB. GPU 0 has")

    monkeypatch.setattr("trainer.runs.run.run", no_room)
    outcome = call("device=cpu")
    assert outcome.code == 3
    assert outcome.err.startswith("CUDA out of memory. Tried to allocate 5.00 GiB.")
    assert outcome.err.endswith("Take dtype=float32, fewer rows, a batch_size, or device=cpu.\n")


def test_a_working_folder_that_is_gone_is_a_sentence(call, tmp_path, monkeypatch):  # noqa: F811
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    outcome = call(*SHORT)
    monkeypatch.chdir(tmp_path)
    assert_refused(outcome, 3, ["The working folder no longer exists. Change to one that does."], tmp_path)


INTERRUPTED = """
import os, runpy, signal, sys, threading, time
command, module = sys.argv.pop(1), sys.argv.pop(1)
def interrupt():
    while module not in sys.modules:
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=interrupt).start()
runpy.run_module(command, run_name="__main__", alter_sys=True)
"""


@pytest.mark.processes
@pytest.mark.usefixtures("listening")
@pytest.mark.parametrize(
    ("command", "module"),
    [
        *[("trainer", module) for module in ("hydra", "yaml", "numpy")],
        *[(f"trainer.{name}", "numpy") for name in ("predict", "explain", "report", "check")],
        ("trainer.sweep", "hydra"),
    ],
)
def test_ctrl_c_while_a_module_is_loaded_is_no_traceback(tmp_path, command, module):  # noqa: F811
    done = limited(["-c", INTERRUPTED, command, module, "epochs=1000000", "plots=false"], tmp_path)
    assert (done.returncode, done.stderr) == (130, "Interrupted.\n")


@pytest.fixture
def written(tmp_path, monkeypatch):
    """A copy of conf/ for the command in this process, in which a file can be changed: conf/<name> by the function."""

    def change(name, new):
        shutil.copytree(config_folder(), tmp_path / "conf")
        path = tmp_path / "conf" / name
        path.write_bytes(new(path.read_bytes()))
        monkeypatch.setattr(trainer.commands.composing, "config_folder", lambda: tmp_path / "conf")

    return change


BROKEN = {
    "duplicate key": (lambda text: b"name: sgd\nlr: 1\nlr: 2\n", ["conf/optimizer/sgd.yaml:3", "duplicate key lr"]),
    "tab": (lambda text: b"name: sgd\n\tlr: 1\n", ["conf/optimizer/sgd.yaml:2", r"'\t'"]),
    "latin-1": (lambda text: text + "# größe\n".encode("latin-1"), ["conf/optimizer/sgd.yaml:5", "UTF-8"]),
    "empty": (lambda text: b"", ["optimizer has no key name", "conf/optimizer/ empty"]),
    "list": (lambda text: b"- sgd\n", ["optimizer must be of type dict", "'sgd'"]),
    "yes": (lambda text: b"name: sgd\nlr: yes\n", ["optimizer.lr must be of type float, got True"]),
}


@pytest.mark.parametrize("flags", [[], ["-m", "seed=1,2"]], ids=["run", "sweep"])
@pytest.mark.parametrize(("new", "words"), BROKEN.values(), ids=BROKEN)
def test_a_broken_file_of_conf_is_named_with_its_line(call, written, tmp_path, new, words, flags):  # noqa: F811
    written("optimizer/sgd.yaml", new)
    assert_refused(call(*flags, *SHORT), 2, words, tmp_path)


def test_numbers_that_yaml_reads_in_its_own_way_are_shown_and_kept_as_they_were_read(call, written, tmp_path):  # noqa: F811
    written("optimizer/sgd.yaml", lambda text: b"name: sgd\nlr: 010\nmomentum: 0\nnesterov: no\n")
    outcome = call(*SHORT)
    assert "Sgd(lr=8.0, momentum=0.0, nesterov=False)" in outcome.out
    content = json.loads((only_run(tmp_path) / "run.json").read_text())
    assert content["config"]["optimizer"] == {"name": "sgd", "lr": 8, "momentum": 0, "nesterov": False}


@pytest.mark.parametrize("name", ["😀", "a b", "größe", "n" * 80, "${now:%Y-%m-%d}"])
def test_a_folder_may_have_any_name_that_can_be_shown(call, tmp_path, name):  # noqa: F811
    assert call("epochs=0", "plots=false", f'hydra.run.dir="outputs/{name}/x"').code == 0
    assert only_run(tmp_path).name == "x"


@pytest.mark.parametrize(
    ("name", "words"), [("n" * 300, "300 bytes"), ("a\nb", "cannot be shown"), ("CON", "on Windows")], ids=ascii
)
@pytest.mark.parametrize("flags", [["hydra.run.dir="], ["-m", "seed=1,2", "hydra.sweep.dir="]], ids=["run", "sweep"])
def test_a_folder_whose_name_comes_of_a_setting_is_refused_like_any_other(
    call,  # noqa: F811
    tmp_path,
    monkeypatch,
    flags,
    name,
    words,
):
    monkeypatch.setenv("NAME", name)
    *first, key = flags
    assert_refused(call(*first, f"{key}outputs/${{oc.env:NAME}}", *SHORT), 2, [words], tmp_path)


@pytest.mark.processes
@pytest.mark.parametrize("launcher", ["workers", "basic"])
def test_folders_of_jobs_that_are_named_by_settings_have_names_for_every_system(call, tmp_path, launcher):  # noqa: F811
    long = [*SHORT, "data.spread=1.5", "data.classes=2", "optimizer.momentum=0.5", "valid_fraction=0.25"]
    named = ["hydra.sweep.subdir='${hydra.job.override_dirname}'", f"hydra/launcher={launcher}"]
    assert call("-m", "seed=1,2", *long, *named, "hydra.sweep.dir=outputs/here").code == 0
    folders = sorted(path for path in (tmp_path / "outputs/here").iterdir() if path.is_dir())
    assert len(folders) == 2
    for folder, seed in zip(folders, (1, 2), strict=True):
        assert len(folder.name.encode()) == 80
        assert folder.name.startswith("data_classes=2,data_samples=60,data_spread=1_5,")
        assert json.loads((folder / "run.json").read_text())["seed"] == seed
    page = json.loads((folder.parent / "sweep.json").read_text())
    assert {job["status"] for job in page["jobs"]} == {"finished"}
    assert named[0] in shlex.split(page["command"])


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[31m", "a\u202eb", "nul", "aux.txt", "a:b", "a. ", "é" * 41, "x" * 300])
def test_a_name_is_tamed_once_and_stays_apart_from_others(name):
    tame = tamed(name)
    assert tame == tamed(tame) == tamed(name) != name
    check_folder("folder", tame)
    assert tamed(f"../{name}/ok") == f"../{tame}/ok"
    assert tamed(name + "!") != tame


def test_a_drive_is_no_fault_of_a_folder():
    check_folder("hydra.run.dir", "C:/runs/1")
    with pytest.raises(ConfigError, match="on Windows"):
        check_folder("hydra.run.dir", "runs/C:/1")


@pytest.mark.parametrize("name", ["lr=0.1,seed=3", "größe", "😀", "..", ".", "a/b.c"])
def test_a_name_for_every_system_stays(name):
    assert tamed(name) == name
