"""Values of a layout of one configurable node: whether it is set, what it moves, and how well it fills register tiles.

They depend on the (node, row) pair only.  A configuration's features are their sums over nodes, so they are computed
once per distinct row instead of once per configuration.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features._numba import kernel
from features.graph import Program
from features.hardware import CPU, Hardware
from features.hlo import MAX_RANK, OPCODE_ID
from features.layout.rows import picked
from features.operations import CONV_NUMBERS, conv_roles, dot_roles, node_flops
from features.tensors import Tensors

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

#: Classes of configurable nodes; TpuGraphs has no others.
NODE_CLASSES: Final = ("convolution", "dot", "reshape")
#: Tensors of a configurable node, in the order of its row's slots.
TENSOR_ROLES: Final = ("output", "input", "kernel")

#: Values of the layouts of tensors: name, unit, description.
VALUES: Final = (
    ("set", "share", "Share of the {} that have their layout set"),
    ("kept", "share", "Share of the {} that keep the layout that the graph gives them"),
    ("row_major", "share", "Share of the {} that are row-major"),
    ("minor_kept", "share", "Share of the {} that keep their minor-most dimension"),
    ("minor", "log2", "Mean extent of the minor-most dimension of the {}"),
    ("second", "log2", "Mean extent of the second minor dimension of the {}"),
    (
        "lanes",
        "share",
        "Mean share of a register's lanes that the minor-most dimension of the {} fills",
    ),
    (
        "sublanes",
        "share",
        "Mean share of its sublanes that the second minor dimension of the {} fills",
    ),
    ("padding", "log2", "Mean volume in whole registers over volume of the {}"),
    ("jump", "log2", "Mean stride, in the graph's layout, of the dimension that became minor-most of the {}"),
)
#: Bins of extents.
BIN_EDGES: Final = (2, 8, 32, 128, 512)
RANGES: Final = (
    f"below {BIN_EDGES[0]}",
    *(f"from {low} to {high - 1}" for low, high in pairwise(BIN_EDGES)),
    f"{BIN_EDGES[-1]} or more",
)
N_BINS: Final = len(RANGES)
N_BUCKETS: Final = 32


class ConfigurableNodes(NamedTuple):
    """The configurable nodes of a program and the tensors whose layouts they fix."""

    ids: IntArray  # (nodes,)
    classes: IntArray  # (nodes,), position in NODE_CLASSES; another opcode counts as the last
    operands: IntArray  # (nodes, 2), input and kernel operand, -1 if missing
    dims: IntArray  # (nodes, 3, 6), by tensor role
    rank: IntArray  # (nodes, 3), -1 if there is no such tensor
    own: IntArray  # (nodes, 3, 6), the graph's minor-to-major order
    strides: IntArray  # (nodes, 3, 6), in elements, of each dimension in the graph's layout
    nbytes: FloatArray  # (nodes, 3)
    flops: FloatArray  # (nodes,)
    kind: NDArray[np.uint64]  # (nodes,), hash of class, ranks and dimension numbers: equal where only extents differ


def configurable_nodes(program: Program, tensors: Tensors, ids: IntArray) -> ConfigurableNodes:
    """Collect the tensors of the configurable nodes ``ids``, int64 (nodes,)."""
    n_nodes = len(ids)
    classes = np.full(n_nodes, len(NODE_CLASSES) - 1, np.int64)
    operands = np.full((n_nodes, 2), -1, np.int64)
    dims = np.ones((n_nodes, 3, MAX_RANK), np.int64)
    rank = np.full((n_nodes, 3), -1, np.int64)
    own = np.zeros((n_nodes, 3, MAX_RANK), np.int64)
    strides = np.zeros((n_nodes, 3, MAX_RANK), np.int64)
    nbytes, flops = np.zeros((n_nodes, 3)), np.zeros(n_nodes)
    kind = np.zeros(n_nodes, np.uint64)
    # Networks repeat their layers: nodes with equal features and equal operands share the values of the first of them.
    first = np.arange(n_nodes)
    seen: dict[tuple[int, bytes, bytes, bool], int] = {}
    for index, node in enumerate(ids.tolist()):
        found = program.operands.of(node)
        same = len(found) > 0 and bool(found[0] == found[-1])
        key = int(program.opcode[node]), program.feat[node].tobytes(), program.feat[found].tobytes(), same
        first[index] = original = seen.setdefault(key, index)
        if original < index:
            known = program.operands.of(int(ids[original]))
            for slot, each in enumerate(operands[original].tolist()):
                if each >= 0:
                    operands[index, slot] = found[0] if each == known[0] else found[-1]
            continue
        name = next((name for name in NODE_CLASSES if OPCODE_ID[name] == key[0]), NODE_CLASSES[-1])
        classes[index] = NODE_CLASSES.index(name)
        operands[index] = _operand_pair(program, tensors, node, name)
        flops[index] = node_flops(program, tensors, node)
        for role, tensor in enumerate((node, *operands[index].tolist())):
            if tensor < 0:
                continue
            size = int(tensors.rank[tensor])
            rank[index, role] = size
            dims[index, role, :size] = tensors.shape(tensor)
            own[index, role, :size] = tensors.layout(tensor)
            strides[index, role, :size] = tensors.strides(tensor)
            nbytes[index, role] = tensors.nbytes[tensor]
        numbers = slice(CONV_NUMBERS, CONV_NUMBERS + (14 if name == "convolution" else 0))
        kind[index] = _hash([classes[index], *rank[index], *program.feat[node, numbers]])
    nodes = ConfigurableNodes(ids, classes, operands, dims, rank, own, strides, nbytes, flops, kind)
    return picked(nodes, first)._replace(ids=ids, operands=operands)


def _operand_pair(program: Program, tensors: Tensors, node: int, name: str) -> tuple[int, int]:
    found = [int(operand) for operand in program.operands.of(node)]
    if name == "reshape" or not found:
        return (found[0] if found else -1), -1
    dims = (conv_roles if name == "convolution" else dot_roles)(program, tensors, node)
    first, second = found[0], found[-1]
    return (second, first) if dims is not None and dims.swapped else (first, second)


def _hash(numbers: list[int]) -> np.uint64:
    """FNV-1a over small integers: the same on every machine, unlike ``hash``."""
    state = 0xCBF29CE484222325
    for number in numbers:
        state = ((state ^ (int(number) & 0xFF)) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return np.uint64(state)


@kernel()
def _row_values(rows, owner, nodes, tiles, edges):  # type: ignore[no-untyped-def]
    rank, own, dims = nodes.rank, nodes.own, nodes.dims
    n_rows = len(rows)
    values = np.zeros((n_rows, 3, 10))
    minors = np.full((n_rows, 3, 2), -1, np.int64)
    is_set = np.zeros((n_rows, 3), np.bool_)
    bins = np.zeros((n_rows, 2), np.int64)
    buckets = np.zeros(n_rows, np.int64)
    for row in range(n_rows):
        node = owner[row]
        state = nodes.kind[node]
        for slot in range(18):
            state = (state ^ np.uint64(rows[row, slot] + 1)) * np.uint64(0x100000001B3)
        buckets[row] = np.int64((state ^ (state >> np.uint64(32))) % np.uint64(N_BUCKETS))
        for role in range(3):
            size = rank[node, role]
            if size < 0:
                continue
            named = 0
            while named < size and 0 <= rows[row, 6 * role + named] < size:
                named += 1
            kept, row_major = True, True
            for index in range(size):
                dim = rows[row, 6 * role + index] if index < named else -1
                if named == 0:
                    dim = own[node, role, index]
                if dim >= 0:
                    kept = kept and dim == own[node, role, index]
                    row_major = row_major and dim == size - 1 - index
            minor, second = -1, -1
            if size > 0:
                minor = rows[row, 6 * role] if named > 0 else own[node, role, 0]
            if size > 1:
                if named > 1:
                    second = rows[row, 6 * role + 1]
                else:  # the first of the graph's order that is not the minor-most
                    second = own[node, role, 1] if own[node, role, 0] == minor else own[node, role, 0]
            minors[row, role, 0], minors[row, role, 1] = minor, second
            is_set[row, role] = named > 0
            low = dims[node, role, minor] if minor >= 0 else 1
            high = dims[node, role, second] if second >= 0 else 1
            tall, wide = tiles[node, role, 0], tiles[node, role, 1]
            tall, wide = np.ceil(high / tall) * tall, np.ceil(low / wide) * wide
            values[row, role, 0] = 1.0 if named > 0 else 0.0
            values[row, role, 1] = 1.0 if kept else 0.0
            values[row, role, 2] = 1.0 if row_major else 0.0
            values[row, role, 3] = 1.0 if size == 0 or minor == own[node, role, 0] else 0.0
            values[row, role, 4] = np.log2(low)
            values[row, role, 5] = np.log2(high)
            values[row, role, 6] = low / wide
            values[row, role, 7] = high / tall
            values[row, role, 8] = np.log2(wide * tall / (low * high))
            values[row, role, 9] = np.log2(nodes.strides[node, role, minor]) if minor >= 0 else 0.0
            if role == 0:
                for edge in edges:
                    bins[row, 0] += low >= edge
                    bins[row, 1] += high >= edge
    return values, minors, is_set, bins, buckets


class RowValues(NamedTuple):
    """Values of distinct (node, row) pairs."""

    values: FloatArray  # (rows, 3, 10), of VALUES by tensor role; 0 where the node has no such tensor
    minors: IntArray  # (rows, 3, 2), minor-most and second minor dimension in effect, -1 if missing
    is_set: NDArray[np.bool_]  # (rows, 3)
    bins: IntArray  # (rows, 2), of the extents of the output's two minor dimensions
    buckets: IntArray  # (rows,), hash of the node's kind with its row, below N_BUCKETS


def row_values(nodes: ConfigurableNodes, rows: IntArray, owner: IntArray, hardware: Hardware = CPU) -> RowValues:
    """Values of rows, int64 (rows, 18), of the nodes ``owner``, int64 (rows,), padded to the hardware's registers.

    A partial layout is compared in the minor-most dimensions that it names.  Without a named dimension the compiler
    decides, and the graph's own layout is assumed.
    """
    widths, index = np.unique(nodes.nbytes / nodes.dims.prod(axis=2), return_inverse=True)
    tiles = np.array([hardware.register_tile(width) for width in widths], np.float64)[index.reshape(-1, 3)]
    with np.errstate(over="ignore"):  # the hash overflows; without the compiler NumPy would warn
        return RowValues(*_row_values(rows, owner, nodes, tiles, np.array(BIN_EDGES)))
