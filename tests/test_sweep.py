# ruff: noqa: F811 - call is a fixture
"""Sweeps: what is composed, what is skipped or refused, and that the results are those of Hydra's own launcher."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import setup_globals
from hydra.types import RunMode

from tests.test_command_line import (  # noqa: F401 - call is a fixture
    Outcome,
    assert_refused,
    call,
    command,
    report,
)
from tests.test_resume import interrupt_after, outcome, outcome_of_path  # noqa: F401
from trainer.errors import ConfigError
from trainer.runs.checkpoint import NAMES
from trainer.runs.config import Settings, config_folder
from trainer.runs.lock import Lock
from trainer.runs.outputs import write_record
from trainer.runs.run import run
from trainer.runs.schema import structured
from trainer.sweeps.grid import Composer, Grid, plan, read_axes
from trainer.sweeps.plugins import gathered, spread
from trainer.sweeps.pool import Pool
from trainer.sweeps.record import read
from trainer.sweeps.running import Sweep

pytestmark = pytest.mark.processes
SLOW = bool(os.environ.get("TRAINER_SLOW"))
CONF = config_folder()
TINY = ["data.samples=40", "data.classes=2", "epochs=2"]


@pytest.fixture
def loader():
    GlobalHydra.instance().clear()
    setup_globals()
    yield ConfigLoaderImpl(create_config_search_path(str(CONF)))
    HydraConfig.instance().cfg = None


def compositions(loader, arguments):
    axes = read_axes(arguments, loader, 10_000)
    master = loader.load_configuration("config", arguments, RunMode.MULTIRUN)
    composer = Composer(loader, master)
    jobs = [[axis.choices[i % len(axis.choices)] for axis in axes] for i in range(max(len(a.choices) for a in axes))]
    return composer, jobs


GRIDS = [
    "optimizer.lr=0.1,0.01 seed=range(4)",
    "loss=ce,brier,focal,poly1 optimizer.lr=0.1,1,1e-3",
    "loss=ce,brier optimizer=sgd,adam,adamw optimizer.lr=0.5 penalty=none,l2",
    "activation=softmax,entmax,taylor gradient=auto,vjp,fused data=blobs,digits,iris schedule=constant,cosine,step",
    "callbacks=none,early_stopping,gradient_check experiment=null,question",
    "metrics=[accuracy],[accuracy,ece],[] plots=true,false",
    "batch_size=null,auto,7 class_weight=null,balanced dtype=float32,float64",
    "data=file data.path=a.csv,'b c.csv','\"quoted, comma\"' data.target=null,y",
    "data=file data.path=???,x.csv",
    "data=blobs,moons +data.noise=0.1,0.2 data.samples=30",
    "class_weight={a:1},{b:2,c:0.5}",
    "epochs='${seed}',3 seed=4",
    "seed=range(3) threads=${seed}",
    "optimizer.lr=1e-3,1.,0.5,1e400,.5,1_0",
    "++optimizer.lr=0.1,0.2 ~callbacks=none",
    "loss=choice(ce,brier) seed=shuffle(range(5))",
    "loss=glob(*) activation=glob(*)",
    "penalty=l1,elastic_net optimizer=fista,auto penalty.strength=0.1,[1,0.1]",
    "activation.temperature=2,0.5 valid_fraction=0,0.25",
    "loss=ce,ce optimizer.lr=true,null,abc,'0.1'",
]


@pytest.mark.parametrize("grid", GRIDS)
def test_what_is_spliced_is_what_hydra_composes(loader, grid):
    arguments = grid.split(" ")
    if "b c.csv" in grid:
        arguments = ["data=file", "data.path=a.csv,'b c.csv','\"quoted, comma\"'", "data.target=null,y"]
    composer, jobs = compositions(loader, arguments)
    slow = Composer(loader, composer._master)
    slow._base = None

    def outcome(composer, job):
        try:
            settings, recorded = composer(job)
            return repr(settings), json.dumps(recorded, sort_keys=True)
        except Exception as error:
            return type(error).__name__, str(error)

    for job in jobs[: 24 if SLOW else 5]:
        assert outcome(composer, job) == outcome(slow, job)
    assert outcome(composer, jobs[0][:-1]) == outcome(slow, jobs[0][:-1])  # of a sweeper that leaves a word out


def test_plain_grids_are_composed_once_and_that_is_the_master(loader, monkeypatch):
    composer, jobs = compositions(loader, ["loss=ce,brier,focal", "optimizer=sgd,adam", "seed=range(50)"])
    calls = []
    whole = Composer.whole
    monkeypatch.setattr(Composer, "whole", lambda *args: calls.append(1) or whole(*args))
    for job in jobs:
        composer(job)
    assert calls == []


def test_a_large_grid_is_refused_quickly(call, tmp_path):
    for arguments, words in [
        (["loss=ce,nope", "seed=range(5000)"], ["loss=nope", "bce, brier"]),
        (["seed=range(9000)", "optimizer.lr=0.1,0.2", "epochs=1,2"], ["36,000 jobs", "9,000 of seed"]),
        (["seed=range(1000000)"], ["1,000,000 jobs", "sweep.max_jobs=10,000"]),
        (["seed=range(0)"], ["seed=range(0) has no values"]),
        (["loss=glob(zz*)"], ["no values"]),
        (["seed=range(3000)", "optimizer.lr=0.1,-1"], ["optimizer.lr", "got -1"]),
        (["seed=range(3000)", "lerning_rate=0.1,1"], ["lerning_rate"]),
        (["seed=interval(0,3)"], ["interval", "range"]),
        (["metrics=accuracy,ece"], ["metrics", "[accuracy]"]),
        (["sweep.timeout=1,2"], ["sweep.timeout", "all jobs"]),
        (["sweep.timeout=0", "seed=1,2"], ["sweep.timeout must be", "got 0"]),
        (["sweep.workers=0", "seed=1,2"], ["sweep.workers must be", "got 0"]),
    ]:
        began = time.process_time()
        assert_refused(call("-m", *arguments), 2, words, tmp_path)
        assert time.process_time() - began < 2  # a busy machine; it takes a tenth


def test_hydras_hooks_stay_closed(call, tmp_path):
    touch = "_target_: pathlib.Path.touch"
    for word in [
        "hydra.sweeper._target_=os.system",
        "hydra.launcher._target_=trainer.sweeps.plugins.touch",
        "loss._target_=os.system,os.getcwd",
        "+loss._target_=os.system,os.getcwd",
        f"+optimizer={{{touch}}}",
    ]:
        outcome = call("-m", "seed=1,2", word)
        assert outcome.code == 2, word
        assert "Traceback" not in outcome.err
        assert not list(tmp_path.rglob("run.json"))


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A sweep with jobs that make no sense."""
    cwd = tmp_path_factory.mktemp("swept")
    grid = ["activation=softmax,sparsemax", "loss=ce,fenchel_young", "seed=range(2)"]
    outcome = command("-m", *grid, *TINY, "hydra.sweep.dir=outputs/here", cwd=cwd)
    return outcome, cwd / "outputs" / "here"


def test_illegal_pairs_are_skipped_and_counted(swept):
    outcome, folder = swept
    assert (outcome.code, outcome.err) == (0, "")
    record = read(folder)
    assert record.status == "finished"
    assert record.counts() == {"finished": 6, "skipped": 2}
    first, *_ = [line for line in record.jobs if line.status == "skipped"]
    assert first.overrides == ["activation=sparsemax", "loss=ce", "seed=0"]
    assert "activation=sparsemax with loss=ce makes no sense" in first.reason
    assert "6 finished, 2 skipped" in outcome.out
    assert first.reason in outcome.out
    assert not (folder / first.folder).exists()


def test_the_page_of_the_sweep(swept):
    _, folder = swept
    page = json.loads((folder / "sweep.json").read_text())
    assert page["format"] == "softmax-trainer sweep 1"
    assert page["varied"] == ["activation", "loss", "seed"]
    assert page["command"].startswith("python -m trainer -m ")
    assert [job["number"] for job in page["jobs"]] == list(range(8))
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {"0", "1", "2", "3", "6", "7"}
    names = {"run.json", "metrics.csv", "model.npz", "trainer.log", "checkpoint.npz", "evaluation.json"}
    names |= {"coefficients.csv", "model.md"}
    assert {path.name for path in (folder / "0").iterdir()} == names  # and no pictures
    assert report(folder / "0")["threads"] == 1
    assert (folder / "summary.csv").exists()
    assert (folder / "report.html").exists()


def test_the_terminal_marks_what_is_not_certified_as_the_report_does(call, tmp_path):
    grid = ["optimizer=newton", "penalty=l2", "penalty.strength=1,1e-5,0", "seed=1,2", "data.spread=4", *TINY]
    outcome = call("-m", *grid, "hydra.sweep.dir=outputs/here")
    told = sorted(re.split("  +", line.partition("  2 runs  ")[2]) for line in outcome.out.splitlines())
    strengths = [["penalty.strength=0"], ["penalty.strength=1"], ["penalty.strength=1e-05", "not certified"]]
    assert [words for words in told if words != [""]] == strengths
    assert ">not certified<" in (tmp_path / "outputs" / "here" / "report.html").read_text()


def test_the_terminal_and_the_page_call_the_same_run_the_best_by_one_rule(call, tmp_path):
    """At a step of 30 the accuracy is higher, and so is the loss."""
    grid = ["optimizer.lr=0.001,30", "data.spread=3", "epochs=3", "hydra.sweep.dir=outputs/here"]
    outcome = call("-m", *grid)
    rows = [report(tmp_path / "outputs" / "here" / name)["metrics"] for name in "01"]
    assert rows[1]["val_accuracy"] > rows[0]["val_accuracy"]
    assert rows[1]["val_loss"] > rows[0]["val_loss"]
    rule = "val_accuracy, the higher the better, and of equal ones the lower val_loss"
    assert f"best by {rule}:" in outcome.out
    assert [line.split()[-1] for line in outcome.out.splitlines() if "  1 run  " in line] == [
        "optimizer.lr=30",
        "optimizer.lr=0.001",
    ]
    page = (tmp_path / "outputs" / "here" / "report.html").read_text()
    assert f"What ranks is {rule}:" in page
    assert "optimizer.lr <strong>30</strong>" in page


SOME_WITHOUT = [
    (
        ["optimizer=newton,sgd", "optimizer.lr=0.1,0.2"],
        [2, 3],
        "optimizer=newton has no key optimizer.lr, so it cannot",
    ),
    (["penalty=none,l2", "penalty.strength=0.1"], [1], "penalty=none has no key penalty.strength, so it cannot"),
    (
        ["callbacks=none,early_stopping", "callbacks.early_stopping.patience=3"],
        [1],
        "This job has no key callbacks.early",
    ),
    (
        ["loss=ce,focal", "loss.gamma=1", "data=iris", "seed=${epochs}"],
        [1],
        "loss=ce has no key loss.gamma",
    ),  # by Hydra
]


@pytest.mark.parametrize(("grid", "run", "reason"), SOME_WITHOUT, ids=[grid[0] for grid, *_ in SOME_WITHOUT])
def test_jobs_without_a_key_are_skipped_and_the_others_run(loader, grid, run, reason):
    plans = planned(loader, *grid)
    assert [place for place, plan in enumerate(plans) if not plan.reason] == run
    assert all(reason in plan.reason for place, plan in enumerate(plans) if place not in run)
    with pytest.raises(ConfigError, match=reason):
        planned(loader, *grid, skip_illegal=False)


def planned(loader, *arguments, skip_illegal=True):
    axes = read_axes(arguments, loader, 10_000)
    master = loader.load_configuration("config", spread(arguments), RunMode.MULTIRUN)
    return plan(axes, Composer(loader, master), skip_illegal)


@pytest.mark.parametrize("value", ["0.1", "[1,0.1]", "'a b'", "true", "${seed}", "{a:1}", "'x,y'"])
def test_a_value_of_an_option_that_varies_is_a_list_of_one_for_hydra_alone(value):
    words = ["penalty=none,l2", f"penalty.strength={value}", "optimizer.lr=0.1", "seed=1,2"]
    assert [word for word in spread(words) if word not in words] == [f"penalty.strength=choice({value})"]
    assert [*map(gathered, spread(words))] == words
    assert gathered("seed=choice(1,2)") == "seed=choice(1,2)"


def test_jobs_without_a_key_take_no_composition_of_their_own(loader, monkeypatch):
    calls = []
    whole = Composer.whole
    monkeypatch.setattr(Composer, "whole", lambda *args: calls.append(1) or whole(*args))
    plans = planned(loader, "optimizer=newton,sgd", "optimizer.lr=range(1,300)")
    assert sum(not plan.reason for plan in plans) == 299
    assert calls == []


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["optimizer=newton,sgd", "optimizer.lr=0.1", "lerning_rate=3"], "There is no key lerning_rate"),
        (["optimizer=newton,lbfgs", "optimizer.lr=0.1,0.2"], "optimizer=newton has no key lr"),
        (["penalty=none", "penalty.strength=0.1,0.2"], "penalty=none has no key strength"),
        (["penalty=none,l2", "penalty.strenght=0.1"], "did you mean penalty.strength?"),
    ],
)
def test_a_key_that_no_job_has_is_refused_whole(call, tmp_path, words, sentence):
    assert_refused(call("-m", *words), 2, [sentence], tmp_path)


def test_the_jobs_without_a_key_stand_in_the_page_of_the_sweep(call, tmp_path):
    outcome = call("-m", "penalty=none,l2", "penalty.strength=0.1", *TINY, "hydra.sweep.dir=outputs/here")
    assert outcome.code == 0
    assert read(tmp_path / "outputs" / "here").counts() == {"finished": 1, "skipped": 1}
    for text in (outcome.out, (tmp_path / "outputs" / "here" / "report.html").read_text()):
        assert "penalty=none has no key penalty.strength" in text


def test_illegal_pairs_can_be_errors(call, tmp_path):
    grid = ["activation=softmax,sparsemax", "loss=ce,fenchel_young", "skip_illegal=false"]
    assert_refused(call("-m", *grid), 2, ["activation=sparsemax with loss=ce makes no sense"], tmp_path)
    assert_refused(call("-m", "activation=sigmoid", "loss=ce", "seed=1,2"), 2, ["makes no sense"], tmp_path)


def rows(folder):
    lines = (folder / "metrics.csv").read_text().splitlines()
    return [line.rpartition(",")[0] for line in lines]


def test_results_are_those_of_hydras_launcher(call, tmp_path):
    grid = ["loss=ce,brier", "optimizer=adam", *TINY]
    batches = ["hydra/sweeper=basic", "hydra.sweeper.max_batch_size=1"]
    assert call("-m", *grid, "hydra.sweep.dir=outputs/ours").code == 0
    outcome = call("-m", *grid, "hydra.sweep.dir=outputs/theirs", "hydra/launcher=basic")
    assert outcome.code == 0
    assert call("-m", *grid, "hydra.sweep.dir=outputs/mixed", *batches).code == 0
    assert read(tmp_path / "outputs" / "mixed").counts() == {"finished": 2}
    for number in "01":
        ours, theirs, mixed = (rows(tmp_path / "outputs" / name / number) for name in ("ours", "theirs", "mixed"))
        assert ours == theirs == mixed
        for name in ("theirs", "mixed"):
            config = report(tmp_path / "outputs" / name / number)["config"]
            here = report(tmp_path / "outputs" / "ours" / number)["config"]
            assert {**config, "plots": False} == here
    assert read(tmp_path / "outputs" / "theirs").counts() == {"finished": 2}


@pytest.mark.skipif(not SLOW, reason="TRAINER_SLOW=1 runs it")
def test_pictures_are_drawn_where_they_are_asked_for(call, tmp_path):
    assert call("-m", "seed=1,2", "plots=true", *TINY, "hydra.sweep.dir=outputs/here").code == 0
    assert len(list(tmp_path.rglob("curves.png"))) == 2


def test_the_options_of_a_sweep_are_checked():
    for wrong in [{"timeout": -1.0}, {"timeout": float("nan")}, {"workers": 0}, {"max_jobs": 0}]:
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            Grid(**wrong)


def test_a_sweep_leaves_another_alone(call, swept, tmp_path):
    shutil.copytree(swept[1], tmp_path / "outputs" / "here")
    outcome = call("-m", "seed=1,2", "hydra.sweep.dir=outputs/here")
    assert outcome.code == 2
    assert "holds a sweep" in outcome.err
    assert "python -m trainer.sweep resume=outputs/here" in outcome.err


def go_on(call, *arguments):
    return call(*arguments, name="sweep")


def test_a_sweep_that_another_process_writes_is_refused_as_a_run_is(call, swept, tmp_path):
    here, other = tmp_path / "outputs" / "here", tmp_path / "outputs" / "other"
    shutil.copytree(swept[1], here)
    (here / "0" / "run.json").unlink()
    other.mkdir()
    before = (here / "sweep.json").read_bytes()
    with Lock(here), Lock(other):
        refused = [go_on(call, "resume=outputs/here"), call("-m", "seed=1,2", *TINY, "hydra.sweep.dir=outputs/other")]
    for done, folder in zip(refused, (here, other), strict=True):
        assert done.code == 2
        assert f"{folder} is being written by process {os.getpid()} on {socket.gethostname()}. Wait" in done.err
    assert (here / "sweep.json").read_bytes() == before
    assert (here / "0").exists()
    assert list(other.iterdir()) == []


def test_a_sweep_holds_its_folder_while_it_runs(call, swept, tmp_path, monkeypatch):
    here = tmp_path / "outputs" / "here"
    shutil.copytree(swept[1], here)
    (here / "0" / "run.json").unlink()
    seen, summarise = [], Sweep.summarise

    def looked_at(sweep):
        with pytest.raises(ConfigError, match="is being written by process"):
            Lock(sweep.folder)
        seen.append(sweep.record.status)
        return summarise(sweep)

    monkeypatch.setattr(Sweep, "summarise", looked_at)  # the last that it does
    outcomes = [go_on(call, "resume=outputs/here"), call("-m", "seed=1,2", *TINY, "hydra.sweep.dir=outputs/new")]
    assert [(done.code, done.err) for done in outcomes] == [(0, "")] * 2
    assert not list(tmp_path.rglob("run.lock"))
    assert seen == ["finished", "finished"]


def test_resume_redoes_what_is_missing(call, swept, tmp_path):
    here = tmp_path / "outputs" / "here"
    shutil.copytree(swept[1], here)
    page = json.loads((here / "sweep.json").read_text())
    for number, status in [(0, "pending"), (1, "killed"), (2, "interrupted"), (3, "failed")]:
        page["jobs"][number]["status"] = status  # 0 has finished nevertheless
    page["status"] = "running"
    (here / "sweep.json").write_text(json.dumps(page))
    kept = rows(here / "2")
    shutil.rmtree(here / "1")
    record = json.loads((here / "2" / "run.json").read_text())
    write_record(here / "2", {**record, "status": "interrupted"})
    (here / "3" / "run.json").unlink()
    before = {name: (here / name / "run.json").stat().st_mtime_ns for name in ("0", "6", "7")}
    outcome = go_on(call, "resume=outputs/here")
    assert (outcome.code, outcome.err) == (0, "")
    assert "3 of 8 jobs" in outcome.out
    assert read(here).counts() == {"finished": 6, "skipped": 2}
    assert before == {name: (here / name / "run.json").stat().st_mtime_ns for name in before}
    assert rows(here / "2") == kept


@pytest.fixture
def broken_off(swept, tmp_path, interrupt_after):
    """Makes of a job in a copy of the sweep one that was interrupted after its first epoch of two."""
    here = tmp_path / "outputs" / "here"
    shutil.copytree(swept[1], here)

    def broken(number, status="interrupted", **changes):
        config = {**report(here / str(number))["config"], **changes}
        shutil.rmtree(here / str(number))
        interrupt_after(2)
        with pytest.raises(KeyboardInterrupt):
            run(structured("", Settings, config), here / str(number), recorded=config)
        record = report(here / str(number))
        write_record(here / str(number), {**record, "status": status})
        page = json.loads((here / "sweep.json").read_text())
        page["jobs"][number]["status"] = "pending" if status == "running" else status
        (here / "sweep.json").write_text(json.dumps({**page, "status": "interrupted"}))
        return here / str(number)

    return broken


def test_resume_goes_on_from_the_checkpoint_of_each_job(call, swept, broken_off):
    interrupted, killed, damaged = broken_off(0), broken_off(1, "running"), broken_off(2)
    other = broken_off(3, epochs=9)
    (killed / "run.lock").write_text("")
    (killed / ".checkpoint.npz.part").write_bytes(b"half")
    (damaged / NAMES[0]).write_bytes((damaged / NAMES[0]).read_bytes()[:500])
    here = killed.parent
    (here / ".summary.csv.part").write_bytes(b"half")
    before = {path: path.stat().st_mtime_ns for name in "67" for path in (here / name).iterdir()}
    assert go_on(call, "resume=outputs/here", "optimizer.lr=0.3").code == 2  # and nothing is lost
    done = go_on(call, "resume=outputs/here", "sweep.timeout=60")  # which is not the job's business
    assert (done.code, done.err) == (0, "")
    assert f"outputs/here/{damaged.name} has no checkpoint that can be read, so it starts anew." in done.out
    for folder in (interrupted, killed, damaged, other):
        assert outcome(folder) == outcome(swept[1] / folder.name)
        went_on = f"outputs/here/{folder.name} goes on after epoch 1." in (folder / "trainer.log").read_text()
        assert went_on == (folder in (interrupted, killed))
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert not list(here.rglob(".*"))


def test_other_launchers_begin_a_job_again(call, swept, broken_off):
    folder = broken_off(0)
    assert go_on(call, "resume=outputs/here", "hydra/launcher=basic").code == 0
    assert outcome(folder) == outcome(swept[1] / "0")
    assert {path.name for path in folder.parent.iterdir() if path.is_dir()} == {"0", "1", "2", "3", "6", "7"}


def test_a_job_in_a_folder_of_another_name_goes_on(call, tmp_path, interrupt_after):
    grid = ["loss=ce,brier", *TINY, "hydra.sweep.subdir='of ${seed}'", "hydra.sweep.dir=outputs/here"]
    assert call("-m", *grid, "sweep.workers=1").code == 0
    here = tmp_path / "outputs" / "here"
    second = here / "of 3-2"
    assert [here / line.folder for line in read(here).jobs] == [here / "of 3", second]
    whole, config = outcome(second), report(second)["config"]
    shutil.rmtree(second)
    interrupt_after(2)
    with pytest.raises(KeyboardInterrupt):
        run(structured("", Settings, config), second, recorded=config)
    page = json.loads((here / "sweep.json").read_text())
    page["jobs"][1]["status"] = "interrupted"
    (here / "sweep.json").write_text(json.dumps(page))
    assert go_on(call, "resume=outputs/here").code == 0
    assert outcome(second) == whole
    assert "goes on after epoch 1" in (second / "trainer.log").read_text()
    assert not (here / "of 3-3").exists()


def test_the_files_of_all_jobs_are_on_the_disk_at_the_end_of_a_sweep(call, monkeypatch, tmp_path):
    synced, fsync = set(), os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (synced.add(os.fstat(descriptor).st_ino), fsync(descriptor)))
    assert call("-m", "seed=1,2", *TINY, "hydra.sweep.dir=outputs/here", "sweep.workers=1").code == 0
    jobs = [tmp_path / "outputs" / "here" / name for name in "01"]
    for path in [*jobs, *(job / name for job in jobs for name in ("run.json", "model.npz", "checkpoint.npz"))]:
        assert path.stat().st_ino in synced


def test_jobs_whose_files_a_power_failure_has_emptied_are_run_again(call, swept, tmp_path):
    here = tmp_path / "outputs" / "here"
    shutil.copytree(swept[1], here)
    for name, file in (("0", "model.npz"), ("1", "run.json"), ("2", "checkpoint.npz")):
        (here / name / file).write_bytes(b"")
    before = {path: path.stat().st_mtime_ns for name in "367" for path in (here / name).iterdir()}
    done = go_on(call, "resume=outputs/here")
    assert (done.code, done.err) == (0, "")
    assert "3 of 8 jobs" in done.out
    for name in "012":
        assert outcome(here / name) == outcome(swept[1] / name)
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_resume_refuses_a_record_that_was_altered_and_keeps_its_job(call, swept, tmp_path):
    here = tmp_path / "outputs" / "here"
    shutil.copytree(swept[1], here)
    path = next(here.rglob("run.json"))
    path.write_text(path.read_text().replace('"status": "finished"', '"status": "interrupted"'))
    outcome = go_on(call, "resume=outputs/here")
    assert (outcome.code, "SHA-256" in outcome.err) == (2, True)
    assert (path.parent / "model.npz").exists()


def test_a_path_of_a_sweep_goes_on_with_its_next_strength(call, tmp_path, interrupt_after):
    grid = ["seed=3,4", *TINY, "optimizer=newton", "penalty=l2", "penalty.strength=[1,0.1,0.01]"]
    assert call("-m", *grid, "hydra.sweep.dir=outputs/here", "sweep.workers=1").code == 0
    folder = tmp_path / "outputs" / "here" / "1"
    whole, config = outcome_of_path(folder), report(folder)["config"]
    shutil.rmtree(folder)
    interrupt_after(2)
    with pytest.raises(KeyboardInterrupt):
        run(structured("", Settings, config), folder, recorded=config)
    assert go_on(call, "resume=outputs/here").code == 0
    assert outcome_of_path(folder) == whole
    assert "goes on after strength 1" in (folder / "trainer.log").read_text()


def test_resume_refuses_another_grid(call, swept, tmp_path):
    here = tmp_path / "outputs" / "here"
    shutil.copytree(swept[1], here)
    before = (here / "sweep.json").read_bytes()
    outcome = go_on(call, "resume=outputs/here", "loss=ce,brier")
    assert outcome.code == 2
    assert "loss=brier" in outcome.err
    assert "loss=fenchel_young" in outcome.err
    outcome = go_on(call, "resume=outputs/here", "optimizer.lr=0.3")
    assert outcome.code == 2
    assert "and is 0.3" in outcome.err
    outcome = go_on(call, "resume=outputs/here", "epochs=9")
    assert outcome.code == 2
    assert "epochs was 2 and is 9" in outcome.err
    assert (here / "sweep.json").read_bytes() == before
    assert go_on(call, "resume=outputs/here", "sweep.workers=1").code == 0


HOSTILE = [
    ("[]", "format"),
    ("{", "not the page"),
    ('{"format": "softmax-trainer sweep 1"}', "arguments"),
    ("[" * 100_000, "not the page"),
    (None, "hydra.callbacks"),
]


@pytest.mark.parametrize(("text", "word"), HOSTILE, ids=[word for _, word in HOSTILE])
def test_a_page_from_elsewhere_runs_nothing(call, swept, tmp_path, text, word):
    here = tmp_path / "outputs" / "here"
    here.mkdir(parents=True)
    if text is None:
        page = json.loads((swept[1] / "sweep.json").read_text())
        page["arguments"].append("+hydra.callbacks.c._target_=pathlib.Path.touch")
        text = json.dumps(page)
    (here / "sweep.json").write_text(text)
    outcome = go_on(call, "resume=outputs/here")
    assert outcome.code == 2
    assert word in outcome.err
    assert [path.name for path in here.iterdir()] == ["sweep.json"]


def test_a_page_cannot_lead_out_of_its_folder(call, swept, tmp_path):
    here = tmp_path / "outputs" / "here"
    shutil.copytree(swept[1], here)
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "run.json").write_text("{}")
    page = json.loads((here / "sweep.json").read_text())
    page["jobs"][0].update(folder="../../victim", status="failed")
    (here / "sweep.json").write_text(json.dumps(page))
    outcome = go_on(call, "resume=outputs/here")
    assert outcome.code == 2
    assert "not inside" in outcome.err
    assert (tmp_path / "victim" / "run.json").exists()


def test_resume_needs_a_sweep(call, tmp_path):
    assert_refused(go_on(call, "resume=nowhere"), 2, ["nowhere has no sweep.json"], tmp_path)
    assert_refused(go_on(call), 2, ["resume= needs the folder"], tmp_path)
    assert "resume=outputs" in go_on(call, "--help").out


def test_workers_do_without_hydra():
    code = "import sys, trainer.runs.run, trainer.sweeps.worker; sys.exit('hydra' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_a_job_no_worker_is_started(monkeypatch):
    monkeypatch.setattr(Pool, "_start", lambda self: pytest.fail("A worker was started."))
    assert list(Pool(2).run([])) == []
