from dataclasses import replace

import numpy as np
import pytest
from matplotlib.image import imread

from trainer.chain.activations import Softmax
from trainer.data.rows import Standardizer, split
from trainer.data.sources import Moons
from trainer.runs import plots
from trainer.runs.model import Model
from trainer.runs.plots import boundary, class_colors, curves, shortened


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
        inks.append(ink(boundary(tmp_path / "boundary.png", model, data, None, "title")))
    assert min(inks) > 0.3  # the regions fill the axes
    assert inks[0] != inks[1]


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are drawn, instead of files."""
    figures = []
    monkeypatch.setattr(plots, "save", lambda figure, path: figures.append(figure))
    return figures


@pytest.mark.parametrize("classes", [2, 8, 9, 12, 30, 100])
def test_no_colour_stands_for_two_classes(classes):
    colors = class_colors(classes)
    assert len(set(map(str, colors))) == classes


@pytest.mark.parametrize("classes", [2, 12, 30])
@pytest.mark.parametrize("name", ["{}", "a class of this name, {:02}, in 36 letters"])
def test_the_figure_has_room_for_the_legend(name, classes, drawn):
    data, held_out = split(Moons()(0), 0.2, 0)
    names = tuple(name.format(k) for k in range(classes))
    model = Model(np.zeros((3, classes)), Standardizer.none(2), Softmax(), names, data.features, None, {})
    boundary(None, model, replace(data, classes=names), replace(held_out, classes=names), "title")
    (figure,) = drawn
    figure.draw_without_rendering()
    legend = figure.axes[0].get_legend()
    assert {text.get_text() for text in legend.get_texts()} >= set(names)
    assert legend.get_window_extent().x1 <= figure.bbox.x1


def test_validation_samples_are_hollow_and_rings_lie_below_the_samples(drawn):
    train, valid = split(Moons()(0), 0.2, 0)
    model = Model(np.zeros((3, 2)), Standardizer.none(2), Softmax(), train.classes, train.features, None, {})
    boundary(None, model, train, valid, "title")
    rings, *filled = drawn[0].axes[0].collections[:3]
    hollow = drawn[0].axes[0].collections[4:]
    assert all(len(points.get_facecolors()) for points in filled)
    assert not any(len(points.get_facecolors()) for points in hollow)
    assert rings.get_zorder() < min(points.get_zorder() for points in [*filled, *hollow])
    assert sum(len(points.get_offsets()) for points in filled) == len(train)
    assert "validation: hollow" in {text.get_text() for text in drawn[0].axes[0].get_legend().get_texts()}


def test_curves_that_coincide_say_so(drawn):
    rows = [row(epoch, val_loss=1.001 / epoch) for epoch in range(1, 9)]
    curves(None, rows, "title")
    labels = [[text.get_text() for text in axes.get_legend().get_texts()] for axes in drawn[0].axes]
    assert labels == [["training", "validation, the same"], ["training", "validation"]]


def test_one_epoch_stands_in_the_middle_of_its_axis(drawn):
    curves(None, [row(1)], "title")
    assert drawn[0].axes[0].get_xlim() == (0, 2)


def test_long_names_that_begin_alike_stay_apart():
    names = [shortened(f"the first letters of all are the same, number {k}") for k in range(30)]
    assert len(set(names)) == 30
    assert max(map(len, names)) == 24
    assert shortened("x" * 24) == "x" * 24
