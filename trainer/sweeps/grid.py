"""From the overrides of a command line to jobs: the axes, their product, and the settings of each.

Hydra composes a configuration in a tenth of a second. It is asked for one, and again only where a job is not provably
that one with some nodes exchanged:

- an option of a group that has no defaults of its own, no package and no interpolation puts its content under the
  group's name and nowhere else, so another such option takes its place;
- a plain value (a scalar, or a list of scalars) for a key that holds no dictionary replaces what the key has.

tests/test_sweep.py holds the result against Hydra's own composition.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType, RangeSweep, ValueType
from omegaconf import DictConfig, OmegaConf, open_dict

from trainer.errors import ConfigError, Incompatible
from trainer.runs.config import Settings, read_settings
from trainer.runs.interrupts import held
from trainer.runs.schema import structured

PLAIN_KEY = re.compile(r"\w+(\.\w+)*")
# What no component sees: Settings checks each value of these by itself, so their combinations need no look.
ALONE = {"seed", "epochs", "threads", "dtype", "valid_fraction", "standardize", "label_smoothing", "plots"}
Node = dict[str, Any]


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
    return override.input_line or f"{override.get_key_element()}={override.get_value_element_as_str()}"


def special(axes: Sequence[Axis], plan: Plan) -> list[str]:
    """What distinguishes a job from the others: its choices on the axes with more than one."""
    pairs = zip(axes, plan.choices, strict=False)  # plots=false, which the sweeper adds, stands behind
    return [word(choice) for axis, choice in pairs if len(axis.choices) > 1]


def plan(axes: Sequence[Axis], composer: "Composer", skip_illegal: bool) -> list[Plan]:
    """The jobs in the order of Hydra's sweeper, each checked; ConfigError where one is wrong, or none can be run.

    Every value is tried by itself first, so that a wrong one is found before a large grid is looked through.
    """
    with held():
        from trainer.runs.parts import assemble  # after the names are checked: numpy is loaded with it

    firsts = [axis.choices[0] for axis in axes]
    for place, axis in enumerate(axes):
        for choice in axis.choices if len(axis.choices) > 1 else ():
            settings, _ = composer([*firsts[:place], choice, *firsts[place + 1 :]])
            if not axis.alone:
                _incompatible(assemble, settings)
    seen = [place for place, axis in enumerate(axes) if not axis.alone]
    reasons: dict[tuple[int, ...], str] = {}
    for indices in product(*(range(len(axes[place].choices)) for place in seen)):
        chosen = list(firsts)
        for place, index in zip(seen, indices, strict=True):
            chosen[place] = axes[place].choices[index]
        reasons[indices] = _incompatible(assemble, composer(chosen)[0])
    wrong = [reason for reason in reasons.values() if reason]
    if wrong and (not skip_illegal or len(wrong) == len(reasons)):
        raise ConfigError(wrong[0])
    jobs = product(*(range(len(axis.choices)) for axis in axes))
    return [
        Plan(
            tuple(axis.choices[index] for axis, index in zip(axes, indices, strict=True)),
            reasons[tuple(indices[place] for place in seen)],
        )
        for indices in jobs
    ]


def _incompatible(assemble: Any, settings: Settings) -> str:
    """Why the components of a job do not go together; empty where they do."""
    try:
        assemble(settings)
    except Incompatible as error:
        return str(error)
    return ""


class Composer:
    """The settings of a job and its configuration as run.json keeps it, from one choice an axis."""

    def __init__(self, loader: ConfigLoaderImpl, master: DictConfig, fast: bool = True) -> None:
        self._loader = loader
        self._master = master
        self._fast = fast
        self._bases: dict[tuple[str, ...], Node | None] = {}
        self._options: dict[tuple[str, str], Node | None] = {}
        self._groups: dict[str, bool] = {}

    def __call__(self, choices: Sequence[Override], number: int = 0, folder: str = "") -> tuple[Settings, Node]:
        node = self._spliced(choices) if self._fast else None
        if node is not None:
            return structured("", Settings, node), node
        config = self.whole(choices, number, folder)
        HydraConfig.instance().set_config(config)  # for ${hydra:...}
        with open_dict(config):
            del config.hydra
        recorded: Any = OmegaConf.to_container(config, resolve=False)
        return read_settings(config, Settings), recorded

    def whole(self, choices: Sequence[Override], number: int = 0, folder: str = "") -> DictConfig:
        """Hydra's own composition, with its node, of the job of this number."""
        config = self._loader.load_sweep_config(self._master, [word(choice) for choice in choices])
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
            config.hydra.runtime.output_dir = folder
        return config

    def is_group(self, override: Override) -> bool:
        """Whether Hydra takes the override as a choice of an option, by the rule of its defaults list."""
        group = override.key_or_group
        if group not in self._groups:
            self._groups[group] = self._loader.repository.group_exists(group)
        return self._groups[group] and not isinstance(override.value(), dict)

    def _spliced(self, choices: Sequence[Override]) -> Node | None:
        """The job's configuration without asking Hydra; None where that could give another one than Hydra's."""
        groups = [choice for choice in choices if self.is_group(choice)]
        values = [choice for choice in choices if not self.is_group(choice)]
        if not all(_plain_value(choice) for choice in values):
            return None
        node = self._base(groups)
        if node is None:
            return None
        for choice in values:
            node = _with(node, choice.key_or_group.split("."), choice.value())
            if node is None:
                return None
        return None if _any(node, "???") else node

    def _base(self, groups: Sequence[Override]) -> Node | None:
        """The configuration with these options and no values."""
        key = tuple(word(choice) for choice in groups)
        if key not in self._bases:
            self._bases[key] = self._exchanged(groups) if self._bases else self._first(groups)
        return self._bases[key]

    def _first(self, groups: Sequence[Override]) -> Node | None:
        """Composed by Hydra; None unless each of its parts fills its own group and nothing refers to another."""
        config = self.whole(groups)
        chosen = config.hydra.runtime.choices
        name = str(config.hydra.job.config_name)
        with open_dict(config):
            del config.hydra
        node: Any = OmegaConf.to_container(config, resolve=False)
        primary = self._loader.repository.load_config(name)
        options = {str(group): option for group, option in chosen.items() if not str(group).startswith("hydra/")}
        plain = (
            primary is not None
            and not any("${" in repr(default) for default in primary.defaults_list or [])
            and not any(group in primary.config for group in options)
            and all(option is None or self._option(group, option) is not None for group, option in options.items())
            and not _any(node, "${")
        )
        return node if plain else None

    def _exchanged(self, groups: Sequence[Override]) -> Node | None:
        """The first base with other options in it."""
        first_groups, node = next(iter(self._bases.items()))
        if node is None or len(first_groups) != len(groups):
            return None
        for choice in groups:
            group, name = choice.key_or_group, choice.value()
            if word(choice) in first_groups:
                continue
            plain = choice.type == OverrideType.CHANGE and choice.package is None and isinstance(name, str)
            content = self._option(group, str(name)) if plain else None
            if content is None or group not in node:
                return None
            node = {**node, group: content}
        return node

    def _option(self, group: str, name: str) -> Node | None:
        """What an option's file holds; None where it could do more than fill its group's node."""
        if (group, name) not in self._options:
            found = None if "@" in group else self._loader.repository.load_config(f"{group}/{name}")
            plain = found is not None and not found.header.get("package") and not found.defaults_list
            content: Any = OmegaConf.to_container(found.config, resolve=False) if found and plain else None
            ok = isinstance(content, dict) and not _any(content, "${")
            self._options[group, name] = content if ok else None
        return self._options[group, name]


def _plain_value(override: Override) -> bool:
    """Whether the override only replaces one value by another."""
    value = override.value()
    parts = value if isinstance(value, list) else [value]
    return (
        override.type == OverrideType.CHANGE
        and override.package is None
        and PLAIN_KEY.fullmatch(override.key_or_group) is not None
        and all(part is None or isinstance(part, bool | int | float | str) for part in parts)
        and not _any(parts, "${")
        and not _any(parts, "???")
    )


def _with(node: Node, path: Sequence[str], value: Any) -> Node | None:
    """The node with a value in the place of another; None where there is no such value, or it is a dictionary."""
    key, *rest = path
    if key not in node or isinstance(node[key], dict) != bool(rest):
        return None
    changed = _with(node[key], rest, value) if rest else value
    return None if rest and changed is None else {**node, key: changed}


def _any(node: Any, mark: str) -> bool:
    """Whether a text anywhere below the node holds the mark."""
    if isinstance(node, Mapping):
        return any(_any(value, mark) for value in node.values())
    if isinstance(node, list):
        return any(_any(value, mark) for value in node)
    return isinstance(node, str) and mark in node
