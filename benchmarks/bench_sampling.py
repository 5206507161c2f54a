"""What learning from few rows of every graph costs: tau on other graphs by the rows kept and how they are chosen."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._results import machine, publish
from gbr import Ranker, _runs
from gbr._backend import Rows
from gbr._settings import OBJECTIVES, POLICIES
from gbr.metrics import kendall_tau
from gbr.sampling import sample
from gbr.slates import Slates
from gbr.subsets import resolve
from gbr.train import distinct, indptr_of

TEXT = """\
{subset}: trained on {train} graphs with a median of {size:g} distinct configurations, {trees} rounds of {backend}, no
early stopping; scored on all rows of the {valid} graphs of valid.  Mean tau over those graphs and {seeds} seeds, which
draw the rows and grow the trees; ± is the standard deviation over seeds.  `uniform` draws any rows, `stratified` one
of each part of the order and both ends, `close` pairs of neighbours in it."""


def mean_tau(ranker: Ranker, slates: Slates) -> float:
    """Mean tau over the graphs that have an order."""
    scores, target = ranker.predict(slates.X, qid=slates.qid), slates.target
    parts = [slates.slate(number) for number in range(len(slates))]
    return float(np.mean([kendall_tau(scores[part], target[part]) for part in parts if np.ptp(target[part])]))


def main() -> None:
    """Fit every policy at every number of rows and leave the results."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--subset", default="tile:cpu")
    arguments.add_argument("--data", type=Path, default=Path("data"))
    arguments.add_argument("--store", type=Path, default=Path("data/store"))
    arguments.add_argument("--backend", choices=tuple(OBJECTIVES), default="lightgbm")
    arguments.add_argument("--rows", default="4,8,16,32,64", metavar="LIST", help="per graph; default: %(default)s")
    arguments.add_argument("--trees", type=int, default=300, metavar="N")
    arguments.add_argument("--seeds", type=int, default=3, metavar="N")
    arguments.add_argument("--jobs", type=int, default=None, metavar="N")
    args = arguments.parse_args()
    subset = resolve(args.subset, args.data)
    store, _ = _runs.ready_store(subset, args.data, args.store, ("train", "valid"), args.jobs)
    train, valid = store.load("train").labelled(), store.load("valid").labelled()
    rows, target = distinct(train)
    indptr = indptr_of(train, rows)

    def taus(most: int, policy: str) -> tuple[float, float]:
        found = []
        for seed in range(args.seeds):
            kept = sample(target, indptr, most, policy, seed)
            learnt = Rows(train.X[rows[kept]], target[kept], np.searchsorted(kept, indptr))
            ranker = Ranker(args.backend, n_estimators=args.trees, random_state=seed, n_jobs=args.jobs)
            found.append(mean_tau(ranker.fit_rows(learnt, None), valid))
            print(most, policy, seed, found[-1], flush=True)
        return float(np.mean(found)), float(np.std(found))

    largest = int(np.diff(indptr).max())
    table: list[list[Any]] = []
    for most in map(int, args.rows.split(",")):
        figures = [taus(most, policy) for policy in POLICIES]
        table.append([str(most), *(f"{mean:.3f} ± {spread:.3f}" for mean, spread in figures)])
    mean, spread = taus(largest, POLICIES[0])
    table.append(["all", *[f"{mean:.3f} ± {spread:.3f}"] * len(POLICIES)])
    text = TEXT.format(
        subset=subset.name, train=len(train), valid=len(valid), size=np.median(np.diff(indptr)), trees=args.trees,
        backend=args.backend, seeds=args.seeds,
    )  # fmt: skip
    on = machine("numpy", "lightgbm", "xgboost-cpu")
    publish("sampling", "Learning from few rows of every graph", text, ("rows per graph", *POLICIES), table, on)


if __name__ == "__main__":
    main()
