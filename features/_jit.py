"""The one place that holds Numba's options.

Lazy compilation (eager signatures refuse read-only arrays), a cache on disk, no GIL, and IEEE division instead of
exceptions.  Never ``fastmath``: NaN is data here.  Numba's cache does not see an edit in a helper of another file, so
kernels call only helpers of their own module.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from numba import njit

kernel: Callable[..., Callable[[Any], Any]] = partial(njit, cache=True, nogil=True, error_model="numpy")
