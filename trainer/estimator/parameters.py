"""What the estimator is given, checked and turned into what ``fit`` takes: parameters, labels and weights."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
from sklearn.utils.validation import check_array

from trainer.arrays import Array
from trainer.data.rows import Data
from trainer.errors import ConfigError, DataError, choose, listed, require, require_text


def _count(value: Any) -> bool:
    return isinstance(value, int | np.integer) and bool(value >= 1)


def _number(value: Any) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and bool(np.isfinite(value))


LIMITS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "C": (lambda c: (_number(c) and c > 0) or c == math.inf, "a number greater than 0"),
    "tol": (lambda tol: _number(tol) and tol > 0, "a finite number greater than 0"),
    "max_iter": (_count, "an integer of at least 1"),
    "n_iter_no_change": (_count, "an integer of at least 1"),
    "threads": (lambda n: n is None or _count(n), "None or an integer of at least 1"),
    "batch_size": (lambda n: n in (None, "auto") or _count(n), "None, 'auto' or an integer of at least 1"),
    "fit_intercept": (lambda flag: isinstance(flag, bool | np.bool_), "True or False"),
    "validation_fraction": (lambda share: _number(share) and 0 < share < 1, "greater than 0 and less than 1"),
    "label_smoothing": (lambda epsilon: _number(epsilon) and 0 <= epsilon < 1, "at least 0 and less than 1"),
    "class_weight": (
        lambda c: all(_number(v) and v >= 0 for v in c.values()) if isinstance(c, Mapping) else c in (None, "balanced"),
        "None, 'balanced' or {label: weight} with finite weights of at least 0",
    ),
}


def check_ranges(estimator: object) -> None:
    """Refuses a parameter by a sentence; scikit-learn wants this done in fit and not before.

    >>> check_ranges(SoftmaxRegression(C=-1.0))
    Traceback (most recent call last):
    trainer.errors.ConfigError: C must be a number greater than 0, got -1.0.
    """
    for name, (inside, words) in LIMITS.items():
        value = getattr(estimator, name)
        require(inside(value), f"{name} must be {words}, got {value!r}.")


def component(group: str, registry: Mapping[str, Any], choice: Any, **settings: Any) -> Any:
    """The instance, or the one that the registry has under a name, with those settings that it has fields for.

    >>> from trainer.optimizers import OPTIMIZERS
    >>> component("optimizer", OPTIMIZERS, "newton", tol=1e-3, lr=0.1)
    Newton(tol=0.001, gap=1e-06)
    """
    if isinstance(choice, str):
        cls = registry[choose(group, registry, choice)]
        return cls(**{f.name: settings[f.name] for f in fields(cls) if f.name in settings})
    if isinstance(choice, type) or not hasattr(choice, "name"):
        raise ConfigError(f"{group} must be a name or an instance, got {choice!r}. Names: {listed(registry)}.")
    return choice


def data_of(x: Array, labels: Array, classes: Array, features: Sequence[str], sample_weight: Any) -> Data:
    """The rows with their weights, which are not negative, and names that a model file can hold.

    >>> data_of(X, np.array([0, 1, 0, 1]), np.unique(y), ("x",), None).classes
    ('no', 'yes')
    """
    if sample_weight is not None:
        sample_weight = check_array(sample_weight, ensure_2d=False, dtype=x.dtype, input_name="sample_weight")
        if sample_weight.shape != x.shape[:1]:
            raise DataError(f"sample_weight has the shape {sample_weight.shape}; {x.shape[0]} rows need {x.shape[:1]}.")
        if (sample_weight < 0).any():
            raise DataError(f"sample_weight holds {sample_weight.min()}; give weights of at least 0.")
    names = tuple(map(name_of, classes))
    require_text(names, "The label")
    return Data(x, labels, names, features, weight=sample_weight)


def named_weights(class_weight: Any) -> dict[Any, float] | str | None:
    """class_weight with the labels as they are called in Data.

    >>> named_weights({0.0: 1.0, 2.5: 3.0})
    {0: 1.0, '2.5': 3.0}
    """
    return (
        {name_of(label): c for label, c in class_weight.items()} if isinstance(class_weight, Mapping) else class_weight
    )


def total_weight(data: Data) -> float:
    """The sum of the weights; DataError unless rows of two classes have one, since E then has no minimum.

    >>> total_weight(data)
    8.0
    """
    if data.weight is None:
        return float(len(data))
    count = len(np.unique(data.y[data.weight > 0]))
    if count < 2:
        raise DataError(
            f"Without the training rows whose weight is zero there are {count} classes; a classifier needs samples of "
            "at least 2. Change sample_weight or class_weight."
        )
    return float(data.weight.sum(dtype=np.float64))


def with_mean_one(data: Data) -> Data:
    """Weights in proportion, with a mean of one over the rows: one of them then counts the same in every mini-batch.

    >>> with_mean_one(data).weight
    array([1., 2., 0., 1.])
    """
    return data if data.weight is None else replace(data, weight=data.weight / (data.weight.mean() or 1.0))


def places_of(y: Array, classes: Array) -> Array:
    """Labels (N,) -> places (N,) in the sorted classes.

    >>> places_of(y, np.unique(y))
    array([0, 1, 0, 1])
    """
    places = np.searchsorted(classes, y).clip(max=len(classes) - 1)
    if (strange := classes[places] != y).any():
        raise DataError(
            f"The label {y[strange.argmax()]} is none of the classes {shown(classes)}. "
            "Name all of them in the first call of partial_fit."
        )
    return places


def name_of(label: Any) -> int | str:
    """A label as a model file keeps it: an integer where it is one, also as 1.0 or True, else a text.

    >>> name_of(True), name_of(2.0), name_of(2.5), name_of("a")
    (1, 2, '2.5', 'a')
    """
    return str(label) if isinstance(label, str) or label != int(label) else int(label)


def shown(classes: Array) -> str:
    """The first classes, for a sentence.

    >>> shown(np.arange(100))
    '0, 1, 2, 3, 4, 5, 6, 7, ...'
    """
    return ", ".join(map(str, classes[:8])) + (", ..." if len(classes) > 8 else "")
