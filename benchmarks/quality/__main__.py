"""How well held-out graphs are ranked: cross-validation and the official split, all contenders.

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
from benchmarks.quality.run import Bench, Plan
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
@click.option("--folds", type=int, metavar="N", help=f"Groups of families; 0: one family each.  [default: {FOLDS}]")
@click.option(
    "--protocol",
    type=click.Choice(PROTOCOLS),
    multiple=True,
    help="Fit only this protocol; the page shows every complete one; may be repeated.  [default: all]",
)
@cli.seed_option
@click.option("--runs", type=cli.PATH, default=Path("runs/quality"), metavar="DIR", help="Folder of predictions.")
@click.option("--quick", is_flag=True, help="2 folds and 30 trees; page below --runs.")
@cli.jobs_option
def main(**options: Any) -> None:
    """Measure how well held-out graphs are ranked: cross-validation and the official split, all contenders."""
    args = SimpleNamespace(**options)
    n_folds = args.folds if args.folds is not None else QUICK_FOLDS if args.quick else FOLDS
    if n_folds < 0 or n_folds == 1:
        raise UsageError(f"--folds {n_folds}: expected 0 or at least 2")
    known = [subset.name for subset in available(args.data)]
    for name in args.subset or [name for name in COLLECTIONS if name in known]:
        _run_collection(resolve(name, args.data), args, n_folds)


def _run_collection(subset: Subset, args: SimpleNamespace, n_folds: int) -> None:
    pool = folds.load(subset, args.data, args.store, args.jobs)
    options = contenders.Options(QUICK_TREES if args.quick else None, args.seed, args.jobs)
    protocols = folds.protocols(subset.kind, pool.families, pool.splits, n_folds, args.seed)
    if args.quick:
        protocols = [replace(protocol, folds=protocol.folds[:QUICK_FOLDS]) for protocol in protocols]
    about = {
        "collection": subset.name,
        "schema": pool.schema_hash,
        "data": pool.data,
        "folds": n_folds,
        "trees": options.trees,
        "seed": options.seed,
    }
    fits = contenders.fits(pool)
    plans = [Plan(protocol, fits) for protocol in protocols]
    blocks = Plan(protocols[0], contenders.block_fits(pool))
    bench = Bench(pool, options, args.runs, about)
    bench.run([plan for plan in (*plans, blocks) if not args.protocol or plan.protocol.name in args.protocol])
    tables = page.sections(bench, plans, blocks)
    if not tables:
        cli.note(f"{subset.name}: no protocol is complete yet; predictions are in {bench.folder}")
        return
    publish(
        f"quality-{subset.name.replace(':', '-')}",
        f"Quality of ranking on {subset.name}",
        page.introduction(pool),
        tables,
        machine("lightgbm", "numpy", "scipy") | {"features": pool.schema_hash},
        args.runs / "quick" if args.quick else FOLDER,
    )


if __name__ == "__main__":
    sys.exit(main())
