"""model.md: one page about a model, for whoever finds it: data, settings, optimum, evaluation, weights, versions."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from trainer.data.rows import Data
from trainer.runs.coefficients import Coefficients
from trainer.runs.evaluation import Evaluation
from trainer.runs.outputs import MODEL, write_text
from trainer.runs.text import flat, written

CARD = "model.md"
SHOWN, STRONGEST = 30, 3  # classes, and features of each
ESCAPED = str.maketrans({letter: f"\\{letter}" for letter in "\\`*[]<>|$"})


def write(
    folder: Path,
    title: str,
    record: Mapping[str, Any],
    train: Data,
    found: Mapping[str, Evaluation],
    learnt: Coefficients,
) -> Path:
    """Writes the page about a run with this record, of the training rows, and what was found and learnt."""
    split, config, chosen = record["split"], record["config"], record.get("cross_validation")
    source = config.get("data", {})
    name = source.get("path") or source.get("name", "unknown")
    rows = f"{split['train_rows']:,} for training, {split['valid_rows']:,} for validation"
    shares = [f"{name} {count:,}" for name, count in zip(train.classes, split["class_rows"], strict=True)]
    facts = [
        ("data", _plain(name) + (f", target {_plain(train.target)}" if train.target else "")),
        ("SHA-256 of the data", record["data_sha256"] or "generated or bundled"),
        ("rows", rows + (f", {found['test'].of:,} for the test" if "test" in found else "")),
        ("split", f"by seed {split['seed']}, each class with its share"),
        ("features", f"{len(train.features):,}: {_some(train.features, 12)}"),
        *([] if train.encoding is None else [("columns", _plain(train.encoding.summary))]),
        ("classes", f"{len(train.classes):,}, with their training rows: {_some(shares, SHOWN)}"),
        *([] if chosen is None else [("strength of the penalty", _chosen(chosen))]),
        ("ended", f"{record['status']} after {record['epochs']} epochs. {record['reason']}"),
        ("distance to the minimum", record["gap_reason"]),
    ]
    parts = [f"# {title}", _table(("", ""), facts)]
    if found:
        parts += ["## Evaluation", _figures(found), *(f"**{one.verdict}**" for one in found.values() if one.verdict)]
        name, last = list(found.items())[-1]
        kinds = ("precision", "recall", "f1", "support")
        each = [(_plain(one["class"]), *(f"{one[kind]:.4g}" for kind in kinds)) for one in last.classes[:SHOWN]]
        parts += [f"Each class, on the {last.rows:,} {name} rows:", _table(("class", *kinds), each)]
    strongest = [
        (_plain(one), ", ".join(f"{_plain(feature)} {value:+.3g}" for feature, value in learnt.strongest(k, STRONGEST)))
        for k, one in enumerate(learnt.classes[:SHOWN])
    ]
    parts += [
        "## What it has learnt",
        "What one standard deviation of a feature adds to the score of a class, the strongest features first:",
        _table(("class", "features"), strongest),
        "## Settings",
        "\n".join(f"    {key}={written(value)}".replace("\n", " ") for key, value in flat(config)),
        "## Versions",
        _table(("package", "version"), [(key, value) for key, value in record["versions"].items() if value]),
        "## How to use it",
        f"```python\nfrom trainer import SoftmaxRegression\n\nmodel = SoftmaxRegression.load({MODEL!r})\n```",
        f"Or on the command line: `trainer predict model={MODEL} data=file data.path=new.csv`.",
    ]
    return write_text(folder / CARD, "\n\n".join(parts) + "\n", durable=False)


def _chosen(found: Mapping[str, Any]) -> str:
    by = f"by rule={found['rule']} of {found['folds']} folds, of {len(found['strengths'])} strengths"
    return f"{found['strength']:.4g}, {by}"


def _figures(found: Mapping[str, Evaluation]) -> str:
    """A table of the figures of each set of rows, and of its baseline in brackets."""
    names = list(next(iter(found.values())).metrics)
    rows = [
        (name, *(f"{one.metrics.get(name, float('nan')):.4g} ({one.baseline[name]:.4g})" for one in found.values()))
        for name in names
    ]
    most = next(iter(found.values())).most
    return _table(("in brackets: always " + _plain(most), *found), rows)


def _some(names: Sequence[str], most: int) -> str:
    more = len(names) - most
    return ", ".join(map(_plain, islice(names, most))) + (f" and {more:,} more" if more > 0 else "")


def _table(header: Iterable[Any], rows: Iterable[Iterable[Any]]) -> str:
    header = list(header)
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _plain(name: Any) -> str:
    """A name that means nothing in Markdown."""
    text = " ".join(str(name).split())
    return text.translate(ESCAPED)
