"""Command: score a trained model on a split of a collection.

python -m gbr.evaluate --model runs/tile-cpu/20250101-120000 --subset tile:cpu --split valid
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from gbr import cli
from gbr.data import collection
from gbr.errors import DataError

if TYPE_CHECKING:
    from gbr.evaluation.scoring import Scored

PROTOCOLS: Final = ("full", "official")


@cli.command("gbr.evaluate")
@cli.model_option
@cli.subset_option
@click.option("--split", type=click.Choice(collection.SPLITS), default="valid", help="Split to score.")
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
    *,
    model: Path,
    subset: str,
    split: str,
    data: Path,
    store: Path,
    protocol: str,
    report: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Score a trained model on a split of a collection."""
    resolved = collection.resolve(subset, data)
    if resolved.note:
        cli.note(resolved.note)
    from gbr.evaluation import protocol as _official
    from gbr.evaluation import scoring
    from gbr.report.report import check_report_path, summarise_run, write_report

    if report:
        check_report_path(report)
    scored: list[Scored] = []
    figures = evaluate(
        model, resolved, split, data, store, protocol=protocol, scored=scored if report else None, **options
    )
    scoring.show(figures, (split,), resolved.kind, as_json=as_json)
    if protocol == "official":
        found = figures[split]["official"]
        for told in _official.notes(found):
            cli.note(told)
        if not as_json:
            for title, columns, rows in _official.tables(found, resolved, split):
                cli.table(title, columns, rows)
    if report:
        write_report(report, summarise_run("evaluate", model, resolved, figures, scored, store))
        cli.note(f"the report is {report}")


def evaluate(
    model: Path,
    subset: collection.Subset,
    split: str,
    data: Path,
    store_root: Path,
    *,
    jobs: int | None = None,
    skip_known_bad: bool = False,
    protocol: str = "full",
    indices: Path | None = None,
    scored: list[Scored] | None = None,
) -> dict[str, Any]:
    """Score a model on all configurations of all graphs of a split that have runtimes.

    Parameters
    ----------
    model : Path
        Folder written by ``python -m gbr.train``.
    subset, split
        Any collection of the model's kind.
    data, store_root : Path
    jobs : int, optional
        Processes while building, threads while predicting.
    skip_known_bad : bool
        Leave out the graphs of :data:`gbr.data.collection.KNOWN_BAD`.
    protocol : str
        One of :data:`PROTOCOLS`: ``official`` adds the figures of TpuGraphs' own scripts, from the same scores.
    indices : Path, optional
        Folder of the listed configurations; ``eval_indices`` below ``data`` by default.
    scored : list, optional
        Gets what the split was scored from, for a report.

    Returns
    -------
    dict
        As ``metrics.json``, with this split alone; ``official`` inside it, where asked for, is what
        :func:`gbr.evaluation.protocol.evaluate` gives.

    Raises
    ------
    ModelError
        When the model is missing, torn, or was trained on other features.
    DataError
        When the split is not there or has no runtimes, or the listed configurations are missing or wrong.
    UsageError
        For the official protocol where it says nothing: another collection or split.
    """
    from gbr.data.build import schema_of
    from gbr.evaluation import protocol as _official
    from gbr.evaluation import scoring
    from gbr.ranker import Ranker

    official = None
    if protocol == "official":
        listed = _official.indices_of(subset, split, indices or data / _official.FOLDER)
        official = partial(_official.evaluate, kind=subset.kind, indices=listed)
    ranker = Ranker.load(model).set_params(n_jobs=jobs)
    ranker._check_schema(subset.kind, schema_of(subset.kind).hash, f"{subset.name}, {model}")
    store, build_seconds = scoring.ready_store(subset, data, store_root, (split,), jobs, ranker._hardware(str(model)))
    slates = scoring.measured(store, split)
    left_out: dict[str, str] = {}
    if skip_known_bad:
        slates, left_out = scoring.without_known_bad(slates, subset)
    if not len(slates):
        raise DataError(
            f"{subset.folder(data) / split}: no graph has runtimes; take a split that has them (the test files of "
            "TpuGraphs have none)"
        )
    found, predict_seconds = scoring.figures_of(
        ranker, None, store, slates, split, subset.kind, left_out, official, scored
    )
    return {"subset": subset.name, split: found, "seconds": {"build": build_seconds, "predict": predict_seconds}}


if __name__ == "__main__":
    sys.exit(main())
