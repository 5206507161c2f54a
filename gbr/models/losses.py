"""The loss that counts pairs in the wrong order, smoothed: RankNet (Burges and others, ICML 2005), slate by slate.

A pair of rows with different runtimes adds log(1 + exp(slower - faster)) of their relevance, whatever their places:
Kendall's tau weighs no pair above another, as lambdarank does.  A row counts by the mean over its pairs.  Of slates
with more than ``2 * OFFSETS + 1`` rows each round compares other pairs, as many of every row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features._numba import kernel

FloatArray = NDArray[np.float64]

#: Distances between rows that are compared, at most; every row is in two pairs of each distance.
OFFSETS: Final = 64
#: Relevance further below the best of its slate counts as this far: its exponential is still above 0.
_FAR: Final = 600.0


@kernel()
def _compare(e, rank, pulls, bends, first, second, count):  # type: ignore[no-untyped-def]
    """Add what the pairs (first + i, second + i) ask of both.

    The first and the second of a pair add to arrays of their own, and all begin at 0: else LLVM could not use vectors.
    """
    own_e, other_e = e[first : first + count], e[second : second + count]
    own_rank, other_rank = rank[first : first + count], rank[second : second + count]
    own_pull, other_pull = pulls[0, first : first + count], pulls[1, second : second + count]
    own_bend, other_bend = bends[0, first : first + count], bends[1, second : second + count]
    for i in range(count):
        inverse = 1.0 / (own_e[i] + other_e[i])
        own, other = own_e[i] * inverse, other_e[i] * inverse
        above, below = own_rank[i] > other_rank[i], own_rank[i] < other_rank[i]
        pull = (other if above else 0.0) - (own if below else 0.0)
        bend = own * other if above or below else 0.0
        own_pull[i] -= pull
        other_pull[i] += pull
        own_bend[i] += bend
        other_bend[i] += bend


@kernel()
def _derive(relevance, rank, indptr, jitter, gradient, curvature):  # type: ignore[no-untyped-def]
    for slate in range(len(indptr) - 1):
        rows = slice(indptr[slate], indptr[slate + 1])
        own, size = rank[rows], indptr[slate + 1] - indptr[slate]
        e = np.exp(np.maximum(relevance[rows] - np.max(relevance[rows]), -_FAR)) if size else np.empty(0)
        pulls, bends = np.zeros((2, size)), np.zeros((2, size))
        half = size // 2
        count = min(half, len(jitter))
        n_pairs = 0
        for number in range(count):
            offset = 1 + number
            if count < half:
                offset = min(half, 1 + int((number + jitter[number]) * half / count))  # rounding may go beyond
            _compare(e, own, pulls, bends, 0, offset, size - offset)
            n_pairs += size - offset
            if 2 * offset < size:  # at half the size these would be the same pairs again
                _compare(e, own, pulls, bends, size - offset, 0, offset)
                n_pairs += offset
        share = size / (2 * n_pairs) if n_pairs else 0.0
        gradient[rows] = (pulls[0] + pulls[1]) * share
        curvature[rows] = (bends[0] + bends[1]) * share


def derivatives(
    relevance: FloatArray, rank: NDArray[np.int64], indptr: NDArray[np.int64], jitter: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """First and second derivative of the loss by the relevance of each row.

    Parameters
    ----------
    relevance : float64 (rows,)
        What the trees say so far; higher is faster.
    rank : int64 (rows,)
        Of :func:`gbr.models.labels.ranks`; pairs of equal ones are left out.
    indptr : int64 (slates + 1,)
    jitter : float64 (OFFSETS,)
        In [0, 1): which pairs of large slates are compared.  Fewer compare fewer.

    Returns
    -------
    gradient, curvature : float64 (rows,)
    """
    gradient, curvature = np.empty(len(relevance)), np.empty(len(relevance))
    _derive(relevance, rank, indptr, jitter, gradient, curvature)
    return gradient, curvature


def objective(
    rank: NDArray[np.int64], indptr: NDArray[np.int64], seed: int
) -> Callable[[FloatArray, object], tuple[FloatArray, FloatArray]]:
    """Make what LightGBM calls before every round; it draws anew which pairs of large slates are compared."""
    rng = np.random.default_rng(seed)

    def ask(relevance: FloatArray, _data: object) -> tuple[FloatArray, FloatArray]:
        return derivatives(relevance, rank, indptr, rng.random(OFFSETS))

    return ask
