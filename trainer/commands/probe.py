"""``python -m trainer.probe features=... labels=...``: linear probes of a network's layers, as they are published."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from tqdm import tqdm

from trainer.arrays import Array
from trainer.chain.activations import Softmax
from trainer.chain.losses import CrossEntropy
from trainer.chain.strategies import auto
from trainer.commands.composing import perform
from trainer.data.features import Features, elsewhere, living_on
from trainer.data.layers import Layer, find_layers, read_labels
from trainer.data.rows import Data, Numbered
from trainer.errors import ConfigError, choose, counted, require
from trainer.objective.cluster import ENGINES
from trainer.objective.metrics import Metric, choose_metrics
from trainer.objective.objective import Objective
from trainer.objective.penalties import L2
from trainer.objective.problem import Problem
from trainer.objective.threads import available_cores
from trainer.optimizers.cross_validation import Fold
from trainer.optimizers.probing import CERTIFIED, PROTOCOLS, By, ProbeProtocol, probe, refit, solver, tried
from trainer.runs import memory
from trainer.runs.config import check_threads, read_settings
from trainer.runs.outputs import Table, shorter, write_text, writing
from trainer.runs.overrides import tamed
from trainer.runs.probe import LINEAR, PICTURE, TABLE, Probed, columns, draw, keep_model, rows, safetensors
from trainer.runs.schema import build
from trainer.runs.text import printable
from trainer.sweeps.report.probe import best_of, render
from trainer.sweeps.report.summary import HIGHER, LOWER

PAGE, MODELS = "probe.html", "models"

HELP = """Fits linear classifiers to the features of one or many layers, by a published protocol, and keeps the best.

Keys:
  features=...      a .npy (N,D), a stack of layers (L,N,D), .parquet, .arrow or .feather, or a folder of them for one
                    layer; a pattern in quotes, as 'layers/*.npy' or 'layers/*/', or a list '[a.npy,b.npy]'
  labels=...        N labels, integers or texts: a .npy, a .txt with a label a line, or a .csv of one column
  protocol=dinov2   dinov2   45 strengths, chosen on the 10 % of the rows that are held out
                    clip     96 steps of strength, searched from coarse to fine, chosen in the same way
                    mteb     8 rows a class, 10 draws, one strength: mean and deviation
                    cv       10 strengths on 5 folds
                    and their keys, as protocol.folds=10; docs/probe.md has all of them
  metrics=[accuracy]  of accuracy, top_k, log_loss, brier, ece; the first one chooses the strength, and of equal ones
                    the strongest penalty is chosen
  models=all        of which layers a classifier is fitted to all rows and kept: all, best, or none
  dtype=null        float32 or float64; null takes float32 for features that have no more digits
  seed=3            what is held out follows from it
  threads=null      null takes every core
  engine=local      dask reads the features by the workers of a cluster: engine.address, engine.workers
  output=...        the folder to write to; outputs/probe/<date>/<time>/ unless given
  overwrite=false   whether a probe in that folder may be written over
  plots=true        draw probe.png

It leaves probe.csv, probe.png, probe.html, and for each layer models/<layer>/model.npz, and linear.safetensors for
torch.nn.Linear if safetensors is installed (pip install 'softmax-trainer[probe]').

Examples:
  python -m trainer.probe 'features=layers/*.npy' labels=labels.npy
  python -m trainer.probe features=stack.npy labels=labels.txt protocol=cv protocol.folds=10 output=probes/cv"""


@dataclass(frozen=True)
class ProbeSettings:
    """The root of conf/probe.yaml."""

    features: str | list[str]
    labels: str
    protocol: dict[str, Any]
    output: str
    metrics: list[str] = field(default_factory=lambda: ["accuracy"])
    models: str = "all"
    dtype: str | None = None
    seed: int = 3
    threads: int | None = None
    engine: dict[str, Any] = field(default_factory=lambda: {"name": "local"})
    overwrite: bool = False
    plots: bool = True

    def __post_init__(self) -> None:
        check_threads(self.threads)
        choose("models", ("all", "best", "none"), self.models)
        if self.dtype is not None:
            choose("dtype", ("float64", "float32"), self.dtype)
        require(self.seed >= 0, f"seed must be at least 0, got {self.seed}.")
        ok = bool(self.features) and all(isinstance(path, str) and path for path in self.paths)
        require(ok, f"features must name a file, or several as in 'features=[a.npy,b.npy]', got {self.features}.")
        first = next(iter(self.metrics), None)
        ok = first in (*HIGHER, *LOWER)
        ways = ", ".join((*HIGHER, *LOWER[1:]))
        require(ok, f"metrics={self.metrics} must begin with what chooses the strength, one of {ways}.")

    @property
    def paths(self) -> list[str]:
        return [self.features] if isinstance(self.features, str) else self.features


@dataclass(frozen=True)
class _Task:
    """What all layers have in common."""

    settings: ProbeSettings
    protocol: ProbeProtocol
    objective: Objective
    labels: Array
    classes: tuple[int | str, ...]
    folds: list[Fold]
    metrics: dict[str, Metric]
    folder: Path

    @property
    def by(self) -> By:
        """What chooses."""
        return By(self.settings.metrics[0], self.settings.metrics[0] in LOWER)

    @property
    def measured(self) -> list[str]:
        """What is measured of each fit; the mean loss in any case."""
        return list(dict.fromkeys([*self.metrics, "loss"]))

    def read(self, layer: Layer) -> Data:
        """The rows of a layer, in memory or left in their files; FileError where a fit takes more than there is."""
        dtype, (count, features) = layer.dtype(self.settings.dtype), layer.file.shape
        empty = np.broadcast_to(np.zeros((), dtype), (count, features))
        data = Data(empty, self.labels, self.classes, Numbered(features))
        beside = 2 * empty.size * dtype.itemsize  # the rows, and again as those trained on and those held out
        if not elsewhere() and memory.has(self.taken(data) + beside):
            return replace(data, x=layer.read(dtype))
        data = replace(data, x=Features(layer.file, dtype=dtype))
        what = f"Probing {layer.name}, {count:,} rows of {features:,} features in {len(self.classes):,} classes,"
        memory.check(self.taken(data), what, "Take fewer rows, or free some memory.")
        return replace(data, x=layer.left(dtype))

    def taken(self, data: Data) -> int:
        """Bytes of a fit beside its rows."""
        return memory.of_fit(Problem(self.objective, data), solver(data), data.x.dtype, None)

    def probed(self, layer: Layer, bar: Any) -> Probed:
        """What the protocol finds of a layer, and its model where each is to be kept."""
        data = self.read(layer)
        fits = []
        for fit in probe(self.protocol, self.objective, data, self.folds, self.metrics, self.by):
            fits.append(fit)
            bar.update()
        found = Probed.of(layer.name, data.x.shape[1], tried(fits), self.by)
        return self.fitted(found, data) if self.settings.models == "all" else found

    def fitted(self, found: Probed, data: Data) -> Probed:
        """With the fit on all rows, whose classifier is written."""
        final = refit(self.objective, data, found.chosen.c)
        keep_model(self.place(found), final.w, data)
        return replace(found, final=final._replace(w=final.w[:0].copy()))

    def place(self, found: Probed) -> Path:
        """The folder of a layer's model."""
        return self.folder / MODELS / tamed(found.layer)


def run(config: DictConfig) -> None:
    """Probes each layer in turn, and writes what was found of it before the next is read."""
    settings = read_settings(config, ProbeSettings)
    protocol: ProbeProtocol = build("protocol", PROTOCOLS, settings.protocol)
    engine = build("engine", ENGINES, settings.engine)
    metrics = choose_metrics(settings.metrics, Softmax())
    folder = Path(settings.output)
    if (folder / TABLE).exists() and not settings.overwrite:
        raise ConfigError(f"{folder / TABLE} exists; name another folder by output=..., or set overwrite=true.")
    layers = find_layers(settings.paths)
    labels, classes = read_labels(settings.labels, layers[0].file.shape[0])
    objective = Objective(Softmax(), CrossEntropy(), auto, L2(1.0), settings.threads or available_cores())
    task = _Task(
        settings, protocol, objective, labels, classes, protocol.splits(labels, settings.seed), metrics, folder
    )
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with living_on(engine.connect()):
        found = _table(task, layers)
        best = best_of(found, task.by)
        if settings.models == "best":
            place = found.index(best)
            found[place] = best = task.fitted(best, task.read(layers[place]))
    notes = _notes(task, found)
    if settings.plots:
        draw(folder / PICTURE, found, task.by, f"{counted(len(found), 'layer')}, protocol {protocol.name}")
    write_text(folder / PAGE, _page(task, found, notes), durable=False)
    print(f"best: {printable(best.layer)}, {_told(task, best)[0]}; C={best.chosen.c:.4g}, strength={best.strength:.4g}")
    for note in notes:
        print(f"Note: {printable(note)}")
    means = "2 / (C N)" if len(classes) == 2 else "1 / (C N)"
    print(
        f"C is scikit-learn's, beside the sum of the losses; strength is penalty.strength, beside their mean: {means}."
    )
    written = {TABLE: True, PICTURE: settings.plots, PAGE: True, f"{MODELS}/": settings.models != "none"}
    print(f"in {shorter(folder.absolute())}: {', '.join(name for name, there in written.items() if there)}")


def _table(task: _Task, layers: Sequence[Layer]) -> list[Probed]:
    """What was found of each layer, in probe.csv as soon as it is, and a line on the terminal."""
    found: list[Probed] = []
    fits = len(layers) * len(task.folds) * task.protocol.most
    width = max(len(printable(layer.name)) for layer in layers)
    with (
        Table(task.folder / TABLE, columns(task.measured, len(task.folds))) as table,
        tqdm(total=fits, unit="fit", leave=False, disable=None) as bar,
    ):
        for number, layer in enumerate(layers, start=1):
            bar.set_postfix_str(printable(layer.name))
            one = task.probed(layer, bar)
            for row in rows(one, task.measured):
                table.add(row)
            found.append(one)
            bar.update(number * fits // len(layers) - bar.n)  # a search may have needed fewer
            told, rest = _told(task, one)
            tqdm.write(f"{printable(layer.name):<{width}}  {told}  {rest}")
    return found


def _told(task: _Task, one: Probed) -> tuple[str, str]:
    """What was measured of the chosen C, and the C with its proof."""
    several = len(task.folds) > 1
    parts = [
        f"{name} {one.chosen.mean(name):.4g}" + (f" ± {one.chosen.deviation(name):.2g}" if several else "")
        for name in task.metrics
    ]
    return "  ".join(parts), f"C={one.chosen.c:.4g}  strength={one.strength:.4g}  {one.proof}"


def _notes(task: _Task, found: Sequence[Probed]) -> list[str]:
    """What a reader is to know of the numbers, in sentences."""
    notes = []
    for end in ("smallest", "largest"):
        if at := [layer for layer in found if layer.end == end]:
            c = f"{at[0].chosen.c:.4g}"
            notes.append(f"the chosen C={c} is the {end} of all tried in {_some(at)}; the best may lie beyond.")
    if doubtful := [layer for layer in found if not layer.certified]:
        notes.append(
            f"what was chosen is not certified in {_some(doubtful)}; at the minimum it may be worth otherwise."
        )
    fits = [one for layer in found for one in layer.tried]
    if late := sum(not one.certified for one in fits):
        notes.append(f"{late} of {len(fits)} rows of {TABLE} are not certified.")
    measured = np.isin(np.arange(len(task.classes)), task.labels[np.concatenate([fold.test for fold in task.folds])])
    if not measured.all():
        names = [str(task.classes[k]) for k in np.flatnonzero(~measured)]
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        notes.append(f"no row is held out of {', '.join(names[:5])}{more}, as there are too few of these classes.")
    if task.settings.models != "none" and safetensors() is None:
        notes.append(f"{LINEAR} is not written, as it needs pip install 'softmax-trainer[probe]'; model.npz is.")
    return notes


def _some(layers: Sequence[Probed]) -> str:
    names = [layer.layer for layer in layers]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _page(task: _Task, found: Sequence[Probed], notes: Sequence[str]) -> str:
    fits = [cell.proof for layer in found for one in layer.tried for cell in one.cells]
    certified = sum(proof.proves(CERTIFIED) for proof in fits)
    chips = [f"{len(task.labels):,} rows", f"{len(task.classes):,} classes", counted(len(found), "layer")]
    chips += [f"{certified:,} of {len(fits):,} fits certified", f"chosen by {task.by.metric}"]
    folders = {one.layer: task.place(one).relative_to(task.folder).as_posix() for one in found if one.final is not None}
    # A path as it was given: the quotes of the grammar come from trainer.commands.words.
    words = [re.sub(r"='([^'\\]*)'$", r"=\1", word) for word in HydraConfig.get().overrides.task]
    command = f"python -m trainer.probe {shlex.join(words)}"
    names, classes = task.measured, len(task.classes)
    return render(found, task.protocol, task.by, names, classes, chips, notes, command, folders)


def main(words: list[str]) -> None:
    """The command ``trainer probe``, and ``python -m trainer.probe``."""
    perform(run, "probe", HELP, words)
