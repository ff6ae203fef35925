"""Files of predictions: nothing is lost to them, and their suffix says what they are."""

import os
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from pyarrow import parquet

from tests.test_command_line import (  # noqa: F401 - fixtures
    SHORT,
    assert_refused,
    call,
    predict,
    table,
    trained,
    write_csv,
)
from tests.test_model import model
from trainer.runs import outputs
from trainer.runs.model import Model
from trainer.runs.predictions import write


@pytest.fixture
def new(predict, trained):  # noqa: F811
    """Rows to predict, in new.csv of the working folder."""
    write_csv("new.csv", "abc", trained.x.tolist())


def content():
    """Every file below the working folder with its bytes."""
    return {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}


# what is there already


@pytest.mark.usefixtures("new")
def test_a_file_is_written_over_only_if_one_says_so(predict, tmp_path):  # noqa: F811
    Path("out.csv").write_text("a year of work")
    Path("link.csv").symlink_to("nowhere")
    for name in ("out.csv", "link.csv"):
        words = [f"output={name} exists", "overwrite=true"]
        assert_refused(predict(f"output={name}"), 2, words, tmp_path)
    assert Path("out.csv").read_text() == "a year of work"
    assert predict("output=out.csv", "overwrite=true").code == 0
    assert table("out.csv")[0].keys() >= {"prediction"}


@pytest.mark.usefixtures("new")
def test_the_file_beside_the_model_is_written_over_only_if_one_says_so(predict, tmp_path):  # noqa: F811
    model().save(Path("model.npz"))
    write_csv("new.csv", "abcd", [[1, 2, 3, 4]])
    assert predict(model="model.npz").code == 0
    assert_refused(predict(model="model.npz"), 2, ["new-predictions.csv exists", "overwrite=true"], tmp_path)
    assert predict("overwrite=true", model="model.npz").code == 0


def spellings(name):
    """Other words for a file, each of which leads to it."""
    Path("folder").mkdir()
    Path("folder/link.csv").symlink_to(Path(name).absolute())
    os.link(name, "folder/hard.csv")
    return [name, f"./{name}", f"folder/../{name}", str(Path(name).absolute()), "folder/link.csv", "folder/hard.csv"]


@pytest.mark.usefixtures("new")
@pytest.mark.parametrize("more", [[], ["overwrite=true"]])
def test_the_data_are_never_written_over(predict, tmp_path, more):  # noqa: F811
    names = spellings("new.csv")
    before = content()
    for name in names:
        assert_refused(predict(f"output={name}", *more), 2, [f"output={Path(name)} is a file that is read"], tmp_path)
    assert content() == before


@pytest.mark.parametrize("more", [[], ["overwrite=true"]])
def test_labels_and_models_are_never_written_over(predict, tmp_path, more):  # noqa: F811
    for name in ("model.npz", "other.npz", "other.csv"):  # a model may have any name
        model().save(Path(name))
    np.save("x.npy", np.ones((3, 4)))
    np.save("y.npy", np.arange(3))
    before = content()
    data = ["data.path=x.npy", "data.target=y.npy", *more]
    for name, words in (
        ("x.npy", "is a file that is read here"),
        ("y.npy", "is a file that is read here"),
        ("model.npz", "is a file that is read here"),
        ("other.npz", "is a model"),
        ("other.csv", "is a model"),
    ):
        assert_refused(predict(*data, f"output={name}", model="model.npz"), 2, [f"output={name} {words}"], tmp_path)
    assert content() == before


@pytest.mark.usefixtures("new")
@pytest.mark.parametrize("folder", ["none", "new.csv"])
def test_a_folder_that_is_not_there_is_named_before_the_work(predict, tmp_path, folder, monkeypatch):  # noqa: F811
    monkeypatch.setattr(Model, "predict", lambda *_: pytest.fail("it was predicted"))
    words = [f"output={folder}/out.csv cannot be written: there is no folder {folder}; make it"]
    assert_refused(predict(f"output={folder}/out.csv"), 3, words, tmp_path)


@pytest.mark.usefixtures("new")
def test_a_pipe_in_the_place_of_the_output_is_not_waited_for(predict, tmp_path):  # noqa: F811
    os.mkfifo("pipe.csv")
    assert_refused(predict("output=pipe.csv"), 2, ["output=pipe.csv exists"], tmp_path)


@pytest.mark.usefixtures("new")
def test_predictions_are_written_whole_or_not_at_all(predict, monkeypatch):  # noqa: F811
    Path("out.csv").write_text("old")

    def full(descriptor, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(outputs.os, "write", full)
    outcome = predict("output=out.csv", "overwrite=true")
    assert (outcome.code, "No space left" in outcome.err) == (3, True)
    assert {path.name for path in Path().iterdir()} == {"new.csv", "out.csv"}
    assert Path("out.csv").read_text() == "old"


# formats


@pytest.mark.usefixtures("new")
@pytest.mark.parametrize("name", ["p.txt", "p", "p.csv.gz", "p.feather", "csv", ".csv", ""])
def test_other_suffixes_are_refused_before_anything_is_read(predict, tmp_path, name):  # noqa: F811
    outcome = predict(f"output={name}", model="none.npz")
    assert_refused(outcome, 2, [f"output={name} ", ".csv, .parquet, .npz or .npy"], tmp_path)


@pytest.mark.usefixtures("new")
def test_the_suffix_decides_the_format(predict, trained):  # noqa: F811
    for name in ("p.csv", "p.PARQUET", "p.npz", "p.npy"):
        assert predict(f"output={name}").code == 0
    rows, known = table("p.csv"), Model.load(trained.model)
    a = known.predict(trained.x)
    names = [row["prediction"] for row in rows]
    whole = parquet.read_table("p.PARQUET").to_pydict()
    assert list(whole) == list(rows[0])
    assert whole.pop("prediction") == names
    assert_array_equal(np.column_stack(list(whole.values())), a)
    with np.load("p.npz", allow_pickle=False) as arrays:
        assert sorted(arrays) == ["classes", "prediction", "probability"]
        assert tuple(arrays["classes"]) == known.classes
        assert arrays["prediction"].tolist() == names
        assert_array_equal(arrays["probability"], a)
    assert_array_equal(np.load("p.npy", allow_pickle=False), a)


@pytest.mark.parametrize("classes", [(-3, 0, 7), (1, "2.5"), (0, 10**30)], ids=str)
def test_classes_stay_numbers_where_all_of_them_fit(tmp_path, classes):
    few, a = model(classes=classes), np.eye(len(classes))
    kept = list(classes) if classes == (-3, 0, 7) else [str(name) for name in classes]
    for suffix in ("npz", "parquet"):
        write(tmp_path / f"p.{suffix}", few, a)
    with np.load(tmp_path / "p.npz", allow_pickle=False) as arrays:
        assert arrays["prediction"].tolist() == kept
    assert parquet.read_table(tmp_path / "p.parquet")["prediction"].to_pylist() == kept


@pytest.mark.parametrize("suffix", ["csv", "parquet", "npz", "npy"])
def test_no_rows_give_a_file_of_every_kind(tmp_path, suffix):
    write(tmp_path / f"p.{suffix}", model(), np.empty((0, 3)))
    assert (tmp_path / f"p.{suffix}").stat().st_size > 0


@pytest.mark.usefixtures("new")
def test_parquet_without_pyarrow_names_the_extra(predict, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    words = ["output=p.parquet needs pyarrow", "softmax-trainer[parquet]", ".csv"]
    assert_refused(predict("output=p.parquet"), 2, words, tmp_path)


# the model


@pytest.mark.usefixtures("new")
def test_a_model_may_be_named_by_the_folder_of_its_run(predict, trained, tmp_path):  # noqa: F811
    assert predict("output=file.csv").code == 0
    assert predict("output=folder.csv", model=trained.model.parent).code == 0
    assert Path("file.csv").read_bytes() == Path("folder.csv").read_bytes()
    Path("empty").mkdir()
    assert_refused(predict(model="empty"), 3, ["empty/model.npz is not a file", "a run that has ended"], tmp_path)


# data without names of columns, or with too many columns


def flowers(*rows, names=None):
    return "\n".join([*([names] if names else []), *rows])


ROWS = [f"{n % 7 + 0.5},{n * n % 11},{'ab'[n % 2]}" for n in range(60)]


def test_a_file_without_a_header_is_trained_on_and_predicted(call, tmp_path):  # noqa: F811
    Path("bare.csv").write_text(flowers(*ROWS))
    Path("test.csv").write_text(flowers(*ROWS[:20]))
    train = ["data=file", "data.path=bare.csv", "data.test_path=test.csv", *SHORT, "hydra.run.dir=run"]
    outcome = call(*train)
    assert_refused(outcome, 2, ["bare.csv:1:", "the numbers '0.5', '0'", "data.header=false"], tmp_path)
    assert call(*train, "data.header=false").code == 0
    known = Model.load(Path("run"))
    assert (known.features, known.target, known.classes) == (("x0", "x1"), "x2", ("a", "b"))
    assert call("model=run", "data.path=bare.csv", "data.header=false", "plots=false", name="evaluate").code == 0
    Path("new.csv").write_text(flowers(*(row.rpartition(",")[0] for row in ROWS)))
    for name in ("bare", "new"):
        data = [f"data.path={name}.csv", f"output={name}-out.csv"]
        assert_refused(call("model=run", *data, name="predict"), 2, [f"{name}.csv:1:", "data.header=false"], tmp_path)
        assert call("model=run", *data, "data.header=false", name="predict").code == 0
    assert len(table("bare-out.csv")) == len(ROWS)
    assert Path("bare-out.csv").read_bytes() == Path("new-out.csv").read_bytes()


def test_a_training_says_once_which_column_looks_like_an_id(call):  # noqa: F811
    Path("shop.csv").write_text(flowers(*(f"{n + 1000},{row}" for n, row in enumerate(ROWS)), names="customer,a,b,y"))
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # an error in these tests
        outcome = call("data=file", "data.path=shop.csv", "data.target=y", "epochs=2", "plots=false")
    assert outcome.code == 0
    told = [line for line in outcome.err.splitlines() if "looks like an id" in line]
    why = "integers that differ in nearly all rows; remove what measures nothing, by "
    why += "data.drop=[customer] or data.id=customer"
    assert told == [f"Warning: shop.csv: 'customer' looks like an id: {why}."]
