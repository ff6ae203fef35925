import numpy as np
import pytest
from matplotlib.image import imread

from trainer.chain.activations import Softmax
from trainer.data.rows import Standardizer
from trainer.data.sources import Moons
from trainer.runs.model import Model
from trainer.runs.plots import boundary, curves


def row(epoch, **changes):
    return {"epoch": epoch, "loss": 1 / epoch, "val_loss": 2 / epoch, "accuracy": 0.5, "val_accuracy": 0.4, **changes}


def ink(path):
    """The share of pixels that are not white."""
    return (imread(path)[..., :3].min(axis=2) < 0.99).mean()


@pytest.mark.parametrize(
    "rows",
    [
        [row(epoch) for epoch in range(1, 60)],
        [row(1)],
        [{"epoch": 1, "loss": 0.0, "accuracy": 1.0}, {"epoch": 2, "loss": 0.0, "accuracy": 1.0}],
        [row(1), row(2, val_loss=float("inf"), val_accuracy=float("nan"))],
    ],
    ids=["many", "one", "no validation", "not finite"],
)
def test_curves_are_drawn_for_any_rows(rows, tmp_path):
    path = curves(tmp_path / "curves.png", rows, "softmax + ce, gradient fused")
    assert imread(path).shape[0] > 300
    assert 0.005 < ink(path) < 0.5


def test_the_boundary_shows_regions_points_and_rings_around_the_misclassified(tmp_path):
    data = Moons()(0)
    none = Standardizer.none(2)
    good, bad = np.array([[-1.0, 1.0], [2.5, -2.5], [0.0, 0.0]]), np.zeros((3, 2))
    inks = []
    for w in (good, bad):
        model = Model(w, none, Softmax(), data.classes, data.features, None, {})
        inks.append(ink(boundary(tmp_path / "boundary.png", model, data, "title")))
    assert min(inks) > 0.3  # the regions fill the axes
    assert inks[0] != inks[1]
