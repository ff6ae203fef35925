"""What does not go together, in sentences: a pair, a strategy or a solver for it, targets that it is not stated on."""

from collections.abc import Mapping

import numpy as np

from trainer.arrays import Array
from trainer.chain.activations import ACTIVATIONS, Activation, Softmax
from trainer.chain.fused import GradientStrategy, precise
from trainer.chain.known import has, known
from trainer.chain.losses import LOSSES, TARGETS, CrossEntropy, Loss
from trainer.chain.pairs import allowed, kinked, reason, registry
from trainer.chain.strategies import GRADIENTS, GradientChoice, fastest, has_strategy
from trainer.errors import DataError, Incompatible, choose


def check_pair(activation: Activation, loss: Loss, gradient: str) -> str:
    """The name of the strategy that will run (auto is resolved), or a ConfigError that says what to take instead.

    >>> check_pair(Softmax(), CrossEntropy(), 'auto')
    'fused'
    """
    for part in (activation, loss):
        _check_own(part)
    why = reason(type(activation), type(loss))
    if why:
        losses = [name for name, cls in LOSSES.items() if allowed(type(activation), cls)]
        if activation.range == "sparse_simplex":
            losses.sort(key=lambda name: known(LOSSES[name], "entropy") != "own")  # in the place of ce
        activations = [name for name, cls in ACTIVATIONS.items() if allowed(cls, type(loss))]
        raise Incompatible(
            f"activation={activation.name} with loss={loss.name} makes no sense: {why}. "
            f"Take loss={' or '.join(losses)}, or activation={' or '.join(activations)}."
        )
    if not has_strategy(gradient, activation, loss):
        having = [f"{pair[0].name}+{pair[1].name}" for pair in registry() if has_strategy(gradient, *pair)]
        raise Incompatible(
            f"gradient={gradient} has no formula for activation={_called(activation, ACTIVATIONS)} with "
            f"loss={_called(loss, LOSSES)}; it has one for: {', '.join(having)}. "
            f"Use gradient={fastest(activation, loss)}."
        )
    return fastest(activation, loss) if gradient == "auto" else gradient


def _check_own(part: Activation | Loss) -> None:
    """Incompatible where a class computes a function of its own and takes the derivative of another one."""
    needed = ("jacobian", "vjp", "grad", "direct")
    borrowed = [name for name in needed if hasattr(part, name) and not has(part, name)]
    if borrowed:
        of = next(cls.__name__ for cls in type(part).__mro__ if has(cls, borrowed[0]))
        raise Incompatible(
            f"{type(part).__name__} computes another function than {of} and takes {' and '.join(borrowed)} from it, "
            f"which belong to the function of {of}. Define them in {type(part).__name__}, too."
        )


def _called(part: Activation | Loss, registered: Mapping[str, type]) -> str:
    """The name of a part, with that of its class where the name is known for another one."""
    cls = type(part)
    return part.name if registered.get(part.name, cls) is cls else f"{part.name} (of the class {cls.__name__})"


def strategy_of(activation: Activation, loss: Loss, choice: GradientChoice) -> tuple[str, GradientStrategy]:
    """The name of the strategy that will run and its function, in the form of the choice; ConfigError as check_pair.

    >>> strategy_of(Softmax(), CrossEntropy(), GradientChoice("auto", precise=True))[0]
    'fused'
    """
    strategy = check_pair(activation, loss, choose("gradient", GRADIENTS, choice.name))
    if not choice.precise:
        return strategy, GRADIENTS[strategy]
    if strategy != "fused" or (type(activation), type(loss)) != (Softmax, CrossEntropy):
        raise Incompatible(
            f"gradient.precise=true is a form of fused for activation=softmax with loss=ce, not of {strategy} for "
            f"{activation.name} with {loss.name}. Leave it out; gradient=log is as precise wherever there is one."
        )
    return strategy, precise


def check_solver(optimizer: str, activation: Activation, loss: Loss, gradient: str, soft: bool = False) -> None:
    """Incompatible where the gradient that a solver, by its name, is to follow jumps (on soft targets) or is not exact.

    >>> check_solver("newton", Identity(), CrammerSinger(), "auto")
    Traceback (most recent call last):
    trainer.errors.Incompatible: optimizer=newton needs a smooth loss, and the gradient of activation=identity ...
    """
    if kinked(activation, loss, soft):
        where = "" if kinked(activation, loss) else " on targets between zero and one, which smoothing makes"
        raise Incompatible(
            f"optimizer={optimizer} needs a smooth loss, and the gradient of activation={activation.name} with "
            f"loss={loss.name} jumps{where}. Use optimizer=adam, or another pair: python -m trainer.pairs lists them."
        )
    if gradient == "numeric":
        raise Incompatible(
            f"gradient=numeric is known to about 1e-10, and optimizer={optimizer} needs exact slopes. "
            "Use gradient=auto, or optimizer=sgd."
        )


def is_soft(y: Array) -> bool:
    """Whether target rows (N,K) hold numbers between zero and one; labels (N,) do not.

    >>> is_soft(np.array([[0.9, 0.1]])), is_soft(np.eye(2)), is_soft(np.array([0, 1]))
    (True, False, False)
    """
    return y.ndim == 2 and bool(((y > 0) & (y < 1)).any())


def check_targets(loss: Loss, y: Array, smoothing: float = 0.0) -> None:
    """DataError where labels (N,) or target rows (N,K), smoothed by epsilon, are not what the loss is stated on.

    >>> check_targets(CrammerSinger(), np.array([[0.5, 0.5]]))
    Traceback (most recent call last):
    trainer.errors.DataError: loss=crammer_singer is stated on one-hot rows, which the target rows of the data are ...
    """
    rows, stated = y.ndim == 2, known(loss, "targets")
    fits = {
        "any": True,
        "unit": not rows or bool((y <= 1).all()),
        "simplex": not rows or bool(np.allclose(y.sum(axis=1), 1)),
        "one_hot": smoothing == 0 and (not rows or bool((((y == 0) | (y == 1)).all(1) & (y.sum(axis=1) == 1)).all())),
    }
    if not fits[stated]:
        others = ", ".join(name for name, cls in LOSSES.items() if known(cls, "targets") == "any")
        what = f"label_smoothing={smoothing}" if smoothing else "the target rows of the data"
        raise DataError(
            f"loss={loss.name} is stated on {TARGETS[stated]}, which {what} are not. "
            f"Take labels without smoothing, or a loss for any rows: {others}."
        )
