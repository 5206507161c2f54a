"""Floating-point operations of a node, and which node of a kernel weighs most."""

from __future__ import annotations

from typing import Final

import numpy as np

from features.calls import body_roots
from features.dots import ConvDims, DotDims, conv_dims, dot_dims
from features.graph import Program
from features.hlo import FEAT_ID, OPCODE_ID
from features.tensors import Tensors, slots

CONV_NUMBERS: Final = FEAT_ID["convolution_dim_numbers_input_batch_dim"]
_HEAVY: Final = ("convolution", "dot", "reduce-window", "select-and-scatter", "reduce")


def dot_roles(program: Program, tensors: Tensors, node: int) -> DotDims | None:
    """Dimension roles of a dot node; None where its operands do not fit."""
    operands = program.operands.of(node)
    if len(operands) == 1:  # a dot of a tensor with itself is one edge
        operands = np.repeat(operands, 2)
    if len(operands) != 2:
        return None
    return dot_dims(tensors.shape(operands[0]), tensors.shape(operands[1]), tensors.shape(node))


def conv_roles(program: Program, tensors: Tensors, node: int) -> ConvDims | None:
    """Dimension roles of a convolution node; None where its operands do not fit."""
    operands = program.operands.of(node)
    if len(operands) == 1:
        operands = np.repeat(operands, 2)
    if len(operands) != 2:
        return None
    numbers = program.feat[node, CONV_NUMBERS : CONV_NUMBERS + 14].astype(int).tolist()
    window = slots(program.feat[node], "window_size").tolist()
    return conv_dims(tensors.shape(operands[0]), tensors.shape(operands[1]), tensors.shape(node), numbers, window)


def node_flops(program: Program, tensors: Tensors, node: int) -> float:
    """Floating-point operations of one node, a multiply-add counted as two."""
    opcode, out = int(program.opcode[node]), float(tensors.elements[node])
    operands = program.operands.of(node)
    if opcode == OPCODE_ID["dot"]:
        roles = dot_roles(program, tensors, node)
        if roles is None:
            return 2.0 * out
        left = tensors.shape(operands[-1] if roles.swapped else operands[0])
        return 2.0 * out * float(np.prod([left[dim] for dim in roles.left_k], dtype=np.float64))
    if opcode == OPCODE_ID["convolution"]:
        dims = conv_roles(program, tensors, node)
        if dims is None:
            return 2.0 * out
        kernel = tensors.shape(operands[0] if dims.swapped else operands[-1])
        return 2.0 * out * float(np.prod(kernel, dtype=np.float64)) / max(kernel[dims.kernel_output], 1)
    if opcode in (OPCODE_ID["reduce-window"], OPCODE_ID["select-and-scatter"]):
        window = slots(program.feat[node], "window_size")
        return out * float(np.prod(np.maximum(window, 1), dtype=np.float64))
    if opcode == OPCODE_ID["reduce"]:
        return float(max((tensors.elements[operand] for operand in operands), default=out))
    return out


def anchor_of(program: Program, tensors: Tensors) -> int:
    """The node that the tiles are for: the heaviest dot, convolution, window or reduction, else the result."""
    heavy = np.flatnonzero(np.isin(program.opcode, [OPCODE_ID[name] for name in _HEAVY]))
    if len(heavy):
        return int(max(heavy, key=lambda node: (node_flops(program, tensors, int(node)), node)))
    return result_of(program, tensors)


def result_of(program: Program, tensors: Tensors) -> int:
    """The node whose output the kernel writes; of a tuple, its largest member, also where a fusion or call makes it."""
    node = len(program) - 1
    flagged = np.flatnonzero(program.feat[:, FEAT_ID["is_root"]] > 0)
    if len(flagged):
        node = int(flagged[-1])
    while tensors.elements[node] == 0 and len(program.operands.of(node)):
        roots = body_roots(program, node)
        node = int(max(roots if len(roots) else program.operands.of(node), key=lambda each: tensors.elements[each]))
    return node
