"""What a part says of itself, and what is assumed of one that says nothing.

A claim is a class attribute of an activation or a loss, or a property where it depends on the settings. What pairs.py
concludes from the claims of both is measured by tests/test_registry.py, so a claim that is wrong fails there.

A claim belongs to the function that its class computes, and so does each method. A subclass that computes another
one, with a ``__call__`` or a ``value`` of its own, inherits neither.
"""

from types import ModuleType
from typing import Any

ENTROPIES = {
    "shannon": "sum_k a_k log a_k over rows that sum to one: a is softmax(z / T), or its logarithm",
    "binary": "sum_k a_k log a_k + (1 - a_k) log(1 - a_k): a is sigmoid(z)",
    "squares": "1/2 sum_k a_k^2 over all numbers: a is z",
    "own": "that of the activation, whatever it is",
}

# Of a part that says nothing is assumed what leads to no shortcut and to no proof.
ASSUMED: dict[str, Any] = {
    # of an activation
    "shift_invariant": False,  # a number added to all scores of a row changes nothing (a loss says it of a)
    "saturates": False,  # its derivative vanishes where a row is all but one-hot
    "kinked": False,  # its derivative jumps at some scores
    "logarithm_of": None,  # the activation whose logarithm it is
    "temperature": 1.0,  # by which it divides the scores
    "start_scale": 0.0,  # of the weights that a training starts from; zero, where zero is no stationary point
    # of both
    "entropy": "",  # a key of ENTROPIES, for which dl_dz is a - y if both are made of it
    # of a loss
    "proper": False,  # its mean is smallest where a is the distribution that labels are drawn from
    "bounded": False,  # its derivative stays bounded on probabilities, so a derivative of a that vanishes stays so
    "convex_with": frozenset(),  # the entropies behind whose activation it is convex in the scores
    "kinks": "",  # where its derivative jumps: "targets", that is at a = y, or "inside", anywhere
    "direct_shift_invariant": False,  # its direct part does not change with the shift either
    "log_exact": True,  # its form in log a is finite where an entry of a rounds to one
    "targets": "any",  # the rows y that it is stated on, a key of losses.TARGETS
    "needs": "",  # the method of an activation that its direct part is made of
}
SETTINGS = {"temperature", "start_scale", "targets", "needs"}  # inherited like any attribute: they claim nothing


def has(part: Any, *methods: str) -> bool:
    """Whether an activation or a loss, or its class, has each of these for the function that it computes.

    >>> has(Softmax(), "log", "log_vjp"), has(Sigmoid(), "log")
    (True, False)
    """
    return all(_own(part, name) for name in methods)


def known(part: Any, claim: str) -> Any:
    """What a part says, or what is assumed where it says nothing.

    >>> known(Sigmoid(), "entropy"), known(Tanh(), "entropy")
    ('binary', '')
    """
    stands = claim in SETTINGS or _own(part, claim)
    return getattr(part, claim, ASSUMED[claim]) if stands else ASSUMED[claim]


def parts(*modules: ModuleType) -> dict[str, Any]:
    """The classes with a name that the modules define, in their order, by that name.

    >>> import trainer.chain.activations.softmax
    >>> list(parts(trainer.chain.activations.softmax))
    ['softmax', 'log_softmax']
    """
    return {
        vars(cls)["name"]: cls
        for module in modules
        for cls in vars(module).values()
        if isinstance(cls, type) and cls.__module__ == module.__name__ and "name" in vars(cls)
    }


def _own(part: Any, name: str) -> bool:
    """Whether the name is defined in no class above the one that defines the function."""
    lineage = (part if isinstance(part, type) else type(part)).__mro__
    defines = (n for n, cls in enumerate(lineage) if {"__call__", "value"} & vars(cls).keys())
    return any(name in vars(cls) for cls in lineage[: next(defines, len(lineage)) + 1])
