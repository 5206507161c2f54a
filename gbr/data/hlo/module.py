"""HloModuleProto as Python records: the fields that a graph needs, checked for what every HLO module promises.

Field numbers are those of xla/service/hlo.proto and xla/xla_data.proto (openxla/xla).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

from gbr.data.hlo.wire import BOOL, HINT, INT, INTS, MANY, ONE, TEXT, Field, Message
from gbr.errors import HloError

#: More would need over half a gigabyte of node features; the largest graph of TpuGraphs has 43,615.
MAX_INSTRUCTIONS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Layout:
    """LayoutProto: dimension numbers from the fastest varying to the slowest."""

    minor_to_major: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Shape:
    """ShapeProto.  ``element_type`` is xla.PrimitiveType; a dynamic dimension holds its upper bound."""

    element_type: int = 0
    dimensions: tuple[int, ...] = ()
    tuple_shapes: tuple[Shape, ...] = ()
    layout: Layout = Layout()


@dataclass(frozen=True, slots=True)
class WindowDimension:
    """WindowDimension: one spatial dimension of a convolution or reduce-window."""

    size: int = 0
    stride: int = 0
    padding_low: int = 0
    padding_high: int = 0
    window_dilation: int = 0
    base_dilation: int = 0
    window_reversal: bool = False


@dataclass(frozen=True, slots=True)
class Window:
    """Window: one entry per spatial dimension."""

    dimensions: tuple[WindowDimension, ...] = ()


@dataclass(frozen=True, slots=True)
class ConvolutionDimensions:
    """ConvolutionDimensionNumbers: which dimension plays which role."""

    input_batch: int = 0
    input_feature: int = 0
    input_spatial: tuple[int, ...] = ()
    kernel_input_feature: int = 0
    kernel_output_feature: int = 0
    kernel_spatial: tuple[int, ...] = ()
    output_batch: int = 0
    output_feature: int = 0


@dataclass(frozen=True, slots=True)
class SliceDimension:
    """HloInstructionProto.SliceDimensions: [start, limit) by stride along one dimension."""

    start: int = 0
    limit: int = 0
    stride: int = 0


@dataclass(frozen=True, slots=True)
class PaddingDimension:
    """PaddingConfig.PaddingConfigDimension; negative padding crops."""

    low: int = 0
    high: int = 0


@dataclass(frozen=True, slots=True)
class Padding:
    """PaddingConfig: one entry per dimension."""

    dimensions: tuple[PaddingDimension, ...] = ()


@dataclass(frozen=True, slots=True)
class Instruction:
    """HloInstructionProto.

    ``operand_ids`` are ids of instructions of the same computation, ``called_ids`` ids of computations.  Ids are
    opaque: up to JAX 0.7 they count through the module, later they hold the computation's id in the upper 32 bits.
    """

    name: str = ""
    opcode: str = ""
    shape: Shape = Shape()
    id: int = 0
    operand_ids: tuple[int, ...] = ()
    called_ids: tuple[int, ...] = ()
    parameter_number: int = 0
    dimensions: tuple[int, ...] = ()
    window: Window = Window()
    convolution: ConvolutionDimensions = ConvolutionDimensions()
    feature_group_count: int = 0
    batch_group_count: int = 0
    slices: tuple[SliceDimension, ...] = ()
    dynamic_slice_sizes: tuple[int, ...] = ()
    padding: Padding = Padding()
    is_stable: bool = False


@dataclass(frozen=True)
class Computation:
    """HloComputationProto: instructions in dependency order, operands before their users."""

    name: str = ""
    instructions: tuple[Instruction, ...] = ()
    id: int = 0
    root_id: int = 0

    @cached_property
    def positions(self) -> dict[int, int]:
        """Position of each instruction by its id."""
        return {instruction.id: position for position, instruction in enumerate(self.instructions)}


@dataclass(frozen=True)
class Module:
    """HloModuleProto: computations in dependency order, callees before their callers."""

    name: str = ""
    computations: tuple[Computation, ...] = ()
    entry_id: int = 0

    @property
    def entry(self) -> Computation:
        """The computation that runs first; it calls the others."""
        return next(computation for computation in self.computations if computation.id == self.entry_id)

    def __len__(self) -> int:
        """Instructions in all computations: the nodes of the graph."""
        return sum(len(computation.instructions) for computation in self.computations)


LAYOUT: Final = Message("LayoutProto", Layout, {1: Field("minor_to_major", INTS)})
SHAPE: Final = Message(
    "ShapeProto",
    Shape,
    {2: Field("element_type", INT), 3: Field("dimensions", INTS), 5: Field("layout", ONE, LAYOUT)},
)
SHAPE.fields[4] = Field("tuple_shapes", MANY, SHAPE)
WINDOW: Final = Message(
    "Window",
    Window,
    {
        1: Field(
            "dimensions",
            MANY,
            Message(
                "WindowDimension",
                WindowDimension,
                {
                    1: Field("size", INT),
                    2: Field("stride", INT),
                    3: Field("padding_low", INT),
                    4: Field("padding_high", INT),
                    5: Field("window_dilation", INT),
                    6: Field("base_dilation", INT),
                    7: Field("window_reversal", BOOL),
                },
            ),
        )
    },
)
CONVOLUTION: Final = Message(
    "ConvolutionDimensionNumbers",
    ConvolutionDimensions,
    {
        3: Field("kernel_input_feature", INT),
        4: Field("kernel_output_feature", INT),
        6: Field("kernel_spatial", INTS),
        7: Field("input_batch", INT),
        8: Field("input_feature", INT),
        9: Field("output_batch", INT),
        10: Field("output_feature", INT),
        11: Field("input_spatial", INTS),
    },
)
SLICE: Final = Message(
    "SliceDimensions",
    SliceDimension,
    {1: Field("start", INT), 2: Field("limit", INT), 3: Field("stride", INT)},
)
PADDING: Final = Message(
    "PaddingConfig",
    Padding,
    {
        1: Field(
            "dimensions",
            MANY,
            Message("PaddingConfigDimension", PaddingDimension, {1: Field("low", INT), 2: Field("high", INT)}),
        )
    },
)
INSTRUCTION: Final = Message(
    "HloInstructionProto",
    Instruction,
    {
        1: Field("name", TEXT),
        2: Field("opcode", TEXT),
        3: Field("shape", ONE, SHAPE),
        9: Field("parameter_number", INT),
        14: Field("dimensions", INTS),
        15: Field("window", ONE, WINDOW),
        16: Field("convolution", ONE, CONVOLUTION),
        17: Field("slices", MANY, SLICE),
        20: Field("dynamic_slice_sizes", INTS),
        21: Field("padding", ONE, PADDING),
        35: Field("id", INT),
        36: Field("operand_ids", INTS),
        38: Field("called_ids", INTS),
        50: Field("feature_group_count", INT),
        58: Field("batch_group_count", INT),
        60: Field("is_stable", BOOL),
    },
)
COMPUTATION: Final = Message(
    "HloComputationProto",
    Computation,
    {
        1: Field("name", TEXT),
        2: Field("instructions", MANY, INSTRUCTION),
        5: Field("id", INT),
        6: Field("root_id", INT),
    },
)
MODULE: Final = Message(
    "HloModuleProto",
    Module,
    {1: Field("name", TEXT), 3: Field("computations", MANY, COMPUTATION), 6: Field("entry_id", INT)},
)


def check(module: Module) -> Module:
    """Return ``module`` when it keeps what HLO promises, so that its graph is acyclic and operands come first.

    Raises
    ------
    HloError
        For an id that is missing, taken twice or used before its instruction; a layout or a dimension that cannot be.
    """
    where = f"HLO module {module.name!r}"
    if not module.computations:
        raise HloError(f"{where} has no computation; {HINT}")
    if len(module) > MAX_INSTRUCTIONS:
        raise HloError(
            f"{where} has {len(module)} instructions; at most {MAX_INSTRUCTIONS} are read, split the program"
        )
    called: set[int] = set()
    for computation in module.computations:
        _check_computation(computation, called, where)
        if computation.id in called:
            raise HloError(f"{where}: two computations have id {computation.id}; {HINT}")
        called.add(computation.id)
    if module.entry_id not in called:
        raise HloError(f"{where}: no computation has the entry's id {module.entry_id}; {HINT}")
    return module


def _check_computation(computation: Computation, called: set[int], where: str) -> None:
    where = f"{where}, computation {computation.name!r}"
    earlier: set[int] = set()
    for instruction in computation.instructions:
        at = f"{where}, instruction {instruction.name!r}"
        for operand in instruction.operand_ids:
            if operand not in earlier:
                known = operand in computation.positions
                fault = "is not before it (cycle, or out of dependency order)" if known else "does not exist"
                raise HloError(f"{at}: operand with id {operand} {fault}; {HINT}")
        for callee in instruction.called_ids:
            if callee not in called:
                raise HloError(f"{at}: calls computation {callee}, which is not among those before it; {HINT}")
        if instruction.id in earlier:
            raise HloError(f"{at}: id {instruction.id} is taken by an earlier instruction; {HINT}")
        earlier.add(instruction.id)
        shape = instruction.shape
        if shape.dimensions and min(shape.dimensions) < 0:
            raise HloError(f"{at}: a dimension has no bound; lower the program for shapes that are known")
        order = shape.layout.minor_to_major
        if len(set(order)) != len(order) or not set(order) <= set(range(len(shape.dimensions))):
            raise HloError(f"{at}: layout {list(order)} does not fit its {len(shape.dimensions)} dimensions; {HINT}")
    if computation.root_id not in earlier:
        raise HloError(f"{where}: no instruction has the root's id {computation.root_id}; {HINT}")
