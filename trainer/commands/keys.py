"""What is said of a key that a configuration lacks: the option that has it, or what may be meant, and what there is."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml  # type: ignore[import-untyped]

from trainer.errors import listed, near
from trainer.runs.config import config_folder, options
from trainer.runs.text import flat, written


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
    return yaml.safe_load((config_folder() / f"{config_name}.yaml").read_text(encoding="utf-8"))


def _owners(groups: Mapping[str, Any]) -> dict[str, Sequence[str]]:
    """Each key of an option of these groups, in dots, with the options that have it, as optimizer=sgd."""
    owners: dict[str, list[str]] = {}
    for group in groups:
        for option, path in options()[group].items():
            for name, _ in flat(yaml.safe_load(path.read_text(encoding="utf-8")) or {}):
                if name != "name":
                    owners.setdefault(f"{group}.{name}", []).append(f"{group}={option}")
    return dict(owners)


def _any(names: Sequence[str]) -> str:
    return " or ".join(names)


def _last(key: str) -> str:
    return key.rpartition(".")[2]
