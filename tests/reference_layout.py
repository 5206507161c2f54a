"""Naive twin of copies and layouts in effect: one configuration, one node, one tensor at a time."""

from __future__ import annotations

import math
from collections import Counter
from itertools import product

import networkx as nx
import numpy as np

from features.graph import Program
from features.layout.copies import BLOCK, N_DISAGREEMENTS
from features.layout.metagraph import Links
from features.layout.nodes import NODE_CLASSES, ConfigurableNodes


def random_configs(nodes: ConfigurableNodes, n_configs: int, seed: int, *, set_share: float = 0.7) -> np.ndarray:
    """Configurations with absent, partial and whole layouts, and some that name a dimension twice."""
    rng = np.random.default_rng(seed)
    configs = np.full((n_configs, len(nodes.ids), 18), -1, np.int8)
    for row, node, role in product(range(n_configs), range(len(nodes.ids)), range(3)):
        rank = int(nodes.rank[node, role])
        if rank > 0 and rng.random() < set_share:
            n_named = int(rng.integers(1, rank + 1))
            slots = configs[row, node, 6 * role : 6 * role + 6]
            slots[:n_named] = rng.permutation(rank)[:n_named]
            if set_share > 0.7 and rng.random() < 0.1:
                slots[1] = slots[0]
    return configs


def config(n_nodes: int, **layouts: list[int]) -> np.ndarray:
    """One configuration of named tensors, such as ``output0`` for the first node's output."""
    out = np.full((1, n_nodes, 18), -1)
    for name, layout in layouts.items():
        role = ("output", "input", "kernel").index(name[:-1])
        out[0, int(name[-1]), 6 * role : 6 * role + len(layout)] = layout
    return out


def named_dims(nodes: ConfigurableNodes, node: int, role: int, slots: list[int]) -> list[int]:
    """Dimensions that a row names for one tensor, each once; a single dimension that is left is implied."""
    rank = max(int(nodes.rank[node, role]), 0)
    own = nodes.own[node, role, :rank].tolist()
    named: list[int] = []
    for dim in slots[:rank]:
        if not 0 <= dim < rank:
            break
        if dim not in named:
            named.append(dim)
    left = [dim for dim in own if dim not in named]
    if sum(nodes.dims[node, role, dim] > 1 for dim in left) <= 1:
        named += left
    return named


def in_effect(nodes: ConfigurableNodes, node: int, role: int, slots: list[int]) -> list[int]:
    """Known part of one tensor's order, without dimensions of one element."""
    rank = max(int(nodes.rank[node, role]), 0)
    dims = nodes.dims[node, role].tolist()
    own = [dim for dim in nodes.own[node, role, :rank].tolist() if dims[dim] > 1]
    named = [dim for dim in named_dims(nodes, node, role, slots) if dims[dim] > 1]
    return own if named == own[: len(named)] else named


def copy_stride(dims: list[int], before: list[int], after: list[int]) -> int | None:
    """Stride that the minor-most dimension of one order gets in another; None if they agree."""
    known = min(len(before), len(after))
    if before[:known] == after[:known]:
        return None
    stride = 1
    for dim in after:
        if dim == before[0]:
            break
        stride *= dims[dim]
    return stride


def arrival(nodes: ConfigurableNodes, of: Links, link: int, slots: list[int]) -> list[int]:
    """Order in which the output of a link's producer reaches its consumer."""
    (producer, consumer), role = of.nodes[link].tolist(), int(of.roles[link, 1])
    dims = nodes.dims[consumer, role].tolist()
    own = nodes.own[consumer, role, : nodes.rank[consumer, role]].tolist()
    if in_effect(nodes, producer, 0, slots) == in_effect(nodes, producer, 0, [-1] * 6):
        arriving = own
    else:
        named = named_dims(nodes, producer, 0, slots)
        arriving = [int(of.origin[link, dim]) for dim in named if of.origin[link, dim] >= 0]
        if len(named) == nodes.rank[producer, 0]:
            arriving += [dim for dim in own if dim not in arriving]
    return [dim for dim in arriving if dims[dim] > 1]


def copy_features(nodes: ConfigurableNodes, of: Links, configs: np.ndarray) -> list[dict[str, float]]:
    """Copy columns of the copies block by name, one dictionary per configuration."""
    edges = [link for link in range(len(of.group)) if of.nodes[link, 0] != of.nodes[link, 1]]
    feeds: dict[tuple[int, int], list[int]] = {}
    for link in edges:
        feeds.setdefault((int(of.nodes[link, 1]), int(of.roles[link, 1])), []).append(link)
    total = {group: nodes.nbytes[nodes.classes == number].sum() for number, group in enumerate(NODE_CLASSES)}
    total["all"] = nodes.nbytes.sum()
    rows = []
    for each in configs.astype(int).tolist():
        sums: Counter[str] = Counter()
        for node, row in enumerate(each):
            for role in range(3):
                dims, nbytes = nodes.dims[node, role].tolist(), float(nodes.nbytes[node, role])
                own = in_effect(nodes, node, role, [-1] * 6)
                effective = in_effect(nodes, node, role, row[6 * role : 6 * role + 6])
                found = []
                if role == 0:
                    found.append(("out", copy_stride(dims, own, effective), 1.0))
                else:
                    found.append(("back", copy_stride(dims, effective, own), 1.0))
                    links = feeds.get((node, role), [])
                    if not links:
                        found.append(("entry", copy_stride(dims, own, effective), 1.0))
                    for link in links:
                        arriving = arrival(nodes, of, link, each[int(of.nodes[link, 0])][:6])
                        found.append(("edge", copy_stride(dims, arriving, effective), 1 / len(links)))
                for kind, stride, part in found:
                    if stride is None:
                        continue
                    for group in (NODE_CLASSES[nodes.classes[node]], "all"):
                        sums[f"{group}.{kind}.bytes"] += nbytes * part
                        sums[f"{group}.{kind}.copies"] += part
                        for least, name in ((1, "strided"), (16, "strided16"), (100, "strided100")):
                            sums[f"{group}.{kind}.{name}"] += nbytes * part * (stride > least)
                        weight = 0.2 + 0.8 * min(max((math.log2(stride) - 4) / 3.5, 0.0), 1.0)
                        sums[f"{group}.cost"] += nbytes * part * weight
                        sums[f"{group}.cost_share"] += nbytes * part * weight / total[group]
        rows.append(
            {
                column.name: math.log2(1 + sums[column.name]) if column.unit == "log2" else sums[column.name]
                for column in BLOCK.columns[N_DISAGREEMENTS:]
            }
        )
    return rows


def effective_layouts(nodes: ConfigurableNodes, configs: np.ndarray) -> list[list[tuple[tuple[int, ...], ...]]]:
    """Orders in effect of the three tensors of every node of every configuration."""
    return [
        [
            tuple(tuple(in_effect(nodes, node, role, row[6 * role : 6 * role + 6])) for role in range(3))
            for node, row in enumerate(each)
        ]
        for each in configs.astype(int).tolist()
    ]


def meta_edges(program: Program, operands: np.ndarray, ids: np.ndarray, stops: set[int]) -> set[tuple[int, int, int]]:
    """(producer, consumer, role) of the meta-graph by searching paths with networkx.

    ``stops`` are nodes that end a path; scalars do, too.
    """
    graph = nx.DiGraph()
    graph.add_nodes_from(range(len(program)))
    number = {int(node): index for index, node in enumerate(ids)}
    for user, operand in program.edges.tolist():
        if user not in stops and user not in number:
            graph.add_edge(user, operand)
    edges = set()
    for consumer in range(len(ids)):
        for role in (1, 2):
            start = int(operands[consumer, role - 1])
            if start >= 0:
                near = {start} | nx.descendants(graph, start)
                edges |= {(number[node], consumer, role) for node in near if node in number}
    return edges
