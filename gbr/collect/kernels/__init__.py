"""The kernels that are measured: tiled loop nests, one compiled function per family."""

from __future__ import annotations

from typing import Final

from gbr.collect.kernels import (
    across,
    conv,
    depthwise,
    elementwise,
    matmul,
    minor,
    movement,
    normalise,
    products,
    reduce,
    rowwise,
    turned,
    window,
)
from gbr.collect.kernels._family import Family, Loop, Nest, Shape, Slot

__all__ = ["FAMILIES", "TEST", "VALID", "Family", "Loop", "Nest", "Shape", "Slot", "split_of"]

#: All families by name.
FAMILIES: Final[dict[str, Family]] = {
    family.name: family
    for module in (
        matmul,
        products,
        conv,
        depthwise,
        movement,
        reduce,
        minor,
        across,
        rowwise,
        normalise,
        window,
        elementwise,
        turned,
    )
    for family in module.FAMILIES
}

#: Families held out, from every group; all others are for training.
VALID: Final = frozenset(
    """
    matmul_bias_relu gram conv2d_dilated depthwise_nchw transpose_102 transpose_0312 transpose_1032 sum_middle max_minor
    sum_trailing variance_minor layer_norm avg_pool_overlapping min_pool_1d stencil7 outer_update gate_transposed
    mul_permuted_0213 additive_scores
    """.split()
)
TEST: Final = frozenset(
    """
    matmul_nt attention_scores vecmat matvec_batched conv2d_stride2 conv1d depthwise transpose_210 transpose_0231
    sum_major squared_distance max_plus_transposed logsumexp group_norm max_pool_nchw avg_pool add_transposed
    blend_transposed sub_permuted_102 channel_affine
    """.split()
)


def split_of(family: str) -> str:
    """``train``, ``valid`` or ``test``: the split that all kernels of ``family`` are in."""
    return "valid" if family in VALID else "test" if family in TEST else "train"
