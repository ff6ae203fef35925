"""Losses: per sample, on predictions a (N,K) and target rows y (N,K), with the derivative dl_da.

Nothing is clipped: a term with a zero target is zero by its limit, and the rest is computed as it stands.
A class with a ``name`` in one of these modules is in LOSSES.
"""

from typing import ClassVar, Protocol

from trainer.arrays import Array
from trainer.chain.known import parts
from trainer.chain.losses import distances, likelihoods, margins, scores
from trainer.chain.losses.distances import Brier, MeanAbsoluteError, SquaredError
from trainer.chain.losses.likelihoods import BinaryCrossEntropy, CrossEntropy, KullbackLeibler, NegativeLogLikelihood
from trainer.chain.losses.margins import CrammerSinger, FenchelYoung, ModifiedHuber, SquaredHinge, WestonWatkins
from trainer.chain.losses.scores import Focal, GeneralizedCrossEntropy, Poly1, SphericalScore, Tsallis, ZLoss

__all__ = ["LOSSES", "TARGETS", "Loss"]
__all__ += ["Brier", "MeanAbsoluteError", "SquaredError"]
__all__ += ["BinaryCrossEntropy", "CrossEntropy", "KullbackLeibler", "NegativeLogLikelihood"]
__all__ += ["CrammerSinger", "FenchelYoung", "ModifiedHuber", "SquaredHinge", "WestonWatkins"]
__all__ += ["Focal", "GeneralizedCrossEntropy", "Poly1", "SphericalScore", "Tsallis", "ZLoss"]

TARGETS = {
    "any": "any non-negative rows",
    "simplex": "rows that sum to one",
    "unit": "numbers between zero and one",
    "one_hot": "one-hot rows",
}


class Loss(Protocol):
    """What every loss brings.

    One that can be stated on log a, and so is exact where a underflows, brings ``value_log``, its loss (N,) for log a
    and y, and ``grad_log``, its h = dl/dlog a (N,K), up to a multiple of a in each row, which rows that sum to one do
    not notice.

    One with a part that is stated on the scores themselves and does not pass through a brings ``direct``: for an
    activation, z and y the part's values (N,) and its derivative by z (N,K), which every strategy adds to its own.

    >>> loss: Loss = SquaredError()
    >>> loss.value(np.array([[0.5, 0.5, 0.0]]), y), loss.grad(np.array([[0.5, 0.5, 0.0]]), y)
    (array([0.25]), array([[-0.5,  0.5,  0. ]]))
    """

    name: ClassVar[str]
    accepts: ClassVar[frozenset[str]]  # keys of activations.RANGES: where it is defined
    targets: ClassVar[str]  # a key of TARGETS: the rows y that the formula is meant for

    def value(self, a: Array, y: Array) -> Array:
        """loss (N,)."""

    def grad(self, a: Array, y: Array) -> Array:
        """dl_da (N,K)."""


LOSSES: dict[str, type[Loss]] = parts(likelihoods, distances, scores, margins)
