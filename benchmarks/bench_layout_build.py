"""Building one large layout file: memory by its size, and time against inflating it and against ``numpy.load``."""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import made_layout
from benchmarks.common import Section, machine, publish
from gbr.data.build import build, extract
from gbr.data.collection import Subset
from gbr.data.graph import graph_from_arrays
from gbr.data.npz import NpzFile
from tests.made import layout_arrays

SUBSET = Subset("layout:made:random")
_ROUNDS = 5
COLUMNS = (
    "configurations",
    "inflated, GB",
    "file, MB",
    "inflate, s",
    "numpy.load, s",
    "build, s",
    "CPU of inflating, s",
    "CPU of building, s",
    "build / inflate",
    "floor",
    "numpy.load / build",
    "libraries, MiB",
    "peak, MiB",
)
TEXT = """\
One generated file per row: {nodes:,} configurable nodes in a graph of {graph:,}, two to nine rows per node. *inflate*
is `isal` alone, member by member through one small buffer, with the CRC; *numpy.load* reads the configurations whole;
*build* is everything from opening the file to the Parquet file in the store. Each is the least of {rounds} rounds that
took turns on the same machine (*numpy.load*: one). *peak* is the largest resident set of a process that builds the file
once, *libraries* that of the same process after its imports and a small graph. *floor* is half of the CPU of the build
over that of inflating, which no schedule of the same work on two cores can go below."""


def child(root: Path, n_rounds: int) -> dict[str, Any]:
    """Build the file under ``root`` in this process, taking turns with inflating it."""
    extract(graph_from_arrays("small", layout_arrays()))
    import pyarrow.parquet  # noqa: F401 -- what the first build would import

    path = next(SUBSET.folder(root).glob("*/*.npz"))
    found: dict[str, Any] = {"libraries": _peak()}
    built, inflated = [], []
    for number in range(n_rounds):
        built.append(_timed(lambda number=number: build(SUBSET, root, root / f"store{number}", jobs=1)))  # type: ignore[misc]
        found.setdefault("peak", _peak())
        inflated.append(_timed(lambda: _inflate(path)))
    found["build"], found["build_cpu"] = (min(each[place] for each in built) for place in range(2))
    found["inflate"], found["inflate_cpu"] = (min(each[place] for each in inflated) for place in range(2))
    found["load"] = _timed(lambda: np.load(path)["node_config_feat"])[0]
    return found


def _timed(call: Callable[[], object]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - cpu


def _inflate(path: Path) -> None:
    """Inflate the configurations with ``isal``, as any reader must."""
    for _ in NpzFile(path).blocks("node_config_feat"):
        pass


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(folder: Path, n_configs: int, n_nodes: int) -> tuple[Any, ...]:
    """One row of the table."""
    path = SUBSET.folder(folder) / "train" / "made.npz"
    path.parent.mkdir(parents=True)
    n_bytes = made_layout.write(path, n_configs, n_nodes)
    command = [sys.executable, "-m", "benchmarks.bench_layout_build", "--child", str(folder)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return (
        n_configs,
        n_bytes / 1e9,
        path.stat().st_size / 1e6,
        found["inflate"],
        found["load"],
        found["build"],
        found["inflate_cpu"],
        found["build_cpu"],
        found["build"] / found["inflate"],
        found["build_cpu"] / found["inflate_cpu"] / 2,
        found["load"] / found["build"],
        found["libraries"],
        found["peak"],
    )


def main() -> None:
    """Measure files of one and two sizes and leave the results."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--configs", type=int, nargs="+", default=[20_000, 40_000], metavar="N")
    arguments.add_argument("--nodes", type=int, default=1000, metavar="N")
    arguments.add_argument("--rounds", type=int, default=_ROUNDS, metavar="N")
    arguments.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    args = arguments.parse_args()
    if args.child:
        print(json.dumps(child(args.child, args.rounds)))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), 64, 60)  # compiles what the measured processes are to load
    for n_configs in args.configs:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(Path(folder), n_configs, args.nodes))
    graph = len(made_layout.network(args.nodes)[0])
    text = TEXT.format(nodes=args.nodes, graph=graph, rounds=args.rounds)
    on = machine("numpy", "numba", "polars", "isal")
    publish("layout_build", "Building a large layout file", text, [Section("", "", COLUMNS, rows)], on)


if __name__ == "__main__":
    main()
