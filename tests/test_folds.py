"""folds=5 on the command line: the strength that it chooses, what it leaves, and what stays out of it."""

import csv
import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.image import imread
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV

from tests.test_command_line import call  # noqa: F401 - a fixture
from tests.test_run import SETTINGS, run
from trainer.data.rows import stratified
from trainer.data.sources import BreastCancer
from trainer.errors import ConfigError, DataError, Incompatible
from trainer.objective.penalties import L1, L2, ElasticNet
from trainer.optimizers.choosing import automatic
from trainer.runs.model import Model
from trainer.runs.parts import assemble
from trainer.runs.run import resume
from trainer.runs.training import prepared

GRID = [1.0, 0.1, 0.03, 0.01, 1e-3]
FOLDED = replace(
    SETTINGS,
    optimizer={"name": "auto"},
    penalty={"name": "l2", "strength": GRID},
    data={"name": "breast_cancer"},
    epochs=100,
    folds=4,
    test_fraction=0.25,
)


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def record_of(folder):
    return json.loads((folder / "run.json").read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("folds")
    run(replace(FOLDED, plots=True), folder)
    return folder


def rows_in(settings):
    """The data of a run as it sees them, and its folds."""
    training = prepared(settings, settings.seed, assemble(settings), None, None)
    return training, training.folded[1]


def test_it_leaves_what_a_run_leaves_and_its_cells(folder):
    names = {path.name for path in folder.iterdir()}
    assert {"cv.csv", "cv.png", "metrics.csv", "curves.png", "model.npz", "model.md", "evaluation.json"} <= names
    assert not {"path.csv", "checkpoint.npz"} & names
    rows = table(folder / "cv.csv")
    assert list(rows[0]) == ["strength", "fold", "loss", "accuracy", "gap", "iterations", "converged"]
    assert [(float(row["strength"]), int(row["fold"])) for row in rows] == [(s, f + 1) for s in GRID for f in range(4)]
    assert all(row["converged"] == "True" and float(row["gap"]) <= 1e-6 for row in rows)
    assert imread(folder / "cv.png").shape[0] > 300
    assert (
        "| strength of the penalty | 0.01, by rule=best of 4 folds, of 5 strengths |"
        in (folder / "model.md").read_text()
    )


def test_the_record_has_both_choices_and_the_means_of_the_folds(folder):
    record, rows = record_of(folder), table(folder / "cv.csv")
    losses = np.array([float(row["loss"]) for row in rows]).reshape(len(GRID), 4)
    mean, error = losses.mean(axis=1), losses.std(axis=1, ddof=1) / 2
    best = int(mean.argmin())
    within = int((mean <= mean[best] + error[best]).argmax())
    found = record["cross_validation"]
    assert (found["folds"], found["rule"], found["strength"]) == (4, "best", GRID[best])
    for rule, place in (("best", best), ("1se", within)):
        expected = {"strength": GRID[place], "loss": mean[place], "standard_error": error[place]}
        assert found[rule] == pytest.approx(expected, rel=1e-12)
    assert found["strengths"] == GRID
    assert found["not_converged"] == []
    assert record["metrics"]["val_loss"] == pytest.approx(mean[best], rel=1e-12)
    accuracies = [float(row["accuracy"]) for row in rows if float(row["strength"]) == GRID[best]]
    assert record["metrics"]["val_accuracy"] == pytest.approx(np.mean(accuracies), rel=1e-12)
    assert record["converged"]
    assert set(record["table_sha256"]) == {"metrics.csv", "cv.csv"}


def test_1se_takes_a_stronger_penalty(folder, tmp_path):
    run(replace(FOLDED, rule="1se"), tmp_path)
    assert (tmp_path / "cv.csv").read_bytes() == (folder / "cv.csv").read_bytes()
    found = record_of(tmp_path)["cross_validation"]
    assert found["strength"] == found["1se"]["strength"] > found["best"]["strength"]


def test_the_model_is_that_of_a_run_at_the_chosen_strength_on_all_rows_that_are_no_test_rows(folder, tmp_path):
    found = record_of(folder)["cross_validation"]["strength"]
    alone = replace(FOLDED, folds=None, valid_fraction=0.0, penalty={"name": "l2", "strength": found})
    run(alone, tmp_path)
    one, other = (Model.load(place / "model.npz") for place in (folder, tmp_path))
    assert_array_equal(one.standardizer.mean, other.standardizer.mean)
    assert_allclose(one.w, other.w, atol=1e-3)
    assert one.split == other.split
    tests = [json.loads((place / "evaluation.json").read_text())["test"]["metrics"] for place in (folder, tmp_path)]
    assert tests[0]["log_loss"] == pytest.approx(tests[1]["log_loss"], rel=1e-3)


def test_the_choice_is_that_of_logistic_regression_cv_on_the_same_folds(folder):
    """On the rows that are no test rows, standardised once."""
    training, folds = rows_in(replace(FOLDED, valid_fraction=0.0))
    data = training.data.train
    total = len(folds[0].train)
    assert all(abs(len(fold.train) - total) <= 1 for fold in folds)
    settings = {"solver": "newton-cholesky", "tol": 1e-10, "max_iter": 1000, "l1_ratios": (0,)}
    peer = LogisticRegressionCV(
        Cs=[2 / (strength * total) for strength in GRID],  # it penalises one column
        cv=[(fold.train, fold.test) for fold in folds],
        scoring="neg_log_loss",
        use_legacy_attributes=False,
        **settings,
    ).fit(data.x, data.y)
    losses = np.array([float(row["loss"]) for row in table(folder / "cv.csv")]).reshape(len(GRID), 4)
    assert_allclose(losses, -peer.scores_[:, 0].T, rtol=5e-3)
    assert 2 / (peer.C_ * total) == pytest.approx(record_of(folder)["cross_validation"]["strength"])


def test_the_test_rows_have_no_share_in_it(folder, tmp_path, monkeypatch):
    """They are changed beyond recognition, and every number of the folds and the model stays."""
    plain = BreastCancer.__call__
    taken = prepared(FOLDED, 3, assemble(FOLDED), None, None).test
    names = {row.tobytes() for row in taken.x}

    def spoilt(self, seed):
        data = plain(self, seed)
        strange = np.array([row.tobytes() in names for row in data.x])
        return replace(data, x=np.where(strange[:, None], 1e6, data.x))

    monkeypatch.setattr(BreastCancer, "__call__", spoilt)
    run(FOLDED, tmp_path)
    assert len(taken) == 143
    assert (tmp_path / "cv.csv").read_bytes() == (folder / "cv.csv").read_bytes()
    assert_array_equal(Model.load(tmp_path / "model.npz").w, Model.load(folder / "model.npz").w)


def test_weights_of_classes_are_those_of_each_folds_training_rows(tmp_path):
    balanced = replace(FOLDED, class_weight="balanced", penalty={"name": "l2", "strength": [0.1, 0.01]})
    run(balanced, tmp_path)
    training, folds = rows_in(replace(balanced, valid_fraction=0.0))
    data = training.folded[0]
    for row in table(tmp_path / "cv.csv"):
        fold = folds[int(row["fold"]) - 1]
        x, y = data.x[fold.train], data.y[fold.train]
        C = 2 / (float(row["strength"]) * len(y))  # balanced weights have the sum of the rows
        peer = LogisticRegression(C=C, class_weight="balanced", tol=1e-10, solver="newton-cholesky").fit(x, y)
        p = peer.predict_proba(data.x[fold.test])[np.arange(len(fold.test)), data.y[fold.test]]
        assert float(row["loss"]) == pytest.approx(-np.log(p).mean(), rel=5e-3)


def test_a_loss_on_rows_held_out_is_on_plain_targets(tmp_path):
    smooth = replace(FOLDED, label_smoothing=0.3, penalty={"name": "l2", "strength": [0.1, 0.01]})
    run(replace(smooth, metrics=["log_loss"]), tmp_path)
    for row in table(tmp_path / "cv.csv"):
        assert float(row["loss"]) == pytest.approx(float(row["log_loss"]), rel=1e-9)


@pytest.mark.parametrize(
    ("penalty", "zero"),
    [(L1(), 0.0), (ElasticNet(l1_ratio=0.5), 0.0), (L2(), 0.01), (ElasticNet(l1_ratio=1e-4), 0.01)],
    ids=repr,
)
def test_an_automatic_grid_begins_where_the_weights_have_no_effect(penalty, zero):
    """Zero weights, or within 1 % of the loss without features; a third of it has an effect."""
    training, _ = rows_in(replace(FOLDED, data={"name": "iris"}, valid_fraction=0.0))
    objective, data = replace(training.parts.objective, penalty=penalty), training.data.train
    grid = automatic(objective, data)
    strengths = [one.strength for one in grid]
    assert len(grid) == 20
    assert strengths == sorted(strengths, reverse=True)
    assert_allclose(np.diff(np.log(strengths)), np.log(strengths[1] / strengths[0]), rtol=1e-9)
    gains, sizes = [], []
    for strength in (strengths[0], strengths[0] / 1.1, strengths[0] / 30):
        alone = replace(training.parts.objective, penalty=replace(penalty, strength=strength))
        w = fitted(alone, data)
        loss = -np.log(alone.activation(data.x @ w[:-1] + w[-1])[np.arange(len(data)), data.y]).mean()
        null = -np.sum(np.bincount(data.y) / len(data) * np.log(np.bincount(data.y) / len(data)))
        gains.append(1 - loss / null)
        sizes.append(np.abs(w[:-1]).max())
    if zero == 0:
        assert sizes[0] == 0 < sizes[1]
    else:
        assert 0.003 < gains[0] <= zero < gains[2]
    assert strengths[0] / strengths[-1] == pytest.approx(1e4 if zero == 0 else 1e6)


def fitted(objective, data):
    from trainer.optimizers import Auto
    from trainer.optimizers.fit import TrainState, fit

    solver = Auto(tol=1e-10, gap=1e-10)
    *_, last = fit(objective, solver, data, None, TrainState.start(solver, data), epochs=500)
    return last.state.w


def test_an_automatic_grid_needs_a_feature_that_matters(tmp_path):
    (tmp_path / "a.csv").write_text("a,y\n" + "1,no\n1,yes\n" * 20)
    constant = {"name": "file", "path": str(tmp_path / "a.csv"), "target": "y"}
    settings = replace(FOLDED, data=constant, penalty={"name": "l2", "strength": "auto"}, test_fraction=0.0)
    with pytest.raises(DataError, match=r"penalty\.strength=auto finds no strength to begin with"):
        run(settings, tmp_path / "run")


def test_folds_are_dealt_evenly_class_by_class():
    labels = np.repeat([0, 2, 3], [7, 5, 33])
    folds = stratified(labels, 4, seed=0)
    for counts in (np.bincount(folds), *(np.bincount(folds[labels == k], minlength=4) for k in (0, 2, 3))):
        assert counts.max() - counts.min() <= 1
    assert not np.array_equal(folds, stratified(labels, 4, seed=1))
    assert_array_equal(folds, stratified(labels, 4, seed=0))


def test_the_end_of_a_grid_is_said(tmp_path, caplog):
    run(replace(FOLDED, penalty={"name": "l2", "strength": [10.0, 1.0]}), tmp_path / "weak")
    assert "Strength 1 is the weakest and does best, and a weaker one may do better" in caplog.text
    caplog.clear()
    run(replace(FOLDED, penalty={"name": "l2", "strength": [0.01, 1e-6]}), tmp_path / "strong")
    assert "Strength 0.01 is the strongest and is chosen, and a stronger one may do better" in caplog.text
    caplog.clear()
    run(replace(FOLDED, penalty={"name": "l2", "strength": [1.0, 0.01, 1e-6]}), tmp_path / "between")
    assert "may do better" not in caplog.text


@pytest.mark.parametrize(
    ("changes", "way"),
    [
        ({"epochs": 1}, "Raise epochs=1."),
        ({"optimizer": {"name": "newton", "gap": 1e-300}}, "The solver can do no more for them."),
    ],
    ids=str,
)
def test_cells_that_have_not_converged_are_named(changes, way, tmp_path, caplog):
    run(replace(FOLDED, **changes, plots=True), tmp_path)
    rows, found = table(tmp_path / "cv.csv"), record_of(tmp_path)["cross_validation"]
    late = [s for s in GRID if any(row["converged"] == "False" for row in rows if float(row["strength"]) == s)]
    assert found["strength"] in late
    assert found["not_converged"] == late
    names = ", ".join(f"{strength:.4g}" for strength in late)
    sentence = f"Cells at strength {names} did not converge, so their loss is not that of the minimum"
    assert f"{sentence}; the chosen {found['strength']:.4g} is one of them. {way}" in caplog.text


def test_one_that_was_killed_starts_anew_and_a_finished_one_stays(tmp_path, caplog):
    run(FOLDED, tmp_path)
    cells, model = (tmp_path / "cv.csv").read_bytes(), (tmp_path / "model.npz").read_bytes()
    with caplog.at_level("INFO"):
        assert resume(FOLDED, tmp_path) is None
    assert "is already finished" in caplog.text
    record = record_of(tmp_path)
    record["status"] = "running"
    del record["sha256"]
    (tmp_path / "run.json").write_text(json.dumps(record))
    (tmp_path / "cv.csv").write_text("half")
    with caplog.at_level("INFO"):
        resume(FOLDED, tmp_path)
    assert "has no checkpoint yet, so it starts anew" in caplog.text
    assert (tmp_path / "cv.csv").read_bytes() == cells
    assert (tmp_path / "model.npz").read_bytes() == model


def test_an_interruption_of_the_choice_leaves_a_record(tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr("trainer.runs.cross_validation.cross_validate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(FOLDED, tmp_path)
    assert record_of(tmp_path)["status"] == "interrupted"
    assert not (tmp_path / "cv.csv").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"folds": 1}, r"folds must be at least 2, or null for no cross-validation, got 1\."),
        ({"folds": -3}, "folds must be at least 2"),
        ({"rule": "2se"}, "rule=2se is not known; did you mean 1se"),
        ({"folds": 0, "rule": "1se", "penalty": {"name": "none"}}, r"rule=1se chooses a strength\. Add folds=5 with"),
        ({"folds": None, "penalty": {"name": "l2", "strength": "auto"}}, "strength=auto is a grid to choose from"),
        (
            {"penalty": {"name": "none"}},
            r"folds=4 chooses a strength, and penalty=none has none\. Take penalty=l2 with",
        ),
        ({"penalty": {"name": "l2"}}, r"folds=4 chooses among strengths, and penalty\.strength=0\.001 is one\. Give"),
        ({"penalty": {"name": "l2", "strength": [0.1]}}, r"penalty\.strength=\[0\.1\] is one"),
        (
            {"callbacks": {"early_stopping": {}}},
            "folds=4 chooses by many trainings, and callbacks=early_stopping watch",
        ),
        ({"experiment": {"name": "question"}}, "folds=4 chooses by many trainings, and experiment=question"),
        ({"folds": 1000}, r"folds=1000 of 426 samples leaves some folds without any\. Take fewer folds"),
    ],
    ids=str,
)
def test_what_is_refused_leaves_no_folder(changes, words, tmp_path):
    with pytest.raises((ConfigError, DataError), match=words) as caught:
        run(replace(FOLDED, **changes), tmp_path / "run")
    assert caught.value.exit_code == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"optimizer": {"name": "adam"}}, "optimizer=adam does not say when it is at the minimum.*Take a solver"),
        ({"loss": {"name": "brier"}}, "activation=softmax with loss=brier is not convex"),
    ],
)
def test_a_sweep_skips_what_cannot_be_compared(changes, words):
    with pytest.raises(Incompatible, match=words):
        assemble(replace(FOLDED, **changes))


def test_a_class_of_one_sample_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("a,y\n" + "1,no\n2,yes\n" * 10 + "3,maybe\n")
    data = {"name": "file", "path": str(tmp_path / "a.csv"), "target": "y"}
    with pytest.raises(DataError, match="A class has one sample only"):
        run(replace(FOLDED, data=data, test_fraction=0.0), tmp_path / "run")


def test_no_folds_are_written_as_zero_too(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(replace(SETTINGS, folds=0), tmp_path)
    assert not (tmp_path / "cv.csv").exists()
    assert record_of(tmp_path)["split"]["valid_rows"] == 40


def test_the_command_line_takes_it(call, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    words = "data=iris penalty=l1 penalty.strength=auto folds=3 rule=1se optimizer=auto epochs=500 plots=false"
    said = call(*words.split(), "hydra.run.dir=out")
    found = record_of(tmp_path / "out")
    assert "20 strengths on 3 folds in " in said.err + said.out
    assert found["config"]["penalty"]["strength"] == "auto"
    assert found["config"]["valid_fraction"] == 0.2  # as it was given
    assert found["split"]["valid_rows"] == 0
    assert found["cross_validation"]["strength"] == found["cross_validation"]["1se"]["strength"]


@pytest.mark.parametrize("word", ["cv=5", "n_splits=5", "kfold=5", "fold=5"])
def test_other_names_of_it_are_known(call, word):  # noqa: F811
    assert call(word).err.startswith(f"There is no key {word[:-2]}; did you mean folds?")


@pytest.mark.processes
def test_jobs_of_a_sweep_choose_too_and_are_ranked_by_the_means_of_their_folds(call, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    words = "data=iris penalty=l2 penalty.strength=auto folds=3 optimizer=auto,sgd rule=best,1se hydra.sweep.dir=out"
    said = call("-m", *words.split())
    assert said.code == 0
    assert "optimizer=sgd does not say when it is at the minimum" in said.out + said.err
    rows = {row["folder"][-1]: row for row in table(tmp_path / "out" / "summary.csv")}
    assert [rows[place]["status"] for place in "0123"] == ["finished", "finished", "skipped", "skipped"]
    for place in "01":
        found = record_of(tmp_path / "out" / place)["cross_validation"]
        assert float(rows[place]["final_val_loss"]) == found[found["rule"]]["loss"]
