"""The minimum of E by another road: nothing here knows the project's objective, strategies, curvature or solvers.

    E(W, b) = sum_n omega_n loss(z_n, y_n) / sum_n omega_n + ridge/2 |W|^2 + lasso |W|_1,    z = x W + b

The features are written as x = m + s * a, with m and s (D,) the weighted means and standard deviations, so that the
columns of a are alike whatever those of x are. With v = s W and beta = b + m W

    z = a v + beta,    penalty = sum_d ridge/(2 s_d^2) |v_d|^2 + lasso/s_d |v_d|_1,

which Newton's method with the whole Hessian minimises in float64: damped as Levenberg and Marquardt do, within an
orthant where there is a lasso. E of a model is computed in the same coordinates, where beta is summed in long double
because b and m W may cancel. m is any number near the mean, so x - m is exact where the mean is large.

How far the minimum that is found lies above the true one is known in three ways, and the least of them counts: the
Newton decrement <r, H^-1 r>/2, taken twice for safety; a proof by the gradient, where there is a penalty; and E itself,
as no loss is negative.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import scipy.linalg
import scipy.sparse

ROUNDING = np.finfo(np.float64).eps / 2
STEPS = 300
DECREMENT = 1e-19  # of E: where Newton's method ends
UNDAMPED = 1e-14  # of the curvature: damping that leaves the decrement what it is


class Rows(NamedTuple):
    """loss (N,), dl_dz (N,K) and d2l_dz2 (N,K,K)."""

    value: np.ndarray
    slope: np.ndarray
    bend: np.ndarray


def _outer(a, b):
    return a[:, :, None] * b[:, None, :]


def _diag(a):
    return a[:, :, None] * np.eye(a.shape[1])


def _xlogx(a):
    return np.where(a > 0, a * np.log(np.where(a > 0, a, 1.0)), 0.0)


def _log_sum_exp(u):
    """log sum exp u - max u (N,1), u - max u and softmax (N,K); what stands beside the maximum is summed alone."""
    d = u - u.max(axis=1, keepdims=True)
    e = np.exp(d)
    first = np.arange(u.shape[1]) == u.argmax(axis=1)[:, None]
    rest = np.where(first, 0.0, e).sum(axis=1, keepdims=True)
    return np.log1p(rest), d, e / (1 + rest)


def cross_entropy(z, y, temperature=1.0):
    """-sum y log softmax(z/T), for y that sum to one."""
    log_sum, d, p = _log_sum_exp(z / temperature)
    bend = (_diag(p) - _outer(p, p)) / temperature**2
    return Rows((y * (log_sum - d)).sum(axis=1), (p - y) / temperature, bend)


def kullback_leibler(z, y, temperature=1.0):
    rows = cross_entropy(z, y, temperature)
    return rows._replace(value=rows.value + _xlogx(y).sum(axis=1))


def softmax_fenchel_young(z, y, temperature=1.0):
    """T log sum exp(z/T) + T sum y log y - <z, y>: T times kl."""
    value, slope, bend = kullback_leibler(z, y, temperature)
    return Rows(temperature * value, temperature * slope, temperature * bend)


def poly1(z, y, temperature=1.0):
    """cross-entropy + sum y (1 - softmax(z/T))."""
    ce = cross_entropy(z, y, temperature)
    log_sum, d, p = _log_sum_exp(z / temperature)
    one_minus = -np.expm1(d - log_sum)
    hit = (y * p).sum(axis=1)[:, None]
    slope = p * (hit - y)
    # the Hessian of -a_k is a_k ((diag a - a a^T) - (e_k - a)(e_k - a)^T)
    yp = y * p
    cross = _diag(yp) - _outer(yp, p) - _outer(p, yp) + hit[:, :, None] * _outer(p, p)
    bend = hit[:, :, None] * (_diag(p) - _outer(p, p)) - cross
    return Rows(ce.value + (y * one_minus).sum(axis=1), ce.slope + slope / temperature, ce.bend + bend / temperature**2)


def z_loss(z, y, temperature=1.0, weight=1e-4):
    """cross-entropy + weight (log sum exp(z/T))^2."""
    ce = cross_entropy(z, y, temperature)
    log_sum, _, p = _log_sum_exp(z / temperature)
    lse = log_sum + z.max(axis=1, keepdims=True) / temperature
    slope = 2 * weight * lse * p / temperature
    bend = 2 * weight * (_outer(p, p) + lse[:, :, None] * (_diag(p) - _outer(p, p))) / temperature**2
    return Rows(ce.value + weight * lse[:, 0] ** 2, ce.slope + slope, ce.bend + bend)


def binary_cross_entropy(z, y):
    """sum log(1 + exp z) - y z, without cancellation."""
    e = np.exp(-np.abs(z))
    plus, minus = np.log1p(e) + np.maximum(z, 0), np.log1p(e) + np.maximum(-z, 0)
    p, q = np.where(z >= 0, 1, e) / (1 + e), np.where(z >= 0, e, 1) / (1 + e)
    return Rows((y * minus + (1 - y) * plus).sum(axis=1), (1 - y) * p - y * q, _diag(p * q))


def sigmoid_fenchel_young(z, y):
    rows = binary_cross_entropy(z, y)
    return rows._replace(value=rows.value + (_xlogx(y) + _xlogx(1 - y)).sum(axis=1))


def squared_error(z, y):
    return Rows(((z - y) ** 2).sum(axis=1) / 2, z - y, _diag(np.ones_like(z)))


def entmax_fenchel_young(z, y, alpha=1.5):
    """<z, p - y> - Omega(p) + Omega(y) with p = [(alpha-1) z - tau]_+ ^ (1/(alpha-1)), sum p = 1."""
    if alpha == 1:
        return softmax_fenchel_young(z, y)
    z = z - z.max(axis=1, keepdims=True)
    u, power = (alpha - 1) * z, 1 / (alpha - 1)
    low, high = -np.ones((len(z), 1)), np.zeros((len(z), 1))
    for _ in range(70):
        middle = (low + high) / 2
        over = (np.maximum(u - middle, 0) ** power).sum(axis=1, keepdims=True) >= 1
        low, high = np.where(over, middle, low), np.where(over, high, middle)
    p = np.maximum(u - low, 0) ** power
    p = p / p.sum(axis=1, keepdims=True)
    q = np.where(p > 0, np.where(p > 0, p, 1.0) ** (2 - alpha), 0.0)
    bend = _diag(q) - _outer(q, q) / q.sum(axis=1)[:, None, None]

    def omega(a):
        return ((a**alpha).sum(axis=1) - 1) / (alpha * (alpha - 1))

    return Rows((z * (p - y)).sum(axis=1) - omega(p) + omega(y), p - y, bend)


def squared_hinge(z, y):
    t = 2 * y - 1
    missing = np.maximum(1 - t * z, 0)
    return Rows((missing**2).sum(axis=1), -2 * t * missing, _diag(2 * t * t * (missing > 0)))


def modified_huber(z, y):
    t = 2 * y - 1
    m = t * z
    missing, far = np.maximum(1 - m, 0), m < -1
    value = np.where(far, -4 * m, missing**2)
    slope = np.where(far, -4 * t, -2 * t * missing)
    return Rows(value.sum(axis=1), slope, _diag(2 * t * t * ((missing > 0) & ~far)))


LOSSES: dict[tuple[str, str], Callable[..., Rows]] = {
    ("softmax", "ce"): cross_entropy,
    ("softmax", "kl"): kullback_leibler,
    ("log_softmax", "nll"): cross_entropy,
    ("sigmoid", "bce"): binary_cross_entropy,
    ("identity", "squared_error"): squared_error,
    ("softmax", "fenchel_young"): softmax_fenchel_young,
    ("sigmoid", "fenchel_young"): sigmoid_fenchel_young,
    ("identity", "fenchel_young"): squared_error,
    ("sparsemax", "fenchel_young"): lambda z, y: entmax_fenchel_young(z, y, 2.0),
    ("entmax", "fenchel_young"): entmax_fenchel_young,
    ("softmax", "poly1"): poly1,
    ("softmax", "z_loss"): z_loss,
    ("identity", "squared_hinge"): squared_hinge,
    ("identity", "modified_huber"): modified_huber,
}
SHIFTS = {"softmax", "log_softmax", "sparsemax", "entmax"}  # all scores of a row may move together, but for z_loss


class Minimum(NamedTuple):
    """lower <= min E <= upper, and v (D,K) and beta (K,) where upper is."""

    lower: float
    upper: float
    v: np.ndarray
    beta: np.ndarray
    proved: float  # min E is no less than upper - proved, without any trust in the Hessian of the weights

    def model(self, truth: "Truth", dtype) -> tuple[np.ndarray, np.ndarray]:
        """Weights (D,K) and bias (K,) of the features as they are, rounded to the precision."""
        weights = self.v / np.where(truth.scale > 0, truth.scale, 1.0)[:, None]
        bias = self.beta - truth.mean.astype(np.longdouble) @ weights.astype(np.longdouble)
        return weights.astype(dtype), bias.astype(dtype)


class Value(NamedTuple):
    """E at a model, and how much of it may be rounding where it is computed in float64 from the features as they are.

    A score is a sum of D+1 terms, so its rounding is at most D+1 units (2^-53) of the sum of their sizes, which dl_dz
    carries into the loss; and a loss is made of a few terms of the size of one. D is at most 31 here, hence 32 units of
    both and of E. Nothing is granted for float32: E of a model in single precision is known in double precision.
    """

    value: float
    rounding: float


@dataclass(frozen=True)
class Truth:
    """E on data: x (N,D), target rows y (N,K) that sum to one, omega (N,) >= 0, and the loss of a row."""

    x: np.ndarray
    y: np.ndarray
    omega: np.ndarray
    loss: Callable[[np.ndarray, np.ndarray], Rows]
    ridge: float
    lasso: float
    shifts: bool  # whether adding a number to all scores of a row changes nothing

    @cached_property
    def share(self):
        return self.omega / self.omega.sum()

    @cached_property
    def mean(self):
        counts = self.share > 0
        near = self.x[counts][0]  # a mean of differences, so that it is near the data however far off these are
        return near + self.share @ (self.x - near)

    @cached_property
    def centred(self):
        return self.x - self.mean

    @cached_property
    def scale(self):
        largest = np.abs(self.centred * (self.share > 0)[:, None]).max(axis=0)
        unit = np.where(largest > 0, largest, 1.0)
        return unit * np.sqrt(self.share @ (self.centred / unit) ** 2)  # zero for a constant column

    def at(self, weights, bias) -> Value:
        """E of the model with weights (D,K) and bias (K,) of the features as they are."""
        weights, bias = np.asarray(weights, dtype=np.float64), np.asarray(bias, dtype=np.float64)
        beta = bias.astype(np.longdouble) + self.mean.astype(np.longdouble) @ weights.astype(np.longdouble)
        rows = self.loss(self.centred @ weights + beta.astype(np.float64), self.y)
        value = self.share @ rows.value + self.ridge / 2 * (weights**2).sum() + self.lasso * np.abs(weights).sum()
        terms = np.abs(self.x) @ np.abs(weights) + np.abs(bias)  # that are added up to a score
        moved = self.share @ (1 + (np.abs(rows.slope) * terms).sum(axis=1))
        return Value(float(value), float(32 * ROUNDING * (moved + value)))

    def minimum(self) -> Minimum:
        kept = np.flatnonzero(self.scale > 0)
        counts = self.share > 0
        share, y = self.share[counts], self.y[counts]
        a = np.column_stack([self.centred[counts][:, kept] / self.scale[kept], np.ones(counts.sum())])  # (N,D+1)
        ridge = np.append(self.ridge / self.scale[kept] ** 2, 0.0)[:, None]
        lasso = np.append(self.lasso / self.scale[kept], 0.0)[:, None]
        shape = (a.shape[1], y.shape[1])
        smooth = not lasso.any()
        free_sum = self.shifts and smooth  # then a minimum with sum_k x = 0 is a minimum

        def evaluate(x):
            rows = self.loss(a @ x, y)
            value = share @ rows.value + (ridge * x * x).sum() / 2 + (lasso * np.abs(x)).sum()
            return float(value), a.T @ (share[:, None] * rows.slope) + ridge * x, rows.bend

        def hessian(bend):
            whole = np.empty((*shape, *shape))
            for k in range(shape[1]):
                for other in range(k + 1):
                    block = a.T @ (a * (share * bend[:, k, other])[:, None])
                    whole[:, k, :, other] = whole[:, other, :, k] = block
            flat = whole.reshape(a.shape[1] * shape[1], -1)
            flat[np.diag_indices_from(flat)] += np.broadcast_to(ridge, shape).ravel()
            if self.shifts:
                size = np.maximum(np.einsum("dkdk->d", whole), 1e-300) / shape[1]
                for d in range(0 if smooth else shape[0] - 1, shape[0]):
                    whole[d, :, d, :] += size[d]
            return flat

        x = np.zeros(shape)
        value, g, bend = evaluate(x)
        tau, gap, still = 1e-3, math.inf, 0
        for _ in range(STEPS):
            sign = np.where(x != 0, np.sign(x), np.where(np.abs(g) > lasso, -np.sign(g), 0.0))
            free = ((lasso == 0) | (sign != 0)) & np.ones(shape, dtype=bool)
            r = np.where(free, g + lasso * sign, 0.0)
            whole = hessian(bend)
            for _ in range(60):
                d = _solve(whole, r, free, tau)
                if d is None:
                    tau = max(10 * tau, 1e-16)
                    continue
                wrong = (x == 0) & free & (lasso > 0) & (d * sign > 0)  # would leave the orthant at once
                if wrong.any():
                    free, r = free & ~wrong, np.where(wrong, 0.0, r)
                    continue
                decrement = float((d * r).sum())
                full = np.where((lasso > 0) & ((x - d) * sign < 0), 0.0, x - d)
                crossed = np.where((lasso > 0) & (x != 0) & ((x - d) * x < 0), x / np.where(d != 0, d, 1.0), 1.0)
                way = crossed.min()  # the way to the first weight that becomes zero
                short = np.where((crossed == way) & (way < 1), 0.0, x - way * d)
                slack = 4e-15 * abs(value) if decrement < 1e-12 * abs(value) else 0.0
                for trial, part in ((full, 1.0), (short, way)) if way < 1 else ((full, 1.0),):
                    if free_sum:
                        trial = trial - trial.mean(axis=1, keepdims=True)
                    new = evaluate(trial)
                    accepted = new[0] <= value - 1e-4 * part * decrement + slack
                    if accepted:
                        break
                if accepted:
                    break
                tau = max(8 * tau, 1e-12)
            if tau <= UNDAMPED:
                gap = decrement / 2
            if not accepted:
                break
            still = still + 1 if new[0] >= value * (1 - 1e-15) else 0
            x, (value, g, bend) = trial, new
            if (tau <= UNDAMPED and (gap <= DECREMENT * value or still >= 8)) or still >= 30:
                break
            tau = tau / (10 if decrement > 1e-6 * value else 1000) if tau > 1e-16 else 0.0
        proved = min(value, self._proof(x, value, g, ridge, lasso) + self._of_the_bias(g[-1], bend, share))
        gap = min(gap, proved)
        v = np.zeros((self.x.shape[1], shape[1]))
        v[kept] = x[:-1]
        return Minimum(value - 2 * gap - 16 * ROUNDING * value, value, v, x[-1], proved)

    @staticmethod
    def _proof(x, value, g, ridge, lasso):
        """A bound of E - min E by the gradient g of the smooth part, where the bias is at its own minimum.

        With r the smallest subgradient E(u) >= E(x) + <r, u - x> + ridge/2 |u - x|^2. The least of that over u is
        -r^2 / (2 ridge); and |u_d| <= E(x) / lasso_d wherever E(u) <= E(x), as no loss is negative.
        """
        r = np.where(x != 0, g + lasso * np.sign(x), np.maximum(np.abs(g) - lasso, 0.0))[:-1]
        ridge, lasso = ridge[:-1], lasso[:-1]
        by_ridge = (r**2 / (2 * ridge)).sum() if ridge.all() else math.inf
        by_lasso = (np.abs(r) * (np.abs(x[:-1]) + value / lasso)).sum() if lasso.all() else math.inf
        return float(min(by_ridge, by_lasso))

    @staticmethod
    def _of_the_bias(g, bend, share):
        """Half of <g, H^-1 g> for the bias alone."""
        block = np.einsum("n,nkl->kl", share, bend)
        return float(g @ np.linalg.lstsq(block, g, rcond=1e-12)[0]) / 2


def _solve(whole, r, free, tau):
    """d (D+1,K) with (H + tau diag H) d = r where it is free, once refined; None where that is not positive."""
    chosen = free.ravel()
    part = whole if chosen.all() else whole[np.ix_(chosen, chosen)]
    unit = np.sqrt(np.maximum(np.diag(part), 1e-300))
    damped = part / unit / unit[:, None] + tau * np.eye(len(unit))
    right = r.ravel()[chosen] / unit
    try:
        factor = scipy.linalg.cho_factor(damped, check_finite=False)
    except np.linalg.LinAlgError:
        return None
    step = scipy.linalg.cho_solve(factor, right, check_finite=False)
    step += scipy.linalg.cho_solve(factor, right - damped @ step, check_finite=False)
    if not np.isfinite(step).all():
        return None
    d = np.zeros(r.size)
    d[chosen] = step / unit
    return d.reshape(r.shape)


def truth_of(
    x, labels, *, activation, loss, settings, penalty, C, sample_weight, class_weight, label_smoothing
) -> Truth:
    """E as the docstring of SoftmaxRegression states it; labels are 0..K-1 and settings those of the activation."""
    x = np.asarray(x.toarray() if scipy.sparse.issparse(x) else x, dtype=np.float64)
    classes = int(labels.max()) + 1
    omega = np.ones(len(x)) if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
    if class_weight == "balanced":
        counts = np.bincount(labels, omega, classes)
        there = counts > 0
        omega = omega * (counts.sum() / (there.sum() * np.where(there, counts, 1.0)))[labels]
    elif class_weight is not None:
        omega = omega * np.array([class_weight.get(k, 1.0) for k in range(classes)])[labels]
    y = (1 - label_smoothing) * np.eye(classes)[labels] + label_smoothing / classes
    strength = 1 / (C * omega.sum())
    ridge, lasso = {"l2": (1, 0), "l1": (0, 1), "elastic_net": (0.5, 0.5), None: (0, 0)}[penalty]
    row = LOSSES[activation, loss]
    return Truth(
        x,
        y,
        omega,
        lambda z, y: row(z, y, **settings),
        ridge * strength,
        lasso * strength,
        activation in SHIFTS and loss != "z_loss",
    )
