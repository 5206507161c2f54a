"""Measured tables made up for tests."""

from __future__ import annotations

import gzip
import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from gbr.data.table import write_table
from gbr.data.table_roles import Roles


def made_rows(groups: int, size: int, failing: float = 0.0, seed: int = 0) -> pl.DataFrame:
    """Rows of programs ``p0`` ... whose runtime depends on the parameters a, b and kind; where b is 4 they may fail."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(groups), size)
    a, b = rng.integers(1, 17, len(group)), rng.choice([1.0, 2.5, 4.0], len(group))
    kind = rng.choice(["x", "y", "z"], len(group))
    time = (20 / a + b * (1 + group % 2 / 8) + 3 * (kind == "y")) * rng.lognormal(0, 0.05, len(group))
    failed = (b > 3) & (rng.random(len(group)) < failing)
    target = ["failed" if bad else repr(value) for bad, value in zip(failed.tolist(), time.tolist(), strict=True)]
    columns = {"prog": [f"p{number}" for number in group], "a": a, "b": b, "kind": kind, "time": target}
    return pl.DataFrame(columns)


def made_table(root: Path, name: str = "made", groups: int = 8, size: int = 40, failing: float = 0.6) -> Path:
    """Write such a table, whose last group is ``test``, the one before ``valid``; returns its data root."""
    roles = Roles(
        ("prog",), ("a", "b", "kind"), "time", unit="ms",
        test={"prog": (f"p{groups - 1}",)}, valid={"prog": (f"p{groups - 2}",)},
    )  # fmt: skip
    write_table(root / "table" / name, made_rows(groups, size, failing), roles)
    return root


def made_caches(folder: Path, devices: Sequence[str]) -> None:
    """Write a cache of Kernel Tuner of a convolution per device; large blocks fail."""
    folder.mkdir()
    for number, device in enumerate(devices):
        rng = np.random.default_rng(number)
        entries = {}
        for x, y, tile, shared in itertools.product((16, 32, 64, 128), (1, 2, 4, 8), (1, 2, 4), (0, 1)):
            time = (64 / x + x / 64 + y / (1 + number) + 4 / tile - shared) * rng.lognormal(0, 0.03)
            config = {"block_size_x": x, "block_size_y": y, "tile_size_x": tile, "use_shmem": shared}
            entries[",".join(map(str, config.values()))] = config | {
                "time": time if x * y < 1024 else "RuntimeFailedConfig", "times": [time, time]
            }  # fmt: skip
        values = {name: sorted({entry[name] for entry in entries.values()}) for name in config}
        about = {"device_name": device, "kernel_name": "convolution_kernel", "problem_size": [4096, 4096]}
        content = about | {"tune_params_keys": [*values], "tune_params": values, "objective": "time", "cache": entries}
        path = folder / f"convolution__{device.replace(' ', '_')}.json.gz"
        path.write_bytes(gzip.compress(json.dumps(content).encode()))
