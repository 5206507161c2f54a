"""What shapes a fit besides its rows, and how the defaults follow from the training set."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final

from gbr.errors import UsageError

#: Objectives per backend.  Those of an ensemble are mixtures of members.
OBJECTIVES: Final[Mapping[str, tuple[str, ...]]] = {
    "ensemble": ("mixed", "mixed-few", "mixed-top"),
    "lightgbm": ("pairwise", "lambdarank", "l2", "speed", "difference"),
    "xgboost": ("pairwise", "lambdarank", "l2", "speed"),
    "costmodel": ("nnls",),
}
#: Losses of one library err alike less than one might think: families held out, each of the four adds to tau.
_MIXED: Final = (("lightgbm", "pairwise"), ("lightgbm", "lambdarank"), ("lightgbm", "speed"), ("xgboost", "pairwise"))
#: Members of each mixture: backend and objective.
MEMBERS: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "mixed": _MIXED,
    "mixed-few": (*_MIXED, ("costmodel", "nnls")),
    "mixed-top": (("lightgbm", "speed"), ("xgboost", "speed"), ("lightgbm", "lambdarank")),
}
#: What a ranking is for: the order of the whole slate, or that the first few hold a fast one.
GOALS: Final = ("tau", "topk")
#: Objective by backend for each of them, where none is asked for.
_DEFAULT: Final[Mapping[str, tuple[str, str]]] = {
    "ensemble": ("mixed", "mixed-top"),
    "lightgbm": ("pairwise", "speed"),
    "xgboost": ("pairwise", "speed"),
    "costmodel": ("nnls", "nnls"),
}

#: Settings that follow from the training set where they are not given.
CAPACITY: Final = ("n_estimators", "num_leaves", "learning_rate", "min_child_samples")

#: The least that whole numbers of a fit can be.
_LEAST: Final[Mapping[str, int]] = {
    "n_estimators": 1,
    "num_leaves": 2,
    "min_child_samples": 1,
    "early_stopping_rounds": 1,
    "seed": 0,
    "n_jobs": 0,
}

#: Seeds are below this: both libraries keep them in 32 bits.
SEEDS: Final = 2**31 - 1

_FEW_SLATES: Final = 60

#: Share of the rows that each tree sees, and of the columns where there are at least :data:`_MANY_COLUMNS`.  Trees that
#: differ err less together, and are grown in less time.
ROW_SHARE: Final = 0.8
COLUMN_SHARE: Final = 0.4
_MANY_COLUMNS: Final = 50


def column_share(n_columns: int) -> float:
    """Share of the columns that each tree sees."""
    return COLUMN_SHARE if n_columns >= _MANY_COLUMNS else 1.0


@dataclass(frozen=True)
class Settings:
    """All values of a fit, resolved; names as in :class:`gbr.ranker.Ranker`."""

    backend: str
    objective: str
    n_estimators: int
    num_leaves: int
    learning_rate: float
    min_child_samples: int
    early_stopping_rounds: int
    seed: int
    n_jobs: int
    params: Mapping[str, Any] = field(default_factory=dict)
    costs: tuple[int, ...] = ()
    monotone: bool = False

    def constraints(self, n_columns: int) -> list[int]:
        """Per column -1 where relevance must not rise with it, else 0; nothing where no column is bound."""
        if not self.monotone:
            return []
        bound = set(self.costs)
        return [-1 if column in bound else 0 for column in range(n_columns)]


def default_capacity(n_slates: int, n_rows: int) -> dict[str, Any]:
    """How large a model a training set can carry: by its number of slates, not of rows.

    Rows of one slate share their program, so leaves that outnumber the slates learn the programs by heart.

    Parameters
    ----------
    n_slates : int
        Training slates with two different runtimes.
    n_rows : int
        Training rows.

    Returns
    -------
    dict
        A value for each of :data:`CAPACITY`.
    """
    few = n_slates < _FEW_SLATES
    return {
        "n_estimators": 500 if few else 1000,
        "num_leaves": 7 if few else 31,
        "learning_rate": 0.05,
        "min_child_samples": max(5, min(50, n_rows // 200)),
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
    n_slates: int,
    n_rows: int,
    costs: Sequence[int] = (),
    monotone: bool = False,
) -> Settings:
    """Fill in what is None and check the rest.

    Raises
    ------
    UsageError
        For a value that cannot be right: names the parameter.
    """
    chosen = default_capacity(n_slates, n_rows) | {name: value for name, value in capacity.items() if value is not None}
    return Settings(
        backend=backend,
        objective=_objective(backend, objective, goal, few=n_slates < _FEW_SLATES and bool(costs)),
        n_estimators=_whole("n_estimators", chosen["n_estimators"], _LEAST["n_estimators"]),
        num_leaves=_whole("num_leaves", chosen["num_leaves"], _LEAST["num_leaves"]),
        learning_rate=_rate(chosen["learning_rate"]),
        min_child_samples=_whole("min_child_samples", chosen["min_child_samples"], _LEAST["min_child_samples"]),
        early_stopping_rounds=_whole("early_stopping_rounds", early_stopping_rounds, _LEAST["early_stopping_rounds"]),
        seed=_seed(seed),
        n_jobs=threads(n_jobs),
        params=_plain(params or {}),
        costs=tuple(costs),
        monotone=_flag("monotone", monotone, bool(costs)),
    )


def reread(told: Any) -> Settings:
    """Settings of a fit out of a manifest: the fields of :class:`Settings`, as JSON holds them.

    Raises
    ------
    ValueError
        For a field that is missing, unknown or of another kind; UsageError is one.
    """
    names = {each.name for each in fields(Settings)}
    if not isinstance(told, Mapping) or told.keys() != names:
        raise ValueError("settings of a fit are missing or unknown")
    if told["backend"] not in tuple(OBJECTIVES) or told["objective"] not in OBJECTIVES[told["backend"]]:
        raise ValueError(f"got {told['backend']!r} with {told['objective']!r} for backend and objective")
    if not isinstance(told["params"], Mapping) or not isinstance(told["costs"], list):
        raise ValueError("params or costs of a fit are none")
    whole = {name: _whole(name, told[name], least) for name, least in _LEAST.items()}
    return Settings(
        backend=told["backend"],
        objective=told["objective"],
        learning_rate=_rate(told["learning_rate"]),
        params=_plain(told["params"]),
        costs=tuple(_whole("costs", place, 0) for place in told["costs"]),
        monotone=_flag("monotone", told["monotone"], True),
        **whole,
    )


def _flag(name: str, value: Any, meaningful: bool) -> bool:
    if not isinstance(value, bool):
        raise UsageError(f"{name}: got {value!r}, want True or False")
    if value and not meaningful:
        raise UsageError(f"{name}: there are no costs to be monotone in; name columns with Ranker(costs=…)")
    return value


def threads(n_jobs: int | None) -> int:
    """``n_jobs`` as the libraries want it; 0 leaves the choice to OpenMP.

    Raises
    ------
    UsageError
        For anything but a positive number, -1 or None.
    """
    return 0 if n_jobs is None or n_jobs == -1 else _whole("n_jobs", n_jobs, 1)


def _objective(backend: str, objective: str | None, goal: str, *, few: bool) -> str:
    if goal not in GOALS:
        raise UsageError(f"goal: got {goal!r}, want {' or '.join(map(repr, GOALS))}")
    offered = OBJECTIVES[backend]
    if objective is None:
        chosen = _DEFAULT[backend][GOALS.index(goal)]
        return "mixed-few" if few and chosen == "mixed" else chosen
    if objective not in offered:
        raise UsageError(f"objective: got {objective!r}, {backend} has {', '.join(map(repr, offered))}")
    return objective


def _whole(name: str, value: Any, least: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if isinstance(value, bool) or number < least:
        raise UsageError(f"{name}: got {value!r}, want a whole number from {least} on")
    return number


def _seed(value: Any) -> int:
    number = _whole("random_state", value, 0)
    if number >= SEEDS:
        raise UsageError(f"random_state: got {value!r}, want a number below {SEEDS}")
    return number


def _rate(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = 0.0
    if not 0 < number <= 1:
        raise UsageError(f"learning_rate: got {value!r}, want a number above 0, at most 1")
    return number


def _plain(params: Mapping[str, Any]) -> dict[str, Any]:
    for name, value in params.items():
        if not isinstance(value, str | int | float | bool | list | tuple):
            raise UsageError(f"params: {name!r} is a {type(value).__name__}, want text, numbers or lists of them")
    return dict(params)
