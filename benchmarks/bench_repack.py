"""The repacked copy of a layout file against the file: size, random reads, and building its features."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks import _made_layout
from benchmarks._results import machine, publish
from gbr.data.build import build, extract
from gbr.data.collection import Subset
from gbr.data.graph import graph_from_arrays, read_graph
from gbr.data.repack import repack
from tests.made import layout_arrays

SUBSET: Final = Subset("layout:made:random")
COLUMNS: Final = (
    "configurations",
    "inflated, GB",
    "file, MB",
    "copy, MB",
    "repack, s",
    "{n} random, file, s",
    "{n} random, copy, s",
    "file / copy",
    "all, file, s",
    "all, copy, s",
    "file / copy, all",
    "features, file, s",
    "features, copy, s",
    "file / copy, features",
)
TEXT: Final = """\
Made files: {nodes:,} configurable nodes in a graph of {graph:,}, two to nine rows per node. *random* opens the file and
takes {n:,} configurations drawn at random (`Graph.configs`), which asks the file for all that stand before the last of
them; *all* goes through every configuration, as int8; *features* brings the store up to date. *repack* writes the copy.
The least of {rounds} rounds in which file and copy took turns, one process, compiled kernels loaded.

*features* gain less than reading: what follows it is the same from either. Of 1.3 seconds of CPU that 40,000
configurations take from the copy, describing them takes 0.46, setting columns aside until the slate is known 0.2,
Parquet 0.2, preparing the graph 0.1, comparing within the slate 0.1, and reading the copy itself 0.15. A fifth of the
time from the file would be the describing alone."""


def turns(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Least wall time of every call over rounds in which they take turns."""
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def measure(folder: Path, n_configs: int, n_nodes: int, n_random: int, rounds: int) -> tuple[Any, ...]:
    """One row of the table."""
    path = SUBSET.folder(folder / "raw") / "train" / "made.npz"
    path.parent.mkdir(parents=True)
    n_bytes = _made_layout.write(path, n_configs, n_nodes)
    copied = SUBSET.folder(folder / "copied") / "train" / "made.npz"
    copied.parent.mkdir(parents=True)
    copied.hardlink_to(path)
    rows = np.random.default_rng(0).integers(0, n_configs, n_random)
    store = iter(range(10**6))
    took = turns({"repack": lambda: repack(copied)}, rounds)
    took |= turns(
        {
            f"{what} {where}": call
            for where, file in (("file", path), ("copy", copied))
            for what, call in {
                "random": lambda file=file: read_graph(file).configs(rows),
                "all": lambda file=file: sum(len(block) for _, block in read_graph(file).config_blocks()),
                "features": lambda file=file, where=where: build(
                    SUBSET, folder / {"file": "raw"}.get(where, "copied"), folder / f"store{next(store)}", jobs=1
                ),
            }.items()
        },
        rounds,
    )
    pairs = [(took[f"{what} file"], took[f"{what} copy"]) for what in ("random", "all", "features")]
    return (
        n_configs,
        n_bytes / 1e9,
        path.stat().st_size / 1e6,
        copied.with_suffix(".gbr").stat().st_size / 1e6,
        took["repack"],
        *(figure for file, copy in pairs for figure in (file, copy, file / copy)),
    )


def main() -> None:
    """Measure files of two sizes and leave the results."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--configs", type=int, nargs="+", default=[10_000, 40_000], metavar="N")
    arguments.add_argument("--nodes", type=int, default=1000, metavar="N")
    arguments.add_argument("--random", type=int, default=1000, metavar="N")
    arguments.add_argument("--rounds", type=int, default=3, metavar="N")
    args = arguments.parse_args()
    extract(graph_from_arrays("small", layout_arrays()))
    rows = []
    for n_configs in args.configs:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(Path(folder), n_configs, args.nodes, args.random, args.rounds))
    graph = len(_made_layout.network(args.nodes)[0])
    text = TEXT.format(nodes=args.nodes, graph=graph, n=args.random, rounds=args.rounds)
    columns = [name.format(n=f"{args.random:,}") for name in COLUMNS]
    publish("repack", "Repacked layout files", text, columns, rows, machine("numpy", "numba", "polars", "isal"))


if __name__ == "__main__":
    main()
