"""A problem as a solver sees it: standardised features, in single or in double precision.

    u = [(x - mean) / scale, 1]  (N,D+1),    v = [scale w; b + mean w]  (D+1,K),    z = [x 1] w = u v

A change of coordinates changes no minimum, but what rounding hides: in these, features of any scale and far from zero
count alike, and the ridge is a diagonal. Mean and scale are those of a sample of the rows; sparse features keep the
mean zero. Single precision takes half of the time and knows E to about 1e-7 of it.

Without an intercept b is zero and is to stay so. In v it is zero as well only where mean = 0. So the mean is zero then,
and the last column of u is 0 in the place of 1: E and its derivatives know nothing of v[-1], which no step moves.
"""

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from threading import local
from typing import Any

import numpy as np

from trainer.arrays import Array, as_type, in_double, namespace, over_rows
from trainer.chain.fused import LossGrad
from trainer.data.features import is_sparse, numbers_a_row
from trainer.data.rows import Data
from trainer.objective.blocks import Block, Kept, against, blocks, times
from trainer.objective.objective import BlockSum, weighted
from trainer.objective.row_hessian import RowHessian, row_hessian, row_hessian_of_slope

SAMPLE = 4096  # rows that coordinates and preconditioners are made of, or two for each feature
KEPT = 1 << 25  # numbers (N,K) that are kept from a gradient for the Hessian products at the same w
COPIED = 1 << 27  # numbers of u that are kept in single precision: 512 MiB
FAR = 100.0  # deviations from zero beyond which a mean is subtracted before the product, and not after it
LARGEST = 1e200  # of a ridge in these coordinates; a feature that is so small can only have the weight zero


@dataclass(frozen=True, eq=False)
class Sample:
    """Rows spread evenly over the data, with their u (n,D+1) in single precision, and what makes u of x."""

    data: Data
    u: Array
    mean: Array
    scale: Array

    @classmethod
    def of(cls, data: Data, intercept: bool) -> "Sample":
        rows, width = data.x.shape
        sample = data.rows(np.arange(0, rows, max(1, rows // max(SAMPLE, 2 * width))))
        mean, scale = _moments(sample.x, intercept)
        if (flat := scale == 0).any():  # in the sample; some row may tell
            scale[flat] = _largest(data, mean, flat)
        scale = np.where(scale > 0, scale, 1.0)
        return cls(sample, standardised(sample.x, mean, scale, np.float32, intercept), mean, scale)


def _moments(x: Any, centred: bool) -> tuple[Array, Array]:
    """Mean and deviation (D,) of each column; zero and the root of the mean square of sparse or uncentred ones.

    In units of a column's largest number, whose squares neither overflow nor underflow.
    """
    size = abs(x).max(axis=0)
    size = (size.toarray().ravel() if is_sparse(x) else size).astype(np.float64)
    unit = np.where(size > 0, size, 1.0)
    if is_sparse(x):
        scaled = x.astype(np.float64)
        scaled.data /= unit[scaled.indices]
        return np.zeros(x.shape[1]), unit * np.sqrt(np.asarray(scaled.power(2).sum(axis=0)).ravel() / x.shape[0])
    mean = unit * (x / unit).mean(axis=0) if centred else np.zeros(len(unit))
    rest = x / unit - mean / unit
    spread = np.sqrt(np.mean(rest * rest, axis=0))
    spread[spread < 1e-14] = 0.0  # a constant, but for the rounding of its mean
    return mean, unit * spread


def _largest(data: Data, mean: Array, columns: Array) -> Array:
    """The largest distance from the mean in some of the columns, over all rows."""
    found = np.zeros(int(columns.sum()))
    for _, rows in blocks(data, 1):
        x = data.x[rows]
        part = abs(x[:, np.flatnonzero(columns)])
        far = part.max(axis=0).toarray().ravel() if is_sparse(x) else np.abs(x[:, columns] - mean[columns]).max(axis=0)
        found = np.maximum(found, far)
    found[found < 1e-14 * np.abs(mean[columns])] = 0.0
    return found


Ready = tuple[Array, Array | None]  # v (D+1,K) where the rows are: the factors of their features, and of the ones


def standardised(x: Any, mean: Array, scale: Array, dtype: Any, intercept: bool) -> Any:
    """u (B,D+1) of features x (B,D)."""
    if is_sparse(x):
        from scipy.sparse import csr_array, hstack  # type: ignore[import-untyped]  # slow to import

        scaled = csr_array(x, dtype=np.float64, copy=True)
        scaled.data /= scale[scaled.indices]
        return hstack([scaled.astype(dtype), csr_array(np.full((x.shape[0], 1), intercept, dtype=dtype))], format="csr")
    u = np.empty((x.shape[0], x.shape[1] + 1), dtype=dtype)
    with np.errstate(over="ignore", under="ignore"):
        inverse = 1 / scale
        if np.float32 == dtype and ((inverse > 1e30) | (inverse < 1e-30)).any():  # beyond what it can hold
            u[:, :-1] = (x - mean) / scale
        else:
            np.subtract(x, mean, out=u[:, :-1], casting="same_kind")
            u[:, :-1] *= inverse.astype(dtype)
    u[:, -1] = intercept
    return u


@dataclass(frozen=True, eq=False)
class Evaluated:
    """E and its derivative g (D+1,K) by v at v (D+1,K), without the share of a penalty in |w|_1, all in float64.

    w is v in the problem's own coordinates and dtype, where it was evaluated; rows has dl_dz of each block in single
    precision, or its z in double, if there is room; dtype is the view's. It can be computed again, so no checkpoint
    keeps it.
    """

    dtype: Any
    w: Array
    v: Array
    value: float
    g: Array
    rows: Kept


class View:
    """The problem in the coordinates v, in one precision; one in single precision knows the exact one."""

    def __init__(self, sums: BlockSum, sample: Sample, dtype: Any, exact: "View | None" = None) -> None:
        self.sums, self.sample = sums, sample
        self.dtype = np.dtype(dtype)
        self.single = self.dtype == np.float32
        self._exact = exact
        self.mean, self.scale, self.intercept = sample.mean, sample.scale, sums.objective.intercept
        penalty, x = sums.objective.penalty, sums.data.x
        self.ridge = self._by_scale(penalty.ridge, self.scale)
        self.lasso = self._by_scale(penalty.lasso, 1.0)
        self._shift = np.where(np.abs(self.mean) > FAR * self.scale, self.mean, 0.0)
        in_file, numbers = getattr(x, "reader", None) is not None, x.shape[0] * numbers_a_row(x)
        memory = sums.device.memory  # a quarter for u at most; x and u aside, what is kept has up to four fifths
        self.copies = Kept(self.single and not in_file and numbers <= max(COPIED, memory // 16))  # u of each block
        self._last = local() if in_file else None  # the features of the block that a thread is at work on
        self._room: int = (memory * 4 // 5 - 12 * numbers) // 32
        self._moments: Any = None

    @property
    def exact(self) -> "View":
        """The view in double precision; kept as None by itself, or a fit's copies of the rows would outlive it."""
        return self._exact or self

    def _by_scale(self, strength: float, again: Any) -> Array:
        """A strength in these coordinates (D+1,1), zero for the bias."""
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            of_weights = np.where(strength > 0, strength / self.scale / again, 0.0)
        return np.append(np.minimum(of_weights, LARGEST), 0.0)[:, None]

    def times_ridge(self, strength: float) -> "View":
        """The view with so many times the ridge."""
        other = copy(self)
        other.ridge = strength * self.ridge
        return other

    def enter(self, w: Array) -> Array:
        """v (D+1,K) of w (D+1,K)."""
        w = w.astype(np.float64, copy=False)
        return np.concatenate([self.scale[:, None] * w[:-1], (w[-1] + self.mean @ w[:-1])[None]])

    def leave(self, v: Array) -> Array:
        """w (D+1,K) of v (D+1,K), in float64."""
        weights = v[:-1] / self.scale[:, None]
        return np.concatenate([weights, (v[-1] - self.mean @ weights)[None]])

    def known(self, here: Evaluated) -> tuple[float, Array]:
        """E and dE_dw (D+1,K) of what was evaluated."""
        g = here.g
        return here.value, np.concatenate([self.scale[:, None] * g[:-1] + np.outer(self.mean, g[-1]), g[-1:]])

    def at(self, w: Array) -> Evaluated:
        """E and g at w, or at the v that w stands for."""
        sums, objective = self.sums, self.sums.objective
        v = self.enter(w)
        kept, ready = self.store(w.shape[1]), self.ready(v)

        def of_block(block: Block) -> tuple[Any, Array]:
            part, z = sums.targets.rows(block.rows), self.times(block, ready)
            slopes = self._slopes(part, z)
            loss, dl_dz = weighted(part, *slopes)
            kept.keep(block, slopes.dl_dz if self.single else z)
            return in_double(loss), self.against(block, dl_dz)

        with np.errstate(all="ignore"):  # what is not finite is seen in the sums
            loss, g = sums.map_sum(of_block)
        if not np.isfinite(loss + g.sum()):
            sums.name_the_row(w)
        g = self.outer(g) / sums.total + self.ridge * v
        value = float(loss) / sums.total + objective.penalty.value(self.leave(v))
        return Evaluated(self.dtype, w, v, value if np.isfinite(g).all() else np.nan, g, kept)

    def _slopes(self, part: Data, z: Array) -> LossGrad:
        """The loss (B,) and dl_dz (B,K) of rows, without their weights."""
        objective = self.sums.objective
        y = part.y if self.sums.short else part.targets(self.dtype)
        return objective.gradient(*objective.pair, z, y)

    def keeps(self, classes: int) -> bool:
        """Whether there is room in a process, or on its device, for numbers of each row and class."""
        return len(self.sums.data) * classes <= max(KEPT, self._room)

    def store(self, classes: int) -> Kept:
        """Where such numbers are kept; a worker of a cluster keeps as much as it can."""
        return Kept(self.keeps(classes) or self.sums.engine is not None)

    def ready(self, v: Array) -> Ready:
        """v (D+1,K) for ``times``."""
        put = self.sums.device.put
        if self.single:
            return put(v.astype(np.float32)), None
        weights = v[:-1] / self.scale[:, None]
        bias = put(v[-1] - (self.mean - self._shift) @ weights) if self.intercept else None
        return put(weights), bias

    def times(self, block: Block, v: Ready) -> Array:
        """z = u v (B,K) of a block, in the view's precision."""
        weights, bias = v
        z = times(self._features(block), weights)
        if bias is not None:
            z += bias
        return z

    def against(self, block: Block, q: Array) -> Array:
        """What ``outer`` makes u^T q (D+1,K) of, for q (B,K) in the view's precision; in float64, to be summed."""
        product = against(self._features(block), q)
        if self.single:
            return as_type(product, np.float64)
        result: Array = namespace(q).concat([product, float(self.intercept) * over_rows(q)])
        return result

    def outer(self, sums: Array) -> Array:
        """u^T q (D+1,K) from the sum of ``against`` over the blocks."""
        if self.single:
            return sums
        centred = sums[:-1] - np.outer(self.mean - self._shift, sums[-1])
        return np.concatenate([centred / self.scale[:, None], sums[-1:]])

    def _features(self, block: Block) -> Any:
        make = self._standardised if self.single else self._in_double
        if self.copies.room or self._last is None:
            return self.copies.of(block, lambda: make(block))
        if getattr(self._last, "number", None) != block.number:  # it is asked for two or three times in a row
            self._last.features, self._last.number = make(block), block.number
        return self._last.features

    def _in_double(self, block: Block) -> Any:
        x = self.sums.data.x[block.rows]
        if is_sparse(x):
            return x.astype(np.float64)
        if not self._shift.any():
            return as_type(x, np.float64)
        if isinstance(x, np.ndarray):
            return np.subtract(x, self._shift, dtype=np.float64)
        return as_type(x, np.float64) - self._coordinates[2]

    def _standardised(self, block: Block) -> Any:
        x = self.sums.data.x[block.rows]
        if isinstance(x, np.ndarray) or is_sparse(x):
            return standardised(x, self.mean, self.scale, np.float32, self.intercept)
        xp, (mean, scale, _) = namespace(x), self._coordinates
        ones = xp.full((x.shape[0], 1), float(self.intercept), dtype=xp.float32, device=x.device)
        return xp.concat([as_type((as_type(x, np.float64) - mean) / scale, np.float32), ones], axis=1)

    @cached_property
    def _coordinates(self) -> tuple[Array, Array, Array]:
        """Mean, scale and shift (D,), where the rows are."""
        put = self.sums.device.put
        return put(self.mean), put(self.scale), put(self._shift)

    def hessian(self, here: Evaluated) -> Callable[[Array], Array]:
        """d (D+1,K) -> H d, the Hessian of E's smooth part by v at what was evaluated, whose rows are made once."""
        sums, pair = self.sums, self.sums.objective.pair
        rows, products = here.rows, self.store(here.v.shape[1])
        single, many = here.dtype == np.float32, not self.keeps(here.v.shape[1])
        # Of many rows only u is at hand, which knows z well enough for a product in single precision.
        sloped = sums.softmax_like and (single or (many and self.single))
        at = (self if sloped else self.exact).ready(here.v)

        def of_rows(block: Block) -> RowHessian:
            part = sums.targets.rows(block.rows)

            def anew() -> Array:
                return self._slopes(part, self.times(block, at)).dl_dz if sloped else self.exact.times(block, at)

            made = rows.of(block, anew) if sloped == single else anew()
            if sloped:
                return row_hessian_of_slope(*pair, made, part)
            return row_hessian(*pair, made, part.targets(np.float64), self.dtype)

        def product(d: Array) -> Array:
            along = self.ready(d)

            def of_block(block: Block) -> tuple[Array]:
                q = products.of(block, lambda: of_rows(block))(self.times(block, along))
                if sums.data.weight is not None:
                    q = as_type(sums.data.weight[block.rows], self.dtype)[:, None] * q
                return (self.against(block, q),)

            (product,) = sums.map_sum(of_block)
            result: Array = self.outer(product) / sums.total + self.ridge * d
            return result

        return product

    def moments(self, make: Callable[[Array, Array], Any]) -> Any:
        """What make(u, share) says of the sample's rows u (n,D+1) and the shares (n,) of E's denominator; made once."""
        if self._moments is None:
            weight, u = self.sample.data.weight, self.sample.u
            share = np.ones(len(self.sample.data)) if weight is None else weight.astype(np.float64)
            self._moments = make(u, share * (len(self.sums.data) / self.sums.total / len(share)))
        return self._moments
