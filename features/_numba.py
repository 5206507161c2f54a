"""The one place that holds Numba's options.

Lazy compilation (eager signatures refuse read-only arrays), a cache on disk, no GIL, and IEEE division instead of
exceptions.  Never ``fastmath``: NaN is data here.  Numba's cache does not see an edit in a helper of another file, so
kernels call only helpers of their own module.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from numba import njit

_OPTIONS: Final[dict[str, Any]] = {"nogil": True, "error_model": "numpy"}


def kernel(inline: bool = False) -> Callable[[Any], Any]:
    """Compile a function on its first call and keep the machine code, where there is a folder to keep it in.

    Parameters
    ----------
    inline : bool
        Put the function's body where it is called: every array that a call passes is half a dozen words on the stack.
    """
    options = {**_OPTIONS, "inline": "always" if inline else "never"}

    def compiled(function: Any) -> Any:
        try:
            return njit(cache=True, **options)(function)
        except RuntimeError:  # a read-only installation and no home of the user's: compile in every process
            return njit(**options)(function)

    return compiled
