"""Runtimes of one group of a table from a few measured ones and from what is known of other groups.

The runtime of a configuration is a multiple of a prior, which is the order of a model or the runtime in another group,
plus a Gaussian process over configurations.  Priors, their slopes, kernels and amplitudes are averaged by their
marginal likelihood (MacKay, "Information Theory, Inference, and Learning Algorithms", 2003, chapter 28), so that
measurements tell which of the other groups this one is like.  One kernel is learnt: configurations are similar if they
are in the same leaves of randomised trees that predict the runtimes in all other groups.
"""

from __future__ import annotations

import os
from copy import copy
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

# Before the import of scikit-learn, whose OpenMP runtime reads the variable once.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from scipy.special import ndtr, softmax
from sklearn.ensemble import ExtraTreesRegressor
from threadpoolctl import threadpool_limits

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_TREES: Final = 60
_ROWS_PER_LEAF: Final = 5
_COLUMNS_PER_SPLIT: Final = 0.3
#: Configurations on which the trees are fitted.
_TREE_ROWS: Final = 2000
#: Weight of the differences between other groups, relative to their runtimes, in the splits of the trees.
_DIFFERENCES: Final = 3.0
#: Decay of the similarity per parameter that differs.
_DECAYS: Final = (0.3, 1.0)
#: Squared length scale of numbers, relative to their mean squared spread.
_LENGTH: Final = 0.3
_SLOPES: Final = (0.25, 0.5, 0.75, 1.0)
#: Amplitudes of the process relative to the variance of the noise.
_AMPLITUDES: Final = (0.3, 1.0, 3.0, 10.0)
#: Log odds of the first prior against all others together.
_FIRST_PRIOR: Final = 1.0
#: Variance of the noise relative to the spread of the priors, known as well as by so many measurements.
_NOISE: Final = 1e-3
_NOISE_ROWS: Final = 1.0
#: Kernels of less weight have no part in the variance.
_LEAST_WEIGHT: Final = 0.02
#: With more products, only so many configurations, the fastest, have a variance.
_MOST_PRODUCTS: Final = 300_000_000
_FASTEST: Final = 4096
#: The predicted chance to fail is equivalent to this many equal configurations.
_CHANCE_ROWS: Final = 1.0


class Transfer:
    """What is known of the configurations of a group before any is measured.

    Parameters
    ----------
    choices : int (c, parameters)
        Code of the value of each parameter.
    X : float32 (c, columns)
        Columns that describe configurations, without missing values.
    others : float64 (groups, c)
        Runtimes in other groups, on a scale whose differences have a meaning, such as logarithms or ranks.
    prior : float64 (c,), optional
        Runtimes that a model predicts, on the same scale.
    chance : float64 (c,), optional
        Predicted chance to fail.
    seed : int
        Seed of the trees.
    """

    def __init__(
        self,
        choices: NDArray[Any],
        X: NDArray[np.float32],
        others: FloatArray,
        prior: FloatArray | None = None,
        chance: FloatArray | None = None,
        seed: int = 0,
    ) -> None:
        self._choices = choices.astype(np.int16)
        self._priors = np.vstack([others[:0] if prior is None else prior[None], others])
        log_odds = np.full(len(self._priors), -np.log(max(1, len(others))))
        if prior is not None:
            log_odds[1:] -= _FIRST_PRIOR
            log_odds[0] = 0.0
        #: Prior and slope of each mean, and its log odds; the last mean is constant.
        self._means = [(at, slope) for at in range(len(self._priors)) for slope in _SLOPES] + [(-1, 0.0)]
        self._log_odds = np.array([log_odds[at] if at >= 0 else 0.0 for at, _ in self._means])
        self._floor = _NOISE * float(self._priors.var(axis=1).mean()) if len(self._priors) else 0.0
        self._leaves = _leaves(X, others, seed) if len(others) else None
        spread = X.std(axis=0, dtype=np.float64)
        self._points = ((X - X.mean(axis=0, dtype=np.float64)) / np.where(spread > 0, spread, 1.0)).astype(np.float32)
        #: The prior, or without one the mean of the other groups.
        self.prior = self._priors[0] if prior is not None else self._priors.sum(axis=0) / max(1, len(others))
        self._chance = np.zeros(len(choices)) if chance is None else chance
        self._columns: dict[int, tuple[NDArray[np.float32], ...]] = {}

    def fresh(self) -> Transfer:
        """The same, without what it has kept of measured configurations."""
        found = copy(self)
        found._columns = {}
        return found

    def predict(self, rows: IntArray, target: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation of the runtime of every configuration, float64 (c,) each.

        With many measurements, the standard deviation of configurations that are predicted to be slow is 0.

        Parameters
        ----------
        rows : int64 (m,)
            Measured configurations, at least two.
        target : float64 (m,)
            Their runtimes, on the scale of the priors up to a factor and a constant.
        """
        with threadpool_limits(limits=1, user_api="blas"):  # more cost more than they save on these sizes
            return self._predict(rows, target)

    def _predict(self, rows: IntArray, target: FloatArray) -> tuple[FloatArray, FloatArray]:
        m, n_means = len(rows), len(self._means)
        means = np.array([self._priors[at][rows] * slope if at >= 0 else np.zeros(m) for at, slope in self._means])
        residual = target - means
        offsets = residual.mean(axis=1)
        residual = residual - offsets[:, None]
        floor = self._floor or _NOISE * float(target.var())
        kernels = [np.array(each) for each in zip(*map(self._similar, rows.tolist()), strict=True)]
        log_odds = np.empty((len(kernels), len(_AMPLITUDES), n_means))
        bases = []
        for number, similar in enumerate(kernels):
            at_rows = similar[:, rows].astype(np.float64)
            centred = at_rows - at_rows.mean(axis=0)
            values, vectors = np.linalg.eigh(centred - centred.mean(axis=1, keepdims=True))
            values, vectors = np.maximum(values[1:], 0), vectors[:, 1:]  # without the constant
            if abs(vectors.sum(axis=0)).max() > 1e-6:  # eigenvalues of 0 share a space with the constant
                vectors = vectors - vectors.mean(axis=0)
            projected = residual @ vectors
            bases.append((values, vectors, projected))
            for index, amplitude in enumerate(_AMPLITUDES):
                scale = amplitude * values + 1
                squares = (projected**2 / scale).sum(axis=1) + _NOISE_ROWS * floor
                log_odds[number, index] = -0.5 * (
                    (m - 1 + _NOISE_ROWS) * np.log(squares + 1e-300) + np.log(scale).sum()
                )
        weights = softmax(log_odds + self._log_odds)

        found = np.zeros(len(self._choices))
        for (at, slope), weight in zip(self._means, weights.sum(axis=(0, 1)).tolist(), strict=True):
            if at >= 0 and weight > 0:
                found += weight * slope * self._priors[at]
        constant = float(weights.sum(axis=(0, 1)) @ offsets)
        noises, amplitudes = np.zeros(len(kernels)), np.zeros(len(kernels))
        for number, (similar, (values, vectors, projected)) in enumerate(zip(kernels, bases, strict=True)):
            coefficients = np.zeros(m)
            for index, amplitude in enumerate(_AMPLITUDES):
                scale = amplitude * values + 1
                weight = weights[number, index]
                coefficients += vectors @ (amplitude * (weight @ projected) / scale)
                squares = (projected**2 / scale).sum(axis=1) + _NOISE_ROWS * floor
                noises[number] += float(weight @ squares) / (m - 1 + _NOISE_ROWS)
            step = (coefficients @ similar).astype(np.float64)
            found += step
            constant -= step[rows].mean()
            if weights[number].sum() > _LEAST_WEIGHT:
                amplitudes[number] = _AMPLITUDES[int(weights[number].sum(axis=1).argmax())]

        variance = np.zeros(len(found))
        kept: slice | IntArray = slice(None)
        if m * m * len(found) > _MOST_PRODUCTS:
            kept = np.argpartition(found, min(_FASTEST, len(found) - 1))[:_FASTEST]
        for similar, (values, vectors, _), amplitude, noise in zip(kernels, bases, amplitudes, noises, strict=True):
            if amplitude:
                centre = similar[:, rows].mean(axis=1)  # the constant is known, as of all measured rows together
                some = similar[:, kept]
                alone = 1 - 2 * some.mean(axis=0) + centre.mean()
                reduced = (vectors / np.sqrt(values + 1 / amplitude)).T.astype(np.float32) @ (some - centre[:, None])
                variance[kept] += amplitude * noise * np.maximum(0.0, alone - (reduced**2).sum(axis=0))
        return found + constant, np.sqrt(variance)

    def chance(self, rows: IntArray, failed: NDArray[np.bool_]) -> FloatArray:
        """Chance to fail of every configuration after ``rows`` failed or not, float64 (c,)."""
        total, fails = np.full(len(self._chance), _CHANCE_ROWS), _CHANCE_ROWS * self._chance
        for row, fail in zip(rows.tolist(), failed.tolist(), strict=True):
            similar = self._similar(row)[-1]
            total = total + similar
            fails = fails + similar * fail
        return np.asarray(fails / total)

    def _similar(self, row: int) -> tuple[NDArray[np.float32], ...]:
        """Similarity of every configuration to one, from 0 to 1, by kernel, float32 (c,) each."""
        if row not in self._columns:
            differ = (self._choices != self._choices[row]).sum(axis=1)
            table = np.exp(-np.outer(_DECAYS, np.arange(self._choices.shape[1] + 1))).astype(np.float32)
            squares = ((self._points - self._points[row]) ** 2).mean(axis=1)
            found = [*table[:, differ], np.exp(-squares / (2 * _LENGTH))]
            if self._leaves is not None:
                found.append((self._leaves == self._leaves[row]).mean(axis=1, dtype=np.float32))
            self._columns[row] = tuple(found)
        return self._columns[row]


def improvement(mean: FloatArray, deviation: FloatArray, least: float) -> FloatArray:
    """Expected amount by which a runtime is below ``least``, float64 (c,)."""
    deviation = np.maximum(deviation, 1e-12)
    z = (least - mean) / deviation
    return np.asarray(deviation * (z * ndtr(z) + np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)))


def _leaves(X: NDArray[np.float32], others: FloatArray, seed: int) -> NDArray[np.int16]:
    """Leaf of every configuration in each tree, int16 (c, trees)."""
    rows = np.random.default_rng(seed).permutation(len(X))[:_TREE_ROWS]
    targets = np.vstack([others, _DIFFERENCES * (others - others.mean(axis=0))] if len(others) > 1 else [others])
    trees = ExtraTreesRegressor(
        _TREES, min_samples_leaf=_ROWS_PER_LEAF, max_features=_COLUMNS_PER_SPLIT, random_state=seed, n_jobs=1
    )
    return np.asarray(trees.fit(X[rows], targets[:, rows].T).apply(X), np.int16)
