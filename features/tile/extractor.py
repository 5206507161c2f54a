"""Feature vectors of tile configurations: the graph, its operands, and the effect of the tiles."""

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.graph import Program
from features.hardware import CPU, Hardware, SlotNames
from features.hlo import TILE_CONFIG
from features.program import (
    NEIGHBORHOOD_BLOCK,
    NODES_BLOCK,
    OPCODES_BLOCK,
    kernel_neighborhood,
    node_statistics,
    opcode_histogram,
)
from features.schema import Block, Column, Float32Array, Schema
from features.tensors import Tensors
from features.tile import cpu, geometry, gpu, operands
from features.tile.geometry import loop_tiles
from features.tile.loops import loop_nest
from features.tile.names import named_slots
from features.tile.operands import loop_slots

_BOUNDED: Final = {
    "kernel": "right operand (the kernel of a convolution)",
    "output": "result",
    "input": "left operand",
}


def _bound(name: str) -> str:
    """Description of a column of the configuration."""
    tensor, which = name.split("_bounds_")
    what = f"{which.capitalize()} of the tile" if which in ("sum", "product") else f"Tile of dimension {which}"
    return f"{what} of the {_BOUNDED[tensor]}; 0 if unused"


CONFIG: Final = Block(
    "config",
    1,
    "The configuration itself.",
    tuple(Column(name, "elements", _bound(name)) for name in TILE_CONFIG),
    per_config=True,
)


def schema(hardware: Hardware = CPU) -> Schema:
    """Columns of :class:`TileExtractor`: for a GPU, its model replaces that of caches; named slots have their names."""
    return _schema(hardware.gpu is not None, hardware.config)


@cache
def _schema(is_gpu: bool, slots: SlotNames) -> Schema:
    config = named_slots(slots).block(CONFIG) if slots else CONFIG
    own = gpu.BLOCK if is_gpu else cpu.BLOCK
    shared = (operands.BLOCK, NEIGHBORHOOD_BLOCK, OPCODES_BLOCK, NODES_BLOCK)
    return Schema("tile", (config, geometry.BLOCK, own, *shared))


class TileExtractor:
    """Feature vectors of the tile configurations of one kernel, a program of at least one node.

    The hardware is the machine that the runtimes were measured on.
    """

    def __init__(self, program: Program, hardware: Hardware = CPU) -> None:
        self.schema = schema(hardware)
        self._hardware = hardware
        self._tensors = tensors = Tensors.of(program)
        self._nest = loop_nest(program, tensors)
        slots = loop_slots(self._nest, tensors)
        self._geometry = geometry.Geometry(self._nest, tensors, slots, hardware)
        self._model: gpu.GpuModel | cpu.CacheModel
        if hardware.gpu:
            self._model = gpu.GpuModel(self._geometry, tensors, hardware)
        else:
            self._model = cpu.CacheModel(self._geometry, slots, hardware)
        self._static = np.concatenate(
            [
                operands.operand_roles(program, tensors, self._nest, slots),
                kernel_neighborhood(program, tensors),
                opcode_histogram(program),
                node_statistics(program),
            ]
        )

    def __call__(self, configs: NDArray[np.generic], /) -> Float32Array:
        """Feature vectors, float32 (c, len(schema)), of float (c, 24) tile configurations."""
        given = np.ascontiguousarray(configs, np.float32)
        tiles = loop_tiles(self._nest, self._tensors, given, self._hardware)
        own = self._model(given) if isinstance(self._model, gpu.GpuModel) else self._model(tiles)
        values = named_slots(self._hardware.config).values(given) if self._hardware.config else given
        static = np.broadcast_to(self._static, (len(given), len(self._static)))
        return np.concatenate([values, self._geometry(tiles), own, static], axis=1)
