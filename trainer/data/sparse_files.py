"""Sparse features: what scipy.sparse.save_npz writes, and text in the LIBSVM format; both become a CSR matrix.

    label column:value column:value ... # comment

The columns of a LIBSVM file count from 1 and rise along a line. It is read by a grammar of its own: scikit-learn's
parser takes 1_000 and nan, passes over query ids, and guesses whether columns count from 0.
"""

import re
from array import array
from collections.abc import Mapping
from itertools import islice
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from trainer.arrays import Array
from trainer.data.reading import FINITE, MOST_FEATURES, NUMBER, Content, finite64, quoted, refuse, text_labels
from trainer.errors import DataError, shown

PARTS = {"data": "biuf", "indices": "iu", "indptr": "iu", "shape": "iu", "format": "SU", "_is_array": "b"}

BLOCK = 4096  # lines held as text at a time
VALUE = NUMBER.pattern.replace(r"[ \t]*", "").encode()
LINE = re.compile(rb"[ \t]*%b([ \t]+[0-9]{1,9}:%b)*\s*" % (VALUE, VALUE))


def csr(arrays: Mapping[str, NDArray[Any]], name: str) -> Any:
    """The CSR matrix (N,D) of the arrays in the file, after a check that no index leads out of it."""
    written = arrays["format"].tolist()
    kind = written.decode("latin1") if isinstance(written, bytes) else str(written)
    if kind != "csr":
        raise DataError(f"{name} has the format {quoted(kind)}; write it by scipy.sparse.save_npz(path, x.tocsr()).")
    shape, indices, indptr = (arrays[key].astype(np.int64) for key in ("shape", "indices", "indptr"))
    data = finite64(arrays["data"].reshape(-1, 1), f"{name}: data").ravel()
    rows, columns = shape.tolist() if shape.shape == (2,) else (-1, -1)
    _check_width(columns, name)
    flat = arrays["data"].shape == indices.shape == data.shape
    if not (flat and sound(data, indices, indptr, rows, columns) and len(data) == indptr[-1]):
        raise DataError(f"{name} is damaged: its indices lead out of the shape {(rows, columns)}; write it again.")
    return _matrix(data, indices, indptr, (rows, columns), name)


def sound(data: Array, indices: Array, indptr: Array, lines: int, width: int) -> bool:
    """Whether the arrays of a CSR matrix of these rows and columns, or of a CSC's columns and rows, lead inside it.

    What lies behind the last entry is not looked at, as scipy does not.
    """
    if lines < 0 or indptr.shape != (lines + 1,) or indptr[0] != 0 or (indptr[1:] < indptr[:-1]).any():
        return False
    used = indices[: indptr[-1]]
    return min(len(indices), len(data)) >= indptr[-1] and _within(used, width)


def check_sparse(x: Any, name: str) -> None:
    """DataError for a matrix of scipy's whose indices lead out of it: compiled code would follow them anywhere."""
    if len(x.shape) != 2:
        return  # for whoever wants a table to refuse
    (rows, columns), form = x.shape, x.format
    fine = True
    if form in ("csr", "bsr", "csc"):
        tall, wide = x.blocksize if form == "bsr" else (1, 1)
        lines, width = (columns, rows) if form == "csc" else (rows // tall, columns // wide)
        fine = sound(x.data, x.indices, x.indptr, lines, width)
    elif form == "coo":
        fine = len(x.row) == len(x.col) == len(x.data) and _within(x.row, rows) and _within(x.col, columns)
    if not fine:
        raise DataError(
            f"{name} is damaged: its indices lead out of the shape {(rows, columns)}, or do not fit its indptr; make "
            "it again by scipy.sparse.csr_array((values, (rows, columns)))."
        )


def _within(indices: Array, width: int) -> bool:
    return indices.dtype.kind in "iu" and (len(indices) == 0 or bool(indices.min() >= 0 and indices.max() < width))


def read_svmlight(file: IO[bytes], path: str, columns: int | None) -> Content:
    """x (N,D) and the labels of a LIBSVM file; D is the largest column, or as many columns as are given."""
    name = shown(path)
    texts: list[str] = []
    lines, counts = array("q"), array("q")
    values, places = [np.empty(0)], [np.empty(0, np.int64)]
    numbered = ((number, line.split(b"#")[0]) for number, line in enumerate(file, 1))
    rows = ((number, line) for number, line in numbered if line.strip())
    while block := list(islice(rows, BLOCK)):
        fields = [_fields(line, f"{name}:{number}") for number, line in block]
        texts += [field[0].decode() for field in fields]
        lines.extend(number for number, _ in block)
        counts.extend(len(field) // 2 for field in fields)
        places.append(np.array([int(column) for field in fields for column in field[1::2]], np.int64) - 1)
        values.append(np.array([float(value) for field in fields for value in field[2::2]], np.float64))
    data, indices = np.concatenate(values), np.concatenate(places)
    indptr = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64)
    row = np.repeat(np.arange(len(lines)), counts)

    def place(entry: int, _: int) -> str:
        return f"{name}:{lines[row[entry]]}: the value of column {indices[entry] + 1}"

    refuse(~np.isfinite(data[:, None]), data[:, None], place, FINITE)
    falls = (np.diff(indices) <= 0) & (np.diff(row) == 0)
    if (indices < 0).any():
        where = f"{name}:{lines[row[int((indices < 0).argmax())]]}"
        raise DataError(f"{where}: a column is 0, but they count from 1; scikit-learn writes so with zero_based=False.")
    if falls.any():
        entry = int(falls.argmax()) + 1
        raise DataError(f"{name}:{lines[row[entry]]}: column {indices[entry] + 1} does not rise; sort them.")
    width = int(indices.max(initial=-1)) + 1
    if columns is not None and width > columns:
        raise DataError(f"{name} has {width} columns, but the model was trained on {columns}; give it the same ones.")
    _check_width(columns or width, name)
    x = _matrix(data, indices, indptr, (len(lines), columns or width), name)
    return Content(x, None, lambda: text_labels(texts, lambda number: f"{name}:{lines[number]}"))


def _fields(line: bytes, place: str) -> list[bytes]:
    """Label, column, value, column, value ... of a line; DataError for the first that is not as it must be."""
    if LINE.fullmatch(line):
        return line.replace(b":", b" ").split()
    label, *entries = line.split()
    if not re.fullmatch(VALUE, label):
        why = "several labels" if b"," in label else "no number"
        raise DataError(f"{place}: the label {quoted(ascii(label)[2:-1])} is {why}; write one number for each class.")
    for entry in entries:
        text = quoted(ascii(entry)[2:-1])
        if entry.startswith(b"qid:"):
            raise DataError(f"{place}: {text} is a query id, which is for ranking; remove it.")
        if not re.fullmatch(rb"[0-9]{1,9}:" + VALUE, entry):
            raise DataError(f"{place}: {text} is not column:value, such as 12:0.5; encode words as numbers.")
    raise DataError(f"{place}: {quoted(ascii(line)[2:-1])} is not separated by blanks; separate it so.")


def _check_width(columns: int, name: str) -> None:
    if not 1 <= columns <= MOST_FEATURES:
        raise DataError(f"{name} has {columns:,} columns; from 1 to {MOST_FEATURES:,} can be trained on.")


def _matrix(data: Array, indices: Array, indptr: Array, shape: tuple[int, int], name: str) -> Any:
    """A CSR matrix with each place once, in rising order."""
    from scipy import sparse  # type: ignore[import-untyped]  # slow to import, so only where it is used

    x = sparse.csr_array((data, indices, indptr), shape=shape)
    x.sum_duplicates()
    finite64(x.data[:, None], f"{name}: the sums of equal places")
    return x
