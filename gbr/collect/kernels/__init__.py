"""The kernels that are measured: tiled loop nests, one compiled function per family."""

from __future__ import annotations

from typing import Final

from gbr.collect.kernels import conv, depthwise, elementwise, matmul, movement, reduce, rowwise, window
from gbr.collect.kernels._family import Family, Loop, Nest, Shape, Slot

__all__ = ["FAMILIES", "TEST", "VALID", "Family", "Loop", "Nest", "Shape", "Slot", "split_of"]

#: All families by name.
FAMILIES: Final[dict[str, Family]] = {
    family.name: family
    for module in (matmul, conv, depthwise, movement, reduce, rowwise, window, elementwise)
    for family in module.FAMILIES
}

#: Families held out, from every group; all others are for training.
VALID: Final = frozenset(
    """
    matmul_bias_relu gram conv2d_dilated depthwise_nchw transpose_102 transpose_0312 sum_middle max_minor layer_norm
    avg_pool_overlapping stencil7 outer_update gate_transposed
    """.split()
)
TEST: Final = frozenset(
    """
    matmul_nt attention_scores vecmat conv2d_stride2 conv1d depthwise transpose_210 transpose_0231 sum_major logsumexp
    max_pool_nchw avg_pool add_transposed channel_affine
    """.split()
)


def split_of(family: str) -> str:
    """``train``, ``valid`` or ``test``: the split that all kernels of ``family`` are in."""
    return "valid" if family in VALID else "test" if family in TEST else "train"
