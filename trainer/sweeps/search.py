"""``python -m trainer -m sweep=optuna``: trials that Optuna proposes, each a run as any other in a folder of its own.

The engine is Optuna's, an extra to install; here its proposals become overrides, and a run's metric its answer. The
plugin hydra-optuna-sweeper does the same for Optuna before 3, whose storage fails with today's SQLAlchemy.

The space is written in Hydra's words: lr=interval(0.01,1), tag(log,interval(1e-4,1)), loss=ce,brier.
Proposals and answers are in study.log, and in sweep.json as the jobs of any sweep; the same command with
hydra.sweep.dir=<that folder> goes on to more trials.
"""

import logging
import math
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep
from omegaconf import DictConfig, OmegaConf

from trainer.errors import ConfigError, Diverged, Incompatible, TrainerError, choose, require
from trainer.runs.config import options
from trainer.runs.lock import hold
from trainer.runs.outputs import check_plain, shorter, writing
from trainer.runs.overrides import check_overrides
from trainer.runs.schema import structured
from trainer.runs.text import quoted
from trainer.sweeps.record import NAME, Line, Record, check_free, check_words

if TYPE_CHECKING:
    from trainer.runs.training import Result

log = logging.getLogger("trainer")
STUDY = "study.log"


@dataclass(frozen=True)
class Search:
    """What sweep=optuna sets.

    trials   in all, those of an earlier part of the search included
    monitor  the column of metrics.csv that is to be low after the last epoch
    seed     of the proposals
    space    overrides, some of them with several values, for a command line that has none with several
    """

    trials: int = 20
    monitor: str = "val_loss"
    seed: int = 3
    space: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        require(self.trials >= 1, f"sweep.trials must be at least 1, got {self.trials}.")
        require(0 <= self.seed < 2**32, f"sweep.seed must be from 0 to 2**32 - 1, got {self.seed}.")


class Space(NamedTuple):
    """What every trial has in common, and what is proposed: the overrides' keys and Optuna's distributions."""

    fixed: list[str]
    axes: dict[str, Any]


Compose = Callable[[str, list[str]], DictConfig]
Train = Callable[[list[str]], "Result | None"]


def search(arguments: list[str], compose: Compose, train: Train) -> None:
    """Runs the trials; compose and train are those of the command line, which this module cannot import."""
    ours = [argument for argument in arguments if argument.startswith("sweep.")]
    overrides = [argument for argument in arguments if argument not in ours and not argument.startswith("sweep=")]
    if flags := [argument for argument in overrides if argument.startswith("-")]:
        raise ConfigError(f"sweep=optuna takes no flag {flags[0]}; leave it out.")
    check_overrides(arguments, options())
    node = OmegaConf.to_container(compose("sweep/optuna", ours).sweep, resolve=True)
    settings = structured("sweep", Search, {key: value for key, value in node.items() if key != "name"})  # type: ignore[union-attr, misc]
    try:
        optuna = import_module("optuna")
        journal = import_module("optuna.storages.journal")
    except ImportError as error:
        raise ConfigError("sweep=optuna needs optuna; install it by pip install 'softmax-trainer[optuna]'.") from error
    given = OverridesParser.create().parse_overrides(overrides)
    if not any(override.is_sweep_override() for override in given):
        given = [*OverridesParser.create().parse_overrides(settings.space), *given]
    space = space_of(given, optuna.distributions)
    folder = Path(compose("config", [key for key in overrides if key.startswith("hydra.")]).hydra.sweep.dir).absolute()
    check_plain(folder / STUDY)
    if not (folder / STUDY).exists():
        check_free(folder)
    words = [word for word in arguments if not word.startswith("hydra.")]
    check_words(words)
    record = Record("running", shlex.join(["python", "-m", "trainer", "-m", *arguments]), words, list(space.axes), [])
    with hold(folder):
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage = optuna.storages.JournalStorage(journal.JournalFileBackend(str(folder / STUDY)))
        study = optuna.create_study(study_name="trainer", storage=storage, load_if_exists=True)
        done = sum(trial.state.is_finished() for trial in study.trials)
        # a search that goes on draws anew
        study.sampler = optuna.samplers.TPESampler(seed=(settings.seed + done) % 2**32)
        failure = None
        try:
            for _ in range(done, settings.trials):
                failure = _try(study, space, settings.monitor, folder, train) or failure
                _note(record, study, folder)
            record.status = "finished"
        except BaseException:
            record.status = "interrupted"
            raise
        finally:
            _note(record, study, folder)
        _conclude(study, space.fixed, settings.monitor, folder, failure)


def _try(study: Any, space: Space, monitor: str, folder: Path, train: Train) -> TrainerError | None:
    """One trial; returns why it failed, if it did: the others may do better."""
    trial = study.ask(space.axes)
    proposed = _proposed(trial)
    try:
        with writing(folder):  # the log of a trial that is refused begins here
            (folder / str(trial.number)).mkdir(exist_ok=True)
        place = quoted(str(folder / str(trial.number)))
        words = ["plots=false", "~sweep", *space.fixed, *proposed, f"hydra.run.dir={place}"]
        study.tell(trial, measure(train(words), monitor))
    except (Diverged, ConfigError) as error:
        refused = "skipped" if isinstance(error, Incompatible) else "failed"
        trial.set_user_attr("status", "diverged" if isinstance(error, Diverged) else refused)
        trial.set_user_attr("reason", str(error))
        study.tell(trial, state=_states().PRUNED)  # a failed one teaches the sampler nothing, a pruned one is bad
        log.info(f"Trial {trial.number} ({' '.join(proposed)}) failed: {error}")
        return error
    except BaseException:
        study.tell(trial, state=_states().FAIL)
        raise
    return None


def _conclude(study: Any, fixed: list[str], monitor: str, folder: Path, failure: TrainerError | None) -> None:
    """The report of the search, and what the terminal shows at its end."""
    from trainer.sweeps.report.page import write
    from trainer.sweeps.report.reading import read
    from trainer.sweeps.report.summary import measured, ranking

    found = read([folder])
    files = write(found, ranking(found.runs, monitor if monitor in measured(found.runs) else None), folder, alone=True)
    finished = study.get_trials(states=(_states().COMPLETE,))
    if not finished:
        raise failure or ConfigError(f"{folder} has no trial that finished; raise sweep.trials.")
    best = study.best_trial
    words = ["python", "-m", "trainer", *fixed, *_proposed(best)]
    log.info(f"{len(finished)} of {len(study.trials)} trials finished; the best is {best.number}:")
    log.info(f"  {monitor} {best.value:.6g}  in {folder / str(best.number)}")
    log.info(f"  {shlex.join(word for word in words if not word.startswith('hydra.'))}")
    for file in (folder / NAME, *files):
        log.info(f"  {shorter(file)}")


def _note(record: Record, study: Any, folder: Path) -> None:
    """Writes the trials so far into sweep.json, as jobs of a sweep."""
    names = {"COMPLETE": "finished", "PRUNED": "failed", "FAIL": "interrupted"}
    record.jobs = []
    for trial in study.trials:
        status = trial.user_attrs.get("status", names.get(trial.state.name, "pending"))
        reason = trial.user_attrs.get("reason", "")
        record.jobs.append(Line(trial.number, str(trial.number), _proposed(trial), status, reason))
    record.write(folder)


def _proposed(trial: Any) -> list[str]:
    return [f"{key}={value if isinstance(value, str) else repr(value)}" for key, value in trial.params.items()]


def _states() -> Any:
    return import_module("optuna").trial.TrialState


def measure(result: "Result | None", monitor: str) -> float:
    """The metric of a run after its last epoch."""
    row: Mapping[str, float] = {} if result is None else result.metrics
    value = row[choose("sweep.monitor", row, monitor)]
    if not math.isfinite(value):
        raise Diverged(f"{monitor} is {value}.")
    return value


def space_of(overrides: list[Override], distributions: Any) -> Space:
    """Overrides with one value are common to all trials, those with several are what is proposed."""
    fixed, axes = [], {}
    for override in overrides:
        key, value = override.get_key_element(), override.value()
        if not override.is_sweep_override():
            fixed.append(override.input_line or "")
        elif isinstance(value, IntervalSweep):
            low, high, log_scale = value.start, value.end, "log" in value.tags
            kind = distributions.IntDistribution if isinstance(low, int) else distributions.FloatDistribution
            ok = low is not None and high is not None and low < high and (low > 0 or not log_scale)
            require(ok, f"{override.input_line} is no interval: low must be less than high, and above 0 for log.")
            axes[key] = kind(low, high, log=log_scale)
        elif isinstance(value, ChoiceSweep | RangeSweep):
            values = value.range() if isinstance(value, RangeSweep) else value.list
            axes[key] = distributions.CategoricalDistribution([Override._get_value_element_as_str(v) for v in values])
        else:
            raise ConfigError(f"{override.input_line} cannot be searched; write interval(low,high) or a list a,b,c.")
    require(bool(axes), "sweep=optuna has nothing to search: sweep.space is empty, and no key has several values.")
    return Space(fixed, axes)
