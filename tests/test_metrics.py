import numpy as np
from numpy.testing import assert_array_equal
from sklearn.metrics import accuracy_score

from trainer.metrics import accuracy


def test_accuracy_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    a, labels = rng.dirichlet(np.ones(4), size=50), rng.integers(4, size=50)
    assert accuracy(a, np.eye(4)[labels]).mean() == accuracy_score(labels, a.argmax(axis=1))


def test_a_prediction_among_several_targets_is_right():
    a = np.array([[0.5, 0.3, 0.2], [0.2, 0.3, 0.5]])
    assert_array_equal(accuracy(a, np.array([[1.0, 1, 0], [1, 1, 0]])), [1, 0])


def test_a_prediction_of_the_largest_soft_target_is_right():
    assert_array_equal(
        accuracy(np.array([[0.5, 0.3, 0.2]] * 2), np.array([[0.4, 0.35, 0.25], [0.3, 0.4, 0.3]])), [1, 0]
    )
