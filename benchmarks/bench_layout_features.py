"""Extraction of layout features: configurations per second, against the same columns in plain NumPy."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import _made_layout
from benchmarks._results import machine, publish, seconds
from features.graph import Program
from features.hardware import TPU
from features.layout.extractor import N_OWN, LayoutExtractor, schema
from features.layout.metagraph import links
from features.layout.nodes import configurable_nodes
from features.tensors import Tensors
from gbr import read_graph
from tests import reference_layout_numpy

COLUMNS = ("graph", "nodes", "prepare, ms", "code, configs/s", "describe, configs/s", "NumPy, configs/s", "ratio")
TEXT = """\
One thread, up to {rows} configurations per graph, best of 15 rounds. *prepare* reads the graph, once. *code* finds
each node's row among those seen, *describe* makes {own} columns of the codes. *NumPy* is the whole-array twin of {part}
of these columns (what is set, and where it disagrees) that the tests compare them with, without the rest; *ratio* is it
over coding and describing together, on the same machine in the same run."""


def measure(path: Path, n_configs: int) -> tuple[Any, ...]:
    """One row of the table."""
    graph = read_graph(path)
    assert graph.node_config_ids is not None
    program = Program(graph.node_opcode, graph.node_feat, graph.edge_index)
    _, configs = next(graph.config_blocks(n_configs))
    stored = configs.astype(np.float32)
    extractor = LayoutExtractor(program, graph.node_config_ids, hardware=TPU)  # whose registers the twin pads to
    tensors = Tensors.of(program)
    nodes = configurable_nodes(program, tensors, graph.node_config_ids)
    of = links(program, tensors, nodes)
    codes, _ = extractor.observe(stored)
    out = np.empty((len(codes), N_OWN), np.float32)
    extractor.describe(codes, out)
    twin = reference_layout_numpy.own_columns(nodes, of, configs)
    covered = [schema().names.index(name) for name in reference_layout_numpy.COVERED]
    assert np.allclose(out[:, covered], twin, rtol=1e-4, atol=1e-4)
    prepare = seconds(lambda: LayoutExtractor(program, graph.node_config_ids))  # type: ignore[arg-type]
    code = seconds(lambda: extractor.observe(stored))
    describe = seconds(lambda: extractor.describe(codes, out))
    slow = seconds(lambda: reference_layout_numpy.own_columns(nodes, of, configs))
    n = len(codes)
    return (
        graph.name, len(nodes), 1e3 * prepare, n / code, n / describe, n / slow, slow / (code + describe)
    )  # fmt: skip


def main() -> None:
    """Measure a generated file, or those of a folder, and leave the results."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--graphs", type=Path, metavar="FOLDER", help="graph files; a generated one by default")
    arguments.add_argument("--configs", type=int, default=200, metavar="N")
    args = arguments.parse_args()
    if args.graphs:
        rows = [measure(path, args.configs) for path in sorted(args.graphs.glob("**/*.npz"))]
    else:
        from tempfile import TemporaryDirectory

        rows = []
        with TemporaryDirectory() as folder:
            for n_nodes in (60, 300, 1000):
                path = Path(folder) / f"made_{n_nodes}.npz"
                _made_layout.write(path, args.configs, n_nodes)
                rows.append(measure(path, args.configs))
    part = len(reference_layout_numpy.COVERED)
    text = TEXT.format(rows=f"{args.configs:,}", own=N_OWN, part=part)
    publish("layout_features", "Layout feature extraction", text, COLUMNS, rows, machine("numpy", "numba"))


if __name__ == "__main__":
    main()
