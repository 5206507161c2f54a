"""A small tile collection on disk: matmuls whose runtime follows a formula of the tile."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gbr import read_graph, write_graph
from gbr import train as train_command
from gbr.data.collection import resolve
from tests.programs import matmul

SHAPES = [(128, 256, 64), (96, 192, 128), (256, 64, 256), (512, 128, 32), (160, 320, 96), (64, 512, 192), (384, 96, 48)]


def matmul_arrays(shape: tuple[int, int, int], n_configs: int, seed: int, *, twice: bool = True) -> dict[str, Any]:
    """A matmul, tiles of its output, and runtimes that reward few wide tiles; the last row repeats the first."""
    rng = np.random.default_rng(seed)
    m, n, k = shape
    tile = np.stack([rng.integers(1, m + 1, n_configs), 2 ** rng.integers(0, 1 + int(np.log2(n)), n_configs)], axis=1)
    tile[-1] = tile[0]
    config = np.zeros((n_configs, 24), np.float32)
    config[:, 8:10] = tile
    config[:, 14], config[:, 15] = tile.sum(axis=1), tile.prod(axis=1)
    tiles = -(-m // tile[:, 0]) * -(-n // tile[:, 1])
    exact = 1e3 + tiles * (40 + tile.prod(axis=1) * k * (0.01 + 0.05 / tile[:, 1]))
    program = matmul(m, n, k)

    def measured() -> np.ndarray:
        return (exact * rng.lognormal(0, 0.02, n_configs)).astype(np.int64)

    arrays = {
        "node_feat": program.feat,
        "node_opcode": program.opcode,
        "edge_index": program.edges,
        "config_feat": config,
        "config_runtime": measured(),
        "config_runtime_normalizers": np.full(n_configs, int(np.median(exact)), np.int64),
    }
    return arrays | ({"config_runtime_repeat": measured()} if twice else {})


def write_collection(root: Path, sizes: Mapping[str, int], name: str = "tile:cpu", n_configs: int = 30) -> Path:
    """``sizes``: graphs per split.  Returns ``root``."""
    number = 0
    for split, count in sizes.items():
        for _ in range(count):
            m, n, k = SHAPES[number % len(SHAPES)]
            arrays = matmul_arrays((m + 8 * (number // len(SHAPES)), n, k), n_configs, seed=number)
            folder = root.joinpath("npz", *name.split(":"), split)
            folder.mkdir(parents=True, exist_ok=True)
            write_graph(folder / f"matmul_{number}.npz", arrays)
            number += 1
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
    train_command.train(subset, root, root / "store", out, settings=settings, jobs=1, **arguments)
    return Path(out)
