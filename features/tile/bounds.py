"""From the bounds of a tile configuration to the tile of every loop.

Bounds belong to tensors: ``output_bounds`` to what the kernel's heaviest operation writes (or, where they name more
dimensions than that has, to what a reduction reads), ``kernel_bounds`` to its right operand and ``input_bounds`` to its
left one.  A CPU kernel's count elements along the logical dimensions.  A TPU kernel's count along the dimensions as
they lie in memory, major to minor, and the last two are in whole registers: 8 x 128 elements of four bytes, 16 x 128 of
two; a vector's only bound is in registers of 1024 elements.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.hardware import CPU, Hardware
from features.hlo import ELEMENT_TYPES, MAX_RANK, TILE_CONFIG
from features.tensors import Tensors
from features.tile.access import LoopNest

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

_KERNEL: Final = TILE_CONFIG.index("kernel_bounds_0")
_OUTPUT: Final = TILE_CONFIG.index("output_bounds_0")
_INPUT: Final = TILE_CONFIG.index("input_bounds_0")
_PREDICATE: Final = ELEMENT_TYPES.index("pred")
#: A comparison leaves one mask per lane of what it compares, whatever a predicate takes in memory.
_MASK_BYTES: Final = 4.0


@dataclass(frozen=True, eq=False)
class TensorTiles:
    """Tiles of one tensor under every configuration.

    Parameters
    ----------
    node : int
        Whose output the tensor is.
    coefficients : float64 (rank, loops)
        Step along each dimension per step of each loop.
    tiles : int64 (c, rank)
        Elements along each logical dimension, at most its extent; 0 where the configuration names none.
    """

    node: int
    coefficients: FloatArray
    tiles: IntArray


def tensor_tiles(
    nest: LoopNest, tensors: Tensors, configs: NDArray[np.floating], hardware: Hardware = CPU
) -> list[TensorTiles]:
    """Tiles of the tensors that the bounds belong to.

    Parameters
    ----------
    nest : LoopNest
    tensors : Tensors
        Those of the nest's program.
    configs : float (c, 24)
        Columns of :data:`features.hlo.TILE_CONFIG`.
    hardware : Hardware
        Says what the bounds count.

    Returns
    -------
    list of TensorTiles
        The output, the reduced input, the right operand, the left operand; as far as there are any.
    """
    physical = hardware.tile_bounds == "registers"
    written = nest.accesses[0].node, nest.accesses[0].coefficients
    if physical:
        written = nest.operands.get("out", written)
    left, right = nest.operands.get("left"), nest.operands.get("right")
    output = configs[:, _OUTPUT : _OUTPUT + MAX_RANK]
    wide = ((output > 0).sum(axis=1) > len(written[1]))[:, None]
    given = (
        (written, np.where(wide, 0, output)),
        (left or written, np.where(wide, output, 0)),
        (right, configs[:, _KERNEL : _KERNEL + MAX_RANK]),
        (left or written, configs[:, _INPUT : _INPUT + MAX_RANK]),
    )
    found = []
    for tensor, bounds in given:
        if tensor is None or not (bounds > 0).any():
            continue
        node, coefficients = tensor
        elements = _from_registers(tensors, node, bounds, hardware) if physical else bounds
        rank = min(len(coefficients), MAX_RANK)
        tiles = np.minimum(np.ceil(elements[:, :rank]), tensors.dims[node, :rank]).astype(np.int64)
        found.append(TensorTiles(node, coefficients, tiles))
    return found


def loop_tiles(nest: LoopNest, tensors: Tensors, configs: NDArray[np.floating], hardware: Hardware = CPU) -> IntArray:
    """Tile of every loop under every configuration.

    A loop that several bounds name takes the first of :func:`tensor_tiles`.  A loop that none names is not tiled.

    Parameters
    ----------
    nest : LoopNest
    tensors : Tensors
        Those of the nest's program.
    configs : float (c, 24)
        Columns of :data:`features.hlo.TILE_CONFIG`.
    hardware : Hardware
        Says what the bounds count.

    Returns
    -------
    int64 (c, loops)
        Between 1 and the loop's extent.
    """
    tiles = np.repeat(nest.extents[None, :], len(configs), axis=0)
    named = np.zeros(tiles.shape, bool)
    for tensor in tensor_tiles(nest, tensors, configs, hardware):
        _apply(tiles, named, nest, tensor)
    return tiles


def bound_units(tensors: Tensors, node: int, hardware: Hardware) -> IntArray:
    """Elements that one step of a bound stands for along each dimension as it lies in memory, int64 (rank,).

    Parameters
    ----------
    tensors : Tensors
    node : int
    hardware : Hardware
        Whose registers bounds count.
    """
    masks = tensors.element_type[node] == _PREDICATE
    sublanes, lanes = hardware.register_tile(_MASK_BYTES if masks else float(tensors.width[node]))
    units = np.ones(int(tensors.rank[node]), np.int64)
    units[-2:] = (sublanes, lanes) if len(units) > 1 else sublanes * lanes
    return units


def _from_registers(
    tensors: Tensors, node: int, bounds: NDArray[np.floating], hardware: Hardware
) -> NDArray[np.floating]:
    """Bounds of one tensor in elements along its logical dimensions; 0 where their number is not that of these."""
    units = bound_units(tensors, node, hardware)
    elements = np.zeros_like(bounds)
    if len(units):
        order = tensors.layout(node)[::-1]  # major to minor
        elements[:, order] = bounds[:, : len(units)] * units
        elements[(bounds > 0).sum(axis=1) != len(units)] = 0
    return elements


def _apply(tiles: IntArray, named: NDArray[np.bool_], nest: LoopNest, tensor: TensorTiles) -> None:
    """Set, in place, the tile of each loop that a tensor's dimensions name first."""
    coefficients = tensor.coefficients
    for dim in range(tensor.tiles.shape[1]):
        loops = np.flatnonzero(coefficients[dim] > 0)
        if not len(loops):
            continue
        # Several loops share a dimension under a window: the one that takes the larger steps is the one tiled.
        loop = int(max(loops, key=lambda loop: (coefficients[dim, loop], nest.extents[loop])))
        bound = np.ceil(tensor.tiles[:, dim] / max(coefficients[dim, loop], 1.0)).astype(np.int64)
        rows = (bound > 0) & ~named[:, loop]
        tiles[rows, loop] = np.clip(bound[rows], 1, nest.extents[loop])
        named[rows, loop] = True
