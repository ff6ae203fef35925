"""Linear probes as they are published: which rows are held out, which strengths are tried, and which one is chosen.

A protocol says all of it in C, which is scikit-learn's and multiplies the sum of the losses. A strength of ours stands
beside their mean:

    C sum_n loss_n + |W|^2 / 2   and   sum_n loss_n / N + strength/2 |W|^2   have one minimum at   strength = 1 / (C N).

With two classes scikit-learn has one column b = w_1 - w_0, and |b|^2 = 2 |W|^2 at the minimum: strength = 2 / (C N).

All of them fit softmax (with two classes the logistic function, which is the same) with cross entropy to the features
as they are: nothing is standardised, and the bias is not penalised. The C that was found is that of the fit on all
rows, where it means a smaller strength, as there are more of them. They stop lbfgs after 1,000 or 100 iterations,
wherever it is then; here each fit goes to its minimum, with a proof. The four protocols differ in what they share, so
they stand side by side in one file, though it is long.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, NamedTuple

import numpy as np

from trainer.arrays import Array
from trainer.data.rows import Data
from trainer.errors import DataError, require
from trainer.objective.metrics import Metric
from trainer.objective.objective import Objective
from trainer.objective.penalties import L2, Penalty
from trainer.optimizers.auto import Auto
from trainer.optimizers.cross_validation import Cell, Fold, cross_validate

ITERATIONS = 1000  # of a fit at most
CERTIFIED, ASKED = 1e-6, 1e-8  # gaps: what counts as proved, as elsewhere, and what a fit goes for; see solver
ROUNDINGS = 16  # of the features' dtype: no gradient is known more precisely
COARSE, FINE, DECADES = 16, 8, 6  # of clip: a step of its first round, steps of a decade, decades on both sides of 1


@dataclass(frozen=True)
class Dinov2:
    """45 strengths from C = 1e-6 to 1e5, chosen by 10 % of the rows; then a fit on all of them.

    Oquab et al. 2023 by dinov2/eval/log_regression.py: cuML's LogisticRegression on features in float64, not
    standardised; a random tenth of the training rows held out; the highest accuracy on it, of equal ones the smallest
    C; and a fit on all training rows.

    Ours differs: a class that the draw would leave without training rows keeps them, and float32 features stay float32.
    They measure on a validation set; here the score is that of the rows held out, which have chosen the strength and so
    flatter it.

    >>> len(Dinov2().wanted({})), [len(rows) for rows in Dinov2().splits(np.arange(50) % 3, 0)[0][:2]]
    (45, [45, 5])
    """

    name: ClassVar[str] = "dinov2"
    held_out: float = 0.1
    low: float = -6.0
    high: float = 5.0
    strengths: int = 45

    def __post_init__(self) -> None:
        _check_held_out(self.held_out)
        _check_grid(self.low, self.high, self.strengths)

    @property
    def most(self) -> int:
        """How many C are tried at most."""
        return self.strengths

    def splits(self, labels: Array, seed: int) -> list[Fold]:
        """What is held out of rows with these labels (N,), 0..K-1, each of which has a row to train on."""
        return [_hold_out(labels, self.held_out, seed)]

    def wanted(self, scores: Mapping[float, float]) -> list[float]:
        """The C to try next, rising, by what those tried are worth, the higher the better; none at the end."""
        return [] if scores else _grid(self.low, self.high, self.strengths)


@dataclass(frozen=True)
class Clip:
    """96 steps from C = 1e-6 to 1e6, searched from coarse to fine, chosen by 10 % of the rows; then a fit on all.

    Radford et al. 2021, app. A.3: scikit-learn's lbfgs; lambda from 1e-6 to 1e6 in 96 logarithmic steps, by a
    parametric binary search that starts with 1e-6, 1e-4, 1e-2, 1, 1e2, 1e4, 1e6 and halves the interval around the peak
    until there are 8 steps a decade, so that 15 of the 97 are tried. The features are not standardised.

    Ours differs, or says what the paper leaves open: lambda is 1/C, so that C runs over the same numbers; a random
    tenth is held out, where the paper takes the validation set of a data set if it has one; the peak is the highest
    accuracy of all tried so far, of equal ones the smallest C. They measure on a test set; here as for dinov2.

    >>> Clip().wanted({})
    [1e-06, 0.0001, 0.01, 1.0, 100.0, 10000.0, 1000000.0]
    >>> Clip().wanted({c: -abs(c - 0.01) for c in Clip().wanted({})})  # a decade on both sides of the peak
    [0.001, 0.1]
    """

    name: ClassVar[str] = "clip"
    most: ClassVar[int] = 7 + 2 * 4
    held_out: float = 0.1

    def __post_init__(self) -> None:
        _check_held_out(self.held_out)

    def splits(self, labels: Array, seed: int) -> list[Fold]:
        return [_hold_out(labels, self.held_out, seed)]

    def wanted(self, scores: Mapping[float, float]) -> list[float]:
        end = DECADES * FINE
        every = {step: 10.0 ** (step / FINE) for step in range(-end, end + 1)}
        known = [step for step, c in every.items() if c in scores]
        if not known:
            return [every[step] for step in range(-end, end + 1, COARSE)]
        half = min(after - before for before, after in pairwise(known)) // 2
        peak = max(known, key=lambda step: (scores[every[step]], -step))
        return [every[step] for step in (peak - half, peak + half) if step in every and half]


@dataclass(frozen=True)
class Mteb:
    """C = 1 on 8 rows of each class, ten times, each measured on all other rows: a mean and a deviation.

    Muennighoff et al. 2023 by AbsTaskClassification of mteb: scikit-learn's LogisticRegression at its C of 1 and at
    most 100 iterations, fitted to 8 rows a class (all of a class that has fewer) in each of 10 draws; the mean accuracy
    on the test set. The features are not standardised, and nothing is chosen.

    Ours differs: the rows that are not drawn are the test set, and every fit goes to its minimum. The score is of the
    draws, which leave ten models; the one that is kept is fitted to all rows at the same C.

    >>> [len(rows) for rows in Mteb().splits(np.arange(100) % 2, 0)[9][:2]]
    [16, 84]
    """

    name: ClassVar[str] = "mteb"
    most: ClassVar[int] = 1
    samples: int = 8
    draws: int = 10
    C: float = 1.0

    def __post_init__(self) -> None:
        require(self.samples >= 1, f"protocol.samples must be at least 1, got {self.samples}.")
        require(self.draws >= 1, f"protocol.draws must be at least 1, got {self.draws}.")
        require(0 < self.C < np.inf, f"protocol.C must be finite and greater than 0, got {self.C}.")

    def splits(self, labels: Array, seed: int) -> list[Fold]:
        random = np.random.default_rng(seed)
        found = []
        for _ in range(self.draws):
            order = random.permutation(len(labels))
            drawn = [order[labels[order] == k][: self.samples] for k in range(labels.max() + 1)]
            held_out = np.ones(len(labels), bool)
            held_out[np.concatenate(drawn)] = False
            found.append(_fold(labels, held_out, f"protocol.samples={self.samples} a class"))
        return found

    def wanted(self, scores: Mapping[float, float]) -> list[float]:
        return [] if scores else [self.C]


@dataclass(frozen=True)
class Cv:
    """A grid of strengths on five folds, chosen by the mean over the folds; then a fit on all rows.

    LogisticRegressionCV of scikit-learn, with its ten C from 1e-4 to 1e4. Each class has its share in every fold.

    Ours differs: the rows are shuffled first, as the files of a probe are often sorted, and a class of one row is
    trained on in every fold.

    >>> [len(fold.test) for fold in Cv(folds=3).splits(np.array([0, 0, 0, 1, 1, 1, 1]), 0)]
    [3, 2, 2]
    """

    name: ClassVar[str] = "cv"
    folds: int = 5
    low: float = -4.0
    high: float = 4.0
    strengths: int = 10

    def __post_init__(self) -> None:
        require(self.folds >= 2, f"protocol.folds must be at least 2, got {self.folds}.")
        _check_grid(self.low, self.high, self.strengths)

    @property
    def most(self) -> int:
        return self.strengths

    def splits(self, labels: Array, seed: int) -> list[Fold]:
        shuffled = np.random.default_rng(seed).permutation(len(labels))
        by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
        fold = np.empty(len(labels), int)
        fold[by_class] = np.arange(len(labels)) % self.folds  # dealt out like cards, class after class
        return [_fold(labels, fold == number, f"protocol.folds={self.folds}") for number in range(self.folds)]

    def wanted(self, scores: Mapping[float, float]) -> list[float]:
        return [] if scores else _grid(self.low, self.high, self.strengths)


ProbeProtocol = Dinov2 | Clip | Mteb | Cv  # which rows are held out, and which C are tried
PROTOCOLS: dict[str, type[ProbeProtocol]] = {cls.name: cls for cls in (Dinov2, Clip, Mteb, Cv)}


def _check_held_out(share: float) -> None:
    require(0 < share < 1, f"protocol.held_out must be greater than 0 and less than 1, got {share}.")


def _check_grid(low: float, high: float, strengths: int) -> None:
    require(strengths >= 1, f"protocol.strengths must be at least 1, got {strengths}.")
    ok = -100 <= low <= high <= 100
    require(ok, f"protocol.low={low} and protocol.high={high} must be powers of ten from -100 to 100, the lower first.")


def _grid(low: float, high: float, strengths: int) -> list[float]:
    """So many C from 10^low to 10^high, in logarithmic steps."""
    result: list[float] = np.logspace(low, high, strengths).tolist()
    return result


def _hold_out(labels: Array, share: float, seed: int) -> Fold:
    """A random share of the rows, rounded down."""
    order = np.random.default_rng(seed).permutation(len(labels))
    held_out = np.zeros(len(labels), bool)
    held_out[order[: int(share * len(labels) + 1e-9)]] = True
    return _fold(labels, held_out, f"protocol.held_out={share}")


def _fold(labels: Array, held_out: Array, setting: str) -> Fold:
    """The rows (N,) that are held out, but for those of a class that would have no other; DataError if none is left."""
    trained = np.bincount(labels[~held_out], minlength=labels.max() + 1) > 0
    held_out = held_out & trained[labels]
    if not held_out.any():
        raise DataError(
            f"{setting} of {len(labels)} rows leaves none to measure on. Give more rows, or another number."
        )
    return Fold(np.flatnonzero(~held_out), np.flatnonzero(held_out))


@dataclass(frozen=True)
class Tried:
    """What came of a C on all folds.

    >>> cell = refit(objective, data, 1.0)
    >>> one = Tried(1.0, (cell._replace(metrics={"accuracy": 0.5}), cell._replace(metrics={"accuracy": 1.0})))
    >>> one.mean("accuracy"), round(one.deviation("accuracy"), 3), one.strength, one.certified
    (0.75, 0.354, 0.5, True)
    """

    c: float
    cells: tuple[Cell, ...]

    def mean(self, metric: str) -> float:
        """The mean over the folds."""
        return float(np.mean([cell.metrics[metric] for cell in self.cells]))

    def deviation(self, metric: str) -> float:
        """The sample standard deviation over the folds; nan of one."""
        values = [cell.metrics[metric] for cell in self.cells]
        return float(np.std(values, ddof=1)) if len(values) > 1 else np.nan

    @property
    def strength(self) -> float:
        """The strength that C stands for, on the mean over the folds: it depends on how many rows were trained on."""
        return float(np.mean([cell.penalty.strength for cell in self.cells]))  # type: ignore[attr-defined]

    @property
    def gap(self) -> float | None:
        """The largest proved distance to the minimum; None where one has no proof."""
        gaps = [cell.proof.gap for cell in self.cells]
        return None if None in gaps else max(gaps)  # type: ignore[type-var]

    @property
    def iterations(self) -> int:
        """Of all folds."""
        return sum(cell.iterations for cell in self.cells)

    @property
    def certified(self) -> bool:
        """Whether each fold is proved to be at its minimum."""
        return all(cell.proof.proves(CERTIFIED) for cell in self.cells)


class By(NamedTuple):
    """The metric that chooses, and whether the lower is the better.

    >>> every = [Tried(c, (refit(objective, data, c),)) for c in (0.1, 1.0)]
    >>> By("loss", lower=True).choice(every).c
    1.0
    """

    metric: str
    lower: bool

    def score(self, one: Tried) -> float:
        """What a C is worth, the higher the better."""
        return (-1 if self.lower else 1) * one.mean(self.metric)

    def choice(self, every: Sequence[Tried]) -> Tried:
        """The best one; of equal ones the smallest C, which is the strongest penalty."""
        return max(every, key=lambda one: (self.score(one), -one.c))


def probe(
    protocol: ProbeProtocol,
    objective: Objective,
    data: Data,
    folds: Sequence[Fold],
    metrics: Mapping[str, Metric],
    by: By,
) -> Iterator[tuple[float, Cell]]:
    """Each C on a fold as it comes, and what came of it; what a later round tries depends on those before it.

    The parameters are let go of: those of 45 strengths of many features and classes would fill the memory.

    >>> folds = [Fold(np.array([0, 1]), np.array([2, 3])), Fold(np.array([2, 3]), np.array([0, 1]))]
    >>> fits = list(probe(Mteb(), objective, data, folds, {}, By("loss", lower=True)))
    >>> [(c, cell.fold, round(cell.metrics["loss"], 2)) for c, cell in fits]
    [(1.0, 0, 0.79), (1.0, 1, 0.79)]
    """
    fits: list[tuple[float, Cell]] = []
    while wanted := protocol.wanted({one.c: by.score(one) for one in tried(fits)}):
        for cell in _cells(objective, data, folds, wanted, metrics):
            fits.append((wanted[cell.place], cell._replace(w=np.empty((0, 0)))))
            yield fits[-1]


def refit(objective: Objective, data: Data, c: float) -> Cell:
    """The fit on all rows, on which it is measured, too.

    >>> round(refit(objective, data, 1.0).metrics["loss"], 3)
    0.647
    """
    rows = np.arange(len(data))
    (cell,) = _cells(objective, data, [Fold(rows, rows)], [c], {})
    return cell


def solver(data: Data) -> Auto:
    """The solver, whose question whether it is done fits what the features' digits can tell.

    It goes on to a gap that is a hundredth of what counts as proved. Where two scores of a row are nearly equal the
    accuracy jumps, and so may the C that it chooses; and the last steps to the minimum cost next to nothing.

    >>> solver(data)
    Auto(tol=1e-06, gap=1e-08)
    """
    return Auto(tol=max(Auto.tol, ROUNDINGS * float(np.finfo(data.x.dtype).eps)), gap=ASKED)


def _cells(
    objective: Objective, data: Data, folds: Sequence[Fold], cs: Sequence[float], metrics: Mapping[str, Metric]
) -> Iterator[Cell]:
    """The fits of these C to the folds, each at the strength that it stands for there."""
    times = 2 if len(data.classes) == 2 else 1

    def path(total: float) -> list[Penalty]:
        return [L2(times / (c * total)) for c in cs]

    return cross_validate(objective, solver(data), data, folds, path, epochs=ITERATIONS, metrics=metrics)


def tried(fits: Iterable[tuple[float, Cell]]) -> list[Tried]:
    """The fits by their C, which rise.

    >>> cell = refit(objective, data, 1.0)
    >>> [(one.c, len(one.cells)) for one in tried([(1.0, cell), (0.1, cell), (1.0, cell)])]
    [(0.1, 1), (1.0, 2)]
    """
    found: dict[float, list[Cell]] = {}
    for c, cell in fits:
        found.setdefault(c, []).append(cell)
    return [Tried(c, tuple(found[c])) for c in sorted(found)]
