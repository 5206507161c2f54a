"""How many measurements a search needs: replayed on the test split of both measured collections.

The results of every graph are kept under ``--work``, so that an interrupted run resumes.
"""

from __future__ import annotations

import argparse
import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final, cast

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import optuna
from numpy.typing import NDArray

from benchmarks.common import Row, Section, default_model, machine, parser, publish
from gbr import Ranker
from gbr.data.collection import family, graph_files, resolve
from gbr.data.files import write_json
from gbr.evaluation.metrics import bootstrap_interval
from gbr.tune import Replay, Tuner

FloatArray = NDArray[np.float64]
Order = list[int]
#: Slowdown of the best so far, float64 (seeds, measurements) of every graph, by method.
Curves = dict[str, list[FloatArray]]

COLLECTIONS: Final = {"tile": "tile:cpu", "layout": "layout:cpu:random"}
SHOWN: Final = (1, 2, 3, 5, 8, 12, 20, 32, 48)
MOST: Final = 48
WITHIN: Final = 0.02
RANDOM_SEEDS: Final = 200
#: Random configurations before TPE, as many as the tuner takes.
STARTUP: Final = 5
TEXT: Final = """\
Replayed on the test splits of the embedded collections: {graphs}, 96 configurations each, of families that the
model has not seen. A measurement is the first one in the file. *random* draws without repetition ({random} seeds).
*TPE* is that of optuna {optuna} (multivariate, {startup} random ones first, logarithm of the runtime) over the tile
sizes or the layouts of every tensor; its suggestion is replaced by the nearest measured configuration. *tune* is
`gbr.tune.Tuner` without a model, which starts from the estimate without training; *tune with model* has the default
model trained on `train`; *model only* measures in the order of that model. {seeds} seeds each, except for *model
only*. The constants of the tuner were chosen on graphs of `valid`."""
NEEDED: Final = """\
Measurements until one is within {within:.0f} % of the fastest in the file, mean over graphs and seeds with a 95 %
bootstrap interval over graphs; a search that does not reach it in {most} measurements counts as {more}."""
CURVES: Final = """\
Slowdown of the best so far relative to the fastest configuration in the file [%], mean over graphs and seeds, with a
95 % bootstrap interval over graphs."""


def tpe(replay: Replay, seed: int) -> Order:
    """Optuna's TPE, restricted to the measured configurations."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    values, codes = _parameters(replay)
    ordinal = replay.space.graph.kind == "tile"
    positions = [_positions(each) for each in values]
    scaled = np.column_stack([each[codes[:, index]] for index, each in enumerate(positions)])
    distributions: dict[str, Any] = {
        f"p{index}": optuna.distributions.IntDistribution(0, len(each) - 1)
        if ordinal
        else optuna.distributions.CategoricalDistribution(tuple(range(len(each))))
        for index, each in enumerate(values)
    }
    study = optuna.create_study(
        sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP, multivariate=True)
    )
    left = replay.space.duplicate_of == np.arange(len(codes))
    order: Order = []
    while len(order) < MOST and left.any():
        trial = study.ask(distributions)
        suggested = np.array([trial.params[name] for name in distributions])
        if ordinal:
            point = np.array([each[code] for each, code in zip(positions, suggested, strict=True)])
            distance = ((scaled - point) ** 2).sum(axis=1)
        else:
            distance = (codes != suggested).sum(axis=1).astype(np.float64)
        row = int(np.where(left, distance, np.inf).argmin())
        # The sampler learns from the measured configuration instead of its suggestion.
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
        params = dict(zip(distributions, codes[row].tolist(), strict=True))
        value = float(np.log(replay(row)))
        study.add_trial(optuna.trial.create_trial(params=params, distributions=distributions, value=value))
        left[row] = False
        order.append(row)
        if replay(row) <= replay.runtime.min():
            break
    return order


def _parameters(replay: Replay) -> tuple[list[NDArray[Any]], NDArray[np.int64]]:
    """Values and codes of the parameters of a space; parameters that always change together are one."""
    choices = replay.space.choices
    if replay.space.graph.kind == "layout":
        choices = choices[:, : choices.shape[1] * 3 // 4]  # the layouts of tensors; the others follow from them
    found: dict[bytes, tuple[NDArray[Any], NDArray[np.int64]]] = {}
    for column in choices.T:
        values, codes = np.unique(column, return_inverse=True)
        if len(values) > 1:
            found.setdefault(codes.astype(np.int64).tobytes(), (values, codes.astype(np.int64)))
    all_values, all_codes = zip(*found.values(), strict=True)
    return list(all_values), np.column_stack(all_codes)


def _positions(values: NDArray[Any]) -> NDArray[np.float64]:
    """Logarithms scaled to 0 ... 1: 2 is as far from 4 as 64 is from 128."""
    logs = np.log2(np.maximum(values.astype(np.float64), 1))
    return np.asarray((logs - logs[0]) / (np.ptp(logs) or 1.0))


def tuned(replay: Replay, model: Ranker | None, seed: int) -> Order:
    """Order of a tuner, until it has measured the fastest."""
    tuner, best = Tuner(replay.space, model, seed=seed), replay.runtime.min()
    order: Order = []
    while len(order) < MOST and (configs := tuner.ask()):
        order += configs
        runtimes = [replay(config) for config in configs]
        tuner.tell(configs, runtimes)
        if min(runtimes) <= best:
            break
    return order


def best_so_far(replay: Replay, order: Order) -> FloatArray:
    """Slowdown of the fastest of the first 1, 2, … :data:`MOST` measurements."""
    so_far = np.minimum.accumulate(replay.runtime[order[:MOST]]) / replay.runtime.min() - 1
    return np.concatenate([so_far, np.full(MOST - len(so_far), so_far[-1])])


def replay_graph(task: tuple[Path, Path, Path, int, Path]) -> None:
    """Replay all methods on one graph, and write their curves to the last path of the task."""
    path, data, work, seeds, out = task
    if out.exists():
        return
    replay = Replay(path)
    model = default_model(COLLECTIONS[replay.space.graph.kind], data, work)
    ranked: Order = np.argsort(replay.space.scores(model), kind="stable").tolist()
    rows = np.arange(len(replay.space))
    methods: dict[str, tuple[int, Callable[[int], Order]]] = {
        "random": (RANDOM_SEEDS, lambda seed: cast(Order, np.random.default_rng(seed).permutation(rows).tolist())),
        "TPE": (seeds, lambda seed: tpe(replay, seed)),
        "tune": (seeds, lambda seed: tuned(replay, None, seed)),
        "model only": (1, lambda _: ranked),
        "tune with model": (seeds, lambda seed: tuned(replay, model, seed)),
    }
    curves = {
        method: [best_so_far(replay, order(seed)).tolist() for seed in range(count)]
        for method, (count, order) in methods.items()
    }
    write_json(out, curves)


def replay_collection(name: str, args: argparse.Namespace) -> Curves:
    """Curves of one collection; graphs that an earlier run has replayed are read."""
    subset = resolve(name, args.data)
    default_model(name, args.data, args.work)
    taken = Counter[str]()
    tasks = []
    for path in graph_files(subset, args.data, "test"):
        taken[family(subset.kind, path.stem)] += 1
        if args.per_family is None or taken[family(subset.kind, path.stem)] <= args.per_family:
            out = args.work / "replay" / name.replace(":", "-") / f"{path.stem}.json"
            tasks.append((path, args.data, args.work, args.seeds, out))
    with ProcessPoolExecutor(args.jobs, get_context("spawn")) as pool:
        for count, _ in enumerate(pool.map(replay_graph, tasks), 1):
            print(f"{name}: {count} of {len(tasks)} graphs", flush=True)
    curves = defaultdict(list)
    for *_, out in tasks:
        for method, values in json.loads(out.read_text()).items():
            curves[method].append(np.array(values))
    return curves


def needed(curves: FloatArray) -> FloatArray:
    """Measurements until the slowdown is at most :data:`WITHIN`; ``MOST + 1`` if it never is."""
    reached = curves <= WITHIN
    return np.asarray(np.where(reached.any(axis=-1), reached.argmax(axis=-1) + 1, MOST + 1), np.float64)


def with_interval(values: FloatArray) -> str:
    """The mean over graphs with its bootstrap interval."""
    low, high = bootstrap_interval(values) or (np.nan, np.nan)
    return f"{values.mean():.1f} ({low:.1f}–{high:.1f})"


def sections(curves: Curves, name: str) -> Iterator[Section]:
    """Tables of one collection."""
    counts = {method: np.array([needed(each).mean() for each in graphs]) for method, graphs in curves.items()}
    rows: list[Row] = []
    for method, graphs in curves.items():
        reached = np.mean([(needed(each) <= MOST).mean() for each in graphs])
        share = counts[method].mean() / counts["random"].mean()
        row = {"search": method, "needed": with_interval(counts[method]), "relative to random": f"{share:.2f}"}
        rows.append(row | {"reached": f"{100 * reached:.0f} %"})
    text = NEEDED.format(within=100 * WITHIN, most=MOST, more=MOST + 1)
    yield Section(f"{name}: measurements needed", text, rows)
    table = []
    for method, graphs in curves.items():
        means = 100 * np.array([each.mean(axis=0) for each in graphs])
        table.append({"search": method} | {str(count): with_interval(means[:, count - 1]) for count in SHOWN})
    yield Section(f"{name}: best so far", CURVES, table)


def main() -> None:
    """Replay both collections, and write the page."""
    arguments = parser(__doc__)
    arguments.add_argument("--work", type=Path, default=Path("runs/tune"), metavar="DIR", help="models and curves")
    arguments.add_argument("--seeds", type=int, default=10, metavar="N")
    arguments.add_argument("--per-family", type=int, metavar="N", help="graphs per family (default: all)")
    arguments.add_argument("--jobs", type=int, default=2, metavar="N")
    args = arguments.parse_args()
    curves = {name: replay_collection(name, args) for name in COLLECTIONS.values()}
    pages = [section for name, each in curves.items() for section in sections(each, name)]
    graphs = " and ".join(f"{len(each['random'])} graphs of {name}" for name, each in curves.items())
    setup = machine("optuna", "scikit-learn", "lightgbm", "xgboost-cpu")
    text = TEXT.format(graphs=graphs, random=RANDOM_SEEDS, seeds=args.seeds, optuna=setup["optuna"], startup=STARTUP)
    publish("tune", "Measurements that a search needs", text, pages, setup)


if __name__ == "__main__":
    main()
