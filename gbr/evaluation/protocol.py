"""The protocol of TpuGraphs' own evaluation scripts, for figures that stand beside published ones.

Tile: the error of the best of the first K for K = 1, 5, 10 per kernel, then per benchmark, then over benchmarks
(``tiles_evaluate.py`` and ``baselines/tiles/metrics.py``).  Layout: Kendall's tau and the same error for K = 1, 10, 100
on 1000 listed configurations of each validation graph (``layout_evaluate.py`` and ``baselines/layout/eval_indices``).
All of https://github.com/google-research-datasets/tpu_graphs, Apache-2.0.

Two things are as in those scripts and unlike :mod:`gbr.evaluation.metrics`: equal scores keep the order of the file, and a tile
kernel counts even where nothing tells its configurations apart.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gbr.data.collection import OFFICIAL, Subset
from gbr.data.files import parse_json
from gbr.data.groups import QueryGroups, unrankable
from gbr.errors import DataError, UsageError
from gbr.evaluation import metrics

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Folder below the data root that holds the listed configurations.
FOLDER: Final = "eval_indices"
#: The split whose configurations are listed.
SPLIT: Final = "valid"
#: Values of K per kind of collection.
TOP: Final[dict[str, tuple[int, ...]]] = {"tile": (1, 5, 10), "layout": (1, 10, 100)}

#: The scripts leave out kernels with fewer configurations.
_LEAST: Final = 2

TableOf = tuple[str, list[str], list[list[object]]]


def indices_of(subset: Subset, split: str, folder: Path) -> dict[str, IntArray] | None:
    """The configurations that the protocol scores of each graph; None where it scores all, which is for tile.

    Parameters
    ----------
    subset : Subset
    split : str
    folder : Path
        Holds ``xla_default.json``, ``xla_random.json``, ``nlp_default.json``, ``nlp_random.json``: graph -> row
        numbers, which may repeat.

    Returns
    -------
    dict of int64 (listed,), or None

    Raises
    ------
    UsageError
        For a collection or a split that has no list.
    DataError
        When the file is missing or is no such list.
    """
    if subset.kind == "tile":
        return None
    if subset.name not in OFFICIAL["layout"]:
        raise UsageError(
            f"--protocol official: {subset.name} has no listed configurations, only those of TpuGraphs have; "
            "take --protocol full"
        )
    if split != SPLIT:
        raise UsageError(
            f"--protocol official: configurations are listed for {SPLIT}, not for {split}; take --split {SPLIT}"
        )
    path = folder / f"{'_'.join(subset.parts[1:])}.json"
    try:
        found = parse_json(path.read_bytes())
    except OSError as fault:
        raise DataError(
            f"{path}: cannot be read ({fault.strerror or fault}); run `python -m gbr.download eval-indices`, or name "
            "the folder that has it with --indices"
        ) from fault
    except ValueError as fault:
        raise DataError(f"{path}: no JSON ({fault}); fetch it again: python -m gbr.download eval-indices") from fault
    return _checked(found, path)


def _checked(found: Any, path: Path) -> dict[str, IntArray]:
    if not isinstance(found, dict) or not found:
        raise DataError(f"{path}: holds no graphs; want an object of graph -> list of row numbers")
    for name, rows in found.items():
        whole = isinstance(rows, list) and rows and all(type(row) is int and 0 <= row < 1 << 62 for row in rows)
        if not whole:
            raise DataError(f"{path}: {name}: want a list of row numbers from 0 on; fetch the file again")
    return {name: np.array(rows, np.int64) for name, rows in found.items()}


def evaluate(
    scores: FloatArray, slates: QueryGroups, kind: str, indices: Mapping[str, IntArray] | None = None
) -> dict[str, Any]:
    """Score an order of every slate as the official scripts do.

    Parameters
    ----------
    scores : float64 (rows,)
        Lower is predicted faster.  Of the whole slates: features that compare a configuration with the others of its
        graph have seen all of them, whichever are listed.
    slates : QueryGroups
        With runtimes.
    kind : str
        ``tile`` or ``layout``.
    indices : mapping of int64 (listed,), optional
        Of :func:`indices_of`; needed for ``layout``.

    Returns
    -------
    dict
        ``slowdown@<K>`` (means over graphs), ``score``, ``graphs`` (stem -> figures), ``n_graphs``, ``skipped`` (stem
        -> reason).  Tile also: ``benchmarks`` (name -> ``slowdown@<K>`` and ``n_graphs``), ``over_benchmarks`` (means
        over those) and ``unrankable`` (stem -> why nothing tells its configurations apart; these count).  Layout also:
        ``kendall_tau`` with its interval, ``repeated`` (stem -> number of distinct rows where the list repeats some)
        and ``absent`` (listed graphs that are not there).

    Raises
    ------
    DataError
        When a listed row is none of the graph.
    """
    if kind == "tile":
        return _tile(scores, slates)
    assert indices is not None
    return _layout(scores, slates, indices)


def top_error(scores: FloatArray, target: FloatArray, k: int) -> float:
    """(Best of the first ``k`` - best) / best, equal scores in the order of the rows.

    That is what ``tf.argsort`` gives the official scripts: it stands on ``tf.math.top_k``, which puts the lower index
    first.
    """
    best = float(target.min())
    return (float(target[np.argsort(scores, kind="stable")[:k]].min()) - best) / best


def _tile(scores: FloatArray, slates: QueryGroups) -> dict[str, Any]:
    target = slates.target
    graphs: dict[str, dict[str, float]] = {}
    skipped: dict[str, str] = {}
    unranked: dict[str, str] = {}
    benchmarks: dict[str, list[dict[str, float]]] = defaultdict(list)
    for number, name in enumerate(slates.names):
        rows = slates.rows(number)
        why = unrankable(target[rows], slates.duplicate_of[rows])
        if why:
            left_out = slates.sizes[number] < _LEAST
            (skipped if left_out else unranked)[name] = why
            if left_out:
                continue
        graphs[name] = _errors(scores[rows], target[rows], "tile")
        benchmarks[name.rsplit("_", 1)[0]].append(graphs[name])
    names = _names("tile")
    by_benchmark = {benchmark: _means(kernels, names) for benchmark, kernels in sorted(benchmarks.items())}
    return {
        **_means(graphs.values(), names),
        "score": metrics.score("tile", graphs.values()) if graphs else None,
        "over_benchmarks": _means(by_benchmark.values(), names),
        "benchmarks": {name: found | {"n_graphs": len(benchmarks[name])} for name, found in by_benchmark.items()},
        "graphs": graphs,
        "n_graphs": len(graphs),
        "skipped": skipped,
        "unrankable": unranked,
    }


def _layout(scores: FloatArray, slates: QueryGroups, indices: Mapping[str, IntArray]) -> dict[str, Any]:
    target = slates.target
    graphs: dict[str, dict[str, float]] = {}
    skipped: dict[str, str] = {}
    repeated: dict[str, int] = {}
    for number, name in enumerate(slates.names):
        if name not in indices:
            skipped[name] = "no configurations of it are listed"
            continue
        if indices[name].max() >= slates.sizes[number]:
            raise DataError(
                f"{name}: configuration {indices[name].max()} is listed, the graph has {slates.sizes[number]}; "
                "fetch graphs and lists of one collection"
            )
        rows = slates.indptr[number] + indices[name]
        distinct = len(np.unique(rows))
        if distinct < len(rows):
            repeated[name] = distinct
        why = unrankable(target[rows], slates.duplicate_of[rows])
        if why:
            skipped[name] = why
            continue
        tau = metrics.kendall_tau(scores[rows], target[rows])
        graphs[name] = {"kendall_tau": tau, **_errors(scores[rows], target[rows], "layout")}
    means = _means(graphs.values(), ("kendall_tau", *_names("layout")))
    return {
        "kendall_tau": means.pop("kendall_tau"),
        "kendall_tau_ci": metrics.bootstrap_interval(graph["kendall_tau"] for graph in graphs.values()),
        **means,
        "score": metrics.score("layout", graphs.values()) if graphs else None,
        "graphs": graphs,
        "n_graphs": len(graphs),
        "skipped": skipped,
        "repeated": repeated,
        "absent": sorted(set(indices) - set(slates.names)),
    }


def tables(found: Mapping[str, Any], subset: Subset, split: str) -> Iterator[TableOf]:
    """Tables for a terminal of what :func:`evaluate` gave, as :func:`gbr.cli.table` takes them."""
    names = _names(subset.kind)
    columns = [name.removeprefix("slowdown") for name in names]
    title = f"{subset.name} {split}, official protocol: {found['n_graphs']} graphs"
    if subset.kind == "tile":
        rows = [
            [f"{name} ({figures['n_graphs']})", *_of(figures, names)] for name, figures in found["benchmarks"].items()
        ]
        means: list[list[object]] = [
            ["mean over benchmarks", *_of(found["over_benchmarks"], names)],
            ["mean over kernels", *_of(found, names)],
        ]
        yield f"{title}, {len(rows)} benchmarks  (@K: top-K error)", ["", *columns], means
        yield "Top-K error by benchmark (kernels)", ["", *columns], rows
        return
    taken = ("kendall_tau", *names)
    rows = [[name, *_of(figures, taken)] for name, figures in found["graphs"].items()]
    rows.append(["mean", *_of(found, taken)])
    yield f"{title}  (@K: slowdown@K on the listed configurations)", ["", "tau", *columns], rows


def notes(found: Mapping[str, Any]) -> Iterator[str]:
    """What is to be told beside the figures: listed graphs that are not there, and what else does not count."""
    if absent := found.get("absent"):
        yield f"{len(absent)} listed graphs are not there or left out (first: {absent[0]})"
    for name, why in found["skipped"].items():
        yield f"{name} does not count in the official protocol: {why}"
    for name, distinct in found.get("repeated", {}).items():
        yield f"{name}: the official list repeats rows, {distinct} of them are distinct"


def _errors(scores: FloatArray, target: FloatArray, kind: str) -> dict[str, float]:
    return {f"slowdown@{k}": top_error(scores, target, k) for k in TOP[kind]}


def _names(kind: str) -> tuple[str, ...]:
    return tuple(f"slowdown@{k}" for k in TOP[kind])


def _means(figures: Collection[Mapping[str, Any]], names: Sequence[str]) -> dict[str, float | None]:
    return {name: float(np.mean([one[name] for one in figures])) if figures else None for name in names}


def _of(figures: Mapping[str, Any], names: Sequence[str]) -> list[Any]:
    return [figures[name] for name in names]
