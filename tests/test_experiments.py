import re

import pytest

from tests.test_run import SETTINGS
from trainer.activations import LogSoftmax, Softmax
from trainer.errors import ConfigError
from trainer.experiments import Question
from trainer.gradients import GRADIENTS, auto
from trainer.losses import CrossEntropy, NegativeLogLikelihood
from trainer.objective import Objective
from trainer.penalties import NoPenalty


def lines_of(activation, loss, tmp_path):
    lines = []
    Question(repeats=1)(SETTINGS, Objective(activation, loss, auto, NoPenalty()), tmp_path, lines.append)
    return lines


def test_the_question_is_answered_for_every_strategy_in_a_table_and_two_lines(tmp_path):
    lines = lines_of(Softmax(), CrossEntropy(), tmp_path)
    assert "N=100, D=2, K=4" in lines[0]
    table = {line.split()[0]: line.split()[1:] for line in lines[2:-2]}
    assert set(table) == set(GRADIENTS)
    for name, (deviation, _, unit, _, size) in table.items():
        assert float(deviation) < (1e-8 if name == "numeric" else 1e-14)
        assert (unit, size) == ("us", "KiB")
    assert "einsum('nj,njk->nk', dE/da, da/dz)" in lines[-2]
    assert "a * (g - sum(a * g))" in lines[-1]
    assert int(re.search(r"(\d+) times as fast as the loop", lines[-2])[1]) > 1


def test_a_strategy_that_the_pair_lacks_is_said_to_be_missing(tmp_path):
    missing = [
        line for line in lines_of(LogSoftmax(), NegativeLogLikelihood(), tmp_path) if "no formula for this pair" in line
    ]
    assert [line.split()[0] for line in missing] == ["log"]


def test_sizes_are_checked():
    with pytest.raises(ConfigError, match=r"experiment\.samples must be at least 1"):
        Question(samples=0)
