"""The promise of accuracy, against mpmath with 60 digits: purely relative errors, no absolute tolerance."""

import mpmath
import numpy as np
import pytest

from tests.conftest import PAIRS, pair_id, targets
from tests.exact import loss_and_dl_dz
from trainer.chain.activations import Sigmoid, Softmax
from trainer.chain.activations.softmax import softmax_three_ways
from trainer.chain.fused import precise
from trainer.chain.losses import BinaryCrossEntropy, CrossEntropy
from trainer.chain.strategies import GRADIENTS, auto, fused, has_strategy, jacobian, log

mpmath.mp.dps = 60
TINY = np.finfo(float).tiny
PROMISE = 2e-15


def error(value, exact):
    """The relative error; below the smallest normal number, four units there count as the promise."""
    if abs(exact) < TINY:
        return float(abs(mpmath.mpf(float(value)) - exact)) / 5e-324 / 4 * PROMISE
    return float(abs((mpmath.mpf(float(value)) - exact) / exact))


def worst(values, exacts):
    return max(error(value, exact) for value, exact in zip(values, exacts, strict=True))


def exact_softmax_ce(z, t):
    """Probabilities, loss and dl_dz for scores z and the label t."""
    scores = [mpmath.mpf(float(score)) for score in z]
    e = [mpmath.exp(score - max(scores)) for score in scores]
    a = [term / mpmath.fsum(e) for term in e]
    rest = mpmath.fsum(term for k, term in enumerate(a) if k != t)
    # -log a_t, from the smaller of a_t and the rest
    loss = -mpmath.log1p(-rest) if rest < 0.5 else -mpmath.log(a[t])
    return a, loss, [-rest if k == t else term for k, term in enumerate(a)]


def score_rows():
    """Scores that a naive formula fails on: huge, huge with close rivals, one far above the rest, all far below one."""
    rng = np.random.default_rng(0)
    for number in range(240):
        k = int(rng.choice([2, 3, 5, 10, 100]))
        scale = 10 ** rng.uniform(-3, 8)
        z = rng.normal(size=k)
        if number % 4 == 0:
            z = z * scale
        elif number % 4 == 1:
            z = scale + z * 10 ** rng.uniform(-1, 2.5)
        elif number % 4 == 2:
            z = 10 * z
            z[rng.integers(k)] += rng.uniform(0, 700)
        else:
            z = rng.uniform(-745, 0, size=k)
            z[rng.integers(k)] = rng.uniform(-1, 1)
        yield np.clip(z, -1e8, 1e8), int(z.argmax()) if number % 3 else int(rng.integers(k))


ROWS = [*score_rows(), (np.array([37.0, 0, 0]), 0), (np.array([710.0, 0]), 0), (np.array([-1e4, 1e4, 0]), 0)]


@pytest.mark.parametrize("strategy", [precise, log], ids=["precise", "log"])
def test_softmax_with_ce_is_exact_to_the_promise_at_any_scores(strategy):
    for z, t in ROWS:
        a, loss, dl_dz = exact_softmax_ce(z, t)
        result = strategy(Softmax(), CrossEntropy(), z[None], np.eye(len(z))[[t]])
        assert error(result.loss[0], loss) <= PROMISE, (z, t)
        assert worst(result.dl_dz[0], dl_dz) <= PROMISE, (z, t)
        assert worst(Softmax()(z[None])[0], a) <= PROMISE, (z, t)


def test_the_plain_fused_form_loses_no_more_than_the_rounding_of_the_shifted_scores():
    for z, t in ROWS:
        a, loss, dl_dz = exact_softmax_ce(z, t)
        result = fused(Softmax(), CrossEntropy(), z[None], np.eye(len(z))[[t]])
        lost = (
            np.spacing(min(745.0, np.ptp(z))) + PROMISE
        )  # exp turns the absolute error of a score into a relative one
        assert error(result.loss[0], loss) <= lost, (z, t)
        assert worst(result.dl_dz[0], dl_dz) <= lost or min(a) < TINY, (z, t)


def test_one_minus_softmax_is_exact_to_the_promise():
    for z, t in ROWS:
        rest = -exact_softmax_ce(z, t)[2][t]
        assert error(softmax_three_ways(z[None])[2][0, t], rest) <= PROMISE, (z, t)


@pytest.mark.parametrize("target", [0.0, 1.0])
def test_sigmoid_with_bce_is_exact_to_the_promise_at_any_score(target):
    rng = np.random.default_rng(0)
    scores = [*rng.normal(size=100) * 10 ** rng.uniform(-8, 8, size=100), 36.8, -36.8, 745.0, -745.0, 800.0, -710.0]
    for z in scores:
        size = mpmath.mpf(float(z)) * (1 if target == 0 else -1)  # the loss is softplus of this
        loss = mpmath.log1p(mpmath.exp(size)) if size < 0 else size + mpmath.log1p(mpmath.exp(-size))
        slope = (1 if target == 0 else -1) / (1 + mpmath.exp(-size))
        result = fused(Sigmoid(), BinaryCrossEntropy(), np.array([[z]]), np.array([[target]]))
        assert error(result.loss[0], loss) <= PROMISE, z
        assert error(result.dl_dz[0, 0], slope) <= PROMISE, z
        assert error(Sigmoid()(np.array([[z]]))[0, 0], 1 / (1 + mpmath.exp(-mpmath.mpf(float(z))))) <= PROMISE, z


@pytest.mark.parametrize("z", [[1000.0, 0, -3], [1000.0, 1000, -3], [0.0, 3000, 0], [800.0, 10, 12], [2.0, 1, 0.5]])
@pytest.mark.parametrize("t", [0, 1, 2])
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_softmax_with_bce_is_finite_and_exact_where_one_minus_a_underflows(z, t):
    with mpmath.workdps(2000):  # enough for exp(-3000) beside one
        e = [mpmath.exp(mpmath.mpf(score) - max(z)) for score in z]
        a = [term / mpmath.fsum(e) for term in e]
        rest = [mpmath.fsum(other for j, other in enumerate(e) if j != k) / mpmath.fsum(e) for k in range(3)]
        loss = -mpmath.log(a[t]) - mpmath.fsum(mpmath.log(rest[k]) for k in range(3) if k != t)
        g = [-1 / a[k] if k == t else 1 / rest[k] for k in range(3)]
        inner = mpmath.fsum(a[k] * g[k] for k in range(3))
        slope = [a[k] * (g[k] - inner) for k in range(3)]
        result = fused(Softmax(), BinaryCrossEntropy(), np.array([z]), np.eye(3)[[t]])
        np.testing.assert_allclose(result.loss, [float(loss)], rtol=1e-14)
        np.testing.assert_allclose(result.dl_dz, [[float(v) for v in slope]], rtol=1e-12, atol=1e-15)


# Where an entry's relative error says nothing: each sum below is of numbers that may cancel however they are computed.
# What holds is an error beside one, and for dl_dz beside the row's largest entry where that is larger.
ILL_CONDITIONED_LOSS = {
    "tsallis": "three powers near one whose sum is of the second order",
    "poly1": "with epsilon = -1, -log a - (1 - a), of the second order in 1 - a",
}
ILL_CONDITIONED_DL_DZ = {
    ("normalized_sigmoid", loss): "classes that saturate together differ by less than a rounding of their f"
    for loss in ("bce", "brier", "squared_error", "tsallis")
} | {
    ("entmax", loss): "a power of u - tau, which loses what u and tau share; alpha = 1 is softmax, which has log"
    for loss in ("brier", "squared_error", "mae", "spherical_score", "fenchel_young")
}


# A bisection to 300 digits would take minutes; these alphas share all but their threshold with 1.5.
NOT_BISECTED = [pair for pair in PAIRS if getattr(pair[0], "alpha", 1.5) in (1.0, 1.5)]


@pytest.mark.parametrize("pair", NOT_BISECTED, ids=pair_id)
def test_up_to_scores_of_thirty_every_entry_of_every_pair_is_right_to_twelve_digits(pair):
    activation, loss = pair
    z = np.random.default_rng(0).uniform(-30, 30, size=(12, 4))
    y = targets("one-hot", 12, 4)
    exact_loss, exact_dl_dz = loss_and_dl_dz(activation, loss, z, y)
    result = auto(activation, loss, z, y)
    loss_scale, scale = np.abs(exact_loss), np.abs(exact_dl_dz)
    if loss.name in ILL_CONDITIONED_LOSS or activation.name == "entmax":
        loss_scale = np.maximum(loss_scale, 1)
    if (activation.name, loss.name) in ILL_CONDITIONED_DL_DZ:
        scale = np.maximum(scale.max(axis=1, keepdims=True), 1)
    assert (np.abs(result.loss - exact_loss) <= 1e-12 * loss_scale).all()
    assert (np.abs(result.dl_dz - exact_dl_dz) <= 1e-12 * scale).all()


@pytest.mark.parametrize("pair", PAIRS, ids=pair_id)
def test_up_to_scores_of_thirty_every_pair_is_finite_and_its_strategies_agree_to_twelve_digits(pair):
    z = np.random.default_rng(0).uniform(-30, 30, size=(40, 5))
    y = targets("one-hot", 40, 5)
    with np.errstate(all="ignore"):
        results = {name: f(*pair, z, y) for name, f in GRADIENTS.items() if has_strategy(name, *pair)}
    assert np.isfinite(results["auto"].dl_dz).all()
    assert np.isfinite(results["auto"].loss).all()
    size = np.abs(results["auto"].dl_dz).max(axis=1, keepdims=True)
    # What starts from dl_da of bce divides by a 1 - a that has lost its digits; fused and log do not.
    lossy = {"loop", "jacobian", "vjp"} if pair[1].name == "bce" else set()
    for name in set(results) - lossy - {"numeric"}:
        error = np.abs(results[name].dl_dz - results["auto"].dl_dz)
        rows = np.isfinite(results[name].dl_dz).all(axis=1)
        assert rows.all() or name in ("loop", "jacobian", "vjp")
        assert (error[rows] <= 1e-12 * size[rows] + 1e-15).all(), name


@pytest.mark.parametrize("strategy", [fused, precise, log, jacobian], ids=["fused", "precise", "log", "jacobian"])
def test_a_masked_class_without_target_changes_nothing(strategy):
    z = np.array([[1.0, -np.inf, 0.5], [-np.inf, -np.inf, 2.0]])
    y = np.array([[1.0, 0, 0], [0, 0, 1.0]])
    with np.errstate(divide="ignore", invalid="ignore"):
        masked = strategy(Softmax(), CrossEntropy(), z, y)
    without = strategy(Softmax(), CrossEntropy(), z[:1, [0, 2]], y[:1, [0, 2]])
    np.testing.assert_allclose(masked.loss, [without.loss[0], 0], rtol=1e-15)
    np.testing.assert_allclose(masked.dl_dz, [[without.dl_dz[0, 0], 0, without.dl_dz[0, 1]], [0, 0, 0]], rtol=1e-14)


@pytest.mark.parametrize("strategy", [fused, precise, log], ids=["fused", "precise", "log"])
def test_float32_keeps_six_digits_at_scores_of_a_thousand(strategy):
    rng = np.random.default_rng(0)
    z = rng.uniform(-1000, 1000, size=(200, 6)).astype(np.float32)
    y = np.eye(6, dtype=np.float32)[rng.integers(6, size=200)]
    single = strategy(Softmax(), CrossEntropy(), z, y)
    double = precise(Softmax(), CrossEntropy(), z.astype(float), y.astype(float))
    np.testing.assert_allclose(single.loss, double.loss, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(single.dl_dz, double.dl_dz, rtol=1e-6, atol=1e-6)
