"""What one configuration would be within its slate, were its own columns others: for exchanging a part of it alone."""

from __future__ import annotations

from typing import Final

import numpy as np

from features.layout.slate import COMPARED, MAIN, PADDED
from features.schema import Float32Array

#: Columns of the slate block that :func:`replaced` gives, by full name.
REPLACED: Final = (
    *(f"slate.{kind}.{name}" for name in MAIN[:-1] for kind in ("rank", "z")),
    *(f"slate.over_least.{name}" for name in PADDED),
)
_RANKED: Final = len(COMPARED) - len(PADDED)


def replaced(own: Float32Array, row: int, values: Float32Array) -> Float32Array:
    """What :data:`REPLACED` would be for one configuration of a slate, were its own columns others.

    As :func:`features.layout.slate.slate_columns` would say of the whole slate, without going through it for each.

    Parameters
    ----------
    own : float32 (c, len(COMPARED))
        Columns :data:`features.layout.slate.COMPARED` of the whole slate.
    row : int
        The configuration.
    values : float32 (b, len(COMPARED))
        What its columns might be, each by itself.

    Returns
    -------
    float32 (b, len(REPLACED))
    """
    others = np.delete(own, row, axis=0).astype(np.float64)
    count = len(own)
    out = np.empty((len(values), len(REPLACED)), np.float32)
    for place in range(_RANKED):
        rest, value = np.sort(others[:, place]), values[:, place].astype(np.float64)
        low, high = np.searchsorted(rest, value, "left"), np.searchsorted(rest, value, "right")
        out[:, 2 * place] = (low + high) / 2 / (count - 1) if count > 1 else 0.5
        level = rest.mean() if len(rest) else 0.0
        mean = (rest.sum() + value) / count
        squares = ((rest - level) ** 2).sum() + len(rest) * (level - mean) ** 2 + (value - mean) ** 2
        spread = np.sqrt(squares / count)
        largest = np.maximum(np.abs(rest).max(initial=0.0), np.abs(value))
        # A spread that is dust counts as none, as it does there.
        scale = np.where(spread > 1e-6 * np.maximum(1.0, largest), spread, np.inf)
        out[:, 2 * place + 1] = (value - mean) / scale
    least = others[:, _RANKED:].min(axis=0, initial=np.inf)
    out[:, 2 * _RANKED :] = values[:, _RANKED:] - np.minimum(least, values[:, _RANKED:])
    return out
