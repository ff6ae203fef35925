"""The words of a command line as people write them, made into what a command reads."""

import os
import re

from trainer.runs.text import grammar

PATHS = (
    *("data.path", "data.target", "data.test_path", "features", "labels", "model", "output", "resume"),
    *("hydra.run.dir", "hydra.sweep.dir", "callbacks.mlflow.store"),
)
OWN = ("report", "sweep")  # commands that read their words themselves; Hydra reads those of the others
# What is not one plain text: nothing, what is quoted already, and several values of a sweep.
_NO_TEXT = re.compile(r"|null|(['\"]).*\1|.*,.*|(choice|glob|shuffle|sort|range|tag)\(.*\)", re.IGNORECASE | re.DOTALL)
_LIST = re.compile(r"\[([^\[\]'\"{}]*)\]")  # of paths without quotes


def as_meant(command: str, words: list[str]) -> list[str]:
    """The words with ~ in a path as the home folder, which a shell leaves alone behind an equals sign.

    For Hydra, a path gets the quotes that its grammar wants, and data.path without data= chooses data=file.
    """
    words = [_path(word, command not in OWN) for word in words]
    keys = {word.partition("=")[0] for word in words}
    alone = command == "train" and "data.path" in keys and not keys & {"data", "resume"}
    return ["data=file"] * alone + words


def _path(word: str, quote: bool) -> str:
    key, _, value = word.partition("=")
    if key.lstrip("+") not in PATHS:
        return word
    value = re.sub(r"(^\[?|[,'\"])~(?=[/\\]|$)", lambda found: found[1] + os.path.expanduser("~"), value)
    if quote and key.lstrip("+").startswith("data.") and (found := _LIST.fullmatch(value)):
        return f"{key}={grammar([name.strip() for name in found[1].split(',') if name.strip()])}"
    listed = key == "features" and value.startswith("[")
    return f"{key}={value if not quote or listed or _NO_TEXT.fullmatch(value) else grammar(value)}"
