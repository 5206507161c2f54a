"""What each block of features is worth: alone, and by what is lost without it.  Trained on train, scored on valid.

python -m benchmarks.blocks --subset layout:cpu:random
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks._results import machine, publish
from gbr import Ranker, Slates
from gbr._checks import Table
from gbr.build import build
from gbr.metrics import evaluate
from gbr.slates import block_names
from gbr.store import FeatureStore
from gbr.subsets import resolve
from gbr.train import distinct

COLUMNS = ("block", "columns", "alone: tau", "without: tau", "lost without", "95 % of the loss")
TEXT = """\
Kendall tau on the valid split of {subset} ({graphs} graphs), LightGBM with default settings, a fixed number of trees
({trees}), mean of {seeds} seeds. *lost without* is the tau of all blocks minus that without the block; its interval is
a paired bootstrap over the graphs. A block can be worth much alone and nothing beside the others."""
TREES = 300
SEEDS = 2
_RESAMPLES = 2000


def taus(train: Slates, valid: Slates, blocks: list[str], kind: str) -> NDArray[np.float64]:
    """Mean tau of every valid graph over the seeds, float64 (graphs,)."""
    known, asked = train.select(blocks), valid.select(blocks)
    rows, target = distinct(known)
    scores = np.zeros(len(asked.X))
    found = []
    for seed in range(SEEDS):
        ranker = Ranker("lightgbm", n_estimators=TREES, random_state=seed)
        ranker.fit(Table(known.X[rows], known.columns), target, qid=known.qid[rows])
        scores = ranker.predict(Table(asked.X, asked.columns))
        graphs = evaluate(scores, asked, kind)["graphs"]
        found.append([graphs[name]["kendall_tau"] for name in sorted(graphs)])
    return np.asarray(np.mean(found, axis=0))


def interval(loss: NDArray[np.float64]) -> str:
    """Bootstrap over graphs of the mean of ``loss``, as text."""
    drawn = np.random.default_rng(0).integers(0, len(loss), (_RESAMPLES, len(loss)))
    low, high = np.percentile(loss[drawn].mean(axis=1), [2.5, 97.5])
    return f"{low:+.3f} to {high:+.3f}"


def main() -> None:
    """Train with each block alone and without each block, leave the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subset", default="layout:cpu:random")
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--store", type=Path, default=Path("data/store"))
    args = parser.parse_args()
    subset = resolve(args.subset, args.data)
    build(subset, args.data, args.store, ("train", "valid"))
    store = FeatureStore(args.store, subset.name)
    train, valid = store.load("train").labelled(), store.load("valid").labelled()
    blocks = list(block_names(train.columns))
    whole = taus(train, valid, blocks, subset.kind)
    rows: list[tuple[object, ...]] = [("all", len(train.columns), float(whole.mean()), "", "", "")]
    for block in blocks:
        alone = taus(train, valid, [block], subset.kind)
        without = taus(train, valid, [other for other in blocks if other != block], subset.kind)
        loss = whole - without
        size = len(train.select([block]).columns)
        rows.append((block, size, float(alone.mean()), float(without.mean()), float(loss.mean()), interval(loss)))
    text = TEXT.format(subset=subset.name, graphs=len(whole), trees=TREES, seeds=SEEDS)
    name = f"blocks-{subset.name.replace(':', '-')}"
    publish(name, f"Feature blocks of {subset.name}", text, COLUMNS, rows, machine("lightgbm", "numba", "numpy"))


if __name__ == "__main__":
    main()
