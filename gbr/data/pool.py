"""Worker processes, which are spawned and end with their parent, ordered results of threads, and what they may use."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, TypeVar

from gbr.errors import GbrError, UsageError, show_warning

Advance = Callable[[int], None]
#: Takes the number of steps and returns a context manager that yields a function to call after each step.
Progress = Callable[[int], AbstractContextManager[Advance]]

#: Memory in bytes where the system does not report it.
_USUAL_MEMORY: Final = 8 << 30

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")

#: Whether this process was forked from one that had imported polars.
_polars_forked = False


def _after_fork() -> None:
    global _polars_forked
    _polars_forked = "polars" in sys.modules


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def check_polars(what: str) -> None:
    """UsageError in a forked process, where polars would wait forever for threads that only its parent has."""
    if _polars_forked:
        raise UsageError(
            f"{what}: polars, which reads it, does not work in a process forked from one that imported polars; "
            "start processes with multiprocessing.get_context('spawn')"
        )


def in_processes(
    work: Callable[[_Task], _Result], tasks: Sequence[_Task], jobs: int, what: str
) -> Iterator[tuple[_Task, _Result]]:
    """Process tasks by a module-level function; yields pairs of task and result in order of completion.

    One job runs in this process, and so do all in a daemonic process, which cannot start others.  Exceptions of
    ``work`` are raised unchanged.  ``what`` names the data for the error if a process dies.
    """
    if jobs <= 1 or multiprocessing.current_process().daemon:
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
            "fewer --jobs; guard a script that starts workers by `if __name__ == '__main__':`"
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


def cores(root: Path = Path("/")) -> int:
    """Cores that this process may use, by its affinity and by the CPU quotas of its containers, rounded up.

    ``root`` is the folder of ``sys`` and ``proc``, as for :func:`memory`.
    """
    try:
        usable = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        usable = os.cpu_count() or 1
    return min(usable, quota(root) or usable)


def quota(root: Path = Path("/")) -> int:
    """Cores by the CPU quotas of the containers of this process, rounded up; 0 without quotas."""
    limits = []
    for group in _control_groups("cpu", root):
        # Version 2 has one file with both numbers, version 1 two.
        times = [
            number for name in ("max", "cfs_quota_us", "cfs_period_us") for number in _numbers(group / f"cpu.{name}")
        ]
        if len(times) == 2 and all(times):
            limits.append(math.ceil(times[0] / times[1]))
    return min(limits, default=0)


def memory(root: Path = Path("/")) -> int:
    """Memory of this machine, or of its containers if they have less, in bytes."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # not POSIX
        total = _USUAL_MEMORY
    for group in _control_groups("memory", root):
        for name in ("memory.max", "memory.high", "memory.limit_in_bytes"):
            total = min([total, *_numbers(group / name)])
    return total


def _control_groups(controller: str, root: Path) -> Iterator[Path]:
    """Folders of the control groups of this process in both versions, with those that they are nested in."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        for top in ("sys/fs/cgroup", "sys/fs/cgroup/unified") if not controllers else (f"sys/fs/cgroup/{controller}",):
            # A container may not see its own groups; then the limits of the container are those at the top.
            parts = [] if ".." in path else path.strip("/").split("/")
            yield from (root.joinpath(top, *parts[:depth]) for depth in range(len(parts), -1, -1))


def _numbers(path: Path) -> list[int]:
    """The whole numbers in a file; none if it is missing or one of its words is not a number, such as ``max``."""
    try:
        words = path.read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return []
    return [int(word) for word in words] if all(word.isdecimal() for word in words) else []


def _start_worker() -> None:
    # Threads of libraries would compete with the other workers; set before their first import.
    os.environ["POLARS_MAX_THREADS"] = "1"
    warnings.showwarning = show_warning
    # The parent reports interrupts; workers end with their parent.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    follow_parent()


def follow_parent(end: Callable[[], object] = lambda: None) -> None:
    """End this process, after a call of ``end``, when its parent has ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        end()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
