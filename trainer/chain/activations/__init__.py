"""Output activations: from scores z (N,K) to predictions a (N,K), with the derivative in two forms.

``jacobian`` is the whole tensor da_dz (N,K,K); ``vjp`` is its product with dl_da, summed over the first class
index, from the tensor's structure alone. Where ``log`` exists, ``log_vjp`` pulls back h = dl/dlog a, which stays
exact where a underflows. Each class says in ``range`` what its rows are, so that losses can state what they accept.
One that is the gradient of a convex conjugate, a = grad Omega*(z), has ``omega``, and so a Fenchel-Young loss.
A class with a ``name`` in one of these modules is in ACTIVATIONS.
"""

from trainer.chain.activations import elementwise, normalized, softmax, sparse
from trainer.chain.activations.base import RANGES as RANGES
from trainer.chain.activations.base import Activation as Activation
from trainer.chain.activations.base import LogActivation as LogActivation
from trainer.chain.activations.elementwise import Identity as Identity
from trainer.chain.activations.elementwise import Sigmoid as Sigmoid
from trainer.chain.activations.elementwise import Tanh as Tanh
from trainer.chain.activations.normalized import NormalizedSigmoid as NormalizedSigmoid
from trainer.chain.activations.normalized import Spherical as Spherical
from trainer.chain.activations.normalized import Taylor as Taylor
from trainer.chain.activations.softmax import LogSoftmax as LogSoftmax
from trainer.chain.activations.softmax import Softmax as Softmax
from trainer.chain.activations.softmax import log_softmax as log_softmax
from trainer.chain.activations.softmax import shifted_exp as shifted_exp
from trainer.chain.activations.softmax import softmax_and_complement as softmax_and_complement
from trainer.chain.activations.softmax import softmax_three_ways as softmax_three_ways
from trainer.chain.activations.sparse import Entmax as Entmax
from trainer.chain.activations.sparse import Sparsemax as Sparsemax
from trainer.chain.known import parts

ACTIVATIONS: dict[str, type[Activation]] = parts(softmax, elementwise, sparse, normalized)
