"""The loop nest of a kernel, and the index of every operand as a linear function of the loops.

A kernel is modelled as one perfect loop nest, with a loop for each dimension of its result and for each reduced
dimension.  The index of the result is traced backwards through the operations to the tensors in memory; a rule per
opcode maps the index of an output to the indices of the operands.  This gives a matrix per operand: the index along
dimension d is the sum over loops of coefficients[d, loop] times the loop variable.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.graph import Program
from features.hlo import FEAT_ID, OPCODE_ID
from features.operations import (
    ConvDims,
    DotDims,
    anchor_of,
    body_roots,
    conv_roles,
    dot_roles,
    node_flops,
    parameter_operands,
    result_of,
)
from features.tensors import Tensors, slots

#: Coefficients of one dimension by loop.
Terms = dict[int, float]
#: Index of one tensor: the terms of each dimension.
Index = tuple[Terms, ...]
_IndexKey = tuple[tuple[tuple[int, float], ...], ...]

#: Maximum number of visits of a trace, as a graph may have many more paths than nodes.
_MAX_VISITS: Final = 4096

_DOT, _CONVOLUTION, _FUSION = (OPCODE_ID[name] for name in ("dot", "convolution", "fusion"))
_KINDS: Final = {_DOT: "dot", _CONVOLUTION: "convolution"}
_SOURCES: Final = tuple(OPCODE_ID[name] for name in ("iota", "rng", "rng-bit-generator"))
_REDUCTIONS: Final = tuple(OPCODE_ID[name] for name in ("reduce", "reduce-window"))
_EXTREMA: Final = tuple(OPCODE_ID[name] for name in ("maximum", "minimum"))


@dataclass(frozen=True)
class Access:
    """One tensor in memory and how the loops address it."""

    node: int  # whose output is read, or written for the result
    role: str  # out, left, right or extra
    coefficients: NDArray[np.float64]  # (rank, loops): step along each dimension per step of each loop


@dataclass(frozen=True)
class LoopNest:
    """Loops and operands of a kernel."""

    anchor: int  # the heaviest operation, to which the tiles apply
    #: (loops,): trip counts of the untiled loops; loops over dimensions of the result first, in logical order.
    extents: NDArray[np.int64]
    #: Per loop: batch, m, n or k (reduced).  In a kernel without dot or convolution, the minor-most dimension of the
    #: result is n, the others are m.
    roles: tuple[str, ...]
    n_out: int  # number of loops over the dimensions of the result
    accesses: tuple[Access, ...]  # the result first, then the operands, largest first within a role
    #: Node and coefficients of the anchor (out) and its direct operands (left, right), which the kernel computes from
    #: the tensors of ``accesses``.
    operands: dict[str, tuple[int, NDArray[np.float64]]]
    flops: float  # floating-point operations of the anchor
    #: (loops,): loops from ``n_out`` on, and loops of the result that an earlier pass over the same data reduces
    #: (softmax, normalisations).
    reduces: NDArray[np.bool_]
    #: Share of the reductions that compute a maximum or minimum.  Compilers often do not reorder extrema, so that every
    #: step of such a loop depends on the previous one.
    extremum: float
    kind: str  # dot or convolution if the anchor is one whose operands are known, else empty

    def first(self, role: str) -> Access | None:
        """The largest access of a role."""
        return next((access for access in self.accesses if access.role == role), None)


def loop_nest(program: Program, tensors: Tensors) -> LoopNest:
    """Read a kernel of at least one node as one loop nest.

    With unsupported operations (data-dependent indices, calls), the loops are those of the result, and the operands are
    matched to them by extent.
    """
    anchor, result = anchor_of(program, tensors), result_of(program, tensors)
    trace = _Trace(program, tensors, anchor, result)
    if "out" not in trace.operands:  # a fusion or call hides the path to the anchor: trace from the anchor itself
        result = anchor
        trace = _Trace(program, tensors, anchor, anchor)
    n_out, n_loops = int(tensors.rank[result]), len(trace.extents)
    reductions = np.flatnonzero(np.isin(program.opcode, _REDUCTIONS)).tolist()
    extrema = [np.isin(program.opcode[program.operands.of(node)], _EXTREMA).any() for node in reductions]
    if n_out and not {"n", "batch"} & set(trace.roles[:n_out]):
        trace.roles[int(tensors.layout(result)[0])] = "n"
    reads = [(node, _matrix(index, n_loops)) for (node, _), index in trace.reads.items()]
    reads.sort(key=lambda read: -tensors.nbytes[read[0]])
    accesses = [Access(result, "out", np.eye(n_out, n_loops))]
    for role in ("left", "right", "extra"):
        accesses += [Access(node, role, matrix) for node, matrix in reads if trace.side[node] == role]
    for node, matrix in reads:
        if not trace.side[node] and node != result:
            assigned = {access.role for access in accesses}
            role = next((role for role in ("left", "right") if role not in assigned), "extra")
            accesses.append(Access(node, role, matrix))
    return LoopNest(
        anchor=anchor,
        extents=np.array(trace.extents, np.int64),
        roles=tuple(trace.roles),
        n_out=n_out,
        accesses=tuple(accesses),
        operands={side: (node, _matrix(index, n_loops)) for side, (node, index) in trace.operands.items()},
        flops=node_flops(program, tensors, anchor),
        reduces=np.isin(np.arange(n_loops), list(trace.reduced.values())),
        extremum=float(np.mean(extrema)) if extrema else 0.0,
        kind=_KINDS.get(int(program.opcode[anchor]), "") if {"left", "right"} <= {*trace.operands} else "",
    )


def _matrix(index: Index, n_loops: int) -> NDArray[np.float64]:
    matrix = np.zeros((len(index), n_loops))
    for dim, terms in enumerate(index):
        for loop, coefficient in terms.items():
            matrix[dim, loop] = coefficient
    return matrix


class _Trace:
    """Trace of the index of ``start`` back to the tensors in memory."""

    def __init__(self, program: Program, tensors: Tensors, anchor: int, start: int) -> None:
        self.program, self.tensors, self.anchor = program, tensors, anchor
        self.extents = [max(extent, 1) for extent in tensors.shape(start)]
        self.roles = ["m"] * len(self.extents)
        self.reads: dict[tuple[int, _IndexKey], Index] = {}  # every read from memory, by node and index key
        self.side: dict[int, str] = {}  # per node read: operand of the anchor, or "" if it is used after the anchor
        self.operands: dict[str, tuple[int, Index]] = {}  # the anchor ("out", if it is reached) and its operands
        self.reduced: dict[tuple[int, int], int] = {}  # loop by node and reduced dimension
        operand_of_parameter = parameter_operands(program, tensors)
        stack: list[tuple[int, Index, str]] = [(start, tuple({dim: 1.0} for dim in range(len(self.roles))), "")]
        seen: set[tuple[tuple[int, _IndexKey], str]] = set()
        while stack and len(seen) < _MAX_VISITS:
            node, index, side = stack.pop()
            key = (node, tuple(tuple(sorted(terms.items())) for terms in index))
            if (key, side) in seen:
                continue
            seen.add((key, side))
            if node == anchor:
                self.operands.setdefault("out", (node, index))
            if node in operand_of_parameter:
                stack.append((operand_of_parameter[node], index, side))
                continue
            operands = [each for each in program.operands.of(node).tolist() if tensors.elements[each] > 0]
            if program.opcode[node] == _FUSION:  # the root of its body links to the other operands
                operands = [root for root in body_roots(program, node).tolist() if root in operands] or operands
            if operands:
                stack += self._step(node, operands, index, side)
            elif tensors.elements[node] > 1 and program.opcode[node] not in _SOURCES:
                self.reads.setdefault(key, index)
                if side or node not in self.side:
                    self.side[node] = side

    def _step(self, node: int, operands: list[int], index: Index, side: str) -> list[tuple[int, Index, str]]:
        """Operands with their indices and the side of the anchor that they are on."""
        opcode = int(self.program.opcode[node])
        sides = ["left", "right"]
        dims: DotDims | ConvDims | None = None
        arrays_only = len(operands) == len(self.program.operands.of(node))
        if opcode == _DOT and arrays_only and (dims := dot_roles(self.program, self.tensors, node)):
            indices = self._dot(node, operands, index, dims)
        elif opcode == _CONVOLUTION and arrays_only and (dims := conv_roles(self.program, self.tensors, node)):
            indices = self._convolution(node, operands, index, dims)
        else:
            indices = [_RULES.get(opcode, _Trace._same)(self, node, operand, index) for operand in operands]
        if dims is not None and dims.swapped:
            indices, sides = indices[::-1], sides[::-1]
        elif opcode not in (_DOT, _CONVOLUTION) or len(operands) != 2:
            largest = max(operands, key=lambda operand: self.tensors.elements[operand])
            sides = ["left" if operand == largest else "extra" for operand in operands]
        found = list(zip(operands, indices, sides if node == self.anchor else [side] * len(operands), strict=False))
        for operand, item, own in found if node == self.anchor else ():
            self.operands.setdefault(own, (operand, item))
        return found

    def _reduced_loop(self, node: int, dim: int, extent: int) -> int:
        """The loop over a reduced dimension of ``node``, the same on every path."""
        if (node, dim) not in self.reduced:
            self.extents.append(max(extent, 1))
            self.roles.append("k")
            self.reduced[node, dim] = len(self.extents) - 1
        return self.reduced[node, dim]

    def _set_roles(self, node: int, index: Index, **dims_by_role: tuple[int, ...]) -> None:
        for role, dims in dims_by_role.items() if node == self.anchor else ():
            for loop in (loop for dim in dims for loop in index[dim]):
                self.roles[loop] = role

    def _same(self, node: int, operand: int, index: Index) -> Index:
        """Same index; if the shapes differ, dimensions are matched by extent, each once."""
        shape, out = self.tensors.shape(operand), self.tensors.shape(node)
        if shape == out:
            return index
        free = list(range(len(out)))
        terms: list[Terms] = []
        for extent in shape:
            match = next((dim for dim in free if out[dim] == extent), None)
            if match is not None:
                free.remove(match)
            terms.append({} if match is None else index[match])
        return tuple(terms)

    def _broadcast(self, node: int, operand: int, index: Index) -> Index:
        shape, out = self.tensors.shape(operand), self.tensors.shape(node)
        dims = slots(self.program.feat[node], "dimensions")[: len(shape)].tolist()
        if all(dim < len(out) and out[dim] == extent for dim, extent in zip(dims, shape, strict=True)):
            return tuple(index[dim] for dim in dims)
        return self._same(node, operand, index)

    def _transpose(self, node: int, operand: int, index: Index) -> Index:
        order = slots(self.program.feat[node], "dimensions")[: len(index)].tolist()
        if sorted(order) != list(range(len(index))) or self.tensors.rank[operand] != len(index):
            return self._same(node, operand, index)
        return tuple(index[order.index(dim)] for dim in range(len(index)))

    def _reshape(self, node: int, operand: int, index: Index) -> Index:
        """Dimensions form groups of equal running products; within a group the flat offset is split again."""
        out, shape = self.tensors.shape(node), self.tensors.shape(operand)
        if np.prod(out) != np.prod(shape):
            return self._same(node, operand, index)
        terms: list[Terms] = [{} for _ in shape]
        dim_out, dim_in = len(out) - 1, len(shape) - 1
        while dim_out >= 0 and dim_in >= 0:
            flat: Terms = {}
            size_out, size_in, step = 1, 1, 1.0
            group: list[int] = []
            while not group or size_out != size_in:
                if not group or size_in < size_out:
                    group.append(dim_in)
                    size_in *= shape[dim_in]
                    dim_in -= 1
                if size_out < size_in or (size_out == size_in == 1 and dim_out >= 0 and out[dim_out] == 1):
                    for loop, coefficient in index[dim_out].items():
                        flat[loop] = flat.get(loop, 0.0) + coefficient * step
                    step *= out[dim_out]
                    size_out *= out[dim_out]
                    dim_out -= 1
            divisor = 1.0
            for dim in group:
                span = divisor * shape[dim]
                terms[dim] = {
                    loop: coefficient / divisor
                    for loop, coefficient in flat.items()
                    if coefficient < span and coefficient * self.extents[loop] > divisor
                }
                divisor = span
        return tuple(terms)

    def _reduce(self, node: int, operand: int, index: Index) -> Index:
        shape, out = self.tensors.shape(operand), self.tensors.shape(node)
        if len(shape) <= len(out):
            return self._same(node, operand, index)
        reduced = slots(self.program.feat[node], "dimensions")[: len(shape) - len(out)].tolist()
        kept = [dim for dim in range(len(shape)) if dim not in reduced]
        if tuple(shape[dim] for dim in kept) != out:  # match the extents of the result from the front
            kept = []
            for dim, extent in enumerate(shape):
                if len(kept) < len(out) and out[len(kept)] == extent:
                    kept.append(dim)
            reduced = [dim for dim in range(len(shape)) if dim not in kept]
        terms: list[Terms] = [{} for _ in shape]
        for dim, moved in zip(kept, index, strict=False):
            terms[dim] = moved
        used = {loop for item in terms for loop in item}
        for dim in reduced:
            # If the reduced value is broadcast again (softmax), the result already has this loop.
            same = [loop for loop, size in enumerate(self.extents) if size == shape[dim] and loop not in used]
            if same:
                self.reduced.setdefault((node, dim), same[-1])
            loop = self._reduced_loop(node, dim, shape[dim])
            used.add(loop)
            terms[dim] = {loop: 1.0}
        return tuple(terms)

    def _window(self, node: int, operand: int, index: Index) -> Index:
        rank, feat = len(index), self.program.feat[node]
        size, stride = slots(feat, "window_size").tolist(), slots(feat, "window_stride").tolist()
        dilation = slots(feat, "window_window_dilation").tolist()
        inside = {dim: self._reduced_loop(node, dim, size[dim]) for dim in range(rank) if size[dim] > 1}
        if self.tensors.rank[operand] != rank or self.tensors.elements[operand] <= 1:
            return self._same(node, operand, index)
        terms = [{loop: step * max(stride[dim], 1) for loop, step in index[dim].items()} for dim in range(rank)]
        for dim, loop in inside.items():
            terms[dim][loop] = float(max(dilation[dim], 1))
        return tuple(terms)

    def _dot(self, node: int, operands: list[int], index: Index, dims: DotDims) -> list[Index]:
        left_shape, right_shape = self._left_and_right(operands, dims)
        left: list[Terms] = [{} for _ in left_shape]
        right: list[Terms] = [{} for _ in right_shape]
        for out, dim in zip(dims.batch + dims.m, dims.left_batch + dims.left_m, strict=True):
            left[dim] = index[out]
        for out, dim in zip(dims.batch + dims.n, dims.right_batch + dims.right_n, strict=True):
            right[dim] = index[out]
        for left_dim, right_dim in zip(dims.left_k, dims.right_k, strict=True):
            left[left_dim] = right[right_dim] = {self._reduced_loop(node, left_dim, left_shape[left_dim]): 1.0}
        self._set_roles(node, index, batch=dims.batch, m=dims.m, n=dims.n)
        return [tuple(left), tuple(right)]

    def _convolution(self, node: int, operands: list[int], index: Index, dims: ConvDims) -> list[Index]:
        feat = self.program.feat[node]
        stride, dilation, base = (
            np.maximum(slots(feat, name), 1).tolist()
            for name in ("window_stride", "window_window_dilation", "window_base_dilation")
        )
        input_shape, kernel_shape = self._left_and_right(operands, dims)
        channel = self._reduced_loop(node, dims.kernel_input, kernel_shape[dims.kernel_input])
        left: list[Terms] = [{} for _ in input_shape]
        right: list[Terms] = [{} for _ in kernel_shape]
        left[dims.input_batch] = index[dims.output_batch]
        left[dims.input_feature] = {channel: 1.0}
        if feat[FEAT_ID["feature_group_count"]] > 1:  # each group of output features reads its own input features
            share = input_shape[dims.input_feature] / max(kernel_shape[dims.kernel_output], 1)
            left[dims.input_feature] |= {loop: step * share for loop, step in index[dims.output_feature].items()}
        right[dims.kernel_input] = {channel: 1.0}
        right[dims.kernel_output] = index[dims.output_feature]
        for at, kernel_dim in enumerate(dims.kernel_spatial):
            tap = self._reduced_loop(node, kernel_dim, kernel_shape[kernel_dim])
            out = index[dims.output_spatial[at]]
            left[dims.input_spatial[at]] = {loop: step * (stride[at] / base[at]) for loop, step in out.items()} | {
                tap: dilation[at] / base[at]
            }
            right[kernel_dim] = {tap: 1.0}
        self._set_roles(node, index, batch=(dims.output_batch,), m=dims.output_spatial, n=(dims.output_feature,))
        return [tuple(left), tuple(right)]

    def _left_and_right(self, operands: list[int], dims: DotDims | ConvDims) -> list[tuple[int, ...]]:
        """Shapes of the left and the right operand (input and kernel), which may be one tensor."""
        return [self.tensors.shape(operands[at]) for at in ((-1, 0) if dims.swapped else (0, -1))]


_RULES: Final[dict[int, Callable[[_Trace, int, int, Index], Index]]] = {
    OPCODE_ID["broadcast"]: _Trace._broadcast,
    OPCODE_ID["transpose"]: _Trace._transpose,
    OPCODE_ID["reshape"]: _Trace._reshape,
    OPCODE_ID["bitcast"]: _Trace._reshape,
    OPCODE_ID["reduce"]: _Trace._reduce,
    OPCODE_ID["reduce-window"]: _Trace._window,
}
