"""Operations and the tensors between them, as arrays: which operations take any layout, and what becomes of dimensions.

Heavy operations compute in the graph's own layouts.  Elementwise operations, broadcasts, transposes, reshapes and
pooling take whatever layout they are given, and hand it on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.graph import Program
from features.hlo import MAX_RANK, OPCODE_ID
from features.layout.metagraph import operand_origins
from features.layout.nodes import ConfigurableNodes
from features.program import CLASS_NAMES, CLASS_OF
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
