"""Hyperparameter search: settings of trees that best rank held-out families of the training graphs.

Folds consist of whole families, so settings that memorise related graphs gain nothing; valid and test graphs are not
used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gbr.errors import MissingLibraryError, UsageError
from gbr.evaluation.metrics import count_pairs
from gbr.models.rows import Rows, even_parts, subsample
from gbr.ranker import Ranker

FOLDS: Final = 4
#: Search space: name, lowest and highest value, on a log scale.
INTEGERS: Final = (("n_estimators", 100, 1200), ("num_leaves", 4, 96), ("min_child_samples", 3, 200))
FLOATS: Final = (("learning_rate", 0.02, 0.2),)
#: Rows of a group that are scored: enough for a tau, and independent of the size of the group.
_SCORED_ROWS: Final = 2000


def folds(families: Sequence[str], n_folds: int = FOLDS, seed: int = 0) -> list[NDArray[np.bool_]]:
    """Held-out groups of each fold, bool (groups,): whole families, about the same number of groups per fold."""
    names, family_of, sizes = np.unique(np.asarray(families, str), return_inverse=True, return_counts=True)
    if len(names) < 2:
        raise UsageError(
            f"search: expected training graphs of at least two families, got {len(names)}; leave out --search"
        )
    order = np.random.default_rng(seed).permutation(len(names))
    fold_of = even_parts(sizes, n_folds, order[np.argsort(-sizes[order], kind="stable")])
    return [fold_of[family_of] == number for number in range(min(n_folds, len(names)))]


def score(scores: NDArray[np.float64], target: NDArray[np.float64], goal: str) -> float:
    """Kendall tau with ties broken, or for ``topk`` the negative slowdown of the best of the first five."""
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
    on_trial: Callable[[dict[str, Any], float | None], None] = lambda _settings, _value: None,
) -> dict[str, Any]:
    """Try settings and return the best by name; empty where the defaults are best.

    Parameters
    ----------
    make : callable
        Returns an unfitted ranker for settings by name (of :data:`INTEGERS` and :data:`FLOATS`).
    train : Rows
        Training groups in memory.
    families : sequence of str
        Per group.
    trials : int
        The first has the default settings, so that the result is never worse on these folds.
    goal : str
        ``tau`` or ``topk``.
    seed : int
    on_trial : callable
        Called after each trial with its settings (empty: the defaults) and the mean of :func:`score` over the held-out
        groups, or None if the trial was ended early.

    Raises
    ------
    MissingLibraryError
        When optuna is not installed.
    UsageError
        For training graphs of one family.
    """
    require_optuna()
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    held_out = folds(families, seed=seed)

    def value(trial: optuna.Trial | None, settings: dict[str, Any]) -> float:
        scores: list[float] = []
        for number, out in enumerate(held_out):
            scores += _fold_scores(make(**settings), train, out, goal, seed)
            if trial is not None:
                trial.report(float(np.mean(scores)), number)
                if trial.should_prune():
                    raise optuna.TrialPruned
        return float(np.mean(scores))

    def suggested(trial: optuna.Trial) -> float:
        settings: dict[str, Any] = {name: trial.suggest_int(name, low, high, log=True) for name, low, high in INTEGERS}
        settings |= {name: trial.suggest_float(name, low, high, log=True) for name, low, high in FLOATS}
        return value(trial, settings)

    def report(_: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        on_trial(trial.params, trial.value if trial.state == optuna.trial.TrialState.COMPLETE else None)

    default = value(None, {})
    on_trial({}, default)
    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=seed),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4),
    )
    study.optimize(suggested, trials - 1, callbacks=[report])
    return dict(study.best_params) if study.trials and study.best_value > default else {}


def require_optuna() -> None:
    """Raise a MissingLibraryError if optuna is not installed."""
    try:
        import optuna  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingLibraryError("optuna is not installed; pip install 'gbr[search]'") from error


def _fold_scores(ranker: Ranker, train: Rows, out: NDArray[np.bool_], goal: str, seed: int) -> list[float]:
    """Train without the groups ``out`` and score each of them that can be ranked."""
    kept = ~out
    training = np.flatnonzero(np.repeat(kept, train.sizes))
    target = train.target.astype(np.float64)
    failed = np.isinf(target)
    slowest = np.where(failed, 2 * target[~failed].max(initial=1.0), target)  # their chance to fail is not needed
    ranker.fit_rows(replace(train, target=slowest).take(training, np.cumsum([0, *train.sizes[kept]])), None)
    rng = np.random.default_rng(seed)
    scores = []
    for number in np.flatnonzero(out).tolist():
        start, stop = train.indptr[number : number + 2].tolist()
        rows = subsample(start, stop, _SCORED_ROWS, rng)
        rows = rows[~failed[rows]]
        if len(rows) and np.ptp(target[rows]) > 0:
            scores.append(score(ranker.predict_rows(train.X[rows]), target[rows], goal))
    return scores
