"""Every cell of a cross-validation is the minimum over its fold's training rows, measured on those held out."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold

from trainer.chain.activations import Softmax
from trainer.chain.losses import CrossEntropy
from trainer.chain.strategies import auto
from trainer.data.rows import Data, for_training
from trainer.objective.metrics import METRICS
from trainer.objective.objective import Objective
from trainer.objective.penalties import L1, L2, ElasticNet
from trainer.objective.problem import Problem
from trainer.optimizers import Auto
from trainer.optimizers.cross_validation import Fold, cross_validate, training_rows

CS = [1e-3, 0.1, 10.0, 1e3]


def some_data(n=150, features=6, classes=3, seed=0, weights=False):
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, features)) * np.exp(random.normal(size=features)) + random.normal(size=features)
    z = x @ random.normal(size=(features, classes))
    y = (z / z.std() * 2 + random.gumbel(size=z.shape)).argmax(axis=1)
    weight = random.integers(0, 4, size=n).astype(float) if weights else None
    return Data(x, y, tuple(range(classes)), tuple(f"x{d}" for d in range(features)), weight=weight)


def folds_of(data, number=4):
    return [Fold(*fold) for fold in StratifiedKFold(number).split(data.x, data.labels)]


def cells_of(data, folds, penalties, objective=None, metrics=None, epochs=300):
    objective = objective or Objective(Softmax(), CrossEntropy(), auto, L2(1.0))
    cells = cross_validate(objective, Auto(), data, folds, penalties, epochs=epochs, metrics=metrics or {})
    return {(cell.fold, cell.place): cell for cell in cells}


def by_c(total):
    return [L2(1 / (c * total)) for c in CS]


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("weights", [False, True])
def test_every_cell_is_a_fit_of_scikit_learn(classes, weights):
    data = some_data(classes=classes, weights=weights)
    folds = folds_of(data)
    cells = cells_of(data, folds, by_c, metrics={"accuracy": METRICS["accuracy"]})
    assert sorted(cells) == [(f, s) for f in range(len(folds)) for s in range(len(CS))]
    for (f, s), cell in cells.items():
        train, test = training_rows(data, folds[f]), data.rows(folds[f].test)
        c = CS[s] * (2 if classes == 2 else 1)  # it penalises one column, and we two, of half of its numbers
        peer = LogisticRegression(C=c, tol=1e-10, max_iter=10_000).fit(train.x, train.y, train.weight)
        expected = log_loss(test.y, peer.predict_proba(test.x), sample_weight=test.weight)
        assert cell.certified
        assert cell.metrics["loss"] == pytest.approx(expected, rel=2e-3)
        weight = np.ones(len(test)) if test.weight is None else test.weight
        assert cell.metrics["accuracy"] == pytest.approx(peer.score(test.x, test.y, weight), abs=0.03)


@pytest.mark.parametrize("kind", [L1, L2, lambda strength: ElasticNet(strength, 0.3)])
def test_a_cell_is_no_further_from_its_minimum_than_it_says(kind):
    data = some_data(seed=1)
    folds = folds_of(data)
    objective = Objective(Softmax(), CrossEntropy(), auto, L2(1.0))
    for (f, _), cell in cells_of(data, folds, lambda total: [kind(0.1), kind(1e-3)]).items():
        problem = Problem(replace(objective, penalty=cell.penalty), training_rows(data, folds[f]))
        value, _ = problem.value_and_grad(cell.w)
        w, state, best = cell.w, Auto().init(cell.w), value
        for _ in range(100):
            step = Auto(tol=1e-14, gap=1e-13).step(problem, w, state)
            w, state, best = step.w, step.state, min(best, step.value)
        assert cell.certified
        assert value - best <= cell.proof.gap * value + 1e-14


def test_folds_bring_weights_of_their_own():
    data = some_data(seed=2)
    folds = []
    for train, test in StratifiedKFold(3).split(data.x, data.labels):
        folds.append(Fold(train, test, for_training(data.rows(train), 0.0, "balanced").weight))
    for (f, s), cell in cells_of(data, folds, by_c).items():
        alone = for_training(data.rows(folds[f].train), 0.0, "balanced")
        objective = Objective(Softmax(), CrossEntropy(), auto, by_c(alone.weight.sum())[s])
        assert np.abs(Problem(objective, alone).value_and_grad(cell.w)[1]).max() < 1e-3
        assert cell.penalty.strength == pytest.approx(objective.penalty.strength)
