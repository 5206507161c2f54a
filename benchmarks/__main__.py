"""Run the speed benchmarks and compare their results with targets: one table, ``results/bench.md``."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, NamedTuple

from benchmarks.common import FOLDER, FOLDER_VARIABLE, Row, Section, machine, publish

Results = dict[str, Any]


class Bench(NamedTuple):
    """A module ``bench_<name>``, its arguments for a quick run, and whether it takes hours."""

    name: str
    quick: str | None = None
    slow: bool = False


BENCHES: Final = (
    Bench("layout_build", "--configs 2000 4000 --nodes 300 --rounds 1"),
    Bench("features", "--configs 100 --every 20 --nodes 60"),
    Bench("predict", "--backends xgboost --no-files"),
    Bench("fit", "--rounds 40", slow=True),
    Bench("adapt", slow=True),
)


class Figure(NamedTuple):
    """A row of the table: a figure from the results ``<page>.json``, and its target, ``≤ x``, ``≥ x`` or a dash.

    ``value`` raises KeyError, IndexError or StopIteration if the results lack the figure.
    """

    title: str
    page: str
    value: Callable[[Results], float]
    target: str = "–"

    def reached(self, value: float) -> str:
        """Whether a value reaches the target."""
        if self.target == "–":
            return "–"
        bound = float(self.target[1:])
        return "yes" if (value <= bound if self.target[0] == "≤" else value >= bound) else "no"


def _last(column: str) -> Callable[[Results], float]:
    return lambda results: float(results["rows"][-1][column])


def _in(table: str, columns: Sequence[str], **where: str) -> Callable[[Results], float]:
    def value(results: Results) -> float:
        row = next(row for row in results["tables"][table] if where.items() <= row.items())
        values = [row[column] for column in columns]
        return float("nan") if "–" in values else float(sum(values))

    return value


def _per_core(results: Results) -> float:
    row = results["rows"][-1]
    return float(1 / (1 / row["code, configs/s"] + 1 / row["describe, configs/s"]))


_SEARCH: Final = "One graph, batch after batch"
FIGURES: Final = (
    Figure("Layout build of a large file / inflating it with isal", "layout_build", _last("build / inflate"), "≤ 1.15"),
    Figure("numpy.load of it / layout build", "layout_build", _last("numpy.load / build"), "≥ 2"),
    Figure("Peak memory of that build, twice the configurations / once", "layout_build",
           lambda found: found["rows"][-1]["peak, MiB"] / found["rows"][0]["peak, MiB"], "≤ 1.15"),
    Figure("Peak memory of that build, MiB above the interpreter with libraries", "layout_build",
           lambda found: found["rows"][-1]["peak, MiB"] - found["rows"][-1]["libraries, MiB"], "≤ 954"),
    Figure("Layout columns in whole-array NumPy / by kernels", "layout_features", _last("ratio"), "≥ 20"),
    Figure("Tile geometry in whole-array NumPy / by kernels", "features", _last("ratio"), "≥ 20"),
    Figure("Tile caches in whole-array NumPy / by kernels", "features", _last("ratio of caches"), "≥ 20"),
    Figure("Layout configurations per second and core, 1,000 configurable nodes", "layout_features", _per_core),
    Figure("Tile configurations per second and core, all columns", "features", _last("all, configs/s")),
    *(
        Figure(f"Plain {first} / {second} in gbr, time to equal valid tau", "fit",
               _in("At equal tau", [f"{first.lower()} / this"], library=second.lower(), call="gbr"), target)
        for first, second, target in (("LightGBM", "LightGBM", "≥ 4"), ("XGBoost", "XGBoost", "≥ 3"))
    ),
    Figure("Fit of 1,000,000 rows / of 250,000 rows", "fit",
           lambda found: found["tables"]["Over rows"][-1]["times the first"], "≤ 4"),
    Figure("Memory of the fit of 1,000,000 rows / its matrix", "fit",
           lambda found: (lambda row: row["memory, GiB"] / row["matrix, GiB"])(found["tables"]["Over rows"][-1])),
    Figure("Ranking 1,000 configurations of a graph in memory, ensemble, ms", "predict",
           _in(_SEARCH, ["further calls, ms"], backend="ensemble"), "≤ 100"),
    Figure("The same with XGBoost only, ms", "predict",
           _in(_SEARCH, ["further calls, ms"], backend="xgboost"), "≤ 100"),
    Figure("New graph: scorer and its first call, ensemble, ms", "predict",
           _in(_SEARCH, ["scorer, made, ms", "first call, ms"], backend="ensemble")),
)  # fmt: skip
TEXT: Final = """\
Each figure is from one run on one machine; its page describes the measurement. *measured* is the date of that run.
`python -m benchmarks` measures again, except for what takes hours; `--all` includes it, `--quick` takes minutes and
leaves these pages unchanged, `--table` only writes this page."""
QUICK_TEXT: Final = "A quick run with small files and few rounds, in which fixed costs weigh more."


def run(bench: Bench, arguments: str, environment: dict[str, str]) -> bool:
    """Run a benchmark with its output on stderr; returns whether it succeeded."""
    print(f"\npython -m benchmarks.bench_{bench.name} {arguments}", file=sys.stderr, flush=True)
    line = [sys.executable, "-m", f"benchmarks.bench_{bench.name}", *arguments.split()]
    return subprocess.run(line, stdout=sys.stderr, env=os.environ | environment).returncode == 0


def summary(folder: Path) -> list[Row]:
    """The table, from a folder of results."""
    rows: list[Row] = []
    for figure in FIGURES:
        row = {"what": figure.title, "figure": "–", "target": figure.target}
        try:
            results = json.loads((folder / f"{figure.page}.json").read_text())
            value = figure.value(results)
        except (OSError, KeyError, IndexError, StopIteration):
            rows.append(row | {"reached": "not measured", "measured": "–", "page": "–"})
            continue
        shown, reached = (value, figure.reached(value)) if value == value else ("never", "no")
        date, page = results["machine"].get("date", "undated"), f"[{figure.page}]({figure.page}.md)"
        rows.append(row | {"figure": shown, "reached": reached, "measured": date, "page": page})
    return rows


def main() -> int:
    """Run the benchmarks, then print and store the table."""
    arguments = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    which = arguments.add_mutually_exclusive_group()
    which.add_argument("--quick", action="store_true", help="a quick run; stores nothing")
    which.add_argument("--all", action="store_true", help="include benchmarks that take hours")
    which.add_argument("--table", action="store_true", help="run nothing, only write the table")
    args = arguments.parse_args()
    failed: list[str] = []
    with TemporaryDirectory() as name:
        folder = Path(name) if args.quick else FOLDER
        for bench in () if args.table else BENCHES:
            line, environment = (bench.quick, {FOLDER_VARIABLE: name}) if args.quick else ("", {})
            selected = args.quick or args.all or not bench.slow
            if line is not None and selected and not run(bench, line, environment):
                failed.append(bench.name)
        title, text = ("Speed, a quick run", QUICK_TEXT) if args.quick else ("Speed", TEXT)
        publish("bench", title, text, [Section("", "", summary(folder))], machine(), folder)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
