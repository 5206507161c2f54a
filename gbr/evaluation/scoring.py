"""What train and evaluate share: a collection's store, the figures of a split, and the tables."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from gbr import cli
from gbr.data.build import build
from gbr.data.collection import Subset, known_bad
from gbr.data.groups import QueryGroups
from gbr.data.store import FeatureStore
from gbr.evaluation import baselines, metrics
from gbr.evaluation.metrics import TOP
from gbr.ranker import Ranker

if TYPE_CHECKING:
    from features.hardware import Hardware
    from gbr.cluster import Workers

#: Feature cells held in memory at once while predicting: 512 MiB.
_CELLS_AT_ONCE: Final = 1 << 27
#: Key of a baseline in ``metrics.json`` -> its name in tables.
BASELINE_NAMES: Final = {
    "raw_l2": "raw columns, L2",
    "fewest_configured": "fewest nodes set",
    "default_configuration": "default config",
    "random_order": "random order",
    "retest": "retest ceiling",
}
KNOWN_BAD_REASON: Final = "runtimes known to be corrupted (--skip known-bad)"


@dataclass(frozen=True, eq=False)
class Scored:
    """One split as it was scored.

    Parameters
    ----------
    split : str
    slates : QueryGroups
        With runtimes.
    scores : float64 (rows,)
        Lower is predicted faster.
    """

    split: str
    slates: QueryGroups
    scores: NDArray[np.float64]


def ready_store(
    subset: Subset,
    data: Path,
    store_root: Path,
    splits: tuple[str, ...],
    jobs: int | None,
    hardware: Hardware | None = None,
    workers: Workers | None = None,
) -> tuple[FeatureStore, float]:
    """Build what the store lacks; returns the store and the seconds it took."""
    start = time.monotonic()
    progress = partial(cli.progress, label=f"features of {subset.name}")
    build(subset, data, store_root, splits, jobs, progress, hardware, workers)
    store = FeatureStore(store_root, subset.name)
    return store, time.monotonic() - start


def measured(store: FeatureStore, split: str) -> QueryGroups:
    """The graphs of a split that have runtimes, without their features but for those that baselines read."""
    wanted = (baselines.DEFAULT_FLAG, baselines.CONFIGURED)
    return store.load(
        split, columns=[name for name in store.manifest["schema"]["columns"] if name in wanted]
    ).labelled()


def without_known_bad(slates: QueryGroups, subset: Subset) -> tuple[QueryGroups, dict[str, str]]:
    """Leave out the graphs with corrupted runtimes; returns the others, and the reason by name of those."""
    bad = np.array([known_bad(subset, name) for name in slates.names], bool)
    left_out = {name: KNOWN_BAD_REASON for name, out in zip(slates.names, bad, strict=True) if out}
    return (slates.take(~bad) if left_out else slates), left_out


def predict_split(
    ranker: Ranker, store: FeatureStore, slates: QueryGroups, split: str
) -> tuple[NDArray[np.float64], float]:
    """Scores of all rows of ``slates``, a batch of graphs at a time, and the seconds the model took."""
    scores = np.empty(int(slates.indptr[-1]))
    seconds = 0.0
    columns = [str(name) for name in ranker.feature_names_in_]
    rows_at_once = _CELLS_AT_ONCE // len(columns)
    first = 0
    while first < len(slates):
        limit = slates.indptr[first] + rows_at_once
        last = max(first + 1, int(np.searchsorted(slates.indptr, limit, side="right")) - 1)
        batch = store.load(split, slates.names[first:last], columns)
        start = time.monotonic()
        scores[slates.indptr[first] : slates.indptr[last]] = ranker._predict(batch.X)
        seconds += time.monotonic() - start
        first = last
    return scores, seconds


def figures_of(
    ranker: Ranker,
    raw: Ranker | None,
    store: FeatureStore,
    slates: QueryGroups,
    split: str,
    kind: str,
    left_out: dict[str, str],
    official: Callable[[NDArray[np.float64], QueryGroups], dict[str, Any]] | None = None,
    scored: list[Scored] | None = None,
) -> tuple[dict[str, Any], float]:
    """Figures of a split beside those of its baselines, as in ``metrics.json``, and the seconds the model took.

    ``slates`` are those of :func:`measured`; ``left_out`` are graphs that were taken from them, with the reason.
    ``official`` makes further figures of the same scores and slates, :func:`gbr.evaluation.protocol.evaluate`; ``scored`` gets
    those scores and slates, for a report.
    """
    with cli.busy(f"scoring {split}"):
        scores, seconds = predict_split(ranker, store, slates, split)
    if scored is not None:
        scored.append(Scored(split, slates, scores))
    found = metrics.evaluate(scores, slates, kind)
    found["skipped"] |= left_out
    if official is not None:
        found["official"] = official(scores, slates)
    beside = {
        "raw_l2": metrics.evaluate(predict_split(raw, store, slates, split)[0], slates, kind) if raw else None,
        "fewest_configured": baselines.fewest_configured(slates, kind),
        "default_configuration": baselines.default_configuration(slates, kind),
        "random_order": baselines.random_order(slates, kind),
        "retest": baselines.retest(slates, kind),
    }
    found["baselines"] = {name: figures for name, figures in beside.items() if figures}
    return found, seconds


def show(figures: dict[str, Any], splits: tuple[str, ...], kind: str, *, as_json: bool) -> None:
    """Print figures on stdout: tables for a person or JSON for a machine."""
    if as_json:
        cli.emit_json(figures)
        return
    for title, columns, rows in tables(figures, splits, kind):
        cli.table(title, columns, rows)


def tables(
    figures: dict[str, Any], splits: tuple[str, ...], kind: str
) -> Iterator[tuple[str, list[str], list[list[object]]]]:
    """Tables for a terminal, one per split: the model, then what to measure it against.

    Parameters
    ----------
    figures : dict
        As in ``metrics.json``: split -> figures, with ``baselines`` inside.
    splits : tuple of str
        Those to show, where there are figures.
    kind : str
        ``tile`` or ``layout``.

    Yields
    ------
    title, columns, rows
        As :func:`gbr.cli.table` takes them.
    """
    for split in splits:
        if split not in figures:
            continue
        found = figures[split]
        skipped = f", {len(found['skipped'])} cannot be ranked" if found["skipped"] else ""
        title = f"{figures['subset']} {split}: {found['n_graphs']} graphs{skipped}  (@K: slowdown@K)"
        rows = [_row("model", found, kind)]
        rows += [
            _row(name, found["baselines"][key], kind)
            for key, name in BASELINE_NAMES.items()
            if key in found["baselines"]
        ]
        yield title, _columns(kind), rows


def _columns(kind: str) -> list[str]:
    # The layout score is the mean tau, which stands in the table already.
    return ["", "tau", "95 %", "OPA", *(f"@{k}" for k in TOP[kind]), *(["score"] if kind == "tile" else [])]


def _row(name: str, figures: dict[str, Any], kind: str) -> list[object]:
    interval = figures.get("kendall_tau_ci")
    return [
        name,
        _three(figures.get("kendall_tau")),
        f"{interval[0]:.2f} {interval[1]:.2f}" if interval else None,
        _three(figures.get("opa")),
        *(_three(figures.get(f"slowdown@{k}")) for k in TOP[kind]),
        *([_three(figures.get("score"))] if kind == "tile" else []),
    ]


def _three(value: float | None) -> str | None:
    # A fourth digit is noise at a few hundred graphs, and seven columns of them do not fit a terminal.
    return None if value is None else f"{value:.3f}"
