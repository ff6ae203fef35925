"""Activation, loss and optimiser from outside the package are as good as ours, and take three files to become one."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import pytest
from sklearn.datasets import load_iris

from tests.registry import MEASURES
from tests.test_run import SETTINGS
from trainer import SoftmaxRegression
from trainer.arrays import namespace
from trainer.chain.activations import ACTIVATIONS, Sigmoid
from trainer.chain.losses import LOSSES, CrossEntropy
from trainer.chain.pairs import PROPERTIES, allowed, properties
from trainer.commands.check import check
from trainer.errors import ConfigError
from trainer.objective.refusals import check_pair
from trainer.optimizers import OPTIMIZERS, Step
from trainer.runs import checkpoint
from trainer.runs.model import Model
from trainer.runs.run import run

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Cauchit:
    """a_k = 1/2 + arctan(z_k / scale) / pi: sigmoid with heavy tails."""

    name: ClassVar[str] = "cauchit"
    range: ClassVar[str] = "unit"
    scale: float = 1.0

    def __call__(self, z):
        return 0.5 + namespace(z).atan(z / self.scale) / np.pi

    def jacobian(self, z, a):
        return self.vjp(z, a, namespace(z).ones_like(z))[..., None] * namespace(z).eye(z.shape[-1], dtype=z.dtype)

    def vjp(self, z, a, dl_da):
        return dl_da / (np.pi * self.scale * (1 + (z / self.scale) ** 2))


@dataclass(frozen=True)
class LogCosh:
    """sum_k log cosh(a_k - y_k) for each row: squares near y, and straight far from it."""

    name: ClassVar[str] = "log_cosh"
    accepts: ClassVar[frozenset[str]] = frozenset({"simplex", "unit", "real"})
    targets: ClassVar[str] = "any"
    bounded: ClassVar[bool] = True
    convex_with: ClassVar[frozenset[str]] = frozenset({"squares"})

    def value(self, a, y):
        xp = namespace(a)
        size = xp.abs(a - y)
        return xp.sum(size + xp.log1p(xp.expm1(-2 * size) / 2), axis=-1)

    def grad(self, a, y):
        return namespace(a).tanh(a - y)


class Count(NamedTuple):
    """The state of signs: the number of steps."""

    steps: int


@dataclass(frozen=True)
class Signs:
    """w <- w - lr sign(g) / (1 + steps)."""

    name: ClassVar[str] = "signs"
    state: ClassVar[type] = Count
    full_batch: ClassVar[bool] = False
    lr: float = 0.5

    def copies(self, problem, classes):
        return 16

    def init(self, w):
        return Count(0)

    def step(self, problem, w, state):
        value, g = problem.value_and_grad(w)
        return Step(w - self.lr * np.sign(g) / (1 + state.steps), Count(state.steps + 1), value)


PAIRS = [(Cauchit(), loss()) for loss in LOSSES.values() if allowed(Cauchit, loss)]
PAIRS += [(activation(), LogCosh()) for activation in (*ACTIVATIONS.values(), Cauchit) if allowed(activation, LogCosh)]


@pytest.fixture
def registered(monkeypatch):
    """The parts under their names, as a user's own program would put them there."""
    monkeypatch.setitem(ACTIVATIONS, Cauchit.name, Cauchit)
    monkeypatch.setitem(LOSSES, LogCosh.name, LogCosh)
    monkeypatch.setitem(OPTIMIZERS, Signs.name, Signs)


def test_both_go_with_parts_of_ours():
    assert {loss.name for activation, loss in PAIRS if isinstance(activation, Cauchit)} > {"bce", "brier", "log_cosh"}
    assert {activation.name for activation, loss in PAIRS if isinstance(loss, LogCosh)} > {"softmax", "identity"}


@pytest.mark.parametrize("pair", PAIRS, ids=repr)
def test_every_strategy_of_a_pair_with_a_part_from_outside_is_right(pair):
    assert check([pair], 0).failures == []


@pytest.mark.parametrize("name", PROPERTIES)
@pytest.mark.parametrize("pair", PAIRS, ids=repr)
def test_what_follows_from_their_claims_holds(pair, name):
    claimed, holds = name in properties(*pair), MEASURES[name](*pair)
    assert holds or not claimed
    if isinstance(pair[1], LogCosh):  # cauchit claims nothing, and that mae is improper is known of mae
        assert claimed == holds


def test_the_estimator_takes_instances():
    x, y = load_iris(return_X_y=True)
    fitted = SoftmaxRegression(activation=Cauchit(0.5), loss=LogCosh(), optimizer="lbfgs", C=100.0).fit(x, y)
    assert fitted.score(x, y) > 0.9


def test_a_run_takes_their_names_and_leaves_a_model(registered, tmp_path):
    settings = replace(SETTINGS, activation={"name": "cauchit", "scale": 0.5}, loss={"name": "log_cosh"}, epochs=20)
    assert run(settings, tmp_path).metrics["val_accuracy"] > 0.8
    assert Model.load(tmp_path / "model.npz").activation == Cauchit(0.5)


def test_a_checkpoint_keeps_the_state_of_an_optimizer_from_outside(registered, tmp_path):
    result = run(replace(SETTINGS, optimizer={"name": "signs"}, batch_size=None, epochs=5), tmp_path)
    assert result.metrics["loss"] < 1.0  # log 4 at the start
    assert checkpoint.load(tmp_path / "checkpoint.npz").state.optimizer == Count(5)


def test_sentences_name_what_is_registered(registered):
    with pytest.raises(ConfigError, match=r"Take loss=.* or log_cosh, or activation=softmax or"):
        check_pair(Sigmoid(), CrossEntropy(), "auto")
    with pytest.raises(ConfigError, match=r"or activation=softmax or .* or cauchit\."):
        check_pair(ACTIVATIONS["tanh"](), LOSSES["bce"](), "auto")


@pytest.mark.processes
def test_inside_the_package_a_part_is_a_class_and_a_yaml(tmp_path):
    """The third file is the list of the tests, whose tests this file has run already."""
    for folder in ("trainer", "conf"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    source, dataclass_of = Path(__file__).read_text(encoding="utf-8"), "@dataclass(frozen=True)\nclass "
    starts = [dataclass_of + "Cauchit", dataclass_of + "LogCosh", "class Count(", "PAIRS = "]
    cauchit, log_cosh, signs = (source[start:end] for start, end in pairwise(map(source.index, starts)))
    for path, text in {
        "trainer/chain/activations/elementwise.py": "\n\nimport numpy as np\n\n\n" + cauchit,
        "trainer/chain/losses/distances.py": "\n\n" + log_cosh,
        "trainer/optimizers/first_order.py": "\n\n" + signs,
        "conf/activation/cauchit.yaml": "name: cauchit\nscale: 1.0\n",
        "conf/loss/log_cosh.yaml": "name: log_cosh\n",
        "conf/optimizer/signs.yaml": "name: signs\nlr: 0.5\n",
    }.items():
        with (tmp_path / path).open("a", encoding="utf-8") as file:
            file.write(text)
    parts = "activation=cauchit activation.scale=0.5 loss=log_cosh optimizer=signs data=blobs"
    command = [sys.executable, "-m", "trainer", *parts.split(), "epochs=2", "plots=false", "hydra.run.dir=run"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "model.npz").exists()
    listed = subprocess.run(
        [sys.executable, "-m", "trainer.pairs"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "cauchit" in listed.stdout
    assert "log_cosh" in listed.stdout
