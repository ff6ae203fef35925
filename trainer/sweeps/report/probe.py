"""probe.html: what a probe found, set for reading in the style of the report."""

import inspect
import math
from collections.abc import Mapping, Sequence
from html import escape

from markupsafe import Markup

from trainer.optimizers.probing import By, ProbeProtocol
from trainer.runs.outputs import versions
from trainer.runs.probe import LINEAR, Probed, grid
from trainer.sweeps.report import charts
from trainer.sweeps.report.page import template
from trainer.sweeps.report.values import plain, short

MOST_CELLS = 20_000
WIDTH, TALL, LEFT, TOP = 1000.0, 22.0, 150.0, 6.0  # of the heat map; TALL is a layer's row

CONVENTION = (
    "C is scikit-learn's and stands beside the sum of the losses, C Σ loss + ½ Σ w²; strength is penalty.strength and "
    "stands beside their mean, Σ loss / N + ½ strength Σ w². So strength = 1 / (C N), and 2 / (C N) with two classes, "
    "where scikit-learn has one column of weights. A lambda beside the sum of the losses, with ½ Σ w², is 1/C; beside "
    "their mean, with Σ w² and no ½, it is half the strength. N are the rows that a fit is trained on: in probe.csv "
    "those of the search, for the models all of them."
)


def render(
    found: Sequence[Probed],
    protocol: ProbeProtocol,
    by: By,
    metrics: Sequence[str],
    classes: int,
    chips: Sequence[str],
    problems: Sequence[str],
    command: str,
    folders: Mapping[str, str],
) -> str:
    """The whole page; folders has that of each layer's model, beside the page."""
    best = best_of(found, by)
    cs = sorted({one.c for layer in found for one in layer.tried})
    return template("probe.html.jinja").render(
        found=found,
        protocol=protocol.name,
        by=by,
        metrics=metrics,
        chips=chips,
        problems=[plain(problem, 400) for problem in problems],
        command=command,
        best=best,
        score=_score(best, by),
        code=_code(best, classes, folders.get(best.layer, "")),
        heat=heat_map(found, cs, by) if len(cs) > 1 and len(cs) * len(found) <= MOST_CELLS else "",
        range=_range(found, cs, by),
        about=[" ".join(part.split()) for part in _about(protocol)],
        convention=CONVENTION,
        folders=folders,
        versions=", ".join(f"{plain(name, 30)} {plain(text, 30)}" for name, text in versions().items()),
    )


def best_of(found: Sequence[Probed], by: By) -> Probed:
    """The layer whose chosen strength is worth most; of equal ones the first."""
    return min(found, key=lambda layer: (1 if by.lower else -1) * layer.chosen.mean(by.metric))


def _about(protocol: ProbeProtocol) -> list[str]:
    """The paragraphs of what a protocol says of itself, without its examples."""
    parts = (inspect.getdoc(protocol) or "").split("\n\n")
    return [part for part in parts if not part.startswith(">>>")]


def _score(best: Probed, by: By) -> str:
    folds = len(best.chosen.cells)
    if folds == 1:
        return f"This is {by.metric} on the rows held out, which have chosen the strength."
    return f"This is {by.metric} on the rows held out: mean ± sample standard deviation of {folds} splits."


def _code(best: Probed, classes: int, folder: str) -> str:
    return (
        "import torch\nfrom safetensors.torch import load_file\n\n"
        f"linear = torch.nn.Linear({best.features}, {classes})\n"
        f"linear.load_state_dict(load_file({f'{folder}/{LINEAR}'!r}))"
    )


def _range(found: Sequence[Probed], cs: Sequence[float], by: By) -> str:
    table = grid(found, cs, by.metric)
    values = table[~(table != table)]
    if not len(values):
        return "none of them finite"
    faint, full = (values.max(), values.min()) if by.lower else (values.min(), values.max())
    return f"from {short(float(faint))}, faint, to {short(float(full))}, in full colour, which is the better"


def heat_map(found: Sequence[Probed], cs: Sequence[float], by: By) -> Markup:
    """A cell a layer and C, in fuller colour where the metric is better; numbers of a cell are its title."""
    table = grid(found, cs, by.metric)
    finite = table[table == table]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    wide = (WIDTH - LEFT - 70) / len(cs)
    parts, frames = [], []
    for row, layer in enumerate(found):
        y = TOP + TALL * row
        parts.append(charts.text(LEFT - 8, y + 15, plain(layer.layer, 22), "w", "end"))
        value = short(layer.chosen.mean(by.metric))
        parts.append(charts.text(WIDTH - 62, y + 15, value, "n"))
        for one in layer.tried:
            column = cs.index(one.c)
            share = (table[row, column] - low) / ((high - low) or 1.0)
            share = 1 - share if by.lower else share
            x = LEFT + wide * column
            size = f'x="{x:.1f}" y="{y:.1f}" width="{max(wide - 0.5, 0.5):.1f}" height="{TALL - 1:.1f}"'
            if one is layer.chosen:
                frames.append(f'<rect class="pick" {size}/>')
            if math.isfinite(share):
                told = f"{plain(layer.layer, 80)}, C {short(one.c)}: {by.metric} {short(one.mean(by.metric))}"
                told += "" if one.certified else ", not certified"
                shade = f'fill-opacity="{0.1 + 0.9 * share:.3f}"'
                parts.append(f"<rect {size} {shade}><title>{escape(told)}</title></rect>")
    bottom = TOP + TALL * len(found)
    every = max(1, math.ceil(len(cs) / 12))
    for column in range(0, len(cs), every):
        parts.append(
            charts.text(LEFT + wide * (column + 0.5), bottom + 15, short(float(f"{cs[column]:.2g}")), "n", "middle")
        )
    caption = "C: strong penalty on the left, weak on the right"
    parts.append(charts.text(LEFT + wide * len(cs) / 2, bottom + 34, caption, "n", "middle"))
    parts.append(charts.text(WIDTH - 62, bottom + 15, "chosen", "n"))
    picture = charts.svg(WIDTH, bottom + 42, f"{by.metric} of each layer and strength", [*parts, *frames])
    return Markup('<div class="heat">') + picture + Markup("</div>")
