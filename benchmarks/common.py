"""What the benchmarks share: arguments, default models, timing, and result tables as text, Markdown and JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gbr.collect.timer import measure

if TYPE_CHECKING:
    from gbr import Ranker

#: Environment variable that names another folder for the results, for quick runs.
FOLDER_VARIABLE: Final = "GBR_BENCH_RESULTS"
FOLDER: Final = Path(os.environ.get(FOLDER_VARIABLE, Path(__file__).parent / "results"))
_ROUNDS: Final = 8
_LEAST_NS: Final = 20_000_000

Row = dict[str, Any]


def parser(description: str | None) -> argparse.ArgumentParser:
    """Create a parser with ``--data``."""
    arguments = argparse.ArgumentParser(description=description)
    arguments.add_argument("--data", type=Path, default=Path("data"), metavar="ROOT", help="default: %(default)s")
    return arguments


def default_model(collection: str, data: Path, work: Path, backend: str = "auto") -> Ranker:
    """Default model of a collection on one thread; trained below ``work`` unless an earlier call has done so."""
    # Imported here: benchmarks of memory must not load the libraries of models.
    from gbr import Ranker
    from gbr.data.collection import resolve
    from gbr.train import train

    run = work / f"{collection.replace(':', '-')}-{backend}"
    if not (run / "metrics.json").exists():
        train(resolve(collection, data), data, work / "store", run, backend=backend)
    ranker: Ranker = Ranker.load(run).set_params(n_jobs=1)
    return ranker


def seconds(call: Callable[[], object]) -> float:
    """CPU time of one call in seconds: the least mean of several rounds, after a call that compiles and warms up.

    For calls in one thread.  Unlike wall time, CPU time does not depend on other processes.
    """
    call()
    clock = time.process_time_ns
    passes = measure([call], rounds=_ROUNDS, least_ns=_LEAST_NS, enough_ns=_ROUNDS * _LEAST_NS, clock=clock)
    return float(min(passes)[0]) / 1e9


def machine(*libraries: str) -> dict[str, Any]:
    """Describe the machine, and the versions of some libraries."""
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
    """One table of a page: rows have the same columns.  Markdown rounds numbers to three digits, JSON does not."""

    title: str
    text: str
    rows: Sequence[Row]

    @property
    def lines(self) -> list[str]:
        """The table in Markdown."""
        names = list(self.rows[0])
        rules = ["---" if all(isinstance(row[name], str) for row in self.rows) else "---:" for name in names]
        cells = [map(_rounded, row.values()) for row in self.rows]
        return [f"| {' | '.join(names)} |", f"|{'|'.join(rules)}|", *(f"| {' | '.join(row)} |" for row in cells)]


def publish(
    name: str, title: str, text: str, sections: Sequence[Section], setup: Mapping[str, Any], folder: Path = FOLDER
) -> None:
    """Print tables and write them to ``<folder>/<name>.md`` and ``<folder>/<name>.json``.

    The JSON has ``tables`` by title, or ``rows`` of a section without a title; ``setup`` is from :func:`machine`.
    """
    lines = [f"# {title}", "", text, ""]
    for section in sections:
        print(f"\n{section.title or title}\n", *section.lines, sep="\n")
        lines += [f"## {section.title}", ""] if section.title else []
        lines += [*([section.text, ""] if section.text else []), *section.lines, ""]
    tables = {section.title: section.rows for section in sections}
    results = {"rows": tables[""]} if list(tables) == [""] else {"tables": tables}
    measured_on = ", ".join(f"{key} {value}" for key, value in setup.items())
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.md").write_text("\n".join([*lines, f"Measured on: {measured_on}.", ""]))
    (folder / f"{name}.json").write_text(json.dumps({"machine": setup, **results}, indent=1) + "\n")


def _rounded(value: object) -> str:
    if value is None:
        return "–"
    return f"{float(f'{value:.3g}'):,.10g}" if isinstance(value, float) else str(value)
