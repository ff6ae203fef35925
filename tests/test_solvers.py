"""newton, lbfgs and auto: the optimum, by its own conditions and by scikit-learn, at any scale of the features."""

import gc
import json
import warnings
import weakref
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from tests.conftest import ACTIVATIONS, LOSSES, pair_id
from tests.test_run import SETTINGS as RUN
from trainer.chain.activations import ACTIVATIONS as ACTIVATION_NAMES
from trainer.chain.activations import Softmax
from trainer.chain.losses import LOSSES as LOSS_NAMES
from trainer.chain.losses import Brier, CrossEntropy, MeanAbsoluteError
from trainer.chain.pairs import allowed, kinked, registry
from trainer.chain.strategies import GRADIENTS, auto, fused
from trainer.data.rows import Data, for_training
from trainer.errors import ConfigError, Diverged
from trainer.estimator.softmax_regression import SoftmaxRegression
from trainer.objective import view as view_module
from trainer.objective.blocks import Kept, blocks
from trainer.objective.conjugate_gradients import conjugate_gradients
from trainer.objective.metrics import ACCURACY
from trainer.objective.objective import Objective
from trainer.objective.penalties import L1, L2, NoPenalty
from trainer.objective.preconditioner import preconditioner
from trainer.objective.problem import Problem
from trainer.objective.refusals import check_solver
from trainer.objective.threads import blas_on_one_thread
from trainer.optimizers import OPTIMIZERS
from trainer.optimizers.auto import Auto
from trainer.optimizers.fit import TrainState, fit, samples_a_step
from trainer.optimizers.line_search import Trial, along, armijo, wolfe
from trainer.optimizers.newton import SINGLE, Lbfgs, Newton
from trainer.optimizers.schedules import Constant, Cosine
from trainer.runs.run import run

N, D, K = 600, 8, 4
SOLVERS = [Newton(tol=1e-9), Lbfgs(tol=1e-9)]
CE = Objective(Softmax(), CrossEntropy(), fused, L2(1e-3))
SMOOTH = [(a, b) for a in ACTIVATIONS for b in LOSSES if allowed(type(a), type(b)) and not kinked(a, b)]
REGISTERED = [pair for pair in registry() if not kinked(*pair)]


def sample(n=N, scale=0.0, dtype=float, weight=False):
    """Rows whose labels follow the features, at scales over so many decades and off the origin."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, D)) @ rng.normal(size=(D, D))
    y = (x @ rng.normal(size=(D, K)) / 3 + rng.gumbel(size=(n, K))).argmax(axis=1)
    x = (x + 2) * 10 ** np.linspace(-scale / 2, scale / 2, D)
    weights = rng.uniform(0.1, 3, size=n) if weight else None
    return Data(x.astype(dtype), y, tuple(range(K)), tuple("abcdefgh"), weight=weights)


def solve(objective, optimizer, data, epochs=400, start=None):
    state = start or TrainState.start(optimizer, data, getattr(objective.activation, "start_scale", 0.0))
    reports = list(fit(objective, optimizer, data, None, state, epochs=epochs, metrics={}))
    return reports[-1]


PROBLEMS = {
    "plain": (sample(), 1e-3),
    "scales over four decades": (sample(scale=4), 1e-3),
    "weighted": (sample(weight=True), 1e-2),
    "weak penalty": (sample(), 1e-5),
}


@pytest.mark.parametrize("optimizer", SOLVERS, ids=lambda o: o.name)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_the_optimum_is_that_of_scikit_learn(problem, optimizer):
    data, strength = PROBLEMS[problem]
    found = solve(replace(CE, penalty=L2(strength)), optimizer, data)
    total = len(data) if data.weight is None else data.weight.sum()
    peer = LogisticRegression(C=1 / (strength * total), solver="newton-cholesky", tol=1e-14, max_iter=1000)
    peer.fit(data.x, data.y, sample_weight=data.weight)
    unit = np.abs(peer.coef_).max(axis=0)  # features of any scale have coefficients of any size
    assert_allclose(found.state.w[:-1].T / unit, peer.coef_ / unit, atol=1e-6)
    # scikit-learn leaves the biases of all classes free together
    bias, other = found.state.w[-1], peer.intercept_
    assert_allclose(bias - bias.mean(), other - other.mean(), atol=1e-6 * max(1, np.abs(other).max()))
    assert found.converged


@pytest.mark.parametrize("optimizer", SOLVERS, ids=lambda o: o.name)
@pytest.mark.parametrize("pair", REGISTERED, ids=pair_id)
def test_the_gradient_of_every_smooth_pair_vanishes_where_a_solver_has_converged(pair, optimizer):
    data = sample(200)
    objective = replace(CE, activation=pair[0], loss=pair[1], gradient=auto, penalty=L2(0.1))
    last = solve(
        objective, replace(optimizer, tol=1e-7), data, epochs=60 if pair[0].name == "normalized_sigmoid" else 500
    )
    if pair[0].name == "normalized_sigmoid":  # it falls for ever as all biases do, towards softmax: no minimum
        assert last.metrics["grad_norm"] < 1e-4
    else:
        assert last.converged
        assert last.metrics["grad_norm"] < 1e-4


@pytest.mark.parametrize("optimizer", SOLVERS, ids=lambda o: o.name)
def test_the_objective_never_rises(optimizer):
    values = []
    data = sample(scale=3)
    problem, w = Problem(CE, data), np.zeros((D + 1, K))
    state = optimizer.init(w)
    with blas_on_one_thread():
        for _ in range(60):
            step = optimizer.step(problem, w, state)
            values.append(problem.view(np.float64).at(w).value)
            w, state = step.w, step.state
            if step.converged:
                break
    assert step.converged
    assert (np.diff(values) <= 1e-14).all()


def along_differences(problem, w, d, step=1e-5):
    """The derivative of the gradient by v along d, in double precision."""
    view = problem.view(np.float64)
    up, down = (view.at(view.leave(view.enter(w) + sign * step * d)).g for sign in (1, -1))
    return (up - down) / (2 * step)


@pytest.mark.parametrize("pair", SMOOTH, ids=pair_id)
def test_a_hessian_product_is_the_derivative_of_the_gradient_along_it(pair):
    problem = Problem(
        replace(CE, activation=pair[0], loss=pair[1], gradient=auto, penalty=L2(0.1)), sample(200, weight=True)
    )
    w, d = 0.05 * np.random.default_rng(1).normal(size=(2, D + 1, K))
    expected = along_differences(problem, w, d)
    # A row of sparsemax, or of a hinge, whose kink lies between the two points differs by its share of 1/N.
    steps = pair[0].name in ("sparsemax", "entmax") or pair[1].name in ("squared_hinge", "modified_huber")
    for dtype, accuracy in ((np.float32, 1e-5), (np.float64, 1e-7)):
        view = problem.view(dtype)
        product = view.hessian(view.at(w))(d)
        size = (0.02 if steps else accuracy) * np.abs(expected).max()
        assert_allclose(product, expected, atol=size, err_msg=dtype.__name__)


def test_smoothed_and_multi_hot_rows_have_the_factor_of_their_sum():
    rows = np.random.default_rng(2).integers(2, size=(N, K)).astype(float)
    problem = Problem(CE, replace(sample(), y=rows))
    w, d = 0.1 * np.random.default_rng(1).normal(size=(2, D + 1, K))
    for dtype in (np.float32, np.float64):
        view = problem.view(dtype)
        assert_allclose(view.hessian(view.at(w))(d), along_differences(problem, w, d), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
def test_the_view_changes_coordinates_and_nothing_else(sparse):
    data = sample(300, scale=6, weight=True)
    size = np.append(np.abs(data.x).max(axis=0), 1)[:, None]
    w = np.random.default_rng(1).normal(size=(D + 1, K)) / size
    problem = Problem(CE, replace(data, x=scipy.sparse.csr_array(data.x)) if sparse else data)
    view = problem.view(np.float64)
    assert_allclose(view.leave(view.enter(w)) * size, w * size, atol=1e-13)
    value, g = problem.value_and_grad(w)
    known = view.known(view.at(w))
    assert_allclose(known[0], value, rtol=1e-13)
    assert_allclose(known[1] / size, g / size, atol=1e-13)


def matrix(function, rows):
    """Of (rows,K) -> (rows,K), where all classes together have the sum zero."""
    basis = np.linalg.svd(np.ones((1, K)))[2][1:]  # (K-1,K)
    units = np.array([np.outer(e, q) for e in np.eye(rows) for q in basis])
    return np.einsum("iab,jab->ij", units, np.array([function(unit) for unit in units]))


def wide(scale, n=12):
    """Fewer rows than half of the features."""
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(n, 30)) + 2) * 10 ** np.linspace(-scale / 2, scale / 2, 30)
    return Data(x, rng.integers(K, size=n), tuple(range(K)), tuple(map(str, range(30))))


SHAPES = {
    "dense": sample(),
    "dense, weighted": sample(weight=True),
    "dense, scales over 18 decades": sample(scale=18),
    "sparse": replace(sample(scale=3), x=scipy.sparse.csr_array(sample(scale=3).x)),
    "few rows": wide(4),
    "few rows, scales over 18 decades": wide(18),
}


@pytest.mark.parametrize("strength", [1e-3, 1.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_preconditioner_is_symmetric_positive_definite_and_the_inverse_at_zero(shape, strength, monkeypatch):
    monkeypatch.setattr("trainer.objective.preconditioner.FINE", 1e6)  # each class a factor of its own
    data = SHAPES[shape]
    view = Problem(replace(CE, penalty=L2(strength)), data).view(np.float64)
    rows = data.x.shape[1] + 1
    w = np.zeros((rows, K))
    product = preconditioner(view, w)
    p, h = matrix(product, rows), matrix(view.hessian(view.at(w)), rows)
    size = np.sqrt(np.outer(np.diag(p), np.diag(p)))
    assert np.abs((p - p.T) / size).max() < 1e-8
    assert (np.linalg.eigvalsh((p + p.T) / 2 / size) > 0).all()
    assert_allclose(product(np.ones((rows, K))), 0, atol=1e-12 * np.abs(p).max())  # all classes together mean nothing
    # At w = 0 all rows have the same Hessian and the Kronecker product is no approximation: P H is one, but for the
    # rounding of single precision. Where few rows say nothing of a direction and the ridge is below the jitter, the
    # jitter is more than there is.
    found = np.linalg.eigvals(p @ h).real
    assert (found < 1 + 2e-3).all()
    assert (found > (0 if shape == "few rows, scales over 18 decades" else 1 - 2e-3)).all()


def test_the_preconditioner_of_many_features_is_the_inverse_of_the_diagonal(monkeypatch):
    monkeypatch.setattr("trainer.objective.preconditioner.FINE", 1e6)  # each class a factor of its own
    monkeypatch.setattr("trainer.objective.preconditioner.DENSE", 4)
    view = Problem(CE, sample(scale=18)).view(np.float64)
    w = np.zeros((D + 1, K))
    p, h = matrix(preconditioner(view, w), D + 1), matrix(view.hessian(view.at(w)), D + 1)
    assert (np.linalg.eigvalsh((p + p.T) / 2) > 0).all()
    assert_allclose(np.diag(p)[: D * (K - 1)] * np.diag(h)[: D * (K - 1)], 1, rtol=1e-3)


@pytest.mark.parametrize("eta", [1e-1, 1e-6])
def test_conjugate_gradients_leave_no_more_of_the_gradient_than_was_asked(eta):
    problem = Problem(CE, sample(scale=18))
    view = problem.view(np.float64)
    here = view.at(0.1 * view.leave(np.random.default_rng(0).normal(size=(D + 1, K))))
    p, hessian = preconditioner(view, here.v), view.hessian(here)
    y = p(here.g)
    d = conjugate_gradients(hessian, p, here.g, y, eta)
    r = hessian(d) + here.g
    assert np.vdot(r, p(r)) <= (1.1 * eta) ** 2 * np.vdot(here.g, y)
    assert np.vdot(here.g, d) < 0


def test_conjugate_gradients_end_where_the_curvature_is_negative():
    g = np.random.default_rng(0).normal(size=(D + 1, K))
    assert_array_equal(conjugate_gradients(lambda d: -d, lambda r: r, g, g, 1e-3), -g)


def test_newton_s_direction_solves_its_equations():
    view = Problem(CE, sample()).view(np.float64)
    here = view.at(view.leave(0.1 * np.random.default_rng(0).normal(size=(D + 1, K))))
    d = conjugate_gradients(view.hessian(here), lambda r: r - r.mean(axis=1, keepdims=True), here.g, here.g, 1e-10)
    h, g = matrix(view.hessian(here), D + 1), here.g
    basis = np.linalg.svd(np.ones((1, K)))[2][1:]
    assert_allclose((d @ basis.T).ravel(), -np.linalg.solve(h, (g @ basis.T).ravel()), atol=1e-7)


LINES = {
    "quadratic": (lambda t: (t - 1) ** 2, lambda t: 2 * (t - 1)),
    "far": (lambda t: (t - 1000) ** 2, lambda t: 2 * (t - 1000)),
    "near": (lambda t: (t - 1e-4) ** 2, lambda t: 2 * (t - 1e-4)),
    "quartic": (lambda t: (t - 0.3) ** 4 + t * t, lambda t: 4 * (t - 0.3) ** 3 + 2 * t),
    "exponential": (lambda t: np.exp(-t), lambda t: -np.exp(-t)),
    "wall": (lambda t: -np.log(0.2 - t) - 30 * t if t < 0.2 else np.inf, lambda t: 1 / (0.2 - t) - 30),
}


@pytest.mark.parametrize("search", [armijo, wolfe])
@pytest.mark.parametrize("name", LINES)
def test_a_line_search_ends_where_its_conditions_hold(search, name):
    value, slope = LINES[name]
    start = Trial(0.0, value(0.0), slope(0.0), 0.0)
    t = search(lambda t: Trial(t, value(t), slope(t), t), start, 0.0)
    # Where it quadruples beyond the first step, armijo goes by the value alone.
    assert value(t) <= start.value + 1e-4 * min(t, 1.0 if search is armijo else t) * start.slope
    if search is wolfe:
        assert abs(slope(t)) <= 0.9 * abs(start.slope)


@pytest.mark.parametrize("search", [armijo, wolfe])
def test_a_line_search_finds_nothing_where_nothing_falls(search):
    assert search(lambda t: Trial(t, 1.0 + t, -1.0, t), Trial(0.0, 1.0, -1.0, 0.0), 1e-15) is None


@pytest.mark.parametrize("optimizer", SOLVERS, ids=lambda o: o.name)
def test_a_start_at_the_optimum_converges_at_once(optimizer):
    data = sample()
    w = solve(CE, optimizer, data).state.w
    again = solve(CE, replace(optimizer, tol=1e-6), data, start=TrainState(0, w, optimizer.init(w)))
    assert again.converged
    assert again.state.epoch == 1


@pytest.mark.parametrize("optimizer", SOLVERS, ids=lambda o: o.name)
def test_threads_never_change_a_bit(optimizer):
    data = sample(50_000)
    ends = [solve(replace(CE, threads=t), optimizer, data, epochs=5).state.w for t in (1, 2, 4)]
    for other in ends[1:]:
        assert_array_equal(ends[0], other)


@pytest.mark.parametrize("optimizer", SOLVERS, ids=lambda o: o.name)
def test_a_training_that_goes_on_from_any_iteration_gives_the_same_bits(optimizer):
    data = sample(scale=2)
    start = TrainState.start(optimizer, data)
    reports = list(fit(CE, optimizer, data, None, start, epochs=9, metrics={}))
    for report in reports[:-1]:
        end = list(fit(CE, optimizer, data, None, report.state, epochs=9, metrics={}))[-1]
        assert_array_equal(end.state.w, reports[-1].state.w)


@pytest.mark.parametrize("optimizer", [Newton(), Lbfgs()], ids=lambda o: o.name)
def test_in_float32_the_objective_of_float64_is_reached_to_a_millionth(optimizer):
    exact = Problem(CE, sample(scale=4))
    best = exact.value_and_grad(solve(CE, replace(optimizer, tol=1e-9), sample(scale=4)).state.w)[0]
    found = solve(CE, optimizer, sample(scale=4, dtype=np.float32))
    assert found.converged
    assert exact.value_and_grad(found.state.w.astype(float))[0] <= best * (1 + 1e-6)


def test_class_weights_are_kept():
    data = for_training(sample(), 0.0, {0: 3.0, 2: 0.5})
    peer = LogisticRegression(C=1 / (1e-3 * data.weight.sum()), tol=1e-12, solver="newton-cholesky", max_iter=500)
    peer.fit(data.x, data.y, sample_weight=data.weight)
    assert_allclose(solve(CE, SOLVERS[0], data).state.w[:-1].T, peer.coef_, atol=1e-6)


def test_without_a_penalty_and_a_minimum_no_convergence_is_claimed_for_a_gap_that_stays():
    x = np.array([[1.0], [-1.0]])
    data = Data(x, np.array([1, 0]), (0, 1), ("x",))  # separable: the infimum zero is at infinity
    few = solve(replace(CE, penalty=NoPenalty()), Newton(tol=1e-12), data, epochs=10)
    assert not few.converged


def test_constant_and_repeated_columns_do_no_harm():
    data = sample()
    x = np.concatenate([data.x, np.ones((N, 1)), data.x[:, :1]], axis=1)
    wide = replace(data, x=x, features=tuple("abcdefghij"))
    for optimizer in SOLVERS:
        found = solve(CE, optimizer, wide)
        assert found.converged
        assert found.metrics["grad_norm"] < 1e-7


@pytest.mark.parametrize(
    ("loss", "classes", "name"),
    [(CrossEntropy(), K, "newton"), (CrossEntropy(), 2, "lbfgs"), (Brier(), K, "lbfgs")],
    ids=["canonical", "two classes", "other"],
)
def test_auto_takes_newton_for_canonical_pairs_of_many_classes_and_lbfgs_for_others(loss, classes, name):
    data = sample()
    data = replace(data, y=data.y % classes, classes=tuple(range(classes)))
    assert Auto().choose(Problem(replace(CE, loss=loss), data), classes).name == name
    both = [solve(replace(CE, loss=loss, gradient=auto), o, data) for o in (Auto(), OPTIMIZERS[name]())]
    assert_array_equal(both[0].state.w, both[1].state.w)


def test_a_gradient_that_jumps_is_refused_by_name():
    from trainer.chain.activations import Identity

    with pytest.raises(ConfigError, match=r"optimizer=newton needs a smooth loss.*identity with loss=mae jumps"):
        check_solver("newton", Identity(), MeanAbsoluteError(), "auto")


@cache
def solved(name, optimizer, rows, form):
    data = sample(rows)
    objective = replace(CE, gradient=GRADIENTS[name], penalty=L2(0.1))
    return solve(objective, optimizer, replace(data, x=form(data.x)))


@pytest.mark.parametrize("form", [np.asarray, scipy.sparse.csr_array], ids=["dense", "sparse"])
@pytest.mark.parametrize("rows", [60, 17_000], ids=["one block", "many blocks"])
@pytest.mark.parametrize("optimizer", SOLVERS, ids=lambda o: o.name)
@pytest.mark.parametrize("name", ["vjp", "jacobian", "log", "loop", "auto"])
def test_every_exact_strategy_leads_to_the_same_optimum_on_any_number_of_blocks(name, optimizer, rows, form):
    if name == "loop" and rows > 60:
        pytest.skip("a row at a time, in Python")
    assert len(blocks(sample(rows), K)) == (1 if rows == 60 else 2)
    ends = [solved(gradient, optimizer, rows, form) for gradient in ("fused", name)]
    assert all(end.converged for end in ends)
    assert_allclose(ends[1].state.w, ends[0].state.w, atol=1e-6)


def test_differences_are_no_slopes_for_a_solver():
    with pytest.raises(
        ConfigError, match=r"gradient=numeric is known to about 1e-10, and optimizer=newton needs exact"
    ):
        run(replace(RUN, optimizer={"name": "newton"}, gradient={"name": "numeric"}), Path("nowhere"))
    with pytest.raises(ConfigError, match="needs exact slopes"):
        SoftmaxRegression(gradient="numeric").fit(np.eye(4), [0, 1, 0, 1])


@pytest.mark.parametrize("size", [1e-300, 1e-160, 1e-40, 1e40, 1e160, 1e300, 1.7e308])
@pytest.mark.parametrize("name", ["newton", "lbfgs", "fista"])
def test_features_of_any_size_are_fitted_or_refused_in_a_sentence(name, size):
    data = sample(100)
    x = data.x / np.abs(data.x).max() * size
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        try:
            model = SoftmaxRegression(optimizer=name, max_iter=50).fit(x, data.y)
        except Diverged as error:
            assert "Scale the features" in str(error)  # noqa: PT017
        else:
            assert np.isfinite(model.coef_).all()


@pytest.mark.parametrize("tol", [0.0, -1.0, np.inf])
def test_a_tolerance_is_finite_and_positive(tol):
    for cls in (Newton, Lbfgs, Auto):
        with pytest.raises(ConfigError, match=r"optimizer\.tol must be finite and greater than 0"):
            cls(tol=tol)


@pytest.mark.parametrize("optimizer", SOLVERS, ids=lambda o: o.name)
def test_sparse_features_have_the_same_optimum_as_dense_ones(optimizer):
    data = sample()
    x = np.where(np.abs(data.x) > 3, data.x, 0.0)
    dense, sparse = (solve(CE, optimizer, replace(data, x=form)) for form in (x, scipy.sparse.csr_array(x)))
    assert sparse.converged
    assert_allclose(sparse.state.w[:-1], dense.state.w[:-1], atol=1e-6)


def test_many_features_are_preconditioned_by_their_scale_alone(monkeypatch):
    monkeypatch.setattr("trainer.objective.preconditioner.DENSE", 4)
    found = solve(CE, Newton(tol=1e-9), sample(scale=3))
    monkeypatch.undo()
    assert found.converged
    expected = solve(CE, Newton(tol=1e-9), sample(scale=3)).state.w[:-1]
    assert_allclose(found.state.w[:-1], expected, rtol=1e-4, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["newton", "lbfgs", "fista", "auto"])
def test_a_solver_takes_all_samples_and_no_schedule(name):
    solver = OPTIMIZERS[name]()
    assert samples_a_step("auto", solver, Constant()) is samples_a_step(None, solver, Constant()) is None
    with pytest.raises(ConfigError, match=f"optimizer={name} needs the gradient of all samples, so batch_size=32"):
        samples_a_step(32, solver, Constant())
    with pytest.raises(ConfigError, match=f"schedule=cosine scales optimizer.lr, which optimizer={name} has not"):
        samples_a_step("auto", solver, Cosine())


@pytest.mark.parametrize("name", ["newton", "lbfgs", "auto"])
@pytest.mark.parametrize(("epochs", "converged"), [(50, True), (2, False)])
def test_a_run_says_whether_it_has_converged_and_why(name, epochs, converged, tmp_path):
    settings = replace(RUN, optimizer={"name": name}, epochs=epochs, penalty={"name": "l2", "strength": 0.01})
    run(settings, tmp_path / "run")
    content = json.loads((tmp_path / "run" / "run.json").read_text())
    rows = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    assert content["converged"] is converged
    assert len(rows) - 1 == content["epochs"] <= epochs  # a row an iteration
    assert ("the preconditioned gradient norm" in content["reason"]) is converged
    assert ("No convergence within epochs=2; raise it" in content["reason"]) is not converged


@pytest.mark.parametrize("strength", [1e-3, 1e-5])
def test_the_gap_of_a_run_is_the_one_that_its_solver_has_proved(strength, tmp_path):
    early = {"name": "newton", "tol": 0.01}  # ends where only further steps of Newton's prove what is wanted
    run(
        replace(RUN, optimizer=early, data={"name": "wine"}, epochs=50, penalty={"name": "l2", "strength": strength}),
        tmp_path / "run",
    )
    content = json.loads((tmp_path / "run" / "run.json").read_text())
    assert content["converged"]
    assert content["gap"] <= 1e-6
    assert content["gap_reason"] in content["reason"]


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
def test_single_precision_is_the_same_objective_to_a_millionth(sparse, weighted):
    data = sample(300, scale=3, weight=weighted)
    size = np.append(np.abs(data.x).max(axis=0), 1)[:, None]
    w = np.random.default_rng(1).normal(size=(D + 1, K)) / size
    if sparse:
        data = replace(data, x=scipy.sparse.csr_array(data.x))
    problem = Problem(replace(CE, penalty=L2(0.1), threads=2), data)
    rough, exact = (problem.view(dtype).at(w) for dtype in (np.float32, np.float64))
    assert rough.value != exact.value
    assert_allclose(rough.value, exact.value, rtol=1e-6)
    assert_allclose(rough.g, exact.g, atol=5e-6)


def test_what_a_solver_reports_is_what_it_knows_and_in_the_end_exact():
    data = sample(300, scale=3)
    reports = list(fit(CE, Newton(tol=1e-10), data, None, TrainState.start(Newton(), data), epochs=50, metrics=None))
    for report in reports:
        assert_allclose(report.metrics["loss"], Problem(CE, data).evaluate(report.state.w, {}).loss, rtol=1e-6)
    last = reports[-1]
    assert last.converged
    assert last.state.optimizer.stage > SINGLE
    assert_allclose(last.metrics["loss"], Problem(CE, data).evaluate(last.state.w, {}).loss, rtol=1e-14)


def test_the_loss_is_the_same_number_whatever_else_is_measured():
    data = sample(300, scale=3)
    start = TrainState.start(Newton(), data)
    bare, measured = (list(fit(CE, Newton(), data, None, start, epochs=50, metrics=m)) for m in ({}, ACCURACY))
    assert [r.metrics["loss"] for r in bare] == [r.metrics["loss"] for r in measured]
    rough = list(fit(CE, Newton(), data, None, start, epochs=50, metrics=None))
    assert_allclose([r.metrics["loss"] for r in rough], [r.metrics["loss"] for r in bare], rtol=1e-6)


def imbalanced(n=4000, dtype=float):
    """Two classes, one of which has about a sample in a hundred."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, D))
    y = (rng.random(n) < 1 / (1 + np.exp(6 - 2 * x[:, 0]))).astype(int)
    return Data(x.astype(dtype), y, (0, 1), tuple("abcdefgh"))


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
def test_the_start_is_the_best_prediction_without_features(temperature, smoothing, weighted):
    weight = np.random.default_rng(1).uniform(0.1, 3, size=4000) if weighted else None
    data = replace(imbalanced(), smoothing=smoothing, weight=weight)
    problem = Problem(replace(CE, activation=Softmax(temperature)), data)
    start = problem.start(np.zeros((D + 1, 2)))
    assert not start[:-1].any()
    assert start[-1].any()
    assert_allclose(problem.value_and_grad(start)[1][-1], 0, atol=1e-15)


def test_a_start_that_says_something_is_kept_and_so_is_that_of_a_pair_without_a_closed_form():
    w = np.random.default_rng(0).normal(size=(D + 1, 2))
    common = w.mean(axis=1, keepdims=True)  # of all classes, which means nothing and costs a penalty
    assert_array_equal(Problem(CE, imbalanced()).start(w), w - common)
    assert_array_equal(Problem(replace(CE, penalty=L1(0.1)), imbalanced()).start(w), w)
    zeros = np.zeros((D + 1, 2))
    assert_array_equal(Problem(replace(CE, loss=Brier()), imbalanced()).start(zeros), zeros)


def test_a_class_without_samples_has_a_finite_start():
    data = replace(imbalanced(), classes=(0, 1, 2))
    assert np.isfinite(Problem(CE, data).start(np.zeros((D + 1, 3)))).all()


def test_where_the_loss_is_nearly_exponential_a_step_is_longer_than_newtons():
    data = sample()
    data = replace(data, y=(data.x @ np.random.default_rng(3).normal(size=(D, K))).argmax(axis=1))  # separable
    problem = Problem(replace(CE, penalty=L2(1e-6)), data)
    w = solve(replace(CE, penalty=L2(1e-6)), Newton(), data, epochs=2).state.w
    view = problem.view(np.float64)
    here = view.at(w)
    p = preconditioner(view, here.v)
    d = conjugate_gradients(view.hessian(here), p, here.g, p(here.g), 1e-3)
    start = Trial(0.0, here.value, float(np.vdot(here.g, d)), here)
    assert start.slope < 0
    line = along(view, here, d)
    found = armijo(line, start, 0.0)
    assert found.value < line(1.0).value
    t = float(np.vdot(found.v - here.v, d) / np.vdot(d, d))
    assert_allclose(t, 4 ** np.round(np.log(t) / np.log(4)), rtol=1e-6)


@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize(
    "pair",
    [
        (Softmax(), CrossEntropy()),
        (Softmax(0.5), CrossEntropy()),
        (Softmax(0.5), LOSS_NAMES["fenchel_young"]()),
        (ACTIVATION_NAMES["log_softmax"](), LOSS_NAMES["nll"]()),
    ],
    ids=pair_id,
)
def test_a_product_from_the_kept_slopes_is_that_from_the_scores(pair, smoothing, weighted, monkeypatch):
    data = replace(sample(200, weight=weighted), smoothing=smoothing)
    objective = replace(CE, activation=pair[0], loss=pair[1], penalty=L2(0.1))
    w, d = 0.1 * np.random.default_rng(1).normal(size=(2, D + 1, K))
    problem = Problem(objective, data)
    for dtype in (np.float32, np.float64):
        view = problem.view(dtype)
        here = view.at(w)
        kept, anew = view.hessian(here)(d), view.hessian(replace(here, rows=Kept(room=False)))(d)
        assert_array_equal(kept, view.hessian(replace(here, rows=Kept(room=True)))(d), "what was lost is made again")
        assert_allclose(kept, anew, atol=2e-6 * np.abs(anew).max())
        assert_allclose(kept, along_differences(problem, w, d), atol=1e-5 * np.abs(anew).max())
        for other in (here, problem.view(np.float64).at(w)):
            with monkeypatch.context() as few:
                few.setattr(view_module, "KEPT", 0)  # as if there were too many rows
                assert_allclose(
                    view.hessian(replace(other, rows=Kept(room=False)))(d), kept, atol=2e-6 * np.abs(anew).max()
                )


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_the_rows_go_with_the_fit_and_wait_for_no_collector(solver):
    data = sample(200)
    rows = weakref.ref(data.x)
    gc.collect()
    gc.disable()
    try:
        reports = list(fit(CE, solver, data, None, TrainState.start(solver, data), epochs=100))
        assert reports[-1].converged
        del data, reports
        assert rows() is None
    finally:
        gc.enable()
