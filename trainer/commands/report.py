"""The command ``trainer report``, and ``python -m trainer.report``."""

from collections import Counter
from pathlib import Path

from trainer.errors import ConfigError, counted
from trainer.sweeps.report.page import write
from trainer.sweeps.report.reading import read, shown
from trainer.sweeps.report.summary import ranking
from trainer.sweeps.report.values import plain

HELP = """Writes summary.csv and report.html of runs and sweeps, finished or not.

  python -m trainer.report FOLDER [FOLDER ...] [output=FOLDER] [metric=NAME]

A folder is one of a run or a sweep, or holds some anywhere below; links are not followed.
  output=FOLDER   where the two files go; by default the first folder named
  metric=NAME     what ranks the configurations, as val_brier; by default the first metric that all runs have, as
                  val_accuracy. Of equal ones the lower val_loss is first, where all runs minimise the same loss

Examples:
  python -m trainer.report outputs/multirun/2026-01-31/12-00-00-000000
  python -m trainer.report outputs/multirun output=results metric=val_brier"""


def main(words: list[str]) -> None:
    """Reads the words of the command line, writes the files and says where they are."""
    if {"--help", "-h"} & set(words):
        print(HELP)
        return
    options: dict[str, str] = {}
    folders = []
    for word in words:
        key, equals, value = word.partition("=")
        if equals and key in ("output", "metric"):
            if key in options or not value:
                raise ConfigError(f"{key}= {'is given twice' if key in options else 'is empty'}. Give it one value.")
            options[key] = value
        elif word.startswith("-"):
            raise ConfigError(f"There is no flag {plain(word)}. Keys take no dashes, as in output=results; see --help.")
        elif equals and not Path(word).exists():
            raise ConfigError(f"There is no key {plain(key)}; there are output= and metric=. See --help.")
        elif "\0" in word or not word:
            raise ConfigError("A folder's name is empty or holds a NUL. Name folders of runs or sweeps.")
        else:
            folders.append(Path(word))
    if not folders:
        raise ConfigError("Name one or more folders of runs or sweeps, such as outputs/multirun; see --help.")
    found = read(folders)
    ranked = ranking(found.runs, options.get("metric"))
    written = write(found, ranked, Path(options["output"]) if "output" in options else folders[0])
    counts = Counter(run.status for run in found.runs)
    told = ", ".join(f"{count} {status}" for status, count in counts.most_common())
    print(f"{counted(len(found.runs), 'run')}{': ' * bool(told)}{told}")
    for problem in found.problems[:10]:
        print(f"  Problem: {plain(problem, 300)}")
    if len(found.problems) > 10:
        print(f"  and {len(found.problems) - 10} more problems, which the report lists")
    for file in written:
        print(f"  {file.stem:<9} {shown(file)}")
