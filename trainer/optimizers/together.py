"""Many trainings as one: an epoch of each, side by side, to the bits of each alone.

A training of 500 rows spends its time in Python and in numpy's calls, not in arithmetic. Those that differ in numbers
only make the same calls; here one call serves all of them. Which these are is asked anew before every epoch, so that
each may begin, stop, diverge and end by itself.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property, partial
from typing import Any

import numpy as np

from trainer.arrays import Array
from trainer.data.rows import Data, batches, shuffle
from trainer.errors import TrainerError
from trainer.objective.metrics import Metric
from trainer.objective.objective import Evaluation, Objective
from trainer.objective.own_rows import OwnRows, Rows, evaluations, gradients, per_model
from trainer.objective.penalties import ridge_slope
from trainer.objective.threads import blas_on_one_thread
from trainer.optimizers.fit import Report, TrainState, fit
from trainer.optimizers.protocols import Optimizer
from trainer.optimizers.schedules import Constant, Schedule

LARGEST = 1 << 17  # numbers of x (1 MiB) up to which trainings on different rows go together: their rows are copied


@dataclass
class Member:
    """A training by a first-order optimiser, as fit takes it, at the state that it has come to.

    >>> start = TrainState.start(Sgd(), data)
    >>> slow, fast = (Member(objective, Sgd(lr), data, None, start, 9, None, 3, Constant(), {}) for lr in (0.1, 0.2))
    >>> slow.kind == fast.kind
    True
    """

    objective: Objective
    optimizer: Optimizer
    train: Data
    valid: Data | None
    state: TrainState
    epochs: int
    batch_size: int | None
    seed: int
    schedule: Schedule
    metrics: dict[str, Metric]

    @cached_property
    def kind(self) -> Any:
        """What those that go together have in common: all but numbers of the optimiser, the penalty and the rows."""
        optimizer, objective = self.optimizer, self.objective
        settings = [getattr(optimizer, field.name) for field in fields(optimizer)]  # type: ignore[arg-type]
        return (
            type(optimizer),
            tuple(value for value in settings if not isinstance(value, float)),
            *(repr(part) for part in objective.pair),
            objective.gradient,
            type(objective.penalty),
            (objective.threads, objective.reduction, objective.intercept),
            self.batch_size,
            tuple(self.metrics),
            self.state.w.dtype,
            _kind_of(self.train),
            None if self.valid is None else _kind_of(self.valid),
        )

    @property
    def place(self) -> tuple[int, int] | None:
        """Where those must be together that go over the same large data."""
        return (self.seed, self.state.epoch) if _kind_of(self.train) == id(self.train) else None

    def alone(self) -> Report | Exception:
        """The next epoch by itself."""
        try:
            return next(
                fit(
                    self.objective,
                    self.optimizer,
                    self.train,
                    self.valid,
                    self.state,
                    epochs=self.epochs,
                    batch_size=self.batch_size,
                    seed=self.seed,
                    schedule=self.schedule,
                    metrics=self.metrics,
                )
            )
        except Exception as error:
            return error


def _kind_of(data: Data) -> Any:
    """What rows of different trainings have in common where each is copied; of large ones which they are."""
    if not isinstance(data.x, np.ndarray) or data.x.size > LARGEST:
        return id(data)
    shapes = data.x.shape, data.x.dtype, data.y.shape, data.y.dtype, len(data.classes)
    return *shapes, data.weight is None, data.smoothing > 0


def advance(members: Sequence[Member]) -> list[Report | Exception]:
    """The next epoch of each, which has one left: its report, or why there is none.

    >>> start, rates = TrainState.start(Sgd(), data), (0.1, 0.2)
    >>> members = [Member(objective, Sgd(lr), data, None, start, 9, None, 3, Constant(), {}) for lr in rates]
    >>> [round(report.metrics["loss"], 3) for report in advance(members)]
    [0.681, 0.671]
    """
    groups: dict[Any, list[int]] = {}
    for number, member in enumerate(members):
        groups.setdefault((member.kind, member.place), []).append(number)
    found: dict[int, Report | Exception] = {}
    for numbers in groups.values():
        found |= zip(numbers, _made([members[number] for number in numbers]), strict=True)
    return [found[number] for number in range(len(members))]


def _made(members: Sequence[Member]) -> Sequence[Report | Exception]:
    """The next epoch of trainings of one kind. Each alone needs less memory, and says what is wrong with its data."""
    if len(members) > 1:
        try:
            return _together(members)
        except (TrainerError, OSError, MemoryError):
            pass
        except Exception as error:
            return [error] * len(members)
    return [member.alone() for member in members]


def _together(members: Sequence[Member]) -> list[Report | Exception]:
    """An epoch of trainings of one kind; one in which something is not finite makes its epoch alone, which says what.

    Nothing that has become infinite or nan turns finite again without a trace: parameters stay so, and of what they do
    not tell, the loss and the penalty of each step, worry is the sum.
    """
    first, objectives = members[0], [member.objective for member in members]
    optimizer: Any = first.optimizer
    w = np.stack([member.state.w for member in members])  # (M,D+1,K)
    memory = _stacked([member.state.optimizer for member in members])
    ridge = [objective.penalty.ridge for objective in objectives]
    worry, rates = np.zeros(len(members)), _Rates(members)
    with blas_on_one_thread(), np.errstate(all="ignore"):
        slope = _slope(objectives, ridge, w.dtype)
        for number, rows in enumerate(_batches(members)):
            if number == 0 or not rates.constant:
                lr = rates(number)
                rate, worry = per_model(lr, w.dtype), worry + np.log(lr)
            if number == 0 or hasattr(memory, "steps"):
                numbers = _numbers(members, memory, w.dtype)
            loss, g = gradients(first.objective, rows, w, slope)
            w, memory = optimizer.moved(w, memory, g, rate, *numbers)
            worry += loss + np.add(ridge, 1.0) * np.einsum("mdk,mdk->m", w, w)
        train = evaluations(objectives, _rows([member.train for member in members]), w, first.metrics, slopes=True)
        valid: Sequence[Evaluation | None] = [None] * len(members)
        if first.valid is not None:
            checked = _rows([member.valid for member in members if member.valid is not None])
            valid = evaluations(objectives, checked, w, first.metrics, slopes=False)
    states = zip(w, _apart(memory, len(members)), strict=True)
    return [
        _report(TrainState(member.state.epoch + 1, *state), *measured) if math.isfinite(trouble) else member.alone()
        for member, state, trouble, *measured in zip(members, states, worry, train, valid, lr, strict=True)
    ]


def _report(state: TrainState, train: Evaluation, valid: Evaluation | None, lr: float) -> Report:
    """What fit reports after an epoch of a first-order optimiser, whose penalty has no corner."""
    row = {"epoch": state.epoch, "loss": train.loss, **train.metrics}
    if valid is not None:
        row |= {"val_loss": valid.loss, **{f"val_{name}": value for name, value in valid.metrics.items()}}
    return Report(state, row | {"grad_norm": float(np.linalg.norm(train.dE_dw)), "lr": lr})


class _Rates:
    """The learning rates of the steps of an epoch, by the schedule of each."""

    def __init__(self, members: Sequence[Member]) -> None:
        first = members[0]
        self._members = members
        self._steps = 1 if first.batch_size is None else -(-len(first.train) // first.batch_size)
        self._full: list[float] = [member.optimizer.lr for member in members]  # type: ignore[attr-defined]
        self.constant = all(member.schedule == Constant() for member in members)

    def __call__(self, number: int) -> list[float]:
        if self.constant:
            return self._full
        part = (number + 0.5) / self._steps
        return [
            full * member.schedule(member.state.epoch + part, member.epochs)
            for full, member in zip(self._full, self._members, strict=True)
        ]


def _numbers(members: Sequence[Member], memory: Any, dtype: Any) -> list[Any]:
    """The numbers of each optimiser's next step, as its update takes them of a stack."""
    steps = memory.steps.tolist() if hasattr(memory, "steps") else [0] * len(members)
    each = [member.optimizer.numbers(taken) for member, taken in zip(members, steps, strict=True)]  # type: ignore[attr-defined]
    return [per_model(values, dtype) for values in zip(*each, strict=True)]


def _slope(objectives: Sequence[Objective], ridge: Sequence[float], dtype: Any) -> Callable[[Array], Array]:
    """What the penalties add to dE_dw (M,D+1,K)."""
    penalty = objectives[0].penalty
    if all(objective.penalty == penalty for objective in objectives):
        return penalty.grad
    return partial(ridge_slope, per_model(ridge, dtype))


def _batches(members: Sequence[Member]) -> Iterator[Rows]:
    """The mini-batches of an epoch of each, see data.rows.batches; those of the same rows and seed are made once."""
    first = members[0]
    size, epoch = first.batch_size, first.state.epoch
    if all((m.train is first.train, m.seed, m.state.epoch) == (True, first.seed, epoch) for m in members):
        yield from batches(first.train, size, first.seed, epoch)
        return
    if size is None or size >= len(first.train):
        yield _rows([member.train for member in members])
        return
    shuffled: dict[Any, Data] = {}
    for member in members:
        key = id(member.train), member.seed, member.state.epoch
        if key not in shuffled:
            shuffled[key] = member.train.rows(shuffle(len(member.train), member.seed, member.state.epoch))
    rows = OwnRows.of([shuffled[id(member.train), member.seed, member.state.epoch] for member in members])
    for start in range(0, len(rows), size):
        yield rows.rows(slice(start, start + size))


def _rows(parts: Sequence[Data]) -> Rows:
    """The rows of all members: the same for all, or each its own."""
    return parts[0] if all(part is parts[0] for part in parts) else OwnRows.of(parts)


def _stacked(states: Sequence[Any]) -> Any:
    """The optimisers' states as one whose arrays, and numbers, have a leading axis."""
    if isinstance(states[0], tuple):
        return type(states[0])(*map(_stacked, zip(*states, strict=True)))
    return np.stack(states)


def _apart(state: Any, members: int) -> list[Any]:
    """The state of each."""
    if isinstance(state, tuple):
        return [type(state)(*parts) for parts in zip(*(_apart(part, members) for part in state), strict=True)]
    return [part if part.ndim else part.item() for part in state]
