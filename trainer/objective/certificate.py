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

(4) Any convex pair with a ridge, at any b: for r as in (2), but at this b, and |b - b'| <= way for the best of all b',
    E - min E <= |r|^2 / (2 ridge) + |dE/db|_1 way. It needs no best bias, but a small derivative by it.

Without an intercept (1) and (2) hold at any W, with b = b* = 0: there are no terms with b that would have to vanish.

All of it is in float64 and in the weights as the problem states them, from the rows in centred coordinates, where a
mean of many deviations costs no digits.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from trainer.arrays import Array, as_type, dot, in_double, namespace
from trainer.chain.fused import LossGrad
from trainer.chain.losses import FenchelYoung, ZLoss
from trainer.chain.pairs import convex, entropic, kinked, target_share
from trainer.chain.strategies import auto
from trainer.chain.strategies import value as loss_of
from trainer.objective.blocks import Block, Kept
from trainer.objective.conjugate_gradients import conjugate_gradients
from trainer.objective.objective import BlockSum, weighted
from trainer.objective.penalties import subgradient
from trainer.objective.preconditioner import measured, preconditioner
from trainer.objective.view import Evaluated, View

STEPS, HALVINGS = 100, 20  # to the best bias, and of each of them
ROUNDING, FLAT = 1e-15, 1e-10  # of the derivative by the bias: where it is rounding, and where it may count as zero
LITTLE = 0.01  # of what the best bias gained, or of the gap that is wanted, not worth a pass over the rows
USUAL = 1e-6  # of E: the gap where none is wanted
REFINED = 5  # of Newton's steps
ROOM = 10  # beyond its own size, how far a bias may be from the best one


class Unproved(Exception):
    """Why there is no proof, in a sentence."""


class Certificate(NamedTuple):
    """gap bounds (E(w) - min E) / E(w), or is None where nothing is proved; why says it in words.

    value is E(w) in double precision, nan without a proof.
    """

    gap: float | None
    why: str
    value: float = math.nan

    def proves(self, gap: float) -> bool:
        return self.gap is not None and self.gap <= gap


def certify(view: View, w: Array, wanted: float = math.inf, at: Evaluated | None = None) -> Certificate:
    """What can be proved of w (D+1,K) in a view in double precision; at has z of each block where it is known.

    It is asked where no_proof has nothing to say. The bound is tight at the minimum and loose beside it. So where it is
    above what is wanted and a penalty is smooth, some of Newton's steps go on from w in double precision, and what is
    proved of E there is true of w, too.
    """
    objective = view.sums.objective
    try:
        here = _Scores(view, view.enter(w), at.rows if at is not None and at.dtype == np.float64 else None)
        if isinstance(objective.loss, ZLoss) and not here.z_loss_is_convex():
            raise Unproved("ce with z_loss is not convex at scores as low as these.")
        value, bound = _bound(here, wanted)
        for _ in range(REFINED if objective.penalty.lasso == 0 and math.isfinite(wanted) else 0):
            if not bound > wanted * value:
                break
            eta = 0.3 * math.sqrt(wanted * value / bound)  # the bound falls with its square
            further = _Scores(view, _newton(view, here.v, min(max(eta, 1e-6), 0.1)))
            lower, rest = _bound(further, wanted)
            if not value - lower + rest < bound:
                break
            here, bound = further, max(value - lower, 0.0) + rest
    except Unproved as reason:
        return Certificate(None, f"no proof: {reason}")
    gap = bound / value if value > 0 else float(bound > 0)
    if not np.isfinite(gap):
        return Certificate(None, "no proof: the bound is not finite.")
    return Certificate(float(gap), f"certified to {gap:.1e} of E", value)


def _bound(here: "_Scores", wanted: float) -> tuple[float, float]:
    """E(w), and a bound on E(w) - min E; see certify."""
    penalty = here.view.sums.objective.penalty
    ridge, lasso, w = penalty.ridge, penalty.lasso, here.view.leave(here.v)
    intercept = here.view.intercept
    shift, slack = here.best_bias(wanted) if intercept else (np.zeros(w.shape[1]), 0.0)
    g, weights = here.gradient(shift), w[:-1]  # (D,K), by the weights as the problem states them
    if here.view.sums.canonical:
        c = 1.0 if ridge > 0 else min(1.0, lasso / max(float(np.abs(g).max(initial=0.0)), 1e-300))
        bound = _conjugates(weights, c * g, ridge, lasso) + (here.divergence(shift, c) if c < 1 else 0.0)
    else:
        r = subgradient(np.vstack([weights, weights[:1]]), np.vstack([g + ridge * weights, g[:1]]), lasso)[:-1]
        bound = float(np.sum(r * r)) / (2 * ridge)
    return here.value + penalty.value(w), bound + slack


def _newton(view: View, v: Array, eta: float) -> Array:
    """v after one of Newton's steps, in double precision, that leaves the share eta of the gradient."""
    here = view.at(view.leave(v))
    p = preconditioner(view, here.v)
    return here.v + conjugate_gradients(view.hessian(here), p, here.g, p(here.g), eta)


def no_proof(sums: BlockSum) -> Certificate | None:
    """The certificate where nothing can be proved, whatever w is."""
    objective = sums.objective
    activation, loss, penalty = objective.activation, objective.loss, objective.penalty
    pair = f"activation={activation.name} with loss={loss.name}"
    if not convex(activation, loss):
        why = f"{pair} is not convex, where a point can be stationary and no more."
    elif kinked(activation, loss):
        why = f"the gradient of {pair} jumps."
    elif penalty.ridge == 0 and penalty.lasso == 0:
        why = "without a penalty no gradient tells how far the minimum is."
    elif penalty.ridge == 0 and not sums.canonical:
        why = f"penalty={penalty.name} needs a canonical pair for it, or a share of l2."
    else:
        return None
    return Certificate(None, f"no proof: {why}")


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


class _Inverse:
    """g (K,) -> (C + |g| / 10)^-1 g for C (K,K), or its diagonal (K,), with |g| the largest entry.

    Where the curvature vanishes, as of scores that have run away, a step is at most 10; near the best bias it is
    Newton's own. What it learns makes it the inverse of the Hessian along the steps that were taken  (Broyden 1965).
    """

    def __init__(self, c: Array) -> None:
        if not np.isfinite(c).all():
            raise Unproved("the scores are too large.")
        self._basis: Array | None = None
        self._values = c
        if c.ndim == 2:
            self._values, self._basis = np.linalg.eigh(c)
        self._pairs: list[tuple[Array, Array]] = []

    def __call__(self, g: Array) -> Array:
        h = np.maximum(self._values + np.abs(g).max() / 10, 1e-13 * float(self._values.max()))
        by = np.where(h > 0, h, np.inf)
        step: Array = g / by if self._basis is None else self._basis @ ((self._basis.T @ g) / by)
        for s, u in self._pairs:
            step = step + u * float(s @ step)
        return step

    def learn(self, s: Array, y: Array) -> None:
        """Makes s of y, the change of g along the step s."""
        hy = self(y)
        if s @ hy > 0.1 * (s @ s):
            self._pairs.append((s, (s - hy) / float(s @ hy)))


def _flat(g: Array, value: float) -> bool:
    """Whether the derivative (K,) of a loss by the bias may count as zero."""
    return float(np.abs(g).sum()) <= FLAT * max(1.0, value)


class _Scores:
    """The rows at v, whose products with the features are made once where there is room for them."""

    def __init__(self, view: View, v: Array, scores: Kept | None = None) -> None:
        self.view, self.sums, self.v, self._ready = view, view.sums, v, view.ready(v)
        self._kept = view.store(v.shape[1]) if scores is None else scores
        self.value, self._slope = self.at_bias(np.zeros(v.shape[1]))  # the mean loss, and its derivative by the bias

    def z(self, block: Block) -> Array:
        result: Array = self._kept.of(block, lambda: self.view.times(block, self._ready))
        return result

    def _rows(self, block: Block, shift: Array) -> LossGrad:
        """The weighted loss (B,) and dl_dz (B,K) of a block."""
        part = self.sums.targets.rows(block.rows)
        y = part.y if self.sums.short_exactly else part.targets(np.float64)
        return weighted(part, *auto(*self.sums.objective.pair, self.z(block) + shift, y))

    def at_bias(self, shift: Array) -> tuple[float, Array]:
        """The mean loss and its derivative (K,) by the bias, at a bias moved by shift."""
        moved = self.sums.device.put(shift)

        def of_block(block: Block) -> tuple[Any, Array]:
            loss, dl_dz = self._rows(block, moved)
            return in_double(loss), in_double(dl_dz, axis=0)

        with np.errstate(all="ignore"):
            value, g = self.sums.map_sum(of_block)
        value = float(value)
        if not np.isfinite(value + g.sum()):
            raise Unproved("the loss is not finite.")
        return value / self.sums.total, g / self.sums.total

    def best_bias(self, wanted: float) -> tuple[Array, float]:
        """The move (K,) to the best bias, and a bound on what it gained; Unproved where it is not found.

        Broyden's method from the mean Hessian of a sample of the rows, with steps halved until the loss or its largest
        derivative falls; until what is left adds little to the bound, or to the gap that is wanted.
        """
        shift, value, g, inverse = np.zeros(self.v.shape[1]), self.value, self._slope, None
        for _ in range(STEPS):
            size, (gained, left) = np.abs(g).max(), self._gained(shift, g)
            little = LITTLE * max(gained, min(wanted, USUAL) * value)
            if size <= ROUNDING * max(1.0, value) or (_flat(g, value) and left <= little):
                break
            if inverse is None:
                moved = np.concatenate([self.v[:-1], self.v[-1:] + shift])
                inverse = _Inverse(measured(self.view, moved)[0])
            step = -inverse(g)
            if self.sums.shift_invariant:
                step -= step.mean()
            for t in 0.5 ** np.arange(HALVINGS + 1):
                after, slope = self.at_bias(shift + t * step)
                if after < value or np.abs(slope).max() < size:
                    break
            else:
                break
            if np.abs(slope).max() > 0.3 * size:
                inverse = None  # made anew where the bias is now
            else:
                inverse.learn(t * step, slope - g)
            shift, value, g = shift + t * step, min(value, after), slope
        if not _flat(g, value):
            raise Unproved("the best bias for these weights was not found.")
        return shift, sum(self._gained(shift, g))

    def _gained(self, shift: Array, g: Array) -> tuple[float, float]:
        """Bounds on what the bias gained by moving so far (K,), and on what it can gain yet with the derivative g (K,).

        That counts along a way that no bias beside the best one is from it.
        """
        way = ROOM + float(np.abs(self.v[-1]).max() + np.abs(shift).max())
        return max(0.0, -float(self._slope @ shift)), float(np.abs(g).sum()) * way

    def gradient(self, shift: Array) -> Array:
        """G (D,K), of the mean loss by the weights, at the bias moved by shift."""
        moved = self.sums.device.put(shift)
        with np.errstate(all="ignore"):
            (g,) = self.sums.map_sum(lambda block: (self.view.against(block, self._rows(block, moved).dl_dz),))
        return self.view.outer(g)[:-1] * self.view.scale[:, None] / self.sums.total

    def divergence(self, shift: Array, c: float) -> float:
        """The weighted mean of L(z; a') at a' = y + c (a - y), for rows of any sum s: s L(z; a'/s)."""
        activation, loss = self.sums.objective.pair
        scale, activation, loss = target_share(activation, loss), entropic(activation), FenchelYoung()
        moved = self.sums.device.put(shift)

        def of_block(block: Block) -> tuple[Any]:
            part = self.sums.targets.rows(block.rows)
            z, y = self.z(block) + moved, part.targets(np.float64)
            xp = namespace(z)
            s = xp.sum(y, axis=1) if self.sums.softmax_like else xp.ones_like(z[:, 0])
            q = y / xp.where(s > 0, s, 1.0)[:, None]
            row = s * loss_of(activation, loss, z, q + c * (activation(z) - q))
            return (xp.sum(row) if part.weight is None else dot(row, part.weight),)

        return scale * float(self.sums.map_sum(of_block)[0]) / self.sums.total

    def z_loss_is_convex(self) -> bool:
        """Whether ce + weight lse^2 lies where it is convex: s lse + weight lse^2 must rise, as it does for higher lse.

        A convex function that is nowhere above it, and equal where it rises, has no higher minimum.
        """
        activation, loss = self.sums.objective.pair
        softmax: Any = entropic(activation)
        strength = getattr(loss, "weight", 0.0)

        def outside(block: Block) -> tuple[Any]:
            s = in_double(self.sums.targets.rows(block.rows).targets(np.float64), axis=1)
            rising = s + 2 * strength * softmax.log_normalizer(self.z(block)) >= 0
            return (in_double(as_type(~rising, np.float64)),)

        return self.sums.map_sum(outside) == [0]
