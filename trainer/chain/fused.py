"""Closed forms of pairs: dl_dz and the loss in one formula, without the cancellations of the chain rule.

FUSED is the table of them, by the exact types of activation and loss. Each formula stands in its docstring.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from trainer.arrays import Array, are_labels, as_type, namespace, others
from trainer.chain.activations import Activation
from trainer.chain.activations.elementwise import Identity, Sigmoid, Tanh
from trainer.chain.activations.simplex import Entmax, NormalizedSigmoid, Sparsemax, Spherical, Taylor
from trainer.chain.activations.softmax import LogSoftmax, Softmax, shifted_exp, softmax_three_ways
from trainer.chain.losses import Loss
from trainer.chain.losses.distances import Brier, MeanAbsoluteError, SquaredError, residual
from trainer.chain.losses.likelihoods import BinaryCrossEntropy, CrossEntropy, KullbackLeibler, NegativeLogLikelihood
from trainer.chain.losses.margins import FenchelYoung
from trainer.chain.losses.scores import Focal, GeneralizedCrossEntropy, Poly1, SphericalScore, Tsallis, ZLoss


class LossGrad(NamedTuple):
    """loss (N,) and dl_dz (N,K), both per sample.

    >>> LossGrad(loss=np.array([0.5]), dl_dz=np.array([[-1.0, 1.0]])).loss
    array([0.5])
    """

    loss: Array
    dl_dz: Array


# y is (...,N,K); where takes_labels says so it may also be the labels (...,N) of one-hot rows.
GradientStrategy = Callable[[Activation, Loss, Array, Array], LossGrad]


def with_direct(activation: Activation, loss: Loss, z: Array, y: Array, chained: LossGrad) -> LossGrad:
    """Adds the part of a loss that is stated on the scores to what came through the activation.

    >>> none = LossGrad(np.zeros(1), np.zeros((1, 3)))
    >>> with_direct(Softmax(), ZLoss(weight=0.1), z, y, none).loss.round(3)
    array([0.552])
    """
    if not hasattr(loss, "direct"):
        return chained
    part, slope = loss.direct(activation, z, y)
    return LossGrad(chained.loss + part, chained.dl_dz + slope)


def precise(activation: Activation, loss: Loss, z: Array, y: Array) -> LossGrad:
    """fused for softmax with ce, to a few units in the last place of every number at any scores; it costs more.

    >>> precise(Softmax(), CrossEntropy(), z, y).dl_dz.round(3)
    array([[-0.295,  0.259,  0.035]])
    """
    return _softmax_ce(activation, loss, z, y, precise=True)


def _softmax_ce(activation: Any, loss: Any, z: Array, y: Array, precise: bool = False) -> LossGrad:
    """dl_dz = (s a - y) / T and loss = s log sum exp z/T - <y, z/T>, without their cancellations.

    (1) q = y / s, d = z/T - max and e = exp d, so a = e / S with S = sum e.
    (2) S is split by the target: S = t + o with t = <q, e> and o = <1 - q, e>.
    (3) dl_dz = s (e - q S) / (S T) = s (e - q t - q o) / (S T). On one-hot rows e - q t is exactly zero at the target,
        whose derivative is then minus the sum of the other probabilities.
    (4) loss = s log S - <y, d>, with log S = log1p(o + (t - 1)).
    """
    scores = z if activation.temperature == 1 else z / activation.temperature
    xp = namespace(z)
    if are_labels(y, z):
        labelled = _labelled_ce if isinstance(z, np.ndarray) else _labelled_ce_by_standard
        return labelled(scores, y, activation.temperature)
    top = xp.max(scores, axis=-1, keepdims=True)
    if precise:
        d, e = shifted_exp(scores, top)
    else:
        d = scores - top  # (N,K), <= 0
        e = xp.exp(d)
    s = xp.sum(y, axis=-1, keepdims=True)  # (N,1)
    q = y / xp.where(s > 0, s, 1.0)  # an all-zero row has no target and no gradient
    e_target = q * e
    t = xp.sum(e_target, axis=-1, keepdims=True)
    o = xp.sum(e - e_target, axis=-1, keepdims=True)
    value = s * xp.log1p(o + (t - 1)) - xp.sum(xp.where(y > 0, y * d, 0.0), axis=-1, keepdims=True)
    scale = s / (o + t)
    return LossGrad(value[..., 0], (e - q * t - q * o) * (scale / activation.temperature))


def _labelled_ce(z: Array, labels: Array, temperature: float) -> LossGrad:
    """softmax with ce where the rows are labels (...,N) and q is one at a single place: written over the exponentials.

    (1) d = z - max, e = exp d, and t = e at the label.
    (2) o = sum e without the label, so S = o + t.
    (3) dl_dz is e / (S T), but -o / (S T) at the label, where e - q t - q o is e - t - o.
    (4) loss = log S - d at the label, with log S = log1p(o + (t - 1)).
    """
    rows = z.mT  # (...,K,N), the long axis last
    d = np.subtract(rows, rows.max(axis=-2, keepdims=True), order="C")
    at_label = places(labels, d.shape)  # in the flat array
    d_label = d.ravel()[at_label]
    e = np.exp(d, out=d)
    flat = e.ravel()  # a view
    t = flat[at_label]
    flat[at_label] = 0
    o = e.sum(axis=-2)
    flat[at_label] = -o
    e *= (1 / ((o + t) * temperature))[..., None, :]
    return LossGrad(_log1p(o + (t - 1)) - d_label, e.mT)


def _labelled_ce_by_standard(z: Array, labels: Array, temperature: float) -> LossGrad:
    """The same with functions of the standard alone, for arrays in which the classes of a row lie side by side."""
    xp = namespace(z)
    column = xp.broadcast_to(as_type(labels, xp.int64)[..., None], (*z.shape[:-1], 1))
    at_label = column == xp.arange(z.shape[-1], device=z.device)  # (N,K)
    d = z - xp.max(z, axis=-1, keepdims=True)
    d_label = xp.take_along_axis(d, column, axis=-1)
    e, t = xp.exp(d), xp.exp(d_label)
    o = xp.sum(xp.where(at_label, 0.0, e), axis=-1, keepdims=True)
    dl_dz = xp.where(at_label, -o, e) * (1 / ((o + t) * temperature))
    return LossGrad((xp.log1p(o + (t - 1)) - d_label)[..., 0], dl_dz)


def places(labels: Array, shape: tuple[int, ...]) -> Array:
    """Where the label (N,), or (...,N), of each row stands in a flat array (...,K,N).

    >>> places(np.array([1, 0]), (3, 2))
    array([2, 1])
    """
    *stack, classes, rows = shape
    places: Array = np.multiply(labels, rows, dtype=np.intp) + np.arange(rows)
    if stack:
        places = places + np.arange(math.prod(stack)).reshape(*stack, 1) * (classes * rows)
    return places


def _log1p(x: Array) -> Array:
    """log(1 + x) for finite x >= 0 to one unit in the last place, from the logarithm, which numpy takes much faster."""
    u = 1 + x
    result: Array = np.log(u) + (x - (u - 1)) / u  # the second term is what the first sum lost
    return result


def _softmax_squares(activation: Any, loss: Any, z: Array, y: Array) -> LossGrad:
    """r = a - y: dl_dz = f a (r - <a, r>) / T and loss = f/2 <r, r>, with f = 2 for brier and 1 for squared_error.

    Written as a_k (r_k (1 - a_k) - sum_{j != k} a_j r_j), so that a confident right answer keeps its small numbers.
    """
    _, a, rest = softmax_three_ways(z / activation.temperature)
    value, slope = loss.of_residual(residual(a, rest, y))
    return LossGrad(value, a * (slope * rest - others(a * slope)) / activation.temperature)


def _softmax_spherical_score(activation: Any, loss: Any, z: Array, y: Array) -> LossGrad:
    """dl_dz = a u / (|a|^3 T) with u_k = <y, a> a_k - y_k |a|^2: the score of a and of c a is one, so <a, dl_da> = 0.

    u_k = a_k sum_{j != k} y_j a_j - y_k sum_{j != k} a_j^2 and |a|^2 - <y, a>^2 = |a|^2 (1 - |y|^2) - <y, u>, which on
    one-hot rows do not cancel.
    """
    xp = namespace(z)
    a = activation(z)
    square, hit = a * a, y * a
    u = a * others(hit) - y * others(square)
    norm2, q = (xp.sum(terms, axis=-1, keepdims=True) for terms in (square, hit))
    norm = xp.sqrt(norm2)
    short = norm2 * (1 - xp.sum(y * y, axis=-1, keepdims=True)) - xp.sum(y * u, axis=-1, keepdims=True)
    return LossGrad((short / (norm * (norm + q)))[..., 0], a * u / (norm * norm2 * activation.temperature))


def _softmax_h(activation: Any, loss: Any, z: Array, y: Array) -> LossGrad:
    """dl_dz = (h - a sum h) / T with h = dl/dlog a of the loss; one exponential serves the loss, h and a."""
    log_a, a, rest = softmax_three_ways(z / activation.temperature)
    h = loss.grad_log(log_a, y)
    return LossGrad(loss.value_log(log_a, y), (h * rest - a * others(h)) / activation.temperature)


def _softmax_bce(activation: Any, loss: Any, z: Array, y: Array) -> LossGrad:
    """softmax with bce, finite at any scores.  Let m be a row's largest class.

    (1) dl_dz = (r (1 - a) - a sum_{j != k} r_j) / T with r = dl/dlog a = (1 - y) b - y and b = a / (1 - a).
    (2) r (1 - a) is the residual a - y, and sum_{j != k} r_j = sum_{j != k} (1 - y_j) b_j - sum_{j != k} y_j.
    (3) Where m leads by 745 its 1 - a underflows, so b_m overflows. But 1 - a_m is the sum of the others, and
        a_k b_m = a_m p_k, with p the softmax among the others alone: that share of (2) never meets 1 - a_m.
    (4) loss = -sum y log a + (1 - y) log(1 - a), with log(1 - a_m) = log a_m + log sum_{j != m} exp(z_j - z_m).
    """
    xp = namespace(z)
    scores = z / activation.temperature
    log_a, a, rest = softmax_three_ways(scores)
    largest = xp.arange(z.shape[-1], device=z.device) == xp.argmax(scores, axis=-1)[..., None]  # (N,K)

    def at_largest(x: Array) -> Array:
        return xp.sum(xp.where(largest, x, 0.0), axis=-1, keepdims=True)  # (N,1)

    others_only = xp.where(largest, -xp.inf, scores)
    second = xp.max(others_only, axis=-1, keepdims=True)
    e = xp.exp(others_only - second)
    total = xp.sum(e, axis=-1, keepdims=True)
    p = e / total

    b = xp.where(largest, 0.0, (1 - y) * a / xp.where(largest, 1.0, rest))  # times 1 - y, of all but m
    pulled = a * (others(b) - others(y)) + at_largest((1 - y) * a) * p
    dl_dz = (residual(a, rest, y) - pulled) / activation.temperature

    lead = second - at_largest(scores)  # <= 0
    of_largest = lead + xp.log(total) + at_largest(log_a)
    log_rest = xp.where(largest, of_largest, xp.log1p(-xp.where(largest, 0.0, a)))
    terms = xp.where(y > 0, y * log_a, 0.0) + xp.where(y != 1, (1 - y) * log_rest, 0.0)
    return LossGrad(-xp.sum(terms, axis=-1), dl_dz)


def _sigmoid_bce(activation: Any, loss: Any, z: Array, y: Array) -> LossGrad:
    """dl_dz = a - y, loss = sum_k max(z, 0) - y z + log1p(exp(-|z|)); no factor s: the K questions are independent."""
    xp = namespace(z)
    size = xp.abs(z)
    value = xp.sum(size * xp.where(z > 0, 1 - y, y) + xp.log1p(xp.exp(-size)), axis=-1)
    return LossGrad(value, residual(activation(z), activation(-z), y))


def _sigmoid_distance(activation: Any, loss: Any, z: Array, y: Array) -> LossGrad:
    """dl_dz = d'(r) a (1 - a) for a distance d of r = a - y: 2 r (brier), r (squared_error) or sign r (mae)."""
    a, rest = activation(z), activation(-z)
    value, slope = loss.of_residual(residual(a, rest, y))
    return LossGrad(value, slope * a * rest)


def _tanh_distance(activation: Any, loss: Any, z: Array, y: Array) -> LossGrad:
    """dl_dz = d'(r) (1 - a^2) for a distance d of r = a - y; 1 - a is 2 sigmoid(-2 z)."""
    a = activation(z)
    value, slope = loss.of_residual(residual(a, 2 * Sigmoid()(-2 * z), y))
    return LossGrad(value, activation.vjp(z, a, slope))


def _log_softmax_nll(activation: Any, loss: Any, z: Array, y: Array) -> LossGrad:
    """The same function of z as softmax with ce: dl_dz = s softmax(z) - y."""
    return _softmax_ce(Softmax(), loss, z, y)


def _softmax_kl(activation: Any, loss: Any, z: Array, y: Array) -> LossGrad:
    """dl_dz = (s a - y) / T, and loss = ce + sum y log y."""
    value, dl_dz = _softmax_ce(activation, loss, z, y)
    return LossGrad(value + Softmax().omega(y), dl_dz)


def _softmax_z_loss(activation: Any, loss: Any, z: Array, y: Array) -> LossGrad:
    """dl_dz = (s a - y + 2 weight lse a) / T, with lse = log sum exp z/T."""
    return with_direct(activation, loss, z, y, _softmax_ce(activation, loss, z, y))


def _softmax_fenchel_young(activation: Any, loss: Any, z: Array, y: Array) -> LossGrad:
    """dl_dz = a - y, and loss = T kl: the conjugate of T sum a log a is T log sum exp z/T."""
    value, dl_dz = _softmax_kl(activation, loss, z, y)
    return LossGrad(activation.temperature * value, activation.temperature * dl_dz)


def _sigmoid_fenchel_young(activation: Any, loss: Any, z: Array, y: Array) -> LossGrad:
    """dl_dz = a - y, and loss = bce less the entropy of y."""
    value, dl_dz = _sigmoid_bce(activation, loss, z, y)
    return LossGrad(value + activation.omega(y), dl_dz)


def _fenchel_young(activation: Any, loss: Any, z: Array, y: Array) -> LossGrad:
    """dl_dz = a - y: the loss is stated on the scores, so nothing passes through the Jacobian."""
    return LossGrad(*loss.direct(activation, z, y))


def _identity_squares(activation: Any, loss: Any, z: Array, y: Array) -> LossGrad:
    """dl_dz = z - y and loss = 1/2 <z - y, z - y>, which is also the Fenchel-Young loss of identity."""
    return LossGrad(*SquaredError().of_residual(z - y))


FUSED: dict[tuple[type[Activation], type[Loss]], GradientStrategy] = {
    (Softmax, CrossEntropy): _softmax_ce,
    (Softmax, KullbackLeibler): _softmax_kl,
    (Softmax, ZLoss): _softmax_z_loss,
    (Softmax, FenchelYoung): _softmax_fenchel_young,
    (Softmax, BinaryCrossEntropy): _softmax_bce,
    (Softmax, MeanAbsoluteError): _softmax_h,
    (Softmax, Focal): _softmax_h,
    (Softmax, Poly1): _softmax_h,
    (Softmax, GeneralizedCrossEntropy): _softmax_h,
    (Softmax, Tsallis): _softmax_h,
    (Softmax, SphericalScore): _softmax_spherical_score,
    (Softmax, Brier): _softmax_squares,
    (Softmax, SquaredError): _softmax_squares,
    (LogSoftmax, NegativeLogLikelihood): _log_softmax_nll,
    (Sigmoid, BinaryCrossEntropy): _sigmoid_bce,
    (Sigmoid, FenchelYoung): _sigmoid_fenchel_young,
    (Sigmoid, Brier): _sigmoid_distance,
    (Sigmoid, SquaredError): _sigmoid_distance,
    (Sigmoid, MeanAbsoluteError): _sigmoid_distance,
    (Tanh, SquaredError): _tanh_distance,
    (Tanh, MeanAbsoluteError): _tanh_distance,
    (Identity, SquaredError): _identity_squares,
    (Identity, FenchelYoung): _identity_squares,
    (Sparsemax, FenchelYoung): _fenchel_young,
    (Entmax, FenchelYoung): _fenchel_young,
}


def _through_log_f(formula: GradientStrategy) -> GradientStrategy:
    """dl_dz = (log f)'(z) dl_du at u = log f(z) for a = f / sum f, which is softmax(u): a formula of softmax fits."""

    def through(activation: Any, loss: Any, z: Array, y: Array) -> LossGrad:
        value, dl_du = formula(Softmax(), loss, activation.log_f(z), y)
        return LossGrad(value, dl_du * activation.slope(z))

    return through


# All but the losses that are stated on the scores, which z_loss and fenchel_young are.
FUSED |= {
    (normalized, loss): _through_log_f(formula)
    for normalized in (Taylor, Spherical, NormalizedSigmoid)
    for (activation, loss), formula in FUSED.items()
    if activation is Softmax and loss not in (ZLoss, FenchelYoung)
}

LABELLED = (_softmax_ce, _log_softmax_nll)  # which also take the labels (N,) of one-hot rows
