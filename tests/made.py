"""Graph files made up for tests: small random graphs, and collections whose runtime follows a formula of the tile."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from features.graph import Program
from features.hlo import OPCODE_ID
from gbr import read_graph, write_graph
from gbr import train as train_command
from gbr.data.collection import resolve
from tests.programs import conv2d, matmul

Arrays = dict[str, Any]

SHAPES = [(128, 256, 64), (96, 192, 128), (256, 64, 256), (512, 128, 32), (160, 320, 96), (64, 512, 192), (384, 96, 48)]


def _of_program(program: Program) -> Arrays:
    return {"node_feat": program.feat, "node_opcode": program.opcode, "edge_index": program.edges}


def _tile_configs(tile: np.ndarray) -> Arrays:
    config = np.zeros((len(tile), 24), np.float32)
    config[:, 8:10] = tile
    config[:, 14], config[:, 15] = tile.sum(axis=1), tile.prod(axis=1)
    return {"config_feat": config}


def tile_arrays(n_configs: int = 7, seed: int = 0) -> Arrays:
    """A matmul under random tile configurations."""
    rng = np.random.default_rng(seed)
    return {
        **_of_program(matmul(64, 32, 16)),
        **_tile_configs(rng.integers(1, 64, (n_configs, 2))),
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
        **_of_program(program),
        "node_config_ids": configurable,
        "node_config_feat": config,
        "node_splits": np.array([[0, len(program)]]),
        "config_runtime": rng.integers(10**9, 2 * 10**9, n_configs),
    }


def matmul_arrays(shape: tuple[int, int, int], n_configs: int, seed: int, *, twice: bool = True) -> Arrays:
    """A matmul, tiles of its output, and runtimes that reward few wide tiles; the last row repeats the first."""
    rng = np.random.default_rng(seed)
    m, n, k = shape
    tile = np.stack([rng.integers(1, m + 1, n_configs), 2 ** rng.integers(0, 1 + int(np.log2(n)), n_configs)], axis=1)
    tile[-1] = tile[0]
    tiles = -(-m // tile[:, 0]) * -(-n // tile[:, 1])
    exact = 1e3 + tiles * (40 + tile.prod(axis=1) * k * (0.01 + 0.05 / tile[:, 1]))

    def measured() -> np.ndarray:
        return (exact * rng.lognormal(0, 0.02, n_configs)).astype(np.int64)

    arrays = {
        **_of_program(matmul(m, n, k)),
        **_tile_configs(tile),
        "config_runtime": measured(),
        "config_runtime_normalizers": np.full(n_configs, int(np.median(exact)), np.int64),
    }
    return arrays | ({"config_runtime_repeat": measured()} if twice else {})


def collection(root: Path, name: str = "tile:xla", **counts: int) -> Path:
    """Write ``counts[split]`` random graphs per split; returns their data root."""
    make = tile_arrays if name.startswith("tile") else layout_arrays
    for number, (split, count) in enumerate(counts.items()):
        for graph in range(count):
            folder = root.joinpath("npz", *name.split(":"), split)
            write_graph(folder / f"{split}_{graph}.npz", make(5 + graph, seed=100 * number + graph))
    return root


def write_collection(root: Path, sizes: Mapping[str, int], name: str = "tile:cpu", n_configs: int = 30) -> Path:
    """Write ``sizes[split]`` graphs of :func:`matmul_arrays` per split; returns their data root."""
    for number, split in enumerate(split for split, count in sizes.items() for _ in range(count)):
        m, n, k = SHAPES[number % len(SHAPES)]
        arrays = matmul_arrays((m + 8 * (number // len(SHAPES)), n, k), n_configs, seed=number)
        write_graph(root.joinpath("npz", *name.split(":"), split, f"matmul_{number}.npz"), arrays)
    return root


def rewrite(path: Path, drop: tuple[str, ...] = (), **changes: Any) -> None:
    """Replace or drop arrays of a graph file."""
    with np.load(path) as stored:
        arrays = {key: stored[key] for key in stored.files if key not in drop}
    write_graph(path, arrays | changes)
    read_graph(path)


def trained(root: Path, **arguments: Any) -> Path:
    """Run the train command's function with a few rounds; returns the run's folder."""
    out = arguments.pop("out", root / "run")
    settings = {"n_estimators": 30, "learning_rate": 0.2} | arguments.pop("settings", {})
    subset = resolve(arguments.pop("subset", "tile:cpu"), root)
    options = {"settings": settings, "jobs": 1, "force": True} | arguments
    train_command.train(subset, root, root / "store", out, **options)
    return Path(out)
