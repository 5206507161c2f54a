"""Command: train a ranker on a collection and score it.

python -m gbr.train --subset tile:cpu
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from gbr import cli
from gbr.data import collection
from gbr.errors import DataError, GbrError, ModelError, UsageError
from gbr.models.params import CAPACITY, GOALS, OBJECTIVES
from gbr.models.rows import POLICIES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from features.hardware import Hardware
    from gbr.cluster import Workers
    from gbr.data.groups import QueryGroups
    from gbr.data.store import FeatureStore
    from gbr.evaluation.scoring import Scored
    from gbr.models.rows import Rows
    from gbr.models.training_set import Chosen, Sample
    from gbr.ranker import Ranker

METRICS: Final = "metrics.json"

#: What ``--set`` hands to the ranker; any other name goes to the library.
_RANKER_PARAMETERS: Final = (*CAPACITY, "early_stopping_rounds", "monotone")


_NAMES: Final = ", ".join(dict.fromkeys(name for names in OBJECTIVES.values() for name in names))


@cli.command("gbr.train", epilog="Example: python -m gbr.train --subset tile:cpu --set num_leaves=15")
@cli.subset_option
@cli.data_option
@cli.store_option
@click.option("--out", type=cli.PATH, metavar="DIR", help="Run directory.  [default: runs/<subset>/<time>]")
@click.option("--backend", type=click.Choice(tuple(OBJECTIVES)), default="ensemble", help="Model.")
@click.option(
    "--goal",
    type=click.Choice(GOALS),
    default="tau",
    help="What is optimized: the order of all configurations, or that the first few hold a fast one.",
)
@click.option("--objective", metavar="NAME", help=f"{_NAMES}.  [default: by the goal]")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help=f"A parameter: {', '.join(_RANKER_PARAMETERS)}, or one of the library; may be repeated.",
)
@click.option(
    "--columns",
    type=cli.CommaList(),
    metavar="LIST",
    help="Feature blocks or columns to learn from, separated by commas.  [default: all]",
)
@click.option(
    "--search",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Hyperparameter search first: N trials, validated on held-out families of training graphs (needs optuna).",
)
@cli.memory_option
@click.option(
    "--sample",
    metavar="N[:POLICY]",
    help=f"Learn from at most N rows of each graph, sampled by {', '.join(POLICIES)}.  [default: as many as fit]",
)
@cli.hardware_option
@cli.skip_option
@cli.seed_option
@cli.jobs_option
@cli.cluster_option
@cli.report_option
@cli.json_option
def main(
    *,
    subset: str,
    data: Path,
    store: Path,
    out: Path | None,
    settings: Sequence[str],
    search: int,
    sample: str | None,
    hardware: str | None,
    cluster: str | None,
    report: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Train a ranker on a collection and score every split that has runtimes."""
    parameters = dict(_setting(text) for text in settings)
    resolved = collection.resolve(subset, data)
    if resolved.note:
        cli.note(resolved.note)
    from gbr.data.hardware import choose

    chosen = choose(hardware, resolved, data)
    if chosen.note:
        cli.note(chosen.note)
    out = out or Path("runs") / resolved.name.replace(":", "-") / time.strftime("%Y%m%d-%H%M%S")
    claim(out)
    from gbr.cluster import connected
    from gbr.data.files import exclusive_lock
    from gbr.evaluation import scoring
    from gbr.report.report import check_report_path, summarise_run, write_report

    if report:
        check_report_path(report)
    scored: list[Scored] = []

    with (
        exclusive_lock(out, ModelError, "gbr.train"),
        connected(cluster, resolved, data, store) as workers,
    ):
        figures = train(
            resolved,
            data,
            store,
            out,
            settings=parameters,
            trials=search,
            hardware=chosen.hardware,
            sample=None if sample is None else _sample(sample),
            workers=workers,
            scored=scored if report else None,
            **options,
        )
    scoring.show(figures, ("valid", "test"), resolved.kind, as_json=as_json)
    cli.note(f"model, manifest and metrics are in {out}")
    if report:
        write_report(report, summarise_run("train", out, resolved, figures, scored, store))
        cli.note(f"the report is {report}")


def train(
    subset: collection.Subset,
    data: Path,
    store_root: Path,
    out: Path,
    *,
    backend: str = "ensemble",
    objective: str | None = None,
    goal: str = "tau",
    settings: dict[str, Any] | None = None,
    columns: Sequence[str] | None = None,
    seed: int = 0,
    jobs: int | None = None,
    skip_known_bad: bool = False,
    trials: int = 0,
    hardware: Hardware | None = None,
    memory: int | None = None,
    sample: Sample | None = None,
    workers: Workers | None = None,
    scored: list[Scored] | None = None,
) -> dict[str, Any]:
    """Train on ``train``, stop on ``valid``, score every split that has runtimes, and write it all to ``out``.

    Identical configurations of a training graph count once, with the smallest of their runtimes; scores are over all
    rows.

    Parameters
    ----------
    subset, data, store_root, out
        The collection, where it is, where its features go, where the run goes.
    backend, objective, goal, seed
        As :class:`gbr.ranker.Ranker` takes them.
    settings : dict, optional
        Parameters of the ranker (:data:`gbr.models.params.CAPACITY`, ``early_stopping_rounds``) or of the library.
    columns : sequence of str, optional
        Feature columns or blocks to learn from; all by default.
    jobs : int, optional
        Processes while building, threads while training.
    skip_known_bad : bool
        Leave out the graphs of :data:`gbr.data.collection.KNOWN_BAD`, while training and scoring.
    trials : int
        Settings to try before training, on held-out families of the training graphs; see :mod:`gbr.search`.
    hardware : Hardware, optional
        The machine that the runtimes are of; that of :func:`gbr.data.hardware.choose` by default.
    memory : int, optional
        Bytes that the features to learn from may take; :func:`gbr.models.training_set.default_memory` by default.  Where they are
        more they are read and binned by batches; where their bins are more than twice that, fewer rows of each graph
        are learnt from.
    sample : Sample, optional
        Rows of each graph to learn from.
    workers : Workers, optional
        Those of a cluster, to build and to fit; ``memory`` is then that of each.  Scores and baselines are taken here.
    scored : list, optional
        Gets what every split was scored from, for a report.

    Returns
    -------
    dict
        What ``metrics.json`` holds.

    Raises
    ------
    DataError
        When the collection has no training graphs with runtimes.
    StoreError, UsageError, ModelError
        As the store, the ranker and its folder raise them.
    """
    import numpy as np

    from gbr import cluster
    from gbr.data.build import schema_of
    from gbr.evaluation import baselines, scoring
    from gbr.models import training_set
    from gbr.models.rows import Rows
    from gbr.ranker import Ranker

    if trials and workers is not None:
        raise UsageError("--search: settings are searched on one machine; do that first and give them by --set")
    given = settings or {}
    ranker = Ranker(
        backend,
        objective,
        goal=goal,
        **{name: value for name, value in given.items() if name in _RANKER_PARAMETERS},
        params={name: value for name, value in given.items() if name not in _RANKER_PARAMETERS} or None,
        random_state=seed,
        n_jobs=jobs,
    )
    splits = collection.splits_present(subset, data)
    if "train" not in splits:
        raise DataError(
            f"{subset.folder(data) / 'train'}: no graphs to train on; put the collection's train split there"
        )
    store, build_seconds = scoring.ready_store(subset, data, store_root, splits, jobs, hardware, workers)
    labelled: dict[str, QueryGroups] = {}
    left_out: dict[str, dict[str, str]] = {}
    for split in splits:
        known, left_out[split] = scoring.measured(store, split), {}
        if skip_known_bad:
            known, left_out[split] = scoring.without_known_bad(known, subset)
        if len(known):
            labelled[split] = known
    if "train" not in labelled:
        raise DataError(f"{subset.folder(data) / 'train'}: no graph has runtimes; there is nothing to learn from")

    known, names = labelled["train"], training_set.columns_of(store, columns)
    memory = memory or training_set.default_memory()
    rows, target = distinct(known)
    everywhere = memory * (1 if workers is None else max(1, len(workers)))
    chosen = training_set.choose(rows, target, indptr_of(known, rows), len(names), everywhere, sample, seed)
    if chosen.sample:
        _told(len(chosen.rows), len(rows), chosen.sample, sample, everywhere)
    ranker.set_params(costs=[name for name in schema_of(subset.kind).costs if name in names] or None)
    if workers is None:
        fit_seconds, in_memory = _fit_here(ranker, store, labelled, chosen, names, memory, subset.kind, trials, seed)
    else:
        start = time.monotonic()
        cluster.fit(workers, ranker, store, known, chosen, labelled.get("valid"), names, memory, seed)
        fit_seconds, in_memory = time.monotonic() - start, True
    raw = None
    if blocks := baselines.raw_blocks(store.manifest["schema"]["columns"]):
        raw_names = training_set.columns_of(store, blocks)
        rows, target, indptr = chosen.rows, chosen.target, chosen.indptr
        if in_memory and not chosen.sample:  # plain, and so without a look for identical configurations
            rows, target, indptr = np.arange(len(known.target)), known.target, known.indptr
        if workers is not None:  # whose memory together is more
            chosen_here = training_set.choose(rows, target, indptr, len(raw_names), memory, None, seed)
            rows, target, indptr = chosen_here.rows, chosen_here.target, chosen_here.indptr
        raw_X = training_set.features(store, "train", known, rows, raw_names, memory)
        with cli.busy("fitting the plain baseline"):
            raw = baselines.fit_raw(Rows(raw_X, target, indptr), raw_names, seed, jobs)
        del raw_X

    figures: dict[str, Any] = {"subset": subset.name}
    predict_seconds = 0.0
    for split, known in labelled.items():
        figures[split], seconds = scoring.figures_of(
            ranker, raw, store, known, split, subset.kind, left_out[split], scored=scored
        )
        predict_seconds += seconds
    figures["seconds"] = {"build": build_seconds, "fit": fit_seconds, "predict": predict_seconds}

    ranker.trained_on_ = {
        "subset": subset.name,
        "kind": subset.kind,
        "schema_hash": store.manifest["schema"]["hash"],
        "hardware": store.manifest["schema"]["hardware"],
        "data": {split: fingerprint(store, split) for split in labelled},
        "rows": len(chosen.rows),
        "sample": None if chosen.sample is None else asdict(chosen.sample),
    }
    _write(ranker, figures, out)
    return figures


def _fit_here(
    ranker: Ranker,
    store: FeatureStore,
    labelled: dict[str, QueryGroups],
    chosen: Chosen,
    names: tuple[str, ...],
    memory: int,
    kind: str,
    trials: int,
    seed: int,
) -> tuple[float, bool]:
    """Fit on this machine; returns the seconds it took, and whether all features lay in memory."""
    import numpy as np

    from gbr.models import training_set
    from gbr.models.rows import Rows

    known, held_out = labelled["train"], labelled.get("valid")
    learnt = Rows(
        training_set.features(store, "train", known, chosen.rows, names, memory), chosen.target, chosen.indptr
    )
    valid = None if held_out is None else training_set.held_out(store, "valid", held_out, names, memory, seed)
    start = time.monotonic()
    if trials:
        given_to_search = training_set.in_memory(learnt, seed)
        ranker.set_params(**_searched(ranker, given_to_search, names, known.names, kind, trials, seed))
        del given_to_search
    with cli.busy(f"fitting {ranker.backend} on {len(learnt.target):,} rows"):
        ranker._fit_rows(learnt, names, valid)
    return time.monotonic() - start, isinstance(learnt.X, np.ndarray)


def distinct(slates: QueryGroups) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Rows that hold the first of identical configurations, and the smallest target of each such group.

    Returns
    -------
    rows : int64 (distinct,)
        Ascending.
    target : float64 (distinct,)
    """
    import numpy as np

    first = slates.duplicate_of + slates.indptr[slates.qid]
    smallest = slates.target.copy()
    np.minimum.at(smallest, first, slates.target)
    rows = np.flatnonzero(first == np.arange(len(first)))
    return rows, smallest[rows]


def indptr_of(slates: QueryGroups, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Bounds of the slates when only ``rows``, ascending, are kept, int64 (slates + 1,)."""
    import numpy as np

    return np.searchsorted(rows, slates.indptr)


def _told(learnt: int, every: int, sample: Sample, wanted: Sample | None, memory: int) -> None:
    why = "" if sample == wanted else f": the bins of more do not fit --memory {memory / cli.GIB:.3g}"
    cli.note(f"learns from {learnt:,} of {every:,} rows, at most {sample.most:,} of a graph ({sample.policy}){why}")


def _searched(
    ranker: Ranker, train: Rows, columns: Sequence[str], graphs: Sequence[str], kind: str, trials: int, seed: int
) -> dict[str, Any]:
    """Settings that the search found, told on stderr."""
    from sklearn.base import clone

    from gbr.search import search

    place = {name: number for number, name in enumerate(columns)}
    costs = [place[str(name)] for name in ranker.costs or ()] or None

    with cli.progress(trials, "searching settings") as advance:

        def on_trial(number: int, best: float) -> None:
            advance(1)

        found = search(
            lambda **settings: clone(ranker).set_params(costs=costs, **settings),
            train,
            [collection.family(kind, name) for name in graphs],
            trials,
            goal=ranker.goal,
            seed=seed,
            on_trial=on_trial,
        )
    cli.note(f"search: {found or 'nothing beat the defaults'}")
    return found


def fingerprint(store: FeatureStore, split: str) -> str:
    """16 hex digits over the names and fingerprints of a split's graph files."""
    sources = {stem: entry["source"] for stem, entry in store.entries(split).items()}
    return hashlib.sha256(json.dumps(sources, sort_keys=True).encode()).hexdigest()[:16]


def claim(out: Path) -> None:
    """Refuse an out folder before hours of work: a file, not writable, or full of things that are no gbr run.

    Raises
    ------
    UsageError
    """
    from gbr.data.files import LOCK
    from gbr.models import io

    nearest = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not nearest.is_dir():
        raise UsageError(f"--out {out}: {'is' if nearest == out else f'{nearest} is'} a file; name a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UsageError(f"--out {out}: {nearest} cannot be written; name a folder you may write to")
    if not out.exists() or not any(out.iterdir()):
        return
    if all(io.is_model_file(path.name) or path.suffix == ".part" or path.name == LOCK for path in out.iterdir()):
        return  # a run that was killed as it wrote its model
    try:
        io.read_manifest(out)
    except GbrError:
        raise UsageError(f"--out {out}: holds files that are no gbr run; name a new or empty folder") from None


def _write(ranker: Ranker, figures: dict[str, Any], out: Path) -> None:
    from gbr.data.files import atomic_write, json_text, put_aside

    with atomic_write(out / METRICS, ModelError) as part:
        part.write_text(json_text(figures), encoding="utf-8")
        # Old figures must never stand beside a new model, nor be lost where there is no room for one.
        with put_aside(out / METRICS):
            ranker.save(out)


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise UsageError(f"--set {text}: want key=value")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _sample(text: str) -> Sample:
    from gbr.models.training_set import Sample

    most, colon, policy = text.partition(":")
    if not most.isdecimal() or int(most) < 2 or (colon and policy not in POLICIES):
        raise UsageError(f"--sample {text}: want rows per graph, at least 2, and :{' or :'.join(POLICIES)} after them")
    return Sample(int(most), policy or POLICIES[0])


if __name__ == "__main__":
    sys.exit(main())
