"""Runs that train side by side in one process: their epochs are made together, and data that they share once.

Each run goes its own way from its settings to its files, see run.run, and stops before each epoch. Then all of them
have their next epoch made by trainer.optimizers.together, and each goes on with its own report.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from trainer.data.features import is_sparse
from trainer.data.rows import Data
from trainer.objective.cluster import Local
from trainer.objective.device import HOST
from trainer.optimizers.fit import Report, TrainState
from trainer.optimizers.together import Member, advance
from trainer.runs.config import Settings
from trainer.runs.parts import Parts
from trainer.runs.training import Training

T = TypeVar("T")
ROOM = 1 << 28  # bytes of data (256 MiB) that runs side by side may hold; one by itself holds what it needs


class Company:
    """The data that runs side by side have prepared, for as long as one is there or to come that needs them.

    >>> company = Company([settings, settings])
    >>> company.share(settings, "rows", lambda: 1), company.share(settings, "rows", lambda: 2)
    (1, 1)
    """

    def __init__(self, coming: Sequence[Settings]) -> None:
        self.runs = len(coming)
        self.size = 0  # of these that are side by side just now
        self._users = Counter(key for settings in coming for key in (file_of(settings), rows_of(settings)))
        self._kept: dict[str | None, dict[str, tuple[Any, list[warnings.WarningMessage]]]] = {}
        self._bytes = Counter[str | None]()  # of what is kept
        self._largest = 0

    def share(self, settings: Settings, name: str, make: Callable[[], T], any_seed: bool = False) -> T:
        """What make gives, made once for all runs on the same rows, or with any_seed on the same file.

        What it warns of, each of them warns of.
        """
        key = file_of(settings) if any_seed else rows_of(settings)
        if key is None:
            return make()
        kept = self._kept.setdefault(key, {})
        if name not in kept:
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                kept[name] = make(), said
            self._bytes[key] += _bytes_of(kept[name])
            self._largest = max(self._largest, self._bytes[key])
        value, said = kept[name]
        for one in said:
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
        return value  # type: ignore[no-any-return]

    def has_room(self, settings: Settings) -> bool:
        """Whether another run may come: its rows are there, or there is room for as many as any has so far."""
        return self.size == 0 or rows_of(settings) in self._kept or self._bytes.total() + self._largest <= ROOM

    def begun(self) -> None:
        self.size += 1

    def ended(self, settings: Settings) -> None:
        """A run is over; rows that no other needs are let go."""
        self.size -= 1
        for key in (file_of(settings), rows_of(settings)):
            self._users[key] -= 1
            if self._users[key] == 0:
                self._kept.pop(key, None)
                del self._bytes[key]


class Seat:
    """The place of one run in company."""

    def __init__(self, company: Company, settings: Settings) -> None:
        self.company, self._settings = company, settings
        self.member: Member | None = None
        self.report: Report | Exception | None = None  # of the epoch that was made for it, or why it could not be

    def share(self, name: str, make: Callable[[], T], any_seed: bool = False) -> T:
        return self.company.share(self._settings, name, make, any_seed)

    def fit(self, training: Training, state: TrainState) -> Iterator[Report]:
        """In the place of optimizers.fit.fit: the reports that advance_all brings."""
        parts, (train, valid, _), settings = training.parts, training.data, training.settings
        numbers = settings.epochs, parts.batch_size, training.seed
        self.member = Member(
            parts.objective, parts.optimizer, train, valid, state, *numbers, parts.schedule, parts.metrics
        )
        return self._reports()

    def _reports(self) -> Iterator[Report]:
        while self.report is not None:
            report, self.report = self.report, None
            if not isinstance(report, Report):
                raise report
            yield report

    @property
    def kind(self) -> Any:
        """What runs whose epochs are made together have in common; None before a run trains."""
        return None if self.member is None else self.member.kind


def may_join(parts: Parts) -> bool:
    """Whether the epochs of a run can be made with those of others: not of a solver, and only of rows that are here."""
    here = isinstance(parts.engine, Local) and parts.objective.device is HOST
    return hasattr(parts.optimizer, "moved") and here


def advance_all(seats: Sequence[Seat]) -> None:
    """The next epoch of each run that waits for one."""
    waiting = [
        (seat, seat.member)
        for seat in seats
        if seat.member is not None and seat.member.state.epoch < seat.member.epochs and seat.report is None
    ]
    for (seat, member), report in zip(waiting, advance([member for _, member in waiting]), strict=True):
        seat.report = report
        if isinstance(report, Report):
            member.state = report.state


def file_of(settings: Settings) -> str:
    """All that the rows of a file follow from."""
    return repr((settings.data, settings.engine))


def rows_of(settings: Settings) -> str | None:
    """All that the rows of a run follow from, as they are prepared for its training; None where a seed is drawn."""
    if settings.seed is None:
        return None
    fractions = settings.test_fraction, settings.valid_fraction, settings.label_smoothing
    return repr(
        (file_of(settings), settings.seed, *fractions, settings.standardize, settings.dtype, settings.class_weight)
    )


def _bytes_of(kept: Any) -> int:
    """The bytes of the features in what is kept."""
    if isinstance(kept, Data):
        x = kept.x
        return int(x.data.nbytes + x.indices.nbytes if is_sparse(x) else x.nbytes if isinstance(x, np.ndarray) else 0)
    return sum(map(_bytes_of, kept)) if isinstance(kept, tuple) else 0
