"""An explanation as sentences and tables, for the terminal and for a report."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from gbr.attribution import Copy, Explanation, TensorChange
from gbr.data.files import size_text

#: Default number of features, nodes and copies shown.
TOP: Final = 8

#: By how the second configuration was chosen: a remark after its index, and its name in a title.
_CHOSEN: Final = {
    "given": ("", None),
    "default": (" (all layouts left to the compiler)", "the compiler’s default"),
    "median": (" (median of the predicted order)", "the median"),
    "best": (" (predicted fastest)", "the predicted fastest"),
}

Table = tuple[str, list[str], list[list[str | None]]]


def explanation_summary(found: Explanation, top: int = TOP) -> dict[str, Any]:
    """Summarise an explanation for a report, as JSON values.

    Parameters
    ----------
    found : Explanation
    top : int
        Number of features, nodes and copies to show.

    Returns
    -------
    dict
        ``title``, ``graph`` (path), ``n_configs``, ``configs`` (the two indices), ``ranks`` (rank and description of
        both, best first), ``sentences``, ``blocks`` (``name``, ``doc``, ``effect``; largest effect first), ``tables``
        (title, columns, rows; the lines of a cell after the first are remarks).
    """
    tables = [list(table) for table in explanation_tables(found, top)]
    return {
        "title": _title(found),
        "graph": found.graph,
        "n_configs": found.n_configs,
        "configs": list(found.configs),
        "ranks": [list(each) for each in _ranks(found)],
        "sentences": list(_sentences(found)),
        "blocks": [asdict(block) for block in found.blocks] if found.columns else [],
        "tables": tables[1:] if found.columns else tables,  # the report draws the blocks as bars
    }


def explanation_text(found: Explanation) -> Iterator[str]:
    """Lines with the compared configurations and the result."""
    yield f"{Path(found.graph).stem}: {found.n_configs} configurations"
    for rank, config in _ranks(found):
        yield f"rank {rank}: configuration {config}"
    yield from _sentences(found)


def explanation_tables(found: Explanation, top: int) -> Iterator[Table]:
    """Tables of an explanation (title, columns, rows), with the first ``top`` rows of the long ones."""
    own, other = map(str, found.configs)
    if found.columns:
        rows: list[list[str | None]] = [[f"{block.effect:+.4f}", block.name, block.doc] for block in found.blocks]
        yield f"Feature blocks: + favours {own}, - favours {other}", ["effect", "block", "description"], rows
        yield _column_table(found, top, own, other)
    yield from _layout_tables(found, top, own, other) if found.kind == "layout" else _tile_tables(found, own, other)


def _title(found: Explanation) -> str:
    own, other = (f"configuration {config}" for config in found.configs)
    first, second = found.places
    own = "the first" if first == 1 else own
    other = _CHOSEN[found.chosen][1] or other
    if found.scores[0] == found.scores[1]:
        return f"A tie: {own} and {other}"
    return f"Why {own} is ranked {'before' if first < second else 'after'} {other}"


def _ranks(found: Explanation) -> list[tuple[int, str]]:
    own, other = found.configs
    return sorted(zip(found.places, (f"{own}", f"{other}{_CHOSEN[found.chosen][0]}"), strict=True))


def _sentences(found: Explanation) -> Iterator[str]:
    own, other = found.configs
    if not found.columns:
        yield "The model does not distinguish the two configurations."
    elif found.lead:
        order = "before" if found.lead > 0 else "after"
        yield f"The model ranks {own} {order} {other}: their scores differ by {abs(found.lead):.4f}."
    if found.runtimes is not None:
        yield f"Measured: {own} takes {found.runtimes[0] / found.runtimes[1]:.3f} times as long as {other}."


def _column_table(found: Explanation, top: int, own: str, other: str) -> Table:
    rows: list[list[str | None]] = []
    for column in found.columns[:top]:
        unit = f" ({column.unit})" if column.unit else ""
        parts = ", ".join(name for name, _ in column.behind)
        name = f"{column.name}\n{column.doc}{unit}" + (f"\ndue to {parts}" if parts else "")
        rows.append([f"{column.effect:+.4f}", name, *(_value(column.unit, value) for value in column.values)])
    if rest := found.columns[top:]:
        total = sum(column.effect for column in rest)
        rows.append([f"{total:+.4f}", f"{len(rest)} other features with different values", "", ""])
    if found.alike:
        rows.append([f"{found.alike:+.4f}", "features with equal values, through interactions", "", ""])
    return "Features", ["effect", "feature", own, other], rows


def _layout_tables(found: Explanation, top: int, own: str, other: str) -> Iterator[Table]:
    rows: list[list[str | None]] = []
    for node in found.nodes[:top]:
        effect = f"{node.effect:+.4f}"
        for tensor in node.tensors:
            layouts = [_layout(tensor, side) for side in (0, 1)]
            rows.append([effect, f"{node.name} {tensor.role}\n{tensor.shape}", *layouts])
            effect = ""
    if rows:
        title = f"Nodes with different layouts: {_count(len(found.nodes), top)}; effect of swapping one node"
        yield title, ["effect", "tensor", own, other], rows
    if found.copies:
        rows = [[copy.what, *(_copied(copy, side) for side in (0, 1))] for copy in found.copies[:top]]
        rows.append(["total", *(size_text(sum(copy.nbytes[side] for copy in found.copies)) for side in (0, 1))])
        title = f"Copies that differ: {_count(len(found.copies), top)}; bytes, > minimum stride in elements"
        yield title, ["copy", own, other], rows


def _tile_tables(found: Explanation, own: str, other: str) -> Iterator[Table]:
    rows: list[list[str | None]] = []
    for loop in found.loops:
        if loop.extent == 1:
            continue
        strides = ", ".join(f"{role} {size_text(step)}" for role, step in loop.strides.items() if step) or "none"
        tiles = [
            f"{tile} x {trips}" + (f"\n{waste:.1%} waste" if waste else "")
            for tile, trips, waste in zip(loop.tiles, loop.trips, loop.waste, strict=True)
        ]
        effect = "" if loop.tiles[0] == loop.tiles[1] else f"{loop.effect:+.4f}"
        rows.append([effect, f"{loop.name}: {loop.runs_over}\nextent {loop.extent}\nstrides: {strides}", *tiles])
    if rows:
        title = f"Loops of {found.kernel}: tile size x tiles; effect of swapping one loop"
        yield title, ["effect", "loop", own, other], rows
    rows = []
    for operand in found.operands:
        name = f"{operand.name} ({operand.role})\n{operand.shape}, {size_text(operand.nbytes)}"
        amounts = [
            f"{size_text(footprint)} in runs of {size_text(run)}\n{size_text(moved)} moved"
            for footprint, run, moved in zip(operand.footprint, operand.run, operand.moved, strict=True)
        ]
        rows.append([name, *amounts])
    if rows:
        yield "Operands: bytes touched by one tile, and moved by all tiles", ["operand", own, other], rows


def _layout(tensor: TensorChange, side: int) -> str:
    """Layout of a tensor; a second line has its minor-most extent and padding where the configurations differ."""
    remarks = [f"minor {tensor.minor[side]}"] if tensor.minor[0] != tensor.minor[1] else []
    if tensor.padding[0] != tensor.padding[1]:
        remarks.append(f"padded x{tensor.padding[side]:.3g}")
    return "\n".join([tensor.layouts[side] or "unset", *([", ".join(remarks)] if remarks else [])])


def _copied(copy: Copy, side: int) -> str | None:
    if not copy.nbytes[side]:
        return None
    return size_text(copy.nbytes[side]) + (f", > {copy.stride[side]}" if copy.stride[side] else "")


def _value(unit: str, value: float) -> str:
    if unit == "log2":
        return f"2^{value:.2f}"
    if unit == "share":
        return f"{value:.1%}"
    return ("yes" if value else "no") if unit == "flag" else f"{value:.4g}"


def _count(count: int, top: int) -> str:
    return str(count) if count <= top else f"{top} of {count}"
