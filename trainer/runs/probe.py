"""What a probe leaves: a row a layer and strength, one picture, and for a layer its classifier in two formats."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from trainer.chain.activations import Softmax
from trainer.data.rows import Data, Standardizer
from trainer.objective.certificate import Certificate
from trainer.optimizers.cross_validation import Cell
from trainer.optimizers.probing import CERTIFIED, By, Tried
from trainer.runs.model import Model
from trainer.runs.outputs import MODEL, write_whole, writing

TABLE, PICTURE, LINEAR = "probe.csv", "probe.png", "linear.safetensors"
OWN = ("gap", "iterations", "certified", "chosen")  # columns of probe.csv after what was measured
LABELLED = 40  # layers whose names are written beside the picture


@dataclass(frozen=True)
class Probed:
    """What came of a layer.

    layer, features  its name, and how many features it has
    tried            its strengths, by rising C
    chosen           the one that the protocol chooses
    final            the fit on all rows at that C; None where no model is kept
    """

    layer: str
    features: int
    tried: Sequence[Tried]
    chosen: Tried
    final: Cell | None = None

    @classmethod
    def of(cls, layer: str, features: int, tried: Sequence[Tried], by: By) -> "Probed":
        """With what the metric chooses."""
        return cls(layer, features, tried, by.choice(tried))

    @property
    def end(self) -> str:
        """Which end of the grid was chosen, if it was one."""
        if len(self.tried) == 1 or self.chosen not in (self.tried[0], self.tried[-1]):
            return ""
        return "smallest" if self.chosen is self.tried[0] else "largest"

    @property
    def strength(self) -> float:
        """What the chosen C stands for on all rows, or on those trained on where no model is kept."""
        return self.chosen.strength if self.final is None else float(self.final.penalty.strength)  # type: ignore[attr-defined]

    @property
    def certified(self) -> bool:
        """Whether the chosen fits, and the last one, are proved to be at their minimum."""
        return all(proof.proves(CERTIFIED) for proof in self._proofs)

    @property
    def proof(self) -> str:
        """How far the chosen fits, and the last one, are from their minimum at most, in words."""
        gaps = [self.chosen.gap, *([] if self.final is None else [self.final.proof.gap])]
        known = [gap for gap in gaps if gap is not None]
        if len(known) < len(gaps):
            return next(proof.why for proof in self._proofs if proof.gap is None)
        return f"{'certified' if self.certified else 'only certified'} to {max(known):.0e} of E"

    @property
    def _proofs(self) -> list[Certificate]:
        return [cell.proof for cell in (*self.chosen.cells, *([] if self.final is None else [self.final]))]


def columns(metrics: Sequence[str], folds: int) -> list[str]:
    """The columns of probe.csv: of several folds a mean and a deviation."""
    measured = [column for name in metrics for column in ([name, f"{name}_std"] if folds > 1 else [name])]
    return ["layer", "C", "strength", *measured, *OWN]


def rows(found: Probed, metrics: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of probe.csv for a layer."""
    return [
        {
            "layer": found.layer,
            "C": one.c,
            "strength": one.strength,
            **{name: one.mean(name) for name in metrics},
            **{f"{name}_std": one.deviation(name) for name in metrics},
            "gap": "" if one.gap is None else one.gap,
            "iterations": one.iterations,
            "certified": one.certified,
            "chosen": one is found.chosen,
        }
        for one in found.tried
    ]


def keep_model(folder: Path, w: Any, data: Data) -> list[Path]:
    """Writes the classifier w (D+1,K) of raw features: model.npz, and linear.safetensors where there is the library.

    The latter is the state of a torch.nn.Linear(D, K): weight (K,D) and bias (K,), in single precision as torch's are.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    counts = np.bincount(data.labels, minlength=len(data.classes)).tolist()
    split = {"train_rows": len(data), "valid_rows": 0, "class_rows": counts}
    model = Model(w, Standardizer.none(len(data.features)), Softmax(), data.classes, data.features, None, split)
    files = [model.save(folder / MODEL)]
    if (save := safetensors()) is not None:
        state = {"weight": np.ascontiguousarray(w[:-1].T, np.float32), "bias": w[-1].astype(np.float32)}
        content = save(state, {"format": "pt", "classes": json.dumps(list(data.classes))})
        files.append(write_whole(folder / LINEAR, lambda file: file.write(content)))
    return files


def safetensors() -> Any:
    """The function of the library that makes the bytes of a file, or None where it is not installed."""
    try:
        return import_module("safetensors.numpy").save
    except ImportError:
        return None


def draw(path: Path, found: Sequence[Probed], by: By, title: str) -> Path:
    """The metric of each layer and strength as a heat map, and beside it that of each layer at the chosen one."""
    from matplotlib.figure import Figure  # slow to import

    from trainer.runs.plots import COLORS, save, shortened, tidy

    cs = sorted({one.c for layer in found for one in layer.tried})
    names = [shortened(layer.layer) for layer in found]
    tall = float(np.clip(1.9 + 0.3 * len(found), 3.2, 14))
    figure = Figure(figsize=(11 if len(cs) > 1 else 6.5, tall), layout="constrained")
    figure.suptitle(title, parse_math=False)
    panels = figure.subplots(1, 2, sharey=True, width_ratios=[5, 2]) if len(cs) > 1 else [figure.subplots()]
    places = range(len(found))
    if len(cs) > 1:
        axes = panels[0]
        image = axes.imshow(grid(found, cs, by.metric), aspect="auto", cmap="viridis_r" if by.lower else "viridis")
        axes.set_facecolor("0.9")  # what a search has not tried
        chosen = [cs.index(layer.chosen.c) for layer in found]
        axes.scatter(chosen, places, s=36, facecolors="white", edgecolors="black", label="chosen", zorder=2)
        every = max(1, math.ceil(len(cs) / 12))
        axes.set_xticks(range(0, len(cs), every), [f"{c:.2g}" for c in cs[::every]], rotation=45, ha="right")
        axes.set(xlabel="C: strong penalty on the left, weak on the right")
        figure.colorbar(image, ax=axes, label=f"{by.metric} of the rows held out", location="left", shrink=0.9)
    axes = panels[-1]
    values = [layer.chosen.mean(by.metric) for layer in found]
    apart = [layer.chosen.deviation(by.metric) for layer in found]
    axes.plot(values, places, color=COLORS[0], linewidth=1)
    bars = apart if np.isfinite(apart).all() else None
    axes.errorbar(values, places, xerr=bars, fmt="o", color=COLORS[0], markersize=5, capsize=3)
    top = (min if by.lower else max)(values)
    axes.axvline(top, color="0.6", linewidth=0.8, linestyle=":")
    deviation = "" if bars is None else ", ± its deviation"
    axes.set(xlabel=f"{by.metric} at the chosen C{deviation}" if len(cs) > 1 else f"{by.metric}{deviation}")
    tidy(axes)
    shown = range(0, len(found), max(1, math.ceil(len(found) / LABELLED)))
    panels[0].set_yticks(shown, [names[place] for place in shown], parse_math=False)
    panels[0].set_ylim(len(found) - 0.5, -0.5)
    return save(figure, path)


def grid(found: Sequence[Probed], cs: Sequence[float], metric: str) -> Any:
    """The metric (L,S) of each layer and C; nan where it was not tried, or is not finite."""
    table = np.full((len(found), len(cs)), np.nan)
    for row, layer in enumerate(found):
        for one in layer.tried:
            value = one.mean(metric)
            table[row, cs.index(one.c)] = value if math.isfinite(value) else np.nan
    return table
