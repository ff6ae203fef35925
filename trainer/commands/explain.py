"""``python -m trainer.explain activation=... loss=...``: every step from z to dl_dz in numbers, and on one slide."""

import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from omegaconf import DictConfig

from trainer.arrays import Array, one_hot
from trainer.chain.activations import ACTIVATIONS, Activation
from trainer.chain.fused import FUSED
from trainer.chain.losses import LOSSES, Loss
from trainer.chain.strategies import GRADIENTS, fastest
from trainer.commands.composing import perform
from trainer.errors import require
from trainer.objective.refusals import check_pair
from trainer.runs.config import read_settings
from trainer.runs.outputs import shorter, write_whole, writing
from trainer.runs.schema import build

ROWS, CLASSES = 6, 8  # the most that one slide shows in letters that can be read
COLUMNS = 80  # of a terminal

Table = tuple[str, str, Array]  # title, the letters of its rows and columns, numbers

HELP = f"""Shows how a pair gets from the scores z to the gradient dl_dz, in numbers and as one picture for a slide.

Printed and drawn: the formulas, z, y, a, dl_da, the Jacobian da_dz of each row, their contraction
einsum('nj,njk->nk', dl_da, da_dz), the pair's fastest strategy beside it, and the largest difference of the two.

Choices, as choice=option, and choice.key=value for the keys of an option:
  activation   {textwrap.fill(", ".join(sorted(ACTIVATIONS)), 100, subsequent_indent=" " * 15)}
  loss         {textwrap.fill(", ".join(sorted(LOSSES)), 100, subsequent_indent=" " * 15)}

Keys:
  z=[[2,1,-1],[0.5,0,1.5]]   scores: up to {ROWS} rows of 2 to {CLASSES} classes; a flat list is one row
  y=null                     a label for each row, or rows like those of z; null is 0, 1, 2, ... around the classes
  output=...                 the PNG to write; explain.png in outputs/<date>/<time>/ unless given

Examples:
  python -m trainer.explain activation=softmax loss=ce
  python -m trainer.explain activation=sigmoid loss=bce "z=[[2,-1],[0,3]]" "y=[[1,0],[1,1]]"
  python -m trainer.explain activation.temperature=0.5 loss=brier "z=[1,2,3]" "y=[2]" output=slide.png"""


@dataclass(frozen=True)
class ExplainSettings:
    """The root of conf/explain.yaml."""

    activation: dict[str, Any]
    loss: dict[str, Any]
    z: list[list[float]] | list[float]
    output: str
    y: list[list[float]] | list[int] | None = None

    def __post_init__(self) -> None:
        require(self.output.lower().endswith(".png"), f"output must end with .png, got {self.output!r}.")


@dataclass(frozen=True)
class Steps:
    """All that lies between z and dl_dz (N,K), for one pair and one batch."""

    activation: Activation
    loss: Loss
    strategy: str  # the fastest exact one
    z: Array
    y: Array
    a: Array
    dl_da: Array
    da_dz: Array  # (N,K,K)
    contraction: Array
    direct: Array | None  # (N,K), the part of the loss that does not pass through a
    values: Array  # (N,), of the strategy
    dl_dz: Array

    def difference(self) -> float:
        """The largest deviation of the chain rule by contraction from the strategy; nan if one is not finite."""
        with np.errstate(all="ignore"):
            chain = self.contraction if self.direct is None else self.contraction + self.direct
            largest = float(np.abs(chain - self.dl_dz).max())
        return largest if np.isfinite(largest) else float("nan")

    def verdict(self) -> str:
        """What the comparison says, in a sentence."""
        if not np.isnan(self.difference()):
            return f"largest absolute difference: {number(self.difference())}"
        at = next((name for name in ("dl_da", "da_dz") if not np.isfinite(getattr(self, name)).all()), "a sum")
        if np.isfinite(self.dl_dz).all():
            return f"jacobian starts from {at}, which is not finite here; {self.strategy} does not."
        return f"{at} is not finite here, and neither is dl_dz by {self.strategy}; take scores nearer to each other."

    def formulas(self) -> list[tuple[str, str]]:
        """The first docstring lines of the activation, the loss and the strategy or its formula for the pair."""
        by = FUSED.get((type(self.activation), type(self.loss)), GRADIENTS[self.strategy])
        parts = [("activation", self.activation), ("loss", self.loss), (self.strategy, by)]
        return [(name, (inspect.getdoc(part) or "").split("\n")[0].replace("  ", " ")) for name, part in parts]

    def tables(self) -> tuple[list[Table], list[Table], list[Table]]:
        """The batch, its Jacobians, and the routes to dl_dz, which are the point of it all."""
        batch = [("z", "nk", self.z), ("y", "nj", self.y), ("a", "nj", self.a), ("dl_da", "nj", self.dl_da)]
        jacobians = [(f"da_dz[{n}]", "jk", da_dz) for n, da_dz in enumerate(self.da_dz)]
        routes = [("einsum('nj,njk->nk', dl_da, da_dz)", "nk", self.contraction)]
        if self.direct is not None:
            routes.append(("+ direct part, not through a", "nk", self.direct))
        return batch, jacobians, [*routes, (f"dl_dz by {self.strategy}", "nk", self.dl_dz)]


def explain(config: DictConfig) -> None:
    """Checks the batch, prints the steps and draws them."""
    settings = read_settings(config, ExplainSettings)
    activation: Activation = build("activation", ACTIVATIONS, settings.activation)
    loss: Loss = build("loss", LOSSES, settings.loss)
    check_pair(activation, loss, "auto")
    z = scores(settings.z)
    steps = steps_of(activation, loss, z, targets(settings.y, z))
    print(text(steps))
    path = Path(settings.output)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    print(f"\n{shorter(slide(path, steps).absolute())}")


def scores(given: Any) -> Array:
    """z (N,K) from rows, or from one row as a flat list."""
    z = _rows("z", given)
    n, k = z.shape
    size = f"1 to {ROWS} rows of 2 to {CLASSES} classes, which a slide can show"
    require(1 <= n <= ROWS and 2 <= k <= CLASSES, f"z must have {size}, got {n} of {k}.")
    return z


def targets(given: Any, z: Array) -> Array:
    """y (N,K) from a label for each row, from rows like those of z, or from nothing."""
    n, k = z.shape
    if given is None:
        return one_hot(np.arange(n) % k, k, z.dtype)
    flat = not any(isinstance(row, list) for row in given)
    if flat and not (n == 1 and len(given) == k):
        labels = len(given) == n and all(type(label) is int and 0 <= label < k for label in given)
        way_out = f"y must be {n} labels from 0 to {k - 1}, one for each row of z, or {n} rows of {k} numbers"
        require(labels, f"{way_out}, got {given!r:.60}.")
        return one_hot(np.array(given), k, z.dtype)
    y = _rows("y", given)
    require(y.shape == z.shape, f"y must have the shape of z, {n} rows of {k}, got {y.shape[0]} of {y.shape[1]}.")
    require(bool((y >= 0).all()), f"y must not be negative, got {given!r:.60}.")
    return y


def _rows(key: str, given: Any) -> Array:
    """Rows of one length, of finite numbers and nothing that merely looks like one."""
    rows = given if any(isinstance(row, list) for row in given) else [given]
    for row in rows:
        finite = isinstance(row, list) and all(type(v) in (int, float) and abs(v) <= 1e300 for v in row)
        require(finite, f"{key} must be rows of finite numbers, such as {key}=[[2,1],[0,1]], got {given!r:.60}.")
    lengths = [len(row) for row in rows]
    require(len(set(lengths)) == 1, f"The rows of {key} must have one length, got {', '.join(map(str, lengths))}.")
    return np.array(rows, dtype=np.float64)


def steps_of(activation: Activation, loss: Loss, z: Array, y: Array) -> Steps:
    """The generic route one step at a time, and the fastest strategy."""
    strategy = fastest(activation, loss)
    with np.errstate(all="ignore"):  # what is not finite is shown, and said in the verdict
        a = activation(z)
        dl_da = loss.grad(a, y)
        da_dz = activation.jacobian(z, a)
        contraction = np.einsum("nj,njk->nk", dl_da, da_dz)
        direct = loss.direct(activation, z, y)[1] if hasattr(loss, "direct") else None
        values, dl_dz = GRADIENTS[strategy](activation, loss, z, y)
    return Steps(activation, loss, strategy, z, y, a, dl_da, da_dz, contraction, direct, values, dl_dz)


def number(value: float) -> str:
    """Three significant digits, in few letters; an exact zero is 0, so that it can be told from a small number."""
    if value == 0 or not np.isfinite(value):
        return "0" if value == 0 else str(float(value))
    mantissa, exponent = f"{value:.2e}".split("e")
    if 2 <= int(exponent) <= 3:
        return f"{value:.0f}"
    return f"{value:#.3g}" if -3 <= int(exponent) < 2 else f"{mantissa}e{int(exponent)}"


def text(steps: Steps) -> str:
    """The steps as tables that stay within 80 columns."""
    lines = [*textwrap.wrap(f"{steps.activation!r} with {steps.loss!r}", COLUMNS), ""]
    for name, formula in steps.formulas():
        lines += textwrap.wrap(f"{name:<12}{formula}", COLUMNS, subsequent_indent=" " * 12, break_on_hyphens=False)
    tables = [table for group in steps.tables() for table in group]
    widest = max(len(number(v)) for _, _, matrix in tables for v in matrix.flat)
    for title, letters, matrix in tables:
        lines += ["", title, *_table(matrix, letters, widest)]
    losses = "  ".join(number(v) for v in steps.values)
    return "\n".join([*lines, "", f"loss of each row: {losses}", *textwrap.wrap(steps.verdict(), COLUMNS)])


def _table(matrix: Array, letters: str, widest: int) -> Iterator[str]:
    """Lines of right-aligned numbers; columns that do not fit beside the others follow below."""
    n, k = matrix.shape
    width = widest + (2 if 6 + k * (widest + 2) <= COLUMNS else 1)
    step = (COLUMNS - 6) // width
    for start in range(0, k, step):
        columns = range(start, min(start + step, k))
        yield " " * 6 + "".join(f"{f'{letters[1]}={c}':>{width}}" for c in columns)
        for row in range(n):
            yield f"  {letters[0]}={row} " + "".join(f"{number(matrix[row, c]):>{width}}" for c in columns)


GREEK = "alpha|gamma|epsilon|tau|Omega"
FUNCTIONS = "exp|log|max|min|tanh|diag|sign|softmax|sigmoid|log1p|lse"
WORD = re.compile(
    rf"\(?(?!(?:sum|{GREEK}|{FUNCTIONS})(?![a-z0-9-]))[A-Za-z][A-Za-z'-]+(?:_[a-z]{{3,}}|[0-9]+)?\)?[,.:;]*"
    rf"|sum\.|log-[a-z]+|[a-z]{{3,}}_[a-z]{{3,}}\)?,?"
)
MATHTEXT = [  # what the formulas of docstrings are in matplotlib's own TeX
    (r"\bd(\w)_d(\w)", r"\\mathrm{d\1\\_d\2}"),
    (r"\bsum(?![a-z])", r"\\Sigma "),
    (rf"\b({FUNCTIONS})(?![a-z0-9}}])", r"\\mathrm{\1}"),
    (r"Omega\*", "Omega^{*}"),
    (rf"(?<![a-zA-Z\\])({GREEK})(?![a-z])", r"\\\1 "),
    (r"\^\s*\(((?:[^()]|\([^()]*\))*)\)", r"^{\1}"),
    (r"<([^<>=]+)>", r"\\langle \1\\rangle "),
    (r">=", r"\\geq "),
    (r"!=", r"\\neq "),
    (r"(?<!\{)\*(?!\})", r"\\cdot "),
    (r"(?<=[\w)}]) (?=[\w(\\])", r"\\,"),
    (r"([,;]) ", r"\1\\ "),
]


def typeset(sentence: str) -> str:
    """A sentence with formulas as matplotlib typesets it: runs of what is no word stand between dollars."""
    runs: list[str] = []
    for is_word, tokens in groupby(sentence.split(), lambda token: bool(WORD.fullmatch(token))):
        text = " ".join(tokens)
        if not is_word:
            for pattern, mathtext in MATHTEXT:
                text = re.sub(pattern, mathtext, text)
            text = f"${text}$"
        runs.append(text)
    return " ".join(runs)


WIDTH, HEIGHT, MARGIN = 16.0, 9.0, 0.4  # inches: a slide
HEAD = 0.29  # the title of a map; the letters of its columns stand below it and are 0.65 of a cell high


def slide(path: Path, steps: Steps) -> Path:
    """The picture, from top to bottom: formulas, the batch, the Jacobians, and the routes to dl_dz side by side."""
    figure = Figure(figsize=(WIDTH, HEIGHT))
    pair = f"{steps.activation!r} with {steps.loss!r}"
    _write(figure, MARGIN, 0.25, pair, min(26, 1500 / len(pair)), weight="bold")
    upper = 0.82
    for name, formula in steps.formulas():
        lines = textwrap.wrap(formula, 118)
        _write(figure, MARGIN, upper, name, 15, weight="bold")
        _write(figure, MARGIN + 1.4, upper, "\n".join(map(typeset, lines)), 15, parse_math=True)
        upper += 0.3 * len(lines)
    batch, jacobians, routes = steps.tables()
    n, k = steps.z.shape
    across = n if n <= 3 or n * (0.8 + 0.7 * k) < WIDTH - 2 * MARGIN else (n + 1) // 2  # in one band, or in two
    bands = [(batch, 4), (jacobians[:across], across), (jacobians[across:], across), (routes, len(routes) + 1)]
    bands = [(maps, slots) for maps, slots in bands if maps]
    heights = [len(maps[0][2]) + 0.65 for maps, _ in bands]  # in cells
    space = HEIGHT - 0.37 - upper - HEAD * len(bands)
    cell = min(0.5, (space - 0.15 * len(bands)) / sum(heights))
    air = (space - cell * sum(heights)) / (len(bands) + 1)
    for (maps, slots), height in zip(bands, heights, strict=True):
        upper += air
        width = (WIDTH - 2 * MARGIN + 0.3) / slots
        peers = [matrix for _, _, matrix in (routes if maps is routes else jacobians)]
        for slot, table in enumerate(maps):
            box = (MARGIN + slot * width, upper, width - 0.3, cell)
            _heat_map(figure, box, table, [table[2]] if maps is batch else peers)
        if maps is routes:
            losses = "loss of each row: " + "  ".join(number(v) for v in steps.values)
            verdict = "\n".join(textwrap.fill(line, round((width - 0.3) * 8)) for line in (losses, steps.verdict()))
            _write(figure, MARGIN + (slots - 1) * width, upper + HEAD + 0.65 * cell, verdict, 16, weight="bold")
        upper += HEAD + height * cell
    legend = "blue below zero, red above, grey not finite; the Jacobians share one scale, and so do the routes to dl_dz"
    _write(figure, MARGIN, HEIGHT - 0.32, legend, 12, color="#444444")
    FigureCanvasAgg(figure)
    return write_whole(path, lambda file: figure.savefig(file, format="png", dpi=120))


def _heat_map(figure: Figure, box: tuple[float, ...], table: Table, peers: list[Array]) -> None:
    """One annotated matrix, scaled like its peers.  box: left, upper, width, height of a cell, in inches."""
    left, upper, width, cell = box
    title, letters, matrix = table
    n, k = matrix.shape
    _write(figure, left, upper, title, min(15, 72 * width / (0.61 * len(title))), family="monospace", weight="bold")
    wide = min((width - 0.5) / k, 1.2)
    lower = 1 - (upper + HEAD + (0.65 + n) * cell) / HEIGHT
    axes = figure.add_axes(((left + 0.5) / WIDTH, lower, wide * k / WIDTH, cell * n / HEIGHT))
    numbers = np.concatenate([peer.ravel() for peer in peers])
    top = np.abs(numbers[np.isfinite(numbers)]).max(initial=0) or 1.0
    shares = np.where(np.isfinite(matrix), matrix, np.nan) / top * 0.45 + 0.5  # zero is the middle
    colors = colormaps["RdBu_r"].with_extremes(bad="#d9d9d9")(np.ma.masked_invalid(shares))  # (N,K,4)
    axes.imshow(colors, aspect="auto")
    axes.hlines(np.arange(1, n) - 0.5, -0.5, k - 0.5, colors="white", linewidth=1.5)
    axes.vlines(np.arange(1, k) - 0.5, -0.5, n - 0.5, colors="white", linewidth=1.5)
    letter = min(18.0, 72 * 0.72 * cell)  # points, by height; then by width
    ems = max(sum(0.65 if c.isalnum() else 0.36 for c in number(v)) for v in numbers)
    size = min(letter, 72 * 0.94 * wide / ems)
    for (row, column), value in np.ndenumerate(matrix):
        light = colors[row, column, :3] ** 2.2 @ (0.2126, 0.7152, 0.0722)
        color = "black" if light > 0.179 else "white"  # where both have the same contrast, by WCAG
        axes.text(column, row, number(value), ha="center", va="center_baseline", color=color, fontsize=size)
    for axis, count, name in ((axes.yaxis, n, letters[0]), (axes.xaxis, k, letters[1])):
        axis.set_ticks(range(count), [f"{name}={i}" for i in range(count)])
    axes.xaxis.tick_top()
    axes.tick_params(length=0, labelsize=min(13, 0.85 * letter, 27 * wide), pad=2)
    axes.spines[:].set_visible(False)


def _write(figure: Figure, left: float, upper: float, words: str, size: float, **style: Any) -> None:
    """Text whose upper left corner is given in inches."""
    place = left / WIDTH, 1 - upper / HEIGHT
    figure.text(*place, words, size=size, va="top", **{"parse_math": False, **style})


def main(words: list[str]) -> None:
    """The command ``trainer explain``, and ``python -m trainer.explain``."""
    perform(explain, "explain", HELP, words)
