"""The house: rooms that import one way, and what it costs to enter one."""

import ast
import os
import subprocess
import sys
import tempfile
import tomllib
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import trainer

ROOT = Path(trainer.__file__).parent
ROOMS = ["errors", "arrays", "chain", "data", "objective", "optimizers", "runs", "estimator", "sweeps", "commands"]
MODULES = {
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in ROOT.rglob("*.py")
}
FACES = {name for name in MODULES if name.count(".") <= 1} - {f"trainer.{room}" for room in ROOMS}  # python -m x


@cache
def imported(path):
    """The modules of ours that a file imports, anywhere in it."""
    return list(_imported(path))


def _imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else node.module


def room(module):
    return module.split(".")[1] if "." in module else ""


@pytest.mark.parametrize("place", ROOMS)
def test_a_room_imports_only_rooms_before_it(place):
    wrong = [
        (module, name)
        for module in set(MODULES) - FACES
        if room(module) == place
        for name in imported(MODULES[module])
        if name != "trainer" and ROOMS.index(room(name)) > ROOMS.index(place)
    ]
    assert not wrong


def test_every_module_is_in_a_room():
    assert {room(module) for module in set(MODULES) - FACES} <= set(ROOMS)


def test_a_face_knows_the_commands_only():
    for face in FACES - {"trainer"}:
        assert imported(MODULES[face]) == ["trainer.commands"], face


def test_no_modules_import_each_other_in_a_circle():
    graph = {name: set(imported(path)) - {name, "trainer"} for name, path in MODULES.items()}
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_the_estimator_knows_of_runs_the_model_and_little_else():
    known = {name for module in MODULES if room(module) == "estimator" for name in imported(MODULES[module])}
    assert {name for name in known if room(name) == "runs"} <= {
        "trainer.runs.callbacks.early_stopping",
        "trainer.runs.callbacks.protocol",
        "trainer.runs.memory",
        "trainer.runs.model",
    }


def loaded(statement, folder=None):
    """The modules that a statement loads in a fresh interpreter, in this folder."""
    code = f"import sys; {statement}; print(*sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(ROOT.parent)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=folder, env=environment
    )
    return set(done.stdout.split())


def test_the_chain_rule_needs_numpy_alone():
    names = loaded("import trainer.chain.pairs, trainer.chain.strategies")
    assert not {"omegaconf", "hydra", "scipy", "sklearn", "matplotlib", "tqdm"} & names
    assert {room(name) for name in names if name.startswith("trainer.")} == {"arrays", "chain", "errors"}


@pytest.mark.processes
def test_the_estimator_loads_neither_files_nor_loggers_nor_configurations():
    names = loaded("from trainer import SoftmaxRegression")
    assert not {"omegaconf", "hydra", "matplotlib", "tqdm"} & names
    unwanted = ("trainer.data.files", "trainer.data.sources", "trainer.runs.callbacks.loggers", "trainer.sweeps")
    assert not [name for name in names if name.startswith(unwanted)]


@pytest.mark.processes
def test_a_run_on_blobs_loads_neither_scikit_learn_nor_what_draws():
    words = "'optimizer=sgd', 'epochs=1', 'plots=false', 'hydra.run.dir=run'"
    code = f"import trainer.commands.train as train; train.main([{words}])"
    with tempfile.TemporaryDirectory() as folder:
        assert not {"scipy", "sklearn", "matplotlib"} & loaded(code, folder)


def test_the_mutation_run_names_what_is_there():
    given = tomllib.loads((ROOT.parent / "tests" / "mutation.toml").read_text())["cosmic-ray"]
    named = [*given["module-path"], *(word for word in given["test-command"].split() if "/" in word)]
    assert len(named) > 1
    assert not [name for name in named if not (ROOT.parent / name).exists()]
