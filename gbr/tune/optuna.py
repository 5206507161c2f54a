"""A sampler for Optuna that starts from what other devices have measured."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from gbr.errors import MissingLibraryError, UsageError
from gbr.tune.space import TableSpace, loaded
from gbr.tune.tuner import Tuner

try:
    from optuna.samplers import BaseSampler
    from optuna.study import StudyDirection
    from optuna.trial import TrialState
except ImportError as fault:
    raise MissingLibraryError("optuna is not installed; pip install 'gbr[search]'") from fault

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study
    from optuna.trial import FrozenTrial

    from gbr.ranker import Ranker


class Sampler(BaseSampler):
    """A sampler of Optuna over the rows of a table, with the history of a model of other devices.

    The objective is a runtime, or a throughput of a study that maximises, and must be positive.  Pruned and failed
    trials count as failed configurations.

    Parameters
    ----------
    model : Ranker or path-like
        Trained on a table of other devices, or its run directory.
    candidates : path-like, or polars, pandas or Arrow table
        All configurations that a trial may have: a column per parameter.
    fixed : mapping, optional
        Values of columns of the training table that are no parameters, such as ``{"device": "H100"}``.
    seed : int

    Examples
    --------
    ::

        import optuna
        from gbr.tune.optuna import Sampler

        def objective(trial):
            block = trial.suggest_categorical("block", [32, 64, 128])
            return measure(block, unroll=trial.suggest_int("unroll", 1, 8))

        sampler = Sampler("runs/gemm", candidates, fixed={"device": "H100"})
        study = optuna.create_study(sampler=sampler)
        study.optimize(objective, n_trials=40)
    """

    def __init__(
        self, model: Ranker | Any, candidates: Any, *, fixed: Mapping[str, Any] | None = None, seed: int = 0
    ) -> None:
        model = loaded(model)
        self._space = TableSpace(candidates, model, fixed=fixed)
        self._tuner = Tuner(self._space, model, seed=seed)
        rows = [self._space.describe(config) for config in range(len(self._space))]
        #: Parameters that a trial need not suggest.
        self._constant = {name: rows[0][name] for name in rows[0] if len({row[name] for row in rows}) == 1}
        self._number = {tuple(row.values()): config for config, row in reversed([*enumerate(rows)])}
        self._proposed: dict[int, dict[str, Any]] = {}
        self._told: set[int] = set()
        self._lock = threading.Lock()

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Learn from finished trials, also of other processes, and propose a configuration."""
        with self._lock:
            for done in study.get_trials(deepcopy=False):
                if done.state.is_finished() and done.number not in self._told:
                    self._tell(study, done)
            if configs := self._tuner.ask():
                self._proposed[trial.number] = self._space.describe(configs[0])
            elif self._tuner.best is not None:
                self._proposed[trial.number] = self._space.describe(self._tuner.best.config)
            else:
                raise UsageError("sampler: every candidate was tried, and all failed")

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Stop the study when all candidates were tried."""
        if not self._tuner.n_left:
            with suppress(RuntimeError):  # outside of study.optimize
                study.stop()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Empty: parameters are sampled one by one, from the proposal."""
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Empty."""
        return {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The value of the proposal."""
        proposal = self._proposed[trial.number]
        if param_name not in proposal:
            raise UsageError(f"sampler: no parameter {param_name!r} among {', '.join(proposal)}")
        value = proposal[param_name]
        try:
            allowed = param_distribution._contains(param_distribution.to_internal_repr(value))
        except (TypeError, ValueError):
            allowed = False
        if not allowed:
            raise UsageError(f"sampler: candidate {param_name}={value!r} is not in {param_distribution}")
        return value

    def _tell(self, study: Study, trial: FrozenTrial) -> None:
        self._told.add(trial.number)
        self._proposed.pop(trial.number, None)
        params = self._constant | trial.params
        values = tuple(params.get(name) for name in self._space.describe(0))
        if (config := self._number.get(values)) is None:
            return
        outcome: float | str = trial.state.name.lower()
        if trial.state is TrialState.COMPLETE:
            outcome = float(trial.value or 0.0)
            if outcome <= 0:
                raise UsageError(f"sampler: expected a positive runtime or throughput, got {outcome}")
            if study.direction is StudyDirection.MAXIMIZE:
                outcome = 1 / outcome
        self._tuner.tell([config], [outcome])
