"""Log-signed statistics of the node features over the nodes of a graph."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from features._numba import kernel
from features.graph import Program
from features.hlo import FEAT_ID, NODE_FEAT
from features.schema import Block, Column, Float32Array


def _informative(name: str) -> bool:
    stem, _, slot = name.rpartition("_")
    # Slots 4 and 5 of the window columns and the reversal flags are constant in every collection seen.
    return not (name.startswith("window") and (slot in ("4", "5") or "reversal" in stem))


NODE_COLUMNS: Final[tuple[str, ...]] = tuple(name for name in NODE_FEAT if _informative(name))
_SELECTED: Final = np.array([FEAT_ID[name] for name in NODE_COLUMNS], np.int64)
STATISTICS: Final[tuple[tuple[str, str], ...]] = (("mean", "mean"), ("std", "standard deviation"), ("max", "maximum"))

BLOCK: Final = Block(
    "nodes",
    1,
    "Statistics over the nodes of sign(x) * log2(1 + |x|) of every node feature.",
    tuple(
        Column(f"{short}.{name}", "log2", f"{long.capitalize()} over the nodes of log-signed {name}")
        for short, long in STATISTICS
        for name in NODE_COLUMNS
    ),
    per_config=False,
)


@kernel()
def _log_signed_statistics(feat, columns):  # type: ignore[no-untyped-def]
    n_nodes, n_columns = len(feat), len(columns)
    out = np.zeros((3, n_columns))
    if n_nodes == 0:
        return out
    square = np.zeros(n_columns)
    for node in range(n_nodes):
        for place in range(n_columns):
            raw = float(feat[node, columns[place]])
            value = 0.0
            if raw > 0:
                value = np.log2(1.0 + raw)
            elif raw < 0:
                value = -np.log2(1.0 - raw)
            # Welford: the two-pass variance would cancel where a column is nearly constant.
            delta = value - out[0, place]
            out[0, place] += delta / (node + 1)
            square[place] += delta * (value - out[0, place])
            if node == 0 or value > out[2, place]:
                out[2, place] = value
    for place in range(n_columns):
        out[1, place] = np.sqrt(square[place] / n_nodes)
    return out


def log_signed(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """``sign(x) * log2(1 + |x|)``, elementwise."""
    wide = np.asarray(values, np.float64)
    return np.sign(wide) * np.log2(1.0 + np.abs(wide))


def node_statistics(program: Program) -> Float32Array:
    """The block's columns, float32 (len(BLOCK),): means, standard deviations, maxima; zeros for an empty graph."""
    return np.asarray(_log_signed_statistics(program.feat, _SELECTED), np.float32).reshape(-1)
