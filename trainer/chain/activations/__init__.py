"""Output activations: from scores z (N,K) to predictions a (N,K), with the derivative in two forms.

``jacobian`` is the whole tensor da_dz (N,K,K); ``vjp`` is its product with dl_da, summed over the first class
index, from the tensor's structure alone. Where ``log`` exists, ``log_vjp`` pulls back h = dl/dlog a, which stays
exact where a underflows. Each class says in ``range`` what its rows are, so that losses can state what they accept.
"""

from trainer.chain.activations.base import RANGES, Activation, Entropic, LogActivation
from trainer.chain.activations.elementwise import Identity, Sigmoid, Tanh
from trainer.chain.activations.normalized import (
    LogSoftmax,
    NormalizedSigmoid,
    Softmax,
    Spherical,
    Taylor,
    log_softmax,
    shifted_exp,
    softmax_and_complement,
    softmax_three_ways,
)
from trainer.chain.activations.sparse import Entmax, Sparsemax

ACTIVATIONS: dict[str, type[Activation]] = {
    cls.name: cls
    for cls in (
        Softmax,
        LogSoftmax,
        Sigmoid,
        Tanh,
        Identity,
        Sparsemax,
        Entmax,
        Taylor,
        Spherical,
        NormalizedSigmoid,
    )
}

__all__ = [
    "ACTIVATIONS",
    "RANGES",
    "Activation",
    "Entmax",
    "Entropic",
    "Identity",
    "LogActivation",
    "LogSoftmax",
    "NormalizedSigmoid",
    "Sigmoid",
    "Softmax",
    "Sparsemax",
    "Spherical",
    "Tanh",
    "Taylor",
    "log_softmax",
    "shifted_exp",
    "softmax_and_complement",
    "softmax_three_ways",
]
