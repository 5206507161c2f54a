"""Boosting that starts from a prior: a column with the expected rank of each row, from 0 (fastest) to 1.

Trees correct the square root of the prior (Friedman, "Greedy function approximation", 2001, with this start instead of
a constant): ranks of fast rows are further apart than those of slow ones, so that the trees attend to them.  Groups
count by how well the prior orders them, tau squared: what has to be corrected where it says nothing is of no use where
it says much.  With few rounds, a model is never far from its prior.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from gbr.models import lightgbm
from gbr.models.base import Model, OnRound
from gbr.models.params import Settings
from gbr.models.rows import Matrix, Rows, normalised_rank, subsample

SUFFIX: Final = ".txt"

#: Expected rank of a row without one.
_UNKNOWN: Final = 0.5
#: Weight of a group that the prior orders no better than chance, relative to one that it orders perfectly.
_LEAST_WEIGHT: Final = 1e-4
_TAU_ROWS: Final = 2000


class PriorModel(Model):
    """Relevance ``-sqrt(prior)``, corrected by trees."""

    versions: Mapping[str, str] = lightgbm.LightGBMModel.versions

    def __init__(self, column: int, gain: float, trees: lightgbm.LightGBMModel) -> None:
        self.column = column
        self.gain = gain
        self.trees = trees
        self.n_iterations = trees.n_iterations
        self.n_features = trees.n_features
        self.best_score = trees.best_score

    def predict(self, X: Matrix, n_jobs: int) -> NDArray[np.float64]:
        """Relevance, float64 (rows,)."""
        return start(X[:, self.column]) + self.trees.predict(X, n_jobs)

    def gains(self) -> NDArray[np.float64]:
        """Reduction of the squared error by the prior and by each column, float64 (n_features,)."""
        gains = self.trees.gains()
        gains[self.column] += self.gain
        return gains

    def stopped_at(self, rounds: int) -> PriorModel:
        """The model after its first ``rounds`` rounds."""
        return PriorModel(self.column, self.gain, self.trees.stopped_at(rounds))

    def compare(self, X: Matrix, first: int, second: int, n_jobs: int) -> NDArray[np.float64]:
        """Difference of the TreeSHAP values, and of the prior, float64 (n_features,)."""
        difference = self.trees.compare(X, first, second, n_jobs)
        of_first, of_second = start(X[[first, second], self.column])
        difference[self.column] += of_first - of_second
        return difference

    def to_bytes(self) -> bytes:
        """A line with the column of the prior and its gain, then the text format of LightGBM."""
        return f"prior {self.column} {self.gain!r}\n".encode() + self.trees.to_bytes()


def start(prior: NDArray[np.floating]) -> NDArray[np.float64]:
    """Relevance by the prior alone, float64 (rows,)."""
    return -np.sqrt(np.clip(np.nan_to_num(prior.astype(np.float64), nan=_UNKNOWN), 0.0, 1.0))


def fit(train: Rows, valid: Rows | None, settings: Settings, on_round: OnRound | None = None) -> PriorModel:
    """Fit the correction."""
    column = settings.prior
    assert column is not None

    def begins(X: Matrix) -> NDArray[np.float64]:
        return start(X[:, column])

    begin = np.concatenate([begins(X) for _, X in train.batches()])
    label = -np.sqrt(1.0 - normalised_rank(train.target, train.indptr).astype(np.float64))
    weight = np.repeat(_weights(begin, label, train.indptr, settings.seed), train.sizes)
    trees = lightgbm.fit(train, valid, settings, on_round, lightgbm.Labels(label, "regression", weight, begins))
    mean = np.average(label, weights=weight)
    gain = float(weight @ ((label - mean) ** 2 - (label - begin) ** 2))
    return PriorModel(column, max(0.0, gain), trees)


def _weights(
    begin: NDArray[np.float64], label: NDArray[np.float64], indptr: NDArray[np.int64], seed: int
) -> NDArray[np.float64]:
    """Weight per group, float64 (groups,)."""
    rng = np.random.default_rng(seed)
    found = []
    for first, last in pairwise(indptr.tolist()):
        rows = subsample(first, last, _TAU_ROWS, rng)
        varies = len(rows) > 1 and np.ptp(begin[rows]) > 0 and np.ptp(label[rows]) > 0
        tau = kendalltau(begin[rows], label[rows]).statistic if varies else 0.0
        found.append(max(_LEAST_WEIGHT, max(0.0, float(tau)) ** 2))
    return np.array(found)


def load(data: bytes) -> PriorModel:
    """Read the output of :meth:`PriorModel.to_bytes`; ValueError for anything else."""
    head, _, body = data.partition(b"\n")
    name, column, gain = head.decode().split(" ")
    if name != "prior":
        raise ValueError("not a model with a prior")
    trees = lightgbm.load(body)
    model = PriorModel(int(column), float(gain), trees)
    if not (0 <= model.column < trees.n_features and np.isfinite(model.gain)):
        raise ValueError(f"not a model with a prior: no column {model.column}")
    return model
