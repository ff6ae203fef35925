"""``python -m trainer.predict model=... data=file data.path=...``: predictions and probabilities as a CSV file."""

from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from trainer.arrays import Array
from trainer.commands.composing import perform
from trainer.data.files import NAMED, read_features
from trainer.data.rows import Data, Source
from trainer.data.sources import SOURCES, File
from trainer.errors import DataError, require
from trainer.objective.threads import available_cores
from trainer.runs import memory
from trainer.runs.config import read_settings
from trainer.runs.model import Model
from trainer.runs.outputs import shorter, write_text
from trainer.runs.schema import build
from trainer.runs.text import csv_text

HELP = """Predicts with a trained model, and writes the predictions and probabilities to a CSV file.

Keys:
  model=...       the model.npz of a run
  data=file       where the features come from, with data.path=...
  output=null     the CSV to write; null is <name of the data>-predictions.csv beside the model
  threads=null    null takes every core

Examples:
  python -m trainer.predict model=outputs/.../model.npz data=file data.path=new.csv
  python -m trainer.predict model=outputs/.../model.npz data=file data.path=new.npz output=new.csv"""


@dataclass(frozen=True)
class PredictSettings:
    """The root of conf/predict.yaml."""

    model: str
    data: dict[str, Any]
    output: str | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        count = self.threads
        require(count is None or count >= 1, f"threads must be at least 1, or null for every core, got {count}.")


def predict(config: DictConfig) -> None:
    """Reads the model and the features, writes one line a row: the class, then a number for each class."""
    settings = read_settings(config, PredictSettings)
    source: Source = build("data", SOURCES, settings.data)
    path = Path(settings.model)
    model = Model.load(path)
    if isinstance(source, File):
        known = model.target if source.path.lower().endswith(NAMED) else None  # only where columns have names
        x, _ = read_features(source.path, model.features, source.target or known, source.in_memory)
        name = Path(source.path).stem
    else:
        x, name = _checked(source(0), model), settings.data["name"]
    rows, classes = x.shape[0], len(model.classes)
    what = f"Predicting {classes:,} classes of {rows:,} rows"
    memory.check(memory.of_predictions(rows, classes), what, "Predict fewer rows at once.")
    a = model.predict(x, settings.threads or available_cores())
    output = Path(settings.output) if settings.output else path.with_name(f"{name}-predictions.csv")
    write_text(output, table(model, a))
    print(f"{len(a)} predictions in {shorter(output.absolute())}")


def table(model: Model, a: Array) -> str:
    """The CSV text: a header, then for each row of a (N,K) its class and its K numbers."""
    kind = "probability" if model.activation.range in ("simplex", "sparse_simplex", "unit") else model.activation.name
    header = ["prediction", *(f"{kind}_{name}" for name in model.classes)]
    rows = ([model.classes[best], *values] for values, best in zip(a.tolist(), a.argmax(axis=1), strict=True))
    return csv_text(chain([header], rows))


def _checked(data: Data, model: Model) -> Any:
    if data.features != model.features:
        raise DataError(
            f"The model has {len(model.features)} features and the data have {len(data.features)}, or other names; "
            "take the data that it was trained on."
        )
    return data.x


def main(words: list[str]) -> None:
    """The command ``trainer predict``, and ``python -m trainer.predict``."""
    perform(predict, "predict", HELP, words)
