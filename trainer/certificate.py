"""How far E(w) can be from its minimum, proved by duality or by strong convexity and not by a solver's own rule.

Let E(w) = sum_n weight_n l_n(z_n) / total + h(W) with W = w[:-1] and h(W) = ridge/2 |W|^2 + lasso |W|_1. For any bias
b* that is the best for these W, and G the derivative of the mean loss by W there:

(1) A canonical pair has l_n(z) = Omega*(z) - <y, z> up to a constant. Take a' = y + c (a - y) for any c in [0, 1]. With
    V = c G, Fenchel's inequality for every row and for h gives  (as sum_n (a'_n - y_n) = 0, terms with b vanish)
        E(W, b*) - min E <= sum_n weight_n L(z_n; a'_n) / total + h(W) + h*(-V) + <W, V>,
    where L(z; a') = Omega*(z) + Omega(a') - <a', z> is the Fenchel-Young loss, which is zero for c = 1. With a ridge
    take c = 1; for l2 what is left is |dE/dW|^2 / (2 ridge). Without, h* is zero where no |V| exceeds lasso, and else
    infinite, so take c = min(1, lasso / max |G|).
(2) Any convex pair with a ridge: E is ridge-strongly convex in W, also with b at its best, so for the smallest
    subgradient r of E by W it is E - min E <= |r|^2 / (2 ridge).
(3) E(W, b) - E(W, b*) <= <dE/db, b - b*>, by convexity.

All of it is in float64 and in the weights as the problem states them, from the rows in centred coordinates, where a
mean of many deviations costs no digits.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from trainer.arrays import Array
from trainer.conjugate_gradients import conjugate_gradients
from trainer.errors import NonFiniteError
from trainer.gradients import auto, value
from trainer.losses import FenchelYoung, ZLoss
from trainer.objective import KEPT
from trainer.pairs import convex, kinked
from trainer.penalties import subgradient
from trainer.preconditioner import measured, preconditioner

if TYPE_CHECKING:
    from trainer.objective import BlockSum

STEPS = 60  # to the best bias
REFINED = 5  # of Newton's steps


class Certificate(NamedTuple):
    """gap bounds (E(w) - min E) / E(w), or is None where nothing is proved; why says it in words.

    value is E(w), in float64.
    """

    gap: float | None
    why: str
    value: float

    def proves(self, gap: float) -> bool:
        return self.gap is not None and self.gap <= gap


def certify(problem: "BlockSum", w: Array, wanted: float = math.inf) -> Certificate:
    """What can be proved of w (D+1,K).

    The bound is tight at the minimum and loose beside it. So where it is above what is wanted and a penalty is smooth,
    some of Newton's steps go on from w in double precision, and what is proved of E there is true of w, too.
    """
    penalty, view = problem.objective.penalty, problem.view(np.float64)
    v = view.enter(w)
    try:
        here = _Scores(problem, v)
        if reason := without_proof(problem, here):
            return Certificate(None, reason, here.value + penalty.value(view.leave(v)))
        value, bound = _bound(here)
        for _ in range(REFINED if penalty.lasso == 0 and math.isfinite(wanted) else 0):
            if not bound > wanted * value:
                break
            further = _Scores(problem, _newton(problem, here.v))
            lower, rest = _bound(further)
            if not value - lower + rest < bound:
                break
            here, bound = further, max(value - lower, 0.0) + rest
    except NonFiniteError as error:
        return Certificate(None, f"no proof: {error}", float("nan"))
    gap = bound / value if value > 0 else float(bound > 0)
    if not np.isfinite(gap):
        return Certificate(None, "no proof: the bound is not finite.", value)
    return Certificate(float(gap), f"certified to {gap:.1e} of E", value)


def _bound(here: "_Scores") -> tuple[float, float]:
    """E(w), and a bound on E(w) - min E."""
    problem, penalty = here.problem, here.problem.objective.penalty
    ridge, lasso, w = penalty.ridge, penalty.lasso, here.view.leave(here.v)
    shift, slack = here.best_bias()
    g, weights = here.gradient(shift), w[:-1]  # (D,K), by the weights as the problem states them
    if problem.canonical:
        c = 1.0 if ridge > 0 else min(1.0, lasso / max(float(np.abs(g).max(initial=0.0)), 1e-300))
        bound = _conjugates(weights, c * g, ridge, lasso) + (here.divergence(shift, c) if c < 1 else 0.0)
    else:
        r = subgradient(np.vstack([weights, weights[:1]]), np.vstack([g + ridge * weights, g[:1]]), lasso)[:-1]
        bound = float(np.sum(r * r)) / (2 * ridge)
    return here.value + penalty.value(w), bound + slack


def _newton(problem: "BlockSum", v: Array) -> Array:
    """v after one of Newton's steps, in double precision."""
    view = problem.view(np.float64)
    here = view.at(view.leave(v))
    p = preconditioner(view, here.v)
    return here.v + conjugate_gradients(view.hessian(here), p, here.g, p(here.g), 1e-6)


def without_proof(problem: "BlockSum", here: "_Scores") -> str:
    """Why nothing can be proved of a problem; empty where something can."""
    objective = problem.objective
    activation, loss, penalty = objective.activation, objective.loss, objective.penalty
    if not convex(activation, loss):
        pair = f"activation={activation.name} with loss={loss.name}"
        return f"no proof: {pair} is not convex, where a point can be stationary and no more."
    if kinked(activation, loss):
        return f"no proof: the gradient of activation={activation.name} with loss={loss.name} jumps."
    if penalty.ridge == 0 and penalty.lasso == 0:
        return "no proof: without a penalty no gradient tells how far the minimum is."
    if penalty.ridge == 0 and not problem.canonical:
        return f"no proof: penalty={penalty.name} needs a canonical pair for it, or a share of l2."
    if isinstance(loss, ZLoss) and not here.z_loss_is_convex():
        return "no proof: ce with z_loss is not convex at scores as low as these."
    return ""


def _conjugates(w: Array, v: Array, ridge: float, lasso: float) -> float:
    """h(W) + h*(-V) + <W, V>, as a sum of what is not negative."""
    over = v - np.clip(v, -lasso, lasso)  # (D,K)
    against = np.abs(w) * np.maximum(lasso + np.sign(w) * v, 0.0)
    if ridge == 0:
        return float(np.sum(against))
    inside = over == 0
    # Outside, lasso |W| + W V is W over for opposite signs, and 2 lasso |W| more for equal ones.
    equal = np.where(~inside & (w * v > 0), 2 * lasso * np.abs(w), 0.0)
    return float(np.sum(np.where(inside, ridge / 2 * w * w + against, (ridge * w + over) ** 2 / (2 * ridge) + equal)))


def _inverse(c: Array) -> Callable[[Array], Array]:
    """g (K,) -> C^-1 g for C (K,K), or its diagonal (K,)."""
    if c.ndim == 1:
        h = c + 1e-12 * c.mean()
        return lambda g: g / np.where(h > 0, h, np.inf)
    p = np.linalg.pinv(c + 1e-12 * np.trace(c) / len(c) * np.eye(len(c)), rcond=1e-13, hermitian=True)
    return lambda g: p @ g


class _Scores:
    """The rows at v, whose products with the features are made once where there is room for them."""

    def __init__(self, problem: "BlockSum", v: Array) -> None:
        self.problem, self.v = problem, v
        self.view = problem.view(np.float64)
        self._kept: dict[int, Array] = {}
        self._keep = len(problem.data) * v.shape[1] <= KEPT
        self.value, self._slope = self.at_bias(np.zeros(v.shape[1]))  # the mean loss, and its derivative by the bias

    def z(self, rows: slice) -> Array:
        found = self._kept.get(rows.start)
        if found is None:
            found = self.view.times(rows, self.v)
            if self._keep:
                self._kept[rows.start] = found
        return found

    def _rows(self, rows: slice, shift: Array) -> tuple[Array, Array, Array, Array | None]:
        """loss (B,), dl_dz (B,K), both without the weights, z, and the weights (B,)."""
        part = self.problem.targets.rows(rows)
        pair = (self.problem.objective.activation, self.problem.objective.loss)
        z = self.z(rows) + shift
        y = part.y if self.problem.short_exactly else part.targets(np.float64)
        loss, dl_dz = auto(*pair, z, y)
        return loss, dl_dz, z, part.weight

    def at_bias(self, shift: Array) -> tuple[float, Array]:
        """The mean loss and its derivative (K,) by the bias, at a bias moved by shift."""

        def partial(rows: slice) -> tuple[float, Array]:
            loss, dl_dz, _, weight = self._rows(rows, shift)
            if weight is None:
                return float(loss.sum()), dl_dz.sum(axis=0)
            return float(weight @ loss), weight.astype(np.float64) @ dl_dz

        value_at, g = 0.0, np.zeros(self.v.shape[1])
        with np.errstate(all="ignore"):
            for loss, share in self.problem.each_block(partial):
                value_at += loss
                g += share
        total = self.problem.total
        if not np.isfinite(value_at + g.sum()):
            raise NonFiniteError("the loss is not finite.")
        return value_at / total, g / total

    def best_bias(self) -> tuple[Array, float]:
        """The move (K,) to the best bias, and a bound on what it gained.

        Newton's method with the mean Hessian of a sample of the rows, and steps halved until the loss falls.
        """
        shift, first, v = np.zeros(self.v.shape[1]), self._slope, self.v
        here, g, inverse = self.value, first, None
        best = float(np.abs(first).max())
        for _ in range(STEPS):
            size = float(np.abs(g).max())
            if size <= 1e-15 * max(1.0, abs(here)):
                break
            if inverse is None:
                moved = v.copy()
                moved[-1] += shift
                inverse = _inverse(measured(self.problem, moved)[0])
            step = -inverse(g)
            if self.problem.shift_invariant:
                step -= step.mean()
            t = 1.0
            while True:
                after, slope = self.at_bias(shift + t * step)
                lower = float(np.abs(slope).max())
                if after < here or lower < size or t < 1e-6:
                    break
                t /= 2
            if not (after < here or lower < size):
                break
            if lower > 0.3 * size:
                inverse = None  # made anew
            shift, here, g = shift + t * step, min(here, after), slope
            if lower > 0.5 * best and lower < 1e-13:  # rounding
                break
            best = min(best, lower)
        slack = max(0.0, -float(first @ shift)) + 2 * float(np.abs(g).sum()) * float(np.abs(shift).max(initial=0.0))
        return shift, slack

    def gradient(self, shift: Array) -> Array:
        """G (D,K), of the mean loss by the weights, at the bias moved by shift."""

        def partial(rows: slice) -> Array:
            _, dl_dz, _, weight = self._rows(rows, shift)
            return self.view.against(rows, dl_dz if weight is None else weight[:, None].astype(np.float64) * dl_dz)

        sums = np.zeros(self.v.shape)
        with np.errstate(all="ignore"):
            for share in self.problem.each_block(partial):
                sums += share
        result: Array = self.view.outer(sums)[:-1] * self.view.scale[:, None] / self.problem.total
        return result

    def divergence(self, shift: Array, c: float) -> float:
        """The weighted mean of L(z; a') at a' = y + c (a - y), for rows of any sum s: s L(z; a'/s)."""
        activation, loss = self.problem.entropic
        scale = (
            1.0 if isinstance(self.problem.objective.loss, FenchelYoung) else 1 / getattr(activation, "temperature", 1)
        )

        def partial(rows: slice) -> float:
            part = self.problem.targets.rows(rows)
            z, y = self.z(rows) + shift, part.targets(np.float64)
            s = y.sum(axis=1) if self.problem.softmax_like else np.ones(len(y))
            q = y / np.where(s > 0, s, 1.0)[:, None]
            row = s * value(activation, loss, z, q + c * (activation(z) - q))
            return float(row.sum() if part.weight is None else part.weight @ row)

        return scale * sum(self.problem.each_block(partial)) / self.problem.total

    def z_loss_is_convex(self) -> bool:
        """Whether ce + weight lse^2 lies where it is convex: s lse + weight lse^2 must rise, as it does for higher lse.

        A convex function that is nowhere above it, and equal where it rises, has no higher minimum.
        """
        objective = self.problem.objective
        temperature, strength = (
            getattr(objective.activation, "temperature", 1.0),
            getattr(objective.loss, "weight", 0.0),
        )

        def partial(rows: slice) -> bool:
            part, z = self.problem.targets.rows(rows), self.z(rows) / temperature
            top = z.max(axis=1)
            lse = top + np.log(np.exp(z - top[:, None]).sum(axis=1))
            return bool((part.targets(np.float64).sum(axis=1) + 2 * strength * lse >= 0).all())

        return all(self.problem.each_block(partial))
