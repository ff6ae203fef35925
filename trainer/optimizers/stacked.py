"""Newton's method on a stack: the models of all folds at one strength, step by step together.

single precision   until the bound on the gap is small enough, or single precision has nothing more to say
double precision   for the proof, and on to it

The strengths come from the strongest to the weakest. Folds differ little, so the minimum for all of them together comes
first: its preconditioner serves each, and each begins as far from it as it ended up at the strength before. Every step
leads down; what does not get on is left to the solvers of one model.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from trainer.arrays import Array
from trainer.objective.conjugate_gradients import conjugate_gradients_of_each, dots
from trainer.objective.preconditioner import Preconditioner, Whole, preconditioner, whole
from trainer.objective.stack import Models, Stack, Stacked
from trainer.optimizers.stopping import noise

NEAR = 1e-5  # of E: the estimated gap up to which the minimum of all folds together is looked for
LEAST = 1e-11  # of E: the smallest one that single precision can see
Inverse = Preconditioner | Whole
FEW = 3  # points before the last one that may foretell the next
FINEST, ROUGHEST = 1e-3, 0.2  # shares of the gradient that a step leaves
PRODUCTS = 40  # of a step: a new Hessian is worth more than a step to the last digit
ROUNDS, HALVINGS, REFINED = 30, 10, 6


class Aim(NamedTuple):
    """The gap to be proved of E, and the iterations that may be spent on it.

    >>> Aim(gap=1e-6, iterations=200).gap
    1e-06
    """

    gap: float
    iterations: int


class Solved(NamedTuple):
    """The folds at one strength: parameters v (F,D+1,K), their iterations, E, its bounds and products, (F,) each.

    >>> Solved(0, np.zeros((1, 2, 2)), np.array([3]), np.array([0.5]), np.array([1e-7]), np.array([9])).iterations
    array([3])
    """

    place: int
    v: Array
    iterations: Array
    value: Array
    bound: Array
    products: Array


def along(stack: Stack, v: Array, strengths: Array, aim: Aim) -> Iterator[Solved]:
    """The minima for the sets of weights of a stack, from v (D+1,K), at strengths (F,S) that fall along S.

    Of several sets the last one is their mean, which the others begin at, and no result.

    >>> from trainer.objective.stack import Stack
    >>> stack = Stack(Objective(Softmax(), CrossEntropy(), auto, L2(1.0)), data, np.ones((1, 4)), np.array([4.0]), 1)
    >>> [solved] = along(stack, np.zeros((2, 2)), np.array([[0.1]]), Aim(1e-6, 20))
    >>> bool(solved.bound[0] <= 1e-6 * solved.value[0])
    True
    """
    several = len(strengths) > 1
    sets = np.arange(len(strengths) - several)
    middle, lag = _Track(v), _Track(np.zeros((len(sets), *v.shape)))
    metric, dear = None, False
    for place, strength in enumerate(strengths.T):
        last = float(strength[-1])
        v = middle.ahead(last)
        metric = preconditioner(stack.exact.times_ridge(last), v, metric)
        if several:
            mean = Models(np.array([len(sets)]), strength[-1:])
            v = _approach(stack, mean, v[None], metric, aim, NEAR)[0].v[0]
        by = (whole(stack.exact.times_ridge(last), v) if dear else None) or metric
        starts = v + lag.ahead(last)
        parts = [
            _solve(stack, Models(some, strength[some]), starts[some], by, aim)
            for some in np.split(sets, range(stack.most, len(sets), stack.most))
        ]
        solved = Solved(place, *(np.concatenate(part) for part in zip(*parts, strict=True)))
        dear = dear or solved.products.sum() > 2 * stack.worth
        middle.add(last, v if several else solved.v[0])
        lag.add(last, solved.v - v if several else np.zeros_like(solved.v))
        yield solved


class _Track:
    """Parameters along the strengths, and what the polynomial in log(strength) through the last few makes of the next.

    Through as many as foretold the last one best; where that were all before it, through one more.
    """

    def __init__(self, start: Array) -> None:
        self.start = start
        self.points: list[tuple[float, Array]] = []

    def add(self, strength: float, v: Array) -> None:
        self.points = [*self.points[-FEW:], (math.log(strength), v)]

    def ahead(self, strength: float) -> Array:
        if not self.points:
            return self.start
        *before, (at, v) = self.points
        missed = [np.linalg.norm(_through(before[-n:], at) - v) for n in range(1, len(before) + 1)]
        number = 1 + int(np.argmin(missed)) if missed else 1
        return _through(self.points[-number - (number == len(before)) :], math.log(strength))


def _through(points: list[tuple[float, Array]], at: float) -> Array:
    """The polynomial through points, by Lagrange's formula."""
    value = np.zeros_like(points[0][1])
    for n, (x, v) in enumerate(points):
        value += math.prod((at - z) / (x - z) for m, (z, _) in enumerate(points) if m != n) * v
    return value


def _solve(
    stack: Stack, models: Models, v: Array, metric: Inverse, aim: Aim
) -> tuple[Array, Array, Array, Array, Array]:
    """What Solved has of these models, from v (M,D+1,K)."""
    near, iterations, products = _approach(stack, models, v, metric, aim, LEAST)
    value, bound = np.full(len(v), np.inf), np.full(len(v), np.inf)
    left, best = np.arange(len(v)), near.v.copy()
    for _ in range(REFINED):
        some = models.some(left)
        here = stack.settled(some, near, aim.gap / 4)
        of_weights, of_bias = stack.bounds(some, here, metric.mean)
        better = of_weights + of_bias < bound[left] / 2
        now = left[better]
        best[now], value[now], bound[now] = here.v[better], here.value[better], (of_weights + of_bias)[better]
        on = better & (bound[left] > aim.gap * value[left]) & (iterations[left] < aim.iterations)
        if not on.any():
            break
        left, some, here = left[on], some.some(on), here.some(on)
        d, number = _newton(stack, some, here, metric, _eta(of_weights[on], aim.gap * here.value))
        near = here._replace(v=here.v + d)
        iterations[left] += 1
        products[left] += number
    return best, iterations, value, bound, products


def _approach(
    stack: Stack, models: Models, v: Array, metric: Inverse, aim: Aim, least: float
) -> tuple[Stacked, Array, Array]:
    """Steps in single precision until half of the gap is all but proved, or least reached; and their numbers."""
    here, able = stack.at(models, v), np.full(len(v), True)
    of_weights, _ = stack.bounds(models, here, metric.mean)
    iterations, products = np.zeros((2, len(v)), dtype=int)
    for _ in range(min(ROUNDS, aim.iterations)):
        away = dots(here.g, metric(here.g)) / 2 / here.value
        on = able & (of_weights > aim.gap / 2 * here.value) & (away > least)
        if not on.any():
            break
        eta = np.maximum(_eta(of_weights, aim.gap * here.value), np.minimum(away**0.4, ROUGHEST))
        d, number = _newton(stack, models, here, metric, np.where(on, eta, 1.0))
        before, (here, low) = here, _lower(stack, models, here, np.where(on[:, None, None], d, 0.0))
        # Where E has fallen by no more than its rounding, only the bound tells whether a step led anywhere.
        fell = before.value - here.value > noise(1.0, np.float32) * here.value
        last, (of_weights, _) = of_weights, stack.bounds(models, here, metric.mean)
        able &= low & (fell | (of_weights < last / 2))
        iterations += on
        products += number
    return here, iterations, products


def _eta(bound: Array, wanted: Array) -> Array:
    """The share of the gradient (M,) that may be left for a bound to become what is wanted."""
    # The bound falls with the square of the gradient.
    result: Array = np.clip(0.5 * np.sqrt(wanted / (2 * np.maximum(bound, 1e-300))), FINEST, ROUGHEST)
    return result


def _newton(stack: Stack, models: Models, here: Stacked, metric: Inverse, eta: Array) -> tuple[Array, int]:
    """d (M,D+1,K) that leaves the share eta (M,) of each gradient, zero where that overflows, and products it took."""

    def hessian(some: Array) -> Callable[[Array], Array]:
        return stack.hessian(models.some(some), here.some(some))

    d, number = conjugate_gradients_of_each(hessian, metric, here.g, eta, PRODUCTS)
    return np.where(np.isfinite(dots(d, d))[:, None, None], d, 0.0), number


def _lower(stack: Stack, models: Models, here: Stacked, d: Array) -> tuple[Stacked, Array]:
    """The models after steps along d that are halved until E falls (Armijo 1966), but for its rounding; and which did.

    Those that did not stay where they are.
    """
    t, slope = np.ones(len(d)), dots(here.g, d)
    for _ in range(HALVINGS):
        found = stack.at(models, here.v + t[:, None, None] * d)
        low = found.value <= here.value + 1e-4 * t * slope + noise(1.0, np.float32) * here.value
        if low.all():
            return found, low
        t = np.where(low, t, t / 2)
    return stack.at(models, here.v + np.where(low, t, 0.0)[:, None, None] * d), low
