"""Training from a source larger than memory: peak memory and time over the number of rows, all layout columns."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from typing import Any, Final

import numpy as np

from benchmarks._results import Section, machine, publish_page
from features.layout import N_OWN, schema
from gbr._backend import Rows, backend
from gbr._batches import StreamedMatrix
from gbr._settings import Settings, resolve

#: Backends and what each learns by default.
LEARNT: Final = {"lightgbm": "lambdarank", "xgboost": "pairwise"}
SLATES: Final = 200
ROUNDS: Final = 10
WHOLE: Final = 16_000_000
_TELLING: Final = 8
_GIB: Final = 1 << 30
#: Little, so that what LightGBM chooses bins by does not hide what its bins take.
_MEMORY: Final = _GIB

TEXT = """\
{slates} made slates of equal size, all {columns} columns of layouts: {own} that differ between configurations, with 2
to 256 values each, and {shared} that are constant within a slate.  No row is on disk: a batch is made, and made again,
from its seed when it is asked for (*read*, for one fit; it stands for reading the store).  Each fit is a process of its
own; *peak* is the most memory it had at once, *bytes a value* the rise of that since the line above over the rise of
rows times columns: what is there whatever the number of rows is left out.  *bin* is a fit of one round without reading:
it chooses bins and bins all rows.  *round* is the time of each further one.  All times are of the CPU, with {threads}
threads, so that other work on the machine does not count."""
BEYOND = """\
A line through the largest two sizes, for {whole:,} rows, and for what `gbr.train --memory {memory:g}` makes of any
collection that is larger: it learns from at most so many rows that their bins fit twice the memory, as many of each
graph.  Hours of CPU are for 1000 rounds.  Nothing in this table was run."""


def values(rows_per_slate: int, first: int, last: int) -> np.ndarray:
    """All rows of some slates, float32 (rows, columns)."""
    n_columns = len(schema().names)
    found = np.empty(((last - first) * rows_per_slate, n_columns), np.float32)
    levels = np.random.default_rng(0).integers(2, 256, N_OWN, dtype=np.uint8)
    for number in range(first, last):
        rng = np.random.default_rng([1, number])
        own = found[(number - first) * rows_per_slate :][:rows_per_slate]
        own[:, :N_OWN] = rng.integers(0, 256, (rows_per_slate, N_OWN), np.uint8) % levels
        own[:, N_OWN:] = rng.normal(size=n_columns - N_OWN)
        own[:, :_TELLING] = telling(rows_per_slate, number)
    return found


def telling(rows: int, number: int) -> np.ndarray:
    """Columns of a slate that its runtimes follow, int (rows, columns)."""
    return np.random.default_rng([2, number]).integers(0, 100, (rows, _TELLING))


def runtimes(rows: int, number: int) -> np.ndarray:
    """Runtimes of a slate [ns], int64 (rows,)."""
    rng = np.random.default_rng([3, number])
    log = telling(rows, number) @ np.linspace(0.001, 0.008, _TELLING) + rng.normal(12, 3) + rng.normal(0, 0.1, rows)
    return np.exp(log).astype(np.int64)


def measure(name: str, rows: int, threads: int) -> dict[str, Any]:
    """Fit once with one round and once with more, in this process."""
    each = rows // SLATES
    bounds = np.arange(SLATES + 1) * each
    target = np.concatenate([runtimes(each, number) for number in range(SLATES)])
    reading = 0.0

    def read(first: int, last: int) -> np.ndarray:
        nonlocal reading
        start = time.process_time()
        found = values(each, first, last)
        reading += time.process_time() - start
        return found

    matrix = StreamedMatrix(read, bounds, np.arange(bounds[-1]), len(schema().names), memory=_MEMORY)
    train = Rows(matrix, target, bounds)
    settings: Settings = resolve(
        name, LEARNT[name], capacity={}, early_stopping_rounds=100, seed=0, n_jobs=threads, params={},
        n_slates=SLATES, n_rows=rows,
    )  # fmt: skip
    fit = partial(backend(name).fit, train, None)
    seconds = []
    for rounds in (1, 1 + ROUNDS):
        reading, start = 0.0, time.process_time()
        fit(replace(settings, n_estimators=rounds))
        seconds.append(time.process_time() - start - reading)
    return {
        "backend": name,
        "rows": len(matrix),
        "peak": peak(),
        "read": reading,
        "bin": seconds[0],
        "round": (seconds[1] - seconds[0]) / ROUNDS,
    }


def peak() -> int:
    """Bytes this process had at once, at most."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def beyond(found: list[dict[str, Any]], memory: float) -> list[tuple[Any, ...]]:
    """Rows of the table of what was not run."""
    from gbr._trainset import most_binned

    n_columns = len(schema().names)
    table = []
    for rows in (WHOLE, most_binned(n_columns, int(memory * _GIB))):
        for name in LEARNT:
            own = [each for each in found if each["backend"] == name][-2:]
            need = {
                key: np.polyval(np.polyfit([each["rows"] for each in own], [each[key] for each in own], 1), rows)
                for key in ("peak", "read", "bin", "round")
            }
            hours = (need["read"] + need["bin"] + 1000 * need["round"]) / 3600
            table.append((name, f"{rows:,}", float(need["peak"] / _GIB), float(hours)))
    return table


def main() -> None:
    """Measure every size with every backend and leave the results."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rows", default="250000,500000,1000000", metavar="LIST", help="default: %(default)s")
    arguments.add_argument("--backends", default=",".join(LEARNT), metavar="LIST", help="default: %(default)s")
    arguments.add_argument("--memory", type=float, default=6.0, metavar="GB", help="of gbr.train; default: %(default)s")
    arguments.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="threads")
    arguments.add_argument("--one", nargs=2, metavar=("BACKEND", "ROWS"), help=argparse.SUPPRESS)
    args = arguments.parse_args()
    if args.one:
        print(json.dumps(measure(args.one[0], int(args.one[1]), args.jobs)))
        return
    sizes = [int(text) for text in args.rows.split(",")]
    found: list[dict[str, Any]] = []
    for name in args.backends.split(","):
        for size in sizes:
            line = ["-m", "benchmarks.bench_train_size", "--jobs", str(args.jobs), "--one", name, str(size)]
            told = subprocess.run([sys.executable, *line], stdout=subprocess.PIPE, text=True, check=True).stdout
            found.append(json.loads(told))
            print(found[-1], file=sys.stderr, flush=True)
    leave(found, args.memory, args.jobs)


def leave(found: list[dict[str, Any]], memory: float, threads: int) -> None:
    """Write the page."""
    n_columns = len(schema().names)
    rows = []
    for before, each in zip([None, *found], found, strict=False):
        slope = None
        if before and before["backend"] == each["backend"]:
            slope = (each["peak"] - before["peak"]) / (each["rows"] - before["rows"]) / n_columns
        figures = (each["peak"] / _GIB, "–" if slope is None else slope, each["read"], each["bin"], each["round"])
        rows.append((each["backend"], f"{each['rows']:,}", *figures))
    text = TEXT.format(
        slates=SLATES, columns=n_columns, own=N_OWN, shared=n_columns - N_OWN, threads=threads,
    )  # fmt: skip
    titles = ("backend", "rows", "peak, GiB", "bytes a value", "read, s", "bin, s", "round, s")
    sections = [Section("Measured", "", titles, rows)]
    if all(sum(each["backend"] == name for each in found) > 1 for name in LEARNT):
        told = BEYOND.format(whole=WHOLE, memory=memory)
        sections.append(
            Section("Beyond", told, ("backend", "rows", "peak, GiB", "hours of CPU"), beyond(found, memory))
        )
    publish_page("train_size", "Training at full size", text, sections, machine("numpy", "lightgbm", "xgboost-cpu"))


if __name__ == "__main__":
    main()
