"""From the bounds of a tile configuration to the tile of every loop."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.access import LoopNest
from features.hlo import MAX_RANK, TILE_CONFIG

IntArray = NDArray[np.int64]

_KERNEL: Final = TILE_CONFIG.index("kernel_bounds_0")
_OUTPUT: Final = TILE_CONFIG.index("output_bounds_0")
_INPUT: Final = TILE_CONFIG.index("input_bounds_0")


def loop_tiles(nest: LoopNest, configs: NDArray[np.floating]) -> IntArray:
    """Tile of every loop under every configuration.

    ``output_bounds`` are read along the result's dimensions (along the left operand's where they name more dimensions
    than the result has, as for reductions), ``kernel_bounds`` along the right operand's, ``input_bounds`` along the
    left operand's; a loop that several bounds name takes the first of these.  A loop that none names is not tiled.

    Parameters
    ----------
    nest : LoopNest
    configs : float (c, 24)
        Columns of :data:`features.hlo.TILE_CONFIG`, bounds in logical dimension order.

    Returns
    -------
    int64 (c, loops)
        Between 1 and the loop's extent.
    """
    tiles = np.repeat(nest.extents[None, :], len(configs), axis=0)
    named = np.zeros(tiles.shape, bool)
    result = nest.accesses[0].coefficients
    left = nest.operands.get("left", (0, result))[1]
    right = nest.operands.get("right", (0, np.zeros((0, len(nest.extents)))))[1]
    output = configs[:, _OUTPUT : _OUTPUT + MAX_RANK]
    wide = (output > 0).sum(axis=1) > len(result)
    _apply(tiles, named, nest, np.where(wide[:, None], 0, output), result)
    _apply(tiles, named, nest, np.where(wide[:, None], output, 0), left)
    _apply(tiles, named, nest, configs[:, _KERNEL : _KERNEL + MAX_RANK], right)
    _apply(tiles, named, nest, configs[:, _INPUT : _INPUT + MAX_RANK], left)
    return tiles


def _apply(
    tiles: IntArray,
    named: NDArray[np.bool_],
    nest: LoopNest,
    bounds: NDArray[np.floating],
    coefficients: NDArray[np.float64],
) -> None:
    """Set, in place, the tile of each loop that ``bounds`` along the dimensions of one tensor name first."""
    for dim in range(min(len(coefficients), MAX_RANK)):
        loops = np.flatnonzero(coefficients[dim] > 0)
        if not len(loops):
            continue
        # Several loops share a dimension under a window: the one that takes the larger steps is the one tiled.
        loop = int(max(loops, key=lambda loop: (coefficients[dim, loop], nest.extents[loop])))
        bound = np.ceil(bounds[:, dim] / max(coefficients[dim, loop], 1.0)).astype(np.int64)
        rows = (bound > 0) & ~named[:, loop]
        tiles[rows, loop] = np.clip(bound[rows], 1, nest.extents[loop])
        named[rows, loop] = True
