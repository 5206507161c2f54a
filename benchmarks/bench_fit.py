"""Time of a fit until it ranks other graphs as well as the library called plainly does, and over the number of rows."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import lightgbm as lgb
import numpy as np
import xgboost as xgb
from numpy.typing import NDArray

from benchmarks.common import Section, machine, publish
from gbr.data.collection import resolve as subset_of
from gbr.data.groups import QueryGroups
from gbr.evaluate import update_store
from gbr.models import base, rows
from gbr.models.params import resolve
from gbr.models.rows import Rows
from gbr.models.training_set import distinct

#: Pairs of a row that plain XGBoost compares.
PAIRS: Final = 16
EARLY: Final = 50
#: One graph of so many, beside all.
SHARES: Final = (4, 2)
SIDES: Final = ("plain", "gbr")
TEXT: Final = """\
{subset}: {size:,} distinct configurations of {train} graphs, {columns} columns; tau on the {valid} graphs of valid
after every round. *plain* is the library's own call on the same matrix with its defaults and the settings that tau
needs: LightGBM's `lambdarank` with linear gains and pairs over the whole group, XGBoost's `rank:pairwise` with
{pairs} random pairs per row. *gbr* is `Ranker(backend=...)` with its defaults. Seconds of CPU in one thread, with
binning, without the taus; all four run at the same time. At most {rounds:,} rounds, stopped after {patience}
without a better tau; *to lightgbm* is the time until a call first reaches the best tau of plain LightGBM, *lightgbm
/ this* how many times as long plain LightGBM takes, a dash where this call does not reach it; the same for XGBoost."""
SLOPE: Final = """\
{early} rounds on the first quarter and the first half of the graphs, and on all."""


class Watch:
    """Replaces :class:`gbr.models.base.ValidTau`; records tau and the seconds of CPU, without its own, every round."""

    def __init__(self) -> None:
        self.curve: list[tuple[float, float]] = []
        self._own = 0.0
        self._start = time.process_time()

    def __call__(self, valid: Rows, seed: int) -> base.ValidTau:
        """Create a recording ValidTau."""
        watch = self

        class Recording(base.ValidTau):
            def __call__(self, relevance: NDArray[Any]) -> float:
                before = time.process_time()
                found = super().__call__(relevance)
                watch.curve.append((before - watch._start - watch._own, found))
                watch._own += time.process_time() - before
                return found

        return Recording(valid, seed)


Fit = Callable[[Rows, Rows, int, int, Watch], object]


def plain_lightgbm(train: Rows, valid: Rows, rounds: int, patience: int, watch: Watch) -> None:
    """LightGBM with its defaults and what tau needs."""
    label = rows.ranks(train.target, train.indptr)
    params = {
        "objective": "lambdarank",
        "label_gain": list(range(int(label.max()) + 1)),
        "lambdarank_truncation_level": int(train.sizes.max()),
        "num_threads": 1,
        "metric": "None",
        "verbosity": -1,
    }
    tau = watch(valid, 0)
    data = lgb.Dataset(train.X, label=label, group=train.sizes, params=params)
    held_out = lgb.Dataset(tau.X, label=np.zeros(len(tau.X)), group=tau.rows.sizes, reference=data, params=params)
    lgb.train(
        params,
        data,
        rounds,
        valid_sets=[held_out],
        feval=lambda relevance, _: ("tau", tau(relevance), True),
        callbacks=[lgb.early_stopping(patience, verbose=False)],
    )


def plain_xgboost(train: Rows, valid: Rows, rounds: int, patience: int, watch: Watch) -> None:
    """XGBoost with its defaults and what tau needs."""
    params = {
        "objective": "rank:pairwise",
        "lambdarank_pair_method": "mean",
        "lambdarank_num_pair_per_sample": PAIRS,
        "nthread": 1,
        "disable_default_eval_metric": True,
    }
    tau = watch(valid, 0)
    qid = np.repeat(np.arange(len(train.sizes)), train.sizes)
    data = xgb.QuantileDMatrix(train.X, label=rows.ranks(train.target, train.indptr), qid=qid)
    held_out = xgb.QuantileDMatrix(tau.X, label=np.zeros(len(tau.X)), ref=data)
    xgb.train(
        params,
        data,
        rounds,
        evals=[(held_out, "valid")],
        custom_metric=lambda relevance, _: ("tau", tau(relevance)),
        callbacks=[xgb.callback.EarlyStopping(rounds=patience, maximize=True)],
        verbose_eval=False,
    )


def own(name: str) -> Fit:
    """Give the fit of a backend of gbr."""

    def fit(train: Rows, valid: Rows, rounds: int, patience: int, watch: Watch) -> None:
        settings = resolve(
            name, None, capacity={"n_estimators": rounds}, early_stopping_rounds=patience, seed=0, n_jobs=1,
            params={}, n_groups=len(train.sizes), n_rows=len(train.X),
        )  # fmt: skip
        module: Any = import_module(f"gbr.models.{name}")
        before, module.ValidTau = module.ValidTau, watch
        try:
            module.fit(train, valid, settings)
        finally:
            module.ValidTau = before

    return fit


#: Library -> its plain call and gbr's.
CALLS: Final[dict[str, tuple[Fit, Fit]]] = {
    "lightgbm": (plain_lightgbm, own("lightgbm")),
    "xgboost": (plain_xgboost, own("xgboost")),
}


def curve(fit: Fit, train: Rows, valid: Rows, rounds: int, patience: int) -> NDArray[np.float64]:
    """Seconds of CPU and tau after every round, float64 (rounds, 2)."""
    watch = Watch()
    fit(train, valid, rounds, patience, watch)
    return np.array(watch.curve)


def reached(curve: NDArray[np.float64], tau: float) -> float:
    """Seconds until a curve first reaches a tau; infinite where it never does."""
    rounds = np.flatnonzero(curve[:, 1] >= tau)
    return float(curve[rounds[0], 0]) if len(rounds) else np.inf


def learnt(groups: QueryGroups) -> Rows:
    """Distinct configurations."""
    selection = distinct(groups)
    return Rows(groups.X[selection.rows], selection.target, selection.indptr)


def first(rows: Rows, share: int) -> Rows:
    """Rows of the first of the graphs, one of ``share`` of them."""
    graphs = len(rows.sizes) // share
    return rows.take(np.arange(rows.indptr[graphs]), rows.indptr[: graphs + 1])


def one(args: argparse.Namespace, library: str, side: str) -> dict[str, Any]:
    """Measure one call in this process: its curve, and the first rounds on a part of the graphs."""
    subset = subset_of(args.subset, args.data)
    store, _ = update_store(subset, args.data, args.store, ("train", "valid"), 1)
    train, held_out = learnt(store.load("train").labelled()), store.load("valid").labelled()
    valid = Rows(held_out.X, held_out.target, held_out.indptr)
    call = CALLS[library][SIDES.index(side)]
    parts = [first(train, share) for share in SHARES]
    early = [curve(call, part, valid, EARLY, EARLY) for part in parts]
    whole = curve(call, train, valid, args.rounds, args.patience)
    return {
        "graphs": (len(train.sizes), len(valid.sizes)),
        "shape": train.X.shape,
        "rows": [*(len(part.X) for part in parts), len(train.X)],
        "early": [*(float(part[-1, 0]) for part in early), float(whole[: len(early[0])][-1, 0])],
        "curve": whole.tolist(),
    }


def main() -> None:
    """Fit with every library plainly and by gbr, all at once, and leave the results."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--subset", default="tile:cpu")
    arguments.add_argument("--data", type=Path, default=Path("data"), metavar="ROOT")
    arguments.add_argument("--store", type=Path, default=Path("data/store"), metavar="DIR")
    arguments.add_argument("--rounds", type=int, default=1000, metavar="N")
    arguments.add_argument("--patience", type=int, default=100, metavar="N")
    arguments.add_argument("--one", nargs=2, metavar=("LIBRARY", "CALL"), help=argparse.SUPPRESS)
    args = arguments.parse_args()
    if args.one:
        print(json.dumps(one(args, *args.one)))
        return
    subset = subset_of(args.subset, args.data)
    update_store(subset, args.data, args.store, ("train", "valid"), 1)
    line = [sys.executable, "-m", "benchmarks.bench_fit", *sys.argv[1:], "--one"]
    every = {
        (library, side): subprocess.Popen([*line, library, side], stdout=subprocess.PIPE, text=True)
        for library in CALLS
        for side in SIDES
    }
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for which, process in every.items():
        output = process.communicate()[0]
        if process.returncode:
            raise SystemExit(f"bench_fit: {' '.join(which)} failed")
        found[which] = json.loads(output)
    leave(found, subset.name, args.rounds, args.patience)


def leave(found: dict[tuple[str, str], dict[str, Any]], subset: str, rounds: int, patience: int) -> None:
    """Write the page."""
    curves = {which: np.array(each["curve"]) for which, each in found.items()}
    plain = {library: float(curves[library, "plain"][:, 1].max()) for library in CALLS}
    table: list[tuple[Any, ...]] = []
    for which, each in curves.items():
        best = int(each[:, 1].argmax())
        to: list[Any] = []
        for library, tau in plain.items():
            needed, equal = reached(curves[library, "plain"], tau), reached(each, tau)
            to += [equal, needed / equal] if np.isfinite(equal) else ["–", "–"]
        table.append((*which, len(each), float(each[best, 1]), float(each[best, 0]), *to))
    some = next(iter(found.values()))
    slope = [
        [f"{size:,}", *(each["early"][index] for each in found.values())] for index, size in enumerate(some["rows"])
    ]
    text = TEXT.format(
        subset=subset, size=some["shape"][0], train=some["graphs"][0], columns=some["shape"][1],
        valid=some["graphs"][1], pairs=PAIRS, rounds=rounds, patience=patience,
    )  # fmt: skip
    equal_to = (title for library in CALLS for title in (f"to {library}, s", f"{library} / this"))
    titles = ("library", "call", "rounds", "best tau", "until then, s", *equal_to)
    over = ("rows", *(f"{library}, {side}, s" for library, side in found))
    sections = [
        Section("At equal tau", "", titles, table),
        Section("Over rows", SLOPE.format(early=EARLY), over, slope),
    ]
    publish("fit", "Fitting", text, sections, machine("numpy", "lightgbm", "xgboost-cpu"))


if __name__ == "__main__":
    main()
