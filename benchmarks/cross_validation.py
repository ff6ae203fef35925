"""Times the choice of a penalty by cross-validation: SoftmaxRegressionCV beside scikit-learn's, on the same folds.

    python benchmarks/cross_validation.py [part of a problem's name ...] [--quick]

Both sides fit all strengths on all folds, score them by the log loss of the rows held out, and fit the best strength to
all rows. A peer runs with its default tol of 1e-4, and again with the first of 1e-6, 1e-8, ... at which all its cells
are within 1e-6 of their minimum, which here is proved of every cell. Seconds are medians of three warm calls, a peer's
with the better of processes and threads, or one call where that takes three times as long as another peer; after LIMIT
seconds it is given up: ">".

"true C" is that of cold fits, each by itself, to a proved gap of 1e-10. With two classes LogisticRegression penalises
b = w_1 - w_0 alone, so it gets 2 C.

--quick times every call once and leaves out the tight peers.
"""

import multiprocessing
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np
import sklearn
from joblib.externals.loky import get_reusable_executor
from sklearn.datasets import load_digits, load_iris
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.model_selection import GridSearchCV, ShuffleSplit, StratifiedKFold
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from trainer import SoftmaxRegressionCV
from trainer.chain.activations import Softmax
from trainer.chain.losses import CrossEntropy
from trainer.chain.strategies import auto
from trainer.data.rows import Data
from trainer.objective.objective import Objective
from trainer.objective.penalties import L2
from trainer.objective.problem import Problem
from trainer.objective.threads import available_cores
from trainer.optimizers import Auto
from trainer.optimizers.cross_validation import Fold, cross_validate, training_rows

QUICK = "--quick" in sys.argv
LIMIT, REPEATS = (60.0, 1) if QUICK else (120.0, 3)
SLOW = 3  # times as long as the best peer, and a peer is called once
GAP = 1e-6
SOLVERS = ["lbfgs", "newton-cg", "newton-cholesky"]
TOLS = [1e-4] if QUICK else [1e-4, 1e-6, 1e-8, 1e-10]
CORES = available_cores()
WARM = load_iris(return_X_y=True)  # fitted before anything is timed, so that imports and processes are there


class Case(NamedTuple):
    """A problem, the strengths, and the splits."""

    x: np.ndarray
    y: np.ndarray
    cs: np.ndarray
    splits: list[tuple[np.ndarray, np.ndarray]]

    @property
    def factor(self) -> int:
        """scikit-learn's C over ours."""
        return 2 if self.y.max() == 1 else 1


def case(x: np.ndarray, y: np.ndarray, cs: np.ndarray, folds: int) -> Case:
    """With so many folds, or one split that holds out a tenth."""
    splitter = StratifiedKFold(folds) if folds > 1 else ShuffleSplit(1, test_size=0.1, random_state=0)
    return Case(x, y, cs, list(splitter.split(x, y)))


def drawn(n: int, features: int, classes: int, sharp: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Normal features, and labels drawn from a softmax of scores of this deviation."""
    random = np.random.default_rng(0)
    x = random.normal(size=(n, features))
    z = sharp * x @ random.normal(size=(features, classes)) / np.sqrt(features)
    return x, (z + random.gumbel(size=z.shape)).argmax(axis=1)


def digits() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's, standardised."""
    x, y = load_digits(return_X_y=True)
    return StandardScaler().fit_transform(x), y


def badly_scaled() -> tuple[np.ndarray, np.ndarray]:
    """Columns of deviations from 1e-2 to 1e2, and a hundred deviations from zero."""
    x, y = drawn(10_000, 20, 4)
    scale = np.logspace(-2, 2, 20)
    return x * scale + 100 * scale, y


TEN = np.logspace(-4, 4, 10)
PROBLEMS: dict[str, Callable[[], Case]] = {
    "digits 1,797 x 64 x 10, 10 x 5": lambda: case(*digits(), TEN, 5),
    "20,000 x 64 x 10, 10 x 5": lambda: case(*drawn(20_000, 64, 10), TEN, 5),
    "30,000 x 40 x 2, 10 x 5": lambda: case(*drawn(30_000, 40, 2), TEN, 5),
    "8,000 x 512 x 20, 45 x 1": lambda: case(*drawn(8_000, 512, 20), np.logspace(-6, 5, 45), 1),
    "8,000 x 256 x 20, 25 x 5": lambda: case(*drawn(8_000, 256, 20), np.logspace(-4, 4, 25), 5),
    "nearly separable 5,000 x 30 x 3, 10 x 5": lambda: case(*drawn(5_000, 30, 3, sharp=100.0), TEN, 5),
    "badly scaled 10,000 x 20 x 4, 10 x 5": lambda: case(*badly_scaled(), TEN, 5),
}


class Answer(NamedTuple):
    """Seconds of each call, the chosen C of ours, and the largest gap of its cells."""

    seconds: list[float]
    chosen: float
    gap: float


def ours(given: Case, repeats: int) -> Answer:
    """SoftmaxRegressionCV."""
    model = SoftmaxRegressionCV(Cs=given.cs, cv=given.splits)
    SoftmaxRegressionCV(Cs=3).fit(*WARM)
    seconds = timed(lambda: model.fit(given.x, given.y), repeats)
    return Answer(seconds, model.C_, float(model.gap_.max()))


def logistic_cv(given: Case, solver: str, tol: float, jobs: int, repeats: int) -> Answer:
    """LogisticRegressionCV, with one process and all threads or so many processes of one."""
    model = LogisticRegressionCV(
        Cs=given.factor * given.cs,
        cv=given.splits,
        solver=solver,
        tol=tol,
        scoring="neg_log_loss",
        max_iter=100 if tol == TOLS[0] else 100_000,
        n_jobs=jobs,
        use_legacy_attributes=False,
    )
    LogisticRegressionCV(cv=3, n_jobs=jobs, use_legacy_attributes=False, scoring="neg_log_loss").fit(*WARM)
    with threadpool_limits(CORES if jobs == 1 else 1):
        seconds = timed(lambda: model.fit(given.x, given.y), repeats)
    paths = model.coefs_paths_[:, 0]  # of the one l1_ratio
    return Answer(seconds, float(model.C_) / given.factor, gap_of(given, paths))


def grid_search(given: Case, solver: str, tol: float, jobs: int, repeats: int) -> Answer:
    """GridSearchCV over LogisticRegression, in so many processes."""
    grid = {"C": given.factor * given.cs}
    inner = LogisticRegression(solver=solver, tol=tol)
    model = GridSearchCV(inner, grid, scoring="neg_log_loss", cv=given.splits, n_jobs=jobs)
    GridSearchCV(inner, {"C": [1.0]}, cv=3, n_jobs=jobs).fit(*WARM)
    seconds = timed(lambda: model.fit(given.x, given.y), repeats)
    return Answer(seconds, model.best_params_["C"] / given.factor, np.nan)


def timed(call: Callable[[], object], repeats: int) -> list[float]:
    """Seconds of each call."""
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return seconds


def data_of(given: Case) -> Data:
    """The same rows, as the project has them."""
    classes = int(given.y.max()) + 1
    return Data(given.x, given.y, tuple(range(classes)), tuple(f"x{d}" for d in range(given.x.shape[1])))


def gap_of(given: Case, paths: np.ndarray) -> float:
    """The largest gap that is proved of coefficients (F,S,K,D+1), of two classes (F,S,1,D+1)."""
    data, largest = data_of(given), 0.0
    for f, (train, test) in enumerate(given.splits):
        rows = training_rows(data, Fold(train, test))
        for s, c in enumerate(given.cs):
            w = paths[f, s].T
            w = np.hstack([-w / 2, w / 2]) if w.shape[1] == 1 else w - w.mean(axis=1, keepdims=True)
            objective = Objective(Softmax(), CrossEntropy(), auto, L2(1 / (c * len(train))), CORES)
            largest = max(largest, Problem(objective, rows).certify(w, GAP).gap or 0.0)
    return largest


def true_c(given: Case) -> float:
    """The C that cold fits to 1e-10 choose."""
    data, losses = data_of(given), np.zeros(len(given.cs))
    objective = Objective(Softmax(), CrossEntropy(), auto, L2(1.0), CORES)
    for split in given.splits:
        for s, c in enumerate(given.cs):
            penalty = L2(1 / (c * len(split[0])))
            solver = Auto(tol=1e-12, gap=1e-10)
            (cell,) = cross_validate(
                objective, solver, data, [Fold(*split)], lambda total, one=penalty: [one], epochs=500, metrics={}
            )
            losses[s] += cell.metrics["loss"]
    return float(given.cs[losses.argmin()])


def _answer(pipe: Connection, call: Callable[..., Answer], *arguments: Any) -> None:
    warnings.simplefilter("ignore")
    os.environ["PYTHONWARNINGS"] = "ignore"  # of processes of its own
    pipe.send(call(*arguments))
    get_reusable_executor().shutdown(wait=True)  # they would be left behind


def limited(call: Callable[..., Answer], *arguments: Any) -> Answer | None:
    """The answer of a process of its own, or None after LIMIT seconds a call."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_answer, args=(sender, call, *arguments))
    process.start()
    sender.close()
    try:
        return receiver.recv() if receiver.poll(LIMIT) else None
    except EOFError:
        return None
    finally:
        process.join(5)
        process.kill()


def best_of(least: float, call: Callable[..., Answer], *arguments: Any) -> Answer | None:
    """With the better of threads and processes; once, where it takes more than three times the least so far."""
    found = limited(call, *arguments, 1, 1)
    if found is None or found.seconds[0] > SLOW * least:
        return found
    other = limited(call, *arguments, CORES, 1)
    jobs = CORES if other is not None and other.seconds[0] < found.seconds[0] else 1
    return (REPEATS > 1 and limited(call, *arguments, jobs, REPEATS)) or (found if jobs == 1 else other)


def main() -> None:
    """Prints a block a problem, and the geometric mean of the ratios."""
    wanted = [word for word in sys.argv[1:] if not word.startswith("-")]
    print(f"{platform.processor() or platform.machine()}, {CORES} cores, scikit-learn {sklearn.__version__}")
    ratios: dict[str, list[float]] = {"default": [], "tight": []}
    for name, make in PROBLEMS.items():
        if wanted and not any(word in name for word in wanted):
            continue
        given = make()
        found = ours(given, REPEATS)
        seconds = statistics.median(found.seconds)
        print(f"\n{name}: true C {true_c(given):.4g}")
        print(
            f"  {'SoftmaxRegressionCV':<34}{seconds:>9.3f} s   C {found.chosen:<10.4g} gap {found.gap:.1e}", flush=True
        )
        best = {"default": np.inf, "tight": np.inf}
        peers: list[tuple[str, Callable[..., Answer], str]] = [
            (f"LogisticRegressionCV {s}", logistic_cv, s) for s in SOLVERS
        ]
        for label, call, solver in [*peers, ("GridSearchCV lbfgs", grid_search, "lbfgs")]:
            before = np.inf
            for tol in TOLS if call is logistic_cv else TOLS[:1]:
                peer = best_of(min(best.values()), call, given, solver, tol)
                if peer is None:
                    print(f"  {label + f', tol {tol:.0e}':<34}{'>' + format(LIMIT, '.0f'):>9} s", flush=True)
                    break
                took = statistics.median(peer.seconds)
                if tol == TOLS[0]:
                    best["default"] = min(best["default"], took)
                if peer.gap <= GAP:
                    best["tight"] = min(best["tight"], took)
                print(
                    f"  {label + f', tol {tol:.0e}':<34}{took:>9.3f} s   C {peer.chosen:<10.4g} gap {peer.gap:.1e}"
                    f"   {took / seconds:.1f} times",
                    flush=True,
                )
                if not GAP < peer.gap < before / 2:  # there, or no nearer
                    break
                before = peer.gap
        for kind, took in best.items():
            if np.isfinite(took):
                ratios[kind].append(took / seconds)
    for kind, values in ratios.items():
        if values:
            mean = float(np.exp(np.mean(np.log(values))))
            print(
                f"\nthe best peer, {kind} tol: {mean:.1f} times as long in geometric mean, {min(values):.1f} at least"
            )


if __name__ == "__main__":
    main()
