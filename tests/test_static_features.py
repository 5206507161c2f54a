"""Op-type histograms and neighbourhood summaries, against networkx and counting."""

from __future__ import annotations

from collections import Counter

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.graph import Program
from features.hlo import FEAT_ID, OPCODE_ID, OPCODES
from features.operations import anchor_of, node_flops, result_of
from features.program import (
    CLASS_NAMES,
    CLASS_OF,
    CLASSES,
    NEIGHBORHOOD_BLOCK,
    OPCODES_BLOCK,
    kernel_neighborhood,
    neighborhood,
    opcode_histogram,
)
from features.tensors import Tensors, minor_to_major
from tests import programs
from tests.programs import Sketch


@st.composite
def any_program(draw: st.DrawFn) -> Program:
    n_nodes = draw(st.integers(1, 12))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    feat = np.zeros((n_nodes, 140), np.float32)
    feat[:, FEAT_ID["shape_element_type_is_f32"]] = 1
    feat[:, 21:23] = rng.integers(1, 9, (n_nodes, 2))
    edges = np.array([(u, v) for u in range(n_nodes) for v in range(u) if rng.random() < 0.3], np.int64).reshape(-1, 2)
    return Program(rng.integers(0, 256, n_nodes).astype(np.uint8), feat, edges)


def test_every_opcode_has_one_class() -> None:
    members = Counter(name for names in CLASSES.values() for name in names)
    assert set(members) <= set(OPCODES)
    assert max(members.values()) == 1


@settings(max_examples=30, deadline=None)
@given(any_program())
def test_histogram_counts_nodes(program: Program) -> None:
    row = dict(zip([column.name for column in OPCODES_BLOCK.columns], opcode_histogram(program), strict=True))
    names = [OPCODES[code] if code < len(OPCODES) else "unknown" for code in program.opcode]
    for name, count in Counter(names).items():
        assert row[f"op.{name}"] == count
    assert sum(value for name, value in row.items() if name.startswith("op.")) == len(program)
    assert sum(value for name, value in row.items() if name.startswith("class.")) == len(program)
    graph = nx.DiGraph([(v, u) for u, v in program.edges.tolist()])
    assert row["depth"] == (nx.dag_longest_path_length(graph) if len(graph) else 0)


@settings(max_examples=30, deadline=None)
@given(any_program(), st.data())
def test_neighbourhood_is_what_networkx_finds(program: Program, data: st.DataObject) -> None:
    seed = data.draw(st.integers(0, len(program) - 1))
    tensors = Tensors.of(program)
    got = neighborhood(program, tensors, seed)
    graph = nx.Graph(program.edges.tolist())
    graph.add_nodes_from(range(len(program)))
    for radius, row in zip((1, 2, 3), got, strict=True):
        near = list(nx.single_source_shortest_path_length(graph, seed, cutoff=radius))
        counts = Counter(CLASS_OF[program.opcode[node]] for node in near)
        assert row[: len(CLASS_NAMES)].tolist() == [counts[number] for number in range(len(CLASS_NAMES))]
        sizes = [float(np.prod(program.feat[node, 21:23])) * 4 for node in near]
        np.testing.assert_allclose(row[-2:], np.log2(1 + np.array([sum(sizes), max(sizes)])), rtol=1e-6)


def test_block_has_a_column_for_every_value() -> None:
    program = programs.KERNELS["conv2d"]
    assert len(kernel_neighborhood(program, Tensors.of(program))) == len(NEIGHBORHOOD_BLOCK)


def test_flops_of_each_kind() -> None:
    def of(program: Program) -> float:
        tensors = Tensors.of(program)
        return node_flops(program, tensors, anchor_of(program, tensors))

    assert of(programs.batched_matmul(3, 5, 8, 6)) == 2 * 3 * 5 * 8 * 6
    assert of(programs.conv2d(2, 9, 3, 4, 3)) == 2 * (2 * 7 * 7 * 4) * (3 * 3 * 3)
    assert of(programs.column_sum(6, 10)) == 60
    assert of(programs.max_pool(11, 9, 3, 2)) == 5 * 4 * 9
    assert of(programs.transpose((4, 6, 5), (2, 0, 1))) == 120


def test_result_of_a_tuple_is_its_largest_member() -> None:
    sketch = programs.Sketch()
    small, large = sketch.node("parameter", (3,)), sketch.node("parameter", (5, 7))
    sketch.node("tuple", (), small, large, shape_element_type_is_f32=0, shape_element_type_is_tuple=1)
    program = sketch.program()
    assert result_of(program, Tensors.of(program)) == large


@pytest.mark.parametrize(
    ("layout", "rank", "wanted"),
    [
        ([1, 0], 2, [1, 0]),
        ([0, 1, 0, 0], 2, [0, 1]),
        ([2, -1, -1], 3, [2, 1, 0]),
        ([0, 3, -1, -1], 4, [0, 3, 2, 1]),
        ([-1, -1], 2, [1, 0]),
        ([1, 1], 2, [1, 0]),
        ([5, 0], 2, [1, 0]),
        ([], 0, []),
    ],
)
def test_layouts_are_completed_in_row_major_order(layout: list[int], rank: int, wanted: list[int]) -> None:
    assert minor_to_major(layout, rank).tolist() == wanted


def test_strides_follow_the_layout() -> None:
    sketch = programs.Sketch()
    sketch.node("parameter", (2, 3, 5), layout=(0, 2, 1))
    tensors = Tensors.of(sketch.program())
    assert tensors.strides(0).tolist() == [1, 10, 2]
    assert tensors.shape(0) == (2, 3, 5)
    assert tensors.nbytes[0] == 120
    assert OPCODE_ID["parameter"] == 63


def turned(parameter_layout: tuple[int, ...]) -> Program:
    """transpose(x) + transpose(x) as shape inference lays it out: the transpose for free, the sum like its operand."""
    sketch = Sketch()
    x = sketch.node("parameter", (6, 10), layout=parameter_layout)
    free = tuple({0: 1, 1: 0}[dim] for dim in parameter_layout)
    y = sketch.node("transpose", (10, 6), x, dimensions=(1, 0), layout=free)
    sketch.node("add", (10, 6), y, y, layout=free)
    return sketch.program()


def test_layouts_that_no_compiler_chose_are_left_aside() -> None:
    tensors = Tensors.of(turned((1, 0)))
    assert [tensors.layout(node).tolist() for node in range(3)] == [[1, 0]] * 3
    chosen = Tensors.of(turned((0, 1)))
    assert [chosen.layout(node).tolist() for node in range(3)] == [[0, 1], [1, 0], [1, 0]]
