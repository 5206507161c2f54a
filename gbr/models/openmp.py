"""Calls of the boosting libraries with a number of OpenMP threads, from any thread and in forked processes.

The libraries' own parameter is not used: LightGBM stores it for the whole process, XGBoost in the booster, and both
crash if it changes during another thread's call.  OpenMP's own limit belongs to the calling thread, and also holds
where the libraries take no parameter.

GNU's runtime binds the threads that it starts to the thread that needed them.  A forked process has a copy of the
thread that forked, but of no other, for which that one would wait forever; a new thread starts its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import RLock, get_ident
from typing import Any, TypeVar, cast

from threadpoolctl import ThreadpoolController

from gbr.data.pool import cores, quota

_Result = TypeVar("_Result")

#: The thread that forked this process.
_forked: int | None = None


#: Held during a fit: several at a time, of one library or both, now and then end the process.
fitting = RLock()


def _after_fork() -> None:
    global _forked, fitting
    _forked, fitting = get_ident(), RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@cache
def runtimes() -> list[Any]:
    """The OpenMP runtimes of this process; clear the cache after the import of a library that brings its own."""
    return list(ThreadpoolController().select(user_api="openmp").lib_controllers)


@cache
def _in_container() -> int:
    """Threads in a container with a CPU quota, which OpenMP does not know; 0 without, or if the user has chosen."""
    return cores() if quota() and "OMP_NUM_THREADS" not in os.environ else 0


def call(n_jobs: int, function: Callable[..., _Result], *args: Any, **kwargs: Any) -> _Result:
    """Call a function that starts at most ``n_jobs`` OpenMP threads; 0 leaves the choice to OpenMP and containers."""
    n_jobs = n_jobs or _in_container()
    if get_ident() == _forked and n_jobs != 1:
        with ThreadPoolExecutor(1) as pool:
            return cast(_Result, pool.submit(call, n_jobs, function, *args, **kwargs).result())
    found = runtimes() if n_jobs else []
    before = [runtime.get_num_threads() for runtime in found]
    try:
        for runtime in found:
            runtime.set_num_threads(n_jobs)
        return function(*args, **kwargs)
    finally:
        for runtime, number in zip(found, before, strict=True):
            runtime.set_num_threads(number)
