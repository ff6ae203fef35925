"""What a model has learnt: weights in the units of the features and per deviation, and the page about the model."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.image import imread
from numpy.testing import assert_allclose

from tests.test_evaluation import SETTINGS, churn
from trainer.chain.activations import Softmax
from trainer.data.rows import Standardizer, prepare
from trainer.data.sources import Wine
from trainer.runs import coefficients as module
from trainer.runs.coefficients import Coefficients, write
from trainer.runs.model import Model
from trainer.runs.plots import coefficients
from trainer.runs.run import run


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def matrix(rows, column, features, classes):
    return np.array([float(row[column]) for row in rows]).reshape(classes, features + 1).T


@pytest.mark.parametrize("standardize", [True, False])
def test_weights_are_those_of_raw_features_and_per_deviation_those_of_standardised_ones(standardize, tmp_path):
    settings = replace(SETTINGS, data={"name": "wine"}, standardize=standardize, optimizer={"name": "lbfgs"})
    folder = run(settings, tmp_path / "run").folder
    rows, model, data = table(folder / "coefficients.csv"), Model.load(folder / "model.npz"), Wine()(0)
    shape = len(data.features), len(data.classes)
    weight, each = matrix(rows, "weight", *shape), matrix(rows, "per_deviation", *shape)
    z = data.x @ weight[:-1] + weight[-1]
    assert_allclose(Softmax()(z), model.predict(data.x), rtol=1e-9, atol=1e-12)
    train = prepare(data, valid_fraction=0.2, standardize=False, seed=SETTINGS.seed, dtype="float64").train
    mean, deviation = Standardizer.fit(train.x)
    assert_allclose((data.x - mean) / deviation @ each[:-1] + each[-1], z, rtol=1e-9, atol=1e-9)
    assert [row["feature"] for row in rows[:14]] == [*data.features, "(bias)"]


def test_so_many_weights_that_nobody_reads_them_are_left_to_the_model_but_for_a_path(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST", 5)
    w = np.ones((3, 2))
    learnt = Coefficients(("a", "b"), ("x", "y"), w, w)
    assert write(tmp_path, [(0.0, learnt)], along_path=False) == []
    (path,) = write(tmp_path, [(0.5, learnt)], along_path=True)
    assert len(table(path)) == 6


def learnt(classes, features=8, seed=0):
    w = np.random.default_rng(seed).normal(size=(features + 1, classes))
    names = tuple(f"a long name with a $ sign, number {d}" for d in range(features))
    return Coefficients(names, tuple(f"the class of number {k}" for k in range(classes)), w, w)


@pytest.mark.parametrize("classes", [2, 3, 12, 30])
def test_the_strongest_features_are_drawn_for_any_number_of_classes(classes, tmp_path):
    path = coefficients(tmp_path / "coefficients.png", learnt(classes), "softmax + ce")
    image = imread(path)
    assert 0.01 < (image[..., :3].min(axis=2) < 0.99).mean() < 0.7
    assert image.shape[1] < 1300


def test_the_picture_has_room_for_the_features_that_there_are(tmp_path):
    few, many = (imread(coefficients(tmp_path / f"{n}.png", learnt(3, n), "t")) for n in (2, 8))
    assert few.shape[0] < 0.7 * many.shape[0]


def test_two_classes_that_mirror_each_other_are_drawn_once_and_nothing_is_not_drawn(tmp_path):
    one = learnt(1).per_deviation
    both = learnt(2)._replace(per_deviation=np.hstack([-one, one]))
    path = tmp_path / "c.png"
    assert imread(coefficients(path, both, "t")).shape[1] < imread(coefficients(path, learnt(2), "t")).shape[1]
    assert coefficients(path, both._replace(per_deviation=np.zeros_like(both.weight)), "t") is None


def test_the_strongest_features_are_those_that_count_most():
    w = np.array([[1.0], [-3.0], [0.0], [2.0], [9.0]])
    found = Coefficients(tuple("abcd"), ("k",), w, w)
    assert found.strongest(0, 2) == [("b", -3.0), ("d", 2.0)]
    assert found.strongest(0, 9) == [("b", -3.0), ("d", 2.0), ("a", 1.0)]


def test_the_card_tells_data_classes_optimum_evaluation_and_weights(tmp_path):
    file = {"name": "file", "path": str(churn(tmp_path / "churn.csv")), "target": "churn"}
    folder = run(replace(SETTINGS, data=file, test_fraction=0.2), tmp_path / "run").folder
    text, record = (folder / "model.md").read_text(), json.loads((folder / "run.json").read_text())
    for said in (
        "# softmax + ce, gradient fused",
        "churn.csv, target churn |",
        record["data_sha256"],
        "320 for training, 80 for validation, 100 for the test",
        "2: a, b",
        "leave 38, stay 282",
        record["gap_reason"],
        "**The model is no better than always saying stay",
        "| in brackets: always stay | validation | test |",
        "    penalty.strength=0.01",
        "SoftmaxRegression.load('model.npz')",
    ):
        assert said in text, said
    strongest = max(table(folder / "coefficients.csv")[:2], key=lambda row: abs(float(row["per_deviation"])))
    assert f"| leave | {strongest['feature']} {float(strongest['per_deviation']):+.3g}, " in text


def test_names_mean_nothing_in_the_markdown_of_the_card(tmp_path):
    (tmp_path / "odd.csv").write_text("a|b,`c`,y\n" + "1,2,<i>\n3,1,[u](v)\n" * 20)
    file = {"name": "file", "path": str(tmp_path / "odd.csv"), "target": "y"}
    folder = run(replace(SETTINGS, data=file), tmp_path / "run").folder
    text = (folder / "model.md").read_text()
    for name in ("a\\|b", "\\`c\\`", "\\<i\\>", "\\[u\\](v)"):
        assert name in text
