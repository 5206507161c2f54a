"""A weighted mean of several models, whose weights are chosen on validation groups.

Each member's output is divided by its mean standard deviation within the training groups.  Unlike a mean of ranks this
keeps the score of a row independent of the other rows.  Weights are those of greedy selection (Caruana et al.,
"Ensemble selection from libraries of models", ICML 2004): the member that most improves the ranking of the validation
groups is added repeatedly; members that are never added are dropped.
"""

from __future__ import annotations

import io
import json
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gbr.errors import UsageError
from gbr.models.base import Model, OnRound, Round, backend, spreads
from gbr.models.params import MEMBERS, Settings, settings_from
from gbr.models.rows import Matrix, Rows, in_memory
from gbr.models.stopping import ValidTau

SUFFIX: Final = ".zip"

_INDEX: Final = "members.json"
#: Steps of the greedy selection: weights are multiples of 1 / steps.
_STEPS: Final = 20
#: Without validation groups, one of this many groups (or, with fewer groups, rows of each) is held out for the weights.
_PARTS: Final = 4
#: Configurations that the goal ``topk`` measures.
_TOP: Final = 5


@dataclass(frozen=True, eq=False)
class Member:
    """One model of an ensemble, and the settings of its fit."""

    settings: Settings
    model: Model
    spread: float  # mean standard deviation of its output within a training group
    weight: float  # the weights of all members sum to 1

    def output(self, X: Matrix, n_jobs: int) -> NDArray[np.float64]:
        """Relevance over the spread, float64 (rows,)."""
        return self.model.predict(X, n_jobs) / self.spread


class EnsembleModel(Model):
    """Fitted members."""

    def __init__(self, members: Sequence[Member], best_score: float | None = None) -> None:
        self.members = tuple(members)
        self.n_iterations = sum(member.model.n_iterations for member in members)
        self.n_features = members[0].model.n_features
        self.best_score = best_score
        self.versions = dict(sorted({version for member in members for version in member.model.versions.items()}))

    def predict(self, X: Matrix, n_jobs: int) -> NDArray[np.float64]:
        """Relevance, float64 (rows,)."""
        total = np.zeros(len(X))
        for member in self.members:
            total += member.weight * member.output(X, n_jobs)
        return total

    def gains(self) -> NDArray[np.float64]:
        """Weighted mean of the members' shares of the gain per column, float64 (n_features,)."""
        total = np.zeros(self.n_features)
        for member in self.members:
            gains = member.model.gains()
            total += member.weight * gains / (gains.sum() or 1.0)
        return total

    def stopped_at(self, rounds: int) -> EnsembleModel:
        """The members after their first ``rounds`` rounds, divided by the spreads of the complete members."""
        members = [replace(member, model=member.model.stopped_at(rounds)) for member in self.members]
        return EnsembleModel(members, self.best_score)

    def compare(self, X: Matrix, first: int, second: int, n_jobs: int) -> NDArray[np.float64]:
        """Weighted mean of the members' contributions over their spreads, float64 (n_features,)."""
        total = np.zeros(self.n_features)
        for member in self.members:
            total += member.weight / member.spread * member.model.compare(X, first, second, n_jobs)
        return total

    def to_bytes(self) -> bytes:
        """A zip archive: every member in its library's format, and ``members.json``."""
        index = []
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for number, member in enumerate(self.members):
                suffix = backend(member.settings.backend).SUFFIX
                name = f"{number}-{member.settings.backend}-{member.settings.objective}{suffix}"
                # ZipInfo has a fixed date by default, so that equal models have equal bytes.
                archive.writestr(zipfile.ZipInfo(name), member.model.to_bytes())
                about = {"file": name, "settings": asdict(member.settings), "spread": member.spread}
                index.append(about | {"weight": member.weight})
            archive.writestr(zipfile.ZipInfo(_INDEX), json.dumps(index, indent=1).encode())
        return buffer.getvalue()


def member_settings(settings: Settings) -> list[Settings]:
    """Settings of every member; the cost model is one only where cost columns are named.

    UsageError for library parameters if the members are of several libraries.
    """
    members = [pair for pair in MEMBERS[settings.objective] if pair[0] != "costmodel" or settings.costs]
    libraries = {name for name, _ in members} - {"costmodel"}
    if settings.params and len(libraries) > 1:
        names = ", ".join(map(repr, settings.params))
        raise UsageError(
            f"params: {names}: the members of the ensemble are of several libraries; "
            "choose one with backend='lightgbm' or 'xgboost'"
        )
    return [
        replace(
            settings,
            backend=name,
            objective=objective,
            seed=settings.seed + number,
            params={} if name == "costmodel" else settings.params,
        )
        for number, (name, objective) in enumerate(members)
    ]


def fit(train: Rows, valid: Rows | None, settings: Settings, on_round: OnRound | None = None) -> EnsembleModel:
    """Fit every member and weigh them.

    Without validation groups, the weights are those of members fitted on a part of the training set and judged on the
    rest; then the members with a weight are fitted on all of it.
    """
    members, weights = member_settings(settings), None
    if valid is not None:
        return weighted(_fit_members(train, valid, members, on_round)[0], valid, settings)
    part, held_out = _hold_out(train, settings.seed)
    if part.n_rankable and held_out.n_rankable:
        half = settings if settings.time_limit is None else replace(settings, time_limit=settings.time_limit / 2)
        fitted, ended = _fit_members(part, None, member_settings(half), on_round)
        judged = weighted(fitted, held_out, settings)
        if ended:
            judged.best_score = None  # of training groups
            return judged
        members, weights = [each.settings for each in judged.members], [each.weight for each in judged.members]
    fitted, _ = _fit_members(train, None, members, on_round)
    return EnsembleModel(_with_weights(fitted, weights[: len(fitted)] if weights else [1.0] * len(fitted)))


def weighted(members: Sequence[Member], valid: Rows, settings: Settings) -> EnsembleModel:
    """Choose the weights of fitted members on validation groups and drop those without a weight."""
    tau = ValidTau(valid, settings.seed)
    outputs = np.array([member.output(tau.X, settings.n_jobs) for member in members])
    quality = partial(_top_speed, tau.rows) if settings.objective == "mixed-top" else tau
    weights = greedy_weights(outputs, quality)
    return EnsembleModel(_with_weights(members, weights), tau(weights @ outputs))


def greedy_weights(
    outputs: NDArray[np.float64], quality: Callable[[NDArray[np.float64]], float]
) -> NDArray[np.float64]:
    """Weights of the best sum among those that greedy selection with replacement forms.

    Parameters
    ----------
    outputs : float64 (members, rows)
        Ties are decided for the first member.
    quality : callable
        Of an output, float64 (rows,); higher is better.

    Returns
    -------
    float64 (members,)
        Summing to 1.
    """
    counts, total = np.zeros(len(outputs)), np.zeros(outputs.shape[1])
    best, kept = -np.inf, counts
    for _ in range(_STEPS):
        found = [quality(total + output) for output in outputs]
        chosen = int(np.argmax(found))
        counts, total = counts + np.eye(len(outputs))[chosen], total + outputs[chosen]
        if found[chosen] > best:
            best, kept = found[chosen], counts
    return np.asarray(kept / kept.sum())


def _top_speed(rows: Rows, relevance: NDArray[np.float64]) -> float:
    """Mean over groups of the speed of the fastest of the first rows, relative to the fastest of all."""
    speeds = []
    for start, stop in pairwise(rows.indptr.tolist()):
        target = rows.target[start:stop]
        first = np.argsort(-relevance[start:stop], kind="stable")[:_TOP]
        speeds.append(float(target.min() / target[first].min()))
    return float(np.mean(speeds))


def _fit_members(
    train: Rows, valid: Rows | None, members: Sequence[Settings], on_round: OnRound | None
) -> tuple[list[Member], bool]:
    """Fit the members in turn, with equal shares of the time that is left, until ``on_round`` ends the fit.

    Returns those that were fitted, and whether ``on_round`` ended the fit.
    """
    fitted: list[Member] = []
    start, ended = time.monotonic(), False

    def watch(ended_round: Round) -> bool:
        nonlocal ended
        ended = on_round is not None and on_round(ended_round)
        return ended

    for number, settings in enumerate(members):
        limited = settings
        if settings.time_limit is not None:
            left = max(0.0, settings.time_limit - (time.monotonic() - start))
            limited = replace(settings, time_limit=left / (len(members) - number))
        model = backend(settings.backend).fit(train, valid, limited, watch)
        fitted.append(Member(settings, model, mean_spread(spreads(model, train, settings.n_jobs)), 1 / len(members)))
        if ended:
            break
    return fitted, ended


def _with_weights(members: Sequence[Member], weights: Sequence[float] | NDArray[np.float64]) -> list[Member]:
    total = float(np.sum(weights))
    return [
        replace(member, weight=float(weight) / total)
        for member, weight in zip(members, weights, strict=True)
        if weight > 0
    ]


def _hold_out(train: Rows, seed: int) -> tuple[Rows, Rows]:
    """Split a training set by groups, or by rows if there are few groups, and gather the held-out rows."""
    rng = np.random.default_rng(seed)
    n_groups = len(train.sizes)
    if n_groups >= _PARTS:
        held_groups = np.zeros(n_groups, bool)
        held_groups[rng.permutation(n_groups)[: n_groups // _PARTS]] = True
        held = np.repeat(held_groups, train.sizes)
    else:
        held = rng.permutation(len(train.target)) < len(train.target) // _PARTS
    parts = []
    for chosen in (~held, held):
        rows = np.flatnonzero(chosen)
        parts.append(train.take(rows, np.unique(np.searchsorted(rows, train.indptr)).astype(np.int64)))
    return parts[0], in_memory(parts[1], seed)


def load(data: bytes) -> EnsembleModel:
    """Read the archive; ValueError for anything else."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [_load_member(archive, entry) for entry in json.loads(archive.read(_INDEX))]
    except (zipfile.BadZipFile, LookupError, TypeError, AttributeError, RuntimeError, OSError) as error:
        raise ValueError(f"not an ensemble ({error})") from error
    if len({member.model.n_features for member in members}) != 1:
        raise ValueError("not an ensemble: expected members with the same number of columns")
    return EnsembleModel(members)


def _load_member(archive: zipfile.ZipFile, entry: dict[str, Any]) -> Member:
    settings = settings_from(entry["settings"])
    model = backend(settings.backend).load(archive.read(entry["file"]))
    spread, weight = float(entry["spread"]), float(entry["weight"])
    if not (0 < spread < np.inf and 0 < weight <= 1):
        raise ValueError(f"member {entry['file']!r}: expected positive numbers, got spread {spread}, weight {weight}")
    return Member(settings, model, spread, weight)


def mean_spread(values: NDArray[np.float64]) -> float:
    """Divisor of the output of a member: the mean of :func:`spreads`, or 1 for a constant model."""
    return float(np.mean(values)) or 1.0
