"""Graph files made up for tests: valid, small, random."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from features.hlo import OPCODE_ID
from gbr.data.graph import write_graph
from tests.programs import conv2d, matmul

Arrays = dict[str, Any]


def tile_arrays(n_configs: int = 7, seed: int = 0) -> Arrays:
    """A matmul under random tile configurations."""
    rng = np.random.default_rng(seed)
    program = matmul(64, 32, 16)
    config = np.zeros((n_configs, 24), np.float32)
    config[:, 8:10] = rng.integers(1, 64, (n_configs, 2))
    config[:, 14], config[:, 15] = config[:, 8:10].sum(axis=1), config[:, 8:10].prod(axis=1)
    return {
        "node_feat": program.feat,
        "node_opcode": program.opcode,
        "edge_index": program.edges,
        "config_feat": config,
        "config_runtime": rng.integers(1000, 2000, n_configs),
        "config_runtime_normalizers": np.full(n_configs, 1500),
    }


def layout_arrays(n_configs: int = 7, seed: int = 0) -> Arrays:
    """A convolution under random layouts of its three tensors."""
    rng = np.random.default_rng(seed)
    program = conv2d(2, 8, 3, 4, 3)
    configurable = np.flatnonzero(program.opcode == OPCODE_ID["convolution"])
    config = np.full((n_configs, len(configurable), 18), -1, np.float32)
    for row in config.reshape(-1, 18):
        for tensor in range(3):
            row[6 * tensor : 6 * tensor + 4] = rng.permutation(4)
    return {
        "node_feat": program.feat,
        "node_opcode": program.opcode,
        "edge_index": program.edges,
        "node_config_ids": configurable,
        "node_config_feat": config,
        "node_splits": np.array([[0, len(program)]]),
        "config_runtime": rng.integers(10**9, 2 * 10**9, n_configs),
    }


def collection(root: Path, name: str = "tile:xla", **counts: int) -> Path:
    """Write ``counts[split]`` graphs per split; returns their data root."""
    make = tile_arrays if name.startswith("tile") else layout_arrays
    for number, (split, count) in enumerate(counts.items()):
        for graph in range(count):
            folder = root.joinpath("npz", *name.split(":"), split)
            write_graph(folder / f"{split}_{graph}.npz", make(5 + graph, seed=100 * number + graph))
    return root
