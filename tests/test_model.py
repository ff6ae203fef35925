import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from tests.conftest import ACTIVATIONS
from trainer.chain.activations import Softmax
from trainer.data.rows import Numbered, Standardizer
from trainer.errors import DataError, FileError
from trainer.runs import archive
from trainer.runs.model import LARGEST, Model

SHARP = Softmax(temperature=2.0)


def model(activation=SHARP, classes=("ja", "nein", "日本"), dtype=np.float64):
    rng = np.random.default_rng(0)
    standardizer = Standardizer(rng.normal(size=4), rng.uniform(1, 2, size=4))
    w = rng.normal(size=(5, len(classes))).astype(dtype)
    return Model(w, standardizer, activation, classes, tuple("abcd"), "art", {"seed": 3, "valid_fraction": 0.2})


X = np.random.default_rng(1).normal(size=(20, 4))


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=repr)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_saved_model_predicts_the_same_bits(activation, dtype, tmp_path):
    saved = model(activation, dtype=dtype)
    loaded = Model.load(saved.save(tmp_path / "model.npz"))
    assert loaded.activation == activation
    assert loaded.classes == saved.classes
    assert (loaded.features, loaded.target, loaded.split) == (saved.features, saved.target, saved.split)
    assert_array_equal(loaded.predict(X), saved.predict(X))


def test_a_prediction_is_the_activation_of_the_scores_of_standardised_features():
    m = model()
    z = ((X - m.standardizer.mean) / m.standardizer.scale) @ m.w[:-1] + m.w[-1]
    assert_allclose(m.predict(X), m.activation(z), rtol=1e-13)


def test_integer_classes_stay_integers(tmp_path):
    assert Model.load(model(classes=(0, 7, 10**30)).save(tmp_path / "model.npz")).classes == (0, 7, 10**30)


def test_no_rows_give_no_predictions():
    assert model().predict(X[:0]).shape == (0, 3)


def test_the_file_holds_plain_arrays_and_a_json_header_only(tmp_path):
    path = model().save(tmp_path / "model.npz")
    with np.load(path, allow_pickle=False) as arrays:
        assert sorted(arrays) == ["header", "mean", "scale", "w"]
        assert json.loads(arrays["header"].tobytes())["activation"] == {"name": "softmax", "temperature": 2.0}
    assert [file.name for file in tmp_path.iterdir()] == ["model.npz"]


def forged(path, *, without=(), header=None, **arrays):
    """A model file with another content, and a SHA-256 that fits it."""
    old, content = archive.load(model().save(path), "model", LARGEST)
    content = {name: array for name, array in (content | arrays).items() if name not in without}
    return archive.save(path, old | (header or {}), content)


class Evil:
    def __reduce__(self):
        return (pytest.fail, ("a pickle in a model file was run",))


FORGERIES = {
    "without w": ({"without": ["w"]}, "it holds mean, scale"),
    "another array": ({"extra": np.zeros(3)}, "it holds extra, mean, scale, w"),
    "w of another shape": ({"w": np.zeros((5, 2))}, r"w is float64 of shape \(5, 2\)"),
    "mean of another shape": ({"mean": np.zeros(3)}, r"mean is float64 of shape \(3,\)"),
    **{
        f"{name} of {dtype}": ({name: np.ones(shape, dtype)}, f"{name} is {np.dtype(dtype)} .*float32 or float64")
        for name, shape in (("w", (5, 3)), ("mean", 4), ("scale", 4))
        for dtype in ("int64", "float16", "longdouble")
        if np.dtype(dtype) != np.float64  # as longdouble is on some machines
    },
    **{
        f"{name} of {value}": ({name: np.full(shape, value)}, f"{name} is float64 .*where finite numbers")
        for name, shape in (("w", (5, 3)), ("mean", 4), ("scale", 4))
        for value in (np.nan, np.inf, -np.inf)
    },
    **{f"scale of {value}": ({"scale": np.array([1, value, 2, 1])}, f"holds {value}") for value in (0.0, -0.0, -1.5)},
    "another format": ({"header": {"format": "softmax-trainer model 99"}}, "model 99"),
    "unknown activation": ({"header": {"activation": {"name": "os.system"}}}, "its header cannot be read"),
    "wrong temperature": (
        {"header": {"activation": {"name": "softmax", "temperature": -1}}},
        "its header cannot be read",
    ),
    "activation as a text": ({"header": {"activation": "softmax"}}, "its header cannot be read"),
    "no classes": ({"header": {"classes": None}}, "its header cannot be read"),
    "a class that is no text": ({"header": {"classes": ["a", "\ud800", "b"]}}, "its header cannot be read"),
    "a feature that is no text": ({"header": {"features": ["a", "b", "c", "\udfff"]}}, "its header cannot be read"),
    "a target that is no text": ({"header": {"target": "\ud800"}}, "its header cannot be read"),
}


@pytest.mark.parametrize(("changes", "words"), FORGERIES.values(), ids=FORGERIES)
def test_a_forged_model_is_refused_though_its_sha256_fits(changes, words, tmp_path):
    with pytest.raises(DataError, match=rf"model\.npz (is not a model of ours|has the format).*{words}"):
        Model.load(forged(tmp_path / "model.npz", **changes))


def test_a_model_from_a_machine_of_the_other_byte_order_is_read(tmp_path):
    path = forged(tmp_path / "model.npz", w=model().w.astype(">f8"))
    assert_array_equal(Model.load(path).predict(X), model().predict(X))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"w": np.zeros((5, 3))}, "its SHA-256 does not fit"),
        ({"w": np.array([[Evil()] * 3] * 5, dtype=object)}, "promises object"),
        ({"header": np.frombuffer(b"{}", dtype=np.uint8)}, "it has no SHA-256"),
        ({"header": np.frombuffer(b'{"sha256": null}', dtype=np.uint8)}, "it has no SHA-256"),
        ({"header": np.frombuffer(b"not json", dtype=np.uint8)}, "JSONDecodeError"),
        ({"header": np.frombuffer(b"[]", dtype=np.uint8)}, "its header holds no names"),
    ],
    ids=["altered", "pickled", "no digest", "null for a digest", "no JSON", "a list"],
)
def test_a_file_that_is_no_archive_of_ours_is_refused(changes, words, tmp_path):
    path = tmp_path / "model.npz"
    with np.load(model().save(path)) as arrays:
        content = {**arrays, **changes}
    np.savez(path, **content)
    with pytest.raises(DataError, match=rf"model\.npz is not a model of ours.*{words}"):
        Model.load(path)


@pytest.mark.parametrize(
    "content", [b"", b"hello", pickle.dumps(Evil()), b"PK\x03\x04 torn"], ids=["empty", "text", "pickle", "torn"]
)
def test_other_files_are_refused(content, tmp_path):
    path = tmp_path / "model.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match="is not a model of ours"):
        Model.load(path)


def test_every_truncation_of_a_model_is_refused(tmp_path):
    whole = model().save(tmp_path / "model.npz").read_bytes()
    torn = tmp_path / "torn.npz"
    for length in range(0, len(whole), 37):
        torn.write_bytes(whole[:length])
        with pytest.raises(DataError):
            Model.load(torn)


def test_a_file_that_unpacks_to_more_than_a_model_can_be_is_refused_unread(tmp_path, monkeypatch):
    path = model().save(tmp_path / "model.npz")
    monkeypatch.setattr("trainer.runs.model.LARGEST", 100)
    monkeypatch.setattr(np, "load", lambda *_, **__: pytest.fail("read before its size was checked"))
    with pytest.raises(DataError, match="is not a model of ours"):
        Model.load(path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"features": tuple("abca")}, "features holds 'a' 2 times; rename all but one"),
        ({"features": ("a", "b", "c", 3)}, "features holds 3 of type int"),
        ({"features": ("a", "b", "c", "\ud800")}, "a name holds half of a surrogate pair"),
        ({"classes": (1, 2, 1)}, "classes holds 1 2 times"),
        ({"classes": (1, 2, 2.5)}, r"classes holds 2\.5 of type float"),
        ({"classes": (1, 2, np.int64(3))}, "int64 is not JSON serializable"),
        ({"w": np.zeros((5, 3), np.float16)}, "w is float16 of shape .* float32 or float64"),
        ({"w": np.full((5, 3), np.nan)}, "w is float64 of shape .* finite numbers"),
        ({"w": np.zeros((4, 3))}, r"w is float64 of shape \(4, 3\), where .* of shape \(5, 3\) belong"),
        ({"standardizer": Standardizer(np.zeros(4), np.zeros(4))}, "scale holds 0"),
        ({"activation": Softmax(True)}, "activation.temperature must be of type float"),
        ({"target": 3}, "target is no text"),
    ],
)
def test_what_load_refuses_is_not_saved(changes, words, tmp_path):
    with pytest.raises(DataError, match=rf"model\.npz is not written, as it could not be read again: .*{words}"):
        replace(model(), **changes).save(tmp_path / "model.npz")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("most", [None, 1 << 14])
def test_no_model_is_saved_that_is_too_large_to_be_loaded(most, tmp_path, monkeypatch):
    large = replace(model(), w=np.zeros((1001, 3)), standardizer=Standardizer.none(1000), features=Numbered(1000))
    if most is None:
        monkeypatch.setattr("trainer.runs.model.LARGEST", large.save(tmp_path / "model.npz").stat().st_size)
        (tmp_path / "model.npz").unlink()
    else:
        monkeypatch.setattr("trainer.runs.model.LARGEST", most)
    with pytest.raises(DataError, match=r"it would have .* bytes, and at most .* are read; use fewer features"):
        large.save(tmp_path / "model.npz")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_model_is_a_file_error(tmp_path):
    with pytest.raises(FileError, match=r"nowhere\.npz is not a file"):
        Model.load(tmp_path / "nowhere.npz")


def test_a_folder_that_cannot_be_written_is_a_file_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="cannot be written"):
        model().save(tmp_path / "file" / "model.npz")


def test_a_model_is_replaced_whole(tmp_path):
    path = model().save(tmp_path / "model.npz")
    other = replace(model(), w=2 * model().w)
    assert_array_equal(Model.load(other.save(path)).w, other.w)
