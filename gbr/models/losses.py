"""The RankNet loss (Burges et al., ICML 2005) summed over query groups, a smooth count of misordered pairs.

A pair of rows with different runtimes contributes log(1 + exp(slower - faster)) of their relevance, regardless of their
ranks: unlike lambdarank, Kendall's tau weights all pairs equally.  The loss of a row is the mean over its pairs.  In
groups of more than ``2 * OFFSETS + 1`` rows, each round compares different pairs, the same number for every row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

#: Maximum number of offsets between compared rows; every row is in two pairs of each offset.
OFFSETS: Final = 64
#: Maximum distance of relevance below the best of its group, so that its exponential is above 0.
_FAR: Final = 600.0


def _kernel(function: Any) -> Any:
    """Compile as :mod:`features._numba` does; a ranker of tables does not need that package, whose name others use."""
    try:
        return njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:  # no writable cache directory
        return njit(nogil=True, error_model="numpy")(function)


@_kernel
def _compare(e, rank, gradients, curvatures, first, second, count):  # type: ignore[no-untyped-def]
    """Add the derivatives of the pairs (first + i, second + i).

    e, rank : exp(relevance) and rank of the rows of one group.  gradients, curvatures : float64[2, rows], one row for
    the first and one for the second of a pair, so that LLVM can vectorise the loop.
    """
    first_e, second_e = e[first : first + count], e[second : second + count]
    first_rank, second_rank = rank[first : first + count], rank[second : second + count]
    first_gradient, second_gradient = gradients[0, first : first + count], gradients[1, second : second + count]
    first_curvature, second_curvature = curvatures[0, first : first + count], curvatures[1, second : second + count]
    for i in range(count):
        inverse = 1.0 / (first_e[i] + second_e[i])
        p, q = first_e[i] * inverse, second_e[i] * inverse
        above, below = first_rank[i] > second_rank[i], first_rank[i] < second_rank[i]
        slope = (q if above else 0.0) - (p if below else 0.0)
        curvature = p * q if above or below else 0.0
        first_gradient[i] -= slope
        second_gradient[i] += slope
        first_curvature[i] += curvature
        second_curvature[i] += curvature


@_kernel
def _derive(relevance, rank, indptr, jitter, gradient, curvature):  # type: ignore[no-untyped-def]
    """Fill gradient and curvature, float64[rows], group by group; see :func:`derivatives`."""
    for group in range(len(indptr) - 1):
        rows = slice(indptr[group], indptr[group + 1])
        group_rank, size = rank[rows], indptr[group + 1] - indptr[group]
        e = np.exp(np.maximum(relevance[rows] - np.max(relevance[rows]), -_FAR)) if size else np.empty(0)
        gradients, curvatures = np.zeros((2, size)), np.zeros((2, size))
        half = size // 2
        count = min(half, len(jitter))
        n_pairs = 0
        for number in range(count):
            offset = 1 + number
            if count < half:
                offset = min(half, 1 + int((number + jitter[number]) * half / count))  # rounding may exceed half
            _compare(e, group_rank, gradients, curvatures, 0, offset, size - offset)
            n_pairs += size - offset
            if 2 * offset < size:  # with offset size / 2, these are the same pairs
                _compare(e, group_rank, gradients, curvatures, size - offset, 0, offset)
                n_pairs += offset
        share = size / (2 * n_pairs) if n_pairs else 0.0
        gradient[rows] = (gradients[0] + gradients[1]) * share
        curvature[rows] = (curvatures[0] + curvatures[1]) * share


def derivatives(
    relevance: FloatArray, rank: NDArray[np.int64], indptr: NDArray[np.int64], jitter: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """First and second derivative of the loss with respect to the relevance of each row.

    Parameters
    ----------
    relevance : float64 (rows,)
        Current output of the trees; higher is faster.
    rank : int64 (rows,)
        :func:`gbr.models.rows.ranks`; pairs of equal ranks are skipped.
    indptr : int64 (groups + 1,)
    jitter : float64 (OFFSETS,)
        Values in [0, 1) that select the pairs of large groups.  A shorter array compares fewer pairs.

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
    """Custom objective for LightGBM; every call selects new pairs of large groups."""
    rng = np.random.default_rng(seed)

    def gradients(relevance: FloatArray, _data: object) -> tuple[FloatArray, FloatArray]:
        return derivatives(relevance, rank, indptr, rng.random(OFFSETS))

    return gradients


@_kernel
def mean_tau(relevance, faster, slower, bounds):  # type: ignore[no-untyped-def]
    """Mean over groups of the share of pairs in the right order minus the share in the wrong one.

    relevance : float64[rows].  faster, slower : int64[pairs], the rows of each pair.  bounds : int64[groups + 1], the
    pairs of each group.
    """
    total = 0.0
    for group in range(len(bounds) - 1):
        signs = 0
        for pair in range(bounds[group], bounds[group + 1]):
            first, second = relevance[faster[pair]], relevance[slower[pair]]
            if first > second:
                signs += 1
            elif first < second:
                signs -= 1
        total += signs / (bounds[group + 1] - bounds[group])
    return total / (len(bounds) - 1)
