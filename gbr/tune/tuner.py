"""Which configuration to measure next: what was measured corrects what a model of other programs expects."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from gbr.errors import UsageError
from gbr.tune.space import FloatArray, IntArray, Space

if TYPE_CHECKING:
    from gbr.ranker import Ranker

#: Trees per forest: enough to tell how far they disagree, few enough for some hundredths of a second.
_TREES: Final = 30
#: Measurements to learn from at least; before them a model's order is followed, or the space is filled.
_LEAST: Final = 5
#: Weight of the trees' disagreement: what is little known is tried where it may be as fast.
_CURIOSITY: Final = 0.5
_BLOCK: Final = 1024

Outcome = float | str | None


@dataclass(frozen=True)
class Best:
    """The fastest configuration so far, and its runtime in the unit that was told."""

    config: int
    runtime: float


class Tuner:
    """Proposes configurations and learns from their runtimes: ask, measure, tell, and ask again.

    Nothing is proposed twice, nor anything equal to what was.  What failed counts as the slowest that was measured.

    Parameters
    ----------
    space : Space
    model : Ranker, optional
        Trained on other programs.  Its order is followed at first; measurements correct it, and outweigh it in time.
    seed : int
        The same seed, told the same, asks the same.

    Raises
    ------
    UsageError, ModelError
        When the model does not fit the space.

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
            raise UsageError(f"seed: got {seed!r}, want a whole number from 0 on")
        self.space = space
        self._seed = seed
        columns = space.columns(model)
        self._X = columns[:, columns.max(axis=0) > columns.min(axis=0)]
        self._order = np.zeros(len(space))
        if model is not None and np.ptp(scores := space.scores(model)):
            from gbr.models.within import ranks

            self._order = ranks(scores)
        self._has_model = bool(self._order.any())
        self._distinct = space.duplicate_of == np.arange(len(space))
        self._free = self._distinct.copy()
        self._runtimes: dict[int, list[float]] = {}
        self._failures: dict[int, str] = {}

    def __len__(self) -> int:
        """Different configurations that were measured, or failed."""
        return len(self._runtimes.keys() | self._failures.keys())

    @property
    def runtimes(self) -> dict[int, float]:
        """Mean runtime by configuration, of those that never failed, in the order they were told."""
        return {
            config: sum(all_of_it) / len(all_of_it)
            for config, all_of_it in self._runtimes.items()
            if config not in self._failures
        }

    @property
    def failures(self) -> dict[int, str]:
        """Why configurations failed."""
        return dict(self._failures)

    @property
    def best(self) -> Best | None:
        """The fastest configuration that never failed; None before there is one."""
        return next(iter(self.leaders(1)), None)

    def leaders(self, count: int) -> list[Best]:
        """The fastest configurations, best first; of equal runtimes the one told first."""
        return [Best(*each) for each in sorted(self.runtimes.items(), key=lambda each: each[1])[:count]]

    def ask(self, n: int = 1) -> list[int]:
        """Propose configurations to measure.

        Parameters
        ----------
        n : int
            Of one batch; the larger it is, the less each of its members knows of the others.

        Returns
        -------
        list of int
            Numbers of configurations, the most promising first; fewer than ``n`` where the space is used up.

        Raises
        ------
        UsageError
            For ``n`` below 1.
        """
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise UsageError(f"ask: got {n!r}, want a whole number from 1 on")
        free = np.flatnonzero(self._free)
        if not len(free):
            return []
        rng = np.random.default_rng([self._seed, len(self)])
        known = self.runtimes
        if len(known) >= _LEAST and len(set(known.values())) > 1:
            chosen = free[np.argsort(self._promise(free, rng), kind="stable")[:n]]
        elif self._has_model:
            chosen = free[np.argsort(self._order[free], kind="stable")[:n]]
        else:
            chosen = self._apart(free, min(n, len(free)), rng)
        self._free[chosen] = False
        return [int(config) for config in chosen]

    def tell(self, configs: Iterable[int], outcomes: Sequence[Outcome]) -> None:
        """Learn what came of measuring configurations, whether they were asked for or not.

        Parameters
        ----------
        configs : iterable of int
        outcomes : sequence of float, str or None
            A runtime in any unit, lower is faster; for a configuration that failed the reason, or None, NaN or
            infinity.  Runtimes of one configuration, or of equal ones, are averaged; one failure outweighs them all.

        Raises
        ------
        UsageError
            When there are not as many outcomes, a number is no configuration, or an outcome is none of those; nothing
            is learned then.
        """
        numbers = list(configs)
        if len(numbers) != len(outcomes):
            raise UsageError(f"tell: {len(numbers)} configurations and {len(outcomes)} outcomes; want as many")
        told = [(self._canonical(config), _outcome(each)) for config, each in zip(numbers, outcomes, strict=True)]
        for config, outcome in told:
            self._free[config] = False
            if isinstance(outcome, str):
                self._failures.setdefault(config, outcome)
            else:
                self._runtimes.setdefault(config, []).append(outcome)

    def _canonical(self, config: Any) -> int:
        if isinstance(config, bool) or not isinstance(config, int | np.integer) or not 0 <= config < len(self.space):
            raise UsageError(f"tell: {config!r} is no configuration; {self.space.name} has 0 to {len(self.space) - 1}")
        return int(self.space.duplicate_of[config])

    def _promise(self, free: IntArray, rng: np.random.Generator) -> FloatArray:
        """Lower is better: the mean of the trees less their disagreement, float64 (free,)."""
        from gbr.models.within import Learner, ranks

        known = self.runtimes
        slowest = max(known.values())
        told = known | dict.fromkeys(self._failures, math.inf)
        rows = np.array(sorted(told), np.int64)
        target = ranks(np.array([min(told[row], 2 * slowest) for row in rows.tolist()]))
        seed = int(rng.integers(1 << 31))
        learner = Learner(self._X, self._order, rows, self.space.choices[rows], target, seed, _TREES)
        parts = []
        for first in range(0, len(free), _BLOCK):
            some = free[first : first + _BLOCK]
            members = learner.members(self._X[some], self.space.choices[some], self._order[some])
            parts.append(members.mean(axis=0) - _CURIOSITY * members.std(axis=0))
        return np.concatenate(parts)

    def _apart(self, free: IntArray, n: int, rng: np.random.Generator) -> IntArray:
        """Configurations as far from one another, and from what was proposed before, as can be had one by one."""
        X = (self._X - self._X.mean(axis=0, dtype=np.float64)) / self._X.std(axis=0, dtype=np.float64)
        used = np.flatnonzero(self._distinct & ~self._free)
        distance = np.full(len(free), np.inf)
        for config in used.tolist():
            distance = np.minimum(distance, _squares(X, free, config))
        chosen: list[int] = []
        while len(chosen) < n:
            at = int(rng.integers(len(free))) if np.isinf(distance).all() else int(distance.argmax())
            chosen.append(int(free[at]))
            distance = np.minimum(distance, _squares(X, free, chosen[-1]))
            distance[at] = -1
        return np.array(chosen, np.int64)


def _squares(X: NDArray[Any], rows: IntArray, one: int) -> FloatArray:
    return np.asarray(((X[rows] - X[one]) ** 2).sum(axis=1), np.float64)


def _outcome(told: Outcome) -> float | str:
    if told is None:
        return "failed"
    if isinstance(told, str):
        return told
    try:
        runtime = float(told)
    except (TypeError, ValueError):
        raise UsageError(f"tell: got {told!r}, want a runtime, or the reason why there is none") from None
    if not math.isfinite(runtime):
        return f"runtime {runtime}"
    if runtime < 0:
        raise UsageError(f"tell: got a runtime of {runtime}, want a number from 0 on")
    return runtime
