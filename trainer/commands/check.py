"""The command ``trainer check [seed=0]``, and ``python -m trainer.check``: every pair and strategy in one table."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from itertools import combinations
from typing import Any

import numpy as np

from trainer.arrays import Array
from trainer.chain.activations import ACTIVATIONS, Activation
from trainer.chain.known import known
from trainer.chain.losses import LOSSES, Loss
from trainer.chain.pairs import allowed
from trainer.chain.strategies import GRADIENTS, has_strategy
from trainer.errors import ConfigError
from trainer.runs.callbacks.gradient_check import FROM_A, STRATEGIES, TOLERANCE, compare
from trainer.runs.text import aligned

APART = 1e-9  # two strategies from each other, at most
CLASSES = 4


HELP = """Compares each strategy of each pair with central differences and with the others, in one table.

  python -m trainer.check [seed=0]

The exit code is 1 if a pair fails."""


def main(words: list[str]) -> int:
    """The exit code is 1 if a pair fails."""
    if {"--help", "-h"} & set(words):
        print(HELP)
        return 0
    key, _, seed = (words or ["seed=0"])[0].partition("=")
    if len(words) > 1 or key != "seed" or not (seed.isascii() and seed.isdigit()):
        raise ConfigError(f"{' '.join(words)!r} is not seed=<number>, which is all that trainer.check reads.")
    rows = [check(pairs, int(seed)) for pairs in cells()]
    print(table(rows))
    return int(any(row.failures for row in rows))


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
            if allowed(activation, loss):
                first, then = activation(), loss()
                changed = [(other, then) for other in _variants(first)] + [(first, other) for other in _variants(then)]
                yield [(first, then), *changed]


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
        found = compare(activation, loss, z, y, {name: GRADIENTS[name] for name in (*names, "numeric")})
        from_numeric = {name: found.deviation(name, "numeric") for name in names}
        apart = {both: found.deviation(*both) for both in combinations(names, 2)}
        lost = {name: ~np.isfinite(found.dl_dz[name]).all(axis=1) for name in names}  # (N,) each
        for name in names:
            row.from_numeric[name] = _worst(row.from_numeric.get(name, 0.0), from_numeric[name])
            row.lost[name] = row.lost.get(name, 0) + int((lost[name] & extreme).sum())
        row.apart = _worst(row.apart, *apart.values())
        row.gradients += len(names)

        def fail(sentence: str, where: str = f"{activation!r} with {loss!r}") -> None:
            row.failures.append(f"{where}: {sentence}")

        if found.numeric[~extreme].mean() < 0.5:
            fail("central differences can be trusted on less than half of the ordinary rows.")
        wrong = {name: value for name, value in from_numeric.items() if not value <= TOLERANCE}
        for name, off in wrong.items():
            fail(f"{name} is {off:.0e} from central differences.")
        for (one, other), off in apart.items():
            if not (off <= APART or {one, other} & wrong.keys()):
                fail(f"{one} is {off:.0e} from {other}.")
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
    failed = sum(bool(row.failures) for row in rows)
    gradients = sum(row.gradients for row in rows)
    counts = f"{len(rows)} pairs, {gradients} gradients in all their settings, {failed or 'no'} pairs failed."
    return "\n".join([*aligned(lines), *(sentence for row in rows for sentence in row.failures), counts])
