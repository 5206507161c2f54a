"""Value of a few measured configurations of a graph, with and without a model trained on other graphs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import lightgbm
import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from benchmarks.common import Row, Section, default_model, machine, parser, publish
from features.hardware import TPU, Hardware
from gbr import Graph, Ranker, read_graph
from gbr.adapt import fit_within
from gbr.data.build import extract
from gbr.data.collection import graph_files, resolve
from gbr.evaluation.metrics import bootstrap_interval, count_pairs

REAL = ("train/unet3d.npz", "valid/unet_3d.4x4.bf16.npz")
MEASURED_REAL = (30, 100, 300, 1000)
MEASURED = (10, 20, 40)
#: Draws per collection.
COLLECTIONS = {"layout:cpu:random": 3, "tile:cpu": 1}
SCORED = 2000
TEXT = """\
Kendall's tau over configurations that were not measured, mean over graphs and random draws of the measured ones.
*model only* is the default model, trained on the train split; *measured only* is `gbr.adapt.fit_within`, *both* is
`Ranker.adapt`, on the same draws; *gain* is *both* minus *model only*, with a bootstrap interval over graphs. *Ranker*
is `gbr.Ranker()` and *one-hot* plain LightGBM (L2 on the rank, its defaults) on an indicator of each value in the
configuration, both trained on the measured rows only. Embedded
collections: all graphs of the test split, on which the constants of the learners were also chosen. The real TPU files
have no model. With rest *unseen*, distinct configurations are drawn, with their mean runtime; with rest *rows*, rows of
the file, so that an equal configuration may have been measured; at most {scored:,} of the rest are scored. Agreement of
repeated measurements of equal configurations: {retests}."""

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
#: Rows, int64 (n,), and their runtimes, float64 (n,).
Sample = tuple[IntArray, FloatArray]


def tau(scores: NDArray[np.float64], runtime: NDArray[np.float64]) -> float:
    """Kendall's tau, ties in the scores in random order."""
    return count_pairs(scores, runtime).untied_tau


def distinct(graph: Graph, hardware: Hardware | None) -> Sample:
    """Rows of distinct configurations, and the mean runtime of each."""
    duplicate_of = extract(graph, hardware)[2]
    assert graph.runtime is not None
    rows, inverse, counts = np.unique(duplicate_of, return_inverse=True, return_counts=True)
    return rows, np.bincount(inverse, graph.runtime) / counts


def draws(sample: Sample, count: int, n_draws: int) -> Iterator[tuple[Sample, Sample]]:
    """Random splits of a sample into measured configurations and the rest."""
    rows, runtime = sample
    for seed in range(n_draws):
        order = np.random.default_rng(seed).permutation(len(rows))
        measured, rest = order[:count], order[count:][:SCORED]
        yield (rows[measured], runtime[measured]), (rows[rest], runtime[rest])


def retest(graph: Graph) -> str:
    """Tau between two runtimes of each configuration that the file repeats."""
    duplicate_of = extract(graph, TPU)[2]
    assert graph.runtime is not None
    order = np.argsort(duplicate_of, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(duplicate_of[order]) > 0])
    repeated = starts[np.diff(np.r_[starts, len(order)]) > 1]
    first, second = (graph.runtime[order[repeated + offset]].astype(np.float64) for offset in (0, 1))
    return f"tau {tau(first, second):.2f} over {len(repeated)} configurations of {graph.name}"


def one_hot(graph: Graph) -> NDArray[np.bool_]:
    """Indicator of each value of each number of the configurations that differ, bool (configurations, values)."""
    numbers = np.concatenate([block.reshape(len(block), -1) for _, block in graph.config_blocks()])
    distinct = np.unique(numbers.T, axis=0)
    return np.column_stack([column == value for column in distinct for value in np.unique(column)[1:]])


def learned(X: NDArray[np.float32], indicators: NDArray[np.bool_], sample: Sample, rest: IntArray) -> list[FloatArray]:
    """Scores of a ranker on the features, and of plain LightGBM on the indicators."""
    rows, runtime = sample
    varying = (X[rows] != X[rows[:1]]).any(axis=0)
    ranker = Ranker("lightgbm", n_jobs=1).fit(X[rows][:, varying], runtime)
    plain = lightgbm.LGBMRegressor(n_jobs=1, verbosity=-1).fit(indicators[rows], rankdata(runtime))
    return [ranker.predict(X[rest][:, varying]), np.asarray(plain.predict(indicators[rest]))]


def real_file(graph: Graph) -> Iterator[Row]:
    """Learning curve of one real file."""
    assert graph.runtime is not None
    every = np.arange(graph.n_configs), graph.runtime.astype(np.float64)
    X, indicators = extract(graph, TPU)[1], one_hot(graph)
    for rest_is, sample in (("unseen", distinct(graph, TPU)), ("rows", every)):
        for count in MEASURED_REAL:
            if count > 0.9 * len(sample[0]):
                continue
            n_draws = 5 if count < 1000 else 2
            taus = []
            for (rows, runtime), (rest, target) in draws(sample, count, n_draws):
                scores = [fit_within(graph, rows, runtime, hardware=TPU).predict()[rest]]
                scores += learned(X, indicators, (rows, runtime), rest)
                taus.append([tau(each, target) for each in scores])
            within, *others = np.mean(taus, axis=0).tolist()
            yield _row(f"xla:default {graph.name}", rest_is, 1, n_draws, count, "", within, "", "", "", *others)


def embedded(name: str, ranker: Ranker, n_draws: int, data: Path) -> Iterator[Row]:
    """Learning curves of one embedded collection, with and without a model."""
    taus: dict[int, list[NDArray[np.float64]]] = {count: [] for count in MEASURED}
    for path in graph_files(resolve(name, data), data, "test"):
        graph, hardware = read_graph(path), ranker.hardware
        sample = distinct(graph, hardware)
        unadapted = ranker.predict_graph(path)
        for count in MEASURED:
            if len(sample[0]) < 2 * count or np.ptp(sample[1]) == 0:
                continue
            by_draw = []
            for (rows, runtime), (rest, target) in draws(sample, count, n_draws):
                within = fit_within(graph, rows, runtime, hardware=hardware).predict()
                both = ranker.adapt(graph, rows, runtime).predict()
                by_draw.append([tau(scores[rest], target) for scores in (unadapted, within, both)])
            taus[count].append(np.mean(by_draw, axis=0))
    for count, by_graph in taus.items():
        columns = np.array(by_graph).T
        gains = columns[2] - columns[0]
        interval = " … ".join(f"{bound:.3f}" for bound in bootstrap_interval(gains) or ())
        means = [float(values.mean()) for values in (*columns, gains)]
        yield _row(name, "unseen", len(gains), n_draws, count, *means, interval, "", "")


def _row(*values: object) -> Row:
    names = (
        "collection|rest|graphs|draws|measured|model only|measured only|both|gain|95 % of gain|Ranker|one-hot".split(
            "|"
        )
    )
    return dict(zip(names, values, strict=True))


def main() -> None:
    """Measure the real files that exist, then the embedded collections, and write the page."""
    arguments = parser(__doc__)
    arguments.add_argument("--shared", type=Path, metavar="DIR", help="with npz/layout/xla/default of TpuGraphs")
    args = arguments.parse_args()
    rows: list[Row] = []
    retests = []
    for name in REAL:
        path = args.shared / "npz/layout/xla/default" / name if args.shared else Path(name)
        if not path.is_file():
            print(f"{path}: file not found, skipped; give the folder with --shared", file=sys.stderr)
            continue
        graph = read_graph(path)
        retests.append(retest(graph))
        rows += real_file(graph)
    with TemporaryDirectory() as folder:
        for name, n_draws in COLLECTIONS.items():
            rows += embedded(name, default_model(name, args.data, Path(folder)), n_draws, args.data)
    text = TEXT.format(scored=SCORED, retests=", ".join(retests) or "not measured")
    setup = machine("scikit-learn", "lightgbm", "xgboost-cpu")
    publish("adapt", "Measured configurations", text, [Section("", "", rows)], setup)


if __name__ == "__main__":
    main()
