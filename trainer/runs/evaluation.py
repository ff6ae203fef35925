"""What a classifier is worth on rows that it has not learnt from, beside what always saying the most frequent class is.

The figures are of the largest prediction of each row against its label, or against the largest of its targets. They are
scikit-learn's to the last digits, but made of one confusion matrix: its functions take as long as a small run.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trainer.arrays import Array
from trainer.chain.activations import Activation
from trainer.data.rows import Data
from trainer.objective.metrics import METRICS, PROBABILITIES, CalibrationError
from trainer.runs.outputs import write_json

EVALUATION = "evaluation.json"
LARGEST = 1 << 26  # predictions (N,K): 512 MiB; of more rows a sample is evaluated, spread evenly
OF_ROWS = ("log_loss", "brier", "ece")  # the figures that are means over rows
CELLS = 100  # classes up to which the confusion matrix is written


class Evaluation(NamedTuple):
    """Predictions on rows, compared with their targets.

    rows, of    the number of rows evaluated, and of those that there were
    metrics     figures by name; one that makes no sense for the activation, or for these rows, is missing
    baseline    the same of always saying ``most``, with the classes' shares as probabilities
    classes     of each class its name, precision, recall, f1, and support: its rows, or their weight
    confusion   (K,K), rows by label and columns by prediction
    reliability of each bin of confidence that is not empty: mean confidence, accuracy, and share of the rows
    """

    rows: int
    of: int
    metrics: dict[str, float]
    baseline: dict[str, float]
    most: int | str
    classes: list[dict[str, Any]]
    confusion: Array
    reliability: list[tuple[float, float, float]]

    @property
    def verdict(self) -> str:
        """A sentence where the model is no better than the baseline, else nothing."""
        here, there = self.metrics, self.baseline
        if here["accuracy"] > there["accuracy"]:
            return ""
        said = (
            f"The model is no better than always saying {self.most}: its accuracy is {here['accuracy']:.4g}, that of "
            f"the baseline {there['accuracy']:.4g}."
        )
        if here.get("log_loss", np.inf) < there["log_loss"]:
            said += (
                f" Its probabilities tell more than the shares of the classes: log loss {here['log_loss']:.4g} "
                f"against {there['log_loss']:.4g}."
            )
        return said

    def line(self) -> str:
        pairs = (f"{name} {value:.4g} ({self.baseline[name]:.4g})" for name, value in self.metrics.items())
        return "  ".join(pairs)

    def content(self) -> dict[str, Any]:
        content = self._asdict() | {"baseline": {"says": self.most, **self.baseline}, "verdict": self.verdict}
        del content["most"]
        content["confusion"] = self.confusion.tolist() if len(self.classes) <= CELLS else None
        names = ("confidence", "accuracy", "share")
        content["reliability"] = [dict(zip(names, point, strict=True)) for point in self.reliability]
        return content


def shares_of(split: Mapping[str, Any], data: Data) -> Array:
    """The share of each class (K,) among the rows that a model was trained on, or in data where it does not say."""
    counts = np.asarray(split.get("class_rows", ()))
    if counts.shape != (len(data.classes),) or counts.dtype.kind != "i" or counts.min() < 0 or not counts.any():
        counts = np.bincount(data.labels, minlength=len(data.classes))
    shares: Array = counts / counts.sum()
    return shares


def evaluated(predict: Callable[[Any], Array], data: Data, activation: Activation, shares: Array) -> Evaluation:
    """predict(x) (N,K) against the rows of data; shares (K,) are those of the classes that the model was trained on."""
    every = -(-len(data) * len(data.classes) // LARGEST)
    part = data if every <= 1 else data.only(np.arange(0, len(data), every))
    return evaluation(predict(part.x), part, activation, shares)._replace(of=len(data))


def evaluation(a: Array, data: Data, activation: Activation, shares: Array) -> Evaluation:
    """The Evaluation of predictions a (N,K); rows without a target do not count, and weights do."""
    if data.y.ndim == 2 and not (there := data.y.any(axis=1)).all():
        a, data = a[there], data.only(np.flatnonzero(there))
    confusion = _confusion(a, data)
    each = zip(data.classes, *(part.tolist() for part in (*_by_class(confusion), confusion.sum(axis=1))), strict=True)
    return Evaluation(
        len(data),
        len(data),
        figures(a, data, activation.range),
        figures(np.broadcast_to(shares.astype(a.dtype), a.shape), data, "simplex"),
        data.classes[int(shares.argmax())],
        [dict(zip(("class", "precision", "recall", "f1", "support"), one, strict=True)) for one in each],
        confusion,
        _reliability(a, data) if activation.range in PROBABILITIES else [],
    )


def figures(a: Array, data: Data, range_of_a: str) -> dict[str, float]:
    """The figures by name of predictions a (N,K) of an activation with this range."""
    confusion = _confusion(a, data)
    _, recall, f1 = _by_class(confusion)
    labelled, predicted = confusion.any(axis=1), confusion.any(axis=0)
    found = {
        "accuracy": np.trace(confusion) / confusion.sum(),
        "balanced_accuracy": recall[labelled].mean(),
        "macro_f1": f1[labelled | predicted].mean(),
    }
    y = data.plain_targets(a.dtype)
    for name in OF_ROWS:
        metric = METRICS[name]
        if range_of_a in metric.accepts:
            with np.errstate(divide="ignore"):  # of a class that was thought impossible
                statistics = metric.statistics(a, y).astype(np.float64)
            found[name] = metric.finish(np.atleast_1d(np.average(statistics, axis=0, weights=data.weight)))
    if np.count_nonzero(labelled) > 1:  # each class against the rest, of those that some row has
        areas = [_area(a[:, k], data.labels == k, data.weight) for k in np.flatnonzero(labelled)]
        found["roc_auc"] = np.mean(areas)
    return {name: float(value) for name, value in found.items()}


def _confusion(a: Array, data: Data) -> Array:
    """The weight of the rows of each label (rows) with each prediction (columns), (K,K)."""
    classes = len(data.classes)
    place = data.labels.astype(np.int64) * classes + a.argmax(axis=1)
    return np.bincount(place, data.weight, classes * classes).reshape(classes, classes)


def _by_class(confusion: Array) -> tuple[Array, Array, Array]:
    """Precision, recall and F1 of each class, zero where there is nothing to divide by."""
    hits, labelled, predicted = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    tiny = np.finfo(np.float64).tiny
    recall, precision = hits / np.maximum(labelled, tiny), hits / np.maximum(predicted, tiny)
    return precision, recall, 2 * hits / np.maximum(labelled + predicted, tiny)


def _area(score: Array, hit: Array, weight: Array | None) -> float:
    """The area under the ROC curve: how often a hit has the higher score of two, equal ones counting half.

    scikit-learn's takes milliseconds for each class, however few the rows.
    """
    if score.strides == (0,):  # of one number, as the baseline's are
        return 0.5
    place = np.unique(score, return_inverse=True)[1]
    each = np.ones(len(hit)) if weight is None else weight
    right, wrong = np.bincount(place, each * hit), np.bincount(place, each * ~hit)
    return float(right @ (np.cumsum(wrong) - wrong / 2) / (right.sum() * wrong.sum()))


def _reliability(a: Array, data: Data) -> list[tuple[float, float, float]]:
    """Confidence, accuracy and share of the rows in each bin of the calibration error."""
    bins = CalibrationError().bins
    weight = np.ones(len(a)) if data.weight is None else data.weight
    confidence, hit = a.max(axis=1), a.argmax(axis=1) == data.labels
    place = np.clip(np.ceil(confidence * bins) - 1, 0, bins - 1).astype(int)
    mass, sums, hits = (np.bincount(place, weight * part, bins) for part in (1.0, confidence, hit))
    there = mass > 0
    return [
        (total / part, right / part, part / weight.sum())
        for part, total, right in zip(*(column[there].tolist() for column in (mass, sums, hits)), strict=True)
    ]


def keep(folder: Path, evaluations: Mapping[str, Evaluation]) -> Path:
    """Writes evaluation.json: what is said of each set of rows, by its name."""
    return write_json(folder / EVALUATION, {name: one.content() for name, one in evaluations.items()}, False)
