"""How far the runtimes of a graph can be trusted, told from the runtimes alone and from how a model ranks them.

A machine that changes while it measures (another clock, another tenant) leaves blocks of configurations that are slower
or faster as a whole.  The 2nd place of "Google - Fast or Slow?" found such graphs by
looking at runtimes in the order of the file; :func:`jumps` looks for them by a two-sample test on ranks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter1d

from gbr.data.groups import unrankable
from gbr.evaluation.metrics import kendall_tau

FloatArray = NDArray[np.float64]

#: Rows on either side of a place that are compared.  No wider: what a search finds improves over thousands of rows, and
#: a drift is no jump.
WINDOWS: Final = (24, 48, 96, 192)
#: Student's t of the ranks on both sides, and the difference of their means as a share of all ranks, from which on it
#: is a jump.  For independent rows |t| > 7 at 46 degrees of freedom has a probability below 1e-8 per place.
LEAST_T: Final = 7.0
LEAST_SHIFT: Final = 0.25
#: Share of the shift that must be left once the ranks that a model predicts are subtracted.
LEAST_LEFT: Final = 0.6

#: Below these a graph says little about the order of its configurations.
FEW_DISTINCT: Final = 20
LOW_RETEST: Final = 0.7
SMALL_SPREAD: Final = 1.1

_MOST_JUMPS: Final = 20


@dataclass(frozen=True)
class Jump:
    """A place where runtimes change as a whole.

    Parameters
    ----------
    row : int
        First row of the new level, in the order of the file.
    ratio : float
        Median runtime after it over that before it.
    t : float
        Student's t of the ranks.
    """

    row: int
    ratio: float
    t: float


def jumps(target: FloatArray, scores: FloatArray | None = None) -> list[Jump]:
    """Block-wise jumps of runtimes in the order of the file.

    Ranks before and after every place are compared by Student's t with pooled variance (the rank transform of Conover
    and Iman, 1981, which a few extreme runtimes cannot move), in windows of :data:`WINDOWS` rows.  A file that lists
    its configurations in some order jumps as well, and rightly; with ``scores`` a jump only counts where the model does
    not expect it.

    Parameters
    ----------
    target : float64 (n,)
        Runtimes in the order of the file.
    scores : float64 (n,), optional
        What a model predicts, lower is faster.

    Returns
    -------
    list of Jump
        In the order of the file; none for fewer than 48 rows.
    """
    ranks = normalised_ranks(target)
    left = None if scores is None else ranks - normalised_ranks(scores)
    strength = np.zeros(len(target) + 1)
    for window in WINDOWS:
        if 2 * window > len(target):
            break
        shift, t = _compared(ranks, window)
        # The windows around a jump see part of it from everywhere nearby; the place itself sees most.
        counts = np.abs(t) >= np.maximum(LEAST_T, maximum_filter1d(np.abs(t), 2 * window + 1))
        counts &= np.abs(shift) >= LEAST_SHIFT
        if left is not None:
            counts &= np.sign(shift) * _compared(left, window)[0] >= LEAST_LEFT * np.abs(shift)
        places = slice(window, len(target) - window + 1)
        strength[places] = np.maximum(strength[places], np.where(counts, np.abs(t), 0.0))
    found: list[Jump] = []
    while len(found) < _MOST_JUMPS and strength.any():
        row = int(strength.argmax())
        before = np.median(target[max(0, row - WINDOWS[0]) : row])
        after = np.median(target[row : row + WINDOWS[0]])
        found.append(Jump(row, float(after / before), float(strength[row])))
        strength[max(0, row - WINDOWS[0]) : row + WINDOWS[0]] = 0.0
    return sorted(found, key=lambda jump: jump.row)


def normalised_ranks(values: FloatArray) -> FloatArray:
    """Mean ranks from 0 (least) to 1, float64 (n,); equal values share theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - (counts + 1) / 2
    return np.asarray(middle[inverse] / max(1, len(values) - 1))


def slate_quality(
    target: FloatArray,
    duplicate_of: NDArray[np.int64],
    repeat: FloatArray | None = None,
    scores: FloatArray | None = None,
) -> dict[str, Any]:
    """What the runtimes of one graph say about themselves.

    Parameters
    ----------
    target : float64 (n,)
        In the order of the file.
    duplicate_of : int64 (n,)
        Row of the first identical configuration.
    repeat : float64 (n,), optional
        An independent second measurement.
    scores : float64 (n,), optional
        What a model predicts.

    Returns
    -------
    dict
        ``configs``, ``distinct`` (configurations), ``spread`` (slowest over fastest), ``duplicate_spread`` (median over
        groups of identical configurations of slowest over fastest, less 1; None without such a group), ``retest``
        (Kendall's tau of both measurements; None without the second), ``unrankable`` (why, or None), ``jumps``.
    """
    why = unrankable(target, duplicate_of)
    return {
        "configs": len(target),
        "distinct": len(np.unique(duplicate_of)),
        "spread": float(target.max() / target.min()) if len(target) else 1.0,
        "duplicate_spread": _duplicate_spread(target, duplicate_of),
        "retest": None if repeat is None or why else kendall_tau(repeat, target),
        "unrankable": why,
        "jumps": [vars(jump) for jump in jumps(target, scores)],
    }


def doubts(quality: dict[str, Any]) -> list[str]:
    """Reasons not to expect much of a graph, in words, from what :func:`slate_quality` found."""
    told = []
    if quality["unrankable"]:
        told.append(quality["unrankable"])
    if quality["jumps"]:
        rows = ", ".join(str(jump["row"]) for jump in quality["jumps"][:3])
        told.append(f"runtimes jump at row {rows}")
    if quality["distinct"] < FEW_DISTINCT:
        told.append(f"only {quality['distinct']} distinct configurations")
    if quality["retest"] is not None and quality["retest"] < LOW_RETEST:
        told.append(f"a second measurement agrees only to tau {quality['retest']:.2f}")
    if quality["spread"] < SMALL_SPREAD:
        told.append(f"slowest only {quality['spread']:.3f}× the fastest")
    return told


def _compared(values: FloatArray, window: int) -> tuple[FloatArray, FloatArray]:
    """Mean after less mean before, and Student's t, at every place with ``window`` rows on both sides."""
    sums = np.concatenate(([0.0], np.cumsum(values)))
    squares = np.concatenate(([0.0], np.cumsum(np.square(values))))
    mean = (sums[window:] - sums[:-window]) / window
    variance = np.maximum((squares[window:] - squares[:-window]) / window - np.square(mean), 0.0)
    shift = mean[window:] - mean[:-window]
    # The ranks of n values are no finer than 1 / n; without this floor two constant sides would divide by zero.
    pooled = np.maximum((variance[window:] + variance[:-window]) / 2, 1.0 / max(1, len(values)) ** 2)
    return shift, shift / np.sqrt(2 * pooled / (window - 1))


def _duplicate_spread(target: FloatArray, duplicate_of: NDArray[np.int64]) -> float | None:
    highest, lowest = np.full(len(target), -np.inf), np.full(len(target), np.inf)
    np.maximum.at(highest, duplicate_of, target)
    np.minimum.at(lowest, duplicate_of, target)
    repeated = np.bincount(duplicate_of, minlength=len(target)) > 1
    return float(np.median(highest[repeated] / lowest[repeated]) - 1) if repeated.any() else None
