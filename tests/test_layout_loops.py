"""Loops that layouts cause: small programs with known counts, and measured programs against the naive twin."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.graph import Program
from features.hardware import CPU, TPU, Cache, Hardware
from features.layout import loops
from features.layout.extractor import LayoutExtractor, schema
from features.layout.loops import AMOUNTS, BLOCK, N_AMOUNTS, Loops
from features.layout.metagraph import operand_origins
from features.layout.nodes import ConfigurableNodes, configurable_nodes
from features.layout.rows import RowTable
from features.tensors import Tensors
from tests.conftest import ROOT
from tests.programs import Sketch
from tests.reference_loops import NAMES, Reference

#: Two sets of four lines.
TINY = Hardware("tiny", 16, 64, (Cache(512, 4),))
COLLECTION = ROOT / "data/npz/layout/cpu/random"


def program_of(*, pooled: bool = False) -> tuple[Program, np.ndarray]:
    """A dot, a transcendental function of it, and a dot of that; or pooling in between."""
    sketch = Sketch()
    first = sketch.node("dot", (64, 32), sketch.node("parameter", (64, 16)), sketch.node("parameter", (16, 32)))
    between = sketch.node("tanh", (64, 32), first)
    if pooled:
        between = sketch.node("reduce-window", (64, 32), between, window_size=(3, 3))
    last = sketch.node("dot", (64, 8), between, sketch.node("parameter", (32, 8)))
    return sketch.program(), np.array([first, last])


def nodes_of(program: Program, ids: np.ndarray) -> tuple[Tensors, ConfigurableNodes]:
    tensors = Tensors.of(program)
    return tensors, configurable_nodes(program, tensors, ids)


def counted(program: Program, ids: np.ndarray, configs: np.ndarray, hardware: Hardware = CPU) -> np.ndarray:
    table = RowTable(len(ids))
    codes, _ = table.encode(configs.astype(np.int8))
    return Loops(program, *nodes_of(program, ids), hardware).amounts(codes, table.rows)


def config(**layouts: list[int]) -> np.ndarray:
    """One configuration of two nodes; ``output0`` is the output of the first."""
    out = np.full((1, 2, 18), -1)
    for name, layout in layouts.items():
        role = ("output", "input", "kernel").index(name[:-1])
        out[0, int(name[-1]), 6 * role : 6 * role + len(layout)] = layout
    return out


def counts(hardware: Hardware = CPU, *, pooled: bool = False, **layouts: list[int]) -> dict[str, float]:
    amounts = counted(*program_of(pooled=pooled), config(**layouts), hardware)[0]
    return {name: amount for name, amount in zip(NAMES, amounts.tolist(), strict=True) if amount}


def test_without_layouts_there_is_one_contiguous_loop() -> None:
    assert counts() == {"contiguous": 2048, "loops": 1}


def test_layout_of_a_result_propagates_forwards() -> None:
    # A copy to columns; tanh, whose result the second dot reads in rows, reads it at strides.
    assert counts(output0=[0, 1]) == {
        "strided": 4096, "loops": 2, "written": 2048, "read": 2048, "arithmetic": 2048, "transcendental": 2048,
    }  # fmt: skip


def test_layout_of_an_operand_propagates_backwards() -> None:
    # tanh reads rows and writes columns; a copy converts them to rows.
    assert counts(input1=[0, 1]) == {
        "strided": 4096, "loops": 2, "written": 2048, "read": 2048, "arithmetic": 2048, "transcendental": 2048,
    }  # fmt: skip


def test_loop_between_equal_layouts_is_contiguous() -> None:
    # Only the copies to columns and back are strided; tanh reads and writes columns.
    assert counts(output0=[0, 1], input1=[0, 1]) == {
        "contiguous": 2048, "strided": 4096, "loops": 3, "written": 2048, "read": 2048,
    }  # fmt: skip


def test_the_layout_of_the_graph_adds_no_loops() -> None:
    assert counts(output0=[1, 0], input1=[1, 0]) == counts()


def test_a_partial_layout_is_completed_by_the_graphs_own() -> None:
    assert counts(output0=[0]) == counts(output0=[0, 1])


def test_pooling_computes_in_the_layout_of_its_consumer() -> None:
    assert counts(pooled=True, input1=[0, 1])["pooled"] == 2048 * 9
    assert "pooled" not in counts(pooled=True)


def test_evicted_cache_lines_are_counted() -> None:
    # Columns of 64 floats are four lines apart: all lines of a row fall into one set of the tiny cache.
    assert "missed" not in counts(output0=[0, 1])
    # The line is evicted before 15 of its 16 elements are written.
    assert counts(TINY, output0=[0, 1])["missed"] == pytest.approx(2048 * 15 / 16)


def test_reductions_read_at_strides() -> None:
    sketch = Sketch()
    dot = sketch.node("dot", (64, 32), sketch.node("parameter", (64, 16)), sketch.node("parameter", (16, 32)))
    sketch.node("reduce", (64,), dot, sketch.node("constant", ()), dimensions=(1,))
    amounts = counted(sketch.program(), np.array([dot, dot]), config(output0=[0, 1], output1=[0, 1]))
    assert amounts[0, NAMES.index("reduced")] == 2048


def test_targets_with_sublanes_have_no_loops() -> None:
    assert counts(TPU, output0=[0, 1]) == {}


def test_large_programs_are_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "MAX_NODES", len(program_of()[0]))
    assert counts(output0=[0, 1])
    monkeypatch.setattr(loops, "MAX_NODES", len(program_of()[0]) - 1)
    assert counts(output0=[0, 1]) == {}


def test_a_layout_that_names_a_dimension_twice_counts_it_once() -> None:
    assert counts(output0=[0, 0]) == counts(output0=[0, 1])


def test_operand_origins_of_single_operations() -> None:
    sketch = Sketch()
    x = sketch.node("parameter", (2, 3, 4))
    transposed = sketch.node("transpose", (4, 2, 3), x, dimensions=(2, 0, 1))
    spread = sketch.node("broadcast", (4, 5, 2, 3), transposed, dimensions=(0, 2, 3))
    split = sketch.node("reshape", (20, 6), spread)
    program = sketch.program()
    found = operand_origins(
        program, Tensors.of(program), np.array([[transposed, x], [spread, transposed], [split, spread]])
    )
    assert found[:, :4].tolist() == [[1, 2, 0, -1], [0, 2, 3, -1], [-1, 0, -1, 1]]


def test_columns_are_the_amounts_and_their_shares() -> None:
    program, ids = program_of()
    configs = np.concatenate([config(), config(output0=[0, 1])])
    row = LayoutExtractor(program, ids).vectors(configs.astype(np.int8))
    columns = [schema().names.index(name) for name in BLOCK.names]
    amounts = counted(program, ids, configs)
    np.testing.assert_allclose(row[:, columns[:N_AMOUNTS]], np.log2(1 + amounts), rtol=1e-6)
    expected = amounts / np.where(np.array(NAMES) == "loops", 1, 2048)
    np.testing.assert_allclose(row[:, columns[N_AMOUNTS:]], expected, rtol=1e-6)
    assert [column.name for column in BLOCK.columns[:N_AMOUNTS]] == list(NAMES) == list(AMOUNTS)


@cache
def measured(name: str) -> tuple[Program, np.ndarray, np.ndarray]:
    with np.load(next(COLLECTION.glob(f"*/{name}.npz"))) as file:
        program = Program(file["node_opcode"], file["node_feat"], file["edge_index"])
        return program, file["node_config_ids"], file["node_config_feat"].astype(np.int8)


@pytest.mark.parametrize("hardware", [CPU, TINY], ids=lambda each: each.name)
@pytest.mark.parametrize("name", ["mlp_gated", "monarch_deep", "senet_nhwc", "unet_nhwc", "tensornet_tree-grad"])
def test_the_twin_counts_the_same(name: str, hardware: Hardware) -> None:
    program, ids, configs = measured(name)
    twin = Reference(program, *nodes_of(program, ids), hardware)
    expected = [list(twin.amounts(config).values()) for config in configs[:12]]
    np.testing.assert_allclose(counted(program, ids, configs[:12], hardware), expected, rtol=1e-9)


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_the_twin_counts_the_same_of_any_layouts(data: st.DataObject) -> None:
    program, ids, _ = measured("fourier_radix")
    _, nodes = nodes_of(program, ids)
    drawn = np.full((1, len(ids), 18), -1)
    for columns, role in data.draw(st.lists(st.tuples(st.integers(0, len(ids) - 1), st.integers(0, 2)), max_size=12)):
        rank = int(nodes.rank[columns, role])
        if rank > 0:
            named = data.draw(st.integers(1, rank))
            drawn[0, columns, 6 * role : 6 * role + named] = data.draw(st.permutations(range(rank)))[:named]
    twin = Reference(program, *nodes_of(program, ids), CPU)
    np.testing.assert_allclose(counted(program, ids, drawn), [list(twin.amounts(drawn[0]).values())], rtol=1e-9)
