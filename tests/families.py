"""Problems drawn by a seed, family by family, each with what a solver says of it and what is true.

python -m tests.families offsets 123 newton     # one fit, in words
python -m tests.families 123                    # of the family that combines everything, by every solver
python -m tests.families table 0:50             # all families, as the table of figures
"""

import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
import scipy.sparse
from sklearn.exceptions import ConvergenceWarning

from tests.truth import Minimum, Truth, truth_of
from trainer import SoftmaxRegression
from trainer.chain.activations import ACTIVATIONS

GAP = 1e-6  # of E: what a claim of convergence says
KNOWN = 1e-8  # of E: how well the minimum has to be known to judge a claim
SMOOTH_SOLVERS = ("auto", "newton", "lbfgs", "fista")
PAIRS = [
    ("softmax", "ce", {}),
    ("softmax", "ce", {"temperature": 0.3}),
    ("softmax", "ce", {"temperature": 5.0}),
    ("softmax", "kl", {}),
    ("log_softmax", "nll", {}),
    ("sigmoid", "bce", {}),
    ("identity", "squared_error", {}),
    ("softmax", "fenchel_young", {"temperature": 2.0}),
    ("sigmoid", "fenchel_young", {}),
    ("identity", "fenchel_young", {}),
    ("sparsemax", "fenchel_young", {}),
    ("entmax", "fenchel_young", {}),
    ("entmax", "fenchel_young", {"alpha": 1.25}),
    ("softmax", "poly1", {}),
    ("softmax", "z_loss", {}),
    ("identity", "squared_hinge", {}),
    ("identity", "modified_huber", {}),
]


@dataclass
class Problem:
    """What is given to SoftmaxRegression; words say how it was drawn."""

    x: Any
    y: np.ndarray
    weight: np.ndarray | None = None
    activation: str = "softmax"
    loss: str = "ce"
    settings: dict[str, float] = field(default_factory=dict)
    penalty: str | None = "l2"
    C: float = 1.0
    class_weight: Any = None
    label_smoothing: float = 0.0
    options: dict[str, Any] = field(default_factory=dict)  # max_iter and tol
    words: list[str] = field(default_factory=list)
    seed: int = 0

    def __str__(self) -> str:
        n, d = self.x.shape
        parts = [f"N={n} D={d} K={self.y.max() + 1}", f"{self.activation}+{self.loss}", *map(str, self.words)]
        parts += [f"{key}={value:g}" for key, value in self.settings.items()]
        parts += [f"{key}={value:g}" for key, value in self.options.items()]
        parts += [f"penalty={self.penalty}", f"C={self.C:.3g}", str(self.x.dtype)]
        return ", ".join(parts)

    @property
    def solvers(self) -> tuple[str, ...]:
        return SMOOTH_SOLVERS if self.penalty in ("l2", None) else ("auto", "fista")

    def estimator(self, solver: str) -> SoftmaxRegression:
        return SoftmaxRegression(
            activation=ACTIVATIONS[self.activation](**self.settings),
            loss=self.loss,
            penalty=self.penalty,
            C=self.C,
            class_weight=self.class_weight,
            label_smoothing=self.label_smoothing,
            optimizer=solver,
            random_state=0,
            **self.options,
        )

    def truth(self) -> Truth:
        return truth_of(
            self.x,
            self.y,
            activation=self.activation,
            loss=self.loss,
            settings=self.settings,
            penalty=self.penalty,
            C=self.C,
            sample_weight=self.weight,
            class_weight=self.class_weight,
            label_smoothing=self.label_smoothing,
        )


Change = Callable[[Problem, np.random.Generator], None]


def plain(rng, classes=None, features=None, signal=None) -> Problem:
    """Normal features, correlated in half of the draws, whose labels follow them; every class has a row."""
    n = round(10 ** rng.uniform(1.8, 3.17))
    k = classes or int(rng.choice([2, 3, 4, 6, 10], p=[0.4, 0.25, 0.15, 0.15, 0.05]))
    d = features or round(10 ** rng.uniform(0, 1.48))
    d = max(1, min(d, 120 // k))
    u = rng.normal(size=(n, d))
    if rng.random() < 0.5:
        u = u @ rng.normal(size=(d, d)) / np.sqrt(d)
    signal = signal or 10 ** rng.uniform(-1, 0.7)
    y = (signal * u @ rng.normal(size=(d, k)) / np.sqrt(d) + rng.gumbel(size=(n, k))).argmax(axis=1)
    y[:k] = np.arange(k)
    return Problem(u, y, C=10 ** rng.uniform(-2, 4))


def scales(p, rng):
    low, high = sorted(rng.uniform(-9, 9, size=2)) if rng.random() < 0.5 else (-9, 9)
    p.x = p.x * 10 ** rng.uniform(low, high, size=p.x.shape[1])
    p.words.append(f"columns of 1e{low:.0f} to 1e{high:.0f}")


def one_scale(p, rng):
    column, power = rng.integers(p.x.shape[1]), rng.uniform(-9, 9)
    if rng.random() < 0.5:  # a column that says nothing
        p.x = np.column_stack([p.x, rng.normal(size=len(p.x))])
        column = -1
    p.x[:, column] *= 10**power
    p.words.append(f"{'an idle column' if column == -1 else 'one column'} times 1e{power:.1f}")


def offsets(p, rng):
    power = rng.uniform(0, 8)
    some = rng.random(p.x.shape[1]) < rng.choice([0.3, 1.0])
    p.x = p.x + some * p.x.std(axis=0) * 10**power * rng.normal(size=p.x.shape[1])
    p.words.append(f"means of 1e{power:.1f} deviations in {some.sum()} columns")


def strengths(p, rng):
    p.C = 10 ** rng.uniform(-6, 8)


def tails(p, rng):
    kind = rng.choice(["lognormal", "student", "rows"])
    if kind == "lognormal":
        p.x = np.exp(3 * p.x / p.x.std(axis=0))
    if kind == "student":
        p.x = p.x / np.sqrt(rng.chisquare(2, size=(len(p.x), 1)) / 2)
    if kind == "rows":
        p.x[rng.choice(len(p.x), max(1, len(p.x) // 40), replace=False)] *= 1e4
    p.words.append(f"tails: {kind}")


def rank(p, rng):
    kind = rng.choice(["copies", "constants", "wide", "near copies"])
    x = p.x
    if kind == "copies":
        x = np.column_stack([x, x[:, rng.integers(x.shape[1], size=3)] * rng.choice([1.0, -2.0, 1e3], size=3)])
    if kind == "near copies":
        x = np.column_stack([x, x[:, :1] + 10 ** rng.uniform(-8, -3) * rng.normal(size=(len(x), 1))])
    if kind == "constants":
        x = np.column_stack([x, np.full(len(x), 10 ** rng.uniform(-6, 6)), np.zeros(len(x))])
    if kind == "wide":
        n = max(int(p.y.max()) + 2, min(x.shape[1] // 2, 25))
        x, p.y = x[:n], p.y[:n]
    p.x = x
    p.words.append(f"rank: {kind}")


def separation(p, rng):
    k = int(p.y.max()) + 1
    z = p.x @ rng.normal(size=(p.x.shape[1], k)) / np.sqrt(p.x.shape[1])
    share = rng.choice([0.0, 0.01, 0.05])
    flipped = rng.random(len(z)) < share
    p.y = np.where(flipped, rng.integers(k, size=len(z)), (z + 0.02 * rng.gumbel(size=z.shape)).argmax(axis=1))
    p.y[:k] = np.arange(k) if share else p.y[:k]
    present = np.unique(p.y)
    if len(present) < 2:
        p.y[0] = 1 - p.y[0]
        present = np.unique(p.y)
    p.y = np.searchsorted(present, p.y)
    p.words.append(f"nearly separated, {share:.0%} flipped")


def weights(p, rng):
    kind = rng.choice(["zeros", "wide", "both", "classes", "balanced"])
    n, k = len(p.y), int(p.y.max()) + 1
    w = 10 ** rng.uniform(-12, 6, size=n) if kind in ("wide", "both") else rng.uniform(0.1, 3, size=n)
    if kind in ("zeros", "both"):
        w[rng.random(n) < 0.3] = 0.0
        w[:k] = np.maximum(w[:k], 1e-3)
    if kind == "classes":
        p.class_weight = {i: float(10 ** rng.uniform(-3, 3)) for i in range(k)}
    elif kind == "balanced":
        p.class_weight = "balanced"
    if kind not in ("classes",):
        p.weight = w.astype(np.float32).astype(np.float64)  # so that it is the same number in both precisions
    p.words.append(f"weights: {kind}")


def imbalance(p, rng):
    k = int(p.y.max()) + 1
    rare = rng.random(len(p.y)) < rng.choice([0.8, 0.95, 0.99])
    p.y = np.where(rare, 0, p.y)
    p.y[:k] = np.arange(k)
    p.words.append("imbalance")


def sparse(p, rng):
    share = rng.choice([0.05, 0.3, 1.0])
    x = p.x * (rng.random(p.x.shape) < share)
    p.x = scipy.sparse.csr_matrix(x)
    p.words.append(f"CSR with {share:.0%}")


def single(p, rng):
    p.x = p.x.astype(np.float32)


def smoothing(p, rng):
    p.label_smoothing = float(rng.choice([0.01, 0.1, 0.5]))
    p.words.append(f"smoothing {p.label_smoothing}")


def pairs(p, rng):
    p.activation, p.loss, settings = PAIRS[p.seed % len(PAIRS)]  # so that a few draws have all of them
    p.settings = dict(settings)


def lasso(p, rng):
    p.penalty = "l1"
    p.C = 10 ** rng.uniform(-2, 4)


def elastic_net(p, rng):
    p.penalty = "elastic_net"
    p.C = 10 ** rng.uniform(-2, 4)


def unpenalised(p, rng):
    p.penalty = None


def impatient(p, rng):
    p.options["max_iter"] = int(rng.integers(1, 12))


def loose(p, rng):
    p.options["tol"] = float(10 ** rng.uniform(-6, -1))


def draw(rng, seed, always: list[Change], sometimes: list[Change], **settings: Any) -> Problem:
    """A plain problem after the changes, in the order of ORDER."""
    p = plain(rng, **settings)
    p.seed = seed
    chosen = [*always, *(change for change in sometimes if rng.random() < 0.3)]
    for change in sorted(chosen, key=ORDER.index):
        change(p, rng)
    return p


ORDER: list[Change] = [
    tails,
    separation,
    imbalance,
    rank,
    one_scale,
    scales,
    offsets,
    weights,
    smoothing,
    pairs,
    strengths,
    lasso,
    elastic_net,
    unpenalised,
    single,
    sparse,
    impatient,
    loose,
]
MIXED: dict[str, list[Change]] = {  # what a family always has; it is crossed with everything in "mixed"
    "plain": [],
    "scales": [scales],
    "scales strengths": [scales, strengths],
    "one scale": [one_scale],
    "offsets": [offsets],
    "offsets strengths": [offsets, strengths],
    "offsets scales": [offsets, scales],
    "strengths": [strengths],
    "tails": [tails],
    "tails scales": [tails, scales],
    "tails pairs": [tails, pairs],
    "rank": [rank],
    "separation": [separation],
    "weights": [weights],
    "weights scales": [weights, scales],
    "imbalance": [imbalance],
    "sparse": [sparse],
    "sparse scales": [scales, sparse],
    "single": [single],
    "single scales": [scales, single],
    "single offsets": [offsets, single],
    "smoothing": [smoothing],
    "pairs": [pairs],
    "pairs scales": [pairs, scales],
    "pairs strengths": [pairs, strengths],
    "l1": [lasso],
    "l1 scales": [lasso, scales],
    "l1 pairs": [lasso, pairs],
    "elastic net": [elastic_net],
    "elastic net scales": [elastic_net, scales],
    "unpenalised": [unpenalised],
    "unpenalised one scale": [unpenalised, one_scale],
    "unpenalised scales": [unpenalised, scales],
    "unpenalised separation": [unpenalised, separation],
    "impatient": [impatient],
    "impatient scales": [impatient, scales],
    "loose": [loose],
    "loose scales": [loose, scales],
}


def classes(rng, seed) -> Problem:
    return draw(rng, seed, [], [], classes=int(rng.integers(8, 31)), features=int(rng.integers(1, 5)))


def mixed(rng, seed) -> Problem:
    """Everything at once: each change in three draws of ten."""
    penalties: list[Change] = [[], [], [], [lasso], [elastic_net], [unpenalised]][rng.integers(6)]
    others = [change for change in ORDER if change not in (lasso, elastic_net, unpenalised, impatient, loose)]
    return draw(rng, seed, penalties, others)


FAMILIES: dict[str, Callable[[np.random.Generator, int], Problem]] = {
    **{name: (lambda rng, seed, always=always: draw(rng, seed, always, [])) for name, always in MIXED.items()},
    "classes": classes,
    "mixed": mixed,
}


# The problems that were found by hand; the number of a seed is the place in the list.


def _idle(k=2, power=7.0, kind="dense") -> Problem:
    rng = np.random.default_rng(0)
    u = rng.normal(size=(1000, 5))
    y = (u @ rng.normal(size=(5, k)) + rng.gumbel(size=(1000, k))).argmax(axis=1)
    x = np.column_stack([u, rng.normal(size=1000) * 10**power])
    p = Problem(x, y, words=[f"an idle column of 1e{power:.2g}"])
    if kind == "csr":
        p.x = scipy.sparse.csr_matrix(x)
    return p


def _confident() -> Problem:
    rng = np.random.default_rng(5)
    x = rng.normal(size=(1000, 10))
    z = x @ rng.normal(size=(10, 4)) * 3 + [4, 0, 0, -4]
    return Problem(x, (z + rng.gumbel(size=z.shape)).argmax(axis=1), C=1e6, words=["confident"])


def _tailed(kind, C) -> Problem:
    rng = np.random.default_rng(1)
    u = rng.normal(size=(400, 6))
    y = (u @ rng.normal(size=(6, 3)) + rng.gumbel(size=(400, 3))).argmax(axis=1)
    x = np.exp(3 * u) if kind == "lognormal" else u * np.where(np.arange(400) < 10, 1e4, 1.0)[:, None]
    return Problem(x, y, C=C, words=[f"tails: {kind}"])


def _linear(change, C=1.0, k=3, d=5, n=500, seed=2) -> Problem:
    rng = np.random.default_rng(seed)
    u = rng.normal(size=(n, d))
    y = (u @ rng.normal(size=(d, k)) + rng.gumbel(size=(n, k))).argmax(axis=1)
    return Problem(change(u), y, C=C)


def _far(power, k=3) -> Problem:
    p = _linear(lambda u: u + 10.0**power, k=k)
    p.words.append(f"means of 1e{power} deviations")
    return p


def _free(power, k=3) -> Problem:
    p = _linear(lambda u: u * np.append(np.ones(u.shape[1] - 1), 10.0**power), k=k)
    return replace(p, penalty=None, words=[f"one column times 1e{power}"])


def _spread(k=3) -> Problem:
    p = _linear(lambda u: u * 10.0 ** np.linspace(-4, 4, u.shape[1]), C=1e6, k=k)
    p.words.append("columns of 1e-4 to 1e4")
    return p


KNOWN_CASES: list[Callable[[], Problem]] = [
    lambda: _idle(),
    lambda: _idle(power=np.log10(3e6)),
    lambda: _idle(k=3),
    lambda: _idle(k=5),
    lambda: _idle(kind="csr"),
    lambda: _idle(k=3, kind="csr"),
    _confident,
    *(lambda C=C: _tailed("lognormal", C) for C in (1.0, 1e-2, 1e-4)),
    lambda: _tailed("rows", 1.0),
    lambda: _tailed("rows", 1e-2),
    *(lambda power=power, k=k: _far(power, k) for power in (3, 4, 5, 6, 7, 8) for k in (2, 3)),
    *(lambda power=power, k=k: _free(power, k) for power in (-7, 7) for k in (2, 3)),
    lambda: _spread(),
    lambda: _spread(2),
]


@cache
def problem(family: str, seed: int) -> Problem:
    """The same problem for the same family and seed, always."""
    if family == "known":
        return KNOWN_CASES[seed]()
    number = sum(map(ord, family))
    return FAMILIES[family](np.random.default_rng([number, seed]), seed + number)


@cache
def minimum(family: str, seed: int) -> tuple[Truth, Minimum]:
    truth = problem(family, seed).truth()
    return truth, truth.minimum()


@dataclass(frozen=True)
class Outcome:
    """What a fit says and what is true of it; gaps are shares of E."""

    family: str
    seed: int
    solver: str
    words: str
    value: float = float("nan")
    least: float = float("nan")
    gap: float = float("nan")  # (E - min E) / E
    unknown: float = float("inf")  # how much of E the minimum is uncertain by
    rounding: float = 0.0  # of E
    claimed: bool = False
    claimed_gap: float | None = None
    certifies: bool = False  # whether the estimator has a gap_ at all
    within_reach: bool = True  # whether the minimum's own w, in the precision of the model, is a minimum still
    warned: bool = False
    strange: str = ""  # an error or another warning
    iterations: int = 0
    C: float = 1.0
    penalty: str | None = "l2"

    @property
    def judged(self) -> bool:
        """Whether the minimum is known well enough to say more than that the claim of a model is true."""
        return not self.strange and self.unknown <= max(KNOWN, self.rounding)

    @property
    def false(self) -> bool:
        """A claim although E lies more than a millionth above its minimum, beyond rounding."""
        return self.judged and self.claimed and self.gap > GAP + self.rounding

    @property
    def false_gap(self) -> bool:
        """A certified gap that is smaller than the true one, beyond rounding."""
        return self.judged and self.claimed_gap is not None and self.claimed_gap < self.gap - self.rounding

    @property
    def solved(self) -> bool:
        return self.judged and self.gap <= GAP + self.rounding

    @property
    def beaten(self) -> bool:
        """E below what is called its minimum: then the judge is wrong."""
        return self.judged and self.gap < -self.rounding - self.unknown

    @property
    def unproved(self) -> bool:
        """A claim without the certificate that the penalty allows, or against it."""
        if not (self.certifies and self.claimed):
            return False
        return self.penalty in ("l2", "elastic_net") if self.claimed_gap is None else not self.claimed_gap <= GAP

    @property
    def verdict(self) -> str:
        """What is wrong with the fit, in a word or two; empty where nothing is."""
        faults = {
            self.strange: bool(self.strange),
            "THE JUDGE IS WRONG": self.beaten,
            "FALSE CLAIM": self.false,
            "FALSE GAP": self.false_gap,
            "CLAIM WITHOUT PROOF": self.unproved,
            "NO WARNING": not self.strange and not self.claimed and not self.warned,
            "WARNING BESIDE A CLAIM": self.claimed and self.warned,
        }
        return ", ".join(name for name, there in faults.items() if there)

    def __str__(self) -> str:
        known = "" if self.judged or self.strange else ", which is too uncertain"
        return (
            f"{self.verdict or 'honest'}: python -m tests.families '{self.family}' {self.seed} {self.solver}"
            f"  # {self.words}: E={self.value:.10g}, min={self.least:.10g}, gap {self.gap:.1e} (rounding "
            f"{self.rounding:.0e}, minimum known to {self.unknown:.0e}{known}), converged_={self.claimed}, "
            f"gap_={self.claimed_gap}, {self.iterations} iterations"
        )


@cache
def outcome(family: str, seed: int, solver: str) -> Outcome:
    """Fits the problem and judges what the estimator says of itself."""
    p = problem(family, seed)
    model = p.estimator(solver)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            model.fit(p.x, p.y, p.weight)
        except Exception as error:  # the suite goes on, and counts it
            return Outcome(family, seed, solver, str(p), strange=f"{type(error).__name__}: {error}")
    warned = [w for w in caught if issubclass(w.category, ConvergenceWarning)]
    others = [w for w in caught if not issubclass(w.category, ConvergenceWarning)]
    truth, least = minimum(family, seed)
    value, rounding = truth.at(model.coef_.T, model.intercept_)
    size = abs(value) or 1.0
    return Outcome(
        family,
        seed,
        solver,
        str(p),
        value,
        least.upper,
        (value - least.upper) / size,
        (least.upper - least.lower) / size,
        rounding / size,
        model.converged_,
        claimed_gap(model),
        hasattr(model, "gap_"),
        (truth.at(*least.model(truth, model.coef_.dtype)).value - least.upper) <= GAP * size,
        bool(warned),
        f"{others[0].category.__name__}: {others[0].message}" if others else "",
        model.n_iter_,
        p.C,
        p.penalty,
    )


def claimed_gap(model: SoftmaxRegression) -> float | None:
    """gap_, the certified (E - min E) / E, or None where there is no proof."""
    gap = getattr(model, "gap_", None)
    return None if gap is None else float(gap)


def table(found: list[Outcome]) -> str:
    """Figures by family and solver."""
    columns: dict[str, Callable[[Outcome], bool]] = {
        "fits": lambda o: True,
        "false claims": lambda o: o.false,
        "false gaps": lambda o: o.false_gap,
        "unproved": lambda o: o.unproved,
        "not solved": lambda o: o.judged and not o.solved,
        "not claimed": lambda o: not o.claimed and not o.strange,
        "unwarned": lambda o: not o.strange and o.warned == o.claimed,
        "errors": lambda o: bool(o.strange),
        "min unknown": lambda o: not o.judged and not o.strange,
    }
    lines = [f"{'family':<22}{'solver':<7}" + "".join(f"{name:>14}" for name in columns) + f"{'worst gap_/gap':>16}"]
    for family, solver in sorted({(o.family, o.solver) for o in found}) + [("all", s) for s in SMOOTH_SOLVERS]:
        rows = [o for o in found if o.solver == solver and family in (o.family, "all")]
        ratios = [
            o.claimed_gap / o.gap for o in rows if o.judged and o.claimed_gap is not None and o.gap > 10 * o.rounding
        ]
        worst = f"{min(ratios):.2g}" if ratios else "-"
        counts = "".join(f"{sum(map(holds, rows)) or '.':>14}" for holds in columns.values())
        lines.append(f"{family:<22}{solver:<7}{counts}{worst:>16}")
    return "\n".join(lines)


def outcomes(family: str, seeds: range) -> list[Outcome]:
    return [outcome(family, seed, solver) for seed in seeds for solver in problem(family, seed).solvers]


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["table"]:
        start, stop = map(int, (arguments[1:2] or ["0:10"])[0].split(":"))
        known = range(start, min(stop, len(KNOWN_CASES)))
        found = [
            o
            for family in arguments[2:] or [*FAMILIES, "known"]
            for o in outcomes(family, known if family == "known" else range(start, stop))
        ]
        print("\n".join(str(o) for o in found if o.verdict))
        print(table(found))
        return
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return
    if arguments[0].lstrip("-").isdigit():
        arguments = ["mixed", *arguments]
    family, seed, *solvers = arguments
    for solver in solvers or problem(family, int(seed)).solvers:
        print(outcome(family, int(seed), solver))


if __name__ == "__main__":
    main(sys.argv[1:])
