"""HTML reports of runs, predictions and explanations.

Each report is summarised as a dict of JSON values, and :func:`write_report` renders the template ``page.html`` from it.
"""

from __future__ import annotations

import base64
import platform
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray

import gbr
from features.layout.nodes import TENSOR_ROLES
from features.schema import Schema
from gbr import cli
from gbr.attribution import Explanation, explain
from gbr.data.collection import TABLE, Subset, family, things
from gbr.data.files import write_text
from gbr.data.graph import N_LAYOUT, layout_text, node_names, read_graph
from gbr.data.groups import QueryGroups
from gbr.data.store import FeatureStore, schema_of, store_for
from gbr.data.table import Table, read_rows, read_table
from gbr.data.table_columns import texts
from gbr.errors import UsageError
from gbr.evaluation import data_quality, metrics
from gbr.evaluation.baselines import NAMES as BASELINE_NAMES
from gbr.evaluation.data_quality import normalised_ranks
from gbr.evaluation.metrics import BUDGETS, Scored, tau_interval
from gbr.models import io
from gbr.models.params import threads
from gbr.models.rows import Rows
from gbr.models.stopping import ValidTau
from gbr.ranker import Ranker
from gbr.report import plots
from gbr.report.tables import explanation_summary

FloatArray = NDArray[np.float64]

#: Splits in the order of a report: unseen data first.
_SPLITS: Final = ("test", "valid", "train")
#: Number of configurations drawn: over all graphs, and minimum and maximum per graph.
_POINTS, _MIN_POINTS, _MAX_POINTS = 120_000, 60, 1500
#: Number of runtimes drawn, and of the values of a column whose errors are listed.
_RUNTIMES, _MOST_FAMILIES = 400, 40
#: Maximum number of worst graphs, of graphs with jumps, and of important columns that are listed.
_N_WORST, _MAX_SUSPECTS, _IMPORTANT_COLUMNS = 8, 12, 15
#: A family counts as hard if it has at least this many graphs and its mean tau is this far below the overall mean.
_FAMILY, _LOW_FAMILY = 3, 0.1
#: Maximum slowdown@5 at which the top of the order counts as good.
_GOOD_TOP: Final = 0.02
#: Number of rows of a learning curve, and ratio of the rounds of neighbouring points.
CURVE_ROWS, _CURVE_STEP = 10_000, 1.6
#: Number of configurations listed per prediction: default and maximum.
_TOP, _MAX_TOP = 10, 100
#: Maximum number of graphs of a prediction to explain; an explanation takes several times as long as a prediction.
_EXPLAINED: Final = 12
_BINS: Final = 40
#: Index of the first of six bounds per tensor in a tile configuration.
_BOUNDS: Final = {"output": 8, "kernel": 0, "input": 16}
_SLOTS: Final = 6
#: Formats of numbers in the template; None is a dash.
_FORMATS: Final[dict[str, Callable[[float], str]]] = {
    "two": "{:.2f}".format,
    "three": "{:.3f}".format,
    "short": "{:.6g}".format,
    "signed": "{:+.4f}".format,
    "whole": "{:,.0f}".format,
    "percent": lambda share: f"{100 * share:.{0 if share >= 0.9995 else 1}f}\u00a0%",
    "rounded": lambda share: f"{100 * share:g}\u00a0%",
    "times": lambda ratio: f"{ratio:.{3 if ratio < 1.5 else 1}f}×",
}


def write_report(path: Path, summary: dict[str, Any]) -> None:
    """Write the result of one of the functions below as one self-contained HTML file, or raise UsageError."""
    write_text(path, render(summary), UsageError)
    cli.note(f"the report is {path}")


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

    def formatter(text: Callable[[float], str]) -> Callable[[float | None], str]:
        return lambda value: "–" if value is None else text(value)

    formats: dict[str, Any] = {name: formatter(text) for name, text in _FORMATS.items()}
    # Parts of a name that end in a separator, after which a line may be broken.
    environment.filters |= formats | {"parts": lambda name: re.split(r"(?<=[_.:/-])", name)}
    environment.globals |= formats | {
        "plots": plots,
        "baseline_names": BASELINE_NAMES,
        "top_k": metrics.TOP,
        "quality": data_quality,
    }
    return environment.get_template("page.html").render(summary)


def summarise_run(
    command: str,
    model: Path,
    subset: Subset,
    figures: Mapping[str, Any],
    scored: Sequence[Scored],
    store_root: Path,
) -> dict[str, Any]:
    """Summarise a run of ``command`` (``train`` or ``evaluate``) with the model in a folder.

    ``figures`` are those of ``metrics.json``, ``scored`` the results of :func:`gbr.evaluate.score_split`.  A split that
    the model was trained on shows no graphs, unless it is the only one.
    """
    known = FeatureStore(store_root, subset.name)
    ranker = Ranker.load(model)
    if ranker.is_estimate:
        ranker = ranker.resolved(subset.kind, subset.folder(known.data_root or Path()) / scored[0].split)
    store = store_for(store_root, subset.name, _schema(ranker), ranker.hardware)
    scored = sorted(scored, key=lambda each: _SPLITS.index(each.split))
    same = (ranker.trained_on_ or {}).get("subset") == subset.name
    training_graphs = store.stems("train") if same else None
    families = None
    if training_graphs is not None and subset.kind != TABLE:  # whose groups have no families
        families = {family(subset.kind, name) for name in training_graphs}
    shown = {each.split: {**figures[each.split], "training": same and each.split == "train"} for each in scored}
    detailed = [each for each in scored if not shown[each.split]["training"] or len(scored) == 1]
    max_points = max(_MIN_POINTS, min(_MAX_POINTS, _POINTS // max(1, sum(len(each.groups) for each in detailed))))
    return _header(subset.name, command, ranker, model, figures, training_graphs) | {
        "figures": shown,
        "splits": [
            summarise_split(
                each, subset.kind, shown[each.split]["graphs"] if each in detailed else {}, families, max_points
            )
            for each in scored
        ],
        "runtimes": [
            _runtimes(each, read_table(subset.folder(known.data_root or Path())))
            for each in detailed
            if each.runtime is not None
        ],
        "learning": _learning(ranker, store, scored, command),
        "importance": _importance(ranker),
    }


def summarise_prediction(model: Path, rankings: Sequence[Mapping[str, Any]], top: int | None) -> dict[str, Any]:
    """Summarise a prediction by :func:`gbr.predict.predict` of all configurations, with ``top`` listed per graph.

    Runtimes in the graph files are ignored.  The first configuration of a graph is explained, if there are more and the
    graph is among the first ones.
    """
    ranker = Ranker.load(model)
    is_table = (ranker.trained_on_ or {}).get("kind") == TABLE
    graphs = []
    source, read = "", None
    with cli.progress(len(rankings), "report") as advance:
        for number, each in enumerate(rankings):
            configs, scores = each["rows" if is_table else "configs"], np.array(each["scores"])
            if is_table:
                if source != each["file"]:
                    source, read = each["file"], read_rows(each["file"], ranker.table.roles)
                assert read is not None
                graph: Any = read
                found = summarise_rows(read.name, each, top or _TOP)
            else:
                graph = Path(each["graph"])
                found = summarise_ranking(graph, configs, scores, top or _TOP)
            why = None
            if number < _EXPLAINED and len(configs) > 1:
                why = explanation_summary(replace(explain(ranker, graph, configs[0]), runtimes=None))
            graphs.append(found | {"why": why})
            advance(1)
    title = ", ".join(graph["name"] for graph in graphs)
    title = title if len(graphs) <= 3 else f"{len(graphs)} {'groups' if is_table else 'graphs'}"
    if ranker.is_estimate:
        ranker = ranker.resolved(read_graph(graph).kind, graph)
    return _header(title, "predict", ranker, model) | {"graphs": graphs, "explained": _EXPLAINED}


def summarise_explanation(model: Path, ranker: Ranker, found: Explanation, top: int) -> dict[str, Any]:
    """Summarise an explanation by ``ranker``, loaded from folder ``model``, with ``top`` features, nodes and copies."""
    ranker = ranker.resolved(found.kind, found.graph)
    return _header(Path(found.graph).stem, "explain", ranker, model) | {"why": explanation_summary(found, top)}


def summarise_split(
    scored: Scored,
    kind: str,
    figures: Mapping[str, Any],
    families: set[str] | None = None,
    max_points: int = _MAX_POINTS,
) -> dict[str, Any]:
    """Summarise one split of a collection of a kind (``tile`` or ``layout``).

    ``figures``: those of the graphs to show, by name; ``families``: those of the training graphs, if known.  In the
    result, ``graphs`` are those with figures, best tau first; ``suspects`` those with jumps in their runtimes; ``data``
    are totals over all graphs; ``unseen`` is the share of graphs of families that are not in training, or None.
    """
    groups = scored.groups
    qualities: list[dict[str, Any]] = []
    graphs: list[dict[str, Any]] = []
    suspects: list[dict[str, Any]] = []
    with cli.progress(len(groups), f"report of {scored.split}") as advance:
        for number, name in enumerate(groups.names):
            rows = groups.rows(number)
            target, scores = groups.target[rows], scored.scores[rows]
            quality = data_quality.group_quality(target, groups.duplicate_of[rows], _retest(groups, rows), scores)
            if kind == TABLE:  # whose rows are in the order of their parameters, not of their measurements
                quality["jumps"] = []
            qualities.append(quality)
            graph = {"name": name, "split": scored.split, "quality": quality, "doubts": data_quality.doubts(quality)}
            if quality["jumps"] or name in figures:
                jumps = [jump["row"] for jump in quality["jumps"]]
                graph["plot"] = points(scores, target, max_points) | {"jumps": jumps}
            if quality["jumps"]:
                suspects.append(graph)
            if own := figures.get(name):
                worked = np.isfinite(target)
                interval = tau_interval(own["kendall_tau"], scores[worked], target[worked])
                relatives = family(kind, name)
                seen = None if families is None else relatives in families
                graphs.append(graph | {"figures": own, "interval": interval, "family": relatives, "seen": seen})
            advance(1)
    graphs.sort(key=lambda graph: -graph["figures"]["kendall_tau"])
    n_worst = min(_N_WORST, max(3, len(graphs) // 4))
    unseen = float(np.mean([not graph["seen"] for graph in graphs])) if graphs and families is not None else None
    return {
        "name": scored.split,
        "graphs": graphs,
        "data": _data_totals(qualities),
        "suspects": suspects[:_MAX_SUSPECTS],
        "budget": slowdown_by_budget(groups, scored.scores, [graph["name"] for graph in graphs]),
        "unseen": unseen,
        "worst": [graph | {"why": _reasons(graph, graphs, unseen)} for graph in graphs[: -1 - n_worst : -1]],
    }


def _runtimes(scored: Scored, table: Table) -> dict[str, Any]:
    """Predicted and measured targets of a split: points of a plot, and errors by device and other categories.

    ``points`` are measured and predicted values and the bounds of the interval, at most :data:`_RUNTIMES` of them;
    ``by`` has, by name of a column, values with their rows, median of |predicted / measured - 1| and share of the rows
    in their interval, largest error first.
    """
    groups, predicted, roles = scored.groups, scored.runtime, table.roles
    assert predicted is not None
    known = np.isfinite(groups.target)
    values = np.vstack([groups.target, predicted])
    if roles.direction == "higher":
        values = 1 / values[[0, 1, 3, 2]]
    error = np.abs(values[1] / values[0] - 1)
    covered = (values[0] >= values[2]) & (values[0] <= values[3])
    of_group = {group.name: group for group in table.groups}
    at = np.concatenate([np.arange(of_group[name].start, of_group[name].stop) for name in groups.names])
    device = () if roles.device is None else (roles.device,)
    names = [name for name in dict.fromkeys((*roles.group, *roles.context, *device)) if name not in roles.config]
    columns = {name: texts(table.frame[name][at]) for name in names if table.frame[name].dtype == pl.String}
    if table.fold is not None:
        columns = {", ".join(dict.fromkeys((*roles.test, *roles.valid))): pl.Series(table.fold[at])} | columns
    by: dict[str, list[dict[str, Any]]] = {}
    for name, column in columns.items():
        levels = column.fill_null("").to_numpy()
        distinct = np.unique(levels).tolist()
        if len(distinct) <= _MOST_FAMILIES:
            found = [
                {
                    "name": level,
                    "rows": int(rows.sum()),
                    "error": float(np.median(error[rows])),
                    "covered": float(covered[rows].mean()),
                }
                for level in distinct
                if (rows := known & (levels == level)).any()
            ]
            by[name] = sorted(found, key=lambda each: -each["error"])
    shown = np.flatnonzero(known)
    shown = np.sort(np.random.default_rng(0).permutation(shown)[:_RUNTIMES])
    return {"split": scored.split, "name": roles.target, "unit": roles.unit, "points": values[:, shown].T.tolist(),
            "by": by}  # fmt: skip


def slowdown_by_budget(groups: QueryGroups, scores: FloatArray, names: Sequence[str]) -> dict[str, Any] | None:
    """Slowdown of the best of the first K configurations over the best of all, for many K; None without graphs.

    The graphs ``names`` are those that can be ranked.  The result has ``k``; means over graphs: ``model``, ``random``
    (expectation over all orders) and ``retest`` (None unless every graph was measured twice); ``most``: the 90th
    percentile of the model; ``enough``: the smallest K at which that is at most 1, 2, 5 or 10 %, and this bound.
    """
    if not names:
        return None
    chosen = [groups.rows(groups.names.index(name)) for name in names]
    largest = max(rows.stop - rows.start for rows in chosen)
    k = sorted({*(budget for budget in BUDGETS if budget <= largest), min(largest, BUDGETS[-1])})

    def slowdowns(orders: Sequence[FloatArray]) -> FloatArray:
        return metrics.slowdown_curves(orders, [groups.target[rows] for rows in chosen], k)

    model = slowdowns([scores[rows] for rows in chosen])
    most = np.quantile(model, 0.9, axis=0)
    enough = [
        (k[int((most <= share).argmax())], share) for share in (0.01, 0.02, 0.05, 0.1) if (most[:-1] <= share).any()
    ]
    retests = [retest for rows in chosen if (retest := _retest(groups, rows)) is not None]
    return {
        "k": k,
        "model": model.mean(axis=0).tolist(),
        "most": most.tolist(),
        "enough": enough[0] if enough else None,
        "random": slowdowns([np.zeros(rows.stop - rows.start) for rows in chosen]).mean(axis=0).tolist(),
        "retest": slowdowns(retests).mean(axis=0).tolist() if len(retests) == len(chosen) else None,
    }


def points(scores: FloatArray, target: FloatArray, max_points: int) -> dict[str, Any]:
    """Points of a graph's scatter plots, in the order of the file, always with the five that are predicted fastest.

    ``n`` is the number of configurations, ``shown`` that of the points, ``slowest`` the slowest over the fastest
    runtime; ``row``, ``predicted`` and ``measured`` are normalised ranks, ``over`` is the log of the runtime, from 0
    (fastest) to 1 (slowest).  Failed configurations have no points.
    """
    n_rows, row = len(target), np.flatnonzero(np.isfinite(target))
    scores, target = scores[row], target[row]
    rows = np.arange(len(target))
    if len(rows) > max_points:
        first = np.argsort(scores, kind="stable")[:5]
        others = np.random.default_rng(0).choice(np.setdiff1d(rows, first), max_points - len(first), replace=False)
        rows = np.sort(np.concatenate([first, others]))
    over = np.log(target[rows] / target.min())
    slowest = float(np.exp(over.max()))
    arrays = {
        "row": row[rows] / max(1, n_rows - 1),
        "predicted": normalised_ranks(scores)[rows],
        "measured": normalised_ranks(target)[rows],
        "over": over / (over.max() or 1.0),
    }
    ticks = (plots.linear if slowest < 3 else plots.logarithmic)(1.0, slowest).ticks
    # Base64 of little-endian uint16: a quarter of the size of decimal digits.
    packed = {name: base64.b64encode(np.round(each * 65535).astype("<u2")).decode() for name, each in arrays.items()}
    return {"n": n_rows, "shown": len(rows), "slowest": slowest, "ticks": ticks} | packed


def _retest(groups: QueryGroups, rows: slice) -> FloatArray | None:
    """Target of the second measurement of a group, or None."""
    if groups.repeat is None or not groups.repeat[rows].all():
        return None
    return np.asarray(groups.repeat[rows] / (1 if groups.normalizer is None else groups.normalizer[rows].clip(1)))


def _data_totals(quality: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    configs = sum(each["configs"] for each in quality)
    retests = [each["retest"] for each in quality if each["retest"] is not None]
    repeats = [each["duplicate_spread"] for each in quality if each["duplicate_spread"] is not None]
    return {
        "graphs": len(quality),
        "configs": configs,
        "failed": sum(each["failed"] for each in quality) / max(1, configs),
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


def learning_curves(ranker: Ranker, rows: Rows) -> list[dict[str, Any]]:
    """Mean tau after numbers of boosting rounds, of the model and of each member of an ensemble, on ``rows``.

    Ties and large groups are handled as in early stopping (:class:`gbr.models.stopping.ValidTau`).  Raises UsageError
    if no group has two different runtimes.
    """
    tau, n_jobs = ValidTau(rows, ranker.settings_.seed), threads(ranker.n_jobs)
    members = [(each.settings, each.model) for each in getattr(ranker.model_, "members", ())]
    longest = max((model.n_iterations for _, model in members), default=ranker.best_iteration_)
    curves = []
    with cli.busy("learning curve"):
        for settings, model in [(ranker.settings_, ranker.model_), *members]:
            rounds, last = [1], min(longest, model.n_iterations)
            while rounds[-1] < last:
                rounds.append(min(last, max(rounds[-1] + 1, round(rounds[-1] * _CURVE_STEP))))
            taus = [tau.of(model.stopped_at(count), n_jobs) for count in rounds]
            curves.append({"name": f"{settings.backend}, {settings.objective}", "rounds": rounds, "tau": taus})
    return curves


def _learning(ranker: Ranker, store: FeatureStore, scored: Sequence[Scored], command: str) -> dict[str, Any] | None:
    """Learning curves on ``valid`` if it was scored, else on the first split; None if it cannot be ranked."""
    used = next((each for each in scored if each.split == "valid"), scored[0])
    names, columns = used.groups.names, [str(name) for name in ranker.feature_names_in_]
    # About CURVE_ROWS rows, from whole graphs at even distances in the split.
    count = max(1, int(len(names) * min(1.0, CURVE_ROWS / len(used.scores))))
    chosen = np.linspace(0, len(names) - 1, count).round().astype(int)
    groups = store.load(used.split, [names[number] for number in chosen], columns)
    X = groups.X[:, [groups.columns.index(name) for name in columns]]
    try:
        curves = learning_curves(ranker, Rows(X, groups.target, groups.indptr))
    except UsageError:
        return None
    stopped = used.split == "valid" and command == "train"
    return {"split": used.split, "graphs": count, "stopped": stopped, "curves": curves}


def _importance(ranker: Ranker) -> dict[str, Any] | None:
    """Blocks and the most important columns with their share of the gain; None for a model without splits."""
    gains = ranker.feature_importances_
    if not gains.sum():
        return None
    schema, names = _schema(ranker), [str(name) for name in ranker.feature_names_in_]
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


def _schema(ranker: Ranker) -> Schema:
    kind = (ranker.trained_on_ or {})["kind"]
    return ranker.table.schema if kind == TABLE else schema_of(kind, ranker.hardware)


def _header(
    title: str,
    command: str,
    ranker: Ranker,
    model: Path,
    figures: Mapping[str, Any] | None = None,
    training_graphs: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Common keys of all reports: ``title``, ``model``, ``command``, ``version``, ``made``, ``settings``."""
    is_estimate = ranker.is_estimate
    manifest = ranker.manifest() if is_estimate else io.read_manifest(model)
    settings, trained_on = manifest["settings"], manifest["trained_on"] or {}
    screening, kind = trained_on.get("screening") or {}, trained_on.get("kind", "")

    def listed(values: Mapping[str, Any], pattern: str) -> str:
        return ", ".join(pattern.format(*item) for item in values.items())

    learnt: dict[str, Any] = {
        "backend, objective": f"{settings['backend']}, {settings['objective']}",
        "rounds": f"at most {settings['n_estimators']}, stopped after {settings['early_stopping_rounds']} without gain",
        "leaves, learning rate": f"{settings['num_leaves']}, {settings['learning_rate']}",
        "rows per leaf": settings["min_child_samples"],
        "seed": manifest["seed"],
    }
    values: dict[str, Any] = ({} if is_estimate else learnt) | {
        "further parameters": listed(settings["params"], "{}={}"),
        "features": f"{manifest['features']['count']} columns, schema {trained_on.get('schema_hash')}",
        "columns tried": listed(
            {
                each["name"]: f"{each['columns']} columns, tau {each['tau']:.3f}"
                for each in screening.get("candidates", ())
            },
            "{}: {}",
        ),
        "columns chosen": screening.get("chosen"),
        "hardware": None if kind == TABLE else (trained_on.get("hardware") or {}).get("name"),
        "trained on": None if is_estimate else trained_on.get("subset"),
        "training rows": f"{trained_on['rows']:,}" if trained_on.get("rows") else None,
        "data": listed(trained_on.get("data", {}), "{} {}"),
        "model": None if is_estimate else manifest["model"]["sha256"][:16],
        "versions": listed(manifest["versions"], "{} {}"),
        "seconds": listed((figures or {}).get("seconds", {}), "{} {:.1f}"),
        "report created on": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    }
    kept = f"{ranker.backend}, objective {ranker.settings_.objective}, {ranker.best_iteration_:,} rounds kept"
    if is_estimate:
        kept = "estimate without training"
    return {
        "title": title,
        "model": kept + (f"; trained on {len(training_graphs):,} {things(kind)}" if training_graphs else ""),
        "kind": kind,
        "command": command,
        "version": gbr.__version__,
        "made": time.strftime("%Y-%m-%d %H:%M"),
        "settings": [(name, str(value)) for name, value in values.items() if value not in (None, "")],
    }


def summarise_ranking(path: Path, configs: Sequence[int], scores: FloatArray, top: int = _TOP) -> dict[str, Any]:
    """Summarise the prediction of a graph: ``configs``, rows of its file, best first, and their scores.

    ``histogram``: counts of the scores per bin, those of the ``best``, which are listed, and the width of all bins.
    Distances are in standard deviations.
    """
    graph = read_graph(path)
    names, ids = node_names(graph.node_opcode), graph.node_config_ids
    top = min(top, _MAX_TOP, len(configs))
    texts = []
    for config in graph.configs(np.array(configs[:top], np.int64)):
        nodes: list[tuple[str, str]] = []
        if ids is None:
            text = tile_text(config)
        else:
            layouts = zip(ids.tolist(), map(layout_texts, config.reshape(-1, N_LAYOUT)), strict=True)
            nodes = [(names[node], layout) for node, layout in layouts if layout]
            text = f"{len(nodes)} of {len(ids)} nodes set" if nodes else "all left to the compiler"
        texts.append({"text": text, "nodes": nodes})
    facts = {"configurations": graph.n_configs, "distinct scores": len(np.unique(scores)), "nodes": len(names)}
    facts |= {} if ids is None else {"configurable nodes": len(ids)}
    return _ranking(graph.name, str(path), facts, configs, scores, texts)


def summarise_rows(name: str, ranking: Mapping[str, Any], top: int = _TOP) -> dict[str, Any]:
    """Summarise the prediction of a group of the table ``name`` as :func:`summarise_ranking` does."""
    rows, scores, failures = ranking["rows"], np.array(ranking["scores"]), ranking["failures"]
    top = min(top, _MAX_TOP, len(rows))
    may_fail = any(failures)
    texts = []
    for config, chance in zip(ranking["configs"][:top], failures, strict=False):
        text = ", ".join(f"{parameter} {value}" for parameter, value in config.items() if value is not None)
        texts.append({"text": text + (f" (chance to fail {chance:.1%})" if may_fail else ""), "nodes": []})
    facts = {"configurations": len(rows), "distinct scores": len(np.unique(scores))}
    return _ranking(ranking["group"], name, facts, rows, scores, texts)


def _ranking(
    name: str,
    path: str,
    facts: Mapping[str, int],
    configs: Sequence[int],
    scores: FloatArray,
    best: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    spread = float(scores.std()) or 1.0
    width = float(np.ptp(scores))
    counts, edges = np.histogram(scores, bins=_BINS if width else 1)
    return {
        "name": name,
        "path": path,
        "facts": facts,
        "n_configs": len(configs),
        "histogram": {
            "counts": counts.tolist(),
            "top": np.histogram(scores[: len(best)], bins=edges)[0].tolist(),
            "width": width / spread,
        },
        "best": [
            {"rank": at + 1, "config": configs[at], "behind": float((scores[at] - scores[0]) / spread), **each}
            for at, each in enumerate(best)
        ],
    }


def tile_text(row: NDArray[np.float32]) -> str:
    """Bounds of a tile configuration, float32 (24,), as ``output 8×128; input 8×64``."""
    bounds = {name: [f"{bound:g}" for bound in row[first : first + _SLOTS] if bound] for name, first in _BOUNDS.items()}
    return "; ".join(f"{name} {'×'.join(own)}" for name, own in bounds.items() if own) or "no bounds"


def layout_texts(row: NDArray[np.int8]) -> str:
    """Layouts of one node, int8 (18,), as ``output {1,0}, input {0,1}``; empty if left to the compiler."""
    orders = {name: dims[dims >= 0] for name, dims in zip(TENSOR_ROLES, np.split(row, len(TENSOR_ROLES)), strict=True)}
    return ", ".join(f"{name} {layout_text(order)}" for name, order in orders.items() if len(order))
