"""Data quality: whether the measured runtimes of a graph can be trusted.

A machine that changes while it measures (clock frequency, other tenants) makes whole blocks of configurations slower or
faster.  The runner-up of "Google - Fast or Slow?" found such graphs by inspecting runtimes in the order of the file;
:func:`jumps` finds them by a two-sample test on ranks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter1d
from scipy.stats import rankdata

from gbr.data.groups import unrankable
from gbr.evaluation.metrics import kendall_tau

FloatArray = NDArray[np.float64]

#: Rows before and after an index that are compared.  Wider windows would report drifts: in files written by a search,
#: runtimes improve over thousands of rows.
WINDOWS: Final = (24, 48, 96, 192)
#: Minimum |t| (Student) and minimum difference of mean ranks, as a share of all ranks, of a jump.  For independent rows
#: |t| > 7 at 46 degrees of freedom has a probability below 1e-8 per index.
MIN_T: Final = 7.0
MIN_SHIFT: Final = 0.25
#: Minimum share of the shift that remains after the ranks predicted by a model are subtracted.
MIN_RESIDUAL: Final = 0.6

#: Below these a graph contains little information on the order of its configurations.
FEW_DISTINCT: Final = 20
LOW_RETEST: Final = 0.7
SMALL_SPREAD: Final = 1.1

_MOST_JUMPS: Final = 20


@dataclass(frozen=True)
class Jump:
    """A row at which all runtimes change, the median runtime after it over that before it, and |t| of the ranks."""

    row: int
    ratio: float
    t: float


def jumps(target: FloatArray, scores: FloatArray | None = None) -> list[Jump]:
    """Block-wise jumps of runtimes in the order of the file.

    Ranks before and after every index are compared by Student's t with pooled variance (the rank transform of Conover
    and Iman, 1981, which is robust to outliers), in windows of :data:`WINDOWS` rows.  A file that lists its
    configurations in some order has jumps as well, which are correct: with ``scores``, jumps that the model predicts do
    not count.

    Parameters
    ----------
    target : float64 (n,)
        Runtimes in the order of the file.
    scores : float64 (n,), optional
        Predictions of a model, lower is faster.

    Returns
    -------
    list of Jump
        In the order of the file; none for fewer than 48 rows.
    """
    ranks = normalised_ranks(target)
    residual = None if scores is None else ranks - normalised_ranks(scores)
    strength = np.zeros(len(target) + 1)
    for window in WINDOWS:
        if 2 * window > len(target):
            break
        shift, t = _compared(ranks, window)
        # A jump raises |t| at all indices nearby; it is at the maximum.
        counts = np.abs(t) >= np.maximum(MIN_T, maximum_filter1d(np.abs(t), 2 * window + 1))
        counts &= np.abs(shift) >= MIN_SHIFT
        if residual is not None:
            counts &= np.sign(shift) * _compared(residual, window)[0] >= MIN_RESIDUAL * np.abs(shift)
        inner = slice(window, len(target) - window + 1)
        strength[inner] = np.maximum(strength[inner], np.where(counts, np.abs(t), 0.0))
    found: list[Jump] = []
    while len(found) < _MOST_JUMPS and strength.any():
        row = int(strength.argmax())
        before = np.median(target[max(0, row - WINDOWS[0]) : row])
        after = np.median(target[row : row + WINDOWS[0]])
        found.append(Jump(row, float(after / before), float(strength[row])))
        strength[max(0, row - WINDOWS[0]) : row + WINDOWS[0]] = 0.0
    return sorted(found, key=lambda jump: jump.row)


def normalised_ranks(values: FloatArray) -> FloatArray:
    """Ranks scaled to 0 (smallest) ... 1, float64 (n,); equal values have their mean rank."""
    return np.asarray((rankdata(values) - 1) / max(1, len(values) - 1))


def group_quality(
    target: FloatArray,
    duplicate_of: NDArray[np.int64],
    repeat: FloatArray | None = None,
    scores: FloatArray | None = None,
) -> dict[str, Any]:
    """Measure the quality of the runtimes of one graph.

    Parameters
    ----------
    target : float64 (n,)
        In the order of the file; infinite for failed configurations, which only count in ``configs``, ``distinct``
        and ``failed``.
    duplicate_of : int64 (n,)
        Row of the first identical configuration.
    repeat : float64 (n,), optional
        An independent second measurement.
    scores : float64 (n,), optional
        As for :func:`jumps`.

    Returns
    -------
    dict
        ``configs``, ``distinct`` (configurations), ``failed`` (number), ``spread`` (slowest / fastest),
        ``duplicate_spread`` (median of slowest / fastest - 1 over sets of identical configurations; None without any),
        ``retest`` (Kendall's tau of both measurements; None without the second), ``unrankable`` (reason or None),
        ``jumps``.
    """
    reason = unrankable(target, duplicate_of)
    configs, distinct = len(target), len(np.unique(duplicate_of))
    worked = np.flatnonzero(np.isfinite(target))
    target, duplicate_of = target[worked], duplicate_of[worked]
    repeat, scores = (None if values is None else values[worked] for values in (repeat, scores))
    highest, lowest = np.full(configs, -np.inf), np.full(configs, np.inf)
    np.maximum.at(highest, duplicate_of, target)
    np.minimum.at(lowest, duplicate_of, target)
    repeated = np.bincount(duplicate_of, minlength=configs) > 1
    return {
        "configs": configs,
        "distinct": distinct,
        "failed": configs - len(worked),
        "spread": float(target.max() / target.min()) if len(target) else 1.0,
        "duplicate_spread": float(np.median(highest[repeated] / lowest[repeated]) - 1) if repeated.any() else None,
        "retest": None if repeat is None or reason else kendall_tau(repeat, target),
        "unrankable": reason,
        "jumps": [vars(jump) | {"row": int(worked[jump.row])} for jump in jumps(target, scores)],
    }


def doubts(quality: dict[str, Any]) -> list[str]:
    """Reasons to distrust a graph, as text, from the result of :func:`group_quality`."""
    reasons = []
    if quality["unrankable"]:
        reasons.append(quality["unrankable"])
    if quality["jumps"]:
        rows = ", ".join(str(jump["row"]) for jump in quality["jumps"][:3])
        reasons.append(f"runtimes jump at row {rows}")
    if quality["distinct"] < FEW_DISTINCT:
        reasons.append(f"only {quality['distinct']} distinct configurations")
    if quality["retest"] is not None and quality["retest"] < LOW_RETEST:
        reasons.append(f"the second measurement has a tau of only {quality['retest']:.2f}")
    if quality["spread"] < SMALL_SPREAD:
        reasons.append(f"the slowest takes only {quality['spread']:.3f} times as long as the fastest")
    return reasons


def _compared(values: FloatArray, window: int) -> tuple[FloatArray, FloatArray]:
    """Difference of the means after and before, and Student's t, at every index with ``window`` rows on both sides."""
    sums = np.concatenate(([0.0], np.cumsum(values)))
    squares = np.concatenate(([0.0], np.cumsum(np.square(values))))
    mean = (sums[window:] - sums[:-window]) / window
    variance = np.maximum((squares[window:] - squares[:-window]) / window - np.square(mean), 0.0)
    shift = mean[window:] - mean[:-window]
    # Ranks of n values have steps of 1 / n; this lower bound avoids a division by zero where both sides are constant.
    pooled = np.maximum((variance[window:] + variance[:-window]) / 2, 1.0 / max(1, len(values)) ** 2)
    return shift, shift / np.sqrt(2 * pooled / (window - 1))
