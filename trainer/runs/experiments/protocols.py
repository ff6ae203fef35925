"""What an experiment is, and what it prints with."""

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Protocol

from trainer.objective.objective import Objective
from trainer.runs.config import Settings

Show = Callable[[str], None]


class Experiment(Protocol):
    """What every experiment brings."""

    name: ClassVar[str]

    def __call__(self, settings: Settings, objective: Objective, folder: Path, show: Show) -> None:
        """Runs it for the settings (whose seed is drawn) and the pair of the objective; pictures go to the folder."""
