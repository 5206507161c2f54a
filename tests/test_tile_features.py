"""Tile features: the loop nest against hand-made ones, the kernels against their twins, the footprint by counting."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.graph import Program
from features.hardware import CPU, TPU
from features.hlo import FEAT_ID, TILE_CONFIG
from features.program import node_statistics
from features.tensors import Tensors
from features.tile import geometry, operands
from features.tile.extractor import TileExtractor, schema
from features.tile.geometry import loop_tiles
from features.tile.loops import LoopNest, loop_nest
from features.tile.operands import loop_slots
from tests import programs, reference


def config(**bounds: tuple[int, ...]) -> np.ndarray:
    row = np.zeros((1, len(TILE_CONFIG)), np.float32)
    for name, values in bounds.items():
        first = TILE_CONFIG.index(f"{name}_bounds_0")
        row[0, first : first + len(values)] = values
        row[0, first + 6], row[0, first + 7] = sum(values), np.prod(values)
    return row


def steps(nest: LoopNest, role: str) -> list[list[float]]:
    access = nest.first(role)
    assert access is not None
    return access.coefficients.tolist()


def test_matmul_loops() -> None:
    nest = loop_nest(programs.matmul(12, 20, 7))
    assert nest.extents.tolist() == [12, 20, 7]
    assert nest.roles == ("m", "n", "k")
    assert steps(nest, "left") == [[1, 0, 0], [0, 0, 1]]
    assert steps(nest, "right") == [[0, 0, 1], [0, 1, 0]]
    assert nest.flops == 2 * 12 * 20 * 7


def test_transposed_operand_is_addressed_as_it_lies_in_memory() -> None:
    nest = loop_nest(programs.matmul(12, 20, 7, transposed=True))
    assert steps(nest, "right") == [[0, 1, 0], [0, 0, 1]]
    assert nest.operands["right"][1].tolist() == [[0, 0, 1], [0, 1, 0]]


def test_swapped_operand_edges_are_told_apart_by_shape() -> None:
    sketch = programs.Sketch()
    right, left = sketch.node("parameter", (7, 20)), sketch.node("parameter", (12, 7))
    sketch.node("dot", (12, 20), right, left)
    nest = loop_nest(sketch.program())
    access = nest.first("left")
    assert access is not None
    assert access.node == left
    assert access.coefficients.tolist() == [[1, 0, 0], [0, 0, 1]]


def test_gram_matrix_reads_its_operand_both_ways() -> None:
    sketch = programs.Sketch()
    a = sketch.node("parameter", (7, 12))
    turned = sketch.node("transpose", (12, 7), a, dimensions=(1, 0))
    sketch.node("dot", (12, 12), a, turned)  # edges come sorted: the left operand is the transpose
    program = sketch.program()
    nest = loop_nest(program)
    assert nest.extents.tolist() == [12, 12, 7]
    assert nest.operands["left"][0] == turned
    assert loop_tiles(nest, Tensors.of(program), config(output=(4, 6), kernel=(3, 6))).tolist() == [[4, 6, 3]]


def test_batched_matmul_roles() -> None:
    nest = loop_nest(programs.batched_matmul(3, 5, 8, 6))
    assert nest.roles == ("batch", "m", "n", "k")
    assert steps(nest, "right") == [[1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]]


def test_strided_convolution_loops() -> None:
    nest = loop_nest(programs.conv2d(2, 9, 3, 4, 3, stride=2))
    assert nest.extents.tolist() == [2, 4, 4, 4, 3, 3, 3]
    assert nest.roles == ("batch", "m", "m", "n", "k", "k", "k")
    assert steps(nest, "left")[1] == [0, 2, 0, 0, 0, 1, 0]
    assert steps(nest, "left")[3] == [0, 0, 0, 0, 1, 0, 0]
    assert steps(nest, "right")[3] == [0, 0, 0, 1, 0, 0, 0]
    bias = nest.first("extra")
    assert bias is not None
    assert bias.coefficients.tolist() == [[0, 0, 0, 1, 0, 0, 0]]
    assert nest.flops == 2 * (2 * 4 * 4 * 4) * (3 * 3 * 3)


def test_depthwise_convolution_reads_its_own_channel() -> None:
    sketch = programs.Sketch()
    image = sketch.node("parameter", (1, 8, 6))
    filters = sketch.node("parameter", (3, 1, 6))
    sketch.node(
        "convolution", (1, 6, 6), image, filters, window_size=(3,), window_stride=(1,), window_window_dilation=(1,),
        window_base_dilation=(1,), convolution_dim_numbers_input_feature_dim=2,
        convolution_dim_numbers_input_spatial_dims=(1,), convolution_dim_numbers_kernel_input_feature_dim=1,
        convolution_dim_numbers_kernel_output_feature_dim=2, convolution_dim_numbers_output_feature_dim=2,
        feature_group_count=6,
    )  # fmt: skip
    left = steps(loop_nest(sketch.program()), "left")
    assert left[2][2] == 1
    assert left[1] == [0, 1, 0, 0, 1]


def test_softmax_sum_runs_over_a_loop_of_the_result() -> None:
    nest = loop_nest(programs.softmax(6, 10))
    assert nest.extents.tolist() == [6, 10]
    assert steps(nest, "left") == [[1, 0], [0, 1]]


def test_reduction_adds_a_loop() -> None:
    nest = loop_nest(programs.column_sum(6, 10))
    assert nest.extents.tolist() == [10, 6]
    assert steps(nest, "left") == [[0, 1], [1, 0]]
    slots = loop_slots(nest, Tensors.of(programs.column_sum(6, 10)))
    assert slots.out == (0, -1, -1, -1)
    assert slots.reduced == (1, -1, -1)
    assert slots.fast[:2] == (0, 1)  # the row-wise loop is contiguous for both operands


def test_pooling_window_is_a_loop() -> None:
    nest = loop_nest(programs.max_pool(11, 9, 3, 2))
    assert nest.extents.tolist() == [5, 4, 3, 3]
    assert steps(nest, "left") == [[2, 0, 1, 0], [0, 2, 0, 1]]


def test_reshape_splits_a_dimension() -> None:
    nest = loop_nest(programs.reshaped_sum(3, 4, 5))
    split = next(access for access in nest.accesses if access.node == 0)
    assert split.coefficients.tolist() == [[4, 1, 0], [0, 0, 1]]


def test_fusion_is_read_through_its_body() -> None:
    sketch = programs.Sketch()
    inner = sketch.node("parameter", (6, 10))
    turned = sketch.node("transpose", (10, 6), inner, dimensions=(1, 0), is_root=1)
    outer = sketch.node("parameter", (6, 10))
    sketch.node("fusion", (10, 6), turned, outer)
    nest = loop_nest(sketch.program())
    assert [access.node for access in nest.accesses] == [3, outer]
    assert steps(nest, "left") == [[0, 1], [1, 0]]


def test_unknown_operation_keeps_the_result_loops() -> None:
    sketch = programs.Sketch()
    table, rows = sketch.node("parameter", (100, 8)), sketch.node("parameter", (5,))
    sketch.node("gather", (5, 8), table, rows)
    nest = loop_nest(sketch.program())
    assert nest.extents.tolist() == [5, 8]
    assert all(np.isfinite(access.coefficients).all() for access in nest.accesses)


@pytest.mark.parametrize(
    ("bounds", "wanted"),
    [
        ({}, [12, 20, 7]),
        ({"output": (4, 8)}, [4, 8, 7]),
        ({"output": (4, 8), "kernel": (3, 8)}, [4, 8, 3]),
        ({"output": (99, 8), "kernel": (3, 5)}, [12, 8, 3]),
        ({"output": (0, 8), "input": (5, 2)}, [5, 8, 2]),
    ],
)
def test_bounds_of_a_matmul(bounds: dict[str, tuple[int, ...]], wanted: list[int]) -> None:
    program = programs.matmul(12, 20, 7)
    assert loop_tiles(loop_nest(program), Tensors.of(program), config(**bounds)).tolist() == [wanted]


def test_bounds_of_a_reduction_may_name_its_input() -> None:
    program = programs.column_sum(6, 10)
    nest, tensors = loop_nest(program), Tensors.of(program)
    assert loop_tiles(nest, tensors, config(output=(2, 5))).tolist() == [[5, 2]]
    assert loop_tiles(nest, tensors, config(output=(5,), input=(2, 5))).tolist() == [[5, 2]]


@pytest.mark.parametrize("name", programs.KERNELS)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_geometry_is_that_of_its_numpy_twin(name: str, data: st.DataObject) -> None:
    program = programs.KERNELS[name]
    tensors = Tensors.of(program)
    nest = loop_nest(program, tensors)
    slots = loop_slots(nest, tensors)
    rows = data.draw(st.integers(1, 4))
    tiles = np.array(
        [[data.draw(st.integers(1, int(extent))) for extent in nest.extents] for _ in range(rows)], np.int64
    )
    for hardware in (CPU, TPU):
        got = geometry.Geometry(nest, tensors, slots, hardware)(tiles)
        wanted = reference.geometry_columns(nest, tensors, slots, tiles, hardware.line_bytes)
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", sorted(set(programs.KERNELS) - {"conv2d stride 2", "max pool"}))
@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_footprint_is_what_counting_finds(name: str, data: st.DataObject) -> None:
    program = programs.KERNELS[name]
    tensors = Tensors.of(program)
    nest = loop_nest(program, tensors)
    tiles = np.array([[data.draw(st.integers(1, min(int(extent), 4))) for extent in nest.extents]], np.int64)
    columns = geometry.Geometry(nest, tensors, loop_slots(nest, tensors))(tiles)[0]
    names = [column.name for column in geometry.BLOCK.columns]
    counted = [reference.touched(nest, number, tiles[0]) for number in range(len(nest.accesses))]
    total = sum(count * tensors.width[access.node] for count, access in zip(counted, nest.accesses, strict=True))
    assert 2 ** columns[names.index("footprint")] == pytest.approx(total, rel=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_node_statistics_are_those_of_their_numpy_twin(n_nodes: int, seed: int) -> None:
    feat = np.random.default_rng(seed).normal(0, 1e3, (n_nodes, 140)).astype(np.float32)
    program = Program(np.zeros(n_nodes, np.uint8), feat, np.zeros((0, 2), np.int64))
    np.testing.assert_allclose(node_statistics(program), reference.node_statistics(feat), rtol=1e-4, atol=1e-4)


def test_roles_keep_operands_apart() -> None:
    program = programs.conv2d(2, 9, 3, 4, 3)
    tensors = Tensors.of(program)
    nest = loop_nest(program, tensors)
    row = operands.operand_roles(program, tensors, nest, loop_slots(nest, tensors))
    value = dict(zip([column.name for column in operands.BLOCK.columns], row.tolist(), strict=True))
    assert value["anchor.convolution"] == 1
    assert 2 ** value["right.dim0"] == pytest.approx(4)
    assert 2 ** value["left.dim0"] == pytest.approx(3)
    assert value["right.rank"] == 4
    assert value["extra.rank"] == 1
    assert 2 ** value["extent.k"] == pytest.approx(27)
    assert value["stride.out0.out"] == 2.321928024291992  # log2(1 + 4 bytes)


@pytest.mark.parametrize("name", programs.KERNELS)
def test_vectors_are_finite_and_static_columns_do_not_vary(name: str) -> None:
    extract = TileExtractor(programs.KERNELS[name])
    configs = np.concatenate([config(), config(output=(2, 3)), config(output=(1,), kernel=(2, 2), input=(3, 3))])
    rows = extract(configs)
    assert rows.shape == (3, len(schema()))
    assert np.isfinite(rows).all()
    fixed = sum(len(block) for block in schema().blocks if not block.per_config)
    assert (rows[:, -fixed:] == rows[0, -fixed:]).all()


def test_a_block_of_one_configuration_gives_the_same_vector() -> None:
    extract = TileExtractor(programs.KERNELS["matmul"])
    configs = np.concatenate([config(output=(size, 4)) for size in range(1, 9)])
    np.testing.assert_array_equal(extract(configs), np.concatenate([extract(row[None]) for row in configs]))


def test_wrong_configurations_are_refused() -> None:
    extract = TileExtractor(programs.KERNELS["matmul"])
    with pytest.raises(ValueError, match=r"expected shape \(c, 24\), got \(3, 18\)"):
        extract(np.zeros((3, 18), np.float32))
    with pytest.raises(ValueError, match="at least one node"):
        TileExtractor(Program(np.zeros(0, np.uint8), np.zeros((0, 140), np.float32), np.zeros((0, 2), np.int64)))


def test_vocabulary_slots_start_where_the_schema_says() -> None:
    assert FEAT_ID["layout_minor_to_major_5"] == 139
    assert TILE_CONFIG[8] == "output_bounds_0"
