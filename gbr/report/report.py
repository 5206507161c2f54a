"""HTML reports of runs, predictions and explanations.

Each report is summarised as a dict of JSON values, and :func:`write_report` renders the template ``page.html`` from it.
"""

from __future__ import annotations

import base64
import os
import platform
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray

import gbr
from gbr import cli
from gbr.attribution import Explanation, explain
from gbr.data.build import schema_of
from gbr.data.collection import Subset, family
from gbr.data.files import write_text
from gbr.data.graph import N_LAYOUT, Graph, layout_text, node_names, read_graph
from gbr.data.groups import QueryGroups
from gbr.data.store import FeatureStore
from gbr.errors import UsageError
from gbr.evaluation import data_quality, metrics
from gbr.evaluation.baselines import NAMES as BASELINE_NAMES
from gbr.evaluation.data_quality import normalised_ranks
from gbr.evaluation.metrics import Scored, tau_interval
from gbr.models import io
from gbr.models.base import ValidTau
from gbr.models.params import threads
from gbr.models.rows import Rows
from gbr.ranker import Ranker
from gbr.report import plots
from gbr.report.tables import explanation_summary

FloatArray = NDArray[np.float64]
Advance = Callable[[int], None]

#: Splits in the order of a report: unseen data first.
_SPLITS: Final = ("test", "valid", "train")
#: Number of configurations drawn: over all graphs, and minimum and maximum per graph.
_POINTS, _MIN_POINTS, _MAX_POINTS = 120_000, 60, 1500
#: Numbers of measured configurations in the budget plot.
_BUDGETS: Final = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 200, 300, 500, 700, 1000)
_N_WORST: Final = 8
_MAX_SUSPECTS: Final = 12
#: A family counts as hard if it has at least this many graphs and its mean tau is this far below the overall mean.
_FAMILY, _LOW_FAMILY = 3, 0.1
#: Maximum slowdown@5 at which the top of the order counts as good.
_GOOD_TOP: Final = 0.02
_IMPORTANT_COLUMNS: Final = 15
#: Number of rows of a learning curve, and ratio of the rounds of neighbouring points.
CURVE_ROWS, _CURVE_STEP = 10_000, 1.6
#: Number of configurations listed per prediction: default and maximum.
_TOP, _MAX_TOP = 10, 100
#: Maximum number of graphs of a prediction to explain; an explanation takes several times as long as a prediction.
_EXPLAINED: Final = 12
_BINS: Final = 40
_MAX_NODES: Final = 60
#: Index of the first of six bounds per tensor in a tile configuration, and of six dimensions in a node's layouts.
_BOUNDS: Final = (("output", 8), ("kernel", 0), ("input", 16))
_LAYOUTS: Final = (("output", 0), ("input", 6), ("kernel", 12))
_SLOTS: Final = 6


def check_report_path(path: Path) -> None:
    """Create the folder of a report and check, before any other work, that the report can be written.

    Raises
    ------
    UsageError
        For a folder, or a path that cannot be written.
    """
    if path.is_dir():
        raise UsageError(f"--report {path}: expected a file, got a folder; use for example {path / 'report.html'}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise UsageError(f"--report {path}: cannot create {path.parent} ({fault.strerror})") from fault
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise UsageError(f"--report {path}: {path.parent} is not writable; choose another folder")


def write_report(path: Path, summary: dict[str, Any]) -> None:
    """Write a report as one self-contained HTML file.

    Parameters
    ----------
    path : Path
        The HTML file; replaced if it exists.
    summary : dict
        Result of :func:`summarise_run`, :func:`summarise_prediction` or :func:`summarise_explanation`.

    Raises
    ------
    UsageError
        If the file cannot be written.
    """
    write_text(path, render(summary), UsageError)


def summarise_run(
    command: str,
    model: Path,
    subset: Subset,
    figures: Mapping[str, Any],
    scored: Sequence[Scored],
    store_root: Path,
) -> dict[str, Any]:
    """Summarise a run of ``train`` or ``evaluate``.

    Parameters
    ----------
    command : str
        ``train`` or ``evaluate``.
    model : Path
        Folder of the model.
    subset : Subset
    figures : mapping
        As in ``metrics.json``.
    scored : sequence of Scored
        Results of :func:`gbr.evaluate.score_split`.
    store_root : Path
        Folder of the feature store, for all collections.

    Returns
    -------
    dict
        Common keys of all reports (``title``, ``model``, ``command``, ``version``, ``made``, ``settings``), ``kind``,
        ``figures`` (per split as in ``metrics.json``, unseen data first, and ``training``: whether the model was
        trained on it), ``splits`` (of :func:`summarise_split`, in the same order; a training split has no graphs,
        unless it is the only split), ``learning``, ``importance``.
    """
    store = FeatureStore(store_root, subset.name)
    ranker, manifest = Ranker.load(model), io.read_manifest(model)
    same = (manifest["trained_on"] or {}).get("subset") == subset.name
    training_graphs = store.stems("train") if same else None
    scored = sorted(scored, key=lambda each: _SPLITS.index(each.split))
    detailed = [each for each in scored if not (same and each.split == "train") or len(scored) == 1]
    by_split = {each.split: each for each in scored}
    max_points = points_per_graph(sum(len(each.groups) for each in detailed))
    splits = []
    with cli.progress(sum(len(each.groups) for each in scored), "report") as advance:
        for each in scored:
            own = figures[each.split] if each in detailed else None
            splits.append(summarise_split(each, subset.kind, own, training_graphs, max_points, advance))
    return _header(subset.name, command, ranker, manifest, figures, training_graphs) | {
        "kind": subset.kind,
        "figures": {each.split: {**figures[each.split], "training": same and each.split == "train"} for each in scored},
        "splits": splits,
        "learning": _learning(ranker, store, by_split, command),
        "importance": _importance(ranker, subset.kind),
    }


def summarise_prediction(model: Path, rankings: Sequence[Mapping[str, Any]], top: int | None) -> dict[str, Any]:
    """Summarise a prediction; runtimes in the graph files are ignored.

    Parameters
    ----------
    model : Path
        Folder of the model.
    rankings : sequence of mapping
        Rankings of all configurations by :func:`gbr.predict.ranking`.
    top : int or None
        Number of configurations listed per graph; 10 by default, 100 at most.

    Returns
    -------
    dict
        Common keys of all reports, ``graphs`` (:func:`summarise_ranking`, and ``why``: explanation of the first
        configuration, or None for a graph of one configuration or beyond the maximum number), ``explained`` (maximum
        number of graphs to explain).
    """
    ranker = Ranker.load(model)
    graphs = []
    with cli.progress(len(rankings), "report") as advance:
        for number, each in enumerate(rankings):
            path = Path(each["graph"])
            configs, scores = np.array(each["configs"], np.int64), np.array(each["scores"], np.float64)
            why = None
            if number < _EXPLAINED and len(configs) > 1:
                why = explanation_summary(replace(explain(ranker, path, int(configs[0])), runtimes=None))
            graphs.append(summarise_ranking(path, configs, scores, top or _TOP) | {"why": why})
            advance(1)
    title = ", ".join(graph["name"] for graph in graphs) if len(graphs) <= 3 else f"{len(graphs)} graphs"
    header = _header(title, "predict", ranker, io.read_manifest(model))
    return header | {"graphs": graphs, "explained": _EXPLAINED}


def summarise_explanation(model: Path, ranker: Ranker, found: Explanation, top: int) -> dict[str, Any]:
    """Summarise an explanation.

    Parameters
    ----------
    model : Path
        Folder of the model.
    ranker : Ranker
        The model.
    found : Explanation
        Result of :func:`gbr.attribution.explain`.
    top : int
        Number of features, nodes and copies to show.

    Returns
    -------
    dict
        Common keys of all reports, and ``why`` (:func:`gbr.report.tables.explanation_summary`).
    """
    header = _header(Path(found.graph).stem, "explain", ranker, io.read_manifest(model))
    return header | {"why": explanation_summary(found, top)}


def summarise_split(
    scored: Scored,
    kind: str,
    figures: Mapping[str, Any] | None,
    training_graphs: Iterable[str] | None = None,
    max_points: int = _MAX_POINTS,
    advance: Advance = lambda _: None,
) -> dict[str, Any]:
    """Summarise one split.

    Parameters
    ----------
    scored : Scored
    kind : str
        ``tile`` or ``layout``.
    figures : mapping or None
        Figures of the split, as in ``metrics.json``; None to summarise the runtimes only.
    training_graphs : iterable of str, optional
        Names of the training graphs, if known.
    max_points : int
        Maximum number of configurations drawn per graph; graphs with more are sampled.
    advance : callable
        Called with 1 after each graph.

    Returns
    -------
    dict
        ``name``; ``graphs`` (each with ``name``, ``split``, ``quality``, ``doubts``, ``figures``, ``interval``,
        ``points``, ``family`` and ``seen``: whether its family is among the training graphs; best tau first; empty
        without figures); ``data`` (totals over all graphs); ``suspects`` (graphs with jumps in their runtimes, with
        ``points``); ``budget`` (:func:`slowdown_by_budget`); ``unseen`` (share of graphs of families not in the
        training graphs, or None); ``worst``.
    """
    groups = scored.groups
    families = None if training_graphs is None else {family(kind, name) for name in training_graphs}
    every: list[dict[str, Any]] = []
    graphs: list[dict[str, Any]] = []
    suspects: list[dict[str, Any]] = []
    for number, name in enumerate(groups.names):
        rows = groups.rows(number)
        target, scores = groups.target[rows], scored.scores[rows]
        quality = data_quality.group_quality(target, groups.duplicate_of[rows], _retest(groups, rows), scores)
        graph: dict[str, Any] = {"name": name, "split": scored.split, "quality": quality}
        graph["doubts"] = data_quality.doubts(quality)
        every.append(quality)
        if quality["jumps"] and len(suspects) < _MAX_SUSPECTS:
            suspects.append(graph | {"points": points(scores, target, max_points)})
        if figures is not None and name in figures["graphs"]:
            own = figures["graphs"][name]
            graphs.append(
                graph
                | {
                    "figures": own,
                    "interval": tau_interval(own["kendall_tau"], scores, target),
                    "points": points(scores, target, max_points),
                    "family": family(kind, name),
                    "seen": None if families is None else family(kind, name) in families,
                }
            )
        advance(1)
    graphs.sort(key=lambda graph: -graph["figures"]["kendall_tau"])
    n_worst = min(_N_WORST, max(3, len(graphs) // 4))
    unseen = float(np.mean([not graph["seen"] for graph in graphs])) if graphs and families is not None else None
    return {
        "name": scored.split,
        "graphs": graphs,
        "data": _data_totals(every),
        "suspects": suspects,
        "budget": slowdown_by_budget(groups, scored.scores, [graph["name"] for graph in graphs]),
        "unseen": unseen,
        "worst": [graph | {"why": _reasons(graph, graphs, unseen)} for graph in graphs[: -1 - n_worst : -1]],
    }


def points_per_graph(n_graphs: int) -> int:
    """Number of configurations drawn per graph, which limits a report of many graphs to a few megabytes."""
    return max(_MIN_POINTS, min(_MAX_POINTS, _POINTS // max(1, n_graphs)))


def slowdown_by_budget(groups: QueryGroups, scores: FloatArray, names: Sequence[str]) -> dict[str, Any] | None:
    """Slowdown of the best of the first K configurations over the best of all, for many K.

    Parameters
    ----------
    groups : QueryGroups
    scores : float64 (rows,)
    names : sequence of str
        Graphs that can be ranked.

    Returns
    -------
    dict or None
        ``k``; means over graphs: ``model``, ``random`` (expectation over all orders) and ``retest`` (None unless every
        graph was measured twice); ``most``: the 90th percentile of the model; ``enough``: the smallest K at which that
        percentile is at most 1, 2, 5 or 10 %, and this bound, or None.  The result is None without graphs.
    """
    if not names:
        return None
    index = {name: number for number, name in enumerate(groups.names)}
    chosen = [groups.rows(index[name]) for name in names]
    largest = max(rows.stop - rows.start for rows in chosen)
    k = sorted({*(budget for budget in _BUDGETS if budget <= largest), min(largest, _BUDGETS[-1])})

    def slowdowns(order: Sequence[FloatArray]) -> FloatArray:
        found = [
            [metrics.slowdown_at_k(own, groups.target[rows], each) for each in k]
            for rows, own in zip(chosen, order, strict=True)
        ]
        return np.maximum(found, 0.0)  # rounding errors may make an expectation negative

    model = slowdowns([scores[rows] for rows in chosen])
    most = np.quantile(model, 0.9, axis=0)
    shares = [share for share in (0.01, 0.02, 0.05, 0.1) if (most[:-1] <= share).any()]
    retests = [retest for rows in chosen if (retest := _retest(groups, rows)) is not None]
    return {
        "k": k,
        "model": model.mean(axis=0).tolist(),
        "most": most.tolist(),
        "enough": (k[int(np.argmax(most <= shares[0]))], shares[0]) if shares else None,
        "random": slowdowns([np.zeros(rows.stop - rows.start) for rows in chosen]).mean(axis=0).tolist(),
        "retest": slowdowns(retests).mean(axis=0).tolist() if len(retests) == len(chosen) else None,
    }


def points(scores: FloatArray, target: FloatArray, max_points: int) -> dict[str, Any]:
    """Points of a graph's scatter plots.

    Returns
    -------
    dict
        ``n`` (configurations), ``shown`` (number of points), ``slowest`` (slowest shown over fastest runtime), and
        :func:`packed` arrays in the order of the file: ``row``, ``predicted`` and ``measured`` (normalised ranks) and
        ``over`` (logarithm of the runtime over the fastest, divided by that of ``slowest``).  The five configurations
        that are predicted fastest are always included.
    """
    rows = np.arange(len(target))
    if len(rows) > max_points:
        first = np.argsort(scores, kind="stable")[:5]
        others = np.random.default_rng(0).choice(np.setdiff1d(rows, first), max_points - len(first), replace=False)
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


def packed(values: FloatArray) -> str:
    """Values in [0, 1] as base64 of little-endian uint16: a quarter of the size of decimal digits."""
    return base64.b64encode(np.round(np.clip(values, 0, 1) * 65535).astype("<u2").tobytes()).decode()


def _retest(groups: QueryGroups, rows: slice) -> FloatArray | None:
    """Target of the second measurement of a group, or None."""
    if groups.repeat is None or not groups.repeat[rows].all():
        return None
    return np.asarray(
        groups.repeat[rows] / (1 if groups.normalizer is None else np.maximum(groups.normalizer[rows], 1))
    )


def _data_totals(quality: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    configs = sum(each["configs"] for each in quality)
    retests = [each["retest"] for each in quality if each["retest"] is not None]
    repeats = [each["duplicate_spread"] for each in quality if each["duplicate_spread"] is not None]
    return {
        "graphs": len(quality),
        "configs": configs,
        "duplicates": 1 - sum(each["distinct"] for each in quality) / max(1, configs),
        "duplicate_spread": float(np.median(repeats)) if repeats else None,
        "unrankable": sum(each["unrankable"] is not None for each in quality),
        "jumps": sum(bool(each["jumps"]) for each in quality),
        "spread": float(np.median([each["spread"] for each in quality])) if quality else None,
        "small_spread": sum(each["spread"] < data_quality.SMALL_SPREAD for each in quality),
        "retest": float(np.mean(retests)) if retests else None,
        "low_retest": sum(tau < data_quality.LOW_RETEST for tau in retests),
    }


def _reasons(graph: Mapping[str, Any], graphs: Sequence[Mapping[str, Any]], unseen: float | None) -> list[str]:
    """Reasons in the data for a low tau of a graph."""
    reasons = list(graph["doubts"])
    relatives = [other["figures"]["kendall_tau"] for other in graphs if other["family"] == graph["family"]]
    mean = float(np.mean([other["figures"]["kendall_tau"] for other in graphs]))
    if len(relatives) >= _FAMILY and np.mean(relatives) < mean - _LOW_FAMILY:
        reasons.append(
            f"the whole family is hard: mean tau {np.mean(relatives):.2f} of {len(relatives)} {graph['family']}"
        )
    if graph["seen"] is False and unseen != 1.0:  # no distinction where all families are new
        reasons.insert(0, f"no training graph of its family ({graph['family']})")
    if graph["figures"]["slowdown@5"] <= _GOOD_TOP:
        reasons.append("a good configuration is among the first five: only slower ones are out of order")
    return reasons


def learning_rounds(last: int) -> list[int]:
    """Rounds at which a learning curve is evaluated, at increasing distances up to ``last``."""
    found = [1]
    while found[-1] < last:
        found.append(min(last, max(found[-1] + 1, round(found[-1] * _CURVE_STEP))))
    return found


def learning_rows(store: FeatureStore, split: str, names: Sequence[str], ranker: Ranker) -> tuple[Rows, int]:
    """About :data:`CURVE_ROWS` rows of a split, from whole graphs evenly spaced in ``names``, and their number."""
    entries = store.entries(split)
    share = min(1.0, CURVE_ROWS / max(1, sum(entries[name]["rows"] for name in names)))
    count = max(1, int(share * len(names)))
    columns = [str(name) for name in ranker.feature_names_in_]
    chosen = np.linspace(0, len(names) - 1, count).round().astype(int)
    groups = store.load(split, [names[number] for number in chosen], columns)
    X = groups.X[:, [groups.columns.index(name) for name in columns]]
    return Rows(X, groups.target, groups.indptr), count


def learning_curves(ranker: Ranker, rows: Rows) -> list[dict[str, Any]]:
    """Mean tau after numbers of boosting rounds, of the model and of each member of an ensemble.

    Parameters
    ----------
    ranker : Ranker
    rows : Rows
        Rows with the columns of the model, in its order.

    Returns
    -------
    list of dict
        ``name``, ``rounds``, ``tau``; the whole model first.  A member with fewer rounds contributes all its rounds.
        Ties and large groups are handled as in early stopping (:class:`gbr.models.base.ValidTau`).

    Raises
    ------
    UsageError
        If no group has two different runtimes.
    """
    tau = ValidTau(rows, ranker.settings_.seed)
    members = getattr(ranker.model_, "members", ())
    models = [(each.settings, each.model) for each in members] or [(ranker.settings_, ranker.model_)]
    rounds = learning_rounds(max(model.n_iterations for _, model in models))
    points = [sorted({min(count, model.n_iterations) for count in rounds}) for _, model in models]
    curves: list[dict[str, Any]] = []
    scores: list[dict[int, FloatArray]] = []
    with cli.progress(sum(map(sum, points)), "learning curve") as advance:
        for (settings, model), counts in zip(models, points, strict=True):
            own = {}
            for count in counts:
                own[count] = model.stopped_at(count).predict(tau.X, threads(ranker.n_jobs))
                advance(count)
            name = f"{settings.backend}, {settings.objective}"
            curves.append({"name": name, "rounds": list(own), "tau": [tau(each) for each in own.values()]})
            scores.append(own)
    if not members:
        return curves
    # Combine the scores of the members, as predicting with the ensemble would triple the time.
    whole = [
        tau(sum(own[min(count, max(own))] / each.spread for each, own in zip(members, scores, strict=True)))
        for count in rounds
    ]
    return [{"name": ranker.backend, "rounds": rounds, "tau": whole}, *curves]


def _learning(ranker: Ranker, store: FeatureStore, scored: Mapping[str, Scored], command: str) -> dict[str, Any] | None:
    """Learning curves on ``valid`` if it was scored, else on another split; None if it cannot be ranked."""
    split = next(name for name in ("valid", *_SPLITS) if name in scored)
    try:
        rows, count = learning_rows(store, split, scored[split].groups.names, ranker)
        curves = learning_curves(ranker, rows)
    except UsageError:
        return None
    return {"split": split, "graphs": count, "stopped": split == "valid" and command == "train", "curves": curves}


def _importance(ranker: Ranker, kind: str) -> dict[str, Any] | None:
    """Blocks and the most important columns with their share of the gain; None for a model without splits."""
    gains = ranker.feature_importances_
    if not gains.sum():
        return None
    schema, names = schema_of(kind), [str(name) for name in ranker.feature_names_in_]
    columns = {column.name: column for column in schema.columns}
    blocks = {block.name: block for block in schema.blocks}
    n_columns = Counter(name.split(".", 1)[0] for name in names)
    largest = [index for index in gains.argsort()[::-1][:_IMPORTANT_COLUMNS].tolist() if gains[index] > 0]
    return {
        "blocks": [
            {"name": name, "share": share, "columns": n_columns[name], "doc": blocks[name].doc}
            for name, share in ranker.block_importances_.items()
        ],
        "columns": [asdict(columns[names[index]]) | {"share": float(gains[index])} for index in largest],
    }


def _header(
    title: str,
    command: str,
    ranker: Ranker,
    manifest: Mapping[str, Any],
    figures: Mapping[str, Any] | None = None,
    training_graphs: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Common keys of all reports."""
    settings, trained_on = manifest["settings"], manifest["trained_on"] or {}
    model = f"{ranker.backend}, objective {ranker.settings_.objective}, {ranker.best_iteration_:,} rounds kept"
    rounds = f"at most {settings['n_estimators']}, stopped after {settings['early_stopping_rounds']} without gain"
    values: dict[str, Any] = {
        "backend, objective": f"{settings['backend']}, {settings['objective']}",
        "rounds": rounds,
        "leaves, learning rate": f"{settings['num_leaves']}, {settings['learning_rate']}",
        "rows per leaf": settings["min_child_samples"],
        "seed": manifest["seed"],
        "further parameters": ", ".join(f"{name}={value}" for name, value in settings["params"].items()),
        "features": f"{manifest['features']['count']} columns, schema {trained_on.get('schema_hash')}",
        "hardware": (trained_on.get("hardware") or {}).get("name"),
        "trained on": trained_on.get("subset"),
        "training rows": f"{trained_on['rows']:,}" if trained_on.get("rows") else None,
        "data": ", ".join(f"{split} {digest}" for split, digest in trained_on.get("data", {}).items()),
        "model": manifest["model"]["sha256"][:16],
        "versions": ", ".join(f"{name} {version}" for name, version in manifest["versions"].items()),
        "seconds": ", ".join(f"{name} {value:.1f}" for name, value in (figures or {}).get("seconds", {}).items()),
        "report created on": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    }
    return {
        "title": title,
        "model": model + (f"; trained on {len(training_graphs):,} graphs" if training_graphs else ""),
        "command": command,
        "version": gbr.__version__,
        "made": time.strftime("%Y-%m-%d %H:%M"),
        "settings": [(name, str(value)) for name, value in values.items() if value not in (None, "")],
    }


def summarise_ranking(path: Path, configs: NDArray[np.int64], scores: FloatArray, top: int = _TOP) -> dict[str, Any]:
    """Summarise the prediction of one graph.

    Parameters
    ----------
    path : Path
        The graph file.
    configs : int64 (n,)
        Rows of the file, best first.
    scores : float64 (n,)
        Scores in that order, lower is faster.
    top : int
        Number of configurations to list.

    Returns
    -------
    dict
        ``name``, ``path``, ``n_configs``, ``n_nodes``, ``n_configurable`` (None for ``tile``), ``distinct`` (number of
        distinct scores), ``histogram`` (``counts`` per bin; ``top``: counts of the listed configurations; ``width`` of
        all bins in standard deviations), ``best`` (``rank``, ``config``, ``behind``: distance from the first in
        standard deviations, ``text``, ``nodes``).
    """
    graph = read_graph(path)
    top = min(top, _MAX_TOP, len(configs))
    spread = float(scores.std()) or 1.0
    width = float(np.ptp(scores)) if len(scores) else 0.0
    counts, edges = np.histogram(scores, bins=_BINS if width else 1)
    return {
        "name": graph.name,
        "path": str(path),
        "n_configs": graph.n_configs,
        "n_nodes": len(graph.node_opcode),
        "n_configurable": None if graph.node_config_ids is None else len(graph.node_config_ids),
        "distinct": len(np.unique(scores)),
        "histogram": {
            "counts": counts.tolist(),
            "top": np.histogram(scores[:top], bins=edges)[0].tolist(),
            "width": width / spread,
        },
        "best": [
            {"rank": rank + 1, "config": int(configs[rank]), "behind": float((scores[rank] - scores[0]) / spread)}
            | description
            for rank, description in enumerate(_describe_configs(graph, configs[:top]))
        ],
    }


def _describe_configs(graph: Graph, rows: NDArray[np.int64]) -> list[dict[str, Any]]:
    """Describe each configuration in ``text``, and list the configured ``nodes`` of a layout and how many ``more``."""
    if graph.kind == "tile":
        return [{"text": tile_text(row), "nodes": [], "more": 0} for row in graph.configs(rows)]
    assert graph.node_config_ids is not None
    names = node_names(graph.node_opcode)
    found = []
    for config in graph.configs(rows):
        texts = [layout_texts(row) for row in config.reshape(-1, N_LAYOUT)]
        nodes = [(names[node], text) for node, text in zip(graph.node_config_ids, texts, strict=True) if text]
        text = f"{len(nodes)} of {len(texts)} nodes set" if nodes else "all left to the compiler"
        found.append({"text": text, "nodes": nodes[:_MAX_NODES], "more": max(0, len(nodes) - _MAX_NODES)})
    return found


def tile_text(row: NDArray[np.float32]) -> str:
    """Bounds of a tile configuration, float32 (24,), as ``output 8×128; input 8×64``."""
    bounds = {name: [f"{bound:g}" for bound in row[first : first + _SLOTS] if bound] for name, first in _BOUNDS}
    return "; ".join(f"{name} {'×'.join(own)}" for name, own in bounds.items() if own) or "no bounds"


def layout_texts(row: NDArray[np.int8]) -> str:
    """Layouts of one node, int8 (18,), as ``output {1,0}, input {0,1}``; empty if left to the compiler."""
    orders = {name: [dim for dim in row[first : first + _SLOTS] if dim >= 0] for name, first in _LAYOUTS}
    return ", ".join(f"{name} {layout_text(order)}" for name, order in orders.items() if order)


def render(summary: dict[str, Any]) -> str:
    """Render the template with a summary; returns a self-contained HTML page."""
    environment = Environment(
        loader=PackageLoader("gbr.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    filters = {
        "two": _formatter(".2f"),
        "three": _formatter(".3f"),
        "short": _formatter(".6g"),
        "whole": _formatter(",.0f"),
        "percent": percent,
        "rounded": lambda share: f"{100 * share:g}\u00a0%",
        "times": _times,
        # Parts of a name that end in a separator, after which a line may be broken.
        "parts": lambda name: re.split(r"(?<=[_.:/-])", name),
    }
    environment.filters |= filters
    environment.globals |= filters | {
        "linear": plots.linear,
        "logarithmic": plots.logarithmic,
        "square_root": plots.square_root,
        "curve": plots.curve,
        "baseline_names": BASELINE_NAMES,
        "top_k": metrics.TOP,
        "quality": data_quality,
        "plot_data": _plot_data,
    }
    return environment.get_template("page.html").render(summary)


def percent(value: float | None) -> str:
    """A share as text: 0.017 -> 1.7 %."""
    return "–" if value is None else f"{100 * value:.{0 if value >= 0.9995 else 1}f}\u00a0%"


def _times(value: float | None) -> str:
    return "–" if value is None else f"{value:.{3 if value < 1.5 else 1}f}×"


def _formatter(spec: str) -> Callable[[float | None], str]:
    return lambda value: "–" if value is None else format(value, spec)


def _plot_data(splits: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Data for the script of the page."""

    def plotted(graph: Mapping[str, Any]) -> dict[str, Any]:
        return {**graph["points"], "jumps": [jump["row"] for jump in graph["quality"]["jumps"]]}

    return {
        "graphs": {
            f"{split['name']}/{graph['name']}": plotted(graph) | {"facts": list(_facts(graph))}
            for split in splits
            for graph in split["graphs"]
        },
        "suspects": [plotted(graph) for split in splits for graph in split["suspects"]],
        "first": len(splits[0]["graphs"]),
    }


def _facts(graph: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    own, quality, interval = graph["figures"], graph["quality"], graph["interval"]
    yield "Kendall tau", f"{own['kendall_tau']:.3f}" + (f" ({interval[0]:.2f}–{interval[1]:.2f})" if interval else "")
    yield "first choice", f"{percent(own['slowdown@1'])} slower"
    yield "best of first five", f"{percent(own['slowdown@5'])} slower"
    yield "configurations", f"{quality['configs']:,}"
    yield "slowest over fastest", _times(quality["spread"])
    if quality["distinct"] < quality["configs"]:
        yield "distinct", f"{quality['distinct']:,}"
    if quality["retest"] is not None:
        yield "retest tau", f"{quality['retest']:.3f}"
    if graph["seen"] is not None:
        yield "family", f"{graph['family']}, {'seen' if graph['seen'] else 'not seen'} in training"
    if graph["doubts"]:
        yield "doubts", "; ".join(graph["doubts"])
