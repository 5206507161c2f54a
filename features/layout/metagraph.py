"""The meta-graph of configurable nodes: which of them feed which, with nothing configurable in between.

An edge leads from a configurable node's output to one operand of another, along a path of operations without a layout
of their own.  It records which dimension of the producer each dimension of the operand comes from, through transposes,
broadcasts, reductions and reshapes, as far as that is known.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features._numba import kernel
from features.graph import Program
from features.hlo import MAX_RANK, OPCODE_ID
from features.layout.nodes import NODE_CLASSES, ConfigurableNodes
from features.program import CLASS_OF, CLASSES
from features.tensors import Tensors, slots

IntArray = NDArray[np.int64]

#: Groups of links: the class of the consumer, the two sides of one reshape, and all of these.
GROUPS: Final = (*NODE_CLASSES, "inside", "all")
INSIDE: Final = GROUPS.index("inside")

#: A walk ends after this many operations: residual networks join everything with everything.
MAX_WALK: Final = 256
_MAX_EDGES: Final = 16

#: What an operation does to dimensions on the way from its result to an operand.
_STOP, _SAME, _TRANSPOSE, _BROADCAST, _RESHAPE, _REDUCE = range(6)
_STOPPED: Final = ("source", "control", "collective", "convolution", "dot")


_STEP: Final = np.full(256, _SAME, np.int64)
_STEP[np.isin(CLASS_OF, [number for number, name in enumerate(CLASSES) if name in _STOPPED])] = _STOP
for _name, _step in {
    "gather": _STOP, "scatter": _STOP, "transpose": _TRANSPOSE, "broadcast": _BROADCAST, "reshape": _RESHAPE,
    "bitcast": _RESHAPE, "reduce": _REDUCE,
}.items():  # fmt: skip
    _STEP[OPCODE_ID[_name]] = _step


class _Graph(NamedTuple):
    """Operands as CSR, and of every node its step, extents, rank and dimension attribute."""

    indptr: IntArray
    items: IntArray
    step: IntArray
    dims: IntArray
    rank: IntArray
    attribute: IntArray


def _graph(program: Program, tensors: Tensors) -> _Graph:
    operands, attribute = program.operands, slots(program.feat, "dimensions")
    return _Graph(operands.indptr, operands.items, _STEP[program.opcode], tensors.dims, tensors.rank, attribute)


@kernel()
def _carry(graph, node, operand, carried, result):  # type: ignore[no-untyped-def]
    """Write the consumer's dimension, or -1, of every operand dimension, given ``carried``: that of the result's."""
    result[:] = -1
    step, attribute = graph.step[node], graph.attribute[node]
    out_dims, out_rank, in_dims, in_rank = graph.dims[node], graph.rank[node], graph.dims[operand], graph.rank[operand]
    if step == _TRANSPOSE:
        for dim in range(out_rank):
            if 0 <= attribute[dim] < in_rank:
                result[attribute[dim]] = carried[dim]
    elif step == _BROADCAST:
        for dim in range(in_rank):
            if 0 <= attribute[dim] < out_rank and out_dims[attribute[dim]] == in_dims[dim]:
                result[dim] = carried[attribute[dim]]
    elif step == _REDUCE and in_rank > out_rank:
        kept = 0
        for dim in range(in_rank):
            reduced = False
            for slot in range(in_rank - out_rank):
                reduced = reduced or attribute[slot] == dim
            if not reduced and kept < out_rank:
                result[dim] = carried[kept]
                kept += 1
    elif step == _RESHAPE:
        # Groups of dimensions with equal products; within a group the minor-most dimensions correspond.
        i, j = out_rank - 1, in_rank - 1
        while i >= 0 and j >= 0:
            size_out, size_in = out_dims[i], in_dims[j]
            result[j] = carried[i]
            i -= 1
            j -= 1
            while size_out != size_in and (i >= 0 or j >= 0):
                if size_out < size_in and i >= 0:
                    size_out *= out_dims[i]
                    i -= 1
                elif size_in < size_out and j >= 0:
                    size_in *= in_dims[j]
                    j -= 1
                else:
                    i, j = -1, -1
    elif out_rank == in_rank:
        for dim in range(out_rank):
            result[dim] = carried[dim]


@kernel()
def _walk(graph, number, starts):  # type: ignore[no-untyped-def]
    """Edges, int64 (edges, 2), from a configurable node to a start, and their dimension maps, int64 (edges, 6).

    Starts are the operands of the configurable nodes, two per node; ``number`` is a node's position among them or -1.
    """
    n_starts = len(starts)
    stamp = np.full(len(graph.rank), -1, np.int64)
    queue, carried = np.empty(MAX_WALK + 1, np.int64), np.empty((MAX_WALK + 1, 6), np.int64)
    edges, maps = np.empty((n_starts * _MAX_EDGES, 2), np.int64), np.empty((n_starts * _MAX_EDGES, 6), np.int64)
    result = np.empty(6, np.int64)
    found = 0
    for start in range(n_starts):
        if starts[start] < 0:
            continue
        queue[0] = starts[start]
        stamp[starts[start]] = start
        for dim in range(6):
            carried[0, dim] = dim if dim < graph.rank[starts[start]] else -1
        head, tail, limit = 0, 1, found + _MAX_EDGES
        while head < tail and found < limit:
            node = queue[head]
            if number[node] >= 0 and number[node] != start // 2:
                edges[found, 0], edges[found, 1] = number[node], start
                maps[found] = carried[head]
                found += 1
            elif graph.step[node] != _STOP:
                for slot in range(graph.indptr[node], graph.indptr[node + 1]):
                    operand = graph.items[slot]
                    if stamp[operand] != start and tail <= MAX_WALK and graph.rank[operand] > 0:
                        stamp[operand] = start
                        _carry(graph, node, operand, carried[head], result)
                        queue[tail] = operand
                        carried[tail] = result
                        tail += 1
            head += 1
    return edges[:found], maps[:found]


@kernel()
def _origins(pairs, graph, out):  # type: ignore[no-untyped-def]
    all_dims = np.arange(6)
    for pair in range(len(pairs)):
        node, operand = pairs[pair]
        carried = np.where(all_dims < graph.rank[node], all_dims, -1)
        _carry(graph, node, operand, carried, out[pair])


def operand_origins(program: Program, tensors: Tensors, pairs: IntArray) -> IntArray:
    """Per dimension of an operand, the dimension of the result that it becomes, or -1, int64 (pairs, 6).

    ``pairs`` are int64 (pairs, 2), a node and one of its operands.
    """
    out = np.empty((len(pairs), MAX_RANK), np.int64)
    _origins(pairs, _graph(program, tensors), out)
    return out


class Links(NamedTuple):
    """Pairs of tensors whose layouts should agree, sorted by group, bytes and share."""

    nodes: IntArray  # (links, 2), positions of producer and consumer among the configurable nodes
    roles: IntArray  # (links, 2), their tensors: 0 output, 1 input, 2 kernel
    origin: IntArray  # (links, 6), per dimension of the producer's tensor, the consumer's, or -1
    group: IntArray  # (links,), position in GROUPS, never "all"
    nbytes: NDArray[np.float64]  # (links,), of the consumer's tensor
    share: NDArray[np.float64]  # (links,), 1 over the number of edges that feed the consumer's tensor


def links(program: Program, tensors: Tensors, nodes: ConfigurableNodes) -> Links:
    """All links of a program: the edges of its meta-graph, and the two sides of every configurable reshape.

    Edges are found by walking back from every operand of a configurable node to the configurable nodes that feed it.
    """
    number = np.full(len(program), -1, np.int64)
    number[nodes.ids] = np.arange(len(nodes.ids))
    graph = _graph(program, tensors)
    edges, maps = _walk(graph, number, nodes.operands.reshape(-1))
    n_edges = len(edges)

    reshapes = np.flatnonzero((nodes.classes == NODE_CLASSES.index("reshape")) & (nodes.rank[:, 1] > 0))
    back = np.empty((len(reshapes), MAX_RANK), np.int64)
    sides = np.stack([nodes.ids[reshapes], nodes.operands[reshapes, 0]], axis=1)
    _origins(sides, graph._replace(step=np.full(len(program), _RESHAPE)), back)
    across = np.full_like(back, -1)
    row, dim = np.nonzero(back >= 0)
    across[row, back[row, dim]] = dim

    pairs = np.concatenate([np.stack([edges[:, 0], edges[:, 1] // 2], axis=1), np.stack([reshapes, reshapes], axis=1)])
    roles = np.zeros((len(pairs), 2), np.int64)
    roles[:, 1] = np.concatenate([1 + edges[:, 1] % 2, np.ones(len(reshapes), np.int64)])
    group = nodes.classes[pairs[:, 1]].copy()
    group[n_edges:] = INSIDE
    feeding = np.zeros((len(nodes.ids), 3), np.int64)
    np.add.at(feeding, (pairs[:n_edges, 1], roles[:n_edges, 1]), 1)
    share = 1.0 / np.maximum(feeding[pairs[:, 1], roles[:, 1]], 1)
    nbytes = nodes.nbytes[pairs[:, 1], roles[:, 1]]
    order = np.lexsort((share, nbytes, group))
    origin = np.concatenate([maps, across])[order]
    return Links(pairs[order], roles[order], origin, group[order], nbytes[order], share[order])
