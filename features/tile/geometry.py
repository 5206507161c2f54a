"""Geometry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features._numba import kernel
from features.hardware import CPU, Hardware
from features.hlo import ELEMENT_TYPES, MAX_RANK, TILE_CONFIG
from features.schema import Block, Column, Float32Array
from features.tensors import Tensors
from features.tile.loops import LoopNest
from features.tile.operands import CLASS_LOOPS, MISSING, N_FAST, N_OUT, N_REDUCED, ROLES, LoopSlots

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


_TOTALS: Final = (
    Column("tiles", "log2", "Tiles needed to cover all loops"),
    Column("volume", "log2", "Iterations in one tile"),
    Column("waste", "log2", "Iterations of all tiles over iterations needed (padding of the last tiles)"),
    Column("footprint", "log2", "Bytes that one tile touches, all operands"),
    Column("lines", "log2", "Cache lines that one tile touches, all operands"),
    Column(
        "traffic.cold", "log2", "Bytes of lines moved if an operand is moved once per tile of the loops it depends on"
    ),
    Column("traffic.ordered", "log2", "Bytes of lines moved if only the innermost tile loops reuse an operand"),
    Column("traffic.streamed", "log2", "Bytes of lines moved if every tile moves all its operands"),
    Column("intensity", "log2", "Iterations per byte of ordered traffic"),
    Column("density", "log2", "Iterations of a tile per byte of its footprint"),
)
_PER_ROLE: Final = (
    ("footprint", "log2", "Bytes of {} in one tile"),
    ("share", "share", "Part of {} that is in one tile"),
    ("run", "log2", "Bytes of {} in one contiguous run of a tile"),
    ("lines", "log2", "Cache lines of {} in one tile"),
    ("reload", "log2", "Times that {} is moved under ordered traffic"),
)
_PER_CLASS: Final = (
    ("tile", "log2", "Product of the tiles of the {} loops"),
    ("trips", "log2", "Product of the tile counts of the {} loops"),
    ("waste", "log2", "Padding of the last tiles of the {} loops"),
    ("share", "share", "Tile over extent of the {} loops"),
)
_PER_SLOT: Final = (
    ("tile", "log2", "Tile of {}"),
    ("trips", "log2", "Tiles along {}"),
    ("tail", "share", "Empty part of the last tile along {}"),
    ("align", "log2", "Largest power of two that divides the tile of {} (at most 128)"),
)
_ROLE_DOC: Final = {
    "out": "the result",
    "left": "the left operand",
    "right": "the right operand",
    "extra": "the largest further operand",
}
_SLOT_DOC: Final = (
    *((f"out{slot}", f"result loop {slot} (minor-most first)") for slot in range(N_OUT)),
    *((f"red{slot}", f"reduced loop {slot} (smallest stride first)") for slot in range(N_REDUCED)),
    *((f"fast{slot}", f"loop {slot} by fewest strided operands") for slot in range(N_FAST)),
)

BLOCK: Final = Block(
    "geometry",
    3,
    "Tiles of the kernel's loops: counts, padding, footprint, traffic, reuse, contiguity, alignment.",
    (
        *_TOTALS,
        *(
            Column(f"{role}.{name}", unit, doc.format(_ROLE_DOC[role]))
            for role in ROLES
            for name, unit, doc in _PER_ROLE
        ),
        *(Column(f"{name}.{stem}", unit, doc.format(name)) for name in CLASS_LOOPS for stem, unit, doc in _PER_CLASS),
        *(
            Column(f"{slot}.{stem}", unit, doc.format(long))
            for slot, long in _SLOT_DOC
            for stem, unit, doc in _PER_SLOT
        ),
    ),
    per_config=True,
)


@kernel()
def _tile_geometry(  # type: ignore[no-untyped-def]
    tiles, extents, coefficients, dims, order, rank, width, role, classes, slots, line, missing, n_roles, n_classes
):
    n_configs, n_loops = tiles.shape
    n_accesses = len(rank)
    n_slots = len(slots)
    out = np.zeros((n_configs, 10 + 5 * n_roles + 4 * n_classes + 4 * n_slots), np.float32)
    trips = np.empty(n_loops)
    for config in range(n_configs):
        n_tiles, volume, needed = 1.0, 1.0, 1.0
        for loop in range(n_loops):
            trips[loop] = np.ceil(extents[loop] / tiles[config, loop])
            n_tiles *= trips[loop]
            volume *= tiles[config, loop]
            needed *= extents[loop]
        footprint, lines, cold, ordered, streamed = 0.0, 0.0, 0.0, 0.0, 0.0
        for place in range(5 * n_roles):
            out[config, 10 + place] = missing
        seen_role = 0
        for access in range(n_accesses):
            elements, run, whole, total = 1.0, 1.0, True, 1.0
            for place in range(rank[access]):
                dim = order[access, place]
                span, points = 1.0, 1.0
                for loop in range(n_loops):
                    step = abs(coefficients[access, dim, loop])
                    if step > 0:
                        span += step * (tiles[config, loop] - 1)
                        points *= tiles[config, loop]
                span = min(np.floor(span), dims[access, dim])
                points = min(points, span)
                elements *= points
                total *= dims[access, dim]
                # A contiguous run ends at the first dimension that is not covered whole or has gaps.
                if whole and points == span:
                    run *= span
                whole = whole and span == dims[access, dim] and points == span
            once, until, n_before, here = 1.0, 1.0, 1.0, False
            for loop in range(n_loops):
                n_before *= trips[loop]
                here = False
                for dim in range(rank[access]):
                    if coefficients[access, dim, loop] != 0.0:
                        here = True
                if here:
                    once *= trips[loop]
                    if trips[loop] > 1:
                        until = n_before
            access_lines = elements / run * np.ceil(run * width[access] / line)
            nbytes = elements * width[access]
            footprint += nbytes
            lines += access_lines
            cold += access_lines * line * once
            ordered += access_lines * line * until
            streamed += access_lines * line * n_tiles
            if role[access] >= 0 and (seen_role >> role[access]) & 1 == 0:
                seen_role |= 1 << role[access]
                base = 10 + 5 * role[access]
                out[config, base] = np.log2(nbytes)
                out[config, base + 1] = elements / total
                out[config, base + 2] = np.log2(run * width[access])
                out[config, base + 3] = np.log2(access_lines)
                out[config, base + 4] = np.log2(elements * until / total)
        out[config, 0] = np.log2(n_tiles)
        out[config, 1] = np.log2(volume)
        out[config, 2] = np.log2(n_tiles * volume / needed)
        out[config, 3] = np.log2(footprint)
        out[config, 4] = np.log2(lines)
        out[config, 5] = np.log2(cold)
        out[config, 6] = np.log2(ordered)
        out[config, 7] = np.log2(streamed)
        out[config, 8] = np.log2(needed / ordered)
        out[config, 9] = np.log2(volume / footprint)
        base = 10 + 5 * n_roles
        for number in range(n_classes):
            tile, count, extent = 1.0, 1.0, 1.0
            for loop in range(n_loops):
                if classes[loop] == number:
                    tile *= tiles[config, loop]
                    count *= trips[loop]
                    extent *= extents[loop]
            out[config, base] = np.log2(tile)
            out[config, base + 1] = np.log2(count)
            out[config, base + 2] = np.log2(tile * count / extent)
            out[config, base + 3] = tile / extent
            base += 4
        for slot in range(n_slots):
            loop = slots[slot]
            if loop < 0:
                for place in range(4):
                    out[config, base + place] = missing
            else:
                tile = tiles[config, loop]
                out[config, base] = np.log2(tile)
                out[config, base + 1] = np.log2(trips[loop])
                out[config, base + 2] = trips[loop] - extents[loop] / tile
                align = 0
                while align < 7 and tile % 2 == 0:
                    tile //= 2
                    align += 1
                out[config, base + 3] = align
            base += 4
    return out


class Geometry:
    """The geometry of one kernel's tiles.

    Parameters
    ----------
    nest : LoopNest
    tensors : Tensors
    slots : LoopSlots
    hardware : Hardware
        Whose lines are counted.

    Attributes
    ----------
    extents : int64 (loops,)
    coefficients : float64 (accesses, 6, loops)
    dims, order, strides : int64 (accesses, 6)
        Extents, minor-to-major order and bytes between neighbours along each dimension.
    rank : int64 (accesses,)
    width : float64 (accesses,)
        Bytes of an element.
    role : int64 (accesses,)
        Position in :data:`features.tile.operands.ROLES`.
    """

    def __init__(self, nest: LoopNest, tensors: Tensors, slots: LoopSlots, hardware: Hardware = CPU) -> None:
        accesses, n_loops = nest.accesses, len(nest.extents)
        self.extents = nest.extents
        self.reduces = nest.reduces
        self.extremum = nest.extremum
        self.coefficients = np.zeros((len(accesses), MAX_RANK, n_loops))
        self.dims = np.ones((len(accesses), MAX_RANK), np.int64)
        self.order = np.zeros((len(accesses), MAX_RANK), np.int64)
        self.rank = np.array([len(access.coefficients) for access in accesses], np.int64)
        self.strides = np.zeros((len(accesses), MAX_RANK), np.int64)
        self.width = np.array([tensors.width[access.node] for access in accesses], np.float64)
        for row, access in enumerate(accesses):
            rank = self.rank[row]
            self.coefficients[row, :rank] = access.coefficients
            self.dims[row, :rank] = tensors.shape(access.node)
            self.order[row, :rank] = tensors.layout(access.node)
            self.strides[row, :rank] = tensors.strides(access.node) * int(tensors.width[access.node])
        self.role = np.array([ROLES.index(access.role) for access in accesses], np.int64)
        self._classes = np.array([CLASS_LOOPS.index(name) for name in nest.roles], np.int64)
        self._slots = np.array(slots.all, np.int64)
        self._line = float(hardware.line_bytes)

    def __call__(self, tiles: NDArray[np.int64]) -> Float32Array:
        """The block's columns, float32 (c, len(BLOCK)), for int64 (c, loops) tiles between 1 and the loop extents."""
        return np.asarray(
            _tile_geometry(
                tiles,
                self.extents,
                self.coefficients,
                self.dims,
                self.order,
                self.rank,
                self.width,
                self.role,
                self._classes,
                self._slots,
                self._line,
                MISSING,
                len(ROLES),
                len(CLASS_LOOPS),
            )
        )
