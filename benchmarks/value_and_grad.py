"""Times one value and gradient of softmax with ce: this project beside its peers, in one process, on the same data.

    python benchmarks/value_and_grad.py [float64|float32 ...]

trainer is the objective of this project, in numpy.
The peers are scikit-learn's LinearModelLoss (the better of one thread and all), torch autograd, jax jit, and as a floor
the two matrix products alone (the better of two layouts).  Each is warm and in its own dtype; what is not installed is
skipped with a line (pip install softmax-trainer[bench]).  Medians in milliseconds.
"""

import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
from sklearn._loss import HalfMultinomialLoss
from sklearn.linear_model._linear_loss import LinearModelLoss

from trainer.chain.activations import Softmax
from trainer.chain.losses import CrossEntropy
from trainer.chain.strategies import fused
from trainer.data.rows import Data
from trainer.objective.objective import Objective
from trainer.objective.penalties import NoPenalty
from trainer.objective.problem import Problem
from trainer.objective.threads import available_cores, blas_on_one_thread

SHAPES = [(100_000, 20, 4), (100_000, 64, 10), (60_000, 784, 10), (100_000, 512, 100)]
WARM, ROUNDS = 2, 9
CORES = available_cores()

Call = Callable[[], object]


def ours(x: np.ndarray, y: np.ndarray, w: np.ndarray) -> list[Call]:
    """The objective of this project, on every core."""
    data = Data(x, y, tuple(range(w.shape[1])), tuple(map(str, range(x.shape[1]))))
    problem = Problem(Objective(Softmax(), CrossEntropy(), fused, NoPenalty(), CORES), data)

    def call() -> tuple[float, np.ndarray]:
        with blas_on_one_thread():
            return problem.value_and_grad(w)

    return [call]


def scikit_learn(x: np.ndarray, y: np.ndarray, w: np.ndarray) -> list[Call]:
    """scikit-learn's loss of LogisticRegression, with its own layout of the coefficients."""
    loss = LinearModelLoss(HalfMultinomialLoss(n_classes=w.shape[1]), fit_intercept=True)
    coef, target = np.asfortranarray(w.T), y.astype(x.dtype)
    return [lambda n=n: loss.loss_gradient(coef, x, target, n_threads=n) for n in {1, CORES}]


def torch_autograd(x: np.ndarray, y: np.ndarray, w: np.ndarray) -> list[Call]:
    """torch's cross entropy through autograd."""
    import torch

    features, target = torch.from_numpy(x), torch.from_numpy(y)
    weight, bias = (torch.from_numpy(part.copy()).requires_grad_() for part in (w[:-1], w[-1]))

    def call() -> object:
        weight.grad = bias.grad = None
        loss = torch.nn.functional.cross_entropy(torch.addmm(bias, features, weight), target)
        loss.backward()
        return loss.item(), weight.grad

    return [call]


def jax_jit(x: np.ndarray, y: np.ndarray, w: np.ndarray) -> list[Call]:
    """jax's value_and_grad, compiled."""
    import jax

    jax.config.update("jax_enable_x64", True)

    @jax.jit
    @jax.value_and_grad
    def call(w: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
        z = x @ w[:-1] + w[-1]
        return (jax.nn.logsumexp(z, axis=1) - jax.numpy.take_along_axis(z, y[:, None], axis=1)[:, 0]).mean()

    arguments = [jax.numpy.asarray(part) for part in (w, x, y)]
    return [lambda: jax.block_until_ready(call(*arguments))]


def products(x: np.ndarray, y: np.ndarray, w: np.ndarray) -> list[Call]:
    """x @ w and x^T @ dl_dz, and nothing else."""
    weight = np.ascontiguousarray(w[:-1])
    dl_dz = np.random.default_rng(0).normal(size=(len(x), w.shape[1])).astype(x.dtype)
    transposed = np.ascontiguousarray(dl_dz.T)
    return [lambda: (x @ weight, x.T @ dl_dz), lambda: (weight.T @ x.T, transposed @ x)]


PEERS = {
    "trainer": ours,
    "sklearn": scikit_learn,
    "torch": torch_autograd,
    "jax": jax_jit,
    "products": products,
}


def median(call: Call) -> float:
    """Milliseconds of a call: warm, and the median of its rounds."""
    time.sleep(0.3)  # the threads of the last one may spin for a while before they sleep
    times = []
    for _ in range(WARM + ROUNDS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times[WARM:])


def main() -> None:
    """Prints the table and the ratios."""
    dtypes = sys.argv[1:] or ["float64", "float32"]
    rows: list[dict[str, float]] = []
    missing: dict[str, str] = {}
    print(f"{CORES} cores, numpy {np.__version__}, median of {ROUNDS} in ms")
    print(f"{'N, D, K':<18}{'dtype':<9}" + "".join(f"{peer:>10}" for peer in PEERS))
    for dtype in dtypes:
        for n, d, k in SHAPES:
            rng = np.random.default_rng(0)
            x = rng.normal(size=(n, d)).astype(dtype)
            y = rng.integers(k, size=n)
            w = (rng.normal(size=(d + 1, k)) / np.sqrt(d)).astype(dtype)
            best = dict.fromkeys(PEERS, np.nan)
            for peer, make in PEERS.items():
                try:
                    best[peer] = min(median(call) for call in make(x, y, w))
                except ImportError as error:
                    missing[peer] = str(error)
            rows.append(best)
            print(f"{n:,}, {d}, {k}".ljust(18) + f"{dtype:<9}" + "".join(f"{best[peer]:>10.1f}" for peer in PEERS))
    for peer, reason in missing.items():
        print(f"{peer} is skipped: {reason}")
    for peer in list(PEERS)[1:]:
        ratios = [row[peer] / row["trainer"] for row in rows]
        if not np.isnan(ratios).any():
            mean = statistics.geometric_mean(ratios)
            print(f"{peer:<9} / trainer: geometric mean {mean:.2f}, least {min(ratios):.2f}")


if __name__ == "__main__":
    main()
