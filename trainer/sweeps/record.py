"""sweep.json: the one page of a sweep, which says how each of its jobs ended."""

import json
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.data.reading import MAX_BYTES
from trainer.errors import ConfigError, without_secrets
from trainer.runs.outputs import check_plain, shorter, write_json

FORMAT = "softmax-trainer sweep 1"
NAME = "sweep.json"
GOOD = ("finished", "stopped")  # a run that came to its end counts in the means
BAD = ("diverged", "failed", "timeout", "killed")
STATUSES = (*GOOD, "running", "interrupted", *BAD, "skipped", "pending")
DONE = (*GOOD, "skipped")  # what a resumed sweep leaves as it is


@dataclass
class Line:
    """One job: its number, its folder inside that of the sweep, what makes it special, and how it ended."""

    number: int
    folder: str
    overrides: list[str]
    status: str = "pending"
    reason: str = ""


@dataclass
class Record:
    """The page; arguments are those of the command line, from which a resumed sweep makes its jobs again."""

    status: str  # running, then finished, failed (a job went wrong) or interrupted
    command: str
    arguments: list[str]
    varied: list[str]
    jobs: list[Line]

    def write(self, folder: Path) -> None:
        """Writes sweep.json, whole."""
        jobs = [vars(line) for line in self.jobs]
        write_json(folder / NAME, {"format": FORMAT, **{**vars(self), "jobs": jobs}})

    def counts(self) -> dict[str, int]:
        """How many jobs have which status; a status that none has is left out."""
        found = Counter(line.status for line in self.jobs)
        return {status: found[status] for status in STATUSES if found[status]}


def check_words(words: Iterable[str]) -> None:
    """ConfigError for an address with what may be a password: the words stay in sweep.json, to go on from."""
    for word in words:
        key, _, value = word.partition("=")
        if any(without_secrets(text.strip()) != text.strip() for text in re.split(r"['\"\[\],]", value)):
            raise ConfigError(
                f"{key} has a password, or something behind a ?, in its address, and sweep.json would keep it. Put it "
                f"into an environment variable, and write {key}='https://host/a.csv?${{oc.env:NAME}}'."
            )


def read(folder: Path) -> Record:
    """The page of a sweep's folder; ConfigError where it is not one of ours."""
    path = folder / NAME
    check_plain(path)
    try:
        if path.stat().st_size > MAX_BYTES // 16:
            raise ValueError("it is too large")
        content = json.loads(path.read_text(encoding="utf-8"))
        return _checked(content)
    except FileNotFoundError:
        raise ConfigError(
            f"{folder} has no {NAME}, so it is no sweep of ours. Give the folder below outputs/multirun/."
        ) from None
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ConfigError(f"{path} is not the page of a sweep: {error}. Run the sweep anew.") from None


def _checked(content: Any) -> Record:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"its format is not {FORMAT!r}")
    arguments, varied = _words(content["arguments"]), _words(content["varied"])
    jobs = [_line(number, node) for number, node in enumerate(content["jobs"])]
    return Record(str(content["status"]), str(content["command"]), arguments, varied, jobs)


def _line(number: int, node: Mapping[str, Any]) -> Line:
    if node["number"] != number or node["status"] not in STATUSES:
        raise ValueError(f"job {number} is wrong")
    return Line(number, str(node["folder"]), _words(node["overrides"]), node["status"], str(node["reason"]))


def _words(value: Any) -> list[str]:
    if not (isinstance(value, list) and all(isinstance(word, str) for word in value)):
        raise ValueError("a list of words is missing")
    return value


def check_free(folder: Path) -> None:
    """ConfigError where a folder holds a sweep already."""
    if (folder / NAME).exists():
        raise ConfigError(f"{folder} holds a sweep. Choose another hydra.sweep.dir, or go on: {go_on(folder)}")


def go_on(folder: Path) -> str:
    """The command that goes on with the sweep in a folder."""
    return shlex.join(["python", "-m", "trainer.sweep", f"resume={shorter(folder)}"])
