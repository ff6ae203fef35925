"""Where data come from: each source is a frozen dataclass whose fields are the YAML's, called with a seed.

Generated data are the same bits for the same seed; bundled data and files do not depend on it. Blobs, Moons and Circles
are those of scikit-learn, to the bit. scikit-learn itself is imported where it is used: that takes a second, and most
of the command line can do without.
"""

import math
from dataclasses import dataclass, fields, replace
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np

from trainer.arrays import Array
from trainer.data import files
from trainer.data.columns import Columns
from trainer.data.places import find, name_of
from trainer.data.reading import MAX_BYTES
from trainer.data.rows import Data, Numbered, random_state
from trainer.errors import ConfigError, require

CLUSTERS = 2  # of each class in Classification, scikit-learn's default
LEAST = {"classes": 2, "features": 1, "informative": 1, "class_sep": 0, "noise": 0, "spread": 0, "turns": 0}


def _check(source: Any) -> None:
    """Every field is finite and as large as it must be, each class has a sample, and the memory can hold them all."""
    given = {f.name: getattr(source, f.name) for f in fields(source)}
    classes, features = given.get("classes", 2), given.get("features", 2)
    for name, least in (LEAST | {"features": given.get("informative", 1), "samples": classes}).items():
        value: Any = given.get(name, least)
        require(math.isfinite(value), f"data.{name} must be finite, got {value}.")
        require(value >= least, f"data.{name} must be at least {least}, got {value}.")
    most, samples = MAX_BYTES // (8 * features), given["samples"]
    require(samples <= most, f"data.samples must be at most {most:,} for {features:,} features, got {samples:,}.")


@dataclass(frozen=True)
class Blobs:
    """A round cloud for each class, x (samples, features); the centres are uniform in [-10, 10]."""

    samples: int = 600
    features: int = 2
    classes: int = 4
    spread: float = 2.0

    def __post_init__(self) -> None:
        _check(self)

    def __call__(self, seed: int) -> Data:
        random = random_state(seed)
        centres = random.uniform(-10.0, 10.0, size=(self.classes, self.features))
        y = np.sort(np.arange(self.samples) % self.classes)  # as even as can be
        x = np.concatenate(
            [random.normal(centre, self.spread, (np.sum(y == k), self.features)) for k, centre in enumerate(centres)]
        )
        return _generated(*_shuffled(x, y, random), self.classes)


@dataclass(frozen=True)
class Classification:
    """Two clouds for each class on the corners of a cube, x (samples, features).

    The cube has as many dimensions as there are informative features; up to two further ones are mixtures
    of these, and the rest is noise. One label in a hundred is drawn at random.
    """

    samples: int = 1000
    features: int = 20
    informative: int = 5
    classes: int = 4
    class_sep: float = 1.0

    def __post_init__(self) -> None:
        _check(self)
        needed = (CLUSTERS * self.classes - 1).bit_length()  # 2**informative corners for all the clouds
        if self.informative < needed:
            raise ConfigError(
                f"data.informative={self.informative} is too few for data.classes={self.classes}: "
                f"use at least {needed} informative features, or fewer classes."
            )

    def __call__(self, seed: int) -> Data:
        from sklearn.datasets import make_classification

        x, y = make_classification(
            self.samples,
            self.features,
            n_informative=self.informative,
            n_redundant=min(2, self.features - self.informative),
            n_classes=self.classes,
            n_clusters_per_class=CLUSTERS,
            class_sep=self.class_sep,
            random_state=random_state(seed),
        )
        return _generated(x, y, self.classes)


@dataclass(frozen=True)
class Moons:
    """Two interleaved half circles of radius 1, x (samples, 2); noise is the deviation of each coordinate."""

    samples: int = 400
    noise: float = 0.2

    def __post_init__(self) -> None:
        _check(self)

    def __call__(self, seed: int) -> Data:
        y = _halves(self.samples)
        outer, inner = (np.linspace(0, np.pi, np.sum(y == k)) for k in (0, 1))
        x = np.concatenate(
            [np.append(np.cos(outer), 1 - np.cos(inner)), np.append(np.sin(outer), 1 - np.sin(inner) - 0.5)]
        )
        return _noisy(x.reshape(2, -1).T, y, self.noise, seed)


@dataclass(frozen=True)
class Circles:
    """A circle of radius 1 (class 0) around one of radius 0.5 (class 1), x (samples, 2)."""

    samples: int = 400
    noise: float = 0.1

    def __post_init__(self) -> None:
        _check(self)

    def __call__(self, seed: int) -> Data:
        y = _halves(self.samples)
        turns = np.concatenate([np.linspace(0, 2 * np.pi, np.sum(y == k), endpoint=False) for k in (0, 1)])
        radius = np.where(y == 0, 1.0, 0.5)
        return _noisy(np.stack([radius * np.cos(turns), radius * np.sin(turns)], axis=1), y, self.noise, seed)


@dataclass(frozen=True)
class Spirals:
    """An arm of a spiral for each class, x (samples, 2): from the centre to radius 1 in this many turns.

    No linear classifier can do well on it; the classes take turns, so each has its share of the samples.
    """

    samples: int = 600
    classes: int = 3
    noise: float = 0.1
    turns: float = 1.0

    def __post_init__(self) -> None:
        _check(self)

    def __call__(self, seed: int) -> Data:
        random = random_state(seed)
        y = np.arange(self.samples) % self.classes
        radius = random.uniform(size=self.samples)
        angle = 2 * np.pi * (self.turns * radius + y / self.classes)
        x = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)  # (N,2)
        return _generated(x + self.noise * random.normal(size=x.shape), y, self.classes)


@dataclass(frozen=True)
class Digits:
    """Handwritten digits, x (1797, 64) brightness 0..16 of 8 x 8 pixels, 10 classes."""

    def __call__(self, seed: int) -> Data:
        return _bundled("sklearn.datasets", "load_digits")


@dataclass(frozen=True)
class Iris:
    """Three kinds of iris by the sizes of their petals and sepals, x (150, 4)."""

    def __call__(self, seed: int) -> Data:
        return _bundled("sklearn.datasets", "load_iris")


@dataclass(frozen=True)
class Wine:
    """Three cultivars of wine by chemical analysis, x (178, 13)."""

    def __call__(self, seed: int) -> Data:
        return _bundled("sklearn.datasets", "load_wine")


@dataclass(frozen=True)
class BreastCancer:
    """Malignant and benign tumours by the shapes of cell nuclei, x (569, 30)."""

    def __call__(self, seed: int) -> Data:
        return _bundled("sklearn.datasets", "load_breast_cancer")


@dataclass(frozen=True)
class File:
    """A file of one of the kinds that trainer.data.files reads, or several that trainer.data.places reads as one.

    path       a file, a folder, a pattern such as data/*.parquet, or a list of them; here, or behind s3://, gs://,
               https://, http:// or memory://
    target     the column of labels in a .csv, .parquet, .arrow or .feather, the file of labels of a .npy or sparse
               .npz; of several .npy as many files
    test_path  further files, which are held out of everything and evaluated once
    in_memory  whether to hold the features of a .npy, .parquet, .arrow or .feather in memory, or to read them in blocks
               whenever they are needed; null holds what takes up to 512 MiB as float64
    header     whether a .csv begins with the names of its columns; false calls them x0, x1, ... and takes the last one
               as the target, true takes numbers for names, and null refuses them
    delimiter  what stands between the fields of a .csv or .tsv: a letter, or its name; null is a comma, or a tab

    Where columns have names, see trainer.data.columns:

    features, drop  the columns that are features, or those that are none
    id, weight      columns that are no features: what is written beside predictions, and the weights of the samples
    categorical     columns whose values become a feature each; auto takes those with texts or few integers
    dates           columns that become days since 1970-01-01
    missing         what becomes of a missing value: mean and median stand for it, indicator is mean and a feature that
                    says so, error refuses it
    """

    path: str | list[str]
    target: str | list[str] | None = None
    test_path: str | list[str] | None = None
    in_memory: bool | None = None
    header: bool | None = None
    delimiter: str | None = None
    features: list[str] | None = None
    drop: list[str] | None = None
    id: str | None = None
    weight: str | None = None
    categorical: list[str] | str | None = None
    dates: list[str] | None = None
    missing: str = "error"

    @property
    def columns(self) -> Columns:
        """What is said of the columns; a name that looks like a number came as one."""
        said = {f.name: getattr(self, f.name) for f in fields(Columns)}
        lists = {key: tuple(map(str, value)) for key, value in said.items() if isinstance(value, list)}
        return Columns(**{key: value for key, value in (said | lists).items() if value is not None})

    def __post_init__(self) -> None:
        self.columns  # noqa: B018  it checks the settings
        if self.test_path is not None and self.target is not None and not self.named:
            raise ConfigError(
                f"data.test_path={name_of(self.test_path)} would have the labels of data.target={name_of(self.target)}."
                " Put its x and y into one .npz, or take a share of the rows by test_fraction."
            )

    @property
    def named(self) -> bool:
        """Whether columns have names, and the target is one of them."""
        return find(self.path).kind in files.NAMED

    @property
    def paths(self) -> list[str]:
        """All files that are read: those of the rows, of the test, and of labels that have their own."""
        found = [(self.path, "data.path"), *([(self.test_path, "data.test_path")] if self.test_path else [])]
        found += [(self.target, "data.target")] if self.target and not self.named else []
        return [path for named, key in found for path in find(named, key).paths]

    def __call__(self, seed: int) -> Data:
        return files.read(self.path, self.target, self.in_memory, self.header, self.columns)

    def test(self, data: Data) -> Data | None:
        """The rows of test_path, if there is one, with the columns and the classes of these data."""
        if self.test_path is None:
            return None
        asked = replace(self.columns, features=None, categorical=(), dates=(), missing="error")
        target = data.target or self.target
        rest = (self.in_memory, self.header, asked, data.encoding)
        return files.read_known(self.test_path, data.features, data.classes, target, *rest)


SOURCES: dict[str, type] = {
    "blobs": Blobs,
    "classification": Classification,
    "moons": Moons,
    "circles": Circles,
    "spirals": Spirals,
    "digits": Digits,
    "iris": Iris,
    "wine": Wine,
    "breast_cancer": BreastCancer,
    "file": File,
}


def _halves(samples: int) -> Array:
    """Labels (N,) of two classes, the second one larger by one where there is an odd one."""
    return (np.arange(samples) >= samples // 2).astype(np.intp)


def _noisy(x: Array, y: Array, noise: float, seed: int) -> Data:
    """Points (N,2) of two classes, shuffled, with noise of this deviation."""
    random = random_state(seed)
    x, y = _shuffled(x, y, random)
    return _generated(x + random.normal(scale=noise, size=x.shape), y, 2)


def _shuffled(x: Array, y: Array, random: np.random.RandomState) -> tuple[Array, Array]:
    order = np.arange(len(y))
    random.shuffle(order)
    return x[order], y[order]


def _generated(x: Any, y: Any, classes: int) -> Data:
    """Features x (N,D) called x0, x1, ... and labels y (N,) of classes 0..K-1."""
    return Data(np.ascontiguousarray(x, np.float64), y.astype(np.intp), tuple(range(classes)), Numbered(x.shape[1]))


@cache
def _bundled(module: str, name: str) -> Data:
    """A data set of a module's, under its own names; it is read once, since that takes longer than many a training."""
    bunch = getattr(import_module(module), name)()
    classes = tuple(name if isinstance(name, str) else int(name) for name in bunch.target_names.tolist())
    x, y = np.ascontiguousarray(bunch.data, np.float64), bunch.target.astype(np.intp)
    for array in (x, y):  # which all that train on them share
        array.setflags(write=False)
    return Data(x, y, classes, tuple(map(str, bunch.feature_names)))
