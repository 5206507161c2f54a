"""Figures of predictions: per graph, their means, and differences with an interval over families."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gbr.data.groups import QueryGroups
from gbr.evaluation.metrics import count_pairs, slowdown_at_k

FloatArray = NDArray[np.float64]

TAU: Final = "tau"
OPA: Final = "OPA"
TOP: Final = (1, 5, 10)
NAMES: Final = (TAU, OPA, *(f"slowdown@{k}" for k in TOP))
RESAMPLES: Final = 5000


@dataclass(frozen=True)
class Difference:
    """Mean of a difference over graphs, and its 95 % interval; None where one family tells nothing about others."""

    mean: float
    interval: tuple[float, float] | None


def per_graph(scores: FloatArray, slates: QueryGroups, held: NDArray[np.bool_]) -> dict[str, FloatArray]:
    """Every figure of every graph, float64 (graphs,) by name of :data:`NAMES`.

    Parameters
    ----------
    scores : float64 (rows,)
        Lower is predicted faster.  A graph with a NaN has no figures.
    slates : QueryGroups
    held : bool (graphs,)
        Graphs that have scores; the others get NaN.
    """
    found = {name: np.full(len(slates), np.nan) for name in NAMES}
    target = slates.target
    for number in np.flatnonzero(held):
        rows = slates.rows(int(number))
        if np.isnan(scores[rows]).any():
            continue
        pairs = count_pairs(scores[rows], target[rows])
        found[TAU][number], found[OPA][number] = pairs.untied_tau, pairs.opa
        for k in TOP:
            found[f"slowdown@{k}"][number] = slowdown_at_k(scores[rows], target[rows], k)
    return found


def mean(values: FloatArray) -> float:
    """Mean over the graphs that have the figure; NaN without one."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def difference(values: FloatArray, base: FloatArray, families: NDArray[np.str_], seed: int = 0) -> Difference:
    """Mean of ``values - base`` over the graphs that have both, with a paired bootstrap interval.

    Whole families are drawn, with replacement: graphs of one family are wrong together.

    Parameters
    ----------
    values, base : float64 (graphs,)
        NaN where a graph has no figure.
    families : str (graphs,)
    seed : int
    """
    lost = values - base
    known = np.isfinite(lost)
    if not known.any():
        return Difference(float("nan"), None)
    place = np.unique(families[known], return_inverse=True)[1]
    sums, sizes = np.bincount(place, weights=lost[known]), np.bincount(place)
    if len(sums) < 2:
        return Difference(float(lost[known].mean()), None)
    drawn = np.random.default_rng(seed).integers(len(sums), size=(RESAMPLES, len(sums)))
    means = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Difference(float(lost[known].mean()), (float(low), float(high)))
