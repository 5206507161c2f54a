"""Figures of predicted runtimes."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

#: Key of a baseline of :mod:`gbr.models.simple` -> its name in tables.
NAMES: Final = {"roofline": "roofline", "nearest": "nearest configuration", "linear": "linear regression on logs"}
#: Key of a figure -> the head of its column.
FIGURES: Final = {
    "mape": "MAPE", "median_ape": "median APE", "r2_log": "R² of the log", "coverage": "covered", "width": "width",
}  # fmt: skip


def figures(predicted: FloatArray, target: FloatArray, factor: float | None = None) -> dict[str, float]:
    """Errors of predicted runtimes, float64 (rows,), where the target is finite.

    ``mape`` and ``median_ape`` are the mean and the median of |predicted / measured - 1|, ``r2_log`` is the coefficient
    of determination of the logarithm.  With the ``factor`` of the intervals, ``coverage`` is the share of the rows in
    them, and ``width`` their upper over their lower end.
    """
    known = np.isfinite(target) & np.isfinite(predicted) & (predicted > 0)
    logs = np.log2(target[known])
    error = np.log2(predicted[known]) - logs
    relative = np.abs(np.exp2(error) - 1)
    spread = np.square(logs - logs.mean()).sum() if known.any() else 0.0
    found = {
        "mape": float(relative.mean()),
        "median_ape": float(np.median(relative)),
        "r2_log": float(1 - np.square(error).sum() / spread) if spread else 0.0,
    }
    if factor is not None:
        found |= {"coverage": float((np.abs(error) <= np.log2(factor)).mean()), "width": factor**2}
    return found | {"rows": int(known.sum())}
