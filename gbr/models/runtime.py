"""Runtimes themselves, not only their order: boosting of log2 runtime from a simple start, with intervals.

The start extrapolates to programs and devices that were never seen, as trees cannot: a sum of amounts (operations,
bytes over bandwidth) with non-negative prices, fitted to relative errors, a ridge regression on logarithms of the
columns, or the one corrected by the other.  Held-out folds choose.  Their residuals give the intervals: split conformal
prediction by group (Lee, Barber and Willett, "Distribution-free inference with hierarchical data", 2023), where each
fold counts alike.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares, nnls

from gbr.errors import UsageError
from gbr.models import lightgbm
from gbr.models.base import Model, OnRound
from gbr.models.costmodel import amounts
from gbr.models.params import COVERAGE, Settings
from gbr.models.rows import Matrix, Rows, held_out_folds

SUFFIX: Final = ".txt"

FloatArray = NDArray[np.float64]

#: Starts that are tried: with amounts, with a line.
_STARTS: Final = ((True, False), (False, True), (True, True), (False, False))
_FOLDS: Final = 10
#: Rows that choose the start and give the residuals, at most.
_MOST_ROWS: Final = 20_000
#: Penalty of the ridge regression on standardised columns, which are cut at so many deviations.
_PENALTY: Final = 100.0
_FURTHEST: Final = 4.0
_LEAST: Final = 1e-30
#: Levels at which the quantiles of the residuals are kept.
_LEVELS: Final = np.linspace(0.0, 1.0, 201)


class RuntimeModel(Model):
    """Relevance ``-log2(runtime)``.

    Parameters
    ----------
    prices : dict of int to float
        Price per unit of the columns of log2(1 + amount); empty without them.
    line : float64 (n_features, 3) or None
        Mean, scale and weight of the signed logarithm of each column.
    offset : float
        Of the line.
    trees : LightGBMModel
        What has to be added to the start.
    quantiles : float64 (201,)
        Quantiles of the absolute residuals of held-out folds, in log2.
    folds : int
        Groups of rows that gave the residuals.
    """

    versions: Mapping[str, str] = lightgbm.LightGBMModel.versions

    def __init__(
        self, prices: Mapping[int, float], line: FloatArray | None, offset: float, trees: lightgbm.LightGBMModel,
        quantiles: FloatArray, folds: int,
    ) -> None:  # fmt: skip
        self.prices, self.line, self.offset, self.trees = dict(prices), line, offset, trees
        self.quantiles, self.folds = quantiles, folds
        self.n_iterations, self.n_features, self.best_score = trees.n_iterations, trees.n_features, trees.best_score

    def predict(self, X: Matrix, n_jobs: int) -> FloatArray:
        """Relevance, float64 (rows,)."""
        return -(_start(self.prices, self.line, self.offset, X) + self.trees.predict(X, n_jobs))

    def factor(self, coverage: float = COVERAGE) -> float:
        """Factor by which runtimes of a new fold are at most higher or lower than predicted, in a share of the cases.

        The finite-sample level is (1 + 1 / folds) * coverage; where it is above 1, the folds are too few to guarantee
        anything, and the quantile of the residuals at hand is taken.
        """
        level = coverage * (1 + 1 / self.folds) if self.folds else coverage
        return float(2 ** np.interp(level if level < 1 else coverage, _LEVELS, self.quantiles))

    def gains(self) -> FloatArray:
        """Gain of the trees, and a share of it for each column of the start, float64 (n_features,)."""
        gains = self.trees.gains()
        scale = max(gains.sum(), 1.0)
        if self.line is not None and (total := np.abs(self.line[:, 2]).sum()):
            gains = gains + scale * np.abs(self.line[:, 2]) / total
        for column in self.prices:
            gains[column] += scale / len(self.prices)
        return gains

    def stopped_at(self, rounds: int) -> RuntimeModel:
        """The model after its first ``rounds`` rounds."""
        trees = self.trees.stopped_at(rounds)
        return RuntimeModel(self.prices, self.line, self.offset, trees, self.quantiles, self.folds)

    def compare(self, X: Matrix, first: int, second: int, n_jobs: int) -> FloatArray:
        """Difference of the TreeSHAP values, and of the terms of the start, float64 (n_features,)."""
        difference = -self.trees.compare(X, first, second, n_jobs)
        pair = X[[first, second]]
        if self.prices:
            parts = _parts(self.prices, pair)
            total = np.maximum(parts.sum(axis=1), _LEAST)
            change, logs = total[0] - total[1], np.log2(total[0] / total[1])
            if change:
                difference[list(self.prices)] -= (parts[0] - parts[1]) * logs / change
        if self.line is not None:
            terms = line_terms(self.line, pair)
            difference -= terms[0] - terms[1]
        return difference

    def to_bytes(self) -> bytes:
        """A line of JSON, then the text format of LightGBM."""
        head = {
            "runtime": 1,
            "prices": {str(column): price for column, price in self.prices.items()},
            "line": None if self.line is None else self.line.tolist(),
            "offset": self.offset,
            "quantiles": self.quantiles.tolist(),
            "folds": self.folds,
        }
        return json.dumps(head).encode() + b"\n" + self.trees.to_bytes()


def fit(
    train: Rows, valid: Rows | None, settings: Settings, on_round: OnRound | None = None, folds: Any = None
) -> RuntimeModel:
    """Fit the start and the trees, which are not stopped early.

    ``folds`` has a label per row, such as its device or family: rows of one label are held out together.  By default
    these are the query groups.
    """
    X = train.matrix
    if folds is None:
        folds = np.repeat(np.arange(len(train.sizes)), train.sizes)
    known = np.isfinite(train.target)
    if (np.asarray(train.target)[known] <= 0).any():
        raise UsageError("y: expected positive runtimes for the objective runtime")
    X, target = X[known], np.log2(np.asarray(train.target, np.float64)[known])
    fold = np.unique(np.asarray(folds)[known], return_inverse=True)[1]
    rng = np.random.default_rng(settings.seed)
    some = np.sort(rng.permutation(len(X))[:_MOST_ROWS])
    starts = [start for start in _STARTS if settings.costs or not start[0]]
    errors = [_held_out(X[some], target[some], fold[some], settings, *start) for start in starts]
    count = np.bincount(fold[some])[fold[some]]
    weight = 1.0 / count
    best = int(np.argmin([np.average(np.abs(error), weights=weight) for error in errors]))
    quantiles = np.quantile(np.abs(errors[best]), _LEVELS, weights=weight, method="inverted_cdf")
    model = _fit(X, target, settings, *starts[best], on_round)
    model.quantiles, model.folds = quantiles, int(fold.max()) + 1
    return model


def _held_out(
    X: Matrix, target: FloatArray, fold: NDArray[Any], settings: Settings, has_prices: bool, has_line: bool
) -> FloatArray:
    """Errors of models of the other folds, float64 (rows,)."""
    errors = np.empty(len(X))
    for kept, out in held_out_folds(fold, _FOLDS):
        model = _fit(X[kept], target[kept], settings, has_prices, has_line)
        errors[out] = -model.predict(X[out], settings.n_jobs) - target[out]
    return errors


def _fit(
    X: Matrix, target: FloatArray, settings: Settings, has_prices: bool, has_line: bool, on_round: OnRound | None = None
) -> RuntimeModel:
    prices, line, residual = {}, None, target
    if has_prices:
        columns = np.asarray(settings.costs, np.int64)
        values = fit_prices(amounts(X, columns), target)
        prices = {int(column): float(price) for column, price in zip(columns, values, strict=True) if price}
        residual = target - np.log2(np.maximum(amounts(X, columns) @ values, _LEAST))
    offset = float(residual.mean())
    if has_line:
        line = fit_line(X, residual - offset, _PENALTY, settings.costs)
    rows = Rows(X, np.arange(len(X)), np.array([0, len(X)]))
    begins = partial(_start, prices, line, offset)
    labels = lightgbm.Labels(target, "regression", None, begins)
    trees = lightgbm.fit(rows, None, settings, on_round, labels)
    return RuntimeModel(prices, line, offset, trees, np.zeros(len(_LEVELS)), 0)


def _start(prices: Mapping[int, float], line: FloatArray | None, offset: float, X: Matrix) -> FloatArray:
    """Log2 runtime before the first tree, float64 (rows,)."""
    found = np.full(len(X), offset)
    if prices:
        found += np.log2(np.maximum(_parts(prices, X).sum(axis=1), _LEAST))
    return found if line is None else found + line_terms(line, X).sum(axis=1)


def _parts(prices: Mapping[int, float], X: Matrix) -> FloatArray:
    """Runtime by amount, float64 (rows, prices)."""
    columns = np.array(list(prices), np.int64)
    return np.asarray(amounts(X, columns) * np.array(list(prices.values())))


def line_terms(line: FloatArray, X: Matrix) -> FloatArray:
    """Log2 runtime by column, float64 (rows, n_features)."""
    mean, scale, weight = line.T
    standard = np.clip((_logs(X) - mean) / scale, -_FURTHEST, _FURTHEST)
    return np.asarray(np.nan_to_num(standard) * weight)


def fit_prices(found: FloatArray, target: FloatArray) -> FloatArray:
    """Non-negative prices, float64 (amounts,): least squares of relative errors, then of those of the logarithm."""
    scale = found.max(axis=0, initial=0.0)
    scale[scale == 0] = np.inf
    prices, _ = nnls(found / scale / np.exp2(target)[:, None], np.ones(len(target)))
    prices = np.where(np.isinf(scale), 0.0, prices / scale)
    used = np.flatnonzero(prices > 0)
    if not len(used):
        return prices

    def errors(logs: FloatArray) -> FloatArray:
        return np.asarray(np.log2(np.maximum(found[:, used] @ np.exp(logs), _LEAST)) - target)

    prices[used] = np.exp(least_squares(errors, np.log(prices[used]), loss="soft_l1").x)
    return np.asarray(prices)


def fit_line(X: Matrix, target: FloatArray, penalty: float, without: Sequence[int] = ()) -> FloatArray:
    """Ridge regression of a centred target on signed logarithms of columns, as :class:`RuntimeModel` takes it."""
    logs = _logs(X)
    known = np.isfinite(logs)
    count = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, logs, 0.0).sum(axis=0) / count
    scale = np.sqrt(np.where(known, (logs - mean) ** 2, 0.0).sum(axis=0) / count)
    constant = scale < 1e-9
    scale[constant] = 1.0
    standard = np.clip(np.nan_to_num((logs - mean) / scale), -_FURTHEST, _FURTHEST)
    standard[:, constant] = 0.0
    standard[:, list(without)] = 0.0
    gram = standard.T @ standard + penalty * np.eye(X.shape[1])
    return np.column_stack([mean, scale, np.linalg.solve(gram, standard.T @ target)])


def _logs(X: Matrix) -> FloatArray:
    """log2(1 + |x|) with the sign of x."""
    values = X.astype(np.float64)
    return np.asarray(np.sign(values) * np.log2(1 + np.abs(values)))


def load(data: bytes) -> RuntimeModel:
    """Read the output of :meth:`RuntimeModel.to_bytes`; ValueError for anything else."""
    head, _, body = data.partition(b"\n")
    trees = lightgbm.load(body)
    try:
        about = json.loads(head)
        prices = {int(column): float(price) for column, price in about["prices"].items()}
        line = None if about["line"] is None else np.array(about["line"], np.float64)
        quantiles = np.array(about["quantiles"], np.float64)
        model = RuntimeModel(prices, line, float(about["offset"]), trees, quantiles, int(about["folds"]))
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"not a model of runtimes ({error})") from error
    valid = (line is None or line.shape == (trees.n_features, 3)) and quantiles.shape == _LEVELS.shape
    if not valid or not all(0 <= column < trees.n_features for column in prices):
        raise ValueError("not a model of runtimes: numbers do not fit the columns")
    return model
