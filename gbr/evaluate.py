"""Command: score a trained model on a split of a collection.

python -m gbr.evaluate --model runs/tile --subset tile:cpu --split valid
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import numpy as np
from numpy.typing import NDArray

from gbr import callable_module, cli
from gbr.data.collection import SPLITS, TABLE, Subset, known_bad, things
from gbr.errors import DataError

if TYPE_CHECKING:
    from features.hardware import Hardware
    from gbr.cluster import Workers
    from gbr.data.groups import QueryGroups
    from gbr.data.store import FeatureStore
    from gbr.data.table_features import TableFeatures
    from gbr.evaluation.figures import Figures
    from gbr.evaluation.metrics import Scored
    from gbr.ranker import Ranker

PROTOCOLS: Final = ("full", "official")
#: Features held in memory at once while predicting: 512 MiB of float32.
_CELLS_AT_ONCE: Final = 1 << 27


@cli.command("gbr.evaluate")
@cli.model_option
@cli.subset_option
@click.option("--split", type=click.Choice(SPLITS), default="valid", help="Split to score.")
@click.option(
    "--protocol",
    type=click.Choice(PROTOCOLS),
    default="full",
    help="full: all configurations of every graph; official: also as the scripts of TpuGraphs score, tile by "
    "benchmark, layout on the listed 1000 configurations per graph.",
)
@click.option(
    "--indices",
    type=cli.PATH,
    metavar="DIR",
    help="Folder of the listed configurations, xla_default.json etc.  [default: ROOT/eval_indices]",
)
@cli.data_option
@cli.store_option
@cli.skip_option
@cli.jobs_option
@cli.report_option
@cli.json_option
def main(
    *, model: Path, subset: str, split: str, data: Path, store: Path, report: Path | None, as_json: bool, **options: Any
) -> None:
    """Score a trained model on a split of a collection."""
    from gbr.evaluation import protocol
    from gbr.report.report import summarise_run, write_report

    collection = cli.find_collection(subset, data)
    scored: list[Scored] | None = [] if report else None
    figures = evaluate(model, collection, split, data, store, scored=scored, **options)
    print_figures(figures, (split,), as_json=as_json)
    if official := figures[split].get("official"):
        for message in protocol.notes(official):
            cli.note(message)
        for table in () if as_json else protocol.tables(official, collection, split):
            cli.table(*table)
    if report and scored:
        write_report(report, summarise_run("evaluate", model, collection, figures, scored, store))


def evaluate(
    model: str | Path,
    subset: str | Subset,
    split: str = "valid",
    data: str | Path = "data",
    store: str | Path | None = None,
    *,
    jobs: int | None = None,
    skip_known_bad: bool = False,
    protocol: str = "full",
    indices: str | Path | None = None,
    scored: list[Scored] | None = None,
) -> Figures:
    """Score a model on all configurations of all graphs of a split that have runtimes.

    Parameters
    ----------
    model : path
        Run directory written by :func:`gbr.train`.
    subset : str or Subset
        Any collection of the model's kind.
    split : str
        ``train``, ``valid`` or ``test``.
    data : path
        Data root.
    store : path, optional
        Feature store; ``store`` in ``data`` by default.
    jobs : int, optional
        Processes while building, threads while predicting.
    skip_known_bad : bool
        Leave out the graphs of :data:`gbr.data.collection.KNOWN_BAD`.
    protocol : str
        One of :data:`PROTOCOLS`; ``official`` adds the figures of the TpuGraphs scripts, from the same scores.
    indices : path, optional
        Folder of the listed configurations; ``eval_indices`` in ``data`` by default.
    scored : list, optional
        The predictions are appended to it, for a report.

    Returns
    -------
    Figures
        A dictionary as ``metrics.json``, with this split only; with the official protocol the split also has
        ``official``, see :func:`gbr.evaluation.protocol.evaluate`.

    Raises
    ------
    ModelError
        When the model is missing or damaged, or was trained on other features.
    DataError
        When the split is missing or has no runtimes, or the listed configurations are missing or invalid.
    UsageError
        For the official protocol with a collection or split that it does not cover.
    """
    from gbr.data.store import STORE, schema_of, store_for
    from gbr.evaluation import protocol as official
    from gbr.evaluation.figures import Figures
    from gbr.ranker import Ranker

    collection, data = cli.find_collection(subset, data), Path(data)
    listed = None
    if protocol == "official":
        listed = official.indices_of(collection, split, Path(indices or data / official.FOLDER))
    ranker = Ranker.load(model)
    ranker.n_jobs = jobs or ranker.n_jobs
    ranker = ranker.resolved(collection.kind, collection.folder(data) / split)
    hardware = ranker.hardware
    features = ranker.table if collection.kind == TABLE else None
    schema = schema_of(collection.kind, hardware) if features is None else features.schema
    ranker.columns_in(schema, str(collection.folder(data) / split))
    store = store_for(store or data / STORE, collection.name, schema, hardware).root
    opened, build_seconds = update_store(collection, data, store, (split,), jobs, hardware, features=features)
    groups, left_out = labelled_groups(opened, collection, split, skip_known_bad)
    if not len(groups):
        raise DataError(
            f"{collection.folder(data) / split}: no graph has runtimes; use a split that has them (the test files of "
            "TpuGraphs have none)"
        )
    trained_on = ranker.trained_on_ or {}
    if split == "valid" and trained_on.get("fitted_on_valid") and trained_on["subset"] == collection.name:
        cli.note("the model was fitted on train and valid: these figures say nothing of other groups")
    if features is not None and split != "train":
        seen = {group.name for group in features.known.groups} & {*groups.names}
        if seen and not (split == "valid" and trained_on["subset"] == collection.name):
            cli.note(
                f"{len(seen)} of {len(groups)} groups are among those that the model has seen: "
                + ", ".join(sorted(seen)[:3])
            )
    scored = [] if scored is None else scored
    known = known_runtimes(ranker, features) if features is not None and ranker.predicts_runtimes else None
    figures, predict_seconds = score_split(ranker, None, opened, groups, split, left_out, scored, known)
    if protocol == "official":
        figures["official"] = official.evaluate(scored[-1].scores, groups, collection.kind, listed)
    seconds = {"build": build_seconds, "predict": predict_seconds}
    return Figures({"subset": collection.name, split: figures, "seconds": seconds})


def update_store(
    subset: Subset,
    data: str | Path,
    store: str | Path | None,
    splits: Sequence[str],
    jobs: int | None,
    hardware: Hardware | None = None,
    workers: Workers | None = None,
    features: TableFeatures | None = None,
) -> tuple[FeatureStore, float]:
    """Compute missing features; returns the store and the seconds it took."""
    from gbr.data.build import build
    from gbr.data.store import STORE, FeatureStore

    store = store or Path(data) / STORE
    start = time.monotonic()
    progress = partial(cli.progress, label=f"features of {subset.name}")
    build(subset, data, store, splits, jobs, progress, hardware, workers, features)
    return FeatureStore(Path(store), subset.name), time.monotonic() - start


def labelled_groups(
    store: FeatureStore, subset: Subset, split: str, skip_known_bad: bool
) -> tuple[QueryGroups, dict[str, str]]:
    """Graphs of a split that have runtimes, with the columns of the baselines only; and why which are left out."""
    from gbr.evaluation.baselines import COLUMNS
    from gbr.models import physics

    wanted = COLUMNS | physics.prices(subset.kind, store.hardware).keys()
    every = store.load(split, columns=wanted.intersection(store.manifest["schema"]["columns"]))
    groups, unknown = every.labelled(), [every.names[group] for group in np.flatnonzero(~every.is_labelled)]
    if unknown and len(groups):
        cli.note(
            f"{split}: {len(unknown)} of {len(every)} {things(subset.kind)} have no runtimes and are left out: "
            f"{unknown[0]} ..."
        )
    bad = [name for name in groups.names if skip_known_bad and known_bad(subset, name)]
    if bad:
        groups = groups.take([index for index, name in enumerate(groups.names) if name not in bad])
    return groups, dict.fromkeys(bad, "runtimes known to be corrupted (--skip known-bad)")


def predict_split(
    ranker: Ranker, store: FeatureStore, groups: QueryGroups, split: str
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Scores and chances to fail of all rows, float64 (rows,) each, and the seconds the model took.

    They are predicted in batches of graphs.
    """
    scores, chances = np.empty((2, int(groups.indptr[-1])))
    seconds = 0.0
    columns = [str(name) for name in ranker.feature_names_in_]
    rows_at_once = _CELLS_AT_ONCE // len(columns)
    first = 0
    while first < len(groups):
        limit = groups.indptr[first] + rows_at_once
        last = max(first + 1, int(np.searchsorted(groups.indptr, limit, side="right")) - 1)
        batch = store.load(split, groups.names[first:last], columns)
        start = time.monotonic()
        rows = slice(groups.indptr[first], groups.indptr[last])
        scores[rows], chances[rows] = ranker.predict_both(batch.X)
        seconds += time.monotonic() - start
        first = last
    return scores, chances, seconds


def score_split(
    ranker: Ranker,
    raw: Ranker | None,
    store: FeatureStore,
    groups: QueryGroups,
    split: str,
    left_out: dict[str, str],
    scored: list[Scored] | None = None,
    known: tuple[NDArray[np.float32], NDArray[np.float64]] | None = None,
) -> tuple[dict[str, Any], float]:
    """Figures of a split and its baselines, as in ``metrics.json``, and the seconds the model took.

    ``raw`` is the baseline on raw columns, ``groups`` and ``left_out`` are those of :func:`labelled_groups`.  The
    predictions are appended to ``scored``.  ``known`` has the training rows of a model of runtimes and their costs.
    """
    from gbr.evaluation import baselines, metrics, runtimes
    from gbr.models import simple

    kind = store.kind
    with cli.busy(f"scoring {split}"):
        scores, chances, seconds = predict_split(ranker, store, groups, split)
    figures, predicted = metrics.evaluate(scores, groups, kind), None
    figures["skipped"] |= left_out
    if failures := metrics.failures(scores, chances, groups):
        figures["failures"] = failures
    if known is not None:
        names = [str(name) for name in ranker.feature_names_in_]
        X = store.load(split, groups.names, names).X
        runtime, _, high = predicted = ranker.runtime_rows(X)
        figures["runtime"] = runtimes.figures(runtime, groups.target, float(high[0] / runtime[0]))
        figures["runtime"]["baselines"] = {
            name: runtimes.figures(times, groups.target) for name, times in simple.baselines(names, *known, X).items()
        }
    if scored is not None:
        scored.append(metrics.Scored(split, groups, scores, predicted))
    found = {
        "raw_l2": metrics.evaluate(predict_split(raw, store, groups, split)[0], groups, kind) if raw else None,
        "physics": None if ranker.is_estimate else _estimated(groups, kind, store.hardware),
        "fewest_configured": baselines.fewest_configured(groups, kind),
        "mean_rank": baselines.mean_rank(groups, kind),
        "default_configuration": baselines.default_configuration(groups, kind),
        "random_order": baselines.random_order(groups, kind),
        "retest": baselines.retest(groups, kind),
    }
    figures["baselines"] = {name: baseline for name, baseline in found.items() if baseline}
    return figures, seconds


def known_runtimes(
    ranker: Ranker, features: TableFeatures, *splits: str
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Rows of some splits of the training table, by default all, in the columns of the model; and their costs."""
    from gbr.data.table_features import part

    known = part(features.known, *splits or ("train", "valid"))
    kept = np.isin(features.schema.names, ranker.feature_names_in_.astype(str))
    return features(known.frame, known.groups)[:, kept], known.cost


def _estimated(groups: QueryGroups, kind: str, hardware: Hardware) -> dict[str, Any] | None:
    """Figures of the order by :mod:`gbr.models.physics`; None for a table."""
    from gbr.evaluation import metrics
    from gbr.models import physics

    if not physics.prices(kind, hardware):
        return None
    return metrics.evaluate(-physics.estimate(kind, hardware, groups.columns).predict(groups.X, 1), groups, kind)


def print_figures(figures: Figures, splits: Sequence[str], *, as_json: bool) -> None:
    """Print figures on stdout, as JSON or as one table per split that has figures; notes say what beats the model."""
    if as_json:
        cli.emit_json(figures)
    else:
        for table in figures.tables(splits):
            cli.table(*table)
    for message in figures.beaten(splits):
        cli.note(message)


callable_module(__name__)

if __name__ == "__main__":
    sys.exit(main())
