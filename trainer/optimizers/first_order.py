"""First-order optimisers: sgd, adam and adamw.  Each asks the problem once a step."""

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from trainer.arrays import Array
from trainer.errors import require
from trainer.objective.problem import Problem
from trainer.optimizers.protocols import Step


def _check(lr: float, **fractions: float) -> None:
    require(0 < lr < math.inf, f"optimizer.lr must be finite and greater than 0, got {lr}.")
    for name, value in fractions.items():
        require(0 <= value < 1, f"optimizer.{name} must be at least 0 and less than 1, got {value}.")


@dataclass(frozen=True)
class Sgd:
    """v <- momentum v + g;  w <- w - lr v, or w - lr (g + momentum v) with nesterov  (Sutskever et al. 2013).

    >>> Sgd(lr=1.0).step(problem, w, Sgd().init(w)).w[0].round(3)  # the gradient there is (0.25, -0.25)
    array([-0.25,  0.25])
    """

    name: ClassVar[str] = "sgd"
    state: ClassVar[type] = np.ndarray
    full_batch: ClassVar[bool] = False
    lr: float = 0.02
    momentum: float = 0.9
    nesterov: bool = False

    def __post_init__(self) -> None:
        _check(self.lr, momentum=self.momentum)
        ok = self.momentum > 0 or not self.nesterov
        require(ok, "optimizer.nesterov=true needs optimizer.momentum greater than 0; set one of the two.")

    def copies(self, problem: Problem, classes: int) -> int:
        return 16

    def init(self, w: Array) -> Array:
        return np.zeros_like(w)

    def step(self, problem: Problem, w: Array, state: Array) -> Step:
        value, g = problem.value_and_grad(w)
        v = self.momentum * state + g
        return Step(w - self.lr * (g + self.momentum * v if self.nesterov else v), v, value)


class Moments(NamedTuple):
    """Adam's state: running means of the gradient and of its square (D+1,K), and the number of steps.

    >>> state = Adam().step(problem, w, Adam().init(w)).state
    >>> state.mean[0].round(3), state.steps  # a tenth of the gradient
    (array([ 0.025, -0.025]), 1)
    """

    mean: Array
    square: Array
    steps: int


@dataclass(frozen=True)
class _WithMoments:
    """What adam and adamw have in common."""

    state: ClassVar[type] = Moments
    full_batch: ClassVar[bool] = False
    lr: float = 0.005
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self) -> None:
        _check(self.lr, beta1=self.beta1, beta2=self.beta2)
        require(0 < self.eps < math.inf, f"optimizer.eps must be finite and greater than 0, got {self.eps}.")

    def copies(self, problem: Problem, classes: int) -> int:
        return 18

    def init(self, w: Array) -> Moments:
        return Moments(np.zeros_like(w), np.zeros_like(w), 0)

    def _moved(self, problem: Problem, w: Array, state: Moments, decay: float) -> Step:
        """A step along mean / (sqrt(square) + eps), both bias-corrected, and along decay times the weights."""
        value, g = problem.value_and_grad(w)
        steps = state.steps + 1
        mean = self.beta1 * state.mean + (1 - self.beta1) * g
        square = self.beta2 * state.square + (1 - self.beta2) * g * g
        root = np.sqrt(square / (1 - self.beta2**steps))
        direction = mean / (1 - self.beta1**steps) / (root + self.eps)
        direction[..., :-1, :] += decay * w[..., :-1, :]  # the bias has no share in it
        return Step(w - self.lr * direction, Moments(mean, square, steps), value)


@dataclass(frozen=True)
class Adam(_WithMoments):
    """w <- w - lr * mean / (sqrt(square) + eps), both bias-corrected  (Kingma & Ba 2015, alg. 1).

    >>> Adam(lr=0.1).step(problem, w, Adam().init(w)).w[0].round(3)  # a first step is as long as lr
    array([-0.1,  0.1])
    """

    name: ClassVar[str] = "adam"

    def step(self, problem: Problem, w: Array, state: Moments) -> Step:
        return self._moved(problem, w, state, decay=0.0)


@dataclass(frozen=True)
class AdamW(_WithMoments):
    """adam with w[:-1] <- (1 - lr weight_decay) w[:-1] beside its step  (Loshchilov & Hutter 2019, alg. 2).

    >>> AdamW(lr=0.1, weight_decay=0.5).step(problem, w + 1, AdamW().init(w)).w.round(3)
    array([[0.85, 1.05],
           [1.  , 1.  ]])
    """

    name: ClassVar[str] = "adamw"
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        _WithMoments.__post_init__(self)
        ok = 0 <= self.weight_decay < math.inf
        require(ok, f"optimizer.weight_decay must be finite and at least 0, got {self.weight_decay}.")

    def step(self, problem: Problem, w: Array, state: Moments) -> Step:
        return self._moved(problem, w, state, self.weight_decay)
