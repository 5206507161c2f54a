"""Time many short runs on a shared machine: CPU time, minimum over rounds, and a second pass.

Other work on the machine only slows a run down, so the minimum over rounds estimates the undisturbed time.  Every round
runs all candidates, so that a disturbance affects all of them, and CPU time excludes other processes.  A second pass,
later and in another order, shows how reproducible the first is.

A sample is much longer than a step of the clock, which is below 1 µs on Linux and macOS but 15.6 ms for CPU time on
Windows, where measurements take accordingly long.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gbr.errors import CollectError

IntArray = NDArray[np.int64]
Clock = Callable[[], int]

#: Minimum number of rounds of every run in a pass.
LEAST_ROUNDS = 3
#: Steps of the clock in a sample, and in the first estimate of a run.
_STEPS, _ROUGH_STEPS = 100, 10
#: A clock is observed for this time, which is longer than the steps of any system.
_OBSERVED_NS = 50_000_000
#: A run that needs longer for a step of the clock does not use the CPU.
_IDLE_NS = 5_000_000_000


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


def samples(
    runs: Sequence[Callable[[], object]],
    *,
    rounds: int,
    least_ns: int = 200_000,
    enough_ns: int = 30_000_000,
    seed: int = 0,
    clock: Clock = time.thread_time_ns,
) -> tuple[list[list[int]], list[list[int]]]:
    """Time every run in two passes.

    Parameters
    ----------
    runs : sequence of callables without arguments
        Each must have run once, so that nothing is compiled or allocated while it is timed.
    rounds : int
        Rounds per pass.
    least_ns : int
        Minimum duration of a sample, or 100 steps of the clock if these are longer; shorter runs are repeated within a
        sample.
    enough_ns : int
        Total duration after which a run is not sampled again in a pass, except in the first :data:`LEAST_ROUNDS`
        rounds; limits the cost of slow candidates.
    seed : int
        Seed of the random order of the runs in each round.
    clock : callable
        Returns nanoseconds; CPU time of this thread by default.

    Returns
    -------
    list of lists of int, twice
        Nanoseconds of every run in every round of the first and of the second pass.

    Raises
    ------
    CollectError
        If the clock is too coarse for a run.
    """

    def elapsed(run: Callable[[], object], times: int) -> int:
        start = clock()
        for _ in range(times):
            run()
        return max(1, (clock() - start) // times)

    step = clock_step(clock)
    least_ns = max(least_ns, _STEPS * step)
    rough = np.array([_rough(run, clock, _ROUGH_STEPS * step) for run in runs], np.int64)
    repeats = -(-least_ns // rough)
    turns = np.clip(enough_ns // (rough * repeats), min(LEAST_ROUNDS, rounds), rounds)
    rng = np.random.default_rng(seed)
    passes: tuple[list[list[int]], list[list[int]]] = [[] for _ in runs], [[] for _ in runs]
    for found in passes:
        for turn in range(int(turns.max())):
            for number in rng.permutation(np.flatnonzero(turns > turn)):
                found[number].append(elapsed(runs[number], int(repeats[number])))
    return passes


def measure(runs: Sequence[Callable[[], object]], **settings: Any) -> tuple[IntArray, IntArray]:
    """Minimum of the :func:`samples` of every run in the first and in the second pass, int64 (len(runs),) each."""
    first, second = (np.array([min(each) for each in found], np.int64) for found in samples(runs, **settings))
    return first, second


def clock_step(clock: Clock) -> int:
    """Smallest step of a clock that is observed, in nanoseconds; 0 if it does not advance by itself.

    Systems report a resolution that is often finer.
    """
    steps: list[int] = []
    end = time.perf_counter_ns() + _OBSERVED_NS
    last = clock()
    while len(steps) < 3 and time.perf_counter_ns() < end:
        if (now := clock()) > last:
            steps.append(now - last)
            last = now
    return min(steps, default=0)


def _rough(run: Callable[[], object], clock: Clock, least_ns: int) -> int:
    """Estimate a run from one, or from enough of them to take ``least_ns``, in nanoseconds."""
    total, times = 0, 0
    start = time.perf_counter_ns()
    while total < max(1, least_ns):
        if (taken := time.perf_counter_ns() - start) > _IDLE_NS:
            raise CollectError(
                f"{times} runs took {taken / 1e9:.1f} s of real time and {total / 1e9:.3f} s by the clock, expected at "
                f"least {least_ns / 1e9:.3f} s, {_ROUGH_STEPS} of its steps; use a finer clock, or real time"
            )
        more = max(1, times)
        before = clock()
        for _ in range(more):
            run()
        total, times = total + clock() - before, times + more
    return max(1, total // times)
