"""Feature extraction of tile configurations: configurations per second, against the same columns in plain NumPy."""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import numpy as np

from benchmarks._results import machine, publish, seconds
from features.access import loop_nest
from features.bounds import loop_tiles
from features.geometry import BLOCK, Geometry
from features.graph import Program
from features.slots import loop_slots
from features.tensors import Tensors
from features.tile import TileExtractor, schema
from gbr import read_graph
from tests import reference

COLUMNS = (
    "kernel",
    "loops",
    "prepare, ms",
    "all columns, configs/s",
    "geometry, configs/s",
    "NumPy, configs/s",
    "ratio",
)
TEXT = """\
One thread, {rows} configurations per kernel, drawn with replacement from those of its file; best of 15
rounds. *prepare* reads the kernel's graph as a loop nest, once per graph. *all columns* is the whole vector
of {width} features. *geometry* is its part that differs from configuration to configuration by computation,
{part} columns in a Numba kernel; *NumPy* is the whole-array twin of the same columns that the tests compare
it with; *ratio* is the one over the other, on the same machine in the same run."""


def measure(path: Path, n_configs: int) -> tuple[Any, ...]:
    """One row of the table."""
    graph = read_graph(path)
    assert graph.config_feat is not None
    program = Program(graph.node_opcode, graph.node_feat, graph.edge_index)
    drawn = np.random.default_rng(0).integers(0, graph.n_configs, n_configs)
    configs = np.ascontiguousarray(graph.config_feat[drawn])
    extractor = TileExtractor(program)
    tensors = Tensors.of(program)
    nest = loop_nest(program, tensors)
    slots = loop_slots(nest, tensors)
    tiles, geometry = loop_tiles(nest, configs), Geometry(nest, tensors, slots)
    assert np.allclose(geometry(tiles), reference.geometry_columns(nest, tensors, slots, tiles), rtol=1e-4, atol=1e-4)
    fast = seconds(lambda: geometry(tiles))
    slow = seconds(lambda: reference.geometry_columns(nest, tensors, slots, tiles))
    prepare = seconds(lambda: TileExtractor(Program(graph.node_opcode, graph.node_feat, graph.edge_index)))
    whole = seconds(lambda: extractor(configs))
    return (
        graph.name,
        len(nest.extents),
        1e3 * prepare,
        n_configs / whole,
        n_configs / fast,
        n_configs / slow,
        slow / fast,
    )


def main() -> None:
    """Measure every third kernel of a split and leave the results."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--graphs", type=Path, default=Path("data/npz/tile/cpu/test"), metavar="FOLDER")
    arguments.add_argument("--configs", type=int, default=1000, metavar="N")
    args = arguments.parse_args()
    rows = [measure(path, args.configs) for path in sorted(args.graphs.glob("*.npz"))[::3]]
    means = [float(geometric_mean(row[place] for row in rows)) for place in range(2, len(COLUMNS))]
    rows.append(("geometric mean", "", *means))
    text = TEXT.format(rows=f"{args.configs:,}", width=len(schema()), part=len(BLOCK))
    publish("features", "Feature extraction", text, COLUMNS, rows, machine("numpy", "numba"))


if __name__ == "__main__":
    main()
