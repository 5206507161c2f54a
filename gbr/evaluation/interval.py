"""How sure one graph's Kendall tau is: a bootstrap over its configurations."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

#: Configurations that pairs are taken of; of more a random sample is.
_MOST: Final = 256
_RESAMPLES: Final = 400


def tau_interval(
    tau: float, scores: FloatArray, target: FloatArray, level: float = 0.95, seed: int = 0
) -> list[float] | None:
    """Percentile bootstrap interval of tau-b, resampling configurations; the same for the same values.

    A configuration drawn twice makes no pair with itself, so a resample has the weighted tau of its distinct
    configurations.  Of more than 256 configurations a sample is resampled, and its interval narrowed by the root of the
    share that it is.

    Parameters
    ----------
    tau : float
        Of all configurations.
    scores, target : float64 (n,)
        Without NaN.
    level : float
        Share of the resamples inside.
    seed : int

    Returns
    -------
    [low, high], or None where tau is undefined: fewer than three configurations, or all equal on one side.
    """
    n = len(target)
    rng = np.random.default_rng(seed)
    rows = np.arange(n) if n <= _MOST else rng.choice(n, _MOST, replace=False)
    m = len(rows)
    by_score = np.sign(scores[rows, None] - scores[None, rows])
    by_target = np.sign(target[rows, None] - target[None, rows])
    if m < 3 or not by_score.any() or not by_target.any():
        return None
    weights = rng.multinomial(m, np.full(m, 1 / m), size=_RESAMPLES).astype(np.float64)
    agree, scored, ordered = (
        np.einsum("ri,ri->r", weights @ pairs, weights)
        for pairs in (by_score * by_target, np.abs(by_score), np.abs(by_target))
    )
    defined = (scored > 0) & (ordered > 0)
    if not defined.any():
        return None
    middle = float((by_score * by_target).sum() / np.sqrt(np.abs(by_score).sum() * np.abs(by_target).sum()))
    taus = agree[defined] / np.sqrt(scored[defined] * ordered[defined])
    off = np.quantile(taus - middle, [(1 - level) / 2, (1 + level) / 2]) * np.sqrt(m / n)
    low, high = np.clip(tau + off, -1.0, 1.0)
    return [float(low), float(high)]
