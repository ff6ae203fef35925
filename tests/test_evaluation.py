"""The evaluation of a model: scikit-learn's figures, beside those of its own baseline."""

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.image import imread
from numpy.testing import assert_allclose, assert_array_equal
from omegaconf import OmegaConf
from sklearn import metrics as peer
from sklearn.dummy import DummyClassifier

from trainer.chain.activations import Identity, Sigmoid, Softmax
from trainer.commands.evaluate import evaluate
from trainer.data.rows import Data, split
from trainer.data.sources import Blobs
from trainer.errors import ConfigError, DataError
from trainer.objective.metrics import METRICS
from trainer.runs import evaluation as module
from trainer.runs.config import Settings
from trainer.runs.evaluation import evaluated, evaluation, shares_of
from trainer.runs.model import Model
from trainer.runs.plots import evaluations
from trainer.runs.run import run

SETTINGS = Settings(
    activation={"name": "softmax"},
    loss={"name": "ce"},
    gradient={"name": "auto"},
    optimizer={"name": "newton"},
    schedule={"name": "constant"},
    penalty={"name": "l2", "strength": 0.01},
    data={"name": "blobs"},
    epochs=20,
    plots=False,
)
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def predictions(classes, rows=200, seed=0, weighted=False, absent=False):
    """Probabilities that know something of the labels, and the rows with these labels."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(classes - absent, rows, p=rng.dirichlet(np.full(classes - absent, 3.0)))
    z = rng.normal(size=(rows, classes)) + 1.5 * np.eye(classes)[labels]
    weight = rng.uniform(0.1, 3, rows) if weighted else None
    names = tuple(f"class {k}" for k in range(classes))
    return Softmax()(z), Data(np.zeros((rows, 1)), labels, names, ("x",), weight=weight)


def shares(data):
    return shares_of({}, data)


@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("absent", [False, True], ids=["", "without a class"])
@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.filterwarnings("ignore:y_pred contains classes")
def test_every_figure_is_that_of_scikit_learn(classes, absent, weighted):
    if classes == 2 and absent:
        pytest.skip("one class")
    a, data = predictions(classes, weighted=weighted, absent=absent)
    found = evaluation(a, data, Softmax(), shares(data))
    y, says, weight = data.y, a.argmax(axis=1), {"sample_weight": data.weight}
    there = np.unique(y)
    area = [peer.roc_auc_score(y == k, a[:, k], **weight) for k in there]
    assert_allclose(found.metrics.pop("ece"), METRICS["ece"].finish(mean(METRICS["ece"], a, data)), **EXACT)
    expected = {
        "accuracy": peer.accuracy_score(y, says, **weight),
        "balanced_accuracy": peer.balanced_accuracy_score(y, says, **weight),
        "macro_f1": peer.f1_score(y, says, average="macro", **weight),
        "log_loss": peer.log_loss(y, a, labels=range(classes), **weight),
        "brier": peer.brier_score_loss(y, a, labels=range(classes), scale_by_half=False, **weight),
        "roc_auc": np.mean(area),
    }
    assert found.metrics.keys() == expected.keys()
    for name, value in expected.items():
        assert_allclose(found.metrics[name], value, err_msg=name, **EXACT)
    each = peer.precision_recall_fscore_support(y, says, labels=range(classes), zero_division=0, **weight)
    for kind, numbers in zip(("precision", "recall", "f1"), each, strict=False):
        assert_allclose([one[kind] for one in found.classes], numbers, **EXACT)
    assert_allclose(sum(one["support"] for one in found.classes), len(y) if not weighted else data.weight.sum())
    assert_allclose(found.confusion, peer.confusion_matrix(y, says, labels=range(classes), **weight), **EXACT)


def mean(metric, a, data):
    return np.average(metric.statistics(a, data.plain_targets(a.dtype)), axis=0, weights=data.weight)


def test_two_classes_have_the_area_that_scikit_learn_gives_of_the_second():
    a, data = predictions(2)
    found = evaluation(a, data, Softmax(), shares(data)).metrics["roc_auc"]
    assert_allclose(found, peer.roc_auc_score(data.y, a[:, 1]), **EXACT)


def test_the_baseline_is_scikit_learns_dummy_of_the_training_shares():
    a, data = predictions(4)
    before = np.repeat(range(4), [50, 20, 20, 10])
    dummy = DummyClassifier(strategy="prior").fit(np.zeros((100, 1)), before)
    found = evaluation(a, data, Softmax(), shares_of({"class_rows": [50, 20, 20, 10]}, data))
    assert found.most == "class 0"
    assert_allclose(found.baseline["accuracy"], dummy.score(data.x, data.y), **EXACT)
    assert_allclose(found.baseline["log_loss"], peer.log_loss(data.y, dummy.predict_proba(data.x)), **EXACT)
    assert found.baseline["roc_auc"] == 0.5
    assert_allclose(found.baseline["balanced_accuracy"], 0.25, **EXACT)


def test_reliability_gives_the_calibration_error_back():
    a, data = predictions(3, weighted=True)
    found = evaluation(a, data, Softmax(), shares(data))
    confidence, accuracy, share = np.array(found.reliability).T
    assert_allclose(share.sum(), 1, **EXACT)
    assert_allclose(share @ np.abs(accuracy - confidence), found.metrics["ece"], **EXACT)


def test_figures_that_need_probabilities_are_missing_without_them():
    a, data = predictions(3)
    assert evaluation(a, data, Identity(), shares(data)).metrics.keys() == {
        "accuracy", "balanced_accuracy", "macro_f1", "roc_auc",
    }  # fmt: skip
    assert "log_loss" not in evaluation(a, data, Sigmoid(), shares(data)).metrics


def test_soft_targets_count_by_their_largest_and_rows_without_one_do_not_count():
    a, data = predictions(3)
    y = np.eye(3)[data.y] * 0.7 + 0.1
    y[5] = 0
    soft = evaluation(a, replace(data, y=y), Softmax(), shares(data))
    kept = np.arange(len(y)) != 5
    assert soft.rows == len(y) - 1
    assert (
        soft.metrics["accuracy"]
        == evaluation(a[kept], data.only(np.flatnonzero(kept)), Softmax(), shares(data)).metrics["accuracy"]
    )


def test_of_many_rows_a_sample_is_evaluated(monkeypatch):
    a, data = predictions(3)
    data = replace(data, x=a)
    monkeypatch.setattr(module, "LARGEST", 3 * 50)
    found = evaluated(lambda x: x, data, Softmax(), shares(data))
    assert (found.rows, found.of) == (50, 200)
    assert found.metrics == evaluation(a[::4], data.only(np.arange(0, 200, 4)), Softmax(), shares(data)).metrics


@pytest.mark.parametrize("classes", [2, 12, 60])
def test_pictures_are_drawn_for_any_number_of_classes(classes, tmp_path):
    a, data = predictions(classes, rows=500)
    data = replace(data, classes=tuple(f"a long name with a $ sign, number {k}" for k in range(classes)))
    files = evaluations(tmp_path, "softmax + ce", {"test": evaluation(a, data, Softmax(), shares(data))})
    assert [file.name for file in files] == ["confusion.png", "reliability.png"]
    for file in files:
        assert 0.01 < (imread(file)[..., :3].min(axis=2) < 0.99).mean() < 0.9


def churn(path, rows=500, seed=0):
    """88 % of the customers stay, and nothing tells who does not."""
    rng = np.random.default_rng(seed)
    y = np.where(np.arange(rows) % 25 < 22, "stay", "leave")
    lines = [f"{a},{b},{label}" for (a, b), label in zip(rng.normal(size=(rows, 2)), y, strict=True)]
    path.write_text("\n".join(["a,b,churn", *lines]) + "\n")
    return path


def trained(tmp_path, **changes):
    file = {"name": "file", "path": str(churn(tmp_path / "churn.csv")), "target": "churn"}
    settings = replace(
        SETTINGS, data=file, optimizer={"name": "newton"}, penalty={"name": "l2", "strength": 0.1}, **changes
    )
    return run(settings, tmp_path / "run").folder


def test_a_run_that_is_no_better_than_always_saying_stay_says_so(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "trainer"):
        folder = trained(tmp_path)
    said = "The model is no better than always saying stay: its accuracy is 0.88, that of the baseline 0.88."
    assert any(said in line for line in caplog.messages)
    content = json.loads((folder / "evaluation.json").read_text())["validation"]
    assert content["verdict"].startswith(said)
    assert content["baseline"]["says"] == "stay"
    assert content["metrics"]["balanced_accuracy"] == 0.5
    assert [one["class"] for one in content["classes"]] == ["leave", "stay"]


def test_a_test_fraction_is_held_out_of_everything_and_evaluated_once(tmp_path):
    changes = {"optimizer": {"name": "newton"}, "standardize": True, "data": {"name": "blobs"}, "test_fraction": 0.25}
    folder = run(replace(SETTINGS, **changes), tmp_path / "run").folder
    rest, test = split(Blobs()(SETTINGS.seed), 0.25, SETTINGS.seed)
    model, record = Model.load(folder / "model.npz"), json.loads((folder / "run.json").read_text())
    assert record["split"]["train_rows"] + record["split"]["valid_rows"] == len(rest)
    content = json.loads((folder / "evaluation.json").read_text())
    assert list(content) == ["validation", "test"]
    assert content["test"]["rows"] == len(test)
    assert content["test"]["metrics"]["accuracy"] == np.mean(model.predict(test.x).argmax(axis=1) == test.y)


def test_a_test_file_is_that_of_trainer_evaluate(tmp_path, capsys):
    test = churn(tmp_path / "test.csv", rows=100, seed=1)
    file = {"name": "file", "path": str(churn(tmp_path / "churn.csv")), "target": "churn", "test_path": str(test)}
    folder = run(replace(SETTINGS, data=file), tmp_path / "run").folder
    inside = json.loads((folder / "evaluation.json").read_text())["test"]
    data = {"name": "file", "path": str(test), "target": None, "test_path": None, "in_memory": None}
    evaluate(OmegaConf.create({"model": str(folder), "data": data, "output": None, "threads": 1, "plots": True}))
    content = json.loads((folder / "test-evaluation" / "evaluation.json").read_text())
    assert content["test"] == inside
    assert "100 rows, beside always stay: accuracy" in capsys.readouterr().out
    assert sorted(file.name for file in (folder / "test-evaluation").iterdir()) == [
        "confusion.png", "evaluation.json", "reliability.png",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("b,a,churn\n1,2,gone\n", "knows no class 'gone'; it has 'leave', 'stay'"),
        ("b,a\n1,2\n", "has no labels to compare with; name them by data.target=..."),
        ("b,churn\n1,stay\n", "missing: 'a'"),
        ("b,a,churn\n", "has no rows of data"),
    ],
)
def test_a_test_file_that_does_not_fit_is_refused(text, said, tmp_path):
    (tmp_path / "test.csv").write_text(text)
    file = {"name": "file", "path": str(churn(tmp_path / "churn.csv")), "target": "churn"}
    file["test_path"] = str(tmp_path / "test.csv")
    with pytest.raises((DataError, ConfigError), match=said):
        run(replace(SETTINGS, data=file), tmp_path / "run")


def test_columns_in_another_order_are_the_same_test(tmp_path):
    path = churn(tmp_path / "churn.csv")
    (tmp_path / "turned.csv").write_text(
        "\n".join(",".join(reversed(line.split(","))) for line in path.read_text().split())
    )
    file = {"name": "file", "path": str(path), "target": "churn"}
    found = [
        json.loads(
            (
                run(replace(SETTINGS, data=file | {"test_path": str(other)}), tmp_path / "run").folder
                / "evaluation.json"
            ).read_text()
        )
        for other in (path, tmp_path / "turned.csv")
    ]
    assert found[0] == found[1]


def test_one_test_set_is_enough(tmp_path):
    path = str(churn(tmp_path / "churn.csv"))
    file = {"name": "file", "path": path, "target": "churn", "test_path": path}
    with pytest.raises(ConfigError, match="two test sets; leave one out"):
        run(replace(SETTINGS, data=file, test_fraction=0.2), tmp_path / "run")


def test_the_shares_of_a_model_that_does_not_know_them_are_those_of_the_rows():
    _, data = predictions(3)
    for wrong in ([], [1, 2], [0, 0, 0], [-1, 2, 3], ["a", "b", "c"], [[1, 2, 3]]):
        assert_array_equal(shares_of({"class_rows": wrong}, data), np.bincount(data.y) / len(data))


def test_rows_of_which_none_has_a_target_are_not_evaluated(tmp_path):
    x = np.random.default_rng(0).normal(size=(40, 2))
    np.savez(tmp_path / "train.npz", x=x, y=np.eye(2)[(x[:, 0] > 0).astype(int)])
    np.savez(tmp_path / "empty.npz", x=x, y=np.zeros((40, 2)))
    data = {"name": "file", "path": str(tmp_path / "train.npz"), "test_path": str(tmp_path / "empty.npz")}
    folder = run(replace(SETTINGS, data=data), tmp_path / "run").folder
    assert list(json.loads((folder / "evaluation.json").read_text())) == ["validation"]
    data = {"name": "file", "path": str(tmp_path / "empty.npz")}
    with pytest.raises(DataError, match="no row with a target"):
        evaluate(OmegaConf.create({"model": str(folder), "data": data}))


def test_an_evaluation_is_written_over_only_where_that_is_asked_for_and_that_of_a_run_never(tmp_path):
    path = str(churn(tmp_path / "churn.csv"))
    folder = run(replace(SETTINGS, data={"name": "file", "path": path, "target": "churn"}), tmp_path / "run").folder
    given = {"model": str(folder), "data": {"name": "file", "path": path}, "plots": False}
    evaluate(OmegaConf.create(given))
    with pytest.raises(ConfigError, match=r"evaluation.json exists; name another folder by output=..., or set overwri"):
        evaluate(OmegaConf.create(given))
    evaluate(OmegaConf.create(given | {"overwrite": True}))
    before = (folder / "evaluation.json").read_bytes()
    with pytest.raises(ConfigError, match="is the folder of a run, which has its own evaluation"):
        evaluate(OmegaConf.create(given | {"output": str(folder), "overwrite": True}))
    assert (folder / "evaluation.json").read_bytes() == before


def test_a_test_file_of_an_array_needs_its_own_labels(tmp_path):
    with pytest.raises(ConfigError, match=r"would have the labels of data.target=y.npy. Put its x and y into one .npz"):
        run(
            replace(SETTINGS, data={"name": "file", "path": "x.npy", "target": "y.npy", "test_path": "t.npy"}), tmp_path
        )
