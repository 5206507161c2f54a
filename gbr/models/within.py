"""Two unlike learners that order the configurations of one graph after a few measured ones.

What configurations choose, the layout of a tensor or the bound of a loop, becomes indicators beside the engineered
columns.  Randomised trees (Geurts, Ernst and Wehenkel, "Extremely randomized trees", 2006) find the few choices that
act together; kernel ridge regression adds up many small effects.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # scikit-learn brings its own OpenMP runtime, which reads it once

from scipy.stats import rankdata
from sklearn.ensemble import ExtraTreesRegressor

from gbr.data.graph import LAYOUT_RANGE, N_LAYOUT

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_TREES: Final = 300
_ROWS_PER_LEAF: Final = 2
_COLUMNS_PER_SPLIT: Final = 0.3
#: Weight of the trees in the mean with the ridge.
_TREES_SHARE: Final = 2 / 3
#: Noise over signal that the ridge chooses among.
_RIDGES: Final = np.logspace(-4, 1.5, 12)
#: A ranker's order counts as this many measurements whose ranks follow it with this slope.
_PRIOR_ROWS: Final = 5.0
_PRIOR_SLOPE: Final = 0.6
#: Variance of the order in the ridge's kernel, beside the three of variance 1 that columns and indicators have.
_PRIOR_VARIANCE: Final = 3.0
#: With so many measurements, trees that start from the ranker's order and trees that take it as a column weigh alike.
_EQUAL_AT: Final = 20.0
#: The order's own weight in the mean, times the number of measurements.
_PRIOR_WEIGHT: Final = 6.0
_MOST_INDICATORS: Final = 2000
#: A tensor's slots, read as digits, make one number; three tensors make the number of a row, exact in float64.
_SLOTS: Final = N_LAYOUT // 3
_BASE: Final = LAYOUT_RANGE[1] - LAYOUT_RANGE[0] + 1
#: Columns of a tile configuration that are bounds, without their sums and products.
_BOUNDS: Final = tuple(8 * group + slot for group in range(3) for slot in range(6))


class Learner:
    """Trees and ridge on the measured rows of one graph.

    Parameters
    ----------
    X : float32 (c, columns)
        Engineered columns of the whole slate that differ within it.
    order : float64 (c,)
        The ranker's order as ranks; all 0 without one.
    rows : int64 (m,)
        Measured rows.
    chosen : (m, attributes)
        :func:`choices` of the measured rows.
    target : float64 (m,)
        Their ranks.
    n_trees : int
        Per forest; fewer are quicker and noisier.
    """

    def __init__(
        self, X: NDArray[np.float32], order: FloatArray, rows: IntArray, chosen: NDArray[Any], target: FloatArray,
        seed: int, n_trees: int = _TREES,
    ) -> None:  # fmt: skip
        self._indicators = _Indicators(chosen)
        held = self._indicators(chosen)
        self._mean, self._spread = X.mean(axis=0, dtype=np.float64), X.std(axis=0, dtype=np.float64)
        self._has_order = bool(order.any())
        own = order[rows]
        self.trust = _slope(own, target, float(order.var())) if self._has_order else 0.0
        self._late = len(rows) / (len(rows) + _EQUAL_AT) if self._has_order else 0.0
        self._own_weight = _PRIOR_WEIGHT / len(rows)
        inputs = self._inputs(X[rows], held, own)
        self._early_trees = _trees(inputs, target - self.trust * own, seed, n_trees)
        self._late_trees = _trees(inputs, target, seed, n_trees) if self._has_order else None
        self._columns, self._held, self._own = self._scaled(X[rows]), self._indicators.scaled(held), own
        self._offset = _PRIOR_SLOPE if self._has_order else 0.0
        left = target - self._offset * own
        self._level = float(left.mean())
        kernel = self._kernel(self._columns, self._held, own)
        self._weights = _ridge(kernel, left - self._level)

    def __call__(self, X: NDArray[np.float32], chosen: NDArray[Any], order: FloatArray) -> FloatArray:
        """Scores, float64 (rows,)."""
        held = self._indicators(chosen)
        inputs = self._inputs(X, held, order)
        trees = self.trust * order + self._early_trees.predict(inputs)
        if self._late_trees is not None:
            trees = (1 - self._late) * trees + self._late * self._late_trees.predict(inputs)
        return self._with_ridge(trees, X, held, order)

    def members(self, X: NDArray[np.float32], chosen: NDArray[Any], order: FloatArray) -> FloatArray:
        """Scores by every tree beside the ridge, float64 (trees, rows): their mean is the score.

        How far they spread tells where little is known.
        """
        held = self._indicators(chosen)
        inputs = self._inputs(X, held, order)
        trees = self.trust * order + _opinions(self._early_trees, inputs)
        if self._late_trees is not None:
            trees = (1 - self._late) * trees + self._late * _opinions(self._late_trees, inputs)
        return self._with_ridge(trees, X, held, order)

    def _with_ridge(
        self, trees: FloatArray, X: NDArray[np.float32], held: NDArray[np.bool_], order: FloatArray
    ) -> FloatArray:
        kernel = self._kernel(self._scaled(X), self._indicators.scaled(held), order)
        ridge = self._offset * order + self._level + kernel @ self._weights
        mean = _TREES_SHARE * trees + (1 - _TREES_SHARE) * ridge
        return np.asarray(mean + self._own_weight * self.trust * order)

    def _inputs(self, X: NDArray[np.float32], held: NDArray[np.bool_], order: FloatArray) -> NDArray[np.float32]:
        return np.column_stack([X, held, order] if self._has_order else [X, held]).astype(np.float32, copy=False)

    def _scaled(self, X: NDArray[np.float32]) -> FloatArray:
        return np.asarray((X - self._mean) / self._spread)

    def _kernel(self, columns: FloatArray, held: FloatArray, order: FloatArray) -> FloatArray:
        """Likeness of rows to the measured ones, float64 (rows, m): as columns change it falls or fades."""
        product = columns @ self._columns.T
        squares = (self._columns**2).sum(axis=1)
        distance = np.maximum((columns**2).sum(axis=1)[:, None] + squares - 2 * product, 0)
        likeness = np.exp(-distance / (2 * max(1, columns.shape[1])))
        likeness += product / (squares.mean() or 1.0)
        likeness += held @ self._held.T / ((self._held**2).sum(axis=1).mean() or 1.0)
        # Ranks in -1/2 … 1/2 have variance 1/12.
        likeness += _PRIOR_VARIANCE * 12 * np.outer(order, self._own)
        return np.asarray(likeness)


@dataclass(frozen=True, eq=False)
class _Indicator:
    attribute: int
    value: Any
    share: float


class _Indicators:
    """Which of the values that a choice takes among the measured configurations a configuration takes.

    Values that the same measured configurations take cannot be told apart, nor a value from the lack of all others: one
    of them stands for all.  Of too many the most even ones are kept.
    """

    def __init__(self, measured: NDArray[Any]) -> None:
        found: dict[bytes, _Indicator] = {}
        for attribute in np.flatnonzero((measured != measured[0]).any(axis=0)).tolist():
            for value in np.unique(measured[:, attribute]):
                takes = measured[:, attribute] == value
                found.setdefault((takes ^ takes[0]).tobytes(), _Indicator(attribute, value, float(takes.mean())))
        kept = sorted(found.values(), key=lambda one: abs(one.share - 0.5))[:_MOST_INDICATORS]
        self._attributes = np.array([one.attribute for one in kept], np.int64)
        self._values = np.array([one.value for one in kept], measured.dtype)
        self._shares = np.array([one.share for one in kept])

    def __call__(self, chosen: NDArray[Any]) -> NDArray[np.bool_]:
        """Indicators, bool (rows, indicators)."""
        return np.asarray(chosen[:, self._attributes] == self._values)

    def scaled(self, held: NDArray[np.bool_]) -> FloatArray:
        """Mean 0 and variance 1 over the measured configurations, float64 (rows, indicators)."""
        return np.asarray((held - self._shares) / np.sqrt(self._shares * (1 - self._shares)))


def choices(kind: str, block: NDArray[Any]) -> NDArray[Any]:
    """What configurations choose, as numbers that are equal where the choices are, (rows, attributes).

    For a tile its bounds.  For a layout every tensor of every node, then every node's row: a tensor comes first where
    it says the same as the row, as it carries over to rows that were not measured.
    """
    if kind == "tile":
        return block[:, _BOUNDS]
    digits = block.reshape(len(block), -1, 3, _SLOTS).astype(np.float64) - LAYOUT_RANGE[0]
    tensors = digits @ float(_BASE) ** np.arange(_SLOTS)
    rows = tensors @ float(_BASE) ** (_SLOTS * np.arange(3))
    return np.concatenate([tensors.transpose(0, 2, 1).reshape(len(block), -1), rows], axis=1)


def _trees(inputs: NDArray[np.float32], target: FloatArray, seed: int, n_trees: int) -> ExtraTreesRegressor:
    # One thread: several add up their trees in an order that changes, and with it the last digit.
    trees = ExtraTreesRegressor(
        n_trees, min_samples_leaf=_ROWS_PER_LEAF, max_features=_COLUMNS_PER_SPLIT, random_state=seed, n_jobs=1
    )
    return trees.fit(inputs, target)


def _opinions(trees: ExtraTreesRegressor, inputs: NDArray[np.float32]) -> FloatArray:
    """What every tree says, float64 (trees, rows)."""
    return np.stack([tree.tree_.predict(inputs)[:, 0] for tree in trees.estimators_])


def _ridge(kernel: FloatArray, target: FloatArray) -> FloatArray:
    """Weights of the measured rows, float64 (m,), at the ridge of least leave-one-out error.

    The error of leaving row i out is its weight over the i-th diagonal element of (K + ridge)^-1 (Rasmussen and
    Williams, "Gaussian Processes for Machine Learning", 2006, equation 5.12).
    """
    values, vectors = np.linalg.eigh(kernel)
    values = np.maximum(values, 0)
    turned = vectors.T @ target
    least, best = np.inf, np.zeros(len(target))
    for ridge in _RIDGES * np.trace(kernel) / len(target):
        inverse = 1 / (values + ridge)
        weights = vectors @ (inverse * turned)
        errors = weights / (vectors**2 @ inverse)
        if errors @ errors < least:
            least, best = float(errors @ errors), weights
    return best


def _slope(order: FloatArray, target: FloatArray, variance: float) -> float:
    """Slope of measured ranks over the order's, drawn to what is usual while they are few; not below 0."""
    centred = order - order.mean()
    usual = _PRIOR_ROWS * variance
    return max(0.0, float((centred @ target + usual * _PRIOR_SLOPE) / (centred @ centred + usual)))


def ranks(values: FloatArray) -> FloatArray:
    """Ranks, ties shared, from about -1/2 for the least to 1/2 for the greatest."""
    return np.asarray((rankdata(values) - 0.5) / len(values) - 0.5)
