"""Loops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.graph import Program
from features.hlo import FEAT_ID, OPCODE_ID, OPCODES
from features.operations import anchor_of, body_roots, conv_roles, dot_roles, handed_in, node_flops, result_of
from features.tensors import Tensors, slots

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


#: Index of one tensor: per dimension, the coefficient of each loop it depends on.
Index = tuple[dict[int, float], ...]

#: An index that can be looked up.
IndexKey = tuple[tuple[tuple[int, float], ...], ...]

#: A graph has more paths than nodes; beyond this many visits the remaining operands count as not addressed.
_MAX_VISITS: Final = 4096

_SOURCES: Final = tuple(OPCODE_ID[name] for name in ("iota", "rng", "rng-bit-generator"))


@dataclass
class Trace:
    """Walks back from a kernel's result and notes where memory is read, under which index.

    Attributes
    ----------
    extents, roles
        The loops found so far.
    reads
        Nodes whose output is read from memory, with the index.
    side
        Per node read: ``left`` or ``right`` operand of the anchor, ``extra``, or ``""`` where it joins later.
    reached
        Whether the anchor lies on a path from the start.
    operands
        The anchor itself, ``out``, and its own ``left`` and ``right`` operand nodes, with their indices as they stand
        in the anchor.
    inner
        The loops that a node reduces over, by node and place.
    handed
        Operand of the caller behind a parameter of a called computation.
    """

    program: Program
    tensors: Tensors
    anchor: int
    extents: list[int] = field(default_factory=list)
    roles: list[str] = field(default_factory=list)
    reads: dict[tuple[int, IndexKey], Index] = field(default_factory=dict)
    side: dict[int, str] = field(default_factory=dict)
    reached: bool = False
    operands: dict[str, tuple[int, Index]] = field(default_factory=dict)
    inner: dict[tuple[int, int], int] = field(default_factory=dict)
    handed: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.handed = handed_in(self.program, self.tensors)

    def loop(self, extent: int, role: str) -> int:
        """Add a loop, return its number."""
        self.extents.append(max(extent, 1))
        self.roles.append(role)
        return len(self.extents) - 1

    def reduced(self, node: int, place: int, extent: int) -> int:
        """The loop over the ``place``-th dimension that ``node`` reduces; the same on every path."""
        if (node, place) not in self.inner:
            self.inner[node, place] = self.loop(extent, "k")
        return self.inner[node, place]

    def walk(self, start: int, index: Index) -> None:
        """Follow all operands from ``start``, whose output is wanted under ``index``."""
        stack: list[tuple[int, Index, str]] = [(start, index, "")]
        seen: set[tuple[tuple[int, IndexKey], str]] = set()
        while stack and len(seen) < _MAX_VISITS:
            node, index, side = stack.pop()
            key = (node, tuple(tuple(sorted(terms.items())) for terms in index))
            if (key, side) in seen:
                continue
            seen.add((key, side))
            if node == self.anchor:
                self.reached = True
                self.operands.setdefault("out", (node, index))
            steps = self.step(node, index, side)
            if steps:
                stack.extend(steps)
            elif self.tensors.elements[node] > 1 and self.program.opcode[node] not in _SOURCES:
                self.reads.setdefault(key, index)
                if side or node not in self.side:
                    self.side[node] = side

    def step(self, node: int, index: Index, side: str) -> list[tuple[int, Index, str]]:
        """Operands of ``node`` with their indices and the side of the anchor they are on; none for a leaf."""
        if node in self.handed:
            return [(self.handed[node], index, side)]
        operands = [int(operand) for operand in self.program.operands.of(node)]
        operands = [operand for operand in operands if self.tensors.elements[operand] > 0]
        if not operands:
            return []
        rule = _RULES.get(int(self.program.opcode[node]), _elementwise)
        indices = rule(self, node, operands, index)
        if len(indices) != len(operands):
            opcode = OPCODES[self.program.opcode[node]]
            raise ValueError(f"node {node}: {len(operands)} operands of {opcode}, which has {len(indices)}")
        sides = [side] * len(operands)
        if node == self.anchor:
            sides = self.sides(node, operands)
            for place, item in zip(operands, indices, strict=True):
                self.operands.setdefault(sides[operands.index(place)], (place, item))
        return list(zip(operands, indices, sides, strict=True))

    def sides(self, node: int, operands: list[int]) -> list[str]:
        """Which operand of the anchor is the left one, which the right (the kernel of a convolution)."""
        opcode = int(self.program.opcode[node])
        if opcode in (OPCODE_ID["dot"], OPCODE_ID["convolution"]) and len(operands) == 2:
            dims = (dot_roles if opcode == OPCODE_ID["dot"] else conv_roles)(self.program, self.tensors, node)
            return ["right", "left"] if dims is not None and dims.swapped else ["left", "right"]
        largest = max(operands, key=lambda operand: self.tensors.elements[operand])
        return ["left" if operand == largest else "extra" for operand in operands]


def _same(trace: Trace, node: int, operand: int, index: Index) -> Index:
    """Elementwise; where the shapes differ, dimensions are matched by extent, each loop once."""
    shape, out = trace.tensors.shape(operand), trace.tensors.shape(node)
    if shape == out:
        return index
    free = list(range(len(out)))
    terms: list[dict[int, float]] = []
    for extent in shape:
        place = next((dim for dim in free if out[dim] == extent), None)
        if place is not None:
            free.remove(place)
        terms.append(index[place] if place is not None and place < len(index) else {})
    return tuple(terms)


def _elementwise(trace: Trace, node: int, operands: list[int], index: Index) -> list[Index]:
    return [_same(trace, node, operand, index) for operand in operands]


def _broadcast(trace: Trace, node: int, operands: list[int], index: Index) -> list[Index]:
    rank = int(trace.tensors.rank[operands[0]])
    dims = slots(trace.program.feat[node], "dimensions")[:rank].tolist()
    shape, out = trace.tensors.shape(operands[0]), trace.tensors.shape(node)
    if all(dim < len(out) and out[dim] == extent for dim, extent in zip(dims, shape, strict=True)):
        return [tuple(index[dim] for dim in dims)]
    return [_same(trace, node, operands[0], index)]


def _transpose(trace: Trace, node: int, operands: list[int], index: Index) -> list[Index]:
    rank = int(trace.tensors.rank[node])
    order = slots(trace.program.feat[node], "dimensions")[:rank].tolist()
    if sorted(order) != list(range(rank)) or len(trace.tensors.shape(operands[0])) != rank:
        return [_same(trace, node, operands[0], index)]
    return [tuple(index[order.index(dim)] for dim in range(rank))]


def _reshape(trace: Trace, node: int, operands: list[int], index: Index) -> list[Index]:
    """Dimensions are grouped where the running products meet; within a group the flat offset is split again."""
    out, shape = trace.tensors.shape(node), trace.tensors.shape(operands[0])
    if np.prod(out) != np.prod(shape):
        return [_same(trace, node, operands[0], index)]
    terms: list[dict[int, float]] = [{} for _ in shape]
    here, there = len(out) - 1, len(shape) - 1
    while here >= 0 and there >= 0:
        flat: dict[int, float] = {}
        size_out, size_in, step = 1, 1, 1.0
        group: list[int] = []
        while not group or size_out != size_in:
            if not group or size_in < size_out:
                group.append(there)
                size_in *= shape[there]
                there -= 1
            if size_out < size_in or (size_out == size_in == 1 and here >= 0 and out[here] == 1):
                for loop, coefficient in index[here].items():
                    flat[loop] = flat.get(loop, 0.0) + coefficient * step
                step *= out[here]
                size_out *= out[here]
                here -= 1
        divisor = 1.0
        for dim in group:
            span = divisor * shape[dim]
            terms[dim] = {
                loop: coefficient / divisor
                for loop, coefficient in flat.items()
                if coefficient < span and coefficient * trace.extents[loop] > divisor
            }
            divisor = span
    return [tuple(terms)]


def _reduce(trace: Trace, node: int, operands: list[int], index: Index) -> list[Index]:
    out = trace.tensors.shape(node)
    indices: list[Index] = []
    for operand in operands:
        shape = trace.tensors.shape(operand)
        n_reduced = len(shape) - len(out)
        if n_reduced <= 0 or len(index) < len(out):
            indices.append(() if not shape else _same(trace, node, operand, index))
            continue
        reduced = slots(trace.program.feat[node], "dimensions")[:n_reduced].tolist()
        kept = [dim for dim in range(len(shape)) if dim not in reduced]
        if tuple(shape[dim] for dim in kept) != out:
            reduced = _reduced_by_extent(shape, out)
            kept = [dim for dim in range(len(shape)) if dim not in reduced]
        terms: list[dict[int, float]] = [{} for _ in shape]
        for place, dim in enumerate(kept[: len(out)]):
            terms[dim] = index[place]
        used = {loop for item in terms for loop in item}
        for dim in reduced:
            loop = trace.inner.get((node, dim))
            if loop is None:
                # Where the sum is spread out again (softmax), its loop is one that the result has already.
                again = [loop for loop, extent in enumerate(trace.extents) if extent == shape[dim] and loop not in used]
                if again:
                    trace.inner[node, dim] = again[-1]
                loop = trace.reduced(node, dim, shape[dim])
            used.add(loop)
            terms[dim] = {loop: 1.0}
        indices.append(tuple(terms))
    return indices


def _reduced_by_extent(shape: tuple[int, ...], out: tuple[int, ...]) -> list[int]:
    """Dimensions of ``shape`` that are missing from ``out`` (a subsequence of it, matched from the front)."""
    reduced, place = [], 0
    for dim, extent in enumerate(shape):
        if place < len(out) and out[place] == extent:
            place += 1
        else:
            reduced.append(dim)
    return reduced


def _window(trace: Trace, node: int, operands: list[int], index: Index) -> list[Index]:
    rank = int(trace.tensors.rank[node])
    feat = trace.program.feat[node]
    size, stride = slots(feat, "window_size"), slots(feat, "window_stride")
    dilation = slots(feat, "window_window_dilation")
    inside = {dim: trace.reduced(node, dim, int(size[dim])) for dim in range(rank) if size[dim] > 1}
    indices: list[Index] = []
    for operand in operands:
        if int(trace.tensors.rank[operand]) != rank or trace.tensors.elements[operand] <= 1:
            indices.append(() if trace.tensors.rank[operand] == 0 else _same(trace, node, operand, index))
            continue
        terms = []
        for dim in range(rank):
            item = {loop: coefficient * max(int(stride[dim]), 1) for loop, coefficient in index[dim].items()}
            if dim in inside:
                item[inside[dim]] = float(max(int(dilation[dim]), 1))
            terms.append(item)
        indices.append(tuple(terms))
    return indices


def _dot(trace: Trace, node: int, operands: list[int], index: Index) -> list[Index]:
    roles = dot_roles(trace.program, trace.tensors, node)
    if roles is None:
        return [_same(trace, node, operand, index) for operand in operands]
    pair = [operands[0], operands[-1]]
    left, right = reversed(pair) if roles.swapped else pair
    shape = trace.tensors.shape(left)
    contracted = [trace.reduced(node, dim, shape[dim]) for dim in roles.left_k]
    terms: dict[str, list[dict[int, float]]] = {
        "left": [{} for _ in shape],
        "right": [{} for _ in trace.tensors.shape(right)],
    }
    for out, here, there in zip(roles.batch, roles.left_batch, roles.right_batch, strict=True):
        terms["left"][here], terms["right"][there] = index[out], index[out]
    for out, here in zip(roles.m, roles.left_m, strict=True):
        terms["left"][here] = index[out]
    for out, there in zip(roles.n, roles.right_n, strict=True):
        terms["right"][there] = index[out]
    for loop, here, there in zip(contracted, roles.left_k, roles.right_k, strict=True):
        terms["left"][here], terms["right"][there] = {loop: 1.0}, {loop: 1.0}
    if node == trace.anchor:
        _name(trace, index, roles.batch, "batch")
        _name(trace, index, roles.m, "m")
        _name(trace, index, roles.n, "n")
    order = ("right", "left") if roles.swapped else ("left", "right")
    return [tuple(terms[side]) for side in order][: len(operands)]


def _convolution(trace: Trace, node: int, operands: list[int], index: Index) -> list[Index]:
    dims = conv_roles(trace.program, trace.tensors, node)
    if dims is None:
        return [_same(trace, node, operand, index) for operand in operands]
    feat = trace.program.feat[node]
    stride, dilation = slots(feat, "window_stride"), slots(feat, "window_window_dilation")
    base = slots(feat, "window_base_dilation")
    pair = [operands[0], operands[-1]]
    image, filters = reversed(pair) if dims.swapped else pair
    image_shape, kernel_shape = trace.tensors.shape(image), trace.tensors.shape(filters)
    channel = trace.reduced(node, dims.kernel_input, kernel_shape[dims.kernel_input])
    taps = [trace.reduced(node, dim, kernel_shape[dim]) for dim in dims.kernel_spatial]
    left: list[dict[int, float]] = [{} for _ in image_shape]
    right: list[dict[int, float]] = [{} for _ in kernel_shape]
    left[dims.input_batch] = index[dims.output_batch]
    groups = max(int(feat[FEAT_ID["feature_group_count"]]), 1)
    left[dims.input_feature] = {channel: 1.0}
    if groups > 1:  # each group of output features reads its own input features
        share = image_shape[dims.input_feature] / max(kernel_shape[dims.kernel_output], 1)
        left[dims.input_feature] |= {
            loop: coefficient * share for loop, coefficient in index[dims.output_feature].items()
        }
    right[dims.kernel_input] = {channel: 1.0}
    right[dims.kernel_output] = index[dims.output_feature]
    for place, tap in enumerate(taps):
        spread = max(int(base[place]), 1)
        step = max(int(stride[place]), 1) / spread
        out = index[dims.output_spatial[place]]
        left[dims.input_spatial[place]] = {loop: coefficient * step for loop, coefficient in out.items()} | {
            tap: max(int(dilation[place]), 1) / spread
        }
        right[dims.kernel_spatial[place]] = {tap: 1.0}
    if node == trace.anchor:
        _name(trace, index, (dims.output_batch,), "batch")
        _name(trace, index, dims.output_spatial, "m")
        _name(trace, index, (dims.output_feature,), "n")
    order = (right, left) if dims.swapped else (left, right)
    return [tuple(terms) for terms in order][: len(operands)]


def _name(trace: Trace, index: Index, dims: tuple[int, ...], role: str) -> None:
    for dim in dims:
        for loop in index[dim]:
            trace.roles[loop] = role


def _fusion(trace: Trace, node: int, operands: list[int], index: Index) -> list[Index]:
    """What a fusion computes is the root of its body; its own operands are the body's parameters seen from outside."""
    roots = [root for root in body_roots(trace.program, node).tolist() if root in operands]
    operands[:] = roots or operands
    return _elementwise(trace, node, operands, index)


_RULES: Final[dict[int, Callable[[Trace, int, list[int], Index], list[Index]]]] = {
    OPCODE_ID["broadcast"]: _broadcast,
    OPCODE_ID["transpose"]: _transpose,
    OPCODE_ID["reshape"]: _reshape,
    OPCODE_ID["bitcast"]: _reshape,
    OPCODE_ID["reduce"]: _reduce,
    OPCODE_ID["reduce-window"]: _window,
    OPCODE_ID["dot"]: _dot,
    OPCODE_ID["fusion"]: _fusion,
    OPCODE_ID["convolution"]: _convolution,
}


_REDUCTIONS: Final = tuple(OPCODE_ID[name] for name in ("reduce", "reduce-window"))
_EXTREMA: Final = tuple(OPCODE_ID[name] for name in ("maximum", "minimum"))


@dataclass(frozen=True)
class Access:
    """One operand in memory and how the loops address it.

    Parameters
    ----------
    node : int
        The node whose output is read, or written for the result.
    role : str
        ``out``, ``left``, ``right`` or ``extra``.
    coefficients : float64 (rank, loops)
        Step along each dimension per step of each loop.
    """

    node: int
    role: str
    coefficients: NDArray[np.float64]


@dataclass(frozen=True)
class LoopNest:
    """Loops and operands of a kernel.

    Parameters
    ----------
    anchor : int
        The heaviest operation: the one that the tiles are for.
    extents : int64 (loops,)
        Trip counts of the untiled loops; those of the result's dimensions first, in logical order.
    roles : tuple of str
        Per loop: ``batch``, ``m``, ``n`` or ``k`` (``k`` is reduced; for a kernel without dot or convolution the
        minor-most result dimension is ``n``, the others ``m``).
    n_out : int
        Loops that run over the result's dimensions.
    accesses : tuple of Access
        The result first, then the operands, largest first within a role.
    operands : dict of str to (int, float64 (rank, loops))
        The anchor itself, ``out``, and its own ``left`` and ``right`` operand nodes, with their coefficients as they
        stand in the anchor; the accesses are what lies behind them in memory.
    flops : float
        Floating-point operations of the anchor.
    reduces : bool (loops,)
        Whether something is reduced along the loop: those past ``n_out``, and those of the result along which an
        earlier pass over the same data reduces it (softmax, normalisations).
    extremum : float
        Part of the kernel's reductions that keep a maximum or minimum: floating-point rules let a compiler reorder
        sums at most on request, and extrema often not at all, so their loops wait for every single result.
    """

    anchor: int
    extents: NDArray[np.int64]
    roles: tuple[str, ...]
    n_out: int
    accesses: tuple[Access, ...]
    operands: dict[str, tuple[int, NDArray[np.float64]]]
    flops: float
    reduces: NDArray[np.bool_]
    extremum: float

    def first(self, role: str) -> Access | None:
        """The largest access of a role."""
        return next((access for access in self.accesses if access.role == role), None)


def loop_nest(program: Program, tensors: Tensors | None = None) -> LoopNest:
    """Read a kernel as one loop nest.

    Parameters
    ----------
    program : Program
        At least one node.
    tensors : Tensors, optional
        Those of ``program``, where the caller has them already.

    Returns
    -------
    LoopNest
        A kernel that is not understood (opcodes with indices that depend on data, calls) still has the loops of its
        result, with operands matched to them by extent.
    """
    tensors = tensors or Tensors.of(program)
    anchor = anchor_of(program, tensors)
    result = result_of(program, tensors)
    trace = _start(program, tensors, anchor, result)
    if not trace.reached:
        # The path from the result is hidden (a fusion, a call): the anchor's own output is what the tiles are for.
        result = anchor
        trace = _start(program, tensors, anchor, anchor)
    n_out = int(tensors.rank[result])
    roles = list(trace.roles)
    if "n" not in roles[:n_out] and "batch" not in roles[:n_out] and n_out:
        roles[int(tensors.layout(result)[0])] = "n"
    accesses = [Access(result, "out", _matrix(_identity(n_out), len(trace.extents)))]
    for role in ("left", "right", "extra"):
        found = [
            Access(node, role, _matrix(index, len(trace.extents)))
            for (node, _), index in trace.reads.items()
            if trace.side.get(node, "") == role
        ]
        accesses += sorted(found, key=lambda access: -tensors.nbytes[access.node])
    unplaced = [
        (node, index) for (node, _), index in trace.reads.items() if trace.side.get(node, "") == "" and node != result
    ]
    unplaced.sort(key=lambda item: -tensors.nbytes[item[0]])
    for node, index in unplaced:
        taken = {access.role for access in accesses}
        role = next((role for role in ("left", "right") if role not in taken), "extra")
        accesses.append(Access(node, role, _matrix(index, len(trace.extents))))
    operands = {side: (node, _matrix(index, len(trace.extents))) for side, (node, index) in trace.operands.items()}
    return LoopNest(
        anchor=anchor,
        extents=np.array(trace.extents, np.int64),
        roles=tuple(roles),
        n_out=n_out,
        accesses=tuple(accesses),
        operands=operands,
        flops=node_flops(program, tensors, anchor),
        reduces=np.isin(np.arange(len(trace.extents)), list(trace.inner.values())),
        extremum=_extremum(program),
    )


def _extremum(program: Program) -> float:
    """Share of reduce and reduce-window nodes whose called computation ends in a maximum or minimum."""
    reductions = np.flatnonzero(np.isin(program.opcode, _REDUCTIONS))
    kept = [bool(np.isin(program.opcode[program.operands.of(int(node))], _EXTREMA).any()) for node in reductions]
    return float(np.mean(kept)) if kept else 0.0


def _start(program: Program, tensors: Tensors, anchor: int, start: int) -> Trace:
    trace = Trace(program, tensors, anchor)
    for extent in tensors.shape(start):
        trace.loop(extent, "m")
    trace.walk(start, _identity(int(tensors.rank[start])))
    return trace


def _identity(rank: int) -> Index:
    return tuple({dim: 1.0} for dim in range(rank))


def _matrix(index: Index, n_loops: int) -> NDArray[np.float64]:
    matrix = np.zeros((len(index), n_loops))
    for dim, terms in enumerate(index):
        for loop, coefficient in terms.items():
            matrix[dim, loop] = coefficient
    return matrix
