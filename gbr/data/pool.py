"""Worker processes, which are spawned and end with their parent, and ordered results of threads."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from typing import TypeVar

from gbr.errors import GbrError, show_warning

Advance = Callable[[int], None]
#: Takes the number of steps and returns a context manager that yields a function to call after each step.
Progress = Callable[[int], AbstractContextManager[Advance]]

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")


def in_processes(
    work: Callable[[_Task], _Result], tasks: Sequence[_Task], jobs: int, what: str
) -> Iterator[tuple[_Task, _Result]]:
    """Process tasks by a module-level function; yields pairs of task and result in order of completion.

    One job runs in this process.  Exceptions of ``work`` are raised unchanged.  ``what`` names the data for the error
    if a process dies.
    """
    if jobs <= 1:
        for task in tasks:
            yield task, work(task)
        return
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), initializer=_start_worker)
    try:
        waiting = {pool.submit(work, task): task for task in tasks}
        for done in as_completed(waiting):
            yield waiting[done], done.result()
    except BrokenProcessPool as fault:
        raise GbrError(
            f"{what}: a worker process died, perhaps out of memory; run the same command again to resume, with "
            "fewer --jobs"
        ) from fault
    finally:
        pool.shutdown(cancel_futures=True)


def in_order(pool: Executor, work: Callable[[_Task], _Result], items: Iterable[_Task], ahead: int) -> Iterator[_Result]:
    """Results in the order of the items, with at most ``ahead`` items submitted at a time."""
    waiting: deque[Future[_Result]] = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        while len(waiting) > ahead or (waiting and waiting[0].done()):
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def cores() -> int:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1


def _start_worker() -> None:
    # Threads of libraries would compete with the other workers; set before their first import.
    os.environ["POLARS_MAX_THREADS"] = "1"
    warnings.showwarning = show_warning
    # The parent reports interrupts; workers end with their parent.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
