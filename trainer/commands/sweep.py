"""The command ``trainer sweep resume=FOLDER``: goes on with a sweep that did not end."""

from pathlib import Path

from trainer.commands import train
from trainer.errors import ConfigError
from trainer.runs.text import quoted
from trainer.sweeps.record import read

HELP = """Goes on with a sweep, with the values that it began with: jobs that have finished stay, the others go on from
their checkpoints, or are run again without one.

  python -m trainer.sweep resume=outputs/multirun/2026-01-31/12-00-00-000000

Keys of the sweep itself may be given anew, as sweep.timeout=60 or sweep.workers=1. Others are compared with those that
the sweep began with, and refused with the difference where they would change its jobs."""


def main(words: list[str]) -> None:
    """Calls the command line of trainer with the arguments of the sweep."""
    if {"-h", "--help"} & set(words):
        print(HELP)
        return
    train.main(arguments(words))


def arguments(given: list[str]) -> list[str]:
    """The command line of the sweep that resume= names, with what is given beside it in the place of the old values."""
    named = [word.partition("=")[2] for word in given if word.startswith("resume=")]
    if not named or not named[-1]:
        raise ConfigError("resume= needs the folder of a sweep, as in resume=outputs/multirun/2026-01-31/12-00-00.")
    folder = Path(named[-1])
    record = read(folder)
    new = [word for word in given if not word.startswith("resume=")]
    keys = {_key(word) for word in new}
    kept = [word for word in record.arguments if _key(word) not in keys]
    for word in kept:  # a file must not choose what is imported or where is written
        plain = word.startswith(("hydra/launcher=", "hydra/sweeper=")) and word.partition("=")[2].isidentifier()
        if word.startswith("-") or (_key(word).startswith("hydra") and not plain):
            raise ConfigError(
                f"{folder} asks for {word!r}, which is not taken from a file. Give it on the command line."
            )
    return ["-m", *kept, *new, f"hydra.sweep.dir={quoted(str(folder.absolute()))}", "hydra.sweeper.resume=true"]


def _key(word: str) -> str:
    return word.partition("=")[0].lstrip("+~")
