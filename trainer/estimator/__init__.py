"""The scikit-learn face.

The examples of this room know the classifiers, four points in two classes, and the same points as data with weights:

>>> from trainer.estimator.targets import data_of
>>> from trainer.estimator.softmax_regression import SoftmaxRegression
>>> from trainer.estimator.softmax_regression_cv import SoftmaxRegressionCV
>>> X, y = np.array([[-2.0], [-1.0], [1.0], [2.0]]), np.array(["no", "yes", "no", "yes"])
>>> data = data_of(X, np.array([0, 1, 0, 1]), np.unique(y), ("x",), sample_weight=[2.0, 4.0, 0.0, 2.0])
"""
