"""Simple predictions of runtimes, as baselines: roofline, nearest configuration, linear regression on logarithms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gbr.models.costmodel import amounts
from gbr.models.rows import Matrix
from gbr.models.runtime import fit_line, line_terms

FloatArray = NDArray[np.float64]

#: Distances of so many rows are computed at once.
_ROWS_AT_ONCE: Final = 512
#: Known rows among which the nearest one is sought, at most.
_MOST_KNOWN: Final = 20_000


def baselines(names: Sequence[str], known: Matrix, cost: FloatArray, X: Matrix) -> dict[str, FloatArray]:
    """Runtimes of the rows ``X`` by each baseline, by its name: ``roofline`` (with amounts), ``nearest``, ``linear``.

    ``known`` and ``cost`` are training rows, ``names`` those of the columns of both.
    """
    worked = np.isfinite(cost)
    known, logs = known[worked], np.log2(cost[worked])
    found = {"nearest": np.exp2(logs[_nearest(X, known)])}
    without = [at for at, name in enumerate(names) if name.startswith("amounts.")]
    line = fit_line(known, logs - logs.mean(), 1.0, without)
    found["linear"] = np.exp2(logs.mean() + line_terms(line, X).sum(axis=1))
    parts = {kind: [at for at, name in enumerate(names) if _kind(name) == kind] for kind in ("flops", "bytes")}
    if parts["flops"]:
        # The unit of the table is not known: nanoseconds are scaled by the median of the training rows, as far as
        # powers of 1000 go.
        needed = roofline(X, parts["flops"], parts["bytes"])
        ratio = np.median(logs - np.log2(roofline(known, parts["flops"], parts["bytes"])))
        found["roofline"] = needed * 1e3 ** np.round(ratio / np.log2(1e3))
    return found


def roofline(X: Matrix, flops: Sequence[int], moved: Sequence[int]) -> FloatArray:
    """Time by the roofline in nanoseconds, float64 (rows,): the larger one of operations and bytes over their rates."""
    work = [amounts(X, np.array(columns, np.int64)).sum(axis=1) for columns in (flops, moved) if columns]
    return np.asarray(np.maximum(np.max(work, axis=0), 1e-9))


def _kind(name: str) -> str:
    block, _, column = name.partition(".")
    column = column.partition("[")[0].casefold()
    if block != "amounts" or "*" in column:  # in every step
        return ""
    return "flops" if column in ("flops", "macs") else "bytes" if column.endswith("_bytes") else ""


def _nearest(X: Matrix, known: Matrix) -> NDArray[np.int64]:
    """Index of the nearest known row by signed logarithms of the columns, over their spread."""
    step = -(-len(known) // _MOST_KNOWN)
    known = known[::step]
    line = fit_line(known, np.zeros(len(known)), 1.0)
    line[:, 2] = 1.0  # terms are the standardised columns
    mine, theirs = line_terms(line, X), line_terms(line, known)
    squares = np.square(theirs).sum(axis=1)
    parts = [
        (squares - 2 * mine[first : first + _ROWS_AT_ONCE] @ theirs.T).argmin(axis=1)
        for first in range(0, len(X), _ROWS_AT_ONCE)
    ]
    return step * np.concatenate(parts)
