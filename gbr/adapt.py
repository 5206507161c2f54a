"""Scores of all configurations of one graph, or of one group of a table, from a few measured ones.

The choices of a configuration (the layout of a tensor, the bound of a loop) become indicators;
:mod:`gbr.models.within` predicts ranks from these and the engineered columns.  The order of a fitted ranker, or
of the estimate without training, is used as well: it is scaled by its agreement with the measurements, and its weight
decreases as measurements are added.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import logit

from features.hardware import CPU
from gbr.data.build import extract
from gbr.data.graph import N_LAYOUT, Graph, read_graph
from gbr.data.hardware import measured_on, named
from gbr.errors import DataError, GbrWarning, UsageError
from gbr.models import physics
from gbr.models.arrays import numbers, present

if TYPE_CHECKING:
    from features.hardware import Hardware
    from gbr.data.table import Table
    from gbr.models.transfer import Transfer
    from gbr.ranker import Ranker

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Minimum number of different measured configurations.
LEAST: Final = 5

#: Trees per forest for the rows of a table.
_TREES: Final = 60
#: Log odds of the rank by the order, relative to that by the measured rows, if both agree on these.
_ORDER_WEIGHT: Final = 2.0
#: Largest chance to fail whose logarithm demotes.
_MOST_CHANCE: Final = 1 - 1e-6
#: Blocks of columns that describe a configuration, whatever its group.
_OWN_BLOCKS: Final = ("config", "pairs", "gpu")
#: Names of groups in a message.
_NAMED: Final = 3
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
        Slope of the measured ranks over the ranks of the order of the ranker or the estimate; 0 where it misleads.
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
    hardware: Hardware | str | None = None,
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
        Trained by ``python -m gbr.train``; by default the estimate of :mod:`gbr.models.physics`.
    hardware : Hardware or str, optional
        The measured machine, such as ``"a100"``, without a ranker; by default that of the collection of the graph, or
        a generic CPU.
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
        graph, ranker = ranker.for_graph(graph)
        hardware = ranker.hardware
    graph = graph if isinstance(graph, Graph) else read_graph(Path(graph))
    if hardware is not None:
        hardware = named(hardware)
    elif found := measured_on(Path(graph.source)):
        hardware = found[1]
    rows, target = _measured(graph.n_configs, str(graph.source), configs, runtimes)
    schema, X, duplicate_of = extract(graph, hardware)
    if ranker is None:
        prior, scores = within.ESTIMATED, -physics.estimate(graph.kind, hardware or CPU, schema.names).predict(X, 1)
    else:
        prior = within.ESTIMATED if ranker.is_estimate else within.TRAINED
        scores = ranker.predict_rows(X[:, ranker.columns_in(schema, graph.source)])
    rows, inverse, counts = np.unique(duplicate_of[rows], return_inverse=True, return_counts=True)
    target = np.bincount(inverse, target) / counts
    _check_enough(rows, target)
    X = X[:, X.max(axis=0) > X.min(axis=0)]
    order = within.ranks(scores) if np.ptp(scores) else np.zeros(len(X))
    chosen = within.choices(graph.kind, graph.configs(rows))
    regressor = within.Regressor(X, order, rows, chosen, within.ranks(target), random_state, prior=prior)
    # Choices of a block, and its kernel with the measured rows, must fit in memory.
    nodes = 1 if graph.node_config_ids is None else len(graph.node_config_ids)
    n_rows = max(1, min(_ROWS_AT_ONCE, _BLOCK_BYTES // (nodes * N_LAYOUT)))
    parts = [
        regressor(X[first : first + len(block)], within.choices(graph.kind, block), order[first : first + len(block)])
        for first, block in graph.config_blocks(n_rows)
    ]
    return Adapted(np.concatenate(parts), len(rows), regressor.trust)


class TableRows:
    """Rows of one group of a table, as a model sees them that was trained on a table.

    Parameters
    ----------
    rows : path-like, or polars, pandas or Arrow table
        Configurations, with the columns of groups and context of the training table.
    model : Ranker
    fixed : mapping, optional
        Values of columns that are equal in all rows.
    most : int, optional
        Keep as many rows, the most promising ones and a sample of the others.
    kept : int, optional
        A row that is kept in any case.

    Attributes
    ----------
    name : str
    rows : int64 (c,)
        Rows that are kept.
    configs : polars.DataFrame
    choices : int64 (c, parameters)
        Code of each value; equal values have equal codes.
    X : float32 (c, columns)
        Features; 0 where a value is missing.
    scores, chance : float64 (c,)
        Of the model: lower is faster, and the chance to fail.
    ranks, slowdowns : float64 (groups, c)
        In other groups, 0 to 1, and log2.
    """

    def __init__(
        self, rows: Any, model: Ranker, fixed: Mapping[str, Any] | None = None, most: int | None = None,
        kept: int | None = None,
    ) -> None:  # fmt: skip
        from gbr.data.table import Table, read_rows  # polars, which graphs do not need
        from gbr.data.table_columns import texts

        features = model.table
        table = rows if isinstance(rows, Table) else read_rows(rows, features.roles, fixed)
        if len(table.groups) > 1:
            names = ", ".join(group.name for group in table.groups[:_NAMED])
            raise DataError(f"{table.name}: {len(table.groups)} groups ({names} ...); expected the rows of one group")
        (group,) = table.groups
        self.name, frame = group.name, table.frame
        self.rows = np.arange(len(frame))
        X = features(frame, table.groups)
        self.scores, self.chance = model.predict_both(X[:, model.columns_in(features.schema, table.name)])
        if most is not None and len(frame) > most:
            order = np.argsort(self.scores, kind="stable")
            if kept is not None:
                order = np.concatenate([[kept], order[order != kept]])
            others = np.random.default_rng(0).permutation(order[most * 3 // 4 :])
            self.rows = np.sort(np.concatenate([order[: most * 3 // 4], others[: most - most * 3 // 4]]))
            frame, self.scores, self.chance = frame[self.rows], self.scores[self.rows], self.chance[self.rows]
            X = features(frame, [replace(group, stop=len(frame))])
        self.X = np.nan_to_num(X, nan=0.0)
        varies = self.X.max(axis=0) > self.X.min(axis=0)
        self._own = [
            at for at, name in enumerate(features.schema.names) if varies[at] and name.split(".")[0] in _OWN_BLOCKS
        ]
        self.ranks, self.slowdowns = features.by_group(frame)
        self.configs = frame.select(features.roles.config)
        values = [texts(column).fill_null("").to_numpy() for column in features.configs(frame)]
        codes = [np.unique(column, return_inverse=True)[1] for column in values]
        self.choices = np.column_stack(codes).astype(np.int64)
        self._transfers: dict[tuple[int, bool, bool], Transfer] = {}

    def transfer(self, seed: int, *, history: bool = True, ranks: bool = False) -> Transfer:
        """What is known of the runtimes, log2, or of their ranks, -1/2 to 1/2; without history, the rows alone."""
        key = seed, history, ranks
        if key not in self._transfers:  # the last one is kept, as its trees take longer than a prediction
            self._transfers = {key: self._transfer(*key)}
        return self._transfers[key].fresh()

    def _transfer(self, seed: int, history: bool, ranks: bool) -> Transfer:
        from gbr.models import within  # imports scikit-learn's ensembles, which a ranker does not need
        from gbr.models.transfer import Transfer

        X = self.X[:, self._own]
        if not history:
            return Transfer(self.choices, X, self.ranks[:0], seed=seed)
        prior = within.ranks(self.scores)
        if ranks:
            return Transfer(self.choices, X, self.ranks - 0.5, prior, self.chance, seed)
        if len(self.slowdowns):  # those that other groups have at this rank
            known = np.sort(self.slowdowns, axis=1).mean(axis=0)
            prior = np.interp(prior + 0.5, np.linspace(0, 1, len(prior)), known)
        return Transfer(self.choices, X, self.slowdowns, prior, self.chance, seed)


def adapt_rows(rows: Any, configs: Any, runtimes: Any, *, ranker: Ranker, random_state: int = 0) -> Adapted:
    """Score the rows of one group of a table by measured ones, by other groups and by the order of a ranker.

    Parameters
    ----------
    rows : path-like, or polars, pandas or Arrow table, or TableRows
        All configurations of the group, with the columns of the training table.  To adapt to the same rows many times,
        give :class:`TableRows`, whose features are those of the ranker.
    configs : array-like of int (m,)
        Indices of the measured rows.
    runtimes : array-like (m,)
        Their target, as in the training table: throughputs where higher is better.  None, NaN or infinite for a failed
        configuration.
    ranker : Ranker
        Trained by ``python -m gbr.train`` on a table.
    random_state : int
        Seed of the trees.

    Raises
    ------
    UsageError
        As for :func:`fit_within`; failed configurations do not count as measured.
    DataError
        When a column is missing, or the rows are of several groups.
    ModelError
        When the ranker was not trained on a table.
    """
    known = rows if isinstance(rows, TableRows) else TableRows(rows, ranker)
    measured, target = _measured(len(known.rows), known.name, configs, runtimes, may_fail=True)
    higher = ranker.table.roles.direction == "higher"
    return _adapt(known, measured, -target if higher else target, random_state)


def adapt_groups(table: Table, ranker: Ranker, scores: FloatArray) -> FloatArray:
    """Scores of all rows of :func:`gbr.data.table.read_rows`, by :func:`adapt_rows` in each group with measured rows.

    Known costs were measured; groups with too few of them keep the scores of the ranker, with a warning.

    Raises
    ------
    DataError
        If there are too few different rows that worked, or all costs are equal, in every group.
    """
    from gbr.data.table import rows_of

    scores = scores.copy()
    faults: list[str] = []
    for group in table.groups:
        rows = rows_of(table, [group])
        measured = np.flatnonzero(~np.isnan(rows.cost))
        try:
            adapted = _adapt(TableRows(rows, ranker), measured, rows.cost[measured])
        except UsageError as fault:
            what = f"working rows with a value of {ranker.table.roles.target!r}"
            faults.append(f"group {group.name!r}: {what}: {str(fault).partition(': ')[2]}")
        else:
            scores[group.start : group.stop] = adapted.scores
    if faults:
        more = f" (and {len(faults) - 1} more groups)" if len(faults) > 1 else ""
        message = f"{table.name}: {faults[0]}{more}"
        if len(faults) == len(table.groups):
            raise DataError(message)
        warnings.warn(f"{message}; ranked by the model alone", GbrWarning, stacklevel=4)
    return scores


def _adapt(known: TableRows, measured: IntArray, target: FloatArray, random_state: int = 0) -> Adapted:
    """Scores of all rows by measured ones: lower targets are better, infinite ones failed."""
    from gbr.models import within

    failed = np.isinf(target)
    worked, inverse, counts = np.unique(measured[~failed], return_inverse=True, return_counts=True)
    target = np.bincount(inverse, target[~failed]) / counts
    _check_enough(worked, target)

    target, order = within.ranks(target), within.ranks(known.scores)
    transfer = known.transfer(random_state, ranks=True)
    scores = transfer.predict(worked, target)[0]
    X = known.X[:, known.X.max(axis=0) > known.X.min(axis=0)]
    regressor = within.Regressor(X, order, worked, known.choices[worked], target, random_state, _TREES)
    # The less other groups tell, the more weight have models that learn from the measured rows alone.
    likeness = max(0.0, *(_correlation(each[worked], target) for each in (order, *known.ranks)))
    share = (1 - likeness**2) ** 2
    scores = (1 - share) * scores + share * regressor(X, known.choices, order)
    # A few measured rows say much of the order as a whole, and nothing of the order among the fastest.
    agreement = _ORDER_WEIGHT * max(0.0, _correlation(order[worked], target)) ** 2
    scores = within.ranks(logit(within.ranks(scores) + 0.5) + agreement * logit(order + 0.5))
    if failed.any():
        chances = np.stack([known.chance, transfer.chance(measured, failed)])
        chances[1, measured[failed]] = 1
        before, after = np.log1p(-np.minimum(chances, _MOST_CHANCE))
        scores += scores.std() * np.maximum(0, before - after)  # the order has the chance that is known before
    return Adapted(scores, len(worked), regressor.trust)


def _correlation(first: FloatArray, second: FloatArray) -> float:
    return float(np.corrcoef(first, second)[0, 1]) if np.ptp(first) else 0.0


def _check_enough(rows: IntArray, target: FloatArray) -> None:
    if len(rows) < LEAST:
        raise UsageError(f"configs: expected at least {LEAST} different configurations, got {len(rows)}")
    if not np.ptp(target):
        raise UsageError("runtimes: expected different values, got equal ones for all configurations; measure others")


def _measured(
    n_configs: int, source: str, configs: Any, runtimes: Any, may_fail: bool = False
) -> tuple[IntArray, FloatArray]:
    """Validated indices and runtimes of the measured configurations; infinite for failed ones, if they may fail."""
    rows = present(configs, "configs")
    if rows.ndim != 1 or rows.dtype.kind not in "iu":
        raise UsageError(f"configs: expected a list of indices, got {rows.dtype} of shape {rows.shape}")
    if may_fail:
        runtimes = [np.inf if value is None or value != value else value for value in runtimes]
    target = numbers(runtimes, "runtimes").astype(np.float64)
    if target.shape != rows.shape:
        raise UsageError(f"runtimes: expected shape {rows.shape}, one per configuration, got {target.shape}")
    invalid = ~(np.isfinite(target) | (may_fail & np.isinf(target))) | (target < 0)
    for name, wrong, expected in (
        ("configs", (rows < 0) | (rows >= n_configs), f"0 to {n_configs - 1}, as in {source}"),
        ("runtimes", invalid, "finite, positive numbers (leave out what was not measured)"),
    ):
        if wrong.any():
            position = int(wrong.argmax())
            value = (rows if name == "configs" else target)[position]
            raise UsageError(f"{name}: expected {expected}; got {value} at position {position}")
    return rows.astype(np.int64), target
