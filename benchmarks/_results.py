"""Timing, and results as a table on the screen, as Markdown and as JSON."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

#: Variable of the environment that names another folder for results: a quick look leaves those published alone.
SETTING: Final = "GBR_BENCH_RESULTS"
FOLDER: Final = Path(os.environ.get(SETTING, Path(__file__).parent / "results"))
_ROUNDS: Final = 15
_SECONDS: Final = 0.02


def seconds(call: Callable[[], object]) -> float:
    """Return the least mean time of one call over several rounds, after one call that compiles and warms up.

    It is the process's time on the CPU, which other work on the machine does not stretch: for calls in one thread.
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
    """Describe what the figures were measured on."""
    return {
        "cpu": _cpu(),
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
        The text, a paragraph for the Markdown page, may be empty.
    columns, rows : sequences
        Numbers stay whole in the JSON and are rounded to three digits in the tables.
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
            *(f"| {' | '.join(map(_told, row))} |" for row in self.rows),
        ]

    @property
    def records(self) -> list[dict[str, Any]]:
        """The rows by column."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


def publish(
    name: str,
    title: str,
    text: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    on: dict[str, Any],
    folder: Path = FOLDER,
) -> None:
    """Print a table and write ``<folder>/<name>.md`` and ``<folder>/<name>.json``.

    Parameters
    ----------
    name, title : str
    text : str
        What was measured and how, a paragraph for the Markdown page.
    columns, rows : sequences
        As in :class:`Section`.
    on : dict
        Of :func:`machine`.
    folder : Path
    """
    table = Section(title, text, columns, rows)
    print(f"\n{title}\n", *table.lines, sep="\n")
    _write(folder, name, [f"# {title}", "", text, "", *table.lines, ""], {"rows": table.records}, on)


def publish_page(
    name: str, title: str, text: str, sections: Sequence[Section], on: dict[str, Any], folder: Path = FOLDER
) -> None:
    """Print several tables and write them as one page, ``<folder>/<name>.md`` and ``<folder>/<name>.json``.

    Parameters
    ----------
    name, title, text : str
    sections : sequence of Section
    on : dict
        Of :func:`machine`.
    folder : Path
    """
    lines = [f"# {title}", "", text, ""]
    for section in sections:
        print(f"\n{section.title}\n", *section.lines, sep="\n")
        lines += [f"## {section.title}", "", *([section.text, ""] if section.text else []), *section.lines, ""]
    _write(folder, name, lines, {"tables": {section.title: section.records for section in sections}}, on)


def _write(folder: Path, name: str, lines: list[str], found: dict[str, Any], on: dict[str, Any]) -> None:
    where = ", ".join(f"{key} {value}" for key, value in on.items())
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.md").write_text("\n".join([*lines, f"Measured on: {where}.", ""]))
    (folder / f"{name}.json").write_text(json.dumps({"machine": on, **found}, indent=1) + "\n")


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
