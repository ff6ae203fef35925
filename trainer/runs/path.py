"""The regularisation path: one penalty at many strengths, from the strongest to the weakest with warm starts.

Where the penalty rules, the weights are few and close to zero, and a training ends after a few iterations; each weaker
strength starts from the stronger one's weights. So the whole path costs little more than its last fit, and shows in
which order the features enter and which strength does best on the validation data.

A path that was interrupted goes on with the next strength. Its state, in a checkpoint, is a TrainState that counts
finished strengths as epochs, with the last w, and (w, why it converged, why it can do no more, what is proved) of each
in the place of an optimiser's state.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from trainer.arrays import Array
from trainer.data.rows import Data
from trainer.errors import ConfigError, DataError, listed
from trainer.objective.certificate import Certificate
from trainer.objective.objective import Objective
from trainer.objective.penalties import Penalty, strengths
from trainer.optimizers import Optimizer
from trainer.optimizers.fit import Report, TrainState, just_enough, proved

OWN = ("strength", "nonzero", "iterations", "converged", "gap")  # columns of path.csv beside what was measured


@dataclass(frozen=True)
class Point:
    """One strength of the path: where its training ended, after state.epoch epochs."""

    strength: float
    state: TrainState
    metrics: Mapping[str, float]
    converged: str
    stalled: str
    proof: Certificate  # by the penalty of this strength

    @property
    def bound(self) -> str:
        """How far it may be from its minimum."""
        return "no proof" if self.proof.gap is None else f"gap {self.proof.gap:.1e}"

    @property
    def row(self) -> dict[str, Any]:
        return {
            "strength": self.strength,
            **self.metrics,
            "nonzero": int(np.count_nonzero(self.state.w[:-1])),
            "iterations": self.state.epoch,
            "converged": bool(self.converged),
            **({} if self.proof.gap is None else {"gap": self.proof.gap}),
        }


def check_path(penalty: Penalty, callbacks: Sequence[str], experiment: str | None) -> None:
    """ConfigError where a list of strengths meets what is made for a single training."""
    path = strengths(penalty)
    if path is None:
        return
    way = f"Give one strength, such as penalty.strength={path[0]:g}, or leave it out."
    if experiment is not None:
        raise ConfigError(f"penalty.strength={path} is a path of trainings, and experiment={experiment} is none. {way}")
    if callbacks:
        raise ConfigError(
            f"penalty.strength={path} is a path of trainings, and callbacks={listed(callbacks)} watches a single one. "
            + way
        )


def columns(metrics: Sequence[str]) -> list[str]:
    """The columns of path.csv; those with val_ stay empty without validation data."""
    measured = [side + name for name in ("loss", *metrics) for side in ("", "val_")]
    return [OWN[0], *measured, *OWN[1:]]


def fit_path(
    objective: Objective,
    penalties: Sequence[Penalty],
    w: Array,
    optimizer: Optimizer,
    data: Data,
    train: Callable[[Objective, TrainState], Iterator[Report]],
) -> Iterator[Point]:
    """The points of the path, in the order of the penalties, each from the parameters of the one before, the first w.

    train(objective, state) gives the reports of one training of the optimiser on the data; what it remembers of another
    penalty is not handed on.
    """
    for penalty in penalties:
        problem = replace(objective, penalty=penalty)
        last = Report(TrainState(0, w, optimizer.init(w)), {})
        for report in train(problem, last.state):
            last = report
        w = last.state.w
        proof = last.proof or proved(problem, optimizer, data, w, last.converged, last.after)
        converged = last.converged
        if optimizer.full_batch and proof.proves(optimizer.gap):  # type: ignore[attr-defined]
            converged = converged or just_enough(proof, last.state.epoch)
        strength = float(penalty.strength)  # type: ignore[attr-defined]
        yield Point(strength, last.state, dict(last.metrics), converged, last.stalled, proof)


def after(state: TrainState, point: Point) -> TrainState:
    """The state of a path after one more point."""
    kept = (point.state.w, point.converged, point.stalled, point.proof.why)
    return TrainState(state.epoch + 1, point.state.w, (*state.optimizer, kept))


def points_of(state: TrainState, rows: Sequence[Mapping[str, Any]], penalties: Sequence[Penalty]) -> list[Point]:
    """The points that after and Point.row have made this state and these rows of; DataError if they have not."""
    try:
        finished = [
            Point(
                float(penalty.strength),  # type: ignore[attr-defined]
                TrainState(row["iterations"], w, None),
                {name: value for name, value in row.items() if name not in OWN},
                converged,
                stalled,
                Certificate(row.get("gap"), why),
            )
            for penalty, (w, converged, stalled, why), row in zip(penalties, state.optimizer, rows, strict=False)
        ]
        ours = len(finished) == len(state.optimizer) == len(rows) == state.epoch and all(
            point.row == row
            and (point.state.w.shape, point.state.w.dtype) == (state.w.shape, state.w.dtype)
            and np.isfinite(point.state.w).all()
            for point, row in zip(finished, rows, strict=True)
        )
    except (TypeError, ValueError, KeyError, AttributeError):
        ours = False
    if not ours:
        raise DataError(f"The checkpoint holds no beginning of this path of {len(penalties)} strengths.")
    return finished


def best(points: Sequence[Point]) -> tuple[Point, str]:
    """The point whose model is kept, and why: the lowest validation loss, or the last without validation data."""
    measured = [point for point in points if math.isfinite(point.metrics.get("val_loss", math.nan))]
    if not measured:
        return points[-1], "the last of the path"
    return min(measured, key=lambda point: point.metrics["val_loss"]), "the lowest val_loss"


def unfinished(points: Sequence[Point], epochs: int) -> str:
    """A sentence about points at which a solver has not converged: where, by how much at most, and what to do."""
    late, stuck = list[str](), list[str]()
    for point in points:
        (stuck if point.stalled else late).append(f"{point.strength:g} ({point.bound})")
    parts = [f"at strength {', '.join(stuck)}, where the solver can do no more"] if stuck else []
    parts += [f"within epochs={epochs} at strength {', '.join(late)}; raise it"] if late else []
    return f"No convergence {' and '.join(parts)}."
