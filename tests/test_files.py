"""Files as users write them: what is read, and the sentence that each doubtful one is refused with."""

import io
import os
import pickle
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from trainer.data import reading
from trainer.data.columns import Columns
from trainer.data.files import read, read_features
from trainer.errors import ConfigError, DataError, FileError

GOOD = "a,b,y\n1,2,0\n3,4,1\n"


@pytest.fixture
def csv(tmp_path):
    """Writes text or bytes as a .csv file and gives its path."""

    def write(content):
        path = tmp_path / "data.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


@pytest.fixture
def npz(tmp_path):
    """Saves arrays under their keys and gives the file's path."""

    def write(**arrays):
        path = tmp_path / "data.npz"
        np.savez(path, **arrays)
        return str(path)

    return write


@pytest.fixture
def npy(tmp_path):
    def write(name, content):
        path = tmp_path / f"{name}.npy"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            np.save(path, content)
        return str(path)

    return write


def header(text, data=b""):
    """A .npy file with this header, true or not."""
    text = text.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + data


def labelled(labels):
    """A .csv with one row for each label."""
    return "a,y\n" + "".join(f"{row},{label}\n" for row, label in enumerate(labels))


# .csv: what is read


@pytest.mark.parametrize(
    "content",
    [
        GOOD,
        GOOD.rstrip("\n"),
        GOOD.replace("\n", "\r\n"),
        GOOD.replace("\n", "\r"),
        GOOD + "\n\r\n",
        b"\xef\xbb\xbf" + GOOD.encode(),
        "a, b, y\n1, 2, 0\n3, 4, 1\n",
        "y,a,b\n0,1,2\n1,3,4\n",
        '"a","b","y"\n"1","2","0"\n"3","4","1"\n',
        "a,b,y\n+1.,2e0,0\n.3e1,400E-2,1\n",
    ],
)
def test_csv_reads_features_and_labels(csv, content):
    data = read(csv(content), "y")
    assert_array_equal(data.x, [[1, 2], [3, 4]])
    assert_array_equal(data.y, [0, 1])
    assert (data.classes, data.features, data.target) == ((0, 1), ("a", "b"), "y")


def test_csv_numbers_are_float64_in_c_order_and_labels_are_places(csv):
    data = read(csv(GOOD), "y")
    assert data.x.dtype == np.float64
    assert data.x.flags.c_contiguous
    assert data.y.dtype == np.intp


def test_csv_numbers_are_rounded_as_python_rounds_them(csv):
    values = np.random.RandomState(0).standard_normal(10_000) * 10.0 ** np.arange(-50, 50).repeat(100)
    data = read(csv("a,y\n" + "".join(f"{value!r},{value > 0:d}\n" for value in values.tolist())), "y")
    assert_array_equal(data.x[:, 0], values)  # also across the blocks in which a file is read


def test_csv_names_and_labels_may_hold_commas_quotes_and_line_breaks(csv):
    data = read(csv('"a,1","b ""2"""\n1,"x\ny"\n2,"p,q"\n'), 'b "2"')
    assert data.features == ("a,1",)
    assert data.classes == ("p,q", "x\ny")


# .csv: the first line


BARE = "5.1,3.5,a\n4.9,3.0,b\n6.2,3.4,a\n"  # without a header


@pytest.mark.parametrize("target", [None, "a", "5.1", "species"])
def test_a_first_line_of_numbers_is_no_header(csv, target):
    words = r"data\.csv:1: names of columns are needed .* it has the numbers '5\.1', '3\.5'; set data\.header=false if"
    with pytest.raises(DataError, match=words):
        read(csv(BARE), target)
    with pytest.raises(DataError, match=words):
        read_features(csv(BARE), ("a", "b"), target)


@pytest.mark.parametrize("content", ["1,1,2\n1,0,2\n", ",0,2\n0,1,2\n", "-1e-3,x\n2,y\n", '" 7",x\n2,y\n'])
def test_one_number_is_enough_to_ask_for_the_header(csv, content):
    with pytest.raises(DataError, match=r"names of columns are needed .* data\.header=true if they are names"):
        read(csv(content), None)


def test_names_that_are_numbers_are_taken_if_one_says_so(csv):
    content = "0,1,2019\n1.5,2,a\n2.5,3,b\n"
    data = read(csv(content), "2019", header=True)
    assert (data.features, data.target, data.classes) == (("0", "1"), "2019", ("a", "b"))
    assert_array_equal(read_features(csv(content), data.features, data.target)[0], data.x)  # the model knows them


@pytest.mark.parametrize(
    ("target", "features", "x"),
    [
        (None, ("x0", "x1"), [[5.1, 3.5], [4.9, 3.0], [6.2, 3.4]]),
        ("x2", ("x0", "x1"), [[5.1, 3.5], [4.9, 3.0], [6.2, 3.4]]),
    ],
)
def test_without_a_header_columns_are_numbered_and_the_last_is_the_target(csv, target, features, x):
    data = read(csv(BARE), target, header=False)
    assert_array_equal(data.x, x)
    assert (data.features, data.target, data.classes) == (features, "x2", ("a", "b"))


def test_without_a_header_any_column_may_be_the_target(csv):
    data = read(csv("3,1.5,7\n4,2.5,8\n"), "x0", header=False)
    assert (data.features, data.target, data.classes) == (("x1", "x2"), "x0", (3, 4))
    with pytest.raises(ConfigError, match=r"data\.target='species' is not in .*data\.csv; it has 'x0', 'x1', 'x2'"):
        read(csv(BARE), "species", header=False)


def test_without_a_header_places_count_from_the_first_line(csv):
    with pytest.raises(DataError, match=r"data\.csv:1:2: 'x' in column 'x1' is not a number"):
        read(csv("1,x,0\n1,2,1\n"), None, header=False)
    with pytest.raises(DataError, match=r"data\.csv:2:3: the label '1\.5'"):
        read(csv("1,2,0\n1,2,1.5\n"), None, header=False)
    with pytest.raises(DataError, match=r"separated by ';', not by ','"):
        read(csv("1;2;0\n1;2;1\n"), None, header=False)
    for content in ("", "\n"):
        with pytest.raises(DataError, match=r"the file is empty|got an empty line|has no rows|is empty"):
            read(csv(content), None, header=False)


@pytest.mark.parametrize("target", ["x2", "x0"])
def test_features_are_found_without_a_header_with_and_without_the_target(csv, target):
    names = tuple(f"x{d}" for d in range(3) if f"x{d}" != target)
    x, _ = read_features(csv("1,2,3\n4,5,6\n"), names, target, header=False)
    assert_array_equal(x, np.delete([[1, 2, 3], [4, 5, 6]], int(target[1]), axis=1))
    assert_array_equal(read_features(csv("1,2\n4,5\n"), names, target, header=False)[0], [[1, 2], [4, 5]])
    assert_array_equal(read_features(csv("1,2\n4,5\n"), ("a", "b"), "y", header=False)[0], [[1, 2], [4, 5]])
    with pytest.raises(DataError, match="the model has 2 features, the file 4"):
        read_features(csv("1,2,3,4,5\n"), names, target, header=False)


def test_a_header_is_not_taken_for_a_row(csv):
    words = r"data\.csv:1: the first line, 'a', 'b', 'y', is no row of data, .*; leave data\.header=false out"
    with pytest.raises(DataError, match=words):
        read(csv(GOOD), None, header=False)
    with pytest.raises(DataError, match=words):
        read_features(csv(GOOD), ("a", "b"), "y", header=False)


def test_a_header_is_of_a_csv_only(npz):
    with pytest.raises(ConfigError, match=r"data\.header has no use, as .*data\.npz is no \.csv; leave it out"):
        read(npz(x=[[1], [2]], y=[0, 1]), None, header=False)


# .csv: cells


@pytest.mark.parametrize(
    "cell",
    [
        "1_000",
        "\uff11\uff12",
        "\u0663",
        "0x1p3",
        "True",
        "1j",
        "one",
        "1 2",
        "--1",
        "1e",
        "e5",
        ".",
        "1.2.3",
        "\u00a01",
        "1\0",
    ],
)
def test_csv_cell_that_is_no_number_is_refused_by_line_and_column(csv, cell):
    with pytest.raises(DataError, match=r"data\.csv:3:2: '.*' in column 'b' is not a number"):
        read(csv(f"a,b,y\n1,2,0\n1,{cell},1\n"), "y")


@pytest.mark.parametrize("cell", ["", " ", '""'])
def test_csv_cell_that_is_empty_is_refused_by_line_and_column(csv, cell):
    with pytest.raises(DataError, match=r"data\.csv:2:1: .* in column 'a' is empty; fill it in"):
        read(csv(f"a,b,y\n{cell},2,0\n1,2,1\n"), "y")


@pytest.mark.parametrize("cell", ["nan", "NaN", "inf", "-Infinity", "1e400"])
def test_csv_cell_that_is_not_finite_is_refused_with_count_and_first_place(csv, cell):
    with pytest.raises(DataError, match=r"data\.csv:3:2 is -?(nan|inf), the first of 2 values that are not finite"):
        read(csv(f"a,b,y\n1,2,0\n1,{cell},1\n{cell},4,1\n"), "y")


def test_csv_line_counts_the_breaks_inside_quotes(csv):
    with pytest.raises(DataError, match=r"data\.csv:4:1: 'two'"):
        read(csv('a,y\n1,"p\nq"\ntwo,r\n'), "y")


def test_csv_place_is_right_beyond_the_first_block(csv):
    with pytest.raises(DataError, match=r"data\.csv:9002:1: 'x'"):
        read(csv("a,y\n" + "1,0\n" * 9000 + "x,1\n"), "y")


@pytest.mark.parametrize("cell", ["1,5", "-0,25", "1.234,5", "1,234,567"])
def test_csv_decimal_comma_is_named(csv, cell):
    with pytest.raises(DataError, match=r"data\.csv:2:1: .* has a comma; write a decimal point"):
        read(csv(f'a,y\n"{cell}",0\n1,1\n'), "y")


# .csv: shape


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b,y\n1,2,0\n1,2\n", r"data\.csv:3: expected 3 fields, got 2; an empty field needs its comma"),
        ("a,b,y\n1,5,2,5,0\n", r"data\.csv:2: expected 3 fields, got 5; quote a comma inside a field"),
        ("a,b,y\n1,2,0\n\n1,2,1\n", r"data\.csv:3: expected 3 fields, got an empty line"),
        ("a,b,y\n1,2,0\n\n1,2\n", r"data\.csv:3: expected 3 fields, got an empty line"),
        ('a,b,y\n1,2,0\n1,2,"1\n', r"data\.csv:3: unexpected end of data; is a quote missing"),
        ('a,b,y\n1,2,"0"1\n', r"data\.csv:2: .* is a quote missing"),
        ("a,b,y\n1,2," + "x" * 200_000, r"data\.csv:2: field larger than field limit"),
        ("", "the first line must name the columns"),
        ("\ufeff", "the first line must name the columns"),
        ("\na,b,y\n1,2,0\n", r"data\.csv:1: expected 3 fields, got an empty line; remove it"),
        ("a,b,y\n", "has no rows of data"),
        ("a,a,y\n1,2,0\n", "more than one column is named 'a'"),
        ("a,a ,y\n1,2,0\n", "more than one column is named 'a'"),
        (",b,y\n0,2,0\n", r"data\.csv:1:1: name the column or remove it"),
        ("y\n0\n1\n", "has no column but 'y'; at least one feature is needed"),
        ("a;b;y\n1,5;2;0\n", r"separated by ';', not by ','; set data\.delimiter=semicolon, .*: tr ',;' '\.,' <"),
        ("a\tb\ty\n1\t2\t0\n", r"separated by '\\t', not by ','; set data\.delimiter=tab, .*: tr ',\\t' '\.,' <"),
        (GOOD.encode("utf-16"), r"not UTF-8 \(byte 0xff in line 1 or later\), perhaps utf-16; .*iconv -f utf-16"),
        (GOOD.encode("utf-16-le"), r"not UTF-8, perhaps utf-16"),
        ("a,é,y\n1,2,0\n".encode("latin1"), r"not UTF-8 \(byte 0xe9 in line 1 or later\), perhaps latin1"),
    ],
)
def test_csv_that_is_malformed_is_refused(csv, content, message):
    with pytest.raises(DataError, match=message):
        read(csv(content), "y")


@pytest.mark.parametrize(("mark", "escape"), [(";", ";"), ("\t", "\\t")])
def test_the_advice_for_other_separators_works(csv, mark, escape):
    text = f"a{mark}b{mark}y\n1,5{mark}2{mark}0\n3{mark}4{mark}1\n"
    converted = subprocess.run(["tr", f",{escape}", ".,"], input=text.encode(), capture_output=True).stdout
    assert_array_equal(read(csv(converted), "y").x, [[1.5, 2], [3, 4]])


def test_a_delimiter_is_a_letter_or_its_name(tmp_path):
    for name, mark in (("semicolon", ";"), ("pipe", "|"), ("space", " "), ("tab", "\t"), ("~", "~"), ("comma", ",")):
        path = tmp_path / "data.tsv"
        path.write_text(GOOD.replace(",", mark))
        assert_array_equal(read(str(path), "y", asked=Columns(delimiter=name)).x, [[1, 2], [3, 4]])
    with pytest.raises(DataError, match=r"data\.tsv:1: the fields are separated by ',', not by '\\t'; set .*=comma\.$"):
        read(str(path), "y")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (None, r"data\.target must name the column of labels in .*data\.csv; it has 'sepal', 'petal', 'species'"),
        ("specis", r"data\.target='specis' is not in .*'sepal', 'petal', 'species'\. Did you mean 'species'\?"),
        ("", r"data\.target='' is not in"),
    ],
)
def test_csv_target_must_be_a_column(csv, target, message):
    with pytest.raises(ConfigError, match=message):
        read(csv("sepal,petal,species\n1,2,x\n1,2,y\n"), target)


def test_long_lists_and_texts_are_cut_short_in_messages(csv):
    names = ",".join(f"column{number}" for number in range(500))
    with pytest.raises(ConfigError, match="'column7' and 492 more") as error:
        read(csv(names + "\n"), "x" * 5000)
    assert len(str(error.value)) < 400


# columns that look like ids


def customers(n=200, **columns):
    """Rows with the measurements of customers, whose columns a test adds to."""
    rng = np.random.default_rng(0)
    rest = {"age": rng.integers(18, 90, n), "spent": rng.normal(size=n).round(3), "visits": rng.integers(0, 9, n)}
    return {**columns, **rest, "churn": rng.integers(0, 2, n)}


def as_csv(columns):
    return "\n".join(",".join(map(str, row)) for row in [[*columns], *zip(*columns.values(), strict=True)])


SEVERAL = np.random.default_rng(1).permutation(10**6)[:200] + 10**8
IDS = {
    "the numbers of the rows": np.arange(200),
    "shuffled": np.random.default_rng(0).permutation(200) + 7000,
    "of many digits": SEVERAL,
    "of one customer twice": np.r_[SEVERAL[:199], SEVERAL[0]],
    "beyond what a float64 counts": SEVERAL.astype(np.int64) * 10**9 * 7,
    "as floats": np.arange(200.0),
    "in the order of the rows": np.cumsum(np.random.default_rng(0).integers(1, 10**6, 200) ** 3),
}


@pytest.mark.parametrize("numbers", IDS.values(), ids=IDS)
def test_a_column_of_ids_is_named_once(csv, numbers):
    with pytest.warns(UserWarning, match=r"data\.csv: 'customer' looks like an id: .* remove what") as told:
        read(csv(as_csv(customers(customer=numbers))), "churn")
    assert len(told) == 1


def test_several_columns_of_ids_are_named_together(csv):
    with pytest.warns(UserWarning, match=r"data\.csv: 'customer', 'order' look like ids") as told:
        read(csv(as_csv(customers(customer=SEVERAL, order=np.arange(200)))), "churn")
    assert len(told) == 1


@pytest.mark.parametrize(
    "columns",
    [
        customers(),  # a warning is an error here
        customers(weight=np.random.default_rng(0).normal(size=200)),
        customers(year=np.repeat(np.arange(100), 2)),
        customers(income=np.random.default_rng(0).lognormal(10.5, 0.6, 200).round().astype(int)),
        customers(60, balance=np.random.default_rng(0).normal(5e4, 5e4, 60).round().astype(int)),
        {f"count{d}": np.random.default_rng(d).choice(10**6, 200, replace=False) for d in range(20)}
        | {"churn": [0, 1] * 100},
        customers(20, customer=np.arange(20)),
    ],
    ids=["measurements", "floats", "each twice", "incomes", "balances", "counts", "few rows"],
)
def test_columns_that_are_no_ids_are_not_named(csv, columns):
    read(csv(as_csv(columns)), "churn")


def test_texts_that_differ_from_row_to_row_are_told_from_words(csv):
    texts = [f"C{number:05}" for number in range(200)]
    with pytest.raises(
        DataError, match=r"data\.csv:2:1: 'C00000' in column 'customer' .* as an id does; remove the col"
    ):
        read(csv(as_csv(customers(customer=texts))), "churn")
    with pytest.raises(DataError, match=r"'red' in column 'colour' is not a number .*; encode words as numbers"):
        read(csv(as_csv(customers(colour=["red", "green"] * 100))), "churn")


def test_a_prediction_does_not_speak_of_ids(csv):
    rows = as_csv(customers(customer=SEVERAL))
    read_features(csv(rows), ("customer", "age", "spent", "visits"), "churn")


# labels


@pytest.mark.parametrize(
    ("labels", "classes", "y"),
    [
        (["10", "9", "10"], (9, 10), [1, 0, 1]),
        (["-1", "+1", " 1"], (-1, 1), [0, 1, 1]),
        (["0", "7"], (0, 7), [0, 1]),
        (["1.0", "2.", "2", "1e0"], (1, 2), [0, 1, 1, 0]),
        ([str(10**30), "3", str(10**30 + 1)], (3, 10**30, 10**30 + 1), [1, 0, 2]),
        (["b", "a", "b"], ("a", "b"), [1, 0, 1]),
        (["b", "B", "é"], ("B", "b", "é"), [1, 0, 2]),
        (["True", "False"], ("False", "True"), [1, 0]),
    ],
)
def test_text_labels_become_sorted_classes(csv, npz, labels, classes, y):
    for data in read(csv(labelled(labels)), "y"), read(npz(x=np.ones((len(y), 1)), y=np.array(labels)), None):
        assert data.classes == classes
        assert list(map(type, data.classes)) == list(map(type, classes))
        assert_array_equal(data.y, y)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["1", "1.5", "2"], r"data\.csv:3:2: the label '1\.5' .*must be integers or names \(for regression"),
        (["a", "1", "b"], r"data\.csv:2:2: the label 'a' is a name, but '1' is a number; use one kind"),
        (["a", "", "b"], r"data\.csv:3:2: the label '' is the first of 1 that are empty or not finite"),
        (["1", "nan", "2", "NaN", "1e400"], r"data\.csv:3:2: the label 'nan' is the first of 3 that are empty or not"),
        (["a", "a"], "all labels are 'a'; at least 2 classes"),
        (["3"], "all labels are '3'; at least 2 classes"),
    ],
)
def test_text_labels_that_are_no_classes_are_refused(csv, labels, message):
    with pytest.raises(DataError, match=message):
        read(csv(labelled(labels)), "y")


HALF = "\ud800"  # of a surrogate pair


@pytest.mark.parametrize("labels", [[HALF, "b"], ["b", f"a{HALF}"], ["\udfff", "b"], ["b", "\ud83d"]], ids=ascii)
def test_labels_that_are_no_characters_are_refused(npz, npy, labels):
    x, y = np.arange(8.0).reshape(4, 2), np.array(labels * 2)
    for read_labels in (
        lambda: read(npz(x=x, y=y), None),
        lambda: read(npz(x=x, y=y.astype(y.dtype.newbyteorder())), None),
        lambda: read(npy("x", x), npy("y", y)),
    ):
        with pytest.raises(DataError, match=r"the label 'a?\\ud[0-9a-f]{3}' holds half of a surrogate pair"):
            read_labels()


def test_numbers_beyond_all_letters_are_no_labels(npy, tmp_path):
    x, y = npy("x", np.arange(8.0).reshape(4, 2)), npy("y", np.array(["a", "b"] * 2))
    content = (tmp_path / "y.npy").read_bytes()
    (tmp_path / "y.npy").write_bytes(content[:-4] + (0x110000).to_bytes(4, "little"))
    with pytest.raises(DataError, match=r"y\.npy is damaged, as it holds numbers that are no letters"):
        read(x, y)


def test_names_of_columns_that_are_no_characters_are_refused():
    with pytest.raises(DataError, match=r"data\.csv:1: the name 'a\\ud800' holds half of a surrogate pair"):
        reading.check_names(["b", f"a{HALF}"], "data.csv:1")


def test_labels_that_differ_by_blanks_only_are_kept_with_a_warning(csv):
    with pytest.warns(UserWarning, match="The labels 'a' and ' a' differ only by blanks"):
        data = read(csv(labelled(["a", " a", "b"])), "y")
    assert data.classes == (" a", "a", "b")


@pytest.mark.parametrize(
    ("y", "classes", "places"),
    [
        (np.array([5, -2, 5]), (-2, 5), [1, 0, 1]),
        (np.array([[5], [-2], [5]]), (-2, 5), [1, 0, 1]),
        (np.array([True, False, True]), (0, 1), [1, 0, 1]),
        (np.array([1.0, 2.0, -0.0]), (0, 1, 2), [1, 2, 0]),
        (np.array([2**63, 0, 2**63], np.uint64), (0, 2**63), [1, 0, 1]),
        (np.array([1, 0, 1], ">i2"), (0, 1), [1, 0, 1]),
        (np.array(["p", "q", "p"]), ("p", "q"), [0, 1, 0]),
        (np.array([["p"], ["q"], ["p"]]), ("p", "q"), [0, 1, 0]),
    ],
)
def test_array_labels_become_sorted_classes(npz, npy, y, classes, places):
    x = np.ones((3, 2))
    for data in read(npz(x=x, y=y), None), read(npy("x", x), npy("y", y)):
        assert data.classes == classes
        assert list(map(type, data.classes)) == list(map(type, classes))
        assert_array_equal(data.y, places)
        assert data.y.dtype == np.intp


@pytest.mark.parametrize(
    "y",
    [
        np.eye(3, 2),
        np.array([[0.2, 0.8], [0.5, 0.5], [1, 0]], np.float32),
        np.array([[1, 1, 0], [0, 0, 0], [0, 2, 1]]),
        np.array([[True, True], [False, False], [True, False]]),
        np.asfortranarray(np.eye(3)),
    ],
)
def test_target_rows_stay_as_they_are(npz, y):
    data = read(npz(x=np.ones((3, 2)), y=y), None)
    assert_array_equal(data.y, y)
    assert data.y.dtype == np.float64
    assert data.y.flags.c_contiguous
    assert data.classes == tuple(range(y.shape[1]))


def test_one_row_is_enough_if_its_targets_name_two_classes(npz):
    data = read(npz(x=[[1.0]], y=[[0, 1]]), None)
    assert (data.x.shape, data.classes) == ((1, 1), (0, 1))


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([0.0, 1.5, 2.5], r"y\[1\] is 1\.5, the first of 2 values that are no integers.*for regression"),
        ([0.0, np.nan, 2.5], r"y\[1, 0\] is nan, the first of 1 values that are not finite"),
        ([[0, 1], [0, 1], [-1, 0]], r"y\[2, 0\] is -1\.0, the first of 1 values that are negative"),
        ([[0, 1], [0, np.inf], [1, 0]], r"y\[1, 1\] is inf, the first of 1 values that are not finite"),
        ([0, 1], r"x has the shape \(3, 2\), but y has \(2,\)"),
        (1, r"x has the shape \(3, 2\), but y has \(\)"),
        (np.zeros((3, 0)), r"y has the shape \(3, 0\)"),
        (np.zeros((3, 2, 2)), r"y has the shape \(3, 2, 2\)"),
        ([["a", "b"]] * 3, r"y has the shape \(3, 2\) of <U1"),
        ([7, 7, 7], "all labels are '7'; at least 2 classes"),
        ([1j, 0, 0], "y holds values of dtype 'complex128'; convert them to integers, floats or booleans, or names"),
        ([b"a", b"b", b"c"], r"y holds values of dtype '\|S1'"),
        (np.array(["2020-01-01"] * 3, "M8[D]"), r"y holds values of dtype 'datetime64\[D\]'"),
        (np.array([0, 1, None]), "y holds values of dtype 'object'"),
    ],
)
def test_array_labels_that_are_no_targets_are_refused(npz, y, message):
    with pytest.raises(DataError, match=message):
        read(npz(x=np.ones((3, 2)), y=y), None)


# arrays of features


@pytest.mark.parametrize("dtype", ["?", "i1", "u8", ">i4", "f2", "f4", "<f8", ">f8", "g"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_features_of_every_dtype_and_layout_are_read_as_float64(npz, npy, dtype, order):
    x = np.array([[0, 1, 1], [1, 0, 1]]).astype(dtype, order=order)
    for data in read(npz(x=x, y=[0, 1]), None), read(npy("x", x), npy("y", np.array([0, 1]))):
        assert_array_equal(data.x, x)
        assert data.x.dtype == np.float64
        assert data.x.dtype.isnative
        assert data.x.flags.c_contiguous
        assert data.features == ("x0", "x1", "x2")


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.ones(2), r"x has the shape \(2,\), not \(N,D\) with D >= 1; reshape\(-1, 1\)"),
        (np.float64(1), r"x has the shape \(\)"),
        (np.ones((2, 2, 2)), r"x has the shape \(2, 2, 2\)"),
        (np.ones((2, 0)), r"x has the shape \(2, 0\)"),
        ([[1.0, np.nan], [np.inf, 2.0]], r"x\[0, 1\] is nan, the first of 2 values that are not finite"),
        (np.array([[1], [2]], complex), "x holds values of dtype 'complex128'"),
        ([["a"], ["b"]], "x holds values of dtype '<U1'; convert them to integers, floats or booleans.$"),
        (np.array([(1, 2.0), (3, 4.0)], "i4,f8"), "x holds values of dtype"),
        (np.array([[None], [1]]), "x holds values of dtype 'object'"),
    ],
)
def test_features_that_are_no_table_of_numbers_are_refused(npz, x, message):
    with pytest.raises(DataError, match=message):
        read(npz(x=x, y=[0, 1]), None)


@pytest.mark.skipif(np.finfo(np.longdouble).maxexp <= 1024, reason="long double is float64 here")
def test_a_long_double_beyond_float64_is_not_finite(npz):
    with pytest.raises(DataError, match=r"x\[1, 0\] is inf, the first of 1"), np.errstate(all="raise"):
        read(npz(x=np.array([[1], [np.longdouble(2) ** 2000]]), y=[0, 1]), None)


@pytest.mark.parametrize("kind", ["csv", "npz", "npy"])
def test_no_rows_cannot_be_trained_on(csv, npz, npy, kind):
    x = np.ones((0, 2))
    path, target = {
        "csv": lambda: (csv("a,y\n"), "y"),
        "npz": lambda: (npz(x=x, y=np.ones(0)), None),
        "npy": lambda: (npy("x", x), npy("y", np.ones(0))),
    }[kind]()
    with pytest.raises(DataError, match="has no rows of data"):
        read(path, target)


# .npz and .npy: keys, damage and malice


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": [[1]]}, "must hold the arrays x and y, each once, not 'x'"),
        ({"y": [1]}, "not 'y'"),
        ({"X": [[1]], "y": [1]}, "not 'X', 'y'; write it with numpy.savez"),
        ({"x": [[1]], "y": [1], "z": [1]}, "not 'x', 'y', 'z'"),
        (
            {"data": [1], "indices": [0], "indptr": [0], "format": b"csr"},
            r"must hold what scipy\.sparse\.save_npz writes of a CSR matrix, not 'data', 'format', 'indices', 'indptr'",
        ),
    ],
)
def test_npz_holds_x_and_y_and_nothing_else(npz, arrays, message):
    with pytest.raises(DataError, match=message):
        read(npz(**arrays), None)


def test_npz_key_that_occurs_twice_is_refused(npz, tmp_path):
    path = npz(x=[[1], [2]], y=[0, 1])
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("y.npy", b"")
    with pytest.raises(DataError, match="each once, not 'x', 'y', 'y'"):
        read(path, None)


def test_npz_target_has_no_use(npz):
    with pytest.raises(ConfigError, match=r"data\.target has no use, as .*data\.npz holds the labels in y"):
        read(npz(x=[[1], [2]], y=[0, 1]), "label")


def test_npz_bomb_is_refused_before_it_is_unpacked(npz, monkeypatch, tmp_path):
    path = str(tmp_path / "data.npz")
    np.savez_compressed(path, x=np.zeros((100_000, 2)), y=np.zeros(100_000))
    monkeypatch.setattr(reading, "MAX_BYTES", 1_000_000)
    monkeypatch.setattr(np.lib.format, "read_array", None)
    assert os.path.getsize(path) < 100_000
    with pytest.raises(DataError, match=r"unpacks to 2,400,\d\d\d bytes; at most 1,000,000"):
        read(path, None)


def test_npz_member_whose_header_lies_is_refused(tmp_path):
    path = tmp_path / "data.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", header("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 1)}"))
        archive.writestr("y.npy", b"")
    with pytest.raises(DataError, match=r"data\.npz: x is damaged: it has 0 bytes for the shape \(1000000000000, 1\)"):
        read(str(path), None)


def test_npy_size_in_memory_is_predicted(npy, monkeypatch):
    path = npy("x", np.zeros((1000, 10), np.int8))
    monkeypatch.setattr(reading, "MAX_BYTES", 79_999)
    with pytest.raises(DataError, match=r"shape \(1000, 10\), as float64 more than 79,999 bytes"):
        read(path, path)


@pytest.mark.parametrize("shape", ["(10**12, 1)", f"({10**12}, 1)", f"({10**30}, 1)", "(-1, -1)", f"(0, {10**30})"])
@pytest.mark.parametrize("descr", ["<f8", "<f4", "<U0"])
def test_npy_header_that_promises_too_much_is_refused(npy, shape, descr):
    path = npy("x", header(f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}}}"))
    with pytest.raises(DataError, match=r"x\.npy (is damaged|holds values of dtype)"):
        read(path, path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"1,2,3\n",
        b"\x93NUMPY",
        b"\x93NUMPY\x09\x00" + b" " * 100,
        header("(" * 20_000 + ")" * 20_000),
        header("[" * 4000),
        header("__import__('os').system('false')"),
        pickle.dumps(np.ones(3)),
        header("{'descr': '<f8', 'fortran_order': False, 'shape': (1, 1)}", b"1234567"),
        header("{'descr': '<f8', 'fortran_order': False, 'shape': (1, 1)}", b"123456789"),
    ],
)
def test_npy_that_is_damaged_is_refused(npy, content):
    path = npy("x", content)
    with pytest.raises(DataError, match=r"x\.npy is damaged"):
        read(path, path)


class Touch:
    """Leaves a mark when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_pickles_are_never_loaded(npy, npz, tmp_path):
    mark = tmp_path / "mark"
    evil = np.array([[Touch(mark)]])
    raw = npy("raw", pickle.dumps(Touch(mark)))
    renamed = tmp_path / "renamed.npz"
    renamed.write_bytes(pickle.dumps(Touch(mark)))
    for path in npy("x", evil), npz(x=evil, y=[0]), npz(x=[[1]], y=evil[0]), raw, str(renamed):
        with pytest.raises(DataError):
            read(path, raw if path.endswith("npy") else None)
    assert not mark.exists()


def test_npz_with_any_byte_changed_is_read_or_refused(tmp_path):
    path = tmp_path / "data.npz"
    buffer = io.BytesIO()
    np.savez_compressed(buffer, x=np.arange(6.0).reshape(3, 2), y=[0, 1, 1])
    good = buffer.getvalue()
    random = np.random.RandomState(0)
    for place in range(len(good)):
        bad = bytearray(good)
        bad[place] ^= random.randint(1, 256)
        path.write_bytes(bad)
        try:
            read(str(path), None)
        except DataError:
            continue


@pytest.mark.parametrize("length", range(0, 400, 20))
def test_npz_that_is_cut_off_is_refused(npz, length):
    path = npz(x=[[1.0], [2.0]], y=[0, 1])
    with open(path, "r+b") as file:
        file.truncate(length)
    with pytest.raises(DataError, match=r"data\.npz is damaged or no \.npz file \(BadZipFile\)"):
        read(path, None)


def test_npy_needs_a_second_file_of_labels(npy, csv):
    x = npy("x", np.ones((2, 1)))
    with pytest.raises(ConfigError, match=r"data\.target must be the path of a \.npy file with the labels of .*x\.npy"):
        read(x, None)
    with pytest.raises(ConfigError, match=r"data\.csv must be a \.npy file"):
        read(x, csv(GOOD))
    with pytest.raises(FileError, match=r"^nowhere\.npy cannot be read: No such file"):
        read(x, "nowhere.npy")


# only regular files


@pytest.mark.parametrize(
    "name", ["missing.csv", "here.csv/below.csv", "loop.csv", "folder.csv", "fifo.csv", "n\0l.csv"]
)
def test_what_is_no_regular_file_is_refused_by_its_path(tmp_path, name):
    (tmp_path / "here.csv").write_text(GOOD)
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "loop.csv").symlink_to(tmp_path / "loop.csv")
    os.mkfifo(tmp_path / "fifo.csv")
    for call in (lambda path: read(path, "y")), (lambda path: read_features(path, ("a",), None)):
        with pytest.raises(FileError, match=r"\.csv'? cannot be read: .+\.$") as error:
            call(str(tmp_path / name))
        assert error.value.exit_code == 3
        assert "\0" not in str(error.value)


def test_a_file_that_is_not_there_is_looked_for_beside(csv, tmp_path, monkeypatch):
    csv(GOOD)
    for name in ("flowers.csv", "flower2.csv", "notes.txt"):
        (tmp_path / name).write_text(GOOD)
    for asked, beside in {
        "flower.csv": "it may be 'flowers.csv' or 'flower2.csv'",
        "FLOWERS.CSV": "it may be 'flowers.csv'",
        "flowers": "it may be 'flowers.csv'",
        "zz.npy": "the folder {} has 'data.csv', 'flower2.csv', 'flowers.csv'",
        "none/zz.npy": "there is no folder {}/none",
    }.items():
        with pytest.raises(FileError) as error:
            read(str(tmp_path / asked), "y")
        reason = f"{tmp_path / asked} cannot be read: No such file or directory; {beside.format(tmp_path)}"
        assert str(error.value).startswith(reason)
        assert "notes" not in str(error.value)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileError, match=r"^zz\.csv cannot be read: .*; the working folder has 'data\.csv', 'flow"):
        read("zz.csv", "y")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileError, match=r"; the folder empty has no \.csv, .* or \.feather\.$"):
        read("empty/zz.csv", "y")


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null", "/", "", "x" * 300])
def test_devices_folders_and_impossible_names_are_refused(path):
    with pytest.raises(FileError, match="cannot be read"):
        read(path, "y")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_file_without_permission_is_refused(csv):
    path = csv(GOOD)
    os.chmod(path, 0)
    with pytest.raises(FileError, match=r"data\.csv cannot be read: Permission denied"):
        read(path, "y")


def test_file_that_is_too_large_is_refused(csv, monkeypatch):
    path = csv(GOOD)
    monkeypatch.setattr(reading, "MAX_BYTES", 10)
    with pytest.raises(FileError, match="it has 18 bytes, and at most 10 are read"):
        read(path, "y")


def test_symlinks_to_files_are_followed(csv, tmp_path):
    (tmp_path / "link.csv").symlink_to(csv(GOOD))
    assert read(str(tmp_path / "link.csv"), "y").classes == (0, 1)


@pytest.mark.parametrize("name", ["data.txt", "data.json", "data", "data.gz"])
def test_other_kinds_of_files_are_refused(tmp_path, name):
    (tmp_path / name).write_text(GOOD)
    with pytest.raises(ConfigError, match=r"unknown kind; convert it to \.csv, .*\.npz, \.npy, .* or \.feather"):
        read(str(tmp_path / name), "y")


def test_the_kind_may_be_written_in_capitals(tmp_path):
    (tmp_path / "DATA.CSV").write_text(GOOD)
    assert read(str(tmp_path / "DATA.CSV"), "y").features == ("a", "b")


def test_messages_hold_no_escape_codes(tmp_path):
    path = tmp_path / "\x1b[31m.csv"
    path.write_text("\x1b[1m,y\n\x1b[2m,0\n")
    with pytest.raises(DataError) as error:
        read(str(path), "y")
    assert str(error.value).isprintable()


# features for prediction


@pytest.mark.parametrize(
    ("content", "target"),
    [
        ("a,b\n1,2\n3,4\n", None),
        ("b,a\n2,1\n4,3\n", None),
        ("b,a\n2,1\n4,3\n", "y"),
        ("b,y,a\n2,p,1\n4,1.5,3\n", "y"),
    ],
)
def test_features_are_found_by_name(csv, content, target):
    x, _ = read_features(csv(content), ("a", "b"), target)
    assert_array_equal(x, [[1, 2], [3, 4]])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\n1\n", r"the model has 2 features, the file 1; missing: 'b'"),
        ("a,y\n1,0\n", r"the model has 2 features, the file 1; missing: 'b'"),
        ("a,b,c\n1,2,3\n", r"the model has 2 features, the file 3; remove 'c'"),
        ("a,b,c,y\n1,2,3,0\n", r"the model has 2 features, the file 3; remove 'c'"),
        ("a,b\n1,nan\n", r"data\.csv:2:2 is nan, the first of 1"),
        ("b,a\n1,\n", r"data\.csv:2:2: '' in column 'a' is empty"),
    ],
)
def test_features_that_do_not_fit_the_model_are_refused(csv, content, message):
    with pytest.raises(DataError, match=message):
        read_features(csv(content), ("a", "b"), "y")


def test_a_column_beside_the_features_needs_to_be_the_target(csv):
    with pytest.raises(DataError, match="the file 3; remove 'y'"):
        read_features(csv(GOOD), ("a", "b"), None)


def test_features_of_arrays(npz, npy):
    x = np.array([[1, 2], [3, 4]])
    labels = npy("y", np.array([5, 6]))
    for path, target in (npz(x=x), None), (npz(x=x, y=["p", "q"]), None), (npy("x", x), None), (npy("x", x), labels):
        assert_array_equal(read_features(path, ("a", "b"), target).x, x)


def test_features_of_arrays_are_counted(npz):
    with pytest.raises(DataError, match="has 3 columns, but the model was trained on 2"):
        read_features(npz(x=np.ones((1, 3))), ("a", "b"), None)


def test_features_may_have_no_rows(csv, npz, npy):
    empty = np.ones((0, 2))
    for path in csv("b,a\n"), npz(x=empty), npy("x", empty):
        assert read_features(path, ("a", "b"), None)[0].shape == (0, 2)
    assert read_features(csv("b,a,y\n"), ("a", "b"), "y").x.shape == (0, 2)


@pytest.mark.processes
def test_reading_files_imports_nothing_that_is_slow_to_import():
    slow = {"sklearn", "pandas", "scipy", "pyarrow"}
    code = f"import sys, trainer.data.files, trainer.data.sources; print({slow} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
