"""The pictures of a run.  Drawn on figures of their own, so that nothing depends on a display or on global state.

They share their axes, colours and margins, so they are one file, though a long one.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from trainer.arrays import Array
from trainer.data.rows import Data
from trainer.runs.coefficients import Coefficients
from trainer.runs.cross_validation import Chosen
from trainer.runs.evaluation import Evaluation
from trainer.runs.model import Model
from trainer.runs.outputs import write_whole
from trainer.runs.path import Point, best

# Okabe & Ito's colours, which colour-blind people can tell apart.
COLORS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "*"]
LABELLED = 8  # lines of path.png with a colour and a name of their own
NAMED = 25  # classes in a column of the legend
LETTER = 0.085  # inches of a letter there


def curves(path: Path, rows: Sequence[Mapping[str, float]], title: str, metric: str | None = "accuracy") -> Path:
    """Loss, and one metric if there is one, on the training and the validation data, epoch by epoch."""
    figure = Figure(figsize=(10, 4))
    figure.subplots_adjust(left=0.07, right=0.94, bottom=0.13, top=0.88, wspace=0.3)  # a fitted layout draws it twice
    figure.suptitle(title)
    names = ["loss"] if metric is None else ["loss", metric]
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        # At the ends of the lines the larger number stands above the smaller one, so that both can be read.
        above = rows[-1].get(f"val_{name}", np.inf) >= rows[-1].get(name, np.inf)
        training, validation = (name, "training", COLORS[0]), (f"val_{name}", "validation", COLORS[5])
        for (key, label, color), up in ((training, not above), (validation, above)):
            values = np.array([row.get(key, np.nan) for row in rows])
            values[~(np.abs(values) < 1e100)] = np.nan  # what a diverging run ends with breaks an axis
            if np.isfinite(values).any():
                epochs = [row["epoch"] for row in rows]
                other = [line.get_ydata() for line in axes.lines]
                same = len(rows) > 1 and any(np.allclose(values, there, rtol=0.005) for there in other)
                look = {"label": f"{label}, the same" if same else label, "linestyle": "--" if same else "-"}
                axes.plot(epochs, values, color=color, marker="o" if len(rows) == 1 else None, **look)
                axes.annotate(f" {values[-1]:.3g}", (epochs[-1], values[-1]), color=color, va="bottom" if up else "top")
        axes.set(xlabel="epoch", ylabel=f"mean {name}" if name == "loss" else name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.ticklabel_format(axis="y", useOffset=False)
        if len(rows) == 1:
            axes.set_xlim(rows[0]["epoch"] - 1, rows[0]["epoch"] + 1)
        if axes.lines:
            axes.legend(frameon=False)
        tidy(axes)
    losses = [row["loss"] for row in rows if row["loss"] < 1e100]
    if losses and min(losses) > 0 and max(losses) > 30 * min(losses):
        panels[0].set_yscale("log")
    return save(figure, path)


def boundary(path: Path, model: Model, train: Data, valid: Data | None, title: str) -> Path:
    """Decision regions of a model on two features, with the samples; those on the wrong side are ringed.

    Training samples are filled, validation samples hollow. Up to eight classes are told apart by colour, more by colour
    and marker.
    """
    names = [shortened(str(name), 40) for name in model.classes]
    columns = -(-len(names) // NAMED)
    longest = max(map(len, (*names, "misclassified (10000)")))
    side = 0.2 + LETTER * columns * (longest + 6)  # inches of the legend
    width = 6.5 + side
    figure = Figure(figsize=(width, 6))
    figure.subplots_adjust(left=0.7 / width, right=1 - side / width, bottom=0.09, top=0.93)
    axes = figure.subplots()
    x = train.x if valid is None else np.concatenate([train.x, valid.x])
    low, high = x.min(axis=0), x.max(axis=0)
    margin = 0.08 * np.where(high > low, high - low, 1.0)
    ticks = [np.linspace(start, stop, 300) for start, stop in zip(low - margin, high + margin, strict=True)]
    first, second = np.meshgrid(*ticks)
    regions = model.predict(np.column_stack([first.ravel(), second.ravel()])).argmax(axis=1).reshape(first.shape)
    colors = class_colors(len(names))
    markers = [MARKERS[k % len(MARKERS)] if len(names) > len(COLORS) else "o" for k in range(len(names))]
    axes.imshow(
        regions,
        extent=(first[0, 0], first[0, -1], second[0, 0], second[-1, 0]),
        origin="lower",
        aspect="auto",
        cmap=ListedColormap(colors),
        vmin=-0.5,
        vmax=len(names) - 0.5,
        alpha=0.2,
        interpolation="nearest",
    )
    size = float(np.clip(8000 / len(x), 3, 16))  # many points are small ones
    wrong = 0
    for data in (train,) if valid is None else (train, valid):
        missed = model.predict(data.x).argmax(axis=1) != data.labels
        wrong += int(missed.sum())
        first, second = data.x[missed].T
        axes.scatter(first, second, s=3 * size, facecolors="none", edgecolors="black", linewidths=0.7, zorder=1.5)
        for k, (color, marker) in enumerate(zip(colors, markers, strict=True)):
            look = {"color": color, "linewidths": 0} if data is train else {"facecolors": "none", "edgecolors": color}
            first, second = data.x[data.labels == k].T
            axes.scatter(first, second, s=size, marker=marker, zorder=2, **look)
    shown = zip(markers, names, colors, strict=True)
    handles = [_handle(marker, name, color=color) for marker, name, color in shown]
    if valid is not None:
        handles.append(_handle("o", "validation: hollow", color="0.3", markerfacecolor="none"))
    handles.append(_handle("o", f"misclassified ({wrong})", color="black", markerfacecolor="none", markersize=9))
    axes.set(xlabel=train.features[0], ylabel=train.features[1], title=title)
    legend = axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1, 1), frameon=False, ncols=columns)
    for text in (axes.xaxis.label, axes.yaxis.label, *legend.get_texts()):
        text.set_parse_math(False)  # a $ in a name from a file is a dollar
    tidy(axes)
    return save(figure, path)


def _handle(marker: str, label: str, **look: Any) -> Line2D:
    return Line2D([], [], marker=marker, linestyle="", label=label, **look)


def class_colors(classes: int) -> list[Any]:
    """A colour for each class, none of them twice."""
    if classes <= len(COLORS):
        return COLORS[:classes]
    return [colormaps["turbo"](0.04 + 0.92 * k / (classes - 1)) for k in range(classes)]


def coefficients(path: Path, learnt: Coefficients, title: str, most: int = 6, panels: int = 12) -> Path | None:
    """What a deviation of each class's strongest features adds to its score; of two classes whose weights differ in
    sign alone the second is drawn. None where no feature counts."""
    w = learnt.per_deviation[:-1]
    classes = range(w.shape[1])
    if w.shape[1] == 2 and np.allclose(w[:, 0], -w[:, 1]):
        classes = range(1, 2)
    drawn = [(k, pairs) for k in classes[:panels] if (pairs := learnt.strongest(k, most))]
    if not drawn:
        return None
    columns = min(3, len(drawn))
    rows, bars = -(-len(drawn) // columns), max(len(pairs) for _, pairs in drawn)
    figure = Figure(figsize=(4.2 * columns, 0.8 + rows * (0.9 + 0.25 * bars)), layout="constrained")
    left_out = f"; {panels} of {len(classes)} classes" if len(classes) > panels else ""
    figure.suptitle(f"{title}: added by one standard deviation{left_out}", fontsize=10, parse_math=False)
    limit = 1.05 * max(abs(value) for _, pairs in drawn for _, value in pairs)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[len(drawn) :]:
        axes.set_axis_off()
    for axes, (k, pairs) in zip(grid, drawn, strict=False):
        values = [value for _, value in pairs]
        places = range(len(pairs))
        axes.barh(places, values, color=[COLORS[0] if value > 0 else COLORS[5] for value in values])
        axes.set_yticks(places, [shortened(name) for name, _ in pairs], parse_math=False, fontsize=8)
        axes.set(xlim=(-limit, limit), ylim=(bars - 0.4, -0.6))
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_title(shortened(str(learnt.classes[k])), parse_math=False, fontsize=9)
        tidy(axes)
    return save(figure, path)


def evaluations(folder: Path, title: str, found: Mapping[str, Evaluation]) -> list[Path]:
    """confusion.png and, of probabilities, reliability.png, for the last of the sets of rows."""
    name, last = list(found.items())[-1]
    title = f"{title}: {last.rows:,} {name} rows"
    files = [confusion(folder / "confusion.png", last, title)]
    return files + ([reliability(folder / "reliability.png", last, title)] if last.reliability else [])


def confusion(path: Path, found: Evaluation, title: str) -> Path:
    """The confusion matrix, each row divided by its sum for the colours; numbers up to 15 classes, names up to 40."""
    classes = len(found.classes)
    size = float(np.clip(2.5 + 0.45 * classes, 4.5, 12))
    figure = Figure(figsize=(size + 1.5, size), layout="constrained")
    axes = figure.subplots()
    matrix = found.confusion
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1e-300)
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    if classes <= 15:
        for (row, column), number in np.ndenumerate(matrix):
            color = "white" if share[row, column] > 0.5 else "black"
            axes.text(column, row, f"{number:.4g}", ha="center", va="center", color=color, fontsize=9)
    if classes <= 40:
        names = [shortened(str(one["class"])) for one in found.classes]
        upright = max(map(len, names)) > 3
        axes.set_xticks(range(classes), names, rotation=90 if upright else 0, parse_math=False)
        axes.set_yticks(range(classes), names, parse_math=False)
    axes.set(xlabel="prediction", ylabel="label")
    axes.set_title(title, parse_math=False, fontsize=10, wrap=True)
    figure.colorbar(image, ax=axes, label="share of the label's rows", shrink=0.8)
    return save(figure, path)


def reliability(path: Path, found: Evaluation, title: str) -> Path:
    """Accuracy against confidence, bin by bin, over the share of the rows in each; on the diagonal they agree."""
    confidence, accuracy, share = np.array(found.reliability).T
    figure = Figure(figsize=(6, 6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    upper.plot([0, 1], [0, 1], color="0.6", linewidth=1, label="as sure as right")
    upper.plot(confidence, accuracy, color=COLORS[0], linewidth=1)
    upper.scatter(confidence, accuracy, s=20 + 180 * share, color=COLORS[0], label="the model; area: share of rows")
    upper.set(ylabel="accuracy", xlim=(0, 1.03), ylim=(-0.03, 1.03))
    upper.set_title(f"{title}\ncalibration error {found.metrics['ece']:.3g}", parse_math=False, fontsize=10, wrap=True)
    upper.legend(loc="upper left", frameon=False)
    lower.bar(confidence, share, width=0.04, color=COLORS[0])
    lower.set(xlabel="confidence: the largest prediction of a row", ylabel="share of rows")
    for axes in (upper, lower):
        tidy(axes)
    return save(figure, path)


def along_path(
    path: Path,
    points: Sequence[Point],
    classes: Sequence[int | str],
    features: Sequence[str],
    title: str,
    missed: Collection[float] = (),
) -> Path:
    """The weights against the strength, the strongest on the left, and below them the loss; the kept one is marked.

    The loss at strengths that a solver has missed is an open circle.
    """
    figure = Figure(figsize=(10, 7.5))
    figure.subplots_adjust(left=0.09, right=0.73, bottom=0.09, top=0.88, hspace=0.12)
    figure.suptitle(title)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    x = _positions([point.strength for point in points])
    marker = "o" if len(points) == 1 else None

    weights = np.stack([point.state.w[:-1] for point in points])  # (P,D,K)
    if len(classes) == 2 and np.allclose(weights[..., 0], -weights[..., 1]):  # the second says it all
        weights, classes = weights[..., 1:], classes[1:]
    size = np.abs(weights).max(axis=0).ravel()  # (D K,)
    named = [n for n in np.argsort(-size, kind="stable")[:LABELLED].tolist() if size[n] > 0]
    lines = weights.reshape(len(points), -1).T  # (D K,P)
    for n in np.flatnonzero(size).tolist():
        if n not in named:
            above.plot(x, lines[n], color="0.8", linewidth=0.7, marker=marker, zorder=1)
    for rank, n in enumerate(named):
        feature, k = features[n // len(classes)], classes[n % len(classes)]
        above.plot(x, lines[n], color=COLORS[rank], label=f"{short(k)}: {short(feature)}", marker=marker, zorder=2)
    above.axhline(0, color="black", linewidth=0.8, zorder=0)
    above.set(ylabel="weight")
    if named:
        hidden = int(np.count_nonzero(size)) - len(named)
        legend = above.legend(
            loc="upper left",
            bbox_to_anchor=(1.01, 1),
            frameon=False,
            fontsize="small",
            title="class: feature" + (f"\n({hidden} more in grey)" if hidden else ""),
            alignment="left",
        )
        for text in legend.get_texts():
            text.set_parse_math(False)  # a $ in a name from a file is a dollar

    is_open = np.array([point.strength in missed for point in points])
    for key, label, color in (("loss", "training", COLORS[0]), ("val_loss", "validation", COLORS[5])):
        values = np.array([point.metrics.get(key, np.nan) for point in points])
        if np.isfinite(values).any():
            below.plot(x, values, color=color, label=label, marker="o", markersize=3)
            if is_open.any():
                circles = {"color": color, "markerfacecolor": "white", "markersize": 6}
                note = "not converged" if key == "loss" else None
                below.plot(x[is_open], values[is_open], "o", label=note, **circles)
    kept = points.index(best(points)[0])
    for axes in (above, below):
        note = f"kept: {points[kept].strength:.4g}" if axes is below else None
        axes.axvline(x[kept], color="black", linestyle=":", linewidth=1, label=note)
        tidy(axes)
    below.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    below.set(ylabel="mean loss")
    _name_strengths(below, x, points[-1].strength == 0)
    _counts(above, x, [int(np.count_nonzero(rows)) for rows in weights])
    return save(figure, path)


def _positions(values: Sequence[float]) -> Array:
    """Strengths on a logarithmic axis (P,); zero, which it lacks, stands a decade below the smallest of the others."""
    x = np.array(values, dtype=np.float64)
    positive = x[x > 0]
    return np.where(x > 0, x, positive.min() / 10 if len(positive) else 1.0)


def _name_strengths(axes: Any, x: Array, to_zero: bool) -> None:
    """Makes the axis below that of strengths at these positions, the strongest on the left; the last may be zero."""
    axes.set(xlabel="strength of the penalty", xscale="log")
    if len(x) > 1:
        margin = (x[0] / x[-1]) ** 0.02
        axes.set_xlim(x[0] * margin, x[-1] / margin)
    if to_zero:
        axes.annotate("0", (x[-1], 0), xycoords=("data", "axes fraction"), xytext=(0, -16), textcoords="offset points")


def _counts(axes: Any, x: Array, nonzero: Sequence[int]) -> None:
    """The number of weights that are not zero on an axis on top, at as many points as have room for it."""
    ends = (math.log(x[0]), math.log(x[-1]))
    room = abs(ends[1] - ends[0]) / 12
    shown = [0]
    for n in range(1, len(x)):
        if abs(math.log(x[n]) - math.log(x[shown[-1]])) >= room:
            shown.append(n)
    top = axes.secondary_xaxis("top")
    top.set_xticks([x[n] for n in shown], [str(nonzero[n]) for n in shown])
    top.tick_params(which="minor", length=0, labeltop=False)
    top.minorticks_off()
    top.spines["top"].set_visible(False)
    top.set_xlabel("weights that are not zero", fontsize="small")


def short(name: int | str) -> str:
    """A name that leaves room for the picture."""
    text = str(name)
    return text if len(text) <= 16 else text[:15] + "…"


def folds(path: Path, chosen: Chosen, title: str) -> Path:
    """The mean loss on the rows held out against the strength, with its standard errors and what each rule chooses.

    Strengths with a cell that has not converged are open circles.
    """
    figure = Figure(figsize=(10, 4.5))
    figure.subplots_adjust(left=0.08, right=0.68, bottom=0.13, top=0.9)
    figure.suptitle(title)
    axes = figure.subplots()
    scores, x = chosen.scores, _positions(chosen.strengths)
    for number, losses in enumerate(scores.values):
        axes.plot(x, losses, color="0.8", linewidth=0.7, zorder=1, label=None if number else "a fold")
    look: dict[str, Any] = {
        "color": COLORS[0],
        "ecolor": COLORS[0],
        "elinewidth": 1,
        "capsize": 2,
        "marker": "o",
        "markersize": 4,
    }
    axes.errorbar(x, scores.mean, yerr=scores.error, zorder=3, label="mean of the folds ± standard error", **look)
    missed = np.isin(chosen.strengths, chosen.missed)
    if missed.any():
        circles: dict[str, Any] = {"color": COLORS[0], "markerfacecolor": "white", "markersize": 7, "zorder": 4}
        axes.plot(x[missed], scores.mean[missed], "o", label="not converged", **circles)
    best = chosen.places["best"]
    within = scores.mean[best] + scores.error[best]
    axes.axhline(within, color=COLORS[5], linewidth=0.8, linestyle="--", label="best + its standard error", zorder=2)
    for rule, style, color in (("best", "-", COLORS[5]), ("1se", ":", COLORS[2])):
        place = chosen.places[rule]
        kept = ", chosen" if rule == chosen.choice.rule else ""
        axes.axvline(
            x[place],
            color=color,
            linestyle=style,
            linewidth=1.5,
            zorder=2,
            label=f"{rule}: {chosen.strengths[place]:.4g}{kept}",
        )
    axes.set(ylabel="mean loss on the rows held out")
    _name_strengths(axes, x, chosen.strengths[-1] == 0)
    finite = scores.mean[np.isfinite(scores.mean) & (scores.mean > 0)]
    if len(finite) and finite.max() > 10 * finite.min():
        axes.set_yscale("log")
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize="small")
    tidy(axes)
    return save(figure, path)


def shortened(name: str, length: int = 24) -> str:
    """A name that fits beside an axis: of a long one both ends, since many begin alike."""
    if len(name) <= length:
        return name
    return name[: length // 2] + "\N{HORIZONTAL ELLIPSIS}" + name[length // 2 + 1 - length :]


def tidy(axes: Axes) -> None:
    """Takes away the frame on top and on the right."""
    axes.spines[["top", "right"]].set_visible(False)


def save(figure: Figure, path: Path) -> Path:
    """Writes the figure as a PNG, whole or not at all."""
    FigureCanvasAgg(figure)
    return write_whole(path, lambda file: figure.savefig(file, format="png", dpi=100, pil_kwargs={"compress_level": 3}))
