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
    """Operations and the tensors between them, n nodes and m edges, and the first cache."""

    kind: IntArray  # (n,), _FIXED ...
    work: IntArray  # (n,), _NOTHING ...
    moves: NDArray[np.bool_]  # (n,), transposes and reshapes: free if the layouts of operand and result correspond
    is_reshape: NDArray[np.bool_]  # (n,)
    constant: NDArray[np.bool_]  # (n,), constants and similar, which loops do not read from memory
    dims: IntArray  # (n, 6)
    rank: IntArray  # (n,)
    own: IntArray  # (n, 6), the graph's minor-to-major order
    elements: FloatArray  # (n,)
    width: FloatArray  # (n,), bytes per element
    window: FloatArray  # (n,), elements of the sliding window
    first: IntArray  # (n + 1,), first edge of every consumer, whose largest operands come first
    consumer: IntArray  # (m,)
    operand: IntArray  # (m,)
    origin: IntArray  # (m, 6), per dimension of the operand, the result's dimension, or -1
    user_first: IntArray  # (n + 1,), with user_edges, (m,), edges grouped by operand
    user_edges: IntArray
    number: IntArray  # (n,), position among the configurable nodes, or -1
    expects: NDArray[np.bool_]  # (m, 2), whether the operand is the input, and the kernel, of a configurable node
    same_shape: IntArray  # (n,), first node whose result has the same extents and width
    cache: tuple[int, int, int]  # bytes per line, sets and ways


def _flow(program: Program, tensors: Tensors, nodes: ConfigurableNodes, hardware: Hardware) -> _Flow:
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
    is_reshape = np.isin(opcode, [OPCODE_ID["reshape"], OPCODE_ID["bitcast"]])
    cache, line = hardware.caches[0], hardware.line_bytes
    ways = cache.ways or cache.nbytes // line
    return _Flow(
        kind=kind,
        work=work,
        moves=is_reshape | (opcode == OPCODE_ID["transpose"]),
        is_reshape=is_reshape,
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
        cache=(line, max(cache.nbytes // (ways * line), 1), ways),
    )


class _State(NamedTuple):
    """The layouts of a program under one configuration; orders, int64 (n or m, 6), are minor to major."""

    order: IntArray  # in which a result is computed
    seen: IntArray  # in which its consumers read it
    result_order: IntArray  # set for a result
    result_set: NDArray[np.bool_]
    known: NDArray[np.bool_]  # whether a result's order is known
    stored: NDArray[np.bool_]  # whether it is written to memory
    operand_set: NDArray[np.bool_]
    operand_order: IntArray  # set for an operand


@kernel()
def _minor(order, dims, rank):  # type: ignore[no-untyped-def]
    """The minor-most dimension of more than one element, or -1."""
    for dim in order[:rank]:
        if dims[dim] > 1:
            return dim
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
def _complete(slots, own, out):  # type: ignore[no-untyped-def]
    """Write the order named by slots, completed by the graph's own; return whether they name any dimension."""
    count = 0
    for dim in slots[: len(own)]:
        if not 0 <= dim < len(own):
            break
        count = _append(dim, out, count)
    if count == 0:
        return False
    for dim in own:
        count = _append(dim, out, count)
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
    if is_reshape and not _kept(origin, dims, in_dims, in_rank):
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
def _missed(order, shape, width, line, sets, ways):  # type: ignore[no-untyped-def]
    """Share of the elements whose line was evicted between two writes, for a tensor stored in ``order``.

    Simulates a least-recently-used cache for a window of elements, with the last dimension innermost.
    """
    if ways >= _WINDOW:
        return 0.0
    steps, index = np.zeros(6, np.int64), np.zeros(6, np.int64)
    step = 1
    for dim in order[: len(shape)]:
        steps[dim] = step
        step *= shape[dim]
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
        for dim in range(len(shape) - 1, -1, -1):
            index[dim] += 1
            at += steps[dim]
            if index[dim] < shape[dim]:
                break
            at -= steps[dim] * shape[dim]
            index[dim] = 0
    return missed / count


@kernel()
def _count_strided_writes(order, shape, elements, width, cache, known, amounts):  # type: ignore[no-untyped-def]
    """Count strided writes of a result stored in ``order`` by a loop with the last dimension innermost.

    ``known``, float64 (_MEMO_SLOTS, 2), memoizes the share that :func:`_missed` finds by packed order.
    """
    inner = _last(shape, len(shape))
    if _minor(order, shape, len(shape)) == inner:
        return
    step, packed = width, _packed(order, len(shape))
    for dim in order[: len(shape)]:
        if dim == inner:
            break
        step *= shape[dim]
    slot = 0
    while slot < _MEMO_SLOTS - 1 and known[slot, 0] != packed and known[slot, 0] != 0:
        slot += 1
    if known[slot, 0] != packed:
        known[slot, 1] = _missed(order, shape, width, *cache)
        known[slot, 0] = packed
    amounts[_WRITTEN] += elements
    amounts[_MISSED] += elements * known[slot, 1]
    if step >= _PAGE:
        amounts[_PAGED] += elements


@kernel(inline=True)
def _copy(source, target, node, flow, memo, amounts):  # type: ignore[no-untyped-def]
    """Count the loop that copies a result from one order into another."""
    dims, rank = flow.dims[node], flow.rank[node]
    inner, read, written = _last(dims, rank), _minor(source, dims, rank), _minor(target, dims, rank)
    elements, width, known = flow.elements[node], flow.width[node], memo[flow.same_shape[node]]
    _count_strided_writes(target, dims[:rank], elements, width, flow.cache, known, amounts)
    if read != inner and written == inner:
        amounts[_READ] += flow.elements[node]
    amounts[_STRIDED if read != inner or written != inner else _CONTIGUOUS] += flow.elements[node]
    amounts[_LOOPS] += 1


@kernel()
def _propagate(flow, state):  # type: ignore[no-untyped-def]
    """Write the order in which every result is computed, and the order in which consumers read it.

    Of several candidate orders the lexicographically first is taken, so that the result does not depend on the
    numbering of the nodes.
    """
    kind, is_reshape, dims, rank, own = flow.kind, flow.is_reshape, flow.dims, flow.rank, flow.own
    order, seen, known = state.order, state.seen, state.known
    mapped = np.empty(8, np.int64)
    for node in range(len(kind) - 1, -1, -1):
        known[node] = True
        if kind[node] == _FIXED or kind[node] == _REDUCE:
            order[node] = own[node]
        elif state.result_set[node]:
            order[node] = state.result_order[node]
        else:
            known[node], best, is_set = False, 0, False
            for at in range(flow.user_first[node], flow.user_first[node + 1]):
                edge = flow.user_edges[at]
                user, found = flow.consumer[edge], False
                if state.operand_set[edge]:
                    mapped[:6], found = state.operand_order[edge], True
                    if not is_set:  # set layouts take precedence over propagated ones
                        is_set, best = True, 0
                elif kind[user] == _FIXED:
                    known[node] = True
                elif not is_set and kind[user] != _REDUCE and known[user]:
                    found = not _same(order[user], own[user], dims[user], rank[user]) and _onto_operand(
                        order[user], flow.origin[edge], is_reshape[user], dims[user], rank[user], dims[node],
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
            order[node], best, size = own[node], 0, flow.elements[node]
            for edge in range(flow.first[node], flow.first[node + 1]):
                x = flow.operand[edge]
                if rank[x] == 0 or flow.elements[x] < size or _same(seen[x], own[x], dims[x], rank[x]):
                    continue
                if _onto_result(
                    seen[x], flow.origin[edge], is_reshape[node], dims[node], rank[node], dims[x], rank[x], mapped
                ) and (best == 0 or _packed(mapped, rank[node]) < best):
                    order[node], best, size = mapped[:6], _packed(mapped, rank[node]), flow.elements[x]
        seen[node] = state.result_order[node] if state.result_set[node] else order[node]


@kernel(inline=True)
def _loop(root, flow, state, stamp, stack, mark):  # type: ignore[no-untyped-def]
    """Elementwise and transcendental operations per element of one loop, and whether an operand is read at strides."""
    dims, rank, elements, operand, origin = flow.dims, flow.rank, flow.elements, flow.operand, flow.origin
    stack[0, 0], stack[0, 1] = root, _minor(state.order[root], dims[root], rank[root])
    count, arithmetic, transcendental, strided = 1, 0, 0, False
    while count > 0:
        count -= 1
        node, along = stack[count, 0], stack[count, 1]
        if stamp[node, along + 1] == mark:
            continue
        stamp[node, along + 1] = mark
        if node != root and state.stored[node]:
            if rank[node] > 0 and elements[node] >= elements[root] * _MIN_SHARE and not flow.constant[node]:
                minor = _minor(state.seen[node], dims[node], rank[node])
                strided = strided or (minor >= 0 and minor != along)
            continue
        arithmetic += flow.work[node] >= _ELEMENTARY
        transcendental += flow.work[node] >= _FUNCTION
        for edge in range(flow.first[node], flow.first[node + 1]):
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
    rank, own, number = flow.rank, flow.own, flow.number
    for node in range(len(number)):
        if number[node] >= 0:
            row = rows[codes[number[node]]]
            state.result_set[node] = _complete(row[:6], own[node, : rank[node]], state.result_order[node])
    for edge in range(len(flow.operand)):
        if flow.expects[edge, 0] or flow.expects[edge, 1]:
            row, x = rows[codes[number[flow.consumer[edge]]]], flow.operand[edge]
            order, into = own[x, : rank[x]], state.operand_order[edge]
            found = flow.expects[edge, 1] and _complete(row[12:], order, into)
            state.operand_set[edge] = found or (flow.expects[edge, 0] and _complete(row[6:12], order, into))
    for node in range(len(number)):
        first, last = flow.user_first[node], flow.user_first[node + 1]
        stored = flow.kind[node] != _FLEXIBLE or state.result_set[node] or first == last
        stored = stored or (last - first > 1 and flow.work[node] == _FUNCTION)
        for at in range(first, last):
            edge = flow.user_edges[at]
            stored = stored or state.operand_set[edge] or flow.kind[flow.consumer[edge]] in (_FIXED, _SLIDING)
        state.stored[node] = stored


@kernel()
def _count(codes, rows, flow, state, out):  # type: ignore[no-untyped-def]
    """Count the loops of configurations, codes uint32 (b, nodes), rows int64 (rows, 18); out float64 (b, N_AMOUNTS)."""
    kind, dims, rank, own, elements = flow.kind, flow.dims, flow.rank, flow.own, flow.elements
    first, operand, origin, is_reshape = flow.first, flow.operand, flow.origin, flow.is_reshape
    order, seen, stored = state.order, state.seen, state.stored
    memo, mapped, mark = np.zeros((len(kind), _MEMO_SLOTS, 2)), np.empty(8, np.int64), 0
    stamp, stack = np.full((len(kind), 7), -1, np.int64), np.empty((_STACK_SIZE, 2), np.int64)
    for config in range(len(codes)):
        amounts = out[config]
        _read_config(codes[config], rows, flow, state)
        _propagate(flow, state)
        for node in range(len(kind)):
            if rank[node] == 0 or first[node] == first[node + 1]:
                continue
            edge, x = first[node], operand[first[node]]
            largest = max(elements[node], elements[x])
            if largest < _MIN_ELEMENTS or (kind[node] == _FLEXIBLE and not stored[node]):
                continue
            if kind[node] == _SLIDING:
                if not _same(order[node], own[node], dims[node], rank[node]):
                    amounts[_POOLED] += largest * flow.window[node]
            elif kind[node] == _FLEXIBLE:
                if flow.moves[node] and stored[x]:  # free where operand and result have the same order in memory
                    free = _onto_operand(
                        order[node], origin[edge], is_reshape[node], dims[node], rank[node], dims[x], rank[x], mapped
                    )
                    free = free and _same(mapped, seen[x], dims[x], rank[x])
                    if not free and is_reshape[node] and _same(seen[x], own[x], dims[x], rank[x]):
                        free = _same(order[node], own[node], dims[node], rank[node])
                    if free:
                        continue
                mark += 1
                arithmetic, transcendental, strided = _loop(node, flow, state, stamp, stack, mark)
                amounts[_LOOPS] += 1
                amounts[_STRIDED if strided else _CONTIGUOUS] += elements[node]
                if strided:
                    amounts[_ARITHMETIC] += elements[node] * arithmetic
                    amounts[_TRANSCENDENTAL] += elements[node] * transcendental
                    if _minor(order[node], dims[node], rank[node]) == _last(dims[node], rank[node]):
                        amounts[_READ] += elements[node]
                    shape, known = dims[node, : rank[node]], memo[flow.same_shape[node]]
                    _count_strided_writes(
                        order[node], shape, elements[node], flow.width[node], flow.cache, known, amounts
                    )
            else:
                if kind[node] == _REDUCE:
                    for x in operand[first[node] : first[node + 1]]:
                        strided = _minor(seen[x], dims[x], rank[x]) != _last(dims[x], rank[x])
                        if strided and elements[x] >= _MIN_ELEMENTS:
                            amounts[_REDUCED] += elements[x]
                if state.result_set[node] and not _same(own[node], state.result_order[node], dims[node], rank[node]):
                    _copy(own[node], state.result_order[node], node, flow, memo, amounts)
        for edge in range(len(operand)):
            x, user = operand[edge], flow.consumer[edge]
            if rank[x] == 0 or elements[x] < _MIN_ELEMENTS:
                continue
            source, is_set = seen[x], state.operand_set[edge]
            if is_set:
                if not _same(source, state.operand_order[edge], dims[x], rank[x]):
                    _copy(source, state.operand_order[edge], x, flow, memo, amounts)
                source = state.operand_order[edge]
            if kind[user] == _FIXED and not _same(source, own[x], dims[x], rank[x]):
                _copy(source, own[x], x, flow, memo, amounts)
            elif is_set and is_reshape[user]:
                if not _onto_operand(order[user], origin[edge], True, dims[user], rank[user], dims[x], rank[x], mapped):
                    mapped[:6] = own[x]
                if not _same(source, mapped, dims[x], rank[x]):
                    _copy(source, mapped, x, flow, memo, amounts)


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
        counts = hardware.sublanes == 1 and len(program) <= MAX_NODES
        self._flow = _flow(program, tensors, nodes, hardware) if counts else None
        unset = np.full((1, len(LAYOUT_CONFIG)), -1, np.int64)
        whole = self.amounts(np.zeros((1, len(nodes.ids)), np.uint32), unset)[0]
        self._scale = np.full(N_AMOUNTS, max(whole[_CONTIGUOUS] + whole[_STRIDED], 1.0))
        self._scale[_LOOPS] = max(whole[_LOOPS], 1.0)

    def amounts(self, codes: NDArray[np.unsignedinteger[Any]], rows: IntArray) -> FloatArray:
        """Amounts, float64 (b, N_AMOUNTS), of coded configurations, uint32 (b, nodes); rows are int64 (rows, 18)."""
        out = np.zeros((len(codes), N_AMOUNTS))
        if self._flow is not None:
            n, m = len(self._flow.kind), len(self._flow.operand)
            orders, flags = np.empty((3, n, MAX_RANK), np.int64), np.zeros((3, n), np.bool_)
            operand_set, operand_order = np.zeros(m, np.bool_), np.empty((m, MAX_RANK), np.int64)
            state = _State(orders[0], orders[1], orders[2], flags[0], flags[1], flags[2], operand_set, operand_order)
            _count(codes, rows, self._flow, state, out)
        return out

    def write(self, codes: NDArray[np.unsignedinteger[Any]], rows: IntArray, out: Float32Array) -> None:
        """Write the block's columns, float32 (b, len(BLOCK)); ``codes`` and ``rows`` as for :meth:`amounts`."""
        found = self.amounts(codes, rows)
        out[:, :N_AMOUNTS] = np.log2(1.0 + found)
        out[:, N_AMOUNTS:] = found / self._scale
