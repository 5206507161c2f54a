"""What a ranker is to be measured against: chance, the compiler's default, raw columns, and the noise of measuring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from gbr.data.groups import QueryGroups, column_indices, unrankable
from gbr.evaluation import metrics
from gbr.models.rows import Rows
from gbr.ranker import Ranker

#: Blocks that hold a graph and its configuration as they come, without geometry, roles or neighbourhoods.
RAW_BLOCKS: Final = ("config", "opcodes", "nodes")
#: The column that is 1 on the configuration that leaves everything to the compiler.
DEFAULT_FLAG: Final = "config.is_default"
#: The column that says how much of the graph a layout configuration touches.
CONFIGURED: Final = "config.configured"


def random_order(slates: QueryGroups, kind: str) -> dict[str, Any]:
    """Expectation over all orders, in the shape of :func:`gbr.evaluation.metrics.evaluate`: tau 0, OPA 1/2, expected slowdowns."""
    constant = metrics.evaluate(np.zeros(len(slates.target)), slates, kind)
    graphs = {name: figures | {"opa": 0.5} for name, figures in constant["graphs"].items()}
    return metrics.summarise(graphs, constant["skipped"], kind) | {"kendall_tau_ci": None}


def default_configuration(slates: QueryGroups, kind: str) -> dict[str, Any] | None:
    """Slowdown of what the compiler does by itself, against the best configuration measured.

    A tile runtime is given with the default's runtime as its normalizer, so the default's target is 1.  A layout
    collection has a row that leaves every layout to the compiler, if that was measured; a column flags it.

    Returns
    -------
    dict or None
        ``slowdown@1`` (mean over graphs), ``graphs``, ``n_graphs``; None where no graph tells its default.
    """
    target = slates.target
    flags = [place for place, name in enumerate(slates.columns) if name == DEFAULT_FLAG]
    graphs: dict[str, dict[str, float]] = {}
    for number, name in enumerate(slates.names):
        rows = slates.rows(number)
        if unrankable(target[rows], slates.duplicate_of[rows]):
            continue
        best = target[rows].min()
        if kind == "tile":
            if slates.normalizer is not None and slates.normalizer[rows].all():
                graphs[name] = {"slowdown@1": float(1 / best - 1)}
        elif flags and (is_default := slates.X[rows, flags[0]] == 1).any():
            graphs[name] = {"slowdown@1": float(target[rows][is_default].min() / best - 1)}
    if not graphs:
        return None
    mean = float(np.mean([figures["slowdown@1"] for figures in graphs.values()]))
    return {"slowdown@1": mean, "graphs": graphs, "n_graphs": len(graphs)}


def fewest_configured(slates: QueryGroups, kind: str) -> dict[str, Any] | None:
    """Rank layouts by counting the nodes that are set, fewest first: what needs no model at all.

    Returns
    -------
    dict or None
        In the shape of :func:`gbr.evaluation.metrics.evaluate`; None where nothing tells how many nodes are set.
    """
    if CONFIGURED not in slates.columns:
        return None
    return metrics.evaluate(slates.X[:, slates.columns.index(CONFIGURED)].astype(np.float64), slates, kind)


def retest(slates: QueryGroups, kind: str) -> dict[str, Any] | None:
    """Rank by a second, independent measurement: what a perfect model of the machine would reach at most.

    Returns
    -------
    dict or None
        In the shape of :func:`gbr.evaluation.metrics.evaluate`; None where no graph was measured twice.
    """
    if slates.repeat is None:
        return None
    twice = slates.take([number for number in range(len(slates)) if slates.repeat[slates.rows(number)].all()])
    if not len(twice):
        return None
    return metrics.evaluate(replace(twice, runtime=twice.repeat).target, twice, kind)


def raw_blocks(columns: Sequence[str]) -> list[str]:
    """Blocks of the plain baseline among those of ``columns``; none where there are no raw configuration columns."""
    blocks = [name for name in RAW_BLOCKS if len(column_indices(columns, name))]
    return blocks if RAW_BLOCKS[0] in blocks else []


def raw_columns(train: QueryGroups, seed: int, n_jobs: int | None) -> Ranker | None:
    """Fit the plain baseline on the raw columns of slates with runtimes; None where there are none."""
    blocks = raw_blocks(train.columns)
    if not blocks:
        return None
    raw = train.select(blocks)
    return fit_raw(Rows(raw.X, raw.target, raw.indptr), raw.columns, seed, n_jobs)


def fit_raw(train: Rows, columns: tuple[str, ...], seed: int, n_jobs: int | None) -> Ranker:
    """Fit the plain baseline: LightGBM as it comes, least squares on the rank within the slate.

    Parameters
    ----------
    train : Rows
        With the columns of :func:`raw_blocks`.
    columns : tuple of str
    seed : int
    n_jobs : int or None
    """
    ranker = Ranker(
        "lightgbm",
        "l2",
        n_estimators=100,
        num_leaves=31,
        learning_rate=0.1,
        min_child_samples=20,
        params={"feature_fraction": 1.0, "bagging_fraction": 1.0, "bagging_freq": 0},
        random_state=seed,
        n_jobs=n_jobs,
    )
    return ranker._fit_rows(train, columns)
