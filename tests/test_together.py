"""Trainings side by side: the bits of each alone, whatever they differ in, and however one of them ends."""

import os
from dataclasses import fields, replace

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from tests.conftest import PAIRS, pair_id
from trainer.chain.activations import Softmax
from trainer.chain.losses import CrossEntropy
from trainer.chain.strategies import GradientChoice, fastest
from trainer.data.features import Features
from trainer.data.rows import Data
from trainer.errors import Diverged, NonFiniteError, TrainerError
from trainer.objective import own_rows
from trainer.objective.metrics import METRICS
from trainer.objective.objective import Objective
from trainer.objective.penalties import L2, NoPenalty
from trainer.objective.refusals import strategy_of
from trainer.optimizers import Adam, AdamW, Sgd, together
from trainer.optimizers.fit import Report, TrainState, fit
from trainer.optimizers.schedules import Constant, Cosine, StepDecay
from trainer.optimizers.together import Member, advance

SLOW = os.environ.get("TRAINER_SLOW") == "1"
STRATEGIES = ["vjp", "jacobian"] if SLOW else ["vjp"]  # beside what auto takes, which is vjp for many
CHOSEN = [(pair, name) for pair in PAIRS for name in dict.fromkeys([fastest(*pair), *STRATEGIES])]


def rows(rng, n, d, k, kind="labels", weight=False, smoothing=0.0, dtype=np.float64):
    x = rng.normal(size=(n, d)).astype(dtype)
    y = rng.integers(k, size=n) if kind == "labels" else rng.dirichlet(np.ones(k), size=n)
    names = tuple(range(k)), tuple(f"x{i}" for i in range(d))
    return Data(x, y, *names, weight=rng.uniform(0, 2, size=n) if weight else None, smoothing=smoothing)


def member(data, valid=None, optimizer=None, penalty=None, seed=0, pair=None, **others):
    function = strategy_of(*(pair or (Softmax(), CrossEntropy())), GradientChoice(others.pop("gradient", "auto")))[1]
    objective = Objective(*(pair or (Softmax(), CrossEntropy())), function, penalty or NoPenalty())
    optimizer = optimizer or Sgd(0.1)
    known = {"epochs": 4, "batch_size": 5, "schedule": Constant(), "metrics": METRICS | others.pop("metrics", {})}
    known["metrics"] = {
        name: metric for name, metric in known["metrics"].items() if objective.activation.range in metric.accepts
    }
    state = TrainState.start(optimizer, data, scale=0.5, seed=seed)
    return Member(objective, optimizer, data, valid, state, seed=seed, **known | others)


def alone(member):
    """The reports of a training by itself, and how it failed if it did."""
    given = {field.name: getattr(member, field.name) for field in fields(member)}
    found = []
    try:
        for report in fit(**given):
            found.append(report)
    except TrainerError as error:
        found.append(error)
    return found


def side_by_side(members):
    """The same of all of them together: one that has ended leaves the others."""
    members = [replace(member) for member in members]
    found = [[] for _ in members]
    while True:
        left = [
            n
            for n, member in enumerate(members)
            if member.state.epoch < member.epochs and not (found[n] and isinstance(found[n][-1], TrainerError))
        ]
        if not left:
            return found
        for n, report in zip(left, advance([members[n] for n in left]), strict=True):
            found[n].append(report)
            if isinstance(report, Report):
                members[n].state = report.state


def leaves(state):
    return [leaf for part in state for leaf in leaves(part)] if isinstance(state, tuple) else [state]


def assert_the_same(members):
    for one, other in zip(map(alone, members), side_by_side(members), strict=True):
        assert len(one) == len(other)
        for mine, its in zip(one, other, strict=True):
            if isinstance(mine, TrainerError):
                assert (type(mine), str(mine)) == (type(its), str(its))
                continue
            assert list(mine.metrics) == list(its.metrics)
            assert_array_equal(list(mine.metrics.values()), list(its.metrics.values()))
            assert mine.state.epoch == its.state.epoch
            states = [leaves((state.w, state.optimizer)) for state in (mine.state, its.state)]
            for left, right in zip(*states, strict=True):
                assert type(left) is type(right)
                assert getattr(left, "dtype", None) == getattr(right, "dtype", None)
                assert_array_equal(left, right)


def counted(monkeypatch):
    """How many trainings each call has taken together."""
    sizes, whole = [], together._together
    monkeypatch.setattr(together, "_together", lambda members: sizes.append(len(members)) or whole(members))
    return sizes


OPTIMIZERS = st.sampled_from(["sgd", "nesterov", "adam", "adamw"])
RATES = st.floats(1e-4, 2.0)
SHARES = st.floats(0.0, 0.99)


@st.composite
def optimizers(draw, name):
    if name in ("sgd", "nesterov"):
        return Sgd(draw(RATES), draw(st.floats(0.01, 0.99)), name == "nesterov")
    first = draw(RATES), draw(SHARES), draw(SHARES), draw(st.floats(1e-10, 1e-2))
    return Adam(*first) if name == "adam" else AdamW(*first, draw(st.floats(0, 1)))


@st.composite
def stacks(draw):
    """Trainings that differ in numbers and rows."""
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    n, d, k = draw(st.sampled_from([2, 7, 11, 40])), draw(st.integers(1, 9)), draw(st.sampled_from([2, 3, 8, 11]))
    kind, weighted, smooth = draw(st.sampled_from(["labels", "soft"])), draw(st.booleans()), draw(st.booleans())
    dtype, held_out = draw(st.sampled_from([np.float64, np.float32])), draw(st.booleans())
    name, ridged = draw(OPTIMIZERS), draw(st.booleans())
    pair, batch_size = draw(st.sampled_from(PAIRS)), draw(st.sampled_from([None, 1, 3, 5, 10]))
    reduction = draw(st.sampled_from(["weights", "rows"]))
    members = []
    for _ in range(draw(st.integers(2, 5))):
        epsilon = draw(st.floats(0.01, 0.5)) if smooth else 0.0
        shape = (d, k, kind, weighted)
        if not members or draw(st.booleans()):
            train, valid = rows(rng, n, *shape, epsilon, dtype), rows(rng, 6, *shape, 0.0, dtype)
        one = member(
            train,
            valid if held_out else None,
            draw(optimizers(name)),
            L2(draw(st.sampled_from([0.0, 1e-3, 0.3]))) if ridged else None,
            seed=draw(st.integers(0, 2)),
            pair=pair,
            batch_size=batch_size,
            epochs=draw(st.integers(1, 3)),
            schedule=draw(st.sampled_from([Constant(), Cosine(0.5), StepDecay(1, 0.5)])),
        )
        one.objective = replace(one.objective, reduction=reduction)
        members.append(one)
    return members


@settings(max_examples=500 if SLOW else 40, deadline=None, derandomize=True)
@given(members=stacks())
def test_a_stack_has_the_bits_of_each_alone(members):
    assert len({member.kind for member in members}) == 1
    assert_the_same(members)


@pytest.mark.parametrize(
    ("pair", "gradient"), CHOSEN, ids=lambda part: part if isinstance(part, str) else pair_id(part)
)
def test_every_pair_has_the_same_bits_in_a_stack(pair, gradient, monkeypatch):
    rng = np.random.default_rng(0)
    sizes = counted(monkeypatch)
    for shared in (False, True):
        data = [rows(rng, 33, 3, 5) for _ in range(3)]
        members = [
            member(
                data[0 if shared else n],
                data[1],
                Sgd(0.01 * (n + 1)),
                L2(0.1 * n),
                pair=pair,
                gradient=gradient,
                epochs=2,
            )
            for n in range(3)
        ]
        assert_the_same(members)
    assert 3 in sizes


def test_one_that_diverges_leaves_the_others_and_says_where(monkeypatch):
    rng = np.random.default_rng(0)
    data = [rows(rng, 40, 3, 4) for _ in range(4)]
    rates = [0.1, 1e300, 0.2, 1e308]
    members = [member(data, optimizer=Sgd(rate, 0.0), penalty=L2(0.1)) for data, rate in zip(data, rates, strict=True)]
    sizes = counted(monkeypatch)
    assert_the_same(members)
    ends = [reports[-1] for reports in side_by_side(members)]
    assert [isinstance(end, Diverged) for end in ends] == [False, True, False, True]
    assert "Lower optimizer.lr=1e+300" in str(ends[1])
    assert (max(sizes), min(sizes)) == (4, 2)


def test_one_whose_strategy_fails_at_a_row_names_it():
    rng = np.random.default_rng(0)
    data = [rows(rng, 40, 3, 4) for _ in range(3)]
    data[1].x[7] *= 1e5
    members = [member(part, gradient="vjp", optimizer=Sgd(1.0, 0.0)) for part in data]
    assert_the_same(members)
    ends = [reports[-1] for reports in side_by_side(members)]
    assert [isinstance(end, NonFiniteError) for end in ends] == [False, True, False]


def test_a_penalty_that_overflows_ends_its_own_training_alone():
    rng = np.random.default_rng(0)
    members = [member(rows(rng, 10, 2, 3), penalty=L2(s), optimizer=Sgd(1e-200)) for s in (1e308, 1.0, 0.5)]
    for one in members:
        one.state = replace(one.state, w=np.full((3, 3), 10.0))
    assert_the_same(members)
    assert [isinstance(reports[-1], Diverged) for reports in side_by_side(members)] == [True, False, False]


def test_what_does_not_go_together_trains_by_itself(monkeypatch):
    rng = np.random.default_rng(0)
    data = rows(rng, 20, 3, 4)
    members = [
        member(data),
        member(data, pair=(Softmax(2.0), CrossEntropy())),
        member(data, optimizer=Adam()),
        member(data, optimizer=Sgd(nesterov=True)),
        member(data, penalty=L2()),
        member(data, batch_size=6),
        member(rows(rng, 21, 3, 4)),
        member(rows(rng, 20, 3, 4, smoothing=0.1)),
        member(data, valid=data),
    ]
    sizes = counted(monkeypatch)
    assert_the_same(members)
    assert sizes == []


def test_many_scores_are_worked_on_some_models_at_a_time(monkeypatch):
    rng = np.random.default_rng(0)
    for weight in (False, True):
        data = [rows(rng, 50, 3, 4, weight=weight) for _ in range(5)]
        members = [member(part, part, batch_size=20) for part in [*data, *data[:1]]]
        monkeypatch.setattr(own_rows, "AT_ONCE", 2 * 20 * 4)
        assert_the_same(members)


class Counted:
    """Rows in memory as a reader gives them, which counts the numbers that it reads."""

    grain = 1

    def __init__(self, x):
        self.x, self.shape, self.read = x, x.shape, 0

    def __call__(self, start, stop):
        self.read += (stop - start) * self.shape[1]
        return self.x[start:stop].copy()


@pytest.mark.parametrize("batch_size", [None, 7])
def test_rows_in_a_file_are_read_once_for_all(batch_size):
    rng = np.random.default_rng(0)
    memory = rows(rng, 60, 3, 4)
    read = {}
    for count in (1, 5):
        reader = Counted(memory.x)
        data = replace(memory, x=Features(reader))
        members = [member(data, data, Adam(0.01 * (n + 1)), batch_size=batch_size) for n in range(count)]
        side_by_side(members)
        read[count] = reader.read
    assert read[5] == read[1] > 0
    assert_the_same(members)


def test_sparse_rows_are_those_of_all():
    memory = rows(np.random.default_rng(0), 60, 30, 4)
    data = replace(memory, x=scipy.sparse.csr_array(np.where(abs(memory.x) > 1.5, memory.x, 0.0)))
    assert_the_same([member(data, data, Sgd(0.1 * (n + 1))) for n in range(3)])


def test_large_rows_are_not_copied(monkeypatch):
    rng = np.random.default_rng(0)
    monkeypatch.setattr(together, "LARGEST", 50)
    data = [rows(rng, 20, 3, 4) for _ in range(2)]
    members = [member(data[n // 2], optimizer=Sgd(0.1 + n)) for n in range(4)]
    monkeypatch.setattr(own_rows.OwnRows, "of", lambda parts: pytest.fail("Large rows were copied."))
    sizes = counted(monkeypatch)
    assert_the_same(members)
    assert set(sizes) == {2}


def test_those_that_are_at_other_epochs_go_together_too(monkeypatch):
    rng = np.random.default_rng(0)
    members = [member(rows(rng, 20, 3, 4), optimizer=Adam(), epochs=5) for _ in range(3)]
    members[1].state = alone(members[1])[1].state
    sizes = counted(monkeypatch)
    assert_the_same(members)
    assert sizes == [3, 3, 3, 2, 2]
