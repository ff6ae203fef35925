"""Is every gradient right?  ``python -m trainer.check [seed=0]`` asks each strategy of each pair, in one table.

Two witnesses: central differences, which share nothing with the formulas but the loss's value, and the other strategies
of the pair, which share little with each other. What neither can testify to is left out and never counted as right:

kinks      coordinates where the differences to the left and to the right disagree (mae, hinge losses, the edge of a
           sparse activation's support): a central difference there is the mean of two slopes.
rounding   a is rounded by eps, so the loss by eps * (|loss| + sum_k |a_k dl_da_k|). Rows where this, over the step, is
           more than 1e-7 are beyond central differences, and so are entries whose step is coarse beside the curvature;
           rows where the sum is above 1e6 (bce on a confident mistake: 1 / (1 - a)) are beyond the strategies that
           start from a and dl_da: vjp, jacobian and loop.
not finite these three start from numbers like y / a, which is infinite where a underflows. Such rows are counted
           ("nf 3") at extreme scores; at ordinary ones, and for fused and log at any, they fail (but log not
           where a rounds to one, of a loss that says so in ``log_exact``).
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from trainer.arrays import Array
from trainer.chain.activations import ACTIVATIONS, Activation
from trainer.chain.known import known
from trainer.chain.losses import LOSSES, Loss
from trainer.chain.pairs import check_pair
from trainer.chain.strategies import GRADIENTS, GradientStrategy, has_strategy, value
from trainer.errors import ConfigError

STRATEGIES = [name for name in GRADIENTS if name not in ("auto", "numeric")]
FROM_A = ("vjp", "jacobian", "loop")  # they start from a and dl_da
TOLERANCE = 1e-6  # from central differences
APART = 1e-9  # from each other
CLASSES = 4
EPS = np.finfo(np.float64).eps


def deviations(activation: Activation, loss: Loss, z: Array, y: Array, strategy: GradientStrategy) -> dict[str, float]:
    """The largest deviation of a strategy's dl_dz from each other way that the pair has, numeric included, by name.

    In each row relative to max(1, largest |dl_dz|): a row's small entries are differences of numbers of the size of its
    largest, and below one what counts is what a step of the optimiser would notice.  nan where nothing can be compared
    (see the module), inf where the strategy is not finite and has no excuse.  z (N,K) and y (N,K) in float64.
    """
    own = next((name for name, known in GRADIENTS.items() if known is strategy), "")
    names = witnesses(activation, loss, strategy)
    with np.errstate(all="ignore"):
        grads = {name: GRADIENTS[name](activation, loss, z, y).dl_dz for name in names}
        grads[own] = strategy(activation, loss, z, y).dl_dz
        reach = _reach(activation, loss, z, y)
    if own not in (*FROM_A, "numeric") and not np.isfinite(grads[own]).all():
        return dict.fromkeys(names, math.inf)
    return {name: _deviation(grads, own, name, reach) for name in names}


def witnesses(activation: Activation, loss: Loss, strategy: GradientStrategy) -> list[str]:
    """The names of the strategies that the pair has beside this one."""
    return [
        name
        for name in (*STRATEGIES, "numeric")
        if GRADIENTS[name] is not strategy and has_strategy(name, activation, loss)
    ]


class _Reach(NamedTuple):
    from_a: Array  # rows (N,1) that the strategies which start from a can compute
    numeric: Array  # entries (N,K) that central differences can


def _reach(activation: Activation, loss: Loss, z: Array, y: Array) -> _Reach:
    """Where each witness can be trusted; the module says why.  Comparisons with nan are false, as is wanted here."""
    a = activation(z)
    here = value(activation, loss, z, y)  # (N,)
    size = np.abs(a * loss.grad(a, y)).sum(axis=1)  # (N,), the sum of |dl / dlog a|
    step = np.cbrt(EPS) * np.maximum(np.abs(z), 1)  # (N,K), as in gradients.numeric
    columns = []
    for k in range(z.shape[1]):
        shift = step[:, k, None] * (np.arange(z.shape[1]) == k)
        up, down = (value(activation, loss, z + sign * shift, y) for sign in (1, -1))
        columns.append(((up - here) / step[:, k], (here - down) / step[:, k]))
    right, left = np.stack(columns, axis=2)  # (N,K) each
    scale = np.maximum(np.abs(right).max(axis=1, keepdims=True), 1)  # (N,1)
    bend = np.abs(right - left)  # step times the curvature, or the jump of a kink
    smooth = (bend <= 1e-4 * scale) & (step * bend <= 1e-8 * scale)
    exact = EPS * (np.abs(here) + size)[:, None] <= 1e-7 * step * scale
    return _Reach(size[:, None] <= 1e6 * scale, smooth & exact)


def _deviation(grads: Mapping[str, Array], one: str, other: str, reach: _Reach) -> float:
    """The largest among the rows where both are finite and the entries that both can be trusted with, else nan."""
    compared = np.isfinite(grads[one] + grads[other]).all(axis=1, keepdims=True) | np.zeros_like(reach.numeric)
    if one in FROM_A or other in FROM_A:
        compared &= reach.from_a
    if "numeric" in (one, other):
        compared &= reach.numeric
    with np.errstate(invalid="ignore"):  # of rows that are not compared
        scale = np.maximum(np.abs(grads[one]).max(axis=1, keepdims=True), 1)
        difference = (np.abs(grads[one] - grads[other]) / scale)[compared]
    return float(difference.max()) if difference.size else math.nan


@dataclass
class Row:
    """What the check of a pair found: by strategy, and as sentences what is wrong."""

    pair: str
    from_numeric: dict[str, float] = field(default_factory=dict)  # the largest deviation from central differences
    apart: float = 0.0  # the largest deviation of two strategies from each other
    lost: dict[str, int] = field(default_factory=dict)  # rows that are not finite at extreme scores
    gradients: int = 0
    failures: list[str] = field(default_factory=list)

    def texts(self) -> list[str]:
        """The row of the table, a text a column."""
        texts = []
        for name in STRATEGIES:
            lost = f" nf {self.lost[name]}" if self.lost.get(name) else ""
            texts.append(f"{self.from_numeric[name]:.0e}{lost}" if name in self.from_numeric else "-")
        apart = f"{self.apart:.0e}"
        return [self.pair, *texts, f"{TOLERANCE:.0e}", apart, f"{APART:.0e}", "FAIL" if self.failures else "ok"]


def cells() -> Iterator[list[tuple[Activation, Loss]]]:
    """Each allowed pair of the registry: with default fields, and with each field changed as far as it may be."""
    for activation in ACTIVATIONS.values():
        for loss in LOSSES.values():
            first, then = activation(), loss()
            changed = [(other, then) for other in _variants(first)] + [(first, other) for other in _variants(then)]
            if found := [pair for pair in [(first, then), *changed] if _allowed(*pair)]:
                yield found


def _variants(component: Any) -> Iterator[Any]:
    """Copies with one number halved, or half as large again (zero becomes 0.5), where that is not refused."""
    for spec in fields(component):
        default = getattr(component, spec.name)
        if type(default) is float:
            for other in (default / 2, default * 1.5) if default else (0.5,):
                try:
                    yield replace(component, **{spec.name: other})
                except ConfigError:
                    continue


def _allowed(activation: Activation, loss: Loss) -> bool:
    try:
        check_pair(activation, loss, "auto")
    except ConfigError:
        return False
    return True


def batch(targets: str, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """Scores (N,K), target rows (N,K) of every kind that the loss admits, and which rows (N,) have extreme scores.

    targets is one_hot, simplex (rows sum to one), unit (entries in [0, 1], so multi-hot and all-zero rows) or any.
    """
    rows = 10
    one_hot = np.eye(CLASSES)[rng.integers(CLASSES, size=rows)]
    kinds = [one_hot]
    if targets != "one_hot":
        kinds.append(rng.dirichlet(np.ones(CLASSES), size=rows))
    if targets in ("unit", "any"):
        kinds += [(rng.random((rows, CLASSES)) < 0.5).astype(float), np.zeros((rows, CLASSES))]
    if targets == "any":
        kinds.append(one_hot * rng.uniform(0.2, 5, size=(rows, 1)))
    y = np.concatenate(kinds)
    extreme = np.arange(len(y)) % rows >= 6
    z = rng.normal(scale=2, size=y.shape)
    z[extreme] += rng.choice([-1000.0, -40.0, 0.0, 40.0, 1000.0], size=y[extreme].shape)
    return z, y, extreme


def check(pairs: list[tuple[Activation, Loss]], seed: int) -> Row:
    """The row of one activation and one loss in all their settings."""
    row = Row(f"{pairs[0][0].name}+{pairs[0][1].name}")
    for activation, loss in pairs:
        z, y, extreme = batch(known(loss, "targets"), np.random.default_rng(seed))
        names = [name for name in STRATEGIES if has_strategy(name, activation, loss)]
        with np.errstate(all="ignore"):
            grads = {name: GRADIENTS[name](activation, loss, z, y).dl_dz for name in (*names, "numeric")}
            reach = _reach(activation, loss, z, y)
            from_numeric = {name: _deviation(grads, name, "numeric", reach) for name in names}
            apart = {both: _deviation(grads, *both, reach) for both in combinations(names, 2)}
        lost = {name: ~np.isfinite(grads[name]).all(axis=1) for name in names}  # (N,) each
        for name in names:
            row.from_numeric[name] = _worst(row.from_numeric.get(name, 0.0), from_numeric[name])
            row.lost[name] = row.lost.get(name, 0) + int((lost[name] & extreme).sum())
        row.apart = _worst(row.apart, *apart.values())
        row.gradients += len(names)

        def fail(sentence: str, where: str = f"{activation!r} with {loss!r}") -> None:
            row.failures.append(f"{where}: {sentence}")

        if reach.numeric[~extreme].mean() < 0.5:
            fail("central differences can be trusted on less than half of the ordinary rows.")
        wrong = {name: value for name, value in from_numeric.items() if not value <= TOLERANCE}
        for name, found in wrong.items():
            fail(f"{name} is {found:.0e} from central differences.")
        for (one, other), found in apart.items():
            if not (found <= APART or {one, other} & wrong.keys()):
                fail(f"{one} is {found:.0e} from {other}.")
        for name in names:
            bad = lost[name] & ~_excused(name, activation, loss, z) if name not in FROM_A else lost[name] & ~extreme
            if bad.any():
                fail(f"{name} is not finite, as at z={z[bad][0].round(1).tolist()}.")
    return row


def _excused(name: str, activation: Any, loss: Loss, z: Array) -> Array:
    """The rows (N,) where a strategy that is finite at any scores need not be."""
    if name != "log" or known(loss, "log_exact"):
        return np.zeros(len(z), dtype=bool)
    rounded: Array = (activation.log(z) == 0).any(axis=1)
    return rounded


def _worst(*deviations: float) -> float:
    """The largest, where one that could not be compared counts as infinite."""
    return max(math.inf if math.isnan(value) else value for value in deviations)


def table(rows: list[Row]) -> str:
    """The rows under their headings, in columns; then the failures as sentences, and a line of counts."""
    head = ["pair", *STRATEGIES, "at most", "apart", "at most", ""]
    lines = [head, *(row.texts() for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    failed = sum(bool(row.failures) for row in rows)
    gradients = sum(row.gradients for row in rows)
    counts = f"{len(rows)} pairs, {gradients} gradients in all their settings, {failed or 'no'} pairs failed."
    return "\n".join([*text, *(sentence for row in rows for sentence in row.failures), counts])
