"""The components that the settings name: each checked alone, and all of them together, before there are data."""

from dataclasses import fields
from typing import Any, NamedTuple

from trainer.chain.activations import ACTIVATIONS
from trainer.chain.losses import LOSSES
from trainer.chain.strategies import GradientChoice
from trainer.data.rows import Source
from trainer.data.sources import SOURCES
from trainer.errors import choose, require
from trainer.objective.cluster import ENGINES, Dask, Local
from trainer.objective.device import device_of
from trainer.objective.metrics import Metric, choose_metrics
from trainer.objective.objective import Objective
from trainer.objective.penalties import PENALTIES, Penalty, expand, strengths
from trainer.objective.refusals import check_solver, strategy_of
from trainer.objective.threads import available_cores
from trainer.optimizers import OPTIMIZERS, SCHEDULES, Optimizer, Schedule
from trainer.optimizers.choosing import check_cells
from trainer.optimizers.fit import samples_a_step
from trainer.optimizers.proximal import check_penalty
from trainer.runs import cross_validation, path
from trainer.runs.callbacks.protocol import CallbackConfig
from trainer.runs.callbacks.registry import CALLBACKS
from trainer.runs.config import Settings
from trainer.runs.cross_validation import Choice
from trainer.runs.schema import build, option, structured


class Parts(NamedTuple):
    """The components that the settings name, checked alone and together."""

    objective: Objective
    strategy: str  # the gradient strategy that runs; auto is resolved
    optimizer: Optimizer
    batch_size: int | None
    schedule: Schedule
    source: Source
    metrics: dict[str, Metric]
    callbacks: list[CallbackConfig]
    path: list[Penalty]  # the penalties of a regularisation path, the strongest first; empty for one training
    choice: Choice | None = None  # what is to be chosen by cross-validation
    engine: Local | Dask = Local()  # where data live that are not in memory


def assemble(settings: Settings) -> Parts:
    """Builds every component; ConfigError for whatever does not exist or does not fit together."""
    activation = build("activation", ACTIVATIONS, settings.activation)
    loss = build("loss", LOSSES, settings.loss)
    choice = structured("gradient", GradientChoice, settings.gradient)
    strategy, function = strategy_of(activation, loss, choice)
    node, auto = cross_validation.without_auto(settings.penalty)
    chosen = build("penalty", PENALTIES, node)
    penalty, *_ = penalties = expand(chosen)
    experiment = None if settings.experiment is None else option("experiment", settings.experiment)
    asked = cross_validation.choice_of(settings, chosen, auto)
    if asked is None:
        path.check_path(chosen, list(settings.callbacks), experiment)
    callbacks = [
        structured(f"callbacks.{name}", CALLBACKS[choose("callbacks", CALLBACKS, name)], node or {})
        for name, node in settings.callbacks.items()
    ]
    threads = settings.threads or available_cores()
    optimizer = build("optimizer", OPTIMIZERS, settings.optimizer)
    schedule = build("schedule", SCHEDULES, settings.schedule)
    check_penalty(optimizer.name, penalty)
    if asked is not None:
        check_cells(optimizer, activation, loss)
    if optimizer.full_batch:
        check_solver(optimizer.name, activation, loss, strategy, settings.label_smoothing > 0)
    engine = build("engine", ENGINES, settings.engine)
    if isinstance(engine, Dask):
        named = settings.data["name"]
        require(named == "file", f"engine=dask reads files, and data={named} is made in memory; take data=file.")
        elsewhere = f"engine=dask computes on its workers, and device={settings.device} is here. Leave one of them out."
        require(settings.device == "cpu", elsewhere)
    return Parts(
        Objective(activation, loss, function, penalty, threads, settings.reduction, device=device_of(settings.device)),
        strategy,
        optimizer,
        samples_a_step(settings.batch_size, optimizer, schedule),
        schedule,
        build("data", SOURCES, settings.data),
        choose_metrics(settings.metrics, activation),
        callbacks,
        [] if asked is not None or strengths(chosen) is None else penalties,
        asked,
        engine,
    )


def headline(parts: Parts, settings: Settings) -> str:
    """The pair, the strategy and the optimiser in one line."""
    objective = parts.objective
    chosen = settings.gradient.get("name", GradientChoice.name)
    strategy = parts.strategy if chosen == parts.strategy else f"{parts.strategy} (chosen by {chosen})"
    return f"{objective.activation!r} with {objective.loss!r}, gradient {strategy}, {parts.optimizer!r}"


def title_of(component: Any) -> str:
    """A component as a person writes it: its name, and its settings where they are not the defaults."""
    changed = [
        f"{f.name}={getattr(component, f.name)}" for f in fields(component) if getattr(component, f.name) != f.default
    ]
    return str(component.name) + (f"({', '.join(changed)})" if changed else "")
