"""Every source of data: its shapes, its seed, its ranges and its schema."""

import dataclasses
import inspect

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from omegaconf import OmegaConf
from sklearn.datasets import make_blobs, make_circles, make_moons

from trainer.data import files
from trainer.data.rows import random_state
from trainer.data.sources import (
    SOURCES,
    Blobs,
    BreastCancer,
    Circles,
    Classification,
    Digits,
    File,
    Iris,
    Moons,
    Spirals,
    Wine,
)
from trainer.errors import ConfigError, FileError
from trainer.runs.config import config_folder
from trainer.runs.schema import build
from trainer.sweeps.worker import FROM_SCIKIT_LEARN, IMPORTED, imported

GENERATED = [
    (Blobs(), (600, 2), 4),
    (Blobs(samples=7, features=1, classes=7, spread=0.0), (7, 1), 7),
    (Classification(), (1000, 20), 4),
    (Classification(samples=2, features=2, informative=2, classes=2), (2, 2), 2),
    (Classification(features=6, informative=5, classes=16), (1000, 6), 16),
    (Moons(), (400, 2), 2),
    (Moons(samples=2, noise=0.0), (2, 2), 2),
    (Circles(), (400, 2), 2),
    (Circles(samples=3), (3, 2), 2),
    (Spirals(), (600, 2), 3),
    (Spirals(samples=50, classes=5, noise=0.0, turns=0.0), (50, 2), 5),
]
BUNDLED = [
    (Digits(), (1797, 64), tuple(range(10)), "pixel_0_0"),
    (Iris(), (150, 4), ("setosa", "versicolor", "virginica"), "sepal length (cm)"),
    (Wine(), (178, 13), ("class_0", "class_1", "class_2"), "alcohol"),
    (BreastCancer(), (569, 30), ("malignant", "benign"), "mean radius"),
]
SEEDS = [0, 1, 2**32, 2**70]


@pytest.mark.parametrize(("source", "shape", "classes"), GENERATED, ids=repr)
def test_generated_data_have_the_shapes_asked_for(source, shape, classes):
    data = source(0)
    assert data.x.shape == shape
    assert data.classes == tuple(range(classes))
    assert data.features == tuple(f"x{column}" for column in range(shape[1]))
    assert data.y.shape == shape[:1]
    assert set(data.y) <= set(range(classes))
    assert np.isfinite(data.x).all()


@pytest.mark.parametrize(("source", "shape", "classes"), [case for case in GENERATED if case[1][0] > 10], ids=repr)
def test_generated_data_hold_every_class(source, shape, classes):
    assert set(source(0).y) == set(range(classes))


@pytest.mark.parametrize(("source", "shape", "classes", "feature"), BUNDLED, ids=repr)
def test_bundled_data_keep_their_names(source, shape, classes, feature):
    data = source(0)
    assert data.x.shape == shape
    assert data.classes == classes
    assert list(map(type, data.classes)) == list(map(type, classes))
    assert data.features[0] == feature
    assert list(map(type, data.features)) == [str] * shape[1]
    assert set(data.y) == set(range(len(classes)))


@pytest.mark.parametrize("source", [case[0] for case in GENERATED + BUNDLED], ids=repr)
def test_data_are_float64_in_c_order_with_places_as_labels(source):
    data = source(3)
    assert data.x.dtype == np.float64
    assert data.x.flags.c_contiguous
    assert data.y.dtype == np.intp


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("source", [case[0] for case in GENERATED + BUNDLED], ids=repr)
def test_the_same_seed_gives_the_same_bits(source, seed):
    np.random.seed(1)
    first = source(seed)
    np.random.seed(2)
    second = source(seed)
    assert_array_equal(first.x, second.x)
    assert_array_equal(first.y, second.y)


@pytest.mark.parametrize("source", [Blobs(), Classification(), Moons(), Circles(), Spirals()], ids=repr)
def test_different_seeds_give_different_data(source):
    assert len({source(seed).x.tobytes() for seed in SEEDS}) == len(SEEDS)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("source", "peer", "fields"),
    [
        (Blobs(), make_blobs, {"n_samples": 600, "n_features": 2, "centers": 4, "cluster_std": 2.0}),
        (Blobs(10, 3, 7, 0.5), make_blobs, {"n_samples": 10, "n_features": 3, "centers": 7, "cluster_std": 0.5}),
        (Moons(), make_moons, {"n_samples": 400, "noise": 0.2}),
        (Moons(5, 0.0), make_moons, {"n_samples": 5, "noise": 0.0}),
        (Circles(), make_circles, {"n_samples": 400, "noise": 0.1, "factor": 0.5}),
        (Circles(7, 1.0), make_circles, {"n_samples": 7, "noise": 1.0, "factor": 0.5}),
    ],
    ids=lambda value: repr(value) if hasattr(value, "samples") else "",
)
def test_blobs_moons_and_circles_are_those_of_scikit_learn_to_the_bit(source, peer, fields, seed):
    x, y = peer(**fields, random_state=random_state(seed))
    data = source(seed)
    assert_array_equal(data.x, x)
    assert_array_equal(data.y, y)


def test_a_sweep_imports_scikit_learn_ahead_for_what_is_made_by_it():
    assert {name for name, source in SOURCES.items() if "sklearn" in inspect.getsource(source)} == FROM_SCIKIT_LEARN
    assert imported(["data=blobs,file", "data.path=digits.csv", "loss=ce,brier"]) == [IMPORTED]
    assert imported(["seed=1,2", "data=blobs,digits"]) == [IMPORTED, "sklearn.datasets"]


def test_circles_and_spirals_without_noise_lie_where_they_are_said_to():
    circles, spirals = Circles(noise=0.0)(0), Spirals(noise=0.0, turns=2.0)(0)
    assert_array_equal(np.linalg.norm(circles.x, axis=1).round(12), np.where(circles.y == 0, 1.0, 0.5))
    radius = np.linalg.norm(spirals.x, axis=1)
    angle = np.arctan2(spirals.x[:, 1], spirals.x[:, 0]) / (2 * np.pi)
    turns = angle - 2.0 * radius - spirals.y / 3
    np.testing.assert_allclose(turns, turns.round(), atol=1e-9)


@pytest.mark.parametrize(
    ("source", "fields", "message"),
    [
        (Blobs, {"samples": 1}, "data.samples must be at least 4, got 1."),
        (Blobs, {"classes": 1}, "data.classes must be at least 2, got 1."),
        (Blobs, {"features": 0}, "data.features must be at least 1, got 0."),
        (Blobs, {"spread": -0.5}, "data.spread must be at least 0, got -0.5."),
        (Blobs, {"spread": float("nan")}, "data.spread must be finite, got nan."),
        (Blobs, {"samples": 10**12}, "data.samples must be at most 268,435,456 for 2 features, got 1,000,000,000,000."),
        (Classification, {"samples": 3}, "data.samples must be at least 4, got 3."),
        (Classification, {"classes": 0}, "data.classes must be at least 2, got 0."),
        (Classification, {"informative": 0}, "data.informative must be at least 1, got 0."),
        (Classification, {"features": 4}, "data.features must be at least 5, got 4."),
        (Classification, {"class_sep": float("inf")}, "data.class_sep must be finite, got inf."),
        (
            Classification,
            {"classes": 17},
            "data.informative=5 is too few for data.classes=17: use at least 6 informative features, or fewer classes.",
        ),
        (Moons, {"samples": 1}, "data.samples must be at least 2, got 1."),
        (Moons, {"noise": -1}, "data.noise must be at least 0, got -1."),
        (Circles, {"samples": 0}, "data.samples must be at least 2, got 0."),
        (Circles, {"noise": -1}, "data.noise must be at least 0, got -1."),
        (Spirals, {"samples": 2}, "data.samples must be at least 3, got 2."),
        (Spirals, {"classes": 1}, "data.classes must be at least 2, got 1."),
        (Spirals, {"noise": -1}, "data.noise must be at least 0, got -1."),
        (Spirals, {"turns": float("inf")}, "data.turns must be finite, got inf."),
    ],
)
def test_fields_out_of_range_are_refused_in_a_sentence(source, fields, message):
    with pytest.raises(ConfigError) as error:
        source(**fields)
    assert str(error.value) == message


@pytest.mark.parametrize("classes", range(2, 17))
@pytest.mark.parametrize("informative", range(1, 6))
def test_classification_refuses_just_what_scikit_learn_would(classes, informative):
    if 2 * classes <= 2**informative:
        assert Classification(samples=100, informative=informative, classes=classes)(0).x.shape == (100, 20)
    else:
        with pytest.raises(ConfigError, match="is too few"):
            Classification(samples=100, informative=informative, classes=classes)


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_is_a_frozen_schema_that_its_yaml_fills(name):
    source = SOURCES[name]
    assert source.__dataclass_params__.frozen
    given = {"path": "data.csv"} if source is File else {}
    config = OmegaConf.merge(OmegaConf.load(config_folder() / "data" / f"{name}.yaml"), given)
    assert build("data", SOURCES, OmegaConf.to_container(config)) == source(**given)
    assert set(config) == {"name", *(field.name for field in dataclasses.fields(source))}


def test_a_file_is_read_with_its_target(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("a,kind\n1,p\n2,q\n")
    data, same = File(str(path), target="kind")(0), files.read(str(path), "kind")
    assert_array_equal(data.x, same.x)
    assert (data.classes, data.target) == (("p", "q"), "kind")
    with pytest.raises(FileError):
        File(str(tmp_path / "none.csv"))(0)
