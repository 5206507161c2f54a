"""Access to JAX, an optional extra, which is imported on first use and runs on the CPU."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gbr.errors import MissingLibraryError


def load() -> Any:
    """Import and return the ``jax`` module, configured to compute in the calling thread.

    Raises
    ------
    MissingLibraryError
        If JAX is not installed.
    """
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("JAX_CPU_ENABLE_ASYNC_DISPATCH", "0")
    try:
        import jax
    except ImportError as fault:
        raise MissingLibraryError(
            f"gbr.collect needs JAX, which cannot be imported ({fault}); install it with `pip install 'gbr[collect]'`"
        ) from fault
    return jax


def load_with_layouts() -> Any:
    """Import and return a ``jax`` module that can constrain layouts.

    Raises
    ------
    MissingLibraryError
        If JAX is not installed, or too old.
    """
    jax = load()
    try:
        from jax.experimental.layout import Layout, with_layout_constraint  # noqa: F401
    except ImportError as fault:
        raise MissingLibraryError(
            f"this JAX cannot constrain layouts ({fault}); install a newer one with `pip install --upgrade 'jax>=0.7'`"
        ) from fault
    return jax


def jit(program: Callable[..., Any]) -> Any:
    """Jitted function of the operands of ``program(lax, *operands)``."""
    jax = load()
    return jax.jit(lambda *operands: program(jax.lax, *operands))


def hlo(program: Callable[..., Any], shapes: Sequence[tuple[int, ...]]) -> bytes:
    """Serialized ``HloModuleProto`` of ``program(lax, *operands)`` for float32 operands of ``shapes``."""
    operands = [load().ShapeDtypeStruct(shape, np.float32) for shape in shapes]
    return proto(jit(program).lower(*operands))


def proto(lowered: Any) -> bytes:
    """Serialized ``HloModuleProto`` of a lowered function."""
    return bytes(lowered.compiler_ir("hlo").as_serialized_hlo_module_proto())
