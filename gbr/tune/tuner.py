"""The tuner, which proposes configurations from a model of other programs and the measurements so far."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from gbr.errors import UsageError
from gbr.tune.space import FloatArray, IntArray, Space

if TYPE_CHECKING:
    from gbr.ranker import Ranker

#: Trees per forest, which estimate the uncertainty and are fitted in some hundredths of a second.
_TREES: Final = 30
#: Measurements before a forest is fitted; until then, proposals follow the model or a space-filling sample.
_LEAST: Final = 5
#: Weight of the standard deviation of the trees, which balances exploration and exploitation.
_EXPLORATION: Final = 0.5
_BLOCK: Final = 1024

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
    model : Ranker, optional
        Model trained on other programs.  The first proposals follow its order; measurements gradually outweigh it.
    seed : int
        The same seed and outcomes give the same proposals.

    Raises
    ------
    UsageError, ModelError
        If the model does not fit the space.

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

    def __init__(self, space: Space, model: Ranker | None = None, *, seed: int = 0) -> None:
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise UsageError(f"seed: expected a non-negative integer, got {seed!r}")
        self.space = space
        self._seed = seed
        columns = space.columns(model)
        self._X = columns[:, columns.max(axis=0) > columns.min(axis=0)]
        self._order = np.zeros(len(space))
        if model is not None and np.ptp(scores := space.scores(model)):
            from gbr.models.within import ranks  # scikit-learn, not for --help

            self._order = ranks(scores)
        self._distinct = space.duplicate_of == np.arange(len(space))
        self._free = self._distinct.copy()
        self._runtimes: dict[int, list[float]] = {}
        self._failures: dict[int, str] = {}

    def __len__(self) -> int:
        """Number of distinct configurations that were measured or failed."""
        return len(self._runtimes.keys() | self._failures.keys())

    @property
    def runtimes(self) -> dict[int, float]:
        """Mean runtime of the configurations that never failed, in the order of measurement."""
        kept = {config: runtimes for config, runtimes in self._runtimes.items() if config not in self._failures}
        return {config: sum(runtimes) / len(runtimes) for config, runtimes in kept.items()}

    @property
    def failures(self) -> dict[int, str]:
        """Reasons of failed configurations."""
        return dict(self._failures)

    @property
    def best(self) -> Best | None:
        """The fastest configuration that never failed, if any."""
        return next(iter(self.leaders(1)), None)

    def leaders(self, count: int) -> list[Best]:
        """The fastest configurations, best first; equal runtimes in the order of measurement."""
        return [Best(*each) for each in sorted(self.runtimes.items(), key=lambda each: each[1])[:count]]

    def ask(self, n: int = 1) -> list[int]:
        """Propose configurations to measure.

        Parameters
        ----------
        n : int
            Size of the batch.  Small batches need fewer measurements, as proposals do not use outcomes of their batch.

        Returns
        -------
        list of int
            Indices of configurations, the most promising first; fewer than ``n`` if the space is exhausted.

        Raises
        ------
        UsageError
            For ``n`` below 1.
        """
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise UsageError(f"ask: expected a positive integer, got {n!r}")
        free = np.flatnonzero(self._free)
        if not len(free):
            return []
        rng = np.random.default_rng([self._seed, len(self)])
        known = self.runtimes
        if len(known) >= _LEAST and len(set(known.values())) > 1:
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
            A runtime in any unit, lower is faster; for a failure the reason, None, NaN or infinity.  Runtimes of equal
            configurations are averaged; a configuration with a single failure counts as failed.

        Raises
        ------
        UsageError
            For a wrong number of outcomes, an invalid configuration or an invalid outcome; no outcome is then used.
        """
        indices = list(configs)
        if len(indices) != len(outcomes):
            raise UsageError(f"tell: expected an outcome per configuration, got {len(outcomes)} for {len(indices)}")
        results = [(self._first_equal(config), _outcome(each)) for config, each in zip(indices, outcomes, strict=True)]
        for config, outcome in results:
            self._free[config] = False
            if isinstance(outcome, str):
                self._failures.setdefault(config, outcome)
            else:
                self._runtimes.setdefault(config, []).append(outcome)

    def _first_equal(self, config: Any) -> int:
        if isinstance(config, bool) or not isinstance(config, int | np.integer) or not 0 <= config < len(self.space):
            raise UsageError(f"tell: {self.space.name}: expected 0 to {len(self.space) - 1}, got {config!r}")
        return int(self.space.duplicate_of[config])

    def _acquisition(self, free: IntArray, rng: np.random.Generator) -> FloatArray:
        """Mean of the trees minus their weighted standard deviation, float64 (free,): lower is better."""
        from gbr.models.within import Regressor, ranks  # scikit-learn, not for --help

        known = self.runtimes
        slow = 2 * max(known.values())
        results = known | dict.fromkeys(self._failures, math.inf)
        rows = np.array(sorted(results), np.int64)
        target = ranks(np.array([min(results[row], slow) for row in rows.tolist()]))
        seed = int(rng.integers(1 << 31))
        regressor = Regressor(self._X, self._order, rows, self.space.choices[rows], target, seed, _TREES)
        parts = []
        for first in range(0, len(free), _BLOCK):
            block = free[first : first + _BLOCK]
            trees = regressor.members(self._X[block], self.space.choices[block], self._order[block])
            parts.append(trees.mean(axis=0) - _EXPLORATION * trees.std(axis=0))
        return np.concatenate(parts)

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


def _outcome(given: Outcome) -> float | str:
    if given is None or isinstance(given, str):
        return given or "failed"
    try:
        runtime = float(given)
    except (TypeError, ValueError):
        raise UsageError(f"tell: expected a runtime or the reason of a failure, got {given!r}") from None
    if not math.isfinite(runtime):
        return f"runtime {runtime}"
    if runtime < 0:
        raise UsageError(f"tell: expected a non-negative runtime, got {runtime}")
    return runtime
