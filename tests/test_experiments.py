import re
from dataclasses import replace

import pytest

from tests.test_run import SETTINGS
from trainer.chain.activations import LogSoftmax, Softmax
from trainer.chain.losses import CrossEntropy, NegativeLogLikelihood
from trainer.chain.strategies import GRADIENTS, auto
from trainer.errors import ConfigError
from trainer.objective.objective import Objective
from trainer.objective.penalties import NoPenalty
from trainer.runs.experiments import EXPERIMENTS, Question
from trainer.runs.run import run


def lines_of(experiment, *pair):
    lines = []
    experiment(Objective(*pair, auto, NoPenalty()), 3, lines.append)
    return lines


def test_the_question_is_answered_for_every_strategy_in_a_table_and_two_lines():
    lines = lines_of(Question(repeats=1), Softmax(), CrossEntropy())
    assert "N=100, D=2, K=4" in lines[0]
    table = {line.split()[0]: line.split()[1:] for line in lines[2:-2]}
    assert set(table) == set(GRADIENTS)
    for name, (deviation, _, unit, _, size) in table.items():
        assert float(deviation) < (1e-8 if name == "numeric" else 1e-14)
        assert (unit, size) == ("us", "KiB")
    assert "einsum('nj,njk->nk', dE/da, da/dz)" in lines[-2]
    assert "a * (g - sum(a * g))" in lines[-1]
    assert int(re.search(r"(\d+) times as fast as the loop", lines[-2])[1]) > 1


def test_a_strategy_that_the_pair_lacks_is_said_to_be_missing():
    lines = lines_of(Question(repeats=1), LogSoftmax(), NegativeLogLikelihood())
    missing = [line for line in lines if "no formula for this pair" in line]
    assert [line.split()[0] for line in missing] == ["log"]


@pytest.mark.parametrize("name", ["samples", "features", "classes", "repeats"])
def test_what_is_out_of_range_is_refused_by_a_sentence(name):
    with pytest.raises(ConfigError, match=rf"^experiment\.{name} must be at least 1, got 0\.$"):
        Question(**{name: 0})


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_file_that_an_experiment_would_not_read_is_refused(name, tmp_path):
    settings = replace(SETTINGS, experiment={"name": name}, data={"name": "file", "path": "x.npy", "in_memory": False})
    with pytest.raises(ConfigError, match=f"experiment={name} makes its own data and would not read data=file"):
        run(settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()
