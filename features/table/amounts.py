"""Amounts of work of a program and how long a device needs for them at best: flops / peak rate, bytes / bandwidth.

Columns of a table are recognised by their names: ``flops`` or ``macs``, ``*_bytes``, and numbers of operations.  With a
column ``dtype``, amounts of each type of numbers are columns of their own, as their costs differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.schema import Column

FloatArray = NDArray[np.float64]

#: Names of columns that count floating-point operations, and how many an entry counts for.
_FLOPS: Final = {"flops": 1.0, "macs": 2.0}
_COUNTS: Final = (
    "operations", "dots", "convolutions", "reductions", "transcendentals", "elementwise", "movements", "loops",
    "layers",
)  # fmt: skip
#: Names of the context of types of numbers.
DTYPES: Final = ("dtype", "precision", "data_type")
#: Name of the column with 1 in every row, the cost of a call.
CALL: Final = "call"


def recognised(names: Sequence[str]) -> list[tuple[int, str]]:
    """Indices of the columns that are amounts, each with its kind: flops, macs, bytes or count; none without flops."""
    kinds = [
        name if name in _FLOPS else "bytes" if name.endswith("_bytes") else "count" if name in _COUNTS else ""
        for name in (each.casefold() for each in names)
    ]
    return [(at, kind) for at, kind in enumerate(kinds) if kind] if set(kinds) & _FLOPS.keys() else []


def columns(names: Sequence[str], found: Sequence[tuple[int, str]], levels: Sequence[str]) -> tuple[Column, ...]:
    """Columns for the values of :func:`logs`."""
    units = {"count": "log2", "bytes": "log2 ns"} | dict.fromkeys(_FLOPS, "log2 ns")
    parts = [
        Column(f"{names[at]}[{level}]" if level else names[at], units[kind], "least time, or count", True)
        for level in levels or ("",)
        for at, kind in found
    ]  # fmt: skip
    return (*parts, Column(CALL, "log2", "one, for what each call costs", True))


def logs(
    values: FloatArray,
    found: Sequence[tuple[int, str]],
    gflops: FloatArray,
    bandwidth: FloatArray,
    level: NDArray[np.int64],
    n_levels: int,
) -> FloatArray:
    """log2(1 + amount), float64 (rows, max(1, n_levels) * len(found) + 1); columns of other types of numbers are 0.

    Parameters
    ----------
    values : float64 (rows, columns)
    found : sequence of (int, str)
        The result of :func:`recognised`.
    gflops, bandwidth : float64 (rows,)
        Peak rate in GFLOP/s, and bandwidth in GB/s.
    level : int64 (rows,)
        Index of the type of numbers.
    """
    rates = {"bytes": bandwidth, "count": np.ones(len(values))}
    rates |= {kind: gflops / factor for kind, factor in _FLOPS.items()}
    amount = np.column_stack([values[:, at] / rates[kind] for at, kind in found])
    parts = [np.where((level == number)[:, None], amount, 0.0) for number in range(max(1, n_levels))]
    return np.asarray(np.log2(1.0 + np.maximum(np.column_stack([*parts, np.ones(len(values))]), 0.0)))
