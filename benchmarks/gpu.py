"""Times softmax regression on a GPU: this project beside torch's L-BFGS, scikit-learn's array API and cuML.

    python benchmarks/gpu.py [device, torch:cuda:0 unless given] [--quick]

Every method minimises mean loss + |w[:-1]|^2 / (2 N), C = 1, on the same float32 features. A line has the seconds from
arrays of numpy's to coefficients, and how far E lies above the lowest E of all, in float64. torch's L-BFGS stops where
it comes within 1e-6 of this project's E, or after LIMIT seconds; the others by their own rules. The two products with
the features, forwards and back, are what no method can do without: their milliseconds stand first, and those of one
value and gradient beside them. What is not installed is skipped with a line.

--quick takes small problems, for torch on a processor.
"""

import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable

os.environ["SCIPY_ARRAY_API"] = "1"  # scikit-learn asks for it, before scipy is imported

import numpy as np
import sklearn
import torch
from sklearn.linear_model import LogisticRegression

from trainer.chain.activations import Softmax
from trainer.chain.losses import CrossEntropy
from trainer.chain.strategies import auto
from trainer.data.rows import Data, Numbered
from trainer.objective.device import HOST, Device, device_of
from trainer.objective.objective import Objective
from trainer.objective.penalties import L2
from trainer.objective.problem import Problem
from trainer.objective.threads import available_cores
from trainer.optimizers import OPTIMIZERS
from trainer.optimizers.fit import TrainState, fit, proved

QUICK = "--quick" in sys.argv
NAME = next((word for word in sys.argv[1:] if not word.startswith("-")), "torch" if QUICK else "torch:cuda:0")
SHAPES = [(8_000, 512, 20), (20_000, 64, 10)] if QUICK else [(1_281_167, 1_024, 1_000), (8_000, 512, 20)]
LIMIT, ROUNDS, CLOSE = 60.0 if QUICK else 600.0, 5, 1e-6
PLACE = device_of(NAME)
DEVICE = torch.device(NAME.partition(":")[2] or "cpu")

Fitted = tuple[np.ndarray, str]  # w (D+1,K), and what else is said of it


def rows(n: int, d: int, k: int) -> Data:
    """Normal features, and labels drawn from a softmax whose scores have a standard deviation of two."""
    rng = np.random.default_rng(0)
    w = rng.normal(size=(d, k)).astype(np.float32) * 2 / np.float32(np.sqrt(d))
    x, y = np.empty((n, d), dtype=np.float32), np.empty(n, dtype=np.int64)
    for start in range(0, n, 1 << 14):
        part = slice(start, start + (1 << 14))
        x[part] = rng.standard_normal(x[part].shape, dtype=np.float32)
        y[part] = (x[part] @ w + rng.gumbel(size=(len(x[part]), k))).argmax(axis=1)
    return Data(x, y, tuple(range(k)), Numbered(d))


def problem(data: Data, place: Device) -> Problem:
    """What every method minimises."""
    penalty = L2(1 / len(data))
    return Problem(Objective(Softmax(), CrossEntropy(), auto, penalty, available_cores(), device=place), data)


def wait() -> None:
    """Until the device has done what it was asked for."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize(DEVICE)


def milliseconds(call: Callable[[], object]) -> float:
    """The median of warm calls."""
    call()
    seconds = []
    for _ in range(ROUNDS):
        wait()
        start = time.perf_counter()
        call()
        wait()
        seconds.append(time.perf_counter() - start)
    return 1e3 * statistics.median(seconds)


def ours(data: Data) -> Fitted:
    """optimizer=auto, to the certificate."""
    asked, optimizer = problem(data, PLACE).objective, OPTIMIZERS["auto"]()
    *_, last = fit(asked, optimizer, data, None, TrainState.start(optimizer, data), epochs=200, metrics=None)
    proof = last.proof or proved(asked, optimizer, data, last.state.w, last.converged, last.after)
    return last.state.w, f"{last.state.epoch} iterations, {proof.why}"


def torch_lbfgs(data: Data, enough: float) -> Fitted:
    """torch.optim.LBFGS with its line search, on autograd."""
    x, y = torch.asarray(data.x, device=DEVICE), torch.asarray(data.y, device=DEVICE)
    shape = (x.shape[1], len(data.classes))
    weight, bias = (torch.zeros(part, device=DEVICE, requires_grad=True) for part in (shape, shape[1:]))
    search = torch.optim.LBFGS([weight, bias], max_iter=5, history_size=20, line_search_fn="strong_wolfe")
    evaluations, value, start = 0, np.inf, time.perf_counter()

    def closure() -> torch.Tensor:
        nonlocal evaluations
        evaluations += 1
        search.zero_grad()
        loss = torch.nn.functional.cross_entropy(x @ weight + bias, y) + (weight * weight).sum() / (2 * len(y))
        loss.backward()
        return loss

    while value > enough * (1 + CLOSE) and time.perf_counter() - start < LIMIT:
        before, value = value, float(search.step(closure))
        if value == before:
            break
    found = torch.cat([weight, bias[None]]).detach().cpu().numpy()
    return found, f"{evaluations} evaluations"


def scikit_learn(data: Data, enough: float) -> Fitted:
    """LogisticRegression on tensors, by scikit-learn's array API."""
    x, y = torch.asarray(data.x, device=DEVICE), torch.asarray(data.y, device=DEVICE)
    with sklearn.config_context(array_api_dispatch=True):
        model = LogisticRegression(C=1.0, tol=1e-6, max_iter=1000).fit(x, y)
    parts = [torch.asarray(part).cpu().numpy() for part in (model.coef_.T, model.intercept_[None])]
    return np.concatenate(parts), f"{int(model.n_iter_[0])} iterations"


def cuml(data: Data, enough: float) -> Fitted:
    """cuML's LogisticRegression."""
    from cuml.linear_model import LogisticRegression as OnGpu

    model = OnGpu(C=1.0, tol=1e-6, max_iter=1000, output_type="numpy").fit(data.x, data.y.astype(np.float32))
    return np.concatenate([model.coef_.T, model.intercept_[None]]), ""


def timed(fitted: Callable[[], Fitted]) -> tuple[float, np.ndarray, str]:
    """The seconds of a fit, and what came of it."""
    wait()
    start = time.perf_counter()
    w, said = fitted()
    return time.perf_counter() - start, w, said


def limit(data: Data) -> float:
    """Milliseconds of the two products alone."""
    x, w = PLACE.put(data.x), PLACE.put(np.ones((data.x.shape[1], len(data.classes)), dtype=np.float32))
    z = x @ w
    return milliseconds(lambda: x @ w) + milliseconds(lambda: x.mT @ z)


def compare(data: Data) -> None:
    """The lines of one problem."""
    asked = problem(data, PLACE)
    w = PLACE.put(np.zeros((data.x.shape[1] + 1, len(data.classes)), dtype=np.float32))
    gradient = milliseconds(lambda: asked.value_and_grad(w))
    print(f"  two products {limit(data):10.2f} ms   value and gradient {gradient:10.2f} ms")
    exact = problem(data, PLACE if PLACE.memory else HOST).view(np.float64)
    seconds, first, said = timed(lambda: ours(data))
    found = {"this project": (seconds, exact.at(first.astype(np.float64)).value, said)}
    for name, peer in (("torch L-BFGS", torch_lbfgs), ("scikit-learn", scikit_learn), ("cuML", cuml)):
        try:
            seconds, w, said = timed(lambda peer=peer: peer(data, found["this project"][1]))
        except ImportError as error:
            print(f"  {name} is skipped: {error}")
        except Exception as error:  # of a peer that does not know such arrays, or has no room
            print(f"  {name} has failed: {type(error).__name__}: {str(error)[:200]}")
        else:
            found[name] = (seconds, exact.at(w.astype(np.float64)).value, said)
    lowest = min(value for _, value, _ in found.values())
    for name, (seconds, value, said) in found.items():
        print(f"  {name:<14}{seconds:10.2f} s   {value / lowest - 1:8.1e} above the lowest E   {said}")


def main() -> None:
    """All problems."""
    card = torch.cuda.get_device_name(DEVICE) if DEVICE.type == "cuda" else f"{available_cores()} cores"
    print(f"{NAME}: {card}; torch {torch.__version__}, scikit-learn {sklearn.__version__}")
    for n, d, k in SHAPES:
        print(f"{n:,} x {d:,} x {k:,}, float32")
        compare(rows(n, d, k))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
