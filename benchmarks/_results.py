"""Timing, and results as a table on the screen, as Markdown and as JSON."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).parent / "results"
_ROUNDS: Final = 15
_SECONDS: Final = 0.02


def seconds(call: Callable[[], object]) -> float:
    """Return the least mean wall time of one call over several rounds, after one call that compiles and warms up."""
    call()
    start = time.perf_counter()
    call()
    repeats = max(1, int(_SECONDS / max(time.perf_counter() - start, 1e-9)))
    best = float("inf")
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        for _ in range(repeats):
            call()
        best = min(best, (time.perf_counter() - start) / repeats)
    return best


def machine(*libraries: str) -> dict[str, Any]:
    """Describe what the figures were measured on."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        **{library: version(library) for library in libraries},
    }


def publish(
    name: str, title: str, text: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], on: dict[str, Any]
) -> None:
    """Print a table and write ``results/<name>.md`` and ``results/<name>.json``.

    Parameters
    ----------
    name, title : str
    text : str
        What was measured and how, a paragraph for the Markdown page.
    columns, rows : sequences
        Numbers stay whole in the JSON and are rounded to three digits in the tables.
    on : dict
        Of :func:`machine`.
    """
    lines = [
        f"| {' | '.join(columns)} |",
        f"|{'|'.join('---' if isinstance(value, str) else '---:' for value in rows[0])}|",
        *(f"| {' | '.join(map(_told, row))} |" for row in rows),
    ]
    where = ", ".join(f"{key} {value}" for key, value in on.items())
    print(f"\n{title}\n", *lines, sep="\n")
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{name}.md").write_text(
        "\n".join([f"# {title}", "", text, "", *lines, "", f"Measured on: {where}.", ""])
    )
    records = [dict(zip(columns, row, strict=True)) for row in rows]
    (FOLDER / f"{name}.json").write_text(json.dumps({"machine": on, "rows": records}, indent=1) + "\n")


def _told(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{float(f'{value:.3g}'):,.10g}"


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
