"""The sweeper and the launcher that Hydra finds under the names grid and workers, once they are registered.

The sweeper decides what is run: it checks every job before the first, skips those whose components do not go together,
and keeps sweep.json. The launcher runs jobs in trainer.sweeps.pool. Either goes with others of Hydra's.
"""

import logging
import os
import re
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from trainer.errors import ConfigError
from trainer.runs.lock import hold
from trainer.runs.overrides import check_folder
from trainer.runs.schema import structured
from trainer.sweeps.grid import Axis, Composer, Grid, Plan, plan, read_axes, special
from trainer.sweeps.record import DONE, Line, Record, check_free, check_words, read
from trainer.sweeps.resumed import resumed
from trainer.sweeps.running import Sweep, SweepFailed

log = logging.getLogger("sweep")
PACKAGE = "hydra_plugins.trainer_sweep"  # Hydra takes plugins from no other package; it need not be a file
OWN = ("sweep.", "skip_illegal")  # keys of the sweep itself, which may change when it is resumed


def register() -> None:
    """Lets Hydra find both under PACKAGE.

    As files there, every program that uses Hydra in the same environment would import them at its start.
    """
    try:
        package: Any = import_module("hydra_plugins")
    except ModuleNotFoundError:  # no other plugin is installed
        package = sys.modules["hydra_plugins"] = ModuleType("hydra_plugins")
        package.__path__ = []
    package.trainer_sweep = sys.modules[__name__]
    for plugin in (GridSweeper, WorkersLauncher):
        Plugins.instance().register(plugin)


def spread(words: Sequence[str]) -> list[str]:
    """Makes a list of one of a value whose option varies, as of penalty.strength=0.1 beside penalty=none,l2.

    Hydra composes all that has one value before it asks a sweeper, there with the default option of such a group, which
    may not have the key.
    """
    parse = OverridesParser.create().parse_override
    overrides = {text: parse(text) for text in words}
    varied = {override.key_or_group for override in overrides.values() if override.is_sweep_override()}
    found = []
    for text in words:
        key, _, value = text.partition("=")
        if not overrides[text].is_sweep_override() and key.split(".")[0] in varied - {key}:
            with suppress(HydraException):  # null may stand in no such list, and stays as it is
                text = parse(f"{key}=choice({value})").input_line or text
        found.append(text)
    return found


def gathered(text: str) -> str:
    """The word that spread has made a list of, as it was; a list of one is the same as its value."""
    one = re.fullmatch(r"([^=]+)=choice\((.*)\)", text)
    if one and not OverridesParser.create().parse_override(f"{one[1]}={one[2]}").is_sweep_override():
        return f"{one[1]}={one[2]}"
    return text


class GridSweeper(Sweeper):
    """Every combination of the values on the command line, in Hydra's order."""

    __module__ = PACKAGE

    def __init__(self, resume: bool = False) -> None:
        self.resume = resume

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config = config
        self.loader: Any = hydra_context.config_loader
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Checks, runs and sums up; SweepFailed if a job did not end well, after all others."""
        config, launcher = self.config, self.launcher
        assert config is not None  # set up by Hydra
        assert launcher is not None
        _speak()
        arguments = list(map(gathered, arguments))
        options = _options(config)
        folder = _folder(config)
        if self.resume:
            read(folder)  # so that nothing is made where there is none
        else:
            check_free(folder)
        axes = read_axes(arguments, self.loader, options.max_jobs)
        for axis in axes:
            if axis.key.lstrip("+~").startswith(OWN) and len(axis.choices) > 1:
                raise ConfigError(f"{axis.key} is one for all jobs of a sweep. Give it a single value.")
        composer = Composer(self.loader, config)
        by_workers = isinstance(launcher, WorkersLauncher)
        said = {axis.key.lstrip("+~") for axis in axes}
        silent = [] if "plots" in said else read_axes(["plots=false"], self.loader, 1)
        plans = plan([*axes, *silent], composer, config.skip_illegal is True)
        with hold(folder):
            if self.resume:
                record, plans = resumed(folder, axes, plans, composer, by_workers)
            else:
                check_free(folder)  # also of a sweep that was begun meanwhile
                record = _recorded(config, arguments, axes, plans)
            return Sweep(folder, record, plans, options, composer, config).run(None if by_workers else launcher)


class WorkersLauncher(Launcher):
    """Jobs in processes that import once; what Hydra's other sweepers hand over is composed by Composer here."""

    __module__ = PACKAGE

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config = config
        self.loader: Any = hydra_context.config_loader
        self.sweep: Sweep | None = None  # of all batches so far

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Runs a batch; a job's return value is its last val_loss, and one that did not end well raises when asked."""
        setup_globals()
        _speak()
        config = self.config
        if self.sweep is None:
            folder = _folder(config)
            record = _recorded(config, _given(config, "task"), [], [])
            self.sweep = Sweep(folder, record, [], _options(config), Composer(self.loader, config), config)
        sweep = self.sweep
        known = set(_given(config, "task"))
        for job in job_overrides:
            axes = read_axes(job, self.loader, 1)
            sweep.plans.append(Plan(tuple(axis.choices[0] for axis in axes)))
            special = [text for text in job if text not in known]
            sweep.record.varied = list(dict.fromkeys([*sweep.record.varied, *(t.partition("=")[0] for t in special)]))
            sweep.record.jobs.append(Line(len(sweep.record.jobs), str(len(sweep.record.jobs)), special))
        numbers = range(initial_job_idx, initial_job_idx + len(job_overrides))
        with hold(sweep.folder), sweep.recorded():
            sweep.by_workers(numbers)
        returns = []
        for number, job in zip(numbers, job_overrides, strict=True):
            line, metrics = sweep.record.jobs[number], sweep.metrics.get(number, {})
            good = line.status in DONE
            answer = JobReturn(overrides=list(job), status=JobStatus.COMPLETED if good else JobStatus.FAILED)
            answer.return_value = metrics.get("val_loss", metrics.get("loss")) if good else SweepFailed(line.reason)
            returns.append(answer)
        return returns


def _speak() -> None:
    """Sentences on the terminal; logging drops what a reader who has left, as head does, would have read."""
    log.handlers[:] = [logging.StreamHandler(sys.stdout)]
    log.propagate = False
    log.setLevel(logging.INFO)


def _given(config: DictConfig, kind: str) -> list[str]:
    """The words of the command line for Hydra or for the task, with interpolations as they were written."""
    node: Any = OmegaConf.to_container(config.hydra.overrides, resolve=False)
    return [str(text) for text in node[kind]]


def _folder(config: DictConfig) -> Path:
    name = str(config.hydra.sweep.dir)
    check_folder("hydra.sweep.dir", name)
    return Path(os.path.abspath(name))


def _options(config: DictConfig) -> Grid:
    node: Any = OmegaConf.to_container(config.sweep, resolve=True)
    # Another kind of search has fields of its own; of those of the grid it has as many as it likes.
    if node.pop("name", None) != "grid":
        node = {key: node[key] for key in Grid.__dataclass_fields__ if key in node}
    return structured("sweep", Grid, node)


def _recorded(config: DictConfig, arguments: Sequence[str], axes: Sequence[Axis], plans: Sequence[Plan]) -> Record:
    check_words(arguments)
    varied = [axis.key for axis in axes if len(axis.choices) > 1]
    hydra = [text for text in _given(config, "hydra") if not text.startswith("hydra.mode=")]
    command = shlex.join(["python", "-m", "trainer", "-m", *hydra, *arguments])
    kept = [*[text for text in hydra if text.startswith(("hydra/launcher=", "hydra/sweeper="))], *arguments]
    lines = [
        Line(number, str(number), special(axes, plan), "skipped" if plan.reason else "pending", plan.reason)
        for number, plan in enumerate(plans)
    ]
    return Record("running", command, kept, varied, lines)
