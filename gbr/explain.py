"""Command: say why a configuration is ranked before another one.

python -m gbr.explain --model runs/tile data/npz/tile/cpu/test/graph.npz --config 3
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gbr import _cli

if TYPE_CHECKING:
    from gbr._parts import Copy
    from gbr.explanation import ColumnEffect, Explanation

_SHOWN: Final = 8
_CHOSEN: Final = {
    "given": "",
    "default": ", which leaves all layouts to the compiler",
    "median": ", the middle of the predicted order",
    "best": ", predicted best",
}
_UNITS: Final = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def _main(argv: Sequence[str] | None = None) -> None:
    args = _parser().parse_args(argv)
    from gbr.explanation import explain
    from gbr.ranker import Ranker

    found = explain(Ranker.load(args.model), args.graph, args.config, args.against)
    if args.json:
        _cli.emit_json(found.as_dict(args.top))
        return
    for line in headline(found):
        print(line)
    print()
    for title, columns, rows in tables(found, args.top or _SHOWN):
        _cli.table(title, columns, rows)


def headline(found: Explanation) -> Iterator[str]:
    """What is compared, and how it came out, in sentences."""
    own, other = found.configs
    yield f"{Path(found.graph).stem}: {found.n_configs} configurations in predicted order"
    places = sorted(zip(found.places, (f"{own}", f"{other}{_CHOSEN[found.chosen]}"), strict=True))
    for place, config in places:
        yield f"number {place}: configuration {config}"
    if not found.columns:
        yield "The model sees no difference between them."
    elif found.lead:
        order = "before" if found.lead > 0 else "behind"
        yield f"The model's score puts {own} {order} {other} by {abs(found.lead):.4f}."
    if found.runtimes is not None:
        yield f"Measured: {own} takes {found.runtimes[0] / found.runtimes[1]:.3f} times as long as {other}."


def tables(found: Explanation, top: int) -> Iterator[tuple[str, list[str], list[list[Any]]]]:
    """Tables of an explanation: title, columns, rows; of what may be long the first ``top`` rows.

    Parameters
    ----------
    found : Explanation
    top : int
    """
    own, other = (str(config) for config in found.configs)
    if found.kind == "layout":
        yield from _layout_tables(found, top, own, other)
    else:
        yield from _tile_tables(found, own, other)
    if not found.columns:
        return
    rows: list[list[Any]] = [[_signed(block.effect), block.name, block.doc] for block in found.blocks]
    yield f"Blocks of features: + speaks for {own}, - for {other}", ["effect", "block", "holds"], rows
    rows = [
        [_signed(column.effect), _told(column), *(_value(column.unit, each) for each in column.values)]
        for column in found.columns[:top]
    ]
    if rest := found.columns[top:]:
        total = sum(column.effect for column in rest)
        rows.append([_signed(total), f"{len(rest)} other features whose values differ", "", ""])
    if found.alike:
        rows.append([_signed(found.alike), "features of equal value, weighed together with these", "", ""])
    yield "Features", ["effect", "feature", own, other], rows


def _layout_tables(
    found: Explanation, top: int, own: str, other: str
) -> Iterator[tuple[str, list[str], list[list[Any]]]]:
    rows: list[list[Any]] = []
    for node in found.nodes[:top]:
        effect = "" if node.effect is None else _signed(node.effect)
        for tensor in node.tensors:
            told = [layout or "unset" for layout in tensor.layouts]
            minor = _both(tensor.minor, str)
            padding = _both(tensor.padding, lambda factor: f"x{factor:.3g}")
            rows.append([effect, f"{node.name} {tensor.role}\n{tensor.shape}", *told, minor, padding])
            effect = ""
    title = f"Nodes whose layouts differ: {_some(len(found.nodes), top)}; effect of exchanging each alone"
    if rows:
        yield title, ["effect", "tensor", own, other, "minor", "padded"], rows
    if not found.copies:
        return
    total = [sum(copy.nbytes[side] for copy in found.copies) for side in (0, 1)]
    rows = [[copy.what, *(_copied(copy, side) for side in (0, 1))] for copy in found.copies[:top]]
    rows.append(["all of them", *(_size(nbytes) for nbytes in total)])
    title = f"Copies that differ: {_some(len(found.copies), top)}; with the stride exceeded, in elements"
    yield title, ["copy", own, other], rows


def _tile_tables(found: Explanation, own: str, other: str) -> Iterator[tuple[str, list[str], list[list[Any]]]]:
    rows: list[list[Any]] = []
    for loop in found.loops:
        if loop.extent == 1:
            continue
        strides = "\n".join(f"{role} {_size(step)}" for role, step in loop.strides.items() if step) or "none"
        cut = [
            f"{tile} x {trips}" + (f"\n{waste:.1%} waste" if waste else "")
            for tile, trips, waste in zip(loop.tiles, loop.trips, loop.waste, strict=True)
        ]
        effect = "" if loop.effect is None or loop.tiles[0] == loop.tiles[1] else _signed(loop.effect)
        rows.append([effect, f"{loop.name}: {loop.runs_over}", str(loop.extent), *cut, strides])
    if rows:
        title = f"Loops of {found.kernel}: tile x count; effect of exchanging each alone"
        yield title, ["effect", "loop", "extent", own, other, "strides"], rows
    rows = [
        [
            f"{operand.name} ({operand.role})\n{operand.shape}",
            _size(operand.nbytes),
            *(
                f"{_size(operand.footprint[side])} in runs of {_size(operand.run[side])}\n"
                f"{_size(operand.moved[side])} moved"
                for side in (0, 1)
            ),
        ]
        for operand in found.operands
    ]
    yield "Operands: what one tile touches, and what all tiles move", ["operand", "bytes", own, other], rows


def _told(column: ColumnEffect) -> str:
    behind = ", ".join(name for name, _ in column.behind)
    return f"{column.name}\n{column.doc}" + (f"\nby {behind}" if behind else "")


def _signed(effect: float) -> str:
    return f"{effect:+.4f}"


def _value(unit: str, value: float) -> str:
    if unit == "log2":
        return f"2^{value:.2f}"
    if unit == "share":
        return f"{value:.1%}"
    return ("yes" if value else "no") if unit == "flag" else f"{value:.4g}"


def _both(values: Sequence[Any], text: Any) -> str:
    first, second = map(text, values)
    return first if first == second else f"{first} / {second}"


def _copied(copy: Copy, side: int) -> str | None:
    if not copy.nbytes[side]:
        return None
    stride = copy.stride[side]
    return _size(copy.nbytes[side]) + (f", > {stride}" if stride else "")


def _size(nbytes: float) -> str:
    for unit, name in _UNITS:
        if nbytes >= unit:
            return f"{nbytes / unit:.3g} {name}"
    return f"{nbytes:.0f} B"


def _some(count: int, top: int) -> str:
    return str(count) if count <= top else f"{top} of {count}"


def _parser() -> _cli.Parser:
    parser = _cli.parser(
        "gbr.explain",
        "Say which features, and which nodes or loops of the graph, make a model rank a configuration before another.",
    )
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="folder written by gbr.train")
    parser.add_argument("graph", type=Path, metavar="GRAPH.npz", help="graph file")
    parser.add_argument("--config", type=int, required=True, metavar="I", help="the configuration asked about: its row")
    parser.add_argument(
        "--against",
        type=int,
        default=None,
        metavar="J",
        help="the one to compare it with (default: the one that leaves all layouts to the compiler where there is one, "
        "else the middle of the predicted order)",
    )
    parser.add_argument(
        "--top",
        type=_at_least_one,
        default=None,
        metavar="N",
        help=f"features, nodes and copies shown (default: {_SHOWN}; all with --json)",
    )
    _cli.add_json(parser)
    return parser


def _at_least_one(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, want a whole number from 1 on")
    return number


main = _cli.command(_main)

if __name__ == "__main__":
    raise SystemExit(main(None))
