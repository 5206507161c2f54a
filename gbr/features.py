"""Command: build the feature store, show what it holds, list the feature columns."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from gbr import cli
from gbr.data.collection import KINDS, SPLITS, Subset, resolve, splits_present
from gbr.errors import UsageError

if TYPE_CHECKING:
    from gbr.data.store import FeatureStore


def _main(argv: Sequence[str] | None = None) -> None:
    args = _parser().parse_args(argv)
    args.run(args)


def _build(args: argparse.Namespace) -> None:
    from gbr.cluster import connected
    from gbr.data.build import build
    from gbr.data.hardware import choose

    if args.cluster and args.jobs:
        raise UsageError("--jobs: on a cluster its workers decide how many graphs are built at once; leave it out")
    subset = _subset(args)
    chosen = choose(args.hardware, subset, args.data)
    if chosen.note:
        cli.note(chosen.note)
    if args.repack:
        _repack(args, subset)
    progress = partial(cli.progress, label=f"features of {subset.name}")
    with connected(args.cluster, subset, args.data, args.store) as workers:
        report = build(subset, args.data, args.store, args.split, args.jobs, progress, chosen.hardware, workers)
    if args.json:
        cli.emit_json(report.as_dict())
        return
    rows: list[list[object]] = [
        ["graphs built", report.built],
        ["up to date", report.kept],
        ["removed, their file is gone", report.removed],
        ["configurations", report.rows],
        ["of which distinct", report.distinct],
        ["feature columns", report.columns],
        ["hardware", report.hardware],
        ["seconds", round(report.seconds, 1)],
    ]
    cli.table(f"{report.subset} -> {report.folder}", ["schema " + report.schema, ""], rows)
    _print_degenerate(report.degenerate)


def _repack(args: argparse.Namespace, subset: Subset) -> None:
    from gbr.data.pool import cores
    from gbr.data.repack import repack_all

    if subset.kind != "layout":
        raise UsageError(f"--repack: {subset.name} holds tile graphs, which need no copy; leave it out")
    splits = args.split or splits_present(subset, args.data) or SPLITS
    progress = partial(cli.progress, label=f"copies of {subset.name}")
    written = repack_all(subset, args.data, splits, args.jobs or cores(), progress)
    cli.note(f"repacked {written} of the graphs of {subset.name}")


def _info(args: argparse.Namespace) -> None:
    from gbr.data.store import FeatureStore

    subset = _subset(args)
    store = FeatureStore(args.store, subset.name)
    told = summary(store)
    if args.json:
        cli.emit_json(told)
        return
    columns = ["split", "graphs", "of", "measured", "rows", "duplicates", "degenerate", "MiB"]
    rows = [
        [
            split,
            figures["graphs"],
            figures["expected"],
            figures["labelled"],
            figures["rows"],
            figures["duplicates"],
            len(figures["degenerate"]),
            f"{figures['bytes'] / 2**20:.1f}",
        ]
        for split, figures in told["splits"].items()
    ]
    title = f"{store.folder}: {told['columns']} columns, schema {told['schema']}, written by gbr {told['gbr']}"
    cli.table(title, columns, rows)
    _print_degenerate(
        {
            f"{split}/{stem}": why
            for split, figures in told["splits"].items()
            for stem, why in figures["degenerate"].items()
        }
    )


def summary(store: FeatureStore) -> dict[str, Any]:
    """What a store holds, per split.

    Returns
    -------
    dict
        ``subset``, ``folder``, ``gbr`` (version that wrote it), ``schema`` (hash), ``columns`` (number), ``hardware``
        (the profile that the features are computed for; None in stores of before there were profiles), ``splits``:
        split -> ``graphs``, ``expected``, ``labelled`` (graphs with runtimes), ``rows``, ``duplicates`` (rows whose
        configuration stands in an earlier row), ``bytes``, ``degenerate`` (stem -> why it cannot be ranked).

    Raises
    ------
    StoreError
        When there is no store.
    """
    manifest = store.manifest
    splits = {}
    for split in SPLITS:
        entries = store.entries(split)
        expected = manifest["expected"].get(split, len(entries))
        if not entries and not expected:
            continue
        splits[split] = {
            "graphs": len(entries),
            "expected": expected,
            "labelled": sum(entry["labelled"] for entry in entries.values()),
            "rows": sum(entry["rows"] for entry in entries.values()),
            "duplicates": sum(entry["rows"] - entry["distinct"] for entry in entries.values()),
            "bytes": sum(entry["bytes"] for entry in entries.values()),
            "degenerate": {stem: entry["degenerate"] for stem, entry in entries.items() if entry["degenerate"]},
        }
    return {
        "subset": store.subset,
        "folder": str(store.folder),
        "gbr": manifest["gbr"],
        "schema": manifest["schema"]["hash"],
        "columns": len(manifest["schema"]["columns"]),
        "hardware": manifest["schema"].get("hardware"),
        "splits": splits,
    }


def _columns(args: argparse.Namespace) -> None:
    from gbr.data.build import schema_of

    # The columns of a kind are known without any data.
    kind = args.subset.split(":", 1)[0]
    if kind not in KINDS:
        raise UsageError(f"--subset {args.subset}: want {' or '.join(KINDS)}, or a collection of that kind")
    schema = schema_of(kind)
    if args.json:
        blocks = [
            {
                "name": block.name,
                "version": block.version,
                "doc": block.doc,
                "per_config": block.per_config,
                "columns": [
                    {"name": name, "unit": column.unit, "doc": column.doc}
                    for name, column in zip(block.names, block.columns, strict=True)
                ],
            }
            for block in schema.blocks
        ]
        cli.emit_json({"kind": kind, "schema": schema.hash, "blocks": blocks})
        return
    for block in schema.blocks:
        scope = "per configuration" if block.per_config else "per graph"
        title = f"{block.name}: {block.doc} {len(block)} columns, {scope}."
        rows = [[name, column.unit, column.doc] for name, column in zip(block.names, block.columns, strict=True)]
        cli.table(title, ["column", "unit", "meaning"], rows)
    print(f"{len(schema)} columns, schema {schema.hash}")


def _subset(args: argparse.Namespace) -> Subset:
    subset = resolve(args.subset, args.data)
    if subset.note:
        cli.note(subset.note)
    return subset


def _print_degenerate(degenerate: dict[str, str]) -> None:
    if degenerate:
        cli.table("Graphs that cannot be ranked", ["graph", "why"], sorted(degenerate.items()))


def _parser() -> cli.Parser:
    parser = cli.parser("gbr.features", "Turn graph files into the feature store, and look at what it holds.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="build | info | columns")

    def add(name: str, text: str, run: Callable[[argparse.Namespace], None]) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        added.set_defaults(run=run)
        cli.add_subset(added)
        cli.add_json(added)
        return added

    build = add("build", "Compute the features that are missing or stale; an interrupted build goes on.", _build)
    cli.add_data(build)
    cli.add_store(build)
    cli.add_splits(build)
    cli.add_hardware(build)
    cli.add_jobs(build)
    cli.add_cluster(build)
    build.add_argument(
        "--repack",
        action="store_true",
        help="first copy every layout graph to <stem>.gbr beside its file, from which later builds and samples read "
        "without inflating",
    )
    info = add("info", "Show what the store of a collection holds.", _info)
    cli.add_data(info)
    cli.add_store(info)
    add("columns", "List every feature column: name, unit, meaning.", _columns)
    return parser


main = cli.command(_main)

if __name__ == "__main__":
    raise SystemExit(main(None))
