"""Settings of a fit: the objectives of each backend, and defaults that are derived from the training set."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from gbr.errors import UsageError

#: Objectives by backend; those of the ensemble are sets of members.
OBJECTIVES: Final[Mapping[str, tuple[str, ...]]] = {
    "auto": ("pairwise", "lambdarank", "l2", "speed"),
    "ensemble": ("mixed", "mixed-top", "costed"),
    "lightgbm": ("pairwise", "lambdarank", "l2", "speed"),
    "xgboost": ("pairwise", "lambdarank", "l2", "speed"),
    "costmodel": ("nnls",),
    "prior": ("residual",),
    "runtime": ("runtime",),
}
#: Members of each set: backend and objective.  The cost model is a member where cost columns are named.
MEMBERS: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "mixed": (
        ("lightgbm", "pairwise"),
        ("lightgbm", "lambdarank"),
        ("lightgbm", "speed"),
        ("xgboost", "pairwise"),
        ("costmodel", "nnls"),
    ),
    "mixed-top": (("lightgbm", "speed"), ("xgboost", "speed"), ("lightgbm", "lambdarank")),
    "costed": (("lightgbm", "pairwise"), ("costmodel", "nnls")),
}
#: Purpose of a ranking: the order of the whole group, or a fast configuration among the first few.
GOALS: Final = ("tau", "topk")
#: Default objective per backend, for each of the goals.
_DEFAULT: Final[Mapping[str, tuple[str, str]]] = {
    "lightgbm": ("pairwise", "speed"),
    "xgboost": ("pairwise", "speed"),
    "ensemble": ("mixed", "mixed-top"),
    "costmodel": ("nnls", "nnls"),
    "prior": ("residual", "residual"),
    "runtime": ("runtime", "runtime"),
}

#: Settings that are derived from the training set by default.
CAPACITY: Final = ("n_estimators", "num_leaves", "learning_rate", "min_child_samples")

#: Upper bound of seeds, which both libraries store in 32 bits.
SEEDS: Final = 2**31 - 1

#: Default share of the runtimes that an interval shall hold.
COVERAGE: Final = 0.9
#: From so many held-out folds on, it holds with finite samples.
GUARANTEED_FOLDS: Final = 9

_FEW_GROUPS: Final = 60
_FEW_RUNTIMES: Final = 5000

#: Share of the rows that each tree samples, and of the columns if there are at least :data:`_MANY_COLUMNS`.  Sampling
#: decorrelates the trees and saves time.
ROW_SHARE: Final = 0.8
COLUMN_SHARE: Final = 0.4
_MANY_COLUMNS: Final = 50


def column_share(n_columns: int) -> float:
    """Share of the columns that each tree samples."""
    return COLUMN_SHARE if n_columns >= _MANY_COLUMNS else 1.0


@dataclass(frozen=True)
class Settings:
    """All values of a fit, resolved; names as in :class:`gbr.ranker.Ranker`, ``costs`` as column indices."""

    backend: str
    objective: str
    n_estimators: int
    num_leaves: int
    learning_rate: float
    min_child_samples: int
    early_stopping_rounds: int
    seed: int
    n_jobs: int
    time_limit: float | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    costs: tuple[int, ...] = ()
    monotone: bool = False
    prior: int | None = None

    def constraints(self, n_columns: int) -> list[int]:
        """Monotone constraint per column: -1 if relevance must not increase with it, else 0; [] without constraints."""
        if not self.monotone:
            return []
        costs = set(self.costs)
        return [-1 if column in costs else 0 for column in range(n_columns)]


def default_capacity(n_groups: int, n_rows: int, backend: str = "lightgbm") -> dict[str, Any]:
    """Default of each of :data:`CAPACITY` for a training set of ``n_groups`` groups with two different runtimes.

    As the rows of a group share their program, trees with more leaves than groups would memorise the programs.  With
    few groups, a prior is corrected a little, as its own groups do not tell how far it can be trusted.
    """
    if backend == "runtime":
        few = n_rows < _FEW_RUNTIMES
        return {
            "n_estimators": 200 if few else 600,
            "num_leaves": 7 if few else 31,
            "learning_rate": 0.05,
            "min_child_samples": max(1, min(10, n_rows // 8)) if few else 20,
        }
    few = n_groups < _FEW_GROUPS
    careful = few and backend == "prior"
    return {
        "n_estimators": 50 if careful else 300 if few else 1000,
        "num_leaves": 7 if few else 31,
        "learning_rate": 0.025 if careful else 0.1,
        "min_child_samples": max(min(5, max(1, n_rows // 4)), min(50, n_rows // 200)),
    }


def resolve(
    backend: str,
    objective: str | None,
    *,
    goal: str = "tau",
    capacity: Mapping[str, Any],
    early_stopping_rounds: Any,
    seed: Any,
    n_jobs: int | None,
    params: Mapping[str, Any] | None,
    n_groups: int,
    n_rows: int,
    costs: Sequence[int] = (),
    monotone: bool | np.bool_ = False,
    prior: int | None = None,
    time_limit: Any = None,
) -> Settings:
    """Fill in defaults and validate all values; a UsageError names an invalid parameter."""
    backend, objective = _model(backend, objective, goal, bool(costs), prior is not None)
    size = default_capacity(n_groups, n_rows, backend) | {
        name: value for name, value in capacity.items() if value is not None
    }
    if not isinstance(params, Mapping | None):
        raise UsageError(f"params: expected a mapping from names to values, got a {type(params).__name__}")
    plain = {name: _plain(name, value) for name, value in (params or {}).items()}
    if not isinstance(monotone, bool | np.bool_):
        raise UsageError(f"monotone: expected True or False, got {monotone!r}")
    if monotone and not costs:
        raise UsageError("monotone: expected cost columns, got none; name them with Ranker(costs=…)")
    return Settings(
        backend=backend,
        objective=objective,
        n_estimators=_integer("n_estimators", size["n_estimators"], 1),
        num_leaves=_integer("num_leaves", size["num_leaves"], 2),
        learning_rate=_number("learning_rate", size["learning_rate"], 1.0),
        min_child_samples=_integer("min_child_samples", size["min_child_samples"], 1),
        early_stopping_rounds=_integer("early_stopping_rounds", early_stopping_rounds, 1),
        seed=_integer("random_state", seed, 0, SEEDS - 1),
        n_jobs=threads(n_jobs),
        time_limit=None if time_limit is None else _number("time_limit", time_limit),
        params=plain,
        costs=tuple(costs),
        monotone=bool(monotone),
        prior=prior,
    )


def settings_from(entry: Mapping[str, Any]) -> Settings:
    """Settings from a manifest, as ``dataclasses.asdict`` and JSON represent them; ValueError for anything else."""
    try:
        settings = Settings(**{**entry, "costs": tuple(entry["costs"])})
        valid = settings.objective in OBJECTIVES[settings.backend]
    except (KeyError, TypeError) as error:
        raise ValueError(f"invalid settings ({error})") from error
    if not valid:
        raise ValueError(f"objective: {settings.backend} has no {settings.objective!r}")
    return settings


def threads(n_jobs: int | None) -> int:
    """Number of threads for the libraries; 0, for None and -1, leaves the choice to OpenMP."""
    return 0 if n_jobs is None or n_jobs == -1 else _integer("n_jobs", n_jobs, 1)


def _model(backend: str, objective: str | None, goal: str, has_costs: bool, has_prior: bool) -> tuple[str, str]:
    """Resolved backend and objective."""
    if backend == "auto" and objective == "runtime":
        backend = objective
    if goal not in GOALS:
        raise UsageError(f"goal: expected {' or '.join(map(repr, GOALS))}, got {goal!r}")
    if objective is not None and objective not in OBJECTIVES[backend]:
        raise UsageError(
            f"objective: expected {' or '.join(map(repr, OBJECTIVES[backend]))} for {backend}, got {objective!r}"
        )
    if backend == "prior" and not has_prior:
        raise UsageError(
            "prior: expected a column with expected ranks for the backend prior; name it by Ranker(prior=…)"
        )
    if backend == "auto":
        if objective is None and has_prior:
            return "prior", "residual"
        if objective is None and goal == "tau" and has_costs:
            return "ensemble", "costed"
        backend = "lightgbm"
    return backend, objective or _DEFAULT[backend][GOALS.index(goal)]


def _scalar(value: Any) -> Any:
    """Python's value of one of NumPy."""
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value


def _plain(name: str, value: Any) -> Any:
    """A parameter of a library without NumPy's types, which JSON and the libraries do not know."""
    value = _scalar(value)
    if isinstance(value, list | tuple):
        return type(value)([_plain(name, each) for each in value])
    if not isinstance(value, str | int | float):
        raise UsageError(f"params: {name!r}: expected text, numbers or lists of them, got a {type(value).__name__}")
    return value


def _integer(name: str, value: Any, least: int, most: float = math.inf) -> int:
    value = _scalar(value)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        limit = "" if most == math.inf else f" and at most {most}"
        raise UsageError(f"{name}: expected an integer of at least {least}{limit}, got {value!r}")
    return value


def _number(name: str, value: Any, most: float = math.inf) -> float:
    value = _scalar(value)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= most:
        limit = "" if most == math.inf else f" and at most {most:g}"
        raise UsageError(f"{name}: expected a number above 0{limit}, got {value!r}")
    return float(value)
