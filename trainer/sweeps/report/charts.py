"""Charts as inline SVG: every number that gets in is finite, every colour comes from the page's style sheet."""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from trainer.sweeps.report.reading import DONE, Run
from trainer.sweeps.report.summary import LOWER

Numbers = NDArray[np.float64]
POINTS = 60
DASH, MINUS = "\u2013", "\u2212"
TINY = 1e-100  # less is drawn as zero
COLOURS = 6  # classes c1 ... c6 of the style sheet, each with dashes of its own; c0 is grey


@dataclass(frozen=True)
class Line:
    """A mean over runs and its band, over the epochs."""

    x: Numbers
    mean: Numbers
    low: Numbers
    high: Numbers
    colour: int = 0
    label: str = ""
    single: Sequence[tuple[Numbers, Numbers]] = field(default_factory=list)  # the runs of it, drawn thin


@dataclass(frozen=True)
class Axis:
    """Maps values to pixels; log10 where the values span decades."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, values: Numbers) -> Numbers:
        values = np.where(np.abs(values) < TINY, 0.0, np.asarray(values, dtype=float))
        with np.errstate(all="ignore"):
            v = np.log10(np.where(values > 0, values, np.nan)) if self.log else values
            share = (v - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, most: int = 5) -> list[float]:
        """Round values inside the axis."""
        if self.log and self.high - self.low >= 1.2:
            apart = math.ceil((self.high - self.low) / most)
            powers = range(math.ceil(self.low - 1e-9), math.floor(self.high + 1e-9) + 1, apart)
            return [10.0**power for power in powers]
        low, high = (10**self.low, 10**self.high) if self.log else (self.low, self.high)
        raw = (high - low) / most
        size = 10.0 ** math.floor(math.log10(raw))
        step = next((size * k for k in (1, 2, 2.5, 5, 10) if size * k >= raw), size * 10)
        first = math.ceil(low / step - 1e-9)
        found = [(first + i) * step for i in range(most + 2)]
        return [
            0.0 if abs(tick) < step / 1e6 else tick for tick in found if low - step / 1e6 <= tick <= high + step / 1e6
        ]


def logarithmic(metric: str) -> bool | None:
    """Shares of hits stay linear; of losses the values decide, see axis."""
    return None if metric.removeprefix("val_") in LOWER else False


def axis(values: Numbers, start: float, end: float, log: bool | None = None, pad: float = 0.04) -> Axis:
    """An axis over the finite values; logarithmic, if not told, where all are positive and span more than 30 times."""
    finite = values[np.isfinite(values)]
    finite = np.where(np.abs(finite) < TINY, 0.0, finite)
    if not len(finite):
        return Axis(0.0, 1.0, start, end)
    low, high = float(finite.min()), float(finite.max())
    if log is None:
        log = low > 0 and high / low > 30
    if log:
        low, high = math.log10(low), math.log10(high)
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-300):
        room = 0.5 if log else max(abs(low) * 0.1, 1e-3)
        low, high = low - room, high + room
    extra = (high - low) * pad
    return Axis(low - extra, high + extra, start, end, log)


def short(value: float) -> str:
    """A number for a tick or a cell: four digits, powers of ten raised."""
    if not math.isfinite(value):
        return DASH
    text = f"{value:.4g}"
    if "e" in text:
        head, _, power = text.partition("e")
        raised = str(int(power)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
        return f"10{raised}" if head == "1" else f"{head}·10{raised}".replace("-", MINUS)
    return text.replace("-", MINUS)


def apart(ticks: Sequence[float]) -> list[str]:
    """The ticks as numbers that differ from each other."""
    found = [short(tick) for tick in ticks]
    if len(set(found)) < len(ticks):
        step = min(b - a for a, b in itertools.pairwise(ticks))
        digits = 1 - math.floor(math.log10(step))
        found = [f"{tick:.{digits}f}" if 0 < digits < 9 else f"{tick:.9g}" for tick in ticks]
    return [label.replace("-", MINUS) for label in found]


def curve(run: Run, name: str) -> tuple[Numbers, Numbers]:
    """Epochs and values of a run, where both are finite."""
    x, y = run.curves.get("epoch"), run.curves.get(name)
    if x is None or y is None:
        return np.empty(0), np.empty(0)
    keep = np.isfinite(x) & np.isfinite(y)
    x, first = np.unique(x[keep], return_index=True)
    return x, y[keep][first]


def line(runs: Sequence[Run], name: str, points: int = POINTS, colour: int = 0, label: str = "") -> Line | None:
    """The mean of the runs, plus and minus one standard deviation; one that stopped early keeps its last value."""
    done = [run for run in runs if run.status in DONE] or list(runs)
    curves = [found for found in (curve(run, name) for run in done) if len(found[0])]
    if not curves:
        return None
    x = curves[0][0] if len(curves) == 1 else np.unique(np.concatenate([found[0] for found in curves]))
    if len(x) > points:
        x = x[np.unique(np.linspace(0, len(x) - 1, points).round().astype(int))]
    values = np.stack([np.interp(x, *found) for found in curves])
    if not all(run.status in DONE for run in done):  # nothing is said of a run beyond its end
        values = np.where([x <= found[0][-1] for found in curves], values, np.nan)
    count = np.isfinite(values).sum(axis=0)
    x, values, count = x[count > 0], values[:, count > 0], count[count > 0]
    mean = np.nansum(values, axis=0) / count
    spread = np.sqrt(np.nansum((values - mean) ** 2, axis=0) / np.maximum(count - 1, 1))
    return Line(x, mean, mean - spread, mean + spread, colour, label, curves if len(curves) > 1 else [])


def path(x: Iterable[float], y: Iterable[float]) -> str:
    """The d of a polyline, broken where a number is not finite."""
    parts, pen = [], "M"
    for a, b in zip(x, y, strict=True):
        if math.isfinite(a) and math.isfinite(b):
            parts.append(f"{pen}{a:.1f} {min(max(b, -999.0), 1999.0):.1f}".replace(".0", ""))
            pen = "L"
        else:
            pen = "M"
    return "".join(parts)


def svg(width: float, height: float, label: str, parts: Iterable[str]) -> Markup:
    """A picture that scales with its column."""
    head = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">').format(f"{width:g}", f"{height:g}", label)
    return head + Markup("".join(parts)) + Markup("</svg>")


def text(x: float, y: float, words: object, css: str = "", anchor: str = "start") -> str:
    """A piece of text; what it says is escaped."""
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{css}" text-anchor="{anchor}">{escape(words)}</text>'


def stroke(d: str, css: str) -> str:
    """A path of a class; nothing of an empty one."""
    return f'<path class="{css}" d="{d}"/>' if d else ""


def panel(title: str, lines: Sequence[Line], width: float = 400, height: float = 280) -> Markup:
    """Lines over epochs: the grey ones first, then bands, then the coloured means with their labels at the end."""
    left, right, top, bottom = 50.0, 26.0, 12.0, 34.0
    inner, tall = width - left - right, height - top - bottom
    front = [found for found in lines if found.colour] or lines
    x = axis(np.concatenate([found.x for found in lines]), 0, inner, log=False, pad=0)
    means = [found.mean for found in front] + [y for found in front for _, y in found.single]
    y = axis(np.concatenate(means), tall, 0, logarithmic(title))
    if not y.log:
        edges = [edge for found in front if found.single for edge in (found.low, found.high)]
        y = axis(np.concatenate(means + edges), tall, 0, log=False)
    parts = [*_frame(x, y, left, top, inner, tall), text(left + inner / 2, height - 4, "epoch", "n", "middle")]
    # A picture inside the picture cuts off what leaves the axes.
    parts.append(f'<svg x="{left:g}" y="{top:g}" width="{inner:g}" height="{tall:g}">')
    for found in (found for found in lines if not found.colour):
        parts.append(stroke(path(x(found.x), y(found.mean)), "l c0"))
    css = "b" if len(front) <= 3 else "b f"  # many bands over each other would be one dark one
    for found in (found for found in lines if found.colour and found.single):
        low = np.where(found.low > 0, found.low, y_floor(y)) if y.log else found.low
        around = path(np.concatenate([x(found.x), x(found.x)[::-1]]), np.concatenate([y(found.high), y(low)[::-1]]))
        parts.append(stroke(around + "Z" if around else "", f"{css} c{found.colour}"))
        if len(front) <= 3 and len(found.single) <= 20:
            parts += [stroke(path(x(a), y(b)), f"s c{found.colour}") for a, b in found.single]
    coloured = sorted((found for found in lines if found.colour), key=lambda found: -found.colour)
    parts += [stroke(path(x(found.x), y(found.mean)), f"l c{found.colour}") for found in coloured]
    parts += [  # one epoch is a point and no line
        stroke(path(x(f.x), y(f.mean)) + "h0", f"p c{f.colour}") for f in lines if len(f.x) == 1
    ]
    parts.append("</svg>")
    ends = [(float(y(found.mean[-1:])[0]), found) for found in coloured if found.label]
    for place, found in _apart(ends, 14.0, tall):
        parts.append(text(left + inner + 6, top + place + 4, found.label, f"k c{found.colour}"))
    return svg(width, height, f"{title} over the epochs", parts)


def y_floor(y: Axis) -> float:
    """The lowest value that a logarithmic axis shows."""
    return float(10**y.low)


def _apart(ends: list[tuple[float, Line]], room: float, tall: float) -> list[tuple[float, Line]]:
    """Places for the labels, near their lines and never over each other."""
    ends = [(min(max(place, 0.0), tall) if math.isfinite(place) else 0.0, found) for place, found in ends]
    ends.sort(key=lambda end: (end[0], end[1].colour))
    order = np.arange(len(ends)) * room
    wished = np.array([place for place, _ in ends]) - order  # places keep apart where these do not fall
    pushed = np.maximum.accumulate(wished) + np.minimum.accumulate(wished[::-1])[::-1]  # half down, half up
    places = np.clip(pushed / 2, 0, max(tall - room * (len(ends) - 1), 0)) + order
    return [(place, found) for place, (_, found) in zip(places.tolist(), ends, strict=True)]


def _frame(x: Axis, y: Axis, left: float, top: float, inner: float, tall: float) -> list[str]:
    """Rules and numbers of both axes; of the epochs only whole ones."""
    parts = []
    ticks = y.ticks()
    for tick, label in zip(ticks, apart(ticks), strict=True):
        at = top + float(y(np.array([tick]))[0])
        parts.append(stroke(f"M{left:.0f} {at:.1f}h{inner:.0f}", "g"))
        parts.append(text(left - 6, at + 4, label, "n", "end"))
    for tick in (tick for tick in x.ticks(4) if tick == round(tick)):
        at = left + float(x(np.array([tick]))[0])
        parts.append(text(at, top + tall + 17, short(tick) if tick < 1e4 else f"{tick:,.0f}", "n", "middle"))
    return parts


def small(lines: Sequence[Line], y: Axis, x: Axis, label: str, width: float = 120, height: float = 64) -> Markup:
    """A cell of the grid: no numbers, the same axes in every cell."""
    parts = [stroke(f"M0 {height:g}h{width:g}", "g"), f'<svg width="{width:g}" height="{height:g}">']
    for found in sorted(lines, key=lambda found: (found.colour > 0, -found.colour)):
        parts.append(stroke(path(x(found.x), y(found.mean)), f"l c{found.colour}"))
        if len(found.x) == 1:
            parts.append(stroke(path(x(found.x), y(found.mean)) + "h0", f"p c{found.colour}"))
    return svg(width, height, label, [*parts, "</svg>"])


def scatter(
    title: str,
    x_values: Sequence[float],
    y_values: Sequence[float],
    best: int,
    lower: bool,
    named: tuple[str, str],
    width: float = 400,
    height: float = 260,
) -> Markup:
    """A numeric parameter against the metric: a point a configuration, a line through the best at each value."""
    left, right, top, bottom = 50.0, 16.0, 12.0, 40.0
    inner, tall = width - left - right, height - top - bottom
    xs, ys = np.array(x_values), np.array(y_values)
    values = np.unique(xs)
    positive = values[values > 0]
    wide = len(positive) > 1 and positive[-1] / positive[0] >= 8
    steps = wide and len(positive) < len(values)  # with zero among them: one step a value
    drawn = np.searchsorted(values, xs).astype(float) if steps else xs
    x = axis(drawn, 0, inner, log=wide and not steps, pad=0.06)
    ys = np.clip(ys, *_reach(ys))  # an outlier lies at the edge
    y = axis(ys, tall, 0, logarithmic(named[1]), pad=0.08)
    parts = []
    ticks = y.ticks(4)
    for tick, label in zip(ticks, apart(ticks), strict=True):
        at = top + float(y(np.array([tick]))[0])
        parts += [stroke(f"M{left:.0f} {at:.1f}h{inner:.0f}", "g"), text(left - 6, at + 4, label, "n", "end")]
    marks = values if len(values) <= 7 else np.array([values[round(i)] for i in np.linspace(0, len(values) - 1, 5)])
    if not steps and len(values) > 7:
        marks = np.array(x.ticks(5))
    taken = -99.0
    for mark in marks:
        at = left + float(x(np.array([float(np.searchsorted(values, mark)) if steps else mark]))[0])
        if at - taken >= 36:
            parts.append(text(at, top + tall + 17, short(float(mark)), "n", "middle"))
            taken = at
    parts.append(text(left + inner / 2, height - 5, named[0] + (" (log)" if x.log else ""), "n", "middle"))
    parts.append(f'<svg x="{left:g}" y="{top:g}" width="{inner:g}" height="{tall:g}">')
    if 1 < len(values) <= 40:
        pick = np.min if lower else np.max
        tops = np.array([pick(ys[xs == value]) for value in values])
        places = np.arange(len(values), dtype=float) if steps else values
        parts.append(stroke(path(x(places), y(tops)), "l c1"))
    parts.append(stroke(_dots(x(drawn), y(ys)), "d"))
    parts.append(stroke(_dots(x(drawn[best : best + 1]), y(ys[best : best + 1])), "p c1"))
    return svg(width, height, f"{title}: {named[1]} against {named[0]}", [*parts, "</svg>"])


def strip(
    title: str,
    labels: Sequence[str],
    which: Sequence[int],
    values: Sequence[float],
    best: int,
    lower: bool,
    metric: str,
) -> Markup:
    """A parameter of words against the metric: a row a word, a point a configuration, a bar at the best of the row."""
    width, right, top, room, bottom = 400.0, 14.0, 6.0, 26.0, 40.0
    left = min(24 + 6.6 * max(len(label) for label in labels), 150.0)
    inner, tall = width - left - right, room * len(labels)
    rows, xs = np.array(which), np.array(values)
    xs = np.clip(xs, *_reach(xs))  # an outlier lies at the edge
    x = axis(xs, 0, inner, logarithmic(metric), pad=0.06)
    parts = []
    ticks = x.ticks(4)
    for tick, label in zip(ticks, apart(ticks), strict=True):
        at = left + float(x(np.array([tick]))[0])
        parts += [stroke(f"M{at:.1f} {top:.0f}v{tall:.0f}", "g"), text(at, top + tall + 17, label, "n", "middle")]
    parts.append(text(left + inner / 2, top + tall + bottom - 5, metric + (" (log)" if x.log else ""), "n", "middle"))
    most = max(int((left - 18) / 6.6), 4)
    for row, label in enumerate(labels):
        cut = label if len(label) <= most else label[: most - 1] + "…"
        parts.append(text(left - 10, top + room * (row + 0.5) + 4, cut, "w", "end"))
    middle = room * (rows + 0.5)
    parts.append(f'<svg x="{left:g}" y="{top:g}" width="{inner:g}" height="{tall:g}">')
    parts.append(stroke(_dots(x(xs), middle), "d"))
    for row in np.unique(rows):
        here = xs[rows == row]
        at = float(x(np.array([here.min() if lower else here.max()]))[0])
        parts.append(stroke(f"M{at:.1f} {room * row + 5:.1f}v{room - 10:.1f}", "l c1"))
    parts.append(stroke(_dots(x(xs[best : best + 1]), middle[best : best + 1]), "p c1"))
    return svg(width, top + tall + bottom, f"{title}: {metric}", [*parts, "</svg>"])


def interval(mean: float, deviation: float, x: Axis, css: str) -> Markup:
    """A mean and its standard deviation, as a point on a line, for a cell of the table."""
    low, high = (mean - deviation, mean + deviation) if math.isfinite(deviation) else (mean, mean)
    a, at, b = (float(np.clip(place, -50, 150)) for place in x(np.array([low, mean, high])))
    line = f'<path class="i" d="M{a:.1f} 8H{b:.1f}"/>' if b > a else ""
    return Markup(
        f'<svg class="v {css}" viewBox="0 0 100 16" aria-hidden="true">{line}<path class="p" d="M{at:.1f} 8h0"/></svg>'
    )


def _dots(x: Numbers, y: Numbers) -> str:
    """Points as lines of no length, which round ends make visible: a few bytes each."""
    places = {(f"{a:.1f}", f"{b:.1f}") for a, b in zip(x, y, strict=True) if math.isfinite(a) and math.isfinite(b)}
    return "".join(f"M{a} {b}h0" for a, b in sorted(places) if abs(float(b)) < 1e4 and abs(float(a)) < 1e4)


def _reach(values: Numbers) -> tuple[float, float]:
    """The range of all but the far outliers, such as runs that nearly diverged."""
    if len(values) < 20:
        return float(values.min()), float(values.max())
    low, high = np.quantile(values, [0.05, 0.95])
    return max(float(values.min()), float(2 * low - high)), min(float(values.max()), float(2 * high - low))
