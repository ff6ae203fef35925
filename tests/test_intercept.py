"""Without an intercept: the bias is zero and stays zero, on every way to the minimum, and so is the proof."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array
from sklearn.datasets import load_iris, make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from trainer import SoftmaxRegression
from trainer.chain.activations import Identity, Sigmoid, Softmax, Sparsemax, Spherical
from trainer.chain.known import known
from trainer.chain.losses import BinaryCrossEntropy, Brier, CrossEntropy, FenchelYoung, SquaredHinge
from trainer.chain.strategies import auto
from trainer.data.rows import Data
from trainer.objective.objective import Objective
from trainer.objective.penalties import L1, L2, ElasticNet, NoPenalty
from trainer.objective.problem import Problem
from trainer.optimizers import OPTIMIZERS
from trainer.optimizers.first_order import Sgd
from trainer.optimizers.fit import TrainState, fit

IRIS = load_iris(return_X_y=True)  # whose features are all far from zero, so that a mean would be worth a bias
SCALED = StandardScaler(with_mean=False).fit_transform(IRIS[0]), IRIS[1]
WEIGHT = np.random.default_rng(0).integers(1, 4, size=150).astype(float)
PASSES = {"optimizer": "adam", "max_iter": 5, "random_state": 0}
PAIRS = [
    (Softmax(), CrossEntropy()),
    (Sigmoid(), BinaryCrossEntropy()),
    (Sparsemax(), FenchelYoung()),
    (Softmax(), Brier()),
]


def data_of(x=IRIS[0], weight=WEIGHT):
    return Data(x, IRIS[1], (0, 1, 2), tuple("abcd"), weight=weight)


def problem_of(pair=PAIRS[0], penalty=None, data=None, intercept=False):
    return Problem(Objective(*pair, auto, penalty or L2(0.1), intercept=intercept), data or data_of())


def some_w(scale=1.0, seed=0):
    w = scale * np.random.default_rng(seed).normal(size=(5, 3))
    w[-1] = 0
    return w


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_the_derivative_is_that_by_the_weights_and_zero_by_the_bias(pair):
    problem, w, h = problem_of(pair), some_w(0.1), 1e-6
    value, g = problem.value_and_grad(w)
    assert_array_equal(g[-1], 0)
    assert_array_equal(problem.evaluate(w, {}, slopes=True).dE_dw[-1], 0)
    assert value == problem_of(pair, intercept=True).value_and_grad(w)[0]
    for d, k in np.ndindex(4, 3):
        e = np.zeros_like(w)
        e[d, k] = h
        assert_allclose((problem.value_and_grad(w + e)[0] - problem.value_and_grad(w - e)[0]) / (2 * h), g[d, k], 1e-4)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("sparse", [False, True])
def test_the_solvers_coordinates_have_no_bias_and_subtract_no_mean(dtype, sparse):
    x = csr_array(IRIS[0]) if sparse else IRIS[0]
    problem, w = problem_of(data=data_of(x)), some_w(0.1)
    view = problem.view(dtype)
    here, digits = view.at(w), 1e-5 if dtype == np.float32 else 1e-12
    value, g = problem.value_and_grad(w)
    assert_array_equal(view.mean, 0)
    assert_array_equal(view.leave(view.enter(w))[-1], 0)
    assert_allclose(view.known(here)[0], value, rtol=digits)
    assert_allclose(view.known(here)[1], g, atol=digits * np.abs(g).max())
    product, d, h = view.hessian(here), view.enter(some_w(seed=1)), 1e-5
    up, down = (problem.view(np.float64).at(view.leave(here.v + sign * h * d)) for sign in (1, -1))
    assert_allclose(product(d), (up.g - down.g) / (2 * h), atol=1e-4 if dtype == np.float32 else 1e-8)
    moved = d.copy()
    moved[-1] = 7.0
    assert_allclose(product(moved), product(d), atol=1e-12)  # the last number means nothing
    assert_array_equal(product(d)[-1], 0)


def test_a_constant_feature_is_a_feature():
    x = np.hstack([IRIS[0][:, :2], np.full((150, 2), [1.0, 0.0])])
    view = problem_of(data=data_of(x)).view(np.float64)
    assert_array_equal(view.scale[2:], 1)  # by the root of its mean square, and one where there is nothing
    y = np.arange(150) % 3  # which no plane separates
    found = SoftmaxRegression(fit_intercept=False, penalty=None, tol=1e-10).fit(x, y)
    biased = SoftmaxRegression(penalty=None, tol=1e-10).fit(IRIS[0][:, :2], y)
    assert_allclose(found.coef_[:, 2] - found.coef_[:, 2].mean(), biased.intercept_, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "penalty"),
    [
        *((name, penalty) for name in OPTIMIZERS for penalty in (L2(0.01), NoPenalty())),
        *((name, penalty) for name in ("auto", "fista") for penalty in (ElasticNet(0.01, 0.3), L1(0.01))),
    ],
    ids=str,
)
@pytest.mark.parametrize("pair", [*PAIRS, (Spherical(), CrossEntropy())], ids=str)
def test_no_optimiser_moves_the_bias(pair, name, penalty):
    optimizer, data = OPTIMIZERS[name](), data_of()
    state = TrainState.start(optimizer, data, known(pair[0], "start_scale") or 0.1, 3, intercept=False)
    objective = Objective(*pair, auto, penalty, intercept=False)
    size = None if optimizer.full_batch else 32
    for report in fit(objective, optimizer, data, None, state, epochs=5, batch_size=size):
        assert_array_equal(report.state.w[-1], 0)
    assert np.abs(report.state.w - state.w).max() > 1e-3


@pytest.mark.parametrize("optimizer", ["auto", "newton", "lbfgs", "fista"])
@pytest.mark.parametrize("C", [0.01, 1.0, 100.0])
def test_the_optimum_is_that_of_logistic_regression(C, optimizer):
    shared = {"C": C, "fit_intercept": False, "class_weight": {0: 0.5, 2: 2.0}}
    ours = SoftmaxRegression(**shared, optimizer=optimizer, tol=1e-12, max_iter=2000).fit(*SCALED, WEIGHT)
    theirs = LogisticRegression(**shared, tol=1e-13, solver="newton-cg", max_iter=1000).fit(*SCALED, WEIGHT)
    assert ours.converged_
    assert ours.gap_ <= 1e-6
    assert_allclose(ours.coef_, theirs.coef_, atol=1e-6)
    assert_array_equal(ours.intercept_, 0)
    assert_allclose(ours.predict_proba(SCALED[0]), theirs.predict_proba(SCALED[0]), atol=1e-6)


def test_with_two_classes_it_is_that_of_logistic_regression_at_twice_the_C():
    x, y = make_classification(200, 6, shift=1.0, random_state=0)
    ours = SoftmaxRegression(C=0.7, fit_intercept=False, tol=1e-12).fit(x, y)
    theirs = LogisticRegression(C=1.4, fit_intercept=False, tol=1e-13, solver="newton-cg").fit(x, y)
    assert_allclose(np.diff(ours.coef_, axis=0), theirs.coef_, atol=1e-6)
    assert_allclose(ours.decision_function(x), theirs.decision_function(x), atol=1e-5)


@pytest.mark.parametrize(("penalty", "l1_ratio"), [("l1", 1.0), ("elastic_net", 0.5)])
def test_so_is_that_of_penalties_with_a_corner(penalty, l1_ratio):
    ours = SoftmaxRegression(penalty=penalty, C=0.3, fit_intercept=False, tol=1e-12, max_iter=5000)
    ours.set_params(optimizer="fista").fit(*SCALED)
    theirs = LogisticRegression(l1_ratio=l1_ratio, C=0.3, fit_intercept=False, solver="saga", tol=1e-14, random_state=0)
    theirs.set_params(max_iter=30_000).fit(*SCALED)
    assert_allclose(ours.coef_, theirs.coef_, atol=1e-6)
    assert_array_equal(ours.coef_ == 0, theirs.coef_ == 0)


def true_minimum(problem):
    objective = problem.objective
    solver = OPTIMIZERS["fista" if objective.penalty.lasso else "newton"](tol=1e-13, gap=1e-13)
    state = TrainState.start(solver, problem.data, intercept=objective.intercept)
    *_, report = fit(objective, solver, problem.data, None, state, epochs=3000)
    return report.state.w


@pytest.mark.parametrize("far", [False, True], ids=["near", "far"])
@pytest.mark.parametrize(
    ("pair", "penalty"),
    [
        *((pair, penalty) for pair in PAIRS[:3] for penalty in (L2(0.1), L2(1e-4), ElasticNet(0.05, 0.5), L1(0.05))),
        ((Identity(), SquaredHinge()), L2(0.1)),  # convex, and with no duality to prove it by
        ((Identity(), SquaredHinge()), ElasticNet(0.05, 0.5)),
    ],
    ids=str,
)
def test_the_certificate_is_never_below_the_true_gap(pair, penalty, far):
    shift = far * (30.0 if penalty.lasso else 300.0)  # to find the minimum with l1 takes fista seconds at 300
    problem = problem_of(pair, penalty, data_of(SCALED[0] + shift))
    best = true_minimum(problem)
    least = problem.value_and_grad(best)[0]
    for seed, size in enumerate([0.0, 1e-6, 1e-3, 0.1, 1.0]):
        w = best + size * some_w(1 / (1 + shift), seed)
        value, proof = problem.value_and_grad(w)[0], problem.certify(w)
        assert proof.gap >= (value - least) / value - 1e-14
        assert_allclose(proof.value, value, rtol=1e-12)
    assert problem.certify(best).gap < 1e-6


def test_the_proof_is_not_that_of_the_problem_with_an_intercept():
    best = true_minimum(problem_of())
    assert problem_of().certify(best).gap < 1e-9
    assert problem_of(intercept=True).certify(best).gap > 1e-3


def test_float32_and_sparse_features_come_to_the_same():
    parameters = {"fit_intercept": False, "C": 0.5, "tol": 1e-10}
    double = SoftmaxRegression(**parameters).fit(*IRIS)
    single = SoftmaxRegression(**parameters).fit(IRIS[0].astype(np.float32), IRIS[1])
    sparse = SoftmaxRegression(**parameters).fit(csr_array(IRIS[0]), IRIS[1])
    assert single.coef_.dtype == single.intercept_.dtype == np.float32
    assert single.converged_
    assert sparse.converged_
    assert_allclose(single.coef_, double.coef_, atol=1e-3)
    assert_allclose(sparse.coef_, double.coef_, atol=1e-6)
    for model in (double, single, sparse):
        assert_array_equal(model.intercept_, 0)


@pytest.mark.parametrize("optimizer", ["adam", Sgd(lr=0.05)], ids=str)
def test_passes_of_partial_fit_are_the_epochs_of_a_fit(optimizer):
    shared = {"optimizer": optimizer, "batch_size": 16, "penalty": L2(0.1), "random_state": 5, "fit_intercept": False}
    passes = SoftmaxRegression(**shared)
    for _ in range(3):
        passes.partial_fit(*IRIS, classes=[0, 1, 2])
    assert_array_equal(passes.coef_, SoftmaxRegression(**shared, max_iter=3).fit(*IRIS).coef_)
    assert_array_equal(passes.intercept_, 0)


@pytest.mark.parametrize("goes_on", ["fit", "partial_fit"])
def test_what_goes_on_from_a_fit_with_an_intercept_leaves_it_behind(goes_on):
    model = SoftmaxRegression(**PASSES, warm_start=True).partial_fit(*IRIS, classes=[0, 1, 2])
    assert np.abs(model.intercept_).min() > 0
    before = model.coef_
    getattr(model.set_params(fit_intercept=False), goes_on)(*IRIS)
    assert_array_equal(model.intercept_, 0)
    assert np.abs(model.coef_ - before).max() < 1


def test_a_warm_start_at_the_optimum_stays_there():
    model = SoftmaxRegression(warm_start=True, fit_intercept=False, tol=1e-10).fit(*IRIS)
    before = model.coef_
    assert_allclose(model.fit(*IRIS).coef_, before, atol=1e-7)
    assert_array_equal(model.intercept_, 0)


def test_the_file_keeps_the_zeros(tmp_path):
    model = SoftmaxRegression(**PASSES, fit_intercept=False).fit(*IRIS)
    loaded = SoftmaxRegression.load(model.save(tmp_path / "model.npz"))
    assert_array_equal(loaded.intercept_, 0)
    assert_array_equal(loaded.predict_proba(IRIS[0]), model.predict_proba(IRIS[0]))


def test_another_word_is_refused():
    with pytest.raises(ValueError, match="fit_intercept must be True or False, got 'no'"):
        SoftmaxRegression(fit_intercept="no").fit(*IRIS)
