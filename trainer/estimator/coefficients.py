"""coef_ and intercept_, as scikit-learn names them, and the parameters w (D+1,K) that they are."""

from typing import Any

import numpy as np

from trainer.arrays import Array
from trainer.chain.pairs import shift_invariant
from trainer.errors import DataError
from trainer.objective.objective import Objective
from trainer.runs.model import Model


def of_raw_features(model: Model) -> Array:
    """w (D+1,K) of the features as they are given; a model of a run has it of standardised ones.

    >>> of_raw_features(SoftmaxRegression().fit(X, y).model_).shape
    (2, 2)
    """
    w, (mean, scale) = model.w, model.standardizer
    raw: Array = np.vstack([w[:-1] / scale[:, None], w[-1] - (mean / scale) @ w[:-1]])
    return raw.astype(w.dtype)


def parameters_of(coef: Any, intercept: Any, shape: tuple[int, ...]) -> Array:
    """w of this shape (D+1,K); DataError where what a user has set is not of it, or not finite.

    >>> parameters_of([[1.0], [2.0]], [0.5, -0.5], (2, 2))
    array([[ 1. ,  2. ],
           [ 0.5, -0.5]])
    """
    coef, intercept = np.asarray(coef), np.asarray(intercept)
    features, classes = shape[0] - 1, shape[1]
    if coef.shape != (classes, features) or intercept.shape != (classes,):
        raise DataError(
            f"coef_ and intercept_ have the shapes {coef.shape} and {intercept.shape}; {classes} classes and "
            f"{features} features need {(classes, features)} and {(classes,)}."
        )
    w = np.vstack([coef.T, intercept])
    w = w if w.dtype in (np.float64, np.float32) else w.astype(np.float64)
    if not np.isfinite(w).all():
        raise DataError("coef_ or intercept_ holds numbers that are not finite. Set finite ones, or fit again.")
    return w


def without_shift(w: Array, objective: Objective) -> Array:
    """w with biases of the sum zero where their sum means nothing.

    >>> from trainer.chain.losses import CrossEntropy
    >>> from trainer.chain.activations import Softmax
    >>> from trainer.chain.strategies import auto
    >>> from trainer.objective.penalties import L2
    >>> without_shift(np.array([[1.0, 2.0], [3.0, 5.0]]), Objective(Softmax(), CrossEntropy(), auto, L2()))
    array([[ 1.,  2.],
           [-1.,  1.]])
    """
    mean, rounding = w[-1].mean(), 4 * np.finfo(w.dtype).eps * np.abs(w[-1]).max()
    if not shift_invariant(objective.activation, objective.loss) or abs(mean) <= rounding:
        return w
    return np.vstack([w[:-1], w[-1] - mean])
