"""Time of a fit until it ranks other graphs as well as a plain call of the library does."""

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

from benchmarks.common import Row, Section, machine, parser, publish
from gbr.data.collection import resolve as resolve_subset
from gbr.evaluate import update_store
from gbr.models import base, rows
from gbr.models.params import resolve
from gbr.models.rows import Rows
from gbr.models.training_set import distinct

SUBSET: Final = "tile:cpu"
#: Rounds without a better tau before a fit stops.
PATIENCE: Final = 100
#: Pairs per row that plain XGBoost compares.
PAIRS: Final = 16
TEXT: Final = """\
{subset}: {size:,} distinct configurations of {train} graphs, {columns} columns; tau on the {valid} graphs of valid
after every round. *plain* is a call of the library on the same matrix with its defaults and the settings that tau
needs: LightGBM's `lambdarank` with linear gains and pairs over the whole group, XGBoost's `rank:pairwise` with
{pairs} random pairs per row. *gbr* is `Ranker(backend=...)` with its defaults. CPU seconds in one thread, with
binning, without computing tau; all four run at the same time. At most {rounds:,} rounds, stopped after {patience}
without a better tau; *to lightgbm* is the time until a call first reaches the best tau of plain LightGBM, *lightgbm
/ this* how many times as long plain LightGBM takes, a dash if this call does not reach it; the same for XGBoost."""

FloatArray = NDArray[np.float64]


class Recorder:
    """Replaces :class:`gbr.models.base.ValidTau`; records tau and CPU seconds, without those of tau, every round."""

    def __init__(self) -> None:
        self.curve: list[tuple[float, float]] = []
        self._overhead = 0.0
        self._start = time.process_time()

    def __call__(self, valid: Rows, seed: int) -> base.ValidTau:
        """Create a recording ValidTau."""
        recorder = self

        class Recording(base.ValidTau):
            def __call__(self, relevance: NDArray[Any]) -> float:
                before = time.process_time()
                tau = super().__call__(relevance)
                recorder.curve.append((before - recorder._start - recorder._overhead, tau))
                recorder._overhead += time.process_time() - before
                return tau

        return Recording(valid, seed)


Fit = Callable[[Rows, Rows, int, Recorder], object]


def plain_lightgbm(train: Rows, valid: Rows, rounds: int, recorder: Recorder) -> None:
    """LightGBM with its defaults and the settings that tau needs."""
    label = rows.ranks(train.target, train.indptr)
    params = {
        "objective": "lambdarank",
        "label_gain": list(range(int(label.max()) + 1)),
        "lambdarank_truncation_level": int(train.sizes.max()),
        "num_threads": 1,
        "metric": "None",
        "verbosity": -1,
    }
    tau = recorder(valid, 0)
    data = lgb.Dataset(train.X, label=label, group=train.sizes, params=params)
    held_out = lgb.Dataset(tau.X, label=np.zeros(len(tau.X)), group=tau.rows.sizes, reference=data, params=params)
    lgb.train(
        params,
        data,
        rounds,
        valid_sets=[held_out],
        feval=lambda relevance, _: ("tau", tau(relevance), True),
        callbacks=[lgb.early_stopping(PATIENCE, verbose=False)],
    )


def plain_xgboost(train: Rows, valid: Rows, rounds: int, recorder: Recorder) -> None:
    """XGBoost with its defaults and the settings that tau needs."""
    params = {
        "objective": "rank:pairwise",
        "lambdarank_pair_method": "mean",
        "lambdarank_num_pair_per_sample": PAIRS,
        "nthread": 1,
        "disable_default_eval_metric": True,
    }
    tau = recorder(valid, 0)
    qid = np.repeat(np.arange(len(train.sizes)), train.sizes)
    data = xgb.QuantileDMatrix(train.X, label=rows.ranks(train.target, train.indptr), qid=qid)
    held_out = xgb.QuantileDMatrix(tau.X, label=np.zeros(len(tau.X)), ref=data)
    xgb.train(
        params,
        data,
        rounds,
        evals=[(held_out, "valid")],
        custom_metric=lambda relevance, _: ("tau", tau(relevance)),
        callbacks=[xgb.callback.EarlyStopping(rounds=PATIENCE, maximize=True)],
        verbose_eval=False,
    )


def backend_fit(name: str) -> Fit:
    """The fit of a backend of gbr."""

    def fit(train: Rows, valid: Rows, rounds: int, recorder: Recorder) -> None:
        settings = resolve(
            name, None, capacity={"n_estimators": rounds}, early_stopping_rounds=PATIENCE, seed=0, n_jobs=1,
            params={}, n_groups=len(train.sizes), n_rows=len(train.X),
        )  # fmt: skip
        module: Any = import_module(f"gbr.models.{name}")
        module.ValidTau = recorder  # the process ends after this call
        module.fit(train, valid, settings)

    return fit


LIBRARIES: Final = ("lightgbm", "xgboost")
#: Fits by library and call.
FITS: Final[dict[tuple[str, str], Fit]] = {
    ("lightgbm", "plain"): plain_lightgbm,
    ("lightgbm", "gbr"): backend_fit("lightgbm"),
    ("xgboost", "plain"): plain_xgboost,
    ("xgboost", "gbr"): backend_fit("xgboost"),
}


def reached(curve: FloatArray, tau: float) -> float:
    """Seconds until a curve, float64 (rounds, 2) of seconds and tau, first reaches a tau; infinite if it never does."""
    found = np.flatnonzero(curve[:, 1] >= tau)
    return float(curve[found[0], 0]) if len(found) else np.inf


def measure(args: argparse.Namespace, fit: Fit) -> dict[str, Any]:
    """Measure one fit in this process."""
    store, _ = update_store(resolve_subset(SUBSET, args.data), args.data, args.store, ("train", "valid"), 1)
    known, held_out = store.load("train").labelled(), store.load("valid").labelled()
    selection = distinct(known)
    train = Rows(known.X[selection.rows], selection.target, selection.indptr)
    valid = Rows(held_out.X, held_out.target, held_out.indptr)

    recorder = Recorder()
    fit(train, valid, args.rounds, recorder)
    return {"graphs": (len(train.sizes), len(valid.sizes)), "shape": train.X.shape, "curve": recorder.curve}


def write_page(results: dict[tuple[str, str], dict[str, Any]], rounds: int) -> None:
    """Write the page from the measurements by library and call."""
    curves = {key: np.array(result["curve"]) for key, result in results.items()}
    table: list[Row] = []
    for (library, call), curve in curves.items():
        best = int(curve[:, 1].argmax())
        row: Row = {"library": library, "call": call, "rounds": len(curve), "best tau": float(curve[best, 1])}
        row["until then, s"] = float(curve[best, 0])
        for other in LIBRARIES:
            plain = curves[other, "plain"]
            tau = float(plain[:, 1].max())
            equal = reached(curve, tau)
            finite = np.isfinite(equal)
            row |= {f"to {other}, s": equal if finite else "–"}
            row |= {f"{other} / this": reached(plain, tau) / equal if finite else "–"}
        table.append(row)
    some = next(iter(results.values()))
    text = TEXT.format(
        subset=SUBSET, size=some["shape"][0], columns=some["shape"][1], train=some["graphs"][0],
        valid=some["graphs"][1], pairs=PAIRS, rounds=rounds, patience=PATIENCE,
    )  # fmt: skip
    publish("fit", "Fitting", text, [Section("At equal tau", "", table)], machine("numpy", "lightgbm", "xgboost-cpu"))


def main() -> None:
    """Run all four fits at the same time, each in its process, and write the page."""
    arguments = parser(__doc__)
    arguments.add_argument("--store", type=Path, default=Path("data/store"), metavar="DIR")
    arguments.add_argument("--rounds", type=int, default=1000, metavar="N", help="default: %(default)s")
    arguments.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = arguments.parse_args()
    if args.one:
        print(json.dumps(measure(args, FITS[args.one[0], args.one[1]])))
        return
    update_store(resolve_subset(SUBSET, args.data), args.data, args.store, ("train", "valid"), 1)
    line = [sys.executable, "-m", "benchmarks.bench_fit", *sys.argv[1:], "--one"]
    started = {key: subprocess.Popen([*line, *key], stdout=subprocess.PIPE, text=True) for key in FITS}
    results = {}
    for key, process in started.items():
        output = process.communicate()[0]
        if process.returncode:
            raise SystemExit(f"bench_fit: {' '.join(key)} failed")
        results[key] = json.loads(output)
    write_page(results, args.rounds)


if __name__ == "__main__":
    main()
