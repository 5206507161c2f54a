"""Time from a graph file, or from its features, to the order of 1,000 configurations."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks import made_layout
from benchmarks.common import FOLDER, Section, machine, publish, seconds
from gbr import Graph, Ranker, read_graph, write_graph
from gbr.data.build import extract
from gbr.data.collection import graph_files, resolve
from gbr.data.graph import graph_from_arrays
from gbr.train import train

BACKENDS: Final = ("lightgbm", "xgboost", "ensemble")
COLUMNS: Final = ("backend", "trees", "kernel", "from file, ms", "features, ms", "model, ms")
TEXT: Final = """\
{rows:,} configurations of one kernel, drawn with replacement from its file. *from file* reads the `.npz`, extracts the
features and ranks; *features* and *model* are parts of it. Default models of `tile:cpu`."""
SEARCH_COLUMNS: Final = (
    "backend",
    "trees",
    "anew, ms",
    "scorer, made, ms",
    "first call, ms",
    "further calls, ms",
    "of it features, ms",
    "anew / further",
)
SEARCH_TEXT: Final = """\
{rows:,} configurations at a time of a generated graph of {graph:,} nodes, {nodes:,} of them configurable, in memory.
*anew* extracts the features of graph and configurations together and ranks, as `Ranker.predict_graph` does;
`Ranker.scorer` computes what concerns the graph alone (*scorer, made*) and then scores other configurations in every
*further call*. Default models of `layout:cpu:random`."""
PAGE_TEXT: Final = """\
Best of 15 rounds, one thread, libraries loaded and kernels compiled. Compare within a table: two tables may be of
different runs."""


def enlarged(path: Path, n_configs: int, folder: Path) -> Path:
    """Write a tile graph again with ``n_configs`` configurations."""
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
    """Times of one graph file."""
    graph = read_graph(path)
    X = extract(graph)[1]
    times = [seconds(lambda: ranker.rank(path)), seconds(lambda: extract(graph)), seconds(lambda: ranker._predict(X))]
    return ranker.backend, ranker.best_iteration_, path.stem, *(1e3 * time for time in times)


def search(ranker: Ranker, n_nodes: int, n_configs: int) -> tuple[Any, ...]:
    """Times of one generated graph whose configurations are scored again and again."""
    program, ids = made_layout.network(n_nodes, between=4)
    configurations = made_layout.Configurations(program, ids, np.random.default_rng(0))
    batches = [configurations.draw(n_configs) for _ in range(6)]

    def graph(configs: NDArray[np.int8]) -> Graph:
        arrays = {
            "node_feat": program.feat,
            "node_opcode": program.opcode,
            "edge_index": program.edges,
            "node_config_ids": ids,
            "node_config_feat": configs,
        }
        return graph_from_arrays("made", arrays)

    whole, one, hardware = graph(batches[0]), graph(batches[0][:1]), ranker._hardware("made")
    scorer = ranker.scorer(one)

    def next_batch() -> NDArray[np.int8]:
        batches.append(batches.pop(0))
        return batches[0]

    assert np.array_equal(scorer(batches[0]), ranker._predict(extract(whole, hardware)[1]))
    ready = seconds(lambda: ranker.scorer(one))
    first = seconds(lambda: ranker.scorer(one)(batches[0])) - ready
    for each in batches:
        scorer(each)
    anew = seconds(lambda: ranker._predict(extract(whole, hardware)[1]))
    further = seconds(lambda: scorer(next_batch()))
    features = seconds(lambda: scorer.vectors(next_batch()))
    times = (1e3 * value for value in (anew, ready, first, further, features))
    return ranker.backend, ranker.best_iteration_, *times, anew / further


def main() -> None:
    """Train the backends, measure kernels and a generated layout graph, and write the page."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--data", type=Path, default=Path("data"), metavar="ROOT")
    arguments.add_argument("--configs", type=int, default=1000, metavar="N")
    arguments.add_argument("--nodes", type=int, default=800, metavar="N", help="configurable nodes of the graph")
    arguments.add_argument("--only", choices=("search", "kernels"), help="keep the last results of the other table")
    arguments.add_argument("--backends", default=",".join(BACKENDS), metavar="LIST", help="default: %(default)s")
    args = arguments.parse_args()
    size = len(made_layout.network(args.nodes, between=4)[0])
    about = SEARCH_TEXT.format(rows=args.configs, graph=size, nodes=args.nodes)
    tables: dict[str, tuple[str, tuple[str, ...], list[Any]]] = {
        "One graph, batch after batch": (about, SEARCH_COLUMNS, []),
        "Kernels": (TEXT.format(rows=args.configs), COLUMNS, []),
    }
    searches, kernels = (rows for _, _, rows in tables.values())
    with TemporaryDirectory() as name:
        folder = Path(name)

        def trained(subset: str, backend: str) -> Ranker:
            run = folder / f"{subset.replace(':', '-')}-{backend}"
            train(resolve(subset, args.data), args.data, folder / "store", run, backend=backend)
            return Ranker.load(run).set_params(n_jobs=1)

        for backend in args.backends.split(","):
            if args.only != "kernels":
                searches.append(search(trained("layout:cpu:random", backend), args.nodes, args.configs))
            if args.only != "search":
                ranker = trained("tile:cpu", backend)
                paths = graph_files(resolve("tile:cpu", args.data), args.data, "test")[::6]
                kernels += [measure(ranker, enlarged(path, args.configs, folder)) for path in paths]
    last = FOLDER / "predict.json"
    stored = json.loads(last.read_text())["tables"] if last.exists() else {}
    sections = []
    for title, (text, columns, rows) in tables.items():
        kept = rows or [[row[column] for column in columns] for row in stored.get(title, [])]
        sections += [Section(title, text, columns, kept)] if kept else []
    publish("predict", "Prediction", PAGE_TEXT, sections, machine("numba", "lightgbm", "xgboost-cpu"))


if __name__ == "__main__":
    main()
