"""Named arrays and a JSON header in one .npz without pickle, with a SHA-256 over all of it.

An archive is a plain .npz, stored and not compressed, of the member ``header`` and the arrays. The header holds the
digest of itself without it, and of every array with its name, dtype, shape and order. Nothing is allocated before the
sizes have been compared with the size of the file.
"""

import errno
import hashlib
import io
import json
import math
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from trainer.arrays import Array
from trainer.errors import DataError, FileError, TrainerError
from trainer.runs.outputs import write_whole

SMALL = 1 << 20  # bytes of arrays that are put together in memory


def save(
    path: Path,
    header: Mapping[str, Any],
    arrays: Mapping[str, Array],
    durable: bool = True,
    previous: Path | None = None,
) -> Path:
    """Writes the archive, whole or not at all; the old one is kept as previous, if that is given."""
    # the format keeps arrays in C or Fortran order without gaps
    arrays = {name: array if array.flags.forc else np.ascontiguousarray(array) for name, array in arrays.items()}
    text = json.dumps(header)
    signed = text[:-1] + f', "sha256": "{_digest(text, arrays)}"}}'  # as it would be dumped with it, once more
    members = {"header": np.frombuffer(signed.encode(), dtype=np.uint8), **arrays}

    def write(file: BinaryIO) -> None:
        if sum(array.nbytes for array in members.values()) > SMALL:
            np.savez(file, allow_pickle=False, **members)
        else:  # zipfile seeks a lot, and that is quick in memory
            whole = io.BytesIO()
            np.savez(whole, allow_pickle=False, **members)
            file.write(whole.getbuffer())

    return write_whole(path, write, durable, previous)


def load(path: Path, kind: str, largest: int) -> tuple[dict[str, Any], dict[str, Array]]:
    """The header without its digest, and the arrays.

    A FileError if the file cannot be read, a DataError if it is not this kind of file of ours, has no digest, or has
    been altered.  largest is how many bytes it may have.
    """

    def refusal(why: str) -> DataError:
        return DataError(f"{path} is not a {kind} of ours: {why}.")

    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size == 0:
                raise refusal("it is empty")
            if file.read(4) != b"PK\x03\x04":
                raise refusal("it has another format, or its beginning is damaged")
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
                unpacked = sum(member.file_size for member in members)
                if unpacked > min(size, largest) or any(m.compress_type != zipfile.ZIP_STORED for m in members):
                    raise refusal(f"it unpacks {size:,} bytes to {unpacked:,}, and is compressed or too large")
                names = [member.filename.removesuffix(".npy") for member in members]
                if "header" not in names or len(set(names)) != len(names):
                    raise refusal(f"it holds {', '.join(names)[:80]!r}")
                arrays = {name: _read(archive, member) for name, member in zip(names, members, strict=True)}
        header = json.loads(arrays.pop("header").tobytes())
        if not isinstance(header, dict):
            raise refusal("its header holds no names")
        digest = header.pop("sha256", None)
        if digest is None:
            raise refusal("it has no SHA-256")
        if digest != _digest(json.dumps(header), arrays):
            raise refusal("it has been altered, as its SHA-256 does not fit")
    except TrainerError:
        raise
    except Exception as error:  # damaged bytes make numpy, zipfile and json raise almost anything
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # EINVAL is of a damaged offset
            raise FileError(f"{path} cannot be read: {error.strerror or error}.") from None
        raise refusal(f"it is truncated or damaged ({type(error).__name__}: {str(error)[:80]})") from None
    return header, arrays


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Array:
    """An array, after its promise has been compared with its bytes."""
    with archive.open(member) as stream:
        headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, _, dtype = headers[np.lib.format.read_magic(stream)](stream)
        left = member.file_size - stream.tell()
        if dtype.kind not in "biuf" or min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != left:
            raise ValueError(f"{member.filename} promises {str(dtype)[:20]} of shape {str(shape)[:30]}")
        stream.seek(0)
        array: Array = np.lib.format.read_array(stream, allow_pickle=False)
        stream.read(1)  # the checksum is compared at the end only
        return array


def _digest(header: str, arrays: Mapping[str, Array]) -> str:
    digest = hashlib.sha256(header.encode())
    for name, array in arrays.items():
        digest.update(f"{name} {array.dtype.str} {array.shape} {array.flags.c_contiguous}".encode())
        digest.update(np.ravel(array, order="K").view(np.uint8).data)
    return digest.hexdigest()
