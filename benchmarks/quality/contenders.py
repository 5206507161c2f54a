"""Contenders: every objective of every backend, the default with all columns, baselines, and feature blocks.

All but the default with all columns are fitted on the columns that vary within a graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality.folds import Fold, Pool
from gbr import Ranker
from gbr.data.build import schema_of
from gbr.data.groups import QueryGroups, block_names
from gbr.evaluation.baselines import CONFIGURED
from gbr.models import physics
from gbr.models.params import GOALS, OBJECTIVES, resolve
from gbr.models.rows import Rows
from gbr.models.screening import varies_within
from gbr.models.training_set import distinct
from gbr.train import fit_raw, raw_blocks

FloatArray = NDArray[np.float64]
Scores = dict[str, FloatArray]

COLUMN: Final = "best single column"
RAW: Final = "raw columns, L2"
PHYSICS: Final = "physics (no training)"
COUNTING: Final = "fewest nodes set"
RETEST: Final = "retest"
ALL_BLOCKS: Final = "all blocks"
ALL_COLUMNS: Final = "default, all columns"
#: Models with a part for cost columns.
_COSTED: Final = {("ensemble", "costed"), ("costmodel", "nnls")}
BLOCK_TREES: Final = 300
#: Rows of a group for the tau of its columns; more pairs would not fit into memory.
_ROWS: Final = 200
_COLUMNS_AT_ONCE: Final = 128


@dataclass(frozen=True)
class Options:
    """Maximum number of rounds (None for the defaults), seed, and threads, on which no result depends."""

    trees: int | None = None
    seed: int = 0
    jobs: int | None = None


@dataclass(frozen=True, eq=False)
class Task:
    """The data of one fold; ``taus`` returns :func:`column_taus` of the pool."""

    pool: Pool
    fold: Fold
    options: Options
    taus: Callable[[], FloatArray]

    @cached_property
    def learn(self) -> Rows:
        """Distinct configurations of the training graphs."""
        return _distinct(self.pool.groups.take(self.fold.learn))

    @cached_property
    def columns(self) -> NDArray[np.int64]:
        """Columns that vary within a training graph, and costs."""
        X = self.learn.X
        assert isinstance(X, np.ndarray)
        costs = np.isin(self.pool.groups.columns, costs_of(self.pool) or [])
        return np.flatnonzero(varies_within(X, self.learn.indptr) | costs)

    @cached_property
    def stop(self) -> Rows | None:
        """All rows of the graphs for early stopping."""
        if self.fold.stop is None:
            return None
        groups = self.pool.groups.take(self.fold.stop)
        return Rows(groups.X, groups.target, groups.indptr)

    @cached_property
    def held(self) -> QueryGroups:
        """The graphs to rank."""
        return self.pool.groups.take(self.fold.held)

    @cached_property
    def known(self) -> QueryGroups:
        """All graphs that may be used."""
        return self.pool.groups.take(self.fold.known)


@dataclass(frozen=True, eq=False)
class Fit:
    """One fit: its contenders, and a function that returns their scores of the held-out rows, float64 (rows,)."""

    names: tuple[str, ...]
    run: Callable[[Task], Scores]


def fits(pool: Pool) -> list[Fit]:
    """Fits for every objective of every backend and the baselines; every contender once."""
    has_costs = costs_of(pool) is not None
    models = [
        (backend, objective)
        for backend, objectives in OBJECTIVES.items()
        if backend != "prior"  # graphs have no column of expected ranks
        for objective in objectives
        if backend != "auto" and (has_costs or (backend, objective) not in _COSTED)
    ]
    found = [
        Fit((f"{backend} {objective}",), partial(_single, backend=backend, objective=objective))
        for backend, objective in models
    ]
    found += [Fit((ALL_COLUMNS,), _all_columns), Fit((COLUMN,), _column), Fit((RAW,), _raw), Fit((PHYSICS,), _physics)]
    if CONFIGURED in pool.groups.columns:
        found.append(Fit((COUNTING,), _counting))
    return found


def block_fits(pool: Pool) -> list[Fit]:
    """LightGBM on the speed with a fixed number of trees: all blocks, only one block, all blocks but one.

    A block with equal values for all configurations of a graph cannot rank by itself and is only left out.
    """
    blocks = list(block_names(pool.groups.columns))
    per_config = {block.name for block in schema_of(pool.subset.kind).blocks if block.per_config}
    chosen = {ALL_BLOCKS: blocks}
    for block in blocks:
        if block in per_config:
            chosen[f"only {block}"] = [block]
        if len(blocks) > 1:
            chosen[f"without {block}"] = [other for other in blocks if other != block]
    return [Fit((name,), partial(_blocks, name=name, blocks=taken)) for name, taken in chosen.items()]


def costs_of(pool: Pool) -> list[str] | None:
    """Columns that are costs; None if there are none."""
    return [name for name in schema_of(pool.subset.kind).costs if name in pool.groups.columns] or None


def goals(task: Task) -> dict[str, str]:
    """Contender that is the default ranker for each goal, with this training set."""
    costs = [task.pool.groups.columns.index(name) for name in costs_of(task.pool) or ()]
    found = {}
    for goal in GOALS:
        settings = resolve(
            "auto", None, goal=goal, capacity={}, early_stopping_rounds=50, seed=0, n_jobs=None, params=None,
            n_groups=len(task.learn.sizes), n_rows=len(task.learn.X), costs=costs,
        )  # fmt: skip
        found[goal] = f"{settings.backend} {settings.objective}"
    return found


def column_taus(groups: QueryGroups, seed: int = 0) -> FloatArray:
    """Kendall's tau of every column in every group, ties in random order, float64 (groups, columns).

    A group of more than 200 rows is represented by a random sample; a missing value counts as 0.
    """
    rng = np.random.default_rng(seed)
    taus = np.zeros((len(groups), len(groups.columns)))
    for number in range(len(groups)):
        part = groups.rows(number)
        rows = np.arange(part.start, part.stop)
        if len(rows) > _ROWS:
            rows = np.sort(rng.choice(rows, _ROWS, replace=False))
        X, target = np.nan_to_num(groups.X[rows]), groups.target[rows]
        first, second = np.triu_indices(len(target), 1)
        order = np.sign(target[first] - target[second]).astype(np.float32)
        first, second, order = first[order != 0], second[order != 0], order[order != 0]
        varied = np.flatnonzero(np.ptp(X, axis=0)) if len(order) else np.empty(0, np.intp)
        for start in range(0, len(varied), _COLUMNS_AT_ONCE):
            columns = varied[start : start + _COLUMNS_AT_ONCE]
            agreed = order @ np.sign(X[:, columns][first] - X[:, columns][second])
            taus[number, columns] = agreed.astype(np.float64) / len(order)
    return taus


def best_column(taus: FloatArray, known: NDArray[np.bool_]) -> tuple[int, float]:
    """Column whose mean tau over the ``known`` groups is farthest from 0, and the sign that makes it positive."""
    means = taus[known].mean(axis=0)
    column = int(np.abs(means).argmax())
    return column, 1.0 if means[column] >= 0 else -1.0


def _single(task: Task, *, backend: str, objective: str) -> Scores:
    return {f"{backend} {objective}": _scores(task, backend, objective, task.columns)}


def _all_columns(task: Task) -> Scores:
    return {ALL_COLUMNS: _scores(task, "auto", None, np.arange(len(task.pool.groups.columns)))}


def _scores(task: Task, backend: str, objective: str | None, columns: NDArray[np.int64]) -> FloatArray:
    def taken(rows: Rows) -> Rows:
        assert isinstance(rows.X, np.ndarray)
        return Rows(rows.X.take(columns, axis=1), rows.target, rows.indptr)

    ranker = Ranker(
        backend,
        objective,
        n_estimators=task.options.trees,
        costs=costs_of(task.pool),
        random_state=task.options.seed,
        n_jobs=task.options.jobs,
    )
    names = tuple(task.pool.groups.columns[column] for column in columns)
    ranker.fit_rows(taken(task.learn), names, task.stop and taken(task.stop))
    return ranker.predict_rows(task.held.X.take(columns, axis=1))


def _column(task: Task) -> Scores:
    column, sign = best_column(task.taus(), task.fold.known)
    return {COLUMN: sign * np.nan_to_num(task.held.X[:, column]).astype(np.float64)}


def _raw(task: Task) -> Scores:
    blocks = raw_blocks(task.held.columns)
    if not blocks:
        return {RAW: np.zeros(len(task.held.X))}
    known = task.known.select(blocks)
    rows = Rows(known.X, known.target, known.indptr)
    ranker = fit_raw(rows, known.columns, task.options.seed, task.options.jobs)
    return {RAW: ranker.predict_rows(task.held.select(blocks).X)}


def _physics(task: Task) -> Scores:
    estimate = physics.estimate(task.pool.subset.kind, task.pool.hardware, task.held.columns)
    return {PHYSICS: -estimate.predict(task.held.X, 1)}


def _counting(task: Task) -> Scores:
    return {COUNTING: task.held.X[:, task.held.columns.index(CONFIGURED)].astype(np.float64)}


def _blocks(task: Task, *, name: str, blocks: Sequence[str]) -> Scores:
    known = task.known.select(blocks)
    settings: dict[str, Any] = {"n_estimators": task.options.trees or BLOCK_TREES, "random_state": task.options.seed}
    ranker = Ranker("lightgbm", "speed", n_jobs=task.options.jobs, **settings).fit_rows(_distinct(known), known.columns)
    return {name: ranker.predict_rows(task.held.select(blocks).X)}


def _distinct(groups: QueryGroups) -> Rows:
    selection = distinct(groups)
    return Rows(groups.X[selection.rows], selection.target, selection.indptr)
