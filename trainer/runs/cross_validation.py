"""Cross-validation before a training: it chooses the strength of the penalty, which then is fitted to all of the rows.

The folds stand in the place of validation rows, and the test rows are out of all of it. Features are standardised once,
by all rows that are no test rows: a fold's held-out rows have a share in their means and deviations, and in no target.

A run that was interrupted chooses anew.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from trainer.data.rows import Data, for_training, stratified
from trainer.errors import ConfigError, counted, listed, require
from trainer.objective.metrics import Metric
from trainer.objective.objective import Objective
from trainer.objective.penalties import Penalty, expand, strengths
from trainer.optimizers import Optimizer
from trainer.optimizers.choosing import RULES, Scores, automatic, check_folds, reached
from trainer.optimizers.cross_validation import Fold, cross_validate
from trainer.runs.config import Settings
from trainer.runs.outputs import CELLS, Table

AUTO = "auto"  # in the place of a strength: a grid that the data decide
OWN = ("gap", "iterations", "converged")  # columns of cv.csv after what was measured


class Choice(NamedTuple):
    """What is asked for: so many folds, a rule, and the penalties to choose from, the strongest first; none is AUTO."""

    folds: int
    rule: str
    penalties: list[Penalty]


Folded = tuple[Data, list[Fold]]  # the rows that are no test rows, with their own weights, and the folds of them


def settled(settings: Settings) -> Settings:
    """The settings that a run with folds goes by: no validation rows beside them, and no checkpoint."""
    return replace(settings, valid_fraction=0.0, checkpoint=False) if settings.folds else settings


def without_auto(node: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """The node of a penalty without the word auto, and whether it was there."""
    asked = node.get("strength") == AUTO
    return {key: value for key, value in node.items() if not (asked and key == "strength")}, asked


def choice_of(settings: Settings, penalty: Penalty, auto: bool) -> Choice | None:
    """What the settings ask to choose, or None; ConfigError where folds and strengths do not go together."""
    way = "penalty.strength=auto or penalty.strength=[1,0.1,0.01]"
    if not settings.folds:
        require(not auto, "penalty.strength=auto is a grid to choose from. Add folds=5, or give a strength.")
        require(settings.rule == "best", f"rule={settings.rule} chooses a strength. Add folds=5 with {way}.")
        return None
    many = f"folds={settings.folds}"
    if not hasattr(penalty, "strength"):
        raise ConfigError(
            f"{many} chooses a strength, and penalty={penalty.name} has none. Take penalty=l2 with {way}."
        )
    if not auto and len(strengths(penalty) or []) < 2:
        raise ConfigError(
            f"{many} chooses among strengths, and penalty.strength={penalty.strength} is one. Give {way}."
        )
    if settings.experiment is not None:
        raise ConfigError(
            f"{many} chooses by many trainings, and experiment={settings.experiment['name']} has none. Leave it out."
        )
    if settings.callbacks:
        raise ConfigError(
            f"{many} chooses by many trainings, and callbacks={listed(settings.callbacks)} watches a single one. Leave "
            "it out."
        )
    return Choice(settings.folds, settings.rule, [] if auto else expand(penalty))


def folded(data: Data, choice: Choice, settings: Settings, seed: int) -> Folded:
    """The folds of rows with their own weights."""
    place = stratified(data.labels, choice.folds, seed)
    bare, folds = replace(data, x=np.empty((len(data), 0))), []
    for number in range(choice.folds):
        train, test = np.flatnonzero(place != number), np.flatnonzero(place == number)
        own = settings.class_weight
        folds.append(Fold(train, test, None if own is None else for_training(bare.rows(train), 0.0, own).weight))
    check_folds(data, folds, classes=1)
    return replace(data, smoothing=settings.label_smoothing), folds


@dataclass(frozen=True)
class Chosen:
    """What came of a cross-validation: the choice, its penalties, the scores and a row of cv.csv for each cell."""

    choice: Choice
    penalties: Sequence[Penalty]
    scores: Scores
    rows: Sequence[Mapping[str, Any]]
    seconds: float

    @cached_property
    def places(self) -> dict[str, int]:
        """The place of the penalty that each rule chooses."""
        return {rule: self.scores.chosen(rule) for rule in RULES}

    @property
    def place(self) -> int:
        return self.places[self.choice.rule]

    @cached_property
    def strengths(self) -> list[float]:
        return [float(penalty.strength) for penalty in self.penalties]  # type: ignore[attr-defined]

    @property
    def missed(self) -> list[float]:
        """Strengths with a cell that is not at its minimum."""
        ends = np.all(self.scores.reached, axis=0).tolist()
        return [strength for strength, there in zip(self.strengths, ends, strict=True) if not there]

    @property
    def metrics(self) -> dict[str, float]:
        """Means over the folds at the chosen strength, under the names of validation metrics."""
        own = [row for row in self.rows if row["strength"] == self.strengths[self.place]]
        names = [name for name in own[0] if name not in ("strength", "fold", *OWN)]
        return {f"val_{name}": float(np.mean([row[name] for row in own])) for name in names}

    @property
    def record(self) -> dict[str, Any]:
        mean, error = self.scores.mean.tolist(), self.scores.error.tolist()
        return {
            "folds": self.choice.folds,
            "rule": self.choice.rule,
            "strength": self.strengths[self.place],
            **{
                rule: {"strength": self.strengths[place], "loss": mean[place], "standard_error": error[place]}
                for rule, place in self.places.items()
            },
            "strengths": self.strengths,
            "not_converged": self.missed,
        }

    @property
    def line(self) -> str:
        mean, error = self.scores.mean, self.scores.error
        found = [
            f"{rule} {self.strengths[place]:.4g} (loss {mean[place]:.4g} ± {error[place]:.2g})"
            for rule, place in self.places.items()
        ]
        cells = f"{counted(len(self.penalties), 'strength')} on {counted(self.choice.folds, 'fold')}"
        return f"{cells} in {self.seconds:.2f} s: {', '.join(found)}; rule={self.choice.rule}"

    def doubts(self, epochs: int) -> list[str]:
        """What a reader of the choice has to know, in sentences."""
        found, chosen = [], self.strengths[self.place]
        if self.missed:
            own = f"; the chosen {chosen:.4g} is one of them" if chosen in self.missed else ""
            found.append(
                f"Cells at strength {', '.join(f'{strength:.4g}' for strength in self.missed)} did not converge, so "
                f"their loss is not that of the minimum{own}. {self.scores.late(epochs, 'epochs')}"
            )
        if chosen not in self.missed and np.isnan(self.scores.gaps[:, self.place]).any():
            found.append(f"There is no proof of the cells at the chosen strength {chosen:.4g}: see gap in cv.csv.")
        stronger, weaker = self.scores.ends(self.choice.rule)
        stronger &= bool(self.choice.penalties)  # an automatic grid begins where the weights have no effect
        weaker &= self.strengths[-1] > 0
        for there, strength, what in (
            (stronger, self.strengths[0], "strongest and is chosen, and a stronger"),
            (weaker, self.strengths[-1], "weakest and does best, and a weaker"),
        ):
            if there:
                found.append(
                    f"Strength {strength:.4g} is the {what} one may do better. Give some beyond it, as in "
                    f"penalty.strength=[{strength:.2g},...]."
                )
        return found

    def write(self, folder: Path) -> Path:
        """cv.csv, a row a cell."""
        with Table(folder / CELLS, list(self.rows[0]), self.rows):
            return folder / CELLS


def choose(
    choice: Choice,
    folded: Folded,
    train: Data,
    objective: Objective,
    optimizer: Optimizer,
    metrics: Mapping[str, Metric],
    epochs: int,
) -> Chosen:
    """Fits every strength to every fold; train are all rows as they will be trained on, for an automatic grid."""
    began = time.perf_counter()
    penalties = choice.penalties or automatic(objective, train)
    (data, folds), scores = folded, Scores(choice.folds, len(penalties))
    rows: dict[tuple[int, int], Mapping[str, Any]] = {}
    cells = cross_validate(objective, optimizer, data, folds, lambda total: penalties, epochs=epochs, metrics=metrics)
    bar = tqdm(total=scores.values.size, unit="cell", leave=False, disable=None)  # none without a terminal
    with bar:
        for cell in cells:
            scores.add(cell)
            rows[cell.place, cell.fold] = {
                "strength": float(cell.penalty.strength),  # type: ignore[attr-defined]
                "fold": cell.fold + 1,
                **cell.metrics,
                "gap": "" if cell.proof.gap is None else cell.proof.gap,
                "iterations": cell.iterations,
                "converged": reached(cell),
            }
            bar.update()
    return Chosen(choice, penalties, scores, [rows[key] for key in sorted(rows)], time.perf_counter() - began)
