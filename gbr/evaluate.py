"""Command: score a trained model on a split of a collection.

python -m gbr.evaluate --model runs/tile-cpu/20250101-120000 --subset tile:cpu --split valid
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gbr import cli
from gbr.data import collection
from gbr.errors import DataError

if TYPE_CHECKING:
    from gbr.evaluation.scoring import Scored

PROTOCOLS: Final = ("full", "official")


def _main(argv: Sequence[str] | None = None) -> None:
    args = _parser().parse_args(argv)
    subset = collection.resolve(args.subset, args.data)
    if subset.note:
        cli.note(subset.note)
    from gbr.evaluation import protocol as _official
    from gbr.evaluation import scoring
    from gbr.report.report import check_report_path, summarise_run, write_report

    if args.report:
        check_report_path(args.report)
    scored: list[Scored] = []
    figures = evaluate(
        args.model,
        subset,
        args.split,
        args.data,
        args.store,
        jobs=args.jobs,
        skip_known_bad=args.skip_known_bad,
        protocol=args.protocol,
        indices=args.indices,
        scored=scored if args.report else None,
    )
    scoring.show(figures, (args.split,), subset.kind, as_json=args.json)
    if args.protocol == "official":
        found = figures[args.split]["official"]
        for told in _official.notes(found):
            cli.note(told)
        if not args.json:
            for title, columns, rows in _official.tables(found, subset, args.split):
                cli.table(title, columns, rows)
    if args.report:
        write_report(args.report, summarise_run("evaluate", args.model, subset, figures, scored, args.store))
        cli.note(f"the report is {args.report}")


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
    ranker.check_schema(subset.kind, schema_of(subset.kind).hash, f"{subset.name}, {model}")
    store, build_seconds = scoring.ready_store(subset, data, store_root, (split,), jobs, ranker.hardware(str(model)))
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


def _parser() -> cli.Parser:
    parser = cli.parser("gbr.evaluate", "Score a trained model on a split of a collection.")
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="folder written by gbr.train")
    cli.add_subset(parser)
    parser.add_argument("--split", choices=collection.SPLITS, default="valid", help="default: valid")
    parser.add_argument(
        "--protocol",
        choices=PROTOCOLS,
        default="full",
        help="full: all configurations of every graph (default); official: also as the scripts of TpuGraphs score, "
        "tile by benchmark, layout on the listed 1000 configurations per graph",
    )
    parser.add_argument(
        "--indices",
        type=Path,
        default=None,
        metavar="DIR",
        help="folder of the listed configurations, xla_default.json and so on (default: ROOT/eval_indices)",
    )
    cli.add_data(parser)
    cli.add_store(parser)
    cli.add_skip(parser)
    cli.add_jobs(parser)
    cli.add_report(parser)
    cli.add_json(parser)
    return parser


main = cli.command(_main)

if __name__ == "__main__":
    raise SystemExit(main(None))
