"""How the experiments train: by the project's own fit, as the command line says, on the pair that they compare."""

from collections.abc import Iterator
from dataclasses import replace

from trainer.arrays import Array
from trainer.chain.activations import Activation
from trainer.chain.losses import Loss
from trainer.chain.strategies import auto
from trainer.data.rows import Data
from trainer.errors import require
from trainer.objective.objective import Objective
from trainer.optimizers import OPTIMIZERS, SCHEDULES
from trainer.optimizers.fit import TrainState, fit, samples_a_step
from trainer.runs.config import Settings
from trainer.runs.schema import build

VALID_FRACTION = 0.5  # many validation rows: the experiments compare small differences


def training(
    settings: Settings, objective: Objective, activation: Activation, loss: Loss, train: Data, seed: int
) -> Iterator[Array]:
    """The parameters w (D+1,K) after each epoch; all but the pair and its strategy is as configured."""
    require(settings.epochs >= 1, f"epochs must be at least 1 for an experiment that trains, got {settings.epochs}.")
    optimizer = build("optimizer", OPTIMIZERS, settings.optimizer)
    schedule = build("schedule", SCHEDULES, settings.schedule)
    reports = fit(
        replace(objective, activation=activation, loss=loss, gradient=auto),
        optimizer,
        train,
        None,
        TrainState.start(optimizer, train),
        epochs=settings.epochs,
        batch_size=samples_a_step(settings.batch_size, optimizer, schedule),
        seed=seed,
        schedule=schedule,
        metrics={},
    )
    return (report.state.w for report in reports)
