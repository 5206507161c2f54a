"""Runtimes -> relevance: the only place where the sign turns.

Runtimes say "lower is better", boosters want "higher is better".  Everything a booster learns from is made here, and
everything it predicts comes back through :func:`as_runtime`.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Target = NDArray[np.int64] | NDArray[np.float64]


def ranks(target: Target, indptr: NDArray[np.int64]) -> NDArray[np.int64]:
    """Dense rank of every row within its slate: 0 is the slowest, equal targets share a rank.

    Values are compared in the type they come in.  int64 is exact; so is float64 for quotients of runtimes below 2**50
    by one normalizer per slate (a float32 cast would merge distinct runtimes from 2**24 ns = 17 ms on).

    Parameters
    ----------
    target : int64 or float64 (rows,)
        Runtime or runtime / normalizer: lower is faster.  No NaN.
    indptr : int64 (slates + 1,)
        Slate ``i`` is rows ``indptr[i]:indptr[i + 1]``.

    Returns
    -------
    int64 (rows,)
    """
    rank, distinct = _from_fastest(target, indptr)
    return np.asarray(np.repeat(distinct, np.diff(indptr)) - 1 - rank, np.int64)


def normalised_rank(target: Target, indptr: NDArray[np.int64]) -> NDArray[np.float32]:
    """Dense rank of every row within its slate, scaled to [0, 1]: 1 is the fastest, 0 the slowest.

    A slate whose targets are all equal says nothing about order: its rows get 1/2.

    Parameters
    ----------
    target, indptr
        As for :func:`ranks`.

    Returns
    -------
    float32 (rows,)
    """
    rank, distinct = _from_fastest(target, indptr)
    last = np.repeat(distinct - 1, np.diff(indptr))
    scaled = np.full(len(rank), 0.5)
    np.divide(last - rank, last, out=scaled, where=last > 0)
    return scaled.astype(np.float32)


def relative_speed(target: Target, indptr: NDArray[np.int64]) -> NDArray[np.float32]:
    """Speed of every row over that of the fastest of its slate, in (0, 1]: 1 is the fastest.

    Differences among slow rows shrink, those among fast rows stay: what a choice of the best few rests on.  Where a
    target is not above 0, or all are equal, speeds say nothing and the slate gets its :func:`normalised_rank`.

    Parameters
    ----------
    target, indptr
        As for :func:`ranks`.

    Returns
    -------
    float32 (rows,)
    """
    label = normalised_rank(target, indptr)
    for start, stop in pairwise(indptr.tolist()):
        own = target[start:stop].astype(np.float64)
        if len(own) and 0 < own.min() < own.max():
            label[start:stop] = own.min() / own
    return label


def as_runtime(relevance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn a booster's output (higher: faster) into a score that reads like a runtime (lower: faster)."""
    return -relevance


def _from_fastest(target: Target, indptr: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Dense ranks with 0 the fastest, int64 (rows,), and the number of distinct targets per slate, int64 (slates,)."""
    sizes = np.diff(indptr)
    slate = np.repeat(np.arange(len(sizes)), sizes)
    order = np.lexsort((target, slate))
    arranged = target[order]
    new = np.ones(len(order), bool)
    new[1:] = (arranged[1:] != arranged[:-1]) | (slate[order][1:] != slate[order][:-1])
    running = np.cumsum(new)
    before = np.concatenate(([0], running))[indptr]
    rank = np.empty(len(order), np.int64)
    rank[order] = running - 1 - before[:-1][slate]
    return rank, np.diff(before)
