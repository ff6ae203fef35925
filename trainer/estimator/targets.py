"""What the estimator is given for y, labels or target rows, and the weights of the rows; and what is right of them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.sparse import issparse  # type: ignore[import-untyped]
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array

from trainer.arrays import Array
from trainer.data.rows import Data
from trainer.errors import ConfigError, DataError, require, require_text


def columns_of(y: Any) -> Array | None:
    """The classes (K,) of target rows: the names of their columns, or else 0..K-1; None of labels.

    >>> columns_of([[0.2, 0.8], [1.0, 0.0]]), columns_of([0, 1, 1]), columns_of([[0], [1]])
    (array([0, 1]), None, None)
    """
    try:
        shape = y.shape if hasattr(y, "shape") else np.asarray(y).shape
    except ValueError:  # ragged; scikit-learn has a sentence for it
        return None
    if len(shape) != 2 or shape[1] < 2:
        return None
    names = list(getattr(y, "columns", ()))
    if not names or not all(isinstance(name, str) for name in names):
        return np.arange(shape[1])
    if len(set(names)) < len(names):
        twice = max(names, key=names.count)
        raise DataError(f"Two columns of y are called {twice!r}; give every class a name of its own.")
    return np.asarray(names)


def at_home(given: Any) -> Any:
    """A tensor of torch, from whichever device, as an array of numpy's; anything else as it is.

    >>> at_home([1, 2])
    [1, 2]
    """
    return given.detach().cpu().numpy() if hasattr(given, "detach") else given


def targets_of(y: Array, classes: Array | None) -> tuple[Array, Array]:
    """Labels (N,), places in the classes (K,), or target rows (N,K), and the classes, which are None or of columns_of.

    One-hot rows are labels, for which there are faster formulas.

    >>> targets_of(y, None)
    (array([0, 1, 0, 1]), array(['no', 'yes'], dtype='<U3'))
    """
    if classes is None:
        check_classification_targets(y)
        found, labels = np.unique(y, return_inverse=True)
        if len(found) < 2:
            raise DataError(f"All labels are {found[0]}, which is one class; a classifier needs samples of at least 2.")
        return labels, found
    return rows_of(y), classes


def rows_of(y: Any) -> Array:
    """Target rows (N,K), or the labels (N,) that one-hot rows stand for.

    >>> rows_of(np.array([[0.5, -0.5]]))
    Traceback (most recent call last):
    trainer.errors.DataError: y holds -0.5; the targets of a row are shares or zeros and ones, and none is negative.
    """
    try:
        rows = np.asarray(y.toarray() if issparse(y) else y, dtype=np.float64, order="C")
    except ValueError:
        raise DataError(
            f"y has {y.shape[1]} columns of texts; give labels in one column, or a column of numbers for each class."
        ) from None
    if rows.min() < 0:
        raise DataError(
            f"y holds {rows.min():g}; the targets of a row are shares or zeros and ones, and none is negative."
        )
    one_hot = (rows.max(axis=1) == 1).all() and (np.count_nonzero(rows, axis=1) == 1).all()
    return rows.argmax(axis=1) if one_hot else rows


def named_classes(classes: Any, columns: Array | None, before: Array | None) -> Array:
    """The classes (K,) of a call of partial_fit, by name or by the columns of y, which are those of the call before.

    >>> named_classes(["yes", "no"], None, None)
    array(['no', 'yes'], dtype='<U3')
    """
    if classes is None and columns is None:
        if before is None:
            raise ConfigError("The first call of partial_fit needs classes=, all labels that will ever occur.")
        return before
    if columns is not None and before is not None and np.array_equal(columns, np.arange(len(before))):
        columns = before  # they have no names of their own
    named = np.unique(np.asarray(classes)) if columns is None else columns
    if classes is not None and not np.array_equal(np.unique(named), np.unique(np.asarray(classes))):
        given = shown(np.unique(classes))
        raise ConfigError(f"classes={given} are not the columns of y, {shown(named)}. Leave them out.")
    if before is not None and not np.array_equal(before if columns is not None else np.unique(before), named):
        raise ConfigError(f"classes={shown(named)} are not those of the fit before, {shown(before)}. Leave them out.")
    require(len(named) >= 2, f"classes={shown(named)} is one class; a classifier needs at least 2 classes.")
    return named if before is None else before


def right(predicted: Array, y: Any, classes: Array) -> Array:
    """Whether a prediction is right (N,): one of the row's largest targets, or of multi-label rows (N,K) all of them.

    >>> right(np.array(["yes", "no"]), [[0.4, 0.6], [0.4, 0.6]], np.array(["no", "yes"])).tolist()
    [True, False]
    """
    rows = check_array(y, accept_sparse="csr", input_name="y")
    rows = rows.toarray() if issparse(rows) else rows
    if rows.shape != (len(predicted), len(classes)):
        raise DataError(f"y has the shape {rows.shape}; {len(predicted)} rows need {(len(predicted), len(classes))}.")
    if predicted.ndim == 2:
        same: Array = ((rows >= 0.5) == predicted).all(axis=1)
        return same
    hit: Array = rows[np.arange(len(rows)), places_of(predicted, classes)] == rows.max(axis=1)
    return hit


def data_of(x: Array, labels: Array, classes: Array, features: Sequence[str], sample_weight: Any) -> Data:
    """The rows with their weights, which are not negative, and names that a model file can hold.

    >>> data_of(X, np.array([0, 1, 0, 1]), np.unique(y), ("x",), None).classes
    ('no', 'yes')
    """
    if sample_weight is not None:
        sample_weight = check_array(at_home(sample_weight), ensure_2d=False, dtype=x.dtype, input_name="sample_weight")
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


def total_weight(data: Data, least: int = 2) -> float:
    """The sum of the weights; DataError unless rows of so many classes have one, since E then has no minimum.

    >>> total_weight(data)
    8.0
    """
    counts = slice(None) if data.weight is None else data.weight > 0
    y = data.y[counts]
    count = len(np.unique(y)) if y.ndim == 1 else np.count_nonzero(y.any(axis=0))
    if count < least:
        raise DataError(
            f"Without the training rows whose weight is zero there are {count} classes; a classifier needs samples of "
            f"at least {least}. Change sample_weight, class_weight or y."
        )
    return float(len(data) if data.weight is None else data.weight.sum(dtype=np.float64))


def with_mean_one(data: Data) -> Data:
    """Weights in proportion, with a mean of one over the rows: one of them then counts the same in every mini-batch.

    >>> with_mean_one(data).weight
    array([1., 2., 0., 1.])
    """
    return data if data.weight is None else replace(data, weight=data.weight / (data.weight.mean() or 1.0))


def places_of(y: Array, classes: Array) -> Array:
    """Labels (N,) -> places (N,) in the classes, which are known and in any order.

    >>> places_of(y, np.array(["yes", "no"]))
    array([1, 0, 1, 0])
    """
    check_classification_targets(y)
    order = np.argsort(classes)
    places: Array = order[np.searchsorted(classes, y, sorter=order).clip(max=len(classes) - 1)]
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
