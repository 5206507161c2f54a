"""Baselines that need no model: random order, the compiler's default, the number of configured nodes, and a retest."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import numpy as np

from gbr.data.groups import QueryGroups, unrankable
from gbr.evaluation import metrics

#: Key of a baseline in ``metrics.json`` -> its name in tables.
NAMES: Final = {
    "raw_l2": "raw columns, L2",
    "physics": "physics",
    "fewest_configured": "fewest nodes set",
    "default_configuration": "default config",
    "mean_rank": "mean rank elsewhere",
    "random_order": "random order",
    "retest": "retest",
}
#: Column that is 1 for the compiler's default configuration.
DEFAULT_FLAG: Final = "config.is_default"
#: Column of the share of nodes that a layout configuration sets.
CONFIGURED: Final = "config.configured"
#: Column of the mean rank of the same configuration in the training groups of a table.
MEAN_RANK: Final = "history.mean_rank"
COLUMNS: Final = {DEFAULT_FLAG, CONFIGURED, MEAN_RANK}


def random_order(groups: QueryGroups, kind: str) -> dict[str, Any]:
    """Expected figures of a random order, in the format of :func:`gbr.evaluation.metrics.evaluate`."""
    constant = metrics.evaluate(np.zeros(len(groups.target)), groups, kind)
    graphs = {name: figures | {"opa": 0.5} for name, figures in constant["graphs"].items()}
    return metrics.summarise(graphs, constant["skipped"], kind) | {"kendall_tau_ci": None}


def default_configuration(groups: QueryGroups, kind: str) -> dict[str, Any] | None:
    """Slowdown of the compiler's default configuration, compared with the best measured one.

    The normalizer of tile runtimes is the runtime of the default, so the target of the default is 1.  In a layout
    collection a column marks the row that leaves every layout to the compiler, if it was measured.

    Returns
    -------
    dict or None
        ``slowdown@1`` (mean over graphs), ``graphs``, ``n_graphs``; None if no graph has a default.
    """
    target = groups.target
    flag = groups.columns.index(DEFAULT_FLAG) if DEFAULT_FLAG in groups.columns else None
    graphs: dict[str, dict[str, float]] = {}
    for group, name in enumerate(groups.names):
        rows = groups.rows(group)
        if unrankable(target[rows], groups.duplicate_of[rows]):
            continue
        best = target[rows].min()
        if kind == "tile":
            if groups.normalizer is not None and groups.normalizer[rows].all():
                graphs[name] = {"slowdown@1": float(1 / best - 1)}
        elif flag is not None and (is_default := groups.X[rows, flag] == 1).any():
            graphs[name] = {"slowdown@1": float(target[rows][is_default].min() / best - 1)}
    if not graphs:
        return None
    mean = float(np.mean([figures["slowdown@1"] for figures in graphs.values()]))
    return {"slowdown@1": mean, "graphs": graphs, "n_graphs": len(graphs)}


def fewest_configured(groups: QueryGroups, kind: str) -> dict[str, Any] | None:
    """Figures of layout configurations ranked by the number of nodes that they set; None without that column."""
    if CONFIGURED not in groups.columns:
        return None
    return metrics.evaluate(groups.X[:, groups.columns.index(CONFIGURED)].astype(np.float64), groups, kind)


def mean_rank(groups: QueryGroups, kind: str) -> dict[str, Any] | None:
    """Figures of configurations ranked by their mean rank in the training groups; None if it ranks no group."""
    if MEAN_RANK not in groups.columns:
        return None
    rank = np.nan_to_num(groups.X[:, groups.columns.index(MEAN_RANK)].astype(np.float64), nan=0.5)
    if not any(np.ptp(rank[groups.rows(group)]) for group in range(len(groups))):
        return None
    return metrics.evaluate(rank, groups, kind)


def retest(groups: QueryGroups, kind: str) -> dict[str, Any] | None:
    """Figures of a second, independent measurement, a bound for models; None if no graph was measured twice."""
    if groups.repeat is None:
        return None
    twice = groups.take([group for group in range(len(groups)) if groups.repeat[groups.rows(group)].all()])
    if not len(twice):
        return None
    return metrics.evaluate(replace(twice, runtime=twice.repeat).target, twice, kind)
