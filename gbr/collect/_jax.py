"""JAX, an optional extra, which computes on the CPU and in the calling thread, and its results as a reference."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from gbr.errors import CollectError, MissingLibraryError

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_CPU_ENABLE_ASYNC_DISPATCH", "0")
try:
    import jax
    from jax import lax, nn
    from jax import numpy as jnp
    from jax.experimental.layout import Layout, with_layout_constraint
    from jaxlib.xla_client import make_cpu_client
except ImportError as fault:
    raise MissingLibraryError(
        f"gbr.collect needs JAX 0.10 or newer, which cannot be imported ({fault}); "
        "install it with `pip install 'gbr[collect]'`"
    ) from fault

__all__ = ["Layout", "Reference", "cpu_device", "jax", "jnp", "lax", "nn", "proto", "with_layout_constraint"]


def cpu_device() -> Any:
    """Return another CPU device, with one thread per core that this thread may use now, and no asynchronous dispatch.

    The devices of a JAX that has computed before keep the threads of that time, which disturb measurements.
    """
    return make_cpu_client(asynchronous=False).local_devices()[0]


def proto(lowered: Any) -> bytes:
    """Serialized ``HloModuleProto`` of a lowered function."""
    return bytes(lowered.compiler_ir("hlo").as_serialized_hlo_module_proto())


class Reference:
    """Results of the plain program ``name``, a list of arrays, to compare the results of a configuration with."""

    def __init__(self, results: Sequence[Any], name: str) -> None:
        self._name = name
        # Compared by NumPy, as JAX 0.10 misreads results in other layouts.
        self._expected = [np.asarray(each) for each in results]
        self.limits = [_tolerance(each) for each in self._expected]

    def check(self, results: Sequence[Any], config: object) -> None:
        """Raise CollectError if a result of a configuration differs by more than rounding errors."""
        for index, (found, expected, limit) in enumerate(zip(results, self._expected, self.limits, strict=True)):
            if not np.allclose(np.asarray(found), expected, rtol=0, atol=limit, equal_nan=True):
                worst = float(np.nanmax(np.abs(np.asarray(found, np.float64) - np.asarray(expected, np.float64))))
                raise CollectError(
                    f"{self._name}, configuration {config}: result {index} differs from the JAX result by {worst:.3g}, "
                    f"expected at most {limit:.3g}; the compiled code is wrong, and nothing was written"
                )


def _tolerance(expected: Any) -> float:
    """Maximum rounding error of a result, whose sums may be reordered; larger for short types, 0 for integers."""
    if not jnp.issubdtype(expected.dtype, jnp.inexact):
        return 0.0
    size = np.abs(expected[np.isfinite(expected)]).astype(np.float64)
    return max(2e-4, 4 * float(jnp.finfo(expected.dtype).eps)) * float(size.max(initial=0.0))
