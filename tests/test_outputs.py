import csv
import json

import numpy as np
import pytest

from trainer.errors import FileError
from trainer.outputs import Table, versions, write_json, write_whole


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


def test_json_is_strict_and_what_is_not_finite_is_null(tmp_path):
    path = write_json(tmp_path / "run.json", {"loss": np.inf, "rows": [1.5, float("nan")], "name": "日本"})
    assert json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail) == {
        "loss": None,
        "rows": [1.5, None],
        "name": "日本",
    }


def test_versions_name_what_a_result_can_depend_on():
    assert {"python", "numpy", "scikit-learn", "hydra-core", "omegaconf"} <= set(versions())
