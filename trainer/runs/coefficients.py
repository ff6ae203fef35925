"""What a model has learnt: its weights by feature and class, for the features as given and per standard deviation."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trainer.arrays import Array
from trainer.data.rows import Data, Standardizer
from trainer.runs.model import Model
from trainer.runs.outputs import write_text
from trainer.runs.text import csv_text

COEFFICIENTS = "coefficients.csv"
BIAS = "(bias)"
MOST = 1 << 20  # weights that are written; all of them are in model.npz


class Coefficients(NamedTuple):
    """Weights (D+1,K), the bias last, of a model that was trained on rows with these standard deviations.

    weight         for features in the units in which they were given
    per_deviation  what one standard deviation of a feature adds to the score; the bias is that at their means
    """

    features: Sequence[str]
    classes: Sequence[int | str]
    weight: Array
    per_deviation: Array

    @classmethod
    def of(cls, model: Model, w: Array, train: Data) -> "Coefficients":
        """Of parameters w (D+1,K), for features as the model standardises them; train has its rows, as it took them."""
        mean, scale = model.standardizer
        weight = w[:-1].astype(np.float64) / scale[:, None]
        weight = np.vstack([weight, w[-1] - mean @ weight])
        if mean.any() or (scale != 1).any():
            return cls(model.features, model.classes, weight, w)
        mean, scale = Standardizer.fit(train.x)
        return cls(
            model.features, model.classes, weight, np.vstack([w[:-1] * scale[:, None], w[-1] + mean @ weight[:-1]])
        )

    def rows(self) -> list[list[object]]:
        """Class, feature, weight and weight per deviation, a row each."""
        names = [*self.features, BIAS]
        return [
            [name, feature, *pair]
            for k, name in enumerate(self.classes)
            for feature, *pair in zip(names, self.weight[:, k].tolist(), self.per_deviation[:, k].tolist(), strict=True)
        ]

    def strongest(self, k: int, most: int) -> list[tuple[str, float]]:
        """The features that count most for class k, per deviation, the strongest first, without those that do not."""
        column = self.per_deviation[:-1, k]
        order = np.argsort(-np.abs(column), kind="stable")[:most].tolist()
        return [(self.features[d], float(column[d])) for d in order if column[d] != 0]


def write(folder: Path, parts: Sequence[tuple[float, Coefficients]], along_path: bool) -> list[Path]:
    """Writes coefficients.csv: of a path all strengths, else the one, where it is not too long to be read."""
    if not along_path and parts[0][1].weight.size > MOST:
        return []
    first, header = (1, ["strength"]) if along_path else (0, [])
    rows = ([strength, *row][1 - first :] for strength, one in parts for row in one.rows())
    names = [*header, "class", "feature", "weight", "per_deviation"]
    return [write_text(folder / COEFFICIENTS, csv_text(chain([names], rows)), durable=along_path)]
