"""The meta-graph of configurable nodes: which of them feed which, with nothing configurable in between.

An edge leads from a configurable node's output to one operand of another, along a path of operations without a layout
of their own; it carries which dimension of the producer each dimension of the operand comes from, through transposes,
broadcasts, reductions and reshapes as far as that can be said.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features._numba import kernel
from features.graph import Program
from features.hlo import MAX_RANK, OPCODE_ID
from features.layout.nodes import NODE_CLASSES, ConfigurableNodes
from features.program import CLASS_OF, CLASSES
from features.tensors import Tensors, slots

IntArray = NDArray[np.int64]

#: What an operation does to dimensions on the way from its result to an operand.
_STOP, _SAME, _TRANSPOSE, _BROADCAST, _RESHAPE, _REDUCE = range(6)

#: A walk ends after this many operations: residual networks join everything with everything.
MAX_WALK: Final = 256
_MAX_EDGES: Final = 16

_STOPPED: Final = ("source", "control", "collective", "convolution", "dot")


def _steps() -> NDArray[np.int64]:
    table = np.full(256, _SAME, np.int64)
    for number, name in enumerate(CLASSES):
        if name in _STOPPED:
            table[number == CLASS_OF] = _STOP
    for opcode, step in (
        ("transpose", _TRANSPOSE),
        ("broadcast", _BROADCAST),
        ("reshape", _RESHAPE),
        ("bitcast", _RESHAPE),
        ("reduce", _REDUCE),
    ):
        table[OPCODE_ID[opcode]] = step
    table[OPCODE_ID["gather"]] = table[OPCODE_ID["scatter"]] = _STOP
    return table


_STEP: Final = _steps()


@kernel()
def _carry(step, out_dims, out_rank, in_dims, in_rank, attribute, carried, result):  # type: ignore[no-untyped-def]
    """Origin of every operand dimension, given ``carried``: per result dimension, the consumer's dimension or -1."""
    result[:] = -1
    if step == 2:
        for dim in range(out_rank):
            if 0 <= attribute[dim] < in_rank:
                result[attribute[dim]] = carried[dim]
    elif step == 3:
        for dim in range(in_rank):
            if 0 <= attribute[dim] < out_rank and out_dims[attribute[dim]] == in_dims[dim]:
                result[dim] = carried[attribute[dim]]
    elif step == 5 and in_rank > out_rank:
        place = 0
        for dim in range(in_rank):
            reduced = False
            for slot in range(in_rank - out_rank):
                reduced = reduced or attribute[slot] == dim
            if not reduced and place < out_rank:
                result[dim] = carried[place]
                place += 1
    elif step == 4:
        # Groups of dimensions with equal products; within a group the minor-most dimensions correspond.
        here, there = out_rank - 1, in_rank - 1
        while here >= 0 and there >= 0:
            size_out, size_in = out_dims[here], in_dims[there]
            result[there] = carried[here]
            here -= 1
            there -= 1
            while size_out != size_in and (here >= 0 or there >= 0):
                if size_out < size_in and here >= 0:
                    size_out *= out_dims[here]
                    here -= 1
                elif size_in < size_out and there >= 0:
                    size_in *= in_dims[there]
                    there -= 1
                else:
                    here, there = -1, -1
    elif out_rank == in_rank:
        for dim in range(out_rank):
            result[dim] = carried[dim]


@kernel()
def _walk(  # type: ignore[no-untyped-def]
    indptr, items, step, dims, rank, attribute, number, starts, owner, max_walk, max_edges
):
    n_nodes, n_starts = len(rank), len(starts)
    stamp = np.full(n_nodes, -1, np.int64)
    queue = np.empty(max_walk + 1, np.int64)
    carried = np.empty((max_walk + 1, 6), np.int64)
    edges = np.empty((n_starts * max_edges, 2), np.int64)
    maps = np.empty((n_starts * max_edges, 6), np.int64)
    found = 0
    moved = np.empty(6, np.int64)
    for start in range(n_starts):
        if starts[start] < 0:
            continue
        queue[0] = starts[start]
        stamp[starts[start]] = start
        for dim in range(6):
            carried[0, dim] = dim if dim < rank[starts[start]] else -1
        head, tail, of_start = 0, 1, 0
        while head < tail and of_start < max_edges:
            node = queue[head]
            if number[node] >= 0 and number[node] != owner[start]:
                edges[found, 0] = number[node]
                edges[found, 1] = start
                maps[found] = carried[head]
                found += 1
                of_start += 1
                head += 1
                continue
            if step[node] != 0:
                for slot in range(indptr[node], indptr[node + 1]):
                    operand = items[slot]
                    if stamp[operand] != start and tail <= max_walk and rank[operand] > 0:
                        stamp[operand] = start
                        _carry(
                            step[node], dims[node], rank[node], dims[operand], rank[operand], attribute[node],
                            carried[head], moved,
                        )  # fmt: skip
                        queue[tail] = operand
                        carried[tail] = moved
                        tail += 1
            head += 1
    return edges[:found], maps[:found]


@dataclass(frozen=True)
class MetaGraph:
    """Edges between configurable nodes.

    Parameters
    ----------
    producer, consumer : int64 (edges,)
        Positions in the list of configurable nodes.
    role : int64 (edges,)
        Operand of the consumer: 1 input, 2 kernel (the places of their layouts in a configuration).
    origin : int64 (edges, 6)
        Per dimension of the producer's output, the operand's dimension it becomes, or -1.
    """

    producer: IntArray
    consumer: IntArray
    role: IntArray
    origin: IntArray

    def __len__(self) -> int:
        return len(self.producer)


def meta_graph(program: Program, tensors: Tensors, operands: IntArray, ids: IntArray) -> MetaGraph:
    """Walk back from every operand of every configurable node to the configurable nodes that feed it.

    Parameters
    ----------
    program : Program
    tensors : Tensors
    operands : int64 (nodes, 2)
        Input and kernel operand of every configurable node, -1 where it has none.
    ids : int64 (nodes,)
        The configurable nodes.
    """
    number = np.full(len(program), -1, np.int64)
    number[ids] = np.arange(len(ids))
    edges, maps = _walk(
        program.operands.indptr,
        program.operands.items,
        _STEP[program.opcode],
        tensors.dims,
        tensors.rank,
        slots(program.feat, "dimensions"),
        number,
        operands.reshape(-1),
        np.repeat(np.arange(len(ids)), 2),
        MAX_WALK,
        _MAX_EDGES,
    )
    return MetaGraph(edges[:, 0], edges[:, 1] // 2, 1 + edges[:, 1] % 2, maps)


@kernel()
def _origins(pairs, step, dims, rank, attribute, out):  # type: ignore[no-untyped-def]
    whole = np.arange(6)
    moved = np.empty(6, np.int64)
    for pair in range(len(pairs)):
        node, operand = pairs[pair]
        carried = np.where(whole < rank[node], whole, -1)
        _carry(step[node], dims[node], rank[node], dims[operand], rank[operand], attribute[node], carried, moved)
        out[pair] = moved


def operand_origins(program: Program, tensors: Tensors, pairs: IntArray) -> IntArray:
    """Per dimension of an operand, the dimension of the result that it becomes, or -1.

    Parameters
    ----------
    program : Program
    tensors : Tensors
    pairs : int64 (pairs, 2)
        A node and one of its operands.

    Returns
    -------
    int64 (pairs, 6)
    """
    out = np.full((len(pairs), MAX_RANK), -1, np.int64)
    attribute = slots(program.feat, "dimensions")
    _origins(pairs, _STEP[program.opcode], tensors.dims, tensors.rank, attribute, out)
    return out


def reshape_origin(dims: IntArray, rank: IntArray) -> IntArray:
    """Per dimension of a reshape's output, the dimension of its input that it corresponds to, or -1.

    Parameters
    ----------
    dims : int64 (reshapes, 3, 6)
        Extents of output and input (tensor roles 0 and 1).
    rank : int64 (reshapes, 3)

    Returns
    -------
    int64 (reshapes, 6)
    """
    out = np.full((len(dims), MAX_RANK), -1, np.int64)
    whole = np.arange(MAX_RANK)
    back = np.empty(MAX_RANK, np.int64)
    for row in range(len(dims)):
        size = rank[row, 0]
        carried = np.where(whole < size, whole, -1)
        _carry(_RESHAPE, dims[row, 0], size, dims[row, 1], rank[row, 1], whole, carried, back)
        for dim in np.flatnonzero(back >= 0):
            out[row, back[dim]] = dim
    return out


#: Consumers' classes, the two sides of one reshape, and everything.
GROUPS: Final = (*NODE_CLASSES, "inside", "all")
INSIDE: Final = GROUPS.index("inside")


@dataclass(frozen=True)
class Links:
    """Pairs of tensors that would like the same layout.

    Parameters
    ----------
    nodes : int64 (links, 2)
        Positions of producer and consumer among the configurable nodes.
    roles : int64 (links, 2)
        Their tensors: 0 output, 1 input, 2 kernel.
    origin : int64 (links, 6)
        Per dimension of the producer's tensor, the consumer's, or -1.
    group : int64 (links,)
        Position in :data:`GROUPS`, never ``all``.
    nbytes : float64 (links,)
        Bytes of the consumer's tensor.
    """

    nodes: IntArray
    roles: IntArray
    origin: IntArray
    group: IntArray
    nbytes: NDArray[np.float64]


def links(program: Program, tensors: Tensors, nodes: ConfigurableNodes) -> Links:
    """All links of a program: the edges of its meta-graph, and the two sides of every configurable reshape."""
    graph = meta_graph(program, tensors, nodes.operands, nodes.ids)
    inside = np.flatnonzero((nodes.classes == NODE_CLASSES.index("reshape")) & (nodes.rank[:, 1] > 0))
    across = reshape_origin(nodes.dims[inside], nodes.rank[inside])
    pairs = np.concatenate([np.stack([graph.producer, graph.consumer], axis=1), np.stack([inside, inside], axis=1)])
    roles = np.zeros((len(pairs), 2), np.int64)
    roles[: len(graph), 1] = graph.role
    roles[len(graph) :, 1] = 1
    group = nodes.classes[pairs[:, 1]].copy()
    group[len(graph) :] = INSIDE
    origin = np.concatenate([graph.origin, across]).reshape(-1, MAX_RANK)
    return Links(pairs, roles, origin, group, nodes.nbytes[pairs[:, 1], roles[:, 1]])
