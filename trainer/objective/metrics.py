"""Metrics by name: what a run reports of predictions a (N,K) on target rows y (N,K), beside its loss.

One shape serves them all: a metric gives statistics of each row, the objective takes their weighted means over the
rows that have a target, block by block, and ``finish`` makes one number of the means. For accuracy the statistic is
the number itself; ece's are fifteen, one for each bin, because its absolute values stand outside the means.
A stack of models has predictions (...,N,K); the target rows are those of all, or of each its own.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from trainer.arrays import Array, namespace
from trainer.chain.activations import ACTIVATIONS, RANGES, Activation
from trainer.errors import ConfigError, choose

DISTRIBUTIONS = frozenset({"simplex", "sparse_simplex"})  # of activations.RANGES: rows of probabilities that sum to one
PROBABILITIES = DISTRIBUTIONS | {"unit"}
ANY = frozenset(RANGES)


@dataclass(frozen=True)
class Metric:
    """``finish(mean over the rows of statistics(a, y))``.

    statistics  (a, y) -> (N,) or (N,M)
    finish      the means (M,) -> the number
    accepts     the ranges of activations that it makes sense for
    higher      whether the higher number is the better one, or None where neither is
    """

    statistics: Callable[[Array, Array], Array]
    finish: Callable[[Array], float] = lambda means: float(means[0])
    accepts: frozenset[str] = ANY
    higher: bool | None = False


def accuracy(a: Array, y: Array) -> Array:
    """1 where the largest prediction falls on a largest target of the row, else 0  (N,)."""
    xp = namespace(a)
    predicted = xp.argmax(a, axis=-1)  # of a and not of z: some activations are not monotone
    target = xp.take_along_axis(_of_each(y, a), predicted[..., None], axis=-1)[..., 0]
    return xp.astype(target == xp.max(y, axis=-1), a.dtype)


def _of_each(y: Array, a: Array) -> Array:
    """The targets of each model, also where all of them share the rows."""
    return y if y.ndim == a.ndim else namespace(a).broadcast_to(y, a.shape)


@dataclass(frozen=True)
class TopK:
    """1 where a largest target of the row is among the k largest predictions, else 0  (N,).

    Among equal predictions the first ones count, as in argmax, so that k = 1 is the accuracy.
    """

    k: int = 3

    def __call__(self, a: Array, y: Array) -> Array:
        xp = namespace(a)
        best = xp.argsort(-a, axis=-1, stable=True)[..., : self.k]  # (N,k)
        top = xp.max(xp.take_along_axis(_of_each(y, a), best, axis=-1), axis=-1)
        return xp.astype(top == xp.max(y, axis=-1), a.dtype)


def log_loss(a: Array, y: Array) -> Array:
    """-sum_k y_k log a_k / s with s = sum_k y_k  (N,).  A probability of exactly zero at a target makes it inf."""
    xp = namespace(a)
    s = xp.sum(y, axis=-1)
    terms = xp.where(y > 0, y * xp.log(xp.where(y > 0, a, 1.0)), 0.0)
    return -xp.sum(terms, axis=-1) / xp.where(s > 0, s, 1.0) + 0.0  # + 0.0: a perfect row is 0 and not -0


def brier(a: Array, y: Array) -> Array:
    """sum_k (a_k - y_k)^2  (N,): between 0 and 2 on distributions, as Brier (1950) had it."""
    return namespace(a).sum((a - y) ** 2, axis=-1)


@dataclass(frozen=True)
class CalibrationError:
    """Expected calibration error: sum over the bins of |sum of (hit - confidence)| / N, from 0 (good) to 1.

    The confidence is the largest a_k of the row, the hit its accuracy, and bin b holds confidences in (b/B, (b+1)/B].
    It is Guo et al. 2017, eq. 3: the share of a bin times its |accuracy - mean confidence|.
    """

    bins: int = 15

    def __call__(self, a: Array, y: Array) -> Array:
        """hit - confidence in the column of the row's bin, zeros elsewhere  (N,B)."""
        xp = namespace(a)
        confidence = xp.max(a, axis=-1)
        place = xp.clip(xp.ceil(confidence * self.bins) - 1, 0, self.bins - 1)
        inside = place[..., None] == xp.arange(self.bins, dtype=a.dtype, device=a.device)  # (N,B)
        return (accuracy(a, y) - confidence)[..., None] * xp.astype(inside, a.dtype)

    @staticmethod
    def finish(means: Array) -> float:
        return float(namespace(means).sum(abs(means)))


def sparsity(a: Array, y: Array) -> Array:
    """The share of exact zeros among the K numbers of the row  (N,)."""
    xp = namespace(a)
    return xp.mean(xp.astype(a == 0, a.dtype), axis=-1)


METRICS: dict[str, Metric] = {
    "accuracy": Metric(accuracy, higher=True),
    "top_k": Metric(TopK(), higher=True),
    "log_loss": Metric(log_loss, accepts=DISTRIBUTIONS),
    "brier": Metric(brier, accepts=PROBABILITIES),
    "ece": Metric(CalibrationError(), CalibrationError.finish, PROBABILITIES),
    "sparsity": Metric(sparsity, higher=None),
}
ACCURACY: Mapping[str, Metric] = {"accuracy": METRICS["accuracy"]}


def choose_metrics(names: Sequence[str], activation: Activation, key: str = "metrics") -> dict[str, Metric]:
    """The metrics of these names, or a ConfigError if one is unknown, doubled or not meant for the activation.

    key is the setting that they are given by.
    """
    chosen: dict[str, Metric] = {}
    for name in names:
        metric = METRICS[choose(key, METRICS, name)]
        if name in chosen:
            raise ConfigError(f"{key}={name} is listed twice, and the table has one column for it. List it once.")
        if activation.range not in metric.accepts:
            fitting = ", ".join(other for other, cls in ACTIVATIONS.items() if cls.range in metric.accepts)
            needed = "probabilities that sum to one" if metric.accepts == DISTRIBUTIONS else "probabilities"
            raise ConfigError(
                f"{key}={name} makes no sense with activation={activation.name}: {name} needs {needed}, and "
                f"{activation.name} gives {RANGES[activation.range]}. Leave {name} out, or take one of the "
                f"activations {fitting}."
            )
        chosen[name] = metric
    return chosen
