"""What learning from few rows of every graph costs: tau on other graphs by the rows kept and how they are chosen."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._results import machine, publish
from gbr import Ranker
from gbr.data.collection import resolve
from gbr.data.groups import QueryGroups
from gbr.evaluate import update_store
from gbr.evaluation.metrics import kendall_tau
from gbr.models.params import OBJECTIVES
from gbr.models.rows import POLICIES, Rows, sample
from gbr.train import distinct, indptr_of

TEXT = """\
{subset}: trained on {train} graphs with a median of {size:g} distinct configurations, {trees} rounds of {backend}, no
early stopping; scored on all rows of the {valid} graphs of valid.  Mean tau over those graphs and {seeds} seeds, which
draw the rows and grow the trees; ± is the standard deviation over seeds.  `uniform` draws any rows, `stratified` one
of each part of the order and both ends, `close` pairs of neighbours in it."""


def mean_tau(ranker: Ranker, slates: QueryGroups) -> float:
    """Mean tau over the graphs that have an order."""
    scores, target = ranker.predict(slates.X), slates.target
    parts = [slates.rows(number) for number in range(len(slates))]
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
    arguments.add_argument("--log", type=Path, metavar="FILE", help="keep every fit here, and take those that are")
    args = arguments.parse_args()
    subset = resolve(args.subset, args.data)
    store, _ = update_store(subset, args.data, args.store, ("train", "valid"), args.jobs)
    train, valid = store.load("train").labelled(), store.load("valid").labelled()
    rows, target = distinct(train)
    indptr = indptr_of(train, rows)

    known = logged(args.log)

    def tau(most: int, policy: str, seed: int) -> float:
        if (most, policy, seed) not in known:
            kept = sample(target, indptr, most, policy, seed)
            learnt = Rows(train.X[rows[kept]], target[kept], np.searchsorted(kept, indptr))
            ranker = Ranker(args.backend, n_estimators=args.trees, random_state=seed, n_jobs=args.jobs)
            known[most, policy, seed] = mean_tau(ranker._fit_rows(learnt, None), valid)
            line = f"{most} {policy} {seed} {known[most, policy, seed]}"
            print(line, flush=True)
            if args.log:
                with args.log.open("a") as log:
                    log.write(f"{line}\n")
        return known[most, policy, seed]

    def told(most: int, policy: str) -> str:
        found = [tau(most, policy, seed) for seed in range(args.seeds)]
        return f"{np.mean(found):.3f} ± {np.std(found):.3f}"

    text = TEXT.format(
        subset=subset.name, train=len(train), valid=len(valid), size=np.median(np.diff(indptr)), trees=args.trees,
        backend=args.backend, seeds=args.seeds,
    )  # fmt: skip
    on = machine("numpy", "lightgbm", "xgboost-cpu")
    last = ["all", *[told(int(np.diff(indptr).max()), POLICIES[0])] * len(POLICIES)]
    table: list[list[Any]] = []
    for most in map(int, args.rows.split(",")):
        table.append([str(most), *(told(most, policy) for policy in POLICIES)])
        # After every line: an interrupted bench leaves what it has.
        publish(
            "sampling", "Learning from few rows of every graph", text, ("rows per graph", *POLICIES), [*table, last], on
        )


def logged(log: Path | None) -> dict[tuple[int, str, int], float]:
    """Tau by rows, policy and seed, of an earlier run."""
    if log is None or not log.exists():
        return {}
    lines = [line.split() for line in log.read_text().splitlines()]
    return {(int(most), policy, int(seed)): float(found) for most, policy, seed, found in lines}


if __name__ == "__main__":
    main()
