"""Blocks of GPU kernels: how threads and tiles fill the multiprocessors, from parameters with known names.

Occupancy follows the CUDA programming guide: a multiprocessor holds as many blocks as its threads, its registers and
its shared memory allow.  Registers and shared memory are estimates, as a table does not tell what the kernel does:
32 registers and two per output of a thread; both operand tiles of a matrix product, or the tile itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.schema import Block, Column

FloatArray = NDArray[np.float64]

#: Names of parameters, lower case, per meaning.
VOCABULARY: Final[Mapping[str, str]] = {
    "threads_x": r"block_size_x|block_dim_x|blockdim_?x|threads_?x|thread_block_x|local_size_x|wg_?x|mdimc|block_size",
    "threads_y": r"block_size_y|block_dim_y|blockdim_?y|threads_?y|thread_block_y|local_size_y|wg_?y|ndimc",
    "threads_z": r"block_size_z|block_dim_z|blockdim_?z|threads_?z|local_size_z|wg_?z",
    "warps": r"num_warps|n_warps|warps",
    "work_x": r"tile_size_x|work_per_thread_x|wpt_?x|items_per_thread|coarsen_?x|elements_per_thread|work_per_thread",
    "work_y": r"tile_size_y|work_per_thread_y|wpt_?y|coarsen_?y",
    "work_z": r"tile_size_z|work_per_thread_z|wpt_?z|coarsen_?z",
    "tile_x": r"block_m|block_size_m|tile_m|mwg|bm",
    "tile_y": r"block_n|block_size_n|tile_n|nwg|bn",
    "tile_k": r"block_k|block_size_k|tile_k|kwg|bk",
    "stages": r"num_stages|n_stages|stages",
}
#: Names of extents of the problem, in the context.
EXTENTS: Final[Mapping[str, str]] = {
    "extent_x": r"problem_x|problem_size_x|size_x|grid_x|m|width",
    "extent_y": r"problem_y|problem_size_y|size_y|grid_y|n|height",
    "extent_z": r"problem_z|problem_size_z|size_z|grid_z|depth",
}
#: Figures of a device that the columns use, in this order.
FIGURES: Final = ("units", "warp", "threads", "blocks", "registers", "shared_kb")

BLOCK: Final = Block(
    "gpu",
    1,
    "threads, tiles and blocks of a GPU kernel against the limits of the device",
    (
        Column("threads", "log2", "threads of a block"),
        Column("warps", "count", "warps of a block"),
        Column("idle_lanes", "share", "lanes of the last warp without a thread"),
        Column("width", "log2", "threads along x over the warp"),
        Column("work", "log2", "outputs of a thread"),
        Column("tile_x", "log2", "outputs of a block along x"),
        Column("tile_y", "log2", "outputs of a block along y"),
        Column("area", "log2", "outputs of a block"),
        Column("aspect", "log2", "tile along x over along y"),
        Column("reuse", "log2", "outputs of a block over its half perimeter"),
        Column("blocks", "log2", "blocks of the grid"),
        Column("padding", "share", "outputs beyond the problem"),
        Column("blocks_per_unit", "log2", "blocks of the grid over the multiprocessors"),
        Column("imbalance", "log2", "blocks of the fullest multiprocessor over the mean"),
        Column("by_threads", "count", "resident blocks that the threads of a multiprocessor allow"),
        Column("by_registers", "log2", "resident blocks that its registers allow"),
        Column("by_shared", "log2", "resident blocks that its shared memory allows"),
        Column("occupancy", "share", "resident threads of a multiprocessor, by threads and registers"),
        Column("waves", "log2", "rounds in which the resident blocks cover the grid"),
        Column("last_wave", "log2", "whole rounds over rounds: idle share of the last"),
    ),
    per_config=True,
)

_BYTES: Final = 4
_OWN_REGISTERS: Final = 32
_REGISTERS_PER_OUTPUT: Final = 2
_TILE_K: Final = 32  # depth of operand tiles that is assumed without a name


def recognised(names: tuple[str, ...], vocabulary: Mapping[str, str] = VOCABULARY) -> dict[str, int]:
    """Index of the first name of each meaning."""
    found: dict[str, int] = {}
    for meaning, pattern in vocabulary.items():
        for index, name in enumerate(names):
            if re.fullmatch(pattern, name.strip().lower()):
                found.setdefault(meaning, index)
    return found


def applies(meanings: Mapping[str, int]) -> bool:
    """Whether the parameters say how many threads or outputs a block has."""
    return not {"threads_x", "warps", "tile_x"}.isdisjoint(meanings)


def columns(config: Mapping[str, FloatArray], extents: Mapping[str, FloatArray], device: FloatArray) -> FloatArray:
    """Columns of :data:`BLOCK`, float64 (rows, len(BLOCK)); NaN where a name or a figure is missing.

    Parameters
    ----------
    config, extents : mapping of str to float64 (rows,)
        Values by meaning.
    device : float64 (rows, len(FIGURES))
    """
    rows = len(device)
    units, warp, most_threads, most_blocks, registers, shared = device.T
    one, unknown = np.ones(rows), np.full(rows, np.nan)
    lanes = np.where(np.isfinite(warp), warp, 32.0)
    with np.errstate(all="ignore"):
        if "threads_x" in config:
            threads = config["threads_x"] * config.get("threads_y", one) * config.get("threads_z", one)
            width = config["threads_x"]
        else:
            threads = config["warps"] * lanes if "warps" in config else unknown
            width = threads
        if "tile_x" in config:
            tile_x, tile_y = config["tile_x"], config.get("tile_y", one)
            area = tile_x * tile_y
            operands = tile_x + (tile_y if "tile_y" in config else 0)
            nbytes = operands * config.get("tile_k", _TILE_K * one) * config.get("stages", one) * _BYTES
        else:
            tile_x = config.get("threads_x", threads) * config.get("work_x", one)
            tile_y = config.get("threads_y", one) * config.get("work_y", one)
            area = tile_x * tile_y * config.get("threads_z", one) * config.get("work_z", one)
            nbytes = area * _BYTES
        work = area / threads
        grid, padded, extent = one.copy(), one.copy(), one.copy()
        for size, name in ((tile_x, "extent_x"), (tile_y, "extent_y")):
            if name in extents:
                count = np.ceil(extents[name] / size)
                grid, padded, extent = grid * count, padded * count * size, extent * extents[name]
        if "extent_x" not in extents:
            grid, padded = unknown, unknown
        by_threads = np.minimum(np.floor(most_threads / threads), np.where(np.isfinite(most_blocks), most_blocks, 32))
        by_registers = registers / (threads * (_OWN_REGISTERS + _REGISTERS_PER_OUTPUT * work))
        by_shared = shared * 1024 / nbytes
        resident = np.maximum(1, np.minimum(by_threads, np.floor(by_registers)))
        waves = grid / (resident * units)
        found = {
            "threads": np.log2(threads),
            "warps": np.ceil(threads / lanes),
            "idle_lanes": 1 - threads / (np.ceil(threads / lanes) * lanes),
            "width": np.log2(width / lanes),
            "work": np.log2(work),
            "tile_x": np.log2(tile_x),
            "tile_y": np.log2(tile_y),
            "area": np.log2(area),
            "aspect": np.log2(tile_x / tile_y),
            "reuse": np.log2(tile_x * tile_y / (tile_x + tile_y)),
            "blocks": np.log2(grid),
            "padding": 1 - extent / padded,
            "blocks_per_unit": np.log2(grid / units),
            "imbalance": np.log2(np.ceil(grid / units) / (grid / units)),
            "by_threads": by_threads,
            "by_registers": np.log2(by_registers),
            "by_shared": np.log2(by_shared),
            "occupancy": resident * threads / most_threads,
            "waves": np.log2(waves),
            "last_wave": np.log2(np.ceil(waves) / waves),
        }
    values = np.column_stack([found[column.name] for column in BLOCK.columns])
    return np.where(np.isfinite(values), values, np.nan)
