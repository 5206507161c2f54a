"""The tuner, which proposes configurations from a model of other programs and the measurements so far."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from gbr.errors import UsageError
from gbr.tune.space import FloatArray, IntArray, Space, loaded

if TYPE_CHECKING:
    from gbr.models.transfer import Transfer
    from gbr.ranker import Ranker

#: Trees per forest, which estimate the uncertainty and are fitted in some hundredths of a second.
_TREES: Final = 30
#: Measurements before a forest is fitted; until then, proposals follow the model or a space-filling sample.
_LEAST: Final = 5
#: Weight of the standard deviation of the trees, which balances exploration and exploitation.
_EXPLORATION: Final = 0.5
_BLOCK: Final = 1024
#: Measurements before expected improvements follow from those of other groups; until then, their order is followed,
#: where a failure is as bad as so many halvings of the speed.
_LEAST_TRANSFER: Final = 2
_FAILURE: Final = 5.0
#: Measurements before every second proposal is a neighbour of the fastest.
_LEAST_LOCAL: Final = 4
#: A runtime of 0 has no logarithm.
_SHORTEST: Final = 1e-12

Outcome = float | str | None


@dataclass(frozen=True)
class Best:
    """The fastest configuration so far and its runtime, in the unit of the measurements."""

    config: int
    runtime: float


class Tuner:
    """Proposes configurations and learns from their runtimes: ask, measure, tell, repeat.

    A configuration is proposed at most once, and so are equal configurations.  Failed configurations count as slow.

    Parameters
    ----------
    space : Space
    model : Ranker or path, optional
        Model trained on other programs, or its run directory.  The first proposals follow its order; measurements
        gradually outweigh it.
        By default the analytic estimate of the space, where it has a program.
        A UsageError or ModelError is raised if it does not fit the space.
    seed : int
        The same seed and outcomes give the same proposals.

    Examples
    --------
    >>> from gbr.tune import ParameterSpace, Tuner
    >>> space = ParameterSpace({"block": [16, 32, 64, 128], "unroll": [1, 2, 4]})
    >>> tuner = Tuner(space)
    >>> while len(tuner) < 8:
    ...     for config in tuner.ask(2):
    ...         choice = space.describe(config)
    ...         tuner.tell([config], [abs(choice["block"] - 64) + choice["unroll"]])
    >>> space.describe(tuner.best.config)
    {'block': 64, 'unroll': 1}
    """

    def __init__(self, space: Space, model: Ranker | Path | str | None = None, *, seed: int = 0) -> None:
        if not isinstance(space, Space):
            raise UsageError(f"space: expected a Space such as ParameterSpace(...), got a {type(space).__name__}")
        self.space = space
        self._seed = integer(seed, 0, "seed")
        model = space.estimate() if model is None else loaded(model)
        self._prior_is_estimate = model is not None and model.is_estimate
        columns = space.columns(model)
        self._X = columns[:, columns.max(axis=0) > columns.min(axis=0)]
        self._order = np.zeros(len(space))
        if model is not None and np.ptp(scores := space.scores(model)):
            from gbr.models.within import ranks  # scikit-learn, not for --help

            self._order = ranks(scores)
        self._transfer = space.transfer(model, self._seed)
        self._distinct = space.duplicate_of == np.arange(len(space))
        self._free = self._distinct.copy()
        self._runtimes: dict[int, list[float]] = {}
        self.failures: dict[int, str] = {}  # reasons of failed configurations

    def __len__(self) -> int:
        """Number of distinct configurations that were measured or failed."""
        return len(self._runtimes.keys() | self.failures.keys())

    @property
    def n_left(self) -> int:
        """Number of distinct configurations that were neither proposed nor told."""
        return int(self._free.sum())

    @property
    def runtimes(self) -> dict[int, float]:
        """Mean runtime of the configurations that never failed, in the order of measurement."""
        return {
            config: sum(runtimes) / len(runtimes)
            for config, runtimes in self._runtimes.items()
            if config not in self.failures
        }

    @property
    def best(self) -> Best | None:
        """The fastest configuration that never failed, if any."""
        return next(iter(self.leaders(1)), None)

    def leaders(self, count: int) -> list[Best]:
        """The fastest configurations, best first; equal runtimes in the order of measurement."""
        return [Best(*each) for each in sorted(self.runtimes.items(), key=lambda each: each[1])[:count]]

    def ask(self, n: int = 1) -> list[int]:
        """Propose ``n`` configurations to measure, the most promising first; fewer if the space is exhausted.

        Small batches need fewer measurements, as proposals do not use outcomes of their batch.
        """
        n = integer(n, 1, "ask")
        free = np.flatnonzero(self._free)
        if not len(free):
            return []
        rng = np.random.default_rng([self._seed, len(self)])
        known = self.runtimes
        if self._transfer is not None and (self._order.any() or len(known) >= _LEAST):
            chosen = self._improving(self._transfer, free, min(n, len(free)))
        elif len(known) >= _LEAST and len(set(known.values())) > 1:
            chosen = free[np.argsort(self._acquisition(free, rng), kind="stable")[:n]]
        elif self._order.any():
            chosen = free[np.argsort(self._order[free], kind="stable")[:n]]
        else:
            chosen = self._space_filling(free, min(n, len(free)), rng)
        self._free[chosen] = False
        return [int(config) for config in chosen]

    def tell(self, configs: Iterable[int], outcomes: Sequence[Outcome]) -> None:
        """Report the outcomes of configurations, proposed or not.

        Parameters
        ----------
        configs : iterable of int
        outcomes : sequence of float, str or None
            A runtime in any unit, lower is faster; for a failure the reason, None or any other number.  Runtimes of
            equal configurations are averaged; a configuration with a single failure counts as failed.
        """
        last = len(self.space) - 1
        indices = [integer(config, 0, f"tell: {self.space.name}", last) for config in configs]
        if len(indices) != len(outcomes):
            raise UsageError(f"tell: expected an outcome per configuration, got {len(outcomes)} for {len(indices)}")
        known = [outcome_of(outcome) for outcome in outcomes]
        for config, outcome in zip(self.space.duplicate_of[indices].tolist(), known, strict=True):
            self._free[config] = False
            if isinstance(outcome, str):
                self.failures.setdefault(config, outcome)
            else:
                self._runtimes.setdefault(config, []).append(outcome)

    def _acquisition(self, free: IntArray, rng: np.random.Generator) -> FloatArray:
        """Mean of the trees minus their weighted standard deviation, float64 (free,): lower is better."""
        from gbr.models.within import ESTIMATED, TRAINED, Regressor, ranks  # scikit-learn, not for --help

        known = self.runtimes
        slow = 2 * max(known.values())
        results = known | dict.fromkeys(self.failures, math.inf)
        rows = np.array(sorted(results), np.int64)
        target = ranks(np.array([min(results[row], slow) for row in rows.tolist()]))
        seed, prior = int(rng.integers(1 << 31)), ESTIMATED if self._prior_is_estimate else TRAINED
        regressor = Regressor(self._X, self._order, rows, self.space.choices[rows], target, seed, _TREES, prior)
        parts = []
        for first in range(0, len(free), _BLOCK):
            block = free[first : first + _BLOCK]
            trees = regressor.members(self._X[block], self.space.choices[block], self._order[block])
            parts.append(trees.mean(axis=0) - _EXPLORATION * trees.std(axis=0))
        return np.concatenate(parts)

    def _improving(self, transfer: Transfer, free: IntArray, n: int) -> IntArray:
        """Configurations with the largest expected improvement of the runtime, times the chance to work.

        Every second one differs from the fastest so far in one parameter, where such are left: predictions are too
        smooth to tell which of its neighbours is faster.

        Those of a batch are as fast as predicted, for the next ones.
        """
        from gbr.models.transfer import improvement  # scikit-learn, not for --help

        rows, target = [*self.runtimes], [math.log2(max(runtime, _SHORTEST)) for runtime in self.runtimes.values()]
        tried = np.array([*rows, *self.failures], np.int64)
        failed = transfer.chance(tried, np.arange(len(tried)) >= len(rows))[free]
        chosen: list[int] = []
        while len(chosen) < n:
            if len(rows) < _LEAST_TRANSFER:
                mean = transfer.prior
                merit = -mean[free] - _FAILURE * failed
            else:
                mean, deviation = transfer.predict(np.array(rows), np.array(target))
                merit = improvement(mean[free], deviation[free], min(target)) * (1 - failed)
            merit[np.isin(free, chosen)] = -np.inf
            count = len(tried) + len(chosen)
            if rows and count >= _LEAST_LOCAL and count % 2 == 0:
                near = (self.space.choices[free] != self.space.choices[rows[int(np.argmin(target))]]).sum(axis=1) <= 1
                if np.isfinite(merit[near]).any():
                    merit[~near] = -np.inf
            chosen.append(int(free[merit.argmax()]))
            if len(rows) >= _LEAST_TRANSFER:
                rows.append(chosen[-1])
                target.append(float(mean[chosen[-1]]))
        return np.array(chosen, np.int64)

    def _space_filling(self, free: IntArray, n: int, rng: np.random.Generator) -> IntArray:
        """Greedy sample of configurations that are far from each other and from earlier proposals."""
        X = (self._X - self._X.mean(axis=0, dtype=np.float64)) / self._X.std(axis=0, dtype=np.float64)

        def squared_distance(config: int) -> FloatArray:
            return np.asarray(((X[free] - X[config]) ** 2).sum(axis=1), np.float64)

        distance = np.full(len(free), np.inf)
        for config in np.flatnonzero(self._distinct & ~self._free).tolist():
            distance = np.minimum(distance, squared_distance(config))
        chosen: list[int] = []
        while len(chosen) < n:
            at = int(rng.integers(len(free))) if np.isinf(distance).all() else int(distance.argmax())
            chosen.append(int(free[at]))
            distance = np.minimum(distance, squared_distance(chosen[-1]))
            distance[at] = -1
        return np.array(chosen, np.int64)


def outcome_of(given: Any) -> float | str:
    """A finite, non-negative runtime, or the reason of a failure; a UsageError for anything else."""
    if given is None or isinstance(given, str):
        return str(given or "failed")
    try:
        if isinstance(given, np.timedelta64):
            raise TypeError
        runtime = float(given)
    except (TypeError, ValueError, OverflowError) as fault:
        expected = "expected a runtime as a number, or the reason of a failure as a string or None"
        raise UsageError(f"{expected}, got {reprlib.repr(given)}") from fault
    return runtime if 0 <= runtime < math.inf else f"runtime {runtime}"


def integer(value: Any, least: int, what: str, most: int | None = None) -> int:
    """An integer of Python or NumPy from 0 or 1 on, or in a range; a UsageError for anything else."""
    try:
        if least <= index(value) and (most is None or index(value) <= most):
            return index(value)
    except TypeError:  # not an integer of Python or NumPy
        pass
    expected = f"{least} to {most}" if most is not None else "a positive integer" if least else "an integer from 0 on"
    raise UsageError(f"{what}: expected {expected}, got {reprlib.repr(value)}")
