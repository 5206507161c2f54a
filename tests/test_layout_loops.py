"""Loops that layouts cause: by hand on small programs, and against the slow twin on measured ones."""

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

#: Two sets of four lines: little stays.
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


def told(hardware: Hardware = CPU, *, pooled: bool = False, **layouts: list[int]) -> dict[str, float]:
    amounts = counted(*program_of(pooled=pooled), config(**layouts), hardware)[0]
    return {name: amount for name, amount in zip(NAMES, amounts.tolist(), strict=True) if amount}


def test_without_layouts_one_loop_runs_along_memory() -> None:
    assert told() == {"contiguous": 2048, "loops": 1}


def test_a_result_that_is_set_is_written_at_steps_and_spreads_until_it_is_turned_back() -> None:
    # The copy to columns; tanh, which the second dot wants in rows, reads it at steps.
    assert told(output0=[0, 1]) == {
        "strided": 4096, "loops": 2, "written": 2048, "read": 2048, "arithmetic": 2048, "transcendental": 2048,
    }  # fmt: skip


def test_an_operand_that_is_set_spreads_backwards() -> None:
    # tanh writes columns, while it reads rows; a copy turns them back.
    assert told(input1=[0, 1]) == {
        "strided": 4096, "loops": 2, "written": 2048, "read": 2048, "arithmetic": 2048, "transcendental": 2048,
    }  # fmt: skip


def test_layouts_that_meet_run_along_memory() -> None:
    # Only the copies to columns and back are strided; tanh reads and writes columns.
    assert told(output0=[0, 1], input1=[0, 1]) == {
        "contiguous": 2048, "strided": 4096, "loops": 3, "written": 2048, "read": 2048,
    }  # fmt: skip


def test_a_layout_that_is_the_graphs_own_costs_nothing() -> None:
    assert told(output0=[1, 0], input1=[1, 0]) == told()


def test_a_partial_layout_is_completed_by_the_graphs_own() -> None:
    assert told(output0=[0]) == told(output0=[0, 1])


def test_pooling_takes_the_layout_it_is_asked_for() -> None:
    assert told(pooled=True, input1=[0, 1])["pooled"] == 2048 * 9
    assert "pooled" not in told(pooled=True)


def test_lines_are_missed_where_they_do_not_stay() -> None:
    # Columns of 64 floats are four lines apart: all lines of a row fall into one set of the tiny cache.
    assert "missed" not in told(output0=[0, 1])
    # 15 of 16 elements of a line find it gone.
    assert told(TINY, output0=[0, 1])["missed"] == pytest.approx(2048 * 15 / 16)


def test_reductions_read_at_steps() -> None:
    sketch = Sketch()
    dot = sketch.node("dot", (64, 32), sketch.node("parameter", (64, 16)), sketch.node("parameter", (16, 32)))
    sketch.node("reduce", (64,), dot, sketch.node("constant", ()), dimensions=(1,))
    amounts = counted(sketch.program(), np.array([dot, dot]), config(output0=[0, 1], output1=[0, 1]))
    assert amounts[0, NAMES.index("reduced")] == 2048


def test_registers_with_sublanes_compute_in_the_layouts_that_are_set() -> None:
    assert told(TPU, output0=[0, 1]) == {}


def test_large_programs_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "MAX_NODES", len(program_of()[0]))
    assert told(output0=[0, 1])
    monkeypatch.setattr(loops, "MAX_NODES", len(program_of()[0]) - 1)
    assert told(output0=[0, 1]) == {}


def test_a_layout_that_names_a_dimension_twice_counts_it_once() -> None:
    assert told(output0=[0, 0]) == told(output0=[0, 1])


def test_dimensions_are_followed_through_one_operation() -> None:
    sketch = Sketch()
    x = sketch.node("parameter", (2, 3, 4))
    turned = sketch.node("transpose", (4, 2, 3), x, dimensions=(2, 0, 1))
    spread = sketch.node("broadcast", (4, 5, 2, 3), turned, dimensions=(0, 2, 3))
    split = sketch.node("reshape", (20, 6), spread)
    program = sketch.program()
    found = operand_origins(program, Tensors.of(program), np.array([[turned, x], [spread, turned], [split, spread]]))
    assert found[:, :4].tolist() == [[1, 2, 0, -1], [0, 2, 3, -1], [-1, 0, -1, 1]]


def test_columns_are_the_amounts_and_their_shares() -> None:
    program, ids = program_of()
    configs = np.concatenate([config(), config(output0=[0, 1])])
    row = LayoutExtractor(program, ids).vectors(configs.astype(np.int8))
    place = [schema().names.index(name) for name in BLOCK.names]
    amounts = counted(program, ids, configs)
    np.testing.assert_allclose(row[:, place[:N_AMOUNTS]], np.log2(1 + amounts), rtol=1e-6)
    wanted = amounts / np.where(np.array(NAMES) == "loops", 1, 2048)
    np.testing.assert_allclose(row[:, place[N_AMOUNTS:]], wanted, rtol=1e-6)
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
    wanted = [list(twin.amounts(config).values()) for config in configs[:12]]
    np.testing.assert_allclose(counted(program, ids, configs[:12], hardware), wanted, rtol=1e-9)


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_the_twin_counts_the_same_of_any_layouts(data: st.DataObject) -> None:
    program, ids, _ = measured("fourier_radix")
    _, nodes = nodes_of(program, ids)
    drawn = np.full((1, len(ids), 18), -1)
    for place, role in data.draw(st.lists(st.tuples(st.integers(0, len(ids) - 1), st.integers(0, 2)), max_size=12)):
        rank = int(nodes.rank[place, role])
        if rank > 0:
            named = data.draw(st.integers(1, rank))
            drawn[0, place, 6 * role : 6 * role + named] = data.draw(st.permutations(range(rank)))[:named]
    twin = Reference(program, *nodes_of(program, ids), CPU)
    np.testing.assert_allclose(counted(program, ids, drawn), [list(twin.amounts(drawn[0]).values())], rtol=1e-9)
