"""``python -m gbr.collect``: measure configurations on this machine."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from gbr import cli
from gbr.cli import emit_json, note, progress, table
from gbr.data.collection import SPLITS
from gbr.data.files import exclusive_lock, remove_partial_files
from gbr.errors import CollectError

if TYPE_CHECKING:
    from gbr.collect import layouts, tile
    from gbr.collect.tile import Quality

_Task = TypeVar("_Task", "tile.Task", "layouts.Task")


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
    "--families", type=cli.CommaList(), metavar="LIST", help="Families or groups of families.  [default: all]"
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
    from gbr.collect import tile
    from gbr.collect.pool import measured

    if show_table:
        from gbr.collect.table import markdown

        print(markdown(list(tile.stored(out))))
        return
    todo = tile.tasks(families, splits or SPLITS, out)
    settings = tile.Settings(configs, rounds, seed)
    found: list[Quality] = []
    with (
        _missing(todo, out, tile.COLLECTION, "kernels") as missing,
        progress(len(missing), "measuring") as advance,
    ):
        for quality in measured(missing, settings, jobs):
            found.append(quality)
            for doubt in quality.doubts():
                note(f"warning: {doubt}")
            advance(1)
    if as_json:
        emit_json([quality.as_dict() for quality in found])
    elif found:
        rows = [
            (each.family, each.graph[len(each.family) + 1 :], each.configs, each.spread, each.tau) for each in found
        ]
        table(f"Measured in {out}", ("family", "shape", "configs", "spread", "retest tau"), rows)


@main.command("layout", short_help="Layouts of JAX programs.")
@click.option(
    "--out",
    type=cli.PATH,
    default=Path("data"),
    metavar="ROOT",
    help="Folder that gets npz/layout/cpu/random/{train,valid,test}/*.npz.",
)
@click.option("--programs", type=cli.CommaList(), metavar="LIST", help="Families or programs.  [default: all]")
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
    from gbr.collect import layouts
    from gbr.collect.timer import pinned

    if show_table:
        print(layouts.markdown(list(layouts.stored(out))))
        return
    todo = layouts.tasks(programs, splits or SPLITS, out)
    settings = layouts.Settings(configs, rounds, seed)
    found = []
    # Pinned before JAX starts: XLA makes as many threads as the process may use cores.
    with (
        pinned(),
        _missing(todo, out, layouts.COLLECTION, "programs") as missing,
        progress(len(missing), "measuring") as advance,
    ):
        for task in missing:
            quality = layouts.collect(task, settings)
            found.append(quality)
            for doubt in quality.doubts():
                note(f"warning: {doubt}")
            advance(1)
    if as_json:
        emit_json([quality.as_dict() for quality in found])
    elif found:
        rows = [(each.graph, each.nodes, each.configs, each.spread, each.tau) for each in found]
        table(f"Measured in {out}", ("program", "nodes", "configs", "spread", "retest tau"), rows)


@contextmanager
def _missing(todo: Sequence[_Task], root: Path, collection: Path, what: str) -> Iterator[list[_Task]]:
    """What is to be measured still, with the collection held: another process would measure the same, and disturb."""
    with ExitStack() as held:
        if not all(task.path.exists() for task in todo):
            held.enter_context(exclusive_lock(root / collection, CollectError, "gbr.collect"))
        for folder in {task.path.parent for task in todo}:
            remove_partial_files(folder)
        missing = [task for task in todo if not task.path.exists()]
        if len(missing) < len(todo):
            note(
                f"{len(todo) - len(missing)} of {len(todo)} {what} are there already and are kept; "
                "delete a file to measure it again"
            )
        if missing:
            from gbr.data.hardware import note_machine

            if doubt := note_machine(root / collection, root / "npz"):
                note(f"warning: {doubt}")
        yield missing


if __name__ == "__main__":
    sys.exit(main())
