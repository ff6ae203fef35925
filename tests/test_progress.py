import io

import numpy as np
import pytest

from trainer.chain.activations import Softmax
from trainer.chain.losses import CrossEntropy
from trainer.chain.strategies import fused
from trainer.data.rows import Data
from trainer.objective.objective import Objective
from trainer.objective.penalties import NoPenalty
from trainer.objective.problem import Problem
from trainer.runs import run as module


def test_every_pass_reports_its_rows_in_blocks():
    done = []
    data = Data(np.ones((70_001, 3)), np.zeros(70_001, dtype=int), (0, 1), tuple("abc"))
    problem = Problem(Objective(Softmax(), CrossEntropy(), fused, NoPenalty(), threads=2, progress=done.append), data)
    problem.value_and_grad(np.zeros((4, 2)))
    assert sum(done) == 70_001
    assert len(done) > 1
    problem.evaluate(np.zeros((4, 2)), {})
    assert sum(done) == 140_002


@pytest.mark.parametrize(("seconds", "seen"), [(0.0, True), (60.0, False)])
def test_a_bar_appears_only_if_an_epoch_takes_long(monkeypatch, seconds, seen):
    screen = io.StringIO()
    plain = module.tqdm

    def shown(**settings):
        return plain(**{**settings, "file": screen, "disable": False, "mininterval": 0})

    monkeypatch.setattr(module, "tqdm", shown)
    monkeypatch.setattr(module, "AFTER", seconds)
    bar = module.RowBar()
    bar.finish()
    for _ in range(3):
        bar(5000)
    bar.finish()
    assert ("row/s" in screen.getvalue()) == seen
