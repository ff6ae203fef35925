"""Rows elsewhere than in numpy's arrays: here in those of array-api-strict, in test_tensors.py in those of torch."""

import sys
from dataclasses import replace

import array_api_strict
import numpy as np
import pytest
from numpy.testing import assert_allclose

from tests.conftest import pair_id, targets
from tests.test_command_line import call  # noqa: F401 - a fixture
from trainer import SoftmaxRegression
from trainer.chain.activations import Identity, Sigmoid, Softmax, Sparsemax
from trainer.chain.losses import BinaryCrossEntropy, Brier, CrossEntropy, FenchelYoung, SquaredError, ZLoss
from trainer.chain.strategies import auto
from trainer.data.rows import Data
from trainer.errors import ConfigError
from trainer.objective import certificate
from trainer.objective.device import HOST, Elsewhere, device_of
from trainer.objective.metrics import METRICS
from trainer.objective.objective import Objective
from trainer.objective.penalties import L1, L2
from trainer.objective.problem import Problem
from trainer.optimizers.first_order import Adam
from trainer.optimizers.fit import TrainState, fit

N, D, K = 300, 5, 4
LOOKS = ("__bool__", "__float__", "__int__", "__index__", "__array__", "item", "tolist", "numpy", "cpu")
SOME = [
    (Softmax(), CrossEntropy()),
    (Softmax(2.0), ZLoss(0.1)),
    (Softmax(), Brier()),
    (Sigmoid(), BinaryCrossEntropy()),
    (Identity(), SquaredError()),
    (Sparsemax(), FenchelYoung()),
]


@pytest.fixture
def device():
    """The standard's own arrays, on a device that no other array can be combined with; its rows go there in blocks."""
    host = array_api_strict.Device("CPU_DEVICE")
    there = array_api_strict.Device("device1")
    return Elsewhere("strict", array_api_strict, there, lambda array: np.asarray(array.to_device(host)), memory=1)


@pytest.fixture
def tensor():
    """The class of its arrays, if it may wait for them unasked."""


def sample(kind="labels", dtype=np.float64, weighted=True, rows=N):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, D)) * [1, 10, 0.1, 1, 1] + [0, 0, 0, 500, 0]
    labels = rng.integers(K, size=rows)
    x[:, 0] += labels
    y = labels if kind == "labels" else targets(kind, rows, K)
    weight = rng.uniform(0.2, 2, size=rows) if weighted else None
    return Data(x.astype(dtype), y, tuple("abcd"), tuple("vwxyz"), weight=weight)


def of(pair, place, penalty=L2(0.01)):  # noqa: B008 - frozen and without state
    return Objective(*pair, auto, penalty, device=place)


def parameters():
    return 0.01 * np.random.default_rng(1).normal(size=(D + 1, K))


def trained(objective, optimizer, data, **settings):
    """The last report."""
    settings = {"epochs": 60} | settings
    *_, last = fit(objective, optimizer, data, data, TrainState.start(optimizer, data), **settings)
    return last


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("pair", SOME, ids=pair_id)
def test_what_is_asked_of_a_problem_is_answered_as_by_numpy(pair, weighted, device):
    data, w = sample(weighted=weighted), parameters()
    here, there = (Problem(of(pair, place), data) for place in (HOST, device))
    for one, other in zip(here.value_and_grad(w), there.value_and_grad(w), strict=True):
        assert_allclose(other, one, rtol=1e-12, atol=1e-14)
    metrics = {name: METRICS[name] for name in METRICS if pair[0].range in METRICS[name].accepts}
    measured, expected = (problem.evaluate(w, metrics, slopes=True) for problem in (there, here))
    assert measured.metrics == pytest.approx(expected.metrics, rel=1e-12, abs=1e-15)
    assert measured.loss == pytest.approx(expected.loss, rel=1e-12)
    assert_allclose(measured.dE_dw, expected.dE_dw, rtol=1e-12, atol=1e-14)
    for dtype, digits in ((np.float64, 1e-10), (np.float32, 1e-4)):
        views = [problem.view(dtype) for problem in (here, there)]
        points = [view.at(w) for view in views]
        assert points[1].value == pytest.approx(points[0].value, rel=digits)
        assert_allclose(points[1].g, points[0].g, atol=digits * np.abs(points[0].g).max())
        products = [view.hessian(point)(points[0].g) for view, point in zip(views, points, strict=True)]
        assert_allclose(products[1], products[0], atol=max(digits, 1e-8) * np.abs(products[0]).max())
    proofs = [problem.certify(w, wanted=1e-6) for problem in (here, there)]
    assert proofs[1].gap == (None if proofs[0].gap is None else pytest.approx(proofs[0].gap, rel=1e-6, abs=1e-14))


def test_a_duality_gap_without_a_ridge_is_that_of_numpy(device):
    w, objectives = parameters(), [of(SOME[0], place, L1(0.02)) for place in (HOST, device)]
    here, there = (Problem(objective, sample(weighted=False)).certify(w) for objective in objectives)
    assert here.gap == pytest.approx(there.gap, rel=1e-9)
    assert here.gap > 0


def test_parameters_and_state_stay_on_the_device_during_an_epoch(device, monkeypatch):
    seen, moved = [], Adam.moved

    def spied(self, w, state, g, *rest):
        seen.extend([w, state.mean, state.square, g])
        return moved(self, w, state, g, *rest)

    monkeypatch.setattr(Adam, "moved", spied)
    trained(of(SOME[0], device), Adam(), sample(), epochs=2, batch_size=100)
    assert len(seen) == 4 * 2 * 3
    assert not any(isinstance(part, np.ndarray) for part in seen)


def listening(device, monkeypatch, tensor):
    """The device with a list that grows by each wait for it; any other look at one of its tensors is an error."""
    waits, looking = [], []

    def home(array):
        waits.append(array.shape)
        looking.append(True)
        try:
            return device.home(array)
        finally:
            looking.pop()

    def only_by_home(own):
        def look(self, *rest):
            assert looking, f"{own.__name__} waits for the device"
            return own(self, *rest)

        return look

    for name in LOOKS if tensor else ():
        monkeypatch.setattr(tensor, name, only_by_home(getattr(tensor, name)))
    return replace(device, home=home), waits


def test_an_evaluation_waits_once(device, tensor, monkeypatch):
    device, waits = listening(device, monkeypatch, tensor)
    problem, w = Problem(of(SOME[0], device), sample()), parameters()
    for dtype in (np.float32, np.float64):
        view = problem.view(dtype)
        for _ in range(2):
            here = view.at(w)
        assert len(waits) == 2, "two evaluations"
        product = view.hessian(here)
        for _ in range(3):
            product(here.g)
        assert len(waits) == 5, "and three products"
        waits.clear()
    scores = certificate._Scores(problem.view(np.float64), here.v)
    assert len(waits) == 1, "the loss and its slope by the bias"
    scores.gradient(np.zeros(K))
    assert len(waits) == 2
    problem.evaluate(w, METRICS, slopes=True)
    assert len(waits) == 3
    problem.value_and_grad(w)
    assert len(waits) == 4


def test_a_device_that_does_not_exist_is_a_sentence(call):  # noqa: F811
    for name, meant in (
        ("gpu", "; did you mean torch:cuda:0?"),
        ("cuda", "; did you mean torch:cuda:0?"),
        ("abacus", "."),
    ):
        said = call(f"device={name}")
        assert said.code == 2
        assert said.err == f"device={name} is not known{meant} Choices: cpu, torch, torch:cuda:0.\n"
    assert call("gpu=0").err.startswith("There is no key gpu; did you mean device?")
    with pytest.raises(ConfigError, match="device must be a name such as 'cpu'"):
        SoftmaxRegression(device=None).fit([[0.0], [1.0]], [0, 1])


def test_a_cluster_is_no_place_for_a_device(call):  # noqa: F811
    said = call("engine=dask", "data.path=rows.npy", "data.target=y", "device=torch")
    assert said.code == 2
    assert said.err == ("engine=dask computes on its workers, and device=torch is here. Leave one of them out.\n")


def test_without_torch_a_sentence_says_how_to_get_it(call, monkeypatch):  # noqa: F811
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(sys.modules, "array_api_compat.torch", None)
    device_of.cache_clear()
    said = call("device=torch")
    assert said.code == 2
    assert said.err == (
        "device=torch needs torch and array-api-compat; install them by pip install 'softmax-trainer[torch]', or use "
        "device=cpu.\n"
    )
