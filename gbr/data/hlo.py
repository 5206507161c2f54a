"""Encode HLO modules (protobuf) as arrays of a TpuGraphs file, equal to those of Google's feature extractor.

Field numbers are those of xla/service/hlo.proto and xla/xla_data.proto (openxla/xla).  Order and formulas follow
``process_data/xla/{hlo_encoder.cc,featurizers.h}`` of google-research-datasets/tpu_graphs (Apache-2.0), task
``module_layout_cost``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features.hlo import ELEMENT_TYPES, FEAT_ID, MAX_RANK, N_FEAT, OPCODE_ID
from gbr.data.protobuf import decode, field
from gbr.errors import HloError

IntArray = NDArray[np.int64]
Arrays = dict[str, NDArray[Any]]
Ints = Sequence[int]

#: Maximum number of instructions: over half a gigabyte of node features; the largest graph of TpuGraphs has 43,615.
MAX_INSTRUCTIONS: Final = 1_000_000

_HINT: Final = "JAX writes an HLO protobuf with jit(f).lower(*args).compiler_ir('hlo').as_serialized_hlo_module_proto()"


@dataclass(frozen=True, slots=True)
class Layout:
    """LayoutProto: dimensions, minor to major."""

    minor_to_major: tuple[int, ...] = field(1)


@dataclass(frozen=True, slots=True)
class Shape:
    """ShapeProto.  ``element_type`` is xla.PrimitiveType; a dynamic dimension holds its upper bound."""

    element_type: int = field(2)
    dimensions: tuple[int, ...] = field(3)
    tuple_shapes: tuple[Shape, ...] = field(4)
    layout: Layout = field(5)


@dataclass(frozen=True, slots=True)
class WindowDimension:
    """WindowDimension: one spatial dimension of a convolution or reduce-window."""

    size: int = field(1)
    stride: int = field(2)
    padding_low: int = field(3)
    padding_high: int = field(4)
    window_dilation: int = field(5)
    base_dilation: int = field(6)
    window_reversal: bool = field(7)


@dataclass(frozen=True, slots=True)
class Window:
    """Window: one entry per spatial dimension."""

    dimensions: tuple[WindowDimension, ...] = field(1)


@dataclass(frozen=True, slots=True)
class ConvolutionDimensions:
    """ConvolutionDimensionNumbers: which dimension has which role."""

    kernel_input_feature_dim: int = field(3)
    kernel_output_feature_dim: int = field(4)
    kernel_spatial_dims: tuple[int, ...] = field(6)
    input_batch_dim: int = field(7)
    input_feature_dim: int = field(8)
    output_batch_dim: int = field(9)
    output_feature_dim: int = field(10)
    input_spatial_dims: tuple[int, ...] = field(11)


@dataclass(frozen=True, slots=True)
class SliceDimension:
    """HloInstructionProto.SliceDimensions: [start, limit) by stride along one dimension."""

    start: int = field(1)
    limit: int = field(2)
    stride: int = field(3)


@dataclass(frozen=True, slots=True)
class PaddingDimension:
    """PaddingConfig.PaddingConfigDimension; negative padding crops."""

    low: int = field(1)
    high: int = field(2)


@dataclass(frozen=True, slots=True)
class Padding:
    """PaddingConfig: one entry per dimension."""

    dimensions: tuple[PaddingDimension, ...] = field(1)


@dataclass(frozen=True, slots=True)
class Metadata:
    """OpMetadata: the operation of the framework that an instruction comes from."""

    op_name: str = field(2)


@dataclass(frozen=True, slots=True)
class Instruction:
    """HloInstructionProto.

    ``operand_ids`` are ids of instructions of the same computation, ``called_ids`` ids of computations.  Ids are
    opaque: up to JAX 0.7 they count through the module, later they hold the computation's id in the upper 32 bits.
    """

    name: str = field(1)
    opcode: str = field(2)
    shape: Shape = field(3)
    metadata: Metadata = field(7)
    parameter_number: int = field(9)
    dimensions: tuple[int, ...] = field(14)
    window: Window = field(15)
    convolution: ConvolutionDimensions = field(16)
    slices: tuple[SliceDimension, ...] = field(17)
    dynamic_slice_sizes: tuple[int, ...] = field(20)
    padding: Padding = field(21)
    id: int = field(35)
    operand_ids: tuple[int, ...] = field(36)
    called_ids: tuple[int, ...] = field(38)
    feature_group_count: int = field(50)
    batch_group_count: int = field(58)
    is_stable: bool = field(60)


@dataclass(frozen=True, slots=True)
class Computation:
    """HloComputationProto: instructions in dependency order, operands before their users."""

    name: str = field(1)
    instructions: tuple[Instruction, ...] = field(2)
    id: int = field(5)
    root_id: int = field(6)


@dataclass(frozen=True, slots=True)
class Module:
    """HloModuleProto: computations in dependency order, callees before their callers."""

    name: str = field(1)
    entry_name: str = field(2)
    computations: tuple[Computation, ...] = field(3)
    entry_id: int = field(6)


@dataclass(frozen=True, slots=True)
class _Wrapper:
    """A message whose first field is a module: HloProto, or ModuleTuningData of TpuGraphs."""

    module: bytes = field(1)


def read_module(data: bytes) -> Module:
    """Decode an HloModuleProto, or a message whose first field is one: HloProto, or ModuleTuningData of TpuGraphs.

    Raises
    ------
    HloError
        If the bytes are not an HLO module.
    """
    if data.startswith(b"HloModule "):
        raise HloError(f"expected an HLO protobuf, got HLO text; {_HINT}")
    fault: HloError | None = None
    for unwrap in (bytes, lambda wrapped: decode(_Wrapper, wrapped).module):
        try:
            module = decode(Module, unwrap(data))
            # In a message around a module, field 2 is not text.
            if module.entry_name and module.computations:
                return module
        except HloError as error:
            fault = fault or error
    raise HloError(f"no HLO module in {len(data)} bytes ({fault or 'no computation'}); {_HINT}")


def graph_arrays(data: bytes) -> Arrays:
    """Encode the module in ``data``, see :func:`read_module` and :func:`encode`."""
    return encode(read_module(data))


#: Opcodes of configurable nodes in TpuGraphs.
CONFIGURABLE: Final = frozenset(("convolution", "dot", "reshape"))

#: Prefixes of computations that are separate parts of the program; others (regions, fusions) belong to the next part.
_MAJOR: Final = ("cluster", "while", "cond")

#: xla.PrimitiveType (xla/xla_data.proto), values from 0 on; newer types (fp8, 4 bits) have no column.
_TYPES: Final = "invalid_type pred s8 s16 s32 s64 u8 u16 u32 u64 f16 f32 f64 tuple opaque_type c64 bf16 token c128"
_ONE_HOT: Final = np.array([_TYPES.split().index(name) for name in ELEMENT_TYPES])

_ROLES: Final = ConvolutionDimensions.__slots__

#: Columns of one number.
_NUMBERS: Final[dict[str, Callable[[Instruction], int]]] = {
    "shape_tuple_shapes_size": lambda each: len(each.shape.tuple_shapes),
    "window_window_reversal_true_count": lambda each: sum(d.window_reversal for d in each.window.dimensions),
    "window_window_reversal_false_count": lambda each: sum(not d.window_reversal for d in each.window.dimensions),
    **{
        f"convolution_dim_numbers_{role}": attrgetter(f"convolution.{role}") for role in _ROLES if role.endswith("_dim")
    },
    "parameter_number": attrgetter("parameter_number"),
    "feature_group_count": attrgetter("feature_group_count"),
    "batch_group_count": attrgetter("batch_group_count"),
    "is_stable": attrgetter("is_stable"),
}


def _each(path: str, name: str) -> Callable[[Instruction], Ints]:
    dimensions, value = attrgetter(path), attrgetter(name)
    return lambda each: [value(dimension) for dimension in dimensions(each)]


#: Columns of several numbers by the stem of their names, ``<stem>_0`` ...
_LISTS: Final[dict[str, Callable[[Instruction], Ints]]] = {
    "dimensions": attrgetter("dimensions"),
    "shape_dimensions": attrgetter("shape.dimensions"),
    "layout_minor_to_major": attrgetter("shape.layout.minor_to_major"),
    "dynamic_slice_sizes": attrgetter("dynamic_slice_sizes"),
    **{
        f"convolution_dim_numbers_{role}": attrgetter(f"convolution.{role}")
        for role in _ROLES
        if role.endswith("_dims")
    },
    **{f"window_{name}": _each("window.dimensions", name) for name in WindowDimension.__slots__},
    **{f"slice_dims_{name}": _each("slices", name) for name in SliceDimension.__slots__},
    **{f"padding_config_edge_padding_{name}": _each("padding.dimensions", name) for name in PaddingDimension.__slots__},
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

    Raises
    ------
    HloError
        For an id that is missing or used before its instruction, an unbounded dimension, or too many instructions.

    Notes
    -----
    As in the original: an opcode that the vocabulary lacks is 0; of more than six dimensions (two for slices and
    padding, four for a convolution's spatial ones) the first are kept, while sums and products run over all of them;
    the empty product is 1; ``element_size_in_bits`` is always 0.
    """
    instructions = [instruction for computation in module.computations for instruction in computation.instructions]
    if len(instructions) > MAX_INSTRUCTIONS:
        raise HloError(f"expected at most {MAX_INSTRUCTIONS} instructions, got {len(instructions)}; split the module")
    # From the back, callers come before what they call: whether a computation is inside a fusion is known in time.
    fused: set[int] = set()
    for computation in reversed(module.computations):
        for each in computation.instructions:
            if each.opcode == "fusion" or computation.id in fused:
                fused.update(each.called_ids)
    node, splits = 0, [0]
    users: list[int] = []
    used: list[int] = []
    roots: dict[int, int] = {}
    configurable: list[int] = []
    for computation in module.computations:
        nodes: dict[int, int] = {}
        where = f"HLO module {module.name!r}, computation {computation.name!r}"
        for each in computation.instructions:
            try:
                operands = [*(nodes[id_] for id_ in each.operand_ids), *(roots[id_] for id_ in each.called_ids)]
            except KeyError as missing:
                raise HloError(
                    f"{where}, instruction {each.name!r}: no instruction or computation with id {missing} precedes it"
                ) from None
            if min(each.shape.dimensions, default=0) < 0:
                raise HloError(f"{where}, instruction {each.name!r}: unbounded dimension; lower it for known shapes")
            users += [node] * len(operands)
            used += operands
            if each.opcode in CONFIGURABLE and computation.id not in fused:
                configurable.append(node)
            nodes[each.id] = node
            node += 1
        if computation.root_id not in nodes:
            raise HloError(f"{where}: no instruction has the root's id {computation.root_id}")
        roots[computation.id] = nodes[computation.root_id]
        if any(word in computation.name for word in _MAJOR):
            splits.append(node)
    if module.entry_id not in roots:
        raise HloError(
            f"HLO module {module.name!r}: no computation has the entry's id {module.entry_id}; is it truncated?"
        )
    if splits[-1] < node:
        splits.append(node)
    is_root = np.zeros(node, bool)
    is_root[list(roots.values())] = True
    return {
        "node_opcode": np.array([OPCODE_ID.get(each.opcode, 0) for each in instructions], np.uint8),
        "node_feat": _node_feat(instructions, is_root),
        "edge_index": np.unique(np.column_stack((np.array(users, np.int64), np.array(used, np.int64))), axis=0),
        "node_splits": np.array([splits], np.int64),
        "node_config_ids": np.array(configurable, np.int64),
    }


def padded(rows: Sequence[Ints], slots: int, fill: int = 0, *, totals: bool = False) -> IntArray:
    """First ``slots`` values of every row, the rest ``fill``; int64 (len(rows), slots).

    With ``totals``, two more columns: sum and product over whole rows (0 and 1 where empty), modulo 2**64.
    """
    sizes = np.array([len(row) for row in rows], np.int64)
    values = np.fromiter(chain.from_iterable(rows), np.int64, int(sizes.sum()))
    row = np.repeat(np.arange(len(rows)), sizes)
    slot = np.arange(len(values)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    out = np.full((len(rows), slots + 2 * totals), fill, np.int64)
    kept = slot < slots
    out[row[kept], slot[kept]] = values[kept]
    if totals:
        out[:, slots:] = 0, 1
        np.add.at(out[:, -2], row, values)
        np.multiply.at(out[:, -1], row, values)
    return out


def _node_feat(instructions: Sequence[Instruction], is_root: NDArray[np.bool_]) -> NDArray[np.float32]:
    # All columns are whole numbers: one rounding, int64 to float32, as in the original.
    feat = np.zeros((len(instructions), N_FEAT), np.int64)
    feat[:, FEAT_ID["is_root"]] = is_root
    types = np.array([each.shape.element_type for each in instructions], np.int64)
    first = FEAT_ID[f"shape_element_type_is_{ELEMENT_TYPES[0]}"]
    feat[:, first : first + len(_ONE_HOT)] = types[:, None] == _ONE_HOT
    for column, number in _NUMBERS.items():
        feat[:, FEAT_ID[column]] = [number(each) for each in instructions]
    for stem, values in _LISTS.items():
        slots = sum(f"{stem}_{slot}" in FEAT_ID for slot in range(MAX_RANK))
        block = padded([values(each) for each in instructions], slots, totals=f"{stem}_sum" in FEAT_ID)
        first = FEAT_ID[f"{stem}_0"]
        feat[:, first : first + block.shape[1]] = block
    return feat.astype(np.float32)
