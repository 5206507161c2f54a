"""A feature matrix too large for memory: rows of slates that are read when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gbr.errors import UsageError

IntArray = NDArray[np.int64]

#: Floats of a batch, unless one slate alone has more: 256 MiB.
CELLS_PER_BATCH: Final = 1 << 26
#: Rows that are looked through at once.
_ROWS_AT_ONCE: Final = 1 << 13


class StreamedMatrix:
    """Rows of some slates, float32 (rows, columns), read batch by batch; a batch is made of whole slates.

    Parameters
    ----------
    read : callable
        Of the numbers ``first`` and ``last`` of slates: all rows of slates ``first`` to ``last - 1``, float32 (rows,
        columns).
    bounds : int64 (slates + 1,)
        Slate ``i`` is rows ``bounds[i]:bounds[i + 1]`` of what ``read`` gives.
    rows : int64 (rows,)
        Which of those rows make this matrix, slate after slate; in any order within a slate.
    n_columns : int
    memory : int
        Bytes that whoever learns from the matrix should hold at once of floats gathered from it.
    cells : int
        Floats read at once, unless one slate has more.
    """

    dtype: Final = np.dtype(np.float32)

    def __init__(
        self,
        read: Callable[[int, int], NDArray[np.float32]],
        bounds: IntArray,
        rows: IntArray,
        n_columns: int,
        memory: int,
        cells: int = CELLS_PER_BATCH,
    ) -> None:
        self._read = read
        self._bounds = bounds
        self._rows = rows
        self._cells = cells
        self.memory = memory
        self.shape = (len(rows), n_columns)
        slate = np.searchsorted(bounds, rows, side="right") - 1
        if (np.diff(slate) < 0).any():
            raise ValueError("rows of a slate do not stand together")
        self._slates = _groups(bounds, np.unique(slate), max(1, cells // n_columns))
        ends = np.searchsorted(slate, self._slates[:, 1], side="left")
        #: Batch ``i`` is rows ``starts[i]:starts[i + 1]``.
        self.starts: IntArray = np.concatenate(([0], ends)).astype(np.int64)
        self._held: tuple[int, NDArray[np.float32]] | None = None

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def n_batches(self) -> int:
        """Number of batches."""
        return len(self._slates)

    def batch(self, number: int) -> NDArray[np.float32]:
        """Rows ``starts[number]:starts[number + 1]``.  The last one asked for is kept.

        Raises
        ------
        UsageError
            For an infinite value.
        StoreError
            As the source raises it.
        """
        if self._held is None or self._held[0] != number:
            self.forget()  # so that two are never in memory together
            first, last = self._slates[number].tolist()
            found = self._read(first, last)
            rows = self._rows[self.starts[number] : self.starts[number + 1]] - self._bounds[first]
            if len(rows) != len(found) or (np.diff(rows) != 1).any():
                found = found[rows]
            _refuse_infinite(found, int(self.starts[number]))
            self._held = number, found
        return self._held[1]

    def batches(self) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """All batches, with the rows they are."""
        for number in range(self.n_batches):
            yield slice(int(self.starts[number]), int(self.starts[number + 1])), self.batch(number)
        self.forget()

    def forget(self) -> None:
        """Let go of the batch that is kept."""
        self._held = None

    def __getitem__(self, index: NDArray[Any]) -> NDArray[np.float32]:
        """Gather rows into memory, by number in any order or by a bool mask: one reading of every batch they are in."""
        rows = np.flatnonzero(index) if index.dtype == bool else index
        found = np.empty((len(rows), self.shape[1]), np.float32)
        place = np.searchsorted(self.starts, rows, side="right") - 1
        for number in np.unique(place).tolist():
            at = np.flatnonzero(place == number)
            found[at] = self.batch(number)[rows[at] - self.starts[number]]
        return found

    def view(self, rows: IntArray) -> StreamedMatrix:
        """Some rows in another order, still unread; those of a slate must stand together, slates in order."""
        return StreamedMatrix(self._read, self._bounds, self._rows[rows], self.shape[1], self.memory, self._cells)


def _groups(bounds: IntArray, slates: IntArray, rows: int) -> IntArray:
    """Join neighbouring slates while they have at most ``rows`` rows, int64 (groups, 2): first, and last + 1."""
    found: list[tuple[int, int]] = []
    for slate in slates.tolist():
        if found and found[-1][1] == slate and bounds[slate + 1] - bounds[found[-1][0]] <= rows:
            found[-1] = (found[-1][0], slate + 1)
        else:
            found.append((slate, slate + 1))
    return np.array(found, np.int64).reshape(-1, 2)


def _refuse_infinite(found: NDArray[np.float32], first: int) -> None:
    for start in range(0, len(found), _ROWS_AT_ONCE):
        infinite = np.isinf(found[start : start + _ROWS_AT_ONCE])
        if infinite.any():
            row, column = np.unravel_index(int(infinite.argmax()), infinite.shape)
            raise UsageError(
                f"X: row {first + start + row}, column {column} is infinite; want finite numbers (NaN for missing)"
            )
