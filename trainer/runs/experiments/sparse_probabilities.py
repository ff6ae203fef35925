"""What sparse probabilities cost and give: softmax, entmax and sparsemax, each with its own loss."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from trainer.arrays import Array, one_hot
from trainer.chain.activations import ACTIVATIONS, Activation
from trainer.chain.losses import LOSSES
from trainer.data.rows import prepare
from trainer.data.sources import Digits
from trainer.errors import require
from trainer.objective.blocks import scores
from trainer.objective.metrics import METRICS
from trainer.objective.objective import Objective
from trainer.runs.config import Settings
from trainer.runs.experiments.protocols import Show
from trainer.runs.experiments.tables import against_spread, aligned, mean, named, with_spread, write_csv
from trainer.runs.experiments.training import VALID_FRACTION, training

COMPARED = ("softmax", "entmax", "sparsemax")
BINS = 15  # of the picture, as of the calibration error
FEWEST = 10  # rows in a bin, below which its share of hits is not drawn


class Quality(NamedTuple):
    """What one training gave on the validation rows."""

    accuracy: float
    ece: float  # expected calibration error, fifteen bins
    zeros: float  # share of exact zeros among the probabilities
    support: float  # classes with a positive probability, mean over the rows
    ruled_out: float  # share of the rows whose true class has the probability zero


Qualities = Mapping[str, Sequence[Quality]]  # by activation, one a seed
Predictions = tuple[Array, Array]  # a (N,K) and labels (N,)


@dataclass(frozen=True)
class SparseProbabilities:
    """softmax, entmax and sparsemax, each with fenchel_young, on data=digits.

    Half of the digits validate. The split and the shuffling follow from the seed; they are the same for every
    activation, and new for each of the ``seeds`` repetitions.
    """

    name: ClassVar[str] = "sparse_probabilities"
    seeds: int = 3

    def __post_init__(self) -> None:
        require(self.seeds >= 1, f"experiment.seeds must be at least 1, got {self.seeds}.")

    def __call__(self, settings: Settings, objective: Objective, folder: Path, show: Show) -> None:
        seeds = [(settings.seed or 0) + n for n in range(self.seeds)]
        activations = [ACTIVATIONS[name]() for name in COMPARED]
        predictions = {
            activation.name: [predicted(settings, objective, activation, seed) for seed in seeds]
            for activation in activations
        }
        qualities = {name: [quality(a, labels) for a, labels in each] for name, each in predictions.items()}
        pairs = ", ".join(map(repr, activations))
        show(f"{pairs} with fenchel_young on {Digits()!r}, {settings.epochs} epochs, {named(seeds)}")
        for line in aligned(table(qualities)):
            show(line)
        write_csv(
            folder / f"{self.name}.csv",
            [
                {"activation": name, "seed": seed, **each._asdict()}
                for name, repeated in qualities.items()
                for seed, each in zip(seeds, repeated, strict=True)
            ],
        )
        if settings.plots:
            draw(
                folder / f"{self.name}.png",
                predictions,
                qualities,
                f"digits, each activation with fenchel_young: validation rows of {named(seeds)}",
            )
        for line in conclusion(qualities):
            show(line)


def predicted(settings: Settings, objective: Objective, activation: Activation, seed: int) -> Predictions:
    """The validation rows' probabilities (N,K) after one training, and their labels (N,)."""
    train, valid, _ = prepare(
        Digits()(seed), valid_fraction=VALID_FRACTION, standardize=True, seed=seed, dtype=settings.dtype
    )
    assert valid is not None  # for VALID_FRACTION is not zero
    *_, w = training(settings, objective, activation, LOSSES["fenchel_young"](), train, seed)
    return activation(scores(w, valid.x)), valid.y


def quality(a: Array, labels: Array) -> Quality:
    """The five numbers of predictions a (N,K) and labels (N,)."""
    ece = METRICS["ece"]
    y = one_hot(labels, a.shape[1], a.dtype)
    return Quality(
        accuracy=mean(a.argmax(axis=1) == labels),
        ece=ece.finish(ece.statistics(a, y).mean(axis=0)),
        zeros=mean((a == 0).ravel()),
        support=mean((a > 0).sum(axis=1)),
        ruled_out=mean(a[np.arange(len(a)), labels] == 0),
    )


def table(qualities: Qualities) -> list[list[str]]:
    """A row an activation: means over the seeds, with their spread."""
    return [
        ["activation", "accuracy", "calibration error", "exact zeros", "classes in support", "true class ruled out"],
        *(
            [
                name,
                with_spread([q.accuracy for q in repeated], ".4f"),
                with_spread([q.ece for q in repeated], ".4f"),
                with_spread([q.zeros for q in repeated], ".4f"),
                with_spread([q.support for q in repeated], ".2f"),
                with_spread([q.ruled_out for q in repeated], ".4f"),
            ]
            for name, repeated in qualities.items()
        ),
    ]


def conclusion(qualities: Qualities) -> list[str]:
    """Who is the most accurate, the best calibrated and the sparsest, and what the zeros cost."""
    accuracy, ece, zeros, support, ruled_out = (
        {name: mean(getattr(q, field) for q in repeated) for name, repeated in qualities.items()}
        for field in Quality._fields
    )
    best, worst = max(accuracy, key=lambda name: accuracy[name]), min(accuracy, key=lambda name: accuracy[name])
    right, off = min(ece, key=lambda name: ece[name]), max(ece, key=lambda name: ece[name])
    sparse = max(zeros, key=lambda name: zeros[name])
    lead = [a.accuracy - b.accuracy for a, b in zip(qualities[best], qualities[worst], strict=True)]
    closer = [b.ece - a.ece for a, b in zip(qualities[right], qualities[off], strict=True)]
    if zeros[sparse] == 0:
        zeros_line = "No activation gives an exact zero."
    else:
        zeros_line = (
            f"{sparse} is the sparsest, with {zeros[sparse]:.1%} exact zeros, which leave {support[sparse]:.2f} "
            f"classes a row; it rules the true class out in {ruled_out[sparse]:.1%} of the rows."
        )
    return [
        f"{best} has the best accuracy, {accuracy[best]:.4f}, {mean(lead):.4f} above {worst}'s: "
        f"{against_spread(lead)}.",
        f"{right} has the smallest calibration error, {ece[right]:.4f}, {mean(closer):.4f} below {off}'s: "
        f"{against_spread(closer)}.",
        zeros_line,
    ]


def draw(path: Path, predictions: Mapping[str, Sequence[Predictions]], qualities: Qualities, title: str) -> Path:
    """Hits by confidence, and how many classes the rows keep; over the validation rows of all seeds."""
    from matplotlib.figure import Figure  # slow to import

    from trainer.runs.plots import COLORS, save, tidy

    figure = Figure(figsize=(11, 5.4))
    figure.subplots_adjust(left=0.07, right=0.98, bottom=0.1, top=0.76, wspace=0.2)
    figure.suptitle(title)
    left, right = figure.subplots(1, 2)
    left.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=1)
    for number, (name, each) in enumerate(predictions.items()):
        a = np.concatenate([a for a, _ in each])
        hit = a.argmax(axis=1) == np.concatenate([labels for _, labels in each])
        color = COLORS[number]
        confidence, bins = a.max(axis=1), np.clip(np.ceil(a.max(axis=1) * BINS) - 1, 0, BINS - 1)
        drawn = [bins == b for b in range(BINS) if np.sum(bins == b) >= FEWEST]
        numbers = [mean(getattr(q, field) for q in qualities[name]) for field in Quality._fields]
        left.plot(
            [mean(confidence[rows]) for rows in drawn],
            [mean(hit[rows]) for rows in drawn],
            color=color,
            marker="o",
            label=f"{name}  accuracy {numbers[0]:.3f}, calibration error {numbers[1]:.3f}",
        )
        sizes = np.bincount((a > 0).sum(axis=1), minlength=a.shape[1] + 1)[1:] / len(a)
        right.bar(
            np.arange(1, a.shape[1] + 1) + 0.27 * (number - 1),
            sizes,
            width=0.25,
            color=color,
            label=f"{name}  {numbers[2]:.1%} zeros, {numbers[3]:.2f} classes a row",
        )
    left.set(xlabel="confidence: the largest probability", ylabel="share of hits", xlim=(0, 1.02), ylim=(0, 1.02))
    right.set(xlabel="classes with a positive probability", ylabel="share of the rows")
    right.set_xticks(np.arange(1, a.shape[1] + 1))
    for axes in (left, right):
        axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0))
        tidy(axes)
    return save(figure, path)
