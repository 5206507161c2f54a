"""What a report of a prediction says of one graph: how its scores spread, and its best configurations in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gbr.data.graph import N_LAYOUT, Graph, read_graph
from gbr.data.names import layout_text, node_names

#: Best configurations that are told where no number is asked for, and those told at most.
TOP: Final = 10
MOST_TOP: Final = 100
#: Bins of a histogram, and nodes told of one configuration.
_BINS: Final = 40
_MOST_NODES: Final = 60

#: Tile bounds in a configuration: what they cut and where they begin; each has six slots.
_BOUNDS: Final = (("output", 8), ("kernel", 0), ("input", 16))
#: Layouts of a configurable node: of what and where they begin.
_LAYOUTS: Final = (("output", 0), ("input", 6), ("kernel", 12))
_SLOTS: Final = 6


def of_graph(path: Path, configs: NDArray[np.int64], scores: NDArray[np.float64], top: int = TOP) -> dict[str, Any]:
    """Summarise the prediction of one graph, ready for JSON.

    Parameters
    ----------
    path : Path
        The graph file; runtimes in it are not looked at.
    configs : int64 (n,)
        Rows of the file, best first.
    scores : float64 (n,)
        In that order, lower is faster.
    top : int
        Configurations to tell of.

    Returns
    -------
    dict
        ``name``, ``path``, ``kind``, ``n_configs``, ``n_nodes``, ``n_configurable`` (None for ``tile``), ``distinct``
        (scores), ``histogram`` (``counts`` per bin, ``top`` of each bin among the best, ``width`` of all bins in
        standard deviations), ``best`` (``place``, ``config``, ``score``, ``behind`` the first in standard deviations,
        ``says`` and ``nodes``: the configuration).

    Raises
    ------
    DataError
        As :func:`gbr.data.graph.read_graph`.
    """
    graph = read_graph(path)
    top = min(top, MOST_TOP, len(configs))
    spread = float(scores.std()) or 1.0
    return {
        "name": graph.name,
        "path": str(path),
        "kind": graph.kind,
        "n_configs": graph.n_configs,
        "n_nodes": len(graph.node_opcode),
        "n_configurable": None if graph.node_config_ids is None else len(graph.node_config_ids),
        "distinct": len(np.unique(scores)),
        "histogram": _histogram(scores, top, spread),
        "best": [
            {
                "place": place + 1,
                "config": int(configs[place]),
                "score": float(scores[place]),
                "behind": float((scores[place] - scores[0]) / spread),
            }
            | described
            for place, described in enumerate(_described(graph, configs[:top]))
        ],
    }


def _histogram(scores: NDArray[np.float64], top: int, spread: float) -> dict[str, Any]:
    low, high = float(scores.min(initial=np.inf)), float(scores.max(initial=-np.inf))
    if not high > low:  # one bin says it all
        return {"counts": [len(scores)], "top": [top], "width": 0.0}
    counts, edges = np.histogram(scores, bins=_BINS)
    inside, _ = np.histogram(scores[:top], bins=edges)
    return {"counts": counts.tolist(), "top": inside.tolist(), "width": (high - low) / spread}


def _described(graph: Graph, rows: NDArray[np.int64]) -> list[dict[str, Any]]:
    """Each configuration in a line (``says``) and, for a layout, node by node (``nodes``)."""
    if graph.kind == "tile":
        return [{"says": tile_text(row), "nodes": []} for row in graph.configs(rows)]
    assert graph.node_config_ids is not None
    names = node_names(graph.node_opcode)
    nodes = [names[node] for node in graph.node_config_ids.tolist()]
    return [_layout(row, nodes) for row in graph.configs(rows)]


def tile_text(row: NDArray[np.float32]) -> str:
    """Bounds of a tile configuration, float32 (24,), in words: ``output 8×128; input 8×64``."""
    told = []
    for name, first in _BOUNDS:
        bounds = [f"{bound:g}" for bound in row[first : first + _SLOTS].tolist() if bound]
        if bounds:
            told.append(f"{name} {'×'.join(bounds)}")
    return "; ".join(told) or "no bounds"


def layout_texts(row: NDArray[np.int8]) -> str:
    """Layouts of one node, int8 (18,), in words: ``output {1,0}, input {0,1}``; empty where the compiler decides."""
    told = []
    for name, first in _LAYOUTS:
        order = [int(dim) for dim in row[first : first + _SLOTS] if dim >= 0]
        if order:
            told.append(f"{name} {layout_text(order)}")
    return ", ".join(told)


def _layout(row: NDArray[np.int8], nodes: list[str]) -> dict[str, Any]:
    told = [(name, layout_texts(own)) for name, own in zip(nodes, row.reshape(-1, N_LAYOUT), strict=True)]
    chosen = [(name, text) for name, text in told if text]
    says = f"{len(chosen)} of {len(nodes)} nodes set" if chosen else "all left to the compiler"
    return {"says": says, "nodes": chosen[:_MOST_NODES], "more": max(0, len(chosen) - _MOST_NODES)}
