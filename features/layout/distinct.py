"""Columns of a table that are worth adding up: of equal ones the first, and none of zeros.

Many columns are equal within a class of nodes, whose sizes or whose layouts do not differ, or concern what the class
does not have.  Their sums are those of the columns that are kept, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
_Float = TypeVar("_Float", np.float32, np.float64)


@dataclass(frozen=True)
class Columns:
    """Columns of a table, of which each class of terms needs those only that differ and are not all zero.

    Parameters
    ----------
    kept : tuple of int64 (kept,)
        Per class.
    place : uint32 (classes, columns)
        Where each column is among those that are kept; ``width`` for zeros.
    width : int
        Most columns that a class keeps.
    """

    kept: tuple[IntArray, ...]
    place: NDArray[np.uint32]
    width: int

    @classmethod
    def of(cls, table: NDArray[np.floating], classes: IntArray, n_classes: int) -> Columns:
        """Tell the columns of a table (terms, columns) apart, whose rows are of ``classes``."""
        place = np.full((n_classes, table.shape[1]), -1, np.int64)
        kept = []
        for own in range(n_classes):
            columns = np.ascontiguousarray(table[classes == own].T)
            distinct: dict[bytes, int] = {}
            for number in np.flatnonzero(columns.any(axis=1)).tolist():
                place[own, number] = distinct.setdefault(columns[number].tobytes(), len(distinct))
            _, first = np.unique(place[own], return_index=True)
            kept.append(first[len(first) - len(distinct) :])
        width = max(map(len, kept))
        place[place < 0] = width
        return cls(tuple(kept), place.astype(np.uint32), width)

    def pick(self, table: NDArray[_Float], ends: IntArray) -> NDArray[_Float]:
        """What is kept of a table whose rows stand class by class, (terms, width)."""
        out = np.zeros((len(table), self.width), table.dtype)
        for own, kept in enumerate(self.kept):
            rows = slice(ends[own], ends[own + 1])
            out[rows, : len(kept)] = table[rows, kept]
        return out
