"""Time many short runs on a shared machine: CPU time, minimum over rounds, and a second pass.

Other work on the machine only slows a run down, so the minimum over rounds estimates the undisturbed time.  Every round
runs all candidates, so that a disturbance affects all of them, and CPU time excludes other processes.  A second pass,
later and in another order, shows how reproducible the first is.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gbr.errors import CollectError

IntArray = NDArray[np.int64]
Clock = Callable[[], int]

#: Thresholds of warnings: below them, the order of the configurations is mostly noise, or their runtimes hardly differ.
LEAST_TAU = 0.7
LEAST_SPREAD = 1.1

#: Minimum number of rounds of every run in a pass.
LEAST_ROUNDS = 3


@dataclass(frozen=True, eq=False)
class Timing:
    """Two independent measurements of the same candidates, int64 (n,) each, in nanoseconds."""

    first: IntArray
    second: IntArray

    @property
    def spread(self) -> float:
        """Slowest over fastest runtime in the first pass."""
        return spread(self.first)

    @property
    def tau(self) -> float:
        """Kendall's tau-b between the two passes."""
        return retest_tau(self.first, self.second)


def spread(runtime: IntArray) -> float:
    """Slowest over fastest runtime."""
    return float(runtime.max() / runtime.min())


def retest_tau(first: IntArray, second: IntArray) -> float:
    """Kendall's tau-b between two measurements of the same candidates; 0 if one of them is constant."""
    from scipy.stats import kendalltau

    tau = float(kendalltau(first, second).statistic)
    return 0.0 if np.isnan(tau) else tau


def doubts(spread: float, tau: float) -> list[str]:
    """Reasons to doubt a measurement, one phrase each."""
    found = []
    if tau < LEAST_TAU:
        found.append(f"retest tau {tau:.2f} is below {LEAST_TAU}: raise --rounds, or stop other work on the machine")
    if spread < LEAST_SPREAD:
        found.append(f"slowest/fastest {spread:.2f} is below {LEAST_SPREAD}: the configurations hardly differ")
    return found


def cores() -> list[int]:
    """Cores that this process may use, in ascending order."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def pin(core: int) -> None:
    """Pin this process to ``core``, if the system supports it."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})


@contextmanager
def pinned() -> Iterator[int]:
    """Pin this process to the last core that it may use, and restore its cores afterwards; yields the core."""
    before = cores()
    pin(before[-1])
    try:
        yield before[-1]
    finally:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, before)


def measure(
    runs: Sequence[Callable[[], object]],
    *,
    rounds: int,
    least_ns: int = 200_000,
    enough_ns: int = 30_000_000,
    seed: int = 0,
    clock: Clock = time.thread_time_ns,
) -> Timing:
    """Time every run in two passes.

    Parameters
    ----------
    runs : sequence of callables without arguments
        Each must have run once, so that nothing is compiled or allocated while it is timed.
    rounds : int
        Rounds per pass; the result of a pass is the minimum of each run.
    least_ns : int
        Minimum duration of a sample; shorter runs are repeated within a sample.
    enough_ns : int
        Total duration after which a run is not sampled again in a pass, except in the first :data:`LEAST_ROUNDS`
        rounds; limits the cost of slow candidates.
    seed : int
        Seed of the random order of the runs in each round.
    clock : callable
        Returns nanoseconds; CPU time of this thread by default.

    Returns
    -------
    Timing

    Raises
    ------
    CollectError
        If the clock did not advance during a sample.
    """
    if rounds < 1 or not runs:
        raise CollectError(f"expected at least one run and one round, got {len(runs)} runs in {rounds} rounds")
    rough = np.array([_once(run, clock) for run in runs], np.int64)
    repeats = -(-least_ns // rough)
    turns = np.clip(enough_ns // (rough * repeats), min(LEAST_ROUNDS, rounds), rounds)
    rng = np.random.default_rng(seed)
    first, second = (_pass(runs, repeats, turns, rng, clock) for _ in range(2))
    return Timing(first, second)


def _once(run: Callable[[], object], clock: Clock) -> int:
    start = clock()
    run()
    return max(1, clock() - start)


def _pass(
    runs: Sequence[Callable[[], object]], repeats: IntArray, turns: IntArray, rng: np.random.Generator, clock: Clock
) -> IntArray:
    best = np.full(len(runs), np.iinfo(np.int64).max, np.int64)
    for turn in range(int(turns.max())):
        for number in rng.permutation(np.flatnonzero(turns > turn)):
            run, times = runs[number], int(repeats[number])
            start = clock()
            for _ in range(times):
                run()
            elapsed = clock() - start
            if elapsed <= 0:
                raise CollectError(
                    f"the clock did not advance during {times} runs of candidate {number}; raise least_ns"
                )
            best[number] = min(best[number], elapsed // times)
    return np.maximum(best, 1)
