"""What a solver says of its result, judged by tests/truth.py on problems of every kind that tests/families.py draws.

TRAINER_SLOW=1 draws many more; -s shows the figures.
"""

import os
from dataclasses import replace

import mpmath
import numpy as np
import pytest

from tests.families import (
    FAMILIES,
    GAP,
    KNOWN_CASES,
    PAIRS,
    Outcome,
    Problem,
    claimed_gap,
    outcome,
    outcomes,
    problem,
    table,
)
from tests.truth import LOSSES
from trainer.chain.activations import ACTIVATIONS
from trainer.chain.losses import LOSSES as LOSS_NAMES
from trainer.chain.pairs import convex, kinked, registry
from trainer.chain.strategies import auto

SLOW = bool(os.environ.get("TRAINER_SLOW"))
SEEDS = dict.fromkeys(FAMILIES, 60 if SLOW else 2) | {"pairs": 60 if SLOW else len(PAIRS), "known": len(KNOWN_CASES)}
CHUNK = 6  # seeds of a test
UNKNOWN = 0.02  # of the fits: the share whose minimum may be too uncertain to judge a claim
SOLVED = 0.97  # of what auto is to solve
CHUNKS = [(family, range(i, min(i + CHUNK, n))) for family, n in SEEDS.items() for i in range(0, n, CHUNK)]
CHUNKS += [] if SLOW else [("mixed", range(9, 10)), ("mixed", range(32, 33))]  # false once, without a penalty
DRAWN = [(family, seed) for family, n in SEEDS.items() for seed in range(n)]


@pytest.fixture(scope="module")
def found():
    """All that was found, printed in the end."""
    collected = []
    yield collected
    print("\n" + table(collected))


@pytest.mark.parametrize(("family", "seeds"), CHUNKS, ids=lambda part: part if isinstance(part, str) else part.start)
def test_a_claim_of_convergence_is_true_and_proved_and_its_absence_is_a_warning(family, seeds, found):
    fits = outcomes(family, seeds)
    found += fits
    faults = [str(fit) for fit in fits if fit.verdict]
    assert not faults, "\n" + "\n".join(faults)


def test_auto_certifies_nearly_all_that_has_a_certificate():
    problems = [(key, problem(*key)) for key in DRAWN]
    wanted = [key for key, p in problems if p.penalty == "l2" and p.C <= 1e4 and "max_iter" not in p.options]
    fits = [fit for fit in (outcome(*key, "auto") for key in wanted) if fit.within_reach]
    missed = [str(fit) for fit in fits if not (fit.claimed and fit.solved)]
    assert len(missed) <= (1 - SOLVED) * len(fits), f"{len(missed)} of {len(fits)}:\n" + "\n".join(missed)


# The judge itself.


def test_the_judge_knows_the_minimum_of_nearly_every_problem():
    fits = [outcome(*key, "auto") for key in DRAWN]
    unknown = [str(fit) for fit in fits if not fit.judged and not fit.strange]
    assert len(unknown) <= UNKNOWN * len(fits), "\n" + "\n".join(unknown)


@pytest.mark.parametrize("penalty", ["l2", "l1", "elastic_net"])
@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_the_judge_proves_the_minimum_of_an_easy_problem(pair, penalty):
    activation, loss, settings = pair
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(80, 3)), rng.integers(3, size=80)
    p = Problem(x, y, activation=activation, loss=loss, settings=settings, penalty=penalty, C=0.1)
    least = p.truth().minimum()
    assert least.proved <= 1e-10 * least.upper


def test_the_judge_has_every_convex_pair_that_a_solver_takes():
    solved = {(a.name, loss.name) for a, loss in registry() if convex(a, loss) and not kinked(a, loss)}
    assert solved == set(LOSSES) == {(activation, loss) for activation, loss, _ in PAIRS}


@pytest.mark.parametrize(("activation", "loss", "settings"), PAIRS, ids=str)
@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_the_loss_of_the_judge_is_that_of_the_project_and_its_derivatives_are_those_of_the_loss(
    activation, loss, settings, epsilon
):
    rng = np.random.default_rng(0)
    z = rng.normal(scale=2, size=(200, 4))
    y = (1 - epsilon) * np.eye(4)[rng.integers(4, size=200)] + epsilon / 4

    def rows(z):
        return LOSSES[activation, loss](z, y, **settings)

    mine = rows(z)
    project = auto(ACTIVATIONS[activation](**settings), LOSS_NAMES[loss](), z, y)
    np.testing.assert_allclose(mine.value, project.loss, rtol=1e-11, atol=1e-13)
    step = 1e-5 * rng.normal(size=(200, 4))
    far, near = rows(z + step), rows(z - step)
    np.testing.assert_allclose(far.value - near.value, 2 * (mine.slope * step).sum(axis=1), rtol=1e-4, atol=1e-9)
    bent = 2 * np.einsum("nkl,nl->nk", mine.bend, step)
    smooth = np.abs(far.bend - near.bend).max(axis=(1, 2)) < 1e-2  # no kink of the slope in between
    assert smooth.mean() > 0.9
    np.testing.assert_allclose((far.slope - near.slope)[smooth], bent[smooth], rtol=1e-3, atol=1e-8)


HONEST = Outcome(
    "plain", 0, "auto", "", 1.0, 1.0, gap=1e-9, unknown=1e-15, rounding=1e-14, claimed=True, certifies=True
)
FAULTS = {
    "": {"claimed_gap": 1e-8},
    "FALSE CLAIM": {"gap": 1e-5, "claimed_gap": None, "penalty": "l1"},
    "FALSE CLAIM, FALSE GAP": {"gap": 1e-5, "claimed_gap": 1e-7},
    "FALSE GAP": {"gap": 1e-7, "claimed_gap": 1e-8},
    "CLAIM WITHOUT PROOF": {"claimed_gap": None},
    "NO WARNING": {"gap": 1e-3, "claimed_gap": 1e-2, "claimed": False},
    "WARNING BESIDE A CLAIM": {"claimed_gap": 1e-8, "warned": True},
    "THE JUDGE IS WRONG": {"gap": -1e-9, "claimed_gap": 1e-8},
    "ValueError": {"strange": "ValueError", "claimed": False},
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault or "none")
def test_the_judge_sees_each_fault(fault):
    assert replace(HONEST, **FAULTS[fault]).verdict == fault


def test_a_gap_above_a_millionth_is_no_proof_of_a_claim():
    assert replace(HONEST, claimed_gap=2e-6).verdict == "CLAIM WITHOUT PROOF"


DIGITS = 50


class Exact:
    """E of a small problem with softmax+ce or sigmoid+bce and l2, on numbers of 50 digits: value, gradient, Hessian."""

    def __init__(self, p: Problem) -> None:
        n, k = len(p.y), int(p.y.max()) + 1
        self.x = [[*map(mpmath.mpf, row), mpmath.mpf(1)] for row in p.x.tolist()]
        self.y = np.eye(k)[p.y]
        self.activation = p.activation
        self.shape = (p.x.shape[1] + 1, k)
        self.strength = 1 / (mpmath.mpf(p.C) * n)

    def __call__(self, w):
        """w is a matrix of mpmath's; the derivatives' rows are w[0,0], w[0,1], ..."""
        rows, k = self.shape
        value, g, h = mpmath.mpf(0), mpmath.zeros(rows * k, 1), mpmath.zeros(rows * k)
        for x, y in zip(self.x, self.y, strict=True):
            z = [sum(x[d] * w[d, j] for d in range(rows)) for j in range(k)]
            if self.activation == "softmax":
                e = [mpmath.exp(score) for score in z]
                a = [one / sum(e) for one in e]
                value -= mpmath.log(sum(one * target for one, target in zip(a, y, strict=True))) / len(self.x)
                bend = [[a[i] * ((i == j) - a[j]) for j in range(k)] for i in range(k)]
            else:
                a = [1 / (1 + mpmath.exp(-score)) for score in z]
                value -= sum(mpmath.log(p if t else 1 - p) for p, t in zip(a, y, strict=True)) / len(self.x)
                bend = [[a[i] * (1 - a[i]) * (i == j) for j in range(k)] for i in range(k)]
            for d in range(rows):
                for i in range(k):
                    g[d * k + i] += x[d] * (a[i] - y[i]) / len(self.x)
                    for other in range(rows):
                        for j in range(k):
                            h[d * k + i, other * k + j] += x[d] * x[other] * bend[i][j] / len(self.x)
        for d in range(rows - 1):
            for i in range(k):
                value += self.strength * w[d, i] ** 2 / 2
                g[d * k + i] += self.strength * w[d, i]
                h[d * k + i, d * k + i] += self.strength
        return value, g, h

    def newton(self, w, only_bias=False):
        """w after Newton's steps to 40 digits, of all of it or the bias alone, from a w that is near."""
        rows, k = self.shape
        first = (rows - 1) * k if only_bias else 0
        for _ in range(400 if only_bias else 60):
            _, g, h = self(w)
            part = h[first:, first:].copy() if first else h
            if self.activation == "softmax":  # the sum of the biases is free; hold it
                for i in range(part.rows - k, part.rows):
                    for j in range(part.rows - k, part.rows):
                        part[i, j] += 1
            if only_bias:  # from far, where the curvature vanishes; the slope's own size keeps a step below 10
                for i in range(part.rows):
                    part[i, i] += mpmath.norm(g[first:], mpmath.inf) / 10
            step = mpmath.lu_solve(part, g[first:] if first else g)
            for i in range(part.rows):
                w[(first + i) // k, (first + i) % k] -= step[i]
            if mpmath.norm(step) < mpmath.mpf(10) ** -40:
                return w
        raise AssertionError("Newton's method in 50 digits has not converged.")


def matrix(weights, bias):
    return mpmath.matrix(np.vstack([weights, bias]).tolist())


def tiny(seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(14, 2)) * 10.0 ** rng.integers(-3, 4, size=2) + rng.normal(size=2) * 10.0 ** rng.integers(3)
    y = np.append(np.arange(3), rng.integers(3, size=11))
    activation, loss = [("softmax", "ce"), ("sigmoid", "bce")][seed % 2]
    return Problem(x, y, activation=activation, loss=loss, C=float(10 ** rng.uniform(-2, 3)))


@pytest.mark.parametrize("seed", range(40 if SLOW else 4))
def test_the_minimum_and_the_certificate_hold_in_50_digits(seed):
    p = tiny(seed)
    truth = p.truth()
    least = truth.minimum()
    with mpmath.workdps(DIGITS):
        exact = Exact(p)
        w = exact.newton(matrix(*least.model(truth, np.float64)))
        minimum = exact(w)[0]
        assert least.lower <= minimum <= least.upper * (1 + 1e-15)
        assert least.upper - least.lower <= 1e-13 * least.upper

        model = p.estimator("auto").fit(p.x, p.y)
        value, rounding = truth.at(model.coef_.T, model.intercept_)
        exactly = exact(matrix(model.coef_.T, model.intercept_))[0]
        assert abs(value - exactly) <= rounding
        gap = (exactly - minimum) / exactly
        claimed = claimed_gap(model)
        if claimed is not None:
            assert claimed >= gap - rounding / value
        if model.converged_:
            assert gap <= GAP + rounding / value

        # E(w) - min E <= |dE/dW|^2 / (2 strength) where the bias is at its own minimum, anywhere
        rng = np.random.default_rng(seed)
        for size in (1e-3, 1.0):
            anywhere = matrix(least.model(truth, float)[0] * (1 + size * rng.normal(size=(2, 3))), np.zeros(3))
            for j in range(3):
                anywhere[2, j] = w[2, j]
            value, g, _ = exact(exact.newton(anywhere, only_bias=True))
            assert value - minimum <= sum(slope**2 for slope in g[:6]) / (2 * exact.strength)
