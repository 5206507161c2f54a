"""Operations: dimension roles of dots and convolutions, floating-point operations, called computations.

Node features carry no dot dimension numbers and edges do not mark the left operand, so both are inferred from the
shapes: the result of a dot is (batch, left free, right free), each in the order of its operand
(https://openxla.org/xla/operation_semantics#dotgeneral).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import permutations
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.graph import Program
from features.hlo import FEAT_ID, OPCODE_ID
from features.tensors import Tensors, slots

IntArray = NDArray[np.int64]
Shape = tuple[int, ...]
Dims = tuple[int, ...]

#: First of the 14 ``convolution_dim_numbers_*`` columns of ``node_feat``: input batch, input feature, 4 input spatial,
#: kernel input, kernel output, 4 kernel spatial, output batch, output feature.
CONV_NUMBERS: Final = FEAT_ID["convolution_dim_numbers_input_batch_dim"]
_ROOT: Final = FEAT_ID["is_root"]
_CALLS: Final = (OPCODE_ID["fusion"], OPCODE_ID["call"])
_HEAVY: Final = [OPCODE_ID[name] for name in ("convolution", "dot", "reduce-window", "select-and-scatter", "reduce")]

#: Kinds of heavy operations, with their descriptions.
KINDS: Final = {
    "forward": "forward convolutions",
    "input_gradient": "convolutions that compute the gradient of an input",
    "weight_gradient": "convolutions that compute the gradient of a kernel",
    "dot": "dots",
}
_FORWARD, _INPUT, _WEIGHT, _DOT = range(len(KINDS))


class DotDims(NamedTuple):
    """Roles of the dimensions of a dot; those of the operands are in the order of the result, or of each other (k)."""

    swapped: bool  # whether the second operand is the left one
    batch: Dims  # batch, m and n are dimensions of the result
    m: Dims
    n: Dims
    left_batch: Dims
    left_k: Dims
    left_m: Dims
    right_batch: Dims
    right_k: Dims
    right_n: Dims


class ConvDims(NamedTuple):
    """Dimension numbers of a convolution."""

    swapped: bool  # whether the first operand is the kernel
    input_batch: int
    input_feature: int
    input_spatial: Dims
    kernel_input: int
    kernel_output: int
    kernel_spatial: Dims
    output_batch: int
    output_feature: int
    output_spatial: Dims


def _operand_shapes(program: Program, tensors: Tensors, node: int) -> list[Shape]:
    """Shapes of the two operands; a tensor multiplied with itself has a single edge."""
    operands = program.operands.of(node)
    return [tensors.shape(operand) for operand in (np.repeat(operands, 2) if len(operands) == 1 else operands)]


def dot_roles(program: Program, tensors: Tensors, node: int) -> DotDims | None:
    """Dimension roles of a dot, or None if no assignment fits the shapes.

    If several assignments fit (equal extents, a matrix times its transpose), prefer the fewest batch dimensions, then
    the contraction of the last dimensions of the left with the first free dimensions of the right operand, then the
    given operand order.
    """
    shapes, result = _operand_shapes(program, tensors, node), tensors.shape(node)
    if len(shapes) != 2:
        return None
    shared = len(shapes[0]) + len(shapes[1]) - len(result)
    for n_batch in range(shared % 2, shared + 1, 2):
        if n_batch == shared > 0 and len(result) > n_batch:  # nothing would be contracted
            continue
        found = [_assign_dot(shapes, result, n_batch, (shared - n_batch) // 2, swapped) for swapped in (False, True)]
        fitting = [dims for dims in found if dims is not None]
        if fitting:
            return max(
                fitting,
                key=lambda dims: (
                    min(dims.left_k, default=6) > max(dims.left_m, default=-1)
                    and max(dims.right_k, default=-1) < min(dims.right_n, default=6)
                ),
            )
    return None


def _assign_dot(shapes: list[Shape], result: Shape, n_batch: int, n_k: int, swapped: bool) -> DotDims | None:
    left, right = reversed(shapes) if swapped else shapes
    end = len(left) - n_k  # of the dimensions of the result that the left operand has
    if end < n_batch or end > len(result):
        return None
    batch, m, n = (tuple(range(len(result)))[part] for part in (slice(n_batch), slice(n_batch, end), slice(end, None)))
    for of_left in _splits(left, result[:n_batch], n_k, result[n_batch:end], prefer_last=True):
        contracted = [left[dim] for dim in of_left[1]]
        for of_right in _splits(right, result[:n_batch], n_k, result[end:], prefer_last=False):
            if [right[dim] for dim in of_right[1]] == contracted:
                return DotDims(swapped, batch, m, n, *of_left, *of_right)
    return None


def _splits(
    shape: Shape, batch: Shape, n_k: int, rest: Shape, *, prefer_last: bool
) -> Iterator[tuple[Dims, Dims, Dims]]:
    """All choices of the batch, the ``n_k`` contracted and the remaining dimensions of an operand."""
    for chosen in permutations(range(len(shape)), len(batch)):
        if tuple(shape[dim] for dim in chosen) == batch:
            others = [dim for dim in range(len(shape)) if dim not in chosen]
            picks = list(permutations(others, n_k))
            for pick in reversed(picks) if prefer_last and n_k == 1 else picks:
                free = tuple(dim for dim in others if dim not in pick)
                if tuple(shape[dim] for dim in free) == rest:
                    yield chosen, pick, free


def conv_roles(program: Program, tensors: Tensors, node: int) -> ConvDims | None:
    """Dimension numbers of a convolution, or None if they do not fit the shapes of its operands."""
    shapes, result = _operand_shapes(program, tensors, node), tensors.shape(node)
    rank, n_spatial = len(result), len(result) - 2
    if not 2 <= rank <= 6 or [len(shape) for shape in shapes] != [rank, rank]:
        return None
    numbers = program.feat[node, CONV_NUMBERS : CONV_NUMBERS + 14].astype(int).tolist()
    window = slots(program.feat[node], "window_size").tolist()
    dims = ConvDims(
        False,
        *(numbers[0], numbers[1], tuple(numbers[2 : 2 + n_spatial])),
        *(numbers[6], numbers[7], tuple(numbers[8 : 8 + n_spatial])),
        *(numbers[12], numbers[13], tuple(dim for dim in range(rank) if dim not in numbers[12:14])),
    )
    of_input = dims.input_batch, dims.input_feature, *dims.input_spatial
    of_kernel = dims.kernel_input, dims.kernel_output, *dims.kernel_spatial
    if not sorted(of_input) == sorted(of_kernel) == list(range(rank)) or len(dims.output_spatial) != n_spatial:
        return None
    for swapped in (False, True):
        image, kernel = reversed(shapes) if swapped else shapes
        if (
            all(kernel[dim] == size for dim, size in zip(dims.kernel_spatial, window, strict=False))
            and kernel[dims.kernel_output] == result[dims.output_feature]
            and image[dims.input_feature] % max(kernel[dims.kernel_input], 1) == 0
        ):
            return dims._replace(swapped=swapped)
    return None


def node_kinds(program: Program, tensors: Tensors, ids: IntArray) -> IntArray:
    """Kind of every node of ``ids``, int64 (nodes,): an index into :data:`KINDS`, or ``len(KINDS)`` for others."""
    kinds = np.full(len(ids), len(KINDS), np.int64)
    kinds[program.opcode[ids] == OPCODE_ID["dot"]] = _DOT
    for index in np.flatnonzero(program.opcode[ids] == OPCODE_ID["convolution"]):
        kinds[index] = _conv_kind(program, tensors, int(ids[index]))
    return kinds


def _conv_kind(program: Program, tensors: Tensors, node: int) -> int:
    """Kind of a convolution.

    A kernel gradient sums over examples: the feature dimension of its input precedes the batch dimension, and its
    window is as large as an image.  An input gradient has a dilated input (the stride of the forward pass), a reversed
    window, or the feature dimensions of the kernel in reversed order (a forward pass has HWIO or OIHW).  A transposed
    convolution counts as an input gradient.
    """
    numbers = program.feat[node, CONV_NUMBERS : CONV_NUMBERS + 14].astype(int).tolist()
    n_spatial = max(int(tensors.rank[node]) - 2, 0)
    window = slots(program.feat[node], "window_size")[:n_spatial]
    image = [extent for dim, extent in enumerate(tensors.shape(node)) if dim not in numbers[12:14]]
    if numbers[1] < numbers[0] and np.prod(window) >= np.prod(image):
        return _WEIGHT
    dilated = (slots(program.feat[node], "window_base_dilation")[:n_spatial] > 1).any()
    reversed_ = (slots(program.feat[node], "window_window_reversal")[:n_spatial] > 0).any()
    features_last = n_spatial > 0 and min(numbers[8 : 8 + n_spatial]) < min(numbers[6:8])
    swapped = (numbers[6] < numbers[7]) != features_last
    return _INPUT if dilated or reversed_ or swapped else _FORWARD


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
        return out * float(np.prod(np.maximum(slots(program.feat[node], "window_size"), 1), dtype=np.float64))
    if opcode == OPCODE_ID["reduce"]:
        return float(max((tensors.elements[operand] for operand in operands), default=out))
    return out


def anchor_of(program: Program, tensors: Tensors) -> int:
    """The operation that is tiled: the heaviest dot, convolution, window or reduction, else the result."""
    heavy = np.flatnonzero(np.isin(program.opcode, _HEAVY)).tolist()
    if heavy:
        return max(heavy, key=lambda node: (node_flops(program, tensors, node), node))
    return result_of(program, tensors)


def result_of(program: Program, tensors: Tensors) -> int:
    """The node whose output the kernel writes; for a tuple, its largest member, also within a fusion or call."""
    flagged = np.flatnonzero(program.feat[:, _ROOT] > 0)
    node = int(flagged[-1]) if len(flagged) else len(program) - 1
    while tensors.elements[node] == 0 and len(program.operands.of(node)):
        roots = body_roots(program, node)
        node = int(max(roots if len(roots) else program.operands.of(node), key=lambda each: tensors.elements[each]))
    return node


def body_roots(program: Program, node: int) -> IntArray:
    """Operands of a fusion or call that are the root of its called computation; empty for other nodes."""
    operands = program.operands.of(node)
    if program.opcode[node] not in _CALLS:
        return operands[:0]
    return np.asarray(operands[program.feat[operands, _ROOT] > 0])


def parameter_operands(program: Program, tensors: Tensors) -> dict[int, int]:
    """Map parameters of called computations to operands of the callers.

    In TpuGraphs, the nodes of a called computation precede its caller, and an edge links the caller to the root of the
    computation, but none links its parameters to the operands of the caller.  A parameter is mapped if it alone has
    the element type and shape that a single operand of its only caller has.
    """
    links: dict[int, int] = {}
    assigned: set[int] = set()
    for caller in np.flatnonzero(np.isin(program.opcode, _CALLS)).tolist():  # callees come before their callers
        roots = body_roots(program, caller).tolist()
        body, stack = set(roots), list(roots)
        while stack:  # the roots and all nodes that they depend on
            new = set(program.operands.of(stack.pop()).tolist()) - body
            body |= new
            stack.extend(new)
        body -= assigned
        assigned |= body
        if any(len(program.users.of(root)) > 1 for root in roots):
            continue
        parameters = _by_type(tensors, [node for node in body if program.opcode[node] == OPCODE_ID["parameter"]])
        operands = _by_type(tensors, [node for node in program.operands.of(caller).tolist() if node not in roots])
        for kind, nodes in parameters.items():
            if len(nodes) == len(operands[kind]) == 1:
                links[nodes[0]] = operands[kind][0]
    return links


def _by_type(tensors: Tensors, nodes: list[int]) -> defaultdict[tuple[int, ...], list[int]]:
    """Nodes grouped by element type and shape."""
    groups: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
    for node in nodes:
        groups[int(tensors.element_type[node]), *tensors.shape(node)].append(node)
    return groups
