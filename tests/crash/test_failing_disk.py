"""The n-th open, write, fsync or rename fails, for every n: a sentence, and a good checkpoint to go on from."""

import errno
import os
import shutil
from dataclasses import replace

import pytest

from tests.test_resume import FILES, SMALL, outcome
from trainer.errors import FileError
from trainer.runs import checkpoint
from trainer.runs.checkpoint import NAMES, latest
from trainer.runs.model import Model
from trainer.runs.outputs import RECORD, Table, git_commit, read_record
from trainer.runs.run import resume, run

SLOW = os.environ.get("TRAINER_SLOW") == "1"
FULL, BROKEN = errno.ENOSPC, errno.EIO
ERRORS = [(FULL,), (BROKEN,)] if SLOW else [(FULL, BROKEN)]  # in the short version they take turns
SETTINGS = replace(SMALL, optimizer={"name": "adam"}, threads=1, epochs=4)


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """The folder of a run that was interrupted after two epochs."""
    git_commit()
    monkeypatch.setattr(checkpoint, "EVERY", 0.0)
    monkeypatch.setattr(checkpoint, "SHARE", 1e9)
    run(SETTINGS, tmp_path / "whole")
    add = Table.add

    def interrupt(self, row):
        add(self, row)
        if row["epoch"] == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Table, "add", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(SETTINGS, tmp_path / "begun")
    return tmp_path / "begun"


class Failing:
    """A function of os that fails at its n-th call, as a full or broken disk lets it."""

    def __init__(self, name, number, error):
        self.call, self.left, self.error = getattr(os, name), number, error

    def __call__(self, *arguments, **options):
        self.left -= 1
        if self.left == 0:
            raise OSError(self.error, os.strerror(self.error))
        return self.call(*arguments, **options)


def sentence_of(go, folder):
    """Why a run could not be written; None if it could."""
    try:
        go(SETTINGS, folder)
    except FileError as refusal:
        return str(refusal)
    return None


@pytest.mark.parametrize("begin", [False, True], ids=["resumed", "new"])
@pytest.mark.parametrize("errors", ERRORS, ids=lambda errors: "+".join(map(errno.errorcode.get, errors)))
@pytest.mark.parametrize("name", ["open", "write", "fsync", "replace"])
def test_every_call_may_fail(name, errors, begin, begun, tmp_path, monkeypatch):
    whole, folder = outcome(tmp_path / "whole"), tmp_path / "run"
    step = 1 if SLOW or name != "write" else 7  # of the many writes, every seventh in the short version
    for number in range(1, 1000, step):
        shutil.rmtree(folder, ignore_errors=True)
        if not begin:
            shutil.copytree(begun, folder)
        error = errors[number % len(errors)]
        failing = Failing(name, number, error)
        with monkeypatch.context() as patch:
            patch.setattr(os, name, failing)
            refusal = sentence_of(run if begin else resume, folder)
        if refusal is None:
            assert failing.left > 0, "a failure was passed over"
            break
        assert f"cannot be written: {os.strerror(error)}" in refusal
        assert not list(folder.glob(".*"))
        if (folder / "model.npz").exists():
            Model.load(folder / "model.npz")
        if (folder / RECORD).exists():
            assert read_record(folder)["status"] in ("failed", "running", "interrupted")
            found = latest(folder, lambda _: None)  # a warning would be an error
            assert found is not None or begin
            assert found is None or found.state.epoch >= (0 if begin else 2)
            resume(SETTINGS, folder)
        else:
            assert begin
            run(SETTINGS, folder)
        assert outcome(folder) == whole
        assert {path.name for path in folder.iterdir()} == FILES | {NAMES[1]}
    assert number > 5
