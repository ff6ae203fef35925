"""From the overrides of a command line to jobs: the axes, their product, and the settings of each.

Hydra composes a configuration in a tenth of a second. It has composed one, the master, of all that has one value, and
is asked again only where a job is not provably that one with some nodes exchanged:

- an option of a group that has no defaults of its own, no package and no interpolation puts its content under the
  group's name and nowhere else, so another such option takes its place;
- a plain value (a scalar, or a list of scalars) for a key that holds no dictionary replaces what the key has.

tests/test_sweep.py holds the result against Hydra's own composition.
"""

import math
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType, RangeSweep, ValueType
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig, OmegaConf, open_dict

from trainer.errors import ConfigError, Incompatible, choose, require
from trainer.runs.config import Settings, read_settings
from trainer.runs.interrupts import held
from trainer.runs.schema import structured

PLAIN_KEY = re.compile(r"\w+(\.\w+)*")
# What no component sees: Settings checks each value of these by itself, so their combinations need no look.
ALONE = {"seed", "epochs", "threads", "dtype", "valid_fraction", "standardize", "label_smoothing", "plots"}
Node = dict[str, Any]


@dataclass(frozen=True)
class Grid:
    """Every combination of the values on the command line.

    timeout    seconds that a job may take before its process is ended; null for ever
    fail_fast  whether the first job that fails ends the sweep
    workers    processes; null is one a core. A run in one of them takes one thread unless threads says otherwise
    stack      auto trains jobs that differ in numbers alone side by side in a worker; off trains each by itself
    max_jobs   a sweep of more is refused before it starts
    """

    timeout: float | None = None
    fail_fast: bool = False
    workers: int | None = None
    stack: str = "auto"
    max_jobs: int = 10_000

    def __post_init__(self) -> None:
        limit, count = self.timeout, self.workers
        ok = limit is None or (math.isfinite(limit) and limit > 0)
        require(ok, f"sweep.timeout must be finite and greater than 0, or null for no limit, got {limit}.")
        require(count is None or count >= 1, f"sweep.workers must be at least 1, or null for every core, got {count}.")
        choose("sweep.stack", ("auto", "off"), self.stack)
        require(self.max_jobs >= 1, f"sweep.max_jobs must be at least 1, got {self.max_jobs}.")


@dataclass(frozen=True)
class Axis:
    """One key of the command line and its values; more than one is what a sweep varies."""

    key: str  # with Hydra's signs, as + and @package
    choices: tuple[Override, ...]

    @property
    def alone(self) -> bool:
        return self.key in ALONE


@dataclass(frozen=True)
class Plan:
    """A job before it is run: one choice an axis, why it is skipped if it is, and whether it has a checkpoint."""

    choices: tuple[Override, ...]
    reason: str = ""
    goes_on: bool = False


def read_axes(arguments: Sequence[str], loader: ConfigLoaderImpl, most: int) -> list[Axis]:
    """The axes of the overrides, the last one of a key winning; ConfigError for no values and for too many jobs."""
    overrides = {
        override.get_key_element(): override
        for override in OverridesParser.create(config_loader=loader).parse_overrides(list(arguments))
    }
    sizes = {key: _size(override) for key, override in overrides.items()}
    for key, size in sizes.items():
        if size == 0:
            raise ConfigError(f"{overrides[key].input_line} has no values, so there is nothing to run. Give it some.")
    jobs = math.prod(sizes.values())
    if jobs > most:
        factors = " x ".join(f"{size:,} of {key}" for key, size in sizes.items() if size > 1)
        raise ConfigError(
            f"The sweep has {jobs:,} jobs ({factors}), more than sweep.max_jobs={most:,}. "
            f"Take fewer values, or allow it by sweep.max_jobs={jobs}."
        )
    return [Axis(key, _choices(key, override, loader)) for key, override in overrides.items()]


def _size(override: Override) -> int:
    if not override.is_sweep_override():
        return 1
    if not override.is_discrete_sweep():
        raise ConfigError(
            f"{override.input_line} is an interval, which has no list of values. "
            f"Write {override.key_or_group}=range(...) or values with commas, or search with sweep=optuna."
        )
    span = override.value()
    if isinstance(span, RangeSweep) and span.start is not None and span.stop is not None and span.step:
        size = max(0, math.ceil((span.stop - span.start) / span.step))
        if size > 10_000:  # exact for integers, and near enough for a number that nobody will run
            return size
    return sum(1 for _ in override.sweep_iterator())


def _choices(key: str, override: Override, loader: ConfigLoaderImpl) -> tuple[Override, ...]:
    """Each value of an override as an override of its own, as Hydra's sweeper makes them."""
    if not override.is_sweep_override():
        return (override,)
    values = list(override.sweep_iterator())  # once: shuffle(...) gives another order each time
    words = [f"{key}={Override._get_value_element_as_str(value)}" for value in values]
    if all(type(value) in (int, float) for value in values):  # what the parser would make of the word again
        return tuple(
            replace(override, value_type=ValueType.ELEMENT, _value=value, input_line=word)
            for value, word in zip(values, words, strict=True)
        )
    return tuple(OverridesParser.create(config_loader=loader).parse_overrides(words))


def word(override: Override) -> str:
    """An override as it stands on the command line of a single run."""
    return str(override.input_line)


def special(axes: Sequence[Axis], plan: Plan) -> list[str]:
    """What distinguishes a job from the others: its choices on the axes with more than one."""
    pairs = zip(axes, plan.choices, strict=False)  # plots=false, which the sweeper adds, stands behind
    return [word(choice) for axis, choice in pairs if len(axis.choices) > 1]


def plan(axes: Sequence[Axis], composer: "Composer", skip_illegal: bool) -> list[Plan]:
    """The jobs in the order of Hydra's sweeper, each checked; ConfigError where one is wrong, or none can be run."""
    jobs = product(*(axis.choices[:1] if axis.alone else axis.choices for axis in axes))
    different = {_seen(axes, choices): choices for choices in jobs}
    reasons: dict[tuple[str, ...], str] = {}
    homeless = list[Homeless]()
    for seen, choices in different.items():
        try:
            settings, _ = composer(choices)
            if len(homeless) == len(reasons):  # the first that is not
                _try_each_value(axes, choices, composer)
            reasons[seen] = _incompatible(settings)
        except Homeless as error:
            homeless.append(error)
            reasons[seen] = str(error)
    if len(homeless) == len(different):
        composer.require(choices, set.intersection(*(error.keys for error in homeless)))
    wrong = [reason for reason in reasons.values() if reason]
    if wrong and (not skip_illegal or len(wrong) == len(reasons)):
        raise ConfigError(wrong[0])
    jobs = product(*(axis.choices for axis in axes))
    return [Plan(choices, reasons[_seen(axes, choices)]) for choices in jobs]


def _seen(axes: Sequence[Axis], choices: Sequence[Override]) -> tuple[str, ...]:
    """What components see of a job."""
    return tuple(word(choice) for axis, choice in zip(axes, choices, strict=True) if not axis.alone)


def _try_each_value(axes: Sequence[Axis], firsts: Sequence[Override], composer: "Composer") -> None:
    """Composes every value beside those of one job: a wrong one is found before a large grid is."""
    for place, axis in enumerate(axes):
        for choice in axis.choices if len(axis.choices) > 1 else ():
            with suppress(Homeless):
                settings, _ = composer([*firsts[:place], choice, *firsts[place + 1 :]])
                if not axis.alone:
                    _incompatible(settings)


def _incompatible(settings: Settings) -> str:
    """Why the components of a job do not go together; empty where they do."""
    with held():
        from trainer.runs.parts import assemble  # after the names are checked: numpy is loaded with it

    try:
        assemble(settings)
    except Incompatible as error:
        return str(error)
    return ""


class _Unsure(Exception):
    """Splicing could give another configuration than Hydra's."""


def _sure(condition: bool) -> None:
    if not condition:
        raise _Unsure


class Homeless(Incompatible):
    """A job has values for keys that the options which it chooses do not have."""

    def __init__(self, keys: Sequence[str], node: Node) -> None:
        self.keys = set(keys)
        group, dot, _ = keys[0].partition(".")
        chosen = node.get(group)
        name = chosen.get("name") if dot and isinstance(chosen, dict) else None
        owner = f"{group}={name} has" if name else "This job has"
        super().__init__(f"{owner} no key {keys[0]}, so it cannot be set there; leave one of the two out.")


class Composer:
    """The settings of a job and its configuration as run.json keeps it, from one choice an axis."""

    def __init__(self, loader: ConfigLoaderImpl, master: DictConfig) -> None:
        self._loader, self._master = loader, master
        self._words = set(map(str, master.hydra.overrides.task))
        self._keys = {text.partition("=")[0] for text in self._words}
        self._is_group = cache(loader.repository.group_exists)
        self._option = cache(self._read_option)
        self._base: Node | None = None
        with suppress(_Unsure):
            self._base = self._sure_base()

    def __call__(self, choices: Sequence[Override], number: int = 0, folder: str = "") -> tuple[Settings, Node]:
        if self._base is not None:
            with suppress(_Unsure):
                node = self._spliced(self._base, choices)
                return structured("", Settings, node), node
        try:
            config = self.whole(choices, number, folder)
        except ConfigCompositionException as error:
            options, values = self._parted(choices)
            key = re.match(r"Could not override '(.*)'", str(error))
            if key is None or key[1] not in {choice.key_or_group for choice in values}:
                raise
            raise Homeless([key[1]], _without_hydra(self.whole(options))) from None
        HydraConfig.instance().set_config(config)  # for ${hydra:...}
        recorded = _without_hydra(config)
        return read_settings(config, Settings), recorded

    def whole(self, choices: Sequence[Override], number: int = 0, folder: str = "") -> DictConfig:
        """Hydra's own composition, with its node, of the job of this number."""
        config = self._loader.load_sweep_config(self._master, [word(choice) for choice in choices])
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
            config.hydra.runtime.output_dir = folder
        return config

    def require(self, choices: Sequence[Override], keys: set[str]) -> None:
        """Raises what Hydra says of a key that no job has."""
        options, values = self._parted(choices)
        for choice in values:
            if choice.key_or_group in keys:
                self.whole([*options, choice])

    def _parted(self, choices: Sequence[Override]) -> tuple[list[Override], list[Override]]:
        """Options and values, by the rule of Hydra's defaults list."""
        options, values = list[Override](), list[Override]()
        for choice in choices:
            is_option = self._is_group(choice.key_or_group) and not isinstance(choice.value(), dict)
            (options if is_option else values).append(choice)
        return options, values

    def _spliced(self, node: Node, choices: Sequence[Override]) -> Node:
        """What all jobs have in common, with other options and values in their places."""
        options, values = self._parted(choices)
        replaced = [_replaced(choice) for choice in values]
        _sure(self._keys <= {choice.get_key_element() for choice in choices})  # or the master has more than the job
        for choice in options:
            group, name = choice.key_or_group, choice.value()
            if word(choice) not in self._words:
                _sure(_changes(choice) and isinstance(name, str) and group in node)
                node = {**node, group: self._option(group, str(name))}
        if homeless := [".".join(path) for path, _ in replaced if _lacks(node, path)]:
            raise Homeless(homeless, node)
        for path, value in replaced:
            node = _with(node, path, value)
        _sure("???" not in repr(node))
        return node

    def _sure_base(self) -> Node:
        """What Hydra composed of all that has one value, if each part fills its group and none refers to another."""
        hydra = self._master.hydra
        primary = self._loader.repository.load_config(str(hydra.job.config_name))
        if primary is None or "${" in repr(primary.defaults_list):
            raise _Unsure
        for group, name in hydra.runtime.choices.items():
            if not str(group).startswith("hydra/"):
                _sure(group not in primary.config)
                if name is not None:
                    self._option(str(group), name)
        node: Any = OmegaConf.to_container(self._master, resolve=False)
        del node["hydra"]
        _sure("${" not in repr(node))
        return node  # type: ignore[no-any-return]

    def _read_option(self, group: str, name: str) -> Node:
        """What an option's file holds, if it can do no more than fill its group's node."""
        found = None if "@" in group else self._loader.repository.load_config(f"{group}/{name}")
        if found is None or found.header.get("package") or found.defaults_list:
            raise _Unsure
        content: Any = OmegaConf.to_container(found.config, resolve=False)
        _sure(isinstance(content, dict) and "${" not in repr(content))
        return content  # type: ignore[no-any-return]


def _without_hydra(config: DictConfig) -> Node:
    with open_dict(config):
        del config.hydra
    return OmegaConf.to_container(config, resolve=False)  # type: ignore[return-value]


def _changes(override: Override) -> bool:
    """Whether the override neither adds, deletes nor moves."""
    return override.type == OverrideType.CHANGE and override.package is None


def _lacks(node: Any, path: Sequence[str]) -> bool:
    """Whether a configuration has no such key; what lies in a value that is no dictionary is for Hydra to say."""
    for key in path:
        if not isinstance(node, dict):
            return False
        if key not in node:
            return True
        node = node[key]
    return False


def _replaced(override: Override) -> tuple[list[str], Any]:
    """The key and the plain value that takes the place of another."""
    value = override.value()
    parts = value if isinstance(value, list) else [value]
    _sure(_changes(override) and PLAIN_KEY.fullmatch(override.key_or_group) is not None)
    _sure(all(part is None or isinstance(part, bool | int | float | str) for part in parts))
    _sure("${" not in repr(parts) and "???" not in repr(parts))
    return override.key_or_group.split("."), value


def _with(node: Node, path: Sequence[str], value: Any) -> Node:
    """The node with a value in the place of another, which is no dictionary."""
    key, *rest = path
    _sure(isinstance(node[key], dict) == bool(rest))
    return {**node, key: _with(node[key], rest, value) if rest else value}
