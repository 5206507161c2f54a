"""Feature extraction of tile configurations: per second, against the same columns in plain NumPy and Python."""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks._results import machine, publish, seconds
from features.graph import Program
from features.hardware import CPU
from features.tensors import Tensors
from features.tile import cpu, geometry
from features.tile.cpu import CacheModel
from features.tile.extractor import TileExtractor, schema
from features.tile.geometry import Geometry, loop_tiles
from features.tile.loops import loop_nest
from features.tile.operands import loop_slots
from gbr import read_graph
from tests import reference

COLUMNS = (
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
TEXT = """\
One thread, {rows} configurations per kernel, drawn with replacement from those of its file; best of 15
rounds. *prepare* reads the kernel's graph as a loop nest, once per graph. *all* is the whole vector of
{width} features. *geometry* and *caches* are its two computed parts that differ between configurations,
{geometry} and {caches} columns from Numba kernels; *NumPy* are their whole-array twins from the tests, and *ratio* is
kernel over twin in the same run. Columns of so many configurations fit the first cache, so NumPy's passes are cheap;
half of the time of geometry are scalar logarithms, while NumPy's are vectorised."""


def measure(path: Path, n_configs: int) -> tuple[Any, ...]:
    """One row of the table."""
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

    def twin() -> NDArray[np.float64]:
        return reference.geometry_columns(nest, tensors, slots, tiles)

    def twin_of_caches() -> NDArray[np.float64]:
        return reference.cache_columns(nest, tensors, tiles, CPU, orders)

    assert np.allclose(kernel(tiles), twin(), rtol=1e-4, atol=1e-4)
    assert np.allclose(model(tiles), twin_of_caches(), rtol=1e-4, atol=1e-4)
    prepare = seconds(lambda: TileExtractor(Program(*arrays)))
    whole = n_configs / seconds(lambda: extractor(configs))
    computed, by_numpy = n_configs / seconds(lambda: kernel(tiles)), n_configs / seconds(twin)
    at_once = n_configs / seconds(twin_of_caches)
    modelled = n_configs / seconds(lambda: model(tiles))
    return (
        graph.name,
        len(nest.extents),
        1e3 * prepare,
        whole,
        computed,
        by_numpy,
        computed / by_numpy,
        modelled,
        at_once,
        modelled / at_once,
    )


def main() -> None:
    """Measure some kernels of a split and leave the results."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--graphs", type=Path, default=Path("data/npz/tile/cpu/test"), metavar="FOLDER")
    arguments.add_argument("--configs", type=int, default=1000, metavar="N")
    arguments.add_argument("--every", type=int, default=3, metavar="N", help="take one kernel of N")
    args = arguments.parse_args()
    rows = [measure(path, args.configs) for path in sorted(args.graphs.glob("*.npz"))[:: args.every]]
    means = [float(geometric_mean(row[place] for row in rows)) for place in range(2, len(COLUMNS))]
    rows.append(("geometric mean", "", *means))
    text = TEXT.format(
        rows=f"{args.configs:,}", width=len(schema()), geometry=len(geometry.BLOCK), caches=len(cpu.BLOCK)
    )
    publish("features", "Feature extraction", text, COLUMNS, rows, machine("numpy", "numba"))


if __name__ == "__main__":
    main()
