"""Fit what has no stored predictions yet, so that an interrupted run resumes.

A fit of a fold is one file, ``<root>/<collection>-<hash>/<protocol>/<contender>-<fold>.npz``.  The hash covers
everything that determines predictions: features, graphs, options, libraries and the code of the fits.
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
from typing import Any

import numpy as np
from numpy.typing import NDArray

import gbr
from benchmarks.quality.contenders import Fit, Options, Task, column_taus
from benchmarks.quality.folds import Pool, Protocol
from gbr import cli
from gbr.data.files import atomic_write

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Plan:
    """A protocol and the fits of each of its folds."""

    protocol: Protocol
    fits: Sequence[Fit]


class Bench:
    """One collection and its predictions below ``root``; ``about`` are JSON values that determine them."""

    def __init__(self, pool: Pool, options: Options, root: Path, about: Mapping[str, Any]) -> None:
        self.pool = pool
        self.options = options
        packages = packages_distributions()
        libraries = {name: version(packages[name][0]) for name in ("lightgbm", "numpy", "scipy", "xgboost")}
        known = json.dumps({**about, "code": _code_hash(), "libraries": libraries}, sort_keys=True)
        name = pool.subset.name.replace(":", "-")
        self.folder = root / f"{name}-{hashlib.sha256(known.encode()).hexdigest()[:12]}"

    @cached_property
    def taus(self) -> FloatArray:
        """Tau of every column in every group, float64 (groups, columns)."""
        return column_taus(self.pool.groups, self.options.seed)

    def task(self, protocol: Protocol, fold: int) -> Task:
        """The input of the fits of one fold."""
        return Task(self.pool, protocol.folds[fold], self.options, lambda: self.taus)

    def path(self, protocol: Protocol, fit: Fit, fold: int) -> Path:
        """File of one fit."""
        return self.folder / protocol.name / f"{fit.names[0].replace(',', '').replace(' ', '-')}-{fold}.npz"

    def missing(self, plan: Plan) -> list[tuple[int, Fit]]:
        """Fold and fit of all fits without stored predictions."""
        every = [(fold, fit) for fold in range(len(plan.protocol.folds)) for fit in plan.fits]
        return [(fold, fit) for fold, fit in every if not self.path(plan.protocol, fit, fold).exists()]

    def run(self, plans: Sequence[Plan]) -> None:
        """Fit what is missing."""
        for plan in plans:
            fits = self.missing(plan)
            protocol, task, current = plan.protocol, None, None
            with cli.progress(len(fits), f"{self.pool.subset.name}, {protocol.name}") as advance:
                for fold, fit in fits:
                    if task is None or fold != current:
                        task, current = self.task(protocol, fold), fold
                    start = time.monotonic()
                    scores = fit.run(task)
                    with atomic_write(self.path(protocol, fit, fold)) as part, part.open("wb") as file:
                        np.savez(file, **scores, seconds=time.monotonic() - start)
                    advance(1)

    def scores(self, plan: Plan) -> tuple[dict[str, FloatArray], dict[str, float]]:
        """Out-of-fold predictions by contender, and the mean seconds of every fit by its first contender.

        float64 (rows of the pool,); NaN for graphs that are never held out.
        """
        groups = self.pool.groups
        scores = {name: np.full(len(groups.X), np.nan) for fit in plan.fits for name in fit.names}
        seconds: dict[str, list[float]] = {fit.names[0]: [] for fit in plan.fits}
        for number, fold in enumerate(plan.protocol.folds):
            for fit in plan.fits:
                with np.load(self.path(plan.protocol, fit, number)) as stored:
                    seconds[fit.names[0]].append(float(stored["seconds"]))
                    for name in fit.names:
                        scores[name][fold.held[groups.qid]] = stored[name]
        return scores, {name: float(np.mean(values)) for name, values in seconds.items()}


def _code_hash() -> str:
    """Hash of the code of the fits."""
    package = Path(gbr.__file__).parent
    paths = [*sorted(package.glob("models/*.py")), package / "ranker.py", package / "evaluation/baselines.py"]
    paths += [Path(__file__).with_name(f"{name}.py") for name in ("contenders", "folds")]
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()
