"""README and docs/ tell the truth of today: commands and Python run, tables and links are what there is."""

import re
import runpy
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
from trainer.commands import COMMANDS
from trainer.data.columns import Columns
from trainer.data.files import read
from trainer.data.sources import Iris
from trainer.errors import DataError
from trainer.objective.metrics import METRICS

ROOT = Path(__file__).parents[1]
PATHS = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in PATHS}
README, VOCABULARY = PAGES["README.md"], PAGES["docs/vocabulary.md"]
OPTIONS = [(path.parent.name, path.stem) for path in (ROOT / "conf").glob("*/*.yaml")]
PLAIN_KEYS = re.findall(r"^(\w+): ([^#\n]+)", (ROOT / "conf/config.yaml").read_text(encoding="utf-8"), re.MULTILINE)
SHOP = "customer,joined,colour,age,w,churn\n" + "".join(
    f"C{n:02},2020-{1 + n % 12:02}-01,{['red', 'green', 'blue'][n % 3]},{'' if n % 10 == 4 else n % 50},{1 + n % 2},"
    f"{['no', 'yes'][n * n % 7 < 3]}\n"
    for n in range(60)
)


def blocks(text, language):
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def lines(text):
    return [line for block in blocks(text, "bash") for line in block.splitlines()]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working folder, with the files that the commands name."""
    monkeypatch.chdir(tmp_path)
    iris = Iris()(0)
    rows = [[*values, iris.classes[label]] for values, label in zip(iris.x.tolist(), iris.y, strict=True)]
    lines = [[f"part{d}" for d in range(4)] + ["species"], *rows]
    for name in ("flowers.csv", "new.csv"):
        (tmp_path / name).write_text("\n".join(",".join(map(str, line)) for line in lines))
    (tmp_path / "shop.csv").write_text(SHOP)
    (tmp_path / "layers").mkdir()
    for number in range(3):
        np.save(tmp_path / f"layers/layer{number}.npy", iris.x[:, : number + 2].astype(np.float32))
    np.save(tmp_path / "labels.npy", iris.y)
    columns = dict(zip(lines[0], map(list, zip(*rows, strict=True)), strict=True))
    table = pyarrow.table(columns)
    parquet.write_table(table, tmp_path / "flowers.parquet")
    for name, part in (("2023/a", table[::3]), ("2024/a", table[1::3]), ("2024/b", table[2::3])):
        (tmp_path / f"parts/year={name}").parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(part, tmp_path / f"parts/year={name}.parquet")


@pytest.mark.usefixtures("folder")
def test_what_is_said_of_columns_is_what_the_page_shows():
    page = PAGES["docs/data.md"]
    with pytest.raises(DataError) as refused:
        read("shop.csv", "churn", asked=Columns(weight="w"))
    assert f"{refused.value}\n" in blocks(page, "text")
    for line in next(block for block in blocks(page, "text") if block.startswith("comma.csv")).splitlines():
        name, cell = line.partition(":")[0], re.search("'(.*?)' in column", line)[1]
        Path(name).write_text(f'a,y\n1,0\n"{cell}",1\n')
        with pytest.raises(DataError, match=f"^{re.escape(line)}$"):
            read(name, "y")


@pytest.mark.processes
@pytest.mark.usefixtures("call", "folder")  # call tidies up what a command in this process leaves
@pytest.mark.parametrize("page", [page for page, text in PAGES.items() if "\npython -m " in text])
def test_every_command_of_a_page_runs(page, monkeypatch, capsys):
    for command in lines(PAGES[page]):
        words = shlex.split(command)
        module = words[2] if words[:2] == ["python", "-m"] else words[0]
        if module.split(".")[0] != "trainer":
            continue
        monkeypatch.setattr(sys, "argv", words[words.index(module) :])
        with pytest.raises(SystemExit) as stop:
            runpy.run_module(module, run_name="__main__")
        done = capsys.readouterr()
        assert stop.value.code == 0, f"{command}\n{done.err}"


TIME = r"\d+ us|\d+ times"
NUMBER = r"\d+(?:\.\d+)?(?:e[+-]\d+)?"


def test_the_readme_shows_what_the_answer_to_the_question_prints_today(call):  # noqa: F811
    shown, printed = (re.sub(TIME, "", text) for text in (blocks(README, "text")[0], call("experiment=question").out))
    words = [re.sub(NUMBER, "", text).split() for text in (shown, printed)]
    assert words[0] == words[1]
    numbers = [np.array(re.findall(NUMBER, text), float) for text in (shown, printed)]
    assert_allclose(*numbers, rtol=0.5, atol=1e-15)  # processors round differently, and so do libraries take memory


def test_the_python_of_the_readme_runs_and_finds_what_it_says(tmp_path, monkeypatch):
    (example,) = blocks(README, "python")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(example, names)  # a warning is an error here, so every solver has converged
    x, y = load_iris(return_X_y=True)
    peer = LogisticRegression(C=1.0, solver="newton-cholesky", tol=1e-12, max_iter=1000).fit(x, y)
    assert_allclose(names["probabilities"], peer.predict_proba(x), atol=1e-6)
    assert_array_equal(SoftmaxRegression.load("model.npz").predict(x), names["model"].predict(x))
    assert (names["sparse"].predict_proba(x) == 0).any()
    assert np.mean(names["mild"].predict(x) == y) > 0.5


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("page", [page for page, text in PAGES.items() if page != "README.md" and "```python" in text])
def test_the_python_of_a_page_runs(page, tmp_path):
    for number, example in enumerate(blocks(PAGES[page], "python")):
        path = tmp_path / f"example{number}.py"
        path.write_text(example)
        runpy.run_path(str(path))


def test_make_run_and_make_test_are_the_two_commands():
    assert [line.split("  ")[0] for line in lines(README)[:2]] == ["make run", "make test"]
    for target in ("run", "test"):
        subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)
    overrides = re.search(r'`make run ARGS="([^"]*)"`', README)[1]
    dry = subprocess.run(
        ["make", "--dry-run", "run", f"ARGS={overrides}"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert f"-m trainer activation=softmax loss=ce {overrides}" in dry.stdout


def keys_of(group, option):
    """The keys of an option as the vocabulary shows them, `key=default`, or `key` where there is none in a word."""
    text = (ROOT / "conf" / group / f"{option}.yaml").read_text(encoding="utf-8")
    pairs = [(key, value.strip()) for key, value in re.findall(r"^ *(\w+):([^#\n]*)", text, re.MULTILINE)]
    plain = [key if value in ("", "???") else f"{key}={value}" for key, value in pairs if key not in ("name", option)]
    return " ".join(f"`{key}`" for key in plain)


@pytest.mark.parametrize("group", dict.fromkeys(group for group, _ in OPTIONS if group != "job_logging"))
def test_the_vocabulary_has_every_option_with_its_keys_and_their_defaults(group):
    section = re.search(rf"^## {group}\n(.*?)^## ", VOCABULARY, re.DOTALL | re.MULTILINE)[1]
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]*?) ?\|", section, re.MULTILINE))
    assert rows == {option: keys_of(group, option) for kind, option in OPTIONS if kind == group}


@pytest.mark.parametrize(("key", "value"), PLAIN_KEYS)
def test_the_vocabulary_has_every_plain_key_with_its_default(key, value):
    assert f"\n| `{key}={value.strip()}` | " in VOCABULARY.partition("## Plain keys")[2]


def test_the_vocabulary_has_every_metric_and_every_command():
    metrics = VOCABULARY.partition("## metrics")[2]
    assert set(re.findall(r"^\| `(\w+)`", metrics, re.MULTILINE)) == set(METRICS)
    assert [name for name in COMMANDS if f"`trainer {name}`" not in VOCABULARY] == []


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md"])
def test_every_link_leads_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)]*)\)", text):
        name, _, heading = target.partition("#")
        there = ROOT / page if not name else (ROOT / page).parent / name
        assert there.is_file(), target
        if name.endswith(".png"):
            assert there.read_bytes().startswith(b"\x89PNG")
        elif heading:
            titles = re.findall(r"^#+ (.*)$", there.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in [re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles], target


def test_every_page_is_linked_from_the_readme_and_says_first_what_it_is_for():
    for page, text in PAGES.items():
        if page != "README.md":
            assert f"({page})" in README
            assert re.match(r"# [^\n]+\n\nThis page is for ", text), page
    assert len(README.splitlines()) < 130


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
