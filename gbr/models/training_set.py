"""The training set of a run: which rows of a collection are used, and whether their features fit in memory.

Three cases, by the size of the features as floats: all rows of the collection fit; or the chosen ones do, and are
gathered; or they stay in the store and are streamed (:class:`gbr.models.rows.StreamedMatrix`).  The libraries' bins
are in memory in any case and limit the number of rows.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gbr.data.groups import QueryGroups, select_columns
from gbr.data.store import FeatureStore
from gbr.models.base import EARLY_STOPPING_ROWS
from gbr.models.rows import (
    CELLS_PER_BATCH,
    POLICIES,
    IntArray,
    Matrix,
    Rows,
    StreamedMatrix,
    check_finite,
    largest_cap,
    sample,
)

#: Bytes per binned value in XGBoost, which needs more than LightGBM; measured between 100,000 and 200,000 rows of all
#: layout columns.
BYTES_BINNED: Final = 3.2
#: Memory limit of the bins relative to that of the floats, which are copied once while they are binned.
_BINS_OVER_FLOATS: Final = 2
_BYTES: Final = 4
#: A batch, or the validation graphs, may take 1 / _PART of the memory.
_PART: Final = 4
#: Memory that is assumed if neither the system nor a container reports it.
_USUAL_MEMORY: Final = 8 << 30


@dataclass(frozen=True)
class Sample:
    """Maximum number of rows per graph, and how they are sampled."""

    most: int
    policy: str = POLICIES[0]


@dataclass(frozen=True, eq=False)
class Selection:
    """Training rows, without their features.

    Parameters
    ----------
    rows : int64 (selected,)
        Indices of rows of the collection, ascending.
    target : float64 (selected,)
    indptr : int64 (groups + 1,)
    sample : Sample or None
        None if the rows are not a sample.
    """

    rows: IntArray
    target: NDArray[np.float64]
    indptr: IntArray
    sample: Sample | None = None


def distinct(groups: QueryGroups) -> Selection:
    """First row of each distinct configuration, with the smallest target of all its rows."""
    first = groups.duplicate_of + groups.indptr[groups.qid]
    smallest = groups.target.copy()
    np.minimum.at(smallest, first, groups.target)
    rows = np.flatnonzero(first == np.arange(len(first)))
    return Selection(rows, smallest[rows], np.searchsorted(rows, groups.indptr))


def default_memory() -> int:
    """A quarter of the memory of this machine or container, in bytes."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # not POSIX
        total = _USUAL_MEMORY
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            total = min(total, int(Path(limit).read_text(encoding="ascii")))
        except (OSError, ValueError):  # no container, or "max"
            continue
    return total // 4


def most_binned(n_columns: int, memory: int) -> int:
    """Maximum number of rows whose bins fit, if floats may take ``memory`` bytes."""
    return int(_BINS_OVER_FLOATS * memory / (BYTES_BINNED * n_columns))


def fit_memory(selection: Selection, n_columns: int, memory: int, requested: Sample | None, seed: int) -> Selection:
    """Sample rows on request, or if the bins of all rows do not fit.

    Parameters
    ----------
    selection : Selection
    n_columns : int
    memory : int
        Memory limit of features as floats in bytes; bins may take twice as much.
    requested : Sample or None
    seed : int
    """
    rows, target, indptr = selection.rows, selection.target, selection.indptr
    sizes = np.diff(indptr)
    fitting = most_binned(n_columns, memory)
    if requested is None and len(rows) <= fitting:
        return selection
    applied = requested or Sample(largest_cap(sizes, fitting))
    if int(np.minimum(sizes, applied.most).sum()) > fitting:
        applied = Sample(largest_cap(sizes, fitting), applied.policy)
    kept = sample(target, indptr, applied.most, applied.policy, seed)
    if len(kept) == len(rows):
        return selection
    return Selection(rows[kept], target[kept], np.searchsorted(kept, indptr).astype(np.int64), applied)


def columns_of(store: FeatureStore, columns: Sequence[str] | None) -> tuple[str, ...]:
    """Full names of columns and blocks, in the order of the store; all for None.

    Raises
    ------
    UsageError
        For a name that is neither a column nor a block.
    """
    names = tuple(store.manifest["schema"]["columns"])
    return names if columns is None else tuple(names[index] for index in select_columns(names, columns))


def features(
    store: FeatureStore, split: str, known: QueryGroups, rows: IntArray, columns: Sequence[str], memory: int
) -> Matrix | StreamedMatrix:
    """Features of some rows of a split, in memory if they fit.

    Parameters
    ----------
    store : FeatureStore
    split : str
    known : QueryGroups
        The graphs, with or without features.
    rows : int64 (rows,)
        Ascending indices of rows of ``known``.
    columns : sequence of str
        Full names, in the order of the store.
    memory : int
        Bytes.

    Raises
    ------
    StoreError
        As for :meth:`gbr.data.store.FeatureStore.load`, immediately or when a batch is read.
    UsageError
        For an infinite value, immediately or when a batch is read.
    """
    total = int(known.indptr[-1])
    if total * len(columns) * _BYTES <= memory:
        X = store.load(split, known.names, columns).X
        X = X if len(rows) == total else X[rows]
        check_finite(X)
        return X

    def read(first: int, last: int) -> NDArray[np.float32]:
        return store.load(split, known.names[first:last], columns).X

    cells = min(CELLS_PER_BATCH, max(1, memory // (_PART * _BYTES)))
    streamed = StreamedMatrix(read, known.indptr, rows, len(columns), memory, cells)
    return gathered(streamed) if len(rows) * len(columns) * _BYTES <= memory else streamed


def gathered(X: StreamedMatrix) -> NDArray[np.float32]:
    """All rows in memory, float32 (rows, columns)."""
    matrix = np.empty(X.shape, np.float32)
    for rows, batch in X.batches():
        matrix[rows] = batch
    return matrix


def held_out(
    store: FeatureStore, split: str, known: QueryGroups, columns: Sequence[str], memory: int, seed: int
) -> Rows:
    """Validation graphs in memory: all rows, or a sample for early stopping if they do not fit."""
    rows, indptr = np.arange(known.indptr[-1]), known.indptr
    if len(rows) * len(columns) * _BYTES > memory:
        fitting = largest_cap(known.sizes, memory // (_PART * _BYTES * len(columns)))
        rows = sample(known.target, indptr, min(EARLY_STOPPING_ROWS, fitting), seed=seed)
        indptr = np.searchsorted(rows, indptr).astype(np.int64)
    return Rows(features(store, split, known, rows, columns, memory), known.target[rows], indptr)


def in_memory(rows: Rows, seed: int) -> Rows:
    """As many rows of every group as fit in memory; ``rows`` itself if it is in memory."""
    if not isinstance(rows.X, StreamedMatrix):
        return rows
    fitting = largest_cap(rows.sizes, rows.X.memory // (_BYTES * rows.X.shape[1]))
    kept = sample(rows.target, rows.indptr, fitting, seed=seed)
    return Rows(gathered(rows.X.view(kept)), rows.target[kept], np.searchsorted(kept, rows.indptr).astype(np.int64))
