"""Values of runs as people read them, whatever they are: text without controls, finite numbers, keys in dots."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from trainer.errors import is_text
from trainer.runs.text import written

DASH, MINUS = "\u2013", "\u2212"
_HIDDEN = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b.?"  # escape sequences of terminals
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]"  # controls, reordering marks
)


def plain(value: Any, most: int = 200) -> str:
    """A value as text of at most so many characters, without escape sequences, controls and reordering marks."""
    text = f"{value:.10g}" if isinstance(value, float) else written(value)  # 0.3 and not 0.30000000000000004
    text = _HIDDEN.sub("", text).encode("utf-8", "replace").decode()
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1] + "…"


@lru_cache(1000)
def name_of(text: str) -> str:
    """The name of a metric as plain text; a thousand runs have the same few."""
    return plain(text, 60)


def number(value: Any) -> float:
    """A finite float, or nan for all else."""
    try:
        found = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    except OverflowError:
        return math.nan
    return found if abs(found) < 1e100 else math.nan  # beyond it no axis could be drawn


def natural(name: str) -> list[tuple[bool, int, str]]:
    """A sort key by which 10 comes after 9."""
    parts = re.findall(r"([0-9]{1,18})|([^0-9]+)", name)
    return [(not digits, int(digits or 0), digits or text) for digits, text in parts]


def flatten(config: Mapping[str, Any]) -> dict[str, Any]:
    """Keys in dots, as the command line has them: {loss: {name: focal, gamma: 2}} is loss=focal, loss.gamma=2.

    A node of named nodes (callbacks) is their names, and then theirs; one of plain values without a name is one value.
    """
    flat: dict[str, Any] = {}

    def visit(prefix: str, node: Mapping[str, Any], depth: int) -> None:
        for key, value in node.items():
            path = f"{prefix}.{key}" if prefix else str(key)
            if len(flat) >= 500:
                return
            if not isinstance(value, Mapping) or depth >= 6:
                if not (prefix and key == "name"):
                    flat[path] = value
            elif "name" in value:
                flat[path] = value["name"]
                visit(path, value, depth + 1)
            elif all(isinstance(item, Mapping) for item in value.values()):
                flat[path] = list(value) or "none"
                visit(path, value, depth + 1)
            elif any(isinstance(item, Mapping) for item in value.values()):
                visit(path, value, depth + 1)
            else:
                flat[path] = value

    visit("", config, 0)
    return flat


def overridden(overrides: Sequence[Any]) -> dict[str, Any]:
    """What overrides such as optimizer.lr=0.1 say, as a flat configuration."""
    flat: dict[str, Any] = {}
    for override in overrides[:100]:
        key, equals, value = written(override).partition("=")
        if equals:
            try:
                flat[key.lstrip("+~")] = sound(json.loads(value))
            except (ValueError, RecursionError):
                flat[key.lstrip("+~")] = value.strip("'\"")
    return flat


def sound(value: Any) -> Any:
    """What was read from JSON, with ? for each half of a surrogate pair, which JSON can spell and no file can hold."""
    if is_text(value):
        return value
    return json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))


def evenly(count: int, most: int) -> list[int]:
    """The places of at most so many things out of count, evenly apart."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()  # type: ignore[no-any-return]


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
