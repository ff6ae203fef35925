"""The trained model as one file (trainer.runs.archive): parameters, classes, standardisation and activation."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from trainer.arrays import Array
from trainer.chain.activations import ACTIVATIONS, Activation
from trainer.data.rows import Standardizer
from trainer.errors import ConfigError, DataError, FileError, is_text
from trainer.objective.blocks import predict
from trainer.objective.threads import blas_on_one_thread
from trainer.runs import archive
from trainer.runs.outputs import MODEL
from trainer.runs.schema import build

FORMAT = "softmax-trainer model 1"
LARGEST = 1 << 31  # bytes of arrays in a model file; more than this is not a linear classifier's


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
    """

    w: Array
    standardizer: Standardizer
    activation: Activation
    classes: tuple[int | str, ...]
    features: Sequence[str]
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
        mean, scale = self.standardizer
        return archive.save(path, header, {"w": self.w, "mean": mean, "scale": scale})

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
            if header["format"] != FORMAT:
                raise DataError(
                    f"{path} has the format {str(header['format'])[:40]!r}, and this version reads {FORMAT!r}."
                )
            activation = build("activation", ACTIVATIONS, header["activation"])
            classes, features = tuple(header["classes"]), tuple(header["features"])
            target, split = header["target"], header["split"]
            if not all(_sound(header)):
                raise ValueError("a name or a class is missing, of a wrong type, or there twice")
        except (ConfigError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path} is not a model of ours: its header cannot be read ({str(error)[:200]}).") from None
        w, mean, scale = arrays["w"], arrays["mean"], arrays["scale"]
        wanted = {"w": (len(features) + 1, len(classes)), "mean": (len(features),), "scale": (len(features),)}
        for name, shape in wanted.items():
            array = arrays[name]
            ours = array.dtype.kind == "f" and array.dtype.itemsize in (4, 8)
            if array.shape != shape or not ours or not np.isfinite(array).all():
                raise DataError(
                    f"{path} is not a model of ours: {name} is {array.dtype} of shape {array.shape}, "
                    f"where finite numbers of float32 or float64 of shape {shape} belong."
                )
        if not (scale > 0).all():
            raise DataError(
                f"{path} is not a model of ours: scale holds {scale.min()}, and features are divided by it, so it "
                "must be greater than 0."
            )
        return cls(w, Standardizer(mean, scale), activation, classes, features, target, split)


def _sound(header: Mapping[str, Any]) -> Iterator[bool]:
    """Whether names and classes are what a training writes."""
    for key, kinds in (("classes", (int, str)), ("features", (str,))):
        names = header[key]
        yield isinstance(names, list) and all(type(name) in kinds for name in names) and len(set(names)) == len(names)
    yield is_text([header["classes"], header["features"], header["target"]])
    yield isinstance(header["target"], str | None)
    yield isinstance(header["split"], dict)
