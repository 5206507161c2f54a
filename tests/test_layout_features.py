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
from features.layout import slate
from features.layout.extractor import N_OWN, N_PER_CONFIG, SLATE_INPUTS, LayoutExtractor, schema
from features.layout.metagraph import INSIDE, links
from features.layout.nodes import configurable_nodes
from features.layout.rows import first_equal
from features.layout.slate import RANKED, RECOMPUTED, recomputed, slate_columns
from features.operations import KINDS, node_kinds
from features.tensors import Tensors
from tests import reference_layout, reference_layout_numpy
from tests.programs import nhwc, program

#: Conv -> relu -> transpose -> reshape -> dot -> add bias -> dot, with a second use of the convolution.
PROGRAM, IDS = (
    program(
        ("parameter", (2, 10, 10, 3)),
        ("parameter", (3, 3, 3, 16)),
        ("convolution", (2, 8, 8, 16), 0, 1, nhwc(3)),
        ("maximum", (2, 8, 8, 16), 2),
        ("transpose", (2, 16, 8, 8), 3, {"dimensions": (0, 3, 1, 2)}),
        ("reshape", (2, 1024), 4),
        ("parameter", (1024, 130)),
        ("dot", (2, 130), 5, 6),
        ("parameter", (130,)),
        ("broadcast", (2, 130), 8, {"dimensions": (1,)}),
        ("add", (2, 130), 7, 9),
        ("parameter", (7, 130)),
        ("transpose", (130, 7), 11, {"dimensions": (1, 0)}),
        ("dot", (2, 7), 10, 12),
        ("reduce", (2, 16), 3, {"dimensions": (1, 2)}),
        ("parameter", (16, 7)),
        ("dot", (2, 7), 14, 15),
        ("add", (2, 7), 13, 16),
    ),
    np.array([2, 5, 7, 13, 16], np.int64),
)
TENSORS = Tensors.of(PROGRAM)
NODES = configurable_nodes(PROGRAM, TENSORS, IDS)
LINKS = links(PROGRAM, TENSORS, NODES)


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


def section(rows: np.ndarray, block: str) -> np.ndarray:
    return rows[:, [name.startswith(f"{block}.") for name in schema().names]]


@settings(max_examples=25, deadline=None)
@given(any_configs)
def test_columns_equal_the_numpy_twin(configs: np.ndarray) -> None:
    rows = vectors(configs)
    expected = reference_layout_numpy.own_columns(NODES, LINKS, configs)
    covered = [schema().names.index(name) for name in reference_layout_numpy.COVERED]
    np.testing.assert_allclose(rows[:, covered], expected, rtol=2e-5, atol=2e-5)
    kinds, values = node_kinds(PROGRAM, TENSORS, IDS), reference_layout_numpy.values(NODES, configs)[0]
    for number, kind in enumerate(KINDS):
        flops = np.where(kinds == number, NODES.flops, 0.0)
        padded = (2.0 ** values[:, :, 0, 8] * flops).sum(axis=1)
        expected = np.log2(padded / flops.sum()) if flops.any() else np.zeros(len(configs))
        column = schema().names.index(f"layout.{kind}.output_padding")
        np.testing.assert_allclose(rows[:, column], expected, rtol=1e-5, atol=1e-5)


def test_meta_graph_of_the_network() -> None:
    edges = LINKS.group != INSIDE
    got = {
        (int(producer), int(consumer), int(role)): origin.tolist()
        for (producer, consumer), (_, role), origin in zip(
            LINKS.nodes[edges], LINKS.roles[edges], LINKS.origin[edges], strict=True
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
    (inside,) = np.flatnonzero(LINKS.group == INSIDE)
    assert LINKS.nodes[inside].tolist() == [1, 1]
    assert LINKS.origin[inside].tolist()[:2] == [0, 3]  # (2, 1024) from (2, 16, 8, 8): 1024 runs along the last


def test_operands_are_found_by_shape_and_equal_nodes_keep_their_own() -> None:
    assert NODES.operands[0].tolist() == [0, 1]
    assert NODES.rank[:, 2].tolist() == [4, -1, 2, 2, 2]
    square, pairs = ("parameter", (16, 16)), ((0, 1), (0, 0), (1, 2), (0, 3), (2, 3), (2, 2))
    dots = [("dot", (16, 32 if pair[1] == 3 else 16), *pair) for pair in pairs]
    several = program(square, square, square, ("parameter", (16, 32)), *dots)
    nodes = configurable_nodes(several, Tensors.of(several), np.arange(4, 10))
    assert nodes.operands.tolist() == [list(pair) for pair in pairs]
    assert nodes.flops.tolist() == [2.0 * 16 * 16 * (32 if pair[1] == 3 else 16) for pair in pairs]


@settings(max_examples=15, deadline=None)
@given(any_configs, st.integers(1, 3))
def test_columns_do_not_depend_on_the_block_size(configs: np.ndarray, block: int) -> None:
    np.testing.assert_array_equal(vectors(configs), vectors(configs, block))


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
    for name in slate.PADDED:
        np.testing.assert_allclose(value[f"slate.over_least.{name}"], value[name] - value[name].min(), atol=1e-6)
    for name in RANKED:
        own = value[name]
        ranks = (rankdata(own) - 1) / (len(own) - 1) if len(own) > 1 else 0.5
        np.testing.assert_allclose(value[f"slate.rank.{name}"], ranks, atol=1e-6)
        if np.ptp(own) > 1e-3:
            np.testing.assert_allclose(value[f"slate.z.{name}"], zscore(own), rtol=1e-3, atol=1e-3)


def test_types_and_reach_are_shares() -> None:
    configs = np.full((2, len(IDS), 18), -1, np.int8)
    configs[1, 0, 0] = 2
    rows = vectors(configs)
    np.testing.assert_allclose(section(rows, "types").sum(axis=1), 1, rtol=1e-5)
    assert (section(rows, "reach")[0] == 0).all()
    assert (section(rows, "reach")[1] > 0).any()
    assert np.isfinite(rows).all()


def test_real_files_have_finite_vectors(shared_data: Path) -> None:
    for path in sorted(shared_data.glob("npz/layout/**/*.npz")):
        with np.load(path) as data:
            graph, ids = Program(data["node_opcode"], data["node_feat"], data["edge_index"]), data["node_config_ids"]
            configs = data["node_config_feat"][:64].astype(np.int8)
        assert np.isfinite(LayoutExtractor(graph, ids).vectors(configs)).all()
        # Every configured layout must name dimensions of the tensor it was assigned to.
        rank = configurable_nodes(graph, Tensors.of(graph), ids).rank
        named = configs.reshape(-1, len(ids), 3, 6).max(axis=(0, 3))
        assert (named < np.maximum(rank, 0)).all(), path


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
        frequency = np.zeros((count, slate.N_FREQUENCY), np.float32)
        expected = slate_columns(changed, frequency, np.arange(count, dtype=np.uint64), np.arange(count))
        np.testing.assert_allclose(actual, expected[row, columns], rtol=1e-5, atol=1e-6)
