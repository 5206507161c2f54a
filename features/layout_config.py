"""A layout configuration as it is given, pooled over its nodes: what the simplest baselines see."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from features._jit import kernel
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


@kernel()
def _pool(codes, offsets, rows, configured, out):  # type: ignore[no-untyped-def]
    n_configs, n_nodes = codes.shape
    width = rows.shape[1]
    total = np.empty(width, np.int64)
    square = np.empty(width, np.int64)
    for config in range(n_configs):
        total[:] = 0
        square[:] = 0
        n_set = 0
        for node in range(n_nodes):
            row = offsets[node] + codes[config, node]
            n_set += configured[row]
            for slot in range(width):
                total[slot] += rows[row, slot]
                square[slot] += rows[row, slot] * rows[row, slot]
        for slot in range(width):
            mean = total[slot] / n_nodes
            out[config, slot] = mean
            out[config, width + slot] = np.sqrt(max(square[slot] / n_nodes - mean * mean, 0.0))
        out[config, 2 * width] = n_set / n_nodes
        out[config, 2 * width + 1] = n_set == 0


def pooled_config(codes: NDArray[np.uint16], offsets: IntArray, rows: IntArray, out: Float32Array) -> None:
    """Fill in the block's columns.

    Parameters
    ----------
    codes : uint16 (b, nodes)
        Coded configurations (:class:`features.layout_rows.RowTable`).
    offsets : int64 (nodes + 1,)
        First row of every node.
    rows : int64 (rows, 18)
        The distinct rows of all nodes.
    out : float32 (b, len(BLOCK))
    """
    _pool(codes, offsets, rows, (rows >= 0).any(axis=1), out)
