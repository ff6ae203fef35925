"""Which losses stand wrong labels: the same data, and a part of the training labels replaced."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from trainer.arrays import Array
from trainer.chain.activations import Softmax
from trainer.chain.losses import LOSSES
from trainer.data.rows import prepare
from trainer.data.sources import Classification
from trainer.errors import require
from trainer.objective.blocks import scores
from trainer.objective.objective import Objective
from trainer.runs.config import Settings
from trainer.runs.experiments.protocols import Show
from trainer.runs.experiments.tables import against_spread, aligned, mean, named, with_spread, write_csv
from trainer.runs.experiments.training import VALID_FRACTION, training

COMPARED = ("ce", "gce", "mae", "brier", "focal")


@dataclass(frozen=True)
class Curve:
    """One training, epoch by epoch.

    val_accuracy  share of the validation rows, whose labels are right, that are predicted as their class
    accuracy      share of the training rows that are predicted as their label, be it right or wrong
    recovered     share of the training rows with a wrong label that are predicted as their true class
    """

    val_accuracy: list[float]
    accuracy: list[float]
    recovered: list[float]

    @property
    def final(self) -> float:
        return self.val_accuracy[-1]

    @property
    def best(self) -> float:
        return max(self.val_accuracy)


Curves = Mapping[str, Sequence[Curve]]  # by loss, one a seed


@dataclass(frozen=True)
class CompareLosses:
    """softmax with ce, gce, mae, brier and focal on data=classification with a share ``noise`` of wrong labels.

    Wrong is: replaced by one of the other classes, each as likely. Data, noise and shuffling follow from the seed; they
    are the same for every loss, and new for each of the ``seeds`` repetitions. There are enough features beside the
    samples that a linear model can learn wrong labels by heart.
    """

    name: ClassVar[str] = "compare_losses"
    noise: float = 0.2
    seeds: int = 3
    samples: int = 1000
    features: int = 100

    def __post_init__(self) -> None:
        require(0 < self.noise < 1, f"experiment.noise must be greater than 0 and less than 1, got {self.noise}.")
        for name, least in (("seeds", 1), ("samples", 40), ("features", 10)):
            value = getattr(self, name)
            require(value >= least, f"experiment.{name} must be at least {least}, got {value}.")

    def __call__(self, settings: Settings, objective: Objective, folder: Path, show: Show) -> None:
        source = Classification(self.samples, self.features, informative=10, class_sep=3.0)
        first = settings.seed or 0
        curves = {
            name: [self.curve(settings, objective, source, name, first + n) for n in range(self.seeds)]
            for name in COMPARED
        }
        title = f"softmax on {source!r}, {self.noise:.0%} of the training labels wrong"
        show(f"{title}, {settings.epochs} epochs, {named(range(first, first + self.seeds))}")
        for line in aligned(table(curves)):
            show(line)
        rows: list[dict[str, Any]] = []
        for name, repeated in curves.items():
            for seed, curve in enumerate(repeated, start=first):
                for epoch, values in enumerate(zip(*asdict(curve).values(), strict=True), start=1):
                    rows.append(
                        {"loss": name, "seed": seed, "epoch": epoch, **dict(zip(asdict(curve), values, strict=True))}
                    )
        write_csv(folder / f"{self.name}.csv", rows)
        if settings.plots:
            draw(folder / f"{self.name}.png", curves, f"softmax, {self.noise:.0%} of the training labels wrong")
        for line in conclusion(curves):
            show(line)

    def curve(self, settings: Settings, objective: Objective, source: Classification, loss: str, seed: int) -> Curve:
        """One training with one loss."""
        train, valid, _ = prepare(
            source(seed), valid_fraction=VALID_FRACTION, standardize=True, seed=seed, dtype=settings.dtype
        )
        assert valid is not None  # for VALID_FRACTION is not zero
        noisy, wrong = with_wrong_labels(train.y, len(train.classes), self.noise, seed)
        curve = Curve([], [], [])
        given = replace(train, y=noisy)
        for w in training(settings, objective, Softmax(), LOSSES[loss](), given, seed):
            predicted = scores(w, train.x).argmax(axis=1)
            curve.val_accuracy.append(share(scores(w, valid.x).argmax(axis=1) == valid.y))
            curve.accuracy.append(share(predicted == noisy))
            curve.recovered.append(share(predicted[wrong] == train.y[wrong]))
        return curve


def share(hits: Array) -> float:
    """The share of true entries."""
    return float(np.mean(hits))


def with_wrong_labels(labels: Array, classes: int, noise: float, seed: int) -> tuple[Array, Array]:
    """Labels (N,) of which round(noise N), but one at least, are another class; and the numbers of these rows."""
    rng = np.random.default_rng([seed, 1])
    wrong = np.sort(rng.permutation(len(labels))[: max(1, round(noise * len(labels)))])
    noisy = labels.copy()
    noisy[wrong] = (labels[wrong] + rng.integers(1, classes, size=len(wrong))) % classes
    return noisy, wrong


def table(curves: Curves) -> list[list[str]]:
    """A row a loss: means over the seeds, with their spread."""
    header = ["loss", "final clean accuracy", "best", "on the noisy labels", "wrong labels seen through"]
    return [
        header,
        *(
            [
                name,
                with_spread([curve.final for curve in repeated]),
                with_spread([curve.best for curve in repeated]),
                with_spread([curve.accuracy[-1] for curve in repeated]),
                with_spread([curve.recovered[-1] for curve in repeated]),
            ]
            for name, repeated in curves.items()
        ),
    ]


def conclusion(curves: Curves) -> list[str]:
    """Who is best at the end and whether that is more than chance, who loses on the way, who sees through the noise."""
    final = {name: mean(curve.final for curve in repeated) for name, repeated in curves.items()}
    lost = {name: mean(curve.best - curve.final for curve in repeated) for name, repeated in curves.items()}
    seen = {name: mean(curve.recovered[-1] for curve in repeated) for name, repeated in curves.items()}
    order = sorted(final, key=lambda name: -final[name])
    best, rival = order[0], "ce" if order[0] != "ce" else order[1]
    gains = [a.final - b.final for a, b in zip(curves[best], curves[rival], strict=True)]
    lines = [
        f"At the end {best} is best with a clean accuracy of {final[best]:.3f}, {mean(gains):.3f} above {rival}'s "
        f"{final[rival]:.3f}: {against_spread(gains)}."
    ]
    steady, fallen = min(lost, key=lambda name: lost[name]), max(lost, key=lambda name: lost[name])
    if lost[fallen] == 0:
        lines.append("Every loss ends at its best epoch.")
    else:
        lines.append(
            f"From its best epoch to the end {fallen} loses the most ({lost[fallen]:.3f}) and {steady} the least "
            f"({lost[steady]:.3f})."
        )
    sharp, blind = max(seen, key=lambda name: seen[name]), min(seen, key=lambda name: seen[name])
    lines.append(
        f"Of the training rows with a wrong label {sharp} predicts {seen[sharp]:.0%} as their true class, the largest "
        f"share; {blind} predicts {seen[blind]:.0%}, the smallest."
    )
    return lines


def draw(path: Path, curves: Curves, title: str) -> Path:
    """The mean over the seeds, epoch by epoch, and behind the last epoch the range between them."""
    from matplotlib.figure import Figure  # slow to import

    from trainer.runs.plots import COLORS, save, tidy

    figure = Figure(figsize=(11, 5.2))
    figure.subplots_adjust(left=0.07, right=0.98, bottom=0.1, top=0.8, wspace=0.2)
    seeds = len(next(iter(curves.values())))
    figure.suptitle(f"{title}, mean of {seeds} seeds and their range at the end" if seeds > 1 else title)
    panels = {
        "val_accuracy": "accuracy on clean validation data",
        "recovered": "wrong training labels predicted as their true class",
    }
    for axes, (field, label) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        for number, (name, repeated) in enumerate(curves.items()):
            values = np.array([getattr(curve, field) for curve in repeated])  # (seeds, epochs)
            middle, epochs = values.mean(axis=0), values.shape[1]
            style: dict[str, Any] = {"color": COLORS[number], "marker": "o" if epochs == 1 else None}
            axes.plot(np.arange(1, epochs + 1), middle, label=f"{name}  {middle[-1]:.3f}", **style)
            reach = np.array([[middle[-1] - values[:, -1].min()], [values[:, -1].max() - middle[-1]]])
            beside = epochs + (number + 1) * max(epochs, 10) / 50
            axes.errorbar(beside, middle[-1], abs(reach), color=COLORS[number], marker="o", markersize=4, capsize=2)
        axes.set(xlabel="epoch", ylabel=label)
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
        tidy(axes)
    return save(figure, path)
