"""Adjacency, tensors, operations and features of a graph, against naive code, networkx and examples by hand."""

from __future__ import annotations

from collections import Counter
from typing import Any

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.graph import Program
from features.hlo import FEAT_ID, N_FEAT, OPCODES
from features.operations import KINDS, anchor_of, node_flops, node_kinds, parameter_operands, result_of
from features.program import (
    CLASS_NAMES,
    CLASS_OF,
    CLASSES,
    NEIGHBORHOOD_BLOCK,
    OPCODES_BLOCK,
    RADII,
    kernel_neighborhood,
    neighborhoods,
    node_statistics,
    opcode_histogram,
)
from features.tensors import Tensors, minor_to_major
from features.tile.loops import loop_nest
from tests import programs, reference
from tests.programs import Sketch

Shape = tuple[int, ...]
few = settings(max_examples=30, deadline=None)


@st.composite
def any_program(draw: st.DrawFn) -> Program:
    """Random opcodes, shapes of rank 2, edges with operands first; an operand may be consumed twice."""
    n_nodes = draw(st.integers(1, 12))
    pairs = [(u, v) for u in range(n_nodes) for v in range(u)]
    edges = draw(st.lists(st.sampled_from(pairs), max_size=24)) if pairs else []
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    feat = np.zeros((n_nodes, N_FEAT), np.float32)
    feat[:, FEAT_ID["shape_element_type_is_f32"]] = 1
    feat[:, 21:23] = rng.integers(1, 9, (n_nodes, 2))
    return Program(rng.integers(0, 256, n_nodes).astype(np.uint8), feat, np.array(edges, np.int64).reshape(-1, 2))


# --- graph -----------------------------------------------------------------------------------------------------------


@given(any_program())
@few
def test_adjacency_and_depth_match_networkx(program: Program) -> None:
    edges, n_nodes = program.edges.tolist(), len(program)
    assert [program.operands.of(node).tolist() for node in range(n_nodes)] == [
        [v for u, v in edges if u == node] for node in range(n_nodes)
    ]
    assert [program.users.of(node).tolist() for node in range(n_nodes)] == [
        [u for u, v in edges if v == node] for node in range(n_nodes)
    ]
    graph = nx.DiGraph()
    graph.add_nodes_from(range(n_nodes))
    graph.add_edges_from((v, u) for u, v in edges)
    levels = {node: depth for depth, nodes in enumerate(nx.topological_generations(graph)) for node in nodes}
    assert program.depth.tolist() == [levels[node] for node in range(n_nodes)]


def test_read_only_strided_and_empty_edges() -> None:
    edges = np.array([(1, 0), (2, 0), (3, 1), (3, 2)], np.int64)
    for given_edges in (np.asfortranarray(edges), np.concatenate([edges, edges], axis=1)[:, :2]):
        given_edges.flags.writeable = False
        program = Program(np.ones(4, np.uint8), np.zeros((4, N_FEAT), np.float32), given_edges)
        assert program.depth.tolist() == [0, 1, 1, 2]
        assert program.users.of(0).tolist() == [1, 2]
    alone = Program(np.ones(3, np.uint8), np.zeros((3, N_FEAT), np.float32), edges[:0])
    assert (alone.operands.indptr.tolist(), alone.depth.tolist()) == ([0] * 4, [0] * 3)


# --- tensors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layout", "rank", "expected"),
    [
        ([1, 0], 2, [1, 0]),
        ([0, 1, 0, 0], 2, [0, 1]),
        ([2, -1, -1], 3, [2, 1, 0]),
        ([0, 3, -1, -1], 4, [0, 3, 2, 1]),
        ([1, 1], 2, [1, 0]),
        ([5, 0], 2, [1, 0]),
        ([], 0, []),
    ],
)
def test_layouts_are_completed_in_row_major_order(layout: list[int], rank: int, expected: list[int]) -> None:
    assert minor_to_major(layout, rank).tolist() == expected


def test_strides_follow_the_layout() -> None:
    sketch = Sketch()
    sketch.node("parameter", (2, 3, 5), layout=(0, 2, 1))
    tensors = Tensors.of(sketch.program())
    assert (tensors.shape(0), tensors.nbytes[0]) == ((2, 3, 5), 120)
    assert tensors.strides(0).tolist() == [1, 10, 2]


# --- operations ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("program", "flops"),
    [
        (programs.batched_matmul(3, 5, 8, 6), 2 * 3 * 5 * 8 * 6),
        (programs.conv2d(2, 9, 3, 4, 3), 2 * (2 * 7 * 7 * 4) * (3 * 3 * 3)),
        (programs.column_sum(6, 10), 60),
        (programs.max_pool(11, 9, 3, 2), 5 * 4 * 9),
        (programs.transpose((4, 6, 5), (2, 0, 1)), 120),
    ],
    ids=["dot", "convolution", "reduce", "reduce-window", "transpose"],
)
def test_flops_of_the_heaviest_operation(program: Program, flops: float) -> None:
    tensors = Tensors.of(program)
    assert node_flops(program, tensors, anchor_of(program, tensors)) == flops


NHWC, NCHW = (0, 3), (0, 1)
HWIO, OIHW = (2, 3), (1, 0)
DILATED, REVERSED = {"base_dilation": (2, 2)}, {"window_reversal": (1, 1)}


@pytest.mark.parametrize(
    ("expected", "input_", "kernel", "output", "numbers", "window"),
    [
        ("forward", (4, 40, 40, 8), (3, 3, 8, 12), (4, 40, 40, 12), (NHWC, HWIO, NHWC), {}),
        ("forward", (4, 8, 40, 40), (12, 8, 3, 3), (4, 12, 40, 40), (NCHW, OIHW, NCHW), {}),
        ("forward", (4, 8, 40, 40), (3, 3, 8, 12), (4, 12, 40, 40), (NCHW, HWIO, NCHW), {}),
        ("forward", (4, 7, 7, 8), (7, 7, 8, 12), (4, 1, 1, 12), (NHWC, HWIO, NHWC), {}),  # an output of one pixel
        ("forward", (8, 40, 40, 4), (3, 3, 8, 12), (12, 40, 40, 4), ((3, 0), HWIO, (3, 0)), {}),  # batch last
        ("input_gradient", (4, 40, 40, 12), (3, 3, 8, 12), (4, 40, 40, 8), (NHWC, (3, 2), NHWC), {}),
        ("input_gradient", (4, 12, 40, 40), (12, 8, 3, 3), (4, 8, 40, 40), (NCHW, (0, 1), NCHW), {}),
        ("input_gradient", (4, 20, 20, 12), (3, 3, 12, 8), (4, 40, 40, 8), (NHWC, HWIO, NHWC), DILATED),
        ("input_gradient", (4, 20, 20, 12), (3, 3, 12, 8), (4, 40, 40, 8), (NHWC, HWIO, NHWC), REVERSED),
        ("weight_gradient", (4, 40, 40, 8), (4, 40, 40, 12), (3, 3, 8, 12), ((3, 0), (0, 3), (2, 3)), {}),
        ("weight_gradient", (4, 8, 40, 40), (4, 12, 40, 40), (12, 8, 3, 3), ((1, 0), (0, 1), (1, 0)), {}),
    ],
)  # fmt: skip
def test_convolution_kinds_of_layers_and_their_gradients(
    expected: str,
    input_: Shape,
    kernel: Shape,
    output: Shape,
    numbers: tuple[Shape, Shape, Shape],
    window: dict[str, Any],
) -> None:
    """Numbers: (batch, feature) of the input, (input, output feature) of the kernel, (batch, feature) of the output."""
    sketch, dims = Sketch(), range(4)
    operands = sketch.node("parameter", input_), sketch.node("parameter", kernel)
    attributes: dict[str, Any] = {
        "input_batch_dim": numbers[0][0],
        "input_feature_dim": numbers[0][1],
        "input_spatial_dims": tuple(dim for dim in dims if dim not in numbers[0]),
        "kernel_input_feature_dim": numbers[1][0],
        "kernel_output_feature_dim": numbers[1][1],
        "kernel_spatial_dims": (kernel_spatial := tuple(dim for dim in dims if dim not in numbers[1])),
        "output_batch_dim": numbers[2][0],
        "output_feature_dim": numbers[2][1],
    }
    sizes = {"window_size": tuple(kernel[dim] for dim in kernel_spatial)}
    conv = sketch.node(
        "convolution", output, *operands, **sizes,
        **{f"convolution_dim_numbers_{name}": value for name, value in attributes.items()},
        **{f"window_{name}": value for name, value in window.items()},
    )  # fmt: skip
    flat = sketch.node("reshape", (int(np.prod(output)),), conv)
    program = sketch.program()
    kinds = node_kinds(program, Tensors.of(program), np.array([conv, flat], np.int64)).tolist()
    assert kinds == [list(KINDS).index(expected), len(KINDS)]


def test_result_of_a_tuple_is_its_largest_member() -> None:
    sketch = Sketch()
    inner = sketch.node("parameter", (64, 32))
    small = sketch.node("reduce", (32,), inner, dimensions=(0,))
    wide = sketch.node("negate", (64, 32), inner)
    tuple_type = {"shape_element_type_is_f32": 0, "shape_element_type_is_tuple": 1}
    root = sketch.node("tuple", (), small, wide, is_root=1, **tuple_type)
    sketch.node("fusion", (), root, sketch.node("parameter", (64, 32)), **tuple_type)
    program = sketch.program()
    assert result_of(program, Tensors.of(program)) == wide


def fusion(*, same_shape: bool = False, callers: int = 1) -> tuple[Program, dict[str, int]]:
    """A fusion that transposes and scales its operands, a sum of two parameters and a factor."""
    sketch = Sketch()
    at = {"inner": sketch.node("parameter", (6, 10))}
    at["scale"] = sketch.node("parameter", (6, 10) if same_shape else (10,))
    transposed = sketch.node("transpose", (10, 6), at["inner"], dimensions=(1, 0))
    root = sketch.node("multiply", (10, 6), transposed, at["scale"], is_root=1)
    at["a"], at["b"] = sketch.node("parameter", (6, 10)), sketch.node("parameter", (6, 10))
    at["sum"] = sketch.node("add", (6, 10), at["a"], at["b"])
    at["c"] = sketch.node("parameter", (6, 10) if same_shape else (10,))
    for _ in range(callers):
        sketch.node("fusion", (10, 6), root, at["sum"], at["c"])
    return sketch.program(), at


def test_parameters_of_a_fusion_are_linked_to_the_operands_of_its_caller() -> None:
    program, at = fusion()
    assert parameter_operands(program, Tensors.of(program)) == {at["inner"]: at["sum"], at["scale"]: at["c"]}
    read = {
        access.node: access.coefficients.tolist() for access in loop_nest(program, Tensors.of(program)).accesses[1:]
    }
    assert read[at["a"]] == read[at["b"]] == [[0, 1], [1, 0]]  # through the transpose in the body
    assert set(read) == {at["a"], at["b"], at["c"]}


@pytest.mark.parametrize("ambiguous", [{"same_shape": True}, {"callers": 2}], ids=["two of a shape", "two callers"])
def test_ambiguous_parameters_are_not_linked(ambiguous: dict[str, Any]) -> None:
    program, at = fusion(**ambiguous)
    assert parameter_operands(program, Tensors.of(program)) == {}
    assert at["inner"] in {access.node for access in loop_nest(program, Tensors.of(program)).accesses}


def test_parameters_of_nested_fusions() -> None:
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
    assert [access.node for access in loop_nest(program, Tensors.of(program)).accesses[1:]] == [outer]


# --- features of a graph ---------------------------------------------------------------------------------------------


def test_every_opcode_has_at_most_one_class() -> None:
    assert max(Counter(name for names in CLASSES.values() for name in names).values()) == 1


@few
@given(any_program())
def test_histogram_counts_nodes(program: Program) -> None:
    row = dict(zip([column.name for column in OPCODES_BLOCK.columns], opcode_histogram(program), strict=True))
    names = Counter(OPCODES[code] if code < len(OPCODES) else "unknown" for code in program.opcode)
    assert {name: row[f"op.{name}"] for name in names} == names
    for prefix in ("op.", "class."):
        assert sum(value for name, value in row.items() if name.startswith(prefix)) == len(program)
    assert (row["nodes"], row["edges"], row["depth"]) == (len(program), len(program.edges), program.depth.max())


@few
@given(any_program(), st.data())
def test_neighborhoods_match_networkx(program: Program, data: st.DataObject) -> None:
    nodes = st.integers(0, len(program) - 1)
    sets = data.draw(st.lists(st.lists(nodes, max_size=3, unique=True), min_size=1, max_size=3))
    tensors = Tensors.of(program)
    graph = nx.Graph(program.edges.tolist())
    graph.add_nodes_from(range(len(program)))
    for seeds, summary in zip(sets, neighborhoods(program, tensors, sets), strict=True):
        for radius, row in enumerate(summary, 1):
            near = nx.multi_source_dijkstra_path_length(graph, seeds, radius, lambda *_: 1) if seeds else ()
            counts = Counter(CLASS_OF[program.opcode[node]] for node in near)
            sizes = [float(np.prod(program.feat[node, 21:23])) * 4 for node in near]
            expected = [*(counts[number] for number in range(len(CLASS_NAMES))), sum(sizes), max(sizes, default=0)]
            assert row.tolist() == expected
    values = kernel_neighborhood(program, tensors).reshape(2, len(RADII), -1)
    seeds = result_of(program, tensors), anchor_of(program, tensors)
    counts, sizes = np.split(neighborhoods(program, tensors, seeds), [len(CLASS_NAMES)], axis=-1)
    np.testing.assert_allclose(values, np.concatenate([counts, np.log2(1 + sizes)], axis=-1), rtol=1e-6)
    assert values.size == len(NEIGHBORHOOD_BLOCK)


@few
@given(st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_node_statistics_match_numpy(n_nodes: int, seed: int) -> None:
    feat = np.random.default_rng(seed).normal(0, 1e3, (n_nodes, N_FEAT)).astype(np.float32)
    program = Program(np.zeros(n_nodes, np.uint8), feat, np.zeros((0, 2), np.int64))
    np.testing.assert_allclose(node_statistics(program), reference.node_statistics(feat), rtol=1e-4, atol=1e-4)
