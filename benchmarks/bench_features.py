"""Feature extraction: configurations per second, against the same columns in plain NumPy."""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import geometric_mean
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks import made_layout
from benchmarks.common import Section, machine, publish, seconds
from features.graph import Program
from features.hardware import CPU, TPU
from features.layout import extractor as layout
from features.layout.extractor import N_OWN, LayoutExtractor
from features.layout.metagraph import links
from features.layout.nodes import configurable_nodes
from features.tensors import Tensors
from features.tile import cpu, geometry
from features.tile import extractor as tile
from features.tile.cpu import CacheModel
from features.tile.extractor import TileExtractor
from features.tile.geometry import Geometry, loop_tiles
from features.tile.loops import loop_nest
from features.tile.operands import loop_slots
from gbr import read_graph
from tests import reference, reference_layout_numpy

TILE_COLUMNS = (
    "kernel",
    "loops",
    "prepare, ms",
    "all, configs/s",
    "geometry, configs/s",
    "NumPy, configs/s",
    "ratio",
    "caches, configs/s",
    "NumPy of caches, configs/s",
    "ratio of caches",
)
TILE_TEXT = """\
One thread, {rows:,} configurations per kernel, drawn with replacement from its file; best of 15 rounds. *prepare* reads
the graph as a loop nest, once per graph. *all* is the whole vector of {width} features. *geometry* and *caches* are the
two parts that differ between configurations, {geometry} and {caches} columns from Numba kernels; *NumPy* are their
whole-array twins from the tests, and *ratio* is kernel over twin in the same run."""
LAYOUT_COLUMNS = (
    "graph",
    "nodes",
    "prepare, ms",
    "code, configs/s",
    "describe, configs/s",
    "NumPy, configs/s",
    "ratio",
)
LAYOUT_TEXT = """\
One thread, {rows:,} configurations per generated graph, best of 15 rounds. *prepare* reads the graph, once. *code*
finds the row of each node among those seen, *describe* computes {own} columns from the codes. *NumPy* is the
whole-array twin of {part} of these columns, from the tests; *ratio* is its time over coding and describing together, in
the same run."""


def measure_tile(path: Path, n_configs: int) -> tuple[Any, ...]:
    """One row of the table of tiles."""
    graph = read_graph(path)
    assert graph.config_feat is not None
    arrays = graph.node_opcode, graph.node_feat, graph.edge_index
    program = Program(*arrays)
    drawn = np.random.default_rng(0).integers(0, graph.n_configs, n_configs)
    configs = np.ascontiguousarray(graph.config_feat[drawn])
    extractor = TileExtractor(program)
    tensors = Tensors.of(program)
    nest = loop_nest(program, tensors)
    slots = loop_slots(nest, tensors)
    tiles, kernel = loop_tiles(nest, tensors, configs), Geometry(nest, tensors, slots)
    model = CacheModel(kernel, slots, CPU)
    orders = [list(sequence) for sequence in model.sequences]
    calls = {
        "all": lambda: extractor(configs),
        "geometry": lambda: kernel(tiles),
        "geometry twin": lambda: reference.geometry_columns(nest, tensors, slots, tiles),
        "caches": lambda: model(tiles),
        "caches twin": lambda: reference.cache_columns(nest, tensors, tiles, CPU, orders),
    }
    for name in ("geometry", "caches"):
        assert np.allclose(calls[name](), calls[f"{name} twin"](), rtol=1e-4, atol=1e-4)
    rates = {name: n_configs / seconds(call) for name, call in calls.items()}
    return (
        graph.name,
        len(nest.extents),
        1e3 * seconds(lambda: TileExtractor(Program(*arrays))),
        rates["all"],
        rates["geometry"],
        rates["geometry twin"],
        rates["geometry"] / rates["geometry twin"],
        rates["caches"],
        rates["caches twin"],
        rates["caches"] / rates["caches twin"],
    )


def measure_layout(path: Path, n_configs: int) -> tuple[Any, ...]:
    """One row of the table of layouts."""
    graph = read_graph(path)
    ids = graph.node_config_ids
    assert ids is not None
    program = Program(graph.node_opcode, graph.node_feat, graph.edge_index)
    _, configs = next(graph.config_blocks(n_configs))
    stored = configs.astype(np.float32)
    extractor = LayoutExtractor(program, ids, hardware=TPU)  # whose registers the twin pads to
    tensors = Tensors.of(program)
    nodes = configurable_nodes(program, tensors, ids)
    found = links(program, tensors, nodes)
    codes, _ = extractor.observe(stored)
    out = np.empty((len(codes), N_OWN), np.float32)
    extractor.describe(codes, out)
    covered = [layout.schema().names.index(name) for name in reference_layout_numpy.COVERED]
    twin = reference_layout_numpy.own_columns(nodes, found, configs)
    assert np.allclose(out[:, covered], twin, rtol=1e-4, atol=1e-4)
    prepare = seconds(lambda: LayoutExtractor(program, ids))
    code = seconds(lambda: extractor.observe(stored))
    describe = seconds(lambda: extractor.describe(codes, out))
    slow = seconds(lambda: reference_layout_numpy.own_columns(nodes, found, configs))
    n = len(codes)
    return graph.name, len(nodes), 1e3 * prepare, n / code, n / describe, n / slow, slow / (code + describe)


def main() -> None:
    """Measure some kernels of a split and generated layout graphs, and write both pages."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--graphs", type=Path, default=Path("data/npz/tile/cpu/test"), metavar="FOLDER")
    arguments.add_argument("--configs", type=int, default=1000, metavar="N", help="of a kernel; a fifth for layouts")
    arguments.add_argument("--every", type=int, default=3, metavar="N", help="take one kernel of N")
    arguments.add_argument("--nodes", type=int, nargs="+", default=[60, 300, 1000], metavar="N")
    args = arguments.parse_args()
    on, few = machine("numpy", "numba"), args.configs // 5
    rows = [measure_tile(path, args.configs) for path in sorted(args.graphs.glob("*.npz"))[:: args.every]]
    means = [float(geometric_mean(row[index] for row in rows)) for index in range(2, len(TILE_COLUMNS))]
    rows.append(("geometric mean", "", *means))
    text = TILE_TEXT.format(
        rows=args.configs, width=len(tile.schema()), geometry=len(geometry.BLOCK), caches=len(cpu.BLOCK)
    )
    publish("features", "Feature extraction", text, [Section("", "", TILE_COLUMNS, rows)], on)
    rows = []
    with TemporaryDirectory() as folder:
        for n_nodes in args.nodes:
            path = Path(folder) / f"made_{n_nodes}.npz"
            made_layout.write(path, few, n_nodes)
            rows.append(measure_layout(path, few))
    text = LAYOUT_TEXT.format(rows=few, own=N_OWN, part=len(reference_layout_numpy.COVERED))
    publish("layout_features", "Layout feature extraction", text, [Section("", "", LAYOUT_COLUMNS, rows)], on)


if __name__ == "__main__":
    main()
