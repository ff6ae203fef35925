import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array
from sklearn.linear_model import LogisticRegression

from tests.conftest import PAIRS, pair_id
from trainer.chain.activations import Identity, Softmax
from trainer.chain.losses import CrossEntropy, SquaredError
from trainer.chain.strategies import auto
from trainer.data.rows import Data
from trainer.errors import ConfigError
from trainer.objective.objective import Objective
from trainer.objective.penalties import L1, L2, ElasticNet, NoPenalty, subgradient
from trainer.objective.problem import Problem
from trainer.objective.refusals import check_solver
from trainer.objective.threads import blas_on_one_thread
from trainer.optimizers import OPTIMIZERS
from trainer.optimizers.fit import TrainState, fit
from trainer.optimizers.proximal import INNER_STEPS, Fista, _Model, _second_moment, check_penalty


def example(n=400, d=8, k=3, scale=0.0, seed=0, weighted=False, dtype=np.float64):
    """Labels drawn from a softmax of few of the features, whose scales are spread over so many decades."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)) @ (np.eye(d) + 0.3 * rng.normal(size=(d, d)))
    z = x @ (rng.normal(size=(d, k)) * (rng.random((d, 1)) < 0.5))
    y = (z + rng.gumbel(size=z.shape)).argmax(axis=1)
    weight = rng.uniform(0.2, 3.0, size=n) if weighted else None
    x = (x * 10 ** np.linspace(-scale / 2, scale / 2, d)).astype(dtype)
    return Data(x, y, tuple(range(k)), tuple(f"x{j}" for j in range(d)), None, weight)


SOFTMAX = (Softmax(), CrossEntropy())


def objective(penalty, threads=1, pair=SOFTMAX):
    return Objective(*pair, auto, penalty, threads)


def solve(penalty, data, tol=1e-9, w=None, epochs=1000, **options):
    optimizer = Fista(tol)
    state = TrainState.start(optimizer, data)
    if w is not None:
        state = TrainState(0, w, optimizer.init(w))
    return list(fit(objective(penalty, **options), optimizer, data, None, state, epochs=epochs))


def of(penalty, data, **options):
    report = solve(penalty, data, **options)[-1]
    assert report.converged
    return report.state.w


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("penalty", [L1(0.01), L1(0.001), ElasticNet(0.02, l1_ratio=0.4), L2(0.01)], ids=repr)
def test_the_optimum_is_scikit_learn_s(penalty, weighted):
    data = example(weighted=weighted)
    total = len(data) if data.weight is None else data.weight.sum()
    ratio = penalty.lasso / penalty.strength
    saga = LogisticRegression(
        solver="saga", l1_ratio=ratio, C=1 / (penalty.strength * total), tol=1e-11, max_iter=20000, random_state=0
    ).fit(data.x, data.y, data.weight)
    w = of(penalty, data)
    assert_allclose(w[:-1], saga.coef_.T, atol=1e-6)
    assert_array_equal(w[:-1] == 0, saga.coef_.T == 0)
    bias = w[-1] - w[-1].mean()  # nothing but the differences of the biases has an effect
    assert_allclose(bias, saga.intercept_ - saga.intercept_.mean(), atol=1e-5)


@pytest.mark.parametrize("scale", [0, 4])
@pytest.mark.parametrize("penalty", [L1(0.03), L1(0.003), ElasticNet(0.01), L2(0.01)], ids=repr)
def test_the_optimality_conditions_hold(penalty, scale):
    data = example(scale=scale, k=5, weighted=True)
    w = of(penalty, data)
    g = Problem(objective(penalty), data).value_and_grad(w)[1]
    zero, units = w[:-1] == 0, np.abs(data.x).max(axis=0)[:, None]
    assert (np.abs(g[:-1])[zero] <= penalty.lasso).all()
    assert_allclose((g[:-1] / units)[~zero], (-penalty.lasso * np.sign(w[:-1]) / units)[~zero], atol=1e-8)
    assert_allclose(g[-1], 0, atol=1e-8)  # the bias is free
    assert zero.any() == (penalty.lasso > 0)
    assert (w[-1] != 0).all()


def test_the_ends_of_the_elastic_net_are_l1_and_l2():
    data = example()
    for ratio, other in ((0.0, L2(0.01)), (1.0, L1(0.01))):
        assert_array_equal(of(ElasticNet(0.01, l1_ratio=ratio), data), of(other, data))


def test_a_strength_above_the_gradient_of_the_null_model_leaves_no_weight():
    data = example(weighted=True)
    null = of(L1(1e3), data)
    assert_array_equal(null[:-1], 0)
    shares = np.bincount(data.y, weights=data.weight) / data.weight.sum()
    assert_allclose(np.exp(null[-1]) / np.exp(null[-1]).sum(), shares, rtol=1e-7)
    largest = np.abs(Problem(objective(NoPenalty()), data).value_and_grad(null)[1][:-1]).max()
    assert_array_equal(of(L1(1.000001 * largest), data)[:-1], 0)
    assert of(L1(0.999 * largest), data)[:-1].any()


def test_the_objective_never_rises_and_the_end_says_why():
    data = example()
    problem = Problem(objective(L1(0.01)), data)
    reports = solve(L1(0.01), data)
    values = np.array([problem.value_and_grad(report.state.w)[0] for report in reports])
    assert (np.diff(values) <= 1e-15 * values[0]).all()
    assert reports[-1].metrics["grad_norm"] < 1e-8
    assert "optimality conditions hold" in reports[-1].converged
    assert len(reports) < 60


def smooth(pair):
    try:
        check_solver("fista", *pair, "auto")
    except ConfigError:
        return False
    return True


@pytest.mark.parametrize("pair", [pair for pair in PAIRS if smooth(pair)], ids=pair_id)
def test_every_smooth_pair_of_the_registry_goes_down_to_where_it_is_stationary(pair):
    data = example(n=150, d=4, seed=3)
    penalty = ElasticNet(0.05)
    problem = Problem(objective(penalty, pair=pair), data)
    optimizer = Fista()
    start = TrainState.start(optimizer, data, getattr(pair[0], "start_scale", 0.0))
    reports = list(fit(problem.objective, optimizer, data, None, start, epochs=300))
    values = [problem.value_and_grad(report.state.w)[0] for report in reports]
    assert (np.diff([problem.value_and_grad(start.w)[0], *values]) <= 1e-13).all()
    assert reports[-1].converged
    w = reports[-1].state.w
    r = subgradient(w, problem.value_and_grad(w)[1], penalty.lasso)
    assert np.abs(r).max() < 1e-5


def test_without_a_penalty_the_scale_of_the_features_makes_no_difference():
    counts = [len(solve(L1(0.0), example(n=2000, scale=scale), tol=1e-6)) for scale in (0, 6)]
    assert abs(counts[0] - counts[1]) <= 3


def test_a_quadratic_is_minimised_exactly():
    data = example(n=300, d=5)
    w = of(NoPenalty(), data, pair=(Identity(), SquaredError()))
    x = np.column_stack([data.x, np.ones(len(data))])
    assert_allclose(w, np.linalg.lstsq(x, np.eye(3)[data.y], rcond=None)[0], atol=1e-7)


def test_bits_are_equal_over_threads():
    data = example(n=40000, d=5)
    one, two, four = (of(L1(0.001), data, tol=1e-6, threads=threads) for threads in (1, 2, 4))
    assert_array_equal(one, two)
    assert_array_equal(one, four)


def test_a_warm_start_needs_fewer_iterations_and_ends_at_the_same_place():
    data = example()
    near = of(L1(0.012), data)
    cold, warm = solve(L1(0.01), data), solve(L1(0.01), data, w=near)
    assert len(warm) < len(cold)
    assert_allclose(warm[-1].state.w[:-1], cold[-1].state.w[:-1], atol=1e-7)
    assert len(solve(L1(0.01), data, w=cold[-1].state.w)) == 1


def test_float32_reaches_the_objective_of_float64():
    penalty, data = L1(0.003), example(n=3000)
    exact = of(penalty, data)
    single = of(penalty, replace(data, x=data.x.astype(np.float32)), tol=1e-6)
    assert single.dtype == np.float32
    problem = Problem(objective(penalty), data)
    best, reached = problem.value_and_grad(exact)[0], problem.value_and_grad(single.astype(np.float64))[0]
    assert 0 <= reached - best < 1e-6 * best


def test_features_without_data_and_copies_of_features_do_no_harm():
    data = example(d=4)
    x = np.column_stack([data.x, np.zeros(len(data)), data.x[:, 0]])
    w = of(ElasticNet(0.01), replace(data, x=x, features=tuple("abcdef")))
    assert_array_equal(w[4], 0)
    assert_allclose(w[0], w[5], atol=1e-6)


def moment_of(data, threads=1):
    return Problem(objective(L1(), threads), data).view(np.float64).moments(_second_moment)[0]


def test_many_features_take_the_diagonal(monkeypatch):
    monkeypatch.setattr("trainer.optimizers.proximal.DENSE", 100)
    data = example(n=60, d=110)
    problem = Problem(objective(L1(0.02)), data)
    assert_allclose(moment_of(data), 1.0, rtol=1e-5)  # of standardised features
    w = of(L1(0.02), data, tol=1e-6)
    g = problem.value_and_grad(w)[1]
    assert np.abs(subgradient(w, g, 0.02)).max() < 1e-4


@pytest.mark.parametrize("weighted", [False, True])
def test_of_sparse_features_the_second_moment_is_the_diagonal(weighted):
    data = example(weighted=weighted)
    sparse = replace(data, x=csr_array(data.x))
    weight = np.ones(len(data)) if data.weight is None else data.weight
    size = np.append((data.x**2).mean(axis=0), 1.0)  # of the scale that sparse features are divided by
    expected = weight @ np.column_stack([data.x**2, np.ones(len(data))]) / weight.sum() / size
    assert_allclose(moment_of(sparse), expected, rtol=1e-5)
    assert_allclose(of(L1(0.01), sparse)[:-1], of(L1(0.01), data)[:-1], atol=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_second_moment_is_the_weighted_mean_of_the_standardised_features(weighted):
    data = example(n=3000, weighted=weighted)
    x = (data.x - data.x.mean(axis=0)) / data.x.std(axis=0)
    u = np.column_stack([x, np.ones(len(data))])
    weight = np.ones(len(data)) if data.weight is None else data.weight
    expected = (weight[:, None] * u).T @ u / weight.sum()
    assert_allclose(moment_of(data, threads=2), expected, rtol=1e-5, atol=1e-6)


def test_the_model_meets_the_last_pair_and_stays_positive():
    rng = np.random.default_rng(0)
    view = Problem(objective(L1()), example(d=3)).view(np.float64)
    (moment, _), state = view.moments(_second_moment), Fista().init(np.zeros((4, 3)))
    for _ in range(30):  # more than the memory holds
        s = rng.normal(size=(4, 3))
        y = moment @ s * np.array([0.1, 0.2, 0.3]) + 0.01 * rng.normal(size=(4, 3))
        state = _Model(view, state).learnt(s, y)
    assert len(state.steps) == 20
    model = _Model(view, state)
    assert_allclose(model(s, ridge=False), y, rtol=1e-9, atol=1e-12)  # the secant equation
    dense = np.array([model(unit.reshape(4, 3)).ravel() for unit in np.eye(12)])
    assert_allclose(dense, dense.T, atol=1e-12)
    assert_allclose(model.part(np.ones((4, 3), dtype=bool)), dense, atol=1e-12)
    assert np.linalg.eigvalsh(dense).min() > 0
    assert (model.h > 0).all()
    backwards = _Model(view, model.learnt(s, -y))  # negative curvature is damped away
    dense = np.array([backwards(unit.reshape(4, 3)).ravel() for unit in np.eye(12)])
    assert np.linalg.eigvalsh((dense + dense.T) / 2).min() > 0


def test_a_step_leaves_its_arguments_alone_and_can_be_repeated():
    data = example()
    optimizer, problem = Fista(), Problem(objective(L1(0.01)), data)
    with blas_on_one_thread():
        w = np.zeros((9, 3))
        first = optimizer.step(problem, w, optimizer.init(w))
        second = optimizer.step(problem, first.w, first.state)
        again = optimizer.step(problem, first.w, first.state)
    assert_array_equal(w, 0)
    assert_array_equal(second.w, again.w)
    assert_allclose(first.value, problem.value_and_grad(w)[0], rtol=1e-14)


@pytest.mark.parametrize("tol", [0.0, -1.0, math.nan, math.inf])
def test_the_tolerance_is_checked(tol):
    with pytest.raises(ConfigError, match=r"optimizer\.tol must be finite and greater than 0"):
        Fista(tol)


def test_only_a_proximal_optimizer_takes_a_corner():
    for name in OPTIMIZERS:
        check_penalty(name, L2(0.1))
        check_penalty(name, ElasticNet(0.1, l1_ratio=0.0))
        if name in ("fista", "auto"):
            check_penalty(name, L1(0.1))
        else:
            sentence = rf"penalty=l1 is not smooth, which optimizer={name} cannot take\. Use optimizer=fista or auto\."
            with pytest.raises(ConfigError, match=sentence):
                check_penalty(name, L1(0.1))


def test_a_model_whose_steps_are_shorter_than_rounding_is_left(monkeypatch):
    steps, step = [], _Model._forward_backward
    monkeypatch.setattr(_Model, "_forward_backward", lambda self, *at: (steps.append(at), step(self, *at))[1])
    data = example()
    reports = solve(L2(0.01), replace(data, x=data.x * 1e20), epochs=60)  # of which no gradient proves a minimum
    assert len(reports) == 60
    assert len(steps) < 60 * INNER_STEPS / 10
