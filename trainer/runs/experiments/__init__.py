"""Experiments: what ``experiment=...`` runs in the place of a training.  Each prints what its own numbers say."""

from trainer.runs.experiments.compare_losses import CompareLosses
from trainer.runs.experiments.compare_strategies import CompareStrategies
from trainer.runs.experiments.protocols import Experiment, Show
from trainer.runs.experiments.question import Question
from trainer.runs.experiments.sparse_probabilities import SparseProbabilities

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
