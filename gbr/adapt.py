"""Scores for all configurations of one graph, learned from a few of them that were measured.

What the configurations of a graph choose, the layout of a tensor or the bound of a loop, becomes an indicator beside
the engineered columns.  Two unlike learners take both and are averaged: randomised trees (Geurts, Ernst and Wehenkel,
"Extremely randomized trees", 2006), which find the few choices that act together, and kernel ridge regression, which
adds up many small effects and picks its ridge by the exact leave-one-out error.  Both learn ranks.

A fitted ranker knows an order before anything is measured.  It is scaled by how well the measurements agree with it,
and what it leaves over is learned; its weight falls as measurements come in.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from gbr.models.within import Learner, choices, ranks
from gbr.data.build import Features, extract
from gbr.data.graph import N_LAYOUT, Graph, read_graph
from gbr.errors import ModelError, UsageError

if TYPE_CHECKING:
    from features.hardware import Hardware
    from gbr.ranker import Ranker

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Different configurations to measure at least.
LEAST: Final = 5

_ROWS_AT_ONCE: Final = 4096
_BLOCK_BYTES: Final = 4 << 20


class Adapted:
    """Scores of all configurations of one graph.

    Parameters
    ----------
    scores : float64 (c,)
        Predicted rank, about -1/2 for the fastest to 1/2 for the slowest of those measured.
    n_measured : int
        Different configurations that were learned from.
    trust : float
        Slope of the measured ranks over the ranks of the ranker's order; 0 without a ranker, or where it misleads.
    """

    def __init__(self, scores: FloatArray, n_measured: int, trust: float) -> None:
        self._scores = scores
        self.n_measured = n_measured
        self.trust = trust

    def predict(self) -> FloatArray:
        """Scores that read like runtimes, float64 (c,): lower is predicted faster.  Only their order has meaning.

        Configurations that were measured are scored by the model as well, which smooths the noise of single runs.
        """
        return self._scores.copy()

    def rank(self) -> IntArray:
        """Configurations by score, int64 (c,), best first; ties as in the file."""
        return np.argsort(self._scores, kind="stable").astype(np.int64)


def fit_within(
    graph: Graph | str | os.PathLike[str],
    configs: Any,
    runtimes: Any,
    *,
    hardware: Hardware | None = None,
    random_state: int = 0,
) -> Adapted:
    """Learn to score the configurations of a graph from measured ones alone.

    Parameters
    ----------
    graph : Graph or path-like
        Of either kind; its own runtimes are not looked at.
    configs : array-like of int (m,)
        Rows of the measured configurations among those of the graph, in any order.  Runtimes of equal configurations
        are averaged.
    runtimes : array-like (m,)
        In any unit, lower is faster.
    hardware : Hardware, optional
        The machine that was measured; :data:`features.hardware.CPU` by default.
    random_state : int
        Seed of the trees.

    Returns
    -------
    Adapted

    Raises
    ------
    UsageError
        When the two differ in length, a row is out of range, a runtime is not finite, all are equal, or fewer than
        :data:`LEAST` different configurations were measured; names the first offender.
    DataError
        When the graph's file is missing, torn or breaks its format.
    """
    graph = _as_graph(graph)
    rows, target = _measured(graph, configs, runtimes)
    return _fit(graph, extract(graph, hardware), rows, target, None, random_state)


def fit_with(
    ranker: Ranker, graph: Graph | str | os.PathLike[str], configs: Any, runtimes: Any, *, random_state: int = 0
) -> Adapted:
    """Learn to score the configurations of a graph from measured ones and the order a ranker expects.

    Parameters
    ----------
    ranker : Ranker
        Trained by ``python -m gbr.train``.
    graph, configs, runtimes, random_state
        As for :func:`fit_within`.

    Returns
    -------
    Adapted

    Raises
    ------
    ModelError
        When the ranker was not trained by ``python -m gbr.train``, or on other features.
    UsageError, DataError
        As :func:`fit_within`.
    """
    if getattr(ranker, "trained_on_", None) is None:
        raise ModelError(
            "this model knows no graphs; train one with `python -m gbr.train`, or use gbr.adapt.fit_within"
        )
    graph = _as_graph(graph)
    rows, target = _measured(graph, configs, runtimes)
    features = schema, X, _ = extract(graph, ranker.hardware(graph.source))
    scores = ranker.predict(X[:, ranker.places(schema, graph.source)])
    return _fit(graph, features, rows, target, scores, random_state)


def _fit(
    graph: Graph, features: Features, rows: IntArray, target: FloatArray, scores: FloatArray | None, seed: int
) -> Adapted:
    _, X, duplicate_of = features
    rows, target = _averaged(duplicate_of[rows], target)
    if len(rows) < LEAST:
        raise UsageError(f"configs: {len(rows)} different configurations, want at least {LEAST}; measure more of them")
    if not np.ptp(target):
        raise UsageError("runtimes: all are equal; there is no order to learn")
    X = X[:, X.max(axis=0) > X.min(axis=0)]
    order = np.zeros(len(X)) if scores is None or not np.ptp(scores) else ranks(scores)
    learner = Learner(X, order, rows, _choices_of(graph, rows), ranks(target), seed)
    parts = [
        learner(X[first : first + len(block)], choices(graph.kind, block), order[first : first + len(block)])
        for first, block in _blocks(graph)
    ]
    return Adapted(np.concatenate(parts), len(rows), learner.trust)


def _blocks(graph: Graph) -> Iterator[tuple[int, NDArray[Any]]]:
    """Configurations in blocks whose choices and likeness to the measured ones fit into memory."""
    nodes = 1 if graph.node_config_ids is None else len(graph.node_config_ids)
    return graph.config_blocks(max(1, min(_ROWS_AT_ONCE, _BLOCK_BYTES // (nodes * N_LAYOUT))))


def _choices_of(graph: Graph, rows: IntArray) -> NDArray[Any]:
    """Choices of some rows; ``rows`` ascend."""
    parts = []
    for first, block in _blocks(graph):
        inside = rows[np.searchsorted(rows, first) : np.searchsorted(rows, first + len(block))]
        parts.append(choices(graph.kind, block[inside - first]))
    return np.concatenate(parts)


def _averaged(rows: IntArray, target: FloatArray) -> tuple[IntArray, FloatArray]:
    """Distinct rows, ascending, and the mean of each one's targets."""
    distinct, inverse, counts = np.unique(rows, return_inverse=True, return_counts=True)
    return distinct, np.bincount(inverse, target) / counts


def _as_graph(graph: Graph | str | os.PathLike[str]) -> Graph:
    return graph if isinstance(graph, Graph) else read_graph(Path(graph))


def _measured(graph: Graph, configs: Any, runtimes: Any) -> tuple[IntArray, FloatArray]:
    rows = np.asarray(configs)
    if rows.ndim != 1 or rows.dtype.kind not in "iu":
        raise UsageError(f"configs: got {rows.dtype} of shape {rows.shape}, want a list of row numbers")
    try:
        target = np.asarray(runtimes, np.float64)
    except (TypeError, ValueError) as fault:
        raise UsageError(f"runtimes: {fault}; want numbers") from fault
    if target.shape != rows.shape:
        raise UsageError(f"runtimes: got shape {target.shape}, want {rows.shape}: one for each of configs")
    outside = (rows < 0) | (rows >= graph.n_configs)
    if outside.any():
        at = int(outside.argmax())
        raise UsageError(f"configs: {rows[at]} at {at}; {graph.source} has configurations 0 to {graph.n_configs - 1}")
    finite = np.isfinite(target)
    if not finite.all():
        at = int(finite.argmin())
        raise UsageError(f"runtimes: {target[at]} at {at}; leave out what was not measured")
    return rows.astype(np.int64), target
