"""The lists that every test of the mathematics runs over: a new part is tested by being listed here."""

import gc
from copy import deepcopy

import numpy as np
import pytest
from omegaconf import OmegaConf

from trainer.chain.activations import (
    Entmax,
    Identity,
    LogSoftmax,
    NormalizedSigmoid,
    Sigmoid,
    Softmax,
    Sparsemax,
    Spherical,
    Tanh,
    Taylor,
)
from trainer.chain.losses import (
    BinaryCrossEntropy,
    Brier,
    CrammerSinger,
    CrossEntropy,
    FenchelYoung,
    Focal,
    GeneralizedCrossEntropy,
    KullbackLeibler,
    MeanAbsoluteError,
    ModifiedHuber,
    NegativeLogLikelihood,
    Poly1,
    SphericalScore,
    SquaredError,
    SquaredHinge,
    Tsallis,
    WestonWatkins,
    ZLoss,
)
from trainer.chain.pairs import allowed


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """What is collected stays to the end, so the collector of garbage need not look at it: half of the time."""
    gc.disable()
    collected = yield
    gc.freeze()
    gc.enable()
    return collected


@pytest.fixture(autouse=True, scope="session")
def what_a_yaml_file_says_is_parsed_once():
    """A quarter of the time that Hydra takes: it reads twenty files at each composition."""
    load, known = OmegaConf.load, {}

    def once(file):
        if not hasattr(file, "read"):
            return load(file)
        start = file.tell()
        text = file.read()
        if text not in known:
            file.seek(start)
            known[text] = load(file)
        return deepcopy(known[text])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OmegaConf, "load", staticmethod(once))
        yield


ACTIVATIONS = [
    Softmax(),
    Softmax(temperature=0.5),
    LogSoftmax(),
    Sigmoid(),
    Tanh(),
    Identity(),
    Sparsemax(),
    Entmax(),
    Entmax(alpha=1.0),
    Entmax(alpha=1.25),
    Entmax(alpha=3.0),
    Taylor(),
    Spherical(),
    NormalizedSigmoid(),
]
LOSSES = [
    CrossEntropy(),
    KullbackLeibler(),
    NegativeLogLikelihood(),
    BinaryCrossEntropy(),
    Brier(),
    SquaredError(),
    MeanAbsoluteError(),
    Focal(),
    Focal(gamma=0.5),
    Poly1(),
    Poly1(epsilon=-1.0),
    GeneralizedCrossEntropy(),
    GeneralizedCrossEntropy(q=1.0),
    Tsallis(),
    Tsallis(alpha=2.0),
    SphericalScore(),
    ZLoss(weight=0.1),
    FenchelYoung(),
    CrammerSinger(),
    WestonWatkins(),
    SquaredHinge(),
    ModifiedHuber(),
]
PAIRS = [(a, loss) for a in ACTIVATIONS for loss in LOSSES if allowed(type(a), type(loss))]


def pair_id(pair):
    return f"{pair[0]!r}+{pair[1]!r}"


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


KINDS = {  # what each kind of targets that a loss may be stated on has as examples
    "any": ["one-hot", "soft", "multi-hot", "unlabelled", "weighted"],
    "unit": ["one-hot", "soft", "multi-hot", "unlabelled"],
    "simplex": ["one-hot", "soft"],
    "one_hot": ["one-hot"],
}


@pytest.fixture(params=KINDS["any"])
def y(request):
    """Target rows (7,4) of every kind."""
    return targets(request.param, 7, 4)


def stated(loss):
    """Each kind of targets that the loss is stated on, and target rows (7,4) of it."""
    return [(kind, targets(kind, 7, 4)) for kind in KINDS[loss.targets]]


@pytest.fixture
def z():
    return np.random.default_rng(0).normal(scale=2, size=(7, 4))
