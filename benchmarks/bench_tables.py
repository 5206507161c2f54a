"""A new device with the measurements of others: order, 20 measured rows, and searches by gbr, Kernel Tuner and Optuna.

``--tables`` is a folder with cache files of Kernel Tuner, ``KERNEL__DEVICE.json.gz``; each device is held out in turn.
Results of each search are kept under ``--work``, so that an interrupted run resumes.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import random
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import optuna
from numpy.typing import NDArray

from benchmarks.common import Row, Section, machine, parser, publish
from gbr import Ranker
from gbr.adapt import TableRows
from gbr.data.files import write_json
from gbr.data.table import read_table, write_table
from gbr.data.table_formats import import_files
from gbr.errors import DataError
from gbr.evaluation.metrics import kendall_tau, slowdown_at_k
from gbr.train import train
from gbr.tune import TableSpace, Tuner

FloatArray = NDArray[np.float64]

#: Evaluations of a search; one that does not get there counts as so many.
MOST: Final = 1000
WITHIN: Final = (0.05, 0.01)
MEASURED: Final = 20
DRAWS: Final = 10
STRATEGIES: Final = ("random_sample", "genetic_algorithm", "diff_evo", "simulated_annealing", "bayes_opt")
#: Methods whose step takes long stop earlier.
FEWER: Final = {"bayes_opt": 300, "TPE": 300}
ORDER: Final = """\
Kendall tau and slowdown of the best of the first k [%] on the held-out device, over the rows that did not fail. *A* is
the mean rank on the other devices, *raw* a fit on the parameters alone, *adapted* the model with {measured} random
measured rows, mean of {draws} draws. Fit and rank in seconds, for the whole table."""
SEARCH: Final = """\
Evaluations until a configuration is within 5 % and 1 % of the optimum of the cache, and how many of these failed, mean
over {seeds} seeds; a search that does not get there in its budget ({most}; {fewer}) counts as its budget. *gbr* is
`gbr.tune.Tuner` on a `TableSpace`, with a model of the other devices; strategies of Kernel Tuner run in its simulation
mode, over the configurations in the cache, without the repeats that it answers from there; TPE is Optuna's, over the
parameters, where a suggestion that is not in the cache is replaced by a random one that is."""


def import_tables(folder: Path, root: Path) -> dict[tuple[str, str], tuple[Path, float]]:
    """Write a table per held-out device; returns the cache and the seconds of the import by kernel and device."""
    kernels: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*__*.json.gz")):
        kernels.setdefault(path.name.split("__")[0], []).append(path)
    if not kernels:
        raise DataError(f"{folder}: no files KERNEL__DEVICE.json.gz")
    found = {}
    for kernel, paths in kernels.items():
        start = time.monotonic()
        frame, roles, _ = import_files(paths)
        seconds = time.monotonic() - start
        for path in paths:
            device = json.loads(gzip.decompress(path.read_bytes()))["device_name"]
            name = path.name.removesuffix(".json.gz")
            split = replace(roles, test={roles.device or "device": (device,)})
            write_table(root / "table" / name, frame, split)
            found[kernel, name] = path, seconds
    return found


def held_out(root: Path, work: Path, name: str) -> tuple[Ranker, Any, FloatArray, dict[str, Any]]:
    """A model of the other devices, and rows, costs and metrics of the held-out one."""
    out = work / "runs" / name
    if not (out / "metrics.json").exists():
        train(f"table:{name}", data=root, store=work / "store", out=out, force=True)
    table = read_table(root / "table" / name)
    (group,) = (group for group in table.groups if group.split == "test")
    rows = slice(group.start, group.stop)
    metrics = json.loads((out / "metrics.json").read_text())
    return Ranker.load(out), table.frame[rows], table.cost[rows], metrics


def order(model: Ranker, frame: Any, cost: FloatArray, metrics: dict[str, Any], name: str) -> Row:
    """One row of the table of orders."""
    worked = np.isfinite(cost)
    start = time.monotonic()
    scores = model.predict_table(frame)["score"].to_numpy()
    seconds = time.monotonic() - start
    known = TableRows(frame, model)
    elsewhere = known.ranks.mean(axis=0)
    adapted = []
    for seed in range(DRAWS):
        rows = np.random.default_rng(seed).choice(len(cost), MEASURED, replace=False)
        adapted.append(model.adapt(known, rows, cost[rows]).predict())

    def tau(scores: FloatArray) -> float:
        return kendall_tau(scores[worked], cost[worked])

    def slowdown(scores: FloatArray, k: int) -> float:
        return 100 * slowdown_at_k(scores, np.where(worked, cost, 1e9 * cost[worked].max()), k)

    return {
        "held out": name,
        "A": tau(elsewhere),
        "raw": metrics["test"]["baselines"]["raw_l2"]["kendall_tau"],
        "model": tau(scores),
        "adapted": float(np.mean([tau(each) for each in adapted])),
        "A @1": slowdown(elsewhere, 1),
        "A @10": slowdown(elsewhere, 10),
        "model @1": slowdown(scores, 1),
        "model @10": slowdown(scores, 10),
        "adapted @10": float(np.mean([slowdown(each, 10) for each in adapted])),
        "fit": metrics["seconds"]["fit"],
        "rank": seconds,
    }


def ours(model: Ranker, frame: Any, cost: FloatArray, seed: int, most: int) -> list[int]:
    """Rows in the order of their evaluation, until the optimum."""
    space = TableSpace(frame, model)
    tuner = Tuner(space, model, seed=seed)
    found: list[int] = []
    while len(found) < most and (proposed := tuner.ask()):
        found.append(int(space.rows[proposed[0]]))
        tuner.tell(proposed, [float(cost[found[-1]])])
        if cost[found[-1]] == cost.min():
            break
    return found


def tpe(cache: dict[str, Any], cost: dict[tuple[Any, ...], float], seed: int, most: int) -> list[float]:
    """Costs in the order of evaluation, by Optuna."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    rng = np.random.default_rng(seed)
    space = {
        name: optuna.distributions.CategoricalDistribution(cache["tune_params"][name])
        for name in cache["tune_params_keys"]
    }
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed, multivariate=True))
    left = [*cost]
    rng.shuffle(left)
    tried: dict[tuple[Any, ...], float] = {}
    while len(tried) < most:
        trial = study.ask(space)
        row = tuple(trial.params[name] for name in space)
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
        if row not in cost or row in tried:
            row = next(each for each in left if each not in tried)
        tried[row] = cost[row]
        value = np.log(cost[row]) if np.isfinite(cost[row]) else 1e3
        params = dict(zip(space, row, strict=True))
        study.add_trial(optuna.trial.create_trial(params=params, distributions=space, value=value))
        if cost[row] == min(cost.values()):
            break
    return [*tried.values()]


def kernel_tuner(
    cache: dict[str, Any], path: Path, cost: dict[tuple[Any, ...], float], strategy: str, seed: int, most: int
) -> list[float]:
    """Costs in the order of evaluation, by a strategy of Kernel Tuner in simulation mode."""
    import kernel_tuner as tuner

    names = cache["tune_params_keys"]

    def in_cache(config):  # type: ignore[no-untyped-def]
        return tuple(config[name] for name in names) in cost

    np.random.seed(seed)  # noqa: NPY002  (as its strategies draw)
    random.seed(seed)
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results, _ = tuner.tune_kernel(
            cache["kernel_name"], "__global__ void f() {}", tuple(cache["problem_size"]), [],
            {name: cache["tune_params"][name] for name in names}, lang="CUDA", restrictions=in_cache,
            cache=str(path), simulation_mode=True, quiet=True, strategy=strategy,
            strategy_options={"max_fevals": most},
        )  # fmt: skip
    rows = dict.fromkeys(tuple(result[name] for name in names) for result in results)
    return [cost[row] for row in rows]


def needed(costs: list[float], best: float, most: int) -> list[float]:
    """Evaluations until within 5 % and 1 %, and failed ones before the first."""
    least = np.minimum.accumulate(costs) if costs else np.array([np.inf])
    reached = [least <= (1 + within) * best for within in WITHIN]
    found = [float(each.argmax() + 1) if each.any() else float(most) for each in reached]
    return [*found, float(np.isinf(costs[: int(found[0])]).sum())]


def search(work: Path, name: str, method: str, run: Callable[[int, int], list[float]], best: float, seeds: int) -> Row:
    """One row of the table of searches, from a file if it is there."""
    path = work / "searches" / f"{name}-{method}.json"
    most = FEWER.get(method, MOST)
    found = json.loads(path.read_text()) if path.exists() else []
    for seed in range(len(found), seeds):
        found.append(needed(run(seed, most), best, most))
        write_json(path, found, DataError)
    within5, within1, failed = np.mean(found[:seeds], axis=0).tolist()
    return {"held out": name, "method": method, "within 5 %": within5, "within 1 %": within1, "failed": failed}


def main() -> None:
    """Hold out each device, and write the page."""
    arguments = parser(__doc__)
    arguments.add_argument("--tables", type=Path, required=True, metavar="DIR", help="with KERNEL__DEVICE.json.gz")
    arguments.add_argument("--work", type=Path, default=Path("runs/tables"), metavar="DIR", help="default: %(default)s")
    arguments.add_argument("--seeds", type=int, default=20, help="default: %(default)s")
    arguments.add_argument("--methods", nargs="*", default=["gbr", *STRATEGIES, "TPE"], help="default: all")
    args = arguments.parse_args()
    root = args.work / "root"
    orders, searches = [], []
    for (_, name), (path, imported) in import_tables(args.tables, root).items():
        model, frame, cost, metrics = held_out(root, args.work, name)
        orders.append({**order(model, frame, cost, metrics, name), "import": imported})
        cache = json.loads(gzip.decompress(path.read_bytes()))
        plain = args.work / f"{name}.json"
        plain.write_text(json.dumps(cache))
        by_row = {
            tuple(entry[key] for key in cache["tune_params_keys"]): float(entry["time"])
            if isinstance(entry["time"], int | float)
            else np.inf
            for entry in cache["cache"].values()
        }

        def by_us(seed: int, most: int, model: Any = model, frame: Any = frame, cost: Any = cost) -> list[float]:
            return [float(cost[row]) for row in ours(model, frame, cost, seed, most)]

        runs: dict[str, Callable[[int, int], list[float]]] = {"gbr": by_us, "TPE": partial(tpe, cache, by_row)}
        for strategy in STRATEGIES:
            runs[strategy] = partial(kernel_tuner, cache, plain, by_row, strategy)
        for method in args.methods:
            row = search(args.work, name, method, runs[method], float(cost.min()), args.seeds)
            print(*row.values(), flush=True)
            searches.append(row)
    fewer = ", ".join(f"{method} {most}" for method, most in FEWER.items())
    sections = [
        Section("Order", ORDER.format(measured=MEASURED, draws=DRAWS), orders),
        Section("Search", SEARCH.format(seeds=args.seeds, most=MOST, fewer=fewer), searches),
    ]
    text = "Caches of Kernel Tuner (benchmark_hub, MIT licence), each device held out; they are not part of gbr."
    publish("tables", "Tables of other devices", text, sections, machine("lightgbm", "scikit-learn", "optuna"))


if __name__ == "__main__":
    main()
