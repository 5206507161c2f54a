"""What every boosting library looks like to the ranker, and the doors through which one is loaded."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise
from typing import Any, Final, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from gbr.errors import MissingLibraryError, UsageError
from gbr.models import labels
from gbr.models.batches import StreamedMatrix
from gbr.models.checks import Matrix
from gbr.models.labels import Target
from gbr.models.params import OBJECTIVES, Settings
from gbr.models.sampling import some_rows

#: Rows of a slate that early stopping looks at.
EARLY_STOPPING_ROWS: Final = 1000
_EARLY_STOPPING_PAIRS: Final = 20_000

#: Objectives that are least squares -> the label they learn.
REGRESSED: Final = {"l2": labels.normalised_rank, "speed": labels.relative_speed}


@dataclass(frozen=True, eq=False)
class Rows:
    """QueryGroups a model learns from: features, targets (lower is faster) and slate bounds."""

    X: Matrix | StreamedMatrix
    target: Target
    indptr: NDArray[np.int64]

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Rows per slate, int64 (slates,)."""
        return np.diff(self.indptr)

    @property
    def n_rankable(self) -> int:
        """QueryGroups with two different targets."""
        distinct = np.maximum.reduceat(labels.ranks(self.target, self.indptr), self.indptr[:-1])
        return int((distinct > 0).sum())

    def take(self, rows: NDArray[np.int64], indptr: NDArray[np.int64]) -> Rows:
        """Some rows under new slate bounds, slates in order; features outside memory stay there."""
        X = self.X.view(rows) if isinstance(self.X, StreamedMatrix) else self.X[rows]
        return Rows(X, self.target[rows], indptr)

    def batches(self) -> Iterator[tuple[slice, Matrix]]:
        """Features in memory and the rows they are of, whole slates each: all at once where they are there already."""
        if isinstance(self.X, StreamedMatrix):
            yield from self.X.batches()
        else:
            yield slice(0, len(self.X)), self.X


class Predictor(Protocol):
    """What scores rows."""

    def predict(self, X: Matrix, n_jobs: int, indptr: NDArray[np.int64]) -> NDArray[np.float64]:
        """Relevance, float64 (rows,): higher is faster.  Few models ask which rows are one slate, ``indptr``."""
        ...


class Model(Predictor, Protocol):
    """A fitted booster."""

    n_iterations: int
    n_features: int
    best_score: float | None
    versions: Mapping[str, str]  # of the libraries that made it, by package

    def gains(self) -> NDArray[np.float64]:
        """Total gain of the splits of each column, float64 (n_features,)."""
        ...

    def stopped_at(self, rounds: int) -> Model:
        """The model as it was after so many rounds; the whole one where it has no more."""
        ...

    def compare(self, X: Matrix, first: int, second: int, n_jobs: int) -> NDArray[np.float64]:
        """What each column adds to the relevance of row ``first`` of a slate over row ``second``.

        float64 (n_features,), which sums to the difference of the two rows' relevance.
        """
        ...

    def to_bytes(self) -> bytes:
        """Give the model in the library's own format."""
        ...


class Backend(Protocol):
    """A module that fits and loads models with one library."""

    SUFFIX: str

    def fit(self, train: Rows, valid: Rows | None, settings: Settings) -> Model:
        """Train; with ``valid``, stop early on its mean Kendall tau and keep the best iteration."""
        ...

    def load(self, data: bytes, settings: Settings) -> Model:
        """Read what ``Model.to_bytes`` wrote, with the settings of the fit; ValueError for anything else."""
        ...


#: Backends whose module has another name.
_MODULES: Final = {"costmodel": "cost_model"}


def backend(name: str) -> Backend:
    """Import the backend called ``name``.

    Raises
    ------
    UsageError
        For an unknown name.
    MissingLibraryError
        When the library, or the OpenMP runtime below it, is not installed.
    """
    if name not in OBJECTIVES:
        raise UsageError(f"backend: got {name!r}, want {' or '.join(map(repr, OBJECTIVES))}")
    return cast(Backend, import_module(f"gbr.models.{_MODULES.get(name, name)}"))


def keep_rounds(model: Model, rounds: Any) -> None:
    """Let a model that was read count the rounds that its file says were kept; ValueError where it has not so many."""
    if type(rounds) is not int or not 0 <= rounds <= model.n_iterations:
        raise ValueError(f"got {rounds!r} rounds of a model that has {model.n_iterations}")
    model.n_iterations = rounds


@contextmanager
def loading(library: str, package: str) -> Iterator[None]:
    """Import a boosting library inside; what goes wrong becomes one line.

    Idle OpenMP threads are told to sleep: left to spin, they slow a fit a hundredfold on a machine with other work.

    Raises
    ------
    MissingLibraryError
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        yield
    except ModuleNotFoundError as fault:
        raise MissingLibraryError(f"{library} is not installed; pip install {package}") from fault
    except Exception as fault:  # OSError from LightGBM, XGBoost's own class from XGBoost: neither is importable here
        if any(runtime in str(fault) for runtime in ("libgomp", "libomp")):
            raise MissingLibraryError(
                f"{library} needs the OpenMP runtime libgomp.so.1: apt-get install libgomp1 (Debian, Ubuntu), "
                "dnf install libgomp (Fedora), brew install libomp (macOS)"
            ) from fault
        raise MissingLibraryError(f"{library} cannot be loaded: {' '.join(str(fault).split())}") from fault


@contextmanager
def refusals(library: str, refusal: type[Exception]) -> Iterator[None]:
    """Train inside; what the library refuses (a parameter's value, mostly) becomes one line.

    Parameters
    ----------
    library : str
    refusal : type
        The library's own exception.

    Raises
    ------
    UsageError
    """
    try:
        yield
    except refusal as fault:
        # XGBoost begins with the time and a line of its source, and ends with a stack trace.
        told = re.sub(r"^\[[^\]]*\] \S+ ?(Check failed: )?", "", str(fault).strip().split("Stack trace")[0])
        raise UsageError(f"params: {library}: {' '.join(told.split())}") from fault


def sub_slates(indptr: NDArray[np.int64], limit: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Cut slates above ``limit`` rows into equal parts of random rows.

    A part is a random sample of its slate, so its pairs are an unbiased sample of the slate's pairs.

    Returns
    -------
    rows : int64 (rows,)
        Row numbers, part after part, ascending within a part.
    indptr : int64 (parts + 1,)
    None
        Where no slate is above the limit.
    """
    sizes = np.diff(indptr)
    if not len(sizes) or sizes.max() <= limit:
        return None
    rng = np.random.default_rng(seed)
    rows: list[NDArray[np.int64]] = []
    for start, size in zip(indptr[:-1], sizes, strict=True):
        n_parts = -(-int(size) // limit)
        if n_parts <= 1:
            rows.append(np.arange(start, start + size))
            continue
        shuffled = start + rng.permutation(size)
        rows.extend(np.sort(shuffled[part::n_parts]) for part in range(n_parts))
    return np.concatenate(rows), np.cumsum([0, *map(len, rows)], dtype=np.int64)


class ValidTau:
    """Mean Kendall tau over the slates of a validation set, taken after every round and so to be had in milliseconds.

    Large slates are represented by 1000 random rows, and more than :data:`_EARLY_STOPPING_PAIRS` pairs by as many
    random ones (a standard error of .005 per slate).  Equal scores count as in random order: tau-b rewards ties, and
    would stop at the first few coarse trees.  QueryGroups without two different targets are left out.
    """

    def __init__(self, valid: Rows, seed: int) -> None:
        rng = np.random.default_rng(seed)
        kept: list[NDArray[np.int64]] = []
        for start, stop in pairwise(valid.indptr):
            rows = some_rows(start, stop, EARLY_STOPPING_ROWS, rng)
            if len(np.unique(valid.target[rows])) > 1:
                kept.append(rows)
        if not kept:
            raise UsageError("eval_set: no query has two different runtimes; nothing to stop on")
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

    def of(self, model: Predictor, n_jobs: int) -> float:
        """Mean tau of a fitted model."""
        return self(model.predict(self.X, n_jobs, self.rows.indptr))


def reject(params: Mapping[str, Any], taken: Mapping[str, str], known: Callable[[str], bool], library: str) -> None:
    """Refuse library parameters that the ranker sets itself or that the library does not know.

    Parameters
    ----------
    params : mapping
        What the user passes through.
    taken : mapping
        Name of a parameter -> what to use instead.
    known : callable
        Whether the library knows a parameter.

    Raises
    ------
    UsageError
    """
    for name in params:
        if name in taken:
            raise UsageError(f"params: {name!r} is set by the ranker; use {taken[name]}")
        if not known(name):
            raise UsageError(f"params: {library} has no parameter {name!r}; see its list of parameters")
