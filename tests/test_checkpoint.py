"""Checkpoints: what goes in comes out to the bit, and nothing that was altered is loaded."""

import json
import os
import pickle
import zipfile
from dataclasses import asdict, replace

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from tests.test_model import Evil
from tests.test_model import model as some_model
from tests.test_run import SETTINGS
from trainer.data.rows import prepare
from trainer.data.sources import Blobs
from trainer.errors import DataError, FileError
from trainer.objective.preconditioner import Preconditioner
from trainer.objective.view import Evaluated
from trainer.optimizers import OPTIMIZERS
from trainer.optimizers.fit import TrainState, fit
from trainer.runs import archive, checkpoint
from trainer.runs.checkpoint import NAMES, Checkpoint, check, differences, fingerprint, keep, latest, load, save
from trainer.runs.model import Model
from trainer.runs.parts import assemble
from trainer.runs.schema import build

ROWS = ({"epoch": 1, "loss": 0.1 + 0.2, "val_loss": float("nan")}, {"epoch": 2, "loss": float("inf"), "check": 1e-300})
FLIPS = 2000


def some(w=None, optimizer=None, epoch=2, **changes):
    w = np.random.default_rng(0).normal(size=(3, 2)) if w is None else w
    state = TrainState(epoch, w, np.ones_like(w) if optimizer is None else optimizer)
    base = Checkpoint(state, ROWS[:epoch], 1.5, "running", "", False, 3, {"loss": {"name": "ce"}, "epochs": 9}, None)
    return replace(base, **changes)


def state_after(name, dtype, epochs=3):
    """The state of an optimiser in the middle of a training."""
    penalty = {"name": "l1", "strength": 0.01} if name == "fista" else {"name": "none"}
    parts = assemble(replace(SETTINGS, optimizer={"name": name}, penalty=penalty))
    train = prepare(Blobs(samples=60)(3), valid_fraction=0.0, standardize=True, seed=3, dtype=dtype).train
    start = TrainState.start(parts.optimizer, train)
    size = None if parts.optimizer.full_batch else 7
    *_, report = fit(parts.objective, parts.optimizer, train, None, start, epochs=epochs, batch_size=size)
    return report.state


def assert_same(one, other):
    """The same types, dtypes, orders and bits, but for what can be computed again and is not kept."""
    if isinstance(other, Evaluated | Preconditioner):
        assert one is None
        return
    assert type(one) is type(other)
    if isinstance(one, tuple):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            assert_same(*pair)
    elif isinstance(one, np.ndarray | np.generic):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert one.tobytes("A") == other.tobytes("A")
        if isinstance(one, np.ndarray):
            assert one.flags.c_contiguous == other.flags.c_contiguous
    else:
        assert repr(one) == repr(other)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_state_of_every_optimizer_comes_back_to_the_bit(name, dtype, tmp_path):
    state = state_after(name, dtype)
    rows = tuple({"epoch": epoch + 1} for epoch in range(state.epoch))
    loaded = load(save(tmp_path / NAMES[0], some(state.w, state.optimizer, state.epoch, rows=rows)))
    assert_same(loaded.state.w, state.w)
    assert_same(loaded.state.optimizer, state.optimizer)
    check(loaded, build("optimizer", OPTIMIZERS, {"name": name}), replace(state, epoch=0), None)


def test_everything_else_comes_back_too(tmp_path):
    saved = some(status="stopped", reason="früh", converged=True, config={"a": [1, None, "${x}"]}, data="abc")
    loaded = load(save(tmp_path / NAMES[0], saved))
    assert repr(replace(loaded, state=None)) == repr(replace(saved, state=None, rows=list(ROWS)))
    assert type(loaded.rows[0]["epoch"]) is int


def test_cells_stay_what_they_are(tmp_path):
    rows = [{"epoch": 1, "converged": True, "nonzero": 1, "loss": 1.0}, {"epoch": 2, "converged": False}]
    assert repr(load(save(tmp_path / NAMES[0], some(rows=rows))).rows) == repr(rows)


def test_scalars_of_numpy_stay_what_they_are(tmp_path):
    optimizer = (np.float64(0.1), 0.1, np.float32(0.1), True, None, "x", 10**30, (), float("nan"))
    assert_same(load(save(tmp_path / NAMES[0], some(optimizer=optimizer))).state.optimizer, optimizer)


def test_a_view_with_gaps_is_packed(tmp_path):
    w = np.arange(24.0).reshape(4, 6)[::2, ::3]
    assert_array_equal(load(save(tmp_path / NAMES[0], some(w))).state.w, w)


def test_a_state_of_an_unknown_class_is_refused_when_it_is_saved(tmp_path):
    with pytest.raises(TypeError, match=r"cannot hold a Checkpoint; an optimizer names"):
        save(tmp_path / NAMES[0], some(optimizer=some()))
    assert not list(tmp_path.iterdir())


def same_content(one, other):
    parts = [asdict(item) for item in (one, other)]
    return repr(parts[0]) == repr(parts[1])


def files(folder):
    with np.printoptions(threshold=10**6, floatmode="unique"):
        yield load, save(folder / "checkpoint.npz", some())
        yield Model.load, some_model().save(folder / "model.npz")


def test_no_truncation_loads(tmp_path):
    for read, path in files(tmp_path):
        for length in reversed(range(path.stat().st_size)):
            os.truncate(path, length)
            with pytest.raises(DataError, match=r"is not a (checkpoint|model) of ours"):
                read(path)


def test_no_flipped_bit_loads_as_something_else(tmp_path):
    refused = 0
    with np.printoptions(threshold=10**6, floatmode="unique"):
        for read, path in files(tmp_path):
            whole, good = path.read_bytes(), read(path)
            with path.open("r+b", buffering=0) as file:
                for bit in (
                    np.random.default_rng(0)
                    .choice(8 * len(whole), FLIPS if read is load else FLIPS // 4, replace=False)
                    .tolist()
                ):
                    place = bit // 8
                    os.pwrite(file.fileno(), bytes([whole[place] ^ 1 << bit % 8]), place)
                    try:
                        loaded = read(path)
                    except DataError:
                        refused += 1
                    else:  # a date in the directory of the archive, say
                        assert same_content(loaded, good), bit
                    os.pwrite(file.fileno(), whole[place : place + 1], place)
            assert path.read_bytes() == whole
    assert refused > FLIPS


def altered(path, header=None, remove=(), **arrays):
    """A well-formed archive of ours with another content."""
    old, content = archive.load(path, "checkpoint", 1 << 20)
    for name in remove:
        old.pop(name)
    archive.save(path, old | (header or {}), content | arrays)


def empty(path):
    path.write_bytes(b"")


def text(path):
    path.write_text("epoch,loss\n1,0.5\n")


def pickled(path):
    path.write_bytes(pickle.dumps(Evil()))


def foreign(path):
    np.savez(path, weights=np.eye(3))


def pickle_inside(path):
    np.savez(path, header=np.array([Evil()]))


def truncated(path):
    os.truncate(path, path.stat().st_size // 2)


def flipped(path):
    content = bytearray(path.read_bytes())
    content[content.index(b"array0") + 200] ^= 4
    path.write_bytes(content)


def exchanged(path, **header):
    """w of another checkpoint, with checksums of the archive that fit."""
    with np.load(path) as members:
        content = {**members, "array0": np.zeros((3, 2))}
    old = json.loads(content["header"].tobytes())
    content["header"] = np.frombuffer(json.dumps(old | header).encode(), np.uint8)
    np.savez(path, **content)


def unsigned(path):
    exchanged(path, sha256=None)


def compressed(path):
    np.savez_compressed(path, header=np.zeros(10**6, np.uint8))


def twice(path):
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as file:
        file.writestr("array0.npy", b"")


def promising(path):
    """A header of an array of 10^12 numbers before 8 bytes."""
    with zipfile.ZipFile(path, "w") as file:
        head = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,)}".ljust(117) + b"\n"
        file.writestr("header.npy", b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + b"\0" * 8)


def nested(path):
    altered(path, {"optimizer": {"tuple": 7}})


DAMAGES = {
    empty: "it is empty",
    text: "another format",
    pickled: "another format",
    foreign: "it holds 'weights'",
    pickle_inside: "promises object",
    truncated: "truncated or damaged",
    flipped: "Bad CRC-32",
    exchanged: "SHA-256 does not fit",
    unsigned: "it has no SHA-256",
    compressed: "compressed or too large",
    twice: "holds",
    promising: "promises float64",
    nested: "is not a checkpoint",
    lambda path: altered(path, {"format": "softmax-trainer model 1"}): "its format is 'softmax-trainer model 1'",
    lambda path: altered(path, {"version": 1}): "of version 1, and this program reads version 2",
    lambda path: altered(path, remove=["optimizer"]): "the state of the optimizer is missing",
    lambda path: altered(path, {"optimizer": {"array": 7}}): "not a checkpoint",
    lambda path: altered(path, {"optimizer": {"os.system": ["true"]}}): "not a checkpoint",
    lambda path: altered(path, {"optimizer": [1]}): "none of ours",
    lambda path: altered(path, {"epoch": 7}): "is of epoch 7, but holds 2 rows",
    lambda path: altered(path, {"epoch": "x"}): "not a checkpoint",
    lambda path: altered(path, array0=np.full((3, 2), np.nan)): "parameters that are not finite",
    lambda path: altered(path, array0=np.full((3, 2), np.inf)): "parameters that are not finite",
    lambda path: altered(path, {"rows": [["epoch"], [1], ["x"]]}): "rows hold what is no number",
    lambda path: altered(path, {"rows": [["epoch", "loss"], [1]]}): "not a checkpoint",
}


@pytest.mark.parametrize(("damage", "words"), DAMAGES.items(), ids=[f"{n}" for n in range(len(DAMAGES))])
def test_every_damage_is_named_and_the_previous_checkpoint_is_taken_with_a_warning(damage, words, tmp_path):
    keep(tmp_path, some(epoch=1))
    keep(tmp_path, some())
    assert [load(tmp_path / name).state.epoch for name in NAMES] == [2, 1]
    damage(tmp_path / NAMES[0])
    with pytest.raises(DataError, match=words):
        load(tmp_path / NAMES[0])
    with pytest.warns(UserWarning, match=rf"{NAMES[0]} .*The one before it is taken, of epoch 1\."):
        assert latest(tmp_path, lambda _: None).state.epoch == 1
    keep(tmp_path, some())  # the bad one must not take the place of the good one
    assert [load(path).state.epoch for path in map(tmp_path.joinpath, NAMES) if path.exists()] == [2, 1][: 1 + 1]


def test_without_a_good_one_nothing_goes_on(tmp_path):
    assert latest(tmp_path, lambda _: None) is None
    for name in NAMES:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError, match=r"it is empty.*it is empty.*There is no other"):
        latest(tmp_path, lambda _: None)


def test_a_folder_is_no_checkpoint(tmp_path):
    (tmp_path / NAMES[0]).mkdir()
    with pytest.raises(FileError, match=r"checkpoint\.npz cannot be read"):
        load(tmp_path / NAMES[0])


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (some(np.zeros((4, 2))), r"w of shape \(4, 2\)"),
        (some(np.zeros((3, 2), np.float32)), "float32"),
        (some(optimizer=(1, 2)), "no state of optimizer=sgd, but tuple"),
        (some(optimizer=np.zeros((2, 2))), "no state of optimizer=sgd"),
        (some(data="other"), "another data file"),
    ],
    ids=["shape", "dtype", "state", "state's shape", "data"],
)
def test_a_checkpoint_of_other_data_or_another_optimizer_is_refused(found, words):
    sgd = OPTIMIZERS["sgd"]()
    w = np.zeros((3, 2))
    with pytest.raises(DataError, match=words):
        check(found, sgd, TrainState(0, w, sgd.init(w)), None)


def test_differences_name_keys_in_dots_and_leave_epochs_out():
    old = {"epochs": 5, "loss": {"name": "ce"}, "seed": 3, "weights": {0: 1}, "callbacks": {}}
    assert differences(old, {**old, "epochs": 9, "weights": {"0": 1}}) == []
    new = {"epochs": 5, "loss": {"name": "focal", "gamma": 2}, "seed": 3, "weights": {0: 1}, "callbacks": {}}
    assert differences(old, new) == ["loss.name was ce and is focal", "loss.gamma was absent and is 2"]


def test_a_fingerprint_sees_any_byte_of_a_small_file_and_the_ends_of_a_large_one(tmp_path, monkeypatch):
    path = tmp_path / "data.csv"
    path.write_bytes(b"a" * 100)
    first = fingerprint([str(path)])
    path.write_bytes(b"a" * 50 + b"b" + b"a" * 49)
    assert fingerprint([str(path)]) != first
    monkeypatch.setattr(checkpoint, "WHOLE", 10)
    monkeypatch.setattr(checkpoint, "END", 10)
    seen = fingerprint([str(path)])
    assert fingerprint([str(path)]) == seen
    os.utime(path, (1, 1))
    assert fingerprint([str(path)]) != seen
    with pytest.raises(FileError, match="cannot be read"):
        fingerprint([str(tmp_path / "nowhere")])
