"""What is known of each (activation, loss): whether it makes sense, and which strategies it has.

A loss names the ranges that it is defined on and an activation names its own; a pair is allowed where they meet.
"""

from trainer.activations import ACTIVATIONS, RANGES, Activation
from trainer.errors import ConfigError
from trainer.gradients import fastest, has_strategy
from trainer.losses import LOSSES, Loss


def allowed(activation: type[Activation], loss: type[Loss]) -> bool:
    """Whether the loss is defined on what the activation gives."""
    return activation.range in loss.accepts


def check_pair(activation: Activation, loss: Loss, gradient: str) -> str:
    """The name of the strategy that will run (auto is resolved), or a ConfigError that says what to take instead."""
    if not allowed(type(activation), type(loss)):
        losses = " or ".join(name for name, cls in LOSSES.items() if allowed(type(activation), cls))
        activations = " or ".join(name for name, cls in ACTIVATIONS.items() if allowed(cls, type(loss)))
        raise ConfigError(
            f"activation={activation.name} with loss={loss.name} makes no sense: {activation.name} gives "
            f"{RANGES[activation.range]}, and {loss.name} is stated on "
            f"{' or '.join(RANGES[name] for name in sorted(loss.accepts))}. "
            f"Take loss={losses}, or activation={activations}."
        )
    if not has_strategy(gradient, activation, loss):
        raise ConfigError(
            f"gradient={gradient} has no formula for activation={activation.name} with loss={loss.name}; "
            f"it has one for: {', '.join(pairs_with(gradient))}. Use gradient={fastest(activation, loss)}."
        )
    return fastest(activation, loss) if gradient == "auto" else gradient


def pairs_with(gradient: str) -> list[str]:
    """The allowed pairs that have the strategy, as 'activation+loss'."""
    return [
        f"{name}+{other}"
        for name, activation in ACTIVATIONS.items()
        for other, loss in LOSSES.items()
        if allowed(activation, loss) and has_strategy(gradient, activation(), loss())
    ]
