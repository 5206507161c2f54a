"""A non-negative cost model: time is a sum of amounts (bytes copied, lines missed, loops started), each with a price.

Prices are non-negative least squares (Lawson and Hanson, 1974) over groups that are each centred and scaled, so
that time that is the same for all configurations cancels.  With a few dozen parameters and no interactions it
generalises where there are too few training programs for trees.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise
from typing import Final

import numpy as np
import scipy
from numpy.typing import NDArray
from scipy.optimize import nnls

from gbr.errors import UsageError
from gbr.models.base import Model, OnRound
from gbr.models.params import Settings
from gbr.models.rows import Matrix, Rows, subsample
from gbr.models.stopping import ValidTau

SUFFIX: Final = ".json"

#: Maximum number of rows used per group; more rows of a program add little.
_ROWS_PER_GROUP: Final = 1000
#: Rows slower than this quantile of their group are skipped, as they would dominate the least squares.
_QUANTILE: Final = 0.97
#: Maximum of log2 of an amount, which limits rounding errors of the sum.
_LARGEST: Final = 60.0


class CostModel(Model):
    """Price per unit of the amounts whose log2(1 + amount) is in ``columns``."""

    n_iterations = 1
    versions: Mapping[str, str] = {"scipy": scipy.__version__}

    def __init__(self, columns: NDArray[np.int64], prices: NDArray[np.float64], n_features: int) -> None:
        self.columns = columns
        self.prices = prices
        self.n_features = n_features

    def predict(self, X: Matrix, n_jobs: int) -> NDArray[np.float64]:
        """Relevance, float64 (rows,): the negative cost."""
        # Not a matrix product, whose rounding depends on the position of a row: equal rows must have equal scores.
        return np.asarray(-(amounts(X, self.columns) * self.prices).sum(axis=1))

    def gains(self) -> NDArray[np.float64]:
        """Price per amount, float64 (n_features,); comparable only between amounts of the same unit."""
        return self._by_column(self.prices)

    def stopped_at(self, rounds: int) -> CostModel:
        """The model itself, as it has one round."""
        return self

    def compare(self, X: Matrix, first: int, second: int, n_jobs: int) -> NDArray[np.float64]:
        """Price times the difference of the amounts, float64 (n_features,)."""
        first_amounts, second_amounts = amounts(X[[first, second]], self.columns)
        return self._by_column(self.prices * (second_amounts - first_amounts))

    def _by_column(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        found = np.zeros(self.n_features)
        found[self.columns] = values
        return found

    def to_bytes(self) -> bytes:
        """The prices as JSON."""
        prices = dict(zip(map(str, self.columns.tolist()), self.prices.tolist(), strict=True))
        return json.dumps({"costmodel": 1, "features": self.n_features, "prices": prices}, indent=1).encode()


def amounts(X: Matrix, columns: NDArray[np.int64]) -> NDArray[np.float64]:
    """Amounts of columns of log2(1 + amount), float64 (rows, columns); missing values are 0."""
    logs = np.clip(np.nan_to_num(X[:, columns].astype(np.float64), nan=0.0), 0.0, _LARGEST)
    return np.asarray(np.exp2(logs) - 1.0)


def fit(train: Rows, valid: Rows | None, settings: Settings, on_round: OnRound | None = None) -> CostModel:
    """Fit the prices."""
    if settings.params:
        raise UsageError(f"params: the cost model has none, got {', '.join(map(repr, settings.params))}")
    columns = np.asarray(settings.costs, np.int64)
    if not len(columns):
        raise UsageError("costs: the cost model needs columns that are log2 of amounts; name them with Ranker(costs=…)")
    rng = np.random.default_rng(settings.seed)
    terms, times = [], []
    for start, stop in pairwise(train.indptr.tolist()):
        rows = subsample(start, stop, _ROWS_PER_GROUP, rng)
        target = train.target[rows].astype(np.float64)
        rows, target = rows[kept := target <= np.quantile(target, _QUANTILE)], target[kept]
        if len(rows) < 2 or not (spread := target.std()):
            continue
        group = amounts(train.X[rows], columns)
        terms.append((group - group.mean(axis=0)) / spread)
        times.append((target - target.mean()) / spread)
    if not terms:
        raise UsageError(f"y: expected two different runtimes below the {_QUANTILE} quantile of a query group")
    design = np.concatenate(terms)
    scale = design.std(axis=0)
    scale[scale == 0] = np.inf
    prices, _residual = nnls(design / scale, np.concatenate(times))
    model = CostModel(columns, prices / scale, train.X.shape[1])
    if valid is not None:
        model.best_score = ValidTau(valid, settings.seed).of(model, settings.n_jobs)
    return model


def load(data: bytes) -> CostModel:
    """Read the prices; ValueError for anything else."""
    try:
        content = json.loads(data)
        columns = np.array(list(map(int, content["prices"])), np.int64)
        prices = np.array(list(map(float, content["prices"].values())))
        n_features = content["features"]
        valid = content["costmodel"] == 1 and ((columns >= 0) & (columns < n_features) & (prices >= 0)).all()
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"not a cost model ({error})") from error
    if not valid:
        raise ValueError("not a cost model: expected non-negative prices of existing columns")
    return CostModel(columns, prices, n_features)
