"""Fit what is not on disk yet, and keep the predictions, so that an interrupted run resumes.

::

    <root>/<collection>-<hash>/about.json
    <root>/<collection>-<hash>/<protocol>/<contender>/<fold>.npy

The hash is over all that shapes a prediction: features, graphs, options, libraries, and the code that fits.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

import gbr
from benchmarks.quality.contenders import Fit, Options, Task, column_taus
from benchmarks.quality.folds import Pool, Protocol
from gbr import cli
from gbr.data.files import atomic_write, write_json

FloatArray = NDArray[np.float64]

_SECONDS: Final = "seconds.json"


class Predictions:
    """Scores of held-out rows by protocol, contender and fold.

    Parameters
    ----------
    root : Path
    collection : str
    about : mapping
        What shapes the predictions; JSON.
    """

    def __init__(self, root: Path, collection: str, about: Mapping[str, Any]) -> None:
        whole = {**about, "code": code_hash(), "libraries": libraries()}
        text = json.dumps(whole, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        self.folder = root / f"{collection.replace(':', '-')}-{digest}"
        if not (self.folder / "about.json").exists():
            write_json(self.folder / "about.json", whole)

    def path(self, protocol: str, contender: str, fold: int) -> Path:
        """File of one fold."""
        return self.folder / protocol / contender.replace(",", "").replace(" ", "-") / f"{fold}.npy"

    def has(self, protocol: str, contender: str, fold: int) -> bool:
        """Whether a fold is there."""
        return self.path(protocol, contender, fold).exists()

    def write(self, protocol: str, contender: str, fold: int, scores: FloatArray) -> None:
        """Keep a fold, whole or not at all."""
        self.keep(self.path(protocol, contender, fold), scores)

    def read(self, protocol: str, contender: str, fold: int) -> FloatArray:
        """Scores of the fold's held-out rows, float64 (rows,)."""
        return np.asarray(np.load(self.path(protocol, contender, fold)))

    def seconds(self, protocol: str) -> dict[str, list[float]]:
        """Seconds of every fit made so far, by its key."""
        path = self.folder / protocol / _SECONDS
        if not path.exists():
            return {}
        return {str(key): list(values) for key, values in json.loads(path.read_text()).items()}

    def took(self, protocol: str, key: str, seconds: float) -> None:
        """Keep how long a fit took."""
        known = self.seconds(protocol)
        known.setdefault(key, []).append(round(seconds, 3))
        write_json(self.folder / protocol / _SECONDS, known)

    @staticmethod
    def keep(path: Path, values: FloatArray) -> None:
        """Write an array, whole or not at all."""
        with atomic_write(path) as part, part.open("wb") as file:
            np.save(file, values)


def code_hash() -> str:
    """12 hex digits over the code that fits."""
    own = Path(gbr.__file__).parent
    paths = [*sorted(own.glob("models/*.py")), own / "ranker.py", own / "evaluation/baselines.py"]
    paths += [Path(__file__).with_name(f"{name}.py") for name in ("contenders", "folds")]
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:12]


def libraries() -> dict[str, str]:
    """Versions of the packages that predictions depend on."""
    packages = packages_distributions()
    return {name: version(packages[name][0]) for name in ("lightgbm", "numpy", "scipy", "xgboost")}


@dataclass(frozen=True, eq=False)
class Plan:
    """A protocol and what is fitted in each of its folds."""

    protocol: Protocol
    fits: Sequence[Fit]

    @property
    def contenders(self) -> tuple[str, ...]:
        """Names of all contenders."""
        return tuple(name for fit in self.fits for name in fit.names)


class Bench:
    """One collection and the predictions for it.

    Parameters
    ----------
    pool : Pool
    predictions : Predictions
    options : Options
    """

    def __init__(self, pool: Pool, predictions: Predictions, options: Options) -> None:
        self.pool = pool
        self.predictions = predictions
        self.options = options
        self._taus: FloatArray | None = None

    def taus(self) -> FloatArray:
        """Tau of every column in every group, float64 (groups, columns); kept on disk."""
        if self._taus is None:
            path = self.predictions.folder / "column_taus.npy"
            if not path.exists():
                self.predictions.keep(path, column_taus(self.pool.groups, self.options.seed))
            self._taus = np.asarray(np.load(path))
        return self._taus

    def task(self, protocol: Protocol, fold: int) -> Task:
        """One fold, ready to fit."""
        return Task(self.pool, protocol.folds[fold], self.options, self.taus)

    def run(self, plans: Sequence[Plan]) -> int:
        """Fit what is missing; returns the number of fits."""
        done = sum(self._fold(plan, 0) for plan in plans)
        for plan in filter(self.missing, plans):
            cli.note(
                f"{self.pool.subset.name}, {plan.protocol.name} ({plan.contenders[0]} …): "
                f"{self.missing(plan)} fits left, about {cli.duration(self.needed(plan))}"
            )
        for plan in filter(self.missing, plans):
            with cli.progress(self.missing(plan), f"{plan.protocol.name} ({plan.contenders[0]} …)") as advance:
                for fold in range(len(plan.protocol.folds)):
                    done += self._fold(plan, fold, advance)
        return done

    def missing(self, plan: Plan) -> int:
        """Fits of a plan that are not on disk."""
        return sum(len(self._missing(plan, fold)) for fold in range(len(plan.protocol.folds)))

    def needed(self, plan: Plan) -> float:
        """Seconds that the missing fits of a plan will take, by those made so far."""
        known = {key: float(np.mean(values)) for key, values in self.predictions.seconds(plan.protocol.name).items()}
        folds = range(len(plan.protocol.folds))
        return sum(known.get(fit.key, 0.0) for fold in folds for fit in self._missing(plan, fold))

    def scores(self, protocol: Protocol, contender: str) -> FloatArray:
        """Predictions out of fold, float64 (rows of the pool,); NaN on graphs that are never held out."""
        groups = self.pool.groups
        found = np.full(len(groups.X), np.nan)
        for number, fold in enumerate(protocol.folds):
            found[fold.held[groups.qid]] = self.predictions.read(protocol.name, contender, number)
        return found

    def _missing(self, plan: Plan, fold: int) -> list[Fit]:
        has, protocol = self.predictions.has, plan.protocol.name
        return [fit for fit in plan.fits if not all(has(protocol, name, fold) for name in fit.names)]

    def _fold(self, plan: Plan, fold: int, advance: Callable[[int], None] = lambda _steps: None) -> int:
        missing = self._missing(plan, fold)
        task = self.task(plan.protocol, fold)
        for fit in missing:
            start = time.monotonic()
            found = fit.run(task)
            self.predictions.took(plan.protocol.name, fit.key, time.monotonic() - start)
            for name in fit.names:
                self.predictions.write(plan.protocol.name, name, fold, found[name])
            advance(1)
        return len(missing)
