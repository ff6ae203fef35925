"""An approximate inverse of the Hessian: the second moment of the features times the mean curvature of the classes.

    H = sum_n weight_n (u_n u_n^T) (x) R_n / total + ridge  ~  S (x) C + ridge,    S = sum t_n u_n u_n^T / sum t_n

with R_n the Hessian of a row's loss by its scores, C (K,K) their mean and t_n the trace of each  (K-FAC of one linear
layer: Martens & Grosse 2015). In the basis of C the classes part, and each asks for the inverse of c S + ridge, (D,D)
matrices by Cholesky's method, whose accuracy does not depend on the scales of the features (Demmel 1989).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer.arrays import Array
from trainer.chain.known import known
from trainer.chain.pairs import entropic
from trainer.chain.strategies import auto
from trainer.objective.blocks import apart, side_by_side, times
from trainer.objective.row_hessian import row_factor, row_hessian
from trainer.objective.view import View

PROBED = 1 << 21  # numbers that K probes of rows (n,K) may make to find their mean Hessian
EXPONENTIALS = 1 << 22  # that are taken of the sample's scores
MANY = 500  # classes above which C is taken for a diagonal
SMALL = 1e-6  # eigenvalues of C below this share of the largest are raised to it
ROUNDED = 1e-6  # of the diagonal of a Hessian in single precision
JITTER = 1e-9  # of S's diagonal, for directions in which the features do not vary
DENSE = 2000  # features up to which S is a whole matrix, and rows up to which their products are one
FACTORS = 1 << 25  # numbers of all factors: 256 MiB
ALIKE = 1.5  # the factor by which mean curvatures may differ that share a second moment
FINE = 1  # classes whose curvatures differ by less than a factor of 2^(1/FINE) share one, or by more where memory asks


def measured(view: View, v: Array) -> tuple[Array, Array]:
    """C (K,K), the mean Hessian of the sample's rows at v, and the trace t (n,) of each; C is (K,) of many classes."""
    sums, sample, classes = view.sums, view.sample, v.shape[1]
    objective = sums.objective
    rows = sample.data
    weight = np.ones(len(rows)) if rows.weight is None else rows.weight.astype(np.float64)
    share = weight[:, None] * (len(sums.data) / sums.total)  # (n,1)
    y, many = rows.targets(np.float64), classes > MANY
    if sums.softmax_like:
        temperature = known(objective.activation, "temperature")
        few = slice(None, None, max(1, len(y) * classes // EXPONENTIALS))
        z = times(sample.u[few], (v / temperature).astype(np.float32))
        e = np.exp(z - z.max(axis=1, keepdims=True))
        a = (e / e.sum(axis=1, keepdims=True)).astype(np.float64)
        s = share[few] * row_factor(objective.activation, objective.loss, y[few]) / temperature
        t = s[:, 0] * (a * (1 - a)).sum(axis=1)
        if many:
            c = (s * a * (1 - a)).mean(axis=0)
        else:
            moment = a.T @ (s * a) / len(a)
            # diag(sum s a) - moment, whose rows have the sum zero, which here they have to the last digit.
            c = np.diag(moment.sum(axis=1)) - moment
    else:
        z = times(sample.u.astype(np.float64), v)
        few = slice(None, None, -(-len(z) * classes**2 // PROBED))  # R e_k for each class k, on fewer rows if many
        product = row_hessian(objective.activation, objective.loss, z[few], y[few], np.float64)
        probes = [share[few] * product(np.tile(e, (len(z[few]), 1))) for e in np.eye(classes)]
        t = np.abs(sum(probe[:, k] for k, probe in enumerate(probes)))
        c = np.stack([probe.mean(axis=0) for probe in probes], axis=1)
        c = np.diag(c) if many else (c + c.T) / 2
    return c, t if len(t) == len(y) else np.full(len(y), t.mean())


@dataclass(frozen=True, eq=False)
class SecondMoment:
    """That of the sample's rows by their curvatures, the mean of which is the level.

    mean (D,) by curvature, or zero; matrix about it (D,D), or its diagonal (D,), with the rows (n,D) if they are few
    """

    level: float
    mean: Array
    matrix: Array
    rows: Array | None = None


@dataclass(frozen=True, eq=False)
class Preconditioner:
    """g (...,D+1,K) -> P g; level is the mean curvature of the rows where it was made."""

    level: float
    second: SecondMoment
    classes: Array  # (K,K), the basis of C, without the direction of all classes where that means nothing; or (K,) ones
    curvatures: Array  # (K,)
    inverses: list[tuple[Any, Callable[[Array], Array]]]  # the classes of each factor, and what it does to (D,M)
    sums_to_zero: bool

    @property
    def mean(self) -> Array:
        """Of u (D,), by curvature."""
        return self.second.mean

    def __call__(self, g: Array) -> Array:
        inner = self._of_classes(g, self.classes)
        weights, bias = inner[..., :-1, :], inner[..., -1, :]  # views
        weights -= self.mean[:, None] * bias[..., None, :]
        for columns, inverse in self.inverses:
            r = weights[..., columns]  # of a stack all in one
            weights[..., columns] = inverse(r) if r.ndim == 2 else apart(inverse(side_by_side(r)), len(r))
        bias /= self.curvatures
        bias -= self.mean @ weights
        return self._of_classes(inner, self.classes.T)

    def _of_classes(self, g: Array, basis: Array) -> Array:
        if basis.ndim == 2:
            return g @ basis
        return g - g.mean(axis=-1, keepdims=True) if self.sums_to_zero else g.copy()


def preconditioner(view: View, v: Array, before: Preconditioner | None = None) -> Preconditioner:
    """P for the problem of a view at v; the second moment of one before will do where curvatures are about alike."""
    mean_hessian, t = measured(view, v)
    if not view.sums.canonical:
        mean_hessian = mean_hessian + _straight(view, v) * (1 if mean_hessian.ndim == 1 else np.eye(v.shape[1]))
    level = float(t.mean())
    basis, curvatures = _of_classes(mean_hessian, view.sums.shift_invariant)
    u, ridge = view.sample.u[:, :-1], view.ridge[:-1, 0]
    groups = _groups(curvatures, u.shape)
    if before is not None and 1 / ALIKE < level / (before.second.level or 1.0) < ALIKE:
        second = before.second
    else:
        t = t / t.sum() if level > 0 else np.full(len(t), 1 / len(t))
        second = SecondMoment(level, *_moment(u, t, view.intercept))
    inverses = []
    for columns in groups:
        c = float(np.exp(np.log(curvatures[columns]).mean()))
        start, stop = int(columns[0]), int(columns[-1]) + 1
        at = slice(start, stop) if stop - start == len(columns) else columns  # a slice is read faster
        inverses.append((at, _inverse(c, second, ridge)))
    return Preconditioner(level, second, basis, curvatures, inverses, view.sums.shift_invariant)


def _straight(view: View, v: Array) -> float:
    """A curvature for where the loss is straight, as sigmoid with mae at zero: the slope may change in 100 scores."""
    objective, sample = view.sums.objective, view.sample
    z = times(sample.u, v.astype(np.float32))
    slope = auto(objective.activation, objective.loss, z, sample.data.targets(np.float32)).dl_dz
    return 0.01 * float(np.abs(slope).mean())


def _of_classes(c: Array, sums_to_zero: bool) -> tuple[Array, Array]:
    """A basis of C, as Preconditioner has it, and its curvatures (K,), all positive."""
    if c.ndim == 1:
        basis, values = np.ones_like(c), np.abs(c)
    else:
        if sums_to_zero:  # the direction of all classes has no curvature, and P takes nothing along it
            c = c + np.trace(c) / len(c) ** 2
        values, basis = np.linalg.eigh(c)
        values = np.abs(values)
        if sums_to_zero:
            basis = basis - basis.mean(axis=0)
    largest = float(values.max())
    return basis, np.maximum(values, SMALL * largest) if largest > 0 else np.ones_like(values)


def _groups(curvatures: Array, shape: tuple[int, int]) -> list[Array]:
    """The classes that share a factor, by their curvature."""
    n, d = shape
    size = d * d if d <= DENSE and not 2 * n < d else n * n if n <= DENSE else d  # at most
    most = max(1, FACTORS // max(1, size))
    level = np.log2(curvatures / curvatures.max())
    for fine in (FINE, 0.5, 0.25, 0.05):
        step = np.round(level * fine)
        names = np.unique(step)
        if len(names) <= most:
            break
    return [np.flatnonzero(step == name) for name in names]


def _moment(u: Any, t: Array, centred: bool) -> tuple[Array, ...]:
    """Mean, matrix and rows of SecondMoment, with rows that weigh t (n,).

    The diagonal alone, about zero, where neither features nor rows are few, and of many sparse features.
    """
    n, d = u.shape
    if not isinstance(u, np.ndarray):
        if d > DENSE or u.nnz**2 > n << 28:
            return np.zeros(d), np.asarray(u.multiply(u).T @ t).ravel()
        u = u.astype(np.float64)
        mean = centred * (t @ u)
        return mean, (u.T @ u.multiply(t[:, None])).toarray() - np.outer(mean, mean)
    mean = centred * (t @ u.astype(np.float64, copy=False) if d > DENSE else (t @ u).astype(np.float64))
    few = d <= DENSE and not 2 * n < d
    if not few and n > DENSE:
        return mean, t @ np.square(u - mean)
    rows = (u - mean) * np.sqrt(t)[:, None]
    return (mean, rows.T @ rows) if few else (mean, np.square(rows).sum(axis=0), rows)


def _inverse(c: float, second: SecondMoment, ridge: Array) -> Callable[[Array], Array]:
    """r (D,M) -> (c S + ridge)^-1 r."""
    from scipy.linalg import cho_factor  # type: ignore[import-untyped]  # slow to import
    from scipy.linalg.lapack import dpotrs  # type: ignore[import-untyped]  # cho_solve takes longer to look at its input

    moment, rows = second.matrix, second.rows
    diagonal = moment if moment.ndim == 1 else np.diag(moment)
    if moment.ndim == 1 and rows is None:
        h = c * diagonal + ridge
        h = np.where(h > 0, h, np.inf)[:, None]  # a feature that is always zero has no gradient either
        return lambda r: r / h
    floor = np.where(diagonal > 0, JITTER * c * diagonal, 1.0) + ridge
    if rows is None:
        matrix = c * moment
        matrix[np.diag_indices_from(matrix)] += floor
        unit = 1 / np.sqrt(np.diag(matrix))[:, None]  # the factor is the same in any units, but for overflow
        factor = cho_factor(matrix * unit * unit.T, lower=True, overwrite_a=True, check_finite=False)[0] / unit
        return lambda r: dpotrs(factor, r, lower=True)[0]
    # In the space of the rows B (n,D): F^-1 - F^-1 B^T (1/c + B F^-1 B^T)^-1 B F^-1  (Woodbury 1950).
    root = 1 / np.sqrt(floor)
    b = rows * root
    inner = b @ b.T
    inner[np.diag_indices_from(inner)] += 1 / c
    small = cho_factor(inner, lower=True, overwrite_a=True, check_finite=False)[0]

    def through_rows(r: Array) -> Array:
        s = root[:, None] * r
        result: Array = root[:, None] * (s - b.T @ dpotrs(small, b @ s, lower=True)[0])
        return result

    return through_rows


@dataclass(frozen=True, eq=False)
class Whole:
    """g (...,D+1,K) -> P g with the inverse of the sample's Hessian itself, a matrix (K (D+1), K (D+1))."""

    mean: Array  # (D,) of u, by curvature
    solve: Callable[[Array], Array]

    def __call__(self, g: Array) -> Array:
        g = g - g.mean(axis=-1, keepdims=True)  # the direction of all classes means nothing
        columns = g.mT.reshape(-1, g.shape[-1] * g.shape[-2]).T  # (K (D+1), M)
        d: Array = self.solve(columns).T.reshape(*g.shape[:-2], g.shape[-1], g.shape[-2]).mT
        d -= d.mean(axis=-1, keepdims=True)
        return d


def whole(view: View, v: Array) -> Whole | None:
    """P for a pair whose rows have the Hessian R = f (diag a - a a^T), such as softmax with ce.

    H = sum_n share_n R_n (x) u_n u_n^T + ridge, class by class. Where a shift of all classes means nothing, R has the
    curvature of its mean entry there, too. None where rounding has made H indefinite.
    """
    from scipy.linalg import cho_factor
    from scipy.linalg.lapack import dpotrs

    u, (width, classes), sums = view.sample.u, v.shape, view.sums
    rows, temperature = view.sample.data, known(sums.objective.activation, "temperature")
    softmax: Any = entropic(sums.objective.activation)
    a = softmax(times(u, v.astype(np.float32)))
    f = row_factor(*sums.objective.pair, rows.targets(np.float32)) * (
        len(sums.data) / sums.total / temperature / len(a)
    )
    f *= 1.0 if rows.weight is None else rows.weight[:, None]
    f = f.astype(np.float32)
    spread = f * (1 - np.square(a).sum(axis=1, keepdims=True)) / classes**2  # (n,1)
    blocks = np.empty((classes, width, classes, width))
    shift = u.T @ (u * spread)
    for k in range(classes):
        for m in range(k + 1):
            weight = f[:, 0] * a[:, k] * ((k == m) - a[:, m])
            blocks[k, :, m] = u.T @ (u * weight[:, None]) + shift
            blocks[m, :, k] = blocks[k, :, m].T
    h: Array = blocks.reshape(classes * width, -1)
    diagonal = np.einsum("ii->i", h)  # a view
    diagonal += ROUNDED * diagonal + np.tile(view.ridge[:, 0], classes) + np.where(diagonal > 0, 0.0, 1.0)
    try:
        factor = cho_factor(h, lower=True, overwrite_a=True, check_finite=False)[0]
    except np.linalg.LinAlgError:
        return None
    t = classes**2 * spread[:, 0]
    return Whole((t @ u[:, :-1] / (t.sum() or 1.0)).astype(np.float64), lambda r: dpotrs(factor, r, lower=True)[0])
