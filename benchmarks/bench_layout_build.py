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

from benchmarks import _made_layout
from benchmarks._results import machine, publish
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
One generated file per row: {nodes:,} configurable nodes in a graph of {graph:,}, two to nine rows per node.
*inflate* is `isal` alone, member by member through one small buffer, CRC summed; *numpy.load* reads the
configurations whole; *build* is everything from opening the file to the Parquet file in the store, compiled kernels
loaded. Each is the least of {rounds} rounds that took turns on the same machine (*numpy.load*: one), and so are the
seconds of CPU; seconds of CPU compare best, for other work on the machine stretches the rest.
*peak* is the largest resident set of a process that builds the file once, *libraries* that of the same process after
its imports and a graph of seven configurations.
Memory holds a row group that is put together and one that is written, and a few batches of configurations. What grows
with the configurations are some hundred bytes of each: what tells which are identical, a column while it is compared,
and what Parquet notes of every row group until the file is closed.

*floor* is what no order of the same work on two cores can go below: half of the CPU of everything over that of
inflating. Inflating a node's 72 bytes takes no longer than a few dozen instructions; in that time the two cores have
room for as much work again, and the rest of the build comes to several times as much. Per second of inflating, in one
thread of a busy machine: finding each node's row 0.85; describing 0.85, of which sums over terms take 0.5 and what is
looked up for pairs of connected nodes 0.2; setting codes and columns aside until the slate is known, and gathering
blocks, 0.9; Parquet 0.45; comparing within the slate 0.25; preparing the graph 0.15. Finding rows and describing them
come to 1.7, where a build of 1.15 would leave 1.3 to all but inflating.
One core inflates and codes, a block while it is in its cache, as the other one
describes; Parquet, which needs the columns of the whole slate, comes last."""


def child(root: Path, n_rounds: int) -> dict[str, Any]:
    """Build the file under ``root`` in this process, taking turns with inflating it."""
    extract(graph_from_arrays("small", layout_arrays()))
    import pyarrow.parquet  # noqa: F401 -- what the first build would import

    path = next(SUBSET.folder(root).glob("*/*.npz"))
    told: dict[str, Any] = {"libraries": _peak()}
    built, inflated = [], []
    for number in range(n_rounds):
        built.append(_timed(lambda number=number: build(SUBSET, root, root / f"store{number}", jobs=1)))  # type: ignore[misc]
        told.setdefault("peak", _peak())
        inflated.append(_timed(lambda: _inflate(path)))
    told["build"], told["build_cpu"] = (min(each[place] for each in built) for place in range(2))
    told["inflate"], told["inflate_cpu"] = (min(each[place] for each in inflated) for place in range(2))
    told["load"] = _timed(lambda: np.load(path)["node_config_feat"])[0]
    return told


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
    n_bytes = _made_layout.write(path, n_configs, n_nodes)
    command = [sys.executable, "-m", "benchmarks.bench_layout_build", "--child", str(folder)]
    told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return (
        n_configs,
        n_bytes / 1e9,
        path.stat().st_size / 1e6,
        told["inflate"],
        told["load"],
        told["build"],
        told["inflate_cpu"],
        told["build_cpu"],
        told["build"] / told["inflate"],
        told["build_cpu"] / told["inflate_cpu"] / 2,
        told["load"] / told["build"],
        told["libraries"],
        told["peak"],
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
    graph = len(_made_layout.network(args.nodes)[0])
    text = TEXT.format(nodes=args.nodes, graph=graph, rounds=args.rounds)
    publish(
        "layout_build", "Building a large layout file", text, COLUMNS, rows, machine("numpy", "numba", "polars", "isal")
    )


if __name__ == "__main__":
    main()
