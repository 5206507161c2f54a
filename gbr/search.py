"""Search for settings: trees, leaves and rates that rank held-out families of the training graphs best.

Folds are made of whole families, so that settings which learn relatives by heart gain nothing; valid and test graphs
take no part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gbr.errors import MissingLibraryError, UsageError
from gbr.evaluation.metrics import count_pairs
from gbr.models.base import Rows
from gbr.models.params import GOALS
from gbr.models.sampling import even_parts, some_rows
from gbr.ranker import Ranker

FOLDS: Final = 4
#: Settings and their bounds; steps are relative.
WHOLE: Final = (("n_estimators", 100, 1200), ("num_leaves", 4, 96), ("min_child_samples", 3, 200))
REAL: Final = (("learning_rate", 0.02, 0.2),)
#: Rows of a slate that are scored: enough for a tau, and the time of a trial does not follow the slate.
_SCORED_ROWS: Final = 2000


def folds(families: Sequence[str], n_folds: int = FOLDS, seed: int = 0) -> list[NDArray[np.bool_]]:
    """Which slates each fold holds out, bool (slates,) each: whole families, about as many slates per fold.

    Parameters
    ----------
    families : sequence of str
        Per slate.

    Raises
    ------
    UsageError
        With fewer than two families there is nothing to hold out.
    """
    names, place, sizes = np.unique(np.asarray(families, str), return_inverse=True, return_counts=True)
    if len(names) < 2:
        raise UsageError("search: the training graphs are of one family; there is none to hold out")
    order = np.random.default_rng(seed).permutation(len(names))
    fold_of = even_parts(sizes, n_folds, order[np.argsort(-sizes[order], kind="stable")])
    return [fold_of[place] == number for number in range(min(n_folds, len(names)))]


def score(scores: NDArray[np.float64], target: NDArray[np.float64], goal: str) -> float:
    """Kendall tau with ties broken, or for ``topk`` the slowdown of the best of the first five, negative."""
    if goal == "tau":
        return float(count_pairs(scores, target).untied_tau)
    first = np.argsort(scores, kind="stable")[:5]
    return float(1.0 - target[first].min() / target.min())


def search(
    make: Callable[..., Ranker],
    train: Rows,
    families: Sequence[str],
    trials: int,
    *,
    goal: str = "tau",
    seed: int = 0,
    told: Callable[[int, float], None] = lambda _number, _best: None,
) -> dict[str, Any]:
    """Try settings and return the best.

    Parameters
    ----------
    make : callable
        Returns an unfitted ranker for settings given by name (those of :data:`WHOLE` and :data:`REAL`).
    train : Rows
        Training slates.
    families : sequence of str
        Per slate.
    trials : int
        The first is the default settings, so that the result is never worse on these folds.
    goal : str
        ``tau`` or ``topk``.
    seed : int
    told : callable
        Called with the number of trials done and the best value so far.

    Returns
    -------
    dict
        Values by name; empty where nothing beat the defaults.

    Raises
    ------
    MissingLibraryError
        When optuna is not installed.
    UsageError
        For fewer than one trial, an unknown goal, or training graphs of one family.
    """
    if goal not in GOALS:
        raise UsageError(f"goal: got {goal!r}, want {' or '.join(map(repr, GOALS))}")
    if trials < 1:
        raise UsageError(f"search: got {trials} trials, want at least one")
    try:
        import optuna
    except ModuleNotFoundError as fault:
        raise MissingLibraryError("optuna is not installed; pip install 'gbr[search]'") from fault
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    held_out = folds(families, seed=seed)

    def value(settings: dict[str, Any], trial: Any = None) -> float:
        found: list[float] = []
        for number, out in enumerate(held_out):
            found += _fold(make(**settings), train, out, goal, seed)
            if trial is not None:
                trial.report(float(np.mean(found)), number)
                if trial.should_prune():
                    raise optuna.TrialPruned
        return float(np.mean(found))

    best, chosen = value({}), {}
    told(1, best)
    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=seed),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4),
    )
    for number in range(2, trials + 1):
        trial = study.ask()
        settings: dict[str, Any] = {name: trial.suggest_int(name, low, high, log=True) for name, low, high in WHOLE}
        settings |= {name: trial.suggest_float(name, low, high, log=True) for name, low, high in REAL}
        try:
            reached = value(settings, trial)
        except optuna.TrialPruned:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            reached = -np.inf
        else:
            study.tell(trial, reached)
        if reached > best:
            best, chosen = reached, settings
        told(number, best)
    return chosen


def _fold(ranker: Ranker, train: Rows, out: NDArray[np.bool_], goal: str, seed: int) -> list[float]:
    """Train without the slates ``out`` and score each of them that has an order."""
    learn, slate = np.repeat(~out, train.sizes), np.repeat(np.arange(len(train.sizes)), train.sizes)
    target = train.target.astype(np.float64)
    ranker.fit(train.X[learn], target[learn], qid=slate[learn])
    rng = np.random.default_rng(seed)
    found = []
    for start, stop in (pair for pair, held in zip(pairwise(train.indptr.tolist()), out, strict=True) if held):
        rows = some_rows(start, stop, _SCORED_ROWS, rng)
        if np.ptp(target[rows]) > 0:
            found.append(score(ranker.predict(train.X[rows]), target[rows], goal))
    return found
