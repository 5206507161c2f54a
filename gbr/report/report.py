"""From a command to a report: gather what it says, and write it."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

import gbr
from gbr import cli
from gbr.attribution.explanation import Explanation, explain
from gbr.data.build import schema_of
from gbr.data.collection import Subset
from gbr.data.store import FeatureStore
from gbr.errors import UsageError
from gbr.evaluation.scoring import Scored
from gbr.models import io
from gbr.ranker import Ranker
from gbr.report import explained, learning, predicted, render, summary

#: Splits as they stand in a report: what the model has not seen first.
_ORDER: Final = ("test", "valid", "train")
_COLUMNS: Final = 15
#: Graphs of a prediction whose first configuration is explained; each takes several times as long as its prediction.
_EXPLAINED: Final = 12


def write_report(path: Path, summary: dict[str, Any]) -> None:
    """Write a report as one self-contained HTML file.

    Parameters
    ----------
    path : Path
        The HTML file; replaced if it exists.
    summary : dict
        Of :func:`summarise_run`, :func:`summarise_prediction` or :func:`summarise_explanation`.

    Raises
    ------
    UsageError
        When the file cannot be written.
    """
    pages = {"predict": render.prediction_page, "explain": render.explanation_page}
    render.write(path, pages.get(summary["command"], render.page)(summary))


def summarise_run(
    command: str,
    model: Path,
    subset: Subset,
    figures: Mapping[str, Any],
    scored: Sequence[Scored],
    store_root: Path,
) -> dict[str, Any]:
    """Summarise a scored run for its report, as values ready for JSON.

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
        What :func:`gbr.evaluation.scoring.figures_of` scored.
    store_root : Path
        Folder of the feature store, for all collections.

    Returns
    -------
    dict
        ``title``, ``model``, ``command``, ``version``, ``made``, ``kind``, ``figures`` (per split as in
        ``metrics.json``, what the model has not seen first, and ``learnt``), ``splits`` (of
        :func:`gbr.report.summary.of_split`; the training split only when it stands alone), ``data``, ``suspects``,
        ``learning``, ``importance``, ``settings``.
    """
    store = FeatureStore(store_root, subset.name)
    ranker, manifest = Ranker.load(model), io.read_manifest(model)
    trained_on = manifest["trained_on"] or {}
    known = store.stems("train") if trained_on.get("subset") == subset.name else None
    by_split = {each.split: each for each in sorted(scored, key=lambda each: _ORDER.index(each.split))}
    learnt = {name: name == "train" and trained_on.get("subset") == subset.name for name in by_split}
    whole = [each for name, each in by_split.items() if not learnt[name] or len(by_split) == 1]
    most = summary.points_each(sum(len(each.slates) for each in whole))
    splits, data, suspects = [], [], []
    steps = sum(len(each.slates) for each in by_split.values()) + sum(len(each.slates) for each in whole)
    with cli.progress(steps, "report") as advance:
        for name, each in by_split.items():
            if each in whole:
                found = summary.of_split(each, figures[name], subset.kind, known or None, most, advance)
                splits.append(found)
                data.append({"name": name} | found["data"])
            else:
                found = summary.of_data(each, most, advance)
                data.append({"name": name} | found["totals"])
            suspects += found["suspects"]
    return {
        "title": subset.name,
        "model": _model(ranker, len(known) if known else None),
        "command": command,
        "version": gbr.__version__,
        "made": _now(),
        "kind": subset.kind,
        "figures": {name: dict(figures[name]) | {"learnt": learnt[name]} for name in by_split},
        "splits": splits,
        "data": data,
        "suspects": suspects,
        "learning": _curves(ranker, store, by_split, command),
        "importance": _importance(ranker, subset.kind),
        "settings": _settings(ranker, manifest, figures),
    }


def summarise_prediction(model: Path, rankings: Sequence[Mapping[str, Any]], top: int | None) -> dict[str, Any]:
    """Summarise a prediction for its report, as values ready for JSON.

    Parameters
    ----------
    model : Path
        Folder of the model.
    rankings : sequence of mapping
        Of all configurations, as :func:`gbr.predict.ranking` returns them.
    top : int or None
        Configurations to show of each graph; :data:`gbr.report.predicted.TOP` by default.

    Returns
    -------
    dict
        ``title``, ``model``, ``command``, ``version``, ``made``, ``graphs`` (:func:`.predicted.of_graph`, and ``why``
        of :func:`.explained.for_page`: the first against the compiler's default, or against the median where there
        is none; None for a graph of one configuration, and for all beyond the first few), ``explained`` (how many
        graphs that is told of at most), ``settings``.
    """
    ranker = Ranker.load(model)
    graphs = []
    with cli.progress(len(rankings), "report") as advance:
        for number, one in enumerate(rankings):
            path = Path(one["graph"])
            configs, scores = np.array(one["configs"], np.int64), np.array(one["scores"], np.float64)
            asked = number < _EXPLAINED and len(configs) > 1
            why = _why_first(ranker, path, int(configs[0])) if asked else None
            graphs.append(predicted.of_graph(path, configs, scores, top or predicted.TOP) | {"why": why})
            advance(1)
    names = ", ".join(graph["name"] for graph in graphs[:3])
    title = names if len(graphs) <= 3 else f"{len(graphs)} graphs"
    return _about(title, "predict", model, ranker) | {"graphs": graphs, "explained": _EXPLAINED}


def _why_first(ranker: Ranker, path: Path, first: int) -> dict[str, Any]:
    # A report of a prediction says nothing of what was measured, also where the file knows it.
    return explained.for_page(replace(explain(ranker, path, first), runtimes=None))


def summarise_explanation(model: Path, ranker: Ranker, found: Explanation, top: int) -> dict[str, Any]:
    """Summarise an explanation for its report, as values ready for JSON.

    Parameters
    ----------
    model : Path
        Folder of the model.
    ranker : Ranker
        The model.
    found : Explanation
        Of :func:`gbr.attribution.explanation.explain`.
    top : int
        Features, nodes and copies to show.
    """
    return _about(Path(found.graph).stem, "explain", model, ranker) | {"why": explained.for_page(found, top)}


def _about(title: str, command: str, model: Path, ranker: Ranker) -> dict[str, Any]:
    """What every page says that needs no figures."""
    return {
        "title": title,
        "model": _model(ranker, None),
        "command": command,
        "version": gbr.__version__,
        "made": _now(),
        "settings": _settings(ranker, io.read_manifest(model), {}),
    }


def check_report_path(path: Path) -> None:
    """Check before the work that a report can be written; creates its folder.

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


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M")


def _model(ranker: Ranker, n_graphs: int | None) -> str:
    told = f"{ranker.backend}, objective {ranker.settings_.objective}, {ranker.best_iteration_:,} rounds kept"
    return told + (f"; learnt from {n_graphs:,} graphs" if n_graphs else "")


def _curves(ranker: Ranker, store: FeatureStore, scored: Mapping[str, Scored], command: str) -> dict[str, Any] | None:
    """Learning curves over what stopped the training, else over what there is; None where no order can be told."""
    split = next(name for name in ("valid", *_ORDER) if name in scored)
    try:
        rows, count = learning.sampled(store, split, scored[split].slates.names, ranker)
        found = learning.curves(ranker, rows, partial(cli.progress, label="learning curve"))
    except UsageError:
        return None
    stopped = split == "valid" and command == "train"
    return {"split": split, "graphs": count, "stopped": stopped, "curves": found}


def _importance(ranker: Ranker, kind: str) -> dict[str, Any] | None:
    gains = ranker.feature_importances_
    if not gains.sum():
        return None
    names = [str(name) for name in ranker.feature_names_in_]
    schema = schema_of(kind)
    about = {f"{block.name}.{column.name}": column for block in schema.blocks for column in block.columns}
    blocks = {block.name: block for block in schema.blocks}
    counts = {name: sum(column.startswith(f"{name}.") for column in names) for name in blocks}
    largest = [place for place in gains.argsort()[::-1][:_COLUMNS].tolist() if gains[place] > 0]
    return {
        "blocks": [
            {"name": name, "share": share, "columns": f"{counts[name]} columns", "doc": blocks[name].doc}
            for name, share in ranker.block_importances_.items()
        ],
        "columns": [
            {
                "name": names[place],
                "share": float(gains[place]),
                "doc": about[names[place]].doc,
                "unit": about[names[place]].unit,
            }
            for place in largest
        ],
    }


def _settings(ranker: Ranker, manifest: dict[str, Any], figures: Mapping[str, Any]) -> list[tuple[str, str]]:
    settings, trained_on = manifest["settings"], manifest["trained_on"] or {}
    told: dict[str, object] = {
        "backend, objective": f"{settings['backend']}, {settings['objective']}",
        "rounds": f"at most {settings['n_estimators']}, stopped after {settings['early_stopping_rounds']} without gain",
        "leaves, learning rate": f"{settings['num_leaves']}, {settings['learning_rate']}",
        "rows per leaf": settings["min_child_samples"],
        "seed": manifest["seed"],
        "further parameters": ", ".join(f"{name}={value}" for name, value in settings["params"].items()) or None,
        "features": f"{manifest['features']['count']} columns, schema {trained_on.get('schema_hash')}",
        "hardware": (trained_on.get("hardware") or {}).get("name"),
        "trained on": trained_on.get("subset"),
        "rows learnt from": f"{trained_on['rows']:,}" if trained_on.get("rows") else None,
        "data": ", ".join(f"{split} {digits}" for split, digits in trained_on.get("data", {}).items()) or None,
        "model": manifest["model"]["sha256"][:16],
        "versions": ", ".join(f"{name} {version}" for name, version in manifest["versions"].items()),
        "seconds": ", ".join(f"{name} {value:.1f}" for name, value in figures.get("seconds", {}).items()) or None,
        "report made on": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    }
    return [(name, str(value)) for name, value in told.items() if value is not None]
