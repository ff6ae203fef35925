"""Launchers of others, each an extra: the same command on this machine, with the results of Hydra's own launcher."""

import json
import re
import shutil

import pytest
from hydra.errors import MissingConfigException

from tests.test_command_line import assert_refused, call, command, folders, table  # noqa: F401 - a fixture
from trainer.commands.composing import explain

SWEEP = ["-m", "loss=ce,brier", "epochs=2", "plots=false"]
LAUNCHERS = {
    "joblib": ("hydra_plugins.hydra_joblib_launcher", ["hydra.launcher.n_jobs=2"]),
    "submitit_local": ("hydra_plugins.hydra_submitit_launcher", ["hydra.launcher.timeout_min=2"]),
    "ray": ("hydra_plugins.hydra_ray_launcher", ["+hydra.launcher.ray.init.num_cpus=2"]),
}


def results(cwd):
    """Loss name -> metrics.csv without its clock."""
    found = {}
    for folder in folders(cwd):
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        assert record["status"] == "finished"
        rows = [{key: value for key, value in row.items() if key != "seconds"} for row in table(folder / "metrics.csv")]
        found[record["config"]["loss"]["name"]] = rows
    return found


@pytest.fixture(scope="module")
def basic(tmp_path_factory):
    cwd = tmp_path_factory.mktemp("basic")
    for loss in ("ce", "brier"):
        assert command(f"loss={loss}", *SWEEP[2:], cwd=cwd).code == 0
    return results(cwd)


@pytest.mark.processes
@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_sweep_by_another_launcher_has_the_results_of_single_runs(name, basic, tmp_path):
    package, settings = LAUNCHERS[name]
    pytest.importorskip(package)
    home = {"HOME": str(tmp_path)} if name == "ray" else {}  # where Ray leaves a token
    outcome = command(*SWEEP, f"hydra/launcher={name}", *settings, cwd=tmp_path, **home)
    assert outcome.code == 0, outcome.err
    assert "Traceback" not in outcome.err
    assert results(tmp_path) == basic


@pytest.mark.processes
def test_slurm_has_the_same_configuration_and_says_if_it_is_missing(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    if shutil.which("srun"):
        pytest.skip("Slurm is here: this would queue a job")
    outcome = command(*SWEEP, "hydra/launcher=submitit_slurm", "hydra.launcher.timeout_min=2", cwd=tmp_path)
    assert outcome.code != 0
    assert "slurm" in outcome.err.lower()
    shown = command("--cfg", "hydra", "hydra/launcher=submitit_slurm", cwd=tmp_path)
    assert re.search(r"SlurmLauncher", shown.out)


@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_launcher_that_is_not_installed_is_a_sentence_that_names_the_extra(name):
    error = MissingConfigException("not found", f"hydra/launcher/{name}", ["basic", "workers"])
    extra = name.partition("_")[0]
    assert explain(error, "config", []) == f"hydra/launcher={name} needs pip install 'softmax-trainer[{extra}]'."


def test_an_unknown_launcher_is_a_sentence(call, tmp_path):  # noqa: F811
    assert_refused(call(*SWEEP, "hydra/launcher=jobli"), 2, ["hydra/launcher=jobli is not known"], tmp_path)
