"""The one place that holds Numba's options.

Lazy compilation (eager signatures refuse read-only arrays), a cache on disk, no GIL, and IEEE division instead of
exceptions.  Never ``fastmath``: NaN is data here.  Numba's cache does not see an edit in a helper of another file, so
kernels call only helpers of their own module.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from numba import njit

_OPTIONS: Final = {"nogil": True, "error_model": "numpy"}


def kernel() -> Callable[[Any], Any]:
    """Compile a function on its first call and keep the machine code, where there is a folder to keep it in."""

    def compiled(function: Any) -> Any:
        try:
            return njit(cache=True, **_OPTIONS)(function)
        except RuntimeError:  # a read-only installation and no home of the user's: compile in every process
            return njit(**_OPTIONS)(function)

    return compiled
