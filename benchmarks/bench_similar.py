"""Whether a model of the training graphs most similar to a target ranks it better than a model of all of them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks._results import machine, publish
from gbr import QueryGroups, Ranker
from gbr.data.build import build
from gbr.data.collection import resolve
from gbr.data.store import FeatureStore
from gbr.evaluation.metrics import count_pairs
from gbr.train import distinct

COLLECTIONS = ("layout:cpu:random", "tile:cpu")
SHARES = (0.5, 0.25)
TREES = 300
COLUMNS = ("collection", "graphs ranked", "all graphs: tau", "nearest half", "95 %", "nearest quarter", "95 %")
TEXT = """\
Kendall tau on graphs of the valid split (every {step}th of tile:cpu, all of layout:cpu:random), LightGBM on the speed,
{trees} trees. *Nearest* trains anew for every graph on the part of the training graphs that resembles it most; the
intervals are a paired bootstrap over graphs of the difference to the model of all training graphs."""
STEP = 6


def fitted(train: QueryGroups) -> Ranker:
    """Train on whole slates, identical configurations once."""
    rows, target = distinct(train)
    ranker = Ranker("lightgbm", "speed", n_estimators=TREES, n_jobs=1)
    return ranker.fit(pd.DataFrame(train.X[rows], columns=list(train.columns)), target, qid=train.qid[rows])


def nearest(train: QueryGroups, target: QueryGroups, count: int) -> np.ndarray:
    """Indices of the ``count`` training graphs most similar to one target graph, ascending.

    Graphs are compared by the columns that all configurations of a graph share, standardized over the training graphs.
    """
    first = train.X[train.indptr[:-1]].astype(np.float64)
    low = np.minimum.reduceat(train.X, train.indptr[:-1], axis=0)
    high = np.maximum.reduceat(train.X, train.indptr[:-1], axis=0)
    shared = (low == high).all(axis=0) & (np.ptp(low, axis=0) > 0)
    difference = (first - target.X[0])[:, shared] / first[:, shared].std(axis=0)
    return np.sort(np.argsort(np.square(difference).mean(axis=1), kind="stable")[:count])


def tau(ranker: Ranker, slate: QueryGroups) -> float:
    """Kendall tau on one graph, equal scores in random order."""
    return float(
        count_pairs(ranker.predict(pd.DataFrame(slate.X, columns=list(slate.columns))), slate.target).untied_tau
    )


def interval(gain: np.ndarray) -> str:
    """Bootstrap over graphs of the mean gain, as text."""
    drawn = np.random.default_rng(0).integers(0, len(gain), (2000, len(gain)))
    low, high = np.percentile(gain[drawn].mean(axis=1), [2.5, 97.5])
    return f"{low:+.3f} to {high:+.3f}"


def measure(name: str, data: Path, store_root: Path) -> tuple[Any, ...]:
    """One row of the table."""
    subset = resolve(name, data)
    build(subset, data, store_root, ("train", "valid"))
    store = FeatureStore(store_root, subset.name)
    train, valid = store.load("train"), store.load("valid")
    step = STEP if subset.kind == "tile" else 1
    graphs = [valid.take([number]) for number in range(0, len(valid), step)]
    everything = fitted(train)
    base = np.array([tau(everything, graph) for graph in graphs])
    row: list[Any] = [name, len(graphs), float(base.mean())]
    for share in SHARES:
        count = max(2, round(share * len(train)))
        near = np.array([tau(fitted(train.take(nearest(train, graph, count))), graph) for graph in graphs])
        row += [float(near.mean()), interval(near - base)]
    return tuple(row)


def main() -> None:
    """Measure both collections, leave the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--store", type=Path, default=Path("data/store"))
    args = parser.parse_args()
    rows = [measure(name, args.data, args.store) for name in COLLECTIONS]
    text = TEXT.format(trees=TREES, step=STEP)
    publish("similar", "Training on similar graphs", text, COLUMNS, rows, machine("lightgbm"))


if __name__ == "__main__":
    main()
