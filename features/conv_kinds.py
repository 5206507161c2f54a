"""What a convolution computes: a layer's output, or the gradient of its input or of its kernel.

The three share an opcode but not their shapes: their outputs are activations, activations again and weights, and what
padding to register tiles costs them differs accordingly.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.cost import CONV_NUMBERS
from features.graph import Program
from features.hlo import OPCODE_ID
from features.tensors import Tensors, slots

IntArray = NDArray[np.int64]

#: Kinds of heavy operations, with what they are called in a sentence.
KINDS: Final = {
    "forward": "convolutions of a forward pass",
    "input_gradient": "convolutions that give an input's gradient",
    "weight_gradient": "convolutions that give a kernel's gradient",
    "dot": "dots",
}
_FORWARD, _INPUT, _WEIGHT, _DOT = range(len(KINDS))


def conv_kind(program: Program, tensors: Tensors, node: int) -> int:
    """Position of a convolution's kind in :data:`KINDS`.

    The gradient of a kernel sums over examples, so that the leading dimension of its input is the feature, and slides a
    window as large as an image over another.  The gradient of an input runs backwards: over an input stretched by the
    stride, with the window reversed, or with the kernel's feature dimensions the other way round than a forward pass
    has them (input before output when they come last, as in HWIO; output before input when they come first, as in
    OIHW).  A transposed convolution is the gradient of one and counts as such.
    """
    numbers = program.feat[node, CONV_NUMBERS : CONV_NUMBERS + 14].astype(int).tolist()
    spatial = max(int(tensors.rank[node]) - 2, 0)
    shape = tensors.shape(node)
    window = slots(program.feat[node], "window_size")[:spatial]
    images = [extent for dim, extent in enumerate(shape) if dim not in numbers[12:14]]
    if numbers[1] < numbers[0] and np.prod(window) >= np.prod(images):
        return _WEIGHT
    stretched = (slots(program.feat[node], "window_base_dilation")[:spatial] > 1).any()
    reversed_ = (slots(program.feat[node], "window_window_reversal")[:spatial] > 0).any()
    features_last = spatial > 0 and min(numbers[8 : 8 + spatial]) < min(numbers[6:8])
    swapped = (numbers[6] < numbers[7]) != features_last
    return _INPUT if stretched or reversed_ or swapped else _FORWARD


def node_kinds(program: Program, tensors: Tensors, ids: IntArray) -> IntArray:
    """Kind of every node, int64 (nodes,): a position in :data:`KINDS`, or their number for other operations.

    Parameters
    ----------
    program : Program
    tensors : Tensors
    ids : int64 (nodes,)
    """
    kinds = np.full(len(ids), len(KINDS), np.int64)
    for place, node in enumerate(ids.tolist()):
        if program.opcode[node] == OPCODE_ID["dot"]:
            kinds[place] = _DOT
        elif program.opcode[node] == OPCODE_ID["convolution"]:
            kinds[place] = conv_kind(program, tensors, node)
    return kinds
