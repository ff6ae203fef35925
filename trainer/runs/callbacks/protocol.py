"""What a callback is: the context that it starts from, its answer to a report, and the protocol of its settings."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Protocol

from trainer.data.rows import Data
from trainer.objective.objective import Objective
from trainer.optimizers.fit import Report


class Context(NamedTuple):
    """What a callback gets to know of its run."""

    columns: Collection[str]  # of every report
    objective: Objective
    train: Data
    seed: int
    past: Sequence[Mapping[str, float]] = ()  # the rows of metrics.csv of an earlier part of the run, when it goes on
    folder: Path = Path()  # of the run; it may not be there before the first report
    config: Mapping[str, Any] = MappingProxyType({})  # as run.json keeps it


@dataclass(frozen=True)
class Answer:
    """What a callback says to a report: numbers for its columns, and why to stop, in a sentence; empty is to go on."""

    numbers: Mapping[str, float] = field(default_factory=dict)
    stop: str = ""


Callback = Callable[[Report], Answer]


class CallbackConfig(Protocol):
    """A callback's settings; ``start`` makes the one that counts along with a run."""

    name: ClassVar[str]

    def columns(self, objective: Objective) -> list[str]:
        """The columns of metrics.csv that its answers bring; in an epoch without a number they stay empty."""

    def start(self, context: Context) -> Callback:
        """A fresh callback for a run; ConfigError if something that it needs is missing.

        If it has a method ``close``, that is called at the end with the status of the run, however it ended.
        """


def close(callbacks: Collection[Callback], status: str) -> None:
    """Tells the callbacks that the run is over."""
    for callback in callbacks:
        if hasattr(callback, "close"):
            callback.close(status)
