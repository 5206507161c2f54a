"""The mean of several models: members of different objectives and libraries err on different programs.

Each member's output is divided by its mean standard deviation within the training groups.  Unlike a mean of ranks this
keeps the score of a row independent of the other rows; on the embedded tile collection, families held out, both
reach the same tau.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gbr.errors import UsageError
from gbr.models.base import Model, ValidTau, backend
from gbr.models.params import MEMBERS, Settings, settings_from
from gbr.models.rows import Matrix, Rows

SUFFIX: Final = ".zip"

_INDEX: Final = "members.json"


@dataclass(frozen=True, eq=False)
class Member:
    """One model of an ensemble, and the settings of its fit."""

    settings: Settings
    model: Model
    spread: float  # mean standard deviation of its output within a training group


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
            total += member.model.predict(X, n_jobs) / member.spread
        return total / len(self.members)

    def gains(self) -> NDArray[np.float64]:
        """Mean of the members' shares of the gain per column, float64 (n_features,)."""
        shares = [gains / (gains.sum() or 1.0) for gains in (member.model.gains() for member in self.members)]
        return np.asarray(np.mean(shares, axis=0))

    def stopped_at(self, rounds: int) -> EnsembleModel:
        """The members after their first ``rounds`` rounds, divided by the spreads of the complete members."""
        members = [replace(member, model=member.model.stopped_at(rounds)) for member in self.members]
        return EnsembleModel(members, self.best_score)

    def compare(self, X: Matrix, first: int, second: int, n_jobs: int) -> NDArray[np.float64]:
        """Mean of the members' contributions over their spreads, float64 (n_features,)."""
        parts = [member.model.compare(X, first, second, n_jobs) / member.spread for member in self.members]
        return np.asarray(np.mean(parts, axis=0))

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
                index.append(about | {"iterations": member.model.n_iterations})
            archive.writestr(zipfile.ZipInfo(_INDEX), json.dumps(index, indent=1).encode())
        return buffer.getvalue()


def member_settings(settings: Settings) -> list[Settings]:
    """Settings of every member; UsageError for library parameters, as the members are of several libraries."""
    if settings.params:
        names = ", ".join(map(repr, settings.params))
        raise UsageError(f"params: {names} belongs to one library; choose it with backend='lightgbm' or 'xgboost'")
    return [
        replace(settings, backend=name, objective=objective, seed=settings.seed + number)
        for number, (name, objective) in enumerate(MEMBERS[settings.objective])
    ]


def fit(train: Rows, valid: Rows | None, settings: Settings) -> EnsembleModel:
    """Fit every member."""
    members = []
    for member in member_settings(settings):
        model = backend(member.backend).fit(train, valid, member)
        members.append(Member(member, model, mean_spread(spreads(model, train, settings.n_jobs))))
    ensemble = EnsembleModel(members)
    if valid is not None:
        ensemble.best_score = ValidTau(valid, settings.seed).of(ensemble, settings.n_jobs)
    return ensemble


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
    spread = float(entry["spread"])
    if not 0 < spread < np.inf:
        raise ValueError(f"member {entry['file']!r}: expected a positive spread, got {spread}")
    return Member(settings, model, spread)


def spreads(model: Model, train: Rows, n_jobs: int) -> NDArray[np.float64]:
    """Standard deviation of the output of a model within each non-empty group, float64."""
    scores = np.concatenate([model.predict(X, n_jobs) for _, X in train.batches()])
    return np.array([scores[a:b].std() for a, b in pairwise(train.indptr.tolist()) if b > a])


def mean_spread(values: NDArray[np.float64]) -> float:
    """Divisor of the output of a member: the mean of :func:`spreads`, or 1 for a constant model."""
    return float(np.mean(values)) or 1.0
