"""Time from a graph file, or from its features, to the order of 1,000 configurations."""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks._results import machine, publish, seconds
from gbr import Ranker, read_graph, write_graph
from gbr.build import extract
from gbr.subsets import graph_files, resolve
from gbr.train import train

BACKENDS = ("lightgbm", "xgboost", "ensemble")
COLUMNS = ("backend", "trees", "kernel", "from file, ms", "features, ms", "model, ms")
TEXT = """\
{rows} configurations of one kernel, drawn with replacement from those of its file; best of 15 rounds, one
thread, in a process that has its libraries loaded and its kernels compiled. *from file* reads the `.npz`,
takes the features and ranks; *features* and *model* are parts of it. The models are trained on the train
split with default settings and stop on the valid split."""


def enlarged(path: Path, n_configs: int, folder: Path) -> Path:
    """Write the graph again with ``n_configs`` configurations."""
    graph = read_graph(path)
    drawn = np.random.default_rng(0).integers(0, graph.n_configs, n_configs)
    assert graph.config_feat is not None
    assert graph.runtime is not None
    assert graph.normalizer is not None
    arrays: dict[str, NDArray[Any]] = {
        "node_feat": graph.node_feat,
        "node_opcode": graph.node_opcode,
        "edge_index": graph.edge_index,
        "config_feat": graph.config_feat[drawn],
        "config_runtime": graph.runtime[drawn],
        "config_runtime_normalizers": graph.normalizer[drawn],
    }
    write_graph(folder / path.name, arrays)
    return folder / path.name


def measure(ranker: Ranker, path: Path) -> tuple[Any, ...]:
    """Times of one graph file, in milliseconds."""
    graph = read_graph(path)
    _schema, X, _duplicates = extract(graph)
    return (
        ranker.backend,
        ranker.best_iteration_,
        path.stem,
        1e3 * seconds(lambda: ranker.rank(path)),
        1e3 * seconds(lambda: extract(graph)),
        1e3 * seconds(lambda: ranker.predict(X)),
    )


def main() -> None:
    """Train both backends, measure a kernel of each kind, leave the results."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--data", type=Path, default=Path("data"), metavar="ROOT")
    arguments.add_argument("--configs", type=int, default=1000, metavar="N")
    args = arguments.parse_args()
    subset = resolve("tile:cpu", args.data)
    rows = []
    with TemporaryDirectory() as folder:
        graphs = [enlarged(path, args.configs, Path(folder)) for path in graph_files(subset, args.data, "test")[::6]]
        for backend in BACKENDS:
            run = Path(folder) / backend
            train(subset, args.data, Path(folder) / "store", run, backend=backend)
            ranker = Ranker.load(run).set_params(n_jobs=1)
            rows += [measure(ranker, path) for path in graphs]
    text = TEXT.format(rows=f"{args.configs:,}")
    publish("predict", "Prediction", text, COLUMNS, rows, machine("numba", "lightgbm", "xgboost-cpu"))


if __name__ == "__main__":
    main()
