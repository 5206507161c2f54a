"""Called computations: which operand of a fusion or call stands behind a parameter of its body.

TpuGraphs puts the nodes of a called computation before its caller and links the caller to the computation's root; a
parameter of the body has no edge to the operand that the caller hands in.  Where type and shape leave one choice, it is
told here.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.graph import Program
from features.hlo import FEAT_ID, OPCODE_ID
from features.tensors import Tensors

IntArray = NDArray[np.int64]

_CALLS: Final = (OPCODE_ID["fusion"], OPCODE_ID["call"])
_PARAMETER: Final = OPCODE_ID["parameter"]
_ROOT: Final = FEAT_ID["is_root"]


def body_roots(program: Program, node: int) -> IntArray:
    """Operands of a fusion or call that are the root of its body; none for another node."""
    operands = program.operands.of(node)
    if program.opcode[node] not in _CALLS:
        return operands[:0].astype(np.int64)
    return np.asarray(operands[program.feat[operands, _ROOT] > 0], np.int64)


def handed_in(program: Program, tensors: Tensors) -> dict[int, int]:
    """Operand of the caller that stands behind a parameter of a called computation.

    Parameters
    ----------
    program : Program
    tensors : Tensors

    Returns
    -------
    dict of int to int
        Parameter node to operand node, where exactly one parameter of the body and one operand of its only caller have
        this element type and shape.
    """
    links: dict[int, int] = {}
    claimed: set[int] = set()
    for caller in np.flatnonzero(np.isin(program.opcode, _CALLS)).tolist():  # callees come before their callers
        roots = body_roots(program, caller).tolist()
        body = _behind(program, roots) - claimed
        claimed |= body
        if any(len(program.users.of(root)) > 1 for root in roots):
            continue
        inside = _by_kind(tensors, [node for node in body if program.opcode[node] == _PARAMETER])
        outside = _by_kind(tensors, [int(node) for node in program.operands.of(caller) if node not in roots])
        for kind, parameters in inside.items():
            if len(parameters) == len(outside[kind]) == 1:
                links[parameters[0]] = outside[kind][0]
    return links


def _behind(program: Program, roots: list[int]) -> set[int]:
    """The roots and all nodes that they depend on."""
    found, stack = set(roots), list(roots)
    while stack:
        for operand in program.operands.of(stack.pop()).tolist():
            if operand not in found:
                found.add(operand)
                stack.append(operand)
    return found


def _by_kind(tensors: Tensors, nodes: list[int]) -> defaultdict[tuple[int, ...], list[int]]:
    kinds: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
    for node in nodes:
        kinds[int(tensors.element_type[node]), *tensors.shape(node)].append(node)
    return kinds
