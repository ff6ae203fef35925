"""Rules of pairs: which activation goes with which loss, why not if not, and what is known of the two.

A loss names the ranges that it is defined on and what it needs of an activation; a pair is allowed where both are met.
What else is known of a pair follows from the claims that its parts make of themselves (see known.py).
``python -m trainer.pairs`` prints the table, with ``--markdown`` as docs/pairs.md has it.
"""

from trainer.chain.activations import ACTIVATIONS, RANGES, Activation
from trainer.chain.known import has, known
from trainer.chain.losses import LOSSES, Loss

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
