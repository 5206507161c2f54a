"""Measured tables made up for tests."""

from __future__ import annotations

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
