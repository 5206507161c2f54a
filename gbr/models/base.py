"""Models and backends: what each provides, and helpers of the library wrappers."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from importlib import import_module
from itertools import pairwise
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from gbr.errors import MissingLibraryError, UsageError, one_line
from gbr.models import openmp
from gbr.models.params import CAPACITY, OBJECTIVES, Settings
from gbr.models.rows import Matrix, Rows

FloatArray = NDArray[np.float64]


class Round(NamedTuple):
    """A round of a fit that has just ended."""

    model: str  # backend and objective
    number: int  # from 1 on
    most: int  # rounds without early stopping
    tau: float | None  # mean tau of the eval_set so far


#: Called after every round; returning True ends the fit, which keeps its best round so far.
OnRound = Callable[[Round], bool]


class Model(ABC):
    """A fitted model of ``n_iterations`` rounds, which never changes: any number of threads may use it at a time."""

    n_iterations: int
    n_features: int
    best_score: float | None = None
    versions: Mapping[str, str]  # of the libraries that trained it, by package
    foresees_failures: bool = False  # whether it predicts a chance to fail

    @abstractmethod
    def predict(self, X: Matrix, n_jobs: int) -> FloatArray:
        """Relevance, float64 (rows,): higher is faster."""

    def predict_both(self, X: Matrix, n_jobs: int) -> tuple[FloatArray, FloatArray]:
        """Relevance, and calibrated chance of a failure, float64 (rows,) each."""
        return self.predict(X, n_jobs), np.zeros(len(X))

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

    def __reduce__(self) -> tuple[Any, ...]:  # the libraries' own would start threads, for which a forked process waits
        return _restored, (self.__module__, self.to_bytes(), self.best_score)


def _restored(module: str, data: bytes, best_score: float | None) -> Model:
    model = cast(Backend, import_module(module)).load(data)
    model.best_score = best_score
    return model


class Backend(Protocol):
    """A module that fits and loads models of one library."""

    SUFFIX: str

    def fit(self, train: Rows, valid: Rows | None, settings: Settings, on_round: OnRound | None = None) -> Model:
        """Train; with ``valid``, stop early on its mean Kendall tau and keep the best round."""
        ...

    def load(self, data: bytes) -> Model:
        """Read the output of ``Model.to_bytes``; ValueError for anything else."""
        ...


def backend(name: str) -> Backend:
    """Import the backend called ``name``; UsageError or MissingLibraryError if that is not possible."""
    if name not in OBJECTIVES:
        raise UsageError(f"backend: expected {' or '.join(map(repr, OBJECTIVES))}, got {name!r}")
    return cast(Backend, import_module(f"gbr.models.{'lightgbm' if name == 'auto' else name}"))


def spreads(model: Model, train: Rows, n_jobs: int) -> NDArray[np.float64]:
    """Standard deviation of the output of a model within each non-empty group, float64."""
    scores = np.concatenate([model.predict(X, n_jobs) for _, X in train.batches()])
    return np.array([scores[a:b].std() for a, b in pairwise(train.indptr.tolist()) if b > a])


@contextmanager
def loading(library: str, package: str) -> Iterator[None]:
    """Context for the import of a boosting library; failures become a one-line MissingLibraryError.

    Idle OpenMP threads are set to sleep: spinning, they slow a fit a hundredfold on a busy machine.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        yield
        openmp.runtimes.cache_clear()
    except ModuleNotFoundError as error:
        raise MissingLibraryError(f"{library} is not installed; pip install {package}") from error
    except Exception as error:  # OSError from LightGBM, a class of XGBoost from XGBoost, which is not importable here
        if any(runtime in str(error) for runtime in ("libgomp", "libomp")):
            raise MissingLibraryError(
                f"{library} needs the OpenMP runtime libgomp.so.1: apt-get install libgomp1 (Debian, Ubuntu), "
                "dnf install libgomp (Fedora), brew install libomp (macOS)"
            ) from error
        raise MissingLibraryError(f"{library} cannot be loaded: {one_line(error)}") from error


@contextmanager
def library_errors(library: str, error_type: type[Exception]) -> Iterator[None]:
    """Context for a fit: an error of the library, mostly an invalid parameter value, becomes a one-line UsageError."""
    try:
        yield
    except error_type as error:
        # XGBoost starts with the time and a line of its source, and ends with a stack trace.
        message = re.sub(r"^\[[^\]]*\] \S+ ?(Check failed: )?", "", str(error).strip().split("Stack trace")[0])
        raise UsageError(f"params: {library}: {one_line(message)}") from error


def check_params(params: Mapping[str, Any], reserved: Mapping[str, str], known: Collection[str], library: str) -> None:
    """Refuse parameters that the library does not know or the ranker sets (``reserved``: name -> replacement).

    ``known`` is empty if the library checks its parameters itself.
    """
    for name in params:
        if name in reserved:
            raise UsageError(f"params: {name!r} is set by the ranker; use {reserved[name]}")
        if known and name not in known:
            raise UsageError(unknown_param(name, reserved, known, library))


def unknown_param(name: str, reserved: Mapping[str, str], known: Collection[str], library: str) -> str:
    """Message for a parameter that a library does not know, with the nearest name."""
    near = get_close_matches(name, [*reserved, *CAPACITY, *known], 1)
    instead = f"did you mean {near[0]!r}?" if near else "see its list of parameters"
    return f"params: {library} has no parameter {name!r}; {instead}"
