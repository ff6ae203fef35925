"""The bar of an epoch that takes long: how many rows are done, and how many a second."""

import time
from typing import Any

from tqdm import tqdm

AFTER = 2.0  # seconds of an epoch without a bar


class RowBar:
    """Counts rows, those of every pass over the data; a bar appears after a while, on a terminal only."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._bar: Any = None
        self._began: float | None = None  # the epoch, and rows since then
        self._rows = 0

    def __call__(self, rows: int) -> None:
        """So many rows are done."""
        self._rows += rows
        if self._bar is None:
            now = time.monotonic()
            if self._began is None:
                self._began = now
            if now - self._began < AFTER:
                return
            # disable=None: no bar where there is no terminal
            self._bar = tqdm(unit="row", unit_scale=True, initial=self._rows, leave=False, disable=None)
        else:
            self._bar.update(rows)

    def finish(self) -> None:
        """The epoch is over; the next row begins another bar."""
        if self._bar is not None:
            self._bar.close()
        self._begin()
