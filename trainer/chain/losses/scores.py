"""Scoring rules beside cross-entropy, and cross-entropy with one more setting."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from trainer.arrays import Array, namespace, row_sum, where
from trainer.chain.losses.distances import residual_log
from trainer.chain.losses.likelihoods import CrossEntropy
from trainer.errors import require


@dataclass(frozen=True)
class Focal:
    """-sum_k y_k (1 - a_k)^gamma log a_k for each row: ce that forgets what is right  (Lin et al. 2017).

    a (N,K) in the open simplex, y (N,K) >= 0, gamma >= 0; gamma = 0 is ce.

    >>> Focal().value(np.array([0.8, 0.2]), np.array([0.0, 1.0])).round(3)
    np.float64(1.03)
    """

    name: ClassVar[str] = "focal"
    accepts: ClassVar[frozenset[str]] = frozenset({"simplex"})
    targets: ClassVar[str] = "any"
    gamma: float = 2.0

    def __post_init__(self) -> None:
        require(0 <= self.gamma < math.inf, f"loss.gamma must be finite and at least 0, got {self.gamma}.")

    def _h_over_y(self, log_a: Array, a: Array, rest: Array) -> Array:
        """rest^gamma (gamma a log a / rest - 1), where log a / rest tends to -1 as the rest 1 - a vanishes."""
        xp = namespace(a)
        ratio = xp.where(rest > 0, log_a / xp.where(rest > 0, rest, 1.0), -1.0)
        log_times_a = where(a > 0, a * ratio)
        return rest**self.gamma * (self.gamma * log_times_a - 1)

    def value(self, a: Array, y: Array) -> Array:
        return -row_sum(where(y > 0, y * (1 - a) ** self.gamma * namespace(a).log(a)))

    def grad(self, a: Array, y: Array) -> Array:
        return where(y > 0, y * self._h_over_y(namespace(a).log(a), a, 1 - a) / a)

    def value_log(self, log_a: Array, y: Array) -> Array:
        rest = -namespace(log_a).expm1(log_a)
        return -row_sum(where(y > 0, y * rest**self.gamma * log_a))

    def grad_log(self, log_a: Array, y: Array) -> Array:
        xp = namespace(log_a)
        return where(y > 0, y * self._h_over_y(log_a, xp.exp(log_a), -xp.expm1(log_a)))


@dataclass(frozen=True)
class Poly1:
    """ce + epsilon sum_k y_k (1 - a_k) for each row  (Leng et al. 2022).  epsilon >= -1; epsilon = 0 is ce.

    >>> Poly1().value(np.array([0.8, 0.2]), np.array([0.0, 1.0])).round(3)
    np.float64(2.409)
    """

    name: ClassVar[str] = "poly1"
    accepts: ClassVar[frozenset[str]] = frozenset({"simplex"})
    targets: ClassVar[str] = "any"
    epsilon: float = 1.0

    def __post_init__(self) -> None:
        require(-1 <= self.epsilon < math.inf, f"loss.epsilon must be finite and at least -1, got {self.epsilon}.")

    @property
    def convex_with(self) -> frozenset[str]:
        """Softmax, for an epsilon between that of ce and the default."""
        return frozenset({"shannon"} if 0 <= self.epsilon <= 1 else ())

    def value(self, a: Array, y: Array) -> Array:
        return CrossEntropy().value(a, y) + self.epsilon * row_sum(y * (1 - a))

    def grad(self, a: Array, y: Array) -> Array:
        return CrossEntropy().grad(a, y) - self.epsilon * y

    def value_log(self, log_a: Array, y: Array) -> Array:
        rest = -namespace(log_a).expm1(log_a)
        return CrossEntropy().value_log(log_a, y) + self.epsilon * row_sum(y * rest)

    def grad_log(self, log_a: Array, y: Array) -> Array:
        xp = namespace(log_a)
        return y * (xp.expm1(log_a) - (1 + self.epsilon) * xp.exp(log_a))  # -y (1 + epsilon a)


@dataclass(frozen=True)
class GeneralizedCrossEntropy:
    """sum_k y_k (1 - a_k^q) / q for each row, robust to wrong labels  (Zhang & Sabuncu 2018).

    a (N,K) in the open simplex, y (N,K) >= 0, 0 < q <= 1; q -> 0 is ce, q = 1 half of mae on one-hot rows.

    >>> GeneralizedCrossEntropy().value(np.array([0.8, 0.2]), np.array([0.0, 1.0])).round(3)
    np.float64(0.966)
    """

    name: ClassVar[str] = "gce"
    accepts: ClassVar[frozenset[str]] = frozenset({"simplex"})
    targets: ClassVar[str] = "any"
    bounded: ClassVar[bool] = True
    q: float = 0.7

    def __post_init__(self) -> None:
        require(0 < self.q <= 1, f"loss.q must be greater than 0 and at most 1, got {self.q}.")

    def value(self, a: Array, y: Array) -> Array:
        return self.value_log(namespace(a).log(a), y)

    def grad(self, a: Array, y: Array) -> Array:
        return where(y > 0, -y * a ** (self.q - 1))

    def value_log(self, log_a: Array, y: Array) -> Array:
        return row_sum(where(y > 0, -y * namespace(log_a).expm1(self.q * log_a) / self.q))

    def grad_log(self, log_a: Array, y: Array) -> Array:
        return -y * namespace(log_a).exp(self.q * log_a)


@dataclass(frozen=True)
class Tsallis:
    """sum_k y_k^alpha/(alpha(alpha-1)) - y_k a_k^(alpha-1)/(alpha-1) + a_k^alpha/alpha for each row.

    The Bregman divergence of Tsallis' entropy, zero at a = y: alpha = 2 is half of brier, alpha -> 1 is kl on rows that
    sum to one.  a (N,K) in the open simplex, y (N,K) >= 0, alpha > 1.

    >>> Tsallis().value(np.array([0.8, 0.2]), np.array([0.0, 1.0])).round(3)
    np.float64(0.976)
    """

    name: ClassVar[str] = "tsallis"
    accepts: ClassVar[frozenset[str]] = frozenset({"simplex"})
    targets: ClassVar[str] = "any"
    proper: ClassVar[bool] = True
    bounded: ClassVar[bool] = True
    alpha: float = 1.5

    def __post_init__(self) -> None:
        require(1 < self.alpha < math.inf, f"loss.alpha must be finite and greater than 1, got {self.alpha}.")

    def value(self, a: Array, y: Array) -> Array:
        n = self.alpha
        return row_sum(y**n / (n * (n - 1)) - y * a ** (n - 1) / (n - 1) + a**n / n)

    def grad(self, a: Array, y: Array) -> Array:
        return a ** (self.alpha - 2) * (a - y)

    def value_log(self, log_a: Array, y: Array) -> Array:
        return self.value(namespace(log_a).exp(log_a), y)

    def grad_log(self, log_a: Array, y: Array) -> Array:
        return namespace(log_a).exp((self.alpha - 1) * log_a) * residual_log(log_a, y)


@dataclass(frozen=True)
class SphericalScore:
    """1 - <y, a> / |a|_2 for each row, the spherical scoring rule.  a (N,K) in the simplex, y (N,K) >= 0.

    >>> SphericalScore().value(np.array([0.8, 0.2]), np.array([0.0, 1.0])).round(3)
    np.float64(0.757)
    """

    name: ClassVar[str] = "spherical_score"
    accepts: ClassVar[frozenset[str]] = frozenset({"simplex", "sparse_simplex"})
    targets: ClassVar[str] = "any"
    proper: ClassVar[bool] = True
    bounded: ClassVar[bool] = True

    def value(self, a: Array, y: Array) -> Array:
        return 1 - row_sum(y * a) / namespace(a).sqrt(row_sum(a * a))

    def grad(self, a: Array, y: Array) -> Array:
        size = namespace(a).sqrt(row_sum(a * a))[..., None]
        return (row_sum(y * a)[..., None] * a / size**2 - y) / size

    def value_log(self, log_a: Array, y: Array) -> Array:
        return self.value(namespace(log_a).exp(log_a), y)

    def grad_log(self, log_a: Array, y: Array) -> Array:
        a = namespace(log_a).exp(log_a)
        return a * self.grad(a, y)


@dataclass(frozen=True)
class ZLoss(CrossEntropy):
    """ce + weight * (log sum_k exp z_k / T)^2 for each row, which keeps the scores from drifting  (PaLM 2022, sec. 5).

    The second term is stated on the scores and does not pass through a (N,K).

    >>> ZLoss(weight=0.1).direct(Softmax(), np.zeros(2), np.array([0.0, 1.0]))[0].round(3)
    np.float64(0.048)
    """

    name: ClassVar[str] = "z_loss"
    needs: ClassVar[str] = "log_normalizer"
    entropy: ClassVar[str] = ""  # of which the second term is not made
    convex_with: ClassVar[frozenset[str]] = frozenset({"shannon"})
    weight: float = 1e-4

    def __post_init__(self) -> None:
        require(0 <= self.weight < math.inf, f"loss.weight must be finite and at least 0, got {self.weight}.")

    def direct(self, activation: Any, z: Array, y: Array) -> tuple[Array, Array]:
        lse = activation.log_normalizer(z)  # (N,)
        slope = 2 * self.weight / activation.temperature * lse
        return self.weight * lse**2, slope[..., None] * activation(z)
