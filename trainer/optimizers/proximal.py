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

The step, the model and its inner solver are one file, as none of them means anything without the others.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from trainer.arrays import Array
from trainer.errors import Incompatible, NonFiniteError
from trainer.objective.conjugate_gradients import conjugate_gradients
from trainer.objective.penalties import Penalty, subgradient
from trainer.objective.preconditioner import DENSE, preconditioner
from trainer.objective.problem import Problem
from trainer.objective.view import Evaluated, View
from trainer.optimizers.line_search import SUFFICIENT
from trainer.optimizers.protocols import Step
from trainer.optimizers.stopping import check_tol, told, unproved

PAIRS = 20  # pairs of steps and gradient differences that are kept
INNER_STEPS = 1000  # of FISTA on one model
SOLVE_EVERY = 10  # inner steps
SOLVED = 600  # unknowns at most of a dense solution
FORCING = 0.05  # the share of the residual that the model's minimisation may leave
HALVINGS = 30


def check_penalty(optimizer: str, penalty: Penalty) -> None:
    """Incompatible where a penalty with a corner meets an optimiser, by name, that follows gradients alone.

    >>> check_penalty("sgd", L1())
    Traceback (most recent call last):
    trainer.errors.Incompatible: penalty=l1 is not smooth, which optimizer=sgd cannot take. Use optimizer=fista or auto.
    """
    if penalty.lasso > 0 and optimizer not in ("fista", "auto"):
        raise Incompatible(
            f"penalty={penalty.name} is not smooth, which optimizer={optimizer} cannot take. "
            "Use optimizer=fista or auto."
        )


class Memory(NamedTuple):
    """The state: what is known of f's curvature without the ridge, in standardised coordinates.

    scale   (K,), the mean curvature c of each class
    steps   (m,D+1,K), differences s of v
    changes (m,D+1,K), the differences y of the gradient that belong to them, without the ridge's
    here    what was evaluated at w, which can be computed again

    >>> state = Fista().step(problem, w, Fista().init(w)).state
    >>> state.steps.shape, state.changes.shape
    ((1, 2, 2), (1, 2, 2))
    """

    scale: Array
    steps: Array
    changes: Array
    here: Evaluated | None = None


@dataclass(frozen=True)
class Fista:
    """Proximal quasi-Newton for smooth losses and penalties of any kind; E never rises but by rounding.

    It believes that it has converged when the smallest subgradient r of E is small in the metric of the diagonal h of
    the curvature, ``sqrt(sum r^2 / h) <= tol * sqrt(|E|)``, which is about ``E - min E <= tol^2/2 * |E|``; and it has,
    where the certificate is then at most gap. All in standardised coordinates, and in double precision.

    >>> sparse = Problem(Objective(Softmax(), CrossEntropy(), auto, L1(0.3)), data)
    >>> Fista().step(sparse, np.array([[-0.1, 0.1], [0.0, 0.0]]), Fista().init(w)).w[0]  # exact zeros
    array([0., 0.])
    """

    name: ClassVar[str] = "fista"
    state: ClassVar[type] = Memory
    full_batch: ClassVar[bool] = True
    tol: float = 1e-6
    gap: float = 1e-6

    def __post_init__(self) -> None:
        check_tol(self.tol, self.gap)

    def copies(self, problem: Problem, classes: int) -> int:
        return 9 * PAIRS + 12  # the pairs, and three matrices of twice as many rows

    def init(self, w: Array) -> Memory:
        none = np.empty((0, *w.shape))
        return Memory(np.full(w.shape[1], 0.5), none, none)  # 1/2 bounds softmax's (Böhning 1992)

    def step(self, problem: Problem, w: Array, state: Memory) -> Step:
        view = problem.view(np.float64)
        here = state.here or view.at(w)
        stay = Step(w, state, here.value, after=(view, here))
        if not math.isfinite(here.value):
            return stay
        model = _Model(view, state)
        left = model.residual(here)
        if left <= self.tol:
            why = f"the optimality conditions hold to {left:.1e} in relative terms, tol is {self.tol:.1e}"
            proof = problem.certify(w, self.gap, here)
            if proof.proves(self.gap) or (proof.gap is None and self._near(view, here)):
                return stay._replace(converged=told(why, proof), proof=proof)
        found = model.search(here)
        if found is not None:
            s, y = found.v - here.v, found.g - here.g - view.ridge * (found.v - here.v)
            return Step(found.w, model.learnt(s, y)._replace(here=found), here.value, after=(view, found))
        if len(state.steps):  # the memory is of another place; start again from the features' moments
            return stay._replace(state=self.init(w)._replace(here=here))
        proof = problem.certify(w, self.gap, here)
        if proof.proves(self.gap) or (proof.gap is None and left <= 1e-4 and self._near(view, here)):
            why = f"the objective's rounding hides any further decrease; the conditions hold to {left:.1e}"
            return stay._replace(converged=told(why, proof), proof=proof)
        return stay._replace(stalled=unproved(proof, self.gap), proof=proof)

    def _near(self, view: View, here: Evaluated) -> bool:
        """Whether half of Newton's decrement is small enough, which sees what the diagonal of the model does not.

        It is for where nothing is proved, and nothing where his equation has no solution within reach; l1 has neither.
        """
        if view.lasso.any():
            return True
        hessian, metric, g = view.hessian(here), preconditioner(view, here.v), here.g
        y = metric(g)
        d = conjugate_gradients(hessian, metric, g, y, 1e-3)
        rest = hessian(d) + g
        solved = np.vdot(rest, metric(rest)) <= 0.01 * np.vdot(g, y)
        return bool(solved) and -float(np.vdot(g, d)) / 2 <= self.gap * abs(here.value)


def _second_moment(u: Any, weight: Array) -> tuple[Array, Array]:
    """The second moment M of the sample's u (D+1,D+1), or its diagonal (D+1,), and its inverse.

    In units of the diagonal, M's directions without any data count as 1e-8 instead of nothing.
    """
    if not isinstance(u, np.ndarray) or u.shape[1] > DENSE:
        square = u.multiply(u) if hasattr(u, "multiply") else np.square(u)
        moment = np.asarray(square.T @ weight).ravel().astype(np.float64)
        return moment, 1 / np.where(moment > 0, moment, 1.0)
    rows = u * np.sqrt(weight)[:, None]
    moment = rows.T @ rows
    unit = np.sqrt(np.diag(moment))
    unit = np.where(unit > 0, unit, 1.0)
    units = unit[:, None] * unit
    return moment, np.linalg.inv(moment / units + 1e-8 * np.eye(len(unit))) / units


def _times(m: Array, v: Array) -> Array:
    """m v for v (...,D+1,K) and a matrix m (D+1,D+1), or its diagonal (D+1,)."""
    return m[:, None] * v if m.ndim == 1 else m @ v


class _Inner(NamedTuple):
    """FISTA's state on a model: u, the extrapolated point, the model's gradients at both, momentum t and 1/step."""

    u: Array
    ahead: Array
    g_u: Array
    g_ahead: Array
    t: float
    size: float


class _Model:
    """E around a point: ``E + <g, d> + <d, B d>/2 + |lasso (v + d)|_1``, B = M x diag(c) + ridge - basis^T left.

    basis, left  (2m,(D+1)K), the low-rank correction of limited-memory BFGS in its compact form
    h            (D+1,K), the diagonal of M x diag(c) + ridge, positive
    """

    def __init__(self, view: View, state: Memory) -> None:
        self.view, self.state = view, state
        self.moment, self.inverse = view.moments(_second_moment)
        diagonal = self.moment if self.moment.ndim == 1 else np.diag(self.moment)
        h = diagonal[:, None] * state.scale + view.ridge
        # A feature that is always zero has no curvature and no gradient either; any positive number will do.
        self.h = np.maximum(h, np.finfo(np.float64).tiny ** 0.5)
        m, rows, classes = state.steps.shape
        if m == 0:
            self.basis = self.left = np.empty((0, rows * classes))
            return
        s, y = state.steps.reshape(m, -1), state.changes.reshape(m, -1)
        self.basis = np.concatenate([self._base(state.steps).reshape(m, -1), y])
        products = s @ y.T  # (m,m), s_i y_j
        lower = np.tril(products, -1)
        middle = np.block([[self.basis[:m] @ s.T, lower], [lower.T, -np.diag(np.diag(products))]])
        unit = 1 / np.sqrt(np.abs(np.diag(middle)))[:, None]  # pairs of very different lengths
        self.left = unit * (np.linalg.pinv(middle * unit * unit.T, rcond=1e-14, hermitian=True) @ (unit * self.basis))

    def _base(self, d: Array) -> Array:
        return _times(self.moment, d * self.state.scale)

    def __call__(self, d: Array, ridge: bool = True) -> Array:
        """B d (D+1,K)."""
        low_rank = ((self.left @ d.ravel()) @ self.basis).reshape(d.shape)
        result: Array = self._base(d) - low_rank + (self.view.ridge * d if ridge else 0.0)
        return result

    def part(self, free: Array) -> Array:
        """The rows and columns (F,F) of B where free (D+1,K) is true."""
        rows, classes = np.nonzero(free)
        moment, scale = self.moment, self.state.scale
        places = rows * free.shape[1] + classes
        if moment.ndim == 1:
            base = np.diag(moment[rows] * scale[classes])
        else:
            base = moment[rows[:, None], rows] * scale[classes] * (classes[:, None] == classes)
        result: Array = base - self.basis[:, places].T @ self.left[:, places]
        result[np.diag_indices_from(result)] += self.view.ridge[rows, 0]
        return result

    def distance(self, v: Array, g: Array) -> float:
        """sum r^2 / h of the smallest subgradient r; zero at the optimum."""
        r = subgradient(v, g, self.view.lasso[:-1])
        return float(np.sum(r * r / self.h))

    def residual(self, here: Evaluated) -> float:
        """The root of that, in units of the root of E."""
        return math.sqrt(self.distance(here.v, here.g) / max(abs(here.value), float(np.finfo(np.float64).tiny)))

    def search(self, here: Evaluated) -> Evaluated | None:
        """The point on the way to the model's minimum where E has fallen enough; None if there is none."""
        v, g = here.v, here.g
        target = self.minimum(v, g)
        predicted = self._predicted(v, g, target)
        if not predicted < 0:  # the inner steps ran out in a bad moment
            target = _soft(v - g / self.h, self.view.lasso / self.h)
            predicted = self._predicted(v, g, target)
        rounding = float(np.finfo(np.float64).eps) * abs(here.value)
        share = 1.0
        for _ in range(HALVINGS):
            # At the whole step the zeros of the model's minimum are kept exactly.
            new = self.view.leave(target if share == 1 else v + share * (target - v)).astype(here.w.dtype)
            try:
                found = self.view.at(new)
                after = found.value
            except NonFiniteError:  # a trial may go too far, where the strategy fails
                after = math.inf
            if after <= here.value + SUFFICIENT * share * predicted + rounding:
                return found if (new != here.w).any() else None
            share *= _shorter(share, here.value, after, predicted)
        return None

    def _predicted(self, v: Array, g: Array, target: Array) -> float:
        return float(np.sum(g * (target - v)) + np.sum(self.view.lasso * (np.abs(target) - np.abs(v))))

    def minimum(self, v: Array, g: Array) -> Array:
        """About the minimum u of the model, from v.

        Beck & Teboulle 2009 with steps in the diagonal metric ``size h``, where size grows as far as B needs it, and
        with the momentum restarted when it points uphill (O'Donoghue & Candès 2015, the gradient scheme). It finds soon
        which weights are zero, and slowly, where B is ill-conditioned, what the others are; so now and then those are
        solved for.
        """
        enough = FORCING**2 * self.distance(v, g)
        at = _Inner(v, v, g, g, 1.0, 1.0)
        for count in range(1, INNER_STEPS + 1):
            new, g_new, size = self._forward_backward(v, g, at)
            if self.distance(new, g_new) <= enough:
                return new
            if count % SOLVE_EVERY == 0:
                solved = self._solve(new, g_new)
                g_solved = g + self(solved - v)
                if self._value(v, g, solved, g_solved) < self._value(v, g, new, g_new):
                    if self.distance(solved, g_solved) <= enough:
                        return solved
                    at = _Inner(solved, solved, g_solved, g_solved, 1.0, size)
                    continue
                if (new == at.u).all() and (new == at.ahead).all():  # too short for rounding, as all others will be
                    return new
            t = 1.0 if float(np.sum(self.h * (new - at.ahead) * (new - at.u))) < 0 else at.t
            following = (1 + math.sqrt(1 + 4 * t**2)) / 2
            weight = (t - 1) / following
            at = _Inner(new, new + weight * (new - at.u), g_new, g_new + weight * (g_new - at.g_u), following, size)
        return at.u

    def _forward_backward(self, v: Array, g: Array, at: _Inner) -> tuple[Array, Array, float]:
        """A gradient step and the soft threshold, with the model's gradient there and the size that it needed."""
        size = at.size
        while True:
            step = 1 / (size * self.h)
            new = _soft(at.ahead - step * at.g_ahead, self.view.lasso * step)
            move = new - at.ahead
            g_new = g + self(new - v)
            length = float(np.sum(self.h * move * move))
            bend = float(np.sum(move * (g_new - at.g_ahead)))
            if length == 0 or not bend > size * length * (1 + 1e-9):
                return new, g_new, size
            size = max(1.1 * bend / length, 1.3 * size)

    def _value(self, v: Array, g: Array, u: Array, g_u: Array) -> float:
        return float(np.sum((u - v) * (g + g_u))) / 2 + float(np.sum(self.view.lasso * np.abs(u)))

    def _solve(self, u: Array, g_u: Array) -> Array:
        """u with its weights other than zero, and a bias, at the minimum for their signs; what crosses zero stays.

        A Newton step on the model where it is smooth; u itself where there are too many of them for a dense solution.
        """
        free = u != 0
        free[-1] = self.view.intercept
        if free.sum() > SOLVED:
            return u
        r = (g_u + self.view.lasso * np.sign(u))[free]
        matrix = self.part(free)
        unit = 1 / np.sqrt(np.maximum(np.abs(np.diag(matrix)), np.finfo(np.float64).tiny))
        matrix = matrix * unit[:, None] * unit
        matrix[np.diag_indices_from(matrix)] += 1e-12  # features that are copies of each other make it singular
        try:
            delta = unit * np.linalg.solve(matrix, unit * r)
        except np.linalg.LinAlgError:
            return u
        solved = u.copy()
        solved[free] -= delta
        crossed = (solved * u < 0) & (self.view.lasso > 0)
        return np.where(crossed, 0.0, solved)

    def learnt(self, s: Array, y: Array) -> Memory:
        """The state with one more pair; where the change y shows too little curvature it is damped to keep B positive.

        Powell 1978 (Nocedal & Wright, procedure 18.2): y is moved towards B s until s y is a fifth of s B s.
        """
        state = self.state
        bs = self(s, ridge=False)
        sbs, sy = float(np.sum(s * bs)), float(np.sum(s * y))
        if not sbs > 0:
            return state
        if sy < 0.2 * sbs:
            keep = 0.8 * sbs / (sbs - sy)
            y = keep * y + (1 - keep) * bs
        steps = np.concatenate([state.steps[-PAIRS + 1 :], s[None]])
        changes = np.concatenate([state.changes[-PAIRS + 1 :], y[None]])
        return state._replace(scale=self._scale(s, y), steps=steps, changes=changes)

    def _scale(self, s: Array, y: Array) -> Array:
        """c (K,) from ``y_k ~ c_k M s_k``: the geometric mean of the two estimates, <s, y>/<s, M s>, <y, y/M>/<s, y>.

        Along a step the first is the mean curvature and the second, as in L-BFGS, leans to the larger ones. Alone the
        first makes steps too long and the second too short.
        """
        low = np.sum(s * _times(self.moment, s), axis=0)  # (K,)
        high = np.maximum(np.sum(y * _times(self.inverse, y), axis=0), 0.0)
        if not (low.sum() > 0 and high.sum() > 0):
            return self.state.scale
        mean = math.sqrt(high.sum() / low.sum())
        with np.errstate(divide="ignore", invalid="ignore"):
            scale = np.where(low > 0, np.sqrt(high / low), mean)  # one that stands still has none
        return np.clip(scale, 0.1 * mean, 10 * mean)


def _soft(v: Array, threshold: Array) -> Array:
    """Soft thresholding, argmin_u (u - v)^2/2 + threshold |u|: sign(v) max(|v| - threshold, 0)."""
    result: Array = v - np.clip(v, -threshold, threshold)
    return result


def _shorter(share: float, value: float, after: float, predicted: float) -> float:
    """The factor of the next trial: the minimum of the parabola through what is known, within [0.1, 0.5]."""
    bend = after - value - share * predicted
    return min(0.5, max(0.1, -share * predicted / (2 * bend))) if math.isfinite(bend) and bend > 0 else 0.1
