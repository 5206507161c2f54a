"""Loops that a program runs under a configuration: their number, elements, and accesses at strides.

On CPUs and GPUs the compiler computes a dot or a convolution in the graph's own layouts, not in those that are set: a
tensor whose layout is set is written in that layout and copied back.  Elementwise operations, broadcasts, transposes,
reshapes and pooling take any layout: layouts propagate through them, first backwards from operands whose layout is set,
then forwards from results whose layout is set, until they meet.  Fused operations share one loop.  A loop whose
operands are not contiguous along the same dimension as its result loses its vector instructions, which costs most
where it computes transcendental functions.  If it writes at large strides, it touches one cache line per element, and
fetches the line again if it was evicted from the first cache before its other elements were written.

A *loop* writes one tensor; it is *strided* if one of its operands, or its result, is contiguous along another
dimension.  Layout propagation and fusion follow the rules of XLA's compiler for CPUs in outline.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

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
FloatArray = NDArray[np.float64]

#: Amounts that are counted, with their descriptions.
_DOCS: Final = {
    "contiguous": "elements written by loops whose operands and result are contiguous along the same dimension",
    "strided": "elements written by strided loops",
    "loops": "loops",
    "arithmetic": "elementwise operations in strided loops",
    "transcendental": "transcendental operations in strided loops",
    "written": "elements written at strides",
    "missed": "elements written at strides whose cache line was evicted from the first cache since its last use",
    "paged": "elements written at strides of a page or more",
    "read": "elements read at strides and written contiguously",
    "reduced": "elements that reductions read at strides",
    "pooled": "elements times window size of pooling in another layout than the graph's",
}
AMOUNTS: Final = tuple(_DOCS)
N_AMOUNTS: Final = len(AMOUNTS)
(
    _CONTIGUOUS, _STRIDED, _LOOPS, _ARITHMETIC, _TRANSCENDENTAL, _WRITTEN, _MISSED, _PAGED, _READ, _REDUCED, _POOLED,
) = range(N_AMOUNTS)  # fmt: skip

BLOCK: Final = Block(
    "loops",
    1,
    "Loops that layouts cause, and their strided accesses, on targets whose operations keep the graph's layouts.",
    (
        *(Column(name, "log2", f"Number of {doc}", cost=True) for name, doc in _DOCS.items()),
        *(
            Column(f"{name}.share", "share", f"Number of {doc}, over {total} without layouts")
            for name, doc in _DOCS.items()
            for total in ("that of the graph" if name == "loops" else "all elements written",)
        ),
    ),
    per_config=True,
)

#: Larger programs, which have many configurations, are skipped: counting takes a third of a microsecond per node and
#: configuration.
MAX_NODES: Final = 2000
#: Tensors of fewer elements are ignored.
_MIN_ELEMENTS: Final = 256
#: Operands with fewer elements than this share of a loop's result stay in the cache while it runs.
_MIN_SHARE: Final = 0.25
#: Bytes of a page.
_PAGE: Final = 4096.0
#: Elements simulated to find evicted cache lines, and orders per shape whose result is memoized.
_WINDOW: Final = 4096
_MEMO_SLOTS: Final = 16
#: Capacity of the stack of one loop's operations.
_STACK_SIZE: Final = 1024

#: How an operation treats layouts: computes in the graph's own; takes any, and may be fused into its consumer's loop;
#: takes any, in a separate loop over windows; reads any and writes the graph's own, in a separate loop.
_FIXED, _FLEXIBLE, _SLIDING, _REDUCE = range(4)
#: Work per element of an operation's result.
_NOTHING, _ELEMENTARY, _FUNCTION = range(3)
_ELEMENTWISE: Final = [CLASS_NAMES.index(name) for name in ("transcendental", "arithmetic", "logic", "convert")]
_MOVES: Final = [CLASS_NAMES.index(name) for name in ("broadcast", "reshape", "transpose")]


class _Flow(NamedTuple):
    """Operations and the tensors between them.

    kind, work : int64 (n,), :data:`_FIXED` ..., :data:`_NOTHING` ...
    is_transpose, is_reshape : bool (n,), operations that are free if the layouts of operand and result correspond
    constant : bool (n,), constants and similar, which loops do not read from memory
    dims, rank, own : int64 (n, 6), (n,), (n, 6), extents, rank and the graph's own minor-to-major order
    elements, width, window : float64 (n,), elements, bytes per element, and elements of the sliding window
    first : int64 (n + 1,), first edge of every consumer, whose largest operands come first
    consumer, operand : int64 (edges,)
    origin : int64 (edges, 6), per dimension of the operand, the result's dimension, or -1
    user_first, user_edges : int64 (n + 1,), (edges,), edges grouped by operand
    number : int64 (n,), position among the configurable nodes, or -1
    expects : bool (edges, 2), whether the operand is the input, and the kernel, of a configurable node
    same_shape : int64 (n,), first node whose result has the same extents and width
    """

    kind: IntArray
    work: IntArray
    is_transpose: NDArray[np.bool_]
    is_reshape: NDArray[np.bool_]
    constant: NDArray[np.bool_]
    dims: IntArray
    rank: IntArray
    own: IntArray
    elements: FloatArray
    width: FloatArray
    window: FloatArray
    first: IntArray
    consumer: IntArray
    operand: IntArray
    origin: IntArray
    user_first: IntArray
    user_edges: IntArray
    number: IntArray
    expects: NDArray[np.bool_]
    same_shape: IntArray


def _flow(program: Program, tensors: Tensors, nodes: ConfigurableNodes) -> _Flow:
    n_nodes, opcode = len(program), program.opcode
    classes, elements = CLASS_OF[opcode], tensors.elements
    moves = np.isin(opcode, [OPCODE_ID[name] for name in ("slice", "pad", "concatenate")])
    kind = np.full(n_nodes, _FIXED)
    kind[np.isin(classes, [*_ELEMENTWISE, *_MOVES]) | moves] = _FLEXIBLE
    kind[np.isin(opcode, [OPCODE_ID["reduce-window"], OPCODE_ID["select-and-scatter"]])] = _SLIDING
    kind[opcode == OPCODE_ID["reduce"]] = _REDUCE
    work = np.where(np.isin(classes, _ELEMENTWISE), _ELEMENTARY, _NOTHING)
    work[classes == CLASS_NAMES.index("transcendental")] = _FUNCTION
    own = np.zeros((n_nodes, MAX_RANK), np.int64)
    for node, rank in enumerate(tensors.rank.tolist()):
        own[node, :rank] = tensors.layout(node)

    edges = np.unique(program.edges, axis=0)
    edges = edges[np.lexsort((edges[:, 1], -elements[edges[:, 1]], edges[:, 0]))]
    consumer, operand = edges[:, 0].copy(), edges[:, 1].copy()
    number = np.full(n_nodes, -1)
    number[nodes.ids] = np.arange(len(nodes.ids))
    expecting = number[consumer]
    shapes = np.concatenate([tensors.dims, tensors.width[:, None].astype(np.int64)], axis=1)
    _, first_equal, shape_index = np.unique(shapes, axis=0, return_index=True, return_inverse=True)
    by_operand = np.lexsort((consumer, operand))
    return _Flow(
        kind=kind,
        work=work,
        is_transpose=opcode == OPCODE_ID["transpose"],
        is_reshape=np.isin(opcode, [OPCODE_ID["reshape"], OPCODE_ID["bitcast"]]),
        constant=(classes == CLASS_NAMES.index("source")) & (opcode != OPCODE_ID["parameter"]),
        dims=np.ascontiguousarray(tensors.dims),
        rank=tensors.rank,
        own=own,
        elements=elements,
        width=tensors.width,
        window=np.maximum(slots(program.feat, "window_size"), 1).prod(axis=1).astype(np.float64),
        first=np.searchsorted(consumer, np.arange(n_nodes + 1)),
        consumer=consumer,
        operand=operand,
        origin=operand_origins(program, tensors, edges),
        user_first=np.searchsorted(operand[by_operand], np.arange(n_nodes + 1)),
        user_edges=by_operand,
        number=number,
        expects=(nodes.operands[expecting] == operand[:, None]) & (expecting >= 0)[:, None],
        same_shape=first_equal[shape_index.reshape(-1)],
    )


class _State(NamedTuple):
    """The layouts of a program under one configuration; orders are minor to major.

    order, seen : int64 (n, 6), order in which a result is computed, and in which its consumers read it
    result_set, result_order : bool (n,), int64 (n, 6), whether a result's layout is set, and the layout
    operand_set, operand_order : bool (edges,), int64 (edges, 6), the same for an operand's layout
    known, stored : bool (n,), whether a result's order is known, and whether it is written to memory
    """

    order: IntArray
    seen: IntArray
    result_set: NDArray[np.bool_]
    result_order: IntArray
    operand_set: NDArray[np.bool_]
    operand_order: IntArray
    known: NDArray[np.bool_]
    stored: NDArray[np.bool_]


class _Cache(NamedTuple):
    """Bytes per line, sets and ways of the first cache."""

    line: int
    sets: int
    ways: int


@kernel()
def _minor(order, dims, rank):  # type: ignore[no-untyped-def]
    """The minor-most dimension of more than one element, or -1."""
    for position in range(rank):
        if dims[order[position]] > 1:
            return order[position]
    return -1


@kernel()
def _last(dims, rank):  # type: ignore[no-untyped-def]
    """The last dimension of more than one element, or -1."""
    for dim in range(rank - 1, -1, -1):
        if dims[dim] > 1:
            return dim
    return -1


@kernel()
def _same(a, b, dims, rank):  # type: ignore[no-untyped-def]
    """Whether two orders are equal, ignoring dimensions of one element."""
    j = 0
    for i in range(rank):
        if dims[a[i]] > 1:
            while dims[b[j]] <= 1:
                j += 1
            if a[i] != b[j]:
                return False
            j += 1
    return True


@kernel()
def _append(dim, order, count):  # type: ignore[no-untyped-def]
    """Append a dimension that is not in an order yet; returns the new length."""
    for position in range(count):
        if order[position] == dim:
            return count
    order[count] = dim
    return count + 1


@kernel()
def _packed(order, rank):  # type: ignore[no-untyped-def]
    packed = 1
    for position in range(rank):
        packed = packed << 3 | order[position]
    return packed


@kernel()
def _complete(slots, own, rank, out):  # type: ignore[no-untyped-def]
    """Write the order named by slots, completed by the graph's own; return whether they name any dimension."""
    count, position = 0, 0
    while position < rank and 0 <= slots[position] < rank:
        count = _append(slots[position], out, count)
        position += 1
    if count == 0:
        return False
    for position in range(rank):
        count = _append(own[position], out, count)
    return True


@kernel()
def _kept(origin, dims, in_dims, in_rank):  # type: ignore[no-untyped-def]
    """Whether every dimension of an operand with more than one element is a dimension of the result."""
    for dim in range(in_rank):
        if in_dims[dim] > 1 and (origin[dim] < 0 or dims[origin[dim]] != in_dims[dim]):
            return False
    return True


@kernel()
def _onto_operand(order, origin, is_reshape, dims, rank, in_dims, in_rank, out):  # type: ignore[no-untyped-def]
    """Write the operand order that corresponds to a result's order; return False if a reshape has none."""
    if is_reshape:
        if not _kept(origin, dims, in_dims, in_rank):
            return False
        for dim in range(rank):
            found = dims[dim] <= 1
            for position in range(in_rank):
                found = found or origin[position] == dim
            if not found:
                return False
    count = 0
    for position in range(rank):
        for dim in range(in_rank):
            if origin[dim] == order[position]:
                out[count] = dim
                count += 1
    for dim in range(in_rank - 1, -1, -1):
        if not 0 <= origin[dim] < rank:
            out[count] = dim
            count += 1
    return True


@kernel()
def _onto_result(order, origin, is_reshape, dims, rank, in_dims, in_rank, out):  # type: ignore[no-untyped-def]
    """Write the result order that corresponds to an operand's order; return False if a reshape has none."""
    if is_reshape and not _kept(origin, dims, in_dims, in_rank):
        return False
    count = 0
    for position in range(in_rank):
        if 0 <= origin[order[position]] < rank:
            count = _append(origin[order[position]], out, count)
    for dim in range(rank - 1, -1, -1):
        count = _append(dim, out, count)
    return True


@kernel()
def _missed(order, dims, rank, width, line, sets, ways):  # type: ignore[no-untyped-def]
    """Share of the elements whose line was evicted between two writes, for a tensor stored in ``order``.

    Simulates a least-recently-used cache for a window of elements, with the last dimension innermost.
    """
    if ways >= _WINDOW:
        return 0.0
    steps, index = np.zeros(6, np.int64), np.zeros(6, np.int64)
    step = 1
    for position in range(rank):
        steps[order[position]] = step
        step *= dims[order[position]]
    count = min(step, _WINDOW)
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
            if index[dim] < dims[dim]:
                break
            at -= steps[dim] * dims[dim]
            index[dim] = 0
    return missed / count


@kernel()
def _count_strided_writes(order, dims, rank, width, elements, cache, memo, amounts):  # type: ignore[no-untyped-def]
    """Count strided writes of a tensor stored in ``order`` by a loop with the last dimension innermost."""
    inner = _last(dims, rank)
    if _minor(order, dims, rank) == inner:
        return
    step, packed = width, _packed(order, rank)
    for position in range(rank):
        if order[position] == inner:
            break
        step *= dims[order[position]]
    slot = 0
    while slot < _MEMO_SLOTS and memo[slot, 0] != packed and memo[slot, 0] != 0:
        slot += 1
    if slot == _MEMO_SLOTS or memo[slot, 0] == 0:
        slot = min(slot, _MEMO_SLOTS - 1)
        missed = _missed(order, dims, rank, width, cache.line, cache.sets, cache.ways)
        memo[slot, 0], memo[slot, 1] = packed, missed
    amounts[_WRITTEN] += elements
    amounts[_MISSED] += elements * memo[slot, 1]
    if step >= _PAGE:
        amounts[_PAGED] += elements


@kernel()
def _copy(source, target, dims, rank, width, elements, cache, memo, amounts):  # type: ignore[no-untyped-def]
    """Count a loop that copies a result from one order into another."""
    inner, read, written = _last(dims, rank), _minor(source, dims, rank), _minor(target, dims, rank)
    _count_strided_writes(target, dims, rank, width, elements, cache, memo, amounts)
    if read != inner and written == inner:
        amounts[_READ] += elements
    amounts[_STRIDED if read != inner or written != inner else _CONTIGUOUS] += elements
    amounts[_LOOPS] += 1


@kernel()
def _propagate(flow, state):  # type: ignore[no-untyped-def]
    """Write the order in which every result is computed, and the order in which consumers read it.

    Of several candidate orders the lexicographically first is taken, so that the result does not depend on the
    numbering of the nodes.
    """
    kind, is_reshape, dims, rank = flow.kind, flow.is_reshape, flow.dims, flow.rank
    own, elements, first, consumer = flow.own, flow.elements, flow.first, flow.consumer
    operand, origin, user_first, user_edges = flow.operand, flow.origin, flow.user_first, flow.user_edges
    order, seen, result_set, result_order = state.order, state.seen, state.result_set, state.result_order
    operand_set, operand_order, known = state.operand_set, state.operand_order, state.known
    mapped = np.empty(8, np.int64)
    for node in range(len(kind) - 1, -1, -1):
        known[node] = True
        if kind[node] == _FIXED or kind[node] == _REDUCE:
            order[node] = own[node]
        elif result_set[node]:
            order[node] = result_order[node]
        else:
            known[node], best, is_set = False, 0, False
            for at in range(user_first[node], user_first[node + 1]):
                edge = user_edges[at]
                user, found = consumer[edge], False
                if operand_set[edge]:
                    mapped[:6], found = operand_order[edge], True
                    if not is_set:  # set layouts take precedence over propagated ones
                        is_set, best = True, 0
                elif kind[user] == _FIXED:
                    known[node] = True
                elif not is_set and kind[user] != _REDUCE and known[user]:
                    found = not _same(order[user], own[user], dims[user], rank[user]) and _onto_operand(
                        order[user], origin[edge], is_reshape[user], dims[user], rank[user], dims[node],
                        rank[node], mapped,
                    )  # fmt: skip
                if found and (best == 0 or _packed(mapped, rank[node]) < best):
                    order[node], best = mapped[:6], _packed(mapped, rank[node])
            if best > 0:
                known[node] = True
            elif known[node]:
                order[node] = own[node]
    for node in range(len(kind)):
        if not known[node]:
            order[node], best, size = own[node], 0, elements[node]
            for edge in range(first[node], first[node + 1]):
                x = operand[edge]
                if rank[x] == 0 or elements[x] < size or _same(seen[x], own[x], dims[x], rank[x]):
                    continue
                if _onto_result(
                    seen[x], origin[edge], is_reshape[node], dims[node], rank[node], dims[x], rank[x], mapped
                ) and (best == 0 or _packed(mapped, rank[node]) < best):
                    order[node], best, size = mapped[:6], _packed(mapped, rank[node]), elements[x]
        seen[node] = result_order[node] if result_set[node] else order[node]


@kernel(inline=True)
def _loop(root, parts, stamp, stack, mark):  # type: ignore[no-untyped-def]
    """Elementwise and transcendental operations per element of one loop, and whether an operand is read at strides."""
    work, constant, dims, rank, elements, first, operand, origin, order, seen, stored = parts
    stack[0, 0], stack[0, 1] = root, _minor(order[root], dims[root], rank[root])
    count, arithmetic, transcendental, strided = 1, 0, 0, False
    while count > 0:
        count -= 1
        node, along = stack[count, 0], stack[count, 1]
        if stamp[node, along + 1] == mark:
            continue
        stamp[node, along + 1] = mark
        if node != root and stored[node]:
            if rank[node] > 0 and elements[node] >= elements[root] * _MIN_SHARE and not constant[node]:
                minor = _minor(seen[node], dims[node], rank[node])
                strided = strided or (minor >= 0 and minor != along)
            continue
        arithmetic += work[node] >= _ELEMENTARY
        transcendental += work[node] >= _FUNCTION
        for edge in range(first[node], first[node + 1]):
            x = operand[edge]
            if rank[x] > 0 and count < len(stack):
                carried = -1
                for dim in range(rank[x]):
                    if along >= 0 and origin[edge, dim] == along:
                        carried = dim
                stack[count, 0], stack[count, 1] = x, carried
                count += 1
    return arithmetic, transcendental, strided


@kernel()
def _read_config(codes, rows, flow, state):  # type: ignore[no-untyped-def]
    """Write the layouts that a configuration, codes uint32 (nodes,), sets, and which results are stored."""
    kind, work, rank, own = flow.kind, flow.work, flow.rank, flow.own
    consumer, operand, user_first, user_edges = flow.consumer, flow.operand, flow.user_first, flow.user_edges
    number, expects = flow.number, flow.expects
    result_set, result_order, operand_set, operand_order = (
        state.result_set,
        state.result_order,
        state.operand_set,
        state.operand_order,
    )
    stored = state.stored
    for node in range(len(kind)):
        if number[node] >= 0:
            row = rows[codes[number[node]]]
            result_set[node] = _complete(row[:6], own[node], rank[node], result_order[node])
    for edge in range(len(operand)):
        if expects[edge, 0] or expects[edge, 1]:
            row, x = rows[codes[number[consumer[edge]]]], operand[edge]
            found = expects[edge, 1] and _complete(row[12:], own[x], rank[x], operand_order[edge])
            if not found:
                found = expects[edge, 0] and _complete(row[6:12], own[x], rank[x], operand_order[edge])
            operand_set[edge] = found
    for node in range(len(kind)):
        first, last = user_first[node], user_first[node + 1]
        is_stored = kind[node] != _FLEXIBLE or result_set[node] or first == last
        is_stored = is_stored or (last - first > 1 and work[node] == _FUNCTION)
        for at in range(first, last):
            user = kind[consumer[user_edges[at]]]
            is_stored = is_stored or operand_set[user_edges[at]] or user in (_FIXED, _SLIDING)
        stored[node] = is_stored


@kernel(inline=True)
def _is_free(node, x, origin, flow, order, seen, mapped):  # type: ignore[no-untyped-def]
    """Whether a stored transpose or reshape of ``x`` is free: operand and result have the same order in memory."""
    dims, rank, own, is_reshape = flow.dims, flow.rank, flow.own, flow.is_reshape[node]
    free = _onto_operand(order[node], origin, is_reshape, dims[node], rank[node], dims[x], rank[x], mapped)
    free = free and _same(mapped, seen[x], dims[x], rank[x])
    if not free and is_reshape and _same(seen[x], own[x], dims[x], rank[x]):
        free = _same(order[node], own[node], dims[node], rank[node])
    return free


@kernel()
def _count(codes, rows, flow, state, cache, out):  # type: ignore[no-untyped-def]
    """Count the loops of configurations, codes uint32 (b, nodes), rows int64 (rows, 18); out float64 (b, N_AMOUNTS)."""
    kind, is_transpose, is_reshape, dims, rank = flow.kind, flow.is_transpose, flow.is_reshape, flow.dims, flow.rank
    width, same_shape, memo = flow.width, flow.same_shape, np.zeros((len(flow.kind), _MEMO_SLOTS, 2))
    own, elements, window, first = flow.own, flow.elements, flow.window, flow.first
    consumer, operand, origin = flow.consumer, flow.operand, flow.origin
    order, seen, result_set, result_order = state.order, state.seen, state.result_set, state.result_order
    operand_set, operand_order, stored = state.operand_set, state.operand_order, state.stored
    parts = flow.work, flow.constant, dims, rank, elements, first, operand, origin, order, seen, stored
    n_nodes, n_edges = len(kind), len(operand)
    stamp, stack = np.full((n_nodes, 7), -1, np.int64), np.empty((_STACK_SIZE, 2), np.int64)
    mapped, mark = np.empty(8, np.int64), 0
    for config in range(len(codes)):
        amounts = out[config]
        amounts[:] = 0
        _read_config(codes[config], rows, flow, state)
        _propagate(flow, state)
        for node in range(n_nodes):
            if rank[node] == 0 or first[node] == first[node + 1]:
                continue
            largest = max(elements[node], elements[operand[first[node]]])
            if largest < _MIN_ELEMENTS:
                continue
            if kind[node] == _SLIDING:
                if not _same(order[node], own[node], dims[node], rank[node]):
                    amounts[_POOLED] += largest * window[node]
            elif kind[node] == _REDUCE:
                for edge in range(first[node], first[node + 1]):
                    x = operand[edge]
                    if elements[x] >= _MIN_ELEMENTS and _minor(seen[x], dims[x], rank[x]) != _last(dims[x], rank[x]):
                        amounts[_REDUCED] += elements[x]
            if kind[node] == _FIXED or kind[node] == _REDUCE:
                if result_set[node] and not _same(result_order[node], own[node], dims[node], rank[node]):
                    _copy(
                        own[node],
                        result_order[node],
                        dims[node],
                        rank[node],
                        width[node],
                        elements[node],
                        cache,
                        memo[same_shape[node]],
                        amounts,
                    )
            elif kind[node] != _SLIDING and stored[node]:
                if (is_transpose[node] or is_reshape[node]) and stored[operand[first[node]]]:
                    edge = first[node]
                    if _is_free(node, operand[edge], origin[edge], flow, order, seen, mapped):
                        continue
                mark += 1
                arithmetic, transcendental, strided = _loop(node, parts, stamp, stack, mark)
                amounts[_LOOPS] += 1
                if strided:
                    amounts[_STRIDED] += elements[node]
                    amounts[_ARITHMETIC] += elements[node] * arithmetic
                    amounts[_TRANSCENDENTAL] += elements[node] * transcendental
                    if _minor(order[node], dims[node], rank[node]) == _last(dims[node], rank[node]):
                        amounts[_READ] += elements[node]
                    _count_strided_writes(
                        order[node],
                        dims[node],
                        rank[node],
                        width[node],
                        elements[node],
                        cache,
                        memo[same_shape[node]],
                        amounts,
                    )
                else:
                    amounts[_CONTIGUOUS] += elements[node]
        for edge in range(n_edges):
            x, user = operand[edge], consumer[edge]
            if rank[x] == 0 or elements[x] < _MIN_ELEMENTS:
                continue
            source, is_set = seen[x], operand_set[edge]
            if is_set:
                if not _same(operand_order[edge], source, dims[x], rank[x]):
                    _copy(
                        source,
                        operand_order[edge],
                        dims[x],
                        rank[x],
                        width[x],
                        elements[x],
                        cache,
                        memo[same_shape[x]],
                        amounts,
                    )
                source = operand_order[edge]
            mapped[:6] = source
            if kind[user] == _FIXED or (
                is_set
                and is_reshape[user]
                and not _onto_operand(order[user], origin[edge], True, dims[user], rank[user], dims[x], rank[x], mapped)
            ):
                mapped[:6] = own[x]
            if not _same(mapped, source, dims[x], rank[x]):
                _copy(source, mapped, dims[x], rank[x], width[x], elements[x], cache, memo[same_shape[x]], amounts)


class Loops:
    """Counts the loops of one graph's coded configurations.

    Parameters
    ----------
    program : Program
    tensors : Tensors
    nodes : ConfigurableNodes
    hardware : Hardware
        Target with at least one cache.  All columns are 0 if its registers have sublanes (operations then compute in
        the layouts that are set), and for programs of more than :data:`MAX_NODES` nodes.
    """

    def __init__(self, program: Program, tensors: Tensors, nodes: ConfigurableNodes, hardware: Hardware) -> None:
        cache, line = hardware.caches[0], hardware.line_bytes
        ways = cache.ways or cache.nbytes // line
        self._cache = _Cache(line, max(cache.nbytes // (ways * line), 1), ways)
        counts = hardware.sublanes == 1 and len(program) <= MAX_NODES
        self._flow = _flow(program, tensors, nodes) if counts else None
        unset = self.amounts(np.zeros((1, len(nodes.ids)), np.uint32), np.full((1, len(LAYOUT_CONFIG)), -1, np.int64))[
            0
        ]
        self._scale = np.full(N_AMOUNTS, max(unset[_CONTIGUOUS] + unset[_STRIDED], 1.0))
        self._scale[_LOOPS] = max(unset[_LOOPS], 1.0)

    def amounts(self, codes: NDArray[np.unsignedinteger[Any]], rows: IntArray) -> FloatArray:
        """Amounts of every configuration, float64 (b, N_AMOUNTS).

        Parameters
        ----------
        codes : uint32 (b, nodes)
            Coded configurations.
        rows : int64 (rows, 18)
            The rows that the codes refer to.
        """
        out = np.zeros((len(codes), N_AMOUNTS))
        if self._flow is not None:
            n, m = len(self._flow.kind), len(self._flow.operand)
            orders, flags = np.empty((3, n, MAX_RANK), np.int64), np.zeros((3, n), np.bool_)
            state = _State(
                order=orders[0],
                seen=orders[1],
                result_set=flags[0],
                result_order=orders[2],
                operand_set=np.zeros(m, np.bool_),
                operand_order=np.empty((m, MAX_RANK), np.int64),
                known=flags[1],
                stored=flags[2],
            )
            _count(codes, rows, self._flow, state, self._cache, out)
        return out

    def write(self, codes: NDArray[np.unsignedinteger[Any]], rows: IntArray, out: Float32Array) -> None:
        """Write the block's columns, float32 (b, len(BLOCK)); ``codes`` and ``rows`` as for :meth:`amounts`."""
        found = self.amounts(codes, rows)
        out[:, :N_AMOUNTS] = np.log2(1.0 + found)
        out[:, N_AMOUNTS:] = found / self._scale
