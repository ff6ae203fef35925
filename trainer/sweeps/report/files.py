"""Writes summary.csv and report.html.

summarise([Path("outputs/multirun/2026-01-31/12-00-00")], Path("results"))
"""

from collections.abc import Sequence
from pathlib import Path

from trainer.errors import ConfigError
from trainer.runs.outputs import write_text, writing
from trainer.sweeps.report.page import render
from trainer.sweeps.report.reading import Found, read
from trainer.sweeps.report.summary import configurations, goal, rank, table, varied


def summarise(folders: Sequence[Path], output: Path, metric: str | None = None) -> list[Path]:
    """Writes summary.csv and report.html of all runs in and below the folders; metric is what ranks, if not chosen.

    FileError for a folder that is none, ConfigError for a metric that no run has; whatever is wrong with a single run
    is a sentence on the page.
    """
    return write(read(folders), output, metric)


def write(found: Found, output: Path, metric: str | None = None) -> list[Path]:
    """The two files of what has been read."""
    keys = varied(found.runs)
    aim = goal(found.runs, keys, metric)
    if metric is not None and aim is None:
        raise ConfigError(f"metric={metric!r} is in no finished run; leave it out, or see the columns of metrics.csv.")
    sets = configurations(found.runs, keys)
    again = sum(len(item.runs) - len(item.latest) for item in sets)
    if again:
        runs = "run repeats" if again == 1 else "runs repeat"
        found.problems.append(f"{again} {runs} a configuration with the same seed; the last finished one counts.")
    page = render(found, keys, rank(sets, aim), aim)
    with writing(output):
        output.mkdir(parents=True, exist_ok=True)
    texts = {"summary.csv": table(found.runs, keys), "report.html": page}
    return [write_text(output / name, text, alone=False) for name, text in texts.items()]  # reports take no lock
