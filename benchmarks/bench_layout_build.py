"""Build of one large layout file: memory by its size, and time compared with inflating it and with ``numpy.load``."""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow.parquet  # noqa: F401 -- loaded before the first measurement of memory

from benchmarks import made_layout
from benchmarks.common import Row, Section, machine, publish
from gbr.data.build import build, extract
from gbr.data.collection import Subset
from gbr.data.graph import graph_from_arrays
from gbr.data.npz import NpzFile
from tests.made import layout_arrays

SUBSET: Final = Subset("layout:made:random")
TEXT: Final = """\
One generated file per row: {nodes:,} configurable nodes in a graph of {graph:,}, two to nine rows per node. *inflate*
only inflates the file with `isal`, member by member through one small buffer, and checks the CRC; *numpy.load* reads
all configurations at once; *build* is everything from opening the file to the Parquet file in the store. Each is the
least of {rounds} alternating rounds on the same machine (*numpy.load*: one). *peak* is the largest resident set of a
process that builds the file once, *libraries* that of the same process after its imports and a small graph. *floor* is
half of the CPU time of the build over that of inflating, a lower bound for this work on two cores."""


def child(root: Path, n_rounds: int) -> dict[str, Any]:
    """Build the file below ``root`` in this process, alternating with inflating it."""
    extract(graph_from_arrays("small", layout_arrays()))
    path = next(SUBSET.folder(root).glob("*/*.npz"))
    libraries = _peak()
    built, inflated, peak = [], [], 0.0
    for number in range(n_rounds):
        store = root / f"store{number}"
        built.append(_timed(lambda store=store: build(SUBSET, root, store, jobs=1)))  # type: ignore[misc]
        peak = peak or _peak()
        inflated.append(_timed(lambda: deque(NpzFile(path).blocks("node_config_feat"), maxlen=0)))
    build_s, build_cpu = map(min, zip(*built, strict=True))
    inflate_s, inflate_cpu = map(min, zip(*inflated, strict=True))
    load_s = _timed(lambda: np.load(path)["node_config_feat"])[0]
    return {
        "inflate, s": inflate_s,
        "numpy.load, s": load_s,
        "build, s": build_s,
        "CPU of inflating, s": inflate_cpu,
        "CPU of building, s": build_cpu,
        "build / inflate": build_s / inflate_s,
        "floor": build_cpu / inflate_cpu / 2,
        "numpy.load / build": load_s / build_s,
        "libraries, MiB": libraries,
        "peak, MiB": peak,
    }


def _timed(call: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - cpu


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(n_configs: int, n_nodes: int, rounds: int) -> Row:
    """One row of the table."""
    with tempfile.TemporaryDirectory() as folder:
        path = SUBSET.folder(Path(folder)) / "train" / "made.npz"
        path.parent.mkdir(parents=True)
        n_bytes = made_layout.write(path, n_configs, n_nodes)
        row = {"configurations": n_configs, "inflated, GB": n_bytes / 1e9, "file, MB": path.stat().st_size / 1e6}
        line = [sys.executable, "-m", "benchmarks.bench_layout_build", "--child", folder, "--rounds", str(rounds)]
        return row | json.loads(subprocess.run(line, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Measure files of one and two sizes, and write the page."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--configs", type=int, nargs="+", default=[20_000, 40_000], metavar="N")
    arguments.add_argument("--nodes", type=int, default=1000, metavar="N")
    arguments.add_argument("--rounds", type=int, default=5, metavar="N")
    arguments.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    args = arguments.parse_args()
    if args.child:
        print(json.dumps(child(args.child, args.rounds)))
        return
    measure(64, 60, 1)  # compiles the kernels that the measured processes load
    rows = [measure(n_configs, args.nodes, args.rounds) for n_configs in args.configs]
    graph = len(made_layout.network(args.nodes)[0])
    text = TEXT.format(nodes=args.nodes, graph=graph, rounds=args.rounds)
    setup = machine("numpy", "numba", "polars", "isal")
    publish("layout_build", "Building a large layout file", text, [Section("", "", rows)], setup)


if __name__ == "__main__":
    main()
