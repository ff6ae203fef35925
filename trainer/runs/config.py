"""The root of the configuration, and the folder conf/ of its options."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from trainer.errors import NO_TEXT, ConfigError, FileError, choose, first_line, is_text, require
from trainer.runs.schema import structured

Options = Mapping[str, Mapping[str, Path]]  # of each group the files of its options, by name
T = TypeVar("T")


@dataclass(frozen=True)
class Settings:
    """The root of the configuration: one node a group, and the plain keys, which docs/vocabulary.md explains."""

    activation: dict[str, Any]
    loss: dict[str, Any]
    gradient: dict[str, Any]
    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    penalty: dict[str, Any]
    data: dict[str, Any]
    engine: dict[str, Any] = field(default_factory=lambda: {"name": "local"})
    callbacks: dict[str, Any] = field(default_factory=dict)
    experiment: dict[str, Any] | None = None
    sweep: dict[str, Any] = field(default_factory=dict)
    epochs: int = 50
    batch_size: int | str | None = "auto"
    seed: int | None = 3
    threads: int | None = None
    device: str = "cpu"
    dtype: str = "float64"
    test_fraction: float = 0.0
    valid_fraction: float = 0.2
    folds: int | None = None
    rule: str = "best"
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
        check_threads(self.threads)
        choose("dtype", ("float64", "float32"), self.dtype)
        for key, fraction in (("test_fraction", self.test_fraction), ("valid_fraction", self.valid_fraction)):
            require(0 <= fraction < 1, f"{key} must be at least 0 and less than 1, got {fraction}.")
        ok = not self.folds or self.folds >= 2
        require(ok, f"folds must be at least 2, or null for no cross-validation, got {self.folds}.")
        choose("rule", ("best", "1se"), self.rule)
        epsilon = self.label_smoothing
        require(0 <= epsilon < 1, f"label_smoothing must be at least 0 and less than 1, got {epsilon}.")
        choose("reduction", ("rows", "weights"), self.reduction)
        weights = self.class_weight
        ok = weights is None or weights == "balanced" or isinstance(weights, dict)
        require(ok, f"class_weight must be null, balanced or {{class: weight}}, got {weights}.")
        for name, value in weights.items() if isinstance(weights, dict) else ():
            ok = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf
            require(ok, f"class_weight.{name} must be a finite number of at least 0, got {value!r}.")


def check_threads(count: int | None) -> None:
    """ConfigError for a number of threads that cannot be."""
    require(count is None or count >= 1, f"threads must be at least 1, or null for every core, got {count}.")


def config_folder() -> Path:
    """conf/: inside the package when installed from a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
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
