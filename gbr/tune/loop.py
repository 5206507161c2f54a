"""The loop: ask, measure, write down, tell; then the finalists against the default, measured anew in pairs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gbr.errors import GbrError, TuneError, UsageError
from gbr.tune.child import told_of
from gbr.tune.journal import Journal
from gbr.tune.tuner import Best, Tuner

Measure = Callable[[int], "float | str | None"]
FloatArray = NDArray[np.float64]

#: Finalists: the fastest of single measurements is often the luckiest.
_FINALISTS: Final = 3
_RESAMPLES: Final = 2000
#: A difference below this is of no use to anyone, and a second measurement may take it back.
_LEAST_GAIN: Final = 0.01


@dataclass(frozen=True)
class Verdict:
    """The default and the best configuration, measured anew in turns.

    Parameters
    ----------
    config : int
        The winner; the default where none is faster by more than noise.
    speedup, low, high : float
        Runtime of the default over that of the finalist that was fastest in the first half of the rounds, by the second
        half: median of rounds, and a 95 % bootstrap interval.
    rounds : int
        Of both halves.
    """

    config: int
    speedup: float
    low: float
    high: float
    rounds: int

    @property
    def faster(self) -> bool:
        """Whether something beats the default by more than noise."""
        return self.low > 1 + _LEAST_GAIN


@dataclass(frozen=True)
class Found:
    """What a search came to.

    Parameters
    ----------
    best : Best
        Of the single measurements.
    default : float or None
        Runtime of the default in the search; None where there is none, or it failed.
    verdict : Verdict or None
        None without a default to compare with, or when the best is the default.
    measured, resumed, failed : int
        Configurations measured in all, those of them that were read from the journal, and those that failed.
    seconds : float
    """

    best: Best
    default: float | None
    verdict: Verdict | None
    measured: int
    resumed: int
    failed: int
    seconds: float

    @property
    def config(self) -> int:
        """The configuration to use."""
        return self.best.config if self.verdict is None else self.verdict.config


def search(
    tuner: Tuner,
    measure: Measure,
    *,
    budget: int,
    seconds: float | None = None,
    journal: Path | str | None = None,
    rounds: int = 20,
    told: Callable[[int, float | str], None] = lambda _config, _outcome: None,
) -> Found:
    """Measure what a tuner asks for until a budget is spent, and compare the best with the default.

    Parameters
    ----------
    tuner : Tuner
    measure : callable
        From the number of a configuration (``tuner.space.describe`` tells what it stands for) to its runtime; whatever
        it raises, or a text it returns, is recorded as the reason why the configuration failed.  It is to return a
        lower number for a faster one, in the same unit always.  :class:`gbr.tune.Child` keeps crashes and hangs away.
    budget : int
        Configurations to measure, with those that fail, the default and those in the journal.
    seconds : float, optional
        Start no further measurement after so many; one is made at least.
    journal : path, optional
        File in which every measurement is written down at once and found again by the next search of the same space.
    rounds : int
        Times that the default and each finalist are measured again, in turns; 0 for no comparison.
    told : callable
        Called with every configuration and outcome.

    Returns
    -------
    Found

    Raises
    ------
    UsageError
        For a budget below 1, or negative seconds or rounds.
    TuneError
        When every configuration failed, or the journal is not this search's.
    """
    if budget < 1 or rounds < 0 or (seconds is not None and not seconds >= 0):
        raise UsageError(
            f"search: got a budget of {budget}, {seconds} seconds, {rounds} rounds; want one configuration or "
            "more, and no negative numbers"
        )
    start = time.monotonic()
    default = tuner.space.default
    book = None if journal is None else Journal(Path(journal), tuner.space)
    try:
        resumed = _resume(tuner, book)
        while len(tuner) < budget and (seconds is None or not len(tuner) or time.monotonic() - start < seconds):
            config = _next(tuner, default)
            if config is None:
                break
            outcome = _measured(measure, config, book)
            tuner.tell([config], [outcome])
            told(config, outcome)
        verdict = None
        if default is not None and rounds:
            verdict = compare(tuner, getattr(measure, "again", measure), default, rounds, book)
    finally:
        if book is not None:
            book.close()
    best = tuner.best
    if best is None:
        raise TuneError(_all_failed(tuner))
    in_search = None if default is None else tuner.runtimes.get(default)
    return Found(best, in_search, verdict, len(tuner), resumed, len(tuner.failures), time.monotonic() - start)


def compare(tuner: Tuner, measure: Measure, default: int, rounds: int, book: Journal | None = None) -> Verdict | None:
    """Measure the default and the finalists anew, in turns; None where either is missing.

    The first half of the rounds chooses among the finalists, the second half judges, so that the luck which chooses
    is not counted as speed.  What fails now has failed for good, and drops out.

    Parameters
    ----------
    tuner : Tuner
    measure : callable
        As :func:`search` takes it.
    default : int
    rounds : int
    book : Journal, optional
        Told of what fails.

    Returns
    -------
    Verdict or None
    """
    if default not in tuner.runtimes:
        return None
    rivals = [best.config for best in tuner.leaders(_FINALISTS + 1) if best.config != default][:_FINALISTS]
    rng = np.random.default_rng(0)
    taken: dict[int, list[float]] = {config: [] for config in (default, *rivals)}
    half = math.ceil(rounds / 2)
    for turn in range(2 * half):
        if turn == half and len(taken) > 2:
            chosen = min(
                (config for config in taken if config != default), key=lambda each: float(np.median(taken[each]))
            )
            taken = {config: taken[config] for config in (default, chosen)}
        for config in rng.permutation(list(taken)).tolist():
            outcome = _guarded(measure, config)
            if isinstance(outcome, str):
                tuner.tell([config], [outcome])
                if book is not None:
                    book.write(config, outcome)
                del taken[config]
            else:
                taken[config].append(outcome)
        if default not in taken or len(taken) < 2:
            return None
    (rival,) = (config for config in taken if config != default)
    ratios = np.array(taken[default][half:]) / np.array(taken[rival][half:])
    low, high = _interval(ratios)
    verdict = Verdict(rival, float(np.median(ratios)), low, high, 2 * half)
    return verdict if verdict.faster else Verdict(default, verdict.speedup, low, high, 2 * half)


def _interval(values: FloatArray) -> tuple[float, float]:
    drawn = np.random.default_rng(0).choice(values, (_RESAMPLES, len(values)))
    low, high = np.quantile(np.median(drawn, axis=1), (0.025, 0.975))
    return float(low), float(high)


def _resume(tuner: Tuner, book: Journal | None) -> int:
    if book is None or not book.outcomes:
        return 0
    configs, outcomes = zip(*book.outcomes, strict=True)
    tuner.tell(configs, outcomes)
    return len(tuner)


def _next(tuner: Tuner, default: int | None) -> int | None:
    if default is not None and not len(tuner):
        return default
    return next(iter(tuner.ask(1)), None)


def _measured(measure: Measure, config: int, book: Journal | None) -> float | str:
    if book is None:
        return _guarded(measure, config)
    book.begin(config)
    try:
        outcome = _guarded(measure, config)
    except (KeyboardInterrupt, GbrError):
        book.stopped(config)
        raise
    book.write(config, outcome)
    return outcome


def _guarded(measure: Measure, config: int) -> float | str:
    """Runtime, or one line on why there is none."""
    try:
        outcome: Any = measure(config)
    except TuneError:
        raise
    except Exception as fault:  # whatever the configuration makes a user's code raise
        return told_of(fault)
    if outcome is None:
        return "failed"
    if isinstance(outcome, str):
        return outcome
    runtime = float(outcome)
    return runtime if math.isfinite(runtime) and runtime > 0 else f"runtime {runtime}"


def _all_failed(tuner: Tuner) -> str:
    reasons = list(tuner.failures.values())
    told = (
        f"all {len(reasons)} configurations failed, the first with: {reasons[0]}" if reasons else "nothing was measured"
    )
    return f"{tuner.space.name}: {told}; mend what measures, or give more budget or time"
