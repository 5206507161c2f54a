"""The evaluation protocol of the TpuGraphs scripts, for figures that can be compared with published ones.

Tile: the error of the best of the first K for K = 1, 5, 10 per kernel, then per benchmark, then over benchmarks
(``tiles_evaluate.py`` and ``baselines/tiles/metrics.py``).  Layout: Kendall's tau and the same error for K = 1, 10, 100
on 1000 listed configurations of each validation graph (``layout_evaluate.py`` and ``baselines/layout/eval_indices``).
All of https://github.com/google-research-datasets/tpu_graphs, Apache-2.0.

As in those scripts, and unlike in :mod:`gbr.evaluation.metrics`, equal scores keep the order of the file, and a tile
kernel counts even if all its runtimes are equal.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gbr.data.collection import OFFICIAL, Subset, family
from gbr.data.files import parse_json
from gbr.data.groups import QueryGroups, unrankable
from gbr.errors import DataError, UsageError
from gbr.evaluation import metrics

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Folder below the data root that holds the listed configurations.
FOLDER: Final = "eval_indices"
#: Split whose configurations are listed.
SPLIT: Final = "valid"
#: Values of K per kind of collection.
TOP: Final[dict[str, tuple[int, ...]]] = {"tile": (1, 5, 10), "layout": (1, 10, 100)}

#: The scripts leave out kernels with fewer configurations.
_FEWEST_CONFIGS: Final = 2

TableOf = tuple[str, list[str], list[list[object]]]


def indices_of(subset: Subset, split: str, folder: Path) -> dict[str, IntArray] | None:
    """Read which configurations of each graph the protocol scores; None for tile, where it scores all.

    ``folder`` holds ``xla_default.json``, ``xla_random.json``, ``nlp_default.json``, ``nlp_random.json``: graph -> row
    indices, which may repeat.

    Returns
    -------
    dict of int64 (listed,), or None

    Raises
    ------
    UsageError
        For a collection or a split that has no list.
    DataError
        When the file is missing or malformed.
    """
    if subset.kind == "tile":
        return None
    if subset.name not in OFFICIAL["layout"]:
        raise UsageError(
            f"--protocol official: {subset.name} has no listed configurations, only TpuGraphs collections have; "
            "use --protocol full"
        )
    if split != SPLIT:
        raise UsageError(
            f"--protocol official: configurations are listed for {SPLIT}, not for {split}; use --split {SPLIT}"
        )
    path = folder / f"{'_'.join(subset.parts[1:])}.json"
    advice = "run `python -m gbr.download eval-indices`, or pass its folder as --indices"
    try:
        found = parse_json(path.read_bytes())
    except OSError as fault:
        raise DataError(f"{path}: cannot be read ({fault.strerror or fault}); {advice}") from fault
    except ValueError as fault:
        raise DataError(f"{path}: invalid JSON ({fault}); {advice}") from fault
    if not isinstance(found, dict) or not found:
        raise DataError(f"{path}: expected an object of graph -> list of row indices; {advice}")
    for name, rows in found.items():
        if not isinstance(rows, list) or not rows or not all(type(row) is int and row >= 0 for row in rows):
            raise DataError(f"{path}: {name}: expected a list of row indices; {advice}")
    return {name: np.array(rows, np.int64) for name, rows in found.items()}


def evaluate(
    scores: FloatArray, groups: QueryGroups, kind: str, indices: Mapping[str, IntArray] | None = None
) -> dict[str, Any]:
    """Score the predicted order of every group as the official scripts do.

    Parameters
    ----------
    scores : float64 (rows,)
        Lower is predicted faster; for all configurations, also those that are not listed.
    groups : QueryGroups
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
        over those) and ``unrankable`` (stem -> why its configurations cannot be ranked; these graphs count).  Layout
        also: ``kendall_tau`` with its interval, ``repeated`` (stem -> number of distinct rows, if the list
        repeats some) and ``absent`` (listed graphs that are missing).

    Raises
    ------
    DataError
        When a listed row is out of range.
    """
    target = groups.target
    graphs: dict[str, dict[str, float]] = {}
    skipped: dict[str, str] = {}
    unranked: dict[str, str] = {}
    repeated: dict[str, int] = {}
    for group, name in enumerate(groups.names):
        rows = np.arange(groups.indptr[group], groups.indptr[group + 1])
        if indices is not None:
            if name not in indices:
                skipped[name] = "none of its configurations are listed"
                continue
            if indices[name].max() >= len(rows):
                raise DataError(
                    f"{name}: listed row {indices[name].max()} is out of range, the graph has {len(rows)}; "
                    "download graphs and lists of the same collection"
                )
            rows = rows[indices[name]]
            if (distinct := len(np.unique(rows))) < len(rows):
                repeated[name] = distinct
        if reason := unrankable(target[rows], groups.duplicate_of[rows]):
            if kind == "layout" or len(rows) < _FEWEST_CONFIGS:
                skipped[name] = reason
                continue
            unranked[name] = reason
        tau = {"kendall_tau": metrics.kendall_tau(scores[rows], target[rows])} if kind == "layout" else {}
        # Equal scores in the order of the rows, as tf.argsort sorts.
        ordered, best = target[rows[np.argsort(scores[rows], kind="stable")]], float(target[rows].min())
        graphs[name] = tau | {f"slowdown@{k}": (float(ordered[:k].min()) - best) / best for k in TOP[kind]}
    found = _means(graphs.values(), kind) | {
        "score": metrics.score(kind, graphs.values()) if graphs else None,
        "graphs": graphs,
        "n_graphs": len(graphs),
        "skipped": skipped,
    }
    if kind == "layout":
        taus = [graph["kendall_tau"] for graph in graphs.values()]
        interval = metrics.bootstrap_interval(taus, [family(kind, name) for name in graphs])
        absent = sorted(set(indices or ()) - set(groups.names))
        return found | {"kendall_tau_ci": interval, "repeated": repeated, "absent": absent}
    benchmarks: dict[str, list[dict[str, float]]] = defaultdict(list)
    for name, figures in graphs.items():
        benchmarks[name.rsplit("_", 1)[0]].append(figures)
    by_benchmark = {
        name: _means(kernels, kind) | {"n_graphs": len(kernels)} for name, kernels in sorted(benchmarks.items())
    }
    means = _means(by_benchmark.values(), kind)
    return found | {"over_benchmarks": means, "benchmarks": by_benchmark, "unrankable": unranked}


def tables(found: Mapping[str, Any], subset: Subset, split: str) -> Iterator[TableOf]:
    """Tables of the figures of :func:`evaluate`: title, columns, rows."""
    names = _names(subset.kind)
    columns = ["", *(name.removeprefix("slowdown").replace("kendall_tau", "tau") for name in names)]
    title = f"{subset.name} {split}, official protocol: {found['n_graphs']} graphs"

    def row(name: str, figures: Mapping[str, Any]) -> list[object]:
        return [name, *(figures[each] for each in names)]

    if subset.kind == "tile":
        means = [row("mean over benchmarks", found["over_benchmarks"]), row("mean over kernels", found)]
        rows = [row(f"{name} ({figures['n_graphs']})", figures) for name, figures in found["benchmarks"].items()]
        yield f"{title}, {len(rows)} benchmarks  (@K: top-K error)", columns, means
        yield "Top-K error by benchmark (kernels)", columns, rows
    else:
        rows = [row(name, figures) for name, figures in (*found["graphs"].items(), ("mean", found))]
        yield f"{title}  (@K: slowdown@K on the listed configurations)", columns, rows


def notes(found: Mapping[str, Any]) -> Iterator[str]:
    """Messages on graphs that are missing or do not count."""
    if absent := found.get("absent"):
        yield f"{len(absent)} listed graphs are missing or left out (first: {absent[0]})"
    for name, reason in found["skipped"].items():
        yield f"{name} does not count in the official protocol: {reason}"
    for name, distinct in found.get("repeated", {}).items():
        yield f"{name}: the official list repeats rows, {distinct} are distinct"


def _names(kind: str) -> list[str]:
    return [*(["kendall_tau"] if kind == "layout" else []), *(f"slowdown@{k}" for k in TOP[kind])]


def _means(figures: Collection[Mapping[str, Any]], kind: str) -> dict[str, Any]:
    return {name: float(np.mean([one[name] for one in figures])) if figures else None for name in _names(kind)}
