"""``python -m gbr.collect``: measure configurations on this machine."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gbr import cli
from gbr.cli import emit_json, note, progress, table
from gbr.data.collection import SPLITS
from gbr.data.files import exclusive_lock, remove_partial_files
from gbr.data.hardware import note_machine
from gbr.errors import CollectError

if TYPE_CHECKING:
    from gbr.collect.tasks import Family, Quality, Task


@cli.group("gbr.collect")
def main() -> None:
    """Measure configurations on this machine; existing measurements are kept."""


def _options(collection: str, what: str, rounds: int) -> Callable[[cli.Function], cli.Function]:
    """Add the options of both kinds of collections."""
    options = (
        click.option(
            "--out",
            type=cli.PATH,
            default=Path("data"),
            metavar="ROOT",
            help=f"Folder in which {collection}/{{train,valid,test}}/*.npz are written.",
        ),
        click.option("--configs", type=cli.POSITIVE, default=96, metavar="N", help=f"Configurations per {what}."),
        click.option("--rounds", type=cli.POSITIVE, default=rounds, metavar="N", help="Rounds per pass."),
        cli.seed_option,
        click.option(
            "--table",
            "show_table",
            is_flag=True,
            help="Print a Markdown table of measured graphs, measure nothing.",
        ),
        cli.splits_option,
        cli.json_option,
    )
    return lambda function: reduce(lambda decorated, option: option(decorated), reversed(options), function)


@main.command("tile", short_help="Tile sizes of compiled loop nests.")
@click.option(
    "--families", type=cli.CommaList(), metavar="LIST", help="Families, groups of families, or graphs.  [default: all]"
)
@click.option(
    "--jobs",
    type=cli.POSITIVE,
    default=1,
    metavar="N",
    help="Number of kernels to measure in parallel, one per core; they slow each other down.",
)
@_options("npz/tile/cpu", "kernel", rounds=15)
def _tile(families: tuple[str, ...] | None, jobs: int, configs: int, rounds: int, seed: int, **common: Any) -> None:
    """Time tiled loop nests in two passes of CPU time.

    One file per kernel; existing files are kept.
    """
    from gbr.collect.families import FAMILIES
    from gbr.collect.tasks import Settings
    from gbr.collect.tiles import COLLECTION, collect_all

    settings = Settings(configs, rounds, seed)
    _collect(FAMILIES, families, COLLECTION, lambda missing: collect_all(missing, settings, jobs), **common)


@main.command("layout", short_help="Layouts of JAX programs.")
@click.option(
    "--programs",
    type=cli.CommaList(),
    metavar="LIST",
    help="Families, groups of families, or programs.  [default: all]",
)
@_options("npz/layout/cpu/random", "program", rounds=25)
def _layout(programs: tuple[str, ...] | None, configs: int, rounds: int, seed: int, **common: Any) -> None:
    """Time JAX programs under layouts of their convolutions, dots and reshapes, in two passes of CPU time.

    One file per program; existing files are kept.  For a function of your own: gbr.collect.layout.
    """
    from gbr.collect.layouts import COLLECTION, FAMILIES, collect
    from gbr.collect.tasks import Settings
    from gbr.collect.timer import pinned

    settings = Settings(configs, rounds, seed)
    with pinned():  # before JAX starts: XLA creates a thread per core that the process may use
        _collect(
            FAMILIES, programs, COLLECTION, lambda missing: (collect(task, settings) for task in missing), **common
        )


def _collect(
    families: Mapping[str, Family],
    names: tuple[str, ...] | None,
    collection: Path,
    measure: Callable[[Sequence[Task]], Iterator[Quality]],
    *,
    out: Path,
    show_table: bool,
    splits: tuple[str, ...] | None,
    as_json: bool,
) -> None:
    """Measure the graphs without a file and print their quality, or only print the table of all graphs."""
    from gbr.collect import tasks

    folder = out / collection
    if show_table:
        print(tasks.markdown(list(tasks.stored(families, folder))))
        return
    todo = tasks.choose(families, names, splits or SPLITS, folder)
    found: list[Quality] = []
    with ExitStack() as held:
        if not all(task.path.exists() for task in todo):
            # Another process would measure the same graphs and slow down this one.
            held.enter_context(exclusive_lock(folder, CollectError, "gbr.collect"))
        for directory in {task.path.parent for task in todo}:
            remove_partial_files(directory)
        missing = [task for task in todo if not task.path.exists()]
        if len(missing) < len(todo):
            note(
                f"{len(todo) - len(missing)} of {len(todo)} files exist and are kept; delete a file to measure it again"
            )
        if missing and (doubt := note_machine(folder, out / "npz")):
            note(f"warning: {doubt}")
        advance = held.enter_context(progress(len(missing), "measuring"))
        for quality in measure(missing):
            found.append(quality)
            for doubt in quality.doubts():
                note(f"warning: {doubt}")
            advance(1)
    if as_json:
        emit_json([quality.as_dict() for quality in found])
    elif found:
        columns = ("graph", "split", "configs", "spread", "retest tau")
        rows = [(each.graph, each.split, each.configs, each.spread, each.tau) for each in found]
        table(f"Measured in {out}", columns, rows)


if __name__ == "__main__":
    sys.exit(main())
