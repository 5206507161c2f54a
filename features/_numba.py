"""Options of all Numba kernels.

Kernels are compiled lazily (eager signatures reject read-only arrays), cached on disk, release the GIL and divide by
IEEE rules.  They never use ``fastmath``, because inputs may contain NaN.  Numba's cache does not detect an edit in
another file, so a kernel calls only helpers of its own module, and imports only constants that do not change.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit


def kernel(inline: bool = False) -> Callable[[Any], Any]:
    """Compile a function on its first call and cache the machine code on disk if a cache directory is writable.

    Parameters
    ----------
    inline : bool
        Insert the function body at its call sites, which saves the cost of passing arrays.
    """

    def compiled(function: Any) -> Any:
        options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "inline": "always" if inline else "never"}
        try:
            return njit(cache=True, **options)(function)
        except RuntimeError:  # no writable cache directory: compile in every process
            return njit(**options)(function)

    return compiled
