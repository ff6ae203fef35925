"""Properties of the mathematics, on inputs that Hypothesis chooses."""

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal

from tests import conftest
from tests.conftest import pair_id
from trainer.chain.activations import Entmax, Identity, LogSoftmax, Sigmoid, Softmax, Sparsemax
from trainer.chain.losses import (
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
    SquaredError,
    SquaredHinge,
    Tsallis,
    WestonWatkins,
    ZLoss,
)
from trainer.chain.strategies import auto, fused, jacobian, value, vjp

# Entmax of alpha > 2 is infinitely steep at the edge of its support, where no two roundings need agree.
ACTIVATIONS = [a for a in conftest.ACTIVATIONS if getattr(a, "alpha", 1.0) <= 2]
PAIRS = [pair for pair in conftest.PAIRS if pair[0] in ACTIVATIONS]
K = 4
SCORES = arrays(np.float64, (5, K), elements=st.floats(-12, 12))
FACTORS = arrays(np.float64, (5, K), elements=st.floats(-3, 3))
LABELS = arrays(np.int64, 5, elements=st.integers(0, K - 1))
# soft rows on the simplex, no entry below 0.01 / K
SOFT = arrays(np.float64, (5, K), elements=st.floats(0.01, 1)).map(lambda y: y / y.sum(axis=1, keepdims=True))
SIMPLEX = [a for a in ACTIVATIONS if a.range in ("simplex", "sparse_simplex")]
INVARIANT = [a for a in ACTIVATIONS if isinstance(a, Softmax | LogSoftmax | Sparsemax | Entmax)]
SPARSE = [a for a in ACTIVATIONS if a.range == "sparse_simplex" and getattr(a, "alpha", 2) > 1]
CE = CrossEntropy()

SLOW = bool(os.environ.get("TRAINER_SLOW"))
few = settings(max_examples=300 if SLOW else 15, deadline=None, derandomize=True)  # the same examples on every machine
fewer = settings(few, max_examples=few.max_examples // 2)


def one_hot(labels):
    return np.eye(K)[labels]


@pytest.mark.parametrize("activation", SIMPLEX, ids=repr)
@few
@given(z=SCORES)
def test_a_row_lies_on_the_simplex(activation, z):
    a = activation(z)
    assert (a >= 0).all()
    assert_allclose(a.sum(axis=1), 1, rtol=1e-14)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=repr)
@few
@given(z=SCORES, order=st.permutations(range(K)))
def test_permuting_the_scores_permutes_the_prediction(activation, z, order):
    assert_allclose(activation(z[:, order]), activation(z)[:, order], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("activation", INVARIANT, ids=repr)
@few
@given(z=SCORES, shift=arrays(np.float64, (5, 1), elements=st.floats(-50, 50)))
def test_a_shift_of_a_row_changes_nothing(activation, z, shift):
    assert_allclose(activation(z + shift), activation(z), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=repr)
@few
@given(z=SCORES, g=FACTORS)
def test_the_vjp_is_the_contraction_over_the_first_class_index(activation, z, g):
    a = activation(z)
    generic = np.einsum("nj,njk->nk", g, activation.jacobian(z, a))
    assert_allclose(activation.vjp(z, a, g), generic, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("activation", SIMPLEX, ids=repr)
@few
@given(z=SCORES)
def test_the_columns_of_the_jacobian_sum_to_zero_on_the_simplex(activation, z):
    assert_allclose(activation.jacobian(z, activation(z)).sum(axis=1), 0, atol=1e-12)


@pytest.mark.parametrize("activation", [a for a in INVARIANT if not isinstance(a, LogSoftmax)], ids=repr)
@few
@given(z=SCORES)
def test_the_jacobian_of_a_regularised_argmax_is_symmetric_and_positive_semidefinite(activation, z):
    j = activation.jacobian(z, activation(z))
    assert_allclose(j, j.transpose(0, 2, 1), atol=1e-12)
    assert np.linalg.eigvalsh(j).min() >= -1e-12


@pytest.mark.parametrize("activation", SPARSE, ids=repr)
@few
@given(z=SCORES)
def test_sparsemax_and_entmax_meet_their_optimality_conditions(activation, z):
    """a maximises <a, z> - Omega(a) on the simplex: z - grad Omega(a) is one tau on the support, at most tau off it."""
    alpha = getattr(activation, "alpha", 2.0)
    a = activation(z)
    multiplier = z - a ** (alpha - 1) / (alpha - 1)  # (N,K)
    for row, support in zip(multiplier, a > 0, strict=True):
        tau = row[support].mean()
        assert_allclose(row[support], tau, atol=1e-9)
        assert (row[~support] <= tau + 1e-9).all()


@pytest.mark.parametrize("activation", SPARSE, ids=repr)
@few
@given(z=SCORES, other=SOFT)
def test_no_other_distribution_does_better_than_sparsemax_and_entmax(activation, z, other):
    a = activation(z)
    best = (a * z).sum(axis=1) - activation.omega(a)
    assert ((other * z).sum(axis=1) - activation.omega(other) <= best + 1e-12).all()


@pytest.mark.parametrize("pair", PAIRS, ids=pair_id)
@fewer
@given(z=SCORES, labels=LABELS, order=st.permutations(range(K)))
def test_permuting_the_classes_permutes_the_derivative(pair, z, labels, order):
    y = one_hot(labels)
    moved, plain = auto(*pair, z[:, order], y[:, order]), auto(*pair, z, y)
    if not isinstance(pair[1], CrammerSinger):  # whose subgradient at a tie is that of the first class
        assert_allclose(moved.dl_dz, plain.dl_dz[:, order], rtol=1e-9, atol=1e-12)
    assert_allclose(moved.loss, plain.loss, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("pair", [p for p in PAIRS if p[0] in INVARIANT and not isinstance(p[1], ZLoss)], ids=pair_id)
@fewer
@given(z=SCORES, labels=LABELS)
def test_the_derivative_of_a_shift_invariant_pair_sums_to_zero(pair, z, labels):
    assert_allclose(auto(*pair, z, one_hot(labels)).dl_dz.sum(axis=1), 0, atol=1e-10)


@pytest.mark.parametrize("pair", PAIRS, ids=pair_id)
@fewer
@given(z=SCORES, labels=LABELS)
def test_a_batch_is_its_rows_one_by_one(pair, z, labels):
    y = one_hot(labels)
    rows = [auto(*pair, z[n : n + 1], y[n : n + 1]).dl_dz for n in range(5)]
    assert_allclose(np.concatenate(rows), auto(*pair, z, y).dl_dz, rtol=1e-10, atol=1e-13)


PROPER = [p for p in PAIRS if isinstance(p[1], Brier | SquaredError | KullbackLeibler | Tsallis | FenchelYoung)]


@pytest.mark.parametrize("pair", PROPER, ids=pair_id)
@few
@given(z=SCORES, y=SOFT)
def test_a_divergence_is_never_negative_and_zero_at_its_target(pair, z, y):
    activation, loss = pair
    assert (value(activation, loss, z, y) >= -1e-12).all()
    if activation.range != "signed_unit":
        assert_allclose(value(activation, loss, z, activation(z)), 0, atol=1e-11)


@few
@given(z=SCORES, y=SOFT, temperature=st.floats(0.1, 10))
def test_a_temperature_is_a_division_of_the_scores(z, y, temperature):
    warm = fused(Softmax(temperature), CE, z, y)
    assert_allclose(warm.loss, fused(Softmax(), CE, z / temperature, y).loss, rtol=1e-12)
    assert_allclose(warm.dl_dz, fused(Softmax(), CE, z / temperature, y).dl_dz / temperature, rtol=1e-12, atol=1e-15)


SAME = [  # two losses that are one in a limit or at a value, and how near they have to be
    ("focal at gamma 0 is ce", Focal(gamma=0.0), CE, 1, 1e-12),
    ("poly1 at epsilon 0 is ce", Poly1(epsilon=0.0), CE, 1, 1e-12),
    ("z_loss at weight 0 is ce", ZLoss(weight=0.0), CE, 1, 1e-12),
    ("gce tends to ce", GeneralizedCrossEntropy(q=1e-9), CE, 1, 1e-6),
    ("gce at q 1 is half of mae", GeneralizedCrossEntropy(q=1.0), MeanAbsoluteError(), 0.5, 1e-12),
    ("tsallis at alpha 2 is half of brier", Tsallis(alpha=2.0), Brier(), 0.5, 1e-12),
    ("tsallis tends to kl", Tsallis(alpha=1 + 1e-7), KullbackLeibler(), 1, 1e-4),
    ("squared_error is half of brier", SquaredError(), Brier(), 0.5, 1e-12),
    ("kl on labels is ce", KullbackLeibler(), CE, 1, 1e-12),
    ("fenchel_young of softmax is kl", FenchelYoung(), KullbackLeibler(), 1, 1e-12),
]


@pytest.mark.parametrize(
    ("one", "other", "factor", "near"), [case[1:] for case in SAME], ids=[case[0] for case in SAME]
)
@few
@given(z=SCORES, labels=LABELS)
def test_losses_that_meet(one, other, factor, near, z, labels):
    y = one_hot(labels)
    first, second = auto(Softmax(), one, z, y), auto(Softmax(), other, z, y)
    assert_allclose(first.loss, factor * second.loss, rtol=near, atol=near)
    assert_allclose(first.dl_dz, factor * second.dl_dz, rtol=near, atol=near)


@few
@given(z=SCORES)
def test_entmax_is_softmax_at_one_and_sparsemax_at_two_and_continuous_between(z):
    assert_array_equal(Entmax(alpha=1.0)(z), Softmax()(z))
    assert_array_equal(Entmax(alpha=2.0)(z), Sparsemax()(z))
    assert_allclose(Entmax(alpha=1 + 1e-6)(z), Softmax()(z), atol=1e-3)
    assert_allclose(Entmax(alpha=1.5)(z), Entmax(alpha=1.5 + 1e-9)(z), atol=1e-7)


@few
@given(z=SCORES, labels=LABELS)
def test_log_softmax_with_nll_is_softmax_with_ce(z, labels):
    y = one_hot(labels)
    apart = jacobian(LogSoftmax(), NegativeLogLikelihood(), z, y)
    assert_allclose(apart.dl_dz, fused(Softmax(), CE, z, y).dl_dz, rtol=1e-10, atol=1e-14)


@few
@given(z=SCORES)
def test_sigmoid_of_two_classes_is_softmax_of_their_difference(z):
    assert_allclose(Sigmoid()(z[:, :1] - z[:, 1:2]), Softmax()(z[:, :2])[:, :1], rtol=1e-13)


@few
@given(z=SCORES, labels=LABELS, alpha=st.sampled_from([1.25, 1.5, 2.0, 3.0]), extra=st.floats(1e-3, 5))
def test_a_fenchel_young_loss_is_zero_from_its_margin_on(z, labels, alpha, extra):
    rows = np.arange(5)
    rivals = np.where(one_hot(labels) > 0, -np.inf, z).max(axis=1)
    z = z.copy()
    z[rows, labels] = rivals + 1 / (alpha - 1) + extra
    result = fused(Entmax(alpha=alpha), FenchelYoung(), z, one_hot(labels))
    assert_array_equal(result.dl_dz, 0)
    assert_allclose(result.loss, 0, atol=1e-14)


@pytest.mark.parametrize(
    "loss", [CrammerSinger(), WestonWatkins(), SquaredHinge(), ModifiedHuber(), MeanAbsoluteError()]
)
@few
@given(z=SCORES, other=SCORES, labels=LABELS)
def test_a_convex_loss_lies_above_its_tangents_also_at_its_kinks(loss, z, other, labels):
    y = one_hot(labels)
    z = np.round(z)  # many ties and margins of exactly one: the kinks
    here = vjp(Identity(), loss, z, y)
    tangent = here.loss + (here.dl_dz * (other - z)).sum(axis=1)
    assert (value(Identity(), loss, other, y) >= tangent - 1e-9).all()


def test_the_subgradients_at_the_kinks_are_the_documented_ones():
    y = np.array([[1.0, 0, 0]])
    tie = np.array([[0.0, 1.0, 1.0]])  # crammer_singer: classes 1 and 2 attain the maximum; the first counts
    assert_array_equal(CrammerSinger().grad(tie, y), [[-1, 1, 0]])
    edge = np.array([[1.0, 0.0, 0.5]])  # weston_watkins: class 1 has margin one exactly, which counts as kept
    assert_array_equal(WestonWatkins().grad(edge, y), [[-1, 0, 1]])
    assert_array_equal(MeanAbsoluteError().grad(np.array([[1.0, 0.2, 0.0]]), y), [[0, 1, 0]])
    met = np.array([[1.0, 0.0]])  # sparsemax: class 1 meets the threshold and is outside of the support
    assert_array_equal(Sparsemax().jacobian(met, Sparsemax()(met)), np.zeros((1, 2, 2)))


def test_the_classical_tables_of_sparsemax_and_entmax():
    assert_array_equal(Sparsemax()(np.array([[1e16 + 2, 1e16]])), [[1, 0]])
    assert_allclose(Sparsemax()(np.array([[0.5, 0.3, -1.0]])), [[0.6, 0.4, 0]], rtol=1e-15)
    assert_allclose(Entmax()(np.array([[2.0, 2.0]])), [[0.5, 0.5]], rtol=1e-15)
    assert_array_equal(Entmax()(np.array([[4.0, 0.0]])), [[1, 0]])
