"""Command: say why a configuration is ranked before another one.

python -m gbr.explain --model runs/tile data/npz/tile/cpu/test/graph.npz --config 3
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gbr import cli
from gbr.report.explained import SHOWN, headline, tables


def _main(argv: Sequence[str] | None = None) -> None:
    args = _parser().parse_args(argv)
    from gbr.attribution.explanation import explain
    from gbr.ranker import Ranker

    if args.report:
        from gbr.report.report import check_report_path, summarise_explanation, write_report

        check_report_path(args.report)
    ranker = Ranker.load(args.model)
    found = explain(ranker, args.graph, args.config, args.against)
    if args.report:
        write_report(args.report, summarise_explanation(args.model, ranker, found, args.top or SHOWN))
        cli.note(f"the report is {args.report}")
    if args.json:
        cli.emit_json(found.as_dict(args.top))
        return
    for line in headline(found):
        print(line)
    print()
    for title, columns, rows in tables(found, args.top or SHOWN):
        cli.table(title, columns, rows)


def _parser() -> cli.Parser:
    parser = cli.parser(
        "gbr.explain",
        "Say which features, and which nodes or loops of the graph, make a model rank a configuration before another.",
    )
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="folder written by gbr.train")
    parser.add_argument("graph", type=Path, metavar="GRAPH.npz", help="graph file")
    parser.add_argument("--config", type=int, required=True, metavar="I", help="the configuration asked about: its row")
    parser.add_argument(
        "--against",
        type=int,
        default=None,
        metavar="J",
        help="the one to compare it with (default: the one that leaves all layouts to the compiler where there is one, "
        "else the middle of the predicted order)",
    )
    parser.add_argument(
        "--top",
        type=cli.positive,
        default=None,
        metavar="N",
        help=f"features, nodes and copies shown (default: {SHOWN}; all with --json)",
    )
    cli.add_report(parser)
    cli.add_json(parser)
    return parser


main = cli.command(_main)

if __name__ == "__main__":
    raise SystemExit(main(None))
