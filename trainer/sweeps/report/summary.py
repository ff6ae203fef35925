"""What varied between runs, the configurations that repeat it, their means over seeds, and which is the best."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from trainer.errors import ConfigError
from trainer.objective.metrics import METRICS
from trainer.runs.text import csv_text, written
from trainer.sweeps.record import BAD, GOOD
from trainer.sweeps.report.reading import Run
from trainer.sweeps.report.values import number, plain

LOWER = ("loss", *(name for name, metric in METRICS.items() if metric.higher is False))  # is the better
HIGHER = tuple(name for name, metric in METRICS.items() if metric.higher)
LOSSES = ("val_loss", "loss")
EXACT = json.JSONEncoder(sort_keys=True, default=written)
SILENT = ("seed", "plots", "resume", "loggers", "logger", "name", "sweep")  # they change no number


@dataclass(frozen=True)
class Goal:
    """The metric by which configurations are ranked, why this one, and what tells equal ones apart."""

    metric: str
    lower: bool
    why: str
    tie: str = ""  # a loss that all of them minimise, if there is one

    @property
    def sign(self) -> int:
        return 1 if self.lower else -1

    @property
    def rule(self) -> str:
        """In words, for the terminal and the page alike."""
        equal = f", and of equal ones the lower {self.tie}" if self.tie else ""
        return f"{self.metric}, the {'lower' if self.lower else 'higher'} the better{equal}"


@dataclass
class Configuration:
    """Runs that differ by nothing but their seed."""

    values: dict[str, str]  # text of each varied parameter
    raw: dict[str, Any]
    runs: list[Run]
    rank: int = 0  # from 1 on; 0 is unranked
    mark: str = ""  # best, or close: within one standard error of the best
    colour: int = 0  # of its curves and its rank on the page; 0 is grey

    @cached_property
    def latest(self) -> list[Run]:
        """One run a seed: of several the last that came to its end, so that a repetition is no second sample."""
        found: dict[str, Run] = {}
        for place, run in enumerate(self.runs):
            seed = f"unknown {place}" if run.seed is None else _exact(run.seed)
            if run.status in GOOD or seed not in found or found[seed].status not in GOOD:
                found[seed] = run
        return list(found.values())

    @cached_property
    def done(self) -> list[Run]:
        return [run for run in self.latest if run.status in GOOD]

    @property
    def doubt(self) -> str:
        """Of how many of its runs a solver could be proved to be at the minimum, and is not; empty if of none."""
        count, runs = sum(map(uncertified, self.done)), len(self.done)
        return "" if not count else "not certified" if count == runs else f"{count} of {runs} not certified"

    @property
    def broken(self) -> str:
        """How many of its seeds ended badly, and how; empty if none."""
        found = Counter(run.status for run in self.latest if run.status in BAD)
        return ", ".join(f"{count} {status}" for status, count in found.items())

    def numbers(self, metric: str) -> list[float]:
        found = [run.seconds if metric == "seconds" else run.metric(metric) for run in self.done]
        return [value for value in found if math.isfinite(value)]

    def mean(self, metric: str) -> float:
        values = self.numbers(metric)
        return float(np.mean(values)) if values else math.nan

    def deviation(self, metric: str) -> float:
        """The sample standard deviation over the seeds; nan of fewer than two."""
        values = self.numbers(metric)
        return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


def uncertified(run: Run) -> bool:
    """Whether a solver's gap is above optimizer.gap, or missing for another reason than that there is no proof."""
    wanted, gap = number(run.flat.get("optimizer.gap")), number(run.record.get("gap"))
    if math.isnan(wanted):
        return False
    return gap > wanted or (math.isnan(gap) and not str(run.record.get("gap_reason", "")).startswith("no proof"))


def varied(runs: Sequence[Run]) -> list[str]:
    """The keys in which the runs differ, the seed left out.

    A key of an option counts only if it differs between runs of that option: sgd and adam have other default steps, and
    to say optimizer=adam is to say its lr.  A key that only some runs have counts if nothing else tells them apart.
    """
    texts = [{key: _exact(value) for key, value in run.flat.items() if key not in SILENT} for run in runs]
    keys = list(dict.fromkeys(key for text in texts for key in text))
    found = []
    for key in keys:
        by_option: dict[str, set[str]] = {}
        for text in texts:
            if key in text:
                by_option.setdefault(text.get(key.rpartition(".")[0], ""), set()).add(text[key])
        if any(len(values) > 1 for values in by_option.values()):
            found.append(key)
    full = [text for text, run in zip(texts, runs, strict=True) if run.config]  # skipped jobs have but their overrides
    while True:
        groups: dict[tuple[str | None, ...], list[dict[str, str]]] = {}
        for text in full:
            groups.setdefault(_identity(text, found), []).append(text)
        apart = (key for key in keys if any(len({text.get(key) for text in same}) > 1 for same in groups.values()))
        more = next(apart, None)
        if more is None:
            return sorted(found, key=keys.index)
        found.append(more)


def _exact(value: Any) -> str:
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)  # lr=1 and lr=1.0 are one step
    try:
        return EXACT.encode(value)
    except (ValueError, RecursionError):
        return "?"


def _identity(text: Mapping[str, str], keys: Sequence[str]) -> tuple[str | None, ...]:
    return tuple(text.get(key) for key in keys)


def configurations(runs: Sequence[Run], keys: Sequence[str]) -> list[Configuration]:
    """Runs of equal values in these keys, together; a run of which nothing is known belongs to none."""
    groups: dict[tuple[str | None, ...], Configuration] = {}
    for run in (run for run in runs if run.flat and run.status != "skipped"):
        raw = {key: run.flat[key] for key in keys if key in run.flat}
        identity = _identity({key: _exact(value) for key, value in raw.items()}, keys)
        if identity not in groups:
            groups[identity] = Configuration({key: plain(value) for key, value in raw.items()}, raw, [])
        groups[identity].runs.append(run)
    return list(groups.values())


def measured(runs: Sequence[Run]) -> list[str]:
    """The metrics that runs have, those of the validation first; grad_norm and the like are left to the files."""
    kinds = (*LOWER, *HIGHER, "sparsity")
    names = [name for kind in kinds for name in (f"val_{kind}", kind)]
    here = {name for run in runs for name, value in run.metrics.items() if not math.isnan(value)}
    return [name for name in names if name in here]


def goal(runs: Sequence[Run], wished: str | None = None) -> Goal | None:
    """What ranks: the first metric that all runs have, of the validation rows if there are any, and then the loss.

    The first of metrics=, that is: by default the accuracy. The loss ranks by itself where there is no metric, and
    always only where all runs minimise the same one.
    """
    counted = [run for run in runs if run.status in GOOD]
    names = measured(counted)
    everywhere = [name for name in names if all(name in run.metrics for run in counted)] or names
    losses = [name for name in LOSSES if name in everywhere and len({minimised(run, name) for run in counted}) == 1]
    tie = losses[0] if losses else ""
    if wished is not None:
        lower = wished.removeprefix("val_") in LOWER
        return Goal(wished, lower, "as asked for", tie * (tie != wished)) if wished in names else None
    given: Sequence[Any] = next(
        (run.flat["metrics"] for run in counted if isinstance(run.flat.get("metrics"), list)), []
    )
    order = [*(plain(name, 60) for name in given), *HIGHER, *LOWER[1:]]
    for name in [f"val_{kind}" for kind in order] + order:
        if name in everywhere and _known(name):
            why = "it is the first metric that all runs have"
            return Goal(name, name.removeprefix("val_") in LOWER, why, tie)
    return Goal(tie, True, "all runs minimise the same loss") if tie else None


def minimised(run: Run, name: str) -> tuple[tuple[str, str], ...]:
    """What the loss of this name means: between runs that differ here its numbers cannot be compared.

    A penalty is not in it, and weights and smoothed targets are of the training rows alone.
    """
    own = run.flat.get("loss") == "fenchel_young"  # which is made of its activation
    kinds = ("loss", "activation") if own else ("loss",)
    weighted = ("label_smoothing", "class_weight", "reduction") if name == "loss" else ()
    return tuple((k, _exact(v)) for k, v in run.flat.items() if k.split(".")[0] in kinds or k in weighted)


def data_of(configuration: Configuration) -> tuple[tuple[str, str], ...]:
    """What a configuration was measured on; only within one data set there is a best."""
    return tuple((key, value) for key, value in configuration.values.items() if key.split(".")[0] == "data")


def rank(found: list[Configuration], aim: Goal | None) -> list[Configuration]:
    """Sorted by the goal's mean, the best first; a configuration with a broken seed is no candidate for the best."""
    if aim is None:
        return found

    def order(item: Configuration) -> tuple[Any, ...]:
        mean, tie = aim.sign * item.mean(aim.metric), item.mean(aim.tie)
        first = float(f"{mean:.12g}")  # a mean differs in its last digits with the order of the runs
        numbers = [math.inf if math.isnan(number) else number for number in (first, tie)]
        return (data_of(item), math.isnan(mean), bool(item.broken), *numbers)

    ordered = sorted(found, key=order)
    best: dict[tuple[tuple[str, str], ...], Configuration] = {}
    for place, item in enumerate((item for item in ordered if item.numbers(aim.metric)), 1):
        item.rank = place
        first = best.setdefault(data_of(item), item)
        if first is item:
            item.mark = "best"
            continue
        error = first.deviation(aim.metric) / math.sqrt(len(first.numbers(aim.metric)))
        if not item.broken and abs(item.mean(aim.metric) - first.mean(aim.metric)) <= error:
            item.mark = "close"
    return ordered


class Ranking(NamedTuple):
    """The configurations of some runs, the best first, with what was varied and what ranks."""

    keys: list[str]
    configurations: list[Configuration]
    aim: Goal | None

    def first(self, most: int) -> list[Configuration]:
        """The best few, or the best of each data set, where there are several."""
        best = [item for item in self.configurations if item.mark == "best"]
        return (best if len(best) > 1 else [item for item in self.configurations if item.rank])[:most]


def ranking(runs: Sequence[Run], metric: str | None = None) -> Ranking:
    """What the terminal and the page call the best; ConfigError for a metric that no run has."""
    aim, keys = goal(runs, metric), varied(runs)
    if metric is not None and aim is None:
        raise ConfigError(f"metric={metric!r} is in no finished run; leave it out, or see the columns of metrics.csv.")
    return Ranking(keys, rank(configurations(runs, keys), aim), aim)


def table(runs: Sequence[Run], keys: Sequence[str]) -> str:
    """summary.csv: a row a run; text that a spreadsheet would take for a formula starts with an apostrophe."""
    names = measured(runs)
    head = ["folder", "status", *keys, "seed", *(f"final_{name}" for name in names)]
    head += [f"best_{name}" for name in names if _known(name)] + ["epochs_done", "seconds", "gap", "reason"]
    rows: list[list[Any]] = [head]
    for run in runs:
        best = [
            (run.lowest if name.removeprefix("val_") in LOWER else run.highest).get(name, run.metrics.get(name))
            for name in names
            if _known(name)
        ]
        given = [run.flat.get(key, "") for key in keys]
        numbers = [run.metrics.get(name) for name in names]
        ends = [run.epochs, run.seconds, number(run.record.get("gap")), run.reason]
        rows.append([run.folder, run.status, *given, run.seed, *numbers, *best, *ends])
    return csv_text(map(cell, row) for row in rows)


def _known(name: str) -> bool:
    return name.removeprefix("val_") in (*LOWER, *HIGHER)


def cell(value: Any) -> Any:
    """A number as it is, what is not finite as an empty field, and all else as text."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) < 1e15 else value
    return value if type(value) is int and abs(value) < 1e300 else plain(value, 1000)
