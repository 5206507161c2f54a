"""Quality of a predicted order: Kendall's tau, top-K slowdown, ordered pair accuracy, and their means over graphs.

Scores are like runtimes: lower is predicted faster.  A group that cannot be ranked is not scored, but listed with the
reason.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau, rankdata

from gbr.data.collection import family
from gbr.data.groups import QueryGroups, unrankable
from gbr.errors import UsageError

FloatArray = NDArray[np.float64]

#: Values of K reported per kind of collection.
TOP: Final[dict[str, tuple[int, ...]]] = {"tile": (1, 5, 10), "layout": (1, 5, 10, 100), "table": (1, 5, 10, 100)}
#: Values of K of a curve.
BUDGETS: Final = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 200, 300, 500, 700, 1000)

#: First rows of a group that are searched for failures.
_PROPOSED: Final = 10
#: Rows of a small group of :func:`taus_b`.
_SMALL: Final = 64
_RESAMPLES: Final = 5_000
#: Rows and resamples of :func:`tau_interval`.
_TAU_ROWS: Final = 256
_TAU_RESAMPLES: Final = 400


@dataclass(frozen=True, eq=False)
class Scored:
    """Predictions for one split: groups with runtimes, and scores, float64 (rows,).

    ``runtime``, float64 (3, rows), are predicted runtimes and the bounds of their intervals, if the model has them.
    """

    split: str
    groups: QueryGroups
    scores: FloatArray
    runtime: FloatArray | None = None


@dataclass(frozen=True)
class Pairs:
    """Counts of the pairs of one query group."""

    concordant: int  # pairs of different target that the scores put in the right order
    discordant: int  # in the wrong order
    tied_score: int  # of equal score and different target
    tied_target: int  # of equal target, with any scores
    tied_both: int  # equal in both, a part of tied_target

    @property
    def ordered(self) -> int:
        """Pairs of different target, which an order can get right or wrong."""
        return self.concordant + self.discordant + self.tied_score

    @property
    def kendall_tau(self) -> float:
        """tau-b; 0 where it is undefined because the scores, or the targets, are all equal."""
        scored = self.concordant + self.discordant + self.tied_target - self.tied_both
        if not scored or not self.ordered:
            return 0.0
        tau = (self.concordant - self.discordant) / (math.sqrt(scored) * math.sqrt(self.ordered))
        return min(1.0, max(-1.0, tau))

    @property
    def untied_tau(self) -> float:
        """Expected Kendall's tau when equal scores are ordered at random; 0 where it is undefined.

        tau-b rewards ties: a model with a single split whose few pairs are right scores higher than a fine-grained one.
        """
        return (self.concordant - self.discordant) / self.ordered if self.ordered else 0.0

    @property
    def opa(self) -> float:
        """Ordered pair accuracy as TpuGraphs defines it, in [0, 1]: equal targets ignored, equal scores wrong."""
        return self.concordant / self.ordered if self.ordered else 0.0


def count_pairs(scores: FloatArray, target: FloatArray) -> Pairs:
    """Count the pairs of one query group in O(n log n) time and O(n) memory.

    scipy's tau-b is (concordant - discordant) / sqrt(a product of tie counts).  With the ties counted here, both
    integers follow from it exactly: the relative error of the quotient is a few 2**-53, far less than half a pair for
    any group below 10**7 rows.

    Parameters
    ----------
    scores, target : float64 (n,)
        Without NaN.

    Raises
    ------
    UsageError
        For a NaN score or target.
    """
    for name, values in (("scores", scores), ("target", target)):
        if np.isnan(values).any():
            raise UsageError(f"{name}: row {int(np.isnan(values).argmax())} is NaN; expected a number for every row")
    n = len(target)
    total = n * (n - 1) // 2
    score_rank = np.unique(scores, return_inverse=True)[1].astype(np.int64)
    target_rank = np.unique(target, return_inverse=True)[1].astype(np.int64)
    equal_score = _tied(score_rank)
    equal_target = _tied(target_rank)
    equal_both = _tied(np.unique(score_rank * (n + 1) + target_rank, return_inverse=True)[1])
    difference = 0
    if equal_score < total and equal_target < total:
        # The p-value is not used; the asymptotic one is cheap, but divides by n - 2.
        method = "asymptotic" if n > 2 else "exact"
        tau = float(kendalltau(score_rank, target_rank, method=method).statistic)
        difference = round(tau * math.sqrt(total - equal_score) * math.sqrt(total - equal_target))
    compared = total - equal_score - equal_target + equal_both
    concordant = (compared + difference) // 2
    return Pairs(concordant, compared - concordant, equal_score - equal_both, equal_target, equal_both)


def kendall_tau(scores: FloatArray, target: FloatArray) -> float:
    """tau-b of ``scipy.stats.kendalltau``, in [-1, 1]; 0 (not NaN) where all scores, or all targets, are equal."""
    return count_pairs(scores, target).kendall_tau


def taus_b(scores: FloatArray, target: NDArray[Any], groups: Sequence[slice]) -> FloatArray:
    """:func:`kendall_tau` of each of many groups, float64 (groups,).

    A call of scipy takes half a millisecond, so the pairs of small groups are compared at once: of all groups those of
    neighbours, then those of rows at distance 2, and so on.
    """
    taus = np.zeros(len(groups))
    rows, sizes = [np.zeros(0, np.int64)], np.zeros(len(groups), np.int64)
    for number, group in enumerate(groups):
        if group.stop - group.start > _SMALL:
            taus[number] = kendall_tau(scores[group], target[group])
        else:
            rows.append(np.arange(group.start, group.stop))
            sizes[number] = len(rows[-1])
    kept, group_of = np.concatenate(rows), np.repeat(np.arange(len(groups)), sizes)
    scores, target = scores[kept], target[kept]
    agreement, scored, ordered = np.zeros((3, len(groups)))
    for distance in range(1, sizes.max(initial=0)):
        first = np.flatnonzero(group_of[distance:] == group_of[:-distance])
        second, of = first + distance, group_of[first]
        by_score = np.subtract(scores[first] > scores[second], scores[first] < scores[second], dtype=np.int8)
        by_target = np.subtract(target[first] > target[second], target[first] < target[second], dtype=np.int8)
        agreement += np.bincount(of, by_score * by_target, len(groups))
        scored += np.bincount(of, by_score != 0, len(groups))
        ordered += np.bincount(of, by_target != 0, len(groups))
    return taus + agreement / np.sqrt(np.maximum(scored * ordered, 1))  # 0 where no pair is ordered


def slowdown_at_k(scores: FloatArray, target: FloatArray, k: int) -> float:
    """How much slower than the best row the best of the ``k`` lowest scores is: (min of those - best) / best.

    Where equal scores cross rank k, the result is the expectation over all orders of the tied rows, so it depends on
    neither the order of the rows nor a seed.  Constant scores give the expectation of a random order.

    Parameters
    ----------
    scores, target : float64 (n,)
    k : int
        Number of rows; all of them if it exceeds n.

    Raises
    ------
    UsageError
        When ``k`` < 1 or the best target is not positive.
    """
    if k < 1:
        raise UsageError(f"k: expected a positive integer, got {k}")
    best = float(target.min())
    if not best > 0:  # or NaN
        raise UsageError(f"target: expected positive runtimes, got {best:g}")
    if k >= len(target):
        return 0.0
    last = np.partition(scores, k - 1)[k - 1]
    inside = target[scores < last]
    tied = np.sort(target[scores == last])
    if len(inside):
        tied = np.minimum(tied, inside.min())
    return (_expected_minimum(tied, k - len(inside)) - best) / best


def slowdown_curves(orders: Iterable[FloatArray], targets: Iterable[FloatArray], k: Sequence[int]) -> FloatArray:
    """Slowdown at each K of each group, float64 (groups, k), from its scores and its targets, float64 (rows,) each."""
    found = [
        [slowdown_at_k(scores, slowest_for_failed(target), each) for each in k]
        for scores, target in zip(orders, targets, strict=True)
    ]
    return np.maximum(found, 0.0)  # rounding errors may make an expectation negative


def score(kind: str, per_graph: Iterable[dict[str, float]]) -> float:
    """Score of the competition: mean of 1 - slowdown@5 for tile, mean Kendall tau for layout; 1 is perfect."""
    return float(np.mean([1 - graph["slowdown@5"] if kind == "tile" else graph["kendall_tau"] for graph in per_graph]))


def bootstrap_interval(
    values: Iterable[float], families: Iterable[str] | None = None, level: float = 0.95, seed: int = 0
) -> list[float] | None:
    """Percentile bootstrap interval of the mean, resampling families; deterministic.

    Graphs of a family are alike, so that an interval over single graphs would be too narrow.

    Parameters
    ----------
    values : iterable of float
        One per graph.
    families : iterable of str, optional
        Family of each graph; by default each is its own.

    Returns
    -------
    [low, high], or None for fewer than two families.
    """
    sample = np.fromiter(values, np.float64)
    owner = np.arange(len(sample)) if families is None else np.unique([*families], return_inverse=True)[1]
    sizes = np.bincount(owner)
    if len(sizes) < 2:
        return None
    sums = np.bincount(owner, sample)
    rng, n = np.random.default_rng(seed), len(sizes)
    means = []
    for _ in range(_RESAMPLES // 250):
        drawn = rng.integers(n, size=(250, n))
        means.append(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1))
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return [float(low), float(high)]


def tau_interval(
    tau: float, scores: FloatArray, target: FloatArray, level: float = 0.95, seed: int = 0
) -> list[float] | None:
    """Percentile bootstrap interval of one group's tau-b, resampling configurations; deterministic.

    A configuration that is drawn twice is not paired with itself: the tau of a resample is the weighted tau of its
    distinct configurations.  For more than 256 configurations a random sample of them is resampled, and the interval
    is narrowed by the square root of its share.

    Parameters
    ----------
    tau : float
        Tau of all configurations.
    scores, target : float64 (n,)
        Without NaN.

    Returns
    -------
    [low, high], or None for fewer than three configurations, or where all scores or all targets are equal.
    """
    n = len(target)
    rng = np.random.default_rng(seed)
    rows = np.arange(n) if n <= _TAU_ROWS else rng.choice(n, _TAU_ROWS, replace=False)
    m = len(rows)
    by_score = np.sign(scores[rows, None] - scores[None, rows])
    by_target = np.sign(target[rows, None] - target[None, rows])
    if m < 3 or not by_score.any() or not by_target.any():
        return None
    weights = rng.multinomial(m, np.full(m, 1 / m), size=_TAU_RESAMPLES).astype(np.float64)
    agree, scored, ordered = (
        np.einsum("ri,ri->r", weights @ pairs, weights)
        for pairs in (by_score * by_target, np.abs(by_score), np.abs(by_target))
    )
    defined = (scored > 0) & (ordered > 0)
    if not defined.any():
        return None
    center = float((by_score * by_target).sum() / np.sqrt(np.abs(by_score).sum() * np.abs(by_target).sum()))
    taus = agree[defined] / np.sqrt(scored[defined] * ordered[defined])
    offset = np.quantile(taus - center, [(1 - level) / 2, (1 + level) / 2]) * np.sqrt(m / n)
    low, high = np.clip(tau + offset, -1.0, 1.0)
    return [float(low), float(high)]


def evaluate(scores: FloatArray, groups: QueryGroups, kind: str) -> dict[str, Any]:
    """Score the predicted order of every query group.

    Parameters
    ----------
    scores : float64 (rows,)
        Lower is predicted faster.
    groups : QueryGroups
        With runtimes.
    kind : str
        ``tile``, ``layout`` or ``table``: determines K and ``score``.

    Returns
    -------
    dict
        ``kendall_tau`` (mean over graphs), ``kendall_tau_ci`` (95 % bootstrap interval over families), ``opa``,
        ``slowdown@<K>``, ``score``, ``graphs`` (stem -> the same per graph), ``n_graphs`` (scored), ``skipped``
        (stem -> reason).  Means are None when no graph could be scored.

    Raises
    ------
    UsageError
        For a NaN score, or when the number of scores is not that of the rows.
    """
    all_targets = groups.target
    if len(scores) != len(all_targets):
        raise UsageError(f"scores: expected {len(all_targets)}, one per row, got {len(scores)}")
    graphs: dict[str, dict[str, float]] = {}
    skipped: dict[str, str] = {}
    for group, name in enumerate(groups.names):
        rows = groups.rows(group)
        target = all_targets[rows]
        if reason := unrankable(target, groups.duplicate_of[rows]):
            skipped[name] = reason
            continue
        worked = np.isfinite(target)
        pairs = count_pairs(scores[rows][worked], target[worked])
        target = slowest_for_failed(target)
        slowdowns = {f"slowdown@{k}": slowdown_at_k(scores[rows], target, k) for k in TOP[kind]}
        graphs[name] = {"kendall_tau": pairs.kendall_tau, "opa": pairs.opa, **slowdowns}
    return summarise(graphs, skipped, kind)


def slowest_for_failed(target: FloatArray) -> FloatArray:
    """Targets with failed configurations as slow as the slowest: whoever tries one gains nothing."""
    worked = np.isfinite(target)
    return target if worked.all() else np.where(worked, target, target[worked].max(initial=1.0))


def failures(scores: FloatArray, chances: FloatArray, groups: QueryGroups) -> dict[str, float | None] | None:
    """How well failed configurations are foreseen; None if none failed.

    Parameters
    ----------
    scores, chances : float64 (rows,)
        Predicted order, and chance to fail.
    groups : QueryGroups
        With runtimes.

    Returns
    -------
    dict
        ``auc`` (area under the ROC curve of the chance, mean over the groups of which some rows failed and some did
        not; None without one), ``failed`` (share of all rows), ``failed@10`` (share of the first ten rows of a group,
        mean over groups).
    """
    failed = np.isinf(groups.target)
    if not failed.any():
        return None
    areas, first = [], []
    for group in range(len(groups)):
        rows = groups.rows(group)
        own, n_failed = failed[rows], int(failed[rows].sum())
        first.append(own[np.argsort(scores[rows], kind="stable")[:_PROPOSED]].mean())
        if pairs := n_failed * (len(own) - n_failed):
            # Mann-Whitney
            areas.append((rankdata(chances[rows])[own].sum() - n_failed * (n_failed + 1) / 2) / pairs)
    return {
        "auc": float(np.mean(areas)) if areas else None,
        "failed": float(failed.mean()),
        f"failed@{_PROPOSED}": float(np.mean(first)),
    }


def summarise(graphs: dict[str, dict[str, float]], skipped: dict[str, str], kind: str) -> dict[str, Any]:
    """Means over graphs, in the format of :func:`evaluate`, of the figures per graph."""
    names = ("kendall_tau", "opa", *(f"slowdown@{k}" for k in TOP[kind]))
    means = {name: float(np.mean([graph[name] for graph in graphs.values()])) if graphs else None for name in names}
    return {
        "kendall_tau": means.pop("kendall_tau"),
        "kendall_tau_ci": bootstrap_interval(
            [graph["kendall_tau"] for graph in graphs.values()], [family(kind, name) for name in graphs]
        ),
        **means,
        "score": score(kind, graphs.values()) if graphs else None,
        "graphs": graphs,
        "n_graphs": len(graphs),
        "skipped": skipped,
    }


def _tied(codes: NDArray[np.int64]) -> int:
    """Number of pairs of equal codes, which are 0 ... m."""
    counts = np.bincount(codes)
    return int((counts * (counts - 1) // 2).sum())


def _expected_minimum(ascending: FloatArray, size: int) -> float:
    """Mean of the smallest value over all subsets of ``size`` values."""
    n = len(ascending)
    candidates = n - size + 1
    steps = np.arange(candidates - 1)
    still_open = np.cumprod((n - size - steps) / (n - steps))
    reached = np.concatenate(([1.0], still_open))
    chosen = reached * size / (n - np.arange(candidates))
    return float(chosen @ ascending[:candidates])
