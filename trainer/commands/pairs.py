"""The command ``trainer pairs [--markdown]``, and ``python -m trainer.pairs``."""

from trainer.chain.activations import ACTIVATIONS, Activation
from trainer.chain.known import known
from trainer.chain.losses import LOSSES, Loss
from trainer.chain.pairs import PROPERTIES, accepted, allowed, properties, registry
from trainer.chain.strategies import fastest, has_strategy


def main(words: list[str]) -> int:
    """Prints the table of pairs."""
    if words not in ([], ["--markdown"]):
        print("python -m trainer.pairs prints the table of pairs; --markdown prints it as docs/pairs.md has it.")
        return 0 if words in (["--help"], ["-h"]) else 2
    print(markdown() if words else table())
    return 0


def table() -> str:
    """The registry as aligned text: pair, strategies, properties, and then what is refused and why."""
    lines = [f"{'activation':<19}{'loss':<17}{'strategies beside loop, jacobian, vjp, numeric':<48}properties"]
    for pair in registry():
        extra = ", ".join(name for name in ("fused", "log") if has_strategy(name, *pair)) or "-"
        holds = ", ".join(properties(*pair)).replace("_", " ")
        lines.append(f"{pair[0].name:<19}{pair[1].name:<17}{extra:<48}{holds}".rstrip())
    lines += ["", *(f"{name.replace('_', ' ')}: {meaning}" for name, meaning in PROPERTIES.items()), "", "refused:"]
    for name, loss in LOSSES.items():
        others = [other for other, activation in ACTIVATIONS.items() if not allowed(activation, loss)]
        needs = known(loss, "needs").replace("_", " ")
        needed = f", and made of the activation's {needs}" if needs else ""
        if others:
            lines.append(f"  {name} with {', '.join(others)}: it is stated on {accepted(loss)}{needed}")
    return "\n".join(lines)


def markdown() -> str:
    """The registry as a matrix for docs/pairs.md: losses down, activations across, a letter for each property."""
    letters = {"proper": "p", "convex": "c", "shift_invariant": "s", "canonical": "k", "dead": "d", "kinked": "j"}

    def cell(activation: type[Activation], loss: type[Loss]) -> str:
        if not allowed(activation, loss):
            return ""
        pair = activation(), loss()
        return f"{fastest(*pair)} {''.join(letters[name] for name in properties(*pair))}".rstrip()

    head = f"| loss | {' | '.join(ACTIVATIONS)} |\n|---|{'---|' * len(ACTIVATIONS)}"
    cells = {name: [cell(activation, loss) for activation in ACTIVATIONS.values()] for name, loss in LOSSES.items()}
    rows = [f"| `{name}` | {' | '.join(row)} |" for name, row in cells.items()]
    meaning = "; ".join(f"**{letters[name]}** {name.replace('_', ' ')}: {text}" for name, text in PROPERTIES.items())
    return "\n".join([head, *rows, "", f"Each cell names the fastest exact strategy, which `auto` takes. {meaning}."])
