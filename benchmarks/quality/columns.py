"""The best single column: how far one feature, rising or falling, ranks without a model."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from gbr.data.groups import QueryGroups

FloatArray = NDArray[np.float64]

#: Rows of a slate that are compared: enough for a tau, and pairs do not grow beyond memory.
_ROWS: Final = 200
_COLUMNS_AT_ONCE: Final = 128


def column_taus(slates: QueryGroups, seed: int = 0) -> FloatArray:
    """Kendall's tau, equal values as in random order, of every column in every slate, float64 (slates, columns).

    QueryGroups above 200 rows are represented by as many random ones; a missing value counts as 0.
    """
    rng = np.random.default_rng(seed)
    found = np.zeros((len(slates), len(slates.columns)))
    for number in range(len(slates)):
        part = slates.rows(number)
        rows = np.arange(part.start, part.stop)
        if len(rows) > _ROWS:
            rows = np.sort(rng.choice(rows, _ROWS, replace=False))
        found[number] = _taus(as_scores(slates.X[rows]), slates.target[rows])
    return found


def as_scores(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Columns as scores: a missing value is 0."""
    return np.nan_to_num(values, nan=0.0)


def best_column(taus: FloatArray, known: NDArray[np.bool_]) -> tuple[int, float]:
    """Column whose mean tau over the ``known`` slates is farthest from 0, and the sign that makes it positive."""
    means = taus[known].mean(axis=0)
    column = int(np.abs(means).argmax())
    return column, 1.0 if means[column] >= 0 else -1.0


def _taus(X: NDArray[np.float32], target: FloatArray) -> FloatArray:
    first, second = np.triu_indices(len(target), 1)
    order = np.sign(target[first] - target[second]).astype(np.float32)
    first, second, order = first[order != 0], second[order != 0], order[order != 0]
    found = np.zeros(X.shape[1])
    varied = np.flatnonzero(np.ptp(X, axis=0))
    if not len(order):
        return found
    for start in range(0, len(varied), _COLUMNS_AT_ONCE):
        columns = varied[start : start + _COLUMNS_AT_ONCE]
        values = X[:, columns]
        agreed = order @ np.sign(values[first] - values[second])
        found[columns] = agreed.astype(np.float64) / len(order)
    return found
