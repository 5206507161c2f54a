"""History: how the same or the most similar configuration did in other measured groups.

Groups count by their similarity, exp(-sharpness * distance) of their contexts, and a configuration that a group lacks
is replaced by its nearest ones, which count by exp(-distance).  A row never sees its own group, so that the columns of
training rows are of the same kind as those of a new group.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features._numba import kernel
from features.schema import Block, Column

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

BLOCK: Final = Block(
    "history",
    1,
    "how the same or the nearest configuration did in other training groups, weighted by similarity of the groups",
    (
        Column("rank", "share", "expected rank: 0 is the fastest, 1 the slowest of a group"),
        Column("nearest_rank", "share", "rank in the most similar group"),
        Column("mean_rank", "share", "mean rank, all groups alike"),
        Column("least_rank", "share", "best rank in any group"),
        Column("largest_rank", "share", "worst rank in any group"),
        Column("spread", "share", "standard deviation of the rank over groups"),
        Column("slowdown", "log2", "expected runtime over the best of the group"),
        Column("nearest_slowdown", "log2", "runtime over the best of the most similar group"),
        Column("failed", "share", "expected share of failures"),
        Column(
            "config_distance", "distance", "to the nearest configuration of the most similar group; 0 if it is there"
        ),
        Column("group_distance", "distance", "to the most similar group"),
    ),
    per_config=True,
)

#: Groups that a row sees at most: the most similar ones.
_MOST_GROUPS: Final = 24
#: Rows of a group among which nearest configurations are searched, and distances that all known rows may need.
_MOST_ROWS: Final = 4096
_LEAST_ROWS: Final = 256
_MOST_DISTANCES: Final = 4 << 30
#: Neighbours that replace a missing configuration.
_NEIGHBOURS: Final = 4
#: Sharpness with few training groups, and the values that are tried with more of them, on at most so many groups.
_SHARPNESS: Final = 4.0
_SHARPNESSES: Final = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0)
_FEW_GROUPS: Final = 4
_TRIED_GROUPS: Final = 40


@dataclass(frozen=True, eq=False)
class _Configs:
    """Distinct configurations by key, which all groups share that have the same ones."""

    keys: NDArray[np.void]
    positions: FloatArray


@dataclass(frozen=True, eq=False)
class _Known:
    """The distinct configurations of one training group."""

    configs: _Configs
    rank: FloatArray
    slowdown: FloatArray
    failed: FloatArray


class _Places(NamedTuple):
    """Where rows are among known configurations: their index, or the nearest ones with weights for missing rows."""

    at: IntArray
    missing: IntArray
    near: IntArray
    weight: FloatArray
    distance: FloatArray


class History:
    """The configurations of measured groups.

    Parameters
    ----------
    positions : float64 (rows, dimensions)
        Configurations as points whose distance says how similar they are; equal points are the same configuration.
    cost : float64 (rows,)
        Lower is better; infinite for a failed configuration.
    indptr : int64 (groups + 1,)
    distances : float64 (groups, groups)
        Between the contexts of groups.
    n_train : int
        Number of training groups, the first ones.
    """

    def __init__(
        self, positions: FloatArray, cost: FloatArray, indptr: IntArray, distances: FloatArray, n_train: int
    ) -> None:
        bounds = list(pairwise(indptr.tolist()))
        shared: dict[bytes, _Configs] = {}
        self._known = [_distinct(positions[a:b], cost[a:b], shared) for a, b in bounds]
        searched = _MOST_DISTANCES // (len(positions) * min(len(bounds), _MOST_GROUPS))
        self._most_rows = min(_MOST_ROWS, max(_LEAST_ROWS, searched))
        self.sharpness = _SHARPNESS
        if n_train > _FEW_GROUPS:
            self.sharpness = self._best_sharpness(positions, cost, bounds[:n_train], distances[:n_train, :n_train])

    def __call__(self, positions: FloatArray, distances: FloatArray, own: int | None = None) -> FloatArray:
        """The columns of :data:`BLOCK` for rows of one group, float64 (rows, len(BLOCK)); NaN without other groups.

        ``distances``, float64 (seen,), are those to the first groups, which the rows may see; ``own`` is the group
        itself if it is one of them.
        """
        found = np.full((len(positions), len(BLOCK)), np.nan)
        groups = self._nearest_groups(distances, own)
        if not len(groups):
            return found
        rank, slowdown, failed, gap = self._looked_up(positions, groups)
        weights = _weights(self.sharpness, distances[groups], gap)
        mean = (weights * rank).sum(axis=0)
        found[:, 0] = mean
        found[:, 1] = rank[0]
        found[:, 2] = rank.mean(axis=0)
        found[:, 3] = rank.min(axis=0)
        found[:, 4] = rank.max(axis=0)
        found[:, 5] = np.sqrt((weights * (rank - mean) ** 2).sum(axis=0))
        found[:, 6] = (weights * slowdown).sum(axis=0)
        found[:, 7] = slowdown[0]
        found[:, 8] = (weights * failed).sum(axis=0)
        found[:, 9] = gap[0]
        found[:, 10] = distances[groups[0]]
        return found

    def by_group(self, positions: FloatArray, distances: FloatArray) -> FloatArray:
        """Ranks and log2 slowdowns in the most similar groups, these first, float64 (2, groups, rows)."""
        rank, slowdown, _, _ = self._looked_up(positions, self._nearest_groups(distances, None))
        return np.stack([rank, slowdown])

    def _nearest_groups(self, distances: FloatArray, own: int | None) -> IntArray:
        order = np.argsort(distances, kind="stable")
        return np.asarray(order[order != (-1 if own is None else own)][:_MOST_GROUPS])

    def _looked_up(self, positions: FloatArray, groups: IntArray) -> tuple[FloatArray, ...]:
        """Rank, log2 slowdown, failures and distance of every row in every group, float64 (groups, rows) each."""
        keys = _keys(positions)
        shape = len(groups), len(positions)
        rank, slowdown, failed, gap = np.empty(shape), np.empty(shape), np.empty(shape), np.zeros(shape)
        places: dict[_Configs, _Places] = {}
        for number, known in enumerate(self._known[group] for group in groups.tolist()):
            if known.configs not in places:
                places[known.configs] = self._places(positions, keys, known.configs)
            at, missing, near, weight, distance = places[known.configs]
            for values, of_known in ((rank, known.rank), (slowdown, known.slowdown), (failed, known.failed)):
                values[number] = of_known[at]
                values[number, missing] = (weight * of_known[near]).sum(axis=1)
            gap[number, missing] = distance
        return rank, slowdown, failed, gap

    def _places(self, positions: FloatArray, keys: NDArray[np.void], configs: _Configs) -> _Places:
        """Look rows up among the configurations of one group or several."""
        at = np.minimum(np.searchsorted(configs.keys, keys), len(configs.keys) - 1)
        missing = np.flatnonzero(configs.keys[at] != keys)
        step = -(-len(configs.keys) // self._most_rows)
        near, distance = _nearest(positions[missing], configs.positions[::step], _NEIGHBOURS)
        weight = np.exp(-(distance - distance[:, :1]))
        return _Places(at, missing, step * near, weight / weight.sum(axis=1, keepdims=True), distance[:, 0])

    def _best_sharpness(
        self, positions: FloatArray, cost: FloatArray, bounds: list[tuple[int, int]], distances: FloatArray
    ) -> float:
        """The sharpness whose expected ranks correlate best with the ranks of left-out training groups."""
        correlation = np.zeros(len(_SHARPNESSES))
        for own in np.unique(np.linspace(0, len(bounds) - 1, _TRIED_GROUPS).astype(int)).tolist():
            start, stop = bounds[own]
            rows = start + np.arange(0, stop - start, -(-(stop - start) // _MOST_ROWS))
            measured = _ranks(cost[start:stop])[rows - start]
            groups = self._nearest_groups(distances[own], own)
            rank, _, _, gap = self._looked_up(positions[rows], groups)
            for number, sharpness in enumerate(_SHARPNESSES):
                expected = (_weights(sharpness, distances[own][groups], gap) * rank).sum(axis=0)
                if np.ptp(expected) and np.ptp(measured):
                    correlation[number] += np.corrcoef(expected, measured)[0, 1]
        return _SHARPNESSES[int(correlation.argmax())]


def _weights(sharpness: float, distances: FloatArray, gap: FloatArray) -> FloatArray:
    """Weights of groups per row, float64 (groups, rows), which sum to 1."""
    logarithms = -sharpness * distances[:, None] - gap
    weights = np.exp(logarithms - logarithms.max(axis=0))
    return np.asarray(weights / weights.sum(axis=0))


def _distinct(positions: FloatArray, cost: FloatArray, shared: dict[bytes, _Configs]) -> _Known:
    """Means over the equal configurations of a group; ``shared`` has the configurations of earlier ones, by keys."""
    keys, first, inverse, counts = np.unique(
        _keys(positions), return_index=True, return_inverse=True, return_counts=True
    )
    finite = np.isfinite(cost)
    slowest = cost[finite].max() if finite.any() else 1.0
    slowdown = np.log2(np.where(finite, cost, slowest) / cost[finite].min(initial=slowest))
    means = [np.bincount(inverse, values) / counts for values in (_ranks(cost), slowdown, (~finite).astype(float))]
    return _Known(shared.setdefault(keys.tobytes(), _Configs(keys, positions[first])), *means)


def _ranks(cost: FloatArray) -> FloatArray:
    """Ranks from 0, the lowest, to 1, the highest cost; equal costs have their mean rank."""
    _, inverse, counts = np.unique(cost, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts + 1) / 2)[inverse] / max(1, len(cost) - 1))


def _keys(positions: FloatArray) -> NDArray[np.void]:
    """One sortable key per row, equal for equal rows."""
    rows = np.ascontiguousarray(positions + 0.0)  # -0.0 becomes 0.0
    return rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel()


def _nearest(points: FloatArray, among: FloatArray, k: int) -> tuple[IntArray, FloatArray]:
    """Indices and distances of the ``k`` nearest rows of ``among`` (or all), ascending, (points, k) each."""
    k = min(k, len(among))
    near, squares = np.empty((len(points), k), np.int64), np.empty((len(points), k))
    if len(points):  # nothing to compile otherwise
        _nearest_rows(np.ascontiguousarray(points), np.ascontiguousarray(among), near, squares)
    return near, np.sqrt(squares)


@kernel()
def _nearest_rows(points: FloatArray, among: FloatArray, near: IntArray, squares: FloatArray) -> None:
    """Fill ``near`` and ``squares`` (points, k) with the indices and squared distances of the nearest rows."""
    k = near.shape[1]
    for point in range(len(points)):
        squares[point] = np.inf
        near[point] = 0
        for row in range(len(among)):
            square = 0.0
            for dimension in range(points.shape[1]):
                difference = points[point, dimension] - among[row, dimension]
                square += difference * difference
                if square >= squares[point, k - 1]:
                    break
            at = k - 1
            if square >= squares[point, at]:
                continue
            while at > 0 and squares[point, at - 1] > square:
                squares[point, at] = squares[point, at - 1]
                near[point, at] = near[point, at - 1]
                at -= 1
            squares[point, at] = square
            near[point, at] = row
