"""The README tells the truth of today: its commands and its Python run, and its vocabulary is the program's."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from pyarrow import parquet
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from tests.test_command_line import call  # noqa: F401 - a fixture
from trainer import SoftmaxRegression
from trainer.data.sources import Iris

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LINES = [line for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL) for line in block.splitlines()]
COMMANDS = [line for line in LINES if line.startswith("python -m ")]
OPTIONS = [(path.parent.name, path.stem) for path in (ROOT / "conf").glob("*/*.yaml")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working folder with the files that the commands name."""
    here = tmp_path_factory.mktemp("readme")
    iris = Iris()(0)
    rows = [[*values, iris.classes[label]] for values, label in zip(iris.x.tolist(), iris.y, strict=True)]
    lines = [[f"part{d}" for d in range(4)] + ["species"], *rows]
    for name in ("flowers.csv", "new.csv"):
        (here / name).write_text("\n".join(",".join(map(str, line)) for line in lines))
    columns = dict(zip(lines[0], map(list, zip(*rows, strict=True)), strict=True))
    parquet.write_table(pyarrow.table(columns), here / "flowers.parquet")
    return here


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_readme_runs(command, folder, call, monkeypatch):  # noqa: F811
    module, *words = shlex.split(command)[2:]
    monkeypatch.chdir(folder)
    if module != "trainer":
        subprocess.run([sys.executable, "-m", module, *words], check=True, capture_output=True, timeout=60)
        return
    done = call(*words)
    assert done.code == 0, done.err
    if "flowers.csv" in command:  # the model of the next command
        (model,) = re.findall(r"outputs/\S+/model\.npz", done.out)
        (folder / model).rename(folder / "model.npz")


def test_the_python_of_the_readme_runs_and_finds_what_it_says(tmp_path, monkeypatch):
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(example, names)  # a warning is an error here, so every solver has converged
    x, y = load_iris(return_X_y=True)
    peer = LogisticRegression(C=1.0, solver="newton-cholesky", tol=1e-12, max_iter=1000).fit(x, y)
    assert_allclose(names["probabilities"], peer.predict_proba(x), atol=1e-6)
    assert_array_equal(SoftmaxRegression.load("model.npz").predict(x), names["model"].predict(x))
    assert (names["sparse"].predict_proba(x) == 0).any()
    assert np.mean(names["mild"].predict(x) == y) > 0.5


def test_make_run_and_make_test_are_the_two_commands():
    assert [line.split("  ")[0] for line in LINES[:2]] == ["make run", "make test"]
    for target in ("run", "test"):
        subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)
    overrides = re.search(r'`make run ARGS="([^"]*)"`', README)[1]
    dry = subprocess.run(
        ["make", "--dry-run", "run", f"ARGS={overrides}"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert f"-m trainer activation=softmax loss=ce {overrides}" in dry.stdout


@pytest.mark.parametrize(("group", "option"), [pair for pair in OPTIONS if pair[0] != "job_logging"])
def test_the_vocabulary_names_every_option(group, option):
    rows = re.findall(rf"^\| `{group}` \| (.*) \|$", README.partition("## The vocabulary")[2], re.MULTILINE)
    assert f"`{option}`" in rows[0]


@pytest.mark.parametrize("picture", re.findall(r"!\[[^]]*\]\(([^)]*)\)", README))
def test_every_picture_is_there(picture):
    assert (ROOT / picture).read_bytes().startswith(b"\x89PNG")


def test_a_contributors_files_are_those_that_exist():
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (?:`(\w+)/` )?\|.*\| (.*) \|$", contributing, re.MULTILINE)
    assert {room for room, _ in rows} == {"", *(path.parent.name for path in (ROOT / "trainer").glob("*/__init__.py"))}
    for room, text in rows:
        files = set(re.findall(r"`(\w+(?:\.py|/))`", text))
        folder = ROOT / "trainer" / room
        there = {path.name for path in folder.glob("*.py")} | {
            f"{path.parent.name}/" for path in folder.glob("*/__init__.py")
        }
        assert files == (there - {"__init__.py"} if room else {"arrays.py", "errors.py"}), room
