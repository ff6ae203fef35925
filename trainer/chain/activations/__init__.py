"""Output activations: from scores z (N,K) to predictions a (N,K), with the derivative in two forms.

``jacobian`` is the whole tensor da_dz (N,K,K); ``vjp`` is its product with dl_da, summed over the first class
index, from the tensor's structure alone. Where ``log`` exists, ``log_vjp`` pulls back h = dl/dlog a, which stays
exact where a underflows. Each class says in ``range`` what its rows are, so that losses can state what they accept.
One that is the gradient of a convex conjugate, a = grad Omega*(z), has ``omega``, and so a Fenchel-Young loss.
A class with a ``name`` in one of these modules is in ACTIVATIONS.
"""

from trainer.chain.activations import elementwise, normalized, softmax, sparse
from trainer.chain.activations.base import RANGES, Activation
from trainer.chain.activations.elementwise import Identity, Sigmoid, Tanh
from trainer.chain.activations.normalized import NormalizedSigmoid, Spherical, Taylor
from trainer.chain.activations.softmax import LogSoftmax, Softmax
from trainer.chain.activations.sparse import Entmax, Sparsemax
from trainer.chain.known import parts

__all__ = ["ACTIVATIONS", "RANGES", "Activation"]
__all__ += ["Identity", "Sigmoid", "Tanh"]
__all__ += ["NormalizedSigmoid", "Spherical", "Taylor"]
__all__ += ["LogSoftmax", "Softmax"]
__all__ += ["Entmax", "Sparsemax"]

ACTIVATIONS: dict[str, type[Activation]] = parts(softmax, elementwise, sparse, normalized)
