"""The exponential as compilers emit it in a loop: no call, so that the loop vectorises."""

from __future__ import annotations

import numpy as np

from gbr.collect.kernels._jit import kernel

ONE = np.float32(1)
HALF = np.float32(0.5)


@kernel()
def exp(x):  # type: ignore[no-untyped-def]
    """Exponential of a float32.

    Cody-Waite reduction and a fifth-degree polynomial (Cephes, expf); the argument is
    clamped to where the result is normal.
    """
    x = min(max(x, np.float32(-87)), np.float32(88))
    z = np.floor(x * np.float32(1.4426950408889634) + HALF)
    r = x - z * np.float32(0.6931471805599453)
    p = np.float32(1.9875691500e-4)
    p = p * r + np.float32(1.3981999507e-3)
    p = p * r + np.float32(8.3334519073e-3)
    p = p * r + np.float32(4.1665795894e-2)
    p = p * r + np.float32(1.6666665459e-1)
    p = p * r + np.float32(5.0000001201e-1)
    p = p * r * r + r + ONE
    return p * np.int32((np.int32(z) + np.int32(127)) << np.int32(23)).view(np.float32)
