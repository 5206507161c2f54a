"""Statistics along one dimension in primitives of ``jax.lax``, for the programs of the normalisations."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from gbr.collect.kernels._jit import ZERO

#: Added to a variance before its root is divided by.
EPSILON: Final = np.float32(1e-5)


def along(lax: Any, statistic: Any, x: Any, axis: int) -> Any:
    """Broadcast a statistic of ``x`` over ``axis`` to the shape of ``x``."""
    return lax.broadcast_in_dim(statistic, x.shape, tuple(dim for dim in range(x.ndim) if dim != axis))


def total_along(lax: Any, x: Any, axis: int) -> Any:
    """Sum of ``x`` over ``axis``."""
    return lax.reduce(x, ZERO, lax.add, (axis,))


def mean_along(lax: Any, x: Any, axis: int) -> Any:
    """Mean of ``x`` over ``axis``."""
    total = total_along(lax, x, axis)
    return lax.mul(total, lax.full_like(total, 1 / x.shape[axis]))


def shifted_exp(lax: Any, x: Any, axis: int) -> tuple[Any, Any]:
    """Maximum of ``x`` over ``axis``, and the exponential of ``x`` less that maximum."""
    top = lax.reduce(x, np.float32(-np.inf), lax.max, (axis,))
    return top, lax.exp(lax.sub(x, along(lax, top, x, axis)))


def softmax(lax: Any, x: Any, axis: int) -> Any:
    """Softmax of ``x`` over ``axis``."""
    _, e = shifted_exp(lax, x, axis)
    return lax.div(e, along(lax, total_along(lax, e, axis), x, axis))
