"""Penalties on the weights w[:-1]; the bias row is never penalised."""

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from trainer.arrays import Array
from trainer.errors import require


class Penalty(Protocol):
    """What is added to the mean loss, as a function of the parameters w (D+1,K)."""

    name: ClassVar[str]

    def value(self, w: Array) -> float:
        """The penalty's share of the objective."""

    def grad(self, w: Array) -> Array:
        """Its derivative (D+1,K), whose last row is zero."""


@dataclass(frozen=True)
class NoPenalty:
    """Zero."""

    name: ClassVar[str] = "none"

    def value(self, w: Array) -> float:
        return 0.0

    def grad(self, w: Array) -> Array:
        return np.zeros_like(w)


@dataclass(frozen=True)
class L2:
    """strength/2 * sum of the squared weights; scikit-learn's C is 1 / (strength * sum of the sample weights)."""

    name: ClassVar[str] = "l2"
    strength: float = 1e-3

    def __post_init__(self) -> None:
        ok = 0 <= self.strength < math.inf
        require(ok, f"penalty.strength must be finite and at least 0, got {self.strength}.")

    def value(self, w: Array) -> float:
        return self.strength / 2 * float(np.sum(w[:-1].astype(np.float64) ** 2))

    def grad(self, w: Array) -> Array:
        return np.concatenate([self.strength * w[:-1], np.zeros_like(w[-1:])])


PENALTIES: dict[str, type[Penalty]] = {cls.name: cls for cls in (NoPenalty, L2)}
