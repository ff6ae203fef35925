"""The trained model as one file: parameters, classes, standardisation and activation, in an .npz without pickle."""

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from trainer.activations import ACTIVATIONS, Activation
from trainer.arrays import Array
from trainer.config import build
from trainer.data import Standardizer
from trainer.errors import ConfigError, DataError, FileError
from trainer.objective import blas_on_one_thread, predict
from trainer.outputs import write_whole

FORMAT = "softmax-trainer model 1"
LARGEST = 1 << 31  # bytes of arrays in a model file; more than this is not a linear classifier's


@dataclass(frozen=True)
class Model:
    """A linear classifier that can predict on raw features.

    w             (D+1,K) parameters for standardised features, the last row the bias
    standardizer  mean and scale (D,) of the training rows
    activation    the very object that the training used
    classes       K names; features D names; target the target's name in the training file, if it had one
    split         how the training rows were chosen: seed, valid_fraction, and the number of rows on both sides
    """

    w: Array
    standardizer: Standardizer
    activation: Activation
    classes: tuple[int | str, ...]
    features: tuple[str, ...]
    target: str | None
    split: Mapping[str, Any]

    def predict(self, x: Any, threads: int = 1) -> Array:
        """The prediction a (N,K) for raw features x (N,D): an array, a CSR matrix or Features."""
        with blas_on_one_thread():
            return predict(self.activation, self.w, self.standardizer.ready(x, self.w.dtype), threads)

    def save(self, path: Path) -> Path:
        """Writes the file, whole or not at all."""
        settings = {f.name: getattr(self.activation, f.name) for f in fields(self.activation)}  # type: ignore[arg-type]
        header = {
            "format": FORMAT,
            "activation": {"name": self.activation.name, **settings},
            "classes": list(self.classes),
            "features": list(self.features),
            "target": self.target,
            "split": dict(self.split),
        }
        text = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
        mean, scale = self.standardizer
        return write_whole(path, lambda file: np.savez(file, header=text, w=self.w, mean=mean, scale=scale))

    @classmethod
    def load(cls, path: Path) -> "Model":
        """Reads and checks the file; a FileError if it cannot be read, a DataError if it is no model of ours."""
        arrays = _read_arrays(path)
        try:
            header = json.loads(arrays["header"].tobytes())
            if header["format"] != FORMAT:
                raise DataError(f"{path} has the format {header['format']!r}, and this version reads {FORMAT!r}.")
            activation = build("activation", ACTIVATIONS, header["activation"])
            classes, features = tuple(header["classes"]), tuple(header["features"])
            target, split = header["target"], header["split"]
        except (ConfigError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path} is not a model of ours: its header cannot be read ({error}).") from None
        w, mean, scale = arrays["w"], arrays["mean"], arrays["scale"]
        wanted = {"w": (len(features) + 1, len(classes)), "mean": (len(features),), "scale": (len(features),)}
        for name, shape in wanted.items():
            array = arrays[name]
            if array.shape != shape or array.dtype.kind != "f" or not np.isfinite(array).all():
                raise DataError(
                    f"{path} is not a model of ours: {name} is {array.dtype} of shape {array.shape}, "
                    f"where finite numbers of shape {shape} belong."
                )
        return cls(w, Standardizer(mean, scale), activation, classes, features, target, split)


def _read_arrays(path: Path) -> dict[str, Array]:
    """The four arrays of a model file, after a look at their sizes."""
    try:
        if not path.is_file():
            raise FileError(f"{path} is not a file; give the model as model=outputs/.../model.npz.")
        with zipfile.ZipFile(path) as archive:
            names = sorted(info.filename for info in archive.infolist())
            size = sum(info.file_size for info in archive.infolist())
        if names != ["header.npy", "mean.npy", "scale.npy", "w.npy"] or size > LARGEST:
            raise DataError(f"{path} is not a model of ours: it holds {', '.join(names)[:80]} ({size} bytes).")
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in ("header", "w", "mean", "scale")}
    except (zipfile.BadZipFile, ValueError, EOFError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is not a model of ours: {str(error)[:80]}.") from None
    except OSError as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"{path} cannot be read: {error.strerror or error}.") from None
