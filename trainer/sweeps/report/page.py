"""summary.csv, and report.html: what the summary found, set for reading. Jinja escapes whatever comes from a run.

The parts of the page follow one another as on the page, in one file, though it is long.
"""

import itertools
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from jinja2 import Environment, FunctionLoader, StrictUndefined, Template
from markupsafe import Markup

from trainer.runs.outputs import write_text, writing
from trainer.sweeps.record import GOOD, STATUSES
from trainer.sweeps.report import charts
from trainer.sweeps.report.reading import Found, Run
from trainer.sweeps.report.repeat import command
from trainer.sweeps.report.summary import LOSSES, Configuration, Goal, Ranking, data_of, measured, minimised, table
from trainer.sweeps.report.values import DASH, MINUS, evenly, number, plain, short

FIRST_ROWS, ALL_ROWS = 30, 1000
GREY_LINES = 240
MOST_PANELS = 24
FEW = 20  # numbers that are told one by one


def write(found: Found, ranked: Ranking, output: Path, alone: bool = False) -> list[Path]:
    """The two files of what has been read and ranked; alone says that a lock keeps other writers from the folder."""
    again = sum(len(item.runs) - len(item.latest) for item in ranked.configurations)
    if again:
        runs = "run repeats" if again == 1 else "runs repeat"
        found.problems.append(f"{again} {runs} a configuration with the same seed; the last finished one counts.")
    page = render(found, ranked, output)
    with writing(output):
        output.mkdir(parents=True, exist_ok=True)
    texts = {"summary.csv": table(found.runs, ranked.keys), "report.html": page}
    return [write_text(output / name, text, alone=alone) for name, text in texts.items()]


def render(found: Found, ranking: Ranking, output: Path) -> str:
    """The whole page, which is to lie in a folder."""
    keys, ranked, aim = ranking
    counts = Counter(run.status for run in found.runs)
    first = sorted((item for item in ranked if item.rank), key=lambda item: (item.mark != "best", item.rank))
    coloured = sorted(first[: charts.COLOURS], key=lambda item: item.rank)  # the best of each data set, then by rank
    for place, item in enumerate(coloured, 1):
        item.colour = place
    return template("page.html.jinja").render(
        most={"rows": ALL_ROWS, "panels": MOST_PANELS},
        found=found,
        runs=len(found.runs),
        configurations=len(ranked),
        keys=keys,
        counts=[(status, counts[status]) for status in (*STATUSES, "unknown") if counts[status]],
        varied=_varied(found.runs, keys),
        shared=_shared(found.runs, keys),
        aim=aim,
        times=_times(found.runs),
        best=[_best(item, aim, output) for item in ranked if item.mark == "best"] if aim else [],
        seeds=max((len(item.done) for item in ranked), default=0),
        table=_table(ranked, aim),
        curves=_curves(ranked, aim),
        grid=_grid(found.runs, ranked, aim),
        trials=_trials(found, aim),
        parameters=_parameters(ranked, keys, aim, lines=not found.searches),
        every=[(item, run, _link(run, output)) for item in ranked for run in item.runs if run.place],
        failures=_failures(found.runs, keys),
    )


@cache
def template(name: str) -> Template:
    """A page of this folder, with the head and the style that all share; it takes Jinja a twentieth of a second."""
    here = files("trainer.sweeps.report")
    loader = FunctionLoader(lambda other: here.joinpath(other).read_text("utf-8"))
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=loader
    )
    environment.filters |= {"date": _date, "duration": duration, "plain": plain, "short": short, "value": value}
    return environment.get_template(name)


def value(mean: float, deviation: float = math.nan) -> str:
    """0.742 ± 0.013: as many digits as the deviation has two of, else four significant."""
    if not math.isfinite(mean):
        return DASH
    if not deviation > 0 or not 1e-4 <= abs(mean) < 1e5:
        return short(mean) + (f" ± {short(deviation)}" if math.isfinite(deviation) else "")
    digits = min(max(1 - math.floor(math.log10(deviation)), 0), 6)
    return f"{mean:.{digits}f} ± {deviation:.{digits}f}".replace("-", MINUS)


def _values(runs: Sequence[Run], key: str) -> dict[str, Any]:
    """The values of a key by their text, in order: numbers by size, words as they come."""
    found = {plain(run.flat[key]): run.flat[key] for run in runs if key in run.flat}
    if _numbers(found.values()):
        found = dict(sorted(found.items(), key=lambda item: float(item[1])))
    return found


def _few(values: Mapping[str, Any]) -> list[str]:
    """The values as texts; of many numbers, as a search draws them, the range."""
    numbers = list(values.values())
    if len(numbers) <= FEW or not _numbers(numbers):
        return list(values)
    return [f"{short(numbers[0])} to {short(numbers[-1])}, {len(numbers)} values"]


def _numbers(values: Iterable[Any]) -> bool:
    return all(math.isfinite(number(value)) for value in values)


def _varied(runs: Sequence[Run], keys: Sequence[str]) -> list[tuple[str, list[str]]]:
    seeds = {plain(run.seed) for run in runs if run.seed is not None}
    told = [(plain(key, 60), _few(_values(runs, key))) for key in keys]
    if len(seeds) > 1:
        told.append(("seed", sorted(seeds, key=lambda text: (not text.isdigit(), len(text), text))))
    return told


def _shared(runs: Sequence[Run], keys: Sequence[str]) -> list[tuple[str, str]]:
    """The main choices that all runs have in common."""
    main = ("data", "activation", "loss", "gradient", "optimizer", "schedule", "penalty", "epochs", "batch_size")
    found = {key: _values(runs, key) for key in main if key not in keys}
    return [(key, next(iter(texts))) for key, texts in found.items() if len(texts) == 1]


def duration(seconds: float) -> str:
    """3.21 s, 4 min 10 s, 2 h 5 min."""
    if not math.isfinite(seconds):
        return DASH
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60} min"


def _date(written: float) -> str:
    return datetime.fromtimestamp(written).strftime("%Y-%m-%d %H:%M") if math.isfinite(written) else DASH


def _times(runs: Sequence[Run]) -> str:
    """When the runs ended, and how long they took, in a sentence."""
    dates = [_date(moment) for moment in sorted(run.written for run in runs if math.isfinite(run.written))]
    if not dates:
        return ""
    span = dates[0] if dates[0] == dates[-1] else f"from {dates[0]} to {dates[-1]}"
    seconds = [run.seconds for run in runs if math.isfinite(run.seconds)]
    return f"Ended {span}" + (f", after {duration(sum(seconds))} of training in all." if seconds else ".")


def _link(run: Run, output: Path) -> str:
    """The way from the page to the folder of a run, so that both can be moved together; empty if there is none."""
    try:
        way = os.path.relpath(run.place, output) if run.place else ""
    except ValueError:  # on another drive of Windows
        return ""
    return quote(os.fsencode(way.replace(os.sep, "/"))) + "/" if way else ""


def _best(item: Configuration, aim: Goal, output: Path) -> dict[str, Any]:
    """The best configuration, and its best run as a command."""
    runs = [run for run in item.done if math.isfinite(run.metric(aim.metric))]
    run = min(runs, key=lambda run: (aim.sign * run.metrics[aim.metric], run.metrics.get(aim.tie, 0.0)))
    record = run.record
    versions = record.get("versions")
    used = dict(itertools.islice(versions.items(), 12)) if isinstance(versions, Mapping) else {}
    if record.get("git_commit"):
        used["commit"] = str(record["git_commit"])[:12]
    return {
        "of": item,
        "run": run,
        "link": _link(run, output),
        "command": command(run),
        "data": ", ".join(f"{key} {text}".removeprefix("data.").removeprefix("data ") for key, text in data_of(item)),
        "versions": ", ".join(f"{plain(name, 30)} {plain(text, 30)}" for name, text in used.items()),
    }


def label_of(item: Configuration, others: Sequence[Configuration]) -> str:
    """loss=ce, optimizer.lr=0.1: what tells it from the others."""
    told = {key: text for key, text in item.values.items() if any(other.values.get(key) != text for other in others)}
    return ", ".join(f"{key}={text}" for key, text in (told or item.values).items()) or "the only configuration"


def _table(ranked: Sequence[Configuration], aim: Goal | None) -> dict[str, Any]:
    """The metrics that are its columns, and its rows: configurations, the first of them with a picture each."""
    metrics = measured([run for item in ranked for run in item.done])
    metric = aim.metric if aim else ""  # which no run has
    if aim:
        metrics = [metric, *(name for name in metrics if name != metric)]
    first = [(item, item.mean(metric), item.deviation(metric)) for item in ranked[:FIRST_ROWS]]
    x = charts.axis(np.array([(mean, mean - apart, mean + apart) for _, mean, apart in first]), 3, 97, pad=0.02)
    return {
        "metrics": [*metrics[:5], "seconds"],
        "rows": [
            (item, charts.interval(mean, apart, x, f"c{item.colour}") if item.rank else "")
            for item, mean, apart in first
        ],
        "more": [(item, "") for item in ranked[FIRST_ROWS:ALL_ROWS]],
        "left": len(ranked) - ALL_ROWS,
        "uncertified": any(item.doubt for item in ranked[:ALL_ROWS]),
    }


def _curves(ranked: Sequence[Configuration], aim: Goal | None) -> dict[str, Any]:
    """Panels of the losses and of the metric that ranks; the best in colour, the others grey."""
    others = [item for item in ranked if not item.colour]
    shown = {id(others[place]) for place in evenly(len(others), GREY_LINES)}
    points = charts.POINTS if len(shown) < 100 else charts.POINTS // 2
    panels, seen = [], set[int]()
    for name in dict.fromkeys(["loss", "val_loss", *([aim.metric] if aim else [])]):
        for title, items in _comparable([item for item in ranked if item.colour or id(item) in shown], name):
            lines = [charts.line(item.latest, name, points) for item in items if not item.colour]
            for item in (item for item in items if item.colour):
                lines.append(charts.line(item.latest, name, charts.POINTS, item.colour, str(item.rank)))
            drawn = [found for found in lines if found is not None and len(found.x)]
            seen |= {found.colour for found in drawn}
            if drawn:
                panels.append((title, charts.panel(name, drawn, title)))
    named = [item for item in ranked if item.colour in seen - {0}]
    return {
        "panels": panels,
        "legend": [(item, label_of(item, named)) for item in named],
        "grey": len(others),
        "drawn": len(shown),
    }


def _comparable(ranked: Sequence[Configuration], name: str) -> list[tuple[str, list[Configuration]]]:
    """The configurations whose curves of this name mean the same, with a title: of a loss those that minimise it."""
    groups: dict[tuple[tuple[str, str], ...], list[Configuration]] = {}
    for item in ranked:
        found = [run for run in item.latest if name in run.curves]  # of others not even the loss may be known
        if found:
            groups.setdefault(minimised(found[0], name) if name in LOSSES else (), []).append(item)
    common = set(next(iter(groups), ())).intersection(*groups)
    titles = []
    for kind in groups:
        told = {
            key.removeprefix("loss."): plain(text, 60).strip('"') for key, text in kind if (key, text) not in common
        }
        words = [text if key == "loss" else f"{key} {text}" for key, text in told.items()]
        titles.append(f"{name}: {', '.join(words)}" if words else name)
    return list(zip(titles, groups.values(), strict=True))


def _grid(runs: Sequence[Run], ranked: Sequence[Configuration], aim: Goal | None) -> dict[str, Any] | None:
    """Activation x loss x strategy as small multiples: of each cell and strategy the best configuration."""
    sides = [key for key in ("activation", "loss", "gradient") if len(_values(runs, key)) > 1]
    if aim is None or len(sides) < 2:
        return None
    row_key, column_key, colour_key = (*sides, "")[:3]
    colours = list(_values(runs, colour_key))[: charts.COLOURS] if colour_key else [""]
    best: dict[tuple[str, str, str], Configuration] = {}
    for item in ranked:
        if item.rank:
            texts = {key: plain(item.runs[0].flat.get(key)) for key in sides}
            best.setdefault((texts[row_key], texts[column_key], texts.get(colour_key, "")), item)
    lines = {}
    for place, item in best.items():
        colour = colours.index(place[2]) + 1 if place[2] in colours else 0
        if drawn := charts.line(item.latest, aim.metric, 30, colour):
            lines[place] = drawn
    if not lines:
        return None
    x, y = charts.cell_axes(aim.metric, list(lines.values()))
    cells = {}
    for pair in {place[:2] for place in lines}:
        here = [place for place in lines if place[:2] == pair]
        label = f"{row_key}={pair[0]}, {column_key}={pair[1]}: {aim.metric}"
        mean = min((best[place].mean(aim.metric) for place in here), key=lambda mean: aim.sign * mean)
        picture = charts.small([lines[place] for place in here], x, y, label)
        cells[pair] = picture, short(mean), any(best[place].mark == "best" for place in here)
    reasons: dict[tuple[str, str], tuple[str, str]] = {}
    for run in runs:
        if run.status not in GOOD:
            pair = plain(run.flat.get(row_key)), plain(run.flat.get(column_key))
            reasons.setdefault(pair, (run.status, run.reason))
    low, high = (10**y.low, 10**y.high) if y.log else (y.low, y.high)
    return {
        "sides": (row_key, column_key, colour_key),
        "columns": list(_values(runs, column_key))[:24],
        "rows": list(_values(runs, row_key))[:24],
        "cells": cells,
        "reasons": reasons,
        "colours": colours if colour_key else [],
        "low": short(float(f"{low:.3g}")),
        "high": short(float(f"{high:.3g}")),
        "log": y.log,
    }


def _trials(found: Found, aim: Goal | None) -> list[tuple[str, Markup]]:
    """The trials of each search in their order."""
    known = {run.folder: run for run in found.runs if run.status in GOOD}
    panels: list[tuple[str, Markup]] = []
    if aim is None:
        return panels
    for folders in found.searches[:MOST_PANELS]:
        values = [known[f].metric(aim.metric) if f in known else math.nan for f in folders]
        numbers = [number for number, value in enumerate(values) if math.isfinite(value)]
        if len(numbers) > 1:
            picture = charts.trials(aim.metric, numbers, [values[number] for number in numbers], aim.lower)
            title = plain(Path(folders[0]).parent.as_posix(), 200) if len(found.searches) > 1 else aim.metric
            panels.append((title, picture))
    return panels


def _parameters(
    ranked: Sequence[Configuration], keys: Sequence[str], aim: Goal | None, lines: bool
) -> list[tuple[str, Markup, int]]:
    """Each varied parameter against the metric, whatever the others are."""
    if aim is None:
        return []
    found = []
    for key in keys:
        items = [item for item in ranked if key in item.raw and math.isfinite(item.mean(aim.metric))]
        texts = list(dict.fromkeys(item.values[key] for item in items))
        if len(texts) < 2:
            continue
        words = not _numbers(item.raw[key] for item in items)
        if words:
            tops = {t: min(aim.sign * i.mean(aim.metric) for i in items if i.values[key] == t) for t in texts}
            order = sorted(texts, key=lambda text: (tops[text], text))[:30]
            items = [item for item in items if item.values[key] in order]
        means = [item.mean(aim.metric) for item in items]
        best = next((place for place, item in enumerate(items) if item.mark == "best"), 0)
        title = plain(key, 60)
        if words:
            which = [order.index(item.values[key]) for item in items]
            picture = charts.strip(title, aim.metric, order, which, means, best, aim.lower)
        else:
            given = [float(item.raw[key]) for item in items]
            picture = charts.scatter(title, aim.metric, given, means, best, aim.lower, lines)
        found.append((title, picture, len(texts) - 30 if words else 0))
    return found[:MOST_PANELS]


def _failures(runs: Sequence[Run], keys: Sequence[str]) -> list[tuple[str, str, list[str]]]:
    """Status, reason and names of runs that did not come to their end; reasons that differ by numbers only are one."""
    groups: dict[tuple[str, str], tuple[str, str, list[str]]] = {}
    for run in runs:
        if run.status not in (*GOOD, "pending"):
            values = ", ".join(f"{key}={plain(run.flat[key], 60)}" for key in keys if key in run.flat)
            seed = "" if run.seed is None else f"seed={plain(run.seed, 40)}"
            told = f"{values}, {seed}".strip(", ") if run.flat else ""
            kind = run.status, re.sub(r"[-+]?[0-9][0-9.e+-]*", "0", run.reason)
            *_, names = groups.setdefault(kind, (run.status, run.reason, []))
            names.append(f"{run.folder}: {told}" if told else run.folder)
    return sorted(groups.values(), key=lambda group: ((*STATUSES, "unknown").index(group[0]), -len(group[2])))
