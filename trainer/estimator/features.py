"""The features that the estimator is given: looked at by scikit-learn, and their names."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.sparse import issparse  # type: ignore[import-untyped]
from sklearn.utils.validation import validate_data

from trainer.data.features import is_sparse
from trainer.data.rows import Numbered
from trainer.data.sparse_files import check_sparse
from trainer.errors import ConfigError, require_text
from trainer.estimator.targets import at_home, columns_of
from trainer.runs.model import Model

DTYPES = [np.float64, np.float32]  # float32 features are trained on as they are, all others as float64


def validated(estimator: Any, X: Any, *y: Any, reset: bool = True) -> Any:
    """X (N,D), and y if given, as scikit-learn checks and converts them, which trusts the indices of a sparse X.

    >>> validated(SoftmaxRegression(), [[1, 2]])
    array([[1., 2.]])
    """
    X, *y = map(at_home, (X, *y))  # type: ignore[assignment]
    if not reset and encodes(estimator._model):
        if y:
            raise ConfigError(
                "partial_fit cannot go on with a model that makes its features of columns by their names. Use fit."
            )
        X = estimator._model.columns.of_table(X)
    if issparse(X):
        check_sparse(X, "X")
    rows = {"multi_output": columns_of(y[0]) is not None, "order": "C"} if y else {}
    checked = validate_data(estimator, X, *y, accept_sparse="csr", dtype=DTYPES, reset=reset, **rows)
    x = checked[0] if y else checked
    if is_sparse(x) and x is not X:
        check_sparse(x, "X")  # what was no CSR was not looked at in every form
    return checked


def encodes(model: Model) -> bool:
    """Whether its features are not the columns that they are made of.

    >>> encodes(SoftmaxRegression().fit(X, y).model_)
    False
    """
    return model.columns is not None and not model.columns.plain


def names_of(estimator: Any, X: Any) -> Sequence[str]:
    """The names (D,) of the columns of X that the estimator has seen, their numbers where they have none.

    >>> names_of(SoftmaxRegression(), X)[:]
    ('x0',)
    """
    names = getattr(estimator, "feature_names_in_", None)
    if names is None:
        return Numbered(X.shape[1])
    require_text(names, "The feature")
    return tuple(map(str, names))
