import re
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array
from sklearn.model_selection import train_test_split

from trainer.data.rows import Data, Standardizer, batches, prepare, random_state, split
from trainer.errors import ConfigError, DataError


def sample(n=120, shares=(0.5, 0.25, 0.25)):
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(len(shares)), [round(n * share) for share in shares])
    return Data(rng.normal(3, 5, size=(len(y), 4)), rng.permutation(y), tuple("abc"), tuple("pqrs"))


def test_a_split_keeps_every_row_once_and_the_share_of_every_class():
    data = sample()
    train, valid = split(data, 0.2, seed=0)
    rows = np.vstack([train.x, valid.x])
    assert_array_equal(np.sort(rows, axis=0), np.sort(data.x, axis=0))
    assert_array_equal(np.bincount(train.y), [48, 24, 24])
    assert_array_equal(np.bincount(valid.y), [12, 6, 6])


def test_a_split_is_a_function_of_the_seed_also_of_a_huge_one():
    data = sample()
    assert_array_equal(split(data, 0.2, 2**70)[0].x, split(data, 0.2, 2**70)[0].x)
    assert not np.array_equal(split(data, 0.2, 0)[0].x, split(data, 0.2, 1)[0].x)


@pytest.mark.parametrize("fraction", [0.1, 0.2, 1 / 3, 0.5, 0.87])
@pytest.mark.parametrize("counts", [(60, 30, 30), (40, 0, 40, 40), (5, 5, 5, 5, 5, 5, 5, 5), (301, 17, 2), (50, 49)])
def test_a_split_is_that_of_scikit_learn(counts, fraction):
    many = sum(counts)
    for seed in range(10):
        y = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
        data = Data(np.arange(float(many))[:, None], y, tuple(range(len(counts))), ("x",))
        if not len(counts) <= np.ceil(fraction * many) <= many - len(counts):
            continue
        train, valid = train_test_split(data.x, test_size=fraction, stratify=y, random_state=random_state(seed))
        assert [part.x.tolist() for part in split(data, fraction, seed)] == [sorted(p.tolist()) for p in (train, valid)]


def test_without_validation_every_row_trains():
    data = sample()
    assert split(data, 0, seed=0) == (data, None)


def test_a_class_with_one_sample_is_named():
    data = sample()
    lonely = replace(data, y=np.where(np.arange(len(data)) == 0, 2, data.y % 2))
    with pytest.raises(DataError, match=r"Class c has one sample only.*valid_fraction=0"):
        split(lonely, 0.2, seed=0)


def test_classes_with_one_sample_each_are_named_in_the_plural():
    data = sample()
    labels = np.where(np.arange(len(data)) < 2, np.arange(len(data)) + 1, 0)
    with pytest.raises(DataError, match=r"^Classes b, c have one sample only"):
        split(replace(data, y=labels), 0.2, seed=0)
    many = replace(data, y=np.arange(len(data)), classes=tuple(range(len(data))))
    with pytest.raises(DataError, match=r"^Classes 0, 1, 2, 3, 4 and 115 more have one sample only"):
        split(many, 0.2, seed=0)


def test_a_fraction_that_leaves_a_class_without_validation_is_refused():
    for fraction, many in ((0.01, 2), (0.99, 119)):
        sentence = (
            f"valid_fraction={fraction} would hold out {many} of 120 samples, and each of 3 classes needs one on both "
            "sides. Hold out 3 to 117, or none by valid_fraction=0."
        )
        with pytest.raises(ConfigError, match=f"^{re.escape(sentence)}$"):
            split(sample(), fraction, seed=0)


@pytest.mark.parametrize("fraction", [0.02, 0.5, 0.975])
def test_each_fraction_that_leaves_every_class_a_sample_on_both_sides_is_taken(fraction):
    for side in split(sample(), fraction, seed=0):
        assert set(side.y) == {0, 1, 2}


def test_soft_targets_are_split_by_their_largest_entry():
    data = sample()
    soft = replace(data, y=0.8 * np.eye(3)[data.y] + 0.1)
    assert_array_equal(split(soft, 0.2, 0)[0].x, split(data, 0.2, 0)[0].x)


def test_standardisation_is_fitted_on_the_training_rows_only():
    train, valid, standardizer = prepare(sample(), valid_fraction=0.25, standardize=True, seed=0, dtype="float64")
    assert_allclose(train.x.mean(axis=0), 0, atol=1e-14)
    assert_allclose(train.x.std(axis=0), 1, rtol=1e-14)
    assert np.abs(valid.x.mean(axis=0)).max() > 1e-3
    raw_train, raw_valid = split(sample(), 0.25, seed=0)
    assert_allclose(valid.x, (raw_valid.x - raw_train.x.mean(axis=0)) / raw_train.x.std(axis=0), rtol=1e-12)
    assert_array_equal(standardizer(raw_train.x), train.x)


def test_without_standardisation_the_features_are_taken_as_they_are():
    train, _, standardizer = prepare(sample(), valid_fraction=0, standardize=False, seed=0, dtype="float64")
    assert_array_equal(train.x, sample().x)
    assert_array_equal(standardizer(train.x), train.x)


@pytest.mark.parametrize("scale", [1e300, 1.0, 1e-300])
def test_a_column_of_any_size_is_standardised(scale):
    x = scale * np.random.default_rng(0).normal(size=(50, 1))
    with np.errstate(all="raise"):
        assert_allclose(Standardizer.fit(x)(x).std(), 1, rtol=1e-12)


def test_a_spread_below_the_smallest_number_is_none():
    x = np.array([[0.0], [5e-324], [0.0]])
    assert Standardizer.fit(x).scale == Standardizer.fit(csr_array(x)).scale == 1


@pytest.mark.parametrize("value", [0.0, 7.3, -1e200])
def test_a_constant_column_becomes_zero_and_not_nan(value):
    x = np.full((49, 1), value)
    assert_allclose(Standardizer.fit(x)(x), 0, atol=1e-12)
    assert Standardizer.fit(x).scale == 1


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_features_get_the_dtype_that_was_asked_for(dtype):
    train, valid, _ = prepare(sample(), valid_fraction=0.25, standardize=True, seed=0, dtype=dtype)
    assert train.x.dtype == valid.x.dtype == dtype


def test_the_users_array_is_never_written_to():
    data = sample()
    data.x.setflags(write=False)
    prepare(data, valid_fraction=0.25, standardize=True, seed=0, dtype="float64")


@pytest.mark.parametrize("size", [1, 7, 60, 119])
def test_mini_batches_hold_every_row_once_an_epoch(size):
    data = sample()
    parts = list(batches(data, size, seed=0, epoch=3))
    assert_array_equal(np.sort(np.vstack([part.x for part in parts]), axis=0), np.sort(data.x, axis=0))
    assert all(len(part) == size for part in parts[:-1])


def test_mini_batches_are_a_function_of_seed_and_epoch():
    def order(seed, epoch):
        return np.vstack([part.x for part in batches(sample(), 32, seed, epoch)])

    assert_array_equal(order(0, 1), order(0, 1))
    assert not np.array_equal(order(0, 1), order(0, 2))
    assert not np.array_equal(order(0, 1), order(1, 1))


@pytest.mark.parametrize("size", [None, 120, 1000])
def test_a_full_batch_is_the_data_themselves(size):
    data = sample()
    assert [part is data for part in batches(data, size, seed=0, epoch=0)] == [True]


def test_labels_become_one_hot_rows_and_target_rows_stay():
    data = sample()
    assert_array_equal(data.targets(np.float64), np.eye(3)[data.y])
    assert_array_equal(replace(data, y=np.eye(3)[data.y]).labels, data.y)
    assert data.targets(np.float32).flags.f_contiguous
