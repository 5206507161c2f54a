"""Amounts of work of a program and how long a device needs for them at best: flops / peak rate, bytes / bandwidth.

Columns of a table are recognised by their names: ``flops`` or ``macs``, ``*_bytes``, and numbers of operations.  A
program with ``loops`` over its ``sequence`` reads its ``weight_bytes`` in every step.  With a column ``dtype``, amounts
of each type of numbers are columns of their own, as their costs differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

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


class Amount(NamedTuple):
    """A column of the table, which counts once or in every step of the loops."""

    at: int
    kind: str  # flops, macs, bytes or count
    loops: int = -1  # columns of the loops and their steps, if it counts in every step
    steps: int = -1


def recognised(names: Sequence[str]) -> list[Amount]:
    """The columns that are amounts; none without flops."""
    lower = [each.casefold() for each in names]
    kinds = [
        name if name in _FLOPS else "bytes" if name.endswith("_bytes") else "count" if name in _COUNTS else ""
        for name in lower
    ]
    found = [Amount(at, kind) for at, kind in enumerate(kinds) if kind]
    if not set(kinds) & _FLOPS.keys():
        return []
    if {"loops", "sequence"} <= {*lower}:
        loops, steps = lower.index("loops"), lower.index("sequence")
        found += [Amount(at, kinds[at], loops, steps) for at in (loops, *_at(lower, "weight_bytes"))]
    return found


def _at(names: Sequence[str], name: str) -> list[int]:
    return [names.index(name)] if name in names else []


def columns(names: Sequence[str], found: Sequence[Amount], levels: Sequence[str]) -> tuple[Column, ...]:
    """Columns for the values of :func:`logs`."""
    units = {"count": "log2", "bytes": "log2 ns"} | dict.fromkeys(_FLOPS, "log2 ns")
    plain = [names[each.at] + ("*" + names[each.steps] if each.steps >= 0 else "") for each in found]
    parts = [
        Column(f"{name}[{level}]" if level else name, units[each.kind], "least time, or count", True)
        for level in levels or ("",)
        for name, each in zip(plain, found, strict=True)
    ]
    return (*parts, Column(CALL, "log2", "one, for what each call costs", True))


def logs(
    values: FloatArray,
    found: Sequence[Amount],
    gflops: FloatArray,
    bandwidth: FloatArray,
    level: NDArray[np.int64],
    n_levels: int,
) -> FloatArray:
    """log2(1 + amount), float64 (rows, max(1, n_levels) * len(found) + 1); columns of other types of numbers are 0.

    Parameters
    ----------
    values : float64 (rows, columns)
    found : sequence of Amount
        The result of :func:`recognised`.
    gflops, bandwidth : float64 (rows,)
        Peak rate in GFLOP/s, and bandwidth in GB/s.
    level : int64 (rows,)
        Index of the type of numbers.
    """
    rates = {"bytes": bandwidth, "count": np.ones(len(values))}
    rates |= {kind: gflops / factor for kind, factor in _FLOPS.items()}
    amount = np.column_stack([values[:, each.at] / rates[each.kind] for each in found])
    for number, each in enumerate(found):
        if each.steps >= 0:
            amount[:, number] *= np.where(values[:, each.loops] > 0, values[:, each.steps], 0.0)
    parts = [np.where((level == number)[:, None], amount, 0.0) for number in range(max(1, n_levels))]
    return np.asarray(np.log2(1.0 + np.maximum(np.column_stack([*parts, np.ones(len(values))]), 0.0)))
