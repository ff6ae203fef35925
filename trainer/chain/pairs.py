"""The registry of pairs: which activation goes with which loss, why not if not, the strategies, and what is known.

A loss names the ranges that it is defined on and what it needs of an activation; a pair is allowed where both are met.
``python -m trainer.pairs`` prints the table, with ``--markdown`` as docs/pairs.md has it.
Every claim made here is measured by tests/test_registry.py over the whole registry.
"""

from dataclasses import dataclass

import numpy as np

from trainer.arrays import Array
from trainer.chain.activations import ACTIVATIONS, RANGES, Activation
from trainer.chain.losses import LOSSES, TARGETS, Loss
from trainer.chain.strategies import GRADIENTS, GradientChoice, GradientStrategy, fastest, has_strategy, precise
from trainer.errors import DataError, Incompatible, choose

PROPERTIES = {
    "proper": "the expected loss is smallest where a is the distribution that labels are drawn from",
    "convex": "in the scores z, with the default settings of both",
    "shift_invariant": "a number added to every score of a row changes nothing",
    "canonical": "dl_dz is a - y, up to one factor",
    "dead": "no gradient (below 0.001) where a wrong class leads by 20: what is confidently wrong stays so",
    "kinked": "dl_dz jumps at some scores: newton, lbfgs and fista refuse the pair, the others take a subgradient",
}

# Proper scoring rules, which stay proper behind whatever activation can reach the distribution.
PROPER = {"ce", "kl", "nll", "bce", "brier", "squared_error", "tsallis", "spherical_score", "z_loss", "fenchel_young"}
SHIFT_INVARIANT = {"softmax", "log_softmax", "sparsemax", "entmax"}
SHIFT_INVARIANT_ON_SCORES = {"crammer_singer", "weston_watkins"}
CANONICAL = {
    ("softmax", "ce"),
    ("softmax", "kl"),
    ("log_softmax", "nll"),
    ("sigmoid", "bce"),
    ("identity", "squared_error"),
}
CONVEX = {("softmax", "poly1"), ("softmax", "z_loss")}  # beside the canonical pairs and the losses on the scores
KINKED = {("identity", "mae"), ("tanh", "mae"), ("identity", "crammer_singer"), ("identity", "weston_watkins")}
SATURATING = {"softmax", "sparsemax", "entmax", "spherical"}  # the derivative of a vanishes at a corner of the simplex
BOUNDED = {"brier", "squared_error", "mae", "gce", "tsallis", "spherical_score"}  # and the loss cannot make up for it


@dataclass(frozen=True)
class Pair:
    """What is claimed of an allowed pair, with the default settings of both."""

    activation: str
    loss: str
    strategies: tuple[str, ...]
    proper: bool
    convex: bool
    shift_invariant: bool
    canonical: bool
    dead: bool
    kinked: bool

    def properties(self) -> list[str]:
        """The names of the properties that it has."""
        return [name for name in PROPERTIES if getattr(self, name)]


def describe(activation: str, loss: str) -> Pair:
    """The registry's entry of an allowed pair."""
    instance, other = ACTIVATIONS[activation](), LOSSES[loss]()
    return Pair(
        activation,
        loss,
        tuple(name for name in GRADIENTS if name != "auto" and has_strategy(name, instance, other)),
        proper=loss in PROPER,
        convex=convex(instance, other),
        shift_invariant=shift_invariant(instance, other),
        canonical=canonical(instance, other),
        dead=activation in SATURATING and loss in BOUNDED,
        kinked=kinked(instance, other),
    )


def registry() -> list[Pair]:
    """Every allowed pair, by activation."""
    return [describe(a, n) for a in ACTIVATIONS for n in LOSSES if allowed(ACTIVATIONS[a], LOSSES[n])]


def allowed(activation: type[Activation], loss: type[Loss]) -> bool:
    """Whether the loss is defined on what the activation gives, and the activation has what the loss needs of it."""
    return not reason(activation, loss)


def canonical(activation: Activation, loss: Loss) -> bool:
    """Whether dl_dz is a - y, up to one factor, or s a - y."""
    return (activation.name, loss.name) in CANONICAL or loss.name == "fenchel_young"


def convex(activation: Activation, loss: Loss) -> bool:
    """Whether the loss is convex in the scores; poly1 is for an epsilon between those of ce and of its own default."""
    pair = (activation.name, loss.name)
    named = pair in CONVEX and 0 <= getattr(loss, "epsilon", 0.0) <= 1
    return canonical(activation, loss) or activation.name == "identity" or named


def shift_invariant(activation: Activation, loss: Loss) -> bool:
    """Whether a number added to every score of a row changes nothing."""
    on_scores = activation.name == "identity" and loss.name in SHIFT_INVARIANT_ON_SCORES
    return (activation.name in SHIFT_INVARIANT and loss.name != "z_loss") or on_scores


def kinked(activation: Activation, loss: Loss, soft: bool = False) -> bool:
    """Whether dl_dz jumps; alpha-entmax itself has a kink from alpha = 2 on, which is sparsemax.

    On soft targets |a - y| has its corner where a can be, and not at the border, which is the limit of a.
    """
    steep = activation.name == "sparsemax" or getattr(activation, "alpha", 1.0) >= 2
    cornered = (activation.name, loss.name) in KINKED or (soft and loss.name == "mae")
    return cornered or (steep and loss.name != "fenchel_young")


def is_soft(y: Array) -> bool:
    """Whether target rows (N,K) hold numbers between zero and one; labels (N,) do not."""
    return y.ndim == 2 and bool(((y > 0) & (y < 1)).any())


def reason(activation: type[Activation], loss: type[Loss]) -> str:
    """Why a pair is not allowed; empty where it is."""
    if activation.range not in loss.accepts:
        return f"{activation.name} gives {RANGES[activation.range]}, and {loss.name} is stated on {accepted(loss)}"
    needed = getattr(loss, "needs", "")
    if needed and not hasattr(activation, needed):
        return f"{loss.name} is made of the activation's {needed.replace('_', ' ')}, which {activation.name} has not"
    return ""


def accepted(loss: type[Loss]) -> str:
    """What the loss is stated on, in words."""
    return " or ".join(RANGES[name] for name in RANGES if name in loss.accepts)


def check_pair(activation: Activation, loss: Loss, gradient: str) -> str:
    """The name of the strategy that will run (auto is resolved), or a ConfigError that says what to take instead."""
    why = reason(type(activation), type(loss))
    if why:
        losses = [name for name, cls in LOSSES.items() if allowed(type(activation), cls)]
        if activation.range == "sparse_simplex":
            losses.sort(key=lambda name: name != "fenchel_young")  # in the place of ce, the activation's own
        activations = [name for name, cls in ACTIVATIONS.items() if allowed(cls, type(loss))]
        raise Incompatible(
            f"activation={activation.name} with loss={loss.name} makes no sense: {why}. "
            f"Take loss={' or '.join(losses)}, or activation={' or '.join(activations)}."
        )
    if not has_strategy(gradient, activation, loss):
        raise Incompatible(
            f"gradient={gradient} has no formula for activation={activation.name} with loss={loss.name}; "
            f"it has one for: {', '.join(pairs_with(gradient))}. Use gradient={fastest(activation, loss)}."
        )
    strategy = fastest(activation, loss) if gradient == "auto" else gradient
    return strategy


def strategy_of(activation: Activation, loss: Loss, choice: GradientChoice) -> tuple[str, GradientStrategy]:
    """The name of the strategy that will run and its function, in the form of the choice; ConfigError as check_pair."""
    strategy = check_pair(activation, loss, choose("gradient", GRADIENTS, choice.name))
    if choice.precise and (activation.name, loss.name, strategy) != ("softmax", "ce", "fused"):
        raise Incompatible(
            f"gradient.precise=true is a form of fused for activation=softmax with loss=ce, not of {strategy} for "
            f"{activation.name} with {loss.name}. Leave it out; gradient=log is as precise wherever there is one."
        )
    return strategy, precise if choice.precise else GRADIENTS[strategy]


def check_smooth(optimizer: str, activation: Activation, loss: Loss, soft: bool = False) -> None:
    """ConfigError where a solver, by its name, is to follow a gradient that jumps; on soft targets where they are."""
    if kinked(activation, loss, soft):
        where = "" if kinked(activation, loss) else " on targets between zero and one, which smoothing makes"
        raise Incompatible(
            f"optimizer={optimizer} needs a smooth loss, and the gradient of activation={activation.name} with "
            f"loss={loss.name} jumps{where}. Use optimizer=adam, or another pair: python -m trainer.pairs lists them."
        )


def check_exact(optimizer: str, gradient: str) -> None:
    """Incompatible where a solver, by its name, is to follow slopes that are known in part."""
    if gradient == "numeric":
        raise Incompatible(
            f"gradient=numeric is known to about 1e-10, and optimizer={optimizer} needs exact slopes. "
            "Use gradient=auto, or optimizer=sgd."
        )


def check_targets(loss: Loss, y: Array, smoothing: float = 0.0) -> None:
    """DataError where labels (N,) or target rows (N,K), smoothed by epsilon, are not what the loss is stated on."""
    rows = y.ndim == 2
    fits = {
        "any": True,
        "unit": not rows or bool((y <= 1).all()),
        "simplex": not rows or bool(np.allclose(y.sum(axis=1), 1)),
        "one_hot": smoothing == 0 and (not rows or bool((((y == 0) | (y == 1)).all(1) & (y.sum(axis=1) == 1)).all())),
    }
    if not fits[loss.targets]:
        others = ", ".join(name for name, cls in LOSSES.items() if cls.targets == "any")
        what = f"label_smoothing={smoothing}" if smoothing else "the target rows of the data"
        raise DataError(
            f"loss={loss.name} is stated on {TARGETS[loss.targets]}, which {what} are not. "
            f"Take labels without smoothing, or a loss for any rows: {others}."
        )


def pairs_with(gradient: str) -> list[str]:
    """The allowed pairs that have the strategy, as 'activation+loss'."""
    return [f"{pair.activation}+{pair.loss}" for pair in registry() if gradient in ("auto", *pair.strategies)]


def table() -> str:
    """The registry as aligned text: pair, strategies, properties, and then what is refused and why."""
    lines = [f"{'activation':<19}{'loss':<17}{'strategies beside loop, jacobian, vjp, numeric':<48}properties"]
    for pair in registry():
        extra = ", ".join(name for name in pair.strategies if name in ("fused", "log")) or "-"
        properties = ", ".join(pair.properties()).replace("_", " ")
        lines.append(f"{pair.activation:<19}{pair.loss:<17}{extra:<48}{properties}".rstrip())
    lines += ["", *(f"{name.replace('_', ' ')}: {meaning}" for name, meaning in PROPERTIES.items()), "", "refused:"]
    for name, loss in LOSSES.items():
        others = [other for other, activation in ACTIVATIONS.items() if not allowed(activation, loss)]
        needed = f", and made of the activation's {loss.needs.replace('_', ' ')}" if hasattr(loss, "needs") else ""
        if others:
            lines.append(f"  {name} with {', '.join(others)}: it is stated on {accepted(loss)}{needed}")
    return "\n".join(lines)


def markdown() -> str:
    """The registry as a matrix for docs/pairs.md: losses down, activations across, a letter for each property."""
    letters = {"proper": "p", "convex": "c", "shift_invariant": "s", "canonical": "k", "dead": "d", "kinked": "j"}
    pairs = {(pair.activation, pair.loss): pair for pair in registry()}

    def cell(activation: str, loss: str) -> str:
        if (activation, loss) not in pairs:
            return ""
        pair = pairs[activation, loss]
        fast = next(name for name in ("fused", "log", "vjp") if name in pair.strategies)
        return f"{fast} {''.join(letters[name] for name in pair.properties())}".rstrip()

    head = f"| loss | {' | '.join(ACTIVATIONS)} |\n|---|{'---|' * len(ACTIVATIONS)}"
    rows = [f"| `{loss}` | {' | '.join(cell(activation, loss) for activation in ACTIVATIONS)} |" for loss in LOSSES]
    meaning = "; ".join(f"**{letters[name]}** {name.replace('_', ' ')}: {text}" for name, text in PROPERTIES.items())
    return "\n".join([head, *rows, "", f"Each cell names the fastest exact strategy, which `auto` takes. {meaning}."])
