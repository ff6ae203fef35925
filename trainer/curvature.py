"""The curvature of an objective at a point: Hessian-vector products, and an approximate inverse to precondition with.

Both solvers for all samples lean on it. The Hessian is a sum over rows of (x,1)(x,1)^T (x) R, R = d^2 loss / dz^2, so a
product with it costs as much as a gradient, and a Kronecker product of two small matrices comes close to it.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from trainer.activations import Activation, LogSoftmax, Softmax
from trainer.arrays import Array
from trainer.data import Data
from trainer.features import numbers_a_row
from trainer.gradients import auto
from trainer.losses import FenchelYoung, Loss
from trainer.objective import KEPT, scores
from trainer.pairs import canonical

if TYPE_CHECKING:
    from trainer.objective import BlockSum

SAMPLE = 4096  # rows that the preconditioner is made of, or four for each feature
PROBED = 1 << 21  # numbers that K probes of rows (n,K) may make to find their mean Hessian
SMALL = 1e-6  # eigenvalues of the classes' curvature below this share of the largest are raised to it
NONE = 1e-10  # below this share of the largest they are rounding
FULL = 4000  # features: up to here the second moment is diagonalised, above it its diagonal is taken
COPIED = 1 << 27  # features (N,D) that are kept in single precision

RowHessian = Callable[[Array], Array]


def row_hessian(activation: Activation, loss: Loss, z: Array, y: Array, dtype: Any) -> RowHessian:
    """The map u (N,K) -> R u (N,K), R = d^2 loss / dz^2 of each row, in dtype.

    Canonical pairs have dl_dz = s a - y up to a factor, so R is the activation's Jacobian up to one. It is symmetric
    for all of them, so its vjp is exact.  Other pairs: central differences of dl_dz along u, to about 1e-9 of |R u|.
    """
    if not canonical(activation, loss):
        return _by_differences(activation, loss, z, y, dtype)
    inner: Any = Softmax() if isinstance(activation, LogSoftmax) else activation
    a = inner(z).astype(dtype)
    s = _row_factor(activation, loss, y).astype(dtype)
    z = z.astype(dtype)
    if (s == 1).all():
        return lambda u: inner.vjp(z, a, u)
    return lambda u: s * inner.vjp(z, a, u)


def _from_slope(activation: Softmax | LogSoftmax, loss: Loss, dl_dz: Array, y: Array) -> RowHessian:
    """The same, from dl_dz = factor a - y (times 1/T), where that is known already."""
    factor = _row_factor(activation, loss, y)
    temperature = getattr(activation, "temperature", 1.0)
    share = 1.0 if isinstance(loss, FenchelYoung) else 1 / temperature  # of y in dl_dz
    a = (dl_dz + share * y) / np.where(factor > 0, factor, 1.0)
    inner = Softmax(temperature)
    if (factor == 1).all():
        return lambda u: inner.vjp(a, a, u)
    return lambda u: factor * inner.vjp(a, a, u)


def _row_factor(activation: Activation, loss: Loss, y: Array) -> Array:
    """The factor (N,1) of a in dl_dz: s/T for softmax with ce, one for fenchel_young and where classes stand alone."""
    if isinstance(loss, FenchelYoung) or not isinstance(activation, Softmax | LogSoftmax):
        return np.ones((len(y), 1), dtype=y.dtype)
    factor: Array = y.sum(axis=1, keepdims=True) / getattr(activation, "temperature", 1.0)
    return factor


def _by_differences(activation: Activation, loss: Loss, z: Array, y: Array, dtype: Any) -> RowHessian:
    size = np.maximum(np.abs(z).max(axis=1, keepdims=True), 1) * np.cbrt(np.finfo(z.dtype).eps)  # (N,1)

    def product(u: Array) -> Array:
        length = np.abs(u).max(axis=1, keepdims=True)
        step = size / np.where(length > 0, length, 1.0).astype(z.dtype)
        up, down = (auto(activation, loss, z + sign * step * u, y).dl_dz for sign in (1, -1))
        return np.asarray((up - down) / (2 * step), dtype=dtype)

    return product


class Features(NamedTuple):
    """How products see the features x: as (x - mean) / scale, of which mean and scale are the sample's.

    It changes the coordinates, not the Hessian: mean and scale are undone outside of the product, in double precision.
    So single precision is enough inside for features of any scale, whose rounding of 1e-7 is far below the tolerance
    of an inner solver, and a product takes half the time.  Sparse features stay as they are.

    sample has rows spread evenly over the data; copies has the
    blocks in single precision, by their first row, where they fit in memory.
    """

    mean: Array
    scale: Array
    sample: Data
    copies: dict[int, Array]

    @classmethod
    def of(cls, problem: "BlockSum") -> "Features":
        """Of a problem's data."""
        data = problem.data
        rows, width = data.x.shape
        sample = data.rows(np.arange(0, rows, max(1, rows // max(SAMPLE, 4 * width))))
        mean, scale = np.zeros(width), np.ones(width)
        if isinstance(sample.x, np.ndarray):
            mean = sample.x.mean(axis=0, dtype=np.float64)
            spread = (sample.x - mean).std(axis=0)
            scale = np.where(spread > 0, spread, 1.0)
        features = cls(mean, scale, sample, {})
        in_memory = isinstance(data.x, np.ndarray) or hasattr(data.x, "nnz")
        if in_memory and rows * numbers_a_row(data.x) <= COPIED:
            features.copies.update(problem.each_block(lambda row, part: (row, features.seen(part.x, np.float32))))
        return features

    def seen(self, x: Array, dtype: Any) -> Array:
        """Features x (B,D) as a product sees them."""
        return ((x - self.mean) / self.scale).astype(dtype) if isinstance(x, np.ndarray) else x.astype(dtype)


class Metric(NamedTuple):
    """The features' share of the preconditioner: their second moment Q diag(e) Q^T about a mean, all by curvature.

    mean (D,), basis Q (D,D), or (0,0) where only the diagonal is taken, spread e (D,), and the mean curvature of the
    rows that it was made at: once that has changed much, so has the metric.
    """

    mean: Array
    basis: Array
    spread: Array
    level: float


class Curvature:
    """The Hessian of E at w on a problem's data, and the inverse of an approximation."""

    def __init__(self, problem: "BlockSum", w: Array, single: bool, slopes: dict[int, Array]) -> None:
        """slopes has dl_dz (B,K) of the blocks at w, by their first row, where they are known."""
        self._problem, self._w, self._slopes = problem, w, slopes
        self._dtype = np.dtype(np.float32) if single else w.dtype
        self._kept: dict[int, RowHessian] = {}
        self._sampled: tuple[Array, Array] | None = None

    def hvp(self, v: Array) -> Array:
        """H v (D+1,K) for v (D+1,K).  The probabilities that the rows' Hessians are made of are computed once."""
        problem, dtype = self._problem, self._dtype
        mean, scale, _, copies = problem.features
        inner = np.concatenate([scale[:, None] * v[:-1], (v[-1] + mean @ v[:-1])[None, :]]).astype(dtype)
        keep = len(problem.data) * v.shape[1] <= KEPT

        def partial(row: int, part: Data) -> Array:
            x = copies[row] if copies and dtype == np.float32 else problem.features.seen(part.x, dtype)
            hessian = self._kept.get(row) or self._row_hessian(row, part)
            if keep:
                self._kept[row] = hessian
            q = hessian(scores(inner, x))
            if part.weight is not None:
                q = part.weight[:, None].astype(dtype) * q
            return np.concatenate([(q.T @ x).T, q.sum(axis=0, keepdims=True)])

        product = np.zeros(v.shape)
        for share in problem.each_block(partial):
            product += share
        product /= problem.total
        weights = scale[:, None] * product[:-1] + np.outer(mean, product[-1]) + problem.penalty.ridge * v[:-1]
        return np.concatenate([weights, product[-1:]])

    def _row_hessian(self, row: int, part: Data) -> RowHessian:
        objective = self._problem.objective
        y = part.targets(self._w.dtype)
        if row in self._slopes and isinstance(objective.activation, Softmax | LogSoftmax) and self._problem.canonical:
            return _from_slope(objective.activation, objective.loss, self._slopes[row], y.astype(self._dtype))
        return row_hessian(objective.activation, objective.loss, scores(self._w, part.x), y, self._dtype)

    def metric(self) -> Metric:
        """The features' share at this w, from the sample of the rows."""
        x, t = self._problem.features.sample.x, self._sample()[1]
        level = float(t.mean())
        t = t / t.sum() if level > 0 else np.full(len(t), 1 / len(t))
        if x.shape[1] > FULL or not isinstance(x, np.ndarray):
            square = x.multiply(x) if hasattr(x, "multiply") else np.square(x)
            return Metric(np.zeros(x.shape[1]), np.empty((0, 0)), np.asarray(square.T @ t).ravel(), level)
        mean = t @ x
        centred = ((x - mean) * np.sqrt(t)[:, None]).astype(np.float64)
        e, basis = np.linalg.eigh(centred.T @ centred)
        return Metric(mean, basis, np.maximum(e, 0), level)

    def level(self) -> float:
        """The mean over the sample of the trace of R."""
        return float(self._sample()[1].mean())

    def _sample(self) -> tuple[Array, Array]:
        """C (K,K), the mean Hessian of the sample's rows, and the trace t (n,) of each."""
        if self._sampled is None:
            self._sampled = self._measure()
        return self._sampled

    def _measure(self) -> tuple[Array, Array]:
        problem, w = self._problem, self._w
        objective, sample, classes = problem.objective, problem.features.sample, w.shape[1]
        weight = np.ones(len(sample)) if sample.weight is None else sample.weight.astype(np.float64)
        share = weight[:, None] * (len(problem.data) / problem.total)  # (n,1)
        z, y = scores(w, sample.x).astype(np.float64), sample.targets(np.float64)
        if canonical(objective.activation, objective.loss) and isinstance(objective.activation, Softmax | LogSoftmax):
            temperature = getattr(objective.activation, "temperature", 1.0)
            a = Softmax(temperature)(z)
            s = share * _row_factor(objective.activation, objective.loss, y) / temperature
            c = (np.diag((s * a).sum(axis=0)) - a.T @ (s * a)) / len(a)
            return c, s[:, 0] * (1 - (a * a).sum(axis=1))
        rows = slice(None, None, -(-len(z) * classes**2 // PROBED))  # R e_k for each class k, on fewer rows if many
        # Where the loss is straight, as of sigmoid with mae at zero, a slope that may change within a hundred scores.
        straight = 0.01 * np.abs(auto(objective.activation, objective.loss, z[rows], y[rows]).dl_dz).mean()
        product = row_hessian(objective.activation, objective.loss, z[rows], y[rows], np.float64)
        columns = np.stack([share[rows] * product(np.tile(e, (len(z[rows]), 1))) for e in np.eye(classes)], axis=2)
        c = columns.mean(axis=0)
        trace = np.abs(np.trace(columns, axis1=1, axis2=2))
        return (c + c.T) / 2 + straight * np.eye(classes), trace if len(trace) == len(z) else np.full(
            len(z), trace.mean()
        )

    def inverse(self, metric: Metric) -> Callable[[Array], Array]:
        """g (D+1,K) -> P g, P the inverse of S (x) C + ridge on the weights and of C on the bias, about the mean.

        In the bases of S (D,D) and C (K,K) it is a division by e_i c_j + ridge  (K-FAC of one linear layer: Martens &
        Grosse 2015). Where the curvature is negative its size is taken.
        """
        c, u = np.linalg.eigh(self._sample()[0])
        c = np.abs(c) if c.any() else np.ones_like(c)
        # A direction without any curvature, such as that of all scores together, has no gradient but rounding.
        there = c > NONE * c.max()
        c = np.maximum(c, SMALL * c.max())
        mean, basis, e, _ = metric
        scale = np.outer(e, np.where(there, c, 0.0)) + self._problem.penalty.ridge  # (D,K)
        scale = np.where(scale > NONE**1.3 * scale.max(), scale, np.inf)
        c = np.where(there, c, np.inf)

        def apply(g: Array) -> Array:
            inner = (g[:-1] - np.outer(mean, g[-1])) @ u
            inner = basis @ ((basis.T @ inner) / scale) if basis.size else inner / scale
            weights = inner @ u.T
            bias = ((g[-1] @ u) / c) @ u.T - mean @ weights
            return np.concatenate([weights, bias[None, :]])

        return apply
