"""Every cell of a cross-validation is the minimum over its fold's training rows, measured on those held out."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold

from trainer.chain.activations import Softmax
from trainer.chain.losses import CrossEntropy, FenchelYoung
from trainer.chain.strategies import auto
from trainer.data.rows import Data, for_training
from trainer.objective.conjugate_gradients import conjugate_gradients_of_each
from trainer.objective.metrics import METRICS
from trainer.objective.objective import Objective
from trainer.objective.penalties import L1, L2, ElasticNet
from trainer.objective.problem import Problem
from trainer.objective.stack import Models, Stack
from trainer.optimizers import Auto, Newton
from trainer.optimizers.cross_validation import Fold, _Search, cross_validate, training_rows
from trainer.optimizers.stacked import _lower, along

CS = [1e-3, 0.1, 10.0, 1e3]


def some_data(
    n=150,
    features=6,
    classes=3,
    seed=0,
    weights=False,
    offset=1.0,
    spread=1.0,
    sharp=2.0,
    rare=False,
    sparse=False,
    dtype=np.float64,
):
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, features)) * (random.random((n, features)) < 0.3 if sparse else 1.0)
    z = x @ random.normal(size=(features, classes))
    z[:, 0] -= 2 * z.std() if rare else 0.0
    y = (z / z.std() * sharp + random.gumbel(size=z.shape)).argmax(axis=1)
    x = x * np.exp(spread * random.normal(size=features))
    x = csr_array(x) if sparse else (x + offset * random.normal(size=features)).astype(dtype)
    weight = random.integers(0, 4, size=n).astype(float) if weights else None
    return Data(x, y, tuple(range(classes)), tuple(f"x{d}" for d in range(features)), weight=weight)


def folds_of(data, number=4):
    return [Fold(*fold) for fold in StratifiedKFold(number).split(np.zeros((len(data), 1)), data.labels)]


def cells_of(data, folds, penalties, objective=None, metrics=None, epochs=300):
    objective = objective or Objective(Softmax(), CrossEntropy(), auto, L2(1.0))
    cells = cross_validate(objective, Auto(), data, folds, penalties, epochs=epochs, metrics=metrics or {})
    return {(cell.fold, cell.place): cell for cell in cells}


def by_c(total):
    return [L2(1 / (c * total)) for c in CS]


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("weights", [False, True])
def test_every_cell_is_a_fit_of_scikit_learn(classes, weights):
    data = some_data(classes=classes, weights=weights)
    folds = folds_of(data)
    cells = cells_of(data, folds, by_c, metrics={"accuracy": METRICS["accuracy"]})
    assert sorted(cells) == [(f, s) for f in range(len(folds)) for s in range(len(CS))]
    for (f, s), cell in cells.items():
        train, test = training_rows(data, folds[f]), data.rows(folds[f].test)
        c = CS[s] * (2 if classes == 2 else 1)  # it penalises one column, and we two, of half of its numbers
        peer = LogisticRegression(C=c, tol=1e-10, max_iter=10_000, solver="newton-cg")
        peer.fit(train.x, train.y, train.weight)
        expected = log_loss(test.y, peer.predict_proba(test.x), sample_weight=test.weight)
        assert cell.certified
        assert cell.metrics["loss"] == pytest.approx(expected, rel=2e-3)
        weight = np.ones(len(test)) if test.weight is None else test.weight
        assert cell.metrics["accuracy"] == pytest.approx(peer.score(test.x, test.y, weight), abs=0.03)


def minimum(problem, w):
    """E at a point that further steps do not improve."""
    state = Newton().init(w)
    for _ in range(100):
        step = Newton(tol=1e-14, gap=1e-13).step(problem, w, state)
        w, state = step.w, step.state
        if step.converged or step.stalled:
            break
    return problem.certify(w).value


CASES = {
    "plain": {},
    "two classes": {"classes": 2},
    "weights": {"weights": True},
    "far from zero": {"offset": 1e4},
    "any scales": {"spread": 5.0},
    "separable": {"sharp": 1e3},
    "wide": {"n": 60, "features": 80},
    "rare class": {"rare": True},
    "single precision": {"dtype": np.float32},
    "sparse": {"sparse": True},
}


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize(
    "pair", [(Softmax(), CrossEntropy()), (Softmax(0.5), CrossEntropy()), (Softmax(), FenchelYoung())]
)
@pytest.mark.parametrize("case", CASES)
def test_no_cell_is_further_from_its_minimum_than_it_says(case, pair, intercept):
    data = some_data(seed=3, **CASES[case])
    folds = folds_of(data, 3)
    objective = Objective(*pair, auto, L2(1.0), intercept=intercept)
    cells = cells_of(data, folds, by_c, objective)
    for (f, _), cell in cells.items():
        problem = Problem(replace(objective, penalty=cell.penalty), training_rows(data, folds[f]))
        value = problem.certify(cell.w).value
        assert cell.certified
        assert cell.proof.value == pytest.approx(value, rel=1e-12)
        assert value - minimum(problem, cell.w) <= cell.proof.gap * value + 1e-13 * value


@pytest.mark.parametrize("case", ["plain", "far from zero", "rare class", "sparse"])
def test_what_is_settled_is_said_of_the_biases_that_are_given(case):
    data = some_data(seed=4, **CASES[case])
    objective, random = Objective(Softmax(), CrossEntropy(), auto, L2(1.0)), np.random.default_rng(0)
    weights = random.integers(0, 3, size=(2, len(data))).astype(float)
    stack = Stack(objective, data, weights, weights.sum(axis=1), most=2)
    models = Models(np.array([0, 1]), np.array([0.1, 0.01]))
    v = random.normal(size=(2, data.x.shape[1] + 1, 3))
    near, centre = stack.at(models, v), np.zeros(data.x.shape[1])
    here = stack.settled(models, near, enough=1e-9)
    of_weights, of_biases = stack.bounds(models, here, centre)
    assert (here.v[:, :-1] == v[:, :-1]).all()
    assert (of_biases <= stack.bounds(models, near, centre)[1] / 10).all()
    for m, strength in enumerate(models.strength):
        problem = Problem(replace(objective, penalty=L2(strength)), replace(data, weight=weights[m]))
        proof = problem.certify(stack.exact.leave(here.v[m]))
        assert here.value[m] == pytest.approx(proof.value, rel=1e-12)
        assert of_weights[m] + of_biases[m] >= 0.99 * (here.value[m] - minimum(problem, stack.exact.leave(here.v[m])))


@pytest.mark.parametrize("kind", [L1, lambda strength: ElasticNet(strength, 0.3)])
def test_penalties_with_corners_go_fold_by_fold(kind):
    data = some_data(seed=1)
    folds = folds_of(data)
    for (f, _), cell in cells_of(data, folds, lambda total: [kind(0.1), kind(1e-3)]).items():
        problem = Problem(Objective(Softmax(), CrossEntropy(), auto, cell.penalty), training_rows(data, folds[f]))
        assert cell.certified
        assert problem.certify(cell.w).gap <= 1e-6
        assert (cell.w[:-1] == 0).any()


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_folds_together_are_folds_alone(monkeypatch, soft, smoothing):
    """Also for target rows and smooth ones; and those held out are measured on targets as they are."""
    data = some_data(seed=4, weights=True)
    rows = np.random.default_rng(0).dirichlet(np.ones(3), size=len(data)) if soft else data.y
    data = replace(data, y=rows, smoothing=smoothing)
    folds = [*folds_of(data, 3), Fold(np.arange(0, 100), np.arange(100, 140))]  # they need not be of equal size
    together = cells_of(data, folds, by_c)
    monkeypatch.setattr(_Search, "stackable", lambda self: False)
    alone = cells_of(data, folds, by_c)
    assert together.keys() == alone.keys()
    for key, cell in together.items():
        assert cell.certified
        assert cell.proof.value == pytest.approx(alone[key].proof.value, rel=2e-6)
        assert cell.metrics["loss"] == pytest.approx(alone[key].metrics["loss"], rel=1e-3)
        test = replace(data.rows(folds[key[0]].test), smoothing=0.0)
        objective = Objective(Softmax(), CrossEntropy(), auto, cell.penalty)
        assert cell.metrics["loss"] == pytest.approx(Problem(objective, test).evaluate(cell.w, {}).loss)


def test_folds_bring_weights_of_their_own():
    data = some_data(seed=2)
    folds = []
    for train, test in StratifiedKFold(3).split(data.x, data.labels):
        folds.append(Fold(train, test, for_training(data.rows(train), 0.0, "balanced").weight))
    for (f, s), cell in cells_of(data, folds, by_c).items():
        alone = for_training(data.rows(folds[f].train), 0.0, "balanced")
        objective = Objective(Softmax(), CrossEntropy(), auto, by_c(alone.weight.sum())[s])
        assert cell.penalty.strength == pytest.approx(objective.penalty.strength)
        assert Problem(objective, alone).certify(cell.w, wanted=1e-5).gap < 1e-5


def test_the_bits_do_not_depend_on_threads():
    data = some_data(n=3000, features=30, classes=7, seed=5)
    folds = folds_of(data, 5)
    one, two = (
        cells_of(data, folds, by_c, Objective(Softmax(), CrossEntropy(), auto, L2(1.0), threads)) for threads in (1, 2)
    )
    assert all((one[key].w == two[key].w).all() and one[key].metrics == two[key].metrics for key in one)


def test_iterations_are_bounded_and_a_cell_that_needs_more_says_so():
    data = some_data(seed=6, sharp=100.0)
    few = cells_of(data, folds_of(data), by_c, epochs=1)
    assert max(cell.iterations for cell in few.values()) == 1
    assert not all(cell.certified for cell in few.values())
    assert all(cell.certified for cell in cells_of(data, folds_of(data), by_c).values())


def test_where_single_precision_says_no_more_a_stack_goes_on_in_double():
    """Nearly separable classes with next to no penalty, whose E falls below the rounding long before its bound does."""
    data = some_data(n=5000, features=30, seed=0, spread=0.0, offset=0.0, sharp=50.0)
    path = [L2(strength) for strength in np.logspace(0, -8, 10)]
    cells = cells_of(data, folds_of(data, 5), lambda total: path)
    assert all(cell.certified for cell in cells.values())
    assert max(cell.iterations for cell in cells.values()) <= 9


def test_a_model_that_finds_no_lower_point_stays_and_costs_the_others_nothing():
    data = some_data(seed=9)
    objective, random = Objective(Softmax(), CrossEntropy(), auto, L2(1.0)), np.random.default_rng(0)
    stack = Stack(objective, data, np.ones((3, len(data))), np.full(3, float(len(data))), most=3)
    models = Models(np.arange(3), np.full(3, 0.1))
    here = stack.at(models, random.normal(size=(3, data.x.shape[1] + 1, 3)))
    d = here.g * np.array([-0.1, 0.1, -30.0])[:, None, None]  # down, up, and down but much too far
    found, low = _lower(stack, models, here, d)
    assert low.tolist() == [True, False, True]
    assert_array_equal(found.v[0], here.v[0] + d[0])
    assert_array_equal(found.v[1], here.v[1])
    assert (found.value[[0, 2]] < here.value[[0, 2]]).all()
    assert found.value[1] == here.value[1]
    share = (found.v[2] - here.v[2]) / d[2]
    assert_allclose(share, share.flat[0], rtol=1e-9)
    assert np.log2(share.flat[0]) == pytest.approx(round(np.log2(share.flat[0])))


def test_of_a_stack_only_what_is_not_done_is_multiplied():
    random = np.random.default_rng(0)
    roots = random.normal(size=(4, 12, 12))
    hessians, g = roots @ roots.mT + np.eye(12), random.normal(size=(4, 12, 1))
    eta, widths = np.array([0.9, 1e-10, 0.5, 0.9]), []

    def hessian(models):
        def product(d):
            widths.append(len(d))
            return hessians[models] @ d

        return product

    d, number = conjugate_gradients_of_each(hessian, lambda r: r, g, eta, 100)
    assert number == len(widths) >= 12
    assert widths == sorted(widths, reverse=True)
    assert (widths[0], widths[-1]) == (4, 1)
    for m in range(4):
        alone, _ = conjugate_gradients_of_each(
            lambda models, m=m: lambda d: hessians[m] @ d, lambda r: r, g[[m]], eta[[m]], 100
        )
        assert_allclose(d[m], alone[0], rtol=1e-9)
        assert np.linalg.norm(hessians[m] @ d[m] + g[m]) <= 1.001 * eta[m] * np.linalg.norm(g[m])


def test_folds_are_cut_into_stacks_that_fit(monkeypatch):
    data = some_data(seed=7)
    folds = folds_of(data, 7)
    whole = cells_of(data, folds, by_c)
    monkeypatch.setattr("trainer.optimizers.cross_validation.COLUMNS", 6)  # two models
    cut = cells_of(data, folds, by_c)
    assert all(cut[key].metrics["loss"] == pytest.approx(whole[key].metrics["loss"], rel=1e-3) for key in whole)
    assert all(cell.certified for cell in cut.values())


def test_a_stack_that_overflows_costs_no_cell(monkeypatch):
    """What is not finite there is no beginning for the solvers that go on alone."""

    def overflowed(stack, v, strengths, aim):
        for solved in along(stack, v, strengths, aim):
            lost = np.full_like(solved.bound, np.inf)
            yield solved._replace(v=np.full_like(solved.v, np.nan), value=lost, bound=lost)

    data = some_data(seed=8)
    monkeypatch.setattr("trainer.optimizers.cross_validation.along", overflowed)
    assert all(cell.certified for cell in cells_of(data, folds_of(data), by_c).values())
