"""python -m trainer.explain: the numbers that it prints, the picture that it draws, and what it refuses."""

import inspect
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.mathtext import MathTextParser
from numpy.testing import assert_allclose, assert_array_equal

from tests.conftest import PAIRS, pair_id
from tests.test_command_line import assert_refused, call  # noqa: F401
from tests.test_plots import ink
from trainer.chain.activations import ACTIVATIONS, Identity, Sigmoid, Softmax
from trainer.chain.fused import FUSED
from trainer.chain.losses import LOSSES, BinaryCrossEntropy, CrossEntropy, FenchelYoung, SquaredError
from trainer.chain.strategies import GRADIENTS, jacobian
from trainer.commands.explain import GREEK, number, scores, slide, steps_of, targets, text, typeset

Z = [[2.0, 1.0, -1.0], [0.5, 0.0, 1.5]]
LARGE = np.random.default_rng(5).normal(scale=8, size=(6, 8)).round(2).tolist()


@pytest.fixture
def explain(call):  # noqa: F811
    """python -m trainer.explain in this process."""
    return lambda *arguments: call(*arguments, name="explain")


def steps(activation, loss, z=Z, y=None):
    z = scores(z)
    return steps_of(activation, loss, z, targets(y, z))


def printed(out):
    """The tables of the text by title, put together again where their columns did not fit side by side."""
    tables, title = {}, ""
    for line in out.splitlines():
        if re.match(r"  [nj]=\d ", line):
            label, *numbers = line.split()
            tables[title].setdefault(label, []).extend(map(float, numbers))
        elif line and not line.startswith(" "):
            title = line
            tables[title] = {}
    return {title: np.array(list(rows.values())) for title, rows in tables.items() if rows}


@pytest.mark.parametrize("pair", PAIRS, ids=pair_id)
def test_every_pair_prints_what_the_strategies_give(pair):
    found = steps(*pair)
    out = text(found)
    assert max(map(len, out.splitlines())) <= 80
    tables = printed(out)
    generic = jacobian(*pair, found.z, found.y)
    assert_allclose(tables[f"dl_dz by {found.strategy}"], generic.dl_dz, rtol=6e-3, atol=1e-12)
    route, direct = (
        tables["einsum('nj,njk->nk', dl_da, da_dz)"],
        tables.get("+ direct part, not through a", 0 * found.z),
    )
    assert (abs(route + direct - generic.dl_dz) <= 6e-3 * (abs(route) + abs(direct)) + 1e-12).all()
    assert_allclose(tables["a"], pair[0](found.z), rtol=6e-3)
    assert_allclose(tables["dl_da"], pair[1].grad(pair[0](found.z), found.y), rtol=6e-3)
    for n, da_dz in enumerate(pair[0].jacobian(found.z, pair[0](found.z))):
        assert_allclose(tables[f"da_dz[{n}]"], da_dz, rtol=6e-3)
    assert_array_equal(tables["z"], Z)
    (largest,) = re.findall(r"largest absolute difference: (\S+)", out)
    assert_allclose(float(largest), found.difference(), rtol=6e-3)
    assert found.difference() < 1e-12


def test_columns_that_do_not_fit_in_80_follow_below():
    out = text(steps(Softmax(temperature=0.1), CrossEntropy(), LARGE))
    assert max(map(len, out.splitlines())) <= 80
    tables = printed(out)
    assert {table.shape for table in tables.values()} == {(6, 8), (8, 8)}
    assert_allclose(tables["a"], Softmax(temperature=0.1)(np.array(LARGE)), rtol=6e-3)


@pytest.mark.parametrize("name", ["activation", "loss", "fused"])
def test_the_formulas_of_the_pair_are_told(name):
    wanted = {"activation": Sigmoid.__doc__, "loss": BinaryCrossEntropy.__doc__, "fused": "dl_dz = a - y"}[name]
    assert dict(steps(Sigmoid(), BinaryCrossEntropy()).formulas())[name].startswith(re.split("\n\n|  ", wanted)[0])


@pytest.mark.parametrize(
    ("value", "letters"),
    [
        (0.0, "0"),
        (-0.0, "0"),
        (1.0, "1.00"),
        (0.9996, "1.00"),
        (-0.05, "-0.0500"),
        (0.001234, "0.00123"),
        (1.234e-4, "1.23e-4"),
        (-99.96, "-100"),
        (1234.5, "1234"),
        (123456.0, "1.23e5"),
        (5e-324, "4.94e-324"),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        (math.nan, "nan"),
    ],
)
def test_numbers_have_three_digits_and_few_letters(value, letters):
    assert number(value) == letters


@pytest.mark.parametrize("rows", [[2, 0], [[0, 0, 1], [1, 0, 0]], [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]])
def test_labels_and_one_hot_rows_are_the_same(rows):
    assert_array_equal(targets(rows, scores(Z)), [[0, 0, 1], [1, 0, 0]])


def test_one_row_may_be_flat():
    z = scores([1, 2.5, 3])
    assert_array_equal(z, [[1, 2.5, 3]])
    assert_array_equal(targets([1], z), [[0, 1, 0]])
    assert_array_equal(targets([0.5, 0, 0.5], z), [[0.5, 0, 0.5]])


def test_labels_go_around_the_classes_where_none_are_given():
    assert_array_equal(targets(None, np.zeros((3, 2))), [[1, 0], [0, 1], [1, 0]])


def test_a_contraction_that_is_not_finite_is_said_to_be():
    found = steps(Softmax(), CrossEntropy(), [1000, 0, -1000], [1])
    out = text(found)
    assert "jacobian starts from dl_da, which is not finite here; fused does not." in out
    assert "difference" not in out
    assert_array_equal(printed(out)["dl_dz by fused"], [[1, -1, 0]])
    assert np.isnan(found.difference())


def test_scores_that_are_too_much_for_every_strategy_are_said_to_be():
    found = replace(steps(Softmax(), CrossEntropy(), [1000, 0, -1000], [1]), dl_dz=np.array([[np.nan, 1, 0]]))
    assert "dl_da is not finite here, and neither is dl_dz by fused" in " ".join(text(found).split())


def test_the_part_that_does_not_pass_through_a_stands_apart():
    found = steps(Softmax(), FenchelYoung())
    assert_allclose(printed(text(found))["+ direct part, not through a"], found.a - found.y, rtol=6e-3)


def overlaps(figure):
    """Pairs of texts whose boxes meet, and texts that leave the picture."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    texts = [*figure.texts]
    for axes in figure.axes:
        texts += [*axes.texts, *axes.get_xticklabels(), *axes.get_yticklabels()]
    boxes = [(words.get_text(), words.get_window_extent(renderer)) for words in texts]
    width, height = figure.canvas.get_width_height()
    outside = [name for name, box in boxes if box.x0 < 0 or box.y0 < 0 or box.x1 > width or box.y1 > height]
    corners = np.array([[box.x0, box.y0, box.x1, box.y1] for _, box in boxes])
    low, high = corners[:, None, :2] + 0.5, corners[:, None, 2:] - 0.5  # touching by half a pixel is no overlap
    meet = ((low < high.swapaxes(0, 1)) & (low.swapaxes(0, 1) < high)).all(axis=2)
    return outside + [(boxes[i][0], boxes[j][0]) for i, j in np.argwhere(np.triu(meet, 1))]


WIDEST = [max(table.values(), key=lambda cls: len(cls.__doc__.split("\n")[0])) for table in (ACTIVATIONS, LOSSES)]


@pytest.mark.parametrize("k", [2, 3, 8])
@pytest.mark.parametrize("n", [1, 2, 4, 6])
def test_no_text_meets_another(n, k, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    z = -np.array(LARGE)[:n, :k] * [1e-6, 1e3, *[1] * 6][:k]
    found = steps_of(Softmax(), FenchelYoung(), z, targets(None, z))
    monkeypatch.setattr(
        type(found), "formulas", lambda _: [(n, c.__doc__.split("\n")[0]) for n, c in zip("ab", WIDEST, strict=True)]
    )
    slide(tmp_path / "explain.png", found)
    assert overlaps(drawn[0]) == []


@pytest.mark.parametrize(
    ("pair", "z"),
    [
        ((Softmax(), CrossEntropy()), Z),
        ((Sigmoid(), BinaryCrossEntropy()), LARGE),
        ((Identity(), SquaredError()), [0, 0]),
    ],
    ids=["default", "6x8", "zeros"],
)
def test_the_picture_is_a_slide_with_ink(pair, z, tmp_path):
    path = slide(tmp_path / "explain.png", steps(*pair, z))
    assert imread(path).shape[:2] == (1080, 1920)
    assert 0.02 < ink(path) < 0.6


def test_the_default_leaves_one_picture_and_says_where(explain, tmp_path):
    outcome = explain()
    assert outcome.code == 0
    path = outcome.out.splitlines()[-1]
    assert re.fullmatch(r"outputs/\d{4}-\d\d-\d\d/[\d-]+/explain\.png", path)
    assert [found.relative_to(tmp_path).as_posix() for found in tmp_path.rglob("*.*")] == [path]
    assert_allclose(printed(outcome.out)["dl_dz by fused"], steps(Softmax(), CrossEntropy()).dl_dz, rtol=6e-3)


@pytest.mark.processes
def test_the_command_takes_options_a_batch_and_a_path(tmp_path):
    words = ["activation.temperature=0.5", "loss=brier", "z=[1,2,3]", "y=[2]", "output=in/slide.png"]
    done = subprocess.run(
        [sys.executable, "-m", "trainer.explain", *words], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Softmax(temperature=0.5) with Brier()")
    assert done.stdout.endswith("\nin/slide.png\n")
    assert [path.name for path in tmp_path.rglob("*.png")] == ["slide.png"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["z=[[1,2],[1]]"], ["rows of z must have one length", "2, 1"]),
        (["z=[[1,2],3]"], ["z must be rows of finite numbers"]),
        (["z=[[1,2],[1,a]]"], ["z must be rows of finite numbers", "'a'"]),
        (["z=[[1,2],[1,true]]"], ["z must be rows of finite numbers", "True"]),
        (["z=[[1,2],[1,nan]]"], ["z must be rows of finite numbers", "nan"]),
        (["z=[[1,2],[1,null]]"], ["z must be rows of finite numbers", "None"]),
        ([f"z=[1,{10**400}]"], ["z must be rows of finite numbers"]),
        (["z=abc"], ["z must be of type", "'abc'"]),
        (["z=[]"], ["2 to 8 classes", "got 1 of 0"]),
        (["z=[[1],[2]]"], ["2 to 8 classes", "got 2 of 1"]),
        (["z=[1,2,3,4,5,6,7,8,9]"], ["2 to 8 classes", "got 1 of 9"]),
        ([f"z={[[1, 2]] * 7}"], ["1 to 6 rows", "got 7 of 2"]),
        (["y=[0,3]"], ["2 labels from 0 to 2", "[0, 3]"]),
        (["y=[0,-1]"], ["2 labels from 0 to 2"]),
        (["y=[0]"], ["2 labels from 0 to 2", "[0]"]),
        (["y=[0.0,1.0]"], ["2 labels from 0 to 2"]),
        (["y=[a,b]"], ["2 labels from 0 to 2"]),
        (["y=[[1,0,0]]"], ["shape of z", "got 1 of 3"]),
        (["y=[[1,0,0],[0,1,-1]]"], ["y must not be negative"]),
        (["y=1"], ["y must be of type"]),
        (["activation=sigmoid", "z=[1]"], ["makes no sense"]),
        (["activation=sigmoid"], ["activation=sigmoid with loss=ce makes no sense"]),
        (["output=explain.pdf"], ["output must end with .png"]),
        (["colour=red"], ["colour"]),
    ],
    ids=lambda part: " ".join(part)[:30],
)
def test_what_cannot_be_shown_is_refused_in_a_sentence(explain, tmp_path, arguments, words):
    assert_refused(explain(*arguments), 2, words, tmp_path)


def test_a_folder_that_cannot_be_made_is_an_error_of_files(explain, tmp_path):
    Path("taken").touch()
    assert explain("output=taken/explain.png").code == 3


def test_help_names_every_option_and_key(explain):
    outcome = explain("--help")
    assert outcome.code == 0
    for word in [*ACTIVATIONS, *LOSSES, "z=", "y=", "output="]:
        assert word in outcome.out
    assert max(map(len, outcome.out.splitlines())) <= 120


def first_lines():
    """What the slide says of every activation, loss, closed form and strategy."""
    parts = [*ACTIVATIONS.values(), *LOSSES.values(), *FUSED.values(), *GRADIENTS.values()]
    return sorted({(inspect.getdoc(part) or "").split("\n")[0] for part in parts})


@pytest.mark.parametrize("line", first_lines())
def test_every_formula_can_be_typeset_and_no_word_becomes_one(line):
    shown = typeset(line)
    MathTextParser("agg").parse(shown)
    words = {
        word for word in re.findall(r"(?<![\w-])[a-z]{4,}(?![\w(^])", line) if word not in ("dlog", "tanh", "diag")
    }
    outside = " ".join(shown.split("$")[::2])
    assert {word for word in words if word not in outside} <= {"softmax", "sigmoid", "sign", *GREEK.split("|")}


@pytest.mark.parametrize(
    ("line", "mathtext"),
    [
        ("a_k = exp(z_k / T)", r"$a_k = \mathrm{exp}(z_k / T)$"),
        ("-sum_k y_k log a_k for each row.", r"$-\Sigma\,_k\,y_k\,\mathrm{log}\,a_k$ for each row."),
        ("y_k^alpha/(alpha-1) - a_k^(alpha-1)", r"$y_k^\alpha /(\alpha -1) - a_k^{\alpha -1}$"),
        ("dl_dz = <y, a>", r"$\mathrm{dl\_dz} = \langle\,y,\ a\rangle $"),
    ],
)
def test_formulas_are_set_in_mathtext(line, mathtext):
    assert typeset(line) == mathtext
