"""When a fit ends: early stopping on the Kendall tau of validation groups, or on request."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gbr.errors import UsageError
from gbr.models.base import Model, OnRound, Round
from gbr.models.params import Settings
from gbr.models.rows import Matrix, Rows, subsample

#: Rows per group that early stopping uses.
EARLY_STOPPING_ROWS: Final = 1000
_EARLY_STOPPING_PAIRS: Final = 20_000


class ValidTau:
    """Mean Kendall tau over the groups of a validation set, fast enough to compute after every round.

    At most :data:`EARLY_STOPPING_ROWS` rows and :data:`_EARLY_STOPPING_PAIRS` pairs of a group are used, sampled at
    random (standard error .005 per group).  Equal scores count as in random order, because tau-b rewards ties and would
    stop after the first few coarse trees.  Groups without two different targets are skipped.
    """

    def __init__(self, valid: Rows, seed: int) -> None:
        rng = np.random.default_rng(seed)
        kept: list[NDArray[np.int64]] = []
        for start, stop in pairwise(valid.indptr):
            rows = subsample(start, stop, EARLY_STOPPING_ROWS, rng)
            if len(np.unique(valid.target[rows])) > 1:
                kept.append(rows)
        if not kept:
            raise UsageError("eval_set: expected at least one query group with two different runtimes")
        chosen = np.concatenate(kept)
        self.X: Matrix = valid.X[chosen]
        self.rows = Rows(self.X, valid.target[chosen], np.cumsum([0, *map(len, kept)], dtype=np.int64))
        faster, slower, sizes = [], [], []
        for start, stop in pairwise(self.rows.indptr.tolist()):
            first, second = np.triu_indices(stop - start, k=1)
            target = self.rows.target[start:stop]
            differ = np.flatnonzero(target[first] != target[second])
            if len(differ) > _EARLY_STOPPING_PAIRS:
                differ = rng.choice(differ, _EARLY_STOPPING_PAIRS, replace=False)
            first, second = first[differ], second[differ]
            swap = target[first] > target[second]
            faster.append(start + np.where(swap, second, first))
            slower.append(start + np.where(swap, first, second))
            sizes.append(len(differ))
        self._faster, self._slower = np.concatenate(faster), np.concatenate(slower)
        self._bounds = np.cumsum([0, *sizes])

    def __call__(self, relevance: NDArray[Any]) -> float:
        """Mean tau of a booster's output for :attr:`rows`, float (rows,), higher is faster."""
        from gbr.models.losses import mean_tau  # imports Numba, which prediction does not need

        return float(mean_tau(np.asarray(relevance, np.float64), self._faster, self._slower, self._bounds))

    def of(self, model: Model, n_jobs: int) -> float:
        """Mean tau of a fitted model."""
        return self(model.predict(self.X, n_jobs))


class Stopper:
    """Ends a fit after ``early_stopping_rounds`` rounds without a better tau, at the time limit, or on request.

    Attributes
    ----------
    tau : ValidTau or None
    best_round : int
        Rounds to keep: those up to the best tau, or all without validation groups.
    best_tau : float or None
    """

    def __init__(self, valid: Rows | None, settings: Settings, on_round: OnRound | None) -> None:
        self.tau = None if valid is None else ValidTau(valid, settings.seed)
        self.best_round = 0
        self.best_tau: float | None = None
        self._latest: float | None = None
        self._settings = settings
        self._on_round = on_round
        self._start = time.monotonic()

    def validate(self, relevance: NDArray[Any]) -> float:
        """Tau of the output for the validation rows, of which the library informs before :meth:`over`."""
        assert self.tau is not None
        self._latest = self.tau(relevance)
        return self._latest

    def over(self, number: int) -> bool:
        """Whether the fit ends after a round, given its number from 1 on."""
        settings, tau = self._settings, self._latest
        if tau is None or self.best_tau is None or tau > self.best_tau:
            self.best_round, self.best_tau = number, tau
        model = f"{settings.backend} {settings.objective}"
        requested = self._on_round is not None and self._on_round(Round(model, number, settings.n_estimators, tau))
        late = settings.time_limit is not None and time.monotonic() - self._start >= settings.time_limit
        return requested or late or number - self.best_round >= settings.early_stopping_rounds
