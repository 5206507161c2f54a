"""Features per candidate against TVM MetaSchedule's per-store features, which an environment with TVM works out."""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks._results import machine, publish
from features.graph import Program
from features.tile.extractor import TileExtractor
from gbr import read_graph

#: Rounds of which the least counts.
ROUNDS: Final = 5
COLUMNS: Final = ("kernel", "system", "candidates", "columns", "ms a candidate", "TVM / gbr")
TEXT: Final = """\
A product of matrices, {kernel}, in one thread; milliseconds of CPU, the least of {rounds} rounds. TVM ({versions})
draws candidates from its design space for a CPU (`post-order-apply`, `replay-trace`) and takes its *per-store features*
of each: a row for every store of the scheduled program. gbr takes its whole vector of as many of the kernel's measured
tile configurations, what it works out once per kernel included. Both have their candidates in memory, and the time to
draw them is left out. A candidate of TVM is a program and one of gbr a row of numbers: that is what the difference
lies in, as TVM lowers and walks every program anew and gbr reads the program once."""
#: Runs where TVM is, which need not be where gbr is.
SCRIPT: Final = """\
import json, sys, time
from importlib.metadata import version
from tvm import te
from tvm.s_tir.meta_schedule import TuneContext
from tvm.s_tir.meta_schedule.feature_extractor import PerStoreFeature
from tvm.s_tir.meta_schedule.testing.te_workload import matmul
from tvm.target import Target
n, m, k, count, rounds = map(int, sys.argv[1:])
context = TuneContext(te.create_prim_func(matmul(n, m, k)), target=Target({"kind": "llvm", "num-cores": 2}),
                      space_generator="post-order-apply", search_strategy="replay-trace", rand_state=1, num_threads=1)
context.pre_tuning(count, count, context.generate_design_space())
candidates = context.generate_measure_candidates()
took = []
for _ in range(rounds):
    start = time.process_time()
    found = PerStoreFeature().extract_from(context, candidates)
    took.append(time.process_time() - start)
print(json.dumps({"seconds": min(took) / len(candidates), "candidates": len(candidates),
                  "columns": int(found[0].shape[1]),
                  "versions": {name: version(name) for name in ("apache-tvm", "apache-tvm-ffi")}}))
"""


def cpu(call: Callable[[], object]) -> float:
    """Seconds of CPU of the quickest of some calls, after one that compiles."""
    call()
    took = []
    for _ in range(ROUNDS):
        start = time.process_time()
        call()
        took.append(time.process_time() - start)
    return min(took)


def main() -> None:
    """Time both and leave the results."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--python", type=Path, required=True, metavar="FILE", help="interpreter that has TVM")
    arguments.add_argument("--graph", type=Path, default=Path("data/npz/tile/cpu/test/matmul_nt_160x256x320.npz"))
    arguments.add_argument("--configs", type=int, default=64, metavar="N")
    args = arguments.parse_args()
    graph = read_graph(args.graph)
    assert graph.config_feat is not None
    rows, depth, columns = args.graph.stem.rsplit("_", 1)[1].split("x")
    line = [str(args.python), "-c", SCRIPT, rows, columns, depth, str(args.configs), str(ROUNDS)]
    told = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True).stdout
    tvm = json.loads(told.splitlines()[-1])
    drawn = np.random.default_rng(0).integers(0, graph.n_configs, tvm["candidates"])
    configs = np.ascontiguousarray(graph.config_feat[drawn])
    arrays = graph.node_opcode, graph.node_feat, graph.edge_index
    width = len(TileExtractor(Program(*arrays)).schema)
    own = cpu(lambda: TileExtractor(Program(*arrays))(configs)) / len(configs)
    table = [
        (graph.name, "TVM", tvm["candidates"], tvm["columns"], 1e3 * tvm["seconds"], tvm["seconds"] / own),
        (graph.name, "gbr", len(configs), width, 1e3 * own, 1.0),
    ]
    versions = ", ".join(f"{name} {number}" for name, number in tvm["versions"].items())
    text = TEXT.format(kernel=f"{rows} × {depth} by {depth} × {columns}", rounds=ROUNDS, versions=versions)
    publish("tvm", "Features per candidate", text, COLUMNS, table, machine("numpy", "numba"))


if __name__ == "__main__":
    main()
