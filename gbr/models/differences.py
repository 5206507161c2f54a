"""Pairs of configurations of one program: what a classifier of differences learns from and how it ranks.

A model of (x_i, x_i - x_j) -> "i is faster" looks at one configuration and how another differs from it (11th place of
the Kaggle competition "Google - Fast or Slow?").  A row's relevance is how often it is predicted to beat the anchors,
some rows spread evenly over its slate: where not all rows are anchors, scores shift a little
with the order of the rows.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gbr.models.base import Rows
from gbr.models.batches import StreamedMatrix
from gbr.models.checks import Matrix
from gbr.models.sampling import largest_cap

#: Pairs per row, and rows per slate, that are learnt from.
PAIRS_PER_ROW: Final = 4
ROWS_PER_SLATE: Final = 1000
#: Rows that every row of a slate is compared with.
ANCHORS: Final = 48
#: Differences that exist at once: 64 MiB, and as much again for what they differ from.
_CELLS_AT_ONCE: Final = 1 << 24


def differences(train: Rows, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Draw pairs of rows with different targets within slates.

    Returns
    -------
    float32 (pairs, 2 * columns)
        The first row, and the first minus the second.
    float32 (pairs,)
        1 where the first is faster.
    """
    rng = np.random.default_rng(seed)
    rows_per_slate = ROWS_PER_SLATE
    if isinstance(train.X, StreamedMatrix):
        # A row and what it is compared with are gathered first, then set beside each other.
        per_row = PAIRS_PER_ROW * 2 * 2 * train.X.dtype.itemsize * train.X.shape[1]
        rows_per_slate = min(rows_per_slate, largest_cap(train.sizes, train.X.memory // per_row))
    firsts, seconds = [], []
    for start, stop in pairwise(train.indptr.tolist()):
        rows = np.arange(start, stop)
        if len(rows) > rows_per_slate:
            rows = rng.choice(rows, rows_per_slate, replace=False)
        if len(rows) < 2:
            continue
        first = np.repeat(rows, PAIRS_PER_ROW)
        second = rng.choice(rows, len(first))
        differ = train.target[first] != train.target[second]
        firsts.append(first[differ])
        seconds.append(second[differ])
    first, second = np.concatenate(firsts), np.concatenate(seconds)
    faster = train.target[first] < train.target[second]
    return beside(train.X[first], train.X[second]), faster.astype(np.float32)


def wins(
    beats: Callable[[NDArray[np.float32]], NDArray[np.float64]], X: Matrix, indptr: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Mean of what ``beats`` says of every row against the anchors of its slate, float64 (rows,).

    Parameters
    ----------
    beats : callable
        Of pairs, float32 (pairs, 2 * columns), as :func:`differences` makes them.
    X : float32 or float64 (rows, columns)
    indptr : int64 (slates + 1,)
    """
    found = np.zeros(len(X))
    for start, stop in pairwise(indptr.tolist()):
        anchors = X[anchors_of(start, stop)]
        at_once = max(1, _CELLS_AT_ONCE // max(1, anchors.size))
        for first in range(start, stop, at_once):
            rows = X[first : min(first + at_once, stop)]
            every = np.arange(len(rows) * len(anchors))
            pairs = beside(rows[every // len(anchors)], anchors[every % len(anchors)])
            found[first : first + len(rows)] = beats(pairs).reshape(len(rows), -1).mean(axis=1)
    return found


def anchors_of(start: int, stop: int) -> NDArray[np.int64]:
    """Rows that every row of a slate is compared with, ascending, for a slate of at least one row."""
    return np.unique(np.linspace(start, stop - 1, min(ANCHORS, stop - start)).astype(np.int64))


def beside(first: Matrix, second: Matrix) -> NDArray[np.float32]:
    """Pairs as the classifier takes them, float32 (pairs, 2 * columns): the first row, and how it differs."""
    return np.concatenate([first, first - second], axis=1).astype(np.float32)
