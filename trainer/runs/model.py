"""The trained model as one file (trainer.runs.archive): parameters, classes, standardisation and activation."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainer.arrays import Array
from trainer.chain.activations import ACTIVATIONS, Activation
from trainer.data.encoding import Encoding
from trainer.data.rows import Standardizer
from trainer.errors import NO_TEXT, DataError, FileError, first_line, is_text
from trainer.objective.blocks import predict
from trainer.objective.threads import blas_on_one_thread
from trainer.runs import archive
from trainer.runs.outputs import MODEL
from trainer.runs.schema import build

FORMAT = "softmax-trainer model 1"
LARGEST = 1 << 31  # bytes of arrays in a model file; more than this is not a linear classifier's
FRAME = 1 << 13  # bytes of the file beside the arrays and the text of the header


def model_file(path: Path) -> Path:
    """The file of a model that is named by itself, or by the folder of its run."""
    return path / MODEL if path.is_dir() else path


@dataclass(frozen=True)
class Model:
    """A linear classifier that can predict on raw features.

    w             (D+1,K) parameters for standardised features, the last row the bias
    standardizer  mean and scale (D,) of the training rows
    activation    the very object that the training used
    classes       K names; features D names; target the target's name in the training file, if it had one
    split         how the training rows were chosen: seed, valid_fraction, and the number of rows on both sides
    columns       how the features are made of the columns of a file; None where they are the columns
    """

    w: Array
    standardizer: Standardizer
    activation: Activation
    classes: tuple[int | str, ...]
    features: Sequence[str]
    target: str | None
    split: Mapping[str, Any]
    columns: Encoding | None = None

    def predict(self, x: Any, threads: int = 1) -> Array:
        """The prediction a (N,K) for raw features x (N,D): an array, a CSR matrix or Features."""
        with blas_on_one_thread():
            return predict(self.activation, self.w, self.standardizer.ready(x, self.w.dtype), threads)

    def save(self, path: Path, durable: bool = True) -> Path:
        """Writes the file, whole or not at all; a DataError for what load would refuse."""
        name = self.activation.name
        if type(self.activation) is not ACTIVATIONS.get(name):
            raise DataError(
                f"{path} is not written: it would name activation={name}, and {self.activation!r} is not the one of "
                "this name in trainer.chain.activations.ACTIVATIONS. Put its class there, or keep the model by pickle."
            )
        settings = json.loads(json.dumps(vars(self.activation), default=np.generic.item))  # also numbers of numpy's
        header = {
            "format": FORMAT,
            "activation": {"name": name, **settings},
            "classes": list(self.classes),
            "features": list(self.features),
            "target": self.target,
            "split": dict(self.split),
            **({} if self.columns is None else {"columns": self.columns.to_header()}),
        }
        mean, scale = self.standardizer
        arrays = {"w": self.w, "mean": mean, "scale": scale}
        try:
            text = json.dumps(header)
            _check(arrays, **_fields(json.loads(text)))
            size = len(text) + sum(array.nbytes for array in arrays.values()) + FRAME
            if size > LARGEST:
                raise ValueError(f"it would have {size:,} bytes, and at most {LARGEST:,} are read; use fewer features")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path} is not written, as it could not be read again: {first_line(error)}.") from None
        return archive.save(path, header, arrays, durable)

    @classmethod
    def load(cls, path: Path) -> "Model":
        """Reads and checks the file, or that of a run's folder.

        A FileError if it cannot be read, a DataError if it is no model of ours.
        """
        path = model_file(path)
        if not path.is_file():
            raise FileError(f"{path} is not a file; give the folder of a run that has ended, or its model.npz.")
        header, arrays = archive.load(path, "model", LARGEST)
        if sorted(arrays) != ["mean", "scale", "w"]:
            raise DataError(f"{path} is not a model of ours: it holds {', '.join(sorted(arrays))[:80]}.")
        try:
            said = _fields(header)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path} is not a model of ours: its header cannot be read ({str(error)[:200]}).") from None
        try:
            _check(arrays, **said)
        except ValueError as error:
            raise DataError(f"{path} is not a model of ours: {error}.") from None
        return cls(arrays["w"], Standardizer(arrays["mean"], arrays["scale"]), **said)


def _fields(header: Mapping[str, Any]) -> dict[str, Any]:
    """What the header of a file says of Model's fields; any exception, with its reason, for what is no such header."""
    if header["format"] != FORMAT:
        raise ValueError(f"its format is {str(header['format'])[:40]!r}, and this version reads {FORMAT!r}")
    for key, kinds in (("classes", (int, str)), ("features", (str,))):
        names = header[key]
        if not isinstance(names, list):
            raise ValueError(f"{key} is no list")
        for name, count in Counter(names).items():
            if type(name) not in kinds:
                raise ValueError(f"{key} holds {ascii(name)[:40]} of type {type(name).__name__}")
            if count > 1:
                raise ValueError(f"{key} holds {ascii(name)[:40]} {count} times; rename all but one")
    if not is_text([header["classes"], header["features"], header["target"]]):
        raise ValueError(f"a name {NO_TEXT}")
    if not isinstance(header["target"], str | None) or not isinstance(header["split"], dict):
        raise ValueError("target is no text, or split no node")
    activation = build("activation", ACTIVATIONS, header["activation"])
    columns = Encoding.from_header(header["columns"]) if "columns" in header else None  # older files have none
    if columns is not None and columns.names != tuple(header["features"]):
        raise ValueError("its columns do not become its features")
    names = {key: tuple(header[key]) for key in ("classes", "features")}
    return {"activation": activation, **names, "target": header["target"], "split": header["split"], "columns": columns}


def _check(arrays: Mapping[str, Array], features: Sequence[str], classes: Sequence[int | str], **_: object) -> None:
    """ValueError, with its reason, for arrays of another kind or shape than a model of these has."""
    d = len(features)
    for name, shape in {"w": (d + 1, len(classes)), "mean": (d,), "scale": (d,)}.items():
        array = arrays[name]
        ours = array.dtype.kind == "f" and array.dtype.itemsize in (4, 8)
        if array.shape != shape or not ours or not np.isfinite(array).all():
            raise ValueError(
                f"{name} is {array.dtype} of shape {array.shape}, where finite numbers of float32 or float64 of "
                f"shape {shape} belong"
            )
    if not (arrays["scale"] > 0).all():
        least = arrays["scale"].min()
        raise ValueError(f"scale holds {least}, and features are divided by it, so it must be greater than 0")
