"""An explanation in words: sentences and tables, for a terminal and for a page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from gbr.attribution.explanation import ColumnEffect, Explanation
    from gbr.attribution.parts import Copy, TensorChange

#: Features, nodes and copies told where no number is asked for.
SHOWN: Final = 8

#: How the other configuration came to be -> what stands behind its number, and what it is called in a title.
_CHOSEN: Final = {
    "given": ("", None),
    "default": (", which leaves all layouts to the compiler", "the compiler’s default"),
    "median": (", the middle of the predicted order", "the median"),
    "best": (", predicted best", "the predicted best"),
}
_UNITS: Final = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))

TableOf = tuple[str, list[str], list[list[Any]]]


def headline(found: Explanation) -> Iterator[str]:
    """What is compared, and how it came out, in sentences."""
    yield f"{Path(found.graph).stem}: {found.n_configs} configurations in predicted order"
    for place, config in _places(found):
        yield f"number {place}: configuration {config}"
    yield from _verdict(found)


def tables(found: Explanation, top: int) -> Iterator[TableOf]:
    """Tables of an explanation: title, columns, rows; of what may be long the first ``top`` rows.

    Parameters
    ----------
    found : Explanation
    top : int
    """
    yield from _part_tables(found, top)
    if found.columns:
        own, other = found.configs
        rows: list[list[Any]] = [[_signed(block.effect), block.name, block.doc] for block in found.blocks]
        yield f"Blocks of features: + speaks for {own}, - for {other}", ["effect", "block", "holds"], rows
        yield _column_table(found, top)


def for_page(found: Explanation, top: int = SHOWN) -> dict[str, Any]:
    """All that a page says of an explanation, ready for JSON.

    Parameters
    ----------
    found : Explanation
    top : int
        Features, nodes and copies to tell of.

    Returns
    -------
    dict
        ``title``; ``graph`` (its path), ``n_configs``; ``configs`` (the pair), ``places`` (number in the predicted
        order, and the configuration in words), ``says`` (sentences), ``blocks`` (``name``, ``doc``, ``effect``: largest
        first), ``tables`` (title, columns, rows; the lines of a cell after its first are remarks).
    """
    return {
        "title": _title(found),
        "graph": found.graph,
        "n_configs": found.n_configs,
        "configs": list(found.configs),
        "places": [list(one) for one in _places(found)],
        "says": list(_verdict(found)),
        "blocks": [asdict(block) for block in found.blocks] if found.columns else [],
        "tables": [
            *([list(_column_table(found, top))] if found.columns else []),
            *(list(table) for table in _part_tables(found, top)),
        ],
    }


def _title(found: Explanation) -> str:
    own, other = (f"configuration {config}" for config in found.configs)
    first, second = found.places
    own = "the first" if first == 1 else own
    other = _CHOSEN[found.chosen][1] or other
    if found.scores[0] == found.scores[1]:
        return f"A tie: {own} and {other}"
    return f"Why {own} {'before' if first < second else 'behind'} {other}"


def _places(found: Explanation) -> list[tuple[int, str]]:
    own, other = found.configs
    return sorted(zip(found.places, (f"{own}", f"{other}{_CHOSEN[found.chosen][0]}"), strict=True))


def _verdict(found: Explanation) -> Iterator[str]:
    own, other = found.configs
    if not found.columns:
        yield "The model sees no difference between them."
    elif found.lead:
        order = "before" if found.lead > 0 else "behind"
        yield f"The model's score puts {own} {order} {other} by {abs(found.lead):.4f}."
    if found.runtimes is not None:
        yield f"Measured: {own} takes {found.runtimes[0] / found.runtimes[1]:.3f} times as long as {other}."


def _column_table(found: Explanation, top: int) -> TableOf:
    own, other = map(str, found.configs)
    rows: list[list[Any]] = [
        [_signed(column.effect), _told(column), *(_value(column.unit, each) for each in column.values)]
        for column in found.columns[:top]
    ]
    if rest := found.columns[top:]:
        total = sum(column.effect for column in rest)
        rows.append([_signed(total), f"{len(rest)} other features whose values differ", "", ""])
    if found.alike:
        rows.append([_signed(found.alike), "features of equal value, weighed together with these", "", ""])
    return "Features", ["effect", "feature", own, other], rows


def _part_tables(found: Explanation, top: int) -> Iterator[TableOf]:
    own, other = map(str, found.configs)
    if found.kind == "layout":
        yield from _layout_tables(found, top, own, other)
    else:
        yield from _tile_tables(found, own, other)


def _layout_tables(found: Explanation, top: int, own: str, other: str) -> Iterator[TableOf]:
    rows: list[list[Any]] = []
    for node in found.nodes[:top]:
        effect = "" if node.effect is None else _signed(node.effect)
        for tensor in node.tensors:
            told = [_layout(tensor, side) for side in (0, 1)]
            rows.append([effect, f"{node.name} {tensor.role}\n{tensor.shape}", *told])
            effect = ""
    title = f"Nodes whose layouts differ: {_some(len(found.nodes), top)}; effect of exchanging each alone"
    if rows:
        yield title, ["effect", "tensor", own, other], rows
    if not found.copies:
        return
    total = [sum(copy.nbytes[side] for copy in found.copies) for side in (0, 1)]
    rows = [[copy.what, *(_copied(copy, side) for side in (0, 1))] for copy in found.copies[:top]]
    rows.append(["all of them", *(_size(nbytes) for nbytes in total)])
    title = f"Copies that differ: {_some(len(found.copies), top)}; with the stride exceeded, in elements"
    yield title, ["copy", own, other], rows


def _tile_tables(found: Explanation, own: str, other: str) -> Iterator[TableOf]:
    rows: list[list[Any]] = []
    for loop in found.loops:
        if loop.extent == 1:
            continue
        strides = ", ".join(f"{role} {_size(step)}" for role, step in loop.strides.items() if step) or "none"
        cut = [
            f"{tile} x {trips}" + (f"\n{waste:.1%} waste" if waste else "")
            for tile, trips, waste in zip(loop.tiles, loop.trips, loop.waste, strict=True)
        ]
        effect = "" if loop.effect is None or loop.tiles[0] == loop.tiles[1] else _signed(loop.effect)
        rows.append([effect, f"{loop.name}: {loop.runs_over}\nextent {loop.extent}\nstrides: {strides}", *cut])
    if rows:
        title = f"Loops of {found.kernel}: tile x count; effect of exchanging each alone"
        yield title, ["effect", "loop", own, other], rows
    rows = [
        [
            f"{operand.name} ({operand.role})\n{operand.shape}, {_size(operand.nbytes)}",
            *(
                f"{_size(operand.footprint[side])} in runs of {_size(operand.run[side])}\n"
                f"{_size(operand.moved[side])} moved"
                for side in (0, 1)
            ),
        ]
        for operand in found.operands
    ]
    if rows:
        yield "Operands: what one tile touches, and what all tiles move", ["operand", own, other], rows


def _told(column: ColumnEffect) -> str:
    unit = f" ({column.unit})" if column.unit else ""
    behind = ", ".join(name for name, _ in column.behind)
    return f"{column.name}\n{column.doc}{unit}" + (f"\nby {behind}" if behind else "")


def _layout(tensor: TensorChange, side: int) -> str:
    """The layout, and below it what the configurations do not have in common."""
    remarks = [f"minor {tensor.minor[side]}"] if tensor.minor[0] != tensor.minor[1] else []
    if tensor.padding[0] != tensor.padding[1]:
        remarks.append(f"padded x{tensor.padding[side]:.3g}")
    return "\n".join([tensor.layouts[side] or "unset", *([", ".join(remarks)] if remarks else [])])


def _signed(effect: float) -> str:
    return f"{effect:+.4f}"


def _value(unit: str, value: float) -> str:
    if unit == "log2":
        return f"2^{value:.2f}"
    if unit == "share":
        return f"{value:.1%}"
    return ("yes" if value else "no") if unit == "flag" else f"{value:.4g}"


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
