"""Layout features against their naive twins, on small programs with full, partial and absent layouts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata, zscore

from features.graph import Program
from features.hardware import TPU
from features.layout import copies, slate
from features.layout.extractor import N_OWN, N_PER_CONFIG, SLATE_INPUTS, LayoutExtractor, schema
from features.layout.metagraph import INSIDE, links
from features.layout.nodes import configurable_nodes
from features.layout.rows import first_equal
from features.layout.slate import RANKED, RECOMPUTED, mean_ranks, recomputed, slate_columns
from features.operations import KINDS, node_kinds
from features.tensors import Tensors
from tests import reference_layout, reference_layout_numpy
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
    transposed = sketch.node("transpose", (2, 16, 8, 8), active, dimensions=(0, 3, 1, 2))
    flat = sketch.node("reshape", (2, 1024), transposed)
    weight = sketch.node("parameter", (1024, 130))
    first = sketch.node("dot", (2, 130), flat, weight)
    bias = sketch.node("parameter", (130,))
    wide = sketch.node("broadcast", (2, 130), bias, dimensions=(1,))
    total = sketch.node("add", (2, 130), first, wide)
    last = sketch.node("parameter", (7, 130))
    transposed_last = sketch.node("transpose", (130, 7), last, dimensions=(1, 0))
    second = sketch.node("dot", (2, 7), total, transposed_last)
    pooled = sketch.node("reduce", (2, 16), active, dimensions=(1, 2))
    small = sketch.node("parameter", (16, 7))
    third = sketch.node("dot", (2, 7), pooled, small)
    sketch.node("add", (2, 7), second, third)
    ids = np.array([conv, flat, first, second, third], np.int64)
    return sketch.program(), ids


PROGRAM, IDS = network()
TENSORS = Tensors.of(PROGRAM)
NODES = configurable_nodes(PROGRAM, TENSORS, IDS)


#: Random configurations.
any_configs = st.builds(
    lambda n_configs, seed: reference_layout.random_configs(NODES, n_configs, seed),
    st.integers(1, 6),
    st.integers(0, 2**32 - 1),
)


def vectors(configs: np.ndarray, block: int | None = None) -> np.ndarray:
    extract = LayoutExtractor(PROGRAM, IDS, hardware=TPU)
    if block is None:
        return extract.vectors(configs)
    seen = [extract.observe(configs[first : first + block]) for first in range(0, len(configs), block)]
    codes, digests = (np.concatenate(parts) for parts in zip(*seen, strict=True))
    out = np.empty((len(configs), len(schema())), np.float32)
    for first in range(0, len(configs), block):
        extract.describe(codes[first : first + block], out[first : first + block, :N_OWN])
    relative = slate_columns(out[:, SLATE_INPUTS], *extract.frequencies().columns(codes), first_equal(digests))
    out[:, N_OWN:N_PER_CONFIG] = relative
    out[:, N_PER_CONFIG:] = extract.shared
    return out


def section(rows: np.ndarray, name: str) -> np.ndarray:
    names = schema().names
    indices = [number for number, column in enumerate(names) if column.split(".")[0] == name]
    return rows[:, indices]


@settings(max_examples=25, deadline=None)
@given(any_configs)
def test_columns_equal_the_numpy_twin(configs: np.ndarray) -> None:
    found = links(PROGRAM, TENSORS, NODES)
    expected = reference_layout_numpy.own_columns(NODES, found, configs)
    covered = [schema().names.index(name) for name in reference_layout_numpy.COVERED]
    np.testing.assert_allclose(vectors(configs)[:, covered], expected, rtol=2e-5, atol=2e-5)


@settings(max_examples=10, deadline=None)
@given(any_configs)
def test_copies_and_paddings_equal_the_naive_twin(configs: np.ndarray) -> None:
    rows = vectors(configs)
    copied = reference_layout.copy_features(NODES, links(PROGRAM, TENSORS, NODES), configs)
    for row, expected in zip(section(rows, "copies"), copied, strict=True):
        columns = [expected[column.name] for column in copies.BLOCK.columns[copies.N_DISAGREEMENTS :]]
        np.testing.assert_allclose(row[copies.N_DISAGREEMENTS :], columns, rtol=1e-5, atol=1e-5)
    kinds, values = node_kinds(PROGRAM, TENSORS, IDS), reference_layout_numpy.values(NODES, configs)[0]
    for number, kind in enumerate(KINDS):
        flops = np.where(kinds == number, NODES.flops, 0.0)
        padded = (2.0 ** values[:, :, 0, 8] * flops).sum(axis=1)
        expected = np.log2(padded / flops.sum()) if flops.any() else np.zeros(len(configs))
        column = schema().names.index(f"layout.{kind}.output_padding")
        np.testing.assert_allclose(rows[:, column], expected, rtol=1e-5, atol=1e-5)


def test_meta_graph_of_the_network() -> None:
    of = links(PROGRAM, TENSORS, NODES)
    edges = of.group != INSIDE
    got = {
        (int(producer), int(consumer), int(role)): origin.tolist()
        for (producer, consumer), role, origin in zip(
            of.nodes[edges], of.roles[edges, 1], of.origin[edges], strict=True
        )
    }
    assert got == {
        (0, 1, 1): [0, 2, 3, 1, -1, -1],  # conv (N, H, W, C) reaches the reshape as (N, C, H, W)
        (1, 2, 1): [0, 1, -1, -1, -1, -1],
        (2, 3, 1): [0, 1, -1, -1, -1, -1],
        (0, 4, 1): [0, -1, -1, 1, -1, -1],  # height and width are reduced
    }
    stops = {node for node in range(len(PROGRAM)) if len(PROGRAM.operands.of(node)) == 0}
    assert set(got) == reference_layout.meta_edges(PROGRAM, NODES.operands, IDS, stops)


def test_link_inside_a_reshape_pairs_the_minor_dimensions() -> None:
    of = links(PROGRAM, TENSORS, NODES)
    inside = np.flatnonzero(of.group == INSIDE)
    assert of.nodes[inside].tolist() == [[1, 1]]
    assert of.origin[inside[0]].tolist()[:2] == [0, 3]  # (2, 1024) from (2, 16, 8, 8): 1024 runs along the last


def test_equal_nodes_keep_their_own_operands() -> None:
    sketch = Sketch()
    a, b, c, wide = (sketch.node("parameter", shape) for shape in ((16, 16), (16, 16), (16, 16), (16, 32)))
    pairs = ((a, b), (a, a), (b, c), (a, wide), (c, wide), (c, c))
    ids = np.array([sketch.node("dot", (16, 32 if pair[1] == wide else 16), *pair) for pair in pairs])
    program = sketch.program()
    nodes = configurable_nodes(program, Tensors.of(program), ids)
    assert nodes.operands.tolist() == [list(pair) for pair in pairs]
    assert nodes.flops.tolist() == [2.0 * 16 * 16 * (32 if pair[1] == wide else 16) for pair in pairs]


def test_input_and_kernel_are_found_by_shape() -> None:
    assert NODES.operands[0].tolist() == [0, 1]
    assert NODES.rank[:, 2].tolist() == [4, -1, 2, 2, 2]


@settings(max_examples=15, deadline=None)
@given(any_configs, st.integers(1, 3))
def test_columns_do_not_depend_on_the_block_size(configs: np.ndarray, block: int) -> None:
    np.testing.assert_array_equal(vectors(configs), vectors(configs, block))


@settings(max_examples=15, deadline=None)
@given(any_configs, st.randoms(use_true_random=False))
def test_permuted_configurations_give_permuted_vectors(configs: np.ndarray, random: object) -> None:
    order = np.random.default_rng(len(configs)).permutation(len(configs))
    np.testing.assert_allclose(vectors(configs[order]), vectors(configs)[order], rtol=1e-6, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(any_configs)
def test_slate_block_equals_statistics_of_the_group(configs: np.ndarray) -> None:
    rows = vectors(configs)
    value = {name: rows[:, number].astype(float) for number, name in enumerate(schema().names)}
    shares = np.array(
        [[(configs[:, node] == own[node]).all(axis=1).mean() for node in range(len(IDS))] for own in configs]
    )
    np.testing.assert_allclose(value["slate.all.frequency.count"], np.log2(shares).mean(axis=1), atol=1e-5)
    np.testing.assert_allclose(value["slate.rarest"], np.log2(shares.min(axis=1)), atol=1e-5)
    duplicates = [(configs == own).all(axis=(1, 2)).sum() for own in configs]
    np.testing.assert_allclose(value["slate.duplicates"], np.log2(duplicates), atol=1e-6)
    layouts = reference_layout.effective_layouts(NODES, configs)
    np.testing.assert_allclose(value["slate.alike"], np.log2([layouts.count(own) for own in layouts]), atol=1e-6)
    for name in slate.PADDED:
        np.testing.assert_allclose(value[f"slate.over_least.{name}"], value[name] - value[name].min(), atol=1e-6)
    for name in RANKED:
        own = value[name]
        if len(own) > 1:
            np.testing.assert_allclose(value[f"slate.rank.{name}"], (rankdata(own) - 1) / (len(own) - 1), atol=1e-6)
        if np.ptp(own) > 1e-3:
            np.testing.assert_allclose(value[f"slate.z.{name}"], zscore(own), rtol=1e-3, atol=1e-3)


def test_mean_ranks_of_ties_and_single_values() -> None:
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


def test_invalid_input_is_refused() -> None:
    with pytest.raises(ValueError, match="without configurable nodes"):
        LayoutExtractor(PROGRAM, np.zeros(0, np.int64))
    with pytest.raises(ValueError, match=r"expected shape \(c, 5, 18\), got \(1, 4, 18\)"):
        LayoutExtractor(PROGRAM, IDS).observe(np.zeros((1, 4, 18), np.int8))


@settings(max_examples=25, deadline=None)
@given(count=st.integers(1, 9), seed=st.integers(0, 99), data=st.data())
def test_replaced_columns_equal_those_of_a_changed_group(count: int, seed: int, data: st.DataObject) -> None:
    rng = np.random.default_rng(seed)
    own = rng.integers(0, 4, (count, len(SLATE_INPUTS))).astype(np.float32)
    row = data.draw(st.integers(0, count - 1))
    others = rng.integers(0, 4, (3, len(SLATE_INPUTS))).astype(np.float32)
    found = recomputed(own, row, others)
    columns = [slate.BLOCK.names.index(name) for name in RECOMPUTED]
    for value, actual in zip(others, found, strict=True):
        changed = own.copy()
        changed[row] = value
        expected = slate.slate_columns(
            changed,
            np.zeros((count, slate.N_FREQUENCY), np.float32),
            np.arange(count, dtype=np.uint64),
            np.arange(count),
        )
        np.testing.assert_allclose(actual, expected[row, columns], rtol=1e-5, atol=1e-6)
