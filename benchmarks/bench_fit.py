"""Time of a fit until it ranks other graphs as well as a plain call of the library does, and how it grows with rows."""

from __future__ import annotations

import argparse
import json
import resource
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
from gbr.cli import GIB
from gbr.data.build import schema_of
from gbr.data.collection import resolve as resolve_subset
from gbr.evaluate import update_store
from gbr.models import lightgbm, rows, screening, stopping
from gbr.models.params import Settings, resolve
from gbr.models.rows import Rows
from gbr.models.stopping import ValidTau
from gbr.models.training_set import distinct

SUBSET: Final = "tile:cpu"
#: Rounds without a better tau before a fit stops.
PATIENCE: Final = 100
#: Pairs per row that plain XGBoost compares.
PAIRS: Final = 16
#: Rounds, rows and rows per graph of the fits on generated rows.
GROWN_ROUNDS: Final = 100
GROWN: Final = (250_000, 1_000_000)
GROWN_GROUP: Final = 1000
TEXT: Final = """\
{subset}: {size:,} distinct configurations of {train} graphs, {columns} columns; tau on the {valid} graphs of valid
after every round. *plain* is a call of the library on the same matrix with its defaults and the settings that tau
needs: LightGBM's `lambdarank` with linear gains and pairs over the whole group, XGBoost's `rank:pairwise` with
{pairs} random pairs per row. *gbr* is what `gbr.train --backend` does with its defaults: it chooses columns, then fits.
CPU seconds in one thread, with the choice of columns and binning, without computing tau; all four run at the same time.
At most {rounds:,} rounds, stopped after {patience} without a better tau; *to lightgbm* is the time until a call first
reaches the best tau of plain LightGBM, *lightgbm / this* how many times as long plain LightGBM takes, a dash if this
call does not reach it; the same for XGBoost."""
GROWTH_TEXT: Final = f"""\
{GROWN_ROUNDS} rounds of the default model on generated rows: rows of the training graphs drawn with replacement, each
column changed by 1 %, in groups of {GROWN_GROUP:,} with the chosen columns. CPU seconds in one thread; memory is the
largest resident size of the process, of which *matrix* are the features."""

FloatArray = NDArray[np.float64]


class Recorder:
    """Replaces :class:`gbr.models.stopping.ValidTau`; records tau and CPU seconds, without its own, every round."""

    def __init__(self) -> None:
        self.curve: list[tuple[float, float]] = []
        self._overhead = 0.0
        self._start = time.process_time()

    def __call__(self, valid: Rows, seed: int) -> ValidTau:
        """Create a recording ValidTau."""
        recorder = self

        class Recording(ValidTau):
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
        train, valid = screened(train, valid)
        stopping.ValidTau = recorder  # type: ignore[misc, assignment]  # the process ends after this call
        module: Any = import_module(f"gbr.models.{name}")
        module.fit(train, valid, default_settings(name, train, rounds))

    return fit


def default_settings(name: str, train: Rows, rounds: int) -> Settings:
    """Settings of a backend in one thread."""
    return resolve(
        name, None, capacity={"n_estimators": rounds}, early_stopping_rounds=PATIENCE, seed=0, n_jobs=1,
        params={}, n_groups=len(train.sizes), n_rows=len(train.X),
    )  # fmt: skip


def screened(train: Rows, valid: Rows) -> tuple[Rows, Rows]:
    """The columns that ``gbr.train`` chooses."""
    names = schema_of("tile").names
    few, few_valid = (
        each.take(*screening.sampled(each.indptr, n_rows, 0))
        for each, n_rows in ((train, screening.ROWS), (valid, screening.ROWS // 2))
    )
    chosen = np.isin(names, screening.screen(few, few_valid, names, 0, 1).columns)
    return tuple(Rows(each.X[:, chosen], each.target, each.indptr) for each in (train, valid))  # type: ignore[index, return-value]


def grown(train: Rows, n_rows: int) -> dict[str, Any]:
    """Time and memory of a fit on generated rows."""
    rng = np.random.default_rng(0)
    X = np.empty((n_rows, train.X.shape[1]), np.float32)
    target = np.empty(n_rows)
    bounds = np.arange(0, n_rows + 1, GROWN_GROUP)
    for start in bounds[:-1]:
        group = rng.integers(len(train.sizes))
        drawn = rng.integers(*train.indptr[group : group + 2], GROWN_GROUP)
        rows = slice(start, start + GROWN_GROUP)
        X[rows] = train.X[drawn] * rng.normal(1, 0.01, (GROWN_GROUP, X.shape[1]))  # type: ignore[index]
        target[rows] = train.target[drawn] * rng.normal(1, 0.01, GROWN_GROUP)
    known = Rows(X, target, bounds)
    begun = time.process_time()
    lightgbm.fit(known, None, default_settings("lightgbm", known, GROWN_ROUNDS))
    seconds = time.process_time() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "rows": n_rows,
        "columns": X.shape[1],
        "s": seconds,
        "matrix, GiB": X.nbytes / GIB,
        "memory, GiB": peak / GIB,
    }


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


def known_rows(args: argparse.Namespace) -> tuple[Rows, Rows]:
    """Training and validation rows with all columns."""
    store, _ = update_store(resolve_subset(SUBSET, args.data), args.data, args.store, ("train", "valid"), 1)
    known, held_out = store.load("train").labelled(), store.load("valid").labelled()
    selection = distinct(known)
    train = Rows(known.X[selection.rows], selection.target, selection.indptr)
    return train, Rows(held_out.X, held_out.target, held_out.indptr)


def measure(args: argparse.Namespace, fit: Fit) -> dict[str, Any]:
    """Measure one fit in this process."""
    train, valid = known_rows(args)
    recorder = Recorder()
    fit(train, valid, args.rounds, recorder)
    return {"graphs": (len(train.sizes), len(valid.sizes)), "shape": train.X.shape, "curve": recorder.curve}


def write_page(results: dict[tuple[str, str], dict[str, Any]], growth: list[Row], rounds: int) -> None:
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
    for row in growth:
        row["times the first"] = row["s"] / growth[0]["s"]
    sections = [Section("At equal tau", "", table), Section("Over rows", GROWTH_TEXT, growth)]
    publish("fit", "Fitting", text, sections, machine("numpy", "lightgbm", "xgboost-cpu"))


def main() -> None:
    """Run all four fits at the same time, each in its process, and write the page."""
    arguments = parser(__doc__)
    arguments.add_argument("--store", type=Path, default=Path("data/store"), metavar="DIR")
    arguments.add_argument("--rounds", type=int, default=1000, metavar="N", help="default: %(default)s")
    arguments.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments.add_argument("--grown", type=int, help=argparse.SUPPRESS)
    args = arguments.parse_args()
    if args.grown:
        print(json.dumps(grown(screened(*known_rows(args))[0], args.grown)))
        return
    if args.one:
        print(json.dumps(measure(args, FITS[args.one[0], args.one[1]])))
        return
    update_store(resolve_subset(SUBSET, args.data), args.data, args.store, ("train", "valid"), 1)
    line = [sys.executable, "-m", "benchmarks.bench_fit", *sys.argv[1:]]

    def started(*options: object) -> subprocess.Popen[str]:
        return subprocess.Popen([*line, *map(str, options)], stdout=subprocess.PIPE, text=True)

    def result(process: subprocess.Popen[str]) -> dict[str, Any]:
        output = process.communicate()[0]
        if process.returncode:
            raise SystemExit(f"bench_fit: failed: {process.args}")
        found: dict[str, Any] = json.loads(output)
        return found

    fits = {key: started("--one", *key) for key in FITS}
    results = {key: result(process) for key, process in fits.items()}
    growth = [started("--grown", n_rows) for n_rows in GROWN]
    write_page(results, [result(process) for process in growth], args.rounds)


if __name__ == "__main__":
    main()
