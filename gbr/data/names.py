"""How nodes and tensors are called where people read of them: ``convolution.4``, ``f32[8,128]``, ``{1,0}``.

Graph files carry no names; a node is called by its opcode and its number in the file.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from features.hlo import ELEMENT_TYPES, OPCODES
from features.tensors import Tensors


def node_names(opcode: NDArray[np.uint8]) -> list[str]:
    """Name of every node, ``<opcode>.<number>``."""
    return [f"{OPCODES[each]}.{number}" for number, each in enumerate(opcode.tolist())]


def element_type(tensors: Tensors, node: int) -> str:
    """Element type of a node's output, as HLO has it."""
    return ELEMENT_TYPES[int(tensors.element_type[node])]


def shape_text(tensors: Tensors, node: int) -> str:
    """Element type and extents of a node's output, as HLO writes them."""
    return f"{element_type(tensors, node)}[{','.join(map(str, tensors.shape(node)))}]"


def layout_text(order: Iterable[int]) -> str:
    """Write a minor-to-major order as HLO does."""
    return "{" + ",".join(str(int(dim)) for dim in order) + "}"
