"""Figures for notebooks, by matplotlib (extra ``plot``).

Each function returns a ``matplotlib.figure.Figure``; ``figure.savefig("taus.svg")`` saves it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from gbr.errors import MissingLibraryError, UsageError
from gbr.evaluation.data_quality import normalised_ranks
from gbr.evaluation.metrics import BUDGETS, kendall_tau, slowdown_curves
from gbr.models.rows import rankable
from gbr.ranker import group_bounds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from gbr.attribution import Explanation
    from gbr.tune.runner import Found

#: Colours of what is shown, of the fastest, and of what it is compared with.
_BLUE, _RED, _GREY = "#2c6fbb", "#c8392b", "#8a8a8a"
_FIRST: Final = 5
_LONGEST_LABELS: Final = 60
#: Largest over smallest runtime from which their axis is logarithmic.
_LARGE_RATIO: Final = 10


def taus(figures: Mapping[str, Any], split: str = "test") -> Figure:
    """Kendall's tau of each graph, the best first, and their mean.

    Parameters
    ----------
    figures : mapping
        What :func:`gbr.train` or :func:`gbr.evaluate` returns, or the content of ``metrics.json``.
    split : str
    """
    if split not in figures:
        raise UsageError(f"split: expected one with figures, got {split!r}")
    found = {name: graph["kendall_tau"] for name, graph in figures[split]["graphs"].items()}
    names = sorted(found, key=lambda name: found[name])
    labelled = len(names) <= _LONGEST_LABELS
    figure, axes = _axes((6.4, max(2.4, 0.22 * len(names) + 1) if labelled else 5.0))
    axes.barh(range(len(names)), [found[name] for name in names], color=_BLUE)
    axes.set_yticks(range(len(names)) if labelled else [], names if labelled else [])
    mean = figures[split]["kendall_tau"]
    axes.axvline(mean, color=_GREY, linestyle="--")
    axes.set(xlabel="Kendall's tau", title=f"{figures['subset']} {split}: mean {mean:.3f}")
    return figure


def predicted(scores: Any, runtime: Any) -> Figure:
    """Predicted against measured order of the configurations of one graph; the five ranked first are red.

    Parameters
    ----------
    scores, runtime : array-like (rows,)
        What a ranker predicts, and what was measured.  Rows that failed (not finite) are left out.
    """
    scores, runtime = _pair(scores, runtime)
    worked = np.isfinite(runtime)
    scores, runtime = scores[worked], runtime[worked]
    order = normalised_ranks(scores), normalised_ranks(runtime)
    first = np.argsort(scores, kind="stable")[:_FIRST]
    figure, axes = _axes((4.8, 4.8))
    axes.plot([0, 1], [0, 1], color=_GREY, linewidth=1)
    axes.scatter(*order, s=12, color=_BLUE, alpha=0.6)
    axes.scatter(order[0][first], order[1][first], s=24, color=_RED, label="ranked first")
    axes.set(
        xlabel="predicted rank (0: fastest)",
        ylabel="measured rank (0: fastest)",
        title=f"{len(scores)} configurations, tau {kendall_tau(scores, runtime):.3f}",
    )
    axes.legend(loc="best")
    return figure


def runtimes(predicted: Any, runtime: Any, low: Any = None, high: Any = None, unit: str = "") -> Figure:
    """Predicted against measured runtimes on logarithmic axes, with the share that the intervals hold.

    Parameters
    ----------
    predicted, runtime : array-like (rows,)
        What :meth:`gbr.Ranker.predict_runtime` or :meth:`gbr.Ranker.predict_table` predicts, and what was measured.
        Rows that failed (not finite) are left out.
    low, high : array-like (rows,), optional
        Intervals of the predictions.
    unit : str
        Of all of them.
    """
    predicted, runtime = _pair(predicted, runtime)
    worked = np.isfinite(runtime)
    title = f"{worked.sum()} rows"
    figure, axes = _axes((5.2, 4.8))
    axes.axline((1, 1), slope=1, color=_GREY, linewidth=1)
    if low is not None and high is not None:
        (low, _), (high, _) = _pair(low, runtime), _pair(high, runtime)
        held = ((low <= runtime) & (runtime <= high))[worked]
        title += f", intervals hold {held.mean():.0%}"
        axes.vlines(runtime[worked], low[worked], high[worked], colors=np.where(held, _BLUE, _RED), alpha=0.3)
    axes.scatter(runtime[worked], predicted[worked], s=12, color=_BLUE)
    axes.set_xscale("log")
    axes.set_yscale("log")
    unit = unit and f" [{unit}]"
    axes.set(xlabel=f"measured{unit}", ylabel=f"predicted{unit}", title=title)
    return figure


def slowdown(scores: Any, runtime: Any, qid: Any = None) -> Figure:
    """Slowdown of the best of the first K configurations over the best of all, against K.

    Mean over groups, of one order with the 90th percentile, beside the mean of random orders.

    Parameters
    ----------
    scores : array-like (rows,), or mapping of str to array-like
        Scores, or those of several models by name.
    runtime : array-like (rows,)
    qid : array-like (rows,), optional
        Query group of each row, contiguous; one group by default.  Groups of equal runtimes are left out.
    """
    named = scores if isinstance(scores, Mapping) else {"model": scores}
    orders = {name: _pair(each, runtime)[0] for name, each in named.items()}
    runtime = np.asarray(runtime, np.float64)
    groups = rankable(runtime, group_bounds(qid, len(runtime)))
    if not groups:
        raise UsageError("runtime: expected a query group with two different runtimes")
    largest = max(group.stop - group.start for group in groups)
    k = [each for each in BUDGETS if each <= largest]

    def curves(order: Any) -> Any:
        return 100 * slowdown_curves([order[rows] for rows in groups], [runtime[rows] for rows in groups], k)

    figure, axes = _axes((6.4, 4.0))
    for number, (name, order) in enumerate(orders.items()):
        found, color = curves(order), f"C{number}" if number else _BLUE
        axes.plot(k, found.mean(axis=0), "o-", color=color, markersize=4, label=f"{name}, mean")
        if len(orders) == 1:
            axes.plot(k, np.quantile(found, 0.9, axis=0), "--", color=color, label=f"{name}, 90th percentile")
    axes.plot(k, curves(np.zeros(len(runtime))).mean(axis=0), color=_GREY, label="random order, mean")
    axes.set_xscale("log")
    axes.set_yscale("symlog", linthresh=1)
    axes.set_ylim(bottom=0)
    axes.set(
        xlabel="K, configurations measured",
        ylabel="slowdown@K [%]",
        title=f"{len(groups)} group{'s' * (len(groups) > 1)}",
    )
    axes.legend()
    return figure


def search(found: Found) -> Figure:
    """Runtime of each measurement of a search, and the best so far.

    Parameters
    ----------
    found : Found
        What :func:`gbr.tune.search` returns; for :func:`gbr.tune.tune_layout` and :func:`gbr.tune`, its ``found``.
    """
    runtime = np.array([np.nan if isinstance(outcome, str) else outcome for _, outcome in found.history])
    if not np.isfinite(runtime).any():
        raise UsageError("found: expected a search with a successful measurement")
    number = np.arange(1, len(runtime) + 1)
    figure, axes = _axes((6.4, 4.0))
    axes.scatter(number, runtime, s=16, color=_BLUE, alpha=0.6, label="measured")
    axes.step(number, np.fmin.accumulate(runtime), where="post", color=_RED, label="best so far")
    if found.default is not None:
        axes.axhline(found.default, color=_GREY, linestyle="--", label="default")
    failed = f", {found.failed} failed" if found.failed else ""
    axes.set(xlabel="measurement", ylabel="runtime", title=f"{len(runtime)} measurements{failed}")
    axes.locator_params(axis="x", integer=True)
    if np.nanmax(runtime) > _LARGE_RATIO * np.nanmin(runtime):
        axes.set_yscale("log")
    axes.legend()
    return figure


def contributions(explanation: Explanation, top: int = 12) -> Figure:
    """What each feature contributes to the lead of one configuration over another.

    Parameters
    ----------
    explanation : Explanation
        What :func:`gbr.attribution.explain` returns.
    top : int
        Number of features; the others are summed up.
    """
    effects = {column.name: column.effect for column in explanation.columns[:top]}
    effects["all others"] = explanation.lead - sum(effects.values())
    names = list(effects)[::-1]
    figure, axes = _axes((6.4, 0.28 * len(names) + 1.2))
    axes.barh(names, [effects[name] for name in names], color=[_BLUE if effects[name] >= 0 else _RED for name in names])
    axes.axvline(0, color=_GREY, linewidth=1)
    one, other = explanation.configs
    axes.set(xlabel=f"effect on the score; above 0 favours {one}", title=f"configuration {one} against {other}")
    return figure


def _axes(size: tuple[float, float]) -> tuple[Figure, Axes]:
    try:
        from matplotlib import pyplot
    except ModuleNotFoundError as fault:
        raise MissingLibraryError("matplotlib is not installed; pip install 'gbr[plot]'") from fault
    figure, axes = pyplot.subplots(figsize=size, layout="constrained")
    pyplot.close(figure)  # a notebook would show an open figure a second time
    return figure, axes


def _pair(scores: Any, runtime: Any) -> tuple[Any, Any]:
    scores, runtime = np.asarray(scores, np.float64), np.asarray(runtime, np.float64)
    if scores.ndim != 1 or scores.shape != runtime.shape or not len(scores):
        raise UsageError(f"expected a score for each runtime, got shapes {scores.shape} and {runtime.shape}")
    return scores, runtime
