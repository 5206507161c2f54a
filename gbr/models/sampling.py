"""Which rows of a slate a model learns from when it cannot learn from all of them.

Uniform by default: on the tile kernels measured for gbr, scored on held-out ones, stratifying by rank gains nothing
beyond the spread over seeds, and close pairs cost .01 to .08 of tau (``benchmarks/results/sampling.md``).  A sixth of
the rows of every graph costs .015 there.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gbr.errors import UsageError
from gbr.models.labels import Target

IntArray = NDArray[np.int64]

#: Ways to choose rows of a slate to learn from.
POLICIES: Final = ("uniform", "stratified", "close")


def sample(target: Target, indptr: IntArray, most: int, policy: str = POLICIES[0], seed: int = 0) -> IntArray:
    """Choose at most ``most`` rows of every slate; slates that have no more are taken whole.

    Parameters
    ----------
    target : int64 or float64 (rows,)
        Lower is faster.
    indptr : int64 (slates + 1,)
        Slate ``i`` is rows ``indptr[i]:indptr[i + 1]``.
    most : int
        Rows per slate, at least 2: fewer have no order.
    policy : str
        ``uniform``: every row is as likely as any other.  ``stratified``: one row of each of ``most`` equal parts of
        the order from fastest to slowest, and of the outermost parts the fastest and the slowest row.  ``close``: pairs
        of neighbours in that order, whose runtimes differ but little; rows that tie count as one as long as there are
        enough others.
    seed : int

    Returns
    -------
    int64 (chosen,)
        Row numbers, ascending, none twice.

    Raises
    ------
    UsageError
        For an unknown policy or fewer than two rows.
    """
    if policy not in _CHOOSERS:
        raise UsageError(f"sample: got policy {policy!r}, want {' or '.join(map(repr, POLICIES))}")
    if most < 2:
        raise UsageError(f"sample: got {most} rows per slate, want at least 2: fewer have no order")
    rng = np.random.default_rng(seed)
    chosen = []
    for start, stop in pairwise(indptr.tolist()):
        if stop - start <= most:
            chosen.append(np.arange(start, stop))
        else:
            chosen.append(start + np.sort(_CHOOSERS[policy](target[start:stop], most, rng)))
    return np.concatenate(chosen) if chosen else np.zeros(0, np.int64)


def even_parts(sizes: IntArray, n_parts: int, order: IntArray) -> IntArray:
    """Spread groups over parts of about as many rows: each in turn to the part that has the fewest.

    Parameters
    ----------
    sizes : int64 (groups,)
        Rows; a group without any counts as one, so that no part stays empty.
    n_parts : int
    order : int64 (groups,)
        The largest first.

    Returns
    -------
    int64 (groups,)
        Part of each, below ``n_parts`` and the number of groups.
    """
    load = np.zeros(min(n_parts, len(sizes)), np.int64)
    part_of = np.empty(len(sizes), np.int64)
    for group in order:
        part_of[group] = load.argmin()
        load[part_of[group]] += max(1, sizes[group])
    return part_of


def some_rows(start: int, stop: int, most: int, rng: np.random.Generator) -> IntArray:
    """Rows ``start`` to ``stop - 1`` of a slate, or as many random ones of them as ``most`` allows, ascending."""
    rows = np.arange(start, stop)
    return rows if len(rows) <= most else np.sort(rng.choice(rows, most, replace=False))


def largest_cap(sizes: IntArray, rows: int) -> int:
    """Rows per slate, at most, such that no more than ``rows`` are left in all; at least 2.

    Parameters
    ----------
    sizes : int64 (slates,)
    rows : int

    Returns
    -------
    int
        Where even 2 are too many, 2.
    """
    if sizes.sum() <= rows:
        return max(2, int(sizes.max(initial=2)))
    # QueryGroups in order of size: the first i stay whole, the others share what is left.
    ordered = np.sort(sizes)
    whole = np.concatenate(([0], np.cumsum(ordered)[:-1]))
    share = (rows - whole) // np.arange(len(ordered), 0, -1)
    return max(2, int(share[np.argmax(share < ordered)]))


def _uniform(target: Target, most: int, rng: np.random.Generator) -> IntArray:
    return rng.choice(len(target), most, replace=False)


def _stratified(target: Target, most: int, rng: np.random.Generator) -> IntArray:
    order = _order(target, rng)
    bounds = np.linspace(0, len(order), most + 1).astype(np.int64)
    places = rng.integers(bounds[:-1], bounds[1:])
    places[0], places[-1] = 0, len(order) - 1
    return order[places]


def _close(target: Target, most: int, rng: np.random.Generator) -> IntArray:
    order = _order(target, rng)
    arranged = target[order]
    first = np.concatenate(([True], arranged[1:] != arranged[:-1]))
    if first.sum() >= most:
        order = order[first]
    # Pairs of neighbours lie side by side, from the first row on or from the second.
    order = order[rng.integers(2) if len(order) > most else 0 :]
    firsts = 2 * rng.choice(len(order) // 2, most // 2, replace=False)
    chosen = np.concatenate([order[firsts], order[firsts + 1]])
    if most % 2:
        chosen = np.append(chosen, rng.choice(np.setdiff1d(order, chosen)))
    return chosen


def _order(target: Target, rng: np.random.Generator) -> IntArray:
    """Row numbers from the fastest to the slowest, ties in random order."""
    return np.lexsort((rng.random(len(target)), target))


_CHOOSERS: Final[dict[str, Callable[[Target, int, np.random.Generator], IntArray]]] = dict(
    zip(POLICIES, (_uniform, _stratified, _close), strict=True)
)
