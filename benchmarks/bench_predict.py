"""Time from a graph file, or from its features, to the order of 1,000 configurations."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks import made_layout
from benchmarks.common import Row, Section, default_model, machine, parser, publish, seconds
from gbr import Graph, Ranker, read_graph, write_graph
from gbr.data.build import extract
from gbr.data.collection import graph_files, resolve
from gbr.data.graph import graph_from_arrays

BACKENDS: Final = ("lightgbm", "xgboost", "ensemble")
TEXT: Final = """\
{rows:,} configurations of one kernel, drawn with replacement from its file. *from file* reads the `.npz`, extracts the
features and ranks; *features* and *model* are parts of it. Default models of `tile:cpu`."""
SEARCH_TEXT: Final = """\
{rows:,} configurations at a time of a generated graph of {graph:,} nodes, {nodes:,} of them configurable, in memory.
*from scratch* extracts the features of graph and configurations together and ranks, as `Ranker.predict_graph` does;
`Ranker.scorer` computes the features of the graph once (*scorer, made*) and then scores other configurations in every
*further call*. Default models of `layout:cpu:random`."""
PAGE_TEXT: Final = """\
Best of 15 rounds, one thread, libraries loaded and kernels compiled."""


def enlarged(path: Path, n_configs: int, folder: Path) -> Path:
    """Write a copy of a tile graph with ``n_configs`` configurations."""
    drawn = np.random.default_rng(0).integers(0, read_graph(path).n_configs, n_configs)
    with np.load(path) as stored:
        arrays = {key: stored[key][drawn] if key.startswith("config") else stored[key] for key in stored.files}
    write_graph(folder / path.name, arrays)
    return folder / path.name


def measure_file(ranker: Ranker, path: Path) -> Row:
    """Times of one graph file."""
    graph = read_graph(path)
    X = extract(graph)[1]
    return {
        "backend": ranker.backend,
        "trees": ranker.best_iteration_,
        "kernel": path.stem,
        "from file, ms": 1e3 * seconds(lambda: ranker.rank(path)),
        "features, ms": 1e3 * seconds(lambda: extract(graph)),
        "model, ms": 1e3 * seconds(lambda: ranker.predict_rows(X)),
    }


def measure_search(ranker: Ranker, n_nodes: int, n_configs: int) -> Row:
    """Times of one generated graph of which many batches of configurations are scored."""
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

    whole, one, hardware = graph(batches[0]), graph(batches[0][:1]), ranker.hardware
    scorer = ranker.scorer(one)
    assert np.array_equal(scorer(batches[0]), ranker.predict_rows(extract(whole, hardware)[1]))
    ready = seconds(lambda: ranker.scorer(one))
    first = seconds(lambda: ranker.scorer(one)(batches[0])) - ready
    for batch in batches:
        scorer(batch)
    scratch = seconds(lambda: ranker.predict_rows(extract(whole, hardware)[1]))
    turns = cycle(batches)
    further = seconds(lambda: scorer(next(turns)))
    features = seconds(lambda: scorer.vectors(next(turns)))
    return {
        "backend": ranker.backend,
        "trees": ranker.best_iteration_,
        "from scratch, ms": 1e3 * scratch,
        "scorer, made, ms": 1e3 * ready,
        "first call, ms": 1e3 * first,
        "further calls, ms": 1e3 * further,
        "of it features, ms": 1e3 * features,
        "from scratch / further": scratch / further,
    }


def main() -> None:
    """Train the backends, measure kernels and a generated layout graph, and write the page."""
    arguments = parser(__doc__)
    arguments.add_argument("--configs", type=int, default=1000, metavar="N", help="default: %(default)s")
    arguments.add_argument("--nodes", type=int, default=800, metavar="N", help="configurable nodes of the graph")
    arguments.add_argument("--backends", nargs="+", choices=BACKENDS, default=BACKENDS)
    arguments.add_argument("--no-files", action="store_true", help="skip the table of kernels read from files")
    args = arguments.parse_args()
    searches, kernels = [], []
    with TemporaryDirectory() as name:
        folder = Path(name)
        for backend in args.backends:
            ranker = default_model("layout:cpu:random", args.data, folder, backend)
            searches.append(measure_search(ranker, args.nodes, args.configs))
            if not args.no_files:
                ranker = default_model("tile:cpu", args.data, folder, backend)
                paths = graph_files(resolve("tile:cpu", args.data), args.data, "test")[::6]
                kernels += [measure_file(ranker, enlarged(path, args.configs, folder)) for path in paths]
    size = len(made_layout.network(args.nodes, between=4)[0])
    text = SEARCH_TEXT.format(rows=args.configs, graph=size, nodes=args.nodes)
    sections = [Section("One graph, batch after batch", text, searches)]
    if kernels:
        sections.append(Section("Kernels", TEXT.format(rows=args.configs), kernels))
    publish("predict", "Prediction", PAGE_TEXT, sections, machine("numba", "lightgbm", "xgboost-cpu"))


if __name__ == "__main__":
    main()
