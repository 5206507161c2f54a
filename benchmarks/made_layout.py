"""Generated layout graphs of any size: a deep network of convolutions, dots and reshapes with random layouts."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from features.graph import Program
from features.layout.nodes import configurable_nodes
from features.tensors import Tensors
from tests.programs import Sketch, nhwc

_CONFIGS_AT_ONCE = 256


def network(n_configurable: int, between: int = 1) -> tuple[Program, NDArray[np.int64]]:
    """Blocks of convolution, reshape, dot, reshape, with ``between`` layers between them.

    About eight nodes per configurable one, and six more for each further layer.
    """
    sketch = Sketch()
    batch, size, wide = 8, 16, 64
    ids: list[int] = []
    last = sketch.node("parameter", (batch, size, size, wide))
    while len(ids) < n_configurable:
        image, flat = (batch, size, size, wide), (batch * size * size, wide)
        filters = sketch.node("parameter", (1, 1, wide, wide))
        conv = sketch.node("convolution", image, last, filters, **nhwc(1))
        folded = sketch.node("reshape", flat, _between(sketch, conv, image, between))
        weight = sketch.node("parameter", (wide, wide))
        dot = sketch.node("dot", flat, _between(sketch, folded, flat, between), weight)
        opened = sketch.node("reshape", image, _between(sketch, dot, flat, between))
        last = _between(sketch, opened, image, between)
        ids += [conv, folded, dot, opened]
    return sketch.program(), np.array(ids[:n_configurable], np.int64)


def _between(sketch: Sketch, node: int, shape: tuple[int, ...], n_layers: int) -> int:
    """Layers of a bias, an activation, a transpose and its inverse."""
    order = (len(shape) - 1, *range(len(shape) - 1))
    inverse = tuple(int(dim) for dim in np.argsort(order))
    for _ in range(n_layers):
        bias = sketch.node("parameter", shape[-1:])
        wide = sketch.node("broadcast", shape, bias, dimensions=(len(shape) - 1,))
        active = sketch.node("tanh", shape, sketch.node("add", shape, node, wide))
        turned = sketch.node("transpose", tuple(shape[dim] for dim in order), active, dimensions=order)
        node = sketch.node("transpose", shape, turned, dimensions=inverse)
    return node


def row_tables(ids: NDArray[np.int64], ranks: NDArray[np.int64], rng: np.random.Generator) -> list[NDArray[np.int8]]:
    """Rows of every configurable node: two to nine complete, partial and absent layouts."""
    tables = []
    for node in range(len(ids)):
        rows = np.full((int(rng.integers(2, 10)), 18), -1, np.int8)
        for row in rows[1:]:
            for role in range(3):
                rank = int(ranks[node, role])
                if rank > 0 and rng.random() < 0.8:
                    named = min(rank, 2)
                    row[6 * role : 6 * role + named] = rng.permutation(rank)[:named]
        tables.append(np.unique(rows, axis=0))
    return tables


class Configurations:
    """Random configurations of a program.

    A node has its first row in half of the configurations, and a random row in the others: in real files, 27 to 62 %
    of the cells equal those of the previous configuration.
    """

    def __init__(self, program: Program, ids: NDArray[np.int64], rng: np.random.Generator) -> None:
        tables = row_tables(ids, configurable_nodes(program, Tensors.of(program), ids).rank, rng)
        self._first = np.cumsum([0, *(len(table) for table in tables[:-1])])
        self._count = np.array([len(table) for table in tables])
        self._rows = np.concatenate(tables)
        self._rng = rng

    def draw(self, n_configs: int) -> NDArray[np.int8]:
        """Draw configurations, int8 (n_configs, nodes, 18)."""
        shape = (n_configs, len(self._count))
        usual = self._rng.random(shape) < 0.5
        picked = np.where(usual, 0, self._rng.integers(0, self._count, shape))
        return self._rows[self._first + picked]


def write(path: Path, n_configs: int, n_configurable: int, seed: int = 0) -> int:
    """Write a graph file in blocks; returns the inflated size of its configurations in bytes."""
    rng = np.random.default_rng(seed)
    program, ids = network(n_configurable)
    configurations = Configurations(program, ids, rng)
    arrays: dict[str, NDArray[Any]] = {
        "node_feat": program.feat,
        "node_opcode": program.opcode,
        "edge_index": program.edges,
        "node_config_ids": ids,
        "node_splits": np.array([[0, len(program)]], np.int64),
        "config_runtime": rng.integers(10**9, 2 * 10**9, n_configs),
    }
    shape = (n_configs, n_configurable, 18)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, values in arrays.items():
            with archive.open(f"{key}.npy", "w") as stream:
                npy.write_array(stream, values)
        with archive.open("node_config_feat.npy", "w", force_zip64=True) as stream:
            npy.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": shape})
            for start in range(0, n_configs, _CONFIGS_AT_ONCE):
                rows = min(_CONFIGS_AT_ONCE, n_configs - start)
                stream.write(configurations.draw(rows).astype(np.float32).tobytes())
    return int(np.prod(shape)) * 4
