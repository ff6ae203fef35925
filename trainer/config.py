"""From a configuration to checked components: names, types and ranges are all refused here, by a sentence.

A YAML of a group is ``name:`` and the fields of one frozen dataclass, which is its schema. Nothing names Python code to
run, so a configuration that came with a file can do no more than choose among the registries.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from trainer.errors import NO_TEXT, ConfigError, FileError, is_text, require

Options = Mapping[str, Mapping[str, Path]]  # of each group the files of its options, by name
T = TypeVar("T")


@dataclass(frozen=True)
class Settings:
    """The root of the configuration: one node a group, and the plain keys.

    batch_size     samples a step; null is all of them, auto is all for a solver (auto, newton, lbfgs, fista), else 32
    seed           data, split and shuffling all follow from it; null draws one
    threads        null takes every core; the result does not depend on it
    dtype          float64 or float32, of the features, the parameters and the scores
    valid_fraction share of the samples that is held out for validation
    standardize    whether features are brought to mean 0 and standard deviation 1 of the training rows
    label_smoothing  epsilon in [0, 1): training targets become (1 - epsilon) y + epsilon s / K, see data.Data
    class_weight   null, balanced, or a weight by the name of a class, for training rows, see data.for_training
    reduction      weights or rows: what the sum of the weighted losses is divided by, see objective.Objective
    metrics        what is measured after each epoch beside the loss, by name; the first is the one that is drawn
    plots          whether the run draws its pictures; in a sweep only where the command line says so
    skip_illegal   whether a sweep skips jobs whose components do not go together; they are errors otherwise
    checkpoint     whether the run keeps what python -m trainer resume=... goes on from
    """

    activation: dict[str, Any]
    loss: dict[str, Any]
    gradient: dict[str, Any]
    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    penalty: dict[str, Any]
    data: dict[str, Any]
    callbacks: dict[str, Any] = field(default_factory=dict)
    experiment: dict[str, Any] | None = None
    sweep: dict[str, Any] = field(default_factory=dict)
    epochs: int = 50
    batch_size: int | str | None = "auto"
    seed: int | None = 3
    threads: int | None = None
    dtype: str = "float64"
    valid_fraction: float = 0.2
    standardize: bool = True
    label_smoothing: float = 0.0
    class_weight: dict[Any, Any] | str | None = None
    reduction: str = "weights"
    metrics: list[str] = field(default_factory=lambda: ["accuracy"])
    plots: bool = True
    skip_illegal: bool = True
    checkpoint: bool = True

    def __post_init__(self) -> None:
        for key, value in vars(self).items():
            require(is_text(value), f"{key}={ascii(value)[:200]} {NO_TEXT}.")
        require(self.epochs >= 0, f"epochs must be at least 0, got {self.epochs}.")
        size = self.batch_size
        ok = size is None or size == "auto" or (isinstance(size, int) and size >= 1)
        require(ok, f"batch_size must be at least 1, or null for all samples, or auto, got {size}.")
        require(self.seed is None or self.seed >= 0, f"seed must be at least 0, or null to draw one, got {self.seed}.")
        count = self.threads
        require(count is None or count >= 1, f"threads must be at least 1, or null for every core, got {count}.")
        choose("dtype", ("float64", "float32"), self.dtype)
        fraction = self.valid_fraction
        require(0 <= fraction < 1, f"valid_fraction must be at least 0 and less than 1, got {fraction}.")
        epsilon = self.label_smoothing
        require(0 <= epsilon < 1, f"label_smoothing must be at least 0 and less than 1, got {epsilon}.")
        choose("reduction", ("rows", "weights"), self.reduction)
        weights = self.class_weight
        ok = weights is None or weights == "balanced" or isinstance(weights, dict)
        require(ok, f"class_weight must be null, balanced or {{class: weight}}, got {weights}.")
        for name, value in weights.items() if isinstance(weights, dict) else ():
            ok = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf
            require(ok, f"class_weight.{name} must be a finite number of at least 0, got {value!r}.")


def config_folder() -> Path:
    """conf/: inside the package when installed from a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    for folder in (package / "conf", package.parent / "conf"):
        if folder.is_dir():
            return folder
    raise FileError(f"{package} has no folder conf of its own, as inside a zip file. Install it with pip.")


def options() -> Options:
    """The groups of conf/, such as loss, without Hydra's own, and the files of their options by name."""
    groups = (group for group in sorted(config_folder().iterdir()) if group.is_dir() and group.name != "hydra")
    return {group.name: {option.stem: option for option in sorted(group.glob("*.yaml"))} for group in groups}


def read_settings(config: DictConfig, cls: type[T]) -> T:
    """The root schema filled with a composed configuration, its interpolations resolved."""
    try:
        node = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "The configuration"
        raise ConfigError(f"{key} cannot be read: {first_line(error)}. Set it on the command line.") from None
    return structured("", cls, node)  # type: ignore[arg-type]


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
    for key, value in node.items():
        kind = known[key].type
        if not _fits(value, kind):
            wanted = kind.__name__ if isinstance(kind, type) else str(kind)
            hint = f" Write {inside}{key}=[{value}]." if get_origin(kind) is list else ""
            got = f"{value!r} of type {type(value).__name__}"
            raise ConfigError(f"{inside}{key} must be of type {wanted}, got {got}.{hint}")
    return cls(**{key: float(value) if _is_float(value, known[key].type) else value for key, value in node.items()})


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value has a field's type, such as float, int | None or dict[str, Any].

    Stricter than OmegaConf's own rule, which reads '0.1' as a number and true as 1; an integer may stand for a float.
    """
    parts = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    classes = tuple(get_origin(part) or part for part in parts)
    if isinstance(value, bool):
        return bool in classes
    return isinstance(value, classes) or (isinstance(value, int) and float in classes)


def _is_float(value: Any, kind: Any) -> bool:
    """Whether a value that fits a field is to be stored as a float: an integer where float | list[float] is asked."""
    parts = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    return float in parts and int not in parts and isinstance(value, int)


def choose(group: str, choices: Collection[str], name: Any) -> str:
    """The name, if it is one of the choices."""
    if isinstance(name, str) and name in choices:
        return name
    text = "null" if name is None else str(name)
    shown = text if text.isprintable() else ascii(name)
    raise ConfigError(f"{group}={shown[:100]} is not known{suggest(str(name), choices)} Choices: {listed(choices)}.")


def suggest(name: str, choices: Iterable[str]) -> str:
    """', did you mean ...?' where one of the choices is close, else a full stop."""
    close = get_close_matches(name, list(choices), n=1)
    return f"; did you mean {close[0]}?" if close else "."


def listed(names: Iterable[str]) -> str:
    """Names in alphabetical order, for a sentence."""
    return ", ".join(sorted(names))


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, without its full stop."""
    return str(error).strip().split("\n")[0].rstrip(".")
