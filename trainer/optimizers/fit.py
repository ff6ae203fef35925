"""The training loop, a generator: ``for report in fit(...)`` gives one report an epoch and may be left at any."""

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from trainer.arrays import Array, namespace
from trainer.data.rows import Data, batches
from trainer.errors import Diverged, Incompatible
from trainer.objective.certificate import Certificate, certify, no_proof
from trainer.objective.device import HOST, each
from trainer.objective.metrics import ACCURACY, Metric
from trainer.objective.objective import Objective
from trainer.objective.penalties import subgradient
from trainer.objective.problem import Problem
from trainer.objective.threads import blas_on_one_thread
from trainer.objective.view import Evaluated, View
from trainer.optimizers import Optimizer, Schedule
from trainer.optimizers.schedules import Constant


@dataclass(frozen=True)
class TrainState:
    """All that a training needs to go on: epochs done, parameters w (D+1,K), the optimiser's state.

    >>> TrainState.start(Sgd(), data).w.shape
    (2, 2)
    """

    epoch: int
    w: Array
    optimizer: Any

    @classmethod
    def start(
        cls, optimizer: Optimizer, data: Data, scale: float = 0.0, seed: int = 0, intercept: bool = True
    ) -> "TrainState":
        """Parameters scale times a standard normal; zero is the usual scale, for a convex objective as good as any.

        Without an intercept the last row is zero whatever the scale.
        """
        shape = (data.x.shape[1] + 1, len(data.classes))
        drawn = scale * np.random.default_rng(seed).normal(size=shape) if scale else np.zeros(shape)  # no -0.0
        w = drawn.astype(data.x.dtype)
        w[-1] = w[-1] if intercept else 0.0
        return cls(0, w, optimizer.init(w))


@dataclass(frozen=True)
class Report:
    """The state after an epoch, what was measured there, by name, and why a solver needs no more, or can do no more.

    >>> report = next(fit(objective, Sgd(), data, None, TrainState.start(Sgd(), data), epochs=1))
    >>> report.state.epoch, round(report.metrics["loss"], 3), report.converged
    (1, 0.691, '')
    """

    state: TrainState
    metrics: Mapping[str, float]
    converged: str = ""
    stalled: str = ""
    proof: Certificate | None = None  # where a solver has looked
    after: tuple[View, Evaluated] | None = None


def proved(
    objective: Objective,
    optimizer: Optimizer,
    train: Data,
    w: Array,
    converged: object,
    after: tuple[View, Evaluated] | None = None,
) -> Certificate:
    """How far w (D+1,K) is from the minimum of the objective on these data, at most.

    Where a solver says that it has converged, the bound is looked for as far as it has done itself; else it is what one
    gradient tells. What the solver evaluated at w, after its last step, saves a part of it.

    >>> round(proved(objective, Newton(), data, w, converged=False).gap, 3)
    0.902
    """
    wanted = getattr(optimizer, "gap", math.inf) if converged else math.inf
    with _for_blocks(objective), np.errstate(all="ignore"):
        if after is not None:
            view, here = after
            return no_proof(view.sums) or certify(view.exact, w, wanted, here)
        return Problem(objective, train).certify(w, wanted)


def _for_blocks(objective: Objective) -> AbstractContextManager[None]:
    """BLAS on one thread, so that blocks of the host can have a core each; those on a device leave all to the rest."""
    return blas_on_one_thread() if objective.device is HOST else nullcontext()


def just_enough(proof: Certificate, epochs: int) -> str:
    """Why a solver has converged that was cut short and is close enough.

    >>> just_enough(Certificate(3e-7, "certified to 3.0e-07 of E"), epochs=5)
    'the last of epochs=5 is enough; certified to 3.0e-07 of E.'
    """
    return f"the last of epochs={epochs} is enough; {proof.why}."


def samples_a_step(size: int | str | None, optimizer: Optimizer, schedule: Schedule) -> int | None:
    """Samples a step: the setting, with auto resolved; Incompatible where a solver is to take mini-batches or an lr.

    >>> samples_a_step("auto", Sgd(), Constant()), samples_a_step("auto", Newton(), Constant())
    (32, None)
    """
    if optimizer.full_batch:
        if size not in ("auto", None):
            raise Incompatible(
                f"optimizer={optimizer.name} needs the gradient of all samples, so batch_size={size} makes no sense. "
                "Leave it out, or take optimizer=sgd, adam or adamw."
            )
        if schedule != Constant():
            raise Incompatible(
                f"schedule={schedule.name} scales optimizer.lr, which optimizer={optimizer.name} has not. Leave it out."
            )
        return None
    return 32 if size == "auto" else size  # type: ignore[return-value]


def columns(metrics: Mapping[str, Metric]) -> list[str]:
    """The names in a report, in the order of metrics.csv; those with val_ are missing without validation data.

    >>> columns(ACCURACY)
    ['epoch', 'loss', 'val_loss', 'accuracy', 'val_accuracy', 'lr', 'grad_norm']
    """
    return ["epoch", *(side + name for name in ("loss", *metrics) for side in ("", "val_")), "lr", "grad_norm"]


def fit(
    objective: Objective,
    optimizer: Optimizer,
    train: Data,
    valid: Data | None,
    state: TrainState,
    *,
    epochs: int,
    batch_size: int | None = None,
    seed: int = 0,
    schedule: Schedule = Constant(),  # noqa: B008 - frozen and without state
    metrics: Mapping[str, Metric] | None = ACCURACY,
) -> Iterator[Report]:
    """Trains from state up to so many epochs in all and yields a report after each; a solver's epoch is an iteration.

    loss is the mean loss on the training data without the penalty, at the parameters that the epoch ends with, and
    val_loss that on the validation data, each by the weights and the smoothing of its own data;
    metrics=None leaves the loss, too, to what the optimiser knows of it, a solver to about 1e-7 on its way.
    grad_norm is the norm of dE_dw there (with l1 of the smallest subgradient), lr the learning rate of the last step,
    which solvers have not.  Raises Diverged within one step.

    >>> reports = fit(objective, Newton(), data, None, TrainState.start(Newton(), data), epochs=3)
    >>> [round(report.metrics["loss"], 3) for report in reports]
    [0.643, 0.642, 0.642]
    """
    place = HOST if optimizer.full_batch else objective.device  # of the parameters and the state during an epoch
    whole = Problem(objective, train)
    checked = None if valid is None else Problem(objective, valid)
    rows, full_lr = whole.rows, getattr(optimizer, "lr", None)
    steps = 1 if batch_size is None else -(-len(train) // batch_size)
    for epoch in range(state.epoch, epochs):
        with _for_blocks(objective), np.errstate(all="ignore"):  # what is not finite ends in Diverged, below
            w, memory = each(place.put, (state.w, state.optimizer))
            for number, batch in enumerate(batches(rows, batch_size, seed, epoch)):
                problem = whole if batch is rows else Problem(objective, batch)
                if full_lr is not None:
                    lr = full_lr * schedule(epoch + (number + 0.5) / steps, epochs)
                    if lr != optimizer.lr:  # type: ignore[attr-defined]
                        optimizer = replace(optimizer, lr=lr)  # type: ignore[type-var]
                step = optimizer.step(problem, w, memory)
                before, w, memory = w, step.w, step.state
                value, total = map(float, place.fetch([step.value, namespace(w).sum(w)]))
                if not math.isfinite(value + total):
                    if place is not HOST:  # where nobody has asked yet
                        problem.sums.name_the_row(before)
                    (w,) = place.fetch([w])
                    raise Diverged(
                        f"Diverged in epoch {epoch + 1}, step {number + 1} of {steps}: the objective is {value} and "
                        f"the largest parameter {np.abs(w).max()}. "
                        + (f"Lower optimizer.lr={full_lr}." if full_lr else "Scale the features: standardize=true.")
                    )
            w, memory = each(lambda part: place.fetch([part])[0], (w, memory))
            state = TrainState(epoch + 1, w, memory)
            row: dict[str, float] = {"epoch": epoch + 1}
            known = None if step.after is None else View.known(*step.after)
            if metrics is None:
                value, g = known or whole.value_and_grad(w)
                row["loss"] = value - objective.penalty.value(w)
            else:  # with the slope at once where the step does not know it
                measured = whole.evaluate(w, metrics, slopes=known is None)
                g = measured.dE_dw if known is None else known[1]
                row |= {"loss": measured.loss, **measured.metrics}
            if checked is not None:
                held_out = checked.evaluate(w, metrics or {})
                row |= {"val_loss": held_out.loss, **{f"val_{k}": v for k, v in held_out.metrics.items()}}
            row["grad_norm"] = float(np.linalg.norm(subgradient(w, g, objective.penalty.lasso)))
            if full_lr is not None:
                row["lr"] = lr
        yield Report(state, row, step.converged, step.stalled, step.proof, step.after)
        if step.converged or step.stalled:
            return
