"""Command: fetch TpuGraphs, Google's graphs measured on TPUs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final

import click

from gbr import cli
from gbr.data.collection import Subset
from gbr.data.files import size_text
from gbr.downloads.catalogue import BASE_URL, COLLECTIONS, INDEX_FILES, INDICES, Piece, asked_for, find_archives
from gbr.downloads.fetch import ask
from gbr.downloads.retrieve import SIDE_BY_SIDE, Files, Place, get_graphs, get_indices, size_of
from gbr.errors import DownloadError, UsageError

_EPILOG: Final = f"""\
\b
NAME is a collection ({", ".join(COLLECTIONS[:2])} ...), the beginning of
some names (layout, layout:nlp), all, or {INDICES}: the 1000 configurations
of each validation graph of layout that the official evaluation scores.
All splits are downloaded unless --split is given.

\b
Archives are stored in ROOT/archives, checked, unpacked into ROOT/npz and
removed.  After an interruption, run the same command again to resume.

\b
    python -m gbr.download tile:xla eval-indices
    python -m gbr.download all --from predict-ai-model-runtime.zip"""


def source_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add ``--base-url`` and ``--from``, whose value is ``source``."""
    base_url = click.option("--base-url", metavar="URL", help=f"A mirror.  [default: {BASE_URL}]")
    source = click.option(
        "--from",
        "source",
        type=cli.PATH,
        metavar="DIR",
        help="Use archives that are already in this folder, or this one archive; no network.",
    )
    return base_url(source(function))


@cli.command("gbr.download", epilog=_EPILOG)
@click.argument("names", nargs=-1, metavar="[NAME]...")
@cli.data_option
@cli.splits_option
@click.option("--list", "list_only", is_flag=True, help="List what is available, its size, and what is present.")
@source_options
@click.option(
    "--repack",
    is_flag=True,
    help="Also copy every layout graph to <stem>.gbr, which builds read without decompression.",
)
@click.option("--keep", is_flag=True, help="Keep the archives after unpacking.")
@cli.json_option
def main(
    *,
    names: Sequence[str],
    data: Path,
    splits: tuple[str, ...] | None,
    list_only: bool,
    base_url: str | None,
    source: Path | None,
    repack: bool,
    keep: bool,
    as_json: bool,
) -> None:
    """Download TpuGraphs, Google's graphs measured on TPUs."""
    if not names and not list_only:
        raise UsageError(f"expected a NAME: {', '.join((*COLLECTIONS, INDICES))} or all; --list shows sizes")
    check_source(base_url, source)
    pieces, indices = asked_for(names or ("all", INDICES), splits)
    place = Place(data, base_url, source)
    if list_only:
        _list(pieces, indices, place, as_json)
        return
    layouts = dict.fromkeys(piece.subset for piece in pieces if piece.subset.startswith("layout:"))
    if repack and not layouts:
        raise UsageError("--repack: only layout graphs have a copy; leave it out or name a layout collection")
    if indices:
        get_indices(place)
    files = get_graphs(pieces, place, keep)
    for subset in layouts if repack else ():
        _repack(subset, [piece.split for piece in pieces if piece.subset == subset], data)
    _tell(data, as_json, pieces, indices, files)


def check_source(base_url: str | None, source: Path | None) -> None:
    """Check the values of :func:`source_options`.

    Raises
    ------
    UsageError
    """
    if base_url and source:
        raise UsageError("--base-url and --from: take one; --from uses no network")
    if base_url and not base_url.startswith(("http://", "https://")):
        raise UsageError(f"--base-url {base_url}: want an address that begins with http:// or https://")
    if source and not source.exists():
        raise UsageError(f"--from {source}: no such folder or archive")


def _repack(subset: str, splits: Sequence[str], data_root: Path) -> None:
    from gbr.data.pool import cores
    from gbr.data.repack import repack_all

    repack_all(Subset(subset), data_root, splits, cores(), partial(cli.progress, label=f"copies of {subset}"))


def _tell(data: Path, as_json: bool, pieces: Sequence[Piece], indices: bool, files: Files) -> None:
    if files.written:
        cli.note("TpuGraphs is by Phothilimthana et al. (NeurIPS 2023), CC BY 4.0; name it where you show results")
    root = "" if data == Path("data") else f" --data {data}"
    counts: dict[str, dict[str, int]] = {}
    for piece in pieces:
        counts.setdefault(piece.subset, {})[piece.split] = piece.count(data)
    steps = {subset: f"python -m gbr.train --subset {subset}{root}" for subset in counts}
    if indices:
        steps[INDICES] = f"python -m gbr.evaluate --model DIR --subset layout:... --protocol official{root}"
    if as_json:
        cli.emit_json({"graphs": counts, "written": files.written, "kept": files.kept, "next": steps})
        return
    for subset, splits in counts.items():
        print(f"{subset}: {', '.join(f'{count} {split}' for split, count in splits.items())} graphs")
    if indices:
        print(f"{INDICES}: {', '.join(name for name, _ in INDEX_FILES.values())}")
    for step in steps.values():
        print(f"next: {step}")


def _list(pieces: Sequence[Piece], indices: bool, place: Place, as_json: bool) -> None:
    files = dict(INDEX_FILES.values()) if indices else {}
    addresses = [*map(place.url, pieces), *map(place.index_url, files)]
    sizes = _sizes(pieces, list(files), place) if place.source else _remote_sizes(addresses)
    found: list[dict[str, Any]] = [
        {
            "name": piece.subset,
            "part": piece.split,
            "graphs": piece.graphs,
            "here": piece.count(place.data_root),
            "complete": piece.complete(place.data_root),
            "fetched": place.fetched(piece),
        }
        for piece in pieces
    ]
    for name, graphs in files.items():
        there = (place.indices / name).is_file()
        here = graphs if there else 0
        found.append({"name": INDICES, "part": name, "graphs": graphs, "here": here, "complete": there, "fetched": 0})
    if as_json:
        told = zip(found, addresses, sizes, strict=True)
        cli.emit_json([one | {"url": address, "bytes": size} for one, address, size in told])
        return
    rows = [
        [one["name"], one["part"], None if size is None else size_text(size), one["graphs"], _state(one)]
        for one, size in zip(found, sizes, strict=True)
    ]
    title = f"TpuGraphs in {place.source}" if place.source else f"TpuGraphs at {place.base_url or BASE_URL}"
    cli.table(title, ["name", "part", "size", "graphs", "here"], rows)
    if any(sizes):
        print(f"{size_text(sum(size or 0 for size in sizes))} in all; unpacking needs as much again")


def _remote_sizes(addresses: Sequence[str]) -> list[int | None]:
    failed: list[DownloadError] = []

    def size(address: str) -> int | None:
        try:
            return ask(address).size
        except DownloadError as fault:
            failed.append(fault)
            return None

    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        sizes = list(pool.map(size, addresses))
    if failed:
        cli.note(f"{len(failed)} of {len(addresses)} sizes are not known: {failed[0]}")
    return sizes


def _sizes(pieces: Sequence[Piece], files: Sequence[str], place: Place) -> list[int | None]:
    """Sizes in the folder of ``--from``; an archive of several pieces counts with the first of them."""
    assert place.source is not None
    seen: set[Path] = set()
    sizes: list[int | None] = []
    for piece in pieces:
        try:
            path = next(iter(find_archives(place.source, [piece])))
        except DownloadError:
            sizes.append(None)
            continue
        sizes.append(0 if path in seen else size_of(path))
        seen.add(path)
    for name in files:
        try:
            sizes.append(size_of(place.find_index(name)))
        except DownloadError:
            sizes.append(None)
    return sizes


def _state(one: dict[str, Any]) -> str | None:
    if one["complete"]:
        return f"all {one['here']}"
    if one["fetched"]:
        return f"{size_text(one['fetched'])} fetched"
    return f"{one['here']} graphs" if one["here"] else None


if __name__ == "__main__":
    sys.exit(main())
