"""Operations."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.graph import Program
from features.hlo import FEAT_ID, OPCODE_ID
from features.tensors import Tensors, slots

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class DotDims:
    """Roles of a dot's dimensions.

    Parameters
    ----------
    swapped : bool
        True where the operand given second is the left one.
    batch, m, n : tuple of int
        Result dimensions: shared, of the left operand, of the right operand.
    left_batch, left_m, left_k, right_batch, right_n, right_k : tuple of int
        Dimensions of the operands, in the order of ``batch``, ``m``, ``n`` and of each other.
    """

    swapped: bool
    batch: tuple[int, ...]
    m: tuple[int, ...]
    n: tuple[int, ...]
    left_batch: tuple[int, ...]
    left_m: tuple[int, ...]
    left_k: tuple[int, ...]
    right_batch: tuple[int, ...]
    right_n: tuple[int, ...]
    right_k: tuple[int, ...]


def dot_dims(first: Shape, second: Shape, result: Shape) -> DotDims | None:
    """Roles of the dimensions of a dot, or None where no assignment fits the shapes.

    Where several fit (equal extents, a product of a matrix with its transpose), the one with the fewest batch
    dimensions wins, then one that contracts the left operand's last and the right operand's first free dimension,
    then the given operand order.
    """
    total = len(first) + len(second) - len(result)
    if total < 0:
        return None
    for n_batch in range(total % 2, total + 1, 2):
        n_contracted = (total - n_batch) // 2
        if n_contracted == 0 and total > 0 and n_batch == total and len(result) > n_batch:
            continue
        found = {}
        for swapped in (False, True):
            left, right = (second, first) if swapped else (first, second)
            roles = _assign(left, right, result, n_batch, n_contracted)
            if roles is not None:
                found[swapped] = DotDims(swapped, *roles)
        if found:
            return min(found.values(), key=lambda dims: not _is_plain(dims))
    return None


def _is_plain(dims: DotDims) -> bool:
    """Whether the left operand's last dimensions and the right operand's first free ones are contracted."""
    return all(here > own for here in dims.left_k for own in dims.left_m) and all(
        there < own for there in dims.right_k for own in dims.right_n
    )


def _assign(left: Shape, right: Shape, result: Shape, n_batch: int, n_k: int) -> tuple[tuple[int, ...], ...] | None:
    n_m = len(left) - n_batch - n_k
    if n_m < 0 or n_batch + n_m > len(result):
        return None
    batch, m, n = result[:n_batch], result[n_batch : n_batch + n_m], result[n_batch + n_m :]
    for left_batch, left_k in _splits(left, batch, n_k, prefer_last=True):
        left_m = tuple(dim for dim in range(len(left)) if dim not in left_batch and dim not in left_k)
        if tuple(left[dim] for dim in left_m) != m:
            continue
        contracted = tuple(left[dim] for dim in left_k)
        for right_batch, right_k in _splits(right, batch, n_k, prefer_last=False):
            if tuple(right[dim] for dim in right_k) != contracted:
                continue
            right_n = tuple(dim for dim in range(len(right)) if dim not in right_batch and dim not in right_k)
            if tuple(right[dim] for dim in right_n) == n:
                ends = (n_batch, n_batch + n_m, len(result))
                roles = (tuple(range(ends[0])), tuple(range(ends[0], ends[1])), tuple(range(ends[1], ends[2])))
                return (*roles, left_batch, left_m, left_k, right_batch, right_n, right_k)
    return None


def _splits(
    shape: Shape, batch: Sequence[int], n_k: int, *, prefer_last: bool
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Ways to pick the batch dims (leading ones first) and ``n_k`` contracted dims of an operand."""
    dims = range(len(shape))
    out = []
    for chosen in permutations(dims, len(batch)):
        if tuple(shape[dim] for dim in chosen) != tuple(batch):
            continue
        rest = [dim for dim in dims if dim not in chosen]
        picks = list(permutations(rest, n_k))
        out += [(chosen, pick) for pick in (reversed(picks) if prefer_last and n_k == 1 else picks)]
    return out


@dataclass(frozen=True, slots=True)
class ConvDims:
    """Dimension numbers of a convolution.

    Parameters
    ----------
    swapped : bool
        True where the operand given second is the input and the first the kernel.
    input_batch, input_feature : int
    input_spatial : tuple of int
    kernel_input, kernel_output : int
    kernel_spatial : tuple of int
    output_batch, output_feature : int
    output_spatial : tuple of int
        Dimensions that are neither batch nor feature, in order (the node features do not list them).
    """

    swapped: bool
    input_batch: int
    input_feature: int
    input_spatial: tuple[int, ...]
    kernel_input: int
    kernel_output: int
    kernel_spatial: tuple[int, ...]
    output_batch: int
    output_feature: int
    output_spatial: tuple[int, ...]


def conv_dims(
    first: Shape, second: Shape, result: Shape, numbers: Sequence[int], window: Sequence[int]
) -> ConvDims | None:
    """Dimension numbers of a convolution with the operands told apart, or None where they do not fit the shapes.

    Parameters
    ----------
    first, second, result : tuple of int
    numbers : sequence of 14 ints
        The ``convolution_dim_numbers_*`` columns of ``node_feat`` in order: input batch, input feature, 4 input
        spatial, kernel input, kernel output, 4 kernel spatial, output batch, output feature.
    window : sequence of int
        Window sizes, one per spatial dimension; the kernel operand is the one that has them.
    """
    rank = len(result)
    n_spatial = rank - 2
    if rank < 2 or len(first) != rank or len(second) != rank or n_spatial > 4:
        return None
    input_spatial = tuple(numbers[2 : 2 + n_spatial])
    kernel_spatial = tuple(numbers[8 : 8 + n_spatial])
    output_batch, output_feature = numbers[12], numbers[13]
    output_spatial = tuple(dim for dim in range(rank) if dim not in (output_batch, output_feature))
    named = (numbers[0], numbers[1], *input_spatial), (numbers[6], numbers[7], *kernel_spatial)
    if any(sorted(dims) != list(range(rank)) for dims in named) or len(output_spatial) != n_spatial:
        return None
    for swapped in (False, True):
        image, filters = (second, first) if swapped else (first, second)
        if (
            all(filters[dim] == size for dim, size in zip(kernel_spatial, window, strict=False))
            and filters[numbers[7]] == result[output_feature]
            and image[numbers[1]] % max(filters[numbers[6]], 1) == 0
        ):
            return ConvDims(
                swapped, numbers[0], numbers[1], input_spatial, numbers[6], numbers[7], kernel_spatial,
                output_batch, output_feature, output_spatial,
            )  # fmt: skip
    return None


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
