"""How well held-out graphs are ranked: protocols of cross-validation and the official split, all contenders.

python -m benchmarks.quality --subset tile:cpu
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import click

from benchmarks.common import FOLDER, machine, publish
from benchmarks.quality import contenders, folds, page
from benchmarks.quality.run import Bench, Plan, Predictions
from gbr import cli
from gbr.data.collection import Subset, available, resolve
from gbr.errors import UsageError

COLLECTIONS: Final = ("tile:cpu", "layout:cpu:random")
PROTOCOLS: Final = ("family", "graph", "program", "official")
QUICK_FOLDS: Final = 2
QUICK_TREES: Final = 30
FOLDS: Final = 10


@cli.command("benchmarks.quality")
@click.option("--subset", multiple=True, metavar="NAME", help=f"May be repeated.  [default: {', '.join(COLLECTIONS)}]")
@cli.data_option
@cli.store_option
@click.option("--folds", type=int, metavar="N", help="Groups of families; 0: one family each.")
@click.option(
    "--protocol",
    type=click.Choice(PROTOCOLS),
    multiple=True,
    help="Fit only this one; the page shows all that are complete; may be repeated.  [default: all]",
)
@click.option("--without", multiple=True, metavar="NAME", help="A contender to leave out; may be repeated.")
@click.option("--no-blocks", is_flag=True, help="Leave out the feature blocks.")
@click.option(
    "--stop",
    type=click.Choice(("inner", "never")),
    default="inner",
    help="Inside cross-validation, stop early on a tenth of the training graphs, or not at all.",
)
@cli.seed_option
@click.option("--runs", type=cli.PATH, default=Path("runs/quality"), metavar="DIR", help="Folder of predictions.")
@click.option("--quick", is_flag=True, help="2 folds and 30 trees; the page is written below --runs.")
@cli.jobs_option
def main(**options: Any) -> None:
    """Measure how well held-out graphs are ranked: cross-validation and the official split, all contenders."""
    args = SimpleNamespace(**options)
    n_folds = args.folds if args.folds is not None else QUICK_FOLDS if args.quick else FOLDS
    if n_folds < 0 or n_folds == 1:
        raise UsageError(f"--folds {n_folds}: expected 0 or at least 2")
    known = [subset.name for subset in available(args.data)]
    for name in args.subset or [name for name in COLLECTIONS if name in known]:
        _collection(resolve(name, args.data), args, n_folds)


def _collection(subset: Subset, args: SimpleNamespace, n_folds: int) -> None:
    graphs = folds.load(subset, args.data, args.store, args.jobs)
    options = contenders.Options(QUICK_TREES if args.quick else None, args.seed, args.jobs)
    stop = args.stop == "inner"
    offered = folds.protocols(subset.kind, graphs.families, graphs.splits, n_folds, stop=stop, seed=args.seed)
    if args.quick:
        offered = [replace(protocol, folds=protocol.folds[:QUICK_FOLDS]) for protocol in offered]
    about = {
        "collection": subset.name,
        "schema": graphs.schema_hash,
        "data": graphs.data,
        "folds": n_folds,
        "stop": args.stop,
        "trees": options.trees,
        "seed": options.seed,
    }
    fits = contenders.fits(graphs, args.without)
    plans = [Plan(protocol, fits) for protocol in offered]
    blocks = None if args.no_blocks else Plan(offered[0], contenders.block_fits(graphs))
    bench = Bench(graphs, Predictions(args.runs, subset.name, about), options)
    wanted = [plan for plan in plans if not args.protocol or plan.protocol.name in args.protocol]
    if blocks is not None and plans[0] in wanted:
        wanted.append(blocks)
    bench.run(wanted)
    tables = page.sections(bench, plans, blocks)
    if not tables:
        cli.note(f"{subset.name}: no protocol is whole yet; predictions are in {bench.predictions.folder}")
        return
    publish(
        f"quality-{subset.name.replace(':', '-')}",
        f"Quality of ranking on {subset.name}",
        page.introduction(bench, stop=stop),
        tables,
        machine("lightgbm", "numpy", "scipy") | {"features": graphs.schema_hash},
        args.runs / "quick" if args.quick else FOLDER,
    )


if __name__ == "__main__":
    sys.exit(main())
