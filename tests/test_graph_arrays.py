from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.graph import Program
from features.hlo import N_FEAT
from tests import reference_graph as reference

Edges = list[tuple[int, int]]

few = settings(max_examples=60, deadline=None)


def program(edges: Edges, n_nodes: int) -> Program:
    return Program(
        np.ones(n_nodes, np.uint8),
        np.zeros((n_nodes, N_FEAT), np.float32),
        np.array(edges, np.int64).reshape(-1, 2),
    )


@st.composite
def dags(draw: st.DrawFn) -> tuple[Edges, int]:
    """Operands first, as in a file; the same operand may be consumed twice."""
    n_nodes = draw(st.integers(1, 12))
    pairs = [(u, v) for u in range(n_nodes) for v in range(u)]
    edges = draw(st.lists(st.sampled_from(pairs), max_size=24)) if pairs else []
    return edges, n_nodes


def networkx_graph(edges: Edges, n_nodes: int) -> nx.DiGraph:
    graph = nx.DiGraph()
    graph.add_nodes_from(range(n_nodes))
    graph.add_edges_from((v, u) for u, v in edges)  # the way data flows
    return graph


def generations(graph: nx.DiGraph) -> list[int]:
    level = {node: depth for depth, nodes in enumerate(nx.topological_generations(graph)) for node in nodes}
    return [level[node] for node in range(len(level))]


@given(dags())
@few
def test_adjacency_is_the_edge_list_regrouped(dag: tuple[Edges, int]) -> None:
    edges, n_nodes = dag
    made = program(edges, n_nodes)
    assert [made.operands.of(node).tolist() for node in range(n_nodes)] == reference.operands(edges, n_nodes)
    assert [made.users.of(node).tolist() for node in range(n_nodes)] == reference.users(edges, n_nodes)
    assert made.operands.counts.tolist() == [len(of) for of in reference.operands(edges, n_nodes)]
    assert made.users.counts.sum() == len(edges)


@given(dags())
@few
def test_depth_and_height_are_longest_paths(dag: tuple[Edges, int]) -> None:
    edges, n_nodes = dag
    made, graph = program(edges, n_nodes), networkx_graph(edges, n_nodes)
    down = reference.operands(edges, n_nodes)
    assert made.depth.tolist() == [reference.longest_path(down, node) for node in range(n_nodes)]
    assert made.depth.tolist() == generations(graph)


@given(dags(), st.data())
@few
def test_hops_are_undirected_distances_up_to_k(dag: tuple[Edges, int], data: st.DataObject) -> None:
    edges, n_nodes = dag
    seeds = data.draw(st.lists(st.integers(0, n_nodes - 1), max_size=4))
    k = data.draw(st.integers(0, 5))
    found = program(edges, n_nodes).hops(seeds, k).tolist()
    assert found == reference.hops(edges, n_nodes, seeds, k)
    if seeds:
        undirected = networkx_graph(edges, n_nodes).to_undirected()
        nearest = nx.multi_source_dijkstra_path_length(undirected, set(seeds), cutoff=k, weight=None)
        assert found == [int(nearest.get(node, -1)) for node in range(n_nodes)]


def test_a_chain_by_hand() -> None:
    made = program([(1, 0), (2, 1), (3, 2), (3, 0)], 5)  # 4 stands alone
    assert made.depth.tolist() == [0, 1, 2, 3, 0]
    assert made.hops([0], 1).tolist() == [0, 1, -1, 1, -1]
    assert made.hops([0], 2).tolist() == [0, 1, 2, 1, -1]
    assert made.hops([2, 4], 0).tolist() == [-1, -1, 0, -1, 0]


@pytest.mark.parametrize("n_nodes", [0, 1, 3])
def test_a_program_without_edges(n_nodes: int) -> None:
    made = program([], n_nodes)
    assert len(made) == n_nodes
    assert made.operands.indptr.tolist() == [0] * (n_nodes + 1)
    assert made.depth.tolist() == [0] * n_nodes
    assert made.hops([], 3).tolist() == [-1] * n_nodes


def test_read_only_edges_and_other_memory_orders_are_served() -> None:
    edges = np.array([(1, 0), (2, 0), (3, 1), (3, 2)], np.int64)
    expected = program([(1, 0), (2, 0), (3, 1), (3, 2)], 4)
    for given_edges in (np.asfortranarray(edges), np.concatenate([edges, edges], axis=1)[:, :2]):
        given_edges.flags.writeable = False
        made = Program(expected.opcode, expected.feat, given_edges)
        assert made.depth.tolist() == expected.depth.tolist() == [0, 1, 1, 2]
        assert made.users.of(0).tolist() == [1, 2]


def test_results_are_int64() -> None:
    made = program([(1, 0)], 2)
    for array in (made.depth, made.hops([0], 1), made.operands.items, made.users.indptr):
        assert array.dtype == np.int64
