from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse
from numpy.testing import assert_allclose, assert_array_equal

from tests.conftest import targets
from trainer.chain.activations import Softmax, Spherical
from trainer.chain.losses import CrossEntropy
from trainer.chain.strategies import GRADIENTS, auto, fused, jacobian, log, vjp
from trainer.data.rows import Data
from trainer.errors import NonFiniteError
from trainer.objective import objective as module
from trainer.objective.blocks import SHARDS, Block, added, blocks, map_sum, predict, scores, shards
from trainer.objective.metrics import METRICS
from trainer.objective.objective import Objective
from trainer.objective.penalties import L2, ElasticNet, NoPenalty
from trainer.objective.problem import Problem
from trainer.objective.threads import blas_on_one_thread
from trainer.optimizers import OPTIMIZERS

N, D, K = 140_001, 5, 4  # six blocks, and a last one that is not full


def problem(data, **changes):
    return Problem(replace(Objective(Softmax(), CrossEntropy(), fused, NoPenalty()), **changes), data)


def sample(n=300, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, D)).astype(dtype)
    return Data(x, rng.integers(K, size=n), tuple(range(K)), tuple(f"x{d}" for d in range(D)))


def parameters(seed=1):
    return np.random.default_rng(seed).normal(size=(D + 1, K))


def test_scores_are_the_affine_map_and_lie_along_the_samples():
    data, w = sample(), parameters()
    assert_allclose(scores(w, data.x), data.x @ w[:-1] + w[-1], rtol=1e-13, atol=1e-14)
    assert scores(w, data.x).flags.f_contiguous


def test_value_and_gradient_are_the_mean_over_the_rows():
    data, w = sample(), parameters()
    value, dE_dw = problem(data).value_and_grad(w)
    z = data.x @ w[:-1] + w[-1]
    loss, dl_dz = fused(Softmax(), CrossEntropy(), z, np.eye(K)[data.y])
    assert_allclose(value, loss.mean(), rtol=1e-14)
    assert_allclose(dE_dw, np.vstack([data.x.T @ dl_dz, dl_dz.sum(axis=0)]) / len(data), rtol=1e-12, atol=1e-15)


def test_the_gradient_is_the_derivative_of_the_value():
    data, w = sample(), parameters()
    objective = problem(data, penalty=L2(0.3))
    direction, step = parameters(seed=2), 1e-6
    up, down = (objective.value_and_grad(w + sign * step * direction)[0] for sign in (1, -1))
    assert_allclose((up - down) / (2 * step), np.sum(objective.value_and_grad(w)[1] * direction), rtol=1e-8)


def test_the_penalty_never_touches_the_bias():
    data, w = sample(), parameters()
    plain, penalised = problem(data).value_and_grad(w), problem(data, penalty=L2(0.3)).value_and_grad(w)
    assert_allclose(penalised[0] - plain[0], 0.15 * np.sum(w[:-1] ** 2), rtol=1e-12)
    assert_allclose(penalised[1] - plain[1], np.vstack([0.3 * w[:-1], np.zeros(K)]), rtol=1e-12, atol=1e-15)


def test_a_weight_of_two_is_a_row_twice_and_a_weight_of_zero_no_row():
    data, w = sample(), parameters()
    weight = np.random.default_rng(3).integers(3, size=len(data))
    repeated = data.rows(np.repeat(np.arange(len(data)), weight))
    weighted = replace(data, weight=weight.astype(float))
    assert_allclose(problem(weighted).value_and_grad(w)[0], problem(repeated).value_and_grad(w)[0], rtol=1e-13)
    assert_allclose(problem(weighted).value_and_grad(w)[1], problem(repeated).value_and_grad(w)[1], rtol=1e-11)
    one, other = problem(weighted).evaluate(w, METRICS), problem(repeated).evaluate(w, METRICS)
    assert_allclose([one.loss, *one.metrics.values()], [other.loss, *other.metrics.values()], rtol=1e-13)


def test_labels_are_one_hot_rows():
    data, w = sample(), parameters()
    rows = replace(data, y=np.eye(K)[data.y])
    assert_allclose(problem(rows).value_and_grad(w)[1], problem(data).value_and_grad(w)[1], rtol=1e-15)


def test_soft_targets_are_rows_repeated_with_their_shares_as_weights():
    data, w = sample(), parameters()
    y = targets("soft", len(data), K)
    repeated = replace(
        data.rows(np.repeat(np.arange(len(data)), K)), y=np.tile(np.arange(K), len(data)), weight=y.ravel()
    )
    soft, weighted = problem(replace(data, y=y)).value_and_grad(w), problem(repeated).value_and_grad(w)
    assert_allclose(soft[0], weighted[0], rtol=1e-13)
    assert_allclose(soft[1], weighted[1], rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_blocks_on_one_two_and_four_threads_give_the_same_bits(dtype):
    data, w = sample(N, dtype), parameters().astype(dtype)
    assert len(blocks(data, K)) > 4
    with blas_on_one_thread():
        one, *more = ((problem(data, threads=t), predict(Softmax(), w, data.x, t)) for t in (1, 2, 4))
        for other in more:
            assert one[0].value_and_grad(w)[0] == other[0].value_and_grad(w)[0]
            assert_array_equal(one[0].value_and_grad(w)[1], other[0].value_and_grad(w)[1])
            assert one[0].evaluate(w, METRICS) == other[0].evaluate(w, METRICS)
            assert_array_equal(one[1], other[1])


def test_blocks_sum_to_the_whole(monkeypatch):
    data, w = sample(N), parameters()
    in_blocks = problem(data).value_and_grad(w)
    monkeypatch.setattr(module, "blocks", lambda data, width, larger: [Block(0, slice(0, len(data)))])
    at_once = problem(data).value_and_grad(w)
    assert_allclose(in_blocks[0], at_once[0], rtol=1e-13)
    assert_allclose(in_blocks[1], at_once[1], rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("count", [1, 2, SHARDS, SHARDS + 1, 3 * SHARDS, 1000])
def test_a_sum_is_that_of_its_shards(count):
    values = np.random.default_rng(count).normal(size=(count, 3))
    parts = [Block(n, slice(n, n + 1)) for n in range(count)]
    runs = shards(parts)
    assert len(runs) <= SHARDS
    assert [block for run in runs for block in run] == parts
    alone = [map_sum(lambda block: (values[block.number].copy(),), run, 1, int) for run in runs]
    (whole,) = map_sum(lambda block: (values[block.number].copy(),), parts, 2, int)
    assert_array_equal(whole, added(alone)[0])
    assert_allclose(whole, values.sum(axis=0), atol=1e-12)


@pytest.mark.parametrize(
    ("n", "features", "classes", "width"), [(10, 2, 3, 3), (70_000, 784, 10, 10), (5, 2, 3000, 9_000_000)]
)
def test_blocks_cover_every_row_once_and_in_order(n, features, classes, width):
    data = Data(np.empty((n, features)), np.zeros(n, dtype=int), tuple(range(classes)), ())
    rows = [row for part in blocks(data, width) for row in range(n)[part.rows]]
    assert rows == list(range(n))
    assert all(rows.stop - rows.start == 1 for _, rows in blocks(data, width)) == (width > 1 << 21)


def test_the_tensor_of_the_jacobian_strategy_is_bounded_by_its_blocks():
    data = sample(N)
    rows = max(part.stop - part.start for _, part in blocks(data, module.numbers_per_row(jacobian, 500)))
    assert rows * 500**2 <= 1 << 21


@pytest.mark.parametrize("name", GRADIENTS)
def test_the_strategy_never_changes_the_objective(name):
    data, w = sample(40), parameters()
    value, dE_dw = problem(data, gradient=GRADIENTS[name]).value_and_grad(w)
    expected = problem(data, gradient=auto).value_and_grad(w)
    assert_allclose(value, expected[0], rtol=1e-12)
    assert_allclose(
        dE_dw, expected[1], rtol=1e-8 if name == "numeric" else 1e-12, atol=1e-9 if name == "numeric" else 1e-15
    )


def test_unlabelled_rows_count_in_the_mean_loss_but_not_in_the_accuracy():
    data, w = sample(), parameters()
    half = np.eye(K)[data.y] * (np.arange(len(data)) % 2)[:, None]
    labelled = data.rows(slice(1, None, 2))
    measured = problem(replace(data, y=half)).evaluate(w, METRICS)
    assert_allclose(measured.metrics["accuracy"], problem(labelled).evaluate(w, METRICS).metrics["accuracy"])
    assert_allclose(measured.loss, problem(labelled).evaluate(w, METRICS).loss / 2)


def test_a_strategy_that_is_not_finite_names_the_row_the_pair_and_the_strategy_that_is():
    data, w = sample(), np.zeros((D + 1, K))
    w[0] = [1e4, 0, 0, 0]
    with pytest.raises(
        NonFiniteError, match=r"Row \d+ has scores up to .* gradient=vjp of activation=softmax with loss=ce"
    ):
        problem(data, gradient=vjp).value_and_grad(w)
    assert np.isfinite(problem(data, gradient=fused).value_and_grad(w)[1]).all()


def test_the_row_that_is_named_is_the_first_that_fails():
    x = np.zeros((50_000, 1))
    x[40_123:] = 1.0
    data = Data(x, np.ones(len(x), dtype=int), (0, 1), ("x0",))
    with pytest.raises(NonFiniteError, match="Row 40123 has scores up to 1000"):
        problem(data, gradient=jacobian).value_and_grad(np.array([[1000.0, 0.0], [0.0, 0.0]]))


def test_a_pair_that_no_strategy_is_finite_for_says_so():
    data = Data(np.ones((5, 1), dtype=np.float32), np.zeros(5, dtype=int), (0, 1), ("x0",))
    hopeless = Problem(Objective(Spherical(), CrossEntropy(), log, NoPenalty()), data)  # z^2 overflows in float32
    with pytest.raises(NonFiniteError, match=r"spherical with loss=ce is not finite\. No strategy of the pair is"):
        hopeless.value_and_grad(np.array([[-1e25, 1e25], [0, 0]], dtype=np.float32))


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_a_stack_of_models_takes_the_steps_of_each_alone(name, sparse):
    data = sample(300)
    data = replace(data, x=scipy.sparse.csr_array(data.x) if sparse else data.x, weight=np.linspace(0, 2, 300))
    optimizer, objective = OPTIMIZERS[name](), problem(data, penalty=ElasticNet(0.1)).objective
    together = np.random.default_rng(0).normal(size=(4, *parameters().shape))
    alone = list(together)
    states, state = [optimizer.init(w) for w in alone], optimizer.init(together)
    for _ in range(3):
        step = optimizer.step(Problem(objective, data), together, state)
        together, state = step.w, step.state
        for n, w in enumerate(alone):
            own = optimizer.step(Problem(objective, data), w, states[n])
            alone[n], states[n] = own.w, own.state
            assert own.value == step.value[n]
            assert_array_equal(own.w, step.w[n])


def test_a_stack_of_stacks_over_sparse_rows_has_the_scores_of_each():
    x, w = scipy.sparse.csr_array(sample(50).x), np.random.default_rng(0).normal(size=(2, 3, D + 1, K))
    together = scores(w, x)
    for place in np.ndindex(2, 3):
        assert_array_equal(together[place], scores(w[place], x))
