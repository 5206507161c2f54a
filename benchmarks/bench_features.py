"""Feature extraction: configurations per second, compared with the same columns in plain NumPy."""

from __future__ import annotations

from pathlib import Path
from statistics import geometric_mean
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks import made_layout
from benchmarks.common import Row, Section, machine, parser, publish, seconds
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
from gbr.data.collection import graph_files, resolve
from tests import reference, reference_layout_numpy

TILE_TEXT = """\
One thread, {rows:,} configurations per kernel, drawn with replacement from its file; best of 15 rounds. *prepare* reads
the graph as a loop nest, once per graph. *all* is the whole vector of {width} features. *geometry* and *caches* are the
two parts that differ between configurations, {geometry} and {caches} columns computed by Numba kernels; *NumPy* is a
whole-array implementation from the tests, and *ratio* how many times as fast the kernels are in the same run."""
LAYOUT_TEXT = """\
One thread, {rows:,} configurations per generated graph, best of 15 rounds. *prepare* reads the graph, once. *code*
numbers the distinct rows of each node, *describe* computes {own} columns from these codes. *NumPy* is a whole-array
implementation of {part} of these columns, from the tests; *ratio* is its time over that of coding and describing
together, in the same run."""


def measure_tile(path: Path, n_configs: int) -> Row:
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
    parts = {
        "geometry": (lambda: kernel(tiles), lambda: reference.geometry_columns(nest, tensors, slots, tiles)),
        "caches": (lambda: model(tiles), lambda: reference.cache_columns(nest, tensors, tiles, CPU, orders)),
    }
    row: Row = {
        "kernel": graph.name,
        "loops": len(nest.extents),
        "prepare, ms": 1e3 * seconds(lambda: TileExtractor(Program(*arrays))),
        "all, configs/s": n_configs / seconds(lambda: extractor(configs)),
    }
    for (name, (compiled, numpy)), suffix in zip(parts.items(), ("", " of caches"), strict=True):
        assert np.allclose(compiled(), numpy(), rtol=1e-4, atol=1e-4)
        fast, slow = n_configs / seconds(compiled), n_configs / seconds(numpy)
        row |= {f"{name}, configs/s": fast, f"NumPy{suffix}, configs/s": slow, f"ratio{suffix}": fast / slow}
    return row


def measure_layout(path: Path, n_configs: int) -> Row:
    """One row of the table of layouts."""
    graph = read_graph(path)
    ids = graph.node_config_ids
    assert ids is not None
    program = Program(graph.node_opcode, graph.node_feat, graph.edge_index)
    _, configs = next(graph.config_blocks(n_configs))
    stored = configs.astype(np.float32)
    extractor = LayoutExtractor(program, ids, hardware=TPU)  # the reference pads to the registers of a TPU
    tensors = Tensors.of(program)
    nodes = configurable_nodes(program, tensors, ids)
    edges = links(program, tensors, nodes)
    codes, _ = extractor.observe(stored)
    out = np.empty((len(codes), N_OWN), np.float32)
    extractor.describe(codes, out)
    covered = [layout.schema().names.index(name) for name in reference_layout_numpy.COVERED]
    expected = reference_layout_numpy.own_columns(nodes, edges, configs)
    assert np.allclose(out[:, covered], expected, rtol=1e-4, atol=1e-4)
    code = seconds(lambda: extractor.observe(stored))
    describe = seconds(lambda: extractor.describe(codes, out))
    numpy = seconds(lambda: reference_layout_numpy.own_columns(nodes, edges, configs))
    return {
        "graph": graph.name,
        "nodes": len(ids),
        "prepare, ms": 1e3 * seconds(lambda: LayoutExtractor(program, ids)),
        "code, configs/s": len(codes) / code,
        "describe, configs/s": len(codes) / describe,
        "NumPy, configs/s": len(codes) / numpy,
        "ratio": numpy / (code + describe),
    }


def main() -> None:
    """Measure some kernels of a split and generated layout graphs, and write both pages."""
    arguments = parser(__doc__)
    arguments.add_argument("--configs", type=int, default=1000, metavar="N", help="per kernel; a fifth for layouts")
    arguments.add_argument("--every", type=int, default=3, metavar="N", help="measure one kernel out of N")
    arguments.add_argument("--nodes", type=int, nargs="+", default=[60, 300, 1000], metavar="N")
    args = arguments.parse_args()
    setup, few = machine("numpy", "numba"), args.configs // 5
    paths = graph_files(resolve("tile:cpu", args.data), args.data, "test")
    rows = [measure_tile(path, args.configs) for path in paths[:: args.every]]
    means = {name: float(geometric_mean(row[name] for row in rows)) for name in list(rows[0])[2:]}
    rows.append({"kernel": "geometric mean", "loops": "", **means})
    text = TILE_TEXT.format(
        rows=args.configs, width=len(tile.schema()), geometry=len(geometry.BLOCK), caches=len(cpu.BLOCK)
    )
    publish("features", "Feature extraction", text, [Section("", "", rows)], setup)
    rows = []
    with TemporaryDirectory() as folder:
        for n_nodes in args.nodes:
            path = Path(folder) / f"made_{n_nodes}.npz"
            made_layout.write(path, few, n_nodes)
            rows.append(measure_layout(path, few))
    text = LAYOUT_TEXT.format(rows=few, own=N_OWN, part=len(reference_layout_numpy.COVERED))
    publish("layout_features", "Layout feature extraction", text, [Section("", "", rows)], setup)


if __name__ == "__main__":
    main()
