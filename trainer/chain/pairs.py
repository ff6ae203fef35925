"""Rules of pairs: which activation goes with which loss, why not if not, the strategies, and what is known.

A loss names the ranges that it is defined on and what it needs of an activation; a pair is allowed where both are met.
What else is known of a pair follows from the claims that its parts make of themselves (see known.py).
``python -m trainer.pairs`` prints the table, with ``--markdown`` as docs/pairs.md has it.
Every conclusion is measured by tests/test_registry.py over the whole registry.
"""

from collections.abc import Mapping

import numpy as np

from trainer.arrays import Array
from trainer.chain.activations import ACTIVATIONS, RANGES, Activation, Softmax
from trainer.chain.fused import GradientStrategy, precise
from trainer.chain.known import has, known
from trainer.chain.losses import LOSSES, TARGETS, CrossEntropy, Loss
from trainer.chain.strategies import GRADIENTS, GradientChoice, fastest, has_strategy
from trainer.errors import DataError, Incompatible, choose

PROPERTIES = {
    "proper": "the expected loss is smallest where a is the distribution that labels are drawn from",
    "convex": "in the scores z, with the default settings of both",
    "shift_invariant": "a number added to every score of a row changes nothing",
    "canonical": "dl_dz is a - y, up to one factor",
    "dead": "no gradient (below 0.001) where a wrong class leads by 20: what is confidently wrong stays so",
    "kinked": "dl_dz jumps at some scores: newton, lbfgs and fista refuse the pair, the others take a subgradient",
}


def properties(activation: Activation, loss: Loss) -> list[str]:
    """The names of what holds of an allowed pair, among PROPERTIES.

    >>> properties(Softmax(), CrossEntropy())
    ['proper', 'convex', 'shift_invariant', 'canonical']
    """
    holds = {
        "proper": known(loss, "proper"),  # behind whatever activation can reach the distribution
        "convex": convex(activation, loss),
        "shift_invariant": shift_invariant(activation, loss),
        "canonical": canonical(activation, loss),
        "dead": known(activation, "saturates") and known(loss, "bounded"),
        "kinked": kinked(activation, loss),
    }
    return [name for name in PROPERTIES if holds[name]]


def registry() -> list[tuple[Activation, Loss]]:
    """Every allowed pair, by activation, with the default settings of both.

    >>> [loss.name for activation, loss in registry() if activation.name == "log_softmax"]
    ['nll']
    """
    return [(a(), loss()) for a in ACTIVATIONS.values() for loss in LOSSES.values() if allowed(a, loss)]


def allowed(activation: type[Activation], loss: type[Loss]) -> bool:
    """Whether the loss is defined on what the activation gives, and the activation has what the loss needs of it.

    >>> allowed(Softmax, CrossEntropy), allowed(Tanh, CrossEntropy)
    (True, False)
    """
    return not reason(activation, loss)


def canonical(activation: Activation, loss: Loss) -> bool:
    """Whether dl_dz is a - y, up to one factor, or s a - y: both are made of one entropy.

    >>> canonical(Sigmoid(), BinaryCrossEntropy()), canonical(Softmax(), BinaryCrossEntropy())
    (True, False)
    """
    entropy = known(loss, "entropy")
    return entropy == "own" or (entropy != "" and entropy == known(activation, "entropy"))


def convex(activation: Activation, loss: Loss) -> bool:
    """Whether the loss is convex in the scores, with the settings of both.

    >>> convex(Softmax(), Poly1(0.5)), convex(Softmax(), Brier())
    (True, False)
    """
    return canonical(activation, loss) or known(activation, "entropy") in known(loss, "convex_with")


def shift_invariant(activation: Activation, loss: Loss) -> bool:
    """Whether a number added to every score of a row changes nothing, neither through a nor directly.

    >>> shift_invariant(Softmax(), Brier()), shift_invariant(Sigmoid(), Brier())
    (True, False)
    """
    on_scores = known(activation, "entropy") == "squares" and known(loss, "shift_invariant")
    direct = has(loss, "direct") and not known(loss, "direct_shift_invariant")
    return (known(activation, "shift_invariant") or on_scores) and not direct


def kinked(activation: Activation, loss: Loss, soft: bool = False) -> bool:
    """Whether dl_dz jumps; a - y does not.

    A corner at a = y counts where a can be y: soft targets lie inside every range, and zero and one at the border of
    most, where the corner is the limit.

    >>> kinked(Softmax(), MeanAbsoluteError()), kinked(Softmax(), MeanAbsoluteError(), soft=True)
    (False, True)
    """
    at_targets = soft or activation.range in ("real", "signed_unit")
    corner = {"": False, "targets": at_targets, "inside": True}[known(loss, "kinks")]
    return not canonical(activation, loss) and (corner or known(activation, "kinked"))


def softmax_like(activation: Activation, loss: Loss) -> bool:
    """Whether dl_dz is s softmax(z/T) - y, up to one factor.

    >>> softmax_like(LogSoftmax(), NegativeLogLikelihood()), softmax_like(Sigmoid(), BinaryCrossEntropy())
    (True, False)
    """
    return canonical(activation, loss) and known(activation, "entropy") == "shannon"


def entropic(activation: Activation) -> Activation:
    """The activation whose a is in dl_dz = a - y: it itself, or the one whose logarithm it is.

    >>> entropic(LogSoftmax()), entropic(Sigmoid())
    (Softmax(temperature=1.0), Sigmoid())
    """
    return known(activation, "logarithm_of") or activation


def target_share(activation: Activation, loss: Loss) -> float:
    """c of a canonical pair's dl_dz = c (s a - y), where s is one if the loss does not ask for the sum of the row.

    >>> target_share(Softmax(4.0), CrossEntropy()), target_share(Softmax(4.0), FenchelYoung())
    (0.25, 1.0)
    """
    return 1.0 if known(loss, "entropy") == "own" else 1 / known(activation, "temperature")


def is_soft(y: Array) -> bool:
    """Whether target rows (N,K) hold numbers between zero and one; labels (N,) do not.

    >>> is_soft(np.array([[0.9, 0.1]])), is_soft(np.eye(2)), is_soft(np.array([0, 1]))
    (True, False, False)
    """
    return y.ndim == 2 and bool(((y > 0) & (y < 1)).any())


def reason(activation: type[Activation], loss: type[Loss]) -> str:
    """Why a pair is not allowed; empty where it is.

    >>> reason(Tanh, CrossEntropy).split(", and ")[0]
    'tanh gives K independent numbers between minus one and one'
    """
    if activation.range not in loss.accepts:
        return f"{activation.name} gives {RANGES[activation.range]}, and {loss.name} is stated on {accepted(loss)}"
    needed = known(loss, "needs")
    if needed and not has(activation, needed):
        return f"{loss.name} is made of the activation's {needed.replace('_', ' ')}, which {activation.name} has not"
    return ""


def accepted(loss: type[Loss]) -> str:
    """What the loss is stated on, in words.

    >>> accepted(CrossEntropy)
    'rows of positive numbers that sum to one'
    """
    return " or ".join(RANGES[name] for name in RANGES if name in loss.accepts)


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
