"""Fit what has no stored predictions yet, so that an interrupted run resumes.

::

    <root>/<collection>-<hash>/about.json
    <root>/<collection>-<hash>/<protocol>/<contender>/<fold>.npy

The hash covers everything that determines predictions: features, graphs, options, libraries and the code of the fits.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
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
        JSON values that determine the predictions.
    """

    def __init__(self, root: Path, collection: str, about: Mapping[str, Any]) -> None:
        packages = packages_distributions()
        libraries = {name: version(packages[name][0]) for name in ("lightgbm", "numpy", "scipy", "xgboost")}
        about = {**about, "code": code_hash(), "libraries": libraries}
        digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:12]
        self.folder = root / f"{collection.replace(':', '-')}-{digest}"
        if not (self.folder / "about.json").exists():
            write_json(self.folder / "about.json", about)

    def path(self, protocol: str, contender: str, fold: int) -> Path:
        """File of one fold."""
        return self.folder / protocol / contender.replace(",", "").replace(" ", "-") / f"{fold}.npy"

    def write(self, path: Path, values: FloatArray) -> None:
        """Write an array atomically."""
        with atomic_write(path) as part, part.open("wb") as file:
            np.save(file, values)

    def seconds(self, protocol: str) -> dict[str, list[float]]:
        """Seconds of every fit so far, by its key."""
        path = self.folder / protocol / _SECONDS
        return dict(json.loads(path.read_text())) if path.exists() else {}

    def add_seconds(self, protocol: str, key: str, seconds: float) -> None:
        """Store the duration of a fit."""
        known = self.seconds(protocol)
        known.setdefault(key, []).append(round(seconds, 3))
        write_json(self.folder / protocol / _SECONDS, known)


def code_hash() -> str:
    """12 hex digits over the code of the fits."""
    package = Path(gbr.__file__).parent
    paths = [*sorted(package.glob("models/*.py")), package / "ranker.py", package / "evaluation/baselines.py"]
    paths += [Path(__file__).with_name(f"{name}.py") for name in ("contenders", "folds")]
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:12]


@dataclass(frozen=True, eq=False)
class Plan:
    """A protocol and the fits of each of its folds."""

    protocol: Protocol
    fits: Sequence[Fit]

    @property
    def contenders(self) -> tuple[str, ...]:
        """Names of all contenders."""
        return tuple(name for fit in self.fits for name in fit.names)

    def __str__(self) -> str:
        return f"{self.protocol.name} ({self.contenders[0]} …)"


class Bench:
    """One collection and its predictions.

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

    @cached_property
    def taus(self) -> FloatArray:
        """Tau of every column in every group, float64 (groups, columns); stored on disk."""
        path = self.predictions.folder / "column_taus.npy"
        if not path.exists():
            self.predictions.write(path, column_taus(self.pool.groups, self.options.seed))
        return np.asarray(np.load(path))

    def task(self, protocol: Protocol, fold: int) -> Task:
        """The input of the fits of one fold."""
        return Task(self.pool, protocol.folds[fold], self.options, lambda: self.taus)

    def missing(self, plan: Plan) -> list[tuple[int, Fit]]:
        """Fold and fit of all fits without stored predictions."""
        return [
            (fold, fit)
            for fold in range(len(plan.protocol.folds))
            for fit in plan.fits
            if not all(self.predictions.path(plan.protocol.name, name, fold).exists() for name in fit.names)
        ]

    def run(self, plans: Sequence[Plan]) -> None:
        """Fit what is missing: the first fold of all plans, then the others, with an estimate of the time left."""
        for plan in plans:
            self._fit(plan, [(fold, fit) for fold, fit in self.missing(plan) if fold == 0])
        missing = {plan: self.missing(plan) for plan in plans}
        for plan, fits in missing.items():
            known = self.predictions.seconds(plan.protocol.name)
            left = sum(float(np.mean(known.get(fit.key, 0.0))) for _, fit in fits)
            if fits:
                cli.note(f"{self.pool.subset.name}, {plan}: {len(fits)} fits left, about {cli.duration(left)}")
        for plan, fits in missing.items():
            self._fit(plan, fits)

    def _fit(self, plan: Plan, fits: Sequence[tuple[int, Fit]]) -> None:
        if not fits:
            return
        protocol = plan.protocol
        with cli.progress(len(fits), str(plan)) as advance:
            task, current = self.task(protocol, fits[0][0]), fits[0][0]
            for fold, fit in fits:
                if fold != current:
                    task, current = self.task(protocol, fold), fold
                start = time.monotonic()
                scores = fit.run(task)
                self.predictions.add_seconds(protocol.name, fit.key, time.monotonic() - start)
                for name in fit.names:
                    self.predictions.write(self.predictions.path(protocol.name, name, fold), scores[name])
                advance(1)

    def scores(self, protocol: Protocol, contender: str) -> FloatArray:
        """Out-of-fold predictions, float64 (rows of the pool,); NaN for graphs that are never held out."""
        groups = self.pool.groups
        scores = np.full(len(groups.X), np.nan)
        for number, fold in enumerate(protocol.folds):
            scores[fold.held[groups.qid]] = np.load(self.predictions.path(protocol.name, contender, number))
        return scores
