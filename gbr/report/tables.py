"""An explanation as sentences and tables, for the terminal and for a report."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
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

#: Text of a value, by the unit of its column.
_VALUES: Final = {"log2": "2^{:.2f}".format, "share": "{:.1%}".format, "flag": lambda value: "yes" if value else "no"}

Rows = list[list[str | None]]


def explanation_summary(found: Explanation, top: int = TOP) -> dict[str, Any]:
    """Summarise an explanation as JSON values, with ``top`` features, nodes and copies.

    Returns
    -------
    dict
        ``title``, ``graph`` (path), ``n_configs``, ``configs`` (the two indices), ``ranks`` (rank and description of
        both, best first), ``sentences``, ``blocks`` (``name``, ``doc``, ``effect``; largest effect first), ``tables``
        (title, columns, rows; the lines of a cell after the first are remarks), that of the blocks first.
    """
    own, other = found.configs
    remark, name = _CHOSEN[found.chosen]
    first = "the first" if found.places[0] == 1 else f"configuration {own}"
    second = name or f"configuration {other}"
    order = "before" if found.places[0] < found.places[1] else "after"
    sentences = []
    if not found.columns:
        sentences.append("The model does not distinguish the two configurations.")
    elif found.lead:
        scores = "scores" if found.unit is None else "predicted runtimes"
        difference = _effect(found, abs(found.lead)).lstrip("+")
        unit = f" {found.unit}" if found.unit else ""
        sentences.append(f"The model ranks {own} {order} {other}: their {scores} differ by {difference}{unit}.")
    if found.runtimes is not None:
        ratio = found.runtimes[0] / found.runtimes[1]
        sentences.append(f"Measured: {own} takes {ratio:.3f} times as long as {other}.")
    if found.failures is not None:
        first_chance, second_chance = (f"{chance:.1%}" for chance in found.failures)
        sentences.append(f"Chance to fail: {first_chance} of {own}, {second_chance} of {other}.")
    tied = found.scores[0] == found.scores[1]
    return {
        "title": f"A tie: {first} and {second}" if tied else f"Why {first} is ranked {order} {second}",
        "graph": found.graph,
        "n_configs": found.n_configs,
        "configs": found.configs,
        "ranks": sorted(zip(found.places, (f"{own}", f"{other}{remark}"), strict=True)),
        "sentences": sentences,
        "blocks": [asdict(block) for block in found.blocks] if found.columns else [],
        "tables": list(_tables(found, top)),
    }


def _tables(found: Explanation, top: int) -> Iterator[tuple[str, list[str], Rows]]:
    own, other = map(str, found.configs)
    if found.columns:
        rows: Rows = [[_effect(found, block.effect), block.name, block.doc] for block in found.blocks]
        yield f"Feature blocks: + favours {own}, - favours {other}", ["effect", "block", "description"], rows
        yield "Features", ["effect", "feature", own, other], _feature_rows(found, top)
    rows = []
    for node in found.nodes[:top]:
        for tensor in node.tensors:
            effect = _effect(found, node.effect) if tensor is node.tensors[0] else ""
            rows.append([effect, f"{node.name} {tensor.role}\n{tensor.shape}", _layout(tensor, 0), _layout(tensor, 1)])
    if rows:
        title = f"Nodes with different layouts: {_count(len(found.nodes), top)}; effect of swapping one node"
        yield title, ["effect", "tensor", own, other], rows
    if found.copies:
        rows = [[copy.what, _copied(copy, 0), _copied(copy, 1)] for copy in found.copies[:top]]
        rows.append(["total", *(size_text(sum(copy.nbytes[side] for copy in found.copies)) for side in (0, 1))])
        title = f"Copies that differ: {_count(len(found.copies), top)}; bytes, > minimum stride in elements"
        yield title, ["copy", own, other], rows
    rows = [[_effect(found, each.effect), each.name, *each.values] for each in found.parameters[:top]]
    if rows:
        title = f"Parameters that differ: {_count(len(found.parameters), top)}; effect of swapping one of them"
        yield title, ["effect", "parameter", own, other], rows
    rows = []
    for loop in found.loops:
        if loop.extent > 1:
            strides = ", ".join(f"{role} {size_text(step)}" for role, step in loop.strides.items() if step) or "none"
            tiles = [
                f"{tile} x {trips}" + (f"\n{waste:.1%} waste" if waste else "")
                for tile, trips, waste in zip(loop.tiles, loop.trips, loop.waste, strict=True)
            ]
            effect = "" if loop.tiles[0] == loop.tiles[1] else _effect(found, loop.effect)
            rows.append([effect, f"{loop.name}: {loop.runs_over}\nextent {loop.extent}\nstrides: {strides}", *tiles])
    if rows:
        title = f"Loops of {found.kernel}: tile size x tiles; effect of swapping one loop"
        yield title, ["effect", "loop", own, other], rows
    rows = []
    for operand in found.operands:
        amounts = [
            f"{size_text(footprint)} in runs of {size_text(run)}\n{size_text(moved)} moved"
            for footprint, run, moved in zip(operand.footprint, operand.run, operand.moved, strict=True)
        ]
        name = f"{operand.name} ({operand.role})\n{operand.shape}, {size_text(operand.nbytes)}"
        rows.append([name, *amounts])
    if rows:
        yield "Operands: bytes touched by one tile, and moved by all tiles", ["operand", own, other], rows


def _effect(found: Explanation, effect: float) -> str:
    """A score, or a runtime, which may be small."""
    return f"{effect:+.4f}" if found.unit is None else f"{effect:+.3g}"


def _feature_rows(found: Explanation, top: int) -> Rows:
    rows: Rows = []
    for column in found.columns[:top]:
        unit = f" ({column.unit})" if column.unit else ""
        parts = ", ".join(name for name, _ in column.behind)
        name = f"{column.name}\n{column.doc}{unit}" + (f"\ndue to {parts}" if parts else "")
        rows.append(
            [_effect(found, column.effect), name, *map(_VALUES.get(column.unit, "{:.4g}".format), column.values)]
        )
    if rest := found.columns[top:]:
        total = sum(column.effect for column in rest)
        rows.append([_effect(found, total), f"{len(rest)} other features with different values", "", ""])
    if found.alike:
        rows.append([_effect(found, found.alike), "features with equal values, through interactions", "", ""])
    return rows


def _layout(tensor: TensorChange, side: int) -> str:
    """Layout of a tensor; a second line has its minor-most extent and padding where the configurations differ."""
    remarks = [f"minor {tensor.minor[side]}"] if tensor.minor[0] != tensor.minor[1] else []
    if tensor.padding[0] != tensor.padding[1]:
        remarks.append(f"padded x{tensor.padding[side]:.3g}")
    return f"{tensor.layouts[side] or 'unset'}\n{', '.join(remarks)}".rstrip()


def _copied(copy: Copy, side: int) -> str | None:
    if not copy.nbytes[side]:
        return None
    return size_text(copy.nbytes[side]) + (f", > {copy.stride[side]}" if copy.stride[side] else "")


def _count(count: int, top: int) -> str:
    return str(count) if count <= top else f"{top} of {count}"
