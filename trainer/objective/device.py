"""Where the rows of blocks live: in numpy's arrays, or in torch's tensors on a device.

The numbers (D+1,K) that a solver works with are numpy's, wherever the rows are. For an evaluation they go out by
``put``, the blocks are summed where they are, and ``fetch`` brings the sums back: the one moment when the host waits.
The steps of a first-order optimiser between two reports make no such way; see trainer.optimizers.fit.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, ClassVar

import numpy as np

from trainer.arrays import Array, as_type
from trainer.data.features import is_sparse
from trainer.data.rows import Data
from trainer.errors import ConfigError, DataError, choose, counted

CHOICES = ("cpu", "torch", "torch:cuda:0")
HERE = (np.ndarray, np.generic)
LARGER = 64  # times: a block of a device with memory of its own, beside one of the host that is to stay in the cache


@dataclass(frozen=True)
class Host:
    """The arrays of numpy, which are where they are to be: what Elsewhere does is done."""

    name: ClassVar[str] = "cpu"
    memory: ClassVar[int] = 0

    def check(self, data: Data) -> None:
        pass

    def rows(self, data: Data) -> Data:
        return data

    def put(self, array: Array) -> Array:
        return array

    def fetch(self, sums: Sequence[Any]) -> list[Any]:
        return list(sums)


@dataclass(frozen=True, eq=False)
class Elsewhere:
    """The arrays of another namespace on a device of its, of which home makes numpy's.

    name    as the setting has it
    memory  its bytes, or 0 where it has none beside the host's
    stage   put for block after block; on cuda by way of memory from which the device copies by itself
    """

    name: str
    xp: Any
    device: Any
    home: Callable[[Any], Array]
    memory: int = 0
    stage: Callable[[Array], Array] | None = None

    def check(self, data: Data) -> None:
        """DataError for rows that it cannot take."""
        if is_sparse(data.x):
            raise DataError(
                f"The features are sparse, and device={self.name} takes dense ones. Use device=cpu, or make them dense."
            )

    def rows(self, data: Data) -> Data:
        """The rows there; features too large for it, or in a file, go there block by block."""
        if not isinstance(data.y, np.ndarray):
            return data
        fits = isinstance(data.x, np.ndarray) and not (self.memory and data.x.nbytes > self.memory // 4)
        x = self.put(data.x) if fits else Streamed(data.x, self.stage or self.put)
        return replace(data, x=x, y=self.put(data.y), weight=None if data.weight is None else self.put(data.weight))

    def put(self, array: Array) -> Array:
        """The array there."""
        if not isinstance(array, np.ndarray):
            return array
        plain = array.astype(np.int64) if array.dtype.kind == "u" else np.ascontiguousarray(array)
        result: Array = self.xp.asarray(plain, device=self.device, copy=True)
        return result

    def fetch(self, sums: Sequence[Any]) -> list[Any]:
        """Arrays and numbers from there, in their shapes and dtypes, after a single wait for all of them."""
        found = list(sums)
        there = [n for n, part in enumerate(sums) if hasattr(part, "dtype") and not isinstance(part, HERE)]
        if not there:
            return found
        flat = self.home(self.xp.concat([self.xp.reshape(as_type(sums[n], np.float64), (-1,)) for n in there]))
        for n in there:
            shape, dtype = tuple(sums[n].shape), str(sums[n].dtype).rpartition(".")[2]  # of torch.float32, float32
            part, flat = np.split(flat, [math.prod(shape)])
            found[n] = part.reshape(shape).astype(dtype) if shape else part[0]
        return found


Device = Host | Elsewhere  # a place of rows
HOST = Host()


@dataclass(frozen=True, eq=False)
class Streamed:
    """Features (N,D) that stay with the host, an array or those of a file; a block of rows goes out when asked for."""

    source: Any
    put: Callable[[Array], Array]

    @property
    def shape(self) -> tuple[int, int]:
        result: tuple[int, int] = self.source.shape
        return result

    @property
    def reader(self) -> Any:
        """That of a file."""
        return getattr(self.source, "reader", None)

    def __getitem__(self, rows: slice) -> Array:
        return self.put(self.source[rows])


def each(function: Callable[[Any], Any], state: Any) -> Any:
    """What a function makes of each part of a state, of NamedTuples in one another."""
    if not isinstance(state, tuple):
        return function(state)
    parts = [each(function, part) for part in state]
    return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)


@cache
def device_of(name: str) -> Device:
    """The device of this name; ConfigError where it does not exist, here or anywhere.

    >>> device_of("cpu")
    Host()
    """
    if name == "cpu":
        return HOST
    if not re.fullmatch(r"torch(:(cpu|mps|cuda(:[0-9]+)?))?", name):
        choose("device", CHOICES, name)
    try:
        import array_api_compat.torch as xp  # by no means everyone has torch, and it takes a second
        import torch
    except ImportError as error:
        raise ConfigError(
            f"device={name} needs torch and array-api-compat; install them by pip install 'softmax-trainer[torch]', or "
            "use device=cpu."
        ) from error
    _, _, place = name.partition(":")
    if place == "mps":
        raise ConfigError(
            f"device={name} has no float64, in which sums are made and the optimum is certified. Use device=cpu."
        )
    if not place.startswith("cuda"):
        return Elsewhere(name, xp, torch.device("cpu"), _home)
    number, there = int(place.partition(":")[2] or 0), torch.cuda.device_count()
    if number >= there:
        raise ConfigError(
            f"device={name} is not there: torch {torch.__version__} sees {counted(there, 'device')} of cuda, numbered "
            "from 0. Use another number, or device=cpu."
        )
    device = torch.device("cuda", number)
    memory = torch.cuda.get_device_properties(device).total_memory
    return Elsewhere(name, xp, device, _home, memory, _Pinned(torch, device))


def _home(tensor: Any) -> Array:
    result: Array = tensor.cpu().numpy()
    return result


class _Pinned:
    """Puts arrays on a cuda device by way of two buffers of page-locked memory, which take turns.

    The device copies from them by itself, in a stream of its own, while the host fills the other one and the block
    before is worked on.
    """

    def __init__(self, torch: Any, device: Any) -> None:
        self._torch, self._device = torch, device
        self._stream = torch.cuda.Stream(device)
        self._buffers, self._copied = [torch.empty(0)] * 2, [torch.cuda.Event(), torch.cuda.Event()]
        self._turn = 0

    def __call__(self, array: Array) -> Array:
        torch, turn = self._torch, self._turn
        self._turn = 1 - turn
        plain = torch.from_numpy(np.require(array, requirements=["C", "W"]))
        self._copied[turn].synchronize()  # what was in the buffer has arrived
        if self._buffers[turn].nbytes < plain.nbytes:
            self._buffers[turn] = torch.empty(plain.nbytes, dtype=torch.uint8, pin_memory=True)
        buffer = self._buffers[turn][: plain.nbytes].view(plain.dtype).view(plain.shape)
        buffer.copy_(plain)
        with torch.cuda.stream(self._stream):
            there = buffer.to(self._device, non_blocking=True)
            self._copied[turn].record()
        now = torch.cuda.current_stream(self._device)
        now.wait_event(self._copied[turn])
        there.record_stream(now)  # or its memory might be given away while it is worked on
        result: Array = there
        return result
