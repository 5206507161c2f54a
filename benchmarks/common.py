"""Timing, and results as tables on the screen, as Markdown and as JSON."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

#: Environment variable that names another folder for results, for quick runs.
FOLDER_VARIABLE: Final = "GBR_BENCH_RESULTS"
FOLDER: Final = Path(os.environ.get(FOLDER_VARIABLE, Path(__file__).parent / "results"))
_ROUNDS: Final = 15
_SECONDS: Final = 0.02


def seconds(call: Callable[[], object]) -> float:
    """Seconds of one call: the least mean over several rounds, after a call that compiles and warms up.

    CPU time of the process, which other work on the machine does not stretch: for calls in one thread.
    """
    call()
    start = time.process_time()
    call()
    repeats = max(1, int(_SECONDS / max(time.process_time() - start, 1e-9)))
    best = float("inf")
    for _ in range(_ROUNDS):
        start = time.process_time()
        for _ in range(repeats):
            call()
        best = min(best, (time.process_time() - start) / repeats)
    return best


def machine(*libraries: str) -> dict[str, Any]:
    """Describe the machine and the versions of some libraries."""
    cpu = platform.processor() or platform.machine()
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line for line in lines if line.startswith("model name")).partition(":")[2].strip()
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "system": platform.system(),
        "date": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        **{library: version(library) for library in libraries},
    }


@dataclass(frozen=True)
class Section:
    """One table of a page.

    Parameters
    ----------
    title, text : str
        May be empty.
    columns, rows : sequences
        Numbers are rounded to three digits in the tables, but not in the JSON.
    """

    title: str
    text: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]

    @property
    def lines(self) -> list[str]:
        """The table in Markdown."""
        columns = zip(*self.rows, strict=True)
        return [
            f"| {' | '.join(self.columns)} |",
            f"|{'|'.join('---' if all(isinstance(value, str) for value in column) else '---:' for column in columns)}|",
            *(f"| {' | '.join(map(_rounded, row))} |" for row in self.rows),
        ]

    @property
    def records(self) -> list[dict[str, Any]]:
        """The rows by column."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


def publish(
    name: str, title: str, text: str, sections: Sequence[Section], on: dict[str, Any], folder: Path = FOLDER
) -> None:
    """Print tables and write them to ``<folder>/<name>.md`` and ``<folder>/<name>.json``.

    Parameters
    ----------
    name, title, text : str
    sections : sequence of Section
        In the JSON, ``tables`` by title; a single one without a title is ``rows``.
    on : dict
        As :func:`machine`.
    folder : Path
    """
    lines = [f"# {title}", "", text, ""]
    for section in sections:
        print(f"\n{section.title or title}\n", *section.lines, sep="\n")
        lines += [f"## {section.title}", ""] if section.title else []
        lines += [*([section.text, ""] if section.text else []), *section.lines, ""]
    tables = {section.title: section.records for section in sections}
    found = {"rows": tables[""]} if list(tables) == [""] else {"tables": tables}
    where = ", ".join(f"{key} {value}" for key, value in on.items())
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.md").write_text("\n".join([*lines, f"Measured on: {where}.", ""]))
    (folder / f"{name}.json").write_text(json.dumps({"machine": on, **found}, indent=1) + "\n")


def _rounded(value: object) -> str:
    return f"{float(f'{value:.3g}'):,.10g}" if isinstance(value, float) else str(value)
