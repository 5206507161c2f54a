"""Copies where extents of one, partial layouts and lost dimensions matter, worked out by hand, and traces of copies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import made_layout
from features.graph import Program
from features.layout import copies
from features.layout.copies import BLOCK, N_DISAGREEMENTS, Copies, levels, orders, weights
from features.layout.extractor import LayoutExtractor, LayoutTrace, schema
from features.layout.metagraph import INSIDE, links
from features.layout.nodes import NODE_CLASSES, configurable_nodes
from features.tensors import Tensors
from gbr.data.graph import Graph, read_graph
from tests import reference_layout
from tests.conftest import ROOT
from tests.programs import Sketch

UNSET = [-1] * 6


def chain() -> tuple[Program, np.ndarray]:
    """Dot -> reshape that splits -> dot with an extent of one -> sums -> plus a dot, repeated -> reshape."""
    sketch = Sketch()
    left = sketch.node("parameter", (256, 32))
    right = sketch.node("parameter", (32, 64))
    first = sketch.node("dot", (256, 64), left, right)
    split = sketch.node("reshape", (1, 16, 16, 64), first)
    weight = sketch.node("parameter", (64, 40))
    second = sketch.node("dot", (1, 16, 16, 40), split, weight)
    total = sketch.node("reduce", (16, 40), second, dimensions=(0, 1))
    third = sketch.node("dot", (16, 40), sketch.node("parameter", (16, 8)), sketch.node("parameter", (8, 40)))
    both = sketch.node("add", (16, 40), total, third)
    twice = sketch.node("broadcast", (2, 16, 40), both, dimensions=(1, 2))
    last = sketch.node("reshape", (32, 40), twice)
    thin = sketch.node("reshape", (1, 256, 64), first)
    return sketch.program(), np.array([first, split, second, last, thin, third], np.int64)


PROGRAM, IDS = chain()
TENSORS = Tensors.of(PROGRAM)
NODES = configurable_nodes(PROGRAM, TENSORS, IDS)
LINKS = links(PROGRAM, TENSORS, NODES)


def columns_of(configs: np.ndarray) -> dict[str, np.ndarray]:
    rows = LayoutExtractor(PROGRAM, IDS).vectors(configs.astype(np.int8)).astype(float)
    return dict(zip(schema().names, rows.T, strict=True))


def config(**layouts: list[int]) -> np.ndarray:
    """One configuration of named tensors, such as ``output0`` for the first node's output."""
    out = np.full((1, len(IDS), 18), -1, np.int64)
    for name, layout in layouts.items():
        role = ("output", "input", "kernel").index(name[:-1])
        out[0, int(name[-1]), 6 * role : 6 * role + len(layout)] = layout
    return out


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_copies_and_effective_layouts_equal_the_twin(seed: int, n_configs: int) -> None:
    configs = reference_layout.random_configs(NODES, n_configs, seed, set_share=0.8)
    value = columns_of(configs)
    slow = reference_layout.copy_features(NODES, LINKS, configs)
    for column in BLOCK.columns[N_DISAGREEMENTS:]:
        expected = [row[column.name] for row in slow]
        np.testing.assert_allclose(value[f"copies.{column.name}"], expected, rtol=1e-5, atol=1e-5, err_msg=column.name)
    layouts = reference_layout.effective_layouts(NODES, configs)
    (own,) = reference_layout.effective_layouts(NODES, np.full((1, len(IDS), 18), -1))
    changed = [np.mean([one != other for one, other in zip(row, own, strict=True)]) for row in layouts]
    np.testing.assert_allclose(value["layout.effective"], changed, atol=1e-6)
    np.testing.assert_allclose(value["slate.alike"], np.log2([layouts.count(row) for row in layouts]), atol=1e-6)


def test_layouts_that_move_nothing_cost_nothing() -> None:
    same = [
        config(),
        config(output0=[1, 0], input1=[1, 0], output1=[3, 2, 1, 0]),  # the graph's own
        config(output1=[3, 0, 2, 1], output4=[0, 2, 1]),  # the extent of one elsewhere
        config(output1=[3, 2], output4=[2]),  # no further than the graph's own
    ]
    value = columns_of(np.concatenate(same))
    assert value["copies.all.cost"].tolist() == [0.0] * 4
    assert value["layout.effective"].tolist() == [0.0] * 4
    assert value["slate.alike"].tolist() == [2.0] * 4
    assert value["slate.duplicates"].tolist() == [0.0] * 4


def test_the_last_unnamed_dimension_is_implied() -> None:
    value = columns_of(np.concatenate([config(output0=[0]), config(output0=[0, 1]), config(output1=[2, 1])]))
    assert value["slate.alike"].tolist() == [1.0, 1.0, 0.0]


def test_equal_nodes_with_different_producers_are_distinguished() -> None:
    sketch = Sketch()
    square = [sketch.node("parameter", (8, 8)) for _ in range(3)]
    first = sketch.node("dot", (8, 8), square[0], square[1])
    second = sketch.node("dot", (8, 8), first, square[2])
    configs = np.full((1, 2, 18), -1, np.int8)
    configs[0, :, 6:8] = 0, 1
    value = dict(
        zip(
            schema().names,
            LayoutExtractor(sketch.program(), np.array([first, second], np.int64)).vectors(configs)[0].tolist(),
            strict=True,
        )
    )
    assert [value[f"copies.dot.{kind}.copies"] for kind in ("out", "back", "entry", "edge")] == [0, 2, 1, 1]


@pytest.mark.parametrize(
    ("layouts", "kind", "stride", "nbytes"),
    [
        ({"output0": [0, 1]}, "dot.out", 256, 256 * 64 * 4),  # 256 rows come before the columns
        ({"output0": [0]}, "dot.out", 256, 256 * 64 * 4),
        ({"output2": [1, 3]}, "dot.out", 16, 16 * 16 * 40 * 4),
        ({"output2": [3, 1]}, "dot.out", 1, 16 * 16 * 40 * 4),  # runs of 40 stay whole
        ({"input0": [0, 1]}, "dot.entry", 256, 256 * 32 * 4),
        ({"input0": [0, 1]}, "dot.back", 32, 256 * 32 * 4),
        ({"output0": [0, 1]}, "reshape.edge", 64, 2 * 256 * 64 * 4),  # to two readers that expect their own
    ],
)
def test_strides_of_copies(layouts: dict[str, list[int]], kind: str, stride: int, nbytes: int) -> None:
    value = columns_of(config(**layouts))
    for name, least in (("bytes", 0), ("strided", 1), ("strided16", 16), ("strided100", 100)):
        expected = np.log2(1 + nbytes) if stride > least else 0.0
        np.testing.assert_allclose(value[f"copies.{kind}.{name}"], expected, rtol=1e-6, err_msg=name)
    assert value[f"copies.{kind}.copies"] == nbytes // (256 * 64 * 4) or 1


def test_edge_between_equal_layouts_is_free() -> None:
    agreed = columns_of(config(output0=[0, 1], input1=[0, 1], input4=[0, 1]))
    assert agreed["copies.all.edge.bytes"] == 0
    assert agreed["copies.reshape.back.bytes"] > 0
    # The split keeps the minor-most dimension of each group; the other one of it follows in the graph's order.
    handed = columns_of(config(output1=[2, 3, 1, 0], input2=[2, 3, 1, 0]))
    assert handed["copies.dot.edge.bytes"] == 0


def test_operand_fed_by_two_nodes_counts_half_for_each() -> None:
    one = columns_of(config(output5=[0, 1]))  # arrives with 40 last, then the 2 that it is repeated over
    assert one["copies.reshape.edge.copies"] == 0.5
    np.testing.assert_allclose(one["copies.reshape.edge.strided16"], np.log2(1 + 2 * 16 * 40 * 4 / 2), rtol=1e-6)
    assert one["copies.reshape.edge.strided100"] == 0
    two = columns_of(config(output5=[0, 1], output2=[2, 3]))
    assert two["copies.reshape.edge.copies"] == 1.0
    np.testing.assert_allclose(two["copies.reshape.edge.strided16"], np.log2(1 + 2 * 16 * 40 * 4), rtol=1e-6)
    lost = columns_of(config(output2=[1, 3]))  # without the one that is summed away, the graph's own
    assert lost["copies.dot.out.copies"] == 1.0
    assert lost["copies.reshape.edge.copies"] == 0.0


def test_weights_rise_between_16_and_181_elements() -> None:
    np.testing.assert_allclose(
        weights(np.array([1, 16, 64, 2**7, 256])), [0.2, 0.2, 0.2 + 0.8 * 2 / 3.5, 0.2 + 2.4 / 3.5, 1.0]
    )
    assert levels(np.array([1, 2, 16, 17, 100, 101])).tolist() == [1, 2, 2, 3, 3, 4]


def test_orders_are_packed_minor_most_first() -> None:
    own = Copies(NODES, LINKS).own
    assert own.packed[0, 0] == (0b000_001 | 0o777700) | 0o77 << 18
    assert own.packed[4, 0] == (0b001_010 | 0o777700) | 0o77 << 18  # without the extent of one
    assert own.packed[3, 2] == 0o777777  # a reshape has no kernel
    assert own.strides[0, 0].tolist()[:2] == [64, 1]
    row = np.array([[1, *UNSET[1:], *UNSET, *UNSET]])
    partial = orders(NODES, row, np.array([2]))
    assert partial.packed[0, 0] == (0b001 | 0o777770) | 0o7 << 18
    assert partial.strides[0, 0].tolist() == [16, 1, 16, 16, 16, 16, 16, 16]


MADE_PROGRAM, MADE_IDS = made_layout.network(100)


@pytest.mark.parametrize(("limit", "value"), [("_MOST_PAIRS", 0), ("_MOST_PAIRS", 60), ("_MOST_ROWS", 4)])
def test_columns_without_tables_of_pairs_are_the_same(monkeypatch: pytest.MonkeyPatch, limit: str, value: int) -> None:
    configs = made_layout.Configurations(MADE_PROGRAM, MADE_IDS, np.random.default_rng(0)).draw(70)
    expected = LayoutExtractor(MADE_PROGRAM, MADE_IDS).vectors(configs)
    monkeypatch.setattr(copies, limit, value)
    extractor = LayoutExtractor(MADE_PROGRAM, MADE_IDS)
    first = extractor.vectors(configs[:30])  # the rest has rows that are known and rows that are not
    np.testing.assert_array_equal(extractor.vectors(configs), expected)
    assert (first[:, :10] == expected[:30, :10]).all()


def test_weights_are_whole_multiples_of_their_unit() -> None:
    units = weights(np.arange(1, 5000)).astype(np.float32).astype(np.float64) * copies._WEIGHT_UNITS
    assert (units == np.round(units)).all()
    assert units.max() * copies._MOST < 2.0 ** (63 - copies._FIELD * copies._N_FIELDS)


def check_trace(graph: Graph) -> LayoutTrace:
    """Terms of a trace add up to the columns."""
    assert graph.node_config_ids is not None
    program, rows = Program(graph.node_opcode, graph.node_feat, graph.edge_index), np.array([0, 5, 17, 40])
    extractor = LayoutExtractor(program, graph.node_config_ids)
    value = dict(zip(schema().names, extractor.vectors(graph.configs(rows)).T, strict=True))
    found = extractor.trace(graph.configs(rows))
    nodes, of = found.nodes, found.links
    for number, name in enumerate(NODE_CLASSES):
        own = nodes.classes == number
        nbytes = np.where(nodes.rank[own] < 0, 0.0, nodes.nbytes[own])
        copied = {kind: (level[:, own], nbytes[None]) for kind, level in found.copied.items()}
        into = of.group == number
        copied["edge"] = found.level[into].T[..., None], (of.nbytes * of.share)[into][None, :, None]
        for kind, (level, size) in copied.items():
            for least, stem in enumerate(("bytes", "strided", "strided16", "strided100"), start=1):
                expected = np.log2(1 + np.where(level >= least, size, 0.0).sum(axis=(1, 2)))
                np.testing.assert_allclose(value[f"copies.{name}.{kind}.{stem}"], expected, rtol=1e-5)
        padded = ((found.padding[:, own] - 1) * nbytes).sum(axis=(1, 2))
        np.testing.assert_allclose(value[f"layout.{name}.sum.padded"], np.log2(1 + padded), rtol=1e-5, atol=1e-5)
    inside = of.group == INSIDE
    across = (found.disagree[inside] * of.nbytes[inside, None]).sum(axis=0)
    np.testing.assert_allclose(value["copies.inside.any.bytes"], np.log2(1 + across), rtol=1e-5)
    minor = np.log2(found.minor[:, nodes.classes == NODE_CLASSES.index("dot"), 0])
    if minor.size:
        np.testing.assert_allclose(value["layout.dot.output.minor.count"], minor.mean(axis=1), rtol=1e-4)
    return found


@pytest.mark.parametrize("name", ["valid/senet_nhwc", "train/perceiver_io", "test/gmlp_shallow-grad"])
def test_trace_adds_up_to_the_columns(name: str) -> None:
    found = check_trace(read_graph(ROOT / f"data/npz/layout/cpu/random/{name}.npz"))
    for level in (*found.copied.values(), found.level):
        assert (level > 0).any()
    assert found.disagree[found.links.group == INSIDE].any() == (name == "test/gmlp_shallow-grad")


def test_trace_of_a_real_graph_adds_up_to_the_columns(shared_data: Path) -> None:
    check_trace(read_graph(shared_data / "npz/layout/xla/default/train/unet3d.npz"))
