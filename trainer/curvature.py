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
from trainer.gradients import auto
from trainer.losses import FenchelYoung, Loss
from trainer.objective import KEPT, against, scores, times
from trainer.pairs import canonical

if TYPE_CHECKING:
    from trainer.objective import BlockSum

SAMPLE = 4096  # rows that the preconditioner is made of, or four for each feature
PROBED = 1 << 21  # numbers that K probes of rows (n,K) may make to find their mean Hessian
SMALL = 1e-6  # eigenvalues of the classes' curvature below this share of the largest are raised to it
NONE = 1e-10  # below this share of the largest they are rounding
FULL = 4000  # features: up to here the second moment is diagonalised, above it its diagonal is taken

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


def _from_slope(activation: Softmax | LogSoftmax, loss: Loss, dl_dz: Array, data: Data) -> RowHessian:
    """The same, from dl_dz = factor a - y (times 1/T) of these data, where that is known already."""
    temperature = getattr(activation, "temperature", 1.0)
    share = 1.0 if isinstance(loss, FenchelYoung) else 1 / temperature  # of y in dl_dz
    factor: Any = share
    if data.one_hot:
        a = np.array(dl_dz, order="K")
        a.T.ravel()[np.multiply(data.y, len(a), dtype=np.intp) + np.arange(len(a))] += share
    else:
        y = data.targets(dl_dz.dtype)
        factor = _row_factor(activation, loss, y)
        a = dl_dz + share * y
    if np.any(factor != 1):
        a /= np.where(factor > 0, factor, 1.0)
    return _softmax_product(a, factor / temperature)


def _softmax_product(a: Array, factor: Any) -> RowHessian:
    """u -> factor (diag(a) - a a^T) u  (N,K)."""
    plain = bool(np.all(factor == 1))

    def product(u: Array) -> Array:
        q = a * u
        q -= a * q.sum(axis=1, keepdims=True)
        return q if plain else np.asarray(factor * q)

    return product


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


class Copies(NamedTuple):
    """The features as solvers see them: u = [(x - mean) / scale, 1], of which mean and scale are a sample's.

    Scores are u v with v = [scale w; w_0 + mean w], in other coordinates the same function. Single precision is enough
    in these for features of any scale, with a rounding of 1e-7 that is far below the tolerance of an inner solver, and
    halves the time. Sparse features stay as they are, with a column of ones.

    sample has rows spread evenly over the data, with their u; blocks has u of the blocks, by their first row, where
    they fit in memory. Both are in single precision.
    """

    mean: Array
    scale: Array
    sample: Data
    u: Array
    blocks: dict[int, Array]

    @classmethod
    def of(cls, problem: "BlockSum") -> "Copies":
        """Of a problem's data."""
        data = problem.data
        rows, width = data.x.shape
        sample = data.rows(np.arange(0, rows, max(1, rows // max(SAMPLE, 4 * width))))
        mean, scale = np.zeros(width), np.ones(width)
        if isinstance(sample.x, np.ndarray):
            mean = sample.x.mean(axis=0, dtype=np.float64)
            spread = (sample.x - mean).std(axis=0)
            scale = np.where(spread > 0, spread, 1.0)
        copies = cls(mean, scale, sample, _with_ones(sample.x, mean, scale, np.float32), {})
        if problem.copied:
            copies.blocks.update(problem.each_block(lambda rows: (rows.start, copies.seen(data.x[rows], np.float32))))
        return copies

    def seen(self, x: Array, dtype: Any) -> Array:
        """u (B,D+1) of features x (B,D)."""
        return _with_ones(x, self.mean, self.scale, dtype)

    def inner(self, w: Array) -> Array:
        """v (D+1,K) of w (D+1,K), in double precision."""
        return np.concatenate([self.scale[:, None] * w[:-1], (w[-1] + self.mean @ w[:-1])[None, :]])

    def outer(self, g: Array) -> Array:
        """The derivative by w (D+1,K) of that by v."""
        return np.concatenate([self.scale[:, None] * g[:-1] + np.outer(self.mean, g[-1]), g[-1:]])


def _with_ones(x: Array, mean: Array, scale: Array, dtype: Any) -> Array:
    if not isinstance(x, np.ndarray):
        from scipy.sparse import csr_array, hstack  # type: ignore[import-untyped]  # slow to import

        return hstack([x.astype(dtype), csr_array(np.ones((x.shape[0], 1), dtype=dtype))], format="csr")
    u = np.empty((x.shape[0], x.shape[1] + 1), dtype=dtype)
    np.subtract(x, mean, out=u[:, :-1], casting="same_kind")
    u[:, :-1] *= (1 / scale).astype(dtype)
    u[:, -1] = 1
    return u


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
        self.key = (id(w), single)  # which stays w's own, as w is kept
        self._problem, self._w, self._slopes = problem, w, slopes
        self._dtype = np.dtype(np.float32) if single else w.dtype
        self._kept: dict[int, RowHessian] = {}
        self._sampled: tuple[Array, Array] | None = None
        self._inverted: tuple[Metric, Callable[[Array], Array]] | None = None  # the last metric, and what came of it

    def hvp(self, v: Array) -> Array:
        """H v (D+1,K) for v (D+1,K).  The probabilities that the rows' Hessians are made of are computed once."""
        problem, dtype, copies = self._problem, self._dtype, self._problem.copies
        inner = copies.inner(v).astype(dtype)
        blocks = copies.blocks if dtype == np.float32 else {}
        keep = len(problem.data) * v.shape[1] <= KEPT

        def partial(rows: slice) -> Array:
            u = blocks[rows.start] if blocks else copies.seen(problem.data.x[rows], dtype)
            hessian = self._kept.get(rows.start) or self._row_hessian(rows)
            if keep:
                self._kept[rows.start] = hessian
            q = hessian(times(u, inner))
            if problem.data.weight is not None:
                q = problem.data.weight[rows, None].astype(dtype) * q
            return against(u, q)

        product = np.zeros(v.shape)
        for share in problem.each_block(partial):
            product += share
        product = copies.outer(product / problem.total)
        product[:-1] += problem.penalty.ridge * v[:-1]
        return product

    def _row_hessian(self, rows: slice) -> RowHessian:
        objective = self._problem.objective
        pair = (objective.activation, objective.loss)
        if rows.start in self._slopes and isinstance(pair[0], Softmax | LogSoftmax) and self._problem.canonical:
            return _from_slope(pair[0], pair[1], self._slopes[rows.start], self._problem.targets.rows(rows))
        part = self._problem.data.rows(rows)
        return row_hessian(*pair, scores(self._w, part.x), part.targets(self._w.dtype), self._dtype)

    def metric(self) -> Metric:
        """The features' share at this w, from the sample of the rows."""
        copies, t = self._problem.copies, self._sample()[1]
        level = float(t.mean())
        t = t / t.sum() if level > 0 else np.full(len(t), 1 / len(t))
        x = copies.sample.x
        if x.shape[1] > FULL or not isinstance(x, np.ndarray):
            square = x.multiply(x) if hasattr(x, "multiply") else np.square(x)
            return Metric(np.zeros(x.shape[1]), np.empty((0, 0)), np.asarray(square.T @ t).ravel(), level)
        u = copies.u * np.sqrt(t)[:, None]  # in double precision
        moment = u.T @ u  # about zero, which is the sample's own mean, so little cancels below
        mean = moment[-1, :-1]
        centred = (moment[:-1, :-1] - np.outer(mean, mean)) * np.outer(copies.scale, copies.scale)
        e, basis = np.linalg.eigh(centred)
        return Metric(copies.mean + copies.scale * mean, basis, np.maximum(e, 0), level)

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
        objective, sample, classes = problem.objective, problem.copies.sample, w.shape[1]
        weight = np.ones(len(sample)) if sample.weight is None else sample.weight.astype(np.float64)
        share = weight[:, None] * (len(problem.data) / problem.total)  # (n,1)
        copies, y = problem.copies, sample.targets(np.float64)
        v = copies.inner(w)
        if canonical(objective.activation, objective.loss) and isinstance(objective.activation, Softmax | LogSoftmax):
            temperature = getattr(objective.activation, "temperature", 1.0)
            z = times(copies.u, v.astype(np.float32) / np.float32(temperature))
            e = np.exp(z - z.max(axis=1, keepdims=True))
            a = (e / e.sum(axis=1, keepdims=True)).astype(np.float64)
            s = share * _row_factor(objective.activation, objective.loss, y) / temperature
            moment = a.T @ (s * a) / len(a)
            # diag(sum s a) - moment, whose rows have the sum zero, which here they have to the last digit.
            return np.diag(moment.sum(axis=1)) - moment, s[:, 0] * (a * (1 - a)).sum(axis=1)
        z = times(copies.u.astype(np.float64), v)
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
        if self._inverted is None or self._inverted[0] is not metric:
            self._inverted = metric, self._invert(metric)
        return self._inverted[1]

    def _invert(self, metric: Metric) -> Callable[[Array], Array]:
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
