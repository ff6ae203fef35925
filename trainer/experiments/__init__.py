"""Experiments: what ``experiment=...`` runs in the place of a training.  Each prints what its own numbers say."""

from trainer.experiments.compare_losses import CompareLosses
from trainer.experiments.compare_strategies import CompareStrategies
from trainer.experiments.protocols import Experiment, Show
from trainer.experiments.question import Question
from trainer.experiments.sparse_probabilities import SparseProbabilities

EXPERIMENTS: dict[str, type[Experiment]] = {
    cls.name: cls for cls in (Question, CompareStrategies, CompareLosses, SparseProbabilities)
}

__all__ = [
    "EXPERIMENTS",
    "CompareLosses",
    "CompareStrategies",
    "Experiment",
    "Question",
    "Show",
    "SparseProbabilities",
]
