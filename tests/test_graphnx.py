"""A graph as networkx has it, against the arrays of the file."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest

from features.hlo import FEAT_ID, OPCODES
from gbr.data.graph import Graph, graph_from_arrays, read_graph
from gbr.errors import MissingLibraryError
from tests.made import layout_arrays, tile_arrays

ROOT = Path(__file__).parents[1]
FILES = ("tile/cpu/test/add_transposed_1536x331.npz", "layout/cpu/random/valid/senet_nhwc.npz")


def embedded(name: str) -> Graph:
    return read_graph(ROOT / "data" / "npz" / name)


@pytest.mark.parametrize("name", FILES)
def test_edges_lead_from_producer_to_consumer(name: str) -> None:
    graph = embedded(name)
    made = graph.to_networkx()
    assert isinstance(made, nx.DiGraph)
    assert set(made.edges) == {(producer, consumer) for consumer, producer in graph.edge_index.tolist()}
    assert list(made) == list(range(len(graph.node_opcode)))
    assert nx.is_directed_acyclic_graph(made)
    # The numbers of a file are a topological order: networkx's own, taken by number, is theirs.
    assert list(nx.lexicographical_topological_sort(made)) == list(made)
    assert made.graph == {"name": graph.name, "kind": graph.kind}


@pytest.mark.parametrize("name", FILES)
def test_nodes_say_what_the_file_says(name: str) -> None:
    graph = embedded(name)
    for node, told in graph.to_networkx().nodes(data=True):
        row = graph.node_feat[node]
        dims = row[FEAT_ID["shape_dimensions_0"] :][:6].astype(int).tolist()
        rank = [*dims, 0].index(0)
        assert told["opcode"] == OPCODES[graph.node_opcode[node]]
        assert told["name"] == f"{told['opcode']}.{node}"
        assert told["shape"] == tuple(dims[:rank])
        assert row[FEAT_ID[f"shape_element_type_is_{told['element_type']}"]] == 1
        assert sorted(told["layout"]) == list(range(rank))
        assert told["configurable"] == (graph.node_config_ids is not None and node in graph.node_config_ids)
        assert told["is_root"] == (row[FEAT_ID["is_root"]] > 0)
        if told["element_type"] == "f32":
            assert told["nbytes"] == 4 * np.prod(dims[:rank], dtype=np.int64)
    assert {type(value) for _, told in graph.to_networkx().nodes(data=True) for value in told.values()} <= {
        str,
        int,
        bool,
        tuple,
    }


def test_layouts_are_those_of_the_node_features() -> None:
    arrays = layout_arrays()
    first = FEAT_ID["layout_minor_to_major_0"]
    arrays["node_feat"][0, first : first + 4] = (1, 0, 2, 3)
    made = graph_from_arrays("x", arrays).to_networkx()
    assert made.nodes[0]["layout"] == (1, 0, 2, 3)
    (configurable,) = [node for node, is_set in made.nodes(data="configurable") if is_set]
    assert made.nodes[configurable]["name"] == f"convolution.{configurable}"
    assert [made.nodes[node]["opcode"] for node in made.predecessors(configurable)] == ["parameter", "parameter"]


def test_a_missing_networkx_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any, **named: Any) -> Any:
        if name == "networkx":
            raise ModuleNotFoundError(name)
        return real(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingLibraryError, match=r"networkx is not installed; pip install 'gbr\[graph\]'"):
        graph_from_arrays("x", tile_arrays()).to_networkx()
