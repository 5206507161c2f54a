"""Loops that a program runs under a configuration: how many, over how much, and which of them go against memory.

On CPUs and GPUs the compiler does not compute a dot or a convolution in the layouts that are set, but in the graph's
own: a tensor whose layout is set is written out in it, and read back.  What lies between takes the layouts it is given:
they spread backwards from tensors that must come in one, then forwards from those that leave in one, through
elementwise operations, broadcasts, transposes and pooling, until they meet.  What nothing keeps apart shares one loop.
A loop whose operands are not contiguous along the same dimension as its result loses its vector instructions, all the
more where it computes transcendental functions; what it writes at large steps is written line by line, and line by line
again where lines do not stay in the first cache until their other elements come by.

Terms: a *loop* writes one tensor; it is *strided* where some operand of it, or its result, is contiguous along another
dimension.  Layouts spread and loops part as they do in XLA's compiler for CPUs, whose rules for layouts and fusion this
follows in outline.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features._numba import kernel
from features.graph import Program
from features.hardware import Hardware
from features.hlo import LAYOUT_CONFIG, MAX_RANK, OPCODE_ID
from features.layout.metagraph import operand_origins
from features.layout.nodes import ConfigurableNodes
from features.program import CLASS_NAMES, CLASS_OF
from features.schema import Block, Column, Float32Array
from features.tensors import Tensors, slots

IntArray = NDArray[np.int64]

#: What an operation does with layouts: computes in the graph's own; takes any and is part of the loop that needs its
#: result; the same in a loop of its own, over windows; takes any and gives the graph's own, in a loop of its own.
FIXED, FLEXIBLE, WINDOW, REDUCE = range(4)
#: What an operation computes per element of its result.
NOTHING, ARITHMETIC, TRANSCENDENTAL = range(3)

_ELEMENTWISE: Final = [CLASS_NAMES.index(name) for name in ("transcendental", "arithmetic", "logic", "convert")]
_MOVES: Final = [CLASS_NAMES.index(name) for name in ("broadcast", "reshape", "transpose")]


@dataclass(frozen=True)
class Flow:
    """A program as its layouts flow.

    Parameters
    ----------
    kind, work : int64 (n,)
        :data:`FIXED` …, :data:`NOTHING` ….
    turns, splits : bool (n,)
        Transposes and reshapes, which cost nothing where the layouts of operand and result go together.
    made : bool (n,)
        Constants and the like, which no loop has to read.
    dims, rank, own : int64 (n, 6), (n,), (n, 6)
        Extents, dimensions and the graph's own minor-to-major order of every result.
    elements, width, window : float64 (n,)
        Elements, bytes of one, and elements of the window that slides over them.
    first : int64 (n + 1,)
        Where the edges of every consumer begin; its largest operands come first.
    consumer, operand : int64 (edges,)
    origin : int64 (edges, 6)
        Per dimension of the operand, the result's dimension, or -1.
    feeds_first, feeds : int64 (n + 1,), (edges,)
        Edges by operand.
    number : int64 (n,)
        Position among the configurable nodes, or -1.
    asks : bool (edges, 2)
        Whether the operand is the input, and the kernel, of a configurable node.
    like : int64 (n,)
        First node with a result of the same extents and width.
    """

    kind: IntArray
    work: IntArray
    turns: NDArray[np.bool_]
    splits: NDArray[np.bool_]
    made: NDArray[np.bool_]
    dims: IntArray
    rank: IntArray
    own: IntArray
    elements: NDArray[np.float64]
    width: NDArray[np.float64]
    window: NDArray[np.float64]
    first: IntArray
    consumer: IntArray
    operand: IntArray
    origin: IntArray
    feeds_first: IntArray
    feeds: IntArray
    number: IntArray
    asks: NDArray[np.bool_]
    like: IntArray


def flow_of(program: Program, tensors: Tensors, nodes: ConfigurableNodes) -> Flow:
    """Read the flow of layouts off a program.

    Parameters
    ----------
    program : Program
    tensors : Tensors
    nodes : ConfigurableNodes
    """
    n_nodes, opcode = len(program), program.opcode
    classes, elements = CLASS_OF[opcode], tensors.elements
    window = np.isin(opcode, [OPCODE_ID["reduce-window"], OPCODE_ID["select-and-scatter"]])
    moves = np.isin(opcode, [OPCODE_ID[name] for name in ("slice", "pad", "concatenate")])
    kind = np.full(n_nodes, FIXED)
    kind[np.isin(classes, [*_ELEMENTWISE, *_MOVES]) | moves] = FLEXIBLE
    kind[window] = WINDOW
    kind[opcode == OPCODE_ID["reduce"]] = REDUCE
    work = np.where(np.isin(classes, _ELEMENTWISE), ARITHMETIC, NOTHING)
    work[classes == CLASS_NAMES.index("transcendental")] = TRANSCENDENTAL
    made = (classes == CLASS_NAMES.index("source")) & (opcode != OPCODE_ID["parameter"])

    edges = np.unique(program.edges, axis=0)
    edges = edges[np.lexsort((edges[:, 1], -elements[edges[:, 1]], edges[:, 0]))]
    consumer, operand = edges[:, 0].copy(), edges[:, 1].copy()
    number = np.full(n_nodes, -1)
    number[nodes.ids] = np.arange(len(nodes))
    asking = number[consumer]
    asks = (nodes.operands[asking] == operand[:, None]) & (asking >= 0)[:, None]
    shapes = np.concatenate([tensors.dims, tensors.width[:, None].astype(np.int64)], axis=1)
    _, first_alike, alike = np.unique(shapes, axis=0, return_index=True, return_inverse=True)
    by_operand = np.lexsort((consumer, operand))
    return Flow(
        kind=kind,
        work=work,
        turns=opcode == OPCODE_ID["transpose"],
        splits=np.isin(opcode, [OPCODE_ID["reshape"], OPCODE_ID["bitcast"]]),
        made=made,
        dims=np.ascontiguousarray(tensors.dims),
        rank=tensors.rank,
        own=_orders(tensors),
        elements=elements,
        width=tensors.width,
        window=np.maximum(slots(program.feat, "window_size"), 1).prod(axis=1).astype(np.float64),
        first=np.searchsorted(consumer, np.arange(n_nodes + 1)),
        consumer=consumer,
        operand=operand,
        origin=operand_origins(program, tensors, edges),
        feeds_first=np.searchsorted(operand[by_operand], np.arange(n_nodes + 1)),
        feeds=by_operand,
        number=number,
        asks=asks,
        like=first_alike[alike.reshape(-1)],
    )


def _orders(tensors: Tensors) -> IntArray:
    """The graph's own order of every result, int64 (n, 6), as far as it has dimensions."""
    out = np.zeros((len(tensors.rank), MAX_RANK), np.int64)
    for node, rank in enumerate(tensors.rank.tolist()):
        out[node, :rank] = tensors.layout(node)
    return out


#: What is counted.
AMOUNTS: Final = (
    "contiguous", "strided", "loops", "arithmetic", "transcendental", "written", "missed", "paged", "read", "reduced",
    "pooled",
)  # fmt: skip
N_AMOUNTS: Final = len(AMOUNTS)
(
    _CONTIGUOUS, _STRIDED, _LOOPS, _ARITHMETIC, _TRANSCENDENTAL, _WRITTEN, _MISSED, _PAGED, _READ, _REDUCED, _POOLED,
) = range(N_AMOUNTS)  # fmt: skip
#: Tensors of fewer elements are not looked at.
_LEAST: Final = 256
#: Operands with fewer elements than this part of a loop's result stay in cache while it runs.
_SMALL: Final = 0.25
#: Bytes of a page.
_PAGE: Final = 4096.0
#: Elements that are walked to see whether lines stay, and orders of a tensor for which it is remembered.
_WINDOW: Final = 4096
_REMEMBERED: Final = 16
#: Operations on the way of one loop that may wait to be looked at.
_WAITING: Final = 1024


@kernel()
def _minor(order, dims, rank):  # type: ignore[no-untyped-def]
    for place in range(rank):
        if dims[order[place]] > 1:
            return order[place]
    return -1


@kernel()
def _last(dims, rank):  # type: ignore[no-untyped-def]
    for dim in range(rank - 1, -1, -1):
        if dims[dim] > 1:
            return dim
    return -1


@kernel()
def _same(a, b, dims, rank):  # type: ignore[no-untyped-def]
    """Whether two orders are one, dimensions of one element aside."""
    there = 0
    for here in range(rank):
        if dims[a[here]] > 1:
            while dims[b[there]] <= 1:
                there += 1
            if a[here] != b[there]:
                return False
            there += 1
    return True


@kernel()
def _append(dim, out, count):  # type: ignore[no-untyped-def]
    """Append a dimension that is not there yet, and return how many there are."""
    for place in range(count):
        if out[place] == dim:
            return count
    out[count] = dim
    return count + 1


@kernel()
def _packed(order, rank):  # type: ignore[no-untyped-def]
    packed = 1
    for place in range(rank):
        packed = packed << 3 | order[place]
    return packed


@kernel()
def _complete(slots, own, rank, out):  # type: ignore[no-untyped-def]
    """Write the order that slots ask for, what they do not name in the graph's own order; False where they ask none."""
    count, place = 0, 0
    while place < rank and 0 <= slots[place] < rank:
        count = _append(slots[place], out, count)
        place += 1
    if count == 0:
        return False
    for place in range(rank):
        count = _append(own[place], out, count)
    return True


@kernel()
def _kept(origin, dims, in_dims, in_rank):  # type: ignore[no-untyped-def]
    """Whether every dimension of an operand, but those of one element, is one of the result."""
    for dim in range(in_rank):
        if in_dims[dim] > 1 and (origin[dim] < 0 or dims[origin[dim]] != in_dims[dim]):
            return False
    return True


@kernel()
def _onto_operand(order, origin, splits, dims, rank, in_dims, in_rank, out):  # type: ignore[no-untyped-def]
    """Write the order of an operand that goes together with the result's; False where a reshape has none."""
    if splits:
        if not _kept(origin, dims, in_dims, in_rank):
            return False
        for dim in range(rank):
            found = dims[dim] <= 1
            for place in range(in_rank):
                found = found or origin[place] == dim
            if not found:
                return False
    count = 0
    for place in range(rank):
        for dim in range(in_rank):
            if origin[dim] == order[place]:
                out[count] = dim
                count += 1
    for dim in range(in_rank - 1, -1, -1):
        if not 0 <= origin[dim] < rank:
            out[count] = dim
            count += 1
    return True


@kernel()
def _onto_result(order, origin, splits, dims, rank, in_dims, in_rank, out):  # type: ignore[no-untyped-def]
    """Write the order of a result that goes together with an operand's; False where a reshape has none."""
    if splits and not _kept(origin, dims, in_dims, in_rank):
        return False
    count = 0
    for place in range(in_rank):
        if 0 <= origin[order[place]] < rank:
            count = _append(origin[order[place]], out, count)
    for dim in range(rank - 1, -1, -1):
        count = _append(dim, out, count)
    return True


@kernel()
def _missed(order, dims, rank, width, line, sets, ways):  # type: ignore[no-untyped-def]
    """Part of the elements whose line has been in the cache and is not any more, when they are written in ``order``.

    A window of elements is walked as the dimensions are numbered, the last innermost, through a cache that replaces
    what was used least recently.
    """
    steps, extents = np.zeros(6, np.int64), np.ones(6, np.int64)
    step, count = 1, 1
    for place in range(rank):
        steps[order[place]] = step
        step *= dims[order[place]]
    for dim in range(rank):
        extents[dim] = dims[dim]
        count *= dims[dim]
    count = min(count, _WINDOW)
    index = np.zeros(6, np.int64)
    if ways >= _WINDOW:
        return 0.0
    tags, used = np.full((sets, ways), -1, np.int64), np.zeros((sets, ways), np.int64)
    before = np.full(2 * _WINDOW, -1, np.int64)
    at, last, missed = 0, -1, 0
    for clock in range(1, count + 1):
        touched = at * np.int64(width) // line
        if touched != last:
            last = touched
            own, oldest, found = touched % sets, 0, False
            for way in range(ways):
                if tags[own, way] == touched:
                    used[own, way], found = clock, True
                    break
                if used[own, way] < used[own, oldest]:
                    oldest = way
            if not found:
                slot = touched % len(before)
                while before[slot] != touched and before[slot] != -1:
                    slot = (slot + 1) % len(before)
                missed += before[slot] == touched
                before[slot] = touched
                tags[own, oldest], used[own, oldest] = touched, clock
        for dim in range(rank - 1, -1, -1):
            index[dim] += 1
            at += steps[dim]
            if index[dim] < extents[dim]:
                break
            at -= steps[dim] * extents[dim]
            index[dim] = 0
    return missed / count


@kernel()
def _write_at_steps(like, order, dims, rank, width, line, sets, ways, elements, memo, amounts):  # type: ignore[no-untyped-def]
    """Count elements written in ``order`` while the dimensions run as they are numbered, the last innermost."""
    inner = _last(dims, rank)
    if _minor(order, dims, rank) == inner:
        return
    step, packed = width, _packed(order, rank)
    for place in range(rank):
        if order[place] == inner:
            break
        step *= dims[order[place]]
    slot = 0
    while slot < _REMEMBERED and memo[like, slot, 0] != packed and memo[like, slot, 0] != 0:
        slot += 1
    if slot == _REMEMBERED or memo[like, slot, 0] == 0:
        slot = min(slot, _REMEMBERED - 1)
        memo[like, slot, 0], memo[like, slot, 1] = packed, _missed(order, dims, rank, width, line, sets, ways)
    amounts[_WRITTEN] += elements
    amounts[_MISSED] += elements * memo[like, slot, 1]
    if step >= _PAGE:
        amounts[_PAGED] += elements


@kernel()
def _copy(like, come, want, dims, rank, width, line, sets, ways, elements, memo, amounts):  # type: ignore[no-untyped-def]
    inner = _last(dims, rank)
    read, written = _minor(come, dims, rank), _minor(want, dims, rank)
    _write_at_steps(like, want, dims, rank, width, line, sets, ways, elements, memo, amounts)
    if read != inner and written == inner:
        amounts[_READ] += elements
    amounts[_STRIDED if read != inner or written != inner else _CONTIGUOUS] += elements
    amounts[_LOOPS] += 1


@kernel()
def _spread(  # type: ignore[no-untyped-def]
    kind, splits, dims, rank, own, elements, first, operand, origin, consumer, feeds_first, feeds, leaves, leaving,
    asked, asking, order, seen, known,
):  # fmt: skip
    """Write the order that every result is computed in, and the one that is seen of it.

    Of several that could be taken, the one whose dimensions come first: whatever numbers the nodes have.
    """
    n_nodes = len(kind)
    turned = np.empty(8, np.int64)
    for node in range(n_nodes - 1, -1, -1):
        known[node] = True
        if kind[node] == FIXED or kind[node] == REDUCE:
            order[node] = own[node]
        elif leaves[node]:
            order[node] = leaving[node]
        else:
            known[node], least, wanted = False, 0, False
            for place in range(feeds_first[node], feeds_first[node + 1]):
                edge = feeds[place]
                user, found = consumer[edge], False
                if asked[edge]:
                    turned[:6], found = asking[edge], True
                    if not wanted:  # what is set comes before what spreads
                        wanted, least = True, 0
                elif kind[user] == FIXED:
                    known[node] = True
                elif not wanted and kind[user] != REDUCE and known[user]:
                    found = not _same(order[user], own[user], dims[user], rank[user]) and _onto_operand(
                        order[user], origin[edge], splits[user], dims[user], rank[user], dims[node], rank[node], turned
                    )
                if found and (least == 0 or _packed(turned, rank[node]) < least):
                    order[node], least = turned[:6], _packed(turned, rank[node])
            if least > 0:
                known[node] = True
            elif known[node]:
                order[node] = own[node]
    for node in range(n_nodes):
        if not known[node]:
            order[node], least, size = own[node], 0, elements[node]
            for edge in range(first[node], first[node + 1]):
                x = operand[edge]
                if rank[x] == 0 or elements[x] < size or _same(seen[x], own[x], dims[x], rank[x]):
                    continue
                if _onto_result(
                    seen[x], origin[edge], splits[node], dims[node], rank[node], dims[x], rank[x], turned
                ) and (least == 0 or _packed(turned, rank[node]) < least):
                    order[node], least, size = turned[:6], _packed(turned, rank[node]), elements[x]
        seen[node] = leaving[node] if leaves[node] else order[node]


@kernel()
def _loop(  # type: ignore[no-untyped-def]
    root, work, made, dims, rank, elements, first, operand, origin, order, seen, stored, stamp, stack, mark,
):  # fmt: skip
    """Operations per element of one loop: elementwise, transcendental; and whether an operand is read at steps."""
    stack[0, 0], stack[0, 1] = root, _minor(order[root], dims[root], rank[root])
    count, arithmetic, transcendental, against = 1, 0, 0, False
    while count > 0:
        count -= 1
        node, along = stack[count, 0], stack[count, 1]
        if stamp[node, along + 1] == mark:
            continue
        stamp[node, along + 1] = mark
        if node != root and stored[node]:
            if rank[node] > 0 and elements[node] >= elements[root] * _SMALL and not made[node]:
                minor = _minor(seen[node], dims[node], rank[node])
                against = against or (minor >= 0 and minor != along)
            continue
        arithmetic += work[node] >= ARITHMETIC
        transcendental += work[node] >= TRANSCENDENTAL
        for edge in range(first[node], first[node + 1]):
            x = operand[edge]
            if rank[x] > 0 and count < len(stack):
                carried = -1
                for dim in range(rank[x]):
                    if along >= 0 and origin[edge, dim] == along:
                        carried = dim
                stack[count, 0], stack[count, 1] = x, carried
                count += 1
    return arithmetic, transcendental, against


@kernel()
def _count(  # type: ignore[no-untyped-def]
    codes, rows, kind, work, turns, splits, made, dims, rank, own, elements, width, window, first, consumer, operand,
    origin, feeds_first, feeds, number, asks, like, line, sets, ways, out,
):  # fmt: skip
    n_nodes, n_edges = len(kind), len(operand)
    order, seen = np.empty((n_nodes, 6), np.int64), np.empty((n_nodes, 6), np.int64)
    leaving, asking = np.empty((n_nodes, 6), np.int64), np.empty((n_edges, 6), np.int64)
    leaves, asked = np.zeros(n_nodes, np.bool_), np.zeros(n_edges, np.bool_)
    known, stored = np.empty(n_nodes, np.bool_), np.empty(n_nodes, np.bool_)
    stamp, stack = np.full((n_nodes, 7), -1, np.int64), np.empty((_WAITING, 2), np.int64)
    turned, memo = np.empty(8, np.int64), np.zeros((n_nodes, _REMEMBERED, 2))
    mark = 0
    for config in range(len(codes)):
        amounts = out[config]
        amounts[:] = 0
        for node in range(n_nodes):
            if number[node] >= 0:
                row = rows[codes[config, number[node]]]
                leaves[node] = _complete(row[:6], own[node], rank[node], leaving[node])
        for edge in range(n_edges):
            if asks[edge, 0] or asks[edge, 1]:
                row, x = rows[codes[config, number[consumer[edge]]]], operand[edge]
                asked[edge] = asks[edge, 1] and _complete(row[12:], own[x], rank[x], asking[edge])
                if not asked[edge]:
                    asked[edge] = asks[edge, 0] and _complete(row[6:12], own[x], rank[x], asking[edge])
        _spread(
            kind, splits, dims, rank, own, elements, first, operand, origin, consumer, feeds_first, feeds, leaves,
            leaving, asked, asking, order, seen, known,
        )  # fmt: skip
        for node in range(n_nodes):
            users = feeds_first[node + 1] - feeds_first[node]
            stored[node] = (
                kind[node] == FIXED or kind[node] == WINDOW or kind[node] == REDUCE or leaves[node] or users == 0
            )
            if not stored[node]:
                stored[node] = users > 1 and work[node] == TRANSCENDENTAL
                for place in range(feeds_first[node], feeds_first[node + 1]):
                    user = consumer[feeds[place]]
                    stored[node] = stored[node] or asked[feeds[place]] or kind[user] == FIXED or kind[user] == WINDOW
        for node in range(n_nodes):
            if rank[node] == 0 or first[node] == first[node + 1]:
                continue
            largest = max(elements[node], elements[operand[first[node]]])
            if largest < _LEAST:
                continue
            if kind[node] == WINDOW:
                if not _same(order[node], own[node], dims[node], rank[node]):
                    amounts[_POOLED] += largest * window[node]
            elif kind[node] == REDUCE:
                for edge in range(first[node], first[node + 1]):
                    x = operand[edge]
                    if elements[x] >= _LEAST and _minor(seen[x], dims[x], rank[x]) != _last(dims[x], rank[x]):
                        amounts[_REDUCED] += elements[x]
            if kind[node] == FIXED or kind[node] == REDUCE:
                if leaves[node] and not _same(leaving[node], own[node], dims[node], rank[node]):
                    _copy(
                        like[node], own[node], leaving[node], dims[node], rank[node], width[node], line, sets, ways,
                        elements[node], memo, amounts,
                    )  # fmt: skip
            elif kind[node] != WINDOW and stored[node]:
                if turns[node] or splits[node]:
                    x = operand[first[node]]
                    if stored[x]:
                        free = _onto_operand(
                            order[node], origin[first[node]], splits[node], dims[node], rank[node], dims[x], rank[x],
                            turned,
                        ) and _same(turned, seen[x], dims[x], rank[x])  # fmt: skip
                        if free or (
                            splits[node]
                            and _same(seen[x], own[x], dims[x], rank[x])
                            and _same(order[node], own[node], dims[node], rank[node])
                        ):
                            continue
                mark += 1
                arithmetic, transcendental, against = _loop(
                    node, work, made, dims, rank, elements, first, operand, origin, order, seen, stored, stamp, stack,
                    mark,
                )  # fmt: skip
                amounts[_LOOPS] += 1
                if against:
                    amounts[_STRIDED] += elements[node]
                    amounts[_ARITHMETIC] += elements[node] * arithmetic
                    amounts[_TRANSCENDENTAL] += elements[node] * transcendental
                    if _minor(order[node], dims[node], rank[node]) == _last(dims[node], rank[node]):
                        amounts[_READ] += elements[node]
                    _write_at_steps(
                        like[node], order[node], dims[node], rank[node], width[node], line, sets, ways,
                        elements[node], memo, amounts,
                    )  # fmt: skip
                else:
                    amounts[_CONTIGUOUS] += elements[node]
        for edge in range(n_edges):
            x, user = operand[edge], consumer[edge]
            if rank[x] == 0 or elements[x] < _LEAST:
                continue
            come = seen[x]
            if asked[edge]:
                if not _same(asking[edge], come, dims[x], rank[x]):
                    _copy(
                        like[x], come, asking[edge], dims[x], rank[x], width[x], line, sets, ways, elements[x], memo,
                        amounts,
                    )  # fmt: skip
                come = asking[edge]
            turned[:6] = come
            split = asked[edge] and splits[user]
            if kind[user] == FIXED or (
                split
                and not _onto_operand(order[user], origin[edge], True, dims[user], rank[user], dims[x], rank[x], turned)
            ):
                turned[:6] = own[x]
            if not _same(turned, come, dims[x], rank[x]):
                _copy(like[x], come, turned, dims[x], rank[x], width[x], line, sets, ways, elements[x], memo, amounts)


def count_loops(
    codes: NDArray[np.unsignedinteger[Any]],
    rows: NDArray[np.int64],
    of: Flow,
    cache: tuple[int, int, int],
    out: NDArray[np.float64],
) -> None:
    """Count the loops of every configuration.

    Parameters
    ----------
    codes : uint32 (b, nodes)
        Coded configurations.
    rows : int64 (rows, 18)
        What the codes stand for.
    of : Flow
    cache : (int, int, int)
        Bytes of a line, sets and ways of the first cache.
    out : float64 (b, N_AMOUNTS)
    """
    _count(
        codes, rows, of.kind, of.work, of.turns, of.splits, of.made, of.dims, of.rank, of.own, of.elements, of.width,
        of.window, of.first, of.consumer, of.operand, of.origin, of.feeds_first, of.feeds, of.number, of.asks, of.like,
        *cache, out,
    )  # fmt: skip


#: Every configuration has its own loops, and counting them takes a third of a microsecond per node: larger programs,
#: which come with many configurations, are left out.
MAX_NODES: Final = 2000

_DOCS: Final = (
    "elements written by loops whose operands and result are contiguous along one dimension",
    "elements written by strided loops",
    "loops",
    "elementwise operations in strided loops",
    "transcendental operations in strided loops",
    "elements written at steps",
    "elements written at steps, of tensors whose lines do not stay in the first cache",
    "elements written at steps of a page and more",
    "elements of tensors that are read at steps and written in order",
    "elements that reductions read at steps",
    "elements times window of pooling in another layout than the graph's",
)

BLOCK: Final = Block(
    "loops",
    1,
    "Loops that layouts cause, and what of them goes against memory, where operations keep the graph's layouts.",
    (
        *(Column(name, "log2", f"Number of {doc}", cost=True) for name, doc in zip(AMOUNTS, _DOCS, strict=True)),
        *(
            Column(f"{name}.share", "share", f"The same, over that of the graph without layouts: number of {doc}")
            if name == "loops"
            else Column(f"{name}.share", "share", f"Number of {doc}, over all elements written without layouts")
            for name, doc in zip(AMOUNTS, _DOCS, strict=True)
        ),
    ),
    per_config=True,
)


class Loops:
    """Counts the loops of one graph's coded configurations.

    Parameters
    ----------
    program : Program
    tensors : Tensors
    nodes : ConfigurableNodes
    hardware : Hardware
        Whose first cache lines stay in.  Where registers have sublanes, operations compute in the layouts that are
        set: there is nothing to count, and all columns are 0.  So they are for programs of more than
        :data:`MAX_NODES` nodes.
    """

    def __init__(self, program: Program, tensors: Tensors, nodes: ConfigurableNodes, hardware: Hardware) -> None:
        cache, line = hardware.caches[0], hardware.line_bytes
        ways = cache.ways or cache.nbytes // line
        self._cache = line, max(cache.nbytes // (ways * line), 1), ways
        counts = hardware.sublanes == 1 and len(program) <= MAX_NODES
        self._flow = flow_of(program, tensors, nodes) if counts else None
        unset = self.amounts(np.zeros((1, len(nodes)), np.uint32), np.full((1, len(LAYOUT_CONFIG)), -1, np.int64))[0]
        written = unset[AMOUNTS.index("contiguous")] + unset[AMOUNTS.index("strided")]
        loops = AMOUNTS.index("loops")
        self._scale = np.full(N_AMOUNTS, max(written, 1.0))
        self._scale[loops] = max(unset[loops], 1.0)

    def amounts(self, codes: NDArray[np.unsignedinteger[Any]], rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Amounts of every configuration, float64 (b, N_AMOUNTS).

        Parameters
        ----------
        codes, rows
            As for :func:`features.layout.loops.count_loops`.
        """
        of = self._flow
        out = np.zeros((len(codes), N_AMOUNTS))
        if of is not None:
            count_loops(codes, rows, of, self._cache, out)
        return out

    def write(self, codes: NDArray[np.unsignedinteger[Any]], rows: NDArray[np.int64], out: Float32Array) -> None:
        """Write the block's columns.

        Parameters
        ----------
        codes, rows
            As for :meth:`amounts`.
        out : float32 (b, len(BLOCK))
        """
        found = self.amounts(codes, rows)
        out[:, :N_AMOUNTS] = np.log2(1.0 + found)
        out[:, N_AMOUNTS:] = found / self._scale
