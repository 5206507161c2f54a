"""Chance that a configuration fails: boosted trees, calibrated on left-out groups, which demote it in the order."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from gbr.errors import UsageError
from gbr.models import lightgbm
from gbr.models.base import Model, backend, spreads
from gbr.models.params import Settings
from gbr.models.rows import Matrix, Rows, held_out_folds

FloatArray = NDArray[np.float64]

#: Trees, and their leaves; a chance needs fewer than an order.
_ROUNDS: Final = 100
_LEAVES: Final = 15
_RATE: Final = 0.1
_FOLDS: Final = 5
#: Largest chance whose logarithm demotes; a configuration that surely fails goes below all others.
_MOST_CHANCE: Final = 1 - 1e-6


class WithFailures(Model):
    """An order, with the chance to fail: relevance + spread * log(1 - chance).

    Parameters
    ----------
    order : Model
    trees : LightGBMModel
        Log odds of a failure.
    slope, offset : float
        Calibration (Platt, "Probabilistic outputs for support vector machines", 1999): chance is
        1 / (1 + exp(-(slope * log odds + offset))).
    spread : float
        Standard deviation of the relevance within a group.
    """

    def __init__(self, order: Model, trees: lightgbm.LightGBMModel, slope: float, offset: float, spread: float) -> None:
        self.order, self.trees = order, trees
        self.slope, self.offset, self.spread = slope, offset, spread
        self.n_iterations, self.n_features, self.best_score = order.n_iterations, order.n_features, order.best_score
        self.versions: Mapping[str, str] = {**trees.versions, **order.versions}

    foresees_failures = True

    def predict(self, X: Matrix, n_jobs: int) -> FloatArray:
        """Relevance, float64 (rows,)."""
        return self.predict_both(X, n_jobs)[0]

    def predict_both(self, X: Matrix, n_jobs: int) -> tuple[FloatArray, FloatArray]:
        """Relevance, and chance of a failure, float64 (rows,) each."""
        chance = self._chance(X, n_jobs)
        return self.order.predict(X, n_jobs) + self._demotion(chance), chance

    def _chance(self, X: Matrix, n_jobs: int) -> FloatArray:
        return np.asarray(expit(self.slope * self.trees.predict(X, n_jobs) + self.offset), np.float64)

    def _demotion(self, chance: FloatArray) -> FloatArray:
        return np.asarray(self.spread * np.log1p(-np.minimum(chance, _MOST_CHANCE)))

    def gains(self) -> FloatArray:
        """Total gain per column of the order, float64 (n_features,)."""
        return self.order.gains()

    def stopped_at(self, rounds: int) -> WithFailures:
        """The model after its first ``rounds`` rounds of the order."""
        return WithFailures(self.order.stopped_at(rounds), self.trees, self.slope, self.offset, self.spread)

    def compare(self, X: Matrix, first: int, second: int, n_jobs: int) -> FloatArray:
        """Contributions of the columns to the difference of the relevance, float64 (n_features,).

        Columns share in the demotion as they contribute to the log odds of a failure.
        """
        odds = self.trees.compare(X, first, second, n_jobs)
        of_first, of_second = self._demotion(self._chance(X[[first, second]], n_jobs))
        found = self.order.compare(X, first, second, n_jobs)
        return found + (of_first - of_second) * odds / odds.sum() if odds.sum() else found

    def to_bytes(self) -> bytes:
        """A zip archive of both models."""
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            kind = type(self.order).__module__.rpartition(".")[2]
            about = {"backend": kind, "slope": self.slope, "offset": self.offset, "spread": self.spread}
            for name, data in (
                ("failures.json", json.dumps(about)), ("order", self.order.to_bytes()), ("trees", self.trees.to_bytes())
            ):  # fmt: skip
                archive.writestr(zipfile.ZipInfo(name), data)  # without the time, so that equal models are equal bytes
        return buffer.getvalue()


def fit(order: Model, train: Rows, settings: Settings) -> Model:
    """Add the chance to fail to a model of the order of ``train``, whose target is infinite for failed rows.

    Groups of which all rows failed do not count: they tell nothing about configurations.
    """
    bounds = list(pairwise(train.indptr.tolist()))
    told = np.array([b > a and not np.isinf(train.target[a:b]).all() for a, b in bounds], bool)
    if not told.all():
        train = train.take(np.flatnonzero(np.repeat(told, train.sizes)), np.cumsum([0, *train.sizes[told]]))
    if not np.isinf(train.target).any():
        return order
    failed = np.isinf(train.target)
    group = np.repeat(np.arange(len(train.sizes)), train.sizes)
    odds, known = np.zeros(len(failed)), np.zeros(len(failed), bool)
    X = train.matrix
    for kept, out in held_out_folds(group, _FOLDS):
        if failed[kept].any() and not failed[kept].all():
            odds[out] = _classifier(X[kept], failed[kept], settings).predict(X[out], settings.n_jobs)
            known[out] = True
    slope, offset = 1.0, 0.0
    if known.any() and failed[known].any() and not failed[known].all():
        platt = LogisticRegression(C=1e3).fit(odds[known, None], failed[known])
        # never the other way round, where left-out groups fail for other reasons
        slope, offset = max(0.0, float(platt.coef_[0, 0])), float(platt.intercept_[0])
    spread = float(np.mean(spreads(order, train, settings.n_jobs)))
    return WithFailures(order, _classifier(X, failed, settings), slope, offset, spread)


def _classifier(X: Matrix, failed: NDArray[np.bool_], settings: Settings) -> lightgbm.LightGBMModel:
    rows = Rows(X, failed.astype(np.int64), np.array([0, len(X)]))
    settings = replace(
        settings, n_estimators=_ROUNDS, num_leaves=_LEAVES, learning_rate=_RATE, params={}, monotone=False
    )
    return lightgbm.fit(rows, None, settings, labels=lightgbm.Labels(failed.astype(np.float64), "binary"))


def load(data: bytes) -> WithFailures:
    """Read the archive; ValueError for anything else."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            about = json.loads(archive.read("failures.json"))
            order = backend(str(about["backend"])).load(archive.read("order"))
            trees = lightgbm.load(archive.read("trees"))
        numbers = [float(about[key]) for key in ("slope", "offset", "spread")]
    except (zipfile.BadZipFile, LookupError, TypeError, RuntimeError, OSError, UsageError) as error:
        raise ValueError(f"not a model with failures ({error})") from error
    if not np.isfinite(numbers).all() or order.n_features != trees.n_features:
        raise ValueError("not a model with failures: expected finite numbers and equal columns")
    return WithFailures(order, trees, *numbers)
