"""Loops that layouts cause: small programs with known counts, and measured programs against the naive twin."""

from __future__ import annotations

from functools import cache, partial

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
from tests import reference_layout
from tests.conftest import ROOT
from tests.programs import program
from tests.reference_loops import Reference

#: Two sets of four lines.
TINY = Hardware("tiny", 16, 64, (Cache(512, 4),))
COLLECTION = ROOT / "data/npz/layout/cpu/random"


def program_of(*, pooled: bool = False) -> tuple[Program, np.ndarray]:
    """A dot, a transcendental function of it, and a dot of that; or pooling in between."""
    pool = [("reduce-window", (64, 32), 3, {"window_size": (3, 3)})] if pooled else []
    found = program(
        ("parameter", (64, 16)),
        ("parameter", (16, 32)),
        ("dot", (64, 32), 0, 1),
        ("tanh", (64, 32), 2),
        *pool,
        ("parameter", (32, 8)),
        ("dot", (64, 8), 3 + pooled, 4 + pooled),
    )
    return found, np.array([2, 5 + pooled])


def nodes_of(graph: Program, ids: np.ndarray) -> tuple[Tensors, ConfigurableNodes]:
    tensors = Tensors.of(graph)
    return tensors, configurable_nodes(graph, tensors, ids)


def counted(graph: Program, ids: np.ndarray, configs: np.ndarray, hardware: Hardware = CPU) -> np.ndarray:
    table = RowTable(len(ids))
    codes, _ = table.encode(configs.astype(np.int8))
    return Loops(graph, *nodes_of(graph, ids), hardware).amounts(codes, table.rows)


config = partial(reference_layout.config, 2)


def counts(hardware: Hardware = CPU, *, pooled: bool = False, **layouts: list[int]) -> dict[str, float]:
    amounts = counted(*program_of(pooled=pooled), config(**layouts), hardware)[0]
    return {name: amount for name, amount in zip(AMOUNTS, amounts.tolist(), strict=True) if amount}


UNSET = {"contiguous": 2048, "loops": 1}
TURNED = {
    "strided": 4096, "loops": 2, "written": 2048, "read": 2048, "arithmetic": 2048, "transcendental": 2048,
}  # fmt: skip


@pytest.mark.parametrize(
    ("layouts", "expected"),
    [
        ({}, UNSET),
        ({"output0": [1, 0], "input1": [1, 0]}, UNSET),  # the graph's own
        # A copy to columns; tanh, whose result the second dot reads in rows, reads it at strides.
        ({"output0": [0, 1]}, TURNED),
        ({"output0": [0]}, TURNED),  # completed by the graph's own
        ({"output0": [0, 0]}, TURNED),  # a dimension that is named twice counts once
        # tanh reads rows and writes columns; a copy converts them to rows.
        ({"input1": [0, 1]}, TURNED),
        # Only the copies to columns and back are strided; tanh reads and writes columns.
        (
            {"output0": [0, 1], "input1": [0, 1]},
            {"contiguous": 2048, "strided": 4096, "loops": 3, "written": 2048, "read": 2048},
        ),
    ],
)
def test_layouts_propagate_to_loops(layouts: dict[str, list[int]], expected: dict[str, float]) -> None:
    assert counts(**layouts) == expected


def test_pooling_computes_in_the_layout_of_its_consumer() -> None:
    assert counts(pooled=True, input1=[0, 1])["pooled"] == 2048 * 9
    assert "pooled" not in counts(pooled=True)


def test_evicted_cache_lines_are_counted() -> None:
    # Columns of 64 floats are four lines apart: all lines of a row fall into one set of the tiny cache.
    assert "missed" not in counts(output0=[0, 1])
    # The line is evicted before 15 of its 16 elements are written.
    assert counts(TINY, output0=[0, 1])["missed"] == pytest.approx(2048 * 15 / 16)


def test_targets_with_sublanes_and_large_programs_are_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    assert counts(TPU, output0=[0, 1]) == {}
    monkeypatch.setattr(loops, "MAX_NODES", len(program_of()[0]))
    assert counts(output0=[0, 1])
    monkeypatch.setattr(loops, "MAX_NODES", len(program_of()[0]) - 1)
    assert counts(output0=[0, 1]) == {}


def test_operand_origins_of_single_operations() -> None:
    moves = program(
        ("parameter", (2, 3, 4)),
        ("transpose", (4, 2, 3), 0, {"dimensions": (2, 0, 1)}),
        ("broadcast", (4, 5, 2, 3), 1, {"dimensions": (0, 2, 3)}),
        ("reshape", (20, 6), 2),
    )
    found = operand_origins(moves, Tensors.of(moves), np.array([[1, 0], [2, 1], [3, 2]]))
    assert found[:, :4].tolist() == [[1, 2, 0, -1], [0, 2, 3, -1], [-1, 0, -1, 1]]


def test_columns_are_the_amounts_and_their_shares() -> None:
    graph, ids = program_of()
    configs = np.concatenate([config(), config(output0=[0, 1])])
    row = LayoutExtractor(graph, ids).vectors(configs.astype(np.int8))
    columns = [schema().names.index(name) for name in BLOCK.names]
    amounts = counted(graph, ids, configs)
    np.testing.assert_allclose(row[:, columns[:N_AMOUNTS]], np.log2(1 + amounts), rtol=1e-6)
    expected = amounts / np.where(np.array(AMOUNTS) == "loops", 1, 2048)
    np.testing.assert_allclose(row[:, columns[N_AMOUNTS:]], expected, rtol=1e-6)


@cache
def measured(name: str) -> tuple[Program, np.ndarray, np.ndarray]:
    with np.load(next(COLLECTION.glob(f"*/{name}.npz"))) as file:
        graph = Program(file["node_opcode"], file["node_feat"], file["edge_index"])
        return graph, file["node_config_ids"], file["node_config_feat"].astype(np.int8)


@pytest.mark.parametrize("hardware", [CPU, TINY], ids=lambda each: each.name)
@pytest.mark.parametrize("name", ["mlp_gated", "monarch_deep", "senet_nhwc", "unet_nhwc", "tensornet_tree-grad"])
def test_the_twin_counts_the_same(name: str, hardware: Hardware) -> None:
    graph, ids, configs = measured(name)
    twin = Reference(graph, *nodes_of(graph, ids), hardware)
    expected = [list(twin.amounts(config).values()) for config in configs[:12]]
    np.testing.assert_allclose(counted(graph, ids, configs[:12], hardware), expected, rtol=1e-9)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.1, 0.8]))
def test_the_twin_counts_the_same_of_any_layouts(seed: int, set_share: float) -> None:
    graph, ids, _ = measured("fourier_radix")
    _, nodes = nodes_of(graph, ids)
    drawn = reference_layout.random_configs(nodes, 1, seed, set_share=set_share)
    twin = Reference(graph, *nodes_of(graph, ids), CPU)
    np.testing.assert_allclose(counted(graph, ids, drawn), [list(twin.amounts(drawn[0]).values())], rtol=1e-9)
