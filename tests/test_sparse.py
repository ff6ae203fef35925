"""Sparse features: the files, the refusals, and the same training as with the dense array."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.datasets import dump_svmlight_file, load_svmlight_file

from tests.test_run import SETTINGS
from trainer import SoftmaxRegression
from trainer.chain.activations import Softmax
from trainer.chain.losses import CrossEntropy
from trainer.chain.strategies import fused
from trainer.data import reading
from trainer.data.files import read, read_features
from trainer.data.rows import Data, Standardizer, batches, prepare
from trainer.errors import ConfigError, DataError
from trainer.objective.blocks import blocks, scores
from trainer.objective.metrics import METRICS
from trainer.objective.objective import Objective
from trainer.objective.penalties import L2
from trainer.objective.problem import Problem
from trainer.objective.threads import blas_on_one_thread
from trainer.optimizers import Adam
from trainer.optimizers.fit import TrainState, fit
from trainer.runs.model import Model
from trainer.runs.run import run

N, D, K = 400, 30, 3


def matrix(n=N, density=0.1):
    return sparse.random_array(
        (n, D), density=density, format="csr", rng=0, data_sampler=np.random.default_rng(1).normal
    )


def sample(n=N, kind=sparse.csr_array):
    x = matrix(n)
    return Data(kind(x), np.arange(n) % K, tuple(range(K)), tuple(f"x{d}" for d in range(D)))


def dense(data):
    return replace(data, x=data.x.toarray())


@pytest.fixture
def saved(tmp_path):
    """Writes x as scipy does, with labels beside it, and gives both paths."""

    def write(x, y=None, **changes):
        sparse.save_npz(tmp_path / "x.npz", x)
        if changes:
            with np.load(tmp_path / "x.npz") as arrays:
                np.savez(tmp_path / "x.npz", **{k: v for k, v in {**arrays, **changes}.items() if v is not None})
        np.save(tmp_path / "y.npy", np.arange(x.shape[0]) % K if y is None else y)
        return str(tmp_path / "x.npz"), str(tmp_path / "y.npy")

    return write


@pytest.fixture
def svm(tmp_path):
    def write(text, name="data.svm"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write


# the objective


@pytest.mark.parametrize("kind", [sparse.csr_array, sparse.csr_matrix])
def test_scores_are_those_of_the_dense_array_and_lie_along_the_samples(kind):
    data, w = sample(kind=kind), np.random.default_rng(2).normal(size=(D + 1, K))
    z = scores(w, data.x)
    assert type(z) is np.ndarray
    assert z.flags.f_contiguous
    assert_allclose(z, scores(w, data.x.toarray()), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", [sparse.csr_array, sparse.csr_matrix])
def test_value_gradient_and_metrics_are_those_of_the_dense_array(kind, dtype):
    data = sample(30_000, kind)
    data = replace(data, x=data.x.astype(dtype))
    w = np.random.default_rng(2).normal(size=(D + 1, K)).astype(dtype)
    objective = Objective(Softmax(), CrossEntropy(), fused, L2(0.1))
    assert len(blocks(data, K)) > 1
    tolerance = {"rtol": 1e-11 if dtype == "float64" else 1e-4, "atol": 1e-14 if dtype == "float64" else 1e-6}
    one, other = (Problem(objective, part) for part in (data, dense(data)))
    for mine, its in zip(one.value_and_grad(w), other.value_and_grad(w), strict=True):
        assert_allclose(mine, its, **tolerance)
    assert one.value_and_grad(w)[1].dtype == dtype
    assert_allclose(one.evaluate(w, METRICS).loss, other.evaluate(w, METRICS).loss, **tolerance)


def test_threads_do_not_change_a_bit():
    data, w = sample(40_000), np.random.default_rng(2).normal(size=(D + 1, K))
    with blas_on_one_thread():
        one, two = (Problem(Objective(Softmax(), CrossEntropy(), fused, L2(0.1), threads=t), data) for t in (1, 2))
        assert_array_equal(one.value_and_grad(w)[1], two.value_and_grad(w)[1])


def test_blocks_of_a_wide_matrix_are_as_large_as_its_entries_allow():
    x = sparse.csr_array((100_000, 1_000_000))
    assert max(part.stop - part.start for _, part in blocks(Data(x, np.zeros(100_000, int), (0, 1), ()), 2)) > 10_000


# standardisation, split and batches


def test_standardising_divides_by_the_scale_of_the_dense_array_and_keeps_the_zeros():
    data = sample()
    fitted = Standardizer.fit(data.x)
    assert_allclose(fitted.scale, Standardizer.fit(data.x.toarray()).scale, rtol=1e-12)
    assert not fitted.mean.any()
    ready = fitted.ready(data.x, np.float64)
    assert ready.nnz == data.x.nnz
    assert_array_equal(ready.toarray(), fitted(data.x.toarray()))


@pytest.mark.parametrize(
    "column", [np.zeros(N), np.full(N, 7.3), 1e300 * np.arange(N), 1e-300 * np.arange(N), np.eye(N, 1).ravel()]
)
def test_every_column_has_the_scale_of_the_dense_one(column):
    with np.errstate(all="raise"):
        scale = Standardizer.fit(sparse.csr_array(column[:, None])).scale
    assert_allclose(scale, Standardizer.fit(column[:, None]).scale, rtol=1e-12)


def test_equal_places_are_summed_before_the_scale_is_taken():
    x = sparse.csr_array((np.array([1.0, 2.0, 5.0]), np.array([0, 0, 0]), np.array([0, 2, 3])), shape=(2, 1))
    assert_allclose(Standardizer.fit(x).scale, 1.0)
    assert x.nnz == 3


def test_split_prepare_and_batches_keep_the_rows_sparse():
    data = sample()
    train, valid, standardizer = prepare(data, valid_fraction=0.2, standardize=True, seed=0, dtype="float32")
    other = prepare(dense(data), valid_fraction=0.2, standardize=False, seed=0, dtype="float64")
    assert sparse.issparse(train.x)
    assert train.x.dtype == np.float32
    assert_allclose(valid.x.toarray(), other.valid.x / standardizer.scale, rtol=1e-6)
    for part, same in zip(batches(train, 32, 0, 1), batches(other.train, 32, 0, 1), strict=True):
        assert_allclose(part.x.toarray(), same.x / standardizer.scale, rtol=1e-6)


def test_training_is_that_of_the_dense_array():
    data = sample()
    objective, optimizer = Objective(Softmax(), CrossEntropy(), fused, L2(0.01)), Adam(lr=0.1)
    results = [
        list(fit(objective, optimizer, part, part, TrainState.start(optimizer, part), epochs=3, batch_size=64))[-1]
        for part in (data, dense(data))
    ]
    assert_allclose(results[0].state.w, results[1].state.w, rtol=1e-8, atol=1e-10)
    assert_allclose(results[0].metrics["val_loss"], results[1].metrics["val_loss"], rtol=1e-10)


def test_a_model_predicts_sparse_rows_and_survives_its_file(tmp_path):
    data = sample()
    standardizer, w = Standardizer.fit(data.x), np.random.default_rng(2).normal(size=(D + 1, K))
    model = Model(w, standardizer, Softmax(), data.classes, data.features, None, {})
    again = Model.load(model.save(tmp_path / "model.npz"))
    assert_array_equal(again.predict(data.x), model.predict(data.x))
    assert_allclose(model.predict(data.x), model.predict(data.x.toarray()), rtol=1e-11)


def test_a_model_that_subtracts_means_refuses_sparse_rows():
    data = sample()
    model = Model(
        np.ones((D + 1, K)), Standardizer.fit(data.x.toarray()), Softmax(), (0, 1, 2), data.features, None, {}
    )
    with pytest.raises(DataError, match="subtracts a mean from each, after which no zero is left"):
        model.predict(data.x)


# .npz


@pytest.mark.parametrize("kind", [sparse.csr_array, sparse.csr_matrix])
@pytest.mark.parametrize("dtype", ["float32", "int64", "bool"])
def test_what_scipy_saves_is_read(saved, kind, dtype):
    x = kind((matrix() > 0).astype(dtype))
    data = read(*saved(x))
    assert_array_equal(data.x.toarray(), x.toarray())
    assert (data.x.dtype, data.classes, data.features[:2]) == (np.float64, (0, 1, 2), ("x0", "x1"))
    assert_array_equal(data.y, np.arange(N) % K)
    assert_array_equal(read_features(saved(x)[0], data.features, None)[0].toarray(), x.toarray())


def test_a_sparse_file_needs_labels_of_its_own(saved):
    path, _ = saved(matrix())
    with pytest.raises(ConfigError, match=r"data\.target must be the path of a \.npy file with the labels of .*x\.npz"):
        read(path, None)
    with pytest.raises(DataError, match=r"x has the shape \(400, 30\), but y has \(3,\)"):
        read(*saved(matrix(), np.arange(3)))
    with pytest.raises(DataError, match="has 30 columns, but the model was trained on 2"):
        read_features(path, ("a", "b"), None)


@pytest.mark.parametrize("other", ["csc", "coo", "bsr"])
def test_other_formats_are_refused(saved, other):
    with pytest.raises(
        DataError, match=r"format 'csc'; write it by .*tocsr|of a CSR matrix, not '_is_array', 'col'|format 'bsr'"
    ):
        read(*saved(matrix().asformat(other)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"indices": np.array([0, 5])}, "its indices lead out of the shape"),
        ({"indices": np.array([0, -1])}, "its indices lead out"),
        ({"indices": np.array([0])}, "its indices lead out"),
        ({"indptr": np.array([0, 2, 1])}, "its indices lead out"),
        ({"indptr": np.array([0, 1, 3])}, "its indices lead out"),
        ({"indptr": np.array([1, 1, 2])}, "its indices lead out"),
        ({"indptr": np.array([0, 2])}, "its indices lead out"),
        ({"indptr": np.array([[0, 1, 2]])}, "its indices lead out"),
        ({"shape": np.array([2, 10**12])}, "has 1,000,000,000,000 columns; from 1 to 16,777,216"),
        ({"shape": np.array([10**12, 2])}, "its indices lead out"),
        ({"shape": np.array([-1, 2]), "indptr": np.array([], int)}, "its indices lead out"),
        ({"data": np.ones((2, 1)), "indices": np.zeros((2, 1), int)}, "its indices lead out"),
        ({"shape": np.array([2])}, "columns; from 1"),
        ({"shape": np.array([2, 0])}, "has 0 columns"),
        ({"data": np.array([1.0, np.nan])}, "is nan, the first of 1 values that are not finite"),
        ({"data": np.array([1j, 1])}, "holds values of dtype 'complex128'"),
        ({"data": np.array([None, 1])}, "holds values of dtype 'object'"),
        ({"indices": np.array([0.0, 1.0])}, "holds values of dtype 'float64'"),
        ({"format": np.array("dense")}, "has the format 'dense'"),
        ({"format": None}, "must hold what scipy.sparse.save_npz writes"),
        ({"more": np.ones(1)}, "must hold what scipy.sparse.save_npz writes"),
    ],
)
def test_a_damaged_matrix_is_refused(saved, changes, message):
    x = sparse.csr_array((np.ones(2), np.array([0, 1]), np.array([0, 1, 2])), shape=(2, 2))
    with pytest.raises(DataError, match=message):
        read(*saved(x, [0, 1], **changes))


def test_a_sparse_bomb_is_refused_before_it_is_unpacked(saved, monkeypatch):
    paths = saved(matrix(10_000))
    monkeypatch.setattr(reading, "MAX_BYTES", 300_000)
    with pytest.raises(DataError, match=r"unpacks to [\d,]+ bytes; at most 300,000"):
        read(*paths)


# LIBSVM


def test_libsvm_files_are_read_as_scikit_learn_reads_them(tmp_path):
    x, y = matrix(10_000), np.arange(10_000) % K
    path = str(tmp_path / "data.libsvm")
    dump_svmlight_file(x, y, path, zero_based=False, comment="made by scikit-learn")
    data, (peer, labels) = read(path, None), load_svmlight_file(path, zero_based=False)
    assert_array_equal(data.x.toarray(), peer.toarray())
    assert_array_equal(data.y, labels)
    assert data.classes == (0, 1, 2)


def test_libsvm_lines_may_have_comments_blanks_and_no_entries(svm):
    data = read(svm("# head\r\n+1 1:.5 3:-2e0 # tail\r\n\r\n-1  \t2:4.\r\n-1\r\n1.0 3:1"), None)
    assert_array_equal(data.x.toarray(), [[0.5, 0, -2], [0, 4, 0], [0, 0, 0], [0, 0, 1]])
    assert data.classes == (-1, 1)
    assert_array_equal(data.y, [1, 0, 0, 1])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 1:2\n2 qid:3 1:2\n", r"data\.svm:2: 'qid:3' is a query id, which is for ranking"),
        ("1 1:2\n1,2 1:2\n", r"data\.svm:2: the label '1,2' is several labels"),
        ("a 1:2\n", r"data\.svm:1: the label 'a' is no number"),
        ("1 0:2\n", r"data\.svm:1: a column is 0, but they count from 1; .*zero_based=False"),
        ("1 1:1\n2 3:1 2:1\n", r"data\.svm:2: column 2 does not rise"),
        ("1 1:1\n2 3:1 3:1\n", r"data\.svm:2: column 3 does not rise"),
        ("1 1:1_0\n", r"data\.svm:1: '1:1_0' is not column:value"),
        ("1 1:nan\n", r"data\.svm:1: '1:nan' is not column:value"),
        ("1 -1:1\n", r"'-1:1' is not column:value"),
        ("1 1:\n", r"'1:' is not column:value"),
        ("1 1 :2\n", r"'1' is not column:value"),
        ("1 1:1\n2 5:1e400\n", r"data\.svm:2: the value of column 5 is inf, the first of 1"),
        ("1 999999999:1\n2\n", "has 999,999,999 columns; from 1 to 16,777,216"),
        ("1\n2\n", "has 0 columns"),
        ("1.5 1:1\n2 1:1\n", r"data\.svm:1: the label '1\.5'"),
        ("1 1:1\n1 1:2\n", "all labels are '1'"),
        (b"1 1:1\n\xff 1:2\n", r"data\.svm:2: the label '\\\\xff' is no number"),
    ],
)
def test_libsvm_lines_that_are_doubtful_are_refused(svm, text, message):
    with pytest.raises(DataError, match=message):
        read(svm(text), None)


def test_an_empty_libsvm_file_has_no_columns(svm):
    with pytest.raises(DataError, match="has 0 columns"):
        read(svm(""), None)


def test_libsvm_features_have_the_columns_of_the_model(svm):
    x, _ = read_features(svm("1 2:5\n2\n"), ("a", "b", "c"), None)
    assert_array_equal(x.toarray(), [[0, 5, 0], [0, 0, 0]])
    with pytest.raises(DataError, match="has 4 columns, but the model was trained on 3"):
        read_features(svm("1 4:5\n"), ("a", "b", "c"), None)


def test_settings_that_have_no_use_are_refused(svm):
    path = svm("1 1:1\n2 1:2\n")
    with pytest.raises(ConfigError, match=r"data\.target has no use"):
        read(path, "y")
    with pytest.raises(ConfigError, match=r"data\.in_memory=false cannot leave .*data\.svm on the disk"):
        read(path, None, in_memory=False)


def test_a_run_trains_on_a_sparse_file(svm, tmp_path):
    rng = np.random.default_rng(0)
    lines = [f"{y} {1 + y}:{rng.uniform(1, 2):.3f} {4 + rng.integers(3)}:1" for y in rng.integers(3, size=90)]
    data = {"name": "file", "path": svm("\n".join(lines))}
    result = run(replace(SETTINGS, data=data, epochs=20, plots=True), tmp_path / "run")
    assert result.metrics["val_accuracy"] > 0.9
    assert Model.load(tmp_path / "run" / "model.npz").predict(read(data["path"], None).x).shape == (90, 3)


# matrices that lead out of themselves, given to the estimator: what scipy's compiled code would do with them is open


def broken(form, **parts):
    """Features in a format of scipy's, some of whose arrays are others than it would make."""
    x = sample().x.asformat(form)
    for name, array in parts.items():
        setattr(x, name, array)
    return x


BROKEN = [
    ("csr", lambda x: x.indices + D, "indices"),
    ("csr", lambda x: x.indices - D, "indices"),
    ("csr", lambda x: np.r_[x.indices[:-1], 10**9], "indices"),
    ("csr", lambda x: x.indices[:-5], "indices"),
    ("csr", lambda x: x.indices.astype(float), "indices"),
    ("csr", lambda x: x.data[:-5], "data"),
    ("csr", lambda x: x.indptr[:-1], "indptr"),
    ("csr", lambda x: x.indptr[::-1].copy(), "indptr"),
    ("csr", lambda x: x.indptr + 1, "indptr"),
    ("csr", lambda x: x.indptr - 1, "indptr"),
    ("csr", lambda x: np.r_[x.indptr[:-1], 10**9], "indptr"),
    ("csc", lambda x: x.indices + N, "indices"),
    ("csc", lambda x: np.r_[x.indptr[:-1], 10**9], "indptr"),
    ("bsr", lambda x: x.indices + D, "indices"),
    ("coo", lambda x: (x.coords[0], x.coords[1] + D), "coords"),
    ("coo", lambda x: (x.coords[0] - N, x.coords[1]), "coords"),
    ("lil", lambda x: np.array([[D + 10**6] * len(row) for row in x.rows] + [None], dtype=object)[:-1], "rows"),
]


@pytest.mark.parametrize(("form", "change", "part"), BROKEN)
@pytest.mark.parametrize("method", ["fit", "partial_fit", "predict", "predict_proba", "decision_function"])
def test_a_matrix_that_leads_out_of_itself_is_refused_before_it_is_used(form, change, part, method):
    y = np.arange(N) % K
    model = SoftmaxRegression(optimizer="adam", max_iter=1).fit(sample().x, y)
    x = broken(form, **{part: change(sample().x.asformat(form))})
    given = (x, y) if "fit" in method else (x,)
    with pytest.raises(DataError, match=r"X is damaged: its indices lead out of the shape \(400, 30\), or do not fit"):
        getattr(model, method)(*given)


def test_what_lies_behind_the_last_entry_is_no_part_of_a_matrix():
    x, y = sample().x, np.arange(N) % K
    longer = x.copy()
    longer.data, longer.indices = np.r_[x.data, 1e9], np.r_[x.indices, 10**9].astype(x.indices.dtype)
    one, other = (SoftmaxRegression().fit(part, y) for part in (x, longer))
    assert_array_equal(one.coef_, other.coef_)
    assert_array_equal(one.predict_proba(x), one.predict_proba(longer))
    assert len(longer.data) == len(x.data) + 1  # it is the caller's
