"""Command: build the feature store, show its content, list the feature columns."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gbr import cli
from gbr.data.collection import KINDS, SPLITS, TABLE, Subset, splits_present, things
from gbr.errors import UsageError

if TYPE_CHECKING:
    from gbr.cluster import Workers
    from gbr.data.build import BuildReport
    from gbr.data.store import FeatureStore


@cli.group("gbr.features")
def main() -> None:
    """Build the feature store of a collection, and show its content."""


@main.command("build")
@cli.subset_option
@cli.json_option
@cli.data_option
@cli.store_option
@cli.splits_option
@cli.hardware_option
@cli.jobs_option
@cli.cluster_option
@click.option(
    "--repack",
    is_flag=True,
    help="First copy every layout graph to <stem>.gbr next to its file; later builds and samples read it without "
    "decompression.",
)
def _build(*, subset: str, data: Path, cluster: str | None, store: Path, as_json: bool, **options: Any) -> None:
    """Compute the features that are missing or stale; an interrupted build is resumed."""
    from gbr.cluster import connected

    if cluster and options["jobs"]:
        raise UsageError("--jobs: has no effect with --cluster, whose workers build one graph per thread; leave it out")
    collection = cli.find_collection(subset, data)
    with connected(cluster, collection, data, store) as workers:
        report = build(collection, data, store, workers=workers, **options)
    if as_json:
        cli.emit_json(asdict(report))
        return
    rows = {
        f"{things(collection.kind)} built": report.built,
        "up to date": report.kept,
        "removed, their file is gone": report.removed,
        "configurations": report.rows,
        "of which distinct": report.distinct,
        "feature columns": report.columns,
        "hardware": report.hardware,
        "seconds": f"{report.seconds:.1f}",
    }
    cli.table(f"{report.subset} -> {report.folder}", ["schema " + report.schema, ""], [*rows.items()])
    _print_degenerate(report.degenerate, collection.kind)


def build(
    subset: str | Subset,
    data: str | Path = "data",
    store: str | Path | None = None,
    *,
    splits: Sequence[str] | None = None,
    hardware: str | None = None,
    jobs: int | None = None,
    repack: bool = False,
    workers: Workers | None = None,
) -> BuildReport:
    """Compute the features of a collection that are missing or stale; an interrupted build is resumed.

    Parameters
    ----------
    subset : str or Subset
        Collection.
    data : path
        Data root.
    store : path, optional
        Feature store; ``store`` in ``data`` by default.
    splits : sequence of str, optional
        Those that are present by default.
    hardware : str, optional
        Machine on which the runtimes were measured, as :func:`gbr.data.hardware.choose` takes it.
    jobs : int, optional
        Processes; one per core by default.  They are spawned: a script needs ``if __name__ == "__main__":``.
    repack : bool
        First copy layout graphs to a format that is read without decompression.
    workers : Workers, optional
        Workers of a cluster.

    Raises
    ------
    DataError
        For a graph file that cannot be read; graphs that were finished before remain in the store.
    StoreError
        When the store cannot be written.
    UsageError
        For an unknown collection, split or hardware.
    """
    from gbr.data.build import build as update
    from gbr.data.hardware import choose
    from gbr.data.pool import cores
    from gbr.data.repack import repack_all

    collection, data = cli.find_collection(subset, data), Path(data)
    profile = choose(hardware, collection, data)
    if repack:
        if collection.kind != "layout":
            what = "rows of a table" if collection.kind == TABLE else "tile graphs"
            raise UsageError(f"--repack: {collection.name} has {what}, which need no copy; leave it out")
        progress = partial(cli.progress, label=f"copies of {collection.name}")
        chosen = tuple(splits or splits_present(collection, data) or SPLITS)
        written = repack_all(collection, data, chosen, jobs or cores(), progress)
        cli.note(f"repacked {written} of the graphs of {collection.name}")
    progress = partial(cli.progress, label=f"features of {collection.name}")
    return update(collection, data, store, splits, jobs, progress, profile, workers)


@main.command("info")
@cli.subset_option
@cli.json_option
@cli.data_option
@cli.store_option
def _info(*, subset: str, as_json: bool, data: Path, store: Path) -> None:
    """Show the content of the store of a collection."""
    from gbr.data.store import FeatureStore

    collection = cli.find_collection(subset, data)
    opened = FeatureStore(store, collection.name)
    content = summary(opened)
    if as_json:
        cli.emit_json(content)
        return
    columns = ["graphs", "expected", "labelled", "rows", "duplicates", "degenerate", "MiB"]
    rows = []
    degenerate: dict[str, str] = {}
    for split, figures in content["splits"].items():
        shown = figures | {"degenerate": len(figures["degenerate"]), "MiB": f"{figures['bytes'] / 2**20:.1f}"}
        rows.append([split, *(shown[name] for name in columns)])
        degenerate |= {f"{split}/{stem}": why for stem, why in figures["degenerate"].items()}
    title = (
        f"{opened.folder}: {content['columns']} columns, schema {content['schema']}, written by gbr {content['gbr']}"
    )
    cli.table(title, ["split", things(collection.kind), *columns[1:]], rows)
    _print_degenerate(degenerate, collection.kind)


def summary(store: FeatureStore) -> dict[str, Any]:
    """Content of a store.

    Returns
    -------
    dict
        ``subset``, ``folder``, ``gbr`` (version that wrote it), ``schema`` (hash), ``columns`` (number), ``hardware``
        (profile that the features are computed for), ``splits``:
        split -> ``graphs``, ``expected``, ``labelled`` (graphs with runtimes), ``rows``, ``duplicates`` (rows that
        repeat the configuration of an earlier row), ``bytes``, ``degenerate`` (stem -> why it cannot be ranked).
    """
    manifest = store.manifest
    schema = manifest["schema"]
    splits = {}
    for split in SPLITS:
        entries = store.entries(split)
        graphs = entries.values()
        expected = manifest["expected"].get(split, len(entries))
        if entries or expected:
            splits[split] = {
                "graphs": len(entries),
                "expected": expected,
                "labelled": sum("_runtime" in entry["measured"] for entry in graphs),
                "rows": sum(entry["rows"] for entry in graphs),
                "duplicates": sum(entry["rows"] - entry["distinct"] for entry in graphs),
                "bytes": sum(entry["bytes"] for entry in graphs),
                "degenerate": {stem: entry["degenerate"] for stem, entry in entries.items() if entry["degenerate"]},
            }
    return {
        "subset": store.subset,
        "folder": str(store.folder),
        "gbr": manifest["gbr"],
        "schema": schema["hash"],
        "columns": len(schema["columns"]),
        "hardware": schema["hardware"],
        "splits": splits,
    }


@main.command("columns")
@cli.subset_option
@cli.data_option
@cli.hardware_option
@cli.json_option
def _columns(*, subset: str, data: Path, hardware: str | None, as_json: bool) -> None:
    """List every feature column: name, unit, meaning."""
    kind = subset.split(":", 1)[0]
    if kind == TABLE:
        from gbr.data.table_features import known_features  # imports polars

        schema = known_features(cli.find_collection(subset, data).folder(data)).schema
    elif kind in KINDS:  # whose columns depend on the hardware only
        from gbr.data.hardware import choose
        from gbr.data.store import schema_of

        schema = schema_of(kind, choose(hardware, Subset(subset if ":" in subset else f"{kind}:any"), data))
    else:
        raise UsageError(f"--subset {subset}: expected tile, layout, a collection of these, or table:NAME")
    blocks = []
    for block in schema.blocks:
        rows = [[name, column.unit, column.doc] for name, column in zip(block.names, block.columns, strict=True)]
        about = {key: getattr(block, key) for key in ("name", "version", "doc", "per_config")}
        blocks.append(about | {"columns": [dict(zip(("name", "unit", "doc"), row, strict=True)) for row in rows]})
        if not as_json:
            scope = "per configuration" if block.per_config else "per graph"
            title = f"{block.name}: {block.doc} {len(block)} columns, {scope}."
            cli.table(title, ["column", "unit", "meaning"], rows)
    if as_json:
        cli.emit_json({"kind": kind, "schema": schema.hash, "blocks": blocks})
    else:
        print(f"{len(schema)} columns, schema {schema.hash}")


def _print_degenerate(degenerate: dict[str, str], kind: str) -> None:
    if degenerate:
        title = f"{things(kind).capitalize()} that cannot be ranked"
        cli.table(title, [things(kind)[:-1], "why"], sorted(degenerate.items()))


if __name__ == "__main__":
    sys.exit(main())
