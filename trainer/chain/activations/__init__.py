"""Output activations: from scores z (N,K) to predictions a (N,K), with the derivative in two forms.

Each class says in ``range`` what its rows are, so that losses can state what they accept. One that is the gradient of a
convex conjugate, a = grad Omega*(z), has ``omega``, and so a Fenchel-Young loss.
A class with a ``name`` in one of these modules is in ACTIVATIONS.
"""

from typing import ClassVar, Protocol

from trainer.arrays import Array
from trainer.chain.activations import elementwise, simplex, softmax
from trainer.chain.activations.elementwise import Identity, Sigmoid, Tanh
from trainer.chain.activations.simplex import Entmax, NormalizedSigmoid, Sparsemax, Spherical, Taylor
from trainer.chain.activations.softmax import LogSoftmax, Softmax
from trainer.chain.known import parts

__all__ = ["ACTIVATIONS", "RANGES", "Activation"]
__all__ += ["Identity", "Sigmoid", "Tanh"]
__all__ += ["LogSoftmax", "Softmax"]
__all__ += ["Entmax", "NormalizedSigmoid", "Sparsemax", "Spherical", "Taylor"]

RANGES = {
    "simplex": "rows of positive numbers that sum to one",
    "sparse_simplex": "rows that sum to one and may hold exact zeros",
    "unit": "K independent numbers between zero and one",
    "signed_unit": "K independent numbers between minus one and one",
    "log_simplex": "logarithms of probabilities",
    "real": "any real numbers",
}


class Activation(Protocol):
    """What every activation brings; hyper-parameters are fields, so the repr is the call.

    Where its logarithm is known without taking it, and so is exact however small a is, it brings ``log``, which gives
    log a (N,K) for z, and ``log_vjp``, which gives dl_dz (N,K) for z and h = dl/dlog a (N,K).

    >>> activation: Activation = Identity()  # a = z, and da_dz is the identity
    >>> activation(z), activation.vjp(z, a=z, dl_da=y)
    (array([[ 2.,  1., -1.]]), array([[1., 0., 0.]]))
    """

    name: ClassVar[str]
    range: ClassVar[str]  # a key of RANGES

    def __call__(self, z: Array) -> Array:
        """The prediction a (N,K) for scores z (N,K)."""

    def jacobian(self, z: Array, a: Array) -> Array:
        """da_dz (N,K,K) with da_dz[n,j,k] = d a_j / d z_k."""

    def vjp(self, z: Array, a: Array, dl_da: Array) -> Array:
        """dl_dz (N,K) with dl_dz[n,k] = sum_j dl_da[n,j] da_dz[n,j,k], without the tensor."""


ACTIVATIONS: dict[str, type[Activation]] = parts(softmax, elementwise, simplex)
