"""From a node of a configuration to a checked component: the frozen dataclass of its name is the schema.

A name is looked up in a registry of ours and nothing else, so a node that came with a file can run no code.
"""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from functools import cache
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin

from trainer.errors import ConfigError, choose, listed, require, suggest
from trainer.runs.text import grammar

T = TypeVar("T")


def build(group: str, registry: Mapping[str, type[T]], node: Mapping[str, Any]) -> T:
    """The component that a group's node describes: its name looked up, its fields checked."""
    cls = registry[choose(group, registry, option(group, node))]
    return structured(group, cls, {key: value for key, value in node.items() if key != "name"})


def option(group: str, node: Mapping[str, Any]) -> Any:
    """The name that chooses a group's option."""
    require("name" in node, f"{group} has no key name, which chooses its option. Is its file in conf/{group}/ empty?")
    return node["name"]


def structured(path: str, cls: type[T], node: Mapping[str, Any]) -> T:
    """An instance of the dataclass with the node's values, which must have the fields' names and types."""
    inside = f"{path}." if path else ""
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    for key in node:
        if key not in known:
            what = f"{path}={getattr(cls, 'name', '')} has" if path else "There is"
            raise ConfigError(f"{what} no key {inside}{key}{suggest(key, known)} Its keys: {listed(known)}.")
    for key, spec in known.items():
        if key not in node and spec.default is MISSING and spec.default_factory is MISSING:
            raise ConfigError(f"{inside}{key} is missing; give it as {inside}{key}=...")
    values = {}
    for key, value in node.items():
        kind: Any = known[key].type
        classes = _classes(kind)
        if type(value) is int and float in classes and int not in classes:
            value = float(value)
        # Stricter than OmegaConf's own rule, which reads '0.1' as a number and true as 1.
        if not isinstance(value, classes) or (isinstance(value, bool) and bool not in classes):
            wanted = kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", "")
            got, default = f"{value!r} of type {type(value).__name__}", known[key].default
            way = "" if default is MISSING else f" Leave it out for {grammar(default)}."
            way = (
                f" Write {inside}{key}=[{value}]."
                if list in classes and value and not isinstance(value, Mapping)
                else way
            )
            raise ConfigError(f"{inside}{key} must be of type {wanted}, got {got}.{way}")
        values[key] = value
    return cls(**values)


@cache
def _classes(kind: Any) -> tuple[type, ...]:
    """What values of a field's type, such as float, int | None or dict[str, Any], are instances of."""
    parts = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    return tuple(get_origin(part) or part for part in parts)
