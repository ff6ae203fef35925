"""Charts as inline SVG: every number that gets in is finite, every colour comes from the page's style sheet.

Axes, marks and the kinds of charts that share them stand in one file, though it is long.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from trainer.sweeps.record import GOOD
from trainer.sweeps.report.reading import Run
from trainer.sweeps.report.summary import LOWER
from trainer.sweeps.report.values import MINUS, evenly, short

Numbers = NDArray[np.float64]
POINTS = 60
CELL = 120, 64  # width and height of a cell of the grid
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

    def at(self, value: float) -> float:
        """The pixel of one value."""
        return float(self(np.array([value]))[0])

    def ticks(self, most: int = 5) -> list[float]:
        """Round values inside the axis."""
        if self.log and self.high - self.low >= 1.2:
            powers = range(math.floor(self.low), math.ceil(self.high) + 1)
            for steps in ((1, 2, 5), (1, 3)):
                ticks = [step * 10.0**power for power in powers for step in steps]
                inside = [tick for tick in ticks if self.low - 1e-9 <= math.log10(tick) <= self.high + 1e-9]
                if len(inside) <= most + 1:
                    return inside
            first, last = math.ceil(self.low - 1e-9), math.floor(self.high + 1e-9)
            return [10.0**power for power in range(first, last + 1, math.ceil((self.high - self.low) / most))]
        low, high = (10**self.low, 10**self.high) if self.log else (self.low, self.high)
        raw = (high - low) / most
        size = 10.0 ** math.floor(math.log10(raw))
        step = next((size * k for k in (1, 2, 2.5, 5, 10) if size * k >= raw), size * 10)
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-6)
        return [number * step for number in range(first, last + 1)]


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
    done = [run for run in runs if run.status in GOOD] or list(runs)
    curves = [found for found in (curve(run, name) for run in done) if len(found[0])]
    if not curves:
        return None
    x = curves[0][0] if len(curves) == 1 else np.unique(np.concatenate([found[0] for found in curves]))
    x = x[evenly(len(x), points)]
    values = np.stack([np.interp(x, *found) for found in curves])
    if not all(run.status in GOOD for run in done):  # nothing is said of a run beyond its end
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


@dataclass(frozen=True)
class Frame:
    """Where a plot lies in its picture; the numbers of its axes stand to the left and below."""

    left: float
    top: float
    inner: float  # width
    tall: float

    def rules(self, y: Axis, most: int = 5) -> list[str]:
        """Rules across at round values, and these."""
        parts = []
        ticks = y.ticks(most)
        for tick, label in zip(ticks, apart(ticks), strict=True):
            at = self.top + y.at(tick)
            parts.append(stroke(f"M{self.left:.0f} {at:.1f}h{self.inner:.0f}", "g"))
            parts.append(text(self.left - 6, at + 4, label, "n", "end"))
        return parts

    def below(self, at: float, label: str) -> str:
        """A number of the axis below."""
        return text(self.left + at, self.top + self.tall + 17, label, "n", "middle")

    def caption(self, height: float, words: str, x: Axis) -> str:
        """What the axis below means, at this height."""
        return text(self.left + self.inner / 2, height, words + (" (log)" if x.log else ""), "n", "middle")

    def inside(self, parts: Iterable[str]) -> list[str]:
        """A picture inside the picture, which cuts off what leaves the axes."""
        head = f'<svg x="{self.left:g}" y="{self.top:g}" width="{self.inner:g}" height="{self.tall:g}">'
        return [head, *parts, "</svg>"]


def panel(name: str, lines: Sequence[Line], title: str) -> Markup:
    """Lines over epochs: the grey ones first, then bands, then the coloured means with their labels at the end."""
    frame = Frame(50.0, 12.0, 324.0, 234.0)
    front = [found for found in lines if found.colour] or lines
    x = axis(np.concatenate([found.x for found in lines]), 0, frame.inner, log=False, pad=0)
    means = [found.mean for found in front] + [y for found in front for _, y in found.single]
    y = axis(np.concatenate(means), frame.tall, 0, logarithmic(name))
    if not y.log:
        edges = [edge for found in front if found.single for edge in (found.low, found.high)]
        y = axis(np.concatenate(means + edges), frame.tall, 0, log=False)
    coloured = sorted((found for found in lines if found.colour), key=lambda found: -found.colour)
    drawn = [stroke(path(x(found.x), y(found.mean)), "l c0") for found in lines if not found.colour]
    for found in lines:
        if found.colour and found.single:
            drawn += _band(found, x, y, few=len(front) <= 3)
    drawn += [stroke(path(x(found.x), y(found.mean)), f"l c{found.colour}") for found in coloured]
    drawn += [_point(found, x, y) for found in lines]
    ends = _apart([(y.at(found.mean[-1]), found) for found in coloured if found.label], 14.0, frame.tall)
    beside, top = frame.left + frame.inner + 6, frame.top
    labels = [text(beside, top + place + 4, found.label, f"k c{found.colour}") for place, found in ends]
    whole = [tick for tick in x.ticks(4) if tick == round(tick)]
    epochs = [frame.below(x.at(tick), short(tick) if tick < 1e4 else f"{tick:,.0f}") for tick in whole]
    around = [*frame.rules(y), *epochs, frame.caption(276, "epoch", x)]
    return svg(400, 280, f"{title} over the epochs", [*around, *frame.inside(drawn), *labels])


def _band(line: Line, x: Axis, y: Axis, few: bool) -> list[str]:
    """The band of a line, paler where many lie over each other, and its runs where there are few."""
    low = np.where(line.low > 0, line.low, 10**y.low) if y.log else line.low
    around = path(np.concatenate([x(line.x), x(line.x)[::-1]]), np.concatenate([y(line.high), y(low)[::-1]]))
    band = stroke(around + "Z" if around else "", f"{'b' if few else 'b f'} c{line.colour}")
    runs = line.single if few and len(line.single) <= 20 else ()
    return [band, *(stroke(path(x(a), y(b)), f"s c{line.colour}") for a, b in runs)]


def _point(line: Line, x: Axis, y: Axis) -> str:
    """One epoch is a point and no line."""
    return stroke(path(x(line.x), y(line.mean)) + "h0", f"p c{line.colour}") if len(line.x) == 1 else ""


def _apart(ends: list[tuple[float, Line]], room: float, tall: float) -> list[tuple[float, Line]]:
    """Places for the labels, near their lines and never over each other."""
    ends = [(min(max(place, 0.0), tall) if math.isfinite(place) else 0.0, found) for place, found in ends]
    ends.sort(key=lambda end: (end[0], end[1].colour))
    order = np.arange(len(ends)) * room
    wished = np.array([place for place, _ in ends]) - order  # places keep apart where these do not fall
    pushed = np.maximum.accumulate(wished) + np.minimum.accumulate(wished[::-1])[::-1]  # half down, half up
    places = np.clip(pushed / 2, 0, max(tall - room * (len(ends) - 1), 0)) + order
    return [(place, found) for place, (_, found) in zip(places.tolist(), ends, strict=True)]


def cell_axes(metric: str, lines: Sequence[Line]) -> tuple[Axis, Axis]:
    """The axes x and y that all cells of the grid have in common."""
    width, height = CELL
    x = axis(np.concatenate([found.x for found in lines]), 3, width - 3, log=False, pad=0)
    return x, axis(np.concatenate([found.mean for found in lines]), height - 4, 4, logarithmic(metric))


def small(lines: Sequence[Line], x: Axis, y: Axis, label: str) -> Markup:
    """A cell of the grid: no numbers, the same axes in every cell."""
    width, height = CELL
    parts = [stroke(f"M0 {height}h{width}", "g"), f'<svg width="{width}" height="{height}">']
    for found in sorted(lines, key=lambda found: (found.colour > 0, -found.colour)):
        parts += [stroke(path(x(found.x), y(found.mean)), f"l c{found.colour}"), _point(found, x, y)]
    return svg(width, height, label, [*parts, "</svg>"])


PLANE = Frame(50.0, 12.0, 334.0, 208.0)  # of numbers against the metric


def scatter(
    name: str,
    metric: str,
    given: Sequence[float],
    measured: Sequence[float],
    best: int,
    lower: bool,
    lined: bool = True,
) -> Markup:
    """A numeric parameter against the metric: a point a configuration, a line through the best at each value.

    Of values that were drawn and not chosen, each once, the line would be a zigzag; they have none.
    """
    xs, ys = np.array(given), _within_reach(measured)
    values = np.unique(xs)
    positive = values[values > 0]
    log = len(positive) > 1 and positive[-1] / positive[0] >= 8
    steps = log and len(positive) < len(values)  # with zero among them: one step a value

    def place(value: Numbers) -> Numbers:
        return np.searchsorted(values, value).astype(float) if steps else value

    x = axis(place(xs), 0, PLANE.inner, log=log and not steps, pad=0.06)
    y = axis(ys, PLANE.tall, 0, logarithmic(metric), pad=0.08)
    line = []
    if lined and 1 < len(values) <= 40:
        tops = [ys[xs == value].min() if lower else ys[xs == value].max() for value in values]
        line = [stroke(path(x(place(values)), y(np.array(tops))), "l c1")]
    few = len(values) <= 7
    marks = values[evenly(len(values), 7 if few else 5)] if few or steps else np.array(x.ticks(5))
    numbers, taken = list[str](), -99.0
    for mark, at in zip(marks.tolist(), x(place(marks)).tolist(), strict=True):
        if at - taken >= 36 or not numbers:
            numbers.append(PLANE.below(at, short(mark)))
            taken = at
    drawn = [*line, *_dots(x(place(xs)), y(ys), best)]
    around = [*PLANE.rules(y, 4), *numbers, PLANE.caption(255, name, x)]
    return svg(400, 260, f"{name}: {metric} against {name}", [*around, *PLANE.inside(drawn)])


def trials(metric: str, numbers: Sequence[int], measured: Sequence[float], lower: bool) -> Markup:
    """The trials of a search in their order: a point each, and a line at the best so far."""
    xs, ys = np.array(numbers, dtype=float), _within_reach(measured)
    so_far = (np.minimum if lower else np.maximum).accumulate(np.array(measured))
    x = axis(xs, 0, PLANE.inner, log=False, pad=0.04)
    y = axis(ys, PLANE.tall, 0, logarithmic(metric), pad=0.08)
    steps = stroke(path(np.repeat(x(xs), 2)[1:], np.repeat(y(so_far), 2)[:-1]), "l c1")
    below = [PLANE.below(x.at(tick), f"{tick:.0f}") for tick in x.ticks(5) if tick == round(tick)]
    drawn = _dots(x(xs), y(ys), int(ys.argmin() if lower else ys.argmax()), [steps])
    around = [*PLANE.rules(y, 4), *below, PLANE.caption(255, "trial", x)]
    return svg(400, 260, f"{metric} of the trials, and the best so far", [*around, *PLANE.inside(drawn)])


def strip(
    name: str,
    metric: str,
    labels: Sequence[str],
    which: Sequence[int],
    measured: Sequence[float],
    best: int,
    lower: bool,
) -> Markup:
    """A parameter of words against the metric: a row a word, a point a configuration, a bar at the best of the row."""
    width, top, room, bottom = 400.0, 6.0, 26.0, 40.0
    left = min(24 + 6.6 * max(len(label) for label in labels), 150.0)
    frame = Frame(left, top, width - left - 14, room * len(labels))
    height = top + frame.tall + bottom
    rows, xs = np.array(which), _within_reach(measured)
    x = axis(xs, 0, frame.inner, logarithmic(metric), pad=0.06)
    parts = []
    ticks = x.ticks(4)
    for tick, label in zip(ticks, apart(ticks), strict=True):
        parts += [stroke(f"M{left + x.at(tick):.1f} {top:.0f}v{frame.tall:.0f}", "g"), frame.below(x.at(tick), label)]
    parts.append(frame.caption(height - 5, metric, x))
    most = max(int((left - 18) / 6.6), 4)
    for row, label in enumerate(labels):
        cut = label if len(label) <= most else label[: most - 1] + "…"
        parts.append(text(left - 10, top + room * (row + 0.5) + 4, cut, "w", "end"))
    bars = []
    for row in np.unique(rows):
        here = xs[rows == row]
        at = x.at(here.min() if lower else here.max())
        bars.append(stroke(f"M{at:.1f} {room * row + 5:.1f}v{room - 10:.1f}", "l c1"))
    drawn = _dots(x(xs), room * (rows + 0.5), best, bars)
    return svg(width, height, f"{name}: {metric}", [*parts, *frame.inside(drawn)])


def interval(mean: float, deviation: float, x: Axis, css: str) -> Markup:
    """A mean and its standard deviation, as a point on a line, for a cell of the table."""
    around = mean + np.array([-1, 0, 1]) * (deviation if math.isfinite(deviation) else 0.0)
    a, at, b = np.clip(x(around), -50, 150)
    drawn = stroke(f"M{a:.1f} 8H{b:.1f}" if b > a else "", "i") + stroke(f"M{at:.1f} 8h0", "p")
    return Markup(f'<svg class="v {css}" viewBox="0 0 100 16" aria-hidden="true">{drawn}</svg>')


def _dots(x: Numbers, y: Numbers, best: int, between: Sequence[str] = ()) -> list[str]:
    """Points, and on top of what lies between a large one for the best."""
    return [_points(x, y, "d"), *between, _points(x[best : best + 1], y[best : best + 1], "p c1")]


def _points(x: Numbers, y: Numbers, css: str) -> str:
    """Points as lines of no length, which round ends make visible: a few bytes each."""
    places = {(f"{a:.1f}", f"{b:.1f}") for a, b in zip(x, y, strict=True) if math.isfinite(a) and math.isfinite(b)}
    near = [(a, b) for a, b in sorted(places) if abs(float(b)) < 1e4 and abs(float(a)) < 1e4]
    return stroke("".join(f"M{a} {b}h0" for a, b in near), css)


def _within_reach(measured: Sequence[float]) -> Numbers:
    """The values, far outliers at the edge, such as those of runs that nearly diverged."""
    values: Numbers = np.array(measured)
    low, high = np.quantile(values, [0.05, 0.95])
    return values if len(values) < 20 else values.clip(2 * low - high, 2 * high - low)
