"""Time from a graph file, or from its features, to the order of 1,000 configurations; one graph over and over."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks import _made_layout
from benchmarks._results import FOLDER, Section, machine, publish_page, seconds
from gbr import Graph, Ranker, read_graph, write_graph
from gbr.data.build import extract
from gbr.data.collection import Subset, graph_files, resolve
from gbr.data.graph import graph_from_arrays
from gbr.scorer import used_columns
from gbr.train import train

BACKENDS: Final = ("lightgbm", "xgboost", "ensemble")
PARTS: Final = ("search", "kernels")
COLUMNS: Final = ("backend", "trees", "kernel", "from file, ms", "features, ms", "model, ms")
TEXT: Final = """\
{rows} configurations of one kernel, drawn with replacement from those of its file. *from file* reads the `.npz`, takes
the features and ranks; *features* and *model* are parts of it. The models are trained on the train split with default
settings and stop on the valid split."""
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
{rows} configurations at a time of a made graph of {graph:,} nodes, {nodes:,} of them configurable, all in memory.
*anew* takes the features of graph and configurations together and ranks, as `Ranker.predict_graph` does once it has
read the file; `Ranker.scorer` works out what concerns the graph alone (*scorer, made*) and then scores slate after
slate, another one in every *further call*. Models of `layout:cpu:random`."""
TREES_COLUMNS: Final = ("member", "trees", "columns", "asked for", "by", "ms", "whole / this")
TREES_TEXT: Final = """\
The trees of the ensemble's LightGBM members on the features of {rows} configurations of that graph: the whole model,
the model cut down to the columns that it asks for (what a scorer uses; the same scores bit for bit), and, where they
are installed, treelite's interpreter and tl2cgen's C code of the cut model (compiled once; the seconds stand beside
it). The C code saves a few milliseconds of a call and asks for a compiler where the model is used: it is not taken."""
PAGE_TEXT: Final = """\
Best of 15 rounds, one thread, in a process that has its libraries loaded and its kernels compiled.
A table is of one run, two tables may be of different ones, and the machine had other work: compare within a table."""


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


class Made:
    """A layout graph of 25 nodes to each configurable one, in memory, and configurations of it at random."""

    def __init__(self, n_configurable: int) -> None:
        self.program, self.ids = _made_layout.network(n_configurable, between=4)
        self.slate = _made_layout.Slate(self.program, self.ids, np.random.default_rng(0))

    def graph(self, configs: NDArray[np.int8]) -> Graph:
        """The graph with these configurations."""
        arrays = {
            "node_feat": self.program.feat,
            "node_opcode": self.program.opcode,
            "edge_index": self.program.edges,
            "node_config_ids": self.ids,
            "node_config_feat": configs,
        }
        return graph_from_arrays("made", arrays)


def search(ranker: Ranker, made: Made, n_configs: int) -> tuple[Any, ...]:
    """Times of slate after slate of one graph."""
    slates = [made.slate.draw(n_configs) for _ in range(6)]
    whole, graph = made.graph(slates[0]), made.graph(slates[0][:1])
    hardware = ranker._hardware("made")
    names = list(ranker.feature_names_in_)

    def anew() -> NDArray[np.float64]:
        schema, X, _ = extract(whole, hardware)
        assert list(schema.names) == names
        return ranker.predict(X)

    def further() -> None:
        slates.append(slates.pop(0))
        scorer(slates[0])

    def features() -> None:
        slates.append(slates.pop(0))
        scorer.vectors(slates[0])

    scorer = ranker.scorer(graph)
    assert np.array_equal(scorer(slates[0]), anew())
    ready = seconds(lambda: ranker.scorer(graph))
    first = seconds(lambda: ranker.scorer(graph)(slates[0])) - ready
    for each in slates:
        scorer(each)
    often, again, part = seconds(anew), seconds(further), seconds(features)
    figures = (1e3 * value for value in (often, ready, first, again, part))
    return (ranker.backend, ranker.best_iteration_, *figures, often / again)


def trees(ranker: Ranker, X: NDArray[np.float32], folder: Path) -> list[tuple[Any, ...]]:
    """Times of the LightGBM members of an ensemble, by several ways."""
    rows: list[tuple[Any, ...]] = []
    for member in ranker.model_.members:
        if member.settings.backend != "lightgbm":
            continue
        cut = used_columns(member.model.to_bytes().decode())
        assert cut is not None
        text, columns = cut
        from gbr.models.lightgbm import load

        small, own = load(text.encode(), member.settings), X[:, columns]
        assert np.array_equal(small.predict(own, 1), member.model.predict(X, 1))
        took = {
            "whole": seconds(lambda member=member: member.model.predict(X, 1)),
            "cut down": seconds(lambda small=small, columns=columns: small.predict(X[:, columns], 1)),
            **compiled(text, own.astype(np.float64), folder / member.settings.objective),
        }
        about = (member.settings.objective, member.model.n_iterations, X.shape[1], len(columns))
        rows += [(*about, by, 1e3 * value, took["whole"] / value) for by, value in took.items()]
    return rows


def compiled(text: str, X: NDArray[np.float64], folder: Path) -> dict[str, float]:
    """Times of treelite and tl2cgen, where they are installed."""
    if find_spec("treelite") is None or find_spec("tl2cgen") is None:
        return {}
    treelite, tl2cgen = import_module("treelite"), import_module("tl2cgen")
    folder.mkdir()
    (folder / "model.txt").write_text(text)
    model = treelite.frontend.load_lightgbm_model(folder / "model.txt")
    took = {"treelite": seconds(lambda: treelite.gtil.predict(model, X, nthread=1))}
    once = _once(lambda: tl2cgen.export_lib(model, toolchain="gcc", libpath=folder / "trees.so", params={}))
    predictor = tl2cgen.Predictor(folder / "trees.so", nthread=1)
    took[f"tl2cgen ({once:.1f} s)"] = seconds(lambda: predictor.predict(tl2cgen.DMatrix(X, dtype="float64")))
    return took


def _once(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    """Train the backends, measure kernels of each kind and a made layout graph, leave the results."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--data", type=Path, default=Path("data"), metavar="ROOT")
    arguments.add_argument("--configs", type=int, default=1000, metavar="N")
    arguments.add_argument("--nodes", type=int, default=800, metavar="N", help="configurable ones of the made graph")
    arguments.add_argument(
        "--only", choices=PARTS, default=None, help="the other tables stay as they were measured last"
    )
    arguments.add_argument("--backends", default=",".join(BACKENDS), metavar="LIST", help="default: %(default)s")
    args = arguments.parse_args()
    backends = args.backends.split(",")
    n_configs, made = f"{args.configs:,}", Made(args.nodes)
    tables: dict[str, list[Any]] = {}
    with TemporaryDirectory() as name:
        folder = Path(name)

        def trained(subset: Subset, backend: str) -> Ranker:
            run = folder / f"{subset.kind}-{backend}"
            train(subset, args.data, folder / "store", run, backend=backend)
            return Ranker.load(run).set_params(n_jobs=1)

        if args.only != "kernels":
            tables |= {"search": [], "trees": []}
            for backend in backends:
                ranker = trained(resolve("layout:cpu:random", args.data), backend)
                tables["search"].append(search(ranker, made, args.configs))
                if backend == "ensemble":
                    configs = made.slate.draw(args.configs)
                    tables["trees"] = trees(ranker, ranker.scorer(made.graph(configs)).vectors(configs), folder)
        if args.only != "search":
            subset = resolve("tile:cpu", args.data)
            graphs = [enlarged(path, args.configs, folder) for path in graph_files(subset, args.data, "test")[::6]]
            tables["kernels"] = []
            for backend in backends:
                ranker = trained(subset, backend)
                tables["kernels"] += [measure(ranker, path) for path in graphs]
    about = SEARCH_TEXT.format(rows=n_configs, graph=len(made.program), nodes=args.nodes)
    sections = [
        _section("One graph, slate after slate", about, SEARCH_COLUMNS, tables.get("search")),
        _section("Trees", TREES_TEXT.format(rows=n_configs), TREES_COLUMNS, tables.get("trees")),
        _section("Kernels", TEXT.format(rows=n_configs), COLUMNS, tables.get("kernels")),
    ]
    known = [section for section in sections if section.rows]
    publish_page("predict", "Prediction", PAGE_TEXT, known, machine("numba", "lightgbm", "xgboost-cpu"))


def _section(title: str, text: str, columns: Sequence[str], rows: Sequence[Sequence[Any]] | None) -> Section:
    """A table, with the rows of the last results where it was not measured; empty where there are none."""
    if rows is None:
        path = FOLDER / "predict.json"
        last = json.loads(path.read_text())["tables"].get(title, []) if path.exists() else []
        rows = [[row[column] for column in columns] for row in last]
    return Section(title, text, columns, rows)


if __name__ == "__main__":
    main()
