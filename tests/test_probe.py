"""trainer probe: each protocol is a plain loop over scikit-learn, and what it leaves is what it found."""

import csv
import gzip
import json
import re
import weakref
from itertools import cycle
from pathlib import Path

import numpy as np
import pyarrow
import pytest
import yaml
from matplotlib.image import imread
from numpy.testing import assert_allclose, assert_array_equal
from omegaconf import OmegaConf
from pyarrow import parquet
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.metrics import log_loss

from tests.test_command_line import CONF, assert_refused, call  # noqa: F401 - a fixture
from tests.test_report import CHROMIUM, browse
from trainer.commands import probe as command
from trainer.data.layers import Layer, find_layers, read_labels
from trainer.errors import DataError, FileError, TrainerError
from trainer.optimizers import probing
from trainer.optimizers.probing import PROTOCOLS, Clip, Cv, Dinov2, Mteb
from trainer.runs import memory
from trainer.runs import probe as files
from trainer.runs.model import Model

SHORT = ["protocol.low=-3", "protocol.high=1", "protocol.strengths=5"]
SHAPE = 150, 5


def rows_of(classes=3, seed=0, scale=1.0):
    random = np.random.default_rng(seed)
    y = np.arange(SHAPE[0]) * classes // SHAPE[0]  # sorted by class, as files often are
    x = random.normal(size=(classes, SHAPE[1]))[y] * scale + random.normal(size=SHAPE)
    return x * np.exp(np.arange(SHAPE[1]) - 2) + 3, y


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working folder, with three layers of 150 x 5, the second of which tells most, and their labels."""
    monkeypatch.chdir(tmp_path)
    Path("layers").mkdir()
    for number, (name, scale) in enumerate([("layer2", 0.3), ("layer9", 1.5), ("layer10", 0.6)]):
        np.save(f"layers/{name}.npy", rows_of(seed=number, scale=scale)[0].astype(np.float32))
    labels = rows_of()[1]
    np.save("labels.npy", labels)
    Path("labels.txt").write_text("".join(f"kind {label}\n" for label in labels))
    return tmp_path


@pytest.fixture
def probe(call, folder):  # noqa: F811
    """trainer probe on the three layers, at five strengths unless others are given."""

    def run(*words, features="layers/*.npy", labels="labels.npy"):
        given = {word.partition("=")[0] for word in words}
        short = SHORT if "protocol" not in given else []
        base = ["plots=false", *([] if "models" in given else ["models=none"]), *short]
        return call(f"features={features}", f"labels={labels}", "output=out", *base, *words, name="probe")

    return run


def table(path="out/probe.csv"):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def peer(c):
    return LogisticRegression(C=c, solver="newton-cholesky", tol=1e-10, max_iter=1000)


def column(rows, name):
    return np.array([float(row[name]) for row in rows])


@pytest.mark.parametrize("classes", [2, 3])
def test_dinov2_is_a_loop_over_45_strengths_and_a_fit_on_all_rows(call, tmp_path, classes):  # noqa: F811
    x, y = rows_of(classes, scale=0.5)
    np.save("x.npy", x)
    np.save("y.npy", y)
    assert call("features=x.npy", "labels=y.npy", "output=out", "plots=false", name="probe").code == 0
    rows = table()
    cs = 10 ** np.linspace(-6, 5, 45)
    assert_allclose(column(rows, "C"), cs)
    ((train, test, _),) = Dinov2().splits(y, 3)
    assert (len(train), len(test)) == (135, 15)
    models = [peer(c).fit(x[train], y[train]) for c in cs]
    accuracy = [model.score(x[test], y[test]) for model in models]
    losses = [log_loss(y[test], model.predict_proba(x[test]), labels=range(classes)) for model in models]
    assert_allclose(column(rows, "accuracy"), accuracy, atol=1e-12)
    assert_allclose(column(rows, "loss"), losses, rtol=2e-3)
    assert_allclose(column(rows, "strength"), (2 if classes == 2 else 1) / (cs * len(train)))
    assert all(row["certified"] == "True" and float(row["gap"]) <= 1e-8 for row in rows)
    (chosen,) = [row for row in rows if row["chosen"] == "True"]
    best = int(np.argmax(accuracy))  # the first of equal ones
    assert chosen is rows[best]
    model = Model.load(Path("out/models/x/model.npz"))
    assert_allclose(model.predict(x), peer(cs[best]).fit(x, y).predict_proba(x), atol=2e-3)


@pytest.mark.parametrize("chosen_by", ["accuracy", "log_loss"])
def test_clip_is_a_search_from_coarse_to_fine(probe, chosen_by):
    assert probe("protocol=clip", f"metrics=[{chosen_by}]", features="layers/layer10.npy").code == 0
    x, y = np.load("layers/layer10.npy").astype(float), np.load("labels.npy")
    ((train, test, _),) = Clip().splits(y, 3)
    worth, cs = {}, {}

    def tried(power):
        if abs(power) <= 6 and power not in worth:
            model = peer(10.0**power).fit(x[train], y[train])
            loss = log_loss(y[test], model.predict_proba(x[test]))
            worth[power] = model.score(x[test], y[test]) if chosen_by == "accuracy" else -loss
            cs[power] = 10.0**power

    for power in range(-6, 7, 2):
        tried(power)
    step = 1.0
    while step >= 1 / 8:
        peak = max(sorted(worth), key=worth.get)
        tried(peak - step)
        tried(peak + step)
        step /= 2
    rows = table()
    assert_allclose(column(rows, "C"), sorted(cs.values()))
    values = [abs(worth[power]) for power in sorted(worth)]
    assert_allclose(column(rows, chosen_by), values, rtol=2e-3)
    (at,) = [number for number, row in enumerate(rows) if row["chosen"] == "True"]
    assert rows[at]["C"] == str(cs[max(sorted(worth), key=worth.get)])


@pytest.mark.parametrize("peak", range(-48, 49, 3))
def test_clip_finds_any_single_peak_in_at_most_15_fits(peak):
    scores = {}
    while wanted := Clip().wanted(scores):
        assert wanted == sorted(wanted)
        assert not scores.keys() & set(wanted)
        scores |= {c: -abs(8 * np.log10(c) - peak) for c in wanted}
    assert max(scores, key=scores.get) == pytest.approx(10 ** (peak / 8))
    assert len(scores) <= Clip().most


def test_mteb_is_the_mean_over_ten_draws(probe):
    assert probe("protocol=mteb", features="layers/layer9.npy").code == 0
    x, y = np.load("layers/layer9.npy").astype(float), np.load("labels.npy")
    draws = Mteb().splits(y, 3)
    assert len(draws) == 10
    accuracy = []
    for train, test, _ in draws:
        assert np.bincount(y[train]).tolist() == [8, 8, 8]
        assert sorted([*train, *test]) == list(range(len(y)))
        accuracy.append(peer(1.0).fit(x[train], y[train]).score(x[test], y[test]))
    (row,) = table()
    assert float(row["C"]) == 1
    assert_allclose(float(row["accuracy"]), np.mean(accuracy), atol=1e-12)
    assert_allclose(float(row["accuracy_std"]), np.std(accuracy, ddof=1), rtol=1e-9)
    assert len({tuple(train) for train, _, _ in draws}) == 10


def test_cv_is_that_of_scikit_learn(probe):
    assert probe("protocol=cv", features="layers/layer2.npy").code == 0
    x, y = np.load("layers/layer2.npy").astype(float), np.load("labels.npy")
    folds = Cv().splits(y, 3)
    assert all(np.bincount(y[test]).tolist() == [10, 10, 10] for _, test, _ in folds)
    other = LogisticRegressionCV(
        Cs=10, cv=[fold[:2] for fold in folds], solver="newton-cholesky", tol=1e-10, max_iter=1000,
        l1_ratios=(0,), scoring="accuracy", use_legacy_attributes=False,
    ).fit(x, y)  # fmt: skip
    rows = table()
    assert_allclose(column(rows, "C"), np.logspace(-4, 4, 10))
    assert_allclose(column(rows, "accuracy"), other.scores_.reshape(5, 10).mean(axis=0), atol=1e-12)
    (chosen,) = [row for row in rows if row["chosen"] == "True"]
    assert float(chosen["C"]) == pytest.approx(float(other.C_))


@pytest.mark.parametrize("protocol", [Dinov2(), Clip(), Mteb(), Cv()], ids=repr)
def test_every_split_trains_on_every_class_and_measures_on_none_of_its_rows(protocol):
    for seed in range(20):
        y = np.repeat(range(6), [1, 1, 2, 9, 30, 57])
        y = np.random.default_rng(seed).permutation(y)
        for train, test, _ in protocol.splits(y, seed):
            assert set(y[train]) == set(range(6))
            assert len(test)
            assert sorted([*train, *test]) == list(range(100))
            assert (np.diff(train) > 0).all()


@pytest.mark.parametrize("protocol", [Dinov2(), Clip(), Mteb(), Cv()], ids=repr)
def test_rows_of_which_none_can_be_held_out_are_a_sentence(protocol):
    with pytest.raises(DataError, match=r"^protocol\.\w+=\S+.* leaves none to measure on\."):
        protocol.splits(np.arange(5), 0)


def test_a_probe_leaves_its_files(probe):
    outcome = probe("models=all", "plots=true")
    assert (outcome.code, outcome.err) == (0, "")
    names = ["layer2", "layer9", "layer10"]  # 10 after 9
    assert [line.split()[0] for line in outcome.out.splitlines()[:3]] == names
    assert re.search(r"^best: layer9, accuracy 0\.\d+; C=\S+, strength=\S+$", outcome.out, re.MULTILINE)
    assert "1 / (C N)" in outcome.out
    assert outcome.out.splitlines()[-1] == "in out: probe.csv, probe.png, probe.html, models/"
    assert {path.name for path in Path("out").iterdir()} == {"probe.csv", "probe.png", "probe.html", "models"}
    rows = table()
    assert list(rows[0]) == ["layer", "C", "strength", "accuracy", "loss", "gap", "iterations", "certified", "chosen"]
    assert [row["layer"] for row in rows] == np.repeat(names, 5).tolist()
    assert [row["layer"] for row in rows if row["chosen"] == "True"] == names
    assert imread("out/probe.png").shape[2] == 4
    page = Path("out/probe.html").read_text()
    assert "python -m trainer.probe &#39;features=layers/*.npy&#39; labels=labels.npy output=out " in page
    assert page.count("<title>layer") == 15
    assert page.count('class="pick"') == 3
    assert "load_file(&#39;models/layer9/linear.safetensors&#39;)" in page
    assert "dinov2/eval/log_regression.py" in page


@pytest.mark.parametrize(("models", "kept"), [("all", 3), ("best", 1), ("none", 0)])
def test_models_says_of_which_layers_a_classifier_is_kept(probe, models, kept):
    assert probe(f"models={models}").code == 0
    found = sorted(path.parent.name for path in Path("out").rglob("model.npz"))
    assert len(found) == kept
    assert models != "best" or found == ["layer9"]


def test_the_classifier_is_of_raw_features_and_predicts_from_the_command_line(probe, call):  # noqa: F811
    assert probe("models=all", features="layers/layer9.npy", labels="labels.txt").code == 0
    assert call("model=out/models/layer9", "data=file", "data.path=layers/layer9.npy", name="predict").code == 0
    (predicted,) = Path("out/models").rglob("*.csv")
    says = np.array([row["prediction"] for row in table(predicted)])
    model = Model.load(Path("out/models/layer9/model.npz"))
    assert model.classes == ("kind 0", "kind 1", "kind 2")
    assert np.mean(says == np.array(Path("labels.txt").read_text().splitlines())) > 0.8


def test_a_linear_layer_of_torch_predicts_the_same(probe):
    library = pytest.importorskip("safetensors")
    assert probe("models=all", features="layers/layer9.npy", labels="labels.txt").code == 0
    place = Path("out/models/layer9")
    with library.safe_open(place / "linear.safetensors", framework="numpy") as file:
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        assert json.loads(file.metadata()["classes"]) == ["kind 0", "kind 1", "kind 2"]
    assert {key: (value.shape, value.dtype) for key, value in state.items()} == {
        "weight": ((3, 5), np.float32),
        "bias": ((3,), np.float32),
    }
    x = np.load("layers/layer9.npy")
    z = x @ state["weight"].T + state["bias"]
    a = np.exp(z - z.max(axis=1, keepdims=True))
    assert_allclose(a / a.sum(axis=1, keepdims=True), Model.load(place).predict(x), atol=1e-5)


def test_without_the_library_the_model_is_written_all_the_same(probe, monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(files, "import_module", missing)
    outcome = probe("models=all", features="layers/layer9.npy")
    assert outcome.code == 0
    assert "linear.safetensors is not written, as it needs pip install 'softmax-trainer[probe]'" in outcome.out
    assert {path.name for path in Path("out/models/layer9").iterdir()} == {"model.npz"}


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("kind", ["stack", "parquet", "by columns", "folders of npy", "folders of parquet"])
def test_layers_come_from_other_files_with_the_same_features(kind):
    before = find_layers(["layers/*.npy"])
    expected = [layer.read(np.float32) for layer in before]
    features = "layers/*.npy"
    if kind == "stack":
        np.save("stack.npy", np.stack(expected))
        features = "stack.npy"
    for layer, x in zip(before, expected, strict=True):
        if kind == "by columns":
            np.save(layer.path, np.asfortranarray(x))
        elif kind == "parquet":
            table = pyarrow.table(dict(zip("abcde", x.T, strict=True)))
            parquet.write_table(table, Path(layer.path).with_suffix(".parquet"), row_group_size=40)
            features = "layers/*.parquet"
        elif kind.startswith("folders"):
            (folder := Path("many", layer.name)).mkdir(parents=True)
            for number, part in enumerate(np.array_split(x, 11)):
                if kind.endswith("npy"):
                    np.save(folder / f"part{number}.npy", part)
                else:
                    table = pyarrow.table(dict(zip("abcde", part.T, strict=True)))
                    parquet.write_table(table, folder / f"part{number}.parquet")
            features = "many/*/"
    found = find_layers([features])
    names = ["stack/0", "stack/1", "stack/2"] if kind == "stack" else ["layer2", "layer9", "layer10"]
    assert [layer.name for layer in found] == names
    for layer, x in zip(found, expected, strict=True):
        assert layer.dtype(None) == np.float32
        assert_array_equal(layer.read(np.float32), x)
        assert_array_equal(layer.left(np.float32)[:], x)


def test_a_list_of_files_and_a_stack_are_words_of_the_command(probe):
    np.save("stack.npy", np.stack([np.load(f"layers/{name}.npy") for name in ("layer9", "layer2")]))
    assert probe(features="stack.npy").code == 0
    expected = [{**row, "layer": ""} for row in table()]
    assert probe("overwrite=true", features="[layers/layer9.npy,layers/layer2.npy]").code == 0
    assert [{**row, "layer": ""} for row in table()] == expected


@pytest.mark.parametrize(
    ("given", "asked", "becomes"),
    [
        (np.float16, None, np.float32),
        (np.float32, None, np.float32),
        (">f4", None, np.float32),
        (np.float64, None, np.float64),
        (np.uint8, None, np.float64),
        (np.float64, "float32", np.float32),
        (np.float32, "float64", np.float64),
    ],
)
def test_the_features_keep_their_digits(tmp_path, given, asked, becomes):
    path = str(tmp_path / "x.npy")
    x = np.arange(12).reshape(4, 3).astype(given)
    np.save(path, x)
    (layer,) = find_layers([path])
    read = layer.read(layer.dtype(asked))
    assert (read.dtype, read.flags.c_contiguous) == (becomes, True)
    assert_array_equal(read, x)


def test_one_layer_is_in_memory_at_a_time(probe, monkeypatch):
    alive, read = [], Layer.read

    def watched(layer, dtype):
        assert [one for one in alive if one() is not None] == []
        x = read(layer, dtype)
        alive.append(weakref.ref(x))
        return x

    monkeypatch.setattr(Layer, "read", watched)
    assert probe().code == 0
    assert len(alive) == 3


@pytest.mark.parametrize(
    "text",
    [
        ("l.txt", "a\nb\na\nc\n"),
        ("l.csv", "a\nb\na\nc\n"),
        ("l.csv", "label\na\nb\na\nc\n"),
        ("l.tsv", "a\r\nb\r\na\r\nc"),
        ("l.csv.gz", "label\na\nb\na\nc\n"),
    ],
    ids=str,
)
def test_labels_are_a_line_each_perhaps_below_a_name(tmp_path, text):
    path = tmp_path / text[0]
    path.write_bytes(gzip.compress(text[1].encode()) if text[0].endswith(".gz") else text[1].encode())
    y, classes = read_labels(str(path), 4)
    assert (y.tolist(), classes) == ([0, 1, 0, 2], ("a", "b", "c"))


def test_labels_that_would_be_shifted_by_a_line_are_refused(tmp_path):
    path = tmp_path / "l.csv"
    path.write_text("a\nb\na\nc\na\n")
    with pytest.raises(DataError, match="has 5 labels, and features= has 4 rows"):
        read_labels(str(path), 4)


@pytest.mark.parametrize("labels", [[1, 2, 1], [[1], [2], [1]], [1.0, 2.0, 1.0], [True, False, True], ["b", "c", "b"]])
def test_labels_of_an_array_are_integers_or_texts(tmp_path, labels):
    np.save(tmp_path / "y.npy", labels)
    y, classes = read_labels(str(tmp_path / "y.npy"), 3)
    assert [classes[place] for place in y] == np.ravel(labels).tolist()


def wrong(tmp_path, what):
    """Files that cannot be probed, in the place of those of the fixture."""
    for folder, names in {"empty": [], "mixed": ["a.csv", "b.npy"], "texts": ["a.csv"]}.items():
        Path(folder).mkdir()
        for name in names:
            Path(folder, name).touch()
    x, y = np.load("layers/layer9.npy"), np.load("labels.npy")
    match what:
        case "rows":
            np.save("layers/layer9.npy", x[:-1])
        case "nan":
            x[7, 2] = np.nan
            np.save("layers/layer9.npy", x)
        case "pickle":
            np.save("layers/layer9.npy", np.array([{}] * 150), allow_pickle=True)
        case "flat":
            np.save("layers/layer9.npy", x[:, 0])
        case "short":
            content = Path("layers/layer9.npy").read_bytes()
            Path("layers/layer9.npy").write_bytes(content[:-4])
        case "stored by columns":
            np.save("layers/layer9.npy", np.asfortranarray(np.stack([x, x])))
        case "text column":
            parquet.write_table(pyarrow.table({"a": ["x"] * 150}), "layers/layer11.parquet")
            Path("layers/layer9.npy").unlink()
        case "labels":
            np.save("labels.npy", y[:-2])
        case "one class":
            np.save("labels.npy", np.zeros(150, int))
        case "fractions":
            np.save("labels.npy", y / 2)
        case "target rows":
            np.save("labels.npy", np.eye(3)[y])


@pytest.mark.parametrize(
    ("what", "words", "code", "sentence"),
    [
        ("rows", [], 2, "layers/layer9.npy has 149 rows, and layers/layer2.npy has 150"),
        ("nan", [], 2, "layers/layer9.npy[7, 2] is nan, the first of 1 values that are not finite"),
        ("pickle", [], 2, "layers/layer9.npy holds values of dtype 'object'"),
        ("flat", [], 2, "layers/layer9.npy has the shape (150,), not (N,D)"),
        ("short", [], 2, "layers/layer9.npy is damaged"),
        ("stored by columns", [], 2, "write it with numpy.save of numpy.ascontiguousarray(x)"),
        ("text column", ["features=layers/*"], 2, "column 'a' is of type string, which is no number"),
        ("labels", [], 2, "labels.npy has the shape (148,), and features= has 150 rows"),
        ("one class", [], 2, "labels.npy: all labels are '0'; at least 2 classes are needed"),
        ("fractions", [], 2, "labels.npy[50] is 0.5"),
        ("target rows", [], 2, "labels.npy has the shape (150, 3)"),
        ("", ["features=layers/*.npz"], 2, "features=layers/*.npz finds no file"),
        ("", ["features=layers/layer3.npy"], 3, "it may be 'layer"),
        ("", ["features=labels.txt"], 2, "labels.txt is of an unknown kind; convert it to .npy, .parquet"),
        ("", ["features=[layers/layer2.npy,layers/layer2.npy]"], 2, "names layers/layer2.npy twice"),
        ("", ["features=empty/"], 3, "it is a folder without a file"),
        ("", ["features=mixed/"], 2, "mixed/ has files of several kinds, such as mixed/a.csv and mixed/b.npy"),
        ("", ["features=texts/"], 2, "texts/a.csv is of an unknown kind; convert it to .npy, .parquet"),
        ("", ["features=[]"], 2, "features must name a file, or several"),
        ("", ["features=[1]"], 2, "features must name a file, or several"),
        ("", ["labels=nowhere.npy"], 3, "nowhere.npy cannot be read: No such file"),
        ("", ["labels=layers"], 3, "layers cannot be read: it is a directory"),
        ("", ["protocol.held_out=1"], 2, "protocol.held_out must be greater than 0 and less than 1, got 1"),
        ("", ["protocol=cv", "protocol.folds=1"], 2, "protocol.folds must be at least 2, got 1"),
        ("", ["protocol=cv", "protocol.folds=151"], 2, "protocol.folds=151 of 150 rows leaves none"),
        ("", ["protocol=cv", "protocol.low=2", "protocol.high=1"], 2, "powers of ten from -100 to 100, the lower"),
        ("", ["protocol=cv", "protocol.strengths=0"], 2, "protocol.strengths must be at least 1, got 0"),
        ("", ["protocol=mteb", "protocol.samples=0"], 2, "protocol.samples must be at least 1, got 0"),
        ("", ["protocol=mteb", "protocol.samples=50"], 2, "protocol.samples=50 a class of 150 rows leaves none"),
        ("", ["protocol=mteb", "protocol.C=0"], 2, "protocol.C must be finite and greater than 0, got 0"),
        ("", ["protocol=mteb", "protocol.held_out=0.5"], 2, "protocol=mteb has no key protocol.held_out"),
        ("", ["metrics=[]"], 2, "metrics=[] must begin with what chooses the strength, one of accuracy"),
        ("", ["metrics=[sparsity]"], 2, "metrics=['sparsity'] must begin with what chooses the strength"),
        ("", ["metrics=[accuracy,f1]"], 2, "metrics=f1 is not known"),
        ("", ["models=some"], 2, "models=some is not known"),
        ("", ["dtype=float16"], 2, "dtype=float16 is not known"),
        ("", ["seed=-1"], 2, "seed must be at least 0, got -1"),
        ("", ["threads=0"], 2, "threads must be at least 1"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("folder")
def test_what_cannot_be_probed_is_a_sentence(tmp_path, what, words, code, sentence):
    wrong(tmp_path, what)
    with pytest.raises(TrainerError) as refused:
        command.run(settings("features=layers/*.npy", "labels=labels.npy", *words))
    assert refused.value.exit_code == code
    assert sentence in str(refused.value)
    assert not Path("out").exists() or what == "nan"


def settings(*words):
    """What Hydra would make of the words, in a fraction of its time."""
    given = dict(word.split("=", 1) for word in words)
    node = yaml.safe_load((CONF / "probe.yaml").read_text()) | {"output": "out"}
    name = given.pop("protocol", "dinov2")
    node["protocol"] = yaml.safe_load((CONF / f"protocol/{name}.yaml").read_text())
    for key, value in given.items():
        inner, _, last = key.rpartition(".")
        (node[inner] if inner else node)[last] = yaml.safe_load(value)
    return OmegaConf.create({key: value for key, value in node.items() if key not in ("defaults", "hydra")})


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["features=layers/layer2.npy", "labels=[1,2]"], "labels must be of type str, got [1, 2] of type list."),
        (["features=a.npy", "labels=b.npy", "protocol=dino"], "did you mean dinov2? Choices: clip, cv, dinov2, mteb"),
        (["feature=a.npy", "labels=b.npy"], "There is no key feature; did you mean features?"),
        (["labels=labels.npy"], "features cannot be read: Missing mandatory value: features."),
    ],
)
@pytest.mark.usefixtures("folder")
def test_a_wrong_command_ends_in_a_sentence_and_leaves_nothing(call, words, sentence):  # noqa: F811
    assert_refused(call(*words, name="probe"), 2, [sentence], ".")


def test_a_probe_is_not_written_over_unless_asked_to(probe):
    words = {"features": "layers/layer9.npy"}
    assert probe(**words).code == 0
    before = Path("out/probe.csv").read_bytes()
    outcome = probe("seed=4", **words)
    assert outcome.code == 2
    assert "out/probe.csv exists; name another folder by output=..., or set overwrite=true." in outcome.err
    assert Path("out/probe.csv").read_bytes() == before
    assert probe("seed=4", "overwrite=true", **words).code == 0
    assert Path("out/probe.csv").read_bytes() != before


def test_without_an_output_it_has_a_folder_of_its_own(call, folder):  # noqa: F811
    assert call("features=layers/layer9.npy", "labels=labels.npy", *SHORT, name="probe").code == 0
    (found,) = Path("outputs/probe").rglob("probe.csv")
    assert re.fullmatch(r"outputs/probe/\d{4}-\d\d-\d\d/\d\d-\d\d-\d\d-\d{6}/probe.csv", found.as_posix())


def test_equal_seeds_hold_out_the_same_rows_of_all_layers(probe):
    Path("layers/layer11.npy").write_bytes(Path("layers/layer2.npy").read_bytes())
    assert probe().code == 0
    rows = [{**row, "layer": ""} for row in table()]
    assert rows[:5] == rows[-5:]


def test_a_choice_at_the_end_of_the_grid_is_said(probe):
    outcome = probe("protocol=dinov2", "protocol.low=-6", "protocol.high=-5", "protocol.strengths=2")
    assert re.search(r"Note: the chosen C=1e-0[56] is the (smallest|largest) of all tried in layer", outcome.out)
    page = Path("out/probe.html").read_text()
    assert "the best may lie beyond" in page
    assert '<span class="tag no">' in page


def test_an_uncertified_choice_is_said(probe, monkeypatch):
    monkeypatch.setattr(probing, "ITERATIONS", 1)
    outcome = probe()
    assert outcome.code == 0
    assert "Note: what was chosen is not certified in layer2, layer9, layer10" in outcome.out
    assert re.search(r"Note: \d+ of 15 rows of probe.csv are not certified", outcome.out)
    assert "False" in {row["certified"] for row in table()}
    page = Path("out/probe.html").read_text()
    assert page.count('<span class="tag no">not certified</span>') == 3


def test_a_class_of_which_no_row_can_be_held_out_is_named(probe):
    labels = np.load("labels.npy")
    labels[[3, 77]] = 7, 8
    np.save("labels.npy", labels)
    assert (
        "Note: no row is held out of 7, 8, as there are too few of these classes."
        in probe(features="layers/layer2.npy").out
    )


def test_ctrl_c_keeps_the_layers_that_are_done(probe, monkeypatch):
    read = Layer.read

    def interrupted(layer, dtype):
        if layer.name == "layer9":
            raise KeyboardInterrupt
        return read(layer, dtype)

    monkeypatch.setattr(Layer, "read", interrupted)
    outcome = probe("models=all")
    assert outcome.code == 130
    assert outcome.err.splitlines()[-1] == "Interrupted."
    assert [row["layer"] for row in table()] == ["layer2"] * 5
    assert Model.load(Path("out/models/layer2")).w.any()


@pytest.mark.parametrize("protocol", [*PROTOCOLS])
def test_the_bar_counts_every_fit_to_its_end(probe, monkeypatch, protocol):
    bars = []

    class Bar(command.tqdm):
        def __init__(self, **settings):
            super().__init__(**settings | {"disable": False})
            bars.append(self)

    monkeypatch.setattr(command, "tqdm", Bar)
    outcome = probe(f"protocol={protocol}", features="layers/layer9.npy")
    assert outcome.code == 0
    assert ", layer9]" in outcome.err
    (bar,) = bars
    assert bar.n == bar.total


def test_more_than_the_memory_holds_is_refused_before_it_is_read(probe, monkeypatch):
    monkeypatch.setattr(memory, "SMALL", 0)
    monkeypatch.setattr(memory, "available", lambda: 1 << 10)
    monkeypatch.setattr(Layer, "read", None)
    outcome = probe()
    assert outcome.code == 3
    assert "Probing layer2, 150 rows of 5 features in 3 classes, takes about" in outcome.err
    assert outcome.err.endswith("Take fewer rows, or free some memory.\n")


@pytest.mark.parametrize("form", ["files", "folders"])
def test_a_layer_that_the_memory_cannot_hold_stays_in_its_files(probe, monkeypatch, form):
    features = "layers/*.npy"
    if form == "folders":
        for path in Path("layers").iterdir():
            (folder := Path("many", path.stem)).mkdir(parents=True)
            for number, part in enumerate(np.array_split(np.load(path), 3)):
                np.save(folder / f"{number}.npy", part)
        features = "many/*"
    assert probe("models=best").code == 0
    expected, best = table(), Model.load(Path("out/models/layer9")).w
    turns = cycle([False, True])  # of the whole layer, and of what a fit takes beside its files
    monkeypatch.setattr(memory, "has", lambda needed: next(turns))
    monkeypatch.setattr(Layer, "read", None)
    assert probe("models=best", "overwrite=true", features=features).code == 0
    assert table() == expected
    assert_array_equal(Model.load(Path("out/models/layer9")).w, best)


@pytest.mark.usefixtures("folder")
def test_a_layer_that_is_left_in_its_files_is_checked_all_the_same():
    x = np.load("layers/layer9.npy")
    x[7, 2] = np.inf
    np.save("layers/layer9.npy", x)
    *_, layer = find_layers(["layers/layer2.npy", "layers/layer9.npy"])
    with pytest.raises(DataError, match=r"layer9.npy\[7, 2\] is inf, the first of 1 values that are not finite"):
        layer.left(np.float32)
    parquet.write_table(pyarrow.table({"a": np.zeros((1 << 22) + 1)}), "long.parquet", row_group_size=1 << 23)
    (layer,) = find_layers(["long.parquet"])
    with pytest.raises(DataError, match="has 4,194,305 rows in one group, too many to be read in blocks"):
        layer.left(np.float32)


def test_names_of_files_of_the_same_name_are_those_of_their_folders(tmp_path):
    for name in ("a/x.npy", "b/c/x.npy", "b/y.npy"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        np.save(tmp_path / name, np.zeros((2, 1)))
    found = find_layers([str(tmp_path / "**/*.npy")])
    assert [layer.name for layer in found] == ["a/x", "b/c/x", "b/y"]


def test_a_name_with_brackets_is_a_file_and_no_pattern(tmp_path):
    np.save(tmp_path / "x[1].npy", np.zeros((2, 1)))
    assert [layer.name for layer in find_layers([str(tmp_path / "x[1].npy")])] == ["x[1]"]


def test_a_file_that_becomes_shorter_is_a_sentence(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.zeros((3, 4, 5)))
    *_, last = find_layers([str(path)])
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(DataError, match="has become shorter while it was read"):
        last.read(np.float64)
    path.unlink()
    with pytest.raises(FileError, match="cannot be read any more"):
        last.read(np.float64)


def test_the_help_has_every_protocol_and_key(call):  # noqa: F811
    text = call("--help", name="probe").out
    assert all(re.search(rf"\b{name}  ", text) for name in PROTOCOLS)
    for key in vars(command.ProbeSettings)["__annotations__"]:
        assert f"\n  {key}=" in text


@pytest.mark.chromium
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_in_a_browser(probe, tmp_path, width, scheme):
    assert probe("models=best").code == 0
    picture, console, hosts, measured = browse(tmp_path, tmp_path / "out" / "probe.html", width, scheme)
    assert picture.stat().st_size > 10_000, console
    assert "CONSOLE" not in console
    assert hosts == set()
    assert int(measured[0]) <= width
    assert measured[1] == {"light": "rgb(253, 253, 251)", "dark": "rgb(20, 22, 26)"}[scheme]
