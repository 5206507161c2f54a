"""Training graphs that resemble a target: what the 8th place of "Google - Fast or Slow?" gave more weight to.

Graphs are compared by the features that all their configurations share (opcodes, node statistics, roles), each divided
by how far it spreads over the training graphs.  A model of the nearest graphs alone is trained for one target at a
time; ``benchmarks/results/similar.md`` says when that pays.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gbr.data.groups import QueryGroups
from gbr.errors import UsageError

FloatArray = NDArray[np.float64]


def shared_columns(slates: QueryGroups) -> NDArray[np.int64]:
    """Columns that no slate varies and that differ between slates, ascending."""
    starts, stops = slates.indptr[:-1], slates.indptr[1:]
    filled = np.flatnonzero(stops > starts)
    low = np.minimum.reduceat(slates.X, starts[filled], axis=0)
    high = np.maximum.reduceat(slates.X, starts[filled], axis=0)
    with np.errstate(invalid="ignore"):
        same, differ = (low == high).all(axis=0), np.ptp(low, axis=0) > 0
    return np.flatnonzero(same & differ)


def distances(known: FloatArray, target: FloatArray) -> FloatArray:
    """Root mean square of the standardised differences, float64 (graphs,).

    Parameters
    ----------
    known : float64 (graphs, columns)
        Features of the training graphs.
    target : float64 (columns,)
    """
    spread = known.std(axis=0)
    spread[spread == 0] = np.inf
    return np.asarray(np.sqrt(np.mean(np.square((known - target) / spread), axis=1)))


def nearest(slates: QueryGroups, target: QueryGroups, count: int) -> NDArray[np.int64]:
    """Numbers of the ``count`` slates that resemble the target most, ascending.

    Parameters
    ----------
    slates : QueryGroups
        Training graphs with their features.
    target : QueryGroups
        One graph, with the same columns.
    count : int

    Raises
    ------
    UsageError
        When the columns differ, the target is not one graph, or ``count`` is not between 1 and the number of slates.
    """
    if slates.columns != target.columns or len(target) != 1 or not len(target.X):
        raise UsageError("nearest: want one target graph with the columns of the training graphs")
    if not 1 <= count <= len(slates):
        raise UsageError(f"nearest: got {count}, want a number of training graphs from 1 to {len(slates)}")
    columns = shared_columns(slates)
    filled = slates.sizes > 0
    known = slates.X[slates.indptr[:-1][filled]][:, columns].astype(np.float64)
    far = np.full(len(slates), np.inf)
    far[filled] = distances(known, target.X[0, columns].astype(np.float64))
    return np.sort(np.argsort(far, kind="stable")[:count])
