"""``python -m trainer.evaluate model=... data=file data.path=...``: what a trained model is worth on labelled rows."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from trainer.commands.composing import perform
from trainer.commands.predict import as_asked, asked_of
from trainer.data.files import read_known
from trainer.data.rows import Data, Source
from trainer.data.sources import File
from trainer.errors import ConfigError, DataError, counted
from trainer.objective.threads import available_cores
from trainer.runs.config import check_threads, read_settings
from trainer.runs.evaluation import EVALUATION, evaluated, keep, shares_of
from trainer.runs.model import Model
from trainer.runs.outputs import RECORD, shorter, writing
from trainer.runs.parts import title_of

HELP = """Compares a trained model with the labels of a file: evaluation.json, confusion.png and reliability.png.

Keys:
  model=...       a run's folder, or its model.npz
  data=file       where the rows come from, with data.path=..., a file, a folder, a pattern or a list, and
                  data.target=... where the model does not know it
  output=null     the folder to write to; null is <name of the data>-evaluation beside the model
  overwrite=false whether an evaluation in that folder may be written over
  plots=true      draw the two pictures
  threads=null    null takes every core

Every figure stands beside that of always saying the most frequent class of the training rows.

Examples:
  python -m trainer.evaluate model=outputs/... data=file data.path=new.csv
  python -m trainer.evaluate model=outputs/.../model.npz data=file data.path=new.npz output=results"""


@dataclass(frozen=True)
class EvaluateSettings:
    """The root of conf/evaluate.yaml."""

    model: str
    data: dict[str, Any]
    output: str | None = None
    overwrite: bool = False
    threads: int | None = None
    plots: bool = True

    def __post_init__(self) -> None:
        check_threads(self.threads)


def evaluate(config: DictConfig) -> None:
    """Reads the model and the rows, writes the evaluation, and prints its figures."""
    settings = read_settings(config, EvaluateSettings)
    source, name, path, model = asked_of(settings.data, settings.model)
    folder = path.parent / f"{name}-evaluation" if settings.output is None else Path(settings.output)
    _check_free(folder, settings.overwrite)
    data = _rows(source, model)
    if data.y.ndim == 2 and not data.y.any():
        raise DataError(f"{name} has no row with a target, so there is nothing to compare with. Give it labels.")
    threads = settings.threads or available_cores()
    found = evaluated(lambda x: model.predict(x, threads), data, model.activation, shares_of(model.split, data))
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    files = [keep(folder, {name: found})]
    if settings.plots:
        from trainer.runs import plots  # matplotlib is slow to import

        files += plots.evaluations(folder, title_of(model.activation), {name: found})
    print(f"{counted(found.rows, 'row')}, beside always {found.most}: {found.line()}")
    if found.verdict:
        print(found.verdict)
    print(f"in {shorter(folder.absolute())}: {', '.join(file.name for file in files)}")


def _check_free(folder: Path, overwrite: bool) -> None:
    """ConfigError where there is an evaluation already, unless it may be written over; that of a run never may."""
    if (folder / RECORD).exists():
        raise ConfigError(f"output={folder} is the folder of a run, which has its own evaluation; name another one.")
    if (folder / EVALUATION).exists() and not overwrite:
        raise ConfigError(f"{folder / EVALUATION} exists; name another folder by output=..., or set overwrite=true.")


def _rows(source: Source, model: Model) -> Data:
    """The rows with their targets, as the model knows their features and classes."""
    if isinstance(source, File):
        return read_known(source.path, model.features, model.classes, *as_asked(source, model))
    data = source(0)
    if data.features != model.features or data.classes != model.classes:
        raise DataError(
            f"The model has {len(model.features)} features and {len(model.classes)} classes, and the data have other "
            "ones; take the data that it was trained on."
        )
    return data


def main(words: list[str]) -> None:
    """The command ``trainer evaluate``, and ``python -m trainer.evaluate``."""
    perform(evaluate, "evaluate", HELP, words)
