"""What is compared: every objective of every backend, the baselines, and the feature blocks.

One fit can serve several contenders: the members of an ensemble are contenders themselves, and so is a mixture whose
members are the first ones of a larger mixture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Final, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.quality.folds import BoolArray, Fold, Pool
from gbr import Ranker
from gbr.data.build import schema_of
from gbr.data.groups import QueryGroups, block_names
from gbr.errors import UsageError
from gbr.evaluation.baselines import CONFIGURED
from gbr.models.ensemble import EnsembleModel
from gbr.models.params import GOALS, MEMBERS, OBJECTIVES, resolve
from gbr.models.rows import Rows
from gbr.models.training_set import distinct
from gbr.train import fit_raw, raw_blocks

FloatArray = NDArray[np.float64]

#: Rows of a group that are compared: enough for a tau, and pairs do not grow beyond memory.
_ROWS: Final = 200
_COLUMNS_AT_ONCE: Final = 128


def column_taus(groups: QueryGroups, seed: int = 0) -> FloatArray:
    """Kendall's tau, equal values as in random order, of every column in every group, float64 (groups, columns).

    Groups of more than 200 rows are represented by as many random ones; a missing value counts as 0.
    """
    rng = np.random.default_rng(seed)
    found = np.zeros((len(groups), len(groups.columns)))
    for number in range(len(groups)):
        part = groups.rows(number)
        rows = np.arange(part.start, part.stop)
        if len(rows) > _ROWS:
            rows = np.sort(rng.choice(rows, _ROWS, replace=False))
        found[number] = _taus(as_scores(groups.X[rows]), groups.target[rows])
    return found


def as_scores(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Columns as scores: a missing value is 0."""
    return np.nan_to_num(values, nan=0.0)


def best_column(taus: FloatArray, known: NDArray[np.bool_]) -> tuple[int, float]:
    """Column whose mean tau over the ``known`` groups is farthest from 0, and the sign that makes it positive."""
    means = taus[known].mean(axis=0)
    column = int(np.abs(means).argmax())
    return column, 1.0 if means[column] >= 0 else -1.0


def _taus(X: NDArray[np.float32], target: FloatArray) -> FloatArray:
    first, second = np.triu_indices(len(target), 1)
    order = np.sign(target[first] - target[second]).astype(np.float32)
    first, second, order = first[order != 0], second[order != 0], order[order != 0]
    found = np.zeros(X.shape[1])
    varied = np.flatnonzero(np.ptp(X, axis=0))
    if not len(order):
        return found
    for start in range(0, len(varied), _COLUMNS_AT_ONCE):
        columns = varied[start : start + _COLUMNS_AT_ONCE]
        values = X[:, columns]
        agreed = order @ np.sign(values[first] - values[second])
        found[columns] = agreed.astype(np.float64) / len(order)
    return found


Scores = dict[str, FloatArray]

COLUMN: Final = "best single column"
RAW: Final = "raw columns, L2"
COUNTING: Final = "fewest nodes set"
RETEST: Final = "retest"
ALL_BLOCKS: Final = "all blocks"
BLOCK_TREES: Final = 300


@dataclass(frozen=True)
class Options:
    """What shapes the fits besides the data.

    Parameters
    ----------
    trees : int or None
        Rounds at most; None for the defaults.
    seed : int
    jobs : int or None
        Threads; changes no result.
    """

    trees: int | None = None
    seed: int = 0
    jobs: int | None = None


@dataclass(frozen=True, eq=False)
class Task:
    """One fold of a pool, cut when it is first asked for.

    Parameters
    ----------
    pool : Pool
    fold : Fold
    options : Options
    taus : callable
        Gives :func:`benchmarks.quality.contenders.column_taus` of the pool.
    """

    pool: Pool
    fold: Fold
    options: Options
    taus: Callable[[], FloatArray]

    @cached_property
    def learn(self) -> tuple[pd.DataFrame, FloatArray, NDArray[np.int64]]:
        """Distinct configurations of the graphs to learn from: columns, target, query group of each row."""
        return _distinct(self.pool.groups.take(self.fold.learn))

    @cached_property
    def stop(self) -> tuple[pd.DataFrame, FloatArray, NDArray[np.int64]] | None:
        """All rows of the graphs to stop on."""
        if self.fold.stop is None:
            return None
        groups = self.pool.groups.take(self.fold.stop)
        return _frame(groups.X, groups.columns), groups.target, groups.qid

    @cached_property
    def held(self) -> QueryGroups:
        """The graphs to rank."""
        return self.pool.groups.take(self.fold.held)


@dataclass(frozen=True, eq=False)
class Fit:
    """One fit and the contenders that it serves.

    Parameters
    ----------
    key : str
    names : tuple of str
        Contenders.
    run : callable
        Gives their scores for the held-out rows, lower is predicted faster, float64 (rows,) by name.
    """

    key: str
    names: tuple[str, ...]
    run: Callable[[Task], Scores]


def fits(pool: Pool, left_out: Sequence[str] = ()) -> list[Fit]:
    """Fits that serve every objective of every backend and the baselines, none of them twice.

    Parameters
    ----------
    pool : Pool
    left_out : sequence of str
        Contenders that are not wanted.  Ensembles stay: one of them is the default that all are compared with.

    Raises
    ------
    UsageError
        For a name that is none of these.
    """
    costs = costs_of(pool)
    mixtures = [
        objective
        for objective in OBJECTIVES["ensemble"]
        if costs or all(backend != "costmodel" for backend, _ in MEMBERS[objective])
    ]
    found: list[Fit] = []
    served: set[str] = set()

    def add(key: str, names: Sequence[str], run: Callable[[Task], Scores]) -> None:
        new = tuple(name for name in names if name not in served)
        if new:
            served.update(new)
            found.append(Fit(key, new, run))

    # The largest first: it serves the smaller ones that it begins with.
    for objective in sorted(mixtures, key=lambda mixture: -len(MEMBERS[mixture])):
        inside = [name for name in mixtures if MEMBERS[objective][: len(MEMBERS[name])] == MEMBERS[name]]
        names = [f"ensemble {name}" for name in inside]
        names += [f"{backend} {member}" for backend, member in MEMBERS[objective]]
        add(f"ensemble {objective}", names, partial(_ensemble, objective=objective, inside=inside))
    for backend, objectives in OBJECTIVES.items():
        if backend != "ensemble" and (costs or backend != "costmodel"):
            for objective in objectives:
                name = f"{backend} {objective}"
                add(name, [name], partial(_single, name=name, backend=backend, objective=objective))
    add(COLUMN, [COLUMN], _column)
    add(RAW, [RAW], _raw)
    if CONFIGURED in pool.groups.columns:
        add(COUNTING, [COUNTING], _counting)
    removable = sorted(name for name in served if not name.startswith("ensemble "))
    for name in left_out:
        if name not in removable:
            raise UsageError(f"--without {name}: want one of {', '.join(removable)}")
    kept = [replace(fit, names=tuple(name for name in fit.names if name not in left_out)) for fit in found]
    return [fit for fit in kept if fit.names]


def block_fits(pool: Pool) -> list[Fit]:
    """LightGBM on the speed with a fixed number of trees: on all blocks, on each alone, on all but each.

    A block that all configurations of a graph share cannot rank alone and is only left out.
    """
    blocks = list(block_names(pool.groups.columns))
    own = {block.name for block in schema_of(pool.subset.kind).blocks if block.per_config}
    chosen = {ALL_BLOCKS: blocks}
    for block in blocks:
        if block in own:
            chosen[alone(block)] = [block]
        if len(blocks) > 1:
            chosen[without(block)] = [other for other in blocks if other != block]
    return [Fit(name, (name,), partial(_blocks, name=name, blocks=taken)) for name, taken in chosen.items()]


def alone(block: str) -> str:
    """Name of the contender that has this block only."""
    return f"{block} alone"


def without(block: str) -> str:
    """Name of the contender that lacks this block only."""
    return f"without {block}"


def costs_of(pool: Pool) -> list[str] | None:
    """Columns that are amounts of cost; None where there are none."""
    return [name for name in schema_of(pool.subset.kind).costs if name in pool.groups.columns] or None


def goals(task: Task) -> dict[str, str]:
    """Contender that the default ranker is for each goal, on this training set."""
    table, _, qid = task.learn
    costs = [list(table.columns).index(name) for name in costs_of(task.pool) or ()]
    found = {}
    for goal in GOALS:
        settings = resolve(
            "ensemble", None, goal=goal, capacity={}, early_stopping_rounds=100, seed=0, n_jobs=None, params=None,
            n_groups=len(np.unique(qid)), n_rows=len(table), costs=costs,
        )  # fmt: skip
        found[goal] = f"ensemble {settings.objective}"
    return found


def retest(pool: Pool) -> FloatArray | None:
    """The second measurement as scores, NaN where a graph has none, float64 (rows,); None where no graph has one."""
    if pool.groups.repeat is None:
        return None
    scores = pool.groups.repeat.astype(np.float64)
    scores[scores == 0] = np.nan
    return scores


def chosen_column(pool: Pool, known: BoolArray, taus: FloatArray) -> tuple[str, float]:
    """Name and sign of the best single column of the ``known`` graphs."""
    column, sign = best_column(taus, known)
    return pool.groups.columns[column], sign


def _fitted(task: Task, backend: str, objective: str) -> Ranker:
    options = task.options
    ranker = Ranker(
        backend,
        objective,
        n_estimators=options.trees,
        costs=costs_of(task.pool),
        random_state=options.seed,
        n_jobs=options.jobs,
    )
    table, target, qid = task.learn
    return ranker.fit(table, target, qid=qid, eval_set=task.stop)


def _predicted(ranker: Ranker, groups: QueryGroups) -> FloatArray:
    """Scores of all rows, float64 (rows,)."""
    return ranker.predict(_frame(groups.X, groups.columns))


def _single(task: Task, *, name: str, backend: str, objective: str) -> Scores:
    return {name: _predicted(_fitted(task, backend, objective), task.held)}


def _ensemble(task: Task, *, objective: str, inside: Sequence[str]) -> Scores:
    ranker = _fitted(task, "ensemble", objective)
    members = cast(EnsembleModel, ranker.model_).members
    found = {}
    for member in members:
        name = f"{member.settings.backend} {member.settings.objective}"
        found[name] = _predicted(_with(ranker, member.model), task.held)
    for name in inside:
        part = EnsembleModel(members[: len(MEMBERS[name])], None)
        found[f"ensemble {name}"] = _predicted(_with(ranker, part), task.held)
    return found


def _with(ranker: Ranker, model: Any) -> Ranker:
    """Give the ranker another model."""
    other = copy(ranker)
    other.model_ = model
    return other


def _column(task: Task) -> Scores:
    column, sign = best_column(task.taus(), task.fold.known)
    return {COLUMN: sign * as_scores(task.held.X[:, column]).astype(np.float64)}


def _raw(task: Task) -> Scores:
    blocks = raw_blocks(task.held.columns)
    if not blocks:
        return {RAW: np.zeros(len(task.held.X))}
    known = task.pool.groups.take(task.fold.known).select(blocks)
    rows = Rows(known.X, known.target, known.indptr)
    ranker = fit_raw(rows, known.columns, task.options.seed, task.options.jobs)
    part = task.held.select(blocks)
    return {RAW: _predicted(ranker, part)}


def _counting(task: Task) -> Scores:
    return {COUNTING: task.held.X[:, task.held.columns.index(CONFIGURED)].astype(np.float64)}


def _blocks(task: Task, *, name: str, blocks: Sequence[str]) -> Scores:
    table, target, qid = _distinct(task.pool.groups.take(task.fold.known).select(blocks))
    options = task.options
    settings: dict[str, Any] = {"n_estimators": options.trees or BLOCK_TREES, "random_state": options.seed}
    ranker = Ranker("lightgbm", "speed", n_jobs=options.jobs, **settings).fit(table, target, qid=qid)
    return {name: _predicted(ranker, task.held.select(blocks))}


def _distinct(groups: QueryGroups) -> tuple[pd.DataFrame, FloatArray, NDArray[np.int64]]:
    selection = distinct(groups)
    qid = np.repeat(np.arange(len(groups), dtype=np.int64), np.diff(selection.indptr))
    return _frame(groups.X[selection.rows], groups.columns), selection.target, qid


def _frame(X: NDArray[np.float32], columns: Sequence[str]) -> pd.DataFrame:
    return pd.DataFrame(X, columns=list(columns))
