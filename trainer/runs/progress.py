"""The bar of an epoch that takes long: how many rows are done, and how many a second."""

from typing import Any

from tqdm import tqdm

AFTER = 2.0  # seconds of an epoch without a bar


class RowBar:
    """Counts rows, those of every pass over the data; tqdm shows them after a while, and on a terminal only."""

    def __init__(self) -> None:
        self._bar: Any = None

    def __call__(self, rows: int) -> None:
        """So many rows are done."""
        if self._bar is None:
            self._bar = tqdm(unit="row", unit_scale=True, leave=False, delay=AFTER, disable=None)
        self._bar.update(rows)

    def finish(self) -> None:
        """The epoch is over; the next row begins another bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
