"""Kernels measured one after the other on one core, or side by side on several, never two on the same."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing.queues import SimpleQueue

from gbr.collect.tile import Quality, Settings, Task, collect
from gbr.collect.timer import cores, pin, pinned
from gbr.errors import UsageError


def measured(tasks: Sequence[Task], settings: Settings, jobs: int = 1) -> Iterator[Quality]:
    """Measure ``tasks``, each on a pinned core; results come as they are done.

    Raises
    ------
    UsageError
        If ``jobs`` exceeds the cores this process may use.
    CollectError
        As :func:`gbr.collect.tile.collect`.
    """
    if jobs == 1:
        with pinned():
            for task in tasks:
                yield collect(task, settings)
        return
    usable = cores()
    if jobs > len(usable):
        raise UsageError(f"--jobs {jobs}: this process may use {len(usable)} cores, one is wanted for each job")
    context = multiprocessing.get_context("spawn")
    free = context.SimpleQueue()
    for core in usable[-jobs:]:
        free.put(core)
    pool = ProcessPoolExecutor(jobs, context, _take_core, (free,))
    try:
        for done in as_completed([pool.submit(collect, task, settings) for task in tasks]):
            yield done.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _take_core(free: SimpleQueue[int]) -> None:
    pin(free.get())
