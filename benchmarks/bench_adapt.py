"""What a few measured configurations of a graph are worth, alone and beside a model trained on other graphs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import Section, machine, publish
from features.hardware import TPU, Hardware
from gbr import Graph, Ranker, read_graph
from gbr.adapt import fit_within
from gbr.data.build import extract
from gbr.data.collection import graph_files, resolve
from gbr.evaluation.metrics import count_pairs
from gbr.train import train

REAL = ("train/unet3d.npz", "valid/unet_3d.4x4.bf16.npz")
MEASURED_REAL = (30, 100, 300, 1000)
MEASURED = (10, 20, 40)
COLLECTIONS = {"layout:cpu:random": 3, "tile:cpu": 1}
SCORED = 2000
COLUMNS = tuple("collection|rest|graphs|draws|measured|model alone|measured alone|both|gain|95 % of gain".split("|"))
TEXT = """\
Kendall's tau over configurations that were not measured, mean over graphs and draws of the measured ones. *model alone*
is the default ensemble, trained on the train split; *measured alone* is `gbr.adapt.fit_within`, *both* is
`Ranker.adapt`, on the same draws; *gain* is *both* minus *model alone*, with a bootstrap interval over graphs. Embedded
collections: all graphs of the test split, on which the constants of the learners were also chosen. The real TPU files
have no model. With rest *unseen*, distinct configurations are drawn, with their mean runtime; with rest *rows*, rows of
the file, so that an equal configuration may have been measured; at most {scored:,} of the rest are scored. Repeated
measurements of equal configurations agree with {retests}."""

Sample = tuple[NDArray[np.int64], NDArray[np.float64]]


def tau(scores: NDArray[np.float64], runtime: NDArray[np.float64]) -> float:
    """Kendall's tau, ties in the scores in random order."""
    return count_pairs(scores, runtime).untied_tau


def distinct(graph: Graph, hardware: Hardware | None) -> Sample:
    """Rows of distinct configurations, and the mean runtime of each."""
    duplicate_of = extract(graph, hardware)[2]
    assert graph.runtime is not None
    rows, inverse, counts = np.unique(duplicate_of, return_inverse=True, return_counts=True)
    return rows, np.bincount(inverse, graph.runtime) / counts


def every(graph: Graph) -> Sample:
    """All rows, and their runtimes."""
    assert graph.runtime is not None
    return np.arange(graph.n_configs), graph.runtime.astype(np.float64)


def draws(sample: Sample, count: int, n_draws: int) -> Iterator[tuple[Sample, Sample]]:
    """Measured configurations and the rest, time and again."""
    rows, runtime = sample
    for seed in range(n_draws):
        order = np.random.default_rng(seed).permutation(len(rows))
        measured, rest = order[:count], order[count:][:SCORED]
        yield (rows[measured], runtime[measured]), (rows[rest], runtime[rest])


def retest(graph: Graph) -> str:
    """Tau between two runtimes of each configuration that the file holds more than once."""
    duplicate_of = extract(graph, TPU)[2]
    assert graph.runtime is not None
    order = np.argsort(duplicate_of, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(duplicate_of[order]) > 0])
    repeated = starts[np.diff(np.r_[starts, len(order)]) > 1]
    first, second = (graph.runtime[order[repeated + place]].astype(np.float64) for place in (0, 1))
    return f"tau {tau(first, second):.2f} over {len(repeated)} configurations of {graph.name}"


def real(graph: Graph) -> Iterator[tuple[Any, ...]]:
    """Learning curve of one real file."""
    for rest_is, sample in (("unseen", distinct(graph, TPU)), ("rows", every(graph))):
        for count in MEASURED_REAL:
            if count > 0.9 * len(sample[0]):
                continue
            n_draws = 5 if count < 1000 else 2
            found = []
            for (rows, runtime), (rest, target) in draws(sample, count, n_draws):
                scores = fit_within(graph, rows, runtime, hardware=TPU).predict()
                found.append(tau(scores[rest], target))
            alone = float(np.mean(found))
            yield (f"xla:default {graph.name}", rest_is, 1, n_draws, count, "", alone, "", "", "")


def embedded(name: str, n_draws: int, data: Path, folder: Path) -> Iterator[tuple[Any, ...]]:
    """Learning curves of one embedded collection, with and without a model."""
    subset = resolve(name, data)
    run = folder / name.replace(":", "-")
    train(subset, data, folder / "store", run, jobs=1)
    ranker = Ranker.load(run).set_params(n_jobs=1)
    found: dict[int, list[NDArray[np.float64]]] = {count: [] for count in MEASURED}
    for path in graph_files(subset, data, "test"):
        graph = read_graph(path)
        sample = distinct(graph, ranker._hardware(str(path)))
        alone = ranker.predict_graph(path)
        for count in MEASURED:
            if len(sample[0]) < 2 * count or np.ptp(sample[1]) == 0:
                continue
            one = []
            for (rows, runtime), (rest, target) in draws(sample, count, n_draws):
                within = fit_within(graph, rows, runtime, hardware=ranker._hardware(str(path))).predict()
                both = ranker.adapt(graph, rows, runtime).predict()
                one.append([tau(scores[rest], target) for scores in (alone, within, both)])
            found[count].append(np.mean(one, axis=0))
    for count, per_graph in found.items():
        taus = np.array(per_graph)
        gains = taus[:, 2] - taus[:, 0]
        resampled = np.random.default_rng(0).choice(gains, (2000, len(gains))).mean(axis=1)
        low, high = np.quantile(resampled, (0.025, 0.975))
        means = [float(mean) for mean in taus.mean(axis=0)]
        yield (name, "unseen", len(taus), n_draws, count, *means, float(gains.mean()), f"{low:.3f} … {high:.3f}")


def main() -> None:
    """Measure the real files where they are, then the embedded collections; leave the results."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--data", type=Path, default=Path("data"), metavar="ROOT")
    arguments.add_argument("--shared", type=Path, metavar="DIR", help="holds npz/layout/xla/default of TpuGraphs")
    args = arguments.parse_args()
    rows: list[tuple[Any, ...]] = []
    retests = []
    for name in REAL:
        path = args.shared / "npz" / "layout" / "xla" / "default" / name if args.shared else Path(name)
        if not path.is_file():
            print(f"{path}: not there, left out; name its root with --shared", file=sys.stderr)
            continue
        graph = read_graph(path)
        retests.append(retest(graph))
        rows += real(graph)
    with TemporaryDirectory() as folder:
        for name, n_draws in COLLECTIONS.items():
            rows += embedded(name, n_draws, args.data, Path(folder))
    text = TEXT.format(scored=SCORED, retests=", ".join(retests) or "no file was there to ask")
    on = machine("scikit-learn", "lightgbm", "xgboost-cpu")
    publish("adapt", "Measured configurations", text, [Section("", "", COLUMNS, rows)], on)


if __name__ == "__main__":
    main()
