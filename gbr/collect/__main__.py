"""``python -m gbr.collect``: measure configurations on this machine."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gbr import cli
from gbr.cli import emit_json, note, progress, table
from gbr.data.collection import SPLITS
from gbr.data.files import exclusive_lock, remove_partial_files
from gbr.data.hardware import note_machine
from gbr.errors import CollectError

if TYPE_CHECKING:
    from gbr.collect.tasks import Quality, Task


@cli.group("gbr.collect")
def main() -> None:
    """Measure configurations on this machine; what is already measured is kept."""


@main.command("tile", short_help="Tile sizes of compiled loop nests.")
@click.option(
    "--out",
    type=cli.PATH,
    default=Path("data"),
    metavar="ROOT",
    help="Folder that gets npz/tile/cpu/{train,valid,test}/*.npz.",
)
@click.option(
    "--families", type=cli.CommaList(), metavar="LIST", help="Families, groups of families, or graphs.  [default: all]"
)
@click.option("--configs", type=cli.POSITIVE, default=96, metavar="N", help="Configurations per kernel.")
@click.option("--rounds", type=cli.POSITIVE, default=15, metavar="N", help="Rounds per pass.")
@cli.seed_option
@click.option(
    "--jobs",
    type=cli.POSITIVE,
    default=1,
    metavar="N",
    help="Kernels in parallel, one core each; they disturb one another.",
)
@click.option("--table", "show_table", is_flag=True, help="Print the table of measured graphs, in Markdown; no timing.")
@cli.splits_option
@cli.json_option
def _tile(
    *,
    out: Path,
    families: tuple[str, ...] | None,
    configs: int,
    rounds: int,
    seed: int,
    jobs: int,
    show_table: bool,
    splits: tuple[str, ...] | None,
    as_json: bool,
) -> None:
    """Time tiled loop nests in two passes of CPU time.

    One file per kernel; existing files are kept.
    """
    from gbr.collect import tasks, tiles
    from gbr.collect.families import FAMILIES

    folder = out / tiles.COLLECTION
    if show_table:
        print(tasks.markdown(list(tasks.stored(FAMILIES, folder))))
        return
    todo = tasks.choose(FAMILIES, families, splits or SPLITS, folder)
    _collect(
        todo,
        out,
        folder,
        lambda missing: tiles.collect_all(missing, tasks.Settings(configs, rounds, seed), jobs),
        as_json,
    )


@main.command("layout", short_help="Layouts of JAX programs.")
@click.option(
    "--out",
    type=cli.PATH,
    default=Path("data"),
    metavar="ROOT",
    help="Folder that gets npz/layout/cpu/random/{train,valid,test}/*.npz.",
)
@click.option(
    "--programs",
    type=cli.CommaList(),
    metavar="LIST",
    help="Families, groups of families, or programs.  [default: all]",
)
@click.option("--configs", type=cli.POSITIVE, default=96, metavar="N", help="Configurations per program.")
@click.option("--rounds", type=cli.POSITIVE, default=25, metavar="N", help="Rounds per pass.")
@cli.seed_option
@click.option("--table", "show_table", is_flag=True, help="Print the table of measured graphs, in Markdown; no timing.")
@cli.splits_option
@cli.json_option
def _layout(
    *,
    out: Path,
    programs: tuple[str, ...] | None,
    configs: int,
    rounds: int,
    seed: int,
    show_table: bool,
    splits: tuple[str, ...] | None,
    as_json: bool,
) -> None:
    """Time JAX programs under layouts of their convolutions, dots and reshapes, in two passes of CPU time.

    One file per program; existing files are kept.  For a function of your own: gbr.collect.layout.
    """
    from gbr.collect import layouts, tasks
    from gbr.collect.timer import pinned

    folder = out / layouts.COLLECTION
    if show_table:
        print(tasks.markdown(list(tasks.stored(layouts.FAMILIES, folder))))
        return
    todo = tasks.choose(layouts.FAMILIES, programs, splits or SPLITS, folder)
    settings = tasks.Settings(configs, rounds, seed)
    with pinned():  # before JAX starts: XLA makes as many threads as the process may use cores
        _collect(todo, out, folder, lambda missing: (layouts.collect(task, settings) for task in missing), as_json)


def _collect(
    todo: Sequence[Task],
    root: Path,
    folder: Path,
    measure: Callable[[Sequence[Task]], Iterator[Quality]],
    as_json: bool,
) -> None:
    """Measure the graphs that have no file yet, and print what was measured."""
    found: list[Quality] = []
    with ExitStack() as held:
        if not all(task.path.exists() for task in todo):
            # Another process would measure the same graphs, and disturb.
            held.enter_context(exclusive_lock(folder, CollectError, "gbr.collect"))
        for directory in {task.path.parent for task in todo}:
            remove_partial_files(directory)
        missing = [task for task in todo if not task.path.exists()]
        if len(missing) < len(todo):
            note(
                f"{len(todo) - len(missing)} of {len(todo)} files exist and are kept; delete a file to measure it again"
            )
        if missing and (doubt := note_machine(folder, root / "npz")):
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
        table(f"Measured in {root}", columns, rows)


if __name__ == "__main__":
    sys.exit(main())
