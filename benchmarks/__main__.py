"""Run the speed benches, and put what they find beside what it should be: one table, ``results/bench.md``."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from benchmarks._results import FOLDER, SETTING, machine, publish

Found = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """One ``bench_*`` module.

    Parameters
    ----------
    name : str
    quick : str or None
        Arguments for a look that takes seconds; None where there is none.
    long : bool
        Takes so long that its stored results are taken instead, unless all are asked for.
    """

    name: str
    quick: str | None = None
    long: bool = False


BENCHES: Final = (
    Bench("layout_build", "--configs 2000 4000 --nodes 300 --rounds 1"),
    Bench("repack", "--configs 4000 --nodes 300 --rounds 1"),
    Bench("layout_features", "--configs 50"),
    Bench("features", "--configs 200 --every 20"),
    Bench("predict", "--only search --backends xgboost"),
    Bench("fit", "--rounds 40", long=True),
    Bench("train_size", "--rows 100000,200000 --share 40 --backends lightgbm", long=True),
    Bench("sampling", long=True),
    Bench("similar", long=True),
    Bench("adapt", long=True),
)


@dataclass(frozen=True)
class Figure:
    """A row of the table.

    Parameters
    ----------
    what, bench : str
    of : callable
        The figure in a bench's stored results; KeyError, IndexError or StopIteration where they lack it.
    at_most, at_least : float or None
        What it should be; neither where it is told for its own sake.
    """

    what: str
    bench: str
    of: Callable[[Found], float]
    at_most: float | None = None
    at_least: float | None = None

    @property
    def wanted(self) -> str:
        """In words."""
        if self.at_most is not None:
            return f"≤ {self.at_most:g}"
        return "–" if self.at_least is None else f"≥ {self.at_least:g}"

    def reached(self, value: float) -> str:
        """Whether a value is what it should be."""
        if self.at_most is None and self.at_least is None:
            return "–"
        good = value <= self.at_most if self.at_most is not None else value >= (self.at_least or 0)
        return "yes" if good else "no"


def _row(table: list[Found], **wanted: str) -> Found:
    """The first row that has these values."""
    return next(row for row in table if all(row[key] == value for key, value in wanted.items()))


def _last(found: Found) -> Found:
    return dict(found["rows"][-1])


def _fit(plain: str, library: str) -> Callable[[Found], float]:
    def of(found: Found) -> float:
        value = _row(found["tables"]["At equal tau"], library=library, call="gbr")[f"{plain} / this"]
        return float("nan") if isinstance(value, str) else float(value)

    return of


def _slope(library: str) -> Callable[[Found], float]:
    def of(found: Found) -> float:
        rows = found["tables"]["Over rows"]
        return float(rows[-1][f"{library}, gbr, s"] / rows[0][f"{library}, gbr, s"])

    return of


def _search(backend: str, column: str) -> Callable[[Found], float]:
    return lambda found: float(_row(found["tables"]["One graph, slate after slate"], backend=backend)[column])


def _grown(found: Found) -> float:
    first, last = found["rows"][0], found["rows"][-1]
    return float(last["peak, MiB"] / first["peak, MiB"])


def _per_core(found: Found) -> float:
    row = _last(found)
    return float(1 / (1 / row["code, configs/s"] + 1 / row["describe, configs/s"]))


def _largest(column: str) -> Callable[[Found], float]:
    return lambda found: max(float(row[column]) for row in found["tables"]["Measured"])


FIGURES: Final = (
    Figure("Layout build of a large file / inflating it with isal", "layout_build",
           lambda found: _last(found)["build / inflate"], at_most=1.15),
    Figure("numpy.load of it / layout build", "layout_build",
           lambda found: _last(found)["numpy.load / build"], at_least=2),
    Figure("Peak memory of that build at twice the configurations / at one time", "layout_build", _grown, at_most=1.15),
    Figure("Peak memory of that build, MiB over the interpreter with libraries", "layout_build",
           lambda found: _last(found)["peak, MiB"] - _last(found)["libraries, MiB"], at_most=954),
    Figure("Features from the original file / from the repacked copy", "repack",
           lambda found: _last(found)["file / copy, features"], at_least=5),
    Figure("1,000 random configurations from the original / from the copy", "repack",
           lambda found: _last(found)["file / copy"], at_least=5),
    Figure("Layout columns in whole-array NumPy / by kernels", "layout_features",
           lambda found: _last(found)["ratio"], at_least=20),
    Figure("Tile geometry in whole-array NumPy / by kernels", "features",
           lambda found: _last(found)["ratio"], at_least=20),
    Figure("Tile caches in whole-array NumPy / by kernels", "features",
           lambda found: _last(found)["ratio of caches"], at_least=20),
    Figure("Tile caches in scalar Python / by kernels", "features", lambda found: _last(found)["times"]),
    Figure("Layout configurations a second and core, 1,000 configurable nodes", "layout_features", _per_core),
    Figure("Tile configurations a second and core, the whole vector", "features",
           lambda found: _last(found)["all, configs/s"]),
    Figure("LightGBM called plainly / LightGBM in gbr, to equal valid tau", "fit", _fit("lightgbm", "lightgbm"),
           at_least=2),
    Figure("XGBoost called plainly / XGBoost in gbr, to equal valid tau", "fit", _fit("xgboost", "xgboost"),
           at_least=2),
    Figure("LightGBM called plainly / XGBoost in gbr, to equal valid tau", "fit", _fit("lightgbm", "xgboost"),
           at_least=2),
    Figure("Fit by LightGBM in gbr, of four times the graphs / of one time", "fit", _slope("lightgbm")),
    Figure("Fit by XGBoost in gbr, of four times the graphs / of one time", "fit", _slope("xgboost")),
    Figure("Peak memory of training on 16 million rows (one in 6 is learnt from), either library, GiB", "train_size",
           _largest("peak, GiB"), at_most=24),
    Figure("Ranking 1,000 configurations of a graph in memory, ensemble, ms", "predict",
           _search("ensemble", "further calls, ms"), at_most=100),
    Figure("The same with XGBoost alone, ms", "predict", _search("xgboost", "further calls, ms"), at_most=100),
    Figure("Graph new to the scorer, its first call included, ensemble, ms", "predict",
           lambda found: _search("ensemble", "scorer, made, ms")(found) + _search("ensemble", "first call, ms")(found)),
    Figure("Per-store features of a candidate by TVM / features by gbr", "tvm",
           lambda found: _row(found["rows"], system="TVM")["TVM / gbr"]),
)  # fmt: skip
COLUMNS: Final = ("what", "figure", "wanted", "reached", "measured", "page")
TEXT: Final = """\
Each figure is of one run on one machine, and its page tells how it was measured and why it is no better. *measured* is
the day of that run: what takes hours is not run again for this table. `python -m benchmarks` runs the rest anew,
`--all` everything, `--quick` takes a look in minutes and leaves these pages alone, `--table` runs nothing."""
QUICK_TEXT: Final = """\
A quick look: small files, few rounds. What is shared out over a large file weighs more here than on the pages under
`benchmarks/results`."""


def run(bench: Bench, arguments: str, environment: dict[str, str]) -> bool:
    """Run a bench; what it prints goes to stderr."""
    print(f"\npython -m benchmarks.bench_{bench.name} {arguments}", file=sys.stderr, flush=True)
    line = [sys.executable, "-m", f"benchmarks.bench_{bench.name}", *arguments.split()]
    return subprocess.run(line, stdout=sys.stderr, env=os.environ | environment).returncode == 0


def rows_of(folder: Path) -> list[tuple[Any, ...]]:
    """The table, of what lies in a folder of results."""
    rows: list[tuple[Any, ...]] = []
    for figure in FIGURES:
        path = folder / f"{figure.bench}.json"
        page = f"[{figure.bench}]({figure.bench}.md)"
        try:
            found = json.loads(path.read_text())
            value = float(figure.of(found))
        except (OSError, KeyError, IndexError, StopIteration):
            rows.append((figure.what, "–", figure.wanted, "not measured", "–", f"`benchmarks.bench_{figure.bench}`"))
            continue
        known = value == value
        told: object = value if known else "never"
        reached = figure.reached(value) if known else "no"
        rows.append((figure.what, told, figure.wanted, reached, found["machine"].get("date", "undated"), page))
    return rows


def main() -> int:
    """Run what is asked for, then print and store the table."""
    arguments = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    which = arguments.add_mutually_exclusive_group()
    which.add_argument("--quick", action="store_true", help="a look in minutes; stores nothing")
    which.add_argument("--all", action="store_true", help="also what takes hours")
    which.add_argument("--table", action="store_true", help="run nothing")
    args = arguments.parse_args()
    failed: list[str] = []
    with TemporaryDirectory() as name:
        folder = Path(name) if args.quick else FOLDER
        for bench in () if args.table else BENCHES:
            if args.quick and bench.quick is not None:
                failed += [] if run(bench, bench.quick, {SETTING: name}) else [bench.name]
            elif not args.quick and (args.all or not bench.long):
                failed += [] if run(bench, "", {}) else [bench.name]
        title, text = ("Speed, a quick look", QUICK_TEXT) if args.quick else ("Speed", TEXT)
        publish("bench", title, text, COLUMNS, rows_of(folder), machine(), folder)
    if failed:
        print(f"failed, their rows are of earlier runs: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
