"""Measures, by sampling, of what pairs.py claims of a pair; the claims themselves are not read here."""

import numpy as np

from trainer.chain.strategies import auto, value

K = 3


def inverse(activation, p):
    """Scores z with activation(z) = p for rows p inside the simplex, by damped Gauss-Newton steps for each row."""
    logarithms = activation.range == "log_simplex"

    def missing(z):
        a = activation(z)
        return np.exp(a) - p if logarithms else a - p

    z, damping = p + 0.5, np.full((len(p), 1, 1), 1e-3)
    for _ in range(100):
        a, r = activation(z), missing(z)
        da_dz = activation.jacobian(z, a) * (np.exp(a)[:, :, None] if logarithms else 1)
        transposed = da_dz.transpose(0, 2, 1)
        step = np.linalg.solve(transposed @ da_dz + damping * np.eye(K), transposed @ r[:, :, None])[:, :, 0]
        better = (missing(z - step) ** 2).sum(axis=1) < (r**2).sum(axis=1)
        z = np.where(better[:, None], z - step, z)
        damping = np.clip(damping * np.where(better, 0.1, 10)[:, None, None], 1e-15, 1e3)
    assert np.abs(missing(z)).max() < 1e-12
    if hasattr(activation, "log_normalizer"):  # of all scores with this prediction, those that z_loss asks for
        z = z - activation.temperature * activation.log_normalizer(z)[:, None]
    return z


def rng():
    return np.random.default_rng(0)


def one_hot(n):
    return np.eye(K)[rng().integers(K, size=n)]


def is_proper(activation, loss):
    """Whether a = p makes the expected loss smallest when labels are drawn from p."""
    p = 0.9 * rng().dirichlet(np.ones(K), size=200) + 0.1 / K
    z = inverse(activation, p)

    def expected(z):
        return sum(p[:, k] * value(activation, loss, z, np.tile(np.eye(K)[k], (200, 1))) for k in range(K))

    slope = sum(p[:, k, None] * auto(activation, loss, z, np.tile(np.eye(K)[k], (200, 1))).dl_dz for k in range(K))
    around = [expected(z + 1e-2 * step) for step in rng().normal(size=(10, 200, K))]
    return np.abs(slope).max() < 1e-8 and (np.min(around, axis=0) >= expected(z) - 1e-12).all()


def is_convex(activation, loss):
    """Whether no chord of the loss in z, of 100,000 random ones, lies below it; the first 1,000 tell most that do."""
    n = 100_000
    one, other = rng().normal(scale=6, size=(2, n, K))
    y = one_hot(n)

    def holds(some):
        low, high, target = one[some], other[some], y[some]
        middle = value(activation, loss, (low + high) / 2, target)
        chord = (value(activation, loss, low, target) + value(activation, loss, high, target)) / 2
        return (middle <= chord + 1e-9 * (1 + np.abs(chord))).all()

    return holds(slice(1000)) and holds(slice(1000, n))


def is_shift_invariant(activation, loss):
    """Whether adding a number to every score of a row changes nothing."""
    z, y = rng().normal(scale=3, size=(200, K)), one_hot(200)
    moved = value(activation, loss, z + rng().normal(scale=2, size=(200, 1)), y)
    return np.allclose(moved, value(activation, loss, z, y), rtol=1e-9, atol=1e-9)


def is_canonical(activation, loss):
    """Whether dl_dz is a - y, up to one factor."""
    z, y = rng().normal(scale=2, size=(200, K)), one_hot(200)
    a = activation(z)
    a = np.exp(a) if activation.range == "log_simplex" else a
    slope = auto(activation, loss, z, y).dl_dz
    r = a - y
    factor = (slope * r).sum() / (r * r).sum()
    return factor > 0 and np.allclose(slope, factor * r, atol=1e-10)


def dies(activation, loss):
    """Whether the derivative all but vanishes where another class leads by 20."""
    z, y = np.array([[20.0, 0.0, 0.0]]), np.array([[0.0, 0.0, 1.0]])
    return np.linalg.norm(auto(activation, loss, z, y).dl_dz) < 1e-3


def jumps(activation, loss, soft=False):
    """Whether, on any of 1,000 random lines, halving the part with the largest change 30 times leaves a change."""
    n = 1000
    low, high = rng().normal(scale=2, size=(2, n, K))
    y = rng().dirichlet(np.ones(K), size=n) if soft else one_hot(n)

    def slope(z):
        return auto(activation, loss, z, y).dl_dz

    at_low, at_high = slope(low), slope(high)
    for _ in range(30):
        middle = (low + high) / 2
        here = slope(middle)
        left, right = (np.abs(here - end).max(axis=1, keepdims=True) for end in (at_low, at_high))
        first = left > right
        low, at_low = np.where(first, low, middle), np.where(first, at_low, here)
        high, at_high = np.where(first, middle, high), np.where(first, here, at_high)
    return np.abs(at_high - at_low).max() > 1e-3


MEASURES = {
    "proper": is_proper,
    "convex": is_convex,
    "shift_invariant": is_shift_invariant,
    "canonical": is_canonical,
    "dead": dies,
    "kinked": jumps,
}
