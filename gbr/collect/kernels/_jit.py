"""Numba's options for the kernels that are timed.

Extents, tiles and loop variables are unsigned: Numba wraps negative indices of signed ones around, and that test keeps
LLVM from vectorising the innermost loop (eightfold on a matrix product).  Reassociation lets sums be vectorised as a
compiler would; operands are finite, so dropping NaN and the sign of zero changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import numpy as np
from numba import njit

kernel: Callable[..., Callable[[Any], Callable[..., Any]]] = partial(
    njit, nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz", "nnan"}
)

U: Final = np.uint64
#: First index of every loop.
O: Final = np.uint64(0)  # noqa: E741
ZERO: Final = np.float32(0)
LOWEST: Final = np.float32(-3.4028235e38)
HIGHEST: Final = np.float32(3.4028235e38)
