"""Losses: per sample, on predictions a (N,K) and target rows y (N,K), with the derivative dl_da.

Where ``value_log`` and ``grad_log`` exist, the same loss is stated on log a, with h = dl/dlog a: exact where a
underflows. ``accepts`` names the ranges of activations (see activations.RANGES) that the loss is defined on, and
``direct`` is a part that is stated on the scores and does not pass through a.
Nothing is clipped: a term with a zero target is zero by its limit, and the rest is computed as it stands.
"""

from trainer.chain.losses.base import TARGETS, DirectLoss, LogLoss, Loss, residual
from trainer.chain.losses.likelihoods import (
    BinaryCrossEntropy,
    CrossEntropy,
    Focal,
    GeneralizedCrossEntropy,
    KullbackLeibler,
    NegativeLogLikelihood,
    Poly1,
    ZLoss,
)
from trainer.chain.losses.margins import CrammerSinger, FenchelYoung, ModifiedHuber, SquaredHinge, WestonWatkins
from trainer.chain.losses.scores import Brier, MeanAbsoluteError, SphericalScore, SquaredError, Tsallis

LOSSES: dict[str, type[Loss]] = {
    cls.name: cls
    for cls in (
        CrossEntropy,
        KullbackLeibler,
        NegativeLogLikelihood,
        BinaryCrossEntropy,
        Brier,
        SquaredError,
        MeanAbsoluteError,
        Focal,
        Poly1,
        GeneralizedCrossEntropy,
        Tsallis,
        SphericalScore,
        ZLoss,
        FenchelYoung,
        CrammerSinger,
        WestonWatkins,
        SquaredHinge,
        ModifiedHuber,
    )
}

__all__ = [
    "LOSSES",
    "TARGETS",
    "BinaryCrossEntropy",
    "Brier",
    "CrammerSinger",
    "CrossEntropy",
    "DirectLoss",
    "FenchelYoung",
    "Focal",
    "GeneralizedCrossEntropy",
    "KullbackLeibler",
    "LogLoss",
    "Loss",
    "MeanAbsoluteError",
    "ModifiedHuber",
    "NegativeLogLikelihood",
    "Poly1",
    "SphericalScore",
    "SquaredError",
    "SquaredHinge",
    "Tsallis",
    "WestonWatkins",
    "ZLoss",
    "residual",
]
