"""From the words of a command line to a composed configuration: all that is Hydra's, but for the plug-ins of sweeps."""

import os
import re
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import hydra
from hydra._internal.utils import _run_hydra, get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import configure_log
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError, safe_load  # type: ignore[import-untyped]

from trainer.errors import ConfigError, choose, first_line, listed, near
from trainer.runs.config import config_folder, options
from trainer.runs.overrides import check_flags, check_folder, check_overrides, values_of
from trainer.runs.text import flat, written

Task = Callable[[DictConfig], Any]

LAUNCHERS = {"joblib": "joblib", "submitit_local": "submitit", "submitit_slurm": "submitit", "ray": "ray"}  # extras


def perform(
    task: Task, config_name: str, text: str, words: list[str], register: Callable[[list[str]], list[str]] = list
) -> None:
    """Runs a task with one of the configurations in conf/.

    text is what --help prints, {choices} in it standing for the groups; Hydra's own help loads every option to do so.
    The other flags are Hydra's. Runs and sweeps are composed here: Hydra would do so twice, and make the folder of a
    run before the task could refuse. register is called before a sweep and returns the overrides that Hydra is to see.
    """
    if {"--help", "-h"} & set(words):
        print(text.replace("{choices}", choices(config_name)))
        return
    with explained(config_name, words):
        if not any(word.startswith("-") for word in words):
            single(task, config_name, words)
            return
        parser = _parser()
        given = parser.parse_intermixed_args(words)  # flags may stand anywhere
        check_flags(given)
        if not given.shell_completion:
            check_overrides(given.overrides, options())
        if given.multirun and not given.hydra_help:
            return several(task, config_name, register(given.overrides))
        hydra.version.setbase("1.3")
        _run_hydra(given, parser, task, str(config_folder()), config_name)


@contextmanager
def explained(config_name: str, words: list[str]) -> Iterator[None]:
    """Makes ConfigError of what Hydra, OmegaConf and YAML say of the words."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing, so that the sentence can be ours
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error, config_name, words)) from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(unreadable(error)) from None


def _parser() -> ArgumentParser:
    """Hydra's, which refuses in our words."""

    def refuse(message: str) -> NoReturn:
        raise ConfigError(
            f"{message[0].upper()}{message[1:]}. Keys take no dashes, as in epochs=10; see --help and --hydra-help."
        )

    parser: ArgumentParser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    return parser


def single(task: Task, config_name: str, overrides: list[str]) -> Any:
    """Composes the configuration once; what the task returns of it."""
    check_overrides(overrides, options())
    config = composed(config_name, overrides)
    folder = str(config.hydra.run.dir)
    check_folder("hydra.run.dir", folder)
    set_up(config, folder)
    return task(config)


def several(task: Task, config_name: str, overrides: list[str]) -> None:
    """Composes once what the jobs of a sweep have in common, and lets the sweeper that it names do the rest."""
    with hydra.initialize_config_dir(str(config_folder()), version_base="1.3"):
        GlobalHydra.instance().hydra.multirun(config_name, task, [*overrides, "hydra.mode=MULTIRUN"])  # type: ignore[union-attr]


def set_up(config: DictConfig, folder: str) -> None:
    """Takes Hydra's share out of a composed configuration: the folder of the run, and its log."""
    with open_dict(config):
        config.hydra.runtime.output_dir = os.path.abspath(folder)
        HydraConfig.instance().set_config(config)
        configure_log(config.hydra.job_logging, config.hydra.verbose)
        del config.hydra


def composed(config_name: str, overrides: list[str]) -> DictConfig:
    """A configuration of conf/ with overrides from the command line, Hydra's own node included."""
    with hydra.initialize_config_dir(str(config_folder()), version_base="1.3"):
        return hydra.compose(config_name, overrides, return_hydra_config=True)


def choices(config_name: str) -> str:
    """The groups from which a configuration chooses, and their options, a line each."""
    groups = groups_of(config_name)
    return "\n".join(f"  {group:<12} {', '.join(names)}" for group, names in options().items() if group in groups)


def explain(error: Exception, config_name: str, words: list[str]) -> str:
    """Hydra's and OmegaConf's errors in our words: the value, the reason and the way out."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        if group == "hydra/launcher" and name in LAUNCHERS:
            return f"hydra/launcher={name} needs pip install 'softmax-trainer[{LAUNCHERS[name]}]'."
        try:
            choose(group, error.options, name)
        except ConfigError as sentence:
            return str(sentence)
    if isinstance(error, OverrideParseException):
        return (
            f"{error.override!r} cannot be read as key=value. Put a text with other than plain letters in two "
            f"kinds of quotes, as in 'data.path=\"a,b.csv\"'; see --help."
        )
    if unknown := re.match(r"Could not override '([^']*)'", str(error)):
        return unknown_key(unknown[1], config_name, _named(words))
    if several := re.match(r"(?:Ambiguous value for argument|Sweep parameters) '([^\n]*)'", str(error)):
        return (
            f"{several[1]} has several values. Add -m to try each in a run of its own; a value with a comma needs two "
            "kinds of quotes, as in 'data.path=\"a,b.csv\"'."
        )
    cause = error.__cause__
    detail = f" ({first_line(cause)})" if isinstance(cause, OmegaConfBaseException) else ""
    return f"{first_line(error)}{detail}. See --help, or --cfg job for all keys."


def unreadable(error: YAMLError | UnicodeDecodeError) -> str:
    """What is wrong with a file of conf/, with its line."""
    if isinstance(error, MarkedYAMLError) and error.problem_mark is not None:
        return f"{error.problem_mark.name}:{error.problem_mark.line + 1}: {error.problem}. Correct the file."
    for path in sorted(config_folder().rglob("*.yaml")):  # the error does not name it
        try:
            path.read_text(encoding="utf-8")
        except UnicodeDecodeError as wrong:
            line = wrong.object.count(b"\n", 0, wrong.start) + 1
            return f"{path}:{line}: not UTF-8. Save the file as UTF-8."
    return f"{first_line(error)}. Correct the file."


def _named(words: list[str]) -> dict[str, list[Any]]:
    """The options that the words name, by their groups; several in a sweep, and of callbacks."""
    overrides = OverridesParser.create().parse_overrides(
        [word for word in words if "=" in word and not word.startswith("-")]
    )
    return {
        override.key_or_group: [
            name for value in values_of(override) for name in (value if isinstance(value, list) else [value])
        ]
        for override in overrides
    }


def unknown_key(key: str, config_name: str, named: Mapping[str, Sequence[Any]]) -> str:
    """named are the options that a command line gives, by group; the others are those of the configuration."""
    root = _root(config_name)
    groups = {group: named.get(group) or [name] for group, name in groups_of(config_name).items()}
    chosen = {group: [f"{group}={written(name)}" for name in names] for group, names in groups.items()}
    plain = [name for name in (*root, *groups) if name not in ("defaults", "hydra")]
    owners = dict.fromkeys(plain, ()) | _owners(groups)
    group, dot, name = key.partition(".")
    if dot and group in groups:
        option = next((option for option in chosen[group] if option not in owners.get(key, ())), chosen[group][0])
        own = [known for known, having in owners.items() if option in having]
        what = f"{option} has no key {name}"
        keys = f" Keys of {option}: {listed(own)}." if own else ""
    else:
        what, own, keys = f"There is no key {key}", plain, f" Keys without a dot: {listed(plain)}."
    if key in owners:
        which = "that" if len(owners[key]) == 1 else "one of these"
        return f"{what}, which belongs to {', '.join(owners[key])}. Choose {which}.{keys}"
    there = {option for names in chosen.values() for option in names}
    usable = [known for known, having in owners.items() if not having or there.intersection(having)]

    def far(known: str) -> tuple[bool, ...]:
        return known not in own, not known.startswith(f"{group}."), known not in usable

    alike = near(_last(key), map(_last, owners))
    meant = [known for known in owners if _last(known) in alike]
    meant = [known for known in meant if far(known) == min(map(far, meant))]
    told = [known if known in usable else f"{known}, of {_any(owners[known])}" for known in meant]
    return f"{what}{f'; did you mean {_any(told)}?' if told else '.'}{keys}"


def groups_of(config_name: str) -> dict[str, Any]:
    """The groups from which a configuration chooses, and their defaults."""
    entries = [entry for entry in _root(config_name)["defaults"] if isinstance(entry, dict)]
    return {group: name for entry in entries for group, name in entry.items() if group in options()}


def _root(config_name: str) -> Any:
    return safe_load((config_folder() / f"{config_name}.yaml").read_text(encoding="utf-8"))


def _owners(groups: Mapping[str, Any]) -> dict[str, Sequence[str]]:
    """Each key of an option of these groups, in dots, with the options that have it, as optimizer=sgd."""
    owners: dict[str, list[str]] = {}
    for group in groups:
        for option, path in options()[group].items():
            for name, _ in flat(safe_load(path.read_text(encoding="utf-8")) or {}):
                if name != "name":
                    owners.setdefault(f"{group}.{name}", []).append(f"{group}={option}")
    return dict(owners)


def _any(names: Sequence[str]) -> str:
    return " or ".join(names)


def _last(key: str) -> str:
    return key.rpartition(".")[2]
