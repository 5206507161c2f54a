"""Copies where extents of one, partial layouts and lost dimensions matter, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.graph import Program
from features.layout.copies import COLUMNS, levels, orders, own_orders, weights
from features.layout.extractor import LayoutExtractor, schema
from features.layout.metagraph import links
from features.layout.nodes import configurable_nodes
from features.tensors import Tensors
from tests import reference_traffic
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
SETTABLE = [(place, role) for place in range(len(IDS)) for role in range(3) if NODES.rank[place, role] > 0]


def copied(configs: np.ndarray) -> dict[str, np.ndarray]:
    rows = LayoutExtractor(PROGRAM, IDS).vectors(configs.astype(np.int8)).astype(float)
    return dict(zip(schema().names, rows.T, strict=True))


def config(**layouts: list[int]) -> np.ndarray:
    """One configuration of named tensors, such as ``output0`` for the first node's output."""
    out = np.full((1, len(IDS), 18), -1, np.int64)
    for name, layout in layouts.items():
        role = ("output", "input", "kernel").index(name[:-1])
        out[0, int(name[-1]), 6 * role : 6 * role + len(layout)] = layout
    return out


@st.composite
def any_configs(draw: st.DrawFn) -> np.ndarray:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    configs = np.full((draw(st.integers(1, 5)), len(IDS), 18), -1, np.int64)
    for own in configs:
        for place, role in SETTABLE:
            rank = int(NODES.rank[place, role])
            if rng.random() < 0.8:
                named = int(rng.integers(1, rank + 1))
                own[place, 6 * role : 6 * role + named] = rng.permutation(rank)[:named]
                if rng.random() < 0.1:  # not a layout at all: a dimension twice
                    own[place, 6 * role + 1] = own[place, 6 * role]
    return configs


@settings(max_examples=40, deadline=None)
@given(any_configs())
def test_copies_are_those_of_the_twin(configs: np.ndarray) -> None:
    value = copied(configs)
    slow = reference_traffic.traffic_features(NODES, LINKS, configs)
    for column in COLUMNS:
        wanted = [row[column.name] for row in slow]
        np.testing.assert_allclose(value[f"copies.{column.name}"], wanted, rtol=1e-5, atol=1e-5, err_msg=column.name)


@settings(max_examples=40, deadline=None)
@given(any_configs())
def test_what_is_in_effect_is_that_of_the_twin(configs: np.ndarray) -> None:
    value = copied(configs)
    layouts = reference_traffic.effective_layouts(NODES, configs)
    (own,) = reference_traffic.effective_layouts(NODES, np.full((1, len(IDS), 18), -1))
    changed = [np.mean([one != other for one, other in zip(row, own, strict=True)]) for row in layouts]
    np.testing.assert_allclose(value["layout.effective"], changed, atol=1e-6)
    np.testing.assert_allclose(value["slate.alike"], np.log2([layouts.count(row) for row in layouts]), atol=1e-6)


def test_a_layout_that_moves_nothing_costs_nothing() -> None:
    same = [
        config(),
        config(output0=[1, 0], input1=[1, 0], output1=[3, 2, 1, 0]),  # the graph's own
        config(output1=[3, 0, 2, 1], output4=[0, 2, 1]),  # the extent of one elsewhere
        config(output1=[3, 2], output4=[2]),  # no further than the graph's own
    ]
    value = copied(np.concatenate(same))
    assert value["copies.all.cost"].tolist() == [0.0] * 4
    assert value["layout.effective"].tolist() == [0.0] * 4
    assert value["slate.alike"].tolist() == [2.0] * 4
    assert value["slate.duplicates"].tolist() == [0.0] * 4


def test_naming_all_but_one_dimension_names_them_all() -> None:
    value = copied(np.concatenate([config(output0=[0]), config(output0=[0, 1]), config(output1=[2, 1])]))
    assert value["slate.alike"].tolist() == [1.0, 1.0, 0.0]


def test_nodes_that_are_alike_but_for_their_place_are_told_apart() -> None:
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
        ({"output0": [0, 1]}, "reshape.edge", 64, 2 * 256 * 64 * 4),  # to two readers that want their own
    ],
)
def test_strides_of_copies(layouts: dict[str, list[int]], kind: str, stride: int, nbytes: int) -> None:
    value = copied(config(**layouts))
    for name, least in (("bytes", 0), ("strided", 1), ("strided16", 16), ("strided100", 100)):
        wanted = np.log2(1 + nbytes) if stride > least else 0.0
        np.testing.assert_allclose(value[f"copies.{kind}.{name}"], wanted, rtol=1e-6, err_msg=name)
    assert value[f"copies.{kind}.copies"] == nbytes // (256 * 64 * 4) or 1


def test_an_edge_between_equal_layouts_is_free() -> None:
    agreed = copied(config(output0=[0, 1], input1=[0, 1], input4=[0, 1]))
    assert agreed["copies.all.edge.bytes"] == 0
    assert agreed["copies.reshape.back.bytes"] > 0
    # The split keeps the minor-most dimension of each group; the other one of it follows in the graph's order.
    handed = copied(config(output1=[2, 3, 1, 0], input2=[2, 3, 1, 0]))
    assert handed["copies.dot.edge.bytes"] == 0


def test_an_operand_fed_by_two_nodes_is_half_each() -> None:
    one = copied(config(output5=[0, 1]))  # arrives with 40 last, then the 2 that it is repeated over
    assert one["copies.reshape.edge.copies"] == 0.5
    np.testing.assert_allclose(one["copies.reshape.edge.strided16"], np.log2(1 + 2 * 16 * 40 * 4 / 2), rtol=1e-6)
    assert one["copies.reshape.edge.strided100"] == 0
    two = copied(config(output5=[0, 1], output2=[2, 3]))
    assert two["copies.reshape.edge.copies"] == 1.0
    np.testing.assert_allclose(two["copies.reshape.edge.strided16"], np.log2(1 + 2 * 16 * 40 * 4), rtol=1e-6)
    lost = copied(config(output2=[1, 3]))  # without the one that is summed away, the graph's own
    assert lost["copies.dot.out.copies"] == 1.0
    assert lost["copies.reshape.edge.copies"] == 0.0


def test_weights_rise_between_16_and_181_elements() -> None:
    np.testing.assert_allclose(
        weights(np.array([1, 16, 64, 2**7, 256])), [0.2, 0.2, 0.2 + 0.8 * 2 / 3.5, 0.2 + 2.4 / 3.5, 1.0]
    )
    assert levels(np.array([1, 2, 16, 17, 100, 101])).tolist() == [1, 2, 2, 3, 3, 4]


def test_orders_are_packed_from_the_minor_most_on() -> None:
    own = own_orders(NODES)
    assert own.packed[0, 0] == (0b000_001 | 0o777700) | 0o77 << 18
    assert own.packed[4, 0] == (0b001_010 | 0o777700) | 0o77 << 18  # without the extent of one
    assert own.packed[3, 2] == 0o777777  # a reshape has no kernel
    assert own.strides[0, 0].tolist()[:2] == [64, 1]
    row = np.array([[1, *UNSET[1:], *UNSET, *UNSET]])
    partial = orders(NODES, row, np.array([2]))
    assert partial.packed[0, 0] == (0b001 | 0o777770) | 0o7 << 18
    assert partial.strides[0, 0].tolist() == [16, 1, 16, 16, 16, 16, 16, 16]
