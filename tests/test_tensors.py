"""What test_device.py asks of the standard's arrays, asked of torch's tensors, and all that a user does with them."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from tests.conftest import PAIRS, pair_id, targets
from tests.test_command_line import call  # noqa: F401 - a fixture
from tests.test_device import (  # noqa: F401 - tests, that run here on tensors
    SOME,
    D,
    K,
    N,
    listening,
    of,
    parameters,
    sample,
    test_a_duality_gap_without_a_ridge_is_that_of_numpy,
    test_an_evaluation_waits_once,
    test_parameters_and_state_stay_on_the_device_during_an_epoch,
    test_what_is_asked_of_a_problem_is_answered_as_by_numpy,
    trained,
)
from tests.test_gradients import every_kind, stack, strategies
from trainer import SoftmaxRegression, SoftmaxRegressionCV
from trainer.chain.activations import Softmax
from trainer.chain.losses import BinaryCrossEntropy, CrossEntropy
from trainer.chain.pairs import canonical, convex, kinked
from trainer.errors import DataError, Diverged, NonFiniteError
from trainer.objective import device as devices
from trainer.objective import objective as objectives
from trainer.objective.device import HOST, Streamed, device_of
from trainer.objective.penalties import L1, NoPenalty
from trainer.objective.problem import Problem
from trainer.optimizers import OPTIMIZERS
from trainer.optimizers.auto import Auto
from trainer.optimizers.first_order import Adam, AdamW, Sgd
from trainer.optimizers.fit import TrainState, fit, proved
from trainer.optimizers.newton import Lbfgs, Newton
from trainer.optimizers.proximal import Fista

torch = pytest.importorskip("torch")
pytest.importorskip("array_api_compat")
torch.set_num_threads(1)  # the tests themselves run side by side
CONVEX = [pair for pair in PAIRS if convex(*pair) and not kinked(*pair)]


@pytest.fixture
def device():
    return device_of("torch")


@pytest.fixture
def tensor():
    return torch.Tensor


@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value", "ignore:overflow")
def test_every_strategy_of_every_pair_is_that_of_numpy_on_tensors(pair):
    rows = every_kind(pair[1], slice(2, 4))
    models = np.tile(stack("C")[:2, slice(2, 4)], (1, len(rows) // 2, 1))
    for z, y in ((models[1], rows), (models[:, ::2], rows[::2])):
        for name, strategy in strategies(pair, "numeric"):
            there = strategy(*pair, torch.asarray(z), torch.asarray(y))
            for one, other in zip(there, strategy(*pair, z, y), strict=True):
                assert_allclose(one.numpy(), other, rtol=1e-12, atol=1e-14, err_msg=name)


@pytest.mark.parametrize("pair", CONVEX, ids=pair_id)
def test_every_convex_pair_has_the_optimum_of_numpy(pair, device):
    data = sample("one-hot" if pair[1].targets == "one_hot" else "labels", rows=100)
    exact = {"tol": 1e-9, "gap": 1e-11}
    for solver in (Newton(**exact), Lbfgs(**exact), Auto(**exact)):
        here, there = (Problem(of(pair, place), data) for place in (HOST, device))
        best = trained(here.objective, Newton(**exact), data).state.w
        found = trained(there.objective, solver, data)
        assert found.converged, found.stalled
        value, lowest = here.value_and_grad(found.state.w)[0], here.value_and_grad(best)[0]
        assert abs(value - lowest) <= 1e-10 * abs(lowest)
        assert here.certify(found.state.w, 1e-10).proves(1e-10)
    if canonical(*pair):
        sparse = [of(pair, place, L1(0.02)) for place in (HOST, device)]
        here, there = (trained(objective, Fista(tol=1e-9, gap=1e-10), data, epochs=500) for objective in sparse)
        assert there.metrics["loss"] == pytest.approx(here.metrics["loss"], rel=1e-8)
        assert proved(sparse[0], Fista(), data, there.state.w, True).proves(1e-8)


@pytest.mark.parametrize("kind", ["labels", "soft", "multi-hot", "unlabelled", "weighted"])
@pytest.mark.parametrize("solver", ["auto", "newton", "lbfgs", "fista"])
def test_rows_in_single_precision_are_certified(solver, kind, device):
    data = replace(sample(kind, np.float32), smoothing=0.1 if kind == "labels" else 0.0)
    if kind == "unlabelled":
        data = replace(data, y=np.where(np.arange(N)[:, None] % 2, data.y, targets("soft", N, K)))
    found = trained(of((Softmax(), CrossEntropy()), device), OPTIMIZERS[solver](), data)
    assert found.state.w.dtype == np.float32
    assert proved(of((Softmax(), CrossEntropy()), HOST), Newton(), data, found.state.w, True).proves(1e-6)


def test_blocks_are_summed_on_the_device_as_on_the_host(device):
    data = sample(rows=40_000)
    here, there = (Problem(of(SOME[0], place), data) for place in (HOST, device))
    assert len(there.sums.blocks) > 1
    assert [block.rows for block in there.sums.blocks] == [block.rows for block in here.sums.blocks]
    for one, other in zip(here.value_and_grad(parameters()), there.value_and_grad(parameters()), strict=True):
        assert_allclose(other, one, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", ["labels", "soft"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("optimizer", [Sgd(nesterov=True), Adam(), AdamW()], ids=repr)
def test_first_order_optimisers_take_the_steps_of_numpy(optimizer, dtype, kind, device):
    data = sample(kind, dtype)
    data = replace(data, x=((data.x - data.x.mean(axis=0)) / data.x.std(axis=0)).astype(dtype))
    here, there = (
        trained(of(SOME[0], place), optimizer, data, epochs=3, batch_size=32, seed=5) for place in (HOST, device)
    )
    assert isinstance(there.state.w, np.ndarray)
    assert there.state.w.dtype == dtype
    assert type(there.state.optimizer) is type(here.state.optimizer)
    digits = 1e-10 if dtype == np.float64 else 1e-4
    assert_allclose(there.state.w, here.state.w, rtol=digits, atol=digits)
    assert there.metrics == pytest.approx(dict(here.metrics), rel=digits, abs=digits)


def test_a_step_of_a_first_order_optimiser_waits_once(device, tensor, monkeypatch):
    device, waits = listening(device, monkeypatch, tensor)
    trained(of(SOME[0], device), Sgd(), sample(), epochs=1, batch_size=30)
    at_the_end = 2 + 2  # parameters and state, loss on both sides
    assert len(waits) == N // 30 + at_the_end


@pytest.mark.parametrize("memory", [0, 1])
def test_features_that_do_not_fit_go_there_block_by_block(memory, device, monkeypatch):
    monkeypatch.setattr(objectives, "LARGER", 1)
    data, place = sample(rows=40_000), replace(device, memory=memory)
    problem = Problem(of(SOME[0], place), data)
    assert isinstance(problem.sums.data.x, Streamed) == bool(memory)
    assert problem.rows is (data if memory else problem.sums.data)
    here = Problem(of(SOME[0], HOST), data).view(np.float64).at(parameters())
    assert_allclose(problem.view(np.float64).at(parameters()).g, here.g, rtol=1e-9, atol=1e-12)


def test_what_becomes_infinite_is_named_as_on_the_host(device):
    data = sample()
    with pytest.raises(
        Diverged, match=r"^Diverged in epoch 1, step 1 of 10: the objective is .*\. Lower optimizer\.lr=1e\+308"
    ):
        trained(of(SOME[0], device), Sgd(lr=1e308), data, batch_size=30, epochs=1)
    pair, w = (Softmax(), BinaryCrossEntropy()), np.zeros((D + 1, K))
    w[-1] = [2000.0, 0, 0, 0]
    said = []
    for place in (HOST, device):
        objective = replace(of(pair, place, NoPenalty()), gradient=objectives.GRADIENTS["vjp"])
        state = TrainState(0, w, Sgd().init(w))
        with pytest.raises(NonFiniteError) as error:
            next(fit(objective, Sgd(), data, None, state, epochs=1, batch_size=30))
        said.append(str(error.value))
    assert said[0] == said[1]


def test_the_command_line_trains_and_evaluates_there(call, tmp_path):  # noqa: F811
    for name in ("cpu", "torch"):
        words = f"data=iris penalty=l2 optimizer=auto device={name} metrics=[accuracy,ece] hydra.run.dir={name}"
        assert call(*words.split()).code == 0
    here, there = (json.loads((tmp_path / name / "run.json").read_text()) for name in ("cpu", "torch"))
    assert there["config"]["device"] == "torch"
    assert there["gap"] <= 1e-6
    for name in ("loss", "val_loss", "accuracy", "val_accuracy", "ece", "val_ece"):
        assert there["metrics"][name] == pytest.approx(here["metrics"][name], rel=1e-4)
    weights = [np.load(tmp_path / name / "model.npz")["w"] for name in ("cpu", "torch")]
    assert_allclose(weights[1], weights[0], rtol=1e-4, atol=1e-6)


def test_a_file_is_read_block_by_block(call, tmp_path):  # noqa: F811
    data = sample(weighted=False)
    np.savez(tmp_path / "rows.npz", X=data.x, y=data.y)
    np.save(tmp_path / "x.npy", data.x)
    np.save(tmp_path / "y.npy", data.y)
    for device in ("cpu", "torch"):
        for optimizer in ("newton", "sgd"):
            words = "data.path=x.npy data.target=y.npy data.in_memory=false penalty=l2 epochs=20 plots=false"
            said = call(
                *words.split(), f"device={device}", f"optimizer={optimizer}", f"hydra.run.dir={device}{optimizer}"
            )
            assert said.code == 0, said.err
    for optimizer in ("newton", "sgd"):
        here, there = (
            json.loads((tmp_path / f"{name}{optimizer}" / "run.json").read_text()) for name in ("cpu", "torch")
        )
        assert there["metrics"]["loss"] == pytest.approx(here["metrics"]["loss"], rel=1e-6)


def test_the_estimator_fits_there_and_takes_tensors():
    data = sample()
    plain = SoftmaxRegression().fit(data.x, data.y, data.weight)
    tensors = [torch.asarray(part) for part in (data.x, data.y, data.weight)]
    for given in ((data.x, data.y, data.weight), tensors):
        found = SoftmaxRegression(device="torch").fit(*given)
        assert found.gap_ <= 1e-6
        assert_allclose(found.coef_, plain.coef_, rtol=1e-3, atol=1e-4)
        assert_allclose(found.predict_proba(given[0]), plain.predict_proba(data.x), atol=1e-4)
    here, there = (
        SoftmaxRegressionCV(Cs=[0.01, 0.1, 100], cv=3, device=name).fit(data.x, data.y) for name in ("cpu", "torch")
    )
    assert_allclose(there.scores_, here.scores_, rtol=1e-4)


def test_a_device_that_is_not_there_is_a_sentence(call, monkeypatch):  # noqa: F811
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    said = call("device=torch:cuda:3")
    assert said.code == 2
    assert re.fullmatch(
        r"device=torch:cuda:3 is not there: torch \S+ sees 1 device of cuda, numbered from 0\. Use another number, or "
        r"device=cpu\.\n",
        said.err,
    )
    said = call("device=torch:mps")
    assert said.code == 2
    assert said.err == (
        "device=torch:mps has no float64, in which sums are made and the optimum is certified. Use device=cpu.\n"
    )


def test_sparse_features_are_refused(device):
    from scipy.sparse import csr_array

    with pytest.raises(
        DataError, match=r"^The features are sparse, and device=torch takes dense ones\. Use device=cpu"
    ):
        SoftmaxRegression(device="torch").fit(csr_array(sample().x), sample().y)


@pytest.mark.parametrize("memory", [None, 1])
def test_a_gpu_has_the_optimum_of_numpy_also_by_streams(memory, monkeypatch):
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    monkeypatch.setattr(devices, "LARGER", 1)
    place = device_of("torch:cuda:0")
    place = place if memory is None else replace(place, memory=memory)
    for dtype in (np.float64, np.float32):
        data = sample(dtype=dtype, rows=200_000)
        found = trained(of(SOME[0], place), Auto(), data)
        assert proved(of(SOME[0], HOST), Auto(), data, found.state.w, True).proves(1e-6)
