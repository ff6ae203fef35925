"""The solver for penalties with a corner: a proximal quasi-Newton method whose models are minimised by FISTA.

    E(w) = f(w) + lasso |w[:-1]|_1,    f = mean loss + ridge/2 |w[:-1]|^2

Three known methods are this one with a simpler model of f's curvature B around w, where the next w is the minimum of
``<g, d> + <d, B d>/2 + lasso |w + d|_1``: proximal gradient descent (B a multiple of the identity, one step of soft
thresholding), the proximal Newton method (B the Hessian) and, with lasso = 0, quasi-Newton. Lee, Sun & Saunders 2014.

Here B costs no pass over the data, so the many inner steps that the model's minimum takes are cheap beside the one
or two evaluations of E that a step is made of:

    B = BFGS_m(M x diag(c)) + ridge,    M = second moments of the features with a one for the bias (D+1,D+1)

For a linear model the curvature of class k is the moment matrix with the weights d2l/dz_k^2 on its rows. M times
their mean c_k is what remains where they are alike; it knows the scale and the correlation of the features. c comes
from the gradients' own differences (``y_k ~ c_k M s_k``), so the solver works for any pair, and the last m of them
correct B along the steps that were taken (Byrd, Nocedal & Schnabel 1994, eq. 3.2 with M x diag(c) as B_0).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from trainer.arrays import Array
from trainer.errors import Incompatible, NonFiniteError
from trainer.optimizers.protocols import Problem, Step
from trainer.optimizers.stopping import check_tol
from trainer.penalties import Penalty, subgradient

PAIRS = 20  # pairs of steps and gradient differences that are kept
INNER_STEPS = 1000  # of FISTA on one model
SOLVE_EVERY = 10  # inner steps
SOLVED = 600  # unknowns at most of a dense solution
FORCING = 0.05  # the share of the residual that the model's minimisation may leave
SUFFICIENT = 1e-4  # Armijo's share of the predicted decrease
HALVINGS = 30


def check_penalty(optimizer: str, penalty: Penalty) -> None:
    """Incompatible where a penalty with a corner meets an optimiser, by name, that follows gradients alone."""
    if penalty.lasso > 0 and optimizer not in ("fista", "auto"):
        raise Incompatible(
            f"penalty={penalty.name} is not smooth, which optimizer={optimizer} cannot take. "
            "Use optimizer=fista or auto."
        )


class Memory(NamedTuple):
    """The state: what is known of f's curvature without the ridge.

    moment  (D+1,D+1), or its diagonal (D+1,) where there are very many features; None before the first step
    inverse of the moment, with its directions without any data left small
    scale   (K,), the mean curvature c of each class
    steps   (m,D+1,K), differences s of w
    changes (m,D+1,K), the differences y of the gradient that belong to them, without the ridge's
    """

    moment: Array | None
    inverse: Array | None
    scale: Array
    steps: Array
    changes: Array


@dataclass(frozen=True)
class Fista:
    """Proximal quasi-Newton for smooth losses and penalties of any kind; E never rises but by rounding.

    It has converged when the smallest subgradient r of E is small in the metric of the diagonal h of the curvature:
    ``sqrt(sum r^2 / h) <= tol * sqrt(|E|)``, which is about ``E - min E <= tol^2/2 * |E|`` and blind to the scale of
    the features. In float32 tol is at least 5e-6.
    """

    name: ClassVar[str] = "fista"
    full_batch: ClassVar[bool] = True
    tol: float = 1e-6

    def __post_init__(self) -> None:
        check_tol(self.tol)

    def init(self, w: Array) -> Memory:
        none = np.empty((0, *w.shape))
        return Memory(None, None, np.full(w.shape[1], 0.5), none, none)  # 1/2 bounds softmax's (Böhning 1992)

    def step(self, problem: Problem, w: Array, state: Memory) -> Step:
        penalty = problem.penalty
        value, gradient = problem.value_and_grad(w)
        if not math.isfinite(value):
            return Step(w, state, value)
        if state.moment is None:
            moment = problem.second_moment()
            state = state._replace(moment=moment, inverse=_inverse(moment))
        x, g = w.astype(np.float64), gradient.astype(np.float64)
        shrink = _rows(penalty.lasso, len(x))
        h = _diagonal(state, penalty.ridge)
        before = _residual(x, g, value, penalty.lasso, h)
        tol = max(self.tol, 40 * float(np.finfo(w.dtype).eps))
        if before <= tol:
            return Step(w, state, value, _sentence(before, tol))

        target = _fista(x, g, _metric(state, penalty.ridge), penalty.lasso, h)
        predicted = float(np.sum(g * (target - x)) + np.sum(shrink * (np.abs(target) - np.abs(x))))
        if not predicted < 0:  # the inner steps ran out in a bad moment
            target = _soft(x - g / h, shrink / h)
            predicted = float(np.sum(g * (target - x)) + np.sum(shrink * (np.abs(target) - np.abs(x))))
        rounding = float(np.finfo(w.dtype).eps) * abs(value)
        share = 1.0
        for _ in range(HALVINGS):
            # At the whole step the zeros of the model's minimum are kept exactly.
            new = (target if share == 1 else x + share * (target - x)).astype(w.dtype)
            try:
                after, gradient = problem.value_and_grad(new)
            except NonFiniteError:  # a trial may go too far, where the strategy fails
                after = math.inf
            if after <= value + SUFFICIENT * share * predicted + rounding:
                break
            share *= _shorter(share, value, after, predicted)
        else:
            if len(state.steps):  # the memory is of another place; start again from the features' moments
                return Step(w, self.init(w)._replace(moment=state.moment, inverse=state.inverse), value)
            return Step(w, state, value, _no_decrease(before, -predicted, rounding, w.dtype))

        s = new.astype(np.float64) - x
        y = gradient.astype(np.float64) - g
        y[:-1] -= penalty.ridge * s[:-1]
        state = _learn(state, s, y)
        h = _diagonal(state, penalty.ridge)
        left = _residual(new.astype(np.float64), gradient.astype(np.float64), after, penalty.lasso, h)
        return Step(new, state, value, _sentence(left, tol) if left <= tol else "")


def _residual(w: Array, g: Array, value: float, lasso: float, h: Array) -> float:
    """sqrt(sum r^2 / h) / sqrt(|E|) of the smallest subgradient r; zero at the optimum."""
    r = subgradient(w, g, lasso)
    return math.sqrt(float(np.sum(r * r / h)) / max(abs(value), float(np.finfo(np.float64).tiny)))


def _rows(number: float, rows: int) -> Array:
    """The number for every row of w but the bias, which has zero (D+1,1)."""
    column = np.full((rows, 1), number)
    column[-1] = 0.0
    return column


def _soft(v: Array, threshold: Array) -> Array:
    """Soft thresholding, argmin_u (u - v)^2/2 + threshold |u|: sign(v) max(|v| - threshold, 0)."""
    u: Array = v - np.clip(v, -threshold, threshold)
    return u


def _sentence(residual: float, tol: float) -> str:
    return f"the optimality conditions hold to {residual:.1e} in relative terms, tol is {tol:.1e}."


def _no_decrease(residual: float, predicted: float, rounding: float, dtype: np.dtype[Any]) -> str:
    """Why a step that finds no decrease is the last: rounding; not a sentence where it is not."""
    if predicted > 100 * rounding:
        return ""
    return f"the objective's rounding in {dtype} hides any further decrease; the conditions hold to {residual:.1e}."


def _shorter(share: float, value: float, after: float, predicted: float) -> float:
    """The factor of the next trial: the minimum of the parabola through what is known, within [0.1, 0.5]."""
    bend = after - value - share * predicted
    return min(0.5, max(0.1, -share * predicted / (2 * bend))) if math.isfinite(bend) and bend > 0 else 0.1


def _inverse(moment: Array) -> Array:
    """1/M; in units of the diagonal, M's directions without any data count as 1e-8 instead of nothing."""
    unit = np.sqrt(moment if moment.ndim == 1 else np.diag(moment))
    unit = np.where(unit > 0, unit, 1.0)
    if moment.ndim == 1:
        return 1 / (unit * unit)
    units = unit[:, None] * unit
    inverse: Array = np.linalg.inv(moment / units + 1e-8 * np.eye(len(unit))) / units
    return inverse


def _base(state: Memory) -> Callable[[Array], Array]:
    """v -> M v diag(c), for v (...,D+1,K)."""
    moment, scale = state.moment, state.scale
    assert moment is not None  # set in the first step
    if moment.ndim == 1:
        return lambda v: moment[:, None] * v * scale
    return lambda v: moment @ (v * scale)


def _diagonal(state: Memory, ridge: float) -> Array:
    """The diagonal of M x diag(c) + ridge (D+1,K), positive."""
    assert state.moment is not None
    moment = state.moment if state.moment.ndim == 1 else np.diag(state.moment)
    h = moment[:, None] * state.scale
    h[:-1] += ridge
    # A feature that is always zero has no curvature and no gradient either; any positive number will do.
    positive: Array = np.maximum(h, np.finfo(np.float64).tiny ** 0.5)
    return positive


class Metric(NamedTuple):
    """B as an operator and, in part, as a matrix: ``M x diag(c) + ridge - basis^T left``.

    basis, left  (2m,(D+1)K), the low-rank correction of limited-memory BFGS in its compact form
    """

    state: Memory
    ridges: Array  # (D+1,1)
    basis: Array
    left: Array

    def __call__(self, v: Array) -> Array:
        """B v (D+1,K)."""
        low_rank = (self.left @ v.ravel()) @ self.basis
        result: Array = _base(self.state)(v) + self.ridges * v - low_rank.reshape(v.shape)
        return result

    def part(self, free: Array) -> Array:
        """The rows and columns (F,F) of B where free (D+1,K) is true."""
        moment, scale = self.state.moment, self.state.scale
        assert moment is not None  # set in the first step
        rows, classes = np.nonzero(free)
        whole = np.diag(moment) if moment.ndim == 1 else moment
        places = rows * free.shape[1] + classes
        base = whole[rows[:, None], rows] * scale[classes] * (classes[:, None] == classes)
        result: Array = base - self.basis[:, places].T @ self.left[:, places]
        result[np.diag_indices_from(result)] += self.ridges[rows, 0]
        return result


def _metric(state: Memory, ridge: float) -> Metric:
    """B of the state and the ridge."""
    m, rows, classes = state.steps.shape
    ridges = _rows(ridge, rows)
    if m == 0:
        none = np.empty((0, rows * classes))
        return Metric(state, ridges, none, none)
    s, y = state.steps.reshape(m, -1), state.changes.reshape(m, -1)
    basis = np.concatenate([_base(state)(state.steps).reshape(m, -1), y])
    products = s @ y.T  # (m,m), s_i y_j
    lower = np.tril(products, -1)
    middle = np.block([[basis[:m] @ s.T, lower], [lower.T, -np.diag(np.diag(products))]])
    return Metric(state, ridges, basis, np.linalg.solve(middle, basis))


def _learn(state: Memory, s: Array, y: Array) -> Memory:
    """The state with one more pair; where the change y shows too little curvature it is damped to keep B positive.

    Powell 1978 (Nocedal & Wright, procedure 18.2): y is moved towards B s until s y is a fifth of s B s.
    """
    bs = _metric(state, 0.0)(s)
    sbs, sy = float(np.sum(s * bs)), float(np.sum(s * y))
    if not sbs > 0:
        return state
    if sy < 0.2 * sbs:
        keep = 0.8 * sbs / (sbs - sy)
        y = keep * y + (1 - keep) * bs
    steps = np.concatenate([state.steps[-PAIRS + 1 :], s[None]])
    changes = np.concatenate([state.changes[-PAIRS + 1 :], y[None]])
    return state._replace(scale=_scale(state, s, y), steps=steps, changes=changes)


def _scale(state: Memory, s: Array, y: Array) -> Array:
    """c (K,) from ``y_k ~ c_k M s_k``: the geometric mean of the two estimates, <s, y>/<s, M s> and <y, y/M>/<s, y>.

    Along a step the first is the mean curvature and the second, as in L-BFGS, leans to the larger ones. Alone the first
    makes steps too long and the second too short.
    """
    moment, inverse = state.moment, state.inverse
    assert moment is not None  # set in the first step
    assert inverse is not None
    wide = moment.ndim == 1
    low = np.sum(s * (moment[:, None] * s if wide else moment @ s), axis=0)  # (K,)
    high = np.sum(y * (inverse[:, None] * y if wide else inverse @ y), axis=0)
    mean = math.sqrt(high.sum() / low.sum())
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.where(low > 0, np.sqrt(high / low), mean)  # a class whose weights stand still has none of its own
    clipped: Array = np.clip(scale, 0.1 * mean, 10 * mean)
    return clipped


def _fista(w: Array, g: Array, metric: Metric, lasso: float, h: Array) -> Array:
    """About the minimum u of ``<g, u - w> + <u - w, B (u - w)>/2 + lasso |u[:-1]|_1``, from w.

    Beck & Teboulle 2009 with steps in the diagonal metric ``size * h``, where size grows as far as B needs it, and with
    the momentum restarted when it points uphill (O'Donoghue & Candès 2015, the gradient scheme). It finds soon which
    weights are zero, and slowly, where B is ill-conditioned, what the others are; so now and then those are solved for.
    """

    def distance(u: Array, gradient: Array) -> float:
        r = subgradient(u, gradient, lasso)
        return float(np.sum(r * r / h))

    def value(u: Array, gradient: Array) -> float:
        return float(np.sum((u - w) * (g + gradient))) / 2 + lasso * float(np.sum(np.abs(u[:-1])))

    shrink = _rows(lasso, len(w))
    enough = FORCING**2 * distance(w, g)
    size, momentum = 1.0, 1.0
    u = ahead = w
    gradient = gradient_ahead = g  # of the quadratic, at u and ahead
    for count in range(1, INNER_STEPS + 1):
        while True:
            step = 1 / (size * h)
            new = _soft(ahead - step * gradient_ahead, shrink * step)
            move = new - ahead
            gradient_new = g + metric(new - w)
            length = float(np.sum(h * move * move))
            bend = float(np.sum(move * (gradient_new - gradient_ahead)))
            if length == 0 or not bend > size * length * (1 + 1e-9):
                break
            size = max(1.1 * bend / length, 1.3 * size)
        if distance(new, gradient_new) <= enough:
            return new
        if count % SOLVE_EVERY == 0:
            solved = _solve(new, gradient_new, metric, lasso)
            gradient_solved = g + metric(solved - w)
            if value(solved, gradient_solved) < value(new, gradient_new):
                if distance(solved, gradient_solved) <= enough:
                    return solved
                u = ahead = solved
                gradient = gradient_ahead = gradient_solved
                momentum = 1.0
                continue
        if float(np.sum(h * move * (new - u))) < 0:
            momentum = 1.0
        following = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
        weight = (momentum - 1) / following
        ahead = new + weight * (new - u)
        gradient_ahead = gradient_new + weight * (gradient_new - gradient)
        u, gradient, momentum = new, gradient_new, following
    return u


def _solve(u: Array, gradient: Array, metric: Metric, lasso: float) -> Array:
    """u with its weights other than zero, and the bias, at the minimum for their signs; what crosses zero stays there.

    A Newton step on the model where it is smooth; u itself where there are too many of them for a dense solution.
    """
    free = u != 0
    free[-1] = True
    if free.sum() > SOLVED:
        return u
    r = (gradient + _rows(lasso, len(u)) * np.sign(u))[free]
    matrix = metric.part(free)
    matrix[np.diag_indices_from(matrix)] *= 1 + 1e-12  # features that are copies of each other make it singular
    try:
        delta = np.linalg.solve(matrix, r)
    except np.linalg.LinAlgError:
        return u
    solved = u.copy()
    solved[free] -= delta
    crossed = (solved * u < 0) & (_rows(lasso, len(u)) > 0)
    return np.where(crossed, 0.0, solved)
