"""First-order optimisers: sgd, adam and adamw.  Each asks the problem once a step.

A step is an update: w, the state, the gradient and the rate go in, with the numbers of the settings as the update needs
them. They are floats, or arrays (M,1,1) of M models side by side, see trainer.optimizers.together; w decides their
dtype, so each model gets the bits that it would get alone.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from trainer.arrays import Array, namespace
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

    def numbers(self, steps: int) -> tuple[float, ...]:
        return (self.momentum,)

    def moved(self, w: Array, state: Array, g: Array, lr: Any, momentum: Any) -> tuple[Array, Array]:
        """The new w and v."""
        v = momentum * state + g
        return w - lr * (g + momentum * v if self.nesterov else v), v

    def step(self, problem: Problem, w: Array, state: Array) -> Step:
        value, g = problem.value_and_grad(w)
        return Step(*self.moved(w, state, g, self.lr, *self.numbers(0)), value)


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

    def numbers(self, steps: int) -> tuple[float, ...]:
        """Those of the step after so many; all in double precision, before they meet an array."""
        b1, b2, number = self.beta1, self.beta2, steps + 1
        return b1, 1 - b1, b2, 1 - b2, 1 - b1**number, 1 - b2**number, self.eps, getattr(self, "weight_decay", 0.0)

    def moved(self, w: Array, state: Moments, g: Array, lr: Any, *numbers: Any) -> tuple[Array, Moments]:
        """A step along mean / (sqrt(square) + eps), both bias-corrected, and along decay times the weights."""
        b1, rest1, b2, rest2, bias1, bias2, eps, decay = numbers
        mean = b1 * state.mean + rest1 * g
        square = b2 * state.square + rest2 * g * g
        direction = mean / bias1 / (namespace(w).sqrt(square / bias2) + eps)
        direction[..., :-1, :] += decay * w[..., :-1, :]  # the bias has no share in it
        return w - lr * direction, Moments(mean, square, state.steps + 1)

    def step(self, problem: Problem, w: Array, state: Moments) -> Step:
        value, g = problem.value_and_grad(w)
        return Step(*self.moved(w, state, g, self.lr, *self.numbers(state.steps)), value)


@dataclass(frozen=True)
class Adam(_WithMoments):
    """w <- w - lr * mean / (sqrt(square) + eps), both bias-corrected  (Kingma & Ba 2015, alg. 1).

    >>> Adam(lr=0.1).step(problem, w, Adam().init(w)).w[0].round(3)  # a first step is as long as lr
    array([-0.1,  0.1])
    """

    name: ClassVar[str] = "adam"


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
