"""Values as text: for a terminal, a CSV file, a command line, and in dots."""

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from trainer.errors import without_secrets

FORMULA = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")  # begins a formula; the last four are = + - @ in full width
_BARE = re.compile(r"[A-Za-z_/.][A-Za-z0-9_/.-]*")
_WORDS = ("true", "false", "null", "nan", "inf")


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """A line a row, each column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def printable(text: str, kept: str = "") -> str:
    """Text for a terminal: a control character from a name is shown and not obeyed, but for those that are kept."""
    return "".join(letter if letter.isprintable() or letter in kept else ascii(letter)[1:-1] for letter in text)


def csv_text(rows: Iterable[Iterable[Any]]) -> str:
    """Rows as lines of a CSV file: numbers to their last digit, and names that no spreadsheet computes."""
    lines: list[str] = []
    # \r is in the line's end so that a name with one is quoted
    writer = csv.writer(SimpleNamespace(write=lines.append), lineterminator="\r\n")
    writer.writerows(map(inert, row) for row in rows)
    return "".join(line[:-2] + "\n" for line in lines)


def inert(value: Any) -> Any:
    """A cell as it is, but for text that a spreadsheet would take for a formula, which gets an apostrophe in front."""
    formula = isinstance(value, str) and (value.startswith(FORMULA) or value.lstrip().startswith(FORMULA))
    return f"'{value}" if formula else value


def flat(node: Mapping[str, Any], inside: str = "") -> Iterator[tuple[str, Any]]:
    """Keys in dots and their values, such as optimizer.lr and 0.02; an empty node is a value."""
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{inside}{key}.")
        else:
            yield f"{inside}{key}", value


def kept(value: Any) -> Any:
    """A value as files may keep it: addresses in it without what may be passwords."""
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, Mapping):
        return {key: kept(item) for key, item in value.items()}
    return [kept(item) for item in value] if isinstance(value, list | tuple) else value


def written(value: Any, text: Callable[[str], str] = str) -> str:
    """A value as the command line writes it: true, null, [a,b]; texts as they are, or as text makes them."""
    if isinstance(value, str):
        return text(value)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(written(item, text) for item in value)}]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{written(key, text)}:{written(item, text)}" for key, item in value.items()) + "}"
    try:
        return str(value)
    except ValueError:  # an integer of more digits than Python writes
        return "a huge number"


def grammar(value: Any) -> str:
    """A value in the grammar of Hydra's overrides, whatever it holds."""
    return written(value, lambda text: text if _BARE.fullmatch(text) and text.lower() not in _WORDS else quoted(text))


def quoted(text: str) -> str:
    """A text in the quotes of that grammar."""
    text = re.sub(r"(\\*)'", lambda found: found[1] * 2 + "\\'", text)  # of backslashes only those before a quote
    text = re.sub(r"(\\+)$", lambda found: found[1] * 2, text)
    return f"'{text}'"
