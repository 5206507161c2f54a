"""What a report says, as plain numbers and words: everything its pictures are drawn from, ready for JSON."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gbr.data.collection import family
from gbr.data.groups import QueryGroups
from gbr.evaluation import metrics
from gbr.evaluation.data_quality import LOW_RETEST, SMALL_SPREAD, doubts, normalised_ranks, slate_quality
from gbr.evaluation.interval import tau_interval
from gbr.evaluation.scoring import Scored

FloatArray = NDArray[np.float64]

#: Configurations drawn of all graphs together, and of one.
_POINTS: Final = 120_000
_MOST_POINTS: Final = 1500
_LEAST_POINTS: Final = 60
#: Configurations that one might measure.
_BUDGETS: Final = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 200, 300, 500, 700, 1000)
_WORST: Final = 8
_MOST_SUSPECTS: Final = 12
#: A family of so many graphs whose mean tau is so far below that of all is hard as a whole.
_FAMILY: Final = 3
_LOW_FAMILY: Final = 0.1
#: First five within this of the best: only the rest is in the wrong order.
_GOOD_TOP: Final = 0.02
_UNIT: Final = 65535


def of_split(
    scored: Scored,
    figures: dict[str, Any],
    kind: str,
    known: Iterable[str] | None = None,
    most_points: int = _MOST_POINTS,
    advance: Callable[[int], None] = lambda _: None,
) -> dict[str, Any]:
    """Summarise one split.

    Parameters
    ----------
    scored : Scored
    figures : dict
        Of the split, as in ``metrics.json``.
    kind : str
        ``tile`` or ``layout``.
    known : iterable of str, optional
        Names of the training graphs, where they are known.
    most_points : int
        Configurations of a graph that are drawn; of more, a sample.
    advance : callable
        Told every graph.

    Returns
    -------
    dict
        ``name``, ``graphs`` (each with ``figures``, ``interval``, ``quality``, ``doubts``, ``points``, ``family`` and
        ``seen``; best tau first), ``data`` and ``suspects`` (:func:`of_data`), ``budget``, ``unseen`` (share of the
        graphs whose family is not among the training graphs, or None), ``worst``.
    """
    slates = scored.slates
    families = None if known is None else {family(kind, name) for name in known}
    graphs = []
    data = of_data(scored, most_points, advance)
    for number, name in enumerate(slates.names):
        if name not in figures["graphs"]:
            continue
        rows, own = slates.rows(number), figures["graphs"][name]
        target, scores = slates.target[rows], scored.scores[rows]
        graphs.append(
            data["graphs"][number]
            | {
                "figures": own,
                "interval": tau_interval(own["kendall_tau"], scores, target),
                "points": points(scores, target, most_points),
                "family": family(kind, name),
                "seen": None if families is None else family(kind, name) in families,
            }
        )
        advance(1)
    graphs.sort(key=lambda one: -one["figures"]["kendall_tau"])
    n_worst = min(_WORST, max(3, len(graphs) // 4))
    unseen = None if families is None or not graphs else float(np.mean([not one["seen"] for one in graphs]))
    return {
        "name": scored.split,
        "graphs": graphs,
        "data": data["totals"],
        "suspects": data["suspects"],
        "budget": budget(slates, scored.scores, [one["name"] for one in graphs]),
        "unseen": unseen,
        "worst": [_explained(one, graphs, unseen) for one in graphs[: -1 - n_worst : -1]],
    }


def of_data(
    scored: Scored, most_points: int = _MOST_POINTS, advance: Callable[[int], None] = lambda _: None
) -> dict[str, Any]:
    """Look at the runtimes of a split.

    Returns
    -------
    dict
        ``graphs`` (``name``, ``split``, ``quality``, ``doubts``), ``totals`` (:func:`totals`), ``suspects`` (graphs
        whose runtimes jump, with ``points``).
    """
    slates = scored.slates
    graphs: list[dict[str, Any]] = []
    suspects: list[dict[str, Any]] = []
    for number, name in enumerate(slates.names):
        rows = slates.rows(number)
        target, scores = slates.target[rows], scored.scores[rows]
        quality = slate_quality(target, slates.duplicate_of[rows], _repeat(slates, rows), scores)
        one: dict[str, Any] = {"name": name, "split": scored.split, "quality": quality, "doubts": doubts(quality)}
        graphs.append(one)
        if quality["jumps"] and len(suspects) < _MOST_SUSPECTS:
            suspects.append(one | {"points": points(scores, target, most_points)})
        advance(1)
    return {"graphs": graphs, "totals": totals([one["quality"] for one in graphs]), "suspects": suspects}


def points_each(n_graphs: int) -> int:
    """Configurations drawn of every graph, so that a report of many graphs stays a few megabytes."""
    return max(_LEAST_POINTS, min(_MOST_POINTS, _POINTS // max(1, n_graphs)))


def totals(quality: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Figures of the data of a split, from those of its graphs (:func:`gbr.evaluation.data_quality.slate_quality`)."""
    configs = sum(one["configs"] for one in quality)
    retests = [one["retest"] for one in quality if one["retest"] is not None]
    repeats = [one["duplicate_spread"] for one in quality if one["duplicate_spread"] is not None]
    return {
        "graphs": len(quality),
        "configs": configs,
        "duplicates": 1 - sum(one["distinct"] for one in quality) / max(1, configs),
        "duplicate_spread": float(np.median(repeats)) if repeats else None,
        "unrankable": sum(one["unrankable"] is not None for one in quality),
        "jumps": sum(bool(one["jumps"]) for one in quality),
        "spread": float(np.median([one["spread"] for one in quality])) if quality else None,
        "small_spread": sum(one["spread"] < SMALL_SPREAD for one in quality),
        "retest": float(np.mean(retests)) if retests else None,
        "low_retest": sum(tau < LOW_RETEST for tau in retests),
    }


def budget(slates: QueryGroups, scores: FloatArray, names: Sequence[str]) -> dict[str, Any] | None:
    """How much slower than the best the best of the first K is, for many K.

    Parameters
    ----------
    slates : QueryGroups
    scores : float64 (rows,)
    names : sequence of str
        Graphs that can be ranked.

    Returns
    -------
    dict or None
        ``k``; means over graphs under ``model``, ``random`` (the expectation over all orders) and ``retest`` (None
        where not every graph was measured twice); ``most``, which nine of ten graphs stay below with the model.  None
        without graphs.
    """
    number = {name: place for place, name in enumerate(slates.names)}
    chosen = [slates.rows(number[name]) for name in names]
    if not chosen:
        return None
    largest = max(rows.stop - rows.start for rows in chosen)
    k = sorted({*(at for at in _BUDGETS if at <= largest), min(largest, _BUDGETS[-1])})
    repeats = [_repeat(slates, rows) for rows in chosen]

    def slowdowns(order: Sequence[FloatArray]) -> FloatArray:
        found = [
            [metrics.slowdown_at_k(own, slates.target[rows], at) for at in k]
            for rows, own in zip(chosen, order, strict=True)
        ]
        return np.maximum(found, 0.0)  # an expectation may lie a rounding below

    model = slowdowns([scores[rows] for rows in chosen])
    known = [repeat for repeat in repeats if repeat is not None]
    return {
        "k": k,
        "model": model.mean(axis=0).tolist(),
        "most": np.quantile(model, 0.9, axis=0).tolist(),
        "random": slowdowns([np.zeros(rows.stop - rows.start) for rows in chosen]).mean(axis=0).tolist(),
        "retest": slowdowns(known).mean(axis=0).tolist() if len(known) == len(chosen) else None,
    }


def packed(values: FloatArray) -> str:
    """Values in [0, 1] as base64 of little-endian uint16: a quarter of their size as decimal digits."""
    return base64.b64encode(np.round(np.clip(values, 0, 1) * _UNIT).astype("<u2").tobytes()).decode()


def unpacked(text: str) -> FloatArray:
    """What :func:`packed` wrote, float64, to within 1 / 131070."""
    return np.frombuffer(base64.b64decode(text), "<u2") / _UNIT


def points(scores: FloatArray, target: FloatArray, most: int) -> dict[str, Any]:
    """What is drawn of a graph: place in the file, predicted and measured rank, and runtime, of at most ``most`` rows.

    Returns
    -------
    dict
        ``n``, ``shown`` (rows), ``slowest`` (over the fastest of them), and :func:`packed`, in the order of the file:
        ``row``, ``predicted``, ``measured`` and ``over`` (the logarithm of the runtime over the graph's fastest, as a
        share of that of ``slowest``).  The first five predicted are always among them.
    """
    rows = np.arange(len(target))
    if len(rows) > most:
        first = np.argsort(scores, kind="stable")[:5]
        others = np.random.default_rng(0).choice(np.setdiff1d(rows, first), most - len(first), replace=False)
        rows = np.sort(np.concatenate([first, others]))
    over = np.log(target[rows] / target.min())
    return {
        "n": len(target),
        "shown": len(rows),
        "row": packed(rows / max(1, len(target) - 1)),
        "predicted": packed(normalised_ranks(scores)[rows]),
        "measured": packed(normalised_ranks(target)[rows]),
        "over": packed(over / (over.max() or 1.0)),
        "slowest": float(np.exp(over.max())),
    }


def _repeat(slates: QueryGroups, rows: slice) -> FloatArray | None:
    """Target of the second measurement of a slate, where there is one."""
    if slates.repeat is None or not slates.repeat[rows].all():
        return None
    divisor = 1 if slates.normalizer is None else np.maximum(slates.normalizer[rows], 1)
    return np.asarray(slates.repeat[rows] / divisor, np.float64)


def _explained(one: dict[str, Any], graphs: Sequence[dict[str, Any]], unseen: float | None) -> dict[str, Any]:
    """A graph with the reasons that its data, and the others of its split, give for a low tau."""
    why = list(one["doubts"])
    own = [other["figures"]["kendall_tau"] for other in graphs if other["family"] == one["family"]]
    mean = float(np.mean([other["figures"]["kendall_tau"] for other in graphs]))
    if len(own) >= _FAMILY and np.mean(own) < mean - _LOW_FAMILY:
        why.append(f"its whole family is hard: mean tau {np.mean(own):.2f} over {len(own)} {one['family']}")
    if one["seen"] is False and unseen != 1.0:  # where every family is new, that sets none apart
        why.insert(0, f"no training graph of its family ({one['family']})")
    if one["figures"]["slowdown@5"] <= _GOOD_TOP:
        why.append("a good one is among its first five: only slower ones are out of order")
    return {"name": one["name"], "figures": one["figures"], "retest": one["quality"]["retest"], "why": why}
