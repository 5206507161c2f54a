"""Tiles of loops and tensors, and their geometry: counts, sizes, footprints, traffic.

The bounds of a tile configuration apply to tensors: ``output_bounds`` to the output of the heaviest operation (or to
the input of a reduction, if there are more bounds than output dimensions), ``kernel_bounds`` to its right operand and
``input_bounds`` to its left operand.  On a CPU, bounds are in elements along the logical dimensions.  On a TPU, the
dimensions are in memory order, major to minor, and the last two are in whole registers: 8 x 128 elements of four bytes,
16 x 128 of two; the bound of a vector is in registers of 1024 elements.

A configuration splits every loop of the nest into ``trips`` tiles of ``tile`` steps.  The index coefficients of an
operand determine its footprint in one tile, and the footprint determines contiguous runs and cache lines.  The loops
that the operand does not depend on determine how often its data are moved.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features._numba import kernel
from features.hardware import CPU, Hardware
from features.hlo import ELEMENT_TYPES, MAX_RANK, TILE_CONFIG
from features.schema import Block, Column, Float32Array
from features.tensors import Tensors
from features.tile.loops import LoopNest
from features.tile.names import named_slots, spread
from features.tile.operands import CLASS_LOOPS, MISSING, ROLE_DOC, ROLES, SLOT_DOC, LoopSlots

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

_KERNEL: Final = TILE_CONFIG.index("kernel_bounds_0")
_OUTPUT: Final = TILE_CONFIG.index("output_bounds_0")
_INPUT: Final = TILE_CONFIG.index("input_bounds_0")
_LARGEST: Final = 2.0**31  # of an unclipped bound
_PREDICATE: Final = ELEMENT_TYPES.index("pred")
#: In registers, a predicate takes one mask per lane of the compared operands, regardless of its size in memory.
_MASK_BYTES: Final = 4.0


class TensorTiles(NamedTuple):
    """Tiles of one tensor under every configuration."""

    node: int
    coefficients: FloatArray  # (rank, loops): step along each dimension per step of each loop
    tiles: IntArray  # (c, rank): elements along each logical dimension, 0 if the configuration has no bound for it


def tensor_tiles(
    nest: LoopNest, tensors: Tensors, configs: NDArray[np.floating], hardware: Hardware = CPU, *, clip: bool = True
) -> Iterator[TensorTiles]:
    """Tiles of the tensors that the bounds of float (c, 24) configurations apply to, in units of the hardware.

    Those of the output, the reduced input, the right operand and the left operand that have bounds, in this order.
    Named slots that are no bounds by position do not count.  Unless ``clip`` is False, no tile exceeds its tensor.
    """
    if len(hidden := named_slots(hardware.config).hidden):
        configs = np.array(configs)
        configs[:, hidden] = 0
    in_registers = hardware.tile_bounds == "registers"
    written = nest.accesses[0].node, nest.accesses[0].coefficients
    if in_registers:
        written = nest.operands.get("out", written)
    left, right = nest.operands.get("left"), nest.operands.get("right")
    output = configs[:, _OUTPUT : _OUTPUT + MAX_RANK]
    of_input = ((output > 0).sum(axis=1) > len(written[1]))[:, None]
    bounds_of = (
        (written, np.where(of_input, 0, output)),
        (left or written, np.where(of_input, output, 0)),
        (right, configs[:, _KERNEL : _KERNEL + MAX_RANK]),
        (left or written, configs[:, _INPUT : _INPUT + MAX_RANK]),
    )
    for tensor, bounds in bounds_of:
        if tensor is None or not (bounds > 0).any():
            continue
        node, coefficients = tensor
        rank = len(coefficients)
        elements = bounds[:, :rank]
        if in_registers:  # in memory order; a number of bounds other than the rank does not count
            is_mask = tensors.element_type[node] == _PREDICATE
            sublanes, lanes = hardware.register_tile(_MASK_BYTES if is_mask else float(tensors.width[node]))
            units = np.ones(rank, np.int64)
            units[-2:] = (sublanes, lanes) if rank > 1 else sublanes * lanes
            given, elements = (bounds > 0).sum(axis=1, keepdims=True) == rank, np.zeros_like(elements)
            elements[:, tensors.layout(node)[::-1]] = np.where(given, bounds[:, :rank] * units, 0)
        limits = tensors.dims[node, :rank] if clip else _LARGEST
        tiles = np.minimum(np.ceil(elements), limits).astype(np.int64)
        yield TensorTiles(node, coefficients, tiles)


def loop_bounds(
    nest: LoopNest, tensors: Tensors, configs: NDArray[np.floating], hardware: Hardware = CPU, *, clip: bool = True
) -> IntArray:
    """Bound of every loop under every configuration, int64 (c, loops), 0 for a loop without one.

    If several bounds apply to a loop, the first tensor of :func:`tensor_tiles` takes precedence, and a named block
    before all.
    """
    bounds = np.zeros((len(configs), len(nest.extents)), np.int64)
    for loops, size in named_slots(hardware.config).blocks(nest, configs):
        for loop, tile in spread(loops, size, nest.extents):
            bounds[:, loop] = np.where(bounds[:, loop] > 0, bounds[:, loop], tile)
    for tensor in tensor_tiles(nest, tensors, configs, hardware, clip=clip):
        for dim in range(tensor.tiles.shape[1]):
            steps = tensor.coefficients[dim]
            moving = np.flatnonzero(steps > 0).tolist()
            if not moving:
                continue
            # The loops of a windowed operation share a dimension: the loop with the larger step is tiled.
            loop = max(moving, key=lambda loop: (steps[loop], nest.extents[loop]))
            tile = np.ceil(tensor.tiles[:, dim] / max(steps[loop], 1.0)).astype(np.int64)
            rows = (tile > 0) & (bounds[:, loop] == 0)
            bounds[rows, loop] = tile[rows]
    return bounds


def loop_tiles(nest: LoopNest, tensors: Tensors, configs: NDArray[np.floating], hardware: Hardware = CPU) -> IntArray:
    """Tile of every loop under every configuration, int64 (c, loops), between 1 and the extent of the loop.

    A loop without a bound is not tiled.
    """
    bounds = loop_bounds(nest, tensors, configs, hardware)
    return np.where(bounds > 0, np.clip(bounds, 1, nest.extents), nest.extents)


_PER_ROLE: Final = (
    ("footprint", "log2", "Bytes of {} in one tile"),
    ("share", "share", "Share of {} that is in one tile"),
    ("run", "log2", "Bytes of {} in one contiguous run of a tile"),
    ("lines", "log2", "Cache lines of {} in one tile"),
    ("reload", "log2", "Number of times {} is moved, as in traffic.ordered"),
)
_PER_CLASS: Final = (
    ("tile", "log2", "Product of the tiles of the {} loops"),
    ("trips", "log2", "Product of the tile counts of the {} loops"),
    ("waste", "log2", "Padding of the last tiles of the {} loops"),
    ("share", "share", "Tile over extent of the {} loops"),
)
_PER_SLOT: Final = (
    ("tile", "log2", "Tile of {}"),
    ("trips", "log2", "Number of tiles along {}"),
    ("tail", "share", "Unused share of the last tile along {}"),
    ("align", "log2", "Largest power of two that divides the tile of {} (at most 128)"),
)
_TOTALS: Final = (
    ("tiles", "Tiles needed to cover all loops"),
    ("volume", "Iterations in one tile"),
    ("waste", "Iterations of all tiles over iterations needed (padding of the last tiles)"),
    ("footprint", "Bytes that one tile touches, all operands"),
    ("lines", "Cache lines that one tile touches, all operands"),
    ("traffic.cold", "Bytes of lines moved if an operand is moved once per tile of the loops it depends on"),
    ("traffic.ordered", "Bytes of lines moved if only the innermost tile loops reuse an operand"),
    ("traffic.streamed", "Bytes of lines moved if every tile moves all its operands"),
    ("intensity", "Iterations per byte of ordered traffic"),
    ("density", "Iterations of a tile per byte of its footprint"),
)
_N_ROLES: Final = len(ROLES)
_N_CLASSES: Final = len(CLASS_LOOPS)
_ROLE_0: Final = len(_TOTALS)
_CLASS_0: Final = _ROLE_0 + len(_PER_ROLE) * _N_ROLES
_SLOT_0: Final = _CLASS_0 + len(_PER_CLASS) * _N_CLASSES

BLOCK: Final = Block(
    "geometry",
    3,
    "Tiles of the kernel's loops: counts, padding, footprint, traffic, reuse, contiguity, alignment.",
    (
        *(Column(name, "log2", doc) for name, doc in _TOTALS),
        *(
            Column(f"{prefix}.{name}", unit, text.format(doc))
            for docs, per in (
                (ROLE_DOC, _PER_ROLE),
                (dict(zip(CLASS_LOOPS, CLASS_LOOPS, strict=True)), _PER_CLASS),
                (SLOT_DOC, _PER_SLOT),
            )
            for prefix, doc in docs.items()
            for name, unit, text in per
        ),
    ),
    per_config=True,
)
_N_COLUMNS: Final = len(BLOCK)


class Operands(NamedTuple):
    """The accesses of a loop nest as arrays, their dimensions from minor to major."""

    coefficients: FloatArray  # (accesses, 6, loops): step along each dimension per step of each loop, without sign
    dims: IntArray  # (accesses, 6): extents
    strides: IntArray  # (accesses, 6): bytes between neighbours along each dimension
    rank: IntArray  # (accesses,)
    width: FloatArray  # (accesses,): bytes of an element
    role: IntArray  # (accesses,): index into ROLES


def _operand_arrays(nest: LoopNest, tensors: Tensors) -> Operands:
    n_accesses = len(nest.accesses)
    found = Operands(
        coefficients=np.zeros((n_accesses, MAX_RANK, len(nest.extents))),
        dims=np.ones((n_accesses, MAX_RANK), np.int64),
        strides=np.zeros((n_accesses, MAX_RANK), np.int64),
        rank=np.array([len(access.coefficients) for access in nest.accesses], np.int64),
        width=np.array([tensors.width[access.node] for access in nest.accesses], np.float64),
        role=np.array([ROLES.index(access.role) for access in nest.accesses], np.int64),
    )
    for row, access in enumerate(nest.accesses):
        rank, order = found.rank[row], tensors.layout(access.node)
        found.coefficients[row, :rank] = np.abs(access.coefficients[order])
        found.dims[row, :rank] = tensors.dims[access.node, order]
        found.strides[row, :rank] = (tensors.strides(access.node) * int(tensors.width[access.node]))[order]
    return found


@kernel()
def _covered(tile, access, operands):  # type: ignore[no-untyped-def]
    """Elements of an operand that a tile touches, those of one contiguous run, and those of the whole operand."""
    elements, run, whole, total = 1.0, 1.0, True, 1.0
    for dim in range(operands.rank[access]):
        span, points = 1.0, 1.0
        for loop in range(len(tile)):
            step = operands.coefficients[access, dim, loop]
            if step > 0:
                span += step * (tile[loop] - 1)
                points *= tile[loop]
        span = min(np.floor(span), operands.dims[access, dim])
        points = min(points, span)
        elements *= points
        total *= operands.dims[access, dim]
        # A contiguous run ends at the first dimension that is not covered completely or has gaps.
        if whole and points == span:
            run *= span
        whole = whole and span == operands.dims[access, dim] and points == span
    return elements, run, total


@kernel()
def _fetches(trips, access, operands):  # type: ignore[no-untyped-def]
    """How often the tiles of an operand are fetched if each is fetched once, and if only the last one is kept."""
    once, until, trips_so_far = 1.0, 1.0, 1.0
    for loop in range(len(trips)):
        trips_so_far *= trips[loop]
        depends = False
        for dim in range(operands.rank[access]):
            if operands.coefficients[access, dim, loop] != 0.0:
                depends = True
        if depends:
            once *= trips[loop]
            if trips[loop] > 1:
                until = trips_so_far
    return once, until


@kernel()
def _tile_geometry(tiles, extents, operands, classes, slots, line):  # type: ignore[no-untyped-def]
    """Values of the block, float32 (c, columns).

    tiles : int64 (c, loops); extents, classes : int64 (loops,); slots : int64 (slots,); line : float
    """
    n_configs, n_loops = tiles.shape
    out = np.zeros((n_configs, _N_COLUMNS), np.float32)
    trips = np.empty(n_loops)
    for config in range(n_configs):
        n_tiles, volume, needed = 1.0, 1.0, 1.0
        for loop in range(n_loops):
            trips[loop] = np.ceil(extents[loop] / tiles[config, loop])
            n_tiles *= trips[loop]
            volume *= tiles[config, loop]
            needed *= extents[loop]
        footprint, lines, cold, ordered, streamed = 0.0, 0.0, 0.0, 0.0, 0.0
        for at in range(_ROLE_0, _CLASS_0):  # faster than filling a slice
            out[config, at] = MISSING
        roles_seen = 0
        for access in range(len(operands.rank)):
            elements, run, total = _covered(tiles[config], access, operands)
            once, until = _fetches(trips, access, operands)
            access_lines = elements / run * np.ceil(run * operands.width[access] / line)
            nbytes = elements * operands.width[access]
            footprint += nbytes
            lines += access_lines
            cold += access_lines * line * once
            ordered += access_lines * line * until
            streamed += access_lines * line * n_tiles
            role = operands.role[access]
            if (roles_seen >> role) & 1 == 0:
                roles_seen |= 1 << role
                at = _ROLE_0 + 5 * role
                out[config, at] = np.log2(nbytes)
                out[config, at + 1] = elements / total
                out[config, at + 2] = np.log2(run * operands.width[access])
                out[config, at + 3] = np.log2(access_lines)
                out[config, at + 4] = np.log2(elements * until / total)
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
        for number in range(_N_CLASSES):
            tile, count, extent = 1.0, 1.0, 1.0
            for loop in range(n_loops):
                if classes[loop] == number:
                    tile *= tiles[config, loop]
                    count *= trips[loop]
                    extent *= extents[loop]
            at = _CLASS_0 + 4 * number
            out[config, at] = np.log2(tile)
            out[config, at + 1] = np.log2(count)
            out[config, at + 2] = np.log2(tile * count / extent)
            out[config, at + 3] = tile / extent
        for slot in range(len(slots)):
            loop, at = slots[slot], _SLOT_0 + 4 * slot
            if loop < 0:
                for column in range(at, at + 4):
                    out[config, column] = MISSING
                continue
            size, align = tiles[config, loop], 0
            out[config, at] = np.log2(size)
            out[config, at + 1] = np.log2(trips[loop])
            out[config, at + 2] = trips[loop] - extents[loop] / size
            while align < 7 and size % 2 == 0:
                size //= 2
                align += 1
            out[config, at + 3] = align
    return out


class Geometry:
    """The geometry of the tiles of one kernel; the hardware defines the size of a line."""

    def __init__(self, nest: LoopNest, tensors: Tensors, slots: LoopSlots, hardware: Hardware = CPU) -> None:
        self.nest, self.operands = nest, _operand_arrays(nest, tensors)
        self._classes = np.array([CLASS_LOOPS.index(name) for name in nest.roles], np.int64)
        self._slots = np.array(slots.all, np.int64)
        self._line = float(hardware.line_bytes)

    def __call__(self, tiles: IntArray) -> Float32Array:
        """Values of the block, float32 (c, len(BLOCK)), for int64 (c, loops) tiles between 1 and the loop extents."""
        return np.asarray(
            _tile_geometry(tiles, self.nest.extents, self.operands, self._classes, self._slots, self._line)
        )
