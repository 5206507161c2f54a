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
from tests.programs import HWIO, NHWC

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
    tensors = Tensors.of(programs.program(("parameter", (2, 3, 5), {"layout": (0, 2, 1)})))
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


NCHW, OIHW = (0, 1), (1, 0)
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
    attributes = {f"window_{name}": value for name, value in window.items()} | programs.conv_dims(*numbers)
    attributes["window_size"] = [extent for dim, extent in enumerate(kernel) if dim not in numbers[1]]
    program = programs.program(
        ("parameter", input_), ("parameter", kernel), ("convolution", output, 0, 1, attributes),
        ("reshape", (int(np.prod(output)),), 2),
    )  # fmt: skip
    kinds = node_kinds(program, Tensors.of(program), np.array([2, 3], np.int64)).tolist()
    assert kinds == [list(KINDS).index(expected), len(KINDS)]


def test_result_of_a_tuple_is_its_largest_member() -> None:
    tuple_type = {"shape_element_type_is_f32": 0, "shape_element_type_is_tuple": 1}
    program = programs.program(
        ("parameter", (64, 32)), ("reduce", (32,), 0, {"dimensions": (0,)}), ("negate", (64, 32), 0),
        ("tuple", (), 1, 2, {"is_root": 1, **tuple_type}), ("parameter", (64, 32)), ("fusion", (), 3, 4, tuple_type),
    )  # fmt: skip
    assert result_of(program, Tensors.of(program)) == 2


def fusion(*, same_shape: bool = False, callers: int = 1) -> Program:
    """A fusion that transposes parameter 0 and scales it by parameter 1; it is called with 6, a sum, and 7."""
    shape = (6, 10) if same_shape else (10,)
    return programs.program(
        ("parameter", (6, 10)), ("parameter", shape), ("transpose", (10, 6), 0, {"dimensions": (1, 0)}),
        ("multiply", (10, 6), 2, 1, {"is_root": 1}), ("parameter", (6, 10)), ("parameter", (6, 10)),
        ("add", (6, 10), 4, 5), ("parameter", shape), *[("fusion", (10, 6), 3, 6, 7)] * callers,
    )  # fmt: skip


def reads(program: Program) -> dict[int, list[list[float]]]:
    """Coefficients by node that a kernel reads."""
    return {each.node: each.coefficients.tolist() for each in loop_nest(program, Tensors.of(program)).accesses[1:]}


def test_parameters_of_a_fusion_are_linked_to_the_operands_of_its_caller() -> None:
    program = fusion()
    assert parameter_operands(program, Tensors.of(program)) == {0: 6, 1: 7}
    assert set(read := reads(program)) == {4, 5, 7}
    assert read[4] == read[5] == [[0, 1], [1, 0]]  # through the transpose in the body


@pytest.mark.parametrize("ambiguous", [{"same_shape": True}, {"callers": 2}], ids=["two of a shape", "two callers"])
def test_ambiguous_parameters_are_not_linked(ambiguous: dict[str, Any]) -> None:
    program = fusion(**ambiguous)
    assert parameter_operands(program, Tensors.of(program)) == {}
    assert 0 in reads(program)


def test_parameters_of_nested_fusions() -> None:
    shape, root = (4, 8), {"is_root": 1}
    program = programs.program(
        ("parameter", shape), ("negate", shape, 0, root), ("parameter", shape), ("fusion", shape, 1, 2),
        ("exponential", shape, 3, root), ("parameter", shape), ("fusion", shape, 4, 5),
    )  # fmt: skip
    assert parameter_operands(program, Tensors.of(program)) == {0: 2, 2: 5}
    assert list(reads(program)) == [5]


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
