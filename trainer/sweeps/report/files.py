"""Writes summary.csv and report.html.

summarise([Path("outputs/multirun/2026-01-31/12-00-00")], Path("results"))
"""

from collections.abc import Sequence
from pathlib import Path

from trainer.runs.outputs import write_text, writing
from trainer.sweeps.report.page import render
from trainer.sweeps.report.reading import Found, read
from trainer.sweeps.report.summary import Ranking, ranking, table


def summarise(folders: Sequence[Path], output: Path, metric: str | None = None) -> list[Path]:
    """Writes summary.csv and report.html of all runs in and below the folders; metric is what ranks, if not chosen.

    FileError for a folder that is none, ConfigError for a metric that no run has; whatever is wrong with a single run
    is a sentence on the page.
    """
    found = read(folders)
    return write(found, ranking(found.runs, metric), output)


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
