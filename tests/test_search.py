"""A search by Optuna: every trial is a run as any other, the space is in Hydra's words, and it goes on where it was."""

import json
import re
import shlex
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from tests.test_command_line import assert_refused, call, folders, report  # noqa: F401 - a fixture
from trainer.errors import ConfigError
from trainer.runs.lock import Lock
from trainer.sweeps.record import Record, read
from trainer.sweeps.search import Search, space_of

FOLDER = "outputs/multirun/search"
SEARCH = ["-m", "sweep=optuna", f"hydra.sweep.dir={FOLDER}", "epochs=3", "data.samples=200"]


def parsed(*overrides):
    return OverridesParser.create().parse_overrides(list(overrides))


@pytest.fixture
def optuna():
    return pytest.importorskip("optuna")


@pytest.fixture
def lines(call):  # noqa: F811
    """The command, and the lines that it told."""

    def outcome(*arguments, name="train"):
        done = call(*arguments, name=name)
        return done, done.out.splitlines()

    return outcome


def test_a_search_lowers_the_validation_loss_and_says_how_to_repeat_the_best(lines, optuna, tmp_path):
    outcome, told = lines(*SEARCH, "sweep.trials=4")
    assert (outcome.code, outcome.err) == (0, "")
    found = {folder.name: report(folder) for folder in folders(tmp_path)}
    assert set(found) == {"0", "1", "2", "3"}
    losses = {name: content["metrics"]["val_loss"] for name, content in found.items()}
    best = min(losses, key=losses.get)
    assert any(line.startswith(f"4 of 4 trials finished; the best is {best}:") for line in told)
    settings = [
        (c["optimizer"]["lr"], c["penalty"]["strength"], c["activation"]["temperature"])
        for c in (content["config"] for content in found.values())
    ]
    assert len(set(settings)) == 4
    for lr, strength, temperature in settings:
        assert 1e-4 <= lr <= 1
        assert 1e-6 <= strength <= 1
        assert 0.25 <= temperature <= 4
    (repeat,) = (line for line in told if line.strip().startswith("python -m trainer "))
    again, _ = lines(*shlex.split(repeat)[3:], "plots=false", "hydra.run.dir=outputs/again")
    assert again.code == 0
    assert report(Path("outputs/again"))["metrics"]["val_loss"] == losses[best]


def test_the_same_search_proposes_the_same_and_the_folder_goes_on(lines, optuna, tmp_path):
    for folder, counts in (("outputs/a", (2, 4)), ("outputs/b", (2,))):
        for count in counts:
            assert lines(*SEARCH, f"hydra.sweep.dir={folder}", f"sweep.trials={count}")[0].code == 0
    rates = {
        name: [report(Path(name, str(n)))["config"]["optimizer"]["lr"] for n in range(2)]
        for name in ("outputs/a", "outputs/b")
    }
    assert rates["outputs/a"] == rates["outputs/b"]
    assert len(folders(tmp_path)) == 6
    kept = [json.loads((folder / "run.json").read_text())["config"]["optimizer"]["lr"] for folder in folders(tmp_path)]
    assert len(set(kept)) == 4


def test_the_space_is_that_of_the_command_line(lines, optuna, tmp_path):
    words = ["loss=ce,brier", "optimizer.lr=tag(log,interval(0.01,0.1))", "sweep.trials=3", "sweep.monitor=loss"]
    assert lines(*SEARCH, *words)[0].code == 0
    for folder in folders(tmp_path):
        config = report(folder)["config"]
        assert config["penalty"]["name"] == "none"
        assert config["loss"]["name"] in ("ce", "brier")
        assert 0.01 <= config["optimizer"]["lr"] <= 0.1


def test_a_trial_that_cannot_run_costs_no_other(lines, optuna, tmp_path):
    outcome, told = lines(*SEARCH, "activation=softmax,sigmoid", "sweep.trials=6", "sweep.seed=2")
    assert outcome.code == 0
    assert any(re.match(r"Trial \d \(activation=sigmoid\) failed: .*activation=sigmoid with loss=ce", x) for x in told)
    assert {report(folder)["config"]["activation"]["name"] for folder in folders(tmp_path)} == {"softmax"}


def test_a_search_has_the_page_and_the_report_of_any_sweep(lines, optuna, tmp_path):
    space = ["activation=softmax,sigmoid", "optimizer.lr=interval(0.01,0.1)"]
    outcome, told = lines(*SEARCH, *space, "sweep.trials=6", "sweep.seed=2")
    assert outcome.code == 0
    here = tmp_path / FOLDER
    record = read(here)
    assert (record.status, len(record.jobs)) == ("finished", 6)
    assert set(record.counts()) == {"finished", "skipped"}
    (reason,) = {line.reason.partition(":")[0] for line in record.jobs if line.status == "skipped"}
    assert "activation=sigmoid with loss=ce" in reason
    assert [f"  {FOLDER}/{name}" for name in ("sweep.json", "summary.csv", "report.html")] == told[-3:]
    page = (here / "report.html").read_text()
    assert "python -m trainer -m sweep=optuna" in page
    assert "val_loss, the lower the better: as asked for" in page
    assert "holds no run" not in page
    again, _ = lines(f"resume={FOLDER}", "sweep.trials=7", name="sweep")
    assert (again.code, len(read(here).jobs)) == (0, 7)


def test_two_searches_at_once_and_one_in_the_folder_of_a_sweep_are_refused(lines, optuna, tmp_path):
    here = tmp_path / FOLDER
    here.mkdir(parents=True)
    with Lock(here):
        assert "is being written by process" in lines(*SEARCH)[0].err
    Record("finished", "", [], [], []).write(here)
    assert "holds a sweep" in lines(*SEARCH)[0].err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["optimizer.lrr=interval(0,1)", "sweep.trials=2"], "optimizer=sgd has no key lrr"),
        (["sweep.trials=0"], "sweep.trials must be at least 1, got 0"),
        (["sweep.seed=-1"], "sweep.seed must be from 0"),
        (["sweep.trial=3"], "sweep=optuna has no key trial"),
        (["sweep.space=[]"], "nothing to search"),
        (["optimizer.lr=interval(1,0)"], "is no interval"),
        (["optimizer.lr=tag(log,interval(0,1))"], "above 0 for log"),
        (["optimizer.lr=glob(*)"], "cannot be searched"),
        (["--cfg", "job"], "takes no flag --cfg"),
        (["sweep.monitor=val_los", "sweep.trials=1"], "did you mean val_loss?"),
    ],
)
def test_a_wrong_word_is_a_sentence(lines, optuna, words, sentence):
    outcome, _ = lines(*SEARCH, *words)
    assert outcome.code == 2
    assert sentence in outcome.err
    assert "Traceback" not in outcome.err


def test_without_optuna_the_extra_is_named(call, monkeypatch, tmp_path):  # noqa: F811
    monkeypatch.setitem(sys.modules, "optuna", None)
    words = ["sweep=optuna needs optuna; install it by pip install 'softmax-trainer[optuna]'."]
    assert_refused(call("-m", "sweep=optuna"), 2, words, tmp_path)


def test_every_kind_of_axis_is_read(optuna):
    overrides = parsed("epochs=int(interval(1,9))", "seed=range(0,3)", "loss=ce,brier", "optimizer.lr=interval(0.1,1)")
    space = space_of([*overrides, *parsed("plots=false")], optuna.distributions)
    assert space.fixed == ["plots=false"]
    kinds = optuna.distributions
    assert space.axes == {
        "epochs": kinds.IntDistribution(1, 9),
        "seed": kinds.CategoricalDistribution(["0", "1", "2"]),
        "loss": kinds.CategoricalDistribution(["ce", "brier"]),
        "optimizer.lr": kinds.FloatDistribution(0.1, 1),
    }


@pytest.mark.parametrize("settings", [{"trials": 0}, {"seed": -1}, {"seed": 2**32}])
def test_ranges_are_checked(settings):
    with pytest.raises(ConfigError, match=r"sweep\."):
        Search(**settings)
