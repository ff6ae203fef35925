"""An option is a file of conf/ by its plain name: no path, link or package on a command line or in a record is opened.

The files that these lines point to would make a file named canary, by Hydra's callbacks or by the set-up of logging.
"""

import json
import os
import pickle
from pathlib import Path

import pytest

from tests.test_command_line import assert_refused, call, write_csv  # noqa: F401 - call is a fixture
from tests.test_model import model
from tests.test_report import summarise
from tests.test_security import SHORT, Explosive, quick_and_inert
from trainer.errors import ConfigError
from trainer.runs.config import config_folder, options
from trainer.runs.overrides import check_overrides

EVIL = {
    "log": "# @package hydra.job_logging\nhandlers: {x: {(): numpy.load, file: evil.npy, allow_pickle: true}}\n"
    "root: {handlers: [x]}\n",
    "callback": "# @package hydra.callbacks\nx: {_target_: os.mkdir, path: canary}\n",
    "launcher": "_target_: os.mkdir\npath: canary\n",
    "defaults": "defaults: [callback]\nname: blobs\n",
}


@pytest.fixture
def evil(tmp_path):
    """The folder evil/ with such files and a pickle, and a link to it, in the working folder."""
    folder = tmp_path / "evil"
    folder.mkdir()
    for name, text in EVIL.items():
        (folder / f"{name}.yaml").write_text(text)
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "evil.npy").write_bytes(pickle.dumps(Explosive()))
    return folder


def paths(folder, name="log", group="data"):
    """The ways to write where an option outside of conf/ lies."""
    inside = config_folder() / group
    return {
        "relative": os.path.relpath(folder / name, inside),
        "absolute": str(folder / name),
        "of the process": os.path.relpath(Path("/proc/self/cwd/evil") / name, inside),
        "absolute of the process": f"/proc/self/cwd/evil/{name}",
        "link": os.path.relpath(folder.parent / "link" / name, inside),
        "dots inside": f"x/../{os.path.relpath(folder / name, inside)}",
        "suffix": os.path.relpath(folder / f"{name}.yaml", inside),
    }


WAYS = list(paths(Path("evil").absolute()))
RUN = {
    "option": "data={log}",
    "option in quotes": "data='{log}'",
    "option in double quotes": 'data="{log}"',
    "added option": "+data={log}",
    "forced option": "++data={log}",
    "another group": "activation={log}",
    "list": "callbacks=[none,{log}]",
    "list of one": "callbacks=[{log}]",
    "quoted list": "callbacks=[none,'{log}']",
    "list in a list": "callbacks=[[{log}]]",
    "dict in a list": "callbacks=[{{a:{log}}}]",
    "group that is no list": "data=[blobs,{log}]",
    "choice": "data=choice({log})",
    "interval": "data=interval(0,1)",
    "interpolation": "data=${{oc.env:X,{log}}}",
    "interpolation of a key": "+x={log} data=${{x}}",
    "Hydra's logging": "hydra/job_logging={log}",
    "Hydra's own logging": "hydra/hydra_logging={log}",
    "Hydra's callbacks": "+hydra/callbacks={log}",
    "Hydra's help": "hydra/help={log}",
    "Hydra's output": "hydra/output={log}",
    "deeper group": "+data/x={log}",
    "package": "data@hydra.job_logging={log}",
    "package of nothing": "data@={log}",
    "package of all": "+data@_global_={log}",
    "package of a known option": "+data@hydra.callbacks=blobs",
    "key without a name": "={{hydra:{{job_logging:{log}}}}}",
    "key that is a dollar": "$hydra={log}",
    "defaults": "+defaults=[{log}]",
    "deleted logging": "~hydra.job_logging",
    "deleted option by a path": "~data={log}",
    "settings of the sweeper": "hydra.sweeper.params={{data:{log}}}",
    "set-up of the launcher": "+hydra.launcher.setup=['touch canary']",
    "interpreter of the launcher": "hydra.launcher.python=./evil.sh",
    "folder of the launcher": "hydra.launcher.submitit_folder=../x",
    "verbose of a dict": "hydra.verbose={{a:b}}",
    "verbose of a number": "hydra.verbose=3",
}
SWEEP = {
    "options": "-m data=blobs,{log}",
    "quoted options": "-m data='{log}','blobs'",
    "options of a choice": "-m data=choice(blobs,{log})",
    "shuffled options": "-m data=shuffle(blobs,{log})",
    "sorted options": "-m data=sort(blobs,{log})",
    "lists": "-m callbacks=[none],[none,{log}]",
    "numbers": "-m data=1,2",
    "range": "-m data=range(1,3)",
    "callback": "-m seed=1,2 data={callback}",
    "launcher": "-m seed=1,2 hydra/launcher={launcher}",
    "sweeper": "-m seed=1,2 hydra/sweeper={launcher}",
    "launchers": "-m seed=1,2 hydra/launcher=basic,{launcher}",
    "sweeper's settings": "-m seed=1,2 hydra/sweeper=basic hydra.sweeper.params={{data:{log}}}",
    "package": "-m seed=1,2 data@hydra.callbacks={callback}",
    "other flag first": "--cfg job data={log}",
    "information": "--info defaults data={log}",
    "search": "-m sweep=optuna data={log}",
    "search without -m": "sweep=optuna callbacks=[none,{callback}]",
    "space of a search": "-m sweep=optuna sweep.space=['data={log}']",
}


def filled(line, evil, way):
    return line.format(**{name: paths(evil, name)[way] for name in EVIL})


@pytest.mark.parametrize("line", RUN.values(), ids=RUN)
def test_no_line_of_a_run_leads_out_of_conf(call, tmp_path, evil, line):  # noqa: F811
    with quick_and_inert():
        outcome = call(*SHORT, *filled(line, evil, "relative").split(" ", 1))
    assert_refused(outcome, 2, [], tmp_path)


@pytest.mark.parametrize("way", WAYS)
def test_no_way_to_write_it_leads_out_of_conf(call, tmp_path, evil, way):  # noqa: F811
    for line in ("data={log}", "callbacks=[none,{callback}]", "-m data=blobs,{callback}"):
        with quick_and_inert():
            outcome = call(*filled(line, evil, way).split(" "), *SHORT)
        assert_refused(outcome, 2, [], tmp_path)


@pytest.mark.parametrize("line", SWEEP.values(), ids=SWEEP)
def test_no_line_of_a_sweep_leads_out_of_conf(call, tmp_path, evil, line):  # noqa: F811
    with quick_and_inert():
        outcome = call(*filled(line, evil, "of the process").split(" "), *SHORT)
    assert_refused(outcome, 2, [], tmp_path)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("group", ["data", "hydra/job_logging", "data@hydra.callbacks"])
def test_no_line_of_a_prediction_leads_out_of_conf(call, tmp_path, evil, way, group):  # noqa: F811
    model().save(Path("model.npz"))
    write_csv("new.csv", "abcd", [[1, 2, 3, 4]])
    with quick_and_inert():
        outcome = call("model=model.npz", "data.path=new.csv", f"{group}={paths(evil)[way]}", name="predict")
    assert_refused(outcome, 2, [], tmp_path)


@pytest.mark.parametrize("way", WAYS)
def test_no_line_of_an_explanation_leads_out_of_conf(call, tmp_path, evil, way):  # noqa: F811
    with quick_and_inert():
        outcome = call(f"loss={paths(evil, group='loss')[way]}", name="explain")
    assert_refused(outcome, 2, [], tmp_path)


@pytest.mark.parametrize("line", SWEEP.values(), ids=SWEEP)
def test_a_recorded_argument_is_checked_like_a_typed_one(call, tmp_path, evil, line):  # noqa: F811
    words = [word for word in filled(line, evil, "of the process").split(" ") if word != "-m"]
    write_sweep(tmp_path / "sweep", words)
    with quick_and_inert():
        outcome = call("resume=sweep", name="sweep")
    assert_refused(outcome, 2, [], tmp_path)


def write_sweep(folder, words):
    """A sweep.json that asks for these words."""
    folder.mkdir()
    line = {"number": 0, "folder": "0", "overrides": [], "status": "pending", "reason": ""}
    page = {"format": "softmax-trainer sweep 1", "status": "running", "command": "", "varied": [], "jobs": [line]}
    (folder / "sweep.json").write_text(json.dumps({**page, "arguments": words}))


CONFIGS = {
    "option": {"data": {"name": "{log}"}},
    "option that is no text": {"data": {"name": ["{log}"]}},
    "list": {"callbacks": {"none": {}, "{log}": {}}},
    "key": {"data@hydra.callbacks": "{log}"},
    "key of Hydra": {"hydra/job_logging": "{log}"},
    "node of Hydra": {"hydra": {"callbacks": {"x": {"_target_": "os.mkdir", "path": "canary"}}}},
    "target": {"loss": {"name": "ce", "_target_": "os.mkdir"}},
    "number for a group": {"schedule": 1},
    "text for a group": {"schedule": "{log}"},
    "list for a group": {"schedule": ["{log}"]},
}


def sound(evil, changes):
    """The configuration of a run with changes, their paths filled in."""
    node = {name: {"name": next(iter(options()[name]))} for name in ("activation", "loss", "gradient", "optimizer")}
    node |= {"schedule": {"name": "constant"}, "penalty": {"name": "none"}, "data": {"name": "blobs"}, "seed": 3}
    text = json.dumps(node | changes)
    return json.loads(text.replace("{log}", paths(evil)["relative"]))


@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS)
def test_a_recorded_configuration_chooses_among_the_options_alone(call, tmp_path, evil, changes):  # noqa: F811
    folder = tmp_path / "run"
    folder.mkdir()
    record = {"status": "interrupted", "seed": 3, "config": sound(evil, changes)}
    (folder / "run.json").write_text(json.dumps(record))
    with quick_and_inert():
        outcome = call("resume=run")
    assert_refused(outcome, 2, [], tmp_path)


@pytest.mark.parametrize("changes", [c for c in CONFIGS.values() if "schedule" not in c and "loss" not in c])
def test_a_report_gives_no_command_that_would_lead_out_of_conf(tmp_path, evil, changes):
    folder = tmp_path / "run"
    folder.mkdir()
    record = {"status": "finished", "seed": 3, "metrics": {"epoch": 1, "loss": 0.5}, "config": sound(evil, changes)}
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "metrics.csv").write_text("epoch,loss\n1,0.5\n")
    summarise([folder], tmp_path / "out")
    html = (tmp_path / "out" / "report.html").read_text()
    assert "python -m trainer" not in html
    assert "no command" in html


@pytest.mark.parametrize("text", EVIL.values(), ids=EVIL)
def test_an_option_of_conf_fills_its_own_group_alone(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match="which name code"):
        check_overrides(["data=mine"], {"data": {"mine": path}})


def test_every_option_of_conf_passes(tmp_path):
    known = options()
    check_overrides([f"{group}={name}" for group, files in known.items() for name in files], known)
