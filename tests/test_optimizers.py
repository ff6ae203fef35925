import math

import numpy as np
import pytest
from numpy.testing import assert_allclose

from trainer.errors import ConfigError
from trainer.optimizers.first_order import Adam, AdamW, Sgd
from trainer.optimizers.schedules import Constant, Cosine, StepDecay


class Bowl:
    """E = 1/2 sum c w^2, whose gradient is c w."""

    def __init__(self, curvature):
        self.curvature = curvature

    def value_and_grad(self, w):
        return float(np.sum(self.curvature * w * w)) / 2, self.curvature * w


W = np.array([[1.0, -2.0], [3.0, 0.5], [-1.0, 2.0]])  # (D+1,K), the last row the bias
BOWL = Bowl(np.array([[1.0, 2.0], [0.5, 1.0], [1.0, 3.0]]))


def run(optimizer, steps, problem=BOWL, w=W):
    state = optimizer.init(w)
    for _ in range(steps):
        w, state, *_ = optimizer.step(problem, w, state)
    return w


def test_plain_sgd_contracts_a_bowl_by_one_minus_lr_times_curvature():
    assert_allclose(run(Sgd(lr=0.1, momentum=0.0), 5), W * (1 - 0.1 * BOWL.curvature) ** 5)


def test_momentum_follows_its_two_term_recurrence():
    w = [W, W - 0.1 * BOWL.curvature * W]
    for _ in range(4):  # w_{t+1} = w_t - lr g_t + momentum (w_t - w_{t-1})
        w.append(w[-1] - 0.1 * BOWL.curvature * w[-1] + 0.9 * (w[-1] - w[-2]))
    assert_allclose(run(Sgd(lr=0.1, momentum=0.9), 5), w[-1], rtol=1e-12)


def test_nesterov_is_momentum_with_the_gradient_at_the_point_ahead():
    lr, mu = 0.1, 0.9
    w, v = W, np.zeros_like(W)  # Sutskever's form at the shifted point w + mu v, which is the w of ours
    for _ in range(5):
        v = mu * v - lr * BOWL.curvature * (w + mu * v)
        w = w + v
    assert_allclose(run(Sgd(lr=lr, momentum=mu, nesterov=True), 5), w + mu * v, rtol=1e-12)


def test_the_first_step_of_adam_is_lr_in_the_direction_of_the_sign():
    assert_allclose(run(Adam(lr=0.01), 1), W - 0.01 * np.sign(W), rtol=1e-7)


def test_adam_follows_algorithm_1_of_kingma_and_ba():
    lr, beta1, beta2, eps = 0.01, 0.9, 0.999, 1e-8
    w, m, v = W, 0, 0
    for t in range(1, 8):
        g = BOWL.curvature * w
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
        w = w - lr * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps)
    assert_allclose(run(Adam(lr, beta1, beta2, eps), 7), w, rtol=1e-12)


def test_adamw_without_decay_is_adam_and_decays_without_a_gradient():
    assert_allclose(run(AdamW(lr=0.01, weight_decay=0.0), 7), run(Adam(lr=0.01), 7), rtol=1e-15)
    decayed = run(AdamW(lr=0.01, weight_decay=0.5), 3, Bowl(np.zeros_like(W)))
    assert_allclose(decayed[:-1], W[:-1] * (1 - 0.005) ** 3)


def test_weight_decay_never_touches_the_bias():
    assert_allclose(run(AdamW(lr=0.01, weight_decay=0.5), 7)[-1], run(Adam(lr=0.01), 7)[-1], rtol=1e-15)


@pytest.mark.parametrize("optimizer", [Sgd(), Sgd(nesterov=True), Adam(), AdamW()], ids=repr)
def test_a_step_reports_the_value_before_it_and_leaves_its_arguments_alone(optimizer):
    w, state = W.copy(), optimizer.init(W)
    step = optimizer.step(BOWL, w, state)
    assert step.value == BOWL.value_and_grad(W)[0]
    assert_allclose(w, W, rtol=0)
    assert_allclose(optimizer.step(BOWL, w, state).w, step.w, rtol=0)


@pytest.mark.parametrize("optimizer", [Sgd, Adam, AdamW])
@pytest.mark.parametrize("lr", [0.0, -1.0, math.nan, math.inf])
def test_a_learning_rate_must_be_finite_and_positive(optimizer, lr):
    with pytest.raises(ConfigError, match=r"optimizer\.lr must be finite and greater than 0, got"):
        optimizer(lr=lr)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Sgd(momentum=1.0), "optimizer.momentum must be at least 0 and less than 1"),
        (lambda: Sgd(momentum=0.0, nesterov=True), "nesterov=true needs optimizer.momentum"),
        (lambda: Adam(beta2=1.0), "optimizer.beta2"),
        (lambda: Adam(eps=0.0), "optimizer.eps"),
        (lambda: AdamW(weight_decay=-1.0), "optimizer.weight_decay"),
        (lambda: StepDecay(every=0), "schedule.every"),
        (lambda: StepDecay(factor=0.0), "schedule.factor"),
        (lambda: Cosine(warmup=-1.0), "schedule.warmup"),
    ],
)
def test_ranges_are_checked(make, words):
    with pytest.raises(ConfigError, match=words):
        make()


def test_constant_is_one_and_step_drops_every_so_many_epochs():
    assert Constant()(3.5, 10) == 1
    assert [StepDecay(every=2, factor=0.5)(t, 6) for t in (0.5, 1.9, 2.0, 3.5, 4.1)] == [1, 1, 0.5, 0.5, 0.25]


def test_cosine_rises_linearly_then_falls_from_one_to_zero():
    schedule = Cosine(warmup=2.0)
    assert_allclose([schedule(t, 10) for t in (0.5, 1.0, 2.0, 6.0, 10.0)], [0.25, 0.5, 1, 0.5, 0], atol=1e-15)
    falling = [schedule(t, 10) for t in np.linspace(2, 10, 50)]
    assert all(np.diff(falling) < 0)
