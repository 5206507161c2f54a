"""Training from a collection larger than memory: peak memory and time over its rows, all columns of layouts."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from functools import lru_cache
from importlib import import_module
from typing import Any, Final

import numpy as np

from benchmarks._results import Section, machine, publish_page
from features.layout.extractor import N_OWN, schema
from gbr.models.base import backend
from gbr.models.params import resolve
from gbr.models.rows import Rows, StreamedMatrix
from gbr.models.training_set import Sample, choose, most_binned

BACKENDS: Final = ("lightgbm", "xgboost")
SLATES: Final = 200
ROUNDS: Final = 10
#: One row of so many is learnt from: about what `gbr.train` takes of the largest collection on a machine of 24 GB.
SHARE: Final = 6
#: Rows of the largest collection of TpuGraphs, about.
WHOLE: Final = 16_000_000
_TELLING: Final = 8
_POOL: Final = 4096
_GIB: Final = 1 << 30
#: So that what is left out is what was asked to be.
_ENOUGH: Final = 1 << 50
#: Little, so that what LightGBM chooses bins by does not hide what its bins take.
_MEMORY: Final = _GIB

TEXT = """\
A made collection of {slates} slates of equal size with all {columns} columns of layouts: {own} that differ between
configurations, with 2 to 256 values each, and {shared} that are constant within a slate. One row of {share} is learnt
from, as many of each slate, as `gbr.train` does where bins of all rows do not fit: it streams whole slates, keeps the
chosen rows of each and bins them. No row is on disk: a slate is made, and made again, from its seed when it is asked
for (*read*; it stands for reading the store). Each fit is a process of its own; *peak* is the most memory it had at
once, *bytes a value* the rise of that since the line above over the rise of learnt rows times columns. *bin* chooses
bins and bins the learnt rows, *round* is the mean of {rounds}. All times are of the CPU, with {threads} threads:
waiting for other work does not count, but caches that other work empties do."""
BEYOND = """\
A line through the largest two sizes, for {whole:,} learnt rows, and for what `gbr.train --memory {memory:g}` makes of
any collection that is larger: it learns from at most so many rows that their bins fit twice the memory, as many of each
graph. Hours of CPU are for 1000 rounds and reading once per pass. Nothing in this table was run."""


@lru_cache(2)
def room(rows: int) -> np.ndarray:
    """Rows whose first columns differ from row to row, float32 (rows, columns); made once, the same for all slates."""
    rng = np.random.default_rng(0)
    levels = rng.integers(2, 256, N_OWN, dtype=np.uint8)
    pool = (rng.integers(0, 256, (_POOL, N_OWN), np.uint8) % levels).astype(np.float32)
    found = np.empty((rows, len(schema().names)), np.float32)
    for start in range(0, rows, _POOL):
        part = found[start : start + _POOL, :N_OWN]
        part[:] = pool[: len(part)]
    return found


def values(rows_per_slate: int, first: int, last: int) -> np.ndarray:
    """All rows of some slates, float32 (rows, columns), until the next call."""
    found = room((last - first) * rows_per_slate)
    for number in range(first, last):
        own = found[(number - first) * rows_per_slate :][:rows_per_slate]
        own[:, N_OWN:] = np.random.default_rng([1, number]).normal(size=own.shape[1] - N_OWN)
        own[:, :_TELLING] = telling(rows_per_slate, number)
    return found


def telling(rows: int, number: int) -> np.ndarray:
    """Columns of a slate that its runtimes follow, int (rows, columns)."""
    return np.random.default_rng([2, number]).integers(0, 100, (rows, _TELLING), np.uint8)


def runtimes(rows: int, number: int) -> np.ndarray:
    """Runtimes of a slate [ns], int64 (rows,)."""
    rng = np.random.default_rng([3, number])
    log = telling(rows, number) @ np.linspace(0.001, 0.008, _TELLING) + rng.normal(12, 3) + rng.normal(0, 0.1, rows)
    return np.exp(log).astype(np.int64)


def measure(name: str, rows: int, share: int, threads: int) -> dict[str, Any]:
    """Fit in this process."""
    each = rows // SLATES
    bounds = np.arange(SLATES + 1) * each
    target = np.concatenate([runtimes(each, number) for number in range(SLATES)])
    n_columns, reading = len(schema().names), 0.0
    wanted = Sample(max(2, each // share))
    chosen = choose(np.arange(bounds[-1]), target.astype(np.float64), bounds, n_columns, _ENOUGH, wanted, 0)

    def read(first: int, last: int) -> np.ndarray:
        nonlocal reading
        start = time.process_time()
        found = values(each, first, last)
        reading += time.process_time() - start
        return found

    matrix = StreamedMatrix(read, bounds, chosen.rows, n_columns, memory=_MEMORY)
    settings = resolve(
        name, None, capacity={"n_estimators": ROUNDS}, early_stopping_rounds=100, seed=0, n_jobs=threads,
        params={}, n_groups=SLATES, n_rows=len(matrix),
    )  # fmt: skip
    library = backend(name)
    ticks = watch(import_module(name).Booster)
    start = time.process_time()
    library.fit(Rows(matrix, chosen.target, chosen.indptr), None, settings)
    return {
        "backend": name,
        "collection": rows,
        "rows": len(matrix),
        "peak": peak(),
        "read": reading,
        "bin": ticks[0] - start - reading,
        "round": (ticks[-1] - ticks[0]) / ROUNDS,
    }


def watch(booster: Any) -> list[float]:
    """Seconds of CPU when each further round of a library starts and ends."""
    ticks: list[float] = []
    update = booster.update

    def scored(self: Any, *arguments: Any, **named: Any) -> Any:
        ticks.append(time.process_time())
        found = update(self, *arguments, **named)
        ticks.append(time.process_time())
        return found

    booster.update = scored
    return ticks


def peak() -> int:
    """Bytes this process had at once, at most."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def beyond(found: list[dict[str, Any]], memory: float) -> list[tuple[Any, ...]]:
    """Rows of the table of what was not run."""
    n_columns = len(schema().names)
    table = []
    for rows in (WHOLE, most_binned(n_columns, int(memory * _GIB))):
        for name in dict.fromkeys(each["backend"] for each in found):
            own = [each for each in found if each["backend"] == name][-2:]
            need = {
                key: float(np.polyval(np.polyfit([each["rows"] for each in own], [each[key] for each in own], 1), rows))
                for key in ("peak", "bin", "round")
            }
            hours = (own[-1]["read"] * WHOLE / own[-1]["collection"] + need["bin"] + 1000 * need["round"]) / 3600
            table.append((name, f"{rows:,}", need["peak"] / _GIB, hours))
    return table


def main() -> None:
    """Measure every size with every backend and leave the results."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rows", default="4000000,8000000,16000000", metavar="LIST", help="default: %(default)s")
    arguments.add_argument("--share", type=int, default=SHARE, metavar="N", help="learn from one row of N")
    arguments.add_argument("--backends", default=",".join(BACKENDS), metavar="LIST", help="default: %(default)s")
    arguments.add_argument("--memory", type=float, default=6.0, metavar="GB", help="of gbr.train; default: %(default)s")
    arguments.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="threads")
    arguments.add_argument("--one", nargs=2, metavar=("BACKEND", "ROWS"), help=argparse.SUPPRESS)
    args = arguments.parse_args()
    if args.one:
        print(json.dumps(measure(args.one[0], int(args.one[1]), args.share, args.jobs)))
        return
    common = ["-m", "benchmarks.bench_train_size", "--jobs", str(args.jobs), "--share", str(args.share), "--one"]
    found: list[dict[str, Any]] = []
    for name in args.backends.split(","):
        for size in args.rows.split(","):
            line = [sys.executable, *common, name, size]
            found.append(json.loads(subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True).stdout))
            print(json.dumps(found[-1]), file=sys.stderr, flush=True)
    leave(found, args.share, args.memory, args.jobs)


def leave(found: list[dict[str, Any]], share: int, memory: float, threads: int) -> None:
    """Write the page."""
    n_columns = len(schema().names)
    found = sorted(found, key=lambda each: (each["backend"], each["rows"]))
    rows = []
    for before, each in zip([None, *found], found, strict=False):
        slope = None
        if before and before["backend"] == each["backend"]:
            slope = (each["peak"] - before["peak"]) / (each["rows"] - before["rows"]) / n_columns
        figures = (each["peak"] / _GIB, "–" if slope is None else slope, each["read"], each["bin"], each["round"])
        rows.append((each["backend"], f"{each['collection']:,}", f"{each['rows']:,}", *figures))
    text = TEXT.format(
        slates=SLATES, columns=n_columns, own=N_OWN, shared=n_columns - N_OWN, share=share, rounds=ROUNDS,
        threads=threads,
    )  # fmt: skip
    titles = ("backend", "rows", "learnt rows", "peak, GiB", "bytes a value", "read, s", "bin, s", "round, s")
    sections = [Section("Measured", "", titles, rows)]
    if all(sum(each["backend"] == own["backend"] for each in found) > 1 for own in found):
        told = BEYOND.format(whole=WHOLE, memory=memory)
        sections.append(
            Section("Beyond", told, ("backend", "learnt rows", "peak, GiB", "hours of CPU"), beyond(found, memory))
        )
    publish_page("train_size", "Training at full size", text, sections, machine("numpy", "lightgbm", "xgboost-cpu"))


if __name__ == "__main__":
    main()
