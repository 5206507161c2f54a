"""The door to JAX: the HLO of a function, and its result to check a kernel against."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gbr.errors import MissingLibraryError


def load() -> Any:
    """Import and return the ``jax`` module, on the CPU.

    Raises
    ------
    MissingLibraryError
        Where JAX is not installed.
    """
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    try:
        import jax
    except ImportError as fault:
        raise MissingLibraryError(
            "gbr.collect takes the graph of a kernel from JAX, which cannot be imported "
            f"({fault}); install it with `pip install 'gbr[collect]'`"
        ) from fault
    return jax


def hlo(program: Callable[..., Any], shapes: Sequence[tuple[int, ...]]) -> bytes:
    """Serialized ``HloModuleProto`` of ``program(lax, *operands)`` for float32 operands of ``shapes``."""
    jax = load()
    operands = [jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes]
    lowered = _jit(jax, program).lower(*operands)
    return bytes(lowered.compiler_ir("hlo").as_serialized_hlo_module_proto())


def run(program: Callable[..., Any], operands: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Result of ``program(lax, *operands)``, compiled by XLA."""
    return np.asarray(_jit(load(), program)(*operands), np.float32)


def _jit(jax: Any, program: Callable[..., Any]) -> Any:
    def kernel(*operands: Any) -> Any:
        return program(jax.lax, *operands)

    return jax.jit(kernel)
