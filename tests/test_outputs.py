import csv
import errno
import hashlib
import json
import logging
import os
import stat
from pathlib import Path

import numpy as np
import pytest

from trainer.errors import DataError, FileError
from trainer.runs import outputs
from trainer.runs.lock import Lock, claim, move_log
from trainer.runs.outputs import (
    LogFile,
    Table,
    open_plain,
    read_record,
    versions,
    write_json,
    write_record,
    write_whole,
)


def test_a_table_can_be_read_after_every_row(tmp_path):
    path = tmp_path / "metrics.csv"
    with Table(path, ["epoch", "loss", "val_loss"]) as table:
        for epoch in (1, 2):
            table.add({"epoch": epoch, "loss": 0.1 + epoch})
            with path.open(newline="") as file:
                rows = list(csv.DictReader(file))
            assert len(rows) == epoch
            assert rows[-1] == {"epoch": str(epoch), "loss": repr(0.1 + epoch), "val_loss": ""}


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_beside_it(tmp_path):
    path = write_whole(tmp_path / "model.npz", lambda file: file.write(b"old"))

    def half(file):
        file.write(b"ne")
        raise OSError(28, "No space left on device")

    with pytest.raises(FileError, match=r"model\.npz cannot be written: No space left on device"):
        write_whole(path, half)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_on_the_disk_before_it_has_its_name_and_the_folder_after(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor):
        calls.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", lambda *names: (calls.append("rename"), replace(*names)))
    write_whole(tmp_path / "a", lambda file: file.write(b"1"))
    assert calls == ["file", "rename", "folder"]
    write_whole(tmp_path / "a", lambda file: file.write(b"2"), previous=tmp_path / "b")
    assert calls[3:] == ["file", "rename", "rename", "folder"]
    assert [(tmp_path / name).read_bytes() for name in "ab"] == [b"2", b"1"]
    del calls[:]
    write_whole(tmp_path / "c", lambda file: file.write(b"3"), durable=False)
    assert calls == ["rename"]


def test_a_file_system_that_cannot_sync_a_folder_is_good_enough(tmp_path, monkeypatch):
    fsync = os.fsync

    def without_folders(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", without_folders)
    assert write_whole(tmp_path / "a", lambda file: file.write(b"1")).read_bytes() == b"1"


def test_what_a_dead_run_left_in_the_place_of_the_part_is_replaced(tmp_path):
    (tmp_path / ".a.part").write_text("longer than the new content")
    assert write_whole(tmp_path / "a", lambda file: file.write(b"1")).read_bytes() == b"1"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_link_in_the_place_of_the_part_is_not_followed(tmp_path):
    (tmp_path / "outside").write_text("precious")
    (tmp_path / ".a.part").symlink_to(tmp_path / "outside")
    assert write_whole(tmp_path / "a", lambda file: file.write(b"1")).read_bytes() == b"1"
    assert not (tmp_path / "a").is_symlink()
    assert (tmp_path / "outside").read_text() == "precious"


@pytest.mark.parametrize("plant", [Path.symlink_to, Path.hardlink_to])
def test_nor_is_one_that_is_laid_there_just_before_the_part_is_opened(tmp_path, monkeypatch, plant):
    (tmp_path / "outside").write_text("precious")
    (tmp_path / ".a.part").write_text("of a dead run")
    unlink = Path.unlink

    def raced(path, missing_ok=False):
        unlink(path, missing_ok)
        monkeypatch.undo()
        plant(path, tmp_path / "outside")

    monkeypatch.setattr(Path, "unlink", raced)
    with pytest.raises(FileError, match="a cannot be written: File exists"):
        write_whole(tmp_path / "a", lambda file: file.write(b"1"))
    assert (tmp_path / "outside").read_text() == "precious"


def test_a_table_goes_on_after_the_rows_of_before_and_keeps_no_half_row(tmp_path, monkeypatch):
    path = tmp_path / "metrics.csv"
    path.write_text("torn")
    write = os.write

    def half(descriptor, data):
        if data[:1] == b"3":
            write(descriptor, data[:2])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data[:3])  # a system may write less than it was given

    with Table(path, ["epoch", "loss"], [{"epoch": 1, "loss": 0.5}]) as table:
        monkeypatch.setattr(os, "write", half)
        table.add({"epoch": 2})
        with pytest.raises(FileError, match=r"metrics\.csv cannot be written: No space left on device"):
            table.add({"epoch": 3, "loss": 0.25})
    assert path.read_text() == "epoch,loss\n1,0.5\n2,\n"


@pytest.mark.parametrize("plant", [Path.symlink_to, Path.hardlink_to])
def test_a_link_that_is_laid_in_the_place_of_a_table_is_not_written_to(tmp_path, monkeypatch, plant):
    (tmp_path / "outside").write_text("precious")
    (tmp_path / "metrics.csv").write_text("of the run before")
    replace = os.replace

    def raced(old, new):
        replace(old, new)
        Path(new).unlink()
        plant(Path(new), tmp_path / "outside")

    monkeypatch.setattr(os, "replace", raced)
    with pytest.raises(FileError, match=r"metrics\.csv cannot be read or written: it is a link"):
        Table(tmp_path / "metrics.csv", ["epoch"])
    assert (tmp_path / "outside").read_text() == "precious"


@pytest.mark.parametrize("plant", [Path.symlink_to, Path.hardlink_to])
def test_a_table_begins_in_a_new_file_or_in_the_place_of_a_link(tmp_path, plant):
    path = tmp_path / "metrics.csv"
    (tmp_path / "outside").write_text("precious")
    plant(path, tmp_path / "outside")
    for _ in range(2):
        with Table(path, ["epoch"]) as table:
            table.add({"epoch": 1})
        assert path.read_text() == "epoch\n1\n"
        assert not path.is_symlink()
        path.unlink()
    assert (tmp_path / "outside").read_text() == "precious"


def test_a_table_whose_first_line_finds_no_room_leaves_none_of_it(tmp_path, monkeypatch):
    write = os.write

    def half(descriptor, data):
        if len(data) > 3:
            return write(descriptor, data[:3])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half)
        with pytest.raises(FileError, match=r"metrics\.csv cannot be written: No space left on device"):
            Table(tmp_path / "metrics.csv", ["epoch"])
    assert not list(tmp_path.iterdir())


def test_nor_one_that_is_laid_there_just_before_a_file_is_opened(tmp_path, monkeypatch):
    (tmp_path / "outside").write_text("precious")
    path = tmp_path / "trainer.log"
    monkeypatch.setattr(outputs, "check_plain", lambda path: path.symlink_to(tmp_path / "outside"))
    with pytest.raises(OSError, match="symbolic links"):
        open_plain(path, os.O_WRONLY)
    path.unlink()
    monkeypatch.setattr(outputs, "check_plain", os.mkfifo)
    with pytest.raises(FileError, match="it is no plain file"):
        open_plain(path, os.O_RDWR)


def gone(path):
    path.unlink()


def another(path):
    path.rename(path.with_name("old"))
    path.write_text("another's")


@pytest.mark.parametrize("change", [gone, another])
def test_a_table_and_a_lock_notice_that_they_are_no_longer_in_their_place(tmp_path, change):
    with Table(tmp_path / "metrics.csv", ["epoch"]) as table:
        table.add({"epoch": 1})
        change(tmp_path / "metrics.csv")
        with pytest.raises(FileError, match=r"metrics\.csv cannot be written any more: it, or its folder, was removed"):
            table.add({"epoch": 2})
    with Lock(tmp_path) as lock:
        lock.check()
        change(tmp_path / "run.lock")
        with pytest.raises(FileError, match=r"run\.lock cannot be written any more"):
            lock.check()
    if change is another:
        assert (tmp_path / "run.lock").read_text() == (tmp_path / "metrics.csv").read_text() == "another's"


def test_a_folder_with_other_files_is_free_and_one_with_a_run_is_not(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "data.csv").write_text("")
    folder, lock = claim(tmp_path / "run")
    other, second = claim(tmp_path / "run")
    assert [path.name for path in (folder, other)] == ["run", "run-2"]
    (folder / "metrics.csv").write_text("")
    for taken in (lock, second):
        taken.__exit__()
    folder, lock = claim(tmp_path / "run")
    with lock:
        assert folder.name == "run-2"
    assert not list(tmp_path.rglob("run.lock"))


def test_a_log_that_has_not_begun_moves_with_its_run(tmp_path):
    (tmp_path / "new").mkdir()
    handler = LogFile(tmp_path / "old" / "trainer.log", delay=True)
    logging.getLogger().addHandler(handler)
    try:
        move_log(tmp_path / "old", tmp_path / "new")
        handler.emit(logging.makeLogRecord({"msg": "begun"}))
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
    assert (tmp_path / "new" / "trainer.log").read_text() == "begun\n"


def test_a_huge_record_is_not_read(tmp_path):
    with (tmp_path / "run.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(DataError, match="no record of ours"):
        read_record(tmp_path)


def test_json_is_strict_and_what_is_not_finite_is_null(tmp_path):
    path = write_json(tmp_path / "run.json", {"loss": np.inf, "rows": [1.5, float("nan")], "name": "日本"})
    assert json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail) == {
        "loss": None,
        "rows": [1.5, None],
        "name": "日本",
    }


HALF = "\udc80"  # of a surrogate pair


@pytest.mark.parametrize("content", [{"a": HALF}, {HALF: 1}, {"a": [1, {"b": (HALF,)}]}])
def test_what_is_no_text_is_not_written_and_the_old_file_stays(content, tmp_path):
    path = write_json(tmp_path / "run.json", {"old": 1})
    with pytest.raises(DataError, match=r"run\.json cannot be written: .*\\udc80.* holds half of a surrogate pair"):
        write_json(path, content)
    assert json.loads(path.read_text()) == {"old": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_record_holds_the_checksum_of_what_it_says(tmp_path):
    content = {
        "status": "finished",
        "seed": 3,
        "config": {1: np.float64(0.1), "b": (1, np.inf)},
        "name": "日本 \U0001f600",
    }
    path = write_record(tmp_path, content)
    record = json.loads(path.read_text())
    said = record.pop("sha256")
    assert hashlib.sha256(json.dumps(record).encode()).hexdigest() == said
    assert read_record(tmp_path)["sha256"] == said
    write_record(tmp_path, {**record, "sha256": "old"})
    assert json.loads(path.read_text())["sha256"] == said


def test_versions_name_what_a_result_can_depend_on():
    assert {"python", "numpy", "scikit-learn", "hydra-core", "omegaconf"} <= set(versions())
