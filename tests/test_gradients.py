from dataclasses import dataclass

import array_api_strict
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from tests.conftest import KINDS, stated, targets
from trainer.arrays import one_hot
from trainer.chain.activations import Identity, LogSoftmax, Sigmoid, Softmax
from trainer.chain.fused import FUSED
from trainer.chain.losses import (
    BinaryCrossEntropy,
    CrossEntropy,
    MeanAbsoluteError,
    NegativeLogLikelihood,
    SquaredError,
)
from trainer.chain.strategies import (
    GRADIENTS,
    auto,
    fastest,
    fused,
    has_strategy,
    jacobian,
    log,
    loop,
    numeric,
    takes_labels,
    vjp,
)
from trainer.errors import ConfigError
from trainer.objective.refusals import check_pair

ELSEWHERE = array_api_strict.Device("device1")  # what is made on another device cannot be combined with it
CE, BCE, NLL, SQUARES = CrossEntropy(), BinaryCrossEntropy(), NegativeLogLikelihood(), SquaredError()


def elsewhere(array):
    """The array as the standard has it, on a device of its own."""
    return array_api_strict.asarray(array, device=ELSEWHERE)


def back(array):
    """As numpy's, if it is where it was to stay."""
    assert array.device == ELSEWHERE
    return np.asarray(array.to_device(array_api_strict.Device("CPU_DEVICE")))


def strategies(pair, *leave_out):
    """The names and functions of all strategies that the pair has."""
    return [(name, f) for name, f in GRADIENTS.items() if has_strategy(name, *pair) and name not in leave_out]


def test_every_strategy_agrees_with_central_differences(pair, z):
    for kind, y in stated(pair[1]):
        oracle = numeric(*pair, z, y)
        for name, strategy in strategies(pair, "numeric"):
            exact, which = strategy(*pair, z, y), f"{name}, {kind}"
            assert_allclose(exact.dl_dz, oracle.dl_dz, rtol=1e-6, atol=2e-9, err_msg=which)
            assert_allclose(exact.loss, oracle.loss, rtol=1e-11, atol=2e-15, err_msg=which)


def test_every_exact_strategy_agrees_with_the_jacobian_to_rounding(pair, z):
    for kind, y in stated(pair[1]):
        generic = jacobian(*pair, z, y)
        for name, strategy in strategies(pair, "numeric", "jacobian"):
            result, which = strategy(*pair, z, y), f"{name}, {kind}"
            assert_allclose(result.dl_dz, generic.dl_dz, rtol=1e-12, atol=1e-14, err_msg=which)
            assert_allclose(result.loss, generic.loss, rtol=1e-11, atol=2e-15, err_msg=which)


def test_a_strategy_works_row_by_row_and_on_the_f_ordered_scores_of_a_block(pair, z):
    y = targets("one-hot", 7, 4)
    for name, strategy in strategies(pair):
        whole = strategy(*pair, z, y)
        f_ordered = strategy(*pair, np.asfortranarray(z), np.asfortranarray(y))
        assert_allclose(f_ordered.dl_dz, whole.dl_dz, rtol=1e-12, atol=1e-14, err_msg=name)
        rows = [strategy(*pair, z[n : n + 1], y[n : n + 1]) for n in range(7)]
        assert_allclose(np.concatenate([row.dl_dz for row in rows]), whole.dl_dz, rtol=1e-12, atol=1e-14, err_msg=name)
        assert_allclose(np.concatenate([row.loss for row in rows]), whole.loss, rtol=1e-12, atol=1e-14, err_msg=name)


def test_float32_scores_give_float32_derivatives(pair, z):
    y = targets("one-hot", 7, 4)
    exact = jacobian(*pair, z, y)
    for name, strategy in strategies(pair):
        single = strategy(*pair, z.astype(np.float32), y.astype(np.float32))
        assert single.dl_dz.dtype == single.loss.dtype == np.float32, name
        assert_allclose(single.dl_dz, exact.dl_dz, rtol=1e-4, atol=1e-5, err_msg=name)


def test_contracting_log_softmax_over_the_wrong_index_would_be_seen(z):
    y = targets("one-hot", 7, 4)
    a = LogSoftmax()(z)
    wrong = np.einsum("nk,njk->nj", NLL.grad(a, y), LogSoftmax().jacobian(z, a))
    assert np.abs(wrong - numeric(LogSoftmax(), NLL, z, y).dl_dz).max() > 0.1
    assert_allclose(jacobian(LogSoftmax(), NLL, z, y).dl_dz, numeric(LogSoftmax(), NLL, z, y).dl_dz, atol=1e-9)


def test_the_shortcut_is_s_times_a_minus_y_and_not_a_minus_y(z, y):
    a, s = Softmax()(z), y.sum(axis=1, keepdims=True)
    assert_allclose(fused(Softmax(), CE, z, y).dl_dz, s * a - y, rtol=1e-12, atol=1e-14)


def test_log_softmax_with_nll_is_softmax_with_ce(z, y):
    for strategy in (loop, jacobian, vjp):
        assert_allclose(strategy(LogSoftmax(), NLL, z, y).dl_dz, fused(Softmax(), CE, z, y).dl_dz, atol=1e-14)


def test_sigmoid_with_bce_and_identity_with_squares_are_canonical(z):
    y = targets("multi-hot", 7, 4)
    assert_allclose(fused(Sigmoid(), BCE, z, y).dl_dz, Sigmoid()(z) - y, rtol=1e-12)
    assert_allclose(fused(Identity(), SQUARES, z, y).dl_dz, z - y, rtol=1e-15)


def test_a_temperature_divides_the_scores_and_the_derivative(z, y):
    warm, plain = fused(Softmax(4.0), CE, z, y), fused(Softmax(), CE, z / 4, y)
    assert_allclose(warm.loss, plain.loss, rtol=1e-15)
    assert_allclose(warm.dl_dz, plain.dl_dz / 4, rtol=1e-14)


@dataclass(frozen=True)
class Exponential:
    """a = exp z, from outside the package: its logarithm is known, and its rows sum to anything."""

    name = "exponential"
    range = "real"

    def __call__(self, z):
        return np.exp(z)

    def jacobian(self, z, a):
        return a[:, :, None] * np.eye(a.shape[1])

    def vjp(self, z, a, dl_da):
        return a * dl_da

    def log(self, z):
        return z

    def log_vjp(self, z, h):
        return h


@pytest.mark.parametrize("loss", [MeanAbsoluteError(), SQUARES], ids=repr)
def test_where_rows_do_not_sum_to_one_there_is_no_log_and_auto_agrees_with_central_differences(loss, z):
    pair, y = (Exponential(), loss), targets("one-hot", 7, 4)
    assert not has_strategy("log", *pair)
    assert_allclose(auto(*pair, z, y).dl_dz, numeric(*pair, z, y).dl_dz, rtol=1e-6, atol=2e-9)
    with pytest.raises(ConfigError, match=r"gradient=log has no formula for activation=exponential.*Use gradient=vjp"):
        check_pair(*pair, "log")


def test_auto_takes_the_first_of_fused_log_and_vjp_that_the_pair_has(pair, z):
    y = targets("one-hot", 7, 4)
    name = fastest(*pair)
    assert name == (
        "fused" if (type(pair[0]), type(pair[1])) in FUSED else "log" if has_strategy("log", *pair) else "vjp"
    )
    assert_allclose(auto(*pair, z, y).dl_dz, GRADIENTS[name](*pair, z, y).dl_dz, rtol=0)


@pytest.mark.parametrize("strategy", [fused, log], ids=["fused", "log"])
@pytest.mark.parametrize("scale", [1e4, 1e8])
def test_softmax_with_ce_stays_exact_at_huge_scores(strategy, scale):
    z = scale * np.array([[1.0, 0, -1], [-1, -1, -1], [0, 1, 0.5]])
    y = np.array([[0.0, 0, 1], [0, 1, 0], [1, 0, 0]])
    result = strategy(Softmax(), CE, z, y)
    assert_allclose(result.loss, [2 * scale, np.log(3), scale], rtol=1e-15)
    assert_allclose(result.dl_dz, [[1, 0, -1], [1 / 3, -2 / 3, 1 / 3], [-1, 1, 0]], rtol=1e-15)


ONE_THIRD = 1 / 3
# (scores, target row, loss, dl_dz), computed with 60 to 80 digits and rounded to double
SOFTMAX_CE = [
    ([0, 1, 2], [1, 0, 0], 2.40760596444438, [-0.9099694268296196, 0.24472847105479764, 0.6652409557748219]),
    ([1000, 1001, 1002], [1, 0, 0], 2.40760596444438, [-0.9099694268296196, 0.24472847105479764, 0.6652409557748219]),
    ([1000, 0, -1000], [1, 0, 0], 0, [0, 0, 0]),
    ([1000, 0, -1000], [0, 0, 1], 2000, [1, 0, -1]),
    ([1e4, 0, 7e-7], [0, 0, 1], 9999.9999993, [1, 0, -1]),
    ([-1e4, -1e4, -1e4], [0, 1, 0], 1.0986122886681098, [ONE_THIRD, -2 * ONE_THIRD, ONE_THIRD]),
    ([37, 0, 0], [1, 0, 0], 1.706609525148813e-16, [-1.706609525148813e-16, *2 * [8.533047625744065e-17]]),
    ([36.7368, 0], [1, 0], 1.1102236570939687e-16, [-1.1102236570939685e-16, 1.1102236570939685e-16]),
    ([710, 0], [1, 0], 4.47628622567513e-309, [-4.47628622567513e-309, 4.47628622567513e-309]),
    ([710, 0], [0, 1], 710, [1, -1]),
    ([745, 0], [0, 1], 745, [1, -1]),
    ([1e308, -1e308], [1, 0], 0, [0, 0]),
    ([1e308, -1e308], [0, 1], np.inf, [1, -1]),
    (
        [1e4, 0, -1e4],
        [0.9 + 0.1 / 3, 0.1 / 3, 0.1 / 3],
        1000,
        [0.06666666666666667, -0.03333333333333333, -0.03333333333333333],
    ),
    ([0, 1, 2], [2, 0, 0], 4.81521192888876, [-1.8199388536592391, 0.4894569421095953, 1.3304819115496438]),
]


@pytest.mark.parametrize("strategy", [fused, log], ids=["fused", "log"])
@pytest.mark.parametrize(("z", "y", "loss", "dl_dz"), SOFTMAX_CE, ids=[str(case[:2]) for case in SOFTMAX_CE])
@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")
def test_softmax_with_ce_on_hard_scores(strategy, z, y, loss, dl_dz):
    result = strategy(Softmax(), CE, np.array([z], dtype=float), np.array([y], dtype=float))
    assert_allclose(result.loss, [loss], rtol=1e-15)
    assert_allclose(result.dl_dz, [dl_dz], rtol=1e-14 if 0 < y[0] < 1 else 1e-15)


@pytest.mark.parametrize("strategy", [fused, log], ids=["fused", "log"])
def test_the_logsumexp_of_a_million_equal_scores(strategy):
    z, y = np.full((1, 10**6), 1e4), np.eye(1, 10**6)
    assert_allclose(1e4 + strategy(Softmax(), CE, z, y).loss, 10013.815510557964, rtol=1e-15)


SIGMOID_BCE = [
    (40, 1, 4.248354255291589e-18, -4.248354255291589e-18),
    (-40, 1, 40, -1),
    (37, 0, 37, 0.9999999999999999),
    (1e20, 0, 1e20, 1),
    (-745, 0, 5e-324, 5e-324),
    (800, 0, 800, 1),
    (0, 0, 0.6931471805599453, 0.5),
    (0, 0.3, 0.6931471805599453, 0.2),
]


@pytest.mark.parametrize(("z", "y", "loss", "dl_dz"), SIGMOID_BCE)
def test_sigmoid_with_bce_on_hard_scores(z, y, loss, dl_dz):
    result = fused(Sigmoid(), BCE, np.array([[z]], dtype=float), np.array([[y]], dtype=float))
    assert_allclose(result.loss, [loss], rtol=1e-15)
    assert_allclose(result.dl_dz, [[dl_dz]], rtol=1e-15)


@pytest.mark.parametrize("strategy", [fused, log], ids=["fused", "log"])
def test_softmax_with_squares_keeps_both_halves_of_its_derivative(strategy):
    right = strategy(Softmax(), SQUARES, np.array([[40.0, 0]]), np.array([[1.0, 0]]))
    assert_allclose(right.loss, [1.804851387845415e-35], rtol=1e-15)
    assert_allclose(right.dl_dz, [[-3.60970277569083e-35, 3.60970277569083e-35]], rtol=1e-15)
    wrong = strategy(Softmax(), SQUARES, np.array([[40.0, 0]]), np.array([[0.0, 1]]))
    assert_allclose(wrong.loss, [1], rtol=1e-15)
    assert_allclose(wrong.dl_dz, [[8.496708510583178e-18, -8.496708510583178e-18]], rtol=1e-15)


@pytest.mark.parametrize("pair", [(Softmax(), CE), (Softmax(0.5), CE), (LogSoftmax(), NLL)], ids=str)
@pytest.mark.parametrize("order", "CF")
@pytest.mark.parametrize("scale", [1.0, 100.0, 1e4])
def test_labels_say_the_same_as_their_one_hot_rows(pair, order, scale):
    rng = np.random.default_rng(0)
    z = np.asarray(rng.normal(scale=scale, size=(500, 7)), order=order)
    labels = rng.integers(7, size=500).astype(np.uint8)  # in which a place in the array has no room
    assert takes_labels(fused, *pair)
    short, rows = fused(*pair, z, labels), fused(*pair, z, one_hot(labels, 7, float))
    assert_allclose(short.loss, rows.loss, rtol=4e-16, atol=1e-300)
    assert_allclose(short.dl_dz, rows.dl_dz, rtol=4e-16, atol=0)


def test_a_loss_that_is_stated_on_target_rows_takes_no_labels():
    assert not takes_labels(fused, Softmax(), SQUARES)
    assert not takes_labels(jacobian, Softmax(), CE)


def stack(order):
    """Scores (3,7,4) of three models over the same rows, each as a block has them."""
    models = np.random.default_rng(5).normal(scale=3, size=(3, 7, 4))
    models[1, 2] += [1000.0, 0.0, -1000.0, 40.0]
    return models if order == "C" else np.ascontiguousarray(models.mT).mT


def every_kind(loss, rows):
    """Target rows (N,4) of all kinds on which the loss is stated, these rows of each."""
    return np.concatenate([targets(kind, 7, 4)[rows] for kind in KINDS[loss.targets]])


@pytest.mark.parametrize("order", "CF")
@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value", "ignore:overflow")
def test_a_stack_of_models_gives_the_numbers_of_each_alone(pair, order):
    some = slice(1, 4)  # rows, one of them with scores far apart
    y = every_kind(pair[1], some)
    z = np.tile(stack(order)[:2, some], (1, len(y) // 3, 1))
    z = z if order == "C" else np.ascontiguousarray(z.mT).mT
    own = np.stack([y, y[::-1]])  # targets of each model, too
    for name, strategy in strategies(pair):
        first = strategy(*pair, z[0], y)
        for rows in (y, own):
            whole = strategy(*pair, z, rows)
            assert whole.loss.shape == (2, len(y)), name
            for m, alone in enumerate((first, strategy(*pair, z[1], rows if rows is y else rows[1]))):
                for one, other in zip((whole.loss[m], whole.dl_dz[m]), alone, strict=True):
                    if name == "loop":  # whose product of a matrix with a vector depends on where they lie
                        assert_allclose(one, other, rtol=1e-13, atol=1e-15, err_msg=name)
                    else:
                        assert_array_equal(one, other, err_msg=name)


@pytest.mark.parametrize("order", "CF")
def test_a_stack_of_models_takes_labels(order):
    z, labels = stack(order), np.array([0, 3, 1, 2, 2, 0, 1], dtype=np.uint8)
    deep = np.stack([z, z[::-1]])  # (2,3,7,4)
    whole = fused(Softmax(0.5), CE, deep, labels)
    for place in np.ndindex(2, 3):
        alone = fused(Softmax(0.5), CE, deep[place], labels)
        assert_array_equal(whole.loss[place], alone.loss)
        assert_array_equal(whole.dl_dz[place], alone.dl_dz)


@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value", "ignore:overflow")
def test_every_strategy_needs_nothing_beyond_the_standard_of_arrays(pair):
    some = slice(2, 3)  # a row, whose scores are far apart in the second model
    y = every_kind(pair[1], some)
    models = np.tile(stack("C")[:2, some], (1, len(y), 1))
    for z in (models[1], models):
        z_strict, y_strict = elsewhere(z), elsewhere(y)
        for name, strategy in strategies(pair):
            strict, plain = strategy(*pair, z_strict, y_strict), strategy(*pair, z, y)
            for one, other in zip(strict, plain, strict=True):
                assert_allclose(back(one), other, rtol=1e-13, atol=1e-15, err_msg=name)


def test_labels_need_nothing_beyond_the_standard_of_arrays(z):
    labels = np.array([0, 3, 1, 2, 2, 0, 1])
    strict = fused(Softmax(), CE, elsewhere(z), elsewhere(labels))
    plain = fused(Softmax(), CE, z, labels)
    assert_allclose(back(strict.loss), plain.loss, rtol=4e-16, atol=1e-300)
    assert_allclose(back(strict.dl_dz), plain.dl_dz, rtol=4e-16)
