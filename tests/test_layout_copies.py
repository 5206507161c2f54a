"""Copies where extents of one, partial layouts and lost dimensions matter, worked out by hand, and traces of copies."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import made_layout
from features.graph import Program
from features.layout import copies
from features.layout.copies import BLOCK, N_DISAGREEMENTS, weights
from features.layout.extractor import LayoutExtractor, LayoutTrace, schema
from features.layout.metagraph import INSIDE, links
from features.layout.nodes import NODE_CLASSES, configurable_nodes
from features.tensors import Tensors
from gbr.data.graph import Graph, read_graph
from tests import reference_layout
from tests.conftest import ROOT
from tests.programs import program
from tests.test_layout_features import IDS as NETWORK_IDS
from tests.test_layout_features import PROGRAM as NETWORK

#: Dot -> reshape that splits -> dot with an extent of one -> sums -> plus a dot, repeated -> reshape.
PROGRAM = program(
    ("parameter", (256, 32)),
    ("parameter", (32, 64)),
    ("dot", (256, 64), 0, 1),
    ("reshape", (1, 16, 16, 64), 2),
    ("parameter", (64, 40)),
    ("dot", (1, 16, 16, 40), 3, 4),
    ("reduce", (16, 40), 5, {"dimensions": (0, 1)}),
    ("parameter", (16, 8)),
    ("parameter", (8, 40)),
    ("dot", (16, 40), 7, 8),
    ("add", (16, 40), 6, 9),
    ("broadcast", (2, 16, 40), 10, {"dimensions": (1, 2)}),
    ("reshape", (32, 40), 11),
    ("reshape", (1, 256, 64), 2),
)
IDS = np.array([2, 3, 5, 12, 13, 9], np.int64)


def columns_of(configs: np.ndarray, program: Program = PROGRAM, ids: np.ndarray = IDS) -> dict[str, np.ndarray]:
    rows = LayoutExtractor(program, ids).vectors(configs.astype(np.int8)).astype(float)
    return dict(zip(schema().names, rows.T, strict=True))


config = partial(reference_layout.config, len(IDS))


@pytest.mark.parametrize(("program", "ids"), [(PROGRAM, IDS), (NETWORK, NETWORK_IDS)])
@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_copies_and_effective_layouts_equal_the_twin(
    program: Program, ids: np.ndarray, seed: int, n_configs: int
) -> None:
    tensors = Tensors.of(program)
    nodes = configurable_nodes(program, tensors, ids)
    configs = reference_layout.random_configs(nodes, n_configs, seed, set_share=0.8)
    value = columns_of(configs, program, ids)
    slow = reference_layout.copy_features(nodes, links(program, tensors, nodes), configs)
    for column in BLOCK.columns[N_DISAGREEMENTS:]:
        expected = [row[column.name] for row in slow]
        np.testing.assert_allclose(value[f"copies.{column.name}"], expected, rtol=1e-5, atol=1e-5, err_msg=column.name)
    layouts = reference_layout.effective_layouts(nodes, configs)
    (own,) = reference_layout.effective_layouts(nodes, np.full((1, len(ids), 18), -1))
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


def test_equal_nodes_with_different_producers_are_distinguished() -> None:
    square = ("parameter", (8, 8))
    dots = program(square, square, square, ("dot", (8, 8), 0, 1), ("dot", (8, 8), 3, 2))
    configs = np.full((1, 2, 18), -1)
    configs[0, :, 6:8] = 0, 1
    value = columns_of(configs, dots, np.array([3, 4]))
    assert [value[f"copies.dot.{kind}.copies"].item() for kind in ("out", "back", "entry", "edge")] == [0, 2, 1, 1]


@pytest.mark.parametrize(
    ("layouts", "kind", "stride", "nbytes"),
    [
        ({"output0": [0, 1]}, "dot.out", 256, 256 * 64 * 4),  # 256 rows come before the columns
        ({"output2": [1, 3]}, "dot.out", 16, 16 * 16 * 40 * 4),  # a partial layout
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


def test_edges_cost_where_layouts_disagree() -> None:
    agreed = columns_of(config(output0=[0, 1], input1=[0, 1], input4=[0, 1]))
    assert agreed["copies.all.edge.bytes"] == 0
    assert agreed["copies.reshape.back.bytes"] > 0
    # The split keeps the minor-most dimension of each group; the other one of it follows in the graph's order.
    assert columns_of(config(output1=[2, 3, 1, 0], input2=[2, 3, 1, 0]))["copies.dot.edge.bytes"] == 0
    # One of the two nodes that feed an operand: it arrives with 40 last, then the 2 that it is repeated over.
    half = columns_of(config(output5=[0, 1]))
    assert half["copies.reshape.edge.copies"] == 0.5
    np.testing.assert_allclose(half["copies.reshape.edge.strided16"], np.log2(1 + 2 * 16 * 40 * 4 / 2), rtol=1e-6)
    lost = columns_of(config(output2=[1, 3]))  # without the one that is summed away, the graph's own
    assert (lost["copies.dot.out.copies"], lost["copies.reshape.edge.copies"]) == (1, 0)


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
