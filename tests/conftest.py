"""The lists that every test of the mathematics runs over: a new part is tested by being listed here."""

import numpy as np
import pytest

from trainer.activations import Identity, LogSoftmax, Sigmoid, Softmax
from trainer.losses import BinaryCrossEntropy, Brier, CrossEntropy, NegativeLogLikelihood, SquaredError
from trainer.pairs import allowed

ACTIVATIONS = [Softmax(), Softmax(temperature=0.5), Softmax(temperature=3.0), LogSoftmax(), Sigmoid(), Identity()]
LOSSES = [CrossEntropy(), NegativeLogLikelihood(), BinaryCrossEntropy(), Brier(), SquaredError()]
PAIRS = [(a, loss) for a in ACTIVATIONS for loss in LOSSES if allowed(type(a), type(loss))]


def pair_id(pair):
    return f"{pair[0]!r}+{pair[1].name}"


@pytest.fixture(params=ACTIVATIONS, ids=repr)
def activation(request):
    return request.param


@pytest.fixture(params=LOSSES, ids=repr)
def loss(request):
    return request.param


@pytest.fixture(params=PAIRS, ids=pair_id)
def pair(request):
    return request.param


def targets(kind, n, k, seed=1):
    """Target rows (N,K) of each kind that a loss may meet."""
    rng = np.random.default_rng(seed)
    one_hot = np.eye(k)[rng.integers(k, size=n)]
    return {
        "one-hot": one_hot,
        "soft": rng.dirichlet(np.ones(k), size=n),
        "multi-hot": (rng.random((n, k)) < 0.5).astype(float),
        "unlabelled": np.zeros((n, k)),
        "weighted": one_hot * rng.uniform(0.2, 5, size=(n, 1)),
    }[kind]


@pytest.fixture(params=["one-hot", "soft", "multi-hot", "unlabelled", "weighted"])
def y(request):
    return targets(request.param, 7, 4)


@pytest.fixture
def z():
    return np.random.default_rng(0).normal(scale=2, size=(7, 4))
