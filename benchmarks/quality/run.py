"""Fit what is not on disk yet, the first fold of every protocol first: it tells how long the rest takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality.columns import column_taus
from benchmarks.quality.contenders import Fit, Options, Task
from benchmarks.quality.folds import Protocol
from benchmarks.quality.pool import Pool
from benchmarks.quality.predictions import Predictions
from gbr import cli

FloatArray = NDArray[np.float64]


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
        """Tau of every column in every slate, float64 (slates, columns); kept on disk."""
        if self._taus is None:
            path = self.predictions.folder / "column_taus.npy"
            if not path.exists():
                self.predictions.keep(path, column_taus(self.pool.slates, self.options.seed))
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
                f"{self.missing(plan)} fits left, {told(self.needed(plan))}"
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
        slates = self.pool.slates
        found = np.full(len(slates.X), np.nan)
        for number, fold in enumerate(protocol.folds):
            found[fold.held[slates.qid]] = self.predictions.read(protocol.name, contender, number)
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


def told(seconds: float) -> str:
    """A duration for a person."""
    return f"about {seconds / 60:.0f} min" if seconds >= 90 else f"about {seconds:.0f} s"
