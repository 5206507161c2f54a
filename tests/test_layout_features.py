"""Layout features against their slow twins, on hand-made programs with whole, partial and absent layouts."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata, zscore

from features.graph import Program
from features.hardware import TPU
from features.hlo import LAYOUT_CONFIG
from features.layout import copies, slate
from features.layout.extractor import LAYOUT, N_OWN, N_PER_CONFIG, LayoutExtractor, compared, schema
from features.layout.metagraph import GROUPS, links, meta_graph
from features.layout.nodes import configurable_nodes
from features.layout.rows import first_equal
from features.layout.slate import MAIN, mean_ranks, slate_columns
from features.operations import node_kinds
from features.tensors import Tensors
from tests import reference_layout, reference_layout_numpy, reference_traffic
from tests.programs import Sketch


def network() -> tuple[Program, np.ndarray]:
    """Conv -> relu -> transpose -> reshape -> dot -> add bias -> dot, with a second use of the convolution."""
    sketch = Sketch()
    numbers = {
        "convolution_dim_numbers_input_feature_dim": 3,
        "convolution_dim_numbers_input_spatial_dims": (1, 2),
        "convolution_dim_numbers_kernel_input_feature_dim": 2,
        "convolution_dim_numbers_kernel_output_feature_dim": 3,
        "convolution_dim_numbers_kernel_spatial_dims": (0, 1),
        "convolution_dim_numbers_output_feature_dim": 3,
        "window_size": (3, 3),
        "window_stride": (1, 1),
        "feature_group_count": 1,
    }
    image = sketch.node("parameter", (2, 10, 10, 3))
    filters = sketch.node("parameter", (3, 3, 3, 16))
    conv = sketch.node("convolution", (2, 8, 8, 16), image, filters, **numbers)
    active = sketch.node("maximum", (2, 8, 8, 16), conv)
    turned = sketch.node("transpose", (2, 16, 8, 8), active, dimensions=(0, 3, 1, 2))
    flat = sketch.node("reshape", (2, 1024), turned)
    weight = sketch.node("parameter", (1024, 130))
    first = sketch.node("dot", (2, 130), flat, weight)
    bias = sketch.node("parameter", (130,))
    wide = sketch.node("broadcast", (2, 130), bias, dimensions=(1,))
    total = sketch.node("add", (2, 130), first, wide)
    last = sketch.node("parameter", (7, 130))
    turned_last = sketch.node("transpose", (130, 7), last, dimensions=(1, 0))
    second = sketch.node("dot", (2, 7), total, turned_last)
    pooled = sketch.node("reduce", (2, 16), active, dimensions=(1, 2))
    small = sketch.node("parameter", (16, 7))
    third = sketch.node("dot", (2, 7), pooled, small)
    sketch.node("add", (2, 7), second, third)
    ids = np.array([conv, flat, first, second, third], np.int64)
    return sketch.program(), ids


PROGRAM, IDS = network()
TENSORS = Tensors.of(PROGRAM)
NODES = configurable_nodes(PROGRAM, TENSORS, IDS)


@st.composite
def any_configs(draw: st.DrawFn) -> np.ndarray:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_configs = draw(st.integers(1, 6))
    configs = np.full((n_configs, len(IDS), len(LAYOUT_CONFIG)), -1, np.int8)
    for config in range(n_configs):
        for place in range(len(IDS)):
            for role in range(3):
                rank = int(NODES.rank[place, role])
                if rank > 0 and rng.random() < 0.7:
                    named = rng.integers(1, rank + 1)
                    order = list(permutations(range(rank)))[rng.integers(len(list(permutations(range(rank)))))]
                    configs[config, place, 6 * role : 6 * role + named] = order[:named]
    return configs


def vectors(configs: np.ndarray, block: int | None = None) -> np.ndarray:
    extract = LayoutExtractor(PROGRAM, IDS, hardware=TPU)
    if block is None:
        return extract.vectors(configs)
    seen = [extract.observe(configs[first : first + block]) for first in range(0, len(configs), block)]
    codes, digests = (np.concatenate(parts) for parts in zip(*seen, strict=True))
    out = np.empty((len(configs), len(schema())), np.float32)
    for first in range(0, len(configs), block):
        extract.describe(codes[first : first + block], out[first : first + block, :N_OWN])
    of_slate = slate_columns(out[:, compared()], *extract.frequencies(codes, extract.usual()), first_equal(digests))
    out[:, N_OWN:N_PER_CONFIG] = of_slate
    out[:, N_PER_CONFIG:] = extract.shared
    return out


def section(rows: np.ndarray, name: str) -> np.ndarray:
    names = schema().names
    places = [number for number, column in enumerate(names) if column.split(".")[0] == name]
    return rows[:, places]


@settings(max_examples=25, deadline=None)
@given(any_configs())
def test_layout_block_is_that_of_its_twin(configs: np.ndarray) -> None:
    got = section(vectors(configs), "layout")
    kinds = node_kinds(PROGRAM, TENSORS, IDS)
    for row, wanted in zip(got, reference_layout.layout_features(NODES, kinds, configs), strict=True):
        full = [wanted.get(column.name, 0.0) for column in LAYOUT.columns]
        np.testing.assert_allclose(row, full, rtol=2e-5, atol=2e-5)


@settings(max_examples=15, deadline=None)
@given(any_configs())
def test_config_block_pools_the_slots(configs: np.ndarray) -> None:
    wide = configs.astype(float)
    configured = (configs >= 0).any(axis=2)
    wanted = [wide.mean(axis=1), wide.std(axis=1), configured.mean(axis=1)[:, None], ~configured.any(axis=1)[:, None]]
    np.testing.assert_allclose(section(vectors(configs), "config"), np.concatenate(wanted, axis=1), atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(any_configs())
def test_copies_block_is_that_of_its_twin(configs: np.ndarray) -> None:
    of = links(PROGRAM, TENSORS, NODES)
    got = section(vectors(configs), "copies")
    slow = zip(
        reference_layout.copies_features(NODES, of, configs),
        reference_traffic.traffic_features(NODES, of, configs),
        strict=True,
    )
    for row, wanted in zip(got, (first | second for first, second in slow), strict=True):
        np.testing.assert_allclose(row, [wanted[column.name] for column in copies.BLOCK.columns], rtol=1e-5, atol=1e-5)


def test_meta_graph_of_the_network() -> None:
    graph = meta_graph(PROGRAM, TENSORS, NODES.operands, IDS)
    got = {
        (int(p), int(c), int(r)): origin.tolist()
        for p, c, r, origin in zip(graph.producer, graph.consumer, graph.role, graph.origin, strict=True)
    }
    assert got == {
        (0, 1, 1): [0, 2, 3, 1, -1, -1],  # conv (N, H, W, C) reaches the reshape as (N, C, H, W)
        (1, 2, 1): [0, 1, -1, -1, -1, -1],
        (2, 3, 1): [0, 1, -1, -1, -1, -1],
        (0, 4, 1): [0, -1, -1, 1, -1, -1],  # height and width are summed away
    }
    stops = {node for node in range(len(PROGRAM)) if len(PROGRAM.operands.of(node)) == 0}
    assert set(got) == reference_layout.meta_edges(PROGRAM, NODES.operands, IDS, stops)


def test_inside_link_of_a_reshape_pairs_the_minor_dimensions() -> None:
    of = links(PROGRAM, TENSORS, NODES)
    inside = np.flatnonzero(of.group == GROUPS.index("inside"))
    assert of.nodes[inside].tolist() == [[1, 1]]
    assert of.origin[inside[0]].tolist()[:2] == [0, 3]  # (2, 1024) from (2, 16, 8, 8): 1024 runs along the last


def test_nodes_that_look_alike_keep_their_own_operands() -> None:
    sketch = Sketch()
    a, b, c, wide = (sketch.node("parameter", shape) for shape in ((16, 16), (16, 16), (16, 16), (16, 32)))
    pairs = ((a, b), (a, a), (b, c), (a, wide), (c, wide), (c, c))
    ids = np.array([sketch.node("dot", (16, 32 if pair[1] == wide else 16), *pair) for pair in pairs])
    program = sketch.program()
    nodes = configurable_nodes(program, Tensors.of(program), ids)
    assert nodes.operands.tolist() == [list(pair) for pair in pairs]
    assert nodes.flops.tolist() == [2.0 * 16 * 16 * (32 if pair[1] == wide else 16) for pair in pairs]


def test_operands_are_told_apart_by_shape() -> None:
    assert NODES.operands[0].tolist() == [0, 1]
    assert NODES.rank[:, 2].tolist() == [4, -1, 2, 2, 2]


@settings(max_examples=15, deadline=None)
@given(any_configs(), st.integers(1, 3))
def test_blocks_do_not_matter(configs: np.ndarray, block: int) -> None:
    np.testing.assert_array_equal(vectors(configs), vectors(configs, block))


@settings(max_examples=15, deadline=None)
@given(any_configs(), st.randoms(use_true_random=False))
def test_permuted_configurations_give_permuted_vectors(configs: np.ndarray, random: object) -> None:
    order = np.random.default_rng(len(configs)).permutation(len(configs))
    np.testing.assert_allclose(vectors(configs[order]), vectors(configs)[order], rtol=1e-6, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(any_configs())
def test_slate_block_is_relative_to_the_whole_slate(configs: np.ndarray) -> None:
    rows = vectors(configs)
    value = {name: rows[:, number].astype(float) for number, name in enumerate(schema().names)}
    shares = np.array(
        [[(configs[:, place] == own[place]).all(axis=1).mean() for place in range(len(IDS))] for own in configs]
    )
    np.testing.assert_allclose(value["slate.all.frequency.count"], np.log2(shares).mean(axis=1), atol=1e-5)
    np.testing.assert_allclose(value["slate.rarest"], np.log2(shares.min(axis=1)), atol=1e-5)
    copies_of = [(configs == own).all(axis=(1, 2)).sum() for own in configs]
    np.testing.assert_allclose(value["slate.duplicates"], np.log2(copies_of), atol=1e-6)
    layouts = reference_traffic.effective_layouts(NODES, configs)
    np.testing.assert_allclose(value["slate.alike"], np.log2([layouts.count(own) for own in layouts]), atol=1e-6)
    for name in slate.PADDED:
        np.testing.assert_allclose(value[f"slate.over_least.{name}"], value[name] - value[name].min(), atol=1e-6)
    for name in MAIN:
        own = value[name]
        if len(own) > 1:
            np.testing.assert_allclose(value[f"slate.rank.{name}"], (rankdata(own) - 1) / (len(own) - 1), atol=1e-6)
        if np.ptp(own) > 1e-3:
            np.testing.assert_allclose(value[f"slate.z.{name}"], zscore(own), rtol=1e-3, atol=1e-3)


def test_mean_ranks_of_ties_and_singles() -> None:
    assert mean_ranks(np.array([3.0, 1.0, 3.0])).tolist() == [0.75, 0.0, 0.75]
    assert mean_ranks(np.array([2.0])).tolist() == [0.5]
    assert mean_ranks(np.array([2.0, 2.0])).tolist() == [0.5, 0.5]


def test_types_and_reach_are_shares() -> None:
    configs = np.full((2, len(IDS), 18), -1, np.int8)
    configs[1, 0, 0] = 2
    rows = vectors(configs)
    np.testing.assert_allclose(section(rows, "types").sum(axis=1), 1, rtol=1e-5)
    assert (section(rows, "reach")[0] == 0).all()
    assert (section(rows, "reach")[1] > 0).any()
    assert np.isfinite(rows).all()
    assert slate.BLOCK.per_config


def test_real_files_have_finite_vectors(shared_data: Path) -> None:
    for path in sorted(shared_data.glob("npz/layout/**/*.npz")):
        with np.load(path) as data:
            program = Program(
                data["node_opcode"].astype(np.uint8), data["node_feat"], data["edge_index"].astype(np.int64)
            )
            extract = LayoutExtractor(program, data["node_config_ids"])
            configs = data["node_config_feat"][:64].astype(np.int8)
        rows = extract.vectors(configs)
        assert np.isfinite(rows).all()
        # Every configured layout must name dimensions of the tensor it was assigned to.
        nodes = extract._nodes
        for role in range(3):
            named = configs[:, :, 6 * role : 6 * role + 6].max(axis=(0, 2))
            assert (named < np.maximum(nodes.rank[:, role], 0)).all(), (path, role)


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match="without configurable nodes"):
        LayoutExtractor(PROGRAM, np.zeros(0, np.int64))
    with pytest.raises(ValueError, match=r"shape \(1, 4, 18\), wanted \(c, 5, 18\)"):
        LayoutExtractor(PROGRAM, IDS).observe(np.zeros((1, 4, 18), np.int8))


@settings(max_examples=25, deadline=None)
@given(any_configs())
def test_whole_arrays_give_the_same(configs: np.ndarray) -> None:
    of = links(PROGRAM, TENSORS, NODES)
    wanted = reference_layout_numpy.own_columns(NODES, of, configs)
    covered = [schema().names.index(name) for name in reference_layout_numpy.COVERED]
    np.testing.assert_allclose(vectors(configs)[:, covered], wanted, rtol=2e-5, atol=2e-5)
