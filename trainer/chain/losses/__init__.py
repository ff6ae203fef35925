"""Losses: per sample, on predictions a (N,K) and target rows y (N,K), with the derivative dl_da.

Where ``value_log`` and ``grad_log`` exist, the same loss is stated on log a, with h = dl/dlog a: exact where a
underflows. ``accepts`` names the ranges of activations (see activations.RANGES) that the loss is defined on, and
``direct`` is a part that is stated on the scores and does not pass through a.
Nothing is clipped: a term with a zero target is zero by its limit, and the rest is computed as it stands.
A class with a ``name`` in one of these modules is in LOSSES.
"""

from trainer.chain.known import parts
from trainer.chain.losses import distances, likelihoods, margins, scores
from trainer.chain.losses.base import TARGETS as TARGETS
from trainer.chain.losses.base import DirectLoss as DirectLoss
from trainer.chain.losses.base import LogLoss as LogLoss
from trainer.chain.losses.base import Loss as Loss
from trainer.chain.losses.base import residual as residual
from trainer.chain.losses.distances import Brier as Brier
from trainer.chain.losses.distances import MeanAbsoluteError as MeanAbsoluteError
from trainer.chain.losses.distances import SquaredError as SquaredError
from trainer.chain.losses.likelihoods import BinaryCrossEntropy as BinaryCrossEntropy
from trainer.chain.losses.likelihoods import CrossEntropy as CrossEntropy
from trainer.chain.losses.likelihoods import KullbackLeibler as KullbackLeibler
from trainer.chain.losses.likelihoods import NegativeLogLikelihood as NegativeLogLikelihood
from trainer.chain.losses.margins import CrammerSinger as CrammerSinger
from trainer.chain.losses.margins import FenchelYoung as FenchelYoung
from trainer.chain.losses.margins import ModifiedHuber as ModifiedHuber
from trainer.chain.losses.margins import SquaredHinge as SquaredHinge
from trainer.chain.losses.margins import WestonWatkins as WestonWatkins
from trainer.chain.losses.scores import Focal as Focal
from trainer.chain.losses.scores import GeneralizedCrossEntropy as GeneralizedCrossEntropy
from trainer.chain.losses.scores import Poly1 as Poly1
from trainer.chain.losses.scores import SphericalScore as SphericalScore
from trainer.chain.losses.scores import Tsallis as Tsallis
from trainer.chain.losses.scores import ZLoss as ZLoss

LOSSES: dict[str, type[Loss]] = parts(likelihoods, distances, scores, margins)
