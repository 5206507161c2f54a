"""How many measurements a search needs: replayed on the test split of both measured collections.

Every graph's result is kept under ``--work``, so that the bench goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import optuna
from numpy.typing import NDArray

from benchmarks.common import FOLDER, Section, machine, publish
from gbr import Ranker
from gbr.data.collection import family, graph_files, resolve
from gbr.data.files import atomic_write, write_json
from gbr.train import train
from gbr.tune import Replay, Tuner

FloatArray = NDArray[np.float64]
Order = list[int]

COLLECTIONS: Final = ("tile:cpu", "layout:cpu:random")
METHODS: Final = ("random", "TPE", "tune", "model alone", "tune with model")
SHOWN: Final = (1, 2, 3, 5, 8, 12, 20, 32, 48)
MOST: Final = 48
WITHIN: Final = 0.02
#: Draws that cost next to nothing.
RANDOM_SEEDS: Final = 200
RESAMPLES: Final = 2000
#: Random configurations before TPE, as many as the tuner takes.
STARTUP: Final = 5
COLOURS: Final = ("#808890", "#8a6fc0", "#4a90c4", "#d0a030", "#e5694a")
TEXT: Final = """\
Replayed on the test splits of the embedded collections: {graphs}, 96 configurations each, of families that the
model has not seen. A measurement is the file's first one. *random* draws without repetition ({random} seeds). *TPE*
is that of optuna {optuna} (multivariate, {startup} random ones first, logarithm of the runtime) over the tile sizes
or the layouts of every tensor; the nearest measured configuration replaces what it suggests. *tune* is
`gbr.tune.Tuner` without a model, *tune with model* with the default ensemble trained on `train`; *model alone*
measures in the order of that model. {seeds} seeds each, except for the model's order. The constants of the tuner
were chosen on graphs of `valid`.

![Slowdown of the best so far](tune.svg)"""
NEEDED: Final = """\
Measurements until one is within {within:.0f} % of the fastest of the file, mean over graphs and seeds with a 95 %
bootstrap interval over graphs; a search that does not reach it in {most} measurements counts as {more}."""
CURVES: Final = """\
How much slower than the fastest configuration of the file the best so far is [%], mean over graphs and seeds, with
a 95 % bootstrap interval over graphs."""


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
        # The suggestion was not measured; the sampler learns from the configuration that was.
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
    """Values and codes of what configurations choose; parameters that always change together are one."""
    choices = replay.space.choices
    if replay.space.graph.kind == "layout":
        choices = choices[:, : choices.shape[1] * 3 // 4]  # the layouts of tensors; the rest follows from them
    found: dict[bytes, tuple[NDArray[Any], NDArray[np.int64]]] = {}
    for column in choices.T:
        values, codes = np.unique(column, return_inverse=True)
        if len(values) > 1:
            found.setdefault(codes.astype(np.int64).tobytes(), (values, codes.astype(np.int64)))
    all_values, all_codes = zip(*found.values(), strict=True)
    return list(all_values), np.column_stack(all_codes)


def _positions(values: NDArray[Any]) -> NDArray[np.float64]:
    """Logarithms scaled to 0 ... 1: a step from 2 to 4 is as far as one from 64 to 128."""
    logs = np.log2(np.maximum(values.astype(np.float64), 1))
    return np.asarray((logs - logs[0]) / (np.ptp(logs) or 1.0))


def random_order(replay: Replay, seed: int) -> Order:
    """All configurations, shuffled."""
    return [int(row) for row in np.random.default_rng(seed).permutation(len(replay.space))][:MOST]


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
    so_far = np.minimum.accumulate(replay.runtime[order]) / replay.runtime.min() - 1
    return np.concatenate([so_far, np.full(MOST - len(so_far), so_far[-1])])


def one_graph(task: tuple[str, Path, Path, int, Path]) -> None:
    """Measure all methods on one graph; curves to ``out``."""
    name, path, run, seeds, out = task
    if out.exists():
        return
    replay = Replay(path)
    model = Ranker.load(run).set_params(n_jobs=1)
    ranked: Order = np.argsort(replay.space.scores(model), kind="stable").tolist()
    methods: dict[str, tuple[int, Callable[[int], Order]]] = {
        "random": (RANDOM_SEEDS, lambda seed: random_order(replay, seed)),
        "TPE": (seeds, lambda seed: tpe(replay, seed)),
        "tune": (seeds, lambda seed: tuned(replay, None, seed)),
        "model alone": (1, lambda _: ranked[:MOST]),
        "tune with model": (seeds, lambda seed: tuned(replay, model, seed)),
    }
    found = {
        method: [best_so_far(replay, order(seed)).tolist() for seed in range(count)]
        for method, (count, order) in methods.items()
    }
    write_json(out, {"collection": name, "graph": path.stem, "curves": found})


def needed(curves: FloatArray) -> FloatArray:
    """Measurements until the slowdown is at most :data:`WITHIN`; ``MOST + 1`` where it never is."""
    reached = curves <= WITHIN
    return np.asarray(np.where(reached.any(axis=-1), reached.argmax(axis=-1) + 1, MOST + 1), np.float64)


def interval(values: FloatArray) -> tuple[float, float]:
    """95 % bootstrap interval of the mean over graphs (the first axis)."""
    drawn = np.random.default_rng(0).choice(values, (RESAMPLES, len(values))).mean(axis=1)
    low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
    return low, high


def with_interval(values: FloatArray, form: str) -> str:
    """The mean with its interval."""
    low, high = interval(values)
    return f"{values.mean():{form}} ({low:{form}}–{high:{form}})"


def sections(curves: dict[str, list[FloatArray]], name: str) -> Iterator[Section]:
    """Tables of one collection; ``curves`` has seeds x measurements per graph, by method."""
    counts = {method: np.array([needed(each).mean() for each in of]) for method, of in curves.items()}
    reached = {method: np.mean([(needed(each) <= MOST).mean() for each in of]) for method, of in curves.items()}
    rows = [
        (
            method,
            with_interval(count, ".1f"),
            f"{count.mean() / counts['random'].mean():.2f}",
            f"{100 * reached[method]:.0f} %",
        )
        for method, count in counts.items()
    ]
    text = NEEDED.format(within=100 * WITHIN, most=MOST, more=MOST + 1)
    yield Section(f"{name}: measurements needed", text, ("search", "needed", "of random's", "reached"), rows)
    means = {method: 100 * np.array([each.mean(axis=0) for each in of]) for method, of in curves.items()}
    table = [(method, *(with_interval(mean[:, count - 1], ".1f") for count in SHOWN)) for method, mean in means.items()]
    yield Section(f"{name}: best so far", CURVES, ("search", *map(str, SHOWN)), table)


def picture(means: dict[str, dict[str, FloatArray]]) -> str:
    """SVG of the mean slowdown [%] of the best so far over the number of measurements, on two logarithmic scales."""
    width, height, lines = 330, 220, []
    for panel, (name, curves) in enumerate(means.items()):
        left, top = 48 + 390 * panel, max(float(curve.mean(axis=0)[0]) for curve in curves.values())
        lines.append(f'<text x="{left}" y="18" font-weight="bold">{name}</text>')

        def y(value: float, top: float = top) -> float:
            return 40 + height * (1 - float(np.log(max(value, 0.1) / 0.1) / np.log(top / 0.1)))

        for value in (0.1, 1, 2, 10, 100):
            if value <= top:
                lines.append(f'<path d="M{left} {y(value):.1f}h{width}" stroke="#808890" stroke-opacity="0.3"/>')
                lines.append(f'<text x="{left - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:g} %</text>')
        for (method, curve), colour in zip(curves.items(), COLOURS, strict=True):
            points = " ".join(
                f"{left + width * np.log(n) / np.log(curve.shape[1]):.1f},{y(value):.1f}"
                for n, value in enumerate(curve.mean(axis=0).tolist(), 1)
            )
            lines.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
            if panel == 0:
                x = 48 + 110 * list(curves).index(method)
                lines.append(f'<text x="{x}" y="300" style="fill:{colour}">{method}</text>')
    head = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 800 310" font-family="sans-serif" font-size="11" '
    return "\n".join([f'{head}fill="#808890">', *lines, "</svg>", ""])


def some_of(paths: list[Path], kind: str, per_family: int | None) -> list[Path]:
    """The first graphs of every family."""
    taken = Counter[str]()
    kept = []
    for path in paths:
        taken[family(kind, path.stem)] += 1
        if per_family is None or taken[family(kind, path.stem)] <= per_family:
            kept.append(path)
    return kept


def trained_run(name: str, data: Path, work: Path) -> Path:
    """Folder of the default model of a collection, trained if it does not exist."""
    run = work / name.replace(":", "-")
    if not (run / "metrics.json").exists():
        train(resolve(name, data), data, work / "store", run, jobs=1)
    return run


def trained_model(name: str, data: Path, work: Path) -> Ranker:
    """The model, on one thread."""
    return Ranker.load(trained_run(name, data, work)).set_params(n_jobs=1)  # type: ignore[no-any-return]


def replayed(name: str, args: argparse.Namespace) -> dict[str, list[FloatArray]]:
    """Curves of one collection by method; graphs measured by an earlier run are kept."""
    subset = resolve(name, args.data)
    run = trained_run(name, args.data, args.work)
    paths = some_of(graph_files(subset, args.data, args.split), subset.kind, args.per_family)
    folder = args.work / f"replay-{args.split}" / name.replace(":", "-")
    tasks = [(name, path, run, args.seeds, folder / f"{path.stem}.json") for path in paths]
    with ProcessPoolExecutor(args.jobs, get_context("spawn")) as pool:
        for count, _ in enumerate(pool.map(one_graph, tasks), 1):
            print(f"{name}: {count} of {len(tasks)} graphs", flush=True)
    found: dict[str, list[FloatArray]] = {method: [] for method in METHODS}
    for *_, out in tasks:
        for method, curves in json.loads(out.read_text())["curves"].items():
            found[method].append(np.array(curves))
    return found


def main() -> None:
    """Replay both collections and leave the page and the picture."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--data", type=Path, default=Path("data"), metavar="ROOT")
    arguments.add_argument("--work", type=Path, default=Path("runs/tune"), metavar="DIR", help="models and curves")
    arguments.add_argument("--split", default="test", choices=("valid", "test"))
    arguments.add_argument("--seeds", type=int, default=10, metavar="N")
    arguments.add_argument("--per-family", type=int, default=None, metavar="N", help="graphs per family (default: all)")
    arguments.add_argument("--only", choices=COLLECTIONS, default=None, help="replay one collection; no page")
    arguments.add_argument("--jobs", type=int, default=2, metavar="N")
    args = arguments.parse_args()
    found = {name: replayed(name, args) for name in ((args.only,) if args.only else COLLECTIONS)}
    if args.only:
        return
    pages: list[Section] = [section for name, curves in found.items() for section in sections(curves, name)]
    graphs = " and ".join(f"{len(next(iter(curves.values())))} graphs of {name}" for name, curves in found.items())
    on: dict[str, Any] = machine("optuna", "scikit-learn", "lightgbm", "xgboost-cpu")
    text = TEXT.format(graphs=graphs, random=RANDOM_SEEDS, seeds=args.seeds, optuna=on["optuna"], startup=STARTUP)
    publish("tune", "Measurements that a search needs", text, pages, on)
    with atomic_write(FOLDER / "tune.svg") as part:
        means = {
            name: {method: 100 * np.array([each.mean(axis=0) for each in of]) for method, of in curves.items()}
            for name, curves in found.items()
        }
        part.write_text(picture(means), encoding="utf-8")


if __name__ == "__main__":
    main()
