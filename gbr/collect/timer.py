"""Time many short runs on a shared machine: CPU time, round-robin, the minimum of rounds, and a second pass.

Other work on the machine slows a run, never speeds it up, so the minimum over rounds estimates the undisturbed time.
Every round runs all candidates, which spreads a disturbance over all of them, and CPU time excludes other processes.
The second pass, later and in another order, shows how far the first can be trusted.
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

#: Warn below these: the order of the configurations is then mostly noise, or there is nothing to order.
LEAST_TAU = 0.7
LEAST_SPREAD = 1.1

#: Rounds of a pass that even the slowest run takes part in.
LEAST_ROUNDS = 3


@dataclass(frozen=True, eq=False)
class Timing:
    """Two independent measurements of the same candidates, int64 (n,) each, in ns."""

    first: IntArray
    second: IntArray

    @property
    def spread(self) -> float:
        """Slowest over fastest in the first pass."""
        return spread(self.first)

    @property
    def tau(self) -> float:
        """Kendall's tau-b between the two passes."""
        return retest_tau(self.first, self.second)


def spread(runtime: IntArray) -> float:
    """Slowest over fastest."""
    return float(runtime.max() / runtime.min())


def retest_tau(first: IntArray, second: IntArray) -> float:
    """Kendall's tau-b between two measurements of the same candidates; 0 where one of them is constant."""
    from scipy.stats import kendalltau

    tau = float(kendalltau(first, second).statistic)
    return 0.0 if np.isnan(tau) else tau


def doubts(spread: float, tau: float) -> list[str]:
    """Why a measurement should not be trusted, one phrase per reason; empty where it may."""
    found = []
    if tau < LEAST_TAU:
        found.append(f"retest tau {tau:.2f} is below {LEAST_TAU}: raise --rounds or free the machine")
    if spread < LEAST_SPREAD:
        found.append(f"slowest/fastest {spread:.2f} is below {LEAST_SPREAD}: the configurations hardly differ")
    return found


def cores() -> list[int]:
    """Cores this process may use, in order."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def pin(core: int) -> None:
    """Keep this process on ``core``, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})


@contextmanager
def pinned() -> Iterator[int]:
    """Keep this process on the last core it may use, and free it afterwards; yields the core."""
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
        Rounds per pass; a pass keeps each run's minimum.
    least_ns : int
        A sample is long enough for the clock: shorter runs are repeated within one sample.
    enough_ns : int
        A run skips the rounds of a pass beyond this total, but not the first :data:`LEAST_ROUNDS`: a long run needs
        fewer samples, and a few slow candidates would cost more than all others.
    seed : int
        Of the orders in which the runs take turns; every round has its own.
    clock : callable
        Nanoseconds; CPU time of this thread by default.

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
