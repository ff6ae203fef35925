import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.image import imread
from numpy.testing import assert_allclose, assert_array_equal

from tests.test_run import SETTINGS, run
from trainer.errors import ConfigError, DataError, Diverged
from trainer.objective.certificate import Certificate
from trainer.objective.penalties import L1, L2
from trainer.optimizers.fit import TrainState
from trainer.runs.model import Model
from trainer.runs.path import Point, after, best, check_path, points_of
from trainer.runs.plots import along_path, short

STRENGTHS = [0.01, 10, 0.1, 0.03]
PATH = replace(
    SETTINGS,
    optimizer={"name": "fista", "tol": 1e-9},
    penalty={"name": "l1", "strength": STRENGTHS},
    data={"name": "classification", "samples": 300, "classes": 3},
    epochs=300,
)


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def weights_of(folder, strength):
    """w (D+1,K) out of coefficients.csv."""
    rows = [row for row in table(folder / "coefficients.csv") if float(row["strength"]) == strength]
    classes = list(dict.fromkeys(row["class"] for row in rows))
    return np.array([[float(row["per_deviation"]) for row in rows if row["class"] == name] for name in classes]).T


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("path")
    run(replace(PATH, plots=True), folder)
    return folder


def test_a_path_leaves_its_tables_its_model_its_record_and_its_picture(folder):
    names = {"path.csv", "coefficients.csv", "model.npz", "run.json", "path.png", "checkpoint.npz"}
    names |= {"evaluation.json", "confusion.png", "reliability.png", "coefficients.png", "model.md"}
    assert {path.name for path in folder.iterdir()} == names
    rows = table(folder / "path.csv")
    measured = ["loss", "val_loss", "accuracy", "val_accuracy"]
    assert list(rows[0]) == ["strength", *measured, "nonzero", "iterations", "converged", "gap"]
    assert [float(row["strength"]) for row in rows] == sorted(STRENGTHS, reverse=True)
    assert all(row["converged"] == "True" and float(row["gap"]) <= 1e-6 for row in rows)
    nonzero = [int(row["nonzero"]) for row in rows]
    assert nonzero[0] == 0  # 10 is more than any gradient of the null model
    assert nonzero == sorted(nonzero)
    losses = [float(row["loss"]) for row in rows]
    assert losses == sorted(losses, reverse=True)
    assert imread(folder / "path.png").shape[0] > 500


def test_the_coefficients_are_tidy_and_those_of_the_model(folder):
    rows = table(folder / "coefficients.csv")
    model = Model.load(folder / "model.npz")
    assert list(rows[0]) == ["strength", "class", "feature", "weight", "per_deviation"]
    assert len(rows) == len(STRENGTHS) * model.w.size
    features = [row["feature"] for row in rows[: len(model.w)]]
    assert features == [*model.features, "(bias)"]
    kept = json.loads((folder / "run.json").read_text())["path"]["strength"]
    assert_array_equal(weights_of(folder, kept), model.w)
    for row, strength in zip(table(folder / "path.csv"), sorted(STRENGTHS, reverse=True), strict=True):
        assert np.count_nonzero(weights_of(folder, strength)[:-1]) == int(row["nonzero"])


def test_the_kept_model_has_the_lowest_validation_loss_and_the_record_names_it(folder):
    record = json.loads((folder / "run.json").read_text())
    rows = table(folder / "path.csv")
    lowest = min(rows, key=lambda row: float(row["val_loss"]))
    assert record["path"] == {
        "strength": float(lowest["strength"]),
        "chosen_by": "the lowest val_loss",
        "strengths": sorted(STRENGTHS, reverse=True),
    }
    assert record["metrics"]["val_loss"] == float(lowest["val_loss"])
    assert record["gap"] == float(lowest["gap"])
    assert record["config"]["penalty"]["strength"] == STRENGTHS
    assert record["converged"]


@pytest.mark.parametrize("strength", STRENGTHS)
def test_a_warm_start_ends_where_a_cold_one_does(strength, folder, tmp_path):
    run(replace(PATH, penalty={"name": "l1", "strength": strength}), tmp_path)
    assert_allclose(weights_of(folder, strength)[:-1], Model.load(tmp_path / "model.npz").w[:-1], atol=1e-6)


def test_without_validation_the_last_of_the_path_is_kept(tmp_path):
    run(replace(PATH, valid_fraction=0.0), tmp_path)
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["path"]["strength"] == min(STRENGTHS)
    assert record["path"]["chosen_by"] == "the last of the path"
    assert all(row["val_loss"] == row["val_accuracy"] == "" for row in table(tmp_path / "path.csv"))


def test_an_optimizer_without_an_end_walks_a_smooth_path(tmp_path):
    smooth = {"name": "l2", "strength": [1.0, 0.0]}
    run(replace(PATH, optimizer={"name": "sgd"}, penalty=smooth, epochs=2, plots=True), tmp_path)
    rows = table(tmp_path / "path.csv")
    assert [(row["iterations"], row["converged"]) for row in rows] == [("2", "False")] * 2
    assert not json.loads((tmp_path / "run.json").read_text())["converged"]
    assert (tmp_path / "path.png").exists()


def test_a_path_that_needs_more_iterations_says_at_which_strengths_and_by_how_much(tmp_path, caplog):
    with caplog.at_level("INFO"):
        run(replace(PATH, epochs=4), tmp_path)
    record = json.loads((tmp_path / "run.json").read_text())
    gaps = {float(row["strength"]): float(row["gap"]) for row in table(tmp_path / "path.csv")}
    late = [f"{strength:g} (gap {gap:.1e})" for strength, gap in gaps.items() if gap > 1e-6]
    assert not record["converged"]
    assert record["reason"] == f"No convergence within epochs=4 at strength {', '.join(late)}; raise it."
    assert record["reason"] in caplog.messages
    kept = record["path"]["strength"]
    assert f"kept {kept:g}, the lowest val_loss, but not converged (gap {gaps[kept]:.1e})" in caplog.text


def test_a_strength_at_which_a_solver_can_do_no_more_is_not_told_to_raise_epochs(tmp_path, caplog):
    strict = {"optimizer": {"name": "newton", "gap": 1e-300}, "penalty": {"name": "l2", "strength": [1.0, 0.1]}}
    with caplog.at_level("INFO"):
        run(replace(PATH, **strict), tmp_path)
    reason = json.loads((tmp_path / "run.json").read_text())["reason"]
    gaps = {row["strength"]: float(row["gap"]) for row in table(tmp_path / "path.csv")}
    stuck = f"1 (gap {gaps['1.0']:.1e}), 0.1 (gap {gaps['0.1']:.1e})"
    assert reason == f"No convergence at strength {stuck}, where the solver can do no more."
    assert reason in caplog.messages


def test_a_strength_that_is_near_enough_when_its_epochs_end_has_converged(tmp_path):
    loose = {"optimizer": {"name": "lbfgs", "gap": 0.1}, "penalty": {"name": "l2", "strength": [1.0, 0.1]}}
    run(replace(PATH, **loose, epochs=3), tmp_path)
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["converged"]
    assert record["reason"] == f"the last of epochs=3 is enough; {record['gap_reason']}."
    assert [row["converged"] for row in table(tmp_path / "path.csv")] == ["True"] * 2


def test_where_nothing_can_be_proved_the_gap_of_a_strength_is_empty(tmp_path):
    run(replace(PATH, optimizer={"name": "auto"}, penalty={"name": "l2", "strength": [1.0, 0.0]}, epochs=2), tmp_path)
    first, last = table(tmp_path / "path.csv")
    assert float(first["gap"]) > 0
    assert last["gap"] == ""
    assert "0 (no proof); raise it." in json.loads((tmp_path / "run.json").read_text())["reason"]


def test_a_diverged_path_keeps_what_it_has(tmp_path):
    wild = {"activation": {"name": "identity"}, "loss": {"name": "squared_error"}}
    steep = {"optimizer": {"name": "sgd", "lr": 1e6}, "penalty": {"name": "l2", "strength": [0.1, 0.01]}}
    with pytest.raises(Diverged):
        run(replace(PATH, **wild, **steep, epochs=200, batch_size=None), tmp_path)
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["status"] == "diverged"
    assert np.isfinite(Model.load(tmp_path / "model.npz").w).all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"penalty": {"name": "l1", "strength": []}}, r"penalty\.strength=\[\] is a path without any strength"),
        ({"penalty": {"name": "l1", "strength": [1, -1]}}, "at least 0 all along the path, got -1"),
        ({"optimizer": {"name": "sgd"}}, "penalty=l1 is not smooth, which optimizer=sgd cannot take. Use optimizer=fi"),
        (
            {"callbacks": {"early_stopping": {}}},
            "is a path of trainings, and callbacks=early_stopping watches a single",
        ),
        ({"experiment": {"name": "question"}}, "is a path of trainings, and experiment=question is none"),
        ({"batch_size": 32}, "optimizer=fista needs the gradient of all samples"),
    ],
)
def test_what_is_refused_leaves_no_folder(changes, words, tmp_path):
    with pytest.raises(ConfigError, match=words) as caught:
        run(replace(PATH, **changes), tmp_path / "run")
    assert caught.value.exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_a_single_strength_is_no_path():
    check_path(L1(0.1), ["early_stopping"], "question")


ROWS = [{"strength": 1.0, "loss": 2.0, "nonzero": 0, "iterations": 1, "converged": True, "gap": 1e-7}]
ENDED = ("yes", "", "certified to 1.0e-07 of E")  # why it converged, why it can do no more, what is proved
PROOF = Certificate(1e-7, ENDED[-1])


def point(strength, w, converged="yes", stalled="", proof=PROOF, **metrics):
    return Point(strength, TrainState(1, np.asarray(w), None), metrics, converged, stalled, proof)


def test_a_state_of_a_path_holds_its_points():
    points = [
        point(1.0, [[0.0], [0.0]], loss=2.0, val_loss=np.nan),
        point(0.1, [[0.5], [0.0]], "", "no", Certificate(None, "no proof"), loss=1.0, val_loss=1.0),
    ]
    state = TrainState(0, np.zeros((2, 1)), ())
    for reached in points:
        state = after(state, reached)
    rows = [reached.row for reached in points]
    found = points_of(state, rows, [L1(1.0), L1(0.1), L1(0.0)])
    assert [one.row for one in found] == rows
    assert [(one.converged, one.stalled, *one.proof[:2]) for one in found] == [
        ("yes", "", 1e-7, PROOF.why),
        ("", "no", None, "no proof"),
    ]
    assert [one.state.epoch for one in found] == [1, 1]
    assert "gap" not in rows[1]
    assert found[1].state.w is points[1].state.w
    assert points_of(TrainState(0, state.w, ()), [], [L1(1.0)]) == []


@pytest.mark.parametrize(
    ("changes", "rows"),
    [
        ({"epoch": 2}, ROWS),
        ({"optimizer": ()}, ROWS),
        ({"optimizer": ("w",)}, ROWS),
        ({"optimizer": ((np.zeros((2, 1)), "yes"),)}, ROWS),
        ({"optimizer": ((None, *ENDED),)}, ROWS),
        ({"optimizer": ((np.zeros((3, 1)), *ENDED),)}, ROWS),
        ({"optimizer": ((np.zeros((2, 1), np.float32), *ENDED),)}, ROWS),
        ({"optimizer": ((np.full((2, 1), np.nan), *ENDED),)}, ROWS),
        ({"epoch": 3, "optimizer": ((np.zeros((2, 1)), *ENDED),) * 3}, ROWS * 3),
        ({}, []),
        ({}, [{"loss": 1.0}]),
        ({}, [{**ROWS[0], "strength": 2.0}]),
        ({}, [{**ROWS[0], "nonzero": 1}]),
        ({}, [{**ROWS[0], "converged": False}]),
    ],
)
def test_a_state_of_another_path_is_refused(changes, rows):
    state = TrainState(1, np.zeros((2, 1)), ((np.zeros((2, 1)), *ENDED),))
    penalties = [L1(1.0), L1(0.1)]
    assert len(points_of(state, ROWS, penalties)) == 1
    with pytest.raises(DataError, match="no beginning of this path of 2 strengths"):
        points_of(replace(state, **changes), rows, penalties)


def test_the_best_is_by_validation_loss_where_there_is_any():
    points = [point(s, [[0.0]], **m) for s, m in ((3, {"val_loss": 2.0}), (2, {"val_loss": 1.0}), (1, {"loss": 0.5}))]
    assert best(points) == (points[1], "the lowest val_loss")
    assert best(points[2:]) == (points[2], "the last of the path")


@pytest.mark.parametrize("strengths", [[1.0], [1.0, 0.1], [0.1, 0.0], [0.0], list(np.geomspace(1, 1e-5, 60))], ids=len)
def test_any_path_is_drawn(strengths, tmp_path):
    rng = np.random.default_rng(0)
    points = [point(s, rng.normal(size=(5, 3)), loss=1.0 + s) for s in strengths]
    path = along_path(tmp_path / "path.png", points, ("a", "$b", 3), ["f" * 40, "$x", "y", "z"], "l1")
    assert (imread(path)[..., :3].min(axis=2) < 0.99).mean() > 0.005


def test_strengths_that_a_solver_has_missed_are_open_circles(tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.runs.plots.save", lambda figure, path: figure)
    points = [point(s, [[1.0], [0.0]], loss=s, val_loss=s + 1) for s in (3.0, 2.0, 1.0)]

    def circles(missed):
        lines = along_path(tmp_path / "path.png", points, (0,), ["a"], "l1", missed).axes[1].lines
        return [(*line.get_xdata(), *line.get_ydata()) for line in lines if line.get_markerfacecolor() == "white"]

    assert circles({2.0}) == [(2.0, 2.0), (2.0, 3.0)]
    assert circles(()) == []


def test_a_path_without_any_weight_is_drawn(tmp_path):
    assert along_path(
        tmp_path / "path.png", [point(s, np.zeros((3, 2)), loss=1.0) for s in (2, 1)], (0, 1), ["a", "b"], "l1"
    )


def test_a_long_name_is_cut():
    assert short("petal_width") == "petal_width"
    assert len(short("a" * 40)) == 16
    assert check_path(L2(0.1), [], None) is None


def test_of_two_classes_that_mirror_each_other_one_is_drawn(monkeypatch):
    figures = []
    monkeypatch.setattr("trainer.runs.plots.save", lambda figure, path: figures.append(figure))
    w = np.array([[1.0, -1.0], [2.0, -2.0], [0.0, 0.0]])
    for last in (w, np.abs(w)):
        points = [
            Point(s, TrainState(1, last * s, None), {"loss": s}, "", "", Certificate(None, "")) for s in (1.0, 0.5)
        ]
        along_path(None, points, ("no", "yes"), ("a", "b"), "title")
    labels = [[text.get_text() for text in figure.axes[0].get_legend().get_texts()] for figure in figures]
    assert labels[0] == ["yes: b", "yes: a"]
    assert len(labels[1]) == 4
