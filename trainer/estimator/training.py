"""The loop of the estimator's fit: the curves, the bar, and which parameters are kept."""

import math
from contextlib import nullcontext
from typing import Any

from trainer.arrays import Array
from trainer.data.rows import Data
from trainer.objective.metrics import Metric
from trainer.objective.objective import Objective
from trainer.optimizers import Optimizer
from trainer.optimizers.fit import Report, TrainState, fit, samples_a_step
from trainer.optimizers.schedules import Constant
from trainer.runs.callbacks.early_stopping import EarlyStopping
from trainer.runs.callbacks.protocol import Context


def trained(
    objective: Objective,
    optimizer: Optimizer,
    train: Data,
    valid: Data | None,
    state: TrainState,
    curves: tuple[list[float], list[float]],
    *,
    epochs: int,
    batch_size: int | str | None,
    seed: int,
    patience: int = 1,
    verbose: bool = False,
) -> tuple[Report, Array, bool]:
    """The last report, the parameters to keep, and whether early stopping ended it, after so many epochs in all.

    The curves, of the loss and that of the rows held out, grow with it.

    >>> from trainer.optimizers import Sgd
    >>> state, curve = TrainState.start(Sgd(), data), []
    >>> objective = SoftmaxRegression()._objective(data, 1.0, "rows")
    >>> last, _, _ = trained(objective, Sgd(), data, None, state, (curve, []), epochs=3, batch_size=None, seed=0)
    >>> len(curve), last.state.epoch
    (3, 3)
    """
    stop = None
    if valid is not None:
        stop = EarlyStopping(patience=patience).start(Context(["loss", "val_loss"], objective, train, seed))
    size = samples_a_step(batch_size, optimizer, Constant())
    metrics: dict[str, Metric] | None = None if optimizer.full_batch else {}
    w, stopped = state.w, False
    with bar_of(epochs - state.epoch, optimizer.name, "iteration") if verbose else nullcontext() as bar:
        reports = fit(
            objective, optimizer, train, valid, state, epochs=epochs, batch_size=size, seed=seed, metrics=metrics
        )
        for report in reports:
            curves[0].append(report.metrics["loss"])
            if bar is not None:
                bar.set_postfix(loss=f"{curves[0][-1]:.4g}", refresh=False)
                bar.update()
            if stop is None:
                w = report.state.w
                continue
            if report.metrics["val_loss"] < min(curves[1], default=math.inf):
                w = report.state.w
            curves[1].append(report.metrics["val_loss"])
            if stopped := bool(stop(report).stop):
                break
        if bar is not None:
            bar.total = bar.n  # it is over, be it before the last of the iterations
    return report, w, stopped


def bar_of(total: int, name: str, unit: str) -> Any:
    """A bar on the terminal, of which so many units are to come.

    >>> with bar_of(3, "newton", "iteration") as bar:
    ...     bar.total
    3
    """
    from tqdm import tqdm  # most have no use for it

    return tqdm(total=total, desc=name, unit=unit)
