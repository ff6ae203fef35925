"""Rows that stay in a file: what an index selects, standardised as in memory, and the shuffling by blocks."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse

from trainer.data import features as module
from trainer.data.features import Features, numbers_a_row, over, shuffled_pools
from trainer.data.rows import Data, Standardizer, batches, prepare, split

N, D = 1003, 4


class Rows:
    """A reader of rows in memory that counts what is read."""

    def __init__(self, x, grain=1):
        self.x, self.shape, self.grain, self.longest = x, x.shape, grain, 0

    def __call__(self, start, stop):
        self.longest = max(self.longest, stop - start)
        return self.x[start:stop].copy()

    def place(self, row, column):
        return f"[{row}, {column}]"


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(module, "AT_ONCE", 100 * D)
    monkeypatch.setattr(module, "READING", 100 * D)
    monkeypatch.setattr(module, "POOL", 240 * D)


def x_of(n=N):
    return np.random.default_rng(0).normal(3, 5, size=(n, D))


def data_of(x):
    return Data(x, np.arange(len(x)) % 3, tuple("abc"), tuple("pqrs"))


INDICES = [slice(None), slice(7, 500), slice(5, 900, 3), slice(20, 3), np.array([900, 2, 2, 850]), np.array([], int)]


@pytest.mark.parametrize("index", [*INDICES, np.arange(N) % 7 == 0], ids=str)
@pytest.mark.parametrize("rows", [None, np.arange(3, 996)])
def test_an_index_selects_the_rows_that_it_selects_in_memory(index, rows):
    x = x_of()
    lazy = Features(Rows(x))
    if rows is not None:
        x, lazy = x[rows], lazy.only(rows)
        index = index[: len(rows)] if np.asarray(index).dtype == bool else index
    assert_array_equal(lazy[index], x[index])
    assert lazy.shape == x.shape
    assert len(lazy) == len(x)


def test_rows_of_rows_are_numbered_among_them():
    x = x_of()
    assert_array_equal(Features(Rows(x)).only(np.arange(0, N, 2)).only(np.arange(0, 500, 5))[:], x[::2][:500:5])


def test_scattered_rows_are_gathered_by_readings_of_limited_size():
    reader = Rows(x_of())
    Features(reader).only(np.arange(0, N, 10))[:]
    assert reader.longest <= 100


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("standardize", [True, False])
def test_prepared_rows_of_a_file_are_those_in_memory_bit_for_bit(standardize, dtype):
    x = x_of() * [1e-300, 1, 1e300, 0]
    settings = {"valid_fraction": 0.25, "standardize": standardize, "seed": 3, "dtype": dtype}
    with np.errstate(over="ignore"):
        there, lazy = prepare(data_of(x), **settings), prepare(data_of(Features(Rows(x))), **settings)
    for one, other in zip(there[:2], lazy[:2], strict=True):
        assert isinstance(other.x, Features)
        assert other.x.dtype == one.x.dtype
        assert_array_equal(other.x[:], one.x)
        assert_array_equal(other.y, one.y)
        assert other.x[3:5].flags.c_contiguous
    for one, other in zip(there.standardizer, lazy.standardizer, strict=True):
        assert_array_equal(other, one)


def test_moments_of_blocks_are_those_of_the_whole():
    x = x_of() * [1e-150, 1, 1e150, 1] + [0, 1e6, 0, 0]
    fitted = Standardizer.fit(Features(Rows(x)))
    assert len(list(over(x, len))) == 11
    assert_allclose(fitted.mean, x.mean(axis=0), rtol=1e-12)
    assert_allclose(fitted.scale[[1, 3]], x.std(axis=0)[[1, 3]], rtol=1e-9)


def test_a_constant_column_of_many_blocks_keeps_the_scale_one():
    assert_array_equal(Standardizer.fit(np.full((N, D), 0.1)).scale, 1)


def test_a_large_split_keeps_every_row_once_and_the_share_of_every_class(monkeypatch):
    monkeypatch.setattr("trainer.data.rows.LARGE", 100)
    data = replace(data_of(Features(Rows(x_of()))), y=np.repeat([0, 1, 2], [1, 200, 802])[:N])
    data = replace(data, y=np.where(np.arange(N) < 2, 0, data.y))
    train, valid = split(data, 0.2, seed=1)
    assert_array_equal(np.sort(np.concatenate([train.x.rows, valid.x.rows])), np.arange(N))
    assert_array_equal(np.bincount(valid.y), [1, 40, 160])
    assert_array_equal(split(data, 0.2, seed=1)[1].x.rows, valid.x.rows)
    assert not np.array_equal(split(data, 0.2, seed=2)[1].x.rows, valid.x.rows)


@pytest.mark.parametrize("grain", [1, 170])
@pytest.mark.parametrize("size", [1, 7, 90, 400])
@pytest.mark.parametrize("subset", [False, True])
def test_mini_batches_of_a_file_hold_every_row_once_an_epoch(size, grain, subset):
    x = np.arange(N)[:, None] * np.ones((1, D))
    data = data_of(Features(Rows(x, grain)))
    if subset:
        data = data.only(np.arange(0, N, 2))
        x = x[::2]
    found = list(batches(data, size, seed=0, epoch=1))
    assert_array_equal(np.sort(np.concatenate([part.x for part in found]), axis=0), x)
    assert [len(part) for part in found[:-1]] == [size] * (-(-len(x) // size) - 1)
    assert all(np.array_equal(part.y, part.x[:, 0] % 3) for part in found)


def test_mini_batches_of_a_file_are_a_function_of_seed_and_epoch():
    def order(seed, epoch):
        return np.concatenate([part.x for part in batches(data_of(Features(Rows(x_of()))), 32, seed, epoch)])

    assert_array_equal(order(0, 1), order(0, 1))
    assert not np.array_equal(order(0, 1), order(0, 2))
    assert not np.array_equal(order(0, 1), order(1, 1))


def test_a_pool_is_small_and_mixes_blocks_from_the_whole_file():
    random = np.random.default_rng(0)
    pools = list(shuffled_pools(Features(Rows(np.zeros((10_000, D)))), 10, random))
    assert max(map(len, pools)) <= 240
    assert np.median([np.ptp(pool) for pool in pools[:-1]]) > 5000
    assert np.median(np.abs(np.diff(pools[0]))) > 20


def test_a_row_of_a_sparse_matrix_holds_what_it_stores():
    assert numbers_a_row(np.zeros((10, 7))) == numbers_a_row(Features(Rows(np.zeros((10, 7))))) == 7
    assert numbers_a_row(sparse.random_array((10, 1000), density=0.0013, format="csr", rng=0)) == 2
    assert numbers_a_row(sparse.csr_array((0, 3))) == 0
