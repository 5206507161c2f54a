"""Two different regressors that rank the configurations of one graph from a few measured ones.

The choices of a configuration (the layout of a tensor, the bound of a loop) become indicators beside the engineered
features.  Randomised trees (Geurts, Ernst and Wehenkel, "Extremely randomized trees", 2006) find the few choices that
interact; kernel ridge regression adds up many small effects.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

# Before the import of scikit-learn, whose OpenMP runtime reads the variable once.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from scipy.stats import rankdata
from sklearn.ensemble import ExtraTreesRegressor

from gbr.data.graph import LAYOUT_RANGE, N_LAYOUT

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_TREES: Final = 300
_ROWS_PER_LEAF: Final = 2
_COLUMNS_PER_SPLIT: Final = 0.3
#: Weight of the trees in the mean of trees and ridge.
_TREES_SHARE: Final = 2 / 3
#: Candidates for the noise-to-signal ratio of the ridge.
_RIDGES: Final = np.logspace(-4, 1.5, 12)
#: The prior on an order is equivalent to this many measurements.
_PRIOR_ROWS: Final = 5.0
_MOST_INDICATORS: Final = 2000
#: The slots of a tensor are the digits of a number, and so are the tensors of a row; both are exact in float64.
_SLOTS: Final = N_LAYOUT // 3
_BASE: Final = LAYOUT_RANGE[1] - LAYOUT_RANGE[0] + 1
#: Columns of bounds in a tile configuration, without sums and products.
_BOUNDS: Final = tuple(8 * group + slot for group in range(3) for slot in range(6))


class Prior(NamedTuple):
    """How far an order is trusted before and beside the measurements."""

    slope: float  # of the measured ranks over the order
    variance: float  # of the order in the kernel of the ridge; columns and indicators have variance 1 per term
    equal_at: float  # measurements at which trees fitted to its residual, and with it as a column, have equal weights
    weight: float  # of the order itself in the mean, times the number of measurements


#: Of the order of a ranker, and of the estimate without training.
TRAINED: Final = Prior(slope=0.6, variance=3.0, equal_at=20.0, weight=6.0)
ESTIMATED: Final = Prior(slope=0.3, variance=0.5, equal_at=5.0, weight=2.0)


class Regressor:
    """Trees and ridge, fitted on the measured rows of one graph.

    Parameters
    ----------
    X : float32 (c, columns)
        Features of all configurations of the graph, without constant columns.
    order : float64 (c,)
        Ranks predicted by a ranker; all 0 without one.
    rows : int64 (m,)
        Measured rows.
    chosen : (m, attributes)
        :func:`choices` of the measured rows.
    target : float64 (m,)
        Ranks of their runtimes.
    seed, n_trees : int
        Trees per forest; fewer are faster and noisier.
    prior : Prior
        Trust in the order.
    """

    def __init__(
        self, X: NDArray[np.float32], order: FloatArray, rows: IntArray, chosen: NDArray[Any], target: FloatArray,
        seed: int, n_trees: int = _TREES, prior: Prior = TRAINED,
    ) -> None:  # fmt: skip
        self._prior = prior
        self._indicators = _Indicators(chosen)
        indicators, measured_order = self._indicators(chosen), order[rows]
        self._mean, self._std = X.mean(axis=0, dtype=np.float64), X.std(axis=0, dtype=np.float64)
        self._has_order = bool(order.any())
        #: Slope of the measured ranks over the order, shrunk to the prior, at least 0.
        self.trust = 0.0
        if self._has_order:
            centred, known = measured_order - measured_order.mean(), _PRIOR_ROWS * float(order.var())
            self.trust = max(0.0, float((centred @ target + known * prior.slope) / (centred @ centred + known)))
        self._late_weight = len(rows) / (len(rows) + prior.equal_at) if self._has_order else 0.0
        self._order_weight = prior.weight / len(rows)
        inputs = self._inputs(X[rows], indicators, measured_order)
        self._early_trees = _fit_trees(inputs, target - self.trust * measured_order, seed, n_trees)
        self._late_trees = _fit_trees(inputs, target, seed, n_trees) if self._has_order else None
        self._measured = (X[rows] - self._mean) / self._std, self._indicators.standardized(indicators), measured_order
        self._offset = prior.slope if self._has_order else 0.0
        residual = target - self._offset * measured_order
        self._intercept = float(residual.mean())
        self._weights = _ridge(self._kernel(*self._measured), residual - self._intercept)

    def __call__(self, X: NDArray[np.float32], chosen: NDArray[Any], order: FloatArray) -> FloatArray:
        """Scores, float64 (rows,): lower is faster."""
        return self._scores(X, chosen, order, ExtraTreesRegressor.predict)

    def members(self, X: NDArray[np.float32], chosen: NDArray[Any], order: FloatArray) -> FloatArray:
        """Scores by tree, float64 (trees, rows); their mean is the score, their spread the uncertainty."""
        return self._scores(X, chosen, order, _predict_each)

    def _scores(
        self, X: NDArray[np.float32], chosen: NDArray[Any], order: FloatArray, predict: Callable[..., FloatArray]
    ) -> FloatArray:
        indicators = self._indicators(chosen)
        inputs = self._inputs(X, indicators, order)
        trees = self.trust * order + predict(self._early_trees, inputs)
        if self._late_trees is not None:
            trees = (1 - self._late_weight) * trees + self._late_weight * predict(self._late_trees, inputs)
        kernel = self._kernel((X - self._mean) / self._std, self._indicators.standardized(indicators), order)
        ridge = self._offset * order + self._intercept + kernel @ self._weights
        mean = _TREES_SHARE * trees + (1 - _TREES_SHARE) * ridge
        return np.asarray(mean + self._order_weight * self.trust * order)

    def _inputs(self, X: NDArray[np.float32], indicators: NDArray[np.bool_], order: FloatArray) -> NDArray[np.float32]:
        return np.column_stack([X, indicators, order][: 3 if self._has_order else 2]).astype(np.float32, copy=False)

    def _kernel(self, columns: FloatArray, indicators: FloatArray, order: FloatArray) -> FloatArray:
        """Sum of a Gaussian and three linear kernels between rows and the measured rows, float64 (rows, m)."""
        measured_columns, measured_indicators, measured_order = self._measured
        product, squares = columns @ measured_columns.T, (measured_columns**2).sum(axis=1)
        distance = np.maximum((columns**2).sum(axis=1)[:, None] + squares - 2 * product, 0)
        kernel = np.exp(-distance / (2 * max(1, columns.shape[1])))
        kernel += product / (squares.mean() or 1.0)
        kernel += indicators @ measured_indicators.T / ((measured_indicators**2).sum(axis=1).mean() or 1.0)
        # Ranks in -1/2 … 1/2 have variance 1/12.
        kernel += self._prior.variance * 12 * np.outer(order, measured_order)
        return np.asarray(kernel)


class _Indicators:
    """One-hot encoding of choices, for the values that occur in the measured configurations.

    Of values that split the measured configurations identically, one is kept; if there are too many, the most balanced
    ones are kept.
    """

    def __init__(self, measured: NDArray[Any]) -> None:
        found: dict[bytes, tuple[int, Any, float]] = {}
        for attribute in np.flatnonzero((measured != measured[0]).any(axis=0)).tolist():
            for value in np.unique(measured[:, attribute]):
                has_value = measured[:, attribute] == value
                key = (has_value ^ has_value[0]).tobytes()
                found.setdefault(key, (attribute, value, float(has_value.mean())))
        kept = sorted(found.values(), key=lambda indicator: abs(indicator[2] - 0.5))[:_MOST_INDICATORS]
        attributes, values, shares = zip(*kept, strict=True) if kept else ((), (), ())
        self._attributes, self._values = np.array(attributes, np.int64), np.array(values, measured.dtype)
        self._shares = np.array(shares, np.float64)

    def __call__(self, chosen: NDArray[Any]) -> NDArray[np.bool_]:
        """Indicators, bool (rows, indicators)."""
        return np.asarray(chosen[:, self._attributes] == self._values)

    def standardized(self, indicators: NDArray[np.bool_]) -> FloatArray:
        """Indicators with mean 0 and variance 1 over the measured configurations, float64 (rows, indicators)."""
        return np.asarray((indicators - self._shares) / np.sqrt(self._shares * (1 - self._shares)))


def choices(kind: str, block: NDArray[Any]) -> NDArray[Any]:
    """Choices of configurations as numbers, (rows, attributes); equal choices have equal numbers.

    The choices of a tile are its bounds.  Those of a layout are all tensors of all nodes, then the rows of all nodes.
    If a tensor and a row split the configurations identically, the tensor, which comes first, is kept, as it
    generalises to rows that were not measured.
    """
    if kind == "tile":
        return block[:, _BOUNDS]
    digits = block.reshape(len(block), -1, 3, _SLOTS).astype(np.float64) - LAYOUT_RANGE[0]
    tensors = digits @ float(_BASE) ** np.arange(_SLOTS)
    rows = tensors @ float(_BASE) ** (_SLOTS * np.arange(3))
    return np.concatenate([tensors.transpose(0, 2, 1).reshape(len(block), -1), rows], axis=1)


def ranks(values: FloatArray) -> FloatArray:
    """Ranks with ties averaged, from about -1/2 for the smallest value to 1/2 for the largest."""
    return np.asarray((rankdata(values) - 0.5) / len(values) - 0.5)


def _fit_trees(inputs: NDArray[np.float32], target: FloatArray, seed: int, n_trees: int) -> ExtraTreesRegressor:
    # One thread, as several would add the trees in varying order, which changes the last digit.
    trees = ExtraTreesRegressor(
        n_trees, min_samples_leaf=_ROWS_PER_LEAF, max_features=_COLUMNS_PER_SPLIT, random_state=seed, n_jobs=1
    )
    return trees.fit(inputs, target)


def _predict_each(trees: ExtraTreesRegressor, inputs: NDArray[np.float32]) -> FloatArray:
    """Prediction of every tree, float64 (trees, rows)."""
    return np.stack([tree.tree_.predict(inputs)[:, 0] for tree in trees.estimators_])


def _ridge(kernel: FloatArray, target: FloatArray) -> FloatArray:
    """Weights of the measured rows, float64 (m,), for the ridge with the smallest leave-one-out error.

    The leave-one-out error of row i is its weight over the i-th diagonal element of (K + ridge)^-1 (Rasmussen and
    Williams, "Gaussian Processes for Machine Learning", 2006, equation 5.12).
    """
    values, vectors = np.linalg.eigh(kernel)
    values = np.maximum(values, 0)
    projected = vectors.T @ target
    least, best = np.inf, np.zeros(len(target))
    for ridge in _RIDGES * np.trace(kernel) / len(target):
        inverse = 1 / (values + ridge)
        weights = vectors @ (inverse * projected)
        errors = weights / (vectors**2 @ inverse)
        if errors @ errors < least:
            least, best = float(errors @ errors), weights
    return best
