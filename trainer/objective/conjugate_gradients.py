"""The inner solver of Newton's method: preconditioned conjugate gradients (Hestenes & Stiefel 1952)."""

from collections.abc import Callable

import numpy as np

from trainer.arrays import Array

LARGEST = 1000  # products of one step
RADIUS = 1e6


def conjugate_gradients(
    hessian: Callable[[Array], Array], precondition: Callable[[Array], Array], g: Array, y: Array, eta: float
) -> Array:
    """d (D+1,K) with H d = -g, up to |H d + g|_P <= eta |g|_P; y = P g.

    It ends where the curvature is not positive, or d longer than RADIUS |y| in the norm of the inverse of P, which a
    direction almost without curvature makes of it  (Steihaug 1983). |y| would be the length where P is the inverse of
    H; on heavy tails it is many times too short.
    """
    d = np.zeros_like(g)
    r, p = -g, -y
    gamma = first = pp = float(np.vdot(g, y))  # gamma = <r, P r>
    dd = dp = 0.0  # <d, d> and <d, p> with the inverse of P between them, and pp = <p, p>
    for number in range(LARGEST):
        hp = hessian(p)
        bend = float(np.vdot(p, hp))
        step = gamma / bend if bend > 0 else np.inf
        dd += 2 * step * dp + step**2 * pp
        if not dd <= RADIUS**2 * first:
            return d if number else -y
        d += step * p
        r = r - step * hp
        y = precondition(r)
        before, gamma = gamma, float(np.vdot(r, y))
        if gamma <= eta**2 * first:
            break
        turn = gamma / before
        p = y + turn * p
        dp, pp = turn * (dp + step * pp), gamma + turn**2 * pp
    return d


def conjugate_gradients_of_each(
    hessian: Callable[[Array], Callable[[Array], Array]],
    precondition: Callable[[Array], Array],
    g: Array,
    eta: Array,
    most: int,
) -> tuple[Array, int]:
    """d (M,D+1,K) of a stack of convex problems, each to its own eta (M,) or after so many products; their number.

    hessian(models) is the product for these of the stack, as numbers: once half of them are done, only the others are
    multiplied.
    """
    d, y = np.zeros_like(g), precondition(g)
    r, p, gamma = -g, -y, dots(g, y)
    enough, number = eta**2 * gamma, 0
    models, on = np.arange(len(g)), gamma > 0
    product = hessian(models)
    while on.any() and number < most:
        if 2 * on.sum() <= len(on):
            models, r, p, gamma, enough = (part[on] for part in (models, r, p, gamma, enough))
            product, on = hessian(models), on[on]
        number += 1
        hp = product(p)
        bend = dots(p, hp)
        on &= bend > 0
        step = np.where(on, gamma / np.where(on, bend, 1.0), 0.0)[:, None, None]
        d[models] += step * p
        r = r - step * hp
        y = precondition(r)
        before, gamma = gamma, dots(r, y)
        on &= gamma > enough
        p = y + (gamma / np.where(on, before, 1.0))[:, None, None] * p
    return d, number


def dots(a: Array, b: Array) -> Array:
    """<a, b> (M,) of each model of two stacks (M,D+1,K)."""
    result: Array = np.einsum("mdk,mdk->m", a, b)
    return result
