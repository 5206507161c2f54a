"""Command: explain why one configuration is ranked before another.

python -m gbr.explain --model runs/tile data/npz/tile/cpu/test/graph.npz --config 3
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from gbr import cli
from gbr.data.collection import TABLE


@cli.command("gbr.explain")
@cli.model_option
@click.argument("graph", type=cli.PATH, metavar="FILE")
@click.option(
    "--config", type=int, required=True, metavar="I", help="Index of the configuration, or row of a table, to explain."
)
@click.option(
    "--against",
    type=int,
    metavar="J",
    help="Index of the configuration to compare with.  [default: a configuration that leaves all layouts to the "
    "compiler if there is one, else the median of the predicted order]",
)
@click.option(
    "--top",
    type=cli.POSITIVE,
    metavar="N",
    help="Number of features, nodes, copies and parameters shown.  [default: 8; all with --json]",
)
@cli.report_option
@cli.json_option
def main(
    *,
    model: Path,
    graph: Path,
    config: int,
    against: int | None,
    top: int | None,
    report: Path | None,
    as_json: bool,
) -> None:
    """Explain why a model ranks one configuration of a graph file, or one row of a table, before another.

    It shows which features, and which nodes, loops or parameters make the difference.
    """
    from gbr.attribution import explain
    from gbr.ranker import Ranker
    from gbr.report.report import summarise_explanation, write_report
    from gbr.report.tables import TOP, explanation_summary

    ranker = Ranker.load(model)
    found = explain(ranker, graph, config, against)
    if report:
        write_report(report, summarise_explanation(model, ranker, found, top or TOP))
    if as_json:
        cli.emit_json(found.as_dict(top))
        return
    summary = explanation_summary(found, top or TOP)
    print(f"{Path(found.graph).stem if found.kind != TABLE else found.graph}: {found.n_configs} configurations")
    for rank, configuration in summary["ranks"]:
        print(f"rank {rank}: configuration {configuration}")
    print(*summary["sentences"], sep="\n", end="\n\n")
    for table in summary["tables"]:
        cli.table(*table)


if __name__ == "__main__":
    sys.exit(main())
