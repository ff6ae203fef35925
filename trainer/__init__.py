"""A training framework for linear classifiers: the activation, the loss and the gradient strategy are three choices."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.estimator.softmax_regression import SoftmaxRegression
    from trainer.estimator.softmax_regression_cv import SoftmaxRegressionCV

__all__ = ["SoftmaxRegression", "SoftmaxRegressionCV"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Imports an estimator when it is first asked for: scikit-learn is slow to import and most commands need none."""
    if name == "SoftmaxRegression":
        from trainer.estimator.softmax_regression import SoftmaxRegression

        return SoftmaxRegression
    if name == "SoftmaxRegressionCV":
        from trainer.estimator.softmax_regression_cv import SoftmaxRegressionCV

        return SoftmaxRegressionCV
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
