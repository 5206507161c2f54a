"""The layouts that come with gbr: whole, of the programs they say, and as the table beside them tells."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from features.hlo import OPCODES
from gbr.collect import layouts
from gbr.collect.__main__ import main
from gbr.collect.choices import strata
from gbr.collect.programs import FAMILIES, build
from gbr.collect.relayout import Relayout
from gbr.data.collection import SPLITS
from gbr.data.graph import read_graph

pytest.importorskip("jax", minversion="0.7")

DATA = Path(__file__).parents[1] / "data"
COMMITTED = sorted((DATA / layouts.COLLECTION).glob("*/*.npz"))
PROGRAMS = [(family, variant) for family in FAMILIES.values() for variant in family.variants]


def test_splits_hold_both_kinds_of_programs():
    assert len(PROGRAMS) >= 28
    modules = {split: {family.module for family in FAMILIES.values() if family.split == split} for split in SPLITS}
    assert all({"convnets", "dense"} <= found for found in modules.values())
    shares = Counter(family.split for family, _ in PROGRAMS)
    assert 0.5 < shares["train"] / len(PROGRAMS) < 0.7


def test_committed_collection_is_whole():
    assert {path.relative_to(DATA) for path in COMMITTED} == {
        task.path.relative_to(DATA) for task in layouts.tasks(None, SPLITS, DATA)
    }
    assert sum(path.stat().st_size for path in COMMITTED) <= 3 << 20
    families = {
        split: {path.stem.rsplit("_", 1)[0] for path in COMMITTED if path.parent.name == split} for split in SPLITS
    }
    assert not families["train"] & families["valid"]
    assert not families["train"] & families["test"]
    assert not families["valid"] & families["test"]


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_committed_graphs_are_what_they_should_be(path):
    graph = read_graph(path)
    assert graph.kind == "layout"
    assert graph.n_configs >= 96
    assert graph.runtime is not None
    assert graph.repeat is not None
    assert not np.array_equal(graph.runtime, graph.repeat)
    assert 10 <= len(graph.node_config_ids) <= 60
    assert {OPCODES[code] for code in graph.node_opcode[graph.node_config_ids]} <= {"convolution", "dot", "reshape"}
    configs = np.concatenate([block for _, block in graph.config_blocks()])
    assert (configs[0] == -1).all()
    assert len(np.unique(configs, axis=0)) == graph.n_configs
    nodes_set = (configs >= 0).any(axis=2).sum(axis=1)
    assert set(nodes_set[1:].tolist()) == set(strata(len(graph.node_config_ids)))


@pytest.mark.parametrize(
    "stem", ["vgg_nhwc-grad", "transformer_decoder", "discriminator_nhwc", "pixelcnn_nhwc", "gmlp_deep"]
)
def test_committed_graph_is_that_of_its_program(stem):
    family, variant = stem.rsplit("_", 1)
    program = Relayout(*build(FAMILIES[family], variant))
    (path,) = (DATA / layouts.COLLECTION).glob(f"*/{stem}.npz")
    graph = read_graph(path)
    np.testing.assert_array_equal(graph.node_config_ids, program.graph["node_config_ids"])
    np.testing.assert_array_equal(graph.node_feat, program.graph["node_feat"])
    np.testing.assert_array_equal(graph.edge_index, program.graph["edge_index"])


def test_readme_table_is_that_of_the_data(capsys):
    assert main(["layout", "--table", "--out", str(DATA)]) == 0
    printed = capsys.readouterr().out
    assert printed in (DATA / "README.md").read_text(encoding="utf-8")
