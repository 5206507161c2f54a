"""Worker processes: spawned, interrupted by their parent alone, gone when it is gone."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from typing import TypeVar

from gbr.errors import GbrError

Advance = Callable[[int], None]
#: Takes the number of steps and gives a context manager that yields what is called after each of them.
Progress = Callable[[int], AbstractContextManager[Advance]]

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")


def in_processes(
    work: Callable[[_Task], _Result], tasks: Sequence[_Task], jobs: int, what: str
) -> Iterator[tuple[_Task, _Result]]:
    """Work on tasks, in the order in which they are done.

    Parameters
    ----------
    work : callable
        Of a module's top level.
    tasks : sequence
    jobs : int
        Processes; 1 works in this one.
    what : str
        What is worked on, for messages.

    Yields
    ------
    task, result

    Raises
    ------
    GbrError
        When a process dies; also whatever ``work`` raises.
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


def cores() -> int:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1


def _start_worker() -> None:
    # Threads of libraries would compete with the other workers; read when they are first imported.
    os.environ["POLARS_MAX_THREADS"] = "1"
    # An interrupt is the parent's to report; a parent that is gone takes its workers along.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
