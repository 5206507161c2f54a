"""Models and backends: what each provides, early stopping on Kendall's tau, and helpers of the library wrappers."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from itertools import pairwise
from typing import Any, Final, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from gbr.errors import MissingLibraryError, UsageError
from gbr.models.params import OBJECTIVES, Settings
from gbr.models.rows import Matrix, Rows, subsample

FloatArray = NDArray[np.float64]

#: Rows per group that early stopping uses.
EARLY_STOPPING_ROWS: Final = 1000
_EARLY_STOPPING_PAIRS: Final = 20_000


class Model(ABC):
    """A fitted model of ``n_iterations`` rounds."""

    n_iterations: int
    n_features: int
    best_score: float | None = None
    versions: Mapping[str, str]  # of the libraries that trained it, by package

    @abstractmethod
    def predict(self, X: Matrix, n_jobs: int) -> FloatArray:
        """Relevance, float64 (rows,): higher is faster."""

    @abstractmethod
    def gains(self) -> FloatArray:
        """Total gain of the splits on each column, float64 (n_features,)."""

    @abstractmethod
    def stopped_at(self, rounds: int) -> Model:
        """The model after its first ``rounds`` rounds."""

    @abstractmethod
    def compare(self, X: Matrix, first: int, second: int, n_jobs: int) -> FloatArray:
        """Contribution of each column to the difference of the relevance of two rows, float64 (n_features,)."""

    @abstractmethod
    def to_bytes(self) -> bytes:
        """Serialise in the library's format."""


class Backend(Protocol):
    """A module that fits and loads models of one library."""

    SUFFIX: str

    def fit(self, train: Rows, valid: Rows | None, settings: Settings) -> Model:
        """Train; with ``valid``, stop early on its mean Kendall tau and keep the best iteration."""
        ...

    def load(self, data: bytes) -> Model:
        """Read the output of ``Model.to_bytes``; ValueError for anything else."""
        ...


def backend(name: str) -> Backend:
    """Import the backend called ``name``; UsageError or MissingLibraryError if that is not possible."""
    if name not in OBJECTIVES:
        raise UsageError(f"backend: expected {' or '.join(map(repr, OBJECTIVES))}, got {name!r}")
    return cast(Backend, import_module(f"gbr.models.{name}"))


@contextmanager
def loading(library: str, package: str) -> Iterator[None]:
    """Context for the import of a boosting library; failures become a one-line MissingLibraryError.

    Idle OpenMP threads are set to sleep: spinning, they slow a fit a hundredfold on a busy machine.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingLibraryError(f"{library} is not installed; pip install {package}") from error
    except Exception as error:  # OSError from LightGBM, a class of XGBoost from XGBoost, which is not importable here
        if any(runtime in str(error) for runtime in ("libgomp", "libomp")):
            raise MissingLibraryError(
                f"{library} needs the OpenMP runtime libgomp.so.1: apt-get install libgomp1 (Debian, Ubuntu), "
                "dnf install libgomp (Fedora), brew install libomp (macOS)"
            ) from error
        raise MissingLibraryError(f"{library} cannot be loaded: {' '.join(str(error).split())}") from error


@contextmanager
def library_errors(library: str, error_type: type[Exception]) -> Iterator[None]:
    """Context for a fit: an error of the library, mostly an invalid parameter value, becomes a one-line UsageError."""
    try:
        yield
    except error_type as error:
        # XGBoost starts with the time and a line of its source, and ends with a stack trace.
        message = re.sub(r"^\[[^\]]*\] \S+ ?(Check failed: )?", "", str(error).strip().split("Stack trace")[0])
        raise UsageError(f"params: {library}: {' '.join(message.split())}") from error


def check_params(
    params: Mapping[str, Any], reserved: Mapping[str, str], known: Callable[[str], bool], library: str
) -> None:
    """Refuse parameters that the library does not know or the ranker sets (``reserved``: name -> replacement)."""
    for name in params:
        if name in reserved:
            raise UsageError(f"params: {name!r} is set by the ranker; use {reserved[name]}")
        if not known(name):
            raise UsageError(f"params: {library} has no parameter {name!r}; see its list of parameters")


class ValidTau:
    """Mean Kendall tau over the groups of a validation set, fast enough to compute after every round.

    At most :data:`EARLY_STOPPING_ROWS` rows and :data:`_EARLY_STOPPING_PAIRS` pairs of a group are used, sampled at
    random (standard error .005 per group).  Equal scores count as in random order, because tau-b rewards ties and would
    stop after the first few coarse trees.  Groups without two different targets are skipped.
    """

    def __init__(self, valid: Rows, seed: int) -> None:
        rng = np.random.default_rng(seed)
        kept: list[NDArray[np.int64]] = []
        for start, stop in pairwise(valid.indptr):
            rows = subsample(start, stop, EARLY_STOPPING_ROWS, rng)
            if len(np.unique(valid.target[rows])) > 1:
                kept.append(rows)
        if not kept:
            raise UsageError("eval_set: expected at least one query group with two different runtimes")
        chosen = np.concatenate(kept)
        self.X: Matrix = valid.X[chosen]
        self.rows = Rows(self.X, valid.target[chosen], np.cumsum([0, *map(len, kept)], dtype=np.int64))
        faster, slower, sizes = [], [], []
        for start, stop in pairwise(self.rows.indptr.tolist()):
            first, second = np.triu_indices(stop - start, k=1)
            target = self.rows.target[start:stop]
            differ = np.flatnonzero(target[first] != target[second])
            if len(differ) > _EARLY_STOPPING_PAIRS:
                differ = rng.choice(differ, _EARLY_STOPPING_PAIRS, replace=False)
            first, second = first[differ], second[differ]
            swap = target[first] > target[second]
            faster.append(start + np.where(swap, second, first))
            slower.append(start + np.where(swap, first, second))
            sizes.append(len(differ))
        self._faster, self._slower = np.concatenate(faster), np.concatenate(slower)
        self._starts, self._sizes = np.cumsum([0, *sizes[:-1]]), np.array(sizes)

    def __call__(self, relevance: NDArray[Any]) -> float:
        """Mean tau of a booster's output for :attr:`rows`, float (rows,), higher is faster."""
        higher = np.asarray(relevance, np.float64)
        signs = np.sign(higher[self._faster] - higher[self._slower])
        return float(np.mean(np.add.reduceat(signs, self._starts) / self._sizes))

    def of(self, model: Model, n_jobs: int) -> float:
        """Mean tau of a fitted model."""
        return self(model.predict(self.X, n_jobs))
