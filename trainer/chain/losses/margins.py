"""Losses on the scores: the Fenchel-Young loss of an activation, and the multi-class and one-versus-rest hinges."""

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from trainer.arrays import Array, namespace, row_sum, where


@dataclass(frozen=True)
class FenchelYoung:
    """Omega*(z) + Omega(y) - <z, y> for each row, the canonical loss of the activation  (Blondel et al. 2020).

    With a = grad Omega*(z) it is <z, a - y> - Omega(a) + Omega(y) >= 0, zero just where a = y, convex in z, and its
    derivative by z is a - y, which does not pass through the Jacobian.  y (N,K) in the range of the activation.

    >>> FenchelYoung().direct(Sparsemax(), np.array([1.0, 0.5]), np.array([0.0, 1.0]))
    (np.float64(0.5625), array([ 0.75, -0.75]))
    """

    name: ClassVar[str] = "fenchel_young"
    accepts: ClassVar[frozenset[str]] = frozenset({"simplex", "sparse_simplex", "unit", "real"})
    needs: ClassVar[str] = "omega"
    targets: ClassVar[str] = "simplex"
    entropy: ClassVar[str] = "own"
    proper: ClassVar[bool] = True
    direct_shift_invariant: ClassVar[bool] = True

    def value(self, a: Array, y: Array) -> Array:
        return row_sum(namespace(a).zeros_like(a))

    def grad(self, a: Array, y: Array) -> Array:
        return namespace(a).zeros_like(a)

    def direct(self, activation: Any, z: Array, y: Array) -> tuple[Array, Array]:
        a = activation(z)
        r = a - y
        # As r sums to zero on the simplex, a shift of z changes nothing but the rounding.
        shifted = z - namespace(z).max(z, axis=-1, keepdims=True) if "simplex" in activation.range else z
        return row_sum(shifted * r) - activation.omega(a) + activation.omega(y), r


@dataclass(frozen=True)
class CrammerSinger:
    """max_k (z_k + 1 - y_k) - <y, z> for each row, the multi-class hinge  (Crammer & Singer 2001).

    a = z (N,K), y (N,K) one-hot. Where several classes attain the maximum, the first of them gives the subgradient.

    >>> CrammerSinger().value(np.array([1.0, 0.5]), np.array([0.0, 1.0])).round(3)
    np.float64(1.5)
    """

    name: ClassVar[str] = "crammer_singer"
    accepts: ClassVar[frozenset[str]] = frozenset({"real"})
    targets: ClassVar[str] = "one_hot"
    convex_with: ClassVar[frozenset[str]] = frozenset({"squares"})
    kinks: ClassVar[str] = "inside"
    shift_invariant: ClassVar[bool] = True

    def value(self, a: Array, y: Array) -> Array:
        return namespace(a).max(a - row_sum(y * a)[..., None] + 1 - y, axis=-1)

    def grad(self, a: Array, y: Array) -> Array:
        xp = namespace(a)
        first = xp.argmax(a + 1 - y, axis=-1)[..., None]
        return xp.astype(xp.arange(a.shape[-1], device=a.device) == first, a.dtype) - y


@dataclass(frozen=True)
class WestonWatkins:
    """sum_{k != t} max(0, 1 + z_k - z_t) for each row with label t  (Weston & Watkins 1999).

    a = z (N,K), y (N,K) one-hot; at a kink the subgradient is that of the flat side, zero.

    >>> WestonWatkins().value(np.array([1.0, 0.5]), np.array([0.0, 1.0])).round(3)
    np.float64(1.5)
    """

    name: ClassVar[str] = "weston_watkins"
    accepts: ClassVar[frozenset[str]] = frozenset({"real"})
    targets: ClassVar[str] = "one_hot"
    convex_with: ClassVar[frozenset[str]] = frozenset({"squares"})
    kinks: ClassVar[str] = "inside"
    shift_invariant: ClassVar[bool] = True

    def _margins(self, a: Array, y: Array) -> Array:
        return 1 + a - row_sum(y * a)[..., None]  # (N,K)

    def value(self, a: Array, y: Array) -> Array:
        margins = self._margins(a, y)
        return row_sum((1 - y) * where(margins > 0, margins))

    def grad(self, a: Array, y: Array) -> Array:
        violated = namespace(a).astype(self._margins(a, y) > 0, a.dtype) * (1 - y)
        return violated - y * row_sum(violated)[..., None]


class _OneVersusRest(Protocol):
    """A loss of the margins m = t z alone, with t = 2 y - 1.  a = z (N,K), y (N,K) 0 or 1."""

    accepts: ClassVar[frozenset[str]] = frozenset({"real"})
    targets: ClassVar[str] = "unit"
    convex_with: ClassVar[frozenset[str]] = frozenset({"squares"})

    def of_margin(self, m: Array) -> tuple[Array, Array]:
        """The loss of each margin m (N,K), and its derivative by m (N,K)."""

    def value(self, a: Array, y: Array) -> Array:
        return row_sum(self.of_margin((2 * y - 1) * a)[0])

    def grad(self, a: Array, y: Array) -> Array:
        t = 2 * y - 1
        return t * self.of_margin(t * a)[1]


@dataclass(frozen=True)
class SquaredHinge(_OneVersusRest):
    """sum_k max(0, 1 - t_k z_k)^2 with t = 2 y - 1 for each row, one class against the rest.  a = z, y (N,K) 0 or 1.

    >>> SquaredHinge().value(np.array([1.0, 0.5]), np.array([0.0, 1.0])).round(3)
    np.float64(4.25)
    """

    name: ClassVar[str] = "squared_hinge"

    def of_margin(self, m: Array) -> tuple[Array, Array]:
        missing = where(m < 1, 1 - m)
        return missing**2, -2 * missing


@dataclass(frozen=True)
class ModifiedHuber(_OneVersusRest):
    """sum_k max(0, 1 - m)^2 where m = (2 y_k - 1) z_k >= -1, and -4 m below  (Zhang 2004).  a = z, y (N,K) 0 or 1.

    >>> ModifiedHuber().value(np.array([1.0, 0.5]), np.array([0.0, 1.0])).round(3)
    np.float64(4.25)
    """

    name: ClassVar[str] = "modified_huber"

    def of_margin(self, m: Array) -> tuple[Array, Array]:
        xp, missing = namespace(m), where(m < 1, 1 - m)
        return xp.where(m >= -1, missing**2, -4 * m), xp.where(m >= -1, -2 * missing, -4.0)
