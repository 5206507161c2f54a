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

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
Clock = Callable[[], int]

#: Minimum number of rounds of every run in a pass.
LEAST_ROUNDS = 3


def cores() -> list[int]:
    """Cores that this process may use, in ascending order."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def pin(*cores: int) -> None:
    """Pin this process to ``cores``, if the system supports it."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)


@contextmanager
def pinned() -> Iterator[None]:
    """Pin this process to the last core that it may use, and restore its cores afterwards."""
    before = cores()
    pin(before[-1])
    try:
        yield
    finally:
        pin(*before)


def measure(
    runs: Sequence[Callable[[], object]],
    *,
    rounds: int,
    least_ns: int = 200_000,
    enough_ns: int = 30_000_000,
    seed: int = 0,
    clock: Clock = time.thread_time_ns,
) -> tuple[IntArray, IntArray]:
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
    int64 (len(runs),), twice
        Nanoseconds in the first and in the second pass.
    """

    def elapsed(run: Callable[[], object], times: int) -> int:
        start = clock()
        for _ in range(times):
            run()
        return max(1, (clock() - start) // times)

    rough = np.array([elapsed(run, 1) for run in runs], np.int64)
    repeats = -(-least_ns // rough)
    turns = np.clip(enough_ns // (rough * repeats), min(LEAST_ROUNDS, rounds), rounds)
    rng = np.random.default_rng(seed)
    passes = np.full((2, len(runs)), np.iinfo(np.int64).max, np.int64)
    for best in passes:
        for turn in range(int(turns.max())):
            for number in rng.permutation(np.flatnonzero(turns > turn)):
                best[number] = min(best[number], elapsed(runs[number], int(repeats[number])))
    return passes[0], passes[1]
