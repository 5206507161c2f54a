"""From the figures of a run to what a person reads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from gbr.metrics import TOP

#: Key of a row's figures -> its name in the table.
_BASELINES: Final = {
    "raw_l2": "raw columns, L2",
    "fewest_configured": "fewest nodes set",
    "default_configuration": "default config",
    "random_order": "random order",
    "retest": "retest ceiling",
}

TableOf = tuple[str, list[str], list[list[object]]]


def tables(figures: dict[str, Any], splits: tuple[str, ...], kind: str) -> Iterator[TableOf]:
    """Tables for a terminal, one per split: the model, then what to measure it against.

    Parameters
    ----------
    figures : dict
        As in ``metrics.json``: split -> figures, with ``baselines`` inside.
    splits : tuple of str
        Those to show, where there are figures.
    kind : str
        ``tile`` or ``layout``.

    Yields
    ------
    title, columns, rows
        As :func:`gbr._cli.table` takes them.
    """
    for split in splits:
        if split not in figures:
            continue
        found = figures[split]
        skipped = f", {len(found['skipped'])} cannot be ranked" if found["skipped"] else ""
        title = f"{figures['subset']} {split}: {found['n_graphs']} graphs{skipped}  (@K: slowdown@K)"
        rows = [_row("model", found, kind)]
        rows += [
            _row(name, found["baselines"][key], kind) for key, name in _BASELINES.items() if key in found["baselines"]
        ]
        yield title, _columns(kind), rows


def _columns(kind: str) -> list[str]:
    # The layout score is the mean tau, which stands in the table already.
    return ["", "tau", "95 %", "OPA", *(f"@{k}" for k in TOP[kind]), *(["score"] if kind == "tile" else [])]


def _row(name: str, figures: dict[str, Any], kind: str) -> list[object]:
    interval = figures.get("kendall_tau_ci")
    return [
        name,
        _three(figures.get("kendall_tau")),
        f"{interval[0]:.2f} {interval[1]:.2f}" if interval else None,
        _three(figures.get("opa")),
        *(_three(figures.get(f"slowdown@{k}")) for k in TOP[kind]),
        *([_three(figures.get("score"))] if kind == "tile" else []),
    ]


def _three(value: float | None) -> str | None:
    # A fourth digit is noise at a few hundred graphs, and seven columns of them do not fit a terminal.
    return None if value is None else f"{value:.3f}"
