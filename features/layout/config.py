"""A layout configuration as it is given, pooled over its nodes: what the simplest baselines see."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from features._numba import kernel
from features.hlo import LAYOUT_CONFIG
from features.schema import Block, Column, Float32Array

IntArray = NDArray[np.int64]

BLOCK: Final = Block(
    "config",
    1,
    "The configuration as it is given, pooled over the configurable nodes.",
    (
        *(
            Column(f"mean.{name}", "dimension", f"Mean of {name} over the nodes, -1 where unset")
            for name in LAYOUT_CONFIG
        ),
        *(Column(f"std.{name}", "dimension", f"Standard deviation of {name} over the nodes") for name in LAYOUT_CONFIG),
        Column("configured", "share", "Part of the nodes that have any layout set"),
        Column("is_default", "flag", "Whether every layout is left to the compiler"),
    ),
    per_config=True,
)


#: Whole numbers that a (node, row) pair adds to the pools: slots, their squares, and whether any slot is set.
N_POOLED: Final = 2 * len(LAYOUT_CONFIG) + 1


def pooled_values(rows: IntArray) -> NDArray[np.int32]:
    """What every row adds, int32 (rows, N_POOLED), of int64 (rows, 18)."""
    return np.concatenate([rows, rows * rows, (rows >= 0).any(axis=1, keepdims=True)], axis=1).astype(np.int32)


@kernel()
def _pool(totals, n_nodes, out):  # type: ignore[no-untyped-def]
    n_configs, width = len(totals), totals.shape[1] // 2
    for config in range(n_configs):
        for slot in range(width):
            mean = totals[config, slot] / n_nodes
            out[config, slot] = mean
            out[config, width + slot] = np.sqrt(max(totals[config, width + slot] / n_nodes - mean * mean, 0.0))
        out[config, 2 * width] = totals[config, 2 * width] / n_nodes
        out[config, 2 * width + 1] = totals[config, 2 * width] == 0


def pooled_config(totals: NDArray[np.int32], n_nodes: int, out: Float32Array) -> None:
    """Fill in the block's columns.

    Parameters
    ----------
    totals : int32 (b, N_POOLED)
        Sums of :func:`pooled_values` over the nodes.
    n_nodes : int
    out : float32 (b, len(BLOCK))
    """
    _pool(totals, n_nodes, out)
