"""The training set of a run: which rows of a collection are used, and whether their features fit in memory.

The chosen rows are gathered if their features fit as floats; otherwise they stay in the store and are streamed
(:class:`gbr.models.rows.StreamedMatrix`).  The libraries' bins are in memory in any case and limit the number of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gbr.data import pool
from gbr.data.groups import QueryGroups, select_columns
from gbr.data.store import FeatureStore
from gbr.models.rows import CELLS_PER_BATCH, IntArray, Matrix, Rows, StreamedMatrix, largest_cap, sample
from gbr.models.stopping import EARLY_STOPPING_ROWS

#: Bytes per binned value in XGBoost, which needs more than LightGBM; measured between 100,000 and 200,000 rows of all
#: layout columns.
BYTES_BINNED: Final = 3.2
#: Memory limit of the bins relative to that of the floats, which are copied once while they are binned.
_BINS_OVER_FLOATS: Final = 2
_BYTES: Final = 4
#: A batch, or the validation graphs, may take 1 / _PART of the memory.
_PART: Final = 4


@dataclass(frozen=True, eq=False)
class Selection:
    """Training rows, without their features.

    Parameters
    ----------
    rows : int64 (selected,)
        Indices of rows of the collection, ascending.
    target : float64 (selected,)
    indptr : int64 (groups + 1,)
    most : int or None
        Maximum number of rows per graph; None if the rows are not a sample.
    """

    rows: IntArray
    target: NDArray[np.float64]
    indptr: IntArray
    most: int | None = None


def distinct(groups: QueryGroups) -> Selection:
    """First row of each distinct configuration, with the smallest target of all its rows."""
    first = groups.duplicate_of + groups.indptr[groups.qid]
    smallest = groups.target.copy()
    np.minimum.at(smallest, first, groups.target)
    rows = np.flatnonzero(first == np.arange(len(first)))
    return Selection(rows, smallest[rows], np.searchsorted(rows, groups.indptr))


def default_memory() -> int:
    """A quarter of the memory of this machine or container, in bytes."""
    return pool.memory() // 4


def most_binned(n_columns: int, memory: int) -> int:
    """Maximum number of rows whose bins fit, if floats may take ``memory`` bytes."""
    return int(_BINS_OVER_FLOATS * memory / (BYTES_BINNED * n_columns))


def fit_memory(selection: Selection, n_columns: int, memory: int, most: int | None, seed: int) -> Selection:
    """Sample at most ``most`` rows of each graph (None: all), or fewer if the bins of these do not fit.

    ``memory`` is the limit of features as floats, in bytes; bins may take twice as much.
    """
    sizes = np.diff(selection.indptr)
    most = sizes.max(initial=0) if most is None else most
    fitting = most_binned(n_columns, memory)
    if np.minimum(sizes, most).sum() > fitting:
        most = largest_cap(sizes, fitting)
    if most >= sizes.max(initial=0):
        return selection
    kept, indptr = sample(selection.indptr, most, seed)
    return Selection(selection.rows[kept], selection.target[kept], indptr, int(most))


def columns_of(store: FeatureStore, columns: Sequence[str] | None) -> tuple[str, ...]:
    """Full names of columns and blocks, in the order of the store; all for None.  UsageError for an unknown name."""
    names = tuple(store.manifest["schema"]["columns"])
    return names if columns is None else tuple(names[index] for index in select_columns(names, columns))


def features(
    store: FeatureStore, split: str, known: QueryGroups, rows: IntArray, columns: Sequence[str], memory: int
) -> Matrix | StreamedMatrix:
    """Features of ascending ``rows`` of the graphs ``known``, in memory if they fit into ``memory`` bytes.

    ``columns`` are full names, in the order of the store.  A StoreError may be raised only when a batch is read.
    """

    def read(first: int, last: int) -> NDArray[np.float32]:
        return store.load(split, known.names[first:last], columns).X

    if len(rows) == known.indptr[-1] and len(rows) * len(columns) * _BYTES <= memory:
        return read(0, len(known))
    cells = min(CELLS_PER_BATCH, max(1, memory // (_PART * _BYTES)))
    streamed = StreamedMatrix(read, known.indptr, rows, len(columns), memory, cells)
    return streamed.gathered() if len(rows) * len(columns) * _BYTES <= memory else streamed


def held_out(
    store: FeatureStore, split: str, known: QueryGroups, columns: Sequence[str], memory: int, seed: int
) -> Rows:
    """Validation graphs in memory: all rows, or a sample for early stopping if they do not fit."""
    rows, indptr = np.arange(known.indptr[-1]), known.indptr
    if len(rows) * len(columns) * _BYTES > memory:
        fitting = largest_cap(known.sizes, memory // (_PART * _BYTES * len(columns)))
        rows, indptr = sample(indptr, min(EARLY_STOPPING_ROWS, fitting), seed)
    return Rows(features(store, split, known, rows, columns, memory), known.target[rows], indptr)
