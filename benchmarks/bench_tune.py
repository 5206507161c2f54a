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
from numpy.typing import NDArray

from benchmarks._curves import drawing
from benchmarks._results import FOLDER, Section, machine, publish_page
from benchmarks._tpe import tpe
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
TEXT: Final = """\
Replayed on the test splits of the two collections that come with gbr: {graphs}, 96 configurations each, whole families
of which the model has not seen. A measurement is the file's first one, and a configuration is as good as it says.
*random* draws without repetition ({random} seeds). *TPE* is that of optuna {optuna} ({tpe}), over the tile sizes or
the layout of every tensor, restricted to the configurations that were measured: of what it suggests the nearest that
is left is taken, and that one is what it learns from. *tune* is `gbr.tune.Tuner` without a model, *tune with model*
with the default ensemble trained on `train`; *model alone* measures in the order of that model. {seeds} seeds each but
for the model's order, which has none. Constants of the tuner (trees, weight of their disagreement, first ones) were
chosen on graphs of `valid`.

No search is given the default configuration to begin with. In layouts it sets nothing, which lies far from all others:
filling the space finds it within the first four measurements. Within the first ten most of what the model brings is its
order; what was measured corrects it where it errs, and not everywhere soon enough: on gmlp_shallow-grad, where one
configuration in 96 is within 2 %, chance is quicker.

![Slowdown of the best so far](tune.svg)"""
NEEDED: Final = """\
Measurements until one is within {within:.0f} % of the fastest of the file, mean over graphs and seeds with a 95 %
bootstrap interval over graphs; a search is followed for {most} measurements, and one that has not got there counts as
{more}."""
CURVES: Final = """\
How much slower than the fastest configuration of the file the best so far is [%], mean over graphs and seeds, with
a 95 % bootstrap interval over graphs."""


def random_order(replay: Replay, seed: int) -> Order:
    """All configurations, shuffled."""
    return [int(row) for row in np.random.default_rng(seed).permutation(len(replay.space))][:MOST]


def tuned(replay: Replay, model: Ranker | None, seed: int) -> Order:
    """What a tuner asks for, one by one, until it has the fastest."""
    tuner, best = Tuner(replay.space, model, seed=seed), replay.runtime.min()
    order: Order = []
    while len(order) < MOST and (asked := tuner.ask()):
        order += asked
        runtimes = [replay(config) for config in asked]
        tuner.tell(asked, runtimes)
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
        "TPE": (seeds, lambda seed: tpe(replay, seed, MOST)),
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
    there = curves <= WITHIN
    return np.asarray(np.where(there.any(axis=-1), there.argmax(axis=-1) + 1, MOST + 1), np.float64)


def interval(values: FloatArray) -> tuple[float, float]:
    """95 % bootstrap interval of the mean over graphs (the first axis)."""
    drawn = np.random.default_rng(0).choice(values, (RESAMPLES, len(values))).mean(axis=1)
    low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
    return low, high


def told(values: FloatArray, form: str) -> str:
    """The mean with its interval."""
    low, high = interval(values)
    return f"{values.mean():{form}} ({low:{form}}–{high:{form}})"


def sections(curves: dict[str, list[FloatArray]], name: str) -> Iterator[Section]:
    """Tables of one collection; ``curves`` has seeds x measurements per graph, by method."""
    counts = {method: np.array([needed(each).mean() for each in of]) for method, of in curves.items()}
    reached = {method: np.mean([(needed(each) <= MOST).mean() for each in of]) for method, of in curves.items()}
    rows = [
        (method, told(count, ".1f"), f"{count.mean() / counts['random'].mean():.2f}", f"{100 * reached[method]:.0f} %")
        for method, count in counts.items()
    ]
    text = NEEDED.format(within=100 * WITHIN, most=MOST, more=MOST + 1)
    yield Section(f"{name}: measurements needed", text, ("search", "needed", "of random's", "got there"), rows)
    means = {method: 100 * np.array([each.mean(axis=0) for each in of]) for method, of in curves.items()}
    table = [(method, *(told(mean[:, count - 1], ".1f") for count in SHOWN)) for method, mean in means.items()]
    yield Section(f"{name}: best so far", CURVES, ("search", *map(str, SHOWN)), table)


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
    """Folder of the default model of a collection, trained where it is not there."""
    run = work / name.replace(":", "-")
    if not (run / "metrics.json").exists():
        train(resolve(name, data), data, work / "store", run, jobs=1)
    return run


def trained_model(name: str, data: Path, work: Path) -> Ranker:
    """The model, on one thread."""
    return Ranker.load(trained_run(name, data, work)).set_params(n_jobs=1)  # type: ignore[no-any-return]


def replayed(name: str, args: argparse.Namespace) -> dict[str, list[FloatArray]]:
    """Curves of one collection by method; graph after graph, those that are there already are kept."""
    subset = resolve(name, args.data)
    run = trained_run(name, args.data, args.work)
    paths = some_of(graph_files(subset, args.data, args.split), subset.kind, args.per_family)
    folder = args.work / f"replay-{args.split}" / name.replace(":", "-")
    tasks = [(name, path, run, args.seeds, folder / f"{path.stem}.json") for path in paths]
    with ProcessPoolExecutor(args.jobs, get_context("spawn")) as pool:
        for place, _ in enumerate(pool.map(one_graph, tasks), 1):
            print(f"{name}: {place} of {len(tasks)} graphs", flush=True)
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
    text = TEXT.format(graphs=graphs, random=RANDOM_SEEDS, seeds=args.seeds, optuna=on["optuna"], tpe=tpe.__doc__)
    publish_page("tune", "Measurements that a search needs", text, pages, on)
    with atomic_write(FOLDER / "tune.svg") as part:
        means = {
            name: {method: 100 * np.array([each.mean(axis=0) for each in of]) for method, of in curves.items()}
            for name, curves in found.items()
        }
        part.write_text(drawing(means, interval), encoding="utf-8")


if __name__ == "__main__":
    main()
