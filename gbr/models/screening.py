"""Selection of feature columns before a fit.

Columns with one value per graph (op histograms, node statistics, neighborhood summaries) cannot order the
configurations of a graph by themselves; they only pay where many graphs show how they change the effect of others.
Short fits on a sample of rows are judged on validation groups: columns that vary within a graph are used, except blocks
of little gain; all others are added if they improve tau.  A larger set has to be better by more than the standard error
of the difference, the set of all columns, which takes several times as long to fit, by two standard errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gbr.evaluation.metrics import count_pairs
from gbr.models import lightgbm
from gbr.models.params import resolve
from gbr.models.rows import Matrix, Rows, largest_cap, rankable, sample

BoolArray = NDArray[np.bool_]

#: Training rows that a short fit uses, if every group still has :data:`LEAST_ROWS`; half as many validation rows.
ROWS: Final = 6000
LEAST_ROWS: Final = 8
#: Groups that it uses at most.
GROUPS: Final = 2000
_ROUNDS: Final = 50
#: Blocks with a smaller share of the gain are left out if validation agrees.
_SMALL: Final = 0.02
_LEARNING_RATE: Final = 0.2


@dataclass(frozen=True)
class Screening:
    """Result of :func:`screen`.

    Parameters
    ----------
    columns : tuple of str
        Columns to use, in their order.
    candidates : list of dict
        ``name``, number of ``columns`` and mean ``tau`` on the validation groups of each set that was tried.
    chosen : str
        Name of the set that was chosen.
    gain : dict
        Share of each feature block in the gain of the fit with the chosen set.
    """

    columns: tuple[str, ...]
    candidates: list[dict[str, Any]]
    chosen: str
    gain: dict[str, float]

    def summary(self) -> dict[str, Any]:
        """For the manifest."""
        return {"chosen": self.chosen, "candidates": self.candidates, "gain": self.gain}


def screen(
    train: Rows, valid: Rows, names: Sequence[str], seed: int, n_jobs: int | None = None, always: Sequence[str] = ()
) -> Screening:
    """Choose columns.

    Parameters
    ----------
    train, valid : Rows
        Samples in memory, with all columns.
    names : sequence of str
        Column names, ``<block>.<column>``.
    seed : int
    n_jobs : int or None
    always : sequence of str
        Columns that are never left out.

    Returns
    -------
    Screening
    """
    candidates: list[dict[str, Any]] = []
    taus: dict[str, NDArray[np.float64]] = {}
    gains: dict[str, NDArray[np.float64]] = {}

    def judge(name: str, chosen: BoolArray) -> None:
        taus[name], gains[name] = _short_fit(train, valid, np.flatnonzero(chosen), seed, n_jobs)
        candidates.append({"name": name, "columns": int(chosen.sum()), "tau": float(taus[name].mean())})

    blocks = np.array([name.split(".", 1)[0] for name in names])
    within = varies_within(_matrix(train), train.indptr)
    judge("within", within)
    chosen, mask = "within", within
    small = [block for block, share in _gain_by_block(gains["within"], blocks).items() if share < _SMALL]
    few = within & ~np.isin(blocks, small)
    if not np.array_equal(few, within) and few.any():
        name = f"within, without {', '.join(small)}"
        judge(name, few)
        if not _is_better(taus["within"], taus[name]):
            chosen, mask = name, few
    if not within.all():
        judge("all", np.ones(len(names), bool))
        if _is_better(taus["all"], taus[chosen], errors=2.0):
            chosen, mask = "all that are used", mask | (gains["all"] > 0)
            gains[chosen] = gains["all"]
    mask |= np.isin(names, list(always))
    columns = tuple(str(name) for name, used in zip(names, mask, strict=True) if used)
    return Screening(columns, candidates, chosen, _gain_by_block(gains[chosen], blocks))


def _gain_by_block(gains: NDArray[np.float64], blocks: NDArray[np.str_]) -> dict[str, float]:
    """Share of each block with any gain in the total."""
    shares = {str(block): float(gains[blocks == block].sum() / gains.sum()) for block in dict.fromkeys(blocks.tolist())}
    return {block: share for block, share in shares.items() if share > 0}


def sampled(indptr: NDArray[np.int64], n_rows: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """A sample of about ``n_rows`` rows for :func:`screen`, but at least :data:`LEAST_ROWS` of every group.

    Returns
    -------
    rows : int64 (sampled,)
        Ascending.
    indptr : int64 (groups + 1,)
    """
    return sample(indptr, max(LEAST_ROWS, largest_cap(np.diff(indptr), n_rows)), seed)


def varies_within(X: Matrix, indptr: NDArray[np.int64]) -> BoolArray:
    """Columns with two different values in at least one group, bool (columns,); missing values count as one."""
    varying = np.zeros(X.shape[1], bool)
    for start, stop in pairwise(indptr.tolist()):
        group = X[start:stop]
        varying |= ~((group == group[:1]) | (np.isnan(group) & np.isnan(group[:1]))).all(axis=0)
    return varying


def _short_fit(
    train: Rows, valid: Rows, columns: NDArray[np.int64], seed: int, n_jobs: int | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Tau of each validation group that can be ranked, and the gain per column (0 for those left out)."""
    settings = resolve(
        "lightgbm",
        "pairwise",
        capacity={"n_estimators": _ROUNDS, "learning_rate": _LEARNING_RATE},
        early_stopping_rounds=_ROUNDS,
        seed=seed,
        n_jobs=n_jobs,
        params=None,
        n_groups=train.n_rankable,
        n_rows=len(train.X),
    )
    rows = Rows(_matrix(train).take(columns, axis=1), train.target, train.indptr)
    model = lightgbm.fit(rows, None, settings)
    scores = -model.predict(_matrix(valid).take(columns, axis=1), settings.n_jobs)
    gains = np.zeros(train.X.shape[1])
    gains[columns] = model.gains()
    target = valid.target.astype(np.float64)
    taus = [count_pairs(scores[group], target[group]).untied_tau for group in rankable(target, valid.indptr)]
    return np.array(taus), gains


def _matrix(rows: Rows) -> Matrix:
    assert isinstance(rows.X, np.ndarray)
    return rows.X


def _is_better(taus: NDArray[np.float64], than: NDArray[np.float64], errors: float = 1.0) -> bool:
    """Whether the mean difference over groups exceeds this many of its standard errors."""
    difference = taus - than
    return len(difference) > 1 and difference.mean() > errors * difference.std(ddof=1) / np.sqrt(len(difference))
