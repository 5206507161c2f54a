"""Several rankers as one: members of unlike objectives and libraries err on different programs.

Each member's output is divided by how far it spreads within the slates of the training set, and the mean is taken.
Unlike a mean of ranks this needs no slate, so a row's score does not depend on the rows it comes with; on the embedded
tile collection, families held out, both reach the same tau.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gbr.data.files import parse_json
from gbr.errors import UsageError
from gbr.models.base import Backend, Model, Rows, ValidTau, backend, keep_rounds
from gbr.models.checks import Matrix
from gbr.models.params import MEMBERS, Settings, reread

SUFFIX: Final = ".zip"

_INDEX: Final = "members.json"
#: Between these a mean over members is finite.
_SPREADS: Final = (1e-100, 1e100)
#: What reading a foreign or edited archive ends in, besides ValueError.
_NOT_OURS: Final = (
    zipfile.BadZipFile,
    LookupError,
    TypeError,
    AttributeError,
    OverflowError,
    UsageError,
    RuntimeError,  # encrypted, or a method that Python does not know
    EOFError,
    OSError,
    struct.error,
)


@dataclass(frozen=True, eq=False)
class Member:
    """One model of an ensemble.

    Parameters
    ----------
    settings : Settings
        What it was fitted with.
    model : Model
    spread : float
        Mean standard deviation of its output within a training slate.
    """

    settings: Settings
    model: Model
    spread: float


class EnsembleModel:
    """Fitted members behind the protocol of one model."""

    def __init__(self, members: Sequence[Member], best_score: float | None) -> None:
        self.members = tuple(members)
        self.n_iterations = sum(member.model.n_iterations for member in members)
        self.n_features = members[0].model.n_features
        self.best_score = best_score
        self.versions = dict(sorted({version for member in members for version in member.model.versions.items()}))

    def predict(self, X: Matrix, n_jobs: int, indptr: NDArray[np.int64]) -> NDArray[np.float64]:
        """Relevance, float64 (rows,)."""
        total = np.zeros(len(X))
        for member in self.members:
            total += member.model.predict(X, n_jobs, indptr) / member.spread
        return total / len(self.members)

    def gains(self) -> NDArray[np.float64]:
        """Mean of the members' shares of the gain per column, float64 (n_features,)."""
        shares = [gains / (gains.sum() or 1.0) for gains in (member.model.gains() for member in self.members)]
        return np.asarray(np.mean(shares, axis=0))

    def stopped_at(self, rounds: int) -> EnsembleModel:
        """Every member as it was after so many rounds, still divided by the spread of the whole."""
        return EnsembleModel(
            [replace(member, model=member.model.stopped_at(rounds)) for member in self.members], self.best_score
        )

    def compare(self, X: Matrix, first: int, second: int, n_jobs: int) -> NDArray[np.float64]:
        """Mean of what the members say, each over its spread, float64 (n_features,)."""
        told = [member.model.compare(X, first, second, n_jobs) / member.spread for member in self.members]
        return np.asarray(np.mean(told, axis=0))

    def to_bytes(self) -> bytes:
        """Give a zip archive: every member in its library's own format, and ``members.json``."""
        index = []
        held = io.BytesIO()
        with zipfile.ZipFile(held, "w") as archive:
            for number, member in enumerate(self.members):
                library = backend(member.settings.backend)
                name = f"{number}-{member.settings.backend}-{member.settings.objective}{library.SUFFIX}"
                _store(archive, name, member.model.to_bytes())
                index.append(
                    {
                        "file": name,
                        "settings": asdict(member.settings),
                        "spread": member.spread,
                        "iterations": member.model.n_iterations,
                    }
                )
            _store(archive, _INDEX, json.dumps(index, indent=1).encode())
        return held.getvalue()


def members(settings: Settings) -> list[Settings]:
    """Settings of every member.

    Raises
    ------
    UsageError
        For parameters of a library: members are of several.
    """
    if settings.params:
        names = ", ".join(map(repr, settings.params))
        raise UsageError(f"params: {names} belongs to one library; choose it with backend='lightgbm' or 'xgboost'")
    return [
        replace(settings, backend=name, objective=objective, seed=settings.seed + number)
        for number, (name, objective) in enumerate(MEMBERS[settings.objective])
    ]


def fit(train: Rows, valid: Rows | None, settings: Settings) -> EnsembleModel:
    """Fit every member; see :class:`gbr.models.base.Backend`."""
    fitted = []
    for own in members(settings):
        model = backend(own.backend).fit(train, valid, own)
        fitted.append(Member(own, model, mean_spread(spreads(model, train, settings.n_jobs))))
    found = EnsembleModel(fitted, None)
    if valid is not None:
        found.best_score = ValidTau(valid, settings.seed).of(found, settings.n_jobs)
    return found


def load(data: bytes, settings: Settings) -> EnsembleModel:
    """Read the archive; ValueError for anything else."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [_member(archive, entry) for entry in parse_json(_bytes(archive, _INDEX))]
    except _NOT_OURS as fault:
        raise ValueError(f"no ensemble ({fault})") from fault
    if not members or len({member.model.n_features for member in members}) > 1:
        raise ValueError("an ensemble without members, or whose members differ in their columns")
    return EnsembleModel(members, None)


def _member(archive: zipfile.ZipFile, entry: dict[str, Any]) -> Member:
    settings = reread(entry["settings"])
    if settings.backend not in dict.fromkeys(name for pairs in MEMBERS.values() for name, _ in pairs):
        raise ValueError(f"member of unknown backend {settings.backend!r}")
    library: Backend = backend(settings.backend)
    model = library.load(_bytes(archive, entry["file"]), settings)
    keep_rounds(model, entry["iterations"])
    spread = float(entry["spread"])
    if not _SPREADS[0] <= spread <= _SPREADS[1]:
        raise ValueError(f"member {entry['file']!r} has spread {spread}")
    return Member(settings, model, spread)


def spreads(model: Model, train: Rows, n_jobs: int) -> NDArray[np.float64]:
    """Standard deviation of a model's output within each slate that has rows, float64."""
    scores = np.empty(len(train.X))
    for rows, X in train.batches():
        first, last = np.searchsorted(train.indptr, (rows.start, rows.stop))
        scores[rows] = model.predict(X, n_jobs, train.indptr[first : last + 1] - rows.start)
    return np.array([scores[a:b].std() for a, b in pairwise(train.indptr.tolist()) if b > a])


def mean_spread(found: NDArray[np.float64]) -> float:
    """What a member's output is divided by: the mean of :func:`spreads`; 1 for a model that tells nothing apart."""
    return float(np.mean(found)) or 1.0


def _bytes(archive: zipfile.ZipFile, name: str) -> bytes:
    about = archive.getinfo(name)
    if about.compress_type != zipfile.ZIP_STORED or about.compress_size != about.file_size:
        raise ValueError(f"{name} is compressed, which no member is")
    return archive.read(name)


def _store(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    """Write an entry without the time of day: the same model is the same bytes."""
    archive.writestr(zipfile.ZipInfo(name), data)
