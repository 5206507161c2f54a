"""Tile features: loop nests and bounds by hand and of measured kernels, Numba kernels against naive implementations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau

from features.graph import Program
from features.hardware import CPU, TPU, Cache, Hardware
from features.hlo import OPCODES, TILE_CONFIG
from features.tensors import Tensors
from features.tile import cpu, geometry, operands
from features.tile.cpu import CacheModel
from features.tile.extractor import TileExtractor, schema
from features.tile.geometry import Geometry, loop_tiles, tensor_tiles
from features.tile.loops import LoopNest, loop_nest
from features.tile.operands import LoopSlots, loop_slots
from gbr.data.hlo import encode
from tests import programs, reference
from tests.tuning import Tuning, read_tuning

SMALL = Hardware("small", 16, 16, (Cache(256, 2), Cache(1024, 4)))
CACHE_COLUMNS = [column.name for column in cpu.BLOCK.columns]


def config(**bounds: tuple[int, ...]) -> np.ndarray:
    row = np.zeros((1, len(TILE_CONFIG)), np.float32)
    for name, values in bounds.items():
        first = TILE_CONFIG.index(f"{name}_bounds_0")
        row[0, first : first + len(values)] = values
    return row


def read(program: Program) -> tuple[LoopNest, Tensors, LoopSlots]:
    tensors = Tensors.of(program)
    nest = loop_nest(program, tensors)
    return nest, tensors, loop_slots(nest, tensors)


def steps(nest: LoopNest, role: str) -> list[list[float]]:
    access = nest.first(role)
    assert access is not None
    return access.coefficients.tolist()


def tiles_of(program: Program, hardware: Hardware = CPU, **bounds: tuple[int, ...]) -> list[int]:
    nest, tensors, _ = read(program)
    (row,) = loop_tiles(nest, tensors, config(**bounds), hardware).tolist()
    return list(row)


def cache_model(program: Program, hardware: Hardware) -> CacheModel:
    nest, tensors, slots = read(program)
    return CacheModel(Geometry(nest, tensors, slots), slots, hardware)


def random_tiles(data: st.DataObject, nest: LoopNest, rows: int, largest: int = 1 << 30) -> np.ndarray:
    return np.array(
        [[data.draw(st.integers(1, min(int(extent), largest))) for extent in nest.extents] for _ in range(rows)],
        np.int64,
    )


# --- loops -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "extents", "roles", "left", "right"),
    [
        ("matmul", [12, 20, 7], "m n k", [[1, 0, 0], [0, 0, 1]], [[0, 0, 1], [0, 1, 0]]),
        ("matmul transposed", [12, 20, 7], "m n k", [[1, 0, 0], [0, 0, 1]], [[0, 1, 0], [0, 0, 1]]),  # as in memory
        ("softmax", [6, 10], "m n", [[1, 0], [0, 1]], None),  # the sum runs over a loop of the result
        ("max pool", [5, 4, 3, 3], "m n k k", [[2, 0, 1, 0], [0, 2, 0, 1]], None),
        ("column sum", [10, 6], "n k", [[0, 1], [1, 0]], None),
        ("reshape", [3, 4, 5], "m m n", [[4, 1, 0], [0, 0, 1]], None),
    ],
)
def test_loops_of_kernels(name: str, extents: list[int], roles: str, left: object, right: object) -> None:
    nest = read(programs.KERNELS[name])[0]
    assert (nest.extents.tolist(), " ".join(nest.roles)) == (extents, roles)
    for role, expected in (("left", left), ("right", right)):
        assert expected is None or steps(nest, role) == expected


def test_loops_of_batched_products_and_strided_convolutions() -> None:
    batched = read(programs.batched_matmul(3, 5, 8, 6))[0]
    assert batched.roles == ("batch", "m", "n", "k")
    assert steps(batched, "right") == [[1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]]
    nest = read(programs.conv2d(2, 9, 3, 4, 3, stride=2))[0]
    assert nest.extents.tolist() == [2, 4, 4, 4, 3, 3, 3]
    assert nest.roles == ("batch", "m", "m", "n", "k", "k", "k")
    assert steps(nest, "left")[1] == [0, 2, 0, 0, 0, 1, 0]
    assert steps(nest, "left")[3] == [0, 0, 0, 0, 1, 0, 0]
    assert steps(nest, "right")[3] == [0, 0, 0, 1, 0, 0, 0]
    assert steps(nest, "extra") == [[0, 0, 0, 1, 0, 0, 0]]  # the bias


def test_operands_are_recognised_by_shape() -> None:
    swapped = programs.program(("parameter", (7, 20)), ("parameter", (12, 7)), ("dot", (12, 20), 0, 1))
    access = read(swapped)[0].first("left")
    assert access is not None
    assert (access.node, access.coefficients.tolist()) == (1, [[1, 0, 0], [0, 0, 1]])
    # Edges are sorted: the left operand of a matrix times its transpose is the transpose.
    turned = ("transpose", (12, 7), 0, {"dimensions": (1, 0)})
    gram = programs.program(("parameter", (7, 12)), turned, ("dot", (12, 12), 0, 1))
    assert read(gram)[0].operands["left"][0] == 1
    assert tiles_of(gram, output=(4, 6), kernel=(3, 6)) == [4, 6, 3]


def test_a_depthwise_convolution_reads_its_own_channel() -> None:
    attributes = {"window_size": (3,), "feature_group_count": 6, **programs.conv_dims((0, 2), (1, 2), (0, 2), rank=3)}
    parameters = ("parameter", (1, 8, 6)), ("parameter", (3, 1, 6))
    left = steps(read(programs.program(*parameters, ("convolution", (1, 6, 6), 0, 1, attributes)))[0], "left")
    assert left[2][2] == 1
    assert left[1] == [0, 1, 0, 0, 1]


def test_slots_of_a_reduction() -> None:
    _, _, slots = read(programs.column_sum(6, 10))
    assert (slots.out, slots.reduced) == ((0, -1, -1, -1), (1, -1, -1))
    assert slots.fast[:2] == (0, 1)  # the row-wise loop is contiguous for both operands


@pytest.mark.parametrize(("opcode", "n_operands"), [("gather", 2), ("transpose", 2), ("select-and-scatter", 3)])
def test_an_unsupported_operation_keeps_the_loops_of_the_result(opcode: str, n_operands: int) -> None:
    parameters = [("parameter", shape) for shape in ((100, 8), (5,), (5, 8))[:n_operands]]
    nest = read(programs.program(*parameters, (opcode, (5, 8), *range(n_operands))))[0]
    assert nest.extents.tolist() == [5, 8]
    assert all(np.isfinite(access.coefficients).all() for access in nest.accesses)


def test_a_tuple_is_no_operand_of_a_dot() -> None:
    flags = {"shape_element_type_is_f32": 0, "shape_element_type_is_tuple": 1}
    parameters = ("parameter", (12, 7, 3), flags), ("parameter", (7, 20))
    assert read(programs.program(*parameters, ("dot", (12, 3, 20), 0, 1)))[0].extents.tolist() == [12, 3, 20]


# --- bounds ----------------------------------------------------------------------------------------------------------


def copy(shape: tuple[int, ...], layout: tuple[int, ...], kind: str = "f32") -> Program:
    element_type = {"shape_element_type_is_f32": 0, f"shape_element_type_is_{kind}": 1}
    return programs.program(("parameter", shape, element_type), ("copy", shape, 0, {"layout": layout, **element_type}))


#: Loops: those of the root (500, 64), then the contracted one.
TRANSPOSED_DOT = programs.program(
    ("parameter", (64, 300)), ("parameter", (300, 500)), ("dot", (64, 500), 0, 1),
    ("transpose", (500, 64), 2, {"dimensions": (1, 0), "layout": (1, 0)}),
)  # fmt: skip


@pytest.mark.parametrize(
    ("program", "bounds", "on_cpu", "on_tpu"),
    [
        (programs.matmul(12, 20, 7), {}, [12, 20, 7], [12, 20, 7]),
        (programs.matmul(12, 20, 7), {"output": (4, 8)}, [4, 8, 7], None),
        (programs.matmul(12, 20, 7), {"output": (99, 8), "kernel": (3, 5)}, [12, 8, 3], None),
        (programs.matmul(12, 20, 7), {"output": (0, 8), "input": (5, 2)}, [5, 8, 2], None),
        # The bounds of a reduction may belong to its input.
        (programs.column_sum(60, 1000), {"output": (2, 3)}, [3, 2], [384, 16]),
        (programs.column_sum(60, 1000), {"output": (5,), "input": (2, 3)}, [5, 2], None),
        (programs.column_sum(60, 5000), {"output": (2,)}, [2, 60], [2048, 60]),
        # Bounds in registers follow the memory order; those of another rank do not count.
        (copy((40, 9, 7, 200), (3, 0, 2, 1)), {"output": (5, 2, 3, 1)}, [5, 2, 3, 1], [24, 5, 2, 128]),
        (copy((40, 9, 7, 200), (3, 0, 2, 1), "bf16"), {"output": (5, 2, 3, 1)}, None, [40, 5, 2, 128]),
        (copy((40, 9, 7, 200), (3, 2, 1, 0)), {"output": (40, 9, 1, 2)}, None, [40, 9, 7, 200]),
        (copy((40, 9, 7, 200), (2, 3, 1, 0)), {"output": (40, 9, 1, 1)}, None, [40, 9, 7, 8]),
        (copy((40, 9, 7, 200), (3, 0, 2, 1), "pred"), {"output": (5, 2, 3, 1)}, None, [24, 5, 2, 128]),
        (copy((40, 9, 7, 200), (3, 0, 2, 1), "s8"), {"output": (5, 2, 1, 1)}, None, [32, 5, 2, 128]),
        (copy((40, 9, 7, 200), (3, 0, 2, 1)), {"output": (5, 2, 3)}, [5, 2, 3, 200], [40, 9, 7, 200]),
        # The bound of a vector counts whole registers.
        (copy((5000,), (0,)), {"output": (3,)}, [3], [3072]),
        (copy((5000,), (0,), "bf16"), {"output": (2,)}, [2], [4096]),
        # Bounds in registers belong to the dot, those in elements to the root.
        (TRANSPOSED_DOT, {"output": (2, 1), "kernel": (3, 9)}, [2, 1, 3], [128, 16, 24]),
    ],
)
def test_tiles_of_bounds(
    program: Program, bounds: dict[str, tuple[int, ...]], on_cpu: list[int] | None, on_tpu: list[int] | None
) -> None:
    for hardware, expected in ((CPU, on_cpu), (TPU, on_tpu)):
        assert expected is None or tiles_of(program, hardware, **bounds) == expected


#: Opcode and shape of the tensors that the bounds of measured kernels belong to.  Three reshapes have no bounds.
OWNERS = {
    "fusion.232": [("select", (32, 26, 26, 192))],  # the input of a reduction
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
#: Rows and lanes of a register by element type; the mask of a comparison is one word per lane.
UNITS = {"f32": (8, 128), "bf16": (16, 128), "pred": (8, 128)}


@pytest.fixture(scope="module")
def measured(shared_data: Path) -> list[tuple[Tuning, Program]]:
    found = []
    for kernel in read_tuning((shared_data / "pb" / "op_tuning_data.pb").read_bytes()):
        arrays = encode(kernel.module)
        found.append((kernel, Program(arrays["node_opcode"], arrays["node_feat"], arrays["edge_index"])))
    return found


def element_type_and_layout(kernel: Tuning, owner: tuple[str, tuple[int, ...]]) -> tuple[str, list[int]]:
    """Element type and minor-to-major order of an instruction, read from the module itself."""
    ((kind, layout),) = {
        (each.shape.element_type, each.shape.layout.minor_to_major)
        for computation in kernel.module.computations
        for each in computation.instructions
        if (each.opcode, each.shape.dimensions) == owner
    }
    return {1: "pred", 11: "f32", 16: "bf16"}[kind], list(layout)


def test_bounds_of_measured_kernels_fit_their_tensors(measured: list[tuple[Tuning, Program]]) -> None:
    assert {kernel.module.name for kernel, _ in measured} == set(OWNERS)
    n_tensors, covered, permuted, too_large_in_logical_order = 0, 0, 0, 0
    for kernel, program in measured:
        name, tensors = kernel.module.name, Tensors.of(program)
        decoded = list(tensor_tiles(read(program)[0], tensors, kernel.config, TPU))
        owners = [(OPCODES[int(program.opcode[each.node])], tensors.shape(each.node)) for each in decoded]
        assert owners == OWNERS[name], name
        given_bounds = [part for first in (8, 0, 16) if (part := kernel.config[:, first : first + 6].astype(int)).any()]
        nbytes = np.zeros(len(kernel.config))
        for each, owner, bounds in zip(decoded, owners, given_bounds, strict=True):
            kind, layout = element_type_and_layout(kernel, owner)
            shape, rank, order = np.array(owner[1]), len(owner[1]), layout[::-1]
            unit = np.array([1024] if rank == 1 else [1] * (rank - 2) + list(UNITS[kind]))
            registers = -(-shape[order] // unit)
            assert ((bounds[:, :rank] >= 1) & (bounds[:, :rank] <= registers)).all(), name
            assert (bounds[:, rank:] == 0).all(), name
            expected = np.empty((len(bounds), rank), int)
            expected[:, order] = np.minimum(bounds[:, :rank] * unit, shape[order])
            assert each.tiles.tolist() == expected.tolist(), name
            nbytes += each.tiles.prod(axis=1) * tensors.width[each.node]
            n_tensors += 1
            covered += bool((bounds[:, :rank].max(axis=0) == registers).all())
            permuted += order != sorted(order)
            too_large_in_logical_order += bool((bounds[:, :rank] > -(-shape // unit)).any())
        assert nbytes.max() <= TPU.caches[0].nbytes, name
    # If the search reached the whole tensor, the largest bounds are exactly its registers.
    assert (n_tensors, covered, permuted, too_large_in_logical_order) == (16, 13, 7, 6)


def test_traffic_of_decoded_tiles_correlates_with_the_runtime(measured: list[tuple[Tuning, Program]]) -> None:
    kernel, program = next(each for each in measured if each[0].module.name == "fusion.191")
    column, kept = schema().names.index("geometry.traffic.ordered"), kernel.measured
    traffic = {
        name: TileExtractor(program, hardware)(kernel.config[kept])[:, column]
        for name, hardware in (("cpu", CPU), ("tpu", TPU))
    }
    tau = {name: kendalltau(values, kernel.runtime[kept]).statistic for name, values in traffic.items()}
    assert tau["tpu"] > max(0.75, tau["cpu"] + 0.05)


# --- geometry and caches ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", programs.KERNELS)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_geometry_matches_numpy(name: str, data: st.DataObject) -> None:
    nest, tensors, slots = read(programs.KERNELS[name])
    tiles = random_tiles(data, nest, 3)
    for hardware in (CPU, TPU):
        expected = reference.geometry_columns(nest, tensors, slots, tiles, hardware.line_bytes)
        np.testing.assert_allclose(Geometry(nest, tensors, slots, hardware)(tiles), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", sorted(set(programs.KERNELS) - {"conv2d stride 2", "max pool"}))
@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_footprint_matches_counting(name: str, data: st.DataObject) -> None:
    nest, tensors, slots = read(programs.KERNELS[name])
    tiles = random_tiles(data, nest, 1, largest=4)
    columns = Geometry(nest, tensors, slots)(tiles)[0]
    counted = [reference.touched(nest, number, tiles[0]) for number in range(len(nest.accesses))]
    total = sum(count * tensors.width[access.node] for count, access in zip(counted, nest.accesses, strict=True))
    names = [column.name for column in geometry.BLOCK.columns]
    assert 2 ** columns[names.index("footprint")] == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize("hardware", [SMALL, CPU, TPU], ids=lambda profile: profile.name)
@pytest.mark.parametrize("name", programs.KERNELS)
@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_cache_columns_match_numpy(name: str, hardware: Hardware, data: st.DataObject) -> None:
    nest, tensors, _ = read(programs.KERNELS[name])
    model, tiles = cache_model(programs.KERNELS[name], hardware), random_tiles(data, nest, 4)
    expected = reference.cache_columns(nest, tensors, tiles, hardware, [list(order) for order in model.sequences])
    np.testing.assert_allclose(model(tiles), expected, rtol=1e-4, atol=1e-4)


def test_a_cache_that_holds_everything_fetches_every_line_once() -> None:
    model = cache_model(programs.matmul(12, 20, 7), Hardware("huge", 64, 4, (Cache(1 << 20, 0),)))
    rows = model(np.array([[3, 5, 2], [12, 20, 7]], np.int64))
    lines = 12 * 7 + 7 * 20 + 12 * 20  # a line holds one element
    for order in ("fast", "left", "out"):
        misses = (2.0 ** rows[:, CACHE_COLUMNS.index(f"{order}.L1.misses")] - 1) / 1000 * 12 * 20 * 7
        np.testing.assert_allclose(misses, lines, rtol=1e-4)


def test_a_blocked_transpose_misses_less_than_an_unblocked_one() -> None:
    rows = cache_model(programs.transpose((512, 512), (1, 0)), CPU)(np.array([[512, 512], [8, 8]], np.int64))
    misses = rows[:, CACHE_COLUMNS.index("out.L1.misses")]
    assert misses[1] < misses[0] - 2


def test_strides_of_large_powers_of_two_conflict() -> None:
    at = CACHE_COLUMNS.index("conflict")
    conflict = {
        columns: cache_model(programs.transpose((64, columns), (1, 0)), CPU)(np.array([[16, 64]], np.int64))[0, at]
        for columns in (1024, 1040)
    }
    assert conflict[1024] > conflict[1040] + 1


# --- extractor -------------------------------------------------------------------------------------------------------


def test_roles_describe_each_operand() -> None:
    program = programs.conv2d(2, 9, 3, 4, 3)
    nest, tensors, slots = read(program)
    row = operands.operand_roles(program, tensors, nest, slots)
    value = dict(zip([column.name for column in operands.BLOCK.columns], row.tolist(), strict=True))
    assert (value["anchor.convolution"], value["right.rank"], value["extra.rank"]) == (1, 4, 1)
    assert [2 ** value[name] for name in ("right.dim0", "left.dim0", "extent.k")] == pytest.approx([4, 3, 27])
    assert 2 ** value["stride.out0.out"] == pytest.approx(1 + 4)


@pytest.mark.parametrize("name", programs.KERNELS)
def test_vectors_are_finite_and_independent_of_the_block(name: str) -> None:
    extract = TileExtractor(programs.KERNELS[name])
    configs = np.concatenate([config(), config(output=(2, 3)), config(output=(1,), kernel=(2, 2), input=(3, 3))])
    rows = extract(configs)
    assert rows.shape == (3, len(schema()))
    assert np.isfinite(rows).all()
    shared = sum(len(block) for block in schema().blocks if not block.per_config)
    assert (rows[:, -shared:] == rows[0, -shared:]).all()
    np.testing.assert_array_equal(rows, np.concatenate([extract(row[None]) for row in configs]))
