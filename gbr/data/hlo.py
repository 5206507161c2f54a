"""Encode HLO modules (protobuf) as arrays of a TpuGraphs file, equal to those of Google's feature extractor.

Field numbers are those of xla/service/hlo.proto and xla/xla_data.proto (openxla/xla).  Order and formulas follow
``process_data/xla/{hlo_encoder.cc,featurizers.h}`` of google-research-datasets/tpu_graphs (Apache-2.0), task
``module_layout_cost``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features.hlo import ELEMENT_TYPES, FEAT_ID, MAX_RANK, N_FEAT, OPCODE_ID
from gbr.data.protobuf import HINT, boolean, decode, integer, integers, many, one, outline, text
from gbr.errors import HloError

IntArray = NDArray[np.int64]
Arrays = dict[str, NDArray[Any]]
Ints = Sequence[int]

#: Maximum number of instructions: over half a gigabyte of node features; the largest graph of TpuGraphs has 43,615.
MAX_INSTRUCTIONS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Layout:
    """LayoutProto: dimensions, minor to major."""

    minor_to_major: tuple[int, ...] = integers(1)


@dataclass(frozen=True, slots=True)
class Shape:
    """ShapeProto.  ``element_type`` is xla.PrimitiveType; a dynamic dimension holds its upper bound."""

    element_type: int = integer(2)
    dimensions: tuple[int, ...] = integers(3)
    tuple_shapes: tuple[Shape, ...] = many(4)
    layout: Layout = one(5, Layout)


@dataclass(frozen=True, slots=True)
class WindowDimension:
    """WindowDimension: one spatial dimension of a convolution or reduce-window."""

    size: int = integer(1)
    stride: int = integer(2)
    padding_low: int = integer(3)
    padding_high: int = integer(4)
    window_dilation: int = integer(5)
    base_dilation: int = integer(6)
    window_reversal: bool = boolean(7)


@dataclass(frozen=True, slots=True)
class Window:
    """Window: one entry per spatial dimension."""

    dimensions: tuple[WindowDimension, ...] = many(1, WindowDimension)


@dataclass(frozen=True, slots=True)
class ConvolutionDimensions:
    """ConvolutionDimensionNumbers: which dimension has which role."""

    kernel_input_feature: int = integer(3)
    kernel_output_feature: int = integer(4)
    kernel_spatial: tuple[int, ...] = integers(6)
    input_batch: int = integer(7)
    input_feature: int = integer(8)
    output_batch: int = integer(9)
    output_feature: int = integer(10)
    input_spatial: tuple[int, ...] = integers(11)


@dataclass(frozen=True, slots=True)
class SliceDimension:
    """HloInstructionProto.SliceDimensions: [start, limit) by stride along one dimension."""

    start: int = integer(1)
    limit: int = integer(2)
    stride: int = integer(3)


@dataclass(frozen=True, slots=True)
class PaddingDimension:
    """PaddingConfig.PaddingConfigDimension; negative padding crops."""

    low: int = integer(1)
    high: int = integer(2)


@dataclass(frozen=True, slots=True)
class Padding:
    """PaddingConfig: one entry per dimension."""

    dimensions: tuple[PaddingDimension, ...] = many(1, PaddingDimension)


@dataclass(frozen=True, slots=True)
class Metadata:
    """OpMetadata: the operation of the framework that an instruction comes from."""

    op_name: str = text(2)


@dataclass(frozen=True, slots=True)
class Instruction:
    """HloInstructionProto.

    ``operand_ids`` are ids of instructions of the same computation, ``called_ids`` ids of computations.  Ids are
    opaque: up to JAX 0.7 they count through the module, later they hold the computation's id in the upper 32 bits.
    """

    name: str = text(1)
    opcode: str = text(2)
    shape: Shape = one(3, Shape)
    metadata: Metadata = one(7, Metadata)
    parameter_number: int = integer(9)
    dimensions: tuple[int, ...] = integers(14)
    window: Window = one(15, Window)
    convolution: ConvolutionDimensions = one(16, ConvolutionDimensions)
    slices: tuple[SliceDimension, ...] = many(17, SliceDimension)
    dynamic_slice_sizes: tuple[int, ...] = integers(20)
    padding: Padding = one(21, Padding)
    id: int = integer(35)
    operand_ids: tuple[int, ...] = integers(36)
    called_ids: tuple[int, ...] = integers(38)
    feature_group_count: int = integer(50)
    batch_group_count: int = integer(58)
    is_stable: bool = boolean(60)


@dataclass(frozen=True)
class Computation:
    """HloComputationProto: instructions in dependency order, operands before their users."""

    name: str = text(1)
    instructions: tuple[Instruction, ...] = many(2, Instruction)
    id: int = integer(5)
    root_id: int = integer(6)

    @cached_property
    def positions(self) -> dict[int, int]:
        """Position of each instruction by its id."""
        return {instruction.id: position for position, instruction in enumerate(self.instructions)}


@dataclass(frozen=True)
class Module:
    """HloModuleProto: computations in dependency order, callees before their callers."""

    name: str = text(1)
    computations: tuple[Computation, ...] = many(3, Computation)
    entry_id: int = integer(6)

    def __len__(self) -> int:
        """Instructions in all computations, which are the nodes of the graph."""
        return sum(len(computation.instructions) for computation in self.computations)


def read_module(data: bytes) -> Module:
    """Decode an HLO module.

    Parameters
    ----------
    data : bytes
        HloModuleProto, or a message whose first field is one: HloProto, or ModuleTuningData of TpuGraphs.

    Raises
    ------
    HloError
        If the bytes are not an HLO module, or the module is invalid.
    """
    if data.startswith(b"HloModule "):
        raise HloError(f"expected an HLO protobuf, got HLO text; {HINT}")
    fields, start, stop = outline(data), 0, len(data)
    if not _is_module(fields) and 1 in fields:
        start, stop = fields[1]
        try:
            fields = outline(data, start, stop)
        except HloError:
            fields = {}
    if not _is_module(fields):
        raise HloError(f"no HLO module in {len(data)} bytes; {HINT}")
    return check(decode(Module, data, start, stop))


def _is_module(fields: dict[int, tuple[int, int]]) -> bool:
    # Fields of a module: computations and name of the entry.  In messages that wrap a module, field 2 is not text.
    return 3 in fields and 2 in fields


def check(module: Module) -> Module:
    """Validate a module, whose graph must be acyclic with operands before their users, and return it.

    Raises
    ------
    HloError
        For an id that is missing, duplicate or used before its instruction, and for an invalid layout or dimension.
    """
    where = f"HLO module {module.name!r}"
    if not module.computations:
        raise HloError(f"{where} has no computation; {HINT}")
    if len(module) > MAX_INSTRUCTIONS:
        raise HloError(f"{where}: expected at most {MAX_INSTRUCTIONS} instructions, got {len(module)}; split it")
    known: set[int] = set()
    for computation in module.computations:
        _check_computation(computation, known, where)
        if computation.id in known:
            raise HloError(f"{where}: two computations have id {computation.id}; {HINT}")
        known.add(computation.id)
    if module.entry_id not in known:
        raise HloError(f"{where}: no computation has the entry's id {module.entry_id}; {HINT}")
    return module


def _check_computation(computation: Computation, callable_ids: set[int], where: str) -> None:
    where = f"{where}, computation {computation.name!r}"
    earlier: set[int] = set()
    for instruction in computation.instructions:
        at = f"{where}, instruction {instruction.name!r}"
        for operand in instruction.operand_ids:
            if operand not in earlier:
                exists = operand in computation.positions
                fault = "does not precede it (a cycle, or not in dependency order)" if exists else "does not exist"
                raise HloError(f"{at}: operand with id {operand} {fault}; {HINT}")
        for callee in instruction.called_ids:
            if callee not in callable_ids:
                raise HloError(f"{at}: calls computation {callee}, which does not precede it; {HINT}")
        if instruction.id in earlier:
            raise HloError(f"{at}: duplicate id {instruction.id}; {HINT}")
        earlier.add(instruction.id)
        shape = instruction.shape
        if shape.dimensions and min(shape.dimensions) < 0:
            raise HloError(f"{at}: a dimension is unbounded; lower the program for known shapes")
        order = shape.layout.minor_to_major
        if len(set(order)) != len(order) or not set(order) <= set(range(len(shape.dimensions))):
            raise HloError(f"{at}: invalid layout {list(order)} for {len(shape.dimensions)} dimensions; {HINT}")
    if computation.root_id not in earlier:
        raise HloError(f"{where}: no instruction has the root's id {computation.root_id}; {HINT}")


def graph_arrays(data: bytes) -> Arrays:
    """Encode the module in ``data``, see :func:`read_module` and :func:`encode`."""
    return encode(read_module(data))


#: Opcodes of configurable nodes in TpuGraphs.
CONFIGURABLE: Final = frozenset(("convolution", "dot", "reshape"))

#: Prefixes of computations that are separate parts of the program; others (regions, fusions) belong to the next part.
_MAJOR: Final = ("cluster", "while", "cond")

#: Values of xla.PrimitiveType (xla/xla_data.proto) by name of their column; newer types (fp8, 4 bits) have no column.
_PRIMITIVE_TYPES: Final = {
    **{name: value for value, name in enumerate("invalid_type pred s8 s16 s32 s64 u8 u16 u32 u64 f16 f32 f64".split())},
    "tuple": 13,
    "opaque_type": 14,
    "c64": 15,
    "bf16": 16,
    "token": 17,
    "c128": 18,
}
_ONE_HOT: Final = np.array([_PRIMITIVE_TYPES[name] for name in ELEMENT_TYPES])

_CONV: Final = "convolution_dim_numbers"
_EDGE: Final = "padding_config_edge_padding"

#: Columns of one number.
_NUMBERS: Final[dict[str, Callable[[Instruction], int]]] = {
    "shape_tuple_shapes_size": lambda each: len(each.shape.tuple_shapes),
    "parameter_number": lambda each: each.parameter_number,
    "window_window_reversal_true_count": lambda each: sum(d.window_reversal for d in each.window.dimensions),
    "window_window_reversal_false_count": lambda each: sum(not d.window_reversal for d in each.window.dimensions),
    f"{_CONV}_input_batch_dim": lambda each: each.convolution.input_batch,
    f"{_CONV}_input_feature_dim": lambda each: each.convolution.input_feature,
    f"{_CONV}_kernel_input_feature_dim": lambda each: each.convolution.kernel_input_feature,
    f"{_CONV}_kernel_output_feature_dim": lambda each: each.convolution.kernel_output_feature,
    f"{_CONV}_output_batch_dim": lambda each: each.convolution.output_batch,
    f"{_CONV}_output_feature_dim": lambda each: each.convolution.output_feature,
    "feature_group_count": lambda each: each.feature_group_count,
    "batch_group_count": lambda each: each.batch_group_count,
    "is_stable": lambda each: each.is_stable,
}

#: Number of columns and function for their values, by first column.
_SLOTS: Final[dict[str, tuple[int, Callable[[Instruction], Ints]]]] = {
    "dimensions_0": (MAX_RANK, lambda each: each.dimensions),
    "window_window_reversal_0": (MAX_RANK, lambda each: [d.window_reversal for d in each.window.dimensions]),
    f"{_CONV}_input_spatial_dims_0": (4, lambda each: each.convolution.input_spatial),
    f"{_CONV}_kernel_spatial_dims_0": (4, lambda each: each.convolution.kernel_spatial),
    "layout_minor_to_major_0": (MAX_RANK, lambda each: each.shape.layout.minor_to_major),
}

#: The same, with sum and product in two more columns.
_TOTALS: Final[dict[str, tuple[int, Callable[[Instruction], Ints]]]] = {
    "shape_dimensions_0": (MAX_RANK, lambda each: each.shape.dimensions),
    "window_size_0": (MAX_RANK, lambda each: [d.size for d in each.window.dimensions]),
    "window_stride_0": (MAX_RANK, lambda each: [d.stride for d in each.window.dimensions]),
    "window_padding_low_0": (MAX_RANK, lambda each: [d.padding_low for d in each.window.dimensions]),
    "window_padding_high_0": (MAX_RANK, lambda each: [d.padding_high for d in each.window.dimensions]),
    "window_window_dilation_0": (MAX_RANK, lambda each: [d.window_dilation for d in each.window.dimensions]),
    "window_base_dilation_0": (MAX_RANK, lambda each: [d.base_dilation for d in each.window.dimensions]),
    "slice_dims_start_0": (2, lambda each: [d.start for d in each.slices]),
    "slice_dims_stride_0": (2, lambda each: [d.stride for d in each.slices]),
    "slice_dims_limit_0": (2, lambda each: [d.limit for d in each.slices]),
    "dynamic_slice_sizes_0": (2, lambda each: each.dynamic_slice_sizes),
    f"{_EDGE}_low_0": (2, lambda each: [d.low for d in each.padding.dimensions]),
    f"{_EDGE}_high_0": (2, lambda each: [d.high for d in each.padding.dimensions]),
}


def encode(module: Module) -> Arrays:
    """Encode a module as TpuGraphs does.

    Nodes are the instructions of all computations in the module's order: operands before users, callees before
    callers.  An instruction that calls (fusion, reduce, while, call, …) consumes the called computation's root.

    Returns
    -------
    dict
        ``node_opcode`` uint8 (n,), ``node_feat`` float32 (n, 140), ``edge_index`` int64 (m, 2) (row (u, v): u consumes
        v; sorted, no row twice), ``node_splits`` int64 (1, k), ``node_config_ids`` int64 (nc,): every convolution, dot
        and reshape outside fusions.

    Notes
    -----
    As in the original: an opcode that the vocabulary lacks is 0; of more than six dimensions (two for slices and
    padding, four for a convolution's spatial ones) the first are kept, while sums and products run over all of them;
    the empty product is 1; ``element_size_in_bits`` is always 0.
    """
    instructions = [instruction for computation in module.computations for instruction in computation.instructions]
    return {
        "node_opcode": np.array([OPCODE_ID.get(each.opcode, 0) for each in instructions], np.uint8),
        "node_feat": _node_feat(module, instructions),
        "edge_index": _edge_index(module),
        "node_splits": _node_splits(module)[None],
        "node_config_ids": _node_config_ids(module),
    }


def padded(rows: Sequence[Ints], slots: int, fill: int = 0) -> IntArray:
    """First ``slots`` values of every row, the rest ``fill``; int64 (len(rows), slots)."""
    row, slot, values = _ragged(rows)
    out = np.full((len(rows), slots), fill, np.int64)
    kept = slot < slots
    out[row[kept], slot[kept]] = values[kept]
    return out


def totalled(rows: Sequence[Ints], slots: int) -> IntArray:
    """:func:`padded` with two more columns, sum and product over whole rows (0 and 1 where empty), modulo 2**64."""
    row, _, values = _ragged(rows)
    total = np.zeros(len(rows), np.int64)
    product = np.ones(len(rows), np.int64)
    np.add.at(total, row, values)
    np.multiply.at(product, row, values)
    return np.column_stack((padded(rows, slots), total, product))


def _ragged(rows: Sequence[Ints]) -> tuple[IntArray, IntArray, IntArray]:
    sizes = np.array([len(row) for row in rows], np.int64)
    values = np.fromiter(chain.from_iterable(rows), np.int64, int(sizes.sum()))
    slot = np.arange(len(values)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.repeat(np.arange(len(rows)), sizes), slot, values


def _node_feat(module: Module, instructions: Sequence[Instruction]) -> NDArray[np.float32]:
    # All columns are whole numbers: one rounding, int64 to float32, as in the original.
    feat = np.zeros((len(instructions), N_FEAT), np.int64)

    def put(column: str, block: IntArray) -> None:
        first = FEAT_ID[column]
        feat[:, first : first + block.shape[1]] = block

    put("is_root", np.array(_is_root(module), np.int64)[:, None])
    types = np.array([each.shape.element_type for each in instructions], np.int64)
    put(f"shape_element_type_is_{ELEMENT_TYPES[0]}", (types[:, None] == _ONE_HOT).astype(np.int64))
    for column, number in _NUMBERS.items():
        put(column, np.array([number(each) for each in instructions], np.int64)[:, None])
    for column, (slots, values) in _SLOTS.items():
        put(column, padded([values(each) for each in instructions], slots))
    for column, (slots, values) in _TOTALS.items():
        put(column, totalled([values(each) for each in instructions], slots))
    return feat.astype(np.float32)


def _is_root(module: Module) -> list[bool]:
    return [each.id == computation.root_id for computation in module.computations for each in computation.instructions]


def _edge_index(module: Module) -> IntArray:
    roots: dict[int, int] = {}
    users: list[int] = []
    used: list[int] = []
    node = 0
    for computation in module.computations:
        first, positions = node, computation.positions
        for instruction in computation.instructions:
            users.extend([node] * (len(instruction.operand_ids) + len(instruction.called_ids)))
            used.extend(first + positions[operand] for operand in instruction.operand_ids)
            used.extend(roots[callee] for callee in instruction.called_ids)
            node += 1
        roots[computation.id] = first + positions[computation.root_id]
    return np.unique(np.column_stack((np.array(users, np.int64), np.array(used, np.int64))), axis=0)


def _node_splits(module: Module) -> IntArray:
    splits, node = [0], 0
    for computation in module.computations:
        node += len(computation.instructions)
        if any(word in computation.name for word in _MAJOR):
            splits.append(node)
    if splits[-1] < node:
        splits.append(node)
    return np.array(splits, np.int64)


def _node_config_ids(module: Module) -> IntArray:
    # From the back, callers come before what they call: whether a computation is inside a fusion is known in time.
    fused: set[int] = set()
    for computation in reversed(module.computations):
        for instruction in computation.instructions:
            if instruction.opcode == "fusion" or computation.id in fused:
                fused.update(instruction.called_ids)
    ids: list[int] = []
    node = 0
    for computation in module.computations:
        if computation.id not in fused:
            ids += [node + at for at, each in enumerate(computation.instructions) if each.opcode in CONFIGURABLE]
        node += len(computation.instructions)
    return np.array(ids, np.int64)
