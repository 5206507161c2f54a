"""Traced copies, paddings and disagreements add up to the columns of the features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.graph import Program
from features.layout import slate
from features.layout.copies import STRIDES
from features.layout.extractor import compared, schema
from features.layout.nodes import NODE_CLASSES
from features.layout.slate import REPLACED, replaced
from features.layout.trace import LayoutTrace, trace_layouts
from gbr.data.build import extract
from gbr.data.graph import Graph, read_graph

ROOT = Path(__file__).parents[1]
ROWS = np.array([0, 5, 17, 40])


def traced(graph: Graph) -> tuple[LayoutTrace, dict[str, np.ndarray]]:
    program = Program(graph.node_opcode, graph.node_feat, graph.edge_index)
    _, X, _ = extract(graph)
    assert graph.node_config_ids is not None
    found = trace_layouts(program, graph.node_config_ids, graph.configs(ROWS))
    return found, dict(zip(schema().names, X[ROWS].T, strict=True))


def check(graph: Graph) -> LayoutTrace:
    found, columns = traced(graph)
    nodes = found.nodes
    for number, name in enumerate(NODE_CLASSES):
        own = nodes.classes == number
        nbytes = np.where(nodes.rank[own] < 0, 0.0, nodes.nbytes[own])
        copied = {kind: (level[:, own], nbytes[None]) for kind, level in found.copied.items()}
        into = own[found.edges.consumer]
        copied["edge"] = found.edges.level[into].T[..., None], found.edges.nbytes[into][None, :, None]
        for kind, (level, size) in copied.items():
            for least, stride in enumerate(("bytes", *(f"strided{each}" for each in STRIDES)), start=1):
                column = f"copies.{name}.{kind}.{'strided' if stride == 'strided1' else stride}"
                expected = np.where(level >= least, size, 0.0).sum(axis=(1, 2))
                np.testing.assert_allclose(columns[column], np.log2(1 + expected), rtol=1e-5, err_msg=column)
        padded = ((found.padding[:, own] - 1) * nbytes).sum(axis=(1, 2))
        np.testing.assert_allclose(columns[f"layout.{name}.sum.padded"], np.log2(1 + padded), rtol=1e-5, atol=1e-5)
    across = (found.disagree * found.inside.nbytes[:, None]).sum(axis=0)
    np.testing.assert_allclose(columns["copies.inside.any.bytes"], np.log2(1 + across), rtol=1e-5)
    minor = np.log2(found.minor[:, nodes.classes == NODE_CLASSES.index("dot"), 0])
    if minor.size:
        np.testing.assert_allclose(columns["layout.dot.output.minor.count"], minor.mean(axis=1), rtol=1e-4)
    return found


@pytest.mark.parametrize("name", ["valid/senet_nhwc", "train/perceiver_io", "test/gmlp_shallow-grad"])
def test_terms_add_up_to_the_columns(name: str) -> None:
    found = check(read_graph(ROOT / "data" / "npz" / "layout" / "cpu" / "random" / f"{name}.npz"))
    for level in (*found.copied.values(), found.edges.level):
        assert (level > 0).any()
    assert found.disagree.any() == (name == "test/gmlp_shallow-grad")


def test_terms_of_a_real_graph_add_up_to_the_columns(shared_data: Path) -> None:
    check(read_graph(shared_data / "npz" / "layout" / "xla" / "default" / "train" / "unet3d.npz"))


@settings(max_examples=25, deadline=None)
@given(count=st.integers(1, 9), seed=st.integers(0, 99), data=st.data())
def test_a_configuration_in_the_place_of_another_is_compared_as_if_it_had_been_there(
    count: int, seed: int, data: st.DataObject
) -> None:
    rng = np.random.default_rng(seed)
    own = rng.integers(0, 4, (count, len(compared()))).astype(np.float32)
    row = data.draw(st.integers(0, count - 1))
    others = rng.integers(0, 4, (3, len(compared()))).astype(np.float32)
    found = replaced(own, row, others)
    places = [slate.BLOCK.names.index(name) for name in REPLACED]
    for value, told in zip(others, found, strict=True):
        changed = own.copy()
        changed[row] = value
        expected = slate.slate_columns(
            changed,
            np.zeros((count, slate.N_FREQUENCY), np.float32),
            np.arange(count, dtype=np.uint64),
            np.arange(count),
        )
        np.testing.assert_allclose(told, expected[row, places], rtol=1e-5, atol=1e-6)
