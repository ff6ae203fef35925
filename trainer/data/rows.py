"""Data: rows and their targets, the split by seed, and the standardisation fitted on training rows.

Whatever makes training rows of rows is here, so that one can see that nothing else is done to them; hence the length.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np

from trainer.arrays import Array, as_type, namespace, one_hot
from trainer.data.encoding import Encoding
from trainer.data.features import Features, is_sparse, over, shuffled_pools
from trainer.errors import ConfigError, DataError, listed, subject, suggest

LARGE = 1 << 18  # rows from which a split is not that of scikit-learn, which needed a hundred bytes a row


class Source(Protocol):
    """Where data come from: a frozen dataclass whose fields are the YAML's; the seed makes it repeatable."""

    def __call__(self, seed: int) -> "Data": ...


@dataclass(frozen=True, eq=False)
class Numbered(Sequence[str]):
    """The names x0, x1, ... of features that have none, each made when it is asked for: there may be millions."""

    number: int

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, index: Any) -> Any:
        numbers = range(self.number)[index]
        return tuple(f"x{d}" for d in numbers) if isinstance(index, slice) else f"x{numbers}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)


@dataclass(frozen=True)
class Data:
    """N samples of D features in K classes.

    x         (N,D) features: an array, a CSR matrix of scipy's, or Features that stay in their file
    y         (N,) labels 0..K-1, or (N,K) target rows (non-negative)
    classes   K names in the order of the columns
    features  D names
    target    the name of the target in its file, None for generated data
    weight    (N,) non-negative sample weights; None means one each
    smoothing epsilon in [0, 1): targets are (1 - epsilon) y + epsilon s / K with s = y.sum(1), so the classes that are
              not the label get epsilon/K, not epsilon/(K - 1), and an all-zero row stays as it is
    encoding  how x was made of the columns of a file; None where it has them as they are
    """

    x: Any
    y: Array
    classes: tuple[int | str, ...]
    features: Sequence[str]
    target: str | None = None
    weight: Array | None = None
    smoothing: float = 0.0
    encoding: Encoding | None = None

    def __len__(self) -> int:
        return int(self.x.shape[0])

    @property
    def labels(self) -> Array:
        """One class a sample (N,): the label itself, or the largest target of its row."""
        return self.y if self.y.ndim == 1 else self.y.argmax(axis=1)

    @property
    def one_hot(self) -> bool:
        """Whether every target row is the one-hot row of a label."""
        return self.y.ndim == 1 and self.smoothing == 0

    def rows(self, index: Any) -> "Data":
        """The samples that a slice (a view) or an array of row numbers (a copy) selects; of a file they are read."""
        weight = None if self.weight is None else self.weight[index]
        return replace(self, x=self.x[index], y=self.y[index], weight=weight)

    def only(self, index: Array) -> "Data":
        """The samples of these numbers, in rising order; those of a file stay there."""
        if not isinstance(self.x, Features):
            return self.rows(index)
        weight = None if self.weight is None else self.weight[index]
        return replace(self, x=self.x.only(index), y=self.y[index], weight=weight)

    def encoded(self, encoding: Encoding) -> "Data":
        """The same rows, whose codes this encoding makes features of."""
        return replace(self, x=encoding.features(self.x), features=encoding.names, encoding=encoding)

    def targets(self, dtype: Any) -> Array:
        """Target rows (N,K), F-ordered; labels become one-hot rows, and rows smooth, here and not before."""
        return self.smooth(self.plain_targets(dtype))

    def plain_targets(self, dtype: Any) -> Array:
        """Target rows (N,K), F-ordered, without the smoothing."""
        if self.y.ndim == 1:
            return one_hot(self.y, len(self.classes), dtype)
        return np.asfortranarray(self.y, dtype=dtype) if isinstance(self.y, np.ndarray) else as_type(self.y, dtype)

    def smooth(self, y: Array) -> Array:
        """Target rows (N,K) with the share epsilon of their sums spread evenly over the classes."""
        if self.smoothing == 0:
            return y
        spread: Array = self.smoothing * namespace(y).sum(y, axis=1, keepdims=True) / y.shape[1]  # (N,1)
        return (1 - self.smoothing) * y + spread


class Standardizer(NamedTuple):
    """``(x - mean) / scale``; mean and scale (D,) are those of the training rows.

    A sparse x is only divided by its scale, the standard deviation about its mean, and the mean here is zero: without
    its zeros it would not be sparse.
    """

    mean: Array
    scale: Array

    @classmethod
    def fit(cls, x: Any) -> "Standardizer":
        """Mean and standard deviation of each column; a constant column keeps the scale one.

        Two passes over blocks of rows, whose moments are merged by Chan, Golub & LeVeque 1979.
        """
        if is_sparse(x):
            return cls(np.zeros(x.shape[1]), _sparse_scale(x))
        size = np.zeros(x.shape[1])
        for largest in over(x, _largest):
            size = np.maximum(size, largest)
        unit = np.where(size > 0, size, 1.0)
        count, mean, variance = 0, np.zeros_like(unit), np.zeros_like(unit)
        for rows, part_mean, part_variance in over(x, partial(_moments, unit)):
            count += rows
            share = rows / count
            step = part_mean - mean
            variance = (1 - share) * variance + share * part_variance + share * (1 - share) * step**2
            mean = mean + share * step
        return cls(mean * unit, _scale(np.sqrt(variance), unit))

    @classmethod
    def none(cls, features: int) -> "Standardizer":
        """The one that changes nothing, for data that are to be taken as they are."""
        return cls(np.zeros(features), np.ones(features))

    def __call__(self, x: Array) -> Array:
        """Standardised features (N,D), a new array."""
        return (x - self.mean) / self.scale

    def ready(self, x: Any, dtype: Any) -> Any:
        """Standardised features (N,D) as dtype, of the same kind as x: those of a file stay there."""
        if isinstance(x, Features):
            return replace(x, mean=self.mean, scale=self.scale, dtype=np.dtype(dtype))
        if not is_sparse(x):
            return np.ascontiguousarray(self(x), dtype=dtype)
        if self.mean.any():
            raise DataError(
                "The features are sparse, but the model subtracts a mean from each, after which no zero is left. Give "
                "it dense ones, or train it on sparse ones."
            )
        scaled = x.astype(np.float64)  # a copy
        scaled.data /= self.scale[scaled.indices]
        return scaled.astype(dtype, copy=False)


def _largest(x: Array) -> Array:
    """The largest absolute value of each column (D,)."""
    size: Array = np.abs(x).max(axis=0)
    return size


def _moments(unit: Array, x: Array) -> tuple[int, Array, Array]:
    """How many rows there are, and mean and variance (D,) of each column in these units."""
    x = x / unit  # in units of its largest value a column's squares can neither overflow nor underflow
    return len(x), x.mean(axis=0), x.var(axis=0)


def _scale(spread: Array, unit: Array) -> Array:
    """The scale of columns with this standard deviation in these units."""
    scale = spread * unit
    constant = (spread < 1e-14) | (scale == 0)  # what rounding makes of equal values is not a spread; nor is nothing
    return np.where(constant, 1.0, scale)


def _sparse_scale(x: Any) -> Array:
    """The standard deviation of each column of a CSR matrix, without its zeros; one for a constant column."""
    if not x.has_canonical_format:
        x = x.copy()
        x.sum_duplicates()
    n, columns = x.shape
    size = abs(x).max(axis=0).toarray().ravel()
    unit = np.where(size > 0, size, 1.0)
    values = x.data / unit[x.indices]
    mean = np.bincount(x.indices, values, columns) / n
    squares = np.bincount(x.indices, (values - mean[x.indices]) ** 2, columns)
    zeros = n - np.bincount(x.indices, minlength=columns)
    return _scale(np.sqrt((squares + zeros * mean**2) / n), unit)


class Prepared(NamedTuple):
    """What a run trains and validates on, and the standardisation that a model needs to repeat it."""

    train: Data
    valid: Data | None
    standardizer: Standardizer


def prepare(data: Data, *, valid_fraction: float, standardize: bool, seed: int, dtype: Any) -> Prepared:
    """Splits by seed with the classes' shares kept, standardises by the training rows, converts to dtype."""
    train, valid = split(data, valid_fraction, seed)
    standardizer = Standardizer.fit(train.x) if standardize else Standardizer.none(train.x.shape[1])

    def ready(part: Data) -> Data:
        return replace(part, x=standardizer.ready(part.x, dtype))

    return Prepared(ready(train), None if valid is None else ready(valid), standardizer)


def for_training(data: Data, label_smoothing: float, class_weight: Mapping[Any, float] | str | None) -> Data:
    """Training rows with smooth targets and the classes' weights c: weight_n becomes weight_n <c, y_n> / s_n.

    With s_n = sum_k y_nk this is c of the label where there is one and the mean of c over the targets where there are
    more; a row without a target keeps its weight. It is a sample weight, so it is exact for every loss, and it is
    taken of the targets as they are before smoothing.

    class_weight maps names of classes to weights, and classes that it leaves out weigh one; "balanced" gives
    c_k = N / (K count_k), as in scikit-learn, from the rows that have a target and the classes that occur in them. A
    row counts with its weight, and a soft one with its shares y_nk / s_n.
    """
    data = replace(data, smoothing=label_smoothing)
    if class_weight is None:
        return data
    c = _balanced(data) if isinstance(class_weight, str) else _by_name(class_weight, data.classes)
    own = c[data.y] if data.y.ndim == 1 else np.where(data.y.any(axis=1), _shares(data.y) @ c, 1.0)
    weight = own if data.weight is None else own * data.weight
    if not weight.any():
        raise ConfigError("class_weight leaves every training sample a weight of 0. Give a class in the data a weight.")
    return replace(data, weight=weight)


def _balanced(data: Data) -> Array:
    """Weights (K,) that give the classes equal shares; one for a class that does not occur."""
    weight = np.ones(len(data)) if data.weight is None else data.weight
    if data.y.ndim == 1:
        counts: Array = np.bincount(data.y, weights=weight, minlength=len(data.classes))
    else:
        counts = weight @ _shares(data.y)
    there = counts > 0
    return np.where(there, counts.sum() / (there.sum() * np.where(there, counts, 1.0)), 1.0)


def _by_name(class_weight: Mapping[Any, float], classes: tuple[int | str, ...]) -> Array:
    """Weights (K,) in the order of the columns from those given by name."""
    places = {str(name): k for k, name in enumerate(classes)}  # the command line writes the class '0' as 0
    c = np.ones(len(classes))
    for name, value in class_weight.items():
        if str(name) not in places:
            raise ConfigError(
                f"class_weight has a weight for {name}, which is no class of the data{suggest(str(name), places)} "
                f"Classes: {listed(places)}."
            )
        c[places[str(name)]] = value
    return c


def _shares(y: Array) -> Array:
    """Target rows (N,K) divided by their sums; an all-zero row stays as it is."""
    s = y.sum(axis=1, keepdims=True)
    return y / np.where(s > 0, s, 1.0)


def split(data: Data, valid_fraction: float, seed: int, key: str = "valid_fraction") -> tuple[Data, Data | None]:
    """Training and validation rows: shuffled by the seed, every class in both by its share; key is the setting."""
    if valid_fraction == 0:
        return data, None
    counts = np.bincount(data.labels, minlength=len(data.classes))
    rare = [str(name) for name, count in zip(data.classes, counts, strict=True) if count == 1]
    if rare:
        raise DataError(
            f"{subject('Class', 'Classes', rare)} one sample only, too few for both sides of a split. Add samples, "
            f"or hold none out by {key}=0."
        )
    if len(data) >= LARGE:
        held_out = _held_out(data.labels, counts, valid_fraction, seed)
    else:
        classes, many = int(np.sum(counts > 0)), math.ceil(valid_fraction * len(data))
        if not classes <= many <= len(data) - classes:
            some = f"{classes} to {len(data) - classes}, or " if 2 * classes <= len(data) else ""
            raise ConfigError(
                f"{key}={valid_fraction} would hold out {many} of {len(data)} samples, and each of {classes} "
                f"classes needs one on both sides. Hold out {some}none by {key}=0."
            )
        held_out = _drawn(data.labels, counts, many, random_state(seed))
    return data.only(np.flatnonzero(~held_out)), data.only(np.flatnonzero(held_out))


def _drawn(labels: Array, counts: Array, many: int, random: np.random.RandomState) -> Array:
    """Which rows (N,) validate: the very rows of scikit-learn's stratified split, which takes a second to import."""
    there = np.flatnonzero(counts)
    kept = _mode(counts[there], len(labels) - many, random)
    _mode(counts[there] - kept, many, random)  # all that is left; but it may draw
    held_out = np.zeros(len(labels), dtype=bool)
    for k, few in zip(there, kept, strict=True):
        rows = np.flatnonzero(labels == k)
        held_out[rows[random.permutation(len(rows))[few:]]] = True
    return held_out


def _mode(counts: Array, many: int, random: np.random.RandomState) -> Array:
    """How many of so many rows each class gives: its share rounded down, and the rest by the largest remainders."""
    share = counts / counts.sum() * many
    whole = np.floor(share)
    rest, left = share - whole, int(many - whole.sum())
    for value in np.unique(rest)[::-1]:
        if not left:
            break
        equal = np.flatnonzero(rest == value)
        more = random.choice(equal, min(left, len(equal)), replace=False)
        whole[more] += 1
        left -= len(more)
    found: Array = whole.astype(np.intp)
    return found


def _held_out(labels: Array, counts: Array, valid_fraction: float, seed: int) -> Array:
    """Which rows (N,) validate: of each class its share, rounded, but one at least and not all."""
    held_out = np.zeros(len(labels), dtype=bool)
    random = np.random.default_rng(seed)
    for k in np.flatnonzero(counts):
        rows = np.flatnonzero(labels == k)
        many = int(np.clip(round(valid_fraction * len(rows)), 1, len(rows) - 1))
        held_out[random.choice(rows, many, replace=False, shuffle=False)] = True
    return held_out


def stratified(labels: Array, number: int, seed: int) -> Array:
    """Of each row (N,) which of so many folds holds it out: shuffled by the seed, every class in all by its share.

    The rows, class by class, are dealt out in turn, so that neither folds nor a class in them differ by more than one.
    """
    counts = np.bincount(labels)
    if len(labels) < number:
        raise ConfigError(f"folds={number} of {len(labels)} samples leaves some folds without any. Take fewer folds.")
    if (counts == 1).any():
        raise DataError(
            "A class has one sample only, and the fold that holds it out would train without it. Add samples, or leave "
            "folds out."
        )
    order = np.random.default_rng(seed).permutation(len(labels))
    folds = np.empty(len(labels), dtype=np.intp)
    folds[order[np.argsort(labels[order], kind="stable")]] = np.arange(len(labels)) % number
    return folds


def random_state(seed: int) -> np.random.RandomState:
    """scikit-learn's kind of generator from any non-negative integer, also one of more than 32 bits."""
    return np.random.RandomState(np.random.MT19937(np.random.SeedSequence(seed)))


def batches(data: Data, size: int | None, seed: int, epoch: int) -> Iterator[Data]:
    """Mini-batches of one epoch, reshuffled; a pure function of (seed, epoch), so that a resumed run repeats it.

    Rows in a file are shuffled by blocks and within, see features.shuffled_pools; so the order is not that in memory.
    """
    if size is None or size >= len(data):
        yield data
        return
    if isinstance(data.x, Features):
        for rows in shuffled_pools(data.x, size, np.random.default_rng([seed, epoch])):
            pool = data.rows(rows)
            for start in range(0, len(pool), size):
                yield pool.rows(slice(start, start + size))
        return
    order = namespace(data.y).asarray(shuffle(len(data), seed, epoch), device=data.y.device)  # where the rows are
    for start in range(0, len(data), size):
        yield data.rows(order[start : start + size])


def shuffle(count: int, seed: int, epoch: int) -> Array:
    """The order of so many rows in memory in an epoch."""
    return np.random.default_rng([seed, epoch]).permutation(count)
