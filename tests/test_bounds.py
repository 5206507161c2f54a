"""Tile bounds in registers, by hand and on measured kernels of TpuGraphs; what stands behind a fusion's parameters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kendalltau

from features.graph import Program
from features.hardware import CPU, TPU, Hardware
from features.hlo import OPCODES, TILE_CONFIG
from features.operations import parameter_operands, result_of
from features.tensors import Tensors
from features.tile.extractor import TileExtractor, schema
from features.tile.geometry import bound_units, loop_tiles, tensor_tiles
from features.tile.loops import loop_nest
from gbr import read_graph
from gbr.data.hlo import Tuning, encode, read_tuning
from tests import programs
from tests.programs import Sketch

#: What the bounds of the measured kernels belong to: opcode and shape.  Three reshapes have no bounds.
OWNERS = {
    "fusion.232": [("select", (32, 26, 26, 192))],  # what a reduction reads
    "fusion.191": [("convolution", (32, 12, 12, 384)), ("fusion", (3, 3, 192, 384))],
    "fusion.261": [("convolution", (4096, 1000)), ("fusion", (32, 1000))],
    "fusion.209": [("convolution", (32, 4096)), ("fusion", (4096, 1000))],
    "fusion.205": [("convolution", (32, 1000)), ("fusion", (4096, 1000))],
    "fusion.245": [("select", (32, 12, 12, 256))],
    "copy.24": [("copy", (32, 5, 5, 256))],
    "copy.25": [("copy", (32, 5, 5, 256))],
    "fusion.181": [("fusion", (32, 4096))],
    "fusion.207": [("multiply", (32, 1000))],
    "fusion.206": [("exponential", (32, 1000))],
    "fusion.250": [("fusion", (4096,))],
    "reshape.37": [],
    "reshape.38": [],
    "reshape.39": [],
}
#: Types by column of the node features; a mask of a comparison is one word per lane.
UNITS = {"f32": (8, 128), "bf16": (16, 128), "pred": (8, 128)}


def config(**bounds: tuple[int, ...]) -> np.ndarray:
    row = np.zeros((1, len(TILE_CONFIG)), np.float32)
    for name, values in bounds.items():
        first = TILE_CONFIG.index(f"{name}_bounds_0")
        row[0, first : first + len(values)] = values
    return row


def tiles_of(program: Program, hardware: Hardware = TPU, **bounds: tuple[int, ...]) -> list[int]:
    tensors = Tensors.of(program)
    (row,) = loop_tiles(loop_nest(program, tensors), tensors, config(**bounds), hardware).tolist()
    return list(row)


def copy(shape: tuple[int, ...], layout: tuple[int, ...], kind: str = "f32") -> Program:
    sketch = Sketch()
    given = {"shape_element_type_is_f32": 0, f"shape_element_type_is_{kind}": 1}
    sketch.node("copy", shape, sketch.node("parameter", shape, **given), layout=layout, **given)
    return sketch.program()


def kernels(shared_data: Path) -> list[tuple[Tuning, Program]]:
    found = []
    for kernel in read_tuning((shared_data / "pb" / "op_tuning_data.pb").read_bytes()):
        arrays = encode(kernel.module)
        found.append((kernel, Program(arrays["node_opcode"], arrays["node_feat"], arrays["edge_index"])))
    return found


@pytest.mark.parametrize(
    ("kind", "layout", "bounds", "wanted"),
    [
        ("f32", (3, 0, 2, 1), (5, 2, 3, 1), [24, 5, 2, 128]),  # in memory: 1, 2, 0, 3
        ("bf16", (3, 0, 2, 1), (5, 2, 3, 1), [40, 5, 2, 128]),
        ("f32", (3, 2, 1, 0), (40, 9, 1, 2), [40, 9, 7, 200]),
        ("f32", (2, 3, 1, 0), (40, 9, 1, 1), [40, 9, 7, 8]),
        ("pred", (3, 0, 2, 1), (5, 2, 3, 1), [24, 5, 2, 128]),
        ("s8", (3, 0, 2, 1), (5, 2, 1, 1), [32, 5, 2, 128]),
        ("f32", (3, 0, 2, 1), (5, 2, 3), [40, 9, 7, 200]),  # bounds of another rank say nothing
        ("f32", (3, 0, 2, 1), (), [40, 9, 7, 200]),
    ],
)
def test_register_bounds_run_through_memory(
    kind: str, layout: tuple[int, ...], bounds: tuple[int, ...], wanted: list[int]
) -> None:
    assert tiles_of(copy((40, 9, 7, 200), layout, kind), output=bounds) == wanted


def test_the_bound_of_a_vector_counts_whole_registers() -> None:
    assert tiles_of(copy((5000,), (0,)), output=(3,)) == [3072]
    assert bound_units(Tensors.of(copy((5000,), (0,), "bf16")), 0, TPU).tolist() == [2048]
    assert tiles_of(copy((5000,), (0,)), CPU, output=(3,)) == [3]


def test_register_bounds_belong_to_the_convolution_not_to_the_root() -> None:
    sketch = Sketch()
    left, right = sketch.node("parameter", (64, 300)), sketch.node("parameter", (300, 500))
    product = sketch.node("dot", (64, 500), left, right)
    sketch.node("transpose", (500, 64), product, dimensions=(1, 0), layout=(1, 0))
    program = sketch.program()
    # Loops: those of the root (500, 64), then the contracted one.
    assert tiles_of(program, output=(2, 1), kernel=(3, 9)) == [128, 16, 24]
    assert tiles_of(program, CPU, output=(2, 1), kernel=(3, 9)) == [2, 1, 3]


def test_register_bounds_of_a_reduction_belong_to_its_input() -> None:
    assert tiles_of(programs.column_sum(60, 1000), output=(2, 3)) == [384, 16]
    assert tiles_of(programs.column_sum(60, 5000), output=(2,)) == [2048, 60]


def test_measured_kernels_decode_without_overflow(shared_data: Path) -> None:
    found = kernels(shared_data)
    assert {kernel.module.name for kernel, _ in found} == set(OWNERS)
    assert sum(int(kernel.measured.sum()) for kernel, _ in found) == 752
    tensors_seen, covered, turned, overflowing = 0, 0, 0, 0
    for kernel, program in found:
        name, tensors = kernel.module.name, Tensors.of(program)
        decoded = tensor_tiles(loop_nest(program, tensors), tensors, kernel.config, TPU)
        owners = [(OPCODES[int(program.opcode[each.node])], tensors.shape(each.node)) for each in decoded]
        assert owners == OWNERS[name], name
        parts = [kernel.config[:, first : first + 6].astype(int) for first in (8, 0, 16)]
        given = [part for part in parts if part.any()]
        held = np.zeros(len(kernel.config))
        for each, owner, bounds in zip(decoded, owners, given, strict=True):
            kind, layout = _written(kernel, owner)
            shape, rank, order = np.array(owner[1]), len(owner[1]), layout[::-1]
            unit = [1024] if rank == 1 else [1] * (rank - 2) + list(UNITS[kind])
            registers = -(-shape[order] // unit)
            bounds, rest = bounds[:, :rank], bounds[:, rank:]
            assert (rest == 0).all(), name
            assert (bounds >= 1).all(), name
            assert (bounds <= registers).all(), name
            wanted = np.empty((len(bounds), rank), int)
            for row, bound in enumerate(bounds.tolist()):
                for place, dim in enumerate(order):
                    wanted[row, dim] = min(bound[place] * unit[place], shape[dim])
            assert each.tiles.tolist() == wanted.tolist(), name
            counts = np.ceil(shape / wanted).prod(axis=1)
            assert counts.min() >= 1, name
            assert counts.max() <= registers.prod(), name
            held += each.tiles.prod(axis=1) * tensors.width[each.node]
            tensors_seen += 1
            covered += bool((bounds.max(axis=0) == registers).all())
            turned += order != sorted(order)
            overflowing += bool((bounds > -(-shape // unit)).any())
        assert held.max() <= TPU.caches[0].nbytes, name
    assert tensors_seen == 16
    assert covered == 13  # where the search reached the whole tensor, the largest bounds are exactly its registers
    assert (turned, overflowing) == (7, 6)  # in logical order, what does not lie row-major would not hold its tiles


def _written(kernel: Tuning, owner: tuple[str, tuple[int, ...]]) -> tuple[str, list[int]]:
    """Element type and minor-to-major order of an instruction, as the module itself says."""
    found = {
        (each.shape.element_type, each.shape.layout.minor_to_major)
        for computation in kernel.module.computations
        for each in computation.instructions
        if (each.opcode, each.shape.dimensions) == owner
    }
    ((kind, layout),) = found
    return {1: "pred", 11: "f32", 16: "bf16"}[kind], list(layout)


def test_the_stored_kernels_decode_without_overflow(shared_data: Path) -> None:
    seen = 0
    for path in sorted(shared_data.glob("npz/tile/xla/*/*.npz")):
        graph = read_graph(path)
        assert graph.config_feat is not None
        program = Program(graph.node_opcode, graph.node_feat, graph.edge_index)
        tensors = Tensors.of(program)
        for each in tensor_tiles(loop_nest(program, tensors), tensors, graph.config_feat, TPU):
            bounds = {"convolution": 8, "copy": 8, "fusion": 0}[OPCODES[int(program.opcode[each.node])]]
            rank = each.tiles.shape[1]
            order = tensors.layout(each.node)[::-1]
            registers = -(-np.array(tensors.shape(each.node))[order] // bound_units(tensors, each.node, TPU))
            assert (graph.config_feat[:, bounds : bounds + rank] <= registers).all()
            assert each.tiles.min() >= 1
            seen += 1
    assert seen == 3  # output and kernel of a convolution, output of a copy


def test_decoded_tiles_tell_more_of_the_runtime(shared_data: Path) -> None:
    kernel, program = next(each for each in kernels(shared_data) if each[0].module.name == "fusion.191")
    kept = kernel.measured
    column = schema().names.index("geometry.traffic.ordered")
    tau = {}
    for hardware in (CPU, TPU):
        traffic = TileExtractor(program, hardware)(kernel.config[kept])[:, column]
        tau[hardware.name] = kendalltau(traffic, kernel.runtime[kept]).statistic
    assert tau["tpu"] > 0.75
    assert tau["tpu"] > tau["cpu"] + 0.05


def called(*, twice: bool = False, callers: int = 1) -> tuple[Program, dict[str, int]]:
    """A fusion that turns what it is handed and scales it, called with the sum of two parameters."""
    sketch = Sketch()
    at = {"inner": sketch.node("parameter", (6, 10))}
    at["scale"] = sketch.node("parameter", (6, 10) if twice else (10,))
    turned = sketch.node("transpose", (10, 6), at["inner"], dimensions=(1, 0))
    root = sketch.node("multiply", (10, 6), turned, at["scale"], is_root=1)
    at["a"], at["b"] = sketch.node("parameter", (6, 10)), sketch.node("parameter", (6, 10))
    at["sum"] = sketch.node("add", (6, 10), at["a"], at["b"])
    at["c"] = sketch.node("parameter", (6, 10) if twice else (10,))
    for _ in range(callers):
        at["fusion"] = sketch.node("fusion", (10, 6), root, at["sum"], at["c"])
    return sketch.program(), at


def test_a_parameter_stands_for_what_its_caller_hands_in() -> None:
    program, at = called()
    tensors = Tensors.of(program)
    assert parameter_operands(program, tensors) == {at["inner"]: at["sum"], at["scale"]: at["c"]}
    nest = loop_nest(program, tensors)
    read = {access.node: access.coefficients.tolist() for access in nest.accesses[1:]}
    assert read[at["a"]] == read[at["b"]] == [[0, 1], [1, 0]]  # through the transpose inside the body
    assert set(read) == {at["a"], at["b"], at["c"]}


@pytest.mark.parametrize("given", [{"twice": True}, {"callers": 2}], ids=["two of a shape", "two callers"])
def test_what_is_not_unique_is_not_linked(given: dict[str, int]) -> None:
    program, at = called(**given)  # type: ignore[arg-type]
    assert parameter_operands(program, Tensors.of(program)) == {}
    assert at["inner"] in {access.node for access in loop_nest(program).accesses}


def test_nested_bodies_belong_to_their_own_caller() -> None:
    sketch = Sketch()
    innermost = sketch.node("parameter", (4, 8))
    inner_root = sketch.node("negate", (4, 8), innermost, is_root=1)
    middle = sketch.node("parameter", (4, 8))
    inner = sketch.node("fusion", (4, 8), inner_root, middle)
    root = sketch.node("exponential", (4, 8), inner, is_root=1)
    outer = sketch.node("parameter", (4, 8))
    sketch.node("fusion", (4, 8), root, outer)
    program = sketch.program()
    assert parameter_operands(program, Tensors.of(program)) == {innermost: middle, middle: outer}
    assert [access.node for access in loop_nest(program).accesses[1:]] == [outer]


def test_a_fusion_of_several_results_writes_its_largest() -> None:
    sketch = Sketch()
    inner = sketch.node("parameter", (64, 32))
    small = sketch.node("reduce", (32,), inner, dimensions=(0,))
    wide = sketch.node("negate", (64, 32), inner)
    tuple_type = {"shape_element_type_is_f32": 0, "shape_element_type_is_tuple": 1}
    root = sketch.node("tuple", (), small, wide, is_root=1, **tuple_type)
    outer = sketch.node("parameter", (64, 32))
    sketch.node("fusion", (), root, outer, **tuple_type)
    program = sketch.program()
    assert result_of(program, Tensors.of(program)) == wide
