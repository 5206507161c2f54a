"""``python -m gbr.collect``: measure configurations on this machine."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from gbr.cli import Parser, add_json, add_splits, command, emit_json, note, parser, positive, progress, table
from gbr.data.collection import SPLITS
from gbr.data.files import exclusive_lock, remove_partial_files
from gbr.errors import CollectError

if TYPE_CHECKING:
    from gbr.collect import layouts, tile
    from gbr.collect.tile import Quality

_Task = TypeVar("_Task", "tile.Task", "layouts.Task")


def arguments() -> Parser:
    """Arguments of all kinds of collection."""
    top = parser("gbr.collect", "Measure configurations on this machine; what is already measured is kept.")
    kinds = top.add_subparsers(dest="kind", required=True, metavar="KIND")
    _add_tile(kinds)
    _add_layout(kinds)
    return top


def _add_tile(kinds: argparse._SubParsersAction[Parser]) -> None:
    tile = kinds.add_parser(
        "tile",
        help="tile sizes of compiled loop nests",
        description="Time tiled loop nests in two passes of CPU time; one file per kernel, those that exist are kept.",
        allow_abbrev=False,
    )
    tile.add_argument(
        "--out",
        type=Path,
        default=Path("data"),
        metavar="ROOT",
        help="folder that gets npz/tile/cpu/{train,valid,test}/*.npz (default: data)",
    )
    tile.add_argument("--families", metavar="LIST", help="families or groups of families, by commas (default: all)")
    tile.add_argument("--configs", type=positive, default=96, metavar="N", help="per kernel (default: 96)")
    tile.add_argument("--rounds", type=positive, default=15, metavar="N", help="per pass (default: 15)")
    tile.add_argument("--seed", type=int, default=0, metavar="N", help="of tiles and operands (default: 0)")
    tile.add_argument(
        "--jobs",
        type=positive,
        default=1,
        metavar="N",
        help="kernels side by side, one core each; they disturb one another (default: 1)",
    )
    tile.add_argument(
        "--table", action="store_true", help="print the table of what was measured, in Markdown; no timing"
    )
    add_splits(tile)
    add_json(tile)
    tile.set_defaults(run=_tile)


def _add_layout(kinds: argparse._SubParsersAction[Parser]) -> None:
    layout = kinds.add_parser(
        "layout",
        help="layouts of JAX programs",
        description="Time JAX programs under layouts of their convolutions, dots and reshapes, in two passes of CPU "
        "time; one file per program, those that exist are kept.  For a function of yours: gbr.collect.layout.",
        allow_abbrev=False,
    )
    layout.add_argument(
        "--out",
        type=Path,
        default=Path("data"),
        metavar="ROOT",
        help="folder that gets npz/layout/cpu/random/{train,valid,test}/*.npz (default: data)",
    )
    layout.add_argument("--programs", metavar="LIST", help="families or programs, by commas (default: all)")
    layout.add_argument("--configs", type=positive, default=96, metavar="N", help="per program (default: 96)")
    layout.add_argument("--rounds", type=positive, default=25, metavar="N", help="per pass (default: 25)")
    layout.add_argument("--seed", type=int, default=0, metavar="N", help="of layouts (default: 0)")
    layout.add_argument(
        "--table", action="store_true", help="print the table of what was measured, in Markdown; no timing"
    )
    add_splits(layout)
    add_json(layout)
    layout.set_defaults(run=_layout)


def _tile(args: argparse.Namespace) -> None:
    from gbr.collect import tile
    from gbr.collect.pool import measured

    if args.table:
        from gbr.collect.table import markdown

        print(markdown(list(tile.stored(args.out))))
        return
    names = None if args.families is None else [name.strip() for name in args.families.split(",") if name.strip()]
    todo = tile.tasks(names, args.split or SPLITS, args.out)
    settings = tile.Settings(args.configs, args.rounds, args.seed)
    found: list[Quality] = []
    with (
        _missing(todo, args.out, tile.COLLECTION, "kernels") as missing,
        progress(len(missing), "measuring") as advance,
    ):
        for quality in measured(missing, settings, args.jobs):
            found.append(quality)
            for doubt in quality.doubts():
                note(f"warning: {doubt}")
            advance(1)
    if args.json:
        emit_json([quality.as_dict() for quality in found])
    elif found:
        rows = [
            (each.family, each.graph[len(each.family) + 1 :], each.configs, each.spread, each.tau) for each in found
        ]
        table(f"Measured in {args.out}", ("family", "shape", "configs", "spread", "retest tau"), rows)


def _layout(args: argparse.Namespace) -> None:
    from gbr.collect import layouts
    from gbr.collect.timer import pinned

    if args.table:
        print(layouts.markdown(list(layouts.stored(args.out))))
        return
    names = None if args.programs is None else [name.strip() for name in args.programs.split(",") if name.strip()]
    todo = layouts.tasks(names, args.split or SPLITS, args.out)
    settings = layouts.Settings(args.configs, args.rounds, args.seed)
    found = []
    # Pinned before JAX starts: XLA makes as many threads as the process may use cores.
    with (
        pinned(),
        _missing(todo, args.out, layouts.COLLECTION, "programs") as missing,
        progress(len(missing), "measuring") as advance,
    ):
        for task in missing:
            quality = layouts.collect(task, settings)
            found.append(quality)
            for doubt in quality.doubts():
                note(f"warning: {doubt}")
            advance(1)
    if args.json:
        emit_json([quality.as_dict() for quality in found])
    elif found:
        rows = [(each.graph, each.nodes, each.configs, each.spread, each.tau) for each in found]
        table(f"Measured in {args.out}", ("program", "nodes", "configs", "spread", "retest tau"), rows)


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


@command
def main(argv: Sequence[str] | None) -> None:
    """Run the command."""
    args = arguments().parse_args(argv)
    args.run(args)


if __name__ == "__main__":
    sys.exit(main(None))
