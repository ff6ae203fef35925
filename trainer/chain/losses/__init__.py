"""Losses: per sample, on predictions a (N,K) and target rows y (N,K), with the derivative dl_da.

Where ``value_log`` and ``grad_log`` exist, the same loss is stated on log a, with h = dl/dlog a: exact where a
underflows. ``accepts`` names the ranges of activations (see activations.RANGES) that the loss is defined on, and
``direct`` is a part that is stated on the scores and does not pass through a.
Nothing is clipped: a term with a zero target is zero by its limit, and the rest is computed as it stands.
A class with a ``name`` in one of these modules is in LOSSES.
"""

from trainer.chain.known import parts
from trainer.chain.losses import distances, likelihoods, margins, scores
from trainer.chain.losses.base import TARGETS, Loss
from trainer.chain.losses.distances import Brier, MeanAbsoluteError, SquaredError
from trainer.chain.losses.likelihoods import BinaryCrossEntropy, CrossEntropy, KullbackLeibler, NegativeLogLikelihood
from trainer.chain.losses.margins import CrammerSinger, FenchelYoung, ModifiedHuber, SquaredHinge, WestonWatkins
from trainer.chain.losses.scores import Focal, GeneralizedCrossEntropy, Poly1, SphericalScore, Tsallis, ZLoss

__all__ = ["LOSSES", "TARGETS", "Loss"]
__all__ += ["Brier", "MeanAbsoluteError", "SquaredError"]
__all__ += ["BinaryCrossEntropy", "CrossEntropy", "KullbackLeibler", "NegativeLogLikelihood"]
__all__ += ["CrammerSinger", "FenchelYoung", "ModifiedHuber", "SquaredHinge", "WestonWatkins"]
__all__ += ["Focal", "GeneralizedCrossEntropy", "Poly1", "SphericalScore", "Tsallis", "ZLoss"]

LOSSES: dict[str, type[Loss]] = parts(likelihoods, distances, scores, margins)
