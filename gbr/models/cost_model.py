"""A non-negative cost model: time is a sum of amounts (bytes copied, lines missed, loops begun), each at its own price.

Prices are least squares under the constraint that none is negative (Lawson and Hanson, 1974), over slates that were
centred and scaled by themselves: the part of a program's time that no configuration changes drops out.  With a few
dozen parameters and nothing to interact it holds on where training programs are too few for trees.
"""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any, Final

import numpy as np
import scipy
from numpy.typing import NDArray
from scipy.optimize import nnls

from gbr.data.files import parse_json
from gbr.errors import UsageError
from gbr.models.base import Rows, ValidTau
from gbr.models.checks import Matrix
from gbr.models.forest import MAX_COLUMNS
from gbr.models.params import Settings
from gbr.models.sampling import some_rows

SUFFIX: Final = ".json"

#: Rows of a slate that take part; more of one program tell little more.
_ROWS_PER_SLATE: Final = 1000
#: Rows slower than this share of their slate are left out: least squares would be about them alone.
_KEPT: Final = 0.97
#: log2 of the largest amount; beyond it float64 loses the sum.
_LARGEST: Final = 60.0
#: No price of a fit comes near it; sums stay finite.
_HIGHEST: Final = 1e100


class CostModel:
    """Prices per unit of every amount.

    Parameters
    ----------
    columns : int64 (terms,)
        Places of the columns, each log2(1 + amount).
    prices : float64 (terms,)
    n_features : int
    """

    n_iterations = 1
    versions: Final = {"scipy": scipy.__version__}

    def __init__(
        self, columns: NDArray[np.int64], prices: NDArray[np.float64], n_features: int, best_score: float | None
    ) -> None:
        self.columns = columns
        self.prices = prices
        self.n_features = n_features
        self.best_score = best_score

    def predict(self, X: Matrix, n_jobs: int, indptr: NDArray[np.int64]) -> NDArray[np.float64]:
        """Relevance, float64 (rows,): the cost, negative."""
        # Row by row: a product of matrix and vector rounds by where a row stands, and equal rows are to tie.
        return np.asarray(-(amounts(X, self.columns) * self.prices).sum(axis=1))

    def gains(self) -> NDArray[np.float64]:
        """Price per amount, float64 (n_features,): comparable for amounts of one unit only."""
        gains = np.zeros(self.n_features)
        gains[self.columns] = self.prices
        return gains

    def stopped_at(self, rounds: int) -> CostModel:
        """The model itself: it has one round."""
        return self

    def compare(self, X: Matrix, first: int, second: int, n_jobs: int) -> NDArray[np.float64]:
        """Price times what the second row has more of, float64 (n_features,); see :class:`.backend.Model`."""
        own, other = amounts(X[[first, second]], self.columns)
        saved = np.zeros(self.n_features)
        saved[self.columns] = self.prices * (other - own)
        return saved

    def to_bytes(self) -> bytes:
        """Give the prices as JSON."""
        prices = {str(column): price for column, price in zip(self.columns.tolist(), self.prices.tolist(), strict=True)}
        return json.dumps({"costmodel": 1, "features": self.n_features, "prices": prices}, indent=1).encode()


def amounts(X: Matrix, columns: NDArray[np.int64]) -> NDArray[np.float64]:
    """Amounts behind columns of log2(1 + amount), float64 (rows, columns); a missing one is 0."""
    logs = np.clip(np.nan_to_num(X[:, columns].astype(np.float64), nan=0.0), 0.0, _LARGEST)
    return np.asarray(np.exp2(logs) - 1.0)


def fit(train: Rows, valid: Rows | None, settings: Settings) -> CostModel:
    """Find the prices; see :class:`gbr.models.base.Backend`."""
    if settings.params:
        raise UsageError(f"params: the cost model has none, got {', '.join(map(repr, settings.params))}")
    columns = np.asarray(settings.costs, np.int64)
    if not len(columns):
        raise UsageError("costs: the cost model needs columns that are log2 of amounts; name them with Ranker(costs=…)")
    rng = np.random.default_rng(settings.seed)
    terms, times = [], []
    for start, stop in pairwise(train.indptr.tolist()):
        rows = some_rows(start, stop, _ROWS_PER_SLATE, rng)
        target = train.target[rows].astype(np.float64)
        rows, target = rows[kept := target <= np.quantile(target, _KEPT)], target[kept]
        if len(rows) < 2 or not (spread := target.std()):
            continue
        slate = amounts(train.X[rows], columns)
        terms.append((slate - slate.mean(axis=0)) / spread)
        times.append((target - target.mean()) / spread)
    if not terms:
        raise UsageError("runtime: no query has two different runtimes below its slowest rows; there is no cost to fit")
    design = np.concatenate(terms)
    scale = design.std(axis=0)
    scale[scale == 0] = np.inf
    prices, _residual = nnls(design / scale, np.concatenate(times))
    model = CostModel(columns, prices / scale, train.X.shape[1], None)
    if valid is not None:
        model.best_score = ValidTau(valid, settings.seed).of(model, settings.n_jobs)
    return model


def load(data: bytes, settings: Settings) -> CostModel:
    """Read the prices; ValueError for anything else."""
    try:
        about: dict[str, Any] = parse_json(data)
        if about["costmodel"] != 1:
            raise ValueError(f"cost model of format {about['costmodel']!r}")
        n_features = about["features"]
        columns = np.array([int(column) for column in about["prices"]], np.int64)
        prices = np.array([float(price) for price in about["prices"].values()])
    except (KeyError, TypeError, AttributeError, OverflowError) as fault:
        raise ValueError(f"no cost model ({fault})") from fault
    if (
        type(n_features) is not int
        or not 0 < n_features <= MAX_COLUMNS
        or ((columns < 0) | (columns >= n_features)).any()
    ):
        raise ValueError("a cost model with columns beyond its features")
    if not ((prices >= 0) & (prices <= _HIGHEST)).all():
        raise ValueError("a cost model with prices that are negative, beyond all costs or no numbers")
    return CostModel(columns, prices, n_features, None)
