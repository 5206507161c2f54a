"""Command: train a ranker on a collection and score it.

python -m gbr.train --subset tile:cpu
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import numpy as np
from numpy.typing import NDArray

from gbr import callable_module, cli
from gbr.data.collection import TABLE, Subset, family, splits_present, things
from gbr.data.files import LOCK, atomic_write, exclusive_lock, json_text, put_aside, write_text
from gbr.data.groups import select_columns
from gbr.errors import DataError, GbrError, GbrWarning, ModelError, UsageError
from gbr.evaluate import known_runtimes, labelled_groups, print_figures, score_split, update_store
from gbr.models import training_set
from gbr.models.params import CAPACITY, GOALS, GUARANTEED_FOLDS, OBJECTIVES
from gbr.models.rows import Rows, StreamedMatrix, in_memory, rankable
from gbr.models.training_set import Selection

if TYPE_CHECKING:
    from features.hardware import Hardware
    from gbr.cluster import Workers
    from gbr.data.groups import QueryGroups
    from gbr.data.store import FeatureStore
    from gbr.data.table_features import TableFeatures
    from gbr.evaluation.figures import Figures
    from gbr.evaluation.metrics import Scored
    from gbr.models.base import OnRound
    from gbr.models.screening import Screening
    from gbr.ranker import Ranker

METRICS: Final = "metrics.json"
#: Feature blocks of the baseline on raw columns: graph and configuration without geometry, roles or neighborhoods; of a
#: table, its own columns.
RAW_BLOCKS: Final = ("config", "opcodes", "nodes", "kinds", "context", "device")
#: Fewer training graphs or configurations are reported.
_FEW_GRAPHS: Final = 5
_FEW_ROWS: Final = 50
#: With fewer training groups of a table, only these blocks are used: others describe devices, or configurations on
#: devices, and would be memorised.
_FEW_TABLE_GROUPS: Final = 8
_FEW_BLOCKS: Final = ("config", "history")
#: Blocks for runtimes of a table; and history, where held-out rows do not see their own fold in it.
_RUNTIME_BLOCKS: Final = ("config", "gpu", "kinds", "amounts", "context", "device")
#: Splits whose rows the model has seen that scores a split.
_SEEN: Final = {"valid": ("train",), "test": ("train", "valid")}
#: Column of the features of a table from which boosting starts, with fewer training groups than this.  With more, all
#: pairs tell more: on made tables of 12, 24, 48, 80 and 240 groups, tau is .845, .847, .834, .803 and .815 with the
#: start, and .775, .852, .847, .818 and .855 without it.
_PRIOR: Final = "history.rank"
_PRIOR_GROUPS: Final = 20
#: Parameters of ``--set`` that the ranker takes; all others go to the library.
_RANKER_PARAMETERS: Final = (*CAPACITY, "early_stopping_rounds", "monotone")
_OBJECTIVES: Final = ", ".join(dict.fromkeys(name for names in OBJECTIVES.values() for name in names))


@cli.command("gbr.train", epilog="Example: python -m gbr.train --subset tile:cpu --set num_leaves=15")
@cli.subset_option
@cli.data_option
@cli.store_option
@click.option("--out", type=cli.PATH, metavar="DIR", help="Run directory.  [default: runs/<subset>/<time>]")
@click.option(
    "--backend",
    type=click.Choice([name for name in OBJECTIVES if name != "prior"]),  # which needs a column, and is in auto
    default="auto",
    help="Model; auto is LightGBM, with cost columns its mean with the cost model.",
)
@click.option(
    "--goal",
    type=click.Choice(GOALS),
    default="tau",
    help="Objective: the order of all configurations (tau), or a fast one among the first few (topk).",
)
@click.option("--objective", metavar="NAME", help=f"{_OBJECTIVES}.  [default: by the goal]")
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
    help="Feature blocks or columns to use, separated by commas, or `all`.  [default: chosen on validation graphs]",
)
@click.option(
    "--search",
    "trials",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Hyperparameter search first: N trials, validated on held-out families of training graphs (needs optuna).",
)
@click.option(
    "--time-limit",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="End the fit after this time and keep the best rounds so far.",
)
@click.option("--force", is_flag=True, help="Replace a model of another collection in --out.")
@cli.memory_option
@click.option(
    "--sample",
    type=click.IntRange(min=2),
    metavar="N",
    help="Train on at most N random rows of each graph.  [default: as many as fit]",
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
    cluster: str | None,
    report: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Train a ranker on a collection and score every split that has runtimes."""
    from gbr.cluster import connected
    from gbr.report.report import summarise_run, write_report

    options["settings"] = dict(map(_parse_setting, settings))
    collection = cli.find_collection(subset, data)
    out = out or _default_out(collection)
    scored: list[Scored] | None = [] if report else None
    with connected(cluster, collection, data, store) as workers:
        figures = train(collection, data, store, out, workers=workers, scored=scored, **options)
    print_figures(figures, ("valid", "test"), as_json=as_json)
    cli.note(f"model, manifest and metrics are in {out}")
    if report and scored:
        write_report(report, summarise_run("train", out, collection, figures, scored, store))


def _parse_setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise UsageError(f"--set: expected KEY=VALUE, got {text!r}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _default_out(subset: Subset) -> Path:
    return Path("runs") / subset.name.replace(":", "-") / time.strftime("%Y%m%d-%H%M%S")


def check_out(out: Path, subset: str, force: bool = False) -> None:
    """Check that a folder is new, empty or a run of the collection (with ``force``, of any); else UsageError."""
    from gbr.models import io

    names = [path.name for path in out.iterdir()] if out.is_dir() else []
    if all(io.is_model_file(name) or name.endswith(".part") or name == LOCK for name in names):
        return  # new, empty, or a run that was killed while writing its model
    try:
        about = io.read_manifest(out)
    except GbrError:
        raise UsageError(f"--out {out}: not a gbr run directory; name a new or empty folder") from None
    previous = (about.get("trained_on") or {}).get("subset", "a table")
    if previous != subset and not force:
        raise UsageError(f"--out {out}: has a model of {previous}, not {subset}; name another folder, or add --force")
    cli.note(f"{out}: the model of {previous} will be replaced")


def train(
    subset: str | Subset,
    data: str | Path = "data",
    store: str | Path | None = None,
    out: str | Path | None = None,
    *,
    backend: str = "auto",
    objective: str | None = None,
    goal: str = "tau",
    settings: dict[str, Any] | None = None,
    columns: Sequence[str] | None = None,
    seed: int = 0,
    jobs: int | None = None,
    skip_known_bad: bool = False,
    trials: int = 0,
    hardware: str | Hardware | None = None,
    memory: int | None = None,
    sample: int | None = None,
    time_limit: float | None = None,
    force: bool = False,
    workers: Workers | None = None,
    scored: list[Scored] | None = None,
) -> Figures:
    """Train on ``train``, stop early on ``valid``, score every split that has runtimes, and write the run to ``out``.

    Identical configurations of a training graph are merged: they count once, with their smallest runtime.  Scores are
    of all rows.

    Parameters
    ----------
    subset : str or Subset
        Collection.
    data : path
        Data root.
    store : path, optional
        Feature store; ``store`` in ``data`` by default.
    out : path, optional
        Run directory; ``runs/<subset>/<time>`` by default.
    backend : str
        Model, as :class:`gbr.Ranker` takes it.
    objective : str, optional
        What is minimised, as :class:`gbr.Ranker` takes it.
    goal : {"tau", "topk"}
        Order the whole group, or have a fast configuration among the first few.
    settings : dict, optional
        Parameters of the ranker (:data:`gbr.models.params.CAPACITY`, ``early_stopping_rounds``) or of the library.
    columns : sequence of str, optional
        Feature columns or blocks to use, ``["all"]`` for all; by default as :mod:`gbr.models.screening` chooses them.
    seed : int
        Random seed.
    jobs : int, optional
        Processes while building, threads while training.
    skip_known_bad : bool
        Leave out the graphs of :data:`gbr.data.collection.KNOWN_BAD`, while training and scoring.
    trials : int
        Trials of a hyperparameter search before training, see :mod:`gbr.search`.
    hardware : str or Hardware, optional
        Machine on which the runtimes were measured; by default that of :func:`gbr.data.hardware.choose`.
    memory : int, optional
        Bytes that the training features may take, per worker of a cluster; see :mod:`gbr.models.training_set`.
    sample : int, optional
        Rows of each graph to train on; by default as many as fit.
    time_limit : float, optional
        Seconds after which the fit ends and keeps its best rounds so far, as for :class:`gbr.Ranker`.
    force : bool
        Replace a model of another collection in ``out``.
    workers : Workers, optional
        Workers of a cluster, to build and to fit; scores are computed locally.
    scored : list, optional
        The predictions for each split are appended to it, for a report.

    Returns
    -------
    Figures
        The content of ``metrics.json``.

    Raises
    ------
    DataError
        When the collection has no training graphs with runtimes.
    StoreError, UsageError, ModelError
        As the store, the ranker and its folder raise them.
    """
    from gbr.data.hardware import choose
    from gbr.data.store import schema_of
    from gbr.evaluation.figures import Figures
    from gbr.ranker import Ranker

    if trials:
        from gbr.search import require_optuna

        require_optuna()  # before the features are built
        if workers is not None:
            raise UsageError(
                "--search: runs on one machine, not with --cluster; search first and use the result by --set"
            )
    collection, data = cli.find_collection(subset, data), Path(data)
    out = _default_out(collection) if out is None else Path(out)
    is_table, is_runtime = collection.kind == TABLE, "runtime" in (backend, objective)
    if hardware is not None and is_table:
        raise UsageError(f"--hardware: is for graphs; {collection.name} has its devices in a column")
    if hardware is None or isinstance(hardware, str):
        hardware = choose(hardware, collection, data)
    settings = settings or {}
    ranker = Ranker(
        backend,
        objective,
        goal=goal,
        **{name: value for name, value in settings.items() if name in _RANKER_PARAMETERS},
        params={name: value for name, value in settings.items() if name not in _RANKER_PARAMETERS} or None,
        time_limit=time_limit,
        random_state=seed,
        n_jobs=jobs,
    )
    if is_runtime and not is_table:
        raise UsageError(f"--objective runtime: expected a table, {collection.name} is a collection of graphs")
    features, family_of = _read_table(collection.folder(data), is_runtime) if is_table else (None, {})
    schema = schema_of(collection.kind, hardware) if features is None else features.schema
    _check_settings(ranker, bool(schema.costs))
    names = _selected(schema.names, columns)
    splits = splits_present(collection, data)
    check_out(out, collection.name, force)
    with exclusive_lock(out, ModelError, "gbr.train"):
        opened, build_seconds = update_store(collection, data, store, splits, jobs, hardware, workers, features)
        found = {split: labelled_groups(opened, collection, split, skip_known_bad) for split in splits}
        groups = {split: labelled for split, (labelled, _) in found.items() if len(labelled)}
        where = collection.folder(data) / ("" if is_table else "train")
        distinct = _distinct(groups, things(collection.kind), where)
        families = [family_of[name] if is_table else family(collection.kind, name) for name in groups["train"].names]
        run = _Run(opened, groups, families, features, memory or training_set.default_memory(), seed, jobs)

        may_be_plain = columns is None and len(families) >= _FEW_TABLE_GROUPS and "valid" in groups and not is_runtime
        if features is not None and columns is None:
            columns = _table_blocks(features, len(families), is_runtime)
            names = _selected(names, columns)
        start = time.monotonic()
        screening = None
        if columns is None and backend != "costmodel":
            screening = _screen(run, [*schema.costs, *({_PRIOR} & {*schema.names})])
            names = screening.columns if screening else names
        screening_seconds = time.monotonic() - start
        chosen = _sampled(run, distinct, len(names), sample, workers)
        ranker.set_params(
            costs=[name for name in schema.costs if name in names] or None,
            prior=_PRIOR if _PRIOR in names and 1 < len(families) < _PRIOR_GROUPS and not is_runtime else None,
        )

        fit_seconds, streamed = _fit(run, ranker, names, chosen, trials, workers)
        if features is not None and may_be_plain:
            ranker, names, plain_seconds = _fit_plain(run, ranker, names, chosen)
            fit_seconds += plain_seconds
        raw = _fit_raw_baseline(run, chosen, merged=bool(chosen.most) or streamed)
        final = _fit_again(run, ranker, names, is_runtime) or ranker

        figures = Figures(subset=collection.name)
        predict_seconds = 0.0
        for split, labelled in groups.items():
            scorer = final if split == "test" else ranker
            known = None
            if features is not None and is_runtime and split in _SEEN:
                known = known_runtimes(final, features, *_SEEN[split])
            figures[split], seconds = score_split(scorer, raw, opened, labelled, split, found[split][1], scored, known)
            predict_seconds += seconds
        figures["seconds"] = {
            "build": build_seconds, "fit": screening_seconds + fit_seconds, "predict": predict_seconds
        }  # fmt: skip
        final.trained_on_ = {
            "subset": collection.name,
            "kind": collection.kind,
            "schema_hash": opened.manifest["schema"]["hash"],
            "hardware": opened.manifest["schema"]["hardware"],
            "data": {split: fingerprint(opened, split) for split in groups},
            "rows": len(chosen.rows),
            "sample": chosen.most,
            "screening": screening and screening.summary(),
            "search": run.searched or None,
            "fitted_on_valid": final is not ranker,
            "folds": getattr(getattr(final.model_, "order", final.model_), "folds", None),
        }
        if features is not None:
            final.table = features
        _write(out, final, figures)
    return figures


@dataclass(frozen=True, eq=False)
class _Run:
    """What is trained on.

    Parameters
    ----------
    store : FeatureStore
    groups : dict of str to QueryGroups
        Those with runtimes by split, with the columns of the baselines only.
    families : list of str
        Of each training group.
    features : TableFeatures or None
        Of a table.
    memory, seed, jobs
        As :func:`train` takes them.
    searched : list of dict
        ``settings`` and ``value`` of each trial of a hyperparameter search.
    """

    store: FeatureStore
    groups: dict[str, QueryGroups]
    families: list[str]
    features: TableFeatures | None
    memory: int
    seed: int
    jobs: int | None
    searched: list[dict[str, Any]] = field(default_factory=list)


# Before the fit -------------------------------------------------------------------------------------------------------


def _read_table(folder: Path, is_runtime: bool) -> tuple[TableFeatures, dict[str, str]]:
    """Features of a table, and the device of each group by its name."""
    from gbr.data.table import read_table  # imports polars
    from gbr.data.table_features import TableFeatures, families_of
    from gbr.data.table_names import is_time

    table = read_table(folder)
    for message in table.notes:
        cli.note(message)
    unit = table.roles.unit
    if is_runtime and unit and table.roles.direction == "lower" and not is_time(unit):
        cli.note(f"{folder}: {unit!r} is no unit of time; the target is predicted in it all the same")
    return TableFeatures(table, is_runtime), families_of(table)


def _check_settings(ranker: Ranker, has_costs: bool) -> None:
    """Fit a few rows, so that an invalid parameter is an error before hours of work."""
    from sklearn.base import clone

    X = np.random.default_rng(0).random((32, 4))
    few = 1 if isinstance(ranker.n_estimators, int) and ranker.n_estimators > 0 else ranker.n_estimators
    tried = clone(ranker).set_params(n_estimators=few, costs=[0] if has_costs else None, n_jobs=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tried.fit(X, X[:, 0], qid=np.repeat(range(4), 8))


def _selected(names: tuple[str, ...], columns: Sequence[str] | None) -> tuple[str, ...]:
    """Names of columns and blocks as full names; all for None and ``all``."""
    if columns is None or columns == "all" or tuple(columns) == ("all",):
        return names
    return tuple(names[index] for index in select_columns(names, columns))


def _distinct(groups: dict[str, QueryGroups], what: str, where: Path) -> Selection:
    """Distinct training configurations; a DataError if they cannot be ranked, and notes on what will be missing."""
    if "train" not in groups:
        raise DataError(f"{where}: no {what} with runtimes; add measured {what}")
    if len(groups) == 1:
        cli.note(f"no valid or test {what} with runtimes: the fit does not stop early, and its quality is unknown")
    elif "valid" not in groups:
        cli.note(f"no valid {what} with runtimes: the fit does not stop early")
    distinct = training_set.distinct(groups["train"])
    n_graphs, n_rows = len(groups["train"]), len(distinct.rows)
    if not rankable(distinct.target, distinct.indptr):
        raise DataError(
            f"{where}: no {what[:-1]} has two configurations with different runtimes; add measured configurations"
        )
    if n_graphs < _FEW_GRAPHS or n_rows < _FEW_ROWS:
        cli.note(f"only {n_graphs} training {what} with {n_rows} configurations: expect little on other {what}")
    return distinct


def _table_blocks(features: TableFeatures, n_groups: int, is_runtime: bool) -> list[str] | None:
    """Blocks for a model of runtimes, or of few groups of a table; None for others, whose columns are screened."""
    wanted: tuple[str, ...] = _FEW_BLOCKS
    if is_runtime:
        fold, groups = features.known.fold, features.known.groups
        each = [{*fold[group.start : group.stop]} for group in groups] if fold is not None else []
        alone = all(len(values) == 1 for values in each) and len(set().union(*each)) == len(groups)
        wanted = (*_RUNTIME_BLOCKS, "history") if alone else _RUNTIME_BLOCKS
    elif n_groups >= _FEW_TABLE_GROUPS:
        return None
    return [block for block in wanted if any(name.startswith(f"{block}.") for name in features.schema.names)]


def _screen(run: _Run, always: Sequence[str]) -> Screening | None:
    """Choose columns on ``valid``, or on held-out families of ``train``; None if neither can be ranked."""
    from gbr.models import screening
    from gbr.search import folds

    names = training_set.columns_of(run.store, None)
    rng = np.random.default_rng(run.seed)

    def sampled(split: str, members: NDArray[np.int64], n_rows: int) -> Rows:
        """A sample of the rows of some graphs, with all columns."""
        if len(members) > screening.GROUPS:
            members = np.sort(rng.choice(members, screening.GROUPS, replace=False))
        graphs = run.groups[split].take(members)
        distinct = training_set.distinct(graphs)
        kept, indptr = screening.sampled(distinct.indptr, n_rows, run.seed)
        X = training_set.features(run.store, split, graphs, distinct.rows[kept], names, run.memory)
        return in_memory(Rows(X, distinct.target[kept], indptr), run.seed)

    everything = np.arange(len(run.families))
    if "valid" in run.groups:
        train = sampled("train", everything, screening.ROWS)
        valid = sampled("valid", np.arange(len(run.groups["valid"])), screening.ROWS // 2)
    elif len(set(run.families)) > 1:
        out = folds(run.families, seed=run.seed)[0]
        train = sampled("train", everything[~out], screening.ROWS)
        valid = sampled("train", everything[out], screening.ROWS // 2)
    else:
        return None
    if not (train.n_rankable and valid.n_rankable):
        return None
    with cli.busy("choosing columns"):
        found = screening.screen(train, valid, names, run.seed, run.jobs, always)
    which = found.chosen.replace("within", "those that vary within a group", 1)
    cli.note(f"{len(found.columns)} of {len(names)} columns ({which}); --columns all uses all")
    return found


def _sampled(run: _Run, distinct: Selection, n_columns: int, sample: int | None, workers: Workers | None) -> Selection:
    """Training rows that fit in memory."""
    memory = run.memory * (1 if workers is None else max(1, len(workers)))
    chosen = training_set.fit_memory(distinct, n_columns, memory, sample, run.seed)
    if chosen.most:
        reason = "" if chosen.most == sample else f": more do not fit --memory {memory / cli.GIB:.3g} GiB"
        cli.note(
            f"training on {len(chosen.rows):,} of {len(distinct.rows):,} rows, at most {chosen.most:,} per "
            f"{things(run.store.kind)[:-1]}{reason}"
        )
    return chosen


# Fits -----------------------------------------------------------------------------------------------------------------


def _fit(
    run: _Run, ranker: Ranker, names: tuple[str, ...], chosen: Selection, trials: int, workers: Workers | None
) -> tuple[float, bool]:
    """Fit on the training rows; returns the seconds it took to fit, and whether features were streamed."""
    start, streamed = time.monotonic(), False
    train = run.groups["train"]
    if run.features is not None and "runtime" in (ranker.backend, ranker.objective):
        cli.note(f"fitting runtimes of {len(train.target):,} configurations, {len(names)} columns")
        with cli.rounds("fitting", ranker.time_limit) as on_round:
            _fit_runtimes(ranker, run.features, names, ("train",), on_round)
    elif workers is None:
        X = training_set.features(run.store, "train", train, chosen.rows, names, run.memory)
        rows, streamed = Rows(X, chosen.target, chosen.indptr), isinstance(X, StreamedMatrix)
        valid = None
        if "valid" in run.groups:
            valid = training_set.held_out(run.store, "valid", run.groups["valid"], names, run.memory, run.seed)
        start = time.monotonic()
        if trials:
            ranker.set_params(**_search(run, ranker, rows, names, trials))
        cli.note(f"fitting on {len(chosen.rows):,} configurations, {len(names)} columns")
        with cli.rounds("fitting", ranker.time_limit) as on_round:
            ranker.fit_rows(rows, names, valid, on_round=on_round)
    else:
        from gbr.cluster import TrainingSet, fit

        graphs = train.names, run.groups["valid"].names if "valid" in run.groups else ()
        root = run.store.root.absolute()
        known = TrainingSet(root, run.store.subset, *graphs, names, run.memory, chosen.most, run.seed)
        fit(workers, ranker, known, chosen)
    return time.monotonic() - start, streamed


def _fit_plain(
    run: _Run, ranker: Ranker, names: tuple[str, ...], chosen: Selection
) -> tuple[Ranker, tuple[str, ...], float]:
    """The better one on ``valid`` of a ranker of a table and the same one on the table's own columns.

    Returns it, its columns, and the seconds that the fit on the table's own columns took.

    What other groups tell of a configuration misleads where each group has configurations of its own.
    """
    from sklearn.base import clone

    plain = _raw_columns(run)
    other: Ranker = clone(ranker).set_params(prior=None)
    seconds, _ = _fit(run, other, plain, chosen, 0, None)
    before, after = ranker.best_score_ or 0.0, other.best_score_ or 0.0
    if after <= before:
        return ranker, names, seconds
    cli.note(
        f"kept the fit on the {len(plain)} columns of the table itself: tau of valid {after:.3f}, before {before:.3f}"
    )
    return other, plain, seconds


def _fit_runtimes(
    ranker: Ranker,
    features: TableFeatures,
    names: tuple[str, ...],
    splits: Sequence[str],
    on_round: OnRound | None = None,
) -> Ranker:
    """Fit runtimes of some splits of a table; devices, families ... by which it is split are held out together."""
    from gbr.data.table_features import bounds, part
    from gbr.models import runtime

    known = part(features.known, *splits)
    n_folds = len(known.groups) if known.fold is None else len({*known.fold})
    if n_folds < GUARANTEED_FOLDS:
        cli.note(f"only {n_folds} groups are held out in turn: intervals are estimates, and guarantee no coverage")
    X = features(known.frame, known.groups)[:, np.isin(features.schema.names, names)]
    fit = partial(runtime.fit, folds=known.fold, on_round=on_round)
    return ranker.fit_rows(Rows(X, known.cost, bounds(known.groups)), names, fit=fit)


def _search(run: _Run, ranker: Ranker, rows: Rows, names: tuple[str, ...], trials: int) -> dict[str, Any]:
    """Parameters found by a hyperparameter search."""
    from sklearn.base import clone

    from gbr.search import search

    costs = [names.index(str(name)) for name in ranker.costs or ()] or None
    prior = None if ranker.prior is None else names.index(str(ranker.prior))

    def on_trial(settings: dict[str, Any], value: float | None) -> None:
        run.searched.append({"settings": settings, "value": value})
        advance(1)

    with cli.progress(trials, "hyperparameter search") as advance:
        best = search(
            lambda **settings: clone(ranker).set_params(costs=costs, prior=prior, **settings),
            in_memory(rows, run.seed),
            run.families,
            trials,
            goal=ranker.goal,
            seed=run.seed,
            on_trial=on_trial,
        )
    values = [trial["value"] for trial in run.searched if trial["value"] is not None]
    figure = "tau" if ranker.goal == "tau" else "minus slowdown@5"
    cli.note(f"search: {best or 'nothing beat the defaults'}; {figure} {max(values):.3f}, {values[0]:.3f} by default")
    return best


def _fit_raw_baseline(run: _Run, chosen: Selection, merged: bool) -> Ranker | None:
    """Fit the baseline on the raw columns, as far as they fit in memory; None if the store has none.

    A plain baseline does not merge identical configurations, as far as all rows are used.
    """
    names = _raw_columns(run)
    if not names:
        return None
    train = run.groups["train"]
    if not merged:
        chosen = Selection(np.arange(len(train.target)), train.target, train.indptr)
    chosen = training_set.fit_memory(chosen, len(names), run.memory, None, run.seed)
    X = training_set.features(run.store, "train", train, chosen.rows, names, run.memory)
    with cli.busy("fitting the baseline on raw columns"), warnings.catch_warnings():
        warnings.simplefilter("ignore", GbrWarning)  # its tau shows that it orders nothing
        return fit_raw(Rows(X, chosen.target, chosen.indptr), names, run.seed, run.jobs)


def _raw_columns(run: _Run) -> tuple[str, ...]:
    """Columns of the baseline, if the store has raw configurations."""
    blocks = raw_blocks(run.store.manifest["schema"]["columns"])
    return training_set.columns_of(run.store, blocks) if blocks else ()


def raw_blocks(columns: Sequence[str]) -> list[str]:
    """Those of :data:`RAW_BLOCKS` that are among the columns; none without raw configuration columns."""
    blocks = [block for block in RAW_BLOCKS if any(name.startswith(f"{block}.") for name in columns)]
    return blocks if RAW_BLOCKS[0] in blocks else []


def fit_raw(rows: Rows, names: tuple[str, ...], seed: int, jobs: int | None) -> Ranker:
    """Fit the baseline on raw columns: LightGBM with its defaults, least squares on the rank within the group."""
    from gbr.ranker import Ranker

    ranker = Ranker(
        "lightgbm",
        "l2",
        n_estimators=100,
        num_leaves=31,
        learning_rate=0.1,
        min_child_samples=20,
        params={"max_bin": 255, "feature_fraction": 1.0, "bagging_fraction": 1.0, "bagging_freq": 0},
        random_state=seed,
        n_jobs=jobs,
    )
    return ranker.fit_rows(rows, names)


def _fit_again(run: _Run, ranker: Ranker, names: tuple[str, ...], is_runtime: bool) -> Ranker | None:
    """The same model, fitted on train and valid of a table, without early stopping; None where it is not worthwhile."""
    from sklearn.base import clone

    features, valid = run.features, run.groups.get("valid")
    if features is None or valid is None:
        return None
    if not is_runtime and len(run.families) + len(valid) >= _FEW_TABLE_GROUPS:
        return None
    reason = "" if is_runtime else f", as there are few {things(run.store.kind)}"
    cli.note(f"fitting again on train and valid{reason}; valid is scored by the first fit")
    again: Ranker = clone(ranker)
    if is_runtime:
        return _fit_runtimes(again, features, names, ("train", "valid"))
    X, cost, indptr = features.refit()
    again.set_params(prior=_PRIOR if _PRIOR in names else None)
    return again.fit_rows(Rows(X[:, np.isin(features.schema.names, names)], cost, indptr), names)


# The run --------------------------------------------------------------------------------------------------------------


def _write(out: Path, ranker: Ranker, figures: Figures) -> None:
    """Write model, figures and model card."""
    from gbr.models.io import read_manifest
    from gbr.report.card import CARD, model_card

    with atomic_write(out / METRICS, ModelError) as part:
        part.write_text(json_text(figures), encoding="utf-8")
        # Never keep old figures next to a new model, nor lose them if the new model cannot be written.
        with put_aside(out / METRICS), put_aside(out / CARD):
            ranker.save(out)
    write_text(out / CARD, model_card(read_manifest(out), figures), ModelError)


def fingerprint(store: FeatureStore, split: str) -> str:
    """Hash of the names and fingerprints of a split's graph files."""
    sources = {stem: entry["source"] for stem, entry in store.entries(split).items()}
    return hashlib.sha256(json.dumps(sources, sort_keys=True).encode()).hexdigest()[:16]


callable_module(__name__)

if __name__ == "__main__":
    sys.exit(main())
