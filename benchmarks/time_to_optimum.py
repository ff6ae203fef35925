"""Times the way to the optimum of softmax regression: this project's solvers beside scikit-learn's, on the same data.

    python benchmarks/time_to_optimum.py [part of a problem's name ...] [--quick]

A row is a problem and a gap; a cell has the seconds of the call of ``fit``, from features to coefficients, that brings

    (f(w) - f*) / (f(0) - f*),    f(w) = mean loss + |w[:-1]|^2 / (2 C N),    C = 1

below the gap, and in brackets its max_iter, the smallest that does, with a tol so small that max_iter rules. f* is the
lowest value that newton and lbfgs of this project find when nothing but rounding ends them; a peer that finds a lower
one is told of. Both sides are evaluated by the same function. Their max_iter comes from one recorded training here,
from doubling and bisecting there: above 50 iterations to 2 %, and to 10 % where another peer is three times as fast.

Seconds are medians of three warm calls; of a peer with the better of one thread and all. A peer that is three times as
slow as another one, or takes ten seconds, is timed once. After LIMIT seconds a call counts as unsolved, "-", as does a
peer that stops by itself above the gap; sag and saga are given up once their rate promises no better, and any peer once
a call has taken twenty times as long as the best one and not reached the gap: ">", and what it took. liblinear does not
apply, since it penalises the bias. With two classes LogisticRegression penalises b = w_1 - w_0 alone, so it gets
2 C, and w = (-b/2, b/2).

--quick leaves out sag, saga and the smallest gap, times each call once and takes a limit of 20 seconds.
"""

import multiprocessing
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import numpy as np
import sklearn
from sklearn.datasets import load_digits, make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from trainer import SoftmaxRegression
from trainer.chain.activations import Softmax
from trainer.chain.losses import CrossEntropy
from trainer.chain.strategies import GradientChoice, fused
from trainer.data.rows import Data
from trainer.objective.objective import Objective
from trainer.objective.penalties import L2
from trainer.objective.problem import Problem
from trainer.objective.threads import available_cores, blas_on_one_thread
from trainer.optimizers import OPTIMIZERS
from trainer.optimizers.fit import TrainState, fit

OURS = ["newton", "lbfgs", "auto"]
PEERS = {"lbfgs": 8, "newton-cholesky": 1, "newton-cg": 1, "sag": 4, "saga": 4}  # and the first max_iter that is tried
STOCHASTIC = ["sag", "saga"]
GAPS = [1e-4, 1e-6, 1e-8]
C, TINY = 1.0, 1e-15
HOPELESS = 20  # times as long as the best peer
CORES = available_cores()
QUICK = "--quick" in sys.argv
GRADIENT = GradientChoice("fused")
LIMIT, REPEATS = (20.0, 1) if QUICK else (60.0, 3)

Arrays = tuple[np.ndarray, np.ndarray]


def digits(standardised: bool) -> Arrays:
    """scikit-learn's digits, 1,797 x 64 x 10."""
    x, y = load_digits(return_X_y=True)
    return (StandardScaler().fit_transform(x) if standardised else x), y


def classification() -> Arrays:
    """scikit-learn's generator, with ten informative features and five that repeat them."""
    return make_classification(10_000, 20, n_informative=10, n_redundant=5, n_classes=4, random_state=0)


def gaussian(n: int, d: int, k: int, scale: float, seed: int = 0) -> Arrays:
    """Independent normal features, and labels drawn from a softmax whose scores have a standard deviation of scale."""
    rng = np.random.default_rng(seed)
    w = rng.normal(size=(d, k)) * scale / np.sqrt(d)
    x = rng.normal(size=(n, d))
    z = x @ w
    return x, (z + rng.gumbel(size=z.shape)).argmax(axis=1)


def badly_scaled(n: int, d: int, k: int, seed: int = 0) -> Arrays:
    """Correlated features with means that are not zero and scales over four decades."""
    x, y = gaussian(n, d, k, 4.0, seed)
    rng = np.random.default_rng(seed + 1)
    x = x @ (np.eye(d) + rng.normal(size=(d, d)) / (2 * np.sqrt(d)))
    scale = 10 ** rng.uniform(-2, 2, size=d)
    return x * scale + scale * rng.normal(size=d), y


def non_negative(n: int = 60_000, d: int = 784, k: int = 10, rank: int = 40) -> Arrays:
    """Mixtures of non-negative parts, as of images: strongly correlated, in [0,1], a tenth of the features constant."""
    rng = np.random.default_rng(0)
    y = rng.integers(k, size=n)
    parts = np.abs(rng.normal(size=(rank, d))) * (rng.random((rank, d)) < 0.3)
    centres = np.abs(rng.normal(size=(k, rank)))
    x = np.abs(centres[y] + 0.7 * rng.normal(size=(n, rank))) @ parts + 0.3 * np.abs(rng.normal(size=(n, d)))
    x *= rng.random(d) < 0.9
    return x / x.max(), y


def separable(n: int = 20_000, d: int = 50, k: int = 5) -> Arrays:
    """Labels that a linear classifier tells without an error, so that only the penalty bounds the weights."""
    rng = np.random.default_rng(0)
    w = rng.normal(size=(d, k))
    x = rng.normal(size=(n, d))
    return x, (x @ w).argmax(axis=1)


def imbalanced(n: int = 50_000, d: int = 30) -> Arrays:
    """Two classes, of which one has about a sample in a thousand."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, d))
    z = 2 * x @ rng.normal(size=d) / np.sqrt(d) - 8.2
    return x, (rng.random(n) < 1 / (1 + np.exp(-z))).astype(int)


def one_column_off(n: int = 20_000, d: int = 20, k: int = 3) -> Arrays:
    """One column times 1e7, as an amount in another unit."""
    x, y = gaussian(n, d, k, 2.0)
    x[:, 0] *= 1e7
    return x, y


def lognormal(n: int = 20_000, d: int = 20, k: int = 3, sigma: float = 3.0) -> Arrays:
    """Features with tails so heavy that few rows have most of the second moment; the labels follow their logarithms."""
    x, y = gaussian(n, d, k, 2.0)
    return np.exp(sigma * x), y


PROBLEMS: dict[str, Callable[[], Arrays]] = {
    "digits, raw, 1,797 x 64 x 10": lambda: digits(False),
    "digits, standardised, 1,797 x 64 x 10": lambda: digits(True),
    "classification, 10,000 x 20 x 4": classification,
    "gaussian, 50,000 x 256 x 50": lambda: gaussian(50_000, 256, 50, 2.0),
    "badly scaled, 50,000 x 100 x 10": lambda: badly_scaled(50_000, 100, 10),
    "badly scaled, 100,000 x 54 x 7": lambda: badly_scaled(100_000, 54, 7, seed=5),
    "non-negative, 60,000 x 784 x 10": non_negative,
    "nearly separable, 20,000 x 50 x 5": separable,
    "imbalanced, 50,000 x 30 x 2": imbalanced,
    "one column times 1e7, 20,000 x 20 x 3": one_column_off,
    "lognormal, 20,000 x 20 x 3": lognormal,
}


class Call(NamedTuple):
    """What a call of fit took, the value that it reached, and whether more iterations would change nothing."""

    seconds: float
    value: float
    ended: bool


NO_ANSWER = Call(np.inf, np.inf, True)


class Result(NamedTuple):
    """Seconds to a gap, and iterations; beyond says that they were too few."""

    seconds: float
    count: int
    beyond: bool = False


def data_of(name: str) -> Data:
    """The problem's data, with labels 0..K-1."""
    x, y = PROBLEMS[name]()
    x = np.ascontiguousarray(x, dtype=np.float64)
    return Data(x, y, tuple(range(y.max() + 1)), tuple(map(str, range(x.shape[1]))))


def value(problem: Problem, w: np.ndarray) -> float:
    """f(w), by the strategy that is exact."""
    with blas_on_one_thread(), np.errstate(all="ignore"):
        return problem.evaluate(w, {}).loss + problem.objective.penalty.value(w)


def record(problem: Problem, solver: str) -> list[float]:
    """The values of f before the first iteration of a solver of this project and after each."""
    optimizer = OPTIMIZERS[solver](tol=TINY, gap=TINY)
    state = TrainState.start(optimizer, problem.data)
    values, start = [value(problem, state.w)], time.perf_counter()
    for report in fit(problem.objective, optimizer, problem.data, None, state, epochs=10_000, metrics={}):
        values.append(report.metrics["loss"] + problem.objective.penalty.value(report.state.w))
        if time.perf_counter() - start > LIMIT:
            break
    return values


def call(problem: Problem, side: str, solver: str, max_iter: int, threads: int) -> Call:
    """One call of fit; a solver that fails with an error has reached nothing."""
    x, y, classes = problem.data.x, problem.data.y, len(problem.data.classes)
    if side == "trainer":
        estimator = SoftmaxRegression(gradient=GRADIENT, optimizer=solver, C=C, max_iter=max_iter, tol=TINY)
    else:
        strength = {"C": C if classes > 2 else 2 * C}
        estimator = LogisticRegression(solver=solver, max_iter=max_iter, tol=TINY, random_state=0, **strength)
    time.sleep(0.3)  # the threads of the last one may spin for a while before they sleep
    with threadpool_limits(threads), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that max_iter was too small is what is wanted
        start = time.perf_counter()
        try:
            estimator.fit(x, y)
        except (ValueError, ArithmeticError, MemoryError):
            return NO_ANSWER
        seconds = time.perf_counter() - start
    w = np.vstack([estimator.coef_.T, estimator.intercept_])
    if w.shape[1] == 1:
        w = np.hstack([-w / 2, w / 2])
    return Call(seconds, value(problem, w), bool(np.max(estimator.n_iter_) < max_iter))


def work(connection: Connection, name: str) -> None:
    """Answers questions about a problem, in a process that may be ended while it is at one."""
    data = data_of(name)
    penalty = L2(strength=1 / (C * len(data)))
    problem = Problem(Objective(Softmax(), CrossEntropy(), fused, penalty, CORES), data)
    connection.send(value(problem, np.zeros((data.x.shape[1] + 1, len(data.classes)))))
    while (question := connection.recv()) is not None:
        function, *arguments = question
        connection.send(function(problem, *arguments))


class Worker:
    """A process that answers, with a limit of time; after one that it has missed, another takes its place."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would break the threads of OpenMP
        self._connection, other = context.Pipe()
        self._process = context.Process(target=work, args=(other, self._name), daemon=True)
        self._process.start()
        other.close()
        self.start: float = self._connection.recv()  # f(0), once the data are there

    def ask(self, limit: float, *question: object) -> object:
        """function(problem, *arguments) there; None if it took more than the limit, or the process with it."""
        self._connection.send(question)
        try:
            if self._connection.poll(limit):
                return self._connection.recv()
        except EOFError:
            pass
        self._process.kill()
        self._process.join()
        self._start()
        return None

    def call(self, side: str, solver: str, max_iter: int, threads: int) -> Call:
        """One call of fit; NO_ANSWER after LIMIT."""
        answer = self.ask(LIMIT + 5, call, side, solver, max_iter, threads)  # the evaluation takes a while, too
        return answer if isinstance(answer, Call) and answer.seconds <= LIMIT else NO_ANSWER

    def close(self) -> None:
        """Ends the process."""
        self._connection.send(None)
        self._process.join()


@dataclass
class Race:
    """One problem: its optimum, and what is known of each solver by the number of its iterations."""

    worker: Worker
    best: float = np.inf  # f*
    values: dict[str, list[float]] = field(default_factory=dict)  # of f, iteration by iteration, of ours
    calls: dict[str, dict[int, Call]] = field(default_factory=dict)  # of the peers
    threads: dict[str, list[int]] = field(default_factory=dict)  # of the peers, the better number first

    def record(self) -> None:
        """Runs our solvers to their end; f* is the lowest value of all."""
        for solver in OURS:
            self.values[solver] = self.worker.ask(2 * LIMIT, record, solver) or [self.worker.start]
        self.best = min(min(values) for values in self.values.values())

    def goal(self, gap: float) -> float:
        """The value of f at a gap."""
        return self.best + gap * (self.worker.start - self.best)

    def gap(self, value: float) -> float:
        """The gap of a value of f."""
        return (value - self.best) / (self.worker.start - self.best)

    def ours(self, solver: str, gap: float) -> Result | None:
        """Seconds to the gap, and iterations."""
        goal = self.goal(gap)
        reached = (count for count, value in enumerate(self.values[solver]) if value <= goal)
        if (count := next(reached, None)) is None:
            return None
        calls = [self.worker.call("trainer", solver, count, CORES) for _ in range(REPEATS)]
        if any(one is NO_ANSWER for one in calls):
            return None
        if max(one.value for one in calls) > self.goal(gap * (1 + 1e-6)):
            raise AssertionError(f"{solver} reached {gap:g} by {count} iterations when recorded, and not when timed.")
        return Result(statistics.median(one.seconds for one in calls), count)

    def peer(self, solver: str, gap: float, fastest: float) -> Result | None:
        """Seconds to the gap, and iterations; fastest are the seconds of the best other peer."""
        if solver not in self.calls:
            self._first(solver)
        if (count := self._fewest(solver, gap, fastest)) is None:
            return self._hopeless(solver, fastest)
        seconds = self.calls[solver][count].seconds
        if seconds > min(3 * fastest, 10):
            return Result(seconds, count)
        medians = []
        for threads in self.threads[solver]:
            timed = [self._call(solver, count, threads)]
            if timed[0].seconds < 2 * min(medians, default=np.inf):
                timed += [self._call(solver, count, threads) for _ in range(REPEATS - 1)]
            if all(one.value <= self.goal(gap) for one in timed):  # another number of threads rounds in another way
                medians.append(statistics.median(one.seconds for one in timed))
        return Result(min(medians, default=seconds), count)

    def _call(self, solver: str, max_iter: int, threads: int | None = None) -> Call:
        """One call of a peer, by default with its better number of threads."""
        return self.worker.call("sklearn", solver, max_iter, threads or self.threads[solver][0])

    def _first(self, solver: str) -> None:
        """The first try of a peer, and its better number of threads."""
        count, self.threads[solver] = PEERS[solver], [CORES]
        self.calls[solver] = {count: self._call(solver, count)}  # not warm
        if solver in STOCHASTIC or CORES == 1 or self.calls[solver][count] is NO_ANSWER:
            return
        tried = {threads: self._call(solver, count, threads) for threads in (CORES, 1)}
        self.threads[solver] = sorted(tried, key=lambda threads: tried[threads].seconds)
        self.calls[solver][count] = tried[self.threads[solver][0]]

    def _fewest(self, solver: str, gap: float, fastest: float) -> int | None:
        """The smallest max_iter that reaches the gap; None if none does within the limit."""
        goal, calls = self.goal(gap), self.calls[solver]
        while not any(one.value <= goal for one in calls.values()):
            if self._hopeless(solver, fastest) or (count := self._next(solver, gap)) is None:
                return None
            calls[count] = self._call(solver, count)
        high = min(count for count, one in calls.items() if one.value <= goal)
        low = max((count for count in calls if count < high), default=0)
        while high - low > max(1, high // (10 if low and calls[low].seconds > 3 * fastest else 50)):
            middle = (low + high) // 2
            calls[middle] = self._call(solver, middle)
            low, high = (low, middle) if calls[middle].value <= goal else (middle, high)
        return high

    def _hopeless(self, solver: str, fastest: float) -> Result | None:
        """The longest call of a peer, if it is too long for the peer to be the best; no call has reached the gap."""
        answered = [(one.seconds, count) for count, one in self.calls[solver].items() if one is not NO_ANSWER]
        seconds, count = max(answered, default=(0.0, 0))
        return Result(seconds, count, True) if seconds > HOPELESS * fastest else None

    def _next(self, solver: str, gap: float) -> int | None:
        """The next larger max_iter to try; None where there is no hope."""
        calls = self.calls[solver]
        answered = sorted(count for count, one in calls.items() if one is not NO_ANSWER)
        too_many = min((count for count, one in calls.items() if one is NO_ANSWER), default=None)
        if not answered:
            return None
        last = calls[answered[-1]]
        count = min(2 * answered[-1], int(0.95 * LIMIT / last.seconds * answered[-1]))
        if too_many is not None:
            count = min(count, (answered[-1] + too_many) // 2)
        if last.ended or count <= answered[-1]:
            return None
        if solver in STOCHASTIC and len(answered) > 1:
            before = calls[answered[-2]]
            rate = np.log(self.gap(before.value) / self.gap(last.value)) / (answered[-1] - answered[-2])
            passes = answered[-1] + np.log(self.gap(last.value) / gap) / max(rate, 1e-12)
            if passes * last.seconds / answered[-1] > 3 * LIMIT:
                return None
        return count

    def lower(self) -> list[str]:
        """A sentence for each peer that found a value below f*, by more than 1e-12 of the way."""
        sentences = []
        for solver, calls in self.calls.items():
            gap = self.gap(min((one.value for one in calls.values()), default=np.inf))
            if gap < -1e-12:
                sentences.append(f"  scikit-learn's {solver} found a value below f*: its gap is {gap:.1e}.")
        return sentences


@dataclass
class Row:
    """The seconds of each solver to one gap of one problem, inf where it is unsolved."""

    name: str
    gap: float
    ours: dict[str, float]
    peers: dict[str, float]

    @property
    def better(self) -> float:
        """The better of newton and lbfgs."""
        return min(self.ours["newton"], self.ours["lbfgs"])

    @property
    def peer(self) -> float:
        """The best of scikit-learn's."""
        return min(self.peers.values())


def cell(result: Result | None) -> str:
    """Seconds and iterations."""
    return "-" if result is None else f"{'>' * result.beyond}{result.seconds:.3g} ({result.count})"


def race(name: str, peers: list[str], gaps: list[float]) -> list[Row]:
    """All solvers on one problem, row by row."""
    contest = Race(Worker(name))
    contest.record()
    apart = contest.gap(max(min(contest.values[solver]) for solver in ("newton", "lbfgs")))
    print(f"{name}: f(0) {contest.worker.start:.6g}, f* {contest.best:.15g}", end="")
    print(f"; newton and lbfgs end {apart:.0e} apart", flush=True)
    rows = []
    for gap in gaps:
        print(f"  {gap:<8.0e}", end="", flush=True)
        ours, theirs = {}, {}
        for solver in OURS:
            result = contest.ours(solver, gap)
            ours[solver] = np.inf if result is None else result.seconds
            print(f"{cell(result):>14}", end="", flush=True)
        for solver in peers:
            result = contest.peer(solver, gap, min(theirs.values(), default=np.inf))
            theirs[solver] = np.inf if result is None else result.seconds
            print(f"{cell(result):>20}", end="", flush=True)
        rows.append(Row(name, gap, ours, theirs))
        print(f"{rows[-1].peer / rows[-1].better:>8.1f}", flush=True)
    for sentence in contest.lower():
        print(sentence, flush=True)
    contest.worker.close()
    return rows


def summary(rows: list[Row], gap: float) -> None:
    """The ratios at one gap, and what is unsolved."""
    print(f"gap {gap:.0e}:")
    at = [row for row in rows if row.gap == gap]
    solved = [row for row in at if np.isfinite(row.peer) and np.isfinite(row.better)]
    for title, seconds in (
        ("the better of newton and lbfgs", [row.better for row in solved]),
        ("auto", [row.ours["auto"] for row in solved]),
    ):
        if solved:
            ratios = [row.peer / mine for row, mine in zip(solved, seconds, strict=True)]
            least = int(np.argmin(ratios))
            mean = statistics.geometric_mean(ratios) if min(ratios) > 0 else 0.0
            print(
                f"  best of scikit-learn / {title}: geometric mean {mean:.2f}, "
                f"least {ratios[least]:.2f} ({solved[least].name})"
            )
    if solved:
        slower = max(row.ours["auto"] / row.better for row in solved)
        print(f"  auto / the better of the two: at most {slower:.2f}")
    for row in at:
        for side, seconds in (("trainer", row.ours), ("scikit-learn", row.peers)):
            if unsolved := [solver for solver, took in seconds.items() if np.isinf(took)]:
                print(f"  unsolved by {side}: {row.name} by {', '.join(unsolved)}")


def cpu() -> str:
    """The name of the processor."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def main() -> None:
    """Prints the table and the ratios."""
    wanted = [argument for argument in sys.argv[1:] if argument != "--quick"]
    names = [name for name in PROBLEMS if not wanted or any(part in name for part in wanted)]
    if not names:
        sys.exit(f"No problem has {' or '.join(wanted)} in its name. Problems: {'; '.join(PROBLEMS)}.")
    peers = [solver for solver in PEERS if not (QUICK and solver in STOCHASTIC)]
    gaps = GAPS[:-1] if QUICK else GAPS
    print(f"{CORES} cores, {cpu()}, Python {platform.python_version()}, numpy {np.__version__}", end="")
    print(f", scikit-learn {sklearn.__version__}; median of {REPEATS} in seconds, and iterations; limit {LIMIT:.0f} s")
    columns = [f"{solver:>14}" for solver in OURS] + [f"{'sk ' + solver:>20}" for solver in peers]
    print(f"  {'gap':<8}" + "".join(columns) + f"{'ratio':>8}")
    start = time.perf_counter()
    rows = [row for name in names for row in race(name, peers, gaps)]
    for gap in gaps:
        summary(rows, gap)
    print(f"The benchmark took {(time.perf_counter() - start) / 60:.1f} minutes.")


if __name__ == "__main__":
    main()
