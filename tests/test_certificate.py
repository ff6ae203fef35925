"""The certificate: never below the true gap, tight at the minimum, and silent where nothing can be proved."""

import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from tests.conftest import ACTIVATIONS, LOSSES, pair_id
from tests.truth import truth_of
from trainer.chain.activations import ACTIVATIONS as ACTIVATION_NAMES
from trainer.chain.activations import Identity, Sigmoid, Softmax
from trainer.chain.losses import LOSSES as LOSS_NAMES
from trainer.chain.losses import Brier, CrossEntropy, FenchelYoung, MeanAbsoluteError, SquaredError, SquaredHinge, ZLoss
from trainer.chain.pairs import allowed, canonical, convex, kinked
from trainer.chain.strategies import auto
from trainer.data.rows import Data
from trainer.objective.certificate import _Scores
from trainer.objective.objective import Objective
from trainer.objective.penalties import L1, L2, ElasticNet, NoPenalty
from trainer.objective.problem import Problem
from trainer.optimizers.fit import TrainState, fit, proved
from trainer.optimizers.newton import Newton
from trainer.optimizers.proximal import Fista

N, D, K = 60, 4, 3
CONVEX = [
    (a, b) for a in ACTIVATIONS for b in LOSSES if allowed(type(a), type(b)) and convex(a, b) and not kinked(a, b)
]
CANONICAL = [pair for pair in CONVEX if canonical(*pair)]
CE = (Softmax(), CrossEntropy())
SIMPLEX = [CE, (Softmax(0.5), CrossEntropy()), (Softmax(0.5), FenchelYoung()), (Sigmoid(), FenchelYoung())]
WAYS = [-5, -2, 0, 1]  # decades of the distance from the minimum


def sample(kind="plain"):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, D)) * 10 ** np.linspace(-1, 1, D) + 1
    y = rng.integers(K, size=N)
    data = Data(x, y, tuple(range(K)), tuple("abcd"))
    if kind == "weighted":
        return replace(data, weight=rng.uniform(0, 3, size=N))
    if kind == "smoothed":
        return replace(data, smoothing=0.2)
    if kind == "soft":
        return replace(data, y=rng.dirichlet(np.ones(K), size=N))
    return data


def problem_of(pair, penalty, data=None):
    return Problem(Objective(*pair, auto, penalty), sample() if data is None else data)


def best(problem):
    """w after a long run of a solver."""
    solver = Fista(1e-10, 1e-11) if problem.objective.penalty.lasso > 0 else Newton(1e-12, 1e-12)
    start = TrainState.start(solver, problem.data)
    return list(fit(problem.objective, solver, problem.data, None, start, epochs=300, metrics={}))[-1].state.w


def value(problem, w):
    return problem.view(np.float64).at(w).value


def assert_never_below(problem):
    minimum = best(problem)
    lowest = value(problem, minimum)
    rng = np.random.default_rng(1)
    for decades in WAYS:
        w = minimum + 10.0**decades * rng.normal(size=minimum.shape)
        found = problem.certify(w)
        if problem.objective.loss.name == "z_loss" and found.gap is None:
            continue
        here = value(problem, w)
        assert_allclose(found.value, here, rtol=1e-12)
        assert found.gap is not None, found.why
        assert found.gap * here >= (here - lowest) - 1e-13 * here


@pytest.mark.parametrize("penalty", [L2(0.01), L2(1e-4), ElasticNet(0.01)], ids=repr)
@pytest.mark.parametrize("pair", CONVEX, ids=pair_id)
def test_the_bound_is_never_below_the_true_gap(pair, penalty):
    assert_never_below(problem_of(pair, penalty))


@pytest.mark.parametrize("pair", CANONICAL, ids=pair_id)
def test_nor_is_it_with_l1_for_canonical_pairs(pair):
    assert_never_below(problem_of(pair, L1(0.01)))


@pytest.mark.parametrize("kind", ["weighted", "smoothed", "soft"])
@pytest.mark.parametrize("penalty", [L2(0.01), ElasticNet(0.01), L1(0.01)], ids=repr)
@pytest.mark.parametrize("pair", SIMPLEX, ids=pair_id)
def test_nor_with_weights_and_targets_of_other_kinds(pair, penalty, kind):
    assert_never_below(problem_of(pair, penalty, sample(kind)))


@pytest.mark.parametrize("strength", [1e-4, 1e-2, 1.0])
@pytest.mark.parametrize("pair", [CE, (Identity(), SquaredError()), (Sigmoid(), FenchelYoung())], ids=pair_id)
def test_with_l2_at_the_best_bias_it_is_the_gradient_squared_by_twice_the_strength(pair, strength):
    problem = problem_of(pair, L2(strength))
    w = best(problem_of(pair, L2(2 * strength)))  # whose bias is the best for its weights, whatever the penalty
    here, g = problem.value_and_grad(w)
    assert_allclose(g[-1], 0, atol=1e-8)
    assert_allclose(problem.certify(w).gap * here, np.sum(g[:-1] ** 2) / (2 * strength), rtol=1e-4)


@pytest.mark.parametrize(
    ("pair", "penalty", "reason"),
    [
        (CE, NoPenalty(), "without a penalty no gradient tells how far the minimum is"),
        ((Softmax(), Brier()), L2(0.1), "activation=softmax with loss=brier is not convex"),
        ((Identity(), MeanAbsoluteError()), L2(0.1), "the gradient of activation=identity with loss=mae jumps"),
        ((Identity(), SquaredHinge()), L1(0.1), "penalty=l1 needs a canonical pair for it, or a share of l2"),
    ],
    ids=["no penalty", "not convex", "kink", "l1 of another pair"],
)
def test_where_nothing_can_be_proved_it_says_why(pair, penalty, reason):
    found = problem_of(pair, penalty).certify(np.zeros((D + 1, K)), 1e-6)
    assert found.gap is None
    assert reason in found.why
    assert not found.proves(1e9)


def test_z_loss_is_proved_only_where_its_scores_are_not_too_low():
    problem = problem_of((Softmax(), ZLoss(weight=0.1)), L2(0.1))
    w = np.zeros((D + 1, K))
    assert problem.certify(w).gap is not None
    w[-1] = -50.0
    found = problem.certify(w)
    assert found.gap is None
    assert "not convex at scores as low as these" in found.why


@pytest.mark.parametrize("pair", [CE, (Identity(), SquaredHinge()), (Sigmoid(), FenchelYoung())], ids=pair_id)
def test_what_is_wanted_is_looked_for_with_newton_and_stays_above_the_true_gap(pair):
    problem = problem_of(pair, L2(1e-4))
    minimum = best(problem)
    w = minimum + 1e-4 * np.random.default_rng(1).normal(size=minimum.shape)
    plain, refined = problem.certify(w), problem.certify(w, 1e-6)
    true = (value(problem, w) - value(problem, minimum)) / plain.value
    assert plain.gap > 1e-6
    assert refined.gap < plain.gap
    assert refined.gap >= true - 1e-13
    assert refined.value == plain.value


@pytest.mark.parametrize("penalty", [L2(0.01), ElasticNet(0.01), ElasticNet(0.01, l1_ratio=0.9), L1(0.01)], ids=repr)
@pytest.mark.parametrize("kind", ["plain", "weighted", "smoothed"])
def test_at_the_optimum_the_gap_is_nothing(penalty, kind):
    problem = problem_of(CE, penalty, sample(kind))
    assert problem.certify(best(problem)).gap < 1e-9


def test_a_proof_is_kept_in_words_and_numbers():
    problem = problem_of(CE, L2(0.1))
    found = problem.certify(best(problem))
    assert found.why.startswith("certified to ")
    assert found.proves(1e-6)


@pytest.mark.parametrize("penalty", ["l2", "elastic_net", "l1"])
@pytest.mark.parametrize("pair", [("softmax", "ce"), ("sigmoid", "fenchel_young"), ("entmax", "fenchel_young")])
def test_the_minimum_of_another_road_is_within_the_bound(pair, penalty):
    data = sample("weighted")
    rest = {"class_weight": None, "label_smoothing": 0.0, "settings": {}, "sample_weight": data.weight}
    truth = truth_of(data.x, data.y, activation=pair[0], loss=pair[1], penalty=penalty, C=1.0, **rest)
    lowest = truth.minimum()
    strength = 1 / data.weight.sum()
    made = {"l2": L2, "l1": L1, "elastic_net": ElasticNet}[penalty](strength)
    problem = problem_of((ACTIVATION_NAMES[pair[0]](), LOSS_NAMES[pair[1]]()), made, data)
    minimum = np.vstack(lowest.model(truth, float))
    for size in (0, 1e-6, 1e-3, 0.1):
        w = minimum + size * np.random.default_rng(1).normal(size=minimum.shape)
        found = problem.certify(w)
        assert found.gap * found.value >= found.value - lowest.upper - 1e-13 * found.value
        assert size or found.gap < 1e-9


def test_a_bound_needs_the_best_bias_and_is_none_where_that_was_not_found(monkeypatch):
    problem = problem_of(CE, L2(0.01))
    w = best(problem)
    w[-1] += [5.0, 0.0, 0.0, -5.0][: len(w[-1])]
    assert problem.certify(w).gap is not None
    monkeypatch.setattr("trainer.objective.certificate.STEPS", 0)
    found = problem.certify(w)
    assert (found.gap, found.why) == (None, "no proof: the best bias for these weights was not found.")


@pytest.mark.parametrize("way", [1e1, 1e2])
def test_scores_that_have_run_away_are_bounded_too(way):
    problem = problem_of(CE, L2(0.01))
    minimum = best(problem)
    w = minimum + way * np.random.default_rng(1).normal(size=minimum.shape)
    found = problem.certify(w)
    assert found.gap * found.value >= found.value - value(problem, minimum)


@pytest.mark.parametrize("rows", [(40_000, 30), (40_000, 3_000)], ids=["rare", "less rare"])
def test_the_best_bias_of_a_rare_class_takes_few_passes_though_a_sample_has_hardly_any_of_it(rows, monkeypatch):
    """The Hessian of the sample is off by a fifth or more; what its steps showed makes up for it."""
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], rows)
    data = Data(rng.normal(size=(len(y), 3)) + y[:, None], y, (0, 1), tuple("abc"))
    problem = problem_of(CE, L2(1e-4), data)
    w = best(problem)
    w[-1] += [0.05, -0.05]
    passes, of = [], _Scores.at_bias
    monkeypatch.setattr(_Scores, "at_bias", lambda self, shift: (passes.append(shift), of(self, shift))[1])
    assert problem.certify(w).gap > 0
    assert len(passes) <= 7


def test_what_was_evaluated_at_the_end_of_a_fit_gives_the_bound_of_the_rows():
    data, objective, solver = sample(), Objective(*CE, auto, L2(0.01)), Newton()
    reports = fit(objective, solver, data, None, TrainState.start(solver, data), epochs=3, metrics={})
    end = list(reports)[-1]
    known = proved(objective, solver, data, end.state.w, False, end.after)
    afresh = proved(objective, solver, data, end.state.w, False)
    assert 0 < known.gap < math.inf
    assert_allclose(known.gap, afresh.gap, rtol=1e-9)
