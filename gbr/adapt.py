"""Scores of all configurations of one graph, from a few measured ones.

The choices of a configuration (the layout of a tensor, the bound of a loop) become indicators;
:mod:`gbr.models.within` predicts ranks from these and the engineered columns.  The order of a fitted ranker is used as
well: it is scaled by its agreement with the measurements, and its weight decreases as measurements are added.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from gbr.data.build import extract
from gbr.data.graph import N_LAYOUT, Graph, read_graph
from gbr.errors import UsageError
from gbr.models.arrays import numbers, present

if TYPE_CHECKING:
    from features.hardware import Hardware
    from gbr.ranker import Ranker

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Minimum number of different measured configurations.
LEAST: Final = 5

_ROWS_AT_ONCE: Final = 4096
_BLOCK_BYTES: Final = 4 << 20


@dataclass(frozen=True, eq=False)
class Adapted:
    """Scores of all configurations of one graph.

    Parameters
    ----------
    scores : float64 (c,)
        Predicted rank, about -1/2 for the fastest to 1/2 for the slowest of the measured ones.
    n_measured : int
        Number of different measured configurations.
    trust : float
        Slope of the measured ranks over the ranks of the ranker's order; 0 without a ranker, or where it misleads.
    """

    scores: FloatArray
    n_measured: int
    trust: float

    def predict(self) -> FloatArray:
        """Scores that read like runtimes, float64 (c,): lower is predicted faster.  Only their order has meaning.

        Measured configurations are scored by the model as well, which smooths the noise of single runs.
        """
        return self.scores.copy()

    def rank(self) -> IntArray:
        """Configurations by score, int64 (c,), best first; ties in file order."""
        return np.argsort(self.scores, kind="stable").astype(np.int64)


def fit_within(
    graph: Graph | str | os.PathLike[str],
    configs: Any,
    runtimes: Any,
    *,
    ranker: Ranker | None = None,
    hardware: Hardware | None = None,
    random_state: int = 0,
) -> Adapted:
    """Score the configurations of a graph by measured ones, and by the order predicted by a ranker if there is one.

    Parameters
    ----------
    graph : Graph or path-like
        Of either kind; runtimes stored with it are ignored.
    configs : array-like of int (m,)
        Indices of the measured configurations, in any order.  Runtimes of equal configurations are averaged.
    runtimes : array-like (m,)
        In any unit, lower is faster.
    ranker : Ranker, optional
        Trained by ``python -m gbr.train``.
    hardware : Hardware, optional
        The measured machine, without a ranker; :data:`features.hardware.CPU` by default.
    random_state : int
        Seed of the trees.

    Raises
    ------
    UsageError
        When lengths differ, an index is out of range, a runtime is missing or not finite, all are equal, or fewer than
        :data:`LEAST` different configurations were measured.
    DataError
        When the graph's file is missing, damaged or violates its format.
    ModelError
        When the ranker was not trained by ``python -m gbr.train``, or on other features.
    """
    from gbr.models import within  # imports scikit-learn's ensembles, which a ranker does not need

    if ranker is not None:
        hardware = ranker.hardware
    graph = graph if isinstance(graph, Graph) else read_graph(Path(graph))
    rows, target = _measured(graph, configs, runtimes)
    schema, X, duplicate_of = extract(graph, hardware)
    scores = np.zeros(len(X)) if ranker is None else ranker.predict_rows(X[:, ranker.columns_in(schema, graph.source)])
    rows, inverse, counts = np.unique(duplicate_of[rows], return_inverse=True, return_counts=True)
    target = np.bincount(inverse, target) / counts
    if len(rows) < LEAST:
        raise UsageError(f"configs: expected at least {LEAST} different configurations, got {len(rows)}")
    if not np.ptp(target):
        raise UsageError(
            f"runtimes: expected different values, got {target[0]:g} for all configurations; measure others"
        )
    X = X[:, X.max(axis=0) > X.min(axis=0)]
    order = within.ranks(scores) if np.ptp(scores) else np.zeros(len(X))
    chosen = within.choices(graph.kind, graph.configs(rows))
    regressor = within.Regressor(X, order, rows, chosen, within.ranks(target), random_state)
    # Choices of a block, and its kernel with the measured rows, must fit in memory.
    nodes = 1 if graph.node_config_ids is None else len(graph.node_config_ids)
    n_rows = max(1, min(_ROWS_AT_ONCE, _BLOCK_BYTES // (nodes * N_LAYOUT)))
    parts = [
        regressor(X[first : first + len(block)], within.choices(graph.kind, block), order[first : first + len(block)])
        for first, block in graph.config_blocks(n_rows)
    ]
    return Adapted(np.concatenate(parts), len(rows), regressor.trust)


def _measured(graph: Graph, configs: Any, runtimes: Any) -> tuple[IntArray, FloatArray]:
    """Validated indices and runtimes of the measured configurations."""
    rows = present(configs, "configs")
    if rows.ndim != 1 or rows.dtype.kind not in "iu":
        raise UsageError(f"configs: expected a list of indices, got {rows.dtype} of shape {rows.shape}")
    target = numbers(runtimes, "runtimes").astype(np.float64)
    if target.shape != rows.shape:
        raise UsageError(f"runtimes: expected shape {rows.shape}, one per configuration, got {target.shape}")
    for name, wrong, expected in (
        (
            "configs",
            (rows < 0) | (rows >= graph.n_configs),
            f"0 to {graph.n_configs - 1}, as in {graph.source}",
        ),
        ("runtimes", ~np.isfinite(target) | (target < 0), "finite, positive numbers (leave out what was not measured)"),
    ):
        if wrong.any():
            position = int(wrong.argmax())
            value = (rows if name == "configs" else target)[position]
            raise UsageError(f"{name}: expected {expected}; got {value} at position {position}")
    return rows.astype(np.int64), target
