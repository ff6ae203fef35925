"""``python -m trainer.predict model=... data=file data.path=...``: predictions and probabilities as a file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from trainer.commands.composing import perform
from trainer.data.files import Rows, read_features
from trainer.data.places import title_of
from trainer.data.rows import Source
from trainer.data.sources import SOURCES, File
from trainer.errors import DataError
from trainer.objective.threads import available_cores
from trainer.runs import memory
from trainer.runs.config import check_threads, read_settings
from trainer.runs.model import Model, model_file
from trainer.runs.outputs import shorter
from trainer.runs.predictions import check_free, check_suffix, write
from trainer.runs.schema import build

HELP = """Predicts with a trained model, and writes the predictions and probabilities to a file.

Keys:
  model=...         the folder of a run, or a file such as its model.npz
  data=file         where the features come from, with data.path=..., a file, a folder, a pattern or a list;
                    data.id=... names a column to be written beside
  output=null       the .csv, .parquet, .npz or .npy to write; null is <name of data>-predictions.csv beside the model
  overwrite=false   true writes over a file that is there, but never over the data or a model
  threads=null      null takes every core

Examples:
  python -m trainer.predict model=outputs/... data=file data.path=new.csv
  python -m trainer.predict model=outputs/.../model.npz data=file data.path=new.npz output=new.parquet"""


@dataclass(frozen=True)
class PredictSettings:
    """The root of conf/predict.yaml."""

    model: str
    data: dict[str, Any]
    output: str | None = None
    overwrite: bool = False
    threads: int | None = None

    def __post_init__(self) -> None:
        check_threads(self.threads)
        if self.output is not None:
            check_suffix(self.output)


def predict(config: DictConfig) -> None:
    """Reads the model and the features, writes for each row the class and a number for each class."""
    settings = read_settings(config, PredictSettings)
    source, name, path, model = asked_of(settings.data, settings.model)
    default = path.with_name(f"{name}-predictions.csv")
    output = default if settings.output is None else Path(settings.output)
    inputs = [path, *map(Path, source.paths if isinstance(source, File) else ())]
    check_free(output, inputs, settings.overwrite)
    rows = _rows(source, model)
    count, classes = rows.x.shape[0], len(model.classes)
    what = f"Predicting {classes:,} classes of {count:,} rows"
    memory.check(memory.of_predictions(count, classes), what, "Predict fewer rows at once.")
    a = model.predict(rows.x, settings.threads or available_cores())
    check_free(output, inputs, settings.overwrite)  # again: somebody else may have written it meanwhile
    write(output, model, a, rows.ids)
    print(f"{len(a)} predictions in {shorter(output.absolute())}")


def asked_of(data: dict[str, Any], model: str) -> tuple[Source, str, Path, Model]:
    """Where the rows come from, under which name, and the model with its file."""
    source: Source = build("data", SOURCES, data)
    path = model_file(Path(model))
    return source, title_of(source.path) if isinstance(source, File) else data["name"], path, Model.load(path)


def _rows(source: Source, model: Model) -> Rows:
    """The rows to predict, and what they are called."""
    if isinstance(source, File):
        return read_features(source.path, model.features, *as_asked(source, model))
    data = source(0)
    if data.features != model.features:
        raise DataError(
            f"The model has {len(model.features)} features and the data have {len(data.features)}, or other names; "
            "take the data that it was trained on."
        )
    return Rows(data.x, None)


def as_asked(source: File, model: Model) -> tuple[Any, ...]:
    """The target of a file for a model, and how it is read."""
    known = model.target if source.named else None
    return source.target or known, source.in_memory, source.header, source.columns, model.columns


def main(words: list[str]) -> None:
    """The command ``trainer predict``, and ``python -m trainer.predict``."""
    perform(predict, "predict", HELP, words)
